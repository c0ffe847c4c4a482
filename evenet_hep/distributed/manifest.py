"""The manifest of a prediction: what was asked for, every table with its checksum, and every failure with its reason.

The tables speak for themselves (each holds its range, its source and the identity of the network), and so a manifest
that is lost, or older than the last tables, costs nothing but a look at them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import evenet_hep
from evenet_hep.distributed.chunk_task import ChunkReport, Problem, file_digest, identity_of, read_notes
from evenet_hep.distributed.fileset import Range, SourceFile
from evenet_hep.errors import DistributedError, FileError
from evenet_hep.inference import Predictor

MANIFEST = "manifest.json"
FORMAT = 1


class TableEntry(NamedTuple):
    """One table of a prediction.

    Parameters
    ----------
    table : str
        Its name, below the folder.
    dataset, file, tree : str
        Where the events come from.
    start, stop : int
        Range of events.
    n_events, n_scored : int
        Rows, and rows with a score.
    sha256 : str
    n_bytes : int
    seconds : float
        For reading, scoring and writing.
    worker : str
        Host and process.
    """

    table: str
    dataset: str
    file: str
    tree: str
    start: int
    stop: int
    n_events: int
    n_scored: int
    sha256: str
    n_bytes: int
    seconds: float
    worker: str


class Failure(NamedTuple):
    """Events without a score.

    Parameters
    ----------
    dataset, file : str
        Where the events are.
    start, stop : int
        Range of events; ``stop`` is -1 for a file whose length is not known.
    kind, reason : str
        See :class:`~evenet_hep.distributed.chunk_task.Problem`.
    """

    dataset: str
    file: str
    start: int
    stop: int
    kind: str
    reason: str


class FileEntry(NamedTuple):
    """One file: number of events, of those asked for, and what changes when the file does."""

    dataset: str
    file: str
    tree: str
    n_events: int
    n_asked: int
    fingerprint: str


@dataclasses.dataclass
class Manifest:
    """What a prediction has done so far.

    Parameters
    ----------
    checkpoint : str
        Folder of the network.
    digest : str
        SHA-256 of its files.
    heads : list of str
        What was asked of it.
    identity : str
        Changes with everything that decides the scores.
    files : list of FileEntry
        Files that could be opened.
    tables : list of TableEntry
        No event stands in two of them.
    failures : list of Failure
        What is missing, and why.
    workers : dict of str to str
        Workers that were left out, and why.
    stopped : str
        Why the run ended before its time; empty if it did not.
    complete : bool
        Whether every event that was asked for is in a table or among the failures.
    version : str
        Of this package.

    Attributes
    ----------
    n_events, n_scored, n_failed : int
        Rows of all tables; those with a score (events without objects have none); events known to be missing.
    """

    checkpoint: str
    digest: str
    heads: list[str]
    identity: str
    files: list[FileEntry] = dataclasses.field(default_factory=list)
    tables: list[TableEntry] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    workers: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    complete: bool = False
    version: str = evenet_hep.__version__

    @classmethod
    def begin(cls, predictor: Predictor) -> Manifest:
        """An empty manifest for a network."""
        return cls(str(predictor.checkpoint), predictor.digest, list(predictor.heads), identity_of(predictor))

    @property
    def n_events(self) -> int:
        """Rows of all tables."""
        return sum(table.n_events for table in self.tables)

    @property
    def n_scored(self) -> int:
        """Rows with a score."""
        return sum(table.n_scored for table in self.tables)

    @property
    def n_failed(self) -> int:
        """Events known to be missing; those of files that could not be opened are not known."""
        return sum(max(0, failure.stop - failure.start) for failure in self.failures)

    def add_table(self, name: str, source: SourceFile, events: Range, report: ChunkReport) -> None:
        """Enter a table that is finished."""
        what = (name, source.dataset, source.path, source.tree, *events)
        self.tables.append(TableEntry(*what, *report[:6]))

    def add_failure(self, source: SourceFile, problem: Problem) -> None:
        """Enter events that could not be scored."""
        self.failures.append(Failure(source.dataset, source.path, *problem))

    def to_json(self) -> str:
        """The manifest as text: counts first, one line per table."""
        content: dict[str, Any] = {"format": FORMAT}
        content["counts"] = {
            "files": len(self.files),
            "tables": len(self.tables),
            "events": self.n_events,
            "scored": self.n_scored,
            "failed": self.n_failed,
        }
        rows = {"files": FileEntry, "tables": TableEntry, "failures": Failure}
        for field in dataclasses.fields(self):
            if field.name not in rows:
                content[field.name] = getattr(self, field.name)
        parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        for key in rows:
            lines = ",\n  ".join(json.dumps(entry._asdict()) for entry in getattr(self, key))
            parts.append(f"{json.dumps(key)}: [\n  {lines}\n ]" if lines else f"{json.dumps(key)}: []")
        return "{\n " + ",\n ".join(parts) + "\n}\n"

    def write(self, out: Path) -> None:
        """Write the manifest into a folder, all of it or nothing."""
        partial = out / f".{MANIFEST}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            partial.write_text(self.to_json(), encoding="utf-8")
            partial.replace(out / MANIFEST)
        finally:
            partial.unlink(missing_ok=True)


def read_manifest(out: str | Path) -> Manifest:
    """The manifest in a folder of scores.

    Raises
    ------
    FileError
        If there is none, or it is damaged.
    """
    path = Path(out) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            msg = f"{path} is of another format"
            raise FileError(msg)
        content.pop("counts")
        rows = {"files": FileEntry, "tables": TableEntry, "failures": Failure}
        for key, kind in rows.items():
            content[key] = [kind(**entry) for entry in content[key]]
        return Manifest(**content)
    except FileNotFoundError as error:
        msg = f"{out} holds no scores: there is no {MANIFEST} in it"
        raise FileError(msg) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileError):
            raise
        msg = f"{path} is damaged: {error}"
        raise FileError(msg) from error


def verify_scores(out: str | Path) -> list[str]:
    """Names of the tables of a manifest that are missing or not what their checksums say.

    Parameters
    ----------
    out : path
        Folder of the scores.
    """
    wrong = []
    for entry in read_manifest(out).tables:
        path = Path(out) / entry.table
        if not path.is_file() or file_digest(path) != entry.sha256:
            wrong.append(entry.table)
    return wrong


def previous_tables(out: Path, identity: str) -> dict[tuple[str, str, str], list[FinishedTable]]:
    """Tables that earlier runs have finished, by data set, file and tree.

    Raises
    ------
    DistributedError
        If the folder holds the scores of another network, or of other settings.
    """
    known: dict[str, TableEntry] = {}
    try:
        manifest = read_manifest(out)
    except FileError:
        pass  # lost or damaged: the tables say what is needed, only more slowly
    else:
        if manifest.identity != identity:
            msg = (
                f"{out} holds scores of {manifest.checkpoint} ({manifest.digest[:12]}, "
                f"{', '.join(manifest.heads)}) or of other settings; choose another folder"
            )
            raise DistributedError(msg)
        known = {entry.table: entry for entry in manifest.tables}
    found: dict[tuple[str, str, str], list[FinishedTable]] = {}
    for path in sorted(out.rglob("*.parquet")):
        notes = read_notes(path)
        if notes is None:
            continue
        if notes["identity"] != identity:
            msg = f"{path} holds scores of another network or of other settings; choose another folder"
            raise DistributedError(msg)
        name = str(path.relative_to(out))
        entry, size = known.get(name), path.stat().st_size
        has_entry = entry is not None and entry.n_bytes == size
        dataset, file, tree, _ = notes["source"]
        report = ChunkReport(
            notes["n_events"],
            notes["n_scored"],
            entry.sha256 if entry and has_entry else file_digest(path),
            size,
            entry.seconds if entry and has_entry else 0.0,
            entry.worker if entry and has_entry else "",
            tuple(Problem(*hole) for hole in notes["holes"]),
        )
        table = FinishedTable(name, (notes["start"], notes["stop"]), notes["fingerprint"], report)
        found.setdefault((dataset, file, tree), []).append(table)
    return found


class FinishedTable(NamedTuple):
    """A table found in the folder: its name, range, the file's fingerprint then, and its report."""

    name: str
    events: Range
    fingerprint: str
    report: ChunkReport

    def covered(self) -> list[Range]:
        """Ranges of events that stand in it."""
        from evenet_hep.distributed.fileset import without  # noqa: PLC0415

        if self.events[0] == self.events[1]:
            return [self.events]
        return without(self.events, [(hole.start, hole.stop) for hole in self.report.holes])
