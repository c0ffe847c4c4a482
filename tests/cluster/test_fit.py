"""Training on worker processes: the loss curve of one process with twice the batch, and what happens when one dies."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
import torch
from distributed import Client

pytest.importorskip("lightning")

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema
from evenet_hep.distributed import fit
from evenet_hep.errors import DistributedError
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.training.config import LossWeights, Stage, TrainingConfig
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.run import fit as fit_here

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class InOrder(ArrayEvents):
    """The events of a batch of all processes together do not depend on how many they are."""

    def batches(self, batch_size: int, **options: Any) -> Iterator[Any]:
        world, rank = options.get("world_size", 1), options.get("rank", 0)
        together = batch_size * world
        for i, first in enumerate(range(0, len(self), together)):
            if i >= options.get("start", 0):
                begin = first + rank * batch_size
                yield self._take(np.arange(begin, min(begin + batch_size, len(self))))


def events(n: int = 256, *, pause: float = 0.0) -> ArrayEvents:
    schema = EventSchema.standard(classes=("signal", "background"))
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, n)
    mask = np.arange(schema.capacity) < rng.integers(2, 6, n)[:, None]
    objects = rng.normal(size=(n, schema.capacity, len(schema.objects))).astype(np.float32)
    objects[..., schema.object_names.index("pt")] = (
        30 + 40 * rng.random((n, schema.capacity)) + 20 * label[:, None]
    )
    objects[..., schema.object_names.index("energy")] = 100
    objects = np.where(mask[..., None], objects, 0).astype(np.float32)
    features = np.abs(rng.normal(size=(n, len(schema.event_features)))).astype(np.float32)
    cloud = EventCloud.from_arrays(objects, mask, features, schema)
    return (InOrder if not pause else slow_events(pause))(cloud, label)


def slow_events(pause: float) -> type[ArrayEvents]:
    class Slow(InOrder):
        def batches(self, batch_size: int, **options: Any) -> Iterator[Any]:
            for batch in super().batches(batch_size, **options):
                time.sleep(pause)
                yield batch

    return Slow


def network_config() -> EveNetConfig:
    tiny = EveNetConfig.tiny()
    plain = {
        name: dataclasses.replace(
            getattr(tiny, name),
            **{
                f.name: 0.0
                for f in dataclasses.fields(getattr(tiny, name))
                if f.name in ("dropout", "drop_path", "feature_drop")
            },
        )
        for name in ("event_embedding", "pet", "object_encoder", "classification")
    }
    assert isinstance(plain["classification"], ClassificationConfig)
    return dataclasses.replace(tiny, **plain)


def settings(batch_size: int, **changes: Any) -> TrainingConfig:
    options: dict[str, Any] = {
        "epochs": 3,
        "batch_size": batch_size,
        "lr": 1e-3,
        "warmup": 0.0,
        "scale_with_workers": False,
        "class_balance": "none",
        "feature_drop": 0.0,
        "keep": "last",
        "stages": (Stage(losses=LossWeights.only("classification")),),
    }
    return TrainingConfig(**(options | changes))


def test_two_workers_give_the_loss_curve_of_one_with_twice_the_batch(client: Client, tmp_path: Path) -> None:
    data = events()
    folder = tmp_path / "two"
    _, history = fit(client, network_config(), data, config=settings(32), folder=folder, log=print)
    torch.manual_seed(1)
    alone = EveNet(network_config(), data.schema)
    expected = fit_here(alone, data, None, settings(64), tmp_path / "one")
    assert len(history.train_loss) == 3
    np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-4)
    assert history.train_loss[-1] < history.train_loss[0]
    assert not list(tmp_path.glob(".*launch*"))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def children(pid: int) -> list[psutil.Process]:
    return [
        p for p in psutil.Process(pid).children() if "evenet_hep.distributed.rank" in " ".join(p.cmdline())
    ]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_training_and_it_resumes(client: Client, tmp_path: Path) -> None:
    data, config = events(pause=0.05), settings(16, epochs=4)
    workers = client.run(os.getpid)
    stop = threading.Event()

    def kill() -> None:
        while not (tmp_path / "run/resume.ckpt").exists() and not stop.wait(0.05):
            pass
        os.kill(children(list(workers.values())[1])[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(
            DistributedError, match=r"process . died with code -9.*resume=True goes on from there"
        ):
            fit(client, network_config(), data, config=config, folder=tmp_path / "run")
    finally:
        stop.set()
        killer.join()
    assert client.run(os.getpid) == workers  # the workers live, and nothing of theirs is left
    deadline = time.monotonic() + 20
    while any(children(pid) for pid in workers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    _, history = fit(client, network_config(), data, config=config, folder=tmp_path / "run", resume=True)
    _, whole = fit(client, network_config(), data, config=config, folder=tmp_path / "whole")
    assert [row["epoch"] for row in history.epochs] == [0, 1, 2, 3]
    np.testing.assert_allclose(history.train_loss, whole.train_loss, rtol=1e-6)


@pytest.mark.slow
def test_a_deadline_and_wrong_requests(client: Client, tmp_path: Path) -> None:
    data = events(pause=0.2)
    with pytest.raises(DistributedError, match="longer than 15 s"):
        fit(client, network_config(), data, config=settings(4), folder=tmp_path / "run", deadline=15)
    with pytest.raises(DistributedError, match="no worker offers GPU=1; the 2 workers offer no resources"):
        fit(client, network_config(), data, config=settings(4), folder=tmp_path / "a", resources={"GPU": 1})
    with pytest.raises(DistributedError, match="workers must be from 1 to 2"):
        fit(client, network_config(), data, config=settings(4), folder=tmp_path / "a", workers=3)
    with pytest.raises(DistributedError, match="no worker tcp://nowhere"):
        fit(
            client,
            network_config(),
            data,
            config=settings(4),
            folder=tmp_path / "a",
            workers=["tcp://nowhere:1"],
        )
