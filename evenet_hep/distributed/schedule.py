"""How long a prediction takes on paper: a simulated schedule of chunks on many workers.

The model is small and its assumptions are its arguments: chunks are handed to whoever is free, a scheduler needs a
fixed time per task and gives out one at a time, all workers share one disk, and workers die now and then, losing the
chunk that they were working on.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from evenet_hep.errors import ConfigError


class Site(NamedTuple):
    """What a cluster is like.

    Parameters
    ----------
    workers : int
        Worker processes, one per GPU or core.
    seconds_per_event : float
        Of the network, on one worker.
    overhead_per_event : float
        Reading, filling and writing, in seconds on one worker. A worker with a second thread reads while it scores,
        and then only the larger of the two counts.
    seconds_per_chunk : float
        Opening a file, and whatever else comes once per chunk.
    is_overlapped : bool
        Whether chunks are read while others are scored.
    start_seconds : float
        From the start of a worker to its first event: imports and weights.
    bytes_per_event : float
        That are read from the disk that all share.
    disk_bytes_per_second : float
        Which that disk gives to all of them together.
    scheduler_seconds : float
        Of the scheduler per task.
    hours_between_deaths : float
        Mean time between two deaths of one worker; infinite for none.
    """

    workers: int
    seconds_per_event: float
    overhead_per_event: float = 0.0
    seconds_per_chunk: float = 0.0
    is_overlapped: bool = False
    start_seconds: float = 30.0
    bytes_per_event: float = 200.0
    disk_bytes_per_second: float = 1e9
    scheduler_seconds: float = 1e-3
    hours_between_deaths: float = float("inf")


class Forecast(NamedTuple):
    """What a simulated prediction takes.

    Parameters
    ----------
    seconds : float
        From the start to the last table.
    efficiency : float
        Time of the network alone, over time of all workers.
    deaths : int
        Workers that died; each cost the chunk it was working on and a new start.
    disk_share, scheduler_share : float
        Of the time that disk and scheduler were busy: near 1, they decide.
    tail_seconds : float
        From the first worker without work to the last table.
    """

    seconds: float
    efficiency: float
    deaths: int
    disk_share: float
    scheduler_share: float
    tail_seconds: float


def simulate_prediction(n_events: int, chunk_size: int, site: Site, *, seed: int = 1) -> Forecast:
    """Play through the schedule of a prediction.

    Parameters
    ----------
    n_events, chunk_size : int
        Events, and events per chunk.
    site : Site
        The cluster.
    seed : int
        Of the deaths.

    Raises
    ------
    ConfigError
        For numbers that make no sense.

    Examples
    --------
    >>> forecast = simulate_prediction(1_000_000, 50_000, Site(workers=10, seconds_per_event=1e-3, start_seconds=0))
    >>> round(forecast.seconds), round(forecast.efficiency, 2)
    (100, 1.0)
    """
    if min(n_events, chunk_size, site.workers) < 1 or site.seconds_per_event <= 0:
        msg = f"events, chunk_size, workers and seconds_per_event must be above 0; found {n_events}, {chunk_size}, {site}"
        raise ConfigError(msg)
    rng = np.random.default_rng(seed)
    full, rest = divmod(n_events, chunk_size)
    chunks = [rest] * (rest > 0) + [chunk_size] * full  # the last in the list is the next
    mean_life = site.hours_between_deaths * 3600
    free = [(site.start_seconds, worker) for worker in range(site.workers)]
    heapq.heapify(free)
    scheduler_free = disk_free = disk_busy = last = 0.0
    scheduler_busy, deaths = 0.0, 0
    while chunks:
        now, worker = heapq.heappop(free)
        size = chunks.pop()
        scheduler_free = max(scheduler_free, now) + site.scheduler_seconds
        scheduler_busy += site.scheduler_seconds
        reading = size * site.bytes_per_event / site.disk_bytes_per_second
        disk_free = max(disk_free, scheduler_free) + reading
        disk_busy += reading
        end = max(scheduler_free + _duration(size, site), disk_free)
        life = rng.exponential(mean_life) if np.isfinite(mean_life) else float("inf")
        if now + life < end:
            deaths += 1
            chunks.append(size)
            heapq.heappush(free, (now + life + site.start_seconds, worker))
            continue
        last = max(last, end)
        heapq.heappush(free, (end, worker))
    first_idle = min(end for end, _ in free)
    work = n_events * site.seconds_per_event
    tail = max(0.0, last - first_idle)
    return Forecast(last, work / (last * site.workers), deaths, disk_busy / last, scheduler_busy / last, tail)


def _duration(size: int, site: Site) -> float:
    network, rest = size * site.seconds_per_event, size * site.overhead_per_event + site.seconds_per_chunk
    return max(network, rest) if site.is_overlapped else network + rest
