"""Numbers about an event, such as the momentum of a resonance: the head and its loss."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.model.heads.branch import Branch
from evenet_hep.model.heads.weighted_mean import weighted_mean
from evenet_hep.model.layers import require, require_probability


@dataclasses.dataclass(frozen=True)
class RegressionTarget:
    """One number to learn.

    Parameters
    ----------
    name : str
        As in ``TT1L/t1/pt``.
    mean, std : float
        Of the training sample, in the unit of the target. The network works with (value - mean) / std.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        require(self.std > 0, f"regression target {self.name!r}: std", "positive", self.std)


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    """Targets and size of the regression head.

    Parameters
    ----------
    targets : sequence of RegressionTarget
        Grouped by the part of their names before the first ``/``; each group has a branch of its own.
    width : int
        Width of the branches.
    blocks : int
        Gated blocks of each.
    dropout : float
        After linear layers.
    """

    targets: tuple[RegressionTarget, ...] = ()
    width: int = 256
    blocks: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        names = [target.name for target in self.targets]
        require(len(names) > 0, "regression.targets", "at least one target", names)
        require(len(set(names)) == len(names), "regression.targets", "names without repetition", names)
        is_right = all(
            group and "." not in group for group in self.groups
        )  # each names a part of the network
        require(is_right, "regression.targets", "names that begin without a slash and a dot", names)
        require(self.width >= 1, "regression.width", "at least 1", self.width)
        require(self.blocks >= 0, "regression.blocks", "at least 0", self.blocks)
        require_probability("regression.dropout", self.dropout)

    @property
    def groups(self) -> tuple[str, ...]:
        """Parts of the names before the first slash, in order of first use."""
        return tuple(dict.fromkeys(target.name.split("/")[0] for target in self.targets))


class RegressionHead(nn.Module):
    """A branch on the event token for each group of targets.

    Parameters
    ----------
    width : int
        Width D of the event token.
    config : RegressionConfig
        Targets and size.

    Examples
    --------
    >>> targets = [RegressionTarget("TT/mass", 700.0, 200.0), RegressionTarget("HH/mass", 500.0, 100.0)]
    >>> head = RegressionHead(8, RegressionConfig(targets, width=16)).eval()
    >>> head(torch.zeros(3, 8)).shape
    torch.Size([3, 2])
    """

    mean: Tensor
    std: Tensor
    position: Tensor

    def __init__(self, width: int, config: RegressionConfig) -> None:
        super().__init__()
        self.config = config
        members = {
            group: [i for i, target in enumerate(config.targets) if target.name.split("/")[0] == group]
            for group in config.groups
        }
        self.branches = nn.ModuleDict(
            {
                group: Branch(
                    width, len(places), width=config.width, blocks=config.blocks, dropout=config.dropout
                )
                for group, places in members.items()
            }
        )
        in_order = [place for places in members.values() for place in places]
        self.register_buffer("mean", torch.tensor([t.mean for t in config.targets]), persistent=False)
        self.register_buffer("std", torch.tensor([t.std for t in config.targets]), persistent=False)
        self.register_buffer("position", torch.tensor(in_order).argsort(), persistent=False)

    def forward(self, event: Tensor) -> Tensor:
        """Values (B, targets), in the units and the order of the targets, of event tokens (B, D)."""
        values = torch.cat([branch(event) for branch in self.branches.values()], dim=-1)
        return values.index_select(-1, self.position) * self.std + self.mean

    def loss(
        self, values: Tensor, targets: Tensor, known: Tensor, *, event_weight: Tensor | None = None
    ) -> Tensor:
        """Weighted mean of the smooth L1 distance in units of each target's width.

        Parameters
        ----------
        values, targets : Tensor, shape (B, targets)
            As given by :meth:`forward`, and the truth.
        known : bool Tensor, shape (B, targets)
            False leaves a target out; its value may then be anything, NaN included.
        event_weight : Tensor, shape (B,), optional
            Weight of each event; 1 if left out.

        Returns
        -------
        Tensor, scalar
            Zero, with a gradient of zero, if nothing is known; see
            :func:`~evenet_hep.model.heads.weighted_mean.weighted_mean` for weights of either sign.
        """
        truth = torch.where(known, targets.to(values.dtype), values.detach())
        distance = F.smooth_l1_loss(values / self.std, truth / self.std, reduction="none")
        weight = known.to(distance.dtype)
        if event_weight is not None:
            weight = weight * event_weight[:, None]
        return weighted_mean(distance, weight)
