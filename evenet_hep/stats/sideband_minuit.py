"""-2 ln L of side bands and window as a function for Minuit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import ExponentialRates, Function, FunctionRates, LinearRates, Rates
from evenet_hep.stats.weighted_poisson import scaled_poisson_logpdf

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


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


def rates_at(rates: Rates, theta: FloatArray) -> FloatArray:
    """Rates without their derivatives.

    Parameters
    ----------
    rates : LinearRates, ExponentialRates or FunctionRates
    theta : float64 array, shape (..., n_parameters)

    Returns
    -------
    float64 array, shape (..., n_rows)

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial, rates_of, rows_of
    >>> from evenet_hep.stats.spectrum import Spectrum
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.array([False, True, False]))
    >>> rates_at(rates_of(Polynomial(0), rows), np.array([7.0])).round(6)
    array([7., 7., 7.])
    """
    if isinstance(rates, FunctionRates):
        values = [rates.rates(row) for row in np.atleast_2d(theta)]
        return np.stack(values) if theta.ndim == 2 else values[0]
    return rates.rates(theta) if isinstance(rates, ExponentialRates) else rates(theta)[0]


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
    minimum : float64 array, shape (n_rows,), optional
        Rates at the minimum, if known: the smooth continuation must begin below them, however bad the fit.
    """

    errordef = Minuit.LEAST_SQUARES

    def __init__(
        self,
        regions: Regions,
        theta: FloatArray,
        directions: FloatArray,
        *,
        signal: bool,
        minimum: FloatArray | None = None,
    ) -> None:
        self.regions, self.theta, self.directions, self.signal = regions, theta, directions, signal
        # Rows of infinite scale are left out.
        self.used = np.isfinite(regions.scale)
        y, self.scale = regions.sumw[self.used], regions.scale[self.used]
        self.n = y / self.scale
        self.sumw = y
        # Where the logarithm goes over into a parabola, and how steep empty bins are below zero.
        lowest = y if minimum is None else np.minimum(y, np.maximum(minimum[self.used], 1e-12 * y))
        self.floor = 1e-3 * np.where(y > 0, lowest, self.scale)
        # -2 ln L of a perfect description. The rest is small even for a billion events, and so exact.
        self.perfect = float(-2 * scaled_poisson_logpdf(y, self.scale, y).sum())

    def __call__(self, *parameters: float) -> float:
        """-2 ln L."""
        rate = self._rate(parameters)
        excess = (rate - self.sumw) / self.scale
        relative = (
            np.where(self.n > 0, np.maximum(rate, self.floor) / np.where(self.n > 0, self.sumw, 1.0), 1.0) - 1
        )
        below = np.minimum(rate - self.floor, 0.0) / self.floor
        logs = self.n * (np.log1p(relative) + below - 0.5 * below**2)
        penalty = np.where(self.n > 0, 0.0, (np.minimum(rate, 0.0) / self.floor) ** 2)
        return float(self.perfect + 2 * (excess - logs + penalty).sum())

    def gradient(self, *parameters: float) -> FloatArray:
        """Derivatives of -2 ln L with the parameters."""
        rate, slopes = self.rate_and_slopes(parameters)
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
        rate = rates_at(self.regions.rates, self._theta(parameters)).copy()
        rate[-1] += parameters[0] if self.signal else 0.0
        # A minimiser may step where an exponential overflows; it only has to see that this is bad.
        used: FloatArray = rate[self.used]
        return (
            used if np.isfinite(used).all() else np.nan_to_num(used, nan=1e100, posinf=1e100, neginf=-1e100)
        )

    def rate_and_slopes(self, parameters: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
        """Rates of the rows in use (n_used,), and their derivatives with the background (n_used, n_parameters)."""
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
    >>> from evenet_hep.stats.sideband_likelihood import regions_of
    >>> from evenet_hep.stats.spectrum import Spectrum
    >>> counts = np.array([10.0, 20.0, 10.0])
    >>> regions = regions_of(Spectrum(np.arange(4.0), counts, counts), (1.0, 2.0), Polynomial(0))
    >>> minuit = minuit_at(regions, np.array([10.0]), np.zeros(3, bool), signal=10.0)
    >>> print(minuit.valid, f"{minuit.errors['signal']:.2f}")
    True 5.00
    """
    rates = regions.rates
    held = bool(isinstance(rates, LinearRates) and active.any())
    directions = free_directions(rates, active)
    # Positivity can decide everything. Minuit wants parameters even then: it gets all of them, fixed.
    stuck = directions.shape[1] == 0
    held = held and not stuck
    directions = np.eye(len(theta)) if stuck else directions
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
    minimum = rates_at(rates, theta).copy()
    minimum[-1] += signal or 0.0
    cost = SidebandCost(regions, origin, directions, signal=signal is not None, minimum=minimum)
    minuit = Minuit(cost, *start, name=names, grad=None if function else cost.gradient)
    for name, limits in ((function.limits or {}) if function else {}).items():
        minuit.limits[name] = limits
    minuit.print_level = 0
    # First steps as long as the errors will be: with many events a per cent of the value is a hundred errors.
    rate, slopes = cost.rate_and_slopes(tuple(start))
    design = slopes @ directions
    if signal is not None:
        design = np.column_stack([np.arange(len(rate)) == len(active) - 1, design])
    curvature = np.einsum("rp,r,rq->pq", design, 1 / (cost.scale * np.maximum(rate, cost.floor)), design)
    for name, variance in zip(names, np.diag(np.linalg.pinv(curvature, hermitian=True)), strict=True):
        minuit.errors[name] = float(np.sqrt(variance)) if variance > 0 else 0.01
    if empty:
        minuit.fixed["signal"] = True
    for name in names if stuck else ():
        minuit.fixed[name] = name != "signal" or empty
    minuit.migrad()
    if minuit.nfit:
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
    >>> from evenet_hep.stats.backgrounds import Polynomial, rates_of, rows_of
    >>> from evenet_hep.stats.spectrum import Spectrum
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


def minimise_function(rates: FunctionRates, sumw: FloatArray, scale: FloatArray, *, null: bool) -> FloatArray:
    """Parameters of a user's function at the minimum, from Migrad, with a simplex if that fails.

    Parameters
    ----------
    rates : FunctionRates
    sumw, scale : float64 array, shape (n_rows,)
    null : bool
        Fit all rows; without, all but the last.

    Returns
    -------
    float64 array, shape (n_parameters,)

    Raises
    ------
    InputError
        If Minuit finds no minimum.

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Function, rows_of
    >>> from evenet_hep.stats.spectrum import Spectrum
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.array([False, True, False]))
    >>> flat = FunctionRates(rows, Function(lambda mass, level: level + 0 * mass, {"level": 1.0}))
    >>> minimise_function(flat, np.array([2.0, 4.0, 9.0]), np.ones(3), null=False).round(2)
    array([3.])
    """
    start = np.array(list(rates.function.start.values()))
    used = scale if null else np.append(scale[:-1], np.inf)
    regions = Regions(np.where(np.isfinite(used), sumw, 0.0), sumw, used, rates)
    cost = SidebandCost(regions, np.zeros(len(start)), np.eye(len(start)), signal=False)
    minuit = Minuit(cost, *start, name=list(rates.names))
    for name, limits in (rates.function.limits or {}).items():
        minuit.limits[name] = limits
    minuit.tol = 1e-3
    minuit.migrad()
    if not minuit.valid:
        minuit.simplex()
        minuit.migrad(ncall=20000)
    if not minuit.valid:
        msg = f"the fit of the background function did not converge from {dict(rates.function.start)}; it stopped at {minuit.values.to_dict()}"
        raise InputError(msg)
    return np.array(minuit.values, np.float64)
