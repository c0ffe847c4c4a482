"""Networks of one task and size against each other: accuracy, time to the goal, and what they have learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.graph_study.networks import NetworkJob, TrainedNetwork
from evenet_hep.graph_study.plan import METHODS
from evenet_hep.stats.similarity import cka_of_ensembles
from evenet_hep.training.graph import class_accuracy, outputs_of, stages_of

FloatArray = npt.NDArray[np.float64]

GOAL = 0.99  # of the accuracy from scratch


def compare_networks(jobs: Sequence[NetworkJob]) -> dict[str, Any]:
    """What the networks of a task and size do to its test events.

    Parameters
    ----------
    jobs : sequence of NetworkJob
        All of them, trained.

    Returns
    -------
    dict
        ``events``, the number of test events, and by method ``accuracy`` of every network, ``ensemble``, ``epochs`` and
        ``seconds`` to the goal, ``curves``; ``cka`` by stage and method.
    """
    plan, test = jobs[0].plan, jobs[0].test_sample()
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
    logits = {method: [outputs_of(model, test) for model in each] for method, each in models.items()}
    return {
        "events": len(test.target),
        "accuracy": {
            method: [class_accuracy(output, test.target) for output in each]
            for method, each in logits.items()
        },
        "ensemble": {
            method: class_accuracy(torch.stack(each).softmax(dim=-1).mean(dim=0), test.target)
            for method, each in logits.items()
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
        members = {name: _told_apart([each[stage] for each in networks]) for name, networks in stages.items()}
        everyone = [x for each in members.values() for x in each]
        method_of = np.repeat(list(members), [len(each) for each in members.values()])
        pairs = np.full((len(everyone), len(everyone)), np.nan)
        if len(everyone) > 1:
            pairs = cka_of_ensembles(everyone, kernel="rbf").pairs  # NaN for a network and itself
        scratch = pairs[method_of == METHODS[0]]
        found[stage] = {method: _mean_and_spread(scratch[:, method_of == method]) for method in METHODS}
    return found


def _mean_and_spread(pairs: FloatArray) -> tuple[float, float]:
    values = pairs[np.isfinite(pairs)]
    mean = float(values.mean()) if len(values) else float("nan")
    return mean, float(values.std()) if len(values) > 1 else float("nan")


def _told_apart(representations: Sequence[Any]) -> list[Any]:
    """Those that differ between events: a network whose units have died has no similarity with any other."""
    return [x for x in representations if np.ptp(x, axis=0).any()]
