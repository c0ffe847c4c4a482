"""Reference numbers for statistics, computed outside this package.

The large sets lie beside some checkouts and are skipped without.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from evenet_hep.stats import metrics, pairing, sic
from evenet_hep.stats.reweighting import binned_triangular_discriminator, reweighting_weights
from evenet_hep.stats.sideband import fit_sideband
from evenet_hep.stats.spectrum import mass_bins
from evenet_hep.stats.weak_search import likelihood_ratio, likelihood_weights
from evenet_hep.stats.weighted_poisson import scaled_poisson_logpdf

HERE = Path(__file__)
# The variable decides alone if it is set; otherwise the folder lies in or beside the checkout.
CANDIDATES = (
    [Path(os.environ["EVENET_SHARED"])]
    if "EVENET_SHARED" in os.environ
    else [HERE.parents[2] / "shared", HERE.parents[3] / "shared"]
)
FOLDER = next((path / "vectors" for path in CANDIDATES if (path / "vectors").is_dir()), None)


def decode(value: Any) -> Any:
    """None is NaN, 'inf' and '-inf' are infinities."""
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


def cases(name: str, *functions: str) -> list[Any]:
    if FOLDER is None:
        return []
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return [
        pytest.param(case, document["tolerance"], id=case["id"])
        for case in document["cases"]
        if case["function"] in functions
    ]


def tolerances(tolerance: dict[str, Any], tags: list[str], field: str) -> tuple[float, float]:
    rules = [tolerance, *(tolerance.get("per_tag", {}).get(tag, {}) for tag in tags)]
    relative = max(rule.get("rtol", 0.0) for rule in rules)
    return max(relative, tolerance.get("per_field", {}).get(field, 0.0)), max(
        rule.get("atol", 0.0) for rule in rules
    )


def mismatches(
    expected: Any, got: Any, tolerance: dict[str, Any], tags: list[str], path: str = ""
) -> list[str]:
    if isinstance(expected, dict):
        return [
            line
            for key in expected
            for line in mismatches(expected[key], got[key], tolerance, tags, f"{path}.{key}")
        ]
    if isinstance(expected, list):
        if len(expected) != len(got):
            return [f"{path}: length {len(expected)} != {len(got)}"]
        pairs = zip(expected, got, strict=True)
        return [line for a, b in pairs for line in mismatches(a, b, tolerance, tags, path)]
    relative, absolute = tolerances(tolerance, tags, path.rpartition(".")[2])
    if math.isnan(expected) or math.isinf(expected):
        same = math.isnan(expected) == math.isnan(got) and (math.isnan(expected) or expected == got)
    else:
        same = abs(expected - got) <= absolute + relative * abs(expected)
    return [] if same else [f"{path}: {expected!r} != {float(got)!r}"]


def check(case: dict[str, Any], tolerance: dict[str, Any], got: Any) -> None:
    assert mismatches(decode(case["expected"]), got, tolerance, case["tags"]) == []


@pytest.mark.parametrize(("case", "tolerance"), cases("metrics", "roc"))
def test_separation(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    sample = (given["y"], given["score"])
    best = sic.maximum_sic(*sample, weights=given["weight"], minimum_background=given["min_bkg"])
    asked = [float(key) for key in case["expected"]["rejection"]]
    rejection = metrics.background_rejection(*sample, weights=given["weight"], signal_efficiency=asked)
    got = {
        "auc": metrics.area_under_curve(*sample, weights=given["weight"]).value,
        "max_sic": {
            "max_sic": best.value,
            "threshold": best.threshold,
            "eff_s": best.signal_efficiency,
            "eff_b": best.background_efficiency,
            "unc": best.background_uncertainty,
        },
        "rejection": dict(zip(case["expected"]["rejection"], rejection.value, strict=True)),
    }
    check(case, tolerance, got)


@pytest.mark.parametrize(("case", "tolerance"), cases("metrics", "pairing"))
def test_pairing(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    events = case["input"]["events"]
    options = {key: case["input"][key] for key in ("daughters_symmetric", "resonances_symmetric")}
    found = pairing.pairing_efficiencies(
        *([event[key] for event in events] for key in ("truth", "pred", "mask")), **options
    )
    got = {
        "eff_event_complete": found.event_complete.value,
        "eff_event_all": found.event_all.value,
        "eff_resonance": found.resonance.value,
        "eff_event_partial": found.event_partial.value,
        "n_events": found.event_all.total,
        "n_complete": found.event_complete.total,
        "n_targets": found.resonance.total,
    }
    check(case, tolerance, got)


@pytest.mark.parametrize(("case", "tolerance"), cases("bumphunt", "bins_linear", "bins_log"))
def test_mass_bins(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    spacing = "log" if case["function"] == "bins_log" else "linear"
    bins = mass_bins(
        (given["SR_left"], given["SR_right"]),
        (given["SB_left"], given["SB_right"]),
        n_edges=given["num_bins_SR"],
        spacing=spacing,  # type: ignore[arg-type]
    )
    got = {
        "edges_SR": bins.window,
        "edges_left": bins.left,
        "edges_right": bins.right,
        "width": bins.window[1] - bins.window[0],
        "ratio": bins.window[1] / bins.window[0],
    }
    check(case, tolerance, got)


@pytest.mark.parametrize(("case", "tolerance"), cases("bumphunt", "significance"))
def test_sideband_fit(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given, config = case["input"], case["input"]["config"]
    bins = mass_bins(
        (config["SR_left"], config["SR_right"]),
        (config["SB_left"], config["SB_right"]),
        n_edges=config["num_bins_SR"],
    )
    fit = fit_sideband(
        given["masses"], edges=bins, weights=given["weights"], background=config["degree"], scale="bin"
    )
    got = {
        "S": fit.signal,
        "B": fit.expected,
        "B_null": fit.expected_null,
        "q0": fit.q0,
        "Z": fit.significance,
        "q0_unclipped": fit.q0_unclipped,
        "m2lnL_alt": fit.m2lnl,
        "m2lnL_null": fit.m2lnl_null,
    }
    check(case, tolerance, got)
    # Minuit, started there, has nothing to add.
    assert fit.minuit.valid
    assert fit.minuit.fval == pytest.approx(fit.m2lnl, abs=1e-4)
    assert fit.minuit_null.fval == pytest.approx(fit.m2lnl_null, abs=1e-4)


@pytest.mark.parametrize(("case", "tolerance"), cases("bumphunt", "scaled_poisson_logpdf"))
def test_scaled_poisson(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    got = {"logpdf": float(scaled_poisson_logpdf(given["sumw"], given["scale"], given["lam"]))}
    check(case, tolerance, got)


@pytest.mark.parametrize(("case", "tolerance"), cases("bumphunt", "likelihood_ratio"))
def test_likelihood_ratio(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    z, mu = case["input"]["z"], case["input"]["mu"]
    got = {"l": float(likelihood_ratio(z, mu)), "weight": float(likelihood_weights(z, mu))}
    check(case, tolerance, got)


@pytest.mark.parametrize(("case", "tolerance"), cases("metrics", "reweight"))
def test_reweighting(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    weights = reweighting_weights(
        given["z"], n_data=given["n_data"], n_mc=given["n_mc"], clip=tuple(given["clip"])
    )
    check(case, tolerance, {"weights": weights})


@pytest.mark.parametrize(("case", "tolerance"), cases("metrics", "triangular_discriminator"))
def test_triangular_discriminator(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    given = case["input"]
    check(case, tolerance, {"value": binned_triangular_discriminator(given["p"], given["q"])})
