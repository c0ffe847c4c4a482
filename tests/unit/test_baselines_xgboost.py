"""Boosted trees with the published settings: what they learn, what decides when they stop, and what they refuse."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from evenet_hep.baselines.tables import balanced, checked_labels, checked_table, checked_weights, held_out
from evenet_hep.baselines.xgboost import XgboostConfig, fit_xgboost
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.stats.metrics import area_under_curve

pytest.importorskip("xgboost")

QUICK = XgboostConfig(max_trees=60, learning_rate=0.1, patience=20)


def normal_events(n: int, seed: int, *, signal_fraction: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two features whose means differ by 1 in both; the best AUC is Phi(1)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < signal_fraction).astype(int)
    return rng.normal(labels[:, None], 1.0, (n, 2)), labels


def test_the_published_settings() -> None:
    c = XgboostConfig()
    settings = (
        c.max_trees,
        c.learning_rate,
        c.max_depth,
        c.min_child_weight,
        c.subsample,
        c.feature_fraction,
    )
    assert settings == (4000, 0.03, 4, 5.0, 0.7, 0.7)
    assert (c.l2, c.patience) == (2.0, 200)


def test_trees_come_close_to_the_best_there_is() -> None:
    trees = fit_xgboost(*normal_events(8000, 1), config=XgboostConfig(max_trees=300, patience=50))
    features, labels = normal_events(20000, 2)
    scores = trees.predict(features)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)
    assert area_under_curve(labels, scores[:, 1]).value == pytest.approx(0.8413, abs=0.012)  # Phi(1)
    # Probabilities, not only an order: where they say 0.7, about 70 % are signal.
    near = np.abs(scores[:, 1] - 0.7) < 0.05
    assert labels[near].mean() == pytest.approx(0.7, abs=0.05)


def test_training_stops_early_and_keeps_the_best_tree() -> None:
    x, y = normal_events(400, 3)
    trees = fit_xgboost(x, y, config=XgboostConfig(max_trees=2000, learning_rate=0.3, patience=15))
    assert trees.best_tree == int(np.argmin(trees.validation_loss))
    assert len(trees.validation_loss) == trees.best_tree + 16 < 2000
    held = held_out(y, 0.2, seed=0)
    p = trees.predict(x[held])[np.arange(held.sum()), y[held]]
    loss = -np.average(np.log(p), weights=balanced(y[held], np.ones(held.sum())))
    # The loss of what predict uses is the lowest that was seen: the best tree itself counts.
    assert loss == pytest.approx(trees.validation_loss.min(), abs=1e-5)


def test_validation_events_may_be_given() -> None:
    x, y = normal_events(600, 4)
    other_x, other_y = normal_events(600, 5)
    trees = fit_xgboost(x, y, validation=(other_x, other_y, None), config=QUICK)
    p = trees.predict(other_x)[np.arange(600), other_y]
    loss = -np.average(np.log(p), weights=balanced(other_y, np.ones(600)))
    assert loss == pytest.approx(trees.validation_loss[trees.best_tree], abs=1e-5)
    with pytest.raises(
        InputError, match=r"validation must hold the classes of training, \[0, 1\]; found \[1, 2\]"
    ):
        fit_xgboost(x, y, validation=(other_x, other_y + 1, None), config=QUICK)


def test_same_seed_same_trees_for_any_number_of_threads() -> None:
    x, y = normal_events(800, 6)
    first, again, threads, other = (
        fit_xgboost(x, y, config=XgboostConfig(max_trees=30, n_threads=n, seed=seed)).predict(x)
        for n, seed in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, threads)
    assert not np.array_equal(first, other)


def test_classes_are_balanced_unless_told_otherwise() -> None:
    x, y = normal_events(6000, 7, signal_fraction=0.05)
    scores = {
        b: fit_xgboost(x, y, config=XgboostConfig(60, 0.1, balance=b)).predict(x)[:, 1] for b in (True, False)
    }
    assert np.average(scores[True], weights=balanced(y, np.ones(len(y)))) == pytest.approx(0.5, abs=0.03)
    assert scores[False].mean() == pytest.approx(0.05, abs=0.01)


def test_weights_move_the_odds() -> None:
    x, y = normal_events(4000, 8)
    w = np.where(y == 1, 3.0, 1.0)
    scores = fit_xgboost(x, y, weights=w, config=XgboostConfig(60, 0.1, balance=False)).predict(x)[:, 1]
    assert np.average(scores, weights=w) == pytest.approx(0.75, abs=0.03)


def test_several_classes_missing_values_and_labels_of_any_number() -> None:
    rng = np.random.default_rng(9)
    labels = np.array([4, 7, 9])[np.arange(1500) % 3]
    features = rng.normal(labels[:, None], 1.0, (1500, 2))
    features[::10, 0] = np.nan
    trees = fit_xgboost(features, labels, config=QUICK)
    assert trees.classes.tolist() == [4, 7, 9]
    assert trees.classes[trees.predict([[np.nan, 4.0], [7.0, 7.0], [9.0, 9.0]]).argmax(axis=1)].tolist() == [
        4,
        7,
        9,
    ]
    assert trees.predict(np.zeros((0, 2))).shape == (0, 3)


def test_a_progress_bar_changes_nothing() -> None:
    x, y = normal_events(200, 10)
    quiet, shown = (fit_xgboost(x, y, config=QUICK, progress=p).predict(x) for p in (False, True))
    np.testing.assert_array_equal(quiet, shown)


X, Y = normal_events(40, 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": X[:, 0]}, r"features must have shape \(n_events, n_features\); found \(40,\)"),
        ({"features": np.where(X > 1, np.inf, X)}, "NaN or finite; found inf in column"),
        ({"labels": Y[:-1]}, "labels must be 40 whole numbers"),
        ({"labels": Y + 0.5}, "whole numbers; found float64"),
        ({"labels": np.ones(40, int)}, r"at least two classes; found \[1\]"),
        ({"weights": -np.ones(40)}, "none negative; found shape .* smallest -1"),
        ({"weights": np.zeros(40)}, "not all be zero"),
        ({"weights": np.where(Y, 1.0, 0.0)}, "every class needs weight"),
        ({"labels": (np.arange(40) == 3).astype(int)}, "every class needs at least two events"),
    ],
)
def test_tables_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_xgboost(**{"features": X, "labels": Y, **arguments}, config=QUICK)


def test_other_features_than_in_training() -> None:
    with pytest.raises(InputError, match=r"shape \(n_events, 2\); found \(1, 3\)"):
        fit_xgboost(X, Y, config=QUICK).predict([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    "option",
    [
        {"max_trees": 0},
        {"learning_rate": 0.0},
        {"validation_fraction": 1.0},
        {"l2": -1.0},
        {"subsample": 1.5},
    ],
)
def test_settings_that_cannot_be(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        XgboostConfig(**option)


def test_without_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(InputError, match=r"needs xgboost; install evenet-hep\[baselines\]"):
        fit_xgboost(X, Y)


def test_pieces() -> None:
    with pytest.raises(InputError, match="must be finite; found nan in column 1"):
        checked_table("features", [[1.0, np.nan]], missing=False)
    assert checked_labels([True, False], 2)[1].tolist() == [0, 1]
    assert checked_weights(None, 0).shape == (0,)
    held = held_out(np.repeat([0, 1], [1000, 10]), 0.2, seed=1)
    assert (held[:1000].sum(), held[1000:].sum()) == (200, 2)
