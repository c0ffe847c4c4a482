"""Training events: arrays in memory or a split of a training set, and the batches that a run draws from them.

Both kinds of events are read through :meth:`batches`, which gives the same batches for the same seed and epoch, from
any of them on: that is what lets a run resume where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.labels import EventLabels, TrainingBatch
from evenet_hep.events.training_events import index_layout, padded_batch
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

BUCKET = 32  # batches whose events are sorted by multiplicity together


class Events(Protocol):
    """What a run needs of its events; :class:`ArrayEvents` and :class:`Split` have it."""

    @property
    def schema(self) -> EventSchema:
        """Features and classes."""

    @property
    def topology(self) -> Topology | None:
        """Processes and their resonances; None if the events have no such labels."""

    def __len__(self) -> int:
        """Number of events."""

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Batches of one epoch; see :meth:`ArrayEvents.batches`."""


class ArrayEvents:
    """Events in memory.

    Parameters
    ----------
    cloud : EventCloud
        Objects and event features.
    label : int array, shape (n,), optional
        Class of each event, a position in ``cloud.schema.classes``; -1 for an event without. All -1 by default.
    weight : array, shape (n,), optional
        Event weights; 1 by default.
    labels : EventLabels, optional
        Processes, assignments and invisible particles.
    topology : Topology, optional
        Of the processes in ``labels``.

    Raises
    ------
    InputError
        For lengths that differ, classes that are not in the schema, or weights that are not finite.

    Examples
    --------
    >>> schema = EventSchema.standard(classes=("signal", "background"))
    >>> objects, mask = np.ones((6, 18, 7), np.float32), np.ones((6, 18), bool)
    >>> cloud = EventCloud.from_arrays(objects, mask, np.ones((6, 10), np.float32), schema)
    >>> events = ArrayEvents(cloud, [0, 1, 0, 1, 0, 1])
    >>> [batch.label.tolist() for batch in events.batches(4, shuffle=False)]
    [[0, 1, 0, 1], [0, 1]]
    """

    def __init__(
        self,
        cloud: EventCloud,
        label: npt.ArrayLike | None = None,
        *,
        weight: npt.ArrayLike | None = None,
        labels: EventLabels | None = None,
        topology: Topology | None = None,
    ) -> None:
        n = len(cloud.objects)
        self.schema = cloud.schema
        self.topology = topology
        classes = np.full(n, -1) if label is None else np.asarray(label)
        weights = np.ones(n, np.float32) if weight is None else np.asarray(weight, np.float32)
        truth = _no_labels(n) if labels is None else labels
        for name, array in (("label", classes), ("weight", weights), *truth._asdict().items()):
            if len(array) != n:
                msg = f"{name} must have {n} rows, one per event; found {len(array)}"
                raise InputError(msg)
        if len(classes) and not (classes.min() >= -1 and classes.max() < max(len(self.schema.classes), 1)):
            msg = (
                f"label must be -1 or a position in the {len(self.schema.classes)} classes; "
                f"found {classes.min()} to {classes.max()}"
            )
            raise InputError(msg)
        if not np.isfinite(weights).all():
            msg = f"weight must be finite; event {np.flatnonzero(~np.isfinite(weights))[0]} is not"
            raise InputError(msg)
        self._batch = TrainingBatch(
            cloud.objects,
            cloud.mask,
            cloud.event_features,
            classes.astype(np.int64),
            weights,
            truth.process.astype(np.int64),
            truth.indices.astype(np.int64),
            truth.invisible.astype(np.float32),
            truth.invisible_mask.astype(bool),
        )
        self._counts: npt.NDArray[np.int64] = cloud.mask.sum(axis=1)

    @classmethod
    def from_batch(
        cls, batch: TrainingBatch, schema: EventSchema, *, topology: Topology | None = None
    ) -> ArrayEvents:
        """Events that are one large batch already; nothing is copied or checked."""
        events = cls.__new__(cls)
        events.schema, events.topology = schema, topology
        events._batch, events._counts = batch, batch.mask.sum(axis=1)
        return events

    def __len__(self) -> int:
        return len(self._batch.label)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Batches of one epoch.

        Parameters
        ----------
        batch_size : int
            Events per batch and process.
        seed, epoch : int
            Together they decide about the order.
        shuffle : bool
            False keeps the order of the events; the last batch may then be smaller. In a shuffled epoch all batches are
            full (an epoch of fewer events than a batch is one batch), and the events left over change from epoch to
            epoch.
        bucket : bool
            True puts events of similar multiplicity into one batch, which saves padding.
        rank, world_size : int
            Process and number of processes; each gets other events, and as many batches as the others.
        start : int
            Batches to leave out.

        Yields
        ------
        TrainingBatch
        """
        rows = batch_rows(
            self._counts,
            batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            bucket=bucket,
            world_size=world_size,
        )
        for part in rows[rank::world_size][start:]:
            yield self._take(part)

    def _take(self, rows: npt.NDArray[np.int64]) -> TrainingBatch:
        slots = max(int(self._counts[rows].max(initial=1)), 1)
        chosen = _rows_of(self._batch, rows)
        return chosen._replace(objects=chosen.objects[:, :slots], mask=chosen.mask[:, :slots])

    def select(self, rows: npt.ArrayLike) -> ArrayEvents:
        """Some of the events: a bool per event, or positions."""
        chosen = _rows_of(self._batch, np.asarray(rows))
        return ArrayEvents.from_batch(chosen, self.schema, topology=self.topology)

    @property
    def content(self) -> TrainingBatch:
        """All events as one batch, padded to the capacity; shares memory with the events."""
        return self._batch


def _rows_of(batch: TrainingBatch, rows: Any) -> TrainingBatch:
    return TrainingBatch(*(array[rows] for array in batch))


def _no_labels(n: int) -> EventLabels:
    return EventLabels(
        np.full(n, -1, np.int16),
        np.full((n, 0, 0), -1, np.int16),
        np.zeros((n, 0, 0), np.float32),
        np.zeros((n, 0), np.bool_),
    )


def batch_rows(
    counts: npt.NDArray[np.int64],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    bucket: bool,
    world_size: int = 1,
) -> list[npt.NDArray[np.int64]]:
    """Rows of every batch of an epoch, for all processes in turn.

    Parameters
    ----------
    counts : int array, shape (n,)
        Number of objects of each event.
    batch_size, seed, epoch, shuffle, bucket, world_size
        As in :meth:`ArrayEvents.batches`.
    """
    n = len(counts)
    if n == 0:
        return []
    if n < world_size:
        msg = f"{n} events cannot be shared out to {world_size} processes"
        raise InputError(msg)
    if not shuffle and world_size == 1:
        return [np.arange(first, min(first + batch_size, n)) for first in range(0, n, batch_size)]
    if not shuffle:
        shares = np.array_split(np.arange(n), world_size)
        number = -(-len(shares[0]) // batch_size)
        cut = [np.array_split(share, number) for share in shares]
        return [share[i] for i in range(number) for share in cut]
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(n)
    number = n // (batch_size * world_size) * world_size
    if number == 0:
        return list(np.array_split(order, world_size))
    order = order[: number * batch_size]
    if bucket:
        chunk = BUCKET * batch_size
        order = np.concatenate(
            [
                part[np.argsort(counts[part], kind="stable")]
                for part in np.split(order, range(chunk, len(order), chunk))
            ]
        )
    batches = order.reshape(number, batch_size)
    if bucket:
        batches = rng.permutation(batches)
    return list(batches)


class Split:
    """One split of a training set on disk, read batch by batch.

    Parameters
    ----------
    training_set : TrainingSet
        Open.
    name : str
        ``"train"``, ``"val"`` or ``"test"``.
    limit : int, optional
        A smaller sample; a larger one contains it.
    classes : sequence of str, optional
        Only events of these classes.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        name: str,
        *,
        limit: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.training_set = training_set
        self.name = name
        self.chosen: dict[str, Any] = {"limit": limit, "classes": classes}

    @property
    def schema(self) -> EventSchema:
        """Features and classes of the set, with the means and widths of its training events."""
        return self.training_set.schema

    @property
    def topology(self) -> Topology:
        """Processes of the set."""
        return self.training_set.topology

    def __len__(self) -> int:
        return self.training_set.n_events(self.name, **self.chosen)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Batches of one epoch; see :meth:`ArrayEvents.batches`."""
        return self.training_set.batches(
            self.name,
            batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            bucket=bucket,
            rank=rank,
            world_size=world_size,
            start=start,
            drop_last=shuffle and len(self) >= batch_size * world_size,
            **self.chosen,
        )

    def load(self) -> ArrayEvents:
        """All events of the split in memory."""
        events = self.training_set.events(self.name, **self.chosen)
        rows, layout = np.arange(events.n_events), index_layout(self.topology)
        batch = padded_batch(events, rows, layout, self.training_set.n_invisible)
        return ArrayEvents.from_batch(batch, self.schema, topology=self.topology)


def as_splits(train: Events | TrainingSet, val: Events | None = None) -> tuple[Events, Events | None]:
    """Training and validation events: as given or, of a training set, its splits ``train`` and ``val``.

    Parameters
    ----------
    train : Events or TrainingSet
        A whole training set brings its own validation events.
    val : Events, optional
        Validation events.
    """
    if not isinstance(train, TrainingSet):
        return train, val
    if val is None and "val" in train.splits and train.n_events("val"):
        val = Split(train, "val")
    return Split(train, "train"), val
