"""Figures of the spin analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from evenet_hep.analyses.ttbar_spin.closure import Closure
from evenet_hep.analyses.ttbar_spin.measure import N_FLAT, N_M_TT, SpinMatrix
from evenet_hep.analyses.ttbar_spin.result import M_TT_NAMES, Measured
from evenet_hep.processors.ttbar_spin import N_BINS

FloatArray = npt.NDArray[np.float64]

_DIAGONAL = {r"$C_{kk}$": 6, r"$C_{rr}$": 10, r"$C_{nn}$": 14}


def plot_migration(migrations: Mapping[str, FloatArray]) -> Figure:
    """Migration of the flat axis m(ttbar) x xi_kk, each true bin normalised to 1.

    Parameters
    ----------
    migrations : mapping of str to float array, shape (80, 80)
        Name of a reconstruction -> events by measured (rows) and true (columns) bin.
    """
    figure = Figure(figsize=(4.6 * len(migrations) + 0.6, 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(migrations), sharey=True))
    for panel, (name, counts) in zip(panels, migrations.items(), strict=True):
        totals = counts.sum(axis=0)
        fractions = counts / np.where(totals > 0, totals, 1.0)
        drawn = panel.imshow(
            fractions, origin="lower", cmap="Blues", vmin=0, vmax=0.3, extent=(0, N_FLAT, 0, N_FLAT)
        )
        for edge in range(N_BINS, N_FLAT, N_BINS):
            panel.axvline(edge, color="0.6", lw=0.6)
            panel.axhline(edge, color="0.6", lw=0.6)
        middle = N_BINS * (np.arange(N_M_TT) + 0.5)
        panel.set_xticks(middle, M_TT_NAMES, fontsize=8)
        panel.set_yticks(middle, M_TT_NAMES, fontsize=8, rotation=90, va="center")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(r"true $\xi_{kk}$ from $-1$ to 1 in bins of $m_{t\bar t}$ [GeV]")
    panels[0].set_ylabel(r"measured $\xi_{kk}$ in bins of $m_{t\bar t}$ [GeV]")
    figure.colorbar(drawn, ax=panels, shrink=0.8, label="fraction of measured events")
    return figure


def plot_spin_matrix(results: Mapping[str, Measured], true: SpinMatrix, luminosity: float) -> Figure:
    """Diagonal of C in the bins of m(ttbar), with the projected error of the data inside that of the simulation."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    x = np.arange(N_M_TT)
    for panel, (label, i) in zip(panels, _DIAGONAL.items(), strict=True):
        panel.hlines(true.values[:, i], x - 0.45, x + 0.45, color="0.3", lw=2, label="generator")
        for n, (name, found) in enumerate(results.items()):
            place = x + 0.3 * (n + 0.5) / len(results) * 2 - 0.3
            values = found.own.values[:, i]
            data = np.sqrt(found.projected.covariance_data[:, i, i])
            both = np.sqrt(data**2 + found.projected.covariance_response[:, i, i])
            panel.errorbar(place, values, both, fmt="none", ecolor=f"C{n}", elinewidth=0.8, capsize=2)
            panel.errorbar(place, values, data, fmt="o", ms=3.5, color=f"C{n}", elinewidth=3, label=name)
        panel.axhline(0, color="0.7", lw=0.6)
        panel.set_xticks(x, M_TT_NAMES, fontsize=8)
        panel.set_title(label, fontsize=10)
        panel.set_xlabel(r"$m_{t\bar t}$ [GeV]")
    panels[0].set_ylabel("coefficient")
    panels[0].set_ylim(-1.6, 1.6)
    panels[1].legend(fontsize=7, frameon=False, loc="upper left")
    note = f"thick: data of {luminosity:g} fb$^{{-1}}$; thin: with the statistics of the simulation"
    figure.suptitle(note, fontsize=8)
    return figure


def plot_closure(closures: Mapping[str, Closure]) -> Figure:
    """Unfolded against true -tr C below 400 GeV, and the pulls of all divisions."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(-4, 4, 25)
    for n, (name, found) in enumerate(closures.items()):
        values = found.own[:, :, 0]
        order = np.argsort(found.true[:, 0])
        shifted = found.true[order, 0] + 0.012 * (n - (len(closures) - 1) / 2)
        left.errorbar(
            shifted, values.mean(axis=0)[order], values.std(axis=0, ddof=1)[order], fmt="o-", ms=4, lw=0.8, capsize=2,
            label=f"{name}: slope {found.slope():.2f}", color=f"C{n}",
        )  # fmt: skip
        pulls = found.pulls()[:, :, 0].ravel()
        pulls = pulls[np.isfinite(pulls)]
        if len(pulls) < 2:
            continue
        right.hist(np.clip(pulls, -4, 4), bins, histtype="step", density=True, lw=1.4, color=f"C{n}",
                   label=f"{name}: {pulls.mean():.2f} $\\pm$ {pulls.std(ddof=1):.2f}")  # fmt: skip
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], color="0.5", lw=0.8, ls="--")
    left.axhline(1, color="0.8", lw=0.8)
    left.axvline(1, color="0.8", lw=0.8)
    left.set_xlabel(r"true $-\mathrm{tr}\,C$ (entangled above 1)")
    left.set_ylabel(r"unfolded $-\mathrm{tr}\,C$, mean and spread")
    left.legend(fontsize=7, frameon=False, loc="upper left")
    x = np.linspace(-4, 4, 200)
    right.plot(
        x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color="0.5", lw=0.8, ls="--", label="standard normal"
    )
    right.set_xlabel("(unfolded $-$ true) / error")
    right.set_ylabel("density")
    right.legend(fontsize=7, frameon=False, loc="upper left")
    right.set_ylim(0, 1.5 * right.get_ylim()[1])
    return figure


def plot_sizes(rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, float]) -> Figure:
    """Pairing accuracy and the error of D against the number of training events.

    Parameters
    ----------
    rows : sequence of mapping
        With ``start``, ``n_train``, ``pairing``, ``d_error_calibrated`` for every training.
    baseline : mapping
        ``pairing`` and ``d_error_calibrated`` of the classical reconstruction.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = {
        "pairing": "pairing accuracy",
        "d_error_calibrated": r"projected error of $-\mathrm{tr}\,C$ (calibration)",
    }
    for panel, (key, label) in zip(panels, labels.items(), strict=True):
        for n, start in enumerate(dict.fromkeys(row["start"] for row in rows)):
            mine = [row for row in rows if row["start"] == start]
            sizes = sorted({row["n_train"] for row in mine})
            groups = [[row[key] for row in mine if row["n_train"] == size] for size in sizes]
            means = [float(np.mean(group)) for group in groups]
            panel.plot(sizes, means, "o-", ms=4, color=f"C{n}", label=start)
            for size, group in zip(sizes, groups, strict=True):
                panel.plot([size] * len(group), group, "_", color=f"C{n}", ms=8)
        panel.axhline(baseline[key], color="0.4", ls="--", lw=1, label="classical")
        panel.set_xscale("log")
        panel.set_xlabel("training events")
        panel.set_ylabel(label)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def plot_resolution(residuals: Mapping[str, tuple[FloatArray, FloatArray]]) -> Figure:
    """Residuals of m(ttbar) and of the neutrinos' px and py.

    Parameters
    ----------
    residuals : mapping of str to two arrays
        Name of a reconstruction -> measured minus true m(ttbar), and components of the neutrinos, in GeV.
    """
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for n, (name, pair) in enumerate(residuals.items()):
        for panel, values, span in zip(panels, pair, (400.0, 200.0), strict=True):
            bins = np.linspace(-span, span, 61)
            panel.hist(
                np.clip(values, -span, span), bins, histtype="step", density=True, color=f"C{n}", label=name
            )
    panels[0].set_xlabel(r"measured $-$ true $m_{t\bar t}$ [GeV]")
    panels[1].set_xlabel(r"measured $-$ true $p_x, p_y$ of the neutrinos [GeV]")
    panels[0].set_ylabel("density")
    panels[0].legend(fontsize=8, frameon=False)
    return figure
