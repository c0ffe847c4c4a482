"""Laws of four-vectors and boosts for any momenta."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.vectors import (
    boost,
    cartesian_scalar,
    from_cartesian,
    mass_of,
    rest_frame,
    rest_frame_scalar,
    to_cartesian,
)

component = st.floats(-500, 500)
mass = st.floats(0.1, 300)
detector = st.tuples(st.floats(0.01, 1e4), st.floats(-5, 5), st.floats(-3.14, 3.14), st.floats(0, 500))


@st.composite
def momenta(draw: st.DrawFn) -> np.ndarray:
    p = np.array([draw(component), draw(component), draw(component)])
    return np.append(p, np.sqrt(p @ p + draw(mass) ** 2))


velocities = st.tuples(*3 * [st.floats(-0.55, 0.55)]).map(np.array)


def dot(p: np.ndarray, q: np.ndarray) -> float:
    return float(p[3] * q[3] - p[:3] @ q[:3])


@settings(deadline=None)
@given(detector)
def test_round_trip(coordinates: tuple[float, float, float, float]) -> None:
    cartesian = to_cartesian(*coordinates)
    energy = float(cartesian.energy)
    pt, eta, phi, mass = (float(x) for x in from_cartesian(*cartesian))
    np.testing.assert_allclose([pt, eta, phi], coordinates[:3], rtol=1e-9, atol=1e-9)
    # What rounding of E^2 leaves of the mass.
    assert abs(mass * abs(mass) - coordinates[3] ** 2) <= 1e-14 * energy**2
    np.testing.assert_allclose(
        cartesian_scalar(*coordinates), np.stack(cartesian), rtol=1e-14, atol=1e-15 * energy
    )


@settings(deadline=None)
@given(momenta(), momenta(), velocities)
def test_boosts_keep_products(p: np.ndarray, q: np.ndarray, velocity: np.ndarray) -> None:
    before, after = dot(p, q), dot(boost(p, velocity), boost(q, velocity))
    assert abs(after - before) <= 1e-10 * p[3] * q[3]


@settings(deadline=None)
@given(momenta(), velocities)
def test_boosts_are_inverted_by_the_opposite(p: np.ndarray, velocity: np.ndarray) -> None:
    np.testing.assert_allclose(boost(boost(p, velocity), -velocity), p, rtol=1e-9, atol=1e-9 * p[3])


@settings(deadline=None)
@given(momenta(), velocities)
def test_what_is_across_the_velocity_stays(p: np.ndarray, velocity: np.ndarray) -> None:
    """No rotation: the change of momentum is along the velocity."""
    change = boost(p, velocity)[:3] - p[:3]
    assert np.abs(np.cross(change, velocity)).max() <= 1e-10 * p[3]


@settings(deadline=None)
@given(momenta(), momenta())
def test_rest_frames(p: np.ndarray, frame: np.ndarray) -> None:
    np.testing.assert_allclose(rest_frame(frame, frame)[:3], 0.0, atol=1e-8 * frame[3])
    np.testing.assert_allclose(rest_frame(p, frame)[3] * mass_of(*frame), dot(p, frame), rtol=1e-7, atol=1e-7)
    row = np.concatenate([p, frame, [float(mass_of(*frame))]])
    scalar = rest_frame_scalar(*row)
    np.testing.assert_allclose(scalar, rest_frame(p, frame), rtol=1e-9, atol=1e-9 * p[3])
    back = rest_frame(rest_frame(p, frame), frame * [-1, -1, -1, 1])
    gamma = frame[3] / float(mass_of(*frame))
    np.testing.assert_allclose(back, p, atol=1e-13 * p[3] * gamma**2 * 100 + 1e-9)
