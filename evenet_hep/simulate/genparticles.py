"""Which generated particles are written, and as what: GenPart, pruned as NanoAOD prunes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.simulate.columns import Collection, Columns
from evenet_hep.simulate.particles import (
    FROM_HARD_PROCESS,
    IS_DECAYED_LEPTON_HADRON,
    IS_DIRECT_TAU_PRODUCT,
    IS_FIRST_COPY,
    IS_HARD_PROCESS,
    IS_LAST_COPY,
    IS_PROMPT,
    IS_PROMPT_TAU_PRODUCT,
    NANOAOD_BITS,
    Particles,
    is_b_hadron,
    is_c_hadron,
)

IntArray = npt.NDArray[np.int64]

RESONANCES = (6, 23, 24, 25, 35, 36)
MIN_PHOTON_PT = 10.0  # GeV
MIN_SECONDARY_LEPTON_PT = 1.0  # GeV, of electrons and muons from hadrons


def choose_particles(particles: Particles, flags: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """True for the particles that GenPart keeps.

    These are the hard process and the last copies of what comes from it, first and last copies of resonances, prompt
    electrons, muons and taus, the products of taus, all neutrinos, electrons and muons of hadrons above 1 GeV, prompt
    photons above 10 GeV, and all hadrons with a b or c quark.
    """
    code = np.abs(particles.pdg_id)

    def has(bits: int) -> npt.NDArray[np.bool_]:
        present: npt.NDArray[np.bool_] = (flags & bits) == bits
        return present

    ends = has(IS_FIRST_COPY) | has(IS_LAST_COPY)
    is_lepton = np.isin(code, (11, 13))
    kept = has(IS_HARD_PROCESS) | has(FROM_HARD_PROCESS | IS_LAST_COPY)
    kept |= np.isin(code, RESONANCES) & ends
    kept |= (code == 15) & ends
    kept |= has(IS_DIRECT_TAU_PRODUCT)
    is_prompt = has(IS_PROMPT) | has(IS_PROMPT_TAU_PRODUCT)
    kept |= is_lepton & is_prompt & ends
    kept |= is_lepton & particles.is_final & (particles.pt > MIN_SECONDARY_LEPTON_PT)
    kept |= particles.is_neutrino & particles.is_final
    kept |= (code == 22) & particles.is_final & has(IS_PROMPT) & (particles.pt > MIN_PHOTON_PT)
    kept |= _are_heavy_hadrons(particles.pdg_id)
    return kept


@njit(cache=True)
def _are_heavy_hadrons(pdg_id: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    heavy = np.zeros(len(pdg_id), np.bool_)
    for i in range(len(pdg_id)):
        heavy[i] = is_b_hadron(pdg_id[i]) or is_c_hadron(pdg_id[i])
    return heavy


@njit(cache=True)
def nearest_kept(mother: IntArray, kept: npt.NDArray[np.bool_]) -> IntArray:
    """The closest ancestor that is kept, as a position in the full listing; -1 without.

    Examples
    --------
    >>> nearest_kept(np.array([-1, 0, 1]), np.array([True, False, True]))
    array([-1,  0,  0])
    """
    found = np.full(len(mother), -1, np.int64)
    for i in range(len(mother)):
        m = mother[i]
        if m < 0 or m >= i:
            continue
        found[i] = m if kept[m] else found[m]
    return found


def generated_particles(particles: Particles, flags: npt.NDArray[np.int32]) -> tuple[Collection, IntArray]:
    """The collection GenPart, and the position in its event of every particle of the full listing (-1: not kept)."""
    kept = choose_particles(particles, flags)
    index = np.flatnonzero(kept)
    counts = np.bincount(particles.event[index], minlength=particles.n_events)
    collection = Collection(counts, {})
    position = np.full(len(kept), -1, np.int64)
    position[index] = collection.position
    ancestor = nearest_kept(particles.mother, kept)[index]
    columns: Columns = {
        "pt": particles.pt[index],
        "eta": particles.eta[index],
        "phi": particles.phi[index],
        "mass": particles.mass[index],
        "pdgId": particles.pdg_id[index],
        "status": _hepmc_status(particles.status[index], flags[index]),
        "statusFlags": flags[index] & NANOAOD_BITS,
        "genPartIdxMother": np.where(ancestor >= 0, position[ancestor], -1),
    }
    return Collection(counts, columns), position


def _hepmc_status(status: npt.NDArray[np.int32], flags: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """1 for final particles, 2 for decayed hadrons and leptons, Pythia's code for everything else."""
    decayed = (flags & IS_DECAYED_LEPTON_HADRON) > 0
    return np.where(status > 0, 1, np.where(decayed, 2, np.abs(status))).astype(np.int32)
