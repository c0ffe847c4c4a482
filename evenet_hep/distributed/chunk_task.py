"""What a worker does with one chunk: read, score, write one table, and say how it went.

Nothing that a file or a machine does raises here. Whatever went wrong comes back as a :class:`Problem`, with the
events it concerns, and all other events of the chunk are scored:

* events with values that make no sense are found by halving the chunk, in memory;
* where a file is damaged, the pieces in which it is stored are read one by one;
* a chunk too large for the memory is scored in halves;
* a chunk during which workers died is not begun again, see :class:`Attempts`.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np

from evenet_hep.distributed.fileset import Chunk as ChunkOfFile
from evenet_hep.distributed.fileset import SourceFile
from evenet_hep.errors import CheckpointError, EveNetError, FileError, InputError, PredictionError
from evenet_hep.events.parquet import TableWriter, table_notes
from evenet_hep.events.reading import Chunk, OpenTable, is_url
from evenet_hep.inference import Predictor
from evenet_hep.scoring import score_chunk as score_events

NOTES = "evenet_hep"  # key of our notes in a table
RUNNING = ".running"  # folder of the attempts, below the folder of the tables
MOST_HALVINGS = 1000  # of one chunk, in memory; each costs some milliseconds
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OPEN = (
    threading.local()
)  # the last file this thread has read: opening one of 1500 branches takes half a second


class Problem(NamedTuple):
    """Events that could not be scored.

    Parameters
    ----------
    start, stop : int
        Range of events; ``stop`` is -1 for a file of which not even the length is known.
    kind : str
        ``"file"`` (cannot be read), ``"input"`` (values that make no sense), ``"memory"``, ``"died"`` (workers died
        over it), ``"disk"`` (the table could not be written), ``"worker"`` (this worker cannot work) or ``"error"``.
    reason : str
        One sentence.
    """

    start: int
    stop: int
    kind: str
    reason: str


class Task(NamedTuple):
    """What is the same for all chunks of a prediction.

    Parameters
    ----------
    predictor : Predictor
        The network.
    out : Path
        Folder of the tables, the same on every machine.
    run : str
        Name of this run.
    most_deaths : int
        Workers that may die over a chunk before it is given up.
    frugal : bool, optional
        Read branch by branch: workers have died over these events, or had not enough memory.
    """

    predictor: Predictor
    out: Path
    run: str
    most_deaths: int
    frugal: bool = False


class FileReport(NamedTuple):
    """What is known of a file before it is scored."""

    n_events: int
    fingerprint: str
    worker: str
    problem: Problem | None = None


class ChunkReport(NamedTuple):
    """How a chunk went.

    Parameters
    ----------
    n_events, n_scored : int
        Rows of the table, and those with a score: events without objects have none.
    sha256 : str
        Of the table.
    n_bytes : int
        Of the table.
    seconds : float
        For reading, scoring and writing.
    worker : str
        Name of the host and number of the process.
    holes : tuple of Problem
        Events that are not in the table.
    problem : Problem, optional
        Why there is no table at all.
    """

    n_events: int
    n_scored: int
    sha256: str
    n_bytes: int
    seconds: float
    worker: str
    holes: tuple[Problem, ...] = ()
    problem: Problem | None = None


class Attempts:
    """Marks on disk of who has begun what: how often a worker died over a chunk is counted where nobody can forget it.

    The scheduler counts, too, but it blames every task that a dead worker had been given, and forgets when it dies.

    Parameters
    ----------
    folder : Path
        Of the marks of this run.
    name : str
        Of the chunk.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, hashlib.sha256(name.encode()).hexdigest()[:20]

    def deaths(self) -> int:
        """Attempts that were begun and never ended."""
        return len(list(self.folder.glob(f"{self.name}.*")))

    @contextmanager
    def one(self) -> Iterator[None]:
        """One attempt: it counts as a death unless this block is left, in whatever way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / f"{self.name}.{uuid.uuid4().hex[:12]}"
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def this_worker() -> str:
    """Host and process."""
    return f"{os.uname().nodename}:{os.getpid()}"


def identity_of(predictor: Predictor) -> str:
    """Changes with everything that decides the scores: weights, outputs, branches and sampling."""
    parts = (
        predictor.digest,
        predictor.heads,
        predictor.process,
        predictor.branches and dataclasses.astuple(predictor.branches),
        dataclasses.astuple(predictor.sampling),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def inspect_source(source: SourceFile, task: Task) -> FileReport:
    """Length and fingerprint of a file, once a worker has opened it."""
    attempts = Attempts(task.out / RUNNING / task.run, f"inspect {source.stem}")
    if attempts.deaths() >= task.most_deaths:
        reason = f"{attempts.deaths()} workers died while they opened {source.path}"
        return FileReport(0, "", this_worker(), Problem(0, -1, "died", reason))
    try:
        with attempts.one():
            table = open_source(source, task.predictor)
    except (FileError, InputError) as error:
        kind = "file" if isinstance(error, FileError) else "input"
        return FileReport(0, "", this_worker(), Problem(0, -1, kind, str(error)))
    except Exception as error:  # noqa: BLE001  it comes back as a report
        return FileReport(0, "", this_worker(), _unexpected(error, 0, -1, f"opening {source.path}", task))
    return FileReport(table.n_events, table.fingerprint, this_worker())


def score_chunk(chunk: ChunkOfFile, fingerprint: str, task: Task) -> ChunkReport:
    """Score one chunk into its table; one that is there already, and right, is kept."""
    begin, path = time.perf_counter(), task.out / chunk.table
    attempts = Attempts(task.out / RUNNING / task.run, chunk.table)
    try:
        if (found := _finished(path, fingerprint, task)) is not None:
            return found
        if (deaths := attempts.deaths()) >= task.most_deaths:
            reason = f"{deaths} worker{'s' * (deaths > 1)} died over these events (out of memory, or killed)"
            return _failed(Problem(chunk.start, chunk.stop, "died", reason), begin)
        with attempts.one():
            return _score(chunk, fingerprint, task, path, begin)
    except FileError as error:
        return _failed(Problem(chunk.start, chunk.stop, "file", str(error)), begin)
    except InputError as error:
        return _failed(Problem(chunk.start, chunk.stop, "input", str(error)), begin)
    except Exception as error:  # noqa: BLE001  it comes back as a report
        what = f"scoring {chunk.source.path}"
        return _failed(_unexpected(error, chunk.start, chunk.stop, what, task), begin)


def _unexpected(error: Exception, start: int, stop: int, what: str, task: Task) -> Problem:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if not task.out.is_dir():
        reason = f"{this_worker()} does not see the folder {task.out}, which all workers must share"
        return Problem(start, stop, "worker", reason)
    if isinstance(error, OSError) and (error.errno in _NO_SPACE or "No space left" in text):
        return Problem(start, stop, "disk", f"{task.out} is full: {text}")
    if isinstance(error, (CheckpointError, PredictionError)):
        return Problem(start, stop, "worker", f"{this_worker()}: {text}")
    if is_memory_error(error):
        return Problem(start, stop, "memory", f"not enough memory on {this_worker()}")
    named = text if isinstance(error, EveNetError) else f"{type(error).__name__} while {what}: {text}"
    return Problem(start, stop, "error", named)


def is_memory_error(error: BaseException) -> bool:
    """Whether fewer events at a time might help."""
    names = ("OutOfMemoryError", "ArrowMemoryError")  # of torch's GPU allocator, and of pyarrow
    is_cpu_allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ in names or is_cpu_allocator


def _failed(problem: Problem, begin: float) -> ChunkReport:
    return ChunkReport(0, 0, "", 0, time.perf_counter() - begin, this_worker(), problem=problem)


def open_source(source: SourceFile, predictor: Predictor) -> OpenTable:
    """The open file, kept while this thread goes on with it."""
    key = source, _stamp(source.path), predictor.digest, predictor.branches
    if getattr(_OPEN, "key", None) != key:
        _OPEN.key = None
        _OPEN.table = OpenTable(source.path, predictor.schema, tree=source.tree, branches=predictor.branches)
        _OPEN.key = key
    table: OpenTable = _OPEN.table
    return table


def _stamp(path: str) -> tuple[int, int]:
    """Changes when somebody writes into the file; nothing is known of one behind an address."""
    if is_url(path):
        return 0, 0
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        msg = f"no such file: {path}"
        raise FileError(msg) from error
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise FileError(msg) from error
    return status.st_size, status.st_mtime_ns


def _finished(path: Path, fingerprint: str, task: Task) -> ChunkReport | None:
    """The report of a table that an attempt before has finished; the notes in it say what it is."""
    notes = read_notes(path)
    if (
        notes is None
        or notes["identity"] != identity_of(task.predictor)
        or notes["fingerprint"] != fingerprint
    ):
        return None
    return ChunkReport(
        notes["n_events"],
        notes["n_scored"],
        file_digest(path),
        path.stat().st_size,
        0.0,
        this_worker(),
        tuple(Problem(*hole) for hole in notes["holes"]),
    )


def read_notes(path: Path) -> dict[str, Any] | None:
    """What a table says of itself; None if there is no table, or another program's."""
    text = table_notes(path).get(NOTES)
    return None if text is None else dict(json.loads(text))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _score(chunk: ChunkOfFile, fingerprint: str, task: Task, path: Path, begin: float) -> ChunkReport:
    predictor, source = task.predictor, chunk.source.path
    predictor.network()  # before anything is read: a worker without the network cannot work
    table = open_source(chunk.source, predictor)
    if table.fingerprint != fingerprint:
        msg = f"{source} has changed while it was being scored"
        raise FileError(msg)
    holes: list[Problem] = []
    n_scored = 0
    with TableWriter(path) as writer:
        for events, start in _readable(table, chunk.start, chunk.stop, holes, frugal=task.frugal):
            for columns in _scorable(predictor, source, events, start, holes):
                writer.append(columns)
                n_scored += count_scored(columns)
        if holes and writer.n_rows == 0 and len(holes) == 1:
            return _failed(holes[0], begin)
        if writer.n_rows == 0:
            empty = score_events(predictor, source, Chunk(table.read(0, 0), 0, 0))
            writer.append(empty)
        finish_table(writer, chunk, fingerprint, predictor, n_scored, holes)
    return report_table(path, writer.n_rows, n_scored, time.perf_counter() - begin, holes)


def finish_table(
    writer: TableWriter,
    chunk: ChunkOfFile,
    fingerprint: str,
    predictor: Predictor,
    n_scored: int,
    holes: list[Problem],
) -> None:
    """Write into a table what it is."""
    notes = {
        "identity": identity_of(predictor),
        "fingerprint": fingerprint,
        "source": chunk.source,
        "start": chunk.start,
        "stop": chunk.stop,
        "n_events": writer.n_rows,
        "n_scored": n_scored,
        "holes": holes,
    }
    writer.describe({NOTES: json.dumps(notes)})


def report_table(
    path: Path, n_events: int, n_scored: int, seconds: float, holes: list[Problem]
) -> ChunkReport:
    """The report of a table that has been written."""
    found = file_digest(path), path.stat().st_size
    return ChunkReport(n_events, n_scored, *found, seconds, this_worker(), tuple(holes))


def count_scored(columns: dict[str, Any]) -> int:
    """Rows with a score: those whose first class probability is a number; all, without classification."""
    names = [name for name in columns if name.startswith("classification_")]
    length = len(next(iter(columns.values())))
    return int(np.isfinite(ak.to_numpy(columns[names[0]])).sum()) if names else length


def _readable(
    table: OpenTable, start: int, stop: int, holes: list[Problem], *, frugal: bool = False
) -> Iterator[tuple[ak.Array, int]]:
    """The events of a range that can be read, in order, with the number of the first."""
    try:
        events = table.read(start, stop, frugal=frugal)
    except FileError as error:
        table.read(0, 0)  # a file of which nothing can be read is not worth a second look
        pieces = table.pieces(start, stop)
        if len(pieces) < 2:
            holes.append(Problem(start, stop, "file", str(error)))
            return
        for first, last in pieces:
            yield from _readable_piece(table, first, last, holes, frugal=frugal)
        return
    yield events, start


def _readable_piece(
    table: OpenTable, start: int, stop: int, holes: list[Problem], *, frugal: bool
) -> Iterator[tuple[ak.Array, int]]:
    try:
        events = table.read(start, stop, frugal=frugal)
    except FileError as error:
        add_hole(holes, Problem(start, stop, "file", str(error)))
        return
    yield events, start


def _scorable(
    predictor: Predictor, source: str, events: ak.Array, start: int, holes: list[Problem]
) -> Iterator[dict[str, Any]]:
    """Columns of the events that can be scored, in order; the others are found by halving."""

    def score(first: int, last: int) -> dict[str, Any]:
        return score_events(predictor, source, Chunk(events[first:last], start + first, start + last))

    try:
        yield score(0, len(events))
    except Exception as error:
        if not isinstance(error, InputError) and not is_memory_error(error):
            raise
        score(0, 0)  # what is wrong with no events is wrong with the file
        yield from _halves(score, len(events), error, start, holes)


def _halves(
    score: Callable[[int, int], dict[str, Any]],
    n_events: int,
    error: Exception,
    offset: int,
    holes: list[Problem],
) -> Iterator[dict[str, Any]]:
    left = [(0, n_events, error)]  # ranges that failed, the first events on top
    for _ in range(MOST_HALVINGS):
        if not left:
            return
        start, stop, why = left.pop()
        if stop - start == 1:
            add_hole(holes, _problem(why, offset + start, offset + stop))
            continue
        middle = (start + stop) // 2
        second = (middle, stop, why)
        try:
            columns = score(start, middle)
        except Exception as found:
            if not isinstance(found, InputError) and not is_memory_error(found):
                raise
            left += [second, (start, middle, found)]
            continue
        yield columns
        try:
            columns = score(*second[:2])
        except Exception as found:
            if not isinstance(found, InputError) and not is_memory_error(found):
                raise
            left.append((*second[:2], found))
            continue
        yield columns
    for start, stop, why in reversed(left):
        add_hole(holes, _problem(why, offset + start, offset + stop))


def _problem(error: Exception, start: int, stop: int) -> Problem:
    if is_memory_error(error):
        return Problem(start, stop, "memory", f"not enough memory on {this_worker()}")
    return Problem(start, stop, "input", str(error))


def add_hole(holes: list[Problem], hole: Problem) -> None:
    """Add a hole; one that follows the last and is of the same kind makes that one longer."""
    if holes and holes[-1].stop == hole.start and holes[-1].kind == hole.kind:
        holes[-1] = holes[-1]._replace(stop=hole.stop)
    else:
        holes.append(hole)
