"""Constituents of Delphes jets, joined by the references that Delphes stores.

``Jet.Constituents`` holds, for every jet, the unique identifiers of energy-flow objects: ``EFlowTrack``, ``EFlowPhoton`` and
``EFlowNeutralHadron``, whose ``fUniqueID`` they are. In the card of the simulation the jets must have been clustered
from energy-flow objects, and these must be written.
"""

from __future__ import annotations

from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.columns import field_names, near_misses, require_fields

PION_MASS = 0.13957  # GeV, of tracks in files of Delphes before 3.5, which have no mass
_CODES = {"EFlowPhoton": 22, "EFlowNeutralHadron": 130}
_LEPTONS = (11, 13)


class _Candidates(NamedTuple):
    counts: npt.NDArray[np.int64]
    identifier: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[np.float64]]


def delphes_constituents(events: ak.Array, collection: str = "Jet") -> ak.Array:
    """Constituents of the jets of Delphes, a list per jet.

    Parameters
    ----------
    events : ak.Array
        NanoEvents of coffea's ``DelphesSchema``, or a flat table with branches such as ``Jet.Constituents``: per jet
        a list of identifiers, or records with such a list in ``refs``, as uproot reads a ``TRefArray``.
    collection : str
        Of the jets, as in ``"Jet"`` or ``"FatJet"``.

    Returns
    -------
    ak.Array
        n events * var jets * var constituents of records with pt, eta, phi, mass (GeV and radians), pdgId and charge, for
        :func:`~evenet_hep.events.jets.cloud_of_jets`. Tracks that are no leptons are charged pions, unless the file
        says otherwise.

    Raises
    ------
    InputError
        For missing collections or fields, and for references that lead to none of the three.

    Examples
    --------
    >>> track = {"fUniqueID": [[7]], "PT": [[20.0]], "Eta": [[0.1]], "Phi": [[0.0]], "Charge": [[-1]]}
    >>> tower = {"fUniqueID": [[9]], "ET": [[5.0]], "Eta": [[0.2]], "Phi": [[0.1]]}
    >>> columns = {f"EFlowTrack.{k}": v for k, v in track.items()}
    >>> columns |= {f"{name}.{k}": v for name in ("EFlowPhoton", "EFlowNeutralHadron") for k, v in tower.items()}
    >>> columns["EFlowNeutralHadron.fUniqueID"] = [[8]]
    >>> events = ak.Array({**columns, "Jet.Constituents": [[[7, 9]]]})
    >>> delphes_constituents(events).pdgId.to_list()
    [[[-211, 22]]]
    """
    references = _field(events, collection, "Constituents")
    if "refs" in ak.fields(references):
        references = references["refs"]
    if references.ndim != 3:
        msg = f"{collection}.Constituents must be a list of references per jet; found {references.ndim} axes"
        raise InputError(msg)
    parts = [_tracks(events), *(_towers(events, name) for name in _CODES)]
    event = np.concatenate([np.repeat(np.arange(len(part.counts)), part.counts) for part in parts])
    key = _key(event, np.concatenate([part.identifier for part in parts]))
    order = np.argsort(key, kind="stable")
    per_event = ak.flatten(references, axis=2)
    wanted = _key(
        np.repeat(np.arange(len(references)), ak.to_numpy(ak.num(per_event))),
        np.asarray(ak.to_numpy(ak.flatten(per_event)), np.int64),
    )
    at = np.minimum(np.searchsorted(key[order], wanted), max(len(order) - 1, 0))
    is_lost = key[order][at] != wanted if len(order) else np.ones(len(wanted), bool)
    if is_lost.any():
        names = ", ".join(("EFlowTrack", *_CODES))
        msg = f"{int(is_lost.sum())} of {len(wanted)} references of {collection}.Constituents lead to none of {names}"
        raise InputError(msg)
    chosen = order[at] if len(wanted) else np.empty(0, np.int64)
    flat = ak.zip(
        {name: np.concatenate([p.columns[name] for p in parts])[chosen] for name in parts[0].columns}
    )
    flat["pdgId"], flat["charge"] = (ak.values_astype(flat[name], np.int64) for name in ("pdgId", "charge"))
    per_jet = ak.unflatten(flat, ak.to_numpy(ak.flatten(ak.num(references, axis=2))))
    return ak.unflatten(per_jet, ak.to_numpy(ak.num(references)))


def _key(event: npt.NDArray[np.int64], identifier: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Identifiers of ROOT have 24 bits.
    return np.asarray((event << 24) | (identifier & 0xFFFFFF), np.int64)


def _has(events: ak.Array, collection: str, name: str) -> bool:
    fields = ak.fields(events)
    if collection in fields:
        return name in field_names(events[collection])
    return f"{collection}.{name}" in fields


def _field(events: ak.Array, collection: str, name: str) -> ak.Array:
    fields = ak.fields(events)
    if collection in fields:
        require_fields(collection, events[collection], [name])
        return ak.materialize(events[collection][name])
    if f"{collection}.{name}" not in fields:
        msg = f"the events have no {collection}.{name}; {near_misses(f'{collection}.{name}', fields)}"
        raise InputError(msg)
    return ak.materialize(events[f"{collection}.{name}"])


def _flat(events: ak.Array, collection: str, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(ak.to_numpy(ak.flatten(_field(events, collection, name))), np.float64)


def _tracks(events: ak.Array) -> _Candidates:
    name = "EFlowTrack"
    pt, eta, phi, charge = (_flat(events, name, field) for field in ("PT", "Eta", "Phi", "Charge"))
    code = np.abs(_flat(events, name, "PID")) if _has(events, name, "PID") else np.zeros(len(pt))
    mass = _flat(events, name, "Mass") if _has(events, name, "Mass") else np.full(len(pt), PION_MASS)
    is_lepton = np.isin(code, _LEPTONS)
    codes = np.where(is_lepton, -charge * code, charge * 211)
    columns = {"pt": pt, "eta": eta, "phi": phi, "mass": mass, "pdgId": codes, "charge": charge}
    return _candidates(events, name, columns)


def _towers(events: ak.Array, name: str) -> _Candidates:
    pt, eta, phi = (_flat(events, name, field) for field in ("ET", "Eta", "Phi"))
    zero = np.zeros(len(pt))
    columns = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "mass": zero,
        "pdgId": zero + _CODES[name],
        "charge": zero,
    }
    return _candidates(events, name, columns)


def _candidates(events: ak.Array, name: str, columns: dict[str, npt.NDArray[np.float64]]) -> _Candidates:
    identifiers = _field(events, name, "fUniqueID")
    flat = np.asarray(ak.to_numpy(ak.flatten(identifiers)), np.int64)
    return _Candidates(np.asarray(ak.to_numpy(ak.num(identifiers)), np.int64), flat, columns)
