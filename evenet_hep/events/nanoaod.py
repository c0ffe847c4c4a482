"""Which NanoAOD branches become which schema field.

The same road serves NanoEvents, any record array of the same structure, flat tables with names such as ``Jet_pt``,
and records that already hold the schema's fields. Objects are never cut here.

=========  ==================  ==================  =============  =====================================
version    b-tag branch        working point       MET            recognised by
=========  ==================  ==================  =============  =====================================
v15        btagUParTAK4B       0.1272              PuppiMET       Jet has btagUParTAK4B
v12        btagPNetB           0.245               PuppiMET       Jet has btagPNetB
v9         btagDeepFlavB       0.2489              MET            Jet has btagDeepFlavB
=========  ==================  ==================  =============  =====================================

The working points are CMS's medium ones for 2024 (Run3Summer24), 2022 before the endcap leak (Run3Summer22) and 2016 after
the VFP change (UL2016postVFP), as the BTV group gives them on https://btv-wiki.docs.cern.ch/ScaleFactors/. Each period has its
own, 0.2605 for Run3Summer22EE for example: choose that of your year.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import awkward as ak
import numpy as np

from evenet_hep.errors import InputError
from evenet_hep.events.columns import (
    EventInput,
    FloatArray,
    ObjectBlock,
    Table,
    field_names,
    flat_columns,
    near_misses,
    require_fields,
    to_column,
)
from evenet_hep.events.fill import COMPUTED
from evenet_hep.schema import EventSchema, Feature


class NanoVersion(NamedTuple):
    """What to read in one generation of NanoAOD files: b-tag branch, medium working point, MET collection."""

    name: str
    btag: str
    working_point: float
    met: str


VERSIONS = (
    NanoVersion("v15", "btagUParTAK4B", 0.1272, "PuppiMET"),
    NanoVersion("v12", "btagPNetB", 0.245, "PuppiMET"),
    NanoVersion("v9", "btagDeepFlavB", 0.2489, "MET"),
)
_DERIVED = ("energy", "is_lepton", "btag")
_MASSES = ("m_all", "m_lep", "m_bjet")
MET_NAMES = ("PuppiMET", "MET", "PFMET")


@dataclass(frozen=True)
class Branches:
    """Names of the collections and branches to read; empty strings mean: what the version of the file suggests.

    Parameters
    ----------
    leptons, jets, taus, photons : tuple of str
        Collection names by what they count as. Taus and photons are left out unless asked for.
    met : str
        Collection (or branch prefix) with the missing transverse momentum.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float, optional
        A jet is b-tagged if its score is above this value, strictly. Needed with a ``btag`` of your own choice.

    Examples
    --------
    >>> Branches(jets=("CorrectedJet",), btag="btagDeepFlavB", working_point=0.2783).jets
    ('CorrectedJet',)
    """

    leptons: tuple[str, ...] = ("Electron", "Muon")
    jets: tuple[str, ...] = ("Jet",)
    taus: tuple[str, ...] = ()
    photons: tuple[str, ...] = ()
    met: str = ""
    btag: str = ""
    working_point: float | None = None

    def __post_init__(self) -> None:
        names = [name for names in self.kinds().values() for name in names]
        if not names:
            msg = "at least one collection of leptons, jets, taus or photons must be used; found none"
            raise InputError(msg)
        if len(set(names)) < len(names):
            msg = f"every collection may be used once; found {', '.join(names)}"
            raise InputError(msg)

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Collection names per kind, in the order that breaks ties of equal pT."""
        return {"lepton": self.leptons, "jet": self.jets, "tau": self.taus, "photon": self.photons}


def from_events(
    events: ak.Array,
    schema: EventSchema,
    *,
    branches: Branches,
    collections: Mapping[str, ak.Array],
    met: ak.Array | None,
    event_features: Mapping[str, Any],
) -> EventInput:
    """Flat columns of everything the schema needs, and nothing else; see ``EventCloud.from_awkward``."""
    if not isinstance(events, ak.Array):
        msg = f"events must be an awkward array of records; found {type(events).__name__}"
        raise InputError(msg)
    given = {name: to_column(f"event feature {name!r}", values) for name, values in event_features.items()}
    if unknown := sorted(set(given) - set(schema.event_names)):
        msg = f"event_features holds {', '.join(unknown)}, which the schema lacks: {', '.join(schema.event_names)}"
        raise InputError(msg)
    if "objects" in ak.fields(events):
        return _from_records(events, schema, given)
    known = [name for names in branches.kinds().values() for name in names]
    if unknown := sorted(set(collections) - set(known)):
        msg = f"collections holds {', '.join(unknown)}, which is not among the branches to use: {', '.join(known)}"
        raise InputError(msg)
    tables = {
        name: (kind, collections[name] if name in collections else _table(events, name))
        for kind, names in branches.kinds().items()
        for name in names
    }
    tagger = _tagger(events, schema, branches, tables, given)
    blocks = tuple(_block(name, kind, table, schema, tagger, given) for name, (kind, table) in tables.items())
    return EventInput(_n_events(events), blocks, _event_columns(events, schema, branches, met, given))


def nano_version(events: ak.Array, jets: Table) -> NanoVersion | None:
    """The generation of a NanoAOD file by its fields; None if it is none of those known.

    A file whose MET collection is not the usual one of its version is read with the one it has.
    """
    present = set(field_names(jets))
    for version in VERSIONS:
        if version.btag in present:
            if not _has(events, version.met):
                return version._replace(
                    met=next((name for name in MET_NAMES if _has(events, name)), version.met)
                )
            return version
    return None


def _has(events: ak.Array, name: str) -> bool:
    fields = ak.fields(events)
    return name in fields or any(field.startswith(f"{name}_") for field in fields)


def _table(events: ak.Array, name: str) -> Table:
    """One collection, also from a flat table with names such as Jet_pt."""
    fields = ak.fields(events)
    if name in fields:
        return events[name]
    flat = [field for field in fields if field.startswith(f"{name}_")]
    if not flat:
        msg = f"the events have no collection {name!r}; {near_misses(name, fields)}"
        raise InputError(msg)
    return {field.removeprefix(f"{name}_"): events[field] for field in flat}


class _Tagger(NamedTuple):
    field: str
    working_point: float | None


def _tagger(
    events: ak.Array,
    schema: EventSchema,
    branches: Branches,
    tables: Mapping[str, tuple[str, Table]],
    given: Mapping[str, FloatArray],
) -> _Tagger | None:
    """The b-tag to use; None when neither an object feature nor an event feature needs one."""
    as_score = any(feature.definition == "score" for feature in schema.objects if feature.name == "btag")
    counted = any(name in ("n_bjet", "m_bjet") and name not in given for name in schema.event_names)
    flagged = counted or ("btag" in schema.object_names and not as_score)
    jets = next((table for kind, table in tables.values() if kind == "jet"), None)
    if jets is None or not (as_score or flagged):
        return None
    version = nano_version(events, jets)
    field = branches.btag or (version.btag if version else "")
    if not field:
        expected = ", ".join(version.btag for version in VERSIONS)
        msg = f"the jets have none of the b-tag fields {expected}; name yours as btag; {near_misses('btag', field_names(jets))}"
        raise InputError(msg)
    usual = version.working_point if version and field == version.btag else None
    working_point = branches.working_point if branches.working_point is not None else usual
    if working_point is None and flagged:
        msg = f"b-tag {field!r} needs a working_point to become a flag; found none"
        raise InputError(msg)
    return _Tagger(field, working_point)


def _needed_fields(kind: str, schema: EventSchema, given: set[str]) -> list[str]:
    """Fields that every collection of a kind must have, those with a default and the b-tag left out."""
    momenta = "energy" in schema.object_names or any(
        name in _MASSES for name in set(schema.event_names) - given
    )
    fields = ["pt", "eta", "phi", "mass"] if momenta else ["pt"]
    for feature in schema.objects:
        constant = feature.name in _DERIVED or (feature.name == "charge" and kind in ("jet", "photon"))
        if not constant and feature.default is None and feature.name not in fields:
            fields.append(feature.name)
    return fields


def required_branches(schema: EventSchema, branches: Branches) -> list[str]:
    """Branches such as ``Jet_pt`` that a flat table must have, b-tag and MET left out as they may be chosen.

    Examples
    --------
    >>> schema = EventSchema([Feature("pt", "GeV"), Feature("charge")])
    >>> required_branches(schema, Branches(leptons=("Muon",)))
    ['Muon_pt', 'Muon_charge', 'Jet_pt']
    """
    return [
        f"{name}_{field}"
        for kind, names in branches.kinds().items()
        for name in names
        for field in _needed_fields(kind, schema, set())
        if not (kind == "photon" and field == "mass")
    ]


def _block(
    name: str,
    kind: str,
    table: Table,
    schema: EventSchema,
    tagger: _Tagger | None,
    given: Mapping[str, FloatArray],
) -> ObjectBlock:
    fields = {name: name for name in _needed_fields(kind, schema, set(given))}
    constants: dict[str, float] = {}
    for feature in schema.objects:
        if feature.name == "charge" and kind in ("jet", "photon"):
            constants["charge"] = 0.0
        elif feature.name not in (*fields, *_DERIVED):
            if feature.name not in field_names(table) and feature.default is not None:
                constants[feature.name] = feature.default
            else:
                fields[feature.name] = feature.name
    if kind == "photon" and "mass" not in field_names(table):
        fields.pop("mass", None)
    if kind == "jet" and tagger is not None:
        fields["btag_score"] = tagger.field
    offsets, columns = flat_columns(name, table, fields)
    score = columns.pop("btag_score", None)
    if score is not None and tagger is not None and tagger.working_point is not None:
        columns["btag_flag"] = (score > np.float32(tagger.working_point)).astype(np.float32)
    for feature in schema.objects:
        if feature.name == "btag":
            tagged = score if feature.definition == "score" else columns.get("btag_flag")
            if tagged is None:
                constants["btag"] = feature.default or 0.0
            else:
                columns["btag"] = tagged
    return ObjectBlock(name, kind, offsets, columns, constants)


def _event_columns(
    events: ak.Array,
    schema: EventSchema,
    branches: Branches,
    met: ak.Array | None,
    given: dict[str, FloatArray],
) -> dict[str, FloatArray]:
    columns = dict(given)
    wanted = [name for name in schema.event_names if name not in given]
    if {"met", "met_phi"} & set(wanted):
        name = "met" if met is not None else branches.met or _usual_met(events, branches)
        table: Table = met if met is not None else _table(events, name)
        for feature, field in (("met", "pt"), ("met_phi", "phi")):
            if feature in wanted:
                require_fields(name, table, [field])
                columns[feature] = to_column(f"{name}[{field!r}]", table[field])
    for name in wanted:
        if name not in COMPUTED and name not in columns:
            columns[name] = _event_column(events, name)
    return columns


def _usual_met(events: ak.Array, branches: Branches) -> str:
    jets = [_table(events, name) for name in branches.jets if _has(events, name)]
    version = nano_version(events, jets[0]) if jets else None
    if version is not None and _has(events, version.met):
        return version.met
    found = next((name for name in MET_NAMES if _has(events, name)), None)
    if found is None:
        msg = f"the events have no {' or '.join(MET_NAMES)}; {near_misses('PuppiMET', ak.fields(events))}"
        raise InputError(msg)
    return found


def _event_column(events: ak.Array, name: str) -> FloatArray:
    """A feature of the user's own: a field of that name, or PV_npvs for events.PV.npvs."""
    fields = ak.fields(events)
    if name in fields:
        return to_column(f"event feature {name!r}", events[name])
    collection, _, field = name.partition("_")
    if field and collection in fields and field in ak.fields(events[collection]):
        return to_column(f"event feature {name!r}", events[collection][field])
    msg = f"event feature {name!r} is not in the events; {near_misses(name, fields)}"
    raise InputError(msg)


def _from_records(events: ak.Array, schema: EventSchema, given: dict[str, FloatArray]) -> EventInput:
    """Records that hold the schema's own fields: a jagged ``objects`` and one number per event feature."""
    objects = events["objects"]
    fields = {
        name: name
        for name in ("pt", *schema.object_names)
        if name != "energy" or "energy" in ak.fields(objects)
    }
    if "energy" in schema.object_names and "energy" not in fields:
        fields |= {name: name for name in ("eta", "phi", "mass")}
    offsets, columns = flat_columns("objects", objects, fields)
    wanted = [name for name in schema.event_names if name not in given]
    require_fields("events", events, wanted)
    read = {name: to_column(f"event feature {name!r}", events[name]) for name in wanted}
    return EventInput(_n_events(events), (ObjectBlock("objects", "other", offsets, columns),), given | read)


def _n_events(events: ak.Array) -> int:
    return 0 if ak.backend(events) == "typetracer" else len(events)  # see without_tracer


class FieldSources(NamedTuple):
    """Where the fields of a schema would come from.

    Parameters
    ----------
    sources : dict of str to str
        Schema field -> the branches it is filled from, in words.
    missing : dict of str to str
        Fields that cannot be filled, or not for every collection -> why.
    """

    sources: dict[str, str]
    missing: dict[str, str]


def describe_sources(events: ak.Array, schema: EventSchema, branches: Branches) -> FieldSources:
    """Where every field of a schema would come from in some events, and which could not be filled."""
    if "objects" in ak.fields(events):
        objects = ak.fields(events["objects"])
        found = {name: f"objects.{name}" if name in objects else "" for name in schema.object_names}
        found |= {name: name if name in ak.fields(events) else "" for name in schema.event_names}
        return FieldSources(
            found, {name: "not among the records" for name, source in found.items() if not source}
        )
    present = {
        name: (kind, _table(events, name))
        for kind, names in branches.kinds().items()
        for name in names
        if _has(events, name)
    }
    absent = [name for names in branches.kinds().values() for name in names if name not in present]
    sources: dict[str, str] = {}
    missing: dict[str, str] = {}
    for feature in schema.objects:
        try:
            sources[feature.name] = _object_source(events, feature, schema, branches, present)
        except InputError as error:
            sources[feature.name], missing[feature.name] = "", str(error)
        if absent:
            missing.setdefault(feature.name, f"the events have no collection {', '.join(absent)}")
    for name in schema.event_names:
        try:
            sources[name] = _event_source(events, name, branches)
        except InputError as error:
            sources[name], missing[name] = "", str(error)
        if absent and name in COMPUTED:
            missing.setdefault(name, f"the events have no collection {', '.join(absent)}")
    return FieldSources(sources, missing)


def _object_source(
    events: ak.Array,
    feature: Feature,
    schema: EventSchema,
    branches: Branches,
    tables: Mapping[str, tuple[str, Table]],
) -> str:
    if feature.name == "is_lepton":
        return ", ".join(f"{name}: {int(kind == 'lepton')}" for name, (kind, _) in tables.items())
    if feature.name == "btag":
        tagger = _tagger(events, schema, branches, tables, {})
        jets = ", ".join(name for name, (kind, _) in tables.items() if kind == "jet")
        flag = f" > {tagger.working_point}" if tagger and feature.definition == "flag" else ""
        return f"{jets}.{tagger.field}{flag}, 0 for others" if tagger else "0 for all"
    needed = ("pt", "eta", "mass") if feature.name == "energy" else (feature.name,)
    parts = []
    for name, (kind, table) in tables.items():
        if feature.name == "charge" and kind in ("jet", "photon"):
            parts.append(f"{name}: 0")
        elif feature.default is not None and feature.name not in field_names(table):
            parts.append(f"{name}: {feature.default}")
        else:
            require_fields(name, table, needed)
            parts.append(f"{name}.{'+'.join(needed)}")
    return ", ".join(parts)


def _event_source(events: ak.Array, name: str, branches: Branches) -> str:
    if name in ("met", "met_phi"):
        collection = branches.met or _usual_met(events, branches)
        field = "pt" if name == "met" else "phi"
        require_fields(collection, _table(events, collection), [field])
        return f"{collection}.{field}"
    if name in COMPUTED:
        return "computed from the objects"
    _event_column(events, name)
    return name
