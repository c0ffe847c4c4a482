"""Coffea processors to drop into an analysis."""

from __future__ import annotations

from evenet_hep.processors.dimuon_anomaly import DimuonAnomaly
from evenet_hep.processors.event_scores import EventScores, mean_probabilities

from evenet_hep.events.object_selection import select_objects

__all__ = ["DimuonAnomaly", "EventScores", "mean_probabilities", "select_objects"]
