"""Local branch of the point-edge transformer: every object sees its nearest neighbours, and theirs.

Two rules say who is a neighbour. :func:`find_neighbours` takes real objects only. :func:`find_with_phantoms` does what
the published network does, where an event with too few objects fills up with padded slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

FAR = 999.0  # what the published network adds to the coordinates of padded slots


class Neighbours(NamedTuple):
    """Who is whose neighbour, for R rows that hold the slots of all events one after the other.

    Attributes
    ----------
    row : int Tensor, shape (K, R)
        Rows of the neighbours.
    is_real : bool Tensor, shape (K, R), or None
        False for an entry of ``row`` that only fills the table; None if all of them count.
    """

    row: Tensor
    is_real: Tensor | None


class NeighbourLayer(nn.Module):
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
        self.neighbour = nn.Linear(width_in, inner, bias=False)  # A
        self.own = nn.Linear(width_in, inner)  # B
        self.project = nn.Linear(inner, width_out)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        """Rows (R, width_out) of rows (R, width_in)."""
        k, rows = neighbours.row.shape
        pairs = self.neighbour(x).index_select(0, neighbours.row.flatten()).unflatten(0, (k, rows))
        pairs = F.gelu(pairs.add_(self.own(x)))  # in place: this is the largest tensor of the network
        pairs = F.gelu(self.project(pairs))  # (K, R, width_out)
        if neighbours.is_real is None:
            return pairs.mean(dim=0)
        weight = neighbours.is_real.to(pairs.dtype)[..., None]
        return (pairs * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1)


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

    def forward(
        self, features: Tensor, coordinates: Tensor, mask: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Vectors (B, N, D), zero for padded slots; arguments as in :meth:`~evenet_hep.model.pet.PET.forward`."""
        batch, slots, _ = features.shape
        candidates = attention_mask if self.sees_attention_mask else None
        rows = features.flatten(0, 1)
        # In a trimmed batch one more row stands for all padded slots behind the events. It is its own neighbour.
        behind = coordinates.new_zeros(coordinates.shape[-1])
        is_trimmed = self.has_phantoms and slots < 2 * self.neighbours + 1
        if is_trimmed:
            rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        for layer in self.layers:
            if self.has_phantoms:
                phantom = behind if is_trimmed else None
                neighbours = find_with_phantoms(coordinates, mask, self.neighbours, phantom, candidates)
            else:
                neighbours = find_neighbours(coordinates, mask, self.neighbours, candidates)
            rows = layer(rows, neighbours)
            coordinates, behind = rows[: batch * slots].unflatten(0, (batch, slots)), rows[-1]
        return torch.where(mask[..., None], coordinates, 0.0)


def find_neighbours(
    coordinates: Tensor, mask: Tensor, number: int, candidates: Tensor | None = None
) -> Neighbours:
    """The nearest other real objects of every slot.

    Parameters
    ----------
    coordinates : Tensor, shape (B, N, C)
        Positions; compared in single precision or better.
    mask : bool Tensor, shape (B, N)
        True for a real object.
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
    excluded = ~mask[:, None, :] | torch.eye(slots, dtype=torch.bool, device=mask.device)
    if candidates is not None:
        excluded = excluded | ~candidates
    distance = _squared_distances(_single(coordinates)).masked_fill(excluded, torch.inf)
    nearest, slot = distance.topk(min(number, slots - 1), dim=-1, largest=False)
    row = slot + slots * torch.arange(batch, device=slot.device)[:, None, None]
    return Neighbours(row.flatten(0, 1).T, nearest.flatten(0, 1).T.isfinite())


def find_with_phantoms(
    coordinates: Tensor,
    mask: Tensor,
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
        For B * N rows, and for the phantom in one more row if there is one. All neighbours count.
    """
    batch, slots, _ = coordinates.shape
    position = _single(coordinates) + FAR * ~mask[..., None]
    if phantom is not None:
        behind = (_single(phantom) + FAR).expand(batch, number, -1)
        position = torch.cat([position, behind], dim=1)
    distance = _gram_distances(position)[:, :slots]
    if candidates is not None:
        is_self = torch.eye(slots, dtype=torch.bool, device=mask.device)
        excluded = F.pad(~(candidates | is_self), (0, position.shape[1] - slots))
        distance = distance.masked_fill(excluded, torch.inf)
    slot = distance.topk(number + 1, dim=-1, largest=False).indices[..., 1:]
    row = slot + slots * torch.arange(batch, device=slot.device)[:, None, None]
    if phantom is None:
        return Neighbours(row.flatten(0, 1).T, None)
    last = batch * slots
    row = torch.where(slot < slots, row, last).flatten(0, 1).T
    return Neighbours(F.pad(row, (0, 1), value=last), None)


def _single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _squared_distances(x: Tensor) -> Tensor:
    if x.shape[-1] <= 4:  # exact, and as fast in few dimensions
        return (x[:, :, None] - x[:, None]).square().sum(dim=-1)
    return _gram_distances(x)


def _gram_distances(x: Tensor) -> Tensor:
    # (B, N, C) to (B, N, N); half precision would not tell neighbours apart.
    with torch.autocast(device_type=x.device.type, enabled=False):
        length = x.square().sum(dim=-1, keepdim=True)
        return length - 2 * torch.bmm(x, x.transpose(1, 2)) + length.transpose(1, 2) + 1e-5
