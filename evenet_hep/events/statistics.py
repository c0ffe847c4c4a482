"""Means, widths and class balances of a training set, in one pass and mergeable in any number of parts.

A part of the data gives its :class:`Moments`; moments of parts are merged exactly (Chan, Golub, LeVeque 1979).
Objects come without padding, so that a zero is a value like any other. Padding is never told from a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.schema import Feature

FloatArray = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """Weight, mean and spread of one feature, after the logarithm where its transform has one, and its raw range.

    Parameters
    ----------
    weight : float
        Sum of the weights; the number of values without weights.
    mean : float
        Weighted mean; 0 if there are no values.
    square : float
        Weighted sum of squared deviations from the mean.
    low, high : float
        Smallest and largest raw value; inf and -inf if there are none.

    Examples
    --------
    >>> import numpy as np
    >>> one, two = Moments.of(np.array([0.0, 1.0])), Moments.of(np.array([5.0]))
    >>> merged = one.merge(two)
    >>> merged.mean, round(merged.std, 6) == round(float(np.std([0.0, 1.0, 5.0])), 6)
    (2.0, True)
    """

    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    @classmethod
    def of(
        cls, values: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None, *, log: bool = False
    ) -> Moments:
        """Moments of some values.

        Parameters
        ----------
        values : array, shape (n,)
            Raw values.
        weights : array, shape (n,), optional
            One weight per value.
        log : bool
            Whether mean and spread are those of log(1 + value).
        """
        if len(values) == 0:
            return cls()
        raw = values.astype(np.float64)
        seen = np.log1p(raw) if log else raw
        total = float(len(raw) if weights is None else weights.sum(dtype=np.float64))
        low, high = float(raw.min()), float(raw.max())
        if total == 0:
            return cls(low=low, high=high)
        mean = float(np.average(seen, weights=weights))
        squares = np.square(seen - mean)
        square = float(squares.sum() if weights is None else squares @ weights.astype(np.float64))
        return cls(total, mean, square, low, high)

    def merge(self, other: Moments) -> Moments:
        """Moments of both together."""
        weight = self.weight + other.weight
        low, high = min(self.low, other.low), max(self.high, other.high)
        if weight == 0:
            return Moments(low=low, high=high)
        shift = other.mean - self.mean
        share = other.weight / weight
        return Moments(
            weight,
            self.mean + shift * share,
            self.square + other.square + shift * shift * self.weight * share,
            low,
            high,
        )

    def scaled(self, factor: float) -> Moments:
        """The same with all weights times a factor."""
        return self._replace(weight=self.weight * factor, square=self.square * factor)

    @property
    def std(self) -> float:
        """Standard deviation; 0 if there are no values."""
        return float(np.sqrt(max(self.square / self.weight, 0.0))) if self.weight > 0 else 0.0


def moments_of(
    features: Sequence[Feature], columns: npt.NDArray[np.float32], weights: npt.NDArray[Any] | None = None
) -> list[Moments]:
    """Moments of every feature.

    Parameters
    ----------
    features : sequence of Feature
        Their transform says whether there is a logarithm.
    columns : float32 array, shape (n, n_features)
        Raw values of real objects only.
    weights : array, shape (n,), optional

    Raises
    ------
    InputError
        For a value of -1 or less where there is a logarithm.
    """
    for i, feature in enumerate(features):
        if feature.transform == "log" and len(columns) and columns[:, i].min() <= -1:
            msg = f"feature {feature.name!r} must be above -1 for its transform log; found {columns[:, i].min()}"
            raise InputError(msg)
    return [
        Moments.of(columns[:, i], weights, log=feature.transform == "log")
        for i, feature in enumerate(features)
    ]


def merge_moments(parts: Iterable[Sequence[Moments]]) -> list[Moments]:
    """Moments of all parts together, feature by feature; the order of the parts matters in the last digits only."""
    merged: list[Moments] = []
    for part in parts:
        merged = [a.merge(b) for a, b in zip(merged, part, strict=True)] if merged else list(part)
    return merged


def mean_and_width(moments: Moments, name: str) -> tuple[float, float]:
    """Mean and standard deviation for a schema; a feature that never changes gets the width 1.

    Raises
    ------
    InputError
        If the weights do not add up to more than 0.
    """
    if moments.weight < 0 or moments.square < 0:
        msg = f"the weights of feature {name!r} must add up to more than 0; found {moments.weight:g}"
        raise InputError(msg)
    return moments.mean, moments.std if moments.std > 1e-6 else 1.0


def effective_number_weights(counts: npt.ArrayLike) -> FloatArray:
    """Weight of every class by the effective number of its events.

    w_c = (1 - beta) / (1 - beta^n_c) with beta = 1 - 1 / N (Cui et al., CVPR 2019), n_c events of class c and N in
    all, scaled so that the weights add up to the number of classes. This is the balance of the published
    pretraining.

    Parameters
    ----------
    counts : array, shape (n_classes,)
        Number of events of each class, at least 0.

    Returns
    -------
    float64 array, shape (n_classes,)
        0 for a class without events; the others add up to the number of classes with events.

    Examples
    --------
    >>> effective_number_weights([100, 300]).round(3)
    array([1.409, 0.591])
    >>> effective_number_weights([5, 0])
    array([1., 0.])
    """
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or (n < 0).any():
        msg = f"counts must be a list of numbers of at least 0; found {n.tolist()}"
        raise InputError(msg)
    filled = n > 0
    weights = np.zeros(len(n))
    total = n.sum()
    if not filled.any():
        return weights
    with np.errstate(divide="ignore"):  # a single event: beta is 0
        log_beta = np.log1p(-1.0 / total)
    weights[filled] = -1.0 / (total * np.expm1(n[filled] * log_beta))
    balanced: FloatArray = weights * (filled.sum() / weights.sum())
    return balanced
