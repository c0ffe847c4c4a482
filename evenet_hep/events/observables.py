"""Event observables of awkward collections: the kernels of :mod:`evenet_hep.kinematics`, called with records.

Jets are one list of records per event, leptons one record (or None) per event. Only the fields needed are read, by
item (``jets["pt"]``), so that virtual arrays read nothing else from the file; the results are NumPy arrays with one
entry per event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.columns import require_fields
from evenet_hep.kinematics.angles import nearest_delta_r
from evenet_hep.kinematics.neutrino import W_MASS, NeutrinoResult
from evenet_hep.kinematics.neutrino import neutrino_pz as flat_neutrino_pz
from evenet_hep.kinematics.topness import TopnessConstants, TopnessResult
from evenet_hep.kinematics.topness import topness as flat_topness

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOMENTUM = ("pt", "eta", "phi", "mass")
OVERLAP_DELTA_R = 0.4


class FlatObjects(NamedTuple):
    """Jagged records as offsets and flat columns.

    Parameters
    ----------
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in the columns, beginning with 0.
    columns : tuple of float64 array, shape (n_objects,)
        In the order of the fields asked for; NaN where an object is missing.
    mask : bool array, shape (n_objects,)
        False where an object is missing (None) or masked by the caller.
    """

    offsets: IntArray
    columns: tuple[FloatArray, ...]
    mask: BoolArray


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


def require_objects(name: str, objects: ak.Array, fields: Iterable[str]) -> ak.Array:
    """The collection itself, if it holds lists of records with the fields.

    Lists that are all empty may come without any field, as ``ak.Array([[], []])`` does: they get them.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, and for anything but lists.

    Examples
    --------
    >>> import awkward as ak
    >>> ak.fields(require_objects("jets", ak.Array([[], []]), ["pt"]))
    ['pt']
    """
    if not ak.fields(objects) and len(ak.flatten(objects, axis=None)) == 0:
        empty = ak.unflatten(np.zeros(0), np.zeros(len(objects), np.int64))
        return ak.zip(dict.fromkeys(fields, empty))
    require_fields(name, objects, fields)
    if objects.ndim < 2:
        msg = f"{name} must hold one list of objects per event; found type {objects.type}"
        raise InputError(msg)
    return objects


def flat_objects(
    name: str, objects: ak.Array, fields: Iterable[str], *, mask: ak.Array | None = None
) -> FlatObjects:
    """Offsets and flat float64 columns of chosen fields of jagged records.

    Parameters
    ----------
    name : str
        What the collection is called in messages.
    objects : ak.Array of lists of records
        Eager or virtual; single objects may be missing (None), lists may not.
    fields : iterable of str
        Fields to read.
    mask : ak.Array of lists of bool, optional
        False for objects to leave out.

    Returns
    -------
    FlatObjects
        Missing and masked objects stay in place, with ``mask`` False.

    Raises
    ------
    InputError
        For a missing field, a missing list, or a mask of other lengths.

    Examples
    --------
    >>> import awkward as ak
    >>> flat_objects("jets", ak.Array([[{"pt": 20.0}, None], []]), ["pt"])
    FlatObjects(offsets=array([0, 2, 2]), columns=(array([20., nan]),), mask=array([ True, False]))
    """
    names = tuple(fields)
    objects = require_objects(name, objects, names)
    jagged = [ak.materialize(objects[field]) for field in names]
    offsets = _offsets(name, jagged[0])
    columns, present = [], np.ones(offsets[-1], np.bool_)
    for field, column in zip(names, jagged, strict=True):
        values = _to_numpy(f"{name}[{field!r}]", ak.flatten(column, axis=1))
        if np.ma.isMaskedArray(values):
            present &= ~np.ma.getmaskarray(values)
        columns.append(_filled(values))
    if mask is not None:
        present &= flat_flags("mask", objects, mask, offsets)
    return FlatObjects(offsets, tuple(columns), present)


def flat_flags(name: str, objects: ak.Array, flags: ak.Array | str, offsets: IntArray) -> BoolArray:
    """Flat bools of jagged ``flags``, or of the field of ``objects`` that it names; False where missing.

    Raises
    ------
    InputError
        Unless there is one bool per object.

    Examples
    --------
    >>> import awkward as ak, numpy as np
    >>> flat_flags("is_bjet", ak.Array([[{"btag": True}], []]), "btag", np.array([0, 1, 1]))
    array([ True])
    """
    if isinstance(flags, str):
        require_fields("jets", objects, [flags])
        flags = objects[flags]
    if not isinstance(flags, ak.Array) or flags.ndim != 2:
        msg = f"{name} must hold one list of bools per event; found {getattr(flags, 'type', type(flags).__name__)}"
        raise InputError(msg)
    jagged = ak.materialize(flags)
    if not np.array_equal(_offsets(name, jagged), offsets):
        msg = f"{name} must have one entry per object; its lists have other lengths than those of the objects"
        raise InputError(msg)
    values = _to_numpy(name, ak.flatten(jagged, axis=1))
    if values.dtype != np.bool_ and len(values) > 0:
        msg = f"{name} must hold bools; found type {flags.type}"
        raise InputError(msg)
    return np.ma.filled(values.astype(np.bool_), False)


def event_records(
    name: str, records: ak.Array, fields: Iterable[str], n_events: int | None = None
) -> tuple[FloatArray, ...]:
    """float64 columns of chosen fields of one record per event; NaN where the record is None.

    Raises
    ------
    InputError
        For a missing field, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> event_records("lepton", ak.Array([{"pt": 20.0}, None]), ["pt"])
    (array([20., nan]),)
    """
    names = tuple(fields)
    if not ak.fields(records) and ak.all(
        ak.is_none(records)
    ):  # without a lepton in any event there is no type
        records = ak.Array({field: np.full(len(records), np.nan) for field in names})
    require_fields(name, records, names)
    if records.ndim != 1:
        msg = f"{name} must hold one record per event, as ak.firsts gives; found type {records.type}"
        raise InputError(msg)
    expected = len(records) if n_events is None else n_events
    return tuple(event_column(f"{name}[{field!r}]", records[field], expected) for field in names)


def event_column(name: str, values: Any, n_events: int) -> FloatArray:
    """One float64 number per event; NaN where it is missing.

    Raises
    ------
    InputError
        For anything but ``n_events`` numbers.

    Examples
    --------
    >>> import awkward as ak
    >>> event_column("met", ak.Array([20.0, None]), 2)
    array([20., nan])
    """
    array = _to_numpy(name, ak.materialize(values) if isinstance(values, ak.Array) else values)
    if array.shape != (n_events,):
        msg = f"{name} must hold one number for each of the {n_events} events; found shape {array.shape}"
        raise InputError(msg)
    return _filled(array)


def event_flags(name: str, values: Any, n_events: int) -> BoolArray:
    """One bool per event.

    Raises
    ------
    InputError
        For anything but ``n_events`` bools.

    Examples
    --------
    >>> event_flags("trigger", [True, False], 2)
    array([ True, False])
    """
    array = _to_numpy(name, ak.materialize(values) if isinstance(values, ak.Array) else values)
    if array.shape != (n_events,) or (array.dtype != np.bool_ and n_events > 0):
        msg = f"{name} must hold one bool for each of the {n_events} events; found {array.dtype} of shape {array.shape}"
        raise InputError(msg)
    return np.ma.filled(array.astype(np.bool_), False)


def _offsets(name: str, jagged: ak.Array) -> IntArray:
    counts = ak.to_numpy(ak.num(jagged, axis=1))
    if np.ma.getmaskarray(counts).any():
        msg = f"{name} has a missing list (None) instead of an empty one; use ak.fill_none or drop the events"
        raise InputError(msg)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.ma.getdata(counts), out=offsets[1:])
    return offsets


def _filled(values: Any) -> FloatArray:
    """float64 numbers, NaN where they are masked."""
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    return np.ascontiguousarray(values, np.float64)


def _to_numpy(name: str, values: Any) -> Any:
    """A NumPy array of numbers, masked where entries are missing."""
    try:
        array = ak.to_numpy(values) if isinstance(values, ak.Array) else np.asarray(values)
    except ValueError as error:
        msg = f"{name} must hold numbers; found type {getattr(values, 'type', type(values).__name__)}"
        raise InputError(msg) from error
    if array.dtype.kind not in "biuf":
        msg = f"{name} must hold numbers; found type {getattr(values, 'type', array.dtype)}"
        raise InputError(msg)
    return array
