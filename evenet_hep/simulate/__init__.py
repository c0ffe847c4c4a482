"""Simulated events: Pythia 8, fastjet and a parametric detector write NanoAOD-like files (extra ``sim``)."""

from __future__ import annotations
