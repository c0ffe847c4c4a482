"""The measurement of one reconstruction: coefficients and markers, with the errors of data and of simulation apart."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.ttbar_spin.measure import (
    ALL,
    Reference,
    Settings,
    SpinMatrix,
    data_covariance,
    fill_responses,
    fill_spectra,
    flat_bins,
    response_covariance,
    unfold_spectra,
)
from evenet_hep.analyses.ttbar_spin.sample import SpinSample
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.stats.spin_coefficients import COEFFICIENTS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

M_TT_NAMES = ("0-400", "400-500", "500-800", "above 800")


class Reconstruction(NamedTuple):
    """Measured angles of all events of a sample by one method; NaN where ``valid`` is False."""

    name: str
    angles: SpinAngles
    valid: BoolArray


class Measured(NamedTuple):
    """Coefficients of pseudo-data.

    Parameters
    ----------
    own : SpinMatrix
        With the statistical error of the pseudo-data as they are.
    projected : SpinMatrix
        The same coefficients with the statistical error of data of the projected luminosity.
    """

    own: SpinMatrix
    projected: SpinMatrix


def reference_of(
    sample: SpinSample, found: Reconstruction, rows: IntArray, observables: tuple[int, ...], strength: float
) -> Reference:
    """Some of the events of a sample, as a response with spin correlations of some strength."""
    whole = Reference(
        flat_bins(found.angles, found.valid, observables),
        flat_bins(sample.truth.angles, sample.truth.valid, observables),
        sample.weights(strength),
    )
    return whole.take(rows)


def measure(
    sample: SpinSample,
    found: Reconstruction,
    response_rows: IntArray,
    data_rows: IntArray,
    settings: Settings,
    *,
    expected: float,
    response_strength: float = 1.0,
    strength: float = 1.0,
    observables: tuple[int, ...] = ALL,
    replicas: int = 60,
    seed: int = 1,
) -> Measured:
    """Spin coefficients of pseudo-data in the bins of m(ttbar).

    Parameters
    ----------
    sample : SpinSample
    found : Reconstruction
        Of all its events.
    response_rows, data_rows : int array
        Events of the response and of the pseudo-data. Where they are the same, the closure is exact by construction.
    settings : Settings
        Of the unfolding.
    expected : float
        Top pairs in the data of the projection, before any selection.
    response_strength, strength : float
        Of the spin correlations in the response and in the pseudo-data.
    observables : tuple of int
        Which of the fifteen; the others are zero in the result.
    replicas, seed : int
        For the covariance from the simulation.
    """
    reference = reference_of(sample, found, response_rows, observables, response_strength)
    bins = flat_bins(found.angles, found.valid, observables)[:, data_rows]
    weights = sample.weights(strength)[data_rows]
    spectra, variances = fill_spectra(bins, weights), fill_spectra(bins, weights**2)
    unfolding = unfold_spectra(spectra, variances, fill_responses(reference), observables, settings)
    own = data_covariance(unfolding, bins, weights**2)
    # Each simulated event stands for as many of the data as its weight says, and these fluctuate as Poisson has it. The
    # coefficients do not depend on the normalisation, so that only the ratio of variances counts.
    ratio = expected / weights.sum()
    projected = data_covariance(unfolding, bins, np.maximum(weights, 0.0)) / ratio
    by_simulation = response_covariance(
        spectra, variances, reference, observables, settings, replicas=replicas, seed=seed
    )
    return Measured(
        *(
            _matrix(unfolding.values, covariance, by_simulation, observables)
            for covariance in (own, projected)
        )
    )


def _matrix(
    values: FloatArray, by_data: FloatArray, by_simulation: FloatArray, observables: tuple[int, ...]
) -> SpinMatrix:
    whole = np.zeros((len(values), 15))
    whole[:, observables] = values
    wide = []
    for covariance in (by_data, by_simulation):
        square = np.zeros((len(values), 15, 15))
        square[np.ix_(range(len(values)), observables, observables)] = covariance
        wide.append(square)
    return SpinMatrix(whole, *wide)


def coefficient_rows(
    name: str, measured: SpinMatrix, projected: SpinMatrix, true: SpinMatrix
) -> list[dict[str, Any]]:
    """Rows of the table of coefficients: value, truth, and the three errors."""
    return [
        {
            "reconstruction": name,
            "m_tt": region,
            "coefficient": COEFFICIENTS[i],
            "value": measured.values[m, i],
            "true": true.values[m, i],
            "error_pseudo_data": float(np.sqrt(measured.covariance_data[m, i, i])),
            "error_projected": float(np.sqrt(projected.covariance_data[m, i, i])),
            "error_simulation": float(np.sqrt(measured.covariance_response[m, i, i])),
        }
        for m, region in enumerate(M_TT_NAMES)
        for i in range(15)
    ]


def marker_rows(name: str, label: str, found: Measured, true: SpinMatrix) -> list[dict[str, Any]]:
    """Rows of the table of markers of entanglement, one for each bin of m(ttbar)."""
    rows = []
    for m, region in enumerate(M_TT_NAMES):
        if not found.own.is_known(m):
            continue
        row: dict[str, Any] = {"reconstruction": name, "unfolding": label, "m_tt": region}
        errors: dict[str, tuple[SpinMatrix, Literal["data", "response"]]] = {
            "pseudo_data": (found.own, "data"),
            "projected": (found.projected, "data"),
            "simulation": (found.own, "response"),
        }
        truth = true.markers(m)
        results = {key: matrix.markers(m, errors=part) for key, (matrix, part) in errors.items()}
        for quantity in ("d_paper", "d_poster", "d_std", "d_prime", "concurrence"):
            row[quantity] = getattr(results["projected"], quantity).value
            row[f"true_{quantity}"] = getattr(truth, quantity).value
            for key, result in results.items():
                row[f"{quantity}_error_{key}"] = getattr(result, quantity).uncertainty
        for key in ("projected", "pseudo_data"):
            row[f"delta_d_{key}"] = results[key].delta_d
            row[f"delta_d_published_{key}"] = results[key].delta_d_published
        rows.append(row)
    return rows
