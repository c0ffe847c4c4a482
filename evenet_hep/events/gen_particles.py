"""Generated particles of NanoAOD: the tree as flat columns, with the fields that truth needs and no others."""

from __future__ import annotations

from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.errors import InputError
from evenet_hep.events.columns import Table, near_misses, require_fields

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
IdArray = npt.NDArray[np.int32]

COLLECTION = "GenPart"
MOMENTUM = ("pt", "eta", "phi", "mass")
FIELDS = (*MOMENTUM, "pdgId", "genPartIdxMother", "statusFlags")
IS_HARD_PROCESS = 1 << 7  # bit of statusFlags


class GenParticles(NamedTuple):
    """The generated particles of many events as flat columns.

    Attributes
    ----------
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in the columns, beginning with 0.
    pt, eta, phi, mass : float32 array, shape (n_particles,)
        GeV and radians.
    pdg_id : int32 array, shape (n_particles,)
        Numbering scheme of the Particle Data Group.
    mother : int32 array, shape (n_particles,)
        Position of the mother in the event; -1 without.
    is_hard : bool array, shape (n_particles,)
        True for particles of the hard process.
    """

    offsets: IntArray
    pt: FloatArray
    eta: FloatArray
    phi: FloatArray
    mass: FloatArray
    pdg_id: IdArray
    mother: IdArray
    is_hard: npt.NDArray[np.bool_]


def read_gen_particles(events: ak.Array, *, collection: str = COLLECTION) -> GenParticles:
    """The generated particles of NanoAOD events.

    Parameters
    ----------
    events : ak.Array
        NanoEvents (eager or virtual), records of the same structure, or a flat table with names such as
        ``GenPart_pt``. Of virtual arrays only the seven needed branches are read.
    collection : str
        Name of the collection.

    Returns
    -------
    GenParticles

    Raises
    ------
    InputError
        For events without generated particles, such as collision data, a missing field (named, with the near misses),
        and mothers that are not in the event.

    Examples
    --------
    >>> import awkward as ak
    >>> names = {"pt": 0.0, "eta": 0.0, "phi": 0.0, "mass": 0.0, "statusFlags": 128}
    >>> events = ak.Array([{"GenPart": [names | {"pdgId": 25, "genPartIdxMother": -1}]}, {"GenPart": []}])
    >>> particles = read_gen_particles(events)
    >>> particles.offsets, particles.pdg_id
    (array([0, 1, 1]), array([25], dtype=int32))
    """
    if not isinstance(events, ak.Array):
        msg = f"events must be an awkward array of records; found {type(events).__name__}"
        raise InputError(msg)
    table = _table(events, collection)
    require_fields(collection, table, FIELDS)
    chosen = (
        ak.zip({name: table[name] for name in FIELDS}) if isinstance(table, dict) else table[list(FIELDS)]
    )
    if chosen.ndim < 2:
        msg = f"{collection} must hold one list of particles per event; found type {chosen.type}"
        raise InputError(msg)
    chosen = ak.materialize(chosen)
    offsets = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(_plain(collection, ak.num(chosen, axis=1)), out=offsets[1:])
    flat = ak.flatten(chosen, axis=1)
    columns = {name: _plain(f"{collection}[{name!r}]", flat[name]) for name in FIELDS}
    pt, eta, phi, mass = (np.ascontiguousarray(columns[name], np.float32) for name in MOMENTUM)
    particles = GenParticles(
        offsets,
        pt,
        eta,
        phi,
        mass,
        np.ascontiguousarray(columns["pdgId"], np.int32),
        np.ascontiguousarray(columns["genPartIdxMother"], np.int32),
        (columns["statusFlags"] & IS_HARD_PROCESS) != 0,
    )
    _check(particles, collection)
    return particles


def _table(events: ak.Array, name: str) -> Table:
    """One collection, also from a flat table with names such as GenPart_pt."""
    fields = ak.fields(events)
    if name in fields:
        return events[name]
    flat = [field for field in fields if field.startswith(f"{name}_")]
    if not flat:
        msg = f"the events have no generated particles {name!r}; {near_misses(name, fields)}"
        raise InputError(msg)
    return {field.removeprefix(f"{name}_"): events[field] for field in flat}


def _plain(where: str, values: ak.Array) -> npt.NDArray[Any]:
    """A one-dimensional array without missing values."""
    try:
        array = ak.to_numpy(values)
    except (TypeError, ValueError) as error:
        msg = f"{where} must hold numbers; found type {values.type}"
        raise InputError(msg) from error
    if np.ma.getmaskarray(array).any():
        msg = f"{where} has missing values (None)"
        raise InputError(msg)
    return np.asarray(np.ma.getdata(array))


def _check(particles: GenParticles, collection: str) -> None:
    counts = np.diff(particles.offsets)
    beyond = (particles.mother < -1) | (particles.mother >= np.repeat(counts, counts))
    if beyond.any():
        flat = int(np.argmax(beyond))
        event = int(np.searchsorted(particles.offsets, flat, side="right")) - 1
        msg = (
            f"{collection}['genPartIdxMother'] of event {event} must lie between -1 and {counts[event] - 1}; "
            f"found {particles.mother[flat]}"
        )
        raise InputError(msg)
    own = np.arange(len(particles.mother)) - np.repeat(particles.offsets[:-1], counts)
    if (particles.mother >= own).any() and (event := _first_loop(particles.offsets, particles.mother)) >= 0:
        msg = f"{collection}['genPartIdxMother'] of event {event} leads from a particle to itself"
        raise InputError(msg)
    for name in MOMENTUM:
        values = getattr(particles, name)
        if not np.isfinite(values).all():
            flat = int(np.argmax(~np.isfinite(values)))
            event = int(np.searchsorted(particles.offsets, flat, side="right")) - 1
            msg = f"{collection}[{name!r}] of event {event} must be a finite number; found {values[flat]}"
            raise InputError(msg)


@njit(cache=True)
def _first_loop(offsets, mother):  # type: ignore[no-untyped-def]
    """The first event in which a particle is its own ancestor; -1 if there is none."""
    for e in range(len(offsets) - 1):
        mothers = mother[offsets[e] : offsets[e + 1]]
        for i in range(len(mothers)):
            at, steps = mothers[i], 0
            while at >= 0 and steps <= len(mothers):
                at, steps = mothers[at], steps + 1
            if at >= 0:
                return e
    return -1
