"""Figures of the analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from evenet_hep.analyses.bbww_resonance.comparison import Comparison, Row
from evenet_hep.analyses.bbww_resonance.events import BbwwEvents, MassPoint
from evenet_hep.events.selection import MIN_TOPNESS
from evenet_hep.stats.metrics import roc_curve

FloatArray = npt.NDArray[np.float64]

COLOURS = {
    "finetuned": "C0",
    "scratch": "C1",
    "parametrised": "C2",
    "xgboost": "C3",
    "tabpfn": "C4",
}


def plot_sic(rows: Sequence[Row]) -> Figure:
    """Significance improvement of all methods at every point; bars: statistical, ticks: spread of the trainings."""
    points = list(dict.fromkeys((row["m_x"], row["m_y"]) for row in rows))
    methods = [m for m in COLOURS if any(row["method"] == m for row in rows)]
    figure = Figure(figsize=(2.2 + 0.85 * len(points), 3.9), layout="constrained")
    panel = figure.subplots()
    for k, method in enumerate(methods):
        mine = {(row["m_x"], row["m_y"]): row for row in rows if row["method"] == method}
        x = [i + 0.15 * (k - (len(methods) - 1) / 2) for i, point in enumerate(points) if point in mine]
        found = [mine[point] for point in points if point in mine]
        values = [row["sic"] for row in found]
        errors = [row["sic_error"] for row in found]
        spreads = [row["sic_spread"] for row in found]
        panel.errorbar(x, values, errors, fmt="o", ms=4, color=COLOURS[method], label=method, elinewidth=0.8)
        panel.errorbar(x, values, spreads, fmt="none", color=COLOURS[method], elinewidth=3.5, alpha=0.4)
    panel.set_xticks(range(len(points)), [f"{x:g}\n{y:g}" for x, y in points])
    panel.set_xlabel(r"$m_X$ / $m_Y$ [GeV]")
    panel.set_ylabel(r"largest $\epsilon_s / \sqrt{\epsilon_b}$")
    panel.set_ylim(0)
    panel.legend(frameon=False, ncols=len(methods), fontsize=8, loc="upper left")
    panel.set_ylim(0, panel.get_ylim()[1] * 1.12)
    panel.set_title("thin: statistical error, thick: spread of the trainings", fontsize=8, loc="right")
    return figure


def plot_winners(winners: Sequence[Row]) -> Figure:
    """Which method is best at every point, and by which factor it leads; pale where the lead is not clear."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel = figure.subplots()
    # Points of the grid side by side: masses that lie close together would cover each other.
    columns, lines = (sorted({row[name] for row in winners}) for name in ("m_x", "m_y"))
    for row in winners:
        colour = COLOURS[row["winner"]]
        at = columns.index(row["m_x"]), lines.index(row["m_y"])
        panel.scatter(*at, s=1300, marker="s", color=colour, alpha=0.9 if row["is_clear"] else 0.35)
        error = f"\n±{row['lead_error']:.2f}" if np.isfinite(row["lead_error"]) else ""
        panel.annotate(
            f"{row['lead']:.2f}{error}",
            at,
            ha="center",
            va="center",
            fontsize=7,
        )
    panel.set_xticks(range(len(columns)), [f"{mass:g}" for mass in columns])
    panel.set_yticks(range(len(lines)), [f"{mass:g}" for mass in lines])
    panel.minorticks_off()
    for name in dict.fromkeys(row["winner"] for row in winners):
        panel.scatter([], [], s=60, marker="s", color=COLOURS[name], label=name)
    panel.margins(0.16)
    panel.set_xlabel("mass x [GeV]")
    panel.set_ylabel("mass y [GeV]")
    panel.legend(frameon=False, ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panel.set_title("lead over the second; pale: within twice its error", fontsize=8, y=-0.2)
    return figure


def plot_roc(comparison: Comparison, events: BbwwEvents, points: Sequence[MassPoint]) -> Figure:
    """Background against signal efficiency of the mean scores, down to ten effective background events."""
    figure = Figure(figsize=(3.5 * len(points), 3.6), layout="constrained")
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for panel, point in zip(panels, points, strict=True):
        rows = events.rows(point)
        for (method, name), scores in comparison.scores.items():
            if name != point.name:
                continue
            roc = roc_curve(events.is_signal[rows], scores, weights=events.weight[rows])
            least = comparison.results[method, name].minimum_background
            shown = roc.background_yield >= least
            panel.plot(
                roc.signal_efficiency[shown],
                roc.background_efficiency[shown],
                color=COLOURS[method],
                label=method,
                lw=1.3,
            )
        if panel.lines and max(np.max(line.get_ydata(), initial=0) for line in panel.lines) > 0:
            panel.set_yscale("log")
        panel.set_xlim(0, 1)
        panel.set_title(rf"$m_X$ = {point.m_x:g}, $m_Y$ = {point.m_y:g} GeV", fontsize=9)
        panel.set_xlabel("signal efficiency")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("background efficiency")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def plot_topness(
    contents: Mapping[str, FloatArray], factors: Mapping[str, float], signals: Sequence[str]
) -> Figure:
    """Topness before its own cut: all backgrounds together, and some signals.

    Parameters
    ----------
    contents : mapping of str to float array
        Sample -> contents of the processor's histogram ``topness``, underflow first and overflow last.
    factors : mapping of str to float
        Background -> factor on its contents.
    signals : sequence of str
        Which are drawn.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    panel = figure.subplots()
    background = np.sum([contents[name] * factor for name, factor in factors.items()], axis=0)
    shapes = {"backgrounds": background} | {name: contents[name] for name in signals}
    edges = np.linspace(0, 40, len(background) - 1)
    for i, (name, values) in enumerate(shapes.items()):
        if values.sum() > 0:
            label = f"{name} ({values[-1] / values.sum():.0%} beyond 40)"
            colour = "0.3" if i == 0 else f"C{i - 1}"
            mplhep.histplot(
                values[1:-1] / values.sum(), edges, ax=panel, histtype="step", color=colour, label=label
            )
    panel.axvline(MIN_TOPNESS, color="black", ls="--", lw=0.9)
    panel.set_yscale("log")
    panel.set_xlabel("topness (kept: right of the dashed line)")
    panel.set_ylabel("part of the events")
    panel.legend(frameon=False, fontsize=8)
    return figure


def plot_templates(comparison: Comparison, chosen: Sequence[tuple[str, str]]) -> Figure:
    """Binned scores of signal and background, as they enter the fit."""
    figure = Figure(figsize=(3.6 * len(chosen), 3.5), layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for panel, key in zip(panels, chosen, strict=True):
        result = comparison.results[key]
        bins = np.arange(len(result.signal.values()) + 1)
        for histogram, colour, label in (
            (result.background, "0.3", "background"),
            (result.signal, "C3", "signal at reference cross-section"),
        ):
            values, errors = histogram.values(), np.sqrt(histogram.variances())
            mplhep.histplot(values, bins, yerr=errors, ax=panel, color=colour, label=label)
        panel.set_yscale("log")
        panel.set_xlabel("bin of the score")
        panel.set_title(f"{key[0]}, {key[1]}", fontsize=8)
    panels[0].set_ylabel("expected events")
    panels[0].legend(frameon=False, fontsize=7)
    return figure


def plot_limits(rows: Sequence[Row]) -> Figure:
    """Expected limit on the cross-section of every method at every point; band: one standard deviation of the best."""
    points = list(dict.fromkeys((row["m_x"], row["m_y"]) for row in rows))
    methods = [m for m in COLOURS if any(row["method"] == m for row in rows)]
    figure = Figure(figsize=(2.2 + 0.85 * len(points), 3.8), layout="constrained")
    panel = figure.subplots()
    for k, method in enumerate(methods):
        mine = {(row["m_x"], row["m_y"]): row for row in rows if row["method"] == method}
        x = [i + 0.15 * (k - (len(methods) - 1) / 2) for i, point in enumerate(points) if point in mine]
        found = [mine[point] for point in points if point in mine]
        values = np.array(
            [row["limit_pb"] for row in found], float
        )  # None, where there is no limit, becomes NaN
        band = [
            np.abs(np.array([row[f"limit_pb_{side}_1"] for row in found], float) - values)
            for side in ("minus", "plus")
        ]
        panel.errorbar(x, values, band, fmt="o", ms=4, color=COLOURS[method], label=method, elinewidth=0.9)
    panel.set_xticks(range(len(points)), [f"{x:g}\n{y:g}" for x, y in points])
    if any(row["limit_pb"] is not None and row["limit_pb"] > 0 for row in rows):
        panel.set_yscale("log")
    panel.set_xlabel(r"$m_X$ / $m_Y$ [GeV]")
    panel.set_ylabel(r"95 % CLs limit on $\sigma B$ [pb], ±1 s.d.")
    panel.legend(frameon=False, ncols=len(methods), fontsize=8)
    return figure


def plot_closure(toys: Sequence[Row], halves: Sequence[Row]) -> Figure:
    """Found against injected strength in toys, and pulls of the fits of independent halves."""
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(dict.fromkeys(row["point"] for row in toys)):
        mine = [row for row in toys if row["point"] == name]
        x = [row["injected"] for row in mine]
        left.errorbar(
            x,
            [r["found"] for r in mine],
            [r["found_error"] for r in mine],
            fmt="o",
            ms=4,
            color=f"C{i}",
            label=name,
        )
    largest = max(row["injected"] for row in toys)
    left.plot([0, largest], [0, largest], color="0.6", lw=0.8)
    left.set_xlabel("injected strength [natural units]")
    left.set_ylabel("mean of the toys")
    left.legend(frameon=False, fontsize=8)
    pulls = np.array([row["pull"] for row in halves], float)
    pulls = pulls[np.isfinite(pulls)]
    right.hist(pulls, np.linspace(-4, 4, 17), color="0.6")
    right.set_xlabel("pulls of the fits of independent halves")
    right.set_title(f"mean {pulls.mean():.2f}, width {pulls.std():.2f}", fontsize=9)
    return figure
