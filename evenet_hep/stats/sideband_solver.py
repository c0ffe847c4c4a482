"""Exact minima of the scaled Poisson likelihood of many spectra at once.

For a polynomial, -ln L = sum_i (lambda_i / s_i - n_i ln lambda_i) with n_i = y_i / s_i is convex in the coefficients and
has one minimum, even where positivity of the density is what stops it (filled bins stay positive by themselves, empty
ones by constraint). Newton's method finds it; empty bins get a logarithmic barrier that is lowered until it no longer
matters. A general minimiser on raw monomials does not: published septic fits stopped early and were off by several
units of significance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from evenet_hep.stats.backgrounds import ExponentialRates, LinearRates

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

# Heights of the barrier of empty bins, in events; the last is the error of -ln L per empty bin.
BARRIERS = tuple(10.0 ** -np.arange(1, 11))
TOLERANCE = 1e-11  # of -ln L, by which Newton's method may miss the minimum
ACCEPTED = 1e-6  # the same for a result: rounding keeps slopes that run away from coming closer
MAX_STEPS = 200


class Counts(NamedTuple):
    """What is fitted, in numbers of equivalent events.

    Parameters
    ----------
    n : float64 array, shape (n_spectra, n_rows)
        y / s.
    per_event : float64 array, shape (n_spectra, n_rows)
        1 / s, by which a rate becomes a number of equivalent events; 0 leaves a row out.
    """

    n: FloatArray
    per_event: FloatArray


class Solution(NamedTuple):
    """Minima.

    Parameters
    ----------
    theta : float64 array, shape (n_spectra, n_coefficients)
    active : bool array, shape (n_spectra, n_rows)
        Rows without events whose rate is held at zero by positivity.
    converged : bool array, shape (n_spectra,)
        False where -ln L could still fall by more than 1e-6.
    """

    theta: FloatArray
    active: BoolArray
    converged: BoolArray


def solve(rates: LinearRates | ExponentialRates, counts: Counts) -> Solution:
    """Coefficients of greatest likelihood for every spectrum.

    Parameters
    ----------
    rates : LinearRates or ExponentialRates
    counts : Counts

    Returns
    -------
    Solution

    Examples
    --------
    >>> from evenet_hep.stats.backgrounds import Polynomial, rates_of, rows_of
    >>> from evenet_hep.stats.spectrum import Spectrum
    >>> rows = rows_of(Spectrum(np.arange(5.0), np.ones(4), np.ones(4)), np.arange(4) == 1)
    >>> n = np.array([[4.0, 2.0, 6.0, 0.0]])
    >>> solve(rates_of(Polynomial(0), rows), Counts(n, np.array([[1.0, 1.0, 1.0, 0.0]]))).theta.round(6)
    array([[4.]])
    """
    if isinstance(rates, LinearRates):
        return _solve_linear(rates.design, counts)
    return _solve_exponential(rates, counts)


class LinearProblem:
    """-ln L of linear rates, with the barrier of empty bins.

    Parameters
    ----------
    design : float64 array, shape (n_rows, n_coefficients)
    cost, logs : float64 array, shape (n_spectra, n_rows)
        -ln L is the sum of cost * rate - logs * ln(rate).
    """

    def __init__(self, design: FloatArray, cost: FloatArray, logs: FloatArray) -> None:
        self.design, self.cost, self.logs = design, cost, logs
        self.outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)

    def derivatives(self, theta: FloatArray, which: Indices) -> tuple[FloatArray, FloatArray]:
        """First (n, n_coefficients) and second (n, n_coefficients, n_coefficients) derivatives."""
        rate, logs = theta @ self.design.T, self.logs[which]
        ratio = np.where(logs > 0, logs / np.where(rate > 0, rate, 1.0), 0.0)
        curvature = np.where(logs > 0, ratio / np.where(rate > 0, rate, 1.0), 0.0)
        gradient = (self.cost[which] - ratio) @ self.design
        return gradient, (curvature @ self.outer).reshape(len(theta), *[theta.shape[1]] * 2)

    def objective(self, theta: FloatArray, which: Indices) -> FloatArray:
        """-ln L (n,); infinite where a rate that must be positive is not."""
        rate, logs = theta @ self.design.T, self.logs[which]
        forbidden = ((logs > 0) & (rate <= 0)).any(axis=1)
        value = (self.cost[which] * rate - special.xlogy(logs, np.where(rate > 0, rate, 1.0))).sum(axis=1)
        return np.where(forbidden, np.inf, value)


class ExponentialProblem:
    """-ln L of exponential rates.

    Parameters
    ----------
    rates : ExponentialRates
    cost, logs : float64 array, shape (n_spectra, n_rows)
        -ln L is the sum of cost * rate - logs * ln(rate).
    """

    def __init__(self, rates: ExponentialRates, cost: FloatArray, logs: FloatArray) -> None:
        self.rates, self.cost, self.logs = rates, cost, logs

    def derivatives(self, theta: FloatArray, which: Indices) -> tuple[FloatArray, FloatArray]:
        """First derivatives and the expected second ones: exact for bins at their centres, and never negative."""
        rate, slopes = self.rates(theta)
        gradient = np.einsum("tr,trp->tp", self.cost[which] - self.logs[which] / rate, slopes)
        return gradient, np.einsum("tr,trp,trq->tpq", self.cost[which] / rate, slopes, slopes)

    def objective(self, theta: FloatArray, which: Indices) -> FloatArray:
        """-ln L (n,); infinite where the exponential overflows or vanishes."""
        rate = self.rates.rates(theta)
        inside = np.asarray(((rate > 1e-200) & (rate < 1e200)).all(axis=1))
        rate = np.where(inside[:, None], rate, 1.0)
        value = (self.cost[which] * rate - self.logs[which] * np.log(rate)).sum(axis=1)
        return np.where(inside, value, np.inf)


def _solve_linear(design: FloatArray, counts: Counts) -> Solution:
    used = counts.per_event > 0
    # In units of the mean rate, so that one set of tolerances fits all spectra.
    total = np.where(used, counts.n / np.where(used, counts.per_event, 1.0), 0.0).sum(axis=1)
    unit = np.maximum(total / (used * design[:, 0]).sum(axis=1), 1e-12)[:, None]
    cost, n = counts.per_event * unit, np.where(used, counts.n, 0.0)
    empty = used & (counts.n <= 0)
    theta = np.zeros((len(n), design.shape[1]))
    theta[:, 0] = 1.0
    barriers = BARRIERS if empty.any() else (0.0,)
    for barrier in barriers:
        theta, converged = _newton(LinearProblem(design, cost, n + barrier * empty), theta)
    rate = theta @ design.T
    # At a constraint, rate times multiplier equals the barrier, and the multiplier is of the order of the cost.
    active = empty & (rate < np.sqrt(barriers[-1]))
    return Solution(theta * unit, active, converged)


def _solve_exponential(rates: ExponentialRates, counts: Counts) -> Solution:
    used = counts.per_event > 0
    n, cost = np.where(used, counts.n, 0.0), counts.per_event
    flat = rates(np.zeros(len(rates.names)))[0]
    theta = np.zeros((len(n), len(rates.names)))
    theta[:, 0] = np.log(np.maximum(n.sum(axis=1), 1e-12) / (cost * flat).sum(axis=1))
    theta, converged = _newton(ExponentialProblem(rates, cost, n), theta)
    return Solution(theta, np.zeros(n.shape, bool), converged)


def _newton(problem: LinearProblem | ExponentialProblem, start: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Damped Newton steps until -ln L can fall by less than the tolerance; spectra that are done rest."""
    theta, which = start.copy(), np.arange(len(start))
    converged = np.zeros(len(start), bool)
    value = problem.objective(theta, which)
    for _ in range(MAX_STEPS):
        gradient, hessian = problem.derivatives(theta[which], which)
        diagonal = np.arange(theta.shape[1])
        hessian[:, diagonal, diagonal] *= 1.0 + 1e-12
        hessian[:, diagonal, diagonal] += 1e-300
        step: FloatArray = np.asarray(-np.linalg.solve(hessian, gradient[..., None])[..., 0], np.float64)
        decrement: FloatArray = -(gradient * step).sum(axis=1)
        done: BoolArray = np.asarray(decrement < 2 * TOLERANCE)
        converged[which] = decrement < 2 * ACCEPTED
        if done.all():
            break
        which, step, decrement = which[~done], step[~done], decrement[~done]
        moved, value[which] = _line_search(problem, theta[which], step, decrement, value[which], which)
        theta[which] = moved
    return theta, converged


def _line_search(
    problem: LinearProblem | ExponentialProblem,
    theta: FloatArray,
    step: FloatArray,
    decrement: FloatArray,
    value: FloatArray,
    which: Indices,
) -> tuple[FloatArray, FloatArray]:
    """Halve steps until -ln L falls enough, up to rounding; where it never does, stay."""
    length = np.ones(len(theta))
    moved, reached = theta.copy(), value.copy()
    waiting = np.arange(len(theta))
    for _ in range(40):
        trial = theta[waiting] + length[waiting, None] * step[waiting]
        found = problem.objective(trial, which[waiting])
        slack = 1e-13 * (1.0 + np.abs(value[waiting]))
        good = found <= value[waiting] - 1e-4 * length[waiting] * decrement[waiting] + slack
        moved[waiting[good]], reached[waiting[good]] = trial[good], found[good]
        waiting = waiting[~good]
        if not len(waiting):
            break
        length[waiting] /= 2
    return moved, reached
