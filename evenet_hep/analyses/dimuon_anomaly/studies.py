"""What the analysis repeats: subsamples of data, samples without signal, injected signals, bootstraps, shifted scales.

Every study is a list of tasks; a task is one search in one sample, knows its seed, and gives a row of a table. Tasks run in
as many processes as the settings say and give the same rows in any number of them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from evenet_hep.analyses.dimuon_anomaly.config import DimuonAnomalyConfig, Method, Region
from evenet_hep.analyses.dimuon_anomaly.injection import injected_sample
from evenet_hep.analyses.dimuon_anomaly.search import (
    draw_background,
    in_window,
    make_generator,
    search,
    seed_of,
    whole_search,
)
from evenet_hep.analyses.folder import AnalysisFolder
from evenet_hep.events.dimuons import DimuonPairs, mix_pairs
from evenet_hep.events.systematics import draw_energy_scales
from evenet_hep.model.evenet import EveNet
from evenet_hep.processes import prepare_process
from evenet_hep.stats.resampling import resample_data

Row = dict[str, Any]


class Task(NamedTuple):
    """One search of a study.

    Parameters
    ----------
    study : str
        Name of the function below that does it.
    method : str
        Generator.
    number : int
        Which repetition.
    setting : float
        What the study varies.
    region : Region or None
        Window; None for that of the settings.
    """

    study: str
    method: Method
    number: int = 0
    setting: float = 0.0
    region: Region | None = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all tasks share.

    Parameters
    ----------
    config : DimuonAnomalyConfig
    pairs : DimuonPairs
        The half of the data that is searched.
    total : int
        Pairs of the whole file, of which fractions are meant.
    same_sign : DimuonPairs or None
        Real pairs of same sign; None to mix some.
    checkpoint : Path or None
        Folder of the pretrained network.
    """

    config: DimuonAnomalyConfig
    pairs: DimuonPairs
    total: int
    same_sign: DimuonPairs | None = None
    checkpoint: Path | None = None

    def size(self, fraction: float) -> int:
        """Pairs of a subsample."""
        return min(round(fraction * self.total), self.pairs.n)

    def subsample(self, fraction: float, number: int) -> DimuonPairs:
        """Some of the pairs at random, the same for every method."""
        rng = np.random.default_rng([self.config.seed, 11, round(1e6 * fraction), number])
        return self.pairs.take(rng.choice(self.pairs.n, self.size(fraction), replace=False))


def subsample(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Search a random subsample of the data."""
    pairs = bench.subsample(task.setting, task.number)
    found = _search(bench, task, pairs, network)
    return {"fraction": task.setting, "n_pairs": pairs.n, **found}


def control(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Search all of the data in a window that holds no resonance."""
    region = _region(bench, task)
    mass = bench.pairs.mass
    pairs = bench.pairs.take((mass > region.span[0]) & (mass < region.span[1]))
    return {"window": list(region.window), "n_pairs": pairs.n, **_search(bench, task, pairs, network)}


def toy(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Search mixed pairs with an injected signal, of ``setting`` events on average."""
    config = bench.config
    made = injected_sample(
        bench.pairs,
        bench.size(config.fraction),
        task.setting,
        span=config.region.span,
        window=config.region.window,
        seed=[config.seed, 23, task.number, round(task.setting)],
    )
    result = whole_search(made.pairs, task.method, config, seed=_seed(bench, task), pretrained=network)
    row = {"injected_mean": task.setting, "injected": int(made.is_signal.sum()), **result.numbers()}
    for cut in result.cuts:
        passed = made.is_signal & (result.scores >= cut.threshold) & in_window(made.pairs, config.region)
        row[f"injected_cut_{100 * cut.background_efficiency:g}"] = int(passed.sum())
    return row


def data_bootstrap(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Draw the data anew and do everything again with the same seeds: the statistical error."""
    pairs = bench.subsample(bench.config.fraction, 0)
    drawn = resample_data(pairs.n, seed=[bench.config.seed, 31, task.number])
    counts = np.bincount(drawn, minlength=pairs.n)
    kept = counts > 0
    found = whole_search(
        pairs.take(kept),
        task.method,
        bench.config,
        seed=_seed(bench, task._replace(number=0)),
        pretrained=network,
        counts=counts[kept],
    )
    return found.numbers()


def generator_bootstrap(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Train and draw the generator anew for the same data: not a statistical error."""
    return _search(bench, task, bench.subsample(bench.config.fraction, 0), network)


def scale(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Search data whose muon momenta are shifted by the relative amount ``setting``; seeds are those of no shift."""
    pairs = bench.subsample(bench.config.fraction, 0).scaled(1 + task.setting)
    mass = pairs.mass
    low, high = bench.config.region.span
    pairs = pairs.take((mass > low) & (mass < high))
    unshifted = task._replace(setting=0.0, number=0)
    return {"shift": task.setting, **_search(bench, unshifted, pairs, network)}


COMBINATIONS = ("OS -> OS", "OS -> SS", "SS -> OS", "SS -> SS")


def combination(bench: Bench, task: Task, network: EveNet | None) -> Row:
    """Trees trained on one sign and applied to another; ``setting`` counts :data:`COMBINATIONS`."""
    config, name = bench.config, COMBINATIONS[int(task.setting)]
    samples = {"OS": bench.subsample(config.fraction, task.number), "SS": _same_sign(bench, task.number)}
    learned, applied = (samples[sign] for sign in name.split(" -> "))
    seed = seed_of(config.seed, "combination", task.method, name[:2], task.number)
    generator = make_generator(learned, task.method, config, seed=seed, pretrained=network)
    generated = draw_background(learned, generator, config, seed=seed + 1)
    other = None if learned is applied else learned
    result = search(applied, generated, config, seed=seed + 2, trained_on=other)
    return {"combination": name, "n_pairs": applied.n, **result.numbers()}


def _same_sign(bench: Bench, number: int) -> DimuonPairs:
    size = bench.size(bench.config.fraction)
    seed = [bench.config.seed, 41, number]
    if bench.same_sign is None:
        return mix_pairs(bench.pairs, size, span=bench.config.region.span, same_sign=True, seed=seed)
    chosen = np.random.default_rng(seed).choice(
        bench.same_sign.n, min(size, bench.same_sign.n), replace=False
    )
    return bench.same_sign.take(chosen)


STUDIES: dict[str, Callable[[Bench, Task, EveNet | None], Row]] = {
    function.__name__: function
    for function in (subsample, control, toy, data_bootstrap, generator_bootstrap, scale, combination)
}


def tasks_of(config: DimuonAnomalyConfig) -> dict[str, list[Task]]:
    """Every task of the analysis, by name of the step that it belongs to."""
    both: list[Method] = [method for method in config.methods if method != "scratch"]
    both = both or list(config.methods)
    main = config.methods[0]
    rng = np.random.default_rng([config.seed, 53])
    shifts = [0.0, *draw_energy_scales(config.scales, rng, width=config.scale_width)]
    return {
        "subsamples": [
            Task("subsample", method, k, fraction)
            for fraction in config.fractions
            for method in (config.methods if fraction == config.fraction else both)
            for k in range(config.subsamples)
        ],
        "false_positives": [Task("toy", method, k) for method in both for k in range(config.toys)],
        "injections": [
            Task("toy", method, k, float(size))
            for size in config.injected
            for method in both
            for k in range(config.injections)
        ],
        # Both bootstraps and the momentum scale look at the first subsample of the size ``fraction``.
        "data_bootstrap": [Task("data_bootstrap", main, k) for k in range(config.bootstraps)],
        "generator_bootstrap": [Task("generator_bootstrap", main, k) for k in range(config.bootstraps)],
        "momentum_scale": [Task("scale", main, k, float(shift)) for k, shift in enumerate(shifts)],
        "combinations": [Task("combination", main, 0, float(k)) for k in range(len(COMBINATIONS))],
        "control_windows": [
            Task("control", method, k, region=region)
            for k, region in enumerate(config.control_windows)
            for method in both
        ],
    }


def _region(bench: Bench, task: Task) -> Region:
    return bench.config.region if task.region is None else task.region


def _seed(bench: Bench, task: Task) -> int:
    return seed_of(bench.config.seed, task.study, task.method, task.number, task.setting)


def _search(bench: Bench, task: Task, pairs: DimuonPairs, network: EveNet | None) -> Row:
    found = whole_search(
        pairs,
        task.method,
        bench.config,
        region=task.region,
        seed=_seed(bench, task),
        pretrained=network,
    )
    return found.numbers()


# --- running tasks ---------------------------------------------------------------------------------------------------

_shared: tuple[Bench, EveNet | None] | None = None


def _prepare_process(bench: Bench, parent: int) -> None:
    prepare_process(parent)
    _prepare(bench)


def _prepare(bench: Bench) -> None:
    """Set a process up: one thread, and the pretrained network in memory."""
    global _shared  # noqa: PLW0603  read by the tasks of this process
    torch.set_num_threads(1)
    network = None if bench.checkpoint is None else EveNet.from_pretrained(bench.checkpoint).eval()
    _shared = (bench, network)


def _run(task: Task) -> Row:
    if _shared is None:
        msg = "a task needs a process that was prepared"
        raise RuntimeError(msg)
    bench, network = _shared
    return {"method": task.method, "number": task.number, **STUDIES[task.study](bench, task, network)}


PART = 8  # searches between two results on disk


class Runner:
    """Runs tasks in this process or in several.

    Parameters
    ----------
    bench : Bench
    pool : ProcessPoolExecutor or None
        None for this process.
    progress : bool
        Draw a bar.
    """

    def __init__(self, bench: Bench, pool: ProcessPoolExecutor | None, *, progress: bool) -> None:
        self.bench, self.pool, self.progress = bench, pool, progress

    def rows(self, folder: AnalysisFolder, name: str, tasks: Sequence[Task]) -> list[Row]:
        """Rows of the tasks, in their order; a few at a time are kept in the folder, from where a second call goes on."""
        parts = [tasks[at : at + PART] for at in range(0, len(tasks), PART)]
        rows: list[Row] = []
        for k, part in enumerate(track(parts, name.replace("_", " "), disable=not self.progress)):
            found = folder.step(f"{name}/{k:03d}", lambda part=part: {"rows": self._search(part)})  # type: ignore[misc]
            rows += found["rows"]
        return rows

    def _search(self, tasks: Sequence[Task]) -> list[Row]:
        if self.pool is not None:
            return list(self.pool.map(_run, tasks))
        if _shared is None or _shared[0] is not self.bench:
            _prepare(self.bench)
        return [_run(task) for task in tasks]


@contextmanager
def runner(bench: Bench, *, progress: bool) -> Iterator[Runner]:
    """A :class:`Runner` with as many processes as the settings say."""
    if bench.config.cores == 1:
        yield Runner(bench, None, progress=progress)
        return
    # Spawned, not forked: torch does not survive a fork.
    context, arguments = multiprocessing.get_context("spawn"), (bench, os.getpid())
    with ProcessPoolExecutor(bench.config.cores, context, _prepare_process, arguments) as pool:
        yield Runner(bench, pool, progress=progress)
