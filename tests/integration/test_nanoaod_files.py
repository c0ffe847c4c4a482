"""Clouds of real NanoAOD files: eager and virtual, and only the branches that are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep import EventCloud, EventSchema, Feature
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.reading import OpenTable, inspect_file, read_chunks

PUBLISHED = EventSchema.published()
SHIPPED = ("nano_tt_v12", "nano_2015_wjets", "nano_dy", "nano_dimuon")
BESIDE = (
    "nano_tt_v15.root",
    "nano_tt_v12.root",
    "nano_dy.root",
    "nano_dimuon.root",
    "nanoAOD_2015_CMS_Open_Data_ttbar.root",
)

pytestmark = pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)


def _is_small(name: str) -> bool:
    """Of some 2000 branches, those that could matter here: reading all of them eagerly takes seconds."""
    parts = name.split("_")
    return parts[0].removeprefix("n") in (
        "Electron",
        "Muon",
        "Jet",
        "Tau",
        "Photon",
        "MET",
        "PuppiMET",
        "PV",
        "luminosityBlock",
        "event",
        "run",
    )


def open_events(path: Path, mode: str = "virtual", **options: Any) -> ak.Array:
    options = {"iteritems_options": {"filter_name": _is_small}, **options}
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, mode=mode, schemaclass=NanoAODSchema, **options
    ).events()


def same(first: EventCloud, second: EventCloud) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("objects", "mask", "event_features", "index", "sizes")
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_eager_virtual_and_flat_give_one_cloud(samples: dict[str, Path], name: str) -> None:
    path = samples[name]
    virtual = EventCloud.from_awkward(open_events(path), PUBLISHED)
    assert same(virtual, EventCloud.from_awkward(open_events(path, mode="eager"), PUBLISHED))
    chunks = list(read_chunks(path, PUBLISHED, chunk_size=30))
    parts = [EventCloud.from_awkward(chunk.events, PUBLISHED) for chunk in chunks]
    assert np.array_equal(np.concatenate([part.objects for part in parts]), virtual.objects)
    assert chunks[-1].stop == inspect_file(path).n_events == len(virtual)


@pytest.mark.parametrize("name", SHIPPED)
def test_frugal_reading(samples: dict[str, Path], name: str) -> None:
    """Branch by branch the same events."""
    table = OpenTable(samples[name], PUBLISHED)
    for start, stop in ((0, table.n_events), (3, 11), (5, 6), (4, 4)):
        plain, frugal = table.read(start, stop), table.read(start, stop, frugal=True)
        assert plain.fields == frugal.fields
        assert len(frugal) == stop - start
        assert ak.array_equal(plain, frugal, equal_nan=True)


@pytest.mark.parametrize("name", SHIPPED)
def test_cloud_agrees_with_the_file(samples: dict[str, Path], name: str) -> None:
    """Against awkward, collection by collection."""
    events = open_events(samples[name], mode="eager")
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    everything = ak.concatenate([events[c]["pt"] for c in ("Electron", "Muon", "Jet")], axis=1)
    hardest = ak.sort(everything, ascending=False)[:, :18]
    assert ak.all(cloud.unpad(cloud.objects[..., 1]) == hardest)
    energies = ak.concatenate([events[c].energy for c in ("Electron", "Muon", "Jet")], axis=1)
    ordered = energies[ak.argsort(everything, ascending=False, stable=True)][:, :18]
    np.testing.assert_allclose(ak.flatten(cloud.unpad(cloud.objects[..., 0])), ak.flatten(ordered), rtol=1e-5)
    features = dict(zip(PUBLISHED.event_names, cloud.event_features.T, strict=True))
    assert ak.all(features["n_lepton"] == ak.num(events["Electron"]) + ak.num(events["Muon"]))
    assert ak.all(features["n_jet"] == ak.num(events["Jet"]))
    whole = cloud.n_dropped == 0
    np.testing.assert_allclose(features["ht"][whole], ak.sum(events["Jet"]["pt"], axis=1)[whole], rtol=1e-5)
    for c in ("Electron", "Muon", "Jet"):
        back = cloud.to_collection(c, cloud.objects[..., 2])
        kept = ~np.isnan(back)
        assert ak.all(back[kept] == events[c]["eta"][kept])


EXPECTED = {
    f"{c}_{f}" for c in ("Electron", "Muon", "Jet") for f in ("pt", "eta", "phi", "mass", "charge")
} - {"Jet_charge"} | {"nElectron", "nMuon", "nJet"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "btag", "met"),
    [
        ("nano_tt_v12", "btagPNetB", "PuppiMET"),
        ("nano_2015_wjets", "btagDeepFlavB", "MET"),
        ("nano_dy", "btagDeepFlavB", "MET"),
        ("nano_dimuon", "btagDeepFlavB", "MET"),
    ],
)
def test_only_needed_branches_are_read(samples: dict[str, Path], name: str, btag: str, met: str) -> None:
    log: list[Any] = []
    EventCloud.from_awkward(open_events(samples[name], access_log=log), PUBLISHED)
    assert {access.branch for access in log} == EXPECTED | {f"Jet_{btag}", f"{met}_pt", f"{met}_phi"}


def test_a_smaller_schema_reads_less(samples: dict[str, Path]) -> None:
    log: list[Any] = []
    schema = EventSchema(objects=(Feature("pt", "GeV", "log"),), event_features=(Feature("n_lepton"),))
    EventCloud.from_awkward(open_events(samples["nano_dy"], access_log=log), schema)
    assert {a.branch for a in log} == {"nElectron", "nMuon", "nJet", "Electron_pt", "Muon_pt", "Jet_pt"}


def test_taus_photons_and_own_features(samples: dict[str, Path]) -> None:
    schema = EventSchema(
        objects=(*PUBLISHED.objects, Feature("dxy", "cm", "standard", 0.0, 0.02, default=0.0)),
        event_features=(*PUBLISHED.event_features, Feature("PV_npvs", "", "log", 3.0, 0.5)),
        capacity=30,
    )
    events = open_events(samples["nano_dy"])
    branches = Branches(
        taus=("Tau",), photons=("Photon",), met="PuppiMET", btag="btagDeepB", working_point=0.4184
    )
    cloud = EventCloud.from_awkward(events, schema, branches=branches)
    assert cloud.collections == ("Electron", "Muon", "Jet", "Tau", "Photon")
    assert ak.all(cloud.event_features[:, -1] == events["PV"]["npvs"])
    dxy = cloud.to_collection("Muon", cloud.objects[..., -1])
    assert ak.all(dxy == events["Muon"]["dxy"])
    assert not ak.any(cloud.to_collection("Photon", cloud.objects[..., -1]))


def test_filtered_and_sliced_events(samples: dict[str, Path]) -> None:
    events = open_events(samples["nano_tt_v12"])
    keep = ak.num(events["Muon"]) >= 1
    whole, some = EventCloud.from_awkward(events, PUBLISHED), EventCloud.from_awkward(events[keep], PUBLISHED)
    assert same(whole[ak.to_numpy(keep)], some)
    assert same(whole[20:33], EventCloud.from_awkward(events[20:33], PUBLISHED))
    assert len(EventCloud.from_awkward(events[:0], PUBLISHED)) == 0
    hard = events["Jet"][events["Jet"]["pt"] > 40]
    jets = EventCloud.from_awkward(events, PUBLISHED, collections={"Jet": hard})
    assert ak.all(jets.to_collection("Jet", jets.objects[..., 1]) == hard["pt"])


@pytest.mark.parametrize("name", BESIDE)
def test_every_shared_nanoaod_file(shared_data: Path, name: str) -> None:
    path = shared_data / "real" / name
    cloud = EventCloud.from_awkward(open_events(path), PUBLISHED)
    assert same(cloud, EventCloud.from_awkward(open_events(path, mode="eager"), PUBLISHED))
    assert cloud.n_objects.sum() > 0
    assert np.isfinite(cloud.event_features).all()


def test_muons_alone_from_an_rntuple(shared_data: Path) -> None:
    path = shared_data / "real" / "Run2012BC_DoubleMuParked_1000_rntuple.root"
    schema = EventSchema(objects=PUBLISHED.objects, event_features=(Feature("m_lep", "GeV"),))
    branches = Branches(leptons=("Muon",), jets=())
    chunks = list(read_chunks(path, schema, branches=branches, chunk_size=400))
    assert [len(chunk.events) for chunk in chunks] == [400, 400, 200]
    cloud = EventCloud.from_awkward(chunks[0].events, schema, branches=branches)
    assert ak.all(cloud.n_objects == np.minimum(ak.num(chunks[0].events["Muon_pt"]), 18))
