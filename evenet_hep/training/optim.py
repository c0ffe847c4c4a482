"""Optimisers and the course of their learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from evenet_hep.model.layers import require
from evenet_hep.training.config import TrainingConfig
from evenet_hep.training.finetune import parameter_groups


class Lion(Optimizer):
    """Evolved sign momentum (arXiv:2302.06675, algorithm 2).

    With gradient g and average m: the weights move by -lr (sign(b1 m + (1 - b1) g) + decay * weight), then
    m becomes b2 m + (1 - b2) g. Every weight moves by the same amount, so rates are three to ten times smaller, and
    decays larger, than those of AdamW.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them.
    lr : float
        Learning rate.
    betas : pair of float
        b1 and b2.
    weight_decay : float
        Decoupled from the gradient.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = Lion([weight], lr=0.1)
    >>> weight.grad = torch.tensor([5.0, -0.001])
    >>> _ = optimizer.step()
    >>> weight.data
    tensor([ 0.9000, -0.9000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.95, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        require(lr >= 0, "lr", "at least 0", lr)
        require(all(0 <= beta < 1 for beta in betas), "betas", "two numbers in [0, 1)", betas)
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; a closure computes the loss and the gradients anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    @torch.no_grad()
    def _step_group(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights]
        averages = [self.state[weight]["average"] for weight in weights]
        first, second = group["betas"]
        updates = torch._foreach_lerp(averages, gradients, 1 - first)
        torch._foreach_sign_(updates)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])
        torch._foreach_lerp_(averages, gradients, 1 - second)


def make_optimizer(model: nn.Module, config: TrainingConfig, *, workers: int = 1) -> Optimizer:
    """The optimiser of a run, over the parameters that can be trained.

    Parameters
    ----------
    model : EveNet
        The network.
    config : TrainingConfig
        Which optimiser, and its settings.
    workers : int
        Number W of processes that train together. Learning rates are multiplied, and weight decays divided, by the
        square root of W, if the configuration says so.

    Returns
    -------
    torch.optim.Optimizer
    """
    factor = math.sqrt(workers) if config.scale_with_workers else 1.0
    rates = {part: rate * factor for part, rate in config.rates.items()}
    groups = parameter_groups(
        model, rates, weight_decay=config.weight_decay / factor, layer_decay=config.layer_decay
    )
    if config.weight_decay_backbone is not None:
        for group in groups:
            if group["name"] not in ("heads", "adapters") and group["weight_decay"]:
                group["weight_decay"] = config.weight_decay_backbone / factor
    first, second = config.betas or ((0.95, 0.99) if config.optimizer == "lion" else (0.9, 0.999))
    if config.optimizer == "lion":
        return Lion(groups, betas=(first, second))
    return AdamW(groups, betas=(first, second))


def rate_factor(
    step: int, *, warmup: int, total: int, final: float = 0.0, is_constant: bool = False
) -> float:
    """Learning rate of a step in units of the largest one: a straight rise, then half a cosine.

    Parameters
    ----------
    step : int
        Steps done so far.
    warmup : int
        Steps of the rise.
    total : int
        Steps of the run.
    final : float
        What the cosine falls to.
    is_constant : bool
        True stays at one after the rise.

    Examples
    --------
    >>> [round(rate_factor(step, warmup=2, total=6), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if is_constant:
        return 1.0
    part = min((step - warmup) / max(total - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * part))


def make_schedule(optimizer: Optimizer, config: TrainingConfig, *, steps_per_epoch: int) -> LambdaLR:
    """The course of the learning rate, to be stepped after every step of the optimiser."""
    warmup, total = round(config.warmup * steps_per_epoch), config.epochs * steps_per_epoch
    constant = config.schedule == "constant"

    def factor(step: int) -> float:
        return rate_factor(step, warmup=warmup, total=total, final=config.final_lr, is_constant=constant)

    return LambdaLR(optimizer, factor)
