"""Delphes as records that are read like NanoAOD, generated particles included.

=============  ==========================  ============================================================================
record         from                        fields
=============  ==========================  ============================================================================
Electron       Electron                    pt, eta, phi, charge; mass 0.000511
Muon           Muon                        pt, eta, phi, charge; mass 0.1057
Jet            Jet                         pt, eta, phi, mass; btag, 1 or 0 by a bit of BTag
Photon         Photon                      pt, eta, phi; mass 0
MET            MissingET                   pt, phi
GenPart        Particle                    pt, eta, phi, mass, pdgId, genPartIdxMother, statusFlags (hard process only)
=============  ==========================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np

from evenet_hep.errors import InputError
from evenet_hep.events.columns import Table, near_misses, require_fields
from evenet_hep.events.gen_particles import IS_HARD_PROCESS
from evenet_hep.events.nanoaod import Branches

DELPHES = Branches(met="MET", btag="btag", working_point=0.5)  # how clouds read these records
COLLECTIONS = ("Electron", "Muon", "Jet", "Photon", "MET", "GenPart")
_MASSES = {"Electron": 0.000510999, "Muon": 0.1056584, "Photon": 0.0}  # GeV
_HARD_STATUS = (21, 29)  # of Pythia 8


def delphes_events(
    events: ak.Array,
    *,
    collections: Sequence[str] = ("Electron", "Muon", "Jet", "MET"),
    btag_bit: int = 0,
) -> ak.Array:
    """Delphes events with NanoAOD's names, for clouds (with ``branches=DELPHES``), selections and truth labels.

    Parameters
    ----------
    events : ak.Array
        NanoEvents of coffea's ``DelphesSchema`` (eager or virtual), or a flat table with branches such as ``Jet.PT``.
        Only what is asked for is read.
    collections : sequence of str
        Which of the records in :mod:`evenet_hep.events.delphes` to make.
    btag_bit : int
        Bit of ``Jet.BTag``; which working point it stands for is set in the card of the simulation.

    Returns
    -------
    ak.Array of records
        One field per collection, in GeV and radians.

    Raises
    ------
    InputError
        For an unknown collection, a missing field (named, with the near misses), and an event without missing
        momentum.

    Examples
    --------
    >>> import awkward as ak
    >>> columns = {"PT": [[45.0]], "Eta": [[1.0]], "Phi": [[0.5]], "Mass": [[7.0]], "BTag": [[2]]}
    >>> events = ak.Array({f"Jet.{name}": values for name, values in columns.items()})
    >>> delphes_events(events, collections=["Jet"], btag_bit=1)["Jet"].to_list()
    [[{'pt': 45.0, 'eta': 1.0, 'phi': 0.5, 'mass': 7.0, 'btag': 1}]]
    """
    for name in collections:
        if name not in COLLECTIONS:
            msg = f"collections of Delphes are {', '.join(COLLECTIONS)}; found {name!r}"
            raise InputError(msg)
    makers = {
        "Jet": lambda: _jets(events, btag_bit),
        "MET": lambda: _met(events),
        "GenPart": lambda: _generated(events),
    }
    records = {
        name: makers[name]() if name in makers else _light_objects(events, name) for name in collections
    }
    return ak.zip(records, depth_limit=1)


def _columns(events: ak.Array, collection: str, needed: Sequence[str]) -> dict[str, ak.Array]:
    """Some fields of a collection, read into memory."""
    fields = ak.fields(events)
    table: Table
    if collection in fields:
        table = events[collection]
    else:
        prefix = f"{collection}."
        table = {name.removeprefix(prefix): events[name] for name in fields if name.startswith(prefix)}
        if not table:
            msg = f"the events have no collection {collection!r}; {near_misses(collection, fields)}"
            raise InputError(msg)
    require_fields(collection, table, needed)
    return {name: ak.materialize(table[name]) for name in needed}


def _light_objects(events: ak.Array, name: str) -> ak.Array:
    """Electrons, muons or photons, which have no mass of their own."""
    charge = ["Charge"] if name != "Photon" else []
    columns = _columns(events, name, ["PT", "Eta", "Phi", *charge])
    mass = ak.full_like(columns["PT"], _MASSES[name])
    charges = {"charge": columns["Charge"]} if charge else {}
    return ak.zip(
        {"pt": columns["PT"], "eta": columns["Eta"], "phi": columns["Phi"], "mass": mass, **charges}
    )


def _jets(events: ak.Array, btag_bit: int) -> ak.Array:
    columns = _columns(events, "Jet", ["PT", "Eta", "Phi", "Mass", "BTag"])
    btag = (columns["BTag"] >> btag_bit) & 1
    momentum = {"pt": columns["PT"], "eta": columns["Eta"], "phi": columns["Phi"], "mass": columns["Mass"]}
    return ak.zip({**momentum, "btag": btag})


def _met(events: ak.Array) -> ak.Array:
    """The one entry that every event has; coffea has taken it out of its list already."""
    columns = _columns(events, "MissingET", ["MET", "Phi"])
    if columns["MET"].ndim == 1:
        return ak.zip({"pt": columns["MET"], "phi": columns["Phi"]})
    counts = ak.to_numpy(ak.num(columns["MET"]))
    if (counts != 1).any():
        event = int(np.argmax(counts != 1))
        msg = f"MissingET of event {event} must have one entry; found {counts[event]}"
        raise InputError(msg)
    return ak.zip({"pt": ak.flatten(columns["MET"]), "phi": ak.flatten(columns["Phi"])})


def _generated(events: ak.Array) -> ak.Array:
    columns = _columns(events, "Particle", ["PT", "Eta", "Phi", "Mass", "PID", "M1", "Status"])
    status = abs(columns["Status"])
    is_hard = (status >= _HARD_STATUS[0]) & (status <= _HARD_STATUS[1])
    return ak.zip(
        {
            "pt": columns["PT"],
            "eta": columns["Eta"],
            "phi": columns["Phi"],
            "mass": columns["Mass"],
            "pdgId": columns["PID"],
            "genPartIdxMother": columns["M1"],
            "statusFlags": ak.values_astype(is_hard, np.int32) * IS_HARD_PROCESS,
        }
    )
