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
Logits = Callable[[], Tensor]


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


def autocast(run: Logits, matmul: str, half: bool) -> Logits:
    """The same with another arithmetic of matrices."""

    def changed() -> Tensor:
        torch.set_float32_matmul_precision(matmul)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
            return run()

    return changed


def to_gpu(network: nn.Module) -> nn.Module:
    """The network there, with tensors that are no buffers."""
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(module, name, value.cuda())
    return network.cuda()


ARITHMETIC = {"fp32": ("highest", False), "tf32": ("high", False), "bf16": ("high", True)}


def logits_of(batch: int, folder: Path) -> tuple[dict[str, nn.Module], dict[str, Logits]]:
    """The networks, the reference first where there is one, and what each says of the same events."""
    base = sibling("test_model_speed")
    tools = base.parity()
    reference, model = base.networks(tools, folder)
    objects, mask, features = (x.cuda() for x in tools.events(base.multiplicities(batch), seed=0))
    model = model.cuda()
    networks: dict[str, nn.Module] = {}
    logits: dict[str, Logits] = {}
    if reference is not None:
        reference = networks["reference"] = to_gpu(reference)
        x = tools.logged(objects.cpu(), model.schema.objects).cuda()
        y = tools.logged(features.cpu(), model.schema.event_features).cuda()
        logits["reference"] = lambda: reference(x, mask, y)
    networks["ours"] = model
    logits["ours"] = lambda: model(objects, mask, features)["classification"]
    return networks, logits


@pytest.mark.parametrize("batch", [1024, 8192])
def test_inference(batch: int, tmp_path: Path) -> None:
    _, logits = logits_of(batch, tmp_path)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if batch == 1024:
        for kind, dtype in (("highest", torch.float32), ("high", torch.float32), ("high", torch.bfloat16)):
            torch.set_float32_matmul_precision(kind)
            name = str(dtype).removeprefix("torch.")
            print(f"matrix rate, {kind} {name}: {matrix_rate(dtype) / 1e12:.0f} TFLOP/s")
    with torch.inference_mode():
        report(
            {
                f"{name}, {kind}": autocast(run, *how)
                for kind, how in ARITHMETIC.items()
                for name, run in logits.items()
            },
            batch,
        )
    print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


@pytest.mark.parametrize("batch", [1024, 4096])
def test_training(batch: int, tmp_path: Path) -> None:
    networks, logits = logits_of(batch, tmp_path)
    classes = next(iter(logits.values()))().shape[1]
    labels = torch.randint(classes, (batch,), device="cuda")

    def step(name: str, how: tuple[str, bool]) -> Case:
        optimiser = torch.optim.AdamW(networks[name].train().parameters(), lr=1e-5)
        run_forward = autocast(logits[name], *how)

        def run() -> None:
            optimiser.zero_grad()
            F.cross_entropy(run_forward().float(), labels).backward()
            optimiser.step()

        return run

    print()
    report({f"{name}, {kind}": step(name, how) for kind, how in ARITHMETIC.items() for name in logits}, batch)
    print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
