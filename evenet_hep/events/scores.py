"""Scores read back from tables and joined to events by run, lumi and event number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from evenet_hep.errors import FileError, InputError

IDENTIFIERS = ("run", "luminosityBlock", "event")
Keys = npt.NDArray[np.bytes_]


class Scores:
    """The tables of a prediction, to be joined to events in a later job.

    It holds the place of the tables, not the tables: a processor with it pickles to a few hundred bytes. For events
    that know their file, as those of coffea's ``Runner`` do, only the tables of that file are read.

    Parameters
    ----------
    folder : str or Path
        As written by ``evenet-hep predict`` or :func:`~evenet_hep.distributed.predict_files`.
    columns : sequence of str, optional
        Columns to read, without the identifiers; all by default.

    Raises
    ------
    FileError
        If the folder holds no tables.

    Examples
    --------
    >>> import tempfile, numpy as np, awkward as ak
    >>> from evenet_hep.events.parquet import TableWriter
    >>> folder = tempfile.mkdtemp()
    >>> with TableWriter(f"{folder}/scores.parquet") as table:
    ...     ids = {"run": np.array([1, 1]), "luminosityBlock": np.array([1, 1]), "event": np.array([7, 8])}
    ...     table.append({**ids, "TT": np.array([0.2, 0.9])})
    >>> events = ak.Array([{"run": 1, "luminosityBlock": 1, "event": 8}, {"run": 1, "luminosityBlock": 1, "event": 7}])
    >>> Scores(folder).attach(events)["scores", "TT"].to_list()
    [0.9, 0.2]
    """

    def __init__(self, folder: str | Path, *, columns: Sequence[str] | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.columns = None if columns is None else tuple(columns)
        if not self._tables():
            msg = f"{self.folder} holds no tables of scores"
            raise FileError(msg)

    def attach(self, events: ak.Array, *, name: str = "scores", missing: str = "error") -> ak.Array:
        """The events with their scores as a record of that name.

        Parameters
        ----------
        events : ak.Array
            NanoEvents, or any records with run, luminosityBlock and event; in any order.
        name : str
            Of the new field.
        missing : {"error", "none"}
            What to do about events without a row in the tables: raise, or put None in their place.

        Returns
        -------
        ak.Array
            The events, with one field more. Virtual arrays stay virtual but for the identifiers.

        Raises
        ------
        InputError
            For events that are not in the tables, for rows that stand there twice, and for missing identifiers.
        """
        return ak.with_field(events, self.match(events, missing=missing), name)

    def match(self, events: ak.Array, *, missing: str = "error") -> ak.Array:
        """One record of scores per event, in the order of the events; see :meth:`attach`."""
        if missing not in ("error", "none"):
            msg = f"missing must be 'error' or 'none'; found {missing!r}"
            raise InputError(msg)
        wanted = event_keys(events, "the events")
        table = self.read(_file_of(events))
        keys = event_keys(table, str(self.folder))
        order = np.argsort(keys, kind="stable")
        _refuse_duplicates(keys[order], self.folder)
        place = np.searchsorted(keys[order], wanted)
        place = np.minimum(place, max(len(keys) - 1, 0))
        is_there = keys[order][place] == wanted if len(keys) else np.zeros(len(wanted), np.bool_)
        if missing == "error" and not is_there.all():
            n_missing, first = int((~is_there).sum()), name_of(wanted[~is_there][0])
            msg = f"{self.folder} has no scores for {n_missing} of {len(wanted)} events; the first is {first}"
            raise InputError(msg)
        scores = table[[field for field in ak.fields(table) if field not in IDENTIFIERS]]
        if not len(keys):
            return ak.Array([None] * len(wanted))
        found = scores[order[place]]
        return found if missing == "error" else ak.mask(found, is_there)

    def read(self, file: str | None = None) -> ak.Array:
        """The rows of all tables, or of those of one file where the folder knows which they are.

        Raises
        ------
        FileError
            If a table cannot be read.
        """
        parts = []
        for path in self._tables(file):
            try:
                present = pq.read_schema(path).names
                columns = self._wanted(present, path)
                parts.append(ak.from_parquet(path, columns=columns))
            except (OSError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                msg = f"{path} cannot be read: {error}"
                raise FileError(msg) from error
        return parts[0] if len(parts) == 1 else ak.concatenate(parts)

    def _wanted(self, present: Sequence[str], path: Path) -> list[str]:
        columns = [name for name in present if name not in IDENTIFIERS]
        if self.columns is not None:
            if absent := [name for name in self.columns if name not in present]:
                msg = f"{path} has no column {absent[0]!r}; it has {', '.join(present)}"
                raise InputError(msg)
            columns = list(self.columns)
        return [*(name for name in IDENTIFIERS if name in present), *columns]

    def _tables(self, file: str | None = None) -> list[Path]:
        """Tables of the manifest, which knows those that count, or of the folder."""
        manifest = self.folder / "manifest.json"
        if not manifest.is_file():
            return sorted(self.folder.rglob("*.parquet"))
        try:
            entries: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["tables"]
            of_file = [entry for entry in entries if file is None or entry["file"] == file]
            return [self.folder / entry["table"] for entry in of_file or entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{manifest} is damaged: {error}"
            raise FileError(msg) from error


def event_keys(events: ak.Array, where: str) -> Keys:
    """Run, lumi and event as 16 bytes that compare like the numbers.

    Parameters
    ----------
    events : ak.Array
        Records with the three fields.
    where : str
        What they are called in the message.

    Raises
    ------
    InputError
        If a field is missing or holds anything but whole numbers that are not negative.
    """
    columns = []
    for name in IDENTIFIERS:
        if name not in ak.fields(events):
            msg = f"{where} must have the fields {', '.join(IDENTIFIERS)}; {name!r} is missing"
            raise InputError(msg)
        values = ak.to_numpy(ak.materialize(events[name]))
        limit = 2**64 if name == "event" else 2**32
        is_whole = values.dtype.kind in "iu" and not np.ma.isMaskedArray(values)
        if not is_whole or (len(values) and (values.min() < 0 or int(values.max()) >= limit)):
            msg = f"{name!r} of {where} must hold whole numbers from 0 to {limit - 1}; found {values.dtype}"
            raise InputError(msg)
        columns.append(values.astype(np.uint64))
    run, lumi, event = columns
    keys = np.empty((len(run), 2), ">u8")
    keys[:, 0], keys[:, 1] = (run << np.uint64(32)) | lumi, event
    found: Keys = np.ascontiguousarray(keys).view("S16")[:, 0]
    return found


def name_of(key: bytes) -> str:
    """Run, lumi and event of a key, in words.

    Examples
    --------
    >>> import awkward as ak
    >>> name_of(event_keys(ak.Array([{"run": 1, "luminosityBlock": 2, "event": 300}]), "the events")[0])
    'run 1, luminosityBlock 2, event 300'
    """
    numbers = bytes(key).ljust(16, b"\0")  # NumPy drops zeros at the end
    run, lumi, event = (int.from_bytes(numbers[a:b], "big") for a, b in ((0, 4), (4, 8), (8, 16)))
    return f"run {run}, luminosityBlock {lumi}, event {event}"


def _refuse_duplicates(keys: Keys, folder: Path) -> None:
    is_repeated = keys[1:] == keys[:-1]
    if is_repeated.any():
        first = name_of(keys[1:][is_repeated][0])
        msg = (
            f"{folder} has {int(is_repeated.sum())} rows with the identifiers of another row, the first is {first}; "
            "give the events of one file, or keep data sets in folders of their own"
        )
        raise InputError(msg)


def _file_of(events: ak.Array) -> str | None:
    """The file that the events come from, if coffea has noted it."""
    metadata = getattr(events, "metadata", None) if "metadata" not in ak.fields(events) else None
    name = metadata.get("filename") if isinstance(metadata, dict) else None
    return None if name is None else str(Path(name).absolute())
