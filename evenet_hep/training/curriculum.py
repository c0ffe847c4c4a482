"""Which losses count, and how much is noised, at every moment of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from evenet_hep.training.config import LOSSES, Stage


class Plan(NamedTuple):
    """The settings of one moment.

    Attributes
    ----------
    stage : int
        Position of the stage.
    noise_probability : float
        Chance of an object to be noised.
    hide : bool
        Clean objects may not attend noised ones.
    weights : dict of str to float
        Weight of each loss, those of zero included.
    """

    stage: int
    noise_probability: float
    hide: bool
    weights: dict[str, float]


def ramp(values: Sequence[float], part: float) -> float:
    """Between start and end along half a cosine, start + (end - start) (1 - cos pi t) / 2.

    Parameters
    ----------
    values : pair of float
        Start and end.
    part : float
        t, cut to [0, 1].

    Examples
    --------
    >>> ramp((0.1, 1.0), 0.0), round(ramp((0.1, 1.0), 0.5), 3), ramp((0.1, 1.0), 2.0)
    (0.1, 0.55, 1.0)
    """
    start, end = values[0], values[-1]
    t = min(max(part, 0.0), 1.0)
    share = 0.5 * (1 - math.cos(math.pi * t))
    return start * (1 - share) + end * share


def plan_at(stages: Sequence[Stage], progress: float) -> Plan:
    """The settings after some part of a run.

    Parameters
    ----------
    stages : sequence of Stage
        Their shares sum to one.
    progress : float
        Part of the run that is done, in [0, 1].

    Examples
    --------
    >>> from evenet_hep.training.config import LossWeights
    >>> first = Stage(0.5, 0.5, noise_probability=(0.1, 1.0), losses=LossWeights.only("object_generation"))
    >>> stages = [first, Stage(0.5, losses=LossWeights(classification=(0.0, 1.0)))]
    >>> round(plan_at(stages, 0.125).noise_probability, 3), plan_at(stages, 0.25).noise_probability
    (0.55, 1.0)
    >>> plan_at(stages, 0.5).stage, round(plan_at(stages, 0.75).weights["classification"], 3)
    (1, 0.5)
    """
    start = 0.0
    last = len(stages) - 1
    for number, stage in enumerate(stages):
        # Shares such as 1/3 do not sum to their end exactly.
        if progress < start + stage.share - 1e-9 or number == last:
            within = (progress - start) / stage.share
            part = within / stage.transition if stage.transition else 1.0
            weights = {name: ramp(getattr(stage.losses, name), part) for name in LOSSES}
            hide = ramp(stage.hide, part) > 0.5
            return Plan(number, ramp(stage.noise_probability, part), hide, weights)
        start += stage.share
    msg = "a run has at least one stage"
    raise ValueError(msg)


def is_ever_active(stages: Sequence[Stage], loss: str) -> bool:
    """Whether a loss has a weight above zero at any time."""
    return any(max(getattr(stage.losses, loss)) > 0 for stage in stages)
