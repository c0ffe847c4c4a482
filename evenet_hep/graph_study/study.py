"""The study itself: every network trained once and kept, then compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.kinematic_labels import COUNTS, LABELS
from evenet_hep.graph_study.events import (
    ProcessEvents,
    Say,
    classes_of,
    pretraining_samples,
    read_processes,
    task_samples,
    with_statistics,
)
from evenet_hep.graph_study.plan import METHODS, GraphStudyPlan
from evenet_hep.graph_study.report import draw_curves, format_tables
from evenet_hep.model.graph import GraphNetwork
from evenet_hep.schema import EventSchema
from evenet_hep.stats.similarity import cka_of_ensembles
from evenet_hep.training.graph import (
    BODY_RATIO,
    GraphSample,
    GraphTrainingConfig,
    class_accuracy,
    ensemble_probabilities,
    outputs_of,
    replace_output,
    stages_of,
    train_graph,
)
from evenet_hep.training.history import write_text

CLASSES = ("signal", "background")
GOAL = 0.99  # of the accuracy from scratch


class TrainedNetwork(NamedTuple):
    """A network of the study and its course: one entry per epoch of loss, validation_loss, accuracy, seconds."""

    model: GraphNetwork
    history: list[dict[str, float]]


def _nothing(_text: str) -> None:
    """Say nothing."""


def run_study(
    data: str | Path, out: str | Path, plan: GraphStudyPlan | None = None, *, say: Say = _nothing
) -> dict[str, Any]:
    """Pretrain, fine-tune, compare.

    Parameters
    ----------
    data : path
        Folder of ``evenet-hep simulate``, or one with a ROOT file per process.
    out : path
        Folder for networks, ``results.json``, ``tables.md`` and ``curves.png``. The same call goes on where it was cut
        off; another plan needs another folder.
    plan : GraphStudyPlan, optional
        Its full size by default.
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
    """
    plan, home = plan or GraphStudyPlan(), Path(out)
    _check_folder(home, plan)
    schema = EventSchema.standard()
    processes = read_processes(Path(data), home / "events", plan, schema, say=say)
    schema = with_statistics(schema, pretraining_samples(processes, plan, labels=False)[0])
    bodies = {method: _pretrained(method, processes, schema, home, plan, say) for method in METHODS[1:]}
    results: dict[str, Any] = {}
    for task in plan.tasks:
        for size in plan.sizes:
            samples = task_samples(processes, plan, task, size)
            if samples is None:
                say(f"{task} with {size} events per class is left out: there are not as many")
                continue
            results[f"{task}, {size}"] = _study_task(task, size, samples, bodies, schema, home, plan, say)
            write_text(home / "results.json", json.dumps(results, indent=1))
            write_text(home / "tables.md", format_tables(results))
    if not results:
        msg = f"no task has as many events as {min(plan.sizes)} to train, {plan.validation} to validate and {plan.test} to test"
        raise InputError(msg)
    draw_curves(results, home / "curves.png")
    return results


def _check_folder(home: Path, plan: GraphStudyPlan) -> None:
    path, text = home / "plan.txt", repr(plan) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        msg = f"{home} holds a study with another plan ({path}); choose another folder"
        raise FileError(msg)
    write_text(path, text)


def _pretrained(
    method: str,
    processes: Mapping[str, ProcessEvents],
    schema: EventSchema,
    home: Path,
    plan: GraphStudyPlan,
    say: Say,
) -> GraphNetwork:
    labels = tuple(LABELS) if method == "multilabel" else ()
    config = dataclasses.replace(plan.network, labels=labels, counts=len(COUNTS) if labels else 0)
    own = classes_of(schema, plan.pretraining)
    run = GraphTrainingConfig(
        epochs=plan.pretraining_epochs, batch_size=plan.batch_size, rate=plan.rate, seed=1
    )

    def samples() -> tuple[GraphSample, GraphSample]:
        return pretraining_samples(processes, plan, labels=bool(labels))

    return _trained(
        home / "networks" / f"pretrained-{method}", lambda: GraphNetwork(config, own), samples, run, say
    ).model


def _trained(
    folder: Path,
    make: Callable[[], GraphNetwork],
    samples: Callable[[], tuple[GraphSample, GraphSample]],
    config: GraphTrainingConfig,
    say: Say,
) -> TrainedNetwork:
    """The network of a folder; trained now if it is not there yet."""
    course = folder.with_suffix(".json")
    if (folder / "config.json").is_file() and course.is_file():
        return TrainedNetwork(GraphNetwork.from_pretrained(folder), json.loads(course.read_text()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = train_graph(make(), *samples(), config)
    history = [epoch._asdict() for epoch in run.history]
    write_text(course, json.dumps(history))
    run.model.save_pretrained(folder)
    best = run.history[run.best]
    say(
        f"{folder.name}: accuracy {best.accuracy:.4f} in epoch {run.best + 1}, {run.history[-1].seconds:.0f} s"
    )
    return TrainedNetwork(run.model, history)


def _study_task(
    task: str,
    size: int,
    samples: tuple[GraphSample, GraphSample, GraphSample],
    bodies: Mapping[str, GraphNetwork],
    schema: EventSchema,
    home: Path,
    plan: GraphStudyPlan,
    say: Say,
) -> dict[str, Any]:
    training, validation, test = samples
    found: dict[str, list[TrainedNetwork]] = {}
    number = list(plan.tasks).index(task)
    for method in METHODS:

        def make(method: str = method) -> GraphNetwork:
            if method in bodies:
                return replace_output(bodies[method], classes=CLASSES)
            return GraphNetwork(plan.network, classes_of(schema, CLASSES))

        for seed in range(plan.seeds):
            config = GraphTrainingConfig(
                epochs=plan.epochs,
                batch_size=min(plan.batch_size, max(16, size // 4)),
                rate=plan.rate,
                body_ratio=BODY_RATIO if method in bodies else 1.0,
                seed=10 + seed,
            )
            name = f"task-{number}-{size}-{method.replace(' ', '-')}-{seed}"
            network = _trained(home / "networks" / name, make, lambda: (training, validation), config, say)
            found.setdefault(method, []).append(network)
    return _compare(found, test, plan)


def _compare(
    found: Mapping[str, Sequence[TrainedNetwork]], test: GraphSample, plan: GraphStudyPlan
) -> dict[str, Any]:
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
