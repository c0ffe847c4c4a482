"""Point-edge transformer: one vector per object from its features, its neighbours and all other objects.

:class:`PET` adds the local branch (:mod:`~evenet_hep.model.neighbours`) to an embedding of the features and runs
transformer blocks over the sum. A diffusion time enters as a scale and a shift of the embedding that are exactly one
and zero at t = 0, so that the same weights serve clean and noised events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.half import is_narrow, run_half, runs_half
from evenet_hep.model.layers import (
    Attention,
    FeedForward,
    Linear,
    add_branch,
    require,
    require_probability,
    single_precision,
)
from evenet_hep.model.neighbours import LocalBranch
from evenet_hep.model.packed import Packing
from evenet_hep.model.packing import Rows, arrange

TIME_TERMS = 64  # half of them sines, half cosines
SINGLE_LOCAL_BRANCH = ("cpu", "cuda")  # devices whose inference under autocast leaves the local branch alone


@dataclasses.dataclass(frozen=True)
class PETConfig:
    """Size and behaviour of the point-edge transformer.

    Parameters
    ----------
    layers : int
        Transformer blocks.
    heads : int
        Attention heads of each; divides the width.
    local_layers : int
        Neighbour layers, in sequence; 0 leaves the local branch out.
    neighbours : int
        Objects that every object sees in a neighbour layer.
    coordinates : sequence of str
        Object features whose columns measure the distance in the first neighbour layer. The later ones measure it
        between the vectors of the layer before.
    dropout : float
        In attention weights and in the feed-forward layers.
    drop_path : float
        Chance of an event to skip a residual branch in training.
    layer_scale : float
        Initial size of both branches of each transformer block.
    feature_drop : float
        Chance of a feature to be set to zero in training.
    feature_drop_mode : {"feature", "event"}
        ``"feature"`` drops every feature of an event by itself, everywhere. ``"event"`` is what the published
        training does: all features of an event at once, and in the transformer branch only.
    phantom_neighbours : bool
        False averages over the real neighbours, and an object without any gets zero. True is what the published
        network does: an event with too few objects fills up with padded slots.
    adapter : int
        Width of a bottleneck behind each transformer block, for fine-tuning; 0 for none.
    neighbours_see_attention_mask : bool
        True lets an object have only such neighbours as it may attend. False, as published, ignores the mask.
    """

    layers: int = 4
    heads: int = 8
    local_layers: int = 2
    neighbours: int = 3
    coordinates: tuple[str, ...] = ("eta", "phi")
    dropout: float = 0.1
    drop_path: float = 0.1
    layer_scale: float = 1e-5
    feature_drop: float = 0.1
    feature_drop_mode: Literal["feature", "event"] = "feature"
    phantom_neighbours: bool = False
    neighbours_see_attention_mask: bool = True
    adapter: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "coordinates", tuple(self.coordinates))
        for name in ("layers", "heads", "neighbours"):
            require(getattr(self, name) >= 1, f"pet.{name}", "at least 1", getattr(self, name))
        for name in ("local_layers", "adapter"):
            require(getattr(self, name) >= 0, f"pet.{name}", "at least 0", getattr(self, name))
        require(len(self.coordinates) > 0, "pet.coordinates", "at least one feature name", self.coordinates)
        for name in ("dropout", "drop_path", "feature_drop"):
            require_probability(f"pet.{name}", getattr(self, name))
        modes = ("feature", "event")
        require(
            self.feature_drop_mode in modes,
            "pet.feature_drop_mode",
            f"one of {modes}",
            self.feature_drop_mode,
        )


class TimeEmbedding(nn.Module):
    """A vector for a diffusion time that is exactly zero at t = 0.

    Sine and cosine of 1000 t f_i with f_i = 10000^(-i / 31), i = 0 ... 31, times t, and two linear layers without
    bias, each followed by SiLU.

    Parameters
    ----------
    width : int
        Width D of the vector.
    """

    frequency: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = TIME_TERMS // 2
        step = torch.log(torch.tensor(10000.0)) / (half - 1)
        self.register_buffer("frequency", torch.exp(-step * torch.arange(half)), persistent=False)
        self.expand = Linear(TIME_TERMS, 2 * width, bias=False)
        self.project = Linear(2 * width, width, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        """Vectors (B, D) of times (B,)."""
        time = time[:, None]
        angle = time * self.frequency * 1000.0
        waves = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1) * time
        vector: Tensor = F.silu(self.project(F.silu(self.expand(waves))))
        return vector


class Adapter(nn.Module):
    """Two thin linear layers that start as nothing: what fine-tuning can change without touching a block.

    Parameters
    ----------
    width : int
        Width D of the vectors.
    bottleneck : int
        Width between the layers.

    Examples
    --------
    >>> Adapter(8, 2)(torch.randn(3, 8)).abs().max().item()
    0.0
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = Linear(width, bottleneck, bias=False)
        self.up = Linear(bottleneck, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Update (..., D) of vectors (..., D)."""
        update: Tensor = self.up(F.gelu(self.down(x)))
        return update


class TransformerBlock(Packing):
    """Pre-norm attention and feed-forward layer, each with a learnt scale per channel (arXiv:2103.17239).

    Parameters
    ----------
    width : int
        Width D of the vectors.
    config : PETConfig
        Uses ``heads``, ``dropout``, ``drop_path``, ``layer_scale`` and ``adapter``.
    """

    def __init__(self, width: int, config: PETConfig) -> None:
        super().__init__()
        self.drop_path = config.drop_path
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=config.heads, dropout=config.dropout)
        self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout=config.dropout)
        self.feed_forward_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        self.adapter = Adapter(width, config.adapter) if config.adapter else None

    def forward(self, x: Tensor, layout: Rows) -> Tensor:
        """Rows (R, D) of rows (R, D), in place where it runs in bfloat16."""
        if runs_half(x, layout, self.attention.heads):
            run_half(self, x, layout)
            return x if self.adapter is None else x + self.adapter(x)
        x = self._add(x, self.attention(self.attention_norm(x), layout), self.attention_scale, layout)
        x = self._add(x, self.feed_forward(self.feed_forward_norm(x)), self.feed_forward_scale, layout)
        return x if self.adapter is None else x + self.adapter(x)

    def _add(self, x: Tensor, update: Tensor, scale: Tensor, layout: Rows) -> Tensor:
        return add_branch(x, update, scale, drop_path=self.drop_path, training=self.training, layout=layout)


class PET(nn.Module):
    """Point-edge transformer.

    Parameters
    ----------
    widths : sequence of int
        Columns of each object feature after its transform.
    coordinates : sequence of int
        Columns that measure the distance in the first neighbour layer.
    width : int
        Width D of the result.
    config : PETConfig
        Size and behaviour.
    """

    coordinates: Tensor
    feature_of_column: Tensor

    def __init__(
        self, widths: Sequence[int], coordinates: Sequence[int], *, width: int, config: PETConfig
    ) -> None:
        super().__init__()
        columns = sum(widths)
        self.config = config
        feature_of_column = torch.tensor([i for i, size in enumerate(widths) for _ in range(size)])
        self.register_buffer("coordinates", torch.tensor(coordinates), persistent=False)
        self.register_buffer("feature_of_column", feature_of_column, persistent=False)
        self.features = len(widths)
        self.feature_mlp = nn.Sequential(
            Linear(columns, 2 * width), nn.GELU(), Linear(2 * width, width), nn.GELU()
        )
        self.time_embedding = TimeEmbedding(width)
        self.film = Linear(width, 2 * width, bias=False)
        self.local: LocalBranch | None = None
        if config.local_layers:
            self.local = LocalBranch(
                columns,
                width,
                layers=config.local_layers,
                neighbours=config.neighbours,
                has_phantoms=config.phantom_neighbours,
                sees_attention_mask=config.neighbours_see_attention_mask,
            )
        self.blocks = nn.ModuleList(TransformerBlock(width, config) for _ in range(config.layers))

    def forward(
        self,
        features: Tensor,
        mask: Tensor,
        *,
        time: Tensor | None = None,
        time_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """One vector per object.

        Parameters
        ----------
        features : Tensor, shape (B, N, columns)
            Normalised features. Those of padded slots have no effect, except as neighbours where
            ``phantom_neighbours`` is set.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        time : Tensor, shape (B,), optional
            Diffusion time in [0, 1] of each event; None is the same as 0, and faster.
        time_mask : bool or float Tensor, shape (B, N), optional
            True for the objects that are noised: the others see time 0. None means all of them.
        attention_mask : bool Tensor, shape (N, N) or (B, N, N), optional
            True where object i (first axis) may attend object j. Padded slots are never attended.

        Returns
        -------
        Tensor, shape (B, N, width)
            Zero for padded slots.
        """
        keep = mask
        if self.config.phantom_neighbours:
            keep = self._with_phantoms(features, mask)
        else:
            features = torch.where(mask[..., None], features, 0.0)
        layout = arrange(mask, attention_mask=attention_mask, keep=keep)
        dropped = self._drop_features(features)
        # The published feature drop leaves the local branch as it is.
        seen = features if self.config.feature_drop_mode == "event" else dropped
        film: Tensor | None = None
        if time is not None:
            film = self.film(self.time_embedding(time))[:, None]  # (B, 1, 2D)
            film = film.expand(-1, mask.shape[1], -1) if time_mask is None else film * time_mask[..., None]

        width = self.film.in_features

        def context(x: Tensor) -> AbstractContextManager[object]:
            # There, neighbours are chosen, and their numbers added, in single precision.
            is_single = x.device.type in SINGLE_LOCAL_BRANCH and not torch.is_grad_enabled()
            return single_precision(x.device) if is_single else nullcontext()

        def run(rows: Rows) -> Tensor:
            taken = rows.take(dropped)
            with context(taken):
                x: Tensor = self.feature_mlp(taken).to(taken.dtype)  # autocast rounds products, never sums
            if film is not None:
                scale, shift = rows.take(film).chunk(2, dim=-1)
                x = x * (1 + scale) + shift
            if self.local is not None:
                with context(taken):
                    x = x + self.local(rows.take(seen), self.coordinates, rows)
            entered = x.clone() if runs_half(x, rows, self.config.heads) else x  # those blocks work in place
            with context(x) if is_narrow(width) and x.device.type == "cpu" else nullcontext():
                for block in self.blocks:
                    x = block(x, rows)
            return x + entered

        return layout.apply(run, width=width)

    def _with_phantoms(self, features: Tensor, mask: Tensor) -> Tensor:
        """Real slots, and all slots of an event with too few of them, if padding is not zero there."""
        is_small = mask.sum(dim=1) <= self.config.neighbours
        is_filled = ((features != 0).any(dim=-1) & ~mask).any(dim=1)
        return mask | (is_small & is_filled)[:, None]

    def _drop_features(self, features: Tensor) -> Tensor:
        if not self.training or self.config.feature_drop == 0:
            return features
        at_once = self.config.feature_drop_mode == "event"
        shape = (features.shape[0], 1, 1 if at_once else self.features)
        keep = features.new_empty(shape).bernoulli_(1 - self.config.feature_drop)
        return features * (keep if at_once else keep.index_select(-1, self.feature_of_column))
