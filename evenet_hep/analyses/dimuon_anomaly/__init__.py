"""Search for a resonance in dimuons without being told what it looks like: the background is generated.

A generator learns the muon pairs of the side bands given their mass, and makes background for the window. Boosted trees
between it and the data of the window give each event a likelihood ratio, with which the side-band fit is repeated.

:mod:`~.config` the settings, :mod:`~.generator` the network and the flow, :mod:`~.search` one search in one sample,
:mod:`~.injection` samples with a known signal, :mod:`~.studies` what is repeated, :mod:`~.figures`, :mod:`~.run` all of it.
"""

from __future__ import annotations

from evenet_hep.analyses.dimuon_anomaly.config import DimuonAnomalyConfig
from evenet_hep.analyses.dimuon_anomaly.run import analyse_dimuon

__all__ = ["DimuonAnomalyConfig", "analyse_dimuon"]
