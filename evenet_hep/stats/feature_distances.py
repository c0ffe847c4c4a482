"""Distances of real and generated events in many features at once: Frechet, kernel (MMD).

Both are dominated by the widest feature: bring features to a common scale first, as :func:`standardize` does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.generation import Distance

FloatArray = npt.NDArray[np.float64]


def standardize(real: npt.ArrayLike, generated: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both samples in units of the real one's standard deviations, about its means.

    Parameters
    ----------
    real, generated : array-like, shape (n, n_features)

    Returns
    -------
    real, generated : float64 array, shape (n, n_features)
        A feature in which all real events agree is only shifted.

    Raises
    ------
    InputError
        For samples of fewer than two events, with other features, or not finite.

    Examples
    --------
    >>> standardize([[0.0, 10.0], [2.0, 30.0]], [[1.0, 40.0]])[1]
    array([[0., 2.]])
    """
    a, b = _features(real, generated, smallest=1)
    scale = a.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (a - a.mean(axis=0)) / scale, (b - a.mean(axis=0)) / scale


def frechet_distance(real: npt.ArrayLike, generated: npt.ArrayLike) -> float:
    """Squared Wasserstein-2 distance of the Gaussians with the samples' means and covariances (FID, FPD).

    Parameters
    ----------
    real, generated : array-like, shape (n, n_features) or (n,)

    Returns
    -------
    float
        ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. Biased upwards by about n_features / n:
        :func:`frechet_distance_at_infinity` takes the bias off.

    Raises
    ------
    InputError
        For samples of fewer than two events, with other features, or not finite.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(1000, 3))
    >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + [0.5, 0, 0]), 6)
    (0.0, 0.25)
    """
    a, b = _features(real, generated, smallest=2)
    s1, s2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # The eigenvalues of S1 S2 are those of the symmetric S1^(1/2) S2 S1^(1/2).
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0.0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(max(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * overlap, 0.0))


def frechet_distance_at_infinity(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    smallest: int = 5_000,
    largest: int = 50_000,
    n_sizes: int = 10,
    n_batches: int = 20,
    seed: int = 0,
) -> Distance:
    """Frechet distance extrapolated to infinite samples (FPD of arXiv:2211.10295).

    Parameters
    ----------
    real, generated : array-like, shape (n, n_features) or (n,)
    smallest, largest : int
        Sizes of batches, drawn with replacement; equally spaced in 1 / size. ``largest`` is cut to the samples' size.
    n_sizes, n_batches : int
        Number of sizes (from 2), and of batches per size (from 2).
    seed : int

    Returns
    -------
    Distance
        Intercept of a line in 1 / size, with its uncertainty from the scatter of the batches. May be slightly negative
        for equal distributions.

    Raises
    ------
    InputError
        As for :func:`frechet_distance`, and for sizes that do not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> a, b = rng.normal(size=(8000, 3)), rng.normal(size=(8000, 3)) + [0.5, 0, 0]
    >>> d = frechet_distance_at_infinity(a, b, smallest=1000, largest=8000)
    >>> bool(abs(d.value - 0.25) < 0.05)
    True
    """
    a, b = _features(real, generated, smallest=2)
    largest = min(largest, len(a), len(b))
    if not 2 <= smallest < largest or n_sizes < 2 or n_batches < 2:
        msg = f"sizes must rise from smallest to largest, with n_sizes and n_batches from 2; found {smallest}, {largest}, {n_sizes}, {n_batches}"
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    sizes = np.rint(1 / np.linspace(1 / smallest, 1 / largest, n_sizes)).astype(int)
    means, errors = [], []
    for size in sizes:
        found = [
            frechet_distance(a[rng.integers(0, len(a), size)], b[rng.integers(0, len(b), size)])
            for _ in range(n_batches)
        ]
        means.append(np.mean(found))
        errors.append(np.std(found, ddof=1) / np.sqrt(n_batches))
    weight = 1 / np.maximum(errors, 1e-300)
    design = weight[:, None] * np.stack([np.ones(n_sizes), 1 / sizes], axis=1)
    covariance = np.linalg.inv(design.T @ design)
    intercept = covariance @ design.T @ (weight * means)
    return Distance(float(intercept[0]), float(np.sqrt(covariance[0, 0])))


def kernel_distance(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    degree: int = 4,
    n_batches: int = 10,
    batch_size: int = 5_000,
    seed: int = 0,
) -> Distance:
    """Unbiased squared maximum mean discrepancy with the kernel (x y / n_features + 1)^degree (KPD, KID).

    Parameters
    ----------
    real, generated : array-like, shape (n, n_features) or (n,)
    degree : int
        Moments up to this order are compared.
    n_batches, batch_size : int
        Batches are drawn without replacement; ``batch_size`` is cut to the samples' size.
    seed : int

    Returns
    -------
    Distance
        Median of the batches and half their central 68.3 % range. About 0, of either sign, for equal distributions.

    Raises
    ------
    InputError
        As for :func:`frechet_distance`, and for counts out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> a, b = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3))
    >>> same, other = kernel_distance(a, b, batch_size=500), kernel_distance(a, b + 0.5, batch_size=500)
    >>> abs(same.value) < 0.1 * other.value
    True
    """
    a, b = _features(real, generated, smallest=2)
    size = min(batch_size, len(a), len(b))
    if degree < 1 or n_batches < 1 or size < 2:
        msg = f"degree and n_batches must be at least 1, batches at least 2; found {degree}, {n_batches}, {size}"
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_batches):
        x, y = (sample[rng.choice(len(sample), size, replace=False)] for sample in (a, b))
        found.append(_unbiased_mmd(x, y, degree))
    low, middle, high = np.percentile(found, [15.865525393145708, 50, 84.13447460685429])
    return Distance(float(middle), float((high - low) / 2))


def _unbiased_mmd(a: FloatArray, b: FloatArray, degree: int) -> float:
    def kernel(x: FloatArray, y: FloatArray) -> FloatArray:
        return np.asarray((x @ y.T / x.shape[1] + 1.0) ** degree)

    within = 0.0
    for x in (a, b):
        k = kernel(x, x)
        within += (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))
    return float(within - 2 * kernel(a, b).mean())


def _features(
    real: npt.ArrayLike, generated: npt.ArrayLike, *, smallest: int
) -> tuple[FloatArray, FloatArray]:
    samples = []
    for name, values in (("real", real), ("generated", generated)):
        x = np.asarray(values, np.float64)
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or len(x) < smallest or x.shape[1] == 0 or not np.isfinite(x).all():
            msg = f"{name} must be finite and of shape (n, n_features) with n from {smallest}; found shape {x.shape}, {int((~np.isfinite(x)).sum())} not finite"
            raise InputError(msg)
        samples.append(x)
    if samples[0].shape[1] != samples[1].shape[1]:
        msg = f"real and generated must have the same features; found {samples[0].shape[1]} and {samples[1].shape[1]}"
        raise InputError(msg)
    return samples[0], samples[1]
