"""How well an event with one lepton fits top pair production: a chi-square over all jet assignments.

    chi2 = ((m(q1 q2) - m_W) / s_W)^2 + ((m(q1 q2 b_had) - m_t) / s_had)^2 + ((m(l nu b_lep) - m_t) / s_lep)^2

b candidates are the b-tagged jets, q candidates all others, the neutrino comes from the W mass
(:mod:`evenet_hep.kinematics.neutrino`). The smallest chi2 is the topness: small values look like top pairs, and the
bbWW study of EveNet keeps events *above* 3.

The name is also used for another quantity: Graesser and Shelton (arXiv:1212.4495) minimise over the unmeasured
momenta of a top pair whose second lepton was lost. That is not what is computed here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import njit, prange

from evenet_hep.kinematics.angles import delta_r_scalar
from evenet_hep.kinematics.hadronic_w import (
    flags,
    flat_jets,
    signed_sqrt,
    sort_candidates,
    squared,
    twice_product,
)
from evenet_hep.kinematics.neutrino import event_columns, four_momenta, leptonic_w

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STRATEGIES = ("joint", "sequential")

BLOCK = 8192  # events at a time, so that what is computed from their jets stays in the cache


@dataclasses.dataclass(frozen=True)
class TopnessConstants:
    """Masses and resolutions of the topness chi-square, in GeV.

    Parameters
    ----------
    w_mass, top_mass : float
        Masses that a W boson and a top quark should have.
    w_sigma, hadronic_sigma, leptonic_sigma : float
        Resolutions of m(q q), m(q q b) and m(l nu b). The paper does not give them; they come from the released code.

    Raises
    ------
    ValueError
        For a constant that is not a positive number.

    Examples
    --------
    >>> TopnessConstants(top_mass=173.3).leptonic_sigma
    28.72
    """

    w_mass: float = 80.4
    top_mass: float = 172.5
    w_sigma: float = 11.83
    hadronic_sigma: float = 20.87
    leptonic_sigma: float = 28.72

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                msg = f"topness constant {field.name} must be a positive number of GeV; found {value}"
                raise ValueError(msg)


class TopnessResult(NamedTuple):
    """Topness and the assignment that makes it, one entry per event.

    Every number is NaN and every index -1 where ``valid`` is False, so that ``result.topness > 3`` is False there.
    (The published ntuples hold 99999 instead, which passes the cut.)

    Parameters
    ----------
    topness : float64 array
        Smallest chi2, a pure number.
    valid : bool array
        The event has a lepton, at least two b candidates and two q candidates, and all its input was finite.
    dr_lb : float64 array
        Delta R of the lepton and ``b_lep``.
    m_lb : float64 array
        Invariant mass of the lepton and ``b_lep`` in GeV.
    tlep_mass, whad_mass, thad_mass : float64 array
        m(l nu b_lep), m(q1 q2) and m(q1 q2 b_had) in GeV.
    whad_dr_qq : float64 array
        Delta R of ``q1`` and ``q2``.
    thad_dr_bqq : float64 array
        Delta R of ``b_had`` and the hadronic W.
    b_lep, b_had, q1, q2 : int64 array
        Positions of the jets in the event's list as it was handed over; ``q1 < q2``.
    """

    topness: FloatArray
    valid: BoolArray
    dr_lb: FloatArray
    m_lb: FloatArray
    tlep_mass: FloatArray
    whad_mass: FloatArray
    whad_dr_qq: FloatArray
    thad_mass: FloatArray
    thad_dr_bqq: FloatArray
    b_lep: IntArray
    b_had: IntArray
    q1: IntArray
    q2: IntArray


def topness(
    offsets: npt.ArrayLike,
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    is_bjet: npt.ArrayLike,
    lepton_pt: npt.ArrayLike,
    lepton_eta: npt.ArrayLike,
    lepton_phi: npt.ArrayLike,
    lepton_mass: npt.ArrayLike,
    met: npt.ArrayLike,
    met_phi: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    strategy: Literal["joint", "sequential"] = "joint",
    constants: TopnessConstants | None = None,
    parallel: bool = False,
) -> TopnessResult:
    """Topness of every event and the jet assignment that makes it.

    Parameters
    ----------
    offsets : int array, shape (n_events + 1,)
        Start of each event in the flat jet arrays, beginning with 0; ``N * np.arange(n_events + 1)`` for padded
        arrays of shape (n_events, N), flattened.
    pt, eta, phi, mass : array, shape (n_jets,)
        Jets in GeV and radians, in any order.
    is_bjet : bool array, shape (n_jets,)
        True for b candidates; all other jets are q candidates.
    lepton_pt, lepton_eta, lepton_phi, lepton_mass : array, shape (n_events,)
        The lepton in GeV and radians; NaN where an event has none.
    met, met_phi : array, shape (n_events,)
        Missing transverse momentum in GeV and radians.
    mask : bool array, shape (n_jets,), optional
        False for padding, which is ignored whatever it holds.
    strategy : str
        ``"joint"`` minimises over all assignments at once, as the EveNet paper says. ``"sequential"`` first gives the
        leptonic top the b jet that comes closest to m_t and then minimises over the rest, as the released code does;
        the published ntuples hold that one. ``"joint"`` is never larger.
    constants : TopnessConstants, optional
        Other masses and resolutions than the published ones.
    parallel : bool
        Share the events among Numba's threads.

    Returns
    -------
    TopnessResult
        Arrays of shape (n_events,). Equal chi2 are decided in favour of the harder jets: first of b_lep, then of
        b_had, then of the pair.

    Raises
    ------
    ValueError
        For an unknown strategy or arrays whose lengths do not fit together.

    Notes
    -----
    EveNet paper, Sec. III. The joint minimum separates into f(b_lep) + g(b_had, pair): every mass is computed once
    instead of once per assignment, with the same result as the exhaustive search.

    Examples
    --------
    A top pair with both W at rest: two quarks, or lepton and neutrino, of 40.2 GeV back to back, and b jets of
    (172.5^2 - 80.4^2) / (2 * 80.4) = 144.851306 GeV.

    >>> result = topness(
    ...     [0, 4], [144.851306, 144.851306, 40.2, 40.2], [0.0] * 4, [1.0, 2.0, 0.0, 3.14159265], [0.0] * 4,
    ...     [True, True, False, False], [40.2], [0.0], [1.0], [0.0], [40.2], [-2.14159265]
    ... )
    >>> result.topness.round(6), result.tlep_mass.round(3), result.q1, result.q2
    (array([0.]), array([172.5]), array([2]), array([3]))
    """
    if strategy not in STRATEGIES:
        msg = f"strategy must be one of {', '.join(STRATEGIES)}; found {strategy!r}"
        raise ValueError(msg)
    constants = constants or TopnessConstants()
    starts, jets = flat_jets(offsets, pt=pt, eta=eta, phi=phi, mass=mass)
    n_events, n_jets = len(starts) - 1, len(jets[0])
    leptons = event_columns(
        n_events,
        lepton_pt=lepton_pt,
        lepton_eta=lepton_eta,
        lepton_phi=lepton_phi,
        lepton_mass=lepton_mass,
        met=met,
        met_phi=met_phi,
    )
    is_b = flags("is_bjet", is_bjet, n_jets)
    is_real = np.ones(n_jets, np.bool_) if mask is None else flags("mask", mask, n_jets)
    values = np.full((8, n_events), np.nan)  # the search leaves invalid events alone
    indices = np.full((4, n_events), -1, np.int64)
    for first in range(0, n_events, BLOCK):
        last = min(first + BLOCK, n_events)
        block = slice(starts[first], starts[last])
        _search(
            first,
            starts[first : last + 1] - starts[first],
            tuple(column[block] for column in jets),
            is_b[block],
            is_real[block],
            tuple(column[first:last] for column in leptons),
            strategy == "sequential",
            constants,
            parallel,
            values,
            indices,
        )
    return TopnessResult(values[0], indices[0] >= 0, *values[1:], *indices)


def _search(
    first: int,
    starts: IntArray,
    jets: tuple[FloatArray, ...],
    is_bjet: BoolArray,
    mask: BoolArray,
    leptons: tuple[FloatArray, ...],
    sequential: bool,
    constants: TopnessConstants,
    parallel: bool,
    values: FloatArray,
    indices: IntArray,
) -> None:
    """Search one block of events and write its results from event ``first`` on."""
    pt, eta, phi, mass, met, met_phi = leptons
    arguments = (
        first,
        starts,
        (*jets, four_momenta(*jets)),
        is_bjet,
        mask,
        (eta, phi, mass, four_momenta(pt, eta, phi, mass)),
        leptonic_w(pt, eta, phi, mass, met, met_phi, w_mass=constants.w_mass),
        sequential,
        dataclasses.astuple(constants),
        values,
        indices,
    )
    if parallel:
        _search_shares(4 * numba.get_num_threads(), *arguments)  # more than threads: events differ in cost
    else:
        _search_events(0, len(starts) - 1, *arguments)


@njit(cache=True, parallel=True)
def _search_shares(
    n_shares: int,
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
    n_events = len(starts) - 1
    for share in prange(n_shares):
        begin, end = share * n_events // n_shares, (share + 1) * n_events // n_shares
        _search_events(
            begin,
            end,
            first,
            starts,
            jets,
            is_bjet,
            mask,
            leptons,
            boson,
            sequential,
            constants,
            values,
            indices,
        )


@njit(cache=True, error_model="numpy")
def _search_events(
    begin: int,
    end: int,
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
    pt, eta, phi, mass, momentum = jets
    lepton_eta, lepton_phi, lepton_mass, lepton = leptons
    largest = 0
    for event in range(begin, end):
        largest = max(largest, starts[event + 1] - starts[event])
    # Scratch of one thread: candidates of one event by decreasing pT, and what is computed from them.
    b_order, q_order = np.empty(largest, np.int64), np.empty(largest, np.int64)
    products = np.empty((largest, largest))
    leptonic, hadronic = np.empty(largest), np.empty(largest)
    pairs = np.empty((largest, 2), np.int64)
    for event in range(begin, end):
        if math.isnan(boson[2, event]):
            continue
        start = starts[event]
        n_b, n_q = sort_candidates(start, starts[event + 1], pt, momentum, is_bjet, mask, b_order, q_order)
        if n_b < 2 or n_q < 2:
            continue
        _leptonic_terms(event, boson, momentum, mass, b_order, n_b, constants, leptonic)
        _fill_products(momentum, b_order, n_b, q_order, n_q, products)
        _hadronic_terms(momentum, mass, b_order, n_b, q_order, n_q, products, constants, hadronic, pairs)
        i, k = _choose(leptonic, hadronic, n_b, sequential)
        if i < 0:
            continue
        b_lep, b_had, q1, q2 = b_order[i], b_order[k], q_order[pairs[k, 0]], q_order[pairs[k, 1]]
        lb_mass2 = (
            squared(lepton_mass[event]) + squared(mass[b_lep]) + twice_product(lepton, event, momentum, b_lep)
        )
        w_mass2 = squared(mass[q1]) + squared(mass[q2]) + twice_product(momentum, q1, momentum, q2)
        thad_mass2 = w_mass2 + squared(mass[b_had]) + products[pairs[k, 0], k] + products[pairs[k, 1], k]
        w_eta, w_phi = _direction(momentum, q1, q2)
        values[0, first + event] = leptonic[i] + hadronic[k]
        values[1, first + event] = delta_r_scalar(
            lepton_eta[event], lepton_phi[event], eta[b_lep], phi[b_lep]
        )
        values[2, first + event] = signed_sqrt(lb_mass2)
        values[3, first + event] = signed_sqrt(_leptonic_top(event, boson, momentum, mass, b_lep))
        values[4, first + event] = signed_sqrt(w_mass2)
        values[5, first + event] = delta_r_scalar(eta[q1], phi[q1], eta[q2], phi[q2])
        values[6, first + event] = signed_sqrt(thad_mass2)
        values[7, first + event] = delta_r_scalar(w_eta, w_phi, eta[b_had], phi[b_had])
        indices[0, first + event], indices[1, first + event] = b_lep - start, b_had - start
        indices[2, first + event], indices[3, first + event] = min(q1, q2) - start, max(q1, q2) - start


@njit(cache=True, error_model="numpy")
def _direction(momentum: FloatArray, i: int, k: int) -> tuple[float, float]:
    """Pseudorapidity and azimuth of two jets together; (0, 0) if they are at rest."""
    px, py = momentum[0, i] + momentum[0, k], momentum[1, i] + momentum[1, k]
    pz = momentum[2, i] + momentum[2, k]
    if pz == 0.0:
        return 0.0, math.atan2(py, px)
    return math.asinh(pz / math.sqrt(px * px + py * py)), math.atan2(py, px)


@njit(cache=True, error_model="numpy")
def _leptonic_top(event: int, boson: FloatArray, momentum: FloatArray, mass: FloatArray, jet: int) -> float:
    """Squared mass of lepton, neutrino and jet."""
    boson_mass2 = 0.5 * twice_product(boson, event, boson, event)
    return boson_mass2 + squared(mass[jet]) + twice_product(boson, event, momentum, jet)


@njit(cache=True, error_model="numpy")
def _leptonic_terms(
    event: int,
    boson: FloatArray,
    momentum: FloatArray,
    mass: FloatArray,
    b_order: IntArray,
    n_b: int,
    constants: tuple[float, ...],
    terms: FloatArray,
) -> None:
    """f(b): the leptonic top's term for every b jet as b_lep."""
    top_mass, sigma = constants[1], constants[4]
    for b in range(n_b):
        pull = (signed_sqrt(_leptonic_top(event, boson, momentum, mass, b_order[b])) - top_mass) / sigma
        terms[b] = pull * pull


@njit(cache=True, error_model="numpy")
def _fill_products(
    momentum: FloatArray, b_order: IntArray, n_b: int, q_order: IntArray, n_q: int, products: FloatArray
) -> None:
    """Twice the product of every q with every b candidate, from which all masses m(q1 q2 b) are sums."""
    for q in range(n_q):
        for b in range(n_b):
            products[q, b] = twice_product(momentum, q_order[q], momentum, b_order[b])


@njit(cache=True, error_model="numpy")
def _hadronic_terms(
    momentum: FloatArray,
    mass: FloatArray,
    b_order: IntArray,
    n_b: int,
    q_order: IntArray,
    n_q: int,
    products: FloatArray,
    constants: tuple[float, ...],
    terms: FloatArray,
    pairs: IntArray,
) -> None:
    """g(b): for every b jet as b_had the smallest sum of the W and the hadronic top term, and its pair."""
    w_mass, top_mass, w_sigma, top_sigma, _ = constants
    terms[:n_b] = np.inf
    largest = np.inf
    for i in range(n_q - 1):
        first = q_order[i]
        for k in range(i + 1, n_q):
            second = q_order[k]
            pair_square = squared(mass[first]) + squared(mass[second])
            pair_square += twice_product(momentum, first, momentum, second)
            w_pull = (signed_sqrt(pair_square) - w_mass) / w_sigma
            w_term = w_pull * w_pull
            if w_term >= largest:  # the top term can only add
                continue
            largest = 0.0
            for b in range(n_b):
                square = pair_square + squared(mass[b_order[b]]) + products[i, b] + products[k, b]
                top_pull = (signed_sqrt(square) - top_mass) / top_sigma
                total = w_term + top_pull * top_pull
                if total < terms[b]:
                    terms[b] = total
                    pairs[b, 0], pairs[b, 1] = i, k
                largest = max(largest, terms[b])


@njit(cache=True, error_model="numpy")
def _choose(leptonic: FloatArray, hadronic: FloatArray, n_b: int, sequential: bool) -> tuple[int, int]:
    """Positions of b_lep and b_had; (-1, -1) if no sum is a number."""
    nearest = 0
    for i in range(1, n_b):
        if leptonic[i] < leptonic[nearest]:
            nearest = i
    best, b_lep, b_had = np.inf, -1, -1
    for i in range(n_b):
        if sequential and i != nearest:
            continue
        for k in range(n_b):
            total = leptonic[i] + hadronic[k]
            if i != k and total < best:
                best, b_lep, b_had = total, i, k
    return b_lep, b_had
