"""Leading-order spin correlations of top pairs, which Pythia lacks, as weights.

Pythia lets the two tops decay independently. The squared decay amplitude of a polarised top depends on its spin only
through the direction of the charged lepton, or of the d-type quark, so that the weight

    w = 1 - sum_ij C_ij(beta, cos theta, channel) l+_i l-_j

turns its events into the full leading-order distribution. l+ and l- are unit vectors in the rest frames of top and
antitop, reached from the centre of mass of the pair by boosts without rotation, on the axes k (direction of the top),
r = (p - cos theta k) / sin theta and n = p x k / sin theta, with the beam p. At leading order there is no polarisation,
and 0 <= w <= 2 for every event. Coefficients: Afik and de Nova, Eur. Phys. J. Plus 136 (2021) 907, appendix; the same
content with the opposite sign of C is in Bernreuther, Heisler and Si, arXiv:1508.05271.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.vectors import rest_frame
from evenet_hep.simulate.particles import IS_LAST_COPY, Particles

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_WEIGHT = 2.0
_RESOLUTION = 1e-12  # shorter vectors have no direction


class SpinCorrelations(NamedTuple):
    """Coefficients C of the spin density matrix of a top pair; -1 on the diagonal for a singlet.

    Parameters
    ----------
    kk, rr, nn, rk : float64 array
        Entries on the axes k, r, n. C is symmetric and its other entries are zero.
    """

    kk: FloatArray
    rr: FloatArray
    nn: FloatArray
    rk: FloatArray


def lo_spin_correlations(
    beta: npt.ArrayLike, cos_theta: npt.ArrayLike, is_gg: npt.ArrayLike
) -> SpinCorrelations:
    """Spin correlations of a top pair in leading-order QCD.

    Parameters
    ----------
    beta : array-like
        Velocity of the tops in their centre of mass, sqrt(1 - 4 m_t^2 / m_tt^2), from 0 to 1.
    cos_theta : array-like
        Cosine of the angle between top and beam there.
    is_gg : array-like of bool
        True for gluon fusion, False for quark annihilation.

    Returns
    -------
    SpinCorrelations
        Of each pair.

    Examples
    --------
    Gluons make a singlet at threshold:

    >>> threshold = lo_spin_correlations(0.0, 0.3, True)
    >>> float(threshold.kk), float(threshold.rr), float(threshold.nn)
    (-1.0, -1.0, -1.0)
    """
    beta, cosine, gluons = np.broadcast_arrays(
        np.asarray(beta, float), np.asarray(cos_theta, float), np.asarray(is_gg, bool)
    )
    # Tops at the speed of light along the beam have no limit of their own; a hair below, they do.
    b2, s2 = np.minimum(beta**2, 1.0 - 1e-12), np.clip(1.0 - cosine**2, 0.0, 1.0)
    sin_2theta = 2.0 * cosine * np.sqrt(s2)
    from_gluons = _gluon_coefficients(b2, s2, sin_2theta)
    from_quarks = _quark_coefficients(b2, s2, cosine, sin_2theta)
    total, *entries = (np.where(gluons, g, q) for g, q in zip(from_gluons, from_quarks, strict=True))
    return SpinCorrelations(*(entry / total for entry in entries))


def _gluon_coefficients(b2: FloatArray, s2: FloatArray, sin_2theta: FloatArray) -> tuple[FloatArray, ...]:
    b4, quartic = b2**2, 1.0 + s2**2
    total = 1.0 + 2.0 * b2 * s2 - b4 * quartic
    kk = -(1.0 - b2 * sin_2theta**2 / 2.0 - b4 * quartic)
    rr = -(1.0 - b2 * (2.0 - b2) * quartic)
    nn = -(1.0 - 2.0 * b2 + b4 * quartic)
    return total, kk, rr, nn, np.sqrt(1.0 - b2) * b2 * sin_2theta * s2


def _quark_coefficients(
    b2: FloatArray, s2: FloatArray, cosine: FloatArray, sin_2theta: FloatArray
) -> tuple[FloatArray, ...]:
    total = 2.0 - b2 * s2
    return total, b2 + cosine**2 * (2.0 - b2), (2.0 - b2) * s2, -b2 * s2, np.sqrt(1.0 - b2) * sin_2theta


def spin_weights(
    top: FloatArray, antitop: FloatArray, plus: FloatArray, minus: FloatArray, is_gg: npt.ArrayLike
) -> FloatArray:
    """Weights that give independently decayed top pairs their leading-order spin correlations.

    Parameters
    ----------
    top, antitop : float64 array, shape (4, n_events)
        px, py, pz, energy in the laboratory before the decay, GeV.
    plus, minus : float64 array, shape (4, n_events)
        Charged lepton or d-type quark from the decay of the top and of the antitop.
    is_gg : bool array, shape (n_events,)
        True for gluon fusion.

    Returns
    -------
    float64 array, shape (n_events,)
        From 0 to 2, with a mean of 1.

    Examples
    --------
    At rest, gluon fusion wants parallel leptons:

    >>> rest = np.array([[0.0], [0.0], [0.0], [172.5]])
    >>> lepton = np.array([[0.0], [30.0], [0.0], [30.0]])
    >>> spin_weights(rest, rest, lepton, lepton, np.array([True]))
    array([2.])
    """
    pair = top + antitop
    top_in_pair, antitop_in_pair = rest_frame(top, pair), rest_frame(antitop, pair)
    k = _unit(top_in_pair[:3])
    beam = _beam_axis(pair)
    cosine = np.clip(np.sum(beam * k, axis=0), -1.0, 1.0)
    r = _unit(beam - cosine * k)
    n = np.cross(r, k, axis=0)
    first = _unit(rest_frame(rest_frame(plus, pair), top_in_pair)[:3])
    second = _unit(rest_frame(rest_frame(minus, pair), antitop_in_pair)[:3])
    a, b = ([np.sum(lepton * axis, axis=0) for axis in (k, r, n)] for lepton in (first, second))
    mass2 = 0.5 * (_mass2(top) + _mass2(antitop))
    beta = np.sqrt(np.clip(1.0 - 4.0 * mass2 / _mass2(pair), 0.0, 1.0))
    c = lo_spin_correlations(beta, cosine, is_gg)
    correlated = (
        c.kk * a[0] * b[0] + c.rr * a[1] * b[1] + c.nn * a[2] * b[2] + c.rk * (a[0] * b[1] + a[1] * b[0])
    )
    weights: FloatArray = 1.0 - correlated
    return weights


def _beam_axis(pair: FloatArray) -> FloatArray:
    """Direction of the beams in the centre of mass of the pair: where the pair has pT, the bisector of the two."""
    ones, zeros = np.ones(pair.shape[1]), np.zeros(pair.shape[1])
    forward = rest_frame(np.stack([zeros, zeros, ones, ones]), pair)[:3]
    backward = rest_frame(np.stack([zeros, zeros, -ones, ones]), pair)[:3]
    return _unit(_unit(forward) - _unit(backward))


def _unit(vector: FloatArray) -> FloatArray:
    length = np.sqrt(np.sum(vector**2, axis=0))
    # Without a direction (a top at rest or along the beam) the correlations do not depend on it: any will do.
    direction = np.where(
        length > _RESOLUTION, vector / np.maximum(length, _RESOLUTION), [[1.0], [0.0], [0.0]]
    )
    return np.asarray(direction)


def _mass2(momentum: FloatArray) -> FloatArray:
    mass2: FloatArray = momentum[3] ** 2 - np.sum(momentum[:3] ** 2, axis=0)
    return mass2


class TopPairs(NamedTuple):
    """Positions, among the particles, of what the weight needs; -1 where an event has none.

    Parameters
    ----------
    top, antitop, plus, minus : int64 array, shape (n_events,)
        Last copies of the tops, and the charged lepton or d-type quark of each.
    """

    top: IntArray
    antitop: IntArray
    plus: IntArray
    minus: IntArray


def find_top_pairs(particles: Particles, flags: npt.NDArray[np.int32]) -> TopPairs:
    """The top, the antitop and their spin analysers in every event."""
    found = np.full((4, particles.n_events), -1, np.int64)
    _fill_top_pairs(particles.offsets, particles.pdg_id, particles.mother, flags, found)
    return TopPairs(*found)


@njit(cache=True)
def _fill_top_pairs(
    offsets: IntArray,
    pdg_id: npt.NDArray[np.int32],
    mother: IntArray,
    flags: npt.NDArray[np.int32],
    found: IntArray,
) -> None:
    for event in range(len(offsets) - 1):
        for i in range(offsets[event], offsets[event + 1]):
            code, m = pdg_id[i], mother[i]
            if abs(code) == 6 and flags[i] & IS_LAST_COPY:
                found[0 if code > 0 else 1, event] = i
            if m < 0 or m >= i or abs(pdg_id[m]) != 24:
                continue
            # l+ and anti-d-type quarks of a W+ have negative codes, l- and d-type quarks of a W- positive ones.
            analyses = abs(code) in (1, 3, 5, 11, 13, 15)
            if analyses and code * pdg_id[m] < 0:
                row = 2 if pdg_id[m] > 0 else 3
                if found[row, event] < 0:
                    found[row, event] = i


def batch_spin_weights(
    particles: Particles, flags: npt.NDArray[np.int32], is_gg: npt.NDArray[np.bool_]
) -> FloatArray:
    """Spin weights of generated events; 1 for events without a pair of decayed tops."""
    pairs = find_top_pairs(particles, flags)
    complete = np.logical_and.reduce([index >= 0 for index in pairs])
    momentum = np.stack([particles.px, particles.py, particles.pz, particles.energy])
    weights = np.ones(particles.n_events)
    if complete.any():
        top, antitop, plus, minus = (momentum[:, index[complete]] for index in pairs)
        weights[complete] = spin_weights(top, antitop, plus, minus, is_gg[complete])
    return weights
