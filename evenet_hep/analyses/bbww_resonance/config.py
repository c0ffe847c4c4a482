"""Settings of the analysis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from evenet_hep.analyses.settings import read_analysis_config
from evenet_hep.baselines.tabpfn import TabpfnConfig
from evenet_hep.baselines.xgboost import XgboostConfig
from evenet_hep.errors import ConfigError
from evenet_hep.training.config import FinetuneConfig, LossWeights, Stage

METHODS = ("finetuned", "scratch", "parametrised", "xgboost", "tabpfn")
NETWORKS = ("finetuned", "scratch", "parametrised")

_CLASSES = (Stage(losses=LossWeights.only("classification")),)
# What all trainings share. The published presets (task1, task1_scratch, task1_masses) take batches of thousands of
# events; a thousand training events in all need small batches to make any steps.
_SMALL = FinetuneConfig(
    epochs=12,
    batch_size=64,
    warmup=1.0,
    patience=4,
    weight_decay=0.01,
    event_weights=True,
    mirror=True,
    rotate=True,
    stages=_CLASSES,
)
_FINETUNED = dataclasses.replace(_SMALL, lr=3e-3, lr_backbone=3e-3)
_SCRATCH = dataclasses.replace(_SMALL, lr=3e-3, lr_backbone=3e-3)
_PARAMETRISED = dataclasses.replace(_FINETUNED, batch_size=128)


@dataclasses.dataclass(frozen=True)
class SystematicsConfig:
    """Pseudo-experiments with shifted jet energies and shifted missing momentum."""

    points: tuple[str, ...] = ("xyh_m_x300_m_y125", "xyh_m_x500_m_y90", "xyh_m_x700_m_y400")
    """Signals they are made for; those that are not there are left out."""
    methods: tuple[str, ...] = ("finetuned", "parametrised", "xgboost")
    """Whose scores are followed, of the training with the first seed."""
    energy_scale: int = 60
    """Pseudo-experiments with one relative shift of all jets, normal with a width of 1 %, at most 10 %."""
    soft_met: int = 30
    """Pseudo-experiments with noise on the missing momentum."""
    soft_met_mode: Literal["magnitude", "components", "noise"] = "magnitude"
    """``magnitude``: a log-normal shift of every event, as the paper writes; ``components``: two constants for all events, as
    its code does; ``noise``: normal noise of one width, as in the FAIR Universe challenge."""
    seed: int = 1
    """Of the shifts."""

    def __post_init__(self) -> None:
        for name in ("energy_scale", "soft_met"):
            if getattr(self, name) < 0:
                msg = f"systematics.{name} must be at least 0; found {getattr(self, name)}"
                raise ConfigError(msg)


@dataclasses.dataclass(frozen=True)
class ClosureConfig:
    """Toys of the fit: injected signal has to be found, and none where there is none."""

    points: tuple[str, ...] = ("xyh_m_x300_m_y125", "xyh_m_x700_m_y400")
    """Signals they are made for; those that are not there are left out."""
    strengths: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    """Injected, in units of about the standard deviation that is expected without signal."""
    toys: int = 50
    """For each strength."""
    background_toys: int = 250
    """Without signal, for the rate of false positives."""
    thresholds: tuple[float, ...] = (1.0, 2.0)
    """Significances at which false positives are counted."""
    seed: int = 1
    """Of the toys."""

    def __post_init__(self) -> None:
        for name in ("toys", "background_toys"):
            if getattr(self, name) < 2:
                msg = f"closure.{name} must be at least 2; found {getattr(self, name)}"
                raise ConfigError(msg)


@dataclasses.dataclass(frozen=True)
class BbwwConfig:
    """Everything the analysis can be told; unknown keys are errors."""

    checkpoint: str = ""
    """Pretrained network, a folder; without it nothing is fine-tuned, and the parametrised network starts from scratch."""
    size: str = "tiny"
    """Size of networks without a checkpoint: ``tiny``, ``small``, ``20m`` or ``100m``."""
    backgrounds: tuple[str, ...] = ("TT1L", "TT2L", "ST_t", "WJetsToLNu")
    """Samples of background."""
    points: tuple[str, ...] = ()
    """Samples of signal; by default all that have the parameters ``m_x`` and ``m_y``."""
    methods: tuple[str, ...] = METHODS
    """Which classifiers are trained and compared."""
    luminosity: float = 140.0
    """In 1/fb."""
    signal_pb: float = 1.0
    """Cross-section times branching fractions of a signal of strength 1, in pb; limits do not depend on it."""
    strategy: Literal["joint", "sequential"] = "joint"
    """Of the topness; the published ntuples used the second."""
    folds: int = 2
    """Every event is scored by classifiers that were trained on the other folds."""
    validation_fraction: float = 0.2
    """Part of the training events that decides when to stop."""
    seeds: tuple[int, ...] = (1, 2)
    """One training each, with its own first weights, order of events and validation events."""
    reset_object_encoder: bool = True
    """Begin the object encoder of fine-tuned networks anew: a joint pretraining bends it to its own classes."""
    adapter: int = 16
    """Width of the adapters of fine-tuned networks; 0 for none."""
    finetuned: FinetuneConfig = _FINETUNED
    """Training of a pretrained network at one point."""
    scratch: FinetuneConfig = _SCRATCH
    """Training of a new network at one point."""
    parametrised: FinetuneConfig = _PARAMETRISED
    """Training of the network that is told the masses, on all points at once."""
    xgboost: XgboostConfig = dataclasses.field(default_factory=XgboostConfig)
    """Boosted trees, one set per point."""
    tabpfn: TabpfnConfig = dataclasses.field(default_factory=TabpfnConfig)
    """TabPFN, at every point."""
    minimum_background: float = 10.0
    """Smallest weighted background yield behind a cut."""
    minimum_effective: float = 10.0
    """Smallest effective number of simulated background events behind a cut and in a bin of the fit."""
    background_uncertainty: float = 0.05
    """Relative uncertainty of the background yield in the fit."""
    systematics: SystematicsConfig = dataclasses.field(default_factory=SystematicsConfig)
    """Pseudo-experiments."""
    closure: ClosureConfig = dataclasses.field(default_factory=ClosureConfig)
    """Toys."""
    cores: int = 2
    """Processes; results do not depend on it."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            msg = f"methods must be some of {', '.join(METHODS)}; found {unknown[0]!r}"
            raise ConfigError(msg)
        if not self.methods or not self.backgrounds or not self.seeds:
            msg = "methods, backgrounds and seeds must not be empty"
            raise ConfigError(msg)
        for name in ("methods", "backgrounds", "seeds", "points"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                msg = f"{name} must not repeat itself; found {', '.join(map(str, values))}"
                raise ConfigError(msg)
        for name, lowest in (("folds", 2), ("cores", 1), ("adapter", 0)):
            if getattr(self, name) < lowest:
                msg = f"{name} must be at least {lowest}; found {getattr(self, name)}"
                raise ConfigError(msg)
        for name in ("luminosity", "signal_pb", "background_uncertainty", "minimum_effective"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                msg = f"{name} must be above 0; found {value}"
                raise ConfigError(msg)
        if not 0 < self.validation_fraction < 1 or not self.background_uncertainty < 1:
            msg = "validation_fraction and background_uncertainty must lie between 0 and 1"
            raise ConfigError(msg)

    def training(self, method: str) -> FinetuneConfig:
        """How networks of a method are trained."""
        return {"finetuned": self.finetuned, "scratch": self.scratch, "parametrised": self.parametrised}[
            method
        ]


def read_bbww_config(path: str | Path | None = None, settings: Iterable[str] = ()) -> BbwwConfig:
    """Settings from a YAML file, with some of them replaced.

    Parameters
    ----------
    path : path, optional
        What it leaves out takes the default; without it everything does.
    settings : iterable of str
        ``key=value``, with dots between levels: ``xgboost.max_trees=500``.

    Raises
    ------
    ConfigError
        For unknown keys and values of another kind, by name.

    Examples
    --------
    >>> read_bbww_config(settings=["systematics.energy_scale=20", "seeds=[1]"]).systematics.energy_scale
    20
    """
    return read_analysis_config(BbwwConfig, path, settings)
