"""The study itself: every network trained once and kept, then compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from evenet_hep.errors import FileError, InputError
from evenet_hep.graph_study.comparison import compare_networks
from evenet_hep.graph_study.events import (
    Say,
    is_enough,
    pretraining_samples,
    read_processes,
    with_statistics,
)
from evenet_hep.graph_study.networks import NetworkJob, train_all, train_groups
from evenet_hep.graph_study.plan import METHODS, GraphStudyPlan
from evenet_hep.graph_study.report import draw_curves, draw_sizes, format_tables
from evenet_hep.model.devices import find_device
from evenet_hep.schema import EventSchema
from evenet_hep.training.history import write_text


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
        Networks that are trained at the same time, each by a process of its own with one thread; they share the device.
        The seconds depend on it, and results as far as rounding on the number of threads does.
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
    train_all(pretraining, cores=cores, say=say)
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
    for name, found in train_groups(groups, compare_networks, cores=cores, say=say):
        results[name] = found
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
