from __future__ import annotations

import math

import numpy as np
import pytest

from evenet_hep.kinematics.angles import (
    delta_phi,
    delta_phi_scalar,
    delta_r,
    delta_r_scalar,
    nearest_delta_r,
)

PI = math.pi


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1.0, 0.25, 0.75),
        (PI, 0.0, PI),
        (0.0, PI, PI),  # -pi is not in the interval
        (PI, -PI, 0.0),
        (3.1, -3.1, 6.2 - 2 * PI),
        (-3.1, 3.1, 2 * PI - 6.2),
        (20 * PI + 0.5, 0.0, 0.5),
    ],
)
def test_delta_phi(first: float, second: float, expected: float) -> None:
    assert delta_phi(first, second) == pytest.approx(expected, abs=1e-13)
    assert delta_phi_scalar(first, second) == pytest.approx(expected, abs=1e-13)


def test_the_interval_is_half_open_to_the_last_bit() -> None:
    edges = np.array(
        [PI, -PI, np.nextafter(PI, 4), np.nextafter(-PI, -4), np.nextafter(-PI, 0), 3 * PI, -3 * PI]
    )
    for phi in np.concatenate([edges, edges + 2 * PI, edges * 1e6]):
        wrapped = delta_phi(phi, 0.0)
        assert -PI < wrapped <= PI
        assert delta_phi_scalar(phi, 0.0) == wrapped


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_azimuth_that_is_not_finite_has_no_distance(bad: float) -> None:
    assert math.isnan(delta_phi_scalar(bad, 0.0))
    assert math.isnan(delta_r_scalar(0.0, bad, 0.0, 0.0))
    assert np.isnan(delta_phi([bad, 1.0], 0.0)).tolist() == [True, False]
    assert np.isnan(delta_r(0.0, [bad, 1.0], 0.0, 0.0)).tolist() == [True, False]


def test_arrays_and_scalars_agree_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    eta1, eta2 = rng.uniform(-3, 3, (2, 500))
    phi1, phi2 = rng.uniform(-10, 10, (2, 500))
    expected = [delta_r_scalar(*row) for row in zip(eta1, phi1, eta2, phi2, strict=True)]
    np.testing.assert_array_equal(delta_r(eta1, phi1, eta2, phi2), expected)


def test_broadcasting_and_float32() -> None:
    assert delta_phi(np.zeros((2, 1)), np.ones(3)).shape == (2, 3)
    assert delta_phi(np.float32(0.1), np.float32(0.2)).dtype == np.float64
    assert delta_r([], [], [], []).shape == (0,)


def test_nearest_delta_r_against_a_loop() -> None:
    rng = np.random.default_rng(4)
    counts, other_counts = rng.integers(0, 5, (2, 60))
    offsets, other_offsets = (np.concatenate([[0], np.cumsum(c)]) for c in (counts, other_counts))
    eta, phi = rng.uniform(-3, 3, (2, offsets[-1]))
    other_eta, other_phi = rng.uniform(-3, 3, (2, other_offsets[-1]))
    found = nearest_delta_r(offsets, eta, phi, other_offsets, other_eta, other_phi)
    for event in range(len(counts)):
        others = slice(other_offsets[event], other_offsets[event + 1])
        for i in range(offsets[event], offsets[event + 1]):
            distances = delta_r(eta[i], phi[i], other_eta[others], other_phi[others])
            assert found[i] == distances.min() if len(distances) else np.isnan(found[i])


def test_nearest_delta_r_passes_over_an_object_without_direction() -> None:
    one, three = np.array([0, 1]), np.array([0, 3])
    zero = np.zeros(1)
    assert nearest_delta_r(one, zero, zero, three, np.array([0.3, np.nan, 0.5]), np.zeros(3)) == [0.3]


def test_nearest_delta_r_needs_the_same_events() -> None:
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="found 1 and 2"):
        nearest_delta_r(np.array([0, 0]), empty, empty, np.array([0, 0, 0]), empty, empty)
