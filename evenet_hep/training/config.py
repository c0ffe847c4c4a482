"""What a training run does: frozen dataclasses that refuse unknown keys, from YAML and back.

>>> config = FinetuneConfig(epochs=10, batch_size=512, lr=1e-3, lr_backbone=1e-4, seed=1)
>>> FinetuneConfig.from_yaml(config.to_yaml()) == config
True
>>> config.with_settings(["epochs=20", "optimizer=lion"]).epochs
20
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, Self

import yaml

from evenet_hep.errors import ConfigError
from evenet_hep.model.layers import read_config, require, require_probability
from evenet_hep.training.finetune import PARTS
from evenet_hep.training.settings import load_yaml, override

# Losses, in the order in which they are reported.
LOSSES = (
    "classification",
    "noised_classification",
    "regression",
    "assignment",
    "detection",
    "segmentation_focal",
    "segmentation_dice",
    "segmentation_classes",
    "segmentation_auxiliary",
    "object_generation",
    "invisible_generation",
    "global_generation",
)


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weight of each loss in the sum, as one number or as a pair (start, end) of a ramp.

    A loss with a weight of zero throughout is not computed; neither is one whose head the network lacks.

    Parameters
    ----------
    classification : tuple of float
        Cross-entropy of the class of clean events.
    noised_classification : tuple of float
        The same for events with noised objects, weighted with alpha^2, the share of the data in them.
    regression : tuple of float
        Smooth L1 distance in units of each target's width.
    assignment, detection : tuple of float
        Objects of complete resonances, and how many resonances there are.
    segmentation_focal, segmentation_dice, segmentation_classes : tuple of float
        Masks (twice) and classes of the segments.
    segmentation_auxiliary : tuple of float
        The sum of the three for the segments before and between the layers.
    object_generation, invisible_generation, global_generation : tuple of float
        Velocities of noised objects (the self-supervised task), neutrinos and event features.
    """

    classification: tuple[float, ...] = (1.0,)
    noised_classification: tuple[float, ...] = (1.0,)
    regression: tuple[float, ...] = (1.0,)
    assignment: tuple[float, ...] = (1.0,)
    detection: tuple[float, ...] = (1.0,)
    segmentation_focal: tuple[float, ...] = (1.0,)
    segmentation_dice: tuple[float, ...] = (1.0,)
    segmentation_classes: tuple[float, ...] = (1.0,)
    segmentation_auxiliary: tuple[float, ...] = (1.0,)
    object_generation: tuple[float, ...] = (1.0,)
    invisible_generation: tuple[float, ...] = (1.0,)
    global_generation: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in LOSSES:
            values = _pair(f"losses.{name}", getattr(self, name))
            require(min(values) >= 0, f"losses.{name}", "at least 0", values)
            object.__setattr__(self, name, values)

    @classmethod
    def only(cls, *names: str) -> LossWeights:
        """Weight one for some losses, zero for all others.

        Examples
        --------
        >>> LossWeights.only("classification").assignment
        (0.0, 0.0)
        """
        if unknown := sorted(set(names) - set(LOSSES)):
            msg = f"losses must be some of {', '.join(LOSSES)}; found {unknown[0]!r}"
            raise ConfigError(msg)
        return cls(**{name: (1.0,) if name in names else (0.0,) for name in LOSSES})


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run with its own losses; what is a pair (start, end) moves along half a cosine.

    Parameters
    ----------
    share : float
        Part of all epochs.
    transition : float
        Part of the stage over which pairs move from start to end; after it they stay at the end.
    noise_probability : tuple of float
        Chance of an object to be noised, where objects are generated or noised events classified.
    hide : tuple of float
        Above 0.5, clean objects may not attend noised ones.
    losses : LossWeights
        Weights of the losses.
    """

    share: float = 1.0
    transition: float = 1.0
    noise_probability: tuple[float, ...] = (1.0,)
    hide: tuple[float, ...] = (0.0,)
    losses: LossWeights = dataclasses.field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "stage.share", "above 0 and at most 1", self.share)
        require(0 <= self.transition <= 1, "stage.transition", "in [0, 1]", self.transition)
        for name in ("noise_probability", "hide"):
            values = _pair(f"stage.{name}", getattr(self, name))
            require(min(values) >= 0 and max(values) <= 1, f"stage.{name}", "in [0, 1]", values)
            object.__setattr__(self, name, values)


def _pair(name: str, values: float | Iterable[float]) -> tuple[float, ...]:
    found = (values,) if isinstance(values, int | float) else tuple(values)
    require(len(found) in (1, 2), name, "one number or a pair (start, end)", found)
    require(all(math.isfinite(value) for value in found), name, "finite", found)
    return (float(found[0]), float(found[-1]))


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        Times that every training event is seen.
    batch_size : int
        Events per step and process.
    seed : int
        Of the order of events, noise, dropout and augmentation. The same seed gives the same weights on a CPU.
    optimizer : {"adamw", "lion"}
        See :mod:`evenet_hep.training.optim`.
    lr : float
        Learning rate of the heads and of every part without one of its own.
    lr_backbone : float or None
        Of all parts but the heads; None for ``lr``.
    lr_object_encoder, lr_event_embedding : float or None
        Of these two; None for that of the backbone.
    betas : sequence of float
        Two decay rates of the optimiser's averages; empty for (0.9, 0.999) of AdamW and (0.95, 0.99) of Lion.
    weight_decay : float
        Of the weights of linear layers.
    weight_decay_backbone : float or None
        Of all parts but the heads; None for ``weight_decay``.
    layer_decay : float
        Factor on the rate of a block of the point-edge transformer for every block behind it.
    scale_with_workers : bool
        Learning rate times, and weight decay over, the square root of the number of processes.
    warmup : float
        Epochs in which the rate rises from zero.
    schedule : {"cosine", "constant"}
        How it falls to ``final_lr`` times its value after that.
    final_lr : float
        In units of the learning rate.
    gradient_clip : float
        Largest norm of the gradient; 0 for none.
    accumulate : int
        Batches per step of the optimiser.
    precision : {"single", "bf16"}
        bf16 computes products in bfloat16; weights stay in single precision.
    ema : float
        Decay of the running average of weights and running statistics, which is what is validated and kept; it rises
        to this value in the first steps. 0 for none.
    patience : int
        Epochs without a better ``monitor`` after which the run stops; 0 never.
    monitor : str
        What decides about the best epoch: the smallest ``"val_loss"`` (or ``"val_<loss>"``), or the largest
        ``"val_auc"``.
    keep : {"best", "last"}
        Which weights the run ends with; without validation events they are the last.
    class_balance : {"none", "equal", "effective"}
        Weight of each class in the classification: one; such that all classes weigh the same; or by the effective
        number of events, as published (arXiv:1901.05555).
    event_weights : bool
        True uses the weights of the events in all losses.
    class_condition : float
        Chance of an event to be told its class where something is generated; 0 uses no labels.
    focal_gamma : float
        Exponent of the focal factor of the assignment; 0 is the plain cross-entropy.
    complete_segments : bool
        Segments are resonances with all their daughters alone; else those with at least one.
    feature_drop : float or None
        Chance of a feature of an event to be set to zero; None keeps that of the network.
    rotate, mirror : bool
        Turn events around the beam axis by a random angle, mirror half of them along it.
    trainable : sequence of str
        Parts that are trained, as in :func:`~evenet_hep.training.finetune.freeze_all_but`; empty for all.
    stages : sequence of Stage
        One after the other; their shares sum to one.
    checkpoint_every : int
        Batches between checkpoints to resume from; 0 for one per epoch.
    log_every : int
        Batches between rows of the log.
    tensorboard : bool
        Also write logs for TensorBoard, which has to be installed.

    Raises
    ------
    ConfigError
        For values out of range or in contradiction to each other.
    """

    epochs: int = 10
    batch_size: int = 256
    seed: int = 1
    optimizer: Literal["adamw", "lion"] = "adamw"
    lr: float = 1e-3
    lr_backbone: float | None = None
    lr_object_encoder: float | None = None
    lr_event_embedding: float | None = None
    betas: tuple[float, ...] = ()
    weight_decay: float = 0.01
    weight_decay_backbone: float | None = None
    layer_decay: float = 1.0
    scale_with_workers: bool = True
    warmup: float = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    final_lr: float = 0.0
    gradient_clip: float = 1.0
    accumulate: int = 1
    precision: Literal["single", "bf16"] = "single"
    ema: float = 0.0
    patience: int = 0
    monitor: str = "val_loss"
    keep: Literal["best", "last"] = "best"
    class_balance: Literal["none", "equal", "effective"] = "equal"
    event_weights: bool = False
    class_condition: float = 1.0
    focal_gamma: float = 0.0
    complete_segments: bool = False
    feature_drop: float | None = None
    rotate: bool = False
    mirror: bool = False
    trainable: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = (Stage(),)
    checkpoint_every: int = 0
    log_every: int = 50
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("betas", "trainable", "stages"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("seed", "patience", "checkpoint_every", "weight_decay", "warmup", "gradient_clip"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("lr", "lr_backbone", "lr_object_encoder", "lr_event_embedding", "weight_decay_backbone"):
            rate = getattr(self, name)
            require(rate is None or (rate >= 0 and math.isfinite(rate)), name, "at least 0", rate)
        is_right = len(self.betas) in (0, 2) and all(0 <= beta < 1 for beta in self.betas)
        require(is_right, "betas", "empty or two numbers in [0, 1)", self.betas)
        require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1", self.layer_decay)
        for name in ("ema", "feature_drop"):
            require_probability(name, getattr(self, name) or 0.0)
        for name in ("class_condition", "final_lr"):
            require(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        require(self.focal_gamma >= 0, "focal_gamma", "at least 0", self.focal_gamma)
        for name, allowed in _CHOICES.items():
            require(
                getattr(self, name) in allowed, name, " or ".join(map(repr, allowed)), getattr(self, name)
            )
        self._check_together()

    def _check_together(self) -> None:
        total = sum(stage.share for stage in self.stages)
        require(abs(total - 1) < 1e-6, "stages", "such that their shares sum to 1", total)
        unknown = sorted(set(self.trainable) - set(PARTS))
        require(not unknown, "trainable", f"some of {', '.join(PARTS)}", self.trainable)
        known = {"val_loss", "val_auc", "val_accuracy", *(f"val_{name}" for name in LOSSES)}
        require(self.monitor in known, "monitor", f"one of {', '.join(sorted(known))}", self.monitor)
        require(self.warmup <= self.epochs, "warmup", f"at most the {self.epochs} epochs", self.warmup)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rate of each part, for :func:`~evenet_hep.training.finetune.parameter_groups`."""
        body = self.lr if self.lr_backbone is None else self.lr_backbone
        encoder = body if self.lr_object_encoder is None else self.lr_object_encoder
        event = body if self.lr_event_embedding is None else self.lr_event_embedding
        return {
            "heads": self.lr,
            "object_encoder": encoder,
            "event_embedding": event,
            "pet": body,
            "adapters": self.lr,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return to_dict(self)

    def to_yaml(self) -> str:
        """The configuration as YAML text; :meth:`from_yaml` gives it back unchanged."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """A configuration from YAML text; keys left out take their defaults, unknown ones are errors."""
        return read_config(cls, load_yaml(text))

    def with_settings(self, settings: Iterable[str]) -> Self:
        """The same with some values replaced and checked again; see :func:`~evenet_hep.training.settings.override`."""
        return read_config(type(self), override(self.to_dict(), settings))


_CHOICES = {
    "optimizer": ("adamw", "lion"),
    "schedule": ("cosine", "constant"),
    "precision": ("single", "bf16"),
    "keep": ("best", "last"),
    "class_balance": ("none", "equal", "effective"),
}

# One task at a time, on clean events.
_TASKS = LossWeights(noised_classification=(0.0,), object_generation=(0.0,), global_generation=(0.0,))


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """How a trained network is fine-tuned: as :class:`TrainingConfig`, with defaults for small samples.

    Clean events alone are classified, no feature is dropped, and the run stops ten epochs after the best one. The
    defaults of the object and event generation are off; neutrinos are generated where the network has the head.

    Examples
    --------
    >>> FinetuneConfig(lr=1e-3, lr_backbone=1e-4).rates["pet"]
    0.0001
    """

    lr: float = 5e-4
    lr_backbone: float | None = 1e-4
    patience: int = 10
    feature_drop: float | None = 0.0
    stages: tuple[Stage, ...] = (Stage(losses=_TASKS),)


@dataclasses.dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """How a network is trained from the start: as :class:`TrainingConfig`, with Lion and a running average.

    Examples
    --------
    >>> PretrainConfig().optimizer
    'lion'
    """

    optimizer: Literal["adamw", "lion"] = "lion"
    lr: float = 3e-4
    weight_decay: float = 0.1
    ema: float = 0.999
    stages: tuple[Stage, ...] = (Stage(noise_probability=(0.1, 1.0)),)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and numbers."""
    return dict(dataclasses.asdict(config, dict_factory=_with_lists))


def _with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: _listed(value) for key, value in items}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
