"""Significances of counts: expected (Asimov), observed, exact, and of several bins together.

What to use when:

* a design or a cut is to be optimised: :func:`asimov_significance`, per bin and then :func:`quadrature_sum`;
* a count was observed: :func:`counting_significance`; with fewer than ten events :func:`exact_p_value`;
* the background comes from a fit of side bands: :func:`evenet_hep.stats.sideband.fit_sideband`.

All are one-sided: 5 sigma is a probability of 2.9e-7. Formulae: Cowan, Cranmer, Gross, Vitells, EPJC 71 (2011) 1554,
arXiv:1007.1727, and for an uncertain background Li and Ma, ApJ 272 (1983) 317, Eq. 17, with an auxiliary measurement of
tau b = b^2 / sigma^2 events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Significance(NamedTuple):
    """An expected significance and how well it is known.

    Parameters
    ----------
    value : float64 array
        In standard deviations, one-sided; negative for a deficit.
    uncertainty : float64 array
        From the limited size of the samples that gave the yields, by linear propagation; 0 without ``*_sumw2``.
    """

    value: FloatArray
    uncertainty: FloatArray


def p_value(significance: npt.ArrayLike) -> FloatArray:
    """One-sided probability of a Gaussian to exceed ``significance`` standard deviations.

    Parameters
    ----------
    significance : array-like

    Returns
    -------
    float64 array

    Examples
    --------
    >>> print(f"{p_value(5.0):.2e}")
    2.87e-07
    """
    return np.asarray(special.ndtr(-np.asarray(significance, np.float64)))


def significance_of(p: npt.ArrayLike) -> FloatArray:
    """Standard deviations a Gaussian exceeds with the one-sided probability ``p``.

    Parameters
    ----------
    p : array-like
        0 gives infinity, 1 minus infinity, anything outside [0, 1] NaN.

    Returns
    -------
    float64 array

    Examples
    --------
    >>> print(f"{significance_of(2.87e-7):.2f}")
    5.00
    """
    return np.asarray(-special.ndtri(np.asarray(p, np.float64)))


def asimov_significance(
    signal: npt.ArrayLike,
    background: npt.ArrayLike,
    *,
    background_uncertainty: npt.ArrayLike = 0.0,
    signal_sumw2: npt.ArrayLike = 0.0,
    background_sumw2: npt.ArrayLike = 0.0,
) -> Significance:
    """Median significance with which a signal would be discovered by counting.

    Parameters
    ----------
    signal, background : array-like
        Expected yields; broadcast against each other.
    background_uncertainty : array-like
        Systematic standard deviation of the background, constrained by an auxiliary measurement.
    signal_sumw2, background_sumw2 : array-like
        Sums of squared weights of the samples behind the yields; they go into ``uncertainty``, not into ``value``.

    Returns
    -------
    Significance
        ``value`` sqrt(2 ((s + b) ln(1 + s/b) - s)) without ``background_uncertainty``; 0 for no signal, infinite for a
        signal without background, NaN for negative b or s + b.

    Raises
    ------
    InputError
        For a negative uncertainty or sum of squares.

    Examples
    --------
    >>> z = asimov_significance(10.0, 100.0, background_sumw2=25.0)
    >>> print(f"{z.value:.3f} +- {z.uncertainty:.3f}")
    0.984 +- 0.024
    >>> print(f"{asimov_significance(10.0, 100.0, background_uncertainty=10.0).value:.3f}")
    0.690
    """
    s, b, sigma = np.asarray(signal, np.float64), np.asarray(background, np.float64), background_uncertainty
    variances = [
        _not_negative(name, value)
        for name, value in (("signal_sumw2", signal_sumw2), ("background_sumw2", background_sumw2))
    ]
    value = counting_significance(s + b, b, uncertainty=sigma)
    variance = np.zeros_like(value)
    for steps, spread in zip(((1.0, 0.0), (0.0, 1.0)), variances, strict=True):
        # Central differences over a small part of a standard deviation, and never across s + b = 0 or b = 0.
        step = np.minimum(1e-3 * np.sqrt(spread), 1e-3 * np.maximum(np.minimum(np.abs(s + b), b), 0.0))
        up, down = (
            counting_significance(
                s + b + sign * step * (steps[0] + steps[1]), b + sign * step * steps[1], uncertainty=sigma
            )
            for sign in (1.0, -1.0)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(step > 0, (up - down) / (2 * step), np.where(spread > 0, np.nan, 0.0))
        variance = variance + slope**2 * spread
    return Significance(value=value, uncertainty=np.sqrt(variance))


def counting_significance(
    observed: npt.ArrayLike, expected: npt.ArrayLike, *, uncertainty: npt.ArrayLike = 0.0
) -> FloatArray:
    """Significance of an observed count over an expected background, from the profile likelihood ratio.

    Parameters
    ----------
    observed : array-like
        Number of events.
    expected, uncertainty : array-like
        Background and its standard deviation.

    Returns
    -------
    float64 array
        Negative for a deficit; infinite for events without any expectation; NaN for negative numbers.

    Raises
    ------
    InputError
        For a negative uncertainty.

    Examples
    --------
    >>> counting_significance([110, 100, 90], 100.0).round(3)
    array([ 0.984,  0.   , -1.017])
    >>> print(f"{counting_significance(110, 100.0, uncertainty=10.0):.3f}")
    0.690
    """
    n, b, sigma = np.broadcast_arrays(
        np.asarray(observed, np.float64),
        np.asarray(expected, np.float64),
        _not_negative("uncertainty", uncertainty),
    )
    variance = np.where(b > 0, sigma**2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(variance > 0, variance / b, 0.0)  # 1 / tau
        pooled = (b + n * relative) / (1.0 + relative)  # background that fits both measurements best
        off_term = np.where(variance > 0, b / relative * np.log(b / pooled), 0.0)
        on_term = special.xlogy(n, n) - special.xlogy(n, pooled)
        q0 = 2.0 * (on_term + np.where(variance > 0, off_term, b - n))
    q0 = np.where((n == 0) & (b == 0), 0.0, q0)
    impossible = (n < 0) | (b < 0) | np.isnan(n) | np.isnan(b)
    with np.errstate(invalid="ignore"):
        z = np.sign(n - b) * np.sqrt(np.maximum(q0, 0.0))
    return np.asarray(np.where(impossible, np.nan, z))


def exact_p_value(
    observed: npt.ArrayLike, expected: npt.ArrayLike, *, uncertainty: npt.ArrayLike = 0.0
) -> FloatArray:
    """Probability of the background to give at least as many events as observed, without large-sample formulae.

    Parameters
    ----------
    observed : array-like
        Number of events.
    expected, uncertainty : array-like
        Background and its standard deviation, taken as that of an auxiliary count of (b / sigma)^2 events (Z_Bi of
        Cousins, Linnemann, Tucker, NIM A 595 (2008) 480, physics/0702156).

    Returns
    -------
    float64 array
        1 for no events, 0 for events without any expectation, NaN for negative numbers.

    Raises
    ------
    InputError
        For a negative uncertainty.

    Examples
    --------
    >>> exact_p_value([0, 3], 1.0).round(4)
    array([1.    , 0.0803])
    >>> print(f"{exact_p_value(3, 1.0, uncertainty=0.5):.4f}")
    0.1480
    """
    n, b, sigma = np.broadcast_arrays(
        np.asarray(observed, np.float64),
        np.asarray(expected, np.float64),
        _not_negative("uncertainty", uncertainty),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = b / sigma**2
        uncertain = special.betainc(n, tau * b + 1.0, 1.0 / (1.0 + tau))
        p = np.where((sigma > 0) & (b > 0), uncertain, special.gammainc(n, b))
    p = np.where(n == 0, 1.0, np.where(b == 0, 0.0, p))
    return np.asarray(np.where((n < 0) | (b < 0) | np.isnan(n) | np.isnan(b), np.nan, p))


def quadrature_sum(significances: npt.ArrayLike, *, axis: int | None = None) -> FloatArray:
    """Significance of independent bins or channels together, sqrt(sum Z^2); deficits count as 0.

    Parameters
    ----------
    significances : array-like
        One-sided significances.
    axis : int, optional
        Axis to sum over; all by default.

    Returns
    -------
    float64 array
        0 for no bins.

    Examples
    --------
    >>> print(quadrature_sum([3.0, 4.0, -1.0]))
    5.0
    """
    z = np.asarray(significances, np.float64)
    return np.asarray(np.sqrt((np.where(z < 0, 0.0, z) ** 2).sum(axis=axis)))


def _not_negative(name: str, values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, np.float64)
    if (array < 0).any():
        msg = f"{name} must not be negative; found {array.min()}"
        raise InputError(msg)
    return array
