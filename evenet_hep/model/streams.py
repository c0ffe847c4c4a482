"""Pieces of a batch side by side, one processor core each.

The steps of a network are too short to be shared out among cores one by one; whole pieces of a batch are not. Each
piece is computed by one thread from beginning to end, so that a result does not depend on which of them it was.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_streams(function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Results of a function for several pieces, in order, without gradients.

    Parameters
    ----------
    function : callable
        Takes one piece. It is called in other threads, with the inference mode and autocast of this one.
    pieces : sequence
        What to call it for.

    Examples
    --------
    >>> with torch.no_grad():
    ...     in_streams(lambda x: float(2 * x), [torch.ones(()), torch.zeros(())])
    [2.0, 0.0]
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(pieces) == 1:
        return [function(piece) for piece in pieces]
    is_inference, is_autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu")

    def run(piece: Piece) -> Result:
        with (
            torch.inference_mode(mode=is_inference),
            torch.no_grad(),
            torch.autocast("cpu", dtype, enabled=is_autocast),
        ):
            return function(piece)

    return list(_pool(threads, os.getpid()).map(run, pieces))


def share(function: Callable[[int, int, int], None], bounds: npt.NDArray[np.int64]) -> None:
    """Let threads work on parts of the same arrays: call ``function(i, bounds[i], bounds[i + 1])`` for each i.

    Parameters
    ----------
    function : callable
        Lets go of the interpreter, as compiled kernels do; writes into rows of its own.
    bounds : int array, shape (parts + 1,)
        No more parts than threads. The first one is done here.
    """
    parts = list(zip(range(len(bounds) - 1), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    if len(parts) == 1:
        return function(*parts[0])
    others = [_pool(torch.get_num_threads(), os.getpid()).submit(function, *part) for part in parts[1:]]
    function(*parts[0])
    for other in others:
        other.result()
    return None


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001  a fork needs threads of its own
    pool = ThreadPoolExecutor(threads, "evenet-stream", initializer=torch.set_num_threads, initargs=(1,))
    everyone = threading.Barrier(threads)  # until all threads are there
    list(pool.map(lambda _: everyone.wait(), range(threads)))
    # Each of them has a number of its own now, one; setting it also set the number that is reported everywhere else.
    torch.set_num_threads(threads)
    return pool
