"""Reconstruction of top pairs with two leptons: the neutrinos from the W masses, the top masses and the MET.

Six unknowns meet six constraints. For one top, m(l, nu) = m_W and m(l, nu, b) = m_t fix the neutrino's energy and its
momentum along the lepton in the rest frame of lepton and b jet; what is left free is one azimuth, and the transverse
momenta it allows form an ellipse (Betchart et al., arXiv:1305.1878). The two neutrinos add to the MET where the
ellipse of the one meets the mirrored ellipse of the other, at none, two or four points. :mod:`evenet_hep.kinematics.ellipses`
finds those points. Both mass constraints hold by construction, to rounding, for every solution.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.ellipses import (
    CLOSED,
    MAX_SOLUTIONS,
    N_START,
    approach,
    fill_leg,
    fill_neutrino,
    intersect,
    sort_by_px,
)
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import components, mass_of, mass_scalar

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TOP_MASS = 172.5  # GeV, as in the spin study of EveNet
PAIRINGS = ("solutions", "m_lb", "given")


class DileptonSolutions(NamedTuple):
    """All real neutrino momenta for one assignment of the b jets.

    Parameters
    ----------
    n_solutions : int64 array, shape (n_events,)
        From 0 to 4.
    neutrino, antineutrino : float64 array, shape (4, n_events, 4)
        px, py, pz, energy in GeV of the neutrino that goes with l+ and of the antineutrino that goes with l-; the
        last axis counts solutions, by ascending px of the neutrino, NaN beyond ``n_solutions``.
    m_tt : float64 array, shape (n_events, 4)
        Mass of the top pair in GeV.
    best : int64 array, shape (n_events,)
        Solution of smallest ``m_tt``; -1 where there is none.
    valid : bool array, shape (n_events,)
        All input was finite and every lepton and b jet makes a system of its own mass, so that the constraints could
        be written down. An event may be valid and have no solution.
    """

    n_solutions: IntArray
    neutrino: FloatArray
    antineutrino: FloatArray
    m_tt: FloatArray
    best: IntArray
    valid: BoolArray


class DileptonTops(NamedTuple):
    """Reconstructed top pairs, one per event; NaN, -1 and 0 where ``valid`` is False.

    Parameters
    ----------
    top, antitop : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV; the top decays to l+.
    neutrino, antineutrino : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV.
    m_tt : float64 array, shape (n_events,)
        Mass of the pair in GeV.
    pairing : int64 array, shape (n_events,)
        0 if the first b jet goes with l+, 1 if the second does.
    n_solutions : int64 array, shape (n_events,)
        Real solutions of this pairing, from 0 to 4.
    met_residual : float64 array, shape (n_events,)
        Distance in GeV of the sum of the two neutrinos from the MET: 0 for a real solution, and otherwise the smallest
        that the masses allow.
    exact : bool array, shape (n_events,)
        A real solution was found.
    valid : bool array, shape (n_events,)
        A top pair is given, from a real solution or from the closest approach.
    """

    top: FloatArray
    antitop: FloatArray
    neutrino: FloatArray
    antineutrino: FloatArray
    m_tt: FloatArray
    pairing: IntArray
    n_solutions: IntArray
    met_residual: FloatArray
    exact: BoolArray
    valid: BoolArray


class _Found(NamedTuple):
    """What the solver fills for one pairing."""

    n_solutions: IntArray
    neutrino: FloatArray
    antineutrino: FloatArray
    m_tt: FloatArray
    met_residual: FloatArray
    valid: BoolArray


def dilepton_solutions(
    lplus: npt.ArrayLike,
    lminus: npt.ArrayLike,
    b: npt.ArrayLike,
    bbar: npt.ArrayLike,
    met_x: npt.ArrayLike,
    met_y: npt.ArrayLike,
    *,
    w_mass: float = W_MASS,
    top_mass: float = TOP_MASS,
) -> DileptonSolutions:
    """All real neutrino momenta of top pairs with known b jets.

    Parameters
    ----------
    lplus, lminus : array-like, shape (4, n_events)
        px, py, pz, energy of the leptons in GeV.
    b, bbar : array-like, shape (4, n_events)
        The b jets that go with l+ and with l-.
    met_x, met_y : array-like, shape (n_events,)
        Missing transverse momentum in GeV.
    w_mass, top_mass : float
        GeV.

    Returns
    -------
    DileptonSolutions

    Raises
    ------
    ValueError
        For shapes that do not fit together, or masses without 0 < m_W < m_t.

    Examples
    --------
    >>> lplus, lminus = np.array([[60.0], [0.0], [20.0], [63.246]]), np.array([[-40.0], [30.0], [0.0], [50.0]])
    >>> b, bbar = np.array([[0.0], [50.0], [0.0], [50.25]]), np.array([[0.0], [-60.0], [30.0], [67.268]])
    >>> found = dilepton_solutions(lplus, lminus, b, bbar, [-20.0], [-20.0])
    >>> found.n_solutions, (found.neutrino + found.antineutrino)[:2, 0, :2].round(6)
    (array([2]), array([[-20., -20.],
           [-20., -20.]]))
    """
    measured = _measured(lplus, lminus, b, bbar, met_x, met_y, w_mass, top_mass)
    found = _solve(measured, (2, 3), w_mass, top_mass, closest=False)
    real = np.isfinite(found.m_tt)
    best = np.where(real.any(axis=1), np.argmin(np.where(real, found.m_tt, np.inf), axis=1), -1)
    return DileptonSolutions(
        n_solutions=found.n_solutions,
        neutrino=found.neutrino,
        antineutrino=found.antineutrino,
        m_tt=found.m_tt,
        best=best,
        valid=found.valid,
    )


def reconstruct_dilepton(
    lplus: npt.ArrayLike,
    lminus: npt.ArrayLike,
    bjet1: npt.ArrayLike,
    bjet2: npt.ArrayLike,
    met_x: npt.ArrayLike,
    met_y: npt.ArrayLike,
    *,
    pairing: Literal["solutions", "m_lb", "given"] = "solutions",
    w_mass: float = W_MASS,
    top_mass: float = TOP_MASS,
) -> DileptonTops:
    """One top pair per event: the solution of smallest m(ttbar), or the closest approach where none is real.

    Parameters
    ----------
    lplus, lminus : array-like, shape (4, n_events)
        px, py, pz, energy of the leptons in GeV.
    bjet1, bjet2 : array-like, shape (4, n_events)
        The b jets, in any order unless ``pairing="given"``.
    met_x, met_y : array-like, shape (n_events,)
        Missing transverse momentum in GeV.
    pairing : str
        Which b jet goes with which lepton. ``"solutions"``: the pairing with more real solutions, of equally many the
        one with the smaller m(ttbar), and without any the one that comes closer to the MET. ``"m_lb"``: the one with
        the smaller sum of m(l, b), unless only the other can be reconstructed at all. ``"given"``: ``bjet1`` with l+.
    w_mass, top_mass : float
        GeV.

    Returns
    -------
    DileptonTops
        Every top has mass m_t and every W mass m_W; ``met_residual`` is what had to give.

    Raises
    ------
    ValueError
        For an unknown pairing, shapes that do not fit together, or masses without 0 < m_W < m_t.

    Notes
    -----
    Betchart, Demina and Harel, arXiv:1305.1878, with the choice of the smallest m(ttbar).

    Examples
    --------
    >>> lplus, lminus = np.array([[60.0], [0.0], [20.0], [63.246]]), np.array([[-40.0], [30.0], [0.0], [50.0]])
    >>> b, bbar = np.array([[0.0], [50.0], [0.0], [50.25]]), np.array([[0.0], [-60.0], [30.0], [67.268]])
    >>> tops = reconstruct_dilepton(lplus, lminus, b, bbar, [-20.0], [-20.0], pairing="given")
    >>> tops.exact, mass_of(*tops.top).round(6), mass_of(*(lminus + tops.antineutrino)).round(6)
    (array([ True]), array([172.5]), array([80.4]))
    """
    if pairing not in PAIRINGS:
        msg = f"pairing must be one of {', '.join(PAIRINGS)}; found {pairing!r}"
        raise ValueError(msg)
    measured = _measured(lplus, lminus, bjet1, bjet2, met_x, met_y, w_mass, top_mass)
    straight = _choose(_solve(measured, (2, 3), w_mass, top_mass, closest=True))
    lepton1, lepton2, first, second = measured[:4]
    if pairing == "given":
        chosen, swap = straight, np.zeros(len(straight.m_tt), np.bool_)
    else:
        crossed = _choose(_solve(measured, (3, 2), w_mass, top_mass, closest=True))
        if pairing == "m_lb":
            prefer = mass_of(*(lepton1 + second)) + mass_of(*(lepton2 + first)) < (
                mass_of(*(lepton1 + first)) + mass_of(*(lepton2 + second))
            )
        else:
            prefer = _is_better(crossed, straight)
        swap = crossed.valid & (prefer | ~straight.valid)
        chosen = _Found(*(np.where(swap, new, old) for new, old in zip(crossed, straight, strict=True)))
    return DileptonTops(
        top=lepton1 + np.where(swap, second, first) + chosen.neutrino,
        antitop=lepton2 + np.where(swap, first, second) + chosen.antineutrino,
        neutrino=chosen.neutrino,
        antineutrino=chosen.antineutrino,
        m_tt=chosen.m_tt,
        pairing=np.where(chosen.valid, swap.astype(np.int64), -1),
        n_solutions=chosen.n_solutions,
        met_residual=chosen.met_residual,
        exact=chosen.n_solutions > 0,
        valid=chosen.valid,
    )


def _is_better(new: _Found, old: _Found) -> BoolArray:
    same = new.n_solutions == old.n_solutions
    by_rank = np.where(new.n_solutions > 0, new.m_tt < old.m_tt, new.met_residual < old.met_residual)
    return np.where(same, by_rank, new.n_solutions > old.n_solutions)


def _choose(found: _Found) -> _Found:
    """The solution of smallest m(ttbar) of every event; without one, the closest approach, which fills the first slot."""
    best = np.argmin(np.where(np.isfinite(found.m_tt), found.m_tt, np.inf), axis=1)
    events = np.arange(len(best))
    return _Found(
        n_solutions=found.n_solutions,
        neutrino=found.neutrino[:, events, best],
        antineutrino=found.antineutrino[:, events, best],
        m_tt=found.m_tt[events, best],
        met_residual=found.met_residual,
        valid=np.isfinite(found.m_tt[events, best]),
    )


def _measured(
    lplus: npt.ArrayLike,
    lminus: npt.ArrayLike,
    b: npt.ArrayLike,
    bbar: npt.ArrayLike,
    met_x: npt.ArrayLike,
    met_y: npt.ArrayLike,
    w_mass: float,
    top_mass: float,
) -> tuple[FloatArray, ...]:
    if not (math.isfinite(top_mass) and 0 < w_mass < top_mass):
        msg = f"masses must obey 0 < w_mass < top_mass; found {w_mass} and {top_mass}"
        raise ValueError(msg)
    named = (("l+", lplus), ("l-", lminus), ("first b jet", b), ("second b jet", bbar))
    particles = [components(name, momentum, 4) for name, momentum in named]
    met = [np.ascontiguousarray(x, dtype=np.float64) for x in (met_x, met_y)]
    shapes = [particle.shape[1:] for particle in particles] + [x.shape for x in met]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        found = ", ".join(str(x.shape) for x in (*particles, *met))
        msg = f"particles must have shape (4, n_events), met_x and met_y (n_events,); found {found}"
        raise ValueError(msg)
    return (*particles, *met)


def _solve(
    measured: tuple[FloatArray, ...],
    b_jets: tuple[int, int],
    w_mass: float,
    top_mass: float,
    *,
    closest: bool,
) -> _Found:
    lplus, lminus, *_, met_x, met_y = measured
    n_events = len(met_x)
    found = _Found(
        n_solutions=np.zeros(n_events, np.int64),
        neutrino=np.full((4, n_events, MAX_SOLUTIONS), np.nan),
        antineutrino=np.full((4, n_events, MAX_SOLUTIONS), np.nan),
        m_tt=np.full((n_events, MAX_SOLUTIONS), np.nan),
        met_residual=np.full(n_events, np.nan),
        valid=np.zeros(n_events, np.bool_),
    )
    first, second = measured[b_jets[0]], measured[b_jets[1]]
    # A plain tuple: Numba's cache would remember the class, and fail to load once it has another name.
    _solve_events(lplus, lminus, first, second, met_x, met_y, w_mass, top_mass, closest, tuple(found))  # type: ignore[arg-type]
    return found


@njit(cache=True, error_model="numpy")
def _solve_events(
    lplus: FloatArray,
    lminus: FloatArray,
    b: FloatArray,
    bbar: FloatArray,
    met_x: FloatArray,
    met_y: FloatArray,
    w_mass: float,
    top_mass: float,
    closest: bool,
    found: tuple[IntArray, FloatArray, FloatArray, FloatArray, FloatArray, BoolArray],
) -> None:
    n_solutions, neutrino, antineutrino, m_tt, met_residual, valid = found
    # One neutrino leg: rows centre, cosine and sine, so that nu = centre + cosine cos(phi) + sine sin(phi).
    leg1, leg2 = np.empty((3, 4)), np.empty((3, 4))
    azimuths, basis, table = np.empty((MAX_SOLUTIONS, 2)), np.empty((4, 4)), np.empty((N_START, 4))
    for k in range(N_START):
        angle = 2.0 * math.pi * k / N_START
        table[k, 0], table[k, 1] = math.cos(angle), math.sin(angle)
    for i in range(len(met_x)):
        state1 = fill_leg(lplus, b, i, w_mass, top_mass, leg1)
        state2 = fill_leg(lminus, bbar, i, w_mass, top_mass, leg2)
        valid[i] = state1 >= 0 and state2 >= 0 and math.isfinite(met_x[i]) and math.isfinite(met_y[i])
        if not (valid[i] and state1 > 0 and state2 > 0):
            continue
        # What cosines and sines have to add up to.
        wx = met_x[i] - leg1[0, 0] - leg2[0, 0]
        wy = met_y[i] - leg1[0, 1] - leg2[0, 1]
        count = intersect(leg1, leg2, wx, wy, basis, azimuths)
        residual = 0.0
        if count > 0:
            sort_by_px(leg1, azimuths, count)
        else:
            residual = approach(leg1, leg2, wx, wy, table, azimuths)
            # Ellipses that are points or segments have no lines, but may meet all the same.
            if residual <= CLOSED * (leg1[0, 3] + leg2[0, 3]):
                residual, count = 0.0, 1
        n_solutions[i], met_residual[i] = count, residual
        if closest:
            count = max(count, 1)
        for k in range(count):
            fill_neutrino(leg1, azimuths[k, 0], neutrino, i, k)
            fill_neutrino(leg2, azimuths[k, 1], antineutrino, i, k)
            m_tt[i, k] = _pair_mass(lplus, lminus, b, bbar, neutrino, antineutrino, i, k)


@njit(cache=True, error_model="numpy")
def _pair_mass(
    lplus: FloatArray,
    lminus: FloatArray,
    b: FloatArray,
    bbar: FloatArray,
    neutrino: FloatArray,
    antineutrino: FloatArray,
    i: int,
    k: int,
) -> float:
    energy = lplus[3, i] + lminus[3, i] + b[3, i] + bbar[3, i] + neutrino[3, i, k] + antineutrino[3, i, k]
    px = lplus[0, i] + lminus[0, i] + b[0, i] + bbar[0, i] + neutrino[0, i, k] + antineutrino[0, i, k]
    py = lplus[1, i] + lminus[1, i] + b[1, i] + bbar[1, i] + neutrino[1, i, k] + antineutrino[1, i, k]
    pz = lplus[2, i] + lminus[2, i] + b[2, i] + bbar[2, i] + neutrino[2, i, k] + antineutrino[2, i, k]
    return mass_scalar(px, py, pz, energy)
