"""How the significance improvement moves with the energy scale of jets and with soft missing momentum.

Every pseudo-experiment begins with the objects of the files: jets and missing momentum are shifted, the selection and the
topness run again, and the events that are selected then, which are not those that were, are scored by the classifiers of
their fold. Two figures are followed: the significance improvement of the nominal cut, with efficiencies in units of the
nominal selected yields (what an analysis would lose, changes of the acceptance included), and the largest improvement of
any cut on the shifted events (what the published study quotes).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from evenet_hep.analyses.bbww_resonance.classifiers import load_events, score_events
from evenet_hep.analyses.bbww_resonance.comparison import judge
from evenet_hep.analyses.bbww_resonance.config import BbwwConfig
from evenet_hep.analyses.bbww_resonance.events import (
    BbwwEvents,
    MassPoint,
    reader_of,
    schema_of,
    select_table,
)
from evenet_hep.analyses.stability import Stability
from evenet_hep.events.bbww_columns import BbwwObjects, shift_objects
from evenet_hep.events.systematics import (
    clipped_lognormal,
    draw_energy_scales,
    draw_soft_met,
    draw_soft_met_noise,
    shift_soft_met_components,
    shift_soft_met_magnitude,
)

FloatArray = npt.NDArray[np.float64]
Numbers = dict[str, Any]

FIGURES = ("nominal_cut", "best_cut")
LABELS = {"energy_scale": "jet energy scale", "soft_met": "soft MET"}


class Improvement(NamedTuple):
    """Significance improvement of selected events.

    Parameters
    ----------
    nominal_cut : float
        eff_s / sqrt(eff_b) of the nominal cut, with efficiencies in units of the nominal selected yields.
    best_cut : float
        Largest of any cut, with efficiencies of the events at hand.
    """

    nominal_cut: float
    best_cut: float


@functools.lru_cache(maxsize=2)
def load_loose(path: str) -> ak.Array:
    """Objects of the events that a shift could let pass, read once per process."""
    return ak.from_parquet(path)


def draw_shifts(config: BbwwConfig, kind: str) -> FloatArray:
    """Size of the shift of every pseudo-experiment of a kind, or the seed of its noise."""
    number = config.systematics.energy_scale if kind == "energy_scale" else config.systematics.soft_met
    rng = np.random.default_rng((config.systematics.seed, list(LABELS).index(kind)))
    if kind == "energy_scale":
        return draw_energy_scales(number, rng)
    return rng.integers(0, 2**31, number).astype(np.float64)


def shift_met(met: ak.Array, mode: str, rng: Generator) -> ak.Array:
    """Missing momentum of one soft-MET pseudo-experiment; see :class:`SystematicsConfig` for the modes."""
    if mode == "magnitude":
        return shift_soft_met_magnitude(met, draw_soft_met(len(met), rng))
    if mode == "components":
        dx, dy = clipped_lognormal(rng.normal(size=2))
        return shift_soft_met_components(met, float(dx), float(dy))
    return shift_soft_met_components(met, *draw_soft_met_noise(len(met), rng))


def run_experiments(
    events_path: str,
    loose_path: str,
    config: BbwwConfig,
    kind: str,
    shifts: FloatArray,
    places: Mapping[str, Mapping[str, str]],
) -> Numbers:
    """Some pseudo-experiments, for all classifiers and points at once.

    Parameters
    ----------
    events_path, loose_path : str
        Selected events, and objects of all that could be.
    config : BbwwConfig
    kind : str
        ``energy_scale`` or ``soft_met``.
    shifts : float array
        Of :func:`draw_shifts`.
    places : mapping of str to mapping of str to str
        Point -> method -> folder of its training.

    Returns
    -------
    dict
        ``point/method`` -> one list per figure of :data:`FIGURES`.
    """
    nominal, loose = load_events(events_path), load_loose(loose_path)
    wanted = [*config.backgrounds, *places]
    loose = loose[np.isin(loose["sample"], [nominal.names.index(name) for name in wanted])]
    objects = BbwwObjects(loose.electrons, loose.muons, None, loose.jets, loose.met)
    found: dict[str, list[Improvement]] = {f"{p}/{m}": [] for p, methods in places.items() for m in methods}
    cuts = {key: _nominal_cut(nominal, key, places, config) for key in found}
    for shift in shifts:
        if kind == "energy_scale":
            shifted = shift_objects(objects, float(shift))
        else:
            met = shift_met(objects.met, config.systematics.soft_met_mode, np.random.default_rng(int(shift)))
            shifted = objects._replace(met=met)
        events = select_table(shifted, loose, nominal, reader_of(config), schema_of(config))
        for key, values in found.items():
            name, method = key.split("/")
            place = Path(places[name][method])
            values.append(measure(events, _point(nominal, name), method, place, config, cuts[key]))
    return {key: np.array(values).T.tolist() for key, values in found.items()}


class NominalCut(NamedTuple):
    """The cut of the unshifted events, and their yields.

    Parameters
    ----------
    threshold : float
    signal, background : float
        Selected yields, before the cut.
    """

    threshold: float
    signal: float
    background: float


def measure(
    events: BbwwEvents, point: MassPoint, method: str, place: Path, config: BbwwConfig, cut: NominalCut | None
) -> Improvement:
    """Both figures for the events of a pseudo-experiment; without a cut, with the best one."""
    scores = score_folds(events, point, method, place, config)
    rows = events.rows(point)
    best = judge(events, point, scores, config).sic
    is_signal, weight = events.is_signal[rows], events.weight[rows]
    if cut is None:
        return Improvement(best.value, best.value)
    kept = scores >= cut.threshold
    efficiency = [
        weight[kept & chosen].sum() / total
        for chosen, total in ((is_signal, cut.signal), (~is_signal, cut.background))
    ]
    at_cut = efficiency[0] / np.sqrt(efficiency[1]) if efficiency[1] > 0 else np.nan
    return Improvement(float(at_cut), best.value)


def score_folds(
    events: BbwwEvents, point: MassPoint, method: str, place: Path, config: BbwwConfig
) -> FloatArray:
    """Scores of a point's events, each by the classifier that has not seen it."""
    rows = events.rows(point)
    scores = np.full(len(rows), np.nan)
    for fold in range(config.folds):
        inside = events.fold[rows] == fold
        scores[inside] = score_events(events, method, point, rows[inside], place / f"fold{fold}")
    return scores


def _point(events: BbwwEvents, name: str) -> MassPoint:
    return next(point for point in events.points if point.name == name)


def _nominal_cut(
    events: BbwwEvents, key: str, places: Mapping[str, Mapping[str, str]], config: BbwwConfig
) -> NominalCut:
    name, method = key.split("/")
    point = _point(events, name)
    rows = events.rows(point)
    with np.load(Path(places[name][method]) / "scores.npz") as file:
        best = judge(events, point, file[name], config).sic
    is_signal, weight = events.is_signal[rows], events.weight[rows]
    return NominalCut(best.threshold, float(weight[is_signal].sum()), float(weight[~is_signal].sum()))


def stabilities(
    parts: Mapping[str, Numbers],
    config: BbwwConfig,
    nominal: Mapping[str, tuple[float, float]],
) -> dict[tuple[str, str, str], Stability]:
    """All pseudo-experiments put together.

    Parameters
    ----------
    parts : mapping of str to dict
        Kind -> what :func:`run_experiments` gave, its parts joined.
    config : BbwwConfig
    nominal : mapping of str to (float, float)
        ``point/method`` -> nominal improvement and its statistical error, of the same training.

    Returns
    -------
    dict
        Kind, ``point/method`` and figure -> Stability.
    """
    found = {}
    for kind, numbers in parts.items():
        shifts = draw_shifts(config, kind)
        sizes = shifts if kind == "energy_scale" else np.full(len(shifts), np.nan)
        for key, figures in numbers.items():
            for figure, values in zip(FIGURES, figures, strict=True):
                results = np.array(values, np.float64)
                found[kind, key, figure] = Stability(LABELS[kind], *nominal[key], sizes, results)
    return found
