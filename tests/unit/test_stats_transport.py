"""Transport against linear programming, which is a hundred times slower."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from evenet_hep.stats.transport import transport_cost


def by_linear_programming(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> float:
    n, m = cost.shape
    limits = np.zeros((n + m, n * m))
    for i in range(n):
        limits[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        limits[n + j, j::m] = 1
    found = linprog(
        cost.ravel(), A_ub=limits, b_ub=np.concatenate([a, b]), A_eq=np.ones((1, n * m)), b_eq=[min(a.sum(), b.sum())]
    )  # fmt: skip
    return float(found.fun)


@pytest.mark.parametrize("seed", range(12))
def test_the_cheapest_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 12, 2)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    a, b = rng.exponential(size=n), rng.exponential(size=m)
    if seed % 3 == 0:  # equal sums, and equal points
        b *= a.sum() / b.sum()
        y[0] = x[0]
    if seed % 4 == 0:  # many ways of the same cost
        a, b = np.round(a * 3) + 1, np.round(b * 3) + 1
        x, y = np.round(x), np.round(y)
    cost = np.hypot(*(x[:, None] - y).transpose(2, 0, 1))
    expected = by_linear_programming(a, b, cost)
    assert transport_cost(a, b, cost) == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert transport_cost(b, a, cost.T) == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_nothing_to_move() -> None:
    same = np.array([0.3, 0.7])
    assert transport_cost(same, same, np.array([[0.0, 1.0], [1.0, 0.0]])) == 0.0
    assert transport_cost(np.array([1e-30]), np.array([2.0]), np.array([[3.0]])) == pytest.approx(3e-30)
