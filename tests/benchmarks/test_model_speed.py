"""Events per second of the published 20M network, ours and the reference's, alternating in one run."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.published import import_published
from evenet_hep.schema import EventSchema

BATCH = int(os.environ.get("EVENET_BENCHMARK_BATCH", "1024"))
THREADS = int(os.environ.get("EVENET_BENCHMARK_THREADS", "2"))
ROUNDS = int(os.environ.get("EVENET_BENCHMARK_ROUNDS", "3"))

HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

Case = Callable[[], object]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def parity() -> ModuleType:
    """The parity tests, which know how to put the reference together."""
    path = Path(__file__).parents[1] / "integration" / "test_model_parity.py"
    spec = importlib.util.spec_from_file_location("model_parity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def multiplicities(number: int) -> Tensor:
    """Objects per event as in the pretraining sample, 6.1 +- 2.85."""
    counts = 6.1 + 2.85 * torch.randn(number, generator=torch.Generator().manual_seed(0))
    return counts.round().clamp(1, 18).long()


def networks(tools: ModuleType, folder: Path) -> tuple[nn.Module | None, EveNet]:
    """The reference, where there is one, and ours with the same weights of order one."""
    schema = EventSchema.published()
    if not (tools.REFERENCE / "evenet").is_dir():
        return None, EveNet(EveNetConfig.published(), schema).eval()
    sys.path.insert(0, str(tools.REFERENCE))
    reference: nn.Module = tools.Reference(schema, width=256, layers=16, local_layers=10, heads=8).eval()
    tools.randomise(reference, gain=1.0, seed=0)
    torch.save({"state_dict": reference.state_dict()}, folder / "random.ckpt")
    return reference, import_published(folder / "random.ckpt").model


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of large products of matrices, by the faster of two libraries."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    cases: dict[str, Case] = {"PyTorch": lambda: a @ b}
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(b, len(a))
        cases["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")
    with torch.inference_mode():
        return 2 * 2048**3 / min(medians(cases, 9).values())


def medians(cases: dict[str, Case], rounds: int) -> dict[str, float]:
    """Median seconds of each case; cases take turns, so that all see the same machine.

    One thread is measured by the time it had, not by the clock: other work on the machine counts less.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, run in cases.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first one warms up


def linear_operations(x: list[int], weight: list[int], *_: object, **__: object) -> int:
    """Of oneDNN's linear layer, which PyTorch does not count."""
    return 2 * math.prod(x) * weight[0]


COUNTED = {torch.ops.mkldnn._linear_pointwise: linear_operations}


def count_operations(run: Case) -> int:
    """Of all products of matrices. The counter sees its own thread alone, so that there may be no other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        run()
    torch.set_num_threads(before)
    total: int = counter.get_total_flops()
    return total


def report(cases: dict[str, Case]) -> None:
    """Print events per second, and how many operations they take at which part of the matrix rate.

    Counted are products of matrices; attention in compiled kernels, less than a hundredth of them, is not.
    """
    has_bfloat16 = any("bf16" in name for name in cases)
    rates = {kind: matrix_rate(kind) for kind in (torch.float32, *([torch.bfloat16] if has_bfloat16 else []))}
    operations = {name: count_operations(run) for name, run in cases.items()}
    seconds = medians(cases, ROUNDS)
    first = next(iter(seconds.values()))
    print(f"\n{THREADS} threads")
    for kind, rate in rates.items():
        print(f"matrix rate {rate / 1e9:.0f} GFLOP/s in {str(kind).removeprefix('torch.')}")
    for name, value in seconds.items():
        rate = rates[torch.float32]
        print(
            f"{name:24s} {BATCH / value:7.0f} events/s {first / value:6.2f} times"
            f" {operations[name] / BATCH / 1e6:8.0f} MFLOP/event {operations[name] / value / rate:6.2f} of the rate in float32"
        )


@pytest.mark.benchmark
def test_inference_speed(tmp_path: Path) -> None:
    tools = parity()
    reference, model = networks(tools, tmp_path)
    schema = model.schema
    objects, mask, event_features = tools.events(multiplicities(BATCH), seed=0)
    cases: dict[str, Case] = {}
    if reference is not None:
        x, y = tools.logged(objects, schema.objects), tools.logged(event_features, schema.event_features)
        cases["reference"] = lambda: reference(x, mask, y)
    cases["ours"] = lambda: model(objects, mask, event_features)

    def with_bf16() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(objects, mask, event_features)

    if HAS_BFLOAT16:
        cases["ours, bf16"] = with_bf16
    with torch.inference_mode():
        report(cases)


@pytest.mark.benchmark
def test_training_speed(tmp_path: Path) -> None:
    tools = parity()
    reference, model = networks(tools, tmp_path)
    schema = model.schema
    objects, mask, event_features = tools.events(multiplicities(BATCH), seed=0)
    labels = torch.randint(len(schema.classes), (BATCH,), generator=torch.Generator().manual_seed(1))

    def training_step(network: nn.Module, logits: Callable[[], Tensor], *, half: bool = False) -> Case:
        optimiser = torch.optim.AdamW(network.train().parameters(), lr=1e-5)

        def run() -> None:
            optimiser.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                found = logits()
            F.cross_entropy(found, labels).backward()
            optimiser.step()

        return run

    cases: dict[str, Case] = {}
    if reference is not None:
        x, y = tools.logged(objects, schema.objects), tools.logged(event_features, schema.event_features)
        cases["reference"] = training_step(reference, lambda: reference(x, mask, y))

    def ours() -> Tensor:
        found: Tensor = model(objects, mask, event_features)["classification"]
        return found

    cases["ours"] = training_step(model, ours)
    if HAS_BFLOAT16:
        cases["ours, bf16"] = training_step(model, ours, half=True)
    report(cases)
