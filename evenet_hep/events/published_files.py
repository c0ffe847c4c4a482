"""Files in the layout of the published EveNet preprocessing, read as training events.

A folder of Parquet files with one float column per element of a tensor, ``x:i:j`` for object i and feature j, and
``shape_metadata.json`` with the shape of every tensor without its first axis:

====================================================  ==================================================================
tensor                                                becomes
====================================================  ==================================================================
``x`` (N, F), ``x_mask`` (N)                          objects; features with a logarithm were stored as log(1 + x)
``conditions`` (G)                                    event features, likewise
``classification``, ``event_weight``                  label, -1 where absent; weight, 1 where absent
``subprocess_id``                                     process, -1 where absent
``assignments-indices`` (R, D), ``-indices-mask``     slots of the daughters; R runs over the resonances of all processes
``x_invisible`` (I, 3), ``x_invisible_mask`` (I)      invisible particles
====================================================  ==================================================================

Other tensors follow from these and are not read. Training events hold raw values in GeV and radians.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import near_misses
from evenet_hep.events.labels import EventLabels
from evenet_hep.events.training_events import TrainingEvents, index_layout, index_shape, training_events
from evenet_hep.events.training_files import Layout
from evenet_hep.schema import Feature

SHAPES = "shape_metadata.json"


def published_parquet(folder: str | Path) -> list[Path]:
    """The Parquet files of such a folder, in order of their names.

    Raises
    ------
    FileError
        If there are none, or no ``shape_metadata.json``.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.parquet"))
    if not files or not (folder / SHAPES).is_file():
        lacking = SHAPES if files else "Parquet files"
        msg = f"{folder} is not in the published layout: it has no {lacking}"
        raise FileError(msg)
    return files


def published_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor without its first axis, from ``shape_metadata.json``.

    Raises
    ------
    FileError
        If the file is not there or is not a mapping of names to lists of numbers.
    """
    path = Path(folder) / SHAPES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): tuple(int(size) for size in shape) for name, shape in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = f"{path} must map names to shapes: {error}"
        raise FileError(msg) from error


def check_published(file: str | Path, present: Sequence[str], layout: Layout) -> None:
    """Raise unless a file fits the schema and the event grammar.

    Raises
    ------
    InputError
        For a column that is missing and for shapes that do not fit; the message names both.
    """
    shapes = published_shapes(Path(file).parent)
    schema, topology = layout.schema, layout.topology
    n_slots = sum(len(process.resonances) for process in topology.processes)
    expected: dict[str, tuple[int | None, ...]] = {
        "x": (None, len(schema.objects)),
        "conditions": (len(schema.event_features),),
    }
    if "x_invisible" in shapes:
        expected["x_invisible"] = (None, len(schema.invisible))
    if "assignments-indices" in shapes and topology.processes:
        expected["assignments-indices"] = (n_slots, None)
    for name, shape in expected.items():
        found = shapes.get(name)
        if (
            found is None
            or len(found) != len(shape)
            or any(s not in (None, f) for s, f in zip(shape, found, strict=True))
        ):
            wanted = tuple("any" if size is None else size for size in shape)
            msg = f"{file}: {name} must have the shape {wanted} of the schema and the event grammar; found {found}"
            raise InputError(msg)
    if shapes["x"][0] > schema.capacity:
        msg = f"{file}: x has room for {shapes['x'][0]} objects, the schema for {schema.capacity}"
        raise InputError(msg)
    for name in ("x", "x_mask", "conditions"):
        for column in _columns(name, shapes.get(name, ())):
            if column not in present:
                msg = f"{file} has no column {column!r}; {near_misses(column, present)}"
                raise InputError(msg)


def read_published(
    file: str | Path, layout: Layout, start: int = 0, stop: int | None = None, *, file_number: int = 0
) -> TrainingEvents:
    """The events ``start`` to ``stop`` of a file in the published layout.

    Parameters
    ----------
    file : str or Path
        Parquet file; ``shape_metadata.json`` stands beside it.
    layout : Layout
        Schema (whose transforms say which features were stored as logarithms), and the grammar whose processes are
        numbered by ``subprocess_id``.
    start, stop : int
        First event, and the one behind the last; all by default.
    file_number : int
        Takes the place of the luminosity block, which these files lack; the row takes that of the event number.

    Returns
    -------
    TrainingEvents
        Raw values: the logarithm is undone.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it does not fit the schema or the grammar.
    """
    path = Path(file)
    shapes = published_shapes(path.parent)
    tensors = _read_tensors(path, shapes, start, stop)
    check_published(path, list(tensors.present), layout)
    schema, topology = layout.schema, layout.topology
    mask = tensors["x_mask"] > 0.5
    n_events, n_slots = mask.shape
    room = schema.capacity - n_slots
    objects = np.where(mask[..., None], _raw(schema.objects, tensors["x"]), 0)
    cloud = EventCloud.from_arrays(
        np.pad(objects, ((0, 0), (0, room), (0, 0))),
        np.pad(mask, ((0, 0), (0, room))),
        _raw(schema.event_features, tensors["conditions"]),
        schema,
    )
    process = tensors.integers("subprocess_id", n_events) if topology.processes else np.full(n_events, -1)
    labels = EventLabels(
        process.astype(np.int16),
        _indices(tensors, process, mask, layout),
        *_invisible(tensors, layout, n_events),
    )
    weight = tensors["event_weight"] if "event_weight" in tensors else np.ones(n_events, np.float32)
    return training_events(
        cloud,
        labels,
        topology,
        label=tensors.integers("classification", n_events),
        weight=weight.reshape(n_events),
        identifiers=(
            np.zeros(n_events, np.int64),
            np.full(n_events, file_number),
            start + np.arange(n_events),
        ),
    )


class _Tensors(dict[str, npt.NDArray[np.float32]]):
    """Tensors of a file by name, and the names of its columns."""

    present: tuple[str, ...] = ()

    def integers(self, name: str, n_events: int) -> npt.NDArray[np.int64]:
        """A column of whole numbers; -1 where it is absent."""
        if name not in self:
            return np.full(n_events, -1, np.int64)
        return np.rint(self[name].reshape(n_events)).astype(np.int64)


_READ = (
    "x",
    "x_mask",
    "conditions",
    "classification",
    "event_weight",
    "subprocess_id",
    "x_invisible",
    "x_invisible_mask",
    "assignments-indices",
    "assignments-indices-mask",
)


def _columns(name: str, shape: Sequence[int]) -> list[str]:
    """Names of the columns of a tensor.

    Examples
    --------
    >>> _columns("x", (1, 2)), _columns("classification", ())
    (['x:0:0', 'x:0:1'], ['classification'])
    """
    return [":".join([name, *map(str, place)]) for place in np.ndindex(*shape)]


def _read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], start: int, stop: int | None
) -> _Tensors:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            present = set(file.schema_arrow.names)
            wanted = {name: _columns(name, shapes.get(name, ())) for name in _READ}
            # A tensor is read if all of its columns are there: one missing is found when it is needed.
            wanted = {name: columns for name, columns in wanted.items() if present.issuperset(columns)}
            names = [column for columns in wanted.values() for column in columns]
            table = file.read(columns=names, use_threads=False)
            tensors = _Tensors()
            tensors.present = tuple(file.schema_arrow.names)
    except (OSError, pa.ArrowInvalid) as error:
        msg = f"{path} cannot be read as Parquet: {' '.join(str(error).split())}"
        raise FileError(msg) from error
    table = table.slice(start, None if stop is None else stop - start)
    for name, columns in wanted.items():
        shape = shapes.get(name, ())
        tensor = np.empty((table.num_rows, math.prod(shape)), np.float32)
        for i, column in enumerate(columns):
            tensor[:, i] = table.column(column).to_numpy()
        tensors[name] = tensor.reshape(table.num_rows, *shape)
    return tensors


def _raw(features: Sequence[Feature], stored: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values in GeV: the logarithm undone where the transform has one."""
    raw = stored.astype(np.float64)
    for i, feature in enumerate(features):
        if feature.transform == "log":
            raw[..., i] = np.expm1(raw[..., i])
    return raw.astype(np.float32)


def _indices(
    tensors: _Tensors, process: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_], layout: Layout
) -> npt.NDArray[np.int16]:
    """The slots of each event's own process, of all processes' in the file."""
    topology = layout.topology
    indices = np.full((len(process), *index_shape(topology)), -1, np.int16)
    if "assignments-indices" not in tensors or not topology.processes:
        return indices
    stored = np.rint(tensors["assignments-indices"]).astype(np.int64)
    found = stored >= 0
    if "assignments-indices-mask" in tensors:
        found &= tensors["assignments-indices-mask"] > 0.5
    if (stored[found] >= mask.shape[1]).any():
        msg = f"assignments-indices must be below {mask.shape[1]}; found {stored[found].max()}"
        raise InputError(msg)
    # Holes in the mask close up, so that slots move.
    slot = np.where(mask, np.cumsum(mask, axis=1) - 1, -1)
    moved = np.take_along_axis(slot, np.where(found, stored, 0).reshape(len(process), -1), axis=1).reshape(
        stored.shape
    )
    moved[~found] = -1
    has_slot, first = index_layout(topology), 0
    for p, each in enumerate(topology.processes):
        chosen, number = process == p, len(each.resonances)
        width = min(stored.shape[2], indices.shape[2])
        values = moved[chosen, first : first + number, :width]
        indices[chosen, :number, :width] = np.where(has_slot[p, :number, :width], values, -1)
        first += number
    return indices


def _invisible(
    tensors: _Tensors, layout: Layout, n_events: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    features = layout.schema.invisible
    if "x_invisible" not in tensors or "x_invisible_mask" not in tensors:
        return np.zeros((n_events, 0, len(features)), np.float32), np.zeros((n_events, 0), np.bool_)
    mask = tensors["x_invisible_mask"] > 0.5
    return np.where(mask[..., None], _raw(features, tensors["x_invisible"]), 0).astype(np.float32), mask
