"""EventCloud: padded objects, their mask, event features, and the way back to the jagged collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.columns import EventInput, ObjectBlock
from evenet_hep.events.fill import COMPUTED, INDEX, FlatObjects, cartesian, fill_energies, fill_objects
from evenet_hep.events.nanoaod import Branches, from_events
from evenet_hep.schema import EventSchema

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_EVENTS_AT_ONCE = 16_384  # their columns stay in the processor's cache
_LARGEST_POSITION = np.iinfo(INDEX["position"]).max


@dataclass(frozen=True, eq=False)
class EventCloud:
    """Padded objects of many events, with raw values in GeV and radians.

    Objects stand in order of decreasing pT; slots beyond them are zero. No transform has been applied: logarithms
    and standardisation belong to the network.

    Parameters
    ----------
    objects : float32 array, shape (n_events, capacity, n_object_features)
        One row per object, columns in the order of the schema.
    mask : bool array, shape (n_events, capacity)
        True for a real object.
    event_features : float32 array, shape (n_events, n_event_features)
        Columns in the order of the schema.
    schema : EventSchema
        Names, units and transforms of the columns.
    index : structured array, shape (n_events, capacity)
        ``collection`` (position in ``collections``) and ``position`` (in the event's list of that collection) of every
        object; -1 where padded.
    collections : tuple of str
        Names of the collections.
    sizes : int64 array, shape (n_events, n_collections)
        Number of objects per event in the user's collections, those beyond the capacity included.

    Examples
    --------
    >>> import awkward as ak
    >>> from evenet_hep import EventCloud, EventSchema, Feature
    >>> schema = EventSchema(objects=[Feature("pt", "GeV", "log")], event_features=[Feature("met", "GeV")])
    >>> events = ak.Array([
    ...     {"objects": [{"pt": 20.0}, {"pt": 50.0}], "met": 30.0},
    ...     {"objects": [], "met": 5.0},
    ... ])
    >>> cloud = EventCloud.from_awkward(events, schema)
    >>> cloud.objects[0, :3, 0].tolist(), cloud.mask.sum(axis=1).tolist()
    ([50.0, 20.0, 0.0], [2, 0])
    """

    objects: FloatArray
    mask: BoolArray
    event_features: FloatArray
    schema: EventSchema
    index: npt.NDArray[np.void]
    collections: tuple[str, ...]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def from_awkward(
        cls,
        events: ak.Array,
        schema: EventSchema,
        *,
        branches: Branches | None = None,
        collections: dict[str, ak.Array] | None = None,
        met: ak.Array | None = None,
        event_features: dict[str, Any] | None = None,
    ) -> EventCloud:
        """Clouds of NanoAOD events, or of any records that hold the schema's fields.

        Nothing is cut: pass the objects you selected, corrected or cleaned as ``collections``.

        Parameters
        ----------
        events : ak.Array
            NanoEvents (eager or virtual), any record array of the same structure, or records with a jagged field
            ``objects`` that has the schema's object features and one field per event feature.
        schema : EventSchema
            What the network reads.
        branches : Branches, optional
            Which collections, MET and b-tag to use; by default what the version of the file suggests.
        collections : dict of str to ak.Array, optional
            Jagged records that replace the event's own, by collection name.
        met : ak.Array, optional
            Records with pt (GeV) and phi (radians) that replace the event's own missing momentum.
        event_features : dict of str to array, optional
            Values for event features, shape (n_events,); they replace what would be read or computed.

        Returns
        -------
        EventCloud
            One row per event, in order; an empty array gives an empty cloud.

        Raises
        ------
        InputError
            For a missing field (named, with the near misses), NaN, negative pT, or missing values.
        """
        return cls.from_input(
            from_events(
                events,
                schema,
                branches=branches or Branches(),
                collections=collections or {},
                met=met,
                event_features=event_features or {},
            ),
            schema,
        )

    @classmethod
    def from_input(cls, source: EventInput, schema: EventSchema) -> EventCloud:
        """Clouds of flat columns: one compiled pass over all collections.

        Parameters
        ----------
        source : EventInput
            Blocks with the columns ``pt`` and whatever the schema needs: object features by name, where ``energy`` is
            computed from pt, eta and mass, and ``is_lepton`` from the kind of the block, unless a column of that name
            is there. ``btag_flag`` marks b-tagged jets.
        schema : EventSchema
            What the network reads.
        """
        n_events, capacity, blocks = source.n_events, schema.capacity, source.blocks
        sizes = (
            np.stack([np.diff(block.offsets) for block in blocks], axis=1)
            if blocks
            else np.zeros((n_events, 0), int)
        )
        if sizes.size and sizes.max() > _LARGEST_POSITION:
            msg = f"a collection may have at most {_LARGEST_POSITION} objects per event; found {sizes.max()}"
            raise InputError(msg)
        objects = np.zeros((n_events, capacity, len(schema.objects)), np.float32)
        mask = np.zeros((n_events, capacity), np.bool_)
        index = np.full((n_events, capacity, 2), -1, INDEX["position"])
        sums = np.zeros((n_events, len(COMPUTED)), np.float32)
        wanted = {name for name in schema.event_names if name not in source.event_columns}
        for start in range(0, n_events, _EVENTS_AT_ONCE):
            part = slice(start, min(start + _EVENTS_AT_ONCE, n_events))
            with np.errstate(over="ignore", invalid="ignore"):  # found below, and named
                flat = _flatten(blocks, part, schema, wanted)
            fill_objects(*flat, objects[part], mask[part], index[part], sums[part])
        _require_finite(objects, schema.object_names, "objects")
        _require_finite(sums, COMPUTED, "event features")
        names = tuple(block.name for block in blocks)
        where = index.view(INDEX)[..., 0]
        return cls(objects, mask, _event_features(source, schema, sums), schema, where, names, sizes)

    @classmethod
    def from_arrays(
        cls, objects: FloatArray, mask: BoolArray, event_features: FloatArray, schema: EventSchema
    ) -> EventCloud:
        """A cloud of arrays that are padded already; the index points into the arrays themselves.

        Real objects are moved to the front where the mask has holes; their order is kept.

        Raises
        ------
        InputError
            For shapes that do not fit the schema or each other, and for NaN in a real object.
        """
        n_events, n_slots = mask.shape if np.ndim(mask) == 2 else (-1, -1)
        _check_shape("mask", mask, (len(objects), schema.capacity))
        _check_shape("objects", objects, (n_events, n_slots, len(schema.objects)))
        _check_shape("event_features", event_features, (n_events, len(schema.event_features)))
        if not np.isfinite(objects[mask]).all() or not np.isfinite(event_features).all():
            msg = "objects and event_features must be finite where mask is True; found NaN or infinity"
            raise InputError(msg)
        order = np.argsort(~mask, axis=1, kind="stable")
        front = np.take_along_axis(mask, order, axis=1)
        packed = np.take_along_axis(objects, order[..., None], axis=1)
        index = np.full((n_events, n_slots), -1, INDEX)
        index["collection"][front] = 0
        index["position"][front] = order[front]
        return cls(
            np.where(front[..., None], packed, 0).astype(np.float32),
            front,
            np.asarray(event_features, np.float32),
            schema,
            index,
            ("objects",),
            np.full((n_events, 1), n_slots, np.int64),
        )

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, where: slice | npt.NDArray[Any]) -> EventCloud:
        """Chosen events: a slice, a bool mask or an array of event numbers."""
        return EventCloud(
            self.objects[where],
            self.mask[where],
            self.event_features[where],
            self.schema,
            self.index[where],
            self.collections,
            self.sizes[where],
        )

    @property
    def n_objects(self) -> npt.NDArray[np.int64]:
        """Number of objects kept, shape (n_events,)."""
        counts: npt.NDArray[np.int64] = self.mask.sum(axis=1)
        return counts

    @property
    def n_dropped(self) -> npt.NDArray[np.int64]:
        """Number of objects beyond the capacity, shape (n_events,)."""
        beyond: npt.NDArray[np.int64] = np.maximum(self.sizes.sum(axis=1) - self.schema.capacity, 0)
        return beyond

    def to_torch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objects, mask and event features as tensors that share memory with the cloud."""
        import torch  # noqa: PLC0415  the events room must import without torch

        return (
            torch.from_numpy(self.objects),
            torch.from_numpy(self.mask),
            torch.from_numpy(self.event_features),
        )

    def to_awkward(self) -> ak.Array:
        """The cloud as jagged records: ``objects`` with the schema's fields, and one field per event feature."""
        fields = {name: self.unpad(self.objects[..., i]) for i, name in enumerate(self.schema.object_names)}
        columns = {name: self.event_features[:, i] for i, name in enumerate(self.schema.event_names)}
        return ak.zip({"objects": ak.zip(fields), **columns}, depth_limit=1)

    def unpad(self, values: npt.NDArray[Any]) -> ak.Array:
        """Per-object values of shape (n_events, capacity, ...) as one list per event, in order of pT."""
        _check_shape("values", values, (*self.mask.shape, *np.shape(values)[2:]))
        return ak.unflatten(ak.from_numpy(values[self.mask]), self.n_objects)

    def to_collection(self, name: str, values: npt.NDArray[Any], *, fill: float = np.nan) -> ak.Array:
        """Per-object values in the order of one of the user's own collections.

        Parameters
        ----------
        name : str
            Of the collection, one of ``collections``.
        values : array, shape (n_events, capacity)
            One number per slot.
        fill : float
            Value for objects that were dropped beyond the capacity.

        Returns
        -------
        ak.Array
            As long and as jagged as the collection the cloud was built from.

        Raises
        ------
        InputError
            If the cloud has no such collection.
        """
        if name not in self.collections:
            msg = f"the cloud has no collection {name!r}; it has {', '.join(self.collections)}"
            raise InputError(msg)
        _check_shape("values", values, self.mask.shape)
        c = self.collections.index(name)
        counts = self.sizes[:, c]
        starts = np.cumsum(counts) - counts
        flat = np.full(int(counts.sum()), fill, np.result_type(values.dtype, np.float32))
        mine = self.index["collection"] == c
        flat[(starts[:, None] + self.index["position"])[mine]] = values[mine]
        return ak.unflatten(flat, counts)


def _require_finite(values: FloatArray, names: Sequence[str], what: str) -> None:
    """What was computed of finite numbers may be too large all the same: the energy of an object at eta = 1000."""
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0]
        msg = (
            f"{what}: {names[where[-1]]!r} of event {where[0]} must be finite; found {values[tuple(where)]}, "
            "computed of a pt, eta or mass that no detector measures"
        )
        raise InputError(msg)


def _check_shape(name: str, array: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if np.shape(array) != expected:
        msg = f"{name} must have shape {expected}; found {np.shape(array)}"
        raise InputError(msg)


def _flatten(
    blocks: Sequence[ObjectBlock], part: slice, schema: EventSchema, wanted: set[str]
) -> FlatObjects:
    """The objects of some events, collection after collection, with what the schema needs of them."""
    offsets = np.stack([block.offsets[part.start : part.stop + 1] for block in blocks])
    ranges = [slice(int(first), int(last)) for first, last in offsets[:, [0, -1]]]
    sizes = np.array([r.stop - r.start for r in ranges], np.int64)

    computed = wanted & set(COMPUTED)
    energies = "energy" in schema.object_names and not all("energy" in block.columns for block in blocks)
    masses = any(name.startswith("m_") for name in computed)
    names = list(schema.object_names)
    needed = ["pt"]
    needed += ["btag_flag"] if computed else []
    needed += ["eta", "phi", "mass"] if masses else ["eta", "mass"] if energies else []
    names += [name for name in needed if name not in names]
    values = np.empty((len(names), int(sizes.sum())), np.float32)
    table = dict(zip(names, values, strict=True))
    for name, column in table.items():
        if name != "energy" or not energies:
            parts = [_values(block, name, r) for block, r in zip(blocks, ranges, strict=True)]
            np.concatenate(parts, out=column)
    if masses:
        momenta = cartesian(table["pt"], table["eta"], table["phi"], table["mass"])
    else:
        momenta = np.zeros((len(table["pt"]) if computed else 0, 4))
    if energies and masses:
        table["energy"][:] = momenta[:, 3]
    elif energies:
        fill_energies(table["pt"], np.sinh(table["eta"], dtype=np.float64), table["mass"], table["energy"])
    return FlatObjects(
        offsets - offsets[:, :1],
        np.cumsum(sizes) - sizes,
        np.array([block.kind == "lepton" for block in blocks], np.float64),
        np.array([block.kind in ("jet", "tau") for block in blocks], np.float64),
        table["pt"],
        values[: len(schema.objects)],
        table.get("btag_flag", np.empty(0, np.float32)),
        momenta,
    )


def _values(block: ObjectBlock, name: str, objects: slice) -> FloatArray:
    """One column of one collection, or its constant; without columns of their own, objects are massless and untagged."""
    if name in block.columns:
        return block.columns[name][objects]
    constants = {"is_lepton": float(block.kind == "lepton"), "mass": 0.0, "btag_flag": 0.0, **block.constants}
    value = constants.get(name)
    if value is None:
        msg = f"{block.name} has no column {name!r}; it has {', '.join([*block.columns, *block.constants])}"
        raise InputError(msg)
    return np.full(objects.stop - objects.start, value, np.float32)


def _event_features(source: EventInput, schema: EventSchema, sums: FloatArray) -> FloatArray:
    features = np.empty((source.n_events, len(schema.event_features)), np.float32)
    for i, feature in enumerate(schema.event_features):
        if feature.name in source.event_columns:
            features[:, i] = source.event_columns[feature.name]
        elif feature.name in COMPUTED:
            wanted = "n_lepton" if feature.definition == "lepton_count" else feature.name
            features[:, i] = sums[:, COMPUTED.index(wanted)]
        else:
            msg = f"event feature {feature.name!r} is neither in the events nor computed here ({', '.join(COMPUTED)})"
            raise InputError(msg)
    return features
