"""Moments in parts against NumPy on everything at once; class balances against the published ones."""

from __future__ import annotations

import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events.statistics import (
    Moments,
    effective_number_weights,
    mean_and_width,
    merge_moments,
    moments_of,
)
from evenet_hep.schema import Feature


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_merged_moments_are_those_of_all(weighted: bool, log: bool) -> None:
    rng = np.random.default_rng(3)
    parts = [rng.gamma(2, 1e3, n).astype(np.float32) for n in (1, 0, 700, 13, 5000)]
    weights = [rng.uniform(0, 2, len(part)) if weighted else np.ones(len(part)) for part in parts]
    merged = Moments()
    for part, weight in zip(parts, weights, strict=True):
        merged = merged.merge(Moments.of(part, weight if weighted else None, log=log))
    values, weight = np.concatenate(parts).astype(np.float64), np.concatenate(weights)
    seen = np.log1p(values) if log else values
    mean = np.average(seen, weights=weight)
    assert merged.mean == pytest.approx(mean, rel=1e-12)
    assert merged.std == pytest.approx(np.sqrt(np.average((seen - mean) ** 2, weights=weight)), rel=1e-12)
    assert merged.weight == pytest.approx(weight.sum(), rel=1e-12)
    assert (merged.low, merged.high) == (values.min(), values.max())


def test_far_from_zero_no_digits_are_lost() -> None:
    values = 1e8 + np.arange(1000.0)
    merged = Moments()
    for part in np.split(values, 20):
        merged = merged.merge(Moments.of(part))
    assert merged.std == pytest.approx(np.std(np.arange(1000.0)), rel=1e-7)


def test_zeros_are_values() -> None:
    """Defect 5 of the published preprocessing: a b-tag flag had the mean 1 because zeros counted as padding."""
    columns = np.zeros((100, 1), np.float32)
    columns[:30] = 1
    (found,) = moments_of([Feature("btag", definition="flag")], columns)
    assert found.mean == pytest.approx(0.3)
    assert found.std == pytest.approx(np.sqrt(0.3 * 0.7))


def test_no_logarithm_of_negative_values() -> None:
    with pytest.raises(InputError, match=r"'pt' must be above -1 for its transform log; found -1\.0"):
        moments_of([Feature("pt", "GeV", "log")], np.array([[3.0], [-1.0]], np.float32))


def test_order_of_parts_and_empty_parts_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    features = [Feature("pt", "GeV", "log"), Feature("eta", "", "standard")]
    parts = [moments_of(features, rng.gamma(2, 9, (n, 2)).astype(np.float32)) for n in (40, 0, 9)]
    forward, backward = merge_moments(parts), merge_moments(parts[::-1])
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_a_constant_feature_has_the_width_one() -> None:
    assert mean_and_width(Moments.of(np.full(9, 4.0)), "n_jet") == (4.0, 1.0)
    negative = Moments.of(np.array([1.0, 2.0]), np.array([-3.0, 1.0]))
    with pytest.raises(InputError, match=r"'met' must add up to more than 0; found -2"):
        mean_and_width(negative, "met")


def test_class_balance_is_the_published_one() -> None:
    """Counts in millions and balances of the published pretraining (its normalisation file)."""
    counts = [18.85, 70.00, 62.06, 55.82, 48.44, 53.05, 64.89, 35.25, 66.14, 66.75]
    published = [2.4084, 0.6795, 0.7609, 0.8412, 0.9630, 0.8829, 0.7296, 1.3073, 0.7167, 0.7105]
    np.testing.assert_allclose(effective_number_weights(np.array(counts) * 1e6), published, atol=2e-4)


def test_balance_by_its_definition() -> None:
    counts = np.array([7, 40, 3])
    beta = 1 - 1 / 50
    weights = (1 - beta) / (1 - beta**counts)
    np.testing.assert_allclose(effective_number_weights(counts), 3 * weights / weights.sum(), rtol=1e-12)


def test_balance_of_few_events() -> None:
    assert effective_number_weights([]).tolist() == []
    assert effective_number_weights([0, 0]).tolist() == [0, 0]
    assert effective_number_weights([0, 1]).tolist() == [0, 1]
    np.testing.assert_allclose(effective_number_weights([1, 0, 1]), [1, 0, 1])
    with pytest.raises(InputError, match="at least 0"):
        effective_number_weights([3, -1])
