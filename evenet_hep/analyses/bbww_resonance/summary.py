"""The result in a few sentences and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenet_hep.analyses.bbww_resonance.comparison import Row, ratio_grid

Numbers = dict[str, Any]


def summarize(
    rows: Sequence[Row],
    winners: Sequence[Row],
    limits: Sequence[Row],
    toys: Sequence[Row],
    false_positives: Sequence[Row],
    halves: Sequence[Row],
    moved: Sequence[Row],
    unavailable: Sequence[Row],
) -> tuple[str, Numbers]:
    """Sentences for people, and the same numbers by name.

    Parameters
    ----------
    rows, winners, limits, toys, false_positives, halves, moved, unavailable : sequence of dict
        The tables of the analysis.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    n_points = len(winners)
    numbers: Numbers = {"points": n_points, "wins": {}, "clear_wins": {}, "ratio_to_xgboost": {}}
    sentences = []
    for method in methods:
        mine = [row for row in winners if row["winner"] == method]
        numbers["wins"][method] = len(mine)
        numbers["clear_wins"][method] = sum(row["is_clear"] for row in mine)
        values = [row["sic"] for row in rows if row["method"] == method]
        sentences.append(
            f"{method}: mean SIC {np.mean(values):.2f}, largest at {len(mine)} of {n_points} points "
            f"({numbers['clear_wins'][method]} beyond the spread of the trainings)."
        )
        if method != "xgboost" and "xgboost" in methods:
            numbers["ratio_to_xgboost"][method] = geometric_mean(rows, method, "xgboost")
    for method, ratio in numbers["ratio_to_xgboost"].items():
        sentences.append(
            f"SIC of {method} over xgboost: {ratio['value']:.3f} ± {ratio['error']:.3f} over the points."
        )
    best = best_limits(limits)
    numbers["best_limit_pb"] = best
    if best:
        sentences.append(f"Best expected limits: {min(best.values()):.3g} to {max(best.values()):.3g} pb.")
    numbers |= closure_numbers(toys, false_positives, halves)
    sentences.append(
        f"Toys: pulls between {numbers['pull_mean_lowest']:+.2f} and {numbers['pull_mean_highest']:+.2f}, widths "
        f"{numbers['pull_width_lowest']:.2f} to {numbers['pull_width_highest']:.2f}. Independent halves: pull "
        f"{numbers['halves_pull_mean']:+.2f}, width {numbers['halves_pull_width']:.2f}."
    )
    for z, rate in numbers["false_positives"].items():
        sentences.append(
            f"Without signal, {100 * rate['rate']:.1f} ± {100 * rate['rate_error']:.1f} % of the toys exceed {z} standard "
            f"deviations ({100 * rate['expected']:.1f} % expected)."
        )
    largest = [row["half_width_68_in_statistical_errors"] for row in moved if row["figure"] == "nominal_cut"]
    if largest:
        numbers["largest_systematic_in_statistical_errors"] = max(largest)
        sentences.append(
            f"Systematic shifts move the SIC by at most {max(largest):.2f} statistical errors (68 %)."
        )
    sentences += [f"{row['method']} was not run: {row['reason']}" for row in unavailable]
    return " ".join(sentences), numbers


def geometric_mean(rows: Sequence[Row], method: str, other: str) -> dict[str, float]:
    """Geometric mean over the points of the ratio of two methods, with the standard error of its logarithm.

    Examples
    --------
    >>> at = {"point": "a", "m_x": 500.0, "m_y": 90.0}
    >>> rows = [at | {"method": "xgboost", "sic": 4.0}, at | {"method": "scratch", "sic": 3.0}]
    >>> geometric_mean(rows, "scratch", "xgboost")["value"]
    0.75
    """
    ratios = np.array([row["ratio"] for row in ratio_grid(rows, method, other).numbers])
    logs = np.log(ratios[np.isfinite(ratios)])
    value = float(np.exp(logs.mean())) if len(logs) else float("nan")
    error = value * float(logs.std(ddof=1) / np.sqrt(len(logs))) if len(logs) > 1 else float("nan")
    return {"value": value, "error": error, "points": len(logs)}


def best_limits(limits: Sequence[Row]) -> dict[str, float]:
    """Smallest expected limit of every point that has one, in pb.

    Examples
    --------
    >>> best_limits([{"point": "a", "limit_pb": 2.0}, {"point": "a", "limit_pb": 1.0}, {"point": "b", "limit_pb": None}])
    {'a': 1.0}
    """
    best: dict[str, float] = {}
    for row in limits:
        value = np.nan if row["limit_pb"] is None else float(row["limit_pb"])
        if np.isfinite(value):
            best[row["point"]] = min(value, best.get(row["point"], np.inf))
    return best


def closure_numbers(toys: Sequence[Row], false_positives: Sequence[Row], halves: Sequence[Row]) -> Numbers:
    """Extremes of the pulls, and the false positives of all points together."""
    numbers: Numbers = {}
    for name in ("pull_mean", "pull_width"):
        values = [row[name] for row in toys]
        numbers |= {f"{name}_lowest": min(values), f"{name}_highest": max(values)}
    pulls = np.array([row["pull"] for row in halves], float)  # None, where a fit failed, becomes NaN
    numbers |= {
        "halves_pull_mean": float(np.nanmean(pulls)),
        "halves_pull_width": float(np.nanstd(pulls, ddof=1)),
        "fits_failed": int(np.isnan(pulls).sum()) + sum(row["failed"] for row in toys),
    }
    numbers["false_positives"] = {}
    for z in dict.fromkeys(row["z"] for row in false_positives):
        mine = [row for row in false_positives if row["z"] == z]
        n, passed = sum(row["toys"] for row in mine), sum(row["passed"] for row in mine)
        rate, expected = passed / n, mine[0]["expected"]
        numbers["false_positives"][f"{z:g}"] = {
            "rate": rate,
            "rate_error": float(np.sqrt(expected * (1 - expected) / n)),
            "expected": expected,
            "toys": n,
        }
    return numbers
