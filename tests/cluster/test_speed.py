"""Speeds of workers, as ratios: two against one, the whole path against the bare network, memory over many chunks."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import cloudpickle
import numpy as np
import psutil
import pytest
import torch
import uproot
from distributed import Client

from evenet_hep import Predictor
from evenet_hep.distributed import predict_files
from evenet_hep.distributed.chunk_task import Task, inspect_source, score_chunk
from evenet_hep.distributed.fileset import Chunk, read_fileset
from evenet_hep.events.reading import read_chunks
from evenet_hep.events.systematics import shift_energy_scale, shift_soft_met_components
from evenet_hep.model.evenet import EveNet, EveNetConfig

from .conftest import processes, write_nano

# Worker processes need not be able to import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.benchmark
N = int(os.environ.get("EVENET_BENCHMARK_EVENTS", "50000"))


@pytest.fixture
def predict() -> Predictor:
    return Predictor("demo", device="cpu")


def seconds(client: Client, predict: Predictor, files: list[Path], out: Path) -> tuple[float, float]:
    """Time of the clock, and of the workers for their chunks, once everything is warm."""
    predict_files(
        client,
        predict,
        [write_nano(out.parent / f"{out.name}.root", 200, seed=9)],
        out / "warm",
        progress=False,
    )
    start = time.perf_counter()
    manifest = predict_files(client, predict, files, out / "scores", chunk_size=N, progress=False)
    wall = time.perf_counter() - start
    return wall, sum(entry.seconds for entry in manifest.tables)


def bare_rate(file: str, predict: Predictor) -> float:
    """Run on a worker: events per second of the clock in the network alone, whatever else runs meanwhile."""
    (chunk,) = read_chunks(file, predict.schema, chunk_size=N)
    network = predict.network()
    cloud = predict.cloud(chunk.events, network, None, None, None)
    predict.predict_rows(network, cloud[:500])
    start = time.perf_counter()
    for _ in range(3):
        predict.predict_rows(network, cloud)
    return 3 * len(cloud) / (time.perf_counter() - start)


def test_two_workers_against_one(predict: Predictor, tmp_path: Path) -> None:
    """Medians of three rounds in turn, beside what two processes can gain here at all: the network alone in as many."""
    files = [write_nano(tmp_path / f"{i}.root", N, seed=i) for i in range(4)]
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(3):
        for n_workers in (1, 2):
            with processes(n_workers) as client:
                wall, _ = seconds(client, predict, files, tmp_path / f"{turn}-{n_workers}")
                bare = client.run(bare_rate, str(files[0]), predict)
                found[n_workers].append((1 / wall, sum(bare.values())))
    one, two = (np.median(found[n_workers], axis=0) for n_workers in (1, 2))
    turns = ", ".join(f"{b[0] / a[0]:.2f}" for a, b in zip(found[1], found[2], strict=True))
    print(
        f"\ntwo workers: {two[0] / one[0]:.2f} times the events per second of one (by turns {turns}); the network "
        f"alone, in two processes: {two[1] / one[1]:.2f} times; load {os.getloadavg()[0]:.1f}"
    )


def test_many_small_files_against_a_large_one(predict: Predictor, tmp_path: Path) -> None:
    n_files = max(1, N // 250)
    small = [write_nano(tmp_path / f"{i}.root", 200, seed=i) for i in range(n_files)]
    large = [write_nano(tmp_path / "large.root", 200 * n_files, seed=n_files)]
    found = []
    with processes(1) as client:
        predict_files(client, predict, small[:5], tmp_path / "warm", progress=False)
        for i, files in enumerate((small, large)):
            before = sum(client.run(time.process_time).values())
            predict_files(client, predict, files, tmp_path / str(i), progress=False)
            found.append(sum(client.run(time.process_time).values()) - before)
    rates = [value / 200 / n_files * 1e6 for value in found]
    print(
        f"\n{n_files} files of 200 events: {rates[0]:.0f} us of a core per event, {rates[1]:.0f} in one file; "
        f"load {os.getloadavg()[0]:.1f}"
    )


class Costs(NamedTuple):
    """With one worker of one core, which nobody else may use meanwhile.

    Parameters
    ----------
    network : float
        CPU time in seconds of the network alone for one file, on clouds in memory, in the process of a worker.
    chunk : float
        What a worker does for a chunk (open, read, fill, score, write, checksum) over that; CPU time, in turn.
    call : float
        A whole call of predict_files, from making the worker ready to the manifest, over the network alone just before
        and after it, by the clock.
    """

    network: float
    chunk: float
    call: float


def worker_seconds(file: str, predict: Predictor, out: Path, rounds: int) -> list[tuple[float, float]]:
    """Run on a worker: CPU time of its thread in the network alone, and for a file that is one chunk, in turn."""
    (source,) = read_fileset([file])
    found = []
    for i in range(rounds):
        task = Task(predict, out / str(i), "run", 2)
        task.out.mkdir(parents=True)
        report = inspect_source(source, task)
        (chunk,) = read_chunks(file, predict.schema, chunk_size=report.n_events)
        network = predict.network()
        cloud = predict.cloud(chunk.events, network, None, None, None)
        start = time.thread_time()
        predict.predict_rows(network, cloud)
        middle = time.thread_time()
        scored = score_chunk(Chunk(source, 0, report.n_events), report.fingerprint, task)
        assert scored.problem is None
        found.append((middle - start, time.thread_time() - middle))
    return found


def costs(client: Client, predict: Predictor, files: list[Path], out: Path, rounds: int) -> Costs:
    """Medians of some rounds, in each of which the parts take turns; everything is warm."""
    found = []
    before = network_wall(client, files[0], predict)
    for i in range(rounds):
        (turns,) = client.run(worker_seconds, str(files[0]), predict, out / f"chunks{i}", 2).values()
        bare, chunk = turns[1]
        start = time.perf_counter()
        predict_files(client, predict, files, out / f"{i}", chunk_size=10**6, progress=False)
        call = (time.perf_counter() - start) / len(files)
        after = network_wall(client, files[0], predict)
        found.append((bare, chunk / bare, 2 * call / (before + after)))
        before = after
    print("\ncall over network, by rounds:", ", ".join(f"{100 * (row[2] - 1):+.1f} %" for row in found))
    return Costs(*np.median(found, axis=0))


def network_wall(client: Client, file: Path, predict: Predictor) -> float:
    """Seconds of the clock for the network alone on the events of a file, on a worker."""
    (rate,) = client.run(bare_rate, str(file), predict).values()
    return float(uproot.open(file)["Events"].num_entries / rate)


@pytest.mark.parametrize(
    ("size", "n_events", "n_files", "rounds"),
    [("demo", N, 4, 3), ("small", N, 2, 3), ("20M", N // 10, 2, 3)],
)
def test_the_whole_path_against_the_bare_network(
    size: str, n_events: int, n_files: int, rounds: int, tmp_path: Path
) -> None:
    """All take turns in one run; see :class:`Costs`."""
    torch.set_num_threads(1)
    folder = tmp_path / "network"
    if size != "demo":
        torch.manual_seed(1)
        EveNet(EveNetConfig.of_size(size), Predictor("demo").schema).save_pretrained(folder)
    predict = Predictor("demo" if size == "demo" else folder, device="cpu")
    files = [write_nano(tmp_path / f"{i}.root", n_events, seed=i) for i in range(n_files)]
    with processes(1) as client:
        found = costs(client, predict, files, tmp_path / "out", rounds)
    print(
        f"{size}, {n_files} chunks of {n_events} events: network {1e6 * found.network / n_events:.1f} us of a core per "
        f"event; over it, a chunk {100 * (found.chunk - 1):+.1f} %, a whole call of predict_files "
        f"{100 * (found.call - 1):+.1f} %; load {os.getloadavg()[0]:.1f}"
    )


def resident(dask_worker: object = None) -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def test_memory_over_200_chunks(predict: Predictor, tmp_path: Path) -> None:
    files = [write_nano(tmp_path / f"{i}.root", 20_000, seed=i) for i in range(4)]
    with processes(1) as client:
        course = []
        for part in range(4):
            predict_files(client, predict, files, tmp_path / f"out{part}", chunk_size=400, progress=False)
            course += list(client.run(resident).values())
    print(f"\nresident memory in MiB after each 200 chunks: {', '.join(f'{x:.0f}' for x in course)}")
    assert course[-1] < course[0] * 1.1


def test_variations_in_one_pass(predict: Predictor, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (chunk,) = read_chunks(write_nano(tmp_path / "e.root", 5000, seed=3), predict.schema, chunk_size=5000)
    events = chunk.events
    jets = ak.zip({name[4:]: events[name] for name in events.fields if name.startswith("Jet_")})
    met = ak.zip({"pt": events["MET_pt"], "phi": events["MET_phi"]})
    jes = {f"jes{a}": shift_energy_scale(jets, met, a) for a in (-0.02, 0.02)}
    shifts = {
        name: {"collections": {"Jet": shifted.jets}, "met": shifted.met} for name, shifted in jes.items()
    }
    shifts |= {f"soft{x}": {"met": shift_soft_met_components(met, x, 0.0)} for x in (-5.0, 5.0)}
    together, apart = [], []
    for _ in range(4):
        start = time.process_time()
        predict.variations(events, shifts)
        middle = time.process_time()
        for shift in ({}, *shifts.values()):
            predict(events, **shift)
        together.append(middle - start)
        apart.append(time.process_time() - middle)
    ratio = np.median(apart[1:]) / np.median(together[1:])
    print(
        f"\nfour variations and the nominal: {ratio:.2f} times faster in one pass; load {os.getloadavg()[0]:.1f}"
    )
