"""One process of a distributed training: a subprocess of a Dask worker that runs Lightning's DDP.

Run as ``python -m evenet_hep.distributed.rank JOB RESULT``; :mod:`evenet_hep.distributed.fit` does. A process of its own
can be killed, leaves no half-open process group behind in the worker, and may start processes itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]
from lightning.pytorch.strategies import DDPStrategy


class RankJob(NamedTuple):
    """What one process has to do.

    Parameters
    ----------
    launch : str
        Folder with the network to begin with and the events; every process sees it.
    rank, world_size : int
    host, port : str, int
        Where the store of the rendezvous listens.
    backend : {"gloo", "nccl"}
    device : str
        ``"cpu"`` or ``"cuda:1"``.
    timeout : float
        Seconds that one process waits for the others.
    threads : int
        Of torch, on a CPU.
    """

    launch: str
    rank: int
    world_size: int
    host: str
    port: int
    backend: str
    device: str
    timeout: float
    threads: int


class DaskEnvironment(ClusterEnvironment):
    """Tells Lightning that its processes exist already: each is a node with one device.

    Parameters
    ----------
    job : RankJob
        Of this process.
    """

    def __init__(self, job: RankJob) -> None:
        self._job = job

    @property
    def creates_processes_externally(self) -> bool:
        """The Dask workers did."""
        return True

    @property
    def main_address(self) -> str:
        """Host of the store."""
        return self._job.host

    @property
    def main_port(self) -> int:
        """Port of the store."""
        return self._job.port

    @staticmethod
    def detect() -> bool:
        """Never by itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self._job.world_size

    def set_world_size(self, size: int) -> None:
        """Fixed."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self._job.rank

    def set_global_rank(self, rank: int) -> None:
        """Fixed."""

    def local_rank(self) -> int:
        """One device per process, the first."""
        return 0

    def node_rank(self) -> int:
        """Every process counts as a node."""
        return self._job.rank

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise unless Lightning expects as many processes as there are."""
        if num_devices * num_nodes != self._job.world_size:
            msg = f"{num_devices} devices on {num_nodes} nodes are not {self._job.world_size} processes"
            raise ValueError(msg)


def trainer_options(job: RankJob) -> dict[str, Any]:
    """For Lightning's trainer in this process."""
    is_gpu = job.device.startswith("cuda")
    strategy = DDPStrategy(process_group_backend=job.backend, timeout=timedelta(seconds=job.timeout))
    return {
        "accelerator": "gpu" if is_gpu else "cpu",
        "devices": [int(job.device.partition(":")[2] or 0)] if is_gpu else 1,
        "num_nodes": job.world_size,
        "plugins": [DaskEnvironment(job)],
        "strategy": strategy,
    }


def train(job: RankJob) -> dict[str, Any]:
    """Run the training, and give its history: the weights are in the folder of the run."""
    from evenet_hep.distributed.norms import share_norms  # noqa: PLC0415
    from evenet_hep.events.training_set import TrainingSet  # noqa: PLC0415
    from evenet_hep.model.evenet import EveNet  # noqa: PLC0415
    from evenet_hep.training.dataset import as_splits  # noqa: PLC0415
    from evenet_hep.training.run import fit  # noqa: PLC0415

    launch = Path(job.launch)
    settings = cloudpickle.loads((launch / "settings.pkl").read_bytes())  # our own, written by the client
    train, val = settings["events"]
    train = TrainingSet.open(train) if isinstance(train, str) else train
    network = EveNet.from_pretrained(launch / "network")
    share_norms(network)
    history = fit(
        network,
        *as_splits(train, val),
        settings["config"],
        settings["folder"],
        resume=True,  # the client has looked whether that is wanted
        trainer_options=trainer_options(job),
    )
    return {"epochs": [dict(row) for row in history.epochs], "monitor": history.monitor}


def _end_with(parent: int) -> None:
    """Leave when the worker that started this process is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(71)


def main() -> None:
    """Read the job, train, write the result."""
    job: RankJob = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ |= {
        "MASTER_ADDR": job.host,
        "MASTER_PORT": str(job.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store listens already: rank 0 must not open it again
    }
    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    try:
        result: tuple[str, Any] = ("done", train(job))
    except Exception as error:  # noqa: BLE001  the client says it
        traceback.print_exc()
        result = ("failed", f"{type(error).__name__}: {error}")
    if torch.distributed.is_initialized() and result[0] == "done":
        torch.distributed.destroy_process_group()
    Path(sys.argv[2]).write_bytes(cloudpickle.dumps(result))
    sys.stdout.flush()
    os._exit(0 if result[0] == "done" else 1)  # a process group with a dead member would wait for it


if __name__ == "__main__":
    main()
