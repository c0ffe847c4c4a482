"""Laws of the neutrino solution that hold for any lepton and MET."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.neutrino import NeutrinoResult, neutrino_pz
from evenet_hep.kinematics.vectors import mass_of, to_cartesian

ANGLE = st.floats(-math.pi, math.pi)
MASS = st.sampled_from([0.0, 0.000511, 0.1056583755, 1.77686])
LEPTON = st.tuples(st.floats(5.0, 500.0), st.floats(-3.0, 3.0), ANGLE, MASS)
MET = st.tuples(st.floats(0.0, 500.0), ANGLE)

Lepton = tuple[float, float, float, float]
Met = tuple[float, float]


@st.composite
def real_solutions(draw: st.DrawFn) -> tuple[Lepton, Met]:
    """A lepton, and a MET below the largest for which the W mass has real solutions in that direction."""
    lepton, met_phi = draw(LEPTON), draw(ANGLE)
    pt, _, phi, mass = lepton
    closing = math.hypot(pt, mass) - pt * math.cos(phi - met_phi)
    largest = min(0.5 * (80.4**2 - mass**2) / closing, 500.0) if closing > 0 else 500.0
    return lepton, (draw(st.floats(1e-4, 0.999)) * largest, met_phi)


laws = settings(deadline=None, max_examples=150)


def solve(lepton: Lepton, met: Met, **options: Any) -> NeutrinoResult:
    pt, eta, phi, mass = lepton
    return neutrino_pz(pt, eta, phi, mass, met[0], met[1], **options)


def w_masses(lepton: Lepton, met: float, met_phi: float, pz: np.ndarray) -> np.ndarray:
    """m(l, nu) for every pz."""
    px, py, lepton_pz, energy = (component.item() for component in to_cartesian(*lepton))
    nu_px, nu_py = met * math.cos(met_phi), met * math.sin(met_phi)
    return mass_of(px + nu_px, py + nu_py, lepton_pz + pz, energy + np.hypot(met, pz))


@laws
@given(real_solutions())
def test_real_roots_give_the_w_mass(event: tuple[Lepton, Met]) -> None:
    lepton, met = event
    nu = solve(lepton, met)
    assert nu.is_real[0]
    roots = np.array([nu.pz_minus[0], nu.pz_plus[0], nu.pz[0]])
    # The squared mass is a difference of squares of the energy.
    energy = np.hypot(met[0], roots) + lepton[0] * math.cosh(lepton[1])
    np.testing.assert_allclose(
        w_masses(lepton, *met, roots), 80.4, rtol=1e-12 * (energy.max() / 80.4) ** 2 + 1e-12
    )
    assert abs(nu.pz[0]) == np.abs(roots).min()


@laws
@given(LEPTON, MET)
def test_roots_are_real_up_to_the_transverse_mass(lepton: Lepton, met: Met) -> None:
    nu = solve(lepton, met)
    pt, _, phi, mass = lepton
    transverse_energy = math.hypot(pt, mass)
    transverse_mass2 = mass**2 + 2 * met[0] * (transverse_energy - pt * math.cos(phi - met[1]))
    assume(abs(transverse_mass2 / 80.4**2 - 1) > 1e-9)
    assert nu.is_real[0] == (transverse_mass2 < 80.4**2)
    assert nu.valid[0]


@settings(laws, max_examples=50)
@given(real_solutions())
def test_bisection_finds_the_same_roots(event: tuple[Lepton, Met]) -> None:
    """m(l, nu) has its minimum where the neutrino has the lepton's rapidity, and one root on either side of it."""
    lepton, met = event
    pt, eta, _, mass = lepton
    nu = solve(lepton, met)
    assume(met[0] > 1e-3)
    turning_point = met[0] * pt * math.sinh(eta) / math.hypot(pt, mass)
    assume(w_masses(lepton, *met, np.array([turning_point]))[0] < 80.4 * (1 - 1e-6))
    for root, side in ((nu.pz_minus[0], -1.0), (nu.pz_plus[0], 1.0)):
        inside, outside = turning_point, turning_point + side
        while w_masses(lepton, *met, np.array([outside]))[0] < 80.4:
            outside = turning_point + 2 * (outside - turning_point)
        for _ in range(60):
            middle = 0.5 * (inside + outside)
            if w_masses(lepton, *met, np.array([middle]))[0] < 80.4:
                inside = middle
            else:
                outside = middle
        np.testing.assert_allclose(root, middle, rtol=1e-6, atol=1e-6 * (1 + abs(turning_point)))


@laws
@given(LEPTON, MET)
def test_mirror(lepton: Lepton, met: Met) -> None:
    """eta -> -eta: the roots change sign and places."""
    pt, eta, phi, mass = lepton
    nu, mirrored = solve(lepton, met), solve((pt, -eta, phi, mass), met)
    np.testing.assert_array_equal(mirrored.pz_minus, -nu.pz_plus)
    np.testing.assert_array_equal(mirrored.pz_plus, -nu.pz_minus)
    if abs(nu.pz_minus[0]) != abs(nu.pz_plus[0]):
        np.testing.assert_array_equal(mirrored.pz, -nu.pz)


@laws
@given(real_solutions(), st.floats(-2.0, 2.0))
def test_longitudinal_boost(event: tuple[Lepton, Met], rapidity: float) -> None:
    """A boost along the beam shifts asinh(pz / MET) of either real root."""
    lepton, met = event
    pt, eta, phi, mass = lepton
    assume(met[0] > 0.1)
    nu = solve(lepton, met)
    assume(nu.is_real[0] and nu.discriminant[0] > 1e-6 * 80.4**4)
    transverse_energy = math.hypot(pt, mass)
    boosted_pz = transverse_energy * math.sinh(math.asinh(pt * math.sinh(eta) / transverse_energy) + rapidity)
    boosted = solve((pt, math.asinh(boosted_pz / pt), phi, mass), met)
    for ours, theirs in ((nu.pz_minus, boosted.pz_minus), (nu.pz_plus, boosted.pz_plus)):
        shifted = np.arcsinh(ours / met[0]) + rapidity
        np.testing.assert_allclose(np.arcsinh(theirs / met[0]), shifted, rtol=1e-7, atol=1e-6)


@laws
@given(LEPTON, MET, ANGLE)
def test_rotation_and_reflection_in_azimuth(lepton: Lepton, met: Met, angle: float) -> None:
    pt, eta, phi, mass = lepton
    nu = solve(lepton, met)
    assume(abs(nu.discriminant[0]) > 1e-6 * 80.4**4)
    reflected = neutrino_pz(pt, eta, -phi, mass, met[0], -met[1])
    np.testing.assert_array_equal(reflected.pz, nu.pz)
    rotated = neutrino_pz(pt, eta, phi + angle, mass, met[0], met[1] + angle)
    assert rotated.is_real[0] == nu.is_real[0]
    assume(abs(abs(nu.pz_plus[0]) - abs(nu.pz_minus[0])) > 1e-6 * (1 + abs(nu.pz[0])) or not nu.is_real[0])
    np.testing.assert_allclose(rotated.pz, nu.pz, rtol=1e-6, atol=1e-6 * (1 + abs(nu.pz_plus[0])))


@laws
@given(LEPTON, MET)
def test_scaled_met_is_the_largest_that_has_real_roots(lepton: Lepton, met: Met) -> None:
    scaled = solve(lepton, met, complex_solution="met_scaled")
    assume(not scaled.is_real[0])
    below = solve(lepton, (scaled.met[0] * (1 - 1e-6), met[1]))
    above = solve(lepton, (scaled.met[0] * (1 + 1e-6), met[1]))
    assert below.is_real[0]
    assert not above.is_real[0]
    assert below.pz_minus[0] <= scaled.pz[0] * (1 + np.sign(scaled.pz[0]) * 1e-5) + 1e-9
