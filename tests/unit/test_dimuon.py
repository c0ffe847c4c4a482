"""Dimuon calibration against the recipe of the paper written out in plain NumPy, and its edges."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events import spin_observables
from evenet_hep.kinematics.dimuon import MUON_MASS, calibrate_dimuon, dimuon_features
from evenet_hep.kinematics.vectors import boost, from_cartesian, mass_of, rest_frame, to_cartesian


def generate(n_events: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 8, (3, n_events)), rng.normal(0, 8, (3, n_events)), rng.uniform(5, 16, n_events)


def with_energy(p: np.ndarray) -> np.ndarray:
    return np.concatenate([p, np.sqrt((p * p).sum(axis=0) + MUON_MASS**2)[None]])


def recipe(p1: np.ndarray, p2: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boost by -beta of the pair, set both momenta to p* along n = unit(p1* - p2*), boost back."""
    first, second = with_energy(p1), with_energy(p2)
    pair = first + second
    beta = pair[:3] / pair[3]
    n = (rest_frame(first, pair) - rest_frame(second, pair))[:3]
    n /= np.sqrt((n * n).sum(axis=0))
    p_star = np.sqrt(mass**2 / 4 - MUON_MASS**2)
    half = (mass / 2)[None]
    return boost(np.concatenate([p_star * n, half]), beta), boost(np.concatenate([-p_star * n, half]), beta)


def test_is_the_recipe() -> None:
    p1, p2, mass = generate(1000, 4)
    result = calibrate_dimuon(p1, p2, mass)
    expected = recipe(p1, p2, mass)
    assert result.valid.all()
    np.testing.assert_allclose(result.muon1, expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.muon2, expected[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.m_gen, mass_of(*(with_energy(p1) + with_energy(p2))), rtol=1e-9)
    np.testing.assert_allclose(result.p_star, np.sqrt(mass**2 / 4 - MUON_MASS**2), rtol=1e-12)
    for k, (before, after) in enumerate(((with_energy(p1), result.muon1), (with_energy(p2), result.muon2))):
        step = after - before
        np.testing.assert_allclose(
            result.adjustment[k], np.linalg.norm(step, axis=0) / np.linalg.norm(before, axis=0), rtol=1e-9
        )
        np.testing.assert_allclose(
            result.adjustment_p3[k],
            np.linalg.norm(step[:3], axis=0) / np.linalg.norm(before[:3], axis=0),
            rtol=1e-9,
        )


def test_diagnostic_is_the_mass_scale() -> None:
    p1, p2, mass = generate(5000, 5)
    result = calibrate_dimuon(p1, p2, mass)
    assert np.mean(result.adjustment) == pytest.approx(np.mean(abs(result.scale - 1)), rel=0.01)


def test_slow_muons_keep_their_precision() -> None:
    """A muon thrown backwards out of a fast pair is on its mass shell, and the pair has the target mass."""
    p1, p2 = np.array([[0.0], [400.0], [3000.0]]), np.array([[3.0], [402.0], [3010.0]])
    result = calibrate_dimuon(p1, p2, 9.46)
    np.testing.assert_allclose(
        result.muon1 + result.muon2, (with_energy(p1) + with_energy(p2)) * result.scale, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("p1", "p2", "mass"),
    [
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], 0.2),
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], -9.0),
        ([5.0, 1.0, 2.0], [5.0, 1.0, 2.0], 9.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 9.0),
        ([np.nan, 1.0, 0.0], [0.0, 1.0, 0.0], 9.0),
        ([1.0, 1.0, 0.0], [0.0, np.inf, 0.0], 9.0),
        ([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], np.nan),
    ],
)
def test_invalid_input_is_nan(p1: list[float], p2: list[float], mass: float) -> None:
    result = calibrate_dimuon(np.array(p1)[:, None], np.array(p2)[:, None], mass)
    assert not result.valid.any()
    for name in ("muon1", "muon2", "p_star", "scale", "adjustment", "adjustment_p3"):
        assert np.isnan(getattr(result, name)).all(), name
    assert np.isnan(result.m_gen).all() == (not np.isfinite([*p1, *p2, mass]).all())


def test_threshold_is_valid() -> None:
    result = calibrate_dimuon([[1.0], [0.0], [0.0]], [[0.0], [1.0], [0.0]], 2 * MUON_MASS)
    assert result.valid.all()
    assert result.p_star[0] == 0.0
    np.testing.assert_allclose(result.muon1, result.muon2)


def test_features() -> None:
    p1 = np.stack(to_cartesian([10.0, 0.0], [0.1, 0.0], [3.1, 0.0], MUON_MASS))
    p2 = np.stack(to_cartesian([6.0, 0.0], [0.4, 0.0], [-3.1, 0.0], MUON_MASS))
    features = dimuon_features(p1, p2)
    np.testing.assert_allclose(features.ht, [16.0, 0.0])
    np.testing.assert_allclose(features.delta_r[0], np.hypot(0.3, 2 * np.pi - 6.2))
    np.testing.assert_allclose(features.pt_balance[0], np.hypot(16 * np.cos(3.1), 4 * np.sin(3.1)) / 16)
    assert np.isnan(features.pt_balance[1])


def test_empty_and_errors() -> None:
    nothing = np.zeros((3, 0))
    result = calibrate_dimuon(nothing, nothing, np.zeros(0))
    assert result.muon1.shape == (4, 0)
    assert result.valid.shape == (0,)
    with pytest.raises(ValueError, match="found \\(3, 2\\), \\(3, 3\\) and \\(\\)"):
        calibrate_dimuon(np.zeros((3, 2)), np.zeros((3, 3)), 9.0)
    with pytest.raises(ValueError, match="muon_mass must be a positive number"):
        calibrate_dimuon(nothing, nothing, 9.0, muon_mass=0.0)


def test_records() -> None:
    p1, p2, mass = generate(20, 6)
    flat = calibrate_dimuon(p1, p2, mass)
    muon1, muon2 = (ak.zip(dict(zip(("x", "y", "z"), p, strict=True))) for p in (p1, p2))
    for target in (mass, ak.Array(mass)):
        result = spin_observables.calibrate_dimuon(muon1, muon2, target)
        expected = from_cartesian(*flat.muon1)
        np.testing.assert_allclose(result.muon1["pt"], expected.pt, rtol=1e-9)
        np.testing.assert_allclose(result.muon1["eta"], expected.eta, rtol=1e-9)
        assert (result.muon2["mass"] == MUON_MASS).to_numpy().all()
    assert ak.parameters(result.muon1)["__record__"] == "Momentum4D"
    lacking = ak.mask(muon1, np.arange(20) != 3)
    result = spin_observables.calibrate_dimuon(lacking, muon2, 9.46)
    assert np.flatnonzero(~result.valid).tolist() == [3]
    assert np.isnan(result.muon1["mass"][3])
    assert len(spin_observables.calibrate_dimuon(muon1[:0], muon2[:0], 9.46).muon1) == 0
    features = spin_observables.dimuon_features(result.muon1, result.muon2)
    np.testing.assert_allclose(features.ht, (result.muon1["pt"] + result.muon2["pt"]).to_numpy())
    with pytest.raises(InputError, match=r"muon2 has no field 'pt'; .*it has eta, phi"):
        spin_observables.calibrate_dimuon(muon1, ak.zip({"eta": p1[0], "phi": p1[1]}), 9.46)
