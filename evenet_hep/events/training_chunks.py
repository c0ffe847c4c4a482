"""One chunk of an event file as one part of a training set: read, select, label, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import near_misses, to_column
from evenet_hep.events.labels import EventLabels
from evenet_hep.events.nanoaod import Branches, required_branches
from evenet_hep.events.object_selection import SELECTION_FIELDS, select_objects
from evenet_hep.events.published_files import check_published, read_published
from evenet_hep.events.reading import IDENTIFIERS, read_range, wanted_branches
from evenet_hep.events.sources import Source
from evenet_hep.events.training_events import TrainingEvents, index_shape, training_events
from evenet_hep.events.training_files import Layout, Part, write_part
from evenet_hep.events.truth import label_events

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
    published : bool
        Whether the files have the layout of the published preprocessing.
    """

    tree: str = "Events"
    branches: Branches = field(default_factory=Branches)
    select: bool = False
    delta_r: float = 0.4
    chunk_size: int = 100_000
    weighted_statistics: bool = False
    published: bool = False

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            msg = f"chunk_size must be at least 1; found {self.chunk_size}"
            raise ConfigError(msg)
        if self.published and (self.select or self.branches != Branches()):
            msg = "files of the published layout hold objects that are selected already: select and branches do not apply"
            raise ConfigError(msg)


def check_branches(
    file: str, present: Sequence[str], source: Source, layout: Layout, settings: Settings
) -> None:
    """Raise unless a file has all that its conversion needs.

    Raises
    ------
    InputError
        Naming the first branch that is missing, and the near misses.
    """
    if settings.published:
        check_published(file, present, layout)
        return
    needed = [] if "objects" in present else required_branches(layout.schema, settings.branches)
    if settings.select:
        needed += [f"{name}_{field}" for name, fields in SELECTION_FIELDS.items() for field in fields]
    if source.processes and layout.topology.processes:
        needed += [f"GenPart_{field}" for field in GENERATED]
    for branch in needed:
        if branch not in present and branch.split("_")[0] not in present:
            msg = f"{file} has no branch {branch!r}; {near_misses(branch, present)}"
            raise InputError(msg)


def convert_task(
    folder: Path, number: int, task: Task, source: Source, layout: Layout, settings: Settings
) -> Part:
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
    if settings.published:
        return read_published(task.file, layout, task.start, task.stop, file_number=task.file_number)
    schema, topology = layout.schema, layout.topology
    events = read_range(
        task.file,
        lambda present: _branches(present, layout, settings),
        task.start,
        task.stop,
        tree=settings.tree,
    )
    has_truth = bool(topology.processes) and bool({"GenPart", "GenPart_pdgId"} & set(ak.fields(events)))
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


def _branches(present: Sequence[str], layout: Layout, settings: Settings) -> list[str]:
    """The branches that are needed, of those that are there."""
    names = {*wanted_branches(present, layout.schema, settings.branches), "genWeight"}
    if settings.select:
        names |= {f"{name}_{field}" for name, fields in SELECTION_FIELDS.items() for field in fields}
    if layout.topology.processes:
        names |= {"GenPart", *(f"GenPart_{field}" for field in GENERATED)}
    return [name for name in present if name in names]


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
