"""Coffea processors to drop into an analysis."""

from __future__ import annotations

from evenet_hep.processors.bbww_resonance import BbwwResonance, judge_scores
from evenet_hep.processors.dimuon_anomaly import DimuonAnomaly
from evenet_hep.processors.event_scores import EventScores, mean_probabilities
from evenet_hep.processors.higgs_to_4b import BTag, HiggsTo4b
from evenet_hep.processors.ttbar_spin import TTbarSpinProcessor

from evenet_hep.events.object_selection import select_objects

__all__ = [
    "BTag",
    "BbwwResonance",
    "DimuonAnomaly",
    "EventScores",
    "HiggsTo4b",
    "TTbarSpinProcessor",
    "judge_scores",
    "mean_probabilities",
    "select_objects",
]
