"""Differences of azimuth and pseudorapidity, for arrays and, compiled, for single numbers.

:func:`delta_phi` and :func:`delta_r` take NumPy arrays; :func:`delta_phi_scalar` and :func:`delta_r_scalar` take
numbers and may be called from other compiled kernels. :func:`nearest_delta_r` is the distance to another jagged
collection, from which overlap removal is made.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float64]

TWO_PI = 2 * math.pi


@njit(cache=True, error_model="numpy")
def delta_phi_scalar(phi1: float, phi2: float) -> float:
    """``phi1 - phi2`` of two azimuths, in (-pi, pi]; NaN for an azimuth that is not finite.

    Parameters
    ----------
    phi1, phi2 : float
        Radians, in any turn.

    Returns
    -------
    float
        Radians.

    Examples
    --------
    >>> round(delta_phi_scalar(3.1, -3.1), 6)
    -0.083185
    """
    difference = phi1 - phi2
    if -math.pi < difference <= math.pi:
        return difference
    if not math.isfinite(difference):
        return math.nan
    # fmod and the subtraction are exact, so the result stays inside the interval at its very ends.
    difference = float(np.fmod(difference, TWO_PI))
    if difference > math.pi:
        difference -= TWO_PI
    elif difference <= -math.pi:
        difference += TWO_PI
    return difference


@njit(cache=True, error_model="numpy")
def delta_r_scalar(eta1: float, phi1: float, eta2: float, phi2: float) -> float:
    """Distance of two directions in the plane of pseudorapidity and azimuth.

    Parameters
    ----------
    eta1, phi1, eta2, phi2 : float
        Pseudorapidity and azimuth (radians) of the two directions.

    Returns
    -------
    float
        sqrt(delta eta^2 + delta phi^2); NaN for input that is not finite.

    Examples
    --------
    >>> delta_r_scalar(0.0, 0.0, 0.3, 0.4)
    0.5
    """
    delta_eta = eta1 - eta2
    delta_phi_12 = delta_phi_scalar(phi1, phi2)
    return math.sqrt(delta_eta * delta_eta + delta_phi_12 * delta_phi_12)


def delta_phi(phi1: npt.ArrayLike, phi2: npt.ArrayLike) -> FloatArray:
    """``phi1 - phi2`` of two arrays of azimuths, in (-pi, pi].

    Parameters
    ----------
    phi1, phi2 : array-like
        Radians, in any turn; broadcast against each other.

    Returns
    -------
    float64 array
        Radians, of the broadcast shape; NaN where an azimuth is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> delta_phi([3.1, 1.0, np.pi], [-3.1, 0.5, -np.pi]).round(6)
    array([-0.083185,  0.5     ,  0.      ])
    """
    with np.errstate(invalid="ignore"):  # fmod(inf) is NaN, which is the answer
        difference = np.asarray(phi1, np.float64) - np.asarray(phi2, np.float64)
        wrapped = np.fmod(difference, TWO_PI)
    wrapped = np.where(wrapped > np.pi, wrapped - TWO_PI, wrapped)
    return np.where(wrapped <= -np.pi, wrapped + TWO_PI, wrapped)


def delta_r(eta1: npt.ArrayLike, phi1: npt.ArrayLike, eta2: npt.ArrayLike, phi2: npt.ArrayLike) -> FloatArray:
    """Distances of directions in the plane of pseudorapidity and azimuth.

    Parameters
    ----------
    eta1, phi1, eta2, phi2 : array-like
        Pseudorapidity and azimuth (radians); broadcast against each other.

    Returns
    -------
    float64 array
        sqrt(delta eta^2 + delta phi^2), of the broadcast shape; NaN where an input is NaN.

    Examples
    --------
    >>> delta_r([0.0, 1.0], [3.1, 0.0], [0.0, 1.3], [-3.1, 0.4]).round(6)
    array([0.083185, 0.5     ])
    """
    with np.errstate(invalid="ignore"):
        delta_eta = np.asarray(eta1, np.float64) - np.asarray(eta2, np.float64)
    # Not np.hypot: squaring NumPy arrays and the compiled scalar then round alike.
    delta_phi_12 = delta_phi(phi1, phi2)
    return np.sqrt(delta_eta * delta_eta + delta_phi_12 * delta_phi_12)


def nearest_delta_r(
    offsets: npt.NDArray[np.int64],
    eta: FloatArray,
    phi: FloatArray,
    other_offsets: npt.NDArray[np.int64],
    other_eta: FloatArray,
    other_phi: FloatArray,
) -> FloatArray:
    """Distance of every object to the nearest object of another collection in the same event.

    Parameters
    ----------
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in ``eta`` and ``phi``, beginning with 0.
    eta, phi : float64 array, shape (n_objects,)
        Pseudorapidity and azimuth in radians.
    other_offsets, other_eta, other_phi
        The same of the other collection.

    Returns
    -------
    float64 array, shape (n_objects,)
        Smallest delta R; NaN where the event has no other object, so that ``nearest_delta_r(...) <= 0.4`` is False.

    Raises
    ------
    ValueError
        If the collections have different numbers of events.

    Examples
    --------
    >>> import numpy as np
    >>> jets, lepton = np.array([0, 2, 3]), np.array([0, 1, 1])
    >>> nearest_delta_r(jets, np.array([0.5, 2.0, 0.0]), np.zeros(3), lepton, np.array([0.2]), np.zeros(1))
    array([0.3, 1.8, nan])
    """
    if len(offsets) != len(other_offsets):
        msg = f"both collections must have the same events; found {len(offsets) - 1} and {len(other_offsets) - 1}"
        raise ValueError(msg)
    nearest = np.full(len(eta), np.nan)
    _fill_nearest(offsets, eta, phi, other_offsets, other_eta, other_phi, nearest)
    return nearest


@njit(cache=True, error_model="numpy")
def _fill_nearest(
    offsets: npt.NDArray[np.int64],
    eta: FloatArray,
    phi: FloatArray,
    other_offsets: npt.NDArray[np.int64],
    other_eta: FloatArray,
    other_phi: FloatArray,
    nearest: FloatArray,
) -> None:
    for event in range(len(offsets) - 1):
        for i in range(offsets[event], offsets[event + 1]):
            for k in range(other_offsets[event], other_offsets[event + 1]):
                distance = delta_r_scalar(eta[i], phi[i], other_eta[k], other_phi[k])
                if math.isnan(nearest[i]) or distance < nearest[i]:
                    nearest[i] = distance
