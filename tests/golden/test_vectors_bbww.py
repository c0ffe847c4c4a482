"""Neutrino pz, topness, the 49 features and the selections against independently computed cases.

The large sets of cases lie beside some checkouts and are skipped without; the cases at the end are worked out by hand.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
import pytest

from evenet_hep.events.observables import MOMENTUM, neutrino_pz, topness
from evenet_hep.events.selection import select_bbww, select_dimuon, select_haa4b, select_tt2l
from evenet_hep.events.tabular import FEATURES, bbww_features
from evenet_hep.kinematics.hadronic_w import cluster_transverse_mass
from evenet_hep.kinematics.topness import TopnessResult

SHARED = Path(os.environ.get("EVENET_SHARED", Path(__file__).parents[3] / "shared"))
NAN = math.nan

TOPNESS_NAMES = {
    "valid": "valid",
    "chi2": "topness",
    "b_lep": "b_lep",
    "b_had": "b_had",
    "q1": "q1",
    "q2": "q2",
    "m_tlep": "tlep_mass",
    "m_whad": "whad_mass",
    "m_thad": "thad_mass",
    "dr_l_blep": "dr_lb",
    "m_l_blep": "m_lb",
    "dr_qq": "whad_dr_qq",
    "dr_w_bhad": "thad_dr_bqq",
}


def load(name: str) -> tuple[list[dict[str, Any]], float, float]:
    """Cases and relative and absolute tolerance; null is NaN."""
    path = SHARED / "vectors" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside this checkout")
    document = json.loads(path.read_text())
    tolerance = document["tolerance"]
    return document["cases"], tolerance["rtol"], tolerance["atol"]


def number(value: Any) -> float:
    return NAN if value is None else float(value)


def differences(expected: dict[str, Any], found: dict[str, Any], rtol: float, atol: float) -> list[str]:
    """What is not as expected; nested records are compared field by field, strings and bools exactly."""
    wrong = []
    for name, value in expected.items():
        if isinstance(value, dict):
            wrong += [f"{name}.{text}" for text in differences(value, found[name], rtol, atol)]
        elif isinstance(value, str | bool | list):
            if value != found[name]:
                wrong.append(f"{name}: expected {value}, found {found[name]}")
        elif not np.isclose(number(found[name]), number(value), rtol=rtol, atol=atol, equal_nan=True):
            wrong.append(f"{name}: expected {value}, found {found[name]}")
    return wrong


def collection(cases: list[dict[str, Any]], name: str, fields: tuple[str, ...]) -> ak.Array:
    """Jagged records; ``position`` says where in its list each object stood."""
    columns = {
        field: ak.Array([[entry[field] for entry in case["input"][name]] for case in cases])
        for field in fields
    }
    records = ak.zip(columns)
    return ak.with_field(records, ak.local_index(records[fields[0]], axis=1), "position")


def columns(cases: list[dict[str, Any]], *names: str) -> list[np.ndarray]:
    return [np.array([number(case["input"][name]) for case in cases]) for name in names]


def test_neutrino_pz() -> None:
    cases, rtol, atol = load("neutrino_pz")
    for case in cases:
        given = case["input"]
        lepton = ak.Array(
            [
                {
                    "pt": number(given["l_pt"]),
                    "eta": given["l_eta"],
                    "phi": given["l_phi"],
                    "mass": given["l_m"],
                }
            ]
        )
        arguments = (lepton, [number(given["met"])], [given["met_phi"]])
        w_mass = given.get("mw", 80.4)
        nu = neutrino_pz(*arguments, w_mass=w_mass)
        scaled = neutrino_pz(*arguments, w_mass=w_mass, complex_solution="met_scaled")
        released = neutrino_pz(*arguments, w_mass=w_mass, formula="released")
        found = {
            "status": ("real" if nu.is_real[0] else "complex") if nu.valid[0] else "invalid",
            "discriminant": nu.discriminant[0],
            "pz_minus": nu.pz_minus[0],
            "pz_plus": nu.pz_plus[0],
            "pz": nu.pz[0],
            "nu_E": nu.energy[0],
            "m_lnu": pair_mass(given, nu.pz[0]),
            "met_scaled": scaled.met[0],
            "pz_met_scaled": scaled.pz[0],
            "pz_released_formula": released.pz[0],
        }
        expected = dict(case["expected"])
        if "boundary_exact" in case["tags"]:
            # The discriminant is zero up to rounding: either status is right, and pz agrees to 1e-3.
            assert abs(nu.discriminant[0]) < 1e-6, case["id"]
            del expected["status"], expected["discriminant"]
            assert not differences(expected, found, 1e-3, atol), case["id"]
        else:
            # The mass of a lepton and a neutrino that are nearly along the beam is a difference of large numbers.
            if "tiny_pt" in case["tags"]:
                assert found.pop("m_lnu") == pytest.approx(expected.pop("m_lnu"), rel=1e-6)
            assert not differences(expected, found, rtol, atol), case["id"]


def pair_mass(given: dict[str, Any], pz: float) -> float:
    if math.isnan(pz):
        return NAN
    lepton_pz = given["l_pt"] * math.sinh(given["l_eta"])
    energy = math.sqrt(given["l_pt"] ** 2 + lepton_pz**2 + given["l_m"] ** 2) + math.hypot(given["met"], pz)
    px = given["l_pt"] * math.cos(given["l_phi"]) + given["met"] * math.cos(given["met_phi"])
    py = given["l_pt"] * math.sin(given["l_phi"]) + given["met"] * math.sin(given["met_phi"])
    return math.sqrt(energy**2 - px**2 - py**2 - (lepton_pz + pz) ** 2)


def topness_cases(cases: list[dict[str, Any]], **options: Any) -> TopnessResult:
    jets = ak.zip(
        {
            field: [[number(jet[field]) for jet in case["input"]["jets"]] for case in cases]
            for field in MOMENTUM
        }
    )
    flags = {
        name: ak.Array([[bool(jet.get(name, True)) for jet in case["input"]["jets"]] for case in cases])
        for name in ("btag", "mask")
    }
    lepton = ak.Array([case["input"]["lepton"] for case in cases])
    met, met_phi = columns(cases, "met", "met_phi")
    return topness(lepton, jets, met, met_phi, is_bjet=flags["btag"], mask=flags["mask"], **options)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_topness(strategy: str, parallel: bool) -> None:
    cases, rtol, atol = load("topness")
    result = topness_cases(cases, strategy=strategy, parallel=parallel)
    for i, case in enumerate(cases):
        found = {name: getattr(result, field)[i].item() for name, field in TOPNESS_NAMES.items()}
        found["passes_gt3"] = bool(result.topness[i] > 3)
        assert not differences(case["expected"][strategy], found, rtol, atol), case["id"]


def test_features() -> None:
    cases, rtol, atol = load("bbww_features")
    lepton = ak.Array([case["input"]["lepton"] for case in cases])
    jets = collection(cases, "jets", (*MOMENTUM, "score"))
    met, met_phi = columns(cases, "met", "met_phi")
    features = bbww_features(lepton, jets, met, met_phi, btag="score", strategy="sequential")
    assert tuple(ak.fields(features)) == FEATURES
    assert list(cases[0]["expected"]) == list(FEATURES)
    for case, found in zip(cases, features.to_list(), strict=True):
        assert not differences(case["expected"], found, rtol, atol), case["id"]


def selection_cases(function: str) -> tuple[list[dict[str, Any]], float, float]:
    cases, rtol, atol = load("selection")
    return [case for case in cases if case["function"] == function], rtol, atol


def test_select_bbww() -> None:
    cases, rtol, atol = selection_cases("bbww")
    electrons, muons = (collection(cases, name, MOMENTUM) for name in ("electrons", "muons"))
    taus, jets = collection(cases, "taus", MOMENTUM[:3]), collection(cases, "jets", (*MOMENTUM, "score"))
    met, met_phi = columns(cases, "met", "met_phi")
    options: dict[str, Any] = {"identification": None, "btag": "score", "strategy": "sequential"}
    selection = select_bbww(electrons, muons, taus, jets, met, met_phi, **options)
    for i, case in enumerate(cases):
        found: dict[str, Any] = {
            name: getattr(selection, name)["position"][i].to_list()
            for name in ("electrons", "muons", "taus", "jets", "bjets", "light_jets")
        }
        found["dr_l_jnear"] = selection.dr_l_jnear[i]
        found["topness"] = selection.topness.topness[i]
        found["cuts"] = {name: flags[i].item() for name, flags in selection.cuts._asdict().items()}
        found["passed"] = selection.passed[i].item()
        assert not differences(case["expected"], found, rtol, atol), case["id"]


def test_select_haa4b() -> None:
    cases, _, _ = selection_cases("haa4b")
    selection = select_haa4b(collection(cases, "jets", ("pt",)), collection(cases, "bjets", ("pt",)))
    np.testing.assert_array_equal(selection.passed, [case["expected"] for case in cases])


def test_select_tt2l() -> None:
    cases, _, _ = selection_cases("tt2l_eval")
    leptons = collection(cases, "leptons", ("pt", "eta", "charge"))
    selection = select_tt2l(leptons, collection(cases, "bjets", ("pt", "eta")))
    np.testing.assert_array_equal(selection.passed, [case["expected"] for case in cases])


def test_select_dimuon() -> None:
    cases, _, _ = selection_cases("dimuon")
    muons = collection(cases, "mu", ("pt", "iso04", "charge", "tightId"))
    trigger = np.array([case["input"]["hlt"] for case in cases])
    mass = np.array([case["input"]["mass"] for case in cases])
    selection = select_dimuon(muons, trigger, mass=mass, isolation="iso04")
    for i, case in enumerate(cases):
        found = {name: getattr(selection, name)[i].item() for name in ("passed", "channel", "region")}
        assert found == case["expected"], case["id"]


# Worked out by hand.


def test_neutrino_without_met_flies_along_the_beam() -> None:
    """MET = 0: 2 (E_l |pz| - pz_l pz) = m_W^2, so pz = +- m_W^2 / (2 (E_l -+ pz_l))."""
    lepton = ak.Array([{"pt": 40.0, "eta": math.asinh(0.75), "phi": 1.0, "mass": 0.0}])  # pz = 30, E = 50
    nu = neutrino_pz(lepton, [0.0], [2.0])
    assert nu.pz_plus[0] == pytest.approx(80.4**2 / 40.0, rel=1e-12)
    assert nu.pz_minus[0] == nu.pz[0] == pytest.approx(-(80.4**2) / 160.0, rel=1e-12)


def test_neutrino_at_the_transverse_mass() -> None:
    """mT = 2 sqrt(pT MET) = m_W for back-to-back momenta: one root, with the pseudorapidity of the lepton."""
    lepton = ak.Array([{"pt": 20.1, "eta": 0.6, "phi": 0.0, "mass": 0.0}])
    nu = neutrino_pz(lepton, [80.4], [math.pi])
    assert nu.pz[0] == pytest.approx(80.4 * math.sinh(0.6), rel=1e-6)


def test_complex_solutions_by_hand() -> None:
    """pT = MET = 50, back to back, pz_l = 50: mu = 3232.08 - 2500, a = 2500; scaled MET = 3232.08 / 100."""
    lepton = ak.Array([{"pt": 50.0, "eta": math.asinh(1.0), "phi": 0.5, "mass": 0.0}])
    arguments = (lepton, [50.0], [0.5 - math.pi])
    assert neutrino_pz(*arguments).pz[0] == pytest.approx(732.08 * 50.0 / 2500.0, rel=1e-12)
    scaled = neutrino_pz(*arguments, complex_solution="met_scaled")
    assert scaled.met[0] == scaled.pz[0] == pytest.approx(32.3208, rel=1e-12)


def top_pair_at_rest() -> tuple[ak.Array, ak.Array, list[float], list[float]]:
    """Both W at rest, decaying to massless partons of 40.2 GeV; b jets of (mt^2 - mW^2) / (2 mW)."""
    b_energy = (172.5**2 - 80.4**2) / (2 * 80.4)
    jets = ak.Array(
        [
            [
                {"pt": 40.2, "eta": 0.0, "phi": 0.3, "mass": 0.0, "score": 0.1},
                {"pt": b_energy, "eta": 0.0, "phi": 2.0, "mass": 0.0, "score": 0.9},
                {"pt": 40.2, "eta": 0.0, "phi": 0.3 - math.pi, "mass": 0.0, "score": 0.2},
                {"pt": b_energy, "eta": 0.0, "phi": -1.0, "mass": 0.0, "score": 0.8},
            ]
        ]
    )
    return ak.Array([{"pt": 40.2, "eta": 0.0, "phi": 1.5, "mass": 0.0}]), jets, [40.2], [1.5 - math.pi]


@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_topness_of_a_perfect_top_pair_is_zero(strategy: Literal["joint", "sequential"]) -> None:
    lepton, jets, met, met_phi = top_pair_at_rest()
    result = topness(lepton, jets, met, met_phi, is_bjet=jets["score"] > 0.5, strategy=strategy)
    assert result.topness[0] == pytest.approx(0.0, abs=1e-9)
    assert result.tlep_mass[0] == result.thad_mass[0] == pytest.approx(172.5, rel=1e-6)
    assert result.whad_mass[0] == pytest.approx(80.4, rel=1e-12)
    assert (result.q1[0], result.q2[0]) == (0, 2)
    assert result.whad_dr_qq[0] == pytest.approx(math.pi)


def test_topness_measures_distance_in_standard_deviations() -> None:
    """Quarks of 1.1 x 40.2 GeV: the W is 8.04 GeV off, and m(qqb)^2 = mW'^2 + 2 mW' E_b."""
    lepton, jets, met, met_phi = top_pair_at_rest()
    jets["pt"] = ak.where(jets["score"] < 0.5, 1.1 * jets["pt"], jets["pt"])
    result = topness(lepton, jets, met, met_phi, is_bjet=jets["score"] > 0.5)
    w_mass, b_energy = 1.1 * 80.4, (172.5**2 - 80.4**2) / (2 * 80.4)
    top_mass = math.sqrt(w_mass**2 + 2 * w_mass * b_energy)
    expected = (8.04 / 11.83) ** 2 + ((top_mass - 172.5) / 20.87) ** 2
    assert result.topness[0] == pytest.approx(expected, rel=1e-6)


def test_features_of_a_perfect_top_pair() -> None:
    lepton, jets, met, met_phi = top_pair_at_rest()
    features = bbww_features(lepton, jets, met, met_phi, btag="score", working_point=0.5)[0]
    b_energy = (172.5**2 - 80.4**2) / (2 * 80.4)
    bb_mass = math.sqrt(2 * b_energy**2 * (1 - math.cos(3.0)))
    expected = {
        "n_b_jets": 2.0,
        "W_mT": 80.4,  # lepton against MET at eta = 0
        "b1_pt": b_energy,
        "bb_dR": 3.0,
        "bb_inv": bb_mass,
        "A_Whad_m": 80.4,
        "A_Whad_pt": 0.0,
        "A_WW_vis_m": math.sqrt(80.4**2 + 2 * 80.4 * 40.2),  # W at rest and a lepton of 40.2 GeV
        "A_min_dR_l_q": 1.2,
        "top_whad_dr_qq": math.pi,
    }
    for name, value in expected.items():
        assert features[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_cluster_transverse_mass_by_hand() -> None:
    """A system at rest of 80 GeV: mT^2 = (80 + MET)^2 - MET^2."""
    assert cluster_transverse_mass([0.0], [0.0], [80.0], [30.0], [1.0])[0] == pytest.approx(
        math.sqrt(110.0**2 - 30.0**2)
    )
