"""Flat columns and offsets: the step between jagged awkward collections and the compiled fill.

Fields are read by item (``jets["pt"]``), the needed ones are chosen first and materialised together: on virtual
arrays nothing else is read from the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float32]

KINDS = ("lepton", "jet", "tau", "photon", "other")


@dataclass(frozen=True)
class ObjectBlock:
    """One collection of objects as flat columns.

    Parameters
    ----------
    name : str
        Of the collection, as in ``"Jet"``.
    kind : str
        ``"lepton"``, ``"jet"``, ``"tau"``, ``"photon"`` or ``"other"``; decides what it counts as in the event
        features.
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in the columns, beginning with 0.
    columns : dict of str to float32 array, shape (n_objects,)
        Schema field name to values, in GeV and radians.
    constants : dict of str to float
        Fields with one value for the whole collection, such as the charge of jets.
    """

    name: str
    kind: str
    offsets: npt.NDArray[np.int64]
    columns: dict[str, FloatArray]
    constants: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            msg = f"kind of {self.name!r} must be one of {', '.join(KINDS)}; found {self.kind!r}"
            raise InputError(msg)
        n_objects = int(self.offsets[-1])
        for name, column in self.columns.items():
            if column.shape != (n_objects,):
                msg = f"{self.name}[{name!r}] must have {n_objects} entries; found shape {column.shape}"
                raise InputError(msg)
        self._check_values()

    def _check_values(self) -> None:
        for name, column in self.columns.items():
            negative = name == "pt" and len(column) > 0 and column.min() < 0
            if negative or not np.isfinite(column).all():
                bad = ~np.isfinite(column)
                if name == "pt":
                    bad |= column < 0
                flat = int(np.argmax(bad))
                event = int(np.searchsorted(self.offsets, flat, side="right")) - 1
                expected = "a finite number of at least 0" if name == "pt" else "a finite number"
                msg = (
                    f"{self.name}[{name!r}] of event {event}, object {flat - int(self.offsets[event])} must be "
                    f"{expected}; found {column[flat]}"
                )
                raise InputError(msg)


@dataclass(frozen=True)
class EventInput:
    """All a cloud is filled from: object blocks and columns with one value per event.

    Parameters
    ----------
    n_events : int
        Number of events.
    blocks : tuple of ObjectBlock
        Collections in the order that breaks ties of equal pT.
    event_columns : dict of str to float32 array, shape (n_events,)
        Event features that come from the file, such as ``met``; the others are computed.
    """

    n_events: int
    blocks: tuple[ObjectBlock, ...]
    event_columns: dict[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for block in self.blocks:
            if len(block.offsets) != self.n_events + 1:
                msg = f"{block.name} must have {self.n_events} events; found {len(block.offsets) - 1}"
                raise InputError(msg)
        for name, column in self.event_columns.items():
            if column.shape != (self.n_events,):
                msg = f"event feature {name!r} must have shape ({self.n_events},); found {column.shape}"
                raise InputError(msg)
            if not np.isfinite(column).all():
                event = int(np.argmax(~np.isfinite(column)))
                msg = f"event feature {name!r} of event {event} must be finite; found {column[event]}"
                raise InputError(msg)


# A record array (ak.Array), or its fields one by one (Mapping[str, ak.Array]) as a flat table with Jet_pt, Jet_eta, ...
# gives them.
Table: TypeAlias = Any


def field_names(table: Table) -> list[str]:
    """The field names of a record array or of a mapping of arrays."""
    return list(table) if isinstance(table, Mapping) else ak.fields(table)


def require_fields(where: str, array: Table, needed: Iterable[str]) -> None:
    """Raise unless a record array has all the needed fields; the message lists the near misses.

    Parameters
    ----------
    where : str
        What the array is called in the message, as in ``"Jet"``.
    array : ak.Array or mapping of str to ak.Array
        Records, or their fields one by one.
    needed : iterable of str
        Field names.

    Raises
    ------
    InputError
        Naming the first missing field and those present that look like it.

    Examples
    --------
    >>> import awkward as ak
    >>> require_fields("Jet", ak.Array([[{"pt": 1.0, "eta": 0.0}]]), ["pt", "Eta"])
    Traceback (most recent call last):
    evenet_hep.errors.InputError: Jet has no field 'Eta'; nearest: 'eta'; it has eta, pt
    """
    present = field_names(array)
    for name in needed:
        if name not in present:
            msg = f"{where} has no field {name!r}; {near_misses(name, present)}"
            raise InputError(msg)


def near_misses(name: str, present: Sequence[str]) -> str:
    """The names closest to a missing one, and what there is, as the end of an error message."""
    lowered = {other.lower(): other for other in present}
    close = [lowered[key] for key in difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.6)]
    nearest = f"nearest: {', '.join(map(repr, close))}; " if close else ""
    listed = ", ".join(sorted(present)[:20]) or "no fields"
    return f"{nearest}it has {listed}{', ...' if len(present) > 20 else ''}"


def flat_columns(
    name: str, objects: Table, fields: Mapping[str, str]
) -> tuple[npt.NDArray[np.int64], dict[str, FloatArray]]:
    """Offsets and flat float32 columns of chosen fields of a jagged collection.

    Parameters
    ----------
    name : str
        Of the collection, for messages.
    objects : ak.Array or mapping of str to ak.Array
        Jagged records, one list per event, or their fields one by one; eager or virtual.
    fields : mapping of str to str
        Name wanted -> field of the collection.

    Returns
    -------
    offsets : int64 array, shape (n_events + 1,)
    columns : dict of str to float32 array, shape (n_objects,)

    Raises
    ------
    InputError
        For a missing field, a field that is not numeric, or missing values (None).
    """
    require_fields(name, objects, fields.values())
    needed = sorted(set(fields.values()))
    chosen = _joined(name, objects, needed) if isinstance(objects, Mapping) else objects[needed]
    if chosen.ndim < 2:
        msg = f"{name} must hold one list of objects per event; found type {chosen.type}"
        raise InputError(msg)
    chosen = ak.materialize(without_tracer(chosen))
    offsets = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(_counts(name, chosen), out=offsets[1:])
    flat = ak.flatten(chosen, axis=1)
    return offsets, {
        wanted: to_column(f"{name}[{source!r}]", flat[source]) for wanted, source in fields.items()
    }


def _joined(name: str, columns: Mapping[str, ak.Array], needed: Sequence[str]) -> ak.Array:
    """Records of columns that stand side by side in a flat table."""
    for field_name in needed:
        if columns[field_name].ndim < 2:  # it would be repeated for every object
            found = columns[field_name].type
            msg = f"{name}[{field_name!r}] must hold one list of numbers per event; found type {found}"
            raise InputError(msg)
    try:
        return ak.zip({field_name: columns[field_name] for field_name in needed})
    except (TypeError, ValueError) as error:
        types = ", ".join(f"{field_name}: {columns[field_name].type}" for field_name in needed)
        msg = f"the columns of {name} must hold one number per object, as many in each; they do not fit together: {types}"
        raise InputError(msg) from error


def to_column(where: str, values: Any) -> FloatArray:
    """A one-dimensional awkward or NumPy array as contiguous float32.

    Raises
    ------
    InputError
        For missing values (None) and for values that are not numbers.
    """
    try:
        if isinstance(values, ak.Array):
            array = ak.to_numpy(ak.materialize(without_tracer(values)))
        else:
            array = np.asarray(values)
        if np.ma.isMaskedArray(array):
            if np.ma.getmaskarray(array).any():
                msg = f"{where} has missing values (None); drop those entries or give them a value"
                raise InputError(msg)
            array = np.ma.getdata(array)
        return np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"{where} must hold numbers; found type {getattr(values, 'type', type(values).__name__)}"
        raise InputError(msg) from error


def without_tracer(array: ak.Array) -> ak.Array:
    """No events of the same type in place of a typetracer, all of whose columns count as read; others unchanged.

    Examples
    --------
    >>> import awkward as ak
    >>> traced = ak.to_backend(ak.Array([[1.5], []]), "typetracer")
    >>> str(without_tracer(traced).type)
    '0 * var * float64'
    """
    return ak.typetracer.length_zero_if_typetracer(array)


def _counts(name: str, jagged: ak.Array) -> npt.NDArray[np.int64]:
    counts = ak.to_numpy(ak.num(jagged, axis=1))
    if np.ma.getmaskarray(counts).any():
        msg = f"{name} has a missing list (None) instead of an empty one; use ak.fill_none or drop the events"
        raise InputError(msg)
    return np.asarray(counts, np.int64)
