"""Fits of one histogram of decay angles: a coefficient of C, or the entanglement marker from cos phi.

Before and after unfolding: with a covariance matrix, least squares replace the likelihood.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from iminuit import Minuit

from evenet_hep.kinematics.spin import KAPPAS, Convention, product_bin_integrals
from evenet_hep.stats.contents import read_contents
from evenet_hep.stats.linear_density import LinearFit, fit_linear
from evenet_hep.stats.spin_coefficients import check_convention, check_edges, density_powers


class EntanglementFit(NamedTuple):
    """The trace of C from the distribution of cos phi, in both normalisations.

    Parameters
    ----------
    d_std, d_std_uncertainty : float
        tr C / 3 = -3 <cos phi> in the sign of the density matrix; entangled below -1/3 (Afik and de Nova, ATLAS, CMS).
    d_poster, d_poster_uncertainty : float
        -tr C = -3 ``d_std``; entangled above 1. It equals the ``d_paper`` of Eq. 7 of the EveNet paper if
        Ckk + Crr <= 0, as at threshold; cos phi cannot tell, so ``d_paper`` needs the matrix
        (:func:`~evenet_hep.stats.entanglement.entanglement`).
    significance : float
        Standard deviations of ``d_std`` below -1/3; negative above.
    fit : LinearFit
        The fit with its chi2, expected contents and Minuit object.
    minuit : iminuit.Minuit
        The same object as ``fit.minuit``.
    """

    d_std: float
    d_std_uncertainty: float
    d_poster: float
    d_poster_uncertainty: float
    significance: float
    fit: LinearFit
    minuit: Minuit


def fit_entanglement(
    histogram: Any,
    *,
    covariance: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
) -> EntanglementFit:
    """D from a histogram of cos phi, whose density is (1 + kappa+ kappa- D cos phi) / 2.

    Parameters
    ----------
    histogram : hist.Hist, or tuple (values, edges[, variances])
        Of the cosine between l+ and l- in the rest frames of their parents, from -1 to 1.
    covariance : array-like, shape (n_bins, n_bins), optional
        Of its contents, as unfolding gives it: then least squares replace the likelihood.
    kappas : tuple of two floats
        Analysing powers of l+ and l-. With (1, -1) a singlet follows (1 + cos phi) / 2.

    Returns
    -------
    EntanglementFit

    Raises
    ------
    InputError
        For edges that do not reach from -1 to 1, an empty histogram, negative contents (without ``covariance``), or a
        single bin.

    Examples
    --------
    >>> result = fit_entanglement(([300, 500], [-1.0, 0.0, 1.0]))
    >>> f"D = {result.d_std:.2f} +- {result.d_std_uncertainty:.2f}, {result.significance:.1f} sigma below -1/3"
    'D = -0.50 +- 0.07, 2.4 sigma below -1/3'
    """
    contents = read_contents(histogram)
    check_edges(contents.edges)
    power = density_powers(kappas, "density_matrix")[6]
    x = np.clip(contents.edges, -1.0, 1.0)
    fit = fit_linear(
        contents, np.diff(x) / 2, power * np.diff(x * x) / 4, name="d_std", covariance=covariance
    )
    above = (fit.value + 1 / 3) / fit.uncertainty if fit.uncertainty > 0 else float("nan")
    return EntanglementFit(
        fit.value, fit.uncertainty, -3 * fit.value, 3 * fit.uncertainty, -above, fit, fit.minuit
    )


def fit_correlation(
    histogram: Any,
    *,
    covariance: npt.ArrayLike | None = None,
    kappas: tuple[float, float] = KAPPAS,
    convention: Convention = "density_matrix",
) -> LinearFit:
    """One C_ij from a histogram of the products of two cosines, with exact bin integrals.

    Parameters
    ----------
    histogram : hist.Hist, or tuple (values, edges[, variances])
        Of cos(l+, axis i) cos(l-, axis j) from -1 to 1.
    covariance : array-like, shape (n_bins, n_bins), optional
        Of its contents, as unfolding gives it: then least squares replace the likelihood.
    kappas, convention
        As for :func:`measure_spin`.

    Returns
    -------
    LinearFit
        ``value`` is C_ij in ``convention``.

    Raises
    ------
    InputError
        For edges that do not reach from -1 to 1, an empty histogram, negative contents (without ``covariance``), or a
        single bin.

    Examples
    --------
    >>> fit = fit_correlation(([300, 200], [-1.0, 0.0, 1.0]))
    >>> f"{fit.value:.3f} +- {fit.uncertainty:.3f}"
    '0.800 +- 0.175'
    """
    check_convention(convention)
    contents = read_contents(histogram)
    check_edges(contents.edges)
    constant, slope = product_bin_integrals(np.clip(contents.edges, -1.0, 1.0))
    power = density_powers(kappas, convention)[6]
    return fit_linear(contents, constant, power * slope, name="C", covariance=covariance)
