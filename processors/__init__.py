"""Coffea processors to drop into an analysis."""

from __future__ import annotations

from evenet_hep.processors.bbww_resonance import BbwwResonance, judge_scores
from evenet_hep.processors.event_scores import EventScores, mean_probabilities
from evenet_hep.processors.ttbar_spin import TTbarSpinProcessor

from evenet_hep.events.object_selection import select_objects

__all__ = [
    "BbwwResonance",
    "EventScores",
    "TTbarSpinProcessor",
    "judge_scores",
    "mean_probabilities",
    "select_objects",
]
