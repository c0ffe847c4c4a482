"""The conditional flow: densities that are densities, interpolation into a window, and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from evenet_hep.baselines.cathode import ConditionalFlow, FlowConfig, fit_flow
from evenet_hep.errors import ConfigError, InputError

pytest.importorskip("zuko")

SMALL = FlowConfig(
    n_transforms=2, hidden=(32, 32), max_epochs=20, batch_size=512, learning_rate=1e-2, n_best=3
)


def background(n: int, seed: int, masses: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One feature that grows with the mass, one that is skewed and correlated with it."""
    rng = np.random.default_rng(seed)
    m = rng.uniform(5, 16, n) if masses is None else masses
    first = rng.normal(m, 1.0)
    return np.stack([first, rng.exponential(2.0, len(m)) + 0.5 * (first - m)], axis=1), m


@pytest.fixture(scope="module")
def flow() -> ConditionalFlow:
    features, masses = background(12000, 1)
    outside = (masses < 9) | (masses > 10.6)
    return fit_flow(features[outside], masses[outside], config=SMALL)


def test_samples_in_the_window_are_those_of_the_background(flow: ConditionalFlow) -> None:
    """Trained without the window 9 to 10.6, it knows means, widths and the correlation there."""
    masses = np.random.default_rng(2).uniform(9, 10.6, 20000)
    found, (expected, _) = flow.sample(masses, seed=3), background(20000, 4, masses)
    residual = [x[:, 0] - masses for x in (found, expected)]
    assert residual[0].mean() == pytest.approx(0.0, abs=0.12)
    assert residual[0].std() == pytest.approx(1.0, abs=0.12)
    assert found[:, 1].mean() == pytest.approx(expected[:, 1].mean(), abs=0.2)
    np.testing.assert_allclose(
        np.quantile(found[:, 1], [0.25, 0.5, 0.75]), np.quantile(expected[:, 1], [0.25, 0.5, 0.75]), atol=0.25
    )
    correlation = [np.corrcoef(r, x[:, 1])[0, 1] for r, x in zip(residual, (found, expected), strict=True)]
    assert correlation[0] == pytest.approx(correlation[1], abs=0.07)


def test_samples_follow_their_masses(flow: ConditionalFlow) -> None:
    means = [flow.sample(np.full(3000, m), seed=1)[:, 0].mean() for m in (6.0, 9.8, 14.0)]
    np.testing.assert_allclose(means, [6.0, 9.8, 14.0], atol=0.25)


def test_samples_stay_in_the_range_of_the_training_events(flow: ConditionalFlow) -> None:
    found = flow.sample(np.linspace(0, 30, 5000), seed=1)
    assert np.isfinite(found).all()
    assert (found >= flow.scaling.low).all()
    assert (found <= flow.scaling.high).all()


def test_the_density_has_integral_one(flow: ConditionalFlow) -> None:
    low, high = flow.scaling.low, flow.scaling.high
    edges = [np.linspace(a, b, 301) for a, b in zip(low, high, strict=True)]
    centers = [(e[1:] + e[:-1]) / 2 for e in edges]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*centers, indexing="ij")], axis=1)
    cell = float(np.prod((high - low) / 300))
    density = np.exp(flow.log_density(grid, np.full(len(grid), 9.5)))
    assert density.sum() * cell == pytest.approx(1.0, abs=0.02)
    assert flow.log_density([high + 1.0], [9.5]) == -np.inf


def test_scaling_there_and_back(flow: ConditionalFlow) -> None:
    inside = np.random.default_rng(1).uniform(flow.scaling.low, flow.scaling.high, (50, 2))
    np.testing.assert_allclose(flow.scaling.backward(flow.scaling.forward(inside)), inside, atol=1e-9)
    step = 1e-6
    slope = np.prod([
        (flow.scaling.forward(inside + step * np.eye(2)[k]) - flow.scaling.forward(inside))[:, k] / step for k in range(2)
    ], axis=0)  # fmt: skip
    np.testing.assert_allclose(np.exp(flow.scaling.log_slope(inside)), slope, rtol=1e-3)


def test_best_epochs_are_kept_and_used_in_equal_parts(flow: ConditionalFlow) -> None:
    assert len(flow.states) == 3
    assert flow.validation_loss[-1] < flow.validation_loss[0] - 0.3
    kept = flow.flow.state_dict()
    assert all(torch.equal(kept[name], flow.states[0][name]) for name in kept)
    one = flow._replace(states=flow.states[:1])
    assert not np.array_equal(one.sample(np.full(9, 9.0), seed=1), flow.sample(np.full(9, 9.0), seed=1))


def test_same_seed_same_flow_and_samples() -> None:
    features, masses = background(300, 5)
    config = FlowConfig(1, (8,), max_epochs=2, seed=4)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again = (fit_flow(features, masses, config=config) for _ in range(2))
    np.testing.assert_array_equal(first.training_loss, again.training_loss)
    np.testing.assert_array_equal(first.sample(masses, seed=1), again.sample(masses, seed=1))
    assert not np.array_equal(first.sample(masses, seed=1), first.sample(masses, seed=2))
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's random numbers were used
    assert first.sample([], seed=1).shape == (0, 2)


def test_one_feature_and_a_progress_bar() -> None:
    features, masses = background(100, 6)
    config = FlowConfig(1, (8,), max_epochs=2)
    found = fit_flow(features[:, :1], masses, config=config, progress=True)
    assert found.sample(masses[:7], seed=0).shape == (7, 1)


X, M = background(20, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": X[:, 0]}, r"features must have shape \(n_events, n_features\)"),
        ({"features": np.where(X > 10, np.nan, X)}, "features must be finite; found nan"),
        ({"masses": M[:-1]}, "of the same events; found 20 and 19"),
        ({"masses": np.full(20, np.nan)}, "masses must be one list of finite numbers"),
        ({"masses": np.full(20, 9.0)}, "at least ten events whose features and masses differ"),
        ({"features": np.ones((20, 2))}, "at least ten events whose features"),
        ({"features": X[:9], "masses": M[:9]}, "at least ten events .*; found 9"),
    ],
)
def test_events_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_flow(**{"features": X, "masses": M, **arguments})


@pytest.mark.parametrize(
    "option", [{"n_transforms": 0}, {"hidden": ()}, {"hidden": (0,)}, {"learning_rate": 0.0}, {"n_best": 0}]
)
def test_settings_that_cannot_be(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        FlowConfig(**option)


def test_without_zuko(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(InputError, match=r"needs zuko; install evenet-hep\[baselines\]"):
        fit_flow(X, M)
