"""Batches of training events as tensors, from any batch of any epoch on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evenet_hep.events.labels import TrainingBatch
from evenet_hep.training.dataset import Events


class TensorBatch(NamedTuple):
    """A :class:`~evenet_hep.events.labels.TrainingBatch` as tensors; fields and shapes are the same."""

    objects: Tensor
    mask: Tensor
    event_features: Tensor
    label: Tensor
    weight: Tensor
    process: Tensor
    indices: Tensor
    invisible: Tensor
    invisible_mask: Tensor

    @classmethod
    def of(cls, batch: TrainingBatch) -> TensorBatch:
        """Tensors of arrays, with the memory shared where the arrays allow it."""
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)) for array in batch))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TensorBatch:
        """The same on another device."""
        return TensorBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))


class BatchLoader:
    """Batches of a run as tensors, epoch after epoch, for a Lightning trainer.

    Parameters
    ----------
    events : Events
        Where they come from.
    batch_size : int
        Events per batch and process.
    seed : int
        Of the order.
    shuffle : bool
        False for validation.
    rank, world_size : int
        Process and number of processes.
    position : callable, optional
        Gives the number of batches that the run has seen, from which epoch and first batch follow.
    """

    def __init__(
        self,
        events: Events,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] | None = None,
    ) -> None:
        self.events = events
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank, self.world_size = rank, world_size
        self.position = position

    def __len__(self) -> int:
        """Batches per epoch and process."""
        return batches_per_epoch(len(self.events), self.batch_size, self.world_size, shuffle=self.shuffle)

    def __iter__(self) -> Iterator[TensorBatch]:
        epoch, start = divmod(self.position() if self.position else 0, len(self))
        batches = self.events.batches(
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            bucket=self.shuffle,
            rank=self.rank,
            world_size=self.world_size,
            start=start,
        )
        for batch in batches:
            yield TensorBatch.of(batch)


def batches_per_epoch(n_events: int, batch_size: int, world_size: int = 1, *, shuffle: bool = True) -> int:
    """Batches of each process in an epoch.

    Examples
    --------
    >>> batches_per_epoch(100, 32), batches_per_epoch(100, 32, shuffle=False), batches_per_epoch(10, 32)
    (3, 4, 1)
    """
    if shuffle:
        return max(n_events // (batch_size * world_size), 1)
    return math.ceil(math.ceil(n_events / batch_size) / world_size)
