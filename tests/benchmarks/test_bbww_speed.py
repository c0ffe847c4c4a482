"""Kernels of the bbWW analysis against the same steps in awkward, vector and NumPy: seconds of one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.events.hadronic_w import cluster_transverse_mass, hadronic_w
from evenet_hep.events.observables import delta_r_to_nearest, neutrino_pz, remove_overlap
from evenet_hep.events.tabular import bbww_features
from evenet_hep.kinematics.neutrino import W_MASS

vector.register_awkward()

N_EVENTS = 100_000


def make_events() -> tuple[ak.Array, ak.Array, np.ndarray, np.ndarray]:
    """Leptons, jets (4 to 8, two or more b-tagged, hardest first) and MET."""
    rng = np.random.default_rng(1)
    counts = rng.integers(4, 9, N_EVENTS)
    total = int(counts.sum())
    columns = {
        "pt": 20.0 + rng.exponential(40.0, total), "eta": rng.uniform(-2.4, 2.4, total),
        "phi": rng.uniform(-np.pi, np.pi, total), "mass": rng.uniform(1.0, 15.0, total),
        "btagDeepFlavB": rng.uniform(size=total) ** 2,
    }  # fmt: skip
    jets = ak.zip(
        {name: ak.unflatten(column, counts) for name, column in columns.items()}, with_name="Momentum4D"
    )
    jets = ak.to_packed(jets[ak.argsort(jets["pt"], axis=1, ascending=False)])
    lepton = ak.zip(
        {
            "pt": 30.0 + rng.exponential(30.0, N_EVENTS), "eta": rng.uniform(-2.4, 2.4, N_EVENTS),
            "phi": rng.uniform(-np.pi, np.pi, N_EVENTS), "mass": np.full(N_EVENTS, 0.1056583755),
        },
        with_name="Momentum4D",
    )  # fmt: skip
    return lepton, jets, rng.exponential(50.0, N_EVENTS), rng.uniform(-np.pi, np.pi, N_EVENTS)


def compare(
    title: str, reference: Callable[[], object], ours: Callable[[], object], repeats: int = 5
) -> None:
    times: list[tuple[float, float]] = []
    reference(), ours()
    for _ in range(repeats):
        seconds = []
        for call in (reference, ours):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        times.append((seconds[0], seconds[1]))
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"\n{title:58s} {1e3 * slow:8.1f} ms  {1e3 * fast:7.1f} ms  {slow / fast:6.1f} x  {N_EVENTS / fast / 1e6:.2f} M/s"
    )


def columnar_neutrino(lepton: ak.Array, met: np.ndarray, met_phi: np.ndarray) -> np.ndarray:
    """Chosen pz with vector's coordinates and NumPy's arithmetic."""
    a = ak.to_numpy(lepton.pt**2 + lepton.mass**2)
    mu = (
        0.5 * (W_MASS**2 - lepton.mass**2)
        + lepton.px * met * np.cos(met_phi)
        + lepton.py * met * np.sin(met_phi)
    )
    mu = ak.to_numpy(mu)
    root = ak.to_numpy(lepton.E) * np.sqrt(np.maximum(mu**2 - a * met**2, 0.0))
    middle = mu * ak.to_numpy(lepton.pz)
    plus, minus = (middle + root) / a, (middle - root) / a
    return np.asarray(np.where(np.abs(minus) < np.abs(plus), minus, plus))


def columnar_pairs(jets: ak.Array) -> ak.Array:
    first, second = ak.unzip(ak.combinations(jets[:, :8], 2))
    mass = (first + second).mass
    return ak.firsts(mass[ak.argmin(abs(mass - W_MASS), axis=1, keepdims=True)])


def columnar_nearest(lepton: ak.Array, jets: ak.Array) -> ak.Array:
    return ak.min(jets.deltaR(lepton), axis=1)


def columnar_overlap(jets: ak.Array, leptons: ak.Array) -> ak.Array:
    jet, other = ak.unzip(ak.cartesian([jets, leptons], nested=True))
    return jets[ak.all(jet.deltaR(other) > 0.4, axis=2)]


def columnar_transverse_mass(lepton: ak.Array, met: np.ndarray, met_phi: np.ndarray) -> ak.Array:
    x, y = lepton.px + met * np.cos(met_phi), lepton.py + met * np.sin(met_phi)
    return np.sqrt(np.maximum((lepton.Et + met) ** 2 - x**2 - y**2, 0.0))


@pytest.mark.benchmark
def test_kernels_against_awkward_and_vector() -> None:
    lepton, jets, met, met_phi = make_events()
    leptons = ak.unflatten(lepton, np.ones(N_EVENTS, np.int64))
    jets["light"] = jets["btagDeepFlavB"] >= -1.0
    np.testing.assert_allclose(
        neutrino_pz(lepton, met, met_phi).pz, columnar_neutrino(lepton, met, met_phi), rtol=1e-6
    )
    np.testing.assert_allclose(hadronic_w(jets, is_candidate="light").mass, columnar_pairs(jets), rtol=1e-6)
    np.testing.assert_allclose(delta_r_to_nearest(lepton, jets), columnar_nearest(lepton, jets), rtol=1e-9)
    assert ak.all(ak.num(remove_overlap(jets, leptons)) == ak.num(columnar_overlap(jets, leptons)))
    compare(
        "neutrino pz",
        lambda: columnar_neutrino(lepton, met, met_phi),
        lambda: neutrino_pz(lepton, met, met_phi),
    )
    compare(
        "W candidate among all pairs of 4-8 jets",
        lambda: columnar_pairs(jets),
        lambda: hadronic_w(jets, is_candidate="light"),
    )
    compare(
        "distance of the lepton to the nearest of 4-8 jets",
        lambda: columnar_nearest(lepton, jets),
        lambda: delta_r_to_nearest(lepton, jets),
    )
    compare(
        "overlap of 4-8 jets with one lepton",
        lambda: columnar_overlap(jets, leptons),
        lambda: remove_overlap(jets, leptons),
    )
    compare(
        "transverse mass",
        lambda: columnar_transverse_mass(lepton, met, met_phi),
        lambda: cluster_transverse_mass(lepton, met, met_phi),
    )
    bbww_features(lepton, jets, met, met_phi)
    start = time.process_time()
    bbww_features(lepton, jets, met, met_phi)
    print(f"\n49 features: {N_EVENTS / (time.process_time() - start) / 1e6:.2f} M/s")
