"""How many background events a window holds, judged from its side bands, and how significant the rest is.

Observed sums of weights follow the scaled Poisson distribution (:mod:`evenet_hep.stats.weighted_poisson`); the
background is a smooth density fitted to the side bands. The test statistic compares a fit of side bands and window
together (no signal) with one in which the window has a signal of its own:

    q0 = -2 ln(L0 / L1), 0 for a deficit,    Z = sqrt(q0),    p0 = 1 - Phi(Z).

For several spectra, toys and a window that slides see :mod:`evenet_hep.stats.sideband_scan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import hist
import numpy as np
import numpy.typing as npt
from iminuit import Minuit
from numpy.polynomial import legendre

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import Background, Function, Polynomial, background_of
from evenet_hep.stats.sideband_likelihood import Scale, profile, regions_of, side_band_errors
from evenet_hep.stats.sideband_minuit import Regions, minuit_at
from evenet_hep.stats.significance import p_value
from evenet_hep.stats.spectrum import MassBins, Spectrum, spectrum_of, window_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An interval of a parameter.

    Parameters
    ----------
    lower, upper : float
        Ends; NaN where the likelihood does not rise enough to find one.
    """

    lower: float
    upper: float


class SidebandFit(NamedTuple):
    """Background, signal and significance in a window.

    Parameters
    ----------
    observed, observed_uncertainty : float
        Sum of weights in the window and square root of the sum of their squares.
    expected, uncertainty : float
        Background in the window from the side bands alone, and its standard deviation from the fit.
    signal, signal_uncertainty : float
        Observed minus expected; both uncertainties in quadrature.
    expected_null : float
        Background in the window from a fit of side bands and window without signal.
    significance, p0 : float
        Z = sqrt(q0) and its one-sided probability; 0 and 0.5 for a deficit.
    q0, q0_unclipped : float
        Test statistic, and the same without the zero for deficits.
    m2lnl, m2lnl_null : float
        -2 ln L with and without signal.
    deviance, n_dof : float, int
        Of the side bands: -2 ln(L / L of a perfect description), and bins minus parameters. Of meaning with a handful of
        equivalent events per bin.
    coefficients, covariance : float64 array, shape (n_parameters,) and (n_parameters, n_parameters)
        Parameters of the background from the side bands; within the remaining directions where positivity holds them.
    n_constrained : int
        Side-band bins at which positivity holds the background at zero.
    spectrum : Spectrum
    window : tuple of two floats
    background : Polynomial, Exponential or Function
    minuit, minuit_null : iminuit.Minuit
        Fits with and without ``signal``, at their minima.
    """

    observed: float
    observed_uncertainty: float
    expected: float
    uncertainty: float
    signal: float
    signal_uncertainty: float
    expected_null: float
    significance: float
    p0: float
    q0: float
    q0_unclipped: float
    m2lnl: float
    m2lnl_null: float
    deviance: float
    n_dof: int
    coefficients: FloatArray
    covariance: FloatArray
    n_constrained: int
    spectrum: Spectrum
    window: tuple[float, float]
    background: Background
    minuit: Minuit
    minuit_null: Minuit

    def signal_interval(self, *, level: float = 0.6827) -> Interval:
        """Central interval of the signal from the profile likelihood (Minos), for few events better than +-.

        Parameters
        ----------
        level : float
            Probability content, in (0, 1).

        Returns
        -------
        Interval
            NaN at an end that is not found, at both for an empty window.

        Raises
        ------
        InputError
            For a level outside (0, 1).
        """
        if not 0 < level < 1:
            msg = f"level must lie between 0 and 1; found {level}"
            raise InputError(msg)
        if self.minuit.fixed["signal"] or not self.minuit.valid:
            return Interval(float("nan"), float("nan"))
        self.minuit.minos("signal", cl=level)
        errors = self.minuit.merrors["signal"]
        return Interval(
            self.signal + errors.lower if errors.lower_valid else float("nan"),
            self.signal + errors.upper if errors.upper_valid else float("nan"),
        )

    def density(self, masses: npt.ArrayLike) -> FloatArray:
        """Background of the side-band fit in events per bin of mean side-band width.

        Parameters
        ----------
        masses : array-like
            In GeV.

        Returns
        -------
        float64 array
        """
        m = np.asarray(masses, np.float64)
        if isinstance(self.background, Function):
            return np.asarray(self.background.density(m, *self.coefficients), np.float64)
        low, high = self.spectrum.edges[[0, -1]]
        values = legendre.legval((2 * m - low - high) / (high - low), self.coefficients)
        linear = isinstance(self.background, Polynomial)
        return np.asarray(values if linear else np.exp(values))

    def plot(self, axes: Axes | None = None, **options: Any) -> Axes:
        """Draw the spectrum, the background and the window.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Made if absent.
        **options
            For the error bars of the spectrum.

        Returns
        -------
        matplotlib.axes.Axes
        """
        import matplotlib.pyplot as plt  # noqa: PLC0415

        target = plt.subplots()[1] if axes is None else axes
        spectrum = self.spectrum
        unit = spectrum.widths[~window_mask(spectrum, self.window)].mean()
        contents, errors = (
            values * unit / spectrum.widths for values in (spectrum.sumw, np.sqrt(spectrum.sumw2))
        )
        target.errorbar(
            spectrum.centers,
            contents,
            errors,
            **{"fmt": ".", "color": "black", "capsize": 0, "label": "data", **options},
        )
        masses = np.linspace(spectrum.edges[0], spectrum.edges[-1], 400)
        target.plot(
            masses, self.density(masses), label=f"background {self.expected:.1f} ± {self.uncertainty:.1f}"
        )
        target.axvspan(
            *self.window, alpha=0.15, label=f"window: {self.observed:.1f}, {self.significance:.1f} σ"
        )
        target.set_xlabel("mass [GeV]")
        target.set_ylabel(f"events / {unit:.3g} GeV")
        target.legend()
        return target


def fit_sideband(
    spectrum: hist.Hist[Any] | Spectrum | npt.ArrayLike,
    *,
    window: tuple[float, float] | None = None,
    background: Background | int | str = 5,
    edges: npt.ArrayLike | MassBins | None = None,
    weights: npt.ArrayLike | None = None,
    scale: Scale = "common",
    integrate: bool = False,
) -> SidebandFit:
    """Fit the side bands of a mass spectrum and compare the window with them.

    Parameters
    ----------
    spectrum : hist.Hist, Spectrum, or array-like of shape (n_events,)
        Histogram with one axis, or masses in GeV with ``edges``.
    window : tuple of two floats, optional
        Ends of the window in GeV, at bin edges; those of ``edges`` if it is a MassBins.
    background : int, str, Polynomial, Exponential or Function
        A number is the degree of a polynomial; ``"exponential"``; or a shape of :mod:`evenet_hep.stats.backgrounds`.
    edges : array-like or MassBins, optional
        Bin edges, with masses.
    weights : array-like, shape (n_events,), optional
        Event weights, with masses. Single weights may be negative, sums of bins not.
    scale : str
        ``"common"``: one factor sum w^2 / sum w for all side-band bins. ``"bin"``, as published: every bin is scaled by
        its own. With few events of uneven weight per bin that pulls the background down, by about
        (<w^3><w> / <w^2>^2 - 1) <w^2> / <w>^2 over the events per bin. Without weights the two are the same.
    integrate : bool
        Integrate the background over each side-band bin instead of taking it at the centre (published); for wide bins.

    Returns
    -------
    SidebandFit

    Raises
    ------
    InputError
        For a window that does not fit the bins, empty side bands, fewer side-band bins than parameters, bins with a
        negative sum, or a user's function that does not converge.

    Examples
    --------
    >>> masses = np.append(np.linspace(5.003, 15.993, 1100), np.linspace(9.6, 9.9, 60))
    >>> fit = fit_sideband(masses, edges=np.linspace(5, 16, 56), window=(9.2, 10.4), background=1)
    >>> print(f"{fit.observed:.0f} observed, {fit.expected:.1f} +- {fit.uncertainty:.1f} expected, {fit.significance:.1f} sigma")
    180 observed, 120.0 +- 3.9 expected, 4.8 sigma
    """
    limits = edges.limits if window is None and isinstance(edges, MassBins) else window
    if limits is None:
        msg = "window must be given, or edges as MassBins; found neither"
        raise InputError(msg)
    binned, shape = (
        spectrum_of(spectrum, edges=edges, weights=weights, window=limits),
        background_of(background),
    )
    regions = regions_of(binned, limits, shape, scale=scale, integrate=integrate)
    return _fit(regions, binned, limits, shape)


def _fit(
    regions: Regions, spectrum: Spectrum, window: tuple[float, float], background: Background
) -> SidebandFit:
    found = profile(regions)
    theta, active = found.theta[0], found.active[0]
    observed, expected = float(regions.sumw[-1]), float(found.expected[0])
    signal, q0 = observed - expected, float(found.q0[0])
    errors = side_band_errors(regions, theta, active)
    z = np.sqrt(q0) if signal > 0 else 0.0
    function = background if isinstance(background, Function) else None
    return SidebandFit(
        observed=observed,
        observed_uncertainty=float(np.sqrt(regions.sumw2[-1])),
        expected=expected,
        uncertainty=errors.uncertainty,
        signal=signal,
        signal_uncertainty=float(np.hypot(np.sqrt(regions.sumw2[-1]), errors.uncertainty)),
        expected_null=float(found.expected_null[0]),
        significance=float(z),
        p0=float(p_value(z)),
        q0=q0 if signal > 0 else 0.0,
        q0_unclipped=q0,
        m2lnl=float(found.m2lnl[0]),
        m2lnl_null=float(found.m2lnl_null[0]),
        deviance=errors.deviance,
        n_dof=len(active) - 1 - len(theta) + int(active.sum()),
        coefficients=theta,
        covariance=errors.covariance,
        n_constrained=int(active.sum()),
        spectrum=spectrum,
        window=window,
        background=background,
        minuit=minuit_at(regions, theta, active, signal=signal, function=function),
        minuit_null=minuit_at(
            regions, found.theta_null[0], found.active_null[0], signal=None, function=function
        ),
    )
