"""Jagged records as the flat columns that compiled kernels take, checked on the way.

Fields are read by item (``jets["pt"]``), so that virtual arrays read nothing else from the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.columns import require_fields

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOMENTUM = ("pt", "eta", "phi", "mass")


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


def count_objects(objects: ak.Array) -> IntArray:
    """Number of objects of every event.

    Examples
    --------
    >>> import awkward as ak
    >>> count_objects(ak.Array([[1.0, 2.0], []]))
    array([2, 0])
    """
    return np.asarray(ak.to_numpy(ak.num(objects, axis=1)), np.int64)


def hardest(objects: ak.Array, count: int) -> ak.Array:
    """The ``count`` objects of highest pT of every event, hardest first; equal pT keep their order.

    Examples
    --------
    >>> import awkward as ak
    >>> hardest(ak.Array([[{"pt": 20.0}, {"pt": 40.0}, {"pt": 30.0}]]), 2)["pt"].to_list()
    [[40.0, 30.0]]
    """
    return objects[ak.argsort(objects["pt"], axis=1, ascending=False, stable=True)][:, :count]


def is_true(values: ak.Array) -> ak.Array:
    """Bools, or bits that are not zero, as bools; also of lists that are empty throughout and have no type.

    Examples
    --------
    >>> import awkward as ak
    >>> is_true(ak.Array([[True, False], [2]])).to_list()
    [[True, False], [True]]
    """
    return values != 0
