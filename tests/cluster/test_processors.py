"""coffea's executors and our own tables: the same numbers on the same files, whoever computes them."""

from __future__ import annotations

import http.server
import importlib.util
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
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
from evenet_hep.distributed import (
    Manifest,
    predict_files,
    ready_workers,
    require_resources,
    suggest_chunk_size,
)
from evenet_hep.distributed.chunk_task import RUNNING, Attempts, Task
from evenet_hep.distributed.fileset import Chunk, read_fileset
from evenet_hep.distributed.small_files import open_files
from evenet_hep.distributed.workers import offered_slots
from evenet_hep.errors import DistributedError
from evenet_hep.events.scores import Scores
from evenet_hep.inference import network_loads
from evenet_hep.share import sample_files

from .conftest import nano_columns, write_nano, write_tree

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


class _Ranges(http.server.BaseHTTPRequestHandler):
    """Gives parts of the files of a folder, as a web server does."""

    folder = Path()

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        path = self.folder / Path(self.path).name
        if not path.exists():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if has_body:
            self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    class Handler(_Ranges):
        folder = tmp_path

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_behind_addresses(
    client: Client, predict: Predictor, check: Callable[..., Manifest], tmp_path: Path, address: str
) -> None:
    file = write_nano(tmp_path / "events.root", 40, seed=1)
    cut = write_nano(tmp_path / "cut.root", 40, seed=2)
    cut.write_bytes(cut.read_bytes()[:2000])
    gone = "root://localhost:1//store/events.root"
    urls = [f"{address}/events.root", f"{address}/none.root", f"{address}/cut.root", gone]
    manifest = predict_files(client, predict, urls, tmp_path / "out", progress=False)
    assert manifest.complete
    check(tmp_path / "out", [file])
    assert [(entry.file, entry.n_events) for entry in manifest.files] == [(urls[0], 40)]
    reasons = {failure.file: failure.reason for failure in manifest.failures}
    assert set(reasons) == set(urls[1:])  # as they were given, both slashes of root://host// included
    if importlib.util.find_spec("fsspec_xrootd") is None:
        assert "Install fsspec-xrootd" in reasons[gone]
    again = predict_files(client, predict, urls[:1], tmp_path / "out", progress=False)
    assert again.tables == manifest.tables


def test_small_files_go_through_the_network_together(
    client: Client, predict: Predictor, check: Callable[..., Manifest], tmp_path: Path
) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 2 * i, seed=i) for i in range(8)]
    damaged = tmp_path / "damaged.root"
    whole = write_nano(tmp_path / "whole.root", 6, seed=20)
    columns = nano_columns(6, seed=20)
    columns["MET_pt"][3] = np.nan
    files.insert(5, write_tree(damaged, columns))
    bad = Task(predict, tmp_path / "out", "run", 2)
    (tmp_path / "out").mkdir()
    opened = open_files(read_fileset(files), [True] * 9, bad, 50)
    assert [found.scored is None for found in opened] == [file == damaged for file in files]
    for found in opened:
        if found.scored is not None:
            assert found.scored.n_events == found.report.n_events
    shutil.rmtree(tmp_path / "out")
    manifest = predict_files(client, predict, files, tmp_path / "out", progress=False)
    assert manifest.complete
    assert len(manifest.tables) == 9
    check(tmp_path / "out", [whole if file == damaged else file for file in files], {whole: {3}})
    assert [(f.file, f.start, f.stop, f.kind) for f in manifest.failures] == [(str(damaged), 3, 4, "input")]


def test_a_death_over_small_files_is_blamed_on_nobody(predict: Predictor, tmp_path: Path) -> None:
    """The mark of an attempt that never ended keeps a file out of the common pass."""
    files = [write_nano(tmp_path / f"{i}.root", 5, seed=i) for i in range(3)]
    sources = read_fileset(files)
    task = Task(predict, tmp_path, "run", 2)
    marks = Attempts(tmp_path / RUNNING / "run", Chunk(sources[1], 0, 5).table)
    marks.folder.mkdir(parents=True)
    (marks.folder / f"{marks.name}.dead").touch()
    opened = open_files(sources, [True, True, False], task, 50)
    assert [found.scored is None for found in opened] == [False, True, True]
    assert [len(list(marks.folder.iterdir())), marks.deaths()] == [1, 1]
    assert all(
        found.scored is None for found in open_files(sources, [True] * 3, task._replace(most_deaths=1), 50)
    )


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
