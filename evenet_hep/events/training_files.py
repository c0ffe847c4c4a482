"""Training files: a folder of Parquet parts without padding, and what is known about all of them.

======================  ====================================================================================
``part-00000.parquet``  events of one source, in the order of their hash (:mod:`evenet_hep.events.splits`)
``part-00000.json``     rows, checksum and statistics of that part
``dataset.json``        schema, grammar, sources, splits and statistics of all; there only when all parts are
======================  ====================================================================================

Because a part is in the order of the hash, a split is one run of its rows, and so is a smaller sample of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.splits import SALT, check_splits, event_hash, split_edges
from evenet_hep.events.statistics import Moments, moments_of
from evenet_hep.events.training_events import TrainingEvents, index_shape
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

FORMAT = 1  # of dataset.json; raised when an old folder would be read wrongly
ROWS_PER_GROUP = 8192  # what is read at once


@dataclass(frozen=True)
class Layout:
    """What all parts of a training set share.

    Parameters
    ----------
    schema : EventSchema
        Features and classes, as given: the statistics in it need not be those of the data.
    topology : Topology
        The event grammar that processes and indices refer to.
    splits : mapping of str to float
        Names and fractions of the splits.
    salt : str
        Of the hash that decides the splits.
    """

    schema: EventSchema
    topology: Topology
    splits: Mapping[str, float]
    salt: str = SALT

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", check_splits(self.splits))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return {
            "schema": json.loads(self.schema.to_json()),
            "topology": self.topology.to_dict(),
            "splits": dict(self.splits),
            "salt": self.salt,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Layout:
        """The layout of such a dictionary."""
        schema = EventSchema.from_json(json.dumps(content["schema"]))
        return cls(schema, Topology.from_dict(content["topology"]), content["splits"], content["salt"])

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types of the columns of a part."""
        jagged = pa.list_(pa.field("element", pa.float32(), nullable=False))
        columns: dict[str, pa.DataType] = {f"object_{name}": jagged for name in self.schema.object_names}
        columns |= {f"event_{name}": pa.float32() for name in self.schema.event_names}
        columns |= {"label": pa.int16(), "weight": pa.float32(), "process": pa.int16()}
        columns["indices"] = pa.list_(pa.field("element", pa.int16(), nullable=False))
        columns |= {f"invisible_{name}": jagged for name in self.schema.invisible_names}
        return columns | {"run": pa.int64(), "luminosityBlock": pa.int64(), "event": pa.uint64()}


@dataclass(frozen=True)
class Part:
    """One file of a training set.

    Parameters
    ----------
    file : str
        Its name.
    source : str
        Name of the source its events are from.
    rows, size : int
        Number of events, and of bytes.
    sha256 : str
        Checksum of the file.
    edges : list of int
        Row at which each split begins, in order, and the number of rows.
    sums : dict
        Split -> class -> number of events, sum of weights and of squared weights, as in the file.
    moments : dict
        ``objects``, ``event_features``, ``invisible`` and ``n_objects`` of the first split, feature by feature.
    multiplicity : list of int
        Number of events with 0, 1, ... objects, in the first split.
    patterns : dict
        Process -> number of events by which of its resonances were found whole (bit s for the s-th), in the first split.
    n_invisible : int
        Largest number of invisible particles of an event.
    sum_weight : float
        Of all events, before any selection.
    """

    file: str
    source: str
    rows: int
    size: int
    sha256: str
    edges: list[int]
    sums: dict[str, dict[str, list[float]]]
    moments: dict[str, list[list[float]]]
    multiplicity: list[int]
    patterns: dict[str, list[int]]
    n_invisible: int
    sum_weight: float


def write_part(
    folder: str | Path,
    number: int,
    events: TrainingEvents,
    layout: Layout,
    *,
    source: str,
    sum_weight: float | None = None,
    weighted: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Part:
    """Write one part of a training set; it appears under its name only when it is complete.

    Parameters
    ----------
    folder : str or Path
        Of the training set; it is made.
    number : int
        Of the part.
    events : TrainingEvents
        In any order.
    layout : Layout
        What all parts share.
    source : str
        Name of the source the events are from.
    sum_weight : float, optional
        Sum of weights before any selection of events; by default of the events.
    weighted : bool
        Whether means and widths are weighted.
    provenance : mapping, optional
        Plain values to keep in the file's metadata, such as the file the events are from.

    Returns
    -------
    Part
        What is known about it, also in the JSON file beside it.

    Raises
    ------
    FileError
        If the file cannot be written, as on a full disk; nothing is left behind.
    """
    folder = Path(folder)
    path = folder / f"part-{number:05d}.parquet"
    order, edges = _split_order(events, layout)
    events = events.take(order)
    metadata = {**layout.to_dict(), "format": FORMAT, "source": source, "provenance": dict(provenance or {})}
    table = _table(events, layout, {"evenet_hep": json.dumps(metadata)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checksum, size = _write_parquet(table, path)
        part = Part(
            path.name,
            source,
            events.n_events,
            size,
            checksum,
            edges,
            _sums(events, layout, edges),
            **_statistics(events.take(slice(0, edges[1])), layout, weighted),
            n_invisible=int(np.diff(events.invisible_offsets).max(initial=0)),
            sum_weight=float(events.weight.sum(dtype=np.float64) if sum_weight is None else sum_weight),
        )
        write_json(path.with_suffix(".json"), asdict(part))
    except OSError as error:
        msg = f"cannot write {path}: {reason(error)}"
        raise FileError(msg) from error
    return part


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that appears under its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_part(path: Path) -> Part | None:
    """What is known about a part by its JSON file; None unless part and file are there and of the right size."""
    description = path.with_suffix(".json")
    if not (path.is_file() and description.is_file()):
        return None
    try:
        part = Part(**json.loads(description.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return part if path.stat().st_size == part.size else None


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: OSError) -> str:
    """Why the system refused, in its words."""
    return error.strerror or errno.errorcode.get(error.errno or 0, "") or str(error)


def _split_order(events: TrainingEvents, layout: Layout) -> tuple[npt.NDArray[np.int64], list[int]]:
    """The events by their hash, ties in their order, and where each split begins."""
    hashes = event_hash(events.run, events.lumi, events.event, salt=layout.salt)
    order = np.argsort(hashes, kind="stable")
    starts = np.searchsorted(hashes[order], split_edges(layout.splits), side="left")
    return order, [0, *map(int, starts), events.n_events]


def _table(events: TrainingEvents, layout: Layout, metadata: dict[str, str]) -> pa.Table:
    columns = layout.columns
    arrays: dict[str, Any] = {}
    for i, name in enumerate(layout.schema.object_names):
        arrays[f"object_{name}"] = (events.offsets, events.objects[:, i])
    for i, name in enumerate(layout.schema.event_names):
        arrays[f"event_{name}"] = events.event_features[:, i]
    arrays |= {"label": events.label, "weight": events.weight, "process": events.process}
    arrays["indices"] = (events.index_offsets, events.indices)
    for i, name in enumerate(layout.schema.invisible_names):
        arrays[f"invisible_{name}"] = (events.invisible_offsets, events.invisible[:, i])
    arrays |= {"run": events.run, "luminosityBlock": events.lumi, "event": events.event}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    schema = pa.schema(fields, metadata=metadata)
    return pa.table([_arrow(arrays[name], kind) for name, kind in columns.items()], schema=schema)


def _arrow(values: Any, kind: pa.DataType) -> pa.Array:
    if not isinstance(values, tuple):
        return pa.array(np.ascontiguousarray(values), kind)
    offsets, content = values
    flat = pa.array(np.ascontiguousarray(content), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat, type=kind)


def _write_parquet(table: pa.Table, path: Path) -> tuple[str, int]:
    """Write, move into place, and return checksum and size."""
    floats = [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in table.schema
        if field.name.startswith(("object_", "event_", "invisible_"))
    ]
    others = [f.name if f.name != "indices" else "indices.list.element" for f in table.schema]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(
            table,
            partial,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=1,
            use_byte_stream_split=floats,  # the bytes of a float apart: half the size after compression
            use_dictionary=[name for name in others if name not in floats and name != "event"],
            write_statistics=False,
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        checksum, size = checksum_of(partial), partial.stat().st_size
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return checksum, size


def _sums(events: TrainingEvents, layout: Layout, edges: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Events, weights and squared weights by split and class; the class "" has those without one."""
    sums: dict[str, dict[str, list[float]]] = {}
    names = [*layout.schema.classes, ""]  # -1 is the last one
    for split, first, last in zip(layout.splits, edges[:-1], edges[1:], strict=True):
        label = events.label[first:last].astype(np.int64) % len(names)
        weight = events.weight[first:last].astype(np.float64)
        columns = [np.bincount(label, w, len(names)) for w in (None, weight, weight * weight)]
        sums[split] = {
            name: [float(column[i]) for column in columns]
            for i, name in enumerate(names)
            if columns[0][i] > 0
        }
    return sums


def _statistics(events: TrainingEvents, layout: Layout, weighted: bool) -> dict[str, Any]:
    """Moments, multiplicities and patterns of some events."""
    schema, counts = layout.schema, events.n_objects
    weight = events.weight if weighted else None
    n_invisible = np.diff(events.invisible_offsets)

    def spread(number: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        return None if weight is None else np.repeat(weight, number)

    moments: dict[str, list[Moments]] = {
        "objects": moments_of(schema.objects, events.objects, spread(counts)),
        "event_features": moments_of(schema.event_features, events.event_features, weight),
        "invisible": moments_of(schema.invisible, events.invisible, spread(n_invisible)),
        "n_objects": [Moments.of(counts, weight, log=schema.n_objects.transform == "log")],
    }
    return {
        "moments": {key: [finite(m) for m in values] for key, values in moments.items()},
        "multiplicity": np.bincount(counts, minlength=schema.capacity + 1).tolist(),
        "patterns": _patterns(events, layout.topology),
    }


def finite(moments: Moments) -> list[float]:
    """Moments as plain numbers; without values the range is 0 to 0, as JSON has no infinity."""
    return (
        list(moments)
        if np.isfinite(moments.low)
        else [moments.weight, moments.mean, moments.square, 0.0, 0.0]
    )


def _patterns(events: TrainingEvents, topology: Topology) -> dict[str, list[int]]:
    """Process -> number of events by which of its resonances have all their daughters."""
    patterns = {}
    lengths = np.diff(events.index_offsets)
    for p, process in enumerate(topology.processes):
        chosen = np.flatnonzero(events.process == p)
        if not len(chosen):
            continue
        first = events.index_offsets[chosen]
        compact = events.indices[first[:, None] + np.arange(lengths[chosen[0]])]
        bits, start = np.zeros(len(chosen), np.int64), 0
        for s, kind in enumerate(process.kinds):
            stop = start + len(topology.resonance(kind).daughters)
            bits += (compact[:, start:stop] >= 0).all(axis=1).astype(np.int64) << s
            start = stop
        patterns[process.name] = np.bincount(bits, minlength=1 << len(process.kinds)).tolist()
    return patterns


def finish(
    folder: str | Path,
    layout: Layout,
    parts: Iterable[Part],
    sources: Mapping[str, Mapping[str, Any]],
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write ``dataset.json``: the training set is complete.

    Parameters
    ----------
    folder : str or Path
        Of the training set.
    layout : Layout
        What all parts share.
    parts : iterable of Part
        In order.
    sources : mapping of str to mapping
        Source -> plain values: ``class``, ``files``, and ``scale``, by which the weights of its events are multiplied
        when they are read.
    provenance : mapping, optional
        Further plain values, such as versions and options.

    Raises
    ------
    FileError
        If there are no events, or the file cannot be written.
    """
    listed = list(parts)
    if not sum(part.rows for part in listed):
        msg = f"{folder} would be a training set without events"
        raise FileError(msg)
    if unknown := sorted({part.source for part in listed} - set(sources)):
        msg = f"parts name the source {', '.join(unknown)}, which is not among {', '.join(sources)}"
        raise InputError(msg)
    content = {
        "format": FORMAT,
        **layout.to_dict(),
        "index_shape": list(index_shape(layout.topology)),
        "sources": {name: dict(values) for name, values in sources.items()},
        "provenance": dict(provenance or {}),
        "parts": [asdict(part) for part in listed],
    }
    path = Path(folder) / "dataset.json"
    try:
        write_json(path, content)
    except OSError as error:
        msg = f"cannot write {path}: {reason(error)}"
        raise FileError(msg) from error
