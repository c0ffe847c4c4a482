"""Compiled loops for training on processors: what :mod:`~evenet_hep.model.kernels` does for inference, with gradients.

Each kernel works on the rows from ``first`` to ``last``, so that several threads can share a batch: no two write into
the same row. Columns of queries, keys and values are ordered by channel first and head second, as there.

What is dropped follows from a seed, the row and the column alone (:func:`is_kept`). The pass backward draws the same
numbers again in place of reading them from memory, and they do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from evenet_hep.model.kernels import (
    BLOCK,
    FAST,
    FOUR,
    HALF,
    INVERSE_ROOT2,
    ONE,
    P0,
    P1,
    P2,
    P3,
    P4,
    P5,
    Q1,
    Q2,
    Q3,
    Q4,
    Q5,
    ZERO,
    _exp,
    _gelu,
    _sigmoid,
    _soften,
    _tanh,
)
from evenet_hep.model.vectors16 import LANES, add_weighted, dot, lanes, subtract, sum_products

Array = npt.NDArray[Any]
u32 = np.uint32
INVERSE_ROOT_2PI = np.float32(1 / math.sqrt(2 * math.pi))
GOLDEN, FIRST, SECOND = u32(0x9E3779B9), u32(0x7FEB352D), u32(0x846CA68B)


@numba.njit(inline="always")
def _mixed(x: Any) -> Any:
    # A bijection of 32 bits after which every bit depends on every other one (C. Wellons, "lowbias32").
    x = u32(x ^ (x >> u32(16)))
    x = u32(x * FIRST)
    x = u32(x ^ (x >> u32(15)))
    x = u32(x * SECOND)
    return u32(x ^ (x >> u32(16)))


@numba.njit(inline="always")
def _row_seed(seed: Any, row: Any) -> Any:
    low, high = u32(seed & np.int64(0xFFFFFFFF)), u32((seed >> np.int64(32)) & np.int64(0xFFFFFFFF))
    return _mixed(u32(_mixed(u32(u32(row) ^ low)) ^ high))


@numba.njit(inline="always")
def _is_kept(start: Any, column: Any, limit: Any) -> Any:
    return _mixed(u32(start + u32(u32(column) * GOLDEN))) >= limit


@numba.njit(cache=True, nogil=True)
def is_kept(seed: int, rows: int, columns: int, limit: int, out: Array) -> None:
    """Whether the number in each row and column stays: True with a probability of 1 - limit / 2**32."""
    for i in range(rows):
        start = _row_seed(seed, i)
        for c in range(columns):
            out[i, c] = _is_kept(start, c, u32(limit))


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _gelu_slope(x: Any) -> Any:
    at = x * INVERSE_ROOT2
    z = max(min(at, FOUR), -FOUR)
    u = z * z
    p = P0 + u * (P1 + u * (P2 + u * (P3 + u * (P4 + u * P5))))
    q = ONE + u * (Q1 + u * (Q2 + u * (Q3 + u * (Q4 + u * Q5))))
    below = HALF * (ZERO if at < -FOUR else ONE + z * p / q)
    return below + x * INVERSE_ROOT_2PI * _exp(-at * at)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def activate(x: Array, first: int, last: int, seed: int, limit: int, factor: float, out: Array) -> None:
    """GELU of rows (R, D), times ``factor`` where it is kept and zero elsewhere; a limit of zero keeps all."""
    width = x.shape[1]
    size = x.dtype.type(factor)
    for i in range(first, last):
        row, result = x[i], out[i]
        if limit == 0:
            for c in range(width):
                result[c] = _gelu(row[c])
        else:
            start, top = _row_seed(seed, i), u32(limit)
            for c in range(width):
                result[c] = _gelu(row[c]) * (size if _is_kept(start, c, top) else ZERO)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def activate_back(
    x: Array, grad: Array, first: int, last: int, seed: int, limit: int, factor: float, out: Array
) -> None:
    """Gradient of ``x`` in :func:`activate` from that of its result."""
    width = x.shape[1]
    size = x.dtype.type(factor)
    for i in range(first, last):
        row, above, result = x[i], grad[i], out[i]
        if limit == 0:
            for c in range(width):
                result[c] = above[c] * _gelu_slope(row[c])
        else:
            start, top = _row_seed(seed, i), u32(limit)
            for c in range(width):
                slope = _gelu_slope(row[c]) * (size if _is_kept(start, c, top) else ZERO)
                result[c] = above[c] * slope


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def pair(there: Array, here: Array, row: Array, first: int, last: int, out: Array) -> None:
    """GELU of what neighbour k of row i brings and what row i brings itself: (R, H) twice and (K, R) to (K, R, H)."""
    width = here.shape[1]
    for k in range(row.shape[0]):
        for i in range(first, last):
            a, b, result = there[row[k, i]], here[i], out[k, i]
            for c in range(width):
                result[c] = _gelu(a[c] + b[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def pair_back(
    there: Array,
    here: Array,
    row: Array,
    grad: Array,
    first: int,
    last: int,
    shared: int,
    of_there: Array,
    of_here: Array,
    of_shared: Array,
) -> None:
    """Gradients of ``there`` and ``here`` in :func:`pair`, added to what is there.

    Neighbours stand within the same rows, but for row ``shared``, whose part goes into ``of_shared`` (H,).
    """
    width = here.shape[1]
    for k in range(row.shape[0]):
        for i in range(first, last):
            j = row[k, i]
            a, b, above, mine = there[j], here[i], grad[k, i], of_here[i]
            theirs = of_shared if j == shared else of_there[j]
            for c in range(width):
                slope = above[c] * _gelu_slope(a[c] + b[c])
                mine[c] += slope
                theirs[c] += slope


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def average(pairs: Array, part: Array, first: int, last: int, out: Array) -> None:
    """Sum over k of ``part`` (K, R) times the GELU of pairs (K, R, D), shape (R, D)."""
    width = out.shape[1]
    for i in range(first, last):
        result = out[i]
        for c in range(width):
            result[c] = ZERO
        for k in range(len(pairs)):
            row, weight = pairs[k, i], part[k, i]
            for c in range(width):
                result[c] += weight * _gelu(row[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def average_back(pairs: Array, part: Array, grad: Array, first: int, last: int, out: Array) -> None:
    """Gradient of ``pairs`` in :func:`average`."""
    width = grad.shape[1]
    for i in range(first, last):
        above = grad[i]
        for k in range(len(pairs)):
            row, weight, result = pairs[k, i], part[k, i], out[k, i]
            for c in range(width):
                result[c] = above[c] * weight * _gelu_slope(row[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def add_scaled(x: Array, update: Array, scale: Array, keep: Array, first: int, last: int, out: Array) -> None:
    """``x`` + keep scale update, for rows (R, D) with one scale per column and one ``keep`` per row."""
    width = x.shape[1]
    for i in range(first, last):
        row, more, result, kept = x[i], update[i], out[i], keep[i]
        for c in range(width):
            result[c] = row[c] + kept * scale[c] * more[c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def add_scaled_back(
    grad: Array,
    update: Array,
    scale: Array,
    keep: Array,
    first: int,
    last: int,
    of_update: Array,
    of_scale: Array,
) -> None:
    """Gradients of ``update`` and, summed over these rows, of ``scale`` in :func:`add_scaled`."""
    width = grad.shape[1]
    for i in range(first, last):
        above, more, result, kept = grad[i], update[i], of_update[i], keep[i]
        for c in range(width):
            result[c] = kept * scale[c] * above[c]
            of_scale[c] += kept * more[c] * above[c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _drop(
    weight: Array, number: int, heads: int, seed: int, event: int, limit: int, factor: float, out: Array
) -> None:
    # What is left of the weights of an event; repetitions of a head share their chance.
    size = weight.dtype.type(factor)
    if limit == 0:
        for c in range(number):
            out[c] = weight[c]
        return
    same, start = (
        u32(0xFFFFFFFF ^ (LANES - 1) ^ (heads - 1)) if heads < LANES else u32(0xFFFFFFFF),
        _row_seed(seed, event),
    )
    for c in range(number):
        out[c] = weight[c] * (size if _is_kept(start, u32(u32(c) & same), u32(limit)) else ZERO)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend(
    projected: Array,
    starts: Array,
    squares: Array,
    first: int,
    last: int,
    heads: int,
    seed: int,
    limit: int,
    factor: float,
    weights: Array,
    out: Array,
) -> None:
    """Attention of the rows of the events from ``first`` to ``last`` to each other, some weights dropped.

    Takes queries, keys and values side by side, (R, 3D). The weights before any is dropped, (sum of n^2) times lanes
    numbers, are kept for the pass backward; ``squares`` says where those of each event begin.
    """
    width, wide, stride = out.shape[1], lanes(heads), 3 * out.shape[1]
    most = 0
    for e in range(first, last):
        most = max(most, starts[e + 1] - starts[e])
    used, spare = np.zeros(most**2 * wide + BLOCK, projected.dtype), np.empty(LANES, projected.dtype)
    rows, result = projected.reshape(-1), out.reshape(-1)
    for e in range(first, last):
        slots, begin, out_at = starts[e + 1] - starts[e], starts[e] * stride, starts[e] * width
        number = slots * slots * wide
        for i in range(slots):
            for j in range(slots):
                key_at, at = begin + j * stride + width, (i * slots + j) * wide
                dot(rows, begin + i * stride, rows, key_at, width, heads, used, at)
        _soften(used, slots, slots, width, heads, spare)
        kept = weights[squares[e] * wide : squares[e] * wide + number]
        for c in range(number):
            kept[c] = used[c]
        _drop(kept, number, heads, seed, e, limit, factor, used)
        result[out_at : out_at + slots * width] = ZERO
        for i in range(slots):
            for j in range(slots):
                value_at, at = begin + j * stride + 2 * width, (i * slots + j) * wide
                add_weighted(used, at, rows, value_at, width, heads, result, out_at + i * width)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend_back(
    projected: Array,
    starts: Array,
    squares: Array,
    first: int,
    last: int,
    heads: int,
    seed: int,
    limit: int,
    factor: float,
    weights: Array,
    grad: Array,
    out: Array,
) -> None:
    """Gradient (R, 3D) of queries, keys and values in :func:`attend`."""
    width, wide, stride = grad.shape[1], lanes(heads), 3 * grad.shape[1]
    scale = ONE / np.sqrt(projected.dtype.type(width // heads))
    most = 0
    for e in range(first, last):
        most = max(most, starts[e + 1] - starts[e])
    used, slope = np.empty(most**2 * wide, projected.dtype), np.empty(most**2 * wide, projected.dtype)
    mean = np.empty(wide, projected.dtype)
    rows, above, result = projected.reshape(-1), grad.reshape(-1), out.reshape(-1)
    for e in range(first, last):
        slots, begin, above_at = starts[e + 1] - starts[e], starts[e] * stride, starts[e] * width
        number = slots * slots * wide
        kept = weights[squares[e] * wide : squares[e] * wide + number]
        _drop(kept, number, heads, seed, e, limit, factor, used)
        result[begin : begin + slots * stride] = ZERO
        for i in range(slots):
            for j in range(slots):
                value_at, at = begin + j * stride + 2 * width, (i * slots + j) * wide
                dot(above, above_at + i * width, rows, value_at, width, heads, slope, at)
                add_weighted(used, at, above, above_at + i * width, width, heads, result, value_at)
        _drop(slope, number, heads, seed, e, limit, factor, slope)
        for i in range(slots):
            at = i * slots * wide
            sum_products(kept, at, slope, at, slots, wide, mean)
            subtract(mean, slope, at, slots, wide)
        for c in range(number):
            slope[c] *= kept[c] * scale
        for i in range(slots):
            for j in range(slots):
                query_at, key_at, at = begin + i * stride, begin + j * stride + width, (i * slots + j) * wide
                add_weighted(slope, at, rows, key_at, width, heads, result, query_at)
                add_weighted(slope, at, rows, query_at, width, heads, result, key_at)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def reset(update: Array, old: Array, state: Array, first: int, last: int, out: Array) -> None:
    """First half of :class:`~evenet_hep.model.layers.Gate`: r x, from (R, 3D), (R, 2D) and (R, D)."""
    width = state.shape[1]
    for i in range(first, last):
        a, b, x, result = update[i, :width], old[i, :width], state[i], out[i]
        for c in range(width):
            result[c] = _sigmoid(a[c] + b[c]) * x[c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def mix(
    update: Array, old: Array, again: Array, bias: Array, state: Array, first: int, last: int, out: Array
) -> None:
    """Second half of it: (1 - z) x + z h, where ``again`` is U_g (r x)."""
    width = state.shape[1]
    for i in range(first, last):
        a, b = update[i, width : 2 * width], old[i, width : 2 * width]
        g, u, x, result = update[i, 2 * width : 3 * width], again[i], state[i], out[i]
        for c in range(width):
            z = _sigmoid(a[c] + b[c] - bias[c])
            result[c] = x[c] + z * (_tanh(g[c] + u[c]) - x[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def mix_back(
    update: Array,
    old: Array,
    again: Array,
    bias: Array,
    state: Array,
    grad: Array,
    first: int,
    last: int,
    of_update: Array,
    of_old: Array,
    of_again: Array,
    of_bias: Array,
    of_state: Array,
) -> None:
    """Gradients in :func:`mix`: all but the first D columns of those of ``update`` and ``old``."""
    width = state.shape[1]
    for i in range(first, last):
        a, b = update[i, width : 2 * width], old[i, width : 2 * width]
        g, u, x, above = update[i, 2 * width : 3 * width], again[i], state[i], grad[i]
        for_z, for_h = of_update[i, width : 2 * width], of_update[i, 2 * width : 3 * width]
        for_old, for_again, for_x = of_old[i, width : 2 * width], of_again[i], of_state[i]
        for c in range(width):
            z, h = _sigmoid(a[c] + b[c] - bias[c]), _tanh(g[c] + u[c])
            by_z, by_h = above[c] * (h - x[c]) * z * (ONE - z), above[c] * z * (ONE - h * h)
            for_z[c] = by_z
            for_h[c] = by_h
            for_old[c] = by_z
            for_again[c] = by_h
            for_x[c] = above[c] * (ONE - z)
            of_bias[c] -= by_z


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def reset_back(
    update: Array,
    old: Array,
    state: Array,
    grad: Array,
    first: int,
    last: int,
    of_update: Array,
    of_old: Array,
    of_state: Array,
) -> None:
    """Gradients in :func:`reset`: the first D columns of those of ``update`` and ``old``; ``of_state`` is added to."""
    width = state.shape[1]
    for i in range(first, last):
        a, b, x, above = update[i, :width], old[i, :width], state[i], grad[i]
        for_update, for_old, for_x = of_update[i, :width], of_old[i, :width], of_state[i]
        for c in range(width):
            r = _sigmoid(a[c] + b[c])
            slope = above[c] * x[c] * r * (ONE - r)
            for_update[c] = slope
            for_old[c] = slope
            for_x[c] += above[c] * r
