"""Likelihood fits of densities that are linear in their parameter: P_b = u_b + c v_b in bin b.

Angles of polarised and correlated tops follow such densities, with u and v exact integrals over each bin. The log
likelihood sum n_b ln(u_b + c v_b) is concave, so its maximum is unique; for weighted events it is still the right
estimating equation, and the curvature is replaced by the variance of the score (the "sandwich"):

    sigma(c)^2 = sum var_b r_b^2 / (sum n_b r_b^2)^2,   r_b = v_b / (u_b + c v_b).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy.special import xlogy

from evenet_hep.errors import InputError
from evenet_hep.stats.contents import Contents

FloatArray = npt.NDArray[np.float64]


class LinearFit(NamedTuple):
    """A fit of a density that is linear in its parameter.

    Parameters
    ----------
    value, uncertainty : float
        The parameter and its standard deviation.
    chi2 : float
        Of the bins, with the variances of the contents; bins of variance 0 are left out.
    n_dof : int
        Bins with a variance, less one for the normalisation and one for the parameter; at least 0.
    expected : float64 array, shape (n_bins,)
        Fitted contents.
    contents : Contents
        What was fitted.
    minuit : iminuit.Minuit
        At its minimum, with Hesse's error; ``minuit.minos()`` and ``minuit.draw_mnprofile(name)`` work on it.
    """

    value: float
    uncertainty: float
    chi2: float
    n_dof: int
    expected: FloatArray
    contents: Contents
    minuit: Minuit


def maximize_linear(counts: npt.ArrayLike, constant: npt.ArrayLike, slope: npt.ArrayLike) -> FloatArray:
    """The c of greatest sum n ln(u + c v), for many histograms at once.

    Parameters
    ----------
    counts : array-like, shape (..., n_bins)
        n, not negative.
    constant, slope : array-like, broadcast to the same shape
        u, not negative, and v, with sum v = 0 over the bins.

    Returns
    -------
    float64 array, shape (...)
        No bin, filled or empty, gets a negative probability; the maximum may lie at that end. NaN where no filled bin
        depends on c.

    Examples
    --------
    >>> maximize_linear([[300, 200], [0, 0]], [0.5, 0.5], [-0.125, 0.125])
    array([-0.8,  nan])
    """
    n, u, v = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (counts, constant, slope)))
    with np.errstate(divide="ignore", invalid="ignore"):
        end = -u / v
        low = np.where(v > 0, end, -np.inf).max(axis=-1)
        high = np.where(v < 0, end, np.inf).min(axis=-1)
        filled, c = n > 0, np.zeros(n.shape[:-1])
        for _ in range(100):  # halving alone would need 60
            ratio = np.where(filled, v / (u + c[..., None] * v), 0.0)
            score = (n * ratio).sum(axis=-1)
            low, high = np.where(score > 0, c, low), np.where(score > 0, high, c)
            following = c + score / (n * ratio * ratio).sum(axis=-1)
            following = np.where((following >= low) & (following <= high), following, (low + high) / 2)
            done = np.abs(following - c) <= 1e-15 * np.maximum(1.0, np.abs(c))
            c = following
            if np.all(done | np.isnan(c)):
                break
    return np.where((filled & (v != 0)).any(axis=-1), c, np.nan)


def score_ratio(c: FloatArray, constant: FloatArray, slope: FloatArray) -> FloatArray:
    """Derivative r = v / (u + c v) of the log likelihood of an event in a bin; 0 where the probability is 0."""
    probability = constant + np.asarray(c)[..., None] * slope
    return np.divide(slope, probability, out=np.zeros_like(probability), where=probability > 0)


def fit_linear(
    contents: Contents,
    constant: FloatArray,
    slope: FloatArray,
    *,
    name: str,
    covariance: npt.ArrayLike | None = None,
) -> LinearFit:
    """Likelihood fit, or least squares with a covariance, of one histogram.

    Parameters
    ----------
    contents : Contents
        Not negative unless ``covariance`` is given.
    constant, slope : float64 array, shape (n_bins,)
        u and v: P_b = u_b + c v_b.
    name : str
        Of the parameter, for Minuit and for messages.
    covariance : array-like, shape (n_bins, n_bins), optional
        Of the contents, as unfolding gives it. With it, the total and c are fitted by least squares; a singular one
        is inverted on the space where it is not zero.

    Returns
    -------
    LinearFit

    Raises
    ------
    InputError
        For contents that are all zero or negative, a parameter that no filled bin depends on, or a covariance of
        another shape.
    """
    if contents.values.sum() <= 0:
        msg = f"the histogram for {name} must have a positive sum; found {contents.values.sum():g}"
        raise InputError(msg)
    if covariance is not None:
        return _fit_least_squares(contents, constant, slope, name, np.asarray(covariance, np.float64))
    n, variance = contents.values, contents.variances
    if (n < 0).any():
        msg = f"a likelihood for {name} needs contents that are not negative; found {n.min():g}"
        raise InputError(msg)
    best = maximize_linear(n, constant, slope)
    if np.isnan(best):
        msg = f"no filled bin depends on {name}: more bins are needed; found contents {n}"
        raise InputError(msg)
    ratio = score_ratio(best, constant, slope)
    information, spread = float((n * ratio**2).sum()), float((variance * ratio**2).sum())
    # Scaled so that Minuit's curvature is the inverse of the variance, weights or not.
    scale = information / spread if spread > 0 else 1.0
    minuit = Minuit(
        lambda c: -scale * float(xlogy(n, np.maximum(constant + c * slope, 1e-300)).sum()),
        float(best),
        grad=lambda c: [-scale * float((n * score_ratio(np.asarray(c), constant, slope)).sum())],
        name=(name,),
    )
    minuit.errordef = Minuit.LIKELIHOOD
    low, high = allowed_range(constant, slope)
    minuit.limits[name] = (low, high)
    minuit.migrad()
    expected = n.sum() * (constant + float(best) * slope) / constant.sum()
    uncertainty = float(np.sqrt(spread) / information) if information > 0 else float("nan")
    return _with_chi2(float(best), uncertainty, expected, contents, minuit)


def allowed_range(constant: FloatArray, slope: FloatArray) -> tuple[float, float]:
    """The values of c for which no bin has a negative probability."""
    low = (-constant[slope > 0] / slope[slope > 0]).max(initial=-np.inf)
    high = (-constant[slope < 0] / slope[slope < 0]).min(initial=np.inf)
    return float(low), float(high)


def _fit_least_squares(
    contents: Contents, u: FloatArray, v: FloatArray, name: str, covariance: FloatArray
) -> LinearFit:
    n = contents.values
    if covariance.shape != (len(n), len(n)) or not np.isfinite(covariance).all():
        msg = f"the covariance for {name} must be finite and of shape {(len(n), len(n))}; found shape {covariance.shape}"
        raise InputError(msg)
    inverse = np.linalg.pinv((covariance + covariance.T) / 2, rcond=1e-10, hermitian=True)
    design = np.stack([u, v], axis=1)  # (n_bins, 2): total, total * c
    precision = design.T @ inverse @ design
    if not np.linalg.cond(precision) < 1e12:
        msg = f"the covariance for {name} must determine total and {name}; it is zero or singular for them"
        raise InputError(msg)
    total, product = np.linalg.solve(precision, design.T @ inverse @ n)

    def chi2(norm: float, c: float) -> float:
        residual = n - norm * (u + c * v)
        return float(residual @ inverse @ residual)

    minuit = Minuit(chi2, float(total), float(product / total), name=("total", name))
    minuit.errordef = Minuit.LEAST_SQUARES
    minuit.strategy = 2
    minuit.migrad()
    minuit.hesse()
    value = float(product / total)
    (tt, tp), (_, pp) = np.linalg.inv(precision)
    uncertainty = float(np.sqrt(pp - 2 * value * tp + value**2 * tt) / abs(total))
    rank = int(np.linalg.matrix_rank(covariance, hermitian=True, rtol=1e-10))
    expected = total * u + product * v
    return LinearFit(value, uncertainty, chi2(total, value), max(rank - 2, 0), expected, contents, minuit)


def _with_chi2(
    value: float, uncertainty: float, expected: FloatArray, contents: Contents, minuit: Minuit
) -> LinearFit:
    used = contents.variances > 0
    chi2 = float(((contents.values - expected)[used] ** 2 / contents.variances[used]).sum())
    return LinearFit(value, uncertainty, chi2, max(int(used.sum()) - 2, 0), expected, contents, minuit)
