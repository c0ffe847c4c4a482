from __future__ import annotations

import math
from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.errors import InputError
from evenet_hep.events.observables import topness
from evenet_hep.events.tabular import FEATURES, RELEASED_FEATURES, bbww_features, feature_matrix
from evenet_hep.kinematics.hadronic_w import cluster_transverse_mass

vector.register_awkward()

JET_FIELDS = ("pt", "eta", "phi", "mass", "score")


def random_events(
    n_events: int, seed: int, max_jets: int = 12
) -> tuple[ak.Array, ak.Array, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_jets + 1, n_events)
    total = int(counts.sum())
    columns = {
        "pt": 20.0 + rng.exponential(40.0, total),
        "eta": rng.uniform(-2.4, 2.4, total),
        "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.uniform(0.0, 12.0, total),
        "score": np.where(
            rng.random(total) < 0.4, rng.uniform(0.25, 1.0, total), rng.uniform(0.0, 0.24, total)
        ),
    }
    jets = ak.zip({name: ak.unflatten(column, counts) for name, column in columns.items()})
    lepton = ak.zip(
        {
            "pt": 25.0 + rng.exponential(30.0, n_events),
            "eta": rng.uniform(-2.4, 2.4, n_events),
            "phi": rng.uniform(-np.pi, np.pi, n_events),
            "mass": np.full(n_events, 0.1056583755),
        }
    )
    return lepton, jets, rng.exponential(45.0, n_events), rng.uniform(-np.pi, np.pi, n_events)


def test_there_are_49_features_47_of_them_released() -> None:
    assert len(FEATURES) == len(set(FEATURES)) == 49
    assert set(FEATURES) - set(RELEASED_FEATURES) == {"A_dPhi_bb_Whad", "B_dPhi_bb_Whad"}


def test_against_vector() -> None:
    """The definitions, event by event, in the words of the vector package."""
    lepton, jets, met, met_phi = random_events(150, seed=41)
    features = bbww_features(lepton, jets, met, met_phi, btag="score")
    top = topness(lepton, jets, met, met_phi, is_bjet=jets["score"] > 0.2489)
    np.testing.assert_array_equal(features["topness"], top.topness)
    np.testing.assert_array_equal(features["top_thad_dr_bqq"], top.thad_dr_bqq)
    compared = 0
    for event in range(150):
        expected = with_vector(lepton[event], jets[event], met[event], met_phi[event])
        for name, value in expected.items():
            assert features[name][event] == pytest.approx(value, rel=1e-8, abs=1e-8, nan_ok=True), (
                event,
                name,
            )
        compared += not math.isnan(expected["A_bbWW_mT"])
    assert compared > 60


def with_vector(lepton: Any, jets: Any, met: float, met_phi: float) -> dict[str, float]:
    """Hypothesis A and the b jets of one event."""

    def momentum(record: Any) -> Any:
        return vector.obj(pt=record["pt"], eta=record["eta"], phi=record["phi"], mass=record["mass"])

    lep = momentum(lepton)
    tagged = sorted((jet for jet in jets if jet["score"] > 0.2489), key=lambda jet: -jet["score"])
    light = sorted((jet for jet in jets if not jet["score"] > 0.2489), key=lambda jet: -jet["pt"])[:8]
    found = {"met_pt": met, "n_b_jets": float(len(tagged)), "lep_pt": lep.pt, "lep_eta": lep.eta}
    nan = dict.fromkeys(
        ("b1_pt", "b2_eta", "bb_inv", "bb_dR", "A_q1_pt", "A_q2_eta", "A_Whad_m", "A_WW_vis_m"), math.nan
    )
    found |= nan | dict.fromkeys(
        ("A_bbWW_vis_dR", "A_bbWW_mT", "A_dPhi_bb_Whad", "A_min_dR_l_q", "A_WW_mT"), math.nan
    )
    if tagged:
        found["b1_pt"] = tagged[0]["pt"]
    bb = None
    if len(tagged) >= 2:
        b1, b2 = map(momentum, tagged[:2])
        bb = b1 + b2
        found |= {"b2_eta": b2.eta, "bb_inv": bb.mass, "bb_dR": b1.deltaR(b2)}
    if len(light) >= 2:
        quarks = [momentum(jet) for jet in light]
        pairs = [(q1, q2) for i, q1 in enumerate(quarks) for q2 in quarks[i + 1 :]]
        q1, q2 = min(pairs, key=lambda pair: abs((pair[0] + pair[1]).mass - 80.4))
        w = q1 + q2
        ww = lep + w
        found |= {"A_q1_pt": q1.pt, "A_q2_eta": q2.eta, "A_Whad_m": w.mass, "A_WW_vis_m": ww.mass}
        found["A_min_dR_l_q"] = min(lep.deltaR(q1), lep.deltaR(q2))
        found["A_WW_mT"] = cluster_transverse_mass(ww.pt, ww.phi, ww.mass, met, met_phi).item()
        if bb is not None:
            total = bb + ww
            found["A_bbWW_vis_dR"] = bb.deltaR(ww)
            found["A_bbWW_mT"] = cluster_transverse_mass(total.pt, total.phi, total.mass, met, met_phi).item()
            found["A_dPhi_bb_Whad"] = abs(bb.deltaphi(w))
    return found


def test_hypothesis_b_is_closest_to_the_higgs_mass() -> None:
    """By the definition of B its m(l nu qq) is at most as far from 125.2 GeV as that of A's pair."""
    lepton, jets, met, met_phi = random_events(200, seed=42)
    features = bbww_features(lepton, jets, met, met_phi, btag="score")
    differ = features["A_q1_pt"] != features["B_q1_pt"]
    assert ak.sum(differ & ~np.isnan(features["A_q1_pt"])) > 20
    closer = np.abs(features["A_Whad_m"] - 80.4) <= np.abs(features["B_Whad_m"] - 80.4)
    assert ak.all(closer[~np.isnan(features["A_Whad_m"])])


def test_b_jets_come_in_order_of_score_then_pt() -> None:
    jets = ak.zip(
        {
            "pt": [[90.0, 30.0, 40.0, 50.0]],
            "eta": [[0.1, 0.2, 0.3, 0.4]],
            "phi": [[0.0, 1.0, 2.0, 3.0]],
            "mass": [[5.0, 5.0, 5.0, 5.0]],
            "score": [[0.5, 0.9, 0.9, 0.2489]],
        }
    )
    lepton, met, met_phi = random_events(1, seed=43)[0], [30.0], [0.0]
    features = bbww_features(lepton, jets, met, met_phi, btag="score")
    assert (features["b1_pt"][0], features["b2_pt"][0]) == (40.0, 30.0)
    assert features["n_b_jets"][0] == 3.0  # a score equal to the working point is not above it


def test_only_the_eight_hardest_light_jets_make_hypotheses() -> None:
    """Two soft jets with exactly the W mass beside eight hard ones."""
    pt = [*np.linspace(200.0, 100.0, 8), 40.2, 40.2]
    phi = [*np.zeros(8), 1.0, 1.0 - math.pi]
    jets = ak.zip(
        {"pt": [pt], "eta": [[0.0] * 10], "phi": [phi], "mass": [[0.0] * 10], "score": [[0.0] * 10]}
    )
    lepton, met, met_phi = random_events(1, seed=44)[0], [30.0], [0.0]
    features = bbww_features(lepton, jets, met, met_phi, btag="score")
    assert features["A_q2_pt"][0] >= 100.0
    assert bbww_features(lepton, jets[:, 2:], met, met_phi, btag="score")["A_Whad_m"][0] == pytest.approx(
        80.4
    )


def test_what_an_event_lacks_is_nan_and_only_that() -> None:
    lepton, jets, met, met_phi = random_events(40, seed=45)
    some = np.arange(40) % 2 == 0
    whole = bbww_features(lepton, jets, met, met_phi, btag="score")
    without = bbww_features(ak.mask(lepton, some), jets, met, met_phi, btag="score")
    hadronic = {"met_pt", "n_b_jets", "b1_pt", "b1_eta", "b2_pt", "b2_eta", "bb_inv", "bb_dR"} | {
        f"A_{name}"
        for name in ("q1_pt", "q1_eta", "q2_pt", "q2_eta", "Whad_m", "Whad_pt", "Whad_dR", "dPhi_bb_Whad")
    }
    for name in FEATURES:
        np.testing.assert_array_equal(without[name][some], whole[name][some], err_msg=name)
        expected = whole[name][~some] if name in hadronic else np.full(20, math.nan)
        np.testing.assert_array_equal(without[name][~some], expected, err_msg=name)


def test_missing_met_leaves_the_visible_features() -> None:
    lepton, jets, met, met_phi = random_events(40, seed=46)
    whole = bbww_features(lepton, jets, met, met_phi, btag="score")
    without = bbww_features(lepton, jets, np.full(40, math.nan), met_phi, btag="score")
    np.testing.assert_array_equal(without["A_bbWW_vis_m"], whole["A_bbWW_vis_m"])
    for name in ("met_pt", "W_mT", "A_WW_mT", "A_bbWW_mT", "B_q1_pt", "B_Whad_m", "topness"):
        assert np.isnan(without[name]).to_list() == [True] * 40, name


def padded_events() -> tuple[tuple[ak.Array, ak.Array, np.ndarray, np.ndarray], ak.Array]:
    """Events, and their jets with two more that hold nonsense and are masked."""
    events = random_events(60, seed=47)
    junk = ak.zip({name: [[math.nan, math.inf]] * 60 for name in JET_FIELDS})
    return events, ak.concatenate([junk[:, :1], events[1], junk[:, 1:]], axis=1)


def test_masked_jets_are_ignored_whatever_they_hold() -> None:
    (lepton, jets, met, met_phi), padded = padded_events()
    expected = bbww_features(lepton, jets, met, met_phi, btag="score")
    mask = np.isfinite(padded["pt"])
    masked = bbww_features(lepton, padded, met, met_phi, btag="score", mask=mask)
    missing = bbww_features(lepton, ak.mask(padded, mask), met, met_phi, btag="score")
    for name in FEATURES:
        np.testing.assert_array_equal(masked[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(missing[name], expected[name], err_msg=name)


def test_strategies_and_threads() -> None:
    events = random_events(100, seed=48)
    joint, sequential, parallel = (
        bbww_features(*events, btag="score", **options)
        for options in ({}, {"strategy": "sequential"}, {"parallel": True})
    )
    assert (joint["topness"] < sequential["topness"]).to_list().count(True) > 0
    assert not ak.any(joint["topness"] > sequential["topness"])
    np.testing.assert_array_equal(feature_matrix(joint), feature_matrix(parallel))


def test_matrix() -> None:
    features = bbww_features(*random_events(20, seed=49), btag="score")
    matrix = feature_matrix(features)
    assert matrix.shape == (20, 49)
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix[:, FEATURES.index("bb_inv")], features["bb_inv"])
    assert feature_matrix(features, RELEASED_FEATURES).shape == (20, 47)
    with pytest.raises(InputError, match="features has no field 'bb_dr'; nearest: 'bb_dR'"):
        feature_matrix(features, ["bb_dr"])


def test_an_empty_chunk_gives_an_empty_chunk() -> None:
    lepton, jets, met, met_phi = random_events(3, seed=50)
    features = bbww_features(lepton[:0], jets[:0], met[:0], met_phi[:0], btag="score")
    assert len(features) == 0
    assert tuple(ak.fields(features)) == FEATURES
    assert feature_matrix(features).shape == (0, 49)
    no_jets = bbww_features(lepton, jets[:, :0], met, met_phi, btag="score")
    assert no_jets["n_b_jets"].to_list() == [0.0] * 3
    assert np.isnan(no_jets["A_Whad_m"]).to_list() == [True] * 3


def test_virtual_and_vector_arrays_give_the_same() -> None:
    lepton, jets, met, met_phi = random_events(30, seed=51)
    expected = feature_matrix(bbww_features(lepton, jets, met, met_phi, btag="score"))
    form, length, buffers = ak.to_buffers(ak.with_field(jets, jets["pt"], "unused"))
    unused = form.content.contents[-1].form_key

    def reader(key: str) -> Any:
        def load() -> Any:
            assert not key.startswith(unused), "read a field that is not needed"
            return buffers[key]

        return load

    lazy = ak.from_buffers(form, length, {key: reader(key) for key in buffers})
    np.testing.assert_array_equal(
        feature_matrix(bbww_features(lepton, lazy, met, met_phi, btag="score")), expected
    )
    vectors = ak.with_name(jets, "Momentum4D")
    momenta = ak.with_name(lepton, "Momentum4D")
    np.testing.assert_array_equal(
        feature_matrix(bbww_features(momenta, vectors, ak.Array(met), met_phi, btag="score")), expected
    )


def test_a_missing_field_is_named_with_what_is_there() -> None:
    lepton, jets, met, met_phi = random_events(3, seed=52)
    with pytest.raises(InputError, match=r"jets has no field 'btagDeepFlavB'.*score"):
        bbww_features(lepton, jets, met, met_phi)
    with pytest.raises(InputError, match=r"lepton has no field 'mass'"):
        bbww_features(lepton[["pt", "eta", "phi"]], jets, met, met_phi, btag="score")
