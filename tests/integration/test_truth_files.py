"""Labels of real and simulated files: which process, how much is matched, and where the masses are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep import EventCloud, EventSchema
from evenet_hep.events.gen_particles import FIELDS, read_gen_particles
from evenet_hep.events.kinematic_labels import label_kinematics
from evenet_hep.events.truth import TruthLabels, label_events, matched_mass
from evenet_hep.topology import Topology

SCHEMA = EventSchema.standard()
PUBLISHED = Topology.published()


class Labelled(NamedTuple):
    events: ak.Array
    cloud: EventCloud
    truth: TruthLabels
    names: Counter[str]


def labelled(path: Path, topology: Topology = PUBLISHED, **options: Any) -> Labelled:
    collections = ("GenPart", "Electron", "Muon", "Jet", "MET", "PuppiMET")
    events = uproot.open(path)["Events"].arrays(filter_name=[f"{name}_*" for name in collections])
    cloud = EventCloud.from_awkward(events, SCHEMA)
    truth = label_events(events, cloud, topology, **options)
    names = [process.name for process in topology.processes] + ["none"]
    return Labelled(events, cloud, truth, Counter(names[p] for p in truth.labels.process))


def arrays(truth: TruthLabels) -> list[np.ndarray]:
    return [*truth.labels, *list(truth)[1:]]  # type: ignore[list-item]


def masses(found: Labelled, slot: int, *daughters: int) -> np.ndarray:
    mass = matched_mass(found.cloud, found.truth.labels.indices[:, slot, list(daughters)])
    return mass[np.isfinite(mass)]


# --- real files --------------------------------------------------------------------------------------------------


def test_top_pairs_of_2022(samples: dict[str, Path]) -> None:
    found = labelled(samples["nano_tt_v12"])
    assert found.names == {"TT1L": 200}
    hadronic, leptonic = found.truth.is_matched[:, :2].mean(axis=0)
    assert hadronic == pytest.approx(0.72)
    assert leptonic == pytest.approx(
        0.605
    )  # a quarter of the leptons are hadronic taus, which are no objects here
    is_tau = found.truth.from_tau[:, 1, 1]
    assert (found.truth.labels.indices[~is_tau, 1, 1] >= 0).mean() > 0.85
    assert 78 < np.median(masses(found, 0, 1, 2)) < 87
    assert 158 < np.median(masses(found, 0, 0, 1, 2)) < 176
    assert np.median(found.truth.momentum[:, :2, 3]) == pytest.approx(172.5, abs=0.3)
    assert found.truth.labels.invisible_mask.sum() == 200


def test_leptons_agree_with_the_links_of_the_file(samples: dict[str, Path]) -> None:
    """Electron_genPartIdx and Muon_genPartIdx are made by CMS, by another algorithm."""
    found = labelled(samples["nano_tt_v12"])
    particles = read_gen_particles(found.events)
    agree = total = 0
    for e, slot in enumerate(found.truth.labels.indices[:, 1, 1]):
        if slot < 0 or found.truth.from_tau[e, 1, 1]:
            continue
        collection, position = found.cloud.index[e, slot]
        link = found.events[f"{found.cloud.collections[collection]}_genPartIdx"][e][position]
        if link < 0:
            continue
        total += 1
        start, at, target = particles.offsets[e], link, found.truth.gen_daughter[e, 1, 1]
        while at >= 0 and at != target:  # the link leads to the copy after radiation
            at = particles.mother[start + at]
        agree += at == target
    assert total > 100
    assert agree == total


def test_the_file_named_ttbar_is_w_and_jets(samples: dict[str, Path]) -> None:
    found = labelled(samples["nano_2015_wjets"])
    assert found.names == {"WJetsToLNu": 200}
    labels = label_kinematics(found.events)
    counts = dict(zip(labels.names, labels.values.sum(axis=0), strict=True))
    assert (counts["n_tops"], counts["n_higgs"], counts["n_W"], counts["n_Z"]) == (0, 0, 200, 0)


def test_drell_yan(samples: dict[str, Path]) -> None:
    found = labelled(samples["nano_dy"])
    assert found.names == {"ZJetsToLL": 40}
    assert np.median(masses(found, 0, 0, 1)) == pytest.approx(90, abs=3)


def test_collision_data_have_no_truth(samples: dict[str, Path]) -> None:
    assert labelled(samples["nano_dimuon"], candidates=[]).names == {"none": 40}


def test_top_pairs_of_2024(shared_data: Path) -> None:
    found = labelled(shared_data / "real" / "nano_tt_v15.root")
    assert found.names == {"TTHadronics": 200}
    assert found.truth.is_matched[:, :2].mean(axis=0) == pytest.approx([0.54, 0.465])
    assert 78 < np.median(masses(found, 0, 1, 2)) < 87
    assert 158 < np.median(masses(found, 0, 0, 1, 2)) < 176
    assert (found.truth.pdg_id[:, :2] == [6, -6]).all()


# --- coffea ------------------------------------------------------------------------------------------------------


def _is_needed(name: str) -> bool:
    collections = ("GenPart", "Electron", "Muon", "Jet", "PuppiMET", "luminosityBlock", "event", "run")
    return name.split("_", maxsplit=1)[0].removeprefix("n") in collections


def test_nano_events_eager_and_virtual(samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    expected = labelled(samples["nano_tt_v12"]).truth
    for mode in ("eager", "virtual"):
        log: list[Any] = []
        options: dict[str, Any] = {"access_log": log} if mode == "virtual" else {}
        events = NanoEventsFactory.from_root(
            {str(samples["nano_tt_v12"]): "Events"},
            schemaclass=NanoAODSchema,
            mode=mode,
            iteritems_options={"filter_name": _is_needed},
            **options,
        ).events()
        cloud = EventCloud.from_awkward(events, SCHEMA)
        read = {access.branch for access in log}
        truth = label_events(events, cloud, PUBLISHED)
        for one, other in zip(arrays(truth), arrays(expected), strict=True):
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        if mode == "virtual":
            assert {access.branch for access in log} - read == {
                "nGenPart",
                *(f"GenPart_{name}" for name in FIELDS),
            }


# --- simulated files ---------------------------------------------------------------------------------------------


def test_simulated_files_are_what_they_are_called(shared_data: Path) -> None:
    expected = {
        "dy_ll": {"ZJetsToLL"},
        "zjet_ll": {"ZJetsToLL"},
        "wjet_lnu": {"WJetsToLNu"},
        "st_t": {"none"},
        "qcd_bb": {"none"},
        "ttbar_1l": {"TT1L", "none"},
        "ww": {"WW_1L", "WW_2L", "none"},
        "wz": {"WZ_1L", "WZ_2L", "WZ_3L", "none"},
        "zz": {"ZZ_2L", "ZZ_4L", "none"},
    }
    for name, processes in expected.items():
        found = labelled(shared_data / "fastsim" / f"{name}.root")
        assert set(found.names) == processes, name
        if name == "ttbar_1l":  # a top quark decays to s or d in 0.17 % of all cases
            assert 0.002 < found.names["none"] / len(found.events) < 0.005
        if name == "ww":  # branching ratios of the W
            assert found.names["WW_2L"] / len(found.events) == pytest.approx(0.326**2, abs=0.03)
            assert found.names["none"] / len(found.events) == pytest.approx(0.674**2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "grammar", "expected"),
    [
        ("ttbar_1l", "bbww", {"TT1L", "none"}),
        ("ttbar_2l", "ttbar_dilepton", {"TT2L", "none"}),
        ("ttbar_2l", "bbww", {"none"}),
        ("xyh_500_90", "pretraining", {"none"}),  # a W pair of a Higgs boson, but not alone
        ("haa4b_m60_4j", "pretraining", {"none"}),
        ("dy_ll", "dimuon", {"none"}),
    ],
)
def test_other_grammars(shared_data: Path, name: str, grammar: str, expected: set[str]) -> None:
    found = labelled(shared_data / "fastsim" / f"{name}.root", Topology.shipped(grammar))
    assert set(found.names) == expected


def test_matches_agree_with_the_links_of_the_simulation(shared_data: Path) -> None:
    """Jet_truthPartonIdx says for every jet which quark is closest."""
    found = labelled(shared_data / "fastsim" / "ttbar_1l.root")
    indices, partons = found.truth.labels.indices, found.truth.gen_daughter
    links = ak.to_numpy(ak.fill_none(ak.pad_none(found.events["Jet_truthPartonIdx"], 100, clip=True), -1))
    is_jet = found.cloud.index["collection"] == found.cloud.collections.index("Jet")
    link = np.where(
        is_jet, np.take_along_axis(links, np.maximum(found.cloud.index["position"], 0), axis=1), -2
    )
    of_slot = np.take_along_axis(link, np.maximum(indices, 0).reshape(len(indices), -1), axis=1).reshape(
        indices.shape
    )
    is_matched_jet = (indices >= 0) & (of_slot != -2)
    assert is_matched_jet.sum() > 50_000
    assert (of_slot == partons)[is_matched_jet].mean() > 0.999
    is_claimed = (link[:, None, None, :] == partons[..., None]).any(axis=-1) & (partons >= 0)
    assert (indices >= 0)[is_claimed].mean() > 0.999


@pytest.mark.parametrize(("name", "mass"), [("haa4b_m30_4j", 30.0), ("haa4b_m60_4j", 60.0)])
def test_light_scalars(shared_data: Path, name: str, mass: float) -> None:
    found = labelled(shared_data / "fastsim" / f"{name}.root", Topology.shipped("higgs_to_4b"))
    assert set(found.names) == {"HAA4B"}
    assert np.median(found.truth.momentum[:, :, 3]) == pytest.approx(mass, abs=0.1)
    for slot in (0, 1):
        assert np.median(masses(found, slot, 0, 1)) == pytest.approx(mass, rel=0.1)
    both = matched_mass(found.cloud, found.truth.labels.indices.reshape(len(found.events), -1))
    assert np.nanmedian(both) == pytest.approx(125, rel=0.05)


@pytest.mark.parametrize(
    ("name", "mass", "lowest"),
    [
        ("xyh_300_80", 80, 0.59),
        ("xyh_500_90", 90, 0.73),
        ("xyh_700_200", 200, 0.8),
        ("xyh_900_400", 400, 0.82),
    ],
)
def test_heavy_resonances(shared_data: Path, name: str, mass: float, lowest: float) -> None:
    found = labelled(shared_data / "fastsim" / f"{name}.root", Topology.shipped("bbww"))
    assert set(found.names) == {"XYH"}
    assert np.median(found.truth.momentum[:, 0, 3]) == pytest.approx(mass, rel=1e-3)
    assert found.truth.is_matched[:, 0].mean() > lowest
    assert 0.85 < np.median(masses(found, 0, 0, 1)) / mass < 1.0  # neutrinos of b decays are missing


@pytest.mark.slow
def test_the_table_of_the_reference(shared_data: Path) -> None:
    """Every line of docs/reference/truth.md: events per process, fractions in per cent, medians in GeV."""
    text = (Path(__file__).parents[2] / "docs" / "reference" / "truth.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    sample, process, slot, topology, found = "", "", 0, PUBLISHED, None
    n_lines = 0
    for name, n_events, process_name, n_process, kind, matched, mass in rows[2:]:
        if name:
            sample = name
            folder = "real" if sample.startswith("nano") else "fastsim"
            grammar = {"xyh": "bbww", "haa": "higgs_to_4b", "ups": "dimuon"}.get(sample[:3], "pretraining")
            topology = Topology.shipped(grammar)
            found = labelled(shared_data / folder / f"{sample}.root", topology)
            assert len(found.events) == int(n_events)
        assert found is not None
        slot = 0 if process_name else slot + 1
        process = process_name or process
        if process_name:
            assert found.names[process] == int(n_process), (sample, process)
        if process == "none":
            continue
        number = [each.name for each in topology.processes].index(process)
        chosen = found.truth.labels.process == number
        assert topology.processes[number].kinds[slot] == kind
        assert 100 * found.truth.is_matched[chosen, slot].mean() == pytest.approx(
            float(matched.split()[0]), abs=0.51
        )
        if mass:
            n_daughters = len(topology.resonance(kind).daughters)
            slots = found.truth.labels.indices[chosen, slot, :n_daughters]
            median = np.nanmedian(matched_mass(found.cloud[chosen], slots))
            assert median == pytest.approx(float(mass.split()[0].rstrip(",")), abs=0.06), (
                sample,
                process,
                kind,
            )
        n_lines += 1
    assert n_lines > 40
