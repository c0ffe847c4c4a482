from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.model.neighbours import NeighbourLayer, Neighbours, find_neighbours, find_with_phantoms
from evenet_hep.model.packing import arrange
from evenet_hep.model.pet import PET, PETConfig

CONFIG = PETConfig(layers=2, heads=2, local_layers=2, layer_scale=0.5)
PUBLISHED = dataclasses.replace(
    CONFIG, phantom_neighbours=True, neighbours_see_attention_mask=False, feature_drop_mode="event"
)
WIDTHS, COORDINATES, WIDTH = (1, 1, 2, 1), (1, 2, 3), 8


def build(config: PETConfig, seed: int = 0) -> PET:
    torch.manual_seed(seed)
    return PET(WIDTHS, COORDINATES, width=WIDTH, config=config).eval()


def sample(counts: list[int], slots: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(counts), slots, sum(WIDTHS), generator=generator)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    return torch.where(mask[..., None], features, 0.0), mask


def test_neighbour_layer_is_an_edge_layer_on_pairs() -> None:
    torch.manual_seed(0)
    layer, x = NeighbourLayer(5, 4), torch.randn(9, 5)
    row = torch.randint(0, 9, (3, 9))
    pair_weight = torch.cat([layer.neighbour.weight, layer.own.weight + layer.neighbour.weight], dim=1)
    pairs = torch.cat([x[row] - x, x.expand(3, -1, -1)], dim=-1)
    edges = F.gelu(layer.project(F.gelu(F.linear(pairs, pair_weight, layer.own.bias))))
    torch.testing.assert_close(layer(x, Neighbours(row, None)), edges.mean(0), rtol=1e-5, atol=1e-6)
    is_real = torch.rand(3, 9) < 0.5
    expected = [edges[is_real[:, i], i].mean(0) if is_real[:, i].any() else torch.zeros(4) for i in range(9)]
    torch.testing.assert_close(
        layer(x, Neighbours(row, is_real)), torch.stack(expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dimensions", [2, 3, 17])
def test_find_neighbours_against_sorting(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(dimensions)
    points = torch.randn(20, 6, dimensions, generator=generator)
    mask = torch.rand(20, 6, generator=generator) < 0.7
    candidates = torch.rand(20, 6, 6, generator=generator) < 0.8
    found = find_neighbours(points, mask, 3, candidates)
    for event in range(20):
        for i in range(6):
            others = [j for j in range(6) if j != i and mask[event, j] and candidates[event, i, j]]
            others.sort(key=lambda j: float((points[event, i] - points[event, j]).square().sum()))
            row = event * 6 + i
            assert found.is_real is not None
            rows = found.row[found.is_real[:, row], row].tolist()
            assert sorted(rows) == sorted(event * 6 + j for j in others[:3])


def test_find_neighbours_has_fewer_columns_than_asked_for_in_small_batches() -> None:
    for slots, columns in ((1, 0), (2, 1), (3, 2), (9, 3)):
        found = find_neighbours(torch.randn(2, slots, 2), torch.ones(2, slots, dtype=torch.bool), 3)
        assert found.row.shape == (columns, 2 * slots)


def test_phantoms_fill_up_events_with_few_objects() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    found = find_with_phantoms(points, mask, 3, torch.zeros(2))
    assert found.is_real is None
    assert found.row.shape == (3, 3)
    assert found.row[0, :2].tolist() == [1, 0]  # the other real object comes first
    assert set(found.row[1:, :2].flatten().tolist()) <= {2, 3}  # then a padded slot or the phantom


@pytest.mark.parametrize("config", [CONFIG, PUBLISHED], ids=["own", "published"])
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 6, 7, 18])
def test_trimming_changes_nothing(config: PETConfig, slots: int) -> None:
    pet = build(config)
    counts = [n for n in (0, 1, 2, 3, 5, 6) if n <= slots]
    features, mask = sample(counts, slots)
    expected = pet(F.pad(features, (0, 0, 0, 20 - slots)), F.pad(mask, (0, 20 - slots)))
    torch.testing.assert_close(pet(features, mask), expected[:, :slots], rtol=1e-5, atol=1e-5)
    assert (expected[:, slots:] == 0).all()


@pytest.mark.parametrize("config", [CONFIG, PUBLISHED], ids=["own", "published"])
def test_time_zero_is_the_identity_bit_for_bit(config: PETConfig) -> None:
    pet = build(config)
    features, mask = sample([0, 1, 3, 6], 6)
    without = pet(features, mask)
    assert torch.equal(pet(features, mask, time=torch.zeros(4)), without)
    clean = torch.zeros(4, 6, dtype=torch.bool)
    assert torch.equal(pet(features, mask, time=torch.rand(4), time_mask=clean), without)
    noised = pet(features, mask, time=torch.full((4,), 0.4))
    assert ((noised - without)[mask].abs().amax(-1) > 1e-3).all()
    as_float = pet(features, mask, time=torch.full((4,), 0.4), time_mask=torch.ones(4, 6))
    assert torch.equal(as_float, noised)


def test_time_reaches_only_noised_objects_and_those_that_see_them() -> None:
    pet = build(CONFIG)
    features, mask = sample([5], 5)
    is_noised = torch.tensor([[False, False, True, False, True]])
    allowed = is_noised[:, :, None] | ~is_noised[:, None, :]
    results = [
        pet(features, mask, time=torch.tensor([t]), time_mask=is_noised, attention_mask=allowed)
        for t in (0.2, 0.8)
    ]
    assert torch.equal(results[0][~is_noised], results[1][~is_noised])
    assert not torch.equal(results[0][is_noised], results[1][is_noised])


def test_attention_mask_hides_neighbours_too_unless_published() -> None:
    features, mask = sample([4], 4)
    changed = features.clone()
    changed[0, 3] += 0.1
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[:3, 3] = False  # nobody sees the last one
    for config, leaks in ((CONFIG, False), (PUBLISHED, True)):
        pet = build(config)
        one, two = (pet(x, mask, attention_mask=allowed)[0, :3] for x in (features, changed))
        assert torch.equal(one, two) is not leaks


@pytest.mark.parametrize("config", [CONFIG, PUBLISHED], ids=["own", "published"])
def test_nothing_to_attend_is_still_finite(config: PETConfig) -> None:
    pet = build(config)
    features, mask = sample([0, 2, 4], 4)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    result = pet(features, mask, time=torch.rand(3), attention_mask=nothing)
    assert result.isfinite().all()
    assert (result[~mask] == 0).all()


def test_garbage_in_padded_slots_has_no_effect() -> None:
    pet = build(CONFIG)
    features, mask = sample([0, 1, 3], 5)
    for garbage in (math.nan, math.inf, 1e20):
        dirty = torch.where(mask[..., None], features, garbage)
        assert torch.equal(pet(dirty, mask), pet(features, mask))


def test_a_lone_object_has_no_neighbours_and_a_pair_has_one() -> None:
    pet = build(CONFIG)
    local = pet.local
    assert local is not None
    features, mask = sample([1, 2], 3)
    nearby = arrange(mask).apply(lambda rows: local(rows.take(features), pet.coordinates, rows), width=WIDTH)
    assert (nearby[0] == 0).all()
    assert (nearby[1, :2] != 0).any(dim=-1).all()


def hooked(pet: PET, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What the transformer branch and the local branch are given."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen.__setitem__(name, inputs[0].detach())

    assert pet.local is not None
    hooks = [module.register_forward_pre_hook(record(name)) for name, module in
             (("transformer", pet.feature_mlp), ("local", pet.local))]  # fmt: skip
    pet(features, mask)
    for hook in hooks:
        hook.remove()
    return seen["transformer"].unflatten(0, mask.shape), seen["local"].unflatten(0, mask.shape)


def test_features_are_dropped_one_by_one_in_both_branches() -> None:
    pet = build(dataclasses.replace(CONFIG, feature_drop=0.5)).train()
    features, mask = torch.ones(2000, 2, 5), torch.ones(2000, 2, dtype=torch.bool)
    transformer, local = hooked(pet, features, mask)
    assert torch.equal(transformer, local)
    assert torch.equal(transformer[:, 0], transformer[:, 1])  # for all objects of an event
    kept = transformer[:, 0]
    assert torch.equal(kept[:, 2], kept[:, 3])  # cosine and sine are one feature
    assert len({tuple(row) for row in kept.tolist()}) == 2**4
    assert abs(float(kept.mean()) - 0.5) < 5 * 0.5 / math.sqrt(8000)
    again, _ = hooked(pet.eval(), features, mask)
    assert torch.equal(again, features)


def test_published_drop_takes_whole_events_and_spares_the_local_branch() -> None:
    pet = build(dataclasses.replace(PUBLISHED, feature_drop=0.5)).train()
    features, mask = torch.ones(500, 8, 5), torch.ones(500, 8, dtype=torch.bool)
    transformer, local = hooked(pet, features, mask)
    assert torch.equal(local, features)
    assert {tuple(row) for row in transformer.flatten(1).tolist()} == {(0.0,) * 40, (1.0,) * 40}


def test_without_local_layers() -> None:
    pet = build(dataclasses.replace(CONFIG, local_layers=0))
    assert pet.local is None
    features, mask = sample([0, 2], 3)
    assert pet(features, mask).isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("neighbours", 0), ("local_layers", -1), ("dropout", 1.0), ("feature_drop", -0.1),
     ("coordinates", ()), ("feature_drop_mode", "object")],
)  # fmt: skip
def test_impossible_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"pet.{field} must be"):
        PETConfig(**{field: value})  # type: ignore[arg-type]
