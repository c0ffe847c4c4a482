"""Mass spectra for side-band fits: their binning, and what of them is side band and what is window."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import hist
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]

# An edge this close to another, in bin widths, is the same edge.
SAME_EDGE = 1e-6


class MassBins(NamedTuple):
    """Edges of a window and of the side bands next to it.

    Parameters
    ----------
    left, window, right : float64 array
        Edges in GeV, ascending; the last of ``left`` is the first of ``window``, and so on.
    """

    left: FloatArray
    window: FloatArray
    right: FloatArray

    @property
    def edges(self) -> FloatArray:
        """All edges, each once."""
        return np.concatenate([self.left[:-1], self.window, self.right[1:]])

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the window in GeV."""
        return float(self.window[0]), float(self.window[-1])


class Spectrum(NamedTuple):
    """A binned spectrum.

    Parameters
    ----------
    edges : float64 array, shape (n_bins + 1,)
        Ascending, in GeV.
    sumw, sumw2 : float64 array, shape (n_bins,)
        Sums of weights and of squared weights; the same numbers for unweighted events.
    """

    edges: FloatArray
    sumw: FloatArray
    sumw2: FloatArray

    @property
    def centers(self) -> FloatArray:
        """Bin centres in GeV."""
        return np.asarray((self.edges[1:] + self.edges[:-1]) / 2)

    @property
    def widths(self) -> FloatArray:
        """Bin widths in GeV."""
        return np.diff(self.edges)


def mass_bins(
    window: tuple[float, float] = (9.0, 10.6),
    sidebands: tuple[float, float] = (5.0, 16.0),
    *,
    n_edges: int = 12,
    spacing: Literal["linear", "log"] = "linear",
) -> MassBins:
    """Bins of one width inside a window, continued outwards into the side bands.

    Incomplete bins at the outer ends are left out. The defaults are the published dimuon search: 11 bins of 0.145 GeV
    (12 edges) in the window, 27 to the left and 37 to the right.

    Parameters
    ----------
    window, sidebands : tuple of two floats
        Window and outer ends of the side bands in GeV.
    n_edges : int
        Number of edges in the window, one more than bins.
    spacing : str
        ``"linear"``: one width; ``"log"``: one ratio of neighbouring edges.

    Returns
    -------
    MassBins

    Raises
    ------
    InputError
        For limits that do not ascend, fewer than two edges, or logarithmic bins of masses that are not positive.

    Examples
    --------
    >>> bins = mass_bins()
    >>> print(len(bins.left) - 1, len(bins.window) - 1, len(bins.right) - 1, bins.edges[[0, -1]].round(4))
    27 11 37 [ 5.0727 15.9818]
    """
    ends = (sidebands[0], *window, sidebands[1])
    if not (ends[0] <= ends[1] < ends[2] <= ends[3]) or n_edges < 2:
        msg = f"window {window} must lie inside side bands {sidebands} and have at least two edges; found {n_edges}"
        raise InputError(msg)
    if spacing not in ("linear", "log") or (spacing == "log" and sidebands[0] <= 0):
        msg = f"spacing must be 'linear', or 'log' for positive masses; found {spacing!r} from {sidebands[0]} GeV"
        raise InputError(msg)
    low, first, last, high = np.log(ends) if spacing == "log" else np.array(ends, np.float64)
    inside = np.linspace(first, last, n_edges)
    width = (last - first) / (n_edges - 1)
    left = first - width * np.arange(int((first - low) / width + SAME_EDGE), -1, -1)
    right = last + width * np.arange(int((high - last) / width + SAME_EDGE) + 1)
    edges = [np.exp(x) if spacing == "log" else x for x in (left, inside, right)]
    for array, at, value in ((edges[0], -1, window[0]), (edges[2], 0, window[1])):
        array[at] = value
    edges[1][[0, -1]] = window
    return MassBins(*edges)


def bin_masses(
    masses: npt.ArrayLike,
    edges: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    window: tuple[float, float] | None = None,
) -> Spectrum:
    """Histogram masses into half-open bins.

    Parameters
    ----------
    masses : array-like, shape (n_events,)
        In GeV.
    edges : array-like, shape (n_bins + 1,)
        Ascending, in GeV.
    weights : array-like, shape (n_events,), optional
        Event weights.
    window : tuple of two floats, optional
        Masses exactly at its ends count neither inside nor outside, as in the published selection.

    Returns
    -------
    Spectrum
        Masses outside the edges are left out, and so is one at the last edge.

    Raises
    ------
    InputError
        For edges that do not ascend, weights that do not fit, or NaN.

    Examples
    --------
    >>> bin_masses([1.0, 2.0, 2.5, 3.0], [1.0, 2.0, 3.0], weights=[1, 2, 3, 4]).sumw
    array([1., 5.])
    """
    m, x = np.asarray(masses, np.float64), np.asarray(edges, np.float64)
    w = np.ones(m.shape) if weights is None else np.asarray(weights, np.float64)
    if m.ndim != 1 or w.shape != m.shape:
        msg = f"masses and weights must be two lists of one length; found shapes {m.shape} and {w.shape}"
        raise InputError(msg)
    if not np.isfinite(m).all() or not np.isfinite(w).all():
        msg = f"masses and weights must be finite; found {np.sum(~np.isfinite(m) | ~np.isfinite(w))} events that are not"
        raise InputError(msg)
    _check_edges(x)
    kept = (m >= x[0]) & (m < x[-1])
    if window is not None:
        kept &= (m != window[0]) & (m != window[1])
    index = np.searchsorted(x, m[kept], "right") - 1
    sums = [np.bincount(index, values, len(x) - 1).astype(np.float64) for values in (w[kept], w[kept] ** 2)]
    return Spectrum(x, sums[0], sums[1])


def spectrum_of(
    spectrum: hist.Hist[Any] | Spectrum | npt.ArrayLike,
    *,
    edges: npt.ArrayLike | MassBins | None = None,
    weights: npt.ArrayLike | None = None,
    window: tuple[float, float] | None = None,
) -> Spectrum:
    """A spectrum from a histogram with one axis, or from masses with edges.

    Parameters
    ----------
    spectrum : hist.Hist, Spectrum, or array-like of shape (n_events,)
        Histogram without its overflow, or masses in GeV.
    edges, weights, window
        As for :func:`bin_masses`; only with masses.

    Returns
    -------
    Spectrum

    Raises
    ------
    InputError
        For more than one axis, weighted contents without variances, or masses without edges.

    Examples
    --------
    >>> h = hist.Hist.new.Reg(3, 9, 12).Weight().fill([9.5, 9.6, 11.2], weight=[1.0, 2.0, 3.0])
    >>> print(spectrum_of(h).sumw, spectrum_of(h).sumw2)
    [3. 0. 3.] [5. 0. 9.]
    """
    if isinstance(spectrum, Spectrum):
        return spectrum
    if isinstance(spectrum, hist.BaseHist):
        if edges is not None or weights is not None:
            msg = "edges and weights go with masses; a histogram has its own"
            raise InputError(msg)
        return _from_hist(spectrum)
    if edges is None:
        msg = "masses need edges, for example those of mass_bins(); found none"
        raise InputError(msg)
    limits = edges.limits if isinstance(edges, MassBins) and window is None else window
    return bin_masses(
        spectrum, edges.edges if isinstance(edges, MassBins) else edges, weights=weights, window=limits
    )


def window_mask(spectrum: Spectrum, window: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Which bins lie in the window.

    Parameters
    ----------
    spectrum : Spectrum
    window : tuple of two floats
        Ends in GeV, which must be edges of the spectrum.

    Returns
    -------
    bool array, shape (n_bins,)

    Raises
    ------
    InputError
        For a window outside the spectrum, one that does not end at edges, or one that leaves no side band.

    Examples
    --------
    >>> window_mask(Spectrum(np.arange(5.0), np.ones(4), np.ones(4)), (1.0, 3.0))
    array([False,  True,  True, False])
    """
    low, high = window
    edges = spectrum.edges
    if not low < high:
        msg = f"the window must have a lower and a higher end; found {window}"
        raise InputError(msg)
    tolerance = SAME_EDGE * float(spectrum.widths.min())
    if low < edges[0] - tolerance or high > edges[-1] + tolerance:
        msg = f"the window from {low} to {high} must lie inside the spectrum; it reaches from {edges[0]:g} to {edges[-1]:g}"
        raise InputError(msg)
    nearest = [int(np.argmin(np.abs(edges - end))) for end in window]
    if any(abs(edges[at] - end) > tolerance for at, end in zip(nearest, window, strict=True)):
        msg = f"the window from {low} to {high} must begin and end at bin edges; the nearest are {edges[nearest[0]]:g} and {edges[nearest[1]]:g}"
        raise InputError(msg)
    inside = np.zeros(len(edges) - 1, bool)
    inside[nearest[0] : nearest[1]] = True
    if inside.all():
        msg = f"the window from {low} to {high} leaves no side band; the spectrum reaches from {edges[0]:g} to {edges[-1]:g}"
        raise InputError(msg)
    return inside


def _from_hist(histogram: hist.BaseHist[Any]) -> Spectrum:
    if histogram.ndim != 1:
        msg = f"the histogram must have one axis; found {histogram.ndim}: {[axis.name for axis in histogram.axes]}"
        raise InputError(msg)
    edges = np.asarray(histogram.axes[0].edges, np.float64)
    _check_edges(edges)
    variances = histogram.variances()
    if variances is None:
        msg = "the histogram was filled with weights but keeps no variances; use Weight() storage"
        raise InputError(msg)
    return Spectrum(edges, np.asarray(histogram.values(), np.float64), np.asarray(variances, np.float64))


def _check_edges(edges: FloatArray) -> None:
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or not np.isfinite(edges).all():
        msg = f"edges must be at least two finite numbers that ascend; found {edges}"
        raise InputError(msg)
