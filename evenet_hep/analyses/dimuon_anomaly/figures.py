"""Figures of the dimuon search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from evenet_hep.analyses.dimuon_anomaly.config import METHODS
from evenet_hep.analyses.dimuon_anomaly.search import DimuonSearch
from evenet_hep.stats.significance import p_value

Rows = Sequence[Mapping[str, Any]]
FloatArray = npt.NDArray[np.float64]

COLOURS = {"none": "0.3", "pretrained": "C0", "scratch": "C2", "flow": "C1"}
NO_NETWORK = "mass spectrum alone"


def label_of(method: str) -> str:
    """Method in words."""
    return METHODS.get(method, NO_NETWORK)


def plot_spectra(found: DimuonSearch) -> Figure:
    """The spectrum of one sample as it is, and weighted with the likelihood ratio."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, fit, title in zip(
        panels,
        (found.uncut, None if found.weighted is None else found.weighted.fit),
        ("all events", "weighted with the likelihood ratio"),
        strict=True,
    ):
        if fit is not None:
            fit.plot(panel, markersize=4)
            panel.legend(frameon=False, fontsize=7, loc="upper right")
        panel.set_title(title, fontsize=9)
        panel.set_ylim(bottom=0)
    return figure


def plot_significance(rows: Rows) -> Figure:
    """Median significance and central 68 % over subsamples, without and with each generator."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    fractions = sorted({row["fraction"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    first = [row for row in rows if row["method"] == methods[0]]
    lines = [("none", "z_uncut", first)]
    lines += [(method, "z_weighted", [r for r in rows if r["method"] == method]) for method in methods]
    for k, (method, column, chosen) in enumerate(lines):
        at = [f for f in fractions if any(row["fraction"] == f for row in chosen)]
        z = [
            np.quantile([row[column] for row in chosen if row["fraction"] == f], [0.16, 0.5, 0.84])
            for f in at
        ]
        low, median, high = np.array(z).T
        axes.errorbar(
            100 * np.array(at) * (1 + 0.05 * (k - 1)), median, [median - low, high - median],
            fmt="o", capsize=3, color=COLOURS[method], label=label_of(method),
        )  # fmt: skip
    axes.axhline(5, color="0.7", lw=0.8, ls="--")
    axes.set(
        xscale="log",
        xlabel="size of the subsample [% of the file]",
        ylabel="local significance",
        ylim=(0, None),
    )
    axes.set_xticks([100 * f for f in fractions], [f"{100 * f:g}" for f in fractions])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_false_positives(rows: Rows) -> Figure:
    """Fraction of samples without a resonance that exceed a significance, beside what a Gaussian would give."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    grid = np.linspace(0, 4, 200)
    axes.plot(grid, p_value(grid), color="black", lw=1, label="expected: 1 - Φ(Z)")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [("none", "z_uncut", methods[0])] + [(method, "z_weighted", method) for method in methods]
    for name, column, method in lines:
        z = np.array([row[column] for row in rows if row["method"] == method], np.float64)
        share = (z[None] > grid[:, None]).mean(axis=1)
        axes.step(grid, share, where="post", color=COLOURS[name], label=f"{label_of(name)} ({len(z)} toys)")
    axes.set(yscale="log", ylim=(5e-3, 1), xlim=(0, 4), xlabel="Z", ylabel="fraction of toys above Z")
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_injections(rows: Rows, cut: str) -> Figure:
    """Fitted against injected signal, without a cut and behind a cut on the score."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = [("injected", "signal", "signal_error", "all events")]
    columns += [
        (
            f"injected_{cut}",
            f"signal_{cut}",
            f"error_{cut}",
            f"behind the cut that keeps {cut[4:]} % of background",
        )
    ]
    for panel, (truth, value, error, title) in zip(panels, columns, strict=True):
        for method in methods if truth != "injected" else methods[:1]:
            chosen = [row for row in rows if row["method"] == method and np.isfinite(row[value] or np.nan)]
            x, y, e = (np.array([row[name] for row in chosen], np.float64) for name in (truth, value, error))
            name = method if truth != "injected" else "none"
            panel.errorbar(
                x, y, e, fmt="o", ms=3, lw=0.6, alpha=0.6, color=COLOURS[name], label=label_of(name)
            )
        end = max(1.0, *(float(row[truth]) for row in rows))
        panel.plot([0, end], [0, end], color="black", lw=0.8)
        panel.set(xlabel="injected events in the window", ylabel="fitted events")
        panel.set_title(title, fontsize=9)
        panel.legend(frameon=False, fontsize=8)
    return figure


def plot_features(real: FloatArray, generated: Mapping[str, FloatArray], names: Sequence[str]) -> Figure:
    """Features in side bands that the generators have not seen, real and generated."""
    figure = Figure(figsize=(3.2 * len(names), 3.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for k, (panel, name) in enumerate(zip(panels, names, strict=True)):
        low, high = np.quantile(real[:, k], [0.0, 0.99])
        edges = np.linspace(float(low), float(high), 25)
        content, _ = np.histogram(real[:, k], edges)
        width = np.diff(edges) * len(real)
        centres = (edges[1:] + edges[:-1]) / 2
        panel.errorbar(
            centres, content / width, np.sqrt(content) / width, fmt="k.", ms=3, lw=0.8, label="data"
        )
        for method, rows in generated.items():
            made, _ = np.histogram(rows[:, k], edges)
            panel.stairs(
                made / np.diff(edges) / len(rows), edges, color=COLOURS[method], label=label_of(method)
            )
        panel.set_xlabel(name.replace("_", " "))
    panels[0].set_ylabel("density")
    panels[0].legend(frameon=False, fontsize=6)
    return figure
