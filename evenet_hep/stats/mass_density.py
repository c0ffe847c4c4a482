"""A smooth density of the background inside the window, to condition a generator with.

Published dimuon searches describe the side bands by least squares with errors sqrt(sum w^2 + 1) before they sample masses
for the window. For yields and significances use the likelihood of :mod:`evenet_hep.stats.sideband`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import hist
import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from numpy.polynomial import legendre

from evenet_hep.errors import InputError
from evenet_hep.stats.spectrum import MassBins, Spectrum, spectrum_of, window_mask

FloatArray = npt.NDArray[np.float64]


class MassDensity(NamedTuple):
    """A polynomial through the side bands.

    Parameters
    ----------
    coefficients, covariance : float64 array, shape (degree + 1,) and (degree + 1, degree + 1)
        Of Legendre polynomials of the mass scaled to [-1, 1] over ``span``, in events per bin.
    expected, uncertainty : float
        Sum of the polynomial over the bin centres of the window, and its standard deviation.
    chi2, n_dof : float, int
        Of the fit.
    window, span : tuple of two floats
        Ends of the window and of the spectrum in GeV.
    minuit : iminuit.Minuit
        The minimum of chi2.
    """

    coefficients: FloatArray
    covariance: FloatArray
    expected: float
    uncertainty: float
    chi2: float
    n_dof: int
    window: tuple[float, float]
    span: tuple[float, float]
    minuit: Minuit

    def at(self, masses: npt.ArrayLike) -> FloatArray:
        """Events per bin at masses in GeV; may be negative.

        Parameters
        ----------
        masses : array-like

        Returns
        -------
        float64 array
        """
        low, high = self.span
        x = (2 * np.asarray(masses, np.float64) - low - high) / (high - low)
        return np.asarray(legendre.legval(x, self.coefficients), np.float64)

    def sample(self, n: int | None = None, *, seed: int) -> FloatArray:
        """Masses in the window, drawn from the density by acceptance and rejection.

        Parameters
        ----------
        n : int, optional
            How many; ``int(expected)`` by default, as in the published analyses.
        seed : int
            Of the random numbers.

        Returns
        -------
        float64 array, shape (n,)

        Raises
        ------
        InputError
            For a negative number, or a density that is nowhere positive in the window.
        """
        count = int(self.expected) if n is None else n
        grid = np.linspace(*self.window, 2001)
        ceiling = 1.01 * float(self.at(grid).max())
        if count < 0 or ceiling <= 0:
            msg = f"a sample needs a positive number and density in the window; found {count} masses and a maximum of {ceiling:g}"
            raise InputError(msg)
        rng = np.random.default_rng(seed)
        kept = np.zeros(0)
        while len(kept) < count:
            trial = rng.uniform(*self.window, 2 * (count - len(kept)) + 100)
            kept = np.append(kept, trial[rng.uniform(0, ceiling, len(trial)) < self.at(trial)])
        return kept[:count]


def fit_mass_density(
    spectrum: hist.Hist[Any] | Spectrum | npt.ArrayLike,
    *,
    window: tuple[float, float] | None = None,
    degree: int = 5,
    edges: npt.ArrayLike | MassBins | None = None,
    weights: npt.ArrayLike | None = None,
) -> MassDensity:
    """Polynomial through the contents of side-band bins at their centres, with errors sqrt(sum w^2 + 1).

    Parameters
    ----------
    spectrum, window, edges, weights
        As for :func:`evenet_hep.stats.sideband.fit_sideband`; bins of one width.
    degree : int
        Of the polynomial.

    Returns
    -------
    MassDensity

    Raises
    ------
    InputError
        For a window that does not fit, empty side bands, bins of several widths, or too few of them.

    Examples
    --------
    >>> density = fit_mass_density(np.linspace(5.003, 15.993, 1100), edges=np.linspace(5, 16, 56), window=(9, 10), degree=1)
    >>> print(f"{density.expected:.1f} +- {density.uncertainty:.1f}", density.sample(3, seed=1).round(2))
    100.0 +- 3.4 [9.51 9.95 9.95]
    """
    limits = edges.limits if window is None and isinstance(edges, MassBins) else window
    if limits is None:
        msg = "window must be given, or edges as MassBins; found neither"
        raise InputError(msg)
    binned = spectrum_of(spectrum, edges=edges, weights=weights, window=limits)
    inside = window_mask(binned, limits)
    widths = binned.widths
    if (~inside).sum() <= degree or widths.max() > widths.min() * (1 + 1e-6):
        msg = f"a polynomial of degree {degree} needs more side-band bins than {degree}, all of one width; found {(~inside).sum()} from {widths.min():g} to {widths.max():g}"
        raise InputError(msg)
    if not binned.sumw2[~inside].any():
        msg = (
            f"the side bands of the window from {limits[0]} to {limits[1]} are empty; there is nothing to fit"
        )
        raise InputError(msg)
    span = (float(binned.edges[0]), float(binned.edges[-1]))
    x = (2 * binned.centers - span[0] - span[1]) / (span[1] - span[0])
    basis = legendre.legvander(x, degree)
    design, target = basis[~inside], binned.sumw[~inside]
    weight = 1 / (binned.sumw2[~inside] + 1)
    covariance = np.linalg.inv(np.einsum("rp,r,rq->pq", design, weight, design))
    coefficients = covariance @ (design.T @ (weight * target))

    def chi2(theta: FloatArray) -> float:
        return float((weight * (design @ theta - target) ** 2).sum())

    def gradient(theta: FloatArray) -> FloatArray:
        return np.asarray(2 * design.T @ (weight * (design @ theta - target)))

    minuit = Minuit(chi2, coefficients, name=[f"c{k}" for k in range(degree + 1)], grad=gradient)
    minuit.errordef = Minuit.LEAST_SQUARES
    minuit.migrad()
    total = basis[inside].sum(axis=0)
    return MassDensity(
        coefficients=coefficients,
        covariance=covariance,
        expected=float(total @ coefficients),
        uncertainty=float(np.sqrt(total @ covariance @ total)),
        chi2=chi2(coefficients),
        n_dof=len(target) - degree - 1,
        window=limits,
        span=span,
        minuit=minuit,
    )
