from __future__ import annotations

import math

import pytest
import torch

from evenet_hep.model.heads.classification import (
    ClassificationConfig,
    ClassificationHead,
    classification_loss,
)

CONFIG = ClassificationConfig(heads=2)


def test_loss_is_the_weighted_mean_of_minus_log_p() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0]])
    labels = [0, 2, 1]
    class_weight, event_weight = [2.0, 0.5, 1.0], [1.0, 3.0, 0.25]
    total = weights = 0.0
    for row, label, w in zip(logits.tolist(), labels, event_weight, strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        total += class_weight[label] * w * -math.log(p)
        weights += class_weight[label] * w
    loss = classification_loss(
        logits,
        torch.tensor(labels),
        class_weight=torch.tensor(class_weight),
        event_weight=torch.tensor(event_weight),
    )
    assert loss.item() == pytest.approx(total / weights, rel=1e-6)


def test_loss_without_weights_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 4), torch.randint(-1, 4, (50,))
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    # Neither size of the weights nor events without a label matter.
    weighted = classification_loss(
        logits, labels, class_weight=torch.full((4,), 3.0), event_weight=torch.where(labels < 0, 1e9, 7.0)
    )
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("number", [1, 5])
def test_batch_without_a_label_gives_zero_with_a_graph(number: int) -> None:
    logits = torch.randn(number, 3, requires_grad=True)
    loss = classification_loss(logits, torch.full((number,), -1), event_weight=torch.ones(number))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_negative_total_weight_keeps_the_sign_of_each_event() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 0.5])
    classification_loss(logits, torch.tensor([0, 0, -1]), event_weight=weight).backward()
    assert logits.grad is not None
    # d/dx_0 of -log p_0 is -1/2; divided by the two events that have a label
    torch.testing.assert_close(logits.grad[:, 0], torch.tensor([-0.25, 0.5, 0.0]))


def test_loss_of_half_precision_logits_is_taken_in_single() -> None:
    logits = torch.tensor([[20.0, -20.0]], dtype=torch.bfloat16)
    loss = classification_loss(logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(40.0)


def test_head_ignores_padding_and_survives_empty_events() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(3, width=8, config=CONFIG).eval()
    objects, event = torch.randn(3, 5, 8), torch.randn(3, 8)
    mask = torch.arange(5) < torch.tensor([[0], [2], [5]])
    objects = torch.where(mask[..., None], objects, 0.0)
    logits = head(objects, mask, event)
    assert logits.isfinite().all()
    other = torch.where(mask[..., None], objects, 5.0)
    assert torch.equal(head(other, mask, event)[1:], logits[1:])
    torch.testing.assert_close(head(objects[1:2, :2], mask[1:2, :2], event[1:2]), logits[1:2])
    longer = torch.nn.functional.pad(objects, (0, 0, 0, 4))
    torch.testing.assert_close(head(longer, torch.nn.functional.pad(mask, (0, 4)), event), logits)


def test_one_event_can_be_trained_on() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(2, width=8, config=CONFIG).train()
    before = head.output_norm.running_mean.clone()  # type: ignore[union-attr]
    logits = head(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool), torch.randn(1, 8))
    classification_loss(logits, torch.tensor([1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert torch.equal(head.output_norm.running_mean, before)  # type: ignore[arg-type]
    head(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 8))
    assert not torch.equal(head.output_norm.running_mean, before)  # type: ignore[arg-type]
