"""Networks and baselines for H -> aa -> 4b: one training each, and what it gives for events it has not seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.analyses.higgs_to_4b.config import HiggsTo4bConfig
from evenet_hep.analyses.higgs_to_4b.pairing import pair_by_mass
from evenet_hep.analyses.higgs_to_4b.pool import CLASSES, EventPool, SelectedEvents, choose_training
from evenet_hep.baselines.spanet import SpanetFit, fit_spanet, jet_features
from evenet_hep.baselines.xgboost import BoostedTrees, fit_xgboost
from evenet_hep.events.cloud import EventCloud
from evenet_hep.inference import Predictor
from evenet_hep.model.evenet import HEADS, EveNet, EveNetConfig
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology
from evenet_hep.training.balance import measured_schema
from evenet_hep.training.config import FinetuneConfig, LossWeights, Stage
from evenet_hep.training.finetune import extend
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import finetune

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LOSSES = {
    "classification": ("classification",),
    "assignment": ("classification", "assignment", "detection"),
    "segmentation": (
        "classification",
        "segmentation_focal",
        "segmentation_dice",
        "segmentation_classes",
        "segmentation_auxiliary",
    ),
}


class Found(NamedTuple):
    """What a method says about events.

    Parameters
    ----------
    score : float64 array, shape (n_events,), or None
        Probability of signal.
    slots : int64 array, shape (n_events, 2, 2), or None
        Slots in the cloud of the jets of either scalar; -1 where there are none.
    """

    score: FloatArray | None
    slots: IntArray | None


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network that says what it finds in clouds.

    Parameters
    ----------
    folder : Path
        Checkpoint.
    task : str
        ``"classification"``, ``"assignment"`` or ``"segmentation"``.
    """

    folder: Path
    task: str

    def predictor(self) -> Predictor:
        """The network for awkward arrays, with the heads of its task."""
        heads = ("classification",) if self.task == "classification" else ("classification", self.task)
        return Predictor(self.folder, heads=heads, device="cpu")

    def __call__(self, cloud: EventCloud) -> Found:
        """Scores and, unless the task is the class alone, pairs of every event."""
        predict = self.predictor()
        network = predict.network()
        given = dataclasses.replace(cloud, schema=network.schema)
        found = predict.predict_rows(network, given)
        slots = None
        if self.task == "assignment":
            slots = found["indices"]
        elif self.task == "segmentation":
            slots = pair_by_masks(found["segments"], found["masks"], cloud.mask)
        signal = network.schema.classes.index("signal")
        return Found(found["classification"][:, signal].astype(np.float64), slots)


def pair_by_masks(segments: npt.ArrayLike, masks: npt.ArrayLike, mask: npt.ArrayLike) -> IntArray:
    """Two pairs of objects from segments.

    Of the two queries that are most surely a scalar, the surer one takes the two objects it claims most, the other one
    the two it claims most of those that are left.

    Parameters
    ----------
    segments : float array, shape (n_events, queries, 2)
        Probability of no segment and of a scalar.
    masks : float array, shape (n_events, queries, capacity)
        Probability of an object belonging to a query.
    mask : bool array, shape (n_events, capacity)
        True for real objects.

    Returns
    -------
    int64 array, shape (n_events, 2, 2)
        -1 everywhere where there are fewer than four objects.

    Examples
    --------
    >>> masks = np.array([[[0.9, 0.1, 0.8, 0.2], [0.7, 0.6, 0.3, 0.4]]])
    >>> pair_by_masks(np.array([[[0.1, 0.9], [0.2, 0.8]]]), masks, np.ones((1, 4), bool)).tolist()
    [[[0, 2], [1, 3]]]
    """
    real = np.asarray(mask)
    claims = np.where(real[:, None], np.asarray(masks, np.float64), -1.0)
    order = np.argsort(-np.asarray(segments)[..., 1], axis=1, kind="stable")[:, :2]
    rows = np.arange(len(claims))
    first = np.argsort(-claims[rows, order[:, 0]], axis=1, kind="stable")[:, :2]
    rest = claims[rows, order[:, 1]].copy()
    np.put_along_axis(rest, first, -2.0, axis=1)
    second = np.argsort(-rest, axis=1, kind="stable")[:, :2]
    slots = np.sort(np.stack([first, second], axis=1), axis=2)
    return np.where((real.sum(axis=1) >= 4)[:, None, None], slots, -1)


def train_network(
    pool: EventPool,
    config: HiggsTo4bConfig,
    folder: Path,
    *,
    task: str,
    start: str,
    size: int,
    seed: int,
) -> Network:
    """Train one network and keep it in a folder.

    Parameters
    ----------
    pool : EventPool
        Events.
    config : HiggsTo4bConfig
        Settings of the training.
    folder : Path
        For the checkpoint.
    task : str
        What it learns beside the class.
    start : str
        ``"scratch"`` or ``"pretrained"``.
    size : int
        Training events; 0 for all.
    seed : int
        Of the events, the weights and their order.
    """
    chosen = choose_training(pool.events("train"), size, seed=seed)
    topology = Topology.shipped("higgs_to_4b")
    heads = ("classification",) if task == "classification" else ("classification", task)
    torch.manual_seed(seed)
    if start == "scratch":
        schema = measured_schema(chosen.training(EventSchema.standard(classes=CLASSES), topology))
        network = EveNet(with_heads(EveNetConfig.of_size(config.size), heads, topology=topology), schema)
        settings = config.training
    else:
        network = _pretrained(config.checkpoint, heads, topology)
        settings = config.finetuning
    train = chosen.training(network.schema, topology)
    validation = pool.events("val").training(network.schema, topology)
    finetune(network, train, validation, config=_settings(settings, config.steps, len(train), task, seed))
    network.save_pretrained(folder)
    return Network(folder, task)


def _pretrained(checkpoint: str, heads: tuple[str, ...], topology: Topology) -> EveNet:
    """A pretrained body; heads that this analysis does not need are left out, those it needs are new."""
    trained = EveNet.from_pretrained(checkpoint)
    none: dict[str, Any] = dict.fromkeys(HEADS)
    empty = dataclasses.replace(trained.config, **none)
    wanted = with_heads(empty, heads, topology=topology)
    return extend(trained, classes=CLASSES, heads={name: getattr(wanted, name) for name in HEADS}).model


def _settings(settings: FinetuneConfig, steps: int, n_events: int, task: str, seed: int) -> FinetuneConfig:
    batch_size = min(settings.batch_size, n_events)
    epochs = max(1, round(steps / max(n_events // batch_size, 1)))
    return dataclasses.replace(
        settings,
        batch_size=batch_size,
        epochs=epochs,
        warmup=min(settings.warmup, epochs / 10),
        seed=seed,
        stages=(Stage(losses=LossWeights.only(*LOSSES[task])),),
    )


@dataclasses.dataclass(frozen=True)
class Spanet:
    """SPANet trained on signal, for the pairing alone."""

    fit: SpanetFit

    def __call__(self, cloud: EventCloud) -> Found:
        """Pairs of every event, in slots of the cloud."""
        jets, slots, mask = _jets(cloud)
        found = self.fit.predict(jets, mask).objects
        back = np.take_along_axis(slots[:, None], np.maximum(found, 0).reshape(len(cloud), 1, 4), axis=2)
        return Found(None, np.where(found >= 0, back.reshape(-1, 2, 2), -1))


def train_spanet(pool: EventPool, config: HiggsTo4bConfig, *, size: int, seed: int) -> Spanet:
    """Train SPANet on the signal among the training events.

    Its own validation events are part of these: it sees no more events than a network.
    """
    chosen = choose_training(pool.events("train"), size, seed=seed)
    signal = chosen.select(chosen.is_signal)
    jets, slots, mask = _jets(signal.cloud)
    place = np.full((len(signal), signal.cloud.mask.shape[1]), -1)
    np.put_along_axis(place, slots, np.arange(slots.shape[1])[None].repeat(len(signal), 0), axis=1)
    place[~_is_jet(signal.cloud)] = -1
    flat = signal.targets.reshape(len(signal), 4)
    targets = np.where(flat >= 0, np.take_along_axis(place, np.maximum(flat, 0), axis=1), -1)
    usable = max(1, int((signal.reconstructable.any(axis=1)).sum() * (1 - config.spanet.validation_fraction)))
    batches = -(-usable // config.spanet.batch_size)
    settings = dataclasses.replace(config.spanet, seed=seed, max_epochs=max(2, round(config.steps / batches)))
    return Spanet(fit_spanet(jets, mask, targets.reshape(-1, 2, 2), config=settings))


def _is_jet(cloud: EventCloud) -> npt.NDArray[np.bool_]:
    return np.asarray(cloud.mask & (cloud.objects[..., cloud.schema.object_names.index("is_lepton")] == 0))


def _jets(cloud: EventCloud) -> tuple[FloatArray, IntArray, npt.NDArray[np.bool_]]:
    """Features of the jets for SPANet, their slots in the cloud, and which are real."""
    is_jet = _is_jet(cloud)
    width = max(int(is_jet.sum(axis=1).max(initial=1)), 4)
    slots = np.argsort(~is_jet, axis=1, kind="stable")[:, :width]
    mask = np.take_along_axis(is_jet, slots, axis=1)
    rows = np.arange(len(cloud))[:, None]
    column = {
        name: np.where(mask, cloud.objects[rows, slots, i].astype(np.float64), 0.0)
        for i, name in enumerate(cloud.schema.object_names)
    }
    momentum = column["pt"] * np.cosh(column["eta"])
    mass = np.sqrt(np.maximum(column["energy"] ** 2 - momentum**2, 0.0))
    return jet_features(column["pt"], column["eta"], column["phi"], mass, column["btag"]), slots, mask


@dataclasses.dataclass(frozen=True)
class Trees:
    """Boosted trees on what the cloud holds and on the masses of the classical pairing, for the class alone."""

    fit: BoostedTrees

    def __call__(self, cloud: EventCloud) -> Found:
        """Scores of every event."""
        return Found(self.fit.predict(event_table(cloud))[:, 1], None)


def train_trees(pool: EventPool, config: HiggsTo4bConfig, *, size: int, seed: int) -> Trees:
    """Train boosted trees on the events that a network is trained on, stopped by the same validation events."""
    chosen, held = choose_training(pool.events("train"), size, seed=seed), pool.events("val")
    settings = dataclasses.replace(config.trees, seed=seed)
    return Trees(
        fit_xgboost(
            event_table(chosen.cloud),
            chosen.is_signal.astype(int),
            weights=_positive(chosen),
            validation=(event_table(held.cloud), held.is_signal.astype(int), _positive(held)),
            config=settings,
        )
    )


def _positive(events: SelectedEvents) -> FloatArray:
    # Trees take no negative weights; generators of negative ones are rare enough to drop them here.
    return np.maximum(events.balanced_weight, 0.0)


def event_table(cloud: EventCloud) -> FloatArray:
    """Features for boosted trees, shape (n_events, n_features); NaN for what an event lacks.

    All event features of the cloud; pT, eta and flag of the six hardest jets; of the pairing by mass the masses, the
    distances and the cost; the smallest mass and distance of two jets.
    """
    jets, _, mask = _jets(cloud)
    columns: list[FloatArray] = [*cloud.event_features.T.astype(np.float64)]
    for slot in range(min(6, mask.shape[1])):
        there = mask[:, slot]
        columns += [np.where(there, jets[:, slot, feature], np.nan) for feature in (0, 1, 5)]
    columns += [np.full(len(cloud), np.nan)] * (3 * max(0, 6 - mask.shape[1]))
    four = pair_by_mass(cloud)
    columns += [*four.masses.T, *four.distances.T, four.cost]
    columns += list(_closest(jets, mask))
    return np.column_stack(columns).astype(np.float64)


def _closest(jets: FloatArray, mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Smallest mass and distance of two jets of every event, of massless jets."""
    pt, eta = np.expm1(jets[..., 0]), jets[..., 1]
    phi = np.arctan2(jets[..., 3], jets[..., 2])
    first, second = np.triu_indices(mask.shape[1], 1)
    d_eta, d_phi = eta[:, first] - eta[:, second], phi[:, first] - phi[:, second]
    d_phi = np.arctan2(np.sin(d_phi), np.cos(d_phi))
    mass = np.sqrt(np.maximum(2 * pt[:, first] * pt[:, second] * (np.cosh(d_eta) - np.cos(d_phi)), 0.0))
    there = mask[:, first] & mask[:, second]
    results = [np.where(there, each, np.inf).min(axis=1) for each in (mass, np.hypot(d_eta, d_phi))]
    return tuple(np.where(np.isfinite(each), each, np.nan) for each in results)  # type: ignore[return-value]
