"""Row groups of the files of a training set as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evenet_hep.errors import FileError
from evenet_hep.events.training_events import TrainingEvents
from evenet_hep.events.training_files import Layout, reason


def read_columns(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Columns with one value per event, of a whole part.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    table = _table(path, None, names)
    return [table.column(name).to_numpy() for name in names]


def read_group(path: Path, group: int, layout: Layout, *, scale: float = 1.0) -> TrainingEvents:
    """The events of one row group.

    Parameters
    ----------
    path : Path
        Of the part.
    group : int
        Number of the row group.
    layout : Layout
        What all parts share.
    scale : float
        By which the weights are multiplied.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    table = _table(path, group, None)
    schema, n_events = layout.schema, table.num_rows
    offsets, objects = _jagged(table, [f"object_{name}" for name in schema.object_names])
    index_offsets, indices = _jagged(table, ["indices"])
    invisible_offsets, invisible = _jagged(table, [f"invisible_{name}" for name in schema.invisible_names])
    features = [table.column(f"event_{name}").to_numpy() for name in schema.event_names]
    plain = {
        name: table.column(name).to_numpy()
        for name in ("label", "weight", "process", "run", "luminosityBlock", "event")
    }
    return TrainingEvents(
        offsets,
        objects,
        np.stack(features, axis=1) if features else np.empty((n_events, 0), np.float32),
        plain["label"],
        (plain["weight"] * np.float64(scale)).astype(np.float32),
        plain["process"],
        index_offsets,
        indices[:, 0],
        invisible_offsets,
        invisible,
        plain["run"],
        plain["luminosityBlock"],
        plain["event"],
    )


def _table(path: Path, group: int | None, names: Sequence[str] | None) -> pa.Table:
    """A row group, or chosen columns of a whole part."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if group is None or file.num_row_groups == 0:
                return file.read(columns=names, use_threads=False)
            return file.read_row_group(group, columns=names, use_threads=False)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        msg = f"{path} cannot be read: {why}"
        raise FileError(msg) from error


def _jagged(table: pa.Table, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Offsets and content, shape (n, n_columns), of list columns that have the same lengths."""
    if not names:
        return np.zeros(table.num_rows + 1, np.int64), np.empty((0, 0), np.float32)
    columns = [table.column(name).combine_chunks() for name in names]
    offsets = columns[0].offsets.to_numpy().astype(np.int64)
    flat = [column.values.to_numpy()[offsets[0] : offsets[-1]] for column in columns]
    return offsets - offsets[0], np.stack(flat, axis=1)
