"""Response of detector and reconstruction: which true bin shows up in which measured bin, what is missed, what is fake.

An event that is true in bin j and measured in bin i migrates; one that is true and not measured is a miss; one that is
measured and not true is a fake. All three are needed: misses carry the efficiency, fakes the purity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class Response(NamedTuple):
    """Simulated events counted by true and measured bin, with the variances of the sums of weights.

    Parameters
    ----------
    migrations, migrations_variance : float64 array, shape (n_reco, n_truth)
        Events that are true and measured.
    misses, misses_variance : float64 array, shape (n_truth,)
        Events that are true and not measured.
    fakes, fakes_variance : float64 array, shape (n_reco,)
        Events that are measured and not true.
    reco_edges : float64 array, shape (n_reco + 1,)
    truth_edges : float64 array, shape (n_truth + 1,)
    """

    migrations: FloatArray
    migrations_variance: FloatArray
    misses: FloatArray
    misses_variance: FloatArray
    fakes: FloatArray
    fakes_variance: FloatArray
    reco_edges: FloatArray
    truth_edges: FloatArray

    @property
    def truth(self) -> FloatArray:
        """True events, measured or missed, shape (n_truth,)."""
        return np.asarray(self.migrations.sum(axis=0) + self.misses)

    @property
    def reco(self) -> FloatArray:
        """Measured events, fakes included, shape (n_reco,)."""
        return np.asarray(self.migrations.sum(axis=1) + self.fakes)

    @property
    def probabilities(self) -> FloatArray:
        """P(measured in i | true in j), shape (n_reco, n_truth); columns sum to the efficiency, 0 without events."""
        truth = self.truth
        return np.asarray(self.migrations / np.where(truth != 0, truth, 1.0))

    @property
    def purity(self) -> FloatArray:
        """Fraction of measured events that are true, shape (n_reco,); 1 without events."""
        reco = self.reco
        return np.asarray(
            np.where(reco != 0, self.migrations.sum(axis=1), 1.0) / np.where(reco != 0, reco, 1.0)
        )

    @property
    def folding(self) -> FloatArray:
        """Measured events in i per true event in j, fakes included, (n_reco, n_truth); 0 in a bin of fakes only."""
        purity = self.purity[:, None]
        return np.divide(self.probabilities, purity, out=np.zeros_like(self.migrations), where=purity != 0)

    def fold(self, truth: npt.ArrayLike) -> FloatArray:
        """Measured events, fakes included, that a true spectrum leads to.

        Parameters
        ----------
        truth : array-like, shape (n_truth,)

        Returns
        -------
        float64 array, shape (n_reco,)
            0 in a bin that only fakes reach: they are taken in proportion to the true events beside them.
        """
        return np.asarray(self.folding @ np.asarray(truth, np.float64))


def fill_response(
    reco: npt.ArrayLike,
    truth: npt.ArrayLike,
    *,
    reco_edges: npt.ArrayLike,
    truth_edges: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    is_reco: npt.ArrayLike | None = None,
    is_truth: npt.ArrayLike | None = None,
) -> Response:
    """Response from simulated events.

    Parameters
    ----------
    reco, truth : array-like, shape (n_events,)
        Measured and true value of every event; NaN (or masked) where there is none. A value outside the edges counts
        as not there: such an event migrates out of, or into, the region.
    reco_edges, truth_edges : array-like
        Ascending bin edges; the last bin includes its upper edge.
    weights : array-like, shape (n_events,), optional
        Event weights.
    is_reco, is_truth : bool array-like, shape (n_events,), optional
        Further events that were not measured, or are not true, whatever their values say.

    Returns
    -------
    Response

    Raises
    ------
    InputError
        For arrays that differ in length, weights that are not finite, edges that do not ascend, or no event that is
        true and measured.

    Examples
    --------
    >>> r = fill_response([0.1, 0.9, np.nan, 0.2], [0.2, 0.4, 0.6, np.nan], reco_edges=[0, 0.5, 1], truth_edges=[0, 0.5, 1])
    >>> r.migrations
    array([[1., 0.],
           [1., 0.]])
    >>> r.misses, r.fakes, r.purity
    (array([0., 1.]), array([1., 0.]), array([0.5, 1. ]))
    """
    edges = {
        "reco_edges": _edges("reco_edges", reco_edges),
        "truth_edges": _edges("truth_edges", truth_edges),
    }
    measured, true = (_values(name, x) for name, x in (("reco", reco), ("truth", truth)))
    n_events = len(measured)
    w = np.ones(n_events) if weights is None else _values("weights", weights)
    flags = [
        np.ones(n_events, bool) if flag is None else np.asarray(flag, bool) for flag in (is_reco, is_truth)
    ]
    lengths = [len(x) for x in (measured, true, w, *flags)]
    if len(set(lengths)) != 1:
        msg = f"reco, truth, weights, is_reco and is_truth must be equally long; found {lengths}"
        raise InputError(msg)
    if not np.isfinite(w).all():
        msg = f"weights must be finite; {int((~np.isfinite(w)).sum())} of {n_events} are not"
        raise InputError(msg)
    i, in_reco = _bins(measured, edges["reco_edges"], flags[0])
    j, in_truth = _bins(true, edges["truth_edges"], flags[1])
    shape = (len(edges["reco_edges"]) - 1, len(edges["truth_edges"]) - 1)
    both, missed, fake = in_reco & in_truth, in_truth & ~in_reco, in_reco & ~in_truth
    if not both.any():
        msg = f"a response needs events that are both true and measured; none of {n_events} is"
        raise InputError(msg)
    sums = [
        np.bincount(flat[chosen], weights=power[chosen], minlength=length).astype(np.float64)
        for chosen, flat, length in (
            (both, i * shape[1] + j, shape[0] * shape[1]),
            (missed, j, shape[1]),
            (fake, i, shape[0]),
        )
        for power in (w, w * w)
    ]
    migrations, variance, *rest = sums
    return Response(migrations.reshape(shape), variance.reshape(shape), *rest, **edges)


def _bins(
    values: FloatArray, edges: FloatArray, present: npt.NDArray[np.bool_]
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    inside = present & (values >= edges[0]) & (values <= edges[-1])
    bins = np.searchsorted(edges, np.where(inside, values, edges[0]), side="right") - 1
    return np.minimum(bins, len(edges) - 2), inside


def _edges(name: str, values: npt.ArrayLike) -> FloatArray:
    edges = np.asarray(values, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        msg = f"{name} must be at least two numbers that ascend; found {edges}"
        raise InputError(msg)
    return edges


def _values(name: str, values: npt.ArrayLike) -> FloatArray:
    """One-dimensional float64; masked entries are NaN."""
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.ndim != 1:
        msg = f"{name} must have one number per event; found shape {array.shape}"
        raise InputError(msg)
    return np.asarray(np.ma.filled(array.astype(np.float64), np.nan), np.float64)
