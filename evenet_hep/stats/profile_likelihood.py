"""Likelihood of a pyhf workspace, fitted by Minuit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from iminuit import Minuit

from evenet_hep.errors import FileError, InputError

FloatArray = npt.NDArray[np.float64]
Workspace = Mapping[str, Any] | str | Path

# Interpolation between variations as the ROOT implementation and cabinetry do it: smooth at zero.
INTERPOLATION = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}


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
            fixed = min((fixed, self.fit(mu=mu)), key=minimum)
        self._last = np.array(fixed.values)
        if minimum(fixed) < minimum(best) - 1e-3:  # then the best fit was none
            self._best = min((self.fit(start=self._last), best), key=minimum)
        return max(minimum(fixed) - minimum(self.best()), 0.0)


def read_likelihood(workspace: Workspace) -> Likelihood:
    """Likelihood of a workspace or of its JSON file; errors as for :func:`~evenet_hep.stats.limits.fit_signal`."""
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
            # The schema has been checked; a second time costs as much as the fit.
            model = whole.model(modifier_settings=INTERPOLATION, validate=False)
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


def lowest_strength(likelihood: Likelihood) -> float:
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


def expected_data(model: Any, parameters: FloatArray) -> FloatArray:
    """Main and auxiliary data expected for parameters."""
    return np.asarray(model.expected_data(list(parameters)), np.float64)


def minimum(minuit: Minuit) -> float:
    """Smallest cost found; with every parameter fixed there is but one."""
    return float(minuit.fval) if minuit.fval is not None else float(minuit.fcn(minuit.values))


def check_valid(minuit: Minuit, what: str) -> None:
    """InputError for a fit that did not converge."""
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
