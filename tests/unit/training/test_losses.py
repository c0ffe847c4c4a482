"""Losses of all heads on made-up events: each falls alone, all fall together, labels become the right targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evenet_hep import EventSchema
from evenet_hep.errors import ConfigError
from evenet_hep.events.segments import segment_targets
from evenet_hep.model.heads.assignment_loss import AssignmentTargets
from evenet_hep.model.heads.regression import RegressionTarget
from evenet_hep.topology import Process, Resonance, Topology
from evenet_hep.training.augment import augment
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import LOSSES, LossWeights, Stage
from evenet_hep.training.curriculum import plan_at
from evenet_hep.training.losses import Losses
from evenet_hep.training.module import TrainingModule, freeze_idle
from evenet_hep.training.run import fit
from evenet_hep.training.targets import RegressionTable, SegmentTable, TargetMap

Make = Callable[..., Any]
CLEAN = (
    "classification",
    "regression",
    "assignment",
    "detection",
    "segmentation_focal",
    "segmentation_dice",
    "segmentation_classes",
)
NOISED = ("noised_classification", "object_generation", "invisible_generation", "global_generation")


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_falls_alone(name: str, make_events: Make, make_network: Make, make_settings: Make) -> None:
    history = fit(make_network(), make_events(64), None, make_settings(LossWeights.only(name), 12))
    losses = history.course(f"train_{name}")
    assert np.mean(losses[-3:]) < 0.93 * losses[0]
    assert set(history.epochs[0]) & {f"train_{other}" for other in LOSSES} == {f"train_{name}"}


def test_64_events_are_learnt_by_heart_by_all_clean_heads(
    make_events: Make, make_network: Make, make_settings: Make
) -> None:
    heads = dict.fromkeys(("object_generation", "invisible_generation", "global_generation"))
    history = fit(
        make_network(**heads), make_events(64), None, make_settings(LossWeights(), 90, schedule="cosine")
    )
    for name in CLEAN:
        assert history.epochs[-1][f"train_{name}"] < 0.1, name


@pytest.mark.slow
def test_64_events_are_learnt_by_heart_by_every_head(
    make_events: Make, make_network: Make, make_settings: Make
) -> None:
    history = fit(make_network(), make_events(64), None, make_settings(LossWeights(), 250, schedule="cosine"))
    first, last = history.epochs[0], history.epochs[-1]
    for name in CLEAN:
        assert last[f"train_{name}"] < 0.05, name
    # Noise and time are new in every step: these can only fall.
    for name in NOISED:
        assert last[f"train_{name}"] < 0.8 * first[f"train_{name}"], name


def batch_of(events: Any, n: int = 32) -> TensorBatch:
    return TensorBatch.of(next(events.batches(n, shuffle=False)))


def test_a_step_with_every_head_gives_every_weight_a_gradient(make_events: Make, make_network: Make) -> None:
    model, events = make_network(), make_events(32)
    found = Losses(model, events.topology)(model.train(), batch_of(events), plan_at([Stage()], 0.5))
    assert tuple(found.losses) == LOSSES
    torch.stack(list(found.losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_frozen_as_idle_is_what_gets_no_gradient(
    name: str, make_events: Make, make_network: Make, make_settings: Make
) -> None:
    model, events = make_network(), make_events(32)
    config = make_settings(LossWeights.only(name), 1)
    found = Losses(model, events.topology)(model.train(), batch_of(events), plan_at(config.stages, 0.0))
    found.losses[name].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    # Detection and assignment share a head; a head is trained as a whole.
    idle = set(freeze_idle(model, config))
    assert idle <= without
    assert all(n.split(".")[0] in ("assignment", "segmentation") for n in without - idle), without - idle


class Step(torch.nn.Module):
    """A training step as DDP sees it."""

    def __init__(self, module: TrainingModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: TensorBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def test_processes_absent_from_a_batch_leave_no_weight_without_gradient(
    make_events: Make, make_network: Make, make_settings: Make, tmp_path: Path
) -> None:
    """DDP waits for every weight in every step; it stops a run in which one had no gradient in the step before."""
    events = make_events(32)
    batch = batch_of(events)
    without = TensorBatch(*(each[batch.label == 1] for each in batch))
    weights = LossWeights.only("classification", "assignment", "detection", "segmentation_focal")
    module = TrainingModule(make_network(), make_settings(weights, 1), topology=events.topology)
    module.training_step(without, 0).backward()
    missing = [n for n, p in module.model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        step = torch.nn.parallel.DistributedDataParallel(Step(module))
        for each in (without, batch, without):
            step(each).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_time_is_frozen_without_noise(make_network: Make, make_settings: Make) -> None:
    model = make_network()
    idle = freeze_idle(model, make_settings(LossWeights.only("classification"), 1))
    assert {"pet.time_embedding.expand.weight", "pet.film.weight"} <= set(idle)


def test_a_run_without_any_loss_is_refused(make_network: Make, make_settings: Make) -> None:
    model = make_network(regression=None)
    with pytest.raises(ConfigError, match="no loss is left"):
        freeze_idle(model, make_settings(LossWeights.only("regression"), 1))


def test_losses_do_not_depend_on_padding(make_events: Make, make_network: Make) -> None:
    model, events = make_network().eval(), make_events(16)
    batch = batch_of(events)
    wide = batch._replace(
        objects=torch.nn.functional.pad(batch.objects, (0, 0, 0, 4), value=7.0),
        mask=torch.nn.functional.pad(batch.mask, (0, 4)),
    )
    losses = Losses(model, events.topology)
    plan = plan_at([Stage(losses=LossWeights.only(*CLEAN))], 0.0)
    one, other = losses(model, batch, plan).losses, losses(model, wide, plan).losses
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_labels_are_matched_by_name() -> None:
    quarks = Resonance("W/qq", ("q1", "q2"), (("q1", "q2"),))
    top, back = Resonance("t/bqq", ("b", "q1", "q2")), Resonance("t/bqq", ("q2", "b", "q1"))
    data = Topology(
        (top, quarks), (Process("A", (("t", "t/bqq"), ("W", "W/qq"))), Process("B", (("W", "W/qq"),)))
    )
    head = Topology(
        (quarks, back), (Process("B", (("W", "W/qq"),)), Process("A", (("W", "W/qq"), ("t", "t/bqq"))))
    )
    indices = torch.tensor([[[0, 1, 2], [3, 4, -1]], [[5, 6, -1], [-1, -1, -1]], [[-1] * 3] * 2])
    found = TargetMap(data, head)(torch.tensor([0, 1, -1]), indices)
    assert found.process.tolist() == [1, 0, -1]
    assert found.indices.tolist() == [
        [[3, 4, -1], [2, 0, 1]],
        [[5, 6, -1], [-1, -1, -1]],
        [[-1, -1, -1], [-1, -1, -1]],
    ]


def test_a_head_with_other_daughters_is_refused() -> None:
    one = Topology((Resonance("t", ("b", "l")),), (Process("A", (("t", "t"),)),))
    other = Topology((Resonance("t", ("b", "q")),), (Process("A", (("t", "t"),)),))
    with pytest.raises(ConfigError, match="the data have the daughters b, l, the head b, q"):
        TargetMap(one, other)


@pytest.mark.parametrize("complete_only", [False, True])
def test_segments_are_those_of_the_data_room(
    complete_only: bool, make_events: Make, topology: Topology
) -> None:
    content = make_events(40).content
    indices = content.indices.copy()
    indices[::3, 0, 1] = -1  # one daughter is missing
    indices[::5, 1] = -1
    table = SegmentTable(topology, topology.segments, 4, complete_only=complete_only)
    targets = AssignmentTargets(torch.from_numpy(content.process), torch.from_numpy(indices))
    found = table(targets, torch.from_numpy(content.mask))
    expected = segment_targets(
        content.process,
        indices,
        topology,
        n_slots=content.mask.shape[1],
        n_segments=4,
        complete_only=complete_only,
    )
    np.testing.assert_array_equal(found.classes.numpy(), expected.classes)
    np.testing.assert_array_equal(found.masks.numpy(), expected.masks)


def test_too_many_segments_are_refused(topology: Topology) -> None:
    with pytest.raises(ConfigError, match="'TT1L' has 2 segments; the segmentation has 1 queries"):
        SegmentTable(topology, topology.segments, 1)


def test_regression_targets_are_sums_of_objects(
    make_events: Make, make_network: Make, topology: Topology
) -> None:
    import vector  # noqa: PLC0415  the reference

    names = [f"TT1L/t1/{quantity}" for quantity in ("pt", "mass", "eta", "energy", "pz")]
    events = make_events(20)
    batch = batch_of(events, 20)
    table = RegressionTable(topology, tuple(RegressionTarget(name) for name in names), make_network())
    found = table(batch.objects, batch.process, batch.indices)
    np.testing.assert_array_equal(found.known[:, 0].numpy(), events.content.process[:20] == 0)
    energy, pt, eta, phi = (batch.objects[..., i].double().numpy() for i in range(4))
    for i in np.flatnonzero(found.known[:, 0].numpy()):
        rows = batch.indices[i, 0].numpy()
        total = sum(
            (vector.obj(pt=pt[i, j], eta=eta[i, j], phi=phi[i, j], e=energy[i, j]) for j in rows),
            start=vector.obj(px=0, py=0, pz=0, e=0),
        )
        values = [total.pt, total.mass, total.eta, total.e, total.pz]
        np.testing.assert_allclose(found.values[i].numpy(), values, rtol=2e-3, atol=0.05)


def test_events_are_turned_and_mirrored_as_a_whole(make_events: Make) -> None:
    events = make_events(64)
    batch = batch_of(events, 64)
    torch.manual_seed(1)
    moved = augment(batch, events.schema, rotate=True, mirror=True)
    names: EventSchema = events.schema
    phi, eta = names.object_names.index("phi"), names.object_names.index("eta")
    met_phi = names.event_names.index("met_phi")

    def difference(x: torch.Tensor) -> torch.Tensor:
        return torch.remainder(x + torch.pi, 2 * torch.pi) - torch.pi

    turned = difference(moved.objects[..., phi] - batch.objects[..., phi])
    assert turned[:, 0].std() > 1
    torch.testing.assert_close(
        difference(turned - turned[:, :1]), torch.zeros_like(turned), rtol=0, atol=1e-5
    )
    by_met = difference(moved.event_features[:, met_phi] - batch.event_features[:, met_phi])
    torch.testing.assert_close(difference(by_met - turned[:, 0]), torch.zeros(64), rtol=0, atol=1e-5)
    sign = moved.objects[:, 0, eta] / batch.objects[:, 0, eta]
    assert set(sign.tolist()) == {1.0, -1.0}
    torch.testing.assert_close(moved.objects[..., eta], batch.objects[..., eta] * sign[:, None])
    there = batch.invisible_mask[:, 0]
    torch.testing.assert_close(moved.invisible[there, 0, 1], batch.invisible[there, 0, 1] * sign[there])
    assert augment(batch, names, rotate=False, mirror=False) is batch


def test_feature_drop_is_per_feature_and_for_the_run_alone(
    make_events: Make, make_network: Make, make_settings: Make
) -> None:
    model = make_network()
    config = make_settings(LossWeights.only("classification"), 1, feature_drop=0.5)
    module = TrainingModule(model, config, topology=make_events(4).topology)
    columns = module.model.train().pet._drop_features(torch.ones(4000, 3, model.object_transform.width))
    kept = columns[:, 0]
    assert (columns == kept[:, None]).all()  # of an event as a whole
    assert abs(float(kept.mean()) - 0.5) < 0.03
    assert 0.1 < float((kept[:, 0] * kept[:, 1]).mean()) < 0.4  # not all features at once
    fit(make_network(), make_events(8), None, config)
    fresh = make_network()
    before = fresh.pet.config.feature_drop
    fit(fresh, make_events(8), None, config)
    assert fresh.pet.config.feature_drop == before
    assert all(p.requires_grad for p in fresh.parameters())
