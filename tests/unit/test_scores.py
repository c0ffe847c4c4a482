"""Scores joined back to events: any order, missing and repeated identifiers, identifiers of all sizes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.parquet import TableWriter
from evenet_hep.events.scores import Scores, event_keys, name_of

IDS = ("run", "luminosityBlock", "event")


def write(path: Path, ids: list[tuple[int, int, int]], **columns: Any) -> None:
    table = np.array(ids, np.uint64).reshape(-1, 3)
    with TableWriter(path) as writer:
        writer.append({**dict(zip(IDS, table.T.copy(), strict=True)), **columns})


def events(ids: list[tuple[int, int, int]]) -> ak.Array:
    return ak.zip(dict(zip(IDS, np.array(ids, np.uint64).reshape(-1, 3).T, strict=True)))


def test_several_tables_and_another_order(tmp_path: Path) -> None:
    ids = [(1, 2, 2**63 + i) for i in range(6)]
    write(tmp_path / "a.parquet", ids[:3], TT=np.arange(3.0))
    write(tmp_path / "sub/b.parquet", ids[3:], TT=np.arange(3.0, 6.0))
    scores = pickle.loads(pickle.dumps(Scores(tmp_path)))
    joined = scores.attach(events(ids[::-1]), name="net")
    assert joined["net", "TT"].to_list() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert scores.attach(events([]))["scores", "TT"].to_list() == []


def test_missing_events(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [(1, 1, 1), (1, 1, 256)], TT=np.array([0.1, 0.2]))
    wanted = events([(1, 1, 256), (1, 2, 1), (2, 1, 1)])
    with pytest.raises(
        InputError, match="no scores for 2 of 3 events; the first is run 1, luminosityBlock 2, event 1"
    ):
        Scores(tmp_path).attach(wanted)
    assert Scores(tmp_path).match(wanted, missing="none").to_list() == [{"TT": 0.2}, None, None]


def test_repeated_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [(1, 1, 7), (1, 1, 8), (1, 1, 7)], TT=np.zeros(3))
    with pytest.raises(
        InputError, match=r"1 rows with the identifiers of another row, the first is run 1, .* event 7"
    ):
        Scores(tmp_path).attach(events([(1, 1, 8)]))


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no tables"):
        Scores(tmp_path)
    write(tmp_path / "a.parquet", [(1, 1, 7)], TT=np.zeros(1))
    with pytest.raises(InputError, match="no column 'WW'"):
        Scores(tmp_path, columns=["WW"]).match(events([(1, 1, 7)]))
    with pytest.raises(InputError, match="'event' is missing"):
        Scores(tmp_path).match(events([(1, 1, 7)])[["run", "luminosityBlock"]])
    with pytest.raises(InputError, match="must hold whole numbers"):
        Scores(tmp_path).match(ak.Array([{"run": 1, "luminosityBlock": 1, "event": 7.0}]))
    with pytest.raises(InputError, match="must hold whole numbers"):
        Scores(tmp_path).match(ak.Array([{"run": 1, "luminosityBlock": -1, "event": 7}]))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FileError, match="cannot be read"):
        Scores(tmp_path).match(events([(1, 1, 7)]))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
        min_size=1,
        max_size=40,
    )
)
def test_keys_order_and_name_events_as_their_numbers_do(ids: list[tuple[int, int, int]]) -> None:
    keys = event_keys(events(ids), "the events")
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    assert np.argsort(keys, kind="stable").tolist() == order
    assert [a == b for a, b in zip(keys, keys[::-1], strict=True)] == [
        a == b for a, b in zip(ids, ids[::-1], strict=True)
    ]
    run, lumi, event = ids[0]
    assert name_of(keys[0]) == f"run {run}, luminosityBlock {lumi}, event {event}"
