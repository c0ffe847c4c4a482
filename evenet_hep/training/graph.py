"""Training of the graph network: one loop for pretraining, training from scratch and fine-tuning, and ensembles.

>>> import torch
>>> from evenet_hep import EventSchema
>>> from evenet_hep.model.graph import GraphConfig, GraphNetwork
>>> schema = EventSchema.standard(classes=("a", "b", "c"))
>>> pretrained = GraphNetwork(GraphConfig(width=8, hidden=8), schema)
>>> model = replace_output(pretrained, classes=("signal", "background"))
>>> sorted({(group["name"], group["lr"]) for group in output_groups(model, rate=1e-3)})
[('body', 0.0001), ('output', 0.001)]
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.model.devices import seeded
from evenet_hep.model.graph import GraphNetwork, multilabel_loss
from evenet_hep.model.heads.classification import classification_loss
from evenet_hep.model.layers import require

BODY_RATIO = 10.0  # learning rate of a new output layer over that of the pretrained body


@dataclasses.dataclass(frozen=True)
class GraphTrainingConfig:
    """How a graph network is trained.

    Parameters
    ----------
    epochs : int
        Epochs, by default passes over the training events. The network is validated behind each.
    events_per_epoch : int, optional
        Training events of an epoch: less than a pass shows sooner how far the network is. Every event is seen once
        before any is seen again, across epochs. A number above that of the training events is a pass.
    batch_size : int
        Events per step.
    rate : float
        Largest learning rate of AdamW: it rises over the first tenth of the steps and falls as a cosine.
    body_ratio : float
        Learning rate of the output layer over that of everything else; 10 for fine-tuning, 1 to train alike.
    weight_decay : float
        Of all weights but biases and normalisations.
    clip : float
        Largest norm of the gradient.
    seed : int
        Of the order of the events.
    precision : {"single", "bf16"}
        bf16 computes products in bfloat16, for GPUs and processors that have it; weights, the output layer and validation stay in single precision.
    """

    epochs: int = 20
    batch_size: int = 256
    rate: float = 1e-3
    body_ratio: float = 1.0
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: Literal["single", "bf16"] = "single"
    events_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        events = self.events_per_epoch
        require(events is None or events >= 1, "events_per_epoch", "at least 1, or None", events)
        for name in ("rate", "body_ratio", "clip"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(self.precision in ("single", "bf16"), "precision", "'single' or 'bf16'", self.precision)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)


class GraphSample(NamedTuple):
    """Events with their targets.

    Attributes
    ----------
    objects, mask, event_features : Tensor
        As in :meth:`~evenet_hep.events.cloud.EventCloud.to_torch`.
    target : Tensor
        Classes, int64 of shape (n,), or labels, float of shape (n, L).
    """

    objects: Tensor
    mask: Tensor
    event_features: Tensor
    target: Tensor

    def take(self, rows: Tensor) -> GraphSample:
        """Some of the events, trimmed to the largest number of objects among them."""
        part = GraphSample(*(tensor[rows] for tensor in self))
        slots = max(1, int(part.mask.sum(dim=1).max())) if len(part.target) else 1
        return part._replace(objects=part.objects[:, :slots], mask=part.mask[:, :slots])

    def to(self, device: torch.device | str) -> GraphSample:
        """The same events on a device."""
        return GraphSample(*(tensor.to(device) for tensor in self))


class Epoch(NamedTuple):
    """One pass over the training events.

    Attributes
    ----------
    loss, validation_loss : float
        Mean over the training events, while they were learnt, and over the validation events.
    accuracy : float
        Mean over the classes of the share of validation events that are put into the right one; for labels the share
        of yes-or-no labels that are right.
    seconds : float
        Of all epochs so far by the clock on the wall, without validation.
    """

    loss: float
    validation_loss: float
    accuracy: float
    seconds: float


class GraphTraining(NamedTuple):
    """A trained network and how it got there.

    Attributes
    ----------
    model : GraphNetwork
        With the weights of the best epoch, in evaluation mode.
    history : tuple of Epoch
        One entry per epoch.
    best : int
        The epoch with the smallest validation loss.
    """

    model: GraphNetwork
    history: tuple[Epoch, ...]
    best: int


def _silent(epoch: int, result: Epoch) -> None:
    """Show no progress."""


def train_graph(
    model: GraphNetwork,
    training: GraphSample,
    validation: GraphSample,
    config: GraphTrainingConfig | None = None,
    *,
    progress: Callable[[int, Epoch], None] = _silent,
) -> GraphTraining:
    """Train a graph network, classes with equal weight, and keep the epoch with the smallest validation loss.

    Parameters
    ----------
    model : GraphNetwork
        Trained in place, on the device it is on.
    training, validation : GraphSample
        Events; an event without a class has -1. All of them are brought to the device of the network.
    config : GraphTrainingConfig, optional
        How.
    progress : callable
        Called with the number of the epoch and its result.

    Returns
    -------
    GraphTraining
        On a processor with one thread the same events, weights and seed give the same result, otherwise the same
        within rounding.

    Raises
    ------
    InputError
        For a sample without events, targets that do not fit the network, or a loss that is not finite: that is seen
        behind the step, and the network is spoilt.
    """
    config = config or GraphTrainingConfig()
    for name, sample in (("training", training), ("validation", validation)):
        _check_targets(model, name, sample)
    device = next(model.parameters()).device
    groups = output_groups(model, config.rate, ratio=config.body_ratio, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda")
    training, validation = training.to(device), validation.to(device)
    class_weight = None if model.config.labels else balanced_weights(training.target, model.schema.classes)
    events = min(len(training.target), config.events_per_epoch or len(training.target))  # of an epoch
    steps = config.epochs * math.ceil(events / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _ramp(step, steps))
    orders = _orders(len(training.target), events, torch.Generator().manual_seed(config.seed))
    history: list[Epoch] = []
    best, weights, seconds = 0, {}, 0.0
    for epoch in range(config.epochs):
        start = time.perf_counter()
        total = 0.0
        model.train()
        for rows in next(orders).to(device).split(config.batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = _loss(model, training.take(rows), class_weight)
            _step(model, optimizer, loss, config.clip)
            schedule.step()
            value = loss.item()  # waits for a GPU: after the step, once there is nothing more to hand it
            if not math.isfinite(value):
                msg = f"the loss is {value} in epoch {epoch}; the last finite ones are {history[-3:]}"
                raise InputError(msg)
            total += value * len(rows)
        seconds += time.perf_counter() - start
        history.append(_validate(model, validation, total / events, seconds))
        if history[-1].validation_loss <= history[best].validation_loss:
            best = epoch
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        progress(epoch, history[-1])
    model.load_state_dict(weights)
    return GraphTraining(model.eval(), tuple(history), best)


def _orders(events: int, per_epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of one epoch after the other, without end: every event once before any a second time."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        if len(left) < per_epoch:
            left = torch.cat([left, torch.randperm(events, generator=generator)])
        yield left[:per_epoch]
        left = left[per_epoch:]


def train_ensemble(
    make: Callable[[int], GraphNetwork],
    training: GraphSample,
    validation: GraphSample,
    config: GraphTrainingConfig | None = None,
    *,
    members: int = 5,
    progress: Callable[[int, Epoch], None] = _silent,
) -> list[GraphTraining]:
    """Several networks that differ in their seed alone, as in arXiv:2412.10665.

    Parameters
    ----------
    make : callable
        The network of each member, from its number; PyTorch's random numbers are seeded with ``config.seed`` plus
        that number before it is called.
    training, validation, config, progress
        As in :func:`train_graph`.
    members : int
        Number of networks.
    """
    config = config or GraphTrainingConfig()
    found = []
    for member in range(members):
        seed = config.seed + member
        with seeded(seed):
            model = make(member)
        run = dataclasses.replace(config, seed=seed)
        found.append(train_graph(model, training, validation, run, progress=progress))
    return found


def ensemble_probabilities(models: Sequence[GraphNetwork], sample: GraphSample) -> Tensor:
    """Mean over the members of an ensemble of the class probabilities, shape (n, C), on the CPU."""
    if not models:
        msg = "an ensemble needs at least one network; found none"
        raise InputError(msg)
    return torch.stack([outputs_of(model, sample).softmax(dim=1) for model in models]).mean(dim=0)


@torch.inference_mode()
def outputs_of(model: GraphNetwork, sample: GraphSample, *, batch_size: int = 512) -> Tensor:
    """Logits of the classes or values of the labels, shape (n, C or L), in evaluation mode, on the CPU."""
    return torch.cat(
        [next(iter(model(*part[:3]).values())) for part in _batches(model, sample, batch_size)]
    ).cpu()


@torch.inference_mode()
def stages_of(model: GraphNetwork, sample: GraphSample, *, batch_size: int = 512) -> dict[str, Tensor]:
    """Event vectors of every stage of the network, on the CPU, for :func:`~evenet_hep.stats.similarity.cka`."""
    found = [model.stages(*part[:3]) for part in _batches(model, sample, batch_size)]
    return {name: torch.cat([part[name] for part in found]).cpu() for name in found[0]}


def _batches(model: GraphNetwork, sample: GraphSample, batch_size: int) -> Iterator[GraphSample]:
    model.eval()
    device = next(model.parameters()).device
    for rows in torch.arange(len(sample.target), device=sample.target.device).split(batch_size):
        yield sample.take(rows).to(device)


def replace_output(
    model: GraphNetwork, *, classes: Sequence[str] | None = None, labels: Sequence[str] = (), counts: int = 0
) -> GraphNetwork:
    """The same body with a new output layer.

    Parameters
    ----------
    model : GraphNetwork
        Left as it is.
    classes : sequence of str, optional
        Names of the new classes; those of the network by default.
    labels, counts
        As in :class:`~evenet_hep.model.graph.GraphConfig`, to train for labels instead of classes.
    """
    schema = model.schema if classes is None else dataclasses.replace(model.schema, classes=tuple(classes))
    config = dataclasses.replace(model.config, labels=tuple(labels), counts=counts)
    new = GraphNetwork(config, schema).to(next(model.parameters()).device)
    body = {name: value.clone() for name, value in model.state_dict().items() if not _is_output(name)}
    new.load_state_dict({**new.state_dict(), **body})
    return new


def output_groups(
    model: GraphNetwork, rate: float, *, ratio: float = BODY_RATIO, weight_decay: float = 0.01
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the output layer learns at ``rate`` and the body at ``rate / ratio``.

    Biases and normalisations have no weight decay, and groups of their own.
    """
    if not rate > 0 or not ratio > 0:
        msg = f"rate and ratio must be positive; found {rate} and {ratio}"
        raise ConfigError(msg)
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        part = "output" if _is_output(name) else "body"
        decay = weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault(
            (part, decay),
            {
                "params": [],
                "lr": rate if part == "output" else rate / ratio,
                "weight_decay": decay,
                "name": part,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def balanced_weights(target: Tensor, classes: Sequence[str]) -> Tensor:
    """Weight of each class that makes all of them count the same; 0 for a class without events.

    Examples
    --------
    >>> balanced_weights(torch.tensor([0, 0, 0, 1]), ("a", "b"))
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(target[target >= 0], minlength=len(classes)).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), 0.0)


def _is_output(name: str) -> bool:
    return name.startswith("output.")


def _loss(model: GraphNetwork, sample: GraphSample, class_weight: Tensor | None) -> Tensor:
    output = model(*sample[:3])
    if model.config.labels:
        return multilabel_loss(output["multilabel"], sample.target, counts=model.config.counts)
    return classification_loss(output["classification"], sample.target, class_weight=class_weight)


def _step(model: GraphNetwork, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def _validate(model: GraphNetwork, sample: GraphSample, loss: float, seconds: float) -> Epoch:
    output, target = outputs_of(model, sample), sample.target.cpu()
    counts = model.config.counts
    if model.config.labels:
        found = float(multilabel_loss(output, target, counts=counts))
        right = ((output[:, counts:] > 0) == (target[:, counts:] > 0.5)).float()
        return Epoch(loss, found, float(right.mean()), seconds)
    weight = balanced_weights(target, model.schema.classes)
    found = float(classification_loss(output, target, class_weight=weight))
    return Epoch(loss, found, class_accuracy(output, target), seconds)


def class_accuracy(output: Tensor, target: Tensor) -> float:
    """Mean over the classes of the share of their events whose largest output is the right one."""
    right = (output.argmax(dim=1) == target).float()
    return float(torch.stack([right[target == k].mean() for k in target.unique() if k >= 0]).mean())


def _ramp(step: int, steps: int) -> float:
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _check_targets(model: GraphNetwork, name: str, sample: GraphSample) -> None:
    labels, target = model.config.labels, sample.target
    if not len(target):
        msg = f"the {name} sample has no events"
        raise InputError(msg)
    if labels and target.shape != (len(sample.mask), len(labels)):
        msg = (
            f"{name} targets must have shape ({len(sample.mask)}, {len(labels)}); found {tuple(target.shape)}"
        )
        raise InputError(msg)
    if labels:
        return
    number = len(model.schema.classes)
    is_right = target.ndim == 1 and target.dtype == torch.int64 and int(target.min()) >= -1
    if not is_right or int(target.max()) >= number:
        found = (
            f"{target.dtype} of shape {tuple(target.shape)}, {target.min().item()} to {target.max().item()}"
        )
        msg = f"{name} targets must be int64 classes from -1 to {number - 1}, one per event; found {found}"
        raise InputError(msg)
