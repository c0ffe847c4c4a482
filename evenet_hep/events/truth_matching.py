"""Generated daughters matched to reconstructed objects, and the invisible particles beside them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.events.decays import TAU, Decays
from evenet_hep.events.gen_particles import GenParticles
from evenet_hep.events.process_search import FoundProcesses, lepton_of_tau, tau_descendant
from evenet_hep.kinematics.vectors import cartesian_scalar

FloatArray = npt.NDArray[np.float64]

JET, LEPTON, ELECTRON, MUON, PHOTON, IGNORED = 1, 10, 11, 13, 22, 0  # kinds of objects; TAU is 15
_MOST_INVISIBLE = 16


class Targets(NamedTuple):
    """What the daughters of the resonances should be found as.

    Attributes
    ----------
    kind : int16 array, shape (n, S, K)
        Kind of object: a jet for quarks, gluons, 11, 13, 15 or 22; 0 where there is no daughter.
    charge : int8 array, shape (n, S, K)
        Of leptons; 0 for others.
    eta, phi : float64 array, shape (n, S, K)
        Direction; that of the electron or muon of a tau decay, or of the tau without its neutrinos.
    from_tau : bool array, shape (n, S, K)
        True for taus and what they decay to.
    """

    kind: npt.NDArray[np.int16]
    charge: npt.NDArray[np.int8]
    eta: FloatArray
    phi: FloatArray
    from_tau: npt.NDArray[np.bool_]


def find_targets(particles: GenParticles, found: FoundProcesses) -> Targets:
    """What to look for, for every daughter of every event."""
    shape = found.daughter.shape
    targets = Targets(
        np.zeros(shape, np.int16), np.zeros(shape, np.int8), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    )  # fmt: skip
    _targets(*particles[:-1], found.daughter, *targets)
    return targets


class Invisible(NamedTuple):
    """Neutrinos of the resonances.

    Attributes
    ----------
    momentum : float64 array, shape (n, I, 4)
        px, py, pz and energy in GeV; zero where there is none.
    n_found : int16 array, shape (n,)
        How many there are, those beyond I included.
    """

    momentum: FloatArray
    n_found: npt.NDArray[np.int16]


def find_invisible(particles: GenParticles, decays: Decays, found: FoundProcesses, most: int) -> Invisible:
    """The neutrinos of every event: those of one lepton together, of particles before those of antiparticles."""
    n = len(found.process)
    invisible = Invisible(np.zeros((n, most, 4)), np.zeros(n, np.int16))
    _invisible(
        *particles[:-1], decays.offsets, decays.parent, decays.is_daughter, decays.leaf_offsets, decays.leaf, decays.owner,
        found.resonance, *invisible,
    )  # fmt: skip
    return invisible


def match_targets(
    targets: Targets,
    kind: npt.NDArray[np.int16],
    charge: npt.NDArray[np.int8] | None,
    eta: npt.NDArray[np.float32],
    phi: npt.NDArray[np.float32],
    *,
    delta_r: float,
    lepton_delta_r: float,
) -> npt.NDArray[np.int16]:
    """The slot of the object that every daughter was reconstructed as; -1 without.

    Pairs of a daughter and an object are taken by increasing Delta R; each daughter and each object once.

    Parameters
    ----------
    targets : Targets
        What to look for.
    kind : int16 array, shape (n, N)
        Kind of object in each slot; 0 for padding and what is never matched.
    charge : int8 array, shape (n, N), optional
        Charge of each object; None matches leptons of either charge.
    eta, phi : float32 array, shape (n, N)
        Directions.
    delta_r, lepton_delta_r : float
        Largest distance, for jets and taus, and for electrons, muons and photons.
    """
    indices = np.full(targets.kind.shape, -1, np.int16)
    has_charge = charge is not None
    charges = charge if charge is not None else np.zeros(kind.shape, np.int8)
    _match(*targets[:4], kind, charges, has_charge, eta, phi, delta_r, lepton_delta_r, indices)
    return indices


@njit(cache=True)
def _targets(  # type: ignore[no-untyped-def]
    starts, pt, eta, phi, mass, pdg, mother, daughter, out_kind, out_charge, out_eta, out_phi, from_tau
):  # fmt: skip
    n_events, n_slots, n_daughters = daughter.shape
    for e in range(n_events):
        s = slice(starts[e], starts[e + 1])
        ids, mothers = pdg[s], mother[s]
        for slot in range(n_slots):
            for k in range(n_daughters):
                i = daughter[e, slot, k]
                if i < 0:
                    continue
                where = (e, slot, k)
                absolute = abs(ids[i])
                out_eta[where], out_phi[where] = eta[s][i], phi[s][i]
                if absolute == TAU:
                    from_tau[where] = True
                    lepton = lepton_of_tau(ids, mothers, i)
                    if lepton >= 0:
                        absolute = abs(ids[lepton])
                        out_eta[where], out_phi[where] = eta[s][lepton], phi[s][lepton]
                    else:
                        out_eta[where], out_phi[where] = _visible_tau(
                            ids, mothers, i, pt[s], eta[s], phi[s], mass[s]
                        )
                is_lepton = 11 <= absolute <= 16
                out_kind[where] = absolute if is_lepton or absolute == PHOTON else JET
                out_charge[where] = -np.sign(ids[i]) if is_lepton else 0


@njit(cache=True)
def _visible_tau(ids, mothers, tau, pt, eta, phi, mass):  # type: ignore[no-untyped-def]
    """Direction of a tau without its neutrinos, as far as they are in the event."""
    x, y, z, _ = cartesian_scalar(pt[tau], eta[tau], phi[tau], mass[tau])
    for i in range(len(ids)):
        if abs(ids[i]) in (12, 14, 16) and tau_descendant(ids, mothers, i, tau):
            px, py, pz, _ = cartesian_scalar(pt[i], eta[i], phi[i], mass[i])
            x, y, z = x - px, y - py, z - pz
    transverse = np.hypot(x, y)
    if transverse <= 0:
        return eta[tau], phi[tau]
    return np.arcsinh(z / transverse), np.arctan2(y, x)


@njit(cache=True)
def _add(total, pt, eta, phi, mass, i):  # type: ignore[no-untyped-def]
    px, py, pz, energy = cartesian_scalar(pt[i], eta[i], phi[i], mass[i])
    total[0] += px
    total[1] += py
    total[2] += pz
    total[3] += energy


@njit(cache=True)
def _invisible(  # type: ignore[no-untyped-def]
    starts, pt, eta, phi, mass, pdg, mother, offsets, parent, is_daughter, leaf_offsets, leaf, owner, resonance,
    out, count,
):  # fmt: skip
    legs = np.zeros((_MOST_INVISIBLE, 4))
    is_anti = np.zeros(_MOST_INVISIBLE, np.bool_)
    for e in range(len(count)):
        s, t = slice(starts[e], starts[e + 1]), slice(leaf_offsets[e], leaf_offsets[e + 1])
        above, direct = parent[offsets[e] : offsets[e + 1]], is_daughter[offsets[e] : offsets[e + 1]]
        n = 0
        for r in resonance[e]:
            if r < 0:
                continue
            for place in range(t.start, t.stop):
                at = owner[place]
                while at != r and at >= 0:
                    at = above[at] if direct[at] else -1
                if at == r and n < _MOST_INVISIBLE:
                    n += _leg(
                        pdg[s], mother[s], pt[s], eta[s], phi[s], mass[s], leaf[t], owner[t], place - t.start,
                        legs[n], is_anti[n : n + 1],
                    )  # fmt: skip
        count[e] = n
        place = 0
        for turn in (False, True):
            for leg in range(n):
                if is_anti[leg] == turn and place < out.shape[1]:
                    out[e, place] = legs[leg]
                    place += 1


@njit(cache=True)
def _leg(ids, mothers, pt, eta, phi, mass, leaf, owner, place, total, is_anti):  # type: ignore[no-untyped-def]
    """The neutrino of a leaf with those of the tau beside it, or those of a tau without; 1 if there is any."""
    i = leaf[place]
    total[:] = 0.0
    if abs(ids[i]) in (12, 14, 16):
        _add(total, pt, eta, phi, mass, i)
        is_anti[0] = ids[i] < 0
        if abs(ids[i]) == 16:
            tau = _partner(ids, leaf, owner, place, TAU)
            if tau >= 0:
                _add_neutrinos(ids, mothers, pt, eta, phi, mass, tau, total)
        return 1
    if abs(ids[i]) == TAU and _partner(ids, leaf, owner, place, 16) < 0:
        is_anti[0] = ids[i] < 0
        return _add_neutrinos(ids, mothers, pt, eta, phi, mass, i, total)
    return 0


@njit(cache=True)
def _partner(ids, leaf, owner, place, wanted):  # type: ignore[no-untyped-def]
    """The other lepton of a W decay, by its number; -1 without."""
    for other in range(len(leaf)):
        pdg = ids[leaf[other]]
        if owner[other] == owner[place] and abs(pdg) == wanted and pdg * ids[leaf[place]] < 0:
            return leaf[other]
    return -1


@njit(cache=True)
def _add_neutrinos(ids, mothers, pt, eta, phi, mass, tau, total):  # type: ignore[no-untyped-def]
    found = 0
    for i in range(len(ids)):
        if abs(ids[i]) in (12, 14, 16) and tau_descendant(ids, mothers, i, tau):
            _add(total, pt, eta, phi, mass, i)
            found = 1
    return found


@njit(cache=True)
def _can_be(wanted, wanted_charge, kind, charge, has_charge):  # type: ignore[no-untyped-def]
    if kind == LEPTON and wanted in (ELECTRON, MUON):
        kind = wanted
    return kind == wanted and (wanted_charge == 0 or not has_charge or charge == wanted_charge)


@njit(cache=True)
def _match(  # type: ignore[no-untyped-def]
    wanted, wanted_charge, wanted_eta, wanted_phi, kind, charge, has_charge, eta, phi, delta_r, lepton_delta_r, indices
):  # fmt: skip
    n_events, n_slots, n_daughters = wanted.shape
    n_objects = kind.shape[1]
    distance = np.empty((n_slots * n_daughters, n_objects))
    for e in range(n_events):
        for d in range(n_slots * n_daughters):
            where = (e, d // n_daughters, d % n_daughters)
            narrow = wanted[where] in (ELECTRON, MUON, PHOTON)
            most = lepton_delta_r if narrow else delta_r
            for i in range(n_objects):
                distance[d, i] = np.inf
                if kind[e, i] == IGNORED or wanted[where] == IGNORED:
                    continue
                if _can_be(wanted[where], wanted_charge[where], kind[e, i], charge[e, i], has_charge):
                    d_eta = eta[e, i] - wanted_eta[where]
                    d_phi = phi[e, i] - wanted_phi[where]
                    d_phi -= 2 * np.pi * np.round(d_phi / (2 * np.pi))
                    apart = np.hypot(d_eta, d_phi)
                    if apart < most:
                        distance[d, i] = apart
        _take_closest(distance, n_daughters, indices[e])


@njit(cache=True)
def _take_closest(distance, n_daughters, indices):  # type: ignore[no-untyped-def]
    """Pairs by increasing distance, each row and each column once."""
    while True:
        best, row, column = np.inf, -1, -1
        for d in range(distance.shape[0]):
            for i in range(distance.shape[1]):
                if distance[d, i] < best:
                    best, row, column = distance[d, i], d, i
        if row < 0:
            return
        indices[row // n_daughters, row % n_daughters] = column
        distance[row, :] = np.inf
        distance[:, column] = np.inf
