"""Contents of one-dimensional histograms, read in one place and checked once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Contents(NamedTuple):
    """What the bins of a histogram hold.

    Parameters
    ----------
    values, variances : float64 array, shape (n_bins,)
        Sums of weights and of their squares.
    edges : float64 array, shape (n_bins + 1,)
        Ascending.
    """

    values: FloatArray
    variances: FloatArray
    edges: FloatArray


def read_contents(histogram: Any, *, name: str = "histogram") -> Contents:
    """Values, variances and edges of a histogram with one axis.

    Parameters
    ----------
    histogram : hist.Hist, any other histogram of the UHI protocol, or tuple of arrays
        With one axis; entries outside of it are left out. A tuple holds values and edges, or values, edges and
        variances; without variances they are those of counts (Poisson).
    name : str
        What messages call it.

    Returns
    -------
    Contents

    Raises
    ------
    InputError
        For more axes, contents that are not finite, negative variances, or a storage that kept no variances of its
        weights.

    Examples
    --------
    >>> import hist
    >>> h = hist.Hist.new.Reg(2, 0.0, 1.0).Weight().fill([0.1, 0.2, 0.9], weight=2.0)
    >>> read_contents(h)
    Contents(values=array([4., 2.]), variances=array([8., 4.]), edges=array([0. , 0.5, 1. ]))
    >>> read_contents(([3, 1], [0.0, 0.5, 1.0])).variances
    array([3., 1.])
    """
    if isinstance(histogram, tuple) and len(histogram) in (2, 3):
        values = np.asarray(histogram[0], np.float64)
        edges = np.asarray(histogram[1], np.float64)
        variances = np.abs(values) if len(histogram) == 2 else np.asarray(histogram[2], np.float64)
    elif hasattr(histogram, "axes") and hasattr(histogram, "variances"):
        if len(histogram.axes) != 1:
            msg = f"{name} must have one axis; it has {len(histogram.axes)}"
            raise InputError(msg)
        values = np.asarray(histogram.values(), np.float64)
        spread = histogram.variances()
        if spread is None:
            msg = f"{name} must know the variances of its contents (Weight() storage); it was filled with weights in another"
            raise InputError(msg)
        variances, edges = np.asarray(spread, np.float64), np.asarray(histogram.axes[0].edges, np.float64)
    else:
        msg = f"{name} must be a histogram or a tuple (values, edges[, variances]); found {type(histogram).__name__}"
        raise InputError(msg)
    _check(values, variances, edges, name)
    return Contents(values, variances, edges)


def _check(values: FloatArray, variances: FloatArray, edges: FloatArray, name: str) -> None:
    if values.ndim != 1 or variances.shape != values.shape or edges.shape != (len(values) + 1,):
        msg = (
            f"{name} must have n values, n variances and n + 1 edges; "
            f"found shapes {values.shape}, {variances.shape} and {edges.shape}"
        )
        raise InputError(msg)
    if len(values) == 0 or not (np.diff(edges) > 0).all():
        msg = f"{name} must have edges that ascend; found {edges}"
        raise InputError(msg)
    if not (np.isfinite(values).all() and np.isfinite(variances).all() and (variances >= 0).all()):
        msg = f"{name} must have finite contents with variances that are not negative; found {values} and {variances}"
        raise InputError(msg)
