"""Every network of the study: trained once, wherever there is a core or a GPU for it, and kept."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from evenet_hep.events.kinematic_labels import COUNTS, LABELS
from evenet_hep.graph_study.events import (
    ProcessEvents,
    Say,
    classes_of,
    load_process,
    pretraining_samples,
    task_samples,
)
from evenet_hep.graph_study.plan import METHODS, GraphStudyPlan
from evenet_hep.model.devices import find_device, seeded
from evenet_hep.model.graph import GraphNetwork
from evenet_hep.processes import process_pool
from evenet_hep.schema import EventSchema
from evenet_hep.training.graph import (
    BODY_RATIO,
    GraphSample,
    GraphTrainingConfig,
    replace_output,
    train_graph,
)
from evenet_hep.training.history import write_text

Result = TypeVar("Result")

CLASSES = ("signal", "background")
SMALLEST_BATCH = 16


class TrainedNetwork(NamedTuple):
    """A network of the study and its course: one entry per epoch of loss, validation_loss, accuracy, seconds."""

    model: GraphNetwork
    history: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class NetworkJob:
    """One training of the study.

    Parameters
    ----------
    home : Path
        Folder of the study, with the events of all processes in ``events``.
    plan : GraphStudyPlan
        The study.
    schema : EventSchema
        With the statistics of the pretraining events.
    device : str
        As in :func:`~evenet_hep.model.devices.find_device`.
    method : str
        Of :data:`~evenet_hep.graph_study.plan.METHODS`.
    task : str
        Of the plan; empty for a pretraining.
    size : int
        Training events per class of the task.
    seed : int
        Number of the network among those of its kind.
    """

    home: Path
    plan: GraphStudyPlan
    schema: EventSchema
    device: str
    method: str
    task: str = ""
    size: int = 0
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the network is kept."""
        return self.home / "networks" / self._name

    @property
    def _name(self) -> str:
        if not self.task:
            return f"pretrained-{self.method}"
        number = list(self.plan.tasks).index(self.task)
        return f"task-{number}-{self.size}-{self.method.replace(' ', '-')}-{self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether the network is there."""
        return (self.folder / "config.json").is_file() and self._course.is_file()

    @property
    def _course(self) -> Path:
        return self.folder.with_suffix(".json")

    def load(self) -> TrainedNetwork:
        """The finished network, on the device."""
        model = GraphNetwork.from_pretrained(self.folder).to(find_device(self.device))
        return TrainedNetwork(model, json.loads(self._course.read_text()))

    def run(self) -> str:
        """Train the network unless it is there; a line for a person, empty if it was."""
        if self.is_done:
            return ""
        training, validation = self._samples()
        with seeded(self._training.seed):
            model = self._start().to(find_device(self.device))
            run = train_graph(model, training, validation, self._training)
        write_text(self._course, json.dumps([epoch._asdict() for epoch in run.history]))
        run.model.save_pretrained(self.folder)
        best, seconds = run.history[run.best], run.history[-1].seconds
        return f"{self._name}: accuracy {best.accuracy:.4f} in epoch {run.best + 1}, {seconds:.0f} s"

    @property
    def _training(self) -> GraphTrainingConfig:
        plan = self.plan
        if not self.task:
            epochs, batch_size, ratio, seed = plan.pretraining_epochs, plan.batch_size, 1.0, 1
            events = None
        else:
            batch_size = min(plan.batch_size, max(SMALLEST_BATCH, self.size // 4))
            ratio = 1.0 if self.method == METHODS[0] else BODY_RATIO
            epochs, seed, events = plan.epochs_of(self.size), 10 + self.seed, plan.events_per_epoch
        return GraphTrainingConfig(
            epochs,
            batch_size,
            plan.rate,
            body_ratio=ratio,
            seed=seed,
            precision=plan.precision,
            events_per_epoch=events,
        )

    def _start(self) -> GraphNetwork:
        config = self.plan.network
        if not self.task:
            if self.method == "multilabel":
                config = dataclasses.replace(config, labels=tuple(LABELS), counts=len(COUNTS))
            return GraphNetwork(config, classes_of(self.schema, self.plan.pretraining))
        if self.method == METHODS[0]:
            return GraphNetwork(config, classes_of(self.schema, CLASSES))
        body = GraphNetwork.from_pretrained(self.home / "networks" / f"pretrained-{self.method}")
        return replace_output(body, classes=CLASSES)

    def test_sample(self) -> GraphSample:
        """Test events of the task."""
        return self._task_samples()[2]

    def _samples(self) -> tuple[GraphSample, GraphSample]:
        if self.task:
            return self._task_samples()[:2]
        processes = {name: load_process(self.home / "events", name) for name in self.plan.pretraining}
        return pretraining_samples(processes, self.plan, labels=self.method == "multilabel")

    def _task_samples(self) -> tuple[GraphSample, GraphSample, GraphSample]:
        names = self.plan.tasks[self.task]
        processes = {name: _remembered(self.home / "events", name, self._stamp(name)) for name in names}
        return task_samples(processes, self.plan, self.task, self.size)

    def _stamp(self, name: str) -> int:
        return (self.home / "events" / f"{name}.npz").stat().st_mtime_ns


@functools.lru_cache(maxsize=4)
def _remembered(cache: Path, name: str, _stamp: int) -> ProcessEvents:
    return load_process(cache, name)


def train_all(jobs: Sequence[NetworkJob], *, cores: int, say: Say) -> None:
    """Train networks that do not need each other; arguments as in :func:`train_groups`."""
    missing = [job for job in jobs if not job.is_done]
    list(train_groups({"": missing} if missing else {}, len, cores=min(cores, len(missing) or 1), say=say))


class _Work(NamedTuple):
    group: str
    call: Callable[[], Any]
    is_last: bool  # of its group


def train_groups(
    groups: Mapping[str, Sequence[NetworkJob]],
    then: Callable[[Sequence[NetworkJob]], Result],
    *,
    cores: int,
    say: Say,
) -> Iterator[tuple[str, Result]]:
    """Train the networks of all groups, in order; give out what is made of each group as soon as it is complete.

    Parameters
    ----------
    groups : mapping of str to sequence of NetworkJob
        Jobs of a group do not need each other, nor do groups.
    then : callable
        A function of a module, called with the jobs of a complete group, before other networks are trained.
    cores : int
        Processes, which share the device; with 1 everything happens in this one.
    say : callable
        Called with a line for every network.

    Yields
    ------
    str and what ``then`` returns
        Of every group, in the order in which they are complete.
    """
    if cores == 1:
        for name, jobs in groups.items():
            for job in jobs:
                _tell(job.run(), say)
            yield name, then(jobs)
        return
    queue = deque(_Work(name, job.run, is_last=False) for name, jobs in groups.items() for job in jobs)
    left = {name: len(jobs) for name, jobs in groups.items()}
    running: dict[Future[Any], _Work] = {}
    pool = process_pool(cores)
    try:
        while queue or running:
            while queue and len(running) < cores:
                work = queue.popleft()
                running[pool.submit(work.call)] = work
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work = running.pop(future)
                if work.is_last:
                    yield work.group, future.result()
                    continue
                _tell(future.result(), say)
                left[work.group] -= 1
                if not left[work.group]:
                    finish = functools.partial(then, groups[work.group])
                    queue.appendleft(_Work(work.group, finish, is_last=True))
    except Exception as error:
        say(f"{type(error).__name__}: {error}; what is being trained goes on to its end")
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tell(line: str, say: Say) -> None:
    if line:
        say(line)
