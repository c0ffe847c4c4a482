"""Simulated files: what is in them, whether it is physics, and whether a run can be stopped and repeated.

Every sample is made once for all tests of this file. Two thousand events are enough for what they should show.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep import EventCloud, EventSchema
from evenet_hep.errors import ConfigError, FileError
from evenet_hep.events.selection import select_bbww, select_dimuon, select_haa4b, select_tt2l
from evenet_hep.share import sample_files
from evenet_hep.simulate.checks import (
    SimulatedEvents,
    dijet_masses,
    dimuon_masses,
    met_residuals,
    read_files,
    spin_check,
    spread,
    tag_rates,
    top_masses,
)
from evenet_hep.simulate.detector import CARDS
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import RunSummary, simulate
from evenet_hep.simulate.shards import SimulationSettings

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

SAMPLES = {
    "TT1L": "TT1L:events=300",
    "TT2L": "TT2L:events=200",
    "WZ_2L": "WZ_2L:events=150",
    "haa4b_m_a60": "haa4b:m_a=60,events=200",
    "xyh_m_x500_m_y90": "xyh:m_x=500,m_y=90,events=200",
    "Upsilon": "Upsilon:events=60",
}
PARTON_LEVEL = (
    "PartonLevel:ISR = off",
    "PartonLevel:FSR = off",
    "PartonLevel:MPI = off",
    "HadronLevel:all = off",
)


def run(words: list[str], out: Path, **options: Any) -> RunSummary:
    settings = {key: options.pop(key) for key in list(options) if key not in ("cores", "progress")}
    return simulate(requests_from_words(words, None), out, SimulationSettings(**settings), **options)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a sample; made when it is first asked for."""
    out = tmp_path_factory.mktemp("simulated")

    def make(label: str) -> Path:
        run([SAMPLES[label]], out, seed=7)
        return out / label / f"{label}_0000.root"

    return make


def events_of(path: Path) -> SimulatedEvents:
    return read_files([path])


def nano_events(path: Path) -> ak.Array:
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=NanoAODSchema, mode="eager"
    ).events()


def test_names_and_types_are_those_of_real_files(sample: Callable[[str], Path]) -> None:
    real = uproot.open(sample_files()["Drell-Yan MC"])["Events"]
    file = uproot.open(sample("TT2L"))
    tree = file["Events"]
    ours = {name for name in tree.keys() if name not in real}  # noqa: SIM118  uproot trees are not mappings
    assert ours == {"spinWeight", "HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx"}  # the trigger is of 2016
    for name in set(tree.keys()) - ours:
        expected = real[name].typename
        if name.startswith("n"):
            expected = "int32_t"  # as in all files that uproot writes
        assert tree[name].typename == expected, name
    runs = file["Runs"].arrays()
    assert runs["genEventCount"].to_list() == [200]
    assert runs["genEventSumw"].to_list() == [200.0]


def test_coffea_reads_the_files_and_follows_references(sample: Callable[[str], Path]) -> None:
    events = nano_events(sample("TT1L"))
    assert len(set(zip(events.run, events.luminosityBlock, events.event, strict=True))) == len(events) == 300
    tops = events.GenPart[(abs(events.GenPart.pdgId) == 6) & events.GenPart.hasFlags("isLastCopy")]
    assert ak.all(ak.num(tops) == 2)
    assert ak.all(ak.any(abs(tops.children.pdgId) == 24, axis=2))
    prompt = events.Muon[events.Muon.genPartFlav == 1]
    assert ak.all(abs(prompt.matched_gen.pdgId) == 13)
    assert ak.all(abs(prompt.matched_gen.pt / prompt.pt - 1.0) < 0.2)
    assert "event" in repr(events[0])
    near = events.Jet.matched_gen
    assert ak.mean(near.delta_r(events.Jet) < 0.2) > 0.95


def test_missing_momentum_is_that_of_the_neutrinos(sample: Callable[[str], Path]) -> None:
    events = events_of(sample("TT2L"))
    particles = events.objects["GenPart"]
    final = (particles["status"] == 1) & np.isin(np.abs(particles["pdgId"]), (12, 14, 16))
    n = len(particles.counts)
    px = np.bincount(particles.event[final], (particles["pt"] * np.cos(particles["phi"]))[final], n)
    py = np.bincount(particles.event[final], (particles["pt"] * np.sin(particles["phi"]))[final], n)
    np.testing.assert_allclose(np.hypot(px, py), events.columns["GenMET_pt"], atol=0.01)


def test_the_packages_own_selections_accept_the_events(sample: Callable[[str], Path]) -> None:
    events = nano_events(sample("xyh_m_x500_m_y90"))
    bbww = select_bbww(events.Electron, events.Muon, events.Tau, events.Jet, events.MET.pt, events.MET.phi)
    assert 10 < bbww.passed.sum() < 150
    assert bbww.cuts.tau_veto.mean() > 0.9
    events = nano_events(sample("haa4b_m_a60"))
    assert select_haa4b(events.Jet, events.Jet[events.Jet.btagDeepFlavB > 0.2489]).passed.sum() > 2
    events = nano_events(sample("TT2L"))
    leptons = ak.concatenate([events.Electron, events.Muon], axis=1)
    isolated = leptons[leptons.pfRelIso03_all < 0.15]
    assert select_tt2l(isolated, events.Jet[events.Jet.btagDeepFlavB > 0.2489]).passed.sum() > 8
    cloud = EventCloud.from_awkward(events, EventSchema.published())
    assert cloud.mask.sum() > 200 * 4
    events = nano_events(sample("Upsilon"))
    found = select_dimuon(events.Muon, events.HLT.TrkMu15_DoubleTrkMu5NoFiltersNoVtx)
    assert (found.region == "SR").sum() > 45


def test_masses_of_matched_jets(sample: Callable[[str], Path]) -> None:
    """Within four standard errors of what larger samples show: 1 to 7 % below the true mass, as jets lose partons."""
    top = events_of(sample("TT1L"))
    for masses, expected, width in (
        (dijet_masses(top, 24), 80.0, 14.0),
        (top_masses(top), 167.0, 22.0),
        (dijet_masses(events_of(sample("WZ_2L")), 24), 79.0, 15.0),
        (dijet_masses(events_of(sample("haa4b_m_a60")), 36), 63.5, 12.0),
        (dijet_masses(events_of(sample("xyh_m_x500_m_y90")), 36), 82.0, 14.0),
    ):
        found = spread(masses)
        assert found.n > 40
        assert abs(found.median - expected) < 4.0 * 1.25 * width / np.sqrt(found.n)
        assert found.width == pytest.approx(width, rel=0.4)


@pytest.mark.parametrize(
    ("label", "pdg_id", "mass", "tolerance"),
    [("haa4b_m_a60", 36, 60.0, 0.2), ("haa4b_m_a60", 25, 125.0, 0.2), ("xyh_m_x500_m_y90", 36, 90.0, 0.2),
     ("xyh_m_x500_m_y90", 35, 500.0, 2.0), ("TT1L", 6, 172.5, 1.0), ("WZ_2L", 23, 91.2, 1.5)],
)  # fmt: skip
def test_generated_masses(
    sample: Callable[[str], Path], label: str, pdg_id: int, mass: float, tolerance: float
) -> None:
    particles = events_of(sample(label)).objects["GenPart"]
    chosen = (np.abs(particles["pdgId"]) == pdg_id) & ((particles["statusFlags"] & (1 << 13)) > 0)
    assert np.bincount(particles.event[chosen]).min() >= 1
    assert np.median(particles["mass"][chosen]) == pytest.approx(mass, abs=tolerance)


def test_leptonic_decays_are_those_asked_for(sample: Callable[[str], Path]) -> None:
    for label, expected in (("TT1L", 1), ("TT2L", 2), ("xyh_m_x500_m_y90", 1), ("WZ_2L", 2)):
        particles = events_of(sample(label)).objects["GenPart"]
        mother = particles["genPartIdxMother"]
        parent = particles["pdgId"][np.maximum(mother, 0) + particles.offsets[particles.event]]
        from_boson = (mother >= 0) & np.isin(np.abs(parent), (23, 24))
        leptons = from_boson & np.isin(np.abs(particles["pdgId"]), (11, 13, 15))
        assert (particles.count(leptons) == expected).all(), label


def test_tag_rates_and_missing_momentum(sample: Callable[[str], Path]) -> None:
    events = events_of(sample("TT1L"))
    jets = events.objects["Jet"]
    central = (jets["pt"] > 20.0) & (np.abs(jets["eta"]) < 2.5)
    rates = tag_rates(events, 0.2489)
    for flavour, expected in ((5, 0.70), (4, 0.10), (0, 0.010)):
        n = (central & (jets["hadronFlavour"] == flavour)).sum()
        assert abs(rates[flavour] - expected) < 4.0 * np.sqrt(expected * (1.0 - expected) / n)
    resolution = spread(met_residuals(events))
    assert abs(resolution.median) < 4.0 * 1.25 * resolution.width / np.sqrt(resolution.n)
    assert 13.0 < resolution.width < 25.0  # 12 GeV of noise, and the jets


def test_upsilon(sample: Callable[[str], Path]) -> None:
    masses = dimuon_masses(events_of(sample("Upsilon")))
    assert len(masses) > 50
    ground = masses[np.abs(masses - 9.46) < 0.3]
    assert np.median(ground) == pytest.approx(9.46, abs=0.05)
    assert 0.04 < spread(ground).width < 0.16
    assert np.mean((masses > 9.0) & (masses < 10.8)) > 0.85


def test_spin_correlations_before_and_after_weighting(tmp_path: Path) -> None:
    """Without showers, so that 8000 events take a few seconds; the shower changes the numbers by less than 0.02."""
    run(["TT2L:events=8000"], tmp_path, seed=5, shard_size=8000, pythia=PARTON_LEVEL)
    events = events_of(tmp_path / "TT2L" / "TT2L_0000.root")
    weights = events.columns["spinWeight"]
    assert weights.min() >= 0.0
    assert weights.max() <= 2.0
    assert abs(weights.mean() - 1.0) < 4.0 * weights.std() / np.sqrt(len(weights))
    before, after = (spin_check(events, weighted=weighted) for weighted in (False, True))
    for name, published in (("kk", -0.336), ("rr", -0.015), ("nn", -0.330)):
        assert abs(before.measured[name]) < 4.0 * before.uncertainty
        assert abs(after.measured[name] - after.expected[name]) < 4.0 * after.uncertainty
        assert after.expected[name] == pytest.approx(published, abs=0.02)
    threshold = spin_check(events, max_mass=400.0)
    for name, published in (("kk", -0.574), ("rr", -0.298), ("nn", -0.530)):
        assert threshold.expected[name] == pytest.approx(published, abs=0.03)
        assert abs(threshold.measured[name] - threshold.expected[name]) < 4.0 * threshold.uncertainty


def test_unweighted_spin_correlations(tmp_path: Path) -> None:
    result = run(["TT2L:events=4000"], tmp_path, spin="unweighted", shard_size=4000, pythia=PARTON_LEVEL)
    events = events_of(tmp_path / "TT2L" / "TT2L_0000.root")
    assert (events.columns["spinWeight"] == 1.0).all()
    found = spin_check(events)
    for name in ("kk", "rr", "nn"):
        assert abs(found.measured[name] - found.expected[name]) < 4.0 * found.uncertainty
    assert result.shards[0]["generated"] == 4000
    with pytest.raises(ConfigError, match="spin correlations are for top pairs"):
        run(["WW:events=5"], tmp_path, spin="unweighted")


def test_cross_sections_are_pythias_own(sample: Callable[[str], Path]) -> None:
    """The share of one-lepton decays is the product of branching fractions, 2 x 0.216 x 0.676 in Pythia."""
    settings = {"shard_size": 5000, "pythia": PARTON_LEVEL}
    out = sample("TT1L").parents[1] / "inclusive"
    shards = [run([f"{name}:events=5000"], out, **settings).shards[0] for name in ("TT", "TT1L")]
    inclusive, leptonic = (shard["cross_section_pb"] for shard in shards)
    assert inclusive == pytest.approx(505.0, rel=0.04)  # Pythia 8.317 with its own NNPDF 2.3 at leading order
    assert leptonic / inclusive == pytest.approx(2.0 * 0.216 * 0.676, rel=0.06)


def columns_of(folder: Path) -> dict[str, np.ndarray]:
    events = read_files(sorted(folder.rglob("*.root")))
    found = {
        f"{name}_{key}": values for name, c in events.objects.items() for key, values in c.columns.items()
    }
    return found | events.columns


def test_a_seed_makes_the_same_events_on_any_number_of_cores(tmp_path: Path) -> None:
    words = ["TT2L:events=30", "WZ_2L:events=10"]
    settings = {"seed": 3, "shard_size": 10}
    run(words, tmp_path / "one", **settings)
    seen: list[tuple[str, int]] = []
    run(words, tmp_path / "two", cores=2, progress=lambda *what: seen.append(what), **settings)
    assert sum(n for _, n in seen) == 40
    assert {label for label, _ in seen} == {"TT2L", "WZ_2L"}
    one, two = columns_of(tmp_path / "one"), columns_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)
    run(["TT2L:events=10"], tmp_path / "other", seed=4, shard_size=10)
    assert (columns_of(tmp_path / "other")["GenMET_pt"] != one["GenMET_pt"][:10]).all()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    settings = {"seed": 3, "shard_size": 10}
    words = ["TT2L:events=30"]

    def stop(_label: str, _n: int) -> None:
        if (tmp_path / "TT2L" / "TT2L_0000.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(words, tmp_path, progress=stop, **settings)
    assert sorted(path.name for path in (tmp_path / "TT2L").iterdir()) == ["TT2L_0000.json", "TT2L_0000.root"]
    made = (tmp_path / "TT2L" / "TT2L_0000.root").stat().st_mtime_ns
    (tmp_path / "TT2L" / ".TT2L_0001.root.partial").write_bytes(b"of a killed run")
    result = run(words, tmp_path, **settings)
    assert result.n_new == 2
    assert (tmp_path / "TT2L" / "TT2L_0000.root").stat().st_mtime_ns == made
    assert not list((tmp_path / "TT2L").glob(".*"))
    summary = json.loads((tmp_path / "dataset.json").read_text())["samples"]["TT2L"]
    assert summary["events"] == 30
    assert len(summary["files"]) == 3
    run(words, tmp_path / "whole", **settings)
    whole, parts = columns_of(tmp_path / "whole"), columns_of(tmp_path / "TT2L")
    np.testing.assert_array_equal(whole["Jet_pt"], parts["Jet_pt"])
    with pytest.raises(ConfigError, match=r"TT2L_0000\.json was made with another seed \(3, now 4\)"):
        run(words, tmp_path, seed=4, shard_size=10)
    with pytest.raises(ConfigError, match="made with another card"):
        run(words, tmp_path, card=CARDS["atlas"], **settings)
    with pytest.raises(ConfigError, match=r"TT2L_0001\.root is not part of this request"):
        run(["TT2L:events=10"], tmp_path, **settings)
    assert run(words, tmp_path, **settings).n_new == 0
    run(["WZ_3L:events=2"], tmp_path)
    assert set(json.loads((tmp_path / "dataset.json").read_text())["samples"]) == {"TT2L", "WZ_3L"}
    (tmp_path / "WZ_3L" / "WZ_3L_0000.json").write_text("{")
    with pytest.raises(FileError, match=r"WZ_3L_0000\.json is damaged"):
        run(words, tmp_path, **settings)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uproot, "recreate", full)
    with pytest.raises(FileError, match=r"the disk is full: .*whole files are kept, run again to go on"):
        run(["TT2L:events=2"], tmp_path)
    assert not list((tmp_path / "TT2L").iterdir())


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pythia8mc", "fastjet"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ConfigError, match=rf'needs {name}, .* pip install "evenet-hep\[sim\]"'):
                run(["TT2L:events=2"], tmp_path)


def test_requests_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TT is asked for twice"):
        run(["TT:events=5", "tt:events=3"], tmp_path)
    with pytest.raises(ConfigError, match="Pythia does not know the setting 'Top:up = on'"):
        run(["TT:events=5"], tmp_path, pythia=("Top:up = on",))
