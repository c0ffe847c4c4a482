"""The 41 labels of arXiv:2412.10665 (section III.C.2): how many heavy particles, and where the hardest of them go.

Five counts, then for the Higgs boson and the two hardest top quarks three bins of pT, four of eta and four of phi, one
of which is 1 if the particle is there. The paper speaks of 41 labels and lists these 38; the last three, whether each
of the particles is there, are our reading, and ``n_labels=38`` leaves them out.
"""

from __future__ import annotations

from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.decays import HIGGS, TOP, W_BOSON, Z_BOSON, Decays, find_decays
from evenet_hep.events.gen_particles import read_gen_particles

FloatArray = npt.NDArray[np.float32]

COUNTS = ("n_higgs", "n_tops", "n_V", "n_W", "n_Z")
PARTICLES = ("higgs", "top1", "top2")
PT_EDGES = {"higgs": (30.0, 200.0), "top1": (30.0, 300.0), "top2": (30.0, 300.0)}  # GeV
ETA_EDGES = (-1.5, 0.0, 1.5)
PHI_EDGES = (-np.pi / 2, 0.0, np.pi / 2)
LABELS = (
    *COUNTS,
    *(
        f"{name}_{what}{i}"
        for name in PARTICLES
        for what, n_bins in (("pt", 3), ("eta", 4), ("phi", 4))
        for i in range(n_bins)
    ),
    *(f"{name}_present" for name in PARTICLES),
)
N_LABELS = (38, 41)


class FlatMomenta(NamedTuple):
    """Particles of many events as flat columns, in any order within an event.

    Attributes
    ----------
    offsets : int array, shape (n_events + 1,)
        Start of each event, beginning with 0.
    pt, eta, phi : array, shape (n_particles,)
        GeV and radians.
    """

    offsets: npt.ArrayLike
    pt: npt.ArrayLike
    eta: npt.ArrayLike
    phi: npt.ArrayLike


class KinematicLabels(NamedTuple):
    """Labels of many events.

    Attributes
    ----------
    values : float32 array, shape (n_events, n_labels)
        Counts, and 0 or 1.
    names : tuple of str
        What each column is.
    is_count : tuple of bool
        True for columns to regress (mean squared error), False for those to classify (binary cross-entropy).
    """

    values: FloatArray
    names: tuple[str, ...]
    is_count: tuple[bool, ...]


def kinematic_labels(
    higgs: FlatMomenta, tops: FlatMomenta, n_w: npt.ArrayLike, n_z: npt.ArrayLike, *, n_labels: int = 41
) -> KinematicLabels:
    """Labels from the true heavy particles.

    Parameters
    ----------
    higgs, tops : FlatMomenta
        Higgs bosons and top quarks of every event; the hardest (two) of them are binned, all are counted.
    n_w, n_z : int array, shape (n_events,)
        Numbers of W and Z bosons.
    n_labels : int
        41, or 38 without the labels of presence.

    Raises
    ------
    InputError
        For columns that do not belong together, and any other number of labels.

    Notes
    -----
    A value on the edge of two bins belongs to the lower one.

    Examples
    --------
    >>> nothing = FlatMomenta([0, 0], [], [], [])
    >>> labels = kinematic_labels(FlatMomenta([0, 1], [30.0], [1.6], [0.0]), nothing, [1], [0])
    >>> [name for name, value in zip(labels.names, labels.values[0]) if value]
    ['n_higgs', 'n_V', 'n_W', 'higgs_pt0', 'higgs_eta3', 'higgs_phi1', 'higgs_present']
    """
    if n_labels not in N_LABELS:
        msg = f"n_labels must be {N_LABELS[0]} or {N_LABELS[1]}; found {n_labels}"
        raise InputError(msg)
    n_w, n_z = np.asarray(n_w), np.asarray(n_z)
    if n_w.ndim != 1 or n_w.shape != n_z.shape:
        msg = f"n_w and n_z must hold one number per event; found shapes {n_w.shape} and {n_z.shape}"
        raise InputError(msg)
    n_higgs, hardest_higgs = _hardest("higgs", higgs, len(n_w), 1)
    n_tops, hardest_tops = _hardest("tops", tops, len(n_w), 2)
    blocks = [np.stack([n_higgs, n_tops, n_w + n_z, n_w, n_z], axis=1)]
    momenta = (hardest_higgs[:, 0], hardest_tops[:, 0], hardest_tops[:, 1])
    for name, momentum in zip(PARTICLES, momenta, strict=True):
        edges = (PT_EDGES[name], ETA_EDGES, PHI_EDGES)
        blocks += [_bins(momentum[:, i], each) for i, each in enumerate(edges)]
    blocks += [np.stack([~np.isnan(momentum[:, 0]) for momentum in momenta], axis=1)]
    values = np.concatenate(blocks, axis=1).astype(np.float32)[:, :n_labels]
    names = LABELS[:n_labels]
    return KinematicLabels(values, names, tuple(name in COUNTS for name in names))


def label_kinematics(events: ak.Array, *, n_labels: int = 41) -> KinematicLabels:
    """Labels of simulated events from their generated particles.

    Top quarks and Higgs bosons are taken after recoil, before decay. W and Z bosons that a top quark, a Higgs boson or
    another W or Z decays to are not counted: they say nothing that the others do not say already.

    Parameters
    ----------
    events : ak.Array
        NanoEvents (eager or virtual), records of the same structure or a flat table, with ``GenPart``.
    n_labels : int
        41, or 38 without the labels of presence.

    Raises
    ------
    InputError
        For a missing field, named with the near misses.
    """
    decays = find_decays(read_gen_particles(events))
    absolute = np.abs(decays.pdg_id)
    inside = _is_inside(decays, absolute)
    numbers = [_count(decays.offsets, (absolute == boson) & ~inside) for boson in (W_BOSON, Z_BOSON)]
    return kinematic_labels(
        _momenta(decays, absolute == HIGGS), _momenta(decays, absolute == TOP), *numbers, n_labels=n_labels
    )


def _is_inside(decays: Decays, absolute: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """True for resonances below a t, W, Z or Higgs boson."""
    start = np.repeat(decays.offsets[:-1], np.diff(decays.offsets))
    parent = np.where(decays.parent >= 0, start + decays.parent, -1)
    stops = np.append(
        np.isin(absolute, (TOP, W_BOSON, Z_BOSON, HIGGS)), False
    )  # the last is that of no parent
    inside = np.zeros(len(absolute), np.bool_)
    above = parent
    while (above >= 0).any():
        inside |= stops[above]
        above = np.where(above >= 0, parent[above], -1)
    return inside


def _count(offsets: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    total = np.concatenate([[0], np.cumsum(chosen)])
    return np.diff(total[offsets])


def _momenta(decays: Decays, chosen: npt.NDArray[np.bool_]) -> FlatMomenta:
    total = np.concatenate([[0], np.cumsum(chosen)])
    pt, eta, phi, _ = decays.momentum[chosen].T
    return FlatMomenta(total[decays.offsets], pt, eta, phi)


def _hardest(
    name: str, particles: FlatMomenta, n_events: int, most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Number of particles per event, and pt, eta and phi of the hardest, shape (n_events, most, 3); NaN without."""
    offsets = np.asarray(particles.offsets, np.int64)
    columns = np.stack([np.asarray(column, np.float64) for column in particles[1:]], axis=1)
    if offsets.shape != (n_events + 1,) or offsets[0] != 0 or offsets[-1] != len(columns):
        msg = f"{name}.offsets must have {n_events + 1} entries from 0 to {len(columns)}; found shape {offsets.shape}"
        raise InputError(msg)
    if not np.isfinite(columns).all():
        msg = f"{name} must hold finite numbers; found {columns[~np.isfinite(columns)][0]}"
        raise InputError(msg)
    counts = np.diff(offsets)
    event = np.repeat(np.arange(n_events), counts)
    order = np.lexsort((-columns[:, 0], event))  # equal pT: in the order given
    rank = np.arange(len(columns)) - offsets[event]
    hardest = np.full((n_events, most, 3), np.nan)
    kept = rank < most
    hardest[event[kept], rank[kept]] = columns[order][kept]
    return counts, hardest


def _bins(values: npt.NDArray[np.float64], edges: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """One column per bin, True where the value is in it; all False for NaN."""
    place = np.searchsorted(edges, values, side="left")  # on an edge: the bin below
    bins: npt.NDArray[np.bool_] = (place[:, None] == np.arange(len(edges) + 1)) & ~np.isnan(values)[:, None]
    return bins
