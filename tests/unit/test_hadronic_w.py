from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from evenet_hep.kinematics.hadronic_w import HIGGS_MASS, closest_pair, cluster_transverse_mass
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import mass_of, to_cartesian


def random_jets(n_events: int, seed: int, max_jets: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_jets + 1, n_events)
    total = int(counts.sum())
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "pt": 20.0 + rng.exponential(30.0, total),
        "eta": rng.uniform(-2.4, 2.4, total),
        "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.choice([0.0, 4.0, 9.0], total),
        "is_candidate": rng.random(total) < 0.8,
    }


def numpy_twin(
    jets: dict[str, Any], event: int, target: float, companion: np.ndarray, max_candidates: int
) -> tuple[int, int, float]:
    """Every pair in turn; q1, q2 and the mass compared."""
    first, last = jets["offsets"][event : event + 2]
    order = [i for i in range(first, last) if jets["is_candidate"][i]]
    order = sorted(order, key=lambda i: -jets["pt"][i])[:max_candidates]
    momenta = np.stack(to_cartesian(jets["pt"], jets["eta"], jets["phi"], jets["mass"]))
    pairs = list(itertools.combinations(order, 2))
    if not pairs:
        return -1, -1, math.nan
    masses = {
        pair: float(mass_of(*(momenta[:, pair[0]] + momenta[:, pair[1]] + companion))) for pair in pairs
    }
    q1, q2 = min(pairs, key=lambda pair: abs(masses[pair] - target))
    return int(q1 - first), int(q2 - first), masses[q1, q2]


@pytest.mark.parametrize(
    ("target", "max_candidates"), [(W_MASS, 8), (HIGGS_MASS, 8), (W_MASS, 3), (W_MASS, 100)]
)
def test_against_a_loop_over_pairs(target: float, max_candidates: int) -> None:
    jets = random_jets(200, seed=21)
    rng = np.random.default_rng(22)
    companion = np.stack(
        to_cartesian(rng.exponential(30.0, 200), rng.uniform(-2, 2, 200), rng.uniform(-3, 3, 200), 40.0)
    )
    for added in (None, companion):
        pairs = closest_pair(**jets, target=target, companion=added, max_candidates=max_candidates)
        for event in range(200):
            extra = np.zeros(4) if added is None else added[:, event]
            q1, q2, mass = numpy_twin(jets, event, target, extra, max_candidates)
            assert (pairs.q1[event], pairs.q2[event]) == (q1, q2)
            np.testing.assert_allclose(pairs.mass[event], mass, rtol=1e-9)
        np.testing.assert_array_equal(pairs.valid, pairs.q1 >= 0)


def test_the_first_quark_is_the_harder_one() -> None:
    jets = random_jets(200, seed=23)
    pairs = closest_pair(**jets)
    starts = jets["offsets"][:-1]
    hard, soft = (jets["pt"][(starts + index)[pairs.valid]] for index in (pairs.q1, pairs.q2))
    assert (hard >= soft).all()


def test_equal_pairs_go_to_the_harder_jets() -> None:
    """Three identical jets: all pairs have the same mass."""
    same: dict[str, Any] = {"pt": [30.0] * 4, "eta": [0.0] * 4, "phi": [0.0] * 4, "mass": [0.0] * 4}
    pairs = closest_pair([0, 4], **same, is_candidate=[False, True, True, True])
    assert (pairs.q1[0], pairs.q2[0]) == (1, 2)


def test_what_is_no_candidate_may_hold_anything() -> None:
    pairs = closest_pair(
        [0, 3],
        [math.nan, 40.2, 40.2],
        [math.inf, 0.0, 0.0],
        [math.nan, 0.0, math.pi],
        [math.nan, 0.0, 0.0],
        [False, True, True],
    )
    assert (pairs.q1[0], pairs.q2[0]) == (1, 2)
    assert pairs.mass[0] == pytest.approx(80.4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", range(1, 5))
def test_a_candidate_that_is_not_finite_invalidates_the_event(column: int, bad: float) -> None:
    jets: list[Any] = [[0, 3], [30.0, 40.0, 50.0], [0.0] * 3, [0.0, 1.0, 2.0], [0.0] * 3, [True] * 3]
    jets[column] = [*jets[column][:2], bad]
    pairs = closest_pair(*jets)
    assert (pairs.valid[0], pairs.q1[0], pairs.q2[0]) == (False, -1, -1)
    assert math.isnan(pairs.mass[0])


def test_a_companion_that_is_missing_invalidates_the_event() -> None:
    jets = random_jets(3, seed=24, max_jets=5) | {"offsets": np.array([0, 2, 4, 6])}
    total: dict[str, Any] = {
        name: np.ones(6) if name != "is_candidate" else np.ones(6, bool) for name in jets if name != "offsets"
    }
    companion = np.zeros((4, 3))
    companion[2, 1] = math.nan
    pairs = closest_pair(jets["offsets"], **total, companion=companion)
    assert pairs.valid.tolist() == [True, False, True]


def test_no_events() -> None:
    pairs = closest_pair(**random_jets(0, seed=1))
    assert {values.shape for values in pairs} == {(0,)}
    assert pairs.q1.dtype == np.int64
    assert pairs.valid.dtype == np.bool_


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_candidates": 1}, "max_candidates must be at least 2; found 1"),
        ({"companion": np.zeros((4, 9))}, r"companion must have shape \(4, 3\); found \(4, 9\)"),
        ({"is_candidate": [True]}, "is_candidate must hold"),
        ({"offsets": [[0, 1]]}, "offsets must be"),
        ({"offsets": []}, "offsets must be"),
    ],
)
def test_input_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        closest_pair(**(random_jets(3, seed=25) | changes))


def test_negative_masses_mean_negative_squares() -> None:
    """Some jets of real files have a slightly negative mass: E^2 = p^2 - m^2 for them."""
    jets: dict[str, Any] = {
        "pt": [40.2, 40.2],
        "eta": [0.0, 0.0],
        "phi": [0.0, math.pi],
        "mass": [-2.0, -2.0],
    }
    pairs = closest_pair([0, 2], **jets, is_candidate=[True, True])
    assert pairs.mass[0] == pytest.approx(2 * math.sqrt(40.2**2 - 4.0))


def test_cluster_transverse_mass_against_the_definition() -> None:
    rng = np.random.default_rng(26)
    pt, mass, met = rng.exponential(50.0, (3, 1000))
    phi, met_phi = rng.uniform(-np.pi, np.pi, (2, 1000))
    px = pt * np.cos(phi) + met * np.cos(met_phi)
    py = pt * np.sin(phi) + met * np.sin(met_phi)
    expected = np.sqrt((np.sqrt(pt**2 + mass**2) + met) ** 2 - px**2 - py**2)
    np.testing.assert_allclose(cluster_transverse_mass(pt, phi, mass, met, met_phi), expected, rtol=1e-9)


def test_cluster_transverse_mass_at_its_edges() -> None:
    massless_along_met = cluster_transverse_mass([50.0], [1.3], [0.0], [70.0], [1.3])
    assert massless_along_met[0] == 0.0  # the definition would leave 1e-6 of rounding
    assert cluster_transverse_mass([0.0], [0.0], [0.0], [30.0], [0.0])[0] == 0.0
    assert cluster_transverse_mass([40.0], [0.0], [91.0], [0.0], [0.0])[0] == pytest.approx(91.0)
    assert math.isnan(cluster_transverse_mass([math.nan], [0.0], [91.0], [10.0], [0.0])[0])
    assert cluster_transverse_mass([], [], [], [], []).shape == (0,)
