"""Laws of the hadronic-W hypotheses and of cluster transverse masses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.hadronic_w import JetPairs, closest_pair, cluster_transverse_mass
from evenet_hep.kinematics.vectors import mass_of

ANGLE = st.floats(-math.pi, math.pi)
MOMENTUM = st.floats(-200.0, 200.0)
# pt, eta, phi, mass
JET = st.tuples(st.floats(20.0, 300.0), st.floats(-2.5, 2.5), ANGLE, st.floats(0.0, 20.0))
JETS = st.lists(JET, max_size=9, unique_by=lambda jet: jet[0])

Jet = tuple[float, float, float, float]

laws = settings(deadline=None, max_examples=150)


def search(jets: list[Jet], **options: Any) -> JetPairs:
    pt, eta, phi, mass = (np.array([jet[i] for jet in jets]) for i in range(4))
    return closest_pair([0, len(jets)], pt, eta, phi, mass, np.ones(len(jets), bool), **options)


def distance(pairs: JetPairs, target: float = 80.4) -> np.ndarray:
    return np.abs(pairs.mass - target)


@laws
@given(JETS, st.randoms(use_true_random=False))
def test_the_order_of_jets_does_not_matter(jets: list[Jet], random: Any) -> None:
    order = list(range(len(jets)))
    random.shuffle(order)
    pairs, shuffled = search(jets), search([jets[i] for i in order])
    np.testing.assert_array_equal(shuffled.mass, pairs.mass)
    assert pairs.valid[0] == (len(jets) >= 2)
    if pairs.valid[0]:
        assert (order[shuffled.q1[0]], order[shuffled.q2[0]]) == (pairs.q1[0], pairs.q2[0])


@laws
@given(JETS, ANGLE)
def test_rotation_and_mirror(jets: list[Jet], angle: float) -> None:
    expected = distance(search(jets))
    for moved in (
        [(pt, eta, phi + angle, mass) for pt, eta, phi, mass in jets],
        [(pt, -eta, phi, mass) for pt, eta, phi, mass in jets],
    ):
        np.testing.assert_allclose(distance(search(moved)), expected, rtol=1e-6, atol=1e-4)


@laws
@given(JETS, st.floats(-1.5, 1.5))
def test_longitudinal_boost(jets: list[Jet], rapidity: float) -> None:
    boosted = []
    for pt, eta, phi, mass in jets:
        transverse = math.hypot(pt, mass)
        pz = transverse * math.sinh(math.asinh(pt * math.sinh(eta) / transverse) + rapidity)
        boosted.append((pt, math.asinh(pz / pt), phi, mass))
    # Nearly collinear jets: the mass is the square root of a rounding error.
    np.testing.assert_allclose(distance(search(boosted)), distance(search(jets)), rtol=1e-5, atol=1e-3)


@laws
@given(JETS, JET)
def test_another_candidate_can_only_come_closer(jets: list[Jet], extra: Jet) -> None:
    assume(len(jets) >= 2)
    before, after = (search(list(each), max_candidates=10) for each in (jets, [*jets, extra]))
    assert distance(after)[0] <= distance(before)[0]


@laws
@given(JETS, st.integers(2, 9))
def test_only_the_hardest_candidates_matter(jets: list[Jet], count: int) -> None:
    hardest = sorted(jets, reverse=True)[:count]
    np.testing.assert_array_equal(
        search(jets, max_candidates=count).mass, search(hardest, max_candidates=count).mass
    )


@laws
@given(
    st.tuples(MOMENTUM, MOMENTUM, MOMENTUM),
    st.floats(0.0, 300.0),
    st.tuples(MOMENTUM, MOMENTUM),
    st.floats(-300.0, 300.0),
)
def test_the_transverse_mass_is_a_lower_bound(
    momentum: tuple[float, float, float], mass: float, missing: tuple[float, float], nu_pz: float
) -> None:
    """m <= mT <= invariant mass of the system and a massless neutrino, whatever the neutrino's pz."""
    px, py, pz = momentum
    nu_px, nu_py = missing
    met = math.hypot(nu_px, nu_py)
    found = cluster_transverse_mass(
        [math.hypot(px, py)], [math.atan2(py, px)], [mass], [met], [math.atan2(nu_py, nu_px)]
    )[0]
    energy = math.sqrt(px * px + py * py + pz * pz + mass * mass) + math.hypot(met, nu_pz)
    invariant = mass_of(px + nu_px, py + nu_py, pz + nu_pz, energy)
    rounding = 1e-6 * energy + 1e-12
    assert mass - rounding <= found <= invariant + rounding


@laws
@given(st.floats(0.0, 300.0), ANGLE, st.floats(0.0, 300.0), st.floats(0.0, 300.0), ANGLE, ANGLE)
def test_the_transverse_mass_under_rotation(
    pt: float, phi: float, mass: float, met: float, met_phi: float, angle: float
) -> None:
    found = cluster_transverse_mass([pt], [phi], [mass], [met], [met_phi])
    rotated = cluster_transverse_mass([pt], [phi + angle], [mass], [met], [met_phi + angle])
    np.testing.assert_allclose(rotated, found, rtol=1e-9, atol=1e-9)
