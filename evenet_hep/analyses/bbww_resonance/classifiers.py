"""Classifiers of the comparison: all are trained on the same events of the same folds, and score those they have not seen."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.analyses.bbww_resonance.config import NETWORKS, BbwwConfig
from evenet_hep.analyses.bbww_resonance.events import (
    CLASSES,
    BbwwEvents,
    IntArray,
    MassPoint,
    schema_of,
)
from evenet_hep.baselines.tabpfn import fit_tabpfn
from evenet_hep.baselines.xgboost import fit_xgboost
from evenet_hep.inference import Predictor
from evenet_hep.model.evenet import HEADS, EveNet, EveNetConfig
from evenet_hep.schema import Feature
from evenet_hep.training.balance import measured_schema
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.finetune import extend
from evenet_hep.training.parametrised import ParametrisedEvents, mass_features
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import finetune

FloatArray = npt.NDArray[np.float64]
Numbers = dict[str, Any]

MASSES = ("mass_x", "mass_y")


@functools.lru_cache(maxsize=2)
def load_events(path: str) -> BbwwEvents:
    """The selected events, read once per process."""
    return BbwwEvents.load(Path(path))


def train_and_score(
    path: str, home: str, config: BbwwConfig, method: str, point: MassPoint | None, seed: int
) -> Numbers:
    """Train a classifier for every fold, and score every event with the one that has not seen it.

    Parameters
    ----------
    path : str
        Of the selected events.
    home : str
        Folder for the classifiers, ``fold0`` and so on, and ``scores.npz``: one array per point, in the order of
        :meth:`BbwwEvents.rows`.
    config : BbwwConfig
    method : str
        Of :data:`~evenet_hep.analyses.bbww_resonance.config.METHODS`.
    point : MassPoint or None
        None for the network that is told the masses.
    seed : int
        Of this training.

    Returns
    -------
    dict
        ``seconds``, and ``epochs`` or ``trees`` (mean over the folds).
    """
    events, start = load_events(path), time.perf_counter()
    points = events.points if point is None else (point,)
    scores = {each.name: np.full(len(events.rows(each)), np.nan) for each in points}
    lengths = []
    for fold in range(config.folds):
        place = Path(home) / f"fold{fold}"
        lengths.append(train_fold(events, config, method, point, fold, seed, place))
        for each in points:
            rows = events.rows(each)
            inside = events.fold[rows] == fold
            scores[each.name][inside] = score_events(events, method, each, rows[inside], place)
            forget(place, keep=method != "tabpfn")
    save_scores(Path(home) / "scores.npz", scores)
    unit = "epochs" if method in NETWORKS else "trees"
    return {"seconds": time.perf_counter() - start, unit: float(np.mean(lengths))}


def train_fold(
    events: BbwwEvents,
    config: BbwwConfig,
    method: str,
    point: MassPoint | None,
    fold: int,
    seed: int,
    place: Path,
) -> int:
    """Train on all folds but one, keep the classifier at ``place``, and return its epochs or trees."""
    rows = np.arange(len(events)) if point is None else events.rows(point)
    rows = rows[events.fold[rows] != fold]
    held = events.validation(config.validation_fraction, seed)[rows]
    place.mkdir(parents=True, exist_ok=True)
    if method in NETWORKS:
        return _train_network(events, config, method, rows[~held], rows[held], seed, place)
    if method == "xgboost":
        return _train_trees(events, config, rows[~held], rows[held], seed, place)
    _IN_CONTEXT[str(place)] = fit_tabpfn(
        # TabPFN knows no weights, and there is nothing to stop: it is shown all events, classes balanced by itself.
        events.features[rows],
        events.is_signal[rows].astype(int),
        config=dataclasses.replace(config.tabpfn, seed=config.tabpfn.seed + seed),
    )
    return 0


def score_events(
    events: BbwwEvents,
    method: str,
    point: MassPoint,
    rows: IntArray,
    place: Path,
) -> FloatArray:
    """Probability of signal of some events by the classifier at ``place``, between 0 and 1."""
    if method in NETWORKS:
        predict = Predictor(place, device="cpu")
        added = np.broadcast_to([point.m_x, point.m_y], (len(rows), 2)) if method == "parametrised" else None
        out = predict(events.cloud(rows, predict.schema, added))
        return np.asarray(out.classification.signal, np.float64)
    if method == "xgboost":
        return _predict_trees(place, events.features[rows])
    return np.asarray(_IN_CONTEXT[str(place)].predict(events.features[rows])[:, 1])


# TabPFN keeps its training events as they are; written to disk they would be nothing but a copy of them.
_IN_CONTEXT: dict[str, Any] = {}


def forget(place: Path, *, keep: bool) -> None:
    """Drop what a classifier holds in memory."""
    if not keep:
        _IN_CONTEXT.pop(str(place), None)


def save_scores(path: Path, scores: dict[str, FloatArray]) -> None:
    """Write scores by point, complete or not at all.

    Raises
    ------
    FloatingPointError
        If an event has no score.
    """
    missing = {name: int(np.isnan(values).sum()) for name, values in scores.items() if np.isnan(values).any()}
    if missing:
        msg = f"events without a score: {missing}"
        raise FloatingPointError(msg)
    fresh = path.with_name(".scores.part.npz")
    np.savez(fresh, **scores)  # type: ignore[arg-type]  # no score is called allow_pickle
    fresh.replace(path)


def _weights(events: BbwwEvents, rows: IntArray) -> FloatArray:
    """For training: background as expected, every signal event the same, none negative.

    Signal is not weighted by its point, as the masses that background is told are drawn from all signal events alike.
    """
    return np.where(events.is_signal[rows], 1.0, np.abs(events.weight[rows]))


def _labels(events: BbwwEvents, rows: IntArray) -> IntArray:
    return np.where(events.is_signal[rows], CLASSES.index("signal"), CLASSES.index("background"))


def _train_network(
    events: BbwwEvents,
    config: BbwwConfig,
    method: str,
    train: IntArray,
    val: IntArray,
    seed: int,
    place: Path,
) -> int:
    schema = schema_of(config)
    sets = [
        ArrayEvents(events.cloud(rows, schema), _labels(events, rows), weight=_weights(events, rows))
        for rows in (train, val)
    ]
    added = mass_features([point[1:] for point in events.points], MASSES) if method == "parametrised" else ()
    model = start_network(config, method, sets[0], added, seed)
    if method == "parametrised":
        # The masses are an input, so the features must not be changed where they are counted: by rows.
        sets = [
            ParametrisedEvents(each, added, signal=("signal",), masses=_known(events, rows))  # type: ignore[misc]
            for each, rows in zip(sets, (train, val), strict=True)
        ]
    settings = dataclasses.replace(config.training(method), seed=seed)
    history = finetune(model, *sets, config=settings)
    model.save_pretrained(place)
    return len(history.epochs)


def _known(events: BbwwEvents, rows: IntArray) -> FloatArray:
    # Those of background are not looked at, but a NaN would not pass as a feature.
    return np.nan_to_num(events.masses()[rows], nan=1.0)


def start_network(
    config: BbwwConfig, method: str, train: ArrayEvents, added: tuple[Feature, ...], seed: int
) -> EveNet:
    """The network before its training: pretrained with a new head, or new altogether.

    Parameters
    ----------
    config : BbwwConfig
    method : str
        ``finetuned``, ``scratch`` or ``parametrised``; the last is pretrained if there is a checkpoint.
    train : ArrayEvents
        Training events, which a new network takes its means and widths from; a pretrained one keeps its own.
    added : tuple of Feature
        Event features that it is told besides.
    seed : int
        Of the new weights.
    """
    torch.manual_seed(seed)
    if method == "scratch" or not config.checkpoint:
        network = EveNetConfig.of_size(config.size)
        if config.checkpoint:  # the same network, so that the start is all that differs
            network = EveNet.from_pretrained(config.checkpoint).config
        model = EveNet(with_heads(network, ("classification",)), measured_schema(train))
        return extend(model, added=added).model if added else model
    model = EveNet.from_pretrained(config.checkpoint)
    wanted = with_heads(model.config, ("classification",))
    dropped: dict[str, Any] = {name: None for name in HEADS if getattr(model.config, name) is not None}
    heads = dropped | {"classification": wanted.classification}
    tuned = extend(model, adapter=config.adapter, added=added, classes=CLASSES, heads=heads).model
    if config.reset_object_encoder:
        fresh = EveNet(tuned.config, tuned.schema)
        tuned.object_encoder.load_state_dict(fresh.object_encoder.state_dict())
    return tuned


def _train_trees(
    events: BbwwEvents, config: BbwwConfig, train: IntArray, val: IntArray, seed: int, place: Path
) -> int:
    parts = [
        (events.features[rows], events.is_signal[rows].astype(int), _weights(events, rows))
        for rows in (train, val)
    ]
    settings = dataclasses.replace(config.xgboost, seed=config.xgboost.seed + seed)
    x, y, w = parts[0]
    trees = fit_xgboost(x, y, weights=w, validation=parts[1], config=settings)
    best = trees.booster[: trees.best_tree + 1]
    best.save_model(place / "trees.json")
    return trees.best_tree + 1


def _predict_trees(place: Path, features: FloatArray) -> FloatArray:
    import xgboost  # noqa: PLC0415  an extra

    booster = xgboost.Booster(model_file=place / "trees.json")
    return np.asarray(booster.predict(xgboost.DMatrix(features))[:, 1], np.float64)
