"""The study itself: every network trained once and kept, then compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evenet_hep.errors import FileError, InputError
from evenet_hep.graph_study.events import (
    Say,
    is_enough,
    pretraining_samples,
    read_processes,
    task_samples,
    with_statistics,
)
from evenet_hep.graph_study.networks import NetworkJob, TrainedNetwork, train_networks
from evenet_hep.graph_study.plan import METHODS, GraphStudyPlan
from evenet_hep.graph_study.report import draw_curves, draw_sizes, format_tables
from evenet_hep.model.devices import find_device
from evenet_hep.schema import EventSchema
from evenet_hep.stats.similarity import cka_of_ensembles
from evenet_hep.training.graph import (
    GraphSample,
    class_accuracy,
    ensemble_probabilities,
    outputs_of,
    stages_of,
)
from evenet_hep.training.history import write_text

GOAL = 0.99  # of the accuracy from scratch


def _nothing(_text: str) -> None:
    """Say nothing."""


def run_study(
    data: str | Path,
    out: str | Path,
    plan: GraphStudyPlan | None = None,
    *,
    device: str = "cpu",
    cores: int = 1,
    say: Say = _nothing,
) -> dict[str, Any]:
    """Pretrain, fine-tune, compare.

    Parameters
    ----------
    data : path
        Folder of ``evenet-hep simulate``, or one with a ROOT file per process.
    out : path
        Folder for networks, ``results.json``, ``tables.md``, ``curves.png`` and ``sizes.png``. The same call goes on where it was cut
        off; another plan needs another folder.
    plan : GraphStudyPlan, optional
        Its full size by default.
    device : str
        Where networks are trained and compared: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``.
    cores : int
        Networks that are trained at the same time, each by a process of its own; they share the device. The result does
        not depend on it, but the seconds do.
    say : callable
        Called with lines for a person.

    Returns
    -------
    dict
        By task and size: ``accuracy`` and ``ensemble`` of every method, ``epochs`` and ``seconds`` to 99 % of the accuracy
        from scratch (NaN for a network that never gets there), ``curves``, ``cka`` and ``events``.

    Raises
    ------
    FileError
        For processes without files, and a folder with another study.
    InputError
        If there are too few events for any task.
    ConfigError
        For a device that is not there.
    """
    find_device(device)
    plan, home = plan or GraphStudyPlan(), Path(out)
    _check_folder(home, plan)
    schema = EventSchema.standard()
    processes = read_processes(Path(data), home / "events", plan, schema, say=say)
    schema = with_statistics(schema, pretraining_samples(processes, plan, labels=False)[0])
    first = NetworkJob(home.absolute(), plan, schema, device, METHODS[1])
    pretraining = [dataclasses.replace(first, method=method) for method in METHODS[1:]]
    list(train_networks({"pretraining": pretraining}, cores=min(cores, len(pretraining)), say=say))
    groups: dict[str, list[NetworkJob]] = {}
    for size in plan.sizes:  # small ones of all tasks first: they are soon there
        for task in plan.tasks:
            if is_enough(processes, plan, task, size):
                groups[_key(task, size)] = _jobs_of(first, task, size)
            else:
                say(f"{task} with {size} events per class is left out: there are not as many")
    if not groups:
        msg = f"no task has as many events as {min(plan.sizes)} to train, {plan.validation} to validate and {plan.test} to test"
        raise InputError(msg)
    results: dict[str, Any] = {}
    for name, jobs in train_networks(groups, cores=cores, say=say):
        _, _, test = task_samples(processes, plan, jobs[0].task, jobs[0].size)
        results[name] = _compare(jobs, test, plan)
        results = {key: results[key] for key in _in_order(plan) if key in results}
        write_text(home / "results.json", json.dumps(results, indent=1))
        write_text(home / "tables.md", format_tables(results))
    draw_curves(results, home / "curves.png")
    draw_sizes(results, home / "sizes.png")
    return results


def _key(task: str, size: int) -> str:
    return f"{task}, {size}"


def _in_order(plan: GraphStudyPlan) -> list[str]:
    """What results can be of, task by task."""
    return [_key(task, size) for task in plan.tasks for size in plan.sizes]


def _jobs_of(first: NetworkJob, task: str, size: int) -> list[NetworkJob]:
    seeds = range(first.plan.seeds)
    return [
        dataclasses.replace(first, method=method, task=task, size=size, seed=seed)
        for method in METHODS
        for seed in seeds
    ]


def _check_folder(home: Path, plan: GraphStudyPlan) -> None:
    path, text = home / "plan.txt", repr(plan) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        msg = f"{home} holds a study with another plan ({path}); choose another folder"
        raise FileError(msg)
    write_text(path, text)


def _compare(jobs: Sequence[NetworkJob], test: GraphSample, plan: GraphStudyPlan) -> dict[str, Any]:
    found: dict[str, list[TrainedNetwork]] = {}
    for job in jobs:
        found.setdefault(job.method, []).append(job.load())
    models = {method: [network.model for network in networks] for method, networks in found.items()}
    curves = {method: [network.history for network in networks] for method, networks in found.items()}
    goal = GOAL * float(np.mean([max(e["accuracy"] for e in curve) for curve in curves[METHODS[0]]]))
    arrivals = {method: [_arrival(curve, goal) for curve in each] for method, each in curves.items()}
    step = max(1, len(test.target) // plan.compared)
    compared = test.take(torch.arange(0, len(test.target), step))
    stages = {
        method: [{k: v.numpy() for k, v in stages_of(m, compared).items()} for m in each]
        for method, each in models.items()
    }
    return {
        "events": len(test.target),
        "accuracy": {
            method: [class_accuracy(outputs_of(model, test), test.target) for model in each]
            for method, each in models.items()
        },
        "ensemble": {
            method: class_accuracy(ensemble_probabilities(each, test), test.target)
            for method, each in models.items()
        },
        "epochs": {method: [arrival[0] for arrival in each] for method, each in arrivals.items()},
        "seconds": {method: [arrival[1] for arrival in each] for method, each in arrivals.items()},
        "curves": curves,
        "cka": _similarities(stages) if plan.seeds > 1 else {},
    }


def _arrival(curve: Sequence[Mapping[str, float]], goal: float) -> tuple[float, float]:
    """Epochs and seconds until the validation accuracy is at least the goal; NaN if it never is."""
    for number, epoch in enumerate(curve, start=1):
        if epoch["accuracy"] >= goal:
            return float(number), epoch["seconds"]
    return float("nan"), float("nan")


def _similarities(
    stages: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, dict[str, tuple[float, float]]]:
    """By stage and method: similarity with networks from scratch, and its spread over pairs of networks."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for stage in stages[METHODS[0]][0]:
        first = _told_apart([each[stage] for each in stages[METHODS[0]]])
        found[stage] = {}
        for method in METHODS:
            others = None if method == METHODS[0] else _told_apart([each[stage] for each in stages[method]])
            pairs = len(first) * (len(first) - 1 if others is None else len(others))
            similarity = cka_of_ensembles(first, others, kernel="rbf")[:2] if pairs else (np.nan, np.nan)
            found[stage][method] = (float(similarity[0]), float(similarity[1]))
    return found


def _told_apart(representations: Sequence[Any]) -> list[Any]:
    """Those that differ between events: a network whose units have died has no similarity with any other."""
    return [x for x in representations if np.ptp(x, axis=0).any()]
