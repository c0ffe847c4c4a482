"""Operations of a training step on processors, each with its gradient in one pass over its numbers.

Two fifths of a training step of the ordinary operations are no products of matrices: masks of dropout are drawn, kept and
multiplied with, activations and softmax are read and written several times, attention goes group by group through
copies. What stands here does the same in compiled loops (:mod:`~evenet_hep.model.kernels_training`), on the rows of
:mod:`~evenet_hep.model.packing`. The ordinary operations run everywhere else, and are what these are tested against.

Second derivatives are not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor
from torch.autograd.function import once_differentiable

from evenet_hep.model import kernels_training
from evenet_hep.model.streams import share
from evenet_hep.model.vectors16 import LANES

Starts = npt.NDArray[np.int64]
kernels: Any = kernels_training  # compiled functions, of which type checkers know little
LEAST = 2**14  # numbers below which a thread has too little to do


def trains_kernels(x: Tensor) -> bool:
    """Whether the operations of this module can take part: gradients in single precision on a processor.

    Under autocast they take what products in bfloat16 bring, and compute and give single precision.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu")))
        and x.numel() > 0
        and torch.is_grad_enabled()
    )


def gelu_dropout(x: Tensor, probability: float = 0.0) -> Tensor:
    """Dropout of the GELU of an array of any shape.

    Parameters
    ----------
    x : Tensor, shape (..., D)
        Before the activation.
    probability : float
        Chance of each number to be dropped; the others are divided by what is left of one.

    Examples
    --------
    >>> x = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    >>> [round(y, 4) for y in gelu_dropout(x)[0].tolist()]
    [-0.1587, 0.8413]
    """
    result: Tensor = _apply(_GeluDropout, x, *_chance(probability))
    return result


def gelu_of_pairs(there: Tensor, here: Tensor, row: Tensor, starts: Starts) -> Tensor:
    """GELU of the sum of what a neighbour brings and what a row brings itself.

    Parameters
    ----------
    there, here : Tensor, shape (R, H)
        One vector per row.
    row : int Tensor, shape (K, R)
        Neighbours of each row, which belong to the same event or are the last row.
    starts : int array, shape (events + 1,)
        First row of each event.

    Returns
    -------
    Tensor, shape (K, R, H)
    """
    result: Tensor = _apply(_GeluOfPairs, there, here, row, starts)
    return result


def weighted_gelu(pairs: Tensor, part: Tensor) -> Tensor:
    """Sum over the first axis of weights times GELU: (K, R, D) and (K, R) to (R, D)."""
    result: Tensor = _apply(_WeightedGelu, pairs, part)
    return result


def add_scaled(x: Tensor, update: Tensor, scale: Tensor, keep: Tensor) -> Tensor:
    """``x`` + keep scale update, for rows (R, D), one scale per column and one ``keep`` per row."""
    result: Tensor = _apply(_AddScaled, x, update, scale, keep)
    return result


def attend(projected: Tensor, starts: Starts, heads: int, probability: float = 0.0) -> Tensor:
    """Attention of the rows of each event to each other.

    Parameters
    ----------
    projected : Tensor, shape (R, 3D)
        Queries, keys and values side by side, each by channel first and head second.
    starts : int array, shape (events + 1,)
        First row of each event.
    heads : int
        Number of heads.
    probability : float
        Chance of each weight to be dropped.

    Returns
    -------
    Tensor, shape (R, D)
        By channel, too.
    """
    result: Tensor = _apply(_Attend, projected, starts, heads, *_chance(probability))
    return result


def gate(update: Tensor, old: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The state after the update, from W y, U x, x, U_g and b of :class:`~evenet_hep.model.layers.Gate`.

    Parameters
    ----------
    update : Tensor, shape (R, 3D)
        W_r y, W_z y and W_g y, side by side.
    old : Tensor, shape (R, 2D)
        U_r x and U_z x, side by side.
    state : Tensor, shape (R, D)
        x.
    weight : Tensor, shape (D, D)
        U_g.
    bias : Tensor, shape (D,)
        b.
    """
    result: Tensor = _apply(_Gate, update, old, state, weight, bias)
    return result


def _apply(function: Any, *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


def _chance(probability: float) -> tuple[int, int, float]:
    # Seed, limit and factor of kernels_training: the seed comes from PyTorch's own numbers.
    if probability == 0:
        return 0, 0, 1.0
    seed = int(torch.randint(2**62, ()))
    return seed, round(probability * 2**32), 1 / (1 - probability)


def _single(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.float() if x.dtype == torch.bfloat16 else x for x in tensors)


def _array(x: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = x.detach().contiguous().numpy()
    return array


def _flat(x: Tensor) -> npt.NDArray[Any]:
    return _array(x).reshape(-1, x.shape[-1])


def _over_rows(numbers: int, rows: int, run: Callable[[int, int], None]) -> None:
    share(lambda _, first, last: run(first, last), _bounds(np.array([0, rows]), numbers, whole=False))


def _bounds(starts: Starts, numbers: int, *, whole: bool = True) -> Starts:
    """Where the part of each thread begins, and the end: in rows, or in whole events."""
    parts = max(1, min(torch.get_num_threads(), numbers // LEAST))
    cuts = np.linspace(0, starts[-1], parts + 1).round().astype(np.int64)
    return np.searchsorted(starts, cuts) if whole else cuts


class _GeluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: int, limit: int, factor: float) -> Tensor:
        (x,) = _single(x)
        ctx.save_for_backward(x)
        ctx.chance = seed, limit, factor
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows, result = _flat(x), _flat(out)
        _over_rows(
            rows.size, len(rows), lambda a, b: kernels.activate(rows, a, b, seed, limit, factor, result)
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows, above, result = _flat(x), _flat(grad), _flat(out)
        _over_rows(
            rows.size,
            len(rows),
            lambda a, b: kernels.activate_back(rows, above, a, b, *ctx.chance, result),
        )
        return out, None, None, None


class _GeluOfPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, there: Tensor, here: Tensor, row: Tensor, starts: Starts) -> Tensor:
        there, here = _single(there, here)
        ctx.save_for_backward(there, here, row)
        ctx.starts = starts
        out = here.new_empty(*row.shape, here.shape[1])
        arrays = _array(there), _array(here), _array(row)
        result = _array(out)
        _over_rows(result.size, len(here), lambda a, b: kernels.pair(*arrays, a, b, result))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        there, here, row = ctx.saved_tensors
        starts, rows = ctx.starts, len(here)
        of_there, of_here = torch.zeros_like(here), torch.zeros_like(here)
        bounds = starts[_bounds(starts, grad.numel())]
        bounds[-1] = rows  # the last part has the row that stands for padding, too
        shared = rows - 1 if rows > starts[-1] else -1
        of_shared = here.new_zeros(len(bounds) - 1, here.shape[1])
        arrays = _array(there), _array(here), _array(row), _array(grad)
        results, last_row = (of_there.numpy(), of_here.numpy()), of_shared.numpy()
        share(lambda i, a, b: kernels.pair_back(*arrays, a, b, shared, *results, last_row[i]), bounds)
        if shared >= 0:
            of_there[shared] += of_shared.sum(dim=0)
        return of_there, of_here, None, None


class _WeightedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: Tensor, part: Tensor) -> Tensor:
        pairs, part = _single(pairs, part)
        ctx.save_for_backward(pairs, part)
        out = pairs.new_empty(pairs.shape[1:])
        arrays, result = (_array(pairs), _array(part)), out.numpy()
        _over_rows(pairs.numel(), len(out), lambda a, b: kernels.average(*arrays, a, b, result))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs, part = ctx.saved_tensors
        out = torch.empty_like(pairs, memory_format=torch.contiguous_format)
        arrays, result = (_array(pairs), _array(part), _array(grad)), out.numpy()
        _over_rows(pairs.numel(), len(grad), lambda a, b: kernels.average_back(*arrays, a, b, result))
        return out, None


class _AddScaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, scale: Tensor, keep: Tensor) -> Tensor:
        x, update, scale, keep = _single(x, update, scale, keep)
        ctx.save_for_backward(update, scale, keep)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        arrays, result = (_array(x), _array(update), _array(scale), _array(keep)), out.numpy()
        _over_rows(x.numel(), len(x), lambda a, b: kernels.add_scaled(*arrays, a, b, result))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        update, scale, keep = ctx.saved_tensors
        of_update = torch.empty_like(update, memory_format=torch.contiguous_format)
        bounds = _bounds(np.array([0, len(update)]), grad.numel(), whole=False)
        of_scale = scale.new_zeros(len(bounds) - 1, len(scale))
        arrays = _array(grad), _array(update), _array(scale), _array(keep)
        result, sums = of_update.numpy(), of_scale.numpy()
        share(lambda i, a, b: kernels.add_scaled_back(*arrays, a, b, result, sums[i]), bounds)
        return grad, of_update, of_scale.sum(dim=0), None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, starts: Starts, heads: int, seed: int, limit: int, factor: float
    ) -> Tensor:
        (projected,) = _single(projected)
        rows = len(projected)
        squares = np.concatenate([[0], (np.diff(starts) ** 2).cumsum()])
        weights = projected.new_empty(int(squares[-1]) * max(LANES, heads))
        out = projected.new_empty(rows, projected.shape[1] // 3)
        ctx.save_for_backward(projected, weights)
        ctx.options = starts, squares, heads, (seed, limit, factor)
        given, kept, result = _array(projected), weights.numpy(), out.numpy()
        share(
            lambda _, a, b: kernels.attend(
                given, starts, squares, a, b, heads, seed, limit, factor, kept, result
            ),
            _bounds(starts, projected.numel()),
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projected, weights = ctx.saved_tensors
        starts, squares, heads, chance = ctx.options
        out = torch.empty_like(projected, memory_format=torch.contiguous_format)
        given, kept, above, result = _array(projected), weights.numpy(), _array(grad), out.numpy()
        share(
            lambda _, a, b: kernels.attend_back(
                given, starts, squares, a, b, heads, *chance, kept, above, result
            ),
            _bounds(starts, projected.numel()),
        )
        return out, None, None, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, update: Tensor, old: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, numbers = len(state), state.numel()
        reset = torch.empty_like(state, memory_format=torch.contiguous_format)
        given = _array(update), _array(old), _array(state)
        result = reset.numpy()
        _over_rows(numbers, rows, lambda a, b: kernels.reset(*given, a, b, result))
        again, out = F.linear(reset, weight), torch.empty_like(reset)
        ctx.save_for_backward(update, old, state, weight, bias, reset, again)
        arrays, mixed = (given[0], given[1], _array(again), _array(bias), given[2]), out.numpy()
        _over_rows(numbers, rows, lambda a, b: kernels.mix(*arrays, a, b, mixed))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        update, old, state, weight, bias, reset, again = ctx.saved_tensors
        bounds = _bounds(np.array([0, len(state)]), grad.numel(), whole=False)
        of_update, of_old = grad.new_empty(update.shape), grad.new_empty(old.shape)
        of_again, of_state = torch.empty_like(again), grad.new_empty(state.shape)
        of_bias = bias.new_zeros(len(bounds) - 1, len(bias))
        arrays = tuple(map(_array, (update, old, again, bias, state, grad)))
        results = of_update.numpy(), of_old.numpy(), of_again.numpy()
        sums, for_state = of_bias.numpy(), of_state.numpy()
        share(lambda i, a, b: kernels.mix_back(*arrays, a, b, *results, sums[i], for_state), bounds)
        of_reset = of_again @ weight
        given = arrays[0], arrays[1], arrays[4], _array(of_reset)
        share(lambda _, a, b: kernels.reset_back(*given, a, b, results[0], results[1], for_state), bounds)
        return of_update, of_old, of_state, of_again.T @ reset, of_bias.sum(dim=0)
