"""Steps of the spin analysis that its processes share: each takes what can be sent, and gives numbers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.ttbar_spin.closure import ClosureEvents, close
from evenet_hep.analyses.ttbar_spin.config import TTbarSpinConfig
from evenet_hep.analyses.ttbar_spin.measure import DIAGONAL, Reference, Settings, m_tt_bins
from evenet_hep.analyses.ttbar_spin.network import learnable, train_network
from evenet_hep.analyses.ttbar_spin.result import Reconstruction, measure, reference_of
from evenet_hep.analyses.ttbar_spin.sample import TRAIN, VAL, SpinSample
from evenet_hep.analyses.ttbar_spin.shifts import Experiments, run_experiments
from evenet_hep.events.ttbar_dilepton import DileptonObjects
from evenet_hep.inference import Predictor, Sampling
from evenet_hep.processors.ttbar_spin import Neutrinos, ReconstructedTops, reconstruct_tops

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to reconstruct top pairs, in a form that can be sent to another process.

    Parameters
    ----------
    network : str
        Folder of a checkpoint; empty for the classical reconstruction.
    neutrinos : {"network", "conic"}
        Drawn by the network, or found from the pairs that it has chosen.
    sampler_steps : int
        In which neutrinos are drawn.
    """

    network: str
    neutrinos: Neutrinos
    sampler_steps: int

    def __call__(self, objects: DileptonObjects) -> ReconstructedTops:
        """Reconstruct events."""
        if not self.network:
            return reconstruct_tops(objects)
        heads = ("assignment", "invisible") if self.neutrinos == "network" else ("assignment",)
        # Neutrinos start at the centre of the noise: the same events give the same answer.
        sampling = Sampling(steps=self.sampler_steps, noise="none")
        predict = _network(self.network, heads, sampling)
        return reconstruct_tops(objects, predict, neutrinos=self.neutrinos)


@functools.lru_cache(maxsize=4)
def _network(folder: str, heads: tuple[str, ...], sampling: Sampling) -> Predictor:
    return Predictor(folder, heads=heads, sampling=sampling)


def train_part(
    sample: SpinSample, checkpoint: str, part: float, seed: int, home: str, config: TTbarSpinConfig
) -> dict[str, Any]:
    """Train on a part of the training events; the network is ``home/best``.

    Parameters
    ----------
    sample : SpinSample
    checkpoint : str
        Folder of the network that is fine-tuned; empty for a new one.
    part : float
        Of the training events.
    seed : int
        Which of several trainings.
    home : str
        Folder of the run.
    config : TTbarSpinConfig
    """
    can = learnable(sample)
    train, val = (rows[can[rows]] for rows in (sample.rows(TRAIN), sample.rows(VAL)))
    rng = np.random.default_rng((config.seed, seed))
    chosen = np.sort(rng.permutation(train)[: max(round(part * len(train)), 1)])
    # Fewer events are seen more often, though not as often as would make up for it.
    epochs = round(config.training.epochs * part**-0.25)
    training = dataclasses.replace(config.training, epochs=epochs, seed=config.seed + seed)
    history = train_network(
        sample, chosen, val, Path(home), size=config.size, checkpoint=checkpoint, config=training
    )
    return {
        "n_train": len(chosen),
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "val_loss": history.val_loss,
        "seconds": sum(row["seconds"] for row in history.epochs),
    }


def measure_part(
    sample: SpinSample,
    found: Reconstruction,
    response: IntArray,
    data: IntArray,
    settings: Settings,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Spin matrix by unfolding; arguments as for :func:`~evenet_hep.analyses.ttbar_spin.result.measure`."""
    measured = measure(sample, found, response, data, settings, **options)
    return {"own": measured.own._asdict(), "projected": measured.projected._asdict()}


def closure_part(
    sample: SpinSample,
    found: Reconstruction,
    rows: IntArray,
    settings: Settings | None,
    true: FloatArray,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Closure of one unfolding; arguments as for :func:`~evenet_hep.analyses.ttbar_spin.closure.close`."""
    whole = reference_of(sample, found, rows, DIAGONAL, 0.0)
    weights = sample.weight[rows], sample.spin_weight[rows]
    events = ClosureEvents(whole.measured, whole.true, *measured_cos_phi(found, rows), *weights)
    return close(events, true, settings, **options)._asdict()


def measured_cos_phi(found: Reconstruction, rows: IntArray) -> tuple[FloatArray, IntArray]:
    """Measured cos phi of the events ``rows``, and their bin of the measured m(ttbar); -1 without."""
    valid = found.valid[rows]
    cos_phi = np.where(valid, found.angles.cos_phi[rows], 0.0)
    return cos_phi, m_tt_bins(found.angles, found.valid)[rows]


def shift_part(
    objects: DileptonObjects,
    weights: FloatArray,
    method: Method,
    reference: Reference,
    settings: Settings,
    kind: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Pseudo-experiments of one shift; arguments as for
    :func:`~evenet_hep.analyses.ttbar_spin.shifts.run_experiments`.
    """
    found = run_experiments(objects, weights, method, reference, settings, kind, **options)
    return {key: getattr(found, key)._asdict() for key in Experiments._fields}
