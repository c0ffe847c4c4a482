"""All ordered pairs of the objects of an event, as edges of a graph whose nodes are rows.

Rows are arranged as in :mod:`evenet_hep.model.packing`. The edges of a group stand receiver by receiver, so that a sum
over the senders is a sum over one axis of a dense tensor. An object is no neighbour of itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evenet_hep.model.packing import Group, Rows, arrange


class Pairs(NamedTuple):
    """Fully connected graphs of a batch of events, R rows and P pairs.

    Attributes
    ----------
    rows : Rows
        Which slots have a row.
    event : int Tensor, shape (R,)
        Event of each row.
    sender, receiver : int Tensor, shape (P,)
        Rows of each pair.
    is_node : bool Tensor, shape (R, 1), or None
        False for a row of a padded slot; None if all are real.
    is_pair : bool Tensor, shape (P, 1), or None
        False for a pair with a padded slot; None if all are real.
    """

    rows: Rows
    event: Tensor
    sender: Tensor
    receiver: Tensor
    is_node: Tensor | None
    is_pair: Tensor | None

    def over_senders(self, pairs: Tensor, *, mean: bool) -> Tensor:
        """One vector per receiver, (R, D), from one per pair, (P, D): the sum over its senders, or their mean.

        Zero for an object that is alone.
        """
        if self.is_pair is not None:
            pairs = torch.where(self.is_pair, pairs, 0.0)
        others = self.rows.mask.sum(dim=1)[self.event] - 1  # (R,)
        has_one_kernel = pairs.device.type != "cpu" and self.rows.slot is not None
        total = sum_runs(pairs, others) if has_one_kernel else self._sum_groups(pairs)
        return total / others.clamp(min=1)[:, None].to(total.dtype) if mean else total

    def _sum_groups(self, pairs: Tensor) -> Tensor:
        sizes = [(group.events * group.slots, group.slots - 1) for group in self.rows.groups]
        parts = pairs.split([nodes * senders for nodes, senders in sizes])
        return torch.cat(
            [part.view(*size, pairs.shape[1]).sum(dim=1) for part, size in zip(parts, sizes, strict=True)]
        )

    def over_nodes(self, nodes: Tensor, *, mean: bool) -> Tensor:
        """One vector per event, (B, D), from one per row, (R, D); zero for an event without objects."""
        if self.is_node is not None:
            nodes = torch.where(self.is_node, nodes, 0.0)
        total = nodes.new_zeros(self.rows.mask.shape[0], nodes.shape[1]).index_add(0, self.event, nodes)
        if not mean:
            return total
        return total / self.rows.mask.sum(dim=1).clamp(min=1)[:, None].to(total.dtype)


def sum_runs(pairs: Tensor, lengths: Tensor) -> Tensor:
    """Sums (R, D) of runs of rows (P, D) that follow each other, in one kernel: what a GPU likes.

    Examples
    --------
    >>> sum_runs(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 1])).flatten().tolist()
    [3.0, 0.0, 4.0]
    """
    return torch.segment_reduce(pairs, "sum", lengths=lengths, unsafe=True)


def pair_up(mask: Tensor) -> Pairs:
    """Every object with every other one of its event.

    Parameters
    ----------
    mask : bool Tensor, shape (B, N)
        True for a real object.

    Returns
    -------
    Pairs

    Examples
    --------
    >>> pairs = pair_up(torch.tensor([[True, False, True], [True, True, True]]))
    >>> pairs.event.tolist(), len(pairs.sender)
    ([0, 0, 1, 1, 1], 8)
    >>> pairs.over_senders(torch.ones(8, 1), mean=False).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0, 2.0]
    """
    rows = arrange(mask, grouped=True)
    slots = mask.shape[1]
    if rows.slot is not None:
        return Pairs(rows, rows.slot // slots, *_of_rows(rows), None, None)
    sender, receiver = _of_group(rows.groups[0], mask.device)
    event = torch.arange(mask.numel(), device=mask.device) // slots
    is_node = mask.flatten()
    is_pair = is_node[sender] & is_node[receiver]
    return Pairs(rows, event, sender, receiver, is_node[:, None], is_pair[:, None])


def _of_rows(rows: Rows) -> tuple[Tensor, Tensor]:
    """Rows of senders and receivers, receiver by receiver."""
    sizes = [torch.full((group.events,), group.slots) for group in rows.groups]
    device = rows.mask.device
    size = torch.cat(sizes).to(device, non_blocking=True)  # of each event, in the order of the rows
    number = sum(group.events * group.slots for group in rows.groups)
    total = sum(group.events * group.slots * (group.slots - 1) for group in rows.groups)
    first = (size.cumsum(0) - size).repeat_interleave(
        size, output_size=number
    )  # row of the event of each row
    others = size.repeat_interleave(size, output_size=number) - 1
    receiver = torch.arange(number, device=device).repeat_interleave(others, output_size=total)
    start = first[receiver]
    place = torch.arange(total, device=device) - (others.cumsum(0) - others)[receiver]
    return start + place + (place >= receiver - start), receiver


def _of_group(group: Group, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of senders and receivers, counted from the first row of the group on."""
    own = torch.arange(group.slots, device=device)
    others = torch.arange(group.slots - 1, device=device).expand(group.slots, -1)
    others = others + (others >= own[:, None])  # (n, n - 1): all slots but one's own
    first = group.slots * torch.arange(group.events, device=device)
    sender = (first[:, None, None] + others).flatten()
    receiver = (first[:, None, None] + own[:, None].expand_as(others)).flatten()
    return sender, receiver
