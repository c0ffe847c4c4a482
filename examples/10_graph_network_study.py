"""Does pretraining help the graph network? Multiclass and multilabel pretraining against training from scratch.

    python examples/10_graph_network_study.py --data ../shared/data/fastsim --out graph_study

Twelve generated processes are the pretraining classes; the signals of the two downstream tasks, X -> YH and H -> aa -> 4b, are
among none of them. Every network of the study is kept in ``--out``: run it again after an interruption and it goes on where it
was. Writes ``table.md``, ``results.json`` and ``curves.png`` there. About ten minutes on one core; seeded.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from evenet_hep.processors.event_scores import select_objects

from evenet_hep import EventCloud, EventSchema
from evenet_hep.events.kinematic_labels import COUNTS, LABELS, label_kinematics
from evenet_hep.model.graph import GraphConfig, GraphNetwork
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

PRETRAINING = (
    "dy_ll", "zjet_ll", "wjet_lnu", "qcd_jj", "qcd_bb", "qcd_bb_4j", "st_t", "ttbar_1l", "ttbar_2l", "ww", "wz", "zz"
)  # fmt: skip
TASKS: dict[str, tuple[str, str, int]] = {  # signal, background and training events per class
    "X -> YH, 250": ("xyh_500_90", "ttbar_1l", 250),
    "H -> aa -> 4b, 250": ("haa4b_m30_4j", "qcd_bb_4j", 250),
}
METHODS = ("from scratch", "multiclass", "multilabel")
KEPT = 0.5  # share of every file that pretraining may see; the rest is for the tasks


class Events(NamedTuple):
    """One process."""

    objects: torch.Tensor
    mask: torch.Tensor
    event_features: torch.Tensor
    labels: torch.Tensor


def read_process(folder: Path, name: str, schema: EventSchema, seed: int) -> Events:
    """Events with at least one object, shuffled, and their 41 labels."""
    source = {str(folder / f"{name}.root"): "Events"}
    events = NanoEventsFactory.from_root(source, mode="eager", schemaclass=NanoAODSchema).events()
    cloud = EventCloud.from_awkward(events, schema, collections=select_objects(events))
    labels = np.asarray(label_kinematics(events).values, np.float32)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(cloud.n_objects > 0))
    return Events(*(tensor[order] for tensor in (*cloud.to_torch(), torch.from_numpy(labels))))


def part(events: Events, start: int, stop: int, target: torch.Tensor | int) -> GraphSample:
    rows = slice(start, stop)
    if isinstance(target, int):
        target = torch.full((len(events.objects),), target)
    return GraphSample(events.objects[rows], events.mask[rows], events.event_features[rows], target[rows])


def together(samples: list[GraphSample]) -> GraphSample:
    return GraphSample(*(torch.cat(tensors) for tensors in zip(*samples, strict=True)))


def pretraining_samples(
    processes: dict[str, Events], most: int, *, labels: bool
) -> tuple[GraphSample, GraphSample]:
    """Training and validation (a tenth) of the twelve classes."""
    found: tuple[list[GraphSample], list[GraphSample]] = ([], [])
    for k, name in enumerate(PRETRAINING):
        events = processes[name]
        n = min(most, int(KEPT * len(events.objects)))
        target: torch.Tensor | int = events.labels if labels else k
        found[0].append(part(events, 0, n - n // 10, target))
        found[1].append(part(events, n - n // 10, n, target))
    return together(found[0]), together(found[1])


def task_samples(processes: dict[str, Events], task: str) -> tuple[GraphSample, ...]:
    """Training, validation and test events of a task, from the half that pretraining never saw."""
    found: list[list[GraphSample]] = [[], [], []]
    *names, size = TASKS[task]
    for k, name in enumerate(names):
        events = processes[name]
        first = int(KEPT * len(events.objects)) if name in PRETRAINING else 0
        edges = (first, first + size, first + size + 250, min(len(events.objects), first + size + 1250))
        for split, (start, stop) in zip(found, itertools.pairwise(edges), strict=True):
            split.append(part(events, start, stop, k))
    return tuple(map(together, found))


def statistics_of(sample: GraphSample, schema: EventSchema) -> dict[str, tuple[float, float]]:
    """Mean and width of every feature that is standardised, in the pretraining events."""
    found = {}
    for features, values in (
        (schema.objects, sample.objects[sample.mask]),
        (schema.event_features, sample.event_features),
    ):
        for i, feature in enumerate(features):
            if feature.transform in ("log", "standard"):
                column = torch.log1p(values[:, i]) if feature.transform == "log" else values[:, i]
                found[feature.name] = (float(column.mean()), max(float(column.std()), 1e-3))
    return found


def trained(folder: Path, make: Any, samples: Any, config: GraphTrainingConfig) -> tuple[GraphNetwork, Any]:
    """The network of this folder and its curve; trained now if it is not there yet."""
    if (folder / "config.json").is_file():
        return GraphNetwork.from_pretrained(folder), json.loads(folder.with_suffix(".json").read_text())
    torch.manual_seed(config.seed)
    start = time.process_time()
    run = train_graph(make(), *samples, config)
    history = [epoch._asdict() for epoch in run.history]
    folder.with_suffix(".json").write_text(json.dumps(history))
    run.model.save_pretrained(folder)
    best = run.history[run.best]
    print(
        f"{folder.name:28s} epoch {run.best:2d}  validation loss {best.validation_loss:.4f}  accuracy {best.accuracy:.4f}"
        f"  {time.process_time() - start:.0f} s",
        flush=True,
    )
    return run.model, history


def epochs_to(history: list[dict[str, float]], goal: float) -> float:
    """Epochs until the validation accuracy is at least the goal; NaN if it never is."""
    reached = (number for number, epoch in enumerate(history, start=1) if epoch["accuracy"] >= goal)
    return float(next(reached, np.nan))


def study(processes: dict[str, Events], schema: EventSchema, args: argparse.Namespace) -> dict[str, Any]:
    bodies = {}
    for method, labels in (("multiclass", ()), ("multilabel", LABELS)):
        samples = pretraining_samples(processes, args.most, labels=bool(labels))
        config = GraphConfig(labels=tuple(labels), counts=len(COUNTS) if labels else 0)
        own = dataclasses.replace(schema, classes=PRETRAINING)
        run = GraphTrainingConfig(epochs=args.pretraining_epochs, seed=1)
        bodies[method], _ = trained(
            args.out / f"pretrained-{method}", lambda c=config, s=own: GraphNetwork(c, s), samples, run
        )
    return {task: study_task(processes, schema, bodies, task, args) for task in args.tasks}


def study_task(
    processes: dict[str, Events],
    schema: EventSchema,
    bodies: dict[str, GraphNetwork],
    task: str,
    args: argparse.Namespace,
) -> dict[str, Any]:
    classes = ("signal", "background")
    training, validation, test = task_samples(processes, task)
    compared = test.take(
        torch.arange(0, len(test.target), 4)
    )  # kernels of all pairs of events: a few are enough
    accuracies: dict[str, list[float]] = {}
    curves: dict[str, list[Any]] = {}
    stages: dict[str, list[dict[str, torch.Tensor]]] = {}
    ensembles: dict[str, float] = {}
    for method in METHODS:
        members = []
        for seed in range(args.seeds):

            def make(method: str = method) -> GraphNetwork:
                if method in bodies:
                    return replace_output(bodies[method], classes=classes)
                return GraphNetwork(GraphConfig(), dataclasses.replace(schema, classes=classes))

            config = GraphTrainingConfig(
                epochs=args.epochs,
                batch_size=64,
                body_ratio=BODY_RATIO if method in bodies else 1.0,
                seed=10 + seed,
            )
            name = f"{TASKS[task][0]}-{TASKS[task][2]}-{method.replace(' ', '-')}-{seed}"
            model, history = trained(args.out / name, make, (training, validation), config)
            accuracies.setdefault(method, []).append(class_accuracy(outputs_of(model, test), test.target))
            curves.setdefault(method, []).append(history)
            stages.setdefault(method, []).append(stages_of(model, compared))
            members.append(model)
        ensembles[method] = class_accuracy(ensemble_probabilities(members, test), test.target)
    goal = 0.99 * np.mean([max(e["accuracy"] for e in curve) for curve in curves["from scratch"]])
    epochs = {method: [epochs_to(curve, goal) for curve in curves[method]] for method in METHODS}
    similarity = {
        f"{stage} / {method}": cka_of_ensembles(
            [each[stage].numpy() for each in stages["from scratch"]],
            None if method == "from scratch" else [each[stage].numpy() for each in stages[method]],
            kernel="rbf",
        )[:2]
        for stage in stages["from scratch"][0]
        for method in METHODS
    }
    sizes = [len(sample.target) for sample in (training, validation, test)]
    return {
        "accuracy": accuracies,
        "ensemble": ensembles,
        "curves": curves,
        "epochs": epochs,
        "cka": similarity,
        "sizes": sizes,
    }


def mean_and_error(values: list[float]) -> str:
    """Mean of the seeds and its uncertainty."""
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.4f}"


def table(results: dict[str, Any]) -> str:
    lines = [
        "| task | training | accuracy on test events | of the ensemble | epochs to 99 % of the baseline | seeds that get there |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, result in results.items():
        for method in METHODS:
            epochs = np.array(result["epochs"][method])
            n = int(np.isfinite(epochs).sum())
            when = f"{np.nanmean(epochs):.1f}" if n else "never"
            lines.append(
                f"| {task} | {method} | {mean_and_error(result['accuracy'][method])} "
                f"| {result['ensemble'][method]:.4f} | {when} | {n} of {len(epochs)} |"
            )
    lines += [
        "",
        "| task | stage | baseline, baseline | baseline, multiclass | baseline, multilabel |",
        "| --- | --- | --- | --- | --- |",
    ]
    for task, result in results.items():
        for stage in dict.fromkeys(key.split(" / ")[0] for key in result["cka"]):
            values = (result["cka"][f"{stage} / {method}"] for method in METHODS)
            lines.append(
                f"| {task} | {stage} | " + " | ".join(f"{v:.2f} ± {e:.2f}" for v, e in values) + " |"
            )
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(results), figsize=(9, 3.6), layout="constrained")
    for axis, (task, result) in zip(np.atleast_1d(axes), results.items(), strict=True):
        for method in METHODS:
            accuracy = np.array([[e["accuracy"] for e in curve] for curve in result["curves"][method]])
            mean, error = accuracy.mean(axis=0), accuracy.std(axis=0, ddof=1) / len(accuracy) ** 0.5
            epochs = np.arange(1, len(mean) + 1)
            (line,) = axis.plot(epochs, mean, label=method)
            axis.fill_between(epochs, mean - error, mean + error, alpha=0.25, color=line.get_color())
        axis.set(xlabel="epoch", ylabel="validation accuracy", title=task)
    np.atleast_1d(axes)[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ttbar_1l.root and the others")
    parser.add_argument("--out", type=Path, required=True, help="folder for networks, table and figure")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--most", type=int, default=3000, help="pretraining events per class")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--pretraining-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    NanoAODSchema.warn_missing_crossrefs = False
    args.out.mkdir(parents=True, exist_ok=True)
    schema = EventSchema.standard()
    names = dict.fromkeys([*PRETRAINING, *(name for task in TASKS.values() for name in task[:2])])
    processes = {name: read_process(args.data, name, schema, seed=5) for name in names}
    schema = schema.with_statistics(
        statistics_of(pretraining_samples(processes, args.most, labels=False)[0], schema)
    )
    start = time.process_time()
    results = study(processes, schema, args)
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    (args.out / "table.md").write_text(table(results))
    draw(results, args.out / "curves.png")
    print((args.out / "table.md").read_text(), f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
