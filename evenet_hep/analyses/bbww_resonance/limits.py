"""Expected limits from binned scores, and toys that show that the fit finds what is there and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from numpy.random import Generator

from evenet_hep.errors import InputError
from evenet_hep.stats.limits import find_limit
from evenet_hep.stats.profile_likelihood import (
    Likelihood,
    lowest_strength,
    minimum,
    read_likelihood,
)
from evenet_hep.stats.workspace import make_workspace

FloatArray = npt.NDArray[np.float64]
Numbers = dict[str, Any]

TOLERANCE = 5e-3  # of a limit
PRECISION = 1e-12  # of a likelihood of a million events, where Minuit would expect a rounding error of 1e-16


class Template(NamedTuple):
    """Expected events in the bins of a score.

    Parameters
    ----------
    edges : float array, shape (n_bins + 1,)
    signal, background : float array, shape (n_bins,)
        At strength 1.
    signal_variance, background_variance : float array, shape (n_bins,)
        Of the simulation.
    """

    edges: FloatArray
    signal: FloatArray
    background: FloatArray
    signal_variance: FloatArray
    background_variance: FloatArray

    @classmethod
    def of(cls, signal: Any, background: Any) -> Template:
        """Of two weighted histograms with the same bins."""
        contents = [(each.values(), each.variances()) for each in (signal, background)]
        (s, vs), (b, vb) = contents
        return cls(np.asarray(signal.axes[0].edges), s, b, vs, vb)

    def scaled(self, strength: float) -> Template:
        """With another signal strength as the new unit."""
        return self._replace(
            signal=self.signal * strength, signal_variance=self.signal_variance * strength**2
        )


def workspace_of(
    template: Template,
    *,
    background_uncertainty: float,
    mc_statistics: bool = True,
    observed: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """HistFactory workspace of a binned score.

    Parameters
    ----------
    template : Template
    background_uncertainty : float
        Relative, of the total background.
    mc_statistics : bool
        One nuisance parameter per bin for the statistics of the simulated background.
    observed : array, shape (n_bins,), optional
        Data; the expected background by default.
    """
    edges = template.edges
    samples = {
        # Its own statistics would double the parameters; they make median limits weaker by one to six per cent.
        "signal": (template.signal, edges, np.zeros(len(template.signal))),
        "background": (template.background, edges, template.background_variance),
    }
    return make_workspace(
        {"score": samples},
        signal="signal",
        observed=None if observed is None else {"score": (observed, edges)},
        normalizations={"background_yield": {"background": background_uncertainty}},
        mc_statistics=mc_statistics,
    )


def natural_unit(template: Template) -> float:
    """About the standard deviation of the strength without signal: a unit in which fits work with numbers near one.

    The bins are taken alone, with the variance of their background, of events and of simulation; the uncertainty of the
    background yield is left out.

    Raises
    ------
    InputError
        If no bin has both signal and background.

    Examples
    --------
    >>> one, nothing = np.array([10.0]), np.array([0.0])
    >>> natural_unit(Template(np.array([0.0, 1.0]), one, np.array([75.0]), nothing, np.array([25.0])))
    1.0
    """
    variance = template.background + template.background_variance
    filled = variance > 0
    information = float((template.signal[filled] ** 2 / variance[filled]).sum())
    if not information > 0:
        msg = "no bin has signal over some background; a strength cannot be fitted"
        raise InputError(msg)
    return 1 / float(np.sqrt(information))


def expected_limit(template: Template, *, background_uncertainty: float, signal_pb: float) -> Numbers:
    """Expected 95 % CLs limits on the cross-section times branching fractions.

    Parameters
    ----------
    template : Template
    background_uncertainty : float
        Relative.
    signal_pb : float
        Cross-section at strength 1, in pb.

    Returns
    -------
    dict
        ``limit_pb`` (median), ``limit_pb_minus_2`` to ``limit_pb_plus_2`` (bands in standard deviations),
        ``limit_pb_infinite_simulation``: the median if the simulation had no statistical uncertainty; and ``problem``:
        empty, or why there are no limits and NaN in their place.
    """
    names = ("minus_2", "minus_1", "median", "plus_1", "plus_2")
    try:
        bands, infinite = _limits_pb(template, background_uncertainty, signal_pb)
        problem = ""
    except (
        InputError
    ) as error:  # told in the table: one score without a limit must not cost the others theirs
        bands, infinite, problem = np.full(len(names), np.nan), np.nan, str(error)
    numbers: Numbers = {f"limit_pb_{name}": float(value) for name, value in zip(names, bands, strict=True)}
    median = numbers.pop("limit_pb_median")
    return {"limit_pb": median, **numbers, "limit_pb_infinite_simulation": infinite, "problem": problem}


def _limits_pb(
    template: Template, background_uncertainty: float, signal_pb: float
) -> tuple[FloatArray, float]:
    unit = natural_unit(template)
    scaled = template.scaled(unit)
    spec = workspace_of(scaled, background_uncertainty=background_uncertainty)
    ideal = workspace_of(scaled, background_uncertainty=background_uncertainty, mc_statistics=False)
    found, infinite = (find_limit(each, tolerance=TOLERANCE).expected for each in (spec, ideal))
    return found * unit * signal_pb, float(infinite[2] * unit * signal_pb)


class Toys(NamedTuple):
    """Fits of toys at one strength; NaN where a fit did not converge.

    Parameters
    ----------
    mu : float array, shape (n_toys,)
        Fitted strengths.
    pull : float array, shape (n_toys,)
        Distance of the fit from the injected strength: the signed root of the likelihood ratio of the two. With a
        parabolic likelihood it is the difference over its error; here errors grow with the strength.
    """

    mu: FloatArray
    pull: FloatArray

    @property
    def z(self) -> FloatArray:
        """Significance of an excess where nothing was injected: sqrt(q0), 0 for a deficit."""
        return np.asarray(np.where(self.mu > 0, self.pull, np.where(np.isfinite(self.mu), 0.0, np.nan)))


def throw_toys(
    template: Template,
    strength: float,
    n_toys: int,
    rng: Generator,
    *,
    background_uncertainty: float,
) -> Toys:
    """Fit toys in which everything fluctuates that is uncertain: events (Poisson), background yield, simulation.

    Parameters
    ----------
    template : Template
    strength : float
        Injected.
    n_toys : int
    rng : Generator
    background_uncertainty : float
        Relative.

    Returns
    -------
    Toys
    """
    likelihood = read_likelihood(workspace_of(template, background_uncertainty=background_uncertainty))
    model = likelihood.model
    true = np.array(model.config.suggested_init(), np.float64)
    true[likelihood.poi] = strength
    expected = np.asarray(model.expected_data(list(true)), np.float64)
    n_bins = len(template.background)
    found = []
    for _ in range(n_toys):
        data = np.r_[rng.poisson(expected[:n_bins]), _fluctuated(expected[n_bins:], model, rng)]
        toy = Likelihood(model, data)
        free = _fit(toy, true)
        pull = _pull(toy, free, strength) if free.valid else np.nan
        found.append((float(free.values[toy.poi]) if free.valid else np.nan, pull))
    return Toys(*np.array(found).T)


def _fit(likelihood: Likelihood, start: FloatArray | None = None) -> Minuit:
    """Minuit at the minimum.

    Where bins hold hundreds of thousands of events the likelihood is the difference of large numbers. Minuit has to be told
    its rounding error, or it takes noise for slopes and does not converge.
    """
    minuit = likelihood.fit(lowest=lowest_strength(likelihood), start=start)
    if not minuit.valid:
        minuit.precision = PRECISION
        minuit.migrad()
    return minuit


def _pull(likelihood: Likelihood, free: Minuit, strength: float) -> float:
    """Signed root of the likelihood ratio of a strength and the best one."""
    fixed = likelihood.fit(mu=strength, start=np.array(free.values))
    root = float(np.sqrt(max(minimum(fixed) - minimum(free), 0.0)))
    return root if float(free.values[likelihood.poi]) > strength else -root


def _fluctuated(auxiliary: FloatArray, model: Any, rng: Generator) -> FloatArray:
    """Auxiliary measurements: normal, around their nominal values, with the widths the model gives them."""
    widths = [np.ravel(model.config.param_set(name).width()) for name in model.config.auxdata_order]
    return np.asarray(auxiliary + rng.normal(size=len(auxiliary)) * np.concatenate(widths))


def summarize_toys(toys: Toys, strength: float) -> Numbers:
    """Mean and width of the pulls, mean strength, and their statistical errors.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> found = summarize_toys(Toys(rng.normal(2.0, 0.5, 1000), rng.normal(size=1000)), 2.0)
    >>> abs(found["pull_mean"]) < 3 * found["pull_mean_error"], round(found["pull_width"], 1)
    (True, 1.0)
    """
    converged = np.isfinite(toys.mu)
    mu, pulls = toys.mu[converged], toys.pull[converged]
    n = len(pulls)
    width = float(pulls.std(ddof=1))
    return {
        "injected": strength,
        "toys": n,
        "failed": int((~converged).sum()),
        "found": float(mu.mean()),
        "found_error": float(mu.std(ddof=1) / np.sqrt(n)),
        "pull_mean": float(pulls.mean()),
        "pull_mean_error": float(width / np.sqrt(n)),
        "pull_width": width,
        "pull_width_error": float(width / np.sqrt(2 * (n - 1))),
    }


def count_false_positives(toys: Toys, thresholds: Sequence[float]) -> list[Numbers]:
    """How often toys without signal are found significant, against what the normal distribution expects.

    Examples
    --------
    >>> toys = Toys(np.array([-1.0, 0.5, 1.5, 2.5]), np.array([-1.0, 0.5, 1.5, 2.5]))
    >>> found = count_false_positives(toys, [1.0])[0]
    >>> found["rate"], round(found["rate_error"], 2), round(found["expected"], 3)
    (0.5, 0.25, 0.159)
    """
    from scipy.stats import norm  # noqa: PLC0415

    z = toys.z[np.isfinite(toys.z)]
    n = len(z)
    rows = []
    for threshold in thresholds:
        passed = int((z > threshold).sum())
        expected = float(norm.sf(threshold))
        rate = passed / n
        error = float(np.sqrt(max(rate * (1 - rate), expected * (1 - expected)) / n))
        rows.append(
            {
                "z": threshold,
                "toys": n,
                "passed": passed,
                "rate": rate,
                "rate_error": error,
                "expected": expected,
            }
        )
    return rows


def halves_closure(
    data: Template, template: Template, strength: float, *, background_uncertainty: float
) -> Numbers:
    """Fit the expectation of one half of the simulated events with the templates of the other.

    The events are independent and the classifiers have seen neither; what differs is chance. The uncertainty of the
    strength holds the statistics of the template; that of the half that plays the data is added to it.

    Parameters
    ----------
    data, template : Template
        Both halves, each scaled to the whole yield, in the same bins.
    strength : float
        Injected.
    background_uncertainty : float
        Relative.

    Returns
    -------
    dict
        ``injected``, ``found`` and ``pull`` (as in :class:`Toys`); NaN if the fit did not converge.
    """
    mixed = data.background + strength * data.signal
    spec = workspace_of(template, background_uncertainty=background_uncertainty, observed=mixed)
    likelihood = read_likelihood(spec)
    fit = _fit(likelihood)
    # The strength is about sum(w (d - b)) / sum(w s) with w = s / variance. What the simulation of the data adds to that:
    of_data = data.background_variance + strength**2 * data.signal_variance
    variance = np.maximum(template.background + template.background_variance, 1e-12)
    information = template.signal**2 / variance
    extra = float((information * of_data / variance).sum() / information.sum())
    if not fit.valid:
        return {"injected": strength, "found": np.nan, "pull": np.nan}
    pull = _pull(likelihood, fit, strength) / float(np.sqrt(1 + extra))
    return {"injected": strength, "found": float(fit.values[likelihood.poi]), "pull": pull}
