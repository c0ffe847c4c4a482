"""Which events make which batch: an epoch cut into pieces, put in order, shared among ranks and cut into batches.

Nothing here reads a file, and nothing depends on anything but its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.training_files import ROWS_PER_GROUP


class Piece(NamedTuple):
    """Rows of one row group of a part, counted from its beginning."""

    part: int
    group: int
    rows: npt.NDArray[np.int64]


def pieces_of(chosen: Sequence[npt.NDArray[np.int64]]) -> list[Piece]:
    """The chosen rows of every part, in increasing order, a row group at a time."""
    pieces = []
    for p, rows in enumerate(chosen):
        groups = rows // ROWS_PER_GROUP
        for inside in np.split(rows, np.flatnonzero(np.diff(groups)) + 1):
            if len(inside):
                group = int(inside[0]) // ROWS_PER_GROUP
                pieces.append(Piece(p, group, inside - group * ROWS_PER_GROUP))
    return pieces


def shuffled(pieces: Sequence[Piece], sources: Sequence[int], rng: np.random.Generator) -> list[Piece]:
    """The pieces in random order, every source spread evenly over it.

    Parameters
    ----------
    pieces : sequence of Piece
    sources : sequence of int
        Source of each piece.
    rng : numpy.random.Generator
    """
    source = np.asarray(sources, np.int64)
    place = np.empty(len(pieces))
    for s in np.unique(source):
        mine = np.flatnonzero(source == s)
        place[mine] = (rng.permutation(len(mine)) + rng.random(len(mine))) / len(mine)
    return [pieces[i] for i in np.argsort(place, kind="stable")]


def share_start(n_events: int, rank: int, world_size: int, drop_last: bool, batch_size: int) -> int:
    """Where a rank's events begin in the order of all."""
    if drop_last:
        return rank * (n_events // world_size // batch_size) * batch_size
    return rank * n_events // world_size


def batch_sizes(
    n_events: int, batch_size: int, rank: int, world_size: int, drop_last: bool
) -> npt.NDArray[np.int64]:
    """Sizes of a rank's batches; every rank has the same number of them."""
    if drop_last:
        return np.full(n_events // world_size // batch_size, batch_size, np.int64)
    mine = (rank + 1) * n_events // world_size - rank * n_events // world_size
    most = -(-n_events // world_size)  # of the rank with most events
    number = -(-most // batch_size)
    if n_events // world_size < number:
        msg = (
            f"{n_events} events cannot be split into as many batches of {batch_size} on each of {world_size} ranks; "
            "use drop_last, fewer ranks or larger batches"
        )
        raise InputError(msg)
    sizes = np.full(number, batch_size, np.int64)
    if number:
        sizes[-1] = mine - batch_size * (number - 1)
        if sizes[-1] == 0:  # another rank has one event more: no batch may be empty
            sizes[-2:] = batch_size - 1, 1
    return sizes


def cut_pieces(pieces: Sequence[Piece], first: int, last: int) -> list[Piece]:
    """The events ``first`` to ``last``, counted through all pieces."""
    kept, position = [], 0
    for piece in pieces:
        low, high = max(first - position, 0), min(last - position, len(piece.rows))
        if low < high:
            kept.append(piece._replace(rows=piece.rows[low:high]))
        position += len(piece.rows)
    return kept


def batch_rows(
    n_objects: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    rng: np.random.Generator | None,
    bucket: bool,
) -> list[npt.NDArray[np.int64]]:
    """Which events of a pool make each batch."""
    order = np.arange(len(n_objects)) if rng is None else rng.permutation(len(n_objects))
    if bucket:
        order = order[np.argsort(n_objects[order], kind="stable")]
    rows = np.split(order, np.cumsum(sizes)[:-1])
    if bucket and rng is not None:
        rows = [rows[i] for i in rng.permutation(len(rows))]
    return rows
