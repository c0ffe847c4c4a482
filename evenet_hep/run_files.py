"""Runs that are described by a YAML file: pretraining, fine-tuning and evaluation, each with a report.

.. code-block:: yaml

    # finetune.yaml
    data: training-set            # folder, as evenet-hep convert writes it
    out: runs/signal
    model: runs/stage2/best       # a checkpoint; or "size: tiny" in its place, to start from scratch
    heads: [classification]
    preset: task1                 # the settings to begin with
    training: {epochs: 10, lr: 1.0e-3}

Relative paths count from the working directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from evenet_hep.errors import ConfigError
from evenet_hep.evaluation.evaluate import Evaluation, evaluate
from evenet_hep.evaluation.report import write_report
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.model.evenet import HEADS, EveNet, EveNetConfig
from evenet_hep.model.layers import read_config, require
from evenet_hep.training.config import FinetuneConfig, PretrainConfig, to_dict
from evenet_hep.training.dataset import Split
from evenet_hep.training.finetune import extend
from evenet_hep.training.history import History
from evenet_hep.training.presets import preset, with_heads
from evenet_hep.training.run import finetune, pretrain
from evenet_hep.training.settings import override, read_yaml

Run = TypeVar("Run", "PretrainRun", "FinetuneRun", "EvaluateRun")


@dataclasses.dataclass(frozen=True)
class PretrainRun:
    """A pretraining.

    Parameters
    ----------
    data : str
        Folder of the training set.
    out : str
        Folder of the run.
    size : str
        Of the network: ``tiny``, ``small``, ``20M`` or ``100M``.
    start : str
        Checkpoint of the stage before; heads that it lacks are added. Empty starts with random weights.
    heads : sequence of str
        Heads of the network.
    preset : str
        Settings to begin with, see :mod:`evenet_hep.training.presets`; empty for the defaults.
    training : PretrainConfig
        Settings of the run.
    limit : int or None
        Use a smaller sample of the training events.
    report : bool
        Write a report, measured on the validation events.
    """

    data: str
    out: str
    size: str = "small"
    start: str = ""
    heads: tuple[str, ...] = (
        "classification",
        "object_generation",
        "invisible_generation",
        "global_generation",
    )
    preset: str = ""
    training: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    limit: int | None = None
    report: bool = True


@dataclasses.dataclass(frozen=True)
class FinetuneRun:
    """A fine-tuning.

    Parameters
    ----------
    data, out, heads, preset, limit, report
        As in :class:`PretrainRun`.
    model : str
        Checkpoint to begin with. Heads that it lacks, and classes that differ, are new.
    size : str
        In place of ``model``: a network with random weights.
    adapter : int
        Width of adapters to put behind the blocks; 0 for none.
    training : FinetuneConfig
        Settings of the run.
    """

    data: str
    out: str
    model: str = ""
    size: str = ""
    adapter: int = 0
    heads: tuple[str, ...] = ("classification",)
    preset: str = ""
    training: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    limit: int | None = None
    report: bool = True

    def __post_init__(self) -> None:
        require(
            bool(self.model) != bool(self.size),
            "model and size",
            "one of them given",
            (self.model, self.size),
        )


@dataclasses.dataclass(frozen=True)
class EvaluateRun:
    """An evaluation.

    Parameters
    ----------
    data : str
        Folder of the training set.
    model : str
        Checkpoint.
    out : str
        Folder of the report.
    split : str
        Which events of the set.
    weighted : bool
        Use the event weights in the classification metrics.
    steps : int
        Of the sampler that draws neutrinos.
    limit : int or None
        Use a smaller sample.
    """

    data: str
    model: str
    out: str
    split: str = "test"
    weighted: bool = False
    steps: int = 20
    limit: int | None = None


def read_run(kind: type[Run], path: str | Path, settings: Iterable[str] = ()) -> Run:
    """A run of a YAML file.

    Parameters
    ----------
    kind : type
        :class:`PretrainRun`, :class:`FinetuneRun` or :class:`EvaluateRun`.
    path : path
        The file.
    settings : iterable of str
        ``key=value`` that replace what the file says, see :func:`~evenet_hep.training.config.override`.

    Raises
    ------
    ConfigError
        For unknown keys, values of the wrong kind, and contradictions; the message names the key.
    """
    content = override(read_yaml(path), settings)
    if name := content.get("preset"):
        changes = content.get("training") or {}
        if not isinstance(changes, Mapping):
            msg = f"training must be a mapping; found {changes!r}"
            raise ConfigError(msg)
        content["training"] = to_dict(preset(str(name))) | dict(changes)
    return read_config(kind, content, where=Path(path).name)


def run_pretraining(run: PretrainRun, *, resume: bool = False, progress: bool = True) -> History:
    """Pretrain as a file says, and write the report.

    Parameters
    ----------
    run : PretrainRun
        What to do.
    resume : bool
        Go on with a run that was cut off.
    progress : bool
        Draw a progress bar.
    """
    data = TrainingSet.open(run.data)
    train, val = _splits(data, run.limit)
    network: EveNet | EveNetConfig
    if run.start:
        network = _with_other_heads(
            EveNet.from_pretrained(run.start), run.heads, data, seed=run.training.seed
        )
    else:
        network = with_heads(EveNetConfig.of_size(run.size), run.heads, topology=data.topology)
    model, history = pretrain(
        network, train, val, config=run.training, folder=run.out, resume=resume, progress=progress
    )
    if run.report:
        _report(run, model, val, history)
    return history


def run_finetuning(run: FinetuneRun, *, resume: bool = False, progress: bool = True) -> History:
    """Fine-tune as a file says, and write the report; see :func:`run_pretraining`."""
    data = TrainingSet.open(run.data)
    train, val = _splits(data, run.limit)
    if run.model:
        model = _with_other_heads(
            EveNet.from_pretrained(run.model), run.heads, data, adapter=run.adapter, seed=run.training.seed
        )
    else:
        torch.manual_seed(run.training.seed)
        config = with_heads(EveNetConfig.of_size(run.size), run.heads, topology=data.topology)
        model = EveNet(config, data.schema)
    history = finetune(
        model, train, val, config=run.training, folder=run.out, resume=resume, progress=progress
    )
    if run.report:
        _report(run, model, val, history)
    return history


def run_evaluation(run: EvaluateRun) -> Evaluation:
    """Evaluate as a file says, and write the report."""
    model = EveNet.from_pretrained(run.model)
    events = Split(TrainingSet.open(run.data), run.split, limit=run.limit)
    found = evaluate(model, events, weighted=run.weighted, steps=run.steps)
    title = f"{run.model} on {run.data}, {run.split}"
    write_report(run.out, title=title, evaluation=found)
    return found


def _splits(data: TrainingSet, limit: int | None) -> tuple[Split, Split | None]:
    train, val = Split(data, data.splits[0], limit=limit), None
    if "val" in data.splits and data.n_events("val"):
        val = Split(data, "val")
    return train, val


def _with_other_heads(
    model: EveNet, heads: tuple[str, ...], data: TrainingSet, *, adapter: int = 0, seed: int = 0
) -> EveNet:
    # The body of a network, with the heads and classes that are asked for; those it has are kept.
    wanted = with_heads(model.config, heads, topology=data.topology)
    changed = {
        name: getattr(wanted, name) for name in HEADS if getattr(wanted, name) != getattr(model.config, name)
    }
    classes = data.schema.classes if data.schema.classes != model.schema.classes else None
    if not changed and classes is None and not adapter:
        return model
    torch.manual_seed(seed)
    return extend(model, adapter=adapter, classes=classes, heads=changed).model


def _report(run: PretrainRun | FinetuneRun, model: EveNet, val: Split | None, history: History) -> None:
    found = None if val is None else evaluate(model, val, weighted=run.training.event_weights)
    write_report(
        Path(run.out) / "report",
        title=f"{Path(run.out).name}: trained on {run.data}",
        history=history,
        evaluation=found,
        settings=run.training.to_yaml(),
    )
