"""Rows of real objects: what the body of the network works on in place of padded events.

Two thirds of a padded batch are padding. Here the real slots of a batch become rows, and events of equal multiplicity
stand together in a :class:`Group`: linear layers run over all rows at once, attention and the search for neighbours
group by group, on dense tensors without a mask.

The groups depend on the events, which a compiled or exported network must not ask for. There, and on GPUs, which prefer
few large kernels, all slots of all events are one group with a mask; but for pairs of objects, of which padding makes
many times as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evenet_hep.model.layers import attendable
from evenet_hep.model.streams import in_streams


class Group(NamedTuple):
    """Events with equally many rows, one event after the other.

    Attributes
    ----------
    events, slots : int
        Number E of events, and number n of rows of each.
    mask : bool Tensor, shape (E, n), or None
        True for a real object; None if all are.
    pairs : bool Tensor, shape (E or 1, n, n), or None
        True where object i may attend object j; None if none is told not to.
    """

    events: int
    slots: int
    mask: Tensor | None = None
    pairs: Tensor | None = None

    @property
    def allowed(self) -> Tensor | None:
        """Keys of each query for :class:`~evenet_hep.model.layers.Attention`, at least one; None for all."""
        allowed = None if self.mask is None else attendable(self.mask)
        if self.pairs is None:
            return allowed
        pairs = self.pairs[:, None] if allowed is None else self.pairs[:, None] & allowed
        is_self = torch.eye(self.slots, dtype=torch.bool, device=pairs.device)
        return pairs | (~pairs.any(dim=-1, keepdim=True) & is_self)


class Rows(NamedTuple):
    """Which slots of a batch have a row, and in which group.

    Attributes
    ----------
    mask : bool Tensor, shape (B, N)
        True for a real object of the batch.
    slot : int Tensor, shape (R,), or None
        Slot of each row, counted through all events; None if every slot has a row, in order.
    groups : tuple of Group
        They share out the rows, in order.
    starts : int array, shape (events + 1,), or None
        First row of each event, and the number of rows; None where some rows are not real, or may not be attended.
    """

    mask: Tensor
    slot: Tensor | None
    groups: tuple[Group, ...]
    starts: npt.NDArray[np.int64] | None = None

    def take(self, x: Tensor) -> Tensor:
        """Rows (R, D) of padded vectors (B, N, D)."""
        flat = x.flatten(0, 1)
        return flat if self.slot is None else flat.index_select(0, self.slot)

    def spread(self, x: Tensor) -> Tensor:
        """Rows (R, D) of one vector per event (B, D)."""
        return self.take(x[:, None].expand(-1, self.mask.shape[1], -1))

    def put(self, rows: Tensor) -> Tensor:
        """Padded vectors (B, N, D) of rows (R, D); zero where nothing is real."""
        if self.slot is None:
            return torch.where(self.mask[..., None], rows.unflatten(0, self.mask.shape), 0.0)
        filled = rows.new_zeros(self.mask.numel(), rows.shape[1]).index_copy_(0, self.slot, rows)
        padded = filled.unflatten(0, self.mask.shape)
        is_all_real = all(group.mask is None for group in self.groups)
        return padded if is_all_real else torch.where(self.mask[..., None], padded, 0.0)

    def split(self, rows: Tensor) -> list[Tensor]:
        """One dense tensor (E, n, D) per group of rows (R, D)."""
        if len(self.groups) == 1:
            return [rows.unflatten(0, (self.groups[0].events, self.groups[0].slots))]
        parts = rows.split([group.events * group.slots for group in self.groups])
        return [
            part.unflatten(0, (group.events, group.slots))
            for part, group in zip(parts, self.groups, strict=True)
        ]

    def apply(self, function: Callable[[Rows], Tensor], *, width: int) -> Tensor:
        """Padded vectors (B, N, width) from a function that makes one vector per row.

        Where no gradient is asked for, it is called for one piece of the rows after the other.
        """
        if self.slot is None or torch.is_grad_enabled():
            return self.put(function(self))
        most = rows_at_once(width)
        if (streams := torch.get_num_threads()) > 1:  # as much to do for each
            rounds = math.ceil(len(self.slot) / (streams * most))
            most = math.ceil(len(self.slot) / (streams * rounds)) + self.mask.shape[1]
        return self.put(torch.cat(in_streams(function, list(self._pieces(self.slot, most)))))

    def _pieces(self, slot: Tensor, most: int) -> Iterator[Rows]:
        groups: list[Group] = []
        start = end = 0
        for group in self.groups:
            begin = 0
            while begin < group.events:
                space = (most - (end - start)) // group.slots
                if space < 1 and groups:
                    yield _rows(self.mask, slot[start:end], groups)
                    groups, start = [], end
                    continue
                events = min(max(space, 1), group.events - begin)
                groups.append(_part(group, begin, begin + events))
                begin += events
                end += events * group.slots
        yield _rows(self.mask, slot[start:end], groups)


def arrange(
    mask: Tensor,
    *,
    attention_mask: Tensor | None = None,
    keep: Tensor | None = None,
    grouped: bool = False,
) -> Rows:
    """A row for every real object, events of equal multiplicity together; all slots where that cannot be had.

    Parameters
    ----------
    mask : bool Tensor, shape (B, N)
        True for a real object.
    attention_mask : bool Tensor, shape (N, N) or (B, N, N), optional
        True where object i may attend object j.
    keep : bool Tensor, shape (B, N), optional
        Slots that get a row; those of ``mask`` by default, which it has to include.
    grouped : bool
        Make groups on GPUs, too.

    Returns
    -------
    Rows

    Examples
    --------
    >>> mask = torch.tensor([[True, True, False], [False, True, False], [True, False, True]])
    >>> rows = arrange(mask)
    >>> rows.slot
    tensor([4, 0, 1, 6, 8])
    >>> [(group.events, group.slots) for group in rows.groups]
    [(1, 1), (2, 2)]
    """
    keep = mask if keep is None else keep
    is_fixed = torch.compiler.is_compiling() or (mask.device.type != "cpu" and not grouped)
    if is_fixed or not keep.any():
        pairs = None if attention_mask is None else attention_mask.view(-1, *attention_mask.shape[-2:])
        return Rows(mask, None, (Group(mask.shape[0], mask.shape[1], mask, pairs),))
    counts = keep.sum(dim=1)
    order = counts.argsort(stable=True)
    position, place = keep[order].nonzero(as_tuple=True)
    event = order[position]
    slot = event * mask.shape[1] + place
    groups = []
    start = 0
    for slots, events in enumerate(counts.bincount().tolist()):
        if slots == 0 or events == 0:
            continue
        end = start + slots * events
        real, pairs = None, None
        if keep is not mask:
            real = mask.flatten()[slot[start:end]].view(events, slots)
            real = None if real.all() else real
        if attention_mask is not None:
            i = place[start:end].view(events, slots)
            of_event = attention_mask.expand(*mask.shape, -1)[event[start:end:slots]]
            pairs = of_event[torch.arange(events)[:, None, None], i[:, :, None], i[:, None, :]]
        groups.append(Group(events, slots, real, pairs))
        start = end
    return _rows(mask, slot, groups)


def _rows(mask: Tensor, slot: Tensor, groups: Sequence[Group]) -> Rows:
    starts = None
    if all(group.mask is None and group.pairs is None for group in groups):
        slots = np.repeat([group.slots for group in groups], [group.events for group in groups])
        starts = np.concatenate([[0], slots.cumsum()])
    return Rows(mask, slot, tuple(groups), starts)


def rows_at_once(width: int) -> int:
    """Rows that a network goes through without gradients at once, on a CPU.

    Wide networks like few, whose activations stay in the cache, and narrow ones many, which share the cost of every
    call; measured best: about 1000 at a width of 256, and some 10 000 at 48.
    """
    return max(1024, 2**26 // width**2)


def _part(group: Group, start: int, end: int) -> Group:
    mask = None if group.mask is None else group.mask[start:end]
    pairs = None if group.pairs is None else group.pairs[start:end]
    return Group(end - start, group.slots, mask, pairs)
