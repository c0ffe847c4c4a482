"""Four-vectors: between detector and Cartesian coordinates, masses, and boosts that do not rotate.

Momenta are ``px, py, pz, energy`` in this order, as four arrays or as one array with these four rows. Functions named
``..._scalar`` take numbers and may be called from other compiled kernels; the others take NumPy arrays.

A mass squared that is negative, as rounding and some jets of real files make it, is carried as a negative mass:
m |m| = E^2 - p^2 holds for both signs, here and in the vector package.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float64]


class Cartesian(NamedTuple):
    """Cartesian components of four-momenta.

    Parameters
    ----------
    px, py, pz, energy : float64 array
        In GeV, all of one shape.
    """

    px: FloatArray
    py: FloatArray
    pz: FloatArray
    energy: FloatArray


class Detector(NamedTuple):
    """Detector coordinates of four-momenta.

    Parameters
    ----------
    pt : float64 array
        Transverse momentum in GeV.
    eta : float64 array
        Pseudorapidity; infinite along the beam, 0 for a momentum of zero.
    phi : float64 array
        Azimuth in radians, in (-pi, pi].
    mass : float64 array
        In GeV; negative where E^2 < p^2.
    """

    pt: FloatArray
    eta: FloatArray
    phi: FloatArray
    mass: FloatArray


@njit(cache=True, error_model="numpy")
def cartesian_scalar(pt: float, eta: float, phi: float, mass: float) -> tuple[float, float, float, float]:
    """px, py, pz and energy of one object; the compiled step behind :func:`to_cartesian`.

    Parameters
    ----------
    pt, eta, phi, mass : float
        In GeV and radians; E^2 = p^2 + m |m|, at least 0.

    Returns
    -------
    px, py, pz, energy : float
        In GeV; NaN for NaN.

    Examples
    --------
    >>> cartesian_scalar(3.0, 0.0, 0.0, 4.0)
    (3.0, 0.0, 0.0, 5.0)
    """
    px = pt * math.cos(phi)
    py = pt * math.sin(phi)
    pz = pt * math.sinh(eta)
    energy2 = pt * pt + pz * pz + mass * abs(mass)
    # The comparison keeps NaN, which max() would not.
    return px, py, pz, 0.0 if energy2 < 0.0 else math.sqrt(energy2)


@njit(cache=True, error_model="numpy")
def mass_scalar(px: float, py: float, pz: float, energy: float) -> float:
    """Mass of one four-momentum in GeV, ``-sqrt(p^2 - E^2)`` where E^2 < p^2.

    Parameters
    ----------
    px, py, pz, energy : float
        In GeV.

    Returns
    -------
    float
        In GeV; NaN for NaN.

    Examples
    --------
    >>> mass_scalar(3.0, 0.0, 0.0, 5.0), mass_scalar(5.0, 0.0, 0.0, 3.0)
    (4.0, -4.0)
    """
    mass2 = energy * energy - px * px - py * py - pz * pz
    return -math.sqrt(-mass2) if mass2 < 0.0 else math.sqrt(mass2)


@njit(cache=True, error_model="numpy")
def rest_frame_scalar(
    px: float,
    py: float,
    pz: float,
    energy: float,
    frame_px: float,
    frame_py: float,
    frame_pz: float,
    frame_energy: float,
    frame_mass: float,
) -> tuple[float, float, float, float]:
    """One four-momentum seen from the rest frame of another, boosted without rotation.

    With the three-momentum of the frame negated the same call leads from that rest frame back.

    Parameters
    ----------
    px, py, pz, energy : float
        What is boosted, in GeV.
    frame_px, frame_py, frame_pz, frame_energy, frame_mass : float
        The four-momentum whose rest frame is entered, and its mass, in GeV.

    Returns
    -------
    px, py, pz, energy : float
        In GeV.

    Notes
    -----
    E' = (E_P E - P.p) / M and p' = p - P (E + E') / (E_P + M). No 1 - beta^2 appears, so nothing is lost for fast frames.

    Examples
    --------
    >>> rest_frame_scalar(3.0, 0.0, 0.0, 5.0, 3.0, 0.0, 0.0, 5.0, 4.0)
    (0.0, 0.0, 0.0, 4.0)
    """
    dot = frame_px * px + frame_py * py + frame_pz * pz
    boosted_energy = (frame_energy * energy - dot) / frame_mass
    factor = (energy + boosted_energy) / (frame_energy + frame_mass)
    return px - factor * frame_px, py - factor * frame_py, pz - factor * frame_pz, boosted_energy


def to_cartesian(pt: npt.ArrayLike, eta: npt.ArrayLike, phi: npt.ArrayLike, mass: npt.ArrayLike) -> Cartesian:
    """px, py, pz and energy of many objects.

    Parameters
    ----------
    pt, eta, phi, mass : array-like
        In GeV and radians; broadcast against each other. E^2 = p^2 + m |m|, at least 0.

    Returns
    -------
    Cartesian
        float64 arrays of the broadcast shape, in GeV; NaN where an input is NaN.

    Examples
    --------
    >>> to_cartesian([3.0], 0.0, 0.0, 4.0)
    Cartesian(px=array([3.]), py=array([0.]), pz=array([0.]), energy=array([5.]))
    """
    arrays = [np.asarray(x, np.float64) for x in (pt, eta, phi, mass)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    columns = (np.broadcast_to(array, shape).ravel() for array in arrays)
    # "W" for a type that is always the same: a read-only array would compile the kernel again.
    momenta = four_momenta(*(np.require(column, None, ["C", "W"]) for column in columns))
    return Cartesian(*momenta.reshape(4, *shape))


def four_momenta(pt: FloatArray, eta: FloatArray, phi: FloatArray, mass: FloatArray) -> FloatArray:
    """px, py, pz and energy of many objects in one array, for kernels; :func:`to_cartesian` for everyone else.

    Parameters
    ----------
    pt, eta, phi, mass : float64 array, shape (n,)
        In GeV and radians; E^2 = p^2 + m |m|, at least 0.

    Returns
    -------
    float64 array, shape (4, n)
        In GeV; px and py to a few units of rounding of ``pt``. Not finite where an input is not.

    Examples
    --------
    >>> four_momenta(np.array([3.0]), np.array([0.0]), np.array([np.pi]), np.array([4.0])).round(9)[:, 0]
    array([-3.,  0.,  0.,  5.])
    """
    momenta = np.empty((4, len(pt)))
    # Where the processor has AVX-512, NumPy's tangent and hyperbolic sine run on its vector units; cosine and sine do not.
    with np.errstate(invalid="ignore", over="ignore"):  # masked objects may hold anything
        np.tan(np.multiply(phi, 0.5, out=momenta[1]), out=momenta[1])
        np.sinh(eta, out=momenta[2])
    _finish_momenta(pt, mass, momenta)
    return momenta


@njit(cache=True, nogil=True, error_model="numpy")
def _finish_momenta(pt: FloatArray, mass: FloatArray, momenta: FloatArray) -> None:
    for i in range(len(pt)):
        tangent = momenta[1, i]
        scale = pt[i] / (1.0 + tangent * tangent)
        momenta[0, i] = scale * (1.0 - tangent * tangent)
        momenta[1, i] = 2.0 * scale * tangent
        momenta[2, i] *= pt[i]
        energy2 = pt[i] * pt[i] + momenta[2, i] * momenta[2, i] + mass[i] * abs(mass[i])
        momenta[3, i] = 0.0 if energy2 < 0.0 else math.sqrt(energy2)


def transverse(pt: npt.ArrayLike, phi: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Transverse components px and py of many objects.

    Parameters
    ----------
    pt, phi : array-like
        Transverse momentum in GeV and azimuth in radians; broadcast against each other.

    Returns
    -------
    px, py : float64 array
        In GeV, both to a few units of rounding of ``pt``; NaN where an input is NaN.

    Examples
    --------
    >>> px, py = transverse([2.0, 2.0], [0.0, np.pi / 2])
    >>> px.round(12), py
    (array([2., 0.]), array([0., 2.]))
    """
    pt, phi = np.asarray(pt, np.float64), np.asarray(phi, np.float64)
    # NumPy's tangent runs on the vector units, its cosine and sine do not: a quarter of the time.
    with np.errstate(invalid="ignore"):
        tangent = np.tan(0.5 * phi)
        square = tangent * tangent
        scale = pt / (1.0 + square)
        return np.asarray(scale * (1.0 - square)), np.asarray(scale * 2.0 * tangent)


def from_cartesian(
    px: npt.ArrayLike, py: npt.ArrayLike, pz: npt.ArrayLike, energy: npt.ArrayLike
) -> Detector:
    """pt, eta, phi and mass of many four-momenta.

    Parameters
    ----------
    px, py, pz, energy : array-like
        In GeV; broadcast against each other.

    Returns
    -------
    Detector
        float64 arrays of the broadcast shape; NaN where an input is NaN.

    Examples
    --------
    >>> pt, eta, phi, mass = from_cartesian([0.0, 3.0], [4.0, 0.0], 0.0, [5.0, 2.0])
    >>> pt, eta, phi.round(3), mass.round(3)
    (array([4., 3.]), array([0., 0.]), array([1.571, 0.   ]), array([ 3.   , -2.236]))
    """
    px, py, pz, energy = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (px, py, pz, energy)))
    pt = np.hypot(px, py)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        eta = np.where((pt == 0.0) & (pz == 0.0), 0.0, np.arcsinh(pz / pt))
    phi = np.arctan2(py, px)
    # -pi is what a py of -0.0, or one too small for the last digit, makes of pi.
    return Detector(pt, eta, np.where(phi == -np.pi, np.pi, phi), mass_of(px, py, pz, energy))


def mass_of(px: npt.ArrayLike, py: npt.ArrayLike, pz: npt.ArrayLike, energy: npt.ArrayLike) -> FloatArray:
    """Masses of many four-momenta in GeV, ``-sqrt(p^2 - E^2)`` where E^2 < p^2.

    Parameters
    ----------
    px, py, pz, energy : array-like
        In GeV; broadcast against each other.

    Returns
    -------
    float64 array
        Of the broadcast shape.

    Examples
    --------
    >>> mass_of([3.0, 5.0], 0.0, 0.0, [5.0, 3.0])
    array([ 4., -4.])
    """
    px, py, pz, energy = (np.asarray(x, np.float64) for x in (px, py, pz, energy))
    with np.errstate(invalid="ignore", over="ignore"):
        mass2 = energy * energy - px * px - py * py - pz * pz
        return np.asarray(np.copysign(np.sqrt(np.abs(mass2)), mass2))


def invariant_mass(
    pt: npt.ArrayLike, eta: npt.ArrayLike, phi: npt.ArrayLike, mass: npt.ArrayLike, *, axis: int = 0
) -> FloatArray:
    """Masses of systems of several objects.

    Parameters
    ----------
    pt, eta, phi, mass : array-like
        In GeV and radians; broadcast against each other.
    axis : int
        Objects along this axis are added.

    Returns
    -------
    float64 array
        In GeV, without that axis; a system of no objects has mass 0, one with a NaN has NaN.

    Examples
    --------
    >>> invariant_mass([[20.0, 30.0], [20.0, 30.0]], 0.0, [[0.0, 1.0], [np.pi, 1.0]], 0.5).round(3)
    array([40.012,  1.   ])
    """
    return mass_of(*(component.sum(axis=axis) for component in to_cartesian(pt, eta, phi, mass)))


def boost(momentum: npt.ArrayLike, velocity: npt.ArrayLike) -> FloatArray:
    """Four-momenta after a boost without rotation: what was at rest moves with ``velocity``.

    Parameters
    ----------
    momentum : array-like, shape (4, ...)
        px, py, pz, energy in GeV.
    velocity : array-like, shape (3, ...)
        In units of c; broadcast against the momenta.

    Returns
    -------
    float64 array, shape (4, ...)
        In GeV; NaN where the speed is not below 1.

    Examples
    --------
    >>> boost([0.0, 0.0, 0.0, 4.0], [0.6, 0.0, 0.0])
    array([3., 0., 0., 5.])
    """
    p, beta = _same_shape(components("momentum", momentum, 4), components("velocity", velocity, 3))
    speed2 = (beta * beta).sum(axis=0)
    with np.errstate(invalid="ignore"):
        gamma = 1.0 / np.sqrt(np.where(speed2 < 1.0, 1.0 - speed2, np.nan))
    # A frame of mass 1 that moves the other way.
    return _enter(p, np.concatenate([-gamma * beta, gamma[np.newaxis]]), np.ones_like(gamma))


def rest_frame(momentum: npt.ArrayLike, frame: npt.ArrayLike) -> FloatArray:
    """Four-momenta seen from the rest frames of others, boosted without rotation.

    Parameters
    ----------
    momentum, frame : array-like, shape (4, ...)
        px, py, pz, energy in GeV; broadcast against each other.

    Returns
    -------
    float64 array, shape (4, ...)
        In GeV; NaN where the mass of the frame is not positive.

    Examples
    --------
    >>> rest_frame([3.0, 0.0, 0.0, 5.0], [3.0, 0.0, 0.0, 5.0])
    array([0., 0., 0., 4.])
    """
    p, of = _same_shape(components("momentum", momentum, 4), components("frame", frame, 4))
    mass = mass_of(*of)
    return _enter(p, of, np.where(mass > 0.0, mass, np.nan))


def _same_shape(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both with their trailing axes broadcast against each other."""
    shape = np.broadcast_shapes(first.shape[1:], second.shape[1:])

    def spread(array: FloatArray) -> FloatArray:
        missing = (1,) * (len(shape) - array.ndim + 1)
        return np.broadcast_to(array.reshape(len(array), *missing, *array.shape[1:]), (len(array), *shape))

    return spread(first), spread(second)


def _enter(p: FloatArray, frame: FloatArray, mass: FloatArray) -> FloatArray:
    """:func:`rest_frame_scalar` for arrays."""
    with np.errstate(invalid="ignore"):
        energy = (frame[3] * p[3] - (frame[:3] * p[:3]).sum(axis=0)) / mass
        factor = (p[3] + energy) / (frame[3] + mass)
        return np.concatenate([p[:3] - factor * frame[:3], energy[np.newaxis]])


def components(name: str, array: npt.ArrayLike, rows: int) -> FloatArray:
    """An array of ``rows`` components as contiguous float64.

    Parameters
    ----------
    name : str
        What the array is called in messages.
    array : array-like, shape (rows, ...)
        Components along the first axis.
    rows : int
        3 or 4.

    Raises
    ------
    ValueError
        For another length of the first axis.

    Examples
    --------
    >>> components("top", [[0.0], [0.0], [10.0], [173.0]], 4).shape
    (4, 1)
    """
    values = np.asarray(array, dtype=np.float64, order="C")
    if values.ndim == 0 or values.shape[0] != rows:
        names = ", ".join(("px", "py", "pz", "energy")[:rows])
        msg = f"{name} must have {rows} rows ({names}); found shape {values.shape}"
        raise ValueError(msg)
    return values
