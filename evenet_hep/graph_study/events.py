"""Events of the processes of the study, read once and kept as arrays."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.kinematic_labels import label_kinematics
from evenet_hep.events.object_selection import select_objects
from evenet_hep.graph_study.plan import GraphStudyPlan
from evenet_hep.schema import EventSchema
from evenet_hep.training.graph import GraphSample

Say = Callable[[str], None]


class ProcessEvents(NamedTuple):
    """Events of one process, shuffled.

    Parameters
    ----------
    objects, mask, event_features : Tensor
        Of the clouds; events without objects are left out.
    labels : float Tensor, shape (n, 41)
        Of :mod:`~evenet_hep.events.kinematic_labels`.
    """

    objects: torch.Tensor
    mask: torch.Tensor
    event_features: torch.Tensor
    labels: torch.Tensor


def read_processes(
    data: Path, cache: Path, plan: GraphStudyPlan, schema: EventSchema, *, say: Say
) -> dict[str, ProcessEvents]:
    """All processes of a plan, from the cache where they are there.

    Parameters
    ----------
    data : Path
        Folder of ``evenet-hep simulate``, or one with a ROOT file per process.
    cache : Path
        Folder for the arrays.
    plan : GraphStudyPlan
        Which processes.
    schema : EventSchema
        Of the clouds.
    say : callable
        Called with lines for a person.

    Raises
    ------
    FileError
        For a process without files.
    """
    wanted = {name: process_files(data, name) for name in plan.processes}
    return {name: _read_process(name, files, cache, schema, say) for name, files in wanted.items()}


def process_files(data: Path, name: str) -> list[Path]:
    """ROOT files of a process: those of its folder, or the one that bears its name.

    Raises
    ------
    FileError
        If there are none.
    """
    found = sorted((data / name).glob("*.root")) or [p for p in [data / f"{name}.root"] if p.is_file()]
    if not found:
        there = ", ".join(sorted(p.stem for p in data.iterdir())) if data.is_dir() else "nothing"
        msg = f"{data} has no files of {name}; it has {there}"
        raise FileError(msg)
    return found


def _read_process(name: str, files: list[Path], cache: Path, schema: EventSchema, say: Say) -> ProcessEvents:
    path = cache / f"{name}.npz"
    if not path.is_file():
        parts = [_read_file(file, schema) for file in files]
        arrays = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        order = np.random.default_rng(5).permutation(len(arrays[0]))
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f".{name}.{os.getpid()}.npz"
        objects, mask, event_features, labels = (x[order] for x in arrays)
        np.savez(part, objects=objects, mask=mask, event_features=event_features, labels=labels)
        part.replace(path)
        say(f"{name}: {len(order)} events from {len(files)} files")
    return load_process(cache, name)


def load_process(cache: Path, name: str) -> ProcessEvents:
    """Events of a process that :func:`read_processes` has put into a folder."""
    with np.load(cache / f"{name}.npz") as stored:
        return ProcessEvents(*(torch.from_numpy(stored[field]) for field in ProcessEvents._fields))


def _read_file(path: Path, schema: EventSchema) -> tuple[np.ndarray, ...]:
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415  it takes a second

    NanoAODSchema.warn_missing_crossrefs = False
    events = NanoEventsFactory.from_root(
        {str(path): "Events"}, mode="eager", schemaclass=NanoAODSchema
    ).events()
    cloud = EventCloud.from_awkward(events, schema, collections=select_objects(events))
    labels = np.asarray(label_kinematics(events).values, np.float32)
    rows = np.flatnonzero(cloud.n_objects > 0)
    return cloud.objects[rows], cloud.mask[rows], cloud.event_features[rows], labels[rows]


def pretraining_samples(
    processes: Mapping[str, ProcessEvents], plan: GraphStudyPlan, *, labels: bool
) -> tuple[GraphSample, GraphSample]:
    """Training events of all pretraining classes, and a tenth of them to validate."""
    parts: tuple[list[GraphSample], list[GraphSample]] = ([], [])
    for number, name in enumerate(plan.pretraining):
        events = processes[name]
        n = _seen_by_pretraining(plan, name, events)
        target = events.labels if labels else torch.full((len(events.objects),), number)
        edges = (0, n - n // 10, n)
        for part, (start, stop) in zip(parts, itertools.pairwise(edges), strict=True):
            part.append(_part(events, start, stop, target))
    training, validation = (_together(part) for part in parts)
    return training, validation


def is_enough(processes: Mapping[str, ProcessEvents], plan: GraphStudyPlan, task: str, size: int) -> bool:
    """Whether a task has as many events as it needs for so many training events per class."""
    needed = size + plan.test + plan.validation
    names = plan.tasks[task]
    return all(
        _seen_by_pretraining(plan, name, processes[name]) + needed <= len(processes[name].objects)
        for name in names
    )


def task_samples(
    processes: Mapping[str, ProcessEvents], plan: GraphStudyPlan, task: str, size: int
) -> tuple[GraphSample, GraphSample, GraphSample]:
    """Training, validation and test events of a task, none of which pretraining has seen.

    Validation and test events are the same at every size.

    Raises
    ------
    InputError
        If there are too few events.
    """
    if not is_enough(processes, plan, task, size):
        found = ", ".join(f"{len(processes[name].objects)} of {name}" for name in plan.tasks[task])
        msg = f"{task} with {size} events per class needs more events than {found}"
        raise InputError(msg)
    parts: list[list[GraphSample]] = [[], [], []]
    for number, name in enumerate(plan.tasks[task]):
        events = processes[name]
        first = _seen_by_pretraining(plan, name, events)
        held = first + plan.test + plan.validation
        target = torch.full((len(events.objects),), number)
        edges = ((held, held + size), (first + plan.test, held), (first, first + plan.test))
        for part, (start, stop) in zip(parts, edges, strict=True):
            part.append(_part(events, start, stop, target))
    training, validation, test = (_together(part) for part in parts)
    return training, validation, test


def _seen_by_pretraining(plan: GraphStudyPlan, name: str, events: ProcessEvents) -> int:
    """How many events of a process are for pretraining; those of the tasks come behind them."""
    if name not in plan.pretraining:
        return 0
    return min(plan.pretraining_events, int(plan.kept * len(events.objects)))


def with_statistics(schema: EventSchema, sample: GraphSample) -> EventSchema:
    """The schema with mean and width of every standardised feature of a sample."""
    found = {}
    for features, values in (
        (schema.objects, sample.objects[sample.mask]),
        (schema.event_features, sample.event_features),
    ):
        if not len(values):
            msg = "statistics need events with objects; found none"
            raise InputError(msg)
        for i, feature in enumerate(features):
            if feature.transform in ("log", "standard"):
                column = torch.log1p(values[:, i]) if feature.transform == "log" else values[:, i]
                found[feature.name] = (float(column.mean()), max(float(column.std()), 1e-3))
    return schema.with_statistics(found)


def classes_of(schema: EventSchema, classes: tuple[str, ...]) -> EventSchema:
    """The schema with other classes."""
    return dataclasses.replace(schema, classes=classes)


def _part(events: ProcessEvents, start: int, stop: int, target: torch.Tensor) -> GraphSample:
    rows = slice(start, stop)
    return GraphSample(events.objects[rows], events.mask[rows], events.event_features[rows], target[rows])


def _together(samples: list[GraphSample]) -> GraphSample:
    return GraphSample(*(torch.cat(tensors) for tensors in zip(*samples, strict=True)))
