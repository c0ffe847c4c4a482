"""Reweighting one sample into another by the likelihood ratio of a classifier, and how well that closes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]

# The OmniLearn code and its tables give the triangular discriminator in units of a thousandth.
PUBLISHED_UNIT = 1e-3


class Closure(NamedTuple):
    """Distance of two samples before and after reweighting, one entry per feature.

    Parameters
    ----------
    before, after : float64 array, shape (n_features,)
        Triangular discriminator of binned features: 0 for equal, 1 for disjoint samples.
    floor : float64 array, shape (n_features,)
        What equal samples of this size and these weights would give on average, from their statistics.
    """

    before: FloatArray
    after: FloatArray
    floor: FloatArray


def reweighting_weights(
    scores: npt.ArrayLike,
    *,
    n_data: float | None = None,
    n_mc: float | None = None,
    clip: tuple[float, float] = (0.0, 1e9),
) -> FloatArray:
    """Weights w = z / (1 - z) that turn the sample with label 0 into the one with label 1.

    Parameters
    ----------
    scores : array-like
        Probability z of label 1, in [0, 1], of events the classifier has not been trained on.
    n_data, n_mc : float, optional
        Sizes of the training samples with label 1 and 0, if the training was not balanced; w is multiplied with
        n_mc / n_data.
    clip : tuple of two floats
        Smallest and greatest weight; z = 1 gives the greatest.

    Returns
    -------
    float64 array

    Raises
    ------
    InputError
        For scores outside [0, 1], or only one of the sizes.

    Examples
    --------
    >>> reweighting_weights([0.2, 0.5, 1.0], clip=(0.0, 50.0))
    array([ 0.25,  1.  , 50.  ])
    """
    z = np.asarray(scores, np.float64)
    if not ((z >= 0) & (z <= 1)).all():
        msg = f"scores must lie in [0, 1]; found {z[~((z >= 0) & (z <= 1))].flat[0]}"
        raise InputError(msg)
    if (n_data is None) != (n_mc is None) or (
        n_data is not None and n_mc is not None and min(n_data, n_mc) <= 0
    ):
        msg = f"n_data and n_mc go together and are positive; found {n_data} and {n_mc}"
        raise InputError(msg)
    factor = 1.0 if n_data is None or n_mc is None else n_mc / n_data
    with np.errstate(divide="ignore"):
        return np.clip(z / (1 - z) * factor, *clip)


def binned_triangular_discriminator(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """1/2 sum (P - Q)^2 / (P + Q) of the contents of two histograms with the same bins, each normalised to 1.

    Parameters
    ----------
    p, q : array-like, shape (n_bins,)
        Contents, not negative.

    Returns
    -------
    float
        0 for equal, 1 for disjoint shapes. Published tables of OmniLearn (arXiv:2404.16091) divide by
        ``PUBLISHED_UNIT``.

    Raises
    ------
    InputError
        For lengths that differ, negative or empty histograms.

    Examples
    --------
    >>> binned_triangular_discriminator([1, 3, 0], [2, 2, 0]), binned_triangular_discriminator([1, 0], [0, 5])
    (0.06666666666666667, 1.0)
    """
    a, b = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if a.ndim != 1 or a.shape != b.shape or (a < 0).any() or (b < 0).any() or not (a.any() and b.any()):
        msg = f"p and q must be two histograms with the same bins, neither negative nor empty; found shapes {a.shape} and {b.shape}, sums {a.sum():g} and {b.sum():g}"
        raise InputError(msg)
    a, b = a / a.sum(), b / b.sum()
    total = a + b
    return float(0.5 * ((a - b) ** 2 / np.where(total > 0, total, 1.0)).sum())


def reweighting_closure(
    target: npt.ArrayLike,
    source: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    target_weights: npt.ArrayLike | None = None,
    source_weights: npt.ArrayLike | None = None,
    n_bins: int = 30,
) -> Closure:
    """How much nearer reweighting brings a source to its target, feature by feature.

    Parameters
    ----------
    target, source : array-like, shape (n_events, n_features)
        Features of events that the classifier has not been trained on.
    weights : array-like, shape (n_source,)
        From :func:`reweighting_weights`.
    target_weights, source_weights : array-like, optional
        Event weights that both samples had before.
    n_bins : int
        Bins per feature, with equal contents of the target.

    Returns
    -------
    Closure

    Raises
    ------
    InputError
        For shapes that do not fit, negative weights, or samples without weight.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> target, source = rng.normal(0.5, 1, (20000, 1)), rng.normal(0, 1, (20000, 1))
    >>> exact = np.exp(0.5 * source[:, 0] - 0.125)
    >>> closure = reweighting_closure(target, source, exact)
    >>> print(f"{closure.before[0]:.3f} -> {closure.after[0]:.4f} (floor {closure.floor[0]:.4f})")
    0.059 -> 0.0004 (floor 0.0008)
    """
    a, b = np.asarray(target, np.float64), np.asarray(source, np.float64)
    w_target = _weights("target_weights", target_weights, len(a))
    w_source = _weights("source_weights", source_weights, len(b))
    w_after = w_source * _weights("weights", weights, len(b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b) or n_bins < 2:
        msg = f"target and source must have shape (n_events, n_features) with the same features, and two bins; found {a.shape}, {b.shape}, {n_bins} bins"
        raise InputError(msg)
    rows = []
    for x, y in zip(a.T, b.T, strict=True):
        inner = np.unique(np.quantile(x, np.linspace(0, 1, n_bins + 1)[1:-1]))
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        goal, before, after = (
            _contents(values, w, edges) for values, w in ((x, w_target), (y, w_source), (y, w_after))
        )
        noise = _noise(goal, _contents(x, w_target**2, edges)) + _noise(
            after, _contents(y, w_after**2, edges)
        )
        shape = goal / goal.sum()
        rows.append(
            (
                binned_triangular_discriminator(goal, before),
                binned_triangular_discriminator(goal, after),
                float((noise / (4 * np.where(shape > 0, shape, np.inf))).sum()),
            )
        )
    before_all, after_all, floor = np.array(rows).T
    return Closure(before=before_all, after=after_all, floor=floor)


def _contents(values: FloatArray, weights: FloatArray, edges: FloatArray) -> FloatArray:
    index = np.searchsorted(edges, values, "right") - 1
    return np.bincount(index, weights, len(edges) - 1).astype(np.float64)


def _noise(sumw: FloatArray, sumw2: FloatArray) -> FloatArray:
    """Variance of the normalised contents."""
    total = sumw.sum()
    shape = sumw / total
    return np.asarray((sumw2 * (1 - 2 * shape) + shape**2 * sumw2.sum()) / total**2)


def _weights(name: str, weights: npt.ArrayLike | None, n_events: int) -> FloatArray:
    w = np.ones(n_events) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (n_events,) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        msg = f"{name} must be {n_events} finite weights, none negative and not all zero; found shape {w.shape} and sum {w.sum():g}"
        raise InputError(msg)
    return w
