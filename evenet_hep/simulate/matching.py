"""Compiled loops over the objects of each event: nearest neighbours and sums in cones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.angles import delta_r_scalar

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@njit(cache=True)
def nearest_within(
    offsets: IntArray,
    eta: FloatArray,
    phi: FloatArray,
    other_offsets: IntArray,
    other_eta: FloatArray,
    other_phi: FloatArray,
    max_delta_r: float,
) -> IntArray:
    """Position of the nearest other object of the same event, closer than ``max_delta_r``.

    Parameters
    ----------
    offsets, eta, phi : array
        Start of each event, shape (n_events + 1,), and directions of the objects.
    other_offsets, other_eta, other_phi : array
        The same for the objects to look among.
    max_delta_r : float
        Greatest distance.

    Returns
    -------
    int64 array, shape (n_objects,)
        Position in the flat arrays of the others; -1 where none is near.

    Examples
    --------
    >>> nearest_within(np.array([0, 1]), np.zeros(1), np.zeros(1), np.array([0, 2]), np.array([0.3, 0.1]), np.zeros(2), 0.4)
    array([1])
    """
    found = np.full(len(eta), -1, np.int64)
    for event in range(len(offsets) - 1):
        for i in range(offsets[event], offsets[event + 1]):
            closest = max_delta_r
            for j in range(other_offsets[event], other_offsets[event + 1]):
                if abs(eta[i] - other_eta[j]) < closest:
                    distance = delta_r_scalar(eta[i], phi[i], other_eta[j], other_phi[j])
                    if distance < closest:
                        closest = distance
                        found[i] = j
    return found


@njit(cache=True)
def cone_sums(
    offsets: IntArray,
    eta: FloatArray,
    phi: FloatArray,
    other_offsets: IntArray,
    other_pt: FloatArray,
    other_eta: FloatArray,
    other_phi: FloatArray,
    radii: FloatArray,
) -> FloatArray:
    """Scalar sum of the pT of the others within cones around each object.

    Parameters
    ----------
    offsets, eta, phi : array
        Start of each event and directions of the objects at the centres.
    other_offsets, other_pt, other_eta, other_phi : array
        The objects to sum; pT in GeV.
    radii : float64 array, shape (n_cones,)
        Sizes of the cones.

    Returns
    -------
    float64 array, shape (n_cones, n_objects)
        GeV.

    Examples
    --------
    >>> one = np.array([0, 1])
    >>> cone_sums(one, np.zeros(1), np.zeros(1), one, np.array([7.0]), np.array([0.35]), np.zeros(1), np.array([0.3, 0.4]))
    array([[0.],
           [7.]])
    """
    sums = np.zeros((len(radii), len(eta)))
    widest = radii.max()
    for event in range(len(offsets) - 1):
        for i in range(offsets[event], offsets[event + 1]):
            for j in range(other_offsets[event], other_offsets[event + 1]):
                if abs(eta[i] - other_eta[j]) < widest:
                    distance = delta_r_scalar(eta[i], phi[i], other_eta[j], other_phi[j])
                    for r in range(len(radii)):
                        if distance < radii[r]:
                            sums[r, i] += other_pt[j]
    return sums
