"""The processor of the bbWW search: selection, cut flow, columns, what a shift can let pass, and what scores are worth."""

from __future__ import annotations

import pickle
from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.processor import accumulate
from evenet_hep.processors import BbwwResonance, judge_scores
from evenet_hep.processors.bbww_resonance import CUTS, count_cuts, score_edges

from evenet_hep.errors import InputError
from evenet_hep.events.bbww_columns import BbwwReader, loose_events, shift_objects
from evenet_hep.events.bbww_selection import BbwwCuts, BbwwIdentification
from evenet_hep.events.observables import remove_overlap
from evenet_hep.events.tabular import FEATURES

MUON = {"mass": 0.106, "charge": -1, "dxy": 0.0, "dz": 0.0, "mediumId": True, "pfRelIso04_all": 0.02}
ELECTRON = {"mass": 0.0005, "charge": 1, "dxy": 0.0, "dz": 0.0, "mvaFall17V2Iso_WP90": True}
TAU = {
    "dz": 0.0,
    "decayMode": 0,
    "idDeepTau2017v2p1VSjet": 31,
    "idDeepTau2017v2p1VSe": 63,
    "idDeepTau2017v2p1VSmu": 1,
}


def leptons(rng: np.random.Generator, counts: np.ndarray, common: dict[str, Any]) -> ak.Array:
    n = int(counts.sum())
    columns = {
        "pt": rng.uniform(20, 120, n),
        "eta": rng.uniform(-2.6, 2.6, n),
        "phi": rng.uniform(-np.pi, np.pi, n),
    }
    columns |= {name: np.full(n, value) for name, value in common.items()}
    return ak.zip({name: ak.unflatten(values, counts) for name, values in columns.items()})


def make_events(n: int, seed: int) -> ak.Array:
    """Random events of which a few per cent pass; jets around every threshold."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 9, n)
    total = int(counts.sum())
    jets = {
        "pt": 15 + rng.exponential(40, total),
        "eta": rng.normal(0, 1.3, total),
        "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.uniform(3, 15, total),
        "btagDeepFlavB": np.where(rng.uniform(size=total) < 0.4, 0.9, 0.05),
        "jetId": np.full(total, 6),
        "puId": rng.choice([7, 7, 7, 0], total),
    }
    return ak.zip(
        {
            "Muon": leptons(rng, rng.integers(0, 2, n), MUON),
            "Electron": leptons(rng, rng.integers(0, 2, n), ELECTRON),
            "Tau": leptons(rng, (rng.uniform(size=n) < 0.1).astype(int), TAU),
            "Jet": ak.zip({name: ak.unflatten(values, counts) for name, values in jets.items()}),
            "MET": ak.zip({"pt": rng.exponential(40, n), "phi": rng.uniform(-np.pi, np.pi, n)}),
            "genWeight": rng.choice([1.0, 1.0, -1.0], n),
            "run": np.ones(n, int),
            "luminosityBlock": np.ones(n, int),
            "event": np.arange(n),
        },
        depth_limit=1,
    )


@pytest.fixture(scope="module")
def events() -> ak.Array:
    return make_events(4000, 1)


class Chunk(ak.Array):  # type: ignore[misc]
    """Events as coffea hands them over: with the name of their data set."""

    @property
    def metadata(self) -> dict[str, str]:
        return {"dataset": "TT"}


def process(events: ak.Array, **options: Any) -> dict[str, Any]:
    chunk = ak.with_name(events, "Chunk", behavior={("*", "Chunk"): Chunk})
    found: dict[str, Any] = BbwwResonance(**options).process(chunk)["TT"]
    return found


def test_the_cut_flow_falls_and_ends_at_the_selected_events(events: ak.Array) -> None:
    found = process(events)
    reader = BbwwReader()
    selection = reader.select(reader.read(events))
    weight = events.genWeight.to_numpy()
    assert found["n_events"] == 4000
    assert list(found["cutflow"].axes["cut"]) == list(CUTS)
    assert found["cutflow"].values()[0] == weight.sum()
    assert found["cutflow"].values()[-1] == weight[selection.passed].sum()
    assert found["cutflow"].variances()[-1] == selection.passed.sum() > 20
    assert (np.diff(found["cutflow"].variances()) <= 0).all()


def test_columns_are_those_of_the_selected_events(events: ak.Array) -> None:
    found = {name: column.value for name, column in process(events)["columns"].items()}
    reader = BbwwReader()
    passed = reader.select(reader.read(events)).passed
    np.testing.assert_array_equal(found["event"], np.flatnonzero(passed))
    np.testing.assert_array_equal(found["weight"], events.genWeight.to_numpy()[passed])
    assert found["features"].shape == (passed.sum(), len(FEATURES))
    assert (found["features"][:, FEATURES.index("topness")] > 3).all()
    met = found["features"][:, FEATURES.index("met_pt")]
    np.testing.assert_allclose(met, events.MET.pt.to_numpy()[passed])
    np.testing.assert_allclose(found["event_features"][:, 0], met, rtol=1e-6)
    n_leptons = (found["objects"][..., 5] * found["mask"]).sum(axis=1)
    assert (n_leptons == 1).all()  # exactly one lepton is selected, whatever else the file holds


def test_chunks_add_up(events: ak.Array) -> None:
    whole = process(events, loose=0.1)
    parts = accumulate(
        [{"TT": process(events[:1500], loose=0.1)}, {"TT": process(events[1500:], loose=0.1)}]
    )["TT"]
    assert parts["cutflow"] == whole["cutflow"]
    assert parts["topness"] == whole["topness"]
    for name, column in whole["columns"].items():
        np.testing.assert_array_equal(parts["columns"][name].value, column.value)
    assert ak.concatenate(parts["loose"]).event.to_list() == whole["loose"][0].event.to_list()
    assert len(pickle.dumps(whole)) > 0  # can be sent from a worker


@pytest.mark.parametrize("alpha", [-0.1, -0.03, 0.0, 0.03, 0.1])
def test_a_shift_of_the_kept_objects_selects_what_a_shift_of_the_file_selects(
    events: ak.Array, alpha: float
) -> None:
    reader = BbwwReader()
    objects = reader.read(events)
    keep, loose = loose_events(reader, objects, 0.1)
    found = reader.select(objects)
    jets = remove_overlap(objects.jets, found.electrons, found.muons, found.taus)
    everything = reader.select(shift_objects(objects._replace(jets=jets), alpha))
    # taus are vetoed in the file; they do not come with the kept objects
    expected = np.flatnonzero(everything.passed)
    kept = reader.select(shift_objects(loose, alpha)).passed
    np.testing.assert_array_equal(np.flatnonzero(keep)[kept], expected)
    assert len(expected) > 20


def test_a_shift_changes_who_is_selected(events: ak.Array) -> None:
    reader = BbwwReader()
    _, loose = loose_events(reader, reader.read(events), 0.1)
    nominal = reader.select(loose).passed
    up, down = (reader.select(shift_objects(loose, alpha)).passed for alpha in (0.05, -0.05))
    assert (up & ~nominal).any()
    assert (nominal & ~down).any()


def test_files_that_do_not_fit_are_refused_by_name(events: ak.Array) -> None:
    with pytest.raises(InputError, match="no collection 'Tau'"):
        process(events[["Electron", "Muon", "Jet", "MET", "genWeight", "run", "luminosityBlock", "event"]])
    without = ak.with_field(events, ak.without_field(events.Jet, "btagDeepFlavB"), "Jet")
    with pytest.raises(InputError, match="btagDeepFlavB"):
        process(without)
    other = BbwwReader(identification=BbwwIdentification(electron_id="mvaIso_WP90"))
    with pytest.raises(InputError, match="mvaIso_WP90"):
        process(events, reader=other)


def test_files_without_taus_can_be_read_if_one_says_so(events: ak.Array) -> None:
    names = ["Electron", "Muon", "Jet", "MET", "run", "luminosityBlock", "event"]
    found = process(events[names], reader=BbwwReader(taus=False))
    assert found["cutflow"].values()[0] == len(events)  # no generator weight: every event counts once
    assert found["cutflow"].values()[2] == found["cutflow"].values()[1]


def test_a_chunk_without_a_selected_event(events: ak.Array) -> None:
    found = process(events[:0], loose=0.1)
    assert found["columns"]["objects"].value.shape == (0, 18, 7)
    none = ak.with_field(events[:50], events.MET[:50], "MET")
    none["Jet"] = none.Jet[:, :1]
    assert process(none)["columns"]["features"].value.shape == (0, 49)


def test_count_cuts_by_hand() -> None:
    passes = np.array([[1, 1], [1, 1], [0, 1], [1, 1], [1, 1], [1, 0]], bool)
    flow = count_cuts(BbwwCuts(*passes), np.array([2.0, -0.5]))
    assert flow.values().tolist() == [1.5, 1.5, 1.5, -0.5, -0.5, -0.5, 0.0]
    assert flow.variances().tolist() == [4.25, 4.25, 4.25, 0.25, 0.25, 0.25, 0.0]


def test_judged_scores_by_hand() -> None:
    # Four signal events; ten heavy background events, of which the best scored has the second highest score of all.
    is_signal = np.r_[np.ones(4, bool), np.zeros(10, bool)]
    scores = np.r_[0.95, 0.85, 0.8, 0.3, 0.9, np.linspace(0.1, 0.5, 9)]
    weights = np.where(is_signal, 0.5, 100.0)
    one = judge_scores(is_signal, scores, weights, minimum_effective=1)
    assert one.minimum_background == 100.0
    assert one.sic.value == pytest.approx(0.75 / np.sqrt(0.1))
    assert one.sic.background_yield == 100.0
    assert one.effective_background == pytest.approx(1.0)
    two = judge_scores(is_signal, scores, weights, minimum_effective=2)
    assert two.sic.value == pytest.approx(0.75 / np.sqrt(0.2))
    assert two.effective_background == pytest.approx(2.0)
    # Published: a yield of 10 is enough, and one simulated event is a yield of 100.
    assert judge_scores(is_signal, scores, weights, minimum_effective=1e-9).minimum_background == 10.0
    below = [(scores[4:] < s).sum() + 0.5 * (scores[4:] == s).sum() for s in scores[:4]]
    assert one.auc.value == pytest.approx(np.mean(below) / 10)


def test_no_event_is_lost_between_scores_and_histograms() -> None:
    rng = np.random.default_rng(2)
    is_signal = rng.uniform(size=3000) < 0.3
    scores = np.where(is_signal, rng.beta(3, 1, 3000), rng.beta(1, 3, 3000))
    scores[0], scores[1] = 1.0, 0.0
    weights = rng.uniform(0.5, 2, 3000)
    found = judge_scores(is_signal, scores, weights)
    assert found.signal.values().sum() == pytest.approx(weights[is_signal].sum())
    assert found.background.values().sum() == pytest.approx(weights[~is_signal].sum())
    effective = found.background.values() ** 2 / found.background.variances()
    assert (effective >= 10 - 1e-9).all()
    assert len(effective) >= 6


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_scores_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        judge_scores([True, False], [0.5, bad], [1.0, 1.0])


def test_edges_of_few_or_equal_scores() -> None:
    np.testing.assert_array_equal(score_edges(np.zeros(0), np.zeros(0)), [0, 1])
    np.testing.assert_array_equal(score_edges(np.full(100, 0.5), np.ones(100)), [0, 1])
    np.testing.assert_array_equal(score_edges(np.linspace(0, 0.9, 5), np.ones(5)), [0, 1])
