"""The spin analysis from files to its tables, figures and result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from evenet_hep.analyses.folder import AnalysisFolder, AnalysisReport
from evenet_hep.analyses.stability import Stability, plot_stability
from evenet_hep.analyses.ttbar_spin.closure import (
    Closure,
    boundary_strength,
    closure_rows,
)
from evenet_hep.analyses.ttbar_spin.config import TTbarSpinConfig
from evenet_hep.analyses.ttbar_spin.figures import (
    plot_closure,
    plot_migration,
    plot_resolution,
    plot_sizes,
    plot_spin_matrix,
)
from evenet_hep.analyses.ttbar_spin.jobs import Method, closure_part, measure_part, shift_part
from evenet_hep.analyses.ttbar_spin.measure import (
    DIAGONAL,
    Settings,
    SpinMatrix,
)
from evenet_hep.analyses.ttbar_spin.quality import pairing_accuracy, quality_row
from evenet_hep.analyses.ttbar_spin.result import (
    M_TT_NAMES,
    Measured,
    coefficient_rows,
    marker_rows,
    reference_of,
)
from evenet_hep.analyses.ttbar_spin.shifts import KINDS, Experiments, may_pass
from evenet_hep.analyses.ttbar_spin.workplace import CLASSICAL, HYBRID, NETWORK, Workplace, slug
from evenet_hep.processors.ttbar_spin import ReconstructedTops, reconstruct_tops

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def analyse_ttbar_spin(
    events: str | Path, out: str | Path, config: TTbarSpinConfig | None = None, *, progress: bool = False
) -> AnalysisReport:
    """Spin correlations and entanglement of top pairs, from files to D with its uncertainties.

    Trains a network (and fine-tunes a trained one, if there is a checkpoint), reconstructs the same events with it and with
    the classical method, measures the spin matrix in bins of m(ttbar) by unfolding, projects the result to the luminosity of
    the configuration, and tests all of it: closure with independent events and with any strength of the correlations,
    training size, energy scale and soft missing momentum. A second call goes on where the first one was cut off.

    Parameters
    ----------
    events : path
        Folder of ``evenet-hep simulate``, or a YAML file that lists samples; see :mod:`evenet_hep.analyses.samples`.
    out : path
        Folder for tables, figures and the configuration.
    config : TTbarSpinConfig, optional
        Settings.
    progress : bool
        Draw progress bars.

    Returns
    -------
    AnalysisReport

    Raises
    ------
    FileError, ConfigError, InputError
        For files that cannot be read, settings that contradict each other or the folder, and events that do not fit.
    """
    config = config or TTbarSpinConfig()
    folder = AnalysisFolder(out, config)
    with Progress(disable=not progress) as bars:
        place = Workplace(config, folder, bars, events)
        place.train_all([*((start, 1.0, 0) for start in place.starts), *size_plan(place)])
        reconstruct(place)
        measure_spin_matrix(place)
        check_closure(place)
        shift(place)
        study_sizes(place)
        return report(place)


def reconstruct(place: Workplace) -> None:
    """The events of response and pseudo-data by every method, and the table of how well."""
    task = place.bars.add_task("reconstructing", total=1 + 2 * len(place.starts))
    objects = place.sample.objects.take(place.rows)

    def keep(name: str, make: Callable[[], ReconstructedTops]) -> None:
        place.tops[name] = place.kept(name, make)
        place.bars.advance(task)

    keep(CLASSICAL, partial(reconstruct_tops, objects))
    for start in place.starts:
        for way in (NETWORK, HYBRID):
            name = way if start == "from scratch" else f"{start} {way}"
            keep(name, partial(place.method(name), objects))
    quality = []
    for name, tops in place.tops.items():
        error, slope = place.calibrated_error(place.whole(name))
        row = quality_row(name, tops, place.sample.truth, place.rows)
        quality.append(row | {"cos_phi_slope": slope, "d_error_calibrated": error})
    place.folder.table("reconstruction", quality)
    place.numbers["pairing"] = {row["reconstruction"]: row["pairing"] for row in quality}


def measure_spin_matrix(place: Workplace) -> None:
    """Spin matrix and markers of entanglement, by every reconstruction and in the published way."""
    coefficients, markers = [], []
    own = place.config.unfolding
    for name, found in zip(
        place.tops, _measured(place, [(name, own, {}) for name in place.tops]), strict=True
    ):
        place.results[name] = found
        coefficients += coefficient_rows(name, found.own, found.projected, place.truth)
        markers += marker_rows(name, _label(own), found, place.truth)
    other = _other(own)
    flat = 1.0 - place.config.response_strength
    variants: dict[str, tuple[str, Settings, dict[str, Any]]] = {
        _label(other): (CLASSICAL, other, {}),
        f"{_label(own)}, response of strength {flat:g}": (CLASSICAL, own, {"strength": flat}),
        f"{_label(other)}, response and pseudo-data the same (published)": (CLASSICAL, other, {"same": True}),
    }
    for label, found in zip(
        variants, _measured(place, list(variants.values()), observables=DIAGONAL, replicas=20), strict=True
    ):
        markers += marker_rows(CLASSICAL, label, found, place.truth)
    place.folder.table("coefficients", coefficients)
    place.folder.table("markers", markers)


def _measured(
    place: Workplace, plan: Sequence[tuple[str, Settings, dict[str, Any]]], **common: Any
) -> list[Measured]:
    """Spin matrices by (reconstruction, unfolding, other options); ``common`` are options of all."""
    jobs = {}
    for name, settings, options in plan:
        chosen = {"strength": place.config.response_strength, "same": False, **options}
        key = f"measure-{slug(name)}-{settings.method}-{chosen['strength']:g}-{chosen['same']}"
        rows = (place.rows, place.rows) if chosen["same"] else (place.response, place.data)
        jobs[key] = (
            place.sample,
            place.whole(name),
            *rows,
            settings,
            {
                "expected": place.expected,
                "response_strength": chosen["strength"],
                "replicas": place.config.replicas,
                "seed": place.config.seed,
            }
            | common,
        )
    return [
        Measured(
            *(
                SpinMatrix(*(np.array(kept[which][field], np.float64) for field in SpinMatrix._fields))
                for which in Measured._fields
            )
        )
        for kept in place.run(jobs, measure_part, "unfolding").values()
    ]


def check_closure(place: Workplace) -> None:
    """Linearity, pulls, coverage and false claims for the classical reconstruction and the best network."""
    true = {s: -place.true_trace(s) for s in place.config.strengths}
    edge = boundary_strength(float(-place.true_trace(0.0)[0]), float(-place.true_trace(1.0)[0]))
    if edge is not None:
        true[edge] = -place.true_trace(edge)
    strengths = np.array(sorted(true))
    stacked = np.stack([true[s] for s in strengths])
    plans: list[tuple[str, Settings | None, int]] = [
        (name, settings, place.config.splits)
        for name in (CLASSICAL, place.best_network)
        for settings in (place.config.unfolding, None)
    ]
    plans.append((CLASSICAL, _other(place.config.unfolding), max(place.config.splits // 5, 2)))
    jobs = {
        f"closure-{slug(name)}-{settings.method if settings else 'calibration'}": (
            place.sample,
            place.whole(name),
            place.rows,
            settings,
            stacked,
            {
                "strengths": strengths,
                "response_strength": place.config.response_strength,
                "expected": place.expected,
                "splits": splits,
                "replicas": min(place.config.replicas, 10 if settings and settings.method == "svd" else 30),
                "seed": place.config.seed,
            },
        )
        for name, settings, splits in plans
    }
    rows = []
    for (name, settings, _), kept in zip(
        plans, place.run(jobs, closure_part, "closure").values(), strict=True
    ):
        found = Closure(**{key: np.asarray(value, np.float64) for key, value in kept.items()})
        place.closures[f"{name}, {_label(settings)}"] = found
        rows += closure_rows(name, _label(settings), found)
    place.folder.table("closure", rows)
    place.numbers["slopes"] = {label: found.slope() for label, found in place.closures.items()}


def size_plan(place: Workplace) -> list[tuple[str, float, int]]:
    """Trainings of the study of the training size: start, part of the events, seed."""
    return [
        (start, part, seed)
        for part in place.config.sizes
        for start in place.starts
        for seed in range(place.config.seeds if part < 1 else 1)
    ]


def study_sizes(place: Workplace) -> None:
    """Pairing accuracy and error of D against the number of training events."""
    rows: list[dict[str, Any]] = []
    plan = size_plan(place)
    if not plan:
        return
    task = place.bars.add_task("training size", total=len(plan))
    objects = place.sample.objects.take(place.rows)
    for start, part, seed in plan:
        trained = place.trained(start, part, seed)
        name = f"size {start} {part:g} {seed}"
        method = Method(trained["network"], "network", place.config.sampler_steps)
        tops = place.kept(name, partial(method, objects))

        def compute(name: str = name, tops: ReconstructedTops = tops) -> dict[str, Any]:
            accuracy, accuracy_error, _ = pairing_accuracy(tops, place.sample.truth, place.rows)
            error, slope = place.calibrated_error(place.whole(name, tops))
            found = {"pairing": accuracy, "pairing_error": accuracy_error}
            return found | {"cos_phi_slope": slope, "d_error_calibrated": error}

        numbers = place.folder.step(slug(name), compute)
        rows.append({"start": start, "n_train": trained["n_train"], "seed": seed, **numbers})
        place.bars.advance(task)
    place.folder.table("training_size", rows)
    pairing, _, _ = pairing_accuracy(place.tops[CLASSICAL], place.sample.truth, place.rows)
    baseline = {
        "pairing": pairing,
        "d_error_calibrated": place.calibrated_error(place.whole(CLASSICAL))[0],
    }
    place.folder.figure("training_size", plot_sizes(rows, baseline))


def shift(place: Workplace) -> None:
    """Energy scale and soft missing momentum: pseudo-experiments, their table and their figures."""
    if not place.config.experiments:
        return
    names = {CLASSICAL: KINDS, place.best_network: KINDS[:2]}
    plan = [(name, kind) for name, kinds in names.items() for kind in kinds]
    jobs = {f"shift-{slug(name)}-{slug(kind)}": _shift_job(place, name, kind) for name, kind in plan}
    drawn: dict[str, list[tuple[str, Any]]] = {"d": [], "delta_d": []}
    rows = []
    for (name, kind), kept in zip(
        plan, place.run(jobs, shift_part, "pseudo-experiments").values(), strict=True
    ):
        found = Experiments(*(_stability(kept[key]) for key in Experiments._fields))
        if not np.isfinite(found.d.nominal):
            continue  # too few events to measure anything
        for quantity, panels in drawn.items():
            stability = getattr(found, quantity)
            panels.append((name, stability))
            rows.append({"reconstruction": name, "shift": kind, "quantity": quantity, **stability.to_dict()})
    place.folder.table("stability", rows)
    for quantity, label in (("d", "D"), ("delta_d", r"$\sigma(D)/(D-1)$")):
        place.folder.figure(f"stability_{quantity}", plot_stability(drawn[quantity], quantity=label))


def _shift_job(place: Workplace, name: str, kind: str) -> tuple[Any, ...]:
    objects = place.sample.objects.take(place.data)
    ready = np.flatnonzero(may_pass(objects))
    chosen = ready[: place.config.experiment_events]
    weights = place.sample.weights(1.0)[place.data]
    scale = place.expected / weights.sum() * weights[ready].sum() / weights[chosen].sum()
    reference = reference_of(
        place.sample, place.whole(name), place.response, DIAGONAL, place.config.response_strength
    )
    options = {
        "n_experiments": place.config.experiments,
        "expected": scale,
        "seed": place.config.seed,
    }
    inputs = (objects.take(chosen), weights[chosen], place.method(name), reference)
    return *inputs, place.config.unfolding, kind, options


def _stability(content: dict[str, Any]) -> Stability:
    return Stability(
        content["label"],
        np.nan if content["nominal"] is None else content["nominal"],
        np.nan if content["statistical"] is None else content["statistical"],
        _with_nan(content["shifts"]),
        _with_nan(content["results"]),
    )


def report(place: Workplace) -> AnalysisReport:
    """Figures of the result, and the summary."""
    shown = [CLASSICAL, place.best_network]
    place.folder.figure("migration", plot_migration({name: place.migration(name) for name in shown}))
    place.folder.figure("resolution", plot_resolution({name: place.residuals(name) for name in place.tops}))
    measured = {name: place.results[name] for name in shown}
    place.folder.figure("spin_matrix", plot_spin_matrix(measured, place.truth, place.config.luminosity))
    place.folder.figure("closure", plot_closure(place.closures))
    head = f"D = |Ckk + Crr| - Cnn below 400 GeV, true value {place.truth.markers(0).d_paper.value:.2f} "
    lines = [head + f"(errors: data of {place.config.luminosity:g}/fb, simulated events):"]
    place.numbers["d_below_400"] = {}
    for name, found in place.results.items():
        if not (found.own.is_known(0) and found.projected.is_known(0)):
            lines.append(f"  {name}: too few events")
            continue
        data, simulation = (found.projected.markers(0, errors=part) for part in ("data", "response"))
        d = data.d_paper
        place.numbers["d_below_400"][name] = {
            "d": d.value,
            "error_projected": d.uncertainty,
            "error_simulation": simulation.d_paper.uncertainty,
            "delta_d": data.delta_d,
            "delta_d_published": data.delta_d_published,
        }
        lines.append(
            f"  {name}: {d.value:.2f} +- {d.uncertainty:.3f} (data) +- {simulation.d_paper.uncertainty:.2f} (simulation), "
            f"sigma(D)/(D-1) = {100 * data.delta_d:.1f} %"
        )
    place.numbers |= {
        "true_d_below_400": place.truth.markers(0).d_paper.value,
        "n_response": int(place.tops[CLASSICAL].passed[np.isin(place.rows, place.response)].sum()),
        "n_pseudo_data": int(place.tops[CLASSICAL].passed[np.isin(place.rows, place.data)].sum()),
        "best_network": place.best_network,
        "bins": list(M_TT_NAMES),
    }
    seconds = place.folder.step("seconds", lambda: {"wall": time.monotonic() - place.started})["wall"]
    lines.append(f"pairing: {', '.join(f'{k} {100 * v:.1f} %' for k, v in place.numbers['pairing'].items())}")
    return place.folder.report("\n".join(lines), {**place.numbers, "seconds": seconds})


def _other(settings: Settings) -> Settings:
    return settings._replace(method="svd" if settings.method == "bayes" else "bayes")


def _label(settings: Settings | None) -> str:
    if settings is None:
        return "calibration curve"
    return (
        f"Bayes, {settings.iterations} iterations" if settings.method == "bayes" else f"SVD, k = {settings.k}"
    )


def _with_nan(values: list[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
