"""Coffea processors to drop into an analysis."""

from __future__ import annotations

from evenet_hep.processors.event_scores import EventScores, mean_probabilities
from evenet_hep.processors.higgs_to_4b import BTag, HiggsTo4b

from evenet_hep.events.object_selection import select_objects

__all__ = ["BTag", "EventScores", "HiggsTo4b", "mean_probabilities", "select_objects"]
