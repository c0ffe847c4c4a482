"""Laws of the dimuon calibration for any pair of muons."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.dimuon import MUON_MASS, DimuonCalibration, calibrate_dimuon
from evenet_hep.kinematics.vectors import boost, mass_of

component = st.floats(-60, 60)
vectors = st.tuples(component, component, component).map(np.array)
masses = st.floats(0.3, 100)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    p1, p2 = draw(vectors), draw(vectors)
    # The mass of nearly parallel muons is not in their four-momenta any more; tests/golden has those.
    assume(np.linalg.norm(np.cross(p1, p2)) > 1e-2 * (1 + np.linalg.norm(p1) * np.linalg.norm(p2)))
    return p1, p2


def calibrate(p1: np.ndarray, p2: np.ndarray, mass: float) -> DimuonCalibration:
    result = calibrate_dimuon(p1[:, None], p2[:, None], mass)
    assert result.valid.all()
    return result


def both(result: DimuonCalibration) -> np.ndarray:
    return np.stack([result.muon1[:, 0], result.muon2[:, 0]])


def with_energy(p: np.ndarray) -> np.ndarray:
    return np.append(p, np.sqrt(p @ p + MUON_MASS**2))


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@settings(deadline=None)
@given(pairs(), masses)
def test_pair_is_scaled_and_on_shell(pair: tuple[np.ndarray, np.ndarray], mass: float) -> None:
    result = calibrate(*pair, mass)
    after, before = both(result), np.stack([with_energy(p) for p in pair])
    close(after.sum(axis=0), before.sum(axis=0) * mass / result.m_gen)
    np.testing.assert_allclose(mass_of(*after.sum(axis=0)), mass, rtol=1e-6)
    np.testing.assert_allclose(
        after[:, 3] ** 2 - (after[:, :3] ** 2).sum(axis=1), MUON_MASS**2, atol=1e-12 * after[:, 3].max() ** 2
    )


@settings(deadline=None)
@given(pairs(), masses, masses)
def test_only_the_last_target_counts(pair: tuple[np.ndarray, np.ndarray], first: float, mass: float) -> None:
    """Hence idempotent, and the identity for a pair that has the target mass."""
    assume(min(first, mass) > 1.0)
    once = calibrate(*pair, first)
    close(both(calibrate(once.muon1[:3, 0], once.muon2[:3, 0], mass)), both(calibrate(*pair, mass)))
    own = calibrate(*pair, float(once.m_gen[0]))
    close(both(own), np.stack([with_energy(p) for p in pair]))
    assert own.adjustment.max() < 1e-6


@settings(deadline=None)
@given(pairs(), masses)
def test_exchange(pair: tuple[np.ndarray, np.ndarray], mass: float) -> None:
    there, back = calibrate(*pair, mass), calibrate(pair[1], pair[0], mass)
    close(both(back)[::-1], both(there))
    np.testing.assert_allclose(back.adjustment[::-1], there.adjustment, rtol=1e-7, atol=1e-9)


@settings(deadline=None)
@given(pairs(), masses, st.integers(0, 2**32 - 1))
def test_rotations_and_reflections(pair: tuple[np.ndarray, np.ndarray], mass: float, seed: int) -> None:
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    plain, turned = both(calibrate(*pair, mass)), both(calibrate(turn @ pair[0], turn @ pair[1], mass))
    close(turned[:, :3], plain[:, :3] @ turn.T)


@settings(deadline=None)
@given(pairs(), masses, st.tuples(*3 * [st.floats(-0.5, 0.5)]).map(np.array))
def test_boosts(pair: tuple[np.ndarray, np.ndarray], mass: float, velocity: np.ndarray) -> None:
    moved = [boost(with_energy(p), velocity)[:3] for p in pair]
    plain, boosted = both(calibrate(*pair, mass)), both(calibrate(moved[0], moved[1], mass))
    np.testing.assert_allclose(boosted.T, boost(plain.T, velocity), rtol=1e-6, atol=1e-6 * plain.max())


@settings(deadline=None)
@given(pairs(), st.floats(1.0, 100))
def test_muons_are_scaled_but_for_their_mass(pair: tuple[np.ndarray, np.ndarray], mass: float) -> None:
    """Each four-momentum is multiplied by M / m_gen up to the order of (m_mu / M)^2."""
    result = calibrate(*pair, mass)
    assume(result.m_gen[0] > 1.0)
    fraction = MUON_MASS**2 * (1 / mass**2 + 1 / result.m_gen[0] ** 2)
    total = both(result).sum(axis=0)[3]
    for before, after in zip(pair, both(result), strict=True):
        assert np.abs(after - with_energy(before) * result.scale[0]).max() <= 4 * fraction * total + 1e-9


@settings(deadline=None)
@given(st.lists(st.tuples(vectors, vectors, masses), max_size=5))
def test_events_do_not_see_each_other(events: list[tuple[np.ndarray, np.ndarray, float]]) -> None:
    p1, p2 = (np.array([event[k] for event in events]).reshape(-1, 3).T for k in range(2))
    together = calibrate_dimuon(p1, p2, np.array([event[2] for event in events]))
    for i, (first, second, mass) in enumerate(events):
        alone = calibrate_dimuon(first[:, None], second[:, None], mass)
        np.testing.assert_array_equal(together.muon1[:, i], alone.muon1[:, 0])
        np.testing.assert_array_equal(together.m_gen[i], alone.m_gen[0])
