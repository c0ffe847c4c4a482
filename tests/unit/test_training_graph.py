"""Training loop of the graph network."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from evenet_hep import EventSchema
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.model.graph import GraphConfig, GraphNetwork
from evenet_hep.training.graph import (
    Epoch,
    GraphSample,
    GraphTrainingConfig,
    class_accuracy,
    ensemble_probabilities,
    output_groups,
    outputs_of,
    replace_output,
    stages_of,
    train_ensemble,
    train_graph,
)

SMALL = GraphConfig(width=16, hidden=24, depth=2)
SCHEMA = EventSchema.standard(classes=("near", "far"))


def back_to_back(n: int, seed: int) -> GraphSample:
    """Two or three objects; the classes differ in the angle between the first two alone."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (n,), generator=generator)
    phi = torch.rand(n, generator=generator) * 6.28
    objects = torch.rand(n, 3, 7, generator=generator) * 50
    objects[..., 2] = 0.1
    objects[:, 0, 3], objects[:, 1, 3] = phi, phi + torch.where(target == 1, 2.8, 0.4)
    mask = torch.arange(3) < torch.randint(2, 4, (n,), generator=generator)[:, None]
    return GraphSample(objects * mask[..., None], mask, torch.rand(n, 10, generator=generator), target)


def make(seed: int = 0, config: GraphConfig = SMALL) -> GraphNetwork:
    torch.manual_seed(seed)
    return GraphNetwork(config, SCHEMA)


def test_learns_an_angle_between_objects() -> None:
    training, validation = back_to_back(512, 1), back_to_back(256, 2)
    seen: list[tuple[int, Epoch]] = []
    result = train_graph(
        make(),
        training,
        validation,
        GraphTrainingConfig(epochs=12, batch_size=64, rate=1e-2),
        progress=lambda *each: seen.append(each),
    )
    assert result.history[result.best].accuracy > 0.9
    assert [epoch for epoch, _ in seen] == list(range(12))
    assert class_accuracy(outputs_of(result.model, validation), validation.target) == pytest.approx(
        result.history[result.best].accuracy
    )
    assert not result.model.training


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    training, validation = back_to_back(96, 1), back_to_back(32, 2)
    config = GraphTrainingConfig(epochs=2, batch_size=32)
    a, b = (train_graph(make(), training, validation, config) for _ in range(2))
    c = train_graph(make(), training, validation, dataclasses.replace(config, seed=1))
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name])
    assert any(not torch.equal(v, c.model.state_dict()[k]) for k, v in a.model.state_dict().items())


@pytest.mark.parametrize("events", [32, 64])
def test_shorter_epochs_are_the_same_steps_validated_more_often(events: int) -> None:
    training, validation = back_to_back(96, 1), back_to_back(32, 2)
    passes = GraphTrainingConfig(epochs=2, batch_size=32)
    short = dataclasses.replace(passes, epochs=192 // events, events_per_epoch=events)
    a, b = (train_graph(make(), training, validation, config).history for config in (passes, short))
    assert len(b) == 192 // events
    assert b[-1].validation_loss == a[-1].validation_loss
    assert b[-1].validation_loss != b[0].validation_loss


def test_an_epoch_of_more_events_than_there_are_is_a_pass() -> None:
    training, validation = back_to_back(96, 1), back_to_back(32, 2)
    passes = GraphTrainingConfig(epochs=1, batch_size=32)
    more = dataclasses.replace(passes, events_per_epoch=1000)
    a, b = (train_graph(make(), training, validation, config).history for config in (passes, more))
    assert b[0][:3] == a[0][:3]
    with pytest.raises(ConfigError, match="events_per_epoch must be at least 1, or None; found 0"):
        GraphTrainingConfig(events_per_epoch=0)


def test_overfits_64_events_with_labels() -> None:
    sample = back_to_back(64, 5)
    config = dataclasses.replace(SMALL, labels=("number", "is_far", "is_near"), counts=1)
    far = sample.target.float()
    sample = sample._replace(target=torch.stack([sample.mask.sum(dim=1).float(), far, 1 - far], dim=1))
    torch.manual_seed(0)
    result = train_graph(
        GraphNetwork(config, SCHEMA),
        sample,
        sample,
        GraphTrainingConfig(epochs=120, batch_size=32, rate=1e-2),
    )
    assert result.history[result.best].validation_loss < 0.02
    assert result.history[result.best].accuracy == 1.0


def test_a_new_output_layer_keeps_the_body_and_learns_ten_times_faster() -> None:
    old = make()
    new = replace_output(old, classes=("x", "y", "z"))
    assert new.schema.classes == ("x", "y", "z")
    assert old.schema.classes == ("near", "far")
    for name, value in new.state_dict().items():
        if name.startswith("output."):
            assert value.shape != old.state_dict()[name].shape or name == "output.bias"
        else:
            assert torch.equal(value, old.state_dict()[name])
            assert value.data_ptr() != old.state_dict()[name].data_ptr()
    same_number = replace_output(old, classes=("p", "q"))
    assert not torch.equal(same_number.output.weight, old.output.weight)
    groups = output_groups(new, 1e-3)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(new.parameters()))
    for name, parameter in new.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-3 if name.startswith("output.") else 1e-4)
    assert {group["weight_decay"] for group in groups if group["params"][0].ndim == 1} == {0.0}
    with pytest.raises(ConfigError, match="must be positive"):
        output_groups(new, 1e-3, ratio=0)


def test_ensembles_average_probabilities() -> None:
    training, validation = back_to_back(64, 1), back_to_back(40, 2)
    before = torch.random.get_rng_state()
    members = train_ensemble(
        lambda _: GraphNetwork(SMALL, SCHEMA),
        training,
        validation,
        GraphTrainingConfig(epochs=1),
        members=3,
    )
    assert torch.equal(before, torch.random.get_rng_state())
    models = [member.model for member in members]
    each = [outputs_of(model, validation).softmax(dim=1) for model in models]
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(ensemble_probabilities(models, validation), sum(each) / 3)
    stages = stages_of(models[0], validation, batch_size=7)
    assert list(stages) == ["encoder", "step 1", "step 2", "step 3", "step 4", "decoder"]
    assert stages["step 2"].shape == (40, 32)


def test_bad_samples_are_named() -> None:
    sample = back_to_back(8, 1)
    with pytest.raises(InputError, match="training targets must be int64 classes from -1 to 1"):
        train_graph(make(), sample._replace(target=sample.target + 1), sample)
    with pytest.raises(InputError, match="the validation sample has no events"):
        train_graph(make(), sample, sample.take(torch.arange(0)))
    objects = sample.objects.clone()
    objects[0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="the loss is nan in epoch 0"):
        train_graph(make(), sample._replace(objects=objects), sample)
    config = dataclasses.replace(SMALL, labels=("a", "b"))
    with pytest.raises(InputError, match=r"training targets must have shape \(8, 2\)"):
        train_graph(make(config=config), sample, sample)
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        GraphTrainingConfig(epochs=0)


def test_bfloat16_follows_single_precision() -> None:
    """The first epoch has nearly the same loss; validation is in single precision, and so are the weights."""
    training, validation = back_to_back(160, 1), back_to_back(60, 2)
    runs = []
    for precision in ("single", "bf16"):
        config = GraphTrainingConfig(1, 20, precision=precision)
        runs.append(train_graph(make(2), training, validation, config))
    exact, rounded = (run.history[0] for run in runs)
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert rounded.loss != exact.loss
    assert {p.dtype for p in runs[1].model.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="precision must be 'single' or 'bf16'; found 'fp16'"):
        GraphTrainingConfig(precision="fp16")  # type: ignore[arg-type]
