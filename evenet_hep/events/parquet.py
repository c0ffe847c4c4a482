"""Tables on disk: one row per event, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import awkward as ak
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evenet_hep.errors import InputError


class TableWriter:
    """Write a Parquet file in pieces; it appears under its name only when it is complete.

    Use it in a ``with`` block: after an error, or an interruption, nothing is left behind.

    Parameters
    ----------
    path : str or Path
        Of the file to write; its folder is made. An existing file is replaced at the end.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with TableWriter(folder / "scores.parquet") as table:
    ...     table.append({"event": np.array([1, 2]), "TT": np.array([0.1, 0.9], np.float32)})
    >>> ak.from_parquet(folder / "scores.parquet").TT.to_list()
    [0.10000000149011612, 0.8999999761581421]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Processes of several machines may write the same table.
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
        self._writer: pq.ParquetWriter | None = None
        self.n_rows = 0

    def __enter__(self) -> Self:
        return self

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add rows: one NumPy or awkward array per column, all of the same length; vectors become lists."""
        arrays = {name: _arrow(values) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            msg = f"the columns of a table must be of one length; found {lengths}"
            raise InputError(msg)
        fields = [
            pa.field(name, array.type, nullable=_may_be_missing(array)) for name, array in arrays.items()
        ]
        table = pa.table(arrays, schema=pa.schema(fields))
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            repeated = [path for field in table.schema for path in _repeated_values(field.name, field.type)]
            self._writer = pq.ParquetWriter(self._partial, table.schema, use_dictionary=repeated)
        self._writer.write_table(table)
        self.n_rows += table.num_rows

    def describe(self, notes: Mapping[str, str]) -> None:
        """Put notes about the table into the file; at least one piece must have been written."""
        if self._writer is None:
            msg = (
                "a table must have columns before it is described; append a piece first, an empty one will do"
            )
            raise InputError(msg)
        self._writer.add_key_value_metadata(dict(notes))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def table_notes(path: str | Path) -> dict[str, str]:
    """The notes in a table, without reading it; empty if there is no such file or it is damaged.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.parquet"
    >>> with TableWriter(path) as table:
    ...     table.append({"event": np.array([1, 2])})
    ...     table.describe({"model": "demo"})
    >>> table_notes(path)["model"]
    'demo'
    """
    try:
        found = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}


def _arrow(values: Any) -> pa.Array:
    if isinstance(values, ak.Array) and not _is_rectangular(values):
        return ak.to_arrow(values, extensionarray=False)
    array: npt.NDArray[Any] = ak.to_numpy(values)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _is_rectangular(values: ak.Array) -> bool:
    # Numbers, or vectors of one length, and none of them missing.
    try:
        array = ak.to_numpy(values)
    except ValueError:
        return False
    return not np.ma.isMaskedArray(array) and array.ndim <= 2 and array.dtype.kind in "biuf"


def _repeated_values(path: str, kind: pa.DataType) -> Iterator[str]:
    """Columns inside a column in which values come again and again.

    A list of the values that occur makes those small; numbers that are all different it makes larger, and six times
    slower to write.
    """
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _repeated_values(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _repeated_values(f"{path}.list.element", kind.value_type)
    elif not pa.types.is_floating(kind) and not pa.types.is_int64(kind) and not pa.types.is_uint64(kind):
        yield path


def _may_be_missing(array: pa.Array) -> bool:
    return array.null_count > 0 or not (
        pa.types.is_primitive(array.type) or pa.types.is_fixed_size_list(array.type)
    )


def flat_records(records: ak.Array) -> dict[str, ak.Array]:
    """The columns of nested records, named by the path to them and joined with an underscore.

    Examples
    --------
    >>> import awkward as ak
    >>> sorted(flat_records(ak.Array([{"classification": {"TT": 0.9, "QCD": 0.1}}])))
    ['classification_QCD', 'classification_TT']
    """
    columns: dict[str, ak.Array] = {}
    for field in ak.fields(records):
        inner = records[field]
        if ak.fields(inner):
            columns |= {f"{field}_{name}": values for name, values in flat_records(inner).items()}
        else:
            columns[field] = inner
    return columns
