"""Spin of top pairs with two leptons: decay angles in the helicity basis.

Everything is boosted without rotation, first from the laboratory to the centre of mass of the pair, from there to the
rest frame of the top (for l+) or the antitop (for l-); a single boost from the laboratory would give other angles. The
axes are the same for both leptons:

    k = direction of the top in the centre of mass,   y = z . k,   r = (z - y k) / sqrt(1 - y^2),   n = r x k.

What polarisations and correlations follow from the angles is in :mod:`evenet_hep.kinematics.spin_estimators`, whose names
can be had from here, too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.spin_estimators import (
    KAPPAS,
    Convention,
    Estimate,
    correlation_asymmetry,
    correlation_histogram_moment,
    correlation_likelihood,
    correlation_moment,
    d_std_moment,
    joint_density,
    polarization_moment,
    product_bin_integrals,
    product_density,
)
from evenet_hep.kinematics.vectors import components, mass_scalar, rest_frame_scalar

__all__ = [
    "AXES",
    "KAPPAS",
    "RESOLUTION",
    "Convention",
    "Estimate",
    "SpinAngles",
    "correlation_asymmetry",
    "correlation_histogram_moment",
    "correlation_likelihood",
    "correlation_moment",
    "cosine_products",
    "d_std_moment",
    "joint_density",
    "polarization_moment",
    "product_bin_integrals",
    "product_density",
    "spin_angles",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

AXES = ("k", "r", "n")

# A top slower than this (in units of the energy of the pair), or closer to the beam (in radians), has no direction.
RESOLUTION = 1e-12


class SpinAngles(NamedTuple):
    """Decay angles of the leptons of a top pair, one entry per event.

    Parameters
    ----------
    m_tt : float64 array, shape (n_events,)
        Mass of the pair in GeV.
    cos_theta : float64 array, shape (n_events,)
        Cosine of the top's polar angle in the centre of mass of the pair.
    cos_plus, cos_minus : float64 array, shape (3, n_events)
        Cosines of l+ (in the rest frame of the top) and l- (antitop) with the axes k, r, n.
    cos_phi : float64 array, shape (n_events,)
        Cosine of the angle between l+ and l-, each in the rest frame of its parent.
    valid : bool array, shape (n_events,)
        All of the above are defined. For a top along the beam, cosines with r and n are NaN; for a top at rest in the
        centre of mass those with k and ``cos_theta``, too. Other input that makes no top pair gives NaN everywhere.
    """

    m_tt: FloatArray
    cos_theta: FloatArray
    cos_plus: FloatArray
    cos_minus: FloatArray
    cos_phi: FloatArray
    valid: BoolArray


def spin_angles(
    top: npt.ArrayLike,
    antitop: npt.ArrayLike,
    lplus: npt.ArrayLike,
    lminus: npt.ArrayLike,
    *,
    bose_sign: bool = False,
) -> SpinAngles:
    """Helicity-basis decay angles of top pairs.

    Parameters
    ----------
    top, antitop, lplus, lminus : array-like, shape (4, n_events)
        px, py, pz, energy in the laboratory in GeV; l+ comes from the top, l- from the antitop.
    bose_sign : bool
        Multiply r and n by the sign of the top's cos theta (by +1 at 0), as CMS and Bernreuther et al. do. The two
        gluons of the initial state are alike, so B_r, B_n, C_rk and C_nk average to zero without it. The diagonal of C
        and every D stay the same.

    Returns
    -------
    SpinAngles
        NaN with ``valid`` False where an angle is not defined.

    Raises
    ------
    ValueError
        For other shapes.

    Examples
    --------
    >>> top, antitop = [100.0, 0.0, 0.0, 200.0], [-100.0, 0.0, 0.0, 200.0]
    >>> angles = spin_angles(*np.array([top, antitop, [0.0, 0.0, 50.0, 50.0], [0.0, 30.0, 0.0, 30.0]])[..., None])
    >>> angles.m_tt, angles.cos_theta, angles.cos_plus[0].round(3)  # the lepton lags behind its top
    (array([400.]), array([0.]), array([-0.5]))
    """
    particles = [
        components(name, momentum, 4)
        for name, momentum in (("top", top), ("antitop", antitop), ("lplus", lplus), ("lminus", lminus))
    ]
    shapes = {particle.shape for particle in particles}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        found = ", ".join(str(particle.shape) for particle in particles)
        msg = f"top, antitop, lplus and lminus must all have shape (4, n_events); found {found}"
        raise ValueError(msg)
    tops, antitops, lplus, lminus = particles
    filled = np.full((9, tops.shape[1]), np.nan)
    _fill_angles(tops, antitops, lplus, lminus, bose_sign, filled)
    return SpinAngles(
        m_tt=filled[0],
        cos_theta=filled[1],
        cos_plus=filled[2:5],
        cos_minus=filled[5:8],
        cos_phi=filled[8],
        valid=np.asarray(np.isfinite(filled).all(axis=0)),
    )


def cosine_products(angles: SpinAngles) -> FloatArray:
    """Products cos(l+, axis i) cos(l-, axis j), from which C_ij follows.

    Parameters
    ----------
    angles : SpinAngles

    Returns
    -------
    float64 array, shape (3, 3, n_events)
        Rows for the axis of l+, columns for that of l-, in the order k, r, n.

    Examples
    --------
    >>> one, axes = np.ones(1), np.eye(3)[:, :1]
    >>> cosine_products(SpinAngles(one, one, axes, -axes, -one, one > 0))[..., 0]
    array([[-1., -0., -0.],
           [-0., -0., -0.],
           [-0., -0., -0.]])
    """
    return angles.cos_plus[:, None] * angles.cos_minus[None, :]


@njit(cache=True, error_model="numpy")
def _fill_angles(
    top: FloatArray,
    antitop: FloatArray,
    lplus: FloatArray,
    lminus: FloatArray,
    bose_sign: bool,
    filled: FloatArray,
) -> None:
    for i in range(top.shape[1]):
        px, py, pz = top[0, i] + antitop[0, i], top[1, i] + antitop[1, i], top[2, i] + antitop[2, i]
        energy = top[3, i] + antitop[3, i]
        mass = mass_scalar(px, py, pz, energy)
        if not (mass > 0.0 and math.isfinite(energy)):
            continue
        pair = (px, py, pz, energy, mass)
        # The direction of the top before the loop over axes: it is one of them.
        kx, ky, kz, _ = rest_frame_scalar(top[0, i], top[1, i], top[2, i], top[3, i], *pair)
        ax, ay, az = _decay_direction(pair, top, lplus, i)
        bx, by, bz = _decay_direction(pair, antitop, lminus, i)
        cos_phi = ax * bx + ay * by + az * bz
        if not math.isfinite(cos_phi):
            continue
        filled[0, i], filled[8, i] = mass, min(1.0, max(-1.0, cos_phi))
        momentum = math.sqrt(kx * kx + ky * ky + kz * kz)
        if not momentum > RESOLUTION * energy:
            continue
        kx, ky, kz = kx / momentum, ky / momentum, kz / momentum
        filled[1, i] = kz
        filled[2, i], filled[5, i] = ax * kx + ay * ky + az * kz, bx * kx + by * ky + bz * kz
        sine = math.sqrt(kx * kx + ky * ky)  # not sqrt(1 - kz^2), which is zero too early
        if not sine > RESOLUTION:
            continue
        sign = -1.0 if bose_sign and kz < 0.0 else 1.0
        rx, ry, rz = -sign * kz * kx / sine, -sign * kz * ky / sine, sign * sine
        nx, ny = -sign * ky / sine, sign * kx / sine
        filled[3, i], filled[6, i] = ax * rx + ay * ry + az * rz, bx * rx + by * ry + bz * rz
        filled[4, i], filled[7, i] = ax * nx + ay * ny, bx * nx + by * ny


@njit(cache=True, error_model="numpy")
def _decay_direction(
    pair: tuple[float, float, float, float, float], parent: FloatArray, lepton: FloatArray, i: int
) -> tuple[float, float, float]:
    """Unit vector of the lepton in the rest frame of its parent, reached through that of the pair."""
    px, py, pz, energy = parent[0, i], parent[1, i], parent[2, i], parent[3, i]
    mass = mass_scalar(px, py, pz, energy)
    if not mass > 0.0:
        return math.nan, math.nan, math.nan
    fx, fy, fz, frame_energy = rest_frame_scalar(px, py, pz, energy, *pair)
    lx, ly, lz, lepton_energy = rest_frame_scalar(
        lepton[0, i], lepton[1, i], lepton[2, i], lepton[3, i], *pair
    )
    lx, ly, lz, _ = rest_frame_scalar(lx, ly, lz, lepton_energy, fx, fy, fz, frame_energy, mass)
    length = math.sqrt(lx * lx + ly * ly + lz * lz)
    return lx / length, ly / length, lz / length
