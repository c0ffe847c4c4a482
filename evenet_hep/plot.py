"""Figures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import hist

    from evenet_hep.stats.entanglement import Entanglement
    from evenet_hep.stats.limits import Limit
    from evenet_hep.stats.linear_density import LinearFit
    from evenet_hep.stats.sideband import SidebandFit
    from evenet_hep.stats.sideband_scan import SidebandScan
    from evenet_hep.stats.unfolded import Unfolded

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


def plot_roc(
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    *,
    compared: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """One-against-the-rest ROC curves: background rejection against signal efficiency.

    Parameters
    ----------
    truth : int array, shape (n_events,)
        Class number of every event.
    probabilities : array, shape (n_events, n_classes)
        Class probabilities.
    classes : tuple of str
        Class names.
    compared : mapping of str to array, shape (n_events, n_classes), optional
        Probabilities of other classifiers for the same events: dashed, dotted, and so on.
    """
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    panel = figure.subplots()
    styles = itertools.cycle(("-", "--", ":", "-."))
    for style, (method, scores) in zip(styles, {"": probabilities, **(compared or {})}.items(), strict=False):
        for i, name in enumerate(classes):
            order = np.argsort(-scores[:, i])
            is_class = truth[order] == i
            efficiency = np.cumsum(is_class) / max(is_class.sum(), 1)
            mistag = np.cumsum(~is_class) / max((~is_class).sum(), 1)
            label = f"{name}, {method}" if method else name
            panel.plot(efficiency, np.maximum(mistag, 1e-5), style, color=f"C{i}", label=label)
    panel.set_xlabel("efficiency of the class")
    panel.set_ylabel("efficiency of the others")
    panel.set_yscale("log")
    panel.set_xlim(0, 1)
    panel.set_ylim(1e-4, 1)
    panel.legend(frameon=False)
    return figure


def plot_sideband(fit: SidebandFit) -> Figure:
    """A spectrum with the background of its side bands and the window, and the pulls below.

    Parameters
    ----------
    fit : SidebandFit
        As given by :func:`~evenet_hep.stats.sideband.fit_sideband`.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    fit.plot(upper)
    upper.set_xlabel("")
    upper.legend(frameon=False)
    spectrum = fit.spectrum
    outside = (spectrum.centers < fit.window[0]) | (spectrum.centers > fit.window[1])
    unit = spectrum.widths[outside].mean()
    expected = fit.density(spectrum.centers) * spectrum.widths / unit
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = (spectrum.sumw - expected) / np.sqrt(spectrum.sumw2)
    lower.axhspan(-1, 1, color="0.9")
    lower.axvspan(*fit.window, alpha=0.15)
    lower.plot(spectrum.centers, pulls, ".", color="black")
    lower.axhline(0, color="C0", linewidth=1)
    lower.set_ylabel("pull")
    lower.set_xlabel("mass [GeV]")
    lower.set_xlim(spectrum.edges[0], spectrum.edges[-1])
    return figure


def plot_scan(scan: SidebandScan) -> Figure:
    """Local significance of every window, with the global one of the best, above the fit of the best.

    Parameters
    ----------
    scan : SidebandScan
        As given by :func:`~evenet_hep.stats.sideband_scan.scan_sidebands`.
    """
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    scan.best.plot(upper)
    upper.set_xlabel("")
    upper.legend(frameon=False)
    lower.plot(scan.windows.mean(axis=1), scan.significance, drawstyle="steps-mid", color="black")
    if len(scan.toy_maxima):
        level = np.quantile(scan.toy_maxima, 0.95)
        lower.axhline(level, linestyle="--", color="C3", label="5 % of background toys exceed this")
        lower.legend(frameon=False, fontsize=9)
    lower.set_ylim(0)
    lower.set_xlabel("centre of the window [GeV]")
    lower.set_ylabel("local significance")
    return figure


def plot_entanglement(found: Entanglement) -> Figure:
    """The correlation matrix, and every marker with its interval and its threshold.

    Parameters
    ----------
    found : Entanglement
        As given by :func:`~evenet_hep.stats.entanglement.entanglement`.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    matrix, sigma = found.coefficients.correlation, found.coefficients.sigma_correlation
    left.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    for i, j in np.ndindex(3, 3):
        color = "white" if abs(matrix[i, j]) > 0.6 else "black"
        text = f"{matrix[i, j]:.2f}\n\u00b1{sigma[i, j]:.2f}"
        left.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
    left.set_xticks(range(3), ["k", "r", "n"])
    left.set_yticks(range(3), ["k", "r", "n"])
    left.set_xlabel("antitop")
    left.set_ylabel("top")
    left.set_title(f"C ({found.convention})", fontsize=10)
    # Threshold of each marker and the side on which the state is entangled, or violates the Bell inequality.
    markers = (
        ("tr C / 3", found.d_std, -1 / 3, "\u2190"),
        ("D of the paper", found.d_paper, 1.0, "\u2192"),
        ("concurrence", found.concurrence, 0.0, "\u2192"),
        ("lowest PPT eigenvalue", found.ppt, 0.0, "\u2190"),
        ("CHSH", found.chsh, 2.0, "\u2192"),
    )
    for row, (_, quantity, threshold, side) in enumerate(markers):
        right.errorbar(quantity.value, row, xerr=quantity.uncertainty, fmt="o", color="black", capsize=3)
        right.plot([threshold, threshold], [row - 0.35, row + 0.35], color="C3")
        right.annotate(side, (threshold, row - 0.42), color="C3", ha="center", va="bottom", fontsize=9)
    right.set_yticks(range(len(markers)), [name for name, *_ in markers])
    right.set_ylim(len(markers) - 0.4, -0.7)
    right.set_xlabel("value (red: threshold, and the side of entanglement or Bell violation)", fontsize=8)
    return figure


def plot_limit(limit: Limit) -> Figure:
    """Observed and expected upper limits with the bands of 68 and 95 % of experiments.

    Parameters
    ----------
    limit : Limit
        As given by :func:`~evenet_hep.stats.limits.find_limit`.
    """
    figure = Figure(figsize=(6.0, 1.9), layout="constrained")
    panel = figure.subplots()
    low2, low1, median, high1, high2 = limit.expected
    panel.barh(0, high2 - low2, left=low2, height=0.7, color="#ffdf7f", label="expected, 95 %")
    panel.barh(0, high1 - low1, left=low1, height=0.7, color="#85d1fb", label="expected, 68 %")
    panel.plot([median, median], [-0.35, 0.35], "--", color="black", label="expected, median")
    panel.plot([limit.observed, limit.observed], [-0.35, 0.35], color="black", label="observed")
    panel.set_yticks([])
    panel.set_ylim(-0.5, 1.3)
    panel.set_xlim(0)
    panel.set_xlabel(f"upper limit on the signal strength at {100 * limit.level:g} %")
    panel.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", columnspacing=1.0)
    return figure


def plot_linear_fit(fit: LinearFit, *, xlabel: str = "cosine") -> Figure:
    """A distribution of decay angles with its fitted line.

    Parameters
    ----------
    fit : LinearFit
        As in the results of :mod:`evenet_hep.stats.spin_fits`.
    xlabel : str
        Name of the angle.
    """
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    panel = figure.subplots()
    contents = fit.contents
    errors = np.sqrt(contents.variances)
    mplhep.histplot(
        contents.values,
        contents.edges,
        yerr=errors,
        ax=panel,
        histtype="errorbar",
        color="black",
        label="data",
    )
    label = f"fit: {fit.value:.3f} \u00b1 {fit.uncertainty:.3f}, \u03c7\u00b2 / ndf = {fit.chi2:.1f} / {fit.n_dof}"
    panel.stairs(fit.expected, contents.edges, color="C0", label=label)
    panel.set_ylim(0)
    panel.set_xlabel(xlabel)
    panel.set_ylabel("events")
    panel.legend(frameon=False)
    return figure


def plot_unfolded(found: Unfolded, *, truth: np.ndarray | None = None, xlabel: str = "true value") -> Figure:
    """An unfolded spectrum, the correlations of its bins, and the measured spectrum with what the result folds to.

    Parameters
    ----------
    found : Unfolded
        As given by :mod:`evenet_hep.stats.unfold`.
    truth : array, shape (n_truth,), optional
        A true spectrum to compare with.
    xlabel : str
        Name of the quantity.
    """
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    sigma = np.sqrt(np.diagonal(found.covariance))
    kind = {"histtype": "errorbar", "color": "black"}
    mplhep.histplot(
        found.values, found.edges, yerr=sigma, ax=left, label=f"unfolded ({found.method})", **kind
    )
    if truth is not None:
        left.stairs(truth, found.edges, color="C3", label="truth")
    left.set_xlabel(xlabel)
    left.set_ylabel("events, corrected for efficiency")
    left.legend(frameon=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = found.covariance / np.outer(sigma, sigma)
    image = middle.pcolormesh(found.edges, found.edges, correlation, cmap="RdBu", vmin=-1, vmax=1)
    figure.colorbar(image, ax=middle, label="correlation")
    middle.set_xlabel(xlabel)
    middle.set_ylabel(xlabel)
    measured = found.measured
    errors = np.sqrt(measured.variances)
    mplhep.histplot(measured.values, measured.edges, yerr=errors, ax=right, label="measured", **kind)
    right.stairs(found.refolded, measured.edges, color="C0", label="result, folded")
    right.set_xlabel("measured value")
    right.set_ylabel("events")
    right.legend(frameon=False)
    return figure
