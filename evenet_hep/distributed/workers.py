"""Workers made ready for a network: read once per process, one GPU per process, and as many threads as it owns.

A worker that is ready says so with a resource of its own, named after the network. Tasks that ask for the resource run
on such workers only, one at a time, and so a worker that cannot see the weights, or has no GPU left, gets none. Workers
that start later, or again, are made ready in the same way.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import dask
from distributed import Client, Status, WorkerPlugin, get_worker

from evenet_hep.distributed.memory import give_back_memory, keep_freed_memory
from evenet_hep.errors import DistributedError, EveNetError
from evenet_hep.inference import Predictor, pin_device

if TYPE_CHECKING:
    from distributed import Worker

# The GPU of this process, and the lock on it, which the system gives back when the process ends.
_GPU_LOCK: list[tuple[str, IO[str]]] = []
_GPU_GUARD = threading.Lock()


class WorkerState(NamedTuple):
    """What a worker has for a network.

    Parameters
    ----------
    name : str
        Host and process.
    device : str
        Where the network is.
    threads : int
        Threads of torch.
    slots : int
        Chunks at a time; 0 if it cannot work.
    problem : str
        Why it cannot; empty if it can.
    """

    name: str
    device: str
    threads: int
    slots: int
    problem: str = ""


class NetworkPlugin(WorkerPlugin):
    """Makes a worker ready for a network, whenever the worker starts.

    Parameters
    ----------
    predictor : Predictor
        The network; only its place travels.
    resource : str
        Name of the resource of workers that are ready.
    """

    idempotent = False

    def __init__(self, predictor: Predictor, resource: str) -> None:
        self.predictor, self.resource, self.name = predictor, resource, resource

    async def setup(self, worker: Worker) -> None:
        """Read the network in a thread, so that the worker stays in touch, and offer the resource."""
        state = await asyncio.to_thread(_make_ready, self.predictor, worker.state.nthreads)
        _states(worker)[self.resource] = state
        await worker.set_resources(**{self.resource: state.slots})
        worker.loop.call_later(0.5, _announce, worker)

    async def teardown(self, worker: Worker) -> None:
        """Take the resource back; the network stays in memory for the next call."""
        _states(worker).pop(self.resource, None)
        if worker.status.name in ("running", "paused"):
            await worker.set_resources(**{self.resource: 0})
        give_back_memory()


def _announce(worker: Worker) -> None:
    """Make the scheduler look for tasks that nobody could run: it does so for workers that wake, not for new resources."""
    if worker.status is Status.running:
        worker.status = Status.paused
        worker.status = Status.running


def _states(worker: Worker) -> dict[str, WorkerState]:
    found: dict[str, WorkerState] = vars(worker).setdefault("_evenet_hep", {})
    return found


def _make_ready(predictor: Predictor, n_threads: int) -> WorkerState:
    import torch  # noqa: PLC0415  takes a second

    name = f"{os.uname().nodename}:{os.getpid()}"
    keep_freed_memory()
    try:
        wants_gpu = predictor.device in ("auto", "cuda") and torch.cuda.is_available()
        if wants_gpu:
            pin_device(take_gpu())
        device = predictor.chosen_device
        is_gpu = device.startswith("cuda")
        # On a GPU one chunk is read while another is scored; on a CPU a chunk has all threads to itself.
        slots = 2 if is_gpu and n_threads > 1 else 1
        torch.set_num_threads(max(1, n_threads // slots))
        _warm_up(predictor)
    except Exception as error:  # noqa: BLE001  the client reads it and says it
        text = " ".join(str(error).split())
        reason = text if isinstance(error, EveNetError) else f"{type(error).__name__}: {text}"
        return WorkerState(name, predictor.device, 0, 0, reason)
    return WorkerState(name, device, max(1, n_threads // slots), slots)


def _warm_up(predictor: Predictor) -> None:
    """Read the network, and score one made-up event: kernels are compiled, and heads that are not there are found."""
    import numpy as np  # noqa: PLC0415

    from evenet_hep.events.cloud import EventCloud  # noqa: PLC0415

    predictor.network()
    schema = predictor.schema
    mask = np.arange(schema.capacity)[None] < 1
    objects = np.ones((1, schema.capacity, len(schema.objects)), np.float32)
    predictor(
        EventCloud.from_arrays(objects, mask, np.ones((1, len(schema.event_features)), np.float32), schema)
    )


def take_gpu() -> str:
    """A GPU that no other process of this package has taken, as ``"cuda:1"``."""
    import torch  # noqa: PLC0415

    with _GPU_GUARD:
        if _GPU_LOCK:
            return _GPU_LOCK[0][0]
        count = torch.cuda.device_count()
        for i in range(count):
            # By the name of the card itself: what is number 0 here may be number 1 elsewhere.
            card = getattr(torch.cuda.get_device_properties(i), "uuid", i)
            lock = (Path(tempfile.gettempdir()) / f"evenet-hep-gpu-{os.getuid()}-{card}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            _GPU_LOCK.append((f"cuda:{i}", lock))
            return f"cuda:{i}"
    msg = f"all {count} GPUs of this host are taken by other workers; start one worker process per GPU"
    raise DistributedError(msg)


class ReadyWorkers(NamedTuple):
    """Workers of a cluster and how they stand to a network.

    Parameters
    ----------
    resource : str
        What tasks must ask for, as in ``client.submit(..., resources={workers.resource: 1})``.
    states : dict of str to WorkerState
        Address -> what the worker has.
    """

    resource: str
    states: dict[str, WorkerState]

    @property
    def slots(self) -> int:
        """Chunks that can be scored at the same time."""
        return sum(state.slots for state in self.states.values())


@contextmanager
def ready_workers(client: Client, predictor: Predictor) -> Iterator[ReadyWorkers]:
    """Workers that have read a network; inside the block, collections and coffea's executors use no others.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    predictor : Predictor
        The network.

    Yields
    ------
    ReadyWorkers
        As they are at the beginning; those that start later are made ready in the same way.

    Raises
    ------
    DistributedError
        If there are no workers, if this package is missing on one or is of another version there, or if none can read
        the network; the message says why.

    Examples
    --------
    A processor on workers that are ready, with chunks that suit the network::

        with ready_workers(client, predict) as workers:
            run = processor.Runner(
                processor.DaskExecutor(client=client), chunksize=suggest_chunk_size(predict)
            )
            out = run(fileset, EventScores(predict))
    """
    require_same_package(client)
    resource = f"evenet-hep-{predictor.digest[:12]}"
    client.register_plugin(NetworkPlugin(predictor, resource))
    try:
        states = client.run(_state_of, resource, on_error="ignore")
        workers = ReadyWorkers(resource, {a: s for a, s in states.items() if isinstance(s, WorkerState)})
        if workers.slots == 0:
            reasons = sorted({state.problem for state in workers.states.values()})
            msg = f"none of the {len(states)} workers can use {predictor.checkpoint}: {'; '.join(reasons)}"
            raise DistributedError(msg)
        _wait_for_slots(client, resource)
        with dask.annotate(resources={resource: 1}):  # type: ignore[attr-defined]
            yield workers
    finally:
        if client.status == "running":
            with suppress(OSError):  # the scheduler may be gone, and the plugin with it
                client.unregister_worker_plugin(resource)


def _state_of(resource: str, dask_worker: Worker | None = None) -> WorkerState | None:
    return None if dask_worker is None else _states(dask_worker).get(resource)


def _wait_for_slots(client: Client, resource: str) -> None:
    # The scheduler hears of a resource a moment after the worker offers it.
    for _ in range(100):
        if offered_slots(client, resource):
            return
        time.sleep(0.05)


def offered_slots(client: Client, resource: str) -> int:
    """How much of a resource the workers that take tasks offer, as the scheduler sees it."""
    workers = scheduler_workers(client)
    return sum(
        int(worker["resources"].get(resource, 0))
        for worker in workers.values()
        if worker.get("status", "running") == "running"
    )


def scheduler_workers(client: Client) -> Mapping[str, Mapping[str, Any]]:
    """What the scheduler knows of its workers, by address."""
    try:
        content = client.scheduler_info(n_workers=-1)  # all of them: newer versions show a few by default
    except TypeError:
        content = client.scheduler_info()
    workers: Mapping[str, Mapping[str, Any]] = content["workers"]
    return workers


def require_resources(client: Client, resources: Mapping[str, float]) -> None:
    """Raise unless a worker offers these resources: a task that asks for what nobody has would wait for ever.

    Raises
    ------
    DistributedError
        Naming what was asked for and what there is.
    """
    workers = scheduler_workers(client)
    for worker in workers.values():
        if all(worker["resources"].get(name, 0) >= amount for name, amount in resources.items()):
            return
    offered = sorted(
        {f"{name}={amount:g}" for w in workers.values() for name, amount in w["resources"].items() if amount}
    )
    asked = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
    msg = f"no worker offers {asked}; the {len(workers)} workers offer {', '.join(offered) or 'no resources'}"
    raise DistributedError(msg)


def require_same_package(client: Client) -> None:
    """Raise unless there are workers and all have this version of the package.

    Raises
    ------
    DistributedError
        Naming a worker and what it has.
    """
    if not scheduler_workers(client):
        msg = (
            f"the scheduler {client.scheduler_info()['address']} has no workers; start some, or wait for them"
        )
        raise DistributedError(msg)
    expected = version("evenet-hep")
    # A function of the standard library: a worker without the package could not read one of ours.
    for address, found in client.run(version, "evenet-hep", on_error="return").items():
        if found != expected:
            has = f"evenet_hep {found}" if isinstance(found, str) else "no evenet_hep"
            msg = f"the worker {address} has {has}; install {expected} there, as here"
            raise DistributedError(msg)


def withdraw(resource: str, reason: str) -> None:
    """Called in a task: this worker takes no more tasks of a network, and says why."""
    worker = get_worker()
    state = _states(worker).get(resource)
    if state is not None:
        _states(worker)[resource] = state._replace(slots=0, problem=reason)
    worker.loop.add_callback(worker.set_resources, **{resource: 0})


def suggest_chunk_size(predictor: Predictor, *, seconds: float = 30.0) -> int:
    """Events per chunk: large enough that opening files costs little, small enough that a lost worker costs little.

    Parameters
    ----------
    predictor : Predictor
        The network; its configuration and the size of its weights decide.
    seconds : float
        What a chunk should take, by a rule of thumb: 2 operations per weight and object, ten objects per event, at
        5e10 operations per second on a CPU and 1e13 on a GPU.

    Returns
    -------
    int
        Between 5 000 and 200 000.

    Examples
    --------
    >>> from evenet_hep import Predictor
    >>> suggest_chunk_size(Predictor("demo", device="cpu"))
    200000
    """
    n_weights = (predictor.checkpoint / "model.safetensors").stat().st_size / 4
    rate = 1e13 if predictor.device.startswith("cuda") else 5e10
    events = seconds * rate / (2 * n_weights * 10)
    return int(min(max(events, 5_000), 200_000) // 1000 * 1000)


def worker_problems(client: Client, resource: str) -> dict[str, str]:
    """Why workers cannot use a network, by their address; empty if all can."""
    try:
        states = client.run(_state_of, resource, on_error="ignore")
    except (OSError, ValueError):  # the cluster is going away
        return {}
    return {
        address: state.problem
        for address, state in states.items()
        if isinstance(state, WorkerState) and state.problem
    }
