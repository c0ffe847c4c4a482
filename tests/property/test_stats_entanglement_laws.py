"""Laws of spin coefficients and entanglement that hold for any events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evenet_hep.stats.entanglement import QUANTITIES, entanglement
from evenet_hep.stats.linear_density import maximize_linear
from evenet_hep.stats.spin_coefficients import METHODS, Method, bin_integrals, density_powers, measure_spin

EDGES = np.linspace(-1, 1, 21)
Events = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def events(draw: st.DrawFn) -> Events:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(3, 60))
    plus, minus = rng.uniform(-1, 1, (2, 3, n))
    return plus, minus, rng.gamma(draw(st.floats(0.5, 5)), 1.0, n) + 1e-3


methods = st.sampled_from(METHODS)


@settings(deadline=None, max_examples=40)
@given(events(), methods, st.floats(0.01, 100))
def test_scale_of_the_weights_does_not_matter(sample: Events, method: Method, factor: float) -> None:
    plus, minus, weights = sample
    a = measure_spin(plus, minus, weights=weights, method=method)
    b = measure_spin(plus, minus, weights=factor * weights, method=method)
    np.testing.assert_allclose(b.vector, a.vector, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(b.covariance, a.covariance, rtol=1e-5, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(events(), methods, st.randoms())
def test_order_of_events_does_not_matter(sample: Events, method: Method, random: object) -> None:
    plus, minus, weights = sample
    order = np.random.default_rng(len(weights)).permutation(len(weights))
    a = measure_spin(plus, minus, weights=weights, method=method)
    b = measure_spin(plus[:, order], minus[:, order], weights=weights[order], method=method)
    np.testing.assert_allclose(b.vector, a.vector, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(b.covariance, a.covariance, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(events(), methods)
def test_weight_two_is_the_event_twice(sample: Events, method: Method) -> None:
    plus, minus, _ = sample
    n = plus.shape[1]
    doubled = measure_spin(plus, minus, weights=np.full(n, 2.0), method=method)
    twice = measure_spin(np.tile(plus, 2), np.tile(minus, 2), method=method)
    np.testing.assert_allclose(doubled.vector, twice.vector, rtol=1e-7, atol=1e-8)
    # The same values, but twice the events know twice as much.
    np.testing.assert_allclose(doubled.covariance, 2 * twice.covariance, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(events(), methods)
def test_covariance_is_positive(sample: Events, method: Method) -> None:
    plus, minus, weights = sample
    found = measure_spin(plus, minus, weights=weights, method=method)
    eigenvalues = np.linalg.eigvalsh(found.covariance)
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


@settings(deadline=None, max_examples=40)
@given(events(), methods)
def test_exchange_of_the_leptons_transposes_c(sample: Events, method: Method) -> None:
    """With both analysing powers equal nothing but the names differs."""
    plus, minus, weights = sample
    a = measure_spin(plus, minus, weights=weights, method=method, kappas=(1.0, 1.0))
    b = measure_spin(minus, plus, weights=weights, method=method, kappas=(1.0, 1.0))
    np.testing.assert_allclose(b.correlation, a.correlation.T, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(b.b_plus, a.b_minus, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(events())
def test_rotation_of_the_axes_leaves_the_invariants(sample: Events) -> None:
    """B turns as a vector and C as a tensor: trace, PPT, CHSH and their uncertainties stay."""
    plus, minus, weights = (0.5 * sample[0], 0.5 * sample[1], sample[2])
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    a = measure_spin(plus, minus, weights=weights)
    b = measure_spin(turn @ plus, turn @ minus, weights=weights)
    np.testing.assert_allclose(b.correlation, turn @ a.correlation @ turn.T, atol=1e-9)
    before, after = entanglement(a), entanglement(b)
    for name in ("d_std", "d_poster", "ppt", "chsh"):
        x, y = getattr(before, name), getattr(after, name)
        assert y.value == pytest.approx(x.value, rel=1e-7, abs=1e-8)
    assert after.d_std.uncertainty == pytest.approx(before.d_std.uncertainty, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, 20, elements=st.integers(0, 50).map(float)))
def test_the_likelihood_has_no_better_neighbour(counts: np.ndarray) -> None:
    constant, slope = bin_integrals(EDGES, density_powers((1.0, -1.0), "density_matrix"))
    u, v = constant[6], slope[6]
    best = float(maximize_linear(counts, u, v))
    if np.isnan(best):
        assert counts.sum() == 0
        return
    low, high = (-u[v > 0] / v[v > 0]).max(), (-u[v < 0] / v[v < 0]).min()
    filled = counts > 0

    def likelihood(c: float) -> float:
        return float((counts[filled] * np.log(np.maximum(u + c * v, 1e-300)[filled])).sum())

    assert low - 1e-9 <= best <= high + 1e-9
    for step in (1e-3, 1e-2, 0.1):
        for c in (best - step, best + step):
            if low <= c <= high:
                assert likelihood(c) <= likelihood(best) + 1e-9


@settings(deadline=None, max_examples=40)
@given(events())
def test_markers_relate(sample: Events) -> None:
    plus, minus, weights = sample
    found = entanglement(measure_spin(plus, minus, weights=weights))
    assert found.d_poster.value == pytest.approx(-3 * found.d_std.value, abs=1e-9)
    assert found.d_poster.uncertainty == pytest.approx(3 * found.d_std.uncertainty, rel=1e-6, abs=1e-9)
    assert found.d_paper.value >= found.d_poster.value - 1e-9
    assert found.concurrence.value >= 0
    assert found.entangled == (found.ppt.value < 0)
    for name in QUANTITIES:
        quantity = getattr(found, name)
        assert quantity.uncertainty >= 0 or (name == "concurrence" and quantity.value == 0)
