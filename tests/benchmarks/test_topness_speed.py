"""Topness in one compiled pass against the same search written with ak.combinations and vector, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.events.observables import neutrino_pz, topness
from evenet_hep.kinematics.topness import TopnessConstants, TopnessResult

vector.register_awkward()

N_EVENTS = 100_000


def make_events(n_events: int, seed: int = 1) -> tuple[ak.Array, ak.Array, np.ndarray, np.ndarray]:
    """Leptons, jets (4 to 8, two to four of them b-tagged) and MET."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(4, 9, n_events)
    total = int(counts.sum())
    n_tagged = np.minimum(rng.integers(2, 5, n_events), counts - 2)
    jets = ak.zip(
        {
            "pt": ak.unflatten(20.0 + rng.exponential(40.0, total), counts),
            "eta": ak.unflatten(rng.uniform(-2.4, 2.4, total), counts),
            "phi": ak.unflatten(rng.uniform(-np.pi, np.pi, total), counts),
            "mass": ak.unflatten(rng.uniform(1.0, 15.0, total), counts),
        }
    )
    jets["btag"] = ak.local_index(jets["pt"], axis=1) < n_tagged
    jets = ak.to_packed(jets[ak.argsort(jets["pt"], axis=1, ascending=False)])  # as they are read from a file
    lepton = ak.zip(
        {
            "pt": 30.0 + rng.exponential(30.0, n_events),
            "eta": rng.uniform(-2.4, 2.4, n_events),
            "phi": rng.uniform(-np.pi, np.pi, n_events),
            "mass": np.full(n_events, 0.1056583755),
        }
    )
    return lepton, jets, rng.exponential(50.0, n_events), rng.uniform(-np.pi, np.pi, n_events)


def exhaustive_search(
    lepton: ak.Array, jets: ak.Array, met: np.ndarray, met_phi: np.ndarray
) -> dict[str, np.ndarray]:
    """All that ``topness`` returns but the indices, as a user of awkward and vector writes it: one row per assignment."""
    constants = TopnessConstants()
    lepton = ak.with_name(lepton, "Momentum4D")
    w_lep = lepton + neutrinos(lepton, met, met_phi)
    jets = ak.with_name(jets, "Momentum4D")
    bjets, light = jets[jets["btag"]], jets[~jets["btag"]]
    pairs = ak.combinations(light, 2, fields=["q1", "q2"])
    rows = ak.cartesian({"b_lep": bjets, "b_had": bjets, "pair": pairs})
    positions = ak.argcartesian({"b_lep": bjets, "b_had": bjets, "pair": pairs})
    rows = rows[positions["b_lep"] != positions["b_had"]]
    w_had = rows["pair"]["q1"] + rows["pair"]["q2"]
    t_had = w_had + rows["b_had"]
    t_lep = w_lep + rows["b_lep"]
    chi2 = (
        ((w_had.mass - constants.w_mass) / constants.w_sigma) ** 2
        + ((t_had.mass - constants.top_mass) / constants.hadronic_sigma) ** 2
        + ((t_lep.mass - constants.top_mass) / constants.leptonic_sigma) ** 2
    )
    best = ak.argmin(chi2, axis=1, keepdims=True)

    def chosen(values: ak.Array) -> ak.Array:
        return ak.firsts(values[best])

    row, w_best = chosen(rows), chosen(w_had)
    columns = {
        "topness": chosen(chi2),
        "dr_lb": row["b_lep"].deltaR(lepton),
        "m_lb": (row["b_lep"] + lepton).mass,
        "tlep_mass": chosen(t_lep).mass,
        "whad_mass": w_best.mass,
        "whad_dr_qq": row["pair"]["q1"].deltaR(row["pair"]["q2"]),
        "thad_mass": chosen(t_had).mass,
        "thad_dr_bqq": w_best.deltaR(row["b_had"]),
    }
    return {name: ak.to_numpy(ak.fill_none(column, np.nan)) for name, column in columns.items()}


def separable_search(lepton: ak.Array, jets: ak.Array, met: np.ndarray, met_phi: np.ndarray) -> np.ndarray:
    """The topness alone, as an expert of awkward and vector writes it: every mass once, no assignment."""
    constants = TopnessConstants()
    jets = ak.with_name(jets, "Momentum4D")
    w_lep = ak.with_name(lepton, "Momentum4D") + neutrinos(lepton, met, met_phi)
    bjets, light = jets[jets["btag"]], jets[~jets["btag"]]
    first, second = ak.unzip(ak.combinations(light, 2))
    w_had = first + second
    w_term = ((w_had.mass - constants.w_mass) / constants.w_sigma) ** 2
    had_b, had_w = ak.unzip(ak.cartesian([bjets, w_had], nested=True))
    had_term = ((had_b + had_w).mass - constants.top_mass) / constants.hadronic_sigma
    _, pair_term = ak.unzip(ak.cartesian([bjets["pt"], w_term], nested=True))
    hadronic = ak.min(had_term**2 + pair_term, axis=2)
    leptonic = (((bjets + w_lep).mass - constants.top_mass) / constants.leptonic_sigma) ** 2
    of_lep, of_had = ak.unzip(ak.cartesian([leptonic, hadronic]))
    lep_index, had_index = ak.unzip(ak.argcartesian([leptonic, hadronic]))
    return np.asarray(ak.min((of_lep + of_had)[lep_index != had_index], axis=1))


def neutrinos(lepton: ak.Array, met: np.ndarray, met_phi: np.ndarray) -> ak.Array:
    nu = neutrino_pz(lepton, met, met_phi)
    return vector.zip({"px": met * np.cos(met_phi), "py": met * np.sin(met_phi), "pz": nu.pz, "E": nu.energy})


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.benchmark
def test_topness_against_combinations() -> None:
    events = make_events(N_EVENTS)

    def compiled(**options: Any) -> TopnessResult:
        return topness(*events, is_bjet="btag", **options)

    first_call = seconds(compiled)
    compiled(parallel=True)
    reference, result = exhaustive_search(*events), compiled()
    for name, values in reference.items():
        np.testing.assert_allclose(getattr(result, name), values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(result.topness, separable_search(*events), rtol=1e-6)
    calls: dict[str, Callable[[], object]] = {
        "exhaustive, ak.combinations and vector": lambda: exhaustive_search(*events),
        "separable, ak.combinations and vector, topness alone": lambda: separable_search(*events),
        "topness": compiled,
        "topness, sequential": lambda: compiled(strategy="sequential"),
        "topness, parallel": lambda: compiled(parallel=True),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(7):
        for name, call in calls.items():
            times[name].append(seconds(call))
    medians = {name: statistics.median(values) for name, values in times.items()}
    slowest, expert = list(medians.values())[:2]
    print(f"\n{N_EVENTS} events of 4-8 jets, medians of 7 alternating runs (first call {first_call:.2f} s)")
    for name, median in medians.items():
        print(f"{name:54s} {1e3 * median:8.1f} ms   {slowest / median:6.1f} x   {expert / median:6.1f} x")
