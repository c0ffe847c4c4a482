"""Tables on disk: one row per event, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import awkward as ak
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
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._writer: pq.ParquetWriter | None = None
        self.n_rows = 0

    def __enter__(self) -> Self:
        return self

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add rows: one NumPy or regular awkward array per column, all of the same length; vectors become lists."""
        arrays = {name: _arrow(ak.to_numpy(values)) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            msg = f"the columns of a table must be of one length; found {lengths}"
            raise InputError(msg)
        fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
        table = pa.table(arrays, schema=pa.schema(fields))
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._partial, table.schema)
        self._writer.write_table(table)
        self.n_rows += table.num_rows

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        self._partial.unlink(missing_ok=True)


def _arrow(values: npt.NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


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
