"""The analysis from events to tables and figures, step by step; every finished step is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from evenet_hep.analyses.bbww_resonance import figures
from evenet_hep.analyses.bbww_resonance.classifiers import train_and_score
from evenet_hep.analyses.bbww_resonance.closure import close_halves, toy_job
from evenet_hep.analyses.bbww_resonance.comparison import (
    Comparison,
    Row,
    compare,
    find_winners,
    judge,
    ratio_grid,
    read_scores,
)
from evenet_hep.analyses.bbww_resonance.config import BbwwConfig
from evenet_hep.analyses.bbww_resonance.events import (
    BbwwEvents,
    MassPoint,
    assemble,
    find_points,
    loose_table,
    run_selection,
    sample_weight,
)
from evenet_hep.analyses.bbww_resonance.limits import Template, expected_limit
from evenet_hep.analyses.bbww_resonance.summary import summarize
from evenet_hep.analyses.bbww_resonance.systematics import (
    FIGURES,
    draw_shifts,
    run_experiments,
    stabilities,
)
from evenet_hep.analyses.folder import AnalysisFolder, AnalysisReport
from evenet_hep.analyses.samples import EventSample, read_samples
from evenet_hep.analyses.stability import Stability, plot_stability
from evenet_hep.analyses.steps import run_steps
from evenet_hep.baselines.tabpfn import fit_tabpfn
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.evaluation.figures import plot_grid
from evenet_hep.processors.bbww_resonance import CUTS

Numbers = dict[str, Any]
BATCH = (
    10  # pseudo-experiments per step: often enough for the progress, and rarely enough to load classifiers
)


def analyse_bbww(
    events: str | Path, out: str | Path, config: BbwwConfig | None = None, *, progress: bool = False
) -> AnalysisReport:
    """Run the search for X -> YH -> bb WW on a grid of masses.

    Parameters
    ----------
    events : path
        Folder of ``evenet-hep simulate``, or a YAML file that lists samples
        (:func:`~evenet_hep.analyses.samples.read_samples`). Signals have the parameters ``m_x`` and ``m_y``.
    out : path
        Folder for tables, figures and everything in between. A run that was cut off goes on there.
    config : BbwwConfig, optional
    progress : bool
        Draw progress bars.

    Returns
    -------
    AnalysisReport
        Tables ``cutflow``, ``significance``, ``winners``, ``limits``, ``closure``, ``false_positives``, ``halves``,
        ``systematics`` and ``unavailable``; and the figures.

    Raises
    ------
    ConfigError
        For samples that are not there or lack what a weight needs, or a folder with results of other settings.
    InputError
        For files without the fields of the selection, events that are there twice, or too few of them.
    """
    settings = config or BbwwConfig()
    samples = read_samples(events)
    folder = AnalysisFolder(out, settings)
    flow = folder.step("selection", lambda: _select(samples, settings, folder, progress))
    selected = BbwwEvents.load(folder.home("events") / "selected.npz")
    folder.table("cutflow", _cutflow_rows(flow, samples, settings))
    methods, unavailable = _available(folder, settings, selected)
    folder.table("unavailable", unavailable)
    places = _train(folder, settings, selected, methods, progress)
    comparison = compare(selected, places, settings)
    winners = _compare(folder, comparison, flow, samples, settings, selected)
    limits = _limits(folder, settings, comparison, progress)
    toys, false_positives, halves = _closure(folder, settings, selected, comparison, progress)
    moved = _systematics(folder, settings, selected, places, progress)
    text, numbers = summarize(
        comparison.rows, winners, limits, toys, false_positives, halves, moved, unavailable
    )
    return folder.report(text, numbers)


def _select(
    samples: Mapping[str, EventSample], config: BbwwConfig, folder: AnalysisFolder, progress: bool
) -> Numbers:
    output = run_selection(samples, config, progress=progress)
    events = assemble(output, samples, config)
    home = folder.home("events")
    events.save(home / "selected.npz")
    if output[events.names[0]].get("loose"):
        ak.to_parquet(loose_table(output, events, samples, config), home / "loose.parquet")
    return {
        name: {
            "events": output[name]["n_events"],
            "cutflow": output[name]["cutflow"].values(),
            "cutflow_variance": output[name]["cutflow"].variances(),
            "topness": output[name]["topness"].values(flow=True),
        }
        for name in events.names
    }


def _cutflow_rows(
    flow: Mapping[str, Numbers], samples: Mapping[str, EventSample], config: BbwwConfig
) -> list[Row]:
    rows = []
    for name, found in flow.items():
        factor = sample_weight(samples[name], config, is_signal=name not in config.backgrounds)
        sums = dict(zip(CUTS, found["cutflow"], strict=True))
        error = factor * float(np.sqrt(found["cutflow_variance"][-1]))
        rows.append(
            {
                "sample": name,
                "events": found["events"],
                **sums,
                "yield": factor * sums[CUTS[-1]],
                "yield_error": error,
            }
            | {"weight": factor}
        )
    return rows


def _available(folder: AnalysisFolder, config: BbwwConfig, events: BbwwEvents) -> tuple[list[str], list[Row]]:
    """Methods that can be run here, and why the others cannot."""
    reasons = {}
    if "finetuned" in config.methods and not config.checkpoint:
        reasons["finetuned"] = "no checkpoint was given"
    if "xgboost" in config.methods and find_spec("xgboost") is None:
        reasons["xgboost"] = "xgboost is not installed; install evenet-hep[baselines]"
    if "tabpfn" in config.methods:
        tried = folder.step("tabpfn", lambda: _try_tabpfn(config, events))
        if tried["reason"]:
            reasons["tabpfn"] = tried["reason"]
    methods = [name for name in config.methods if name not in reasons]
    if not methods:
        msg = f"none of the methods can be run: {'; '.join(f'{k}: {v}' for k, v in reasons.items())}"
        raise ConfigError(msg)
    return methods, [{"method": name, "reason": reason} for name, reason in reasons.items()]


def _try_tabpfn(config: BbwwConfig, events: BbwwEvents) -> Numbers:
    # A few rows of each class show whether there is an estimator with weights.
    few = np.concatenate([np.flatnonzero(events.is_signal == kind)[:20] for kind in (False, True)])
    try:
        fit_tabpfn(events.features[few], events.is_signal[few].astype(int), config=config.tabpfn)
    except InputError as error:
        return {"reason": str(error)}
    return {"reason": ""}


def _train(
    folder: AnalysisFolder,
    config: BbwwConfig,
    events: BbwwEvents,
    methods: Sequence[str],
    progress: bool,
) -> dict[tuple[str, str], list[Path]]:
    """Folders of all trainings, by method and point."""
    path = str(folder.home("events") / "selected.npz")
    jobs: dict[str, tuple[Any, ...]] = {}
    places: dict[tuple[str, str], list[Path]] = {}
    for method in methods:
        told = method == "parametrised"
        for point in [None] if told else events.points:
            for seed in config.seeds:
                name = f"train/{method}-{'grid' if point is None else point.name}-seed{seed}"
                home = folder.home(name)
                jobs[name] = (path, str(home), config, method, point, seed)
                for each in events.points if point is None else (point,):
                    places.setdefault((method, each.name), []).append(home)
    # By seed and point, so that a run that is cut off has complete ones; the longest first.
    order = [None, *events.points]
    ordered = dict(sorted(jobs.items(), key=lambda item: (item[1][-1], order.index(item[1][-2]))))
    done = run_steps(
        folder, ordered, train_and_score, cores=config.cores, label="trainings", progress=progress
    )
    folder.table(
        "trainings", [{"training": name.removeprefix("train/"), **row} for name, row in done.items()]
    )
    return places


def _compare(
    folder: AnalysisFolder,
    comparison: Comparison,
    flow: Mapping[str, Numbers],
    samples: Mapping[str, EventSample],
    config: BbwwConfig,
    events: BbwwEvents,
) -> list[Row]:
    folder.table("significance", comparison.rows)
    winners = find_winners(comparison.rows)
    folder.table("winners", winners)
    folder.figure("significance", figures.plot_sic(comparison.rows))
    folder.figure("winners", figures.plot_winners(winners))
    methods = list(dict.fromkeys(row["method"] for row in comparison.rows))
    for method in methods:
        for other in ("xgboost", "scratch"):
            if method != other and other in methods and method != "xgboost":
                grid = ratio_grid(comparison.rows, method, other)
                label = f"SIC of {method} / {other}"
                folder.figure(f"ratio_{method}_{other}", plot_grid(grid, "ratio", label=label))
    shown = _spread_out(events.points)
    folder.figure("roc", figures.plot_roc(comparison, events, shown))
    factors = {name: sample_weight(samples[name], config, is_signal=False) for name in config.backgrounds}
    topness = {name: np.array(flow[name]["topness"]) for name in flow}
    folder.figure("topness", figures.plot_topness(topness, factors, [point.name for point in shown]))
    folder.figure("templates", figures.plot_templates(comparison, [(methods[0], p.name) for p in shown]))
    return winners


def _spread_out(points: Sequence[MassPoint], number: int = 3) -> list[MassPoint]:
    """The first, the last, and some between."""
    where = np.unique(np.linspace(0, len(points) - 1, number).round().astype(int))
    return [points[i] for i in where]


def _limits(folder: AnalysisFolder, config: BbwwConfig, comparison: Comparison, progress: bool) -> list[Row]:
    jobs = {
        f"limit/{method}-{name}": (
            Template.of(result.signal, result.background),
            config.background_uncertainty,
            config.signal_pb,
        )
        for (method, name), result in comparison.results.items()
    }
    found = run_steps(folder, jobs, _limit, cores=config.cores, label="limits", progress=progress)
    rows = [
        {key: row[key] for key in ("point", "m_x", "m_y", "method")}
        | found[f"limit/{row['method']}-{row['point']}"]
        for row in comparison.rows
    ]
    folder.table("limits", rows)
    folder.figure("limits", figures.plot_limits(rows))
    return rows


def _limit(template: Template, background_uncertainty: float, signal_pb: float) -> Numbers:
    return expected_limit(template, background_uncertainty=background_uncertainty, signal_pb=signal_pb)


def _closure(
    folder: AnalysisFolder,
    config: BbwwConfig,
    events: BbwwEvents,
    comparison: Comparison,
    progress: bool,
) -> tuple[list[Row], list[Row], list[Row]]:
    method = next(iter(comparison.results))[0]
    chosen = [p.name for p in events.points if p.name in config.closure.points] or [events.points[0].name]
    jobs = {}
    for name in chosen:
        result = comparison.results[method, name]
        template = Template.of(result.signal, result.background)
        for strength in (*config.closure.strengths, None):
            kind = "background" if strength is None else f"{strength:g}"
            jobs[f"closure/{method}-{name}-{kind}"] = (template, config, strength)
    found = run_steps(folder, jobs, toy_job, cores=config.cores, label="toys", progress=progress)
    toys: list[Row] = []
    rates: list[Row] = []
    for job, numbers in found.items():
        where = {"point": job.split("-")[1], "method": method}
        toys += [where | numbers["pulls"]] if "pulls" in numbers else []
        rates += [where | row for row in numbers.get("false_positives", [])]
    halves = folder.step("halves", lambda: {"rows": close_halves(events, comparison, config)})["rows"]
    folder.table("closure", toys)
    folder.table("false_positives", rates)
    folder.table("halves", halves)
    folder.figure("closure", figures.plot_closure(toys, halves))
    return toys, rates, halves


def _systematics(
    folder: AnalysisFolder,
    config: BbwwConfig,
    events: BbwwEvents,
    places: Mapping[tuple[str, str], Sequence[Path]],
    progress: bool,
) -> list[Row]:
    loose = folder.home("events") / "loose.parquet"
    followed = {
        (method, name): homes[0]
        for (method, name), homes in places.items()
        if name in config.systematics.points and method in config.systematics.methods
    }
    if not followed or not loose.exists():
        folder.table("systematics", [])
        return []
    by_point: dict[str, dict[str, str]] = {}
    for (method, name), home in followed.items():
        by_point.setdefault(name, {})[method] = str(home)
    selected = str(folder.home("events") / "selected.npz")
    parts: dict[str, Numbers] = {}
    for kind in ("energy_scale", "soft_met"):
        shifts = draw_shifts(config, kind)
        jobs = {
            f"systematics/{kind}-{start}": (
                selected,
                str(loose),
                config,
                kind,
                shifts[start : start + BATCH],
                by_point,
            )
            for start in range(0, len(shifts), BATCH)
        }
        found = run_steps(folder, jobs, run_experiments, cores=config.cores, label=kind, progress=progress)
        if found:
            keys = next(iter(found.values()))
            parts[kind] = {
                key: np.concatenate([np.array(f[key], float) for f in found.values()], axis=1).tolist()
                for key in keys
            }
    nominal = {}
    for (method, name), home in followed.items():
        point = next(point for point in events.points if point.name == name)
        best = judge(events, point, read_scores([home], point)[0], config).sic
        nominal[f"{name}/{method}"] = (best.value, best.uncertainty)
    return _tell_stability(folder, stabilities(parts, config, nominal))


def _tell_stability(folder: AnalysisFolder, found: Mapping[tuple[str, str, str], Stability]) -> list[Row]:
    rows = []
    for (kind, key, figure), stability in found.items():
        point, method = key.split("/")
        rows.append(
            {"shift": kind, "point": point, "method": method, "figure": figure, **stability.to_dict()}
        )
    folder.table("systematics", rows)
    for figure in FIGURES:
        shown = [
            (key.replace("/", ", "), stability)
            for (_, key, name), stability in found.items()
            if name == figure
        ]
        quantity = {"nominal_cut": "SIC, nominal cut", "best_cut": "largest SIC"}[figure]
        folder.figure(f"stability_{figure}", plot_stability(shown, quantity=quantity))
    return rows


__all__ = ["analyse_bbww", "find_points"]
