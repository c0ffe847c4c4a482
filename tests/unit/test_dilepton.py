"""Dilepton reconstruction against a quartic solved with numpy.roots, a brute-force search, and its edges."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.errors import InputError
from evenet_hep.events import spin_observables
from evenet_hep.kinematics.dilepton import TOP_MASS, dilepton_solutions, reconstruct_dilepton
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import boost, mass_of, rest_frame

Events = dict[str, Any]


def decay(
    parent: np.ndarray, masses: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Isotropic two-body decay, back in the laboratory."""
    n = parent.shape[1]
    mother, first, second = masses
    cosine, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    p = np.sqrt((mother**2 - (first + second) ** 2) * (mother**2 - (first - second) ** 2)) / (2 * mother)
    direction = p * np.stack([sine * np.cos(phi), sine * np.sin(phi), cosine])
    mirror = parent * np.array([-1.0, -1.0, -1.0, 1.0])[:, None]
    one = np.concatenate([direction, np.full((1, n), np.hypot(p, first))])
    two = np.concatenate([-direction, np.full((1, n), np.hypot(p, second))])
    return rest_frame(one, mirror), rest_frame(two, mirror)


def generate(n: int, seed: int) -> Events:
    """Top pairs with on-shell tops and Ws and two neutrinos that make the MET."""
    rng = np.random.default_rng(seed)
    mass, pt = 2 * TOP_MASS + 0.5 + rng.exponential(120, n), rng.exponential(40, n)
    phi, rapidity = rng.uniform(-np.pi, np.pi, n), rng.normal(0, 1, n)
    m_t = np.hypot(mass, pt)
    pair = np.stack([pt * np.cos(phi), pt * np.sin(phi), m_t * np.sinh(rapidity), m_t * np.cosh(rapidity)])
    cosine, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    p, sine = np.sqrt(mass**2 / 4 - TOP_MASS**2), np.sqrt(1 - cosine**2)
    direction = p * np.stack([sine * np.cos(phi), sine * np.sin(phi), cosine])
    mirror = pair * np.array([-1.0, -1.0, -1.0, 1.0])[:, None]
    top, antitop = (
        rest_frame(np.concatenate([sign * direction, mass[None] / 2]), mirror) for sign in (1, -1)
    )
    events: Events = {"top": top, "antitop": antitop}
    for parent, lepton, b, nu in ((top, "lplus", "b", "nu"), (antitop, "lminus", "bbar", "nubar")):
        w, events[b] = decay(parent, (TOP_MASS, W_MASS, 4.8), rng)
        events[lepton], events[nu] = decay(w, (W_MASS, 0.1057, 0.0), rng)
    events["met_x"], events["met_y"] = (events["nu"] + events["nubar"])[:2]
    return events


def visible(events: Events, *, swapped: bool = False) -> tuple[Any, ...]:
    names = ("lplus", "lminus", "bbar", "b") if swapped else ("lplus", "lminus", "b", "bbar")
    return tuple(events[name] for name in (*names, "met_x", "met_y"))


def conic(lepton: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quadratic form in (px, py, 1) that vanishes for allowed neutrinos, with E and pz eliminated."""
    m_l2, m_lb2 = mass_of(*lepton) ** 2, mass_of(*(lepton + b)) ** 2
    lb = lepton + b
    energy_pz = np.linalg.solve(
        [[lepton[3], -lepton[2]], [lb[3], -lb[2]]],
        [[lepton[0], lepton[1], (W_MASS**2 - m_l2) / 2], [lb[0], lb[1], (TOP_MASS**2 - m_lb2) / 2]],
    )
    return (
        np.outer(energy_pz[0], energy_pz[0]) - np.outer(energy_pz[1], energy_pz[1]) - np.diag([1.0, 1.0, 0.0])
    )


def quartic_px(lplus: Any, lminus: Any, b: Any, bbar: Any, met_x: float, met_y: float) -> list[float]:
    """px of all real solutions, from the resultant of both conics in py: another way than the product's."""
    mirrored = np.array([[-1.0, 0.0, met_x], [0.0, -1.0, met_y], [0.0, 0.0, 1.0]])
    first, second = conic(lplus, b), mirrored.T @ conic(lminus, bbar) @ mirrored
    shift = np.diag([100.0, 100.0, 1.0])
    rows = []
    for quadratic in (first, second):
        scaled = shift @ quadratic @ shift
        form = scaled / np.abs(scaled).max()
        # c2 py^2 + c1(px) py + c0(px), as polynomials in px (highest power first)
        rows.append(
            (
                np.array([form[1, 1]]),
                2 * form[[0, 1], [1, 2]],
                np.array([form[0, 0], 2 * form[0, 2], form[2, 2]]),
            )
        )
    a2, a1, a0, b2, b1, b0 = (np.poly1d(row) for row in (*rows[0], *rows[1]))
    resultant = (a2 * b0 - b2 * a0) ** 2 - (a2 * b1 - b2 * a1) * (a1 * b0 - b1 * a0)
    roots = resultant.roots
    return sorted(100 * roots.real[np.abs(roots.imag) < 1e-6])


@pytest.mark.parametrize("swapped", [False, True])
def test_finds_the_roots_of_the_quartic(swapped: bool) -> None:
    events = generate(300, 11)
    found = dilepton_solutions(*visible(events, swapped=swapped))
    assert found.valid.all()
    for i in range(300):
        expected = quartic_px(*[column[..., i] for column in visible(events, swapped=swapped)])
        np.testing.assert_allclose(
            found.neutrino[0, i, : found.n_solutions[i]], expected, rtol=1e-4, atol=1e-3
        )
    if swapped:
        assert 0 < (found.n_solutions == 0).sum() < 300
    else:
        assert (found.n_solutions > 0).all()


def test_solutions_obey_the_constraints_and_hold_the_truth() -> None:
    events = generate(5000, 12)
    found = dilepton_solutions(*visible(events))
    real = np.arange(4) < found.n_solutions[:, None]
    assert np.isnan(found.neutrino[:, ~real]).all()
    assert np.isnan(found.m_tt[~real]).all()
    for lepton, b, nu in (("lplus", "b", found.neutrino), ("lminus", "bbar", found.antineutrino)):
        w = events[lepton][..., None] + nu
        np.testing.assert_allclose(mass_of(*w)[real], W_MASS, rtol=1e-8)
        np.testing.assert_allclose(mass_of(*(w + events[b][..., None]))[real], TOP_MASS, rtol=1e-8)
        assert np.abs(nu[3] ** 2 - (nu[:3] ** 2).sum(axis=0))[real].max() < 1e-6
    total = found.neutrino + found.antineutrino
    np.testing.assert_allclose(total[0][real], np.repeat(events["met_x"], found.n_solutions), atol=1e-7)
    np.testing.assert_allclose(total[1][real], np.repeat(events["met_y"], found.n_solutions), atol=1e-7)
    distance = np.abs(found.neutrino - events["nu"][..., None]).max(axis=0)
    assert np.nanmin(distance, axis=1).max() < 1e-3
    assert (np.diff(found.neutrino[0], axis=1)[real[:, 1:]] > 0).all()
    best = np.nanmin(found.m_tt, axis=1)
    np.testing.assert_array_equal(found.m_tt[np.arange(5000), found.best], best)


def test_closest_approach_is_the_closest() -> None:
    """No pair of points of a fine grid over both ellipses is closer; the ellipses come from the quadratic forms."""
    events = generate(400, 13)
    rng = np.random.default_rng(1)
    events["met_x"] = events["met_x"] + rng.normal(0, 30, 400)
    events["met_y"] = events["met_y"] + rng.normal(0, 30, 400)
    tops = reconstruct_dilepton(*visible(events), pairing="given")
    assert tops.valid.all()
    missed = np.flatnonzero(~tops.exact)
    assert 50 < len(missed) < 350
    assert (tops.met_residual[tops.exact] == 0).all()
    circle = np.stack([np.cos(phi := np.linspace(-np.pi, np.pi, 720, endpoint=False)), np.sin(phi)])
    for i in missed[:40]:
        curves = []
        for lepton, b in (("lplus", "b"), ("lminus", "bbar")):
            form = conic(events[lepton][:, i], events[b][:, i])
            center = np.linalg.solve(-form[:2, :2], form[:2, 2])
            size = form[2, 2] + form[:2, 2] @ center
            curves.append(center[:, None] + np.linalg.cholesky(size * np.linalg.inv(-form[:2, :2])) @ circle)
        gap = (
            curves[0][:, :, None]
            + curves[1][:, None, :]
            - np.array([events["met_x"][i], events["met_y"][i]])[:, None, None]
        )
        brute = np.sqrt((gap**2).sum(axis=0).min())
        assert tops.met_residual[i] <= brute + 1e-9
        # The grid is coarse, so it may lie above, but not by more than its step.
        assert tops.met_residual[i] > brute - 2 * max(np.abs(np.diff(curve)).max() for curve in curves)
    np.testing.assert_allclose(mass_of(*tops.top), TOP_MASS, rtol=1e-8)
    np.testing.assert_allclose(mass_of(*(events["lminus"] + tops.antineutrino)), W_MASS, rtol=1e-8)
    dx, dy = (tops.neutrino + tops.antineutrino)[:2] - np.stack([events["met_x"], events["met_y"]])
    np.testing.assert_allclose(np.hypot(dx, dy), tops.met_residual, atol=1e-7)


def test_pairings() -> None:
    events = generate(2000, 14)
    straight = reconstruct_dilepton(*visible(events))
    crossed = reconstruct_dilepton(*visible(events, swapped=True))
    # Which jet comes first changes the index and nothing else.
    np.testing.assert_array_equal(straight.pairing, 1 - crossed.pairing)
    np.testing.assert_allclose(straight.m_tt, crossed.m_tt, rtol=1e-12)
    np.testing.assert_allclose(straight.top, crossed.top, rtol=1e-12, atol=1e-9)
    # More solutions win; of equally many the smaller mass of the pair.
    by_hand = [dilepton_solutions(*visible(events, swapped=swapped)) for swapped in (False, True)]
    counts = np.stack([found.n_solutions for found in by_hand])
    lowest = np.stack(
        [np.min(np.where(np.isnan(found.m_tt), np.inf, found.m_tt), axis=1) for found in by_hand]
    )
    swap = (counts[1] > counts[0]) | ((counts[1] == counts[0]) & (lowest[1] < lowest[0]))
    np.testing.assert_array_equal(straight.pairing, swap.astype(int))
    np.testing.assert_allclose(straight.m_tt, np.where(swap, lowest[1], lowest[0]))
    assert (straight.pairing == 0).mean() > 0.85
    given = reconstruct_dilepton(*visible(events), pairing="given")
    assert (given.pairing == 0).all()
    by_mass = reconstruct_dilepton(*visible(events), pairing="m_lb")
    lplus, lminus, b, bbar = visible(events)[:4]
    crossed_is_lighter = mass_of(*(lplus + bbar)) + mass_of(*(lminus + b)) < mass_of(*(lplus + b)) + mass_of(
        *(lminus + bbar)
    )
    assert (crossed_is_lighter | (by_mass.pairing == 0)).all()


def test_without_b_mass_and_lepton_mass() -> None:
    """Massless leptons and b jets make ellipses like all others."""
    rng = np.random.default_rng(2)
    top = np.array([[80.0], [10.0], [300.0], [0.0]])
    top[3] = np.sqrt((top[:3] ** 2).sum() + TOP_MASS**2)
    antitop = top * np.array([-1.0, -1.0, 0.5, 1.0])[:, None]
    antitop[3] = np.sqrt((antitop[:3] ** 2).sum() + TOP_MASS**2)
    w, b = decay(top, (TOP_MASS, W_MASS, 0.0), rng)
    lplus, nu = decay(w, (W_MASS, 0.0, 0.0), rng)
    w, bbar = decay(antitop, (TOP_MASS, W_MASS, 0.0), rng)
    lminus, nubar = decay(w, (W_MASS, 0.0, 0.0), rng)
    found = dilepton_solutions(lplus, lminus, b, bbar, *(nu + nubar)[:2])
    assert np.nanmin(np.abs(found.neutrino - nu[..., None]).max(axis=0)) < 1e-6


def test_where_energy_and_pz_cannot_be_eliminated() -> None:
    """Lepton and b jet with equal pz/E: px and py are then on a line, and the ellipse is a part of it."""
    lplus, b = np.array([[40.0], [10.0], [0.0], [0.0]]), np.array([[-30.0], [50.0], [0.0], [0.0]])
    lminus, bbar = np.array([[-35.0], [30.0], [20.0], [0.0]]), np.array([[20.0], [-60.0], [-10.0], [0.0]])
    for particle in (lplus, b, lminus, bbar):
        particle[3] = np.sqrt((particle[:3] ** 2).sum())
    nothing = dilepton_solutions(lplus, lminus, b, bbar, [0.0], [0.0])
    assert nothing.valid.all()
    # A point on the first leg (a positive azimuth of the lepton-b frame) and one of the second make a MET that works.
    tops = reconstruct_dilepton(lplus, lminus, b, bbar, [0.0], [0.0], pairing="given")
    met = (tops.neutrino + tops.antineutrino)[:2]
    found = dilepton_solutions(lplus, lminus, b, bbar, *met)
    assert found.n_solutions[0] > 0
    distance = np.abs(found.neutrino[:, 0] - tops.neutrino).max(axis=0)
    assert np.nanmin(distance) < 1e-2  # the two ellipses touch there
    np.testing.assert_allclose(mass_of(*(lplus[..., None] + found.neutrino)[:, 0, :1]), W_MASS, rtol=1e-9)


def test_decays_along_one_line() -> None:
    """The edge of phase space: the ellipse is a point, to the square root of rounding, and is still used."""
    direction = np.array([0.48, -0.6, 0.64])
    event: dict[str, np.ndarray] = {}
    for sign, lepton, b, nu in ((1, "lplus", "b", "nu"), (-1, "lminus", "bbar", "nubar")):
        p_b = np.sqrt((TOP_MASS**2 - (W_MASS + 4.8) ** 2) * (TOP_MASS**2 - (W_MASS - 4.8) ** 2)) / (
            2 * TOP_MASS
        )
        w = np.append(sign * p_b * direction, np.hypot(p_b, W_MASS))
        along_w = W_MASS / 2 * np.append(sign * direction, 1.0)
        beta = w[:3] / w[3]
        event[lepton], event[nu] = (boost(along_w * [turn, turn, turn, 1], beta)[:, None] for turn in (1, -1))
        event[b] = np.append(-sign * p_b * direction, np.hypot(p_b, 4.8))[:, None]
    met = (event["nu"] + event["nubar"])[:2]
    tops = reconstruct_dilepton(
        event["lplus"], event["lminus"], event["b"], event["bbar"], *met, pairing="given"
    )
    assert tops.valid.all()
    assert tops.met_residual[0] < 1e-4
    np.testing.assert_allclose(tops.neutrino, event["nu"], atol=1e-3)
    np.testing.assert_allclose(tops.antineutrino, event["nubar"], atol=1e-3)


def test_met_inside_the_hole_of_a_larger_ellipse() -> None:
    """Closest approach from inside: a leg of small ellipse cannot reach the far larger other one."""
    events = generate(4000, 18)
    found = 0
    for i in range(4000):
        forms = [conic(events[l][:, i], events[b][:, i]) for l, b in (("lplus", "b"), ("lminus", "bbar"))]
        centers = [np.linalg.solve(-form[:2, :2], form[:2, 2]) for form in forms]
        sizes = [
            np.sqrt(np.linalg.eigvalsh((f[2, 2] + f[:2, 2] @ c) * np.linalg.inv(-f[:2, :2])))
            for f, c in zip(forms, centers, strict=True)
        ]
        small, large = sorted(sizes, key=lambda axes: axes[0])
        if small[1] > 0.5 * large[0]:
            continue
        found += 1
        particles = [events[name][:, i : i + 1] for name in ("lplus", "lminus", "b", "bbar")]
        met = (centers[0] + centers[1])[:, None]
        tops = reconstruct_dilepton(
            particles[0], particles[1], particles[2], particles[3], *met, pairing="given"
        )
        assert not tops.exact[0]
        # With both centred the shortest way out is at most along the short axis of the large ellipse.
        assert large[0] - small[1] - 1e-6 <= tops.met_residual[0] <= large[0] - small[0] + 1e-6
    assert found > 20


def test_invalid_input_is_nan() -> None:
    events = generate(4, 15)
    particles = [column.copy() for column in visible(events)]
    particles[0][0, 0] = np.nan
    particles[4][1] = np.inf
    particles[2][:, 2] = 2 * particles[0][:, 2]  # b along the lepton
    particles[2][3, 2] = np.sqrt((particles[2][:3, 2] ** 2).sum() + 4 * mass_of(*particles[0][:, 2]) ** 2)
    found = dilepton_solutions(*particles)
    tops = reconstruct_dilepton(*particles, pairing="given")
    assert found.n_solutions[:2].tolist() == [0, 0]
    assert found.valid[:2].tolist() == [False, False]
    assert found.best[:3].tolist() == [-1, -1, -1]
    assert tops.valid.tolist() == [False, False, False, True]
    assert tops.pairing.tolist() == [-1, -1, -1, 0]
    for name in ("top", "antitop", "neutrino", "m_tt", "met_residual"):
        assert np.isnan(getattr(tops, name)[..., :3]).all(), name


def test_a_lepton_and_b_too_heavy_for_a_top_have_no_solution() -> None:
    events = generate(1, 16)
    events["b"] = np.array([[-400.0], [0.0], [0.0], [400.0]])
    events["lplus"] = np.array([[400.0], [0.0], [0.0], [400.0]])
    found = dilepton_solutions(*visible(events))
    assert found.valid.all()
    assert found.n_solutions[0] == 0
    tops = reconstruct_dilepton(*visible(events), pairing="given")
    assert not tops.valid.any()
    assert np.isnan(tops.m_tt).all()


def test_empty_and_errors() -> None:
    nothing, no_met = np.zeros((4, 0)), np.zeros(0)
    assert dilepton_solutions(nothing, nothing, nothing, nothing, no_met, no_met).neutrino.shape == (4, 0, 4)
    assert reconstruct_dilepton(nothing, nothing, nothing, nothing, no_met, no_met).top.shape == (4, 0)
    with pytest.raises(ValueError, match="pairing must be one of solutions, m_lb, given; found 'best'"):
        reconstruct_dilepton(nothing, nothing, nothing, nothing, no_met, no_met, pairing="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0 < w_mass < top_mass; found 80\.4 and 60\.0"):
        dilepton_solutions(nothing, nothing, nothing, nothing, no_met, no_met, top_mass=60.0)
    with pytest.raises(ValueError, match=r"found \(4, 0\), \(4, 0\), \(4, 0\), \(4, 0\), \(2,\), \(0,\)"):
        dilepton_solutions(nothing, nothing, nothing, nothing, np.zeros(2), no_met)


def records(momenta: np.ndarray) -> ak.Array:
    return vector.zip(dict(zip(("px", "py", "pz", "E"), momenta, strict=True)))


def test_records() -> None:
    events = generate(50, 17)
    lplus, lminus, b, bbar = (records(column) for column in visible(events)[:4])
    particles: tuple[Any, Any, Any, Any] = (lplus, lminus, b, bbar)
    met, met_phi = np.hypot(events["met_x"], events["met_y"]), np.arctan2(events["met_y"], events["met_x"])
    flat = reconstruct_dilepton(*visible(events))
    tops = spin_observables.reconstruct_dilepton(*particles, ak.Array(met), met_phi)
    np.testing.assert_allclose(tops.m_tt, flat.m_tt, rtol=1e-8)
    np.testing.assert_array_equal(tops.pairing, flat.pairing)
    np.testing.assert_allclose(tops.top["pt"], np.hypot(*flat.top[:2]), rtol=1e-6)
    assert (tops.neutrino["mass"] == 0).to_numpy().all()
    angles = spin_observables.spin_angles(tops.top, tops.antitop, lplus, lminus)
    np.testing.assert_allclose(angles.m_tt, flat.m_tt, rtol=1e-8)

    solutions = spin_observables.dilepton_solutions(*particles, met, met_phi)
    np.testing.assert_array_equal(
        ak.num(solutions.neutrino), dilepton_solutions(*visible(events)).n_solutions
    )
    best = ak.firsts(solutions.m_tt[ak.singletons(ak.Array(solutions.best))])
    np.testing.assert_allclose(best, ak.min(solutions.m_tt, axis=1))

    missing = ak.mask(b, np.arange(50) != 7)
    tops = spin_observables.reconstruct_dilepton(lplus, lminus, missing, bbar, met, met_phi)
    assert np.flatnonzero(~tops.valid).tolist() == [7]
    empty = spin_observables.reconstruct_dilepton(
        lplus[:0], lminus[:0], b[:0], bbar[:0], met[:0], met_phi[:0]
    )
    assert len(empty.top) == 0
    assert (
        len(
            spin_observables.dilepton_solutions(
                lplus[:0], lminus[:0], b[:0], bbar[:0], met[:0], met_phi[:0]
            ).m_tt
        )
        == 0
    )
    with pytest.raises(InputError, match=r"lminus has no field 'mass'; .*it has eta, phi, pt"):
        spin_observables.reconstruct_dilepton(
            lplus, ak.zip({"pt": met, "eta": met, "phi": met_phi}), b, bbar, met, met_phi
        )
    with pytest.raises(InputError, match="one record per event"):
        spin_observables.reconstruct_dilepton(
            ak.unflatten(lplus, np.ones(50, int)), lminus, b, bbar, met, met_phi
        )
