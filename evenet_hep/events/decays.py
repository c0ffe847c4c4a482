"""Decays of heavy particles: the tree of generated particles as resonances and the fermions they end in.

A resonance is a W, Z, Higgs boson, top quark or a particle asked for. Its copies (recoil, radiation) are one, its
leaves are the first fermions, photons and gluons below it, through other resonances if need be. What generators leave
out is put back: the W of t -> b q q and of H -> W q q, and the boson of a lepton pair of the hard process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.events.gen_particles import GenParticles
from evenet_hep.kinematics.vectors import cartesian_scalar

IntArray = npt.NDArray[np.int64]
IdArray = npt.NDArray[np.int32]

TOP, TAU, GLUON, PHOTON, Z_BOSON, W_BOSON, HIGGS = 6, 15, 21, 22, 23, 24, 25
NEW_BOSONS = (32, 33, 34, 35, 36, 37, 45)
HEAVY = (TOP, Z_BOSON, W_BOSON, HIGGS, *NEW_BOSONS)
_NOBODY, _HARD_LEPTON = -1, -2  # owners of particles that are no leaf, and of leptons without a boson
_MOST_FERMIONS = 8  # of a resonance whose missing bosons are put back


class Decays(NamedTuple):
    """The resonances of many events, and the leaves of each.

    Attributes
    ----------
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in the resonances, beginning with 0. Particles stand before antiparticles, then by
        position; those put back come last among their like.
    pdg_id : int32 array, shape (R,)
        What the resonance is.
    particle : int32 array, shape (R,)
        Position of its last copy among the generated particles of the event; -1 where it was put back.
    parent : int32 array, shape (R,)
        Position of the nearest resonance above it among those of the event; -1 without.
    is_daughter : bool array, shape (R,)
        True if it is a daughter of that parent, with nothing between them but copies.
    momentum : float64 array, shape (R, 4)
        pt, eta, phi and mass of the last copy, or of the sum of the fermions; GeV and radians.
    leaf_offsets : int64 array, shape (n_events + 1,)
        Start of each event in the leaves.
    leaf : int32 array, shape (L,)
        Position of the leaf among the generated particles of the event, before it radiates.
    owner : int32 array, shape (L,)
        Position of the resonance whose daughter it is among those of the event.
    """

    offsets: IntArray
    pdg_id: IdArray
    particle: IdArray
    parent: IdArray
    is_daughter: npt.NDArray[np.bool_]
    momentum: npt.NDArray[np.float64]
    leaf_offsets: IntArray
    leaf: IdArray
    owner: IdArray


def find_decays(particles: GenParticles, *, heavy: Iterable[int] = ()) -> Decays:
    """The resonances of every event and what they end in.

    Parameters
    ----------
    particles : GenParticles
        As read from the events.
    heavy : iterable of int
        PDG numbers of particles to treat as resonances besides t, W, Z, H and new bosons, such as 553.

    Returns
    -------
    Decays

    Examples
    --------
    >>> import numpy as np
    >>> zero = np.zeros(3, np.float32)
    >>> z_to_ee = GenParticles(
    ...     np.array([0, 3]), zero, zero, zero, zero, np.array([23, 11, -11], np.int32),
    ...     np.array([-1, 0, 0], np.int32), np.ones(3, bool),
    ... )
    >>> decays = find_decays(z_to_ee)
    >>> decays.pdg_id, decays.leaf
    (array([23], dtype=int32), array([1, 2], dtype=int32))
    """
    wanted = np.array(sorted({*HEAVY, *(abs(int(each)) for each in heavy)}), np.int32)
    absolute = np.abs(particles.pdg_id)
    n_leaves = int(_is_leaf(absolute).sum())
    is_heavy = np.isin(absolute, wanted)
    n_most = int(is_heavy.sum()) + n_leaves // 2  # one put back takes two fermions
    n_events = len(particles.offsets) - 1
    offsets, leaf_offsets = np.zeros(n_events + 1, np.int64), np.zeros(n_events + 1, np.int64)
    pdg_id, particle, parent = (np.empty(n_most, np.int32) for _ in range(3))
    is_daughter, momentum = np.empty(n_most, np.bool_), np.empty((n_most, 4))
    leaf, owner = np.empty(n_leaves, np.int32), np.empty(n_leaves, np.int32)
    longest = int(np.diff(particles.offsets).max(initial=0))
    scratch = np.empty((9, 2 * longest + 1), np.int32)
    _find(
        *particles, is_heavy, scratch,
        offsets, pdg_id, particle, parent, is_daughter, momentum, leaf_offsets, leaf, owner,
    )  # fmt: skip
    n, m = int(offsets[-1]), int(leaf_offsets[-1])
    return Decays(
        offsets, pdg_id[:n], particle[:n], parent[:n], is_daughter[:n], momentum[:n], leaf_offsets, leaf[:m], owner[:m]
    )  # fmt: skip


@njit(cache=True)
def _is_leaf(absolute):  # type: ignore[no-untyped-def]
    """Quarks but the top, leptons, gluons and photons."""
    return (
        ((absolute >= 1) & (absolute <= 5))
        | ((absolute >= 11) & (absolute <= 16))
        | (absolute == GLUON)
        | (absolute == PHOTON)
    )


@njit(cache=True)
def _find(  # type: ignore[no-untyped-def]
    starts, pt, eta, phi, mass, pdg, mother, is_hard, is_heavy, scratch,
    offsets, out_pdg, out_particle, out_parent, out_daughter, out_momentum, leaf_offsets, leaf, owner,
):  # fmt: skip
    n_records, n_leaves = 0, 0
    record_of, owner_of, code, last, first, above, link, place, order = scratch
    for e in range(len(starts) - 1):
        s = slice(starts[e], starts[e + 1])
        ids, mothers = pdg[s], mother[s]
        found = _find_records(ids, mothers, is_heavy[s], record_of, owner_of, code, last, first)
        _find_parents(ids, mothers, record_of, found, first, above, link)
        _find_owners(ids, mothers, pt[s], is_hard[s], record_of, owner_of)
        found = _put_back(ids, owner_of, found, code, last, above, link)
        _sort(code, found, order, place)
        for k in range(found):
            r, out = order[k], n_records + k
            out_pdg[out], out_particle[out] = code[r], last[r]
            out_parent[out] = place[above[r]] if above[r] >= 0 else -1
            out_daughter[out] = link[r] >= 0
            _momentum(r, last[r], pt[s], eta[s], phi[s], mass[s], owner_of, out_momentum[out])
        for i in range(len(ids)):
            if owner_of[i] >= 0:
                leaf[n_leaves], owner[n_leaves] = i, place[owner_of[i]]
                n_leaves += 1
        n_records += found
        offsets[e + 1], leaf_offsets[e + 1] = n_records, n_leaves


@njit(cache=True)
def _find_records(ids, mothers, is_heavy, record_of, has_copy, code, last, first):  # type: ignore[no-untyped-def]
    """One record per heavy particle without a copy below it; all its copies point to it. The number of records."""
    n, found = len(ids), 0
    for i in range(n):
        record_of[i], has_copy[i] = -1, 0
    for i in range(n):
        if mothers[i] >= 0 and ids[mothers[i]] == ids[i]:
            has_copy[mothers[i]] = 1
    for i in range(n):
        if has_copy[i] or not is_heavy[i]:
            continue
        copy, steps = i, 0
        while mothers[copy] >= 0 and ids[mothers[copy]] == ids[i] and steps < n:
            copy, steps = mothers[copy], steps + 1
        if mothers[copy] >= 0 and abs(ids[mothers[copy]]) == TAU:
            continue  # the W of a tau decay
        code[found], last[found], first[found] = ids[i], i, copy
        copy = i
        for _ in range(steps + 1):
            record_of[copy] = found
            copy = mothers[copy]
        found += 1
    return found


@njit(cache=True)
def _find_parents(ids, mothers, record_of, found, first, above, link):  # type: ignore[no-untyped-def]
    """The nearest record above each record; ``link`` is the same if it is a daughter of it, else -1."""
    for r in range(found):
        at = mothers[first[r]]
        link[r] = record_of[at] if at >= 0 else -1
        above[r] = -1
        for _ in range(len(ids)):
            if at < 0:
                break
            if record_of[at] >= 0:
                above[r] = record_of[at]
                break
            at = mothers[at]


@njit(cache=True)
def _find_owners(ids, mothers, pt, is_hard, record_of, owner_of):  # type: ignore[no-untyped-def]
    """The record whose daughter each leaf is, and the leptons of the hard process that have none."""
    for i in range(len(ids)):
        owner_of[i] = _NOBODY
        absolute, at = abs(ids[i]), mothers[i]
        if not _is_leaf(absolute):
            continue
        if at >= 0 and record_of[at] >= 0:
            owner_of[i] = record_of[at]
        elif is_hard[i] and pt[i] > 0 and 11 <= absolute <= 16:
            owner_of[i] = _HARD_LEPTON
            for _ in range(len(ids)):
                if at < 0:
                    break
                if record_of[at] >= 0 or ids[at] == ids[i] or abs(ids[at]) == TAU:
                    owner_of[i] = _NOBODY
                    break
                at = mothers[at]


@njit(cache=True)
def _put_back(ids, owner_of, found, code, last, above, link):  # type: ignore[no-untyped-def]
    """Bosons that the generator left out; the number of records with them."""
    total = found
    fermions = np.empty(_MOST_FERMIONS, np.int32)
    for r in range(-1, found):
        who = r if r >= 0 else _HARD_LEPTON
        kind = abs(code[r]) if r >= 0 else 0
        if kind in (W_BOSON, Z_BOSON):
            continue
        n, bosons = 0, 0
        for i in range(len(ids)):
            if owner_of[i] == who and abs(ids[i]) <= 16 and n < _MOST_FERMIONS:
                fermions[n] = i
                n += 1
        for k in range(found):
            bosons += r >= 0 and link[k] == r and abs(code[k]) in (W_BOSON, Z_BOSON)
        if r < 0 or (n == 3 and kind == TOP) or (kind != TOP and (n == 4 or (n == 2 and bosons == 1))):
            total = _pair(ids, fermions[:n], r, kind != TOP, owner_of, total, code, last, above, link)
    return total


@njit(cache=True)
def _pair(ids, fermions, parent, may_be_z, owner_of, total, code, last, above, link):  # type: ignore[no-untyped-def]
    """A W for every up-type fermion with its partner, then a Z for every fermion with its antiparticle."""
    for turn in range(2 if may_be_z else 1):
        for i in fermions:
            a, unpaired = ids[i], owner_of[i]
            if unpaired >= 0 and unpaired != parent:
                continue
            for j in fermions:
                b = ids[j]
                if owner_of[j] != unpaired or a * b > 0:
                    continue
                if turn == 0:
                    fits = abs(a) % 2 == 0 and abs(b) % 2 == 1 and (abs(a) < 10) == (abs(b) < 10)
                    fits = fits and (abs(a) < 10 or abs(b) == abs(a) - 1)
                else:
                    fits = a == -b and a > 0
                if fits:
                    code[total] = Z_BOSON if turn else (W_BOSON if a > 0 else -W_BOSON)
                    last[total], above[total], link[total] = -1, parent, parent
                    owner_of[i] = owner_of[j] = total
                    total += 1
                    break
    return total


@njit(cache=True)
def _sort(code, found, order, place):  # type: ignore[no-untyped-def]
    """Particles before antiparticles; otherwise as found."""
    k = 0
    for turn in range(2):
        for r in range(found):
            if (code[r] < 0) == (turn == 1):
                order[k], place[r] = r, k
                k += 1


@njit(cache=True)
def _momentum(record, particle, pt, eta, phi, mass, owner_of, out):  # type: ignore[no-untyped-def]
    """pt, eta, phi and mass of a record; one that was put back is the sum of its two fermions."""
    if particle >= 0:
        out[0], out[1], out[2], out[3] = pt[particle], eta[particle], phi[particle], mass[particle]
        return
    x, y, z, energy = 0.0, 0.0, 0.0, 0.0
    for i in range(len(pt)):
        if owner_of[i] == record:
            px, py, pz, e = cartesian_scalar(pt[i], eta[i], phi[i], mass[i])
            x, y, z, energy = x + px, y + py, z + pz, energy + e
    out[0] = np.hypot(x, y)
    out[1] = np.arcsinh(z / out[0]) if out[0] > 0 else 0.0
    out[2] = np.arctan2(y, x)
    out[3] = np.sqrt(max(energy * energy - x * x - y * y - z * z, 0.0))
