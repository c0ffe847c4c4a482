"""Toys of a side-band fit, and a window that slides over a spectrum, with local and global p-values.

Toys are equivalent events: s times a Poisson number for an expectation of s times as much, so that totals fluctuate. The
scale factors are those of the observed bins and do not fluctuate; what uneven weights do beyond that is seen by
resampling the events (``resample="data"`` of :mod:`evenet_hep.stats.weak`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import hist
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import Background, background_of, rates_of, rows_of
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.sideband_likelihood import (
    Scale,
    fit_all_rows,
    profile,
    regions_of,
    scales,
)
from evenet_hep.stats.sideband_minuit import Regions, rates_at
from evenet_hep.stats.significance import p_value, significance_of
from evenet_hep.stats.spectrum import MassBins, Spectrum, spectrum_of, window_mask

FloatArray = npt.NDArray[np.float64]


class SidebandToys(NamedTuple):
    """Results of a side-band fit to toys.

    Parameters
    ----------
    expected, signal : float64 array, shape (n_toys,)
        Background from the side bands, and what is left in the window.
    significance : float64 array, shape (n_toys,)
        Negative for a deficit.
    p0 : float
        Fraction of toys at least as significant as the data; without signal in the toys, the p-value. At least
        1 / (n_toys + 1).
    p0_uncertainty : float
        Binomial, from the number of toys.
    """

    expected: FloatArray
    signal: FloatArray
    significance: FloatArray
    p0: float
    p0_uncertainty: float


class SidebandScan(NamedTuple):
    """A window slid over a spectrum.

    Parameters
    ----------
    windows : float64 array, shape (n_windows, 2)
        Ends in GeV.
    observed, expected : float64 array, shape (n_windows,)
        Sum of weights in the window, and background from the side bands.
    significance, p_local : float64 array, shape (n_windows,)
        Z and its asymptotic p-value; 0 and 0.5 for a deficit.
    p_local_toys : float64 array, shape (n_windows,)
        Fraction of background toys at least as significant in the same window; NaN without toys.
    best : SidebandFit
        Fit of the most significant window.
    p_global, p_global_uncertainty : float
        Fraction of background toys whose most significant window is at least as significant as the data's; at least
        1 / (n_toys + 1), NaN without toys.
    significance_global : float
        The same as standard deviations.
    toy_maxima : float64 array, shape (n_toys,)
        Greatest significance in every toy.
    """

    windows: FloatArray
    observed: FloatArray
    expected: FloatArray
    significance: FloatArray
    p_local: FloatArray
    p_local_toys: FloatArray
    best: SidebandFit
    p_global: float
    p_global_uncertainty: float
    significance_global: float
    toy_maxima: FloatArray


def sideband_toys(
    fit: SidebandFit,
    *,
    n_toys: int = 1000,
    signal: float = 0.0,
    seed: int,
    scale: Scale = "common",
    integrate: bool = False,
) -> SidebandToys:
    """Repeat a side-band fit on toys thrown from its null hypothesis, with a signal added if wanted.

    Parameters
    ----------
    fit : SidebandFit
    n_toys : int
        Number of toys.
    signal : float
        Expected sum of weights of a signal in the window.
    seed : int
        Of the random numbers.
    scale, integrate
        As in the fit.

    Returns
    -------
    SidebandToys

    Raises
    ------
    InputError
        For no toys, or a signal below minus the background.

    Examples
    --------
    >>> masses = np.append(np.linspace(5.003, 15.993, 1100), np.linspace(9.6, 9.9, 30))
    >>> fit = fit_sideband(masses, edges=np.linspace(5, 16, 56), window=(9.2, 10.4), background=1)
    >>> toys = sideband_toys(fit, n_toys=2000, seed=1)
    >>> print(f"Z = {fit.significance:.2f}, p = {fit.p0:.4f}, from toys {toys.p0:.4f} +- {toys.p0_uncertainty:.4f}")
    Z = 2.47, p = 0.0068, from toys 0.0095 +- 0.0022
    """
    regions = regions_of(fit.spectrum, fit.window, fit.background, scale=scale, integrate=integrate)
    rates = rates_at(regions.rates, profile(regions).theta_null[0]).copy()
    rates[-1] += signal
    if n_toys < 1 or rates[-1] < 0:
        msg = f"toys need a positive number and a window that expects something; found {n_toys} toys and {rates[-1]:g} expected"
        raise InputError(msg)
    thrown = _throw(np.maximum(rates, 0.0), _equivalent(regions.sumw, regions.sumw2), n_toys, seed)
    found = profile(Regions(*thrown, scales(*thrown, scale), regions.rates))
    left = thrown[0][:, -1] - found.expected
    z = np.sign(left) * np.sqrt(found.q0)
    p0, spread = _fraction(z >= fit.significance)
    return SidebandToys(found.expected, left, z, p0, spread)


def scan_sidebands(
    spectrum: hist.Hist[Any] | Spectrum | npt.ArrayLike,
    *,
    n_bins: int,
    background: Background | int | str = 5,
    edges: npt.ArrayLike | MassBins | None = None,
    weights: npt.ArrayLike | None = None,
    margin: int | None = None,
    n_toys: int = 200,
    seed: int = 0,
    scale: Scale = "common",
) -> SidebandScan:
    """Slide a window over a spectrum and say how significant its greatest excess is, locally and globally.

    Parameters
    ----------
    spectrum : hist.Hist, Spectrum, or array-like of shape (n_events,)
        Histogram with one axis, or masses in GeV with ``edges``.
    n_bins : int
        Width of the window in bins; it moves by one bin at a time.
    background, edges, weights, scale
        As for :func:`evenet_hep.stats.sideband.fit_sideband`.
    margin : int, optional
        Fewest side-band bins on either side; as many as the window has by default.
    n_toys : int
        Toys thrown from a fit of the whole spectrum without any window; 0 for none.
    seed : int
        Of the random numbers.

    Returns
    -------
    SidebandScan

    Raises
    ------
    InputError
        For a window wider than the spectrum allows, and as :func:`evenet_hep.stats.sideband.fit_sideband`.

    Examples
    --------
    >>> masses = np.append(np.linspace(5.003, 15.993, 1100), np.linspace(9.6, 9.9, 60))
    >>> scan = scan_sidebands(masses, edges=np.linspace(5, 16, 56), n_bins=3, background=1, n_toys=200)
    >>> print(scan.windows[scan.significance.argmax()].round(1), f"{scan.best.significance:.1f} sigma, {scan.p_global:.3f}")
    [ 9.4 10. ] 6.6 sigma, 0.005
    """
    binned = spectrum_of(spectrum, edges=edges, weights=weights)
    shape = background_of(background)
    space = n_bins if margin is None else margin
    first = np.arange(space, len(binned.sumw) - n_bins - space + 1)
    if n_bins < 1 or space < 0 or not len(first):
        msg = f"a window of {n_bins} bins with {space} on either side must fit into the spectrum; it has {len(binned.sumw)}"
        raise InputError(msg)
    windows = np.stack([binned.edges[first], binned.edges[first + n_bins]], axis=1)
    contents = (binned.sumw[None], binned.sumw2[None])
    found = [_fit_window(binned, contents, window, shape, scale) for window in windows]
    observed, expected, z = (np.array([row[k][0] for row in found]) for k in range(3))
    best = fit_sideband(binned, window=tuple(windows[z.argmax()]), background=shape, scale=scale)
    local, maxima = np.full(len(windows), np.nan), np.zeros(0)
    p_global = spread = np.nan
    if n_toys > 0:
        thrown = _throw(_whole_spectrum(binned, shape), _equivalent(*binned[1:]), n_toys, seed)
        toys = np.array([_fit_window(binned, thrown, window, shape, scale)[2] for window in windows])
        local, maxima = (toys >= z[:, None]).mean(axis=1), toys.max(axis=0)
        p_global, spread = _fraction(maxima >= z.max())
    return SidebandScan(
        windows=windows,
        observed=observed,
        expected=expected,
        significance=np.maximum(z, 0.0),
        p_local=p_value(np.maximum(z, 0.0)),
        p_local_toys=local,
        best=best,
        p_global=float(p_global),
        p_global_uncertainty=float(spread),
        significance_global=float(significance_of(p_global)),
        toy_maxima=maxima,
    )


def _fit_window(
    binned: Spectrum,
    contents: tuple[FloatArray, FloatArray],
    window: FloatArray,
    shape: Background,
    scale: Scale,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Observed, expected and signed significance of every spectrum of ``contents`` in one window."""
    inside = window_mask(binned, (float(window[0]), float(window[1])))
    sumw, sumw2 = (
        np.concatenate([values[:, ~inside], values[:, inside].sum(axis=1, keepdims=True)], axis=1)
        for values in contents
    )
    rates = rates_of(shape, rows_of(binned, inside))
    found = profile(Regions(sumw, sumw2, scales(sumw, sumw2, scale), rates))
    z = np.sign(sumw[:, -1] - found.expected) * np.sqrt(found.q0)
    return sumw[:, -1], found.expected, z


def _whole_spectrum(binned: Spectrum, shape: Background) -> FloatArray:
    """Expected contents from a fit of all bins."""
    inside = np.zeros(len(binned.sumw), bool)
    rates = rates_of(shape, rows_of(binned, inside))
    scale = scales(binned.sumw, binned.sumw2, "bin")
    return np.maximum(rates_at(rates, fit_all_rows(rates, binned.sumw, scale)), 0.0)


def _equivalent(sumw: FloatArray, sumw2: FloatArray) -> FloatArray:
    """Weight of a toy event in every bin; in empty bins that of all bins together."""
    common = sumw2.sum() / sumw.sum() if sumw.sum() > 0 else 1.0
    return np.asarray(np.where(sumw > 0, sumw2 / np.where(sumw > 0, sumw, 1.0), common))


def _throw(rates: FloatArray, scale: FloatArray, n_toys: int, seed: int) -> tuple[FloatArray, FloatArray]:
    counts = np.random.default_rng(seed).poisson(rates / scale, (n_toys, len(rates)))
    return counts * scale, counts * scale**2


def _fraction(passed: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Fraction of toys, the data counted as one of them, and its uncertainty."""
    p = (passed.sum() + 1) / (len(passed) + 1)
    return float(p), float(np.sqrt(p * (1 - p) / len(passed)))
