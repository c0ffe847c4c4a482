"""A cluster for a command: the one that is there, or processes of this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from evenet_hep.errors import DistributedError


@contextmanager
def open_cluster(scheduler: str = "", n_workers: int = 0, *, patience: float = 30.0) -> Iterator[Client]:
    """A client of a scheduler, or of worker processes on this machine that end with the block.

    Parameters
    ----------
    scheduler : str
        Address, as in ``tcp://host:8786``.
    n_workers : int
        Processes to start where there is no address; they share the cores.
    patience : float
        Seconds to wait for the scheduler.

    Raises
    ------
    DistributedError
        If both or neither are given, or the scheduler does not answer.
    """
    if bool(scheduler) == bool(n_workers):
        found = f"{scheduler} and {n_workers}" if scheduler else "neither"
        msg = f"give either the address of a scheduler or a number of workers; found {found}"
        raise DistributedError(msg)
    if scheduler:
        try:
            client = Client(scheduler, timeout=patience)
        except (OSError, ValueError) as error:
            msg = f"no scheduler answers at {scheduler}: {error}"
            raise DistributedError(msg) from error
        with client:
            yield client
        return
    threads = max(1, len(os.sched_getaffinity(0)) // n_workers)
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
