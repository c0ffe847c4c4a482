"""Bootstrap of spin coefficients: the measurement repeated on events drawn with replacement.

The total fluctuates, as it does in an experiment: every event enters a replica a Poisson(1) number of times. Counts of
a thousand replicas times a block of events form one matrix, and all sums that an estimator needs are one product with
it, so a million events take seconds per estimator rather than a thousand passes over the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson

from evenet_hep.errors import InputError
from evenet_hep.kinematics.spin import KAPPAS, Convention
from evenet_hep.stats.entanglement import Entanglement, Quantity, spin_quantities, summarize
from evenet_hep.stats.linear_density import maximize_linear
from evenet_hep.stats.spin_coefficients import (
    EDGES,
    Method,
    SpinCoefficients,
    bin_indices,
    bin_integrals,
    checked_events,
    density_powers,
    mean_scales,
    measure_spin,
    spin_observables,
)

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]

BLOCK = 1024  # events per matrix product: counts of 1000 replicas then stay near the processor
LEVELS = 1 << 16
INTERVAL = (15.865525393145708, 84.13447460685429)  # percent: one standard deviation each way


class SpinBootstrap(NamedTuple):
    """A measurement and its repetitions.

    Parameters
    ----------
    coefficients : SpinCoefficients
        Of the events themselves.
    replicas : float64 array, shape (n_replicas, 15)
        Of the replicas, in the order of :data:`~evenet_hep.stats.spin_coefficients.COEFFICIENTS`; NaN where a replica
        held nothing to measure.
    covariance : float64 array, shape (15, 15)
        Of the replicas.
    """

    coefficients: SpinCoefficients
    replicas: FloatArray
    covariance: FloatArray


def bootstrap_spin(
    cos_plus: npt.ArrayLike,
    cos_minus: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    method: Method = "moment",
    edges: npt.ArrayLike = EDGES,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
    n_replicas: int = 1000,
    seed: int = 0,
) -> SpinBootstrap:
    """Spin coefficients with replicas of the whole measurement.

    Parameters
    ----------
    cos_plus, cos_minus, weights, method, edges, kappas, convention
        As for :func:`~evenet_hep.stats.spin_coefficients.measure_spin`.
    n_replicas : int
        At least 2. The relative error of an uncertainty is 1 / sqrt(2 n_replicas).
    seed : int
        The same seed gives the same replicas.

    Returns
    -------
    SpinBootstrap

    Raises
    ------
    InputError
        As for ``measure_spin``, and for fewer than two replicas.

    Examples
    --------
    >>> cosines = np.random.default_rng(1).uniform(-1, 1, (2, 3, 10_000))
    >>> boot = bootstrap_spin(*cosines, n_replicas=400)
    >>> bool(abs(np.sqrt(boot.covariance[6, 6]) / boot.coefficients.sigma_correlation[0, 0] - 1) < 0.15)
    True
    """
    if n_replicas < 2:
        msg = f"n_replicas must be at least 2; found {n_replicas}"
        raise InputError(msg)
    nominal = measure_spin(
        cos_plus,
        cos_minus,
        weights=weights,
        method=method,
        edges=edges,
        kappas=kappas,
        convention=convention,
    )
    events = checked_events(cos_plus, cos_minus, weights)
    powers = density_powers(kappas, convention)
    if method == "likelihood":
        bins = np.asarray(edges, np.float64)
        sums = _poisson_sums(_bin_features(*events, bins), n_replicas, seed)
        # Negative weights may leave a bin of a replica below zero where the measurement's own is not.
        n = np.maximum(sums.reshape(n_replicas, 15, len(bins) - 1), 0.0)
        replicas = maximize_linear(n, *bin_integrals(bins, powers))
    else:
        sums = _poisson_sums(_mean_features(*events, method), n_replicas, seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            replicas = mean_scales(powers, method) * sums[:, :-1] / sums[:, -1:]
        replicas[sums[:, -1] <= 0] = np.nan
    measured = replicas[np.isfinite(replicas).all(axis=1)]
    covariance = np.cov(measured, rowvar=False) if len(measured) > 1 else np.full((15, 15), np.nan)
    return SpinBootstrap(nominal, replicas, covariance)


def bootstrap_entanglement(bootstrap: SpinBootstrap) -> Entanglement:
    """Markers of entanglement, concurrence, PPT and CHSH with uncertainties from replicas.

    Parameters
    ----------
    bootstrap : SpinBootstrap

    Returns
    -------
    Entanglement
        Uncertainties are standard deviations of the replicas. Intervals are the replicas' quantiles at 15.9 and 84.1 %
        reflected at the value (the basic bootstrap), so that a bias shifts them down by its size, not up.
        ``delta_d_published`` takes the bootstrap's standard deviations of C.

    Raises
    ------
    InputError
        If fewer than two replicas could be measured.

    Examples
    --------
    >>> cosines = np.random.default_rng(1).uniform(-1, 1, (2, 3, 10_000))
    >>> result = bootstrap_entanglement(bootstrap_spin(*cosines, n_replicas=200))
    >>> result.entangled, result.concurrence.value  # isotropic leptons: no correlation, so no entanglement
    (False, 0.0)
    """
    replicas = bootstrap.replicas[np.isfinite(bootstrap.replicas).all(axis=1)]
    if len(replicas) < 2:
        msg = f"uncertainties need at least two replicas that could be measured; found {len(replicas)}"
        raise InputError(msg)
    coefficients = bootstrap.coefficients
    values = spin_quantities(coefficients.vector, coefficients.convention)
    repeated = spin_quantities(replicas, coefficients.convention)  # (7, n_replicas)
    low, high = np.percentile(repeated, INTERVAL, axis=1)
    sigma, bias = repeated.std(axis=1, ddof=1), repeated.mean(axis=1) - values
    columns = (values, sigma, 2 * values - high, 2 * values - low, bias)
    quantities = [Quantity(*map(float, row)) for row in zip(*columns, strict=True)]
    return summarize(coefficients._replace(covariance=bootstrap.covariance), quantities)


def _mean_features(
    cos_plus: FloatArray, cos_minus: FloatArray, w: FloatArray, method: str
) -> Iterator[SingleArray]:
    """Blocks of what the means are sums of, and the weights: shape (block, 16)."""
    for start in range(0, len(w), BLOCK):
        block = slice(start, start + BLOCK)
        observables = spin_observables(cos_plus[:, block], cos_minus[:, block])
        numbers = observables if method == "moment" else np.sign(observables)
        yield (np.concatenate([numbers, np.ones((1, numbers.shape[1]))]) * w[block]).T.astype(np.float32)


def _bin_features(
    cos_plus: FloatArray, cos_minus: FloatArray, w: FloatArray, edges: FloatArray
) -> Iterator[SingleArray]:
    """Blocks of weights, each in the column of its bin: shape (block, 15 n_bins)."""
    n_bins = len(edges) - 1
    for start in range(0, len(w), BLOCK):
        block = slice(start, start + BLOCK)
        bins = bin_indices(spin_observables(cos_plus[:, block], cos_minus[:, block]), edges).T
        columns = np.zeros((len(bins), 15 * n_bins), np.float32)
        rows = np.arange(len(bins))[:, None]
        columns[rows, bins + n_bins * np.arange(15)] = w[block, None]
        yield columns


def _poisson_sums(features: Iterator[SingleArray], n_replicas: int, seed: int) -> FloatArray:
    """Sums over events of Poisson(1) counts times features, shape (n_replicas, n_features).

    The products run in single precision, within blocks of a thousand events; blocks are added in double precision.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    counts = _poisson_table()
    total: FloatArray | float = 0.0
    for block in features:
        levels = rng.integers(0, LEVELS, size=(n_replicas, len(block)), dtype=np.uint16)
        total = total + (counts[levels] @ block).astype(np.float64)
    return np.asarray(total)


def _poisson_table() -> SingleArray:
    """Poisson(1) counts for 2^16 equally likely levels.

    Rounded so that the mean is exactly 1; the variance is 1 within 1e-4 and counts beyond 8, of probability 1e-6,
    do not occur.
    """
    edges = np.rint(poisson.cdf(np.arange(9), 1.0) * LEVELS).astype(int)
    table = np.searchsorted(edges, np.arange(LEVELS), side="right")
    # Each level moved from 0 to 1 adds one.
    missing = LEVELS - int(table.sum())
    table[np.flatnonzero(table == (0 if missing > 0 else 1))[: abs(missing)]] += 1 if missing > 0 else -1
    return table.astype(np.float32)
