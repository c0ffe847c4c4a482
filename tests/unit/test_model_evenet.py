from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.heads.classification import classification_loss
from evenet_hep.schema import EventSchema, Feature

SCHEMA = EventSchema.standard(classes=("a", "b", "c"))


def build(config: EveNetConfig | None = None, schema: EventSchema = SCHEMA) -> EveNet:
    torch.manual_seed(0)
    model = EveNet(config or EveNetConfig.tiny(), schema).eval()
    with torch.no_grad():
        for block in model.pet.blocks:  # the transformer has no say at its initial scale
            block.attention_scale.fill_(0.5)  # type: ignore[operator]
            block.feed_forward_scale.fill_(0.5)  # type: ignore[operator]
    return model


def sample(counts: list[int], slots: int = 6, features: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    objects = 3 * torch.rand(len(counts), slots, features, generator=generator)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    event_features = 50 * torch.rand(len(counts), 10, generator=generator)
    return torch.where(mask[..., None], objects, 0.0), mask, event_features


def count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts() -> None:
    model = EveNet(EveNetConfig.published(), EventSchema.published())
    parts = {name: count(module) for name, module in model.named_children()}
    assert parts["event_embedding"] == 1_360_176
    assert parts["pet"] == 12_557_056
    assert model.pet.local is not None
    assert count(model.pet.local) == 3_684_864
    assert count(model.pet.blocks) == 8_441_856
    assert count(model.pet.time_embedding) == 163_840
    assert count(model.pet.film) == 131_072
    assert parts["classification"] == 1_188_362
    # Published body: 18,679,504. The gate of its combined embedding, 6 D^2 + 4 D, takes part in no result and is
    # left out here.
    assert parts["event_embedding"] + parts["pet"] + parts["object_encoder"] == 18_285_264
    assert 18_679_504 - 18_285_264 == 6 * 256**2 + 4 * 256


def test_sizes() -> None:
    tiny, small = (EveNet(config, SCHEMA) for config in (EveNetConfig.tiny(), EveNetConfig.small()))
    assert count(tiny) < 250_000
    assert 1_500_000 < count(small) < 2_500_000


@pytest.mark.parametrize("config", [EveNetConfig.published(), EveNetConfig.small(), EveNetConfig.tiny()])
def test_configuration_survives_json(config: EveNetConfig) -> None:
    assert EveNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_keys_are_errors() -> None:
    content = EveNetConfig.tiny().to_dict()
    with pytest.raises(ConfigError, match="config has unknown key 'heads'"):
        EveNetConfig.from_dict({**content, "heads": 4})
    with pytest.raises(ConfigError, match=r"config.pet has unknown key 'neighbors'"):
        EveNetConfig.from_dict({**content, "pet": {**content["pet"], "neighbors": 4}})


def test_contradictions_are_errors() -> None:
    tiny = EveNetConfig.tiny()
    with pytest.raises(ConfigError, match=r"event_embedding.widths must be such that the last is 64"):
        dataclasses.replace(tiny, width=64)
    with pytest.raises(ConfigError, match=r"pet.heads must divide the width 48; found 5"):
        dataclasses.replace(tiny, pet=dataclasses.replace(tiny.pet, heads=5))
    with pytest.raises(ConfigError, match=r"schema.classes must be names for the classification head"):
        EveNet(tiny, EventSchema.standard())
    with pytest.raises(
        ConfigError, match=r"pet.coordinates must be names of features of the schema \(energy, pt.*'y'"
    ):
        EveNet(dataclasses.replace(tiny, pet=dataclasses.replace(tiny.pet, coordinates=("y", "phi"))), SCHEMA)


def test_outputs() -> None:
    model = build()
    batch = sample([0, 1, 6])
    assert model(*batch)["classification"].shape == (3, 3)
    encoding = model.encode(*batch)
    assert encoding.objects.shape == (3, 6, 48)
    assert encoding.event.shape == encoding.condition.shape == (3, 48)
    assert (encoding.objects[~batch[1]] == 0).all()
    assert all(part.isfinite().all() for part in encoding)


def test_heads_may_be_left_out() -> None:
    model = build(dataclasses.replace(EveNetConfig.tiny(), classification=None), EventSchema.standard())
    assert model(*sample([2])) == {}
    assert model.encode(*sample([2])).event.shape == (1, 48)


def test_without_event_features() -> None:
    schema = EventSchema(SCHEMA.objects, (), classes=("a", "b"))
    model = build(schema=schema)
    objects, mask, _ = sample([1, 4])
    nothing = torch.zeros(2, 0)
    assert model(objects, mask, nothing)["classification"].isfinite().all()
    assert (model.encode(objects, mask, nothing).condition == 0).all()


def test_condition_reaches_every_output() -> None:
    model = build()
    objects, mask, event_features = sample([3])
    one, two = model.encode(objects, mask, event_features), model.encode(objects, mask, event_features + 1)
    assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_feature_order_and_names_come_from_the_schema() -> None:
    features = (Feature("phi", "rad", "periodic"), Feature("eta", transform="standard"), Feature("dz", "cm"))
    model = build(schema=EventSchema(features, (), classes=("a", "b")))
    assert model.pet.coordinates.tolist() == [2, 0, 1]  # eta, then cosine and sine of phi
    objects, mask, _ = sample([4], features=3)
    assert model(objects, mask, torch.zeros(1, 0))["classification"].shape == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, m, e: (o[..., :5], m, e), r"objects must have shape \(B, N, 7\) with energy, pt.*\(2, 6, 5\)"),
        (lambda o, m, e: (o[0], m, e), r"objects must have shape \(B, N, 7\)"),
        (lambda o, m, e: (o, m.float(), e), r"mask must be bool of shape \(2, 6\); found torch.float32"),
        (lambda o, m, e: (o, m[:, :4], e), r"mask must be bool of shape \(2, 6\); found torch.bool \(2, 4\)"),
        (lambda o, m, e: (o, m, e[:, :9]), r"event_features must have shape \(B, 10\) with met, .*\(2, 9\)"),
        (lambda o, m, e: (o, m, e[:1]), "event_features must have 2 rows like objects; found 1"),
        (lambda o, m, e: (o[:, :0], m[:, :0], e), r"at least one slot per event, filled or not; found \(2, 0, 7\)"),
    ],
)  # fmt: skip
def test_shapes_are_checked(change: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(*change(*sample([1, 3])))  # type: ignore[operator]


def test_every_parameter_but_those_of_time_is_trained() -> None:
    model = build().train()
    logits = model(*sample([1, 2, 6, 5]))["classification"]
    classification_loss(logits, torch.tensor([0, 1, 2, -1])).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {
        "pet.time_embedding.expand.weight",
        "pet.time_embedding.project.weight",
        "pet.film.weight",
    }
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_bfloat16() -> None:
    model, batch = build(), sample([0, 1, 3, 6])
    with torch.no_grad():
        exact = model(*batch)["classification"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(*batch)["classification"]
        half = copy.deepcopy(model).bfloat16()(*batch)["classification"]
    assert mixed.dtype == torch.float32  # the head keeps single precision
    assert half.dtype == torch.bfloat16
    for result in (mixed, half):
        # 8 bits of mantissa through a few dozen layers
        torch.testing.assert_close(result.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("phantoms", [False, True])
def test_export_with_any_number_of_events_and_slots(phantoms: bool) -> None:
    config = EveNetConfig.tiny()
    model = build(
        dataclasses.replace(config, pet=dataclasses.replace(config.pet, phantom_neighbours=phantoms))
    )
    events, slots = torch.export.Dim("events", min=2), torch.export.Dim("slots", min=7)
    shapes = ({0: events, 1: slots}, {0: events, 1: slots}, {0: events})
    program = torch.export.export(model, sample([3, 0, 8], slots=8), dynamic_shapes=shapes)
    batch = sample([1, 2, 11, 5, 0], slots=11)
    torch.testing.assert_close(program.module()(*batch)["classification"], model(*batch)["classification"])
