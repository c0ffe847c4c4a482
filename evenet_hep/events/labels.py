"""What a training event is besides its cloud: labels, weights, and batches of both as arrays.

An index of an object is always its slot in the cloud, which is ordered by pT. Everything is a plain array, so that
files, shuffling and training need nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class EventLabels(NamedTuple):
    """Truth of many events, as far as the heads of a network need it.

    Attributes
    ----------
    process : int16 array, shape (n,)
        Position of the process in ``topology.processes``; -1 for an event that has none.
    indices : int16 array, shape (n, S, K)
        Slot in the cloud of daughter k of the s-th resonance of that process; -1 where it was not reconstructed, and
        in all entries that the process does not have. S is the largest number of resonances of a process, K the
        largest number of daughters.
    invisible : float32 array, shape (n, I, F)
        Invisible particles (neutrinos) with the features of ``schema.invisible``, raw values in GeV and radians;
        zero where there is none.
    invisible_mask : bool array, shape (n, I)
        True for an invisible particle.
    """

    process: npt.NDArray[np.int16]
    indices: npt.NDArray[np.int16]
    invisible: npt.NDArray[np.float32]
    invisible_mask: npt.NDArray[np.bool_]


class TrainingBatch(NamedTuple):
    """Events of a training set as padded arrays.

    Attributes
    ----------
    objects : float32 array, shape (B, N, F)
        Raw object features. N is the largest multiplicity in the batch, at least 1.
    mask : bool array, shape (B, N)
        True for a real object.
    event_features : float32 array, shape (B, G)
        Raw event features.
    label : int64 array, shape (B,)
        Class, a position in ``schema.classes``; -1 for an event without.
    weight : float32 array, shape (B,)
        Event weight.
    process, indices, invisible, invisible_mask
        As in :class:`EventLabels`; int64, int64, float32, bool.
    """

    objects: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    event_features: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    process: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    invisible: npt.NDArray[np.float32]
    invisible_mask: npt.NDArray[np.bool_]
