"""Collections of objects as they are written: flat columns and the number of objects per event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Collection:
    """Objects of one kind in many events.

    Parameters
    ----------
    counts : int64 array, shape (n_events,)
        Objects per event.
    columns : dict of arrays, shape (n_objects,)
        One per field.

    Examples
    --------
    >>> muons = Collection(np.array([2, 0, 1]), {"pt": np.array([30.0, 20.0, 50.0])})
    >>> muons.event.tolist(), muons.offsets.tolist()
    ([0, 0, 2], [0, 2, 2, 3])
    """

    counts: npt.NDArray[np.int64]
    columns: Columns

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Start of each event in the columns."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def event(self) -> npt.NDArray[np.int64]:
        """Event of each object."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def position(self) -> npt.NDArray[np.int64]:
        """Position of each object in its event."""
        return np.arange(int(self.counts.sum())) - np.repeat(self.offsets[:-1], self.counts)

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Collection:
        """The chosen objects; indices must keep the order of events."""
        counts = np.bincount(self.event[chosen], minlength=len(self.counts))
        return Collection(counts, {name: values[chosen] for name, values in self.columns.items()})

    def select_events(self, passed: npt.NDArray[np.bool_]) -> Collection:
        """The objects of events that passed; the others are dropped."""
        chosen = np.repeat(passed, self.counts)
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Collection(self.counts[passed], columns)

    def sorted_by_pt(self) -> Collection:
        """The hardest first in every event."""
        return self.take(np.lexsort((-self.columns["pt"], self.event)))

    def count(self, passed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Number of objects per event for which ``passed`` is True."""
        return np.bincount(self.event[passed], minlength=len(self.counts))


def concatenate(collections: Iterable[Collection]) -> Collection:
    """Events of one batch after those of another; the fields must be the same."""
    parts = list(collections)
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Collection(np.concatenate([part.counts for part in parts]), columns)


def local_index(
    found: npt.NDArray[np.int64], event: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Positions within events from positions in flat arrays; -1 stays -1.

    Examples
    --------
    >>> local_index(np.array([3, -1]), np.array([1, 1]), np.array([0, 2, 5]))
    array([ 1, -1])
    """
    return np.where(found >= 0, found - offsets[event], -1)


def concatenate_objects(collections: Iterable[Collection]) -> Collection:
    """Objects of several collections of the same events, merged event by event; the fields must be the same.

    Examples
    --------
    >>> one, other = Collection(np.array([1, 1]), {"pt": np.array([1.0, 2.0])}), Collection(np.array([0, 1]), {"pt": np.array([3.0])})
    >>> concatenate_objects([one, other])["pt"].tolist()
    [1.0, 2.0, 3.0]
    """
    parts = list(collections)
    order = np.argsort(np.concatenate([part.event for part in parts]), kind="stable")
    columns = {
        name: np.concatenate([part.columns[name] for part in parts])[order] for name in parts[0].columns
    }
    return Collection(np.sum([part.counts for part in parts], axis=0), columns)
