"""Small files, many at a time: each is opened once, and all of them go through the network together.

A file of 200 events costs more to open, and to hand out as a task, than its events cost in the network, and so few
events make poor batches. Only what goes well is done here: a file that is damaged, or during which a worker died
before, is left to :func:`~evenet_hep.distributed.chunk_task.score_chunk`, which finds out what is wrong, and names it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.distributed.chunk_task import (
    RUNNING,
    Attempts,
    ChunkReport,
    FileReport,
    Task,
    count_scored,
    finish_table,
    inspect_source,
    open_source,
    read_notes,
    report_table,
)
from evenet_hep.distributed.fileset import Chunk, SourceFile
from evenet_hep.errors import EveNetError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.parquet import TableWriter
from evenet_hep.scoring import table_columns

if TYPE_CHECKING:
    from evenet_hep.inference import Network, Predictor

logger = logging.getLogger(__name__)

MOST_FILES = 64  # per task: so many scores are lost with a worker, at most
MOST_EVENTS = 20_000  # at a time; the batches are full long before


class OpenedFile(NamedTuple):
    """A file that a worker has opened.

    Parameters
    ----------
    report : FileReport
        Its length and fingerprint.
    chunk : Chunk, optional
        All events of the file, if they were scored at once.
    scored : ChunkReport, optional
        How that went; it always went well.
    """

    report: FileReport
    chunk: Chunk | None = None
    scored: ChunkReport | None = None


class _Small(NamedTuple):
    """A small file that was read: its place among the files, its events, and the cloud of them."""

    place: int
    chunk: Chunk
    fingerprint: str
    events: ak.Array
    cloud: EventCloud


def open_files(
    sources: Sequence[SourceFile], may_score: Sequence[bool], task: Task, chunk_size: int
) -> list[OpenedFile]:
    """Length and fingerprint of files, and the scores of those that are small.

    Parameters
    ----------
    sources : sequence of SourceFile
        The files.
    may_score : sequence of bool
        Whether a file may be scored at once: nothing of it was scored before.
    task : Task
        Where to, and with what.
    chunk_size : int
        Most events per table.

    Returns
    -------
    list of OpenedFile
        In the order of ``sources``. What is not scored must still be.
    """
    opened: list[OpenedFile] = []
    waiting: list[_Small] = []
    most = min(chunk_size, MOST_EVENTS)
    for place, (source, wanted) in enumerate(zip(sources, may_score, strict=True)):
        opened.append(OpenedFile(inspect_source(source, task)))
        report = opened[-1].report
        if not wanted or report.problem is not None or report.n_events > most or source.steps is not None:
            continue
        if sum(len(small.cloud) for small in waiting) + report.n_events > most:
            _score_together(waiting, task, opened)
            waiting = []
        small = _read(place, source, report, task)
        waiting += [small] if small is not None else []
    _score_together(waiting, task, opened)
    return opened


def _read(place: int, source: SourceFile, report: FileReport, task: Task) -> _Small | None:
    """A file in memory, or None for one that needs a closer look."""
    chunk = Chunk(source, 0, report.n_events)
    marks = Attempts(task.out / RUNNING / task.run, chunk.table)
    # Alone, a chunk that kills workers is found without blaming its neighbours.
    if task.most_deaths < 2 or marks.deaths() or read_notes(task.out / chunk.table) is not None:
        return None
    try:
        with marks.one():
            table = open_source(source, task.predictor)
            if table.fingerprint != report.fingerprint:
                return None
            events = table.read(0, report.n_events)
            cloud = task.predictor.cloud(events, task.predictor.network(), None, None, None)
    except (EveNetError, MemoryError) as error:
        logger.info("%s is looked at more closely: %s", source.path, error)
        return None
    return _Small(place, chunk, report.fingerprint, events, cloud)


def _score_together(waiting: Sequence[_Small], task: Task, opened: list[OpenedFile]) -> None:
    """Score files in one pass, and write a table for each of them."""
    if not waiting:
        return
    folder, predictor = task.out / RUNNING / task.run, task.predictor
    begin = time.perf_counter()
    with ExitStack() as marks:
        for small in waiting:
            marks.enter_context(Attempts(folder, small.chunk.table).one())
        try:
            network = predictor.network()
            results = predictor.predict_rows(network, _joined(waiting))
            start, seconds = 0, (time.perf_counter() - begin) / len(waiting)
            for small in waiting:
                rows = slice(start, start + len(small.cloud))
                part = {name: values[rows] for name, values in results.items()}
                report = _write(small, predictor, network, part, task, seconds)
                opened[small.place] = opened[small.place]._replace(chunk=small.chunk, scored=report)
                start = rows.stop
        except Exception as error:  # noqa: BLE001  what is left is scored file by file, and the reason comes up again
            logger.info("%d files are scored one by one: %s", len(waiting), error)


def _joined(waiting: Sequence[_Small]) -> EventCloud:
    # What the network sees. The way back to the collections of a file stays in its own cloud.
    clouds = [small.cloud for small in waiting]
    fields = ("objects", "mask", "event_features", "index")
    parts = {name: np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in fields}
    sizes = np.zeros((len(parts["mask"]), 0), np.int64)
    return EventCloud(schema=clouds[0].schema, collections=(), sizes=sizes, **parts)


def _write(
    small: _Small,
    predictor: Predictor,
    network: Network,
    results: dict[str, npt.NDArray[Any]],
    task: Task,
    seconds: float,
) -> ChunkReport:
    begin = time.perf_counter()
    records = predictor.to_records(results, small.cloud, network)
    columns = table_columns(small.events, small.chunk.start, records)
    path = task.out / small.chunk.table
    with TableWriter(path) as writer:
        writer.append(columns)
        n_scored = count_scored(columns)
        finish_table(writer, small.chunk, small.fingerprint, predictor, n_scored, [])
    return report_table(path, writer.n_rows, n_scored, seconds + time.perf_counter() - begin, [])
