"""Centred kernel alignment: definitions, invariances, published table, ensembles, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.stats.similarity import cka, cka_of_ensembles


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(60, 5))


@pytest.fixture
def y(x: np.ndarray) -> np.ndarray:
    return x @ np.random.default_rng(2).normal(size=(5, 7)) + np.random.default_rng(3).normal(size=(60, 7))


def test_linear_in_both_spaces(x: np.ndarray, y: np.ndarray) -> None:
    """Few features or few events: the two ways to the same number."""
    k, m = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = k @ k.T, m @ m.T
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert cka(x, y) == pytest.approx(expected, rel=1e-12)
    wide = np.concatenate([y, np.zeros((60, 80))], axis=1)
    assert cka(x, wide) == pytest.approx(expected, rel=1e-12)


def test_debiased_against_sums_over_distinct_events() -> None:
    """Eq. 5 of Song et al. is the U-statistic over quadruples of different events; six events are enough to write out."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = a @ a.T, b @ b.T
        total, count = 0.0, 0
        for i in range(6):
            for j in range(6):
                for q in range(6):
                    for r in range(6):
                        if len({i, j, q, r}) == 4:
                            total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                            count += 1
        return total / count

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert cka(x, y, debiased=True) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"kernel": "rbf"}, {"kernel": "rbf", "threshold": 1.0}, {"debiased": True}]
)
def test_invariances(x: np.ndarray, y: np.ndarray, options: dict[str, Any]) -> None:
    value = cka(x, y, **options)
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))
    order = np.random.default_rng(6).permutation(60)
    assert cka(x, x, **options) == pytest.approx(1)
    assert cka(y, x, **options) == pytest.approx(value)
    assert cka(7 * x @ turn + 3, y, **options) == pytest.approx(value)
    assert cka(x[order], y[order], **options) == pytest.approx(value)
    assert cka(x, y[order], **options) < value


def test_debiased_vanishes_for_unrelated_representations() -> None:
    rng = np.random.default_rng(7)
    biased, debiased = [], []
    for _ in range(60):
        a, b = rng.normal(size=(2, 40, 30))
        biased.append(cka(a, b))
        debiased.append(cka(a, b, debiased=True))
    assert np.mean(biased) > 0.3
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(60)


@pytest.mark.parametrize(
    ("noise", "published", "linear", "debiased"),
    [
        (0.1, 0.99, 0.99, 0.99),
        (0.75, 0.77, 0.66, 0.63),
        (1.0, 0.69, 0.52, 0.49),
        (2.0, 0.51, 0.24, 0.19),
        (5.0, 0.39, 0.09, 0.03),
    ],
)
def test_published_table_is_that_of_the_rbf_kernel(
    noise: float, published: float, linear: float, debiased: float
) -> None:
    """Table II of arXiv:2412.10665: 1000 events, 64 features, noise added. Its row 0.5 contradicts the others."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(1000, 64))
    y = x + noise * rng.normal(size=x.shape)
    assert cka(x, y, kernel="rbf") == pytest.approx(published, abs=0.03)
    assert cka(x, y) == pytest.approx(linear, abs=0.03)
    assert cka(x, y, debiased=True) == pytest.approx(debiased, abs=0.03)


def test_ensembles() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(100, 4))
    first, second = ([x + s * rng.normal(size=x.shape) for _ in range(3)] for s in (0.3, 0.6))
    found = cka_of_ensembles(first, second)
    expected = [[cka(a, b) for b in second] for a in first]
    np.testing.assert_allclose(found.pairs, expected)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.uncertainty == pytest.approx(np.std(expected))
    own = cka_of_ensembles(first, kernel="rbf")
    assert np.isnan(np.diagonal(own.pairs)).all()
    others = [cka(a, b, kernel="rbf") for i, a in enumerate(first) for j, b in enumerate(first) if i != j]
    assert own.value == pytest.approx(np.mean(others))
    assert own.uncertainty == pytest.approx(np.std(others))
    one = cka_of_ensembles(first[:1], second[:1])
    assert np.isnan(one.uncertainty)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        (np.ones((5, 2)), np.eye(5), {}, "first must differ between events; all 5"),
        (np.eye(5), np.eye(4), {}, "same events, at least 2; found 5 and 4"),
        (np.eye(1), np.eye(1), {}, "at least 2; found 1"),
        (np.eye(3), np.eye(3), {"debiased": True}, "at least 4; found 3"),
        (np.full((4, 2), np.nan), np.eye(4), {}, "first must be finite; 8 numbers"),
        (np.empty((0, 2)), np.eye(4), {}, "at least one event"),
        (np.ones(4), np.eye(4), {}, "n_features"),
        (np.eye(4), np.eye(4), {"kernel": "cosine"}, "linear or rbf; found 'cosine'"),
        (np.eye(4), np.eye(4), {"threshold": 0.0}, "threshold"),
        (np.eye(9)[:, :1], np.eye(9), {"kernel": "rbf"}, "median distance is 0"),
    ],
)
def test_input_without_a_similarity(first: Any, second: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cka(first, second, **options)


def test_ensembles_without_pairs() -> None:
    with pytest.raises(InputError, match="at least one pair"):
        cka_of_ensembles([np.eye(4)])
    with pytest.raises(InputError, match="at least one pair"):
        cka_of_ensembles([np.eye(4)], [])
