"""Workers, schedulers, files and disks that fail: every good event is scored once, and the rest is named."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import numpy as np
import pytest
import safetensors.torch
import uproot
from distributed import Client, WorkerPlugin

from evenet_hep import Predictor, inference
from evenet_hep.distributed import Manifest, chunk_task, predict_files, read_manifest
from evenet_hep.errors import DistributedError

from .conftest import nano_columns, processes, write_nano, write_tree

# Worker processes need not be able to import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Check = Callable[..., Manifest]


def slow_down(seconds: float) -> None:
    """Run on a worker: every chunk takes longer."""
    plain = vars(chunk_task).setdefault("_plain", vars(chunk_task)["score_events"])

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return plain(*arguments)

    vars(chunk_task)["score_events"] = slow if seconds else plain


@pytest.fixture
def slowly(client: Client) -> Iterator[None]:
    client.run(slow_down, 0.15)
    yield
    client.run(slow_down, 0)


def when(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do something, in a thread, once something is so."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def tables(out: Path) -> list[Path]:
    return sorted(out.rglob("*.parquet"))


def test_a_worker_killed_in_the_middle(
    client: Client, predict: Predictor, check: Check, tmp_path: Path, slowly: None
) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 60, seed=i) for i in range(3)]
    victim = next(iter(client.run(os.getpid).values()))
    killer = when(lambda: tables(tmp_path / "out"), lambda: os.kill(victim, signal.SIGKILL))
    manifest = predict_files(client, predict, files, tmp_path / "out", chunk_size=10, progress=False)
    killer.join()
    assert victim not in client.run(os.getpid).values()
    assert manifest.complete
    assert manifest.failures == []
    check(tmp_path / "out", files)
    client.wait_for_workers(2, timeout=60)


def damage_basket(path: Path, branch: str, basket: int) -> None:
    with uproot.open(path) as file:
        seek = int(file["Events"][branch].member("fBasketSeek")[basket])
        size = int(file["Events"][branch].member("fBasketBytes")[basket])
    content = bytearray(path.read_bytes())
    content[seek + size // 2 : seek + size] = bytes(size - size // 2)
    path.write_bytes(content)


def test_a_damaged_file_loses_the_damaged_part_only(
    client: Client, predict: Predictor, check: Check, tmp_path: Path
) -> None:
    good = write_nano(tmp_path / "good.root", 50, seed=1)
    whole = write_nano(tmp_path / "whole.root", 600, seed=2, baskets=3)
    bad = Path(shutil.copy(whole, tmp_path / "bad.root"))
    damage_basket(bad, "Jet_eta", 1)
    manifest = predict_files(client, predict, [good, bad], tmp_path / "out", progress=False)
    assert manifest.complete
    check(tmp_path / "out", [good, whole], {whole: set(range(200, 400))})
    (failure,) = manifest.failures
    assert (failure.file, failure.start, failure.stop, failure.kind) == (str(bad), 200, 400, "file")
    assert str(bad) in failure.reason
    assert manifest.n_failed == 200


def test_truncated_and_foreign_and_missing_files(
    client: Client, predict: Predictor, check: Check, tmp_path: Path
) -> None:
    good = write_nano(tmp_path / "good.root", 50, seed=1)
    cut, text, absent = (tmp_path / name for name in ("cut.root", "text.root", "absent.root"))
    cut.write_bytes(good.read_bytes()[:-2000])
    text.write_text("not a ROOT file")
    with uproot.recreate(tmp_path / "other.root") as file:
        file["Events"] = {"Electron_pt": np.ones(3)}
    files = [cut, text, absent, tmp_path / "other.root", good]
    manifest = predict_files(client, predict, files, tmp_path / "out", progress=False)
    assert manifest.complete
    check(tmp_path / "out", [good])
    reasons = {Path(failure.file).name: failure.reason for failure in manifest.failures}
    assert set(reasons) == {"cut.root", "text.root", "absent.root", "other.root"}
    assert "cut short" in reasons["cut.root"] or "cannot be read" in reasons["cut.root"]
    assert "neither a ROOT nor a Parquet file" in reasons["text.root"]
    assert "no such file" in reasons["absent.root"]
    assert "other.root has no branch 'Electron_eta'" in reasons["other.root"]


def test_a_file_that_vanishes(
    client: Client, predict: Predictor, check: Check, tmp_path: Path, slowly: None
) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 60, seed=i) for i in range(3)]
    kept = Path(shutil.copy(files[2], tmp_path / "kept.root"))
    thief = when(lambda: tables(tmp_path / "out"), files[2].unlink)
    manifest = predict_files(client, predict, files, tmp_path / "out", chunk_size=10, progress=False)
    thief.join()
    assert manifest.complete
    lost = {event for failure in manifest.failures for event in range(failure.start, failure.stop)}
    assert lost
    check(tmp_path / "out", [*files[:2], kept], {kept: lost})
    assert {(f.file, f.kind) for f in manifest.failures} == {(str(files[2]), "file")}
    assert all(failure.reason == f"no such file: {files[2]}" for failure in manifest.failures)
    shutil.copy(kept, files[2])  # it comes back, and the same call scores what is missing
    again = predict_files(client, predict, files, tmp_path / "out", chunk_size=10, progress=False)
    assert again.failures == []
    check(tmp_path / "out", files)


def limit_files(n_bytes: int) -> None:
    """Run on a worker: the system refuses to write more than so many bytes into a file."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes or hard, hard))


def test_files_that_may_not_grow(client: Client, predict: Predictor, check: Check, tmp_path: Path) -> None:
    small = write_nano(tmp_path / "small.root", 5, seed=1)
    large = write_nano(tmp_path / "large.root", 2000, seed=2)
    client.run(limit_files, 12_000)
    try:
        with pytest.raises(DistributedError, match=r"out is full: .*the same call goes on from there"):
            predict_files(client, predict, [small, large], tmp_path / "out", progress=False)
    finally:
        client.run(limit_files, 0)
    manifest = read_manifest(tmp_path / "out")
    assert not manifest.complete
    assert "is full" in manifest.stopped
    left = [path.name for path in (tmp_path / "out").rglob("*") if "partial" in path.name]
    assert left == []
    predict_files(client, predict, [small, large], tmp_path / "out", progress=False)
    assert check(tmp_path / "out", [small, large]).complete


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills(
    client: Client, predict: Predictor, check: Check, tmp_path: Path, small_disk: Path
) -> None:
    file = write_nano(tmp_path / "events.root", 4000, seed=1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    with pytest.raises(DistributedError, match=r"is full|cannot be written"):
        predict_files(client, predict, [file], small_disk, chunk_size=500, progress=False)
    ballast.unlink()
    predict_files(client, predict, [file], small_disk, chunk_size=500, progress=False)
    assert check(small_disk, [file]).complete


def hide_weights(is_hidden: bool) -> None:
    """Run on a worker: the system does not let it read the weights."""

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    plain = vars(safetensors.torch).setdefault("_plain", safetensors.torch.load_file)
    vars(safetensors.torch)["load_file"] = refuse if is_hidden else plain
    inference._NETWORKS.clear()


def test_a_worker_that_cannot_read_the_checkpoint(
    client: Client, predict: Predictor, check: Check, tmp_path: Path
) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 60, seed=i) for i in range(2)]
    blind, seeing = client.run(os.getpid).items()
    client.run(hide_weights, True, workers=[blind[0]])
    try:
        manifest = predict_files(client, predict, files, tmp_path / "out", chunk_size=20, progress=False)
        assert manifest.complete
        assert list(manifest.workers) == [blind[0]]
        assert "cannot read the weights" in manifest.workers[blind[0]]
        check(tmp_path / "out", files)
        assert {entry.worker.rpartition(":")[2] for entry in manifest.tables} == {str(seeing[1])}
        client.run(hide_weights, True, workers=[seeing[0]])
        with pytest.raises(
            DistributedError, match=r"none of the 2 workers can use .* cannot read the weights"
        ):
            predict_files(client, predict, files, tmp_path / "none", progress=False)
    finally:
        client.run(hide_weights, False)


def test_values_that_make_no_sense(client: Client, predict: Predictor, check: Check, tmp_path: Path) -> None:
    columns = nano_columns(300, seed=4)
    columns["MET_pt"][[17, 200]] = np.nan, np.inf
    write_tree(tmp_path / "bad.root", columns)
    write_tree(tmp_path / "good.root", columns | {"MET_pt": np.nan_to_num(columns["MET_pt"], posinf=0)})
    manifest = predict_files(client, predict, [tmp_path / "bad.root"], tmp_path / "out", progress=False)
    assert manifest.complete
    check(tmp_path / "out", [tmp_path / "good.root"], {tmp_path / "good.root": {17, 200}})
    assert [(f.start, f.stop, f.kind) for f in manifest.failures] == [(17, 18, "input"), (200, 201, "input")]
    assert "event feature 'met' of event 0 must be finite; found nan" in manifest.failures[0].reason


def poison(client: Client, event: int) -> None:
    class Poison(WorkerPlugin):
        """The process dies when it scores a certain event."""

        name = "poison"

        def setup(self, worker: Any) -> None:
            plain = vars(chunk_task).setdefault("_plain", vars(chunk_task)["score_events"])

            def score(predictor: Any, source: Any, chunk: Any) -> Any:
                if event in chunk.events["event"].tolist():
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(predictor, source, chunk)

            vars(chunk_task)["score_events"] = score

        def teardown(self, worker: Any) -> None:
            vars(chunk_task)["score_events"] = vars(chunk_task)["_plain"]

    client.register_plugin(Poison())


@pytest.mark.slow
def test_an_event_that_kills_workers_is_found(predict: Predictor, check: Check, tmp_path: Path) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 40, seed=i, first=100 * i) for i in range(3)]
    with processes() as client:
        poison(client, 113)
        manifest = predict_files(
            client, predict, files, tmp_path / "out", chunk_size=4, most_deaths=1, progress=False
        )
    assert manifest.complete
    check(tmp_path / "out", files, {files[1]: {113}})
    (failure,) = manifest.failures
    assert (failure.file, failure.start, failure.stop, failure.kind) == (str(files[1]), 13, 14, "died")
    assert "died over these events" in failure.reason


@pytest.mark.slow
def test_workers_out_of_memory(predict: Predictor, check: Check, tmp_path: Path) -> None:
    """One event holds so many muons that no worker can read it: the nannies kill the workers."""
    good = write_nano(tmp_path / "good.root", 64, seed=1)
    columns, monster = nano_columns(64, seed=2), nano_columns(1, seed=3, first=64)
    for name in ("pt", "eta", "phi", "mass", "charge"):
        kind = np.int32 if name == "charge" else np.float32
        monster[f"Muon_{name}"] = ak.from_regular(ak.from_numpy(np.ones((1, 60_000_000), kind)))
    joined = {name: ak.concatenate([columns[name], monster[name]]) for name in columns}
    joined = {name: ak.to_numpy(x) if x.ndim == 1 else x for name, x in joined.items()}
    write_tree(tmp_path / "huge.root", joined)
    with processes(memory_limit="1.5GiB") as client:
        manifest = predict_files(
            client, predict, [tmp_path / "huge.root", good], tmp_path / "out", chunk_size=65, progress=False
        )
    assert manifest.complete
    (failure,) = manifest.failures
    assert (failure.start, failure.stop) == (64, 65)
    assert failure.kind in ("died", "memory")


SCHEDULER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""


def start_cluster(folder: Path) -> tuple[subprocess.Popen[str], str]:
    program = folder / "cluster.py"
    program.write_text(SCHEDULER)
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop_cluster(process: subprocess.Popen[str]) -> None:
    """Scheduler, nanny and worker at once: they are a session of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def test_a_scheduler_lost_and_started_again(predict: Predictor, check: Check, tmp_path: Path) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 60, seed=i) for i in range(2)]
    out = tmp_path / "out"
    process, address = start_cluster(tmp_path)
    try:
        with Client(address, timeout=30) as client:
            client.run(slow_down, 0.15)
            killer = when(lambda: tables(out), lambda: stop_cluster(process))
            with pytest.raises(DistributedError, match="connection to the scheduler was lost"):
                predict_files(client, predict, files, out, chunk_size=10, progress=False)
            killer.join()
    finally:
        if process.poll() is None:
            stop_cluster(process)
    before = read_manifest(out)
    assert not before.complete
    assert 0 < len(tables(out)) < 12
    times = {path: path.stat().st_mtime_ns for path in tables(out)}
    with processes(1) as client:
        manifest = predict_files(client, predict, files, out, chunk_size=10, progress=False)
    assert manifest.complete
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in times.items())  # nothing is done twice
    check(out, files)
