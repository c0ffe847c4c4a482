"""Signal strength, discovery significance and CLs limits of pyhf workspaces, each fit by Minuit and checked.

Asymptotic formulas of Cowan, Cranmer, Gross and Vitells (arXiv:1007.1727): q0 for discovery, q-tilde for limits,
CLs = p(s+b) / (1 - p(b)). A limit is a root of CLs - (1 - level). It is only as good as the fits under it, so the
likelihood at a limit is fitted again from other starting points, and CLs a tolerance below and above the limit must lie
on either side of its level.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from scipy.optimize import brentq
from scipy.stats import norm

from evenet_hep.errors import FileError, InputError

FloatArray = npt.NDArray[np.float64]
Workspace = Mapping[str, Any] | str | Path

BANDS = (-2, -1, 0, 1, 2)
# Interpolation between variations as the ROOT implementation and cabinetry do it: smooth at zero.
INTERPOLATION = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
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


class Likelihood:
    """Twice the negative log likelihood of a workspace, and fits of it.

    A class because the best fit of a data set is used again and again.

    Parameters
    ----------
    model : pyhf.Model
    data : float64 array
        Main and auxiliary data.
    """

    def __init__(self, model: Any, data: FloatArray) -> None:
        self.model, self.data = model, data
        self.n_fits = 0
        self.poi = int(model.config.poi_index)
        self._bounds = [tuple(map(float, pair)) for pair in model.config.suggested_bounds()]
        self._start = np.array(model.config.suggested_init(), np.float64)
        self._fixed = list(model.config.suggested_fixed())
        self._best: Minuit | None = None
        self._last: FloatArray | None = None

    def cost(self, parameters: npt.ArrayLike) -> float:
        """-2 ln L; large where the expectation of a bin is not positive."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = -2.0 * np.asarray(self.model.logpdf(list(np.asarray(parameters)), list(self.data))).item()
        return value if np.isfinite(value) else 1e10

    def fit(
        self,
        *,
        mu: float | None = None,
        lowest: float = 0.0,
        start: FloatArray | None = None,
        strategy: int = 1,
    ) -> Minuit:
        """Minuit at the minimum, with the signal strength fixed to ``mu`` or free from ``lowest``."""
        self.n_fits += 1
        x = np.array(self._start if start is None else start)
        x[self.poi] = max(x[self.poi], lowest) if mu is None else mu
        minuit = Minuit(self.cost, x, name=self.model.config.par_names)
        minuit.errordef = Minuit.LEAST_SQUARES  # of -2 ln L
        minuit.limits = self._bounds
        minuit.limits[self.poi] = (lowest, None)
        minuit.fixed = self._fixed
        minuit.fixed[self.poi] = mu is not None
        minuit.strategy, minuit.tol = strategy, 0.01
        if sum(not fixed for fixed in minuit.fixed) == 0:
            return minuit
        minuit.migrad()
        if not minuit.valid:
            minuit.strategy = 2
            minuit.migrad()
        return minuit

    def best(self) -> Minuit:
        """Best fit with signal strength from 0; kept."""
        if self._best is None:
            self._best = self.fit()
        return self._best

    def q(self, mu: float, *, careful: bool = True) -> float:
        """-2 ln of the likelihood ratio between ``mu`` and the best strength from 0.

        Careful: the lower of two minima, from nominal parameters and from where the last fit ended. Otherwise one fit
        from there, without the second derivatives.
        """
        best = self.best()
        last = np.array(best.values) if self._last is None else self._last
        fixed = self.fit(mu=mu, start=last, strategy=int(careful))
        if careful or not fixed.valid:
            fixed = min((fixed, self.fit(mu=mu)), key=_minimum)
        self._last = np.array(fixed.values)
        if _minimum(fixed) < _minimum(best) - 1e-3:  # then the best fit was none
            self._best = min((self.fit(start=self._last), best), key=_minimum)
        return max(_minimum(fixed) - _minimum(self.best()), 0.0)


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
    likelihood = _likelihood(workspace)
    minuit = likelihood.fit(lowest=_lowest(likelihood))
    name = minuit.parameters[likelihood.poi]
    minuit.hesse()
    _check_valid(minuit, "fit of the signal strength")
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
    likelihood = _likelihood(workspace)
    q0 = likelihood.q(0.0)
    best = likelihood.best()
    _check_valid(best, "fit of the signal strength")
    nominal = np.array(likelihood.model.config.suggested_init(), np.float64)
    nominal[likelihood.poi] = 1.0
    asimov = Likelihood(likelihood.model, _expected(likelihood.model, nominal))
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
    likelihood = _likelihood(workspace)
    _lowest(likelihood)  # says so if there is no signal
    _check_valid(likelihood.best(), "fit of the signal strength")
    background = likelihood.fit(mu=0.0)
    _check_valid(background, "fit of the background")
    asimov = Likelihood(likelihood.model, _expected(likelihood.model, np.array(background.values)))

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


def _likelihood(workspace: Workspace) -> Likelihood:
    pyhf = _import_pyhf()
    spec: Any = workspace
    if isinstance(workspace, str | Path):
        try:
            spec = json.loads(Path(workspace).read_text())
        except (OSError, ValueError) as error:
            msg = f"{workspace} must be a JSON file with a workspace; {error}"
            raise FileError(msg) from error
    try:
        with warnings.catch_warnings():
            # pyhf 0.7 calls the validator of its schema by an old name.
            warnings.filterwarnings("ignore", "jsonschema.RefResolver is deprecated", DeprecationWarning)
            whole = pyhf.Workspace(spec)
            model = whole.model(modifier_settings=INTERPOLATION)
        data = np.asarray(whole.data(model), np.float64)
    except (pyhf.exceptions.InvalidSpecification, pyhf.exceptions.InvalidModel, KeyError) as error:
        msg = (
            f"workspace must be a HistFactory model that pyhf accepts; it says: {str(error).splitlines()[0]}"
        )
        raise InputError(msg) from error
    if model.config.poi_index is None:
        msg = "workspace must name a parameter of interest in its measurement; found none"
        raise InputError(msg)
    return Likelihood(model, data)


def _lowest(likelihood: Likelihood) -> float:
    """Most negative signal strength at which every bin keeps a hundredth of its background, at nominal parameters."""
    x = np.array(likelihood.model.config.suggested_init(), np.float64)
    yields = []
    for mu in (0.0, 1.0):
        x[likelihood.poi] = mu
        yields.append(np.asarray(likelihood.model.expected_actualdata(list(x)), np.float64))
    background, signal = yields[0], yields[1] - yields[0]
    filled = signal > 0
    if not filled.any():
        msg = "the signal of the workspace must be positive in some bin; found none"
        raise InputError(msg)
    return float(-0.99 * (background[filled] / signal[filled]).min())


def _expected(model: Any, parameters: FloatArray) -> FloatArray:
    return np.asarray(model.expected_data(list(parameters)), np.float64)


def _minimum(minuit: Minuit) -> float:
    return float(minuit.fval) if minuit.fval is not None else float(minuit.fcn(minuit.values))


def _check_valid(minuit: Minuit, what: str) -> None:
    if minuit.fmin is not None and not minuit.valid:
        msg = f"the {what} did not converge: edm {minuit.fmin.edm:.2g}, {minuit.nfcn} evaluations"
        raise InputError(msg)


def _import_pyhf() -> Any:
    try:
        import pyhf  # noqa: PLC0415
    except ImportError as error:
        msg = "limits need pyhf: pip install 'evenet-hep[limits]'"
        raise ImportError(msg) from error
    return pyhf
