"""Local branch of the point-edge transformer: every object sees its nearest neighbours, and theirs.

Two rules say who is a neighbour. :func:`find_neighbours` takes real objects only. :func:`find_with_phantoms` does what
the published network does, where an event with too few objects fills up with padded slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model import fused, kernels
from evenet_hep.model.kernels import FAR
from evenet_hep.model.layers import Linear, multiply, runs_kernels, single_precision
from evenet_hep.model.packed import Packing, packed_for
from evenet_hep.model.packing import Group, Rows


class Neighbours(NamedTuple):
    """Who is whose neighbour, for R rows that hold the slots of all events one after the other.

    Attributes
    ----------
    row : int Tensor, shape (K, R)
        Rows of the neighbours.
    is_real : bool Tensor, shape (K, R), or None
        False for an entry of ``row`` that only fills the table; None if all of them count.
    starts : int array, shape (events + 1,), or None
        First row of each event, and the end, if neighbours are known to be rows of the same event or the last one.
    """

    row: Tensor
    is_real: Tensor | None
    starts: npt.NDArray[np.int64] | None = None


class NeighbourLayer(Packing):
    """Average over the neighbours j of an object i of MLP([x_j - x_i, x_i]) (EdgeConv, arXiv:1801.07829).

    The first linear layer of the MLP acts on objects, not on pairs: W [x_j - x_i, x_i] = A x_j + B x_i, with the A
    and B that are stored here, gives the same numbers for a K-th of the multiplications.

    Parameters
    ----------
    width_in, width_out : int
        Width before and after.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        inner = 2 * width_out
        self.neighbour = Linear(width_in, inner, bias=False)  # A
        self.own = Linear(width_in, inner)  # B
        self.project = Linear(inner, width_out)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        """Rows (R, width_out) of rows (R, width_in)."""
        k, rows = neighbours.row.shape
        if neighbours.starts is not None and fused.trains_kernels(x):
            pairs = fused.gelu_of_pairs(self.neighbour(x), self.own(x), neighbours.row, neighbours.starts)
            return fused.weighted_gelu(self.project(pairs), self._parts(x, neighbours))
        if runs_kernels(x):
            pairs = self._pairs(x, neighbours.row)
        else:
            pairs = self.neighbour(x).index_select(0, neighbours.row.flatten()).unflatten(0, (k, rows))
            pairs = F.gelu(pairs.add_(self.own(x)))  # in place: this is the largest tensor of the network
        pairs = self.project.gelu(pairs)  # (K, R, width_out)
        if neighbours.is_real is None and runs_kernels(pairs):
            mean = pairs.new_empty(pairs.shape[1:])
            kernels.average_pairs(pairs.numpy(), mean.numpy())
            return mean
        if neighbours.is_real is None:
            return pairs.mean(dim=0, dtype=x.dtype)
        weight = neighbours.is_real.to(x.dtype)[..., None]
        return (pairs * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1)

    def _parts(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        # Weight of each neighbour in the mean (K, R).
        if neighbours.is_real is None:
            return x.new_full(neighbours.row.shape, 1 / max(len(neighbours.row), 1))
        weight = neighbours.is_real.to(x.dtype)
        return weight / weight.sum(dim=0).clamp(min=1)

    def _pairs(self, x: Tensor, row: Tensor) -> Tensor:
        sources = self.neighbour.weight, self.own.weight, self.own.bias
        weight, bias = self.packed("both", sources, self._pack)
        both = multiply(x, weight, bias)
        pairs = x.new_empty(*row.shape, self.own.out_features)
        kernels.activate_pairs(both.numpy(), row.contiguous().numpy(), pairs.numpy())
        return pairs

    def _pack(self) -> tuple[Tensor, Tensor]:
        """A and B, one above the other, and the bias for both."""
        weight = torch.cat([self.neighbour.weight, self.own.weight])
        return packed_for(weight), F.pad(self.own.bias, (self.own.out_features, 0)).detach()


class LocalBranch(nn.Module):
    """A vector per object from neighbours of neighbours.

    Parameters
    ----------
    columns : int
        Width of the features.
    width : int
        Width D of the result.
    layers : int
        Neighbour layers, in sequence.
    neighbours : int
        Objects that every object sees in each of them.
    has_phantoms, sees_attention_mask : bool
        See ``phantom_neighbours`` and ``neighbours_see_attention_mask`` of
        :class:`~evenet_hep.model.pet.PETConfig`.
    """

    def __init__(
        self,
        columns: int,
        width: int,
        *,
        layers: int,
        neighbours: int,
        has_phantoms: bool = False,
        sees_attention_mask: bool = True,
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.has_phantoms = has_phantoms
        self.sees_attention_mask = sees_attention_mask
        widths = [columns] + [width] * layers
        self.layers = nn.ModuleList(map(NeighbourLayer, widths[:-1], widths[1:]))

    def forward(self, features: Tensor, columns: Tensor, layout: Rows) -> Tensor:
        """Rows (R, D) of rows of features; ``columns`` are those that measure the distance in the first layer."""
        x = features
        has_row = self.has_phantoms and any(map(self._lacks_slots, layout.groups))
        if has_row:  # one more row stands for all padded slots that have none; it is its own neighbour
            x = F.pad(x, (0, 0, 0, 1))
        coordinates = x.index_select(-1, columns)
        for layer in self.layers:
            x = layer(x, self._find(coordinates, layout, has_row))
            coordinates = x
        return x[: features.shape[0]] if has_row else x

    def _lacks_slots(self, group: Group) -> bool:
        # Padded slots are neighbours where real ones are few, and have as many of their kind for neighbours.
        return group.slots <= (self.neighbours if group.mask is None else 2 * self.neighbours)

    @torch.no_grad()
    def _find(self, coordinates: Tensor, layout: Rows, has_row: bool) -> Neighbours:
        is_single = coordinates.device.type == "cpu" and coordinates.dtype == torch.float32
        if layout.starts is not None and is_single and not torch.compiler.is_compiling():
            return self._nearest(coordinates, layout.starts)
        found = []
        phantom = coordinates[-1] if has_row else None
        for x, group in zip(
            layout.split(coordinates[:-1] if has_row else coordinates), layout.groups, strict=True
        ):
            candidates = group.pairs if self.sees_attention_mask else None
            if self.has_phantoms:
                behind = phantom if self._lacks_slots(group) else None
                found.append(find_with_phantoms(x, group.mask, self.neighbours, behind, candidates))
            else:
                found.append(find_neighbours(x, group.mask, self.neighbours, candidates))
        return _join(found, layout, has_row)

    def _nearest(self, coordinates: Tensor, starts: npt.NDArray[np.int64]) -> Neighbours:
        slots = np.diff(starts)
        number = self.neighbours if self.has_phantoms else min(self.neighbours, int(slots.max()) - 1)
        rows = coordinates.shape[0]
        phantom = rows - 1 if self.has_phantoms else -1  # without a row for it, no event needs one
        row = torch.full((number, rows), rows - 1)  # a phantom is its own neighbour
        kernels.nearest(coordinates.contiguous().numpy(), starts, phantom, row.numpy())
        if self.has_phantoms or 0 < number < slots.min():
            return Neighbours(row, None, starts)
        # What fills the table has no weight, and stays within its event.
        return Neighbours(torch.where(row < 0, torch.arange(rows), row), row >= 0, starts)


def _join(found: Sequence[Neighbours], layout: Rows, has_row: bool) -> Neighbours:
    """Neighbours in all groups, with rows counted from the first group on; the last row is that of the phantom."""
    if len(found) == 1 and not has_row:
        return found[0]
    sizes = [group.events * group.slots for group in layout.groups]
    most = max(len(neighbours.row) for neighbours in found)
    is_full = all(neighbours.is_real is None and len(neighbours.row) == most for neighbours in found)
    rows, is_real, start = [], [], 0
    for (row, real, _), size in zip(found, sizes, strict=True):
        shifted = torch.where(row < size, row + start, sum(sizes)) if has_row else row + start
        missing = (0, 0, 0, most - len(row))
        rows.append(F.pad(shifted, missing))
        if not is_full:
            is_real.append(F.pad(torch.ones_like(row, dtype=torch.bool) if real is None else real, missing))
        start += size
    joined = torch.cat(rows, dim=1)
    if has_row:
        joined = F.pad(joined, (0, 1), value=start)
    return Neighbours(joined, None if is_full else torch.cat(is_real, dim=1))


def find_neighbours(
    coordinates: Tensor, mask: Tensor | None, number: int, candidates: Tensor | None = None
) -> Neighbours:
    """The nearest other real objects of every slot.

    Parameters
    ----------
    coordinates : Tensor, shape (B, N, C)
        Positions; compared in single precision or better.
    mask : bool Tensor, shape (B, N), or None
        True for a real object; None if all are.
    number : int
        Neighbours per object. Where there are fewer, ``is_real`` is False for the rest.
    candidates : bool Tensor, shape (B, N, N) or (N, N), optional
        True where slot j may be a neighbour of slot i.

    Returns
    -------
    Neighbours
        For B * N rows, min(number, N - 1) each.

    Examples
    --------
    >>> line = torch.tensor([[[0.0], [1.0], [3.0], [2.0]]])
    >>> mask = torch.tensor([[True, True, True, False]])
    >>> find_neighbours(line, mask, 1).row[0, :3]
    tensor([1, 0, 1])
    """
    batch, slots, _ = coordinates.shape
    excluded = torch.eye(slots, dtype=torch.bool, device=coordinates.device)
    if mask is not None:
        excluded = excluded | ~mask[:, None, :]
    if candidates is not None:
        excluded = excluded | ~candidates
    distance = _squared_distances(_single(coordinates)).masked_fill(excluded, torch.inf)
    nearest, slot = distance.topk(min(number, slots - 1), dim=-1, largest=False)
    row = slot + slots * torch.arange(batch, device=slot.device)[:, None, None]
    is_complete = mask is None and candidates is None and slots > 1
    return Neighbours(row.flatten(0, 1).T, None if is_complete else nearest.flatten(0, 1).T.isfinite())


def find_with_phantoms(
    coordinates: Tensor,
    mask: Tensor | None,
    number: int,
    phantom: Tensor | None = None,
    candidates: Tensor | None = None,
) -> Neighbours:
    """Neighbours as the published network finds them: padded slots come last, but they count.

    Padded slots are moved by 999 in every coordinate, and the nearest slot of all is taken for the object itself and
    left out. An object that has fewer real neighbours than asked for gets padded slots; those have padded slots for
    neighbours in turn, which takes ``2 number + 1`` slots. In a batch that was trimmed further a phantom takes their
    place.

    Parameters
    ----------
    coordinates, mask, number, candidates
        As in :func:`find_neighbours`.
    phantom : Tensor, shape (C,), optional
        Position, before it is moved, of padded slots behind every event that are not there.

    Returns
    -------
    Neighbours
        For B * N rows; row B * N is that of the phantom. All neighbours count.
    """
    batch, slots, _ = coordinates.shape
    position = _single(coordinates)
    if mask is not None:
        position = position + FAR * ~mask[..., None]
    if phantom is not None:
        behind = (_single(phantom) + FAR).expand(batch, number, -1)
        position = torch.cat([position, behind], dim=1)
    distance = _gram_distances(position)[:, :slots]
    if candidates is not None:
        is_self = torch.eye(slots, dtype=torch.bool, device=coordinates.device)
        excluded = F.pad(~(candidates | is_self), (0, position.shape[1] - slots))
        distance = distance.masked_fill(excluded, torch.inf)
    slot = distance.topk(number + 1, dim=-1, largest=False).indices[..., 1:]
    row = slot + slots * torch.arange(batch, device=slot.device)[:, None, None]
    if phantom is not None:
        row = torch.where(slot < slots, row, batch * slots)
    return Neighbours(row.flatten(0, 1).T, None)


def _single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _squared_distances(x: Tensor) -> Tensor:
    if x.shape[-1] <= 4:  # exact, and as fast in few dimensions
        return (x[:, :, None] - x[:, None]).square().sum(dim=-1)
    return _gram_distances(x)


def _gram_distances(x: Tensor) -> Tensor:
    # (B, N, C) to (B, N, N); half precision would not tell neighbours apart.
    with single_precision(x.device):
        length = x.square().sum(dim=-1, keepdim=True)
        return length - 2 * torch.bmm(x, x.transpose(1, 2)) + length.transpose(1, 2) + 1e-5
