"""From NanoAOD and other event files to training files: in one process, on many cores, or on a Dask cluster.

Every chunk of a file becomes one part of the training set, written whole or not at all. What has to be done is
written first (``conversion.json``), so that a conversion that was killed goes on where it stopped, with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np

from evenet_hep import __version__
from evenet_hep.errors import ConfigError, EveNetError, FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import near_misses, to_column
from evenet_hep.events.labels import EventLabels
from evenet_hep.events.nanoaod import Branches, required_branches
from evenet_hep.events.object_selection import SELECTION_FIELDS, select_objects
from evenet_hep.events.reading import (
    IDENTIFIERS,
    inspect_file,
    read_range,
    sum_of_weights,
    wanted_branches,
)
from evenet_hep.events.sources import Source, check_sources
from evenet_hep.events.splits import SPLITS
from evenet_hep.events.training_events import TrainingEvents, index_shape, training_events
from evenet_hep.events.training_files import Layout, Part, finish, read_part, reason, write_json, write_part
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.events.truth import label_events
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

GENERATED = ("pt", "eta", "phi", "mass", "pdgId", "genPartIdxMother", "statusFlags")  # of GenPart


@dataclass(frozen=True)
class Task:
    """Events ``start`` to ``stop`` of a file, which become one part."""

    source: int
    file: str
    file_number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Settings:
    """How events become training events.

    Parameters
    ----------
    tree : str
        Name of the tree in ROOT files.
    branches : Branches
        Collections, MET and b-tag to use.
    select : bool
        Whether to use :func:`~evenet_hep.events.object_selection.select_objects`.
    delta_r : float
        Largest distance of a jet from its quark.
    chunk_size : int
        Events per part.
    weighted_statistics : bool
        Whether means and widths are weighted.
    """

    tree: str = "Events"
    branches: Branches = Branches()
    select: bool = False
    delta_r: float = 0.4
    chunk_size: int = 100_000
    weighted_statistics: bool = False

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            msg = f"chunk_size must be at least 1; found {self.chunk_size}"
            raise ConfigError(msg)


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
    """
    if cores < 1 or (scheduler is not None and cores > 1):
        found = f"cores {cores}" + (f" and the scheduler {scheduler}" if scheduler else "")
        msg = f"cores must be at least 1, and either cores or a scheduler is given; found {found}"
        raise ConfigError(msg)
    folder = Path(out)
    plan = make_plan(sources, schema=schema, topology=topology, splits=splits, settings=settings or Settings())
    _begin(folder, plan, resume=resume)
    done = {i: part for i in range(len(plan.tasks)) if (part := read_part(_path(folder, i))) is not None}
    n_kept = n_done = sum(task.stop - task.start for i, task in enumerate(plan.tasks) if i in done)
    total = sum(task.stop - task.start for task in plan.tasks)
    progress(n_done, total)
    todo = [i for i in range(len(plan.tasks)) if i not in done]
    run = _run_on_cluster if scheduler else _run_here if cores == 1 else _run_on_cores
    try:
        for i, part in run(folder, plan, todo, cores=cores, scheduler=scheduler or ""):
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
        schema = EventSchema.from_json(json.dumps({**json.loads(schema.to_json()), "classes": [*dict.fromkeys(labels)]}))
    grammar = topology or Topology(())
    check_sources(sources, schema.classes, grammar)
    tasks: list[Task] = []
    sizes: dict[str, int] = {}
    sums: dict[str, float | None] = {}
    for s, source in enumerate(sources):
        for number, file in enumerate(source.files):
            content = inspect_file(file, tree=settings.tree)
            _check_branches(file, content.branches, source, schema, grammar, settings)
            sizes[file], sums[file] = Path(file).stat().st_size, sum_of_weights(file)
            for start in range(0, content.n_events, settings.chunk_size):
                stop = min(start + settings.chunk_size, content.n_events)
                tasks.append(Task(s, str(Path(file).absolute()), number, start, stop))
    if not tasks:
        msg = f"the sources have no events; there are {len(sizes)} files without"
        raise FileError(msg)
    return Plan(Layout(schema, grammar, splits), tuple(sources), settings, tuple(tasks), sizes, sums)


def _check_branches(
    file: str,
    present: Sequence[str],
    source: Source,
    schema: EventSchema,
    topology: Topology,
    settings: Settings,
) -> None:
    needed = [] if "objects" in present else required_branches(schema, settings.branches)
    if settings.select:
        needed += [f"{name}_{field}" for name, fields in SELECTION_FIELDS.items() for field in fields]
    if source.processes and topology.processes:
        needed += [f"GenPart_{field}" for field in GENERATED]
    for branch in needed:
        if branch not in present and branch.split("_")[0] not in present:
            msg = f"{file} has no branch {branch!r}; {near_misses(branch, present)}"
            raise InputError(msg)


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
        for partial in folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        return
    if any(folder.glob("part-*")) or (folder / "dataset.json").exists():
        msg = f"{folder} holds a training set of another origin; choose another folder"
        raise ConfigError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
    except OSError as error:
        msg = f"cannot write {path}: {reason(error)}"
        raise FileError(msg) from error


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


def convert_task(folder: Path, number: int, task: Task, source: Source, layout: Layout, settings: Settings) -> Part:
    """Read one chunk and write it as one part; this is what runs on cores and workers."""
    provenance = {"file": task.file, "start": task.start, "stop": task.stop}
    try:
        events = read_events(task, source, layout, settings)
    except InputError as error:
        msg = f"{task.file}, in the events from {task.start} on (counted from 0 there): {error}"
        raise InputError(msg) from error
    return write_part(
        folder,
        number,
        events,
        layout,
        source=source.name,
        weighted=settings.weighted_statistics,
        provenance=provenance,
    )


def read_events(task: Task, source: Source, layout: Layout, settings: Settings) -> TrainingEvents:
    """The events of one chunk with their labels."""
    schema, topology = layout.schema, layout.topology
    present = inspect_file(task.file, tree=settings.tree).branches
    extra = [f"{name}_{field}" for name, fields in SELECTION_FIELDS.items() for field in fields]
    has_truth = bool(topology.processes) and "GenPart_pdgId" in present
    names = set(wanted_branches(present, schema, settings.branches))
    names |= {name for name in extra if settings.select and name in present}
    names |= {f"GenPart_{field}" for field in GENERATED if has_truth}
    names |= {"genWeight"} & set(present)
    events = read_range(
        task.file, [name for name in present if name in names], task.start, task.stop, tree=settings.tree
    )
    collections = select_objects(_records(events)) if settings.select else None
    cloud = EventCloud.from_awkward(events, schema, branches=settings.branches, collections=collections)
    if has_truth:
        labels = label_events(
            events, cloud, topology, delta_r=settings.delta_r, candidates=source.processes
        ).labels
    else:
        labels = _no_labels(len(cloud), layout)
    weight = (
        to_column("genWeight", events["genWeight"])
        if "genWeight" in ak.fields(events)
        else np.ones(len(cloud), np.float32)
    )
    label = schema.classes.index(source.label) if source.label else -1
    return training_events(
        cloud,
        labels,
        topology,
        label=np.full(len(cloud), label, np.int16),
        weight=weight,
        identifiers=_identifiers(events, task),
    )


def _records(events: ak.Array) -> dict[str, ak.Array]:
    """The collections that the selection looks at, as records."""
    fields = ak.fields(events)
    records = {}
    for name in SELECTION_FIELDS:
        if name in fields:
            records[name] = events[name]
        else:
            mine = [field for field in fields if field.startswith(f"{name}_")]
            records[name] = ak.zip({field.removeprefix(f"{name}_"): events[field] for field in mine})
    return records


def _no_labels(n_events: int, layout: Layout) -> EventLabels:
    return EventLabels(
        np.full(n_events, -1, np.int16),
        np.full((n_events, *index_shape(layout.topology)), -1, np.int16),
        np.zeros((n_events, 0, len(layout.schema.invisible)), np.float32),
        np.zeros((n_events, 0), np.bool_),
    )


def _identifiers(events: ak.Array, task: Task) -> list[Any]:
    """Run, luminosity block and event number; without them 0, the file's number in its source, and the entry."""
    if all(name in ak.fields(events) for name in IDENTIFIERS):
        return [ak.to_numpy(events[name]) for name in IDENTIFIERS]
    n_events = len(events)
    return [
        np.zeros(n_events, np.int64),
        np.full(n_events, task.file_number),
        np.arange(task.start, task.stop),
    ]


def _arguments(folder: Path, plan: Plan, number: int) -> tuple[Any, ...]:
    task = plan.tasks[number]
    return folder.absolute(), number, task, plan.sources[task.source], plan.layout, plan.settings


def _run_here(
    folder: Path, plan: Plan, todo: Sequence[int], *, cores: int, scheduler: str  # noqa: ARG001
) -> Iterator[tuple[int, Part]]:
    for i in todo:
        yield i, convert_task(*_arguments(folder, plan, i))


def _run_on_cores(
    folder: Path, plan: Plan, todo: Sequence[int], *, cores: int, scheduler: str  # noqa: ARG001
) -> Iterator[tuple[int, Part]]:
    # Not forked: pyarrow and numba have threads, which a fork would cut off.
    with ProcessPoolExecutor(min(cores, max(len(todo), 1)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(convert_task, *_arguments(folder, plan, i)): i for i in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            msg = "a process was killed, perhaps for want of memory (a smaller --chunk-size needs less)"
            raise FileError(msg) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _run_on_cluster(
    folder: Path, plan: Plan, todo: Sequence[int], *, cores: int, scheduler: str  # noqa: ARG001
) -> Iterator[tuple[int, Part]]:
    from distributed import Client  # noqa: PLC0415  seconds; only where a cluster is asked for
    from distributed import as_completed as dask_as_completed  # noqa: PLC0415

    try:
        client = Client(scheduler, timeout="20s")
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
