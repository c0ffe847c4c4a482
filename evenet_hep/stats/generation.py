"""Quality of generated events: how far they are from real ones, in one feature or in many.

Every distance comes with an uncertainty, and none is zero for two samples of the same distribution: compare it with the
distance of two real samples of the same sizes. Definitions follow the JetNet library (arXiv:2106.11535,
arXiv:2211.10295), whose last release is of 2024 and brings torch and more; numpy and scipy suffice here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from evenet_hep.errors import InputError
from evenet_hep.stats.contents import read_contents
from evenet_hep.stats.reweighting import binned_triangular_discriminator
from evenet_hep.stats.transport import transport_cost

FloatArray = npt.NDArray[np.float64]


class Distance(NamedTuple):
    """A distance between real and generated events.

    Parameters
    ----------
    value : float
        Mean over batches, or as the function says.
    uncertainty : float
        Standard deviation of the batches.
    """

    value: float
    uncertainty: float


class Coverage(NamedTuple):
    """How much of the real sample is generated, and how well.

    Parameters
    ----------
    coverage : Distance
        Fraction of real events that are nearest to at least one generated event; about 0.6 for a perfect generator.
    mmd : Distance
        Minimum matching distance: mean over real events of the distance to the nearest generated one.
    """

    coverage: Distance
    mmd: Distance


class TriangularDiscriminator(NamedTuple):
    """Separation of two histograms.

    Parameters
    ----------
    value : float
        0 for equal, 1 for disjoint shapes.
    uncertainty : float
        From the variances of the contents, to first order.
    floor : float
        What two equal shapes give on average with these variances.
    """

    value: float
    uncertainty: float
    floor: float


def w1_distance(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    real_weights: npt.ArrayLike | None = None,
    generated_weights: npt.ArrayLike | None = None,
) -> float:
    """Wasserstein-1 distance of two samples of one feature, exact, with weights.

    Parameters
    ----------
    real, generated : array-like, shape (n,)
        Values, in any unit; the two lengths may differ.
    real_weights, generated_weights : array-like, shape (n,), optional
        Not negative.

    Returns
    -------
    float
        Integral of the difference of the cumulative distributions, in the unit of the feature.

    Raises
    ------
    InputError
        For samples that are empty or not finite, or weights that are negative or all zero.

    Examples
    --------
    >>> w1_distance([0.0, 1.0], [0.5]), w1_distance([0.0, 1.0], [0.0, 1.0], real_weights=[3, 1])
    (0.5, 0.25)
    """
    a, b = (_sample(name, x, 1) for name, x in (("real", real), ("generated", generated)))
    wa, wb = (
        _weights(name, w, len(x))
        for name, w, x in (("real_weights", real_weights, a), ("generated_weights", generated_weights, b))
    )
    return float(wasserstein_distance(a, b, wa, wb))


def w1_in_batches(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    n_batches: int = 5,
    batch_size: int = 50_000,
    seed: int = 0,
) -> Distance:
    """Wasserstein-1 distance averaged over features and over batches drawn with replacement, as JetNet quotes it.

    Parameters
    ----------
    real, generated : array-like, shape (n, n_features) or (n,)
        One column per feature: the jet mass for W1M, energy-flow polynomials for W1EFP. For W1P hand over the
        particles' features with padding left out, and batches are of particles.
    n_batches, batch_size : int
        At least 1.
    seed : int

    Returns
    -------
    Distance

    Raises
    ------
    InputError
        As for :func:`w1_distance`, and for samples with other features.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> d = w1_in_batches(rng.normal(0, 1, 9000), rng.normal(0.2, 1, 9000), batch_size=5000)
    >>> f"{d.value:.2f} +- {d.uncertainty:.2f}"
    '0.19 +- 0.02'
    """
    a, b = _pair(real, generated)
    _check_counts(n_batches=(n_batches, 1), batch_size=(batch_size, 1))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_batches):
        x, y = (sample[rng.integers(0, len(sample), batch_size)] for sample in (a, b))
        values.append(np.mean([wasserstein_distance(u, v) for u, v in zip(x.T, y.T, strict=True)]))
    return Distance(float(np.mean(values)), float(np.std(values)))


def triangular_discriminator(real: Any, generated: Any) -> TriangularDiscriminator:
    """1/2 integral of (p - q)^2 / (p + q) over two densities in the same bins.

    Parameters
    ----------
    real, generated : hist.Hist, or tuple (values, edges[, variances])
        Not negative; normalised here.

    Returns
    -------
    TriangularDiscriminator
        Published tables of OmniLearn (arXiv:2404.16091) are in units of 1e-3.

    Raises
    ------
    InputError
        For histograms that are empty, negative, or have other bins.

    Examples
    --------
    >>> found = triangular_discriminator(([100, 300], [0, 1, 2]), ([200, 200], [0, 1, 2]))
    >>> f"{found.value:.3f} +- {found.uncertainty:.3f}, equal shapes would give {found.floor:.4f}"
    '0.067 +- 0.018, equal shapes would give 0.0012'
    """
    p, q = (read_contents(h, name=name) for name, h in (("real", real), ("generated", generated)))
    if p.edges.shape != q.edges.shape or not np.allclose(p.edges, q.edges):
        msg = f"real and generated must have the same bins; found {p.edges} and {q.edges}"
        raise InputError(msg)
    value = binned_triangular_discriminator(p.values, q.values)
    a, b = p.values / p.values.sum(), q.values / q.values.sum()
    filled = a + b > 0
    a, b = a[filled], b[filled]
    slope = (a - b) / (a + b) ** 2 / 2
    by_a, by_b = slope * (a + 3 * b), -slope * (3 * a + b)
    variance = 0.0
    floor = 0.0
    for x, derivative, contents in ((a, by_a, p), (b, by_b, q)):
        spread = contents.variances[filled] / contents.values.sum() ** 2
        # Normalisation: a shift of one bin takes from all others.
        variance += float((spread * (derivative - (derivative * x).sum()) ** 2).sum())
        floor += float((spread * (1 - 2 * x) + x**2 * spread.sum()) @ (1 / (a + b))) / 2
    return TriangularDiscriminator(value, float(np.sqrt(variance)), floor)


def energy_mover_distance(first: npt.ArrayLike, second: npt.ArrayLike, *, radius: float = 1.0) -> float:
    """Work that turns one jet into another (Komiske, Metodiev, Thaler, arXiv:1902.02346, Eq. 1), beta = 1.

    Parameters
    ----------
    first, second : array-like, shape (n_particles, 3)
        pT, eta, phi of the particles; pT in GeV (or relative to the jet), phi in radians. Particles of pT 0 are
        padding.
    radius : float
        R, the distance at which moving costs as much as making.

    Returns
    -------
    float
        In the unit of pT: transport plus the difference of the summed pT. Exact: a tenth of a millisecond
        for jets of 30 particles.

    Raises
    ------
    InputError
        For other shapes, numbers that are not finite, or negative pT.

    Examples
    --------
    >>> round(energy_mover_distance([[1.0, 0.0, 0.0]], [[1.0, 0.3, 0.0], [0.5, 1.0, 1.0]]), 6)
    0.8
    """
    a, b = (_jet(name, jet) for name, jet in (("first", first), ("second", second)))
    difference = abs(float(a[:, 0].sum() - b[:, 0].sum()))
    if len(a) == 0 or len(b) == 0:
        return difference
    d_phi = (a[:, None, 2] - b[None, :, 2] + np.pi) % (2 * np.pi) - np.pi
    cost = np.hypot(a[:, None, 1] - b[None, :, 1], d_phi) / radius
    return transport_cost(a[:, 0], b[:, 0], cost) + difference


def coverage_and_mmd(distances: npt.ArrayLike) -> tuple[float, float]:
    """Coverage and minimum matching distance of one batch.

    Parameters
    ----------
    distances : array-like, shape (n_real, n_generated)
        Between every real and every generated event.

    Returns
    -------
    coverage, mmd : float
        As in :class:`Coverage`.

    Raises
    ------
    InputError
        For an empty or other shape, or numbers that are not finite.

    Examples
    --------
    >>> coverage_and_mmd([[0.1, 0.2], [0.3, 0.9]])  # both generated events are nearest to the first real one
    (0.5, 0.2)
    """
    d = _sample("distances", distances, 2)
    if d.shape[1] == 0:
        msg = f"distances must have shape (n_real, n_generated) with at least one of each; found {d.shape}"
        raise InputError(msg)
    return len(np.unique(d.argmin(axis=0))) / len(d), float(d.min(axis=1).mean())


def measure_coverage(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    distance: Callable[[FloatArray, FloatArray], float] = energy_mover_distance,
    n_batches: int = 10,
    batch_size: int = 100,
    seed: int = 0,
) -> Coverage:
    """Coverage and minimum matching distance over batches drawn without replacement.

    Parameters
    ----------
    real, generated : array-like, shape (n_events, ...)
        At least ``batch_size`` events each; for the default distance (n_jets, n_particles, 3) with pT, eta, phi.
    distance : callable
        Of two events.
    n_batches, batch_size : int
        ``n_batches`` times ``batch_size`` squared distances are computed.
    seed : int

    Returns
    -------
    Coverage

    Raises
    ------
    InputError
        For fewer events than a batch.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(200, 2))
    >>> found = measure_coverage(x, x, distance=lambda a, b: float(np.hypot(*(a - b))), n_batches=3)
    >>> 0.5 < found.coverage.value < 0.8
    True
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    _check_counts(n_batches=(n_batches, 1), batch_size=(batch_size, 1))
    if min(len(a), len(b)) < batch_size:
        msg = f"real and generated must hold a batch of {batch_size} events; found {len(a)} and {len(b)}"
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_batches):
        x, y = (sample[rng.choice(len(sample), batch_size, replace=False)] for sample in (a, b))
        found.append(coverage_and_mmd([[distance(u, v) for v in y] for u in x]))
    (coverage, mmd), (coverage_spread, mmd_spread) = np.mean(found, axis=0), np.std(found, axis=0)
    return Coverage(
        Distance(float(coverage), float(coverage_spread)), Distance(float(mmd), float(mmd_spread))
    )


def _sample(name: str, values: npt.ArrayLike, n_axes: int) -> FloatArray:
    x = np.asarray(values, np.float64)
    if x.ndim != n_axes or len(x) == 0 or not np.isfinite(x).all():
        msg = f"{name} must be finite, not empty and of {n_axes} axes; found shape {x.shape}, {int((~np.isfinite(x)).sum())} not finite"
        raise InputError(msg)
    return x


def _pair(real: npt.ArrayLike, generated: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    columns = []
    for name, values in (("real", real), ("generated", generated)):
        x = np.asarray(values, np.float64)
        columns.append(_sample(name, x[:, None] if x.ndim == 1 else x, 2))
    if columns[0].shape[1] != columns[1].shape[1]:
        msg = f"real and generated must have the same features; found {columns[0].shape[1]} and {columns[1].shape[1]}"
        raise InputError(msg)
    return columns[0], columns[1]


def _weights(name: str, weights: npt.ArrayLike | None, n: int) -> FloatArray | None:
    if weights is None:
        return None
    w = np.asarray(weights, np.float64)
    if w.shape != (n,) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        msg = f"{name} must be {n} numbers that are not negative and not all zero; found shape {w.shape}, sum {w.sum():g}"
        raise InputError(msg)
    return w


def _jet(name: str, jet: npt.ArrayLike) -> FloatArray:
    x = np.asarray(jet, np.float64)
    if x.ndim != 2 or x.shape[1] != 3 or not np.isfinite(x).all() or (x[:, 0] < 0).any():
        msg = f"{name} must be finite pT (not negative), eta, phi of shape (n_particles, 3); found shape {x.shape}"
        raise InputError(msg)
    return x[x[:, 0] > 0]


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, smallest) in counts.items():
        if value < smallest:
            msg = f"{name} must be at least {smallest}; found {value}"
            raise InputError(msg)
