"""Loss of the assignment head: cross-entropy of assignments and of multiplicities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.model.heads.assignment import ResonanceScores, scores_of
from evenet_hep.model.heads.weighted_mean import divisor, weighted_mean
from evenet_hep.topology import Process, Topology

Equivalents = Literal["order", "daughters"]


class AssignmentTargets(NamedTuple):
    """Which objects the daughters of each event are.

    Attributes
    ----------
    process : int Tensor, shape (B,)
        Position of the process in the topology; -1 for an event that has none.
    indices : int Tensor, shape (B, S, K)
        Object of daughter k of the s-th resonance of that process; -1 where it was not reconstructed, and in all
        entries that the process does not have. S and K are at least those of the topology.
    """

    process: Tensor
    indices: Tensor


class AssignmentLoss(NamedTuple):
    """Two losses, to be added with weights.

    Attributes
    ----------
    assignment : Tensor, scalar
        Of the objects of resonances that are complete.
    detection : Tensor, scalar
        Of the multiplicities.
    """

    assignment: Tensor
    detection: Tensor


def assignment_loss(
    scores: Mapping[str, ResonanceScores],
    targets: AssignmentTargets,
    topology: Topology,
    *,
    focal_gamma: float = 0.0,
    equivalents: Equivalents = "order",
    process_weight: Tensor | None = None,
    pattern_weight: Mapping[str, Tensor] | None = None,
    event_weight: Tensor | None = None,
) -> AssignmentLoss:
    """Weighted means within each process, averaged over the processes that are in the batch.

    A resonance that is complete, with all its daughters at different objects, costs -log p (1 - p)^gamma. Here
    p = D q is the sum of the probabilities of its equivalent cells, which are all equal to q. Resonances of one kind
    are matched to the targets in the order that costs least (EveNet paper, eq. 2).

    Parameters
    ----------
    scores : mapping of str to ResonanceScores
        By kind, as given by :class:`~evenet_hep.model.heads.assignment.AssignmentHead`. An entry
        ``"process/resonance"``, such as ``"TT1L/t2"``, takes the place of the kind for that resonance alone.
    targets : AssignmentTargets
        The truth.
    topology : Topology
        That of the head.
    focal_gamma : float
        gamma; 0 is the plain cross-entropy.
    equivalents : {"order", "daughters"}
        What D is: the order of the symmetry group or, as in the published training, the number of daughters. The two
        agree for a pair of interchangeable daughters alone; for t -> b l the latter counts p = 1/2 as certain.
    process_weight : Tensor, shape (processes,), optional
        Weight of the events of each process.
    pattern_weight : mapping of str to Tensor, optional
        By process, weights (2^S,) of assignments in events where the bits of the position say which resonances are
        complete, the first resonance being the lowest bit.
    event_weight : Tensor, shape (B,), optional
        Weight of each event.

    Returns
    -------
    AssignmentLoss
        Each zero, with a gradient of zero, where nothing in the batch counts; see
        :func:`~evenet_hep.model.heads.weighted_mean.weighted_mean` for weights of either sign.
    """
    zero = torch.stack([each.multiplicity.sum() for each in scores.values()]).sum() * 0.0
    assignment, detection = [], []
    for label, process in enumerate(topology.processes):
        rows = (targets.process == label).nonzero()[:, 0]
        if len(rows) == 0 or not process.resonances:
            continue
        weight = torch.ones(len(rows), device=rows.device) if event_weight is None else event_weight[rows]
        if process_weight is not None:
            weight = weight * process_weight[label]
        slots = [
            targets.indices[rows, slot, : len(topology.resonance(kind).daughters)]
            for slot, kind in enumerate(process.kinds)
        ]
        complete = torch.stack([_is_complete(indices) for indices in slots], dim=1)  # (b, S)
        found = [
            ResonanceScores(*(each[rows] for each in scores_of(scores, process, slot)))
            for slot in range(len(slots))
        ]
        detection.append(_detection_loss(found, process, complete, weight))
        cost = [
            [_cost(found[s], slots[u], complete[:, u], topology, process.kinds[s], focal_gamma, equivalents)
             if process.kinds[s] == process.kinds[u] else None for u in range(len(slots))]
            for s in range(len(slots))
        ]  # fmt: skip
        if pattern_weight is not None and process.name in pattern_weight:
            bits = 2 ** torch.arange(len(slots), device=rows.device)
            weight = weight * pattern_weight[process.name][(complete * bits).sum(dim=1)]
        assignment.append(_cheapest(cost, process, complete, weight))
    return AssignmentLoss(*(torch.stack(each).mean() if each else zero for each in (assignment, detection)))


def _is_complete(indices: Tensor) -> Tensor:
    # (b, k) to (b,): all daughters there, at different objects
    ordered = indices.sort(dim=1).values
    return (ordered[:, 0] >= 0) & (ordered[:, 1:] != ordered[:, :-1]).all(dim=1)


def _cost(
    scores: ResonanceScores,
    indices: Tensor,
    complete: Tensor,
    topology: Topology,
    kind: str,
    focal_gamma: float,
    equivalents: Equivalents,
) -> Tensor:
    # (b,): of giving the target to this resonance, zero where it is not complete
    resonance = topology.resonance(kind)
    number = resonance.order if equivalents == "order" else len(resonance.daughters)
    cell = tuple(indices.clamp(min=0).unbind(dim=1))
    log_q = scores.assignment[(torch.arange(len(indices), device=indices.device), *cell)]
    log_p = torch.where(complete, log_q, 0.0) + math.log(number)
    focus = (1 - log_p.exp()).clamp(min=1e-6) ** focal_gamma if focal_gamma else 1.0
    return torch.where(complete, -log_p * focus, 0.0)


def _cheapest(
    cost: Sequence[Sequence[Tensor | None]], process: Process, complete: Tensor, weight: Tensor
) -> Tensor:
    totals = []
    for order in process.permutations:
        parts = [cost[slot][target] for slot, target in enumerate(order)]
        totals.append(torch.stack([part for part in parts if part is not None]).sum(dim=0))
    cheapest = torch.stack(totals).min(dim=0).values  # (b,)
    return (weight * cheapest).sum() / divisor(weight[:, None] * complete)


def _detection_loss(
    found: Sequence[ResonanceScores], process: Process, complete: Tensor, weight: Tensor
) -> Tensor:
    losses = [
        F.cross_entropy(
            found[group[0]].multiplicity.float(), complete[:, list(group)].sum(dim=1), reduction="none"
        )
        for group in process.groups
    ]
    return weighted_mean(torch.stack(losses), weight)
