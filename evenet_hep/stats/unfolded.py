"""Result of an unfolding, with covariances from derivatives of the whole procedure.

The inputs that fluctuate are the measured contents and every entry of the response (migrations, misses, fakes), which
is known from a finite number of simulated events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit

from evenet_hep.stats.contents import Contents
from evenet_hep.stats.response import Response

FloatArray = npt.NDArray[np.float64]
# Measured contents (S, n_reco), migrations (S, n_reco, n_truth), misses (S, n_truth), fakes (S, n_reco) -> (S, n_truth)
Solver = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]

STEP = 1e-3  # of derivatives, in standard deviations
CHUNK = 200_000  # matrix elements handled at once


class Unfolded(NamedTuple):
    """A true spectrum with its covariance.

    Parameters
    ----------
    values : float64 array, shape (n_truth,)
        Estimated true events per bin, corrected for efficiency.
    covariance : float64 array, shape (n_truth, n_truth)
        Sum of the next two.
    covariance_data, covariance_response : float64 array, shape (n_truth, n_truth)
        From the statistics of the measured spectrum, and of the simulation behind the response. The latter is
        evaluated for the smooth spectrum of ``bias``.
    edges : float64 array, shape (n_truth + 1,)
        Of the true bins.
    refolded : float64 array, shape (n_reco,)
        Measured spectrum expected for ``values``.
    bias : float64 array, shape (n_truth,)
        Estimated by a data-driven closure test: the simulated true spectrum times a cubic that makes it describe the
        measured one is folded and unfolded; this is what comes out less what went in. Features narrower than a cubic
        are not tested.
    bias_ratio : float
        Root mean square over bins of bias / uncertainty.
    method : str
        ``"bayes"``, ``"svd"`` or ``"likelihood"``.
    regularization : float
        Number of iterations, rank k, or strength.
    measured : Contents
        What was unfolded.
    minuit : iminuit.Minuit or None
        Of the likelihood, else None.
    jacobian : float64 array, shape (n_truth, n_reco)
        Derivatives of ``values`` with respect to the measured contents: what is needed for the covariance of results
        from several spectra of the same events.
    """

    values: FloatArray
    covariance: FloatArray
    covariance_data: FloatArray
    covariance_response: FloatArray
    edges: FloatArray
    refolded: FloatArray
    bias: FloatArray
    bias_ratio: float
    method: str
    regularization: float
    measured: Contents
    minuit: Minuit | None
    jacobian: FloatArray

    @property
    def uncertainty(self) -> FloatArray:
        """Standard deviations, shape (n_truth,)."""
        return np.sqrt(np.diagonal(self.covariance))


def unfold_with(
    solve: Solver, contents: Contents, response: Response, method: str, regularization: float
) -> Unfolded:
    """The result of any procedure, with derivatives of the whole of it."""
    migrations, misses, fakes = response.migrations, response.misses, response.fakes
    n = contents.values
    values = solve(n, migrations, misses, fakes)
    steps = STEP * np.diag(np.sqrt(measured_variances(contents, response)))
    up, down = (solve(n + sign * steps, migrations, misses, fakes) for sign in (1, -1))
    jacobian = ((up - down) / (2 * np.diagonal(steps)[:, None])).T  # (n_truth, n_reco)
    smooth = smooth_truth(contents, response)
    expected = response.fold(smooth)
    # At the smooth spectrum: the noise of an unregularised result would count as if the response were uncertain there.
    shifts = response_shifts(lambda a, b, c: solve(expected, a, b, c), response)
    bias = solve(expected, migrations, misses, fakes) - smooth
    return unfolded(values, jacobian, shifts, bias, contents, response, method, regularization)


def unfolded(
    values: FloatArray,
    jacobian: FloatArray,
    shifts: FloatArray,
    bias: FloatArray,
    contents: Contents,
    response: Response,
    method: str,
    regularization: float,
) -> Unfolded:
    """The result from values, their derivatives (n_truth, n_reco), shifts by the response, and the estimated bias."""
    by_data = (jacobian * measured_variances(contents, response)) @ jacobian.T
    by_response = shifts.T @ shifts
    variance = np.diagonal(by_data + by_response)
    known = variance > 0
    ratio = float(np.sqrt((bias[known] ** 2 / variance[known]).mean())) if known.any() else 0.0
    refolded = response.fold(values)
    return Unfolded(
        values,
        by_data + by_response,
        by_data,
        by_response,
        response.truth_edges,
        refolded,
        bias,
        ratio,
        method,
        regularization,
        contents,
        None,
        jacobian,
    )


def response_shifts(
    solve: Callable[[FloatArray, FloatArray, FloatArray], FloatArray], response: Response
) -> FloatArray:
    """Shift of the result for one standard deviation of every entry of the response, shape (n_entries, n_truth)."""
    entries = (response.migrations, response.misses, response.fakes)
    flat = np.concatenate([x.ravel() for x in entries])
    sigma = np.sqrt(
        np.concatenate(
            [
                x.ravel()
                for x in (response.migrations_variance, response.misses_variance, response.fakes_variance)
            ]
        )
    )
    places = np.flatnonzero(sigma > 0)
    shape = response.migrations.shape
    cuts = (shape[0] * shape[1], shape[0] * shape[1] + shape[1])

    def at(points: FloatArray) -> FloatArray:
        a, b, c = np.split(points, cuts, axis=1)
        return solve(a.reshape(-1, *shape), b, c)

    shifts = []
    for chosen in np.array_split(places, max(1, len(places) * len(flat) // CHUNK)):
        steps = np.zeros((len(chosen), len(flat)))
        steps[np.arange(len(chosen)), chosen] = STEP * sigma[chosen]
        shifts.append((at(flat + steps) - at(flat - steps)) / (2 * STEP))
    return np.concatenate(shifts)


def smooth_truth(contents: Contents, response: Response) -> FloatArray:
    """Simulated true spectrum times the cubic in x for which its folding is closest to the measured one."""
    x = (response.truth_edges[1:] + response.truth_edges[:-1]) / 2
    span = response.truth_edges[-1] - response.truth_edges[0]
    powers = np.polynomial.legendre.legvander(
        2 * (x - response.truth_edges[0]) / span - 1, min(3, len(x) - 1)
    )
    basis = response.truth[:, None] * powers  # (n_truth, 4)
    weight = 1 / np.sqrt(expected_variances(contents, response))
    factors, *_ = np.linalg.lstsq(weight[:, None] * (response.folding @ basis), weight * contents.values)
    # Few events may drive the cubic below zero, where no spectrum is.
    return np.asarray(np.maximum(basis @ factors, 0.0))


def response_ratios(
    migrations: FloatArray, misses: FloatArray, fakes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """P(i|j) and purity of many responses at once."""
    truth, matched = migrations.sum(axis=-2) + misses, migrations.sum(axis=-1)
    probabilities = migrations / truth[..., None, :]
    reco = matched + fakes
    purity = np.divide(matched, reco, out=np.ones_like(reco), where=reco != 0)
    return probabilities, purity


def expected_variances(contents: Contents, response: Response) -> FloatArray:
    """Variances the measured bins would have for the simulated spectrum: free of the fluctuations in the data."""
    reco = response.reco
    per_event = contents.variances.sum() / reco.sum()
    # An empty bin of the simulation shall count for little, not for everything.
    return np.asarray(per_event * np.maximum(reco, reco[reco > 0].min() / 1000))


def measured_variances(contents: Contents, response: Response) -> FloatArray:
    """Variances of the measured bins; those of empty bins from the simulated spectrum, as none is known without error."""
    expected = expected_variances(contents, response)
    return np.asarray(np.where(contents.variances > 0, contents.variances, expected))
