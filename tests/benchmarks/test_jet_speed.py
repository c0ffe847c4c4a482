"""Jets per second of the jet network and, where `pip install omnilearned` was done, of OmniLearned's small one."""

from __future__ import annotations

import copy
import importlib
import os
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.events.jets import jet_schema
from evenet_hep.model.jets import JetConfig, JetNetwork

BATCH = int(os.environ.get("EVENET_BENCHMARK_JETS", "64"))
THREADS = int(os.environ.get("EVENET_BENCHMARK_THREADS", "1"))
ROUNDS = int(os.environ.get("EVENET_BENCHMARK_ROUNDS", "3"))
SLOTS = 128

Forward = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def networks() -> dict[str, nn.Module]:
    """Ours with residual branches of order one, and the small one of OmniLearned with and without pair features."""
    torch.manual_seed(0)
    found: dict[str, nn.Module] = {
        "ours": JetNetwork(JetConfig(layer_scale=0.5), jet_schema(classes=("a", "b")))
    }
    try:
        PET2 = importlib.import_module("omnilearned.network").PET2
    except ImportError:
        return found
    small = {"num_transformers": 8, "num_transformers_head": 2, "num_tokens": 4, "num_heads": 8, "K": 10}
    for name, pairs in (("omnilearned", False), ("omnilearned, pair features", True)):
        found[name] = PET2(4, mode="classifier", use_int=pairs, local_int=pairs, base_dim=128, **small)
    return found


def forward(name: str, network: nn.Module, counts: Tensor, kind: torch.dtype = torch.float32) -> Forward:
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(SLOTS) < counts[:, None]
    constituents = (0.3 * torch.randn(len(counts), SLOTS, 13, generator=generator) * mask[..., None]).to(kind)
    if name == "ours":
        features = (torch.rand(len(counts), 4, generator=generator) * 100).to(kind)
        return lambda: network(constituents, mask, features)["classification"]
    return lambda: network(constituents[..., :4], None)["y_pred"]


def report(cases: dict[str, Callable[[], object]]) -> None:
    """Jets per second of CPU time, the alternatives taking turns: the machine may be busy."""
    seconds = dict.fromkeys(cases, float("inf"))
    for run in cases.values():
        run()
    for _ in range(ROUNDS):
        for name, run in cases.items():
            start = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - start)
    print()
    for name, value in seconds.items():
        print(
            f"{name:28s} {BATCH / value:7.1f} jets/s, {value / seconds['ours']:5.2f} times the time of ours"
        )


@pytest.mark.benchmark
@pytest.mark.parametrize("mean", [SLOTS, 45])
def test_inference_speed(mean: int) -> None:
    """All 128 slots filled, and as many as in a fat jet of some hundred GeV."""
    counts = torch.full((BATCH,), SLOTS)
    if mean < SLOTS:
        counts = (mean + 15 * torch.randn(BATCH, generator=torch.Generator().manual_seed(0))).round().long()
        counts = counts.clamp(11, SLOTS)
    with torch.inference_mode():
        report({name: forward(name, network.eval(), counts) for name, network in networks().items()})


@pytest.mark.benchmark
def test_training_speed() -> None:
    counts = torch.full((BATCH,), SLOTS)
    label = torch.randint(2, (BATCH,), generator=torch.Generator().manual_seed(1))

    def step(network: nn.Module, logits: Forward) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-5)

        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(logits(), label).backward()
            optimizer.step()

        return run

    report({name: step(network, forward(name, network, counts)) for name, network in networks().items()})


@pytest.mark.benchmark
def test_rounding_error() -> None:
    """Largest difference of the logits from those in double precision, in units of their spread."""
    counts = torch.full((16,), SLOTS)
    print()
    for name, network in networks().items():
        exact = copy.deepcopy(network.eval()).double()
        with torch.inference_mode():
            a = forward(name, network, counts)()
            b = forward(name, exact, counts, torch.float64)()
        print(f"{name:28s} {float((a - b).abs().max() / b.std()):.1e}")
