"""Significance improvement SIC = eff_s / sqrt(eff_b) of the best cut on a score.

The maximum is taken only over cuts that keep a minimum yield of background (10 by default): without it the best cut is
the one that leaves one background event, and its uncertainty is half its value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.metrics import checked_sample, roc_curve


class MaximumSic(NamedTuple):
    """The cut of greatest significance improvement.

    Parameters
    ----------
    value : float
        SIC = eff_s / sqrt(eff_b); NaN if no cut keeps the minimum yield.
    uncertainty : float
        From both samples, the quadratic sum of the next two. It does not know that the maximum was searched for.
    background_uncertainty : float
        SIC / 2 * sqrt(sum w^2) / sum w of the background that passes.
    signal_uncertainty : float
        SIC times the relative binomial uncertainty of eff_s.
    threshold : float
        The highest of the cuts that reach the maximum.
    signal_efficiency, background_efficiency : float
        At this cut.
    background_yield : float
        Sum of weights of the background that passes: how trustworthy the maximum is.
    """

    value: float
    uncertainty: float
    background_uncertainty: float
    signal_uncertainty: float
    threshold: float
    signal_efficiency: float
    background_efficiency: float
    background_yield: float


def maximum_sic(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    minimum_background: float = 10.0,
) -> MaximumSic:
    """Greatest significance improvement of any cut that keeps enough background.

    Parameters
    ----------
    labels, scores, weights
        As for :func:`evenet_hep.stats.metrics.roc_curve`.
    minimum_background : float
        Smallest sum of weights of the background that passes; the number of events without weights.

    Returns
    -------
    MaximumSic
        NaN everywhere if all background together is less, or a class is absent.

    Raises
    ------
    InputError
        As :func:`evenet_hep.stats.metrics.roc_curve`.

    Examples
    --------
    >>> labels, scores = np.repeat([1, 0], [50, 100]), np.r_[np.linspace(0.5, 1, 50), np.linspace(0, 0.6, 100)]
    >>> best = maximum_sic(labels, scores)
    >>> print(f"{best.value:.2f} +- {best.uncertainty:.2f} at {best.threshold:.2f}")
    2.91 +- 0.48 at 0.54
    """
    roc = roc_curve(labels, scores, weights=weights)
    allowed = (roc.background_yield >= minimum_background) & (roc.background_efficiency > 0)
    allowed &= np.isfinite(roc.signal_efficiency)
    if not allowed.any():
        return MaximumSic(*[float("nan")] * len(MaximumSic._fields))
    with np.errstate(invalid="ignore", divide="ignore"):
        sic = np.where(allowed, roc.signal_efficiency / np.sqrt(roc.background_efficiency), -np.inf)
        best = int(np.argmax(sic))
        from_background = sic[best] / 2 * np.sqrt(roc.background_sumw2[best]) / roc.background_yield[best]
        from_signal = roc.signal_efficiency_uncertainty[best] / np.sqrt(roc.background_efficiency[best])
    return MaximumSic(
        value=float(sic[best]),
        uncertainty=float(np.hypot(from_background, from_signal)),
        background_uncertainty=float(from_background),
        signal_uncertainty=float(from_signal),
        threshold=float(roc.threshold[best]),
        signal_efficiency=float(roc.signal_efficiency[best]),
        background_efficiency=float(roc.background_efficiency[best]),
        background_yield=float(roc.background_yield[best]),
    )


def maximum_sic_published(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    n_bins: int = 1000,
    n_points: int = 1000,
    minimum_efficiency: float = 1e-4,
) -> MaximumSic:
    """Maximum significance improvement as the published study of H -> aa -> 4b takes it; prefer :func:`maximum_sic`.

    Scores are filled into a histogram, the ROC curve is interpolated at equal steps of the signal efficiency, and eff_b is
    clipped from below. Nothing asks how much background is left: two thirds of the published values of one model have an
    uncertainty of half the value, which means that one effective background event decides.

    Parameters
    ----------
    labels, scores, weights
        As for :func:`evenet_hep.stats.metrics.roc_curve`; scores in [0, 1].
    n_bins, n_points : int
        Bins of the score and steps of the signal efficiency.
    minimum_efficiency : float
        Smallest eff_b.

    Returns
    -------
    MaximumSic
        ``background_yield`` is that of the bin whose signal efficiency is nearest; both uncertainties are taken there.

    Raises
    ------
    InputError
        As :func:`evenet_hep.stats.metrics.roc_curve`; for scores outside [0, 1].

    Examples
    --------
    >>> labels, scores = np.repeat([1, 0], 100), np.r_[np.linspace(0.5, 1, 100), np.linspace(0, 0.7, 100)]
    >>> best = maximum_sic_published(labels, scores)
    >>> print(f"{best.value:.1f} with {best.background_yield:.0f} events, {maximum_sic(labels, scores).value:.1f}")
    60.0 with 0 events, 2.3
    """
    sample = checked_sample(labels, scores, weights)
    if not ((sample.scores >= 0) & (sample.scores <= 1)).all():
        msg = f"published binning needs scores in [0, 1]; found {sample.scores.min():g} to {sample.scores.max():g}"
        raise InputError(msg)
    binned = np.clip(np.floor(sample.scores * n_bins), 0, n_bins - 1) / n_bins
    roc = roc_curve(sample.is_signal, binned, weights=sample.weights)
    if not np.isfinite(roc.signal_efficiency[-1] + roc.background_efficiency[-1]):
        return MaximumSic(*[float("nan")] * len(MaximumSic._fields))
    efficiency = np.linspace(0.0, 1.0, n_points)
    background = np.interp(efficiency, roc.signal_efficiency, roc.background_efficiency)
    sic = efficiency / np.sqrt(np.maximum(background, minimum_efficiency))
    best = int(np.argmax(sic))
    near = int(np.argmin(np.abs(roc.signal_efficiency - efficiency[best])))
    with np.errstate(invalid="ignore", divide="ignore"):
        from_background = sic[best] / 2 * np.sqrt(roc.background_sumw2[near]) / roc.background_yield[near]
        from_signal = sic[best] * roc.signal_efficiency_uncertainty[near] / roc.signal_efficiency[near]
    return MaximumSic(
        value=float(sic[best]),
        uncertainty=float(np.hypot(from_background, from_signal)),
        background_uncertainty=float(from_background),
        signal_uncertainty=float(from_signal),
        threshold=float(roc.threshold[near]),
        signal_efficiency=float(efficiency[best]),
        background_efficiency=float(max(background[best], minimum_efficiency)),
        background_yield=float(roc.background_yield[near]),
    )
