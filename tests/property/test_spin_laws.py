"""Laws of spin angles and density matrices for any top pair, and closure of every estimator on known states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenet_hep.kinematics import density_matrix as dm
from evenet_hep.kinematics import spin
from evenet_hep.kinematics.vectors import boost

TOP = 172.5
cosines, azimuths = st.floats(-0.98, 0.98), st.floats(-3.1, 3.1)
directions = st.tuples(cosines, azimuths).map(
    lambda x: np.array([np.sqrt(1 - x[0] ** 2) * np.cos(x[1]), np.sqrt(1 - x[0] ** 2) * np.sin(x[1]), x[0]])
)
velocity = st.floats(-0.7, 0.7)
Event = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def events(draw: st.DrawFn, transverse: bool = True) -> Event:
    """A top pair and its leptons in the laboratory, each of shape (4, 1)."""
    beta, k = draw(st.floats(0.05, 0.95)), draw(directions)
    pair = np.array([draw(velocity) * 0.9, draw(velocity) * 0.9, 0.0]) if transverse else np.zeros(3)
    along = np.array([0.0, 0.0, draw(velocity)])
    particles: list[np.ndarray] = []
    leptons: list[np.ndarray] = []
    for sign in (1, -1):
        lepton = np.append(draw(directions), 1.0) * draw(st.floats(20, 80))
        for p, target in ((np.array([0.0, 0.0, 0.0, TOP]), particles), (lepton, leptons)):
            target.append(boost(boost(boost(p, sign * beta * k), pair), along)[:, None])
    return particles[0], particles[1], leptons[0], leptons[1]


def angles_of(event: Any, *, bose_sign: bool = False) -> spin.SpinAngles:
    top, antitop, lplus, lminus = event
    return spin.spin_angles(top, antitop, lplus, lminus, bose_sign=bose_sign)


def moved(event: Event, matrix: np.ndarray) -> Event:
    top, antitop, lplus, lminus = (np.concatenate([matrix @ p[:3], p[3:]]) for p in event)
    return top, antitop, lplus, lminus


def assert_same(got: spin.SpinAngles, expected: spin.SpinAngles, signs: Any = (1, 1, 1)) -> None:
    signs = np.array(signs)[:, None]
    np.testing.assert_allclose(got.cos_plus, signs * expected.cos_plus, atol=1e-8)
    np.testing.assert_allclose(got.cos_minus, signs * expected.cos_minus, atol=1e-8)
    np.testing.assert_allclose(got.cos_phi, expected.cos_phi, atol=1e-8)
    np.testing.assert_allclose(got.m_tt, expected.m_tt, rtol=1e-9)


@settings(deadline=None)
@given(events())
def test_axes_are_orthonormal(event: Event) -> None:
    angles = angles_of(event)
    assert angles.valid.all()
    for cosine in (angles.cos_plus, angles.cos_minus):
        np.testing.assert_allclose((cosine**2).sum(axis=0), 1.0, rtol=1e-9)
    np.testing.assert_allclose((angles.cos_plus * angles.cos_minus).sum(axis=0), angles.cos_phi, atol=1e-9)


@settings(deadline=None)
@given(events(), azimuths)
def test_turns_about_the_beam(event: Event, angle: float) -> None:
    c, s = np.cos(angle), np.sin(angle)
    turned = angles_of(moved(event, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])))
    assert_same(turned, angles_of(event))


@settings(deadline=None)
@given(events(), st.sampled_from(["x", "y", "z"]))
def test_mirrors(event: Event, axis: str) -> None:
    """A mirror that holds the beam turns the axial n over; one across the beam turns r, which is tied to it."""
    matrix = np.diag([-1.0 if name == axis else 1.0 for name in "xyz"])
    signs = (1, -1, 1) if axis == "z" else (1, 1, -1)
    assert_same(angles_of(moved(event, matrix)), angles_of(event), signs)


@settings(deadline=None)
@given(events(), velocity)
def test_boosts_along_the_beam(event: Event, beta: float) -> None:
    """k, the angle between the leptons and the mass stay; r and n are tied to the beam of the laboratory."""
    there = angles_of(event)
    top, antitop, lplus, lminus = (boost(p, [[0.0], [0.0], [beta]]) for p in event)
    here = angles_of((top, antitop, lplus, lminus))
    np.testing.assert_allclose(here.cos_plus[0], there.cos_plus[0], atol=1e-8)
    np.testing.assert_allclose(here.cos_minus[0], there.cos_minus[0], atol=1e-8)
    np.testing.assert_allclose(here.cos_phi, there.cos_phi, atol=1e-8)
    np.testing.assert_allclose(here.m_tt, there.m_tt, rtol=1e-8)


@settings(deadline=None)
@given(events(transverse=False), velocity)
def test_boosts_along_the_beam_without_transverse_momentum(event: Event, beta: float) -> None:
    top, antitop, lplus, lminus = (boost(p, [[0.0], [0.0], [beta]]) for p in event)
    assert_same(angles_of((top, antitop, lplus, lminus)), angles_of(event))


@settings(deadline=None)
@given(events())
def test_exchange_of_top_and_antitop(event: Event) -> None:
    """k and y change sign, so r stays and n = r x k turns over; the leptons change places."""
    top, antitop, lplus, lminus = event
    there, back = angles_of(event), angles_of((antitop, top, lminus, lplus))
    signs = np.array([-1, 1, -1])[:, None]
    np.testing.assert_allclose(back.cos_plus, signs * there.cos_minus, atol=1e-8)
    np.testing.assert_allclose(back.cos_minus, signs * there.cos_plus, atol=1e-8)
    np.testing.assert_allclose([back.cos_phi, back.cos_theta], [there.cos_phi, -there.cos_theta], atol=1e-8)


@settings(deadline=None)
@given(events())
def test_bose_sign_keeps_the_diagonal(event: Event) -> None:
    plain, bose = angles_of(event), angles_of(event, bose_sign=True)
    sign = -1 if plain.cos_theta[0] < 0 else 1
    assert_same(bose, plain, (1, sign, sign))
    kept = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]], bool)
    np.testing.assert_allclose(
        spin.cosine_products(bose)[kept], spin.cosine_products(plain)[kept], atol=1e-12
    )


@settings(deadline=None)
@given(events(), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_energies_of_the_leptons_do_not_matter(event: Event, one: float, two: float) -> None:
    top, antitop, lplus, lminus = event
    assert_same(angles_of((top, antitop, one * lplus, two * lminus)), angles_of(event))


# ------------------------------------------------------------------------------------------------ density matrices

PAULI = [np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.array([[1, 0], [0, -1]])]
seeds = st.integers(0, 2**32 - 1)


def coefficients(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c = np.array([[np.trace(rho @ np.kron(s, t)).real for t in PAULI] for s in PAULI])
    plus = np.array([np.trace(rho @ np.kron(s, np.eye(2))).real for s in PAULI])
    minus = np.array([np.trace(rho @ np.kron(np.eye(2), s)).real for s in PAULI])
    return c, plus, minus


def random_state(seed: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(4, rank)) + 1j * rng.normal(size=(4, rank))
    rho = g @ g.conj().T
    return np.asarray(rho / np.trace(rho).real)


def separable_state(seed: int) -> np.ndarray:
    """A mixture of products."""
    rng = np.random.default_rng(seed)
    rho = np.zeros((4, 4), complex)
    for weight in rng.dirichlet(np.ones(4)):
        one, two = (rng.normal(size=2) + 1j * rng.normal(size=2) for _ in range(2))
        psi = np.kron(one, two) / np.linalg.norm(np.kron(one, two))
        rho += weight * np.outer(psi, psi.conj())
    return rho


@given(seeds, st.integers(1, 4))
def test_states_are_physical_and_consistent(seed: int, rank: int) -> None:
    rho = random_state(seed, rank)
    c, plus, minus = coefficients(rho)
    state = dm.spin_state(c, plus, minus)
    np.testing.assert_allclose(dm.density_matrix(c, plus, minus), rho, atol=1e-12)
    assert state.physical
    np.testing.assert_allclose([state.eigenvalues.sum(), state.transposed_eigenvalues.sum()], 1.0, rtol=1e-12)
    # For two qubits the three measures say the same (Peres-Horodecki, Wootters; Verstraete for the order).
    assume(abs(state.transposed_eigenvalues[0]) > 1e-9)
    assert state.entangled == (state.concurrence > 0) == (state.negativity > 0)
    assert 2 * state.negativity <= state.concurrence + 1e-9
    assert state.concurrence <= 1 + 1e-12
    assert state.chsh <= 2 * np.sqrt(1 + state.concurrence**2) + 1e-9
    assert bool(state.bell_violated) <= bool(state.entangled)


@given(seeds)
def test_mixtures_of_products_are_not_entangled(seed: int) -> None:
    c, plus, minus = coefficients(separable_state(seed))
    state = dm.spin_state(c, plus, minus)
    markers = dm.entanglement_markers(c)
    assert state.physical
    assert not state.entangled
    assert state.concurrence < 1e-7
    assert state.chsh <= 2 + 1e-9
    assert max(markers.d_paper, markers.d_prime, markers.d_poster) <= 1 + 1e-9
    assert markers.d_std >= -1 / 3 - 1e-9


@given(seeds, st.integers(1, 4), seeds)
def test_turning_each_spin_changes_no_measure(seed: int, rank: int, turns: int) -> None:
    c, plus, minus = coefficients(random_state(seed, rank))
    rng = np.random.default_rng(turns)
    one, two = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    one, two = one * np.linalg.det(one), two * np.linalg.det(two)  # rotations, not mirrors
    there = dm.spin_state(c, plus, minus)
    here = dm.spin_state(one @ c @ two.T, one @ plus, two @ minus)
    for name in ("eigenvalues", "transposed_eigenvalues", "concurrence", "negativity", "chsh"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), atol=1e-9, err_msg=name)


@given(st.tuples(*4 * [st.floats(0, 1)]))
def test_markers_decide_for_unpolarised_diagonal_states(weights: tuple[float, ...]) -> None:
    """Mixtures of the four Bell states: max(D, D') > 1 if, and only if, entangled; concurrence (max - 1) / 2."""
    assume(sum(weights) > 0.1)
    w = np.array(weights) / sum(weights)
    bell = np.array([[-1, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    c = np.diag(w @ bell)
    markers, state = dm.entanglement_markers(c), dm.spin_state(c)
    largest = float(max(markers.d_paper, markers.d_prime))
    assume(abs(largest - 1) > 1e-9)
    assert bool(state.entangled) == (largest > 1)
    np.testing.assert_allclose(state.concurrence, max(0.0, (largest - 1) / 2), atol=1e-9)
    np.testing.assert_allclose(markers.d_poster, -3 * markers.d_std, atol=1e-12)
    if np.trace(c[:2, :2]) <= 0:
        np.testing.assert_allclose(markers.d_paper, markers.d_poster, atol=1e-12)


# ------------------------------------------------------------------------------------------------ closure

STATES = {
    "singlet": np.array([[0, 0, 0, 0], [0, 0.5, -0.5, 0], [0, -0.5, 0.5, 0], [0, 0, 0, 0]], complex),
    "no correlation": np.eye(4, dtype=complex) / 4,
    "separable": separable_state(5),
    "mixed": random_state(6, 4),
    "nearly pure": 0.9 * random_state(7, 1) + 0.1 * random_state(8, 4),
    "pure": random_state(9, 1),
}


def isotropic(rng: np.random.Generator, n: int) -> np.ndarray:
    v = rng.normal(size=(3, n))
    return np.asarray(v / np.sqrt((v * v).sum(axis=0)))


def lepton_directions(rho: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Directions along (k, r, n) by accept-reject from the probability of both spins pointing so.

    The density is tr[rho (1 + a.s) x (1 - b.s)] / (4 pi)^2: the analysers are +1 for l+ and -1 for l-. It is evaluated
    from rho itself, not from B and C.
    """
    a, b = isotropic(rng, n), isotropic(rng, n)
    pauli = np.stack(PAULI)
    plus = np.eye(2) + np.einsum("in,ixy->nxy", a, pauli)
    minus = np.eye(2) - np.einsum("in,ixy->nxy", b, pauli)
    four = rho.reshape(2, 2, 2, 2)  # row spins, column spins
    density = np.einsum("xyzw,nzx,nwy->n", four, plus, minus, optimize=True).real
    assert density.min() > -1e-12
    assert density.max() <= 4 + 1e-12
    keep = rng.uniform(0, 4, n) < density
    return a[:, keep], b[:, keep]


def laboratory_events(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Top pairs whose leptons have cosines ``a``, ``b`` with (k, r, n), boosted out of the rest frames in steps."""
    n = a.shape[1]
    k = isotropic(rng, n)
    beam = np.array([[0.0], [0.0], [1.0]]) * np.ones(n)
    r = beam - k[2] * k
    r /= np.sqrt((r * r).sum(axis=0))
    axes = np.stack([k, r, np.cross(r, k, axis=0)])
    beta = rng.uniform(0.1, 0.9, n) * k
    pair_velocity = rng.uniform(-0.5, 0.5, (3, n))
    events = []
    for sign in (1, -1):
        at_rest = np.array([[0.0], [0.0], [0.0], [TOP]]) * np.ones(n)
        events.append(boost(boost(at_rest, sign * beta), pair_velocity))
    for sign, cosines_ in ((1, a), (-1, b)):
        lepton = np.concatenate([np.einsum("an,axn->xn", cosines_, axes), np.ones((1, n))]) * rng.uniform(
            20, 80, n
        )
        events.append(boost(boost(lepton, sign * beta), pair_velocity))
    return tuple(events)


def matrix_of(estimator: Any, counts: list[list[np.ndarray]], edges: np.ndarray) -> np.ndarray:
    """Values and uncertainties, shape (2, 3, 3)."""
    return np.moveaxis(np.array([[estimator(n, edges) for n in row] for row in counts]), -1, 0)


@pytest.mark.parametrize("name", STATES)
def test_every_estimator_gives_back_the_state(name: str) -> None:
    """From the density matrix to leptons in the laboratory and back to B, C and D, within the errors they claim."""
    rng = np.random.default_rng(list(STATES).index(name))
    true_c, true_plus, true_minus = coefficients(STATES[name])
    a, b = lepton_directions(STATES[name], 200_000, rng)
    top, antitop, lplus, lminus = laboratory_events(a, b, rng)
    angles = spin.spin_angles(top, antitop, lplus, lminus)
    assert angles.valid.all()
    np.testing.assert_allclose(angles.cos_plus, a, atol=1e-7)
    np.testing.assert_allclose(angles.cos_minus, b, atol=1e-7)

    plus, minus = angles.cos_plus[:, None], angles.cos_minus[None, :]
    edges = np.linspace(-1, 1, 21)
    counts = [[np.histogram(xi, edges)[0] for xi in row] for row in spin.cosine_products(angles)]
    estimates: dict[str, Any] = {
        "moment": spin.correlation_moment(plus, minus),
        "asymmetry": spin.correlation_asymmetry(plus, minus),
        "histogram": matrix_of(spin.correlation_histogram_moment, counts, edges),
        "likelihood": matrix_of(spin.correlation_likelihood, counts, edges),
    }
    for method, (value, uncertainty) in estimates.items():
        pulls = (value - true_c) / uncertainty
        assert np.abs(pulls).max() < 4, (method, pulls)
        # chi2 with nine degrees of freedom: 33.7 has a probability of 1e-4.
        assert (pulls**2).sum() < 33.7, (method, pulls)
    for cosine, kappa, truth in ((angles.cos_plus, 1, true_plus), (angles.cos_minus, -1, true_minus)):
        value, uncertainty = spin.polarization_moment(cosine, kappa=kappa)
        assert np.abs((value - truth) / uncertainty).max() < 4
    value, uncertainty = spin.d_std_moment(angles.cos_phi)
    assert abs(value - np.trace(true_c) / 3) < 4 * uncertainty
    measured = spin.correlation_moment(plus, minus, convention="cms").value
    verdict = dm.spin_state(measured, true_plus, true_minus, convention="cms")
    truth_state = dm.spin_state(true_c, true_plus, true_minus)
    assert abs(verdict.concurrence - truth_state.concurrence) < 0.05


@pytest.mark.parametrize("method", ["moment", "asymmetry", "likelihood"])
def test_uncertainties_cover(method: str) -> None:
    """Pulls of 200 pseudo-experiments, each with a Poisson number of events, have mean 0 and width 1."""
    rng = np.random.default_rng(17)
    rho = STATES["mixed"]
    true_c = coefficients(rho)[0][1, 2]
    a, b = lepton_directions(rho, 800_000, rng)
    sizes = rng.poisson(0.9 * a.shape[1] / 200, 200)
    pulls, start = [], 0
    for size in sizes:
        x, y = a[1, start : start + size], b[2, start : start + size]
        start += size
        if method == "likelihood":
            estimate = spin.correlation_likelihood(*np.histogram(x * y, np.linspace(-1, 1, 21)))
        else:
            estimate = getattr(spin, f"correlation_{method}")(x, y)
        pulls.append((estimate.value - true_c) / estimate.uncertainty)
    assert start <= a.shape[1]
    assert abs(np.mean(pulls)) < 4 / np.sqrt(200)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(400)
