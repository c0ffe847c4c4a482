"""Compiled loops over rows of real objects, for inference on processors in single precision.

A dense tensor library does little well here: events hold a handful of objects, and attention among them, the search
for neighbours and gates are many small steps on data that would fit into the registers. Each kernel takes flat arrays,
and ``starts``, the first row of each event with the number of rows behind it. It allocates nothing per event, leaves
the interpreter lock, and has a twin in torch, which the tests compare it with: the ordinary layers.

Columns of queries, keys and values are ordered by channel first and head second here, ``channel * heads + head``: what
stands side by side is what a processor works on at once. :func:`by_channel` puts weights into this order.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from evenet_hep.model.vectors16 import LANES, add_weighted, divide_by_sum, dot, lanes, subtract_largest

Array = npt.NDArray[Any]

# No promise that numbers are finite: what is not has to stay visible.
FAST = {"reassoc", "contract", "nsz", "arcp"}
f32 = np.float32
BLOCK = 64  # numbers that a processor works on in one round of a long loop

FAR = 999.0  # what the published network adds to the coordinates of padded slots

# exp(x) = 2^(x / ln 2): polynomial of the fractional part in [-1/2, 1/2], relative error 1e-7.
LOG2E, LOWEST = f32(math.log2(math.e)), f32(-87.0)
ZERO, HALF, ONE, TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)
E1, E2, E3, E4, E5, E6 = (f32(math.log(2.0) ** k / math.factorial(k)) for k in range(1, 7))

# erf(x) = x P(x^2) / Q(x^2) for |x| < 4, fitted to minimise the largest error: 4e-7 in single precision.
FOUR, INVERSE_ROOT2 = f32(4.0), f32(math.sqrt(0.5))
P0, P1, P2, P3, P4, P5 = map(
    f32, (1.128378987, 0.1962385178, 5.346605182e-2, 4.0031792596e-3, 2.8802812442e-4, 1.9748788418e-6)
)
Q1, Q2, Q3, Q4, Q5 = map(
    f32, (0.5072430372, 0.11647206545, 1.5443499200e-2, 1.2162410421e-3, 3.7480658644e-5)
)


_intrinsic: Any = intrinsic  # numba passes the first argument of what it decorates itself


@_intrinsic
def _float_of_bits(_typing: Any, bits: Any) -> Any:  # noqa: ARG001  numba looks at the names
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@_intrinsic
def _bits_of_float(_typing: Any, x: Any) -> Any:  # noqa: ARG001  numba looks at the names
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), build


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _single(half: Any) -> Any:
    """Bits of a bfloat16, in an int16, to float32."""
    return _float_of_bits(np.int32(half) << np.int32(16))


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _half(x: Any) -> Any:
    """float32 to the bits of the nearest bfloat16, in an int16; ties go to even."""
    bits = _bits_of_float(x)
    rounded = (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)
    return np.int16(rounded) if x == x else np.int16(0x7FC0)  # noqa: PLR0124  not a number stays so


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _exp(x: Any) -> Any:  # for x up to 0 or so
    z = max(x, LOWEST) * LOG2E
    whole = np.floor(z + HALF)
    y = z - whole
    power = ONE + y * (E1 + y * (E2 + y * (E3 + y * (E4 + y * (E5 + y * E6)))))
    return power * _float_of_bits(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _sigmoid(x: Any) -> Any:
    small = _exp(-abs(x))
    y = ONE / (ONE + small)
    return ONE - y if x < ZERO else y


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _tanh(x: Any) -> Any:
    small = _exp(-TWO * abs(x))
    y = (ONE - small) / (ONE + small)
    return -y if x < ZERO else y


@numba.njit(inline="always", error_model="numpy", fastmath=FAST)
def _gelu(x: Any) -> Any:
    at = x * INVERSE_ROOT2
    z = max(min(at, FOUR), -FOUR)
    u = z * z
    p = P0 + u * (P1 + u * (P2 + u * (P3 + u * (P4 + u * P5))))
    q = ONE + u * (Q1 + u * (Q2 + u * (Q3 + u * (Q4 + u * Q5))))
    return HALF * x * (ZERO if at < -FOUR else ONE + z * p / q)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _most_slots(starts: Array) -> int:
    most = 0
    for e in range(len(starts) - 1):
        most = max(most, starts[e + 1] - starts[e])
    return most


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _exponentials(score: Array, number: int, scale: float) -> None:
    # All of an event at once, and some that are none: short loops, and ends of loops, are slow.
    size = score.dtype.type(scale)
    for c in range((number + BLOCK - 1) // BLOCK * BLOCK):
        score[c] = _exp(score[c] * size)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _soften(score: Array, queries: int, slots: int, width: int, heads: int, spare: Array) -> None:
    # Weights of attention from scores (queries, slots, lanes), in place.
    wide = lanes(heads)
    for i in range(queries):
        subtract_largest(score, i * slots * wide, slots, wide, spare)
    _exponentials(score, queries * slots * wide, 1 / np.sqrt(width // heads))
    for i in range(queries):
        divide_by_sum(score, i * slots * wide, slots, wide, spare)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _attend_event(
    rows: Array,
    start: int,
    slots: int,
    width: int,
    heads: int,
    score: Array,
    spare: Array,
    out: Array,
    out_at: int,
) -> None:
    wide, first, stride = lanes(heads), start * 3 * width, 3 * width
    for i in range(slots):
        for j in range(slots):
            key_at, at = first + j * stride + width, (i * slots + j) * wide
            dot(rows, first + i * stride, rows, key_at, width, heads, score, at)
    _soften(score, slots, slots, width, heads, spare)
    out[out_at : out_at + slots * width] = ZERO
    for i in range(slots):
        for j in range(slots):
            value_at, at = first + j * stride + 2 * width, (i * slots + j) * wide
            add_weighted(score, at, rows, value_at, width, heads, out, out_at + i * width)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend_from_outside(query: Array, memory: Array, starts: Array, heads: int, out: Array) -> None:
    """Attention of one query per event (E, D) to the rows of the event: keys and values side by side, (R, 2D)."""
    width, wide, stride = out.shape[1], lanes(heads), 2 * out.shape[1]
    score, spare = np.zeros(_most_slots(starts) * wide + BLOCK, np.float32), np.empty(LANES, np.float32)
    queries, rows, result = query.reshape(-1), memory.reshape(-1), out.reshape(-1)
    for e in range(len(starts) - 1):
        slots, first = starts[e + 1] - starts[e], starts[e] * stride
        for j in range(slots):
            dot(queries, e * width, rows, first + j * stride, width, heads, score, j * wide)
        _soften(score, 1, slots, width, heads, spare)
        result[e * width : (e + 1) * width] = ZERO
        for j in range(slots):
            value_at = first + j * stride + width
            add_weighted(score, j * wide, rows, value_at, width, heads, result, e * width)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend(projected: Array, starts: Array, heads: int, out: Array) -> None:
    """Attention of the rows of each event to each other.

    Takes queries, keys and values side by side, shape (R, 3D); the result has shape (R, D); both by channel, for heads
    that :func:`~evenet_hep.model.vectors16.fits`.
    """
    width = out.shape[1]
    score = np.zeros(_most_slots(starts) ** 2 * lanes(heads) + BLOCK, np.float32)
    spare = np.empty(LANES, np.float32)
    rows, result = projected.reshape(-1), out.reshape(-1)
    for e in range(len(starts) - 1):
        start, slots = starts[e], starts[e + 1] - starts[e]
        _attend_event(rows, start, slots, width, heads, score, spare, result, start * width)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def attend_half(projected: Array, bias: Array, starts: Array, heads: int, out: Array) -> None:
    """The same for numbers in bfloat16, whose bits are held as int16; computed in single precision.

    The bias (3D,) of the projection is added here.
    """
    most, width = _most_slots(starts), out.shape[1]
    score, spare = np.zeros(most**2 * lanes(heads) + BLOCK, np.float32), np.empty(LANES, np.float32)
    rows, update = np.empty((most, 3 * width), np.float32), np.empty((most, width), np.float32)
    for e in range(len(starts) - 1):
        start, slots = starts[e], starts[e + 1] - starts[e]
        for i in range(slots):
            given, row = projected[start + i], rows[i]
            for c in range(3 * width):
                row[c] = _single(given[c]) + bias[c]
        _attend_event(rows.reshape(-1), 0, slots, width, heads, score, spare, update.reshape(-1), 0)
        for i in range(slots):
            found, result = update[i], out[start + i]
            for c in range(width):
                result[c] = _half(found[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def norm_to_half(x: Array, weight: Array, bias: Array, epsilon: float, out: Array) -> None:
    """Layer norm of rows (R, D), rounded to bfloat16, twice side by side (R, 2D), for weights in two parts."""
    width = x.shape[1]
    normal = np.empty(width, np.int16)
    for i in range(len(x)):
        row = x[i]
        mean = ZERO
        for c in range(width):
            mean += row[c]
        mean /= f32(width)
        square = ZERO
        for c in range(width):
            square += (row[c] - mean) * (row[c] - mean)
        scale = ONE / np.sqrt(square / f32(width) + f32(epsilon))
        for c in range(width):
            normal[c] = _half((row[c] - mean) * scale * weight[c] + bias[c])
        left, right = out[i, :width], out[i, width:]
        for c in range(width):
            left[c] = normal[c]
            right[c] = normal[c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def add_halves(x: Array, update: Array, bias: Array, scale: Array) -> None:
    """Add the update to rows (R, D) in place: ``scale`` times the sum of its bias and of its two halves (R, 2D)."""
    width = x.shape[1]
    for i in range(len(x)):
        row, left, right = x[i], update[i, :width], update[i, width:]
        for c in range(width):
            row[c] += scale[c] * (_single(left[c]) + _single(right[c]) + bias[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def nearest(positions: Array, starts: Array, phantom: int, row: Array) -> None:
    """The rows that are nearest to each row of its event, nearest first; shapes (R, C), (K, R).

    ``phantom`` below zero asks for neighbours of :func:`~evenet_hep.model.neighbours.find_neighbours`; -1 stands where
    an event has too few. Otherwise it is the row of the phantom, and neighbours are those of
    :func:`~evenet_hep.model.neighbours.find_with_phantoms`: the nearest of all, the row itself included, is left out.
    """
    number = row.shape[0]
    kept = number + 1 if phantom >= 0 else number
    index, distance = np.empty(kept, np.int64), np.empty(kept, np.float32)
    far = f32(FAR)
    for e in range(len(starts) - 1):
        start, end = starts[e], starts[e + 1]
        for i in range(start, end):
            here, found = positions[i], 0
            for k in range(kept):
                index[k] = phantom
            # Behind the rows of a small event stand phantoms, all in one place.
            behind = number if phantom >= 0 and end - start <= number else 0
            for j in range(start, end + behind):
                if j == i and phantom < 0:
                    continue
                total = ZERO
                if j < end:
                    there = positions[j]
                    for c in range(len(here)):
                        total += (here[c] - there[c]) * (here[c] - there[c])
                else:
                    there = positions[phantom]
                    for c in range(len(here)):
                        total += (here[c] - there[c] - far) * (here[c] - there[c] - far)
                k = found
                while k > 0 and total < distance[k - 1]:
                    if k < kept:
                        distance[k], index[k] = distance[k - 1], index[k - 1]
                    k -= 1
                if k < kept:
                    distance[k] = total
                    index[k] = j if j < end else phantom
                    found = min(found + 1, kept)
            for k in range(number):
                row[k, i] = index[k + 1] if phantom >= 0 else index[k]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def activate_pairs(both: Array, row: Array, out: Array) -> None:
    """GELU of what neighbour k of row i brings and what row i brings itself, side by side in ``both`` (R, 2H).

    Shapes of rows of neighbours and result: (K, R) and (K, R, H).
    """
    width = out.shape[2]
    for k in range(row.shape[0]):
        for i in range(row.shape[1]):
            there, here, result = both[row[k, i], :width], both[i, width:], out[k, i]
            for c in range(width):
                result[c] = _gelu(there[c] + here[c])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def average_pairs(pairs: Array, out: Array) -> None:
    """Mean (R, D) over the neighbours of each row, (K, R, D)."""
    part = ONE / f32(len(pairs))
    for i in range(len(out)):
        result = out[i]
        for c in range(len(result)):
            result[c] = ZERO
        for k in range(len(pairs)):
            pair = pairs[k, i]
            for c in range(len(result)):
                result[c] += pair[c]
        for c in range(len(result)):
            result[c] *= part


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def reset_state(update: Array, old: Array, state: Array, out: Array) -> None:
    """First half of :class:`~evenet_hep.model.layers.Gate`: r x, from (R, 3D), (R, 2D) and (R, D)."""
    width = state.shape[1]
    for i in range(len(state)):
        a, b, x, result = update[i, :width], old[i, :width], state[i], out[i]
        for c in range(width):
            result[c] = _sigmoid(a[c] + b[c]) * x[c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def mix_state(update: Array, old: Array, reset: Array, bias: Array, state: Array, out: Array) -> None:
    """Second half of it: (1 - z) x + z h, where ``reset`` is U_g (r x)."""
    width = state.shape[1]
    for i in range(len(state)):
        a, b = update[i, width : 2 * width], old[i, width : 2 * width]
        g, u, x, result = update[i, 2 * width : 3 * width], reset[i], state[i], out[i]
        for c in range(width):
            z = _sigmoid(a[c] + b[c] - bias[c])
            result[c] = x[c] + z * (_tanh(g[c] + u[c]) - x[c])
