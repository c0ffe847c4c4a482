from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.model.heads.segmentation import (
    QueryAttention,
    SegmentationConfig,
    SegmentationHead,
    Segments,
)
from evenet_hep.model.heads.segmentation_loss import (
    SegmentTargets,
    match_segments,
    segmentation_loss,
)

WIDTH, QUERIES, CLASSES = 8, 4, 3
CONFIG = SegmentationConfig(("top", "W"), queries=QUERIES, layers=2, heads=2, mask_layers=2)


def build(*, attends_padding: bool = False, layers: int = 2) -> SegmentationHead:
    torch.manual_seed(0)
    config = SegmentationConfig(
        ("top", "W"), queries=QUERIES, layers=layers, heads=2, mask_layers=2, attends_padding=attends_padding
    )
    return SegmentationHead(WIDTH, capacity=18, config=config).eval()


def events(counts: list[int], slots: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    return torch.randn(len(counts), slots, WIDTH, generator=generator) * mask[..., None], mask


def problem(batch: int, slots: int, seed: int = 0) -> tuple[Segments, SegmentTargets, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(slots) < torch.randint(0, slots + 1, (batch, 1), generator=generator)
    classes = 2 * torch.randn(batch, QUERIES, CLASSES, generator=generator)
    masks = 3 * torch.randn(batch, QUERIES, slots, generator=generator)
    found = Segments(classes.requires_grad_(), torch.where(mask[:, None], masks, -1e9).requires_grad_())
    truth = torch.rand(batch, QUERIES, slots, generator=generator) < 0.4
    return (
        found,
        SegmentTargets(torch.randint(0, CLASSES, (batch, QUERIES), generator=generator), truth),
        mask,
    )


def slow_focal(logits: Tensor, truth: Tensor, mask: Tensor) -> float:
    total = 0.0
    for logit, is_in, is_real in zip(logits.tolist(), truth.tolist(), mask.tolist(), strict=True):
        if is_real:
            p = 1 / (1 + math.exp(-logit))
            total -= 0.25 * (1 - p) ** 2 * math.log(p) if is_in else 0.75 * p**2 * math.log(1 - p)
    return total


def slow_dice(logits: Tensor, truth: Tensor, mask: Tensor) -> float:
    overlap = claimed = there = 0.0
    for logit, is_in, is_real in zip(logits.tolist(), truth.tolist(), mask.tolist(), strict=True):
        if is_real:
            p = 1 / (1 + math.exp(-logit))
            overlap, claimed, there = overlap + p * is_in, claimed + p, there + is_in
    return 1 - (2 * overlap + 1) / (claimed + there + 1)


def slow_cost(found: Segments, targets: SegmentTargets, mask: Tensor, event: int) -> np.ndarray:
    cost = np.zeros((QUERIES, QUERIES))
    logits, classes = found.masks.detach().double(), found.classes.detach().double().softmax(dim=-1)
    for query, target in itertools.product(range(QUERIES), repeat=2):
        kind = int(targets.classes[event, target])
        cost[query, target] = -float(classes[event, query, kind])
        if kind:
            one = logits[event, query], targets.masks[event, target], mask[event]
            cost[query, target] += slow_focal(*one) + slow_dice(*one)
    return cost


@pytest.mark.parametrize("seed", range(3))
def test_matching_is_the_best_of_all_and_that_of_scipy(seed: int) -> None:
    found, targets, mask = problem(8, 6, seed)
    matched = match_segments(found, targets, mask)
    for event in range(8):
        cost = slow_cost(found, targets, mask, event)
        order = matched[event].tolist()
        assert sorted(order) == list(range(QUERIES))
        total = cost[range(QUERIES), order].sum()
        totals = [cost[range(QUERIES), each].sum() for each in itertools.permutations(range(QUERIES))]
        assert total == pytest.approx(min(totals), abs=1e-5)
        assert total == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-5)
        assert max(totals) > min(totals) + 0.1


@pytest.mark.parametrize("is_weighted", [False, True])
def test_loss_is_that_of_plain_loops(is_weighted: bool) -> None:
    found, targets, mask = problem(9, 6)
    generator = torch.Generator().manual_seed(4)
    class_weight = torch.tensor([0.1, 2.0, 1.0]) if is_weighted else None
    event_weight = torch.rand(9, generator=generator) if is_weighted else None
    focal = dice = entropy = norm = class_norm = 0.0
    for event in range(9):
        rows, columns = linear_sum_assignment(slow_cost(found, targets, mask, event))
        weight = 1.0 if event_weight is None else float(event_weight[event])
        for query, target in zip(rows, columns, strict=True):
            kind = int(targets.classes[event, target])
            log_p = found.classes.detach()[event, query].double().log_softmax(0)
            w = weight * (1.0 if class_weight is None else float(class_weight[kind]))
            entropy, class_norm = entropy - w * float(log_p[kind]), class_norm + w
            if kind:
                logits = found.masks.detach()[event, query].double()
                one = logits, targets.masks[event, target], mask[event]
                focal += weight * slow_focal(*one) / max(1, int(mask[event].sum()))
                dice += weight * slow_dice(*one)
                norm += weight
    losses = segmentation_loss([found], targets, mask, class_weight=class_weight, event_weight=event_weight)
    expected = (focal / norm, dice / norm, entropy / class_norm)
    assert [float(part.detach()) for part in losses.last] == pytest.approx(expected, rel=1e-5)
    assert [float(part.detach()) for part in losses.auxiliary] == [0, 0, 0]


def test_auxiliary_losses_are_the_mean_over_the_earlier_outputs() -> None:
    outputs, targets, mask = [], None, None
    for seed in range(3):
        found, targets, mask = problem(5, 6, 0)
        outputs.append(Segments(*(part + 0.3 * seed * torch.sin(part) for part in found)))
    assert targets is not None
    assert mask is not None
    alone = [segmentation_loss([each], targets, mask).last for each in outputs]
    together = segmentation_loss(outputs, targets, mask)
    torch.testing.assert_close(together.last, alone[-1])
    for i, part in enumerate(together.auxiliary):
        torch.testing.assert_close(part, (alone[0][i] + alone[1][i]) / 2)


def test_padding_never_enters_the_loss() -> None:
    found, targets, mask = problem(6, 6)
    expected = segmentation_loss([found], targets, mask)
    dirty = SegmentTargets(targets.classes, targets.masks | ~mask[:, None])
    longer = Segments(found.classes, torch.nn.functional.pad(found.masks, (0, 3), value=-1e9))
    more = SegmentTargets(targets.classes, torch.nn.functional.pad(dirty.masks, (0, 3), value=True))
    for one, two, real in (
        (found, dirty, mask),
        (longer, more, torch.nn.functional.pad(mask, (0, 3))),
    ):
        torch.testing.assert_close(segmentation_loss([one], two, real), expected)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_nothing_to_compare_gives_zero_with_a_graph(batch: int) -> None:
    """No segment in any event, and events without objects."""
    head = build().train()
    outputs = head(*events([0] * batch, 4))
    targets = SegmentTargets(
        torch.zeros(batch, QUERIES, dtype=torch.long), torch.zeros(batch, QUERIES, 4, dtype=torch.bool)
    )
    losses = segmentation_loss(outputs, targets, events([0] * batch, 4)[1])
    assert float(losses.last.focal.detach()) == float(losses.last.dice.detach()) == 0
    assert (float(losses.last.classes.detach()) > 0) == (batch > 0)
    sum(part for each in losses for part in each).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_gradients_are_finite_and_reach_everything() -> None:
    head = build().train()
    _, targets, mask = problem(6, 6)
    objects = torch.randn(6, 6, WIDTH) * mask[..., None]
    losses = segmentation_loss(head(objects, mask), targets, mask)
    sum(part for each in losses for part in each).backward()  # type: ignore[union-attr]
    assert all(
        p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any() for p in head.parameters()
    )


def test_what_does_not_fit_is_named() -> None:
    found, targets, mask = problem(2, 6)
    fewer = SegmentTargets(targets.classes[:, :3], targets.masks[:, :3])
    with pytest.raises(
        InputError, match=r"targets.classes must have shape \(2, 4\), one class per query; found \(2, 3\)"
    ):
        segmentation_loss([found], fewer, mask)
    broken = Segments(found.classes.detach().fill_(math.nan), found.masks)
    with pytest.raises(FloatingPointError, match="values that are not finite"):
        segmentation_loss([broken], targets, mask)


# --- the head --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_outputs() -> None:
    objects, mask = events([0, 2, 5], 5)
    outputs = build()(objects, mask)
    assert len(outputs) == 3  # before the first layer and after each of two
    for classes, masks in outputs:
        assert classes.shape == (3, QUERIES, CLASSES)
        assert masks.shape == (3, QUERIES, 5)
        assert classes.isfinite().all()
        assert (masks[~mask[:, None].expand_as(masks)] == -1e9).all()
        assert (masks[mask[:, None].expand_as(masks)].abs() < 1e3).all()
    assert not torch.allclose(outputs[0].classes, outputs[1].classes)
    # Before the first layer a query has seen nothing.
    assert (outputs[0].classes == outputs[0].classes[:1]).all()


def attended(head: SegmentationHead, objects: Tensor, mask: Tensor, claims: Tensor) -> Tensor:
    """Attention probabilities (B, Q, N + 1) of equal keys, for given mask logits: each key by how often it counts."""
    bias = head._attention(torch.where(mask[:, None], claims, -1e9), mask, objects.dtype)
    return bias[:, 0].softmax(dim=-1)


@pytest.mark.parametrize("attends_padding", [False, True])
@torch.no_grad()
def test_what_a_query_looks_at(attends_padding: bool) -> None:
    """What it claims; a query that claims nothing looks at all real objects or, as published, at all 18 slots."""
    head = build(attends_padding=attends_padding)
    objects, mask = events([3, 3, 0], 5)
    claims = torch.full((3, QUERIES, 5), -1.0)
    claims[0, 0, 1], claims[0, 1, [0, 2]] = 0.0, 2.0
    claims[:, :, 4] = 9.0  # padded: cannot be claimed
    shares = attended(head, objects, mask, claims)
    assert shares[0, 0].tolist() == pytest.approx([0, 1, 0, 0, 0, 0])
    assert shares[0, 1].tolist() == pytest.approx([0.5, 0, 0.5, 0, 0, 0])
    real = [1 / 18] * 3 if attends_padding else [1 / 3] * 3
    assert shares[0, 2].tolist() == pytest.approx([*real, 0, 0, 15 / 18 if attends_padding else 0], abs=1e-6)
    assert shares[2, 0].tolist() == pytest.approx([0, 0, 0, 0, 0, 1])  # an empty event


@pytest.mark.parametrize("attends_padding", [False, True])
@torch.no_grad()
def test_trimming_and_company_change_nothing(attends_padding: bool) -> None:
    head = build(attends_padding=attends_padding)
    counts = [0, 1, 2, 3, 4, 5]
    objects, mask = events(counts, 18)
    bias = head.to_mask[-1].bias
    assert isinstance(bias, Tensor)
    bias.copy_(-objects[1, 0] - objects[2, 1])  # so that some queries claim nothing
    outputs = head(objects, mask)
    is_empty = ((outputs[0].masks < 0) | ~mask[:, None]).all(dim=-1)
    assert is_empty[1:].any()
    assert not is_empty[1:].all()
    for event, count in enumerate(counts):
        for slots in {max(count, 1), count + 2, 18}:
            alone = head(objects[event : event + 1, :slots], mask[event : event + 1, :slots])
            for one, two in zip(alone, outputs, strict=True):
                torch.testing.assert_close(one.classes[0], two.classes[event], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(one.masks[0], two.masks[event, :, :slots], rtol=1e-4, atol=1e-5)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    for one, two in zip(head(objects[:, order], mask[:, order]), outputs, strict=True):
        torch.testing.assert_close(one.classes, two.classes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.masks, two.masks[..., order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_published_padding_is_as_many_empty_slots() -> None:
    """One slot behind the event with a weight stands for all padded slots: the same as attending each of them."""
    attention, capacity = QueryAttention(WIDTH, heads=2, dropout=0.0).eval(), 18
    query = torch.randn(2, QUERIES, WIDTH)
    objects, mask = events([3, 5], capacity)
    every = attention(query, objects, objects, query, torch.zeros(2, 1, QUERIES, capacity))
    few = torch.nn.functional.pad(objects[:, :5], (0, 0, 0, 1))
    behind = torch.log(capacity - mask.sum(dim=1).float())[:, None, None, None].expand(-1, 1, QUERIES, 1)
    bias = torch.zeros(2, 1, QUERIES, 5).masked_fill(~mask[:, None, None, :5], -math.inf)
    one = attention(query, few, few, query, torch.cat([bias, behind], dim=-1))
    torch.testing.assert_close(one, every, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": ()}, "segmentation.segments must be one or more names without repetition"),
        ({"segments": ("a", "a")}, "segmentation.segments must be one or more names"),
        ({"segments": ("a",), "queries": 0}, "segmentation.queries must be at least 1; found 0"),
        ({"segments": ("a",), "dropout": 1.0}, "segmentation.dropout must be at least 0 and below 1"),
    ],
)
def test_impossible_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationConfig(**change)  # type: ignore[arg-type]
