"""The order of an epoch: random, but with every source spread evenly over it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evenet_hep.events.batch_plan import (
    Piece,
    batch_rows,
    batch_sizes,
    cut_pieces,
    pieces_of,
    share_start,
    shuffled,
)
from evenet_hep.events.training_files import ROWS_PER_GROUP


def pieces(n: int) -> list[Piece]:
    return [Piece(i, 0, np.arange(10)) for i in range(n)]


def test_every_stretch_holds_all_sources_in_proportion() -> None:
    sources = [0] * 100 + [1] * 20 + [2] * 1
    orders = set()
    for seed in range(20):
        order = [piece.part for piece in shuffled(pieces(121), sources, np.random.default_rng(seed))]
        assert sorted(order) == list(range(121))
        orders.add(tuple(order))
        for source, number in ((0, 100), (1, 20)):
            so_far = np.cumsum([sources[part] == source for part in order])
            expected = np.arange(1, 122) * number / 121
            assert np.abs(so_far - expected).max() <= 3  # at most one per source
    assert len(orders) == 20


def test_any_piece_may_come_at_any_place() -> None:
    first = [shuffled(pieces(8), [0] * 8, np.random.default_rng(seed))[0].part for seed in range(800)]
    counts = np.bincount(first, minlength=8)
    assert np.abs(counts - 100).max() < 5 * np.sqrt(800 * (1 / 8) * (7 / 8))


def test_pieces_are_row_groups() -> None:
    rows = np.array([0, 5, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, 3 * ROWS_PER_GROUP + 2])
    found = pieces_of([rows, np.array([], np.int64), np.array([7])])
    assert [(piece.part, piece.group, piece.rows.tolist()) for piece in found] == [
        (0, 0, [0, 5, ROWS_PER_GROUP - 1]),
        (0, 1, [0]),
        (0, 3, [2]),
        (2, 0, [7]),
    ]


def test_cuts_follow_each_other() -> None:
    whole = pieces(5)
    edges = [0, 3, 10, 10, 27, 50]
    parts = [cut_pieces(whole, a, b) for a, b in itertools.pairwise(edges)]
    assert [sum(len(piece.rows) for piece in part) for part in parts] == [3, 7, 0, 17, 23]
    joined = [(piece.part, int(row)) for part in parts for piece in part for row in piece.rows]
    assert joined == [(p, r) for p in range(5) for r in range(10)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    ("n", "batch_size", "world_size"), [(100, 7, 3), (99, 33, 3), (1000, 64, 7), (0, 5, 2)]
)
def test_shares_lie_side_by_side(n: int, batch_size: int, world_size: int, drop_last: bool) -> None:
    position = 0
    for rank in range(world_size):
        assert share_start(n, rank, world_size, drop_last, batch_size) == position
        position += int(batch_sizes(n, batch_size, rank, world_size, drop_last).sum())
    assert position == (n // world_size // batch_size * batch_size * world_size if drop_last else n)


def test_batches_of_similar_events() -> None:
    counts = np.random.default_rng(1).integers(0, 10, 95)
    sizes = np.array([20, 20, 20, 20, 15])
    rows = batch_rows(counts, sizes, np.random.default_rng(2), bucket=True)
    assert sorted(np.concatenate(rows).tolist()) == list(range(95))
    assert sorted(len(batch) for batch in rows) == [15, 20, 20, 20, 20]
    spans = sorted((counts[batch].min(), counts[batch].max()) for batch in rows)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
