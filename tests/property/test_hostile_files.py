"""Files nobody should have written: every one ends in an answer or in one clear error, and checkpoints run no code."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from evenet_hep import EveNet, Predictor
from evenet_hep.distributed.chunk_task import Task, inspect_source, score_chunk
from evenet_hep.distributed.fileset import Chunk, SourceFile
from evenet_hep.errors import CheckpointError, EveNetError
from evenet_hep.scoring import score_files
from evenet_hep.share import find_checkpoint

PREDICT = Predictor("demo", device="cpu")
N = 12
Columns = dict[str, Any]


def good_columns() -> Columns:
    rng = np.random.default_rng(7)
    columns: Columns = {
        "run": np.ones(N, np.uint32),
        "luminosityBlock": np.ones(N, np.uint32),
        "event": np.arange(N, dtype=np.uint64),
        "MET_pt": rng.exponential(40, N).astype(np.float32),
        "MET_phi": rng.uniform(-3, 3, N).astype(np.float32),
    }
    for name in ("Electron", "Muon", "Jet"):
        counts = rng.poisson(1.5, N)
        for field in ("pt", "eta", "phi", "mass", "charge", "btagDeepFlavB"):
            values = rng.uniform(0.1, 3, counts.sum()).astype(np.float32)
            columns[f"{name}_{field}"] = ak.unflatten(values, counts)
        columns[f"n{name}"] = counts.astype(np.int32)
    return columns


NAMES = sorted(good_columns())
VALUES = (np.nan, np.inf, -np.inf, -1.0, 3e38, 1e-45, 0.0, -0.0)
WRONG: dict[str, Callable[[], Any]] = {
    "text": lambda: ak.Array(["\u0000\U0001f4a5 '; DROP TABLE" for _ in range(N)]),
    "lists of text": lambda: ak.Array([["a"], []] * (N // 2)),
    "numbers": lambda: np.arange(N, dtype=np.float64),
    "negative numbers": lambda: -np.arange(N, dtype=np.int32) - 1,
    "huge numbers": lambda: np.full(N, 2**64 - 1, np.uint64),
    "bools": lambda: np.ones(N, bool),
    "lists of bools": lambda: ak.Array([[True], []] * (N // 2)),
    "lists of lists": lambda: ak.Array([[[1.0], []], []] * (N // 2)),
    "missing values": lambda: ak.Array([None, 1.0] * (N // 2)),
    "missing lists": lambda: ak.Array([None, [1.0]] * (N // 2)),
    "lists with missing values": lambda: ak.Array([[None], [1.0]] * (N // 2)),
    "records": lambda: ak.Array([{"pt": 1.0}] * N),
    "other counts": lambda: ak.Array([[1.0] * i for i in range(N)]),
    "complex numbers": lambda: ak.Array([[1.0], []] * (N // 2)),
    "very many": lambda: ak.Array([[1.0] * 40_000, *([[]] * (N - 1))]),
}


@st.composite
def damage(draw: Any) -> tuple[str, str, Any]:
    """Something that is wrong with one branch."""
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(["missing", "value", *WRONG]))
    return name, kind, draw(st.tuples(st.sampled_from(VALUES), st.integers(0, 1000)))


def apply(columns: Columns, name: str, kind: str, detail: tuple[float, int]) -> None:
    if kind == "missing":
        columns.pop(name, None)
    elif kind in WRONG:
        columns[name] = WRONG[kind]()
    elif name in columns:
        values = columns[name]
        try:
            flat = ak.to_numpy(ak.flatten(values, axis=None)).astype(np.float64)
        except (TypeError, ValueError):
            return
        if len(flat) and getattr(values, "ndim", 1) <= 2:
            flat[detail[1] % len(flat)] = detail[0]
            columns[name] = ak.unflatten(flat, ak.num(values)) if values.ndim == 2 else flat


def score_all(path: Path, out: Path) -> None:
    """What a worker does with the file; nothing may be unexpected, and no event may be forgotten."""
    source = SourceFile("", str(path))
    task = Task(PREDICT, out, "run", 2)
    report = inspect_source(source, task)
    problem = report.problem
    if problem is None:
        scored = score_chunk(Chunk(source, 0, report.n_events), report.fingerprint, task)
        problem = scored.problem
        lost = sum(hole.stop - hole.start for hole in scored.holes)
        assert problem is not None or scored.n_events + lost == report.n_events
        assert all(hole.kind == "input" for hole in scored.holes)
    if problem is not None:
        assert problem.kind in ("file", "input"), problem
        assert "\n" not in problem.reason
        assert len(problem.reason) > 20


@settings(max_examples=30)
@given(st.lists(damage(), min_size=1, max_size=3))
def test_wrong_branches(damages: list[tuple[str, str, Any]]) -> None:
    columns = good_columns()
    for one in damages:
        apply(columns, *one)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        ak.to_parquet(ak.zip(columns, depth_limit=1), path)
        score_all(path, Path(folder))


@settings(max_examples=8)
@given(st.lists(damage(), min_size=1, max_size=2))
def test_wrong_branches_of_root_files(damages: list[tuple[str, str, Any]]) -> None:
    columns = good_columns()
    for name, kind, detail in damages:
        if kind not in ("records", "missing values", "missing lists", "lists with missing values"):
            apply(columns, name, kind, detail)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.root"
        with uproot.recreate(path) as file:
            file["Events"] = columns
        score_all(path, Path(folder))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_bytes_of_root_files(overwritten: list[tuple[float, bytes]], kept: float) -> None:
    whole = root_bytes()
    content = bytearray(whole)
    for where, text in overwritten:
        start = int(where * (len(content) - len(text)))
        content[start : start + len(text)] = text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.root"
        path.write_bytes(bytes(content[: int(len(content) * max(kept, 0.5)) if kept < 0.9 else None]))
        score_all(path, Path(folder))


_ROOT: list[bytes] = []


def root_bytes() -> bytes:
    if not _ROOT:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.root"
            columns = good_columns()
            kinds = {n: "var * float32" if isinstance(c, ak.Array) else c.dtype for n, c in columns.items()}
            with uproot.recreate(path) as file:
                file.mktree("Events", kinds).extend(columns)
            _ROOT.append(path.read_bytes())
    return _ROOT[0]


def test_no_events(tmp_path: Path) -> None:
    ak.to_parquet(ak.zip(good_columns(), depth_limit=1)[:0], tmp_path / "none.parquet")
    score_all(tmp_path / "none.parquet", tmp_path)


@given(st.text(max_size=20))
@settings(max_examples=20)
def test_absurd_names(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.root"
        path.write_bytes(root_bytes())
        with pytest.raises(EveNetError):
            score_files(PREDICT, [path], Path(folder) / "out", tree=f"x{name}")
        table = Chunk(SourceFile(name, str(path)), 0, 1).table
        assert (Path(folder) / "out" / table).resolve().is_relative_to((Path(folder) / "out").resolve())


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("writer", ["torch", "legacy torch", "pickle"])
def test_a_checkpoint_runs_no_code(tmp_path: Path, writer: str) -> None:
    trap = tmp_path / "trap"
    file = tmp_path / "evil.ckpt"
    content = {"state_dict": {"model.x": torch.zeros(1)}, "hyper_parameters": Malicious(trap)}
    if writer == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(CheckpointError):
        EveNet.from_pretrained(file)
    assert not trap.exists()


def test_a_folder_with_a_pickle_for_weights_runs_no_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    shutil.copytree(find_checkpoint("demo"), tmp_path / "net")
    (tmp_path / "net/model.safetensors").write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        Predictor(tmp_path / "net", device="cpu").network()
    assert not trap.exists()
