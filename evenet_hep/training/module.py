"""The Lightning module of every run: a network, the losses of its heads, an optimiser and the curriculum."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from evenet_hep.errors import ConfigError, EveNetError
from evenet_hep.model.evenet import EveNet
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.topology import Topology
from evenet_hep.training.augment import augment
from evenet_hep.training.balance import ClassCounts, class_weights
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import LOSSES, TrainingConfig
from evenet_hep.training.curriculum import Plan, is_ever_active, plan_at
from evenet_hep.training.finetune import freeze_all_but
from evenet_hep.training.losses import HEAD_OF, BatchLosses, Losses
from evenet_hep.training.optim import make_optimizer, make_schedule

# Random numbers of validation come from a seed of their own, the same in every epoch.
VALIDATION = 2**31


class TrainingError(EveNetError):
    """A run that cannot go on: a loss that is not finite, or a folder that holds another run."""


class TrainingModule(pl.LightningModule):
    """A network in training.

    Random numbers of a step depend on the seed, the number of the step and the rank alone, so that a run that was cut
    off goes on as if it had not been.

    Parameters
    ----------
    model : EveNet
        Trained in place.
    config : TrainingConfig
        How.
    topology : Topology, optional
        Grammar of the labels of the events.
    counts : ClassCounts, optional
        Events of each class and process, for the balance.
    steps_per_epoch : int
        Steps of the optimiser in an epoch.
    folder : path, optional
        Where to save the batch of a loss that is not finite.

    Attributes
    ----------
    batches_seen : int
        Training batches that are done, or under way after :meth:`training_step`.
    train_sums, val_sums : dict of str to list
        Sum of each loss and number of batches in this epoch.

    Raises
    ------
    ConfigError
        If no loss has both a weight and a head, or nothing is left to train.
    """

    def __init__(
        self,
        model: EveNet,
        config: TrainingConfig,
        *,
        topology: Topology | None = None,
        counts: ClassCounts | None = None,
        steps_per_epoch: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.folder = Path(folder) if folder is not None else None
        self.batches_seen = 0
        self.losses = Losses(
            model,
            topology,
            class_weight=_class_weight(model, config, counts),
            process_weight=_process_weight(model, topology, config, counts),
            event_weights=config.event_weights,
            class_condition=config.class_condition,
            focal_gamma=config.focal_gamma,
            complete_segments=config.complete_segments,
        )
        if config.feature_drop is not None:
            _set_feature_drop(model, config.feature_drop)
        if config.trainable:
            freeze_all_but(model, config.trainable)
        freeze_idle(model, config)
        self.train_sums: dict[str, Tensor] = {}
        self.val_sums: dict[str, Tensor] = {}
        self.val_scores: list[tuple[Tensor, Tensor, Tensor]] = []

    # --- steps -------------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The settings of the next step."""
        total = self.config.epochs * self.steps_per_epoch * self.config.accumulate
        return plan_at(self.config.stages, min(self.batches_seen / max(total, 1), 1.0))

    def on_train_batch_start(self, batch: TensorBatch, batch_idx: int) -> None:
        """Seed the step."""
        _seed(self.config.seed, self.batches_seen, self.global_rank)

    def training_step(self, batch: TensorBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses of one batch."""
        plan = self.plan()
        batch = augment(batch, self.model.schema, rotate=self.config.rotate, mirror=self.config.mirror)
        found: BatchLosses = self.losses(self.model, batch, plan)
        total = torch.stack([loss.float() * plan.weights[name] for name, loss in found.losses.items()]).sum()
        if not torch.isfinite(total):
            self._stop(batch, found)
        _add(self.train_sums, {"loss": total, **found.losses})
        self.batches_seen += 1  # here, because callbacks run before the module's own hooks
        return total + _touch(self.model)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation, and seed this one."""
        self.val_sums, self.val_scores = {}, []
        _seed(self.config.seed, VALIDATION, self.global_rank)

    def validation_step(self, batch: TensorBatch, batch_idx: int) -> None:
        """Losses and, for the metrics, class probabilities of one batch."""
        plan = self.plan()
        found: BatchLosses = self.losses(self.model, batch, plan)
        total = torch.stack([loss.float() * plan.weights[name] for name, loss in found.losses.items()]).sum()
        _add(self.val_sums, {"loss": total, **found.losses}, weight=len(batch.label))
        if found.logits is not None:
            probability = found.logits.float().softmax(dim=1)
            self.val_scores.append((probability.cpu(), batch.label.cpu(), batch.weight.cpu()))

    def validation_metrics(self) -> dict[str, float]:
        """Mean losses of the last validation, by ``val_<loss>``, with accuracy and mean AUC of the classes."""
        metrics = {f"val_{name}": value for name, value in _means(self.val_sums).items()}
        if self.val_scores:
            probability, label, weight = (torch.cat(parts) for parts in zip(*self.val_scores, strict=True))
            if not self.config.event_weights:
                weight = torch.ones_like(weight)
            probability, label, weight = (_gathered(x) for x in (probability, label, weight))
            metrics |= class_metrics(probability, label, weight)
        return metrics

    def training_metrics(self) -> dict[str, float]:
        """Mean losses of the batches since the last call, by ``train_<loss>``."""
        metrics = {f"train_{name}": value for name, value in _means(self.train_sums).items()}
        self.train_sums = {}
        return metrics

    def _stop(self, batch: TensorBatch, found: BatchLosses) -> None:
        folder = self.folder or Path.cwd()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"bad-batch-{self.batches_seen}-rank{self.global_rank}.npz"
        np.savez(path, **{name: tensor.cpu().numpy() for name, tensor in batch._asdict().items()})
        bad = [name for name, loss in found.losses.items() if not torch.isfinite(loss)]
        msg = (
            f"the loss is not finite in batch {self.batches_seen} ({', '.join(bad) or 'their sum'}); "
            f"the batch is saved in {path}"
        )
        raise TrainingError(msg)

    # --- optimiser and checkpoints -----------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Optimiser and course of its rate."""
        optimizer = make_optimizer(self.model, self.config, workers=self.trainer.world_size)
        schedule = make_schedule(optimizer, self.config, steps_per_epoch=self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where the run is."""
        checkpoint["batches_seen"] = self.batches_seen
        checkpoint["train_sums"] = dict(self.train_sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the run was."""
        self.batches_seen = checkpoint["batches_seen"]
        self.train_sums = {name: value.to(self.device) for name, value in checkpoint["train_sums"].items()}


def class_metrics(probability: Tensor, label: Tensor, weight: Tensor) -> dict[str, float]:
    """Accuracy, and mean over the classes of the area under the curve of each against the rest.

    Parameters
    ----------
    probability : Tensor, shape (n, C)
        Class probabilities.
    label : int Tensor, shape (n,)
        True class; -1 leaves an event out.
    weight : Tensor, shape (n,)
        Event weights.

    Returns
    -------
    dict of str to float
        ``val_accuracy`` and ``val_auc``; NaN where there is nothing to measure.
    """
    known = label >= 0
    probability, label, weight = probability[known], label[known], weight[known]
    if not len(label):
        return {"val_accuracy": float("nan"), "val_auc": float("nan")}
    right = (probability.argmax(dim=1) == label).to(weight.dtype)
    areas = []
    for number in range(probability.shape[1]):
        is_class = (label == number).numpy()
        if 0 < is_class.sum() < len(is_class):
            area = area_under_curve(is_class, probability[:, number].numpy(), weights=weight.numpy())
            areas.append(area.value)
    accuracy = float((right * weight).sum() / weight.sum())
    return {"val_accuracy": accuracy, "val_auc": float(np.mean(areas)) if areas else float("nan")}


def freeze_idle(model: EveNet, config: TrainingConfig) -> tuple[str, ...]:
    """Freeze what no loss of a run reaches, and name it.

    Without them all parameters get a gradient in every step, which distributed training wants to know beforehand, and
    weight decay leaves them alone.

    Parameters
    ----------
    model : EveNet
        Its parameters' ``requires_grad`` is cleared where no loss with a weight depends on them.
    config : TrainingConfig
        Stages with the weights of the losses.

    Raises
    ------
    ConfigError
        If there is no loss whose head the network has, or nothing is left to train.
    """
    active = {
        name
        for name in LOSSES
        if is_ever_active(config.stages, name) and getattr(model.config, HEAD_OF[name]) is not None
    }
    if model.config.object_generation is None:
        active.discard("noised_classification")
    if not active:
        msg = "no loss is left: every loss with a weight lacks its head in the network"
        raise ConfigError(msg)
    idle = []
    for name, parameter in model.named_parameters():
        if not _is_reached(name, active, config):
            parameter.requires_grad_(False)
            idle.append(name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        msg = f"nothing is left to train: no trainable part is reached by {', '.join(sorted(active))}"
        raise ConfigError(msg)
    return tuple(idle)


def _is_reached(name: str, active: set[str], config: TrainingConfig) -> bool:
    first, *rest = name.split(".")
    heads = {HEAD_OF[loss] for loss in active}
    body = active - {"global_generation"}  # its head reads event features alone
    if first in ("pet", "event_embedding", "added_embedding"):
        if rest[0] in ("time_embedding", "film"):
            return bool(active & {"noised_classification", "object_generation", "invisible_generation"})
        return bool(body)
    if first == "object_encoder":
        return bool(body - {"object_generation", "invisible_generation"})
    if first == "invisible_projection":
        return "invisible_generation" in active
    if first.endswith("_generation") and rest[0] == "label" and config.class_condition == 0:
        return False
    return first in heads


def _touch(model: EveNet) -> Tensor:
    # Zero, with a gradient of zero for every weight: a batch without, say, any resonance leaves some heads aside.
    return torch.stack([p.flatten()[0] for p in model.parameters() if p.requires_grad]).sum() * 0.0


def _seed(seed: int, step: int, rank: int) -> None:
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state))


def _add(sums: dict[str, Tensor], losses: dict[str, Tensor], weight: float = 1.0) -> None:
    for name, loss in losses.items():
        value = loss.detach().double()
        part = torch.stack([value * weight, torch.full_like(value, weight)])
        sums[name] = sums[name] + part if name in sums else part


def _means(sums: dict[str, Tensor]) -> dict[str, float]:
    if not sums:
        return {}
    table = torch.stack(list(sums.values()))
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(table)
    return dict(zip(sums, (table[:, 0] / table[:, 1]).tolist(), strict=True))


def _gathered(x: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return x
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, x)
    return torch.cat(parts)


def _class_weight(model: EveNet, config: TrainingConfig, counts: ClassCounts | None) -> Tensor | None:
    if counts is None or config.class_balance == "none" or model.config.classification is None:
        return None
    return torch.from_numpy(class_weights(counts.events, config.class_balance))


def _process_weight(
    model: EveNet, topology: Topology | None, config: TrainingConfig, counts: ClassCounts | None
) -> Tensor | None:
    if (
        counts is None
        or topology is None
        or config.class_balance == "none"
        or model.config.assignment is None
    ):
        return None
    found = dict(zip((p.name for p in topology.processes), counts.processes, strict=True))
    numbers = [found.get(process.name, 0.0) for process in model.config.assignment.topology.processes]
    return torch.from_numpy(class_weights(numbers, config.class_balance))


def _set_feature_drop(model: EveNet, probability: float) -> None:
    model.pet.config = dataclasses.replace(model.pet.config, feature_drop=probability)
