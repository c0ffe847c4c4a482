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


def plot_class_scores(
    scores: Mapping[str, Hist], means: Mapping[str, Mapping[str, float]], *, focus: str
) -> Figure:
    """Mean class probabilities of every data set, and the distribution of one of them.

    Parameters
    ----------
    scores : mapping of str to Hist
        Data set name -> histogram with the axes ``class`` and ``probability``.
    means : mapping of str to mapping
        Data set name -> class name -> mean probability.
    focus : str
        Class whose probability is drawn on the right.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels: stacked bars, one per data set, and densities with statistical uncertainties.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _draw_means(left, means)
        for i, (name, histogram) in enumerate(scores.items()):
            one: Any = histogram[{"class": focus}]
            total = one.sum().value
            if total > 0:
                density = one / (total * one.axes[0].widths[0])
                mplhep.histplot(density, ax=right, color=f"C{i}", label=name, linewidth=1.4, histtype="step")
        right.set_yscale("log")
        right.set_xlim(0, 1)
        right.set_xlabel(f"probability of class {focus}")
        right.set_ylabel("events (density)")
        right.legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
        low, high = right.get_ylim()
        right.set_ylim(max(low, 1e-2), high * 5)  # room for the legend
    return figure


def _draw_means(panel: Any, means: Mapping[str, Mapping[str, float]]) -> None:
    names = list(means)
    classes = list(means[names[0]])
    edges = np.zeros(len(names))
    for i, class_name in enumerate(classes):
        widths = np.nan_to_num([means[name][class_name] for name in names])
        panel.barh(names, widths, left=edges, color=f"C{i}", label=class_name, height=0.7)
        for row, (width, edge) in enumerate(zip(widths, edges, strict=True)):
            if width > 0.06:
                panel.text(
                    edge + width / 2, row, f"{width:.2f}", ha="center", va="center", color="white", fontsize=8
                )
        edges = edges + widths
    panel.set_xlim(0, 1)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel("mean class probability")
    where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    panel.legend(**where, ncols=len(classes), frameon=False, fontsize=8, columnspacing=1.0, handlelength=1.2)


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
