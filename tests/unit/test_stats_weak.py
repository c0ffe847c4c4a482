"""Weakly supervised searches end to end on toys: folds, scores, weights, cuts, resampling, reweighting."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.stats.resampling import pseudo_experiments, resample_data, resample_generator
from evenet_hep.stats.reweighting import (
    binned_triangular_discriminator,
    reweighting_closure,
    reweighting_weights,
)
from evenet_hep.stats.sideband import fit_sideband
from evenet_hep.stats.spectrum import mass_bins
from evenet_hep.stats.weak import WeakConfig, WeakScores, assign_folds, train_weak_classifiers
from evenet_hep.stats.weak_search import (
    cut_and_count,
    likelihood_ratio,
    likelihood_weights,
    reweighted_search,
    signal_fraction,
)

pytest.importorskip("sklearn")
BINS = mass_bins()
QUICK = WeakConfig(n_folds=3, n_ensemble=2, max_trees=12)


def events(seed: int, n: int, n_signal: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses, three features that do not know the mass, and which events are signal."""
    rng = np.random.default_rng(seed)
    masses = np.append(rng.uniform(5, 16, n), rng.normal(9.8, 0.15, n_signal))
    features = rng.normal(0, 1, (n + n_signal, 3))
    features[n:, :2] += 2.0
    return masses, features, np.arange(n + n_signal) >= n


def regions(masses: np.ndarray) -> np.ndarray:
    return (masses > 9) & (masses < 10.6)


@pytest.fixture(scope="module")
def search() -> tuple[np.ndarray, np.ndarray, WeakScores, np.ndarray]:
    """A CWoLa search: data in the window against data of the side bands."""
    masses, features, is_signal = events(1, 5000, 100)
    inside = regions(masses)
    found = train_weak_classifiers(features[inside], features[~inside], config=QUICK)
    scores = np.empty(len(masses))
    scores[inside], scores[~inside] = found.data, found.reference
    return masses, scores, found, is_signal


def test_scores_find_the_signal(search: Any) -> None:
    masses, scores, _, is_signal = search
    inside = regions(masses)
    assert scores[is_signal & inside].mean() > scores[~is_signal & inside].mean() + 0.1
    # Balanced classes: half of both look the same.
    assert np.median(scores) == pytest.approx(0.5, abs=0.05)


def test_cuts_and_weights_raise_the_significance(search: Any) -> None:
    masses, scores, found, _ = search
    options: dict[str, Any] = {"edges": BINS, "background": 3}
    uncut = fit_sideband(masses, **options)
    cuts = cut_and_count(masses, scores, found.reference, background_efficiencies=[1.0, 0.1, 0.02], **options)
    z = [cut.fit.significance for cut in cuts if cut.fit]
    assert z[0] == pytest.approx(uncut.significance)
    assert z[1] > uncut.significance + 1
    assert cuts[1].reference_passed == pytest.approx(0.1 * len(found.reference), rel=0.02)
    weighted = reweighted_search(masses, scores, **options)
    assert weighted.uncut.significance == pytest.approx(uncut.significance)
    assert weighted.fit.significance > uncut.significance + 1
    assert weighted.signal_fraction.value == pytest.approx(uncut.signal / uncut.observed)
    assert weighted.fit.minuit.valid


def test_background_alone_gives_no_discovery() -> None:
    masses, features, _ = events(2, 3000, 0)
    inside = regions(masses)
    found = train_weak_classifiers(features[inside], features[~inside], config=QUICK)
    scores = np.empty(len(masses))
    scores[inside], scores[~inside] = found.data, found.reference
    cuts = cut_and_count(
        masses, scores, found.reference, background_efficiencies=[0.2, 0.05], edges=BINS, background=3
    )
    assert all(cut.fit is not None and cut.fit.significance < 3 for cut in cuts)


def test_scores_are_out_of_fold() -> None:
    """Features that are pure noise carry no score out of fold, however deep the trees; in the fold they would."""
    rng = np.random.default_rng(3)
    data, reference = rng.normal(0, 1, (400, 4)), rng.normal(0, 1, (400, 4))
    config = WeakConfig(n_folds=2, n_ensemble=1, max_trees=20, max_depth=8, learning_rate=0.5, patience=100)
    found = train_weak_classifiers(data, reference, config=config)
    pairs = (found.data[:, None] > found.reference[None]).mean()
    assert abs(pairs - 0.5) < 3 / np.sqrt(12 * 200)


def test_seed_decides_everything_and_fold_bookkeeping() -> None:
    _, features, _ = events(4, 600, 60)
    data, reference, outside = features[:200], features[200:500], features[500:]
    a, b = (train_weak_classifiers(data, reference, outside=outside, config=QUICK) for _ in range(2))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)
    other = train_weak_classifiers(
        data, reference, outside=outside, config=WeakConfig(n_folds=3, n_ensemble=2, max_trees=12, seed=5)
    )
    assert not np.array_equal(a.data, other.data)
    assert np.bincount(a.data_fold).tolist() == [67, 67, 66]
    assert np.bincount(a.reference_fold).tolist() == [100, 100, 100]
    assert len(a.outside) == 160
    assert (a.outside_spread > 0).any()
    assert ((a.outside > 0) & (a.outside < 1)).all()


def test_class_weights_are_balanced() -> None:
    """Five times the reference, or five times its weight: equal events still score one half."""
    rng = np.random.default_rng(5)
    data, reference = rng.normal(0, 1, (300, 1)), rng.normal(0, 1, (1500, 1))
    found = train_weak_classifiers(data, reference, config=QUICK)
    assert found.data.mean() == pytest.approx(0.5, abs=0.03)
    weighted = train_weak_classifiers(
        data, reference[:300], reference_weights=np.full(300, 5.0), config=QUICK
    )
    assert weighted.data.mean() == pytest.approx(0.5, abs=0.03)


def test_folds() -> None:
    folds = assign_folds(103, 5, seed=1)
    assert sorted(np.bincount(folds)) == [20, 20, 21, 21, 21]
    assert not np.array_equal(folds, assign_folds(103, 5, seed=2))
    with pytest.raises(InputError, match="every fold needs an event"):
        assign_folds(3, 5, seed=1)


@pytest.mark.parametrize(
    ("data", "reference", "options", "words"),
    [
        (np.zeros((0, 2)), np.zeros((50, 2)), {}, "data_weights must be 0 finite weights"),
        (np.zeros((50, 2)), np.zeros((50, 3)), {}, "same features; found 2, 3, 2"),
        (np.zeros(50), np.zeros((50, 1)), {}, "data must have shape"),
        (np.full((50, 1), np.inf), np.zeros((50, 1)), {}, "without infinities"),
        (np.zeros((50, 1)), np.zeros((50, 1)), {"data_weights": np.zeros(50)}, "not all zero"),
        (np.zeros((50, 1)), np.zeros((50, 1)), {"data_weights": -np.ones(50)}, "none negative"),
        (np.zeros((3, 1)), np.zeros((50, 1)), {}, "at least four training events"),
        (np.zeros((2, 1)), np.zeros((50, 1)), {}, "every fold needs an event"),
    ],
)
def test_one_clear_sentence(data: Any, reference: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        train_weak_classifiers(data, reference, config=QUICK, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trees": "forest"}, "trees must be"),
        ({"n_folds": 1}, "n_folds must be at least 2"),
        ({"subsample": 0.0}, "subsample must lie"),
        ({"validation_fraction": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_configuration_is_checked(options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        WeakConfig(**options)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(size=(60, 1))
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(InputError, match="needs xgboost"):
        train_weak_classifiers(x, x, config=WeakConfig(trees="xgboost", n_folds=2))
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match="need scikit-learn"):
        train_weak_classifiers(x, x, config=WeakConfig(n_folds=2))


def test_xgboost_does_the_same() -> None:
    pytest.importorskip("xgboost")
    rng = np.random.default_rng(6)
    data, reference = rng.normal(0, 1, (600, 1)), rng.normal(0, 1, (600, 1))
    data[:150] += 3
    config = WeakConfig(trees="xgboost", n_folds=2, n_ensemble=2, max_trees=50)
    a, b = (train_weak_classifiers(data, reference, config=config) for _ in range(2))
    assert a.data[:150].mean() > a.data[150:].mean() + 0.2
    np.testing.assert_array_equal(a.data, b.data)


def test_separable_scores() -> None:
    data, reference = np.ones((90, 1)), np.zeros((90, 1))
    config = WeakConfig(n_folds=2, n_ensemble=1, max_trees=60)
    found = train_weak_classifiers(data, reference, config=config)
    assert found.data.min() > 0.9
    weights = likelihood_weights(np.append(found.data, 1.0), 0.5)
    assert np.isfinite(weights).all()
    assert weights[-1] == 1e9


def test_likelihood_ratio_undoes_the_mixture() -> None:
    """For exact scores of a mixture the ratio of signal to background comes back."""
    x = np.linspace(-2, 2, 9)
    signal, background, mu = np.exp(-((x - 1) ** 2)), np.exp(-(x**2)), 0.3
    data = mu * signal + (1 - mu) * background
    np.testing.assert_allclose(likelihood_ratio(data / (data + background), mu), signal / background)
    edge = (1 - mu) / (2 - mu)
    assert likelihood_weights([edge, edge - 0.01], mu) == pytest.approx([0, 0])
    assert likelihood_ratio(0.5, mu) == pytest.approx(1)
    with pytest.raises(InputError, match="signal fraction"):
        likelihood_ratio([0.5], 0.0)
    with pytest.raises(InputError, match="scores must lie"):
        likelihood_weights([1.5], 0.5)


def test_signal_fraction_pull() -> None:
    rng = np.random.default_rng(7)
    pulls = []
    for _ in range(40):
        masses = np.append(rng.uniform(5, 16, rng.poisson(6000)), rng.normal(9.8, 0.1, rng.poisson(300)))
        found = signal_fraction(fit_sideband(masses, edges=BINS, background=1))
        expected = 6000 * 1.6 / 11
        pulls.append((found.value - 300 / (300 + expected)) / found.uncertainty)
    assert abs(np.mean(pulls)) < 3 / np.sqrt(40)
    assert abs(np.std(pulls) - 1) < 3 / np.sqrt(80)


def test_searches_that_cannot_be() -> None:
    rng = np.random.default_rng(8)
    masses = rng.uniform(5, 16, 2000)
    masses = masses[(masses < 9.3) | (masses > 10.3)]
    options: dict[str, Any] = {"edges": BINS, "background": 1}
    with pytest.raises(InputError, match="without an excess"):
        reweighted_search(masses, np.full(len(masses), 0.6), **options)
    assert reweighted_search(masses, np.full(len(masses), 0.6), mu=0.2, **options).fit.significance == 0
    with pytest.raises(InputError, match="every mass needs a score"):
        reweighted_search(masses, [0.5], **options)
    with pytest.raises(InputError, match="efficiencies"):
        cut_and_count(masses, masses * 0, [0.5], background_efficiencies=[0.0], **options)
    nothing = fit_sideband(masses[(masses < 9) | (masses > 10.6)], **options)
    with pytest.raises(InputError, match="events in the window"):
        signal_fraction(nothing)


def test_cut_that_leaves_nothing_says_so() -> None:
    rng = np.random.default_rng(9)
    cuts = cut_and_count(
        rng.uniform(5, 16, 500),
        rng.uniform(0, 0.5, 500),
        rng.uniform(0, 1, 500),
        background_efficiencies=[0.1],
        edges=BINS,
        background=1,
    )
    assert cuts[0].fit is None
    assert "empty" in cuts[0].failure


def test_data_bootstrap_has_the_error_of_data() -> None:
    """The spread of a yield over data bootstraps is its Poisson error; the generator does not move it at all."""
    data, generated = np.arange(900.0), [np.arange(50.0), np.arange(60.0)]
    counts = pseudo_experiments(lambda d, g: len(d), data, generated, resample="data", n_replicas=400, seed=1)
    assert counts.resample == "data"
    assert np.std(counts.values) == pytest.approx(30, abs=3 * 30 / np.sqrt(800))
    assert (counts.upper - counts.lower) / 2 == pytest.approx(30, rel=0.2)
    fixed = pseudo_experiments(
        lambda d, g: len(d), data, generated, resample="generator", n_replicas=20, seed=1
    )
    assert (fixed.values == 900).all()
    turns = pseudo_experiments(
        lambda d, g: len(g), data, generated, resample="generator", n_replicas=4, seed=1
    )
    assert turns.values.tolist() == [50, 60, 50, 60]


def test_failed_replicas_are_counted() -> None:
    found = pseudo_experiments(
        lambda d, g: np.nan if len(d) % 2 else 1.0,
        np.arange(50),
        np.arange(9),
        resample="data",
        n_replicas=50,
        seed=2,
    )
    assert 5 < found.n_failed < 45
    assert found.median == 1
    nothing = pseudo_experiments(
        lambda d, g: np.nan, np.arange(5), np.arange(9), resample="data", n_replicas=3, seed=2
    )
    assert np.isnan(nothing.median)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resample": "both", "n_replicas": 2}, "resample must be"),
        ({"resample": "data", "n_replicas": 0}, "at least one replica"),
        ({"resample": "generator", "n_replicas": 2}, "several generated sets, or n_chosen"),
        ({"resample": "generator", "n_replicas": 2, "n_chosen": 99}, "n_chosen must be between"),
    ],
)
def test_resampling_is_named(options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pseudo_experiments(lambda d, g: 0.0, [1.0], np.arange(9), seed=1, **options)


def test_resampled_indices() -> None:
    chosen = resample_generator(100, 40, seed=1)
    assert len(np.unique(chosen)) == 40
    totals = [len(resample_data(400, seed=[3, k])) for k in range(300)]
    assert np.std(totals) == pytest.approx(20, abs=3 * 20 / np.sqrt(600))


def test_reweighting_closes() -> None:
    """A classifier between two Gaussians, its weights out of fold, and the distance that is left."""
    rng = np.random.default_rng(10)
    target, source = rng.normal(0.5, 1, (4000, 2)), rng.normal(0.0, 1, (4000, 2))
    config = WeakConfig(n_folds=2, n_ensemble=1, max_trees=60)
    scores = train_weak_classifiers(target, source, config=config)
    weights = reweighting_weights(scores.reference)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    closure = reweighting_closure(target, source, weights)
    assert (closure.after < closure.before / 10).all()
    assert (closure.after < 4 * closure.floor).all()


def test_floor_of_the_closure() -> None:
    rng = np.random.default_rng(11)
    found = [
        reweighting_closure(rng.normal(size=(3000, 1)), rng.normal(size=(2000, 1)), rng.uniform(0, 2, 2000))
        for _ in range(60)
    ]
    after = np.array([c.after[0] for c in found])
    floor = np.mean([c.floor[0] for c in found])
    assert after.mean() == pytest.approx(floor, abs=3 * after.std() / np.sqrt(60))


def test_unbalanced_training() -> None:
    z = np.array([0.25, 0.5])
    np.testing.assert_allclose(reweighting_weights(z, n_data=100, n_mc=300), 3 * z / (1 - z))
    for options in ({"n_data": 5}, {"n_data": 0, "n_mc": 1}):
        with pytest.raises(InputError, match="go together"):
            reweighting_weights(z, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scores must lie"):
        reweighting_weights([-0.1])


def test_triangular_discriminator_laws() -> None:
    rng = np.random.default_rng(12)
    p, q = rng.integers(0, 9, 20), rng.integers(0, 9, 20)
    assert binned_triangular_discriminator(p, q) == pytest.approx(binned_triangular_discriminator(q, 5 * p))
    assert binned_triangular_discriminator(p, p) == 0
    with pytest.raises(InputError, match="neither negative nor empty"):
        binned_triangular_discriminator([0, 0], [1, 1])
    with pytest.raises(InputError, match="same features"):
        reweighting_closure(np.ones((4, 2)), np.ones((4, 1)), np.ones(4))
    with pytest.raises(InputError, match="weights must be 4"):
        reweighting_closure(np.ones((4, 1)), np.ones((4, 1)), np.zeros(4))
