"""What a simulated jet is: the particle whose decay it holds, or the parton it comes from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.angles import delta_r_scalar
from evenet_hep.simulate.columns import Collection
from evenet_hep.simulate.genparticles import RESONANCES
from evenet_hep.simulate.particles import Particles

IntArray = npt.NDArray[np.int64]

TOP, W = 6, 24


def true_codes(jets: Collection, particles: Particles, partons: IntArray, radius: float) -> IntArray:
    """PDG code, without sign, of what every jet is.

    Parameters
    ----------
    jets : Collection
        With eta and phi.
    particles : Particles
        Of the same events.
    partons : int64 array, shape (n_jets,)
        Code of the nearest outgoing parton of each jet; 0 without.
    radius : float
        Of the jets.

    Returns
    -------
    int64 array, shape (n_jets,)
        6 for a jet with all three quarks of a top within ``radius`` of its axis; else 23, 24, 25, 35 or 36 for one with
        both quarks of such a boson; else the code of the parton (1 to 5, 21), or 0.
    """
    code = np.abs(particles.pdg_id).astype(np.int64)
    quarks, boson, top = _decay_quarks(code, particles.mother, np.array(RESONANCES, np.int64))
    offsets = particles.offsets_of(quarks)
    found = _held(
        jets.offsets, jets["eta"], jets["phi"],
        offsets, particles.eta[quarks], particles.phi[quarks], boson, top, code, radius,
    )  # fmt: skip
    return np.where(found > 0, found, np.abs(partons))


@njit(cache=True)
def _first_copy(at: int, code: IntArray, mother: IntArray) -> int:
    while 0 <= mother[at] < at and code[mother[at]] == code[at]:
        at = mother[at]
    return at


@njit(cache=True)
def _decay_quarks(
    code: IntArray, mother: IntArray, resonances: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Quarks of the decays of resonances: positions, first copy of the boson and of the top they come from, or -1."""
    quarks, bosons, tops = [], [], []
    for i in range(len(code)):
        m = mother[i]
        if not (1 <= code[i] <= 5 and 0 <= m < i) or not (code[m] == resonances).any():
            continue
        boson, top = -1, -1
        if code[m] == TOP:
            top = _first_copy(m, code, mother)
        else:
            boson = _first_copy(m, code, mother)
            above = mother[boson]
            if code[boson] == W and 0 <= above < boson and code[above] == TOP:
                top = _first_copy(above, code, mother)
        quarks.append(i)
        bosons.append(boson)
        tops.append(top)
    return np.array(quarks, np.int64), np.array(bosons, np.int64), np.array(tops, np.int64)


@njit(cache=True)
def _held(  # type: ignore[no-untyped-def]
    jet_offsets, jet_eta, jet_phi, offsets, eta, phi, boson, top, code, radius
):
    found = np.zeros(len(jet_eta), np.int64)
    for event in range(len(jet_offsets) - 1):
        start, stop = offsets[event], offsets[event + 1]
        for jet in range(jet_offsets[event], jet_offsets[event + 1]):
            for i in range(start, stop):
                if delta_r_scalar(jet_eta[jet], jet_phi[jet], eta[i], phi[i]) >= radius:
                    continue
                n_top, n_boson = 0, 0  # quarks of the same top and of the same boson inside
                for k in range(start, stop):
                    if delta_r_scalar(jet_eta[jet], jet_phi[jet], eta[k], phi[k]) < radius:
                        n_top += top[i] >= 0 and top[k] == top[i]
                        n_boson += boson[i] >= 0 and boson[k] == boson[i]
                if n_top == 3:
                    found[jet] = TOP
                elif n_boson == 2 and found[jet] != TOP:
                    found[jet] = code[boson[i]]
    return found
