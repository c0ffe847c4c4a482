"""Pieces that every part of the network is built from: attention, gates, gated blocks and configuration checks.

A boolean mask is True where something is real or may be attended, as in
:func:`torch.nn.functional.scaled_dot_product_attention`. No layer here multiplies by a mask: padded slots are kept
out of every sum instead, and cleared once where a part of the network ends.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.errors import ConfigError
from evenet_hep.model import fused, kernels
from evenet_hep.model.packed import FEW_ROWS, HAS_AVX512, Packing, packed_for
from evenet_hep.model.vectors16 import fits

if TYPE_CHECKING:
    from evenet_hep.model.packing import Rows

Config = TypeVar("Config")


LONGEST = 32  # rows of an event up to which the attention kernel is faster than PyTorch's, group by group


def _are_short(layout: Rows) -> bool:
    return all(group.slots <= LONGEST for group in layout.groups)


def runs_kernels(x: Tensor) -> bool:
    """Whether the compiled kernels can take part: inference in single precision on a processor.

    Everywhere else, in training, export and on other devices, the ordinary operations run; they are what the kernels
    are tested against.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class Linear(Packing, nn.Linear):
    """``torch.nn.Linear`` that calls oneDNN for inference in single precision, where that is faster.

    PyTorch's own matrix kernel on processors makes no use of AVX-512 on some that have it; without AVX-512 the two
    are equally fast. oneDNN also keeps the weights in an order of its own and applies a GELU while the result is still
    in the cache.
    """

    def forward(self, x: Tensor) -> Tensor:
        """One vector per vector: (..., D_in) to (..., D_out)."""
        if not (HAS_AVX512 and runs_kernels(x) and self.weight.dtype == x.dtype):
            return F.linear(x, self.weight, self.bias)
        return multiply(x, self._weight(x), self.bias)

    def gelu(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        """GELU of the result, of which some numbers are dropped."""
        if fused.trains_kernels(x):
            return fused.gelu_dropout(self(x), dropout)
        if dropout:
            return F.dropout(F.gelu(self(x)), dropout)
        if not (HAS_AVX512 and runs_kernels(x) and self.weight.dtype == x.dtype):
            return F.gelu(self(x))
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight(x), self.bias, "gelu", [], "none")
        return result

    def _weight(self, x: Tensor) -> Tensor:
        if x.numel() < FEW_ROWS * x.shape[-1]:
            return self.weight
        weight: Tensor = self.packed("weight", (self.weight,), lambda: packed_for(self.weight))
        return weight


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer with weights from :func:`~evenet_hep.model.packed.packed_for`, or not packed."""
    if not HAS_AVX512:
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class Attention(Packing):
    """Multi-head attention with one fused projection, over the set itself or over a second set.

    Parameters
    ----------
    width : int
        Width D of queries, keys and values.
    heads : int
        Number of heads; divides ``width``.
    dropout : float
        Probability with which an attention weight is dropped in training.

    Examples
    --------
    >>> attention = Attention(8, heads=2)
    >>> allowed = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    >>> attention(torch.zeros(1, 3, 8), allowed).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.dropout = dropout
        self.project_in = Linear(width, 3 * width)  # query, key, value
        self.project_out = Linear(width, width)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, query: Tensor, allowed: Tensor | Rows | None, memory: Tensor | None = None) -> Tensor:
        """One update per query.

        Parameters
        ----------
        query : Tensor, shape (B, Q, D) or (R, D)
            Queries; also keys and values if there is no ``memory``.
        allowed : bool Tensor, shape (B or 1, 1, Q or 1, K), Rows, or None
            True where a query may attend a key. Every query needs at least one such key. None if every query may
            attend every key; :class:`~evenet_hep.model.packing.Rows` if the queries are rows, to attend the other
            rows of their event.
        memory : Tensor, shape (B, K, D), optional
            Keys and values.

        Returns
        -------
        Tensor, shape of ``query``
        """
        if isinstance(allowed, tuple):  # rows
            # Sizes are asked last: in an export they are symbols that a question would narrow.
            if allowed.starts is not None and _are_short(allowed) and fits(self.width, self.heads):
                if fused.trains_kernels(query):
                    return self._train_on_rows(query, allowed.starts)
                if runs_kernels(query) and not (self.training and self.dropout):
                    return self._attend_rows(query, allowed.starts)
            parts = zip(allowed.split(self.project_in(query)), allowed.groups, strict=True)
            updates = [self._attend(part, group.allowed).flatten(0, 1) for part, group in parts]
            update = updates[0] if len(updates) == 1 else torch.cat(updates)
        elif memory is None:
            update = self._attend(self.project_in(query), allowed)
        else:
            width = query.shape[-1]
            weight, bias = self.project_in.weight, self.project_in.bias
            q = F.linear(query, weight[:width], bias[:width])
            update = self._attend(F.linear(memory, weight[width:], bias[width:]), allowed, q)
        projected: Tensor = self.project_out(update)
        return projected

    def _attend_rows(self, query: Tensor, starts: npt.NDArray[np.int64]) -> Tensor:
        sources = self.project_in.weight, self.project_out.weight
        weight_in, weight_out = self.packed("by channel", sources, self._packed_by_channel)
        projected = multiply(query, weight_in, self.bias_by_channel())
        update = torch.empty_like(query)
        kernels.attend(projected.numpy(), starts, self.heads, update.numpy())
        return multiply(update, weight_out, self.project_out.bias)

    def _train_on_rows(self, query: Tensor, starts: npt.NDArray[np.int64]) -> Tensor:
        bias = self._channels_first(self.project_in.bias)
        projected = F.linear(query, self._channels_first(self.project_in.weight), bias)
        update = fused.attend(projected, starts, self.heads, self.dropout if self.training else 0.0)
        weight_out = self.project_out.weight.unflatten(1, (self.heads, -1)).transpose(1, 2).flatten(1)
        return F.linear(update, weight_out, self.project_out.bias)

    def _channels_first(self, x: Tensor) -> Tensor:
        ordered: Tensor = x.unflatten(0, (3, self.heads, -1)).transpose(1, 2).flatten(0, 2)
        return ordered

    def from_outside(self, query: Tensor, memory: Tensor, starts: npt.NDArray[np.int64]) -> Tensor:
        """One update per event for inference on processors: its query (E, D) attends the rows (R, D) of the event."""
        sources = self.project_in.weight, self.project_out.weight
        weight_query, weight_memory, weight_out = self.packed("outside", sources, self._packed_in_parts)
        bias = self.bias_by_channel()
        query = multiply(query, weight_query, bias[: self.width])
        memory = multiply(memory, weight_memory, bias[self.width :])
        update = torch.empty_like(query)
        kernels.attend_from_outside(query.numpy(), memory.numpy(), starts, self.heads, update.numpy())
        return multiply(update, weight_out, self.project_out.bias)

    def _packed_in_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        weight_in, weight_out = self.weights_by_channel()
        return (
            packed_for(weight_in[: self.width]),
            packed_for(weight_in[self.width :]),
            packed_for(weight_out),
        )

    def _packed_by_channel(self) -> tuple[Tensor, Tensor]:
        weight_in, weight_out = self.weights_by_channel()
        return packed_for(weight_in), packed_for(weight_out)

    def weights_by_channel(self) -> tuple[Tensor, Tensor]:
        """Both weights for queries, keys and values in the order of :mod:`~evenet_hep.model.kernels`."""
        order = self._by_channel()
        return self.project_in.weight.detach()[order], self.project_out.weight.detach()[
            :, order[: self.width]
        ]

    def bias_by_channel(self) -> Tensor:
        """The bias of queries, keys and values in this order."""
        bias = self.project_in.bias
        found: Tensor = self.packed("bias", (bias,), lambda: bias.detach()[self._by_channel()])
        return found

    def _by_channel(self) -> Tensor:
        order = torch.arange(self.width).view(self.heads, -1).T.flatten()
        return torch.cat([order, order + self.width, order + 2 * self.width])

    def _attend(self, projected: Tensor, allowed: Tensor | None, query: Tensor | None = None) -> Tensor:
        # Queries, keys and values (B, K, 3D), or keys and values (B, K, 2D) for queries (B, Q, D), to (B, Q, D).
        *queries, k, v = projected.chunk(3 if query is None else 2, dim=-1)
        update = F.scaled_dot_product_attention(
            self._split(queries[0] if query is None else query),
            self._split(k),
            self._split(v),
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, heads, Q, D / heads)
        return update.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


class Gate(nn.Module):
    """Gate of a GRU in place of a residual sum, as in GTrXL (arXiv:1910.06764, eq. 5-7).

    With update y and state x: r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b),
    h = tanh(W_g y + U_g (r x)), and the result is (1 - z) x + z h. The bias b starts at 2, close to the identity.

    Parameters
    ----------
    width : int
        Width of update and state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_update = Linear(width, 3 * width)  # W_r, W_z, W_g
        self.from_state = Linear(width, 2 * width, bias=False)  # U_r, U_z
        self.from_reset = Linear(width, width, bias=False)  # U_g
        self.bias = nn.Parameter(torch.full((width,), 2.0))

    def forward(self, update: Tensor, state: Tensor) -> Tensor:
        """The state after the update; both have shape (..., D)."""
        if runs_kernels(state) and state.is_contiguous():
            return self._mixed(update, state)
        if fused.trains_kernels(state) and not is_autocast(state.device):
            new, old = self.from_update(update).flatten(0, -2), self.from_state(state).flatten(0, -2)
            mixed = fused.gate(new, old, state.flatten(0, -2), self.from_reset.weight, self.bias)
            return mixed.view_as(state)
        update_r, update_z, update_g = self.from_update(update).chunk(3, dim=-1)
        state_r, state_z = self.from_state(state).chunk(2, dim=-1)
        r = torch.sigmoid(update_r + state_r)
        z = torch.sigmoid(update_z + state_z - self.bias)
        h = torch.tanh(update_g + self.from_reset(r * state))
        return state + z * (h - state)

    def _mixed(self, update: Tensor, state: Tensor) -> Tensor:
        width = state.shape[-1]
        new, old = self.from_update(update).view(-1, 3 * width), self.from_state(state).view(-1, 2 * width)
        rows = state.view(-1, width)
        reset = torch.empty_like(rows)
        kernels.reset_state(new.numpy(), old.numpy(), rows.numpy(), reset.numpy())
        reset = self.from_reset(reset)
        mixed = torch.empty_like(state)
        bias = self.bias.detach().numpy()
        kernels.mix_state(
            new.numpy(), old.numpy(), reset.numpy(), bias, rows.numpy(), mixed.view(-1, width).numpy()
        )
        return mixed


class GatedBlock(nn.Module):
    """LayerNorm, two linear layers with GELU, and a :class:`Gate` around them.

    Parameters
    ----------
    width_in, width_out : int
        Width before and after; if they differ, the state passes through a linear layer of its own.
    expansion : float
        Width between the two linear layers in units of ``width_in``.
    dropout : float
        After each of the linear layers, in training.
    gated : bool
        False leaves the gate out: the result is that of the two linear layers.

    Examples
    --------
    >>> GatedBlock(10, 16)(torch.zeros(2, 10)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        expansion: float = 2.0,
        dropout: float = 0.0,
        gated: bool = True,
    ) -> None:
        super().__init__()
        inner = round(expansion * width_in)
        self.norm = nn.LayerNorm(width_in)
        self.expand = Linear(width_in, inner)
        self.project = Linear(inner, width_out)
        self.dropout = nn.Dropout(dropout)
        self.gate = Gate(width_out) if gated else None
        self.skip = Linear(width_in, width_out) if gated and width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """One vector per vector: (..., width_in) to (..., width_out)."""
        if is_autocast(x.device):  # gates are few, and bfloat16 shows in probabilities
            with single_precision(x.device):
                return self._gated(x.to(self.norm.weight.dtype))
        return self._gated(x)

    def _gated(self, x: Tensor) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        update = self.expand.gelu(self.norm(x), dropout)
        update = self.project.gelu(update, dropout)
        result: Tensor = update if self.gate is None else self.gate(update, self.skip(x))
        return result


class FeedForward(nn.Sequential):
    """Linear to twice the width, GELU, dropout, linear back.

    Parameters
    ----------
    width : int
        Width D of the vectors.
    dropout : float
        Between the linear layers, in training.
    """

    def __init__(self, width: int, *, dropout: float = 0.0) -> None:
        super().__init__(Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """One vector per vector: (..., D) to (..., D)."""
        expand, project = self.linears
        dropout = cast("nn.Dropout", self[2])
        result: Tensor = project(expand.gelu(x, dropout.p if dropout.training else 0.0))
        return result

    @property
    def linears(self) -> tuple[Linear, Linear]:
        """The two linear layers."""
        return cast("Linear", self[0]), cast("Linear", self[3])


def is_autocast(device: torch.device) -> bool:
    """Whether autocast is on for tensors on this device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def single_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast, if it is on, is off.

    Parameters
    ----------
    device : torch.device
        Where the tensors are.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def drop_path(update: Tensor, *, probability: float, training: bool, layout: Rows | None = None) -> Tensor:
    """The update of a residual branch, left out for whole events in training (stochastic depth, arXiv:1603.09382).

    Parameters
    ----------
    update : Tensor, shape (B, ...) or (R, D)
        Updates; those that stay are scaled by 1 / (1 - probability).
    probability : float
        Chance of an event to go without the update.
    training : bool
        False returns ``update`` as it is.
    layout : Rows, optional
        Which event each update belongs to, if they are rows.
    """
    if not training or probability == 0:
        return update
    if layout is None:
        keep = update.new_empty((update.shape[0],) + (1,) * (update.ndim - 1)).bernoulli_(1 - probability)
        return update * (keep / (1 - probability))
    return update * _kept_rows(update, probability, layout)


def _kept_rows(x: Tensor, probability: float, layout: Rows) -> Tensor:
    # Factor of each row (R, 1): the same for all rows of an event.
    keep = x.new_empty(layout.mask.shape[0], 1).bernoulli_(1 - probability)
    return layout.spread(keep / (1 - probability))


def add_branch(
    x: Tensor, update: Tensor, scale: Tensor, *, drop_path: float, training: bool, layout: Rows
) -> Tensor:
    """Rows (R, D) plus the scaled update of a residual branch, which some events go without in training.

    Parameters
    ----------
    x, update : Tensor, shape (R, D)
        Rows and their update.
    scale : Tensor, shape (D,)
        Of each column of the update.
    drop_path : float
        Chance of an event to go without, see :func:`drop_path`.
    training : bool
        False leaves nothing out.
    layout : Rows
        Which event each row belongs to.
    """
    if fused.trains_kernels(x):
        is_random = training and drop_path > 0
        keep = _kept_rows(x, drop_path, layout)[:, 0] if is_random else x.new_ones(len(x))
        return fused.add_scaled(x, update, scale, keep)
    if training and drop_path > 0:
        update = update * _kept_rows(update, drop_path, layout)
    return torch.addcmul(x, update, scale)


def attendable(mask: Tensor) -> Tensor:
    """Which keys all queries of an event may attend: the real ones, or all of them in an event without any.

    The second half only keeps the softmax of an empty event finite; nothing real depends on it.

    Parameters
    ----------
    mask : bool Tensor, shape (B, K)
        True for a real object.

    Returns
    -------
    bool Tensor, shape (B, 1, 1, K)

    Examples
    --------
    >>> attendable(torch.tensor([[True, False], [False, False]]))[:, 0, 0]
    tensor([[ True, False],
            [ True,  True]])
    """
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


def require(condition: bool, name: str, expected: str, found: object) -> None:
    """Raise a :class:`ConfigError` that names the field, unless the condition holds."""
    if not condition:
        msg = f"{name} must be {expected}; found {found!r}"
        raise ConfigError(msg)


def require_probability(name: str, value: float) -> None:
    """Raise a :class:`ConfigError` unless the value can be a dropout probability, at least 0 and below 1."""
    require(0 <= value < 1, name, "at least 0 and below 1", value)


def read_config(kind: type[Config], content: object, where: str = "config") -> Config:
    """A frozen configuration dataclass from a JSON dictionary, nested ones included.

    Parameters
    ----------
    kind : dataclass type
        What to build; its annotations say what each key may hold.
    content : mapping
        Keys are field names. A field with a default may be left out.
    where : str
        Name of this part, for messages.

    Returns
    -------
    kind

    Raises
    ------
    ConfigError
        For unknown or missing keys and for values of another kind than annotated.
    """
    if not isinstance(content, Mapping):
        msg = f"{where} must be a JSON object; found {content!r}"
        raise ConfigError(msg)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(content) - set(fields)):
        msg = f"{where} has unknown key {', '.join(map(repr, unknown))}; allowed are {', '.join(sorted(fields))}"
        raise ConfigError(msg)
    required = {name for name, field in fields.items() if not _has_default(field)}
    if missing := sorted(required - set(content)):
        msg = f"{where} lacks {', '.join(map(repr, missing))}"
        raise ConfigError(msg)
    hints = typing.get_type_hints(kind)
    return kind(**{key: _read(hints[key], value, f"{where}.{key}") for key, value in content.items()})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _read(hint: Any, value: object, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # only ever "something or None"
        return None if value is None else _read(options[0], value, where)
    if dataclasses.is_dataclass(hint):
        return read_config(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        require(isinstance(value, list | tuple), where, "a list", value)
        return tuple(_read(options[0], item, where) for item in typing.cast("list[object]", value))
    if origin is typing.Literal:
        require(value in options, where, " or ".join(map(repr, options)), value)
        return value
    accepted = (int, float) if hint is float else hint
    is_right = isinstance(value, accepted) and (hint is bool or not isinstance(value, bool))
    require(is_right, where, f"of type {hint.__name__}", value)
    return float(typing.cast("float", value)) if hint is float else value
