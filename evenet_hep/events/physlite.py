"""ATLAS DAOD_PHYSLITE as records that are read like NanoAOD: GeV instead of MeV, and NanoAOD's names.

==========  ==============================================  =========================================================
record      from (coffea's name, branch prefix)             fields
==========  ==============================================  =========================================================
Electron    Electrons, AnalysisElectronsAuxDyn              pt, eta, phi, mass, charge
Muon        Muons, AnalysisMuonsAuxDyn                      pt, eta, phi, charge; mass 0.1057
Jet         Jets, AnalysisJetsAuxDyn                        pt, eta, phi, mass; btagDL1dv01, btagGN2v00
            and BTagging_AntiKt4EMPFlow
Tau         TauJets, AnalysisTauJetsAuxDyn                  pt, eta, phi, mass, charge
Photon      Photons, AnalysisPhotonsAuxDyn                  pt, eta, phi; mass 0
==========  ==============================================  =========================================================

PHYSLITE holds the soft term of the missing momentum, not the missing momentum: that is made with your calibrated
objects. Hand it to the cloud as ``met=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import awkward as ak
import numpy as np

from evenet_hep.errors import InputError
from evenet_hep.events.columns import Table, field_names, near_misses, require_fields

MEV = 1e-3  # in GeV
MUON_MASS = 0.1056584  # GeV
BTAGGING = "BTagging_AntiKt4EMPFlow"
CHARM_FRACTIONS = {"DL1dv01": 0.018, "GN2v00": 0.1}  # f_c of ln p_b / (f_c p_c + (1 - f_c) p_u)


class _Source(NamedTuple):
    collection: str
    prefix: str
    fields: tuple[str, ...]
    mass: float | None  # of objects that have no field m


_SOURCES = {
    "Electron": _Source("Electrons", "AnalysisElectronsAuxDyn.", ("charge",), None),
    "Muon": _Source("Muons", "AnalysisMuonsAuxDyn.", ("charge",), MUON_MASS),
    "Jet": _Source("Jets", "AnalysisJetsAuxDyn.", (), None),
    "Tau": _Source("TauJets", "AnalysisTauJetsAuxDyn.", ("charge",), None),
    "Photon": _Source("Photons", "AnalysisPhotonsAuxDyn.", (), 0.0),
}


def physlite_events(
    events: ak.Array,
    *,
    collections: Sequence[str] = ("Electron", "Muon", "Jet"),
    taggers: Sequence[str] = ("DL1dv01",),
) -> ak.Array:
    """PHYSLITE events with NanoAOD's names and units, for clouds, selections and observables.

    Parameters
    ----------
    events : ak.Array
        NanoEvents of coffea's ``PHYSLITESchema`` (eager or virtual), or a flat table with branches such as
        ``AnalysisJetsAuxDyn.pt``. Only what is asked for is read.
    collections : sequence of str
        Which of Electron, Muon, Jet, Tau and Photon to take.
    taggers : sequence of str
        b-tags to compute for jets, ``"DL1dv01"`` or ``"GN2v00"``; field ``btagDL1dv01`` is
        ln p_b / (f_c p_c + (1 - f_c) p_u) with the f_c in :data:`CHARM_FRACTIONS`.

    Returns
    -------
    ak.Array of records
        One field per collection, in GeV and radians, and ``run``, ``luminosityBlock`` and ``event`` where there are.

    Raises
    ------
    InputError
        For an unknown collection or tagger, a missing field (named, with the near misses), and b-tags that are not one
        per jet.

    Examples
    --------
    >>> import awkward as ak
    >>> columns = {"pt": [[45000.0]], "eta": [[1.0]], "phi": [[0.5]], "charge": [[-1.0]]}
    >>> events = ak.Array({f"AnalysisMuonsAuxDyn.{name}": values for name, values in columns.items()})
    >>> physlite_events(events, collections=["Muon"])["Muon"].to_list()
    [[{'pt': 45.0, 'eta': 1.0, 'phi': 0.5, 'mass': 0.1056584, 'charge': -1.0}]]
    """
    for name in collections:
        if name not in _SOURCES:
            msg = f"collections of PHYSLITE are {', '.join(_SOURCES)}; found {name!r}"
            raise InputError(msg)
    for tagger in taggers:
        if tagger not in CHARM_FRACTIONS:
            msg = f"taggers of PHYSLITE are {', '.join(CHARM_FRACTIONS)}; found {tagger!r}"
            raise InputError(msg)
    records = {name: _objects(events, _SOURCES[name]) for name in collections}
    if "Jet" in records:
        for tagger in taggers:
            records["Jet"][f"btag{tagger}"] = _btag(events, tagger, records["Jet"]["pt"])
    objects = {name: ak.zip(columns) for name, columns in records.items()}
    return ak.zip({**objects, **_identifiers(events)}, depth_limit=1)


def _identifiers(events: ak.Array) -> dict[str, ak.Array]:
    """Run, luminosity block and event number, where they are in the file."""
    names = {"run": "runNumber", "luminosityBlock": "lumiBlock", "event": "eventNumber"}
    fields = ak.fields(events)
    if "EventInfo" in fields:
        return {name: events["EventInfo"][source] for name, source in names.items()}
    flat = {name: f"EventInfoAuxDyn.{source}" for name, source in names.items()}
    return {name: events[source] for name, source in flat.items() if source in fields}


def _table(events: ak.Array, collection: str, prefix: str) -> Table:
    fields = ak.fields(events)
    if collection in fields:
        return events[collection]
    flat = {name.removeprefix(prefix): events[name] for name in fields if name.startswith(prefix)}
    if not flat:
        msg = f"the events have neither {collection!r} nor branches {prefix}*; {near_misses(collection, fields)}"
        raise InputError(msg)
    return flat


def _objects(events: ak.Array, source: _Source) -> dict[str, ak.Array]:
    """Columns of one collection, in GeV."""
    table = _table(events, source.collection, source.prefix)
    needed = ["pt", "eta", "phi", *source.fields, *(["m"] if source.mass is None else [])]
    require_fields(source.collection, table, needed)
    columns = {name: ak.materialize(table[name]) for name in needed}
    mass = columns.pop("m") * MEV if source.mass is None else ak.full_like(columns["pt"], source.mass)
    charges = {name: columns[name] for name in source.fields}
    return {"pt": columns["pt"] * MEV, "eta": columns["eta"], "phi": columns["phi"], "mass": mass, **charges}


def _btag(events: ak.Array, tagger: str, pt: ak.Array) -> ak.Array:
    """Logarithm of the likelihood ratio of b and other jets; very small probabilities give finite numbers."""
    table = _table(events, BTAGGING, f"{BTAGGING}AuxDyn.")
    names = [f"{tagger}_p{flavour}" for flavour in "bcu"]
    present = field_names(table)
    if missing := [name for name in names if name not in present]:
        msg = f"{BTAGGING} has no field {missing[0]!r}; {near_misses(missing[0], present)}"
        raise InputError(msg)
    b, c, u = (ak.materialize(table[name]) for name in names)
    if not ak.all(ak.num(b) == ak.num(pt)):
        msg = (
            f"{BTAGGING} must hold one entry per jet; found {ak.sum(ak.num(b))} for {ak.sum(ak.num(pt))} jets"
        )
        raise InputError(msg)
    fraction = CHARM_FRACTIONS[tagger]
    tiny = float(np.finfo(np.float32).tiny)
    others = fraction * c + (1 - fraction) * u
    return np.log(ak.where(b > tiny, b, tiny)) - np.log(ak.where(others > tiny, others, tiny))
