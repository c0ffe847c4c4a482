"""Candidates, jets with constituents and their truth, on particles written by hand; and a small run of Pythia."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.events.jets import cloud_of_jets, jet_schema, nanoaod_constituents
from evenet_hep.simulate.candidates import (
    CANDIDATE_CARDS,
    CandidateCard,
    charges,
    load_candidate_card,
    make_candidates,
)
from evenet_hep.simulate.catalogue import PROCESSES
from evenet_hep.simulate.columns import Collection
from evenet_hep.simulate.jet_truth import true_codes
from evenet_hep.simulate.particles import Particles
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.processes import parse_request
from evenet_hep.simulate.run import simulate
from evenet_hep.simulate.shards import SimulationSettings

FloatArray = npt.NDArray[np.float64]


def particles_of(rows: Sequence[tuple[int, int, int, float, float, float]], events: list[int]) -> Particles:
    """Particles from (pdgId, status, mother, pt, eta, phi), massless."""
    pdg_id, status, mother = (np.array([row[i] for row in rows]) for i in range(3))
    pt, eta, phi = (np.array([row[i] for row in rows], float) for i in range(3, 6))
    event = np.repeat(np.arange(len(events)), events)
    zero = np.zeros(len(rows))
    return Particles(
        offsets=np.concatenate([[0], np.cumsum(events)]).astype(np.int64), event=event,
        pdg_id=pdg_id.astype(np.int32), status=status.astype(np.int32), mother=mother.astype(np.int64),
        px=pt * np.cos(phi), py=pt * np.sin(phi), pz=pt * np.sinh(eta), energy=pt * np.cosh(eta), mass=zero,
        pt=pt, eta=eta, phi=phi, x=zero, y=zero, z=zero,
    )  # fmt: skip


def test_charges_agree_with_pythia() -> None:
    pythia8 = pytest.importorskip("pythia8mc")
    pythia = pythia8.Pythia("", False)
    codes = [
        11,
        13,
        22,
        130,
        310,
        211,
        321,
        411,
        421,
        431,
        511,
        521,
        531,
        541,
        2112,
        2212,
        3112,
        3122,
        3212,
        3222,
    ]
    codes += [3312, 3322, 3334, 4122, 4232, 5122, 5132, 113, 213, 221, 323, 1114, 2224, 10213, 100211, 20433]
    both = [sign * code for code in codes for sign in (1, -1)]
    assert charges(both).tolist() == [round(pythia.particleData.charge(code)) for code in both]


def test_without_a_detector_candidates_are_the_visible_particles() -> None:
    rows = [(211, 1, -1, 5.0, 0.1, 0.2), (14, 1, -1, 9.0, 0.0, 0.0), (22, 1, -1, 8.0, 6.0, 0.0), (-2212, 1, -1, 7.0, -1.0, 3.0)]  # fmt: skip
    found = make_candidates(particles_of(rows, [4]), CANDIDATE_CARDS["none"], np.random.default_rng(1))
    assert found["pdgId"].tolist() == [-2212, 211]  # neither the neutrino nor what is beyond abs(eta) 5
    assert found["charge"].tolist() == [-1, 1]
    assert found["pt"].tolist() == [7.0, 5.0]


def many(code: int, n: int, *, pt: float = 20.0, eta: float = 0.4) -> Particles:
    return particles_of([(code, 1, -1, pt, eta, 1.0)] * n, [1] * n)


def test_resolutions_and_efficiencies_are_those_of_the_card() -> None:
    card, n = CandidateCard(), 20000
    tracks = make_candidates(many(-321, n), card, np.random.default_rng(1))
    is_track = tracks["pdgId"] == -211
    assert is_track.mean() == pytest.approx(card.track_efficiency, abs=0.006)
    assert tracks["pdgId"][~is_track].tolist() == [130] * int((~is_track).sum())  # the others leave energy
    assert len(is_track) > 0.999 * n
    width = np.hypot(card.track_resolution, card.track_curvature * 20)
    assert tracks["pt"][is_track].std() / 20 == pytest.approx(width, rel=0.05)
    energy = 20 * np.cosh(0.4)
    for code, kind in ((22, "photon"), (2112, "hadron")):
        found = make_candidates(many(code, n), card, np.random.default_rng(2))
        a, b, c = (getattr(card, f"{kind}_{term}") for term in ("stochastic", "noise", "constant"))
        expected = np.sqrt(a**2 / energy + (b / energy) ** 2 + c**2)
        assert found["pt"].std() / 20 == pytest.approx(expected, rel=0.05)
    assert len(make_candidates(many(13, n), card, np.random.default_rng(3))["pt"]) / n == pytest.approx(
        card.muon_efficiency, abs=0.006
    )
    assert len(make_candidates(many(211, 100, pt=0.4), card, np.random.default_rng(4))["pt"]) == 0
    forward = make_candidates(many(211, 100, eta=3.5), card, np.random.default_rng(5))
    assert set(forward["pdgId"].tolist()) == {1}


def test_neutral_particles_in_a_cell_are_one() -> None:
    rows = [(2112, 1, -1, 10.0, 0.02, 0.30), (130, 1, -1, 20.0, 0.05, 0.32), (2112, 1, -1, 15.0, 0.10, 0.31)]
    rows += [(22, 1, -1, 10.0, 0.02, 0.30), (22, 1, -1, 20.0, 0.05, 0.32)]
    card = CandidateCard(
        hadron_stochastic=0, hadron_noise=0, hadron_constant=0, photon_stochastic=0, photon_noise=0, photon_constant=0
    )  # fmt: skip
    found = make_candidates(particles_of(rows, [5]), card, np.random.default_rng(1))
    hadrons, photons = (found.take(found["pdgId"] == code) for code in (130, 22))
    assert len(photons["pt"]) == 2  # smaller cells
    assert len(hadrons["pt"]) == 2
    assert hadrons["eta"][0] == pytest.approx(0.04, abs=1e-4)
    assert hadrons["pt"][0] == pytest.approx(30.0, abs=0.02)
    assert (np.diff(found["pt"]) <= 0).all()


def jets_at(*directions: tuple[float, float]) -> Collection:
    eta, phi = np.array(directions).T
    return Collection(np.array([len(directions)]), {"eta": eta, "phi": phi})


def test_truth_of_tops_bosons_and_partons() -> None:
    # A top with a copy, its W with a copy, the three quarks; and a Higgs of two quarks far away.
    rows = [
        (6, -22, -1, 500.0, 0.0, 0.0), (6, -62, 0, 500, 0.0, 0.0), (24, -22, 1, 300, 0.1, 0.1), (5, 23, 1, 200, -0.2, -0.2),
        (24, -52, 2, 300, 0.1, 0.1), (2, 23, 4, 150, 0.2, 0.2), (-1, 23, 4, 150, 0.0, 0.1), (25, -22, -1, 400, 0.0, 3.0),
        (5, 23, 7, 200, 0.2, 3.0), (-5, 23, 7, 200, -0.2, 3.1),
    ]  # fmt: skip
    particles = particles_of(rows, [len(rows)])
    jets = jets_at((0.0, 0.0), (0.5, 0.45), (0.0, -3.2), (0.9, 3.0), (-1.5, 1.5))
    partons = np.array([5, 2, 5, -5, 21])
    assert true_codes(jets, particles, partons, 0.8).tolist() == [6, 24, 25, 5, 21]
    # Smaller jets hold one quark each.
    assert true_codes(jets_at((0.21, 0.21)), particles, np.array([2]), 0.05).tolist() == [2]


def test_bad_cards_and_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"card\.detector must be parametric or none; found 'maybe'"):
        CandidateCard(detector="maybe")
    with pytest.raises(FileError, match="the detector of candidates must be cms, none or a YAML file"):
        load_candidate_card("cms2")
    path = tmp_path / "card.yaml"
    path.write_text("radius: 0.5\ndetector: none\n")
    assert load_candidate_card(path) == CandidateCard(radius=0.5, detector="none")
    path.write_text("radiu: 0.5\n")
    with pytest.raises(ConfigError, match="card has unknown key 'radiu'"):
        load_candidate_card(path)
    with pytest.raises(ConfigError, match="pt_max must be above pt_min; found 400 and 500"):
        parse_request("jet_top:pt_max=400", PROCESSES)
    with pytest.raises(ConfigError, match="m_a must be above the sum of m_b and m_c"):
        parse_request("abc:m_b=3450", PROCESSES)
    settings = SimulationSettings(constituents=CandidateCard())
    pytest.importorskip("pythia8mc")
    with pytest.raises(
        ConfigError, match="events with constituents have no leptons for the skim 2mu of jet_W_2mu"
    ):
        simulate(requests_from_words(["jet_W:skim=2mu,events=5"], None), tmp_path, settings)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The file of a small sample with constituents."""
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    out = tmp_path_factory.mktemp("jets")
    made: dict[tuple[str, str], Path] = {}

    def simulate_words(word: str, card: str = "cms") -> Path:
        if (word, card) not in made:
            settings = SimulationSettings(seed=5, constituents=CANDIDATE_CARDS[card])
            result = simulate(requests_from_words([word], None), out / card, settings)
            label = result.shards[0]["label"]
            made[word, card] = out / card / label / f"{label}_0000.root"
        return made[word, card]

    return simulate_words


def events_of(path: Path) -> ak.Array:
    tables = ("FatJet", "Jet", "PFCand", "FatJetPFCand", "JetPFCand", "GenPart")
    with uproot.open(path) as file:
        tree = file["Events"]
        names = [name for name in tree.keys() if "_" in name]  # noqa: SIM118  a tree is no dict
        records = {
            t: ak.zip({n.removeprefix(f"{t}_"): tree[n].array() for n in names if n.startswith(f"{t}_")}) for t in tables
        }  # fmt: skip
    return ak.zip(records, depth_limit=1)


TOPS = "jet_top:pt_min=500,pt_max=600,events=40"


@pytest.mark.parametrize("collection", ["FatJet", "Jet"])
def test_jets_are_the_sums_of_their_constituents(make: Callable[..., Path], collection: str) -> None:
    events = events_of(make(TOPS))
    jets, inside = events[collection], nanoaod_constituents(events, collection)
    assert ak.all(ak.num(inside, axis=2) == jets.nConstituents)
    p = {name: ak.values_astype(inside[name], np.float64) for name in ("pt", "eta", "phi", "mass")}
    px, py, pz = (
        ak.sum(p["pt"] * f, axis=2) for f in (np.cos(p["phi"]), np.sin(p["phi"]), np.sinh(p["eta"]))
    )
    energy = ak.sum(np.sqrt((p["pt"] * np.cosh(p["eta"])) ** 2 + p["mass"] ** 2), axis=2)
    assert ak.max(abs(np.hypot(px, py) / jets.pt - 1)) < 1e-5
    mass = np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0))
    assert ak.max(abs(mass - jets.mass)) < 0.1
    assert ak.all(ak.ravel(jets.pt[:, :-1] >= jets.pt[:, 1:]))
    used = ak.concatenate([events[f"{name}PFCand"].pfCandIdx for name in ("FatJet", "Jet")], axis=1)
    assert set(ak.to_list(used[0])) == set(range(len(events.PFCand[0])))  # no candidate without a jet


def test_tops_look_like_tops(make: Callable[..., Path]) -> None:
    tops, quarks = (events_of(make(w)).FatJet[:, :2] for w in (TOPS, TOPS.replace("top", "quark")))
    is_top = tops.truthPdgId == 6
    assert ak.mean(is_top) > 0.4
    assert np.median(ak.flatten(tops.msoftdrop[is_top])) == pytest.approx(170, abs=12)
    assert set(ak.to_list(ak.flatten(quarks.truthPdgId))) <= {1, 2, 3, 4, 5}
    tau32 = [np.median(ak.to_numpy(ak.flatten(x.tau3 / x.tau2))) for x in (tops[is_top], quarks)]
    assert tau32[0] < tau32[1] - 0.15


def test_resonances_have_their_masses(make: Callable[..., Path]) -> None:
    jets = events_of(make("abc:m_a=2000,m_b=200,m_c=100,events=40", "none")).FatJet[:, :2]
    both = ak.all(jets.truthPdgId >= 25, axis=1) & (ak.num(jets) == 2)
    assert ak.sum(both) > 15
    for code, mass in ((25, 200), (36, 100)):
        found = ak.flatten(jets.msoftdrop[jets.truthPdgId == code])
        assert np.median(found) == pytest.approx(mass, rel=0.1)
    a, b = jets[both][:, 0], jets[both][:, 1]
    pair = np.sqrt(2 * a.pt * b.pt * (np.cosh(a.eta - b.eta) - np.cos(a.phi - b.phi)) + a.mass**2 + b.mass**2)
    assert np.median(pair) == pytest.approx(2000, rel=0.08)  # what is radiated is lost


def test_coffea_reads_the_files_and_clouds_are_made(make: Callable[..., Path]) -> None:
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415

    NanoAODSchema.warn_missing_crossrefs = False
    events = NanoEventsFactory.from_root(
        {str(make(TOPS)): "Events"}, schemaclass=NanoAODSchema, mode="eager"
    ).events()
    cloud = cloud_of_jets(events.FatJet, nanoaod_constituents(events), jet_schema())
    assert len(cloud) == ak.sum(ak.num(events.FatJet)) >= 70
    assert cloud.event_features[:, 3].tolist() == ak.to_list(ak.flatten(events.FatJet.nConstituents))
    assert (cloud.objects[cloud.mask][:, 8:].sum(axis=1) == 1).all()


def test_the_detector_matters_and_runs_repeat(make: Callable[..., Path], tmp_path: Path) -> None:
    on, off = (events_of(make(TOPS, card)) for card in ("cms", "none"))
    assert ak.all(on.GenPart.pt == off.GenPart.pt)  # the same collisions
    assert ak.mean(off.FatJet.nConstituents) > ak.mean(on.FatJet.nConstituents)
    assert set(np.unique(np.abs(ak.to_numpy(ak.flatten(on.PFCand.pdgId))))) <= {1, 2, 11, 13, 22, 130, 211}
    settings = SimulationSettings(seed=5, constituents=CANDIDATE_CARDS["cms"])
    requests = requests_from_words([TOPS], None)
    assert simulate(requests, tmp_path, settings).n_new == 1
    again = events_of(next(tmp_path.glob("*/*.root")))
    assert ak.array_equal(again, on)
    assert simulate(requests, tmp_path, settings).n_new == 0  # goes on where it was stopped
    with pytest.raises(ConfigError, match="was made with another card"):
        simulate(requests, tmp_path, SimulationSettings(seed=5, constituents=CANDIDATE_CARDS["none"]))
    content: dict[str, Any] = json.loads(next(tmp_path.glob("*/*.json")).read_text())
    assert content["request"]["card"]["fat_radius"] == 0.8
    assert json.loads((tmp_path / "dataset.json").read_text())["samples"][content["label"]]["class"] == "top"
