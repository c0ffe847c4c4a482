"""Entanglement of top pairs from measured spin coefficients: every quantity with its uncertainty.

Two roads to the uncertainties. Propagation takes derivatives with the full covariance of the fifteen coefficients; it is
instant and right for smooth quantities. The bootstrap (:mod:`evenet_hep.stats.spin_bootstrap`) repeats the measurement;
it needs events, and stays right near the kinks at Ckk + Crr = 0 and at vanishing concurrence.

Four combinations are called D in the literature. Each has its own name here, and all stand in the result:

    d_paper   |Ckk + Crr| - Cnn      entangled above 1      EveNet paper, Eq. 7
    d_poster  -(Ckk + Crr + Cnn)     entangled above 1
    d_std     tr C / 3               entangled below -1/3   Afik and de Nova, ATLAS, CMS
    d_prime   |Ckk - Crr| + Cnn      entangled above 1      the two other Bell states
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics import density_matrix as dm
from evenet_hep.kinematics.spin import Convention
from evenet_hep.stats.spin_coefficients import SpinCoefficients

FloatArray = npt.NDArray[np.float64]

# Of the coefficients; central differences are then exact to 1e-10 for everything here.
STEP = 1e-5


class Quantity(NamedTuple):
    """A number with its uncertainty.

    Parameters
    ----------
    value : float
        From the measured coefficients.
    uncertainty : float
        Standard deviation.
    low, high : float
        Interval of 68.3 %, about the value less its bias: -+ uncertainty by propagation; by bootstrap the quantiles of
        the replicas, reflected at the value.
    bias : float
        How much higher the value is on average than the truth, to second order: curved quantities such as concurrence
        and CHSH, which noise in C can only raise, and D near its kink.
    """

    value: float
    uncertainty: float
    low: float
    high: float
    bias: float

    def above(self, threshold: float) -> float:
        """Standard deviations of value - bias above a threshold; negative below it.

        Parameters
        ----------
        threshold : float

        Returns
        -------
        float
            Infinite or NaN without uncertainty.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(self.value - self.bias - threshold, self.uncertainty))


class Entanglement(NamedTuple):
    """What measured spin coefficients say about entanglement.

    Parameters
    ----------
    d_paper, d_poster, d_std, d_prime : Quantity
        See the top of this module.
    delta_d : float
        sigma(``d_paper``) / (``d_paper`` - 1), the figure of merit as the EveNet paper's text defines it; negative
        where D < 1. Here sigma includes correlations; :func:`~evenet_hep.kinematics.density_matrix.delta_d` is
        without.
    delta_d_published : float
        The quantity printed under that name, which is another one and about half as large
        (:func:`~evenet_hep.kinematics.density_matrix.delta_d_published`). Never compare the two.
    concurrence : Quantity
        From 0 (separable) to 1. Its propagated uncertainty is NaN at 0, where it has no derivative.
    ppt : Quantity
        Lowest eigenvalue of the partial transpose; entangled below 0 (Peres-Horodecki, necessary and sufficient).
    chsh : Quantity
        Largest CHSH expectation value; local hidden variables allow at most 2.
    physical, entangled, bell_violated : bool
        Of the central values: no negative probability, ``ppt`` < 0, ``chsh`` > 2.
    convention : str
        Sign of the C that was handed over; the markers do not depend on it.
    coefficients : SpinCoefficients
        What all of this was computed from, with Minuit's object if it was fitted.
    """

    d_paper: Quantity
    d_poster: Quantity
    d_std: Quantity
    d_prime: Quantity
    delta_d: float
    delta_d_published: float
    concurrence: Quantity
    ppt: Quantity
    chsh: Quantity
    physical: bool
    entangled: bool
    bell_violated: bool
    convention: Convention
    coefficients: SpinCoefficients


QUANTITIES = ("d_paper", "d_poster", "d_std", "d_prime", "concurrence", "ppt", "chsh")


def entanglement(coefficients: SpinCoefficients) -> Entanglement:
    """Markers of entanglement, concurrence, PPT and CHSH with uncertainties by propagation.

    Parameters
    ----------
    coefficients : SpinCoefficients
        From :func:`~evenet_hep.stats.spin_coefficients.measure_spin`, or
        :func:`~evenet_hep.stats.spin_coefficients.spin_coefficients` for numbers from elsewhere. The sign convention
        of C comes with them.

    Returns
    -------
    Entanglement

    Examples
    --------
    >>> from evenet_hep.stats.spin_coefficients import spin_coefficients
    >>> c = spin_coefficients(np.diag([0.6, 0.3, 0.6]), sigma=np.full((3, 3), 0.01), convention="cms")
    >>> result = entanglement(c)
    >>> f"D = {result.d_paper.value:.2f} +- {result.d_paper.uncertainty:.3f}, {result.d_paper.above(1):.0f} sigma"
    'D = 1.50 +- 0.017, 29 sigma'
    >>> f"{result.delta_d:.4f}, concurrence {result.concurrence.value:.2f} +- {result.concurrence.uncertainty:.4f}"
    '0.0346, concurrence 0.25 +- 0.0087'
    """
    values = spin_quantities(coefficients.vector, coefficients.convention)
    sigma, bias = propagate(
        lambda vector: spin_quantities(vector, coefficients.convention),
        coefficients.vector,
        coefficients.covariance,
    )
    # Zero is where the concurrence is cut off: its derivative there says nothing about its uncertainty.
    cut_off = (np.array(QUANTITIES) == "concurrence") & (values == 0.0)
    sigma[cut_off] = np.nan
    center = values - bias
    columns = (values, sigma, center - sigma, center + sigma, bias)
    quantities = [Quantity(*map(float, row)) for row in zip(*columns, strict=True)]
    return summarize(coefficients, quantities)


def spin_quantities(vectors: npt.ArrayLike, convention: Convention) -> FloatArray:
    """The numbers named in :data:`QUANTITIES`, of one or of many sets of coefficients.

    Parameters
    ----------
    vectors : array-like, shape (..., 15)
        B+, B- and C in the order of :data:`~evenet_hep.stats.spin_coefficients.COEFFICIENTS`.
    convention : str
        Sign of C.

    Returns
    -------
    float64 array, shape (7, ...)

    Examples
    --------
    >>> singlet = np.concatenate([np.zeros(6), -np.eye(3).ravel()])
    >>> dict(zip(QUANTITIES, spin_quantities(singlet, "density_matrix").round(2).tolist()))["chsh"]
    2.83
    """
    x = np.asarray(vectors, np.float64)
    c = x[..., 6:].reshape(*x.shape[:-1], 3, 3)
    markers = dm.entanglement_markers(c, convention=convention)
    state = dm.spin_state(c, x[..., :3], x[..., 3:6], convention=convention)
    return np.stack([*markers, state.concurrence, state.transposed_eigenvalues[..., 0], state.chsh])


def propagate(
    function: Callable[[FloatArray], FloatArray], vector: FloatArray, covariance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Standard deviations and biases of a function of correlated numbers.

    Parameters
    ----------
    function : callable
        Takes arrays of shape (..., n) and returns (m, ...).
    vector : float64 array, shape (n,)
        Where to take derivatives.
    covariance : float64 array, shape (n, n)
        Of the numbers.

    Returns
    -------
    uncertainty, bias : float64 array, shape (m,)
        From first derivatives; and from second differences over one standard deviation along every principal axis of
        the covariance, which also see a kink nearby.

    Examples
    --------
    >>> both = np.array([[1.0, -0.5], [-0.5, 1.0]])
    >>> propagate(lambda x: np.stack([x.sum(axis=-1), x[..., 0] ** 2]), np.array([3.0, 0.0]), both)
    (array([1., 6.]), array([0., 1.]))
    """
    steps = STEP * np.eye(len(vector))
    slopes = (function(vector + steps) - function(vector - steps)) / (2 * STEP)  # (m, n)
    variance = np.einsum("mi,ij,mj->m", slopes, covariance, slopes)
    eigenvalues, axes = np.linalg.eigh(covariance)
    steps = (np.sqrt(np.maximum(eigenvalues, 0.0)) * axes).T
    ends = function(vector + steps) + function(vector - steps)  # (m, n)
    bias = (ends / 2 - function(vector)[:, None]).sum(axis=-1)
    return np.sqrt(np.maximum(variance, 0.0)), np.asarray(bias)


def summarize(coefficients: SpinCoefficients, quantities: list[Quantity]) -> Entanglement:
    """The result object from the seven quantities in the order of :data:`QUANTITIES`."""
    named = dict(zip(QUANTITIES, quantities, strict=True))
    c, convention = coefficients.correlation, coefficients.convention
    state = dm.spin_state(c, coefficients.b_plus, coefficients.b_minus, convention=convention)
    published = dm.delta_d_published(
        c, coefficients.sigma_correlation, coefficients.b_plus, coefficients.b_minus, convention=convention
    )
    paper = named["d_paper"]
    with np.errstate(divide="ignore", invalid="ignore"):
        delta_d = float(np.divide(paper.uncertainty, paper.value - 1.0))
    return Entanglement(
        **named,
        delta_d=delta_d,
        delta_d_published=float(published.value),
        physical=bool(state.physical),
        entangled=bool(state.entangled),
        bell_violated=bool(state.bell_violated),
        convention=convention,
        coefficients=coefficients,
    )
