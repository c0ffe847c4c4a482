"""Likelihood of a sum of weights: the scaled Poisson distribution of Bohm and Zech, NIM A 748 (2014) 1.

A bin with sum of weights y and sum of squared weights v is treated as y / s events of weight s = v / y each. This is
exact for constant weights, and has the right mean and variance otherwise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]


def scale_factors(sumw: npt.ArrayLike, sumw2: npt.ArrayLike) -> FloatArray:
    """Weight s = sum w^2 / sum w of the equivalent events of every bin.

    Parameters
    ----------
    sumw, sumw2 : array-like
        Sums of weights and of squared weights.

    Returns
    -------
    float64 array
        1 for bins without weight, empty or filled with weights of 0.

    Raises
    ------
    InputError
        For a bin whose weights add up to a negative number, or to zero with squares that do not: no Poisson
        distribution describes it.

    Examples
    --------
    >>> scale_factors([3.0, 0.0], [4.5, 0.0])
    array([1.5, 1. ])
    """
    y, v = np.asarray(sumw, np.float64), np.asarray(sumw2, np.float64)
    bad = (y < 0) | ((y == 0) & (v > 0)) | ~np.isfinite(y + v) | (v < 0)
    if bad.any():
        where = np.flatnonzero(bad)[0]
        msg = (
            f"{bad.sum()} of {bad.size} bins have a sum of weights that is not positive (bin {where}: sum {y.flat[where]:g}, "
            f"sum of squares {v.flat[where]:g}); merge bins until negative weights are outweighed"
        )
        raise InputError(msg)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(y > 0, v / y, 1.0))


def scaled_poisson_logpdf(sumw: npt.ArrayLike, scale: npt.ArrayLike, rate: npt.ArrayLike) -> FloatArray:
    """Logarithm of L: (y/s) ln(lambda/s) - lambda/s - ln Gamma(y/s + 1).

    Parameters
    ----------
    sumw : array-like
        Observed sum of weights y, not negative.
    scale : array-like
        s of :func:`scale_factors`.
    rate : array-like
        Expected sum of weights lambda.

    Returns
    -------
    float64 array
        Minus infinity for no expectation and something observed; NaN for a negative expectation.

    Examples
    --------
    >>> scaled_poisson_logpdf([2.0, 4.0], [1.0, 2.0], [2.0, 4.0]).round(4)  # both are two events
    array([-1.3069, -1.3069])
    """
    y, s, rates = (np.asarray(x, np.float64) for x in (sumw, scale, rate))
    n, expected = y / s, rates / s
    logpdf = special.xlogy(n, expected) - expected - special.gammaln(n + 1.0)
    return np.asarray(np.where(rates < 0, np.nan, logpdf))
