"""Pseudo-experiments with shifted jet energies and missing momentum: what happens to D and to its uncertainty.

Every experiment selects, reconstructs and measures its events anew; response and pseudo-data are the nominal ones otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.stability import Stability
from evenet_hep.analyses.ttbar_spin.measure import (
    DIAGONAL,
    Reference,
    Settings,
    SpinMatrix,
    data_covariance,
    fill_responses,
    fill_spectra,
    flat_bins,
    unfold_spectra,
)
from evenet_hep.events.selection import select_tt2l
from evenet_hep.events.systematics import (
    clipped_lognormal,
    draw_energy_scales,
    draw_soft_met,
    draw_soft_met_noise,
    shift_soft_met_components,
    shift_soft_met_magnitude,
)
from evenet_hep.events.ttbar_dilepton import DileptonObjects
from evenet_hep.processors.ttbar_spin import ReconstructedTops
from evenet_hep.stats.response import Response

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

KINDS = ("energy scale", "soft MET magnitude", "soft MET noise", "soft MET components")
SOFTEST_BJET = 22.0  # GeV: what an energy scale of 10 % may still move above 25 GeV

Shift = Callable[[DileptonObjects], DileptonObjects]
Reconstruct = Callable[[DileptonObjects], ReconstructedTops]


class Experiments(NamedTuple):
    """D and its relative uncertainty below 400 GeV under shifts.

    Parameters
    ----------
    d, delta_d : Stability
        Of |Ckk + Crr| - Cnn and of sigma(D) / (D - 1), with the statistical errors of the projected luminosity.
    """

    d: Stability
    delta_d: Stability


def may_pass(objects: DileptonObjects) -> BoolArray:
    """Events that can be selected under some shift: two good leptons, and two b jets that are almost hard enough."""
    jets = objects.jets
    near = jets[(jets["btag"] > 0.5) & (jets["pt"] > SOFTEST_BJET)]
    leptons = select_tt2l(objects.leptons, near).opposite_sign
    return np.asarray(leptons & (ak.to_numpy(ak.num(near["pt"])) >= 2))


def draw_shifts(
    kind: str, n_experiments: int, n_events: int, rng: np.random.Generator
) -> list[tuple[float, Shift]]:
    """Shifts of a kind: a number that describes each (NaN where one number does not), and what it does to the events.

    ==========================  ================================================================================
    ``energy scale``            one alpha for all jets, normal with width 0.01, and the missing momentum with it
    ``soft MET magnitude``      another number of GeV for every event, a log-normal truncated to [0, 5] (paper)
    ``soft MET noise``          normal noise on both components, one width for all events (FAIR Universe)
    ``soft MET components``     one dx and one dy for all events, log-normal clipped to [0, 5] GeV (released code)
    ==========================  ================================================================================
    """
    if kind == "energy scale":
        alphas = draw_energy_scales(n_experiments, rng)
        return [(float(alpha), _scaled(float(alpha))) for alpha in alphas]
    shifts: list[tuple[float, Shift]] = []
    for _ in range(n_experiments):
        if kind == "soft MET magnitude":
            shifts.append((float("nan"), _lengthened(draw_soft_met(n_events, rng))))
        elif kind == "soft MET noise":
            shifts.append((float("nan"), _moved(*draw_soft_met_noise(n_events, rng))))
        else:
            dx, dy = clipped_lognormal(rng.normal(size=2))
            shifts.append((float("nan"), _moved(dx, dy)))
    return shifts


def _scaled(alpha: float) -> Shift:
    return lambda objects: objects.with_energy_scale(alpha)


def _lengthened(sizes: FloatArray) -> Shift:
    return lambda objects: dataclasses.replace(objects, met=shift_soft_met_magnitude(objects.met, sizes))


def _moved(dx: npt.ArrayLike, dy: npt.ArrayLike) -> Shift:
    return lambda objects: dataclasses.replace(objects, met=shift_soft_met_components(objects.met, dx, dy))


def run_experiments(
    objects: DileptonObjects,
    weights: FloatArray,
    reconstruct: Reconstruct,
    reference: Reference,
    settings: Settings,
    kind: str,
    *,
    n_experiments: int,
    expected: float,
    seed: int,
) -> Experiments:
    """Pseudo-experiments of one kind of shift.

    Parameters
    ----------
    objects : DileptonObjects
        Events that may pass.
    weights : float64 array, shape (n_events,)
        Their weights, with spin correlations.
    reconstruct : callable
        Objects -> reconstructed tops.
    reference : Reference
        Nominal simulation for the products kk, rr and nn.
    settings : Settings
        Of the unfolding.
    kind : str
        One of :data:`KINDS`.
    n_experiments : int
    expected : float
        Variance of ``weights`` over that of the projected data, see
        :func:`~evenet_hep.analyses.ttbar_spin.result.measure`.
    seed : int
    """
    responses = fill_responses(reference)
    nominal = _marker(objects, weights, reconstruct, responses, settings, expected)
    rng = np.random.default_rng(seed)
    sizes, results = [], []
    for size, shift in draw_shifts(kind, n_experiments, len(objects), rng):
        sizes.append(size)
        results.append(_marker(shift(objects), weights, reconstruct, responses, settings, expected))
    found = np.array(results)  # (experiments, 2): D and its error
    d, sigma = nominal
    shifts = np.array(sizes)
    relative = sigma / (d - 1.0)
    return Experiments(
        Stability(kind, d, sigma, shifts, found[:, 0]),
        # The relative uncertainty inherits its own statistical error from the D in its denominator.
        Stability(
            kind, relative, abs(relative * sigma / (d - 1.0)), shifts, found[:, 1] / (found[:, 0] - 1.0)
        ),
    )


def _marker(
    objects: DileptonObjects,
    weights: FloatArray,
    reconstruct: Reconstruct,
    responses: list[Response],
    settings: Settings,
    expected: float,
) -> tuple[float, float]:
    """D and its statistical error in the projection, below 400 GeV."""
    tops = reconstruct(objects)
    bins = flat_bins(tops.angles, tops.valid, DIAGONAL)
    spectra, variances = fill_spectra(bins, weights), fill_spectra(bins, weights**2)
    unfolding = unfold_spectra(spectra, variances, responses, DIAGONAL, settings)
    covariance = data_covariance(unfolding, bins, np.maximum(weights, 0.0)) / expected
    matrix, wide = np.zeros((1, 15)), np.zeros((1, 15, 15))
    matrix[0, DIAGONAL] = unfolding.values[0]
    wide[np.ix_([0], DIAGONAL, DIAGONAL)] = covariance[:1]
    spin = SpinMatrix(matrix, wide, np.zeros_like(wide))
    if not spin.is_known(0):
        return float("nan"), float("nan")  # too few events
    found = spin.markers(0, errors="data").d_paper
    return found.value, found.uncertainty
