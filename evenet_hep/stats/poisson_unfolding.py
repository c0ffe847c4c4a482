"""Poisson likelihood of a folded spectrum: its maximum by Minuit, and how that moves with data and response."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]


class PoissonProblem(NamedTuple):
    """Negative log likelihood sum_i s_i (nu_i - n_i ln nu_i) + t^T P t / 2 with nu = A t.

    Parameters
    ----------
    matrix : float64 array, shape (n_reco, n_truth)
        A.
    counts : float64 array, shape (n_reco,)
        n.
    scale : float64 array, shape (n_reco,)
        s, contents over variance: 1 for unweighted events. An empty bin has that of its expectation.
    penalty : float64 array, shape (n_truth, n_truth)
        P, symmetric.
    """

    matrix: FloatArray
    counts: FloatArray
    scale: FloatArray
    penalty: FloatArray

    def minimize(self, start: FloatArray) -> tuple[FloatArray, Minuit]:
        """The minimum, by Newton steps and then by Minuit from there.

        Parameters
        ----------
        start : float64 array, shape (n_truth,)
            With positive expectations in every measured bin.

        Returns
        -------
        values : float64 array, shape (n_truth,)
        minuit : iminuit.Minuit
            Parameters are named ``t0``, ``t1``, ...

        Raises
        ------
        InputError
            If the likelihood does not determine every true bin.
        """
        information = self.information(start)
        scaled = information / np.sqrt(np.outer(np.diagonal(information), np.diagonal(information)))
        if not np.linalg.cond(scaled) < 1e12:
            msg = (
                f"the response does not determine {len(start)} true bins from {len(self.counts)} measured ones: "
                "merge true bins or raise strength"
            )
            raise InputError(msg)
        values = self._newton(start)
        minuit = Minuit(self.cost, values, grad=self.gradient, name=[f"t{j}" for j in range(len(start))])
        minuit.errordef = Minuit.LIKELIHOOD
        minuit.errors = np.sqrt(np.diagonal(np.linalg.inv(self.information(values))))
        return values, minuit.migrad()

    def cost(self, t: FloatArray) -> float:
        """Negative log likelihood with its penalty."""
        terms, _, _ = self._terms(np.asarray(t, np.float64))
        return float(terms.sum() + t @ self.penalty @ t / 2)

    def gradient(self, t: FloatArray) -> FloatArray:
        """Derivative of the cost, shape (n_truth,)."""
        _, slope, _ = self._terms(np.asarray(t, np.float64))
        return np.asarray(slope @ self.matrix + self.penalty @ t)

    def information(self, t: FloatArray) -> FloatArray:
        """Expected second derivative of the cost, shape (n_truth, n_truth)."""
        return np.asarray(self.matrix.T @ (self._precision(t)[:, None] * self.matrix) + self.penalty)

    def sensitivity(self, t: FloatArray) -> FloatArray:
        """Shift of the minimum per measured event, shape (n_truth, n_reco), from the expected information."""
        return np.asarray(np.linalg.solve(self.information(t), self.matrix.T * self._precision(t)))

    def _precision(self, t: FloatArray) -> FloatArray:
        """One over the variance of n_i; half an event at least, where hardly any is expected."""
        return np.asarray(self.scale / np.maximum(self.matrix @ t, 0.5 / self.scale))

    def _terms(self, t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cost of every bin, its slope and its curvature in nu.

        Below a hundredth of the count (a tenth of an event for an empty bin) the cost goes on as a parabola: it stays
        convex and finite, and an empty bin cannot draw its expectation far below zero.
        """
        nu, n, s = self.matrix @ t, self.counts, self.scale
        border = np.where(n > 0, 0.01 * n, 0.0)
        inside = np.maximum(nu, np.where(n > 0, border, 0.0))
        ratio = np.divide(n, inside, out=np.zeros_like(n), where=n > 0)
        terms = s * (inside - n * np.log(np.where(n > 0, inside, 1.0)))
        slope = s * (1 - ratio)
        curvature = s * np.divide(ratio, inside, out=np.zeros_like(n), where=n > 0)
        beyond = np.minimum(nu - border, 0.0)
        bend = np.where(n > 0, curvature, 10 * s * s) * (beyond < 0)
        return (
            terms + slope * beyond + bend * beyond**2 / 2,
            slope + bend * beyond,
            np.maximum(curvature, bend),
        )

    def _newton(self, t: FloatArray) -> FloatArray:
        cost = self.cost(t)
        for _ in range(100):
            _, _, curvature = self._terms(t)
            hessian = self.matrix.T @ (curvature[:, None] * self.matrix) + self.penalty
            # Empty bins have no curvature: a little of the expected information keeps the step finite.
            hessian = hessian + 1e-6 * self.information(t)
            step = np.linalg.solve(hessian, self.gradient(t))
            decrease = float(step @ self.gradient(t))
            length = 1.0
            while self.cost(t - length * step) > cost - 1e-4 * length * decrease and length > 1e-10:
                length /= 2
            t = t - length * step
            cost = self.cost(t)
            if decrease < 1e-12:
                break
        return t
