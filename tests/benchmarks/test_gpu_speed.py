"""Events per second of the published 20M network on a GPU, ours and the reference's, alternating in one run."""

from __future__ import annotations

import importlib.util
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
ROUNDS = int(os.environ.get("EVENET_BENCHMARK_ROUNDS", "5"))
Case = Callable[[], object]


def sibling(name: str) -> ModuleType:
    """Another file of benchmarks, which knows how to put networks and events together."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def medians(cases: dict[str, Case]) -> dict[str, float]:
    """Median seconds of each case by events of the device; cases take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS + 2):  # the first two warm up
        for name, run in cases.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large product of matrices."""
    a, b = (torch.randn(8192, 8192, dtype=dtype, device="cuda") for _ in range(2))
    return 2 * 8192**3 / medians({"product": lambda: a @ b})["product"]


def report(cases: dict[str, Case], events: int) -> None:
    seconds = medians(cases)
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:26s} batch {events:6d} {events / value:9.0f} events/s {first / value:6.2f} times")


def autocast(run: Case, matmul: str, half: bool) -> Case:
    """The same with another arithmetic of matrices."""

    def changed() -> None:
        torch.set_float32_matmul_precision(matmul)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
            run()

    return changed


def to_gpu(network: nn.Module) -> nn.Module:
    """The network there, with tensors that are no buffers."""
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(module, name, value.cuda())
    return network.cuda()


def on_the_gpu(run: Case) -> Case:
    """The same with tensors that are made on the way on the GPU: those of the reference's inputs are."""

    def changed() -> None:
        with torch.device("cuda"):
            run()

    return changed


ARITHMETIC = {"fp32": ("highest", False), "tf32": ("high", False), "bf16": ("high", True)}


@pytest.mark.parametrize("batch", [1024, 8192])
def test_inference(batch: int, tmp_path: Path) -> None:
    base = sibling("test_model_speed")
    tools = base.parity()
    reference, model = base.networks(tools, tmp_path)
    objects, mask, features = (x.cuda() for x in tools.events(base.multiplicities(batch), seed=0))
    model = model.cuda()
    runs: dict[str, Case] = {}
    if reference is not None:
        reference = to_gpu(reference)
        x = tools.logged(objects.cpu(), model.schema.objects).cuda()
        y = tools.logged(features.cpu(), model.schema.event_features).cuda()
        runs["reference"] = on_the_gpu(lambda: reference(x, mask, y))
    runs["ours"] = lambda: model(objects, mask, features)
    cases = {
        f"{name}, {kind}": autocast(run, *how)
        for kind, how in ARITHMETIC.items()
        for name, run in runs.items()
    }
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if batch == 1024:
        for kind, dtype in (("highest", torch.float32), ("high", torch.float32), ("high", torch.bfloat16)):
            torch.set_float32_matmul_precision(kind)
            print(
                f"matrix rate, {kind} {str(dtype).removeprefix('torch.')}: {matrix_rate(dtype) / 1e12:.0f} TFLOP/s"
            )
    with torch.inference_mode():
        report(cases, batch)
    print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


@pytest.mark.parametrize("batch", [1024, 4096])
def test_training(batch: int, tmp_path: Path) -> None:
    base = sibling("test_model_speed")
    tools = base.parity()
    reference, model = base.networks(tools, tmp_path)
    objects, mask, features = (x.cuda() for x in tools.events(base.multiplicities(batch), seed=0))
    model = model.cuda()
    labels = torch.randint(len(model.schema.classes), (batch,), device="cuda")

    def step(network: nn.Module, logits: Callable[[], Tensor]) -> Case:
        optimiser = torch.optim.AdamW(network.train().parameters(), lr=1e-5)

        def run() -> None:
            optimiser.zero_grad()
            loss = F.cross_entropy(logits(), labels)
            loss.backward()
            optimiser.step()

        return run

    runs: dict[str, Case] = {}
    if reference is not None:
        reference = to_gpu(reference)
        x = tools.logged(objects.cpu(), model.schema.objects).cuda()
        y = tools.logged(features.cpu(), model.schema.event_features).cuda()
        runs["reference"] = on_the_gpu(step(reference, lambda: reference(x, mask, y)))

    def ours() -> Tensor:
        found: Tensor = model(objects, mask, features)["classification"]
        return found

    runs["ours"] = step(model, ours)
    cases = {
        f"{name}, {kind}": autocast(run, *how)
        for kind, how in ARITHMETIC.items()
        for name, run in runs.items()
    }
    print()
    report(cases, batch)
    print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
