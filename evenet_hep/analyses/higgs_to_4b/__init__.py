"""H -> aa -> 4b: networks against baselines, pairing, limits, closure and the jet energy scale.

Method
------
:class:`~evenet_hep.processors.higgs_to_4b.HiggsTo4b` selects events and keeps them. A hash of their numbers splits every
sample into events for training, for the choice of the epoch, and for all results. Networks learn to tell signal from
background, alone or together with the assignment of jets to the scalars or with their segmentation, from random weights
or from a pretrained network. Boosted trees on the same inputs are the baseline of the class; SPANet, equal masses and
smallest distances are those of the pairing. All are trained on the same events with three and more sizes of sample, and
several times, so that the spread of trainings is known.

The significance improvement is the largest one of a cut that keeps a background yield of ten *and* about ten simulated
events. Pairing efficiencies count events in which every quark has a jet. The score is binned and fitted for the limits;
closure is tested with simulated events that play the data and that the fit has not seen.
"""

from __future__ import annotations

from evenet_hep.analyses.higgs_to_4b.analysis import analyse_higgs_to_4b
from evenet_hep.analyses.higgs_to_4b.config import HiggsTo4bConfig

__all__ = ["HiggsTo4bConfig", "analyse_higgs_to_4b"]
