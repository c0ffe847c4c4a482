"""The documented example: a user's own processor that runs two analyses in one pass gives what each gives alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from evenet_hep.processors import DimuonAnomaly, EventScores

from evenet_hep import Predictor
from evenet_hep.share import sample_files

EXAMPLE = Path(__file__).parents[2] / "examples" / "15_two_analyses_one_pass.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_analyses", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning")
def test_one_pass_gives_both_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    found = example().run_both(tmp_path)
    assert set(found) == {"dimuons", "scores"}
    assert set(found["dimuons"]) == set(found["scores"]) == set(sample_files())
    name = "Drell-Yan MC"
    fileset = {name: {"files": {str(sample_files()[name]): "Events"}}}
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=NanoAODSchema)
    dimuons = run(fileset, DimuonAnomaly(triggers=(), isolation=None))[name]
    scores = run(fileset, EventScores(Predictor("demo")))[name]
    assert found["dimuons"][name]["cutflow"] == dimuons["cutflow"]
    assert found["dimuons"][name]["mass"] == dimuons["mass"]
    assert found["scores"][name]["n_scored"] == scores["n_scored"]
    assert found["scores"][name]["sum_probability"] == pytest.approx(scores["sum_probability"], rel=1e-4)
    assert list(tmp_path.glob("*.parquet"))
