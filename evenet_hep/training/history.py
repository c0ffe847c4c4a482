"""What a run has measured, epoch by epoch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenet_hep.errors import FileError


@dataclasses.dataclass(frozen=True)
class History:
    """The course of a run.

    Parameters
    ----------
    epochs : tuple of dict
        One per epoch: ``epoch`` (from 0), ``lr``, ``train_loss``, ``train_<loss>``, ``val_loss``, ``val_<loss>``,
        ``val_accuracy``, ``val_auc``, ``events_per_second``, ``seconds``.
    monitor : str
        What decided about the best epoch.

    Examples
    --------
    >>> history = History(({"epoch": 0, "val_loss": 2.0}, {"epoch": 1, "val_loss": 1.5}, {"epoch": 2, "val_loss": 1.7}))
    >>> history.best_epoch, history.val_loss
    (1, [2.0, 1.5, 1.7])
    """

    epochs: tuple[Mapping[str, float], ...] = ()
    monitor: str = "val_loss"

    @property
    def val_loss(self) -> list[float]:
        """Loss on the validation events after each epoch; empty without such events."""
        return self.course("val_loss")

    @property
    def train_loss(self) -> list[float]:
        """Mean loss of the training batches of each epoch."""
        return self.course("train_loss")

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the best ``monitor``; None without validation."""
        best, position = None, None
        for row in self.epochs:
            value = row.get(self.monitor, math.nan)
            if math.isfinite(value) and (best is None or is_better(self.monitor, value, best)):
                best, position = value, int(row["epoch"])
        return position

    def course(self, name: str) -> list[float]:
        """One quantity after each epoch that has it."""
        return [row[name] for row in self.epochs if name in row]

    def to_json(self, path: str | Path) -> None:
        """Write the history, all of it or nothing."""
        content = {"monitor": self.monitor, "epochs": [dict(row) for row in self.epochs]}
        write_text(Path(path), json.dumps(content, indent=1))

    @classmethod
    def from_json(cls, path: str | Path) -> History:
        """Read a history.

        Raises
        ------
        FileError
            If the file is missing or no history.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(content["epochs"]), content["monitor"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{path} is no history of a run: {error}"
            raise FileError(msg) from error


def is_better(monitor: str, value: float, best: float) -> bool:
    """Whether a value is an improvement: smaller for losses, larger for AUC and accuracy."""
    return value > best if monitor in ("val_auc", "val_accuracy") else value < best


def write_text(path: Path, text: str) -> None:
    """Write a file such that a reader finds the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)  # noqa: PTH105  as atomic as the file system
