"""Separation, pairing and calibration on small samples, against definitions and toys."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy import stats as scipy_stats

from evenet_hep.errors import InputError
from evenet_hep.stats import calibration, metrics, pairing, sic

RNG = np.random.default_rng(11)


def toy_sample(
    seed: int, n_signal: int = 200, n_background: int = 400
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.poisson(n_signal), rng.poisson(n_background)
    labels = np.repeat([1, 0], n)
    scores = special.expit(rng.normal(np.where(labels == 1, 1.0, -0.5), 1.0)).round(2)
    return labels, scores, rng.exponential(1.0, len(labels))


def test_area_is_the_fraction_of_ordered_pairs() -> None:
    labels, scores, weights = toy_sample(1, 30, 50)
    s, b = labels == 1, labels == 0
    difference = scores[s][:, None] - scores[b][None]
    pairs = weights[s][:, None] * weights[b][None]
    expected = (pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum()
    assert metrics.area_under_curve(labels, scores, weights=weights).value == pytest.approx(expected)


def test_area_is_the_integral_of_the_curve() -> None:
    labels, scores, weights = toy_sample(2)
    roc = metrics.roc_curve(labels, scores, weights=weights)
    area = np.trapezoid(roc.signal_efficiency, roc.background_efficiency)
    assert metrics.area_under_curve(labels, scores, weights=weights).value == pytest.approx(area)
    assert len(roc.threshold) == len(np.unique(scores)) + 1


def test_integer_weights_are_repetitions() -> None:
    labels, scores, _ = toy_sample(3, 40, 60)
    counts = np.random.default_rng(4).integers(0, 4, len(labels))
    repeated = (labels.repeat(counts), scores.repeat(counts))
    for function in (metrics.area_under_curve, sic.maximum_sic):
        weighted, plain = function(labels, scores, weights=counts), function(*repeated)
        assert weighted.value == pytest.approx(plain.value)


@pytest.mark.parametrize("weighted", [False, True])
def test_uncertainties_cover(weighted: bool) -> None:
    """Pulls of AUC and of eff_b at half the signal, over samples of fluctuating size, against the closed forms."""
    rng = np.random.default_rng(21)
    truth = np.array([scipy_stats.norm.cdf(1.5 / np.sqrt(2)), scipy_stats.norm.sf(1.5)])
    pulls = []
    for _ in range(200):
        labels = np.repeat([1, 0], rng.poisson([1000, 2000]))
        scores = rng.normal(np.where(labels == 1, 1.0, -0.5), 1.0)
        weights = rng.exponential(1.0, len(labels)) if weighted else None
        area = metrics.area_under_curve(labels, scores, weights=weights)
        rejection = metrics.background_rejection(labels, scores, signal_efficiency=0.5, weights=weights)
        found = np.array([area.value, 1 / rejection.value])
        pulls.append((found - truth) / [area.uncertainty, rejection.uncertainty / rejection.value**2])
    table = np.array(pulls)
    assert (np.abs(table.mean(axis=0)) < 3 / np.sqrt(200)).all()
    assert (np.abs(table.std(axis=0) - 1) < 3 / np.sqrt(400)).all()
    assert (np.abs((np.abs(table) < 1).mean(axis=0) - 0.6827) < 3 * np.sqrt(0.2166 / 200)).all()


def test_sic_needs_a_yield() -> None:
    labels, scores = np.repeat([1, 0], [100, 100]), np.r_[np.linspace(0.5, 1, 100), np.linspace(0, 0.7, 100)]
    loose = sic.maximum_sic(labels, scores, minimum_background=1.0)
    assert loose.background_yield == 1
    assert loose.background_uncertainty == pytest.approx(loose.value / 2)  # one event decides
    tight = sic.maximum_sic(labels, scores)
    assert tight.background_yield >= 10
    assert tight.value < loose.value
    assert tight.uncertainty == pytest.approx(
        np.hypot(tight.background_uncertainty, tight.signal_uncertainty)
    )
    assert np.isnan(sic.maximum_sic(labels, scores, minimum_background=101).value)
    # Weights are yields: a hundredth of a background event each never reaches 10.
    assert np.isnan(sic.maximum_sic(labels, scores, weights=np.full(200, 0.01)).value)


def test_published_sic_is_decided_by_one_event() -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat([1, 0], [20000, 20000])
    scores = special.expit(rng.normal(np.where(labels == 1, 2.0, -2.0), 1.5))
    published, honest = sic.maximum_sic_published(labels, scores), sic.maximum_sic(labels, scores)
    assert published.value > honest.value
    assert published.background_yield < 10 <= honest.background_yield
    assert published.background_efficiency >= 1e-4
    assert published.value == pytest.approx(
        published.signal_efficiency / np.sqrt(published.background_efficiency)
    )
    with pytest.raises(InputError, match=r"scores in \[0, 1\]"):
        sic.maximum_sic_published([1, 0], [2.0, 0.0])
    assert np.isnan(sic.maximum_sic_published([1, 1], [0.5, 0.1]).value)


def test_zero_minimum_never_divides_by_no_background() -> None:
    labels, scores = [1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1]
    best = sic.maximum_sic(labels, scores, minimum_background=0.0)
    assert best.value == pytest.approx(np.sqrt(2))
    assert best.threshold == 0.2


def test_separable_scores() -> None:
    labels, scores = np.repeat([1, 0], 20), np.repeat([1.0, 0.0], 20)
    area = metrics.area_under_curve(labels, scores)
    assert area == (1.0, 0.0)
    rejection = metrics.background_rejection(labels, scores, signal_efficiency=[0.2, 1.0])
    np.testing.assert_array_equal(rejection.value, [np.inf, np.inf])


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_nan(label: int) -> None:
    labels, scores = np.full(5, label), np.linspace(0, 1, 5)
    assert np.isnan(metrics.area_under_curve(labels, scores).value)
    assert np.isnan(sic.maximum_sic(labels, scores, minimum_background=1.0).value)
    assert np.isnan(metrics.background_rejection(labels, scores, signal_efficiency=0.5).value)


def test_all_weights_zero_is_nan() -> None:
    sample = ([1, 0, 1], [0.5, 0.2, 0.1])
    assert np.isnan(metrics.area_under_curve(*sample, weights=np.zeros(3)).value)
    assert np.isnan(sic.maximum_sic(*sample, weights=np.zeros(3)).value)
    assert np.isnan(metrics.background_rejection(*sample, weights=np.zeros(3), signal_efficiency=0.5).value)


def test_negative_weights_enter_as_they_are() -> None:
    labels, scores = [1, 1, 0, 0, 0], [0.9, 0.4, 0.8, 0.3, 0.2]
    found = metrics.area_under_curve(labels, scores, weights=[1, 1, -0.5, 1, 1])
    # (0.9 beats all: 1.0; 0.4 beats weight 2 of 1.5) / 2
    assert found.value == pytest.approx((1 + 2 / 1.5) / 2)


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "words"),
    [
        ([1, 0], [0.5], None, "one length"),
        ([], [], None, "one length"),
        ([1, 2], [0.5, 0.1], None, "labels must be 1"),
        ([1, 0], [0.5, np.nan], None, "scores must be numbers"),
        ([1, 0], [0.5, 0.1], [1.0, np.inf], "weights must be numbers"),
    ],
)
def test_errors_say_what_was_found(
    labels: list[int], scores: list[float], weights: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        metrics.roc_curve(labels, scores, weights=weights)  # type: ignore[arg-type]


def test_rejection_outside_the_unit_interval() -> None:
    with pytest.raises(InputError, match="signal_efficiency"):
        metrics.background_rejection([1, 0], [1, 0], signal_efficiency=1.2)


def test_pairing_denominators() -> None:
    truth = [[[0, 1], [2, 3]]] * 4
    guess = [[[1, 0], [3, 2]], [[2, 3], [0, 1]], [[0, 1], [4, 5]], [[0, 1], [4, 5]]]
    mask = [[True, True], [True, True], [True, True], [True, False]]
    found = pairing.pairing_efficiencies(truth, guess, mask)
    assert (found.event_complete.passed, found.event_complete.total) == (2, 3)
    assert found.event_all.value == 0.5
    assert found.event_partial.value == 0.75
    assert (found.resonance.passed, found.resonance.total) == (6, 7)
    assert found.event_all.uncertainty == pytest.approx(0.25)
    ordered = pairing.pairing_efficiencies(truth, guess, mask, daughters_symmetric=False)
    assert ordered.event_complete.passed == 1
    fixed = pairing.pairing_efficiencies(truth, guess, mask, resonances_symmetric=False)
    assert fixed.event_complete.passed == 1


def test_pairing_of_nothing() -> None:
    found = pairing.pairing_efficiencies(np.zeros((0, 2, 2), int), np.zeros((0, 2, 2), int), np.zeros((0, 2)))
    assert np.isnan(found.event_all.value)
    assert found.resonance.total == 0
    with pytest.raises(InputError, match="n_resonances"):
        pairing.pairing_efficiencies([[0, 1]], [[0, 1]], [True])


def test_reliability_of_perfect_probabilities() -> None:
    rng = np.random.default_rng(8)
    p = rng.uniform(0, 1, 20000)
    weights = rng.uniform(0.5, 2, len(p))
    table = calibration.reliability(rng.uniform(0, 1, len(p)) < p, p, weights=weights)
    pulls = (table.observed - table.predicted) / table.uncertainty
    assert (pulls**2).sum() < scipy_stats.chi2.isf(0.003, 10)
    assert table.expected_error == pytest.approx(table.expected_error_floor, rel=0.7)
    assert table.brier.value == pytest.approx(1 / 6, abs=4 * table.brier.uncertainty)


def test_reliability_with_empty_bins() -> None:
    table = calibration.reliability([1, 0], [1.0, 0.95])
    assert np.isnan(table.observed[:9]).all()
    assert table.observed[9] == 0.5
    assert table.expected_error == pytest.approx(0.475)
    with pytest.raises(InputError, match="ascend"):
        calibration.reliability([1, 0], [0.1, 0.2], bins=[0.0, 0.5])
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        calibration.reliability([1, 0], [0.1, 1.2])


@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_pulls(weighted: bool) -> None:
    rng = np.random.default_rng(9)
    pulls = []
    for _ in range(150):
        n = rng.poisson(500)
        logits = rng.normal(0, 1.5, n)
        labels = rng.uniform(0, 1, n) < special.expit(0.7 * logits - 0.3)
        weights = rng.exponential(1.0, n) if weighted else None
        fit = calibration.fit_calibration(labels, special.expit(logits), weights=weights)
        error = np.sqrt(np.diag(fit.covariance))
        pulls.append([(fit.slope - 0.7) / error[0], (fit.intercept + 0.3) / error[1]])
        assert fit.minuit.valid
    table = np.array(pulls)
    assert (np.abs(table.mean(axis=0)) < 3 / np.sqrt(150)).all()
    assert (np.abs(table.std(axis=0) - 1) < 3 / np.sqrt(300)).all()


def test_calibration_that_cannot_be() -> None:
    with pytest.raises(InputError, match="separate the classes"):
        calibration.fit_calibration([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1])
    with pytest.raises(InputError, match="both classes"):
        calibration.fit_calibration([1, 1], [0.9, 0.8])
    with pytest.raises(InputError, match="both classes"):
        calibration.fit_calibration([1, 0], [0.9, 0.8], weights=[0, 0])
