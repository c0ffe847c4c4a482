"""Boosted trees on engineered features, with the settings of the published bbWW study.

4000 trees of depth 4 with a learning rate of 0.03, at least a weight of 5 in every leaf, 70 % of events and features for
each tree, L2 regularisation of 2, stopped after 200 trees without improvement on events that are held out. Released code
of another study predicts with ``iteration_range=(0, best_iteration)``, which leaves out the best tree itself; here all trees up
to the best one count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.baselines.tables import balanced, checked_labels, checked_table, checked_weights, held_out
from evenet_hep.errors import ConfigError, InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class XgboostConfig:
    """How the trees are grown; the defaults are those of the bbWW study of EveNet."""

    max_trees: int = 4000
    """Trees, unless training stops early."""
    learning_rate: float = 0.03
    """Weight of a tree."""
    max_depth: int = 4
    """Depth of a tree."""
    min_child_weight: float = 5.0
    """Smallest sum of second derivatives in a leaf."""
    subsample: float = 0.7
    """Fraction of the events that each tree is given."""
    feature_fraction: float = 0.7
    """Fraction of the features that each tree is given."""
    l2: float = 2.0
    """L2 regularisation of the values of the leaves."""
    patience: int = 200
    """Trees without improvement after which training stops."""
    validation_fraction: float = 0.2
    """Part of every class that decides when to stop, unless validation events are handed over."""
    balance: bool = True
    """Give all classes the same total weight, so that a score does not depend on how many events were generated."""
    n_threads: int = 1
    """Threads; the trees are the same for any number."""
    seed: int = 0
    """Of the held-out events and of the trees."""

    def __post_init__(self) -> None:
        for name in ("max_trees", "max_depth", "patience", "n_threads"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1; found {getattr(self, name)}"
                raise ConfigError(msg)
        for name in ("learning_rate", "subsample", "feature_fraction"):
            if not 0 < getattr(self, name) <= 1:
                msg = f"{name} must be above 0 and at most 1; found {getattr(self, name)}"
                raise ConfigError(msg)
        if not 0 < self.validation_fraction < 1:
            msg = f"validation_fraction must lie between 0 and 1; found {self.validation_fraction}"
            raise ConfigError(msg)
        for name in ("min_child_weight", "l2"):
            if getattr(self, name) < 0:
                msg = f"{name} must not be negative; found {getattr(self, name)}"
                raise ConfigError(msg)


class BoostedTrees(NamedTuple):
    """Trained trees.

    Parameters
    ----------
    booster : xgboost.Booster
        All trees, also those after the best one.
    classes : int64 array, shape (n_classes,)
        Labels in the order of the columns of :meth:`predict`.
    n_features : int
        Columns that are expected.
    best_tree : int
        Number of the tree (from 0) after which the validation loss was lowest.
    validation_loss : float64 array, shape (n_trees,)
        Cross-entropy of the held-out events after every tree.
    """

    booster: Any
    classes: IntArray
    n_features: int
    best_tree: int
    validation_loss: FloatArray

    def predict(self, features: npt.ArrayLike) -> FloatArray:
        """Probability of every class.

        Parameters
        ----------
        features : array-like, shape (n_events, n_features)
            NaN for a missing value.

        Returns
        -------
        float64 array, shape (n_events, n_classes)
            Rows add up to 1; no rows for no events.

        Raises
        ------
        InputError
            For other features than in training.
        """
        import xgboost  # noqa: PLC0415  an extra

        table = checked_table("features", features, n_features=self.n_features)
        if not len(table):
            return np.zeros((0, len(self.classes)))
        found = self.booster.predict(xgboost.DMatrix(table), iteration_range=(0, self.best_tree + 1))
        return np.asarray(found, np.float64)


def fit_xgboost(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None] | None = None,
    config: XgboostConfig | None = None,
    progress: bool = False,
) -> BoostedTrees:
    """Train boosted trees to tell classes apart.

    Parameters
    ----------
    features : array-like, shape (n_events, n_features)
        NaN for a missing value, as :func:`evenet_hep.events.tabular.feature_matrix` returns it. For a parametrised
        classifier add the masses as columns.
    labels : int array, shape (n_events,)
        Two or more classes.
    weights : array-like, shape (n_events,), optional
        Event weights, not negative.
    validation : tuple of features, labels and weights (or None), optional
        Events that decide when to stop; part of the training events by default.
    config : XgboostConfig, optional
    progress : bool
        Show a progress bar.

    Returns
    -------
    BoostedTrees
        Of the same input and configuration always the same.

    Raises
    ------
    InputError
        For shapes that do not fit, infinities, negative weights, fewer than two classes, or without xgboost.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> labels = np.arange(1000) % 2
    >>> trees = fit_xgboost(rng.normal(labels[:, None], 1.0, (1000, 2)), labels, config=XgboostConfig(max_trees=50))
    >>> bool(trees.predict([[2.0, 2.0]])[0, 1] > 0.7)
    True
    """
    try:
        import xgboost  # noqa: PLC0415  an extra
    except ImportError as error:
        msg = "this baseline needs xgboost; install evenet-hep[baselines]"
        raise InputError(msg) from error
    chosen = config or XgboostConfig()
    table = checked_table("features", features)
    index, classes = checked_labels(labels, len(table))
    weight = checked_weights(weights, len(table))
    if validation is None:
        held = held_out(index, chosen.validation_fraction, seed=chosen.seed)
        parts = [(table[part], index[part], weight[part]) for part in (~held, held)]
    else:
        parts = [(table, index, weight), _validation_events(validation, table.shape[1], classes)]
    if chosen.balance:
        parts = [(x, y, balanced(y, w)) for x, y, w in parts]
    train, held_events = (xgboost.DMatrix(x, y, weight=w) for x, y, w in parts)
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        _parameters(chosen, len(classes)),
        train,
        chosen.max_trees,
        evals=[(held_events, "validation")],
        early_stopping_rounds=chosen.patience,
        evals_result=history,
        verbose_eval=False,
        callbacks=[_progress_bar(chosen.max_trees)] if progress else None,
    )
    loss = np.array(history["validation"]["mlogloss"])
    return BoostedTrees(booster, classes, table.shape[1], int(booster.best_iteration), loss)


def _parameters(config: XgboostConfig, n_classes: int) -> dict[str, Any]:
    return {
        "objective": "multi:softprob",
        "num_class": n_classes,
        "eval_metric": "mlogloss",
        "tree_method": "hist",
        "eta": config.learning_rate,
        "max_depth": config.max_depth,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.feature_fraction,
        "lambda": config.l2,
        "nthread": config.n_threads,
        "seed": config.seed,
    }


def _validation_events(
    validation: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None], n_features: int, classes: IntArray
) -> tuple[FloatArray, IntArray, FloatArray]:
    features, labels, weights = validation
    table = checked_table("validation features", features, n_features=n_features)
    index, found = checked_labels(labels, len(table))
    if not np.array_equal(found, classes):
        msg = f"validation must hold the classes of training, {classes.tolist()}; found {found.tolist()}"
        raise InputError(msg)
    return table, index, checked_weights(weights, len(table))


def _progress_bar(max_trees: int) -> Any:
    from rich.progress import Progress  # noqa: PLC0415
    from xgboost.callback import TrainingCallback  # noqa: PLC0415

    class Bar(TrainingCallback):  # type: ignore[misc,unused-ignore]
        def before_training(self, model: Any) -> Any:
            self.bar = Progress(transient=True)
            self.task = self.bar.add_task("trees", total=max_trees)
            self.bar.start()
            return model

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            self.bar.update(self.task, completed=epoch + 1)
            return False

        def after_training(self, model: Any) -> Any:
            self.bar.stop()
            return model

    return Bar()
