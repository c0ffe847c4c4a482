"""Checks of the tables that baselines are trained on, and the splits they share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def checked_table(
    name: str, values: npt.ArrayLike, *, n_features: int | None = None, missing: bool = True
) -> FloatArray:
    """Features as float64, shape (n_events, n_features).

    Parameters
    ----------
    name : str
        What the table is called in messages.
    values : array-like, shape (n_events, n_features)
        Finite.
    n_features : int, optional
        How many features there have to be.
    missing : bool
        NaN may stand for a missing value.

    Raises
    ------
    InputError
        For another shape, infinities, and NaN unless it is allowed.

    Examples
    --------
    >>> checked_table("features", [[1, 2], [3, np.nan]]).shape
    (2, 2)
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.shape[1] or n_features not in (None, array.shape[1]):
        wanted = "n_features" if n_features is None else n_features
        msg = f"{name} must have shape (n_events, {wanted}); found {array.shape}"
        raise InputError(msg)
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        msg = f"{name} must be {'NaN or ' if missing else ''}finite; found {array[bad][0]} in column {np.argwhere(bad)[0][1]}"
        raise InputError(msg)
    return array


def checked_labels(values: npt.ArrayLike, n_events: int) -> tuple[IntArray, IntArray]:
    """Labels as numbers from 0 to n_classes - 1, and the classes they stand for, ascending.

    Raises
    ------
    InputError
        For labels that are no whole numbers, another length, or fewer than two classes.

    Examples
    --------
    >>> checked_labels([7, 3, 7], 3)
    (array([1, 0, 1]), array([3, 7]))
    """
    labels = np.asarray(values)
    if labels.shape != (n_events,) or labels.dtype.kind not in "biu":
        msg = f"labels must be {n_events} whole numbers; found {labels.dtype} of shape {labels.shape}"
        raise InputError(msg)
    classes, index = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        msg = f"labels must hold at least two classes; found {classes.tolist()}"
        raise InputError(msg)
    return index.astype(np.int64), classes.astype(np.int64)


def checked_weights(values: npt.ArrayLike | None, n_events: int) -> FloatArray:
    """Event weights as float64, all one by default.

    Raises
    ------
    InputError
        For another length, weights that are negative or not finite, or that are all zero.

    Examples
    --------
    >>> checked_weights(None, 2)
    array([1., 1.])
    """
    weights = np.ones(n_events) if values is None else np.asarray(values, np.float64)
    if weights.shape != (n_events,) or not np.isfinite(weights).all() or (weights < 0).any():
        msg = f"weights must be {n_events} finite numbers, none negative; found shape {weights.shape}, smallest {weights.min(initial=0):g}"
        raise InputError(msg)
    if n_events and not weights.any():
        msg = "weights must not all be zero"
        raise InputError(msg)
    return weights


def balanced(labels: IntArray, weights: FloatArray) -> FloatArray:
    """Weights with the same total in every class, of mean 1 over all events.

    Raises
    ------
    InputError
        For a class without weight.

    Examples
    --------
    >>> balanced(np.array([0, 0, 0, 1]), np.ones(4)).round(3)
    array([0.667, 0.667, 0.667, 2.   ])
    """
    totals = np.bincount(labels, weights)
    if not (totals > 0).all():
        msg = f"every class needs weight; found totals {totals.tolist()}"
        raise InputError(msg)
    return np.asarray(weights * (len(labels) / len(totals) / totals)[labels])


def held_out(labels: IntArray, fraction: float, *, seed: int) -> BoolArray:
    """Which events are kept for validation: the same fraction of every class, at least one event, at random.

    Raises
    ------
    InputError
        For a class with fewer than two events.

    Examples
    --------
    >>> held_out(np.array([0] * 8 + [1] * 4), 0.25, seed=1).reshape(3, 4).sum(axis=1)
    array([1, 1, 1])
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            msg = "every class needs at least two events, one to train and one to validate; found a class with one"
            raise InputError(msg)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held
