"""The simulated events of the spin analysis: read once, split once, kept in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep.analyses.samples import EventSample
from evenet_hep.errors import InputError
from evenet_hep.events.flat import event_column
from evenet_hep.events.splits import split_of
from evenet_hep.events.ttbar_dilepton import DileptonObjects, dilepton_objects, generated_tops
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.processors.ttbar_spin import TOPOLOGY
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Parts of the sample, by the hash of run, luminosity block and event number.
TRAIN, VAL, RESPONSE, PSEUDO_DATA = range(4)
BRANCHES = r"/^(run|luminosityBlock|event|genWeight|spinWeight|n?(Electron|Muon|Jet|MET|GenPart)(_.*)?)$/"


@dataclasses.dataclass(frozen=True)
class SpinSample:
    """Simulated top pairs.

    Parameters
    ----------
    objects : DileptonObjects
        Of all events.
    truth : SpinTruth
        What the generator made.
    weight, spin_weight : float64 array, shape (n_events,)
        Of the generator, and for the spin correlations (1 where the files have none).
    part : int8 array, shape (n_events,)
        :data:`TRAIN`, :data:`VAL`, :data:`RESPONSE` or :data:`PSEUDO_DATA`.
    """

    objects: DileptonObjects
    truth: SpinTruth
    weight: FloatArray
    spin_weight: FloatArray
    part: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.weight)

    def weights(self, strength: float) -> FloatArray:
        """Event weights for spin correlations scaled by ``strength``: 1 is leading-order QCD, 0 none at all."""
        return self.weight * (1.0 + strength * (self.spin_weight - 1.0))

    def rows(self, part: int) -> IntArray:
        """Numbers of the events of a part."""
        return np.flatnonzero(self.part == part)


class SpinTruth(NamedTuple):
    """True values of many events; NaN and -1 where ``valid`` is False.

    Parameters
    ----------
    angles : SpinAngles
        Decay angles of the leptons.
    neutrino, antineutrino : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV.
    process : int64 array, shape (n_events,)
        0, or -1 for other events.
    slots : int64 array, shape (n_events, 2, 2)
        Slots of b quark and lepton of top and antitop in the cloud; -1 where they were not reconstructed.
    jet_index : int64 array, shape (2, n_events)
        The jets of the b quarks, as positions among ``objects.collections()["Jet"]``; -1 without.
    valid : bool array, shape (n_events,)
        The event is a top pair with two leptons.
    """

    angles: SpinAngles
    neutrino: FloatArray
    antineutrino: FloatArray
    process: IntArray
    slots: IntArray
    jet_index: IntArray
    valid: BoolArray

    @property
    def is_complete(self) -> BoolArray:
        """True where both tops have their b jet and their lepton, shape (n_events,)."""
        return np.asarray((self.slots >= 0).all(axis=(1, 2)))


def read_spin_sample(
    sample: EventSample,
    fractions: Sequence[float],
    *,
    max_events: int | None = None,
    btag: str = "btagDeepFlavB",
    working_point: float = 0.2489,
    tick: Callable[[int, int], None] | None = None,
) -> SpinSample:
    """Read simulated top pairs.

    Parameters
    ----------
    sample : EventSample
        NanoAOD files with GenPart.
    fractions : sequence of three floats
        Of the events, for training, validation and the response; what is left is pseudo-data.
    max_events : int, optional
        Read no more than about so many.
    btag, working_point
        As for :func:`~evenet_hep.events.ttbar_dilepton.dilepton_objects`.
    tick : callable, optional
        Called with the numbers of files done and of all files.

    Raises
    ------
    InputError
        If the files hold no top pairs with two leptons.
    """
    NanoAODSchema.warn_missing_crossrefs = False
    names = ("train", "val", "response")
    splits = dict(zip(names, fractions, strict=True))
    splits["pseudo-data"] = 1.0 - sum(fractions)
    parts, n_events = [], 0
    for number, path in enumerate(sample.files):
        if tick is not None:
            tick(number, len(sample.files))
        events = NanoEventsFactory.from_root(
            {str(path): "Events"},
            schemaclass=NanoAODSchema,
            mode="eager",
            iteritems_options={"filter_name": BRANCHES},
        ).events()
        parts.append(_part(events, splits, btag, working_point))
        n_events += len(parts[-1])
        if max_events is not None and n_events >= max_events:
            break
    if tick is not None:
        tick(len(sample.files), len(sample.files))
    whole = _join(parts)
    if not whole.truth.valid.any():
        msg = f"sample {sample.name} must hold top pairs that decay to two electrons or muons; found none in {n_events} events"
        raise InputError(msg)
    return whole


def _part(events: ak.Array, splits: dict[str, float], btag: str, working_point: float) -> SpinSample:
    n_events = len(events)
    objects = dilepton_objects(events, btag=btag, working_point=working_point)
    cloud = objects.cloud(EventSchema.standard())
    found = generated_tops(events, cloud, Topology.shipped(TOPOLOGY))
    weight, spin_weight = (
        event_column(name, events[name], n_events) if name in events.fields else np.ones(n_events)
        for name in ("genWeight", "spinWeight")
    )
    run, lumi, number = (ak.to_numpy(events[name]) for name in ("run", "luminosityBlock", "event"))
    slots = found.labels.labels.indices.astype(np.int64)
    position = cloud.index["position"].astype(np.int64)
    jets = np.stack([_at(position, slots[:, s, 0]) for s in (0, 1)])
    truth = SpinTruth(
        found.angles,
        found.neutrino,
        found.antineutrino,
        found.labels.labels.process.astype(np.int64),
        slots,
        jets,
        found.valid,
    )
    part = split_of(run, lumi, number, splits, salt="ttbar-spin")
    return SpinSample(objects, truth, weight, spin_weight, part)


def _at(position: IntArray, slot: IntArray) -> IntArray:
    """Position in its collection of the object in one slot of each event; -1 for slot -1."""
    found = np.take_along_axis(position, np.maximum(slot, 0)[:, None], axis=1)[:, 0]
    return np.where(slot >= 0, found, -1)


def _join(parts: Sequence[SpinSample]) -> SpinSample:
    objects = DileptonObjects(
        # As records alone: behaviours that coffea attached have functions which cannot be sent to another process.
        *(
            ak.Array(ak.concatenate([getattr(p.objects, name) for p in parts]).layout)
            for name in ("leptons", "jets", "met")
        )
    )
    truth = _join_truth([p.truth for p in parts])
    return SpinSample(
        objects,
        truth,
        np.concatenate([p.weight for p in parts]),
        np.concatenate([p.spin_weight for p in parts]),
        np.concatenate([p.part for p in parts]),
    )


def _join_truth(parts: Sequence[SpinTruth]) -> SpinTruth:
    angles = SpinAngles(*(np.concatenate(x, axis=-1) for x in zip(*(p.angles for p in parts), strict=True)))
    last = {"neutrino", "antineutrino", "jet_index"}
    rest = {
        name: np.concatenate([getattr(p, name) for p in parts], axis=-1 if name in last else 0)
        for name in SpinTruth._fields
        if name != "angles"
    }
    return SpinTruth(angles=angles, **rest)
