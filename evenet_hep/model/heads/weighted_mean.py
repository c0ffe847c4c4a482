"""The weighted mean that the losses of all heads are."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight times loss over the sum of the weights.

    Parameters
    ----------
    loss : Tensor
        Losses, all of them finite.
    weight : Tensor, same shape or one that can be broadcast to it
        Weights, of either sign; zero leaves a term out.

    Returns
    -------
    Tensor, scalar
        Zero, with a gradient of zero, if all weights are. Where they sum to zero or less, the sum of the losses is
        divided by the number of terms instead: a negative divisor would turn the gradients of all terms round.

    Examples
    --------
    >>> loss = torch.tensor([1.0, 2.0, 6.0])
    >>> weighted_mean(loss, torch.tensor([1.0, 1.0, 0.0])), weighted_mean(loss, torch.tensor([1.0, -1.0, 0.0]))
    (tensor(1.5000), tensor(-0.5000))
    >>> weighted_mean(loss, torch.zeros(3))
    tensor(0.)
    """
    weight = weight.to(loss.dtype).expand_as(loss)
    return (weight * loss).sum() / divisor(weight)


def divisor(weight: Tensor) -> Tensor:
    """What a sum of weighted losses is divided by: the sum of the weights or, if that is not positive, their number.

    Examples
    --------
    >>> divisor(torch.tensor([2.0, 3.0])), divisor(torch.tensor([2.0, -3.0, 0.0])), divisor(torch.zeros(2))
    (tensor(5.), tensor(2.), tensor(1.))
    """
    total = weight.sum()
    return torch.where(total > 0, total, (weight != 0).sum().clamp(min=1))
