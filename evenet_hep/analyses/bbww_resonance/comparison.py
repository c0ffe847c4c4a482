"""Which classifier is best where: figures of merit per point and method, with their statistical errors and their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.bbww_resonance.config import BbwwConfig
from evenet_hep.analyses.bbww_resonance.events import BbwwEvents, MassPoint
from evenet_hep.processors.bbww_resonance import BbwwResult, judge_scores
from evenet_hep.training.mass_grid import GridResult

FloatArray = npt.NDArray[np.float64]
Row = dict[str, Any]


class Comparison(NamedTuple):
    """What all methods reach at all points.

    Parameters
    ----------
    rows : list of dict
        One per point and method, see :func:`compare`.
    results : dict of (str, str) to BbwwResult
        Method and point -> histograms and numbers of the mean score of all trainings.
    scores : dict of (str, str) to float array
        Method and point -> mean score, in the order of :meth:`BbwwEvents.rows`.
    """

    rows: list[Row]
    results: dict[tuple[str, str], BbwwResult]
    scores: dict[tuple[str, str], FloatArray]


def read_scores(places: Sequence[Path], point: MassPoint) -> FloatArray:
    """Scores of several trainings, shape (n_trainings, n_events)."""
    found = []
    for place in places:
        with np.load(place / "scores.npz") as file:
            found.append(file[point.name])
    return np.array(found)


def judge(events: BbwwEvents, point: MassPoint, scores: FloatArray, config: BbwwConfig) -> BbwwResult:
    """Figures of merit of the scores of a point, with the thresholds of the configuration."""
    rows = events.rows(point)
    return judge_scores(
        events.is_signal[rows],
        scores,
        events.weight[rows],
        minimum_background=config.minimum_background,
        minimum_effective=config.minimum_effective,
    )


def compare(
    events: BbwwEvents, places: Mapping[tuple[str, str], Sequence[Path]], config: BbwwConfig
) -> Comparison:
    """Figures of merit of every method at every point.

    Parameters
    ----------
    events : BbwwEvents
    places : mapping of (str, str) to sequence of Path
        Method and point -> folders of its trainings, one per seed.
    config : BbwwConfig

    Returns
    -------
    Comparison
        Its rows hold ``point``, ``m_x``, ``m_y``, ``method``; ``sic``, ``auc`` (means over the trainings) with ``_error``
        (statistical, of one training) and ``_spread`` (standard deviation between trainings, NaN for one);
        ``sic_ensemble`` and ``auc_ensemble`` (of the mean score) with ``_error``; and of the cut on the mean score
        ``signal_efficiency``, ``background_yield``, ``background_effective`` and ``background_minimum``.
    """
    rows, results, scores = [], {}, {}
    for (method, name), folders in places.items():
        point = next(point for point in events.points if point.name == name)
        single = read_scores(folders, point)
        judged = [judge(events, point, each, config) for each in single]
        mean = single.mean(axis=0)
        together = judge(events, point, mean, config)
        rows.append(_row(point, method, judged, together))
        results[method, name], scores[method, name] = together, mean
    return Comparison(rows, results, scores)


def _row(point: MassPoint, method: str, judged: list[BbwwResult], together: BbwwResult) -> Row:
    row: Row = {"point": point.name, "m_x": point.m_x, "m_y": point.m_y, "method": method}
    for name in ("sic", "auc"):
        values = np.array([getattr(each, name).value for each in judged])
        errors = np.array([getattr(each, name).uncertainty for each in judged])
        row[name] = float(values.mean())
        row[f"{name}_error"] = float(errors.mean())
        row[f"{name}_spread"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        row[f"{name}_ensemble"] = getattr(together, name).value
        row[f"{name}_ensemble_error"] = getattr(together, name).uncertainty
    return row | {
        "signal_efficiency": together.sic.signal_efficiency,
        "background_yield": together.sic.background_yield,
        "background_effective": together.effective_background,
        "background_minimum": together.minimum_background,
    }


def find_winners(rows: Sequence[Row], quantity: str = "sic") -> list[Row]:
    """The best method of every point, and by how much it leads.

    Parameters
    ----------
    rows : sequence of dict
        Of :class:`Comparison`.
    quantity : str
        What decides; it comes with ``_error`` and ``_spread``.

    Returns
    -------
    list of dict
        ``point``, ``m_x``, ``m_y``, ``winner``, ``runner_up``, their ratio ``lead``, and ``lead_error``: what the spread of
        the trainings leaves uncertain of it. (The events are the same for all methods, so that their statistical errors
        largely cancel in the ratio.) ``is_clear`` says whether the lead is more than twice that.

    Examples
    --------
    >>> at = {"point": "a", "m_x": 500.0, "m_y": 90.0}
    >>> rows = [at | {"method": m, "sic": s, "sic_spread": 0.3} for m, s in (("xgboost", 4.0), ("scratch", 3.0))]
    >>> found = find_winners(rows)[0]
    >>> found["winner"], round(found["lead"], 2), found["is_clear"]
    ('xgboost', 1.33, False)
    """
    winners = []
    for name in dict.fromkeys(row["point"] for row in rows):
        mine = [row for row in rows if row["point"] == name and np.isfinite(row[quantity])]
        if not mine:
            continue
        ranked = sorted(mine, key=lambda row: -row[quantity])
        best, second = ranked[0], ranked[min(1, len(ranked) - 1)]
        lead = best[quantity] / second[quantity]
        relative = [row[f"{quantity}_spread"] / row[quantity] for row in (best, second)]
        error = lead * float(np.hypot(*relative))
        winners.append(
            {key: best[key] for key in ("point", "m_x", "m_y")}
            | {"winner": best["method"], "runner_up": second["method"], "lead": lead, "lead_error": error}
            | {"is_clear": bool(lead - 1 > 2 * error) if len(ranked) > 1 else False}
        )
    return winners


def ratio_grid(rows: Sequence[Row], method: str, other: str, quantity: str = "sic") -> GridResult:
    """Ratio of a quantity between two methods at every point that has both, for a map.

    Examples
    --------
    >>> at = {"point": "a", "m_x": 500.0, "m_y": 90.0}
    >>> rows = [at | {"method": "xgboost", "sic": 4.0}, at | {"method": "scratch", "sic": 3.0}]
    >>> ratio_grid(rows, "scratch", "xgboost").numbers
    ({'ratio': 0.75},)
    """
    values = {
        (row["method"], row["m_x"], row["m_y"]): row[quantity]
        for row in rows
        if row["method"] in (method, other)
    }
    points = [(x, y) for m, x, y in values if m == method and (other, x, y) in values]
    numbers = tuple({"ratio": values[method, *p] / values[other, *p]} for p in points)
    return GridResult(("mass_x", "mass_y"), tuple(points), numbers, {})
