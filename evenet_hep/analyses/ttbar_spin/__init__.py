"""Spin correlations and entanglement of top pairs with two leptons, from files to D with its uncertainties.

>>> from evenet_hep.analyses.ttbar_spin import TTbarSpinConfig
>>> TTbarSpinConfig(iterations=8).unfolding.method
'bayes'
"""

from __future__ import annotations

from evenet_hep.analyses.ttbar_spin.analysis import analyse_ttbar_spin
from evenet_hep.analyses.ttbar_spin.config import TTbarSpinConfig

__all__ = ["TTbarSpinConfig", "analyse_ttbar_spin"]
