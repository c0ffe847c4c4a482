"""Training on the workers of a Dask cluster: Lightning's DDP, one subprocess per worker."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
from distributed import Client, Event, Future, MultiLock, get_worker
from distributed.comm import get_address_host  # type: ignore[attr-defined]

from evenet_hep.distributed.workers import (
    require_resources,
    require_same_package,
    scheduler_workers,
    take_gpu,
)
from evenet_hep.errors import DistributedError

if TYPE_CHECKING:
    from evenet_hep.distributed.rank import RankJob
    from evenet_hep.model.evenet import EveNet, EveNetConfig
    from evenet_hep.training.config import TrainingConfig
    from evenet_hep.training.history import History

_PIN: dict[str, Any] = {"allow_other_workers": False, "pure": False, "retries": 0}


def fit(
    client: Client,
    network: EveNet | EveNetConfig,
    train: Any,
    val: Any = None,
    *,
    config: TrainingConfig,
    folder: str | Path,
    workers: Sequence[str] | int | None = None,
    resources: Mapping[str, float] | None = None,
    resume: bool = False,
    timeout: float = 300.0,
    deadline: float | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[EveNet, History]:
    """Train a network on several workers at once.

    Every worker runs one process; each takes its share of the batches, and the gradients are averaged. On workers with
    GPUs every process takes one and talks through NCCL; on others through gloo.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. Switch adaptive scaling off: a worker that is taken away ends the training.
    network : EveNet or EveNetConfig
        The network to go on with, which is left as it is, or the sizes of a new one.
    train : path, TrainingSet or Events
        A training set on disk, best given by its folder, which all workers must see; or events in memory, which are
        written to disk for them.
    val : Events, optional
        Validation events; a training set brings its own.
    config : TrainingConfig
        Settings of the run: its ``batch_size`` counts per process. The learning rate is scaled with the number of
        processes if ``scale_with_workers`` says so.
    folder : str or Path
        Of the run, on a disk that all workers and this process share.
    workers : int or sequence of str, optional
        How many workers, or their addresses; all by default.
    resources : mapping of str to float, optional
        What each worker must offer, as ``{"GPU": 1}``.
    resume : bool
        Go on from the last checkpoint in ``folder``.
    timeout : float
        Seconds that the processes wait for each other.
    deadline : float, optional
        Seconds after which the training is ended.
    log : callable, optional
        Called with every line that a process prints, with its number in front.

    Returns
    -------
    EveNet, History
        The trained network in eval mode, and the course of the run.

    Raises
    ------
    DistributedError
        If a worker or a process dies, or the deadline has passed. The last checkpoint is kept: call again with
        ``resume=True``, with as many workers as before.
    ConfigError, TrainingError, InputError
        As :func:`evenet_hep.training.run.finetune`, for settings, folder and events.
    """
    from evenet_hep.model.evenet import EveNet  # noqa: PLC0415  torch and lightning
    from evenet_hep.training.run import prepare  # noqa: PLC0415

    require_same_package(client)
    if resources:
        require_resources(client, resources)
    chosen = _choose_workers(client, workers)
    home = Path(folder).absolute()
    prepare(home, config, resume)
    with _launch_folder(home) as launch:
        _write_inputs(launch, network, (train, val), config, home)
        _require_folder(client, launch, chosen)
        # No two trainings in one worker, and no half of each in two.
        with MultiLock(names=[f"evenet-hep-fit {address}" for address in chosen], client=client):
            history = _Training(client, chosen, resources, launch, timeout, deadline, log).run()
    best = home / ("best" if config.keep == "best" and (home / "best").is_dir() else "last")
    return EveNet.from_pretrained(best), history


def _choose_workers(client: Client, workers: Sequence[str] | int | None) -> list[str]:
    known = sorted(scheduler_workers(client))
    if isinstance(workers, int):
        if not 1 <= workers <= len(known):
            msg = f"workers must be from 1 to {len(known)}, the number of workers there are; found {workers}"
            raise DistributedError(msg)
        return known[:workers]
    chosen = known if workers is None else list(workers)
    if unknown := sorted(set(chosen) - set(known)):
        msg = f"the cluster has no worker {unknown[0]}; it has {', '.join(known)}"
        raise DistributedError(msg)
    return chosen


@contextlib.contextmanager
def _launch_folder(home: Path) -> Iterator[Path]:
    """A folder beside that of the run, for what the processes begin with."""
    home.parent.mkdir(parents=True, exist_ok=True)
    launch = home.with_name(f".{home.name}-launch-{uuid.uuid4().hex[:8]}")
    launch.mkdir()
    try:
        yield launch
    finally:
        shutil.rmtree(launch, ignore_errors=True)


def _write_inputs(
    launch: Path, network: Any, events: tuple[Any, Any], config: TrainingConfig, home: Path
) -> None:
    import torch  # noqa: PLC0415

    from evenet_hep.events.training_set import TrainingSet  # noqa: PLC0415
    from evenet_hep.model.evenet import EveNet  # noqa: PLC0415
    from evenet_hep.training.dataset import as_splits  # noqa: PLC0415

    train, val = events
    is_path = isinstance(train, (str, Path))
    known = as_splits(TrainingSet.open(train) if is_path else train, val)[0]
    if not isinstance(network, EveNet):
        torch.manual_seed(config.seed)
        network = EveNet(network, known.schema)
    network.save_pretrained(launch / "network")
    places = (str(Path(train).absolute()) if is_path else train, val)
    settings = {"events": places, "config": config, "folder": str(home)}
    (launch / "settings.pkl").write_bytes(cloudpickle.dumps(settings))


def _require_folder(client: Client, launch: Path, chosen: Sequence[str]) -> None:
    for address, sees in client.run(os.path.isdir, str(launch), workers=list(chosen)).items():
        if not sees:
            msg = f"the worker {address} does not see {launch.parent}; give a folder that all workers share"
            raise DistributedError(msg)


class _Training:
    """The processes of one training, watched from the client."""

    def __init__(
        self,
        client: Client,
        workers: Sequence[str],
        resources: Mapping[str, float] | None,
        launch: Path,
        timeout: float,
        deadline: float | None,
        log: Callable[[str], None] | None,
    ) -> None:
        self.client, self.workers, self.launch = client, list(workers), launch
        self.resources = dict(resources) if resources else None
        self.timeout, self.deadline, self.log = timeout, deadline, log
        self.name = f"evenet-hep-fit-{uuid.uuid4().hex[:10]}"

    def run(self) -> History:
        from evenet_hep.training.history import History  # noqa: PLC0415

        self.client.subscribe_topic(self.name, self._hear)
        abort = Event(f"{self.name}-abort", client=self.client)
        futures: list[Future] = []
        try:
            host, port, devices = self._rendezvous()
            for rank, address in enumerate(self.workers):
                future = self.client.submit(
                    _run_rank,
                    (str(self.launch), rank, len(self.workers), host, port),
                    ("nccl" if devices else "gloo", bool(devices), self.timeout),
                    self.name,
                    workers=[address],
                    resources=self.resources,
                    key=f"{self.name}-{rank}",
                    **_PIN,
                )
                futures.append(future)
            results = self._wait(futures)
        except BaseException:
            if self.client.status == "running":
                abort.set()
            raise
        finally:
            for future in futures:
                future.cancel(force=True)
            self._close()
        return History(tuple(results[0]["epochs"]), results[0]["monitor"])

    def _rendezvous(self) -> tuple[str, int, bool]:
        """Open the store on the first worker, where the port is free because it listens; and see who has GPUs."""
        first = self.client.submit(_open_store, self.name, self.timeout, workers=self.workers[:1], **_PIN)
        host, port = first.result(timeout=self.timeout)
        has_gpu = self.client.run(_has_gpu, workers=self.workers)
        if any(has_gpu.values()) and not all(has_gpu.values()):
            without = next(address for address, found in has_gpu.items() if not found)
            msg = f"some workers have a GPU, {without} has none; choose workers of one kind"
            raise DistributedError(msg)
        return host, port, all(has_gpu.values())

    def _wait(self, futures: list[Future]) -> list[dict[str, Any]]:
        begin = time.monotonic()
        while not all(future.status == "finished" for future in futures):
            for rank, future in enumerate(futures):
                if future.status == "error":
                    raise self._failure(futures, rank)
                if future.status in ("cancelled", "lost"):
                    msg = "the connection to the scheduler was lost; call again with resume=True"
                    raise DistributedError(msg)
            self._require_workers()
            if self.deadline is not None and time.monotonic() - begin > self.deadline:
                msg = (
                    f"the training took longer than {self.deadline:.0f} s and was ended; resume=True goes on"
                )
                raise DistributedError(msg)
            time.sleep(0.2)
        return [future.result(timeout=self.timeout) for future in futures]

    def _failure(self, futures: list[Future], rank: int) -> DistributedError:
        """The first cause: a process that lost its partner says no more than that."""
        time.sleep(2.0)
        self._require_workers()
        reasons = {i: str(f.exception()) for i, f in enumerate(futures) if f.status == "error"}
        echoes = ("Connection reset", "Connection closed", "Broken pipe", "timed out", "Timed out")
        own = [i for i, reason in reasons.items() if not any(echo in reason for echo in echoes)]
        cause = own[0] if own else rank
        msg = f"{reasons[cause]}; the last checkpoint is kept, resume=True goes on from there"
        return DistributedError(msg)

    def _require_workers(self) -> None:
        if self.client.status != "running":
            msg = "the connection to the scheduler was lost; call again with resume=True"
            raise DistributedError(msg)
        if gone := sorted(set(self.workers) - set(scheduler_workers(self.client))):
            msg = f"the worker {gone[0]} died; the last checkpoint is kept, resume=True goes on from there"
            raise DistributedError(msg)

    def _hear(self, event: Any) -> None:
        if self.log is not None:
            for line in event[1]:
                self.log(line)

    def _close(self) -> None:
        if self.client.status == "running":
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.client.unsubscribe_topic(self.name)
            alive = [address for address in self.workers[:1] if address in scheduler_workers(self.client)]
            if alive:
                self.client.run(_close_store, self.name, workers=alive, on_error="ignore")


def _open_store(name: str, timeout: float) -> tuple[str, int]:
    import torch.distributed  # noqa: PLC0415

    worker = get_worker()
    # The address by which the scheduler and the other workers know this one: host names may lie.
    host = get_address_host(worker.address)
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout)
    )
    vars(worker).setdefault("_evenet_hep_stores", {})[name] = store
    return host, store.port


def _close_store(name: str, dask_worker: Any = None) -> None:
    vars(dask_worker).get("_evenet_hep_stores", {}).pop(name, None)


def _has_gpu() -> bool:
    import torch  # noqa: PLC0415

    return bool(torch.cuda.is_available())


def _run_rank(
    place: tuple[str, int, int, str, int], how: tuple[str, bool, float], name: str
) -> dict[str, Any]:
    """In a task: start the process, pass its lines on, and end it when the client says so."""
    from evenet_hep.distributed.rank import RankJob  # noqa: PLC0415

    worker = get_worker()
    backend, is_gpu, timeout = how
    device = take_gpu() if is_gpu else "cpu"
    job: RankJob = RankJob(*place, backend, device, timeout, worker.state.nthreads)
    abort = Event(f"{name}-abort")
    with tempfile.TemporaryDirectory() as folder:
        order, result, log = (Path(folder) / part for part in ("job", "result", "log"))
        order.write_bytes(cloudpickle.dumps(job))
        words = [sys.executable, "-u", "-m", "evenet_hep.distributed.rank", str(order), str(result)]
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603  our own module
                words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=_environment(worker.address, job)
            )
        passed = 0
        try:
            while process.poll() is None:
                if abort.wait(timeout="300ms"):
                    msg = f"process {job.rank} was ended by the client"
                    raise DistributedError(msg)
                passed = _pass_lines(worker, name, job.rank, log, passed)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            _pass_lines(worker, name, job.rank, log, passed)
        return _read_result(result, process.returncode, job.rank, log)


def _environment(address: str, job: RankJob) -> dict[str, str]:
    """Of the process: as of the worker, with its threads, and the network card that its address belongs to."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    card = interface_of(get_address_host(address))
    if card:
        # A host name may stand for a card that the others cannot reach.
        environment.setdefault("GLOO_SOCKET_IFNAME", card)
        environment.setdefault("NCCL_SOCKET_IFNAME", card)
    paths = [path for path in sys.path if path]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}


def interface_of(host: str) -> str:
    """Name of the network card with an address; empty if there is none.

    Examples
    --------
    >>> interface_of("127.0.0.1")
    'lo'
    >>> interface_of("203.0.113.77")
    ''
    """
    import psutil  # noqa: PLC0415  comes with distributed

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return str(name)
    return ""


def _pass_lines(worker: Any, name: str, rank: int, log: Path, passed: int) -> int:
    """Send whole lines that have come since the last time to the client."""
    with log.open("rb") as file:
        file.seek(passed)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    if whole:
        lines = [f"[{rank}] {line}" for line in whole.decode(errors="replace").splitlines()]
        worker.log_event(name, lines)
    return passed + len(whole)


def _read_result(result: Path, code: int | None, rank: int, log: Path) -> dict[str, Any]:
    if not result.exists():
        last = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
        msg = f"process {rank} died with code {code}{': ' + last if last else ''}"
        raise DistributedError(msg)
    status, content = cloudpickle.loads(result.read_bytes())
    if status != "done":
        msg = f"process {rank}: {content}"
        raise DistributedError(msg)
    found: dict[str, Any] = content
    return found
