"""Signal strength, discovery significance and CLs limits of pyhf workspaces, each fit by Minuit and checked.

Asymptotic formulas of Cowan, Cranmer, Gross and Vitells (arXiv:1007.1727): q0 for discovery, q-tilde for limits,
CLs = p(s+b) / (1 - p(b)). A limit is a root of CLs - (1 - level). It is only as good as the fits under it, so the
likelihood at a limit is fitted again from other starting points, and CLs a tolerance below and above the limit must lie
on either side of its level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy.optimize import brentq
from scipy.stats import norm

from evenet_hep.errors import InputError
from evenet_hep.stats.profile_likelihood import (
    Likelihood,
    Workspace,
    check_valid,
    expected_data,
    lowest_strength,
    read_likelihood,
)

FloatArray = npt.NDArray[np.float64]

BANDS = (-2, -1, 0, 1, 2)
LARGEST = 1e8  # signal strength beyond which a limit counts as absent


class SignalFit(NamedTuple):
    """Signal strength of greatest likelihood.

    Parameters
    ----------
    mu : float
        Signal strength; may be negative as far as every bin keeps a positive expectation.
    uncertainty : float
        Standard deviation from the curvature of the likelihood.
    low, high : float
        68.3 % interval from the profile likelihood (Minos).
    minuit : iminuit.Minuit
        Of twice the negative log likelihood; its parameters are those of the workspace.
    """

    mu: float
    uncertainty: float
    low: float
    high: float
    minuit: Minuit


class Limit(NamedTuple):
    """Upper limit on the signal strength.

    Parameters
    ----------
    observed : float
        Limit from the data.
    expected : float64 array, shape (5,)
        Limits of the background hypothesis at -2, -1, 0, 1, 2 standard deviations; the median is ``expected[2]``.
    level : float
        Confidence level.
    tolerance : float
        Relative precision to which all six were verified.
    n_fits : int
        Fits that were made.
    minuit : iminuit.Minuit
        Best fit with signal strength from 0, on which the observed limit rests.
    """

    observed: float
    expected: FloatArray
    level: float
    tolerance: float
    n_fits: int
    minuit: Minuit


class Discovery(NamedTuple):
    """Significance of an excess over the background.

    Parameters
    ----------
    significance : float
        sqrt(q0); 0 for a deficit.
    p_value : float
        Of the background hypothesis, one-sided; 0.5 for a deficit.
    expected : float
        Median significance if the signal has strength 1 and every nuisance parameter its nominal value.
    mu : float
        Best signal strength from 0.
    minuit : iminuit.Minuit
        Best fit with signal strength from 0.
    """

    significance: float
    p_value: float
    expected: float
    mu: float
    minuit: Minuit


def fit_signal(workspace: Workspace) -> SignalFit:
    """Signal strength with its uncertainty.

    Parameters
    ----------
    workspace : mapping, str or path
        From :func:`~evenet_hep.stats.workspace.make_workspace`, or any pyhf workspace, or its JSON file.

    Returns
    -------
    SignalFit

    Raises
    ------
    InputError
        For a workspace that pyhf does not accept, without a parameter of interest, or a fit that does not converge.
    FileError
        For a file that cannot be read.
    ImportError
        Without pyhf.

    Examples
    --------
    >>> from evenet_hep.stats.workspace import make_workspace
    >>> samples = {"signal": ([10], [0, 1]), "background": ([50], [0, 1])}
    >>> spec = make_workspace(
    ...     {"SR": samples}, signal="signal", observed={"SR": ([55], [0, 1])}, mc_statistics=False
    ... )
    >>> fit = fit_signal(spec)
    >>> f"{fit.mu:.2f} +- {fit.uncertainty:.2f}, from {fit.low:.2f} to {fit.high:.2f}"
    '0.50 +- 0.74, from -0.21 to 1.28'
    """
    likelihood = read_likelihood(workspace)
    minuit = likelihood.fit(lowest=lowest_strength(likelihood))
    name = minuit.parameters[likelihood.poi]
    minuit.hesse()
    check_valid(minuit, "fit of the signal strength")
    minuit.minos(name)
    mu, error = float(minuit.values[name]), minuit.merrors[name]
    return SignalFit(mu, float(minuit.errors[name]), mu + float(error.lower), mu + float(error.upper), minuit)


def find_discovery(workspace: Workspace) -> Discovery:
    """Significance of the signal in the data, and the one expected for strength 1.

    Parameters
    ----------
    workspace
        As for :func:`fit_signal`.

    Returns
    -------
    Discovery

    Raises
    ------
    InputError, FileError, ImportError
        As for :func:`fit_signal`.

    Examples
    --------
    >>> from evenet_hep.stats.workspace import make_workspace
    >>> samples = {"signal": ([10], [0, 1]), "background": ([50], [0, 1])}
    >>> spec = make_workspace(
    ...     {"SR": samples}, signal="signal", observed={"SR": ([65], [0, 1])}, mc_statistics=False
    ... )
    >>> found = find_discovery(spec)
    >>> f"{found.significance:.3f}, p = {found.p_value:.3f}; expected {found.expected:.3f}"
    '2.027, p = 0.021; expected 1.371'
    """
    likelihood = read_likelihood(workspace)
    q0 = likelihood.q(0.0)
    best = likelihood.best()
    check_valid(best, "fit of the signal strength")
    nominal = np.array(likelihood.model.config.suggested_init(), np.float64)
    nominal[likelihood.poi] = 1.0
    asimov = Likelihood(likelihood.model, expected_data(likelihood.model, nominal))
    z = float(np.sqrt(q0))
    return Discovery(
        z, float(norm.sf(z)), float(np.sqrt(asimov.q(0.0))), float(best.values[likelihood.poi]), best
    )


def find_limit(workspace: Workspace, *, level: float = 0.95, tolerance: float = 1e-3) -> Limit:
    """Observed and expected CLs upper limits on the signal strength.

    Parameters
    ----------
    workspace
        As for :func:`fit_signal`.
    level : float
        Confidence level.
    tolerance : float
        Relative precision of each limit. CLs is evaluated a tolerance below and above it, by fits of their own.

    Returns
    -------
    Limit

    Raises
    ------
    InputError
        As :func:`fit_signal`; for a level or tolerance not in (0, 1); if no signal strength is excluded; if the
        precision is not reached.
    FileError, ImportError
        As for :func:`fit_signal`.

    Examples
    --------
    >>> from evenet_hep.stats.workspace import make_workspace
    >>> samples = {"signal": ([10], [0, 1]), "background": ([50], [0, 1])}
    >>> spec = make_workspace({"SR": samples}, signal="signal", mc_statistics=False)
    >>> limit = find_limit(spec)
    >>> f"{limit.observed:.2f}", limit.expected.round(2)
    ('1.52', array([0.78, 1.07, 1.52, 2.18, 3.05]))
    """
    for name, value in (("level", level), ("tolerance", tolerance)):
        if not 0 < value < 1:
            msg = f"{name} must lie between 0 and 1; found {value}"
            raise InputError(msg)
    likelihood = read_likelihood(workspace)
    lowest_strength(likelihood)  # says so if there is no signal
    check_valid(likelihood.best(), "fit of the signal strength")
    background = likelihood.fit(mu=0.0)
    check_valid(background, "fit of the background")
    asimov = Likelihood(likelihood.model, expected_data(likelihood.model, np.array(background.values)))

    def distance(mu: float, careful: bool) -> float:
        q = likelihood.q(mu, careful=careful)
        # More signal than tested does not speak against the tested one.
        q = 0.0 if likelihood.best().values[likelihood.poi] > mu else q
        return asymptotic_cls(q, asimov.q(mu, careful=careful)) - (1 - level)

    def band_distance(n_sigma: int, mu: float, careful: bool) -> float:
        # CLs = norm.sf(sqrt(qA) - n) / norm.cdf(n) falls with sqrt(qA): solved for that.
        return (
            n_sigma
            + float(norm.isf((1 - level) * norm.cdf(n_sigma)))
            - float(np.sqrt(asimov.q(mu, careful=careful)))
        )

    start = 1.0 / max(float(np.sqrt(asimov.q(1.0))), 1e-6)  # one standard deviation
    expected = [
        _root(partial(band_distance, n), start, tolerance, f"expected limit at {n} sigma") for n in BANDS
    ]
    observed = _root(distance, expected[2], tolerance, "observed limit")
    n_fits = likelihood.n_fits + asimov.n_fits
    return Limit(observed, np.array(expected), level, tolerance, n_fits, likelihood.best())


def asymptotic_cls(q: float, q_asimov: float) -> float:
    """CLs of the test statistic q-tilde (arXiv:1007.1727, Eqs. 64 to 66).

    Parameters
    ----------
    q : float
        Of the data; 0 where the best strength exceeds the tested one.
    q_asimov : float
        Of the background expectation.

    Returns
    -------
    float
        1 where there is no sensitivity at all.

    Examples
    --------
    >>> round(asymptotic_cls(3.84, 3.84), 3)  # data as expected: p(s+b) = 0.025, p(b) = 0.5
    0.05
    """
    if q_asimov <= 0:
        return 1.0
    root, root_asimov = np.sqrt(q), np.sqrt(q_asimov)
    shift = root - root_asimov if root <= root_asimov else (q - q_asimov) / (2 * root_asimov)
    return float(np.exp(norm.logsf(shift + root_asimov) - norm.logsf(shift)))


def _root(function: Callable[[float, bool], float], start: float, tolerance: float, name: str) -> float:
    """Where a falling function of the signal strength vanishes, verified on both sides by careful fits."""
    known: dict[float, float] = {}

    def quick(mu: float) -> float:
        # Remembered: a fit that starts elsewhere ends elsewhere in the last digits, which can turn the sign of a zero.
        if mu not in known:
            known[mu] = function(mu, False)
        return known[mu]

    low, high = start, start
    while quick(high) > 0:
        low, high = high, 2 * high
        if high > LARGEST * max(start, 1.0):
            msg = f"no {name} exists: no signal strength up to {high:.3g} is excluded"
            raise InputError(msg)
    while quick(low) <= 0:
        low, high = low / 2, low
        if low < start / LARGEST:
            msg = f"no {name} exists: signal strengths down to {low:.3g} are excluded"
            raise InputError(msg)
    root = float(brentq(quick, low, high, rtol=tolerance / 4, xtol=1e-12 * start))
    if not function(root * (1 - tolerance), True) > 0 > function(root * (1 + tolerance), True):
        msg = f"the {name} near {root:.6g} did not converge to the tolerance {tolerance:g}"
        raise InputError(msg)
    return root
