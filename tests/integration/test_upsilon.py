"""Three Upsilon states in 20 000 CMS dimuons of 2011: yields, significance, and what smaller samples would have seen."""

from __future__ import annotations

import time
from pathlib import Path

import hist
import numpy as np
import pytest

from evenet_hep.kinematics.dimuon import MUON_MASS
from evenet_hep.stats.backgrounds import Polynomial, rates_of, rows_of
from evenet_hep.stats.sideband import fit_sideband
from evenet_hep.stats.sideband_likelihood import profile
from evenet_hep.stats.sideband_minuit import Regions
from evenet_hep.stats.sideband_scan import scan_sidebands, sideband_toys
from evenet_hep.stats.spectrum import bin_masses, mass_bins, window_mask

BINS = mass_bins((9.1, 10.7), (8.0, 12.0))


@pytest.fixture
def masses(shared_data: Path) -> np.ndarray:
    events = np.genfromtxt(
        shared_data / "real" / "Ymumu.csv", delimiter=",", names=True, usecols=[4, 5, 6, 13, 14, 15]
    )
    first, second = (np.stack([events[f"{axis}{muon}"] for axis in ("px", "py", "pz")]) for muon in (1, 2))
    energy = sum(np.sqrt((p**2).sum(axis=0) + MUON_MASS**2) for p in (first, second))
    return np.asarray(np.sqrt(energy**2 - ((first + second) ** 2).sum(axis=0)))


def test_yields_of_the_full_sample(masses: np.ndarray) -> None:
    fit = fit_sideband(masses, edges=BINS, background=3)
    assert fit.observed == 10837
    assert round(fit.signal) == 3891
    assert round(fit.expected) == 6946
    assert fit.significance == pytest.approx(20.9, abs=0.05)
    assert fit.minuit.valid
    assert fit.deviance / fit.n_dof < 2
    filled = hist.Hist.new.Var(BINS.edges).Weight().fill(masses)
    assert fit_sideband(filled, window=BINS.limits, background=3).signal == fit.signal


@pytest.mark.parametrize(("fraction", "published"), [(0.02, 3.2), (0.05, 4.5), (0.1, 6.6)])
def test_median_significance_of_subsamples(masses: np.ndarray, fraction: float, published: float) -> None:
    rng, n = np.random.default_rng(1), 400
    size = int(fraction * len(masses))
    binned = [bin_masses(rng.choice(masses, size, replace=False), BINS.edges) for _ in range(n)]
    inside = window_mask(binned[0], BINS.limits)
    sumw = np.array([np.append(b.sumw[~inside], b.sumw[inside].sum()) for b in binned])
    rates = rates_of(Polynomial(3), rows_of(binned[0], inside))
    found = profile(Regions(sumw, sumw, np.ones_like(sumw), rates))
    z = np.sqrt(found.q0) * (sumw[:, -1] > found.expected)
    # One subsample is known to about 1, the median of many to 1.25 / sqrt(n). The published medians come from fewer.
    assert abs(np.median(z) - np.sqrt(fraction) * 20.94) < 3 * 1.25 / np.sqrt(n)
    assert np.median(z) == pytest.approx(published, abs=0.3)


def test_scan_finds_the_upsilon(masses: np.ndarray) -> None:
    few = np.random.default_rng(3).choice(masses, 1000, replace=False)
    scan = scan_sidebands(few, edges=np.linspace(8, 12, 28), n_bins=3, background=3, n_toys=30, seed=1)
    best = scan.windows[scan.significance.argmax()]
    assert best[0] < 9.46 < best[1]
    assert scan.p_global < 0.05


def test_speed_of_a_weighted_quintic_and_of_toys() -> None:
    """Ten times slower than measured would still pass: this guards against orders of magnitude."""
    rng = np.random.default_rng(2)
    masses = 5 - 4 * np.log(1 - rng.uniform(0, 0.93, 12000))
    weights = rng.uniform(0.5, 2, 12000)
    fit = fit_sideband(masses, edges=mass_bins(), weights=weights)
    start = time.perf_counter()
    fit = fit_sideband(masses, edges=mass_bins(), weights=weights)
    assert time.perf_counter() - start < 0.2
    start = time.perf_counter()
    sideband_toys(fit, n_toys=1000, seed=1)
    assert time.perf_counter() - start < 60
