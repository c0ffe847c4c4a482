"""Processes that share the work of one machine."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from evenet_hep.conversion import end_with_parent


def process_pool(cores: int) -> ProcessPoolExecutor:
    """Processes with one thread each, which end when the one that started them does.

    Parameters
    ----------
    cores : int
        Number of processes.

    Examples
    --------
    >>> with process_pool(1) as pool:
    ...     pool.submit(abs, -3).result()
    3
    """
    # Spawned, not forked: torch does not survive a fork.
    return ProcessPoolExecutor(cores, get_context("spawn"), prepare_process, (os.getpid(),))


def prepare_process(parent: int) -> None:
    """Make this process one of a pool: one thread, and no life of its own.

    Parameters
    ----------
    parent : int
        Number of the process that started it. Once that was killed nobody else would end this one.
    """
    import torch  # noqa: PLC0415  seconds, which only the processes of a pool need to spend here

    os.environ["OMP_NUM_THREADS"] = (
        "1"  # processes share the cores: threads of theirs would wait for each other
    )
    torch.set_num_threads(1)
    end_with_parent(parent)
