"""Counting significances against closed forms, Poisson sums and toys."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evenet_hep.errors import InputError
from evenet_hep.stats import significance as sig


def test_probability_and_significance_are_inverse() -> None:
    z = np.linspace(-6, 30, 37)
    np.testing.assert_allclose(sig.significance_of(sig.p_value(z)), z, atol=1e-9)
    np.testing.assert_allclose(sig.p_value(z), stats.norm.sf(z))
    np.testing.assert_array_equal(sig.significance_of([0.0, 1.0, 0.5]), [np.inf, -np.inf, 0.0])
    assert np.isnan(sig.significance_of(1.5))


def test_asimov_is_the_textbook_formula() -> None:
    s, b = np.array([5.0, 1.0, 40.0]), np.array([2.0, 100.0, 400.0])
    expected = np.sqrt(2 * ((s + b) * np.log(1 + s / b) - s))
    np.testing.assert_allclose(sig.asimov_significance(s, b).value, expected)
    # Eq. 20 of Cowan's note on an uncertain background.
    error = 0.1 * b
    v = error**2
    first = (s + b) * np.log((s + b) * (b + v) / (b**2 + (s + b) * v))
    second = b**2 / v * np.log(1 + v * s / (b * (b + v)))
    got = sig.asimov_significance(s, b, background_uncertainty=error).value
    np.testing.assert_allclose(got, np.sqrt(2 * (first - second)))


def test_small_signal_is_s_over_the_total_error() -> None:
    z = sig.asimov_significance(1.0, 1e4, background_uncertainty=100.0).value
    assert z == pytest.approx(1 / np.sqrt(1e4 + 1e4), rel=1e-3)


def test_tiny_systematic_changes_nothing() -> None:
    assert sig.counting_significance(30, 20.0, uncertainty=1e-3) == pytest.approx(
        sig.counting_significance(30, 20.0), rel=1e-5
    )


def test_asimov_uncertainty_by_resampling() -> None:
    rng = np.random.default_rng(3)
    s, b, vs, vb = 30.0, 200.0, 4.0, 60.0
    draws = sig.asimov_significance(
        rng.normal(s, np.sqrt(vs), 20000), rng.normal(b, np.sqrt(vb), 20000), background_uncertainty=5.0
    ).value
    got = sig.asimov_significance(s, b, background_uncertainty=5.0, signal_sumw2=vs, background_sumw2=vb)
    assert got.uncertainty == pytest.approx(draws.std(), rel=0.03)


@pytest.mark.parametrize(
    ("s", "b", "expected"), [(0, 0, 0), (0, 5, 0), (3, 0, np.inf), (-1, 0.5, np.nan), (1, -2, np.nan)]
)
def test_asimov_edges(s: float, b: float, expected: float) -> None:
    np.testing.assert_equal(float(sig.asimov_significance(s, b).value), float(expected))


def test_deficit_is_negative() -> None:
    assert sig.counting_significance(80, 100.0) < 0
    assert sig.counting_significance(0, 9.0) == pytest.approx(-np.sqrt(18))
    assert sig.counting_significance(0, 9.0, uncertainty=3.0) < 0


def test_exact_p_value_is_the_poisson_sum() -> None:
    n, b = np.arange(1, 12), 4.2
    np.testing.assert_allclose(sig.exact_p_value(n, b), stats.poisson.sf(n - 1, b))
    # One background event seen in control region twice as exposed: on | total is binomial.
    got = sig.exact_p_value(4, 0.5, uncertainty=0.5 / np.sqrt(1.0))
    assert got == pytest.approx(stats.binom.sf(3, 5, 1 / 3))


def test_exact_p_value_agrees_with_the_asymptotic_one_for_many_events() -> None:
    for sigma in (0.0, 20.0):
        exact = sig.significance_of(sig.exact_p_value(10300, 10000.0, uncertainty=sigma))
        assert exact == pytest.approx(sig.counting_significance(10300, 10000.0, uncertainty=sigma), abs=0.01)


def test_exact_p_value_edges() -> None:
    np.testing.assert_array_equal(sig.exact_p_value([0, 2, 0, -1], [3.0, 0.0, 0.0, 1.0]), [1, 0, 1, np.nan])
    assert sig.exact_p_value(0, 3.0, uncertainty=1.0) == 1


def test_uncertain_counts_have_uniform_p_values() -> None:
    """Both measurements fluctuate; the significance is standard normal."""
    rng = np.random.default_rng(5)
    b, tau = 150.0, 0.8
    estimate = rng.poisson(tau * b, 4000) / tau
    z = sig.counting_significance(rng.poisson(b, 4000), estimate, uncertainty=np.sqrt(estimate / tau))
    assert abs(z.mean()) < 3 / np.sqrt(4000)
    assert abs(z.std() - 1) < 3 / np.sqrt(2 * 4000)
    assert abs((z < 1).mean() - stats.norm.cdf(1)) < 3 * np.sqrt(0.16 * 0.84 / 4000)


def test_quadrature() -> None:
    np.testing.assert_allclose(sig.quadrature_sum([[3, 4], [-5, 1]], axis=1), [5, 1])
    assert sig.quadrature_sum([]) == 0


def test_errors_name_the_field() -> None:
    with pytest.raises(InputError, match="uncertainty must not be negative"):
        sig.counting_significance(1, 1.0, uncertainty=-1.0)
    with pytest.raises(InputError, match="signal_sumw2"):
        sig.asimov_significance(1, 1, signal_sumw2=-1)
