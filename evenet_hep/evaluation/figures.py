"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping

import mplhep
import numpy as np
from matplotlib.figure import Figure

from evenet_hep.evaluation.evaluate import ClassScores, Neutrinos
from evenet_hep.stats.calibration import reliability
from evenet_hep.stats.metrics import roc_curve
from evenet_hep.stats.pairing import PairingEfficiencies
from evenet_hep.training.history import History
from evenet_hep.training.mass_grid import GridResult

MINIMUM_BACKGROUND = 10.0  # yield below which a significance improvement is not drawn


def plot_history(history: History) -> Figure:
    """Losses of training and validation after each epoch, and the learning rate.

    Parameters
    ----------
    history : History
        Of a run of one or more epochs.
    """
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    epochs = [row["epoch"] + 1 for row in history.epochs]
    names = [
        k.removeprefix("train_") for k in history.epochs[0] if k.startswith("train_") and k != "train_loss"
    ]
    for i, name in enumerate(names):
        for prefix, style in (("train", "--"), ("val", "-")):
            points = [
                (e, row[f"{prefix}_{name}"])
                for e, row in zip(epochs, history.epochs, strict=True)
                if f"{prefix}_{name}" in row
            ]
            if points:
                label = name.replace("_", " ") if prefix == "train" else None
                left.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{i}",
                    label=label,
                    marker="." if len(points) == 1 else "",
                )
    left.set_xlabel("epoch")
    left.set_ylabel("loss (dashed: training)")
    low, high = left.get_ylim()
    if low > 0 and high > 5 * low:
        left.set_yscale("log")
    left.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)
    if history.best_epoch is not None:
        left.axvline(history.best_epoch + 1, color="0.7", linewidth=1)
    right.plot(epochs, history.course("lr"), color="black", marker=".")
    right.set_xlabel("epoch")
    right.set_ylabel("learning rate at the end of the epoch")
    return figure


def plot_class_curves(scores: ClassScores) -> Figure:
    """Of each class against the others: ROC curve, and significance improvement.

    Parameters
    ----------
    scores : ClassScores
        With two classes only the first is drawn; the other is its mirror image.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = range(1) if len(scores.classes) == 2 else range(len(scores.classes))
    for i in drawn:
        is_class = scores.label == i
        if not 0 < is_class.sum() < len(is_class):
            continue
        roc = roc_curve(is_class, scores.probability[:, i], weights=scores.weight)
        left.plot(roc.signal_efficiency, roc.background_efficiency, color=f"C{i}", label=scores.classes[i])
        enough = (roc.background_yield >= MINIMUM_BACKGROUND) & (roc.background_efficiency > 0)
        sic = roc.signal_efficiency[enough] / np.sqrt(roc.background_efficiency[enough])
        right.plot(roc.signal_efficiency[enough], sic, color=f"C{i}", label=scores.classes[i])
    left.set_yscale("log")
    left.set_xlim(0, 1)
    left.set_ylim(1e-4, 1)
    left.set_xlabel("efficiency of the class")
    left.set_ylabel("efficiency of the others")
    left.legend(frameon=False)
    right.axhline(1, color="0.7", linewidth=1)
    right.set_xlim(0, 1)
    right.set_ylim(0)
    right.set_xlabel("efficiency of the class")
    right.set_ylabel(r"$\epsilon_s / \sqrt{\epsilon_b}$, at least 10 of the others left")
    return figure


def plot_confusion(scores: ClassScores) -> Figure:
    """Part of each true class that is taken for each class."""
    n = len(scores.classes)
    figure = Figure(figsize=(2.4 + 0.7 * n, 1.8 + 0.6 * n), layout="constrained")
    panel = figure.subplots()
    table = scores.confusion
    panel.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(n, n):
        if np.isfinite(table[i, j]):
            panel.text(
                j,
                i,
                f"{table[i, j]:.2f}",
                ha="center",
                va="center",
                color="white" if table[i, j] > 0.5 else "black",
            )
    panel.set_xticks(range(n), scores.classes, rotation=45 if n > 3 else 0)
    panel.set_yticks(range(n), scores.classes)
    panel.set_xlabel("most probable class")
    panel.set_ylabel("true class")
    return figure


def plot_calibration(scores: ClassScores) -> Figure:
    """Fraction of each class that is found, against the probability that is given to it; and how often it is given."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = range(1) if len(scores.classes) == 2 else range(len(scores.classes))
    edges = np.linspace(0, 1, 26)
    for i in drawn:
        is_class, probability = scores.label == i, scores.probability[:, i].clip(0, 1)
        table = reliability(is_class, probability, weights=scores.weight)
        left.errorbar(
            table.predicted,
            table.observed,
            table.uncertainty,
            fmt="o",
            markersize=4,
            color=f"C{i}",
            label=scores.classes[i],
        )
        for chosen, style in ((is_class, "-"), (~is_class, "--")):
            counts = np.histogram(probability[chosen], edges, weights=scores.weight[chosen])[0]
            if counts.sum() > 0:
                mplhep.histplot(counts / counts.sum(), edges, ax=right, color=f"C{i}", linestyle=style)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    left.set_xlabel("probability")
    left.set_ylabel("part that is of the class")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1)
    left.legend(frameon=False, fontsize=9)
    right.set_xlabel("probability")
    right.set_ylabel("events, normalised (dashed: the others)")
    right.set_yscale("log")
    right.set_xlim(0, 1)
    return figure


def plot_pairing(pairing: Mapping[str, PairingEfficiencies]) -> Figure:
    """Events and resonances that were put together rightly, by process."""
    figure = Figure(figsize=(7.0, 2.2 + 0.5 * len(pairing)), layout="constrained")
    panel = figure.subplots()
    kinds = {
        "event_complete": "all resonances, of events that have them",
        "event_partial": "all that can be found, of events that have one",
        "resonance": "single resonances",
    }
    for k, (field, label) in enumerate(kinds.items()):
        found = [getattr(each, field) for each in pairing.values()]
        rows = np.arange(len(found)) + 0.22 * (k - 1)
        panel.errorbar(
            [f.value for f in found],
            rows,
            xerr=[f.uncertainty for f in found],
            fmt="o",
            color=f"C{k}",
            capsize=3,
            label=label,
        )
    panel.set_yticks(range(len(pairing)), list(pairing))
    panel.set_ylim(len(pairing) - 0.5, -0.5)
    panel.set_xlim(0, 1.04)
    panel.set_xlabel("efficiency")
    panel.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def plot_neutrinos(neutrinos: Neutrinos) -> Figure:
    """Drawn against true values of invisible particles, and their differences."""
    n = len(neutrinos.names)
    figure = Figure(figsize=(3.4 * n, 6.0), layout="constrained")
    panels = figure.subplots(2, n, squeeze=False)
    for i, name in enumerate(neutrinos.names):
        true, drawn = neutrinos.true[:, i], neutrinos.drawn[:, i]
        low, high = np.quantile(np.concatenate([true, drawn]), [0.01, 0.99])
        panels[0, i].hist2d(true, drawn, bins=30, range=[[low, high], [low, high]], cmap="Blues")
        panels[0, i].plot([low, high], [low, high], color="C3", linewidth=1)
        panels[0, i].set_xlabel(f"true {name}")
        panels[0, i].set_ylabel(f"drawn {name}")
        residual = neutrinos.residual(name)
        spread = max(np.quantile(np.abs(residual), 0.97), 1e-6)
        counts, edges = np.histogram(residual, np.linspace(-spread, spread, 41))
        mplhep.histplot(counts, edges, ax=panels[1, i], color="black", yerr=np.sqrt(counts))
        middle, width = np.median(residual), np.diff(np.quantile(residual, [0.16, 0.84]))[0] / 2
        panels[1, i].set_title(f"median {middle:.2g}, half width {width:.2g}", fontsize=9)
        panels[1, i].set_xlabel(f"drawn minus true {name}")
        panels[1, i].set_ylabel("neutrinos")
        panels[1, i].set_ylim(0)
    return figure


def plot_grid(result: GridResult, quantity: str, *, label: str = "") -> Figure:
    """A map of what was measured at the points of a grid of two masses.

    Parameters
    ----------
    result : GridResult
        As given by :func:`~evenet_hep.training.mass_grid.train_grid`.
    quantity : str
        Which of its numbers to draw; points without it are left out.
    label : str
        What to call it; its name if left out.
    """
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    panel = figure.subplots()
    known = [
        (point, row[quantity])
        for point, row in zip(result.points, result.numbers, strict=True)
        if np.isfinite(row.get(quantity, np.nan))
    ]
    x, y = ([point[axis] for point, _ in known] for axis in (0, 1))
    drawn = panel.scatter(x, y, c=[value for _, value in known], s=420, marker="s", cmap="viridis")
    middle = np.mean(drawn.get_clim())
    for point, value in known:
        color = "white" if value < middle else "black"
        panel.annotate(
            f"{value:.2f}", (point[0], point[1]), ha="center", va="center", fontsize=8, color=color
        )
    panel.margins(0.15)
    panel.set_xlabel(f"{result.axes[0].replace('_', ' ')} [GeV]")
    panel.set_ylabel(f"{result.axes[1].replace('_', ' ')} [GeV]")
    figure.colorbar(drawn, ax=panel, label=label or quantity)
    return figure
