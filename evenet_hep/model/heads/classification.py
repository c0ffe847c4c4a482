"""Which process an event comes from: the head and its loss."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.heads.branch import EventNorm
from evenet_hep.model.layers import (
    Attention,
    FeedForward,
    GatedBlock,
    Linear,
    attendable,
    is_autocast,
    require,
    require_probability,
    runs_kernels,
    single_precision,
)
from evenet_hep.model.packing import arrange
from evenet_hep.model.vectors16 import fits

IGNORED = -1  # label of an event without a class


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Size of the classification head.

    Parameters
    ----------
    heads : int
        Attention heads; divides the width.
    blocks : int
        Gated blocks between the attention and the output.
    dropout : float
        In attention weights and after linear layers.
    """

    heads: int = 8
    blocks: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.heads >= 1, "classification.heads", "at least 1", self.heads)
        require(self.blocks >= 0, "classification.blocks", "at least 0", self.blocks)
        require_probability("classification.dropout", self.dropout)


class ClassificationHead(nn.Module):
    """The event token asks the objects once more, and a gated block turns the answer into one logit per class.

    Parameters
    ----------
    classes : int
        Number C of classes.
    width : int
        Width D of objects and event token.
    config : ClassificationConfig
        Size of it.

    Examples
    --------
    >>> head = ClassificationHead(3, width=8, config=ClassificationConfig(heads=2)).eval()
    >>> mask = torch.ones(2, 5, dtype=torch.bool)
    >>> head(torch.zeros(2, 5, 8), mask, torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(self, classes: int, *, width: int, config: ClassificationConfig) -> None:
        super().__init__()
        self.object_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=config.heads, dropout=config.dropout)
        self.update_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout=config.dropout)
        self.blocks = nn.Sequential(
            *(GatedBlock(width, width, dropout=config.dropout) for _ in range(config.blocks))
        )
        self.output_norm = EventNorm(width)
        self.output = Linear(width, classes)

    def forward(self, objects: Tensor, mask: Tensor, event: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        objects : Tensor, shape (B, N, D)
            One vector per object.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        event : Tensor, shape (B, D)
            The event token.

        Returns
        -------
        Tensor, shape (B, C)
        """
        if is_autocast(objects.device):
            # Logits of bfloat16 have eight bits, too few for probabilities.
            kind = self.output.weight.dtype
            with single_precision(objects.device):
                return self._classify(objects.to(kind), mask, event.to(kind))
        return self._classify(objects, mask, event)

    def _classify(self, objects: Tensor, mask: Tensor, event: Tensor) -> Tensor:
        update = self.update_norm(self._ask(objects, mask, event))
        token = event + self.feed_forward(self.token_norm(update + event))
        logits: Tensor = self.output(self.output_norm(self.blocks(token)))
        return logits

    def _ask(self, objects: Tensor, mask: Tensor, event: Tensor) -> Tensor:
        is_compiled = runs_kernels(objects) and fits(self.attention.width, self.attention.heads)
        layout = arrange(mask) if is_compiled else None
        if layout is None or layout.slot is None or layout.starts is None or not mask.any(dim=1).all():
            update: Tensor = self.attention(event[:, None], attendable(mask), self.object_norm(objects))
            return update[:, 0]
        order = (
            layout.slot[torch.from_numpy(layout.starts[:-1])] // mask.shape[1]
        )  # of the events of the layout
        rows = self.object_norm(layout.take(objects))
        found = self.attention.from_outside(event.index_select(0, order), rows, layout.starts)
        return torch.empty_like(found).index_copy_(0, order, found)


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weight: Tensor | None = None,
    event_weight: Tensor | None = None,
) -> Tensor:
    """Weighted mean cross-entropy: sum of w_class w_event (-log p_label), over sum of w_class w_event.

    Parameters
    ----------
    logits : Tensor, shape (B, C)
        As given by :class:`ClassificationHead`.
    labels : int Tensor, shape (B,)
        Class of each event; -1 leaves an event out.
    class_weight : Tensor, shape (C,), optional
        Weight of each class; 1 if left out.
    event_weight : Tensor, shape (B,), optional
        Weight of each event, of either sign; 1 if left out.

    Returns
    -------
    Tensor, scalar
        Zero, with a gradient of zero, for a batch in which no event has a label. Where the weights sum to zero or
        less, the sum of losses is divided by the number of labelled events instead.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    >>> classification_loss(logits, torch.tensor([0, -1]))
    tensor(0.6931)
    """
    has_label = labels != IGNORED
    loss = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORED)
    weight = torch.ones_like(loss)
    if class_weight is not None:
        weight = weight * class_weight[labels.clamp(min=0)]
    if event_weight is not None:
        weight = weight * event_weight
    weight = torch.where(has_label, weight, 0.0)
    total = weight.sum()
    total = torch.where(total > 0, total, has_label.sum().clamp(min=1))
    return (weight * loss).sum() / total
