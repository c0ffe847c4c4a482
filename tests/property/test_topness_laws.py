"""Laws of the topness that hold for any event."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.topness import TopnessResult, topness

ANGLE = st.floats(-math.pi, math.pi)
# pt, eta, phi, mass, is_bjet
JET = st.tuples(st.floats(20.0, 300.0), st.floats(-2.5, 2.5), ANGLE, st.floats(0.0, 20.0), st.booleans())
JETS = st.lists(JET, min_size=4, max_size=9, unique_by=lambda jet: jet[0])
# Away from eta = 0, where the two neutrino solutions are equally good and the convention takes the positive one.
ETA = st.floats(0.05, 2.4) | st.floats(-2.4, -0.05)
LEPTON_AND_MET = st.tuples(
    st.floats(25.0, 300.0),
    ETA,
    ANGLE,
    st.sampled_from([0.000511, 0.1056583755]),
    st.floats(0.0, 300.0),
    ANGLE,
)
STRATEGY = st.sampled_from(["joint", "sequential"])

Jet = tuple[float, float, float, float, bool]

laws = settings(deadline=None, max_examples=150)


def search(
    jets: list[Jet], event: tuple[float, ...], strategy: Any = "joint", **options: Any
) -> TopnessResult:
    jet_pt, jet_eta, jet_phi, jet_mass = (np.array([jet[i] for jet in jets]) for i in range(4))
    is_bjet = np.array([jet[4] for jet in jets], bool)
    pt, eta, phi, mass, met, met_phi = ([value] for value in event)
    return topness(
        [0, len(jets)],
        jet_pt,
        jet_eta,
        jet_phi,
        jet_mass,
        is_bjet,
        pt,
        eta,
        phi,
        mass,
        met,
        met_phi,
        strategy=strategy,
        **options,
    )


def close(first: TopnessResult, second: TopnessResult) -> None:
    """Equal but for rounding, which the square root at the edge of complex neutrinos makes larger."""
    assert first.valid[0] == second.valid[0]
    np.testing.assert_allclose(first.topness, second.topness, rtol=1e-5, atol=1e-5)


@laws
@given(JETS, LEPTON_AND_MET, STRATEGY, st.randoms(use_true_random=False))
def test_the_order_of_jets_does_not_matter(
    jets: list[Jet], event: tuple[float, ...], strategy: str, random: Any
) -> None:
    order = list(range(len(jets)))
    random.shuffle(order)
    result, shuffled = search(jets, event, strategy), search([jets[i] for i in order], event, strategy)
    for name in ("topness", "valid", "dr_lb", "m_lb", "tlep_mass", "whad_mass", "whad_dr_qq", "thad_mass"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(result, name), rtol=1e-12, err_msg=name)
    assume(result.valid[0])
    for name in ("b_lep", "b_had"):
        assert order[getattr(shuffled, name)[0]] == getattr(result, name)[0]
    assert {order[shuffled.q1[0]], order[shuffled.q2[0]]} == {result.q1[0], result.q2[0]}
    assert shuffled.q1[0] < shuffled.q2[0]


@laws
@given(JETS, LEPTON_AND_MET, STRATEGY, ANGLE)
def test_rotation_about_the_beam(
    jets: list[Jet], event: tuple[float, ...], strategy: str, angle: float
) -> None:
    pt, eta, phi, mass, met, met_phi = event
    turned = [(jet[0], jet[1], jet[2] + angle, jet[3], jet[4]) for jet in jets]
    close(
        search(turned, (pt, eta, phi + angle, mass, met, met_phi + angle), strategy),
        search(jets, event, strategy),
    )


@laws
@given(JETS, LEPTON_AND_MET, STRATEGY)
def test_mirror(jets: list[Jet], event: tuple[float, ...], strategy: str) -> None:
    pt, eta, phi, mass, met, met_phi = event
    mirrored = [(jet[0], -jet[1], jet[2], jet[3], jet[4]) for jet in jets]
    close(search(mirrored, (pt, -eta, phi, mass, met, met_phi), strategy), search(jets, event, strategy))


@laws
@given(JETS, LEPTON_AND_MET)
def test_joint_is_never_above_sequential(jets: list[Jet], event: tuple[float, ...]) -> None:
    joint, sequential = search(jets, event), search(jets, event, "sequential")
    assert joint.valid[0] == sequential.valid[0]
    assume(joint.valid[0])
    assert joint.topness[0] <= sequential.topness[0]
    if joint.b_lep[0] == sequential.b_lep[0]:
        assert joint.topness[0] == sequential.topness[0]


@laws
@given(JETS, LEPTON_AND_MET, JET, st.integers(0, 9))
def test_another_jet_can_only_lower_joint(
    jets: list[Jet], event: tuple[float, ...], extra: Jet, place: int
) -> None:
    before, after = search(jets, event), search([*jets[:place], extra, *jets[place:]], event)
    assume(before.valid[0])
    assert after.valid[0]
    assert after.topness[0] <= before.topness[0] * (1 + 1e-12)


@laws
@given(JETS, LEPTON_AND_MET, STRATEGY, JET, st.integers(0, 9))
def test_a_masked_jet_changes_nothing(
    jets: list[Jet], event: tuple[float, ...], strategy: str, extra: Jet, place: int
) -> None:
    padded = [*jets[:place], extra, *jets[place:]]
    mask = np.arange(len(padded)) != min(place, len(jets))
    result, masked = search(jets, event, strategy), search(padded, event, strategy, mask=mask)
    np.testing.assert_array_equal(masked.topness, result.topness)
    for name in ("b_lep", "b_had", "q1", "q2"):
        index = getattr(result, name)[0]
        assert getattr(masked, name)[0] == index + (index >= min(place, len(jets)))


@laws
@given(JETS, LEPTON_AND_MET, STRATEGY)
def test_valid_means_enough_candidates(jets: list[Jet], event: tuple[float, ...], strategy: str) -> None:
    n_b = sum(jet[4] for jet in jets)
    result = search(jets, event, strategy)
    assert result.valid[0] == (n_b >= 2 and len(jets) - n_b >= 2)
    assert result.valid[0] == (not math.isnan(result.topness[0]))
    assert not result.topness[0] < 0
