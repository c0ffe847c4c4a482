"""Files, clusters and checks of the tests on worker processes."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import psutil
import pytest
import uproot
from distributed import Client, LocalCluster

from evenet_hep import Predictor
from evenet_hep.distributed import Manifest, read_manifest, verify_scores


def nano_columns(n_events: int, *, seed: int, first: int = 0) -> dict[str, Any]:
    """Flat columns of made-up events, a few of them without objects."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "run": np.full(n_events, 1, np.uint32),
        "luminosityBlock": np.full(n_events, 1 + seed, np.uint32),
        "event": np.arange(first, first + n_events, dtype=np.uint64),
        "MET_pt": rng.exponential(40, n_events).astype(np.float32),
        "MET_phi": rng.uniform(-3, 3, n_events).astype(np.float32),
    }
    for name, mean in (("Electron", 0.4), ("Muon", 0.4), ("Jet", 2.0)):
        counts = rng.poisson(mean, n_events)
        total = int(counts.sum())
        values = {
            "pt": rng.exponential(40, total).round(1) + 5,
            "eta": rng.uniform(-2.5, 2.5, total).round(1),
            "phi": rng.uniform(-3, 3, total).round(1),
            "mass": np.full(total, 5.0),
        }
        values |= {"btagDeepFlavB": rng.uniform(0, 1, total).round(1)} if name == "Jet" else {}
        for field, column in values.items():
            columns[f"{name}_{field}"] = ak.unflatten(column.astype(np.float32), counts)
        if name != "Jet":
            columns[f"{name}_charge"] = ak.unflatten(rng.choice([-1, 1], total).astype(np.int32), counts)
    return columns


def write_nano(path: Path, n_events: int, *, seed: int, baskets: int = 1, first: int = 0) -> Path:
    """A ROOT file of made-up events, stored in so many pieces."""
    return write_tree(path, nano_columns(n_events, seed=seed, first=first), baskets=baskets)


def write_tree(path: Path, columns: dict[str, Any], *, baskets: int = 1) -> Path:
    """A ROOT file with a TTree ``Events`` of some columns."""
    types = {
        name: f"var * {column.type.content.content}" if isinstance(column, ak.Array) else column.dtype
        for name, column in columns.items()
    }
    n_events = len(columns["event"])
    edges = [n_events * i // baskets for i in range(baskets + 1)]
    with uproot.recreate(path) as file:
        tree = file.mktree("Events", types)
        for start, stop in itertools.pairwise(edges):
            tree.extend({name: column[start:stop] for name, column in columns.items()})
    return path


@contextlib.contextmanager
def processes(n_workers: int = 2, **options: Any) -> Iterator[Client]:
    """A client of a cluster of worker processes."""
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    cluster = LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
        **options,
    )
    try:
        with Client(cluster) as client:
            yield client
    finally:
        try:
            cluster.close()
        except (
            TimeoutError
        ):  # a machine so busy that its workers do not end in the seconds that Dask gives them
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.pid not in others and "spawn_main" in " ".join(child.cmdline()):
                        child.kill()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes for all tests of a module."""
    with processes() as found:
        yield found


@pytest.fixture(scope="session")
def predict() -> Predictor:
    """The small network of the package."""
    return Predictor("demo", device="cpu")


def read_tables(out: Path) -> dict[tuple[int, int], float]:
    """Score of every event in the tables of a manifest; an event that stands there twice fails the test."""
    found: dict[tuple[int, int], float] = {}
    for entry in read_manifest(out).tables:
        table = ak.from_parquet(out / entry.table)
        assert len(table) == entry.n_events
        ids = zip(table["luminosityBlock"].tolist(), table["event"].tolist(), strict=True)
        for key, score in zip(ids, table["classification_TT"].tolist(), strict=True):
            assert key not in found, f"{key} was scored twice"
            found[key] = score
    return found


@pytest.fixture
def check(predict: Predictor) -> Callable[..., Manifest]:
    """Every good event is scored once, with the number that the Predictor gives."""

    def check(out: Path, files: list[Path], without: dict[Path, set[int]] | None = None) -> Manifest:
        expected: dict[tuple[int, int], float] = {}
        for file in files:
            with uproot.open(file) as root:
                events = root["Events"].arrays()
            scores = predict(events).classification.TT.tolist()
            ids = zip(events["luminosityBlock"].tolist(), events["event"].tolist(), strict=True)
            bad = (without or {}).get(file, set())
            expected |= {key: s for key, s in zip(ids, scores, strict=True) if key[1] not in bad}
        found = read_tables(out)
        assert set(found) == set(expected)
        keys = sorted(expected)
        np.testing.assert_allclose(
            [found[key] for key in keys], [expected[key] for key in keys], atol=1e-5, equal_nan=True
        )
        assert verify_scores(out) == []
        manifest = read_manifest(out)
        assert manifest.n_events == len(expected)
        return manifest

    return check
