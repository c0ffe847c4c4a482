"""Figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import hist

    Hist = hist.Hist[Any]


def plot_class_scores(scores: Mapping[str, Hist], *, counts: Mapping[str, int] | None = None) -> Figure:
    """Distributions of the class probabilities, one panel per data set.

    Parameters
    ----------
    scores : mapping of str to Hist
        Data set name -> histogram with the axes ``class`` and ``probability``.
    counts : mapping of str to int, optional
        Events per data set, for the panel titles.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels in a row; the classes have the same colours everywhere.
    """
    names = list(scores)
    n_rows = -(-len(names) // 2)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 0.9 + 2.9 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, 2, squeeze=False, sharex=True).ravel()
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(panels, names, strict=False):
            _draw_classes(panel, scores[name])
            count = f", {counts[name]} events" if counts else ""
            panel.set_title(f"{name}{count}", loc="left", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), frameon=False)
    return figure


def _draw_classes(panel: Any, scores: Hist) -> None:
    for i, name in enumerate(scores.axes["class"]):
        one: Any = scores[{"class": name}]
        total = one.sum().value
        # Densities: data sets differ in size, shapes are compared.
        density = one / (total * one.axes[0].widths[0]) if total > 0 else one
        mplhep.histplot(density, ax=panel, yerr=False, color=f"C{i}", label=name, linewidth=1.4)
    panel.set_yscale("log")
    panel.set_xlim(0, 1)
    panel.set_ylim(2e-2, 40)
    panel.set_xlabel("class probability")
    panel.set_ylabel("events (density)")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def plot_roc(truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """One-against-the-rest ROC curves: background rejection against signal efficiency.

    Parameters
    ----------
    truth : int array, shape (n_events,)
        Class number of every event.
    probabilities : array, shape (n_events, n_classes)
        Class probabilities.
    classes : tuple of str
        Class names.
    """
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    panel = figure.subplots()
    for i, name in enumerate(classes):
        order = np.argsort(-probabilities[:, i])
        is_class = truth[order] == i
        efficiency = np.cumsum(is_class) / max(is_class.sum(), 1)
        mistag = np.cumsum(~is_class) / max((~is_class).sum(), 1)
        panel.plot(efficiency, np.maximum(mistag, 1e-5), label=name)
    panel.set_xlabel("efficiency of the class")
    panel.set_ylabel("efficiency of the others")
    panel.set_yscale("log")
    panel.set_xlim(0, 1)
    panel.set_ylim(1e-4, 1)
    panel.legend(frameon=False)
    return figure
