"""Responses from events, unfolding on independent halves, covariances, pulls, coverage, choice of regularisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
from scipy.stats import norm

from evenet_hep.errors import InputError
from evenet_hep.stats.poisson_unfolding import PoissonProblem
from evenet_hep.stats.regularization import UnfoldMethod, choose_regularization
from evenet_hep.stats.response import Response, fill_response
from evenet_hep.stats.spin_fits import fit_entanglement
from evenet_hep.stats.unfold import unfold_bayes, unfold_likelihood, unfold_svd
from evenet_hep.stats.unfolded import Unfolded

Unfold = Callable[[Any, Response], Unfolded]
TRUTH_EDGES, RECO_EDGES = np.linspace(0, 1, 8), np.linspace(0, 1, 15)
CENTERS = (TRUTH_EDGES[1:] + TRUTH_EDGES[:-1]) / 2
TRUTH = 1800 * np.exp(-1.8 * CENTERS)
SIMULATED = 2 * TRUTH * (1 + 0.25 * np.sin(4 * CENTERS))  # not what nature does
MIGRATION = 0.8 * np.diff(norm.cdf(RECO_EDGES[:, None], loc=CENTERS, scale=0.07), axis=0)
FAKES = np.linspace(60, 5, 14)
METHODS: dict[str, Unfold] = {
    "bayes": partial(unfold_bayes, iterations=20),
    "svd": partial(unfold_svd, k=8),
    "likelihood": unfold_likelihood,
}


def simulate(rng: np.random.Generator, scale: float = 3.0) -> Response:
    """A simulation of ``scale`` times the weight, whose every entry fluctuates."""
    means = (MIGRATION * SIMULATED, (1 - MIGRATION.sum(axis=0)) * SIMULATED, FAKES)
    counts = [rng.poisson(mean * scale) / scale for mean in means]
    a, b, c = counts
    return Response(a, a / scale, b, b / scale, c, c / scale, RECO_EDGES, TRUTH_EDGES)


def measure(rng: np.random.Generator, *, weighted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A measured spectrum of fluctuating total; its purity is that of the simulation."""
    reco = MIGRATION @ SIMULATED
    counts = rng.poisson(MIGRATION @ TRUTH * (reco + FAKES) / reco)
    if not weighted:
        return counts.astype(float), RECO_EDGES, counts.astype(float)
    weights = [rng.gamma(4.0, 0.25, n) for n in counts]
    return (
        np.array([w.sum() for w in weights]),
        RECO_EDGES,
        np.array([(w**2).sum() for w in weights]),
    )


def toy_pulls(unfold: Unfold, n_toys: int, seed: int, *, weighted: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pulls = []
    for _ in range(n_toys):
        found = unfold(measure(rng, weighted=weighted), simulate(rng))
        pulls.append((found.values - TRUTH) / found.uncertainty)
    return np.array(pulls)


def assert_pulls(pulls: np.ndarray) -> None:
    """Mean, width and 68.3 % coverage of each column within three standard deviations for the family of columns."""
    n_toys, n_columns = pulls.shape
    limit = norm.isf(norm.sf(3) / n_columns)
    np.testing.assert_array_less(np.abs(pulls.mean(axis=0)), limit / np.sqrt(n_toys))
    np.testing.assert_array_less(np.abs(pulls.std(axis=0, ddof=1) - 1), limit / np.sqrt(2 * n_toys))
    coverage = (np.abs(pulls) < 1).mean(axis=0)
    np.testing.assert_array_less(np.abs(coverage - 0.6827), limit * np.sqrt(0.6827 * 0.3173 / n_toys))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_pulls_with_a_wrong_simulation(method: str, weighted: bool) -> None:
    assert_pulls(toy_pulls(METHODS[method], 200, 3, weighted=weighted))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_pulls_with_a_wrong_simulation_in_many_toys(method: str, weighted: bool) -> None:
    assert_pulls(toy_pulls(METHODS[method], 2000, 4, weighted=weighted))


def mean_coverage(method: UnfoldMethod, n_toys: int, seed: int) -> np.ndarray:
    pulls = toy_pulls(partial(choose_regularization, method=method), n_toys, seed, weighted=False)
    return np.asarray((np.abs(pulls) < 1).mean(axis=1))  # of every toy


@pytest.mark.parametrize("method", ["bayes", "svd", "likelihood"])
def test_chosen_regularization_keeps_the_coverage(method: UnfoldMethod) -> None:
    """68.3 %, or down to 66.8 % for the bias the criterion allows."""
    covered = mean_coverage(method, 24, 5)
    error = covered.std() / np.sqrt(len(covered))
    assert 0.668 - 3 * error < covered.mean() < 0.683 + 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bayes", "svd", "likelihood"])
def test_chosen_regularization_keeps_the_coverage_in_many_toys(method: UnfoldMethod) -> None:
    covered = mean_coverage(method, 1000, 6)
    error = covered.std() / np.sqrt(len(covered))
    assert 0.668 - 3 * error < covered.mean() < 0.683 + 3 * error


@pytest.mark.parametrize("method", ["bayes", "svd"])
def test_covariance_is_that_of_toys(method: str) -> None:
    """Both parts, and correlations between bins, against the spread of results."""
    rng = np.random.default_rng(8)
    found = [METHODS[method](measure(rng, weighted=False), simulate(rng)) for _ in range(200)]
    spread = np.cov([f.values for f in found], rowvar=False)
    expected = np.mean([f.covariance for f in found], axis=0)
    scale = np.sqrt(np.outer(np.diagonal(spread), np.diagonal(spread)))
    assert (
        np.abs((spread - expected) / scale).max() < 0.35
    )  # 3 sigma of 300 toys: 3 sqrt(2 / 300) = 0.24 and more
    np.testing.assert_allclose(
        np.sqrt(np.diagonal(expected) / np.diagonal(spread)), 1, atol=3.5 / np.sqrt(400)
    )
    for f in found[:3]:
        np.testing.assert_allclose(f.covariance, f.covariance_data + f.covariance_response)
        assert (np.diagonal(f.covariance_response) > 0.02 * np.diagonal(f.covariance_data)).all()
        assert np.linalg.eigvalsh(f.covariance)[0] > -1e-9 * f.covariance.max()


def events(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = rng.beta(1.2, 2.0, n)
    reco = np.where(rng.random(n) < 0.85, truth + rng.normal(0, 0.06, n), np.nan)
    fake = rng.random(n) < 0.03
    return np.where(fake, rng.random(n), reco), np.where(fake, np.nan, truth), rng.gamma(3.0, 1 / 3, n)


@pytest.mark.parametrize("method", METHODS)
def test_independent_halves_close(method: str) -> None:
    rng = np.random.default_rng(21)
    reco, truth, weights = events(rng, 60_000)
    half = np.arange(60_000) % 2 == 0
    response = fill_response(
        reco[half], truth[half], reco_edges=RECO_EDGES, truth_edges=TRUTH_EDGES, weights=weights[half]
    )
    measured = hist.Hist.new.Var(RECO_EDGES).Weight().fill(reco[~half], weight=weights[~half])
    found = METHODS[method](measured, response)
    other, _ = np.histogram(truth[~half], TRUTH_EDGES, weights=weights[~half])
    # The other half's own truth is correlated with its measurement; their difference is smaller than the uncertainty.
    assert (np.abs(found.values - other) < 4 * found.uncertainty).all()
    difference = found.values - other
    chi2 = difference @ np.linalg.solve(found.covariance, difference)
    assert chi2 < 25  # 7 bins
    assert found.values.sum() == pytest.approx(other.sum(), rel=0.03)
    np.testing.assert_allclose(found.refolded, measured.values(), rtol=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_the_response_unfolds_itself_exactly(method: str) -> None:
    response = simulate(np.random.default_rng(2))
    found = METHODS[method]((response.reco, RECO_EDGES), response)
    np.testing.assert_allclose(found.values, response.truth, rtol=1e-6)
    np.testing.assert_allclose(found.refolded, response.reco, rtol=1e-6)


def test_methods_agree_without_regularization() -> None:
    """As many measured bins as true ones and no regularisation: all invert the response."""
    rng = np.random.default_rng(3)
    reco, truth, weights = events(rng, 30_000)
    response = fill_response(reco, truth, reco_edges=TRUTH_EDGES, truth_edges=TRUTH_EDGES, weights=weights)
    measured = (rng.poisson(response.reco * (1 + 0.2 * CENTERS)), TRUTH_EDGES)
    inverse = np.linalg.solve(response.folding, measured[0])
    for found in (
        unfold_bayes(measured, response, iterations=3000),
        unfold_svd(measured, response, k=8),
        unfold_likelihood(measured, response),
    ):
        np.testing.assert_allclose(found.values, inverse, rtol=1e-4)
        np.testing.assert_allclose(
            np.diagonal(found.covariance_data),
            np.diagonal(
                np.linalg.inv(response.folding) @ np.diag(measured[0]) @ np.linalg.inv(response.folding).T
            ),
            rtol=1e-2,
        )


def test_minuit_stands_at_the_minimum() -> None:
    rng = np.random.default_rng(4)
    found = unfold_likelihood(measure(rng, weighted=False), simulate(rng))
    assert found.minuit is not None
    assert found.minuit.valid
    found.minuit.hesse()
    np.testing.assert_allclose(found.minuit.values, found.values, atol=0.02 * found.uncertainty.min())
    # Observed and expected information differ by the fluctuations of the data.
    np.testing.assert_allclose(found.minuit.errors, np.sqrt(np.diagonal(found.covariance_data)), rtol=0.1)


def test_stronger_regularization_smooths_and_biases() -> None:
    rng = np.random.default_rng(5)
    measured, response = measure(rng, weighted=False), simulate(rng)
    for results in (
        [unfold_bayes(measured, response, iterations=n) for n in (1, 4, 16, 64)],
        [unfold_svd(measured, response, k=k) for k in (2, 4, 6, 8)],
        [unfold_likelihood(measured, response, strength=x) for x in (1e3, 10.0, 0.1, 0.0)],
    ):
        variances = [np.trace(f.covariance_data) for f in results]
        assert variances == sorted(variances)
        ratios = [f.bias_ratio for f in results]
        assert ratios == sorted(ratios, reverse=True)
        assert results[-1].bias_ratio < 0.05


def test_choice_is_the_first_that_passes() -> None:
    rng = np.random.default_rng(6)
    measured, response = measure(rng, weighted=False), simulate(rng)
    loose = choose_regularization(measured, response, method="svd", largest_bias=0.8)
    strict = choose_regularization(measured, response, method="svd", largest_bias=0.05)
    assert loose.regularization < strict.regularization
    assert loose.bias_ratio <= 0.8
    assert strict.bias_ratio <= 0.05
    before = unfold_svd(measured, response, k=int(strict.regularization) - 1)
    assert before.bias_ratio > 0.05


def test_unfolded_angles_give_the_marker() -> None:
    """cos phi of a known D through smearing, misses and fakes, and back to D with the full covariance."""
    rng = np.random.default_rng(31)
    d, edges = -0.45, np.linspace(-1, 1, 17)
    pulls = []
    for _ in range(60):
        parts = []
        for slope in (0.0, d):  # simulated without correlation, measured with
            n = rng.poisson(40_000 if slope == 0 else 20_000)
            x = rng.uniform(-1, 1, n)
            x = x[rng.random(n) < (1 - slope * x) / (1 + abs(slope))]
            smeared = np.clip(x + rng.normal(0, 0.15, len(x)), -1, 1)
            parts.append((np.where(rng.random(len(x)) < 0.7, smeared, np.nan), x))
        response = fill_response(*parts[0], reco_edges=edges, truth_edges=edges)
        measured, _ = np.histogram(parts[1][0], edges)
        found = unfold_svd((measured, edges), response, k=17)
        fit = fit_entanglement((found.values, edges), covariance=found.covariance)
        pulls.append((fit.d_std - d) / fit.d_std_uncertainty)
    assert abs(np.mean(pulls)) < 3 / np.sqrt(60)
    assert abs(np.std(pulls) - 1) < 3 / np.sqrt(120)


# ------------------------------------------------------------------------------------------------ responses


def test_response_of_masked_and_awkward_events() -> None:
    reco = ak.Array([0.1, 0.6, np.nan, 0.2, 1.7, 1.0])
    truth = np.ma.masked_array([0.2, 0.3, 0.6, 0.0, 0.9, 0.9], [False, False, False, True, False, False])
    options: Any = {"reco_edges": [0, 0.5, 1], "truth_edges": [0, 0.5, 1], "weights": [1, 2, 3, 4, 5, 6]}
    response = fill_response(reco, truth, **options)
    np.testing.assert_array_equal(response.migrations, [[1, 0], [2, 6]])
    np.testing.assert_array_equal(response.migrations_variance, [[1, 0], [4, 36]])
    np.testing.assert_array_equal(response.misses, [0, 8])  # not measured, and measured outside
    np.testing.assert_array_equal(response.misses_variance, [0, 34])
    np.testing.assert_array_equal(response.fakes, [4, 0])
    np.testing.assert_array_equal(response.truth, [3, 14])
    np.testing.assert_array_equal(response.reco, [5, 8])
    np.testing.assert_allclose(response.probabilities.sum(axis=0), [1, 6 / 14])
    np.testing.assert_allclose(response.fold(response.truth), response.reco)
    flagged = fill_response(
        [0.1, 0.6, 0.4, 0.2, 1.7, 1.0],
        [0.2, 0.3, 0.6, 0.0, 0.9, 0.9],
        is_reco=[1, 1, 0, 1, 1, 1],
        is_truth=[1, 1, 1, 0, 1, 1],
        **options,
    )
    for a, b in zip(response, flagged, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reco": [0.1]}, "equally long"),
        ({"reco": [[0.1, 0.2]]}, "one number per event"),
        ({"reco": [np.nan, np.nan]}, "none of 2 is"),
        ({"reco": [], "truth": []}, "none of 0 is"),
        ({"weights": [1.0, np.nan]}, "weights must be finite; 1 of 2"),
        ({"reco_edges": [0.0]}, "reco_edges must be at least two"),
        ({"truth_edges": [1.0, 0.0]}, "truth_edges must be at least two numbers that ascend"),
        ({"is_reco": [True]}, "equally long"),
    ],
)
def test_events_that_make_no_response(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "reco": [0.1, 0.9],
        "truth": [0.2, 0.8],
        "reco_edges": [0, 0.5, 1],
        "truth_edges": [0, 0.5, 1],
    } | arguments
    with pytest.raises(InputError, match=message):
        fill_response(given.pop("reco"), given.pop("truth"), **given)


# ------------------------------------------------------------------------------------------------ degenerate


def plain(migrations: Any, misses: Any = None, fakes: Any = None) -> Response:
    m = np.asarray(migrations, float)
    a = np.zeros(m.shape[1]) if misses is None else np.asarray(misses, float)
    b = np.zeros(m.shape[0]) if fakes is None else np.asarray(fakes, float)
    return Response(m, m, a, a, b, b, np.arange(m.shape[0] + 1.0), np.arange(m.shape[1] + 1.0))


def test_one_bin() -> None:
    response = plain([[80]], [20], [20])
    for found in (
        unfold_bayes(([50], [0, 1]), response),
        unfold_svd(([50], [0, 1]), response, k=2),
        unfold_likelihood(([50], [0, 1]), response),
        choose_regularization(([50], [0, 1]), response, method="likelihood"),
    ):
        assert found.values[0] == pytest.approx(50)  # efficiency and purity are both 80 %
        assert found.covariance_data[0, 0] == pytest.approx(50, rel=1e-6)
        assert found.covariance_response[0, 0] > 0


def test_empty_measured_bins_have_an_uncertainty() -> None:
    response = plain([[80, 5, 0], [5, 80, 5], [0, 5, 20]])
    # Iterated Bayes multiplies: what shrinks towards zero shrinks with its uncertainty.
    for unfold, smallest in ((unfold_bayes, 0.1), (partial(unfold_svd, k=4), 1.0), (unfold_likelihood, 1.0)):
        found = unfold(([60, 50, 0], [0, 1, 2, 3]), response)
        assert np.isfinite(found.values).all()
        assert found.uncertainty[2] > smallest
        assert abs(found.values[2]) < 10


def test_bins_of_fakes_only_change_nothing() -> None:
    three = plain([[80, 5], [5, 80], [0, 0]], fakes=[0, 0, 30])
    two = plain([[80, 5], [5, 80]])
    for unfold in (unfold_bayes, partial(unfold_svd, k=3), unfold_likelihood):
        with_fakes = unfold(([60, 50, 25], [0, 1, 2, 3]), three)
        without = unfold(([60, 50], [0, 1, 2]), two)
        np.testing.assert_allclose(with_fakes.values, without.values, rtol=1e-6)
        np.testing.assert_allclose(with_fakes.covariance_data, without.covariance_data, rtol=1e-4, atol=1e-6)


def test_likelihood_continues_below_zero() -> None:
    """Convex and finite everywhere, with the right slopes: checked against differences."""
    problem = PoissonProblem(
        np.array([[0.8, 0.1], [0.1, 0.8], [0.1, 0.1]]),
        np.array([5.0, 0.0, 2.0]),
        np.ones(3),
        np.zeros((2, 2)),
    )
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.normal(0, 5, (2, 2))
        slope = problem.gradient(a)
        numeric = [(problem.cost(a + h) - problem.cost(a - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-4)
        assert problem.cost((a + b) / 2) <= (problem.cost(a) + problem.cost(b)) / 2 + 1e-9


SINGULAR = plain([[40, 40], [10, 10]])
GOOD = plain([[40, 4], [5, 30]])
EDGES = [0.0, 1.0, 2.0]


FAILURES: list[tuple[Callable[[], Unfolded], str]] = [
    (lambda: unfold_likelihood(([30, 20], EDGES), SINGULAR), "does not determine 2 true bins"),
    (lambda: unfold_svd(([30, 20], EDGES), SINGULAR, k=2), "singular at k = 2: it determines 1 of 2"),
    (
        lambda: unfold_likelihood(([30], [0, 1]), plain([[40, 10]])),
        "does not determine 2 true bins from 1",
    ),
    (lambda: unfold_svd(([30, 20], EDGES), GOOD, k=1), "from 2 to 3"),
    (lambda: unfold_svd(([30, 20], EDGES), GOOD, k=4), "from 2 to 3"),
    (lambda: unfold_bayes(([30, 20], EDGES), GOOD, iterations=0), "from 1; found 0"),
    (lambda: unfold_bayes(([30, 20], EDGES), GOOD, prior=[1, -1]), "prior"),
    (lambda: unfold_bayes(([30, 20], EDGES), GOOD, prior=[1]), "prior"),
    (lambda: unfold_likelihood(([30, 20], EDGES), GOOD, strength=-1), "strength"),
    (lambda: unfold_bayes(([30, 20], [0, 1, 3]), GOOD), "reco_edges"),
    (lambda: unfold_bayes(([30], [0, 1]), GOOD), "reco_edges"),
    (lambda: unfold_bayes(([0, 0], EDGES), GOOD), "positive sum"),
    (lambda: unfold_bayes(([30, 20], EDGES, [0, 0]), GOOD), "positive sum and variances"),
    (lambda: unfold_bayes(([30, -2], EDGES), GOOD), "not negative; found -2"),
    (lambda: unfold_likelihood(([30, -2], EDGES), GOOD), "not negative; found -2"),
    (
        lambda: unfold_bayes(([30, 20], EDGES), plain([[40, 0], [5, 0]], [1, 9])),
        r"merge bins \[1\]",
    ),
    (
        lambda: unfold_bayes(([30, 20], EDGES), plain([[40, -1], [5, 30]])),
        "response must not be negative",
    ),
    (lambda: choose_regularization(([30, 20], EDGES), GOOD, method="guess"), "method must be one of"),  # type: ignore[arg-type]
    (lambda: choose_regularization(([30, 20], EDGES), GOOD, largest_bias=0), "largest_bias"),
]


@pytest.mark.parametrize(("call", "message"), FAILURES, ids=[f"{i}" for i in range(len(FAILURES))])
def test_input_that_cannot_be_unfolded(call: Callable[[], Unfolded], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_singular_response_with_regularization() -> None:
    """Two true bins that look alike: the sum is measured, the split comes from the simulation."""
    bayes = unfold_bayes(([60, 15], EDGES), SINGULAR)
    np.testing.assert_allclose(bayes.values, [37.5, 37.5])
    likelihood = unfold_likelihood(([60, 15], EDGES), SINGULAR, strength=1.0)
    np.testing.assert_allclose(likelihood.values, [37.5, 37.5], rtol=1e-6)


def test_svd_takes_negative_contents() -> None:
    found = unfold_svd(([30, -2], EDGES, [30, 4]), GOOD, k=3)
    assert found.values[1] < 0
    assert np.isfinite(found.uncertainty).all()
