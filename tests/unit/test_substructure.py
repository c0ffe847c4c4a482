"""Substructure of jets: against slow twins, fastjet, and the numbers stored in a file of CMS."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events.substructure import measure_substructure
from evenet_hep.kinematics.substructure import jet_substructure

FloatArray = npt.NDArray[np.float64]


def toy_jets(n_jets: int = 12, *, seed: int = 1) -> tuple[Any, FloatArray]:
    """Offsets, and pT, eta, phi, mass of constituents around an axis near the seam of azimuth."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, n_jets)
    n = int(counts.sum())
    prong = rng.integers(0, 3, n)
    columns = np.stack(
        [
            rng.exponential(8.0, n) + 0.2,
            0.7 + np.array([0.0, 0.5, 0.2])[prong] + 0.08 * rng.standard_normal(n),
            np.pi + np.array([0.0, -0.2, 0.4])[prong] + 0.08 * rng.standard_normal(n),
            rng.choice([0.0, 0.1396, 0.9], n),
        ]
    )
    return np.concatenate([[0], np.cumsum(counts)]), columns


def rapidities(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    pt, eta, phi, mass = columns
    return np.arcsinh(pt * np.sinh(eta) / np.hypot(pt, mass)), phi


def tau_of(columns: FloatArray, axes: FloatArray, radius: float) -> float:
    y, phi = rapidities(columns)
    d_phi = (phi[:, None] - axes[:, 1] + np.pi) % (2 * np.pi) - np.pi
    distance = np.hypot(y[:, None] - axes[:, 0], d_phi).min(axis=1)
    return float(columns[0] @ distance / (radius * columns[0].sum()))


def wta_axes(columns: FloatArray, n_axes: int) -> FloatArray:
    """Winner-take-all kT clustering as one would write it down."""
    y, phi = rapidities(columns)
    nodes = [(pt, a, b) for pt, a, b in zip(columns[0], y, phi, strict=True)]
    while len(nodes) > n_axes:
        best = (np.inf, 0, 0)
        for i, (pt1, y1, phi1) in enumerate(nodes):
            for j, (pt2, y2, phi2) in enumerate(nodes[:i]):
                d_phi = (phi1 - phi2 + np.pi) % (2 * np.pi) - np.pi
                best = min(best, (min(pt1, pt2) ** 2 * ((y1 - y2) ** 2 + d_phi**2), i, j))
        first, second = nodes.pop(best[1]), nodes.pop(best[2])
        harder = max(first, second)
        nodes.append((first[0] + second[0], harder[1], harder[2]))
    return np.array([node[1:] for node in nodes])


def test_winner_take_all_against_its_definition() -> None:
    offsets, columns = toy_jets()
    found = jet_substructure(offsets, *columns, axes="wta_kt", radius=0.8)
    for jet, (start, stop) in enumerate(itertools.pairwise(offsets)):
        for k in range(3):
            inside = columns[:, start:stop]
            expected = tau_of(inside, wta_axes(inside, k + 1), 0.8) if stop - start > k + 1 else 0.0
            assert found.tau[k, jet] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_pass_axes_are_minima() -> None:
    """One axis: the weighted geometric median, which a general minimiser finds as well."""
    from scipy.optimize import minimize  # noqa: PLC0415

    offsets, columns = toy_jets(seed=3)
    tau = jet_substructure(offsets, *columns).tau
    for jet, (start, stop) in enumerate(itertools.pairwise(offsets)):
        inside = columns[:, start:stop]
        if stop - start < 2:
            continue
        y, phi = rapidities(inside)
        hardest = int(np.argmax(inside[0]))
        guesses = (
            [np.average(y, weights=inside[0]), np.average(phi, weights=inside[0])],
            [y[hardest], phi[hardest]],
        )
        best = min(
            minimize(lambda a, x=inside: tau_of(x, a[None], 0.8), x0, method="Nelder-Mead", tol=1e-9).fun for x0 in guesses
        )  # fmt: skip
        assert tau[0, jet] == pytest.approx(best, rel=2e-3)
    assert (np.diff(tau, axis=0) <= 1e-12).all()


def test_order_rotation_and_scale_change_nothing() -> None:
    offsets, columns = toy_jets(seed=5)
    found = jet_substructure(offsets, *columns)
    turned = columns.copy()
    turned[0] *= 3.0
    turned[3] *= 3.0
    turned[2] += 1.3
    order = np.lexsort((columns[1], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))))
    again = jet_substructure(offsets, *turned[:, order])
    np.testing.assert_allclose(again.tau, found.tau, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(again.mass, 3 * found.mass, rtol=1e-9)
    np.testing.assert_allclose(again.softdrop_mass, 3 * found.softdrop_mass, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(("z_cut", "beta"), [(0.1, 0.0), (0.05, 1.0)])
def test_soft_drop_against_fastjet(z_cut: float, beta: float) -> None:
    fastjet = pytest.importorskip("fastjet")
    offsets, columns = toy_jets(40, seed=7)
    pt, eta, phi, mass = columns
    parts = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta)}
    parts["E"] = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
    jets = ak.unflatten(ak.zip(parts, with_name="Momentum4D"), np.diff(offsets))
    fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)
    tree = fastjet.ClusterSequence(jets, fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0))
    groomed = tree.exclusive_jets_softdrop_grooming(
        njets=1, beta=beta, symmetry_cut=z_cut, symmetry_measure="scalar_z", R0=0.8
    )
    found = jet_substructure(offsets, *columns, z_cut=z_cut, beta=beta).softdrop_mass
    expected = ak.to_numpy(ak.flatten(groomed.msoftdrop, axis=None))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=2e-5)
    assert (found < jet_substructure(offsets, *columns).mass - 1.0).any()


def test_fat_jets_of_cms(shared_data: Path) -> None:
    """NanoAOD stores tau1 to tau4 of its fat jets with the same definition, and masses with other corrections."""
    import uproot  # noqa: PLC0415

    from evenet_hep.events.jets import nanoaod_constituents  # noqa: PLC0415

    tables = {"FatJet": "mass tau1 tau2 tau3 tau4 rawFactor", "PFCand": "pt eta phi mass pdgId", "FatJetPFCand": "jetIdx pfCandIdx"}  # fmt: skip
    with uproot.open(shared_data / "real" / "nano_tt_v15.root") as file:
        tree = file["Events"]
        events = ak.zip(
            {
                t: ak.zip({f: tree[f"{t}_{f}"].array() for f in fields.split()})
                for t, fields in tables.items()
            },
            depth_limit=1,
        )
    constituents = ak.flatten(nanoaod_constituents(events))
    has_any = ak.num(constituents) > 0
    jets, flat = ak.flatten(events.FatJet)[has_any], ak.flatten(constituents[has_any])
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(constituents[has_any])))])
    columns = [ak.to_numpy(flat[name]) for name in ("pt", "eta", "phi", "mass")]
    found = jet_substructure(offsets, *columns, n_axes=4)
    assert len(jets) == 62
    for k in range(4):
        ratio = found.tau[k] / ak.to_numpy(jets[f"tau{k + 1}"])
        assert np.median(ratio) == pytest.approx(1.0, abs=0.002)
        assert (np.abs(ratio - 1) < 0.01).mean() > 0.9
    raw = ak.to_numpy(jets.mass * (1 - jets.rawFactor))
    assert np.median(found.mass / raw) == pytest.approx(1.0, abs=0.01)


def test_records_keep_their_lists_and_ends_have_values() -> None:
    one = {"pt": 50.0, "eta": 0.2, "phi": 0.0, "mass": 0.1}
    found = measure_substructure(ak.Array([[[one, {**one, "phi": 0.3}], []], [], [[one]]]))
    assert found.multiplicity.to_list() == [[2, 0], [], [1]]
    assert np.isnan(found.mass[0, 1])
    assert np.isnan(found.tau1[0, 1])
    assert found.tau1[2, 0] == 0
    assert np.isnan(found.tau21[2, 0])
    assert found.softdrop_mass[2, 0] == pytest.approx(0.1, abs=1e-4)


def test_bad_constituents_are_named() -> None:
    with pytest.raises(InputError, match="constituents lack mass; they have pt, eta, phi"):
        measure_substructure(ak.Array([[{"pt": 1.0, "eta": 0.0, "phi": 0.0}]]))
    with pytest.raises(InputError, match=r"constituent 0 has pt, eta, phi, mass \[nan"):
        jet_substructure([0, 1], [np.nan], [0], [0], [0])
    with pytest.raises(InputError, match="offsets must rise from 0 to the number of constituents 1"):
        jet_substructure([0, 2], [1.0], [0], [0], [0])
    with pytest.raises(InputError, match="radius must be positive"):
        jet_substructure([0, 1], [1.0], [0], [0], [0], radius=0)
