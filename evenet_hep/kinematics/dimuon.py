"""Calibration of generated dimuons to a target mass in their rest frame, its diagnostic, and the pair's features.

The two generated muons are boosted to their common rest frame, given the momentum sqrt(M^2/4 - m_mu^2) that the
target mass M asks for along the direction they have there, and boosted back with the velocity of the pair. In that
frame two muons are back to back by construction, so no direction is changed: the four-momentum of the pair is
multiplied by M / m_gen, that of each muon nearly so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.angles import delta_r
from evenet_hep.kinematics.vectors import components, from_cartesian, rest_frame_scalar

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MUON_MASS = 0.1056583755  # GeV, as in the dimuon study of EveNet


class DimuonCalibration(NamedTuple):
    """Calibrated muons, one entry per event; NaN where ``valid`` is False, but for ``m_gen``.

    An adjustment is ``|p' - p| / |p|`` of a muon, once with the Euclidean norm of (E, px, py, pz) as in the released
    code, once with that of (px, py, pz). Averaged over the muons of all generated events the first is the diagnostic
    of Fig. 5b of the EveNet paper. It equals ``|M / m_gen - 1|`` to about 1 % and says how wrong the generated mass
    was, not how well the momenta balance.

    Parameters
    ----------
    muon1, muon2 : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV, in the order handed over.
    m_gen : float64 array, shape (n_events,)
        Mass of the pair before, in GeV; NaN only where the input is not finite.
    p_star : float64 array, shape (n_events,)
        Momentum of each muon in the rest frame after, in GeV.
    scale : float64 array, shape (n_events,)
        M / m_gen.
    adjustment : float64 array, shape (2, n_events)
        Of both muons, with the four-component norm.
    adjustment_p3 : float64 array, shape (2, n_events)
        Of both muons, with the three-component norm; NaN for a muon that was at rest.
    valid : bool array, shape (n_events,)
        All input was finite, M at least twice the muon mass, and the two momenta were different.
    """

    muon1: FloatArray
    muon2: FloatArray
    m_gen: FloatArray
    p_star: FloatArray
    scale: FloatArray
    adjustment: FloatArray
    adjustment_p3: FloatArray
    valid: BoolArray


class DimuonFeatures(NamedTuple):
    """Features of muon pairs for the anomaly search, one entry per event.

    Parameters
    ----------
    ht : float64 array
        pT1 + pT2 in GeV.
    delta_r : float64 array
        Distance of the muons in pseudorapidity and azimuth.
    pt_balance : float64 array
        ``|pT1 + pT2|`` (vectors) divided by ``ht``, from 0 to 1; NaN where ``ht`` is 0.
    """

    ht: FloatArray
    delta_r: FloatArray
    pt_balance: FloatArray


def calibrate_dimuon(
    momentum1: npt.ArrayLike, momentum2: npt.ArrayLike, mass: npt.ArrayLike, *, muon_mass: float = MUON_MASS
) -> DimuonCalibration:
    """Muon pairs moved to a target mass in their rest frame.

    Parameters
    ----------
    momentum1, momentum2 : array-like, shape (3, n_events)
        px, py, pz of the generated muons in GeV.
    mass : array-like, shape (n_events,) or a number for all
        Target mass M in GeV.
    muon_mass : float
        GeV.

    Returns
    -------
    DimuonCalibration
        NaN with ``valid`` False where M is below twice the muon mass, the momenta are identical (there is no
        direction in the rest frame then) or something is not finite.

    Raises
    ------
    ValueError
        For shapes that do not fit together or a muon mass that is not positive.

    Notes
    -----
    EveNet paper, Sec. VI. The pair keeps its velocity, and the calibration commutes with rotations and boosts.

    Examples
    --------
    >>> result = calibrate_dimuon([[3.0], [4.0], [0.0]], [[-3.0], [-4.0], [0.0]], 9.46)
    >>> result.m_gen.round(4), result.muon1[:, 0].round(4)
    (array([10.0022]), array([2.8373, 3.7831, 0.    , 4.73  ]))
    """
    if not (math.isfinite(muon_mass) and muon_mass > 0):
        msg = f"muon_mass must be a positive number of GeV; found {muon_mass}"
        raise ValueError(msg)
    p1, p2 = components("momentum1", momentum1, 3), components("momentum2", momentum2, 3)
    target = np.asarray(mass, np.float64)
    if p1.ndim != 2 or p1.shape != p2.shape or target.shape not in {(), p1.shape[1:]}:
        msg = (
            "momentum1 and momentum2 must have shape (3, n_events), mass (n_events,); "
            f"found {p1.shape}, {p2.shape} and {target.shape}"
        )
        raise ValueError(msg)
    n_events = p1.shape[1]
    target = np.ascontiguousarray(np.broadcast_to(target, (n_events,)))
    muon1, muon2, other = (np.full((rows, n_events), np.nan) for rows in (4, 4, 7))
    _calibrate(p1, p2, target, muon_mass, muon1, muon2, other)
    return DimuonCalibration(
        muon1=muon1,
        muon2=muon2,
        m_gen=other[0],
        p_star=other[1],
        scale=other[2],
        adjustment=other[3:5],
        adjustment_p3=other[5:7],
        valid=~np.isnan(other[2]),
    )


def dimuon_features(muon1: npt.ArrayLike, muon2: npt.ArrayLike) -> DimuonFeatures:
    """HT, distance and transverse balance of muon pairs.

    Parameters
    ----------
    muon1, muon2 : array-like, shape (4, n_events)
        px, py, pz, energy in GeV.

    Returns
    -------
    DimuonFeatures
        Arrays of shape (n_events,).

    Raises
    ------
    ValueError
        For another number of rows.

    Examples
    --------
    >>> dimuon_features([[3.0], [0.0], [0.0], [3.0]], [[0.0], [4.0], [0.0], [4.0]])
    DimuonFeatures(ht=array([7.]), delta_r=array([1.57079633]), pt_balance=array([0.71428571]))
    """
    p1, p2 = components("muon1", muon1, 4), components("muon2", muon2, 4)
    first, second = from_cartesian(*p1), from_cartesian(*p2)
    ht = first.pt + second.pt
    with np.errstate(invalid="ignore"):
        balance = np.hypot(p1[0] + p2[0], p1[1] + p2[1]) / ht
    return DimuonFeatures(ht, delta_r(first.eta, first.phi, second.eta, second.phi), np.asarray(balance))


@njit(cache=True, error_model="numpy")
def _calibrate(
    momentum1: FloatArray,
    momentum2: FloatArray,
    target: FloatArray,
    muon_mass: float,
    muon1: FloatArray,
    muon2: FloatArray,
    other: FloatArray,
) -> None:
    for i in range(len(target)):
        ax, ay, az = momentum1[0, i], momentum1[1, i], momentum1[2, i]
        bx, by, bz = momentum2[0, i], momentum2[1, i], momentum2[2, i]
        a2, b2 = ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz
        energy_a, energy_b = math.sqrt(a2 + muon_mass * muon_mass), math.sqrt(b2 + muon_mass * muon_mass)
        m_gen = _pair_mass(ax, ay, az, bx, by, bz, energy_a * energy_b, muon_mass)
        mass = target[i]
        if not (math.isfinite(m_gen) and math.isfinite(mass)):
            continue
        other[0, i] = m_gen
        px, py, pz, energy = ax + bx, ay + by, az + bz, energy_a + energy_b
        # In the rest frame the energies are equal: p1* - p2* is the boosted p1 - p2 with no energy left.
        factor = (a2 - b2) / energy / (energy + m_gen)
        qx, qy, qz = ax - bx - factor * px, ay - by - factor * py, az - bz - factor * pz
        length = math.sqrt(qx * qx + qy * qy + qz * qz)
        if not (mass >= 2.0 * muon_mass and length > 0.0):
            continue
        p_star = math.sqrt((0.5 * mass - muon_mass) * (0.5 * mass + muon_mass))
        qx, qy, qz = p_star * qx / length, p_star * qy / length, p_star * qz / length
        back = (-px, -py, -pz, energy, m_gen)
        _store(rest_frame_scalar(qx, qy, qz, 0.5 * mass, *back), muon_mass, muon1, i)
        _store(rest_frame_scalar(-qx, -qy, -qz, 0.5 * mass, *back), muon_mass, muon2, i)
        other[1, i], other[2, i] = p_star, mass / m_gen
        other[3, i], other[5, i] = _adjustment(ax, ay, az, energy_a, muon1, i)
        other[4, i], other[6, i] = _adjustment(bx, by, bz, energy_b, muon2, i)


@njit(cache=True, error_model="numpy")
def _pair_mass(
    ax: float, ay: float, az: float, bx: float, by: float, bz: float, energies: float, muon_mass: float
) -> float:
    """Mass of two muons without the difference of large numbers E1 E2 - p1.p2, which collinear muons would lose."""
    a2, b2 = ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz
    momenta, dot = math.sqrt(a2 * b2), ax * bx + ay * by + az * bz
    m2 = muon_mass * muon_mass
    missing = m2 * (a2 + b2 + m2) / (energies + momenta)  # E1 E2 - |p1| |p2|
    if dot > 0.0:
        cx, cy, cz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        opening = (cx * cx + cy * cy + cz * cz) / (momenta + dot)  # |p1| |p2| - p1.p2
    else:
        opening = momenta - dot
    return math.sqrt(2.0 * (m2 + missing + opening))


@njit(cache=True, error_model="numpy")
def _store(
    momentum: tuple[float, float, float, float], muon_mass: float, muon: FloatArray, event: int
) -> None:
    px, py, pz, _ = momentum
    muon[0, event], muon[1, event], muon[2, event] = px, py, pz
    # From the momentum, so that a fast muon stays on its mass shell.
    muon[3, event] = math.sqrt(px * px + py * py + pz * pz + muon_mass * muon_mass)


@njit(cache=True, error_model="numpy")
def _adjustment(
    px: float, py: float, pz: float, energy: float, muon: FloatArray, event: int
) -> tuple[float, float]:
    dx, dy, dz = muon[0, event] - px, muon[1, event] - py, muon[2, event] - pz
    p2, step2, energy_step = px * px + py * py + pz * pz, dx * dx + dy * dy + dz * dz, muon[3, event] - energy
    with_energy = math.sqrt((step2 + energy_step * energy_step) / (p2 + energy * energy))
    return with_energy, math.sqrt(step2 / p2) if p2 > 0.0 else math.nan
