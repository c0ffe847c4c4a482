"""The analysis of H -> aa -> 4b as a whole, on a sample simulated here, and its processor on CMS files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from evenet_hep.processors import BTag, HiggsTo4b
from evenet_hep.processors.higgs_to_4b import CUTS
from PIL import Image

from evenet_hep import EveNet, EveNetConfig, EventSchema, Predictor
from evenet_hep.analyses.higgs_to_4b import HiggsTo4bConfig, analyse_higgs_to_4b
from evenet_hep.analyses.higgs_to_4b.pool import CLASSES, EventPool
from evenet_hep.analyses.samples import EventSample, choose, read_samples, run_processor
from evenet_hep.baselines.spanet import SpanetConfig
from evenet_hep.baselines.xgboost import XgboostConfig
from evenet_hep.errors import ConfigError, FileError
from evenet_hep.simulate.detector import load_card
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import simulate
from evenet_hep.simulate.shards import SimulationSettings
from evenet_hep.topology import Topology
from evenet_hep.training.presets import with_heads

pytest.importorskip("xgboost")
pytest.importorskip("pyhf")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few events of the signal, and of all-hadronic top pairs, which pass more often than multijets."""
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    out = tmp_path_factory.mktemp("haa4b") / "events"
    requests = requests_from_words(["haa4b:m_a=60,skim=4j2b,events=120", "TTHadronics:events=420"], None)
    simulate(requests, out, SimulationSettings(seed=5, card=load_card("cms")))
    return out


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network with both heads."""
    folder = tmp_path_factory.mktemp("network") / "checkpoint"
    topology = Topology.shipped("higgs_to_4b")
    config = with_heads(EveNetConfig.tiny(), ("classification", "assignment"), topology=topology)
    EveNet(config, EventSchema.standard(classes=CLASSES)).save_pretrained(folder)
    return folder


def quick(events: Path, **changes: Any) -> HiggsTo4bConfig:
    config = HiggsTo4bConfig(
        events=str(events),
        sizes=(16, 0),
        seeds=(1, 2),
        steps=2,
        trees=XgboostConfig(max_trees=10, patience=5),
        spanet=SpanetConfig(
            n_daughters=2, interchangeable=(0, 1), batch_size=16, width=8, heads=2, n_layers=1
        ),
        bins=3,
        energy_shifts=3,
        toys=2,
        injected=(2.0,),
        cores=1,
    )
    return dataclasses.replace(config, **changes)


def test_from_files_to_the_report_and_again(simulated: Path, network: Path, tmp_path: Path) -> None:
    config = quick(simulated, checkpoint=str(network), tasks=("assignment", "segmentation"), seeds=(1,))
    report = analyse_higgs_to_4b(config, tmp_path / "out")
    names = {path.name for path in report.figures}
    assert names == {
        "learning.png", "limits.png", "closure.png", "energy_scale_sic.png", "energy_scale_pairing.png", "masses.png"
    }  # fmt: skip
    for path in report.figures:
        with Image.open(path) as image:
            assert image.size[0] > 500
    for name in ("cutflow", "trainings", "learning", "limits", "closure", "energy_scale"):
        assert (tmp_path / "out" / f"{name}.csv").is_file()
        assert report.tables[name] == json.loads((tmp_path / "out" / f"{name}.json").read_text())
    methods = {row["method"] for row in report.tables["learning"]}
    assert {"pretrained, assignment", "scratch, segmentation", "XGBoost", "SPANet", "equal masses"} <= methods
    assert report.numbers["main_method"] == "pretrained, assignment"
    assert {row["mass"] for row in report.tables["limits"]} == {60.0}
    assert len(report.tables["closure"]) == 2
    for row in report.tables["limits"]:
        assert 0 < row["minus2"] < row["minus1"] < row["median"] < row["plus1"] < row["plus2"]
        full = row["median_with_simulation"]
        assert full is None or full > row["median"]
    assert "Expected 95 % limit" in report.summary

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "steps").rglob("*.json")}
    again = analyse_higgs_to_4b(config, tmp_path / "out")
    assert again.numbers == report.numbers
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "steps").rglob("*.json")}
    with pytest.raises(ConfigError, match="steps was 2 and is 3 now"):
        analyse_higgs_to_4b(dataclasses.replace(config, steps=3), tmp_path / "out")


def test_kept_events_are_those_of_the_selection(simulated: Path, tmp_path: Path) -> None:
    known = read_samples(simulated)
    samples = choose(known, sorted(known, key=lambda name: not name.startswith("haa")))  # the signal first
    scales = {name: each.event_weight(100.0) for name, each in samples.items()}
    found = run_processor(samples, HiggsTo4b(scales=scales, out=tmp_path))
    fractions = HiggsTo4bConfig().fractions
    kept = {name: sorted(found[name]["kept"]) for name in samples}
    pool = EventPool.read(tmp_path, kept, n_signals=1, fractions=fractions, btag=BTag())
    parts = [pool.events(part) for part in fractions]
    for number, name in enumerate(samples):
        flow = list(found[name]["cutflow"].values())
        assert flow == sorted(flow, reverse=True)
        assert list(found[name]["cutflow"]) == list(CUTS)
        assert sum(int((each.sample == number).sum()) for each in parts) == flow[-1] > 10
        # Every part stands for all events, as the fraction it is.
        assert found[name]["cutflow_weighted"]["all"] == pytest.approx(scales[name] * flow[0])
    signal = parts[0].select(parts[0].is_signal)
    assert signal.reconstructable.any()
    assert not (parts[0].targets[~parts[0].is_signal] >= 0).any()
    # The quarks' jets are where the generator put the quarks: their pairs peak at 60 GeV.
    momenta = signal.cloud.objects.astype(float)
    energy, pt, eta, phi = (momenta[..., i] for i in range(4))
    p4 = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    rows, scalars = np.nonzero(signal.reconstructable)
    total = p4[rows[:, None], signal.targets[rows, scalars]].sum(axis=1)
    mass = np.sqrt(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1))
    assert 45 < np.median(mass) < 75


def test_histograms_hold_one_part_scaled_to_the_whole(simulated: Path, network: Path) -> None:
    samples = {name: each for name, each in read_samples(simulated).items() if name.startswith("TT")}
    name = next(iter(samples))
    predict = Predictor(network, heads=("classification", "assignment"), device="cpu")
    whole = run_processor(samples, HiggsTo4b(predict))[name]
    n = whole["cutflow"]["two hard b jets"]
    assert whole["score"].sum().value == pytest.approx(n)
    assert whole["mass_a"].sum(flow=True).value == pytest.approx(2 * n)
    part = run_processor(
        samples, HiggsTo4b(predict, part="test", fractions={"train": 0.5, "test": 0.5}, scales={name: 3.0})
    )[name]
    assert part["score"].sum().value == pytest.approx(2 * 3.0 * part["score"].sum().variance / (2 * 3.0) ** 2)
    assert 0.5 * 3 * n < part["score"].sum().value < 1.5 * 3 * n


def test_processor_runs_on_collision_and_simulated_nanoaod(samples: dict[str, Path], network: Path) -> None:
    predict = Predictor(network, heads=("classification", "assignment"), device="cpu")
    files = {"nano_tt_v12": BTag("", 0.0499, 0.245), "nano_dimuon": BTag()}
    for stem, btag in files.items():
        sample = EventSample(stem, (samples[stem],), float("nan"), float("nan"), {})
        found = run_processor({stem: sample}, HiggsTo4b(predict, btag=btag))[stem]
        assert found["cutflow"]["all"] == (200 if stem == "nano_tt_v12" else 40)
        assert found["score"].sum().value == pytest.approx(found["cutflow_weighted"]["two hard b jets"])


def test_missing_samples_are_named(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no sample 'QCD_4b'"):
        analyse_higgs_to_4b(quick(simulated, backgrounds=("QCD_4b",)), tmp_path / "out")
    with pytest.raises(ConfigError, match="events must name a folder"):
        analyse_higgs_to_4b(HiggsTo4bConfig(), tmp_path / "out")


def test_a_file_of_spanet_that_cannot_be_read_is_named_before_anything_is_done(
    simulated: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(quick(simulated), spanet_file=str(tmp_path / "none.h5"))
    with pytest.raises(FileError, match=r"none\.h5|needs h5py"):
        analyse_higgs_to_4b(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_selection_loses_no_event_that_a_shift_brings_back(simulated: Path, tmp_path: Path) -> None:
    samples = {name: each for name, each in read_samples(simulated).items() if name.startswith("haa")}
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    counts = []
    for out, margin in ((narrow, 0.05), (wide, 0.10)):
        kept = run_processor(samples, HiggsTo4b(out=out, scale_for=margin))
        names = {name: sorted(kept[name]["kept"]) for name in samples}
        pool = EventPool.read(
            out, names, n_signals=1, fractions={"train": 0.0, "val": 0.0, "test": 1.0}, btag=BTag()
        )
        counts.append([len(pool.events("test", alpha=alpha)) for alpha in (-0.05, 0.0, 0.05)])
    assert counts[0] == counts[1]
    assert counts[0] == sorted(counts[0])
    assert len(ak.from_parquet(wide)) > len(ak.from_parquet(narrow))
