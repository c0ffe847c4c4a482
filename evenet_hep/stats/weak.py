"""Weakly supervised searches: classifiers between data and a reference that never score what they were trained on.

Data in the signal region (label 1) are compared with a reference of background (label 0):

* CWoLa: the reference is data of the side bands;
* CATHODE and its kin: the reference is generated for the mass of the signal region.

Events are dealt into folds; an ensemble of boosted trees is trained on all folds but one and scores that one, so every
score comes from trees that have not seen the event. Events outside (side bands of a CATHODE search) are scored by the
ensemble of one fold each, so that their scores fluctuate like those inside. The score of an event is the mean over the
ensemble. What to do with scores: :mod:`evenet_hep.stats.weak_search`.

Features that know the mass make a classifier sculpt a bump out of background: leave out the mass and what it can be
computed from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Scorer = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class WeakConfig:
    """How the classifiers are trained."""

    trees: Literal["scikit-learn", "xgboost"] = "scikit-learn"
    """HistGradientBoostingClassifier, or XGBClassifier from the extra ``baselines``."""
    n_folds: int = 5
    """Events of one fold are scored by the classifiers trained on the others."""
    n_ensemble: int = 10
    """Classifiers per fold; the published searches use 100."""
    max_trees: int = 300
    """Trees per classifier, unless it stops early."""
    max_depth: int = 3
    """Depth of a tree."""
    learning_rate: float = 0.1
    """Weight of a tree."""
    subsample: float = 0.7
    """Fraction of the training events that each classifier of an ensemble is given."""
    patience: int = 10
    """Trees without improvement after which training stops."""
    validation_fraction: float = 0.25
    """Part of the training events that decides when to stop."""
    seed: int = 0
    """Of folds, ensembles and trees."""

    def __post_init__(self) -> None:
        if self.trees not in ("scikit-learn", "xgboost"):
            msg = f"trees must be 'scikit-learn' or 'xgboost'; found {self.trees!r}"
            raise InputError(msg)
        for name, lowest in (("n_folds", 2), ("n_ensemble", 1), ("max_trees", 1), ("max_depth", 1)):
            if getattr(self, name) < lowest:
                msg = f"{name} must be at least {lowest}; found {getattr(self, name)}"
                raise InputError(msg)
        for name in ("subsample", "validation_fraction"):
            if not 0 < getattr(self, name) <= 1 or self.validation_fraction == 1:
                msg = f"{name} must lie between 0 and 1; found {getattr(self, name)}"
                raise InputError(msg)


class WeakScores(NamedTuple):
    """Scores near 1 for what the data have and the reference has not.

    Parameters
    ----------
    data, reference, outside : float64 array, shape (n_data,), (n_reference,), (n_outside,)
        Mean score over the ensemble.
    data_spread, reference_spread, outside_spread : float64 array
        Standard deviation over the ensemble.
    data_fold, reference_fold, outside_fold : int array
        Fold of every event; its classifiers have not seen it.
    """

    data: FloatArray
    reference: FloatArray
    outside: FloatArray
    data_spread: FloatArray
    reference_spread: FloatArray
    outside_spread: FloatArray
    data_fold: IntArray
    reference_fold: IntArray
    outside_fold: IntArray


def assign_folds(n_events: int, n_folds: int, *, seed: int) -> IntArray:
    """Deal events into folds of equal size, at random.

    Parameters
    ----------
    n_events, n_folds : int
    seed : int
        Of the random numbers.

    Returns
    -------
    int array, shape (n_events,)
        From 0 to n_folds - 1; sizes differ by one at most.

    Raises
    ------
    InputError
        For fewer events than folds.

    Examples
    --------
    >>> np.bincount(assign_folds(7, 3, seed=1)).tolist()
    [3, 2, 2]
    """
    if n_folds < 1 or n_events < n_folds:
        msg = f"every fold needs an event; found {n_events} events for {n_folds} folds"
        raise InputError(msg)
    return np.random.default_rng(seed).permutation(np.arange(n_events) % n_folds)


def train_weak_classifiers(
    data: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    outside: npt.ArrayLike | None = None,
    data_weights: npt.ArrayLike | None = None,
    reference_weights: npt.ArrayLike | None = None,
    config: WeakConfig | None = None,
) -> WeakScores:
    """Train ensembles of boosted trees between data and reference, and score everything out of fold.

    Parameters
    ----------
    data, reference : array-like, shape (n_events, n_features)
        Features of data in the signal region and of the reference; NaN for a missing value.
    outside : array-like, shape (n_outside, n_features), optional
        Further events to score.
    data_weights, reference_weights : array-like, shape (n_events,), optional
        Event weights, not negative. Whatever they are, both classes get the same total.
    config : WeakConfig, optional

    Returns
    -------
    WeakScores

    Raises
    ------
    InputError
        For shapes that do not fit, a class without events or weight, infinite features, negative weights, or trees
        whose package is not installed.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> data, reference = rng.normal(0.0, 1, (400, 1)), rng.normal(0.0, 1, (400, 1))
    >>> data[:80] += 4  # a signal
    >>> scores = train_weak_classifiers(data, reference, config=WeakConfig(n_folds=2, n_ensemble=2, max_trees=20))
    >>> bool(scores.data[:80].mean() > scores.data[80:].mean() + 0.2)
    True
    """
    chosen = WeakConfig() if config is None else config
    samples = [_features("data", data), _features("reference", reference)]
    others = samples[0][:0] if outside is None else _features("outside", outside)
    if len({x.shape[1] for x in (*samples, others)}) != 1:
        found = ", ".join(str(x.shape[1]) for x in (*samples, others))
        msg = f"data, reference and outside must have the same features; found {found} of them"
        raise InputError(msg)
    weights = [
        _event_weights("data_weights", data_weights, len(samples[0])),
        _event_weights("reference_weights", reference_weights, len(samples[1])),
    ]
    # Independent dealing: the streams of data and reference must not be the same.
    folds = [
        assign_folds(len(x), chosen.n_folds, seed=chosen.seed + 1000003 * k) for k, x in enumerate(samples)
    ]
    outer = (
        assign_folds(len(others), chosen.n_folds, seed=chosen.seed + 2000003)
        if len(others) >= chosen.n_folds
        else np.arange(len(others))
    )
    filled = [np.zeros((len(x), chosen.n_ensemble)) for x in (*samples, others)]
    for fold in range(chosen.n_folds):
        training = [k != fold for k in folds]
        x = np.concatenate([sample[kept] for sample, kept in zip(samples, training, strict=True)])
        y = np.repeat([1, 0], [kept.sum() for kept in training])
        w = _equal_totals([weight[kept] for weight, kept in zip(weights, training, strict=True)])
        for member in range(chosen.n_ensemble):
            scorer = train_classifier(x, y, w, config=chosen, member=fold * chosen.n_ensemble + member)
            for table, sample, at in zip(filled, (*samples, others), (*folds, outer), strict=True):
                table[at == fold, member] = scorer(sample[at == fold])
    means, spreads = [table.mean(axis=1) for table in filled], [table.std(axis=1) for table in filled]
    return WeakScores(
        data=means[0],
        reference=means[1],
        outside=means[2],
        data_spread=spreads[0],
        reference_spread=spreads[1],
        outside_spread=spreads[2],
        data_fold=folds[0],
        reference_fold=folds[1],
        outside_fold=outer,
    )


def train_classifier(
    features: FloatArray,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    config: WeakConfig,
    member: int = 0,
) -> Scorer:
    """One classifier of an ensemble, as a function from features to the probability of label 1.

    Parameters
    ----------
    features : float64 array, shape (n_events, n_features)
    labels : array-like, shape (n_events,)
        0 or 1, both present.
    weights : array-like, shape (n_events,)
        Event weights.
    config : WeakConfig
    member : int
        Which of the ensemble; it decides the events that are drawn and the random numbers of the trees.

    Returns
    -------
    callable
        From features (n, n_features) to scores (n,). No events give no scores.

    Raises
    ------
    InputError
        If one label is absent, or the trees' package is not installed.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> score = train_classifier(x, x[:, 0] > 0, np.ones(200), config=WeakConfig(max_trees=30))
    >>> bool(score(np.array([[0.9]]))[0] > 0.9)
    True
    """
    y, w = np.asarray(labels, int), np.asarray(weights, np.float64)
    seed = config.seed * 100003 + member
    rng = np.random.default_rng([config.seed, member])
    drawn = rng.permutation(len(y))[: max(2, round(config.subsample * len(y)))]
    if len(np.unique(y[drawn])) != 2 or min(np.bincount(y[drawn])) < 4:
        msg = f"a classifier needs at least four training events of each class; found {np.bincount(y, minlength=2).tolist()} (reference, data)"
        raise InputError(msg)
    fit = _fit_xgboost if config.trees == "xgboost" else _fit_scikit_learn
    scorer = fit(features[drawn], y[drawn], w[drawn], config, seed)
    return lambda x: np.asarray(scorer(x) if len(x) else np.zeros(0), np.float64)


def _fit_scikit_learn(x: FloatArray, y: IntArray, w: FloatArray, config: WeakConfig, seed: int) -> Scorer:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415  an extra
    except ImportError as error:
        msg = "boosted trees need scikit-learn; install evenet-hep[baselines]"
        raise InputError(msg) from error
    trees = HistGradientBoostingClassifier(
        max_iter=config.max_trees,
        max_depth=config.max_depth,
        learning_rate=config.learning_rate,
        early_stopping=True,
        n_iter_no_change=config.patience,
        validation_fraction=config.validation_fraction,
        random_state=seed % 2**32,
    )
    trees.fit(x, y, sample_weight=w)
    return lambda features: np.asarray(trees.predict_proba(features)[:, 1])


def _fit_xgboost(x: FloatArray, y: IntArray, w: FloatArray, config: WeakConfig, seed: int) -> Scorer:
    try:
        from xgboost import XGBClassifier  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  an extra
    except ImportError as error:
        msg = "trees='xgboost' needs xgboost; install evenet-hep[baselines], or use trees='scikit-learn'"
        raise InputError(msg) from error
    n_validation = max(1, round(config.validation_fraction * len(y)))
    held, used = np.arange(len(y)) < n_validation, np.arange(len(y)) >= n_validation
    trees = XGBClassifier(
        n_estimators=config.max_trees,
        max_depth=config.max_depth,
        learning_rate=config.learning_rate,
        early_stopping_rounds=config.patience,
        random_state=seed % 2**31,
        n_jobs=1,
    )
    trees.fit(
        x[used],
        y[used],
        sample_weight=w[used],
        eval_set=[(x[held], y[held])],
        sample_weight_eval_set=[w[held]],
        verbose=False,
    )
    # All trees up to the best one. Published code asks for iteration_range (0, best_iteration), which drops it.
    return lambda features: np.asarray(trees.predict_proba(features)[:, 1], np.float64)


def _features(name: str, values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.shape[1] or np.isinf(array).any():
        msg = f"{name} must have shape (n_events, n_features) without infinities; found shape {array.shape}"
        raise InputError(msg)
    return array


def _event_weights(name: str, weights: npt.ArrayLike | None, n_events: int) -> FloatArray:
    w = np.ones(n_events) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (n_events,) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        msg = f"{name} must be {n_events} finite weights, none negative and not all zero; found shape {w.shape} and sum {w.sum():g}"
        raise InputError(msg)
    return w


def _equal_totals(weights: list[FloatArray]) -> FloatArray:
    """Weights of all classes one after the other, every class with the same total, of mean 1 over all."""
    if not all(w.sum() > 0 for w in weights):
        msg = f"every class needs weight in the training folds; found sums {[float(w.sum()) for w in weights]} (data, reference)"
        raise InputError(msg)
    share = sum(len(w) for w in weights) / len(weights)
    return np.concatenate([w * (share / w.sum()) for w in weights])
