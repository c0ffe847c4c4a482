"""How well top pairs are reconstructed: pairing of the b jets, neutrinos, m(ttbar) and angles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.ttbar_spin.measure import DIAGONAL, N_M_TT, m_tt_bins
from evenet_hep.analyses.ttbar_spin.sample import SpinTruth
from evenet_hep.processors.ttbar_spin import ReconstructedTops
from evenet_hep.stats.pairing import pairing_efficiencies
from evenet_hep.stats.spin_coefficients import spin_observables

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def pairing_accuracy(found: ReconstructedTops, truth: SpinTruth, rows: IntArray) -> tuple[float, float, int]:
    """Fraction of selected events with all four objects where both b jets are with the right leptons.

    The denominator of Fig. 4b of the EveNet paper: selected events in which both tops can be reconstructed.

    Parameters
    ----------
    found : ReconstructedTops
        Of the events ``rows``.
    truth : SpinTruth
        Of all events.
    rows : int array

    Returns
    -------
    fraction, uncertainty, number of events in the denominator
    """
    chosen = np.flatnonzero(found.passed)
    complete = truth.is_complete[rows[chosen]]
    true = truth.jet_index[:, rows[chosen]].T[:, :, None]
    guess = found.bjet_index[:, chosen].T[:, :, None]
    sides = np.broadcast_to(
        np.arange(2)[None, :, None], true.shape
    )  # the lepton of each top is known by its charge
    result = pairing_efficiencies(
        np.concatenate([true, 100 + sides], axis=2),
        np.concatenate([guess, 100 + sides], axis=2),
        np.repeat(complete[:, None], 2, axis=1),
        resonances_symmetric=False,
    ).event_complete
    return result.value, result.uncertainty, result.total


def quality_row(name: str, found: ReconstructedTops, truth: SpinTruth, rows: IntArray) -> dict[str, Any]:
    """A row of the table of reconstructions: fractions, resolutions in GeV, and correlations with the truth."""
    accuracy, error, n_complete = pairing_accuracy(found, truth, rows)
    both = found.valid & truth.valid[rows]
    true_rows = rows[both]
    angles, true = found.angles, truth.angles
    m_tt = angles.m_tt[both] - true.m_tt[true_rows]
    neutrinos = np.concatenate(
        [
            found.neutrino[:3, both] - truth.neutrino[:3, true_rows],
            found.antineutrino[:3, both] - truth.antineutrino[:3, true_rows],
        ],
        axis=1,
    )
    xi = spin_observables(angles.cos_plus[:, both], angles.cos_minus[:, both])
    true_xi = spin_observables(true.cos_plus[:, true_rows], true.cos_minus[:, true_rows])
    row = {
        "reconstruction": name,
        "n_selected": int(found.passed.sum()),
        "reconstructed": float(found.valid.sum() / max(found.passed.sum(), 1)),
        "pairing": accuracy,
        "pairing_error": error,
        "n_complete": n_complete,
        "m_tt_median_shift": float(np.median(m_tt)),
        "m_tt_half_width_68": half_width(m_tt),
        "neutrino_pt_half_width_68": float(np.mean([half_width(x) for x in neutrinos[:2]])),
        "neutrino_pz_half_width_68": half_width(neutrinos[2]),
        "correlation_cos_phi": _correlation(angles.cos_phi[both], true.cos_phi[true_rows]),
    }
    for label, o in zip(("kk", "rr", "nn"), DIAGONAL, strict=True):
        row[f"correlation_xi_{label}"] = _correlation(xi[o], true_xi[o])
    migration = m_tt_migration(found, truth, rows)
    row["purity_below_400"] = (
        float(migration[0, 0] / migration[0].sum()) if migration[0].sum() else float("nan")
    )
    row["stability_below_400"] = (
        float(migration[0, 0] / migration[:, 0].sum()) if migration[:, 0].sum() else float("nan")
    )
    return row


def half_width(values: FloatArray) -> float:
    """Half of the central interval with 68 % of the values; NaN without any.

    Examples
    --------
    >>> half_width(np.arange(101.0))
    34.0
    """
    low, high = np.quantile(values, [0.16, 0.84]) if len(values) else (np.nan, np.nan)
    return float((high - low) / 2)


def m_tt_migration(found: ReconstructedTops, truth: SpinTruth, rows: IntArray) -> FloatArray:
    """Events by measured (rows) and true (columns) bin of m(ttbar), shape (4, 4)."""
    both = found.valid & truth.valid[rows]
    measured = m_tt_bins(found.angles, found.valid)[both]
    true = m_tt_bins(truth.angles, truth.valid)[rows[both]]
    counts = np.bincount(measured * N_M_TT + true, minlength=N_M_TT**2)
    return counts.reshape(N_M_TT, N_M_TT).astype(np.float64)


def _correlation(first: FloatArray, second: FloatArray) -> float:
    return float(np.corrcoef(first, second)[0, 1]) if len(first) > 2 else float("nan")
