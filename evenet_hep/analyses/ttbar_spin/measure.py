"""From measured angles to spin coefficients: unfolding in m(ttbar) x xi, and the covariance of the result.

Each of the fifteen distributions (six cosines, nine products) is a spectrum of 80 bins, 20 for each of the four bins of
m(ttbar), and is unfolded on its own; a coefficient is a moment of the unfolded spectrum in a bin of m(ttbar).

The coefficients of a bin of m(ttbar) are correlated because the same events enter all distributions: with the derivatives of
every coefficient with respect to the measured bins, an event has an influence on each of them, and the covariance is the sum
over events of the products of influences. What the finite number of simulated events adds is found by repeating the
measurement with resampled simulation. The two are kept apart: the first is that of the data, and scales with the luminosity;
the second is that of the simulation, and does not.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.spin import KAPPAS, SpinAngles
from evenet_hep.processors.ttbar_spin import M_TT_EDGES, N_BINS
from evenet_hep.stats.entanglement import Entanglement, entanglement
from evenet_hep.stats.response import Response, fill_response
from evenet_hep.stats.spin_coefficients import (
    density_powers,
    measure_spin,
    spin_coefficients,
    spin_observables,
)
from evenet_hep.stats.unfold import unfold_bayes, unfold_svd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
UnfoldingMethod = Literal["bayes", "svd"]

N_M_TT = len(M_TT_EDGES) - 1
N_FLAT = N_M_TT * N_BINS
FLAT_EDGES = np.arange(N_FLAT + 1, dtype=np.float64)
EDGES = np.linspace(-1.0, 1.0, N_BINS + 1)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
ALL = tuple(range(15))
DIAGONAL = (6, 10, 14)  # C_kk, C_rr, C_nn among the fifteen
POWERS = density_powers(KAPPAS, "density_matrix")


class Settings(NamedTuple):
    """How spectra are unfolded.

    Parameters
    ----------
    method : {"bayes", "svd"}
        Iterated Bayes, or singular value decomposition as published.
    iterations : int
        Of the first.
    k : int
        Components of the second.
    """

    method: UnfoldingMethod = "bayes"
    iterations: int = 4
    k: int = 5


class Unfolding(NamedTuple):
    """Coefficients in every bin of m(ttbar), without their covariance.

    Parameters
    ----------
    values : float64 array, shape (4, n_observables)
        Coefficients, in the order of the observables that were asked for.
    gradient : float64 array, shape (4, n_observables, 80)
        Derivatives with respect to the measured bins of the spectrum of each.
    """

    values: FloatArray
    gradient: FloatArray


class Reference(NamedTuple):
    """Simulated events that say what is measured for what is true.

    Parameters
    ----------
    measured, true : float64 array, shape (n_observables, n_events)
        Flat bins of the measured and of the true values; NaN where there is none.
    weights : float64 array, shape (n_events,)
        With the spin correlations that the response shall have.
    """

    measured: FloatArray
    true: FloatArray
    weights: FloatArray

    def take(self, rows: npt.NDArray[Any]) -> Reference:
        """Some of the events."""
        return Reference(*(array[..., rows] for array in self))

    def resampled(self, counts: FloatArray) -> Reference:
        """The same events, each taken a number of times."""
        return self._replace(weights=self.weights * counts)


class SpinMatrix(NamedTuple):
    """The fifteen coefficients in every bin of m(ttbar), with the two parts of their covariance.

    Parameters
    ----------
    values : float64 array, shape (4, 15)
        In the order of :data:`~evenet_hep.stats.spin_coefficients.COEFFICIENTS`, in the sign of the density matrix.
    covariance_data : float64 array, shape (4, 15, 15)
        From the number of measured events.
    covariance_response : float64 array, shape (4, 15, 15)
        From the number of simulated events in the response; zero where there was no response.
    """

    values: FloatArray
    covariance_data: FloatArray
    covariance_response: FloatArray

    def is_known(self, m_tt_bin: int) -> bool:
        """Whether a bin of m(ttbar) has coefficients and their covariance."""
        parts = (self.values, self.covariance_data, self.covariance_response)
        return all(bool(np.isfinite(part[m_tt_bin]).all()) for part in parts)

    def markers(self, m_tt_bin: int, *, errors: Literal["data", "response", "both"] = "both") -> Entanglement:
        """Markers of entanglement of one bin of m(ttbar), with chosen uncertainties.

        Raises
        ------
        InputError
            If the bin has no coefficients (NaN): there were too few events.
        """
        parts = {
            "data": self.covariance_data[m_tt_bin],
            "response": self.covariance_response[m_tt_bin],
            "both": self.covariance_data[m_tt_bin] + self.covariance_response[m_tt_bin],
        }
        values = self.values[m_tt_bin]
        return entanglement(
            spin_coefficients(
                values[6:].reshape(3, 3),
                b_plus=values[:3],
                b_minus=values[3:6],
                covariance=parts[errors],
                convention="density_matrix",
            )
        )


def flat_bins(angles: SpinAngles, valid: BoolArray, observables: tuple[int, ...]) -> FloatArray:
    """Place on the axis of 80 bins of each observable of each event, at the centre of its bin; NaN where not valid.

    Parameters
    ----------
    angles : SpinAngles
    valid : bool array, shape (n_events,)
    observables : tuple of int
        Positions among the fifteen.

    Returns
    -------
    float64 array, shape (n_observables, n_events)

    Examples
    --------
    >>> one = np.array([0.96])
    >>> angles = SpinAngles(np.array([450.0]), one, np.stack([one] * 3), np.stack([one] * 3), one, one > 0)
    >>> flat_bins(angles, angles.valid, DIAGONAL)[0]  # m(ttbar) in the second bin, xi = 0.92 in the last
    array([39.5])
    """
    values = spin_observables(angles.cos_plus, angles.cos_minus)[list(observables)]
    values = np.where(valid, values, 0.0)
    place = np.clip(np.floor((values + 1) * N_BINS / 2), 0, N_BINS - 1)
    return np.where(valid, N_BINS * m_tt_bins(angles, valid) + place + 0.5, np.nan)


def m_tt_bins(angles: SpinAngles, valid: BoolArray) -> IntArray:
    """Bin of m(ttbar) of every event; -1 where not valid."""
    found = np.searchsorted(np.asarray(M_TT_EDGES), np.where(valid, angles.m_tt, 0.0), side="right") - 1
    return np.where(valid, found, -1)


def fill_responses(reference: Reference) -> list[Response]:
    """Response of every observable."""
    edges = {"reco_edges": FLAT_EDGES, "truth_edges": FLAT_EDGES}
    pairs = zip(reference.measured, reference.true, strict=True)
    return [with_neighbours(fill_response(m, t, weights=reference.weights, **edges)) for m, t in pairs]


def with_neighbours(response: Response) -> Response:
    """The response in which true bins that were never measured migrate as their nearest neighbour that was.

    Few simulated events have products of cosines near -1 and 1, where the density vanishes; without a migration such a bin
    could not be unfolded. Neighbours are looked for in the same bin of m(ttbar), and beyond it if there is none.
    """
    empty = response.migrations.sum(axis=0) <= 0
    if not empty.any():
        return response
    migrations, misses = response.migrations.copy(), response.misses.copy()
    bins = np.arange(len(empty))
    known = bins[~empty]
    for j in bins[empty]:
        distance = np.abs(known - j) + N_FLAT * (known // N_BINS != j // N_BINS)
        probabilities = response.probabilities[:, known[np.argmin(distance)]]
        # A bin without any simulated event counts as one of the lightest.
        content = response.truth[j] or response.truth[response.truth > 0].min()
        migrations[:, j] = content * probabilities
        misses[j] = content * (1.0 - probabilities.sum())
    return response._replace(migrations=migrations, misses=misses)


def fill_spectra(measured: FloatArray, weights: FloatArray) -> FloatArray:
    """Contents of the 80 bins of each observable, shape (n_observables, 80)."""
    there = np.isfinite(measured)
    return np.stack(
        [
            np.bincount(row[known].astype(np.int64), weights=weights[known], minlength=N_FLAT).astype(
                np.float64
            )
            for row, known in zip(measured, there, strict=True)
        ]
    )


def unfold_spectra(
    spectra: FloatArray,
    variances: FloatArray,
    responses: list[Response],
    observables: tuple[int, ...],
    settings: Settings,
) -> Unfolding:
    """Coefficients of some of the fifteen observables.

    Parameters
    ----------
    spectra, variances : float64 array, shape (n_observables, 80)
        Measured contents and their variances.
    responses : list of Response
        One for each observable.
    observables : tuple of int
        Which ones, as positions among the fifteen.
    settings : Settings
        How.
    """
    found = [
        _moment((spectra[o], FLAT_EDGES, variances[o]), responses[o], observable, settings)
        for o, observable in enumerate(observables)
    ]
    return Unfolding(np.stack([c for c, _ in found], axis=1), np.stack([g for _, g in found], axis=1))


def _moment(
    contents: tuple[FloatArray, FloatArray, FloatArray],
    response: Response,
    observable: int,
    settings: Settings,
) -> tuple[FloatArray, FloatArray]:
    """Coefficient in each bin of m(ttbar), shape (4,), and its derivatives with respect to the contents (4, 80)."""
    # The statistics of the response are studied by resampling: derivatives with respect to 6 400 entries are not needed.
    exact = response._replace(
        migrations_variance=np.zeros_like(response.migrations),
        misses_variance=np.zeros_like(response.misses),
        fakes_variance=np.zeros_like(response.fakes),
    )
    if settings.method == "svd":
        unfolded = unfold_svd(contents, exact, k=settings.k)
    else:
        unfolded = unfold_bayes(contents, exact, iterations=settings.iterations)
    scale = (9.0 if observable >= 6 else 3.0) / POWERS[observable]
    blocks = unfolded.values.reshape(N_M_TT, N_BINS)
    total = blocks.sum(axis=1)
    total = np.where(total > 0, total, np.nan)  # a bin without events has no coefficients
    means = blocks @ CENTERS / total
    weights = scale * (CENTERS - means[:, None]) / total[:, None]  # (4, 20)
    jacobian = unfolded.jacobian.reshape(N_M_TT, N_BINS, N_FLAT)
    return scale * means, np.einsum("mb,mbi->mi", weights, jacobian)


def data_covariance(unfolding: Unfolding, measured: FloatArray, variances: FloatArray) -> FloatArray:
    """Covariance of the coefficients from the events in the spectra.

    Parameters
    ----------
    unfolding : Unfolding
    measured : float64 array, shape (n_observables, n_events)
        Flat bins; NaN for events that are in no spectrum.
    variances : float64 array, shape (n_events,)
        Of what each event adds: its squared weight for a sample of such weights; the weight itself for data of which the
        sample is the expectation.

    Returns
    -------
    float64 array, shape (4, n_observables, n_observables)
    """
    there = np.isfinite(measured).all(axis=0)
    bins = measured[:, there].astype(np.int64)
    influence = np.stack([unfolding.gradient[:, o, row] for o, row in enumerate(bins)], axis=1)  # (4, O, n)
    return np.asarray(np.einsum("mae,e,mbe->mab", influence, variances[there], influence, optimize=True))


def response_covariance(
    spectra: FloatArray,
    variances: FloatArray,
    reference: Reference,
    observables: tuple[int, ...],
    settings: Settings,
    *,
    replicas: int,
    seed: int,
) -> FloatArray:
    """Covariance of the coefficients from the simulated events, by a Poisson bootstrap of them with the data as they are.

    Parameters
    ----------
    spectra, variances : float64 array, shape (n_observables, 80)
        The data.
    reference : Reference
        The simulation.
    observables, settings
        As for :func:`unfold_spectra`.
    replicas, seed : int
        Number of resampled simulations, and the seed of their random numbers.

    Returns
    -------
    float64 array, shape (4, n_observables, n_observables)
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(replicas):
        counts = rng.poisson(1.0, len(reference.weights)).astype(np.float64)
        responses = fill_responses(reference.resampled(counts))
        found.append(unfold_spectra(spectra, variances, responses, observables, settings).values)
    stacked = np.stack(found)  # (replicas, 4, O)
    return np.stack([_covariance(stacked[:, m]) for m in range(N_M_TT)])


def _covariance(replicas: FloatArray) -> FloatArray:
    """Covariance of the columns, of the rows without NaN; NaN with fewer than two of them."""
    known = replicas[np.isfinite(replicas).all(axis=1)]
    centred = known - (known.mean(axis=0) if len(known) else 0.0)
    return np.asarray(centred.T @ centred / (len(known) - 1 if len(known) > 1 else np.nan))


def true_matrix(angles: SpinAngles, valid: BoolArray, weights: FloatArray) -> SpinMatrix:
    """The coefficients of the generator, from the true angles of all events of each bin of m(ttbar)."""
    region = m_tt_bins(angles, valid)
    values, covariance = np.zeros((N_M_TT, 15)), np.zeros((N_M_TT, 15, 15))
    for m in range(N_M_TT):
        chosen = region == m
        found = measure_spin(angles.cos_plus[:, chosen], angles.cos_minus[:, chosen], weights=weights[chosen])
        values[m], covariance[m] = found.vector, found.covariance
    return SpinMatrix(values, covariance, np.zeros_like(covariance))
