"""Jets with constituents from NanoAOD-like files: clouds, true kinds and substructure, for training and for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.jets import cloud_of_jets, nanoaod_constituents
from evenet_hep.events.substructure import SUBSTRUCTURE, measure_substructure
from evenet_hep.schema import EventSchema

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# What FatJet_truthPdgId of a simulated jet is called.
JET_KINDS: Mapping[str, tuple[int, ...]] = {
    "quark": (1, 2, 3, 4, 5),
    "gluon": (21,),
    "QCD": (1, 2, 3, 4, 5, 21),
    "top": (6,),
    "W": (24,),
    "Z": (23,),
    "H": (25,),
}
RADII = {"FatJet": 0.8, "Jet": 0.4}
_STORED = {"tau1": "tau1", "tau2": "tau2", "tau3": "tau3", "msoftdrop": "softdrop_mass"}


@dataclass(frozen=True)
class JetSelection:
    """Which jets to take.

    Parameters
    ----------
    collection : str
        ``FatJet`` or ``Jet``.
    min_pt, max_pt, max_abs_eta : float
        GeV.
    most : int
        Hardest jets of an event that are looked at.
    """

    collection: str = "FatJet"
    min_pt: float = 0.0
    max_pt: float = float("inf")
    max_abs_eta: float = 2.5
    most: int = 2

    def __post_init__(self) -> None:
        if self.collection not in RADII:
            msg = f"collection must be {' or '.join(RADII)}; found {self.collection!r}"
            raise InputError(msg)
        if self.most < 1 or not self.min_pt < self.max_pt:
            msg = f"most must be at least 1 and max_pt above min_pt; found {self.most}, {self.max_pt}, {self.min_pt}"
            raise InputError(msg)


class JetTable(NamedTuple):
    """Jets of some files.

    Parameters
    ----------
    cloud : EventCloud
        One row per jet.
    momentum : float64 array, shape (n_jets, 4)
        pt, eta, phi, mass; GeV and radians.
    substructure : float64 array, shape (n_jets, 5)
        Columns ``SUBSTRUCTURE``: mass, softdrop_mass, tau21, tau32, multiplicity.
    truth : int64 array, shape (n_jets,)
        True PDG code without sign; 0 where the files say nothing.
    event : int64 array, shape (n_jets,)
        Number of the event among all events of the files.
    """

    cloud: EventCloud
    momentum: FloatArray
    substructure: FloatArray
    truth: IntArray
    event: IntArray

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> JetTable:
        """Some of the jets."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        return JetTable(
            self.cloud[chosen],
            self.momentum[chosen],
            self.substructure[chosen],
            self.truth[chosen],
            self.event[chosen],
        )


class JetPairs(NamedTuple):
    """Events with two jets.

    Parameters
    ----------
    jets : JetTable
        Rows 2i and 2i + 1 are those of event i, the heavier one first.
    mass : float64 array, shape (n_events,)
        Of the pair, GeV.
    """

    jets: JetTable
    mass: FloatArray


def find_files(source: str | Path) -> list[Path]:
    """ROOT files of a path: the file itself, or all in a folder and the folders below it, in order of their names.

    Raises
    ------
    FileError
        If there are none.
    """
    path = Path(source)
    found = [path] if path.is_file() else sorted(path.rglob("*.root")) if path.is_dir() else []
    if not found:
        msg = f"{path} is neither a ROOT file nor a folder with ROOT files"
        raise FileError(msg)
    return found


def read_jets(
    files: Sequence[str | Path], schema: EventSchema, selection: JetSelection | None = None
) -> JetTable:
    """Jets of files, one row per jet.

    Parameters
    ----------
    files : sequence of path
        NanoAOD with PF candidates, of CMS or of ``evenet-hep jets simulate``.
    schema : EventSchema
        Of :func:`~evenet_hep.events.jets.jet_schema`.
    selection : JetSelection, optional
        Which jets.

    Raises
    ------
    FileError, InputError
        For files that are missing, damaged or lack a branch.
    """
    chosen = selection or JetSelection()
    parts, events = [], 0
    for path in files:
        part, n_events = _read_file(Path(path), schema, chosen)
        parts.append(part._replace(event=part.event + events))
        events += n_events
    if not parts:
        msg = "read_jets needs at least one file"
        raise InputError(msg)
    return join_tables(parts)


def read_jet_pairs(
    files: Sequence[str | Path],
    schema: EventSchema,
    selection: JetSelection | None = None,
    *,
    scaled_to: float | None = None,
) -> JetPairs:
    """The two hardest jets of every event that has two.

    Parameters
    ----------
    files, schema, selection
        As in :func:`read_jets`; ``selection.most`` counts as 2.
    scaled_to : float, optional
        Multiply all momenta of an event such that its pair has this mass in GeV, so that neither network nor trees
        can read the mass off them. ``mass`` is that of before.

    Returns
    -------
    JetPairs
    """
    chosen = selection or JetSelection()
    both = JetSelection(chosen.collection, chosen.min_pt, chosen.max_pt, chosen.max_abs_eta, 2)
    table = read_jets(files, schema, both)
    counts = np.bincount(table.event)
    table = table.take(counts[table.event] == 2 if len(table.event) else np.zeros(0, bool))
    order = np.lexsort((-table.momentum[:, 3], table.event))
    table = table.take(order)
    mass = _pair_mass(table.momentum)
    return JetPairs(_scaled(table, np.repeat(scaled_to / mass, 2)) if scaled_to else table, mass)


def labels_of(truth: npt.ArrayLike, classes: Sequence[str]) -> IntArray:
    """Number of the class of every jet by its true code; -1 for none of them.

    Examples
    --------
    >>> labels_of([6, 21, 3, 0], ("top", "QCD")).tolist()
    [0, 1, 1, -1]
    """
    codes = np.asarray(truth, np.int64)
    found = np.full(len(codes), -1, np.int64)
    for number, name in enumerate(classes):
        if name not in JET_KINDS:
            msg = f"classes of jets are {', '.join(JET_KINDS)}; found {name!r}"
            raise InputError(msg)
        inside = np.isin(codes, JET_KINDS[name])
        if (inside & (found >= 0)).any():
            other = classes[int(found[inside & (found >= 0)][0])]
            msg = f"the classes {other} and {name} overlap; choose one of them"
            raise InputError(msg)
        found[inside] = number
    return found


def statistics_of_jets(cloud: EventCloud) -> dict[str, tuple[float, float]]:
    """Mean and width of every standardised feature, for :meth:`~evenet_hep.schema.EventSchema.with_statistics`."""
    found = {}
    for features, values in (
        (cloud.schema.objects, cloud.objects[cloud.mask]),
        (cloud.schema.event_features, cloud.event_features),
    ):
        for column, feature in enumerate(features):
            if feature.transform in ("log", "standard") and len(values):
                raw = values[:, column].astype(np.float64)
                x = np.log1p(raw) if feature.transform == "log" else raw
                found[feature.name] = (float(x.mean()), max(float(x.std()), 1e-3))
    return found


def join_tables(parts: Sequence[JetTable]) -> JetTable:
    """Jets of one table after those of another; the schemas must be the same."""
    clouds = [part.cloud for part in parts]
    first = clouds[0]
    cloud = EventCloud(
        np.concatenate([c.objects for c in clouds]),
        np.concatenate([c.mask for c in clouds]),
        np.concatenate([c.event_features for c in clouds]),
        first.schema,
        np.concatenate([c.index for c in clouds]),
        first.collections,
        np.concatenate([c.sizes for c in clouds]),
    )
    return JetTable(
        cloud,
        np.concatenate([part.momentum for part in parts]),
        np.concatenate([part.substructure for part in parts]),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.event for part in parts]),
    )


def _read_file(path: Path, schema: EventSchema, selection: JetSelection) -> tuple[JetTable, int]:
    name = selection.collection
    events = _records(path, name)
    jets, inside = events[name], nanoaod_constituents(events, name)
    kept = (ak.local_index(jets.pt) < selection.most) & (jets.pt > selection.min_pt)
    kept = kept & (jets.pt < selection.max_pt) & (abs(jets.eta) < selection.max_abs_eta)
    kept = kept & (ak.num(inside, axis=2) > 0)
    jets, inside = jets[kept], inside[kept]
    event = np.repeat(np.arange(len(jets)), ak.to_numpy(ak.num(jets)))
    flat = ak.flatten(jets)
    if set(_STORED) <= set(ak.fields(flat)):
        substructure = _stored(flat, ak.flatten(ak.num(inside, axis=2)))
    else:
        found = measure_substructure(ak.flatten(inside), radius=RADII[name])
        substructure = np.stack([ak.to_numpy(found[field]) for field in SUBSTRUCTURE], axis=1)
    truth = np.abs(ak.to_numpy(flat.truthPdgId)) if "truthPdgId" in ak.fields(flat) else np.zeros(len(event))
    cloud = cloud_of_jets(jets, inside, schema)
    momentum = np.stack(
        [ak.to_numpy(flat[x]).astype(np.float64) for x in ("pt", "eta", "phi", "mass")], axis=1
    )
    return JetTable(cloud, momentum, substructure.astype(np.float64), truth.astype(np.int64), event), len(
        events
    )


def _stored(jets: ak.Array, multiplicity: ak.Array) -> FloatArray:
    tau1, tau2, tau3, groomed, mass = (
        np.asarray(ak.to_numpy(jets[field]), np.float64) for field in (*_STORED, "mass")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        tau21, tau32 = (np.where(b > 0, a / b, np.nan) for a, b in ((tau2, tau1), (tau3, tau2)))
    return np.stack([mass, groomed, tau21, tau32, ak.to_numpy(multiplicity).astype(np.float64)], axis=1)


def _records(path: Path, collection: str) -> ak.Array:
    wanted = {
        collection: ("pt", "eta", "phi", "mass"),
        "PFCand": ("pt", "eta", "phi", "mass", "pdgId"),
        f"{collection}PFCand": ("jetIdx", "pfCandIdx"),
    }
    optional = {collection: (*_STORED, "truthPdgId"), "PFCand": ("charge",)}
    try:
        with uproot.open(path) as file:
            tree = file["Events"]
            there = set(tree.keys())
            needed = [f"{table}_{field}" for table, fields in wanted.items() for field in fields]
            if missing := [branch for branch in needed if branch not in there]:
                msg = f"{path} lacks {', '.join(missing)}: is it NanoAOD with PF candidates?"
                raise InputError(msg)
            records = {
                table: ak.zip(
                    {
                        field: tree[f"{table}_{field}"].array()
                        for field in (*fields, *optional.get(table, ()))
                        if f"{table}_{field}" in there
                    }
                )
                for table, fields in wanted.items()
            }
    except (OSError, uproot.KeyInFileError, uproot.DeserializationError) as error:
        msg = f"{path} cannot be read as a NanoAOD file: {error}"
        raise FileError(msg) from error
    return ak.zip(records, depth_limit=1)


def _pair_mass(momentum: FloatArray) -> FloatArray:
    """Mass of rows 2i and 2i + 1 of pt, eta, phi, mass."""
    pt, eta, phi, mass = momentum.T
    four = np.stack(
        [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)]
    )
    px, py, pz, energy = four[:, 0::2] + four[:, 1::2]
    return np.asarray(np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)))


def _scaled(table: JetTable, scale: FloatArray) -> JetTable:
    """The jets with all momenta multiplied, each by its own factor."""
    cloud, schema = table.cloud, table.cloud.schema
    objects, features = cloud.objects.copy(), cloud.event_features.copy()
    for name in ("log_pt", "log_energy"):
        shifted = objects[..., schema.object_names.index(name)] + np.log(scale)[:, None]
        objects[..., schema.object_names.index(name)] = np.where(cloud.mask, shifted, 0.0)
    for name in ("jet_pt", "jet_mass"):
        features[:, schema.event_names.index(name)] *= scale
    momentum, substructure = table.momentum.copy(), table.substructure.copy()
    momentum[:, [0, 3]] *= scale[:, None]
    substructure[:, :2] *= scale[:, None]
    scaled = replace(cloud, objects=objects, event_features=features)
    return table._replace(cloud=scaled, momentum=momentum, substructure=substructure)
