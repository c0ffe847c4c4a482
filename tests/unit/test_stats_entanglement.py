"""Spin coefficients, their covariance, bootstrap, and the quantities made of them: answers, pulls, coverage, errors."""

from __future__ import annotations

import time
from typing import Any

import hist
import numpy as np
import pytest
from scipy.stats import norm

from evenet_hep.errors import InputError
from evenet_hep.kinematics import density_matrix as dm
from evenet_hep.kinematics import spin
from evenet_hep.stats.entanglement import QUANTITIES, Entanglement, entanglement, spin_quantities
from evenet_hep.stats.spin_bootstrap import bootstrap_entanglement, bootstrap_spin
from evenet_hep.stats.spin_coefficients import (
    COEFFICIENTS,
    METHODS,
    SpinCoefficients,
    measure_spin,
    spin_coefficients,
)
from evenet_hep.stats.spin_fits import fit_correlation, fit_entanglement

# Close to the threshold region of the EveNet paper, with polarisations and off-diagonal elements to make it hard.
TRUTH_C = np.array([[-0.55, 0.10, 0.0], [0.05, -0.30, 0.02], [0.0, 0.0, -0.50]])
TRUTH_B = np.array([[0.05, 0.0, -0.1], [0.0, 0.08, 0.0]])
TRUTH = np.concatenate([TRUTH_B.ravel(), TRUTH_C.ravel()])


def directions(rng: np.random.Generator, n: int) -> np.ndarray:
    points = rng.normal(size=(3, n))
    return np.asarray(points / np.linalg.norm(points, axis=0))


def density(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """Relative to isotropic decays, in the sign of the density matrix with kappas (1, -1)."""
    value = 1 + TRUTH_B[0] @ plus - TRUTH_B[1] @ minus - np.einsum("ie,ij,je->e", plus, TRUTH_C, minus)
    return np.asarray(value)


def toy(
    rng: np.random.Generator, mean: float, *, weighted: bool, negative: float = 0.03
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Events of a known state; the total fluctuates. Weights follow the density, times noise, some of them negative."""
    n = rng.poisson(mean if weighted else 2.5 * mean)
    plus, minus = directions(rng, n), directions(rng, n)
    height = density(plus, minus)
    assert n == 0 or height.max() < 2.5
    if weighted:
        return plus, minus, height * rng.gamma(2.0, 1.0, n) * np.where(rng.random(n) < negative, -1.0, 1.0)
    kept = rng.random(n) < height / 2.5
    return plus[:, kept], minus[:, kept], None


def assert_pulls(pulls: np.ndarray) -> None:
    """Mean, width and 68.3 % coverage of each column, shape (n_toys, n), within three standard deviations.

    Three for the family: with n columns every one gets the limit that n independent ones would pass as often.
    """
    n_toys, n_columns = pulls.shape
    limit = norm.isf(norm.sf(3) / n_columns)
    np.testing.assert_array_less(np.abs(pulls.mean(axis=0)), limit / np.sqrt(n_toys))
    np.testing.assert_array_less(np.abs(pulls.std(axis=0, ddof=1) - 1), limit / np.sqrt(2 * n_toys))
    assert_coverage(np.abs(pulls) < 1)


def assert_coverage(hits: np.ndarray) -> None:
    n_toys, n_columns = hits.shape
    limit = norm.isf(norm.sf(3) / n_columns)
    distance = np.abs(hits.mean(axis=0) - 0.6827)
    np.testing.assert_array_less(distance, limit * np.sqrt(0.6827 * 0.3173 / n_toys))


def coefficient_pulls(method: Any, weighted: bool, n_toys: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    negative = 0.0 if method == "likelihood" else 0.03  # a likelihood has no use for negative bins
    pulls = []
    for _ in range(n_toys):
        plus, minus, weights = toy(rng, 3000, weighted=weighted, negative=negative)
        found = measure_spin(plus, minus, weights=weights, method=method)
        pulls.append((found.vector - TRUTH) / found.uncertainty)
    return np.array(pulls)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_pulls_of_every_estimator(method: str, weighted: bool) -> None:
    assert_pulls(coefficient_pulls(method, weighted, 200, 11))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_pulls_of_every_estimator_in_many_toys(method: str, weighted: bool) -> None:
    assert_pulls(coefficient_pulls(method, weighted, 4000, 12))


def intervals(found: Entanglement) -> tuple[np.ndarray, np.ndarray]:
    """Pulls of what was found, less its bias, and whether each interval covers the truth."""
    truth = spin_quantities(TRUTH, "density_matrix")
    value, sigma, low, high, bias = np.array([getattr(found, q) for q in QUANTITIES]).T
    return (value - bias - truth) / sigma, (low <= truth) & (truth <= high)


def quantity_toys(
    n_toys: int, seed: int, n_replicas: int, mean: float = 6000
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n_toys):
        plus, minus, weights = toy(rng, mean, weighted=bool(i % 2))
        if n_replicas:
            boot = bootstrap_spin(plus, minus, weights=weights, n_replicas=n_replicas, seed=i)
            found.append(intervals(bootstrap_entanglement(boot)))
        else:
            measured = measure_spin(plus, minus, weights=weights, convention="cms")
            found.append(intervals(entanglement(measured)))
    pulls, hits = zip(*found, strict=True)
    return np.array(pulls), np.array(hits)


@pytest.mark.parametrize("n_replicas", [0, 150])
def test_intervals_of_quantities_cover(n_replicas: int) -> None:
    pulls, hits = quantity_toys(200, 13, n_replicas, mean=3000)
    assert_pulls(pulls)
    assert_coverage(hits)


@pytest.mark.slow
@pytest.mark.parametrize("n_replicas", [0, 1000])
def test_intervals_of_quantities_cover_in_many_toys(n_replicas: int) -> None:
    pulls, hits = quantity_toys(3000, 14, n_replicas)
    assert_pulls(pulls)
    assert_coverage(hits)


# ----------------------------------------------------------------------------------------------- agreement


@pytest.fixture(scope="module")
def events() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    plus, minus, weights = toy(rng, 20_000, weighted=True)
    return plus, minus, np.abs(weights)


def test_same_numbers_as_the_estimators_of_single_coefficients(events: Any) -> None:
    plus, minus, weights = events
    found = measure_spin(plus, minus, weights=weights)
    c = spin.correlation_moment(plus[:, None], minus[None], weights=weights)
    np.testing.assert_allclose(found.correlation, c.value, rtol=1e-10)
    np.testing.assert_allclose(found.sigma_correlation, c.uncertainty, rtol=1e-10)
    b = spin.polarization_moment(minus, kappa=-1.0, weights=weights)
    np.testing.assert_allclose(found.b_minus, b.value, rtol=1e-10)
    a = spin.correlation_asymmetry(plus[:, None], minus[None], weights=weights)
    found = measure_spin(plus, minus, weights=weights, method="asymmetry")
    np.testing.assert_allclose(found.correlation, a.value, rtol=1e-10)
    np.testing.assert_allclose(found.sigma_correlation, a.uncertainty, rtol=1e-10)


def test_covariance_gives_the_uncertainty_of_cos_phi(events: Any) -> None:
    """tr C / 3 by moments is -3 <cos phi> event by event, so propagation must give exactly its standard error."""
    plus, minus, weights = events
    direct = spin.d_std_moment((plus * minus).sum(axis=0), weights=weights)
    d_std = entanglement(measure_spin(plus, minus, weights=weights)).d_std
    assert d_std.value == pytest.approx(float(direct.value), rel=1e-10)
    assert d_std.uncertainty == pytest.approx(float(direct.uncertainty), rel=1e-7)


def test_likelihood_is_the_maximum_and_minuit_agrees(events: Any) -> None:
    plus, minus, weights = events
    found = measure_spin(plus, minus, weights=weights, method="likelihood")
    h = hist.Hist.new.Reg(20, -1, 1).Weight().fill(plus[1] * minus[2], weight=weights)
    one = spin.correlation_likelihood(h.values(), h.axes[0].edges, variances=h.variances())
    assert found.correlation[1, 2] == pytest.approx(float(one.value), rel=1e-9)
    assert found.sigma_correlation[1, 2] == pytest.approx(float(one.uncertainty), rel=1e-9)
    fit = fit_correlation(h)
    assert fit.value == pytest.approx(float(one.value), rel=1e-9)
    assert fit.minuit is not None
    assert fit.minuit.valid
    assert fit.minuit.values["C"] == pytest.approx(fit.value, abs=1e-6)
    assert fit.minuit.errors["C"] == pytest.approx(fit.uncertainty, rel=1e-3)
    assert found.minuit is not None
    assert found.minuit.valid
    assert found.minuit.parameters == COEFFICIENTS
    np.testing.assert_allclose(found.minuit.errors, found.uncertainty, rtol=1e-2)
    np.testing.assert_allclose(found.minuit.values, found.vector, atol=1e-5)


def test_bootstrap_agrees_with_the_influence_of_events(events: Any) -> None:
    plus, minus, weights = events
    for method in METHODS:
        boot = bootstrap_spin(plus, minus, weights=weights, method=method, n_replicas=600)
        ratio = np.sqrt(np.diagonal(boot.covariance)) / boot.coefficients.uncertainty
        np.testing.assert_array_less(np.abs(ratio - 1), 4 / np.sqrt(2 * 600))
        expected = boot.coefficients.covariance
        scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
        np.testing.assert_array_less(np.abs((boot.covariance - expected) / scale), 0.2)
        again = bootstrap_spin(plus, minus, weights=weights, method=method, n_replicas=600)
        np.testing.assert_array_equal(boot.replicas, again.replicas)


def test_convention_is_carried(events: Any) -> None:
    plus, minus, weights = events
    ours = measure_spin(plus, minus, weights=weights)
    cms = measure_spin(plus, minus, weights=weights, convention="cms")
    np.testing.assert_array_equal(cms.correlation, -ours.correlation)
    np.testing.assert_array_equal(cms.b_plus, ours.b_plus)
    assert cms.convention == "cms"
    back = cms.in_convention("density_matrix")
    np.testing.assert_array_equal(back.covariance, ours.covariance)
    np.testing.assert_array_equal(back.correlation, ours.correlation)
    a, b = entanglement(ours), entanglement(cms)
    for quantity in QUANTITIES:
        assert getattr(a, quantity)[:2] == pytest.approx(getattr(b, quantity)[:2], rel=1e-9)
    assert (a.convention, b.convention) == ("density_matrix", "cms")
    assert a.delta_d == pytest.approx(b.delta_d)


def test_published_delta_d_is_another_quantity() -> None:
    c, sigma = np.diag([-0.6, -0.3, -0.57]), np.full((3, 3), 0.012)
    result = entanglement(spin_coefficients(c, sigma=sigma, convention="density_matrix"))
    assert result.delta_d == pytest.approx(float(dm.delta_d(c, sigma).value), rel=1e-9)
    assert result.delta_d_published == pytest.approx(float(dm.delta_d_published(c, sigma).value))
    assert 1.9 < result.delta_d / result.delta_d_published < 2.2
    # For diagonal C the concurrence is (D - 1) / 2, so both have one relative uncertainty.
    assert result.concurrence.uncertainty / result.concurrence.value == pytest.approx(
        result.delta_d, rel=1e-6
    )


def test_correlated_diagonal_elements_matter() -> None:
    covariance = 1e-4 * (np.eye(9) + 0.9 * (1 - np.eye(9)))
    c = np.diag([-0.6, -0.3, -0.57])
    full = entanglement(spin_coefficients(c, covariance=covariance, convention="density_matrix"))
    assert full.d_paper.uncertainty == pytest.approx(0.01 * np.sqrt(3 + 6 * 0.9), rel=1e-6)


def test_separable_state_has_no_propagated_concurrence() -> None:
    result = entanglement(
        spin_coefficients(0.1 * np.eye(3), sigma=np.full((3, 3), 0.1), convention="density_matrix")
    )
    assert result.concurrence.value == 0
    assert np.isnan(result.concurrence.uncertainty)
    assert result.ppt.value > 0
    assert result.ppt.uncertainty > 0
    assert not result.entangled


def test_without_uncertainties() -> None:
    result = entanglement(spin_coefficients(-np.eye(3), convention="density_matrix"))
    assert result.d_paper.value == pytest.approx(3)
    assert result.d_paper.uncertainty == 0
    assert result.delta_d == 0


def test_cos_phi_fit_pulls_and_unfolded_fit() -> None:
    rng = np.random.default_rng(5)
    d, edges = -0.45, np.linspace(-1, 1, 11)
    probability = np.diff(edges) / 2 - d * np.diff(edges**2) / 4
    smearing = np.eye(10) + 0.2 * np.eye(10, k=1) + 0.2 * np.eye(10, k=-1)
    pulls = []
    for _ in range(300):
        n = rng.poisson(4000 * probability)
        direct = fit_entanglement((n, edges))
        # Perfectly known smearing, inverted: the covariance must carry everything the counts do.
        mixed = rng.poisson(smearing @ (4000 * probability))
        inverse = np.linalg.inv(smearing)
        expected = smearing @ (4000 * probability)
        unfolded = fit_entanglement(
            (inverse @ mixed, edges), covariance=inverse @ np.diag(expected) @ inverse.T
        )
        pulls.append([(fit.d_std - d) / fit.d_std_uncertainty for fit in (direct, unfolded)])
    assert_pulls(np.array(pulls))
    assert direct.d_poster == pytest.approx(-3 * direct.d_std)
    assert unfolded.minuit.valid
    assert unfolded.minuit.errors["d_std"] == pytest.approx(unfolded.d_std_uncertainty, rel=1e-2)
    assert unfolded.fit.n_dof == 8


def test_least_squares_equals_the_likelihood_of_many_events() -> None:
    edges = np.linspace(-1, 1, 21)
    u, v = spin.product_bin_integrals(edges)
    n = 1e7 * (u + 0.4 * v)
    likelihood = fit_correlation((n, edges))
    squares = fit_correlation((n, edges), covariance=np.diag(n))
    assert likelihood.value == pytest.approx(-0.4, abs=1e-9)
    assert squares.value == pytest.approx(-0.4, abs=1e-9)
    assert squares.uncertainty == pytest.approx(likelihood.uncertainty, rel=1e-6)


def test_maximum_at_the_end_of_the_allowed_range() -> None:
    """Too few events at large |xi| to hold C: no probability may become negative, and Minuit knows the limit."""
    counts = [0, 0, 1, 1, 1, 4, 1, 10, 17, 34, 36, 21, 17, 17, 11, 7, 13, 7, 2, 0]
    fit = fit_correlation((counts, np.linspace(-1, 1, 21)))
    assert fit.value == pytest.approx(fit.minuit.limits["C"][0], rel=1e-9)
    assert fit.expected.min() == pytest.approx(0, abs=1e-9)
    assert 0.1 < fit.uncertainty < 0.3
    lower, upper = (fit.value - fit.minuit.limits["C"][0], fit.minuit.limits["C"][1] - fit.value)
    assert lower < 1e-9 < upper


# ---------------------------------------------------------------------------------------------- degenerate


def one_event(value: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    return np.full((3, 1), value), np.full((3, 1), value)


def test_one_event_gives_an_answer() -> None:
    found = measure_spin(*one_event())
    assert found.correlation[0, 0] == pytest.approx(-9 * 0.25)
    for method in METHODS:
        one = measure_spin(*one_event(), method=method)
        assert np.isfinite(one.vector).all()
        assert np.isfinite(one.covariance).all()
    assert np.isfinite(entanglement(found).chsh.value)


def test_one_event_in_the_bootstrap() -> None:
    boot = bootstrap_spin(*one_event(), n_replicas=50)
    empty = np.isnan(boot.replicas).all(axis=1)
    assert 5 < empty.sum() < 35  # e^-1 of the replicas hold no event
    assert bootstrap_entanglement(boot).d_std.uncertainty == pytest.approx(0, abs=1e-6)


GOOD = np.linspace(-0.9, 0.9, 30).reshape(3, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cos_plus": GOOD[:2]}, "shape"),
        ({"cos_plus": np.empty((3, 0)), "cos_minus": np.empty((3, 0))}, "at least one event; found none"),
        ({"cos_plus": np.where(GOOD > 0.8, np.nan, GOOD)}, "hand over valid events only"),
        ({"cos_plus": 2 * GOOD}, r"\[-1, 1\]"),
        ({"weights": np.zeros(10)}, "positive sum; found 0"),
        ({"weights": -np.ones(10)}, "positive sum; found -10"),
        ({"weights": np.ones(9)}, "10 finite numbers"),
        ({"weights": np.full(10, np.inf)}, "10 finite numbers"),
        ({"method": "guess"}, "method must be one of moment, asymmetry, likelihood; found 'guess'"),
        ({"convention": "mine"}, "convention must be one of"),
        ({"kappas": (1.0, 0.0)}, "kappas"),
        ({"method": "likelihood", "edges": [-1.0, 1.0]}, "finer edges are needed; found 1 bins"),
        ({"method": "likelihood", "edges": [-1.0, 0.5]}, "from -1 to 1"),
        ({"method": "likelihood", "weights": np.array([5.0] + [-0.1] * 9)}, "use method='moment'"),
    ],
)
def test_input_that_cannot_be_measured(arguments: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"cos_plus": GOOD, "cos_minus": GOOD} | arguments
    with pytest.raises(InputError, match=message):
        measure_spin(options.pop("cos_plus"), options.pop("cos_minus"), **options)


@pytest.mark.parametrize(
    ("histogram", "covariance", "message"),
    [
        (([0, 0], [-1.0, 0.0, 1.0]), None, "positive sum"),
        (([3], [-1.0, 1.0]), None, "more bins"),
        (([3, -1], [-1.0, 0.0, 1.0]), None, "not negative"),
        (([3, 1], [-1.0, 0.0, 0.5]), None, "from -1 to 1"),
        (([3, 1], [-1.0, 0.0, 1.0]), np.zeros((2, 2)), "zero or singular"),
        (([3, 1], [-1.0, 0.0, 1.0]), np.eye(3), "shape"),
        (([3, 1], [0.0, -1.0, 1.0]), None, "ascend"),
        (([3, 1], [-1.0, 1.0]), None, "edges"),
        (([3, np.nan], [-1.0, 0.0, 1.0]), None, "finite"),
        ([3, 1], None, "must be a histogram or a tuple"),
        (hist.Hist.new.Reg(2, -1, 1).Reg(2, -1, 1).Weight(), None, "one axis"),
    ],
)
def test_histograms_that_cannot_be_fitted(histogram: Any, covariance: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_correlation(histogram, covariance=covariance)
    with pytest.raises(InputError, match=message):
        fit_entanglement(histogram, covariance=covariance)


def test_weighted_histogram_without_variances() -> None:
    h = hist.Hist.new.Reg(4, -1, 1).Double().fill([0.1, -0.3], weight=[0.5, 0.5])
    with pytest.raises(InputError, match="Weight"):
        fit_correlation(h)


def test_given_coefficients_must_fit_together() -> None:
    with pytest.raises(InputError, match="not both"):
        spin_coefficients(np.eye(3), convention="cms", sigma=np.eye(3), covariance=np.eye(9))
    with pytest.raises(InputError, match="3 x 3"):
        spin_coefficients(np.eye(2), convention="cms")
    with pytest.raises(InputError, match="covariance must be"):
        spin_coefficients(np.eye(3), convention="cms", covariance=np.eye(3))
    with pytest.raises(TypeError, match="convention"):
        spin_coefficients(np.eye(3))  # type: ignore[call-arg]
    with pytest.raises(InputError, match="convention"):
        measure_spin(GOOD, GOOD).in_convention("atlas")  # type: ignore[arg-type]


def test_too_few_replicas() -> None:
    with pytest.raises(InputError, match="at least 2; found 1"):
        bootstrap_spin(GOOD, GOOD, n_replicas=1)
    boot = bootstrap_spin(GOOD, GOOD, n_replicas=5)
    with pytest.raises(InputError, match="two replicas"):
        bootstrap_entanglement(boot._replace(replicas=np.full((5, 15), np.nan)))


def test_result_types() -> None:
    found = measure_spin(GOOD, GOOD)
    assert isinstance(found, SpinCoefficients)
    assert found.n_events == 10
    assert found.n_effective == pytest.approx(10)
    assert found.minuit is None


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_bootstrap_of_a_million_events_takes_less_than_a_minute(method: Any) -> None:
    cosines = np.random.default_rng(1).uniform(-1, 1, (2, 3, 1_000_000))
    start = time.perf_counter()
    boot = bootstrap_spin(cosines[0], cosines[1], method=method, n_replicas=1000)
    bootstrap_entanglement(boot)
    assert time.perf_counter() - start < 60
