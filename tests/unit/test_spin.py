"""Spin angles, estimators and density matrices against plain twins, integrals, known states, and their edges."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from scipy.integrate import quad

from evenet_hep.errors import InputError
from evenet_hep.events import spin_observables
from evenet_hep.kinematics import density_matrix as dm
from evenet_hep.kinematics import spin
from evenet_hep.kinematics.vectors import boost, from_cartesian

TOP = 172.5


def unit(v: np.ndarray) -> np.ndarray:
    return np.asarray(v / np.sqrt((v * v).sum(axis=0)))


def generate(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top pairs in flight and leptons from them, in the laboratory."""
    rng = np.random.default_rng(seed)
    momenta = [
        rng.normal(0, 100, (3, n)) + np.array([[0], [0], [1]]) * rng.normal(0, 300, n) for _ in range(2)
    ]
    top, antitop = (np.concatenate([p, np.sqrt((p * p).sum(axis=0) + TOP**2)[None]]) for p in momenta)
    leptons = []
    for parent in (top, antitop):
        at_rest = rng.normal(0, 30, (3, n))
        at_rest = np.concatenate([at_rest, np.sqrt((at_rest**2).sum(axis=0))[None]])
        leptons.append(boost(at_rest, parent[:3] / parent[3]))
    return top, antitop, leptons[0], leptons[1]


def twin(top: Any, antitop: Any, lplus: Any, lminus: Any, *, bose: bool) -> dict[str, Any]:
    """Section by section as the definition reads, with boosts by velocities and cross products of NumPy."""
    pair = top + antitop
    to_cm = -pair[:3] / pair[3]
    top_cm, antitop_cm, plus_cm, minus_cm = (boost(p, to_cm) for p in (top, antitop, lplus, lminus))
    plus = unit(boost(plus_cm, -top_cm[:3] / top_cm[3])[:3])
    minus = unit(boost(minus_cm, -antitop_cm[:3] / antitop_cm[3])[:3])
    k = unit(top_cm[:3])
    beam = np.array([[0.0], [0.0], [1.0]]) * np.ones(k.shape[1])
    y = k[2]
    sine = np.sqrt(1 - y**2)
    r, n = (beam - y * k) / sine, np.cross(beam, k, axis=0) / sine
    if bose:
        sign = np.where(y < 0, -1, 1)
        r, n = sign * r, sign * n
    return {
        "m_tt": np.sqrt(pair[3] ** 2 - (pair[:3] ** 2).sum(axis=0)),
        "cos_theta": y,
        "cos_plus": np.stack([(plus * axis).sum(axis=0) for axis in (k, r, n)]),
        "cos_minus": np.stack([(minus * axis).sum(axis=0) for axis in (k, r, n)]),
        "cos_phi": (plus * minus).sum(axis=0),
    }


@pytest.mark.parametrize("bose", [False, True])
def test_angles_are_the_definition(bose: bool) -> None:
    events = generate(2000, 1)
    angles = spin.spin_angles(*events, bose_sign=bose)
    assert angles.valid.all()
    for name, expected in twin(*events, bose=bose).items():
        np.testing.assert_allclose(getattr(angles, name), expected, rtol=1e-8, atol=1e-8)
    products = spin.cosine_products(angles)
    np.testing.assert_allclose(products[0, 2], angles.cos_plus[0] * angles.cos_minus[2])
    np.testing.assert_allclose(np.trace(products), angles.cos_phi, atol=1e-12)


def test_one_boost_gives_other_angles() -> None:
    """From the laboratory straight to the top is a rotated frame, as far off as 0.1 and more."""
    top, antitop, lplus, lminus = generate(2000, 2)
    angles = spin.spin_angles(top, antitop, lplus, lminus)
    direct = unit(boost(lplus, -top[:3] / top[3])[:3]) * unit(boost(lminus, -antitop[:3] / antitop[3])[:3])
    assert np.abs(direct.sum(axis=0) - angles.cos_phi).max() > 0.1


def test_tops_without_a_direction() -> None:
    """A top along the beam has no r and n, a top at rest no k; what does not need them is there."""
    momentum = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [90.0, -90.0, 0.0]])
    energy = np.sqrt((momentum**2).sum(axis=0) + TOP**2)[None]
    lplus, lminus = np.array([[30.0], [0.0], [10.0], [50.0]]), np.array([[0.0], [30.0], [20.0], [40.0]])
    # Boosted across the beam the directions come back with rounding, which is not a direction either.
    for velocity in ([0.0, 0.0, 0.0], [0.0, 0.0, 0.6], [0.5, -0.3, 0.4]):
        events = (
            np.concatenate([momentum, energy]),
            np.concatenate([-momentum, energy]),
            lplus + np.zeros(3),
            lminus + np.zeros(3),
        )
        angles = spin.spin_angles(*(boost(p, velocity) for p in events))
        assert not angles.valid.any()
        assert np.isnan(angles.cos_plus[1:]).all()
        assert np.isnan(angles.cos_minus[1:]).all()
        np.testing.assert_array_equal(np.isnan(angles.cos_plus[0]), [False, False, True])
        np.testing.assert_allclose(angles.cos_theta, [1.0, -1.0, np.nan], rtol=1e-12)
        assert np.isfinite(angles.cos_phi).all()
        assert np.isfinite(angles.m_tt).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_input_that_is_no_top_pair_is_nan(bad: float) -> None:
    for particle, component in itertools.product(range(4), range(4)):
        events = generate(2, 3)
        events[particle][component, 0] = bad
        angles = spin.spin_angles(*events)
        assert angles.valid.tolist() == [False, True]
        assert np.isnan(angles.cos_phi[0])
        assert np.isnan(angles.cos_plus[:, 0]).all()
    top, antitop, lplus, lminus = generate(2, 3)
    top[3, 0] = 10.0  # not on any mass shell
    lplus[:, 1] = 0.0
    assert not spin.spin_angles(top, antitop, lplus, lminus).valid.any()


def test_angles_empty_and_errors() -> None:
    nothing = np.zeros((4, 0))
    angles = spin.spin_angles(nothing, nothing, nothing, nothing)
    assert angles.cos_plus.shape == (3, 0)
    assert spin.cosine_products(angles).shape == (3, 3, 0)
    with pytest.raises(ValueError, match=r"found \(4, 0\), \(4, 0\), \(4, 2\), \(4, 0\)"):
        spin.spin_angles(nothing, nothing, np.zeros((4, 2)), nothing)
    with pytest.raises(ValueError, match="lminus must have 4 rows"):
        spin.spin_angles(nothing, nothing, nothing, np.zeros((3, 0)))


@pytest.mark.parametrize("c", [-0.7, 0.4])
@pytest.mark.parametrize("kappas", [(1.0, -1.0), (0.8, 0.5)])
def test_densities_integrate_to_what_they_say(c: float, kappas: tuple[float, float]) -> None:
    def density(xi: float) -> float:
        return float(spin.product_density(xi, c, kappas=kappas))

    for low, high in ((-1.0, -0.2), (-0.2, 0.3), (0.3, 1.0)):
        constant, slope = spin.product_bin_integrals([low, high])
        expected = quad(density, low, high, points=[0.0] if low < 0 < high else None)[0]
        np.testing.assert_allclose(constant + kappas[0] * kappas[1] * c * slope, expected, rtol=1e-7)

    def along(x: float) -> float:
        """The joint density on the two branches of x y = 0.37."""
        pair = np.array([x, -x])
        return float(spin.joint_density(pair, 0.37 / pair, correlation=c, kappas=kappas).sum() / x)

    np.testing.assert_allclose(quad(along, 0.37, 1.0)[0], density(0.37), rtol=1e-7)


def test_density_outside_and_in_all_bins() -> None:
    assert spin.product_density(1.2, 0.5) == 0.0
    assert np.isinf(spin.product_density(0.0, 0.5))
    constant, slope = spin.product_bin_integrals(np.linspace(-1, 1, 21))
    np.testing.assert_allclose([constant.sum(), slope.sum()], [1.0, 0.0], atol=1e-14)


def test_joint_density_terms() -> None:
    x = np.array([0.3])
    np.testing.assert_allclose(
        spin.joint_density(x, -0.5, b_plus=0.2, b_minus=0.4, correlation=0.6), 0.25 * (1 + 0.06 + 0.2 + 0.09)
    )


@pytest.mark.parametrize("edges", [[-1.0, 0.0, 0.0, 1.0], [-1.5, 1.0], [0.0], [-1.0, np.nan, 1.0]])
def test_bad_edges(edges: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must ascend within \[-1, 1\]"):
        spin.product_bin_integrals(edges)


def test_conventions_of_estimators() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-1, 1, (2, 500))
    counts, edges = np.histogram(x * y, np.linspace(-1, 1, 21))
    pairs: list[tuple[Any, tuple[Any, ...]]] = [
        (spin.correlation_moment, (x, y)),
        (spin.correlation_asymmetry, (x, y)),
        (spin.correlation_histogram_moment, (counts, edges)),
        (spin.correlation_likelihood, (counts, edges)),
    ]
    for estimate, arguments in pairs:
        ours = estimate(*arguments)
        for other in (estimate(*arguments, convention="cms"), estimate(*arguments, kappas=(1.0, 1.0))):
            np.testing.assert_allclose(other.value, -ours.value, rtol=1e-9)
            np.testing.assert_allclose(other.uncertainty, ours.uncertainty, rtol=1e-9)
        weak = estimate(*arguments, kappas=(1.0, -0.5))
        np.testing.assert_allclose(weak.value, 2 * ours.value, rtol=1e-9)
        np.testing.assert_allclose(weak.uncertainty, 2 * ours.uncertainty, rtol=1e-9)
        with pytest.raises(ValueError, match="convention must be one of density_matrix, cms; found 'atlas'"):
            estimate(*arguments, convention="atlas")


def test_moments_reduce_the_last_axis_and_take_weights() -> None:
    rng = np.random.default_rng(5)
    plus, minus = rng.uniform(-1, 1, (2, 3, 100))
    weights = rng.exponential(1.0, 100)
    matrix = spin.correlation_moment(plus[:, None], minus[None, :], weights=weights)
    assert matrix.value.shape == (3, 3)
    single = spin.correlation_moment(plus[1], minus[2], weights=weights)
    np.testing.assert_allclose([matrix.value[1, 2], matrix.uncertainty[1, 2]], single)
    mean = (weights * plus[1] * minus[2]).sum() / weights.sum()
    np.testing.assert_allclose(single.value, -9 * mean)
    # A weight of two is not an event twice: the value is the same, the uncertainty is larger.
    doubled = spin.correlation_moment(np.tile(plus[1], 2), np.tile(minus[2], 2))
    heavy = spin.correlation_moment(plus[1], minus[2], weights=np.full(100, 2.0))
    np.testing.assert_allclose(
        [heavy.value, heavy.uncertainty], [doubled.value, np.sqrt(2) * doubled.uncertainty]
    )
    assert np.isnan(spin.correlation_moment([], []).value)
    assert np.isnan(spin.d_std_moment([0.1, np.nan]).value)


def test_d_from_angles_is_the_trace() -> None:
    angles = spin.spin_angles(*generate(500, 6))
    c = spin.correlation_moment(angles.cos_plus[:, None], angles.cos_minus[None, :]).value
    np.testing.assert_allclose(
        spin.d_std_moment(angles.cos_phi).value, dm.entanglement_markers(c).d_std, rtol=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_likelihood_maximum_by_scan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.linspace(-1, 1, 21)
    counts = rng.poisson(rng.uniform(0, 3) * 20 * spin.product_bin_integrals(edges)[0])
    counts[rng.integers(0, 20)] += 1
    estimate = spin.correlation_likelihood(counts, edges)
    u, v = spin.product_bin_integrals(edges)
    limit = (u / np.abs(v)).min()
    scan = np.linspace(-limit, limit, 200001)[1:-1]
    with np.errstate(divide="ignore"):
        log_likelihood = (counts[:, None] * np.log(u[:, None] - scan * v[:, None])).sum(axis=0)
    assert estimate.value == pytest.approx(scan[np.argmax(log_likelihood)], abs=2 * limit / 1e5)
    assert abs(estimate.value) <= limit * (1 + 1e-12)


def test_likelihood_at_its_limit_and_without_information() -> None:
    edges = np.linspace(-1, 1, 21)
    one_sided = spin.correlation_likelihood(
        np.where(edges[:-1] > 0.3, 1, 0) - np.eye(20, dtype=int)[19], edges
    )
    u, v = spin.product_bin_integrals(edges)
    np.testing.assert_allclose(one_sided.value, -(u / np.abs(v)).min(), rtol=1e-9)
    assert np.isnan(spin.correlation_likelihood(np.zeros(20), edges)).all()
    assert np.isnan(spin.correlation_likelihood([5], [-1.0, 1.0])).all()
    assert np.isnan(spin.correlation_likelihood([0, 5, 0], [-1.0, -0.5, 0.5, 1.0])).all()


def test_likelihood_with_weights() -> None:
    """Scaling all weights leaves the value and, with the variances given, the uncertainty."""
    counts, edges = np.array([10.0, 40.0, 30.0, 5.0]), np.array([-1.0, -0.4, 0.1, 0.5, 1.0])
    plain = spin.correlation_likelihood(counts, edges)
    scaled = spin.correlation_likelihood(3 * counts, edges, variances=9 * counts)
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)
    moments = spin.correlation_histogram_moment(counts, edges)
    np.testing.assert_allclose(
        spin.correlation_histogram_moment(3 * counts, edges, variances=9 * counts), moments
    )


def test_likelihood_errors() -> None:
    with pytest.raises(
        ValueError, match=r"counts must be 2 numbers that are not negative; found \[ 3. -1.\]"
    ):
        spin.correlation_likelihood([3, -1], [-1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="counts must be 2 numbers"):
        spin.correlation_likelihood([3, 1, 2], [-1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"edges must reach from -1 to 1; found -0\.5 to 1\.0"):
        spin.correlation_likelihood([3, 1], [-0.5, 0.0, 1.0])


# ------------------------------------------------------------------------------------------------ density matrices


def pure_state(rng: np.random.Generator) -> np.ndarray:
    amplitudes = rng.normal(size=4) + 1j * rng.normal(size=4)
    return np.asarray(amplitudes / np.linalg.norm(amplitudes))


def coefficients(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C, B+, B- as expectation values of products of Pauli matrices."""
    pauli = [np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.array([[1, 0], [0, -1]])]
    c = np.array([[np.trace(rho @ np.kron(s, t)).real for t in pauli] for s in pauli])
    plus = np.array([np.trace(rho @ np.kron(s, np.eye(2))).real for s in pauli])
    minus = np.array([np.trace(rho @ np.kron(np.eye(2), s)).real for s in pauli])
    return c, plus, minus


def random_states(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(n, 4, 4)) + 1j * rng.normal(size=(n, 4, 4))
    rho = g @ np.conj(np.swapaxes(g, 1, 2))
    return np.asarray(rho / np.trace(rho, axis1=1, axis2=2)[:, None, None])


def test_density_matrix_inverts_expectation_values() -> None:
    states = random_states(20, 7)
    values = [coefficients(rho) for rho in states]
    c, plus, minus = (np.stack(column) for column in zip(*values, strict=True))
    np.testing.assert_allclose(dm.density_matrix(c, plus, minus), states, atol=1e-13)
    np.testing.assert_allclose(dm.density_matrix(-c, plus, minus, convention="cms"), states, atol=1e-13)


def test_concurrence_of_pure_states() -> None:
    """Twice |a d - b c|, and twice the negativity, to full precision although three eigenvalues vanish."""
    rng = np.random.default_rng(8)
    for _ in range(50):
        psi = pure_state(rng)
        rho = np.outer(psi, psi.conj())
        expected = 2 * abs(psi[0] * psi[3] - psi[1] * psi[2])
        state = dm.spin_state(*coefficients(rho))
        np.testing.assert_allclose(state.concurrence, expected, atol=1e-12)
        np.testing.assert_allclose(2 * state.negativity, expected, atol=1e-12)
        assert state.physical
        # Gisin: every entangled pure state violates the inequality, by 2 sqrt(1 + C^2).
        np.testing.assert_allclose(state.chsh, 2 * np.sqrt(1 + expected**2), rtol=1e-10)


def test_concurrence_is_wootters_formula() -> None:
    for rho in random_states(50, 9):
        sy = np.array([[0, -1j], [1j, 0]])
        flip = np.kron(sy, sy)
        roots = np.sort(np.sqrt(np.maximum(np.linalg.eigvals(rho @ flip @ rho.conj() @ flip).real, 0)))
        np.testing.assert_allclose(dm.concurrence(rho), max(0.0, roots[3] - roots[:3].sum()), atol=1e-9)


def test_partial_transpose_of_a_product() -> None:
    rng = np.random.default_rng(10)
    a, b = (rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2)) for _ in range(2))
    np.testing.assert_allclose(dm.partial_transpose(np.kron(a, b)), np.kron(a, b.T))


def test_chsh_is_the_largest_over_settings() -> None:
    rng = np.random.default_rng(11)
    c, _, _ = coefficients(random_states(1, 12)[0])
    directions = unit(rng.normal(size=(3, 4, 100_000)))
    a, a2, b, b2 = np.moveaxis(directions, 1, 0)
    values = np.einsum("in,ij,jn->n", a, c, b + b2) + np.einsum("in,ij,jn->n", a2, c, b - b2)
    largest = float(dm.chsh_maximum(c))
    assert largest * 0.9 < values.max() <= largest


def test_conventions_of_criteria() -> None:
    singlet = -np.eye(3)
    assert dm.spin_state(singlet).entangled
    assert not dm.spin_state(
        -singlet
    ).entangled  # the same coefficients in the other convention, not declared
    assert dm.spin_state(-singlet, convention="cms").entangled
    markers = dm.entanglement_markers(np.diag([0.1, 0.2, 0.6]), convention="cms")
    np.testing.assert_allclose([markers.d_paper, markers.d_poster, markers.d_std], [0.9, 0.9, -0.3])
    with pytest.raises(ValueError, match="found 'CMS'"):
        dm.entanglement_markers(singlet, convention="CMS")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"correlation must have shape \(..., 3, 3\) .* found \(3,\)"):
        dm.spin_state(np.zeros(3))
    with pytest.raises(ValueError, match=r"polarization_minus must have shape \(..., 3\)"):
        dm.spin_state(singlet, np.zeros(3), np.zeros(2))


def test_unphysical_and_missing_coefficients() -> None:
    state = dm.spin_state(np.stack([np.eye(3), np.full((3, 3), np.nan), -np.eye(3)]))
    assert state.physical.tolist() == [False, False, True]
    assert state.entangled.tolist() == [False, False, True]
    assert state.bell_violated.tolist() == [True, False, True]
    for name in ("concurrence", "chsh", "negativity"):
        assert np.isnan(getattr(state, name)).tolist() == [False, True, False], name
    assert np.isnan(dm.delta_d_published(np.full((3, 3), np.nan), np.ones((3, 3))).value)
    assert dm.spin_state(np.zeros((0, 3, 3))).concurrence.shape == (0,)


def test_delta_d() -> None:
    c, sigma = np.diag([-0.6, -0.3, -0.6]), np.diag([0.03, 0.04, 0.12])
    result = dm.delta_d(c, sigma)
    np.testing.assert_allclose(result, [0.13 / 0.5, 1.5, 0.13])
    np.testing.assert_allclose(dm.delta_d(-c, sigma, convention="cms"), result)
    published = dm.delta_d_published(c, sigma)
    # Eigenvalues of the unpolarised diagonal state: r = w^2 with w = (1 +- ...)/4.
    w = np.array([0.625, 0.175, 0.175, 0.025])
    np.testing.assert_allclose(
        published.concurrence_without_roots, w[0] ** 2 - (w[1:] ** 2).sum(), rtol=1e-12
    )
    signs = np.array(
        [[-1, -1, -1], [1, -1, 1], [-1, 1, 1], [1, 1, -1]]
    )  # dw/dC of singlet and triplets, times 4
    shifts = [
        ((np.sort((w_of(c) + signs[:, i] * s / 4) ** 2) - np.sort(w_of(c) ** 2)) ** 2).sum()
        for i, s in enumerate(np.diag(sigma))
    ]
    np.testing.assert_allclose(published.up, np.sqrt(sum(shifts)), rtol=1e-9)
    np.testing.assert_allclose(
        published.value, (published.up + published.down) / 2 / published.concurrence_without_roots
    )
    several = dm.delta_d_published(np.stack([c, 2 * c]), sigma)
    np.testing.assert_allclose(several.up[0], published.up)
    assert several.up.shape == (2,)


def w_of(c: np.ndarray) -> np.ndarray:
    kk, rr, nn = np.diag(c)
    return np.array([1 - kk - rr - nn, 1 + kk - rr + nn, 1 - kk + rr + nn, 1 + kk + rr - nn]) / 4


# ------------------------------------------------------------------------------------------------ records


def test_records_in_every_naming() -> None:
    events = generate(100, 13)
    flat = spin.spin_angles(*events)
    detector = [from_cartesian(*p) for p in events]
    namings: list[Any] = [
        [ak.zip(dict(zip(("px", "py", "pz", "energy"), p, strict=True))) for p in events],
        [ak.zip(dict(zip(("x", "y", "z", "t"), p, strict=True))) for p in events],
        [ak.zip(p._asdict(), with_name="PtEtaPhiMLorentzVector") for p in detector],
        [vector.zip(p._asdict()) for p in detector],
        [
            vector.zip({"pt": p.pt, "phi": p.phi, "theta": 2 * np.arctan(np.exp(-p.eta)), "E": q[3]})
            for p, q in zip(detector, events, strict=True)
        ],
    ]
    for top, antitop, lplus, lminus in namings:
        angles = spin_observables.spin_angles(top, antitop, lplus, lminus)
        np.testing.assert_allclose(angles.cos_plus, flat.cos_plus, atol=1e-8)
        np.testing.assert_allclose(angles.cos_minus, flat.cos_minus, atol=1e-8)
    top, antitop, lplus, lminus = namings[0]
    bose = spin_observables.spin_angles(top, antitop, lplus, lminus, bose_sign=True)
    np.testing.assert_allclose(bose.cos_plus, spin.spin_angles(*events, bose_sign=True).cos_plus, atol=1e-12)
    missing = spin_observables.spin_angles(ak.mask(top, np.arange(100) != 5), antitop, lplus, lminus)
    assert np.flatnonzero(~missing.valid).tolist() == [5]
    assert spin_observables.spin_angles(top[:0], antitop[:0], lplus[:0], lminus[:0]).m_tt.shape == (0,)


def test_records_errors() -> None:
    good = ak.Array([{"pt": 30.0, "eta": 0.1, "phi": 0.2, "mass": 0.0}])
    with pytest.raises(InputError, match=r"antitop has no field 'eta'; .*it has mass, phi, pt"):
        spin_observables.spin_angles(good, good[["pt", "phi", "mass"]], good, good)
    with pytest.raises(InputError, match=r"lminus has no field 'mass'"):
        spin_observables.spin_angles(good, good, good, good[["pt", "eta", "phi"]])
    with pytest.raises(InputError, match="top must hold one record per event"):
        spin_observables.spin_angles(
            ak.Array([[{"pt": 30.0, "eta": 0.1, "phi": 0.2, "mass": 0.0}]]), good, good, good
        )
    with pytest.raises(InputError, match="each of the 1 events"):
        spin_observables.spin_angles(good[[0, 0]], good, good, good)


@pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning")
@pytest.mark.parametrize("mode", ["eager", "virtual"])
def test_coffea_events(samples: dict[str, Path], mode: str) -> None:
    """Generated top pairs of a NanoAOD file; a virtual array reads the coordinates and what selects them."""
    log: list[Any] = []
    options = {"access_log": log} if mode == "virtual" else {}
    events = NanoEventsFactory.from_root(
        {str(samples["nano_tt_v12"]): "Events"}, schemaclass=NanoAODSchema, mode=mode, **options
    ).events()
    generated = events["GenPart"]
    last = (generated["statusFlags"] & (1 << 13)) > 0
    top, antitop, lplus, lminus = (
        ak.firsts(generated[ids])
        for ids in (
            (generated["pdgId"] == 6) & last,
            (generated["pdgId"] == -6) & last,
            (generated["pdgId"] < -10) & (generated["pdgId"] > -16) & (generated["pdgId"] % 2 != 0),
            (generated["pdgId"] > 10) & (generated["pdgId"] < 16) & (generated["pdgId"] % 2 != 0),
        )
    )
    angles = spin_observables.spin_angles(top, antitop, lplus, lminus)
    assert len(angles.valid) == len(events)
    assert 20 < angles.valid.sum() < len(events)
    assert (angles.m_tt[angles.valid] > 300).all()
    np.testing.assert_allclose((angles.cos_plus[:, angles.valid] ** 2).sum(axis=0), 1.0, rtol=1e-9)
    if mode == "virtual":
        assert {entry.branch for entry in log} == {
            "nGenPart",
            *(f"GenPart_{x}" for x in ("pdgId", "statusFlags", "pt", "eta", "phi", "mass")),
        }
