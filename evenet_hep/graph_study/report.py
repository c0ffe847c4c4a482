"""Tables and a figure of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenet_hep.graph_study.plan import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def format_tables(results: Mapping[str, Any]) -> str:
    """Accuracies with times, and similarities, as two tables in Markdown.

    Parameters
    ----------
    results : mapping
        Of :func:`~evenet_hep.graph_study.study.run_study`.
    """
    lines = [
        "| task, events per class | training | accuracy | of the ensemble | epochs to 99 % of the baseline | seconds | seeds that get there |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, result in results.items():
        for method in METHODS:
            epochs, seconds = (np.array(result[name][method], float) for name in ("epochs", "seconds"))
            there = np.isfinite(epochs)
            when = [f"{x[there].mean():.1f}" if there.any() else "never" for x in (epochs, seconds)]
            lines.append(
                f"| {task} | {method} | {mean_and_error(result['accuracy'][method])} | {result['ensemble'][method]:.4f} "
                f"| {when[0]} | {when[1]} | {there.sum()} of {len(epochs)} |"
            )
    lines += [
        "",
        "| task, events per class | stage | "
        + " | ".join(f"baseline, {name}" for name in ("baseline", *METHODS[1:]))
        + " |",
        "| --- | --- | --- | --- | --- |",
    ]
    for task, result in results.items():
        for stage, row in result["cka"].items():
            values = " | ".join(f"{row[m][0]:.2f} ± {row[m][1]:.2f}" for m in METHODS)
            lines.append(f"| {task} | {stage} | {values} |")
    return "\n".join(lines) + "\n"


def mean_and_error(values: Sequence[float]) -> str:
    """Mean of the seeds and its uncertainty; without the latter for a single one.

    Examples
    --------
    >>> mean_and_error([0.8, 0.82, 0.84]), mean_and_error([0.8])
    ('0.8200 ± 0.0115', '0.8000')
    """
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.4f}"


def draw_curves(results: Mapping[str, Any], path: Path) -> None:
    """Validation accuracy of each epoch, mean and uncertainty of the seeds, one panel per task and size."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  only who draws needs it

    figure, panels = _panels(len(results))
    for panel, (task, result) in zip(panels, results.items(), strict=True):
        for method in METHODS:
            accuracy = np.array(
                [[epoch["accuracy"] for epoch in curve] for curve in result["curves"][method]]
            )
            mean = accuracy.mean(axis=0)
            epochs = np.arange(1, len(mean) + 1)
            (line,) = panel.plot(epochs, mean, label=method)
            if len(accuracy) > 1:
                error = accuracy.std(axis=0, ddof=1) / len(accuracy) ** 0.5
                panel.fill_between(epochs, mean - error, mean + error, alpha=0.25, color=line.get_color())
        panel.set(xlabel="epoch", ylabel="validation accuracy", title=task)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def draw_sizes(results: Mapping[str, Any], path: Path) -> None:
    """Test accuracy against training events per class, mean and uncertainty of the seeds, one panel per task."""
    tasks: dict[str, dict[int, Any]] = {}
    for name, result in results.items():
        task, size = name.rsplit(", ", 1)
        tasks.setdefault(task, {})[int(size)] = result["accuracy"]
    every = [size for found in tasks.values() for size in found]
    smallest, largest = min(every), max(every)
    figure, panels = _panels(len(tasks))
    for panel, (task, found) in zip(panels, tasks.items(), strict=True):
        sizes = np.array(sorted(found))
        for shift, method in zip((0.95, 1.0, 1.05), METHODS, strict=True):
            values = [np.array(found[size][method]) for size in sizes]
            errors = [x.std(ddof=1) / len(x) ** 0.5 if len(x) > 1 else 0.0 for x in values]
            panel.errorbar(
                sizes * shift, [x.mean() for x in values], errors, marker="o", capsize=2, label=method
            )
        panel.set(xscale="log", xlabel="training events per class", ylabel="test accuracy", title=task)
        panel.set_xlim(0.7 * smallest, 1.4 * largest)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, three in a row."""
    from matplotlib.figure import Figure  # noqa: PLC0415  only who draws needs it

    columns = min(3, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel in panels[number:]:
        panel.set_axis_off()
    return figure, panels[:number]
