"""Parametrised training: one network for all masses of a signal, which it is told as event features.

Background has no mass. Every epoch each background event is given one of those of the signal, drawn from all signal
events, so that the masses alone say nothing about the class.

>>> from evenet_hep.topology import Process, Topology
>>> masses = {"XYH_500_90": (500.0, 90.0), "XYH_700_200": (700.0, 200.0)}
>>> for feature in mass_features(masses.values(), ("mass_x", "mass_y")):
...     print(feature.name, round(feature.mean, 3), round(feature.std, 3))
mass_x 6.385 0.168
mass_y 4.907 0.396
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.labels import TrainingBatch
from evenet_hep.schema import EventSchema, Feature
from evenet_hep.topology import Topology
from evenet_hep.training.dataset import ArrayEvents, Events

FloatArray = npt.NDArray[np.float64]


def mass_features(points: Iterable[Sequence[float]], names: Sequence[str]) -> tuple[Feature, ...]:
    """Event features for the masses of a signal, with the mean and width of each on its own.

    Parameters
    ----------
    points : iterable of sequences of float
        Masses of each point, or event, in GeV.
    names : sequence of str
        One name per mass.

    Returns
    -------
    tuple of Feature
        With the transform ``log``; a mass that never changes gets the width 1.

    Raises
    ------
    ConfigError
        For points that do not have as many masses as there are names.
    """
    table = np.array([list(point) for point in points], np.float64)
    if table.ndim != 2 or table.shape[1] != len(names) or not (table > 0).all():
        msg = (
            f"every point must have {len(names)} positive masses ({', '.join(names)}); found {table.tolist()}"
        )
        raise ConfigError(msg)
    logs = np.log1p(table)  # (points, masses): statistics run over the points
    mean, std = logs.mean(axis=0), logs.std(axis=0)
    return tuple(
        Feature(name, "GeV", "log", float(m), float(s) if s > 1e-6 else 1.0)
        for name, m, s in zip(names, mean, std, strict=True)
    )


class ParametrisedEvents:
    """Events with the masses of a signal hypothesis as further event features.

    Parameters
    ----------
    events : Events
        Signal and background.
    features : sequence of Feature
        As given by :func:`mass_features`; they come after the event features that are there.
    signal : sequence of str
        Classes that are signal.
    masses : array, shape (n, masses), or mapping of str to sequence of float
        Masses in GeV of every event, for :class:`~evenet_hep.training.dataset.ArrayEvents` (those of background are
        not looked at); or, by process of the grammar, those of all its events.
    hypothesis : sequence of float, optional
        Give every event, signal too, these masses: for an evaluation at one point. By default signal has its own.

    Raises
    ------
    ConfigError
        For unknown classes or processes.
    InputError
        For masses that do not fit the events, or if there is no signal.
    """

    def __init__(
        self,
        events: Events,
        features: Sequence[Feature],
        *,
        signal: Sequence[str],
        masses: npt.ArrayLike | Mapping[str, Sequence[float]],
        hypothesis: Sequence[float] | None = None,
    ) -> None:
        self.events = events
        self.features = tuple(features)
        classes = events.schema.classes
        if unknown := [name for name in signal if name not in classes]:
            msg = f"signal must be some of the classes {', '.join(classes)}; found {unknown[0]!r}"
            raise ConfigError(msg)
        self._is_signal = np.array([name in signal for name in classes] + [False])  # -1 takes the last
        self._by_process = (
            _by_process(masses, events.topology, len(features)) if isinstance(masses, Mapping) else None
        )
        self._inner = events if isinstance(masses, Mapping) else _with_columns(events, masses, len(features))
        self.hypothesis = None if hypothesis is None else np.asarray(hypothesis, np.float64)
        self.pool = self._signal_masses()

    @property
    def schema(self) -> EventSchema:
        """The schema of the events with the masses."""
        schema = self.events.schema
        return dataclasses.replace(schema, event_features=(*schema.event_features, *self.features))

    @property
    def topology(self) -> Topology | None:
        """That of the events."""
        return self.events.topology

    def __len__(self) -> int:
        return len(self.events)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Batches of one epoch; see :meth:`~evenet_hep.training.dataset.ArrayEvents.batches`.

        The masses of background depend on seed, epoch, rank and number of the batch alone.
        """
        batches = self._inner.batches(
            batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            bucket=bucket,
            rank=rank,
            world_size=world_size,
            start=start,
        )
        for number, batch in enumerate(batches, start):
            rng = np.random.default_rng((seed, epoch, rank, number))
            yield self._told(batch, rng)

    def _told(self, batch: TrainingBatch, rng: np.random.Generator) -> TrainingBatch:
        own, features = self._own(batch)
        is_signal = self._is_signal[batch.label]
        drawn = self.pool[rng.integers(0, len(self.pool), len(batch.label))]
        values = np.where(is_signal[:, None], own, drawn)
        if self.hypothesis is not None:
            values = np.broadcast_to(self.hypothesis, values.shape)
        joined = np.concatenate([features, values.astype(np.float32)], axis=1)
        return batch._replace(event_features=joined)

    def _own(self, batch: TrainingBatch) -> tuple[FloatArray, npt.NDArray[np.float32]]:
        # Masses of the events themselves, NaN for those without, and the event features they come with.
        if self._by_process is not None:
            return self._by_process[batch.process], batch.event_features
        n = len(self.features)
        return batch.event_features[:, -n:].astype(np.float64), batch.event_features[:, :-n]

    def _signal_masses(self) -> FloatArray:
        parts = []
        for batch in self._inner.batches(16_384, shuffle=False, bucket=False):
            own, _ = self._own(batch)
            parts.append(own[self._is_signal[batch.label]])
        pool = np.concatenate(parts) if parts else np.zeros((0, len(self.features)))
        if not len(pool):
            msg = "there is no signal event; masses for the background are drawn from the signal"
            raise InputError(msg)
        if not np.isfinite(pool).all():
            msg = "every signal event needs its masses; some have none (a process without, or NaN)"
            raise InputError(msg)
        return pool


def _by_process(masses: Mapping[str, Sequence[float]], topology: Topology | None, n: int) -> FloatArray:
    names = [] if topology is None else [process.name for process in topology.processes]
    if unknown := [name for name in masses if name not in names]:
        msg = f"masses name the process {unknown[0]!r}; the events have {', '.join(names) or 'none'}"
        raise ConfigError(msg)
    table = np.full((len(names) + 1, n), np.nan)
    for name, values in masses.items():
        table[names.index(name)] = values
    return table


def _with_columns(events: Events, masses: npt.ArrayLike, n: int) -> Events:
    # The masses as last columns of the event features, so that they are shuffled with them.
    table = np.asarray(masses, np.float32)
    if not isinstance(events, ArrayEvents):
        msg = "masses by event need events in memory (ArrayEvents); give masses by process for others"
        raise InputError(msg)
    if table.shape != (len(events), n):
        msg = f"masses must have shape ({len(events)}, {n}); found {table.shape}"
        raise InputError(msg)
    content = events.content
    joined = np.concatenate([content.event_features, table], axis=1)
    return ArrayEvents.from_batch(
        content._replace(event_features=joined), events.schema, topology=events.topology
    )
