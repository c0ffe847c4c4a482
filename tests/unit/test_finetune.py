"""Networks that are extended, frozen in part, and given learning rates by part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evenet_hep.errors import ConfigError, SchemaError
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.topology import Topology
from evenet_hep.schema import EventSchema, Feature
from evenet_hep.training.finetune import extend, freeze_all_but, parameter_groups, part_of

SCHEMA = EventSchema.standard(classes=("a", "b", "c"))
MASSES = [Feature("mass_x", "GeV", "log", 6.0, 1.0), Feature("mass_y", "GeV", "log", 5.0, 1.0)]
RATES = {"heads": 1e-3, "object_encoder": 3e-4, "pet": 1e-4, "event_embedding": 2e-4}


@pytest.fixture
def trained() -> EveNet:
    torch.manual_seed(3)
    model = EveNet(EveNetConfig.tiny(), SCHEMA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def events(width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]
    objects = torch.rand(4, 6, 7, generator=generator) * mask[..., None]
    return objects, mask, torch.rand(4, width, generator=generator)


def test_an_extended_body_gives_what_it_gave(trained: EveNet) -> None:
    model, fresh = extend(trained, adapter=4, added=MASSES)
    assert model.schema.event_names[-2:] == ("mass_x", "mass_y")
    assert {name.split(".")[0] for name in fresh} == {"pet", "added_embedding"}
    objects, mask, event_features = events()
    more = torch.cat([event_features, torch.rand(4, 2)], dim=1)
    with torch.no_grad():
        before = trained(objects, mask, event_features)["classification"]
        assert torch.equal(model.eval()(objects, mask, more)["classification"], before)


def test_added_features_and_adapters_learn(trained: EveNet) -> None:
    model, _ = extend(trained, adapter=4, added=MASSES)
    objects, mask, event_features = events(12)
    logits = model(objects, mask, event_features)["classification"]
    logits[:, 0].sum().backward()
    assert model.added_embedding is not None
    assert model.added_embedding.weight.grad is not None
    assert bool((model.added_embedding.weight.grad.abs().sum(dim=0) > 0).all())
    grad = model.pet.get_submodule("blocks.0.adapter.up").weight.grad
    assert isinstance(grad, Tensor)
    assert grad.abs().sum() > 0


def test_features_can_be_added_twice(trained: EveNet) -> None:
    once, _ = extend(trained, added=MASSES[:1])
    assert once.added_embedding is not None
    torch.nn.init.normal_(once.added_embedding.weight)
    twice, fresh = extend(once.eval(), added=MASSES[1:])
    assert "added_embedding.weight" in fresh
    objects, mask, event_features = events(12)
    with torch.no_grad():
        before = once(objects, mask, event_features[:, :11])["classification"]
        torch.testing.assert_close(twice.eval()(objects, mask, event_features)["classification"], before)


def test_other_classes_and_heads_are_new(trained: EveNet) -> None:
    heads = {"assignment": AssignmentConfig(Topology.shipped("bbww"), heads=4, type_width=8)}
    model, fresh = extend(trained, classes=("s", "b"), heads=heads)
    assert model.schema.classes == ("s", "b")
    assert {name.split(".")[0] for name in fresh} == {"assignment", "classification"}
    assert [name for name in fresh if name.startswith("classification")] == [
        "classification.output.weight",
        "classification.output.bias",
    ]
    without, _ = extend(trained, heads={"classification": None})
    assert without.classification is None
    again, fresh = extend(trained, heads={"classification": ClassificationConfig(heads=4)})
    assert {name.split(".")[0] for name in fresh} == {"classification"}
    assert again.config == trained.config


def test_extended_networks_are_saved_and_read(trained: EveNet, tmp_path: object) -> None:
    model, _ = extend(trained, adapter=4, added=MASSES)
    model.save_pretrained(f"{tmp_path}/extended")
    read = EveNet.from_pretrained(f"{tmp_path}/extended")
    with torch.no_grad():
        expected = model.eval()(*events(12))["classification"]
        assert torch.equal(read(*events(12))["classification"], expected)


def test_what_cannot_be_extended_is_named(trained: EveNet) -> None:
    with pytest.raises(ConfigError, match=r"heads must be some of classification, .*; found taste"):
        extend(trained, heads={"taste": None})
    with pytest.raises(ConfigError, match="adapters of width 4; found adapter=8"):
        extend(extend(trained, adapter=4).model, adapter=8)
    with pytest.raises(SchemaError, match="repeats met"):
        extend(trained, added=[Feature("met", "GeV")])


def test_only_the_named_parts_change(trained: EveNet) -> None:
    model, _ = extend(trained, adapter=4)
    parts = ("heads", "adapters", "event_embedding", "object_encoder", "norms")
    assert freeze_all_but(model, parts) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(model, RATES))
    model.train()
    model(*events())["classification"].square().sum().backward()
    optimiser.step()
    changed = {
        part_of(name) for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed <= set(parts)
    assert {"heads", "adapters", "object_encoder"} <= changed
    with pytest.raises(ConfigError, match=r"parts must be some of heads, .*; found 'body'"):
        freeze_all_but(model, ["body"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        freeze_all_but(trained, ["adapters"])


def test_trainable_parameters_of_the_published_fine_tuning() -> None:
    config, schema = EveNetConfig.published(), EventSchema.published()
    model, _ = extend(EveNet(config, schema), adapter=16, classes=("signal", "background"))
    body = freeze_all_but(model, ("adapters", "event_embedding", "object_encoder", "norms"))
    heads = freeze_all_but(model, ("heads",))
    assert body == pytest.approx(5.9e6, rel=0.01)  # the paper counts 0.4 million weights that never change
    assert heads == pytest.approx(1.2e6, rel=0.02)


def test_every_parameter_has_one_rate(trained: EveNet) -> None:
    groups = parameter_groups(trained, RATES, weight_decay=0.1, layer_decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in trained.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = dict(trained.named_parameters())
    assert rate[id(named["pet.blocks.1.attention.project_in.weight"])] == pytest.approx(1e-4)
    assert rate[id(named["pet.blocks.0.attention.project_in.weight"])] == pytest.approx(0.5e-4)
    assert rate[id(named["pet.feature_mlp.0.weight"])] == pytest.approx(0.25e-4)
    assert rate[id(named["classification.output.weight"])] == pytest.approx(1e-3)
    assert decay[id(named["classification.output.weight"])] == 0.1
    for name in (
        "classification.output.bias",
        "pet.blocks.0.attention_norm.weight",
        "object_encoder.event_token",
    ):
        assert decay[id(named[name])] == 0.0
    with pytest.raises(ConfigError, match="object_encoder has no learning rate"):
        parameter_groups(trained, {"heads": 1e-3, "pet": 1e-4, "event_embedding": 1e-4})
    with pytest.raises(ConfigError, match=r"rates must be for some of heads, .*; found 'body'"):
        parameter_groups(trained, {"body": 1e-3})
