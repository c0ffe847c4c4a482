"""Labelled events without padding, as flat arrays: what stands between clouds, files and batches.

Jagged quantities are flat arrays with offsets: those of event ``i`` are entries ``offsets[i]`` to ``offsets[i + 1]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.labels import EventLabels, TrainingBatch
from evenet_hep.topology import Topology

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

IDENTIFIERS = ("run", "luminosityBlock", "event")


class TrainingEvents(NamedTuple):
    """Labelled events as flat arrays.

    Parameters
    ----------
    offsets : int64 array, shape (n + 1,)
        Of the objects.
    objects : float32 array, shape (n_objects, F)
        Raw object features, those of an event in order of decreasing pT.
    event_features : float32 array, shape (n, G)
        Raw event features.
    label : int16 array, shape (n,)
        Class, a position in ``schema.classes``; -1 for none.
    weight : float32 array, shape (n,)
        Event weight.
    process : int16 array, shape (n,)
        Position in ``topology.processes``; -1 for none.
    index_offsets : int64 array, shape (n + 1,)
        Of ``indices``.
    indices : int16 array
        Slots of the daughters of all resonances of the event's process, resonance after resonance; -1 where not found.
    invisible_offsets : int64 array, shape (n + 1,)
        Of the invisible particles.
    invisible : float32 array, shape (n_invisible, I)
        Their raw features.
    run, lumi : int64 array, shape (n,)
    event : uint64 array, shape (n,)
        Identifiers.
    """

    offsets: IntArray
    objects: FloatArray
    event_features: FloatArray
    label: npt.NDArray[np.int16]
    weight: FloatArray
    process: npt.NDArray[np.int16]
    index_offsets: IntArray
    indices: npt.NDArray[np.int16]
    invisible_offsets: IntArray
    invisible: FloatArray
    run: IntArray
    lumi: IntArray
    event: npt.NDArray[np.uint64]

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.label)

    @property
    def n_objects(self) -> IntArray:
        """Number of objects of every event, shape (n,)."""
        return np.diff(self.offsets)

    def take(self, rows: npt.NDArray[np.integer[Any]] | slice) -> TrainingEvents:
        """Chosen events, in that order."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.n_events))
        offsets, objects = _take(rows, self.offsets, self.objects)
        index_offsets, indices = _take(rows, self.index_offsets, self.indices[:, None])
        invisible_offsets, invisible = _take(rows, self.invisible_offsets, self.invisible)
        return TrainingEvents(
            offsets,
            objects,
            self.event_features[rows],
            self.label[rows],
            self.weight[rows],
            self.process[rows],
            index_offsets,
            indices[:, 0],
            invisible_offsets,
            invisible,
            self.run[rows],
            self.lumi[rows],
            self.event[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[TrainingEvents]) -> TrainingEvents:
        """The events of all parts, one after the other; at least one part."""
        fields: dict[str, Any] = {}
        for name in cls._fields:
            arrays = [getattr(part, name) for part in parts]
            fields[name] = _join_offsets(arrays) if name.endswith("offsets") else np.concatenate(arrays)
        return cls(**fields)


def training_events(
    cloud: EventCloud,
    labels: EventLabels,
    topology: Topology,
    *,
    label: npt.NDArray[np.integer[Any]],
    weight: npt.NDArray[Any],
    identifiers: Sequence[npt.NDArray[np.integer[Any]]],
) -> TrainingEvents:
    """Labelled events of a cloud.

    Parameters
    ----------
    cloud : EventCloud
        n events.
    labels : EventLabels
        Their truth.
    topology : Topology
        What ``labels.process`` points to.
    label : int array, shape (n,)
        Class of every event; -1 for none.
    weight : array, shape (n,)
        Event weights.
    identifiers : three int arrays, shape (n,)
        Run, luminosity block and event number.

    Raises
    ------
    InputError
        For arrays that do not belong together, a class or process that does not exist, or a weight that is not finite.
    """
    n, schema = len(cloud), cloud.schema
    columns = {"label": label, "weight": weight, "process": labels.process, "indices": labels.indices}
    columns |= dict(zip(IDENTIFIERS, identifiers, strict=True))
    for name, values in columns.items():
        if len(values) != n:
            msg = f"{name} must have {n} entries, one per event; found {len(values)}"
            raise InputError(msg)
    _check_range("label", label, len(schema.classes))
    _check_range("process", labels.process, len(topology.processes))
    if not np.isfinite(weight).all():
        msg = f"weight of event {int(np.argmax(~np.isfinite(weight)))} must be finite; found {weight[~np.isfinite(weight)][0]}"
        raise InputError(msg)
    if labels.indices.size and labels.indices.max() >= schema.capacity:
        msg = f"indices must be below the capacity {schema.capacity}; found {labels.indices.max()}"
        raise InputError(msg)
    if labels.invisible.shape[-1] != len(schema.invisible):
        msg = f"invisible must have the {len(schema.invisible)} features of the schema; found {labels.invisible.shape[-1]}"
        raise InputError(msg)
    process = np.asarray(labels.process, np.int16)
    has_slot = index_layout(topology, labels.indices.shape[1:])[process]  # (n, S, K)
    return TrainingEvents(
        _offsets(cloud.n_objects),
        cloud.objects[cloud.mask],
        cloud.event_features,
        np.asarray(label, np.int16),
        np.asarray(weight, np.float32),
        process,
        _offsets(has_slot.sum(axis=(1, 2))),
        np.asarray(labels.indices, np.int16)[has_slot],
        _offsets(labels.invisible_mask.sum(axis=1)),
        np.asarray(labels.invisible, np.float32)[labels.invisible_mask],
        np.asarray(identifiers[0]).astype(np.int64),
        np.asarray(identifiers[1]).astype(np.int64),
        np.asarray(identifiers[2]).astype(np.uint64),
    )


def index_shape(topology: Topology) -> tuple[int, int]:
    """Largest number of resonances of a process, and of daughters of a resonance: (S, K).

    Examples
    --------
    >>> index_shape(Topology.shipped("bbww")), index_shape(Topology.published())
    ((3, 3), (3, 3))
    """
    n_resonances = max((len(process.resonances) for process in topology.processes), default=0)
    return n_resonances, max((len(r.daughters) for r in topology.resonances), default=0)


def index_layout(topology: Topology, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
    """Which entries of ``indices`` each process has, shape (n_processes + 1, S, K); the last row, all False, is for -1.

    Raises
    ------
    InputError
        If a process does not fit into the shape.
    """
    n_resonances, n_daughters = shape or index_shape(topology)
    needed = index_shape(topology)
    if needed[0] > n_resonances or (needed[0] and needed[1] > n_daughters):
        msg = f"indices must have room for {needed} resonances and daughters; found {(n_resonances, n_daughters)}"
        raise InputError(msg)
    layout = np.zeros((len(topology.processes) + 1, n_resonances, n_daughters), np.bool_)
    for p, process in enumerate(topology.processes):
        for s, kind in enumerate(process.kinds):
            layout[p, s, : len(topology.resonance(kind).daughters)] = True
    return layout


def padded_batch(
    events: TrainingEvents,
    rows: npt.NDArray[np.integer[Any]],
    layout: npt.NDArray[np.bool_],
    n_invisible: int,
) -> TrainingBatch:
    """Chosen events as padded arrays, with no more padding than the largest of them needs.

    Parameters
    ----------
    events : TrainingEvents
    rows : int array, shape (B,)
        Positions of the events.
    layout : bool array, shape (n_processes + 1, S, K)
        From :func:`index_layout`.
    n_invisible : int
        Slots for invisible particles; further ones are left out.

    Returns
    -------
    TrainingBatch
    """
    rows = np.asarray(rows, np.int64)
    n_events, n_slots = len(rows), _largest(rows, events.offsets)
    objects = np.empty((n_events, n_slots, events.objects.shape[1]), np.float32)
    mask = np.empty((n_events, n_slots), np.bool_)
    _pad(rows, events.offsets, events.objects, objects, mask)
    invisible = np.empty((n_events, n_invisible, events.invisible.shape[1]), np.float32)
    invisible_mask = np.empty((n_events, n_invisible), np.bool_)
    _pad(rows, events.invisible_offsets, events.invisible, invisible, invisible_mask)
    process = events.process[rows].astype(np.int64)
    indices = np.full((n_events, layout.shape[1] * layout.shape[2]), -1, np.int64)
    _spread(rows, events.index_offsets, events.indices, process, layout.reshape(len(layout), -1), indices)
    return TrainingBatch(
        objects,
        mask,
        events.event_features[rows],
        events.label[rows].astype(np.int64),
        events.weight[rows],
        process,
        indices.reshape(n_events, *layout.shape[1:]),
        invisible,
        invisible_mask,
    )


def _check_range(name: str, values: npt.NDArray[np.integer[Any]], size: int) -> None:
    bad = (np.asarray(values) < -1) | (np.asarray(values) >= size)
    if bad.any():
        event = int(np.argmax(bad))
        msg = (
            f"{name} of event {event} must be between 0 and {size - 1}, or -1 for none; found {values[event]}"
        )
        raise InputError(msg)


def _offsets(counts: npt.NDArray[Any]) -> IntArray:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _join_offsets(parts: Sequence[IntArray]) -> IntArray:
    return _offsets(np.concatenate([np.diff(part) for part in parts]))


def _take(
    rows: npt.NDArray[Any], offsets: IntArray, values: npt.NDArray[Any]
) -> tuple[IntArray, npt.NDArray[Any]]:
    """Jagged values of chosen events."""
    taken = _offsets((offsets[1:] - offsets[:-1])[rows])
    out = np.empty((int(taken[-1]), values.shape[1]), values.dtype)
    _copy(np.asarray(rows, np.int64), offsets, values, taken, out)
    return taken, out


@njit(cache=True, nogil=True)
def _copy(rows, offsets, values, taken, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        first = offsets[rows[i]]
        for j in range(taken[i + 1] - taken[i]):
            for f in range(values.shape[1]):
                out[taken[i] + j, f] = values[first + j, f]


@njit(cache=True, nogil=True)
def _largest(rows, offsets):  # type: ignore[no-untyped-def]
    """Largest multiplicity of some events, at least 1."""
    largest = 1
    for row in rows:
        largest = max(largest, offsets[row + 1] - offsets[row])
    return largest


@njit(cache=True, nogil=True)
def _pad(rows, offsets, values, out, mask):  # type: ignore[no-untyped-def]
    """Copy jagged rows into slots, zeros behind them."""
    n_slots, n_features = out.shape[1], out.shape[2]
    for i in range(len(rows)):
        first = offsets[rows[i]]
        filled = min(offsets[rows[i] + 1] - first, n_slots)
        for j in range(filled):
            for f in range(n_features):
                out[i, j, f] = values[first + j, f]
            mask[i, j] = True
        for j in range(filled, n_slots):
            for f in range(n_features):
                out[i, j, f] = 0
            mask[i, j] = False


@njit(cache=True, nogil=True)
def _spread(rows, offsets, values, process, layout, out):  # type: ignore[no-untyped-def]
    """Put the compact indices of each event where its process has them; ``out`` comes in as -1."""
    for i in range(len(rows)):
        entry, stop = offsets[rows[i]], offsets[rows[i] + 1]
        for k in range(out.shape[1]):
            if layout[process[i], k] and entry < stop:
                out[i, k] = values[entry]
                entry += 1
