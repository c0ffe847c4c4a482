"""Significance improvement and pairing under a shifted jet energy scale, for every method on the same events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.higgs_to_4b.measure import best_sic, pairing_of
from evenet_hep.analyses.higgs_to_4b.networks import Found
from evenet_hep.analyses.higgs_to_4b.pool import EventPool
from evenet_hep.analyses.stability import Stability
from evenet_hep.events.cloud import EventCloud
from evenet_hep.stats.pairing import Efficiency

Method = Callable[[EventCloud], Found]


class ShiftedResults(NamedTuple):
    """How results move.

    Parameters
    ----------
    sic, pairing : dict of str to Stability
        By method.
    """

    sic: dict[str, Stability]
    pairing: dict[str, Stability]


def binomial_error(efficiency: Efficiency) -> float:
    """Standard error of an efficiency that is not zero where none or all have passed.

    There the fraction is taken to be that of half an event.

    Examples
    --------
    >>> binomial_error(Efficiency(0.5, 0.05, 50, 100)), round(binomial_error(Efficiency(0.0, 0.0, 0, 9)), 3)
    (0.05, 0.073)
    """
    if 0 < efficiency.passed < efficiency.total:
        return efficiency.uncertainty
    fraction = (efficiency.passed + 0.5) / (efficiency.total + 1)
    return float(np.sqrt(fraction * (1 - fraction) / max(efficiency.total, 1)))


def measure_shifts(
    pool: EventPool,
    methods: Mapping[str, Method],
    shifts: npt.ArrayLike,
    *,
    progress: Callable[[], None] = lambda: None,
) -> ShiftedResults:
    """Results of every method under each of many shifts of the jet energy scale.

    All jets and the missing momentum move, the selection is applied again, and the methods see what it leaves.

    Parameters
    ----------
    pool : EventPool
        Events that pass nominally or with some shift.
    methods : mapping of str to callable
        Name -> what turns a cloud into scores and pairs.
    shifts : float array, shape (n_experiments,)
        Relative.
    progress : callable
        Called after every shift.
    """
    values = np.asarray(shifts, np.float64)
    results: dict[tuple[str, str], list[float]] = {}
    nominal: dict[tuple[str, str], tuple[float, float]] = {}
    for alpha in (0.0, *values):
        events = pool.events("test", alpha=float(alpha))
        for name, method in methods.items():
            found = method(events.cloud)
            numbers = {}
            if found.score is not None:
                best = best_sic(events, found.score)
                numbers["sic"] = (best.value, best.uncertainty)
            if found.slots is not None:
                right = pairing_of(events, found.slots).event_complete
                numbers["pairing"] = (right.value, binomial_error(right))
            for quantity, pair in numbers.items():
                if (quantity, name) not in nominal:
                    nominal[quantity, name] = pair
                    results[quantity, name] = []
                else:
                    results[quantity, name].append(pair[0])
        progress()
    stable = {
        key: Stability("jet energy scale", *nominal[key], values, np.array(numbers))
        for key, numbers in results.items()
    }
    return ShiftedResults(
        {name: each for (quantity, name), each in stable.items() if quantity == "sic"},
        {name: each for (quantity, name), each in stable.items() if quantity == "pairing"},
    )
