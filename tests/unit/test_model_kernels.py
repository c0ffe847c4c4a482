"""The compiled kernels and packed weights against the ordinary operations, which run whenever gradients are asked for."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model import half, kernels, packing
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.layers import Attention, FeedForward, Gate, Linear
from evenet_hep.model.neighbours import find_neighbours, find_with_phantoms
from evenet_hep.model.object_encoder import ObjectEncoderConfig
from evenet_hep.model.packed import Packing
from evenet_hep.model.packing import arrange
from evenet_hep.model.pet import PETConfig
from evenet_hep.model.streams import in_streams
from evenet_hep.schema import EventSchema

COUNTS = [1, 1, 2, 3, 4, 4, 5, 7, 12]
STARTS = np.concatenate([[0], np.cumsum(COUNTS)])
ROWS = int(STARTS[-1])


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bits(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return x.view(torch.int16).numpy()


def events(x: Tensor) -> list[Tensor]:
    return list(x.split(COUNTS))


# --- one kernel at a time -------------------------------------------------------------------------------------------


def by_hand(projected: Tensor, heads: int) -> Tensor:
    """Attention of each event by itself, columns by head."""
    results = []
    for event in events(projected):
        q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in event.chunk(3, dim=1))
        weight = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
        results.append((weight @ v).transpose(0, 1).flatten(1))
    return torch.cat(results)


def by_channel(x: Tensor, heads: int) -> Tensor:
    ordered: Tensor = x.unflatten(1, (heads, -1)).transpose(1, 2).flatten(1).contiguous()
    return ordered


@pytest.mark.parametrize(
    ("width", "heads"), [(48, 4), (32, 16), (16, 1), (32, 8), (16, 2), (96, 32), (96, 48), (16, 16)]
)
def test_attention(width: int, heads: int) -> None:
    projected = normal(ROWS, 3 * width, scale=2.0)
    expected = by_channel(by_hand(projected, heads), heads)
    parts = [by_channel(part, heads) for part in projected.chunk(3, dim=1)]
    found = torch.full((ROWS, width), torch.nan)
    kernels.attend(torch.cat(parts, dim=1).numpy(), STARTS, heads, found.numpy())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)

    first = torch.empty(len(COUNTS), width)
    query, memory = parts[0][STARTS[:-1]], torch.cat(parts[1:], dim=1)
    kernels.attend_from_outside(query.numpy(), memory.numpy(), STARTS, heads, first.numpy())
    torch.testing.assert_close(first, found[STARTS[:-1]])

    bias = normal(3 * width, seed=1)
    rounded = torch.cat(parts, dim=1).bfloat16()
    exact, mixed = torch.empty_like(found), torch.empty_like(found, dtype=torch.bfloat16)
    kernels.attend((rounded.float() + bias).numpy(), STARTS, heads, exact.numpy())
    kernels.attend_half(bits(rounded), bias.numpy(), STARTS, heads, bits(mixed))
    assert torch.equal(mixed, exact.bfloat16())


def test_attention_with_scores_far_apart() -> None:
    projected = normal(ROWS, 48, scale=60.0)  # exponents of thousands
    found = torch.empty(ROWS, 16)
    kernels.attend(
        torch.cat([by_channel(p, 2) for p in projected.chunk(3, 1)], 1).numpy(), STARTS, 2, found.numpy()
    )
    torch.testing.assert_close(found, by_channel(by_hand(projected, 2), 2), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", [2, 7, 64])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_nearest_rows(width: int, number: int) -> None:
    positions = normal(ROWS, width)
    row = torch.full((number, ROWS), -7)
    kernels.nearest(positions.numpy(), STARTS, -1, row.numpy())
    for event, start in zip(events(positions), STARTS, strict=False):
        slots = len(event)
        here = row[:, start : start + slots]
        expected = find_neighbours(event[None], None, number).row + start
        assert torch.equal(here[: slots - 1], expected)
        assert (here[slots - 1 :] == -1).all()


@pytest.mark.parametrize("number", [1, 3])
def test_nearest_rows_with_phantoms(number: int) -> None:
    positions = normal(ROWS + 1, 9)
    row = torch.full((number, ROWS + 1), ROWS)
    kernels.nearest(positions.numpy(), STARTS, ROWS, row.numpy())
    assert (row[:, ROWS] == ROWS).all()  # left to the caller
    for event, start in zip(events(positions[:ROWS]), STARTS, strict=False):
        slots = len(event)
        phantom = positions[ROWS] if slots <= number else None
        expected = find_with_phantoms(event[None], None, number, phantom).row
        expected = torch.where(expected < slots, expected + start, ROWS)
        assert torch.equal(row[:, start : start + slots], expected)


def test_objects_in_one_place_and_numbers_that_are_none() -> None:
    row = torch.full((3, ROWS), -7)
    kernels.nearest(torch.zeros(ROWS, 2).numpy(), STARTS, -1, row.numpy())
    own = torch.arange(ROWS)
    start = torch.from_numpy(np.repeat(STARTS[:-1], COUNTS))
    size = torch.tensor(np.repeat(COUNTS, COUNTS))
    for positions in (torch.zeros(ROWS, 2), torch.full((ROWS, 2), torch.nan)):
        kernels.nearest(positions.numpy(), STARTS, -1, row.numpy())
        assert ((row == -1) | ((row >= start) & (row < start + size) & (row != own))).all()
        assert torch.equal((row >= 0).sum(dim=0), (size - 1).clamp(max=3))


def test_pairs() -> None:
    both = normal(ROWS, 2 * 33, scale=4.0)
    row = torch.randint(0, ROWS, (3, ROWS), generator=torch.Generator().manual_seed(1))
    both[0], both[1] = 50.0, -50.0
    row[0, :2] = torch.tensor([0, 1])
    found = torch.empty(3, ROWS, 33)
    kernels.activate_pairs(both.numpy(), row.numpy(), found.numpy())
    expected = F.gelu(both[:, :33][row].double() + both[:, 33:].double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-6)
    mean = torch.empty(ROWS, 33)
    kernels.average_pairs(found.numpy(), mean.numpy())
    torch.testing.assert_close(mean, found.mean(dim=0))


@pytest.mark.parametrize("shape", [(ROWS, 24), (3, 5, 24)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_gate(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    gate = Gate(24)
    update, state = normal(*shape, scale=scale), normal(*shape, seed=1, scale=scale)
    expected = gate(update, state).detach()
    with torch.no_grad():
        found = gate(update, state)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * max(1.0, scale))


def test_norm_in_two_halves_and_their_sum() -> None:
    x = normal(ROWS, 40, scale=3.0) + 1
    norm = nn.LayerNorm(40)
    nn.init.normal_(norm.weight)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    found = torch.empty(ROWS, 80, dtype=torch.bfloat16)
    kernels.norm_to_half(x.numpy(), weight, bias, norm.eps, bits(found))
    torch.testing.assert_close(found[:, :40].float(), norm(x).detach(), rtol=2**-8, atol=1e-5)
    assert torch.equal(found[:, :40], found[:, 40:])
    update, added, scale = normal(ROWS, 80, seed=2).bfloat16(), normal(40, seed=3), normal(40, seed=4)
    expected = x + scale * (update[:, :40].float() + update[:, 40:].float() + added)
    kernels.add_halves(x.numpy(), bits(update), added.numpy(), scale.numpy())
    torch.testing.assert_close(x, expected)


def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    special = torch.tensor(
        [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3e38, 3.4e38, torch.inf, -torch.inf, 1e-40]
    )
    values = torch.cat([special, torch.tensor([torch.nan]), normal(1989, scale=1e3)])
    # A layer of scale one and without bias that adds the lower half of nothing: what comes in goes out.
    projected = torch.zeros(2000, 48, dtype=torch.bfloat16)
    projected[:, 32:] = values.bfloat16()[:, None]
    found = torch.empty(2000, 16, dtype=torch.bfloat16)
    kernels.attend_half(bits(projected), np.zeros(48, np.float32), np.arange(2001), 1, bits(found))
    torch.testing.assert_close(found[:, 0], values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    bias = np.zeros(48, np.float32)
    bias[32] = 1 + 3 * 2**-8
    kernels.attend_half(bits(projected[:1]), bias, np.arange(2), 1, bits(found[:1]))
    assert found[0, 0] == torch.tensor(1 + 3 * 2**-8).bfloat16()


# --- packed weights -------------------------------------------------------------------------------------------------


def test_packed_weights_follow_every_way_to_change_them() -> None:
    layer, x = Linear(6, 5), normal(500, 6)

    def check() -> None:
        with torch.inference_mode():
            found = layer(x), layer.gelu(x)
        expected = F.linear(x, layer.weight, layer.bias).detach()
        torch.testing.assert_close(found, (expected, F.gelu(expected)), rtol=1e-5, atol=1e-6)

    check()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.5)
    layer(x).square().sum().backward()
    optimiser.step()
    check()
    layer.load_state_dict(Linear(6, 5).state_dict())
    check()
    with torch.no_grad():
        layer.weight.mul_(2.0)
    check()
    layer.weight = nn.Parameter(normal(5, 6, seed=3))
    check()
    layer.weight.data = normal(5, 6, seed=4)
    check()
    with torch.inference_mode():
        made = Linear(6, 5)  # its weights do not count their changes
        made(x)
        made.weight.mul_(3.0)
        torch.testing.assert_close(made(x), F.linear(x, made.weight, made.bias), rtol=1e-5, atol=1e-6)


def test_what_is_packed_stays_out_of_copies() -> None:
    attention, x = Attention(16, heads=2), normal(ROWS, 16)
    layout = arrange(torch.arange(12) < torch.tensor(COUNTS)[:, None])
    with torch.inference_mode():
        expected = attention(x, layout)
    assert "_kept" in attention.__dict__
    for other in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        assert "_kept" not in other.__dict__
        with torch.inference_mode():
            assert torch.equal(other(x, layout), expected)
    assert set(attention.state_dict()) == {name for name, _ in attention.named_parameters()}
    assert isinstance(attention, Packing)


def test_feed_forward_is_its_layers() -> None:
    layers, x = FeedForward(8), normal(300, 8)
    expected = layers[3](F.gelu(layers[0](x))).detach()
    with torch.inference_mode():
        torch.testing.assert_close(layers(x), expected, rtol=1e-5, atol=1e-6)


# --- whole networks -------------------------------------------------------------------------------------------------


def network(*, phantoms: bool, seed: int = 0) -> EveNet:
    """Weights and scales of order one, or the test says nothing."""
    config = EveNetConfig.tiny()
    pet = PETConfig(
        layers=3,
        heads=4,
        local_layers=3,
        phantom_neighbours=phantoms,
        neighbours_see_attention_mask=not phantoms,
    )
    config = dataclasses.replace(
        config,
        pet=pet,
        object_encoder=ObjectEncoderConfig(heads=4),
        classification=ClassificationConfig(heads=4),
    )
    torch.manual_seed(seed)
    model = EveNet(config, EventSchema.standard(classes=("a", "b", "c"))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch(number: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.arange(number) % 19
    mask = torch.arange(18) < counts[:, None]
    objects = 1 + 50 * torch.rand(number, 18, 7, generator=generator)
    return objects * mask[..., None], mask, 50 * torch.rand(number, 10, generator=generator)


@pytest.mark.parametrize("phantoms", [False, True])
@pytest.mark.parametrize("has_empty_events", [False, True])
def test_kernels_change_no_number(phantoms: bool, has_empty_events: bool) -> None:
    model, given = network(phantoms=phantoms), batch(95)
    if not has_empty_events:
        some = given[1].any(dim=1)
        given = given[0][some], given[1][some], given[2][some]
    plain = model.encode(*given)
    logits = model(*given)["classification"]
    with torch.inference_mode():
        found, scores = model.encode(*given), model(*given)["classification"]
    for one, other in zip((*found, scores), (*plain, logits), strict=True):
        assert float((one - other.detach()).abs().max() / other.detach().abs().max()) < 1e-5


@pytest.mark.parametrize("phantoms", [False, True])
def test_filled_padding_in_small_events(phantoms: bool) -> None:
    model, (objects, mask, event_features) = network(phantoms=phantoms), batch(40)
    columns = (
        model.object_transform(objects)
        + ~mask[..., None] * normal(40, 18, 8)[..., : model.object_transform.width]
    )
    plain = model.pet(columns, mask).detach()
    with torch.inference_mode():
        found = model.pet(columns, mask)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
    assert event_features.shape == (40, 10)


@pytest.mark.parametrize("half_precision", [False, True])
def test_an_event_that_is_not_a_number_stays_alone(
    half_precision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "NARROW", 0)
    model, (objects, mask, event_features) = network(phantoms=False), batch(38)
    broken = objects.clone()
    broken[7, 2, 1] = torch.nan
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half_precision):
        expected = model(objects, mask, event_features)["classification"]
        found = model(broken, mask, event_features)["classification"]
    assert found[7].isnan().all()
    others = torch.arange(38) != 7
    torch.testing.assert_close(found[others], expected[others], rtol=1e-5, atol=1e-5)


def test_threads_share_a_network() -> None:
    model = network(phantoms=False)
    given = [batch(30, seed) for seed in range(6)]

    def run(each: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(*each)["classification"]
            return logits

    with ThreadPoolExecutor(4) as pool:  # the first calls pack weights, all at once
        found = list(pool.map(run, given))
    for one, each in zip(found, given, strict=True):
        assert torch.equal(one, run(each))


@pytest.mark.parametrize("half_precision", [False, True])
def test_streams_change_no_number(half_precision: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = network(phantoms=False), batch(190)
    monkeypatch.setattr(packing, "rows_at_once", lambda _: 200)
    monkeypatch.setattr(half, "NARROW", 0)
    before = torch.get_num_threads()

    def run() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half_precision):
            logits: Tensor = model(*given)["classification"]
            return logits

    try:
        torch.set_num_threads(1)
        expected = run()
        torch.set_num_threads(3)
        found, again = run(), run()
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # threads to come are given three as well
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, again)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 if half_precision else 1e-5)


def test_an_error_in_a_stream_is_raised() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            in_streams(lambda x: 1 // x, [1, 0, 2])
    finally:
        torch.set_num_threads(before)


# --- bfloat16 -------------------------------------------------------------------------------------------------------


def test_a_weight_in_two_parts_has_sixteen_bits() -> None:
    weight = normal(4000, scale=3.0)
    high, low = half.in_two(weight)
    assert high.dtype == low.dtype == torch.bfloat16
    assert float(((high.float() + low.float() - weight) / weight).abs().max()) < 2**-16


@pytest.mark.skipif(not half.HAS_BFLOAT16, reason="this processor does not multiply matrices of bfloat16")
def test_blocks_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of two parts leave a part of the error that one rounding of each weight makes."""
    monkeypatch.setattr(half, "NARROW", 0)
    model, given = network(phantoms=False), batch(570)
    with torch.inference_mode():
        exact = model(*given)["classification"]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(*given)["classification"]
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.pet.blocks.parameters():
            parameter.copy_(parameter.bfloat16())
    with torch.inference_mode():
        coarse = rounded(*given)["classification"]
    error, from_weights = (mixed - exact).square().mean().sqrt(), (coarse - exact).square().mean().sqrt()
    assert 0 < float(error) < 1.5 * float(from_weights)
    assert float((mixed.softmax(1) - exact.softmax(1)).abs().max()) < 0.02


def test_narrow_networks_are_not_rounded() -> None:
    """They would gain a tenth of their speed, and lose assignments that are close: 1.0 % of one that is hard to make."""
    model, given = network(phantoms=False), batch(100)
    with torch.inference_mode():
        exact = model(*given)["classification"]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(*given)["classification"]
    torch.testing.assert_close(mixed, exact, rtol=1e-5, atol=1e-5)


def published_size(gain: float) -> EveNet:
    """The published network with random weights with which every part has a say."""
    model = EveNet(EveNetConfig.published(), EventSchema.published()).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith(("scale", "running_var")):
                value.copy_(0.3 + 0.2 * noise.abs())
            elif name.endswith("gate.bias"):
                value.copy_(1.5 + 0.3 * noise)
            elif value.ndim == 2:
                value.copy_(gain * noise / math.sqrt(value.shape[1]))
            elif "num_batches" not in name:
                value.copy_(float("norm" in name and name.endswith("weight")) + 0.1 * noise)
    return model


@pytest.mark.slow
@pytest.mark.skipif(not half.HAS_BFLOAT16, reason="this processor does not multiply matrices of bfloat16")
def test_probabilities_of_the_published_size_in_bfloat16() -> None:
    model = published_size(gain=1.0)
    generator = torch.Generator().manual_seed(1)
    counts = (6.1 + 2.85 * torch.randn(1000, generator=generator)).round().clamp(1, 18)
    mask = torch.arange(18) < counts[:, None]
    uniform = torch.rand(1000, 18, generator=generator)
    pt, eta = 20 - 40 * uniform.log(), 5 * torch.rand(1000, 18, generator=generator) - 2.5
    phi = math.pi * (2 * torch.rand(1000, 18, generator=generator) - 1)
    flags = (torch.rand(3, 1000, 18, generator=generator) < 0.3).float()
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, *flags], dim=-1) * mask[..., None]
    event_features = 1 + 100 * torch.rand(1000, 10, generator=generator)
    with torch.inference_mode():
        exact = model(objects, mask, event_features)["classification"].softmax(dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(objects, mask, event_features)["classification"].softmax(dim=1)
    assert float(exact.std(dim=0).mean()) > 0.05  # the network tells events apart
    assert 1e-4 < float((mixed - exact).abs().max()) < 0.01
