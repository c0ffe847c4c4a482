"""Reconstructed electrons and muons: resolution, efficiency, identification, isolation, impact parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.simulate.columns import Collection, Columns
from evenet_hep.simulate.detector import DetectorCard, TrackCard
from evenet_hep.simulate.matching import cone_sums
from evenet_hep.simulate.particles import (
    FROM_B_HADRON,
    FROM_C_HADRON,
    IS_PROMPT,
    IS_PROMPT_TAU_PRODUCT,
    Particles,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
CONES = np.array([0.3, 0.4])


class Neighbours(NamedTuple):
    """Hadrons and photons that count in the isolation: start of each event, pT in GeV, directions."""

    offsets: IntArray
    pt: FloatArray
    eta: FloatArray
    phi: FloatArray


class SeenLeptons(NamedTuple):
    """Electrons or muons within the detector and their measured pT, whether or not they are reconstructed.

    Parameters
    ----------
    particle : int64 array
        Positions among the particles.
    scale : float64 array
        Measured over true pT.
    is_reconstructed : bool array
        Those that make it into the collection.
    """

    particle: IntArray
    scale: FloatArray
    is_reconstructed: npt.NDArray[np.bool_]


def isolation_neighbours(particles: Particles, min_pt: float) -> Neighbours:
    """Visible particles above ``min_pt`` that are neither electrons nor muons."""
    counted = particles.is_visible & (particles.pt > min_pt) & ~np.isin(np.abs(particles.pdg_id), (11, 13))
    offsets = particles.offsets_of(counted)
    return Neighbours(offsets, particles.pt[counted], particles.eta[counted], particles.phi[counted])


def see_muons(particles: Particles, card: DetectorCard, random: np.random.Generator) -> SeenLeptons:
    """Muons within the detector, with their measured pT."""
    part = card.muons
    index = _within(particles, 13, part.min_pt, part.max_abs_eta)
    pt, region = particles.pt[index], np.digitize(np.abs(particles.eta[index]), part.eta_edges)
    sigma = np.hypot(np.take(part.resolution, region), part.curvature * pt)
    efficiency = np.where(pt > 5.0, part.efficiency, part.efficiency_soft)
    return _see(index, sigma, efficiency, random)


def see_electrons(
    particles: Particles, flags: npt.NDArray[np.int32], card: DetectorCard, random: np.random.Generator
) -> SeenLeptons:
    """Electrons within the detector, with their measured pT."""
    part = card.electrons
    index = _within(particles, 11, part.min_pt, part.max_abs_eta)
    region = np.digitize(np.abs(particles.eta[index]), part.eta_edges)
    sigma = np.hypot(np.take(part.resolution, region), part.noise / particles.pt[index])
    is_prompt = (flags[index] & (IS_PROMPT | IS_PROMPT_TAU_PRODUCT)) > 0
    efficiency = np.take(part.efficiency, region) * np.where(is_prompt, 1.0, part.in_jet)
    return _see(index, sigma, efficiency, random)


def _within(particles: Particles, code: int, min_pt: float, max_abs_eta: float) -> IntArray:
    seen = particles.is_final & (np.abs(particles.pdg_id) == code)
    return np.flatnonzero(seen & (particles.pt > min_pt) & (np.abs(particles.eta) < max_abs_eta))


def _see(
    index: IntArray, sigma: FloatArray, efficiency: FloatArray, random: np.random.Generator
) -> SeenLeptons:
    scale = np.clip(1.0 + sigma * random.standard_normal(len(index)), 0.5, 1.5)
    return SeenLeptons(index, scale, random.random(len(index)) < efficiency)


def reconstruct_leptons(
    seen: SeenLeptons,
    particles: Particles,
    flags: npt.NDArray[np.int32],
    neighbours: Neighbours,
    card: DetectorCard,
    random: np.random.Generator,
) -> Collection:
    """The fields that electrons and muons share, the hardest first; ``particle`` is the position of the true one."""
    index = seen.particle[seen.is_reconstructed]
    offsets = particles.offsets_of(index)
    eta, phi = particles.eta[index], particles.phi[index]
    columns: Columns = {
        "particle": index,
        "pt": particles.pt[index] * seen.scale[seen.is_reconstructed],
        "eta": eta,
        "phi": phi,
        "mass": particles.mass[index],
        "charge": -np.sign(particles.pdg_id[index]),
        "pdgId": particles.pdg_id[index],
        "genPartFlav": _origin(flags[index]),
    }
    sums = cone_sums(offsets, eta, phi, *neighbours, CONES)
    for radius, name, total in zip(CONES, ("pfRelIso03_all", "pfRelIso04_all"), sums, strict=True):
        pile_up = random.exponential(1.0, len(index)) * card.isolation.pile_up * (radius / 0.4) ** 2
        columns[name] = (total + pile_up) / columns["pt"]
    columns |= impact_parameters(particles, index, card.tracks, random)
    return Collection(np.diff(offsets), columns).sorted_by_pt()


def _origin(flags: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """NanoAOD's genPartFlav: 1 prompt, 15 of a prompt tau, 5 of a b hadron, 4 of a c hadron, 3 of others."""
    cases = [(flags & bit) > 0 for bit in (IS_PROMPT, IS_PROMPT_TAU_PRODUCT, FROM_B_HADRON, FROM_C_HADRON)]
    return np.select(cases, [1, 15, 5, 4], 3)


def impact_parameters(
    particles: Particles, index: IntArray, card: TrackCard, random: np.random.Generator
) -> Columns:
    """Impact parameters with respect to the primary vertex and their errors, in centimetres."""
    x, y, z = (vertex[index] / 10.0 for vertex in (particles.x, particles.y, particles.z))
    px, py, pz, pt = (values[index] for values in (particles.px, particles.py, particles.pz, particles.pt))
    growth = 1.0 + card.soft / pt
    dxy_error, dz_error = card.dxy * growth, card.dz * growth
    dxy = (y * px - x * py) / pt + dxy_error * random.standard_normal(len(index))
    dz = z - (x * px + y * py) * pz / pt**2 + dz_error * random.standard_normal(len(index))
    # dz is taken where the track is closest to the beam; across the track it is shorter.
    across = dz * pt / np.hypot(pt, pz)
    ip3d = np.hypot(dxy, across)
    error = np.sqrt((dxy * dxy_error) ** 2 + (across * dz_error * pt / np.hypot(pt, pz)) ** 2) / ip3d
    return {
        "dxy": dxy, "dxyErr": dxy_error, "dz": dz, "dzErr": dz_error, "ip3d": ip3d, "sip3d": ip3d / error,
    }  # fmt: skip


def identify_muons(muons: Collection, card: DetectorCard, random: np.random.Generator) -> Collection:
    """Muons with their identification flags."""
    quality = random.random(len(muons["pt"]))
    part = card.muons
    flags = {
        "looseId": quality < part.loose,
        "mediumId": quality < part.medium,
        "tightId": quality < part.tight,
        "isGlobal": quality < part.loose,
        "isPFcand": quality < part.loose,
    }
    return Collection(muons.counts, muons.columns | flags)


def identify_electrons(electrons: Collection, card: DetectorCard, random: np.random.Generator) -> Collection:
    """Electrons with their identification flags."""
    quality = random.random(len(electrons["pt"]))
    part = card.electrons
    is_isolated = electrons["pfRelIso03_all"] < card.isolation.limit
    levels = np.select([quality < fraction for fraction in part.cut_based], [4, 3, 2], 1)
    columns = {name: values for name, values in electrons.columns.items() if name != "pfRelIso04_all"}
    columns |= {
        "cutBased": levels,
        "mvaFall17V2Iso_WP90": is_isolated & (quality < part.mva90),
        "mvaFall17V2Iso_WP80": is_isolated & (quality < part.mva80),
        "convVeto": np.ones(len(quality), bool),
    }
    return Collection(electrons.counts, columns)
