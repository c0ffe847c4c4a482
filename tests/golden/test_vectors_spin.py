"""Reference numbers for spin, dilepton reconstruction and dimuon calibration, computed outside this package.

The large sets lie beside some checkouts and are skipped without; the cases written out here always run and can be
checked with pencil and paper.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.kinematics import density_matrix as dm
from evenet_hep.kinematics import spin
from evenet_hep.kinematics.dilepton import dilepton_solutions
from evenet_hep.kinematics.dimuon import MUON_MASS, calibrate_dimuon

HERE = Path(__file__)
# The variable decides alone if it is set; otherwise the folder lies in or beside the checkout.
CANDIDATES = (
    [Path(os.environ["EVENET_SHARED"])]
    if "EVENET_SHARED" in os.environ
    else [HERE.parents[2] / "shared", HERE.parents[3] / "shared"]
)
FOLDER = next((path / "vectors" for path in CANDIDATES if (path / "vectors").is_dir()), None)
SETS = ("spin_angles", "spin_matrix", "spin_estimators", "dilepton_reco", "prf_calibration")


def decode(value: Any) -> Any:
    """None is NaN, 'inf' and '-inf' are infinities."""
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


def cases() -> list[Any]:
    if FOLDER is None:
        return []
    found = []
    for name in SETS:
        document = json.loads((FOLDER / f"{name}.json").read_text())
        found += [
            pytest.param(name, case, document["tolerance"], id=case["id"]) for case in document["cases"]
        ]
    return found


def mismatches(expected: Any, got: Any, tolerance: dict[str, Any], path: str = "") -> list[str]:
    if isinstance(expected, dict):
        return [
            line
            for key in expected
            for line in mismatches(expected[key], got[key], tolerance, f"{path}.{key}")
        ]
    if isinstance(expected, list):
        if len(expected) != len(got):
            return [f"{path}: length {len(expected)} != {len(got)}"]
        return [
            line for a, b in zip(expected, got, strict=True) for line in mismatches(a, b, tolerance, path)
        ]
    if isinstance(expected, bool | str):
        return [] if expected == got else [f"{path}: {expected} != {got}"]
    rtol = max(tolerance["rtol"], tolerance.get("per_field", {}).get(path.rpartition(".")[2], 0))
    same = math.isnan(expected) == math.isnan(got) and not abs(expected - got) > tolerance[
        "atol"
    ] + rtol * abs(expected)
    return [] if same else [f"{path}: {expected!r} != {float(got)!r}"]


def momentum(e_first: list[float]) -> np.ndarray:
    """One [E, px, py, pz] as px, py, pz, E of one event."""
    return np.array(e_first)[[1, 2, 3, 0], np.newaxis]


def e_first(momenta: np.ndarray) -> list[float]:
    return list(momenta[[3, 0, 1, 2]])


def spin_angles(given: dict[str, Any]) -> dict[str, Any]:
    top, antitop, lplus, lminus = (momentum(given[name]) for name in ("top", "antitop", "lplus", "lminus"))
    results = {}
    for name, bose_sign in (("no_sign", False), ("bose_sign", True)):
        angles = spin.spin_angles(top, antitop, lplus, lminus, bose_sign=bose_sign)
        numbers = {
            "m_tt": angles.m_tt[0],
            "cos_theta_top_cm": angles.cos_theta[0],
            "cos_phi_ll": angles.cos_phi[0],
        }
        for axis, plus, minus in zip("krn", angles.cos_plus[:, 0], angles.cos_minus[:, 0], strict=True):
            numbers |= {f"cosA_{axis}": plus, f"cosB_{axis}": minus}
        results[name] = numbers
    return results


def spin_matrix(given: dict[str, Any]) -> dict[str, Any]:
    c, plus, minus = given["C"], given["B_plus"], given["B_minus"]
    markers, state = dm.entanglement_markers(c), dm.spin_state(c, plus, minus)
    sigma = np.zeros((3, 3)) if given["sigma_C"] is None else given["sigma_C"]
    delta, published = dm.delta_d(c, sigma), dm.delta_d_published(c, sigma, plus, minus)
    return {
        "D_paper": markers.d_paper,
        "D_poster": markers.d_poster,
        "D_standard": markers.d_std,
        "D_other_pair": markers.d_prime,
        "max_pairing": max(markers.d_paper, markers.d_prime),
        "rho_eigenvalues": list(state.eigenvalues),
        "pt_eigenvalues": list(state.transposed_eigenvalues),
        "physical": bool(state.physical),
        "entangled_ppt": bool(state.entangled),
        "negativity": state.negativity,
        "concurrence": state.concurrence,
        "concurrence_released_no_sqrt": published.concurrence_without_roots,
        "chsh_max": state.chsh,
        "bell_violated": bool(state.bell_violated),
        "delta_D": {"D": delta.d_paper, "sigma_D": delta.uncertainty, "delta_D": delta.value},
        "delta_D_released": {
            "value": published.concurrence_without_roots,
            "up": published.up,
            "down": published.down,
            "ratio": published.value,
        },
    }


def spin_estimators(given: dict[str, Any]) -> dict[str, Any]:
    edges = np.array(given["ml_edges"])
    constant, slope = spin.product_bin_integrals(edges)
    results: dict[str, Any] = {"bin_prob_constant": list(constant), "bin_prob_slope": list(slope)}
    if "cosA" not in given:
        return results
    x, y, weights = np.array(given["cosA"]), np.array(given["cosB"]), given["weights"]
    kappas = (given["kappa_A"], given["kappa_B"])
    counts, _ = np.histogram(x * y, edges)
    estimates = {
        "C_moment": spin.correlation_moment(x, y, weights=weights, kappas=kappas),
        "C_asymmetry": spin.correlation_asymmetry(x, y, kappas=kappas),
        "C_binned_ml": spin.correlation_likelihood(counts, edges, kappas=kappas),
        "C_bincentre_20": spin.correlation_histogram_moment(counts, edges, kappas=kappas),
        "B_plus": spin.polarization_moment(x, kappa=kappas[0], weights=weights),
        "B_minus": spin.polarization_moment(y, kappa=kappas[1], weights=weights),
    }
    for name, estimate in estimates.items():
        results |= {name: estimate.value, f"{name}_err": estimate.uncertainty}
    return results | {"xi_counts": list(counts)}


def dilepton_reco(given: dict[str, Any]) -> dict[str, Any]:
    lplus, lminus, b, bbar = (momentum(given[name]) for name in ("lplus", "lminus", "b", "bbar"))
    found = dilepton_solutions(lplus, lminus, b, bbar, [given["met_x"]], [given["met_y"]])
    n = found.n_solutions[0]
    return {
        "n_solutions": n,
        "neutrino": [e_first(p) for p in found.neutrino[:, 0, :n].T],
        "antineutrino": [e_first(p) for p in found.antineutrino[:, 0, :n].T],
        "selected_min_mtt": found.best[0],
    }


def prf_calibration(given: dict[str, Any]) -> dict[str, Any]:
    p1, p2 = (np.array(decode(given[name]))[:, np.newaxis] for name in ("p1", "p2"))
    result = calibrate_dimuon(p1, p2, decode(given["mass"]))
    return {
        "status": "ok" if result.valid[0] else "invalid",
        "p1": e_first(result.muon1[:, 0]),
        "p2": e_first(result.muon2[:, 0]),
        "m_gen": result.m_gen[0],
        "p_star": result.p_star[0],
        "scale": result.scale[0],
        "adj_p4_1": result.adjustment[0, 0],
        "adj_p4_2": result.adjustment[1, 0],
        "adj_p3_1": result.adjustment_p3[0, 0],
        "adj_p3_2": result.adjustment_p3[1, 0],
        "adj_p4_event": result.adjustment[:, 0].mean(),
        "adj_p3_event": result.adjustment_p3[:, 0].mean(),
    }


COMPUTE = {
    "spin_angles": spin_angles,
    "spin_matrix": spin_matrix,
    "spin_estimators": spin_estimators,
    "dilepton_reco": dilepton_reco,
    "prf_calibration": prf_calibration,
}


@pytest.mark.skipif(FOLDER is None, reason="no reference numbers beside this checkout")
@pytest.mark.parametrize(("name", "case", "tolerance"), cases())
def test_reference_numbers(name: str, case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    got = COMPUTE[name](case["input"])
    assert not mismatches(decode(case["expected"]), got, tolerance)
    if "truth" in case:
        truth = momentum(case["truth"]["neutrino"])[:, 0]
        distances = [np.abs(momentum(p)[:, 0] - truth).max() for p in got["neutrino"]]
        assert min(distances) < 1e-5


def test_reference_comparison_can_fail() -> None:
    tolerance = {"rtol": 1e-7, "atol": 1e-7}
    assert mismatches({"a": [1.0, math.nan]}, {"a": [1.0, math.nan]}, tolerance) == []
    assert mismatches({"a": [1.0]}, {"a": [1.001]}, tolerance) == [".a: 1.0 != 1.001"]
    assert mismatches({"a": math.nan}, {"a": 1.0}, tolerance) != []
    assert mismatches({"a": 1.0}, {"a": math.nan}, tolerance) != []
    assert mismatches({"a": True}, {"a": False}, tolerance) != []
    assert mismatches({"a": [1.0]}, {"a": []}, tolerance) != []


# ------------------------------------------------------------------------------------------------ by hand


def test_bell_states() -> None:
    """C = -1 for the singlet; diag(1, -1, 1) and its permutations for the triplets with one -1."""
    states = {(-1, -1, -1): 3.0, (1, 1, -1): 3.0, (-1, 1, 1): -1.0, (1, -1, 1): -1.0}
    for diagonal, d_paper in states.items():
        markers, state = dm.entanglement_markers(np.diag(diagonal)), dm.spin_state(np.diag(diagonal))
        assert markers.d_paper == d_paper
        assert max(markers.d_paper, markers.d_prime) == 3.0
        assert state.concurrence == pytest.approx(1.0, abs=1e-12)
        assert state.negativity == pytest.approx(0.5, abs=1e-12)
        assert state.chsh == pytest.approx(2 * math.sqrt(2), abs=1e-12)
    # The triplet along k is entangled although D of the paper, the poster and the literature all miss it.
    missed = dm.entanglement_markers(np.diag([-1, 1, 1]))
    assert missed.d_paper < 1
    assert missed.d_poster < 1
    assert missed.d_std > -1 / 3


@pytest.mark.parametrize(
    ("p", "entangled", "violated"), [(0.32, False, False), (0.34, True, False), (0.72, True, True)]
)
def test_werner_states(p: float, entangled: bool, violated: bool) -> None:
    """p singlet + (1 - p) noise: entangled above 1/3, concurrence (3 p - 1) / 2, Bell violation above 1/sqrt 2."""
    state = dm.spin_state(-p * np.eye(3))
    assert bool(state.entangled) is entangled
    assert bool(state.bell_violated) is violated
    assert state.concurrence == pytest.approx(max(0.0, (3 * p - 1) / 2), abs=1e-12)
    assert state.chsh == pytest.approx(2 * math.sqrt(2) * p, abs=1e-12)


def test_angles_at_ninety_degrees() -> None:
    """Tops back to back along x: k = x, y = 0, r = z, n = z x x = y; a lepton across the top's flight in its frame."""
    gamma, beta = 1.25, 0.6
    top = [gamma * beta * 172.5, 0.0, 0.0, gamma * 172.5]
    antitop = [-gamma * beta * 172.5, 0.0, 0.0, gamma * 172.5]
    lplus = [gamma * beta * 50, 0.0, 50.0, gamma * 50]  # along +z at rest
    lminus = [gamma * (30 - beta * 50), 40.0, 0.0, gamma * (50 - beta * 30)]  # (0.6, 0.8, 0) at rest
    angles = spin.spin_angles(*(np.array(p)[:, None] for p in (top, antitop, lplus, lminus)))
    np.testing.assert_allclose(angles.m_tt, 2 * gamma * 172.5)
    np.testing.assert_allclose(angles.cos_theta, 0.0, atol=1e-12)
    np.testing.assert_allclose(angles.cos_plus[:, 0], [0.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(angles.cos_minus[:, 0], [0.6, 0.0, 0.8], atol=1e-12)
    np.testing.assert_allclose(angles.cos_phi, 0.0, atol=1e-12)


def test_two_bins_of_the_likelihood() -> None:
    """P = 1/2 -+ C/8 for xi > 0 and xi < 0, so 300 and 200 events give C = 4 (300 - 200) / 500 exactly."""
    estimate = spin.correlation_likelihood([300, 200], [-1.0, 0.0, 1.0])
    assert estimate.value == pytest.approx(0.8, abs=1e-12)
    # sigma of a fraction f: 8 sqrt(f (1 - f) / N)
    assert estimate.uncertainty == pytest.approx(8 * math.sqrt(0.6 * 0.4 / 500), rel=1e-12)


def test_dimuon_back_to_back() -> None:
    result = calibrate_dimuon([[3.0], [4.0], [0.0]], [[-3.0], [-4.0], [0.0]], 9.46)
    p_star = math.sqrt(4.73**2 - MUON_MASS**2)
    np.testing.assert_allclose(result.muon1[:, 0], [0.6 * p_star, 0.8 * p_star, 0.0, 4.73], rtol=1e-12)
    np.testing.assert_allclose(result.m_gen, 2 * math.sqrt(25 + MUON_MASS**2), rtol=1e-12)


def test_dilepton_at_rest() -> None:
    """Two tops at rest with massless b jets along -x and -y, and leptons across the flight lines of their Ws.

    The Ws have p = (m_t^2 - m_W^2) / 2 m_t along x and y. A massless lepton of energy e across that line leaves the
    neutrino E_W - e, and m_W^2 = 2 E_W e.
    """
    mt, mw = 172.5, 80.4
    p = (mt**2 - mw**2) / (2 * mt)
    w_energy = math.hypot(p, mw)
    e = mw**2 / (2 * w_energy)
    b, lplus = np.array([[-p], [0], [0], [p]]), np.array([[0], [0], [-e], [e]])
    bbar, lminus = np.array([[0], [-p], [0], [p]]), np.array([[0], [0], [e], [e]])
    truth = np.array([p, 0, e, w_energy - e, 0, p, -e, w_energy - e])
    met = np.array([p])
    found = dilepton_solutions(lplus, lminus, b, bbar, met, met)
    solutions = np.concatenate([found.neutrino[:, 0], found.antineutrino[:, 0]])
    assert np.nanmin(np.abs(solutions - truth[:, None]).max(axis=0)) < 1e-6
    assert np.nanmin(found.m_tt) == pytest.approx(2 * mt, abs=1e-6)  # no pair can be lighter
    assert found.m_tt[0, found.best[0]] == np.nanmin(found.m_tt)
    # A massless lepton and b jet along one line have no rest frame: said, not guessed.
    along = np.array([[-e], [0], [0], [e]])
    assert not dilepton_solutions(along, lminus, b, bbar, met, met).valid[0]
