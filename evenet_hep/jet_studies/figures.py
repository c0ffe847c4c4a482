"""Figures of the jet studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

FEATURES = {
    "mass": "mass [GeV]",
    "softdrop_mass": "soft-drop mass [GeV]",
    "tau21": r"$\tau_{21}$",
    "tau32": r"$\tau_{32}$",
    "multiplicity": "constituents",
    "pt": r"$p_\mathrm{T}$ [GeV]",
}


def plot_reweighting(
    target: FloatArray, source: FloatArray, weights: Mapping[str, FloatArray], *, bins: int = 30
) -> Figure:
    """Six features of two simulations, and of the first one weighted to look like the second.

    Parameters
    ----------
    target, source : float64 array, shape (n_jets, 6)
        Of :func:`~evenet_hep.training.jet_scores.closure_features`.
    weights : mapping of str to float64 array, shape (n_source,)
        Name of a method -> weights of the source's jets.
    bins : int
        Between the 0.5 and 99.5 % quantiles of the target.
    """
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    panels = figure.subplots(4, 3, height_ratios=(3, 1, 3, 1))
    for number, label in enumerate(FEATURES.values()):
        row, column = 2 * (number // 3), number % 3
        edges = _edges(target[:, number], 0.005, bins)
        wanted = _density(target[:, number], edges, None)
        upper, lower = panels[row, column], panels[row + 1, column]
        upper.stairs(wanted[0], edges, fill=True, color="0.85", label="target")
        for k, (name, weight) in enumerate({"source": None, **weights}.items()):
            found, error = _density(source[:, number], edges, weight)
            upper.stairs(found, edges, color=f"C{k}", label=name if weight is None else f"source, {name}")
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(wanted[0] > 0, found / wanted[0], np.nan)
                relative = np.hypot(error / found, wanted[1] / wanted[0]) * ratio
            centres = 0.5 * (edges[1:] + edges[:-1])
            lower.errorbar(centres, ratio, relative, fmt=".", color=f"C{k}", markersize=3, linewidth=0.8)
        lower.axhline(1.0, color="0.5", linewidth=0.8)
        lower.set_ylim(0.5, 1.5)
        lower.set_xlabel(label, fontsize=8)
        upper.set_yticks([])
        upper.tick_params(labelbottom=False)
        for panel in (upper, lower):
            panel.set_xlim(edges[0], edges[-1])
            panel.tick_params(labelsize=7)
        if column == 0:
            lower.set_ylabel("to target", fontsize=7)
    panels[0, 0].legend(frameon=False, fontsize=7)
    return figure


def plot_generated(
    generated: Mapping[str, Sequence[FloatArray]], real: Mapping[str, Sequence[FloatArray]]
) -> Figure:
    """Mass, number of constituents and their relative momenta, of real and generated jets of each class.

    Parameters
    ----------
    generated, real : mapping of str to three float64 arrays
        Class -> mass in GeV and number of constituents of each jet, relative pT of all constituents.
    """
    labels = ("jet mass [GeV]", "constituents", r"$\log_{10}$ relative $p_\mathrm{T}$ of constituents")
    figure = Figure(figsize=(9.6, 2.6 * len(real)), layout="constrained")
    panels = figure.subplots(len(real), 3, squeeze=False)
    for row, name in zip(panels, real, strict=True):
        for panel, label, mine, theirs in zip(row, labels, generated[name], real[name], strict=True):
            edges = _edges(theirs, 0.002, 40)
            wanted, found = _density(theirs, edges, None), _density(mine, edges, None)
            panel.stairs(wanted[0], edges, fill=True, color="0.85", label=f"{name}, simulated")
            panel.stairs(found[0], edges, color="C3", label=f"{name}, generated")
            panel.set_xlabel(label, fontsize=8)
            panel.set_yticks([])
            panel.tick_params(labelsize=7)
        row[0].legend(frameon=False, fontsize=7)
    return figure


def _edges(values: FloatArray, tail: float, bins: int) -> FloatArray:
    """Bins between two quantiles; whole numbers get bins that hold as many of them each."""
    low, high = np.quantile(values, (tail, 1 - tail))
    if (values == np.round(values)).all():
        step = max(1, round((high - low) / bins))
        return np.arange(np.floor(low) - 0.5, high + step, step)
    return np.linspace(low, high, bins + 1)


def _density(
    values: FloatArray, edges: FloatArray, weights: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Share of the values in each bin, and its statistical error."""
    weight = np.ones(len(values)) if weights is None else weights
    content = np.histogram(values, edges, weights=weight)[0]
    variance = np.histogram(values, edges, weights=weight**2)[0]
    return content / weight.sum(), np.sqrt(variance) / weight.sum()
