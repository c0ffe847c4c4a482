"""Event observables of awkward collections: the kernels of :mod:`evenet_hep.kinematics`, called with records.

Jets are one list of records per event, leptons one record (or None) per event. Only the fields needed are read, by
item (``jets["pt"]``), so that virtual arrays read nothing else from the file; the results are NumPy arrays with one
entry per event. How records become flat columns is in :mod:`evenet_hep.events.flat`, whose names can be had from here, too.
"""

from __future__ import annotations

from typing import Literal

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.flat import (
    MOMENTUM,
    BoolArray,
    FlatObjects,
    FloatArray,
    IntArray,
    event_column,
    event_flags,
    event_records,
    flat_flags,
    flat_objects,
    require_objects,
)
from evenet_hep.kinematics.angles import nearest_delta_r
from evenet_hep.kinematics.neutrino import W_MASS, NeutrinoResult
from evenet_hep.kinematics.neutrino import neutrino_pz as flat_neutrino_pz
from evenet_hep.kinematics.topness import TopnessConstants, TopnessResult
from evenet_hep.kinematics.topness import topness as flat_topness

__all__ = [
    "MOMENTUM",
    "OVERLAP_DELTA_R",
    "BoolArray",
    "FlatObjects",
    "FloatArray",
    "IntArray",
    "delta_r_to_nearest",
    "event_column",
    "event_flags",
    "event_records",
    "flat_flags",
    "flat_objects",
    "neutrino_pz",
    "remove_overlap",
    "require_objects",
    "topness",
]

OVERLAP_DELTA_R = 0.4


def neutrino_pz(
    lepton: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    w_mass: float = W_MASS,
    complex_solution: Literal["real_part", "met_scaled"] = "real_part",
    formula: Literal["massive", "released"] = "massive",
) -> NeutrinoResult:
    """Neutrino pz of every event from m(l, nu) = m_W; see :func:`evenet_hep.kinematics.neutrino.neutrino_pz`.

    Parameters
    ----------
    lepton : ak.Array of records, one per event
        With ``pt``, ``eta``, ``phi``, ``mass`` in GeV and radians; None where an event has no lepton, as
        ``ak.firsts(leptons)`` gives.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    w_mass, complex_solution, formula
        As for the flat function.

    Returns
    -------
    NeutrinoResult
        NumPy arrays with one entry per event; NaN and ``valid`` False where there is no neutrino.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one lepton per event.

    Examples
    --------
    >>> import awkward as ak
    >>> lepton = ak.Array([{"pt": 45.0, "eta": 0.7, "phi": 1.1, "mass": 0.0}, None])
    >>> nu = neutrino_pz(lepton, [30.0, 30.0], [1.1, 1.1])
    >>> nu.pz.round(3), nu.valid
    (array([-44.891,     nan]), array([ True, False]))
    """
    pt, eta, phi, mass = event_records("lepton", lepton, MOMENTUM)
    return flat_neutrino_pz(
        pt,
        eta,
        phi,
        mass,
        event_column("met", met, len(pt)),
        event_column("met_phi", met_phi, len(pt)),
        w_mass=w_mass,
        complex_solution=complex_solution,
        formula=formula,
    )


def topness(
    lepton: ak.Array,
    jets: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    is_bjet: ak.Array | str,
    mask: ak.Array | None = None,
    strategy: Literal["joint", "sequential"] = "joint",
    constants: TopnessConstants | None = None,
    parallel: bool = False,
) -> TopnessResult:
    """Topness of every event and its jet assignment; see :func:`evenet_hep.kinematics.topness.topness`.

    Parameters
    ----------
    lepton : ak.Array of records, one per event
        With ``pt``, ``eta``, ``phi``, ``mass`` in GeV and radians; None where an event has no lepton.
    jets : ak.Array of lists of records
        With the same fields, in any order. Missing jets (None, as ``ak.pad_none`` leaves them) are ignored.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    is_bjet : ak.Array of lists of bool, or str
        True for b candidates, or the name of a bool field of the jets; all other jets are q candidates.
    mask : ak.Array of lists of bool, optional
        False for jets to ignore, whatever they hold.
    strategy, constants, parallel
        As for the flat function.

    Returns
    -------
    TopnessResult
        NumPy arrays with one entry per event; ``b_lep``, ``b_had``, ``q1``, ``q2`` are positions in ``jets``.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, and for lists that do not fit together.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.zip({
    ...     "pt": [[144.851306, 144.851306, 40.2, 40.2], []], "eta": [[0.0, 0.0, 0.0, 0.0], []],
    ...     "phi": [[1.0, 2.0, 0.0, 3.14159265], []], "mass": [[0.0, 0.0, 0.0, 0.0], []],
    ...     "btag": [[True, True, False, False], []],
    ... })
    >>> lepton = ak.Array([{"pt": 40.2, "eta": 0.0, "phi": 1.0, "mass": 0.0}, None])
    >>> result = topness(lepton, jets, [40.2, 20.0], [-2.14159265, 1.0], is_bjet="btag")
    >>> result.valid, result.topness.round(6), result.q1
    (array([ True, False]), array([ 0., nan]), array([ 2, -1]))
    """
    flat = flat_objects("jets", jets, MOMENTUM, mask=mask)
    n_events = len(flat.offsets) - 1
    pt, eta, phi, mass = flat.columns
    lepton_pt, lepton_eta, lepton_phi, lepton_mass = event_records("lepton", lepton, MOMENTUM, n_events)
    return flat_topness(
        flat.offsets,
        pt,
        eta,
        phi,
        mass,
        flat_flags("is_bjet", jets, is_bjet, flat.offsets),
        lepton_pt,
        lepton_eta,
        lepton_phi,
        lepton_mass,
        event_column("met", met, n_events),
        event_column("met_phi", met_phi, n_events),
        mask=flat.mask,
        strategy=strategy,
        constants=constants,
        parallel=parallel,
    )


def delta_r_to_nearest(record: ak.Array, objects: ak.Array) -> FloatArray:
    """Delta R of one record per event, as of the lepton, to the nearest object of a collection.

    Parameters
    ----------
    record : ak.Array of records, one per event
        With ``eta`` and ``phi`` (radians); None where an event has none.
    objects : ak.Array of lists of records
        With the same fields.

    Returns
    -------
    float64 array, shape (n_events,)
        NaN where the record or all objects are missing.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Examples
    --------
    >>> import awkward as ak
    >>> lepton = ak.Array([{"eta": 0.0, "phi": 3.1}, None])
    >>> jets = ak.Array([[{"eta": 2.0, "phi": 0.0}, {"eta": 0.0, "phi": -3.1}], []])
    >>> delta_r_to_nearest(lepton, jets).round(3)
    array([0.083,   nan])
    """
    flat = flat_objects("objects", objects, ("eta", "phi"))
    n_events = len(flat.offsets) - 1
    eta, phi = event_records("record", record, ("eta", "phi"), n_events)
    other_eta, other_phi = flat.columns
    # One record per event; where there is none its NaN makes the distance NaN, too.
    return nearest_delta_r(np.arange(n_events + 1), eta, phi, flat.offsets, other_eta, other_phi)


def remove_overlap(objects: ak.Array, *others: ak.Array, delta_r: float = OVERLAP_DELTA_R) -> ak.Array:
    """The objects farther than ``delta_r`` from every object of the other collections.

    Parameters
    ----------
    objects : ak.Array of lists of records
        With ``eta`` and ``phi`` (radians).
    *others : ak.Array of lists of records
        Collections that take precedence.
    delta_r : float
        Objects at this distance or nearer are removed.

    Returns
    -------
    ak.Array
        ``objects`` without those.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.Array([[{"eta": 0.4, "phi": 3.1}, {"eta": 0.0, "phi": 0.5}]])
    >>> muons = ak.Array([[{"eta": 0.3, "phi": -3.1}]])
    >>> remove_overlap(jets, muons).to_list()
    [[{'eta': 0.0, 'phi': 0.5}]]
    """
    flat = flat_objects("objects", objects, ("eta", "phi"))
    eta, phi = flat.columns
    keep = np.ones(len(flat.mask), np.bool_)
    for other in others:
        near = flat_objects("other objects", other, ("eta", "phi"))
        other_eta, other_phi = near.columns
        keep &= ~(nearest_delta_r(flat.offsets, eta, phi, near.offsets, other_eta, other_phi) <= delta_r)
    return objects[ak.unflatten(keep, np.diff(flat.offsets))]
