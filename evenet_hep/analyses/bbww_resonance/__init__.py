"""Search for X -> YH -> bb WW on a grid of masses: which classifier finds the signal best, and how well.

>>> from evenet_hep.analyses.bbww_resonance import BbwwConfig
>>> BbwwConfig().seeds
(1, 2)
"""

from __future__ import annotations

from evenet_hep.analyses.bbww_resonance.analysis import analyse_bbww
from evenet_hep.analyses.bbww_resonance.config import BbwwConfig, read_bbww_config

__all__ = ["BbwwConfig", "analyse_bbww", "read_bbww_config"]
