"""Pseudo-experiments that resample the generator or the data: two different spreads, kept apart by name.

``resample="generator"`` repeats the search with other generated events and leaves the data alone. Its spread says how
much the answer depends on training and sampling; the published +-0.4 standard deviations of the dimuon search are of this
kind, and no statistical error. ``resample="data"`` draws the data anew with a fluctuating total (every event enters a
Poisson number of times) and leaves the generated events alone: the statistical uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Resample = Literal["generator", "data"]


class PseudoExperiments(NamedTuple):
    """Results of repeated searches.

    Parameters
    ----------
    values : float64 array, shape (n_replicas,)
        One figure per pseudo-experiment; NaN where the search gave none.
    median, lower, upper : float
        50, 16 and 84 % quantiles of the finite values.
    resample : str
        ``"generator"``: spread of training and sampling; ``"data"``: statistical uncertainty.
    n_failed : int
        Searches without a finite result.
    """

    values: FloatArray
    median: float
    lower: float
    upper: float
    resample: Resample
    n_failed: int


def resample_data(n_events: int, *, seed: int | Sequence[int]) -> IntArray:
    """Indices of a bootstrap of data: every event a Poisson number of times, mean 1, so that the total fluctuates.

    Parameters
    ----------
    n_events : int
    seed : int or sequence of ints
        Of the random numbers.

    Returns
    -------
    int array, shape (about n_events,)

    Examples
    --------
    >>> resample_data(6, seed=1).tolist()
    [0, 0, 1, 2, 3, 5, 5]
    """
    return np.repeat(np.arange(n_events), np.random.default_rng(seed).poisson(1.0, n_events))


def resample_generator(n_generated: int, n_chosen: int, *, seed: int | Sequence[int]) -> IntArray:
    """Indices of a random choice of generated events, none twice.

    Parameters
    ----------
    n_generated, n_chosen : int
        How many there are and how many to take; 20 000 in the published search.
    seed : int or sequence of ints
        Of the random numbers.

    Returns
    -------
    int array, shape (n_chosen,)

    Raises
    ------
    InputError
        If more are to be chosen than there are.

    Examples
    --------
    >>> sorted(resample_generator(5, 5, seed=1).tolist())
    [0, 1, 2, 3, 4]
    """
    if not 0 < n_chosen <= n_generated:
        msg = f"n_chosen must be between 1 and the number of generated events; found {n_chosen} of {n_generated}"
        raise InputError(msg)
    return np.random.default_rng(seed).choice(n_generated, n_chosen, replace=False)


def pseudo_experiments(
    search: Callable[[FloatArray, FloatArray], float],
    data: npt.ArrayLike,
    generated: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    resample: Resample,
    n_replicas: int,
    n_chosen: int | None = None,
    seed: int,
) -> PseudoExperiments:
    """Repeat a search on resampled data or on resampled generated events.

    Parameters
    ----------
    search : callable
        From rows of data and rows of generated events to one figure, for example a significance. It should do all that
        depends on them, training included.
    data : array-like, shape (n_data, ...)
        One row per event.
    generated : array-like, shape (n_generated, ...), or list of such
        A list stands for generators trained anew; replicas go through it in turn. ``resample="data"`` uses the first.
    resample : str
        ``"generator"`` or ``"data"``; nothing is chosen silently.
    n_replicas : int
        Number of pseudo-experiments.
    n_chosen : int, optional
        Generated events per search, all by default. With a single generator and all of its events, every replica of
        ``resample="generator"`` would be the same; that is an error.
    seed : int
        Of the random numbers; replica k depends on ``seed`` and k alone.

    Returns
    -------
    PseudoExperiments

    Raises
    ------
    InputError
        For an unknown ``resample``, no replicas, or replicas that would all be the same.

    Examples
    --------
    >>> data, generated = np.arange(100.0), np.arange(1000.0)
    >>> mean = pseudo_experiments(lambda x, g: x.mean(), data, generated, resample="data", n_replicas=200, seed=1)
    >>> print(f"{mean.median:.0f} [{mean.lower:.0f}, {mean.upper:.0f}]")
    49 [47, 52]
    """
    rows = np.asarray(data, np.float64)
    sets = (
        [np.asarray(x, np.float64) for x in generated]
        if isinstance(generated, list | tuple) and np.ndim(generated[0]) > 0
        else [np.asarray(generated, np.float64)]
    )
    if resample not in ("generator", "data") or n_replicas < 1:
        msg = f"resample must be 'generator' or 'data', with at least one replica; found {resample!r} and {n_replicas}"
        raise InputError(msg)
    if resample == "generator" and len(sets) == 1 and n_chosen in (None, len(sets[0])):
        msg = "resampling the generator needs several generated sets, or n_chosen below the number of generated events"
        raise InputError(msg)
    values = np.full(n_replicas, np.nan)
    for k in range(n_replicas):
        if resample == "data":
            pool = sets[0]
            chosen = pool if n_chosen is None else pool[:n_chosen]
            values[k] = search(rows[resample_data(len(rows), seed=[seed, k])], chosen)
        else:
            pool = sets[k % len(sets)]
            size = len(pool) if n_chosen is None else n_chosen
            values[k] = search(rows, pool[resample_generator(len(pool), size, seed=[seed, k])])
    finite = values[np.isfinite(values)]
    lower, median, upper = np.quantile(finite, [0.16, 0.5, 0.84]) if len(finite) else [np.nan] * 3
    return PseudoExperiments(
        values, float(median), float(lower), float(upper), resample, len(values) - len(finite)
    )
