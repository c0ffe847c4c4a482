"""Scores for the files of a fileset on the workers of a Dask cluster; every good event once, whatever dies."""

from __future__ import annotations

import logging
import queue
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client, Future, KilledWorker
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evenet_hep.distributed.chunk_task import (
    RUNNING,
    ChunkReport,
    Problem,
    Task,
    score_chunk,
)
from evenet_hep.distributed.fileset import Chunk, SourceFile, cut_chunks, read_fileset
from evenet_hep.distributed.manifest import (
    MANIFEST,
    FileEntry,
    FinishedTable,
    Manifest,
    previous_tables,
)
from evenet_hep.distributed.small_files import MOST_FILES, OpenedFile, open_files
from evenet_hep.distributed.workers import (
    ReadyWorkers,
    offered_slots,
    ready_workers,
    suggest_chunk_size,
    withdraw,
    worker_problems,
)
from evenet_hep.errors import DistributedError
from evenet_hep.inference import Predictor

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_MANIFESTS = 10.0
RESULT_PATIENCE = 30.0  # seconds
MOST_SUBMISSIONS = 12  # of one job, against a cluster that loses everything it is given


def predict_files(
    client: Client,
    predictor: Predictor,
    fileset: Any,
    out: str | Path,
    *,
    tree: str = "Events",
    chunk_size: int | None = None,
    resume: bool = True,
    most_deaths: int = 2,
    patience: float = 120.0,
    progress: bool = True,
) -> Manifest:
    """Score all events of a fileset on a cluster: one Parquet table per chunk, and a manifest.

    A table holds the identifiers of its events (run, luminosityBlock, event) and their scores; it appears under its
    name only when it is complete. What cannot be scored does not stop the rest: it stands in the manifest with its
    reason. Called again with the same folder, the function scores what is missing, and nothing twice.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. Its workers must see the files, the checkpoint and ``out`` under the same paths.
    predictor : Predictor
        The network; read once per worker process.
    fileset : mapping or sequence of paths
        As for coffea's ``Runner``; see :func:`~evenet_hep.distributed.fileset.read_fileset`.
    out : str or Path
        Folder for the tables and ``manifest.json``; made if it is not there.
    tree : str
        Name of the tree where the fileset names none.
    chunk_size : int, optional
        Most events per table; by default :func:`~evenet_hep.distributed.workers.suggest_chunk_size`.
    resume : bool
        Go on in a folder that holds scores already. False makes that an error.
    most_deaths : int
        Workers that may die over a chunk; then it is cut into halves, and again, until the events that kill workers
        are found. They are given up at 1/64 of a chunk.
    patience : float
        Seconds to wait for a worker that can work, when there is none.
    progress : bool
        Show a bar.

    Returns
    -------
    Manifest
        Tables with their checksums, and failures.

    Raises
    ------
    DistributedError
        If nobody can go on: no worker can read the network, none is left, the scheduler is gone, or the disk is full.
        What was done is kept and stands in the manifest.
    InputError
        If the fileset is none.
    """
    sources = read_fileset(fileset, tree=tree)
    out = Path(out).absolute()
    chunk_size = chunk_size or suggest_chunk_size(predictor)
    if chunk_size < 1 or most_deaths < 1:
        msg = f"chunk_size and most_deaths must be at least 1; found {chunk_size} and {most_deaths}"
        raise DistributedError(msg)
    if not resume and (out / MANIFEST).exists():
        msg = f"{out} holds scores already; choose another folder, or resume"
        raise DistributedError(msg)
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.begin(predictor)
    earlier = previous_tables(out, manifest.identity)
    with ready_workers(client, predictor) as workers:
        run = uuid.uuid4().hex[:12]
        task = Task(predictor, out, run, most_deaths)
        job = _Run(client, workers, task, manifest, earlier, chunk_size, patience)
        try:
            with _bar() if progress else nullcontext(None) as bar:
                job.work(sources, bar)
        finally:
            shutil.rmtree(out / RUNNING / run, ignore_errors=True)
    if manifest.stopped:
        msg = (
            f"{manifest.stopped}; {manifest.n_events} events are in tables, the same call goes on from there"
        )
        raise DistributedError(msg)
    return manifest


class _Job(NamedTuple):
    """Files to open, or a chunk of one to score."""

    sources: tuple[SourceFile, ...]
    chunk: Chunk | None = None
    fingerprint: str = ""
    is_second_try: bool = False
    submissions: int = 0


class _Stop(Exception):  # noqa: N818  not an error: the run ends
    """The run cannot go on."""


class _Run:
    """What is to be done, what is being done, and what came of it."""

    def __init__(
        self,
        client: Client,
        workers: ReadyWorkers,
        task: Task,
        manifest: Manifest,
        earlier: dict[tuple[str, str, str], list[FinishedTable]],
        chunk_size: int,
        patience: float,
    ) -> None:
        self.client, self.resource, self.task = client, workers.resource, task
        self.manifest, self.earlier = manifest, earlier
        self.chunk_size, self.patience = chunk_size, patience
        self.smallest = max(1, chunk_size // 64)
        self.waiting: deque[_Job] = deque()
        self.later: deque[_Job] = deque()  # second tries, after everything else: disks and networks recover
        self.suspects: deque[_Job] = deque()  # killed workers; one at a time, so that nobody else is blamed
        self.running: dict[Future, _Job] = {}
        self.done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.slots = workers.slots
        self.last_slots = self.last_written = time.monotonic()
        self.submitted = 0

    def work(self, sources: list[SourceFile], bar: Progress | None) -> None:
        """Score everything; the manifest says at the end whether that was so."""
        # Many files per task, but enough tasks for everybody.
        n_files = max(1, min(MOST_FILES, len(sources) // (4 * max(1, self.slots))))
        for i in range(0, len(sources), n_files):
            self.waiting.append(_Job(tuple(sources[i : i + n_files])))
        self.bar, self.bar_task = bar, bar.add_task("scoring", total=0) if bar else None
        try:
            while self._submit():
                self._take()
            self.manifest.complete = True
        except _Stop as stop:
            self.manifest.stopped = str(stop)
        except OSError as error:  # of the connection: files and disks come back as reports
            self.manifest.stopped = f"the connection to the scheduler was lost: {error}"
        finally:
            for future in self.running:
                future.cancel(force=True)
            self._finish()

    def _submit(self) -> bool:
        """Hand out jobs; False when nothing is left."""
        if not self.waiting and not self.running and self.later:
            self.waiting, self.later = self.later, deque()
        while self.waiting and len(self.running) < 2 * self.slots + 16:
            self._start(self.waiting.popleft(), self.task)
        if not self.running and not self.waiting and self.suspects:
            job = self.suspects.popleft()
            n_events = job.chunk.stop - job.chunk.start if job.chunk else 0
            # A part that can still be cut is not tried twice.
            deaths = 1 if n_events > self.smallest else self.task.most_deaths
            self._start(job, self.task._replace(most_deaths=deaths, frugal=True))
        return bool(self.running)

    def _start(self, job: _Job, task: Task) -> None:
        self.submitted += 1
        options: dict[str, Any] = {
            "resources": {self.resource: 1},
            "key": f"evenet-hep-{task.run}-{self.submitted}",
            "pure": False,
        }
        if job.chunk is None:
            may_score = tuple(_place(source) not in self.earlier for source in job.sources)
            arguments = job.sources, may_score, task, self.chunk_size, self.resource
            future = self.client.submit(_open, *arguments, **options)
        else:
            future = self.client.submit(_score, job.chunk, job.fingerprint, task, self.resource, **options)
        self.running[future] = job._replace(submissions=job.submissions + 1)
        future.add_done_callback(self.done.put)

    def _take(self) -> None:
        """Wait a moment for a result, and see whether anybody is still there to give one."""
        try:
            future = self.done.get(timeout=1.0)
        except queue.Empty:
            pass
        else:
            if (job := self.running.pop(future, None)) is not None:
                self._result(future, job)
        self._watch()
        if time.monotonic() - self.last_written > SECONDS_BETWEEN_MANIFESTS:
            self._write()

    def _watch(self) -> None:
        if self.client.status != "running" or any(future.status == "lost" for future in self.running):
            msg = "the connection to the scheduler was lost"
            raise _Stop(msg)
        if time.monotonic() - self.last_slots < 1.0 and self.slots:
            return
        self.slots = offered_slots(self.client, self.resource)
        if self.slots:
            self.last_slots = time.monotonic()
        elif time.monotonic() - self.last_slots > self.patience:
            problems = sorted(set(worker_problems(self.client, self.resource).values()))
            why = f": {'; '.join(problems)}" if problems else ""
            msg = f"no worker can work, for {self.patience:.0f} s now{why}"
            raise _Stop(msg)

    def _result(self, future: Future, job: _Job) -> None:
        if future.status == "cancelled":
            if self.client.status != "running":
                return  # the watch says so
            self._again(job, "the task was cancelled")
        elif future.status == "error":
            error = future.exception()
            # The scheduler counts a death for every task that waited on the dead worker, too: the marks know better.
            reason = "workers died" if isinstance(error, KilledWorker) else f"{type(error).__name__}: {error}"
            self._again(job, reason)
        else:
            try:
                report = future.result(timeout=RESULT_PATIENCE)
            except (
                TimeoutError
            ):  # its worker died with the result: the table is there, and the next one finds it
                self._again(job, "its result was lost")
                return
            if job.chunk is None:
                for source, opened in zip(job.sources, report, strict=True):
                    self._opened(opened, job._replace(sources=(source,)))
            else:
                self._scored(report, job, job.chunk)

    def _again(self, job: _Job, reason: str) -> None:
        if job.submissions < MOST_SUBMISSIONS:
            self.waiting.appendleft(job)
            return
        start, stop = (job.chunk.start, job.chunk.stop) if job.chunk else (0, -1)
        for source in job.sources:
            self._fail(
                source, Problem(start, stop, "error", f"given up after {job.submissions} times: {reason}")
            )

    def _opened(self, opened: OpenedFile, job: _Job) -> None:
        report, (source,) = opened.report, job.sources
        if report.problem is not None:
            self._problem(report.problem, job)
            return
        asked = source.steps or ((0, report.n_events),)
        n_asked = sum(max(0, min(stop, report.n_events) - start) for start, stop in asked)
        what = _place(source)
        self.manifest.files.append(FileEntry(*what, report.n_events, n_asked, report.fingerprint))
        self._advance(total=n_asked)
        covered: list[tuple[int, int]] = []
        for table in sorted(self.earlier.get(what, []), key=lambda table: -table.report.n_events):
            ranges = table.covered()
            if table.fingerprint != report.fingerprint:
                logger.warning("%s has changed since %s was written", source.path, table.name)
            elif not any(a < d and c < b for a, b in covered for c, d in ranges):
                covered += ranges
                self._table(table.name, source, table.events, table.report)
        if opened.chunk is not None and opened.scored is not None:
            covered.append((opened.chunk.start, opened.chunk.stop))
            self._table(opened.chunk.table, source, covered[-1], opened.scored)
        for chunk in cut_chunks(source, report.n_events, covered, self.chunk_size):
            self.waiting.append(_Job((source,), chunk, report.fingerprint))

    def _scored(self, report: ChunkReport, job: _Job, chunk: Chunk) -> None:
        if report.problem is not None:
            self._problem(report.problem, job)
            return
        self._table(chunk.table, chunk.source, (chunk.start, chunk.stop), report)
        for hole in report.holes:
            part = job._replace(chunk=chunk._replace(start=hole.start, stop=hole.stop), submissions=0)
            self._problem(hole, part)

    def _problem(self, problem: Problem, job: _Job) -> None:
        """Try again, try less, or give up."""
        if problem.kind == "disk":
            raise _Stop(problem.reason)
        if problem.kind == "worker":
            self._again(job, problem.reason)
        elif problem.kind in ("died", "memory") and job.chunk is not None:
            self._cut(problem, job, job.chunk)
        elif problem.kind in ("file", "error", "memory", "died") and not job.is_second_try:
            self.later.append(job._replace(is_second_try=True))
        else:
            self._fail(job.sources[0], problem)

    def _cut(self, problem: Problem, job: _Job, chunk: Chunk) -> None:
        n_events = chunk.stop - chunk.start
        if n_events <= self.smallest:
            self._fail(job.sources[0], problem)
            return
        middle = chunk.start + n_events // 2
        for start, stop in ((middle, chunk.stop), (chunk.start, middle)):
            part = chunk._replace(start=start, stop=stop)
            self.suspects.appendleft(job._replace(chunk=part, submissions=0))

    def _table(self, name: str, source: SourceFile, events: tuple[int, int], report: ChunkReport) -> None:
        self.manifest.add_table(name, source, events, report)
        self._advance(done=report.n_events)

    def _fail(self, source: SourceFile, problem: Problem) -> None:
        self.manifest.add_failure(source, problem)
        self._advance(done=max(0, problem.stop - problem.start))

    def _advance(self, *, done: int = 0, total: int = 0) -> None:
        if self.bar is not None and self.bar_task is not None:
            known = self.bar.tasks[self.bar_task].total or 0
            self.bar.update(self.bar_task, advance=done, total=known + total)

    def _finish(self) -> None:
        for field in ("files", "tables", "failures"):
            getattr(self.manifest, field).sort()
        if self.client.status == "running":
            self.manifest.workers = worker_problems(self.client, self.resource)
        self._write()

    def _write(self) -> None:
        self.last_written = time.monotonic()
        try:
            self.manifest.write(self.task.out)
        except OSError as error:
            # The last manifest still stands there, and the tables know more than it does.
            self.manifest.complete = False
            self.manifest.stopped = (
                self.manifest.stopped or f"{self.task.out} cannot be written: {error.strerror}"
            )


def _place(source: SourceFile) -> tuple[str, str, str]:
    return source.dataset, source.path, source.tree


def _open(
    sources: tuple[SourceFile, ...], may_score: tuple[bool, ...], task: Task, chunk_size: int, resource: str
) -> list[OpenedFile]:
    opened = open_files(sources, may_score, task, chunk_size)
    for report, _, _ in opened:
        if report.problem is not None and report.problem.kind == "worker":
            withdraw(resource, report.problem.reason)
    return opened


def _score(chunk: Chunk, fingerprint: str, task: Task, resource: str) -> ChunkReport:
    report = score_chunk(chunk, fingerprint, task)
    if report.problem is not None and report.problem.kind == "worker":
        withdraw(resource, report.problem.reason)
    return report


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        yield bar
