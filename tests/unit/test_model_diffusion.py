from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from evenet_hep.model.diffusion import (
    Method,
    Velocity,
    add_noise,
    data_of,
    noise_of,
    sample,
    schedule,
)

METHODS: tuple[Method, ...] = ("ddim", "midpoint")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior_velocity(x: Tensor, time: Tensor, mean: Tensor, std: Tensor, share: Tensor) -> Tensor:
    """E[v | x] for rows x (B, C) of a mixture of K normal distributions with means (K, C) and widths (K,)."""
    alpha, sigma, _ = schedule(time[:, None])
    variance = alpha**2 * std**2 + sigma**2  # (B, K)
    pull = (x[:, None] - alpha[..., None] * mean) / variance[..., None]  # (B, K, C)
    log_weight = share.log() - 0.5 * (
        pull.square().sum(-1) * variance + x.shape[1] * variance.log()
    )  # (B, K)
    weight = log_weight.softmax(dim=1)[..., None]
    data = (weight * (mean + (alpha * std**2)[..., None] * pull)).sum(dim=1)
    noise = sigma * (weight * pull).sum(dim=1)
    return alpha * noise - sigma * data


def of_gaussian(mean: float, std: float) -> Velocity:
    def velocity(x: Tensor, time: Tensor) -> Tensor:
        one = x.new_ones(1)
        return posterior_velocity(x[:, None], time, mean * one[:, None], std * one, one)[:, 0]

    return velocity


def exact_gaussian(start: Tensor, mean: float, std: float) -> Tensor:
    """Where the flow of a normal distribution takes a start: it keeps the distance to the mean in units of the width."""
    (a1, a0), (s1, s0), _ = schedule(torch.tensor([1.0, 0.0], dtype=start.dtype))
    pull = (start - a1 * mean) / (a1**2 * std**2 + s1**2).sqrt()
    expected: Tensor = a0 * mean + (a0**2 * std**2 + s0**2).sqrt() * pull
    return expected


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).square().mean().sqrt())


def test_schedule_ends_at_a_logsnr_of_20() -> None:
    alpha, sigma, logsnr = schedule(torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), **EXACT)  # type: ignore[arg-type]
    assert logsnr[0] == pytest.approx(20, abs=1e-9)
    assert logsnr[-1] == pytest.approx(-20, abs=1e-9)
    assert (logsnr.diff() < 0).all()
    torch.testing.assert_close(logsnr, torch.log(alpha**2 / sigma**2))
    for part, expected in zip(schedule(torch.tensor([0.0, 1.0])), ([1, 4.53999e-5], [4.53999e-5, 1], [20, -20]), strict=True):  # fmt: skip
        assert part.tolist() == pytest.approx(expected, rel=1e-5)


def test_velocity_gives_data_and_noise_back_at_any_time() -> None:
    x, noise, time = normal(101, 3, 2), normal(101, 3, 2, seed=1), torch.linspace(0, 1, 101).double()
    noised = add_noise(x, time, noise)
    alpha, sigma, _ = schedule(time[:, None, None])
    torch.testing.assert_close(noised.x, alpha * x + sigma * noise, **EXACT)  # type: ignore[arg-type]
    torch.testing.assert_close(noised.velocity, alpha * noise - sigma * x, **EXACT)  # type: ignore[arg-type]
    torch.testing.assert_close(data_of(noised.x, noised.velocity, time), x, **EXACT)  # type: ignore[arg-type]
    torch.testing.assert_close(noise_of(noised.x, noised.velocity, time), noise, **EXACT)  # type: ignore[arg-type]


def test_no_division_by_alpha() -> None:
    """In single precision at t = 1 (x - sigma eps) / alpha has lost four digits; alpha x - sigma v has not."""
    x, noise, time = normal(1000).float(), normal(1000, seed=1).float(), torch.ones(1000)
    noised = add_noise(x, time, noise)
    alpha, sigma, _ = schedule(time)
    assert distance((noised.x - sigma * noise) / alpha, x) > 1e-4
    assert distance(data_of(noised.x, noised.velocity, time), x) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 20, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_true_velocity_leads_back_to_the_data(method: Method, steps: int, dtype: torch.dtype) -> None:
    x, noise = normal(50, 2).to(dtype), normal(50, 2, seed=1).to(dtype)

    def oracle(_: Tensor, time: Tensor) -> Tensor:
        return add_noise(x, time, noise).velocity

    start = add_noise(x, x.new_ones(50), noise).x
    found = sample(oracle, start, steps=steps, method=method)
    expected = add_noise(x, x.new_zeros(50), noise).x
    assert distance(found, expected) < (1e-12 if dtype == torch.float64 else 2e-6 * math.sqrt(steps))
    assert distance(found, x) < 1e-4  # the noise at t = 0


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("mean", [0.0, -1.5, 4.0])
def test_twenty_midpoint_steps_are_worth_200_of_ddim(mean: float, std: float) -> None:
    start = normal(300)
    expected, velocity = exact_gaussian(start, mean, std), of_gaussian(mean, std)
    second = distance(sample(velocity, start, steps=20), expected)
    first = distance(sample(velocity, start, steps=200, method="ddim"), expected)
    assert second < 0.4 * first
    assert first < 0.02 * max(1.0, std)


@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("midpoint", 2)])
def test_order_of_the_methods(method: Method, order: int) -> None:
    start = normal(300)
    coarse, fine = (
        distance(
            sample(of_gaussian(1.0, 0.5), start, steps=steps, method=method), exact_gaussian(start, 1.0, 0.5)
        )
        for steps in (50, 100)
    )
    # At least: a normal distribution is symmetric, and the next order of the midpoint method vanishes for it.
    assert coarse / fine > 0.95 * 2**order


@pytest.mark.parametrize(("separation", "width"), [(1.0, 0.05), (2.0, 0.02), (2.0, 0.5)])
def test_twenty_midpoint_steps_are_worth_200_of_ddim_for_two_peaks(separation: float, width: float) -> None:
    mean = torch.tensor([[-separation, 0.0], [separation, 0.5]], dtype=torch.float64)
    std, share = torch.tensor([width, width / 2]).double(), torch.tensor([0.3, 0.7]).double()

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return posterior_velocity(x, time, mean, std, share)

    start = normal(200, 2)
    expected = sample(velocity, start, steps=600)
    second = distance(sample(velocity, start, steps=20), expected)
    assert second < distance(sample(velocity, start, steps=200, method="ddim"), expected)
    assert distance(expected, sample(velocity, start, steps=300)) < 0.02 * second


class Learnt(nn.Module):
    """A small network for the velocity of pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Velocities (B, 2)."""
        angle = math.pi * time[:, None]
        told = torch.cat([x, angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=1)
        velocity: Tensor = self.layers(told)
        return velocity


def two_peaks(number: int, generator: torch.Generator) -> Tensor:
    is_right = torch.rand(number, 1, generator=generator) < 0.7
    centre = torch.where(is_right, torch.tensor([1.0, 0.5]), torch.tensor([-1.0, 0.0]))
    return centre + 0.2 * torch.randn(number, 2, generator=generator)


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    """Trained on two peaks of width 0.2 at (1, 0.5) and (-1, 0) with shares of 70 % and 30 %."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Learnt()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule_rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 800)
    for _ in range(800):
        time = torch.rand(512, generator=generator)
        noised = add_noise(two_peaks(512, generator), time, torch.randn(512, 2, generator=generator))
        loss = (network(noised.x, time) - noised.velocity).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule_rate.step()
    return network


def test_samples_of_a_trained_network_are_those_of_its_training(learnt: Learnt) -> None:
    start = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    found = sample(learnt, start)
    assert not found.requires_grad
    is_right = found[:, 0] > 0
    assert float(is_right.float().mean()) == pytest.approx(0.7, abs=0.06)
    for side, centre in ((is_right, (1.0, 0.5)), (~is_right, (-1.0, 0.0))):
        assert found[side].mean(dim=0).tolist() == pytest.approx(centre, abs=0.1)
        assert found[side].std(dim=0).tolist() == pytest.approx((0.2, 0.2), abs=0.1)


def test_twenty_midpoint_steps_are_worth_200_of_ddim_for_a_trained_network(learnt: Learnt) -> None:
    start = torch.randn(300, 2, generator=torch.Generator().manual_seed(2)).double()
    network = learnt.double()
    expected = sample(network, start, steps=2000)
    second = distance(sample(network, start, steps=20), expected)
    first = distance(sample(network, start, steps=200, method="ddim"), expected)
    assert second < first
    # Both go to the same limit.
    assert distance(sample(network, start, steps=1000, method="ddim"), expected) < 0.3 * first
    learnt.float()


@pytest.mark.parametrize("method", METHODS)
def test_same_noise_same_sample(method: Method) -> None:
    start = normal(10)
    kept = start.clone()
    found = [sample(of_gaussian(1.0, 0.3), start, steps=7, method=method) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.equal(start, kept)
    assert not torch.equal(sample(of_gaussian(1.0, 0.3), -start, steps=7, method=method), found[0])


@pytest.mark.parametrize("method", METHODS)
def test_what_starts_at_zero_and_does_not_move_stays_zero(method: Method) -> None:
    mask = torch.tensor([[True, False, True]])[..., None]

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return torch.where(mask, x + time[:, None, None], 0.0)

    found = sample(velocity, normal(1, 3, 2) * mask, steps=9, method=method)
    assert (found[0, 1] == 0).all()
    assert (found[0, ::2] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_times_run_from_one_towards_zero(method: Method) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (4,)
        asked.append(float(time[0]))
        return torch.zeros_like(x)

    sample(velocity, normal(4, 2), steps=5, method=method)
    assert asked[0] == 1.0
    assert asked == sorted(asked, reverse=True)
    if method == "ddim":
        assert asked == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    else:
        assert len(asked) == 10
        assert asked[::2] == pytest.approx([(i / 5) ** 1.5 for i in (5, 4, 3, 2, 1)])
        ends = [*asked[2::2], 0.0]
        assert asked[1::2] == pytest.approx([0.5 * (a + b) for a, b in zip(asked[::2], ends, strict=True)])


def test_impossible_options_are_named() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        sample(of_gaussian(0.0, 1.0), normal(1), steps=0)
    with pytest.raises(ValueError, match="method must be 'midpoint' or 'ddim'; found 'heun'"):
        sample(of_gaussian(0.0, 1.0), normal(1), method="heun")  # type: ignore[arg-type]
