"""From the distributions of the assignment head to one consistent set of resonances per event.

Every resonance of a process gets its own objects. :func:`decode_assignment` finds the set with the largest product of
assignment probabilities: an exhaustive search that walks the cells of each resonance in order of their probability and
stops where no better set can follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evenet_hep.model.heads.assignment import ResonanceScores, allowed_cells, scores_of
from evenet_hep.topology import Process, Resonance, Topology

FIRST_LOOK = 64  # cells per resonance; more are looked at in the events that need them
MAX_OBJECTS = 64  # one bit each
LEFT_OUT = -1e6  # logarithm of the probability of a resonance without objects: only if there is no other way

Method = Literal["best", "greedy"]


class DecodedEvents(NamedTuple):
    """The resonances of one process in each event.

    Attributes
    ----------
    indices : int64 Tensor, shape (B, S, K)
        Object of daughter k of resonance s, in the order of the process and of its daughters; interchangeable
        daughters in the order of the objects. -1 for a resonance that found no objects, and beyond the daughters of a
        resonance that has fewer than K.
    probability : float32 Tensor, shape (B, S)
        Probability that the network gives to this assignment of the resonance, all equivalent cells taken together; 0
        for a resonance that found no objects.
    detection : float32 Tensor, shape (B, S)
        Probability that there are at least as many resonances of this kind as in the set up to this one.
    """

    indices: Tensor
    probability: Tensor
    detection: Tensor


class _Candidates(NamedTuple):
    # Cells of each resonance of a process, the most probable first and "left out" last.
    value: npt.NDArray[np.float64]  # (B, S, C)
    bits: npt.NDArray[np.uint64]  # (B, S, C)
    cell: npt.NDArray[np.int64]  # (B, S, C)
    beyond: npt.NDArray[np.float64]  # (B, S): no cell that was left out is more probable


def decode_assignment(
    scores: Mapping[str, ResonanceScores],
    mask: Tensor,
    process: str,
    topology: Topology,
    *,
    method: Method = "best",
) -> DecodedEvents:
    """The most probable consistent resonances of a process.

    Parameters
    ----------
    scores : mapping of str to ResonanceScores
        By kind, as given by :class:`~evenet_hep.model.heads.assignment.AssignmentHead`; an entry
        ``"process/resonance"`` takes the place of the kind for that resonance alone.
    mask : bool Tensor, shape (B, N)
        True for a real object.
    process : str
        Name of the process whose resonances to look for.
    topology : Topology
        That of the head.
    method : {"best", "greedy"}
        ``"best"`` maximises the product of the probabilities. ``"greedy"``, as published, takes the most probable
        cell of all, then the most probable of what is left, and so on.

    Returns
    -------
    DecodedEvents
        Of resonances of one kind the most probable comes first. Where the objects do not suffice for all resonances,
        as many as possible are placed.

    Raises
    ------
    TopologyError
        If there is no such process.
    ValueError
        For more than 64 objects, or an unknown method.

    Examples
    --------
    >>> topology = Topology.shipped("higgs_to_4b")
    >>> logits = torch.full((1, 4, 4), -9.0)
    >>> logits[0, 0, 2] = logits[0, 2, 0] = logits[0, 1, 3] = logits[0, 3, 1] = 0.0
    >>> logits = logits.masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
    >>> assignment = logits.flatten(1).log_softmax(1).unflatten(1, (4, 4))
    >>> scores = {"a/bb": ResonanceScores(assignment, torch.tensor([[0.0, 0.0, 9.0]]))}
    >>> mask = torch.ones(1, 4, dtype=torch.bool)
    >>> decode_assignment(scores, mask, "HAA4B", topology).indices.tolist()
    [[[0, 2], [1, 3]]]
    """
    if method not in ("best", "greedy"):
        msg = f"method must be 'best' or 'greedy'; found {method!r}"
        raise ValueError(msg)
    grammar = topology.process(process)
    resonances = [topology.resonance(kind) for kind in grammar.kinds]
    of_slots = [scores_of(scores, grammar, slot) for slot in range(len(resonances))]
    sorted_cells = [_distinct_cells(s.assignment, mask, r) for s, r in zip(of_slots, resonances, strict=True)]
    batch, slots = mask.shape
    groups = _previous_alike(grammar, of_slots)
    search = _search_best if method == "best" else _search_greedy
    chosen = np.full((batch, len(resonances)), -1)
    pending, look = np.arange(batch), FIRST_LOOK
    while len(pending):
        found = _candidates(sorted_cells, resonances, pending, look, slots)
        cells, is_final = search(found.value, found.bits, found.beyond, groups)
        chosen[pending] = np.where(cells < 0, -1, np.take_along_axis(found.cell, cells[..., None], 2)[..., 0])
        pending, look = pending[~is_final], 8 * look
    return _as_events(chosen, of_slots, grammar, resonances, slots)


def detection_probability(multiplicity: Tensor) -> Tensor:
    """Probability of at least 1 ... M resonances, shape (B, M), from logits (B, M + 1) of 0 ... M.

    Examples
    --------
    >>> detection_probability(torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000]])
    """
    probability = multiplicity.float().softmax(dim=1)
    return probability.flip(1).cumsum(dim=1).flip(1)[:, 1:]


def _distinct_cells(assignment: Tensor, mask: Tensor, resonance: Resonance) -> Tensor:
    # (B, N, ..., N) to (B, cells): one of each set of equivalent cells, with the probability of the whole set
    slots = assignment.shape[1]
    if slots > MAX_OBJECTS:
        msg = f"resonances are looked for among at most {MAX_OBJECTS} objects; found {slots} slots"
        raise ValueError(msg)
    place = torch.arange(slots, device=assignment.device)
    grid = torch.meshgrid(*([place] * len(resonance.daughters)), indexing="ij")
    ordered = torch.ones_like(grid[0], dtype=torch.bool)
    for names in resonance.interchangeable:
        axes = [resonance.daughters.index(name) for name in names]
        for first, second in itertools.pairwise(axes):
            ordered &= grid[first] < grid[second]
    keep = ordered & allowed_cells(mask, len(resonance.daughters))
    log_probability = assignment.float() + float(np.log(resonance.order))
    return log_probability.masked_fill(~keep, -torch.inf).flatten(1)


def _candidates(
    cells: list[Tensor],
    resonances: list[Resonance],
    rows: npt.NDArray[np.int64],
    look: int,
    slots: int,
) -> _Candidates:
    number = min(look, max(each.shape[1] for each in cells))
    shape = (len(rows), len(resonances), number + 1)
    found = _Candidates(
        np.full(shape, -np.inf), np.zeros(shape, np.uint64), np.full(shape, -1), np.full(shape[:2], -np.inf)
    )
    for s, resonance in enumerate(resonances):
        all_cells = cells[s][torch.as_tensor(rows, device=cells[s].device)]
        count = min(number, all_cells.shape[1])
        value, cell = (each.cpu().numpy() for each in all_cells.topk(count, dim=1))
        found.value[:, s, :count], found.cell[:, s, :count] = value, cell
        for daughter in np.unravel_index(cell, (slots,) * len(resonance.daughters)):
            found.bits[:, s, :count] |= np.uint64(1) << daughter.astype(np.uint64)
        # "Left out" stands behind the cells that are possible.
        possible = (value > LEFT_OUT).sum(axis=1)
        end = (np.arange(len(rows)), s, possible)
        found.value[end], found.bits[end], found.cell[end] = LEFT_OUT, 0, -1
        if count < all_cells.shape[1]:
            found.beyond[:, s] = np.where(possible == count, value[:, -1], -np.inf)
    return found


def _previous_alike(process: Process, scores: list[ResonanceScores]) -> npt.NDArray[np.int64]:
    # For each resonance the one before it of the same kind, if both read the same distribution, or -1.
    previous = np.full(len(process.kinds), -1)
    for group in process.groups:
        for before, slot in itertools.pairwise(group):
            if scores[slot].assignment is scores[before].assignment:
                previous[slot] = before
    return previous


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _search_best(
    value: npt.NDArray[np.float64],
    bits: npt.NDArray[np.uint64],
    beyond: npt.NDArray[np.float64],
    previous: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Depth-first search over the resonances; a branch ends where the rest cannot make up for what is lost."""
    batch, depth, number = value.shape
    best = np.zeros((batch, depth), np.int64)
    is_final = np.ones(batch, np.bool_)
    choice = np.zeros(depth, np.int64)
    total = np.zeros(depth + 1)
    taken = np.zeros(depth + 1, np.uint64)
    rest = np.zeros(depth + 1)  # best that the resonances from here on can give
    for event in range(batch):
        for s in range(depth - 1, -1, -1):
            rest[s] = rest[s + 1] + value[event, s, 0]
        record = -np.inf
        s = 0
        choice[0] = 0
        while s >= 0:
            i = choice[s]
            if i >= number or total[s] + value[event, s, i] + rest[s + 1] <= record:
                s -= 1
                if s >= 0:
                    choice[s] += 1
                continue
            if bits[event, s, i] & taken[s]:
                choice[s] += 1
                continue
            total[s + 1] = total[s] + value[event, s, i]
            taken[s + 1] = taken[s] | bits[event, s, i]
            if s == depth - 1:
                record = total[s + 1]
                best[event, :] = choice
                choice[s] += 1
                continue
            s += 1
            choice[s] = 0
            if previous[s] >= 0:  # of two resonances of a kind the more probable one comes first
                before = choice[previous[s]]
                choice[s] = before + (bits[event, s, before] != 0)
        for s in range(depth):
            if beyond[event, s] + rest[0] - value[event, s, 0] > record:
                is_final[event] = False
    return best, is_final


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _search_greedy(
    value: npt.NDArray[np.float64],
    bits: npt.NDArray[np.uint64],
    beyond: npt.NDArray[np.float64],
    previous: npt.NDArray[np.int64],  # noqa: ARG001  the same arguments as the other search
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The most probable cell of all, again and again; of equal ones that of the first resonance."""
    batch, depth, number = value.shape
    best = np.full((batch, depth), -1, np.int64)
    is_final = np.ones(batch, np.bool_)
    for event in range(batch):
        taken = np.uint64(0)
        for _ in range(depth):
            record, winner, cell = -np.inf, -1, 0
            for s in range(depth):
                if best[event, s] >= 0:
                    continue
                i = 0
                while i < number and bits[event, s, i] & taken:
                    i += 1
                if i < number and value[event, s, i] > record:
                    record, winner, cell = value[event, s, i], s, i
            for s in range(depth):
                if best[event, s] < 0 and beyond[event, s] > record:
                    is_final[event] = False
            if winner < 0:
                break
            best[event, winner] = cell
            taken |= bits[event, winner, cell]
    return best, is_final


def _as_events(
    chosen: npt.NDArray[np.int64],
    scores: list[ResonanceScores],
    process: Process,
    resonances: list[Resonance],
    slots: int,
) -> DecodedEvents:
    device = scores[0].assignment.device
    batch, width = len(chosen), max((len(r.daughters) for r in resonances), default=1)
    indices = torch.full((batch, len(resonances), width), -1, device=device)
    probability = torch.zeros((batch, len(resonances)), device=device)
    detection = torch.zeros((batch, len(resonances)), device=device)
    for s, resonance in enumerate(resonances):
        cell = torch.as_tensor(chosen[:, s], device=device)
        flat = scores[s].assignment.flatten(1).float()
        log_p = flat.gather(1, cell.clamp(min=0)[:, None])[:, 0] + float(np.log(resonance.order))
        probability[:, s] = torch.where(cell >= 0, log_p.exp(), 0.0)
        for axis in range(len(resonance.daughters)):
            step = slots ** (len(resonance.daughters) - 1 - axis)
            indices[:, s, axis] = torch.where(cell >= 0, cell // step % slots, -1)
    for group in process.groups:
        at_least = detection_probability(scores[group[0]].multiplicity)
        order = probability[:, list(group)].argsort(dim=1, descending=True, stable=True)
        for rank in range(len(group)):
            detection[:, group[rank]] = at_least[:, rank]
        rows = torch.tensor(group, device=device)[order]  # (B, members)
        indices[:, list(group)] = indices.gather(1, rows[..., None].expand(-1, -1, width))
        probability[:, list(group)] = probability.gather(1, rows)
    return DecodedEvents(indices, probability, detection)
