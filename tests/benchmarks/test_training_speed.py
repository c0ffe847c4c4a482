"""Events per second in training, and what of the time is spent outside the network."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import LossWeights, Stage, TrainingConfig
from evenet_hep.training.curriculum import plan_at
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.losses import Losses
from evenet_hep.training.optim import make_optimizer
from evenet_hep.training.run import fit

SCHEMA = EventSchema.standard(classes=("signal", "background"))


def random_events(n: int) -> ArrayEvents:
    """Events of 6.1 objects on average, as in the published sample."""
    rng = np.random.default_rng(1)
    counts = np.clip(rng.normal(6.1, 2.85, n).round(), 1, 18).astype(int)
    mask = np.arange(18) < counts[:, None]
    objects = (rng.exponential(1, (n, 18, 7)) * mask[..., None]).astype(np.float32)
    cloud = EventCloud.from_arrays(objects, mask, rng.exponential(1, (n, 10)).astype(np.float32), SCHEMA)
    return ArrayEvents(cloud, rng.integers(0, 2, n))


def bare_seconds(size: str, batches: list[TensorBatch], config: TrainingConfig) -> float:
    """Processor time of forward, backward and optimiser alone."""
    model = EveNet(EveNetConfig.of_size(size), SCHEMA).train()
    losses, optimizer = Losses(model, None), make_optimizer(model, config)
    plan = plan_at(config.stages, 0.5)
    start = time.process_time()
    for batch in batches:
        optimizer.zero_grad()
        torch.stack(list(losses(model, batch, plan).losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - start


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("size", "batch_size", "steps"), [("tiny", 256, 20), ("small", 256, 6), ("20M", 128, 3), ("100M", 64, 3)]
)
def test_training_speed(size: str, batch_size: int, steps: int) -> None:
    events = random_events(batch_size * steps)
    stages = (Stage(losses=LossWeights.only("classification")),)
    config = TrainingConfig(epochs=1, batch_size=batch_size, warmup=0, stages=stages, class_balance="none")
    batches = [TensorBatch.of(batch) for batch in events.batches(batch_size, seed=config.seed)]
    bare_seconds(size, batches[:1], config)
    fit(
        EveNet(EveNetConfig.of_size(size), SCHEMA),
        events.select(np.arange(2 * batch_size) % len(events)),
        None,
        config,
    )
    bare = bare_seconds(size, batches, config)
    model = EveNet(EveNetConfig.of_size(size), SCHEMA)
    start = time.process_time()
    fit(model, events, None, config)
    whole = time.process_time() - start
    fixed = time.process_time()
    fit(model, events.select(np.arange(batch_size)), None, config)
    fixed = time.process_time() - fixed
    per_step = (whole - fixed) / max(steps - 1, 1)
    share = 1 - bare / steps / per_step if steps > 1 else float("nan")
    print(
        f"\n{size}: {batch_size * steps / bare:.0f} events per second of processor time, one step {bare / steps:.2f} s; "
        f"outside the network {100 * share:.1f} %"
    )
