"""Velocities of noised points and of noised event features: the heads of the diffusion model, and their loss.

How data are noised and samples drawn stands in :mod:`evenet_hep.model.diffusion`; which values are noised and what
the heads are told about an event, in :mod:`evenet_hep.model.generation`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.heads.weighted_mean import weighted_mean
from evenet_hep.model.layers import Attention, attendable, drop_path, require, require_probability
from evenet_hep.model.pet import TimeEmbedding


@dataclasses.dataclass(frozen=True)
class PointGenerationConfig:
    """Size of the head that gives the velocity of noised points.

    Parameters
    ----------
    layers : int
        Attention layers.
    heads : int
        Attention heads; divides the width.
    dropout : float
        In attention weights.
    layer_scale : float
        Initial size of both branches of each layer.
    """

    layers: int = 1
    heads: int = 4
    dropout: float = 0.1
    layer_scale: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            require(getattr(self, name) >= 1, f"generation: {name}", "at least 1", getattr(self, name))
        require_probability("generation: dropout", self.dropout)


@dataclasses.dataclass(frozen=True)
class ObjectGenerationConfig(PointGenerationConfig):
    """What is generated about the objects, from what, and the size of the head that does it.

    Parameters
    ----------
    layers, heads, dropout, layer_scale
        As in :class:`PointGenerationConfig`.
    features : sequence of str
        Object features to generate; empty for all of them. The others of a noised object are not seen.
    conditions : sequence of str
        Event features the network is told when objects are noised; the others would give the answer away.
    zeroed_conditions : {"normalised", "raw"}
        How the other event features are taken away: set to zero after the normalisation, or before it. The published
        network was trained with the first and sampled with the second.
    """

    features: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    zeroed_conditions: Literal["normalised", "raw"] = "normalised"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("features", "conditions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        where = self.zeroed_conditions
        is_right = where in ("normalised", "raw")
        require(is_right, "object_generation.zeroed_conditions", "'normalised' or 'raw'", where)


@dataclasses.dataclass(frozen=True)
class InvisibleGenerationConfig(PointGenerationConfig):
    """How invisible particles are generated, and the size of the head that does it.

    Parameters
    ----------
    layers, heads, dropout, layer_scale
        As in :class:`PointGenerationConfig`.
    positions : int
        Most particles that are told apart by their order; 0 generates them as a set.
    columns : {"projected", "padded"}
        How their columns become those of objects: by a small network or, as in the first published weights, by
        zeros after them. ``"padded"`` needs no more columns than objects have.
    padded_output : bool
        True gives the head an output for every column of an object, of which only the first are used, as in the first
        published weights.
    """

    positions: int = 2
    columns: Literal["projected", "padded"] = "projected"
    padded_output: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.positions >= 0, "invisible_generation.positions", "at least 0", self.positions)
        is_right = self.columns in ("projected", "padded")
        require(is_right, "invisible_generation.columns", "'projected' or 'padded'", self.columns)


class PointGenerationHead(nn.Module):
    """Velocity of each point from the point, the time, the event features and the class.

    Parameters
    ----------
    width : int
        Width D of the points.
    columns : int
        Columns C of a velocity.
    classes : int
        Classes that can be asked for; 0 if none.
    sees_count : bool
        True tells the head how many points there are.
    positions : int
        Most noised points that are told apart by their order; 0 generates them as a set.
    config : PointGenerationConfig
        Size.

    Examples
    --------
    >>> head = PointGenerationHead(
    ...     8, 3, classes=2, sees_count=False, positions=2, config=PointGenerationConfig(heads=2)
    ... ).eval()
    >>> mask = torch.ones(1, 4, dtype=torch.bool)
    >>> noised = torch.tensor([[False, False, True, True]])
    >>> head(torch.zeros(1, 4, 8), mask, torch.zeros(1, 8), torch.tensor([0.5]), noised).shape
    torch.Size([1, 4, 3])
    """

    def __init__(
        self,
        width: int,
        columns: int,
        *,
        classes: int,
        sees_count: bool,
        positions: int,
        config: PointGenerationConfig,
    ) -> None:
        super().__init__()
        self.time_embedding = TimeEmbedding(width)
        self.count_embedding = TimeEmbedding(width) if sees_count else None
        self.position = nn.Embedding(positions + 1, width) if positions else None
        self.token = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.GELU()
        )
        self.label = nn.Linear(classes, width, bias=False) if classes else None
        self.layers = nn.ModuleList(GenerationLayer(width, config) for _ in range(config.layers))
        self.output = nn.Linear(width, columns)

    def forward(
        self,
        points: Tensor,
        mask: Tensor,
        condition: Tensor,
        time: Tensor,
        noised: Tensor,
        *,
        label: Tensor | None = None,
        count: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Velocities.

        Parameters
        ----------
        points : Tensor, shape (B, N, D)
            One vector per point, as given by :class:`~evenet_hep.model.pet.PET`.
        mask : bool Tensor, shape (B, N)
            True for a real point, noised or not.
        condition : Tensor, shape (B, D)
            The embedded event features; zero if there are none.
        time : Tensor, shape (B,)
            Diffusion time.
        noised : bool Tensor, shape (B, N)
            True for a noised point.
        label : int Tensor, shape (B,), optional
            Class to generate; -1, or None, for no class in particular.
        count : Tensor, shape (B,), optional
            Normalised number of points.
        attention_mask : bool Tensor, shape (N, N) or (B, N, N), optional
            True where a point (first axis) may attend another.

        Returns
        -------
        Tensor, shape (B, N, C)
            Zero for padded slots.
        """
        when = self.time_embedding(time)[:, None] * noised[..., None]  # (B, N, D)
        token = self.token(torch.cat([when, condition[:, None].expand_as(when)], dim=-1))
        if self.position is not None:
            order = (noised.cumsum(dim=1) * noised).clamp(max=self.position.num_embeddings - 1)
            points = points + self.position(order) * noised[..., None]
        if self.count_embedding is not None and count is not None:
            token = token + self.count_embedding(count)[:, None]
        if self.label is not None and label is not None:
            token = (
                token + self.label(one_hot(label, self.label.in_features, self.label.weight.dtype))[:, None]
            )
        allowed = attendable(mask)
        if attention_mask is not None:
            allowed = allowed & (attention_mask if attention_mask.ndim == 2 else attention_mask[:, None])
            # A query without any key, which only padding can be, keeps its softmax finite.
            allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
        for layer in self.layers:
            token = layer(token + points, token, allowed)
        x = token + points
        velocity: Tensor = self.output(F.layer_norm(x, x.shape[-1:]))
        return torch.where(mask[..., None], velocity, 0.0)


class GenerationLayer(nn.Module):
    """Attention among points with the residual sums on the token that carries the conditions.

    Parameters
    ----------
    width : int
        Width D.
    config : PointGenerationConfig
        Size.
    """

    def __init__(self, width: int, config: PointGenerationConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=config.heads, dropout=config.dropout)
        self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.feed_forward_scale = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, x: Tensor, token: Tensor, allowed: Tensor) -> Tensor:
        """The token (B, N, D) after points (B, N, D) have looked at each other."""
        token = token + self.attention(self.attention_norm(x), allowed) * self.attention_scale
        updated: Tensor = token + self.feed_forward(self.feed_forward_norm(token)) * self.feed_forward_scale
        return updated


@dataclasses.dataclass(frozen=True)
class GlobalGenerationConfig:
    """What is generated about an event as a whole, and the size of the head that does it.

    Parameters
    ----------
    targets : sequence of str
        Event features to generate, after the number of objects, which always is.
    conditions : sequence of str
        Event features the head is told.
    width : int
        Width of the head.
    blocks : int
        Residual blocks. With none, as published, the head is linear in the noised values at any one time.
    block_layers : int
        Linear layers of each.
    dropout : float
        In the blocks.
    layer_scale : float
        Initial size of the blocks.
    label_drop : float
        Chance of an event to be trained without its class.
    """

    targets: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    width: int = 64
    blocks: int = 2
    block_layers: int = 2
    dropout: float = 0.0
    layer_scale: float = 1e-5
    label_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("targets", "conditions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(self.width >= 1, "global_generation.width", "at least 1", self.width)
        for name in ("blocks", "block_layers"):
            require(getattr(self, name) >= 0, f"global_generation.{name}", "at least 0", getattr(self, name))
        for name in ("dropout", "label_drop"):
            require_probability(f"global_generation.{name}", getattr(self, name))


class GlobalGenerationHead(nn.Module):
    """Velocity of the noised number of objects and event features.

    Parameters
    ----------
    columns : int
        Columns C that are generated.
    conditions : int
        Columns of the event features the head is told.
    classes : int
        Classes that can be asked for; 0 if none.
    config : GlobalGenerationConfig
        Size.

    Examples
    --------
    >>> head = GlobalGenerationHead(2, conditions=3, classes=4, config=GlobalGenerationConfig(width=8)).eval()
    >>> head(torch.zeros(5, 2), torch.full((5,), 0.5), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, columns: int, *, conditions: int, classes: int, config: GlobalGenerationConfig
    ) -> None:
        super().__init__()
        width = config.width
        self.label_drop = config.label_drop
        self.time_embedding = TimeEmbedding(width)
        self.condition: nn.Linear | None = nn.Linear(conditions, width) if conditions else None
        self.unconditioned: nn.Linear | None = None if conditions else nn.Linear(width, 2 * width)
        self.token = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU()
        )
        self.label = nn.Linear(classes, 2 * width, bias=False) if classes else None
        self.embed = nn.Linear(columns, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, config) for _ in range(config.blocks)))
        self.output_norm = nn.LayerNorm(width, eps=1e-6)
        self.output = nn.Linear(width, columns)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, time: Tensor, conditions: Tensor, *, label: Tensor | None = None) -> Tensor:
        """Velocities (B, C) of noised columns (B, C).

        Parameters
        ----------
        x : Tensor, shape (B, C)
            Noised number of objects and event features, normalised.
        time : Tensor, shape (B,)
            Diffusion time.
        conditions : Tensor, shape (B, conditions)
            Normalised event features the head is told.
        label : int Tensor, shape (B,), optional
            Class to generate; -1, or None, for no class in particular.
        """
        when = self.time_embedding(time)
        if self.condition is not None:
            joined = torch.cat([F.silu(self.condition(conditions)), when], dim=-1)
        elif self.unconditioned is not None:
            joined = self.unconditioned(when)
        token = self.token(joined)
        if self.label is not None and label is not None:
            told = self.label(one_hot(label, self.label.in_features, self.label.weight.dtype))
            token = token + drop_path(told, probability=self.label_drop, training=self.training)
        scale, shift = token.chunk(2, dim=-1)
        x = F.silu(self.embed(x)) * (1 + scale) + shift
        velocity: Tensor = self.output(self.output_norm(self.blocks(x)))
        return velocity


class ResidualBlock(nn.Module):
    """A normalisation, linear layers with SiLU, and a linear layer around them.

    Parameters
    ----------
    width : int
        Width of the vectors.
    config : GlobalGenerationConfig
        Size.
    """

    def __init__(self, width: int, config: GlobalGenerationConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.skip = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.block_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, D) of vectors (B, D)."""
        x = self.norm(x)
        update = x
        for layer in self.layers:
            update = self.dropout(F.silu(layer(update)))
        result: Tensor = self.skip(x) + update * self.scale
        return result


class InvisibleProjection(nn.Module):
    """Columns of invisible particles to columns of objects, so that both can be read by one body.

    Parameters
    ----------
    columns : int
        Columns of an invisible particle.
    object_columns : int
        Columns of an object.
    layer_scale : float
        Initial size of the residual branch.
    """

    def __init__(self, columns: int, object_columns: int, *, layer_scale: float = 1e-5) -> None:
        super().__init__()
        self.project = nn.Linear(columns, object_columns)
        self.norm = nn.LayerNorm(object_columns)
        self.feed_forward = nn.Sequential(
            nn.Linear(object_columns, object_columns), nn.GELU(), nn.Linear(object_columns, object_columns)
        )
        self.scale = nn.Parameter(torch.full((object_columns,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Columns (..., object_columns) of columns (..., columns)."""
        x = self.project(x)
        projected: Tensor = x + self.feed_forward(self.norm(x)) * self.scale
        return projected


def one_hot(label: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows (B, classes) with a one at the label (B,); a row of zeros for a label of -1.

    Examples
    --------
    >>> one_hot(torch.tensor([1, -1]), 3)
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    return (label[:, None] == torch.arange(classes, device=label.device)).to(dtype)


def velocity_loss(
    velocity: Tensor, truth: Tensor, mask: Tensor, *, event_weight: Tensor | None = None
) -> Tensor:
    """Weighted mean square difference of velocities.

    Parameters
    ----------
    velocity, truth : Tensor, shape (B, C) or (B, N, C)
        As given by a head, and as given by :func:`~evenet_hep.model.diffusion.add_noise`.
    mask : bool Tensor, shape (B,) or (B, N)
        True for what was noised.
    event_weight : Tensor, shape (B,), optional
        Weight of each event.

    Returns
    -------
    Tensor, scalar
        In single precision or better. Zero, with a gradient of zero, where nothing was noised; see
        :func:`~evenet_hep.model.heads.weighted_mean.weighted_mean` for weights of either sign.

    Examples
    --------
    >>> velocity_loss(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), torch.tensor([True]))
    tensor(5.)
    """
    difference = velocity.to(torch.promote_types(velocity.dtype, torch.float32)) - truth
    square = torch.where(mask[..., None], difference, 0.0).square().mean(dim=-1)
    weight = mask.to(square.dtype)
    if event_weight is not None:
        weight = weight * event_weight.reshape(-1, *([1] * (mask.ndim - 1)))
    return weighted_mean(square, weight)
