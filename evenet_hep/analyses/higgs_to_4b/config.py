"""Settings of the analysis of H -> aa -> 4b."""

from __future__ import annotations

import dataclasses

from evenet_hep.baselines.spanet import SpanetConfig
from evenet_hep.baselines.xgboost import XgboostConfig
from evenet_hep.model.layers import require
from evenet_hep.processors.higgs_to_4b import BTag
from evenet_hep.training.config import FinetuneConfig

TASKS = ("classification", "assignment", "segmentation")


def _training(lr: float, lr_object_encoder: float, lr_backbone: float) -> FinetuneConfig:
    return FinetuneConfig(
        batch_size=64,
        lr=lr,
        lr_object_encoder=lr_object_encoder,
        lr_backbone=lr_backbone,
        warmup=1.0,
        patience=0,
        class_balance="equal",
        event_weights=True,
        rotate=True,
        mirror=True,
        ema=0.98,
    )


@dataclasses.dataclass(frozen=True)
class HiggsTo4bConfig:
    """What :func:`~evenet_hep.analyses.higgs_to_4b.analyse_higgs_to_4b` does.

    Parameters
    ----------
    events : str
        Folder of ``evenet-hep simulate``, or a YAML file that lists samples.
    signals, backgrounds : tuple of str
        Names of samples. Empty: all whose class is ``haa4b``, and all others.
    luminosity : float
        In 1/fb.
    btag : BTag
        Score of the jets and its working points.
    validation_fraction, test_fraction : float
        Parts of every sample that choose the best epoch, and that all results are measured on.
    size : str
        Of the networks.
    checkpoint : str
        Folder of a pretrained network of any size; empty trains networks from the start alone.
    tasks : tuple of str
        What the networks learn: ``"classification"`` alone, with ``"assignment"``, with ``"segmentation"``.
    sizes : tuple of int
        Numbers of training events of the learning curve; 0 for all there are.
    seeds : tuple of int
        One training each; the seed chooses events, weights and order.
    steps : int
        Steps of the optimiser in every training, whatever its size.
    training : FinetuneConfig
        Of networks from the start; the number of epochs follows from ``steps``, the losses from the task.
    finetuning : FinetuneConfig
        The same for pretrained networks; the ratios of the learning rates are those of the paper.
    spanet : SpanetConfig
        The baseline for the pairing; the number of epochs follows from ``steps``.
    trees : XgboostConfig
        The baseline for the classification.
    bins : int
        Bins of the score in the fit, merged where fewer than ten simulated background events are left.
    background_uncertainty : float
        Relative, on the number of background events.
    energy_shifts : int
        Pseudo-experiments with another jet energy scale.
    toys : int
        Pseudo-experiments with each injected strength, and five times as many without signal.
    injected : tuple of float
        Strengths, in units of the square root of the number of background events before any cut on the score.
    spanet_file : str
        HDF5 file of SPANet's all-hadronic top pairs, to compare both assignments there too; empty leaves that out.
    spanet_steps : int
        Steps of the optimiser for every training with that file; the first two seeds are used.
    cores : int
        Processes for trainings and files.
    seed : int
        Of everything that is drawn beside the trainings.
    """

    events: str = ""
    signals: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    luminosity: float = 300.0
    btag: BTag = dataclasses.field(default_factory=BTag)
    validation_fraction: float = 0.1
    test_fraction: float = 0.4
    size: str = "tiny"
    checkpoint: str = ""
    tasks: tuple[str, ...] = TASKS
    sizes: tuple[int, ...] = (150, 400, 0)
    seeds: tuple[int, ...] = (1, 2, 3)
    steps: int = 200
    training: FinetuneConfig = dataclasses.field(default_factory=lambda: _training(1e-3, 1e-3, 1e-3))
    finetuning: FinetuneConfig = dataclasses.field(default_factory=lambda: _training(2e-3, 6e-4, 2e-4))
    spanet: SpanetConfig = dataclasses.field(
        default_factory=lambda: SpanetConfig(n_daughters=2, interchangeable=(0, 1), batch_size=64)
    )
    trees: XgboostConfig = dataclasses.field(default_factory=XgboostConfig)
    bins: int = 8
    background_uncertainty: float = 0.05
    energy_shifts: int = 100
    toys: int = 40
    injected: tuple[float, ...] = (1.0, 2.0, 4.0)
    spanet_file: str = ""
    spanet_steps: int = 600
    cores: int = 2
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("signals", "backgrounds", "tasks", "sizes", "seeds", "injected"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        unknown = sorted(set(self.tasks) - set(TASKS))
        require(bool(self.tasks) and not unknown, "tasks", f"some of {', '.join(TASKS)}", self.tasks)
        require("assignment" in self.tasks, "tasks", "such that assignment is among them", self.tasks)
        for name in ("validation_fraction", "test_fraction"):
            require(0 < getattr(self, name) < 1, name, "between 0 and 1", getattr(self, name))
        total = self.validation_fraction + self.test_fraction
        require(
            total < 1, "validation_fraction and test_fraction", "such that events are left to train", total
        )
        require(bool(self.sizes) and min(self.sizes) >= 0, "sizes", "at least one, none negative", self.sizes)
        require(
            len(set(self.seeds)) == len(self.seeds) > 0, "seeds", "at least one, all different", self.seeds
        )
        for name, lowest in (
            ("steps", 1),
            ("spanet_steps", 1),
            ("bins", 2),
            ("energy_shifts", 2),
            ("toys", 2),
            ("cores", 1),
            ("seed", 0),
        ):
            require(getattr(self, name) >= lowest, name, f"at least {lowest}", getattr(self, name))
        require(self.luminosity > 0, "luminosity", "above 0", self.luminosity)
        require(
            self.background_uncertainty >= 0,
            "background_uncertainty",
            "at least 0",
            self.background_uncertainty,
        )
        require(all(x > 0 for x in self.injected), "injected", "above 0", self.injected)
        pairs = (self.spanet.n_resonances, self.spanet.n_daughters, set(self.spanet.interchangeable))
        require(
            pairs == (2, 2, {0, 1}), "spanet", "for two resonances of two interchangeable daughters", pairs
        )

    @property
    def fractions(self) -> dict[str, float]:
        """Names and fractions of the parts of every sample."""
        left = 1.0 - self.validation_fraction - self.test_fraction
        return {"train": left, "val": self.validation_fraction, "test": self.test_fraction}

    @property
    def starts(self) -> tuple[str, ...]:
        """Where the weights of networks come from."""
        return ("scratch", "pretrained") if self.checkpoint else ("scratch",)
