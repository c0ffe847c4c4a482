"""Which process of a topology an event is, and which generated particles its resonances and daughters are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.events.decay_patterns import DecayPatterns
from evenet_hep.events.decays import GLUON, PHOTON, TAU, TOP, W_BOSON, Z_BOSON, Decays
from evenet_hep.events.gen_particles import GenParticles

TAUS = ("all", "leptonic", "none")
_MOST_RESONANCES, _MOST_LEAVES = 64, 32  # of one event, of one resonance


class FoundProcesses(NamedTuple):
    """The process of every event, and where its parts stand.

    Attributes
    ----------
    process : int16 array, shape (n,)
        Position in ``topology.processes``; -1 for events that fit none.
    resonance : int32 array, shape (n, S)
        Position among the resonances of the event in :class:`~evenet_hep.events.decays.Decays`; -1 where there is none.
    daughter : int32 array, shape (n, S, K)
        Position among the generated particles of the event, before radiation; -1 where there is none.
    """

    process: npt.NDArray[np.int16]
    resonance: npt.NDArray[np.int32]
    daughter: npt.NDArray[np.int32]


def find_processes(
    particles: GenParticles, decays: Decays, patterns: DecayPatterns, *, taus: int = 0
) -> FoundProcesses:
    """The process of every event.

    A process fits if its resonances are in the event with its decays, none inside another, and every other resonance
    of the event lies below one of them, or above one and is neither t, W nor Z: the W of a top quark is no W. The first
    candidate that fits is taken.

    Parameters
    ----------
    particles, decays, patterns
        As read from the events, found in them, and made from a topology.
    taus : int
        Position in :data:`TAUS`.
    """
    n_events, (n_slots, n_daughters) = (
        len(particles.offsets) - 1,
        (patterns.kinds.shape[1], patterns.order.shape[1]),
    )
    process = np.full(n_events, -1, np.int16)
    resonance = np.full((n_events, n_slots), -1, np.int32)
    daughter = np.full((n_events, n_slots, n_daughters), -1, np.int32)
    _search(
        particles.offsets, particles.pdg_id, particles.mother,
        decays.offsets, decays.pdg_id, decays.parent, decays.is_daughter,
        decays.leaf_offsets, decays.leaf, decays.owner,
        *patterns[:-1], taus, process, resonance, daughter,
    )  # fmt: skip
    return FoundProcesses(process, resonance, daughter)


@njit(cache=True)
def tau_descendant(ids, mothers, child, tau):  # type: ignore[no-untyped-def]
    """True if a lepton or neutrino comes from this tau directly; copies and the W of the decay do not count."""
    at = mothers[child]
    if at < 0 or ids[at] == ids[child]:
        return False  # only the first copy
    for _ in range(len(ids)):
        if at == tau:
            return True
        if at < 0 or not (ids[at] == ids[tau] or abs(ids[at]) == W_BOSON):
            return False
        at = mothers[at]
    return False


@njit(cache=True)
def lepton_of_tau(ids, mothers, tau):  # type: ignore[no-untyped-def]
    """Position of the electron or muon that a tau decays to; -1 if it decays to hadrons."""
    for i in range(len(ids)):
        if abs(ids[i]) in (11, 13) and ids[i] * ids[tau] > 0 and tau_descendant(ids, mothers, i, tau):
            return i
    return -1


@njit(cache=True)
def is_above(parent, upper, lower):  # type: ignore[no-untyped-def]
    """True if a resonance is an ancestor of another."""
    at = parent[lower]
    while at >= 0:
        if at == upper:
            return True
        at = parent[at]
    return False


@njit(cache=True)
def _search(  # type: ignore[no-untyped-def]
    starts, pdg, mother, offsets, code, parent, is_daughter, leaf_offsets, leaf, owner,
    particle, sign, charge, n_daughters, flavours, order, any_tau, kinds, origin, candidates, taus,
    out_process, out_resonance, out_daughter,
):  # fmt: skip
    fits = np.empty(_MOST_RESONANCES, np.int64)
    chosen = np.empty(kinds.shape[1], np.int32)
    leaves, depths = np.empty(_MOST_LEAVES, np.int32), np.empty(_MOST_LEAVES, np.int32)
    daughters = np.empty(order.shape[1], np.int32)
    for e in range(len(starts) - 1):
        ids, mothers = pdg[starts[e] : starts[e + 1]], mother[starts[e] : starts[e + 1]]
        s, t = slice(offsets[e], offsets[e + 1]), slice(leaf_offsets[e], leaf_offsets[e + 1])
        n = offsets[e + 1] - offsets[e]
        if n == 0 or n > _MOST_RESONANCES:
            continue
        for r in range(n):
            fits[r] = 0
            m = _leaves_of(r, parent[s], is_daughter[s], leaf[t], owner[t], leaves, depths)
            for kind in range(len(sign)):
                if _is_kind(code[s][r], particle[kind], sign[kind]) and _match(
                    ids, mothers, leaves[:m], depths[:m], charge[kind], n_daughters[kind], flavours[kind],
                    order[kind], any_tau[kind], taus, daughters,
                ):  # fmt: skip
                    fits[r] |= 1 << kind
        for p in candidates:
            if _fit_process(kinds[p], origin[p], fits[:n], code[s], parent[s], chosen):
                out_process[e] = p
                break
        if out_process[e] < 0:
            continue
        for slot in range(kinds.shape[1]):
            kind = kinds[out_process[e], slot]
            if kind >= 0:
                r = chosen[slot]
                m = _leaves_of(r, parent[s], is_daughter[s], leaf[t], owner[t], leaves, depths)
                _match(
                    ids, mothers, leaves[:m], depths[:m], charge[kind], n_daughters[kind], flavours[kind],
                    order[kind], any_tau[kind], taus, daughters,
                )  # fmt: skip
                out_resonance[e, slot] = r
                for k in range(n_daughters[kind]):
                    out_daughter[e, slot, k] = daughters[k]


@njit(cache=True)
def _leaves_of(record, parent, is_daughter, leaf, owner, leaves, depths):  # type: ignore[no-untyped-def]
    """Positions of the leaves of a resonance and the number of resonances between; how many there are."""
    n = 0
    for i in range(len(leaf)):
        at, depth = owner[i], 0
        while at != record and at >= 0:
            at = parent[at] if is_daughter[at] else -1
            depth += 1
        if at == record and n < len(leaves):
            leaves[n], depths[n] = leaf[i], depth
            n += 1
    return n


@njit(cache=True)
def _holds(values, value):  # type: ignore[no-untyped-def]
    found = False
    for each in values:
        found = found or each == value
    return found


@njit(cache=True)
def _is_kind(code, particle, sign):  # type: ignore[no-untyped-def]
    if code * sign < 0:
        return False
    return _holds(particle, abs(code))


@njit(cache=True)
def _is_neutrino(pdg):  # type: ignore[no-untyped-def]
    return pdg in (12, 14, 16, -12, -14, -16)


@njit(cache=True)
def _match(  # type: ignore[no-untyped-def]
    ids, mothers, leaves, depths, charge, n_daughters, flavours, order, any_tau, taus, daughters
):  # fmt: skip
    """Whether the visible leaves are the daughters of a resonance, one each; which, goes into ``daughters``.

    Of several leaves that a daughter may be, it is that with the fewest resonances between, then the particle, then
    the first in the event. Photons and gluons may be left over: they are radiated.
    """
    total, used = 0, 0
    for i in leaves:
        absolute = abs(ids[i])
        if absolute in (11, 13, 15):
            total -= np.sign(ids[i])
    if charge not in (0, total):
        return False
    for k in order[:n_daughters]:
        best = -1
        for n, i in enumerate(leaves):
            absolute = abs(ids[i])
            if used >> n & 1 or not flavours[k] >> min(absolute, 30) & 1:
                continue
            if best < 0 or (depths[n], ids[i] < 0) < (depths[best], ids[leaves[best]] < 0):
                best = n
        if best < 0:
            return False
        i = leaves[best]
        may_not = abs(ids[i]) == TAU and taus > 0 and not any_tau[k]
        if may_not and (taus == 2 or lepton_of_tau(ids, mothers, i) < 0):
            return False
        used |= 1 << best
        daughters[k] = i
    for n, i in enumerate(leaves):
        radiated = _is_neutrino(ids[i]) or abs(ids[i]) in (GLUON, PHOTON)
        if not (used >> n & 1 or radiated):
            return False
    return True


@njit(cache=True)
def _fit_process(kinds, origin, fits, code, parent, chosen):  # type: ignore[no-untyped-def]
    """Whether resonances can be chosen for all slots of a process; the first such choice goes into ``chosen``."""
    n_slots, n = 0, len(fits)
    while n_slots < len(kinds) and kinds[n_slots] >= 0:
        n_slots += 1
    if n_slots == 0:
        return False
    slot = 0
    chosen[0] = -1
    while slot >= 0:
        chosen[slot] += 1
        r = chosen[slot]
        if r == n:
            slot -= 1
            continue
        is_free = fits[r] >> kinds[slot] & 1 == 1 and _comes_from(origin, code, parent, r)
        for other in chosen[:slot]:
            is_free = (
                is_free and other != r and not is_above(parent, other, r) and not is_above(parent, r, other)
            )
        if not is_free:
            continue
        if slot + 1 < n_slots:
            slot += 1
            chosen[slot] = -1
        elif _covers(chosen[:n_slots], code, parent, n):
            return True
    return False


@njit(cache=True)
def _comes_from(origin, code, parent, record):  # type: ignore[no-untyped-def]
    if origin[0] == 0:
        return True
    at = parent[record]
    while at >= 0:
        if _holds(origin, abs(code[at])):
            return True
        at = parent[at]
    return False


@njit(cache=True)
def _covers(chosen, code, parent, n):  # type: ignore[no-untyped-def]
    """True if every resonance is chosen, below one that is, or above one and neither t, W nor Z."""
    for r in range(n):
        may_be_above = abs(code[r]) not in (TOP, W_BOSON, Z_BOSON)
        found = False
        for c in chosen:
            found = found or c == r or is_above(parent, c, r) or (may_be_above and is_above(parent, r, c))
        if not found:
            return False
    return True
