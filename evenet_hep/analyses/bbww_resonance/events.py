"""Selected events of all samples as arrays, with weights, folds and the mass points they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.bbww_resonance.config import BbwwConfig
from evenet_hep.analyses.samples import EventSample, choose, run_processor
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.bbww_columns import BbwwObjects, BbwwReader
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.splits import split_of
from evenet_hep.events.systematics import JES_LIMIT
from evenet_hep.processors.bbww_resonance import IDENTIFIERS, BbwwResonance
from evenet_hep.schema import EventSchema

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CLASSES = ("signal", "background")


class MassPoint(NamedTuple):
    """A signal hypothesis.

    Parameters
    ----------
    name : str
        Of its sample.
    m_x, m_y : float
        Masses in GeV.
    """

    name: str
    m_x: float
    m_y: float


@dataclasses.dataclass(frozen=True, eq=False)
class BbwwEvents:
    """Selected events of the backgrounds and of all points.

    Parameters
    ----------
    names : tuple of str
        Samples, backgrounds first.
    points : tuple of MassPoint
        The samples of signal, in the order they have in ``names``.
    sample : int array, shape (n,)
        Position of each event's sample in ``names``.
    features : float64 array, shape (n, 49)
        NaN for a missing value.
    objects, mask, event_features : array, shape (n, ...)
        The cloud, raw values.
    weight : float64 array, shape (n,)
        Expected events that each stands for; signal at its reference cross-section.
    fold : int array, shape (n,)
        Which classifiers have not seen the event.
    half : bool array, shape (n,)
        An independent division of all events in two, for closure.
    run, luminosityBlock, event : int array, shape (n,)
        Who the event is.
    """

    names: tuple[str, ...]
    points: tuple[MassPoint, ...]
    sample: IntArray
    features: FloatArray
    objects: npt.NDArray[np.float32]
    mask: BoolArray
    event_features: npt.NDArray[np.float32]
    weight: FloatArray
    fold: IntArray
    half: BoolArray
    run: IntArray
    luminosityBlock: IntArray  # noqa: N815  NanoAOD's name
    event: IntArray

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def is_signal(self) -> BoolArray:
        """Of each event."""
        return np.asarray(self.sample >= len(self.names) - len(self.points))

    def rows(self, point: MassPoint) -> IntArray:
        """All background, and the signal of one point."""
        own = self.sample == self.names.index(point.name)
        return np.flatnonzero(~self.is_signal | own)

    def masses(self) -> FloatArray:
        """Masses of every signal event, shape (n, 2), in GeV; NaN for background."""
        n_backgrounds = len(self.names) - len(self.points)
        table = [(np.nan, np.nan)] * n_backgrounds + [(point.m_x, point.m_y) for point in self.points]
        return np.array(table)[self.sample]

    def cloud(self, rows: IntArray, schema: EventSchema, added: FloatArray | None = None) -> EventCloud:
        """Clouds of some events.

        Parameters
        ----------
        rows : int array, shape (m,)
        schema : EventSchema
            Of the network.
        added : float array, shape (m, k), optional
            Event features that come behind the others.
        """
        features = self.event_features[rows]
        if added is not None:
            features = np.concatenate([features, added], axis=1).astype(np.float32)
        return EventCloud.from_arrays(self.objects[rows], self.mask[rows], features, schema)

    def validation(self, fraction: float, seed: int) -> BoolArray:
        """Events that decide when a training stops, by the hash of the event and the seed."""
        parts = {"train": 1 - fraction, "val": fraction}
        found = split_of(self.run, self.luminosityBlock, self.event, parts, salt=f"validation {seed}")
        return np.asarray(found == 1)

    def save(self, path: Path) -> None:
        """Write one file, complete or not at all."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        content["points"] = np.array([point[1:] for point in self.points]).reshape(-1, 2)
        fresh = path.with_name(f".{path.stem}.part.npz")
        np.savez(fresh, **content)
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> BbwwEvents:
        """What :meth:`save` has written."""
        with np.load(path) as file:
            content: dict[str, Any] = dict(file)
        names = tuple(str(name) for name in content["names"])
        masses = content["points"].tolist()
        signal = names[len(names) - len(masses) :]
        points = tuple(MassPoint(name, *pair) for name, pair in zip(signal, masses, strict=True))
        return cls(**content | {"names": names, "points": points})


def find_points(samples: Mapping[str, EventSample], config: BbwwConfig) -> tuple[MassPoint, ...]:
    """Signal samples and their masses, ordered by mass.

    Raises
    ------
    ConfigError
        If there is none, or one that is named lacks ``m_x`` and ``m_y`` among its ``parameters``.
    """
    named = choose(samples, config.points) if config.points else samples
    points = []
    for name, sample in named.items():
        parameters = sample.details.get("parameters") or {}
        if {"m_x", "m_y"} <= set(parameters):
            points.append(MassPoint(name, float(parameters["m_x"]), float(parameters["m_y"])))
        elif config.points:
            msg = f"the signal {name!r} needs parameters m_x and m_y; found {dict(parameters)}"
            raise ConfigError(msg)
    if not points:
        msg = (
            f"no sample has the parameters m_x and m_y of a signal; samples are {', '.join(sorted(samples))}"
        )
        raise ConfigError(msg)
    return tuple(sorted(points, key=lambda point: point[1:]))


def reader_of(config: BbwwConfig) -> BbwwReader:
    """How the analysis reads events."""
    return BbwwReader(strategy=config.strategy)


def schema_of(config: BbwwConfig) -> EventSchema:
    """Features of the clouds: those of the checkpoint, or the published ones."""
    if not config.checkpoint:
        return EventSchema.standard(classes=CLASSES)
    path = Path(config.checkpoint) / "schema.json"
    if not path.is_file():
        msg = f"checkpoint must be the folder of a network; found no schema.json in {config.checkpoint!r}"
        raise ConfigError(msg)
    return dataclasses.replace(EventSchema.from_file(path), classes=CLASSES)


def run_selection(
    samples: Mapping[str, EventSample], config: BbwwConfig, *, progress: bool = False
) -> dict[str, Any]:
    """What :class:`~evenet_hep.processors.BbwwResonance` collects of backgrounds and points."""
    names = [*config.backgrounds, *(point.name for point in find_points(samples, config))]
    shifts = config.systematics.energy_scale + config.systematics.soft_met
    instance = BbwwResonance(
        reader_of(config),
        schema=schema_of(config),
        loose=JES_LIMIT if shifts and config.systematics.points else 0.0,
    )
    return run_processor(choose(samples, names), instance, cores=config.cores, progress=progress)


def sample_weight(sample: EventSample, config: BbwwConfig, *, is_signal: bool) -> float:
    """Factor on the generator weight of a sample.

    Raises
    ------
    ConfigError
        For a sample without cross-section or sum of weights.
    """
    total = sample.details.get("sum_of_weights")
    if is_signal and total:
        return 1000.0 * config.luminosity * config.signal_pb / float(total)
    if is_signal or sample.is_data:
        msg = f"sample {sample.name!r} needs sum_of_weights{'' if is_signal else ' and a cross-section'}"
        raise ConfigError(msg)
    return sample.event_weight(config.luminosity)


def assemble(output: Mapping[str, Any], samples: Mapping[str, EventSample], config: BbwwConfig) -> BbwwEvents:
    """Selected events of the processor's output, weighted and divided into folds.

    Raises
    ------
    InputError
        If an event is there twice, or a fold of a sample of signal, or of all background, is empty.
    """
    points = find_points(samples, config)
    names = (*config.backgrounds, *(point.name for point in points))
    tables = [_in_order({k: v.value for k, v in output[name]["columns"].items()}) for name in names]
    joined = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    sizes = [len(table["weight"]) for table in tables]
    factors = [
        sample_weight(samples[name], config, is_signal=i >= len(config.backgrounds))
        for i, name in enumerate(names)
    ]
    who = [joined[name] for name in IDENTIFIERS]
    weight = joined["weight"] * np.repeat(factors, sizes)
    sample = np.repeat(np.arange(len(names)), sizes)
    columns = {name: joined[name] for name in ("features", "objects", "mask", "event_features")}
    events = _events_of(names, points, sample, columns, weight, who, folds=config.folds)
    _check(events, config)
    return events


def _in_order(table: dict[str, Any]) -> dict[str, Any]:
    # Chunks come in the order in which processes finish: sorted, the same files always give the same trainings.
    order = _order(table)
    return {name: column[order] for name, column in table.items()}


def _order(table: Any) -> IntArray:
    return np.lexsort([np.asarray(table[name]) for name in reversed(IDENTIFIERS)])


def _events_of(
    names: tuple[str, ...],
    points: tuple[MassPoint, ...],
    sample: IntArray,
    columns: Mapping[str, Any],
    weight: FloatArray,
    who: list[IntArray],
    *,
    folds: int,
) -> BbwwEvents:
    equal = {str(k): 1 / folds for k in range(folds)}
    run, lumi, number = who
    fold = split_of(run, lumi, number, equal, salt="folds").astype(np.int64)
    half = split_of(run, lumi, number, {"a": 0.5, "b": 0.5}, salt="halves") == 1
    return BbwwEvents(
        names, points, sample, **columns, weight=weight, fold=fold, half=half,
        run=who[0], luminosityBlock=who[1], event=who[2],
    )  # fmt: skip


def _check(events: BbwwEvents, config: BbwwConfig) -> None:
    # The same event under two names would be trained on and tested: no fold protects against that.
    content = events.objects.reshape(len(events), -1)
    _, first, counts = np.unique(content, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        name = events.names[events.sample[first[np.argmax(counts > 1)]]]
        msg = (
            f"{int((counts - 1).sum())} selected events are there twice, the first in {name!r}; "
            "were two samples simulated with one seed?"
        )
        raise InputError(msg)
    for point in events.points:
        rows = events.rows(point)
        for fold in range(config.folds):
            inside = rows[events.fold[rows] == fold]
            n_signal = int(events.is_signal[inside].sum())
            if n_signal < 5 or len(inside) - n_signal < 5:
                msg = (
                    f"every fold needs at least 5 events of signal and background; fold {fold} of {point.name!r} has "
                    f"{n_signal} and {len(inside) - n_signal}: simulate more, or lower folds"
                )
                raise InputError(msg)


def loose_table(
    output: Mapping[str, Any], events: BbwwEvents, samples: Mapping[str, EventSample], config: BbwwConfig
) -> ak.Array:
    """Objects of the events that a variation could let pass, with ``sample`` and the weight of the analysis."""
    parts = []
    n_backgrounds = len(config.backgrounds)
    for i, name in enumerate(events.names):
        part = ak.concatenate(output[name]["loose"])
        part = part[_order(part)]
        factor = sample_weight(samples[name], config, is_signal=i >= n_backgrounds)
        part = ak.with_field(part, part["weight"] * factor, "weight")
        parts.append(ak.with_field(part, np.full(len(part), i), "sample"))
    return ak.concatenate(parts)


def select_table(
    objects: BbwwObjects, loose: ak.Array, events: BbwwEvents, reader: BbwwReader, schema: EventSchema
) -> BbwwEvents:
    """Selected events of objects, shifted or not; fold and weight belong to the event and stay.

    Parameters
    ----------
    objects : BbwwObjects
        In the order of ``loose``.
    loose : ak.Array
        Of :func:`loose_table`, for who the events are.
    events : BbwwEvents
        The nominal ones: names, points and number of folds.
    reader : BbwwReader
    schema : EventSchema
        Of the clouds.
    """
    found = reader.select(objects)
    columns = reader.describe(found, objects.met, schema)
    who = [ak.to_numpy(loose[name][found.passed]) for name in IDENTIFIERS]
    return _events_of(
        events.names,
        events.points,
        ak.to_numpy(loose["sample"][found.passed]),
        columns._asdict(),
        ak.to_numpy(loose["weight"][found.passed]),
        who,
        folds=int(events.fold.max()) + 1,
    )
