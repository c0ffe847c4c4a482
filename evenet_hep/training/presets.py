"""Settings of the published pretraining and of the four fine-tuning tasks, and heads for a network of any size.

=================  =====================================================================================
name               what it is
=================  =====================================================================================
stage1             self-supervised pretraining: noised objects and event features are restored
stage2             joint pretraining: classes, noised classes, objects, neutrinos and event features
stage2_with_pairs  the same with assignment, detection and segmentation
task1              X -> YH -> bbWW against its backgrounds, one mass point at a time, with adapters
task1_scratch      the same network without pretraining
task1_masses       the same told the masses (:mod:`evenet_hep.training.parametrised`)
task2              H -> aa -> 4b: classes, assignment and segmentation
task3              spin correlations of top pairs: neutrinos and assignment
task4              anomalies in dimuons: objects and event features are generated
=================  =====================================================================================

Learning rates and batch sizes are those of the paper (Table II) for one of the processes it used; the rates are
multiplied by the square root of the number of processes. The number of epochs of the pretraining is not published.

>>> preset("task2").rates["heads"], preset("task2").rates["pet"]
(0.0004, 4e-05)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from evenet_hep.errors import ConfigError
from evenet_hep.model.evenet import HEADS, EveNetConfig
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    InvisibleGenerationConfig,
    ObjectGenerationConfig,
)
from evenet_hep.model.heads.segmentation import SegmentationConfig
from evenet_hep.topology import Topology
from evenet_hep.training.config import FinetuneConfig, LossWeights, PretrainConfig, Stage, TrainingConfig

NOISE = (0.1, 1.0)  # chance of an object to be noised, from the start of a stage to its end
ADAPTER = 16  # width of the adapters of task 1
TOLD = ("met", "met_phi", "m_all")  # event features that are given where others are generated

SELF_SUPERVISED = LossWeights.only("object_generation", "global_generation")
JOINT = LossWeights.only(
    "classification",
    "noised_classification",
    "object_generation",
    "invisible_generation",
    "global_generation",
)
PAIRING = LossWeights.only(
    "classification",
    "assignment",
    "detection",
    "segmentation_focal",
    "segmentation_dice",
    "segmentation_classes",
    "segmentation_auxiliary",
)
BUT_THE_POINTS = ("heads", "adapters", "event_embedding", "object_encoder", "norms")


def _with_pairs() -> LossWeights:
    every = dict.fromkeys(dataclasses.asdict(JOINT), (1.0,))
    return LossWeights(**(every | {"regression": (0.0,)}))


PRESETS: Mapping[str, TrainingConfig] = {
    "stage1": PretrainConfig(
        epochs=50,
        batch_size=1024,
        lr=1.8e-5,
        weight_decay=1e-3,
        class_condition=0.0,
        keep="last",
        stages=(Stage(noise_probability=NOISE, hide=(0.0, 1.0), losses=SELF_SUPERVISED),),
    ),
    "stage2": PretrainConfig(
        epochs=50,
        batch_size=1024,
        lr=1.2e-5,
        weight_decay=1e-3,
        class_balance="effective",
        stages=(Stage(noise_probability=NOISE, losses=JOINT),),
    ),
    "stage2_with_pairs": PretrainConfig(
        epochs=50,
        batch_size=1024,
        lr=1.2e-5,
        weight_decay=1e-3,
        class_balance="effective",
        stages=(Stage(noise_probability=NOISE, losses=_with_pairs()),),
    ),
    "task1": FinetuneConfig(
        epochs=25,
        batch_size=4096,
        lr=3e-4,
        lr_backbone=0.9e-4,
        weight_decay=1e-2,
        weight_decay_backbone=1e-4,
        patience=5,
        event_weights=True,
        trainable=BUT_THE_POINTS,
        stages=(Stage(losses=LossWeights.only("classification")),),
    ),
    "task1_scratch": FinetuneConfig(
        epochs=20,
        batch_size=2048,
        lr=3e-4,
        lr_backbone=3e-4,
        weight_decay=1e-2,
        patience=5,
        event_weights=True,
        feature_drop=0.1,
        stages=(Stage(losses=LossWeights.only("classification")),),
    ),
    "task1_masses": FinetuneConfig(
        epochs=30,
        batch_size=4096,
        lr=1e-5,
        lr_backbone=0.3e-5,
        weight_decay=1e-2,
        weight_decay_backbone=1e-4,
        patience=5,
        event_weights=True,
        trainable=BUT_THE_POINTS,
        stages=(Stage(losses=LossWeights.only("classification")),),
    ),
    "task2": FinetuneConfig(
        epochs=50,
        batch_size=2048,
        lr=4e-4,
        lr_backbone=4e-5,
        lr_object_encoder=1.2e-4,
        patience=20,
        event_weights=True,
        stages=(Stage(losses=PAIRING),),
    ),
    "task3": FinetuneConfig(
        epochs=300,
        batch_size=1024,
        lr=5e-5,
        lr_backbone=5e-5,
        weight_decay=0.01,
        patience=50,
        stages=(Stage(losses=LossWeights.only("invisible_generation", "assignment", "detection")),),
    ),
    "task4": FinetuneConfig(
        epochs=1000,
        batch_size=4096,
        lr=5e-4,
        lr_backbone=5e-5,
        patience=0,
        stages=(Stage(losses=SELF_SUPERVISED),),
    ),
}


def preset(name: str) -> TrainingConfig:
    """The settings of that name.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if name not in PRESETS:
        msg = f"there is no preset {name!r}; there are {', '.join(PRESETS)}"
        raise ConfigError(msg)
    return PRESETS[name]


def with_heads(
    network: EveNetConfig,
    heads: Sequence[str],
    *,
    topology: Topology | None = None,
    told: Sequence[str] = TOLD,
    targets: Sequence[str] = ("ht",),
    separate: bool = False,
) -> EveNetConfig:
    """A network of the same body with other heads, in the sizes that suit it.

    Parameters
    ----------
    network : EveNetConfig
        Its own heads are kept where they are among those named.
    heads : sequence of str
        Of ``classification``, ``assignment``, ``segmentation``, ``object_generation``, ``invisible_generation`` and
        ``global_generation``. (A regression needs targets: set it yourself.)
    topology : Topology, optional
        Resonances, for the assignment and the segmentation.
    told : sequence of str
        Event features that are given where objects or other event features are generated.
    targets : sequence of str
        Event features that are generated.
    separate : bool
        Of :class:`~evenet_hep.model.heads.assignment.AssignmentConfig`, for a new assignment head: True for events with
        two resonances of one kind and few events to learn them from.

    Raises
    ------
    ConfigError
        For an unknown head, or one that needs a topology and has none.

    Examples
    --------
    >>> config = with_heads(EveNetConfig.tiny(), ("object_generation", "global_generation"))
    >>> config.classification is None, config.object_generation.conditions
    (True, ('met', 'met_phi', 'm_all', 'ht'))
    """
    known = [name for name in HEADS if name != "regression"]
    if unknown := [name for name in heads if name not in HEADS]:
        msg = f"heads must be some of {', '.join(HEADS)}; found {unknown[0]!r}"
        raise ConfigError(msg)
    if "regression" in heads and network.regression is None:
        msg = "the regression head needs targets; set regression in the network's configuration"
        raise ConfigError(msg)
    attention = 8 if network.width % 8 == 0 and network.width >= 64 else 4
    made: dict[str, Any] = {}
    for name in known:
        if name not in heads:
            made[name] = None
        elif getattr(network, name) is None:
            made[name] = _head(name, attention, topology, tuple(told), tuple(targets), separate)
    if "regression" not in heads:
        made["regression"] = None
    return dataclasses.replace(network, **made)


def _head(
    name: str,
    attention: int,
    topology: Topology | None,
    told: tuple[str, ...],
    targets: tuple[str, ...],
    separate: bool,
) -> Any:
    if name in ("assignment", "segmentation") and (topology is None or not topology.resonances):
        msg = f"the {name} head needs an event grammar with resonances; the events have none"
        raise ConfigError(msg)
    if name == "assignment":
        return AssignmentConfig(topology, heads=4, separate=separate)  # type: ignore[arg-type]
    if name == "segmentation":
        segments = topology.segments  # type: ignore[union-attr]
        queries = max(len(process.resonances) for process in topology.processes)  # type: ignore[union-attr]
        return SegmentationConfig(segments, heads=attention, queries=max(queries, 1))
    return {
        "classification": ClassificationConfig(heads=attention),
        "object_generation": ObjectGenerationConfig(conditions=(*told, *targets)),
        "invisible_generation": InvisibleGenerationConfig(),
        "global_generation": GlobalGenerationConfig(targets=targets, conditions=told),
    }[name]
