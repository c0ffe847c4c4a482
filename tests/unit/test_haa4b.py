"""Pieces of the analysis of H -> aa -> 4b with numbers that were worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from evenet_hep.processors.higgs_to_4b import BTag, Candidates, HiggsTo4b, in_part
from typer.testing import CliRunner

from evenet_hep.analyses.higgs_to_4b import HiggsTo4bConfig
from evenet_hep.analyses.higgs_to_4b.limits import (
    Injection,
    expected_limits,
    inject,
    linearity,
    median_limit,
    score_edges,
)
from evenet_hep.analyses.higgs_to_4b.measure import best_sic, pairing_of, results_of, trusted_weights
from evenet_hep.analyses.higgs_to_4b.networks import Found, event_table, pair_by_masks
from evenet_hep.analyses.higgs_to_4b.pairing import hypotheses, pair_by_distance, pair_by_mass
from evenet_hep.analyses.higgs_to_4b.pool import CLASSES, EventPool, SelectedEvents, choose_training
from evenet_hep.cli import app
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.schema import EventSchema
from evenet_hep.stats.limits import find_limit
from evenet_hep.stats.workspace import make_workspace
from evenet_hep.topology import Topology

SCHEMA = EventSchema.standard(classes=CLASSES)
TAGGED, LOOSE, UNTAGGED = 0.9, 0.1, 0.01


def candidates(events: list[list[tuple[float, float, float, float, float, int]]]) -> Candidates:
    """Events of jets given as pt, eta, phi, mass, b-tag score and daughter."""
    names = ("pt", "eta", "phi", "mass", "btag", "daughter")
    jets = ak.Array([[dict(zip(names, jet, strict=True)) for jet in event] for event in events])
    leptons = ak.Array([[{"pt": 1.0, "eta": 0.0, "phi": 0.0, "mass": 0.1, "charge": 1}]] * len(events))[:, :0]
    met = ak.Array([{"pt": 20.0, "phi": 0.3}] * len(events))
    return Candidates(jets, leptons, leptons, met)


def two_pairs(mass: float) -> list[tuple[float, float, float, float, float, int]]:
    """Two massless back-to-back pairs at rest in the transverse plane, each of invariant mass ``mass``; and a hard jet."""
    pt = mass / 2
    return [
        (pt + 0.04, 0.0, 0.0, 0.0, TAGGED, 0),
        (pt + 0.03, 0.0, math.pi, 0.0, TAGGED, 1),
        (pt + 0.02, 0.0, math.pi / 2, 0.0, TAGGED, 2),
        (pt + 0.01, 0.0, -math.pi / 2, 0.0, TAGGED, 3),
        (300.0, 2.0, 1.0, 5.0, UNTAGGED, -1),
    ]


def test_equal_masses_find_the_pairs() -> None:
    # Massless jets: m^2 = 2 pt pt' (1 - cos 0.6) is the same for 31 x 31 and 37.2 x 25.8333; all four have 125 GeV.
    jets = [
        (31.0, 0.0, 0.0, 0.0, TAGGED, 0),
        (31.0, 0.0, 0.6, 0.0, TAGGED, 1),
        (37.2, 0.0, math.pi, 0.0, TAGGED, 2),
        (25.8333, 0.0, 0.6 - math.pi, 0.0, UNTAGGED, 3),
        (300.0, 2.0, 1.0, 5.0, UNTAGGED, -1),
    ]
    found = pair_by_mass(candidates([jets, jets[:3]]).cloud(SCHEMA, BTag()))
    mass = math.sqrt(2 * 31.0 * 31.0 * (1 - math.cos(0.6)))
    # By pT: the hard jet, 37.2, the two of 31 GeV, 25.8.
    assert sorted(map(sorted, found.slots[0].tolist())) == [[1, 4], [2, 3]]
    assert found.masses[0, :2] == pytest.approx([mass, mass], abs=1e-3)
    assert found.masses[0, 2] == pytest.approx(125.0, abs=0.3)
    assert found.distances[0, :2] == pytest.approx([0.6, 0.6], abs=1e-5)
    assert found.cost[0] == pytest.approx(((found.masses[0, 2] - 125.0) / 20.0) ** 2, abs=1e-6)
    assert (found.slots[1] == -1).all()
    assert np.isnan(found.masses[1]).all()


def test_smallest_distances_find_collimated_pairs() -> None:
    jets = [
        (60.0, 0.0, 3.1, 5.0, TAGGED, 0),
        (50.0, 0.1, -3.1, 5.0, TAGGED, 1),  # 0.08 away in azimuth, across the end of its range
        (45.0, 0.0, 0.2, 5.0, TAGGED, 2),
        (44.0, 0.4, 0.1, 5.0, LOOSE, 3),
        (43.0, 0.5, 0.2, 5.0, UNTAGGED, -1),
    ]
    found = pair_by_distance(candidates([jets]).cloud(SCHEMA, BTag()))
    assert sorted(map(sorted, found.slots[0].tolist())) == [[0, 1], [2, 3]]
    inside = sorted(found.distances[0, :2])
    assert inside == pytest.approx([math.hypot(0.1, 2 * math.pi - 6.2), math.hypot(0.4, 0.1)], abs=1e-5)


def test_every_choice_of_pairs_is_there_once() -> None:
    pairs = {frozenset({frozenset(h[:2]), frozenset(h[2:])}) for h in hypotheses(6).tolist()}
    assert len(pairs) == len(hypotheses(6)) == 45


def test_pairing_does_not_depend_on_the_order_of_jets() -> None:
    event = [(pt, 0.1 * i, phi, m, tag, d) for i, (pt, _, phi, m, tag, d) in enumerate(two_pairs(55.0))]
    turned = [event[i] for i in (4, 2, 0, 3, 1)]
    first, second = (pair_by_mass(candidates([each]).cloud(SCHEMA, BTag())) for each in (event, turned))
    assert (first.slots == second.slots).all()


def selected(n_signal: int, n_background: int, *, weight: float = 1.0) -> SelectedEvents:
    """Events without content: two signal samples and a background."""
    n = n_signal + n_background
    empty = np.zeros((n, 18, 7), np.float32)
    mask = np.zeros((n, 18), bool)
    mask[:, :4] = True
    cloud = EventCloud.from_arrays(empty, mask, np.zeros((n, 10), np.float32), SCHEMA)
    is_signal = np.arange(n) < n_signal
    sample = np.where(is_signal, np.arange(n) % 2, 2)
    targets = np.full((n, 2, 2), -1)
    targets[:n_signal] = [[0, 1], [2, 3]]
    weights = np.where(is_signal, 1.0, weight)
    return SelectedEvents(cloud, targets, is_signal, sample, weights, ("light", "heavy", "multijet"))


def test_one_simulated_event_of_large_weight_does_not_make_the_maximum() -> None:
    events = selected(20, 40, weight=1000.0)
    score = np.r_[np.linspace(0.5, 1, 20), np.linspace(0, 0.9, 40)]
    best = best_sic(events, score)
    # Ten events are the hardest cut that is allowed: eff_b = 10 / 40; they reach down to 0.9 * 30 / 39.
    assert best.background_efficiency >= 0.25
    passed = (score[:20] >= 0.9 * 30 / 39).mean()
    assert best.value >= passed / 0.5
    assert best.background_uncertainty / best.value == pytest.approx(
        0.5 / math.sqrt(best.background_efficiency * 40)
    )


def test_trusted_weights_of_uneven_events() -> None:
    # 3 events of weight 100 and 1 of 300: (600)^2 / 120000 = 3 effective events.
    assert trusted_weights([100.0, 100.0, 100.0, 300.0]).sum() == pytest.approx(3.0)
    assert trusted_weights([0.1, 0.1]).sum() == pytest.approx(0.2)
    assert len(trusted_weights([])) == 0


def test_results_count_signal_samples_alike_and_alone() -> None:
    events = selected(40, 40)
    score = np.where(events.sample == 0, 0.9, 0.1)  # finds one of the two signals, and no background
    slots = np.where(events.sample[:, None, None] == 0, [[3, 2], [0, 1]], [[0, 2], [1, 3]])
    row = results_of(events, Found(score, slots))
    assert row["pairing_event_complete"] == 0.5
    assert (row["pairing_light"], row["pairing_heavy"]) == (1.0, 0.0)
    assert row["auc"] == pytest.approx(0.75)
    # No cut on this score keeps ten background events but the one that keeps all.
    assert row["sic"] == pytest.approx(1.0)
    assert pairing_of(events, slots, sample=0).event_all.value == 1.0


def test_targets_follow_the_jets_through_the_cuts() -> None:
    event = [*two_pairs(80.0), (21.0, 0.5, 0.5, 4.0, TAGGED, -1)]
    soft = [(19.0, 0.0, 0.0, 4.0, TAGGED, 0), *event[1:]]
    pool = EventPool(
        candidates([event, soft, event[:4]]),
        np.array([1.0, 2.0, 3.0]),
        np.array([0, 0, 1]),
        ("signal", "multijet"),
        1,
        np.array(["test"] * 3),
        {"train": 0.5, "val": 0.1, "test": 0.4},
        BTag(),
    )
    found = pool.events("test")
    assert found.targets.tolist()[0] == [[1, 2], [3, 4]]  # behind the hard jet, which is no b jet
    assert found.targets.tolist()[1] == [[-1, 1], [2, 3]]  # a jet below 20 GeV is not in the cloud
    assert found.reconstructable.tolist()[:2] == [[True, True], [False, True]]
    assert found.weight.tolist() == pytest.approx([2.5, 5.0, 7.5])
    assert found.is_signal.tolist() == [True, True, False]
    up = pool.events("test", alpha=0.06)  # 19 GeV become 20.1
    assert up.targets.tolist()[1] == [[4, 1], [2, 3]] or up.reconstructable[1].all()
    assert up.cloud.objects[0, 0, 1] == pytest.approx(318.0)
    assert len(pool.events("train")) == 0


def test_energy_scale_decides_about_the_selection() -> None:
    edge = [(29.9, 0.0, 0.1 * i, 5.0, TAGGED, -1) for i in range(4)]
    part = candidates([edge])
    assert not part.passing(BTag()).passed[0]
    assert part.shifted(0.01).passing(BTag()).passed[0]
    moved = part.shifted(0.01).met
    assert float(moved.pt[0]) != pytest.approx(20.0, abs=1e-3)


def test_smaller_trainings_are_part_of_larger_ones_and_balanced() -> None:
    events = dataclasses.replace(selected(60, 60), weight=np.arange(120.0))  # weights tell the events apart
    small, large = (choose_training(events, size, seed=3) for size in (20, 60))
    assert set(small.weight) < set(large.weight)
    assert (small.is_signal.sum(), np.bincount(small.sample).tolist()) == (10, [5, 5, 10])
    assert set(choose_training(events, 20, seed=4).weight) != set(small.weight)
    assert len(choose_training(events, 0, seed=1)) == 120
    with pytest.raises(InputError, match="needs 50 of each kind; found 30"):
        choose_training(events, 200, seed=1)


def test_training_weights_make_signals_equal_and_have_mean_one() -> None:
    events = selected(30, 50, weight=1e5)
    events = dataclasses.replace(events, weight=np.where(events.sample == 0, 7.0, events.weight))
    weight = events.training(SCHEMA, Topology.shipped("higgs_to_4b")).content.weight
    for number in range(2):
        assert weight[events.sample == number].sum() == pytest.approx(15.0, rel=1e-5)
    assert weight[~events.is_signal].mean() == pytest.approx(1.0)


def test_other_features_than_the_networks_are_refused() -> None:
    other = EventSchema.standard(classes=CLASSES)
    other = dataclasses.replace(other, event_features=other.event_features[:3])
    with pytest.raises(InputError, match="the network must read"):
        selected(4, 4).training(other, Topology.shipped("higgs_to_4b"))


def test_parts_are_disjoint_and_cover_all() -> None:
    events = ak.Array(
        {"run": np.ones(4000, int), "luminosityBlock": np.ones(4000, int), "event": np.arange(4000)}
    )
    fractions = HiggsTo4bConfig().fractions
    found = np.stack([in_part(events, name, fractions) for name in fractions])
    assert (found.sum(axis=0) == 1).all()
    assert found.mean(axis=1) == pytest.approx(list(fractions.values()), abs=0.03)


def test_masks_of_padding_are_not_taken() -> None:
    masks = np.array([[[0.9, 0.1, 0.8, 0.2, 1.0], [0.7, 0.6, 0.3, 0.4, 1.0]]] * 2)
    real = np.array([[True] * 4 + [False], [True] * 3 + [False] * 2])
    found = pair_by_masks(np.array([[[0.1, 0.9], [0.2, 0.8]]] * 2), masks, real)
    assert found.tolist() == [[[0, 2], [1, 3]], [[-1, -1], [-1, -1]]]


def test_features_of_trees_do_not_see_padding() -> None:
    one, other = candidates([two_pairs(60.0)]), candidates([two_pairs(60.0), two_pairs(60.0) * 2])
    table = event_table(other.cloud(SCHEMA, BTag()))
    assert np.array_equal(event_table(one.cloud(SCHEMA, BTag()))[0], table[0], equal_nan=True)
    assert np.isnan(table[0]).sum() == 3  # five jets: nothing for the sixth
    assert table.shape[1] == 10 + 18 + 7 + 2


def test_score_edges_hold_enough_background() -> None:
    rng = np.random.default_rng(5)
    score = np.r_[rng.beta(4, 2, 500), rng.beta(2, 4, 300)]
    is_signal = np.repeat([True, False], [500, 300])
    edges = score_edges(score, is_signal, bins=8)
    assert (edges[0], edges[-1]) == (0.0, 1.0)
    assert len(edges) > 4
    assert np.histogram(score[~is_signal], edges)[0].min() >= 10
    assert score_edges(score[:520], is_signal[:520], bins=4).tolist()[-1] == 1.0  # twenty background events


def test_limit_of_a_counting_experiment() -> None:
    """One bin without uncertainties: the limit is near 1.64 sqrt(B) / S times what CLs adds (1.96 / 1.64)."""
    events = selected(40, 40, weight=250.0)  # 10 000 background events
    events = dataclasses.replace(events, weight=np.where(events.is_signal, 10.0, 250.0))  # 200 of each signal
    found = expected_limits(events, np.full(80, 0.5), bins=2, background_uncertainty=0.0)
    assert [each.sample for each in found] == ["light", "heavy"]
    for each in found:
        assert each.n_bins == 1
        assert each.expected[2] == pytest.approx(1.96 * 100 / 200, rel=0.02)
        assert math.isnan(
            each.with_simulation
        )  # forty simulated events stand for ten thousand: nothing is excluded


def test_median_limit_is_that_of_the_full_calculation() -> None:
    edges = [0.0, 1.0, 2.0]
    samples = {"signal": ([20.0, 60.0], edges), "background": ([5000.0, 900.0], edges)}
    spec = make_workspace({"score": samples}, signal="signal", mc_statistics=False)
    assert median_limit(spec) == pytest.approx(find_limit(spec).expected[2], rel=3e-3)


def test_injection_returns_what_was_injected_for_a_perfect_score() -> None:
    events = selected(4000, 800)
    rng = np.random.default_rng(1)
    score = np.where(events.is_signal, rng.uniform(0.3, 1.0, 4800), rng.uniform(0.0, 0.7, 4800))
    found = inject(events, score, 3.0, n_toys=12, bins=6, background_uncertainty=0.05, seed=2)
    row = found.to_dict()
    assert abs(row["strength"] - 3.0) < 4 * row["strength_error"]
    assert row["found"] == 1.0
    again = inject(events, score, 3.0, n_toys=2, bins=6, background_uncertainty=0.05, seed=2)
    assert again.strengths.tolist() == found.strengths[:2].tolist()


def test_a_biased_fit_is_seen_by_the_line() -> None:
    rng = np.random.default_rng(4)
    biased = [
        Injection(x, 0.8 * x + 0.1 + rng.normal(0, 0.05, 50), np.full(50, 0.05), np.ones(50))
        for x in (0.0, 1.0, 3.0)
    ]
    line = linearity(biased)
    assert line["slope"] == pytest.approx(0.8, abs=4 * line["slope_error"])
    assert abs(line["slope"] - 1) > 10 * line["slope_error"]
    assert line["intercept"] == pytest.approx(0.1, abs=4 * line["intercept_error"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("classification",)}, "such that assignment is among them"),
        ({"tasks": ("assignment", "guess")}, "some of classification, assignment, segmentation"),
        ({"validation_fraction": 0.6}, "such that events are left to train"),
        ({"seeds": (1, 1)}, "all different"),
        ({"toys": 1}, "toys must be at least 2"),
        ({"injected": (0.0,)}, "injected must be above 0"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(HiggsTo4bConfig(), **settings)


def test_a_file_replaces_single_values_of_nested_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("training: {lr: 0.5}\nsteps: 7\n")
    words = ["analyse", "higgs-to-4b", "--events", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    runner = CliRunner()
    found = runner.invoke(
        app, [*words, "--config", str(tmp_path / "config.yaml"), "--set", "training.batch_size=0"]
    )
    assert "batch_size must be at least 1" in str(
        found.exception
    )  # the file was read, the setting came after it
    found = runner.invoke(app, [*words, "--config", str(tmp_path / "config.yaml"), "--set", "guess=1"])
    assert "unknown key 'guess'" in str(found.exception)
    found = runner.invoke(app, [*words, "--config", str(tmp_path / "config.yaml")])
    assert "cannot read the configuration" in str(found.exception)  # there are no such events


def test_processor_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="part must be one of"):
        HiggsTo4b(part="test")
    with pytest.raises(ConfigError, match="loose must not be above medium"):
        BTag(loose=0.5)


@pytest.mark.slow
def test_closure_with_many_events() -> None:
    """Strengths come back, pulls are near unit width, and an excess is as rare without signal as it should be."""
    events = selected(6000, 6000)
    rng = np.random.default_rng(9)
    score = np.where(events.is_signal, rng.beta(4, 2, 12_000), rng.beta(2, 4, 12_000))
    found = [
        inject(events, score, strength, n_toys=n_toys, bins=6, background_uncertainty=0.05, seed=3)
        for strength, n_toys in ((0.0, 200), (2.0, 50), (4.0, 50))
    ]
    line = linearity(found)
    print(line, [each.to_dict() for each in found])
    assert abs(line["slope"] - 1) < 4 * line["slope_error"]
    assert abs(line["intercept"]) < 4 * line["intercept_error"]
    without = found[0].to_dict()
    assert abs(without["pull_mean"]) < 4 * without["pull_mean_error"]
    assert 0.75 < without["pull_width"] < 1.25
    assert without["found"] < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
