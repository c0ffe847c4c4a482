"""Trainings and measurements of the analysis, each a job of its own that any process can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evenet_hep.analyses.higgs_to_4b.config import HiggsTo4bConfig
from evenet_hep.analyses.higgs_to_4b.energy_scale import measure_shifts
from evenet_hep.analyses.higgs_to_4b.limits import expected_limits, inject
from evenet_hep.analyses.higgs_to_4b.measure import results_of
from evenet_hep.analyses.higgs_to_4b.networks import (
    Found,
    Network,
    train_network,
    train_spanet,
    train_trees,
)
from evenet_hep.analyses.higgs_to_4b.pairing import pair_by_distance, pair_by_mass
from evenet_hep.analyses.higgs_to_4b.pool import EventPool
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.systematics import draw_energy_scales
from evenet_hep.processes import process_pool

BASELINES = ("XGBoost", "SPANet")
CLASSICAL = ("equal masses", "smallest distances")
Method = Callable[[EventCloud], Found]


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where the events are, and what is done with them.

    Parameters
    ----------
    events, networks : Path
        Folders of the kept events and of the trained networks.
    kept : tuple of pairs
        Name of each sample, the signals first, and its files.
    n_signals : int
        How many of the samples are signals.
    config : HiggsTo4bConfig
    """

    events: Path
    networks: Path
    kept: tuple[tuple[str, tuple[str, ...]], ...]
    n_signals: int
    config: HiggsTo4bConfig

    def pool(self) -> EventPool:
        """The events, read once per process."""
        return _pool(self)


@lru_cache(maxsize=1)
def _pool(place: Workplace) -> EventPool:
    config = place.config
    return EventPool.read(
        place.events,
        dict(place.kept),
        n_signals=place.n_signals,
        fractions=config.fractions,
        btag=config.btag,
    )


class Job(NamedTuple):
    """One thing to do.

    Parameters
    ----------
    kind : str
        ``learn``, ``limit``, ``inject``, ``shift`` or ``tops``.
    method : str
        Of the comparison, such as ``scratch, assignment`` or ``XGBoost``.
    size, seed : int
        Training events (0 for all) and seed.
    injected : float
        Strength, for ``inject``.
    """

    kind: str
    method: str
    size: int = 0
    seed: int = 0
    injected: float = 0.0

    @property
    def name(self) -> str:
        """Of the step."""
        slug = self.method.replace(", ", "-").replace(" ", "-")
        tail = f"-{self.injected:g}" if self.kind == "inject" else f"-{self.size or 'all'}-{self.seed}"
        return f"{self.kind}-{slug}{tail}"


def methods_of(config: HiggsTo4bConfig) -> list[str]:
    """Names of all methods that are trained: networks by start and task, then the baselines."""
    return [f"{start}, {task}" for start in config.starts for task in config.tasks] + list(BASELINES)


def main_method(config: HiggsTo4bConfig) -> str:
    """The network that limits and closure are made with; chosen before any result: the assignment, pretrained if it can be."""
    return f"{config.starts[-1]}, assignment"


def trained(place: Workplace, method: str, size: int, seed: int) -> Method:
    """A method, trained now or read from the folder of an earlier training."""
    if method in CLASSICAL:
        pair = pair_by_mass if method == CLASSICAL[0] else pair_by_distance
        return lambda cloud: Found(None, pair(cloud).slots)
    if method == "XGBoost":
        return train_trees(place.pool(), place.config, size=size, seed=seed)
    if method == "SPANet":
        return train_spanet(place.pool(), place.config, size=size, seed=seed)
    start, task = method.split(", ")
    folder = network_folder(place, method, size, seed)
    if (folder / "model.safetensors").is_file():
        return Network(folder, task)
    return train_network(place.pool(), place.config, folder, task=task, start=start, size=size, seed=seed)


def network_folder(place: Workplace, method: str, size: int, seed: int) -> Path:
    """Where a trained network is kept."""
    return place.networks / Job("learn", method, size, seed).name


def do(place: Workplace, job: Job) -> dict[str, Any]:
    """Do one job and return its numbers."""
    config = place.config
    if job.kind == "tops":
        return _tops(config, job)
    method = trained(place, job.method, job.size, job.seed)
    if job.kind == "shift":
        return _shift(place, job, method)
    test = place.pool().events("test")
    found = method(test.cloud)
    if job.kind == "learn":
        row = {"method": job.method, "size": job.size or len(place.pool().events("train")), "seed": job.seed}
        return row | results_of(test, found)
    score = np.asarray(found.score)
    if job.kind == "limit":
        limits = expected_limits(
            test, score, bins=config.bins, background_uncertainty=config.background_uncertainty
        )
        return {"limits": [each._asdict() for each in limits]}
    injection = inject(
        test,
        score,
        job.injected,
        n_toys=config.toys if job.injected else 5 * config.toys,
        bins=config.bins,
        background_uncertainty=config.background_uncertainty,
        seed=config.seed,
    )
    return injection._asdict()


def _shift(place: Workplace, job: Job, method: Method) -> dict[str, Any]:
    shifts = draw_energy_scales(place.config.energy_shifts, np.random.default_rng(place.config.seed))
    found = measure_shifts(place.pool(), {job.method: method}, shifts)
    return {
        quantity: each[job.method]._asdict()
        for quantity, each in (("sic", found.sic), ("pairing", found.pairing))
        if job.method in each
    }


def _tops(config: HiggsTo4bConfig, job: Job) -> dict[str, Any]:
    from evenet_hep.analyses.higgs_to_4b.spanet_file import compare, read_top_pairs  # noqa: PLC0415  h5py

    found = compare(read_top_pairs(config.spanet_file), config, method=job.method, seed=job.seed)
    row: dict[str, Any] = {"method": job.method, "seed": job.seed}
    for name in ("event_complete", "event_partial", "resonance"):
        efficiency = getattr(found, name)
        row |= {
            name: efficiency.value,
            f"{name}_uncertainty": efficiency.uncertainty,
            f"{name}_total": efficiency.total,
        }
    return row


def do_all(place: Workplace, jobs: Sequence[Job], *, cores: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Do jobs in some processes, and give each with its numbers as soon as it is done."""
    if cores == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, do(place, job)
        return
    with process_pool(min(cores, len(jobs))) as pool:
        futures = {pool.submit(do, place, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def plain_kept(kept: Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Samples and their files in a form that can be compared and hashed."""
    return tuple((name, tuple(sorted(files))) for name, files in kept.items())
