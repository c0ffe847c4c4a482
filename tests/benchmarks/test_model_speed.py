"""Events per second of the published 20M network, ours and the reference's, alternating in one run."""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.published import import_published
from evenet_hep.schema import EventSchema

BATCH = int(os.environ.get("EVENET_BENCHMARK_BATCH", "512"))
ROUNDS = 3


def parity() -> ModuleType:
    """The parity tests, which know how to put the reference together."""
    path = Path(__file__).parents[1] / "integration" / "test_model_parity.py"
    spec = importlib.util.spec_from_file_location("model_parity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def multiplicities(number: int) -> torch.Tensor:
    """Objects per event as in the pretraining sample, 6.1 +- 2.85, sorted."""
    generator = torch.Generator().manual_seed(0)
    counts = 6.1 + 2.85 * torch.randn(number, generator=generator)
    return counts.round().clamp(1, 18).long().sort().values


def medians(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each case on one thread; cases take turns, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, run in cases.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first one warms up


@pytest.mark.benchmark
def test_inference_speed(tmp_path: Path) -> None:
    tools = parity()
    counts = multiplicities(BATCH)
    objects, mask, event_features = tools.events(counts, seed=0)
    schema = EventSchema.published()
    cases: dict[str, Callable[[], object]] = {}
    if (tools.REFERENCE / "evenet").is_dir():
        sys.path.insert(0, str(tools.REFERENCE))
        reference = tools.Reference(schema, width=256, layers=16, local_layers=10, heads=8).eval()
        tools.randomise(reference, gain=1.0, seed=0)
        torch.save({"state_dict": reference.state_dict()}, tmp_path / "random.ckpt")
        model = import_published(tmp_path / "random.ckpt").model
        x, y = tools.logged(objects, schema.objects), tools.logged(event_features, schema.event_features)
        cases["reference, 18 slots"] = lambda: reference(x, mask, y)
    else:
        model = EveNet(EveNetConfig.published(), schema).eval()

    def in_pieces(size: int, *, trim: bool) -> None:
        for i in range(0, BATCH, size):
            slots = int(counts[i : i + size].max()) if trim else 18
            model(objects[i : i + size, :slots], mask[i : i + size, :slots], event_features[i : i + size])

    cases["ours, 18 slots"] = lambda: in_pieces(BATCH, trim=False)
    for size in (32, 64, 128):
        cases[f"ours, trimmed pieces of {size}"] = lambda size=size: in_pieces(size, trim=True)  # type: ignore[misc]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        seconds = medians(cases, ROUNDS)
    torch.set_num_threads(threads)
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:28s} {BATCH / value:7.0f} events/s   {first / value:5.2f}")
