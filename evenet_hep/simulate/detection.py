"""From a batch of generated events to the columns of a NanoAOD-like file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.simulate import columns as collections
from evenet_hep.simulate.columns import Collection, Columns, local_index
from evenet_hep.simulate.detector import DetectorCard, TriggerCard
from evenet_hep.simulate.genparticles import generated_particles
from evenet_hep.simulate.jets import cluster_jets, smear_jets
from evenet_hep.simulate.leptons import (
    SeenLeptons,
    identify_electrons,
    identify_muons,
    isolation_neighbours,
    reconstruct_leptons,
    see_electrons,
    see_muons,
)
from evenet_hep.simulate.matching import nearest_within
from evenet_hep.simulate.particles import Particles, ancestry_flags
from evenet_hep.simulate.pythia import GeneratedBatch, HardProcess
from evenet_hep.simulate.spin import batch_spin_weights
from evenet_hep.simulate.taus import reconstruct_taus

FloatArray = npt.NDArray[np.float64]

LUMINOUS_REGION = 3.5  # cm, along the beams; impact parameters do not depend on where the vertex is


class DetectedEvents(NamedTuple):
    """Columns of many events.

    Parameters
    ----------
    objects : dict of Collection
        By name: Jet, Muon, Electron, Tau, GenPart, GenJet.
    columns : dict of arrays, shape (n_events,)
        One number per event, by branch.
    """

    objects: dict[str, Collection]
    columns: Columns

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.columns["genWeight"])

    def select(self, passed: npt.NDArray[np.bool_]) -> DetectedEvents:
        """Only the events that passed."""
        objects = {name: collection.select_events(passed) for name, collection in self.objects.items()}
        return DetectedEvents(objects, {name: values[passed] for name, values in self.columns.items()})


def concatenate_events(parts: list[DetectedEvents]) -> DetectedEvents:
    """Events of several batches, one after the other."""
    objects = {
        name: collections.concatenate([part.objects[name] for part in parts]) for name in parts[0].objects
    }
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return DetectedEvents(objects, columns)


def detect(
    batch: GeneratedBatch, card: DetectorCard, random: np.random.Generator, *, has_top_pair: bool = False
) -> DetectedEvents:
    """Reconstructed objects of generated events.

    Parameters
    ----------
    batch : GeneratedBatch
        From :meth:`evenet_hep.simulate.pythia.Generator.next_batch`.
    card : DetectorCard
        Resolutions, efficiencies, tag rates.
    random : numpy.random.Generator
        Source of all random numbers.
    has_top_pair : bool
        The events are QCD top pairs: fill ``spinWeight``, which is 1 otherwise.

    Returns
    -------
    DetectedEvents
        All events, in order.
    """
    particles, hard = batch
    flags = ancestry_flags(particles.pdg_id, particles.status, particles.mother)
    muons_seen = see_muons(particles, card, random)
    electrons_seen = see_electrons(particles, flags, card, random)
    neighbours = isolation_neighbours(particles, card.isolation.min_pt)
    muons = reconstruct_leptons(muons_seen, particles, flags, neighbours, card, random)
    electrons = reconstruct_leptons(electrons_seen, particles, flags, neighbours, card, random)
    muons, electrons = identify_muons(muons, card, random), identify_electrons(electrons, card, random)
    generated_jets = cluster_jets(particles, flags, card.jets)
    smeared = smear_jets(generated_jets, particles, [muons_seen, electrons_seen], card, random)
    taus = reconstruct_taus(particles, flags, smeared.jets, card, random)
    generated, position = generated_particles(particles, flags)
    objects = {"Electron": electrons, "Muon": muons, "Tau": taus}
    objects = {name: _linked(found, smeared.jets, position, card) for name, found in objects.items()}
    objects |= {"Jet": smeared.jets, "GenJet": _generated_jet_fields(generated_jets), "GenPart": generated}
    shift = smeared.shift + _shift_outside_jets(particles, generated_jets, [muons_seen, electrons_seen], card)
    columns = generator_columns(hard)
    is_gg = (hard.id1 == 21) & (hard.id2 == 21)
    columns["spinWeight"] = (
        batch_spin_weights(particles, flags, is_gg) if has_top_pair else np.ones(len(is_gg))
    )
    columns |= _met_columns(particles, shift, card, random)
    columns |= _vertex_columns(len(is_gg), card, random)
    columns |= _trigger_columns(muons, electrons, card, random)
    return DetectedEvents(objects, columns)


def _linked(
    found: Collection, jets: Collection, position: npt.NDArray[np.int64], card: DetectorCard
) -> Collection:
    """The collection with its references: nearest jet, true particle."""
    nearest = nearest_within(
        found.offsets, found["eta"], found["phi"], jets.offsets, jets["eta"], jets["phi"], card.jets.radius
    )
    true = found["particle"]
    columns = {name: values for name, values in found.columns.items() if name != "particle"}
    columns["jetIdx"] = local_index(nearest, found.event, jets.offsets)
    columns["genPartIdx"] = np.where(true >= 0, position[true], -1)
    return Collection(found.counts, columns)


def _generated_jet_fields(jets: Collection) -> Collection:
    names = ("pt", "eta", "phi", "mass", "hadronFlavour", "partonFlavour")
    return Collection(jets.counts, {name: jets[name] for name in names})


def _shift_outside_jets(
    particles: Particles, jets: Collection, leptons: list[SeenLeptons], card: DetectorCard
) -> FloatArray:
    """Measured minus true momentum of leptons that are in no jet, shape (2, n_events), GeV."""
    shift = np.zeros((2, particles.n_events))
    for seen in leptons:
        index = seen.particle
        nearest = nearest_within(
            particles.offsets_of(index), particles.eta[index], particles.phi[index],
            jets.offsets, jets["eta"], jets["phi"], card.jets.radius,
        )  # fmt: skip
        outside = np.where(nearest < 0, seen.scale - 1.0, 0.0)
        for axis, component in enumerate((particles.px, particles.py)):
            shift[axis] += np.bincount(
                particles.event[index], component[index] * outside, minlength=particles.n_events
            )
    return shift


def generator_columns(hard: HardProcess) -> Columns:
    """Branches of the hard process."""
    return {
        "genWeight": hard.weight,
        "Generator_weight": hard.weight,
        "Generator_id1": hard.id1,
        "Generator_id2": hard.id2,
        "Generator_x1": hard.x1,
        "Generator_x2": hard.x2,
        "Generator_scalePDF": hard.scale,
    }


def _met_columns(
    particles: Particles, shift: FloatArray, card: DetectorCard, random: np.random.Generator
) -> Columns:
    neutrinos = particles.is_final & particles.is_neutrino
    visible = particles.is_visible
    n = particles.n_events
    event = particles.event
    total = np.bincount(event[visible], particles.pt[visible], n)
    true = np.stack(
        [np.bincount(event[neutrinos], component[neutrinos], n) for component in (particles.px, particles.py)]
    )
    width = np.sqrt(card.met.noise**2 + card.met.stochastic**2 * total)
    measured = true - shift + width * random.standard_normal((2, n))
    return {
        "MET_pt": np.hypot(*measured),
        "MET_phi": np.arctan2(measured[1], measured[0]),
        "MET_sumEt": total,
        "GenMET_pt": np.hypot(*true),
        "GenMET_phi": np.arctan2(true[1], true[0]),
    }


def _vertex_columns(n_events: int, card: DetectorCard, random: np.random.Generator) -> Columns:
    vertices = 1 + random.poisson(max(card.mean_vertices - 1.0, 0.0), n_events)
    return {
        "PV_npvs": vertices,
        "PV_npvsGood": 1 + random.binomial(vertices - 1, 0.85),
        "PV_x": np.zeros(n_events),
        "PV_y": np.zeros(n_events),
        "PV_z": LUMINOUS_REGION * random.standard_normal(n_events),
    }


def _trigger_columns(
    muons: Collection, electrons: Collection, card: DetectorCard, random: np.random.Generator
) -> Columns:
    limit = card.isolation.limit
    part: TriggerCard = card.triggers
    single_muon = muons.count((muons["pt"] > 24.0) & (muons["pfRelIso04_all"] < limit)) > 0
    electron_30 = electrons.count((electrons["pt"] > 27.0) & (electrons["pfRelIso03_all"] < limit)) > 0
    pair = (muons.count(muons["pt"] > 5.0) >= 2) & (muons.count(muons["pt"] > 15.0) >= 1)
    fired: Mapping[str, tuple[Any, float]] = {
        "HLT_IsoMu24": (single_muon, part.muon),
        "HLT_Ele27_WPTight_Gsf": (electron_30, part.electron),
        "HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx": (pair, part.dimuon),
    }
    n = len(muons.counts)
    return {name: passed & (random.random(n) < efficiency) for name, (passed, efficiency) in fired.items()}
