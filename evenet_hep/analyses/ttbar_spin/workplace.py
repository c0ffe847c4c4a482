"""What the steps of the spin analysis share: the sample, the networks, and what was reconstructed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from evenet_hep.analyses.folder import AnalysisFolder
from evenet_hep.analyses.samples import choose, read_samples
from evenet_hep.analyses.steps import run_steps
from evenet_hep.analyses.ttbar_spin.calibration import calibration_curve, measured_moments
from evenet_hep.analyses.ttbar_spin.closure import (
    Closure,
)
from evenet_hep.analyses.ttbar_spin.config import TTbarSpinConfig
from evenet_hep.analyses.ttbar_spin.jobs import Method, measured_cos_phi, train_part
from evenet_hep.analyses.ttbar_spin.measure import (
    DIAGONAL,
    fill_responses,
    true_matrix,
)
from evenet_hep.analyses.ttbar_spin.result import (
    Measured,
    Reconstruction,
    reference_of,
)
from evenet_hep.analyses.ttbar_spin.sample import (
    PSEUDO_DATA,
    RESPONSE,
    SpinSample,
    read_spin_sample,
)
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.processors.ttbar_spin import Neutrinos, ReconstructedTops

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CLASSICAL, NETWORK, HYBRID = "classical", "network", "network pairing, classical neutrinos"


class Workplace:
    """State that the steps share: the sample, what was reconstructed of it, and where things are kept.

    Parameters
    ----------
    config : TTbarSpinConfig
    folder : AnalysisFolder
    bars : rich.progress.Progress
    events : path
        As for :func:`~evenet_hep.analyses.ttbar_spin.analysis.analyse_ttbar_spin`.
    """

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

    @property
    def starts(self) -> dict[str, str]:
        """Name of each way to begin a training -> checkpoint."""
        return {"from scratch": ""} | (
            {"pretrained": self.config.checkpoint} if self.config.checkpoint else {}
        )

    def trained(self, start: str, part: float, seed: int) -> dict[str, Any]:
        """A training on a part of the training events: done now, or before.

        Parameters
        ----------
        start : str
            A key of :attr:`starts`.
        part : float
            Of the training events.
        seed : int
            Which of several trainings.

        Returns
        -------
        dict
            ``network``, the folder of the checkpoint, ``n_train``, ``epochs``, ``best_epoch``, ``val_loss``, ``seconds``.
        """
        return self.train_all([(start, part, seed)])[0]

    def train_all(self, plan: Sequence[tuple[str, float, int]]) -> list[dict[str, Any]]:
        """Many trainings, on the cores of the configuration; each entry as for :meth:`trained`."""
        names = [f"train-{slug(start)}-{part:g}-{seed}" for start, part, seed in plan]
        jobs = {
            name: (self.sample, self.starts[start], part, seed, str(self.folder.home(name)), self.config)
            for name, (start, part, seed) in zip(names, plan, strict=True)
        }
        done = self.run(jobs, train_part, "training")
        return [done[name] | {"network": str(self.folder.home(name) / "best")} for name in names]

    def run(
        self, jobs: Mapping[str, tuple[Any, ...]], compute: Callable[..., dict[str, Any]], label: str
    ) -> dict[str, dict[str, Any]]:
        """Steps of the analysis, shared by its processes; see :func:`~evenet_hep.analyses.steps.run_steps`."""
        return run_steps(self.folder, jobs, compute, cores=self.config.cores, label=label, progress=self.bars)

    def kept(self, name: str, make: Callable[[], ReconstructedTops]) -> ReconstructedTops:
        """Reconstructed tops of the events ``rows``: from ``make``, or from the file that an earlier call wrote."""
        path = self.folder.home("reconstruction") / f"{slug(name)}.npz"
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

    def whole(self, name: str, tops: ReconstructedTops | None = None) -> Reconstruction:
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

    def calibrated_error(self, found: Reconstruction) -> tuple[float, float]:
        """Projected error of -tr C below 400 GeV from the calibration curve, and the slope of the curve."""
        events = measured_cos_phi(found, self.rows)
        without, full = (self.sample.weights(strength)[self.rows] for strength in (0.0, 1.0))
        true = np.stack([-self.true_trace(strength) for strength in (0.0, 1.0)])
        curve = calibration_curve(*events, without, full, true)
        scale = self.expected / full.sum()
        data = measured_moments(*events, scale * full, scale * full)
        return float(curve.apply(data).errors[0]), float(curve.slope[0])

    def true_trace(self, strength: float) -> FloatArray:
        """Tr C of the generator in the bins of m(ttbar), for spin correlations of some strength."""
        truth = self.sample.truth
        matrix = true_matrix(truth.angles, truth.valid, self.sample.weights(strength))
        return np.asarray(matrix.values[:, DIAGONAL].sum(axis=1))

    @property
    def best_network(self) -> str:
        """The reconstruction with a network that gives the smallest projected error of -tr C by the calibration curve."""
        names = [name for name in self.tops if name != CLASSICAL]
        return min(names, key=lambda name: self.calibrated_error(self.whole(name))[0])

    def method(self, name: str) -> Method:
        """What reconstructs as the method of that name does."""
        neutrinos: Neutrinos = "conic" if name.endswith(HYBRID) else "network"
        if name == CLASSICAL:
            return Method("", neutrinos, self.config.sampler_steps)
        start = "pretrained" if name.startswith("pretrained") else "from scratch"
        return Method(self.trained(start, 1.0, 0)["network"], neutrinos, self.config.sampler_steps)

    def migration(self, name: str) -> FloatArray:
        """Events by measured and true bin of the flat axis m(ttbar) x xi_kk, shape (80, 80)."""
        reference = reference_of(self.sample, self.whole(name), self.rows, DIAGONAL, 0.0)
        return fill_responses(reference)[0].migrations

    def residuals(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Measured minus true m(ttbar), and components of the neutrinos across the beam, in GeV."""
        tops, truth = self.tops[name], self.sample.truth
        both = tops.valid & truth.valid[self.rows]
        m_tt = tops.angles.m_tt[both] - truth.angles.m_tt[self.rows[both]]
        pairs = ((tops.neutrino, truth.neutrino), (tops.antineutrino, truth.antineutrino))
        parts = [(found[:2, both] - true[:2, self.rows[both]]).ravel() for found, true in pairs]
        return m_tt, np.concatenate(parts)


def slug(name: str) -> str:
    """A name as a part of a file name."""
    return name.replace(",", "").replace(" ", "-")
