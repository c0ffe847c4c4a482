"""What happens around the steps of a run: the best weights, checkpoints to resume from, logs, a progress bar."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.history import History, is_better, write_text
from evenet_hep.training.module import TrainingModule


class Keeper(Callback):
    """Writes the history, keeps the best weights, and stops a run that gets no better.

    Parameters
    ----------
    monitor : str
        What is watched.
    patience : int
        Epochs without an improvement before the run stops; 0 never.
    folder : path, optional
        Where to write ``history.json``, and the best network as the checkpoint ``best``; in memory if left out.
    """

    def __init__(self, monitor: str, patience: int, folder: Path | None) -> None:
        self.monitor, self.patience, self.folder = monitor, patience, folder
        self.rows: list[dict[str, float]] = []
        self.best = math.nan
        self.best_weights: dict[str, Tensor] | None = None
        self.waited = 0
        self.is_finished = False
        self._validated: dict[str, float] = {}
        self._start, self._first = 0.0, 0

    @property
    def history(self) -> History:
        """The course so far."""
        return History(tuple(self.rows), self.monitor)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the clock."""
        self._start, self._first = time.perf_counter(), _module(pl_module).batches_seen

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, while the weights to be kept are in the network, and keep them if they are better."""
        if trainer.sanity_checking:
            return
        module = _module(pl_module)
        self._validated = module.validation_metrics()
        value = self._validated.get(self.monitor, math.nan)
        if not math.isfinite(value):
            known = ", ".join(self._validated) or "nothing"
            msg = f"monitor: the validation gave no finite {self.monitor}; it gave {known}"
            raise ConfigError(msg)
        pl_module.log_dict(self._validated, rank_zero_only=False, sync_dist=False)
        if math.isnan(self.best) or is_better(self.monitor, value, self.best):
            self.best, self.waited = value, 0
            if self.folder is None:
                self.best_weights = {
                    k: v.detach().cpu().clone() for k, v in module.model.state_dict().items()
                }
            elif trainer.is_global_zero:
                module.model.save_pretrained(self.folder / "best")
        else:
            self.waited += 1
            trainer.should_stop = trainer.should_stop or 0 < self.patience <= self.waited

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch in the history."""
        module = _module(pl_module)
        seconds = time.perf_counter() - self._start
        batches = module.batches_seen - self._first
        events = batches * module.config.batch_size * trainer.world_size
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
                **module.training_metrics(),
                **self._validated,
                "seconds": seconds,
                "events_per_second": events / seconds,
            }
        )
        self._validated = {}
        self.is_finished = trainer.should_stop or len(self.rows) >= module.config.epochs
        if self.folder is not None and trainer.is_global_zero:
            self.history.to_json(self.folder / "history.json")

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint to resume from."""
        return {name: getattr(self, name) for name in ("rows", "best", "waited", "is_finished")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From such a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)


class ResumePoint(Checkpoint):
    """Writes the checkpoint to resume from: after every epoch and, if asked to, between.

    The file replaces the last one at once, so that a run may be killed at any time. It holds tensors, numbers and
    text, and is read with ``weights_only=True``: nothing is ever unpickled.

    Parameters
    ----------
    path : path
        File to write.
    every : int
        Batches between two; 0 for the ends of epochs alone.
    """

    def __init__(self, path: Path, every: int = 0) -> None:
        self.path = path
        self.every = every

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TensorBatch,
        batch_idx: int,
    ) -> None:
        """Write where it is due, unless the epoch is about to end anyway."""
        is_due = self.every and (batch_idx + 1) % self.every == 0
        if is_due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write after the validation."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)  # noqa: PTH105  as atomic as the file system


class Logs(Callback):
    """Writes ``log.csv``, one row per some batches and per epoch, and TensorBoard's files if asked to.

    Parameters
    ----------
    folder : path
        Where to.
    every : int
        Batches between rows.
    tensorboard : bool
        Whether to write for TensorBoard too.

    Raises
    ------
    ConfigError
        If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, every: int, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self.every = every
        self.board: Any = None
        self._board_folder = folder / "tensorboard" if tensorboard else None
        self._rows: list[dict[str, Any]] = []
        self._before: dict[str, Tensor] = {}
        if tensorboard and find_spec("tensorboard") is None:
            msg = "tensorboard is true and TensorBoard is not installed; pip install tensorboard, or set it to false"
            raise ConfigError(msg)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of a run that goes on, up to where it goes on."""
        step = _module(pl_module).batches_seen
        if step and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["batch"]) <= step]
        if self._board_folder is not None and trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional package

            self.board = SummaryWriter(str(self._board_folder), purge_step=step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TensorBatch,
        batch_idx: int,
    ) -> None:
        """Write where it is due: the mean losses since the start of the epoch."""
        module = _module(pl_module)
        if (batch_idx + 1) % self.every == 0 and trainer.is_global_zero:
            losses = {f"train_{k}": float(v[0] / v[1]) for k, v in module.train_sums.items()}
            self._write(module, trainer, losses)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row of the epoch."""
        keeper = next(each for each in trainer.callbacks if isinstance(each, Keeper))  # type: ignore[attr-defined]
        if trainer.is_global_zero and keeper.rows:
            row = {k: v for k, v in keeper.rows[-1].items() if k not in ("epoch", "lr")}
            self._write(_module(pl_module), trainer, row)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def _write(self, module: TrainingModule, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        plan = module.plan()
        row: dict[str, Any] = {
            "batch": module.batches_seen,
            "epoch": trainer.current_epoch,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "noise_probability": plan.noise_probability,
            **values,
        }
        self._rows.append(row)
        columns = list(dict.fromkeys(name for each in self._rows for name in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, text.getvalue())
        if self.board is not None:
            for name, value in row.items():
                if name not in ("batch", "epoch"):
                    self.board.add_scalar(name, value, module.batches_seen)


class Bar(Callback):
    """One line per run: epoch, batches, loss, events per second, time left.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to; standard error if left out.
    """

    def __init__(self, console: Console | None = None) -> None:
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} events/s"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console or Console(stderr=True), transient=False)
        self._task: Any = None
        self._clock: tuple[float, int] = (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        if not trainer.is_global_zero:
            return
        module = _module(pl_module)
        total = module.config.epochs * int(trainer.num_training_batches)
        self.progress.start()
        self._clock = (time.perf_counter(), module.batches_seen)
        self._task = self.progress.add_task(
            "training", total=total, completed=module.batches_seen, epoch="1", loss="", rate="-"
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TensorBatch,
        batch_idx: int,
    ) -> None:
        """Move the bar, a few times per second."""
        module = _module(pl_module)
        seconds = time.perf_counter() - self._clock[0]
        if self._task is None or seconds < 0.3:
            return
        events = (module.batches_seen - self._clock[1]) * module.config.batch_size * trainer.world_size
        total, number = module.train_sums["loss"].tolist()
        self._clock = (time.perf_counter(), module.batches_seen)
        self.progress.update(
            self._task,
            completed=module.batches_seen,
            epoch=f"{trainer.current_epoch + 1}/{module.config.epochs}",
            loss=f"{total / number:.4f}",
            rate=f"{events / seconds:.0f}",
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished bar."""
        if self._task is not None:
            self.progress.update(self._task, completed=_module(pl_module).batches_seen)
        self.progress.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self.progress.stop()


def _module(module: pl.LightningModule) -> TrainingModule:
    if not isinstance(module, TrainingModule):
        msg = f"this callback belongs to a TrainingModule; found {type(module).__name__}"
        raise TypeError(msg)
    return module


def read_resume_point(path: Path) -> dict[str, Any]:
    """What a checkpoint to resume from holds; nothing is unpickled but tensors, numbers and text."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
