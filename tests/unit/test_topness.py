from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import awkward as ak
import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events import observables
from evenet_hep.kinematics.neutrino import neutrino_pz
from evenet_hep.kinematics.topness import TopnessConstants, TopnessResult, topness

Strategy = Literal["joint", "sequential"]

INDICES = ("b_lep", "b_had", "q1", "q2")
LEPTON = ("lepton_pt", "lepton_eta", "lepton_phi", "lepton_mass", "met", "met_phi")


def random_events(n_events: int, seed: int, max_jets: int = 9) -> dict[str, Any]:
    """Keyword arguments of ``topness``; some events have too few candidates, a few have masked jets."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_jets + 1, n_events)
    total = int(counts.sum())
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "pt": 20.0 + rng.exponential(40.0, total),
        "eta": rng.uniform(-2.4, 2.4, total),
        "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.choice([0.0, 5.0, 11.0], total),
        "is_bjet": rng.random(total) < 0.45,
        "lepton_pt": 25.0 + rng.exponential(30.0, n_events),
        "lepton_eta": rng.uniform(-2.4, 2.4, n_events),
        "lepton_phi": rng.uniform(-np.pi, np.pi, n_events),
        "lepton_mass": np.full(n_events, 0.1056583755),
        "met": rng.exponential(45.0, n_events),
        "met_phi": rng.uniform(-np.pi, np.pi, n_events),
        "mask": rng.random(total) < 0.95,
    }


def four_vector(pt: float, eta: float, phi: float, mass: float) -> np.ndarray:
    px, py, pz = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
    return np.array([px, py, pz, math.sqrt(px * px + py * py + pz * pz + mass * mass)])


def mass(momentum: np.ndarray) -> float:
    return math.sqrt(momentum[3] ** 2 - momentum[0] ** 2 - momentum[1] ** 2 - momentum[2] ** 2)


def assignments(bjets: list[int], light: list[int]) -> Iterator[tuple[int, int, int, int]]:
    for b_lep, b_had in itertools.permutations(bjets, 2):
        for q1, q2 in itertools.combinations(light, 2):
            yield b_lep, b_had, q1, q2


def exhaustive(events: dict[str, Any], event: int, *, sequential: bool) -> tuple[float, tuple[int, ...]]:
    """The definition: every assignment in turn."""
    first, last = events["offsets"][event : event + 2]
    jets = [i for i in range(first, last) if events["mask"][i]]
    jets.sort(key=lambda i: -events["pt"][i])  # stable
    momenta = {i: four_vector(*(events[name][i] for name in ("pt", "eta", "phi", "mass"))) for i in jets}
    bjets, light = [i for i in jets if events["is_bjet"][i]], [i for i in jets if not events["is_bjet"][i]]
    pt, eta, phi, lepton_mass, met, met_phi = (events[name][event] for name in LEPTON)
    pz = neutrino_pz(pt, eta, phi, lepton_mass, met, met_phi).pz[0]
    neutrino = np.array([met * math.cos(met_phi), met * math.sin(met_phi), pz, math.hypot(met, pz)])
    w_lep = four_vector(pt, eta, phi, lepton_mass) + neutrino

    def leptonic(b: int) -> float:
        return ((mass(w_lep + momenta[b]) - 172.5) / 28.72) ** 2

    def chi2(assignment: tuple[int, int, int, int]) -> float:
        b_lep, b_had, q1, q2 = assignment
        w_had = momenta[q1] + momenta[q2]
        hadronic = ((mass(w_had) - 80.4) / 11.83) ** 2 + ((mass(w_had + momenta[b_had]) - 172.5) / 20.87) ** 2
        return leptonic(b_lep) + hadronic

    candidates = list(assignments(bjets, light))
    if sequential and candidates:
        nearest = min(bjets, key=leptonic)
        candidates = [c for c in candidates if c[0] == nearest]
    if not candidates:
        return math.nan, (-1, -1, -1, -1)
    best = min(candidates, key=chi2)
    b_lep, b_had, q1, q2 = (int(i - first) for i in best)
    return chi2(best), (b_lep, b_had, min(q1, q2), max(q1, q2))


def same(first: TopnessResult, second: TopnessResult) -> None:
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_against_exhaustive_search(strategy: Strategy, parallel: bool) -> None:
    events = random_events(300, seed=11)
    result = topness(**events, strategy=strategy, parallel=parallel)
    assert 60 < result.valid.sum() < 290
    for event in range(300):
        chi2, indices = exhaustive(events, event, sequential=strategy == "sequential")
        np.testing.assert_allclose(result.topness[event], chi2, rtol=1e-10, atol=1e-10)
        assert tuple(getattr(result, name)[event] for name in INDICES) == indices
        assert result.valid[event] == (chi2 == chi2)


def test_the_described_assignment_makes_the_topness() -> None:
    events = random_events(200, seed=12)
    result = topness(**events)
    c = TopnessConstants()
    chi2 = (
        ((result.whad_mass - c.w_mass) / c.w_sigma) ** 2
        + ((result.thad_mass - c.top_mass) / c.hadronic_sigma) ** 2
        + ((result.tlep_mass - c.top_mass) / c.leptonic_sigma) ** 2
    )
    np.testing.assert_allclose(chi2, result.topness, rtol=1e-8, atol=1e-9)
    for event in np.flatnonzero(result.valid):
        start = events["offsets"][event]
        b_lep, b_had, q1, q2 = (start + getattr(result, name)[event] for name in INDICES)
        jets = {
            i: four_vector(*(events[name][i] for name in ("pt", "eta", "phi", "mass")))
            for i in (b_lep, b_had, q1, q2)
        }
        lepton = four_vector(*(events[name][event] for name in LEPTON[:4]))
        assert result.m_lb[event] == pytest.approx(mass(lepton + jets[b_lep]), rel=1e-9)
        w_had = jets[q1] + jets[q2]
        eta, phi = math.asinh(w_had[2] / math.hypot(*w_had[:2])), math.atan2(w_had[1], w_had[0])
        for found, first, second in (
            (result.dr_lb, [events[name][event] for name in LEPTON[1:3]], b_lep),
            (result.whad_dr_qq, [events["eta"][q1], events["phi"][q1]], q2),
            (result.thad_dr_bqq, [eta, phi], b_had),
        ):
            turn = abs(first[1] - events["phi"][second])
            distance = math.hypot(first[0] - events["eta"][second], min(turn, 2 * math.pi - turn))
            assert found[event] == pytest.approx(distance, rel=1e-9)


def test_other_constants() -> None:
    events = random_events(50, seed=13)
    wide = TopnessConstants(w_sigma=2 * 11.83, hadronic_sigma=2 * 20.87, leptonic_sigma=2 * 28.72)
    np.testing.assert_allclose(
        topness(**events, constants=wide).topness, topness(**events).topness / 4, rtol=1e-12
    )
    assert np.nansum(topness(**events, constants=TopnessConstants(top_mass=160.0)).topness) > 0


def test_equal_assignments_go_to_the_harder_then_the_earlier_jet() -> None:
    """Two pairs of identical jets: whichever way they are chosen, chi2 is the same."""
    event: dict[str, Any] = {
        "offsets": [0, 6],
        "pt": [50.0, 50.0, 40.0, 40.0, 40.0, 40.0],
        "eta": [0.5, 0.5, -0.4, -0.4, 1.2, 1.2],
        "phi": [0.0, 0.0, 2.0, 2.0, -2.0, -2.0],
        "mass": [5.0, 5.0, 3.0, 3.0, 3.0, 3.0],
        "is_bjet": [True, True, False, False, False, False],
    }
    lepton: dict[str, Any] = {
        "lepton_pt": [40.0],
        "lepton_eta": [0.2],
        "lepton_phi": [1.0],
        "lepton_mass": [0.1],
    }
    result = topness(**event, **lepton, met=[30.0], met_phi=[-1.0])
    assert (result.b_lep[0], result.b_had[0]) == (0, 1)
    assert (result.q1[0], result.q2[0]) in {(2, 4), (2, 3), (4, 5)}
    turned = {name: values if name == "offsets" else values[::-1] for name, values in event.items()}
    mirrored = topness(**turned, **lepton, met=[30.0], met_phi=[-1.0])
    assert (mirrored.b_lep[0], mirrored.b_had[0]) == (4, 5)
    assert mirrored.topness[0] == result.topness[0]


def one_event(**changes: Any) -> dict[str, Any]:
    event = {
        "offsets": np.array([0, 5]),
        "pt": np.array([90.0, 70.0, 60.0, 50.0, 30.0]),
        "eta": np.array([0.1, -0.5, 1.0, 0.3, -1.0]),
        "phi": np.array([0.0, 2.0, -2.5, -1.2, 1.0]),
        "mass": np.array([5.0, 5.0, 8.0, 6.0, 4.0]),
        "is_bjet": np.array([True, True, False, False, False]),
        "mask": np.ones(5, bool),
        "lepton_pt": np.array([40.0]),
        "lepton_eta": np.array([0.2]),
        "lepton_phi": np.array([1.4]),
        "lepton_mass": np.array([0.1]),
        "met": np.array([35.0]),
        "met_phi": np.array([-0.4]),
    }
    return event | changes


def with_value(name: str, position: int, value: float) -> dict[str, Any]:
    event = one_event()
    event[name] = event[name].copy()
    event[name][position] = value
    return event


@pytest.mark.parametrize(
    "event",
    [
        *(with_value(name, 0, math.nan) for name in (*LEPTON, "pt", "eta", "phi", "mass")),
        *(with_value(name, 4, math.inf) for name in ("pt", "eta", "phi", "mass")),
        with_value("met", 0, -1.0),
        with_value("lepton_pt", 0, -1.0),
        with_value("pt", 2, -20.0),
        one_event(is_bjet=np.zeros(5, bool)),
        one_event(is_bjet=np.ones(5, bool)),
        one_event(is_bjet=np.arange(5) < 1),
        one_event(is_bjet=np.arange(5) < 4),
        one_event(mask=np.zeros(5, bool)),
        one_event(mask=np.arange(5) < 3),
    ],
)
@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_invalid_events_hold_nothing(event: dict[str, Any], strategy: Strategy) -> None:
    result = topness(**event, strategy=strategy)
    assert not result.valid[0]
    assert not result.topness[0] > 3
    for name, values in result._asdict().items():
        if name in INDICES:
            assert values[0] == -1, name
        elif name != "valid":
            assert math.isnan(values[0]), name


def test_an_invalid_event_leaves_its_neighbours_alone() -> None:
    good = one_event()
    three: dict[str, Any] = {
        name: np.concatenate([values] * 3) if name != "offsets" else np.array([0, 5, 10, 15])
        for name, values in good.items()
    }
    three["phi"][7] = math.nan
    result, alone = topness(**three), topness(**good)
    assert result.valid.tolist() == [True, False, True]
    assert result.topness[0] == result.topness[2] == alone.topness[0]


def test_padding_may_hold_anything() -> None:
    event = one_event()
    padded = event | {
        "offsets": np.array([0, 8]),
        "pt": np.concatenate([[math.nan], event["pt"], [500.0, -3.0]]),
        "eta": np.concatenate([[math.inf], event["eta"], [0.0, 1e4]]),
        "phi": np.concatenate([[math.nan], event["phi"], [0.0, math.inf]]),
        "mass": np.concatenate([[math.nan], event["mass"], [10.0, -math.inf]]),
        "is_bjet": np.concatenate([[True], event["is_bjet"], [True, False]]),
        "mask": np.concatenate([[False], event["mask"], [False, False]]),
    }
    result, expected = topness(**padded), topness(**event)
    assert result.topness[0] == expected.topness[0]
    for name in INDICES:
        assert getattr(result, name)[0] == getattr(expected, name)[0] + 1


def test_a_hadronic_w_at_rest_has_a_finite_distance() -> None:
    event = one_event(
        pt=np.array([90.0, 70.0, 40.0, 40.0, 30.0]),
        eta=np.zeros(5),
        phi=np.array([1.0, 2.0, 0.0, math.pi, 1.0]),
        mass=np.zeros(5),
        mask=np.arange(5) < 4,
    )
    assert np.isfinite(topness(**event).thad_dr_bqq[0])


@pytest.mark.parametrize("parallel", [False, True])
def test_no_events(parallel: bool) -> None:
    none = random_events(0, seed=1)
    result = topness(**none, parallel=parallel)
    assert {values.shape for values in result} == {(0,)}
    assert result.topness.dtype == np.float64
    assert result.valid.dtype == np.bool_
    assert {getattr(result, name).dtype for name in INDICES} == {np.dtype(np.int64)}
    columns: dict[str, Any] = {name: [] for name in ("pt", "eta", "phi", "mass", "is_bjet", "mask")}
    no_jets = topness(**one_event(**columns, offsets=[0, 0]))
    assert no_jets.valid.tolist() == [False]


def test_parallel_and_serial_agree_to_the_last_bit() -> None:
    events = random_events(500, seed=14)
    same(topness(**events, parallel=True), topness(**events))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("block", [1, 7, 100, 101])
def test_the_size_of_a_block_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, block: int, parallel: bool
) -> None:
    events = random_events(100, seed=18)
    expected = topness(**events)
    monkeypatch.setattr("evenet_hep.kinematics.topness.BLOCK", block)
    same(topness(**events, parallel=parallel), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "best"}, "strategy must be one of joint, sequential; found 'best'"),
        ({"offsets": [1, 5]}, "begin at 0 and never decrease"),
        ({"offsets": [0, 6, 5]}, "begin at 0 and never decrease"),
        ({"offsets": [0, 4]}, r"pt must have the 4 entries.*found shape \(5,\)"),
        ({"eta": np.zeros(4)}, r"eta must have the 5 entries.*found shape \(4,\)"),
        ({"is_bjet": np.zeros(4, bool)}, r"is_bjet must hold 5 bools; found bool of shape \(4,\)"),
        ({"is_bjet": np.full(5, 0.7)}, "is_bjet must hold 5 bools; found float64"),
        ({"mask": np.ones(6, bool)}, "mask must hold 5 bools"),
        ({"met": np.zeros(2)}, r"one number per event.*met \(2,\)"),
    ],
)
def test_input_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topness(**one_event(**changes))


def test_constants_must_be_positive() -> None:
    with pytest.raises(ValueError, match="top_mass must be a positive number of GeV; found nan"):
        TopnessConstants(top_mass=math.nan)
    with pytest.raises(ValueError, match="w_sigma"):
        TopnessConstants(w_sigma=0.0)


def awkward_events(events: dict[str, Any]) -> tuple[ak.Array, ak.Array, np.ndarray, np.ndarray]:
    counts = np.diff(events["offsets"])
    names = ("pt", "eta", "phi", "mass", "is_bjet", "mask")
    jets = ak.zip({name: ak.unflatten(events[name], counts) for name in names})
    lepton = ak.zip({name: events[f"lepton_{name}"] for name in ("pt", "eta", "phi", "mass")})
    return lepton, jets, events["met"], events["met_phi"]


def test_awkward_collections_give_the_same() -> None:
    events = random_events(100, seed=15)
    lepton, jets, met, met_phi = awkward_events(events)
    expected = topness(**events)
    same(observables.topness(lepton, jets, met, met_phi, is_bjet="is_bjet", mask=jets["mask"]), expected)
    missing = ak.mask(jets, jets["mask"])  # None instead of a masked jet
    same(observables.topness(lepton, missing, ak.Array(met), met_phi, is_bjet=missing["is_bjet"]), expected)
    empty = observables.topness(lepton[:0], jets[:0], met[:0], met_phi[:0], is_bjet="is_bjet")
    assert empty.topness.shape == (0,)


def test_events_without_lepton_are_invalid() -> None:
    lepton, jets, met, met_phi = awkward_events(random_events(50, seed=16))
    some = np.arange(50) % 2 == 0
    result = observables.topness(
        ak.mask(lepton, some), jets, met, met_phi, is_bjet="is_bjet", mask=jets["mask"]
    )
    everything = observables.topness(lepton, jets, met, met_phi, is_bjet="is_bjet", mask=jets["mask"])
    np.testing.assert_array_equal(result.valid, everything.valid & some)


def test_errors_name_what_is_missing() -> None:
    lepton, jets, met, met_phi = awkward_events(random_events(5, seed=17))
    with pytest.raises(InputError, match=r"jets has no field 'mass'.*eta"):
        observables.topness(lepton, jets[["pt", "eta", "phi", "is_bjet"]], met, met_phi, is_bjet="is_bjet")
    with pytest.raises(InputError, match="no field 'btag'"):
        observables.topness(lepton, jets, met, met_phi, is_bjet="btag")
    with pytest.raises(InputError, match="is_bjet must hold bools"):
        observables.topness(lepton, jets, met, met_phi, is_bjet="pt")
    with pytest.raises(InputError, match="its lists have other lengths"):
        observables.topness(lepton, jets, met, met_phi, is_bjet=ak.Array([[True]] * 5))
    with pytest.raises(InputError, match="one number for each of the 5 events"):
        observables.topness(lepton, jets, met[:4], met_phi, is_bjet="is_bjet")
    with pytest.raises(InputError, match="missing list"):
        observables.topness(lepton, ak.mask(jets, np.arange(5) > 0), met, met_phi, is_bjet="is_bjet")
