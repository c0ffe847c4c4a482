"""What a network says about labelled events, compared with the labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.errors import InputError
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.kinematics.angles import delta_phi
from evenet_hep.model.decoding import decode_assignment
from evenet_hep.model.evenet import EveNet
from evenet_hep.model.generation import sample_invisible
from evenet_hep.stats.calibration import reliability
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.stats.pairing import PairingEfficiencies, pairing_efficiencies
from evenet_hep.stats.sic import maximum_sic
from evenet_hep.topology import Process, Topology
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.dataset import Events, Split
from evenet_hep.training.history import write_text
from evenet_hep.training.targets import TargetMap

FloatArray = npt.NDArray[np.float64]


class ClassScores(NamedTuple):
    """Class probabilities of events that have a class.

    Attributes
    ----------
    classes : tuple of str
        Names.
    label : int64 array, shape (n,)
        True class.
    probability : float64 array, shape (n, C)
        Of each class.
    weight : float64 array, shape (n,)
        Event weights; 1 if they were not asked for.
    """

    classes: tuple[str, ...]
    label: npt.NDArray[np.int64]
    probability: FloatArray
    weight: FloatArray

    @property
    def confusion(self) -> FloatArray:
        """Part of each true class (row) that is taken for each class (column); NaN for a class without events."""
        n = len(self.classes)
        flat = self.label * n + self.probability.argmax(axis=1)
        table = np.bincount(flat, self.weight, n * n).reshape(n, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(table / table.sum(axis=1, keepdims=True))


class Neutrinos(NamedTuple):
    """True invisible particles, and one drawn by the network for each.

    Attributes
    ----------
    names : tuple of str
        Features, as in the schema.
    true, drawn : float64 array, shape (n, features)
        In GeV and radians.
    """

    names: tuple[str, ...]
    true: FloatArray
    drawn: FloatArray

    def residual(self, name: str) -> FloatArray:
        """Drawn minus true, shape (n,); the difference of azimuths lies in (-pi, pi]."""
        i = self.names.index(name)
        if name == "phi":
            return np.asarray(delta_phi(self.drawn[:, i], self.true[:, i]))
        return np.asarray(self.drawn[:, i] - self.true[:, i])


class Evaluation(NamedTuple):
    """A network on labelled events.

    Attributes
    ----------
    n_events : int
        Events it was given.
    scores : ClassScores or None
        Of the classification head.
    pairing : dict of str to PairingEfficiencies
        By process that the events and the assignment head have in common.
    neutrinos : Neutrinos or None
        Of the invisible generation.
    metrics : dict of str to float
        All of it in numbers: ``accuracy``, ``auc/<class>``, ``max_sic/<class>`` (each class against the others),
        ``calibration_error/<class>``, ``pairing/<process>`` (events with every resonance right, of those in which all
        can be found), ``neutrino_<feature>_bias`` and ``_width``; each with ``_uncertainty`` where there is one.
    """

    n_events: int
    scores: ClassScores | None
    pairing: dict[str, PairingEfficiencies]
    neutrinos: Neutrinos | None
    metrics: dict[str, float]

    def to_json(self, path: str | Path) -> None:
        """Write the metrics; numbers that are not defined are null."""
        content = {"n_events": self.n_events, "metrics": {k: _finite(v) for k, v in self.metrics.items()}}
        write_text(Path(path), json.dumps(content, indent=1))


def evaluate(
    model: EveNet,
    events: Events | TrainingSet,
    *,
    weighted: bool = False,
    steps: int = 20,
    batch_size: int = 1024,
    seed: int = 0,
) -> Evaluation:
    """Compare a network with the labels of some events.

    Parameters
    ----------
    model : EveNet
        Put into eval mode; runs where it is.
    events : Events or TrainingSet
        With the classes of the network. Of a whole training set the split ``test``.
    weighted : bool
        Use the event weights in the classification metrics.
    steps : int
        Of the sampler that draws neutrinos.
    batch_size : int
        Events at a time.
    seed : int
        Of the neutrinos.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If there are no events, or their classes are others.

    Examples
    --------
    >>> evaluation = evaluate(model, test_events)  # doctest: +SKIP
    >>> evaluation.metrics["auc/signal"]  # doctest: +SKIP
    0.87
    """
    chosen: Events = Split(events, "test") if isinstance(events, TrainingSet) else events
    if not len(chosen):
        msg = "there are no events to evaluate the network on"
        raise InputError(msg)
    if model.classification is not None and chosen.schema.classes != model.schema.classes:
        msg = f"the events have the classes {chosen.schema.classes}; the network has {model.schema.classes}"
        raise InputError(msg)
    pairs = _Pairs(model, chosen.topology)
    classified: list[tuple[npt.NDArray[Any], ...]] = []
    drawn: list[tuple[npt.NDArray[Any], ...]] = []
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.inference_mode():
        model.eval()
        for arrays in chosen.batches(batch_size, shuffle=False, bucket=False):
            batch = TensorBatch.of(arrays).to(device)
            encoding = model.encode(batch.objects, batch.mask, batch.event_features)
            found = model.apply_heads(encoding, batch.mask)
            if found.classification is not None:
                probability = found.classification.double().softmax(dim=1).cpu().numpy()
                classified.append((arrays.label, probability, arrays.weight.astype(np.float64)))
            pairs.add(found.assignment, batch)
            if model.invisible_generation is not None and batch.invisible_mask.any():
                drawn.append(_draw(model, batch, steps, generator))
    scores = _scores(model, classified, weighted=weighted)
    names = model.schema.invisible_names
    joined = [np.concatenate(parts).astype(np.float64) for parts in zip(*drawn, strict=True)]
    neutrinos = Neutrinos(names, *joined) if drawn else None
    efficiencies = pairs.efficiencies()
    return Evaluation(len(chosen), scores, efficiencies, neutrinos, _metrics(scores, efficiencies, neutrinos))


def _draw(
    model: EveNet, batch: TensorBatch, steps: int, generator: torch.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    label = batch.label if model.classification is not None else None
    found = sample_invisible(
        model,
        batch.objects,
        batch.mask,
        batch.event_features,
        batch.invisible_mask,
        label=label,
        steps=steps,
        generator=generator,
    )
    there = batch.invisible_mask
    return batch.invisible[there].cpu().numpy(), found.features[there].cpu().numpy()


class _Pairs:
    # Collects true and predicted objects of the resonances, process by process.

    def __init__(self, model: EveNet, topology: Topology | None) -> None:
        self.grammar = model.config.assignment.topology if model.config.assignment is not None else None
        self.found: dict[str, list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = {}
        self.labels: TargetMap | None = None
        if self.grammar is not None and topology is not None:
            self.labels = TargetMap(topology, self.grammar).to(next(model.parameters()).device)

    def add(self, scores: Mapping[str, Any], batch: TensorBatch) -> None:
        if self.labels is None or self.grammar is None or not scores:
            return
        targets = self.labels(batch.process, batch.indices)
        for number, process in enumerate(self.grammar.processes):
            rows = (targets.process == number).nonzero()[:, 0]
            if not len(rows) or not process.resonances:
                continue
            mine = {
                kind: type(score)(*(each[rows] for each in score))
                for kind, score in scores.items()
                if kind in process.kinds or kind.startswith(f"{process.name}/")
            }
            guess = decode_assignment(mine, batch.mask[rows], process.name, self.grammar).indices
            true = targets.indices[rows][:, : guess.shape[1], : guess.shape[2]]
            self.found.setdefault(process.name, []).append((true.cpu().numpy(), guess.cpu().numpy()))

    def efficiencies(self) -> dict[str, PairingEfficiencies]:
        result = {}
        for name, parts in self.found.items():
            true, guess = (np.concatenate(each) for each in zip(*parts, strict=True))
            assert self.grammar is not None  # noqa: S101  or nothing was found
            process = self.grammar.process(name)
            complete = _is_complete(true, process, self.grammar)
            true, guess = (_canonical(each, process, self.grammar) for each in (true, guess))
            result[name] = pairing_efficiencies(true, guess, complete, daughters_symmetric=False)
        return result


def _is_complete(indices: npt.NDArray[Any], process: Process, grammar: Topology) -> npt.NDArray[np.bool_]:
    lengths = np.array([len(grammar.resonance(kind).daughters) for kind in process.kinds])
    return np.asarray((indices >= 0).sum(axis=2) == lengths)


def _canonical(indices: npt.NDArray[Any], process: Process, grammar: Topology) -> npt.NDArray[Any]:
    # Interchangeable daughters in ascending order, and the kind as one daughter more: kinds are never exchanged.
    kinds = np.array([grammar.kinds.index(kind) for kind in process.kinds])
    column = np.broadcast_to(kinds[None, :, None], (*indices.shape[:2], 1))
    result = np.concatenate([indices, column], axis=2)
    for slot, kind in enumerate(process.kinds):
        resonance = grammar.resonance(kind)
        for names in resonance.interchangeable:
            places = [resonance.daughters.index(name) for name in names]
            result[:, slot, places] = np.sort(result[:, slot, places], axis=1)
    return result


def _scores(
    model: EveNet, parts: list[tuple[npt.NDArray[Any], ...]], *, weighted: bool
) -> ClassScores | None:
    if not parts:
        return None
    label, probability, weight = (np.concatenate(each) for each in zip(*parts, strict=True))
    known = label >= 0
    if not known.any():
        return None
    weight = weight if weighted else np.ones(len(label))
    return ClassScores(model.schema.classes, label[known], probability[known], weight[known])


def _metrics(
    scores: ClassScores | None, pairing: Mapping[str, PairingEfficiencies], neutrinos: Neutrinos | None
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if scores is not None:
        right = scores.probability.argmax(axis=1) == scores.label
        metrics["accuracy"] = float((scores.weight * right).sum() / scores.weight.sum())
        for number, name in enumerate(scores.classes):
            is_class, score = scores.label == number, scores.probability[:, number]
            if not 0 < is_class.sum() < len(is_class):
                continue
            area = area_under_curve(is_class, score, weights=scores.weight)
            best = maximum_sic(is_class, score, weights=scores.weight)
            metrics |= {f"auc/{name}": area.value, f"auc/{name}_uncertainty": area.uncertainty}
            metrics |= {f"max_sic/{name}": best.value, f"max_sic/{name}_uncertainty": best.uncertainty}
            table = reliability(is_class, score.clip(0, 1), weights=scores.weight)
            metrics[f"calibration_error/{name}"] = table.expected_error
    for name, found in pairing.items():
        metrics[f"pairing/{name}"] = found.event_complete.value
        metrics[f"pairing/{name}_uncertainty"] = found.event_complete.uncertainty
    if neutrinos is not None:
        for name in neutrinos.names:
            residual = neutrinos.residual(name)
            low, middle, high = np.quantile(residual, [0.16, 0.5, 0.84])
            metrics[f"neutrino_{name}_bias"], metrics[f"neutrino_{name}_width"] = middle, (high - low) / 2
    return {name: float(value) for name, value in metrics.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
