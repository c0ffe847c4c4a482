"""Samples whose truth is known: mixed pairs as background, and a resonance of known size on top.

The resonance has a Gaussian mass, transverse momenta and rapidities like those of the Upsilon at the LHC in size (not
fitted to anything), and decays isotropically; its muons have the range of transverse momentum and pseudorapidity that those
of the sample have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.events.dimuons import DimuonPairs, join_pairs, make_pairs, mix_pairs
from evenet_hep.kinematics.dimuon import MUON_MASS

MASS, WIDTH = 9.9, 0.25  # GeV: three states at once, as the window sees them
MEAN_PT = 7.0  # GeV
MIN_PT, MAX_ETA = 3.5, 2.4


class InjectedSample(NamedTuple):
    """A sample with a known signal.

    Parameters
    ----------
    pairs : DimuonPairs
        Background and signal, in random order.
    is_signal : bool array, shape (n_pairs,)
        True for injected pairs.
    """

    pairs: DimuonPairs
    is_signal: npt.NDArray[np.bool_]


def resonance_pairs(n: int, *, window: tuple[float, float], seed: int | Sequence[int]) -> DimuonPairs:
    """Decays of a resonance to two muons that the detector would accept.

    Parameters
    ----------
    n : int
        Number of pairs.
    window : tuple of two floats
        Masses in GeV; those outside are drawn again.
    seed : int or sequence of ints
        Of the random numbers.

    Examples
    --------
    >>> pairs = resonance_pairs(50, window=(9.1, 10.7), seed=1)
    >>> pairs.n, bool(abs(pairs.mass.mean() - 9.9) < 0.2)
    (50, True)
    """
    rng, kept = (
        np.random.default_rng(seed),
        [make_pairs(np.zeros((3, 0)), np.zeros((3, 0)), np.zeros((2, 0)))],
    )
    while sum(part.n for part in kept) < n:
        size = 4 * n + 100
        mass = rng.normal(MASS, WIDTH, size)
        pt, y = rng.gamma(2.0, MEAN_PT / 2, size), rng.uniform(-2.2, 2.2, size)
        azimuth, cos, turn = (
            rng.uniform(-np.pi, np.pi, size),
            rng.uniform(-1, 1, size),
            rng.uniform(0, 2 * np.pi, size),
        )
        sin, p_star = np.sqrt(1 - cos**2), np.sqrt(mass**2 / 4 - MUON_MASS**2)
        inside = p_star * np.stack([sin * np.cos(turn), sin * np.sin(turn), cos])
        mt = np.hypot(mass, pt)
        parent = np.stack([pt * np.cos(azimuth), pt * np.sin(azimuth), mt * np.sinh(y)])
        energy = mt * np.cosh(y)
        muons = [_boosted(sign * inside, mass / 2, parent, energy, mass) for sign in (1, -1)]
        good = (mass > window[0]) & (mass < window[1])
        for p in muons:
            transverse = np.hypot(p[0], p[1])
            good &= (transverse > MIN_PT) & (np.abs(np.arcsinh(p[2] / transverse)) < MAX_ETA)
        charges = np.stack([np.ones(size), -np.ones(size)])
        kept.append(make_pairs(muons[0], muons[1], charges).take(good))
    return join_pairs(kept).take(slice(n))


def _boosted(
    p: npt.NDArray[np.float64], energy: npt.NDArray[np.float64], parent: npt.NDArray[np.float64],
    parent_energy: npt.NDArray[np.float64], mass: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Momenta in the rest frame of a parent, seen where the parent moves."""
    along = (p * parent).sum(axis=0)
    return np.asarray(p + parent / mass * (energy + along / (parent_energy + mass)))


def injected_sample(
    source: DimuonPairs,
    n_background: float,
    n_signal: float,
    *,
    span: tuple[float, float],
    window: tuple[float, float],
    same_sign: bool = False,
    seed: Sequence[int],
) -> InjectedSample:
    """A sample of mixed pairs with a signal on top; both numbers fluctuate as Poisson numbers.

    Parameters
    ----------
    source : DimuonPairs
        Real pairs to mix.
    n_background, n_signal : float
        Expected numbers, of the background in the whole span.
    span, window : tuple of two floats
        Masses of background and of signal in GeV.
    same_sign : bool
        Whether the background is of same sign.
    seed : sequence of ints
    """
    rng = np.random.default_rng([*seed, 1])
    n, s = int(rng.poisson(n_background)), int(rng.poisson(n_signal))
    background = mix_pairs(source, n, span=span, same_sign=same_sign, seed=[*seed, 2])
    signal = resonance_pairs(s, window=window, seed=[*seed, 3])
    order = rng.permutation(n + s)
    return InjectedSample(
        join_pairs([background, signal]).take(order), np.repeat([False, True], [n, s])[order]
    )
