"""Which objects belong together: a few queries, each of which claims a set of objects and names it.

The queries look at the objects through masked cross-attention, at each other, and pass a feed-forward layer
(Mask2Former, arXiv:2112.01527). Mask and class of every query are read off before the first layer and after each.
The loss is in :mod:`evenet_hep.model.heads.segmentation_loss`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.layers import require, require_probability

NOTHING = 0  # class of a query that claims nothing
PADDED = -1e9  # mask logit of a padded slot


@dataclasses.dataclass(frozen=True)
class SegmentationConfig:
    """Segments and size of the segmentation head.

    Parameters
    ----------
    segments : sequence of str
        Names of the classes; class 0, nothing, comes before them.
    queries : int
        Most segments per event.
    layers : int
        Decoder layers.
    heads : int
        Attention heads; divides the width.
    mask_layers : int
        Linear layers between a query and its mask.
    dropout : float
        In attention weights and on the residual branches.
    attends_padding : bool
        What a query looks at that claims no object: False lets it look at all real ones. True, as published, at all
        ``capacity`` slots, padding included.
    """

    segments: tuple[str, ...] = ()
    queries: int = 4
    layers: int = 1
    heads: int = 8
    mask_layers: int = 1
    dropout: float = 0.1
    attends_padding: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        names = self.segments
        is_right = len(names) > 0 and len(set(names)) == len(names)
        require(is_right, "segmentation.segments", "one or more names without repetition", names)
        for name in ("queries", "layers", "heads", "mask_layers"):
            require(getattr(self, name) >= 1, f"segmentation.{name}", "at least 1", getattr(self, name))
        require_probability("segmentation.dropout", self.dropout)


class Segments(NamedTuple):
    """What the queries say.

    Attributes
    ----------
    classes : Tensor, shape (B, Q, S + 1)
        Logits of the class of each query; class 0 is nothing.
    masks : Tensor, shape (B, Q, N)
        Logits of an object belonging to a query, -1e9 for padded slots.
    """

    classes: Tensor
    masks: Tensor


class SegmentationHead(nn.Module):
    """Masks and classes of a fixed number of queries.

    Parameters
    ----------
    width : int
        Width D of the objects.
    capacity : int
        Largest number of objects; used by ``attends_padding`` alone.
    config : SegmentationConfig
        Segments and size.

    Examples
    --------
    >>> head = SegmentationHead(8, capacity=18, config=SegmentationConfig(("top", "W"), heads=2)).eval()
    >>> mask = torch.ones(2, 5, dtype=torch.bool)
    >>> *auxiliary, last = head(torch.randn(2, 5, 8), mask)
    >>> last.classes.shape, last.masks.shape, len(auxiliary)
    (torch.Size([2, 4, 3]), torch.Size([2, 4, 5]), 1)
    """

    def __init__(self, width: int, *, capacity: int, config: SegmentationConfig) -> None:
        super().__init__()
        self.capacity = capacity
        self.attends_padding = config.attends_padding
        self.query = nn.Parameter(torch.randn(config.queries, width))
        self.query_position = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(
            QueryLayer(width, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, len(config.segments) + 1)
        self.to_mask = nn.ModuleList(nn.Linear(width, width) for _ in range(config.mask_layers))

    def forward(self, objects: Tensor, mask: Tensor) -> tuple[Segments, ...]:
        """Segments before the first layer and after each; the last are the result, the others help training.

        Parameters
        ----------
        objects : Tensor, shape (B, N, D)
            One vector per object; zero for padded slots.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        """
        queries = self.query.to(objects.dtype).expand(objects.shape[0], -1, -1)
        position = self.query_position.to(objects.dtype)
        # One slot behind the event stands for all of its padding.
        memory = F.pad(objects, (0, 0, 0, 1))
        found = [self._read(queries, objects, mask)]
        for layer in self.layers:
            queries = layer(queries, position, memory, self._attention(found[-1].masks, mask, objects.dtype))
            found.append(self._read(queries, objects, mask))
        return tuple(found)

    def _read(self, queries: Tensor, objects: Tensor, mask: Tensor) -> Segments:
        normed = self.norm(queries)
        claim = normed
        for i, layer in enumerate(self.to_mask):
            claim = layer(F.relu(claim) if i else claim)
        logits = torch.bmm(claim, objects.to(claim.dtype).transpose(1, 2))  # (B, Q, N)
        return Segments(self.classify(normed), torch.where(mask[:, None], logits, PADDED))

    def _attention(self, logits: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        # (B, 1, Q, N + 1): what is added to the attention logits. A query looks at the objects it claims.
        claimed = (logits.detach() >= 0) & mask[:, None]
        claims_nothing = ~claimed.any(dim=-1, keepdim=True)
        seen = claimed | (claims_nothing & mask[:, None])
        bias = torch.zeros_like(logits).masked_fill(~seen, -torch.inf)
        padding = (self.capacity - mask.sum(dim=1)).clamp(min=0).to(logits.dtype)[:, None, None]
        if self.attends_padding:
            # Equal keys count as often as they are there.
            behind = torch.where(claims_nothing, torch.log(padding), -torch.inf)
        else:
            is_empty = ~mask.any(dim=1)[:, None, None]
            behind = torch.where(is_empty, 0.0, -torch.inf).expand_as(claims_nothing).to(logits.dtype)
        return torch.cat([bias, behind], dim=-1)[:, None].to(dtype)


class QueryLayer(nn.Module):
    """Queries look at objects, at each other, and pass a feed-forward layer; each with a normalised residual sum.

    Parameters
    ----------
    width : int
        Width D.
    heads : int
        Attention heads.
    dropout : float
        In attention weights and on the residual branches.
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.cross_attention = QueryAttention(width, heads=heads, dropout=dropout)
        self.self_attention = QueryAttention(width, heads=heads, dropout=dropout)
        self.expand = nn.Linear(width, 2 * width)
        self.project = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, position: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Queries (B, Q, D) of queries (B, Q, D); ``bias`` (B, 1, Q, N + 1) is added to the attention logits."""
        queries = self.cross_attention(queries + position, memory, memory, queries, bias)
        queries = self.self_attention(queries + position, queries + position, queries, queries, None)
        update = self.project(self.dropout(F.relu(self.expand(queries))))
        result: Tensor = self.norm(queries + self.dropout(update))
        return result


class QueryAttention(nn.Module):
    """Attention with keys and values of their own, a residual sum and a normalisation.

    Parameters
    ----------
    width : int
        Width D.
    heads : int
        Attention heads.
    dropout : float
        In attention weights and on the update.
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)  # query, key, value
        self.project_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.xavier_uniform_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, state: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The state (B, Q, D) after the update."""
        weights, biases = self.project_in.weight.chunk(3), self.project_in.bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        update = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        projected = self.project_out(update.transpose(1, 2).flatten(2))
        result: Tensor = self.norm(state + self.dropout(projected))
        return result
