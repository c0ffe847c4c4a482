"""Workspaces from histograms; signal strength, discovery and CLs limits against formulas, pyhf, and toys."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from evenet_hep.errors import FileError, InputError
from evenet_hep.stats.limits import (
    _root,
    asymptotic_cls,
    find_discovery,
    find_limit,
    fit_signal,
)
from evenet_hep.stats.profile_likelihood import INTERPOLATION, Likelihood
from evenet_hep.stats.workspace import make_workspace

pyhf = pytest.importorskip("pyhf")
EDGES = [0.0, 1.0, 2.0, 3.0]
SIGNAL, BACKGROUND = np.array([3.0, 12.0, 6.0]), np.array([60.0, 50.0, 40.0])


def counting(n: float, s: float = 10.0, b: float = 50.0) -> dict[str, Any]:
    samples = {"signal": ([s], [0, 1]), "background": ([b], [0, 1])}
    return make_workspace(
        {"SR": samples}, signal="signal", observed={"SR": ([n], [0, 1])}, mc_statistics=False
    )


def full(observed: Any, **templates: Any) -> dict[str, Any]:
    """Every kind of nuisance parameter."""
    b = templates.get("background", (BACKGROUND, EDGES, BACKGROUND / 5))
    s = templates.get("signal", (SIGNAL, EDGES, SIGNAL / 50))
    tilt = np.array([-0.05, 0.0, 0.05])
    return make_workspace(
        {"SR": {"signal": s, "background": b}},
        signal="signal",
        observed={"SR": (observed, EDGES)},
        normalizations={
            "luminosity": {"signal": 0.02, "background": 0.02},
            "rate": {"background": (0.95, 1.06)},
        },
        shapes={
            "scale": {"SR": {"background": ((b[0] * (1 - tilt), EDGES), (b[0] * (1 + tilt), EDGES))}},
        },
    )


def poisson_q(n: float, mu: float, s: float, b: float) -> float:
    """-2 ln [L(mu) / L(max)] of a counting experiment without nuisance parameters."""
    best = max((n - b) / s, 0.0)
    one, other = mu * s + b, best * s + b
    return 2 * (one - other - (n * math.log(one / other) if n else 0.0))


@pytest.mark.parametrize("n", [0, 30, 50, 55, 65, 90])
def test_counting_experiment_against_formulas(n: int) -> None:
    s, b = 10.0, 50.0
    found = find_discovery(counting(n))
    expected = math.sqrt(2 * (n * math.log(n / b) - (n - b))) if n > b else 0.0
    assert found.significance == pytest.approx(expected, abs=2e-3)
    assert found.p_value == pytest.approx(norm.sf(expected), abs=1e-3)
    assert found.expected == pytest.approx(math.sqrt(2 * (60 * math.log(60 / 50) - 10)), rel=1e-4)
    assert found.mu == pytest.approx(max((n - b) / s, 0), abs=2e-3)

    def cls(mu: float) -> float:
        q = poisson_q(n, mu, s, b) if mu > (n - b) / s else 0.0
        # Expected background after the fit without signal; nothing can be fitted here, so b itself.
        return asymptotic_cls(q, poisson_q(b, mu, s, b)) - 0.05

    limit = find_limit(counting(n), tolerance=1e-3)
    assert limit.observed == pytest.approx(brentq(cls, 1e-3, 50), rel=1e-3)
    for i, n_sigma in enumerate((-2, -1, 0, 1, 2)):
        target = n_sigma + norm.isf(0.05 * norm.cdf(n_sigma))
        root = brentq(lambda mu, t=target: math.sqrt(poisson_q(b, mu, s, b)) - t, 1e-6, 50)
        assert limit.expected[i] == pytest.approx(root, rel=1e-3)
    assert limit.minuit.valid


def test_cls_at_the_limit_is_what_pyhf_gives() -> None:
    spec = full([65, 58, 47])
    limit = find_limit(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = pyhf.Workspace(spec)
        model = whole.model(modifier_settings=INTERPOLATION)
        data = whole.data(model)
        observed = pyhf.infer.hypotest(limit.observed, data, model)
        _, median = pyhf.infer.hypotest(limit.expected[2], data, model, return_expected=True)
        p_value = pyhf.infer.hypotest(0.0, data, model, test_stat="q0")
    assert float(observed) == pytest.approx(0.05, rel=5e-3)  # a tolerance of 1e-3 in mu
    assert float(median) == pytest.approx(0.05, rel=5e-3)
    assert find_discovery(spec).p_value == pytest.approx(float(p_value), rel=2e-3)
    assert (np.diff(limit.expected) > 0).all()


def test_nuisance_parameters_widen_the_uncertainty() -> None:
    data = [60, 50, 40]
    bare = make_workspace(
        {"SR": {"signal": (SIGNAL, EDGES), "background": (BACKGROUND, EDGES)}},
        signal="signal",
        observed={"SR": (data, EDGES)},
        mc_statistics=False,
    )
    assert fit_signal(full(data)).uncertainty > 1.05 * fit_signal(bare).uncertainty


def pulls(n_toys: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Toys whose data, auxiliary measurements and simulated templates (weighted) all fluctuate."""
    rng = np.random.default_rng(seed)
    values, covered = [], []
    truth = 1.2
    for _ in range(n_toys):
        scale = 5.0  # simulated events per expected one
        background = rng.poisson(BACKGROUND * scale) / scale
        signal = rng.poisson(SIGNAL * 50) / 50
        n = rng.poisson(truth * SIGNAL + BACKGROUND)
        spec = make_workspace(
            {
                "SR": {
                    "signal": (signal, EDGES, signal / 50),
                    "background": (background, EDGES, background / scale),
                }
            },
            signal="signal",
            observed={"SR": (n, EDGES)},
        )
        found = fit_signal(spec)
        values.append((found.mu - truth) / found.uncertainty)
        covered.append(found.low <= truth <= found.high)
    return np.array(values), np.array(covered)


def assert_pulls(values: np.ndarray, covered: np.ndarray) -> None:
    n = len(values)
    assert abs(values.mean()) < 3 / math.sqrt(n)
    assert abs(values.std(ddof=1) - 1) < 3 / math.sqrt(2 * n)
    for hits in (np.abs(values) < 1, covered):
        assert abs(hits.mean() - 0.6827) < 3 * math.sqrt(0.6827 * 0.3173 / n)


def test_pulls_of_the_signal_strength() -> None:
    assert_pulls(*pulls(80, 3))


@pytest.mark.slow
def test_pulls_of_the_signal_strength_in_many_toys() -> None:
    assert_pulls(*pulls(1500, 4))


@pytest.mark.slow
def test_limits_exclude_the_truth_rarely() -> None:
    """At least 95 % coverage: CLs covers more where there is little sensitivity."""
    rng = np.random.default_rng(5)
    truth, n_toys = 1.5, 200
    covered = [
        find_limit(counting(int(rng.poisson(50 + truth * 10))), tolerance=1e-2).observed >= truth
        for _ in range(n_toys)
    ]
    assert np.mean(covered) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / n_toys)


# ------------------------------------------------------------------------------------------------ workspaces


def test_workspace_from_hists() -> None:
    axis = hist.Hist.new.Reg(3, 0, 3).Weight
    signal, background, data = axis(), axis(), hist.Hist.new.Reg(3, 0, 3).Int64()
    signal.fill([0.5, 1.5, 1.5], weight=0.5)
    background.fill([0.5, 1.5, 2.5, 2.5], weight=2.0)
    data.fill([0.5, 2.5])
    spec = make_workspace(
        {"SR": {"signal": signal, "background": background}}, signal="signal", observed={"SR": data}
    )
    samples = spec["channels"][0]["samples"]
    assert samples[0]["data"] == [0.5, 1.0, 0.0]
    assert samples[1]["data"] == [2.0, 2.0, 4.0]
    assert samples[1]["modifiers"] == [
        {"name": "mc_SR", "type": "staterror", "data": pytest.approx([2.0, 2.0, math.sqrt(8)])}
    ]
    assert spec["observations"] == [{"name": "SR", "data": [1.0, 0.0, 1.0]}]
    assert json.loads(json.dumps(spec)) == spec


def test_asimov_data_are_the_background() -> None:
    spec = make_workspace(
        {"SR": {"signal": (SIGNAL, EDGES), "a": (BACKGROUND, EDGES), "b": ([1, 2, 3], EDGES)}},
        signal="signal",
    )
    assert spec["observations"][0]["data"] == [61, 52, 43]
    assert fit_signal(spec).mu == pytest.approx(0, abs=1e-3)


def test_control_region_constrains_the_background() -> None:
    """A channel without signal, whose background shares a normalisation."""
    options: Any = {
        "signal": "signal",
        "normalizations": {"rate": {"background": 0.3}},
        "mc_statistics": False,
    }
    sr = {"signal": ([10], [0, 1]), "background": ([50], [0, 1])}
    alone = make_workspace({"SR": sr}, observed={"SR": ([50], [0, 1])}, **options)
    both = make_workspace(
        {"SR": sr, "CR": {"background": ([1000], [0, 1])}},
        observed={"SR": ([50], [0, 1]), "CR": ([1000], [0, 1])},
        **options,
    )
    assert fit_signal(both).uncertainty < 0.6 * fit_signal(alone).uncertainty


def test_workspace_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(counting(65)))
    assert fit_signal(path).mu == pytest.approx(1.5, abs=1e-3)
    path.write_text("{")
    with pytest.raises(FileError, match="must be a JSON file"):
        fit_signal(path)
    with pytest.raises(FileError, match="nowhere"):
        fit_signal(tmp_path / "nowhere.json")


def test_empty_bins_of_simulation() -> None:
    """A bin without any expectation and without data takes part in nothing."""
    spec = make_workspace(
        {"SR": {"signal": ([0, 10], [0, 1, 2]), "background": ([0, 50], [0, 1, 2])}},
        signal="signal",
        observed={"SR": ([0, 55], [0, 1, 2])},
    )
    assert fit_signal(spec).mu == pytest.approx(0.5, abs=1e-2)


SR = {"signal": ([1, 2, 3], EDGES), "background": ([4, 5, 6], EDGES)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"signal": "sig"}, "one of the samples background, signal; found 'sig'"),
        ({"channels": {}}, "one of the samples"),
        ({"channels": {"SR": SR | {"signal": ([0, 0, 0], EDGES)}}}, "positive sum"),
        ({"channels": {"SR": SR | {"background": ([4, -5, 6], EDGES)}}}, "not be negative: merge bins"),
        ({"channels": {"SR": SR | {"background": ([4, 5], EDGES[:3])}}}, "must have the bins"),
        ({"observed": {"SR": ([4, 5], EDGES[:3])}}, "data in SR must have the bins"),
        ({"observed": {"CR": ([4, 5, 6], EDGES)}}, "it lacks SR and has CR"),
        ({"normalizations": {"x": {"back": 0.1}}}, "acts on back; the samples are"),
        ({"normalizations": {"x": {"background": 1.5}}}, "uncertainty below 1"),
        ({"normalizations": {"x": {"background": math.nan}}}, "uncertainty below 1"),
        ({"shapes": {"x": {"CR": {"background": (None, None)}}}}, "in CR, which no channel has"),
        ({"shapes": {"x": {"SR": {"back": (None, None)}}}}, "acts on back in SR"),
        ({"shapes": {"x": {"SR": {"background": (([1], [0, 1]), ([1], [0, 1]))}}}}, "must have the bins"),
    ],
)
def test_histograms_that_make_no_workspace(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"channels": {"SR": SR}, "signal": "signal"} | arguments
    with pytest.raises(InputError, match=message):
        make_workspace(given.pop("channels"), **given)


def test_workspaces_that_cannot_be_fitted() -> None:
    with pytest.raises(InputError, match="pyhf accepts"):
        fit_signal({"channels": []})
    spec = counting(50)
    spec["measurements"][0]["config"]["poi"] = ""
    with pytest.raises(InputError, match="parameter of interest"):
        fit_signal(spec)
    nothing = counting(50)
    nothing["channels"][0]["samples"][0]["data"] = [0.0]
    with pytest.raises(InputError, match="positive in some bin"):
        fit_signal(nothing)
    with pytest.raises(InputError, match="positive in some bin"):
        find_limit(nothing)
    with pytest.raises(InputError, match="no signal strength up to"):
        _root(lambda mu, careful: 1.0, 1.0, 1e-3, "limit")
    with pytest.raises(InputError, match="signal strengths down to"):
        _root(lambda mu, careful: -1.0, 1.0, 1e-3, "limit")
    for options in ({"level": 1.0}, {"tolerance": 0.0}):
        with pytest.raises(InputError, match="between 0 and 1"):
            find_limit(counting(50), **options)


def test_limits_that_do_not_converge_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits with noise above the tolerance: an error, not a number."""
    exact, rng = Likelihood.q, np.random.default_rng(1)

    def noisy(self: Likelihood, mu: float, *, careful: bool = True) -> float:
        return exact(self, mu, careful=careful) * rng.uniform(0.9, 1.1)

    monkeypatch.setattr(Likelihood, "q", noisy)
    with pytest.raises(InputError, match="did not converge to the tolerance"):
        find_limit(counting(55), tolerance=1e-4)


def test_the_best_fit_is_replaced_by_a_better_one() -> None:
    """A best fit that stopped early would make every q too large; a fixed fit below it is noticed."""
    spec = counting(65)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = pyhf.Workspace(spec)
        model = whole.model(modifier_settings=INTERPOLATION)
    likelihood = Likelihood(model, np.array(whole.data(model)))
    likelihood._best = likelihood.fit(mu=4.0)  # far from the best strength of 1.5
    assert likelihood.q(1.5) == pytest.approx(0, abs=1e-3)
    assert likelihood.best().values[likelihood.poi] == pytest.approx(1.5, abs=1e-2)


def test_without_pyhf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyhf", None)
    with pytest.raises(ImportError, match=r"limits need pyhf: pip install 'evenet-hep\[limits\]'"):
        fit_signal(counting(50))


def test_statistics_of_signal_and_backgrounds_are_apart() -> None:
    """A parameter that all samples share would be relative to their sum at strength one: ten thousand events of signal."""
    edges = [0.0, 1.0]

    def limit(signal_variance: float, luminosity: float) -> float:
        samples = {
            "signal": ([luminosity], edges, [signal_variance * luminosity**2]),
            "background": ([100.0], edges, [400.0]),
        }
        spec = make_workspace({"SR": samples}, signal="signal")
        names = [
            modifier["name"] for sample in spec["channels"][0]["samples"] for modifier in sample["modifiers"]
        ]
        assert ("signal_mc_SR" in names) == (signal_variance > 0)
        assert "mc_SR" in names
        return luminosity * float(find_limit(spec).expected[2])

    # The limit on the number of signal events does not depend on the number that strength one stands for.
    exact = limit(0.0, 10.0)
    assert limit(0.0, 10_000.0) == pytest.approx(exact, rel=0.01)
    # sigma = sqrt(100 + 400) events of background, and 10 % of the signal
    assert exact == pytest.approx(1.96 * 500**0.5, rel=0.08)
    assert exact < limit(0.01, 10.0) < 1.1 * exact
