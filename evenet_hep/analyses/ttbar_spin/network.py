"""Training of the network of the spin analysis: which b jet belongs to which top, and where the neutrinos went."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import awkward as ak
import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.analyses.ttbar_spin.sample import SpinSample
from evenet_hep.errors import ConfigError
from evenet_hep.events.labels import EventLabels
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.processors.ttbar_spin import TOPOLOGY
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology
from evenet_hep.training.balance import measured_schema
from evenet_hep.training.config import FinetuneConfig, LossWeights, Stage
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.finetune import extend
from evenet_hep.training.history import History
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import finetune

IntArray = npt.NDArray[np.int64]

HEADS = ("assignment", "invisible_generation")
CLASS = "TT"
# As preset task3, with more rapid learning: the default sample has a hundredth of the published one's events.
TRAINING = FinetuneConfig(
    epochs=14,
    batch_size=128,
    lr=2e-3,
    lr_backbone=2e-3,
    patience=0,
    ema=0.99,
    class_condition=0.0,  # nobody tells the network the class of an event when the neutrinos are drawn
    rotate=True,
    mirror=True,
    stages=(Stage(losses=LossWeights.only("invisible_generation", "assignment", "detection")),),
)


def learnable(sample: SpinSample) -> npt.NDArray[np.bool_]:
    """Events to train on: top pairs with exactly two leptons above 10 GeV, of opposite charge, and at least two jets."""
    collections = sample.objects.collections()
    leptons, jets = collections["Lepton"], collections["Jet"]
    charge = ak.to_numpy(ak.sum(leptons["charge"], axis=1))
    two = (ak.to_numpy(ak.num(leptons["pt"])) == 2) & (charge == 0)
    return np.asarray(two & (ak.to_numpy(ak.num(jets["pt"])) >= 2) & sample.truth.valid)


def training_events(sample: SpinSample, rows: IntArray, schema: EventSchema) -> ArrayEvents:
    """Chosen events with their labels, as a run of training reads them.

    Parameters
    ----------
    sample : SpinSample
    rows : int array
        Events.
    schema : EventSchema
        Of the network; its class ``TT`` is that of all events.
    """
    cloud = sample.objects.take(rows).cloud(schema)
    truth = sample.truth
    pairs = np.stack([truth.neutrino[:, rows], truth.antineutrino[:, rows]], axis=-1)  # (4, n, 2)
    pt = np.hypot(pairs[0], pairs[1])
    known = {"pt": pt, "eta": np.arcsinh(pairs[2] / pt), "phi": np.arctan2(pairs[1], pairs[0])}
    if missing := [name for name in schema.invisible_names if name not in known]:
        msg = (
            f"neutrinos of the spin analysis have pt, eta and phi; the schema also wants {', '.join(missing)}"
        )
        raise ConfigError(msg)
    there = np.isfinite(pt)
    invisible = np.stack([np.where(there, known[name], 0.0) for name in schema.invisible_names], axis=-1)
    labels = EventLabels(
        truth.process[rows].astype(np.int16),
        truth.slots[rows].astype(np.int16),
        invisible.astype(np.float32),
        there,
    )
    label = np.full(len(rows), schema.classes.index(CLASS) if CLASS in schema.classes else -1)
    return ArrayEvents(cloud, label, labels=labels, topology=Topology.shipped(TOPOLOGY))


def new_network(events: ArrayEvents, *, size: str, checkpoint: str, seed: int) -> EveNet:
    """A network with the heads of this analysis: from scratch, or with the body of a checkpoint.

    Parameters
    ----------
    events : ArrayEvents
        Training events; without a checkpoint, means and widths are measured on them.
    size : str
        Of a network from scratch.
    checkpoint : str
        Folder of a trained network, or empty.
    seed : int
        Of the weights that are new.
    """
    topology = Topology.shipped(TOPOLOGY)
    torch.manual_seed(seed)
    if not checkpoint:
        config = with_heads(EveNetConfig.of_size(size), HEADS, topology=topology)
        return EveNet(config, measured_schema(events))
    trained = EveNet.from_pretrained(checkpoint)
    bare = dataclasses.replace(trained.config, assignment=None)
    wanted = with_heads(bare, HEADS, topology=topology)
    changed = {
        name: getattr(wanted, name)
        for name in ("classification", "regression", "segmentation", "object_generation", "global_generation")
        if getattr(trained.config, name) is not None
    } | {"assignment": wanted.assignment}
    if trained.config.invisible_generation is None:
        changed["invisible_generation"] = wanted.invisible_generation
    return extend(trained, heads=changed).model


def train_network(
    sample: SpinSample,
    train: IntArray,
    val: IntArray,
    folder: Path,
    *,
    size: str,
    checkpoint: str = "",
    config: FinetuneConfig = TRAINING,
    progress: bool = False,
) -> History:
    """Train the network of the analysis; a run that was cut off goes on.

    Parameters
    ----------
    sample : SpinSample
    train, val : int array
        Events to train on and to choose the epoch with.
    folder : Path
        Of the run; ``folder / "best"`` is the network.
    size, checkpoint
        As for :func:`new_network`.
    config : FinetuneConfig
        Settings of the training.
    progress : bool
        Draw a progress bar.
    """
    schema = (
        EveNet.from_pretrained(checkpoint).schema if checkpoint else EventSchema.standard(classes=(CLASS,))
    )
    events, held_out = (training_events(sample, rows, schema) for rows in (train, val))
    model = new_network(events, size=size, checkpoint=checkpoint, seed=config.seed)
    history = finetune(
        model, events, held_out, config=config, folder=folder / "run", resume=True, progress=progress
    )
    model.save_pretrained(folder / "best")
    return history
