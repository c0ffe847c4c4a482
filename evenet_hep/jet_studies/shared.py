"""Which jets, which network, and how results are written: what the studies of jets share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.jet_files import (
    JetSelection,
    JetTable,
    find_files,
    labels_of,
    read_jets,
    statistics_of_jets,
)
from evenet_hep.events.jets import jet_schema
from evenet_hep.model.devices import find_device, seeded
from evenet_hep.model.jets import JetConfig, JetNetwork
from evenet_hep.schema import EventSchema
from evenet_hep.training.history import write_text
from evenet_hep.training.jets import (
    BODY_RATIO,
    JetTrainingConfig,
    replace_classes,
    split_rows,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Sources = Sequence[str | Path]
Say = Callable[[str], None]

SIZES = {
    "tiny": JetConfig(width=32, layers=2, heads=4, local_layers=1),
    "small": JetConfig(width=64, layers=4),
    "paper": JetConfig(),
}


def nothing(_text: str) -> None:
    """Say nothing."""


@dataclasses.dataclass(frozen=True)
class JetRun:
    """Which jets, and which network.

    Parameters
    ----------
    selection : JetSelection
        Jets to take.
    size : str
        Of the network: ``tiny``, ``small`` or ``paper``.
    pretrained : str, optional
        Checkpoint to start from, in place of ``size``; its body learns ten times slower than new layers.
    most : int
        Training jets of each class, at most; 0 for all.
    capacity : int
        Constituents of a jet, at most.
    test_fraction, validation_fraction : float
        Parts of the events that are held back.
    training : JetTrainingConfig
        How networks are trained; its seed is that of the split, too.
    device : str
        Where they run, as in :func:`~evenet_hep.model.devices.find_device`.
    """

    selection: JetSelection = dataclasses.field(default_factory=JetSelection)
    size: str = "small"
    pretrained: str | None = None
    most: int = 0
    capacity: int = 150
    test_fraction: float = 0.3
    validation_fraction: float = 0.1
    training: JetTrainingConfig = dataclasses.field(default_factory=JetTrainingConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        find_device(self.device)
        if self.size not in SIZES:
            msg = f"size must be {', '.join(SIZES)}; found {self.size!r}"
            raise ConfigError(msg)
        parts = (self.test_fraction, self.validation_fraction)
        if not all(part > 0 for part in parts) or sum(parts) >= 1 or self.most < 0 or self.capacity < 1:
            msg = f"test_fraction and validation_fraction must be positive and leave jets to train, most not negative, capacity positive; found {parts}, {self.most}, {self.capacity}"
            raise ConfigError(msg)


def labelled_parts(
    sources: Sources, classes: Sequence[str], run: JetRun, say: Say
) -> list[tuple[JetTable, IntArray]]:
    """Training, validation and test jets with their labels; events are not divided."""
    table = read_jets(find_all(sources), schema_of(run, classes), run.selection)
    label = labels_of(table.truth, classes)
    table, label = table.take(label >= 0), label[label >= 0]
    missing = [name for number, name in enumerate(classes) if not (label == number).any()]
    if missing:
        msg = f"the files have no jets of class {', '.join(missing)} within the selection"
        raise InputError(msg)
    fractions = (1 - run.test_fraction - run.validation_fraction, run.validation_fraction)
    events = np.unique(table.event)
    parts = []
    for number, rows in enumerate(split_rows(len(events), fractions, seed=run.training.seed)):
        inside = np.flatnonzero(np.isin(table.event, events[rows]))
        if number == 0 and run.most:
            inside = _at_most(inside, label, run.most, run.training.seed)
        if not len(inside):
            msg = f"too few events: a part of the split has no jets; found {len(events)} events"
            raise InputError(msg)
        parts.append((table.take(inside), label[inside]))
    say(f"{', '.join(str(len(labels)) for _, labels in parts)} jets to train, to validate and to test")
    return parts


def _at_most(rows: IntArray, label: IntArray, most: int, seed: int) -> IntArray:
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(rows[label[rows] == k])[:most] for k in np.unique(label[rows])]
    return np.sort(np.concatenate(kept))


def find_all(sources: Sources) -> list[Path]:
    """All ROOT files of files and folders; a FileError if there are none in one of them."""
    return [path for source in sources for path in find_files(source)]


def schema_of(run: JetRun, classes: Sequence[str]) -> EventSchema:
    """Features of the run, for some classes: those of the pretrained network if there is one."""
    if run.pretrained is None:
        return jet_schema(classes=classes, capacity=run.capacity)
    old = JetNetwork.from_pretrained(run.pretrained).schema
    return dataclasses.replace(old, classes=tuple(classes))


def network_of(run: JetRun, classes: Sequence[str], table: JetTable, *, jets: int) -> JetNetwork:
    """A fresh network for some classes, with the statistics of the jets, or one that starts from the pretrained one."""
    device = find_device(run.device)
    with seeded(run.training.seed):
        if run.pretrained is not None:
            old = JetNetwork.from_pretrained(run.pretrained)
            return replace_classes(old, classes, jets=jets, generate=jets == 1).to(device)
        schema = table.cloud.schema.with_statistics(statistics_of_jets(table.cloud))
        config = dataclasses.replace(SIZES[run.size], jets=jets)
        if jets > 1:
            config = dataclasses.replace(config, generator_layers=0)
        return JetNetwork(config, dataclasses.replace(schema, classes=tuple(classes))).to(device)


def training_of(run: JetRun, *, classify: bool = False) -> JetTrainingConfig:
    """How to train: a pretrained body learns slower; ``classify`` leaves the loss of clean jets alone."""
    config = run.training
    if run.pretrained is not None and config.body_ratio == 1.0:
        config = dataclasses.replace(config, body_ratio=BODY_RATIO)
    return dataclasses.replace(config, generation=0.0, smeared=0.0) if classify else config


def report_folds(say: Say, n_folds: int) -> Callable[[int, Mapping[str, float]], None]:
    """What to call with the number of a fold and a row of its history, to say it in a line."""

    def report(fold: int, row: Mapping[str, float]) -> None:
        report_rows(lambda text: say(f"fold {fold + 1} of {n_folds}, {text}"))(row)

    return report


def report_rows(say: Say) -> Callable[[Mapping[str, float]], None]:
    """What to call with a row of the history, to say it in a line."""

    def report(row: Mapping[str, float]) -> None:
        accuracy = f", accuracy {row['val_accuracy']:.4f}" if "val_accuracy" in row else ""
        say(
            f"epoch {row['epoch'] + 1:.0f}: loss {row['train_loss']:.4f}, "
            f"validation {row['val_loss']:.4f}{accuracy}, {row['seconds']:.0f} s"
        )

    return report


def write_result(home: Path, content: Mapping[str, Any]) -> None:
    """Write ``result.json``, all of it or nothing."""
    write_text(home / "result.json", json.dumps(_plain(content), indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Tuples with names as dictionaries, arrays as lists, NaN as null."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value
