"""Many steps of an analysis on the cores of one machine: each is done once, and kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from contextlib import nullcontext
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evenet_hep.analyses.folder import AnalysisFolder
from evenet_hep.processes import process_pool


def run_steps(
    folder: AnalysisFolder,
    jobs: Mapping[str, tuple[Any, ...]],
    compute: Callable[..., dict[str, Any]],
    *,
    cores: int,
    label: str,
    progress: bool | Progress = False,
) -> dict[str, dict[str, Any]]:
    """Numbers of many steps, by name; those that are finished are read.

    Parameters
    ----------
    folder : AnalysisFolder
        Where they are kept.
    jobs : mapping of str to tuple
        Name of a step -> arguments of ``compute``.
    compute : callable
        A function of a module, as it is sent to other processes.
    cores : int
        Processes; with 1 everything happens in this one.
    label : str
        For the progress bar.
    progress : bool or rich.progress.Progress
        Draw it; among the bars of another one.

    Returns
    -------
    dict of str to dict
        In the order of ``jobs``.
    """
    missing = {name: job for name, job in jobs.items() if not folder.is_done(name)}
    if missing:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        own = (
            Progress(*columns, disable=not progress) if isinstance(progress, bool) else nullcontext(progress)
        )
        with own as bar:
            task = bar.add_task(label, total=len(jobs), completed=len(jobs) - len(missing))
            if cores == 1 or len(missing) <= 1:
                for name, job in missing.items():
                    folder.step(name, lambda job=job: compute(*job))  # type: ignore[misc]
                    bar.advance(task)
            else:
                _in_processes(folder, missing, compute, cores, lambda: bar.advance(task))
    return {name: folder.step(name, dict) for name in jobs}


def _in_processes(
    folder: AnalysisFolder,
    jobs: Mapping[str, tuple[Any, ...]],
    compute: Callable[..., dict[str, Any]],
    cores: int,
    advance: Callable[[], None],
) -> None:
    pool = process_pool(min(cores, len(jobs)))
    try:
        # Pickled here: what cannot be sent is an error now, where a pool of Python 3.11 would wait for ever.
        sent = {name: pickle.dumps((compute, job)) for name, job in jobs.items()}
        futures = {pool.submit(_call, content): name for name, content in sent.items()}
        for future in as_completed(futures):
            found = future.result()
            folder.step(futures[future], lambda found=found: found)  # type: ignore[misc]
            advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _call(content: bytes) -> dict[str, Any]:
    compute, job = pickle.loads(content)  # noqa: S301  of this analysis, from the process that started this one
    found: dict[str, Any] = compute(*job)
    return found
