"""Closure: strengths that were put in come out, from toys of the fit and from halves of the simulated events."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.bbww_resonance.comparison import Comparison
from evenet_hep.analyses.bbww_resonance.config import BbwwConfig
from evenet_hep.analyses.bbww_resonance.events import BbwwEvents
from evenet_hep.analyses.bbww_resonance.limits import (
    Template,
    count_false_positives,
    halves_closure,
    natural_unit,
    summarize_toys,
    throw_toys,
)
from evenet_hep.processors.bbww_resonance import score_edges

FloatArray = npt.NDArray[np.float64]
Numbers = dict[str, Any]


def toy_job(template: Template, config: BbwwConfig, strength: float | None) -> Numbers:
    """Toys of one strength, in natural units; None for the rate of false positives.

    Parameters
    ----------
    template : Template
    config : BbwwConfig
    strength : float or None

    Returns
    -------
    dict
        ``pulls``, see :func:`~evenet_hep.analyses.bbww_resonance.limits.summarize_toys`, or ``false_positives``.
    """
    unit = natural_unit(template)
    key = zlib.crc32(np.ascontiguousarray(template.background).tobytes())
    rng = np.random.default_rng(
        (config.closure.seed, key, 0 if strength is None else 1 + round(1000 * strength))
    )
    toys = throw_toys(
        template.scaled(unit),
        strength or 0.0,
        config.closure.background_toys if strength is None else config.closure.toys,
        rng,
        background_uncertainty=config.background_uncertainty,
    )
    if strength is None:
        return {"false_positives": count_false_positives(toys, config.closure.thresholds)}
    return {"pulls": summarize_toys(toys, strength)}


def close_halves(events: BbwwEvents, comparison: Comparison, config: BbwwConfig) -> list[Numbers]:
    """Fits of each half of the events with the templates of the other, without signal and with two standard deviations.

    Parameters
    ----------
    events : BbwwEvents
    comparison : Comparison
    config : BbwwConfig

    Returns
    -------
    list of dict
        ``point``, ``method``, ``template`` (which half), and what
        :func:`~evenet_hep.analyses.bbww_resonance.limits.halves_closure` gives, in expected standard deviations.
    """
    rows = []
    for (method, name), scores in comparison.scores.items():
        point = next(point for point in events.points if point.name == name)
        chosen = events.rows(point)
        parts = [
            half_template(events, chosen, scores, events.half[chosen] == side, config)
            for side in (False, True)
        ]
        for side, (template, data) in enumerate((parts, parts[::-1])):
            unit = natural_unit(template)
            for strength in (0.0, 2.0):
                found = halves_closure(
                    data.scaled(unit),
                    template.scaled(unit),
                    strength,
                    background_uncertainty=config.background_uncertainty,
                )
                rows.append({"point": name, "method": method, "template": "ab"[side], **found})
    return rows


def half_template(
    events: BbwwEvents,
    rows: npt.NDArray[np.int64],
    scores: FloatArray,
    chosen: npt.NDArray[np.bool_],
    config: BbwwConfig,
) -> Template:
    """Binned score of half of the events, with twice their weight, in bins that both halves fill."""
    is_signal, weight = events.is_signal[rows], events.weight[rows]
    edges = score_edges(
        scores[~is_signal], weight[~is_signal], minimum_effective=2 * config.minimum_effective
    )
    clipped = np.minimum(scores, np.nextafter(1.0, 0.0))
    contents = []
    for kind in (is_signal, ~is_signal):
        part = chosen & kind
        contents += [
            np.histogram(clipped[part], edges, weights=(2 * weight[part]) ** power)[0] for power in (1, 2)
        ]
    signal, signal_variance, background, background_variance = contents
    return Template(edges, signal, background, signal_variance, background_variance)
