"""Laws of the dilepton reconstruction for any top pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics.dilepton import TOP_MASS, dilepton_solutions, reconstruct_dilepton
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import boost, mass_of

cosines, azimuths = st.floats(-0.99, 0.99), st.floats(-3.1, 3.1)
directions = st.tuples(cosines, azimuths).map(
    lambda x: np.array([np.sqrt(1 - x[0] ** 2) * np.cos(x[1]), np.sqrt(1 - x[0] ** 2) * np.sin(x[1]), x[0]])
)
Event = dict[str, Any]


def decay(
    parent: np.ndarray, mother: float, first: float, second: float, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    p = np.sqrt((mother**2 - (first + second) ** 2) * (mother**2 - (first - second) ** 2)) / (2 * mother)
    pair = np.array([[*p * direction, np.hypot(p, first)], [*-p * direction, np.hypot(p, second)]])
    one, two = boost(pair.T, parent[:3] / parent[3]).T
    return one, two


@st.composite
def top_pairs(draw: st.DrawFn) -> Event:
    """Exact kinematics: a pair of 350 to 1500 GeV with any transverse momentum, decayed in steps."""
    half = draw(st.floats(175, 750))
    direction, pair_velocity = (
        draw(directions),
        np.array([draw(st.floats(-0.5, 0.5)), draw(st.floats(-0.5, 0.5)), draw(st.floats(-0.7, 0.7))]),
    )
    event: Event = {}
    for sign, lepton, b, nu in ((1, "lplus", "b", "nu"), (-1, "lminus", "bbar", "nubar")):
        top = boost(np.append(sign * np.sqrt(half**2 - TOP_MASS**2) * direction, half), pair_velocity)
        w, event[b] = decay(top, TOP_MASS, W_MASS, 4.8, draw(directions))
        event[lepton], event[nu] = decay(w, W_MASS, 0.1057, 0.0, draw(directions))
    # On one line the ellipse is a point, and rounding of the masses appears as its square root: see tests/unit.
    for lepton, b in (("lplus", "b"), ("lminus", "bbar")):
        across = np.linalg.norm(np.cross(event[lepton][:3], event[b][:3]))
        assume(across > 1e-2 * event[lepton][3] * event[b][3])
    event["met"] = (event["nu"] + event["nubar"])[:2]
    return event


def solve(event: Event, names: tuple[str, str, str, str] = ("lplus", "lminus", "b", "bbar")) -> Any:
    lplus, lminus, b, bbar = (event[name][:, None] for name in names)
    return dilepton_solutions(lplus, lminus, b, bbar, *event["met"][:, None])


def is_well_separated(found: Any) -> bool:
    """No two solutions nearly coincide, where rounding decides how many there are."""
    n = found.n_solutions[0]
    both = np.concatenate([found.neutrino[:, 0, :n], found.antineutrino[:, 0, :n]])
    apart = np.abs(both[:, :, None] - both[:, None, :]).max(axis=0) + 1e9 * np.eye(n)
    return bool(n in {2, 4} and apart.min() > 0.1)  # an odd number: two have met


@settings(max_examples=300, deadline=None)
@given(top_pairs())
def test_the_truth_is_among_the_solutions_and_all_close(event: Event) -> None:
    found = solve(event)
    n = found.n_solutions[0]
    assert 1 <= n <= 4
    truth = np.append(event["nu"], event["nubar"])[:, None]
    solutions = np.concatenate([found.neutrino[:, 0, :n], found.antineutrino[:, 0, :n]])
    nearest = np.abs(solutions - truth).max(axis=0).min()
    # Where two solutions meet, each has half the digits.
    assert nearest < (1e-4 if is_well_separated(found) else 0.05) * truth.max()
    for lepton, b, nu in (("lplus", "b", found.neutrino), ("lminus", "bbar", found.antineutrino)):
        w = event[lepton][:, None] + nu[:, 0, :n]
        np.testing.assert_allclose(mass_of(*w), W_MASS, rtol=1e-7)
        np.testing.assert_allclose(mass_of(*(w + event[b][:, None])), TOP_MASS, rtol=1e-7)
    total = (found.neutrino + found.antineutrino)[:2, 0, :n]
    np.testing.assert_allclose(total, np.repeat(event["met"][:, None], n, axis=1), atol=1e-6 * truth.max())


@settings(deadline=None)
@given(top_pairs(), st.floats(-3.1, 3.1), st.booleans(), st.floats(-0.8, 0.8))
def test_turns_mirrors_and_boosts_along_the_beam(
    event: Event, angle: float, mirrored: bool, velocity: float
) -> None:
    """The transverse plane and the beam are all that the reconstruction knows of the detector."""
    found = solve(event)
    assume(is_well_separated(found))
    c, s, flip = np.cos(angle), np.sin(angle), -1.0 if mirrored else 1.0
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, flip, 0], [0, 0, 0, 1]])

    def moved(p: np.ndarray) -> np.ndarray:
        return boost(turn @ p, np.array([0.0, 0.0, velocity]))

    other: Event = {name: moved(event[name]) for name in ("lplus", "lminus", "b", "bbar")}
    other["met"] = turn[:2, :2] @ event["met"]
    again = solve(other)
    n = found.n_solutions[0]
    assert again.n_solutions[0] == n
    scale = np.abs(found.neutrino[:, 0, :n]).max() + np.abs(found.antineutrino[:, 0, :n]).max()
    for mine, theirs in ((found.neutrino, again.neutrino), (found.antineutrino, again.antineutrino)):
        expected = moved(mine[:, 0, :n])
        distance = np.abs(expected[:, :, None] - theirs[:, 0, None, :n]).max(
            axis=0
        )  # the order by px is not the same
        assert distance.min(axis=1).max() < 1e-4 * scale
    np.testing.assert_allclose(np.nanmin(again.m_tt), np.nanmin(found.m_tt), rtol=1e-5)


@settings(deadline=None)
@given(top_pairs())
def test_exchange_of_the_legs(event: Event) -> None:
    found = solve(event)
    assume(is_well_separated(found))
    other = solve(event, ("lminus", "lplus", "bbar", "b"))
    n = found.n_solutions[0]
    assert other.n_solutions[0] == n
    order = np.argsort(other.antineutrino[0, 0, :n])
    scale = np.abs(found.neutrino[:, 0, :n]).max()
    np.testing.assert_allclose(other.antineutrino[:, 0, order], found.neutrino[:, 0, :n], atol=1e-5 * scale)


@settings(deadline=None)
@given(top_pairs(), st.floats(-80, 80), st.floats(-80, 80))
def test_a_reconstructed_pair_obeys_the_masses_for_any_met(event: Event, dx: float, dy: float) -> None:
    lplus, lminus, b, bbar = (event[name][:, None] for name in ("lplus", "lminus", "b", "bbar"))
    met = event["met"] + np.array([dx, dy])
    tops = reconstruct_dilepton(lplus, lminus, b, bbar, *met[:, None], pairing="given")
    assert tops.valid.all()
    for top, lepton, nu in ((tops.top, lplus, tops.neutrino), (tops.antitop, lminus, tops.antineutrino)):
        np.testing.assert_allclose(mass_of(*top), TOP_MASS, rtol=1e-7)
        np.testing.assert_allclose(mass_of(*(lepton + nu)), W_MASS, rtol=1e-7)
    gap = np.hypot(*(tops.neutrino + tops.antineutrino)[:2, 0] - met)
    assert abs(gap - tops.met_residual[0]) < 1e-6 * (100 + tops.neutrino[3, 0])
    # The true neutrinos miss by (dx, dy): the closest approach cannot be farther.
    assert tops.met_residual[0] <= np.hypot(dx, dy) + 1e-6
    assert tops.exact[0] == (tops.met_residual[0] == 0)


@settings(deadline=None)
@given(top_pairs())
def test_order_of_the_jets_does_not_matter(event: Event) -> None:
    lplus, lminus, b, bbar = (event[name][:, None] for name in ("lplus", "lminus", "b", "bbar"))
    one = reconstruct_dilepton(lplus, lminus, b, bbar, *event["met"][:, None])
    two = reconstruct_dilepton(lplus, lminus, bbar, b, *event["met"][:, None])
    np.testing.assert_array_equal(one.top, two.top)
    np.testing.assert_array_equal(one.pairing, 1 - two.pairing)
