"""What is counted and measured on training events before a run: classes, processes, means and widths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.events.statistics import Moments, effective_number_weights, mean_and_width
from evenet_hep.schema import EventSchema
from evenet_hep.training.dataset import Events

FloatArray = npt.NDArray[np.float64]


class ClassCounts(NamedTuple):
    """How many events of each class and process there are.

    Attributes
    ----------
    events : float64 array, shape (C,)
        Events, or sum of weights, of each class.
    processes : float64 array, shape (P,)
        The same of each process.
    """

    events: npt.NDArray[np.float64]
    processes: npt.NDArray[np.float64]


def count_classes(events: Events, *, weighted: bool = False) -> ClassCounts:
    """Events, or their sum of weights, in each class and process."""
    classes = np.zeros(len(events.schema.classes))
    processes = np.zeros(0 if events.topology is None else len(events.topology.processes))
    for batch in events.batches(16_384, shuffle=False, bucket=False):
        weight = batch.weight.astype(np.float64) if weighted else np.ones(len(batch.label))
        classes += _summed(batch.label, weight, len(classes))
        processes += _summed(batch.process, weight, len(processes))
    return ClassCounts(classes, processes)


def _summed(label: npt.NDArray[np.int64], weight: FloatArray, n: int) -> FloatArray:
    known = (label >= 0) & (label < n)
    return np.bincount(label[known], weight[known], n).astype(np.float64)


def class_weights(counts: npt.ArrayLike, balance: str) -> npt.NDArray[np.float32]:
    """Weight of each class in a loss.

    Parameters
    ----------
    counts : array-like, shape (C,)
        Events of each class.
    balance : {"none", "equal", "effective"}
        All one; in inverse proportion to the number of events; or, as published, to the effective number, see
        :func:`~evenet_hep.events.statistics.effective_number_weights`. In the last two a class without events gets
        zero, and the others sum to their number.

    Examples
    --------
    >>> class_weights([100, 300], "equal")
    array([1.5, 0.5], dtype=float32)
    >>> class_weights([100, 300], "effective").round(3)
    array([1.409, 0.591], dtype=float32)
    """
    numbers = np.maximum(np.asarray(counts, np.float64), 0.0)
    if balance == "none" or not numbers.any():
        return np.ones(len(numbers), np.float32)
    if balance == "effective":
        return effective_number_weights(numbers).astype(np.float32)
    weights = np.divide(1.0, numbers, out=np.zeros_like(numbers), where=numbers > 0)
    return np.asarray(weights * (numbers > 0).sum() / weights.sum(), np.float32)


def measured_schema(events: Events) -> EventSchema:
    """The schema of some events, with means and widths measured on them.

    Parameters
    ----------
    events : Events
        Usually the training events alone.

    Returns
    -------
    EventSchema
        Padding does not count; zeros that are real do. A feature that never changes gets the width 1.
    """
    schema = events.schema
    groups = {
        "objects": schema.objects,
        "event_features": schema.event_features,
        "invisible": schema.invisible,
    }
    found: dict[str, list[Moments]] = {key: [Moments()] * len(features) for key, features in groups.items()}
    number = Moments()
    for batch in events.batches(16_384, shuffle=False, bucket=False):
        tables = {
            "objects": batch.objects[batch.mask],
            "event_features": batch.event_features,
            "invisible": batch.invisible[batch.invisible_mask],
        }
        for key, features in groups.items():
            if tables[key].shape[-1] == len(features):
                parts = zip(features, tables[key].T, found[key], strict=True)
                found[key] = [m.merge(Moments.of(x, log=f.transform == "log")) for f, x, m in parts]
        number = number.merge(Moments.of(batch.mask.sum(axis=1)))
    pairs = {
        key: {
            f.name: mean_and_width(m, f.name) for f, m in zip(groups[key], moments, strict=True) if m.weight
        }
        for key, moments in found.items()
    }
    return schema.with_statistics(**pairs, n_objects=mean_and_width(number, "n_objects"))
