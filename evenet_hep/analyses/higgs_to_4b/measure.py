"""What is measured on the test events: significance improvement and pairing efficiency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.higgs_to_4b.networks import Found
from evenet_hep.analyses.higgs_to_4b.pool import SelectedEvents
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.stats.pairing import PairingEfficiencies, pairing_efficiencies
from evenet_hep.stats.sic import MaximumSic, maximum_sic

FloatArray = npt.NDArray[np.float64]

MINIMUM_BACKGROUND = 10.0


def trusted_weights(weight: npt.ArrayLike) -> FloatArray:
    """Weights of background whose sum is the yield or the effective number of simulated events, whichever is smaller.

    A cut that has to keep a yield of ten then also has to keep about ten simulated events: at high luminosity one event
    of multijets stands for thousands, and the yield alone would allow a maximum that this one event makes.

    Parameters
    ----------
    weight : float array, shape (n_events,)
        Expected events.

    Examples
    --------
    >>> trusted_weights([1000.0, 1000.0]), trusted_weights([0.5, 0.5])
    (array([1., 1.]), array([0.5, 0.5]))
    """
    values = np.asarray(weight, np.float64)
    total, squares = values.sum(), (values**2).sum()
    effective = total**2 / squares if squares > 0 else 0.0
    return values * min(1.0, effective / total) if total > 0 else values


def best_sic(events: SelectedEvents, score: npt.ArrayLike, *, sample: int | None = None) -> MaximumSic:
    """Largest significance improvement of a cut on a score.

    Parameters
    ----------
    events : SelectedEvents
        Background, and signal samples that weigh the same.
    score : float array, shape (n_events,)
    sample : int, optional
        One signal sample alone.
    """
    values = np.asarray(score, np.float64)
    keep = ~events.is_signal | (events.sample == sample) if sample is not None else np.ones(len(events), bool)
    weight = events.balanced_weight
    weight[~events.is_signal] = trusted_weights(events.weight[~events.is_signal])
    return maximum_sic(
        events.is_signal[keep], values[keep], weights=weight[keep], minimum_background=MINIMUM_BACKGROUND
    )


def pairing_of(
    events: SelectedEvents, slots: npt.ArrayLike, *, sample: int | None = None
) -> PairingEfficiencies:
    """Pairing efficiencies of the signal, or of one sample of it."""
    mine = events.is_signal if sample is None else events.sample == sample
    return pairing_efficiencies(events.targets[mine], np.asarray(slots)[mine], events.reconstructable[mine])


def results_of(events: SelectedEvents, found: Found) -> dict[str, Any]:
    """The numbers of one row of the table."""
    row: dict[str, Any] = {}
    signals = [int(number) for number in np.unique(events.sample[events.is_signal])]
    if found.score is not None:
        for name, sample in [("", None), *((f"_{events.samples[n]}", n) for n in signals)]:
            best = best_sic(events, found.score, sample=sample)
            row |= {f"sic{name}": best.value, f"sic{name}_uncertainty": best.uncertainty}
            if sample is None:
                row |= {
                    "signal_efficiency": best.signal_efficiency,
                    "background_efficiency": best.background_efficiency,
                    "simulated_background": best.background_efficiency * int((~events.is_signal).sum()),
                }
        area = area_under_curve(events.is_signal, found.score)
        row |= {"auc": area.value, "auc_uncertainty": area.uncertainty}
    if found.slots is not None:
        whole = pairing_of(events, found.slots)
        for name in ("event_complete", "event_partial", "event_all", "resonance"):
            efficiency = getattr(whole, name)
            row |= {
                f"pairing_{name}": efficiency.value,
                f"pairing_{name}_uncertainty": efficiency.uncertainty,
            }
        for number in signals:
            own = pairing_of(events, found.slots, sample=number).event_complete
            row |= {
                f"pairing_{events.samples[number]}": own.value,
                f"pairing_{events.samples[number]}_uncertainty": own.uncertainty,
            }
    return row
