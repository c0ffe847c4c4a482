# ruff: noqa: ARG001  numba looks at the names of arguments
"""Sixteen numbers at a time: short loops that compilers do not turn into vector instructions by themselves.

Attention in small events is made of loops over the channels of all heads, and over heads, which are too short for what a
compiler makes of loops of unknown length. Here they are written as operations on vectors of sixteen numbers. With
channels in front of heads, ``channel * heads + head``, such a vector holds numbers of all heads, some channels each, or
of sixteen heads. What belongs to the heads alone is kept in :func:`lanes` numbers: where heads are fewer than sixteen
they are there several times over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
Array = npt.NDArray[Any]
Operation = Callable[[Any, Any, Any], Any]  # of a builder and two vectors

_intrinsic: Any = intrinsic  # numba passes the first argument of what it decorates itself
_i64 = types.int64


def fits(width: int, heads: int) -> bool:
    """Whether channels of this many heads can be worked on here.

    Examples
    --------
    >>> fits(256, 16), fits(48, 4), fits(512, 32), fits(96, 6)
    (True, True, True, False)
    """
    return width % max(LANES, heads) == 0 and (LANES % heads == 0 or heads % LANES == 0)


@numba.njit(inline="always")
def lanes(heads: int) -> int:
    """Numbers that belong to the heads, repetitions included."""
    return max(LANES, heads)


class _Vectors:
    # Loads and stores sixteen numbers of a flat array, wherever they begin.

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        self.builder = builder
        self.data = context.make_array(kind)(context, builder, value).data
        self.type = ir.VectorType(context.get_value_type(kind.dtype), LANES)
        self.align = kind.dtype.bitwidth // 8

    def _at(self, place: Any) -> Any:
        pointer = self.builder.gep(self.data, [place])
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def load(self, place: Any) -> Any:
        return self.builder.load(self._at(place), align=self.align)

    def store(self, vector: Any, place: Any) -> None:
        self.builder.store(vector, self._at(place), align=self.align)


def _add_product(builder: Any, a: Any, b: Any, c: Any) -> Any:
    product = builder.fmul(a, b, flags=("contract",))
    return builder.fadd(product, c, flags=("contract",))


@_intrinsic
def _dot(
    _typing: Any,
    a: Any,
    a_at: Any,
    b: Any,
    b_at: Any,
    count: Any,
    step: Any,
    heads: Any,
    out: Any,
    out_at: Any,
) -> Any:
    # Sum of ``count`` products of vectors, every ``step`` numbers; lanes of the same head are added to each other.

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, second, result = (_Vectors(context, builder, signature.args[i], values[i]) for i in (0, 2, 7))
        total = cgutils.alloca_once_value(builder, ir.Constant(first.type, [0.0] * LANES))
        with cgutils.for_range(builder, values[4]) as loop:
            place = builder.mul(loop.index, values[5])
            pair = first.load(builder.add(values[1], place)), second.load(builder.add(values[3], place))
            builder.store(_add_product(builder, *pair, builder.load(total)), total)
        for size in (8, 4, 2, 1):
            with builder.if_then(builder.icmp_signed("<=", values[6], ir.Constant(values[6].type, size))):
                order = ir.Constant(
                    ir.VectorType(ir.IntType(32), LANES), [(i + size) % LANES for i in range(LANES)]
                )
                vector = builder.load(total)
                turned = builder.shuffle_vector(vector, ir.Constant(first.type, [0.0] * LANES), order)
                builder.store(builder.fadd(vector, turned), total)
        result.store(builder.load(total), values[8])
        return context.get_dummy_value()

    return types.void(a, _i64, b, _i64, _i64, _i64, _i64, out, _i64), build


@_intrinsic
def _add(
    _typing: Any, weight: Any, weight_at: Any, x: Any, x_at: Any, count: Any, step: Any, out: Any, out_at: Any
) -> Any:
    # Add one vector of ``weight`` times each of ``count`` vectors of ``x``, every ``step`` numbers, to ``out``.

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scale, given, result = (_Vectors(context, builder, signature.args[i], values[i]) for i in (0, 2, 6))
        factor = scale.load(values[1])
        with cgutils.for_range(builder, values[4]) as loop:
            place = builder.mul(loop.index, values[5])
            there = builder.add(values[7], place)
            old, more = result.load(there), given.load(builder.add(values[3], place))
            result.store(_add_product(builder, factor, more, old), there)
        return context.get_dummy_value()

    return types.void(weight, _i64, x, _i64, _i64, _i64, out, _i64), build


def _reduction(operation: Operation, start: float) -> Any:
    # One vector from ``count`` vectors of ``x``, every ``step`` numbers.

    def reduce(_typing: Any, x: Any, x_at: Any, count: Any, step: Any, out: Any, out_at: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            given, result = (_Vectors(context, builder, signature.args[i], values[i]) for i in (0, 4))
            total = cgutils.alloca_once_value(builder, ir.Constant(given.type, [start] * LANES))
            with cgutils.for_range(builder, values[2]) as loop:
                vector = given.load(builder.add(values[1], builder.mul(loop.index, values[3])))
                builder.store(operation(builder, builder.load(total), vector), total)
            result.store(builder.load(total), values[5])
            return context.get_dummy_value()

        return types.void(x, _i64, _i64, _i64, out, _i64), build

    return _intrinsic(reduce)


def _broadcast(operation: Operation) -> Any:
    # Change ``count`` vectors of ``out``, every ``step`` numbers, by one vector of ``x``.

    def change(_typing: Any, x: Any, x_at: Any, count: Any, step: Any, out: Any, out_at: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            given, result = (_Vectors(context, builder, signature.args[i], values[i]) for i in (0, 4))
            vector = given.load(values[1])
            with cgutils.for_range(builder, values[2]) as loop:
                there = builder.add(values[5], builder.mul(loop.index, values[3]))
                result.store(operation(builder, result.load(there), vector), there)
            return context.get_dummy_value()

        return types.void(x, _i64, _i64, _i64, out, _i64), build

    return _intrinsic(change)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


_largest = _reduction(_larger, -3.0e38)
_total = _reduction(lambda builder, a, b: builder.fadd(a, b), 0.0)
_subtract = _broadcast(lambda builder, a, b: builder.fsub(a, b))
_divide = _broadcast(lambda builder, a, b: builder.fdiv(a, b))


@numba.njit(inline="always")
def dot(a: Array, a_at: int, b: Array, b_at: int, width: int, heads: int, out: Array, out_at: int) -> None:
    """Sum of products over the channels of each head, into ``out`` from ``out_at`` on."""
    wide = lanes(heads)
    for first in range(0, wide, LANES):
        _dot(a, a_at + first, b, b_at + first, width // wide, wide, heads, out, out_at + first)


@numba.njit(inline="always")
def add_weighted(
    weight: Array, weight_at: int, x: Array, x_at: int, width: int, heads: int, out: Array, out_at: int
) -> None:
    """Add a vector, the channels of each head times its weight, to ``out``."""
    wide = lanes(heads)
    for first in range(0, wide, LANES):
        _add(weight, weight_at + first, x, x_at + first, width // wide, wide, out, out_at + first)


@numba.njit(inline="always")
def subtract_largest(score: Array, at: int, slots: int, wide: int, spare: Array) -> None:
    """Subtract from each head's scores of a query, one row per slot, the largest of them."""
    for first in range(0, wide, LANES):
        _largest(score, at + first, slots, wide, spare, 0)
        _subtract(spare, 0, slots, wide, score, at + first)


@numba.njit(inline="always")
def subtract(mean: Array, score: Array, at: int, slots: int, wide: int) -> None:
    """Subtract one number per head from the scores of a query, one row per slot."""
    for first in range(0, wide, LANES):
        _subtract(mean, first, slots, wide, score, at + first)


@numba.njit(inline="always")
def divide_by_sum(score: Array, at: int, slots: int, wide: int, spare: Array) -> None:
    """Divide each head's scores of a query, one row per slot, by their sum."""
    for first in range(0, wide, LANES):
        _total(score, at + first, slots, wide, spare, 0)
        _divide(spare, 0, slots, wide, score, at + first)


@numba.njit(inline="always")
def sum_products(a: Array, a_at: int, b: Array, b_at: int, slots: int, wide: int, out: Array) -> None:
    """Sum over slots of the products of two tables of scores of a query."""
    for first in range(0, wide, LANES):
        _dot(a, a_at + first, b, b_at + first, slots, wide, LANES, out, first)
