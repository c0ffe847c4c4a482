"""Does the correlation of the generator come back? Random divisions of the events, and spin correlations of any strength.

For every division of the events into response and pseudo-data, pseudo-data of several strengths are unfolded with the same
response, once with the statistics of the simulated events and once as data of the projected luminosity, fluctuated event by
event. Halves of one sample are complementary: what one has too many of, the other lacks. The spread of the results over
divisions is that of independent samples all the same, because each half varies by less than an independent one would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.ttbar_spin.calibration import calibration_curve, measured_moments
from evenet_hep.analyses.ttbar_spin.measure import (
    DIAGONAL,
    Reference,
    Settings,
    data_covariance,
    fill_responses,
    fill_spectra,
    unfold_spectra,
)
from evenet_hep.analyses.ttbar_spin.quality import half_width

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ONE_SIDED_95 = 1.6448536269514722  # standard deviations


class ClosureEvents(NamedTuple):
    """Events that are divided into response and pseudo-data.

    Parameters
    ----------
    measured, true : float64 array, shape (3, n_events)
        Flat bins of the products kk, rr and nn.
    cos_phi : float64 array, shape (n_events,)
        Measured; what it is does not matter where ``m_tt_bin`` is -1.
    m_tt_bin : int64 array, shape (n_events,)
        Bin of the measured m(ttbar); -1 for events that were not measured.
    weight, spin_weight : float64 array, shape (n_events,)
        As in :class:`~evenet_hep.analyses.ttbar_spin.sample.SpinSample`.
    """

    measured: FloatArray
    true: FloatArray
    cos_phi: FloatArray
    m_tt_bin: IntArray
    weight: FloatArray
    spin_weight: FloatArray

    def weights(self, strength: float) -> FloatArray:
        """Event weights for spin correlations of some strength."""
        return self.weight * (1.0 + strength * (self.spin_weight - 1.0))


class Closure(NamedTuple):
    """Unfolded -tr C, an entanglement marker that is linear in the coefficients (entangled above 1).

    Parameters
    ----------
    strengths : float64 array, shape (S,)
        Of the spin correlations in the pseudo-data.
    true : float64 array, shape (S, 4)
        Of the generator, in bins of m(ttbar).
    own, projected : float64 array, shape (n_splits, S, 4)
        Unfolded from pseudo-data with the statistics of the simulated events, and of the projected luminosity.
    own_error, projected_error : float64 array, shape (n_splits, S, 4)
        Their statistical errors, of the data alone.
    simulation_error : float64 array, shape (S, 4)
        What the simulated events in the response add.
    """

    strengths: FloatArray
    true: FloatArray
    own: FloatArray
    projected: FloatArray
    own_error: FloatArray
    projected_error: FloatArray
    simulation_error: FloatArray

    def pulls(self, which: str = "own") -> FloatArray:
        """(unfolded - true) / error of data and simulation together, shape (n_splits, S, 4)."""
        values, errors = (
            (self.own, self.own_error) if which == "own" else (self.projected, self.projected_error)
        )
        return np.asarray((values - self.true) / _error(errors**2 + self.simulation_error**2))

    def claims(self, which: str = "own", *, bias: float = 0.0) -> FloatArray:
        """Fraction of the divisions in which entanglement is claimed at 95 % confidence, shape (S, 4).

        Parameters
        ----------
        which : {"own", "projected"}
            Statistics of the pseudo-data.
        bias : float
            A further uncertainty of -tr C, such as that of the unfolding.
        """
        values, errors = (
            (self.own, self.own_error) if which == "own" else (self.projected, self.projected_error)
        )
        total = _error(errors**2 + self.simulation_error**2 + bias**2)
        return np.asarray(((values - 1.0) / total > ONE_SIDED_95).mean(axis=0))

    def slope(self, m_tt_bin: int = 0) -> float:
        """Change of the mean unfolded value with the true one: 1 without bias."""
        return float(np.polyfit(self.true[:, m_tt_bin], self.own[:, :, m_tt_bin].mean(axis=0), 1)[0])


def _error(variance: FloatArray) -> FloatArray:
    # A bin with too few events to have an error has no pull and claims nothing.
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def boundary_strength(true_without: float, true_full: float) -> float | None:
    """Strength at which -tr C is 1, the boundary of entanglement; None if it is not between 0 and 1.

    Examples
    --------
    >>> boundary_strength(0.0, 1.6)
    0.625
    """
    strength = (1.0 - true_without) / (true_full - true_without)
    return float(strength) if 0 < strength < 1 else None


def close(
    events: ClosureEvents,
    true: FloatArray,
    settings: Settings | None,
    *,
    strengths: FloatArray,
    response_strength: float,
    expected: float,
    splits: int,
    replicas: int,
    seed: int,
) -> Closure:
    """Unfold pseudo-data of several strengths in many divisions of the events.

    Parameters
    ----------
    events : ClosureEvents
    true : float64 array, shape (S, 4)
        -tr C of the generator for each strength.
    settings : Settings or None
        Of the unfolding; None for the calibration curve of cos phi.
    strengths : float64 array, shape (S,)
    response_strength : float
        Of the spin correlations in the response.
    expected : float
        Top pairs in the data of the projection, before any selection.
    splits, replicas, seed : int
        Divisions, resampled responses, and the seed of random numbers.
    """
    rng = np.random.default_rng(seed)
    shape = (splits, len(strengths), true.shape[1])
    own, own_error, projected, projected_error = (np.empty(shape) for _ in range(4))
    by_simulation = np.empty(true.shape)
    ends = np.stack([true[int(np.argmin(strengths))], true[int(np.argmax(strengths))]])
    for i in range(splits):
        in_response = rng.random(len(events.weight)) < 0.5
        measure = _method(events, in_response, settings, response_strength, strengths, ends)
        for s, strength in enumerate(strengths):
            weights = events.weights(strength)[~in_response]
            own[i, s], own_error[i, s] = measure(weights, weights**2, None)
            counts = rng.poisson(np.maximum(weights, 0.0) * expected / weights.sum()).astype(np.float64)
            projected[i, s], projected_error[i, s] = measure(counts, counts, None)
            if i == 0:
                resampled = [
                    measure(weights, weights**2, rng.poisson(1.0, int(in_response.sum())).astype(np.float64))[
                        0
                    ]
                    for _ in range(replicas)
                ]
                # A curve with a slope near zero now and then gives anything: no standard deviation.
                by_simulation[s] = [
                    half_width(column[np.isfinite(column)]) for column in np.transpose(resampled)
                ]
    return Closure(strengths, true, own, projected, own_error, projected_error, by_simulation)


Method = Callable[[FloatArray, FloatArray, FloatArray | None], tuple[FloatArray, FloatArray]]


def _method(
    events: ClosureEvents,
    in_response: npt.NDArray[np.bool_],
    settings: Settings | None,
    response_strength: float,
    strengths: FloatArray,
    ends: FloatArray,
) -> Method:
    """Weights and variances of the pseudo-data, and counts of the simulated events -> -tr C and its error."""
    measured = events.measured[:, ~in_response]
    if settings is None:
        curve_events = (events.cos_phi[in_response], events.m_tt_bin[in_response])
        weights_at = [events.weights(x)[in_response] for x in (strengths.min(), strengths.max())]

        def calibrate(
            weights: FloatArray, variances: FloatArray, counts: FloatArray | None
        ) -> tuple[FloatArray, FloatArray]:
            without, full = (w if counts is None else w * counts for w in weights_at)
            curve = calibration_curve(*curve_events, without, full, ends)
            data = (events.cos_phi[~in_response], events.m_tt_bin[~in_response])
            return curve.apply(measured_moments(*data, weights, variances))

        return calibrate

    reference = Reference(events.measured, events.true, events.weights(response_strength)).take(in_response)
    nominal = fill_responses(reference)

    def unfold(
        weights: FloatArray, variances: FloatArray, counts: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        responses = nominal if counts is None else fill_responses(reference.resampled(counts))
        return _trace(measured, weights, variances, responses, settings)

    return unfold


def _trace(
    measured: FloatArray, weights: FloatArray, variances: FloatArray, responses: list[Any], settings: Settings
) -> tuple[FloatArray, FloatArray]:
    """-tr C and its statistical error in the bins of m(ttbar)."""
    spectra = fill_spectra(measured, weights)
    unfolding = unfold_spectra(spectra, fill_spectra(measured, variances), responses, DIAGONAL, settings)
    covariance = data_covariance(unfolding, measured, variances)
    return -unfolding.values.sum(axis=1), np.sqrt(covariance.sum(axis=(1, 2)))


def closure_rows(name: str, label: str, closure: Closure) -> list[dict[str, Any]]:
    """Rows of the table: one for each strength, below 400 GeV."""
    rows = []
    pulls = {which: closure.pulls(which)[:, :, 0] for which in ("own", "projected")}
    for s, strength in enumerate(closure.strengths):
        row: dict[str, Any] = {
            "reconstruction": name,
            "unfolding": label,
            "strength": float(strength),
            "true_d_poster": closure.true[s, 0],
            "mean_d_poster": float(closure.own[:, s, 0].mean()),
            "spread": float(closure.own[:, s, 0].std(ddof=1)),
            "error_data": float(closure.own_error[:, s, 0].mean()),
            "error_simulation": closure.simulation_error[s, 0],
            "error_projected": float(closure.projected_error[:, s, 0].mean()),
        }
        for which, values in pulls.items():
            row[f"pull_mean_{which}"] = float(values[:, s].mean())
            row[f"pull_width_{which}"] = float(values[:, s].std(ddof=1))
            row[f"coverage_68_{which}"] = float((np.abs(values[:, s]) < 1).mean())
            row[f"claimed_{which}"] = float(closure.claims(which)[s, 0])
        rows.append(row)
    return rows
