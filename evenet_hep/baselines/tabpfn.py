"""TabPFN, a network that learns a table in context, as the published bbWW study uses it.

At most 50 000 rows, drawn at random, and probabilities balanced between the classes. The weights of the network are not part of
this package: ``tabpfn`` downloads them when they are first needed, under its own licence, or takes a file that you have.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.baselines.tables import checked_labels, checked_table, checked_weights
from evenet_hep.errors import ConfigError, InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PUBLISHED_ROWS = 50_000


@dataclass(frozen=True)
class TabpfnConfig:
    """How TabPFN is run; the defaults are those of the bbWW study of EveNet."""

    max_rows: int = PUBLISHED_ROWS
    """Training events that are shown; more are drawn from at random."""
    balance_probabilities: bool = True
    """Give all classes the same weight in the probabilities, whatever their numbers of rows."""
    n_estimators: int = 8
    """Members of TabPFN's own ensemble, each with another order of features and classes."""
    weights_file: str = ""
    """File with the weights of the network; empty lets ``tabpfn`` find or download them."""
    device: str = "auto"
    """Where the network runs: ``cpu``, ``cuda`` or ``auto``."""
    batch_size: int = 10_000
    """Events that are predicted at a time."""
    seed: int = 0
    """Of the rows that are drawn and of TabPFN's ensemble."""

    def __post_init__(self) -> None:
        for name, lowest in (("max_rows", 2), ("n_estimators", 1), ("batch_size", 1)):
            if getattr(self, name) < lowest:
                msg = f"{name} must be at least {lowest}; found {getattr(self, name)}"
                raise ConfigError(msg)


class InContextTable(NamedTuple):
    """TabPFN with the rows it was shown.

    Parameters
    ----------
    estimator : tabpfn.TabPFNClassifier
    classes : int64 array, shape (n_classes,)
        Labels in the order of the columns of :meth:`predict`.
    n_features : int
        Columns that are expected.
    rows : int64 array, shape (n_rows,)
        Training events that were shown, ascending.
    batch_size : int
        Events that are predicted at a time.
    """

    estimator: Any
    classes: IntArray
    n_features: int
    rows: IntArray
    batch_size: int

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
        table = checked_table("features", features, n_features=self.n_features)
        found = [np.zeros((0, len(self.classes)))]
        for first in range(0, len(table), self.batch_size):
            part = self.estimator.predict_proba(table[first : first + self.batch_size])
            found.append(np.asarray(part, np.float64))
        return np.concatenate(found)


def fit_tabpfn(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    config: TabpfnConfig | None = None,
) -> InContextTable:
    """Show TabPFN a table of events.

    Parameters
    ----------
    features : array-like, shape (n_events, n_features)
        NaN for a missing value.
    labels : int array, shape (n_events,)
        Two or more classes.
    weights : array-like, shape (n_events,), optional
        Event weights, not negative. TabPFN knows no weights: they are the probabilities with which rows are drawn, without
        replacement, if there are more than ``max_rows``; otherwise they can only be uniform.
    config : TabpfnConfig, optional

    Returns
    -------
    InContextTable

    Raises
    ------
    InputError
        For shapes that do not fit, infinities, weights that cannot be taken into account, fewer than two classes (also among
        the rows drawn), without ``tabpfn``, or without the weights of its network.
    """
    chosen = config or TabpfnConfig()
    table = checked_table("features", features)
    index, classes = checked_labels(labels, len(table))
    rows = _draw_rows(checked_weights(weights, len(table)), chosen)
    if len(np.unique(index[rows])) < len(classes):
        msg = f"the {len(rows)} rows that were drawn must hold all {len(classes)} classes; found {len(np.unique(index[rows]))}"
        raise InputError(msg)
    estimator = _estimator(chosen)
    no_weights: tuple[type[Exception], ...] = (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        *_errors_of_tabpfn(),
    )
    try:
        estimator.fit(table[rows], index[rows])
    except no_weights as error:
        where = (
            f"{chosen.weights_file!r} cannot be used" if chosen.weights_file else "could not be downloaded"
        )
        msg = (
            f"TabPFN could not be set up; unless something else is the matter its weights {where}: "
            f"download them on another machine and give their path as weights_file. It says: {_first_line(error)}"
        )
        raise InputError(msg) from error
    return InContextTable(estimator, classes, table.shape[1], rows, chosen.batch_size)


def _draw_rows(weights: FloatArray, config: TabpfnConfig) -> IntArray:
    if len(weights) <= config.max_rows:
        if np.ptp(weights) > 1e-9 * weights.max():
            msg = f"TabPFN knows no weights: those of {len(weights)} rows (at most {config.max_rows} are shown) must be uniform"
            raise InputError(msg)
        return np.arange(len(weights))
    if np.count_nonzero(weights) < config.max_rows:
        msg = f"{config.max_rows} rows cannot be drawn from {np.count_nonzero(weights)} events with a weight; lower max_rows"
        raise InputError(msg)
    rng = np.random.default_rng(config.seed)
    return np.sort(rng.choice(len(weights), config.max_rows, replace=False, p=weights / weights.sum()))


def _estimator(config: TabpfnConfig) -> Any:
    try:
        from tabpfn import TabPFNClassifier  # noqa: PLC0415
    except ImportError as error:
        msg = "this baseline needs tabpfn; install evenet-hep[tabpfn]"
        raise InputError(msg) from error
    if config.weights_file and not Path(config.weights_file).is_file():
        msg = f"weights_file must be a file with TabPFN's weights; found nothing at {config.weights_file!r}"
        raise InputError(msg)
    return TabPFNClassifier(
        n_estimators=config.n_estimators,
        balance_probabilities=config.balance_probabilities,
        ignore_pretraining_limits=True,  # the study shows it more rows than it was trained on
        model_path=config.weights_file or "auto",
        device=config.device,
        random_state=config.seed,
    )


def _errors_of_tabpfn() -> tuple[type[Exception], ...]:
    """Errors of its own, of versions that have them: a licence that was not accepted, a gated repository."""
    try:
        from tabpfn.errors import TabPFNError  # noqa: PLC0415
    except ImportError:
        return ()
    errors: tuple[type[Exception], ...] = (TabPFNError,)
    return errors


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
