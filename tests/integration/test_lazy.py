"""The Predictor on dask-awkward arrays: lazy, with the needed columns alone."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from coffea.nanoevents.trace import trace

from evenet_hep import Predictor
from evenet_hep.errors import InputError, PredictionError
from evenet_hep.lazy import require_dask_awkward, version_problem
from evenet_hep.share import sample_files

pytestmark = [
    pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning"),
]
NEEDED = {
    *(f"{c}_{f}" for c in ("Electron", "Muon", "Jet") for f in ("pt", "eta", "phi", "mass")),
    "Electron_charge",
    "Muon_charge",
    "Jet_btagPNetB",
    "PuppiMET_pt",
    "PuppiMET_phi",
    "nElectron",
    "nMuon",
    "nJet",
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)


@pytest.fixture
def events(samples: dict[str, Path]) -> ak.Array:
    return NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="virtual").events()


def test_a_trace_reads_what_is_needed(events: ak.Array) -> None:
    assert set(trace(Predictor("demo", device="cpu"), events)) == NEEDED


def test_a_typetracer_gives_a_typetracer_of_the_right_type(events: ak.Array) -> None:
    predict = Predictor("demo", device="cpu", heads=("classification", "embedding"))
    some = {name: ak.materialize(events[name][:2]) for name in ("Electron", "Muon", "Jet", "PuppiMET")}
    eager = ak.zip(some, depth_limit=1)
    traced = predict(ak.to_backend(eager, "typetracer"))
    assert ak.backend(traced) == "typetracer"
    assert str(traced.type).partition("*")[2] == str(predict(eager).type).partition("*")[2]


def test_versions_that_do_not_work_are_named() -> None:
    assert version_problem("2025.3.1", "2026.2.1") == ""
    for dask in ("2025.4.0", "2026.8.0"):
        problem = version_problem(dask, "2026.2.1")
        assert f"cannot compute with dask {dask}" in problem
        assert "dask<2025.4" in problem
        assert version_problem(dask, "2026.2.1", columns_only=True) == ""
    assert "dask-awkward 2025.3.0 is too old" in version_problem("2025.3.1", "2025.3.0")


def test_without_dask_awkward(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415

    def version(name: str) -> str:
        if name == "dask-awkward":
            raise PackageNotFoundError(name)
        return "2026.8.0"

    monkeypatch.setattr("evenet_hep.lazy.installed_version", version)
    with pytest.raises(PredictionError, match=r"evenet-hep\[dask-awkward\]"):
        require_dask_awkward()


def test_lazy_events(samples: dict[str, Path], events: ak.Array) -> None:
    dak = pytest.importorskip("dask_awkward")
    lazy = NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="dask").events()
    predict = Predictor("demo", device="cpu")
    out = predict(lazy)
    assert isinstance(out, dak.Array)
    (columns,) = dak.necessary_columns(out.classification.TT).values()
    assert columns == NEEDED
    expected = predict(events).classification
    found = out.classification.compute(scheduler="synchronous")
    for name in ak.fields(expected):
        assert np.array_equal(found[name], expected[name], equal_nan=True)
    assert str(out.classification.TT.type).endswith("float32")
    with pytest.raises(InputError, match="no collection"):  # at once, not in some worker
        predict(lazy[["Jet", "PuppiMET"]])


def test_lazy_selections(samples: dict[str, Path], events: ak.Array) -> None:
    dak = pytest.importorskip("dask_awkward")

    def select(events: ak.Array) -> dict[str, ak.Array]:
        return {
            "Jet": events.Jet[events.Jet["pt"] > 40],
            "Muon": events.Muon[events.Muon["pfRelIso04_all"] < 0.2],
        }

    lazy = NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="dask").events()
    predict = Predictor("demo", device="cpu")
    out = predict(lazy, collections=select(lazy), met=lazy.PuppiMET)
    (columns,) = dak.necessary_columns(out).values()
    assert columns == NEEDED | {"Muon_pfRelIso04_all"}
    expected = predict(events, collections=select(events)).classification.TT
    assert np.array_equal(out.classification.TT.compute(scheduler="synchronous"), expected, equal_nan=True)


def test_apply_to_fileset() -> None:
    pytest.importorskip("dask_awkward")
    import dask  # noqa: PLC0415
    from coffea.dataset_tools import apply_to_fileset  # noqa: PLC0415

    predict = Predictor("demo", device="cpu")
    fileset = {
        name: {"files": {str(path): {"object_path": "Events", "steps": [[0, 25], [25, 40]]}}}
        for name, path in sample_files().items()
        if name in ("Drell-Yan MC", "DoubleMuon data")
    }
    graphs = apply_to_fileset(
        lambda events: predict(events).classification.TT, fileset, schemaclass=NanoAODSchema
    )
    (found,) = dask.compute(graphs, scheduler="synchronous")  # type: ignore[attr-defined,no-untyped-call]
    for name, scores in found.items():
        path = next(iter(fileset[name]["files"]))
        events = NanoEventsFactory.from_root({path: "Events"}, mode="virtual").events()
        np.testing.assert_allclose(scores, predict(events).classification.TT, atol=1e-6, equal_nan=True)
