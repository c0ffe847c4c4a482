"""Configurations, curriculum, optimisers and presets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from evenet_hep import EveNet, EveNetConfig, EventSchema
from evenet_hep.errors import ConfigError
from evenet_hep.topology import Topology
from evenet_hep.training.config import (
    LOSSES,
    FinetuneConfig,
    LossWeights,
    PretrainConfig,
    Stage,
    TrainingConfig,
)
from evenet_hep.training.curriculum import plan_at, ramp
from evenet_hep.training.optim import Lion, make_optimizer, make_schedule, rate_factor
from evenet_hep.training.presets import PRESETS, preset, with_heads
from evenet_hep.training.settings import load_yaml, override

SCHEMA = EventSchema.standard(classes=("a", "b"))


@pytest.mark.parametrize("kind", [TrainingConfig, FinetuneConfig, PretrainConfig])
def test_yaml_and_back(kind: type[TrainingConfig]) -> None:
    stages = (Stage(0.25, 0.5, (0.1, 1.0), (0.0, 1.0), LossWeights(assignment=(0.0, 2.0))), Stage(0.75))
    config = kind(stages=stages, trainable=("heads",), lr_backbone=1e-5)
    assert kind.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 5", "unknown key 'epoch'"),
        ("epochs: 0", "epochs must be at least 1; found 0"),
        ("epochs: five", "config.epochs must be of type int"),
        ("lr: -1", "lr must be at least 0"),
        ("optimizer: sgd", "optimizer must be 'adamw' or 'lion'"),
        ("betas: [0.9]", "betas must be empty or two"),
        ("stages: [{share: 0.5}]", "stages must be such that their shares sum to 1; found 0.5"),
        ("stages: [{noise_probability: [0.1, 1.5]}]", r"stage.noise_probability must be in \[0, 1\]"),
        ("stages: [{losses: {assignment: [1, 2, 3]}}]", "losses.assignment must be one number or a pair"),
        ("stages: [{losses: {pairing: [1]}}]", "unknown key 'pairing'"),
        ("trainable: [body]", "trainable must be some of heads"),
        ("monitor: loss", "monitor must be one of"),
        ("{epochs: 2, warmup: 3}", "warmup must be at most the 2 epochs"),
        ("ema: 1.0", "ema must be at least 0 and below 1"),
        ("- 1", "the configuration must be a mapping"),
        ("a: [", "the configuration is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.from_yaml(text)


def test_settings_replace_values() -> None:
    config = TrainingConfig().with_settings(
        ["epochs=7", "lr=1e-5", "stages.0.noise_probability=[0.1, 1]", "stages.0.losses.regression=[0]"]
    )
    assert (config.epochs, config.lr) == (7, 1e-5)
    assert config.stages[0].noise_probability == (0.1, 1.0)
    assert config.stages[0].losses.regression == (0.0, 0.0)
    content = {"training": {"epochs": 1}}
    assert override(content, ["training.seed=2", "out=here"]) == {
        "training": {"epochs": 1, "seed": 2},
        "out": "here",
    }
    assert content == {"training": {"epochs": 1}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "must read key=value"),
        ("stages.1.share=1", "a list of 1 is counted from 0; found '1'"),
        ("epochs.a=1", "epochs is 10 and has nothing below it"),
        ("nothing=1", "unknown key 'nothing'"),
    ],
)
def test_wrong_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig().with_settings([setting])


def test_ramps_are_half_a_cosine() -> None:
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        assert ramp((2.0, 4.0), t) == pytest.approx(2 + 2 * 0.5 * (1 - math.cos(math.pi * t)))
    assert ramp((2.0, 4.0), -1.0) == 2.0
    assert ramp((2.0, 4.0), 7.0) == 4.0


def test_stages_follow_each_other() -> None:
    stages = [
        Stage(1 / 3, 0.5, noise_probability=(0.1, 1.0), hide=(0.0, 1.0)),
        Stage(2 / 3, 0.0, losses=LossWeights(assignment=(0.0, 3.0))),
    ]
    assert [plan_at(stages, x).stage for x in (0.0, 0.33, 1 / 3, 0.34, 1.0)] == [0, 0, 1, 1, 1]
    assert plan_at(stages, 1 / 6).noise_probability == pytest.approx(1.0)
    assert [plan_at(stages, x).hide for x in (0.0, 0.082, 0.085, 0.3)] == [False, False, True, True]
    assert plan_at(stages, 0.5).weights["assignment"] == 3.0  # no transition: the end at once


def test_lion_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.8), weight_decay=0.5)
    average, expected = [0.0, 0.0, 0.0], [1.0, -2.0, 0.5]
    for gradient in ([1.0, -3.0, 0.0], [-0.5, -1.0, 2.0], [0.2, 5.0, -0.1]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        for i, g in enumerate(gradient):
            update = 0.9 * average[i] + 0.1 * g
            sign = (update > 0) - (update < 0)
            expected[i] -= 0.1 * (sign + 0.5 * expected[i])
            average[i] = 0.8 * average[i] + 0.2 * g
        torch.testing.assert_close(weight.data, torch.tensor(expected))


def test_lion_leaves_parameters_without_a_gradient_alone() -> None:
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([one, other], lr=0.1, weight_decay=0.5)
    one.grad = torch.ones(2)
    optimizer.step()
    assert other.tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="betas must be two numbers"):
        Lion([one], betas=(1.0, 0.5))


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_rates_and_decays_are_scaled_with_the_workers(name: str) -> None:
    model = EveNet(EveNetConfig.tiny(), SCHEMA)
    base = TrainingConfig(lr=1e-3, lr_backbone=1e-4, weight_decay=0.4, weight_decay_backbone=0.1)
    config = base.with_settings([f"optimizer={name}"])
    groups = {
        (g["name"], g["weight_decay"] > 0): g for g in make_optimizer(model, config, workers=4).param_groups
    }
    assert groups["heads", True]["lr"] == pytest.approx(2e-3)
    assert groups["pet", True]["lr"] == pytest.approx(2e-4)
    assert groups["heads", True]["weight_decay"] == pytest.approx(0.2)
    assert groups["pet", True]["weight_decay"] == pytest.approx(0.05)
    assert sum(p.numel() for g in groups.values() for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )
    plain = make_optimizer(
        model, config.with_settings(["scale_with_workers=false", f"betas={[0.5, 0.6]}"]), workers=4
    )
    assert plain.param_groups[0]["betas"] == (0.5, 0.6)
    assert max(g["lr"] for g in plain.param_groups) == pytest.approx(1e-3)


def test_the_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, warmup=4, total=20, final=0.1) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[12] == pytest.approx(0.55)
    assert factors[20] == pytest.approx(0.1)
    assert rate_factor(100, warmup=4, total=20, is_constant=True) == 1.0
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    schedule = make_schedule(optimizer, TrainingConfig(epochs=2, warmup=0.5), steps_per_epoch=4)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[-1] < 0.2


def test_presets_have_the_published_numbers() -> None:
    table = {
        "task1": ("adamw", 3e-4, 0.9e-4, 4096, 25, 5),
        "task1_masses": ("adamw", 1e-5, 0.3e-5, 4096, 30, 5),
        "task2": ("adamw", 4e-4, 4e-5, 2048, 50, 20),
        "task3": ("adamw", 5e-5, 5e-5, 1024, 300, 50),
        "task4": ("adamw", 5e-4, 5e-5, 4096, 1000, 0),
    }
    for name, (optimizer, head, body, batch, epochs, patience) in table.items():
        config = preset(name)
        assert (config.optimizer, config.batch_size, config.epochs) == (optimizer, batch, epochs), name
        assert (config.patience, config.feature_drop) == (patience, 0.0)
        assert config.rates["heads"] == pytest.approx(head)
        assert config.rates["pet"] == pytest.approx(body)
    assert preset("task2").rates["object_encoder"] == pytest.approx(1.2e-4)
    assert preset("task2").stages[0].losses.noised_classification == (0.0, 0.0)
    for name, rate in (("stage1", 1.8e-5), ("stage2", 1.2e-5)):
        config = preset(name)
        assert (config.optimizer, config.lr, config.weight_decay, config.ema) == ("lion", rate, 1e-3, 0.999)
        assert config.stages[0].noise_probability == (0.1, 1.0)
    first = preset("stage1")
    assert first.class_condition == 0.0  # self-supervised: no labels
    active = {name for name in LOSSES if max(getattr(first.stages[0].losses, name)) > 0}
    assert active == {"object_generation", "global_generation"}
    with pytest.raises(ConfigError, match="there is no preset 'stage3'"):
        preset("stage3")
    for config in PRESETS.values():
        assert type(config).from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("size", "least", "most"), [("tiny", 0.2, 0.3), ("small", 1.8, 2.5), ("20M", 19, 21), ("100M", 85, 110)]
)
def test_sizes(size: str, least: float, most: float) -> None:
    with torch.device("meta"):
        model = EveNet(EveNetConfig.of_size(size), SCHEMA)
    assert least < sum(p.numel() for p in model.parameters()) / 1e6 < most
    assert model.config.pet.feature_drop_mode == "feature"
    with pytest.raises(ConfigError, match="size must be 'tiny'"):
        EveNetConfig.of_size("huge")


def test_heads_of_any_size() -> None:
    every = (
        "classification",
        "assignment",
        "segmentation",
        "object_generation",
        "invisible_generation",
        "global_generation",
    )
    for size in ("tiny", "small"):
        config = with_heads(EveNetConfig.of_size(size), every, topology=Topology.shipped("bbww"))
        EveNet(config, SCHEMA)
        assert config.segmentation is not None
        assert config.segmentation.queries == 3
    with pytest.raises(ConfigError, match="the assignment head needs an event grammar"):
        with_heads(EveNetConfig.tiny(), ("assignment",))
    with pytest.raises(ConfigError, match="found 'classify'"):
        with_heads(EveNetConfig.tiny(), ("classify",))
    with pytest.raises(ConfigError, match="regression head needs targets"):
        with_heads(EveNetConfig.tiny(), ("regression",))


def test_yaml_holds_mappings_only() -> None:
    assert load_yaml("a: 1") == {"a": 1}
