"""coffea's executors and our own tables: the same numbers on the same files, whoever computes them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import dask
import numpy as np
import pytest
import torch
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from distributed import Client, LocalCluster
from evenet_hep.processors.event_scores import EventScores

from evenet_hep import Predictor
from evenet_hep.distributed import predict_files, ready_workers, require_resources, suggest_chunk_size
from evenet_hep.distributed.workers import offered_slots
from evenet_hep.errors import DistributedError, InputError
from evenet_hep.events.scores import Scores
from evenet_hep.inference import network_loads
from evenet_hep.share import sample_files

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [
    pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning"),
]
FILESET = {name: {"files": {str(path): "Events"}} for name, path in sample_files().items()}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)


def everything(events: ak.Array) -> dict[str, ak.Array]:
    """Objects as they are in the file, as predict_files takes them."""
    return {name: events[name] for name in ("Electron", "Muon", "Jet")}


class Recorded(EventScores):  # type: ignore[misc, unused-ignore]
    """Also returns every score, and what the process has done."""

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        NanoAODSchema.warn_missing_crossrefs = False
        out: dict[str, dict[str, Any]] = super().process(events)
        scores = ak.to_numpy(self.predict(events).classification.TT)
        content = out[events.metadata["dataset"]]
        content["event"] = processor.column_accumulator(ak.to_numpy(events["event"]))
        content["TT"] = processor.column_accumulator(scores)
        content["workers"] = {(os.getpid(), network_loads(), torch.get_num_threads())}
        return out


def run_with(executor: Any, predict: Predictor) -> dict[str, Any]:
    runner = processor.Runner(executor, schema=NanoAODSchema, chunksize=60)
    result: dict[str, Any] = runner(FILESET, Recorded(predict, select=everything))
    return result


def by_event(content: dict[str, Any]) -> np.ndarray:
    return np.asarray(content["TT"].value)[np.argsort(content["event"].value, kind="stable")]


@pytest.fixture(scope="module")
def iterative(predict: Predictor) -> dict[str, Any]:
    return run_with(processor.IterativeExecutor(status=False), predict)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, content in expected.items():
        assert found[name]["n_events"] == content["n_events"]
        np.testing.assert_allclose(by_event(found[name]), by_event(content), atol=1e-6)
        assert np.array_equal(found[name]["scores"].values(), content["scores"].values())
        assert np.array_equal(found[name]["scores"].variances(), content["scores"].variances())


def test_futures(iterative: dict[str, Any], predict: Predictor) -> None:
    assert_same(run_with(processor.FuturesExecutor(workers=2, status=False), predict), iterative)


def test_dask_threads(iterative: dict[str, Any], predict: Predictor) -> None:
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", silence_logs=logging.ERROR
    )
    with cluster, Client(cluster) as client, ready_workers(client, predict):
        assert_same(run_with(processor.DaskExecutor(client=client, status=False), predict), iterative)


def test_dask_processes_and_tables(
    client: Client, iterative: dict[str, Any], predict: Predictor, tmp_path: Path
) -> None:
    with ready_workers(client, predict) as workers:
        assert workers.slots == 2
        assert {state.device for state in workers.states.values()} == {"cpu"}
        found = run_with(processor.DaskExecutor(client=client, status=False), predict)
    assert_same(found, iterative)
    states = {state for content in found.values() for state in content["workers"]}
    assert os.getpid() not in {pid for pid, _, _ in states}
    assert {(loads, threads) for _, loads, threads in states} == {(1, 1)}
    assert len(states) <= 2

    manifest = predict_files(client, predict, FILESET, tmp_path, chunk_size=60, progress=False)
    assert manifest.complete
    assert manifest.n_events == 480
    for name, content in iterative.items():
        entries = [entry for entry in manifest.tables if entry.dataset == name]
        assert sum(entry.n_events for entry in entries) == content["n_events"]
        tables = ak.concatenate([ak.from_parquet(tmp_path / entry.table) for entry in entries])
        order = np.argsort(ak.to_numpy(tables["event"]), kind="stable")
        np.testing.assert_allclose(
            ak.to_numpy(tables["classification_TT"])[order], by_event(content), atol=1e-6
        )
    assert offered_slots(client, f"evenet-hep-{predict.digest[:12]}") == 0  # nothing is left behind

    class Joined(processor.ProcessorABC):  # type: ignore[misc]
        def __init__(self) -> None:
            self.scores = Scores(tmp_path, columns=["classification_TT"])

        def process(self, events: ak.Array) -> dict[str, Any]:
            NanoAODSchema.warn_missing_crossrefs = False
            shuffled = events[np.random.default_rng(1).permutation(len(events))]
            joined = self.scores.attach(shuffled, name="evenet")
            return {
                events.metadata["dataset"]: {
                    "event": processor.column_accumulator(ak.to_numpy(joined["event"])),
                    "TT": processor.column_accumulator(ak.to_numpy(joined["evenet", "classification_TT"])),
                }
            }

        def postprocess(self, accumulator: Any) -> Any:
            return accumulator

    runner = processor.Runner(
        processor.DaskExecutor(client=client, status=False), schema=NanoAODSchema, chunksize=70
    )
    for name, content in runner(FILESET, Joined()).items():
        np.testing.assert_allclose(by_event(content), by_event(iterative[name]), atol=1e-6)


def test_nobody_waits_for_what_is_not_there(client: Client, predict: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DistributedError, match="no worker offers GPU=1; the 2 workers offer no resources"):
        require_resources(client, {"GPU": 1})
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=logging.ERROR) as empty,
        Client(empty) as nobody,
        pytest.raises(DistributedError, match="has no workers"),
    ):
        predict_files(nobody, predict, FILESET, tmp_path, progress=False)
    with pytest.raises(DistributedError, match="has no assignment head"):
        predict_files(
            client, Predictor("demo", heads=("assignment",)), FILESET, tmp_path / "a", progress=False
        )
    with pytest.raises(InputError, match="files must be paths"):
        predict_files(client, predict, ["root://host//file.root"], tmp_path / "b", progress=False)


def test_a_folder_belongs_to_one_network(client: Client, predict: Predictor, tmp_path: Path) -> None:
    files = [sample_files()["Drell-Yan MC"]]
    predict_files(client, predict, files, tmp_path, progress=False)
    (tmp_path / "manifest.json").unlink()  # the tables know it, too
    other = Predictor("demo", heads=("embedding",), device="cpu")
    with pytest.raises(DistributedError, match="scores of another network or of other settings"):
        predict_files(client, other, files, tmp_path, progress=False)
    again = predict_files(client, predict, files, tmp_path, progress=False)
    assert (again.n_events, len(again.tables), again.complete) == (40, 1, True)
    with pytest.raises(DistributedError, match="holds scores already"):
        predict_files(client, predict, files, tmp_path, resume=False, progress=False)


def test_chunks_suit_the_network(predict: Predictor) -> None:
    assert suggest_chunk_size(predict) == 200_000
    assert suggest_chunk_size(predict, seconds=1) < suggest_chunk_size(predict, seconds=2) < 50_000


def test_annotations_end_with_the_block(client: Client, predict: Predictor) -> None:
    with ready_workers(client, predict) as workers:
        assert dask.get_annotations() == {"resources": {workers.resource: 1}}  # type: ignore[attr-defined]
    assert dask.get_annotations() == {}  # type: ignore[attr-defined]
