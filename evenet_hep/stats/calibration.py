"""Are probabilities of a classifier what they say? Reliability, scores of calibration, and a correction by a fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy import special

from evenet_hep.errors import InputError
from evenet_hep.stats.metrics import FloatArray, Metric, Sample, checked_sample


class Reliability(NamedTuple):
    """Predicted and observed fraction of signal in bins of the predicted probability.

    Parameters
    ----------
    edges : float64 array, shape (n_bins + 1,)
        In probability.
    predicted : float64 array, shape (n_bins,)
        Mean probability in the bin; NaN without events.
    observed, uncertainty : float64 array, shape (n_bins,)
        Fraction of signal and its binomial standard deviation; NaN without events.
    sumw : float64 array, shape (n_bins,)
        Sum of weights.
    expected_error : float
        Mean of |observed - predicted| over events. It is positive even for perfect probabilities; compare it with
        ``expected_error_floor``.
    expected_error_floor : float
        What ``expected_error`` would be on average for perfect probabilities and this many events.
    brier : Metric
        Mean of (probability - label)^2.
    """

    edges: FloatArray
    predicted: FloatArray
    observed: FloatArray
    uncertainty: FloatArray
    sumw: FloatArray
    expected_error: float
    expected_error_floor: float
    brier: Metric


class CalibrationFit(NamedTuple):
    """Fit of logit(p') = slope * logit(p) + intercept.

    Parameters
    ----------
    slope, intercept : float
        1 and 0 for probabilities that are right; a slope below 1 means they are too sure.
    covariance : float64 array, shape (2, 2)
        Of slope and intercept; for weighted events of sandwich form.
    minuit : iminuit.Minuit
        The minimum of -2 ln L.
    """

    slope: float
    intercept: float
    covariance: FloatArray
    minuit: Minuit

    def apply(self, probabilities: npt.ArrayLike) -> FloatArray:
        """Corrected probabilities.

        Parameters
        ----------
        probabilities : array-like

        Returns
        -------
        float64 array
            0 and 1 stay what they are.
        """
        logits = special.logit(np.asarray(probabilities, np.float64))
        return np.asarray(special.expit(self.slope * logits + self.intercept))


def reliability(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    bins: int | npt.ArrayLike = 10,
) -> Reliability:
    """Compare predicted probabilities with the fractions of signal that are found.

    Parameters
    ----------
    labels : array-like, shape (n_events,)
        1 for signal, 0 for background.
    probabilities : array-like, shape (n_events,)
        Of signal, in [0, 1].
    weights : array-like, shape (n_events,), optional
        Event weights.
    bins : int or array-like
        Number of equal bins or their edges.

    Returns
    -------
    Reliability

    Raises
    ------
    InputError
        For shapes that do not fit, or probabilities outside [0, 1].

    Examples
    --------
    >>> table = reliability([0, 1, 1, 1], [0.2, 0.2, 0.9, 0.9], bins=2)
    >>> print(table.predicted, table.observed, f"{table.expected_error:.2f}")
    [0.2 0.9] [0.5 1. ] 0.20
    """
    sample = _probabilities(labels, probabilities, weights)
    edges = np.linspace(0.0, 1.0, bins + 1) if isinstance(bins, int) else np.asarray(bins, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or edges[0] > 0 or edges[-1] < 1:
        msg = f"bins must be a positive number or edges that ascend from 0 to 1; found {bins!r}"
        raise InputError(msg)
    p, w, y = sample.scores, sample.weights, sample.is_signal.astype(np.float64)
    index = np.clip(np.searchsorted(edges, p, "right") - 1, 0, len(edges) - 2)

    def filled(values: FloatArray) -> FloatArray:
        return np.bincount(index, values, len(edges) - 1).astype(np.float64)

    sumw = filled(w)
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted, observed = filled(w * p) / sumw, filled(w * y) / sumw
        uncertainty = np.sqrt(filled(w**2 * (y - observed[index]) ** 2)) / np.abs(sumw)
        # Of a Gaussian of this width, the mean absolute value.
        floor = np.sqrt(2 / np.pi * filled(w**2 * p * (1 - p)))
        error, lowest = np.nansum(np.abs(observed - predicted) * sumw) / sumw.sum(), floor.sum() / sumw.sum()
        squares = (p - y) ** 2
        brier = (w * squares).sum() / w.sum()
        spread = np.sqrt((w**2 * (squares - brier) ** 2).sum()) / np.abs(w.sum())
    return Reliability(
        edges, predicted, observed, uncertainty, sumw, float(error), float(lowest), Metric(brier, spread)
    )


def fit_calibration(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, weights: npt.ArrayLike | None = None
) -> CalibrationFit:
    """Slope and intercept in the logit that make probabilities right (Platt's scaling).

    Fit it on events that neither trained the classifier nor are analysed.

    Parameters
    ----------
    labels, probabilities, weights
        As for :func:`reliability`; weights not negative.

    Returns
    -------
    CalibrationFit

    Raises
    ------
    InputError
        If one class is absent, if probabilities separate the classes perfectly (the slope would be infinite), or for
        probabilities that are all equal.

    Examples
    --------
    >>> truth = np.array([0.2, 0.5, 0.8]).repeat(10)
    >>> labels = np.tile(np.arange(10), 3) < 10 * truth
    >>> fit = fit_calibration(labels, special.expit(2 * special.logit(truth)))  # too sure by a factor 2
    >>> print(f"{fit.slope:.3f} {abs(fit.intercept):.3f}", fit.apply(special.expit(2 * special.logit(0.8))).round(3))
    0.500 0.000 0.8
    """
    sample = _probabilities(labels, probabilities, weights)
    y, w = sample.is_signal.astype(np.float64), sample.weights
    used = w > 0
    logits = special.logit(np.clip(sample.scores, 1e-12, 1 - 1e-12))[used]
    y, w = y[used], w[used]
    if (sample.weights < 0).any() or not (0 < y.sum() < len(y)):
        msg = f"a calibration needs both classes with weights that are not negative; found {y.sum():.0f} signal and {(1 - y).sum():.0f} background events"
        raise InputError(msg)
    signal, background = logits[y == 1], logits[y == 0]
    if signal.min() >= background.max() or signal.max() <= background.min():
        msg = "the probabilities separate the classes perfectly, or are all equal; the calibration has no finite slope"
        raise InputError(msg)

    def cost(slope: float, intercept: float) -> float:
        eta = slope * logits + intercept
        return float(2 * (w * (np.logaddexp(0.0, eta) - y * eta)).sum())

    def gradient(slope: float, intercept: float) -> FloatArray:
        residual = w * (special.expit(slope * logits + intercept) - y)
        return np.array([2 * (residual * logits).sum(), 2 * residual.sum()])

    minuit = Minuit(cost, slope=1.0, intercept=0.0, grad=gradient)
    minuit.errordef = Minuit.LEAST_SQUARES
    minuit.strategy = 1
    minuit.migrad()
    minuit.hesse()
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    p = special.expit(design @ np.array(minuit.values))
    bread = np.linalg.inv(np.einsum("ni,n,nj", design, w * p * (1 - p), design))
    meat = np.einsum("ni,n,nj", design, w**2 * p * (1 - p), design)
    return CalibrationFit(minuit.values["slope"], minuit.values["intercept"], bread @ meat @ bread, minuit)


def _probabilities(labels: npt.ArrayLike, values: npt.ArrayLike, weights: npt.ArrayLike | None) -> Sample:
    sample = checked_sample(labels, values, weights)
    outside = (sample.scores < 0) | (sample.scores > 1)
    if outside.any():
        msg = f"probabilities must lie in [0, 1]; found {sample.scores[outside][0]}"
        raise InputError(msg)
    return sample
