"""Events that a network can learn by heart, and small networks without dropout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema
from evenet_hep.events.labels import EventLabels
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    InvisibleGenerationConfig,
    ObjectGenerationConfig,
)
from evenet_hep.model.heads.regression import RegressionConfig, RegressionTarget
from evenet_hep.model.heads.segmentation import SegmentationConfig
from evenet_hep.topology import Process, Resonance, Topology
from evenet_hep.training.config import LossWeights, Stage, TrainingConfig
from evenet_hep.training.dataset import ArrayEvents

SCHEMA = EventSchema.standard(classes=("ttbar", "other"))
TOPOLOGY = Topology(
    (
        Resonance("t/bqq", ("b", "q1", "q2"), (("q1", "q2"),), mass=172.5, segment="top"),
        Resonance("t/bl", ("b", "l"), mass=172.5, segment="leptonic top"),
    ),
    (Process("TT1L", (("t1", "t/bqq"), ("t2", "t/bl"))), Process("nothing", ())),
)


def made_up_events(n: int, seed: int = 1) -> ArrayEvents:
    """Events whose class, resonances and neutrinos can be read off the objects."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(5, 8, n)
    mask = np.arange(SCHEMA.capacity) < counts[:, None]
    shape = mask.shape
    pt = np.sort(rng.exponential(50, shape) + 20)[:, ::-1]
    eta, phi = rng.normal(0, 1, shape), rng.uniform(-3.1, 3.1, shape)
    label = (np.arange(n) % 2).astype(np.int64)
    # The daughters of resonances carry a tag that says so, in an order of their own.
    process = np.where(label == 0, 0, 1)
    indices = np.full((n, 2, 3), -1)
    charge, btag = np.zeros(shape), np.zeros(shape)
    for i in np.flatnonzero(label == 0):
        order = rng.permutation(counts[i])[:5]
        indices[i, 0], indices[i, 1, :2] = order[:3], order[3:]
        btag[i, order[[0, 3]]] = 1
        charge[i, order[:3]], charge[i, order[3:]] = 1, -1
    objects = np.stack([pt * np.cosh(eta), pt, eta, phi, btag, charge < 0, charge], axis=-1) * mask[..., None]
    neutrino = np.stack([pt[:, 0], eta[:, 0], phi[:, 0]], axis=-1)[:, None]
    event_features = np.stack([pt[:, 0], phi[:, 0], *np.ones((8, n))], axis=-1)
    cloud = EventCloud.from_arrays(
        objects.astype(np.float32), mask, event_features.astype(np.float32), SCHEMA
    )
    labels = EventLabels(
        process.astype(np.int16),
        indices.astype(np.int16),
        np.where(label[:, None, None] == 0, neutrino, 0).astype(np.float32),
        (label == 0)[:, None],
    )
    return ArrayEvents(cloud, label, labels=labels, topology=TOPOLOGY)


def network(**heads: Any) -> EveNet:
    """A small network without dropout, with all heads but those that are set to None."""
    calm: dict[str, Any] = {"dropout": 0.0}
    base = EveNetConfig.tiny()
    every: dict[str, Any] = {
        "classification": ClassificationConfig(heads=4, **calm),
        "regression": RegressionConfig((RegressionTarget("TT1L/t1/pt", 100.0, 100.0),), width=48, **calm),
        "assignment": AssignmentConfig(TOPOLOGY, type_width=8, property_drop=0.0, **calm),
        "segmentation": SegmentationConfig(TOPOLOGY.segments, queries=3, heads=4, **calm),
        "object_generation": ObjectGenerationConfig(conditions=("met",), **calm),
        "invisible_generation": InvisibleGenerationConfig(**calm),
        "global_generation": GlobalGenerationConfig(targets=("met",), **calm),
    }
    torch.manual_seed(3)
    config = dataclasses.replace(
        base,
        pet=dataclasses.replace(base.pet, dropout=0.0, drop_path=0.0, feature_drop=0.0, layer_scale=0.1),
        object_encoder=dataclasses.replace(base.object_encoder, dropout=0.0),
        event_embedding=dataclasses.replace(base.event_embedding, dropout=0.0),
        **(every | heads),
    )
    return EveNet(config, SCHEMA)


def settings(weights: LossWeights, epochs: int, **options: Any) -> TrainingConfig:
    base: dict[str, Any] = {
        "lr": 3e-3,
        "warmup": 0,
        "batch_size": 64,
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    return TrainingConfig(epochs=epochs, stages=(Stage(losses=weights),), **(base | options))


@pytest.fixture
def topology() -> Topology:
    """A process with two resonances and one without."""
    return TOPOLOGY


@pytest.fixture
def make_events() -> Callable[..., ArrayEvents]:
    """Made-up events, by number and seed."""
    return made_up_events


@pytest.fixture
def make_network() -> Callable[..., EveNet]:
    """A small network, by heads to replace or leave out."""
    return network


@pytest.fixture
def make_settings() -> Callable[..., TrainingConfig]:
    """Settings, by weights of the losses, epochs and options."""
    return settings
