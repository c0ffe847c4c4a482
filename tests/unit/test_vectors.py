"""Four-vectors against the vector package, at their edges, and the compiled scalars against the array functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import vector

from evenet_hep.kinematics.vectors import (
    boost,
    cartesian_scalar,
    components,
    four_momenta,
    from_cartesian,
    invariant_mass,
    mass_of,
    mass_scalar,
    rest_frame,
    rest_frame_scalar,
    to_cartesian,
)


@pytest.fixture
def objects() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    return (
        rng.exponential(50.0, 500),
        rng.normal(0, 2, 500),
        rng.uniform(-np.pi, np.pi, 500),
        rng.exponential(10.0, 500),
    )


def test_agrees_with_vector(objects: tuple[np.ndarray, ...]) -> None:
    pt, eta, phi, mass = objects
    theirs: Any = vector.array({"pt": pt, "eta": eta, "phi": phi, "mass": mass})
    ours = to_cartesian(*objects)
    for name in ("px", "py", "pz", "energy"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-13, atol=1e-12)
    for got, expected in zip(from_cartesian(*ours), objects, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    total = theirs[:250] + theirs[250:]
    pairs = [column.reshape(2, 250) for column in objects]
    np.testing.assert_allclose(invariant_mass(*pairs), total.mass, rtol=1e-9)
    np.testing.assert_allclose(invariant_mass(*(pair.T for pair in pairs), axis=1), total.mass, rtol=1e-9)


def test_boosts_agree_with_vector(objects: tuple[np.ndarray, ...]) -> None:
    momenta = np.stack(to_cartesian(*objects))
    frame = momenta[:, ::-1]
    theirs: Any = vector.array(dict(zip(("px", "py", "pz", "E"), momenta, strict=True)))
    frames = vector.array(dict(zip(("px", "py", "pz", "E"), frame, strict=True)))
    expected = theirs.boostCM_of_p4(frames)
    np.testing.assert_allclose(
        rest_frame(momenta, frame), [expected.px, expected.py, expected.pz, expected.E], rtol=1e-7, atol=1e-6
    )
    beta = np.random.default_rng(1).uniform(-0.5, 0.5, (3, momenta.shape[1]))
    expected = theirs.boost_beta3(vector.array(dict(zip("xyz", beta, strict=True))))
    np.testing.assert_allclose(
        boost(momenta, beta), [expected.px, expected.py, expected.pz, expected.E], rtol=1e-10, atol=1e-9
    )


def test_scalars_are_the_array_functions(objects: tuple[np.ndarray, ...]) -> None:
    momenta = np.stack(to_cartesian(*objects))
    np.testing.assert_allclose(
        np.transpose([cartesian_scalar(*row) for row in zip(*objects, strict=True)]),
        momenta,
        rtol=1e-14,
        atol=1e-13,
    )
    np.testing.assert_array_equal([mass_scalar(*row) for row in momenta.T], mass_of(*momenta))
    frame = momenta[:, ::-1]
    rows = np.concatenate([momenta, frame, mass_of(*frame)[None]]).T
    boosted = [rest_frame_scalar(*row) for row in rows]
    np.testing.assert_allclose(np.transpose(boosted), rest_frame(momenta, frame), rtol=1e-11, atol=1e-9)


def test_boost_and_rest_frame_are_inverse() -> None:
    frame = np.array([30.0, -40.0, 1200.0, 1250.0])
    velocity = frame[:3] / frame[3]
    momentum = np.array([1.0, 2.0, -3.0, 10.0])
    np.testing.assert_allclose(rest_frame(boost(momentum, velocity), frame), momentum, rtol=1e-9)
    np.testing.assert_allclose(boost([0.0, 0.0, 0.0, float(mass_of(*frame))], velocity), frame, rtol=1e-12)


def test_boosts_broadcast() -> None:
    momenta = np.stack(to_cartesian(np.arange(1.0, 7.0).reshape(3, 2), 0.5, 1.0, 0.1))
    frame = np.stack(to_cartesian([20.0, 30.0], 0.1, 0.2, 80.0))
    together = rest_frame(momenta, frame)
    assert together.shape == (4, 3, 2)
    np.testing.assert_allclose(together[:, 2], rest_frame(momenta[:, 2], frame), rtol=1e-14)
    assert boost(momenta, [0.0, 0.0, 0.5]).shape == (4, 3, 2)


def test_edges() -> None:
    along = from_cartesian(
        [0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, -0.0], [5.0, -5.0, 0.0, 0.0], [5.0, 5.0, 0.0, 1.0]
    )
    np.testing.assert_array_equal(along.eta, [np.inf, -np.inf, 0.0, 0.0])
    assert along.phi[3] == np.pi
    assert along.mass.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert np.isnan(np.stack(to_cartesian(np.nan, 0.0, 0.0, 0.0))[[0, 3]]).all()
    assert np.isnan(cartesian_scalar(np.nan, 0.0, 0.0, 0.0)[3])
    assert np.isnan(mass_scalar(np.nan, 0.0, 0.0, 1.0))
    assert np.isnan(rest_frame([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0])).all()
    assert np.isnan(boost([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0])).all()


def test_negative_masses_survive_the_round_trip() -> None:
    """E^2 = p^2 + m |m| both ways, as in the vector package."""
    cartesian = to_cartesian(30.0, 0.4, 0.1, -2.0)
    assert math.isclose(from_cartesian(*cartesian).mass, -2.0, rel_tol=1e-9)
    theirs = vector.obj(pt=30.0, eta=0.4, phi=0.1, mass=-2.0)
    assert math.isclose(float(cartesian.energy), theirs.E, rel_tol=1e-14)
    assert to_cartesian(1.0, 0.0, 0.0, -5.0).energy == 0.0
    assert mass_scalar(5.0, 0.0, 0.0, 3.0) == -4.0
    assert cartesian_scalar(1.0, 0.0, 0.0, -5.0)[3] == 0.0


def test_empty() -> None:
    nothing = np.zeros((4, 0))
    assert to_cartesian(*nothing).px.shape == (0,)
    assert from_cartesian(*nothing).pt.shape == (0,)
    assert rest_frame(nothing, nothing).shape == (4, 0)
    assert boost(nothing, nothing[:3]).shape == (4, 0)
    np.testing.assert_array_equal(invariant_mass(*np.zeros((4, 0, 3))), np.zeros(3))


def test_shapes_are_checked() -> None:
    with pytest.raises(
        ValueError, match=r"top must have 4 rows \(px, py, pz, energy\); found shape \(3, 2\)"
    ):
        components("top", np.zeros((3, 2)), 4)
    with pytest.raises(ValueError, match=r"velocity must have 3 rows \(px, py, pz\); found shape \(\)"):
        boost([0.0, 0.0, 0.0, 1.0], 0.5)


def test_four_momenta_are_cosines_and_sines() -> None:
    rng = np.random.default_rng(6)
    phi = np.concatenate([rng.uniform(-np.pi, np.pi, 1000), [0.0, np.pi, -np.pi, np.pi / 2, 40.0]])
    pt, eta = rng.exponential(50.0, len(phi)), rng.uniform(-5.0, 5.0, len(phi))
    mass = rng.uniform(-1.0, 20.0, len(phi))
    found = four_momenta(pt, eta, phi, mass)
    np.testing.assert_allclose(found[0], pt * np.cos(phi), rtol=0, atol=1e-15 * pt.max())
    np.testing.assert_allclose(found[1], pt * np.sin(phi), rtol=0, atol=1e-15 * pt.max())
    np.testing.assert_allclose(found[2], pt * np.sinh(eta), rtol=1e-14)
    np.testing.assert_allclose(
        found[3] ** 2 - found[2] ** 2, pt**2 + mass * np.abs(mass), rtol=1e-9, atol=1e-9 * pt.max() ** 2
    )


def test_four_momenta_of_what_is_not_finite() -> None:
    bad = np.array([np.nan, np.inf])
    assert not np.isfinite(four_momenta(np.ones(2), np.zeros(2), bad, np.zeros(2)).sum(axis=0)).any()
    assert not np.isfinite(four_momenta(np.ones(2), bad, np.zeros(2), np.zeros(2)).sum(axis=0)).any()


@pytest.mark.parametrize("py", [0.0, -0.0, -1e-20, 1e-20])
def test_azimuths_end_at_plus_pi(py: float) -> None:
    assert from_cartesian(-1.0, py, 0.0, 2.0).phi == np.pi
