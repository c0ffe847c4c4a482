"""Selected events of the search as arrays: parts for training, validation and test, and samples of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.labels import EventLabels
from evenet_hep.processors.higgs_to_4b import KEPT, BTag, Candidates, in_part
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology
from evenet_hep.training.dataset import ArrayEvents

CLASSES = ("background", "signal")
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class SelectedEvents:
    """Events that pass the selection.

    Parameters
    ----------
    cloud : EventCloud
        With the standard schema and the classes ``background`` and ``signal``.
    targets : int64 array, shape (n_events, 2, 2)
        Slot in the cloud of each b quark of each scalar; -1 for one without a jet, and in background.
    is_signal : bool array, shape (n_events,)
    sample : int64 array, shape (n_events,)
        Position in ``samples``.
    weight : float64 array, shape (n_events,)
        Events expected at the luminosity.
    samples : tuple of str
        Names.
    """

    cloud: EventCloud
    targets: IntArray
    is_signal: BoolArray
    sample: IntArray
    weight: FloatArray
    samples: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.weight)

    def select(self, where: npt.NDArray[np.int64] | BoolArray) -> SelectedEvents:
        """Chosen events: positions or a bool for each."""
        return SelectedEvents(
            self.cloud[where], self.targets[where], self.is_signal[where], self.sample[where], self.weight[where], self.samples
        )  # fmt: skip

    @property
    def reconstructable(self) -> BoolArray:
        """Scalars both of whose b quarks have a jet, shape (n_events, 2)."""
        return np.asarray((self.targets >= 0).all(axis=2))

    @property
    def balanced_weight(self) -> FloatArray:
        """Weights with the same sum for every signal sample; those of the background as they are."""
        weight = self.weight.copy()
        for number in np.unique(self.sample[self.is_signal]):
            mine = self.sample == number
            weight[mine] /= weight[mine].sum()
        return weight

    def training(self, schema: EventSchema, topology: Topology) -> ArrayEvents:
        """The same for a training of a network with that schema.

        Raises
        ------
        InputError
            If the network reads other features.
        """
        own = self.cloud.schema
        if (own.object_names, own.event_names) != (schema.object_names, schema.event_names):
            msg = (
                f"the network must read {', '.join(own.object_names + own.event_names)}; "
                f"it reads {', '.join(schema.object_names + schema.event_names)}"
            )
            raise InputError(msg)
        weight = self.balanced_weight
        for each in (True, False):
            mine = self.is_signal == each
            weight[mine] /= max(weight[mine].mean(), 1e-300) if mine.any() else 1.0
        labels = EventLabels(
            np.where(self.is_signal, 0, -1).astype(np.int16),
            self.targets.astype(np.int16),
            np.zeros((len(self), 0, len(schema.invisible)), np.float32),
            np.zeros((len(self), 0), np.bool_),
        )
        cloud = dataclasses.replace(self.cloud, schema=schema)
        return ArrayEvents(cloud, self.is_signal.astype(int), weight=weight, labels=labels, topology=topology)


@dataclasses.dataclass(frozen=True)
class EventPool:
    """All events that were kept, whether they pass the nominal selection or not.

    Parameters
    ----------
    candidates : Candidates
        Their objects.
    weight : float64 array, shape (n_events,)
    sample : int64 array, shape (n_events,)
    samples : tuple of str
        Names, the signals first.
    n_signals : int
        How many of the samples are signals.
    part : str array, shape (n_events,)
        ``train``, ``val`` or ``test``.
    fractions : mapping of str to float
        What the parts are of the whole.
    btag : BTag
    """

    candidates: Candidates
    weight: FloatArray
    sample: IntArray
    samples: tuple[str, ...]
    n_signals: int
    part: npt.NDArray[np.str_]
    fractions: Mapping[str, float]
    btag: BTag

    @classmethod
    def read(
        cls,
        folder: Path,
        kept: Mapping[str, Sequence[str]],
        *,
        n_signals: int,
        fractions: Mapping[str, float],
        btag: BTag,
    ) -> EventPool:
        """Events of the Parquet files that :class:`~evenet_hep.processors.higgs_to_4b.HiggsTo4b` wrote.

        Parameters
        ----------
        folder : Path
            Where they are.
        kept : mapping of str to sequence of str
            Sample -> names of its files; the signals come first.
        n_signals : int
            How many of the samples are signals.
        fractions : mapping of str to float
            Names and fractions of the parts.
        btag : BTag
            As it was for the processor.
        """
        tables = [ak.from_parquet(folder / name) for names in kept.values() for name in sorted(names)]
        lengths = [len(table) for table in tables]
        numbers = [i for i, names in enumerate(kept.values()) for _ in names]
        events = ak.concatenate(tables)
        part = np.full(len(events), "train", dtype="<U5")
        for name in fractions:
            part[in_part(events, name, fractions)] = name
        return cls(
            Candidates(*(events[name] for name in KEPT)),
            ak.to_numpy(events["weight"]).astype(np.float64),
            np.repeat(numbers, lengths).astype(np.int64),
            tuple(kept),
            n_signals,
            part,
            dict(fractions),
            btag,
        )

    def events(self, part: str, *, alpha: float = 0.0) -> SelectedEvents:
        """Events of a part that pass the selection.

        Parameters
        ----------
        part : str
            ``train``, ``val`` or ``test``.
        alpha : float
            Relative shift of the jet energy scale.
        """
        mine = self.part == part
        candidates = self.candidates.select(mine)
        if alpha:
            candidates = candidates.shifted(alpha)
        passed = candidates.passing(self.btag).passed
        candidates = candidates.select(passed)
        candidates = candidates._replace(
            jets=candidates.jets[candidates.jets["pt"] > 20.0]  # those of the cloud, in its order
        )
        cloud = candidates.cloud(EventSchema.standard(classes=CLASSES), self.btag)
        sample = self.sample[mine][passed]
        weight = self.weight[mine][passed] / self.fractions[part]
        return SelectedEvents(
            cloud, _targets(cloud, candidates.jets), sample < self.n_signals, sample, weight, self.samples
        )


def _targets(cloud: EventCloud, jets: ak.Array) -> IntArray:
    """Slots of the four b quarks, from the mark on every jet."""
    daughter, counts = ak.to_numpy(ak.flatten(jets["daughter"])), ak.to_numpy(ak.num(jets["daughter"]))
    starts = np.cumsum(counts) - counts
    is_jet = cloud.index["collection"] == cloud.collections.index("Jet")
    code = np.full(cloud.mask.shape, -1)
    code[is_jet] = daughter[(starts[:, None] + cloud.index["position"])[is_jet]]
    targets = np.full((len(cloud), 4), -1)
    rows, slots = np.nonzero(code >= 0)
    targets[rows, code[rows, slots]] = slots
    return targets.reshape(-1, 2, 2)


def choose_training(events: SelectedEvents, size: int, *, seed: int) -> SelectedEvents:
    """A sample of training events: half of it signal, as many of each signal sample as there can be.

    Parameters
    ----------
    events : SelectedEvents
        All training events.
    size : int
        How many; 0 takes all, balanced or not.
    seed : int
        Of the choice. A larger sample of the same seed contains a smaller one.

    Raises
    ------
    InputError
        If there are too few events.
    """
    if not size:
        return events
    rng = np.random.default_rng((seed, 4))
    shuffled = rng.permutation(len(events))
    numbers = np.unique(events.sample[events.is_signal])
    wanted = np.array_split(np.arange(size // 2), len(numbers))
    groups = [(events.sample == n, len(part)) for n, part in zip(numbers, wanted, strict=True)]
    groups.append((~events.is_signal, size - size // 2))
    chosen = []
    for mask, number in groups:
        mine = shuffled[mask[shuffled]]
        if len(mine) < number:
            msg = f"a training with {size} events needs {number} of each kind; found {len(mine)}: choose smaller sizes or simulate more"
            raise InputError(msg)
        chosen.append(mine[:number])
    return events.select(np.sort(np.concatenate(chosen)))
