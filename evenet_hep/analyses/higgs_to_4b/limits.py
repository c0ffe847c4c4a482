"""Expected limits on the branching fraction from the score, and closure: is the injected signal found?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

from evenet_hep.analyses.higgs_to_4b.pool import SelectedEvents
from evenet_hep.stats.limits import find_limit
from evenet_hep.stats.profile_likelihood import lowest_strength, read_likelihood
from evenet_hep.stats.workspace import make_workspace

FloatArray = npt.NDArray[np.float64]
Histogram = tuple[FloatArray, FloatArray, FloatArray]  # values, edges, variances

FEWEST = 10  # simulated background events in a bin of the fit


def score_edges(
    score: npt.ArrayLike, is_signal: npt.ArrayLike, *, bins: int, fewest: int = FEWEST
) -> FloatArray:
    """Edges of bins that hold equal parts of the signal and enough background.

    Parameters
    ----------
    score : float array, shape (n_events,)
        In [0, 1].
    is_signal : bool array, shape (n_events,)
    bins : int
        At most; bins with too little background are merged with the one below.
    fewest : int
        Background events in every bin.

    Returns
    -------
    float64 array
        From 0 to 1; at least these two.

    Examples
    --------
    >>> score = np.r_[np.linspace(0.5, 1, 40), np.linspace(0, 0.8, 40)]
    >>> score_edges(score, np.repeat([True, False], 40), bins=4, fewest=5).round(2)
    array([0.  , 0.62, 1.  ])
    """
    values, signal = np.asarray(score, np.float64), np.asarray(is_signal, bool)
    quantiles = np.quantile(values[signal], np.linspace(0, 1, bins + 1)[1:-1])
    edges = [1.0]
    for edge in quantiles[::-1]:
        inside = ((values >= edge) & (values < edges[-1]) if len(edges) > 1 else values >= edge) & ~signal
        if inside.sum() >= fewest and edge < edges[-1]:
            edges.append(float(edge))
    if len(edges) > 1 and ((values < edges[-1]) & ~signal).sum() < fewest:
        edges.pop()
    return np.array([*([0.0] if edges[-1] > 0 else []), *edges[::-1]])


def fill(score: npt.ArrayLike, weight: npt.ArrayLike, edges: FloatArray) -> Histogram:
    """Values, edges and variances of a histogram; the last bin includes its upper edge."""
    values, w = np.asarray(score, np.float64), np.asarray(weight, np.float64)
    return (
        np.histogram(values, edges, weights=w)[0],
        edges,
        np.histogram(values, edges, weights=w**2)[0],
    )


class MassLimit(NamedTuple):
    """Expected limits for one signal sample.

    Parameters
    ----------
    sample : str
        Its name.
    expected : float64 array, shape (5,)
        On the branching fraction of H to aa to 4b, at -2 to 2 standard deviations; no uncertainty from the number of
        simulated events.
    with_simulation : float
        The median with that uncertainty; NaN if nothing is excluded.
    n_bins : int
        Bins of the fit.
    """

    sample: str
    expected: FloatArray
    with_simulation: float
    n_bins: int


def expected_limits(
    events: SelectedEvents, score: npt.ArrayLike, *, bins: int, background_uncertainty: float
) -> list[MassLimit]:
    """Expected 95 % limits on the branching fraction, one for each signal sample.

    Signal weights must be those of a branching fraction of one. All samples share one binning of the score.

    Parameters
    ----------
    events : SelectedEvents
        Test events.
    score : float array, shape (n_events,)
    bins : int
        At most, of the score.
    background_uncertainty : float
        Relative.
    """
    values = np.asarray(score, np.float64)
    edges = score_edges(values, events.is_signal, bins=bins)
    background = fill(values[~events.is_signal], events.weight[~events.is_signal], edges)
    found = []
    for number in np.unique(events.sample[events.is_signal]):
        mine = events.sample == number
        signal = fill(values[mine], events.weight[mine], edges)
        spec = _workspace(signal, background, background_uncertainty, mc_statistics=False)
        expected = find_limit(spec).expected
        spec = _workspace(signal, background, background_uncertainty, mc_statistics=True)
        found.append(MassLimit(events.samples[int(number)], expected, median_limit(spec), len(edges) - 1))
    return found


LARGEST = 1e6  # branching fraction beyond which nothing counts as excluded
MEDIAN_Q = (
    float(norm.isf(0.025)) ** 2
)  # q of the median 95 % CLs limit: CLs = 2 (1 - Phi(sqrt q)) without signal


def median_limit(workspace: dict[str, Any]) -> float:
    """Median expected 95 % limit of a workspace whose data are the background expectation; NaN if there is none.

    There may be none: with so few simulated events that no strength is too large for their uncertainty.

    Parameters
    ----------
    workspace : dict
        As :func:`~evenet_hep.stats.workspace.make_workspace` makes it without ``observed``.
    """
    likelihood = read_likelihood(workspace)
    high = 1e-4
    while likelihood.q(high) < MEDIAN_Q:
        high *= 2
        if high > LARGEST:
            return float("nan")
    return float(brentq(lambda mu: likelihood.q(mu) - MEDIAN_Q, high / 2, high, rtol=1e-3))


def _workspace(
    signal: Histogram,
    background: Histogram,
    uncertainty: float,
    *,
    mc_statistics: bool,
    observed: Histogram | None = None,
) -> dict[str, Any]:
    values, edges, _ = signal
    # The statistics of the simulated signal are left out: they would double the parameters for little.
    exact = (values, edges, np.zeros(len(values)))
    return make_workspace(
        {"score": {"signal": exact, "background": background}},
        signal="signal",
        observed=None if observed is None else {"score": observed},
        normalizations={"background_yield": {"background": uncertainty}} if uncertainty else None,
        mc_statistics=mc_statistics,
    )


class Injection(NamedTuple):
    """What pseudo-experiments with one injected strength gave.

    Parameters
    ----------
    injected : float
        Strength; one is a number of signal events equal to the square root of the number of background events.
    strengths, uncertainties : float64 array, shape (n_toys,)
        Fitted.
    significances : float64 array, shape (n_toys,)
        sqrt(q0).
    """

    injected: float
    strengths: FloatArray
    uncertainties: FloatArray
    significances: FloatArray

    def to_dict(self) -> dict[str, float]:
        """Means, spread and pulls with their standard errors, and the fraction above 1.64 standard deviations."""
        n = len(self.strengths)
        pulls = (self.strengths - self.injected) / self.uncertainties
        excess = float((self.significances > ONE_SIDED_5).mean())
        return {
            "injected": self.injected,
            "toys": n,
            "strength": float(self.strengths.mean()),
            "strength_error": float(self.strengths.std(ddof=1) / np.sqrt(n)),
            "mean_uncertainty": float(self.uncertainties.mean()),
            "pull_mean": float(pulls.mean()),
            "pull_mean_error": float(pulls.std(ddof=1) / np.sqrt(n)),
            "pull_width": float(pulls.std(ddof=1)),
            "pull_width_error": float(pulls.std(ddof=1) / np.sqrt(2 * (n - 1))),
            "found": excess,
            "found_error": float(np.sqrt(max(excess * (1 - excess), 1 / n**2) / n)),
        }


ONE_SIDED_5 = 1.6448536269514722  # significance of a p-value of 5 %


def inject(
    events: SelectedEvents,
    score: npt.ArrayLike,
    injected: float,
    *,
    n_toys: int,
    bins: int,
    background_uncertainty: float,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> Injection:
    """Pseudo-experiments in which simulated events play the data.

    In every pseudo-experiment a coin decides for each event whether it is used for the expectation or for the data, so
    that no event is on both sides, and each stands for one event of data: the luminosity is that at which the
    background has half as many events as were simulated. Signal is drawn from its half at random. The fit knows how
    few events its expectation was made of.

    Parameters
    ----------
    events : SelectedEvents
        Test events; their weights are not used.
    score : float array, shape (n_events,)
    injected : float
        Strength, in units of the square root of the number of background events.
    n_toys : int
    bins : int
        At most, of the score; edges are chosen from the events of the expectation.
    background_uncertainty : float
        Relative.
    seed : int
    progress : callable
        Called after every pseudo-experiment.
    """
    values = np.asarray(score, np.float64)
    rows: list[tuple[float, float, float]] = []
    n_background = int((~events.is_signal).sum()) / 2
    for toy in range(n_toys):
        rng = np.random.default_rng([seed, toy, round(1000 * injected)])
        is_data = rng.random(len(values)) < 0.5
        edges = score_edges(values[~is_data], events.is_signal[~is_data], bins=bins)
        expected = [values[~is_data & (events.is_signal == kind)] for kind in (True, False)]
        unit = np.sqrt(n_background)
        signal = fill(expected[0], np.full(len(expected[0]), unit / len(expected[0])), edges)
        background = fill(expected[1], np.ones(len(expected[1])), edges)
        pool = values[is_data & events.is_signal]
        number = min(rng.poisson(injected * unit), len(pool))
        data = np.r_[values[is_data & ~events.is_signal], rng.permutation(pool)[:number]]
        observed = fill(data, np.ones(len(data)), edges)
        rows.append(
            _fit(
                _workspace(signal, background, background_uncertainty, mc_statistics=True, observed=observed)
            )
        )
        progress()
    columns = np.array(rows).T
    return Injection(injected, columns[0], columns[1], columns[2])


def _fit(workspace: dict[str, Any]) -> tuple[float, float, float]:
    likelihood = read_likelihood(workspace)
    minuit = likelihood.fit(lowest=lowest_strength(likelihood))
    minuit.hesse()
    name = minuit.parameters[likelihood.poi]
    return float(minuit.values[name]), float(minuit.errors[name]), float(np.sqrt(likelihood.q(0.0)))


def linearity(injections: Sequence[Injection]) -> dict[str, float]:
    """Straight line through the mean strengths: slope and intercept, with their standard errors.

    Examples
    --------
    >>> line = linearity([Injection(x, np.array([x - 0.1, x + 0.1]), np.ones(2), np.ones(2)) for x in (0.0, 1.0, 2.0)])
    >>> round(line["slope"], 6), abs(round(line["intercept"], 6))
    (1.0, 0.0)
    """
    x = np.array([each.injected for each in injections])
    y = np.array([each.strengths.mean() for each in injections])
    error = np.array([each.strengths.std(ddof=1) / np.sqrt(len(each.strengths)) for each in injections])
    design = np.column_stack([x, np.ones_like(x)]) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    slope, intercept = covariance @ design.T @ (y / error)
    slope_error, intercept_error = np.sqrt(np.diagonal(covariance))
    return {
        "slope": float(slope),
        "slope_error": float(slope_error),
        "intercept": float(intercept),
        "intercept_error": float(intercept_error),
    }
