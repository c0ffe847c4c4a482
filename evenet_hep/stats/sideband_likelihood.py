"""The likelihood of side bands and one counting window: profiled for many spectra at once, and as a function for Minuit.

The null hypothesis fits the background to side bands and window together. The alternative adds a free signal to the
window, so that the side bands alone decide the background and the window is described perfectly.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy import special

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import (
    Background,
    Function,
    FunctionRates,
    LinearRates,
    Rates,
    rates_of,
    rows_of,
)
from evenet_hep.stats.sideband_solver import Counts, solve
from evenet_hep.stats.spectrum import Spectrum, window_mask
from evenet_hep.stats.weighted_poisson import scale_factors, scaled_poisson_logpdf

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Scale = Literal["bin", "common"]


class Regions(NamedTuple):
    """A spectrum cut into side-band bins and a window, in this order.

    Parameters
    ----------
    sumw, sumw2 : float64 array, shape (..., n_rows)
        Sums of weights and of squared weights; the last row is the window.
    scale : float64 array, shape (..., n_rows)
        Weight of the equivalent events.
    rates : LinearRates, ExponentialRates or FunctionRates
        Expected sums of weights as a function of the parameters of the background.
    """

    sumw: FloatArray
    sumw2: FloatArray
    scale: FloatArray
    rates: Rates


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
    scale: Scale = "bin",
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
    factors = scale_factors(sumw, sumw2)
    if scale == "common":
        common = scale_factors(sumw[..., :-1].sum(axis=-1), sumw2[..., :-1].sum(axis=-1))
        factors[..., :-1] = common[..., None]
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
        If the minimisation of a user's function fails.

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
            [_minimise(rates, row_y, row_s, null=null) for null in (False, True)]
            for row_y, row_s in zip(y, s, strict=True)
        ]
        theta, theta_null = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
        active = active_null = np.zeros(y.shape, bool)
    else:
        free, null = solve(rates, Counts(n, sides)), solve(rates, Counts(n, per_event))
        theta, theta_null, active, active_null = free.theta, null.theta, free.active, null.active
    rate, rate_null = (_rates(rates, values) for values in (theta, theta_null))
    saturated = np.concatenate([rate[:, :-1], y[:, -1:]], axis=1)
    m2lnl, m2lnl_null = (
        -2 * scaled_poisson_logpdf(y, s, np.maximum(values, 0.0)).sum(axis=1)
        for values in (saturated, rate_null)
    )
    return Profile(theta, theta_null, active, active_null, rate[:, -1], rate_null[:, -1], m2lnl, m2lnl_null)


class SidebandCost:
    """-2 ln L as a function of signal and background parameters, for Minuit.

    Below zero the rates are continued smoothly, so that a minimiser that steps there finds its way back.

    Parameters
    ----------
    regions : Regions
        Of one spectrum.
    theta : float64 array, shape (n_parameters,)
        Parameters of the background at the origin of the directions.
    directions : float64 array, shape (n_parameters, n_free)
        Directions that are free; the unit matrix if all are.
    signal : bool
        Whether the first argument is a signal in the window; without, all arguments are background.
    """

    errordef = Minuit.LEAST_SQUARES

    def __init__(self, regions: Regions, theta: FloatArray, directions: FloatArray, *, signal: bool) -> None:
        self.regions, self.theta, self.directions, self.signal = regions, theta, directions, signal
        # Rows of infinite scale are left out.
        self.used = np.isfinite(regions.scale)
        y, self.scale = regions.sumw[self.used], regions.scale[self.used]
        self.n = y / self.scale
        # Where the logarithm goes over into a parabola, and how steep empty bins are below zero.
        self.floor = np.where(y > 0, 1e-3 * y, 1e-3 * self.scale)
        self.constant = float(2 * (special.gammaln(self.n + 1) + self.n * np.log(self.scale)).sum())

    def __call__(self, *parameters: float) -> float:
        """-2 ln L."""
        rate = self._rate(parameters)
        inside = np.maximum(rate, self.floor)
        below = np.minimum(rate - self.floor, 0.0) / self.floor
        logs = self.n * (np.log(inside) + below - 0.5 * below**2)
        penalty = np.where(self.n > 0, 0.0, (np.minimum(rate, 0.0) / self.floor) ** 2)
        return float(self.constant + 2 * (rate / self.scale - logs + penalty).sum())

    def gradient(self, *parameters: float) -> FloatArray:
        """Derivatives of -2 ln L with the parameters."""
        rate, slopes = self._rate_and_slopes(parameters)
        below = np.minimum(rate - self.floor, 0.0) / self.floor
        logs = np.where(below < 0, (1 - below) / self.floor, 1 / np.maximum(rate, self.floor))
        penalty = np.where(self.n > 0, 0.0, 2 * np.minimum(rate, 0.0) / self.floor**2)
        per_rate = 2 * (1 / self.scale - self.n * logs + penalty)
        gradient = per_rate @ slopes @ self.directions
        of_signal = per_rate[-1] if self.used[-1] else 0.0
        return np.append(of_signal, gradient) if self.signal else np.asarray(gradient)

    def _theta(self, parameters: tuple[float, ...]) -> FloatArray:
        return np.asarray(self.theta + self.directions @ np.array(parameters[self.signal :]))

    def _rate(self, parameters: tuple[float, ...]) -> FloatArray:
        rate = _rates(self.regions.rates, self._theta(parameters)).copy()
        rate[-1] += parameters[0] if self.signal else 0.0
        return np.asarray(rate[self.used])

    def _rate_and_slopes(self, parameters: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
        rate, slopes = self.regions.rates(self._theta(parameters))
        rate = rate.copy()
        rate[-1] += parameters[0] if self.signal else 0.0
        return rate[self.used], slopes[self.used]


def minuit_at(
    regions: Regions,
    theta: FloatArray,
    active: BoolArray,
    *,
    signal: float | None,
    function: Function | None = None,
) -> Minuit:
    """A Minuit object that stands at a minimum already known, with its errors.

    Parameters
    ----------
    regions : Regions
        Of one spectrum.
    theta : float64 array, shape (n_parameters,)
        Parameters of the background at the minimum.
    active : bool array, shape (n_rows,)
        Rows held at zero by positivity.
    signal : float or None
        Signal in the window at the minimum; None for the null hypothesis.
    function : Function, optional
        The user's function, for its limits.

    Returns
    -------
    iminuit.Minuit
        Parameters ``signal`` (not for the null hypothesis) and those of the background. Where positivity holds the
        background back, ``u0``, ``u1``, ... move it from ``theta`` along the directions left.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial
    >>> counts = np.array([10.0, 20.0, 10.0])
    >>> regions = regions_of(Spectrum(np.arange(4.0), counts, counts), (1.0, 2.0), Polynomial(0))
    >>> minuit = minuit_at(regions, np.array([10.0]), np.zeros(3, bool), signal=10.0)
    >>> print(minuit.valid, f"{minuit.errors['signal']:.2f}")
    True 5.00
    """
    rates = regions.rates
    held = isinstance(rates, LinearRates) and active.any()
    directions = free_directions(rates, active)
    origin = theta if held else np.zeros_like(theta)
    names = [f"u{k}" for k in range(directions.shape[1])] if held else list(rates.names)
    start = list(np.zeros(directions.shape[1])) if held else list(theta)
    # An empty window is described perfectly by any background: nothing then decides the signal but the background.
    empty = signal is not None and regions.sumw[-1] <= 0
    if signal is not None:
        names, start = ["signal", *names], [signal, *start]
    if empty:
        regions = regions._replace(
            scale=np.where(np.arange(len(active)) < len(active) - 1, regions.scale, np.inf)
        )
    cost = SidebandCost(regions, origin, directions, signal=signal is not None)
    minuit = Minuit(cost, *start, name=names, grad=None if function else cost.gradient)
    for name, limits in ((function.limits or {}) if function else {}).items():
        minuit.limits[name] = limits
    minuit.print_level = 0
    for name, value in zip(names, start, strict=True):
        minuit.errors[name] = max(0.05 * abs(value), 0.01)
    if empty:
        minuit.fixed["signal"] = True
    if minuit.nfit:
        minuit.migrad()
        minuit.hesse()
    return minuit


def free_directions(rates: Rates, active: BoolArray) -> FloatArray:
    """Orthonormal directions of the parameters along which no active rate changes.

    Parameters
    ----------
    rates : LinearRates, ExponentialRates or FunctionRates
    active : bool array, shape (n_rows,)

    Returns
    -------
    float64 array, shape (n_parameters, n_free)
        The unit matrix without active rows.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial, rows_of
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.array([False, True, False]))
    >>> print(free_directions(rates_of(Polynomial(1), rows), np.array([True, False, False])).shape)
    (2, 1)
    """
    n_parameters = len(rates.names)
    if not isinstance(rates, LinearRates) or not active.any():
        return np.eye(n_parameters)
    _, lengths, rows = np.linalg.svd(rates.design[active])
    rank = int((lengths > 1e-10 * lengths[0]).sum())
    return np.asarray(rows[rank:].T)


def _rates(rates: Rates, theta: FloatArray) -> FloatArray:
    if isinstance(rates, FunctionRates):
        values = [rates.rates(row) for row in np.atleast_2d(theta)]
        return np.stack(values) if theta.ndim == 2 else values[0]
    return rates(theta)[0]


def _minimise(rates: FunctionRates, sumw: FloatArray, scale: FloatArray, *, null: bool) -> FloatArray:
    """Parameters of the user's function at the minimum, from Migrad with a simplex if that fails."""
    start = np.array(list(rates.function.start.values()))
    used = scale if null else np.append(scale[:-1], np.inf)
    regions = Regions(np.where(np.isfinite(used), sumw, 0.0), sumw, used, rates)
    cost = SidebandCost(regions, np.zeros(len(start)), np.eye(len(start)), signal=False)
    minuit = Minuit(cost, *start, name=list(rates.names))
    for name, limits in (rates.function.limits or {}).items():
        minuit.limits[name] = limits
    minuit.migrad()
    if not minuit.valid:
        minuit.simplex()
        minuit.migrad(ncall=20000)
    if not minuit.valid:
        msg = f"the fit of the background function did not converge from {dict(rates.function.start)}; it stopped at {minuit.values.to_dict()}"
        raise InputError(msg)
    return np.array(minuit.values)
