from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
from torch import nn

from evenet_hep.errors import ConfigError
from evenet_hep.model.layers import (
    Attention,
    Gate,
    GatedBlock,
    attendable,
    drop_path,
    read_config,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    optional: Inner | None = None
    widths: tuple[int, ...] = ()
    mode: Literal["a", "b"] = "a"
    flag: bool = False


def test_read_config_builds_nested_dataclasses() -> None:
    content = {"name": "x", "inner": {"size": 3, "rate": 1}, "optional": None, "widths": [1, 2], "mode": "b"}
    assert read_config(Outer, content) == Outer("x", Inner(3, 1.0), None, (1, 2), "b")
    assert read_config(Outer, {"name": "x", "optional": {}}).optional == Inner()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "x", "colour": 1}, "config has unknown key 'colour'; allowed are flag, inner, mode, name"),
        ({"name": "x", "inner": {"sise": 1}}, "config.inner has unknown key 'sise'; allowed are rate, size"),
        ({}, "config lacks 'name'"),
        ({"name": 1}, "config.name must be of type str; found 1"),
        ({"name": "x", "inner": {"size": 1.5}}, "config.inner.size must be of type int; found 1.5"),
        ({"name": "x", "inner": {"size": True}}, "config.inner.size must be of type int; found True"),
        ({"name": "x", "inner": {"rate": "1"}}, "config.inner.rate must be of type float; found '1'"),
        ({"name": "x", "inner": 3}, "config.inner must be a JSON object; found 3"),
        ({"name": "x", "widths": 3}, "config.widths must be a list; found 3"),
        ({"name": "x", "widths": [1, "2"]}, "config.widths must be of type int; found '2'"),
        ({"name": "x", "mode": "c"}, "config.mode must be 'a' or 'b'; found 'c'"),
        ({"name": "x", "flag": 1}, "config.flag must be of type bool; found 1"),
    ],
)
def test_read_config_names_key_expectation_and_finding(content: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(Outer, content)
    assert message in str(error.value)


@pytest.mark.parametrize("is_cross", [False, True])
def test_attention_equals_the_one_of_torch(is_cross: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, heads=3).eval(), nn.MultiheadAttention(12, 3, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.project_in.weight,
            "in_proj_bias": torch.randn(36),
            "out_proj.weight": ours.project_out.weight,
            "out_proj.bias": torch.randn(12),
        }
    )
    ours.project_in.bias.data, ours.project_out.bias.data = (
        theirs.in_proj_bias.data,
        theirs.out_proj.bias.data,
    )
    query, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    keys = memory if is_cross else query
    mask = torch.rand(2, keys.shape[1]) < 0.6
    mask[:, 0] = True
    expected, _ = theirs(query, keys, keys, key_padding_mask=~mask)
    result = ours(query, mask[:, None, None], memory if is_cross else None)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_gate_starts_close_to_the_identity() -> None:
    torch.manual_seed(0)
    gate, state, update = Gate(16), torch.randn(100, 16), torch.randn(100, 16)
    start = (gate(update, state) - state).abs().mean()
    gate.bias.data.fill_(-50.0)  # wide open: the state is replaced
    assert start < 0.3 * (gate(update, state) - state).abs().mean()
    gate.bias.data.fill_(50.0)
    torch.testing.assert_close(gate(update, state), state)


def test_gated_block_without_gate_is_its_two_layers() -> None:
    torch.manual_seed(0)
    block = GatedBlock(4, 6, expansion=1.0, gated=False)
    assert sum(p.numel() for p in block.parameters()) == 8 + 20 + 30
    x = torch.randn(3, 4)
    expected = nn.functional.gelu(block.project(nn.functional.gelu(block.expand(block.norm(x)))))
    torch.testing.assert_close(block(x), expected)


def test_attendable_opens_empty_events() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert attendable(mask)[:, 0, 0].tolist() == [[True, False, True], [True, True, True]]


def test_drop_path_leaves_out_whole_events_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    update = torch.ones(4000, 2, 3)
    assert drop_path(update, probability=0.3, training=False) is update
    kept = drop_path(update, probability=0.3, training=True)
    per_event = kept.flatten(1)
    assert (per_event == per_event[:, :1]).all()
    assert sorted(set(per_event[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.7])
    # 0.7 +- sqrt(0.7 * 0.3 / 4000) events stay
    assert abs(float((per_event[:, 0] > 0).double().mean()) - 0.7) < 5 * 0.00725
