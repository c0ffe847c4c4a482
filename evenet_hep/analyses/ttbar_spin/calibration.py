"""-tr C without unfolding: the mean measured cos phi, and a calibration curve from simulation.

The sum of the products kk, rr and nn is the cosine of the angle between the leptons, so that -tr C = 9 <cos phi>. In a bin of
measured m(ttbar) its mean is diluted and shifted; simulation with spin correlations of two strengths says by how much, as a
straight line. Nothing is regularised, and the error divided by the slope of that line says what a reconstruction is worth: the
error of a regularised unfolding alone does not, because it falls when a bad reconstruction leaves the result to the simulation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.ttbar_spin.measure import N_M_TT

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FACTOR = 9.0  # -tr C over the mean of cos phi


class Moments(NamedTuple):
    """9 <cos phi> and its statistical error in the bins of measured m(ttbar), shape (4,) each; NaN without events."""

    values: FloatArray
    errors: FloatArray


def measured_moments(
    cos_phi: FloatArray, m_tt_bin: IntArray, weights: FloatArray, variances: FloatArray
) -> Moments:
    """Moments of measured events.

    Parameters
    ----------
    cos_phi : float64 array, shape (n_events,)
    m_tt_bin : int64 array, shape (n_events,)
        Bin of the measured m(ttbar); -1 for events that were not measured.
    weights, variances : float64 array, shape (n_events,)
        Of the events, and of what each adds to a sum of weights.

    Examples
    --------
    >>> one = np.ones(4)
    >>> found = measured_moments(np.array([0.1, 0.3, 0.1, 0.3]), np.zeros(4, int), one, one)
    >>> found.values[0].round(3), found.errors[0].round(3)
    (np.float64(1.8), np.float64(0.45))
    """
    values, errors = np.full(N_M_TT, np.nan), np.full(N_M_TT, np.nan)
    for m in range(N_M_TT):
        mine = m_tt_bin == m
        w, x = weights[mine], cos_phi[mine]
        if w.sum() > 0:
            mean = (w @ x) / w.sum()
            values[m] = FACTOR * mean
            errors[m] = FACTOR * np.sqrt(variances[mine] @ (x - mean) ** 2) / w.sum()
    return Moments(values, errors)


class Curve(NamedTuple):
    """A straight line from the measured to the true -tr C in each bin of m(ttbar).

    Parameters
    ----------
    measured, true : float64 array, shape (2, 4)
        For spin correlations of strength 0 and 1.
    """

    measured: FloatArray
    true: FloatArray

    @property
    def slope(self) -> FloatArray:
        """Measured over true change of -tr C: 1 for a perfect reconstruction, 0 for one that knows nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.measured[1] - self.measured[0]) / (self.true[1] - self.true[0]))

    def apply(self, moments: Moments) -> Moments:
        """The true -tr C that measured moments stand for; NaN where the curve is flat."""
        slope = np.where(self.slope != 0.0, self.slope, np.nan)  # of a bin with one event
        return Moments(
            self.true[0] + (moments.values - self.measured[0]) / slope, moments.errors / np.abs(slope)
        )


def calibration_curve(
    cos_phi: FloatArray, m_tt_bin: IntArray, without: FloatArray, full: FloatArray, true: FloatArray
) -> Curve:
    """The curve from simulated events, weighted for strength 0 (``without``) and 1 (``full``).

    Parameters
    ----------
    cos_phi, m_tt_bin
        As for :func:`measured_moments`.
    without, full : float64 array, shape (n_events,)
        Event weights.
    true : float64 array, shape (2, 4)
        -tr C of the generator for both.
    """
    measured = [measured_moments(cos_phi, m_tt_bin, w, w**2).values for w in (without, full)]
    return Curve(np.stack(measured), np.asarray(true))
