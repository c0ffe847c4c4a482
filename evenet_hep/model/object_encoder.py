"""Object encoder: objects, event features and an event token look at each other."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.layers import (
    Attention,
    FeedForward,
    Gate,
    GatedBlock,
    is_autocast,
    require,
    require_probability,
    single_precision,
)
from evenet_hep.model.packing import Rows, arrange


@dataclasses.dataclass(frozen=True)
class ObjectEncoderConfig:
    """Size of the object encoder.

    Parameters
    ----------
    layers : int
        Attention layers.
    heads : int
        Attention heads of each; divides the width.
    blocks : int
        Gated blocks before the attention layers.
    type_width : int
        Width of the learnt vector that tells objects from event features.
    dropout : float
        In attention weights and after linear layers.
    """

    layers: int = 2
    heads: int = 8
    blocks: int = 2
    type_width: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "type_width"):
            require(getattr(self, name) >= 1, f"object_encoder.{name}", "at least 1", getattr(self, name))
        require(self.blocks >= 0, "object_encoder.blocks", "at least 0", self.blocks)
        require_probability("object_encoder.dropout", self.dropout)


class Encoding(NamedTuple):
    """What the heads read.

    Attributes
    ----------
    objects : Tensor, shape (B, N, D)
        One vector per object; zero for padded slots.
    event : Tensor, shape (B, D)
        One vector per event.
    condition : Tensor, shape (B, D)
        The vector of the event features; zero if there are none.
    """

    objects: Tensor
    event: Tensor
    condition: Tensor


class GatedAttention(nn.Module):
    """Attention and a gated block, with gates in place of residual sums (GTrXL, arXiv:1910.06764).

    Parameters
    ----------
    width : int
        Width D of the vectors.
    heads : int
        Attention heads.
    dropout : float
        In attention weights and after linear layers.
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout)
        self.gate = Gate(width)
        self.block = GatedBlock(width, width, dropout=dropout)

    def forward(self, x: Tensor, layout: Rows) -> Tensor:
        """Rows (R, D) of rows (R, D)."""
        attended: Tensor = self.block(self.gate(self.attention(self.norm(x), layout), x))
        return attended


class ObjectEncoder(nn.Module):
    """Objects and event features, each marked with its type, and a learnt event token attend each other.

    Parameters
    ----------
    width : int
        Width D of all vectors.
    config : ObjectEncoderConfig
        Size of it.
    """

    def __init__(self, *, width: int, config: ObjectEncoderConfig) -> None:
        super().__init__()
        self.object_type = nn.Parameter(torch.randn(config.type_width))
        self.condition_type = nn.Parameter(torch.randn(config.type_width))
        self.event_token = nn.Parameter(torch.randn(width))
        self.combine = GatedBlock(width + config.type_width, width, expansion=1.0, gated=False)
        self.blocks = nn.Sequential(
            *(GatedBlock(width, width, dropout=config.dropout) for _ in range(config.blocks))
        )
        self.layers = nn.ModuleList(
            GatedAttention(width, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        # One more residual layer, shared by all attention layers.
        self.shared_norm = nn.LayerNorm(width)
        self.shared = FeedForward(width, dropout=config.dropout)

    def forward(
        self,
        objects: Tensor,
        mask: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        token: Tensor | None = None,
    ) -> Encoding:
        """Vectors of objects, event and event features that have seen each other.

        Parameters
        ----------
        objects : Tensor, shape (B, N, D)
            One vector per object, as given by :class:`~evenet_hep.model.pet.PET`.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        condition : Tensor, shape (B, D)
            The embedded event features.
        condition_mask : bool Tensor, shape (B,)
            False where there are no event features.
        token : Tensor, shape (B, D), optional
            Takes the place of the learnt event token.

        Returns
        -------
        Encoding
        """
        if is_autocast(objects.device):
            # In bfloat16 these layers alone would change probabilities by up to 0.01.
            kind = self.event_token.dtype
            token = None if token is None else token.to(kind)
            with single_precision(objects.device):
                return self._encode(objects.to(kind), mask, condition.to(kind), condition_mask, token)
        return self._encode(objects, mask, condition, condition_mask, token)

    def _encode(
        self, objects: Tensor, mask: Tensor, condition: Tensor, condition_mask: Tensor, token: Tensor | None
    ) -> Encoding:
        batch = mask.shape[0]
        is_real = torch.cat([mask, condition_mask[:, None]], dim=1)
        tokens = torch.cat([objects, condition[:, None]], dim=1)  # (B, N + 1, D)
        types = torch.cat(
            [self.object_type.expand(*mask.shape, -1), self.condition_type.expand(batch, 1, -1)], dim=1
        )

        def embed(rows: Rows) -> Tensor:
            taken = rows.take(tokens)
            typed = torch.cat([taken, rows.take(types).to(taken.dtype)], dim=-1)
            embedded: Tensor = self.blocks(self.combine(typed).to(typed.dtype))
            return embedded

        tokens = arrange(is_real).apply(embed, width=objects.shape[-1])
        event = self.event_token if token is None else token[:, None]
        tokens = torch.cat([event.to(tokens.dtype).expand(batch, 1, -1), tokens], dim=1)  # (B, 1 + N + 1, D)

        def attend(rows: Rows) -> Tensor:
            x = rows.take(tokens)
            for layer in self.layers:
                x = x + layer(x, rows)
                x = x + self.shared(self.shared_norm(x))
            return x

        x = arrange(F.pad(is_real, (1, 0), value=True)).apply(attend, width=objects.shape[-1])
        return Encoding(objects=x[:, 1:-1], event=x[:, 0], condition=x[:, -1])
