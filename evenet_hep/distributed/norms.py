"""Batch normalisation over the batches of all processes.

Without it two processes would each normalise with half of the events, and train another network than one process with
the whole batch. torch has the same for GPUs alone.
"""

from __future__ import annotations

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor, nn

from evenet_hep.model.heads.branch import EventNorm


class SharedNorm(EventNorm):
    """Batch normalisation with the mean and variance of the events of all processes.

    Outside of training, or of a group of processes, it is the normalisation that it replaces.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, D) of vectors (B, D)."""
        is_group = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if not (self.training and is_group):
            return super().forward(x)
        count = x.new_full((1,), float(x.shape[0]))
        total = _sum(torch.cat([x.sum(dim=0), count]))
        n_events = total[-1]
        mean = total[:-1] / n_events
        variance = _sum((x - mean).square().sum(dim=0)) / n_events
        self._remember(mean.detach(), variance.detach(), n_events.detach())
        normalised = (x - mean) / torch.sqrt(variance + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight + self.bias
        return normalised

    def _remember(self, mean: Tensor, variance: Tensor, n_events: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * n_events / (n_events - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = torch.distributed.nn.functional.all_reduce(x)
    return total


def share_norms(model: nn.Module) -> int:
    """Let every batch normalisation of a model see the events of all processes; the number of them.

    Examples
    --------
    >>> from evenet_hep.model.heads.branch import Branch
    >>> branch = Branch(8, 3, width=16, blocks=1, dropout=0.0)
    >>> share_norms(branch), share_norms(branch)
    (1, 0)
    """
    found = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d) and not isinstance(m, SharedNorm)]
    for module in found:
        module.__class__ = SharedNorm  # weights and their names stay as they are
    return len(found)
