"""Top pairs with two leptons: the objects of an event, the pair of leptons and b jets of a measurement, and the truth.

Three steps, each on what the one before gave, so that shifted objects take the same road as nominal ones:

:func:`dilepton_objects`     isolated leptons, and jets away from them, before any cut on the pT of jets
:func:`dilepton_candidates`  the selection of the measurement: l+, l- and the two hardest b jets
:func:`generated_tops`       tops, leptons and neutrinos of the generator
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.flat import event_column
from evenet_hep.events.momenta import four_momenta
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.observables import remove_overlap, require_objects
from evenet_hep.events.selection import DEEPFLAVOUR_WORKING_POINT, select_tt2l, select_tt2l_training
from evenet_hep.events.systematics import shift_energy_scale
from evenet_hep.events.truth import TruthLabels, label_events
from evenet_hep.kinematics.spin import SpinAngles, spin_angles
from evenet_hep.kinematics.vectors import to_cartesian, transverse
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

BRANCHES = Branches(leptons=("Lepton",), jets=("Jet",), met="MET", btag="btag", working_point=0.5)
MAX_ETA = 2.5
ISOLATION = 0.15

_LEPTON = ("pt", "eta", "phi", "mass", "charge")
_JET = ("pt", "eta", "phi", "mass", "btag")


@dataclasses.dataclass(frozen=True)
class DileptonObjects:
    """Objects of many events.

    Parameters
    ----------
    leptons : ak.Array of lists of records
        Isolated electrons and muons above 10 GeV, the hardest four: pt, eta, phi, mass and charge.
    jets : ak.Array of lists of records
        Jets within abs(eta) < 2.5 that have no such lepton within Delta R = 0.4: pt, eta, phi, mass and btag, which is
        1 for a b-tagged jet and else 0.
    met : ak.Array of records
        Missing transverse momentum: pt and phi.
    """

    leptons: ak.Array
    jets: ak.Array
    met: ak.Array

    def __len__(self) -> int:
        return len(self.met)

    def take(self, where: npt.NDArray[np.integer | np.bool_]) -> DileptonObjects:
        """Some of the events: a bool per event, or their numbers."""
        return DileptonObjects(self.leptons[where], self.jets[where], self.met[where])

    def with_energy_scale(self, alpha: npt.ArrayLike) -> DileptonObjects:
        """The same events with the pT of all jets scaled by 1 + alpha, and the missing momentum that goes with it."""
        shifted = shift_energy_scale(self.jets, self.met, alpha)
        return dataclasses.replace(self, jets=shifted.jets, met=shifted.met)

    def collections(self) -> dict[str, ak.Array]:
        """What a network reads: leptons, and of the jets above 20 GeV the hardest four b jets and six others."""
        chosen = select_tt2l_training(self.leptons, self.jets, is_bjet=self.jets["btag"] > 0.5)
        jets = ak.concatenate([chosen.bjets, chosen.other_jets], axis=1)
        order = ak.argsort(jets["pt"], axis=1, ascending=False, stable=True)
        return {"Lepton": chosen.leptons, "Jet": jets[order]}

    def cloud(self, schema: EventSchema) -> EventCloud:
        """The events as a network reads them; positions in its index count in :meth:`collections`."""
        events = ak.zip({**self.collections(), "MET": self.met}, depth_limit=1)
        return EventCloud.from_awkward(events, schema, branches=BRANCHES)


class DileptonCandidates(NamedTuple):
    """The objects of the measurement, one entry per event; NaN where ``passed`` is False.

    Parameters
    ----------
    passed : bool array, shape (n_events,)
        Exactly two leptons with pT > 25 GeV, of opposite charge, and at least two b jets with pT > 25 GeV.
    lplus, lminus : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV.
    bjet1, bjet2 : float64 array, shape (4, n_events)
        The two hardest b jets.
    bjet_index : int64 array, shape (2, n_events)
        Their positions among ``collections()["Jet"]``; -1 where ``passed`` is False.
    met_x, met_y : float64 array, shape (n_events,)
        GeV.
    """

    passed: BoolArray
    lplus: FloatArray
    lminus: FloatArray
    bjet1: FloatArray
    bjet2: FloatArray
    bjet_index: IntArray
    met_x: FloatArray
    met_y: FloatArray


class GeneratedTops(NamedTuple):
    """Top pairs of the generator, one entry per event; NaN where ``valid`` is False.

    Parameters
    ----------
    top, antitop, lplus, lminus : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV: tops before they decay, leptons before they radiate.
    neutrino, antineutrino : float64 array, shape (4, n_events)
        The neutrino that goes with l+ and the antineutrino that goes with l-.
    angles : SpinAngles
        Of these.
    valid : bool array, shape (n_events,)
        The event is a top pair with two leptons.
    labels : TruthLabels
        With the slots of ``cloud`` for b quarks and leptons: resonance 0 is the top, 1 the antitop; daughter 0 is the
        b quark, 1 the lepton.
    """

    top: FloatArray
    antitop: FloatArray
    lplus: FloatArray
    lminus: FloatArray
    neutrino: FloatArray
    antineutrino: FloatArray
    angles: SpinAngles
    valid: BoolArray
    labels: TruthLabels


def dilepton_objects(
    events: ak.Array,
    *,
    btag: str = "btagDeepFlavB",
    working_point: float = DEEPFLAVOUR_WORKING_POINT,
    met: str = "MET",
) -> DileptonObjects:
    """Isolated leptons, jets away from them, and missing momentum of NanoAOD events.

    Parameters
    ----------
    events : ak.Array
        NanoEvents, or records with Electron, Muon, Jet and the missing momentum.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float
        A jet is b-tagged above it, strictly.
    met : str
        Collection with the missing momentum.

    Returns
    -------
    DileptonObjects
        Electrons and muons above 10 GeV within abs(eta) < 2.5 and 2.4, with a relative isolation below 0.15 in cones
        of 0.3 and 0.4; jets are not cut in pT, so that their energies can still be shifted.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.
    """
    electrons = require_objects("Electron", events["Electron"], (*_LEPTON, "pfRelIso03_all"))
    muons = require_objects("Muon", events["Muon"], (*_LEPTON, "pfRelIso04_all"))
    jets = require_objects("Jet", events["Jet"], ("pt", "eta", "phi", "mass", btag))
    electrons = electrons[
        (electrons["pt"] > 10) & (abs(electrons["eta"]) < MAX_ETA) & (electrons["pfRelIso03_all"] < ISOLATION)
    ]
    muons = muons[(muons["pt"] > 10) & (abs(muons["eta"]) < 2.4) & (muons["pfRelIso04_all"] < ISOLATION)]
    jets = remove_overlap(jets[abs(jets["eta"]) < MAX_ETA], electrons, muons)
    leptons = ak.concatenate([_bare(electrons, _LEPTON), _bare(muons, _LEPTON)], axis=1)
    order = ak.argsort(leptons["pt"], axis=1, ascending=False, stable=True)
    tagged = ak.values_astype(jets[btag] > working_point, np.float32)
    missing = events[met]
    return DileptonObjects(
        leptons=leptons[order],
        jets=ak.with_field(_bare(jets, _JET[:-1]), tagged, "btag"),
        met=ak.zip({name: ak.materialize(missing[name]) for name in ("pt", "phi")}),
    )


def _bare(records: ak.Array, names: tuple[str, ...]) -> ak.Array:
    """Plain records with some of the fields: charges as numbers, behaviours and cross-references left behind."""
    return ak.zip({name: ak.values_astype(ak.materialize(records[name]), np.float32) for name in names})


def dilepton_candidates(objects: DileptonObjects) -> DileptonCandidates:
    """The leptons and b jets of the measurement.

    Parameters
    ----------
    objects : DileptonObjects
        Nominal or shifted.
    """
    n_events = len(objects)
    jets = objects.collections()["Jet"]
    found = select_tt2l(objects.leptons, jets[jets["btag"] > 0.5])
    leptons = found.leptons
    positions = ak.local_index(jets, axis=1)
    is_selected = (jets["btag"] > 0.5) & (jets["pt"] > 25.0) & (abs(jets["eta"]) < MAX_ETA)
    chosen = ak.to_numpy(ak.fill_none(ak.pad_none(positions[is_selected], 2, clip=True), -1))
    bjets = ak.pad_none(found.bjets, 2)
    chosen_objects = (
        ("lepton", ak.firsts(leptons[leptons["charge"] > 0])),
        ("lepton", ak.firsts(leptons[leptons["charge"] < 0])),
        ("b jet", bjets[:, 0]),
        ("b jet", bjets[:, 1]),
    )
    lplus, lminus, bjet1, bjet2 = (
        np.where(found.passed, four_momenta(name, records, n_events), np.nan)
        for name, records in chosen_objects
    )
    pt, phi = (event_column(f"met {name}", objects.met[name], n_events) for name in ("pt", "phi"))
    met_x, met_y = transverse(pt, phi)
    index = np.where(found.passed, chosen.T, -1).astype(np.int64)
    return DileptonCandidates(found.passed, lplus, lminus, bjet1, bjet2, index, met_x, met_y)


def generated_tops(events: ak.Array, cloud: EventCloud, topology: Topology) -> GeneratedTops:
    """Top pairs of simulated events, as the generator made them.

    Parameters
    ----------
    events : ak.Array
        With GenPart; those the cloud was built from.
    cloud : EventCloud
        From :meth:`DileptonObjects.cloud`.
    topology : Topology
        ``ttbar_dilepton``, or one with a process of the same two resonances.
    """
    truth = label_events(events, cloud, topology, taus="none")
    valid = truth.labels.process >= 0
    resonances = np.moveaxis(truth.momentum[:, :2].astype(np.float64), 0, -1)  # (2, 4, n)
    particles = events["GenPart"]
    flat = [ak.to_numpy(ak.flatten(particles[name])) for name in ("pt", "eta", "phi", "mass")]
    counts = ak.to_numpy(ak.num(particles["pt"]))
    places = np.cumsum(counts) - counts + truth.gen_daughter[:, :2, 1].T  # of the leptons, (2, n)
    leptons = np.full((2, 4, len(valid)), np.nan)
    for s in (0, 1):
        leptons[s][:, valid] = [column[places[s, valid]] for column in flat]
    labels = truth.labels
    invisible = np.full((2, 4, len(valid)), 0.0)  # pt, eta, phi, and no mass
    invisible[:, :3] = np.moveaxis(
        np.where(labels.invisible_mask[..., None], labels.invisible, np.nan), 0, -1
    )
    columns = np.concatenate([resonances, leptons, invisible])  # (6, 4, n)
    columns[..., ~valid] = np.nan
    top, antitop, lplus, lminus, neutrino, antineutrino = (
        _cartesian(pt, eta, phi, mass) for pt, eta, phi, mass in columns
    )
    angles = spin_angles(top, antitop, lplus, lminus)
    return GeneratedTops(
        top, antitop, lplus, lminus, neutrino, antineutrino, angles, valid & angles.valid, truth
    )


def _cartesian(pt: FloatArray, eta: FloatArray, phi: FloatArray, mass: FloatArray) -> FloatArray:
    return np.stack(to_cartesian(pt, eta, phi, mass))
