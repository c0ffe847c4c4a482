"""Our assignment beside SPANet's on the all-hadronic top pairs of SPANet's example file: same events, same features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.analyses.higgs_to_4b.config import HiggsTo4bConfig
from evenet_hep.baselines.spanet import SpanetConfig, fit_spanet, jet_features
from evenet_hep.errors import FileError, InputError
from evenet_hep.evaluation.evaluate import evaluate
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import EventInput, ObjectBlock
from evenet_hep.events.labels import EventLabels
from evenet_hep.model.evenet import HEADS, EveNet, EveNetConfig
from evenet_hep.schema import EventSchema
from evenet_hep.stats.pairing import PairingEfficiencies, pairing_efficiencies
from evenet_hep.topology import Process, Resonance, Topology
from evenet_hep.training.balance import measured_schema
from evenet_hep.training.config import LossWeights, Stage
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.finetune import extend
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import finetune

PROCESS = "TTHadronics"
QUARKS = ("b", "q1", "q2")
BATCH = 64  # events per step, of all methods
TOPOLOGY = Topology(
    (Resonance("t/bqq", QUARKS, interchangeable=(("q1", "q2"),), mass=172.5, b_jets=1, jets=3, segment="t"),),
    (Process(PROCESS, (("t1", "t/bqq"), ("t2", "t/bqq"))),),
)
FloatArray = npt.NDArray[np.float64]


class TopPairs(NamedTuple):
    """Events of the file.

    Parameters
    ----------
    jets : dict of str to float64 array, shape (n_events, N)
        pt, eta, phi, mass and btag; GeV and radians.
    mask : bool array, shape (n_events, N)
    targets : int64 array, shape (n_events, 2, 3)
        Jets of b, q1 and q2 of both top quarks; -1 where there is none.
    """

    jets: dict[str, FloatArray]
    mask: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.int64]

    def select(self, where: Any) -> TopPairs:
        """Chosen events."""
        return TopPairs(
            {name: each[where] for name, each in self.jets.items()}, self.mask[where], self.targets[where]
        )


def read_top_pairs(path: str | Path) -> TopPairs:
    """Events of an HDF5 file in SPANet's layout, jets ordered by pT.

    Raises
    ------
    FileError
        If the file is not there or has another layout, or h5py is missing.
    """
    try:
        import h5py  # noqa: PLC0415  not a dependency
    except ImportError as error:
        msg = "reading SPANet's files needs h5py; pip install h5py"
        raise FileError(msg) from error
    try:
        with h5py.File(path) as file:
            source = file["INPUTS/Source"]
            jets = {name: source[name][:].astype(np.float64) for name in ("pt", "eta", "phi", "mass", "btag")}
            mask = source["MASK"][:].astype(bool)
            tops = [np.stack([file[f"TARGETS/{top}/{q}"][:] for q in QUARKS], axis=1) for top in ("t1", "t2")]
    except (OSError, KeyError) as error:
        msg = f"{path} is no file of all-hadronic top pairs in SPANet's layout: {error}"
        raise FileError(msg) from error
    return _ordered(TopPairs(jets, mask, np.stack(tops, axis=1).astype(np.int64)))


def _ordered(events: TopPairs) -> TopPairs:
    """The same with jets by falling pT, which is the order of a cloud."""
    order = np.argsort(np.where(events.mask, -events.jets["pt"], np.inf), axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    flat = events.targets.reshape(len(order), -1)
    targets = np.where(flat >= 0, np.take_along_axis(place, np.maximum(flat, 0), axis=1), -1)
    return TopPairs(
        {name: np.take_along_axis(each, order, axis=1) for name, each in events.jets.items()},
        np.take_along_axis(events.mask, order, axis=1),
        targets.reshape(events.targets.shape),
    )


def top_cloud(events: TopPairs, schema: EventSchema) -> EventCloud:
    """The jets as a cloud; there is no missing momentum in the file, so it is zero."""
    mask = events.mask
    counts = mask.sum(axis=1)
    columns = {name: each[mask].astype(np.float32) for name, each in events.jets.items()}
    columns["btag_flag"] = (columns["btag"] > 0.5).astype(np.float32)
    columns["btag"] = columns["btag_flag"]
    block = ObjectBlock("Jet", "jet", np.r_[0, np.cumsum(counts)], columns, {"charge": 0.0})
    zeros = np.zeros(len(mask), np.float32)
    return EventCloud.from_input(EventInput(len(mask), (block,), {"met": zeros, "met_phi": zeros}), schema)


def compare(events: TopPairs, config: HiggsTo4bConfig, *, method: str, seed: int) -> PairingEfficiencies:
    """Pairing of events that were not trained on: the last sixth of the file.

    Parameters
    ----------
    events : TopPairs
    config : HiggsTo4bConfig
        Size, checkpoint, rates and number of steps.
    method : str
        ``"SPANet"``, ``"scratch"`` or ``"pretrained"``.
    seed : int
        Of the weights, and of the tenth of the training events that chooses the epoch.

    Raises
    ------
    InputError
        For fewer than twelve events.
    """
    n_test = len(events.mask) // 6
    if n_test < 2:
        msg = f"there must be at least 12 top pairs; found {len(events.mask)}"
        raise InputError(msg)
    train, test = events.select(slice(0, -n_test)), events.select(slice(-n_test, None))
    usable = int(np.any(np.asarray((train.targets >= 0).all(axis=2)), axis=1).sum())
    if method == "SPANet":
        epochs = max(2, round(config.spanet_steps * BATCH / (0.9 * usable)))
        settings = SpanetConfig(seed=seed, batch_size=BATCH, max_epochs=epochs)
        fit = fit_spanet(_features(train), train.mask, train.targets, config=settings)
        found = _sorted(fit.predict(_features(test), test.mask).objects)
        truth = _sorted(test.targets)
        return pairing_efficiencies(truth, found, (truth >= 0).all(axis=2), daughters_symmetric=False)
    network = _train(train, config, method, seed)
    return evaluate(network, _labelled(test, network.schema)).pairing[PROCESS]


def _features(events: TopPairs) -> FloatArray:
    return jet_features(*(events.jets[name] for name in ("pt", "eta", "phi", "mass", "btag")))


def _sorted(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([indices[..., :1], np.sort(indices[..., 1:], axis=2)], axis=2)


def _labelled(events: TopPairs, schema: EventSchema) -> ArrayEvents:
    n = len(events.mask)
    labels = EventLabels(
        np.zeros(n, np.int16),
        events.targets.astype(np.int16),
        np.zeros((n, 0, len(schema.invisible)), np.float32),
        np.zeros((n, 0), np.bool_),
    )
    return ArrayEvents(top_cloud(events, schema), labels=labels, topology=TOPOLOGY)


def _train(events: TopPairs, config: HiggsTo4bConfig, start: str, seed: int) -> EveNet:
    whole = np.asarray((events.targets >= 0).all(axis=2))
    usable = np.flatnonzero(np.any(whole, axis=1))
    order = np.random.default_rng(seed).permutation(usable)
    n_held = max(1, round(0.1 * len(order)))
    torch.manual_seed(seed)
    if start == "scratch":
        schema = measured_schema(_labelled(events.select(order[n_held:]), EventSchema.standard()))
        network = EveNet(
            with_heads(EveNetConfig.of_size(config.size), ("assignment",), topology=TOPOLOGY, separate=True),
            schema,
        )
        rates = config.training
    else:
        trained = EveNet.from_pretrained(config.checkpoint)
        none: dict[str, Any] = dict.fromkeys(HEADS)
        empty = dataclasses.replace(trained.config, **none)
        wanted = with_heads(empty, ("assignment",), topology=TOPOLOGY, separate=True)
        network = extend(trained, classes=(), heads={name: getattr(wanted, name) for name in HEADS}).model
        rates = config.finetuning
    epochs = max(2, round(config.spanet_steps * BATCH / max(len(order) - n_held, 1)))
    settings = dataclasses.replace(
        rates,
        batch_size=BATCH,
        epochs=epochs,
        warmup=min(rates.warmup, epochs / 10),
        seed=seed,
        event_weights=False,
        monitor="val_assignment",
        stages=(Stage(losses=LossWeights.only("assignment", "detection")),),
    )
    parts = [_labelled(events.select(part), network.schema) for part in (order[n_held:], order[:n_held])]
    finetune(network, *parts, config=settings)
    return network
