"""The losses of one batch: clean events for the heads that read them, noised ones for the diffusion model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from evenet_hep.errors import ConfigError
from evenet_hep.model import generation
from evenet_hep.model.diffusion import schedule
from evenet_hep.model.evenet import CLEAN_HEADS, EveNet, Outputs
from evenet_hep.model.heads.assignment import ResonanceScores
from evenet_hep.model.heads.assignment_loss import assignment_loss
from evenet_hep.model.heads.classification import classification_loss
from evenet_hep.model.heads.generation import velocity_loss
from evenet_hep.model.heads.segmentation import Segments
from evenet_hep.model.heads.segmentation_loss import segmentation_loss
from evenet_hep.model.object_encoder import Encoding
from evenet_hep.topology import Topology
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import LOSSES
from evenet_hep.training.curriculum import Plan
from evenet_hep.training.targets import RegressionTable, SegmentTable, TargetMap

# Head that each loss needs.
HEAD_OF = {
    "classification": "classification",
    "noised_classification": "classification",
    "regression": "regression",
    "assignment": "assignment",
    "detection": "assignment",
    "segmentation_focal": "segmentation",
    "segmentation_dice": "segmentation",
    "segmentation_classes": "segmentation",
    "segmentation_auxiliary": "segmentation",
    "object_generation": "object_generation",
    "invisible_generation": "invisible_generation",
    "global_generation": "global_generation",
}


class BatchLosses(NamedTuple):
    """What one batch costs.

    Attributes
    ----------
    losses : dict of str to Tensor
        Every active loss, a scalar without its weight.
    logits : Tensor, shape (B, C), or None
        Of the classification of the clean events, where there is one.
    """

    losses: dict[str, Tensor]
    logits: Tensor | None


class Losses(nn.Module):
    """Losses of batches from one kind of events.

    Parameters
    ----------
    model : EveNet
        The network; not part of this module.
    topology : Topology or None
        Grammar of the labels of the events.
    class_weight : Tensor, shape (C,), optional
        Weight of each class.
    process_weight : Tensor, shape (processes of the head,), optional
        Weight of each process in the assignment.
    event_weights : bool
        True uses the weights of the events.
    class_condition : float
        Chance of an event to be told its class where something is generated.
    focal_gamma : float
        Of the assignment.
    complete_segments : bool
        Segments are resonances with all their daughters alone.

    Raises
    ------
    ConfigError
        If the network has an assignment, segmentation or regression head and the events have no grammar; or if they
        do not fit.
    """

    def __init__(
        self,
        model: EveNet,
        topology: Topology | None,
        *,
        class_weight: Tensor | None = None,
        process_weight: Tensor | None = None,
        event_weights: bool = False,
        class_condition: float = 1.0,
        focal_gamma: float = 0.0,
        complete_segments: bool = False,
    ) -> None:
        super().__init__()
        self.event_weights = event_weights
        self.class_condition = class_condition
        self.focal_gamma = focal_gamma
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.register_buffer("process_weight", process_weight, persistent=False)
        self.to_assignment: TargetMap | None = None
        self.to_segments: SegmentTable | None = None
        self.to_regression: RegressionTable | None = None
        config = model.config
        if config.assignment is not None:
            self.to_assignment = TargetMap(_needed(topology, "assignment"), config.assignment.topology)
        if config.segmentation is not None:
            grammar = _needed(topology, "segmentation")
            head = config.segmentation
            self.to_segments = SegmentTable(
                grammar, head.segments, head.queries, complete_only=complete_segments
            )
            self.own_grammar = TargetMap(grammar, grammar)
        if config.regression is not None:
            self.to_regression = RegressionTable(
                _needed(topology, "regression"), config.regression.targets, model
            )

    class_weight: Tensor | None
    process_weight: Tensor | None

    def forward(self, model: EveNet, batch: TensorBatch, plan: Plan) -> BatchLosses:
        """Losses with a weight above zero whose head is there.

        Parameters
        ----------
        model : EveNet
            In training or eval mode.
        batch : TensorBatch
            On the device of the network.
        plan : Plan
            Weights of the losses, and how much is noised.
        """
        active = active_losses(model, plan)
        losses: dict[str, Tensor] = {}
        logits = None
        clean = {name for name in active if HEAD_OF[name] in CLEAN_HEADS} - {"noised_classification"}
        if clean:
            encoding = model.encode(batch.objects, batch.mask, batch.event_features)
            found = _outputs(model, {HEAD_OF[name] for name in clean}, encoding, batch.mask)
            losses |= self._clean(model, found, batch)
            logits = found.classification
        if {"noised_classification", "object_generation"} & active:
            losses |= self._noised(model, batch, plan, active)
        if "invisible_generation" in active:
            losses["invisible_generation"] = self._invisible(model, batch)
        if "global_generation" in active:
            losses["global_generation"] = self._globals(model, batch)
        return BatchLosses({name: losses[name] for name in LOSSES if name in active}, logits)

    def _weight(self, batch: TensorBatch) -> Tensor | None:
        return batch.weight if self.event_weights else None

    def _clean(self, model: EveNet, found: Outputs, batch: TensorBatch) -> dict[str, Tensor]:
        weight = self._weight(batch)
        losses: dict[str, Tensor] = {}
        if found.classification is not None:
            losses["classification"] = classification_loss(
                found.classification, batch.label, class_weight=self.class_weight, event_weight=weight
            )
        if found.regression is not None and self.to_regression is not None and model.regression is not None:
            truth = self.to_regression(batch.objects, batch.process, batch.indices)
            losses["regression"] = model.regression.loss(
                found.regression, truth.values, truth.known, event_weight=weight
            )
        if found.assignment and self.to_assignment is not None and model.config.assignment is not None:
            losses["assignment"], losses["detection"] = assignment_loss(
                found.assignment,
                self.to_assignment(batch.process, batch.indices),
                model.config.assignment.topology,
                focal_gamma=self.focal_gamma,
                process_weight=self.process_weight,
                event_weight=weight,
            )
        if found.segmentation and self.to_segments is not None:
            targets = self.to_segments(self.own_grammar(batch.process, batch.indices), batch.mask)
            last, auxiliary = segmentation_loss(found.segmentation, targets, batch.mask, event_weight=weight)
            losses |= {f"segmentation_{name}": loss for name, loss in last._asdict().items()}
            losses["segmentation_auxiliary"] = torch.stack(list(auxiliary)).sum()
        return losses

    def _noised(self, model: EveNet, batch: TensorBatch, plan: Plan, active: set[str]) -> dict[str, Tensor]:
        shape = (*batch.mask.shape, model.object_transform.width)
        time, noise = _time(batch), torch.randn(shape, device=batch.mask.device)
        selected = torch.rand(batch.mask.shape, device=batch.mask.device) < plan.noise_probability
        noised, truth = generation.noise_objects(
            model, batch.objects, batch.mask, time, noise, selected=selected, hide=plan.hide
        )
        encoded = generation.encode_noised(model, noised, batch.mask, batch.event_features)
        weight = self._weight(batch)
        losses: dict[str, Tensor] = {}
        if "object_generation" in active:
            velocity = generation.object_velocity(
                model, noised, encoded, batch.mask, label=self._told(batch.label)
            )
            losses["object_generation"] = velocity_loss(velocity, truth, noised.noised, event_weight=weight)
        if "noised_classification" in active and model.classification is not None:
            encoding = generation.classify_noised(model, encoded, batch.mask)
            logits = model.classification(encoding.objects, batch.mask, encoding.event)
            share = schedule(time).alpha.square()
            losses["noised_classification"] = classification_loss(
                logits,
                batch.label,
                class_weight=self.class_weight,
                event_weight=share if weight is None else share * weight,
            )
        return losses

    def _invisible(self, model: EveNet, batch: TensorBatch) -> Tensor:
        shape = (*batch.invisible_mask.shape, model.invisible_transform.width)
        time, noise = _time(batch), torch.randn(shape, device=batch.mask.device)
        columns, truth = generation.noise_invisible(model, batch.invisible, batch.invisible_mask, time, noise)
        velocity = generation.invisible_velocity(
            model,
            columns,
            batch.invisible_mask,
            time,
            batch.objects,
            batch.mask,
            batch.event_features,
            label=self._told(batch.label),
        )
        return velocity_loss(velocity, truth, batch.invisible_mask, event_weight=self._weight(batch))

    def _globals(self, model: EveNet, batch: TensorBatch) -> Tensor:
        config = model.config.global_generation
        columns = 1 + sum(
            len(model.event_transform.columns(name)) for name in (config.targets if config else ())
        )
        time = _time(batch)
        noise = torch.randn(len(time), columns, device=time.device)
        count = batch.mask.sum(dim=1)
        noised, truth = generation.noise_globals(model, count, batch.event_features, time, noise)
        velocity = generation.global_velocity(
            model, noised, time, batch.event_features, label=self._told(batch.label)
        )
        is_event = batch.mask.any(dim=1)
        return velocity_loss(velocity, truth, is_event, event_weight=self._weight(batch))

    def _told(self, label: Tensor) -> Tensor | None:
        if self.class_condition == 0:
            return None
        if self.class_condition == 1:
            return label
        told = torch.rand(label.shape, device=label.device) < self.class_condition
        return torch.where(told, label, -1)


def active_losses(model: EveNet, plan: Plan) -> set[str]:
    """Losses with a weight above zero whose heads the network has."""
    needed = {name for name, weight in plan.weights.items() if weight > 0}
    if model.config.object_generation is None:
        needed.discard("noised_classification")  # which features are noised is said there
    return {name for name in needed if getattr(model.config, HEAD_OF[name]) is not None}


def _outputs(model: EveNet, wanted: set[str], encoding: Encoding, mask: Tensor) -> Outputs:
    # As EveNet.apply_heads, without the heads that no loss asks for.
    classification = regression = None
    if "classification" in wanted and model.classification is not None:
        classification = model.classification(encoding.objects, mask, encoding.event)
    if "regression" in wanted and model.regression is not None:
        regression = model.regression(encoding.event)
    assignment: dict[str, ResonanceScores] = {}
    if "assignment" in wanted and model.assignment is not None:
        assignment = model.assignment(encoding, mask, model.has_condition(mask))
    segmentation: tuple[Segments, ...] = ()
    if "segmentation" in wanted and model.segmentation is not None:
        segmentation = model.segmentation(encoding.objects, mask)
    return Outputs(classification, regression, assignment, segmentation)


def _time(batch: TensorBatch) -> Tensor:
    return torch.rand(len(batch.label), device=batch.mask.device)


def _needed(topology: Topology | None, head: str) -> Topology:
    if topology is None:
        msg = f"the {head} head needs events with processes and their resonances; these have no grammar"
        raise ConfigError(msg)
    return topology
