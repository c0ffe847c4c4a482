"""Schedule, velocities and deterministic samples against reference numbers computed outside this package.

They lie beside some checkouts and are skipped without.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evenet_hep.model.diffusion import Velocity, add_noise, data_of, noise_of, sample, schedule

HERE = Path(__file__)
# The variable decides alone if it is set; otherwise the folder lies in or beside the checkout.
CANDIDATES = (
    [Path(os.environ["EVENET_SHARED"])]
    if "EVENET_SHARED" in os.environ
    else [HERE.parents[2] / "shared", HERE.parents[3] / "shared"]
)
FILE = next(
    (path for path in (folder / "vectors" / "diffusion.json" for folder in CANDIDATES) if path.is_file()),
    None,
)


def cases(function: str) -> list[Any]:
    if FILE is None:
        return []
    document = json.loads(FILE.read_text())
    tolerance = document["tolerance"]
    return [
        pytest.param(case["input"], case["expected"], tolerance, id=case["id"])
        for case in document["cases"]
        if case["function"] == function
    ]


def compare(expected: dict[str, float], found: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    for name, value in found.items():
        # rtol 1e-5 for the logarithm near both ends, as the file says
        relative = 1e-5 if name == "logsnr" else tolerance["rtol"]
        is_near = math.isclose(
            float(value), expected[name], rel_tol=relative, abs_tol=max(tolerance["atol"], 1e-12)
        )
        assert is_near, (name, float(value), expected[name])


def double(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def gaussian_velocity(mean: float, std: float) -> Velocity:
    """E[v | x] for data from a normal distribution."""

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma, _ = schedule(time)
        pull = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        return alpha * sigma * pull - sigma * (mean + alpha * std**2 * pull)

    return velocity


@pytest.mark.parametrize(("given", "expected", "tolerance"), cases("schedule"))
def test_schedule(given: Any, expected: Any, tolerance: Any) -> None:
    compare(expected, schedule(double(given["t"]))._asdict(), tolerance)
    # In single precision, too, as well as the rounding of t allows: alpha is a small number close to t = 1.
    alpha, sigma, logsnr = schedule(double(given["t"]).float())
    slack = 1e-6 + 2e-7 / expected["alpha"]
    compare(expected, {"alpha": alpha, "sigma": sigma}, {"rtol": slack, "atol": 0.0})
    assert abs(float(logsnr) - expected["logsnr"]) < 2e-5 + 2 * slack


@pytest.mark.parametrize(("given", "expected", "tolerance"), cases("forward_and_ddim"))
def test_noise_and_one_step_back(given: Any, expected: Any, tolerance: Any) -> None:
    x0, eps, time, before = (double(given[key]) for key in ("x0", "eps", "t", "t_prev"))
    noised = add_noise(x0, time, eps)
    data, noise = data_of(noised.x, noised.velocity, time), noise_of(noised.x, noised.velocity, time)
    found = {
        "x_t": noised.x,
        "v": noised.velocity,
        "x0_recovered": data,
        "eps_recovered": noise,
        "ddim_x_prev": add_noise(data, before, noise).x,
    }
    assert set(found) == set(expected)
    compare(expected, found, tolerance)


@pytest.mark.parametrize(("given", "expected", "tolerance"), cases("ddim_gaussian"))
def test_deterministic_samples_of_a_normal_distribution(given: Any, expected: Any, tolerance: Any) -> None:
    velocity, start = gaussian_velocity(given["mean"], given["std"]), double(given["x1"])
    steps = given["num_steps"]
    ddim = sample(velocity, start, steps=steps, method="ddim")
    compare(expected, {"x0": ddim}, tolerance)
    # Their limit of many steps is m + s x_1; 4.5e-5 of data at t = 1, and of noise at t = 0, come on top.
    fine = sample(velocity, start, steps=200)
    bound = 1e-4 * (1 + abs(given["x1"]) + abs(given["mean"]) * given["std"])
    assert abs(float(fine) - expected["continuum_limit"]) < bound
