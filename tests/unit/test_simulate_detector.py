"""Detector cards, and what the detector does to jets and leptons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.kinematics.angles import delta_r
from evenet_hep.simulate.columns import Collection, concatenate, concatenate_objects
from evenet_hep.simulate.detector import CARDS, BTagCard, DetectorCard, ElectronCard, load_card
from evenet_hep.simulate.jets import btag_scores
from evenet_hep.simulate.matching import cone_sums, nearest_within


@pytest.mark.parametrize("name", ["cms", "atlas"])
def test_cards_survive_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(CARDS[name].to_yaml())
    assert load_card(path) == CARDS[name] == load_card(name)
    assert CARDS[name].name == name


def test_a_card_states_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "met": {"noise": 20}}))
    card = load_card(path)
    assert card.met.noise == 20.0
    assert card.jets == DetectorCard().jets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("met: {nois: 3}", "card.met has unknown key 'nois'; allowed are noise, stochastic"),
        ("mets: {}", "card has unknown key 'mets'"),
        ("met: 3", "card.met must be a mapping"),
        ("met: {noise: -1}", "card.met.noise must be a number that is not negative; found -1"),
        ("met: {noise: true}", "card.met.noise must be a number"),
        ("name: 3", "card.name must be a name"),
        ("btag: {b: [0.9, 0.8]}", "card.btag.b must be three numbers"),
        ("btag: {b: [0.5, 0.8, 0.9]}", "card.btag.b must fall from loose to tight"),
        ("btag: {thresholds: [0.5, 0.4, 0.6]}", "card.btag.thresholds must rise"),
        ("muons: {resolution: [0.1]}", "card.muons.resolution needs one entry more than eta_edges"),
        ("electrons: {efficiency: 0.9}", "card.electrons.efficiency must be a list"),
    ],
)  # fmt: skip
def test_cards_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_card(path)


def test_cards_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="--card must be cms, atlas or a YAML file; found 'cdf'"):
        load_card("cdf")
    path = tmp_path / "card.yaml"
    path.write_text("met: {")
    with pytest.raises(FileError, match="is not a YAML file"):
        load_card(path)
    with pytest.raises(ConfigError, match="one entry per region"):
        DetectorCard(electrons=ElectronCard(efficiency=(0.9,)))


@pytest.mark.parametrize("card", [CARDS["cms"].btag, CARDS["atlas"].btag, BTagCard(light=(0.3, 0.2, 0.1))])
def test_tag_rates_are_those_of_the_card(card: BTagCard) -> None:
    random = np.random.default_rng(3)
    for flavour, rates in ((5, card.b), (4, card.c), (0, card.light)):
        scores = btag_scores(np.full(100_000, flavour), card, random)
        assert scores.min() >= 0.0
        assert scores.max() <= 1.0
        for threshold, rate in zip(card.thresholds, rates, strict=True):
            error = np.sqrt(rate * (1.0 - rate) / len(scores))
            assert abs(np.mean(scores > threshold) - rate) < 4.0 * error


def test_nearest_and_sums_agree_with_plain_loops() -> None:
    random = np.random.default_rng(5)
    counts, others = random.integers(0, 4, 30), random.integers(0, 6, 30)
    offsets, other_offsets = (np.concatenate([[0], np.cumsum(c)]) for c in (counts, others))
    eta, phi = random.uniform(-1, 1, counts.sum()), random.uniform(-np.pi, np.pi, counts.sum())
    other_eta, other_phi = random.uniform(-1, 1, others.sum()), random.uniform(-np.pi, np.pi, others.sum())
    other_pt = random.uniform(0, 9, others.sum())
    radii = np.array([0.5, 1.5])
    nearest = nearest_within(offsets, eta, phi, other_offsets, other_eta, other_phi, 1.0)
    sums = cone_sums(offsets, eta, phi, other_offsets, other_pt, other_eta, other_phi, radii)
    for event in range(30):
        inside = slice(other_offsets[event], other_offsets[event + 1])
        for i in range(offsets[event], offsets[event + 1]):
            distance = delta_r(eta[i], phi[i], other_eta[inside], other_phi[inside])
            expected = other_offsets[event] + np.argmin(distance) if (distance < 1.0).any() else -1
            assert nearest[i] == expected
            for r, radius in enumerate(radii):
                assert sums[r, i] == pytest.approx(other_pt[inside][distance < radius].sum())
    assert (nearest >= 0).sum() > 10


def test_collections_keep_events_apart() -> None:
    one = Collection(np.array([2, 0, 1]), {"pt": np.array([1.0, 3.0, 2.0])})
    assert one.sorted_by_pt()["pt"].tolist() == [3.0, 1.0, 2.0]
    assert one.position.tolist() == [0, 1, 0]
    assert one.count(one["pt"] > 1.5).tolist() == [1, 0, 1]
    chosen = one.take(one["pt"] < 2.5)
    assert (chosen.counts.tolist(), chosen["pt"].tolist()) == ([1, 0, 1], [1.0, 2.0])
    last = one.select_events(np.array([False, True, True]))
    assert (last.counts.tolist(), last["pt"].tolist()) == ([0, 1], [2.0])
    both = concatenate([one, last])
    assert (both.counts.tolist(), both["pt"].tolist()) == ([2, 0, 1, 0, 1], [1.0, 3.0, 2.0, 2.0])
    merged = concatenate_objects([one, Collection(np.array([0, 1, 1]), {"pt": np.array([7.0, 8.0])})])
    assert (merged.counts.tolist(), merged["pt"].tolist()) == ([2, 1, 2], [1.0, 3.0, 7.0, 2.0, 8.0])
