from __future__ import annotations

import math

import pytest
import torch

from evenet_hep.errors import ConfigError
from evenet_hep.model.heads.branch import Branch, EventNorm
from evenet_hep.model.heads.regression import RegressionConfig, RegressionHead, RegressionTarget
from evenet_hep.model.heads.weighted_mean import weighted_mean

TARGETS = (
    RegressionTarget("TT/pt", 100.0, 50.0),
    RegressionTarget("HH/mass", 500.0, 200.0),
    RegressionTarget("TT/eta", 0.0, 1.5),
)


def build(targets: tuple[RegressionTarget, ...] = TARGETS) -> RegressionHead:
    torch.manual_seed(0)
    return RegressionHead(8, RegressionConfig(targets, width=16)).eval()


@torch.no_grad()
def test_values_are_in_the_order_and_units_of_the_targets() -> None:
    head, event = (
        build((*TARGETS, RegressionTarget("WW/pt", 1.0, 2.0), RegressionTarget("TT/phi"))),
        torch.randn(5, 8),
    )
    assert list(head.branches) == ["TT", "HH", "WW"]
    (tt, hh, ww), values = (branch(event) for branch in head.branches.values()), head(event)
    expected = [100 + 50 * tt[:, 0], 500 + 200 * hh[:, 0], 1.5 * tt[:, 1], 1 + 2 * ww[:, 0], tt[:, 2]]
    torch.testing.assert_close(values, torch.stack(expected, dim=1))


@pytest.mark.parametrize("with_weight", [False, True])
def test_loss_is_that_of_a_plain_loop(with_weight: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    head = build()
    values = (100 * torch.randn(7, 3, generator=generator)).requires_grad_()
    targets = (100 * torch.randn(7, 3, generator=generator)).double()
    known = torch.rand(7, 3, generator=generator) < 0.6
    targets[~known] = math.nan
    weight = torch.rand(7, generator=generator) if with_weight else None
    total = norm = 0.0
    for event in range(7):
        for i, target in enumerate(TARGETS):
            if not known[event, i]:
                continue
            distance = abs(float(values.detach()[event, i]) - float(targets[event, i])) / target.std
            w = 1.0 if weight is None else float(weight[event])
            total += w * (0.5 * distance**2 if distance < 1 else distance - 0.5)
            norm += w
    loss = head.loss(values, targets, known, event_weight=weight)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(total / norm, rel=1e-5)
    loss.backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad[~known] == 0).all()


def test_nothing_known_gives_zero_with_a_graph() -> None:
    head = build()
    for number in (0, 3):
        values = head(torch.randn(number, 8))
        loss = head.loss(values, torch.full((number, 3), math.nan), torch.zeros(number, 3, dtype=torch.bool))
        assert float(loss.detach()) == 0
        loss.backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())


def test_weights_of_either_sign() -> None:
    """With a sum of weights below zero a plain ratio would drive positive events away from the truth."""
    loss = torch.tensor([3.0, 1.0, 5.0], requires_grad=True)
    weighted_mean(loss, torch.tensor([1.0, -2.0, 0.0])).backward()
    assert loss.grad is not None
    assert loss.grad.tolist() == [0.5, -1.0, 0.0]
    assert float(weighted_mean(loss.detach(), torch.tensor([1.0, -0.5, 0.0]))) == pytest.approx(5.0)
    assert float(weighted_mean(torch.ones(2, 3), torch.tensor([[2.0], [0.0]]))) == pytest.approx(1.0)


def test_one_event_is_measured_with_the_running_statistics() -> None:
    norm = EventNorm(4)
    with torch.no_grad():
        assert norm.running_mean is not None
        norm.running_mean.fill_(1.0)
    event = torch.randn(1, 4)
    torch.testing.assert_close(norm.train()(event), (event - 1) / math.sqrt(1 + norm.eps))
    assert (norm.running_mean == 1).all()
    norm(torch.randn(2, 4))
    assert (norm.running_mean != 1).all()
    head = build().train()
    head.loss(head(torch.randn(1, 8)), torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_no_events_leave_the_running_statistics_alone() -> None:
    branch = Branch(8, 3, width=8, blocks=0, dropout=0.0).train()
    before = {name: buffer.clone() for name, buffer in branch.named_buffers()}
    assert branch(torch.zeros(0, 8)).shape == (0, 3)
    for name, buffer in branch.named_buffers():
        assert buffer.isfinite().all()
        assert name.endswith("num_batches_tracked") or torch.equal(buffer, before[name])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((), r"regression.targets must be at least one target; found \[\]"),
        ((TARGETS[0], TARGETS[0]), "regression.targets must be names without repetition"),
        ((RegressionTarget("/pt"),), "names that begin without a slash and a dot"),
        ((RegressionTarget("t.t/pt"),), "names that begin without a slash and a dot"),
    ],
)
def test_impossible_configurations(targets: tuple[RegressionTarget, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegressionConfig(targets)


def test_widths_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="regression target 'TT/pt': std must be positive; found 0"):
        RegressionTarget("TT/pt", 0.0, 0.0)
