"""The compiled pass that puts flat columns into padded clouds, and the event features computed on the way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Where an object came from. Small on purpose: the index is as long as the padded cloud.
INDEX = np.dtype([("collection", np.int16), ("position", np.int16)])

COMPUTED = ("n_lepton", "n_bjet", "n_jet", "ht", "ht_lep", "m_all", "m_lep", "m_bjet")


class FlatObjects(NamedTuple):
    """Objects of a run of events, collection after collection.

    Object ``i`` of event ``e`` in collection ``c`` is entry ``starts[c] + offsets[c, e] + i`` of every column.

    Parameters
    ----------
    offsets : int64 array, shape (n_collections, n_events + 1)
        Start of each event, per collection, beginning with 0.
    starts : int64 array, shape (n_collections,)
        Start of each collection in the columns.
    is_lepton, is_hadron : float64 array, shape (n_collections,)
        1 for collections of leptons, and of jets or taus; 0 for the others.
    pt : float32 array, shape (n_objects,)
        Transverse momentum in GeV.
    rows : float32 array, shape (n_features, n_objects)
        Values to copy into the cloud.
    btag : float32 array, shape (n_objects,)
        1 for b-tagged jets, 0 for everything else.
    momenta : float64 array, shape (n_objects, 4)
        px, py, pz and energy in GeV; empty where no event feature is computed.
    """

    offsets: IntArray
    starts: IntArray
    is_lepton: npt.NDArray[np.float64]
    is_hadron: npt.NDArray[np.float64]
    pt: FloatArray
    rows: FloatArray
    btag: FloatArray
    momenta: npt.NDArray[np.float64]


@njit(cache=True)
def _keep_hardest(offsets, starts, event, pt, slot_pt, slot_collection, slot_entry):  # type: ignore[no-untyped-def]
    """Put the hardest objects of one event into the slots, by decreasing pT; the number of slots filled."""
    capacity, filled = len(slot_pt), 0
    for c in range(offsets.shape[0]):
        for entry in range(starts[c] + offsets[c, event], starts[c] + offsets[c, event + 1]):
            value = pt[entry]
            if filled < capacity:
                slot = filled
                filled += 1
            elif value > slot_pt[capacity - 1]:
                slot = capacity - 1
            else:
                continue
            while slot > 0 and slot_pt[slot - 1] < value:  # insertion: files are nearly sorted already
                slot_pt[slot] = slot_pt[slot - 1]
                slot_collection[slot] = slot_collection[slot - 1]
                slot_entry[slot] = slot_entry[slot - 1]
                slot -= 1
            slot_pt[slot] = value
            slot_collection[slot] = c
            slot_entry[slot] = entry
    return filled


@njit(cache=True)
def _mass(energy, px, py, pz):  # type: ignore[no-untyped-def]
    return np.sqrt(max(energy * energy - px * px - py * py - pz * pz, 0.0))


@njit(cache=True)
def _count_objects(offsets, starts, is_lepton, is_hadron, btag, event):  # type: ignore[no-untyped-def]
    """n_lepton, n_bjet and n_jet of one event, objects beyond the capacity included."""
    n_lepton, n_bjet, n_jet = 0.0, 0.0, 0.0
    for c in range(offsets.shape[0]):
        first, last = starts[c] + offsets[c, event], starts[c] + offsets[c, event + 1]
        n_lepton += is_lepton[c] * (last - first)
        n_jet += is_hadron[c] * (last - first)
        if is_hadron[c]:
            for entry in range(first, last):
                n_bjet += btag[entry]
    return n_lepton, n_bjet, n_jet


@njit(cache=True)
def _sum_objects(pt, btag, momenta, is_lepton, is_hadron, slot_collection, slot_entry, filled):  # type: ignore[no-untyped-def]
    """ht, ht_lep, m_all, m_lep and m_bjet of the objects kept. Weights instead of branches: nobody can predict them."""
    ht, ht_lep = 0.0, 0.0
    e, x, y, z = 0.0, 0.0, 0.0, 0.0
    e_lep, x_lep, y_lep, z_lep = 0.0, 0.0, 0.0, 0.0
    e_b, x_b, y_b, z_b = 0.0, 0.0, 0.0, 0.0
    for slot in range(filled):
        entry, c = slot_entry[slot], slot_collection[slot]
        lepton, bjet = is_lepton[c], btag[entry]
        ht += is_hadron[c] * pt[entry]
        ht_lep += lepton * pt[entry]
        px, py, pz, energy = momenta[entry, 0], momenta[entry, 1], momenta[entry, 2], momenta[entry, 3]
        e, x, y, z = e + energy, x + px, y + py, z + pz
        e_lep, x_lep, y_lep, z_lep = (
            e_lep + lepton * energy,
            x_lep + lepton * px,
            y_lep + lepton * py,
            z_lep + lepton * pz,
        )
        e_b, x_b, y_b, z_b = e_b + bjet * energy, x_b + bjet * px, y_b + bjet * py, z_b + bjet * pz
    return ht, ht_lep, _mass(e, x, y, z), _mass(e_lep, x_lep, y_lep, z_lep), _mass(e_b, x_b, y_b, z_b)


# Plain arrays, not FlatObjects: Numba's cache would remember the class, and fail to load once it has another name.
@njit(cache=True)
def fill_objects(  # type: ignore[no-untyped-def]
    offsets, starts, is_lepton, is_hadron, pt, rows, btag, momenta, objects, mask, index, sums
):
    """Fill padded objects in order of decreasing pT and sum up the event features, in one pass over the events.

    Counts run over all objects; scalar sums and masses over the objects kept. Objects of equal pT keep the order of
    collections and positions.

    Parameters
    ----------
    offsets, starts, is_lepton, is_hadron, pt, rows, btag, momenta
        Fields of :class:`FlatObjects`.
    objects, mask, index : arrays, written
        Shapes (n_events, capacity, n_features), (n_events, capacity) and (n_events, capacity, 2); must come in as
        zeros, False and -1. ``index`` holds collection and position.
    sums : float32 array, shape (n_events, 8), written
        In the order of ``COMPUTED``: counts of leptons, b jets, jets with taus, scalar pT sums of jets with taus and of
        leptons, invariant masses of all objects, of the leptons, of the b jets; 0 where there are none. Left alone if
        there are no momenta.
    """
    capacity = objects.shape[1]
    slot_pt = np.empty(capacity, np.float32)
    slot_collection = np.empty(capacity, np.int16)
    slot_entry = np.empty(capacity, np.int64)
    for event in range(offsets.shape[1] - 1):
        filled = _keep_hardest(offsets, starts, event, pt, slot_pt, slot_collection, slot_entry)
        for slot in range(filled):
            c, entry = slot_collection[slot], slot_entry[slot]
            for f in range(rows.shape[0]):
                objects[event, slot, f] = rows[f, entry]
            mask[event, slot] = True
            index[event, slot, 0] = c
            index[event, slot, 1] = entry - starts[c] - offsets[c, event]
        if len(momenta) == 0:
            continue
        counts = _count_objects(offsets, starts, is_lepton, is_hadron, btag, event)
        sums[event, 0], sums[event, 1], sums[event, 2] = counts
        scalars = _sum_objects(pt, btag, momenta, is_lepton, is_hadron, slot_collection, slot_entry, filled)
        sums[event, 3], sums[event, 4], sums[event, 5], sums[event, 6], sums[event, 7] = scalars


def cartesian(pt: FloatArray, eta: FloatArray, phi: FloatArray, mass: FloatArray) -> npt.NDArray[np.float64]:
    """px, py, pz and energy in GeV as one float64 array of shape (n_objects, 4).

    A negative mass, as jets of real files may have, counts with its sign: E^2 = p^2 + m |m|, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> one = [np.array([x], np.float32) for x in (3.0, 0.0, 0.0, 4.0)]
    >>> cartesian(*one)[0]
    array([3., 0., 0., 5.])
    """
    # NumPy has vectorised tan and sinh but not cos and sin in double precision: both follow from tan(phi / 2).
    half_tangent = np.tan(np.multiply(phi, 0.5, dtype=np.float64))
    momenta = np.empty((len(pt), 4), np.float64)
    _cartesian(pt, half_tangent, np.sinh(eta, dtype=np.float64), mass, momenta)
    return momenta


@njit(cache=True)
def fill_energies(pt, sinh_eta, mass, energy):  # type: ignore[no-untyped-def]
    """Write the energy in GeV of every object, as in :func:`cartesian`, where the momenta are not needed."""
    for i in range(len(pt)):
        p, s, m = np.float64(pt[i]), sinh_eta[i], np.float64(mass[i])
        energy[i] = np.sqrt(max(p * p * (1.0 + s * s) + m * abs(m), 0.0))


@njit(cache=True)
def _cartesian(pt, half_tangent, sinh_eta, mass, momenta):  # type: ignore[no-untyped-def]
    for i in range(len(pt)):
        p, t, s, m = np.float64(pt[i]), half_tangent[i], sinh_eta[i], np.float64(mass[i])
        scale = p / (1.0 + t * t)
        momenta[i, 0] = scale * (1.0 - t * t)
        momenta[i, 1] = scale * 2.0 * t
        momenta[i, 2] = p * s
        momenta[i, 3] = np.sqrt(max(p * p * (1.0 + s * s) + m * abs(m), 0.0))
