"""Jets with their constituents from generated events, in the tables of NanoAOD with PF candidates."""

from __future__ import annotations

from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.substructure import jet_substructure
from evenet_hep.simulate.candidates import CandidateCard, make_candidates
from evenet_hep.simulate.columns import Collection, Columns
from evenet_hep.simulate.detection import DetectedEvents, generator_columns
from evenet_hep.simulate.extra import import_fastjet
from evenet_hep.simulate.genparticles import generated_particles
from evenet_hep.simulate.jet_truth import true_codes
from evenet_hep.simulate.jets import hadron_flavour, parton_flavour
from evenet_hep.simulate.particles import Particles, ancestry_flags
from evenet_hep.simulate.pythia import GeneratedBatch
from evenet_hep.simulate.spin import batch_spin_weights

IntArray = npt.NDArray[np.int64]


class ClusteredJets(NamedTuple):
    """Jets, and which candidates they are made of.

    Parameters
    ----------
    jets : Collection
        pt, eta, phi, mass (GeV and radians) and nConstituents, the hardest first.
    table : Collection
        jetIdx and pfCandIdx, positions within the event: one entry per constituent, jet by jet, the hardest
        constituent first.
    """

    jets: Collection
    table: Collection


def cluster_candidates(
    candidates: Collection, *, radius: float, min_pt: float, max_abs_eta: float
) -> ClusteredJets:
    """Anti-kT jets of candidates.

    Parameters
    ----------
    candidates : Collection
        pt, eta, phi, mass in GeV and radians, the hardest first.
    radius, min_pt, max_abs_eta : float
        R, and the jets that are kept; GeV.
    """
    fastjet = import_fastjet()
    pt, eta, phi, mass = (candidates[name] for name in ("pt", "eta", "phi", "mass"))
    momenta = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta)}
    momenta["E"] = np.sqrt(pt**2 + momenta["pz"] ** 2 + mass**2)
    events = ak.zip(
        {name: ak.unflatten(x, candidates.counts) for name, x in momenta.items()}, with_name="Momentum4D"
    )
    tree = fastjet.ClusterSequence(events, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    found, members = tree.inclusive_jets(min_pt=min_pt), tree.constituent_index(min_pt=min_pt)
    jets = _collection(found)
    is_kept = np.abs(jets["eta"]) < max_abs_eta
    kept = np.flatnonzero(is_kept)
    order = kept[np.lexsort((-jets["pt"][kept], jets.event[kept]))]
    inside = ak.sort(ak.flatten(members)[order], axis=1)  # candidates are sorted by pT
    sizes = ak.to_numpy(ak.num(inside)).astype(np.int64)
    jets = jets.take(order)
    jets.columns["nConstituents"] = sizes
    table = Collection(
        np.bincount(jets.event, sizes, len(jets.counts)).astype(np.int64),
        {"jetIdx": np.repeat(jets.position, sizes), "pfCandIdx": np.asarray(ak.to_numpy(ak.flatten(inside)), np.int64)},
    )  # fmt: skip
    return ClusteredJets(jets, table)


def _collection(found: ak.Array) -> Collection:
    px, py, pz, energy = (
        np.asarray(ak.to_numpy(ak.flatten(found[name])), np.float64) for name in ("px", "py", "pz", "E")
    )
    pt = np.hypot(px, py)
    columns: Columns = {
        "pt": pt,
        "eta": np.arcsinh(pz / np.maximum(pt, 1e-9)),
        "phi": np.arctan2(py, px),
        "mass": np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0.0)),
    }
    return Collection(ak.to_numpy(ak.num(found["px"], axis=1)).astype(np.int64), columns)


def detect_constituents(
    batch: GeneratedBatch, card: CandidateCard, random: np.random.Generator, *, has_top_pair: bool = False
) -> DetectedEvents:
    """Jets of generated events with their constituents, substructure and truth.

    Parameters
    ----------
    batch : GeneratedBatch
        From :meth:`evenet_hep.simulate.pythia.Generator.next_batch`.
    card : CandidateCard
        Detector and jets.
    random : numpy.random.Generator
        Source of all random numbers.
    has_top_pair : bool
        The events are QCD top pairs: fill ``spinWeight``, which is 1 otherwise.

    Returns
    -------
    DetectedEvents
        Objects FatJet and Jet, FatJetPFCand and JetPFCand (jetIdx, pfCandIdx), PFCand (candidates in any of the jets) and
        GenPart; missing momentum of all candidates.
    """
    particles, hard = batch
    flags = ancestry_flags(particles.pdg_id, particles.status, particles.mother)
    candidates = make_candidates(particles, card, random)
    objects: dict[str, Collection] = {}
    for name, radius, min_pt in (
        ("FatJet", card.fat_radius, card.fat_min_pt),
        ("Jet", card.radius, card.min_pt),
    ):
        found = cluster_candidates(candidates, radius=radius, min_pt=min_pt, max_abs_eta=card.max_abs_eta)
        columns = _substructure_columns(found, candidates, radius) | _truth_columns(
            found.jets, particles, flags, radius
        )
        objects[name] = Collection(found.jets.counts, found.jets.columns | columns)
        objects[f"{name}PFCand"] = found.table
    objects = _pruned(objects, candidates) | {"GenPart": generated_particles(particles, flags)[0]}
    is_gg = (hard.id1 == 21) & (hard.id2 == 21)
    spin = batch_spin_weights(particles, flags, is_gg) if has_top_pair else np.ones(len(is_gg))
    columns = generator_columns(hard) | {"spinWeight": spin} | _met_columns(candidates)
    return DetectedEvents(objects, columns)


def _substructure_columns(found: ClusteredJets, candidates: Collection, radius: float) -> Columns:
    table = found.table
    chosen = table["pfCandIdx"] + candidates.offsets[table.event]
    offsets = np.concatenate([[0], np.cumsum(found.jets["nConstituents"])])
    inside = jet_substructure(
        offsets, *(candidates[name][chosen] for name in ("pt", "eta", "phi", "mass")), radius=radius
    )
    taus = {f"tau{k + 1}": tau for k, tau in enumerate(inside.tau)}
    return {"msoftdrop": inside.softdrop_mass, **taus}


def _truth_columns(
    jets: Collection, particles: Particles, flags: npt.NDArray[np.int32], radius: float
) -> Columns:
    partons = parton_flavour(jets, particles, flags, radius)
    return {
        "hadronFlavour": hadron_flavour(jets, particles, flags, radius),
        "partonFlavour": partons,
        "truthPdgId": true_codes(jets, particles, partons, radius),
    }


def _pruned(objects: dict[str, Collection], candidates: Collection) -> dict[str, Collection]:
    """The same jets with a PFCand that holds the candidates of jets alone, as in NanoAOD."""
    is_used = np.zeros(len(candidates["pt"]), bool)
    tables = [name for name in objects if name.endswith("PFCand")]
    flat = {name: objects[name]["pfCandIdx"] + candidates.offsets[objects[name].event] for name in tables}
    for chosen in flat.values():
        is_used[chosen] = True
    kept = candidates.take(is_used)
    position = np.full(len(is_used), -1, np.int64)
    position[is_used] = kept.position
    for name in tables:
        objects[name].columns["pfCandIdx"] = position[flat[name]]
    return objects | {"PFCand": kept}


def _met_columns(candidates: Collection) -> Columns:
    pt, phi, n = candidates["pt"], candidates["phi"], len(candidates.counts)
    x, y = (-np.bincount(candidates.event, pt * f(phi), n) for f in (np.cos, np.sin))
    total: Any = np.bincount(candidates.event, pt, n)
    return {"MET_pt": np.hypot(x, y), "MET_phi": np.arctan2(y, x), "MET_sumEt": total}
