"""Unfolding of histograms with any number of axes, such as a coffea processor returns them.

The response is one histogram with the measured axes first and the true axes behind them. What was not measured is in the
overflow (or underflow) of the measured axes, what is not true in that of the true axes; cutting an axis with a slice moves
what is cut off there, so that a part of a response is a complete response again.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.response import Response
from evenet_hep.stats.unfold import unfold_bayes, unfold_svd
from evenet_hep.stats.unfolded import Unfolded

FloatArray = npt.NDArray[np.float64]


class UnfoldedHistogram(NamedTuple):
    """A true spectrum with the axes of the response.

    Parameters
    ----------
    values : float64 array, one axis for each true axis
        True events.
    covariance : float64 array, shape (n_bins, n_bins)
        Of the bins in C order.
    edges : tuple of float64 arrays
        Of each true axis.
    unfolded : Unfolded
        Everything else, on one axis with all bins in C order.
    """

    values: FloatArray
    covariance: FloatArray
    edges: tuple[FloatArray, ...]
    unfolded: Unfolded


def unfold_histogram(
    measured: Any,
    response: Any,
    *,
    method: Literal["bayes", "svd"] = "bayes",
    iterations: int = 4,
    k: int = 5,
) -> UnfoldedHistogram:
    """True spectrum behind a measured histogram.

    Parameters
    ----------
    measured : hist.Hist
        Measured spectrum with variances; what lies in its overflow is left out.
    response : hist.Hist
        Axes of ``measured``, then as many true axes.
    method : {"bayes", "svd"}
        :func:`~evenet_hep.stats.unfold.unfold_bayes` or :func:`~evenet_hep.stats.unfold.unfold_svd`.
    iterations, k : int
        Of these two.

    Returns
    -------
    UnfoldedHistogram

    Raises
    ------
    InputError
        For axes that do not fit, histograms without variances, and whatever the methods refuse.

    Examples
    --------
    >>> import hist
    >>> x = np.array([0.2, 0.2, 0.8, 0.8])
    >>> measured = hist.Hist.new.Reg(2, 0, 1, name="x").Weight().fill([0.2, 0.8, 0.8])
    >>> response = hist.Hist.new.Reg(2, 0, 1, name="x").Reg(2, 0, 1, name="true_x").Weight()
    >>> found = unfold_histogram(measured, response.fill([0.2, np.nan, 0.8, 0.8], x))
    >>> found.values.round(3)  # half of the events in the first bin are not measured
    array([2., 2.])
    """
    flat = response_of_histogram(response, measured)
    if measured.variances() is None:
        msg = "the measured histogram must have variances; fill it with Weight() storage"
        raise InputError(msg)
    contents = (
        np.asarray(measured.values(), np.float64).ravel(),
        flat.reco_edges,
        np.asarray(measured.variances(), np.float64).ravel(),
    )
    if method not in ("bayes", "svd"):
        msg = f"method must be 'bayes' or 'svd'; found {method!r}"
        raise InputError(msg)
    found = (
        unfold_svd(contents, flat, k=k)
        if method == "svd"
        else unfold_bayes(contents, flat, iterations=iterations)
    )
    axes = tuple(response.axes)[len(measured.axes) :]
    shape = tuple(axis.size for axis in axes)
    edges = tuple(np.asarray(axis.edges, np.float64) for axis in axes)
    return UnfoldedHistogram(found.values.reshape(shape), found.covariance, edges, found)


def response_of_histogram(response: Any, measured: Any) -> Response:
    """The response on one axis of measured and one of true bins, in C order.

    Parameters
    ----------
    response, measured : hist.Hist
        As for :func:`unfold_histogram`.
    """
    n_axes = len(measured.axes)
    ours, theirs = tuple(response.axes)[:n_axes], tuple(measured.axes)
    if len(response.axes) != 2 * n_axes or any(
        len(a.edges) != len(b.edges) or not np.array_equal(a.edges, b.edges)
        for a, b in zip(ours, theirs, strict=False)
    ):
        msg = (
            f"the response must have the {n_axes} axes of the measured histogram and as many true ones; "
            f"found {[axis.name for axis in response.axes]}"
        )
        raise InputError(msg)
    if response.variances() is None:
        msg = "the response must have variances; fill it with Weight() storage"
        raise InputError(msg)
    in_reco, in_truth = (_inside(tuple(response.axes)[part]) for part in (slice(n_axes), slice(n_axes, None)))
    shape = (len(in_reco), len(in_truth))
    sums = [
        np.asarray(table, np.float64).reshape(shape)
        for table in (response.values(flow=True), response.variances(flow=True))
    ]
    migrations, variance = (table[np.ix_(in_reco, in_truth)] for table in sums)
    misses = [table[~in_reco][:, in_truth].sum(axis=0) for table in sums]
    fakes = [table[in_reco][:, ~in_truth].sum(axis=1) for table in sums]
    edges = [np.arange(size + 1, dtype=np.float64) for size in migrations.shape]
    return Response(migrations, variance, *misses, *fakes, *edges)


def _inside(axes: tuple[Any, ...]) -> npt.NDArray[np.bool_]:
    """True for bins that are in range on all axes, over all bins with under- and overflow in C order."""
    inside = np.ones((), np.bool_)
    for axis in axes:
        one = np.ones(axis.extent, np.bool_)
        one[: axis.traits.underflow] = False
        one[len(one) - axis.traits.overflow :] = False
        inside = inside[..., None] & one
    return np.asarray(inside.ravel())
