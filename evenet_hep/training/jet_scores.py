"""Scores of jets by networks that have not seen them: for anomaly detection and for reweighting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.errors import InputError
from evenet_hep.model.devices import seeded
from evenet_hep.model.jets import JetNetwork
from evenet_hep.stats.reweighting import Closure, reweighting_closure, reweighting_weights
from evenet_hep.stats.weak import WeakConfig, assign_folds, train_weak_classifiers
from evenet_hep.training.jets import JetSample, JetTrainingConfig, probabilities_of, train_jets

if TYPE_CHECKING:  # it brings iminuit
    from evenet_hep.stats.cwola import RowScorer

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
MakeNetwork = Callable[[], JetNetwork]
FoldProgress = Callable[[int, Mapping[str, float]], None]

VALIDATION_PART = 5  # one in so many training events decides which epoch is kept


def _silent(_fold: int, _row: Mapping[str, float]) -> None:
    """Show no progress."""


class Reweighting(NamedTuple):
    """Weights that turn a source into a target.

    Parameters
    ----------
    weights : float64 array, shape (n_source,)
        Mean 1.
    closure : Closure
        Triangular discriminators of every feature before and after, and what equal samples would give.
    target_scores, source_scores : float64 array
        Probability of the target, by classifiers that have not seen the event.
    """

    weights: FloatArray
    closure: Closure
    target_scores: FloatArray
    source_scores: FloatArray


def scores_out_of_fold(
    first: JetSample,
    second: JetSample,
    make: MakeNetwork,
    *,
    config: JetTrainingConfig | None = None,
    n_folds: int = 5,
    folder: str | Path | None = None,
    progress: FoldProgress = _silent,
) -> tuple[FloatArray, FloatArray]:
    """Probability of every event to be of the first sample, by networks trained on the other folds.

    Parameters
    ----------
    first, second : JetSample
        Labels are not looked at. Both samples get the same total weight.
    make : callable
        A fresh network with two classes: pretrained, or from scratch.
    config : JetTrainingConfig, optional
        How each is trained.
    n_folds : int
        At least 2.
    folder : path, optional
        Where the networks are kept, one folder per fold; the same call goes on where it was cut off.
    progress : callable
        Called after every epoch with the number of the fold, from 0, and the row of
        :func:`~evenet_hep.training.jets.train_jets`.

    Returns
    -------
    float64 array, shape (n_first,) and (n_second,)
    """
    if n_folds < 2:
        msg = f"n_folds must be at least 2; found {n_folds}"
        raise InputError(msg)
    config = config or JetTrainingConfig(generation=0, smeared=0)
    samples = [
        sample._replace(label=torch.full((len(sample.label),), label))
        for label, sample in ((1, first), (0, second))
    ]
    folds = [
        assign_folds(len(s.label), n_folds, seed=config.seed + 1000003 * k) for k, s in enumerate(samples)
    ]
    scores = [np.zeros(len(s.label)) for s in samples]
    for fold in range(n_folds):
        parts = _training_parts(samples, folds, fold, config.seed)
        home = None if folder is None else Path(folder) / f"fold-{fold}"
        with seeded(config.seed * 1009 + fold):
            model = make()
        trained = train_jets(model, *parts, config, folder=home, progress=partial(progress, fold)).model
        for sample, which, found in zip(samples, folds, scores, strict=True):
            rows = torch.from_numpy(np.flatnonzero(which == fold))
            found[rows.numpy()] = probabilities_of(trained, _rows(sample, rows))[:, 1].double().numpy()
    return scores[0], scores[1]


def network_scorer(
    sample: JetSample,
    make: MakeNetwork,
    *,
    config: JetTrainingConfig | None = None,
    n_folds: int = 5,
    folder: str | Path | None = None,
    progress: FoldProgress = _silent,
) -> RowScorer:
    """A scorer for :func:`~evenet_hep.stats.cwola.search_cwola`; arguments as in :func:`scores_out_of_fold`.

    Parameters
    ----------
    sample : JetSample
        All events.
    """

    def score(window: IntArray, side_bands: IntArray) -> tuple[FloatArray, FloatArray]:
        first, second = (_rows(sample, torch.from_numpy(rows)) for rows in (window, side_bands))
        return scores_out_of_fold(
            first, second, make, config=config, n_folds=n_folds, folder=folder, progress=progress
        )

    return score


def reweight_jets(
    target: JetSample,
    source: JetSample,
    make: MakeNetwork,
    *,
    target_features: npt.ArrayLike,
    source_features: npt.ArrayLike,
    config: JetTrainingConfig | None = None,
    n_folds: int = 5,
    n_bins: int = 30,
    clip: tuple[float, float] = (0.0, 100.0),
    folder: str | Path | None = None,
    progress: FoldProgress = _silent,
) -> Reweighting:
    """Weights of a source that make it look like a target, by the likelihood ratio of a network, out of fold.

    Parameters
    ----------
    target, source : JetSample
        Jets of both, such as those of two simulations.
    make, config, n_folds, folder, progress
        As in :func:`scores_out_of_fold`.
    target_features, source_features : array-like, shape (n, n_features)
        What is compared before and after: see :func:`closure_features`.
    n_bins : int
        Of each.
    clip : tuple of two floats
        Smallest and greatest weight.
    """
    scores = scores_out_of_fold(
        target, source, make, config=config, n_folds=n_folds, folder=folder, progress=progress
    )
    return _reweighting(*scores, target_features, source_features, n_bins, clip)


def reweight_with_trees(
    target_features: npt.ArrayLike,
    source_features: npt.ArrayLike,
    *,
    config: WeakConfig | None = None,
    n_bins: int = 30,
    clip: tuple[float, float] = (0.0, 100.0),
) -> Reweighting:
    """As :func:`reweight_jets`, with boosted trees that see the features alone: the baseline.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> trees = WeakConfig(n_folds=2, n_ensemble=2, max_trees=60)
    >>> found = reweight_with_trees(rng.normal(0.5, 1, (4000, 1)), rng.normal(0, 1, (4000, 1)), config=trees)
    >>> bool(found.closure.after[0] < found.closure.before[0] / 5)
    True
    """
    found = train_weak_classifiers(target_features, source_features, config=config)
    return _reweighting(found.data, found.reference, target_features, source_features, n_bins, clip)


def closure_features(substructure: npt.ArrayLike, momentum: npt.ArrayLike) -> FloatArray:
    """Columns to compare samples of jets in: those of the substructure, and pT; a missing ratio counts as -1.

    Parameters
    ----------
    substructure : array-like, shape (n_jets, 5)
        Of a :class:`~evenet_hep.events.jet_files.JetTable`.
    momentum : array-like, shape (n_jets, 4)
        pt, eta, phi, mass of the same.
    """
    table = np.nan_to_num(np.asarray(substructure, np.float64), nan=-1.0)
    return np.column_stack([table, np.asarray(momentum, np.float64)[:, 0]])


def _reweighting(
    target_scores: FloatArray,
    source_scores: FloatArray,
    target_features: npt.ArrayLike,
    source_features: npt.ArrayLike,
    n_bins: int,
    clip: tuple[float, float],
) -> Reweighting:
    weights = reweighting_weights(source_scores, clip=clip)
    weights = weights / weights.mean()
    closure = reweighting_closure(target_features, source_features, weights, n_bins=n_bins)
    return Reweighting(weights, closure, target_scores, source_scores)


def _rows(sample: JetSample, rows: torch.Tensor) -> JetSample:
    return JetSample(*(tensor[rows] for tensor in sample))


def _training_parts(
    samples: list[JetSample], folds: list[npt.NDArray[np.intp]], fold: int, seed: int
) -> tuple[JetSample, JetSample]:
    """Training and validation events: all but one fold."""
    parts: list[list[JetSample]] = [[], []]
    for number, (sample, which) in enumerate(zip(samples, folds, strict=True)):
        rows = np.flatnonzero(which != fold)
        rows = np.random.default_rng([seed, fold, number]).permutation(rows)
        n = max(1, len(rows) // VALIDATION_PART)
        for part, chosen in zip(parts, (rows[n:], rows[:n]), strict=True):
            part.append(_rows(sample, torch.from_numpy(chosen)))
    training, validation = (JetSample(*map(torch.cat, zip(*part, strict=True))) for part in parts)
    return training, validation
