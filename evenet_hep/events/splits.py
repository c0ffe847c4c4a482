"""Which split an event belongs to: a hash of its run, luminosity block and number, the same everywhere and always.

The hash is three rounds of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) over the three numbers, begun with the
64-bit FNV-1a hash of a salt. It does not depend on the order of the events, on the files they stand in, on the
machine, or on Python's own hashes, which change from one process to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import ConfigError

UIntArray = npt.NDArray[np.uint64]

SALT = "evenet-hep"
SPLITS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FNV_START, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def event_hash(
    run: npt.ArrayLike, lumi: npt.ArrayLike, event: npt.ArrayLike, *, salt: str = SALT
) -> UIntArray:
    """A number between 0 and 2^64 - 1 for every event, evenly distributed.

    Parameters
    ----------
    run, lumi, event : int array, shape (n,)
        Run, luminosity block and number of the events; negative numbers count modulo 2^64.
    salt : str
        Another salt gives other numbers.

    Returns
    -------
    uint64 array, shape (n,)

    Examples
    --------
    >>> event_hash([1], [2], [3])
    array([15233875327902883414], dtype=uint64)
    """
    state = _FNV_START
    for byte in salt.encode():
        state = ((state ^ byte) * _FNV_PRIME) % 2**64
    values = np.full(np.shape(event), state, np.uint64)
    for number in (run, lumi, event):
        values = _mix(values ^ np.asarray(number).astype(np.uint64))
    return values


def _mix(values: UIntArray) -> UIntArray:
    """One step of splitmix64."""
    z = values + np.uint64(_STEP)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def check_splits(fractions: Mapping[str, float]) -> dict[str, float]:
    """The fractions as plain numbers.

    Raises
    ------
    ConfigError
        Unless they are at least 0 and add up to 1.
    """
    plain = {str(name): float(value) for name, value in fractions.items()}
    if not plain or min(plain.values()) < 0 or not math.isclose(sum(plain.values()), 1.0, abs_tol=1e-9):
        listed = ", ".join(f"{name} {value:g}" for name, value in plain.items()) or "nothing"
        msg = f"fractions of the splits must be at least 0 and add up to 1; found {listed}"
        raise ConfigError(msg)
    return plain


def split_of(
    run: npt.ArrayLike,
    lumi: npt.ArrayLike,
    event: npt.ArrayLike,
    fractions: Mapping[str, float] = SPLITS,
    *,
    salt: str = SALT,
) -> npt.NDArray[np.int8]:
    """Split of every event, by its hash.

    Parameters
    ----------
    run, lumi, event : int array, shape (n,)
        Run, luminosity block and number of the events.
    fractions : mapping of str to float
        Name of each split and the fraction of all events in it; they add up to 1.
    salt : str
        Another salt gives other splits.

    Returns
    -------
    int8 array, shape (n,)
        Position of the split in ``fractions``.

    Raises
    ------
    ConfigError
        For fractions that are negative or do not add up to 1.

    Examples
    --------
    >>> split_of([1, 1, 1], [2, 2, 2], [3, 4, 5], {"train": 0.5, "val": 0.5})
    array([1, 1, 1], dtype=int8)
    """
    edges = split_edges(fractions)
    return np.searchsorted(edges, event_hash(run, lumi, event, salt=salt), side="right").astype(np.int8)


def split_edges(fractions: Mapping[str, float]) -> UIntArray:
    """Hashes at which one split ends and the next begins, shape (n_splits - 1,)."""
    sums = np.cumsum(list(check_splits(fractions).values()))[:-1]
    # A split that ends at 1 holds all that is left; 2^64 itself does not fit.
    return np.array([min(round(float(s) * 2.0**64), 2**64 - 1) for s in sums], np.uint64)
