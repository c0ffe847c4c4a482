"""Figures of the analysis of H -> aa -> 4b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

Row = Mapping[str, Any]


def plot_learning(rows: Sequence[Row], classical: Sequence[Row]) -> Figure:
    """Significance improvement and pairing efficiency against the number of training events.

    Points are means over seeds with their standard error; small dots are single trainings; the grey band is the
    statistical error of the test sample around the last point of the first method, common to all methods.

    Parameters
    ----------
    rows : sequence of mapping
        One for each training.
    classical : sequence of mapping
        Methods without a training, drawn as lines.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9.2, 4.0), layout="constrained")
        panels = figure.subplots(1, 2)
        for panel, key, label in zip(
            panels,
            ("sic", "pairing_event_complete"),
            ("largest significance improvement", "events with both pairs right"),
            strict=True,
        ):
            _draw_curves(panel, rows, key)
            for i, row in enumerate(each for each in classical if each.get(key) is not None):
                panel.axhline(row[key], color="0.3", ls=(":", "--")[i % 2], lw=1, label=row["method"])
            panel.set_xscale("log")
            panel.set_xlabel("training events")
            panel.set_ylabel(label)
            low, high = panel.get_ylim()
            panel.set_ylim(low, high + 0.38 * (high - low))  # room for the legend
            panel.legend(frameon=False, fontsize=7, ncols=2, loc="upper center")
    return figure


def _draw_curves(panel: Any, rows: Sequence[Row], key: str) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows if row.get(key) is not None))
    for i, method in enumerate(methods):
        mine = [row for row in rows if row["method"] == method]
        sizes = sorted({row["size"] for row in mine})
        values = [np.array([row[key] for row in mine if row["size"] == size], float) for size in sizes]
        means = [each.mean() for each in values]
        errors = [each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0 for each in values]
        shifted = np.array(sizes) * (1 + 0.03 * (i - len(methods) / 2))
        baseline = "," not in method
        style = "s--" if baseline else "o-"
        panel.errorbar(
            shifted, means, errors, fmt=style, ms=4, color=f"C{i}", capsize=2, lw=1.2, label=method
        )
        for x, each in zip(shifted, values, strict=True):
            panel.plot(np.full(len(each), x), each, ".", ms=3, color=f"C{i}", alpha=0.4)
        if i == 0:
            last = np.mean([row[f"{key}_uncertainty"] for row in mine if row["size"] == sizes[-1]])
            panel.axhspan(
                means[-1] - last, means[-1] + last, color="0.92", zorder=0, label="error of the test sample"
            )


def plot_limits(rows: Sequence[Row]) -> Figure:
    """Expected limits on the branching fraction against the mass of the scalar.

    Parameters
    ----------
    rows : sequence of mapping
        ``method``, ``mass`` in GeV, and the five limits ``minus2`` to ``plus2``; the bands are those of the first method.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        panel = figure.subplots()
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for i, method in enumerate(methods):
            mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["mass"])
            mass = np.array([row["mass"] for row in mine])
            column = {name: np.array([row[name] for row in mine]) for name in BAND_NAMES}
            if i == 0:
                panel.fill_between(
                    mass, column["minus2"], column["plus2"], color="#ffdf7f", label="95 % of experiments"
                )
                panel.fill_between(
                    mass, column["minus1"], column["plus1"], color="#85d1fb", label="68 % of experiments"
                )
            panel.plot(
                mass,
                column["median"],
                ("o-k", "s--C3", "^:C2")[i % 3],
                ms=4,
                lw=1.2,
                label=f"median, {method}",
            )
        panel.set_yscale("log")
        panel.set_xlabel("mass of the scalar a [GeV]")
        panel.set_ylabel("expected 95 % limit on the branching fraction")
        panel.legend(frameon=False, fontsize=8)
    return figure


BAND_NAMES = ("minus2", "minus1", "median", "plus1", "plus2")


def plot_closure(injections: Sequence[Row], line: Mapping[str, float]) -> Figure:
    """Fitted against injected strength, the pulls, and how often an excess is seen.

    Parameters
    ----------
    injections : sequence of mapping
        Fields of :class:`~evenet_hep.analyses.higgs_to_4b.limits.Injection`.
    line : mapping
        As given by :func:`~evenet_hep.analyses.higgs_to_4b.limits.linearity`.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        x = np.array([each["injected"] for each in injections])
        for each in injections:
            values = np.array(each["strengths"])
            left.plot(np.full(len(values), each["injected"]), values, "_", color="0.75")
            error = values.std(ddof=1) / np.sqrt(len(values))
            left.errorbar(each["injected"], values.mean(), error, fmt="ok", ms=4, capsize=3)
        ends = np.array([x.min(), x.max()])
        left.plot(ends, ends, "--", color="0.4", label="what was injected")
        label = f"slope {line['slope']:.3f} \u00b1 {line['slope_error']:.3f}"
        left.plot(ends, line["slope"] * ends + line["intercept"], color="C0", label=label)
        left.set_xlabel("injected strength")
        left.set_ylabel("fitted strength")
        left.legend(frameon=False)
        pulls = np.concatenate(
            [
                (np.array(each["strengths"]) - each["injected"]) / np.array(each["uncertainties"])
                for each in injections
            ]
        )
        edges = np.linspace(-4, 4, 25)
        middle.hist(
            pulls, edges, color="#85d1fb", label=f"mean {pulls.mean():.2f}, width {pulls.std(ddof=1):.2f}"
        )
        centres = np.linspace(-4, 4, 200)
        normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
        middle.plot(centres, len(pulls) * (edges[1] - edges[0]) * normal, "k", lw=1, label="standard normal")
        middle.set_xlabel("(fitted - injected) / uncertainty, all strengths")
        middle.set_ylabel("pseudo-experiments")
        middle.set_ylim(0, middle.get_ylim()[1] * 1.3)
        middle.legend(frameon=False, fontsize=8)
        z = [np.array(each["significances"]) for each in injections]
        for level, color in ((1.645, "C0"), (3.0, "C3")):
            rate = np.array([(values > level).mean() for values in z])
            errors = np.sqrt(rate * (1 - rate) / [len(values) for values in z])
            right.errorbar(x, rate, errors, fmt="o-", ms=4, capsize=3, color=color, label=f"above {level:g}")
        right.axhline(0.05, color="0.4", ls="--", lw=1, label="5 %")
        right.set_xlabel("injected strength")
        right.set_ylabel("part with a significance")
        right.set_ylim(-0.02, 1.05)
        right.legend(frameon=False, fontsize=8)
    return figure


def plot_masses(histograms: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Masses of the network's pairs and the score, each sample normalised to one.

    Parameters
    ----------
    histograms : mapping of str to mapping
        Sample -> ``mass_a``, ``mass_aa`` and ``score``, as :class:`~evenet_hep.processors.higgs_to_4b.HiggsTo4b` fills them.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        for panel, name in zip(figure.subplots(1, 3), ("mass_a", "mass_aa", "score"), strict=True):
            for i, (sample, found) in enumerate(histograms.items()):
                histogram = found[name]
                total = histogram.sum().value
                if total > 0:
                    mplhep.histplot(
                        histogram / total,
                        ax=panel,
                        label=sample,
                        color=f"C{i}",
                        histtype="step",
                        linewidth=1.3,
                    )
            panel.set_xlabel(histogram.axes[0].label)
            panel.set_ylabel("part of the events")
            panel.set_ylim(0)
            panel.legend(frameon=False, fontsize=8)
    return figure
