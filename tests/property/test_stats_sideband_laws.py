"""Laws of side-band fits: what scaling, shifting and mirroring a spectrum does, and pulls and coverage from toys."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenet_hep.stats.backgrounds import background_of, rates_of, rows_of
from evenet_hep.stats.sideband import fit_sideband
from evenet_hep.stats.sideband_likelihood import Scale, profile, scales, side_band_errors
from evenet_hep.stats.sideband_minuit import Regions
from evenet_hep.stats.spectrum import Spectrum, bin_masses, mass_bins, window_mask

contents = st.lists(st.integers(0, 60), min_size=12, max_size=20).filter(
    lambda values: sum(v > 0 for v in values[:4] + values[7:]) >= 5
)
degrees = st.integers(0, 3)


def spectrum(values: list[int], *, weight: float = 1.0, shift: float = 0.0, unit: float = 1.0) -> Spectrum:
    y = np.array(values, float)
    return Spectrum(shift + unit * np.arange(len(y) + 1.0), weight * y, weight**2 * y)


@settings(deadline=None, max_examples=15)
@given(contents, degrees)
def test_nothing_fits_better(values: list[int], degree: int) -> None:
    """The alternative is at least as likely as the null hypothesis, and Minuit finds nothing below either."""
    fit = fit_sideband(spectrum(values), window=(4, 7), background=degree)
    assert fit.m2lnl <= fit.m2lnl_null + 1e-7
    assert fit.q0_unclipped >= 0
    assert fit.minuit.fval > fit.m2lnl - 1e-4
    assert fit.minuit_null.fval > fit.m2lnl_null - 1e-4
    assert fit.expected >= -1e-6 or degree > 0
    # One more degree of freedom never fits worse.
    richer = fit_sideband(spectrum(values), window=(4, 7), background=degree + 1)
    assert richer.m2lnl <= fit.m2lnl + 1e-6


@settings(deadline=None, max_examples=15)
@given(contents, degrees, st.floats(0.1, 20))
def test_constant_weights_change_yields_but_not_significances(
    values: list[int], degree: int, weight: float
) -> None:
    plain = fit_sideband(spectrum(values), window=(4, 7), background=degree, scale="common")
    scaled = fit_sideband(spectrum(values, weight=weight), window=(4, 7), background=degree, scale="common")
    assert scaled.expected == pytest.approx(weight * plain.expected, rel=1e-4, abs=1e-5 * weight)
    assert scaled.q0_unclipped == pytest.approx(plain.q0_unclipped, rel=1e-5, abs=1e-6)
    assert scaled.uncertainty == pytest.approx(weight * plain.uncertainty, rel=1e-3, abs=1e-5 * weight)


@settings(deadline=None, max_examples=15)
@given(contents, degrees, st.floats(-50, 50), st.floats(0.01, 100))
def test_units_of_the_mass_do_not_matter(values: list[int], degree: int, shift: float, unit: float) -> None:
    plain = fit_sideband(spectrum(values), window=(4, 7), background=degree)
    moved = fit_sideband(
        spectrum(values, shift=shift, unit=unit),
        window=(shift + 4 * unit, shift + 7 * unit),
        background=degree,
    )
    assert moved.expected == pytest.approx(plain.expected, rel=1e-5, abs=1e-5)
    assert moved.q0_unclipped == pytest.approx(plain.q0_unclipped, rel=1e-5, abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(contents, degrees)
def test_mirror_image(values: list[int], degree: int) -> None:
    n = len(values)
    plain = fit_sideband(spectrum(values), window=(4, 7), background=degree)
    mirrored = fit_sideband(spectrum(values[::-1]), window=(n - 7, n - 4), background=degree)
    assert mirrored.expected == pytest.approx(plain.expected, rel=1e-5, abs=1e-5)
    assert mirrored.q0_unclipped == pytest.approx(plain.q0_unclipped, rel=1e-5, abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(contents, degrees)
def test_only_the_total_of_the_window_counts(values: list[int], degree: int) -> None:
    shuffled = [*values[:4], values[6], values[4], values[5], *values[7:]]
    a, b = (fit_sideband(spectrum(v), window=(4, 7), background=degree) for v in (values, shuffled))
    assert a.q0_unclipped == pytest.approx(b.q0_unclipped)
    assert a.m2lnl == pytest.approx(b.m2lnl)


# Toys: background of 4 GeV slope between 5 and 16 GeV, events with weights, totals that fluctuate.

BINS = mass_bins()
SLOPE = 4.0
Weights = Callable[[np.random.Generator, int], np.ndarray]
WEIGHTS: dict[str, Weights] = {
    "none": lambda rng, n: np.ones(n),
    "uniform": lambda rng, n: rng.uniform(0.2, 3, n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "some negative": lambda rng, n: np.where(rng.uniform(size=n) < 0.1, -1.0, 1.0),
}
MEANS = {"none": 1.0, "uniform": 1.6, "exponential": 1.0, "some negative": 0.8}


class Pulls(NamedTuple):
    """Of background and signal, with the one-sided significance of every toy."""

    background: np.ndarray
    signal: np.ndarray
    significance: np.ndarray


def falling(rng: np.random.Generator, n: float, n_signal: float) -> np.ndarray:
    low, high = BINS.edges[[0, -1]]
    u = rng.uniform(size=rng.poisson(n))
    background = low - SLOPE * np.log(1 - u * (1 - np.exp(-(high - low) / SLOPE)))
    return np.append(background, rng.normal(9.8, 0.1, rng.poisson(n_signal)))


def toys(
    n_toys: int,
    background: int | str,
    scale: Scale,
    weights: str,
    n: float,
    n_signal: float,
    seed: int,
    rise: float = 0.0,
) -> Pulls:
    """``rise`` lets the weights rise as exp(rise m / SLOPE)."""
    rng = np.random.default_rng(seed)
    low, high = BINS.edges[[0, -1]]
    fall = (1 - rise) / SLOPE
    inside_part = (np.exp(-fall * (9 - low)) - np.exp(-fall * (10.6 - low))) / (
        (1 - rise) * (1 - np.exp(-(high - low) / SLOPE))
    )
    mean = MEANS[weights]
    empty = Spectrum(BINS.edges, np.zeros(len(BINS.edges) - 1), np.zeros(len(BINS.edges) - 1))
    inside = window_mask(empty, BINS.limits)
    thrown = []
    for _ in range(n_toys):
        masses = falling(rng, n, n_signal)
        w = WEIGHTS[weights](rng, len(masses)) * np.exp(rise * (masses - low) / SLOPE)
        binned = bin_masses(masses, BINS.edges, weights=w, window=BINS.limits)
        thrown.append([np.append(x[~inside], x[inside].sum()) for x in (binned.sumw, binned.sumw2)])
    sumw, sumw2 = np.array(thrown).transpose(1, 0, 2)
    # The fits without their Minuit objects, all at once.
    rates = rates_of(background_of(background), rows_of(empty, inside, integrate=True))
    regions = Regions(sumw, sumw2, scales(sumw, sumw2, scale), rates)
    found = profile(regions)
    sigma = np.array(
        [
            side_band_errors(
                Regions(sumw[k], sumw2[k], regions.scale[k], rates), found.theta[k], found.active[k]
            ).uncertainty
            for k in range(n_toys)
        ]
    )
    left = sumw[:, -1] - found.expected
    return Pulls(
        background=(found.expected - n * inside_part * mean) / sigma,
        signal=(left - n_signal * mean) / np.hypot(sigma, np.sqrt(sumw2[:, -1])),
        significance=np.sign(left) * np.sqrt(found.q0),
    )


def check(pulls: Pulls, n_signal: float) -> None:
    n = len(pulls.signal)
    for values in (pulls.background, pulls.signal):
        assert abs(values.mean()) < 3 / np.sqrt(n)
        assert abs(values.std() - 1) < 3 / np.sqrt(2 * n)
        assert abs((np.abs(values) < 1).mean() - 0.6827) < 3 * np.sqrt(0.6827 * 0.3173 / n)
    if not n_signal:  # p0 is uniform: 16 % above one standard deviation
        assert abs((pulls.significance > 1).mean() - 0.1587) < 3 * np.sqrt(0.1587 * 0.8413 / n)


CASES = [
    (5, "bin", "none", 12000, 0.0),
    (5, "bin", "none", 12000, 200.0),
    ("exponential", "bin", "none", 6000, 0.0),
    (5, "common", "uniform", 12000, 0.0),
    (5, "common", "exponential", 12000, 200.0),
    ("exponential", "common", "exponential", 12000, 0.0),
    (5, "common", "some negative", 12000, 0.0),
    (5, "bin", "uniform", 60000, 0.0),
]


@pytest.mark.parametrize(("background", "scale", "weights", "n", "n_signal"), CASES)
def test_pulls_and_coverage(
    background: int | str, scale: Scale, weights: str, n: float, n_signal: float
) -> None:
    n_toys = 300 if n < 50000 else 60
    check(toys(n_toys, background, scale, weights, n, n_signal, seed=17), n_signal)


@pytest.mark.slow
@pytest.mark.parametrize(("background", "scale", "weights", "n", "n_signal"), CASES)
def test_pulls_and_coverage_with_many_toys(
    background: int | str, scale: Scale, weights: str, n: float, n_signal: float
) -> None:
    """Ten times the events, so that the skewness of Poisson numbers hides below the smaller errors."""
    check(toys(1000, background, scale, weights, 10 * n, n_signal, seed=18), n_signal)


def test_one_scale_factor_does_for_weights_that_rise_with_the_mass() -> None:
    check(toys(300, 5, "common", "uniform", 12000, 0, seed=20, rise=0.7), 0)


def test_scale_factors_of_single_bins_pull_the_background_down() -> None:
    """What the docstring of fit_sideband warns of, and its cure."""
    own = toys(200, 5, "bin", "exponential", 3000, 0, seed=19).background
    common = toys(200, 5, "common", "exponential", 3000, 0, seed=19).background
    assert own.mean() < -5 / np.sqrt(200)
    assert abs(common.mean()) < 3 / np.sqrt(200)


@pytest.mark.parametrize(
    ("weighted", "n_toys"),
    [
        (False, 40),
        (True, 40),
        pytest.param(False, 500, marks=pytest.mark.slow),
        pytest.param(True, 500, marks=pytest.mark.slow),
    ],
)
def test_profile_interval_covers(weighted: bool, n_toys: int) -> None:
    """68 % of the Minos intervals of the signal hold the truth."""
    rng = np.random.default_rng(23)
    inside = 0
    for _ in range(n_toys):
        masses = falling(rng, 4000, 60)
        weights = rng.uniform(0.2, 3, len(masses)) if weighted else None
        fit = fit_sideband(
            masses, edges=BINS, weights=weights, background="exponential", scale="common", integrate=True
        )
        interval = fit.signal_interval()
        inside += interval.lower < 60 * (1.6 if weighted else 1.0) < interval.upper
    assert abs(inside / n_toys - 0.6827) < 3 * np.sqrt(0.6827 * 0.3173 / n_toys)
