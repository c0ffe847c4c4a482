from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.errors import InputError
from evenet_hep.events.hadronic_w import cluster_transverse_mass, hadronic_w, hadronic_w_of_higgs
from evenet_hep.events.tabular import bbww_features


def random_events(n: int = 60) -> tuple[ak.Array, ak.Array, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    counts = rng.integers(0, 9, n)
    m = int(counts.sum())
    columns = {
        "pt": 20 + rng.exponential(40, m), "eta": rng.normal(0, 1.3, m), "phi": rng.uniform(-3.1, 3.1, m),
        "mass": rng.exponential(6, m), "btagDeepFlavB": rng.uniform(0, 0.6, m),
    }  # fmt: skip
    jets = ak.zip({name: ak.unflatten(values, counts) for name, values in columns.items()})
    jets = jets[ak.argsort(jets["pt"], ascending=False)]
    lepton = ak.zip(
        {
            "pt": 30 + rng.exponential(20, n),
            "eta": rng.normal(0, 1, n),
            "phi": rng.uniform(-3, 3, n),
            "mass": np.full(n, 0.106),
        }
    )
    return jets, lepton, rng.exponential(40, n), rng.uniform(-3, 3, n)


def test_pairs_agree_with_a_search_in_awkward() -> None:
    jets, _, _, _ = random_events()
    light = jets["btagDeepFlavB"] < 0.2489
    pairs = hadronic_w(jets, is_candidate=light)
    chosen = ak.with_name(
        ak.zip({"i": ak.local_index(jets), **{f: jets[f] for f in ("pt", "eta", "phi", "mass")}})[light][
            :, :8
        ],
        "Momentum4D",
    )
    vector.register_awkward()
    first, second = ak.unzip(ak.combinations(chosen, 2))
    mass = (first + second).mass
    best = ak.argmin(abs(mass - 80.4), axis=1, keepdims=True)
    expected = ak.fill_none(ak.firsts(mass[best]), np.nan)
    np.testing.assert_allclose(pairs.mass, expected, rtol=1e-9)
    assert pairs.q1.tolist() == ak.fill_none(ak.firsts(first["i"][best]), -1).to_list()
    assert pairs.q2.tolist() == ak.fill_none(ak.firsts(second["i"][best]), -1).to_list()
    assert pairs.valid.tolist() == (ak.num(chosen) >= 2).to_list()


def test_both_hypotheses_and_masses_agree_with_the_engineered_features() -> None:
    jets, lepton, met, met_phi = random_events()
    features = bbww_features(lepton, jets, met, met_phi)
    light = jets["btagDeepFlavB"] < 0.2489
    for name, pairs in (
        ("A", hadronic_w(jets, is_candidate=light)),
        ("B", hadronic_w_of_higgs(jets, lepton, met, met_phi, is_candidate=light)),
    ):
        padded = ak.to_numpy(ak.fill_none(ak.pad_none(jets["pt"], 9), np.nan))
        q1_pt = np.where(pairs.valid, padded[np.arange(len(padded)), pairs.q1], np.nan)
        np.testing.assert_allclose(q1_pt, ak.to_numpy(features[f"{name}_q1_pt"]))
    np.testing.assert_allclose(
        cluster_transverse_mass(lepton, met, met_phi), ak.to_numpy(features["W_mT"]), rtol=1e-9
    )


def test_masked_jets_may_hold_anything() -> None:
    jets, _, _, _ = random_events()
    everything = ak.ones_like(jets["pt"], dtype=bool)
    junk = ak.zip({f: ak.full_like(jets["pt"][:, :1], np.nan) for f in ("pt", "eta", "phi", "mass")})
    padded = ak.concatenate([jets[["pt", "eta", "phi", "mass"]], junk], axis=1)
    mask = ak.concatenate([everything, ak.zeros_like(junk["pt"], dtype=bool)], axis=1)
    found = hadronic_w(padded, is_candidate=ak.ones_like(padded["pt"], dtype=bool), mask=mask)
    expected = hadronic_w(jets, is_candidate=everything)
    assert np.array_equal(found.q1, expected.q1)
    np.testing.assert_array_equal(found.mass, expected.mass)


def test_empty_chunk_and_missing_field() -> None:
    jets, lepton, met, met_phi = random_events()
    none = hadronic_w_of_higgs(jets[:0], lepton[:0], met[:0], met_phi[:0], is_candidate=jets["pt"][:0] > 0)
    assert none.q1.shape == none.mass.shape == (0,)
    assert cluster_transverse_mass(lepton[:0], met[:0], met_phi[:0]).shape == (0,)
    with pytest.raises(InputError, match="jets has no field 'mass'"):
        hadronic_w(jets[["pt", "eta", "phi"]], is_candidate=jets["pt"] > 0)
