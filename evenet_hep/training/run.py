"""Runs: pretraining and fine-tuning, from Python.

>>> from evenet_hep import EveNet, EveNetConfig, EventSchema
>>> from evenet_hep.training.config import FinetuneConfig
>>> from evenet_hep.training.run import finetune  # finetune(model, train, val, config=FinetuneConfig(epochs=3))
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.model.checkpoint import read_checkpoint
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.schema import EventSchema
from evenet_hep.training.averaging import RunningAverage
from evenet_hep.training.balance import count_classes
from evenet_hep.training.batches import BatchLoader, TensorBatch, batches_per_epoch
from evenet_hep.training.callbacks import Bar, Keeper, Logs, ResumePoint, read_resume_point
from evenet_hep.training.config import FinetuneConfig, PretrainConfig, TrainingConfig
from evenet_hep.training.dataset import Events, as_splits
from evenet_hep.training.history import History, write_text
from evenet_hep.training.module import TrainingError, TrainingModule

RESUME = "resume.ckpt"  # in the folder of a run, beside config.yaml, history.json, log.csv, best/ and last/
SETTINGS = "config.yaml"


def finetune(
    model: EveNet,
    train: Any,
    val: Any = None,
    *,
    config: FinetuneConfig | TrainingConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    trainer_options: Mapping[str, Any] | None = None,
) -> History:
    """Fine-tune a network in place.

    Parameters
    ----------
    model : EveNet
        A trained network with the heads and classes wanted, as given by
        :func:`~evenet_hep.training.finetune.extend`. It ends with the best weights, in eval mode.
    train : Events or TrainingSet
        Training events, with the schema of the network. A whole training set brings its validation events.
    val : Events, optional
        Validation events, which decide about the best epoch; without them the last one is kept.
    config : FinetuneConfig, optional
        Settings of the run.
    folder : path, optional
        Where to write the run: settings, history, log, the networks ``best`` and ``last``, and ``resume.ckpt``.
    resume : bool
        True goes on with the run in ``folder``, if there is one that was cut off.
    progress : bool
        True draws a progress bar.
    trainer_options : mapping, optional
        For Lightning's trainer: devices, strategy, plugins, callbacks.

    Returns
    -------
    History

    Raises
    ------
    InputError
        If the events have another schema than the network.
    ConfigError
        For settings that do not fit the network or the events.
    TrainingError
        If the loss is not finite, or the folder holds another run.
    """
    settings = FinetuneConfig() if config is None else config
    return fit(model, *as_splits(train, val), settings, folder, resume, progress, trainer_options)


def pretrain(
    network: EveNetConfig | EveNet,
    train: Any,
    val: Any = None,
    *,
    config: PretrainConfig | TrainingConfig | None = None,
    schema: EventSchema | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    trainer_options: Mapping[str, Any] | None = None,
) -> tuple[EveNet, History]:
    """Train a network from the start, or go on with one (the second stage).

    Parameters
    ----------
    network : EveNetConfig or EveNet
        Sizes and heads of a new network, or the network of the stage before, which is trained in place.
    train, val, folder, resume, progress, trainer_options
        As in :func:`finetune`.
    config : PretrainConfig, optional
        Settings of the run, such as those of :mod:`evenet_hep.training.presets`.
    schema : EventSchema, optional
        For a new network; that of the events if left out. Set means and widths with
        :func:`~evenet_hep.training.balance.measured_schema` first.

    Returns
    -------
    EveNet, History
        The trained network, in eval mode, and the course of the run.

    Raises
    ------
    InputError, ConfigError, TrainingError
        As :func:`finetune`.
    """
    settings = PretrainConfig() if config is None else config
    events, held_out = as_splits(train, val)
    if isinstance(network, EveNet):
        model = network
    else:
        torch.manual_seed(settings.seed)
        model = EveNet(network, events.schema if schema is None else schema)
    return model, fit(model, events, held_out, settings, folder, resume, progress, trainer_options)


def fit(
    model: EveNet,
    train: Events,
    val: Events | None,
    config: TrainingConfig,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    trainer_options: Mapping[str, Any] | None = None,
) -> History:
    """Train a network in place; see :func:`finetune`."""
    _check_events(model, train, "training")
    if val is not None:
        _check_events(model, val, "validation")
    home = None if folder is None else Path(folder)
    point = prepare(home, config, resume)
    options = dict(trainer_options or {})
    extra: list[Callback] = list(options.pop("callbacks", []))
    keeper = Keeper(config.monitor, config.patience, home)
    callbacks: list[Callback] = [*extra, keeper]
    callbacks += [RunningAverage(config.ema)] if config.ema else []
    callbacks += [Bar()] if progress else []
    if home is not None:
        callbacks += [Logs(home, config.log_every, tensorboard=config.tensorboard)]
        callbacks += [ResumePoint(home / RESUME, config.checkpoint_every)]
    if point is not None and _is_finished(model, keeper, point):
        return _finish(model, keeper, config, home, is_writer=True)
    with _as_it_was(model), _quiet():
        if val is None or not len(val):
            options = {"limit_val_batches": 0} | options
        trainer = _trainer(config, callbacks, options)
        per_epoch = batches_per_epoch(len(train), config.batch_size, trainer.world_size)
        module = TrainingModule(
            model,
            config,
            topology=train.topology,
            counts=count_classes(train, weighted=config.event_weights),
            steps_per_epoch=max(-(-per_epoch // config.accumulate), 1),
            folder=home,
        )
        data = RunData(train, val, module)
        module.train()  # networks are loaded in eval mode
        trainer.fit(module, datamodule=data, ckpt_path=point, weights_only=True)
    return _finish(model, keeper, config, home, is_writer=trainer.is_global_zero)


class RunData(pl.LightningDataModule):
    """Training and validation batches of a run, for Lightning.

    Parameters
    ----------
    train : Events
        Training events.
    val : Events or None
        Validation events.
    module : TrainingModule
        Knows how many batches are done.
    """

    def __init__(self, train: Events, val: Events | None, module: TrainingModule) -> None:
        super().__init__()
        self.train, self.val, self.module = train, val, module

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of similar multiplicity, from where the run is."""
        trainer, config = self.module.trainer, self.module.config
        return BatchLoader(
            self.train,
            config.batch_size,
            seed=config.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            position=lambda: self.module.batches_seen,
        )

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """All validation events in order."""
        if self.val is None or not len(self.val):
            return []
        trainer, config = self.module.trainer, self.module.config
        return BatchLoader(
            self.val,
            max(config.batch_size, 256),
            shuffle=False,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def transfer_batch_to_device(
        self, batch: TensorBatch, device: torch.device, dataloader_idx: int
    ) -> TensorBatch:
        """The batch on the device of the network."""
        return batch.to(device, non_blocking=True)


def _trainer(config: TrainingConfig, callbacks: list[Callback], options: dict[str, Any]) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "max_epochs": config.epochs,
        "accumulate_grad_batches": config.accumulate,
        "gradient_clip_val": config.gradient_clip or None,
        "precision": "bf16-mixed" if config.precision == "bf16" else "32-true",
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ResumePoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "callbacks": callbacks,
    }
    return pl.Trainer(**(settings | options))


def _check_events(model: EveNet, events: Events, what: str) -> None:
    if not len(events):
        msg = f"there are no {what} events"
        raise InputError(msg)
    mine, theirs = model.schema, events.schema
    for name in ("object_names", "event_names", "invisible_names", "classes"):
        if getattr(mine, name) != getattr(theirs, name):
            msg = (
                f"the {what} events have another schema than the network: {name} are "
                f"{', '.join(getattr(theirs, name)) or 'none'}; the network has {', '.join(getattr(mine, name)) or 'none'}"
            )
            raise InputError(msg)
    for one, other in zip(
        (*mine.objects, *mine.event_features), (*theirs.objects, *theirs.event_features), strict=True
    ):
        if (one.unit, one.definition) != (other.unit, other.definition):
            msg = (
                f"the {what} events have {other.name} in {other.unit or 'pure numbers'} {other.definition}; "
                f"the network has it in {one.unit or 'pure numbers'} {one.definition}"
            )
            raise InputError(msg)


def prepare(home: Path | None, config: TrainingConfig, resume: bool) -> str | None:
    """Look at the folder of a run, write its settings, and give the checkpoint to go on from, if there is one.

    Raises
    ------
    TrainingError
        If the folder holds another run, or this one and ``resume`` is not set.
    ConfigError
        If ``resume`` is set and there is no folder.
    FileError
        If it holds something that is no run.
    """
    if home is None:
        if resume:
            msg = "resume needs the folder of the run"
            raise ConfigError(msg)
        return None
    settings, point = home / SETTINGS, home / RESUME
    text = config.to_yaml()
    if settings.is_file():
        if not resume:
            msg = f"{home} holds a run already; resume it, or choose another folder"
            raise TrainingError(msg)
        if (found := settings.read_text(encoding="utf-8")) != text:
            changed = _changed(found, text)
            msg = f"{home} holds a run with other settings ({changed}); resume with those, or choose another folder"
            raise TrainingError(msg)
    elif home.is_dir() and any(home.iterdir()):
        msg = f"{home} holds something that is no run; choose another folder"
        raise FileError(msg)
    if not settings.is_file():
        write_text(settings, text)
    return str(point) if point.is_file() else None


def _is_finished(model: EveNet, keeper: Keeper, point: str) -> bool:
    # A run that was cut off after its last epoch has nothing left to do but to hand over its weights.
    content = read_resume_point(Path(point))
    keeper.load_state_dict(content["callbacks"][keeper.state_key])
    if keeper.is_finished:
        weights = content["state_dict"].items()
        model.load_state_dict({k.removeprefix("model."): v for k, v in weights if k.startswith("model.")})
    return keeper.is_finished


def _changed(old: str, new: str) -> str:
    before, after = set(old.splitlines()), set(new.splitlines())
    return ", ".join(sorted(line.strip() for line in before - after)) or "fewer of them"


def _finish(
    model: EveNet, keeper: Keeper, config: TrainingConfig, home: Path | None, *, is_writer: bool
) -> History:
    model.eval()
    if home is not None and is_writer:
        model.save_pretrained(home / "last")
    if config.keep == "best":
        if keeper.best_weights is not None:
            model.load_state_dict(keeper.best_weights)
        elif home is not None and (home / "best").is_dir():
            model.load_state_dict(read_checkpoint(home / "best").weights)
    return keeper.history


@contextmanager
def _as_it_was(model: EveNet) -> Iterator[None]:
    # What a run sets for itself: frozen parameters, the feature drop, the device.
    flags = [parameter.requires_grad for parameter in model.parameters()]
    pet_config, device = model.pet.config, next(model.parameters()).device
    try:
        yield
    finally:
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        model.pet.config = pet_config
        model.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    # Advice of Lightning's that does not apply: batches come from a generator, not from workers.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        warnings.filterwarnings("ignore", message=r".*_pytree.*")
        warnings.filterwarnings("ignore", message=r".*dataloader is not resumable.*")
        try:
            yield
        finally:
            logger.setLevel(level)
