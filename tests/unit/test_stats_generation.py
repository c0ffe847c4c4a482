"""Distances between real and generated events: exact cases, limits, toys, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

from evenet_hep.errors import InputError
from evenet_hep.stats.feature_distances import (
    frechet_distance,
    frechet_distance_at_infinity,
    kernel_distance,
    standardize,
)
from evenet_hep.stats.generation import (
    coverage_and_mmd,
    energy_mover_distance,
    measure_coverage,
    triangular_discriminator,
    w1_distance,
    w1_in_batches,
)


def test_w1_is_the_integral_between_the_cumulatives() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=40), rng.normal(0.5, 2, size=70)
    wa, wb = rng.random(40), rng.random(70)
    grid = np.sort(np.concatenate([a, b]))
    cumulative = [np.array([w[x <= point].sum() for point in grid]) / w.sum() for x, w in ((a, wa), (b, wb))]
    expected = (np.abs(cumulative[0] - cumulative[1])[:-1] * np.diff(grid)).sum()
    assert w1_distance(a, b, real_weights=wa, generated_weights=wb) == pytest.approx(expected, rel=1e-10)
    assert w1_distance(a, a + 3) == pytest.approx(3)
    # Whole-number weights are repetitions.
    counts = rng.integers(1, 4, 40)
    assert w1_distance(a, b, real_weights=counts) == pytest.approx(w1_distance(np.repeat(a, counts), b))


def test_w1_in_batches_averages_features() -> None:
    rng = np.random.default_rng(2)
    real, generated = rng.normal(size=(20_000, 2)), rng.normal([1.0, 2.0], size=(20_000, 2))
    found = w1_in_batches(real, generated, batch_size=20_000)
    assert found.value == pytest.approx(1.5, abs=4 * 0.01)
    assert 0 < found.uncertainty < 0.05
    assert found == w1_in_batches(real, generated, batch_size=20_000)
    assert found != w1_in_batches(real, generated, batch_size=20_000, seed=1)
    one = w1_in_batches(real[:, 0], generated[:, 0], batch_size=20_000)
    assert one.value == pytest.approx(1.0, abs=0.04)


def test_triangular_discriminator_floor_and_uncertainty() -> None:
    """Equal shapes give the floor on average; different ones scatter as the uncertainty says. Weighted, too."""
    rng = np.random.default_rng(3)
    p, q, edges = np.array([40.0, 300.0, 200.0, 90.0]), np.array([120.0, 200.0, 260.0, 50.0]), np.arange(5)
    same, different = [], []
    for _ in range(400):
        a, b, c = rng.poisson(p), rng.poisson(2 * p), rng.poisson(q)
        same.append(triangular_discriminator((a, edges), (0.5 * b, edges, 0.25 * b)))
        different.append(triangular_discriminator((a, edges), (3.0 * c, edges, 9.0 * c)))
    values, _, floors = np.array(same).T
    assert abs(values.mean() - floors.mean()) < 3 * values.std() / np.sqrt(400)
    truth = 0.5 * ((p / p.sum() - q / q.sum()) ** 2 / (p / p.sum() + q / q.sum())).sum()
    values, errors, floors = np.array(different).T
    # Curvature raises it by about the floor.
    pulls = (values - truth) / errors
    assert abs(pulls.std(ddof=1) - 1) < 3 / np.sqrt(2 * 400)
    assert values.mean() - truth < 2 * floors.mean()


def test_triangular_discriminator_ends() -> None:
    edges = [0, 1, 2]
    assert triangular_discriminator(([1, 3], edges), ([2, 6], edges)).value == 0
    assert triangular_discriminator(([1, 0], edges), ([0, 6], edges)).value == 1


def test_energy_mover_distance_is_the_best_matching() -> None:
    """Jets of equal particles: the optimal transport is a permutation, and all can be tried."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        a, b = (np.column_stack([np.full(4, 0.25), rng.normal(0, 0.4, (4, 2))]) for _ in range(2))
        cost = np.hypot(*(a[:, None, 1:] - b[None, :, 1:]).transpose(2, 0, 1))
        best = min(cost[range(4), list(p)].sum() for p in itertools.permutations(range(4)))
        assert energy_mover_distance(a, b) == pytest.approx(0.25 * best, rel=1e-6)
        assert energy_mover_distance(b, a) == pytest.approx(0.25 * best, rel=1e-6)
        assert energy_mover_distance(a, a) == pytest.approx(0, abs=1e-9)
        padded = np.concatenate([a, np.zeros((2, 3))])
        assert energy_mover_distance(padded, b, radius=0.5) == pytest.approx(0.5 * best, rel=1e-6)


def test_energy_mover_distance_across_the_seam_and_scales() -> None:
    a, b = [[100.0, 0.0, 3.1]], [[100.0, 0.0, -3.1]]
    assert energy_mover_distance(a, b) == pytest.approx(100 * (2 * np.pi - 6.2), rel=1e-6)
    assert energy_mover_distance(a, np.empty((0, 3))) == 100
    assert energy_mover_distance(a, [[60.0, 0.5, 3.1]]) == pytest.approx(60 * 0.5 + 40, rel=1e-6)


def test_coverage_counts_real_events() -> None:
    distances = np.array([[0.1, 5, 5, 5], [5, 0.2, 0.3, 5], [5, 5, 5, 6], [9, 9, 9, 9]])
    coverage, mmd = coverage_and_mmd(distances)
    assert (
        coverage == 0.5
    )  # the fourth generated event is nearest to the first real one, as 5 stands there first
    assert mmd == pytest.approx((0.1 + 0.2 + 5 + 9) / 4)


def test_mode_collapse_costs_coverage() -> None:
    rng = np.random.default_rng(5)
    real = np.stack([np.ones((150, 6)) / 6, *rng.normal(0, 0.3, (2, 150, 6))], axis=-1)
    good, collapsed = real + rng.normal(0, 0.02, real.shape) * [0, 1, 1], np.repeat(real[:3], 50, axis=0)
    options: Any = {"n_batches": 2, "batch_size": 8}
    kept, lost = (measure_coverage(real, x, **options) for x in (good, collapsed))
    assert kept.coverage.value > lost.coverage.value + 0.2
    assert kept.mmd.value < lost.mmd.value
    assert kept == measure_coverage(real, good, **options)


def test_frechet_distance_against_the_matrix_root() -> None:
    rng = np.random.default_rng(6)
    a = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4))
    b = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(s @ t))
    expected = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(s + t - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    # One Gaussian feature: (difference of means)^2 + (difference of widths)^2.
    x = rng.normal(size=1000)
    assert frechet_distance(x, 2 * x + 1) == pytest.approx((x.mean() + 1) ** 2 + x.var(ddof=1), rel=1e-9)
    flat = np.concatenate([x[:, None], np.zeros((1000, 1))], axis=1)  # a singular covariance
    assert frechet_distance(flat, 2 * flat) == pytest.approx(x.mean() ** 2 + x.var(ddof=1), rel=1e-6)


def test_extrapolation_takes_the_bias_off() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, 20_000, 10))
    at_size = frechet_distance(a[:500], b[:500])
    far = frechet_distance_at_infinity(a, b, smallest=500, largest=20_000, n_batches=10)
    assert at_size > 0.01
    # Drawn with replacement from the samples, so their own distance remains.
    assert abs(far.value - frechet_distance(a, b)) < 5 * far.uncertainty
    assert far.value < 0.2 * at_size


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(8)
    same = [kernel_distance(*rng.normal(size=(2, 200, 3)), n_batches=1).value for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert min(same) < 0
    a, b = rng.normal(size=(2, 800, 3))
    wider = kernel_distance(a, 1.3 * b, batch_size=400)
    assert wider.value > 3 * wider.uncertainty


def test_standardize_takes_the_real_scale() -> None:
    rng = np.random.default_rng(9)
    real, generated = standardize(rng.normal(5, [1, 100], (4000, 2)), rng.normal(5, [1, 100], (4000, 2)))
    np.testing.assert_allclose(real.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(real.std(axis=0), 1)
    np.testing.assert_allclose(generated.std(axis=0), 1, atol=0.05)


X = np.random.default_rng(10).normal(size=(20, 2))
EDGES = [0.0, 1.0, 2.0]
FAILURES: list[tuple[Callable[[], Any], str]] = [
    (lambda: w1_distance([], [1.0]), "real must be finite, not empty"),
    (lambda: w1_distance([1.0], [np.nan]), "generated must be finite"),
    (lambda: w1_distance([1.0], [1.0], real_weights=[0.0]), "not all zero"),
    (lambda: w1_distance([1.0], [1.0], generated_weights=[-1.0]), "not negative"),
    (lambda: w1_distance([1.0], [1.0], generated_weights=[1.0, 1.0]), "1 numbers"),
    (lambda: w1_in_batches(X, X[:, :1]), "same features; found 2 and 1"),
    (lambda: w1_in_batches(X, X, n_batches=0), "n_batches must be at least 1"),
    (lambda: triangular_discriminator(([1, 2], EDGES), ([1, 2], [0, 1, 3])), "same bins"),
    (lambda: triangular_discriminator(([0, 0], EDGES), ([1, 2], EDGES)), "empty"),
    (lambda: triangular_discriminator(([1, -2], EDGES), ([1, 2], EDGES)), "negative"),
    (lambda: energy_mover_distance([[1.0, 0.0]], [[1.0, 0.0, 0.0]]), "first must be finite pT"),
    (lambda: energy_mover_distance([[1.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0]]), "second must be finite pT"),
    (lambda: coverage_and_mmd(np.empty((0, 3))), "not empty"),
    (lambda: coverage_and_mmd(np.empty((3, 0))), "at least one of each"),
    (lambda: measure_coverage(X, X), "a batch of 100 events; found 20 and 20"),
    (lambda: frechet_distance(X[:1], X), "n from 2"),
    (lambda: frechet_distance(X, X[:, :1]), "same features"),
    (lambda: frechet_distance_at_infinity(X, X), "sizes must rise"),
    (lambda: kernel_distance(X, X, degree=0), "degree and n_batches"),
    (lambda: kernel_distance(X, np.full((3, 2), np.inf)), "generated must be finite"),
    (lambda: standardize(X, X[:, :1]), "same features"),
]


@pytest.mark.parametrize(("call", "message"), FAILURES, ids=[f"{i}" for i in range(len(FAILURES))])
def test_input_without_a_distance(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
