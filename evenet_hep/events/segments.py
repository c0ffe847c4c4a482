"""Targets of the segmentation: which objects belong to which resonance, derived from the assignment."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.topology import Topology


class SegmentArrays(NamedTuple):
    """The segments of many events.

    Attributes
    ----------
    classes : int64 array, shape (n, Q)
        1 + position in ``topology.segments``; 0, nothing, where there is no segment.
    masks : bool array, shape (n, Q, N)
        True for the objects of a segment.
    """

    classes: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]


def segment_targets(
    process: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    topology: Topology,
    *,
    n_slots: int,
    n_segments: int = 4,
    complete_only: bool = False,
) -> SegmentArrays:
    """Classes and masks of the segments of every event.

    A resonance is a segment if its kind has a name in ``topology.segments`` and an object was found for at least one
    of its daughters. Segments stand in the order of the resonances, without gaps.

    Parameters
    ----------
    process : int array, shape (n,)
        Position in ``topology.processes``; -1 gives no segments.
    indices : int array, shape (n, S, K)
        Slot of every daughter; -1 where it was not reconstructed. As in
        :class:`~evenet_hep.events.labels.EventLabels` and :class:`~evenet_hep.events.labels.TrainingBatch`.
    topology : Topology
        That of the labels.
    n_slots : int
        Number N of slots of the clouds.
    n_segments : int
        Number Q of segments, the queries of the head.
    complete_only : bool
        Leave out resonances of which a daughter is missing.

    Raises
    ------
    InputError
        For indices or processes that are out of range, and a process with more resonances than segments.

    Examples
    --------
    >>> topology = Topology.shipped("higgs_to_4b")
    >>> found = segment_targets(np.array([0]), np.array([[[3, 0], [1, -1]]]), topology, n_slots=4, n_segments=3)
    >>> found.classes.tolist(), found.masks[0, :2].astype(int).tolist()
    ([[1, 1, 0]], [[1, 0, 0, 1], [0, 1, 0, 0]])
    """
    n, n_resonances, _ = indices.shape
    if process.shape != (n,):
        msg = f"process must have shape ({n},), one per row of indices; found {process.shape}"
        raise InputError(msg)
    _check_range("indices", indices, n_slots)
    _check_range("process", process, len(topology.processes))
    kinds, sizes = _segment_of_resonances(topology, n_resonances)
    there = indices >= 0
    n_found = there.sum(axis=2)
    classes = kinds[process]  # -1 takes the last row, which is empty
    is_segment = (classes > 0) & ((n_found == sizes[process]) if complete_only else (n_found > 0))
    if (most := int(is_segment.sum(axis=1).max(initial=0))) > n_segments:
        msg = f"n_segments must be at least {most}, the segments of an event; found {n_segments}"
        raise InputError(msg)
    place = np.cumsum(is_segment, axis=1) - 1
    event, slot = np.nonzero(is_segment)
    result = SegmentArrays(np.zeros((n, n_segments), np.int64), np.zeros((n, n_segments, n_slots), np.bool_))
    result.classes[event, place[event, slot]] = classes[event, slot]
    event, slot, daughter = np.nonzero(there & is_segment[..., None])
    result.masks[event, place[event, slot], indices[event, slot, daughter]] = True
    return result


def _segment_of_resonances(
    topology: Topology, n_resonances: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Class and number of daughters of each resonance of each process; a last row of zeros for no process."""
    shape = (len(topology.processes) + 1, n_resonances)
    classes, sizes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for p, process in enumerate(topology.processes):
        for s, kind in enumerate(process.kinds):
            resonance = topology.resonance(kind)
            classes[p, s] = topology.segments.index(resonance.segment) + 1 if resonance.segment else 0
            sizes[p, s] = len(resonance.daughters)
    return classes, sizes


def _check_range(name: str, values: npt.NDArray[Any], end: int) -> None:
    if values.size and (values.min() < -1 or values.max() >= end):
        wrong = values.min() if values.min() < -1 else values.max()
        msg = f"{name} must lie between -1 and {end - 1}; found {wrong}"
        raise InputError(msg)
