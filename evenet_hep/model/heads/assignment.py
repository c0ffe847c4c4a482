"""Which objects a resonance decayed to, and how many of its kind there are.

For a resonance with daughters d = 1 ... k every object i gets one vector y_d[i], and the cell (i_1, ..., i_k) of the
assignment tensor the logit sum_c prod_d y_d[i_d]_c / sqrt(D)^k, averaged over the symmetry group of the resonance
(symmetric tensor attention, arXiv:2106.03898). A softmax over all cells of different real objects gives the
probability of an assignment. The multiplicity of the kind comes from the event token of the same encoder. The loss is
in :mod:`evenet_hep.model.heads.assignment_loss`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.heads.branch import Branch
from evenet_hep.model.layers import GatedBlock, require, require_probability, single_precision
from evenet_hep.model.object_encoder import Encoding, ObjectEncoder, ObjectEncoderConfig
from evenet_hep.topology import PROPERTIES, Process, Resonance, Topology


@dataclasses.dataclass(frozen=True)
class AssignmentConfig:
    """Resonances and size of the assignment head.

    Parameters
    ----------
    topology : Topology
        Resonances to look for, and the processes they make up.
    heads : int
        Attention heads; divides the width.
    layers : int
        Attention layers of each shared encoder.
    blocks : int
        Gated blocks before them.
    type_width : int
        Width of the learnt vectors that tell objects from event features.
    detection_blocks : int
        Blocks between event token and multiplicity.
    dropout : float
        In attention weights and after linear layers.
    property_drop : float
        Chance of an event to be encoded without the properties of the resonance, in training.
    property_mean, property_std : sequence of float
        Of the properties of resonances (mass, spin, ...), one each; empty takes them from the topology.
    impossible_is_uniform : bool
        Events with fewer objects than daughters: False gives every cell probability zero. True, as published, gives
        all ``capacity ** daughters`` cells the same probability.
    separate : bool
        Resonances of one kind in a process, such as both tops of an all-hadronic pair, have weights of their own. False,
        as published, gives them one distribution, which then has to have two peaks: with few events that is hardly
        learnt.
    """

    topology: Topology
    heads: int = 4
    layers: int = 1
    blocks: int = 1
    type_width: int = 32
    detection_blocks: int = 1
    dropout: float = 0.1
    property_drop: float = 0.1
    property_mean: tuple[float, ...] = ()
    property_std: tuple[float, ...] = ()
    impossible_is_uniform: bool = False
    separate: bool = False

    def __post_init__(self) -> None:
        require(len(self.topology.resonances) > 0, "assignment.topology", "at least one resonance", ())
        self._check_names()
        require(
            self.detection_blocks >= 0, "assignment.detection_blocks", "at least 0", self.detection_blocks
        )
        require_probability("assignment.property_drop", self.property_drop)
        for name in ("property_mean", "property_std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            is_right = len(values) in (0, len(PROPERTIES))
            require(
                is_right, f"assignment.{name}", f"empty or one for each of {', '.join(PROPERTIES)}", values
            )
        is_right = all(value > 0 for value in self.property_std)
        require(is_right, "assignment.property_std", "positive", self.property_std)
        self.encoder()  # checks the rest

    def _check_names(self) -> None:
        # Scores of a resonance are found by "process/resonance", its weights by the head and a number.
        if not self.separate:
            return
        topology = self.topology
        own = {f"{process.name}/{name}" for process in topology.processes for name, _ in process.resonances}
        numbered = {
            _branch_name(head, k) for head in topology.heads for k in range(1, topology.max_multiplicity)
        }
        taken = sorted((own & set(topology.kinds)) | (numbered & set(topology.heads)))
        require(not taken, "assignment.topology", "no kind or head named as one of its resonances", taken)

    def encoder(self) -> ObjectEncoderConfig:
        """The size of the encoder of each shared head."""
        return ObjectEncoderConfig(
            layers=self.layers,
            heads=self.heads,
            blocks=self.blocks,
            type_width=self.type_width,
            dropout=self.dropout,
        )


class AssignmentHead(nn.Module):
    """Assignment and multiplicity of every kind of resonance.

    Parameters
    ----------
    width : int
        Width D of objects and event token.
    capacity : int
        Largest number of objects; used by ``impossible_is_uniform`` alone.
    config : AssignmentConfig
        Resonances and size.

    Examples
    --------
    >>> config = AssignmentConfig(Topology.shipped("higgs_to_4b"), heads=2, type_width=4)
    >>> head = AssignmentHead(8, capacity=18, config=config).eval()
    >>> mask = torch.ones(2, 5, dtype=torch.bool)
    >>> encoding = Encoding(torch.randn(2, 5, 8), torch.zeros(2, 8), torch.zeros(2, 8))
    >>> scores = head(encoding, mask, torch.ones(2, dtype=torch.bool))["a/bb"]
    >>> scores.assignment.shape, scores.multiplicity.shape
    (torch.Size([2, 5, 5]), torch.Size([2, 3]))
    >>> torch.allclose(scores.assignment.exp().sum((1, 2)), torch.ones(2))
    True
    """

    properties: Tensor

    def __init__(self, width: int, *, capacity: int, config: AssignmentConfig) -> None:
        super().__init__()
        self.config = config
        topology = config.topology
        self.register_buffer("properties", _standardised_properties(config), persistent=False)
        self.property_embedding = nn.Sequential(
            nn.Linear(len(PROPERTIES), width), nn.GELU(), nn.Linear(width, width)
        )
        first = {r.head: r for r in reversed(topology.resonances)}
        self.branches = nn.ModuleDict()
        for name in topology.heads:
            for number in range(self._copies(name)):
                self.branches[_branch_name(name, number)] = AssignmentBranch(
                    width,
                    first[name],
                    multiplicities=topology.max_multiplicity + 1 if number == 0 else 0,
                    capacity=capacity,
                    config=config,
                )

    def forward(
        self,
        encoding: Encoding,
        mask: Tensor,
        condition_mask: Tensor,
        kinds: Collection[str] | None = None,
    ) -> dict[str, ResonanceScores]:
        """Scores of resonances, by name.

        Parameters
        ----------
        encoding : Encoding
            Vectors of objects (B, N, D), event and event features.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        condition_mask : bool Tensor, shape (B,)
            False where there are no event features.
        kinds : collection of str, optional
            Names of the resonances; all of the topology by default.

        Returns
        -------
        dict of str to ResonanceScores
            With ``separate``, every second and later resonance of a kind has an entry ``"process/resonance"``, such as
            ``"TTHadronics/t2"``; the name of the kind stands for the first.
        """
        # Products of several half-precision numbers would not tell assignments apart.
        kind = next(self.property_embedding.parameters()).dtype
        with single_precision(mask.device):
            single = Encoding(*(vectors.to(kind) for vectors in encoding))
            return self._score(single, mask, condition_mask, kinds)

    def _score(
        self, encoding: Encoding, mask: Tensor, condition_mask: Tensor, kinds: Collection[str] | None
    ) -> dict[str, ResonanceScores]:
        batch, scores = mask.shape[0], {}
        for resonance, properties in zip(self.config.topology.resonances, self.properties, strict=True):
            if kinds is not None and resonance.name not in kinds:
                continue
            rows = self._drop(properties.expand(batch, -1))
            condition = self.property_embedding(rows)  # (B, D)
            found: list[ResonanceScores] = []
            for number in range(self._copies_of_kind(resonance.name)):
                branch = self.branches[_branch_name(resonance.head, number)]
                found.append(branch(encoding, mask, condition_mask, condition))
            scores[resonance.name] = found[0]
            for name, number in self._later(resonance.name):
                scores[name] = ResonanceScores(found[number].assignment, found[0].multiplicity)
        return scores

    def _copies(self, head: str) -> int:
        return max(self._copies_of_kind(r.name) for r in self.config.topology.resonances if r.head == head)

    def _copies_of_kind(self, kind: str) -> int:
        return 1 + max((number for _, number in self._later(kind)), default=0)

    def _later(self, kind: str) -> list[tuple[str, int]]:
        # "process/resonance" of all resonances of a kind but the first of each process, and which one it is
        if not self.config.separate:
            return []
        return [
            (f"{process.name}/{process.resonances[slot][0]}", number)
            for process in self.config.topology.processes
            for group in process.groups
            for number, slot in enumerate(group)
            if number > 0 and process.kinds[slot] == kind
        ]

    def _drop(self, properties: Tensor) -> Tensor:
        if not self.training or self.config.property_drop == 0:
            return properties
        keep = properties.new_empty(properties.shape[0], 1).bernoulli_(1 - self.config.property_drop)
        return properties * keep


class ResonanceScores(NamedTuple):
    """What the network says about one kind of resonance.

    Attributes
    ----------
    assignment : Tensor, shape (B, N, ..., N)
        Logarithm of the probability of each cell, with one axis of length N per daughter; -inf where an object is
        padding or stands for two daughters. Cells that differ by a symmetry of the resonance are equal, and each
        holds its share.
    multiplicity : Tensor, shape (B, M + 1)
        Logits of 0 ... M resonances of this kind.
    """

    assignment: Tensor
    multiplicity: Tensor


def scores_of(scores: Mapping[str, ResonanceScores], process: Process, slot: int) -> ResonanceScores:
    """What the network says about one resonance of a process: an entry of its own, or that of its kind."""
    name, kind = process.resonances[slot]
    own = f"{process.name}/{name}"
    return scores[own if own in scores else kind]


def _branch_name(head: str, number: int) -> str:
    return head if number == 0 else f"{head} {number + 1}"


class AssignmentBranch(nn.Module):
    """Encoder, tensor attention and detection for all resonances that share a head.

    Parameters
    ----------
    width : int
        Width D.
    resonance : Resonance
        Any of them: number and symmetry of the daughters count.
    multiplicities : int
        Number of logits of the multiplicity; 0 leaves them out.
    capacity : int
        See :class:`AssignmentHead`.
    config : AssignmentConfig
        Size.
    """

    def __init__(
        self,
        width: int,
        resonance: Resonance,
        *,
        multiplicities: int,
        capacity: int,
        config: AssignmentConfig,
    ) -> None:
        super().__init__()
        self.permutations = resonance.permutations
        cells = capacity ** len(resonance.daughters)
        self.impossible = -math.log(cells) if config.impossible_is_uniform else -math.inf
        self.encoder = ObjectEncoder(width=width, config=config.encoder())
        self.token = nn.Linear(2 * width, width)
        self.daughters = nn.ModuleList(
            DaughterProjection(width, type_width=config.type_width) for _ in resonance.daughters
        )
        self.detection: Branch | None = None
        if multiplicities:
            self.detection = Branch(
                width,
                multiplicities,
                width=width,
                blocks=config.detection_blocks,
                dropout=config.dropout,
                gated=False,
            )

    def forward(
        self, encoding: Encoding, mask: Tensor, condition_mask: Tensor, properties: Tensor
    ) -> ResonanceScores:
        """Scores of one resonance; ``properties`` (B, D) are its embedded properties."""
        token = self.encoder.event_token.expand_as(properties)
        encoded: Encoding = self.encoder(
            encoding.objects,
            mask,
            encoding.condition,
            condition_mask,
            token=self.token(torch.cat([token, properties], dim=-1)),
        )
        vectors = [project(encoded.objects) for project in self.daughters]  # k of (B, N, D)
        logits = _symmetrised(_tensor_product(vectors), self.permutations)
        assignment = _log_softmax(logits, allowed_cells(mask, len(vectors)), self.impossible)
        multiplicity = encoded.event[:, :0] if self.detection is None else self.detection(encoded.event)
        return ResonanceScores(assignment, multiplicity)


class DaughterProjection(nn.Module):
    """The vectors with which objects answer for one daughter.

    Parameters
    ----------
    width : int
        Width D.
    type_width : int
        Width of the learnt vector that is appended to each object.
    """

    def __init__(self, width: int, *, type_width: int) -> None:
        super().__init__()
        self.object_type = nn.Parameter(torch.randn(type_width))
        self.combine = GatedBlock(width + type_width, width, expansion=1.0, gated=False)
        self.project = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, objects: Tensor) -> Tensor:
        """Vectors (B, N, D) of objects (B, N, D)."""
        types = self.object_type.to(objects.dtype).expand(*objects.shape[:2], -1)
        vectors: Tensor = self.project(self.combine(torch.cat([objects, types], dim=-1)))
        return vectors


def allowed_cells(mask: Tensor, daughters: int) -> Tensor:
    """Cells of an assignment tensor that stand for different real objects.

    Parameters
    ----------
    mask : bool Tensor, shape (B, N)
        True for a real object.
    daughters : int
        Number of axes.

    Returns
    -------
    bool Tensor, shape (B, N, ..., N)

    Examples
    --------
    >>> allowed_cells(torch.tensor([[True, True, False]]), 2).int()
    tensor([[[0, 1, 0],
             [1, 0, 0],
             [0, 0, 0]]], dtype=torch.int32)
    """
    slots = mask.shape[1]
    different = ~torch.eye(slots, dtype=torch.bool, device=mask.device)
    allowed = mask
    for axis in range(1, daughters):
        allowed = allowed[..., None] & _along(mask, axis, axis + 1)
        for earlier in range(axis):
            shape = [1] * (axis + 1)
            shape[earlier] = shape[axis] = slots
            allowed = allowed & different.reshape(shape)
    return allowed


def _along(mask: Tensor, axis: int, axes: int) -> Tensor:
    # (B, N) to (B, 1, ..., N, ..., 1)
    return mask.reshape(mask.shape[0], *([1] * axis), mask.shape[1], *([1] * (axes - axis - 1)))


def _tensor_product(vectors: Sequence[Tensor]) -> Tensor:
    # sum over c of prod_d y_d[i_d]_c / sqrt(D)^k: k of (B, N, D) to (B, N, ..., N)
    width = vectors[0].shape[-1]
    product = vectors[0]
    for other in vectors[1:-1]:
        product = product.unsqueeze(-2) * _align(other, product.ndim)  # (B, N, ..., N, D)
    if len(vectors) == 1:
        logits = product.sum(dim=-1)
    else:
        rows = product.flatten(1, -2)  # (B, cells so far, D)
        logits = torch.bmm(rows, vectors[-1].transpose(1, 2)).unflatten(1, product.shape[1:-1])
    return torch.as_tensor(logits / width ** (len(vectors) / 2))


def _align(vectors: Tensor, axes: int) -> Tensor:
    # (B, N, D) to (B, 1, ..., N, D)
    return vectors.reshape(vectors.shape[0], *([1] * (axes - 2)), *vectors.shape[1:])


def _symmetrised(logits: Tensor, permutations: Sequence[tuple[int, ...]]) -> Tensor:
    if len(permutations) == 1:
        return logits
    total = sum(logits.permute(0, *(axis + 1 for axis in order)) for order in permutations)
    return torch.as_tensor(total) / len(permutations)


def _log_softmax(logits: Tensor, allowed: Tensor, impossible: float) -> Tensor:
    # Over all allowed cells, in single precision; ``impossible`` everywhere in an event without any.
    flat = allowed.flatten(1)
    is_possible = flat.any(dim=1, keepdim=True)
    finite = logits.flatten(1).float().masked_fill(~flat & is_possible, -torch.inf)
    log_probability = torch.where(is_possible, F.log_softmax(finite, dim=1), impossible)
    return log_probability.reshape(logits.shape)


def _standardised_properties(config: AssignmentConfig) -> Tensor:
    # (resonances, properties)
    raw = torch.tensor([r.properties for r in config.topology.resonances])
    mean = torch.tensor(config.property_mean) if config.property_mean else raw.mean(dim=0)
    if config.property_std:
        std = torch.tensor(config.property_std)
    else:
        spread = raw.std(dim=0, correction=0)
        std = torch.where(spread > 0, spread, 1.0)
    return (raw - mean) / std
