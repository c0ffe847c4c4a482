"""What bfloat16 does to a trained network of the published width."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from evenet_hep import EveNet
from evenet_hep.model.decoding import DecodedEvents, decode_assignment
from evenet_hep.model.evenet import EveNetConfig, EventEmbeddingConfig
from evenet_hep.model.half import HAS_BFLOAT16
from evenet_hep.model.pet import PETConfig
from evenet_hep.topology import Topology
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import LossWeights
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import finetune

PROCESS = "TT1L"


def outputs(model: EveNet, batch: TensorBatch) -> tuple[torch.Tensor, DecodedEvents]:
    """Class probabilities and the best resonances of each event."""
    assert model.classification is not None
    assert model.assignment is not None
    mask, topology = batch.mask, model.assignment.config.topology
    encoded = model.encode(batch.objects, mask, batch.event_features)
    logits = model.classification(encoded.objects, mask, encoded.event)
    scores = model.assignment(encoded, mask, model.has_condition(mask), topology.process(PROCESS).kinds)
    return logits.float().softmax(dim=1), decode_assignment(scores, mask, PROCESS, topology)


NO_BFLOAT16 = pytest.mark.skipif(
    not HAS_BFLOAT16, reason="this processor does not multiply matrices of bfloat16"
)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=NO_BFLOAT16), pytest.param("cuda", marks=NO_GPU)]
)
def test_probabilities_and_assignments(
    device: str,
    make_events: Callable[..., ArrayEvents],
    make_settings: Callable[..., Any],
    topology: Topology,
) -> None:
    """No class probability changes by more than 0.01, and no assignment in more than 0.5 % of the events."""
    events, config = (
        make_events(6000),
        EveNetConfig(
            width=256,
            event_embedding=EventEmbeddingConfig(widths=(16, 64, 256)),
            pet=PETConfig(layers=4, heads=16, local_layers=2),
        ),
    )
    config = with_heads(config, ("classification", "assignment"), topology=topology)
    torch.manual_seed(1)
    model = EveNet(config, events.schema)
    losses = LossWeights.only("classification", "assignment", "detection")
    settings = dataclasses.replace(make_settings(losses, 3), lr=5e-4, schedule="cosine")
    finetune(model, events, config=settings)  # on a GPU if there is one
    model.to(device)
    changed, moved, right, n_events, n_complete = 0, 0.0, 0, 0, 0
    with torch.no_grad():
        for arrays in make_events(8000, seed=2).batches(500, shuffle=False):
            batch = TensorBatch.of(arrays).to(device)
            exact, mine = outputs(model, batch)
            with torch.autocast(device, dtype=torch.bfloat16):
                rounded, theirs = outputs(model, batch)
            moved = max(moved, float((rounded - exact).abs().max()))
            changed += int((mine.indices != theirs.indices).flatten(1).any(dim=1).sum())
            n_events += len(mine.indices)
            complete = batch.process == 0
            n_complete += int(complete.sum())
            right += int((mine.indices == batch.indices).flatten(1).all(dim=1)[complete].sum())
    print(
        f"\nof {n_events} events {changed} assignments changed, probabilities by up to {moved:.1e}; right: "
        f"{right / n_complete:.3f}"
    )
    assert right > 0.1 * n_complete  # of 630 and more ways: it has learnt something
    assert 0 < moved < 0.01  # it was rounded
    assert changed < 0.005 * n_events


@NO_GPU
@pytest.mark.parametrize("precision", ["single", "bf16"])
def test_fine_tuning_takes_the_gpu(
    precision: str,
    make_events: Callable[..., ArrayEvents],
    make_settings: Callable[..., Any],
    topology: Topology,
) -> None:
    events = make_events(512)
    torch.manual_seed(1)
    config = with_heads(EveNetConfig.tiny(), ("classification", "assignment"), topology=topology)
    losses = LossWeights.only("classification", "assignment", "detection")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    settings = dataclasses.replace(make_settings(losses, 2), precision=precision)
    history = finetune(EveNet(config, events.schema), events, config=settings)
    assert torch.cuda.max_memory_allocated() > before + 2**20
    assert history.train_loss[-1] < history.train_loss[0]
