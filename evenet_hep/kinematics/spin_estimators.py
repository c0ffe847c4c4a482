"""Polarisations and spin correlations of top pairs from the decay angles of their leptons.

With x = cos(l+, axis i), y = cos(l-, axis j) and analysing powers kappa, the angles follow

    (1/sigma) d^2 sigma / dx dy = 1/4 (1 + kappa+ B+_i x + kappa- B-_j y + kappa+ kappa- C_ij x y).

kappa is +1 for l+ and -1 for l- at leading order: particle and antiparticle analyse with opposite sign. C then has the
sign of the density matrix, -1 for a singlet; ``convention="cms"`` gives the opposite one
(:mod:`evenet_hep.kinematics.density_matrix`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.density_matrix import CONVENTIONS

FloatArray = npt.NDArray[np.float64]
Convention = Literal["density_matrix", "cms"]

KAPPAS = (1.0, -1.0)  # of l+ and l-


class Estimate(NamedTuple):
    """A measured coefficient.

    Parameters
    ----------
    value, uncertainty : float64 array
        The coefficient and its standard deviation; NaN without events.
    """

    value: FloatArray
    uncertainty: FloatArray


def joint_density(
    cos_plus: npt.ArrayLike,
    cos_minus: npt.ArrayLike,
    *,
    b_plus: npt.ArrayLike = 0.0,
    b_minus: npt.ArrayLike = 0.0,
    correlation: npt.ArrayLike = 0.0,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> FloatArray:
    """Probability density of two cosines, of integral 1 over [-1, 1] x [-1, 1].

    Parameters
    ----------
    cos_plus, cos_minus : array-like
        Cosines of l+ with one axis and of l- with one axis.
    b_plus, b_minus, correlation : array-like
        B+_i, B-_j and C_ij.
    kappas : tuple of two floats
        Analysing powers of l+ and l-.
    convention : str
        Sign of ``correlation``.

    Returns
    -------
    float64 array

    Examples
    --------
    >>> joint_density([1.0, 1.0], [1.0, -1.0], correlation=-0.5)
    array([0.375, 0.125])
    """
    x, y = np.asarray(cos_plus, np.float64), np.asarray(cos_minus, np.float64)
    power = _joint_power(kappas, convention)
    plus = kappas[0] * np.asarray(b_plus, np.float64) * x
    minus = kappas[1] * np.asarray(b_minus, np.float64) * y
    return np.asarray(0.25 * (1.0 + plus + minus + power * np.asarray(correlation, np.float64) * x * y))


def product_density(
    product: npt.ArrayLike,
    correlation: npt.ArrayLike,
    *,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> FloatArray:
    """Probability density -1/2 (1 + kappa+ kappa- C xi) ln|xi| of the product xi of two cosines on [-1, 1].

    Eq. 6 of the EveNet paper prints it as the density of the two cosines (:func:`joint_density`).

    Parameters
    ----------
    product : array-like
        xi = cos(l+, axis i) cos(l-, axis j).
    correlation : array-like
        C_ij.
    kappas, convention
        As for :func:`joint_density`.

    Returns
    -------
    float64 array
        Infinite at xi = 0, where it is integrable, and 0 outside [-1, 1].

    Examples
    --------
    >>> product_density([-np.exp(-1), np.exp(-1)], 0.0)
    array([0.5, 0.5])
    """
    xi = np.asarray(product, np.float64)
    power = _joint_power(kappas, convention)
    with np.errstate(divide="ignore"):
        density = -0.5 * (1.0 + power * np.asarray(correlation, np.float64) * xi) * np.log(np.abs(xi))
    return np.where(np.abs(xi) > 1.0, 0.0, density)


def product_bin_integrals(edges: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Exact bin probabilities of the product of two cosines: P = constant + kappa+ kappa- C slope.

    Parameters
    ----------
    edges : array-like, shape (n_bins + 1,)
        Ascending, within [-1, 1].

    Returns
    -------
    constant, slope : float64 array, shape (n_bins,)
        From the primitives F0 = x ln|x| - x and F1 = x^2/2 ln|x| - x^2/4 of ln|x| and x ln|x|.

    Raises
    ------
    ValueError
        For edges that do not ascend or leave [-1, 1].

    Examples
    --------
    >>> product_bin_integrals([-1.0, 0.0, 1.0])
    (array([0.5, 0.5]), array([-0.125,  0.125]))
    """
    x = np.asarray(edges, np.float64)
    if x.ndim != 1 or len(x) < 2 or not ((np.diff(x) > 0).all() and abs(x[0]) <= 1 and abs(x[-1]) <= 1):
        msg = f"edges of products of cosines must ascend within [-1, 1]; found {x}"
        raise ValueError(msg)
    log = np.log(np.abs(np.where(x == 0.0, 1.0, x)))  # x ln|x| is 0 at 0
    return -0.5 * np.diff(x * log - x), -0.5 * np.diff(x * x * (0.5 * log - 0.25))


def correlation_moment(
    cos_plus: npt.ArrayLike,
    cos_minus: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> Estimate:
    """C_ij as 9 <cos cos> / (kappa+ kappa-).

    Parameters
    ----------
    cos_plus, cos_minus : array-like, shape (..., n_events)
        Cosines of l+ with axis i and of l- with axis j, broadcast against each other:
        ``correlation_moment(angles.cos_plus[:, None], angles.cos_minus[None, :])`` is the whole matrix. A NaN makes
        the result NaN: choose the valid events first.
    weights : array-like, shape (n_events,), optional
        Event weights.
    kappas, convention
        As for :func:`joint_density`.

    Returns
    -------
    Estimate
        Arrays of shape (...); the uncertainty is that of a weighted mean, 3 / sqrt(n_events) for small C.

    Examples
    --------
    >>> estimate = correlation_moment([1.0, 0.5, -0.5], [-0.5, -0.5, 0.5])
    >>> f"{estimate.value:.2f} +- {estimate.uncertainty:.2f}"
    '3.00 +- 0.61'
    """
    product = np.asarray(cos_plus, np.float64) * np.asarray(cos_minus, np.float64)
    return _scaled_mean(product, weights, 9.0 / _joint_power(kappas, convention))


def correlation_asymmetry(
    cos_plus: npt.ArrayLike,
    cos_minus: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> Estimate:
    """C_ij as 4 A / (kappa+ kappa-), with the asymmetry A of positive and negative products of cosines.

    Parameters
    ----------
    cos_plus, cos_minus, weights, kappas, convention
        As for :func:`correlation_moment`.

    Returns
    -------
    Estimate
        Arrays of shape (...); the uncertainty is about 4 / sqrt(n_events).

    Examples
    --------
    >>> estimate = correlation_asymmetry([1.0, 0.5, -0.5, 0.1], [-0.5, -0.5, 0.5, 0.1])
    >>> f"{estimate.value:.2f} +- {estimate.uncertainty:.2f}"
    '2.00 +- 1.73'
    """
    sign = np.sign(np.asarray(cos_plus, np.float64) * np.asarray(cos_minus, np.float64))
    return _scaled_mean(sign, weights, 4.0 / _joint_power(kappas, convention))


def polarization_moment(
    cosine: npt.ArrayLike, *, kappa: float, weights: npt.ArrayLike | None = None
) -> Estimate:
    """B as 3 <cos> / kappa.

    Parameters
    ----------
    cosine : array-like, shape (..., n_events)
        Cosines of one lepton with an axis.
    kappa : float
        Analysing power: ``KAPPAS[0]`` for l+, ``KAPPAS[1]`` for l-.
    weights : array-like, shape (n_events,), optional
        Event weights.

    Returns
    -------
    Estimate
        Arrays of shape (...).

    Examples
    --------
    >>> estimate = polarization_moment([0.2, -0.1, 0.4, -0.1], kappa=-1.0)
    >>> f"{estimate.value:.2f} +- {estimate.uncertainty:.2f}"
    '-0.30 +- 0.32'
    """
    return _scaled_mean(np.asarray(cosine, np.float64), weights, 3.0 / kappa)


def d_std_moment(
    cos_phi: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
) -> Estimate:
    """D = tr C / 3 of Afik and de Nova as 3 <cos phi> / (kappa+ kappa-), in the sign of the density matrix.

    Parameters
    ----------
    cos_phi : array-like, shape (..., n_events)
        Cosines between the leptons in the rest frames of their parents.
    weights : array-like, shape (n_events,), optional
        Event weights.
    kappas : tuple of two floats
        Analysing powers of l+ and l-.

    Returns
    -------
    Estimate
        Arrays of shape (...); entangled below -1/3.

    Examples
    --------
    >>> estimate = d_std_moment([0.5, 0.2, -0.1, 0.2])
    >>> f"{estimate.value:.2f} +- {estimate.uncertainty:.2f}"
    '-0.60 +- 0.32'
    """
    return _scaled_mean(np.asarray(cos_phi, np.float64), weights, 3.0 / (kappas[0] * kappas[1]))


def correlation_histogram_moment(
    counts: npt.ArrayLike,
    edges: npt.ArrayLike,
    *,
    variances: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> Estimate:
    """C_ij as :func:`correlation_moment` from a histogram of products, every event at the centre of its bin.

    Parameters
    ----------
    counts : array-like, shape (n_bins,)
        Contents of the histogram.
    edges : array-like, shape (n_bins + 1,)
        Its edges, ascending.
    variances : array-like, shape (n_bins,), optional
        Of the contents; the contents themselves (Poisson) by default.
    kappas, convention
        As for :func:`joint_density`.

    Returns
    -------
    Estimate
        The centres cost a bias of 1e-4 of C with 20 bins.

    Examples
    --------
    >>> estimate = correlation_histogram_moment([10, 30, 20], [-1.0, -0.5, 0.5, 1.0])
    >>> f"{estimate.value:.3f} +- {estimate.uncertainty:.3f}"
    '-1.125 +- 0.599'
    """
    n, variance = np.asarray(counts, np.float64), np.asarray(counts if variances is None else variances)
    x = np.asarray(edges, np.float64)
    centers = (x[:-1] + x[1:]) / 2
    scale = 9.0 / _joint_power(kappas, convention)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (n * centers).sum() / n.sum()
        spread = np.sqrt((variance * (centers - mean) ** 2).sum()) / n.sum()
    return Estimate(np.asarray(scale * mean), np.asarray(abs(scale) * spread))


def correlation_likelihood(
    counts: npt.ArrayLike,
    edges: npt.ArrayLike,
    *,
    variances: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> Estimate:
    """C_ij of greatest likelihood for a histogram of products, with exact bin integrals.

    The log likelihood sum n_b ln P_b is concave in C, so its maximum is the only zero of a falling function.

    Parameters
    ----------
    counts : array-like, shape (n_bins,)
        Contents of the histogram, not negative.
    edges : array-like, shape (n_bins + 1,)
        From -1 to 1, ascending.
    variances : array-like, shape (n_bins,), optional
        Of the contents, for weighted events; the contents themselves (Poisson) by default.
    kappas, convention
        As for :func:`joint_density`.

    Returns
    -------
    Estimate
        C may leave [-1, 1] as far as no bin, filled or empty, gets a negative probability (to +-1.07 with 20 bins);
        the maximum may lie at that end. The uncertainty is that of the curvature. NaN if
        no filled bin depends on C, as in an empty histogram.

    Raises
    ------
    ValueError
        For negative contents, lengths that do not fit, or edges that do not reach from -1 to 1.

    Examples
    --------
    >>> estimate = correlation_likelihood([300, 200], [-1.0, 0.0, 1.0])
    >>> f"{estimate.value:.3f} +- {estimate.uncertainty:.3f}"
    '0.800 +- 0.175'
    """
    constant, slope = product_bin_integrals(edges)
    if not (np.isclose(np.asarray(edges)[[0, -1]], [-1.0, 1.0], rtol=0, atol=1e-9)).all():
        msg = f"edges must reach from -1 to 1; found {np.asarray(edges)[0]} to {np.asarray(edges)[-1]}"
        raise ValueError(msg)
    n = _contents("counts", counts, len(constant))
    variance = n if variances is None else _contents("variances", variances, len(constant))
    power = _joint_power(kappas, convention)
    if not slope[n > 0].any():
        return Estimate(np.asarray(np.nan), np.asarray(np.nan))
    best = _likelihood_maximum(n, constant, slope)
    filled = n > 0
    weight = (slope[filled] / (constant[filled] + best * slope[filled])) ** 2
    uncertainty = np.sqrt((variance[filled] * weight).sum()) / (n[filled] * weight).sum()
    return Estimate(np.asarray(best / power), np.asarray(uncertainty / abs(power)))


def _likelihood_maximum(n: FloatArray, u: FloatArray, v: FloatArray) -> float:
    """The c of greatest sum n ln(u + c v) with no u + c v negative, by Newton steps that stay inside a bracket."""
    low, high = float((-u[v > 0] / v[v > 0]).max()), float((-u[v < 0] / v[v < 0]).min())
    n, u, v = n[n > 0], u[n > 0], v[n > 0]
    c = 0.0
    for _ in range(200):  # halving alone would need 60
        ratio = v / (u + c * v)
        score = (n * ratio).sum()
        low, high = (c, high) if score > 0 else (low, c)
        following = c + score / (n * ratio * ratio).sum()
        if not low <= following <= high:
            following = (low + high) / 2
        if abs(following - c) <= 1e-15 * max(1.0, abs(c)):
            break
        c = following
    return float(following)


def _contents(name: str, values: npt.ArrayLike, n_bins: int) -> FloatArray:
    contents = np.asarray(values, np.float64)
    if contents.shape != (n_bins,) or not (np.isfinite(contents) & (contents >= 0)).all():
        msg = f"{name} must be {n_bins} numbers that are not negative; found {contents}"
        raise ValueError(msg)
    return contents


def _scaled_mean(values: FloatArray, weights: npt.ArrayLike | None, scale: float) -> Estimate:
    """``scale`` times the weighted mean over the last axis, with sqrt(sum w^2 (x - mean)^2) / sum w for its error."""
    w = np.ones(values.shape[-1]) if weights is None else np.asarray(weights, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = w.sum(axis=-1)
        mean = (w * values).sum(axis=-1) / total
        spread = np.sqrt((w * w * (values - np.asarray(mean)[..., None]) ** 2).sum(axis=-1)) / np.abs(total)
    return Estimate(np.asarray(scale * mean), np.asarray(abs(scale) * spread))


def _joint_power(kappas: tuple[float, float], convention: str) -> float:
    """What stands before C x y: kappa+ kappa-, with the sign of the convention."""
    if convention not in CONVENTIONS:
        msg = f"convention must be one of {', '.join(CONVENTIONS)}; found {convention!r}"
        raise ValueError(msg)
    power = kappas[0] * kappas[1]
    return -power if convention == "cms" else power
