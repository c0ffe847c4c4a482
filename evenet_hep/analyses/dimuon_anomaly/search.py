"""One search in one sample: generate background for the window, train trees against it, weight the events, fit again."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.dimuon_anomaly.config import DimuonAnomalyConfig, Method, Region
from evenet_hep.analyses.dimuon_anomaly.generator import (
    GeneratedFeatures,
    Generator,
    flow_generator,
    network_generator,
)
from evenet_hep.errors import InputError
from evenet_hep.events.dimuons import DimuonPairs, pair_features
from evenet_hep.model.evenet import EveNet
from evenet_hep.stats.generation import w1_distance
from evenet_hep.stats.mass_density import fit_mass_density
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.weak import train_weak_classifiers
from evenet_hep.stats.weak_search import CutCount, ReweightedFit, cut_and_count, reweighted_search

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]


class DimuonSearch(NamedTuple):
    """What a search found in one sample.

    Parameters
    ----------
    uncut : SidebandFit
        Of the mass spectrum alone: what is known without any generator.
    weighted : ReweightedFit or None
        With likelihood ratios as weights; None where the window has no excess, so that there is no ratio.
    cuts : list of CutCount
        At the background efficiencies of the settings.
    scores : float64 array, shape (n_pairs,)
        Of every pair, out of fold.
    generated : GeneratedFeatures
        The reference of the trees.
    """

    uncut: SidebandFit
    weighted: ReweightedFit | None
    cuts: list[CutCount]
    scores: FloatArray
    generated: GeneratedFeatures

    def numbers(self) -> dict[str, float]:
        """The search in a few numbers, for a table; a significance is 0 for a deficit, NaN where a fit failed."""
        found: dict[str, float] = {
            "z_uncut": self.uncut.significance,
            "z_weighted": 0.0 if self.weighted is None else self.weighted.fit.significance,
            "signal": self.uncut.signal,
            "signal_error": self.uncut.signal_uncertainty,
            "observed": self.uncut.observed,
            "expected": self.uncut.expected,
            "efficiency_of_generation": self.generated.efficiency,
            "mass_error": self.generated.mass_error,
        }
        for cut in self.cuts:
            name = f"cut_{100 * cut.background_efficiency:g}"
            fit = cut.fit
            found[f"z_{name}"] = float("nan") if fit is None else fit.significance
            found[f"signal_{name}"] = float("nan") if fit is None else fit.signal
            found[f"error_{name}"] = float("nan") if fit is None else fit.signal_uncertainty
            found[f"threshold_{name}"] = cut.threshold
        return found


def seed_of(*parts: Any) -> int:
    """One number below 2^31 for a place in the analysis, the same in every process.

    Examples
    --------
    >>> seed_of(1, "toys", 3) == seed_of(1, "toys", 3) != seed_of(1, "toys", 4)
    True
    """
    return zlib.crc32(repr(parts).encode()) % 2**31


def in_window(pairs: DimuonPairs, region: Region) -> BoolArray:
    """Pairs in the window, open at both ends."""
    mass = pairs.mass
    return np.asarray((mass > region.window[0]) & (mass < region.window[1]))


def make_generator(
    pairs: DimuonPairs,
    method: Method,
    config: DimuonAnomalyConfig,
    *,
    region: Region | None = None,
    seed: int,
    pretrained: EveNet | None = None,
) -> Generator:
    """A generator trained on the side bands of a sample.

    Raises
    ------
    InputError
        For ``"pretrained"`` without a network.
    """
    side_bands = pairs.take(~in_window(pairs, region or config.region))
    if method == "flow":
        return flow_generator(side_bands, config.flow, config.features, seed=seed)
    if method == "pretrained" and pretrained is None:
        msg = "the method 'pretrained' needs a pretrained network; found none"
        raise InputError(msg)
    start = pretrained if method == "pretrained" else None
    return network_generator(side_bands, config.generator, config.features, seed=seed, start=start)


def draw_background(
    pairs: DimuonPairs,
    generator: Generator,
    config: DimuonAnomalyConfig,
    *,
    region: Region | None = None,
    seed: int,
) -> GeneratedFeatures:
    """Background for the window of a sample, at masses drawn from a fit of its side bands."""
    where = region or config.region
    density = fit_mass_density(pairs.mass, edges=where.bins, degree=where.degree)
    n = max(50, round(config.oversampling * max(density.expected, 0.0)))
    return generator(density.sample(n, seed=seed), seed)


def search(
    pairs: DimuonPairs,
    generated: GeneratedFeatures,
    config: DimuonAnomalyConfig,
    *,
    region: Region | None = None,
    seed: int,
    trained_on: DimuonPairs | None = None,
    counts: IntArray | None = None,
) -> DimuonSearch:
    """Search a sample with generated background as the reference of the trees.

    Parameters
    ----------
    pairs : DimuonPairs
        Data, window and side bands.
    generated : GeneratedFeatures
        Background for the window of the sample that the trees are trained on.
    config : DimuonAnomalyConfig
    region : Region, optional
        Window and side bands; that of the settings by default.
    seed : int
        Of folds and trees.
    trained_on : DimuonPairs, optional
        Another sample, whose window the trees are trained on instead: one of same sign, for example.
    counts : int array, shape (n_pairs,), optional
        How often every pair counts, in a bootstrap of the data. Copies would be dealt into different folds and recognised.

    Returns
    -------
    DimuonSearch
    """
    where = region or config.region
    inside = in_window(pairs, where)
    rows = pair_features(pairs, config.features)
    trees = dataclasses.replace(config.trees, seed=seed)
    scores, times = np.zeros(pairs.n), np.ones(pairs.n, int) if counts is None else counts
    if trained_on is None:
        found = train_weak_classifiers(
            rows[inside],
            generated.features,
            outside=rows[~inside],
            data_weights=times[inside],
            config=trees,
        )
        scores[inside], scores[~inside] = found.data, found.outside
    else:
        other = pair_features(trained_on.take(in_window(trained_on, where)), config.features)
        found = train_weak_classifiers(other, generated.features, outside=rows, config=trees)
        scores = found.outside
    options: dict[str, Any] = {"edges": where.bins, "background": where.degree}
    masses, of_each = np.repeat(pairs.mass, times), np.repeat(scores, times)
    uncut = fit_sideband(masses, **options)
    weighted = reweighted_search(masses, of_each, **options) if uncut.signal > 0 else None
    cuts = cut_and_count(
        masses, of_each, found.reference, background_efficiencies=config.efficiencies, **options
    )
    return DimuonSearch(uncut, weighted, cuts, scores, generated)


def whole_search(
    pairs: DimuonPairs,
    method: Method,
    config: DimuonAnomalyConfig,
    *,
    region: Region | None = None,
    seed: int,
    pretrained: EveNet | None = None,
    counts: IntArray | None = None,
) -> DimuonSearch:
    """Train a generator on the side bands of a sample, draw from it, and search the sample."""
    learned = pairs if counts is None else pairs.take(np.repeat(np.arange(pairs.n), counts))
    generator = make_generator(learned, method, config, region=region, seed=seed, pretrained=pretrained)
    generated = draw_background(learned, generator, config, region=region, seed=seed + 1)
    return search(pairs, generated, config, region=region, seed=seed + 2, counts=counts)


def side_band_quality(
    pairs: DimuonPairs, generator: Generator, config: DimuonAnomalyConfig, *, seed: int
) -> dict[str, float]:
    """How well a generator describes side bands it has not seen.

    Parameters
    ----------
    pairs : DimuonPairs
        Pairs that the generator was not trained on.
    generator : Generator
    config : DimuonAnomalyConfig
    seed : int
        Of the generation and of the trees.

    Returns
    -------
    dict of str to float
        Per feature ``w1_NAME``, the Wasserstein-1 distance in units of the standard deviation of the data; ``auc`` and
        ``auc_error`` of trees between data and generated pairs of the same masses (0.5 for a perfect generator), and
        ``efficiency`` and ``mass_error`` of the generation.
    """
    side_bands = pairs.take(~in_window(pairs, config.region))
    made = generator(side_bands.mass, seed)
    rows = pair_features(side_bands, config.features)
    found = {
        f"w1_{name}": w1_distance(rows[:, k], made.features[:, k]) / float(rows[:, k].std())
        for k, name in enumerate(config.features)
    }
    scores = train_weak_classifiers(rows, made.features, config=dataclasses.replace(config.trees, seed=seed))
    labels = np.repeat([1, 0], [len(scores.data), len(scores.reference)])
    auc = area_under_curve(labels, np.append(scores.data, scores.reference))
    found |= {"auc": float(auc.value), "auc_error": float(auc.uncertainty)}
    return found | {"efficiency": made.efficiency, "mass_error": made.mass_error}
