"""The analysis of H -> aa -> 4b from files to tables, figures and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from evenet_hep.analyses.folder import AnalysisFolder, AnalysisReport
from evenet_hep.analyses.higgs_to_4b.config import HiggsTo4bConfig
from evenet_hep.analyses.higgs_to_4b.figures import (
    BAND_NAMES,
    plot_closure,
    plot_learning,
    plot_limits,
    plot_masses,
)
from evenet_hep.analyses.higgs_to_4b.jobs import (
    BASELINES,
    CLASSICAL,
    Job,
    Workplace,
    do,
    do_all,
    main_method,
    methods_of,
    network_folder,
    plain_kept,
)
from evenet_hep.analyses.higgs_to_4b.limits import Injection, linearity
from evenet_hep.analyses.higgs_to_4b.networks import Network
from evenet_hep.analyses.samples import EventSample, choose, read_samples, run_processor
from evenet_hep.analyses.stability import Stability, plot_stability
from evenet_hep.errors import ConfigError
from evenet_hep.processors.higgs_to_4b import HiggsTo4b

Row = dict[str, Any]
TOP_METHODS = ("SPANet", "scratch", "pretrained")


def analyse_higgs_to_4b(
    config: HiggsTo4bConfig, out: str | Path, *, progress: bool = False
) -> AnalysisReport:
    """Search for H -> aa -> 4b in simulated events.

    Events are selected, networks and baselines are trained on the same events with more and more of them, and on events
    that none of them has seen it is measured how far a cut on the score improves the significance, how often both pairs
    of jets are right, which branching fraction could be excluded, whether an injected signal is found, and how all that
    moves with the jet energy scale. A second call with the same folder goes on where the first was stopped.

    Parameters
    ----------
    config : HiggsTo4bConfig
        What to do.
    out : path
        Folder for tables, figures and all steps.
    progress : bool
        Draw progress bars.

    Returns
    -------
    AnalysisReport

    Raises
    ------
    ConfigError
        Without events, signal or background, or if the folder holds results of other settings.
    FileError
        For samples that cannot be read.
    InputError
        For fewer events than a training was to have.
    """
    samples, n_signals = _samples(config)
    if config.spanet_file:
        _check_top_pairs(config.spanet_file)
    folder = AnalysisFolder(out, config)
    selected = folder.step("selection", lambda: _select(folder, samples, config, progress))
    place = Workplace(
        (folder.home("events")).absolute(),
        (folder.home("networks")).absolute(),
        plain_kept(selected["kept"]),
        n_signals,
        config,
    )
    folder.table("cutflow", _cutflow(selected))
    learning = _jobs(folder, place, _learning_jobs(config), "trainings", progress)
    classical = _jobs(folder, place, [Job("learn", method) for method in CLASSICAL], "pairing", progress)
    folder.table("trainings", [_without_size(row) for row in classical] + learning)
    folder.table("learning", [_without_size(row) for row in classical] + mean_rows(learning))
    folder.figure("learning", plot_learning(learning, classical))
    numbers = _headline(config, learning, classical)
    numbers |= _limits(folder, place, samples, progress)
    numbers |= _closure(folder, place, progress)
    numbers |= _shifts(folder, place, progress)
    if config.spanet_file:
        numbers |= _tops(folder, place, progress)
    _masses(folder, place, samples)
    return folder.report(_summary(config, numbers), numbers)


def _samples(config: HiggsTo4bConfig) -> tuple[dict[str, EventSample], int]:
    if not config.events:
        msg = "events must name a folder of evenet-hep simulate or a YAML file with samples; found nothing"
        raise ConfigError(msg)
    known = read_samples(config.events)
    signals = config.signals or [name for name, each in known.items() if each.details.get("class") == "haa4b"]
    others = config.backgrounds or [
        name for name, each in known.items() if each.details.get("class") != "haa4b" and not each.is_data
    ]
    for what, names in (("signal", signals), ("background", others)):
        if not names:
            msg = f"there is no {what} among the samples {', '.join(known)}; name it with --set {what}s"
            raise ConfigError(msg)
    return choose(known, [*signals, *others]), len(signals)


def _select(
    folder: AnalysisFolder, samples: Mapping[str, EventSample], config: HiggsTo4bConfig, progress: bool
) -> Row:
    """Run the processor over all files: cut flow, and the events that are kept."""
    scales = {name: each.event_weight(config.luminosity) for name, each in samples.items()}
    instance = HiggsTo4b(scales=scales, btag=config.btag, out=folder.home("events"))
    found = run_processor(samples, instance, cores=config.cores, progress=progress)
    return {
        key: {name: sorted(found[name][key]) if key == "kept" else found[name][key] for name in samples}
        for key in ("cutflow", "cutflow_weighted", "kept")
    }


def _cutflow(selected: Row) -> list[Row]:
    return [
        {
            "sample": sample,
            "cut": cut,
            "simulated": number,
            "expected": selected["cutflow_weighted"][sample][cut],
        }
        for sample, cuts in selected["cutflow"].items()
        for cut, number in cuts.items()
    ]


def _learning_jobs(config: HiggsTo4bConfig) -> list[Job]:
    # The longest trainings first: no process is left alone with one at the end.
    sizes = sorted(config.sizes, key=lambda size: (size != 0, -size))
    methods = sorted(methods_of(config), key=lambda method: (method in BASELINES, "classification" in method))
    return [Job("learn", method, size, seed) for size in sizes for method in methods for seed in config.seeds]


def _jobs(
    folder: AnalysisFolder, place: Workplace, jobs: Sequence[Job], title: str, progress: bool
) -> list[Row]:
    """Numbers of all jobs in their order; those that are done already are not done again."""
    missing = [job for job in jobs if not (folder.out / "steps" / f"{job.name}.json").exists()]
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task(title, total=len(jobs), completed=len(jobs) - len(missing))
        for job, numbers in do_all(place, missing, cores=place.config.cores):
            folder.step(job.name, lambda numbers=numbers: numbers)  # type: ignore[misc]
            bar.advance(task)
    return [folder.step(job.name, lambda job=job: do(place, job)) for job in jobs]  # type: ignore[misc]


def _without_size(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("size", "seed")}


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """One row for each method and size: means over seeds, their standard errors, and the mean error of the test sample.

    Examples
    --------
    >>> rows = [{"method": "XGBoost", "size": 9, "seed": s, "sic": 1.0 + s, "sic_uncertainty": 0.2} for s in (0, 1)]
    >>> mean_rows(rows)
    [{'method': 'XGBoost', 'size': 9, 'seeds': 2, 'sic': 1.5, 'sic_seed_error': 0.5, 'sic_uncertainty': 0.2}]
    """
    found = []
    for method, size in dict.fromkeys((row["method"], row["size"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["size"]) == (method, size)]
        mean: Row = {"method": method, "size": size, "seeds": len(mine)}
        for key in (key for key in mine[0] if key not in ("method", "size", "seed")):
            values = np.array([row[key] for row in mine], np.float64)
            mean[key] = float(values.mean())
            if not key.endswith("_uncertainty"):
                mean[f"{key}_seed_error"] = (
                    float(values.std(ddof=1) / np.sqrt(len(values))) if len(mine) > 1 else None
                )
        found.append(mean)
    return sorted(found, key=lambda row: (row["method"], row["size"]))


def _headline(config: HiggsTo4bConfig, rows: Sequence[Row], classical: Sequence[Row]) -> Row:
    """Result of every method with all events of training."""
    largest = max(row["size"] for row in rows)
    numbers: Row = {"main_method": main_method(config), "training_events": largest}
    for row in mean_rows([each for each in rows if each["size"] == largest]) + [
        dict(each) for each in classical
    ]:
        kept = ("sic", "pairing_event_complete", "auc")
        numbers[row["method"]] = {
            key: row[key]
            for name in kept
            for key in (name, f"{name}_seed_error", f"{name}_uncertainty")
            if row.get(key) is not None
        }
    return numbers


def _limits(
    folder: AnalysisFolder, place: Workplace, samples: Mapping[str, EventSample], progress: bool
) -> Row:
    methods = [main_method(place.config), "XGBoost"]
    jobs = [Job("limit", method, 0, place.config.seeds[0]) for method in methods]
    rows: list[Row] = []
    for method, found in zip(methods, _jobs(folder, place, jobs, "limits", progress), strict=True):
        for limit in found["limits"]:
            details = samples[limit["sample"]].details.get("parameters", {})
            rows.append(
                {"method": method, "sample": limit["sample"], "mass": details.get("m_a")}
                | dict(zip(BAND_NAMES, limit["expected"], strict=True))
                | {"median_with_simulation": limit["with_simulation"], "bins": limit["n_bins"]}
            )
    folder.table("limits", rows)
    if all(row["mass"] is not None for row in rows):
        folder.figure("limits", plot_limits(rows))
    return {"limits": rows}


def _closure(folder: AnalysisFolder, place: Workplace, progress: bool) -> Row:
    config = place.config
    strengths = (0.0, *config.injected)
    jobs = [Job("inject", main_method(config), 0, config.seeds[0], strength) for strength in strengths]
    found = _jobs(folder, place, jobs, "closure", progress)
    injections = [
        Injection(each["injected"], *(np.array(each[key]) for key in Injection._fields[1:])) for each in found
    ]
    line = linearity(injections)
    rows = [each.to_dict() for each in injections]
    folder.table("closure", rows)
    folder.figure("closure", plot_closure(found, line))
    return {
        "closure": rows,
        "linearity": line,
        "false_positive_rate_at_5_percent": rows[0]["found"],
        "false_positive_rate_error": rows[0]["found_error"],
    }


def _shifts(folder: AnalysisFolder, place: Workplace, progress: bool) -> Row:
    config = place.config
    methods = [f"{start}, assignment" for start in config.starts] + [*BASELINES, CLASSICAL[0]]
    jobs = [Job("shift", method, 0, config.seeds[0]) for method in methods]
    found = _jobs(folder, place, jobs, "energy scale", progress)
    rows: list[Row] = []
    for quantity, label in (("sic", "significance improvement"), ("pairing", "pairing efficiency")):
        stable = [
            (
                method,
                Stability(
                    **(
                        each[quantity]
                        | {k: np.array(each[quantity][k], float) for k in ("shifts", "results")}
                    )
                ),
            )
            for method, each in zip(methods, found, strict=True)
            if quantity in each
        ]
        rows += [{"quantity": label, "method": method} | each.to_dict() for method, each in stable]
        folder.figure(f"energy_scale_{quantity}", plot_stability(stable, quantity=label))
    folder.table("energy_scale", rows)
    return {"energy_scale": rows}


def _tops(folder: AnalysisFolder, place: Workplace, progress: bool) -> Row:
    config = place.config
    methods = [method for method in TOP_METHODS if method == "SPANet" or method in config.starts]
    jobs = [Job("tops", method, 0, seed) for method in methods for seed in config.seeds[:2]]
    rows = [row | {"size": 0} for row in _jobs(folder, place, jobs, "top pairs of SPANet's file", progress)]
    means = [{k: v for k, v in row.items() if k != "size"} for row in mean_rows(rows)]
    folder.table("spanet_file", means)
    return {"spanet_file": means}


def _check_top_pairs(path: str) -> None:
    """Say at once what would be wrong with SPANet's file after half an hour."""
    from evenet_hep.analyses.higgs_to_4b.spanet_file import read_top_pairs  # noqa: PLC0415  h5py

    read_top_pairs(path)


def _masses(folder: AnalysisFolder, place: Workplace, samples: Mapping[str, EventSample]) -> None:
    """Run the processor again with the main network, on test events alone."""
    config = place.config
    network = Network(network_folder(place, main_method(config), 0, config.seeds[0]), "assignment")
    instance = HiggsTo4b(
        network.predictor(),
        scales={name: each.event_weight(config.luminosity) for name, each in samples.items()},
        btag=config.btag,
        part="test",
        fractions=config.fractions,
    )
    folder.figure("masses", plot_masses(run_processor(samples, instance)))


def _summary(config: HiggsTo4bConfig, numbers: Row) -> str:
    main = main_method(config)
    own, trees, spanet = (numbers[name] for name in (main, "XGBoost", "SPANet"))
    pairs = f"{_pm(own, 'pairing_event_complete')} ({main}), {_pm(spanet, 'pairing_event_complete')} (SPANet)"
    limits = [
        f"Expected 95 % limit on the branching fraction, {row['sample']}: {row['median']:.3g}; with the uncertainty "
        f"from the number of simulated events: {_limit_text(row['median_with_simulation'])}."
        for row in numbers["limits"]
        if row["method"] == main
    ]
    line = numbers["linearity"]
    closure = (
        f"Injected signal: slope {line['slope']:.3f} +- {line['slope_error']:.3f}, intercept "
        f"{line['intercept']:.3f} +- {line['intercept_error']:.3f}; without signal "
        f"{numbers['false_positive_rate_at_5_percent']:.3f} +- {numbers['false_positive_rate_error']:.3f} "
        "of the pseudo-experiments exceed a p-value of 0.05."
    )
    lines = [
        f"H -> aa -> 4b, {numbers['training_events']} training events, {len(config.seeds)} trainings each.",
        f"Significance improvement: {_pm(own, 'sic')} ({main}), {_pm(trees, 'sic')} (XGBoost).",
        f"Both pairs right: {pairs}, {numbers[CLASSICAL[0]]['pairing_event_complete']:.3f} ({CLASSICAL[0]}).",
        *limits,
        closure,
    ]
    return "\n".join(lines)


def _limit_text(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.3g}"


def _pm(row: Mapping[str, Any], key: str) -> str:
    seeds = row.get(f"{key}_seed_error")
    spread = f" +- {seeds:.3f} (trainings)" if seeds is not None else ""
    return f"{row[key]:.3f}{spread} +- {row[f'{key}_uncertainty']:.3f} (test sample)"
