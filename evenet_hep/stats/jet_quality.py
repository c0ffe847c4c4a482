"""Quality of generated jets: the metrics of JetNet (arXiv:2106.11535) for clouds of constituents.

Constituents are given relative to their jet: pT over that of the jet, and differences of pseudorapidity and azimuth.
All distances come with their spread over batches, and none is zero for two samples of the same jets: compare them with
those of two real samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.generation import Coverage, Distance, measure_coverage, w1_in_batches

FloatArray = npt.NDArray[np.float64]
N_POLYNOMIALS = 5


class JetQuality(NamedTuple):
    """Distances of generated from real jets.

    Parameters
    ----------
    w1_mass : Distance
        Of the relative jet mass; published in units of 1e-3.
    w1_particles : Distance
        Mean over the three features of constituents; published in units of 1e-3.
    w1_efp : Distance
        Mean over five energy-flow polynomials; published in units of 1e-5.
    coverage : Coverage
        Coverage and minimum matching distance by energy mover's distance.
    """

    w1_mass: Distance
    w1_particles: Distance
    w1_efp: Distance
    coverage: Coverage


def measure_jet_quality(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    n_batches: int = 5,
    batch_size: int = 50_000,
    coverage_batches: int = 10,
    coverage_size: int = 100,
    seed: int = 0,
) -> JetQuality:
    """All metrics of two samples of jets.

    Parameters
    ----------
    real, generated : array-like, shape (n_jets, n_constituents, 3)
        pT over that of the jet, delta eta, delta phi (radians) of the constituents; pT of 0 is padding.
    n_batches, batch_size : int
        For the W1 distances, drawn with replacement (of jets; of constituents for ``w1_particles``).
    coverage_batches, coverage_size : int
        For coverage, drawn without replacement: the square of ``coverage_size`` transport problems per batch, each
        a fraction of a millisecond.
    seed : int

    Returns
    -------
    JetQuality

    Raises
    ------
    InputError
        For other shapes, numbers that are not finite, or samples smaller than ``coverage_size``.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> jets = rng.dirichlet(np.ones(6), 60)[..., None] * [1, 0, 0] + 0.1 * rng.normal(size=(60, 6, 3)) * [0, 1, 1]
    >>> same = measure_jet_quality(jets[:30], jets[30:], batch_size=500, coverage_batches=1, coverage_size=8)
    >>> other = measure_jet_quality(jets[:30], 2 * jets[30:], batch_size=500, coverage_batches=1, coverage_size=8)
    >>> same.w1_mass.value < other.w1_mass.value
    True
    """
    samples = [_jets(name, jets) for name, jets in (("real", real), ("generated", generated))]
    options = {"n_batches": n_batches, "batch_size": batch_size, "seed": seed}
    masses = [relative_masses(jets) for jets in samples]
    particles = [jets[jets[..., 0] > 0] for jets in samples]
    flows = [energy_flow_polynomials(jets) for jets in samples]
    return JetQuality(
        w1_mass=w1_in_batches(*masses, **options),
        w1_particles=w1_in_batches(*particles, **options),
        w1_efp=w1_in_batches(*flows, **options),
        coverage=measure_coverage(*samples, n_batches=coverage_batches, batch_size=coverage_size, seed=seed),
    )


def relative_masses(jets: npt.ArrayLike) -> FloatArray:
    """Mass of the sum of massless constituents, over the pT of the jet.

    Parameters
    ----------
    jets : array-like, shape (n_jets, n_constituents, 3)
        As for :func:`measure_jet_quality`.

    Returns
    -------
    float64 array, shape (n_jets,)

    Examples
    --------
    >>> relative_masses([[[0.5, 0.0, 0.2], [0.5, 0.0, -0.2], [0.0, 0.0, 0.0]]]).round(4).tolist()
    [0.1987]
    """
    pt, eta, phi = np.moveaxis(_jets("jets", jets), -1, 0)
    px, py, pz, energy = (
        (pt * f).sum(axis=1) for f in (np.cos(phi), np.sin(phi), np.sinh(eta), np.cosh(eta))
    )
    return np.asarray(np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)))


def energy_flow_polynomials(jets: npt.ArrayLike) -> FloatArray:
    """The five prime energy-flow polynomials with four vertices and four edges (Komiske, Metodiev, Thaler, arXiv:1712.07124).

    Each is a sum over all quadruples of constituents of the product of their pT and of four distances. The graphs: a
    path with an outer edge doubled, one with the middle edge doubled, a star with an edge doubled, a triangle with an
    edge attached, and a square.

    Parameters
    ----------
    jets : array-like, shape (n_jets, n_constituents, 3)
        pT, eta, phi; beta = 1, and pT is taken as it is.

    Returns
    -------
    float64 array, shape (n_jets, 5)
        In the order above.

    Examples
    --------
    >>> energy_flow_polynomials([[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]]).tolist()
    [[2.0, 2.0, 2.0, 0.0, 2.0]]
    """
    table = _jets("jets", jets)
    found = np.zeros((len(table), N_POLYNOMIALS))
    for row, jet in zip(found, table, strict=True):
        z, eta, phi = jet[jet[:, 0] > 0].T
        d_phi = (phi[:, None] - phi + np.pi) % (2 * np.pi) - np.pi
        d = np.hypot(eta[:, None] - eta, d_phi)
        d2 = d**2
        one, two = d @ z, d2 @ z  # sums over a neighbour, by a simple and by a double edge
        between = (d * z) @ d
        row[0] = (z * two) @ d @ (z * one)
        row[1] = (z * one) @ d2 @ (z * one)
        row[2] = (z * one**2) @ two
        row[3] = (z * one) @ (d * between) @ z
        row[4] = z @ (between**2) @ z
    return found


def _jets(name: str, values: npt.ArrayLike) -> FloatArray:
    x = np.asarray(values, np.float64)
    if x.ndim != 3 or x.shape[-1] != 3 or not len(x) or not np.isfinite(x).all() or (x[..., 0] < 0).any():
        msg = f"{name} must be finite pT (not negative), eta, phi of shape (n_jets, n_constituents, 3), not empty; found shape {x.shape}"
        raise InputError(msg)
    return x
