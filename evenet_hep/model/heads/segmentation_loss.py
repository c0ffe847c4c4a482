"""Loss of the segmentation head: queries are matched to segments, then compared with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evenet_hep.errors import InputError
from evenet_hep.model.heads.segmentation import NOTHING, Segments
from evenet_hep.model.heads.weighted_mean import weighted_mean

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, arXiv:1708.02002


class SegmentTargets(NamedTuple):
    """The segments of each event.

    Attributes
    ----------
    classes : int Tensor, shape (B, Q)
        Class of each segment; 0 where there is none. As many as the head has queries.
    masks : bool Tensor, shape (B, Q, N)
        True for the objects of a segment.
    """

    classes: Tensor
    masks: Tensor


class SegmentationLoss(NamedTuple):
    """Losses to be added with weights; each a scalar.

    Attributes
    ----------
    focal : Tensor
        Focal loss of the masks.
    dice : Tensor
        1 - Dice coefficient of the masks.
    classes : Tensor
        Cross-entropy of the classes.
    """

    focal: Tensor
    dice: Tensor
    classes: Tensor


class SegmentationLosses(NamedTuple):
    """Loss of the result, and mean loss of the segments before and between the layers.

    Attributes
    ----------
    last, auxiliary : SegmentationLoss
    """

    last: SegmentationLoss
    auxiliary: SegmentationLoss


def segmentation_loss(
    found: Sequence[Segments],
    targets: SegmentTargets,
    mask: Tensor,
    *,
    class_weight: Tensor | None = None,
    event_weight: Tensor | None = None,
) -> SegmentationLosses:
    """Loss after the best matching of queries to segments.

    For each event the matching has the smallest sum of focal loss (summed over the objects) and Dice loss, both for
    segments that are there, minus the probability of the right class. The losses are the focal loss (averaged over
    the objects) and the Dice loss, averaged over all segments, and the cross-entropy of the class of every query,
    averaged with the weights.

    Parameters
    ----------
    found : sequence of Segments
        As given by :class:`~evenet_hep.model.heads.segmentation.SegmentationHead`.
    targets : SegmentTargets
        The truth.
    mask : bool Tensor, shape (B, N)
        True for a real object.
    class_weight : Tensor, shape (S + 1,), optional
        Weight of each class in the cross-entropy.
    event_weight : Tensor, shape (B,), optional
        Weight of each event in all three losses. (The published training weighs the cross-entropy alone.)

    Returns
    -------
    SegmentationLosses
        Zero, with a gradient of zero, where there is nothing to compare; see
        :func:`~evenet_hep.model.heads.weighted_mean.weighted_mean` for weights of either sign.

    Raises
    ------
    InputError
        If there are not as many targets as queries.
    FloatingPointError
        If the head gave values that are not finite.

    Examples
    --------
    >>> found = Segments(torch.tensor([[[9.0, 0.0], [0.0, 9.0]]]), torch.tensor([[[-9.0, -9.0], [9.0, -9.0]]]))
    >>> targets = SegmentTargets(torch.tensor([[1, 0]]), torch.tensor([[[True, False], [False, False]]]))
    >>> losses = segmentation_loss([found], targets, torch.ones(1, 2, dtype=torch.bool))
    >>> bool(losses.last.dice < 0.01), bool(losses.last.classes < 0.01)
    (True, True)
    """
    for each in found:
        if each.classes.shape[:2] != targets.classes.shape:
            msg = (
                f"targets.classes must have shape {tuple(each.classes.shape[:2])}, one class per query; "
                f"found {tuple(targets.classes.shape)}"
            )
            raise InputError(msg)
    losses = [_loss(each, targets, mask, class_weight, event_weight) for each in found]
    *auxiliary, last = losses
    if not auxiliary:
        return SegmentationLosses(last, SegmentationLoss(*(part * 0.0 for part in last)))
    mean = (torch.stack(parts).mean() for parts in zip(*auxiliary, strict=True))
    return SegmentationLosses(last, SegmentationLoss(*mean))


def match_segments(found: Segments, targets: SegmentTargets, mask: Tensor) -> Tensor:
    """Target of each query in the matching of least cost.

    Parameters
    ----------
    found, targets, mask
        As in :func:`segmentation_loss`.

    Returns
    -------
    int Tensor, shape (B, Q)
        Every target once per event.
    """
    with torch.no_grad():
        logits = found.masks.float()[:, :, None].expand(-1, -1, targets.masks.shape[1], -1)
        truth = targets.masks[:, None].expand(-1, logits.shape[1], -1, -1) & mask[:, None, None]
        is_there = (targets.classes != NOTHING)[:, None]
        masks = _focal(logits, truth, mask[:, None, None]).sum(dim=-1) + _dice(logits, truth)
        probability = found.classes.float().softmax(dim=-1)  # (B, Q, S + 1)
        index = targets.classes[:, None].expand(-1, probability.shape[1], -1)
        cost = masks * is_there - probability.gather(-1, index)  # (B, queries, targets)
    events = cost.cpu().numpy()
    if not np.isfinite(events).all():
        msg = "the segmentation gave values that are not finite; nothing can be matched to them"
        raise FloatingPointError(msg)
    matched = [linear_sum_assignment(event)[1] for event in events]
    shape = targets.classes.shape
    return torch.as_tensor(np.array(matched, dtype=np.int64).reshape(shape), device=mask.device)


def _loss(
    found: Segments,
    targets: SegmentTargets,
    mask: Tensor,
    class_weight: Tensor | None,
    event_weight: Tensor | None,
) -> SegmentationLoss:
    order = match_segments(found, targets, mask)
    classes = targets.classes.gather(1, order)  # (B, Q)
    truth = targets.masks.gather(1, order[..., None].expand(-1, -1, mask.shape[1])) & mask[:, None]
    logits = found.masks.float()
    events = torch.ones_like(logits[:, :1, 0]) if event_weight is None else event_weight[:, None]
    weight = (classes != NOTHING) * events  # (B, Q)
    focal = _focal(logits, truth, mask[:, None]).sum(dim=-1) / mask.sum(dim=1).clamp(min=1)[:, None]
    entropy = F.cross_entropy(found.classes.float().transpose(1, 2), classes, reduction="none")
    class_weights = events.expand_as(entropy)
    if class_weight is not None:
        class_weights = class_weights * class_weight[classes]
    dice = _dice(logits, truth)
    return SegmentationLoss(
        weighted_mean(focal, weight), weighted_mean(dice, weight), weighted_mean(entropy, class_weights)
    )


def _focal(logits: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    # Per object, zero for padded slots.
    logits = torch.where(mask, logits, 0.0)
    target = truth.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = (torch.sigmoid(logits) - target).abs()  # 1 - probability of the truth
    loss = entropy * miss**GAMMA * torch.where(truth, ALPHA, 1 - ALPHA)
    return torch.where(mask, loss, 0.0)


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    # Padded slots have a probability of zero.
    probability, target = torch.sigmoid(logits), truth.to(logits.dtype)
    overlap = 2 * (probability * target).sum(dim=-1)
    return 1 - (overlap + 1) / (probability.sum(dim=-1) + target.sum(dim=-1) + 1)
