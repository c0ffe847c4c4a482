"""From scores of weakly supervised classifiers to significances: cuts, and weights by likelihood ratio.

Both need a spectrum in which the score does not sculpt a bump; the significance after a cut or a weight is that of
:func:`evenet_hep.stats.sideband.fit_sideband`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.sideband import SidebandFit, fit_sideband

FloatArray = npt.NDArray[np.float64]

# Published weights are cut off here.
GREATEST_WEIGHT = 1e9


class SignalFraction(NamedTuple):
    """Part of the events in a window that is signal.

    Parameters
    ----------
    value, uncertainty : float
        mu = S / (S + B), and its standard deviation from those of the counts and of the background.
    """

    value: float
    uncertainty: float


class CutCount(NamedTuple):
    """One cut on the score.

    Parameters
    ----------
    threshold : float
        Events with ``score >= threshold`` are kept.
    background_efficiency : float
        Asked fraction of the reference that passes.
    reference_passed : int
        Events of the reference that pass: how well the efficiency is known.
    fit : SidebandFit or None
        Of the events kept; None if the fit could not be done, for the reason in ``failure``.
    failure : str
        Empty if there is a fit.
    """

    threshold: float
    background_efficiency: float
    reference_passed: int
    fit: SidebandFit | None
    failure: str


class ReweightedFit(NamedTuple):
    """A search in which every event counts with its likelihood ratio.

    Parameters
    ----------
    fit : SidebandFit
        With weights.
    uncut : SidebandFit
        Without; it gives the signal fraction.
    signal_fraction : SignalFraction
    weights : float64 array, shape (n_events,)
    """

    fit: SidebandFit
    uncut: SidebandFit
    signal_fraction: SignalFraction
    weights: FloatArray


def signal_fraction(fit: SidebandFit) -> SignalFraction:
    """Mu = S / (S + B) of a window, by which scores become likelihood ratios.

    Parameters
    ----------
    fit : SidebandFit
        Of all events, before any cut.

    Returns
    -------
    SignalFraction
        1 - B / N; may be negative for a deficit.

    Raises
    ------
    InputError
        For an empty window.

    Examples
    --------
    >>> masses = np.append(np.linspace(5.003, 15.993, 1100), np.linspace(9.6, 9.9, 60))
    >>> found = signal_fraction(fit_sideband(masses, edges=np.linspace(5, 16, 56), window=(9.2, 10.4), background=1))
    >>> print(f"{found.value:.3f} +- {found.uncertainty:.3f}")
    0.333 +- 0.054
    """
    if fit.observed <= 0:
        msg = f"a signal fraction needs events in the window; found {fit.observed:g}"
        raise InputError(msg)
    ratio = fit.expected / fit.observed
    spread = np.hypot(fit.uncertainty / fit.observed, ratio * fit.observed_uncertainty / fit.observed)
    return SignalFraction(value=1 - ratio, uncertainty=float(spread))


def likelihood_ratio(scores: npt.ArrayLike, mu: float) -> FloatArray:
    """Density of signal over density of background, from scores of data against background.

    Parameters
    ----------
    scores : array-like
        z of a classifier between data (a fraction ``mu`` of signal) and as much background, in [0, 1].
    mu : float
        Signal fraction of the data, in (0, 1].

    Returns
    -------
    float64 array
        l = (z / (1 - z) - (1 - mu)) / mu; 1 at z = 1/2, negative where the data have less than their background,
        infinite at z = 1.

    Raises
    ------
    InputError
        For scores outside [0, 1], or a fraction outside (0, 1].

    Examples
    --------
    >>> likelihood_ratio([0.5, 0.6, 0.4], 0.5).round(3)
    array([1.   , 2.   , 0.333])
    """
    z = np.asarray(scores, np.float64)
    if not ((z >= 0) & (z <= 1)).all():
        msg = f"scores must lie in [0, 1]; found {z[~((z >= 0) & (z <= 1))].flat[0]}"
        raise InputError(msg)
    if not 0 < mu <= 1:
        msg = f"the signal fraction must lie in (0, 1], or there is no likelihood ratio; found {mu:g}"
        raise InputError(msg)
    with np.errstate(divide="ignore"):
        return np.asarray((z / (1 - z) - (1 - mu)) / mu)


def likelihood_weights(
    scores: npt.ArrayLike, mu: float, *, clip: tuple[float, float] = (0.0, GREATEST_WEIGHT)
) -> FloatArray:
    """Likelihood ratios as weights: negative ones become 0.

    Parameters
    ----------
    scores, mu
        As for :func:`likelihood_ratio`.
    clip : tuple of two floats
        Smallest and greatest weight.

    Returns
    -------
    float64 array
        0 up to z = (1 - mu) / (2 - mu).

    Raises
    ------
    InputError
        As :func:`likelihood_ratio`.

    Examples
    --------
    >>> likelihood_weights([0.1, 0.5, 1.0], 0.5, clip=(0.0, 100.0))
    array([  0.,   1., 100.])
    """
    return np.clip(likelihood_ratio(scores, mu), *clip)


def cut_and_count(
    masses: npt.ArrayLike,
    scores: npt.ArrayLike,
    reference_scores: npt.ArrayLike,
    *,
    background_efficiencies: npt.ArrayLike = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001),
    weights: npt.ArrayLike | None = None,
    **options: Any,
) -> list[CutCount]:
    """Side-band fits after cuts that keep given fractions of the reference.

    Parameters
    ----------
    masses, scores : array-like, shape (n_events,)
        Of data in window and side bands.
    reference_scores : array-like, shape (n_reference,)
        Of the reference; they set the thresholds, so that no cut is chosen by looking at data.
    background_efficiencies : array-like
        Fractions of the reference to keep, in (0, 1].
    weights : array-like, shape (n_events,), optional
        Event weights.
    **options
        For :func:`evenet_hep.stats.sideband.fit_sideband`: ``edges``, ``window``, ``background``, ...

    Returns
    -------
    list of CutCount
        One per efficiency. All are tried on the same events: the greatest of them is no significance of its own.

    Raises
    ------
    InputError
        For lengths that do not fit, or efficiencies outside (0, 1].

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> masses = np.append(rng.uniform(5, 16, 4000), rng.normal(9.8, 0.2, 60))
    >>> scores = np.append(rng.uniform(0, 1, 4000), rng.uniform(0.8, 1, 60))
    >>> cuts = cut_and_count(masses, scores, rng.uniform(0, 1, 5000), background_efficiencies=[1.0, 0.2],
    ...                      edges=np.linspace(5, 16, 56), window=(9.2, 10.4), background=1)
    >>> [f"{cut.fit.significance:.1f}" for cut in cuts]
    ['2.2', '5.2']
    """
    m, z, reference = (np.asarray(x, np.float64) for x in (masses, scores, reference_scores))
    w = None if weights is None else np.asarray(weights, np.float64)
    asked = np.atleast_1d(np.asarray(background_efficiencies, np.float64))
    if m.shape != z.shape or not len(reference) or not ((asked > 0) & (asked <= 1)).all():
        msg = f"cuts need a score for every mass, a reference, and efficiencies in (0, 1]; found {m.shape}, {z.shape}, {reference.shape}, {asked}"
        raise InputError(msg)
    ordered = np.sort(reference)
    cuts = []
    for efficiency in asked:
        # The threshold is the lowest score of the best fraction of the reference.
        keep = max(1, round(efficiency * len(ordered)))
        threshold = float(ordered[-keep]) if efficiency < 1 else -np.inf
        kept = z >= threshold
        fit, failure = None, ""
        try:
            fit = fit_sideband(m[kept], weights=None if w is None else w[kept], **options)
        except InputError as error:  # too few events are left; the caller sees which cut and why
            failure = str(error)
        passed = int((reference >= threshold).sum())
        cuts.append(CutCount(threshold, float(efficiency), passed, fit, failure))
    return cuts


def reweighted_search(
    masses: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    mu: float | None = None,
    clip: tuple[float, float] = (0.0, GREATEST_WEIGHT),
    **options: Any,
) -> ReweightedFit:
    """Side-band fit in which every event counts with its likelihood ratio.

    Parameters
    ----------
    masses, scores : array-like, shape (n_events,)
        Of data in window and side bands, scores out of fold.
    mu : float, optional
        Signal fraction in the window; by default that of an unweighted fit of the same events (published).
    clip : tuple of two floats
        Smallest and greatest weight.
    **options
        For :func:`evenet_hep.stats.sideband.fit_sideband`: ``edges``, ``window``, ``background``, ... The published
        searches have ``scale="bin"``, which pulls the background of such uneven weights down.

    Returns
    -------
    ReweightedFit

    Raises
    ------
    InputError
        If the unweighted fit finds no excess (the likelihood ratio is then undefined; give ``mu``), for lengths that do
        not fit, or if the weights leave nothing in the side bands.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> masses = np.append(rng.uniform(5, 16, 4000), rng.normal(9.8, 0.2, 60))
    >>> scores = np.append(rng.beta(2, 3, 4000), rng.beta(5, 3, 60))
    >>> found = reweighted_search(masses, scores, edges=np.linspace(5, 16, 56), window=(9.2, 10.4), background=1)
    >>> print(f"{found.uncut.significance:.1f} -> {found.fit.significance:.1f}")
    2.2 -> 2.0
    """
    m, z = np.asarray(masses, np.float64), np.asarray(scores, np.float64)
    if m.shape != z.shape:
        msg = f"every mass needs a score; found {m.shape} and {z.shape}"
        raise InputError(msg)
    uncut = fit_sideband(m, **options)
    fraction = signal_fraction(uncut) if mu is None else SignalFraction(mu, 0.0)
    if fraction.value <= 0:
        msg = f"without an excess there is no likelihood ratio: the window has {uncut.observed:g} events for {uncut.expected:.1f} expected; give mu"
        raise InputError(msg)
    weights = likelihood_weights(z, fraction.value, clip=clip)
    return ReweightedFit(fit_sideband(m, weights=weights, **options), uncut, fraction, weights)
