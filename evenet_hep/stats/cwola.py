"""CWoLa: a search for a resonance with a classifier between a mass window and its side bands (arXiv:1805.02664).

Both mixtures hold the same background; what tells them apart is signal. Every event is scored by classifiers that have
not seen it; cuts on the score are set by the side bands, and the window is compared with a fit of the side bands after
each. The greatest of these significances was searched for: :func:`null_toys` gives its distribution without a signal, by
shuffling masses among the events, after which no feature knows the mass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.stats.sic import MaximumSic, maximum_sic
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.weak import WeakConfig, train_weak_classifiers
from evenet_hep.stats.weak_search import CutCount, cut_and_count

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# From rows of events in the window and in the side bands to their scores, each by classifiers that have not seen it.
RowScorer = Callable[[IntArray, IntArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class CwolaConfig:
    """Where the search looks.

    Parameters
    ----------
    window : tuple of two floats
        Signal region in GeV.
    side_bands : tuple of two floats
        Lower end of the lower and upper end of the upper side band, GeV.
    window_bins : int
        Bins in the window; side bands have bins of the same width, and lose what does not fill one.
    background : int or str
        Shape that is fitted to the side bands, as in :func:`~evenet_hep.stats.sideband.fit_sideband`.
    efficiencies : tuple of float
        Fractions of the side bands that the cuts keep.
    minimum_background : float
        Smallest background that may pass a cut for the maximum significance improvement.

    Examples
    --------
    >>> CwolaConfig((3.0, 4.0), (1.2, 6.0), window_bins=2).edges.tolist()
    [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]
    """

    window: tuple[float, float]
    side_bands: tuple[float, float]
    window_bins: int = 4
    background: int | str = 3
    efficiencies: tuple[float, ...] = (0.1, 0.05, 0.02, 0.01)
    minimum_background: float = 10.0

    def __post_init__(self) -> None:
        for name in ("window", "side_bands", "efficiencies"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        low, high = self.window
        if not self.side_bands[0] < low < high < self.side_bands[1] or self.window_bins < 1:
            msg = f"side_bands must enclose the window, which has at least one bin; found {self.side_bands}, {self.window}, {self.window_bins}"
            raise InputError(msg)
        if not self.efficiencies or not all(0 < e <= 1 for e in self.efficiencies):
            msg = f"efficiencies must lie in (0, 1]; found {self.efficiencies}"
            raise InputError(msg)

    @property
    def edges(self) -> FloatArray:
        """Bin edges of side bands and window, GeV."""
        low, high = self.window
        width = (high - low) / self.window_bins
        below = int(np.floor((low - self.side_bands[0]) / width + 1e-9))
        above = int(np.floor((self.side_bands[1] - high) / width + 1e-9))
        return np.asarray(low + width * np.arange(-below, self.window_bins + above + 1))


class CwolaSearch(NamedTuple):
    """What a search found.

    Parameters
    ----------
    uncut : SidebandFit
        Of all events: a search in the mass alone.
    cuts : list of CutCount
        One per efficiency.
    significance : float
        The greatest of the cuts; searched for, see :func:`null_toys`. NaN if no cut could be fitted.
    rows : int64 array, shape (n,)
        Events that take part: those between the ends of the bins.
    scores : float64 array, shape (n,)
        Their scores.
    sic : MaximumSic or None
        In the window, where it is known which events are signal.
    """

    uncut: SidebandFit
    cuts: list[CutCount]
    significance: float
    rows: IntArray
    scores: FloatArray
    sic: MaximumSic | None


class NullToys(NamedTuple):
    """Searches without a signal.

    Parameters
    ----------
    significances : float64 array, shape (n_toys,)
        Greatest significance of each.
    p_value : float
        Chance of a toy to reach what was observed: (1 + number that do) / (1 + toys). NaN without an observation.
    """

    significances: FloatArray
    p_value: float


def tree_scorer(features: npt.ArrayLike, config: WeakConfig | None = None) -> RowScorer:
    """A scorer of boosted trees, out of fold.

    Parameters
    ----------
    features : array-like, shape (n_events, n_features)
        Of all events; NaN for a missing value. Leave out what knows the mass.
    config : WeakConfig, optional
        Of the trees.
    """
    table = np.asarray(features, np.float64)

    def score(window: IntArray, side_bands: IntArray) -> tuple[FloatArray, FloatArray]:
        found = train_weak_classifiers(table[window], table[side_bands], config=config)
        return found.data, found.reference

    return score


def search_cwola(
    masses: npt.ArrayLike,
    scorer: RowScorer,
    config: CwolaConfig,
    *,
    is_signal: npt.ArrayLike | None = None,
) -> CwolaSearch:
    """Search for a resonance in a window.

    Parameters
    ----------
    masses : array-like, shape (n_events,)
        GeV.
    scorer : callable
        From rows in the window and in the side bands to scores; see :func:`tree_scorer`, and
        :func:`~evenet_hep.training.jet_scores.network_scorer`.
    config : CwolaConfig
        Window, side bands, cuts.
    is_signal : bool array-like, shape (n_events,), optional
        The truth, for the maximum significance improvement; the search does not see it.

    Returns
    -------
    CwolaSearch

    Raises
    ------
    InputError
        For masses that are not finite, an empty window or side band, or a scorer that gives other numbers of scores.

    Examples
    --------
    >>> rng = np.random.default_rng(2)
    >>> masses = np.append(2 + rng.exponential(1.0, 6000), rng.normal(3.5, 0.05, 80))
    >>> features = np.append(rng.normal(0, 1, (6000, 2)), rng.normal(3.0, 0.5, (80, 2)), axis=0)
    >>> trees = WeakConfig(n_folds=2, n_ensemble=1, max_trees=40)
    >>> found = search_cwola(masses, tree_scorer(features, trees), CwolaConfig((3.3, 3.7), (2.1, 5.7)))
    >>> bool(found.uncut.significance < 4 < found.significance)
    True
    """
    m = np.asarray(masses, np.float64)
    if m.ndim != 1 or not np.isfinite(m).all():
        msg = f"masses must be finite, one per event; found shape {m.shape}"
        raise InputError(msg)
    edges, (low, high) = config.edges, config.window
    inside = (m >= edges[0]) & (m < edges[-1])
    in_window = inside & (m >= low) & (m < high)
    window, side = np.flatnonzero(in_window), np.flatnonzero(inside & ~in_window)
    if not len(window) or not len(side):
        msg = f"window and side bands must have events; found {len(window)} and {len(side)}"
        raise InputError(msg)
    scores = np.full(len(m), np.nan)
    found = scorer(window, side)
    for rows, values in zip((window, side), found, strict=True):
        if np.shape(values) != rows.shape:
            msg = f"the scorer must give a score per event; found {np.shape(values)} for {len(rows)}"
            raise InputError(msg)
        scores[rows] = values
    options: dict[str, Any] = {"edges": edges, "window": config.window, "background": config.background}
    rows = np.flatnonzero(inside)
    cuts = cut_and_count(
        m[rows], scores[rows], scores[side], background_efficiencies=config.efficiencies, **options
    )
    fitted = [cut.fit.significance for cut in cuts if cut.fit is not None]
    sic = None
    if is_signal is not None:
        truth = np.asarray(is_signal, bool)[window].astype(int)
        sic = maximum_sic(truth, scores[window], minimum_background=config.minimum_background)
    return CwolaSearch(
        uncut=fit_sideband(m[rows], **options),
        cuts=cuts,
        significance=float(max(fitted)) if fitted else float("nan"),
        rows=rows,
        scores=scores[rows],
        sic=sic,
    )


def null_toys(
    masses: npt.ArrayLike,
    scorer: RowScorer,
    config: CwolaConfig,
    *,
    n_toys: int,
    observed: float | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda _toy, _significance: None,
) -> NullToys:
    """The same search in samples without a signal: masses are dealt out anew, after a Poisson draw of their histogram.

    In each toy the side bands keep their fitted shape: the number of events in every bin is drawn from it, in the window
    too, masses are spread evenly over the bin, and events are given to them at random. No event is used twice, because
    one that is in two folds would be scored by classifiers that know it.

    Parameters
    ----------
    masses, scorer, config
        As in :func:`search_cwola`.
    n_toys : int
        Searches; each trains its own classifiers.
    observed : float, optional
        Significance whose p-value is wanted.
    seed : int
        Of the toys.
    progress : callable
        Called with the number of each toy and its significance.

    Returns
    -------
    NullToys
    """
    if n_toys < 1:
        msg = f"n_toys must be at least 1; found {n_toys}"
        raise InputError(msg)
    m, edges = np.asarray(masses, np.float64), config.edges
    inside = np.flatnonzero((m >= edges[0]) & (m < edges[-1]))
    fit = fit_sideband(m[inside], edges=edges, window=config.window, background=config.background)
    contents = np.histogram(m[inside], edges)[0].astype(np.float64)
    is_window = (edges[:-1] >= config.window[0] - 1e-9) & (edges[1:] <= config.window[1] + 1e-9)
    contents[is_window] *= max(fit.expected, 0.0) / max(contents[is_window].sum(), 1.0)
    # Never more events than there are: of all toys the same fraction of the events is used.
    contents *= min(1.0, len(inside) / (contents.sum() + 5 * np.sqrt(contents.sum()) + 1))
    found = np.full(n_toys, np.nan)
    for toy in range(n_toys):
        rng = np.random.default_rng([seed, toy])
        counts = rng.poisson(contents)
        while counts.sum() > len(inside):
            counts = rng.poisson(contents)
        drawn = np.repeat(edges[:-1], counts) + np.repeat(np.diff(edges), counts) * rng.random(counts.sum())
        dealt = rng.permutation(inside)[: len(drawn)]
        toy_masses = np.full(len(m), edges[-1] + 1.0)  # those that are left over stand outside
        toy_masses[dealt] = np.minimum(drawn, np.nextafter(edges[-1], -np.inf))
        found[toy] = search_cwola(toy_masses, scorer, config).significance
        progress(toy, float(found[toy]))
    reached = np.nan if observed is None else (1 + int((found >= observed).sum())) / (1 + n_toys)
    return NullToys(found, float(reached))
