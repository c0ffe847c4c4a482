"""Shapes of a smooth background and the yields they predict in the bins of a spectrum.

What to use when:

* :class:`Polynomial`: the default; the fit is convex, has one minimum, and is solved exactly. Degree 3 to 5 describes
  most falling spectra around one window;
* :class:`Exponential`: steeply falling or nearly empty spectra; positive everywhere by construction;
* :class:`Function`: anything with a formula of its own, minimised by Minuit from the start values given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre

from evenet_hep.errors import InputError
from evenet_hep.stats.spectrum import Spectrum

FloatArray = npt.NDArray[np.float64]

# Gauss-Legendre points of an integral over a bin or the window: exact for polynomials up to degree 31.
QUADRATURE_POINTS = 16


class Polynomial(NamedTuple):
    """Density sum_k c_k P_k(x), Legendre polynomials of the mass scaled to [-1, 1], not negative at bin centres.

    Parameters
    ----------
    degree : int
        0 for a constant.
    """

    degree: int = 5


class Exponential(NamedTuple):
    """Density exp(sum_k c_k P_k(x)), Legendre polynomials of the mass scaled to [-1, 1].

    Parameters
    ----------
    degree : int
        Of the exponent; 1 for a plain exponential.
    """

    degree: int = 1


class Function(NamedTuple):
    """A density of the user's own.

    Parameters
    ----------
    density : callable
        ``density(mass, *parameters)`` in events per bin of mean width, for an array of masses in GeV.
    start : mapping of str to float
        Start values of the parameters, by name, in the order of the call.
    limits : mapping of str to (lower, upper), optional
        None for no limit.
    """

    density: Callable[..., FloatArray]
    start: Mapping[str, float]
    limits: Mapping[str, tuple[float | None, float | None]] | None = None


Background = Polynomial | Exponential | Function


class Rows(NamedTuple):
    """Where a density is evaluated: one row per side-band bin, then one for the whole window.

    Parameters
    ----------
    masses : float64 array, shape (n_nodes,)
        In GeV.
    weights : float64 array, shape (n_nodes,)
        In mean side-band bin widths; the rate of a row is the sum of weight times density over its nodes.
    starts : int array, shape (n_rows,)
        First node of every row.
    span : tuple of two floats
        Ends of the spectrum in GeV, which become -1 and 1.
    """

    masses: FloatArray
    weights: FloatArray
    starts: npt.NDArray[np.intp]
    span: tuple[float, float]

    @property
    def n_rows(self) -> int:
        """Side-band bins, and one."""
        return len(self.starts)

    def scaled(self, masses: npt.ArrayLike) -> FloatArray:
        """Masses in GeV as numbers that are -1 and 1 at the ends of the spectrum."""
        low, high = self.span
        return np.asarray((2 * np.asarray(masses, np.float64) - low - high) / (high - low))


class LinearRates:
    """Rates that are linear in the coefficients.

    Parameters
    ----------
    rows : Rows
    degree : int
        Of the polynomial.

    Attributes
    ----------
    names : tuple of str
        Names of the coefficients.
    design : float64 array, shape (n_rows, n_coefficients)
        Rates are ``design @ coefficients``.
    """

    def __init__(self, rows: Rows, degree: int) -> None:
        basis = rows.weights[:, None] * legendre.legvander(rows.scaled(rows.masses), degree)
        self.names = tuple(f"c{k}" for k in range(degree + 1))
        self.design: FloatArray = np.add.reduceat(basis, rows.starts, axis=0)

    def __call__(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rates (..., n_rows) and their derivatives (n_rows, n_coefficients)."""
        return theta @ self.design.T, self.design


class ExponentialRates:
    """Rates of the exponential of a polynomial.

    Parameters
    ----------
    rows : Rows
    degree : int
        Of the exponent.

    Attributes
    ----------
    names : tuple of str
        Names of the coefficients.
    """

    def __init__(self, rows: Rows, degree: int) -> None:
        self.names = tuple(f"c{k}" for k in range(degree + 1))
        powers = legendre.legvander(rows.scaled(rows.masses), degree)  # (n_nodes, n_coefficients)
        self.basis = np.asarray(powers, np.float64)
        self.rows = rows

    def __call__(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rates (..., n_rows) and their derivatives (..., n_rows, n_coefficients)."""
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = self._density(theta)[..., None] * self.basis
            return self.rates(theta), np.asarray(np.add.reduceat(slopes, self.rows.starts, axis=-2))

    def rates(self, theta: FloatArray) -> FloatArray:
        """Rates (..., n_rows); infinite or NaN where the exponential overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.add.reduceat(self._density(theta), self.rows.starts, axis=-1))

    def _density(self, theta: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self.rows.weights * np.exp(theta @ self.basis.T))


class FunctionRates:
    """Rates of a function of the user's.

    Parameters
    ----------
    rows : Rows
    function : Function

    Attributes
    ----------
    names : tuple of str
        Names of the parameters.
    """

    def __init__(self, rows: Rows, function: Function) -> None:
        self.names = tuple(function.start)
        self.rows, self.function = rows, function

    def rates(self, theta: FloatArray) -> FloatArray:
        """Rates (n_rows,)."""
        density = np.asarray(self.function.density(self.rows.masses, *theta), np.float64)
        if density.shape != self.rows.masses.shape:
            msg = f"the background function must return one number per mass; found shape {density.shape} for {self.rows.masses.shape}"
            raise InputError(msg)
        return np.asarray(np.add.reduceat(self.rows.weights * density, self.rows.starts))

    def __call__(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rates (n_rows,) and their derivatives (n_rows, n_parameters) by central differences."""
        steps = 1e-5 * np.maximum(np.abs(theta), 1e-3)
        slopes = [
            (self.rates(theta + step) - self.rates(theta - step)) / (2 * size)
            for step, size in zip(np.diag(steps), steps, strict=True)
        ]
        return self.rates(theta), np.stack(slopes, axis=1)


Rates = LinearRates | ExponentialRates | FunctionRates


def background_of(background: Background | int | str) -> Background:
    """The shape meant by a degree or a name.

    Parameters
    ----------
    background : Polynomial, Exponential, Function, int or str
        A number is the degree of a polynomial; names are ``"exponential"`` and ``"polynomial"``.

    Returns
    -------
    Polynomial, Exponential or Function

    Raises
    ------
    InputError
        For anything else, or a negative degree.

    Examples
    --------
    >>> background_of(3), background_of("exponential")
    (Polynomial(degree=3), Exponential(degree=1))
    """
    named: dict[str, Background] = {"exponential": Exponential(), "polynomial": Polynomial()}
    if isinstance(background, str) and background in named:
        return named[background]
    shape = (
        Polynomial(background)
        if isinstance(background, int) and not isinstance(background, bool)
        else background
    )
    if isinstance(shape, Function) and shape.start:
        return shape
    if isinstance(shape, Polynomial | Exponential) and 0 <= shape.degree <= 15:
        return shape
    msg = f"background must be a degree from 0 to 15, one of {', '.join(named)}, or a Polynomial, Exponential or Function; found {background!r}"
    raise InputError(msg)


def rows_of(spectrum: Spectrum, inside: npt.NDArray[np.bool_], *, integrate: bool = False) -> Rows:
    """Where to evaluate the density: at the centres of side-band bins, and all over the window.

    Parameters
    ----------
    spectrum : Spectrum
    inside : bool array, shape (n_bins,)
        Bins of the window; without any, all bins are side band and there is no last row for a window.
    integrate : bool
        Integrate over side-band bins instead of taking their centres.

    Returns
    -------
    Rows

    Examples
    --------
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.array([False, True, False]))
    >>> print(rows.masses[:2], rows.n_rows)
    [0.5 2.5] 3
    """
    unit = float(spectrum.widths[~inside].mean())
    points, shares = legendre.leggauss(QUADRATURE_POINTS)
    half = spectrum.widths / 2
    nodes = spectrum.centers[:, None] + half[:, None] * points
    parts = half[:, None] * shares / unit
    if integrate:
        outside = (nodes[~inside].ravel(), parts[~inside].ravel(), QUADRATURE_POINTS)
    else:
        outside = (spectrum.centers[~inside], spectrum.widths[~inside] / unit, 1)
    # The window is one row, but integrated bin by bin.
    masses = np.append(outside[0], nodes[inside].ravel())
    weights = np.append(outside[1], parts[inside].ravel())
    starts = outside[2] * np.arange((~inside).sum() + inside.any())
    return Rows(masses, weights, starts, (float(spectrum.edges[0]), float(spectrum.edges[-1])))


def rates_of(background: Background, rows: Rows) -> Rates:
    """The shape of a background, evaluated at rows.

    Parameters
    ----------
    background : Polynomial, Exponential or Function
    rows : Rows

    Returns
    -------
    LinearRates, ExponentialRates or FunctionRates

    Raises
    ------
    InputError
        If the side bands have fewer bins than the shape has parameters.

    Examples
    --------
    >>> rows = rows_of(Spectrum(np.arange(4.0), np.ones(3), np.ones(3)), np.array([False, True, False]))
    >>> rates_of(Polynomial(1), rows).names
    ('c0', 'c1')
    """
    if isinstance(background, Function):
        rates: Rates = FunctionRates(rows, background)
    elif isinstance(background, Exponential):
        rates = ExponentialRates(rows, background.degree)
    else:
        rates = LinearRates(rows, background.degree)
    if rows.n_rows - 1 < len(rates.names):
        msg = f"a background with {len(rates.names)} parameters needs as many side-band bins; found {rows.n_rows - 1}"
        raise InputError(msg)
    return rates
