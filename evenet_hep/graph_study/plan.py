"""What the study trains: pretraining classes, tasks, sizes, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.model.graph import GraphConfig
from evenet_hep.model.layers import require

# Labels of evenet-hep simulate.
PRETRAINING = ("TT", "ttH", "ST_t", "ST_s", "ggH", "VBF", "WH", "ZH", "WW", "WZ", "ZZ", "HWW")
TASKS: dict[str, tuple[str, str]] = {
    "WH, ZH": ("WH", "ZH"),
    "VBF, ggH": ("VBF", "ggH"),
    "ttH, TT": ("ttH", "TT"),
    "X -> YH, TT": ("xyh_m_x500_m_y90", "TT"),
    "H -> aa -> 4b, QCD": ("haa4b_m_a30", "QCD_bb"),
}
METHODS = ("from scratch", "multiclass", "multilabel")


@dataclass(frozen=True)
class GraphStudyPlan:
    """The study; the defaults are its full size.

    Parameters
    ----------
    pretraining : sequence of str
        Processes that are the pretraining classes: names of folders, or of ROOT files, in the data.
    tasks : dict of str to (str, str)
        Signal and background of each task.
    sizes : sequence of int
        Training events per class of the tasks.
    seeds : int
        Networks of each kind.
    pretraining_events : int
        Of each class, at most.
    pretraining_epochs, batch_size : int
        Of pretraining, and of all trainings; small sizes have a quarter of their events per class in a batch.
    epochs : int or tuple of int
        Of the tasks: one number, or one per size.
    events_per_epoch : int, optional
        Training events of an epoch of the tasks, where there are more: as in
        :class:`~evenet_hep.training.graph.GraphTrainingConfig`. A pass over all of them by default.
    validation, test : int
        Events per class of each task.
    kept : float
        Share of every process that pretraining may see, at most; the tasks have what it does not see.
    compared : int
        Test events that centred kernel alignment looks at.
    rate : float
        Learning rate from scratch and of new output layers; a tenth of it is that of pretrained bodies.
    precision : {"single", "bf16"}
        Of the products of matrices in training.
    network : GraphConfig
        Size of all networks.
    """

    pretraining: tuple[str, ...] = PRETRAINING
    tasks: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(TASKS))
    sizes: tuple[int, ...] = (1000, 10_000, 100_000)
    seeds: int = 5
    pretraining_events: int = 100_000
    pretraining_epochs: int = 20
    epochs: int | tuple[int, ...] = 20
    events_per_epoch: int | None = None
    batch_size: int = 256
    validation: int = 1000
    test: int = 5000
    kept: float = 0.5
    compared: int = 1000
    rate: float = 1e-3
    precision: Literal["single", "bf16"] = "single"
    network: GraphConfig = field(default_factory=GraphConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pretraining", tuple(self.pretraining))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        require(self.precision in ("single", "bf16"), "precision", "'single' or 'bf16'", self.precision)
        object.__setattr__(self, "tasks", {name: tuple(pair) for name, pair in self.tasks.items()})
        if len(self.pretraining) < 2 or not self.tasks or any(len(pair) != 2 for pair in self.tasks.values()):
            msg = f"a study needs two pretraining classes, and tasks of a signal and a background; found {self.pretraining} and {self.tasks}"
            raise ConfigError(msg)
        numbers = ("seeds", "pretraining_events", "pretraining_epochs", "batch_size", "validation", "test", "compared")  # fmt: skip
        for name in numbers:
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1; found {getattr(self, name)}"
                raise ConfigError(msg)
        events = self.events_per_epoch
        require(events is None or events >= 1, "events_per_epoch", "at least 1, or None", events)
        if not self.sizes or min(self.sizes) < 1 or not 0 < self.kept < 1:
            msg = f"sizes must be positive and kept lie between 0 and 1; found {self.sizes} and {self.kept}"
            raise ConfigError(msg)

        per_size = self.epochs if isinstance(self.epochs, tuple) else (self.epochs,) * len(self.sizes)
        are_numbers = all(type(number) is int and number >= 1 for number in per_size)
        if len(per_size) != len(self.sizes) or not are_numbers:
            msg = f"epochs must be whole numbers from 1 on, one or one per size; found {self.epochs!r} for the sizes {self.sizes}"
            raise ConfigError(msg)

    def epochs_of(self, size: int) -> int:
        """Epochs of the tasks with so many training events per class."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[self.sizes.index(size)]

    @property
    def processes(self) -> tuple[str, ...]:
        """All processes, each once."""
        pairs = (name for pair in self.tasks.values() for name in pair)
        return tuple(dict.fromkeys([*self.pretraining, *pairs]))


def read_plan(path: str | Path, **changes: Any) -> GraphStudyPlan:
    """A plan from a YAML file with keys of :class:`GraphStudyPlan`; what is left out keeps its default.

    Parameters
    ----------
    path : path
        Of the file.
    **changes
        Replace values of the file.

    Raises
    ------
    FileError, ConfigError
        For a file that is missing or no YAML, unknown keys, and values out of range.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        msg = f"{path} is no plan of a study: {error}"
        raise FileError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must be a mapping of keys to values; found {content!r}"
        raise ConfigError(msg)
    if unknown := sorted(set(content) - set(GraphStudyPlan.__dataclass_fields__)):
        msg = f"{path} has unknown key {unknown[0]!r}; allowed are {', '.join(GraphStudyPlan.__dataclass_fields__)}"
        raise ConfigError(msg)
    values = {**content, **changes}
    if isinstance(values.get("epochs"), list):
        values["epochs"] = tuple(values["epochs"])
    if isinstance(values.get("network"), dict):
        values["network"] = GraphConfig.from_dict(values["network"])
    return GraphStudyPlan(**values)
