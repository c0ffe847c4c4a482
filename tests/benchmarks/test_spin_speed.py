"""Compiled spin, dilepton and dimuon kernels against the same steps in vector, awkward and columnar NumPy, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.events import spin_observables
from evenet_hep.kinematics import spin
from evenet_hep.kinematics.dilepton import TOP_MASS, dilepton_solutions, reconstruct_dilepton
from evenet_hep.kinematics.dimuon import MUON_MASS, calibrate_dimuon
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import from_cartesian, mass_of, rest_frame, to_cartesian

N_EVENTS = 100_000
CARTESIAN = ("px", "py", "pz", "E")


def decay(
    parent: np.ndarray, masses: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    mother, first, second = masses
    n = parent.shape[1]
    direction = rng.normal(size=(3, n))
    p = np.sqrt((mother**2 - (first + second) ** 2) * (mother**2 - (first - second) ** 2)) / (2 * mother)
    direction *= p / np.sqrt((direction**2).sum(axis=0))
    mirror = parent * np.array([-1.0, -1.0, -1.0, 1.0])[:, None]
    one = np.concatenate([direction, np.full((1, n), np.hypot(p, first))])
    two = np.concatenate([-direction, np.full((1, n), np.hypot(p, second))])
    return rest_frame(one, mirror), rest_frame(two, mirror)


def make_events(n: int, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    events: dict[str, Any] = {}
    p = rng.normal(0, 120, (3, n))
    kick = rng.normal(0, 1, (3, n)) * np.array([[20.0], [20.0], [300.0]])
    for sign, names in ((1, ("top", "lplus", "b", "nu")), (-1, ("antitop", "lminus", "bbar", "nubar"))):
        top = sign * p + kick
        events[names[0]] = np.concatenate([top, np.sqrt((top**2).sum(axis=0) + TOP_MASS**2)[None]])
        w, events[names[2]] = decay(events[names[0]], (TOP_MASS, W_MASS, 4.8), rng)
        events[names[1]], events[names[3]] = decay(w, (W_MASS, 0.1057, 0.0), rng)
    events["met"] = (events["nu"] + events["nubar"])[:2]
    events["smeared"] = events["met"] + rng.normal(0, 20, (2, n))
    return events


def compare(title: str, reference: str, calls: dict[str, Callable[[], object]], repeats: int = 5) -> None:
    """Alternating runs after one of each, medians, ratios to the reference."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{title}, {N_EVENTS} events, medians of {repeats} alternating runs")
    for name, median in medians.items():
        print(f"  {name:32s} {1e3 * median:9.2f} ms  {medians[reference] / median:6.1f} x")


def vector_angles(top: Any, antitop: Any, lplus: Any, lminus: Any) -> np.ndarray:
    """The seven cosines with the methods of the vector package."""
    pair = top + antitop
    top_cm, antitop_cm, plus_cm, minus_cm = (p.boostCM_of_p4(pair) for p in (top, antitop, lplus, lminus))
    plus, minus = (
        plus_cm.boostCM_of_p4(top_cm).to_3D().unit(),
        minus_cm.boostCM_of_p4(antitop_cm).to_3D().unit(),
    )
    k = top_cm.to_3D().unit()
    beam: Any = vector.obj(x=0.0, y=0.0, z=1.0)
    n = beam.cross(k).unit()
    r = n.cross(k) * -1
    cosines = [lepton.dot(axis) for lepton in (plus, minus) for axis in (k, r, n)]
    return np.stack([np.asarray(cosine) for cosine in (*cosines, plus.dot(minus))])


@pytest.mark.benchmark
def test_angles_against_vector() -> None:
    events = make_events(N_EVENTS)
    flat = [events[name] for name in ("top", "antitop", "lplus", "lminus")]
    arrays = [vector.array(dict(zip(CARTESIAN, p, strict=True))) for p in flat]
    detector = [vector.zip(from_cartesian(*p)._asdict()) for p in flat]
    angles = spin.spin_angles(flat[0], flat[1], flat[2], flat[3])
    expected = vector_angles(arrays[0], arrays[1], arrays[2], arrays[3])
    np.testing.assert_allclose(
        np.concatenate([angles.cos_plus, angles.cos_minus, angles.cos_phi[None]]), expected, atol=1e-7
    )
    compare(
        "spin angles",
        "vector, awkward pt-eta-phi-mass",
        {
            "vector, awkward pt-eta-phi-mass": lambda: vector_angles(*detector),
            "vector, NumPy px-py-pz-E": lambda: vector_angles(*arrays),
            "ours, awkward pt-eta-phi-mass": lambda: spin_observables.spin_angles(*detector),
            "ours, NumPy px-py-pz-E": lambda: spin.spin_angles(*flat),
        },
    )


def quartic_px(events: dict[str, Any]) -> np.ndarray:
    """px of all neutrino solutions, columnar: conics, resultant, eigenvalues of companion matrices."""

    def conic(lepton: np.ndarray, b: np.ndarray) -> np.ndarray:
        lb = lepton + b
        left = np.stack([np.stack([lepton[3], -lepton[2]], -1), np.stack([lb[3], -lb[2]], -1)], -2)
        right = np.stack(
            [
                np.stack([p[0], p[1], (mass**2 - mass_of(*p) ** 2) / 2], -1)
                for p, mass in ((lepton, W_MASS), (lb, TOP_MASS))
            ],
            -2,
        )
        solved = np.linalg.solve(left, right)
        energy, pz = solved[:, 0], solved[:, 1]
        form: np.ndarray = energy[:, :, None] * energy[:, None, :] - pz[:, :, None] * pz[:, None, :]
        return form - np.diag([1.0, 1.0, 0.0])

    mirrored = np.zeros((events["met"].shape[1], 3, 3))
    mirrored[:, 0, 0] = mirrored[:, 1, 1] = -1
    mirrored[:, 2, 2], mirrored[:, :2, 2] = 1, events["met"].T
    forms = (
        conic(events["lplus"], events["b"]),
        np.swapaxes(mirrored, 1, 2) @ conic(events["lminus"], events["bbar"]) @ mirrored,
    )
    scale = np.diag([100.0, 100.0, 1.0])
    polynomials = []
    for form in forms:
        q = scale @ form @ scale
        q = q / np.abs(q).max(axis=(1, 2), keepdims=True)
        polynomials.append(
            (
                q[:, 1, 1, None],
                2 * q[:, [0, 1], [1, 2]],
                np.stack([q[:, 0, 0], 2 * q[:, 0, 2], q[:, 2, 2]], -1),
            )
        )

    def times(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        product = np.zeros((len(p), p.shape[1] + q.shape[1] - 1))
        for i in range(p.shape[1]):
            product[:, i : i + q.shape[1]] += p[:, i, None] * q
        return product

    (a2, a1, a0), (b2, b1, b0) = polynomials
    cross = times(a2, b0) - times(b2, a0)
    resultant = times(cross, cross) - times(times(a2, b1) - times(b2, a1), times(a1, b0) - times(b1, a0))
    companion = np.zeros((len(resultant), 4, 4))
    companion[:, 0] = -resultant[:, 1:] / resultant[:, :1]
    companion[:, [1, 2, 3], [0, 1, 2]] = 1
    roots = np.linalg.eigvals(companion)
    return np.asarray(np.sort(np.where(np.abs(roots.imag) < 1e-6, 100 * roots.real, np.nan), axis=1))


@pytest.mark.benchmark
def test_dilepton_against_a_columnar_quartic() -> None:
    events = make_events(N_EVENTS)
    lplus, lminus, b, bbar = (events[name] for name in ("lplus", "lminus", "b", "bbar"))
    found = dilepton_solutions(lplus, lminus, b, bbar, *events["met"])
    theirs = quartic_px(events)
    difference = np.abs(found.neutrino[0] - theirs)
    print(f"\nfull solutions; px equal to 0.01 GeV in {np.mean(~(difference > 0.01)):.5f} of all cases")
    print(
        f"solutions 0..4: {np.bincount(found.n_solutions, minlength=5) / N_EVENTS}; quartic finds none in {np.isnan(theirs).all(axis=1).mean():.5f}"
    )
    compare(
        "dilepton reconstruction",
        "columnar NumPy quartic, px only",
        {
            "columnar NumPy quartic, px only": lambda: quartic_px(events),
            "ours, all solutions": lambda: dilepton_solutions(lplus, lminus, b, bbar, *events["met"]),
            "ours, both pairings": lambda: reconstruct_dilepton(lplus, lminus, b, bbar, *events["met"]),
            "ours, both pairings, MET +- 20": lambda: reconstruct_dilepton(
                lplus, lminus, b, bbar, *events["smeared"]
            ),
        },
    )
    for name in ("met", "smeared"):
        tops = reconstruct_dilepton(lplus, lminus, b, bbar, *events[name])
        print(
            f"{name}: right pairing {np.mean(tops.pairing == 0):.3f}, real solution {tops.exact.mean():.3f}, valid {tops.valid.mean():.3f}"
        )


def vector_calibration(p1: Any, p2: Any, mass: np.ndarray) -> Any:
    pair = p1 + p2
    velocity = pair.to_beta3()
    n = (p1.boostCM_of_p4(pair).to_3D() - p2.boostCM_of_p4(pair).to_3D()).unit() * np.sqrt(
        mass**2 / 4 - MUON_MASS**2
    )
    results = []
    for q, before in ((n, p1), (n * -1, p2)):
        generated: Any = vector.array({"px": q.x, "py": q.y, "pz": q.z, "E": mass / 2})
        muon = generated.boost_beta3(velocity)
        step = muon - before
        norms = [np.sqrt(v.px**2 + v.py**2 + v.pz**2 + v.E**2) for v in (step, before)]
        results.append((muon, norms[0] / norms[1]))
    return results


@pytest.mark.benchmark
def test_dimuon_against_vector() -> None:
    rng = np.random.default_rng(1)
    momenta = [rng.normal(0, 8, (3, N_EVENTS)) for _ in range(2)]
    mass = rng.uniform(5, 16, N_EVENTS)
    arrays: list[Any] = [
        vector.array(dict(zip(CARTESIAN, (*p, np.sqrt((p**2).sum(axis=0) + MUON_MASS**2)), strict=True)))
        for p in momenta
    ]
    records = [ak.zip({"pt": p.pt, "eta": p.eta, "phi": p.phi}) for p in arrays]
    result = calibrate_dimuon(momenta[0], momenta[1], mass)
    theirs = vector_calibration(arrays[0], arrays[1], mass)
    np.testing.assert_allclose(result.muon1[0], theirs[0][0].px, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.adjustment[1], theirs[1][1], rtol=1e-6)
    compare(
        "dimuon calibration",
        "vector, NumPy",
        {
            "vector, NumPy": lambda: vector_calibration(arrays[0], arrays[1], mass),
            "ours, awkward records in and out": lambda: spin_observables.calibrate_dimuon(
                records[0], records[1], mass
            ),
            "ours, NumPy": lambda: calibrate_dimuon(momenta[0], momenta[1], mass),
        },
    )


@pytest.mark.benchmark
def test_coordinates_against_vector() -> None:
    detector = from_cartesian(*make_events(N_EVENTS)["lplus"])
    arrays: Any = vector.array(detector._asdict())
    boosted = np.stack(to_cartesian(*detector))
    frame = boosted[:, ::-1].copy()
    theirs: Any = vector.array(dict(zip(CARTESIAN, boosted, strict=True)))
    frames: Any = vector.array(dict(zip(CARTESIAN, frame, strict=True)))
    compare(
        "px, py, pz, E from pt, eta, phi, mass",
        "vector, NumPy",
        {
            "vector, NumPy": lambda: (arrays.px, arrays.py, arrays.pz, arrays.E),
            "ours": lambda: to_cartesian(*detector),
        },
    )
    compare(
        "boost to a rest frame",
        "vector, NumPy",
        {"vector, NumPy": lambda: theirs.boostCM_of_p4(frames), "ours": lambda: rest_frame(boosted, frame)},
    )


@pytest.mark.benchmark
def test_likelihood_against_minuit() -> None:
    iminuit = pytest.importorskip("iminuit")
    rng = np.random.default_rng(1)
    edges = np.linspace(-1, 1, 21)
    u, v = spin.product_bin_integrals(edges)
    counts = rng.poisson(1e4 * (u + 0.5 * v)).astype(float)

    def minuit() -> Any:
        fit = iminuit.Minuit(lambda c: -2 * (counts * np.log(u - c * v)).sum(), c=0.0)
        fit.errordef = 1.0
        return fit.migrad()

    estimate, fit = spin.correlation_likelihood(counts, edges), minuit()
    print(
        f"\nC = {estimate.value:.6f} +- {estimate.uncertainty:.6f}; Minuit {fit.values[0]:.6f} +- {fit.errors[0]:.6f}"
    )
    compare(
        "one binned fit of C",
        "Minuit",
        {"Minuit": minuit, "ours": lambda: spin.correlation_likelihood(counts, edges)},
        20,
    )
