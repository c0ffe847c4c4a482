"""Side-band fits: every shape, degenerate spectra, what Minuit says about the exact solution, scans."""

from __future__ import annotations

from typing import Any

import hist
import matplotlib as mpl
import numpy as np
import pytest
from scipy import optimize

from evenet_hep.errors import InputError
from evenet_hep.stats.backgrounds import Exponential, Function, Polynomial
from evenet_hep.stats.mass_density import fit_mass_density
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.sideband_scan import scan_sidebands, sideband_toys
from evenet_hep.stats.spectrum import Spectrum, bin_masses, mass_bins, spectrum_of
from evenet_hep.stats.weighted_poisson import scale_factors, scaled_poisson_logpdf

mpl.use("Agg")
BINS = mass_bins()
SLOPE = 4.0  # GeV


def falling(seed: int, n: int, n_signal: int = 0) -> np.ndarray:
    """Masses of an exponential background between 5 and 16 GeV and a narrow signal at 9.8 GeV."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(size=rng.poisson(n))
    background = 5 - SLOPE * np.log(1 - u * (1 - np.exp(-11 / SLOPE)))
    return np.append(background, rng.normal(9.8, 0.1, rng.poisson(n_signal)))


def spectrum(contents: Any, sumw2: Any = None) -> Spectrum:
    y = np.asarray(contents, float)
    return Spectrum(np.arange(len(y) + 1.0), y, y if sumw2 is None else np.asarray(sumw2, float))


def test_histogram_and_masses_give_the_same() -> None:
    masses, weights = falling(1, 2000), np.random.default_rng(2).uniform(0.5, 2, 10**4)
    weights = weights[: len(masses)]
    edges = np.linspace(5, 16, 56)
    h = hist.Hist.new.Var(edges).Weight().fill(masses, weight=weights)
    a = fit_sideband(h, window=(9.2, 10.4), background=3)
    b = fit_sideband(masses, edges=edges, weights=weights, window=(9.2, 10.4), background=3)
    assert a.significance == pytest.approx(b.significance)
    assert a.expected == pytest.approx(b.expected)


def test_result_adds_up() -> None:
    fit = fit_sideband(falling(3, 5000, 150), edges=BINS)
    assert fit.signal == fit.observed - fit.expected
    assert fit.significance == pytest.approx(np.sqrt(fit.q0))
    assert fit.q0 == pytest.approx(fit.m2lnl_null - fit.m2lnl)
    assert fit.signal_uncertainty == pytest.approx(np.hypot(fit.uncertainty, np.sqrt(fit.observed)))
    assert fit.expected < fit.expected_null < fit.observed
    assert 0.5 < fit.deviance / fit.n_dof < 1.5
    assert fit.n_dof == 64 - 6


def test_deficit_is_zero_sigma() -> None:
    masses = falling(4, 5000)
    fit = fit_sideband(masses[(masses < 9.3) | (masses > 10.3)], edges=BINS)
    assert fit.signal < 0
    assert (fit.q0, fit.significance, fit.p0) == (0, 0, 0.5)
    assert fit.q0_unclipped > 10


@pytest.mark.parametrize("background", [5, 3, "exponential", Exponential(2), Polynomial(0)])
def test_minuit_stands_at_the_minimum(background: Any) -> None:
    fit = fit_sideband(falling(5, 3000, 60), edges=BINS, background=background)
    for minuit, m2lnl in ((fit.minuit, fit.m2lnl), (fit.minuit_null, fit.m2lnl_null)):
        assert minuit.valid
        assert minuit.fval == pytest.approx(m2lnl, abs=1e-5)
    assert fit.minuit.values["signal"] == pytest.approx(fit.signal, abs=0.01)
    assert fit.minuit.errors["signal"] == pytest.approx(fit.signal_uncertainty, rel=0.02)
    names = [name for name in fit.minuit.parameters if name != "signal"]
    errors = np.sqrt(np.diag(fit.covariance))
    np.testing.assert_allclose([fit.minuit.errors[name] for name in names], errors, rtol=0.02)


def test_gradient_is_the_slope_of_the_cost() -> None:
    for background in (3, Exponential(2)):
        fit = fit_sideband(falling(6, 300, 10), edges=BINS, background=background)
        point = np.array(fit.minuit.values) + 0.3 * np.array(fit.minuit.errors)
        cost = fit.minuit.fcn
        numeric = optimize.approx_fprime(point, lambda x, cost=cost: cost(list(x)), 1e-6)
        np.testing.assert_allclose(cost.gradient(list(point)), numeric, rtol=1e-3, atol=1e-2)


def test_user_function_agrees_with_the_built_in_shape() -> None:
    masses = falling(7, 4000)
    own = Function(lambda m, level, slope: level * np.exp(-(m - 5) / slope), {"level": 100.0, "slope": 3.0})
    a = fit_sideband(masses, edges=BINS, background=own)
    b = fit_sideband(masses, edges=BINS, background="exponential")
    assert a.expected == pytest.approx(b.expected, rel=1e-4)
    assert a.uncertainty == pytest.approx(b.uncertainty, rel=1e-2)
    assert a.q0_unclipped == pytest.approx(b.q0_unclipped, abs=1e-3)
    assert a.coefficients[1] == pytest.approx(SLOPE, abs=5 * np.sqrt(a.covariance[1, 1]))
    np.testing.assert_allclose(a.density([6.0, 12.0]), b.density([6.0, 12.0]), rtol=1e-3)


def test_user_function_with_limits() -> None:
    own = Function(lambda m, level: level + 0 * m, {"level": 1.0}, {"level": (0, 20)})
    fit = fit_sideband(spectrum([10, 12, 30, 9, 9]), window=(2, 3), background=own)
    assert fit.expected == pytest.approx(10, rel=1e-3)
    assert fit.minuit.valid


def test_exact_solver_beats_a_general_one() -> None:
    """A minimiser on the same likelihood, from many starts, finds nothing lower."""
    fit = fit_sideband(falling(8, 400), edges=BINS, background=3)
    outside = (BINS.edges[:-1] < 9) | (BINS.edges[:-1] > 10.5)
    y = fit.spectrum.sumw[outside]
    m = fit.spectrum.centers[outside]
    x = (2 * m - BINS.edges[0] - BINS.edges[-1]) / (BINS.edges[-1] - BINS.edges[0])
    design = np.polynomial.legendre.legvander(x, 3)

    def cost(theta: np.ndarray) -> float:
        rate = design @ theta
        if (rate < 0).any() or ((rate == 0) & (y > 0)).any():
            return 1e9
        return float(-2 * scaled_poisson_logpdf(y, np.ones_like(y), rate).sum())

    mine = cost(fit.coefficients)
    for scale in (0.5, 1.0, 1.05):
        other = optimize.minimize(
            cost, fit.coefficients * scale, method="Nelder-Mead", options={"maxiter": 4000, "maxfev": 4000}
        )
        assert other.fun >= mine - 1e-7


def test_positivity_holds_the_background() -> None:
    """Events only at one end: a cubic would go negative elsewhere."""
    contents = np.array([90, 55, 33, 20, 12, 7, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0])
    fit = fit_sideband(spectrum(contents), window=(5, 7), background=3)
    assert fit.n_constrained > 0
    assert fit.minuit.valid
    assert fit.density(fit.spectrum.centers).min() > -1e-6
    assert fit.minuit.parameters[1] == "u0"
    assert fit.uncertainty > 0


def test_minuit_knows_how_bad_a_bad_fit_is() -> None:
    """Rates far below the contents are where the cost is continued; it must begin below the minimum."""
    contents = [2e5, 3e4, 500, 100, 20, 4, 1]
    for background in (0, "exponential"):
        fit = fit_sideband(spectrum(contents), window=(3, 4), background=background)
        assert fit.deviance > 1000
        assert fit.minuit.fval == pytest.approx(fit.m2lnl, abs=1e-3)


def test_a_fit_that_does_not_converge_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenet_hep.stats.sideband_solver.MAX_STEPS", 1)
    with pytest.raises(InputError, match="did not converge for 1 of 1 spectra"):
        fit_sideband(falling(5, 3000, 60), edges=BINS, background=5)


def test_a_billion_events() -> None:
    edges = np.linspace(0, 10, 21)
    contents = np.round(1e7 * np.exp(-edges[:-1] / 5))
    fit = fit_sideband(Spectrum(edges, contents, contents), window=(4, 5), background="exponential")
    assert fit.minuit.valid
    assert fit.signal_uncertainty < 1e-3 * fit.observed


def test_exponential_far_outside_the_side_bands_is_not_known() -> None:
    contents = np.append(np.zeros(20), [1, 30])
    fit = fit_sideband(spectrum(contents), window=(0, 18), background="exponential")
    assert fit.expected >= 0
    assert fit.uncertainty >= 0
    falling_end = fit_sideband(spectrum(contents[::-1]), window=(0, 1), background="exponential")
    assert falling_end.uncertainty > falling_end.expected / 3


def test_integrated_bins_for_wide_bins() -> None:
    """Curvature within a bin shifts its centre; the integral does not care."""
    edges = np.linspace(5, 16, 12)
    truth = -np.diff(np.exp(-(edges - 5) / 2.0)) * 1e7
    binned = Spectrum(edges, truth, truth)
    integrated = fit_sideband(binned, window=(9, 11), background="exponential", integrate=True)
    centers = fit_sideband(binned, window=(9, 11), background="exponential")
    expected = truth[4:6].sum()
    assert integrated.expected == pytest.approx(expected, rel=1e-6)
    assert abs(centers.expected / expected - 1) > 1e-3


def test_unequal_bins() -> None:
    edges = np.array([0, 1, 3, 4, 5, 7, 8.0])
    contents = 10 * np.diff(edges)
    fit = fit_sideband(Spectrum(edges, contents, contents), window=(3, 5), background=0)
    assert fit.expected == pytest.approx(20)


def test_interval_of_the_signal() -> None:
    fit = fit_sideband(falling(9, 2000, 80), edges=BINS, background=3)
    interval = fit.signal_interval()
    assert interval.lower < fit.signal < interval.upper
    assert (interval.upper - interval.lower) / 2 == pytest.approx(fit.signal_uncertainty, rel=0.03)
    with pytest.raises(InputError, match="level"):
        fit.signal_interval(level=68.0)


def test_scale_options() -> None:
    weights = np.random.default_rng(1).exponential(1, 20000)
    masses = falling(10, 3000)
    fits = [
        fit_sideband(masses, edges=BINS, weights=weights[: len(masses)], scale=scale)
        for scale in ("bin", "common")
    ]
    assert fits[0].expected < fits[1].expected  # the bias that the docstring warns of
    ones = [fit_sideband(masses, edges=BINS, scale=scale).q0_unclipped for scale in ("bin", "common")]
    assert ones[0] == pytest.approx(ones[1])


# Degenerate input: an answer or one clear sentence.


def test_empty_window() -> None:
    fit = fit_sideband(spectrum([9, 11, 0, 10, 10]), window=(2, 3), background=1)
    assert fit.signal == -fit.expected == pytest.approx(-10, abs=0.5)
    assert fit.significance == 0
    assert fit.minuit.valid
    assert fit.minuit.fval == pytest.approx(fit.m2lnl)
    assert np.isnan(fit.signal_interval()).all()


@pytest.mark.parametrize(
    ("contents", "window", "options", "words"),
    [
        ([0, 0, 5, 0, 0], (2, 3), {"background": 1}, "side bands .* are empty"),
        ([0, 0, 0, 0, 0], (2, 3), {"background": 1}, "side bands .* are empty"),
        ([5], (0, 1), {"background": 0}, "leaves no side band"),
        ([5, 6], (0, 2), {"background": 0}, "leaves no side band"),
        ([5, 6, 7], (1, 2), {"background": 5}, "6 parameters needs as many side-band bins; found 2"),
        ([5, 6, 7], (7, 8), {"background": 0}, "must lie inside the spectrum"),
        ([5, 6, 7], (0.5, 2), {"background": 0}, "begin and end at bin edges; the nearest are 0 and 2"),
        ([5, 6, 7], (2, 1), {"background": 0}, "a lower and a higher end"),
        ([5, 6, 7], (1, 2), {"background": "cubic"}, "background must be a degree"),
        ([5, 6, 7], (1, 2), {"background": -1}, "background must be a degree"),
        ([5, 6, 7], (1, 2), {"background": 0, "scale": "smooth"}, "scale must be"),
        ([5, -1, 7, 5], (2, 3), {"background": 0}, "not positive"),
    ],
)
def test_one_clear_sentence(contents: Any, window: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_sideband(spectrum(contents, np.abs(contents)), window=window, **options)


def test_errors_of_masses_and_histograms() -> None:
    masses = falling(11, 100)
    with pytest.raises(InputError, match="masses need edges"):
        fit_sideband(masses, window=(9, 10))
    with pytest.raises(InputError, match="window must be given"):
        fit_sideband(masses, edges=[5, 6, 7])
    with pytest.raises(InputError, match="finite"):
        bin_masses([np.nan], [0, 1])
    with pytest.raises(InputError, match="ascend"):
        bin_masses([1.0], [0, 0, 1])
    with pytest.raises(InputError, match="one length"):
        bin_masses([1.0], [0, 1], weights=[1, 2])
    with pytest.raises(InputError, match="one axis; found 2"):
        spectrum_of(hist.Hist.new.Reg(3, 0, 1).Reg(3, 0, 1).Weight())
    with pytest.raises(InputError, match="keeps no variances"):
        spectrum_of(hist.Hist.new.Reg(3, 0, 1).Double().fill([0.1], weight=[2.0]))
    with pytest.raises(InputError, match="edges and weights go with masses"):
        spectrum_of(hist.Hist.new.Reg(3, 0, 1).Weight(), edges=[0, 1])
    with pytest.raises(InputError, match="must lie inside side bands"):
        mass_bins((4.0, 10.0), (5.0, 16.0))
    with pytest.raises(InputError, match="spacing"):
        mass_bins((1.0, 2.0), (0.0, 3.0), spacing="log")


def test_all_weights_zero() -> None:
    with pytest.raises(InputError, match="empty"):
        fit_sideband(falling(12, 100), edges=BINS, weights=np.zeros(len(falling(12, 100))))


def test_single_negative_weights_are_fine() -> None:
    masses = falling(13, 20000)
    weights = np.where(np.random.default_rng(1).uniform(size=len(masses)) < 0.1, -1.0, 1.0)
    fit = fit_sideband(masses, edges=BINS, weights=weights)
    assert abs(fit.signal) < 4 * fit.signal_uncertainty
    assert fit.observed_uncertainty > np.sqrt(fit.observed)


def test_bad_user_functions() -> None:
    short = Function(lambda m, a: np.array([a]), {"a": 1.0})
    undefined = Function(lambda m, a, b: a * b * np.nan * m, {"a": 1.0, "b": 2.0})
    with pytest.raises(InputError, match="one number per mass"):
        fit_sideband(spectrum([5, 6, 7]), window=(1, 2), background=short)
    with pytest.raises(InputError, match="did not converge"):
        fit_sideband(spectrum([5, 6, 7, 8]), window=(1, 2), background=undefined)


def test_masses_at_the_ends_of_the_window_count_nowhere() -> None:
    masses = np.append(np.arange(5.05, 16, 0.1), [9.0, 10.6, 9.0, 10.6])
    fit = fit_sideband(masses, edges=BINS, background=1)
    assert fit.spectrum.sumw.sum() == len([m for m in np.arange(5.05, 16, 0.1) if 5.0728 < m < 15.98])


def test_scaled_poisson_of_one_event_weight() -> None:
    assert scale_factors([6.0], [12.0]) == [2.0]
    assert scaled_poisson_logpdf(6.0, 2.0, 8.0) == pytest.approx(3 * np.log(4) - 4 - np.log(6))
    assert np.isneginf(scaled_poisson_logpdf(1.0, 1.0, 0.0))
    assert np.isnan(scaled_poisson_logpdf(1.0, 1.0, -1.0))


def test_plot_draws_the_fit() -> None:
    fit = fit_sideband(falling(14, 1000), edges=BINS)
    axes = fit.plot(color="red")
    assert "GeV" in axes.get_xlabel()
    assert len(axes.get_legend_handles_labels()[1]) == 3


def test_toys_follow_the_asymptotic_p_value() -> None:
    fit = fit_sideband(falling(15, 3000, 60), edges=BINS, background=3)
    toys = sideband_toys(fit, n_toys=2000, seed=1)
    assert abs(toys.p0 - fit.p0) < 3 * max(toys.p0_uncertainty, np.sqrt(fit.p0 / 2000))
    assert abs(toys.significance.mean()) < 4 / np.sqrt(2000)
    assert abs(toys.expected.mean() - fit.expected_null) < 4 * toys.expected.std() / np.sqrt(2000)
    with_signal = sideband_toys(fit, n_toys=500, signal=60.0, seed=2)
    assert abs(with_signal.signal.mean() - 60) < 4 * with_signal.signal.std() / np.sqrt(500)
    with pytest.raises(InputError, match="toys need"):
        sideband_toys(fit, n_toys=0, seed=1)


def test_scan_finds_the_bump_and_pays_for_the_search() -> None:
    scan = scan_sidebands(
        falling(16, 3000, 40), edges=np.linspace(5, 16, 56), n_bins=2, background=3, n_toys=200, seed=3
    )
    best = scan.windows[scan.significance.argmax()]
    assert best[0] < 9.8 < best[1]
    assert scan.best.significance == pytest.approx(scan.significance.max())
    assert scan.best.minuit.valid
    assert scan.p_global > scan.p_local.min()
    assert scan.significance_global < scan.best.significance
    assert len(scan.toy_maxima) == 200
    assert len(scan.windows) == 55 - 2 - 4 + 1
    # Local p-values from toys agree with the formula where there are toys enough.
    common = (scan.p_local > 0.05) & (scan.p_local < 0.4)
    np.testing.assert_allclose(scan.p_local_toys[common], scan.p_local[common], atol=0.13)


def test_scan_without_toys_and_with_a_user_function() -> None:
    own = Function(lambda m, a, b: a * np.exp(-m / b), {"a": 300.0, "b": 4.0})
    scan = scan_sidebands(
        falling(17, 1000), edges=np.linspace(5, 16, 23), n_bins=2, background=own, n_toys=0, margin=8
    )
    assert np.isnan(scan.p_global)
    assert len(scan.windows) == 22 - 2 - 16 + 1
    with pytest.raises(InputError, match="must fit into the spectrum"):
        scan_sidebands(falling(17, 1000), edges=np.linspace(5, 16, 5), n_bins=3, background=0)


@pytest.mark.parametrize(
    ("n_spectra", "n_toys"), [(8, 25), pytest.param(300, 100, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_global_p_value_is_uniform_without_signal(n_spectra: int, n_toys: int) -> None:
    """Of background spectra, a fraction x has a global p-value below x."""
    edges = np.linspace(5, 16, 23)
    p = [
        scan_sidebands(
            falling(100 + k, 2000), edges=edges, n_bins=2, background=3, n_toys=n_toys, seed=k
        ).p_global
        for k in range(n_spectra)
    ]
    # Mean of uniform numbers, each blurred by its toys.
    assert abs(np.mean(p) - 0.5) < 3 * np.sqrt((1 / 12 + 1 / (4 * n_toys)) / n_spectra)


def test_mass_density_is_least_squares_and_samples_follow_it() -> None:
    masses = falling(18, 20000, 300)
    density = fit_mass_density(masses, edges=BINS)
    outside = (BINS.edges[:-1] < 9) | (BINS.edges[:-1] > 10.5)
    binned = bin_masses(masses, BINS.edges)
    weights = 1 / np.sqrt(binned.sumw2[outside] + 1)
    raw = np.polynomial.Polynomial.fit(binned.centers[outside], binned.sumw[outside], 5, w=weights)
    np.testing.assert_allclose(density.at(binned.centers), raw(binned.centers), rtol=1e-7)
    assert density.minuit.valid
    assert density.expected == pytest.approx(raw(binned.centers[~outside]).sum(), rel=1e-7)
    sample = density.sample(seed=1)
    assert len(sample) == int(density.expected)
    big = density.sample(200000, seed=2)
    assert ((big > 9) & (big < 10.6)).all()
    counts = np.histogram(big, BINS.window)[0]
    # Integrals over bins by Simpson's rule.
    edges, centers = BINS.window, (BINS.window[1:] + BINS.window[:-1]) / 2
    exact = (density.at(edges[:-1]) + 4 * density.at(centers) + density.at(edges[1:])) / 6
    exact *= len(big) / exact.sum()
    assert ((counts - exact) ** 2 / exact).sum() < 32  # chi2 of 11 bins, p = 0.001


def test_mass_density_that_cannot_be() -> None:
    with pytest.raises(InputError, match="positive number"):
        fit_mass_density(falling(19, 500), edges=BINS).sample(-1, seed=1)
    with pytest.raises(InputError, match="empty"):
        fit_mass_density([9.5], edges=BINS)


def test_fit_is_a_named_tuple() -> None:
    assert issubclass(SidebandFit, tuple)
