"""Settings of the dimuon search: frozen dataclasses that refuse unknown keys.

>>> DimuonAnomalyConfig().region.window
(9.1, 10.7)
>>> DimuonAnomalyConfig().published().region.degree
5
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from evenet_hep.baselines.cathode import FlowConfig
from evenet_hep.errors import ConfigError
from evenet_hep.events.dimuons import FEATURES
from evenet_hep.processors.dimuon_anomaly import TRIGGERS
from evenet_hep.stats.spectrum import MassBins, mass_bins
from evenet_hep.stats.weak import WeakConfig

Method = Literal["pretrained", "scratch", "flow"]
METHODS: dict[str, str] = {
    "pretrained": "network, pretrained on mixed pairs",
    "scratch": "network from scratch",
    "flow": "conditional flow (CATHODE)",
}


@dataclasses.dataclass(frozen=True)
class Region:
    """Where a resonance is looked for, and the background beside it."""

    window: tuple[float, float] = (9.1, 10.7)
    """Ends in GeV."""
    span: tuple[float, float] = (8.0, 12.0)
    """Outer ends of the side bands in GeV."""
    degree: int = 3
    """Of the polynomial through the side bands."""
    n_edges: int = 12
    """Bin edges inside the window."""

    def __post_init__(self) -> None:
        for name in ("window", "span"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _ = self.bins  # refuses limits that do not ascend
        if self.degree < 0:
            msg = f"region.degree must be at least 0; found {self.degree}"
            raise ConfigError(msg)

    @property
    def bins(self) -> MassBins:
        """Bins of the spectrum."""
        return mass_bins(self.window, self.span, n_edges=self.n_edges)


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The two-stage network and its training."""

    size: Literal["tiny", "small", "20M", "100M"] = "tiny"
    """Of the body."""
    folds: int = 2
    """Networks; each is trained on the side bands without one fold, which says when it was best."""
    epochs: int = 12
    """Passes over the side bands, from pretrained weights."""
    scratch_epochs: int = 20
    """The same without pretraining."""
    pretraining_epochs: int = 12
    """Passes over the mixed pairs."""
    pretraining_events: int = 8000
    """Mixed pairs."""
    batch_size: int = 64
    """Pairs per step."""
    lr: float = 3e-3
    """Learning rate without pretraining, and of the pretraining."""
    finetuning_lr: float = 2e-3
    """Learning rate from pretrained weights."""
    steps: int = 8
    """Steps of the sampling, each of which calls the network twice."""

    def __post_init__(self) -> None:
        for name, lowest in (("folds", 2), ("epochs", 1), ("scratch_epochs", 1), ("steps", 1)):
            if getattr(self, name) < lowest:
                msg = f"generator.{name} must be at least {lowest}; found {getattr(self, name)}"
                raise ConfigError(msg)


@dataclasses.dataclass(frozen=True)
class DimuonAnomalyConfig:
    """What :func:`~evenet_hep.analyses.dimuon_anomaly.run.analyse_dimuon` does."""

    seed: int = 1
    """Of everything that is random."""
    cores: int = 2
    """Processes that search at the same time."""
    region: Region = dataclasses.field(default_factory=Region)
    """Window, side bands and their polynomial."""
    features: tuple[str, ...] = ("pair_pt", "abs_rapidity", "cos_theta")
    """What the trees look at; names of :data:`evenet_hep.events.dimuons.FEATURES`."""
    methods: tuple[Method, ...] = ("pretrained", "scratch", "flow")
    """Generators to compare."""
    generator: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    """The network."""
    flow: FlowConfig = dataclasses.field(
        default_factory=lambda: FlowConfig(
            n_transforms=3, hidden=(48, 48), max_epochs=30, batch_size=128, n_best=5
        )
    )
    """The conditional flow."""
    trees: WeakConfig = dataclasses.field(
        default_factory=lambda: WeakConfig(
            n_folds=4, n_ensemble=2, max_trees=60, max_depth=2, learning_rate=0.05
        )
    )
    """The classifiers."""
    oversampling: float = 2.0
    """Generated events per background event expected in the window."""
    efficiencies: tuple[float, ...] = (0.5, 0.2)
    """Background efficiencies of the cuts."""
    fractions: tuple[float, ...] = (0.02, 0.05, 0.1)
    """Sizes of the subsamples, in units of all events of the file."""
    subsamples: int = 6
    """Random subsamples of each size."""
    fraction: float = 0.05
    """Size of every other sample."""
    toys: int = 30
    """Samples without a resonance for the false positive rate."""
    injected: tuple[int, ...] = (150,)
    """Signal events that are injected in the closure test."""
    injections: int = 5
    """Samples for each of those."""
    bootstraps: int = 5
    """Repetitions with resampled data, and with other generators."""
    scales: int = 4
    """Pseudo-experiments with a shifted muon momentum scale."""
    scale_width: float = 0.002
    """Standard deviation of the relative shift."""
    triggers: tuple[str, ...] = TRIGGERS
    """Of NanoAOD files; empty for files that were triggered before."""
    control_windows: tuple[Region, ...] = (
        Region((8.4, 8.75), (8.0, 9.1), 1, 6),
        Region((11.1, 11.6), (10.7, 12.0), 1, 6),
    )
    """Windows in the data that hold no resonance."""

    def __post_init__(self) -> None:
        for name in (
            "features",
            "methods",
            "efficiencies",
            "fractions",
            "injected",
            "triggers",
            "control_windows",
        ):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, allowed in (("features", FEATURES), ("methods", METHODS)):
            found = getattr(self, name)
            if not found or set(found) - set(allowed) or len(set(found)) < len(found):
                msg = f"{name} must be some of {', '.join(allowed)}, none twice; found {', '.join(found) or 'none'}"
                raise ConfigError(msg)
        for name in ("fraction", *(["fractions"] * bool(self.fractions))):
            values = getattr(self, name)
            if not all(0 < value <= 0.5 for value in (values if name == "fractions" else [values])):
                msg = f"{name} must lie above 0 and not above 0.5, for half of the events is kept for development; found {values}"
                raise ConfigError(msg)
        for name in ("cores", "subsamples", "toys", "injections", "bootstraps", "scales"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1; found {getattr(self, name)}"
                raise ConfigError(msg)
        if not self.oversampling > 0:
            msg = f"oversampling must be above 0; found {self.oversampling}"
            raise ConfigError(msg)

    def published(self) -> DimuonAnomalyConfig:
        """The same with the window, side bands, bins and quintic of the paper, for NanoAOD data of 5 to 16 GeV."""
        return dataclasses.replace(self, region=Region((9.0, 10.6), (5.0, 16.0), 5, 12), control_windows=())
