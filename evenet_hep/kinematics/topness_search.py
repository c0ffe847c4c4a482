"""The compiled search behind :mod:`evenet_hep.kinematics.topness`.

chi2 = f(b_lep) + g(b_had, pair) separates. For every b jet of an event the search computes f and the smallest g with its
pair of q jets, and then takes the best two different b jets: the minimum over all assignments without going through
them. All masses of three jets are sums of products of two, m^2(q1 q2 b) = m^2(q1 q2) + m_b^2 + 2 q1.b + 2 q2.b.

The loops are written without branches that depend on the events (``best = total if better else best``): a processor that
cannot foresee a branch loses more time than the arithmetic takes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.angles import delta_r_scalar
from evenet_hep.kinematics.hadronic_w import signed_sqrt, sort_candidates, squared

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@njit(cache=True, nogil=True, error_model="numpy")
def search_events(
    first: int,
    starts: IntArray,
    jets: tuple[FloatArray, ...],
    is_bjet: BoolArray,
    mask: BoolArray,
    leptons: tuple[FloatArray, ...],
    boson: FloatArray,
    sequential: bool,
    constants: tuple[float, ...],
    values: FloatArray,
    indices: IntArray,
) -> None:
    """Search a block of events and write its results from column ``first`` on.

    Parameters
    ----------
    first : int
        Column of the first event in ``values`` and ``indices``.
    starts : int64 array, shape (n_events + 1,)
        Start of each event in the jet arrays.
    jets : tuple
        pt, eta, phi, mass, shape (n_jets,), and momenta, shape (4, n_jets), in GeV and radians.
    is_bjet, mask : bool array, shape (n_jets,)
        b candidates; jets to take at all.
    leptons : tuple
        eta, phi, mass, shape (n_events,), and momenta, shape (4, n_events).
    boson : float64 array, shape (4, n_events)
        Lepton and neutrino; NaN where an event has none.
    sequential : bool
        Fix b_lep first.
    constants : tuple of floats
        m_W, m_t and the resolutions of W, hadronic and leptonic top, in GeV.
    values, indices : float64 array (8, ...) and int64 array (4, ...), written
        The fields of ``TopnessResult`` in their order, ``valid`` left out. Events without a result are left alone.
    """
    pt, eta, phi, mass, momentum = jets
    lepton_eta, lepton_phi, lepton_mass, lepton = leptons
    n_events = len(starts) - 1
    largest = 1
    for event in range(n_events):
        largest = max(largest, starts[event + 1] - starts[event])
    # Scratch: the candidates of one event by decreasing pT, and what is computed from them.
    b_order, q_order = np.empty(largest, np.int64), np.empty(largest, np.int64)
    b_jets, q_jets, products = np.empty((largest, 5)), np.empty((largest, 5)), np.empty((largest, largest))
    leptonic, hadronic, best_pair = np.empty(largest), np.empty(largest), np.empty(largest, np.int64)
    n_most = largest * (largest - 1) // 2 + 1
    pairs, pair_terms = np.empty((n_most, 2), np.int64), np.empty((n_most, 2))
    for event in range(n_events):
        if math.isnan(boson[2, event]):
            continue
        start = starts[event]
        n_b, n_q = sort_candidates(start, starts[event + 1], pt, momentum, is_bjet, mask, b_order, q_order)
        if n_b < 2 or n_q < 2:
            continue
        _gather(momentum, mass, b_order, n_b, b_jets)
        _gather(momentum, mass, q_order, n_q, q_jets)
        _leptonic_terms(boson, event, b_jets, n_b, constants, leptonic)
        n_pairs = _pair_terms(q_jets, n_q, constants, pairs, pair_terms)
        _products(b_jets, n_b, q_jets, n_q, products)
        _hadronic_terms(b_jets, n_b, products, pairs, pair_terms, n_pairs, constants, hadronic, best_pair)
        i, k = _choose(leptonic, hadronic, n_b, sequential)
        if i < 0:
            continue
        pair = best_pair[k]
        b_lep, b_had = b_order[i], b_order[k]
        q1, q2 = q_order[pairs[pair, 0]], q_order[pairs[pair, 1]]
        lb_mass2 = (
            squared(lepton_mass[event]) + b_jets[i, 4] + _twice_product_of_column(lepton, event, b_jets, i)
        )
        column = first + event
        values[0, column] = leptonic[i] + hadronic[k]
        values[1, column] = delta_r_scalar(lepton_eta[event], lepton_phi[event], eta[b_lep], phi[b_lep])
        values[2, column] = signed_sqrt(lb_mass2)
        values[3, column] = signed_sqrt(_leptonic_top(boson, event, b_jets, i))
        values[4, column] = signed_sqrt(pair_terms[pair, 0])
        values[5, column] = delta_r_scalar(eta[q1], phi[q1], eta[q2], phi[q2])
        values[6, column] = signed_sqrt(_hadronic_top(b_jets, k, products, pairs, pair_terms, pair))
        w_eta, w_phi = _direction(momentum, q1, q2)
        values[7, column] = delta_r_scalar(w_eta, w_phi, eta[b_had], phi[b_had])
        indices[0, column], indices[1, column] = b_lep - start, b_had - start
        indices[2, column], indices[3, column] = min(q1, q2) - start, max(q1, q2) - start


@njit(cache=True, error_model="numpy")
def _gather(momentum: FloatArray, mass: FloatArray, order: IntArray, count: int, jets: FloatArray) -> None:
    """One row (px, py, pz, E, m |m|) per candidate."""
    for row in range(count):
        jet = order[row]
        for axis in range(4):
            jets[row, axis] = momentum[axis, jet]
        jets[row, 4] = squared(mass[jet])


@njit(cache=True, error_model="numpy")
def _twice_product(first: FloatArray, i: int, second: FloatArray, k: int) -> float:
    """Twice the Minkowski product of rows i and k: what it adds to the squared mass."""
    space: float = first[i, 0] * second[k, 0] + first[i, 1] * second[k, 1] + first[i, 2] * second[k, 2]
    time: float = first[i, 3] * second[k, 3]
    return 2.0 * (time - space)


@njit(cache=True, error_model="numpy")
def _twice_product_of_column(columns: FloatArray, i: int, rows: FloatArray, k: int) -> float:
    """The same for a particle of each event, which stands in a column."""
    space: float = columns[0, i] * rows[k, 0] + columns[1, i] * rows[k, 1] + columns[2, i] * rows[k, 2]
    time: float = columns[3, i] * rows[k, 3]
    return 2.0 * (time - space)


@njit(cache=True, error_model="numpy")
def _leptonic_top(boson: FloatArray, event: int, b_jets: FloatArray, b: int) -> float:
    """Squared mass of lepton, neutrino and b jet."""
    px, py, pz, energy = boson[0, event], boson[1, event], boson[2, event], boson[3, event]
    boson_mass2: float = energy * energy - px * px - py * py - pz * pz
    square: float = boson_mass2 + b_jets[b, 4] + _twice_product_of_column(boson, event, b_jets, b)
    return square


@njit(cache=True, error_model="numpy")
def _hadronic_top(
    b_jets: FloatArray, b: int, products: FloatArray, pairs: IntArray, pair_terms: FloatArray, pair: int
) -> float:
    """Squared mass of a pair of q jets and a b jet."""
    square: float = (
        pair_terms[pair, 0] + b_jets[b, 4] + products[b, pairs[pair, 0]] + products[b, pairs[pair, 1]]
    )
    return square


@njit(cache=True, error_model="numpy")
def _leptonic_terms(
    boson: FloatArray,
    event: int,
    b_jets: FloatArray,
    n_b: int,
    constants: tuple[float, ...],
    terms: FloatArray,
) -> None:
    """f(b): the leptonic top's term for every b jet as b_lep."""
    _, top_mass, _, _, sigma = constants
    for b in range(n_b):
        pull = (signed_sqrt(_leptonic_top(boson, event, b_jets, b)) - top_mass) / sigma
        terms[b] = pull * pull


@njit(cache=True, error_model="numpy")
def _pair_terms(
    q_jets: FloatArray, n_q: int, constants: tuple[float, ...], pairs: IntArray, terms: FloatArray
) -> int:
    """Squared mass and W term of every pair of q jets, in lexicographic order; the number of pairs."""
    w_mass, _, sigma, _, _ = constants
    pair = 0
    for i in range(n_q - 1):
        for k in range(i + 1, n_q):
            square = q_jets[i, 4] + q_jets[k, 4] + _twice_product(q_jets, i, q_jets, k)
            pull = (signed_sqrt(square) - w_mass) / sigma
            terms[pair, 0], terms[pair, 1] = square, pull * pull
            pairs[pair, 0], pairs[pair, 1] = i, k
            pair += 1
    return pair


@njit(cache=True, error_model="numpy")
def _products(b_jets: FloatArray, n_b: int, q_jets: FloatArray, n_q: int, products: FloatArray) -> None:
    """Twice the product of every b with every q candidate."""
    for b in range(n_b):
        for q in range(n_q):
            products[b, q] = _twice_product(b_jets, b, q_jets, q)


@njit(cache=True, error_model="numpy")
def _hadronic_terms(
    b_jets: FloatArray,
    n_b: int,
    products: FloatArray,
    pairs: IntArray,
    pair_terms: FloatArray,
    n_pairs: int,
    constants: tuple[float, ...],
    terms: FloatArray,
    best_pair: IntArray,
) -> None:
    """g(b): for every b jet as b_had the smallest sum of the W and the hadronic top term, and its pair."""
    _, top_mass, _, sigma, _ = constants
    for b in range(n_b):
        best, chosen = np.inf, 0
        for pair in range(n_pairs):
            square = _hadronic_top(b_jets, b, products, pairs, pair_terms, pair)
            pull = (signed_sqrt(square) - top_mass) / sigma
            total = pair_terms[pair, 1] + pull * pull
            better = total < best
            best, chosen = total if better else best, pair if better else chosen
        terms[b], best_pair[b] = best, chosen


@njit(cache=True, error_model="numpy")
def _choose(leptonic: FloatArray, hadronic: FloatArray, n_b: int, sequential: bool) -> tuple[int, int]:
    """Positions of b_lep and b_had; (-1, -1) if no sum is a number."""
    nearest = 0
    for i in range(1, n_b):
        nearest = i if leptonic[i] < leptonic[nearest] else nearest
    best, b_lep, b_had = np.inf, -1, -1
    for i in range(n_b):
        if sequential and i != nearest:
            continue
        for k in range(n_b):
            total = leptonic[i] + hadronic[k]
            better = i != k and total < best
            best, b_lep, b_had = (total, i, k) if better else (best, b_lep, b_had)
    return b_lep, b_had


@njit(cache=True, error_model="numpy")
def _direction(momentum: FloatArray, i: int, k: int) -> tuple[float, float]:
    """Pseudorapidity and azimuth of two jets together; (0, 0) if they are at rest."""
    px, py = momentum[0, i] + momentum[0, k], momentum[1, i] + momentum[1, k]
    pz = momentum[2, i] + momentum[2, k]
    pt2 = px * px + py * py
    if pz == 0.0:
        return 0.0, math.atan2(py, px)
    # The inverse hyperbolic sine of |pz| / pt, which a logarithm gives in a third of the time.
    eta = math.log((abs(pz) + math.sqrt(pt2 + pz * pz)) / math.sqrt(pt2))
    return math.copysign(eta, pz), math.atan2(py, px)
