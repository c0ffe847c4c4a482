"""Polarisations and spin correlations of top pairs with their full covariance: moments, asymmetries, likelihood.

The fifteen coefficients stand in one order everywhere, :data:`COEFFICIENTS`: B+ along k, r, n, then B-, then C by rows.
An estimator is described by its influence: the shift psi_e of the fifteen numbers that event e causes. Their covariance
is sum_e psi_e psi_e^T, with event weights or without, and correlations between coefficients from the same events
come along.

The sign convention of C is part of every result; see :mod:`evenet_hep.kinematics.density_matrix`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy.special import xlogy

from evenet_hep.errors import InputError
from evenet_hep.kinematics.density_matrix import CONVENTIONS
from evenet_hep.kinematics.spin import AXES, KAPPAS, Convention, product_bin_integrals
from evenet_hep.stats.linear_density import (
    allowed_range,
    maximize_linear,
    score_ratio,
)

FloatArray = npt.NDArray[np.float64]
Method = Literal["moment", "asymmetry", "likelihood"]

METHODS: tuple[Method, ...] = ("moment", "asymmetry", "likelihood")
COEFFICIENTS = (
    *(f"B+_{i}" for i in AXES),
    *(f"B-_{i}" for i in AXES),
    *(f"C_{i}{j}" for i in AXES for j in AXES),
)
EDGES = np.linspace(-1.0, 1.0, 21)


class SpinCoefficients(NamedTuple):
    """Polarisations and spin correlations with everything needed to interpret them.

    Parameters
    ----------
    b_plus, b_minus : float64 array, shape (3,)
        Polarisations of the top and of the antitop along k, r, n.
    correlation : float64 array, shape (3, 3)
        C_ij, rows for the axes of the top, columns for those of the antitop.
    covariance : float64 array, shape (15, 15)
        Of the coefficients in the order of :data:`COEFFICIENTS`.
    convention : str
        Sign of ``correlation``: ``"density_matrix"`` (singlet -1) or ``"cms"`` (singlet +1).
    method : str
        How they were measured: ``"moment"``, ``"asymmetry"``, ``"likelihood"``, or ``"given"``.
    n_events : int
        Events used; 0 if the numbers were given.
    n_effective : float
        (sum w)^2 / sum w^2.
    minuit : iminuit.Minuit or None
        Of the likelihood, else None. Its cost is the sum of the fifteen; correlations between them are in
        ``covariance`` only, as Minuit does not know that the same events enter each.
    """

    b_plus: FloatArray
    b_minus: FloatArray
    correlation: FloatArray
    covariance: FloatArray
    convention: Convention
    method: str
    n_events: int
    n_effective: float
    minuit: Minuit | None

    @property
    def vector(self) -> FloatArray:
        """The fifteen numbers in the order of :data:`COEFFICIENTS`."""
        return np.concatenate([self.b_plus, self.b_minus, self.correlation.ravel()])

    @property
    def uncertainty(self) -> FloatArray:
        """Standard deviations in the order of :data:`COEFFICIENTS`."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def sigma_correlation(self) -> FloatArray:
        """Standard deviations of C, shape (3, 3)."""
        return self.uncertainty[6:].reshape(3, 3)

    def in_convention(self, convention: Convention) -> SpinCoefficients:
        """The same measurement with the sign of C of another convention.

        Parameters
        ----------
        convention : str

        Returns
        -------
        SpinCoefficients
            ``minuit`` stays as it was fitted.
        """
        check_convention(convention)
        if convention == self.convention:
            return self
        sign = np.where(np.arange(15) < 6, 1.0, -1.0)
        return self._replace(
            correlation=-self.correlation,
            covariance=sign[:, None] * self.covariance * sign,
            convention=convention,
        )


def spin_coefficients(
    correlation: npt.ArrayLike,
    *,
    convention: Convention,
    covariance: npt.ArrayLike | None = None,
    sigma: npt.ArrayLike | None = None,
    b_plus: npt.ArrayLike = (0.0, 0.0, 0.0),
    b_minus: npt.ArrayLike = (0.0, 0.0, 0.0),
) -> SpinCoefficients:
    """Coefficients measured elsewhere, ready for :func:`~evenet_hep.stats.entanglement.entanglement`.

    Parameters
    ----------
    correlation : array-like, shape (3, 3)
        C_ij with axes in the order k, r, n.
    convention : str
        Sign of ``correlation``. It has no default, because nothing in the numbers tells it.
    covariance : array-like, shape (9, 9) or (15, 15), optional
        Of C by rows, or of all :data:`COEFFICIENTS`.
    sigma : array-like, shape (3, 3), optional
        Standard deviations of C taken as uncorrelated, if no ``covariance`` is known.
    b_plus, b_minus : array-like, shape (3,)
        Polarisations.

    Returns
    -------
    SpinCoefficients
        Without ``covariance`` and ``sigma`` every uncertainty is 0.

    Raises
    ------
    InputError
        For other shapes, an unknown convention, or both ``covariance`` and ``sigma``.

    Examples
    --------
    >>> given = spin_coefficients(np.eye(3), convention="cms", sigma=np.full((3, 3), 0.1))
    >>> given.in_convention("density_matrix").correlation[0, 0]
    np.float64(-1.0)
    """
    check_convention(convention)
    c, plus, minus = (np.asarray(a, np.float64) for a in (correlation, b_plus, b_minus))
    if c.shape != (3, 3) or plus.shape != (3,) or minus.shape != (3,):
        msg = f"correlation must be 3 x 3, b_plus and b_minus 3 long; found shapes {c.shape}, {plus.shape}, {minus.shape}"
        raise InputError(msg)
    if covariance is not None and sigma is not None:
        msg = "give covariance or sigma, not both; found both"
        raise InputError(msg)
    full = np.zeros((15, 15))
    if sigma is not None:
        full[6:, 6:] = np.diag(_shaped("sigma", sigma, ((3, 3),)).ravel() ** 2)
    if covariance is not None:
        given = _shaped("covariance", covariance, ((9, 9), (15, 15)))
        full[15 - len(given) :, 15 - len(given) :] = given
    return SpinCoefficients(plus, minus, c, full, convention, "given", 0, 0.0, None)


def measure_spin(
    cos_plus: npt.ArrayLike,
    cos_minus: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    method: Method = "moment",
    edges: npt.ArrayLike = EDGES,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> SpinCoefficients:
    """Both polarisations and the spin correlations of top pairs, with their covariance.

    Parameters
    ----------
    cos_plus, cos_minus : array-like, shape (3, n_events)
        Cosines of l+ and l- with the axes k, r, n, as :func:`~evenet_hep.kinematics.spin.spin_angles` gives them; of
        the valid events only.
    weights : array-like, shape (n_events,), optional
        Event weights. Negative ones are fine as long as the sum (for the likelihood: every bin) is positive.
    method : str
        ``"moment"``: B = 3 <cos> / kappa, C = 9 <cos cos> / (kappa+ kappa-); the smallest uncertainty.
        ``"asymmetry"``: B = 2 A / kappa, C = 4 A / (kappa+ kappa-) with the asymmetry A of positive and negative
        values. ``"likelihood"``: maximum of the binned likelihood of each distribution, with exact bin integrals.
    edges : array-like, shape (n_bins + 1,)
        From -1 to 1, for the likelihood.
    kappas : tuple of two floats
        Analysing powers of l+ and l-.
    convention : str
        Sign the result's ``correlation`` shall have.

    Returns
    -------
    SpinCoefficients

    Raises
    ------
    InputError
        Without events, for weights that sum to nothing, cosines that are NaN or beyond 1, negative bins or bins that
        do not depend on a coefficient (likelihood), or options that do not exist.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> cosines = rng.uniform(-1, 1, (2, 3, 10_000))
    >>> found = measure_spin(*cosines)
    >>> found.sigma_correlation.round(3)[0], found.convention
    (array([0.03, 0.03, 0.03]), 'density_matrix')
    """
    plus, minus, w = checked_events(cos_plus, cos_minus, weights)
    check_convention(convention)
    if method not in METHODS:
        msg = f"method must be one of {', '.join(METHODS)}; found {method!r}"
        raise InputError(msg)
    observables = spin_observables(plus, minus)  # (15, E)
    powers = density_powers(kappas, convention)
    if method == "likelihood":
        values, influence, minuit = _likelihood(observables, w, np.asarray(edges, np.float64), powers)
    else:
        scale = mean_scales(powers, method)
        numbers = observables if method == "moment" else np.sign(observables)
        means = numbers @ w / w.sum()
        values, minuit = scale * means, None
        influence = scale[:, None] * (numbers - means[:, None]) / w.sum()
    weighted = influence * w
    n_effective = float(w.sum() ** 2 / (w * w).sum())
    return SpinCoefficients(
        values[:3],
        values[3:6],
        values[6:].reshape(3, 3),
        weighted @ weighted.T,
        convention,
        method,
        len(w),
        n_effective,
        minuit,
    )


def checked_events(
    cos_plus: npt.ArrayLike, cos_minus: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cosines of shape (3, n_events) and weights (n_events,), or an InputError that says what is wrong."""
    plus, minus = np.asarray(cos_plus, np.float64), np.asarray(cos_minus, np.float64)
    if plus.ndim != 2 or len(plus) != 3 or plus.shape != minus.shape:
        msg = (
            f"cos_plus and cos_minus must both have shape (3, n_events); found {plus.shape} and {minus.shape}"
        )
        raise InputError(msg)
    n_events = plus.shape[1]
    if n_events == 0:
        msg = "spin coefficients need at least one event; found none"
        raise InputError(msg)
    w = np.ones(n_events) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (n_events,) or not np.isfinite(w).all():
        msg = f"weights must be {n_events} finite numbers; found shape {w.shape} with {int((~np.isfinite(w)).sum())} not finite"
        raise InputError(msg)
    outside = int((~((np.abs(plus) <= 1) & (np.abs(minus) <= 1)).all(axis=0)).sum())
    if outside:
        msg = f"cosines must lie in [-1, 1]: hand over valid events only; {outside} of {n_events} are NaN or outside"
        raise InputError(msg)
    if not w.sum() > 0:
        msg = f"the weights must have a positive sum; found {w.sum():g}"
        raise InputError(msg)
    return plus, minus, w


def spin_observables(cos_plus: FloatArray, cos_minus: FloatArray) -> FloatArray:
    """What the coefficients are averages of: cosines of l+, of l-, and their products, shape (15, n_events)."""
    products = cos_plus[:, None] * cos_minus[None, :]
    return np.concatenate([cos_plus, cos_minus, products.reshape(9, -1)])


def mean_scales(powers: FloatArray, method: str) -> FloatArray:
    """Coefficient per mean (of the observable or of its sign), shape (15,)."""
    return np.repeat([3.0, 9.0] if method == "moment" else [2.0, 4.0], [6, 9]) / powers


def bin_integrals(edges: FloatArray, powers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Exact P_b = u_b + coefficient v_b of the fifteen distributions, each of shape (15, n_bins)."""
    check_edges(edges)
    x = np.clip(edges, -1.0, 1.0)
    constant, slope = product_bin_integrals(x)
    flat, tilted = np.diff(x) / 2, np.diff(x * x) / 4
    u = np.repeat([flat, constant], [6, 9], axis=0)
    v = np.repeat([tilted, slope], [6, 9], axis=0)
    return u, powers[:, None] * v


def bin_indices(observables: FloatArray, edges: FloatArray) -> npt.NDArray[np.intp]:
    """Bin of each value; the last bin includes its upper edge."""
    return np.clip(np.searchsorted(edges, observables, side="right") - 1, 0, len(edges) - 2)


def _likelihood(
    observables: FloatArray, w: FloatArray, edges: FloatArray, powers: FloatArray
) -> tuple[FloatArray, FloatArray, Minuit]:
    """Fifteen likelihoods, the influence of every event on their maxima (15, E), and their sum in Minuit."""
    u, v = bin_integrals(edges, powers)
    bins = bin_indices(observables, edges)
    n, variance = (
        np.stack([np.bincount(row, weights=x, minlength=len(edges) - 1) for row in bins]) for x in (w, w * w)
    )
    if (n < 0).any():
        msg = f"the likelihood needs bins that are not negative; found {n.min():g}: use method='moment'"
        raise InputError(msg)
    best = maximize_linear(n, u, v)
    if np.isnan(best).any():
        blind = ", ".join(name for name, c in zip(COEFFICIENTS, best, strict=True) if np.isnan(c))
        msg = f"no filled bin depends on {blind}: finer edges are needed; found {len(edges) - 1} bins"
        raise InputError(msg)
    ratio = score_ratio(best, u, v)
    information = (n * ratio**2).sum(axis=-1)
    influence = np.take_along_axis(ratio, bins, axis=1) / information[:, None]
    scale = information / (variance * ratio**2).sum(axis=-1)
    return best, influence, _joint_minuit(n * scale[:, None], u, v, best)


def _joint_minuit(n: FloatArray, u: FloatArray, v: FloatArray, best: FloatArray) -> Minuit:
    def cost(c: FloatArray) -> float:
        return -float(xlogy(n, np.maximum(u + np.asarray(c)[:, None] * v, 1e-300)).sum())

    def gradient(c: FloatArray) -> FloatArray:
        return -np.asarray((n * score_ratio(np.asarray(c), u, v)).sum(axis=-1))

    minuit = Minuit(cost, best, grad=gradient, name=COEFFICIENTS)
    minuit.errordef = Minuit.LIKELIHOOD
    for name, constant, slope in zip(COEFFICIENTS, u, v, strict=True):
        minuit.limits[name] = allowed_range(constant, slope)
    return minuit.migrad()


def density_powers(kappas: tuple[float, float], convention: str) -> FloatArray:
    """Factor before each coefficient in its density, shape (15,)."""
    if not all(np.isfinite(kappas)) or 0.0 in kappas:
        msg = f"kappas must be two numbers other than 0; found {kappas}"
        raise InputError(msg)
    sign = -1.0 if convention == "cms" else 1.0
    return np.repeat([kappas[0], kappas[1], sign * kappas[0] * kappas[1]], [3, 3, 9])


def check_convention(convention: str) -> None:
    """InputError for a sign convention that does not exist."""
    if convention not in CONVENTIONS:
        msg = f"convention must be one of {', '.join(CONVENTIONS)}; found {convention!r}"
        raise InputError(msg)


def check_edges(edges: FloatArray) -> None:
    """InputError for edges that do not ascend from -1 to 1."""
    good = edges.ndim == 1 and len(edges) >= 2 and bool((np.diff(edges) > 0).all())
    if not (good and np.allclose(edges[[0, -1]], [-1.0, 1.0], rtol=0, atol=1e-9)):
        msg = f"edges of cosines must ascend from -1 to 1; found {edges}"
        raise InputError(msg)


def _shaped(name: str, values: npt.ArrayLike, shapes: tuple[tuple[int, ...], ...]) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.shape not in shapes or not np.isfinite(array).all():
        msg = f"{name} must be finite and of shape {' or '.join(map(str, shapes))}; found shape {array.shape}"
        raise InputError(msg)
    return array
