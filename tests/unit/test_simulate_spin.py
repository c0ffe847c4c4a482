"""Leading-order spin correlations: limits, positivity, an independent amplitude, and the weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from evenet_hep.kinematics.vectors import boost
from evenet_hep.simulate.spin import MAX_WEIGHT, lo_spin_correlations, spin_weights

SIGMA = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
IDENTITY = np.eye(4)
G0 = np.diag([1, 1, -1, -1]).astype(complex)
GAMMA = [G0, *(np.block([[np.zeros((2, 2)), s], [-s, np.zeros((2, 2))]]) for s in SIGMA)]
METRIC = np.array([1.0, -1.0, -1.0, -1.0])
Complex = npt.NDArray[np.complex128]
Vector = npt.NDArray[np.float64]


def slash(p: npt.NDArray[np.generic]) -> Complex:
    """p-slash of a vector (energy, x, y, z)."""
    return np.asarray(sum(METRIC[mu] * p[mu] * GAMMA[mu] for mu in range(4)))


def correlation_matrix(beta: float, cosine: float, *, gg: bool) -> npt.NDArray[np.float64]:
    """C on the axes k, r, n from tree-level Feynman diagrams with explicit Dirac matrices and colour factors."""
    energy = 1.0 / np.sqrt(1.0 - beta**2)  # of each top, in units of its mass
    sine = np.sqrt(1.0 - cosine**2)
    k, beam = np.array([0.0, 0.0, 1.0]), np.array([sine, 0.0, cosine])
    top, antitop = (energy * np.array([1.0, *(sign * beta * k)]) for sign in (1.0, -1.0))
    axes = (k, (beam - cosine * k) / sine, np.cross(beam, k) / sine)
    in1, in2 = (energy * np.array([1.0, *(sign * beam)]) for sign in (1.0, -1.0))
    u = top_spinors(top, 1.0)
    v = top_spinors(antitop, -1.0)
    density = np.zeros((2, 2, 2, 2), complex)
    for amplitude, weight in (
        gluon_amplitudes(in1, in2, top, u, v) if gg else quark_amplitudes(in1, in2, u, v)
    ):
        density += weight * np.einsum("ab,cd->abcd", amplitude, amplitude.conj())
    norm = np.einsum("abab->", density)
    # Spin operators of the top on its spinors; of the antitop, whose spinors transform with the conjugate.
    result = np.empty((3, 3))
    for i, j in itertools.product(range(3), range(3)):
        first = sum(axes[i][a] * SIGMA[a] for a in range(3))
        second = sum(axes[j][a] * SIGMA[a] for a in range(3))
        result[i, j] = np.einsum("abcd,ca,db->", density, first, second).real / norm.real
    return result


def top_spinors(p: npt.NDArray[np.float64], sign: float) -> Complex:
    """u (sign +) or v (sign -) for spin up and down along z of the rest frame, reached by a boost; shape (2, 4)."""
    e, *momentum = p
    kinetic = sum(m * s for m, s in zip(momentum, SIGMA, strict=True)) / (e + 1.0)
    flip = np.array(
        [[0, 1], [-1, 0]]
    )  # an antiparticle with spin up has the spinor of a particle with spin down
    spinors = []
    for chi in np.eye(2):
        if sign > 0:
            spinors.append(np.concatenate([chi, kinetic @ chi]))
        else:
            eta = flip @ chi
            spinors.append(np.concatenate([kinetic @ eta, eta]))
    return np.asarray(np.sqrt(e + 1.0) * np.array(spinors, complex))


def massless_spinors(p: npt.NDArray[np.float64]) -> list[Complex]:
    """Both helicities."""
    e, *momentum = p
    helicity = sum(m * s for m, s in zip(momentum, SIGMA, strict=True)) / e
    _, vectors = np.linalg.eigh(helicity)
    return [np.sqrt(e) * np.concatenate([chi, helicity @ chi]) for chi in vectors.T]


def dot(a: Vector, b: Vector) -> float:
    return float(np.sum(METRIC * a * b))


def quark_amplitudes(in1: Vector, in2: Vector, u: Complex, v: Complex) -> Iterator[tuple[Complex, float]]:
    for quark, antiquark in itertools.product(massless_spinors(in1), massless_spinors(in2)):
        current = np.array([antiquark.conj() @ G0 @ gamma @ quark for gamma in GAMMA])
        vertex = sum(METRIC[mu] * current[mu] * GAMMA[mu] for mu in range(4))
        yield np.array([[a.conj() @ G0 @ vertex @ b for b in v] for a in u]), 1.0


def gluon_amplitudes(
    in1: Vector, in2: Vector, top: Vector, u: Complex, v: Complex
) -> Iterator[tuple[Complex, float]]:
    """t, u and s channel; colour through the symmetric and antisymmetric part of the two orderings."""
    direction = in1[1:] / in1[0]
    first = np.cross(direction, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    polarisations = [np.array([0.0, *first]), np.array([0.0, *np.cross(direction, first)])]
    for e1, e2 in itertools.product(polarisations, polarisations):
        t, w = top - in1, top - in2
        t_channel = slash(e1) @ (slash(t) + IDENTITY) @ slash(e2) / (dot(t, t) - 1.0)
        u_channel = slash(e2) @ (slash(w) + IDENTITY) @ slash(e1) / (dot(w, w) - 1.0)
        three = dot(e1, e2) * (in1 - in2) + dot(e2, 2 * in2 + in1) * e1 - dot(e1, 2 * in1 + in2) * e2
        s_channel = slash(three) / dot(in1 + in2, in1 + in2)
        symmetric, antisymmetric = t_channel + u_channel, t_channel - u_channel + 2.0 * s_channel
        for vertex, weight in ((symmetric, 7.0 / 3.0), (antisymmetric, 3.0)):
            yield np.array([[a.conj() @ G0 @ vertex @ b for b in v] for a in u]), weight


@pytest.mark.parametrize("gg", [True, False])
def test_coefficients_agree_with_feynman_diagrams(gg: bool) -> None:
    for beta, cosine in itertools.product((0.05, 0.3, 0.6, 0.9, 0.99), (-0.8, -0.3, 0.1, 0.5, 0.95)):
        c = lo_spin_correlations(beta, cosine, gg)
        ours = np.array([[c.kk, c.rk, 0.0], [c.rk, c.rr, 0.0], [0.0, 0.0, c.nn]], float)
        np.testing.assert_allclose(correlation_matrix(beta, cosine, gg=gg), ours, atol=1e-10)


@pytest.mark.parametrize("gg", [True, False])
def test_the_density_matrix_is_positive(gg: bool) -> None:
    beta, cosine = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 1, 21), np.linspace(-1, 1, 21)))
    c = lo_spin_correlations(beta, cosine, gg)
    for kk, rr, nn, rk in zip(*c, strict=True):
        matrix = np.array([[kk, rk, 0.0], [rk, rr, 0.0], [0.0, 0.0, nn]])
        density = np.eye(4, dtype=complex)
        for i, j in itertools.product(range(3), range(3)):
            density += matrix[i, j] * np.kron(SIGMA[i], SIGMA[j])
        assert np.linalg.eigvalsh(density).min() > -1e-9


def test_limits() -> None:
    high = lo_spin_correlations([1.0, 1.0], 0.0, [True, False])  # a triplet, whoever makes it
    for values, expected in zip(high[:3], (1.0, 1.0, -1.0), strict=True):
        np.testing.assert_allclose(values, expected)
    slow = lo_spin_correlations(0.0, 0.6, False)  # quarks at threshold: both spins along the beam
    np.testing.assert_allclose([slow.kk, slow.rr, slow.nn, slow.rk], [0.36, 0.64, 0.0, 0.48])


def pairs(n: int, seed: int) -> tuple[Vector, Vector, Vector, Vector]:
    """Top pairs with all masses, angles and boosts, and isotropic decays."""
    random = np.random.default_rng(seed)

    def direction() -> npt.NDArray[np.float64]:
        vector = random.normal(size=(3, n))
        return np.asarray(vector / np.linalg.norm(vector, axis=0))

    mass = 172.5
    momentum = random.exponential(150.0, n) * direction()
    energy = np.sqrt(mass**2 + np.sum(momentum**2, axis=0))[np.newaxis]
    motion = np.array([[0.2], [0.1], [0.9]]) * random.uniform(0, 1, n)
    rest_top, rest_antitop = np.concatenate([momentum, energy]), np.concatenate([-momentum, energy])
    leptons = []
    for parent in (rest_top, rest_antitop):
        lepton = 40.0 * np.concatenate([direction(), np.ones((1, n))])
        leptons.append(boost(boost(lepton, parent[:3] / parent[3]), motion))
    return boost(rest_top, motion), boost(rest_antitop, motion), leptons[0], leptons[1]


@pytest.mark.parametrize("gg", [True, False])
def test_weights_are_between_zero_and_two_with_mean_one(gg: bool) -> None:
    n = 40_000
    weights = spin_weights(*pairs(n, 7), np.full(n, gg))
    assert weights.min() >= -1e-9
    assert weights.max() <= MAX_WEIGHT + 1e-9
    assert abs(weights.mean() - 1.0) < 4.0 * weights.std() / np.sqrt(n)
    assert weights.std() > 0.2


def test_weights_do_not_care_which_beam_is_which() -> None:
    top, antitop, plus, minus = pairs(200, 9)
    is_gg = np.arange(200) % 2 == 0
    turn = np.array([1.0, -1.0, -1.0, 1.0])[:, np.newaxis]  # by half a turn about x
    turned = spin_weights(top * turn, antitop * turn, plus * turn, minus * turn, is_gg)
    np.testing.assert_allclose(turned, spin_weights(top, antitop, plus, minus, is_gg), atol=1e-9)


def test_tops_at_rest_and_along_the_beam_have_weights() -> None:
    lepton = np.array([[0.0], [30.0], [0.0], [30.0]])
    rest = np.array([[0.0], [0.0], [0.0], [172.5]])
    gluons = np.array([True])
    np.testing.assert_allclose(spin_weights(rest, rest, lepton, lepton, gluons), 2.0)
    np.testing.assert_allclose(
        spin_weights(rest, rest, lepton, lepton * [[1], [-1], [1], [1]], gluons), 0.0, atol=1e-12
    )
    along = np.array([[0.0], [0.0], [100.0], [np.hypot(100.0, 172.5)]])
    back = along * [[1], [1], [-1], [1]]
    assert np.isfinite(spin_weights(along, back, lepton, lepton, gluons)).all()
