"""Settings of the spin analysis."""

from __future__ import annotations

import dataclasses
from typing import Literal

from evenet_hep.analyses.ttbar_spin.measure import Settings
from evenet_hep.analyses.ttbar_spin.network import TRAINING
from evenet_hep.model.layers import require
from evenet_hep.training.config import FinetuneConfig


@dataclasses.dataclass(frozen=True)
class TTbarSpinConfig:
    """What ``evenet-hep analyse ttbar-spin`` does.

    Parameters
    ----------
    sample : str
        Name of the sample of top pairs with two leptons.
    max_events : int or None
        Read no more than about so many events.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float
        A jet is b-tagged above it.
    fractions : sequence of three floats
        Of the events, for training, for choosing the epoch, and for the response; what is left is pseudo-data. The parts
        have no event in common.
    size : str
        Of a network from scratch.
    checkpoint : str
        Folder of a trained network that is fine-tuned beside it; empty for none.
    training : FinetuneConfig
        Of both networks.
    sampler_steps : int
        Steps of second order in which neutrinos are drawn.
    method : {"bayes", "svd"}
        Unfolding of the result. The other one is done, too, for the classical reconstruction.
    iterations, k : int
        Of iterated Bayes, and components of the singular value decomposition.
    response_strength : float
        Spin correlations in the response: 1 are those of leading-order QCD, 0 none.
    luminosity : float
        Of the projection, in 1/fb.
    cross_section : float
        Of top pairs with two leptons for the projection, in pb: 19.29 in the EveNet paper.
    replicas : int
        Resampled responses, for the uncertainty from the number of simulated events.
    splits : int
        Random divisions of the events into response and pseudo-data, for pulls and false claims.
    strengths : sequence of float
        Of the spin correlations in the pseudo-data of this closure test. The strength at which tops are just not entangled is
        added.
    sizes : sequence of float
        Parts of the training events, for the study of the training size. Empty leaves it out.
    seeds : int
        Trainings for each size.
    experiments : int
        Pseudo-experiments of each systematic shift; 0 leaves them out.
    experiment_events : int
        Events of the pseudo-data in each of them, counted before the selection of b jets.
    seed : int
        Of all random numbers; trainings count on from it.
    cores : int
        Processes that share trainings, unfoldings and pseudo-experiments.
    """

    sample: str = "TT2L"
    max_events: int | None = None
    btag: str = "btagDeepFlavB"
    working_point: float = 0.2489
    fractions: tuple[float, ...] = (0.4, 0.05, 0.3)
    size: str = "tiny"
    checkpoint: str = ""
    training: FinetuneConfig = TRAINING
    sampler_steps: int = 4
    method: Literal["bayes", "svd"] = "bayes"
    iterations: int = 4
    k: int = 5
    response_strength: float = 1.0
    luminosity: float = 140.0
    cross_section: float = 19.29
    replicas: int = 60
    splits: int = 60
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0)
    sizes: tuple[float, ...] = (0.1, 0.3, 1.0)
    seeds: int = 2
    experiments: int = 50
    experiment_events: int = 1500
    seed: int = 1
    cores: int = 2

    def __post_init__(self) -> None:
        for name in ("fractions", "strengths", "sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sound = len(self.fractions) == 3 and min(self.fractions) > 0 and sum(self.fractions) < 1
        require(sound, "fractions", "three numbers above 0 with a sum below 1", self.fractions)
        for name in ("sampler_steps", "iterations", "seeds", "experiment_events", "cores"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("replicas", "splits", "k"):
            require(getattr(self, name) >= 2, name, "at least 2", getattr(self, name))
        require(self.experiments >= 0, "experiments", "at least 0", self.experiments)
        for name in ("luminosity", "cross_section"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("strengths", "sizes"):
            values = getattr(self, name)
            require(all(0 <= x <= 1 for x in values), name, "numbers from 0 to 1", values)
        require(all(x > 0 for x in self.sizes), "sizes", "above 0", self.sizes)
        require(0 <= self.response_strength <= 1, "response_strength", "in [0, 1]", self.response_strength)
        require(self.method in ("bayes", "svd"), "method", "'bayes' or 'svd'", self.method)

    @property
    def unfolding(self) -> Settings:
        """How the result is unfolded."""
        return Settings(self.method, self.iterations, self.k)
