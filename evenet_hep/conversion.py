"""From NanoAOD and other event files to training files: in one process, on many cores, or on a Dask cluster.

Every chunk of a file becomes one part of the training set, written whole or not at all. What has to be done is
written first (``conversion.json``), so that a conversion that was killed goes on where it stopped, with the same result.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from evenet_hep import __version__
from evenet_hep.errors import ConfigError, EveNetError, FileError
from evenet_hep.events.reading import inspect_file, sum_of_weights
from evenet_hep.events.sources import Source, check_sources
from evenet_hep.events.splits import SPLITS
from evenet_hep.events.training_chunks import Settings, Task, check_branches, convert_task
from evenet_hep.events.training_files import Layout, Part, finish, read_part, reason, write_json
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology


class Conversion(NamedTuple):
    """What a conversion did.

    Parameters
    ----------
    training_set : TrainingSet
        The finished set.
    n_converted, n_kept : int
        Events converted now, and found complete from an earlier run.
    """

    training_set: TrainingSet
    n_converted: int
    n_kept: int


class Plan(NamedTuple):
    """All that a conversion depends on."""

    layout: Layout
    sources: tuple[Source, ...]
    settings: Settings
    tasks: tuple[Task, ...]
    sizes: dict[str, int]
    sum_weights: dict[str, float | None]


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def convert(
    sources: Sequence[Source],
    out: str | Path,
    *,
    schema: EventSchema | None = None,
    topology: Topology | None = None,
    splits: Mapping[str, float] = SPLITS,
    settings: Settings | None = None,
    cores: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] = _silent,
) -> Conversion:
    """Write a training set.

    Parameters
    ----------
    sources : sequence of Source
        What to read.
    out : str or Path
        Folder of the training set. On a cluster, workers must see it under the same name.
    schema : EventSchema, optional
        Features and classes; by default the standard ones, with the classes of the sources.
    topology : Topology, optional
        Event grammar for the truth labels; without one there are none.
    splits : mapping of str to float
        Names and fractions of the splits.
    settings : Settings, optional
        How events become training events.
    cores : int
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler, to use its workers instead.
    resume : bool
        Go on with a conversion that was stopped. Everything else must be as it was.
    progress : callable
        Called with the number of events done and of all events after every part.

    Returns
    -------
    Conversion

    Raises
    ------
    ConfigError
        For contradictory options, unknown classes or processes.
    FileError
        For files that cannot be read or written. Parts that are complete stay, for ``resume``.
    InputError
        For events that lack a branch or hold NaN; the message names the file.

    Examples
    --------
    >>> import tempfile
    >>> from evenet_hep.share import sample_files
    >>> source = Source("dy", "ZJets", [str(sample_files()["Drell-Yan MC"])])
    >>> done = convert([source], tempfile.mkdtemp() + "/set")
    >>> done.n_converted, done.training_set.n_events("train"), done.training_set.schema.classes
    (40, 34, ('ZJets',))
    """
    if cores < 1 or (scheduler is not None and cores > 1):
        found = f"cores {cores}" + (f" and the scheduler {scheduler}" if scheduler else "")
        msg = f"cores must be at least 1, and either cores or a scheduler is given; found {found}"
        raise ConfigError(msg)
    folder = Path(out)
    plan = make_plan(
        sources, schema=schema, topology=topology, splits=splits, settings=settings or Settings()
    )
    _begin(folder, plan, resume=resume)
    done = {i: part for i in range(len(plan.tasks)) if (part := read_part(_path(folder, i))) is not None}
    n_kept = n_done = sum(task.stop - task.start for i, task in enumerate(plan.tasks) if i in done)
    total = sum(task.stop - task.start for task in plan.tasks)
    progress(n_done, total)
    todo = [i for i in range(len(plan.tasks)) if i not in done]
    if scheduler:
        running = _run_on_cluster(folder, plan, todo, scheduler)
    else:
        running = _run_here(folder, plan, todo) if cores == 1 else _run_on_cores(folder, plan, todo, cores)
    try:
        for i, part in running:
            done[i] = part
            n_done += plan.tasks[i].stop - plan.tasks[i].start
            progress(n_done, total)
    except FileError as error:
        msg = f"{error}; {len(done)} of {len(plan.tasks)} parts are complete: mend it and run again with --resume"
        raise FileError(msg) from error
    _finish(folder, plan, [done[i] for i in range(len(plan.tasks))])
    return Conversion(TrainingSet.open(folder), total - n_kept, n_kept)


def make_plan(
    sources: Sequence[Source],
    *,
    schema: EventSchema | None,
    topology: Topology | None,
    splits: Mapping[str, float],
    settings: Settings,
) -> Plan:
    """Open all files, so that a wrong name or a missing branch is found before anything is written."""
    labels = [source.label for source in sources if source.label]
    schema = schema or EventSchema.standard()
    if not schema.classes:
        schema = EventSchema.from_json(
            json.dumps({**json.loads(schema.to_json()), "classes": [*dict.fromkeys(labels)]})
        )
    grammar = topology or Topology(())
    check_sources(sources, schema.classes, grammar)
    layout = Layout(schema, grammar, splits)
    tasks: list[Task] = []
    sizes: dict[str, int] = {}
    sums: dict[str, float | None] = {}
    for s, source in enumerate(sources):
        for number, file in enumerate(source.files):
            content = inspect_file(file, tree=settings.tree)
            check_branches(file, content.branches, source, layout, settings)
            sizes[file], sums[file] = Path(file).stat().st_size, sum_of_weights(file)
            for start in range(0, content.n_events, settings.chunk_size):
                stop = min(start + settings.chunk_size, content.n_events)
                tasks.append(Task(s, str(Path(file).absolute()), number, start, stop))
    if not tasks:
        msg = f"the sources have no events; there are {len(sizes)} files without"
        raise FileError(msg)
    return Plan(layout, tuple(sources), settings, tuple(tasks), sizes, sums)


def _begin(folder: Path, plan: Plan, *, resume: bool) -> None:
    """Write down what is to be done, or compare it with what an earlier run wrote down."""
    path = folder / "conversion.json"
    wanted = json.loads(json.dumps(_plan_to_dict(plan)))
    if path.is_file():
        if not resume:
            msg = f"{folder} holds a conversion already; use --resume to go on with it, or another folder"
            raise ConfigError(msg)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            msg = f"{path} cannot be read: {error}"
            raise FileError(msg) from error
        if different := [key for key in wanted if found.get(key) != wanted[key]]:
            msg = f"--resume must go on with what was begun; {folder} has another {', '.join(different)}"
            raise ConfigError(msg)
        _remove_partial(folder)
        return
    if any(folder.glob("part-*")) or (folder / "dataset.json").exists():
        msg = f"{folder} holds a training set of another origin; choose another folder"
        raise ConfigError(msg)
    _remove_partial(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
    except OSError as error:
        msg = f"cannot write {path}: {reason(error)}"
        raise FileError(msg) from error


def _remove_partial(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def _plan_to_dict(plan: Plan) -> dict[str, Any]:
    return {
        **plan.layout.to_dict(),
        "sources": [asdict(source) for source in plan.sources],
        "settings": asdict(plan.settings),
        "files": [[file, size] for file, size in plan.sizes.items()],
        "events": [task.stop for task in plan.tasks],
    }


def _finish(folder: Path, plan: Plan, parts: Sequence[Part]) -> None:
    sources = {}
    for s, source in enumerate(plan.sources):
        total = 0.0
        for file in source.files:
            mine = [
                part.sum_weight
                for task, part in zip(plan.tasks, parts, strict=True)
                if task.source == s and source.files[task.file_number] == file
            ]
            from_runs = plan.sum_weights[file]
            total += sum(mine) if from_runs is None else from_runs
        sources[source.name] = {
            "class": source.label,
            "files": list(source.files),
            "processes": None if source.processes is None else list(source.processes),
            "cross_section": source.cross_section,
            "sum_weight": source.sum_weight or total,
            "scale": source.scale(total),
            "simulation": [_description(file) for file in source.files],
        }
    provenance = {
        "evenet_hep": __version__,
        "settings": asdict(plan.settings),
        "weighted_statistics": plan.settings.weighted_statistics,
    }
    finish(folder, plan.layout, parts, sources, provenance=provenance)


def _description(file: str) -> Any:
    """What stands in the JSON file beside a simulated one, if there is one of moderate size."""
    path = Path(file).with_suffix(".json")
    if not path.is_file() or path.stat().st_size > 100_000:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _arguments(folder: Path, plan: Plan, number: int) -> tuple[Any, ...]:
    task = plan.tasks[number]
    return folder.absolute(), number, task, plan.sources[task.source], plan.layout, plan.settings


def _run_here(folder: Path, plan: Plan, todo: Sequence[int]) -> Iterator[tuple[int, Part]]:
    for i in todo:
        yield i, convert_task(*_arguments(folder, plan, i))


def _run_on_cores(folder: Path, plan: Plan, todo: Sequence[int], cores: int) -> Iterator[tuple[int, Part]]:
    # Not forked: pyarrow and numba have threads, which a fork would cut off.
    number = min(cores, max(len(todo), 1))
    with ProcessPoolExecutor(number, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
        futures = {pool.submit(convert_task, *_arguments(folder, plan, i)): i for i in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            msg = "a process was killed, perhaps for want of memory (a smaller --chunk-size needs less)"
            raise FileError(msg) from error
        finally:
            pool.shutdown(cancel_futures=True)


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it was killed: it would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_on_cluster(
    folder: Path, plan: Plan, todo: Sequence[int], scheduler: str
) -> Iterator[tuple[int, Part]]:
    from distributed import Client  # noqa: PLC0415  seconds; only where a cluster is asked for
    from distributed import as_completed as dask_as_completed  # noqa: PLC0415

    try:
        client = Client(scheduler)
    except (OSError, ValueError, TimeoutError) as error:
        msg = f"no Dask scheduler answers at {scheduler}: {error}"
        raise FileError(msg) from error
    with client:
        # A worker that dies is replaced: a part is written whole or not at all, so trying again is harmless.
        futures = {
            client.submit(convert_task, *_arguments(folder, plan, i), pure=False, retries=2): i for i in todo
        }
        try:
            for future in dask_as_completed(futures):
                i = futures[future]
                part = _cluster_result(future, plan.tasks[i])
                if not _path(folder, i).is_file():
                    msg = f"{_path(folder, i)} was written by a worker but is not here: the folder must be shared"
                    raise FileError(msg)
                yield i, part
        finally:
            client.cancel(list(futures))


def _cluster_result(future: Any, task: Task) -> Part:
    try:
        part: Part = future.result()
    except EveNetError:
        raise
    except Exception as error:
        msg = f"{task.file} could not be converted on the cluster: {type(error).__name__}: {error}"
        raise FileError(msg) from error
    return part
