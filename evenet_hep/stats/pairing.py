"""How often the objects of an event were given to the right resonances, with every denominator that is in use."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Efficiency(NamedTuple):
    """A fraction of events or resonances.

    Parameters
    ----------
    value : float
        NaN if the denominator is empty.
    uncertainty : float
        Binomial standard deviation.
    passed, total : int
        Numerator and denominator.
    """

    value: float
    uncertainty: float
    passed: int
    total: int


class PairingEfficiencies(NamedTuple):
    """Pairing efficiencies of one sample.

    Parameters
    ----------
    event_complete : Efficiency
        Events with every resonance right, of those in which every resonance can be reconstructed.
    event_all : Efficiency
        The same numerator, of all events.
    event_partial : Efficiency
        Events with every reconstructable resonance right, of those that have at least one.
    resonance : Efficiency
        Reconstructable resonances that are right, of all reconstructable ones.
    """

    event_complete: Efficiency
    event_all: Efficiency
    event_partial: Efficiency
    resonance: Efficiency


def pairing_efficiencies(
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    reconstructable: npt.ArrayLike,
    *,
    daughters_symmetric: bool = True,
    resonances_symmetric: bool = True,
) -> PairingEfficiencies:
    """Fractions of correctly paired events and resonances.

    Parameters
    ----------
    truth, predicted : int array, shape (n_events, n_resonances, n_daughters)
        Indices of objects in the event; pad shorter decays with one and the same number.
    reconstructable : bool array, shape (n_events, n_resonances)
        All daughters of the true resonance are among the objects.
    daughters_symmetric : bool
        The order of the daughters within a resonance does not matter.
    resonances_symmetric : bool
        The resonances are identical: predictions are permuted such that most reconstructable ones are right.

    Returns
    -------
    PairingEfficiencies

    Raises
    ------
    InputError
        For shapes that do not fit.

    Examples
    --------
    >>> truth, predicted = [[[0, 1], [2, 3]], [[0, 1], [2, 3]]], [[[3, 2], [0, 1]], [[0, 1], [2, 4]]]
    >>> found = pairing_efficiencies(truth, predicted, [[True, True], [True, False]])
    >>> print(found.event_complete.value, found.event_all.value, found.event_partial.value, found.resonance.passed)
    1.0 0.5 1.0 3
    """
    true, guess, mask = np.asarray(truth), np.asarray(predicted), np.asarray(reconstructable, bool)
    if true.ndim != 3 or guess.shape != true.shape or mask.shape != true.shape[:2]:
        msg = (
            "truth and predicted must have shape (n_events, n_resonances, n_daughters), reconstructable one axis less; "
            f"found {true.shape}, {guess.shape}, {mask.shape}"
        )
        raise InputError(msg)
    if daughters_symmetric:
        true, guess = np.sort(true, axis=-1), np.sort(guess, axis=-1)
    orders = permutations(range(true.shape[1])) if resonances_symmetric else [tuple(range(true.shape[1]))]
    right = np.max(
        [((guess[:, list(order)] == true).all(axis=-1) & mask).sum(axis=-1) for order in orders], axis=0
    )
    wanted = mask.sum(axis=-1)
    complete, all_right = wanted == true.shape[1], right == wanted
    return PairingEfficiencies(
        event_complete=_efficiency((complete & all_right).sum(), complete.sum()),
        event_all=_efficiency((complete & all_right).sum(), len(true)),
        event_partial=_efficiency(((wanted > 0) & all_right).sum(), (wanted > 0).sum()),
        resonance=_efficiency(right.sum(), wanted.sum()),
    )


def _efficiency(passed: int, total: int) -> Efficiency:
    value = passed / total if total else float("nan")
    uncertainty = float(np.sqrt(value * (1 - value) / total)) if total else float("nan")
    return Efficiency(value=float(value), uncertainty=uncertainty, passed=int(passed), total=int(total))
