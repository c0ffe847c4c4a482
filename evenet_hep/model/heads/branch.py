"""One vector per event to a few numbers: what regression and the detection of resonances have in common."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.layers import GatedBlock


class EventNorm(nn.BatchNorm1d):
    """Batch normalisation that also trains on a batch of one event, which it measures with the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, D) of vectors (B, D)."""
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        normalised: Tensor = super().forward(x)
        return normalised


class Branch(nn.Module):
    """Gated blocks, a normalisation and a linear layer.

    Parameters
    ----------
    width_in : int
        Width of the vectors.
    outputs : int
        Numbers per event.
    width : int
        Width of the blocks.
    blocks : int
        How many.
    dropout : float
        After linear layers.
    gated : bool
        See :class:`~evenet_hep.model.layers.GatedBlock`.

    Examples
    --------
    >>> import torch
    >>> Branch(8, 3, width=16, blocks=1, dropout=0.0)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, width_in: int, outputs: int, *, width: int, blocks: int, dropout: float, gated: bool = True
    ) -> None:
        super().__init__()
        self.bridge = nn.Identity() if width == width_in else nn.Linear(width_in, width)
        self.blocks = nn.Sequential(
            *(GatedBlock(width, width, dropout=dropout, gated=gated) for _ in range(blocks))
        )
        self.output_norm = EventNorm(width)
        self.output = nn.Linear(width, outputs)

    def forward(self, event: Tensor) -> Tensor:
        """Numbers (B, outputs) of vectors (B, width_in)."""
        result: Tensor = self.output(self.output_norm(self.blocks(self.bridge(event))))
        return result
