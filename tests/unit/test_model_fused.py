"""Operations of a training step in compiled loops against the ordinary ones, their gradients, and what they drop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.model import fused, kernels_training
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.schema import EventSchema

COUNTS = [1, 2, 2, 4, 7]
STARTS = np.concatenate([[0], np.cumsum(COUNTS)])
ROWS = int(STARTS[-1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def neighbours(rows: int = ROWS, number: int = 3) -> Tensor:
    """Of the same event each, but for the last row of all, which stands for padding in every fourth place."""
    generator = torch.Generator().manual_seed(5)
    row = torch.full((number, rows), rows - 1)
    for start, end in zip(STARTS[:-1].tolist(), STARTS[1:].tolist(), strict=True):
        row[:, start:end] = torch.randint(start, end, (number, end - start), generator=generator)
    row[:, ::4] = rows - 1 if rows > ROWS else row[:, ::4]
    return row


def attention(projected: Tensor, heads: int) -> Tensor:
    results = []
    for event in projected.split(COUNTS):
        q, k, v = (part.unflatten(1, (-1, heads)).permute(2, 0, 1) for part in event.chunk(3, dim=1))
        results.append(F.scaled_dot_product_attention(q, k, v).permute(1, 2, 0).flatten(1))
    return torch.cat(results)


def ordinary_gate(update: Tensor, old: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    (r, z, g), (s, t) = update.chunk(3, dim=1), old.chunk(2, dim=1)
    new = torch.tanh(g + (torch.sigmoid(r + s) * state) @ weight.T)
    return state + torch.sigmoid(z + t - bias) * (new - state)


KEEP = torch.tensor([0.0, 1.5] * (ROWS // 2), dtype=torch.float64)
PART = torch.rand(3, ROWS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    "gelu": (fused.gelu_dropout, F.gelu, (normal(2, ROWS, 5),)),
    "pairs": (
        lambda a, b: fused.gelu_of_pairs(a, b, neighbours(), STARTS),
        lambda a, b: F.gelu(a[neighbours()] + b),
        (normal(ROWS, 6), normal(ROWS, 6, seed=1)),
    ),
    "pairs with a row for padding": (
        lambda a, b: fused.gelu_of_pairs(a, b, neighbours(ROWS + 1), STARTS),
        lambda a, b: F.gelu(a[neighbours(ROWS + 1)] + b),
        (normal(ROWS + 1, 6), normal(ROWS + 1, 6, seed=1)),
    ),
    "mean": (
        lambda x: fused.weighted_gelu(x, PART),
        lambda x: (F.gelu(x) * PART[..., None]).sum(dim=0),
        (normal(3, ROWS, 5),),
    ),
    "branch": (
        lambda x, y, s: fused.add_scaled(x, y, s, KEEP),
        lambda x, y, s: x + KEEP[:, None] * y * s,
        (normal(ROWS, 5), normal(ROWS, 5, seed=1), normal(5, seed=2)),
    ),
    "attention": (
        lambda x: fused.attend(x, STARTS, 4),
        lambda x: attention(x, 4),
        (normal(ROWS, 48),),
    ),
    "gate": (
        fused.gate,
        ordinary_gate,
        (normal(9, 12), normal(9, 8, seed=1), normal(9, 4, seed=2), normal(4, 4, seed=3), normal(4, seed=4)),
    ),
}  # fmt: skip


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "LEAST", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_those_of_ordinary_operations(name: str) -> None:
    run, ordinary, inputs = CASES[name]
    found, expected = run(*inputs), ordinary(*inputs)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=2e-6
    )  # exp and erf are made for single precision
    above = normal(*found.shape, seed=9).detach()
    gradients = torch.autograd.grad(found, inputs, above)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, inputs, above), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_small_differences(name: str) -> None:
    run, _, inputs = CASES[name]
    assert torch.autograd.gradcheck(run, inputs, eps=1e-4, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_what_is_dropped_has_the_chance_it_should_and_no_pattern(probability: float) -> None:
    rows, columns = 2000, 500
    kept = np.empty((rows, columns), bool)
    kernels_training.is_kept(1234567890123, rows, columns, round(probability * 2**32), kept)
    sigma = math.sqrt(probability * (1 - probability))
    assert abs(kept.mean() - (1 - probability)) < 4 * sigma / math.sqrt(kept.size)
    for axis, size in ((0, rows), (1, columns)):  # neither rows nor columns differ by more than chance
        spread = kept.mean(axis=axis).std() / (sigma / math.sqrt(size))
        assert abs(spread - 1) < 0.15
    centred = kept - kept.mean()
    for a, b in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, 16:], centred[:, :-16]),
    ):
        assert abs((a * b).mean()) < 5 * sigma**2 / math.sqrt(kept.size)
    other = np.empty_like(kept)
    kernels_training.is_kept(1234567890124, rows, columns, round(probability * 2**32), other)
    assert abs((centred * (other - other.mean())).mean()) < 5 * sigma**2 / math.sqrt(kept.size)


def test_dropout_keeps_the_mean_and_takes_back_what_it_dropped() -> None:
    x = torch.full((400, 300), 2.0, requires_grad=True)
    torch.manual_seed(0)
    found = fused.gelu_dropout(x, 0.25)
    is_in = found != 0
    torch.testing.assert_close(found[is_in], F.gelu(x)[is_in] / 0.75)
    assert abs(float(is_in.float().mean()) - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.numel())
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient != 0, is_in)
    torch.manual_seed(0)
    assert torch.equal(fused.gelu_dropout(x, 0.25), found)
    assert not torch.equal(fused.gelu_dropout(x, 0.25), found)


def test_dropped_weights_of_attention_are_those_of_the_pass_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_chance", lambda _: (77, 2**31, 2.0))
    assert torch.autograd.gradcheck(
        lambda x: fused.attend(x, STARTS, 4, 0.5), (normal(ROWS, 48),), eps=1e-4, atol=1e-4, rtol=1e-3
    )
    monkeypatch.setattr(fused, "_chance", lambda _: (77, 0, 1.0))
    plain = fused.attend(normal(ROWS, 48), STARTS, 4, 0.5)
    total = torch.zeros_like(plain)
    for seed in range(400):
        monkeypatch.setattr(fused, "_chance", lambda _, seed=seed: (seed, 2**31, 2.0))
        total += fused.attend(normal(ROWS, 48), STARTS, 4, 0.5).detach()
    assert (total / 400 - plain).abs().max() < 0.6  # of values of order one, with a spread of up to two each


def small() -> tuple[EveNet, tuple[Tensor, Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    config = EveNetConfig.tiny()
    config = dataclasses.replace(config, pet=dataclasses.replace(config.pet, layer_scale=0.5))
    model = EveNet(config, EventSchema.standard(classes=("a", "b"))).eval()
    counts = torch.randint(0, 9, (40,))
    mask = torch.arange(10) < counts[:, None]
    objects = torch.rand(40, 10, 7) * mask[..., None]
    return model, (objects, mask, torch.rand(40, 10)), counts % 2


def gradients(model: EveNet, events: tuple[Tensor, Tensor, Tensor], label: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(*events)["classification"], label).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_network_has_the_gradients_of_ordinary_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, events, label = small()
    found = gradients(model, events, label)
    monkeypatch.setattr(fused, "trains_kernels", lambda _: False)
    expected = gradients(model, events, label)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=2e-5 * scale + 1e-9, msg=name)


def test_training_in_bfloat16_stays_close() -> None:
    model, events, label = small()
    exact = gradients(model, events, label)
    with torch.autocast("cpu", torch.bfloat16):
        model.zero_grad()
        loss = F.cross_entropy(model(*events)["classification"].float(), label)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in exact:
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
    mine = torch.cat(
        [p.grad.flatten() for n, p in model.named_parameters() if n in exact and p.grad is not None]
    )
    full = torch.cat([exact[n].flatten() for n, _ in model.named_parameters() if n in exact])
    assert F.cosine_similarity(mine, full, dim=0) > 0.995
