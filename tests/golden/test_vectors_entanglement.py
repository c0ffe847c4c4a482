"""Reference numbers for spin coefficients and entanglement, computed outside this package, through evenet_hep.stats.

The large sets lie beside some checkouts and are skipped without.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.stats.entanglement import entanglement
from evenet_hep.stats.spin_coefficients import measure_spin, spin_coefficients
from evenet_hep.stats.spin_fits import fit_correlation

HERE = Path(__file__)
# The variable decides alone if it is set; otherwise the folder lies in or beside the checkout.
CANDIDATES = (
    [Path(os.environ["EVENET_SHARED"])]
    if "EVENET_SHARED" in os.environ
    else [HERE.parents[2] / "shared", HERE.parents[3] / "shared"]
)
FOLDER = next((path / "vectors" for path in CANDIDATES if (path / "vectors").is_dir()), None)


def cases(name: str) -> list[Any]:
    if FOLDER is None:
        return []
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return [pytest.param(case, document["tolerance"], id=case["id"]) for case in document["cases"]]


def assert_close(expected: dict[str, Any], got: dict[str, float], tolerance: dict[str, Any]) -> None:
    for key, value in got.items():
        wanted = math.nan if expected[key] is None else float(expected[key])
        rtol = max(tolerance["rtol"], tolerance.get("per_field", {}).get(key, 0))
        assert value == pytest.approx(wanted, rel=rtol, abs=tolerance["atol"], nan_ok=True), key


@pytest.mark.skipif(FOLDER is None, reason="no reference numbers beside this checkout")
@pytest.mark.parametrize(("case", "tolerance"), cases("spin_estimators"))
def test_estimators(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    if "cosA" not in given:
        pytest.skip("bin integrals are compared in test_vectors_spin.py")
    # The vectors know one axis; the same events on all three give nine times the same C.
    x, y = (np.array([given[name]] * 3) for name in ("cosA", "cosB"))
    kappas, edges = (given["kappa_A"], given["kappa_B"]), given["ml_edges"]
    moment = measure_spin(x, y, weights=given["weights"], kappas=kappas)
    asymmetry = measure_spin(x, y, kappas=kappas, method="asymmetry")
    likelihood = measure_spin(x, y, kappas=kappas, method="likelihood", edges=edges)
    fit = fit_correlation((np.histogram(x[0] * y[0], edges)[0], edges), kappas=kappas)
    got = {
        "C_moment": moment.correlation[0, 1],
        "C_moment_err": moment.sigma_correlation[0, 1],
        "C_asymmetry": asymmetry.correlation[2, 1],
        "C_asymmetry_err": asymmetry.sigma_correlation[2, 1],
        "C_binned_ml": likelihood.correlation[0, 0],
        "C_binned_ml_err": likelihood.sigma_correlation[0, 0],
        "B_plus": moment.b_plus[0],
        "B_plus_err": moment.uncertainty[0],
        "B_minus": moment.b_minus[2],
        "B_minus_err": moment.uncertainty[5],
    }
    assert_close(case["expected"], got, tolerance)
    assert_close(case["expected"], {"C_binned_ml": fit.value, "C_binned_ml_err": fit.uncertainty}, tolerance)


@pytest.mark.skipif(FOLDER is None, reason="no reference numbers beside this checkout")
@pytest.mark.parametrize(("case", "tolerance"), cases("spin_matrix"))
def test_quantities(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    found = entanglement(
        spin_coefficients(
            given["C"],
            b_plus=given["B_plus"],
            b_minus=given["B_minus"],
            sigma=given["sigma_C"],
            convention="density_matrix",
        )
    )
    got = {
        "D_paper": found.d_paper.value,
        "D_poster": found.d_poster.value,
        "D_standard": found.d_std.value,
        "D_other_pair": found.d_prime.value,
        "concurrence": found.concurrence.value,
        "chsh_max": found.chsh.value,
    }
    assert_close(expected, got, tolerance)
    assert found.ppt.value == pytest.approx(expected["pt_eigenvalues"][0], abs=tolerance["atol"])
    assert found.entangled == expected["entangled_ppt"]
    assert found.physical == expected["physical"]
    assert found.bell_violated == expected["bell_violated"]
    if given["sigma_C"] is not None:
        delta, published = expected["delta_D"], expected["delta_D_released"]
        assert found.d_paper.uncertainty == pytest.approx(delta["sigma_D"], rel=1e-7)
        assert found.delta_d == pytest.approx(delta["delta_D"], rel=1e-7)
        if published["value"] > 0:
            assert found.delta_d_published == pytest.approx(published["ratio"], rel=1e-7)


def test_figures_of_the_released_unfolding() -> None:
    """Full model, first pseudo-experiment: D = 1.4718 +- 0.0208, sigma(D) / (D - 1) = 4.41 %, printed as 2.15 %."""
    c = [
        [-0.5988880737421911, 0.012088291902152205, -0.009369674237990453],
        [-0.006581666074902763, -0.3153849488047244, 0.015306292567029235],
        [0.01145025036198111, -0.00525008353998788, -0.5575673141797637],
    ]
    sigma = [
        [0.012405146320272231, 0.012309282753282406, 0.011740961482821645],
        [0.012447442287360937, 0.012115567257584448, 0.011400707105742515],
        [0.011548687956348776, 0.011598820422451764, 0.011462470458310614],
    ]
    found = entanglement(spin_coefficients(c, sigma=sigma, convention="density_matrix"))
    assert (round(found.d_paper.value, 4), round(found.d_paper.uncertainty, 4)) == (1.4718, 0.0208)
    assert round(found.delta_d, 4) == 0.0441
    assert round(found.delta_d_published, 4) == 0.0215
    assert round(found.concurrence.value, 3) == 0.236
