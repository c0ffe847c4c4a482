"""The spin analysis from files to its tables, figures and result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from evenet_hep.analyses.folder import AnalysisFolder, AnalysisReport
from evenet_hep.analyses.samples import choose, read_samples
from evenet_hep.analyses.stability import Stability, plot_stability
from evenet_hep.analyses.ttbar_spin.calibration import calibration_curve, measured_moments
from evenet_hep.analyses.ttbar_spin.closure import (
    Closure,
    ClosureEvents,
    boundary_strength,
    close,
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
from evenet_hep.analyses.ttbar_spin.measure import (
    ALL,
    DIAGONAL,
    Settings,
    SpinMatrix,
    fill_responses,
    m_tt_bins,
    true_matrix,
)
from evenet_hep.analyses.ttbar_spin.network import learnable, train_network
from evenet_hep.analyses.ttbar_spin.quality import pairing_accuracy, quality_row
from evenet_hep.analyses.ttbar_spin.result import (
    M_TT_NAMES,
    Measured,
    Reconstruction,
    coefficient_rows,
    marker_rows,
    measure,
    reference_of,
)
from evenet_hep.analyses.ttbar_spin.sample import (
    PSEUDO_DATA,
    RESPONSE,
    TRAIN,
    VAL,
    SpinSample,
    read_spin_sample,
)
from evenet_hep.analyses.ttbar_spin.shifts import KINDS, Experiments, may_pass, run_experiments
from evenet_hep.events.ttbar_dilepton import DileptonObjects
from evenet_hep.inference import Predictor, Sampling
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.processors.ttbar_spin import Neutrinos, ReconstructedTops, reconstruct_tops

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CLASSICAL, NETWORK, HYBRID = "classical", "network", "network pairing, classical neutrinos"


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
        analysis = _Analysis(config, folder, bars, events)
        analysis.train()
        analysis.reconstruct()
        analysis.measure()
        analysis.test_closure()
        analysis.study_sizes()
        analysis.shift()
        return analysis.report()


class _Analysis:
    """State that the steps share: the sample, what was reconstructed of it, and where things are kept."""

    def __init__(
        self, config: TTbarSpinConfig, folder: AnalysisFolder, bars: Progress, events: str | Path
    ) -> None:
        self.config, self.folder, self.bars = config, folder, bars
        self.started = time.monotonic()
        source = choose(read_samples(events), [config.sample])[config.sample]
        task = bars.add_task("reading events", total=len(source.files))
        self.sample: SpinSample = read_spin_sample(
            source,
            config.fractions,
            max_events=config.max_events,
            btag=config.btag,
            working_point=config.working_point,
            tick=lambda done, total: bars.update(task, completed=done, total=total),
        )
        self.response, self.data = self.sample.rows(RESPONSE), self.sample.rows(PSEUDO_DATA)
        self.rows = np.sort(np.concatenate([self.response, self.data]))
        self.expected = 1000.0 * config.luminosity * config.cross_section
        self.truth = true_matrix(self.sample.truth.angles, self.sample.truth.valid, self.sample.weights(1.0))
        self.tops: dict[str, ReconstructedTops] = {}
        self.results: dict[str, Measured] = {}
        self.closures: dict[str, Closure] = {}
        self.numbers: dict[str, Any] = {"n_events": len(self.sample)}

    # --- networks ----------------------------------------------------------------------------------------------------

    @property
    def starts(self) -> dict[str, str]:
        """Name of each way to begin a training -> checkpoint."""
        return {"from scratch": ""} | (
            {"pretrained": self.config.checkpoint} if self.config.checkpoint else {}
        )

    def train(self) -> None:
        """The networks of the analysis, on all training events."""
        for start in self.starts:
            self._trained(start, 1.0, 0)

    def _trained(self, start: str, part: float, seed: int) -> dict[str, Any]:
        name = f"train-{_slug(start)}-{part:g}-{seed}"
        home = self.folder.home(name)

        def compute() -> dict[str, Any]:
            can = learnable(self.sample)
            train, val = (rows[can[rows]] for rows in (self.sample.rows(TRAIN), self.sample.rows(VAL)))
            rng = np.random.default_rng((self.config.seed, seed))
            chosen = np.sort(rng.permutation(train)[: max(round(part * len(train)), 1)])
            task = self.bars.add_task(f"training {start}, {len(chosen)} events", total=None)
            history = train_network(
                self.sample,
                chosen,
                val,
                home,
                size=self.config.size,
                checkpoint=self.starts[start],
                config=self._training(part, seed),
            )
            self.bars.update(task, total=1, completed=1)
            seconds = sum(row["seconds"] for row in history.epochs)
            return {
                "n_train": len(chosen),
                "epochs": len(history.epochs),
                "best_epoch": history.best_epoch,
                "val_loss": history.val_loss,
                "seconds": seconds,
            }

        return self.folder.step(name, compute) | {"network": str(home / "best")}

    def _training(self, part: float, seed: int) -> Any:
        # Fewer events are seen more often, though not as often as would make up for it.
        epochs = round(self.config.training.epochs * part**-0.25)
        return dataclasses.replace(self.config.training, epochs=epochs, seed=self.config.seed + seed)

    def _predictor(self, network: str, *, neutrinos: Neutrinos = "network") -> Predictor:
        heads = ("assignment", "invisible") if neutrinos == "network" else ("assignment",)
        sampling = Sampling(steps=self.config.sampler_steps, noise="none")
        return Predictor(network, heads=heads, sampling=sampling)

    # --- reconstruction ----------------------------------------------------------------------------------------------

    def reconstruct(self) -> None:
        """The events of response and pseudo-data by every method, and the table of how well."""
        task = self.bars.add_task("reconstructing", total=1 + 2 * len(self.starts))
        objects = self.sample.objects.take(self.rows)

        def keep(name: str, make: Callable[[], ReconstructedTops]) -> None:
            self.tops[name] = self._kept(name, make)
            self.bars.advance(task)

        keep(CLASSICAL, lambda: reconstruct_tops(objects))
        for start in self.starts:
            network = self._trained(start, 1.0, 0)["network"]
            ways: dict[str, Neutrinos] = {NETWORK: "network", HYBRID: "conic"}
            for way, neutrinos in ways.items():
                predict = self._predictor(network, neutrinos=neutrinos)
                name = way if start == "from scratch" else f"{start} {way}"
                keep(name, lambda p=predict, n=neutrinos: reconstruct_tops(objects, p, neutrinos=n))
        quality = []
        for name, tops in self.tops.items():
            error, slope = self._calibrated_error(self._whole(name))
            row = quality_row(name, tops, self.sample.truth, self.rows)
            quality.append(row | {"cos_phi_slope": slope, "d_error_calibrated": error})
        self.folder.table("reconstruction", quality)
        self.numbers["pairing"] = {row["reconstruction"]: row["pairing"] for row in quality}

    def _kept(self, name: str, make: Callable[[], ReconstructedTops]) -> ReconstructedTops:
        path = self.folder.home("reconstruction") / f"{_slug(name)}.npz"
        if not path.exists():
            found = make()
            part = path.with_suffix(".part.npz")
            arrays = {key: value for key, value in found._asdict().items() if key != "angles"}
            np.savez_compressed(
                part, **arrays, **{f"angles_{k}": v for k, v in found.angles._asdict().items()}
            )
            part.replace(path)
        with np.load(path) as content:
            angles = SpinAngles(*(content[f"angles_{key}"] for key in SpinAngles._fields))
            rest = {key: content[key] for key in ReconstructedTops._fields if key != "angles"}
        return ReconstructedTops(angles=angles, **rest)

    def _whole(self, name: str, tops: ReconstructedTops | None = None) -> Reconstruction:
        """What was reconstructed, as one entry for each event of the sample."""
        found = self.tops[name] if tops is None else tops
        n_events = len(self.sample)

        def wide(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            filled = np.full(
                (*values.shape[:-1], n_events), False if values.dtype == np.bool_ else np.nan, values.dtype
            )
            filled[..., self.rows] = values
            return filled

        return Reconstruction(name, SpinAngles(*(wide(x) for x in found.angles)), wide(found.valid))

    # --- result ------------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Spin matrix and markers of entanglement, by every reconstruction and in the published way."""
        coefficients, markers = [], []
        task = self.bars.add_task("unfolding", total=len(self.tops) + 3)
        for name in self.tops:
            found = self._measured(name, self.config.unfolding)
            self.results[name] = found
            coefficients += coefficient_rows(name, found.own, found.projected, self.truth)
            markers += marker_rows(name, _label(self.config.unfolding), found, self.truth)
            self.bars.advance(task)
        other = self.config.unfolding._replace(method="svd" if self.config.method == "bayes" else "bayes")
        flat = 1.0 - self.config.response_strength
        variants: list[tuple[str, Settings, dict[str, Any]]] = [
            (_label(other), other, {}),
            (
                f"{_label(self.config.unfolding)}, response of strength {flat:g}",
                self.config.unfolding,
                {"strength": flat},
            ),
            (f"{_label(other)}, response and pseudo-data the same (published)", other, {"same": True}),
        ]
        for label, settings, options in variants:
            found = self._measured(CLASSICAL, settings, **options, observables=DIAGONAL, replicas=20)
            markers += marker_rows(CLASSICAL, label, found, self.truth)
            self.bars.advance(task)
        self.folder.table("coefficients", coefficients)
        self.folder.table("markers", markers)

    def _measured(
        self,
        name: str,
        settings: Settings,
        *,
        strength: float | None = None,
        same: bool = False,
        observables: tuple[int, ...] = ALL,
        replicas: int | None = None,
    ) -> Measured:
        key = f"measure-{_slug(name)}-{settings.method}-{strength}-{same}"

        def compute() -> dict[str, Any]:
            found = measure(
                self.sample,
                self._whole(name),
                self.rows if same else self.response,
                self.rows if same else self.data,
                settings,
                expected=self.expected,
                response_strength=self.config.response_strength if strength is None else strength,
                observables=observables,
                replicas=replicas or self.config.replicas,
                seed=self.config.seed,
            )
            return {"own": found.own._asdict(), "projected": found.projected._asdict()}

        kept = self.folder.step(key, compute)
        return Measured(
            *(
                SpinMatrix(*(np.array(kept[which][field], np.float64) for field in SpinMatrix._fields))
                for which in Measured._fields
            )
        )

    # --- tests -------------------------------------------------------------------------------------------------------

    def test_closure(self) -> None:
        """Linearity, pulls, coverage and false claims for the classical reconstruction and the best network."""
        true = {s: -self._true_trace(s) for s in self.config.strengths}
        edge = boundary_strength(float(-self._true_trace(0.0)[0]), float(-self._true_trace(1.0)[0]))
        if edge is not None:
            true[edge] = -self._true_trace(edge)
        strengths = np.array(sorted(true))
        stacked = np.stack([true[s] for s in strengths])
        rows = []
        plans: list[tuple[str, Settings | None, int]] = [
            (name, settings, self.config.splits)
            for name in (CLASSICAL, self.best_network)
            for settings in (self.config.unfolding, None)
        ]
        other = self.config.unfolding._replace(method="svd" if self.config.method == "bayes" else "bayes")
        plans.append((CLASSICAL, other, max(self.config.splits // 5, 2)))
        task = self.bars.add_task("closure", total=len(plans))
        for name, settings, splits in plans:
            label = f"{name}, {_label(settings)}"
            found = self._closure(name, settings, strengths, stacked, splits)
            self.closures[label] = found
            rows += closure_rows(name, _label(settings), found)
            self.bars.advance(task)
        self.folder.table("closure", rows)
        self.numbers["slopes"] = {label: found.slope() for label, found in self.closures.items()}

    def _true_trace(self, strength: float) -> FloatArray:
        truth = self.sample.truth
        matrix = true_matrix(truth.angles, truth.valid, self.sample.weights(strength))
        return np.asarray(matrix.values[:, DIAGONAL].sum(axis=1))

    def _closure(
        self, name: str, settings: Settings | None, strengths: FloatArray, true: FloatArray, splits: int
    ) -> Closure:
        def compute() -> dict[str, Any]:
            found = self._whole(name)
            whole = reference_of(self.sample, found, self.rows, DIAGONAL, 0.0)
            weights = self.sample.weight[self.rows], self.sample.spin_weight[self.rows]
            return close(
                ClosureEvents(whole.measured, whole.true, *self._measured_cos_phi(found), *weights),
                true,
                settings,
                strengths=strengths,
                response_strength=self.config.response_strength,
                expected=self.expected,
                splits=splits,
                replicas=min(self.config.replicas, 10 if settings and settings.method == "svd" else 30),
                seed=self.config.seed,
            )._asdict()

        method = settings.method if settings else "calibration"
        kept = self.folder.step(f"closure-{_slug(name)}-{method}", compute)
        return Closure(**{key: np.asarray(value, np.float64) for key, value in kept.items()})

    def _measured_cos_phi(self, found: Reconstruction) -> tuple[FloatArray, IntArray]:
        valid = found.valid[self.rows]
        cos_phi = np.where(valid, found.angles.cos_phi[self.rows], 0.0)
        return cos_phi, m_tt_bins(found.angles, found.valid)[self.rows]

    def _calibrated_error(self, found: Reconstruction) -> tuple[float, float]:
        """Projected error of -tr C below 400 GeV from the calibration curve, and the slope of the curve."""
        events = self._measured_cos_phi(found)
        weights = [self.sample.weights(strength)[self.rows] for strength in (0.0, 1.0)]
        true = np.stack([-self._true_trace(strength) for strength in (0.0, 1.0)])
        curve = calibration_curve(*events, *weights, true)
        scale = self.expected / weights[1].sum()
        data = measured_moments(*events, scale * weights[1], scale * weights[1])
        return float(curve.apply(data).errors[0]), float(curve.slope[0])

    @property
    def best_network(self) -> str:
        """The reconstruction with a network that gives the smallest projected error of -tr C by the calibration curve."""
        names = [name for name in self.tops if name != CLASSICAL]
        return min(names, key=lambda name: self._calibrated_error(self._whole(name))[0])

    def study_sizes(self) -> None:
        """Pairing accuracy and error of D against the number of training events."""
        rows: list[dict[str, Any]] = []
        plan = [
            (start, part, seed)
            for part in self.config.sizes
            for start in self.starts
            for seed in range(self.config.seeds if part < 1 else 1)
        ]
        if not plan:
            return
        task = self.bars.add_task("training size", total=len(plan))
        objects = self.sample.objects.take(self.rows)
        for start, part, seed in plan:
            trained = self._trained(start, part, seed)
            name = f"size {start} {part:g} {seed}"
            predict = self._predictor(trained["network"])
            tops = self._kept(name, lambda p=predict: reconstruct_tops(objects, p))

            def compute(name: str = name, tops: ReconstructedTops = tops) -> dict[str, Any]:
                accuracy, accuracy_error, _ = pairing_accuracy(tops, self.sample.truth, self.rows)
                error, slope = self._calibrated_error(self._whole(name, tops))
                found = {"pairing": accuracy, "pairing_error": accuracy_error}
                return found | {"cos_phi_slope": slope, "d_error_calibrated": error}

            numbers = self.folder.step(_slug(name), compute)
            rows.append({"start": start, "n_train": trained["n_train"], "seed": seed, **numbers})
            self.bars.advance(task)
        self.folder.table("training_size", rows)
        pairing, _, _ = pairing_accuracy(self.tops[CLASSICAL], self.sample.truth, self.rows)
        baseline = {
            "pairing": pairing,
            "d_error_calibrated": self._calibrated_error(self._whole(CLASSICAL))[0],
        }
        self.folder.figure("training_size", plot_sizes(rows, baseline))

    def shift(self) -> None:
        """Energy scale and soft missing momentum: pseudo-experiments, their table and their figures."""
        if not self.config.experiments:
            return
        names = {CLASSICAL: KINDS, self.best_network: KINDS[:2]}
        task = self.bars.add_task(
            "pseudo-experiments", total=self.config.experiments * sum(len(kinds) for kinds in names.values())
        )
        drawn: dict[str, list[tuple[str, Any]]] = {"d": [], "delta_d": []}
        rows = []
        for name, kinds in names.items():
            for kind in kinds:
                found = self._experiments(name, kind, lambda: self.bars.advance(task))
                for quantity, panels in drawn.items():
                    stability = getattr(found, quantity)
                    panels.append((name, stability))
                    rows.append(
                        {"reconstruction": name, "shift": kind, "quantity": quantity, **stability.to_dict()}
                    )
        self.folder.table("stability", rows)
        for quantity, label in (("d", "D"), ("delta_d", r"$\sigma(D)/(D-1)$")):
            self.folder.figure(f"stability_{quantity}", plot_stability(drawn[quantity], quantity=label))

    def _experiments(self, name: str, kind: str, tick: Callable[[], None]) -> Experiments:
        def compute() -> dict[str, Any]:
            objects = self.sample.objects.take(self.data)
            ready = np.flatnonzero(may_pass(objects))
            chosen = ready[: self.config.experiment_events]
            all_weights = self.sample.weights(1.0)[self.data]
            scale = self.expected / all_weights.sum() * all_weights[ready].sum() / all_weights[chosen].sum()
            found = run_experiments(
                objects.take(chosen),
                all_weights[chosen],
                self._reconstruct_with(name),
                reference_of(
                    self.sample, self._whole(name), self.response, DIAGONAL, self.config.response_strength
                ),
                self.config.unfolding,
                kind,
                n_experiments=self.config.experiments,
                expected=scale,
                seed=self.config.seed,
                tick=tick,
            )
            return {key: getattr(found, key)._asdict() for key in Experiments._fields}

        kept = self.folder.step(f"shift-{_slug(name)}-{_slug(kind)}", compute)
        arrays = ("shifts", "results")
        return Experiments(
            *(
                Stability(**{k: _with_nan(v) if k in arrays else v for k, v in kept[key].items()})
                for key in Experiments._fields
            )
        )

    def _reconstruct_with(self, name: str) -> Callable[[DileptonObjects], tuple[SpinAngles, BoolArray]]:
        predict: Predictor | None = None
        neutrinos: Neutrinos = "conic" if name.endswith(HYBRID) else "network"
        if name != CLASSICAL:
            start = "pretrained" if name.startswith("pretrained") else "from scratch"
            predict = self._predictor(self._trained(start, 1.0, 0)["network"], neutrinos=neutrinos)

        def reconstruct(objects: DileptonObjects) -> tuple[SpinAngles, BoolArray]:
            tops = reconstruct_tops(objects, predict, neutrinos=neutrinos)
            return tops.angles, tops.valid

        return reconstruct

    # --- report ------------------------------------------------------------------------------------------------------

    def report(self) -> AnalysisReport:
        """Figures of the result, and the summary."""
        shown = [CLASSICAL, self.best_network]
        self.folder.figure("migration", plot_migration({name: self._migration(name) for name in shown}))
        self.folder.figure("resolution", plot_resolution({name: self._residuals(name) for name in self.tops}))
        measured = {name: self.results[name] for name in shown}
        self.folder.figure("spin_matrix", plot_spin_matrix(measured, self.truth, self.config.luminosity))
        self.folder.figure("closure", plot_closure(self.closures))
        head = f"D = |Ckk + Crr| - Cnn below 400 GeV, true value {self.truth.markers(0).d_paper.value:.2f} "
        lines = [head + f"(errors: data of {self.config.luminosity:g}/fb, simulated events):"]
        self.numbers["d_below_400"] = {}
        for name, found in self.results.items():
            data, simulation = (found.projected.markers(0, errors=part) for part in ("data", "response"))
            d = data.d_paper
            self.numbers["d_below_400"][name] = {
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
        self.numbers |= {
            "true_d_below_400": self.truth.markers(0).d_paper.value,
            "n_response": int(self.tops[CLASSICAL].passed[np.isin(self.rows, self.response)].sum()),
            "n_pseudo_data": int(self.tops[CLASSICAL].passed[np.isin(self.rows, self.data)].sum()),
            "best_network": self.best_network,
            "bins": list(M_TT_NAMES),
        }
        seconds = self.folder.step("seconds", lambda: {"wall": time.monotonic() - self.started})["wall"]
        lines.append(
            f"pairing: {', '.join(f'{k} {100 * v:.1f} %' for k, v in self.numbers['pairing'].items())}"
        )
        return self.folder.report("\n".join(lines), {**self.numbers, "seconds": seconds})

    def _migration(self, name: str) -> FloatArray:
        reference = reference_of(self.sample, self._whole(name), self.rows, DIAGONAL, 0.0)
        return fill_responses(reference)[0].migrations

    def _residuals(self, name: str) -> tuple[FloatArray, FloatArray]:
        tops, truth = self.tops[name], self.sample.truth
        both = tops.valid & truth.valid[self.rows]
        m_tt = tops.angles.m_tt[both] - truth.angles.m_tt[self.rows[both]]
        pairs = ((tops.neutrino, truth.neutrino), (tops.antineutrino, truth.antineutrino))
        parts = [(found[:2, both] - true[:2, self.rows[both]]).ravel() for found, true in pairs]
        return m_tt, np.concatenate(parts)


def _label(settings: Settings | None) -> str:
    if settings is None:
        return "calibration curve"
    return (
        f"Bayes, {settings.iterations} iterations" if settings.method == "bayes" else f"SVD, k = {settings.k}"
    )


def _with_nan(values: list[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _slug(name: str) -> str:
    """A name as a part of a file name."""
    return name.replace(",", "").replace(" ", "-")
