"""The likelihood of side bands and one counting window, profiled for many spectra at once.

The null hypothesis fits the background to side bands and window together. The alternative adds a free signal to the
window, so that the side bands alone decide the background and the window is described perfectly.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import Background, FunctionRates, LinearRates, Rates, rates_of, rows_of
from evenet_hep.stats.sideband_minuit import Regions, free_directions, minimise_function, rates_at
from evenet_hep.stats.sideband_solver import Counts, solve
from evenet_hep.stats.spectrum import Spectrum, window_mask
from evenet_hep.stats.weighted_poisson import scale_factors, scaled_poisson_logpdf

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Scale = Literal["bin", "common"]


class Profile(NamedTuple):
    """Both hypotheses at their minima, one entry per spectrum.

    Parameters
    ----------
    theta, theta_null : float64 array, shape (n_spectra, n_parameters)
        Parameters of the background.
    active, active_null : bool array, shape (n_spectra, n_rows)
        Rows whose rate is held at zero by positivity.
    expected, expected_null : float64 array, shape (n_spectra,)
        Background in the window.
    m2lnl, m2lnl_null : float64 array, shape (n_spectra,)
        -2 ln L.
    """

    theta: FloatArray
    theta_null: FloatArray
    active: BoolArray
    active_null: BoolArray
    expected: FloatArray
    expected_null: FloatArray
    m2lnl: FloatArray
    m2lnl_null: FloatArray

    @property
    def q0(self) -> FloatArray:
        """-2 ln(L0 / L1), also for deficits; never below 0."""
        return np.maximum(self.m2lnl_null - self.m2lnl, 0.0)


def regions_of(
    spectrum: Spectrum,
    window: tuple[float, float],
    background: Background,
    *,
    scale: Scale = "common",
    integrate: bool = False,
) -> Regions:
    """Cut a spectrum into side bands and window.

    Parameters
    ----------
    spectrum : Spectrum
    window : tuple of two floats
        In GeV, at bin edges.
    background : Polynomial, Exponential or Function
    scale : str
        ``"bin"``: every bin has its own scale factor; ``"common"``: one for all side-band bins.
    integrate : bool
        Integrate the density over side-band bins instead of taking it at their centres.

    Returns
    -------
    Regions

    Raises
    ------
    InputError
        For a window that does not fit, empty side bands, bins that negative weights make negative, or an unknown scale.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial
    >>> regions = regions_of(Spectrum(np.arange(5.0), np.arange(4.0), np.arange(4.0)), (1.0, 3.0), Polynomial(0))
    >>> print(regions.sumw, regions.scale)
    [0. 3. 3.] [1. 1. 1.]
    """
    inside = window_mask(spectrum, window)
    sumw, sumw2 = (
        np.append(values[~inside], values[inside].sum()) for values in (spectrum.sumw, spectrum.sumw2)
    )
    if scale not in ("bin", "common"):
        msg = f"scale must be 'bin' or 'common'; found {scale!r}"
        raise InputError(msg)
    if not sumw[:-1].any():
        msg = f"the side bands of the window from {window[0]} to {window[1]} are empty; there is nothing to fit a background to"
        raise InputError(msg)
    rates = rates_of(background, rows_of(spectrum, inside, integrate=integrate))
    return Regions(sumw, sumw2, scales(sumw, sumw2, scale), rates)


def scales(sumw: FloatArray, sumw2: FloatArray, scale: Scale) -> FloatArray:
    """Scale factors of side-band bins and window.

    Parameters
    ----------
    sumw, sumw2 : float64 array, shape (..., n_rows)
        The window last.
    scale : str
        As for :func:`regions_of`.

    Returns
    -------
    float64 array, shape (..., n_rows)

    Examples
    --------
    >>> scales(np.array([2.0, 0.0, 4.0]), np.array([4.0, 0.0, 4.0]), "common")
    array([2., 2., 1.])
    """
    if scale == "bin":
        return scale_factors(sumw, sumw2)
    common = scale_factors(sumw[..., :-1].sum(axis=-1), sumw2[..., :-1].sum(axis=-1))
    # Single bins may then add up to nothing, but still not to less.
    scale_factors(sumw, np.maximum(sumw, 0.0))
    factors = np.repeat(common[..., None], sumw.shape[-1], axis=-1)
    factors[..., -1] = scale_factors(sumw[..., -1], sumw2[..., -1])
    return factors


def profile(regions: Regions) -> Profile:
    """Minimise -2 ln L of both hypotheses.

    Parameters
    ----------
    regions : Regions
        Of one spectrum, or of many: arrays of shape (n_spectra, n_rows).

    Returns
    -------
    Profile

    Raises
    ------
    InputError
        If a minimisation does not converge.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial
    >>> counts = np.array([10.0, 20.0, 10.0])
    >>> found = profile(regions_of(Spectrum(np.arange(4.0), counts, counts), (1.0, 2.0), Polynomial(0)))
    >>> print(found.expected.round(3), found.expected_null.round(3), found.q0.round(3))
    [10.] [13.333] [4.711]
    """
    y, s = np.atleast_2d(regions.sumw), np.atleast_2d(regions.scale)
    n, per_event = y / s, 1 / s
    sides = np.where(np.arange(y.shape[1]) < y.shape[1] - 1, per_event, 0.0)
    rates = regions.rates
    if isinstance(rates, FunctionRates):
        pairs = [
            [minimise_function(rates, row_y, row_s, null=null) for null in (False, True)]
            for row_y, row_s in zip(y, s, strict=True)
        ]
        theta, theta_null = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
        active = active_null = np.zeros(y.shape, bool)
    else:
        free, null = solve(rates, Counts(n, sides)), solve(rates, Counts(n, per_event))
        if lost := int((~(free.converged & null.converged)).sum()):
            msg = f"the fit of the background did not converge for {lost} of {len(y)} spectra; try another background"
            raise InputError(msg)
        theta, theta_null, active, active_null = free.theta, null.theta, free.active, null.active
    rate, rate_null = (rates_at(rates, values) for values in (theta, theta_null))
    saturated = np.concatenate([rate[:, :-1], y[:, -1:]], axis=1)
    m2lnl, m2lnl_null = (
        -2 * scaled_poisson_logpdf(y, s, np.maximum(values, 0.0)).sum(axis=1)
        for values in (saturated, rate_null)
    )
    return Profile(theta, theta_null, active, active_null, rate[:, -1], rate_null[:, -1], m2lnl, m2lnl_null)


def fit_all_rows(rates: Rates, sumw: FloatArray, scale: FloatArray) -> FloatArray:
    """Parameters of the background from all rows, whatever they are.

    Parameters
    ----------
    rates : LinearRates, ExponentialRates or FunctionRates
    sumw, scale : float64 array, shape (n_rows,)

    Returns
    -------
    float64 array, shape (n_parameters,)

    Raises
    ------
    InputError
        If the minimisation of a user's function fails.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial, rows_of
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.zeros(3, bool))
    >>> fit_all_rows(rates_of(Polynomial(0), rows), np.array([1.0, 2.0, 3.0]), np.ones(3)).round(6)
    array([2.])
    """
    if isinstance(rates, FunctionRates):
        return minimise_function(rates, sumw, scale, null=True)
    solution = solve(rates, Counts((sumw / scale)[None], (1 / scale)[None]))
    return np.asarray(solution.theta[0], np.float64)


class SideBandErrors(NamedTuple):
    """How well the side bands know the background.

    Parameters
    ----------
    covariance : float64 array, shape (n_parameters, n_parameters)
        Of the parameters; zero across directions that positivity holds.
    uncertainty : float
        Of the background in the window.
    deviance : float
        -2 ln(L / L of a perfect description) of the side bands.
    """

    covariance: FloatArray
    uncertainty: float
    deviance: float


def side_band_errors(regions: Regions, theta: FloatArray, active: BoolArray) -> SideBandErrors:
    """Covariance of the background that the side bands alone decide.

    The covariance is H^-1 V H^-1 with the curvature H of -ln L and the variance V of its slope; with a scale factor per
    bin both are the same. Rates that are not linear in the parameters use expected instead of observed contents.

    Parameters
    ----------
    regions : Regions
        Of one spectrum.
    theta : float64 array, shape (n_parameters,)
        Parameters at the minimum.
    active : bool array, shape (n_rows,)
        Rows held at zero by positivity.

    Returns
    -------
    SideBandErrors

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial
    >>> counts = np.array([10.0, 20.0, 10.0])
    >>> regions = regions_of(Spectrum(np.arange(4.0), counts, counts), (1.0, 2.0), Polynomial(0))
    >>> print(f"{side_band_errors(regions, np.array([10.0]), np.zeros(3, bool)).uncertainty:.3f}")  # sqrt(20) / 2
    2.236
    """
    rate, slopes = regions.rates(theta)
    y, v, s = (values[:-1] for values in (regions.sumw, regions.sumw2, regions.scale))
    free = free_directions(regions.rates, active)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_rate = np.where(y > 0, 1 / np.maximum(rate[:-1], 1e-300), 0.0)
        deviance = 2 * ((rate[:-1] - y) / s + special.xlogy(y / s, np.where(y > 0, y * per_rate, 1.0))).sum()
    design = slopes[:-1] @ free
    if isinstance(regions.rates, LinearRates):
        information, noise = y / s * per_rate**2, v / s**2 * per_rate**2
    else:
        information = 1 / (s * np.maximum(rate[:-1], 1e-300))
        noise = information / s * np.where(y > 0, v / np.where(y > 0, y, 1.0), s)
    curvature = np.einsum("rp,r,rq->pq", design, information, design)
    spread = np.einsum("rp,r,rq->pq", design, noise, design)
    inverse = np.linalg.pinv(curvature, hermitian=True)
    covariance = free @ inverse @ spread @ inverse @ free.T
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # an exponential far outside the side bands knows nothing
        variance = float(slopes[-1] @ covariance @ slopes[-1])
    variance = np.inf if np.isnan(variance) else variance
    return SideBandErrors(covariance, float(np.sqrt(max(variance, 0.0))), float(deviance))
