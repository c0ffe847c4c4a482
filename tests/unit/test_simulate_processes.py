"""Processes, parameters and plans: what is asked for, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.share import topology_file
from evenet_hep.simulate.catalogue import PROCESSES
from evenet_hep.simulate.plan import requests_from_plan, requests_from_words
from evenet_hep.simulate.processes import parse_request
from evenet_hep.simulate.run import plan_shards
from evenet_hep.simulate.skims import DESCRIPTIONS, SKIMS

MODEL_CLASSES = {"QCD", "TT", "ttW", "ttZ", "WJets", "ZJets", "WW", "ZZ", "WZ", "HWW"}


def test_every_process_of_the_pretraining_is_there() -> None:
    topology = yaml.safe_load(topology_file("pretraining").read_text())
    wanted = {name for name in topology["processes"] if not name.startswith(("ttW", "ttZ"))}
    assert wanted <= set(PROCESSES)
    assert {process.process_class for process in PROCESSES.values()} >= MODEL_CLASSES
    for name in wanted:
        assert name.startswith(PROCESSES[name].process_class)


def test_only_what_pythia_lacks_needs_a_file() -> None:
    assert {name for name, process in PROCESSES.items() if process.needs_lhe} == {"ttW", "ttZ", "lhe"}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("TT1L", "TT1L"),
        ("tt1l", "TT1L"),
        ("haa4b:m_a=12.5", "haa4b_m_a12p5"),
        ("haa4b:skim=4j2b,m_a=30", "haa4b_m_a30_4j2b"),
        ("xyh: m_x = 500 , m_y=90", "xyh_m_x500_m_y90"),
        ("QCD_4b:skim=none", "QCD_4b_unskimmed"),
        ("QCD:pt_min=50", "QCD_pt_min50"),
    ],
)
def test_labels(text: str, label: str) -> None:
    assert parse_request(text, PROCESSES).label == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TT1l2", "there is no process 'TT1l2'; did you mean TT1L"),
        ("%%%%", "there is no process '%%%%'; see --list"),
        ("haa4b", "haa4b needs a value for m_a"),
        ("haa4b:m_a=heavy", "m_a must be a number; found 'heavy'"),
        ("haa4b:m_a=70", "m_a must be from 10.5 to 62; found 70"),
        ("haa4b:m_a=nan", "m_a must be from"),
        ("haa4b:m_a=30,m_a=40", "m_a is given twice, as 30 and 40"),
        ("haa4b:m_b=30", "haa4b has no parameter 'm_b'; it has m_a, skim, events"),
        ("haa4b:30", "parameters are written key=value; found '30'"),
        ("xyh:m_x=300,m_y=200", "m_x must be above m_y"),
        ("DY:m_min=50,m_max=40", "m_max must be above m_min; found 40 and 50"),
        ("TT:skim=5j", "skim must be one of none, 4j2b"),
        ("TT:events=-3", "events must be a positive whole number"),
    ],
)
def test_requests_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_request(text, PROCESSES)


def test_masses_arrive_in_the_settings() -> None:
    settings = parse_request("xyh:m_x=512,m_y=91", PROCESSES).settings
    assert "35:m0 = 512.0" in settings
    assert "36:m0 = 91.0" in settings
    assert "PhaseSpace:pTHatMin = 75.0" in parse_request("QCD:pt_min=75", PROCESSES).settings


def test_samples_travel_to_other_processes() -> None:
    masses = {"m_a": 30, "m_x": 500, "m_y": 90}
    for name, process in PROCESSES.items():
        needed = [key for key, entry in process.parameters.items() if entry.default is None]
        sample = parse_request(f"{name}:{','.join(f'{key}={masses[key]}' for key in needed)}", PROCESSES)
        assert pickle.loads(pickle.dumps(sample)).settings == sample.settings


def test_every_skim_is_described() -> None:
    assert set(SKIMS) == set(DESCRIPTIONS)


def test_numbers_of_events() -> None:
    requests = requests_from_words(["TT", "haa4b:m_a=30,events=5"], 20)
    assert [request.n_events for request in requests] == [20, 5]
    with pytest.raises(ConfigError, match="how many events of TT"):
        requests_from_words(["TT"], None)


@pytest.mark.parametrize("name", ["all", "pretraining"])
def test_plans_of_the_package(name: str) -> None:
    requests = requests_from_plan(name, None)
    labels = [request.sample.label for request in requests]
    assert len(set(labels)) == len(labels)
    total = sum(request.n_events for request in requests)
    assert total >= 240_000
    scaled = requests_from_plan(name, total // 10)
    assert sum(request.n_events for request in scaled) == pytest.approx(total / 10, rel=0.01)
    covered = {request.sample.process.process_class for request in requests}
    assert covered >= MODEL_CLASSES - {"ttW", "ttZ"}
    if name == "all":
        assert covered == {process.process_class for process in PROCESSES.values()} - {"ttW", "ttZ", "lhe"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("samples: {TT: 0}", ConfigError, "TT needs a positive whole number of events; found 0"),
        ("samples: [TT]", ConfigError, "must hold one mapping"),
        ("sample: {TT: 1}", ConfigError, "must hold one mapping"),
        ("samples: {TTT: 1}", ConfigError, "there is no process 'TTT'"),
        ("samples: {'TT:events=3': 1}", ConfigError, "it is the value behind the colon"),
        ("samples: {TT: 1", FileError, "is not a YAML file"),
    ],
)
def test_plans_that_make_no_sense(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        requests_from_plan(path, None)


def test_missing_plans(tmp_path: Path) -> None:
    with pytest.raises(
        FileError,
        match="there is no plan 'everything'; plans are all, bbww_resonance, higgs_to_4b, pretraining, ttbar_spin",
    ):
        requests_from_plan("everything", None)
    with pytest.raises(FileError, match=r"there is no plan .*mine\.yaml"):
        requests_from_plan(tmp_path / "mine.yaml", None)


def test_shards_cover_all_events_once() -> None:
    shards = plan_shards(requests_from_words(["TT:events=7", "WW:events=3"], None), 3)
    assert [(shard.name, shard.n_events) for shard in shards] == [
        ("TT_0000", 3), ("TT_0001", 3), ("TT_0002", 1), ("WW_0000", 3),
    ]  # fmt: skip
