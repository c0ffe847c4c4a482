"""How well scores separate signal from background: ROC, AUC, rejection, all with event weights and uncertainties.

A cut keeps ``score >= threshold``; every distinct score is one threshold, so no binning and no interpolation enters
except where a rejection is asked for between two cuts.

The significance improvement is in :mod:`evenet_hep.stats.sic`, calibration of probabilities in
:mod:`evenet_hep.stats.calibration`, pairing efficiencies in :mod:`evenet_hep.stats.pairing`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Two efficiencies closer than this are the same cut.
SAME_EFFICIENCY = 1e-12


class Sample(NamedTuple):
    """Checked labels, scores and weights.

    Parameters
    ----------
    is_signal : bool array, shape (n_events,)
    scores, weights : float64 array, shape (n_events,)
    """

    is_signal: BoolArray
    scores: FloatArray
    weights: FloatArray


class RocCurve(NamedTuple):
    """Efficiencies at every distinct score, from the tightest cut to the loosest.

    Parameters
    ----------
    threshold : float64 array, shape (n_points,)
        A cut keeps ``score >= threshold``; the first is infinite and keeps nothing.
    signal_efficiency, background_efficiency : float64 array, shape (n_points,)
        NaN for a class without weight.
    signal_efficiency_uncertainty : float64 array, shape (n_points,)
        Binomial, for weighted events.
    background_yield, background_sumw2 : float64 array, shape (n_points,)
        Sum of weights and of squared weights of the background that passes.
    """

    threshold: FloatArray
    signal_efficiency: FloatArray
    background_efficiency: FloatArray
    signal_efficiency_uncertainty: FloatArray
    background_yield: FloatArray
    background_sumw2: FloatArray


class Metric(NamedTuple):
    """A figure of merit.

    Parameters
    ----------
    value, uncertainty : float
        The figure and its standard deviation; NaN where it is not defined.
    """

    value: float
    uncertainty: float


class Rejection(NamedTuple):
    """Background rejections.

    Parameters
    ----------
    value, uncertainty : float64 array
        1 / eff_b at each asked signal efficiency and its standard deviation from both samples; infinite and NaN where no
        background is left.
    """

    value: FloatArray
    uncertainty: FloatArray


def roc_curve(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, weights: npt.ArrayLike | None = None
) -> RocCurve:
    """Efficiencies of signal and background at every distinct score.

    Parameters
    ----------
    labels : array-like, shape (n_events,)
        1 or True for signal, 0 or False for background.
    scores : array-like, shape (n_events,)
        Greater for signal; no NaN.
    weights : array-like, shape (n_events,), optional
        Event weights, negative ones allowed.

    Returns
    -------
    RocCurve
        One point more than distinct scores: the first cuts everything away.

    Raises
    ------
    InputError
        For shapes that do not fit, labels other than 0 and 1, NaN, or no events.

    Examples
    --------
    >>> roc = roc_curve([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1])
    >>> print(roc.signal_efficiency, roc.background_efficiency)
    [0.  0.5 1.  1. ] [0.  0.  0.5 1. ]
    """
    return _roc(checked_sample(labels, scores, weights))


def area_under_curve(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, weights: npt.ArrayLike | None = None
) -> Metric:
    """Probability that a signal event scores higher than a background event, ties counted half.

    Parameters
    ----------
    labels, scores, weights
        As for :func:`roc_curve`.

    Returns
    -------
    Metric
        The uncertainty is the weighted form of DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837. NaN if a class
        is absent or has no weight.

    Raises
    ------
    InputError
        As :func:`roc_curve`.

    Examples
    --------
    >>> auc = area_under_curve([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1])
    >>> print(f"{auc.value:.3f} +- {auc.uncertainty:.3f}")
    0.875 +- 0.125
    """
    sample = checked_sample(labels, scores, weights)
    signal, background = sample.is_signal, ~sample.is_signal
    w_signal, w_background = sample.weights[signal], sample.weights[background]
    # Where each event of one class lies among the other class.
    above = _fraction_below(sample.scores[signal], sample.scores[background], w_background)
    below = 1.0 - _fraction_below(sample.scores[background], sample.scores[signal], w_signal)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (w_signal * above).sum() / w_signal.sum()
        variance = sum(
            (w**2 * (placed - value) ** 2).sum() / w.sum() ** 2
            for w, placed in ((w_signal, above), (w_background, below))
        )
    return Metric(value=float(value), uncertainty=float(np.sqrt(variance)))


def background_rejection(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    signal_efficiency: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> Rejection:
    """1 / eff_b at given signal efficiencies.

    Parameters
    ----------
    labels, scores, weights
        As for :func:`roc_curve`.
    signal_efficiency : array-like
        In [0, 1]. Between two cuts eff_b is interpolated linearly; where several cuts have the asked efficiency, the
        tightest counts.

    Returns
    -------
    Rejection
        Arrays of the shape of ``signal_efficiency``.

    Raises
    ------
    InputError
        As :func:`roc_curve`; for efficiencies outside [0, 1].

    Examples
    --------
    >>> labels, scores = np.repeat([1, 0], 100), np.r_[np.linspace(0.4, 1, 100), np.linspace(0, 0.6, 100)]
    >>> rejection = background_rejection(labels, scores, signal_efficiency=[0.5, 0.8])
    >>> print(rejection.value.round(1), rejection.uncertainty.round(1))
    [inf 7.1] [nan 2.6]
    """
    asked = np.asarray(signal_efficiency, np.float64)
    if not ((asked >= 0) & (asked <= 1)).all():
        msg = f"signal_efficiency must lie in [0, 1]; found {asked}"
        raise InputError(msg)
    roc = _roc(checked_sample(labels, scores, weights))
    if not np.isfinite(roc.signal_efficiency[-1] + roc.background_efficiency[-1]):
        return Rejection(np.full(asked.shape, np.nan), np.full(asked.shape, np.nan))
    spread = np.interp(asked, roc.signal_efficiency, roc.signal_efficiency_uncertainty)
    background = _background_at(roc, asked)
    with np.errstate(invalid="ignore", divide="ignore"):
        # What the uncertainty of eff_s does to eff_b: the curve one standard deviation to both sides.
        from_signal = _background_at(roc, np.minimum(asked + spread, 1.0))
        from_signal = (from_signal - _background_at(roc, np.maximum(asked - spread, 0.0))) / 2
        effective = roc.background_sumw2[-1] / roc.background_yield[-1] ** 2
        from_background = np.sqrt(np.abs(background * effective))
        value = 1.0 / background
        uncertainty = np.where(background > 0, np.hypot(from_signal, from_background) * value**2, np.nan)
    return Rejection(value=np.asarray(value), uncertainty=np.asarray(uncertainty))


def checked_sample(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None) -> Sample:
    """Labels, scores and weights as arrays of one length, or one sentence about what is wrong with them.

    Parameters
    ----------
    labels, scores, weights
        As for :func:`roc_curve`.

    Returns
    -------
    Sample

    Raises
    ------
    InputError
        For shapes that do not fit, labels other than 0 and 1, NaN, or no events.
    """
    given, values = np.asarray(labels), np.asarray(scores, np.float64)
    w = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    if values.ndim != 1 or given.shape != values.shape or w.shape != values.shape or not len(values):
        msg = f"labels, scores and weights must be three lists of one length; found shapes {given.shape}, {values.shape}, {w.shape}"
        raise InputError(msg)
    if not np.isin(given, (0, 1)).all():
        msg = f"labels must be 1 (signal) or 0 (background); found {np.unique(given)[:5]}"
        raise InputError(msg)
    for name, array in (("scores", values), ("weights", w)):
        bad = ~np.isfinite(array) if name == "weights" else np.isnan(array)
        if bad.any():
            msg = f"{name} must be numbers; found {array[bad][0]} at {np.flatnonzero(bad)[0]}"
            raise InputError(msg)
    return Sample(is_signal=given.astype(bool), scores=values, weights=w)


def _background_at(roc: RocCurve, asked: FloatArray) -> FloatArray:
    """eff_b where the curve first reaches ``asked``, along the straight line from the last cut before it."""
    x, y = roc.signal_efficiency, roc.background_efficiency
    reached = np.maximum.accumulate(x)  # negative weights can make the curve turn back
    after = np.minimum(np.searchsorted(reached, asked - SAME_EFFICIENCY), len(x) - 1)
    before = np.maximum(after - 1, 0)
    run = x[after] - x[before]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(run > SAME_EFFICIENCY, np.clip((asked - x[before]) / run, 0.0, 1.0), 1.0)
    return np.asarray(y[before] + part * (y[after] - y[before]))


def _roc(sample: Sample) -> RocCurve:
    order = np.argsort(-sample.scores, kind="stable")
    scores, weights, is_signal = sample.scores[order], sample.weights[order], sample.is_signal[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of every run of equal scores
    signal, background = weights * is_signal, weights * ~is_signal
    sums = [
        np.append(0.0, np.cumsum(values)[last]) for values in (signal, signal**2, background, background**2)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        efficiency, background_efficiency = sums[0] / sums[0][-1], sums[2] / sums[2][-1]
        variance = (1 - efficiency) ** 2 * sums[1] + efficiency**2 * (sums[1][-1] - sums[1])
        spread = np.sqrt(np.maximum(variance, 0.0)) / np.abs(sums[0][-1])
    return RocCurve(
        threshold=np.append(np.inf, scores[last]),
        signal_efficiency=efficiency,
        background_efficiency=background_efficiency,
        signal_efficiency_uncertainty=spread,
        background_yield=sums[2],
        background_sumw2=sums[3],
    )


def _fraction_below(values: FloatArray, others: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted part of ``others`` below each value, those equal to it counted half."""
    order = np.argsort(others, kind="stable")
    cumulative = np.append(0.0, np.cumsum(weights[order]))
    lower = cumulative[np.searchsorted(others[order], values, "left")]
    upper = cumulative[np.searchsorted(others[order], values, "right")]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((lower + upper) / 2 / cumulative[-1])
