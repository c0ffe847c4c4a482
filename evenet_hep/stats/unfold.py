"""Unfolding: the true spectrum behind a measured one, by iterated Bayes, by SVD, or by likelihood.

The model is the same for all: measured bin i expects sum_j P(i|j) t_j / purity_i, with the response of
:mod:`evenet_hep.stats.response`. Regularisation trades variance for bias; :func:`~evenet_hep.stats.regularization.choose_regularization` takes the
strongest one whose bias is small against the uncertainty, so that intervals keep their coverage.

Covariances come from derivatives of the whole procedure with respect to its inputs: the measured contents, and every
entry of the response (migrations, misses, fakes), which is known from a finite number of simulated events.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.contents import Contents, read_contents
from evenet_hep.stats.poisson_unfolding import PoissonProblem
from evenet_hep.stats.response import Response
from evenet_hep.stats.unfolded import (
    Unfolded,
    expected_variances,
    response_ratios,
    response_shifts,
    smooth_truth,
    unfold_with,
    unfolded,
)

FloatArray = npt.NDArray[np.float64]
SMALL = 1e-3  # added to the curvature matrix to make it invertible, as in section 5 of hep-ph/9509307


def unfold_bayes(
    histogram: Any, response: Response, *, iterations: int = 4, prior: npt.ArrayLike | None = None
) -> Unfolded:
    """True spectrum by iterated application of Bayes' theorem (D'Agostini, NIM A 362 (1995) 487).

    Parameters
    ----------
    histogram : hist.Hist, or tuple (values, edges[, variances])
        Measured spectrum in the bins of ``response.reco_edges``; not negative.
    response : Response
    iterations : int
        At least 1; few are strong regularisation towards the prior.
    prior : array-like, shape (n_truth,), optional
        True spectrum to start from, in any normalisation; that of the simulation by default.

    Returns
    -------
    Unfolded

    Raises
    ------
    InputError
        For a spectrum with other bins, empty or with negative contents, a true bin that is never measured, or options
        out of range.

    Examples
    --------
    >>> from evenet_hep.stats.response import fill_response
    >>> truth = np.repeat([0.25, 0.75], [400, 600])
    >>> reco = np.where(np.arange(1000) % 5 == 0, 1 - truth, truth)
    >>> r = fill_response(reco, truth, reco_edges=[0, 0.5, 1], truth_edges=[0, 0.5, 1])
    >>> unfold_bayes(([500, 500], [0.0, 0.5, 1.0]), r, iterations=20).values.round()
    array([500., 500.])
    """
    contents = _checked(histogram, response, "bayes")
    if int(iterations) != iterations or iterations < 1:
        msg = f"iterations must be a whole number from 1; found {iterations}"
        raise InputError(msg)
    start = response.truth if prior is None else np.asarray(prior, np.float64)
    if start.shape != response.truth.shape or not ((start >= 0).all() and start.sum() > 0):
        msg = f"prior must be {len(response.truth)} numbers that are not negative; found {start}"
        raise InputError(msg)

    def solve(m: FloatArray, migrations: FloatArray, misses: FloatArray, fakes: FloatArray) -> FloatArray:
        probabilities, purity = response_ratios(migrations, misses, fakes)
        efficiency = probabilities.sum(axis=-2)
        true_part = purity * m
        t = migrations.sum(axis=-2) + misses if prior is None else np.broadcast_to(start, efficiency.shape)
        for _ in range(iterations):
            expected = np.einsum("...ij,...j->...i", probabilities, t)
            ratio = true_part * np.divide(1.0, expected, out=np.zeros_like(expected), where=expected > 0)
            t = t / efficiency * np.einsum("...ij,...i->...j", probabilities, ratio)
        return np.asarray(t)

    return unfold_with(solve, contents, response, "bayes", float(iterations))


def unfold_svd(histogram: Any, response: Response, *, k: int) -> Unfolded:
    """True spectrum by singular value decomposition with damped curvature (Hoecker and Kartvelishvili, hep-ph/9509307).

    Parameters
    ----------
    histogram : hist.Hist, or tuple (values, edges[, variances])
        Measured spectrum in the bins of ``response.reco_edges``.
    response : Response
    k : int
        Components are damped by s^2 / (s^2 + tau) with tau = s_k^2, the k-th to one half. From 2 (strongest; 1 would
        halve the whole spectrum) to the number of true bins; one more is tau = 0, no damping. What is kept smooth is
        the ratio to the simulated true spectrum.

    Returns
    -------
    Unfolded

    Raises
    ------
    InputError
        As for :func:`unfold_bayes` (negative contents are allowed), and for a k at which the response is singular.

    Examples
    --------
    >>> from evenet_hep.stats.response import fill_response
    >>> truth = np.repeat([0.25, 0.75], [400, 600])
    >>> reco = np.where(np.arange(1000) % 5 == 0, 1 - truth, truth)
    >>> r = fill_response(reco, truth, reco_edges=[0, 0.5, 1], truth_edges=[0, 0.5, 1])
    >>> unfold_svd(([440, 560], [0.0, 0.5, 1.0]), r, k=2).values.round()
    array([400., 600.])
    """
    contents = _checked(histogram, response, "svd")
    n_truth = len(response.truth)
    if int(k) != k or not 2 <= k <= n_truth + 1:
        msg = f"k must be a whole number from 2 to {n_truth + 1}, the number of true bins and one; found {k}"
        raise InputError(msg)
    sigma = np.sqrt(expected_variances(contents, response)) * response.purity
    weight = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=sigma > 0)
    curvature = _curvature(n_truth)
    smooth = np.linalg.inv(curvature + SMALL * np.eye(n_truth))
    singular = np.linalg.svd(weight[:, None] * response.migrations @ smooth, compute_uv=False)
    rank = int((singular > 1e-10 * singular[0]).sum())
    if rank < min(k, n_truth):
        msg = f"the response is singular at k = {k}: it determines {rank} of {n_truth} components"
        raise InputError(msg)

    def solve(m: FloatArray, migrations: FloatArray, misses: FloatArray, fakes: FloatArray) -> FloatArray:
        _, purity = response_ratios(migrations, misses, fakes)
        u, s, vt = np.linalg.svd(weight[:, None] * migrations @ smooth, full_matrices=False)
        d = np.einsum("...ir,...i->...r", u, weight * purity * m)
        tau = s[..., k - 1, None] ** 2 if k <= n_truth else 0.0
        z = d * s / (s * s + tau)
        ratio = (z[..., None, :] @ vt)[..., 0, :] @ smooth.T
        return np.asarray(ratio * (migrations.sum(axis=-2) + misses))

    return unfold_with(solve, contents, response, "svd", float(k))


def unfold_likelihood(histogram: Any, response: Response, *, strength: float = 0.0) -> Unfolded:
    """True spectrum of greatest Poisson likelihood, with an optional penalty on curvature.

    Parameters
    ----------
    histogram : hist.Hist, or tuple (values, edges[, variances])
        Measured spectrum in the bins of ``response.reco_edges``; not negative. For weighted events the Poisson
        likelihood of each bin is scaled by its effective number of events.
    response : Response
    strength : float
        Half of it times the summed squares of the second differences of t_j / truth_j (normalised to mean 1) is added
        to the negative log likelihood; 0 is no regularisation, and no bias.

    Returns
    -------
    Unfolded

    Raises
    ------
    InputError
        As for :func:`unfold_bayes`, and for a response that does not determine the true spectrum.

    Examples
    --------
    >>> from evenet_hep.stats.response import fill_response
    >>> truth = np.repeat([0.25, 0.75], [400, 600])
    >>> reco = np.where(np.arange(1000) % 5 == 0, 1 - truth, truth)
    >>> r = fill_response(reco, truth, reco_edges=[0, 0.5, 1], truth_edges=[0, 0.5, 1])
    >>> result = unfold_likelihood(([500, 500], [0.0, 0.5, 1.0]), r)
    >>> result.values.round(), result.minuit.valid
    (array([500., 500.]), True)
    """
    contents = _checked(histogram, response, "likelihood")
    if not (np.isfinite(strength) and strength >= 0):
        msg = f"strength must be a number from 0; found {strength}"
        raise InputError(msg)
    used, n_truth = response.migrations.sum(axis=1) > 0, len(response.truth)
    n, variance = contents.values[used], contents.variances[used]
    simulated = response.truth * contents.values.sum() / response.reco.sum()
    roughness = _curvature(n_truth) / simulated
    problem = PoissonProblem(
        response.folding[used],
        n,
        np.divide(n, variance, out=np.full_like(n, n.sum() / variance.sum()), where=(n > 0) & (variance > 0)),
        strength * roughness.T @ roughness,
    )
    values, minuit = problem.minimize(simulated)
    jacobian = np.zeros((n_truth, len(used)))
    jacobian[:, used] = problem.sensitivity(values)

    smooth = smooth_truth(contents, response)

    def shifted(migrations: FloatArray, misses: FloatArray, fakes: FloatArray) -> FloatArray:
        # What the response expects beyond A t has to be taken from t.
        probabilities, purity = response_ratios(migrations, misses, fakes)
        expected = np.einsum("sij,j->si", probabilities, smooth)
        expected = np.divide(expected, purity, out=np.zeros_like(expected), where=purity != 0)
        return np.asarray(-expected @ jacobian.T)

    shifts = response_shifts(shifted, response)
    bias = jacobian @ response.fold(smooth) - smooth
    result = unfolded(values, jacobian, shifts, bias, contents, response, "likelihood", strength)
    return result._replace(minuit=minuit)


def _curvature(n: int) -> FloatArray:
    """Second differences, with first ones at the ends, shape (n, n)."""
    matrix = np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)
    matrix[0, 0] = matrix[-1, -1] = -1.0 if n > 1 else 0.0
    return np.asarray(matrix)


def _checked(histogram: Any, response: Response, method: str) -> Contents:
    contents = read_contents(histogram)
    if len(contents.values) != len(response.reco) or not np.allclose(contents.edges, response.reco_edges):
        msg = f"histogram must have the response's reco_edges {response.reco_edges}; found {contents.edges}"
        raise InputError(msg)
    if contents.values.sum() <= 0 or not contents.variances.any():
        msg = f"histogram must have a positive sum and variances; found sum {contents.values.sum():g}"
        raise InputError(msg)
    if method != "svd" and (contents.values < 0).any():
        msg = f"{method} needs contents that are not negative; found {contents.values.min():g}"
        raise InputError(msg)
    if (response.migrations < 0).any() or (response.misses < 0).any() or (response.fakes < 0).any():
        msg = "the response must not be negative in any bin; merge bins, or leave out negative weights"
        raise InputError(msg)
    blind = np.flatnonzero(response.migrations.sum(axis=0) <= 0)
    if len(blind):
        msg = f"every true bin must be measured at least once; merge bins {blind.tolist()}, which never are"
        raise InputError(msg)
    return contents
