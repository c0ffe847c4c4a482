from __future__ import annotations

import copy
import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.model import generation
from evenet_hep.model.diffusion import Velocity, add_noise, schedule
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.generation import (
    classify_noised,
    encode_noised,
    global_velocity,
    invisible_velocity,
    noise_globals,
    noise_invisible,
    noise_objects,
    object_velocity,
    sample_globals,
    sample_invisible,
    sample_objects,
)
from evenet_hep.model.heads.classification import classification_loss
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    InvisibleGenerationConfig,
    ObjectGenerationConfig,
    velocity_loss,
)
from evenet_hep.schema import EventSchema

GENERATED = ("energy", "pt", "eta", "phi")
CONDITIONS = ("met", "met_phi")


def are_close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-4, atol=1e-5)


def assert_close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@functools.cache
def build(rules: str = "own", zeroed: str = "normalised") -> EveNet:
    """Tiny, with all generating heads and random weights of order one in every part."""
    is_own = rules == "own"
    classes = ("a", "b", "c")
    schema = EventSchema.standard(classes=classes) if is_own else EventSchema.published(classes=classes)
    config = dataclasses.replace(
        EveNetConfig.tiny(),
        object_generation=ObjectGenerationConfig(
            features=GENERATED,
            conditions=CONDITIONS,
            zeroed_conditions=zeroed,  # type: ignore[arg-type]
        ),
        invisible_generation=InvisibleGenerationConfig(columns="projected" if is_own else "padded"),
        global_generation=GlobalGenerationConfig(targets=("ht", "met_phi"), conditions=CONDITIONS[:1]),
    )
    if not is_own:
        pet = dataclasses.replace(config.pet, phantom_neighbours=True, neighbours_see_attention_mask=False)
        config = dataclasses.replace(config, pet=pet)
    torch.manual_seed(0)
    model = EveNet(config, schema).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("scale"):
                parameter.copy_(0.3 + 0.1 * noise.abs())
            elif parameter.ndim == 2:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
            else:
                parameter.add_(0.1 * noise)
    return model


def events(counts: list[int], slots: int = 6, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Raw objects, mask and event features."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(7, len(counts), slots, generator=generator)
    pt, eta = 20 + 100 * uniform[0], 5 * uniform[1] - 2.5
    phi = math.pi * (2 * uniform[2] - 1)
    flags = [(column > 0.5).float() for column in uniform[3:5]]
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, *flags, torch.sign(uniform[5] - 0.5)], dim=-1)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    event_features = 60 * torch.rand(len(counts), 10, generator=generator)
    event_features[:, 1] = 2 * torch.rand(len(counts), generator=generator)
    return objects * mask[..., None], mask, event_features


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times(number: int) -> Tensor:
    return torch.linspace(0.2, 0.9, number)


def neutrinos(number: int) -> tuple[Tensor, Tensor]:
    features = torch.rand(number, 2, 3, generator=torch.Generator().manual_seed(7)) * torch.tensor(
        [80.0, 2, 3]
    )
    mask = torch.tensor([[True, True], [True, False], [False, False]])[torch.arange(number) % 3]
    return features, mask


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_what_is_noised(rules: str) -> None:
    model, (objects, mask, _) = build(rules), events([0, 1, 4, 6])
    width = model.object_transform.width
    time, noise = times(4), normal(4, 6, width)
    selected = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    noised, velocity = noise_objects(model, objects, mask, time, noise, selected=selected)
    assert torch.equal(noised.noised, mask & selected)
    assert noised.attention_mask is None
    clean = model.object_transform(objects, mask)
    assert torch.equal(noised.columns[~noised.noised], clean[~noised.noised])
    assert (noised.columns[~mask] == 0).all()
    kept = [column for name in GENERATED for column in model.object_transform.columns(name)]
    others = [column for column in range(width) if column not in kept]
    mixed = add_noise(clean, time, noise)
    assert torch.equal(noised.columns[noised.noised][:, kept], mixed.x[noised.noised][:, kept])
    assert (noised.columns[noised.noised][:, others] == 0).all()
    assert torch.equal(velocity, mixed.velocity[..., kept])
    everything, _ = noise_objects(model, objects, mask, time, noise)
    assert torch.equal(everything.noised, mask)


def points(
    model: EveNet, objects: Tensor, mask: Tensor, event_features: Tensor, noise: Tensor, selected: Tensor
) -> Tensor:
    noised, _ = noise_objects(model, objects, mask, times(len(mask)), noise, selected=selected, hide=True)
    return encode_noised(model, noised, mask, event_features).points


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_hidden_objects_are_not_seen_by_the_others(rules: str) -> None:
    """The published network finds neighbours among what it must not see: there the noise leaks."""
    model, (objects, mask, event_features) = build(rules), events([3, 5, 6])
    selected = torch.arange(6) % 2 == 0
    selected = selected.expand(3, -1)
    noise = normal(3, 6, model.object_transform.width)
    one = points(model, objects, mask, event_features, noise, selected)
    changed = torch.where(selected[..., None], objects * torch.tensor([1.3, 1.3, -1, 0.5, 1, 1, -1]), objects)
    two = points(model, changed, mask, event_features, 5 - noise, selected)
    open_, hidden = mask & ~selected, mask & selected
    assert not are_close(one[hidden], two[hidden])
    if rules == "own":
        assert torch.equal(one[open_], two[open_])
    else:
        assert not are_close(one[open_], two[open_])


@torch.no_grad()
def test_what_is_not_hidden_is_seen() -> None:
    model, (objects, mask, event_features) = build(), events([3, 5, 6])
    selected = (torch.arange(6) % 2 == 0).expand(3, -1)
    found = []
    for seed in (3, 4):
        noise = normal(3, 6, model.object_transform.width, seed=seed)
        noised, _ = noise_objects(model, objects, mask, times(3), noise, selected=selected)
        found.append(encode_noised(model, noised, mask, event_features).points[mask & ~selected])
    assert not are_close(*found)


@pytest.mark.parametrize("zeroed", ["normalised", "raw"])
@pytest.mark.parametrize("garbage", [1e4, math.nan, math.inf])
@torch.no_grad()
def test_conditions_that_are_not_told_never_matter(zeroed: str, garbage: float) -> None:
    model, (objects, mask, event_features) = build(zeroed=zeroed), events([0, 3, 6])
    told = torch.tensor([name in CONDITIONS for name in model.schema.event_names])
    noised, _ = noise_objects(model, objects, mask, times(3), normal(3, 6, model.object_transform.width))
    expected = encode_noised(model, noised, mask, event_features)
    other = encode_noised(model, noised, mask, torch.where(told, event_features, garbage))
    assert torch.equal(other.condition, expected.condition)
    assert expected.condition.isfinite().all()
    for column in told.nonzero()[:, 0]:
        changed = event_features.clone()
        changed[:, column] += 1
        assert not torch.equal(encode_noised(model, noised, mask, changed).condition, expected.condition)


@torch.no_grad()
def test_conditions_taken_away_before_and_after_the_normalisation_differ() -> None:
    """Training puts zeros, the published sampler -mean / std: they must not be mixed."""
    objects, mask, event_features = events([3, 6])
    found = []
    for zeroed in ("normalised", "raw"):
        model = build(zeroed=zeroed)
        noised, _ = noise_objects(model, objects, mask, times(2), normal(2, 6, model.object_transform.width))
        found.append(encode_noised(model, noised, mask, event_features).condition)
    assert not are_close(*found)
    model = build()
    columns = model.event_transform(event_features)
    kept = [c for name in CONDITIONS for c in model.event_transform.columns(name)]
    by_hand = torch.zeros_like(columns)
    by_hand[:, kept] = columns[:, kept]
    torch.testing.assert_close(model.embed_event(by_hand), found[0])


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_object_velocity_knows_no_padding_order_or_company(rules: str) -> None:
    model, (objects, mask, event_features) = build(rules), events([0, 1, 2, 4, 6])
    time, label = times(5), torch.tensor([0, 1, 2, -1, 0])
    noise = normal(5, 6, model.object_transform.width)
    selected = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.7

    def velocity(place: Tensor, rows: Tensor, more: int = 0) -> Tensor:
        def slots(x: Tensor) -> Tensor:
            x = x[rows][:, place]
            return torch.cat([x, torch.ones_like(x[:, :1]).expand(-1, more, *x.shape[2:]) > 2], dim=1)

        raw, real = slots(objects), slots(mask).bool()
        noised, _ = noise_objects(
            model, raw, real, time[rows], slots(noise), selected=slots(selected).bool(), hide=True
        )
        encoded = encode_noised(model, noised, real, event_features[rows])
        return object_velocity(model, noised, encoded, real, label=label[rows])

    place, rows = torch.arange(6), torch.arange(5)
    expected = velocity(place, rows)
    assert expected.shape[-1] == (5 if rules == "own" else 4)
    assert (expected[~mask] == 0).all()
    assert (expected[mask] != 0).all()
    assert_close(velocity(place, rows, more=5)[:, :6], expected)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert_close(velocity(order, rows), expected[:, order])
    for row in range(5):
        alone = velocity(place[: max(1, int(mask[row].sum()))], torch.tensor([row]))
        assert_close(alone[0], expected[row, : alone.shape[1]])


@torch.no_grad()
def test_label_minus_one_is_none() -> None:
    model, (objects, mask, event_features) = build(), events([3, 6])
    noised, _ = noise_objects(model, objects, mask, times(2), normal(2, 6, model.object_transform.width))
    encoded = encode_noised(model, noised, mask, event_features)
    without = object_velocity(model, noised, encoded, mask)
    assert torch.equal(object_velocity(model, noised, encoded, mask, label=torch.tensor([-1, -1])), without)
    mixed = object_velocity(model, noised, encoded, mask, label=torch.tensor([-1, 1]))
    assert torch.equal(mixed[0], without[0])
    assert not are_close(mixed[1], without[1])
    columns, _ = noise_globals(model, mask.sum(dim=1), event_features, times(2), normal(2, 4))
    one, two = (
        global_velocity(model, columns, times(2), event_features, label=label)
        for label in (None, torch.tensor([-1, -1]))
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_the_sampler_of_objects_does_what_training_does(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At noised training events the velocity of the sampler is the one that training compares with the truth."""
    model, (objects, mask, event_features) = build(rules), events([0, 1, 4, 6])
    time, label = torch.full((4,), 0.4), torch.tensor([0, 1, 2, -1])
    noised, _ = noise_objects(model, objects, mask, time, normal(4, 6, model.object_transform.width))
    encoded = encode_noised(model, noised, mask, event_features)
    expected = object_velocity(model, noised, encoded, mask, label=label)
    generated = [column for name in GENERATED for column in model.object_transform.columns(name)]

    def once(velocity: Velocity, start: Tensor, **_: object) -> Tensor:
        assert (start[~mask] == 0).all()
        torch.testing.assert_close(velocity(noised.columns[..., generated], time), expected)
        return start

    monkeypatch.setattr(generation, "sample", once)
    sample_objects(model, mask, event_features, label=label)


def test_sampled_objects() -> None:
    model, (_, mask, event_features) = build(), events([0, 1, 4, 6])
    one, same, other = (
        sample_objects(model, mask, event_features, steps=3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert one.shape == (4, 6, 7)
    assert not one.requires_grad
    assert torch.equal(one, same)
    assert not torch.equal(one[mask], other[mask])
    assert one.isfinite().all()
    assert (one[~mask] == 0).all()
    assert (one[..., 3].abs() <= math.pi + 1e-5).all()
    names = model.schema.object_names
    assert (one[mask][:, [names.index(name) for name in ("btag", "is_lepton", "charge")]] == 0).all()


# --- noised events and the other heads -------------------------------------------------------------------------------


@torch.no_grad()
def test_classification_of_noised_events_counts_by_alpha_squared() -> None:
    model, (objects, mask, event_features) = build(), events([1, 4, 6])
    labels, time = torch.tensor([0, 1, 2]), times(3)
    noised, _ = noise_objects(model, objects, mask, time, normal(3, 6, model.object_transform.width))
    encoding = classify_noised(model, encode_noised(model, noised, mask, event_features), mask)
    logits = model.apply_heads(encoding, mask).classification
    assert logits is not None
    alpha = schedule(time).alpha
    loss = classification_loss(logits, labels, event_weight=alpha**2)
    cost = -logits.log_softmax(dim=1)[torch.arange(3), labels]
    assert float(loss) == pytest.approx(float((alpha**2 * cost).sum() / (alpha**2).sum()), rel=1e-5)
    # Without noise, and told everything, it is the classification of clean events.
    nothing, _ = noise_objects(model, objects, mask, torch.zeros(3), torch.zeros_like(noised.columns), selected=mask & False)  # fmt: skip
    full = encode_noised(model, nothing, mask, event_features)._replace(
        condition=model.embed_event(model.event_transform(event_features))
    )
    clean = model.apply_heads(classify_noised(model, full, mask), mask).classification
    torch.testing.assert_close(clean, model(objects, mask, event_features)["classification"])


# --- invisible particles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_noised_invisible_particles(rules: str) -> None:
    model = build(rules)
    features, mask = neutrinos(6)
    width = model.invisible_transform.width
    noise = normal(6, 2, width)
    columns, velocity = noise_invisible(model, features, mask, times(6), noise)
    mixed = add_noise(model.invisible_transform(features, mask), times(6), noise)
    assert torch.equal(columns[mask], mixed.x[mask])
    assert torch.equal(velocity[mask], mixed.velocity[mask])
    assert (columns[~mask] == 0).all()
    assert (velocity[~mask] == 0).all()


def velocity_of(
    model: EveNet, columns: Tensor, invisible: Tensor, batch: tuple[Tensor, Tensor, Tensor], **options: Tensor
) -> Tensor:
    return invisible_velocity(model, columns, invisible, times(len(columns)), *batch, **options)


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_visible_objects_do_not_see_the_noise_of_invisible_ones(
    rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they its neighbours, as in the published network."""
    model, batch = build(rules), events([1, 3, 6])
    _, invisible = neutrinos(3)
    kept: list[Tensor] = []
    forward = model.pet.forward

    def record(*args: Tensor, **options: Tensor) -> Tensor:
        kept.append(forward(*args, **options))
        return kept[-1]

    monkeypatch.setattr(model.pet, "forward", record)
    velocities = [
        velocity_of(model, normal(3, 2, model.invisible_transform.width, seed=seed), invisible, batch)
        for seed in (1, 2)
    ]
    assert not are_close(*velocities)
    one, two = (each[:, :6][batch[1]] for each in kept)
    assert torch.equal(one, two) == (rules == "own")


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_invisible_velocity_knows_no_padding_order_or_company(rules: str) -> None:
    model, (objects, mask, event_features) = build(rules), events([0, 1, 2, 4, 6])
    _, invisible = neutrinos(5)
    columns = normal(5, 2, model.invisible_transform.width)
    columns = torch.where(invisible[..., None], columns, math.nan if rules == "own" else 0.0)
    label = torch.tensor([0, 1, 2, -1, 0])
    expected = velocity_of(model, columns, invisible, (objects, mask, event_features), label=label)
    assert (expected[~invisible] == 0).all()
    assert (expected[invisible] != 0).all()
    longer = F.pad(objects, (0, 0, 0, 4)), F.pad(mask, (0, 4)), event_features
    assert_close(velocity_of(model, columns, invisible, longer, label=label), expected)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    mixed = objects[:, order], mask[:, order], event_features
    assert_close(velocity_of(model, columns, invisible, mixed, label=label), expected)
    for row in range(5):
        real = slice(0, max(1, int(mask[row].sum())))
        alone = invisible_velocity(
            model, columns[row : row + 1], invisible[row : row + 1], times(5)[row : row + 1],
            objects[row : row + 1, real], mask[row : row + 1, real], event_features[row : row + 1], label=label[row : row + 1],
        )  # fmt: skip
        assert_close(alone[0], expected[row])


@pytest.mark.parametrize("positions", [0, 2])
@torch.no_grad()
def test_order_of_invisible_particles(positions: int) -> None:
    config = build().config
    assert config.invisible_generation is not None
    head = dataclasses.replace(config.invisible_generation, positions=positions)
    torch.manual_seed(0)
    model = EveNet(dataclasses.replace(config, invisible_generation=head), build().schema).eval()
    batch, both = events([3, 4]), torch.ones(2, 2, dtype=torch.bool)
    columns = normal(2, 2, model.invisible_transform.width)
    one, two = (
        velocity_of(model, columns, both, batch),
        velocity_of(model, columns.flip(1), both, batch).flip(1),
    )
    assert are_close(one, two) == (positions == 0)


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_the_sampler_of_invisible_particles_does_what_training_does(
    rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(rules), events([0, 1, 4, 6])
    features, invisible = neutrinos(4)
    time, label = torch.full((4,), 0.4), torch.tensor([0, 1, 2, -1])
    columns, _ = noise_invisible(
        model, features, invisible, time, normal(4, 2, model.invisible_transform.width)
    )
    expected = invisible_velocity(model, columns, invisible, time, *batch, label=label)

    def once(velocity: Velocity, start: Tensor, **_: object) -> Tensor:
        assert (start[~invisible] == 0).all()
        torch.testing.assert_close(velocity(columns, time), expected)
        return start

    monkeypatch.setattr(generation, "sample", once)
    sample_invisible(model, *batch, invisible, label=label)


def test_sampled_invisible_particles() -> None:
    model, batch = build(), events([0, 1, 4])
    _, invisible = neutrinos(3)
    one, same, other = (
        sample_invisible(model, *batch, invisible, steps=3, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert one.features.shape == (3, 2, 3)
    assert torch.equal(one.mask, invisible)
    assert torch.equal(one.features, same.features)
    assert not torch.equal(one.features[invisible], other.features[invisible])
    assert one.features.isfinite().all()
    assert (one.features[~invisible] == 0).all()
    assert (one.features[..., 2].abs() <= math.pi + 1e-5).all()
    width = model.invisible_transform.width
    given = sample_invisible(model, *batch, invisible, steps=3, noise=normal(3, 2, width))
    again = sample_invisible(model, *batch, invisible, steps=3, noise=normal(3, 2, width))
    assert torch.equal(given.features, again.features)


# --- the event as a whole --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_noised_globals_and_their_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (_, mask, event_features) = build(), events([1, 4, 6])
    number = mask.sum(dim=1)
    noise = normal(3, 4)  # count, ht, cosine and sine of met_phi
    columns, velocity = noise_globals(model, number, event_features, times(3), noise)
    names, count = model.schema.event_names, model.schema.n_objects
    ht = model.schema.event_features[names.index("ht")]
    clean = torch.stack(
        [
            (number - count.mean) / count.std,
            (torch.log1p(event_features[:, names.index("ht")]) - ht.mean) / ht.std,
            event_features[:, names.index("met_phi")].cos(),
            event_features[:, names.index("met_phi")].sin(),
        ],
        dim=1,
    )
    mixed = add_noise(clean, times(3), noise)
    torch.testing.assert_close(columns, mixed.x)
    torch.testing.assert_close(velocity, mixed.velocity)
    garbage = event_features.clone()
    garbage[:, 2:] = math.nan  # only met is told
    one, two = (global_velocity(model, columns, times(3), each) for each in (event_features, garbage))
    assert torch.equal(one, two)
    drawn = [
        sample_globals(model, each, steps=3, generator=torch.Generator().manual_seed(5))
        for each in (event_features, garbage)
    ]
    assert torch.equal(drawn[0].n_objects, drawn[1].n_objects)
    assert drawn[0].event_features.shape == (3, 2)
    # Columns that the sampler ends with come back in raw units, in the order of the targets.
    monkeypatch.setattr(generation, "sample", lambda *_, **__: clean)
    found = sample_globals(model, event_features)
    torch.testing.assert_close(found.n_objects, number.float())
    expected = event_features[:, [names.index("ht"), names.index("met_phi")]]
    torch.testing.assert_close(found.event_features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_samples_come_back_through_the_seam_of_phi(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of true objects at the end of the sampler give the objects, phi within (-pi, pi] included."""
    model, (objects, mask, event_features) = build(rules), events([2, 6])
    objects[..., 3] = torch.tensor([math.pi - 1e-3, -math.pi + 1e-3, 0.0, 1.0, -1.0, 3.0]) * mask
    generated = [column for name in GENERATED for column in model.object_transform.columns(name)]
    clean = model.object_transform(objects, mask)[..., generated]
    # A periodic angle needs no unit circle: noise may leave cosine and sine at any length.
    if rules == "own":
        clean[..., -2:] *= 1.7
    monkeypatch.setattr(generation, "sample", lambda *_, **__: clean)
    found = sample_objects(model, mask, event_features)
    torch.testing.assert_close(found[..., :4], objects[..., :4], rtol=1e-3, atol=1e-3)


# --- losses and configurations ---------------------------------------------------------------------------------------


def test_velocity_loss_is_that_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    velocity, truth = torch.randn(2, 5, 4, 3, generator=generator).unbind()
    mask, weight = torch.rand(5, 4, generator=generator) < 0.6, torch.rand(5, generator=generator)
    truth[~mask] = math.nan
    velocity.requires_grad_()
    total = norm = plain = 0.0
    for event in range(5):
        for point in range(4):
            if mask[event, point]:
                square = sum((float(velocity.detach()[event, point, c]) - float(truth[event, point, c])) ** 2 for c in range(3)) / 3  # fmt: skip
                total, norm, plain = (
                    total + float(weight[event]) * square,
                    norm + float(weight[event]),
                    plain + square,
                )
    loss = velocity_loss(velocity, truth, mask, event_weight=weight)
    assert float(loss.detach()) == pytest.approx(total / norm, rel=1e-5)
    assert float(velocity_loss(velocity.detach(), truth, mask)) == pytest.approx(
        plain / int(mask.sum()), rel=1e-5
    )
    loss.backward()
    assert velocity.grad is not None
    assert velocity.grad.isfinite().all()
    assert (velocity.grad[~mask] == 0).all()


@pytest.mark.parametrize("number", [0, 3])
def test_velocity_loss_of_nothing_is_zero(number: int) -> None:
    velocity = torch.randn(number, 4, 2, requires_grad=True)
    loss = velocity_loss(
        velocity, torch.full_like(velocity, math.nan), torch.zeros(number, 4, dtype=torch.bool)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert velocity.grad is not None
    assert (velocity.grad == 0).all()


def test_velocity_loss_of_half_precision_is_taken_in_single() -> None:
    velocity = torch.full((4099, 1), 1.0, dtype=torch.bfloat16)
    loss = velocity_loss(velocity, torch.zeros(4099, 1), torch.ones(4099, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(1.0, rel=1e-6)


def test_every_generating_head_can_be_trained() -> None:
    for rules in ("own", "published"):
        model, (objects, mask, event_features) = build(rules).train(), events([0, 1, 4, 6])
        features, invisible = neutrinos(4)
        label = torch.tensor([0, 1, 2, -1])
        time = times(4)
        noised, truth = noise_objects(
            model, objects, mask, time, normal(4, 6, model.object_transform.width), hide=True
        )
        encoded = encode_noised(model, noised, mask, event_features)
        columns, invisible_truth = noise_invisible(
            model, features, invisible, time, normal(4, 2, model.invisible_transform.width)
        )
        width = model.count_transform.width + sum(
            len(model.event_transform.columns(name)) for name in ("ht", "met_phi")
        )
        event, event_truth = noise_globals(model, mask.sum(dim=1), event_features, time, normal(4, width))
        loss = (
            velocity_loss(object_velocity(model, noised, encoded, mask, label=label), truth, noised.noised)
            + velocity_loss(
                invisible_velocity(
                    model, columns, invisible, time, objects, mask, event_features, label=label
                ),
                invisible_truth,
                invisible,
            )
            + velocity_loss(
                global_velocity(model, event, time, event_features, label=label),
                event_truth,
                torch.ones(4, dtype=torch.bool),
            )
        )
        model.zero_grad()
        loss.backward()
        model.eval()
        for name, parameter in model.named_parameters():
            if name.startswith(("object_encoder", "classification")):
                continue  # they read clean events
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name
        model.zero_grad(set_to_none=True)


@torch.no_grad()
def test_double_precision_takes_labels() -> None:

    model, (objects, mask, event_features) = copy.deepcopy(build()).double(), events([3, 6])
    noised, _ = noise_objects(
        model, objects.double(), mask, times(2).double(), normal(2, 6, model.object_transform.width)
    )
    encoded = encode_noised(model, noised, mask, event_features.double())
    label = torch.tensor([1, 2])
    exact = object_velocity(model, noised, encoded, mask, label=label)
    assert exact.dtype == torch.float64
    single = build()
    noised, _ = noise_objects(single, objects, mask, times(2), normal(2, 6, model.object_transform.width))
    found = object_velocity(
        single, noised, encode_noised(single, noised, mask, event_features), mask, label=label
    )
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)


def test_a_network_without_the_head_says_so() -> None:
    model = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b")))
    _, mask, event_features = events([3])
    with pytest.raises(
        ConfigError, match="the network has no object generation; it was built, or loaded, without"
    ):
        sample_objects(model, mask, event_features)
    with pytest.raises(ConfigError, match="the network has no invisible generation"):
        sample_invisible(model, *events([3]), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="the network has no global generation"):
        sample_globals(model, event_features)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (ObjectGenerationConfig, {"layers": 0}, "generation: layers must be at least 1; found 0"),
        (ObjectGenerationConfig, {"zeroed_conditions": "late"}, "'normalised' or 'raw'; found 'late'"),
        (InvisibleGenerationConfig, {"positions": -1}, "invisible_generation.positions must be at least 0"),
        (InvisibleGenerationConfig, {"columns": "cut"}, "'projected' or 'padded'; found 'cut'"),
        (GlobalGenerationConfig, {"width": 0}, "global_generation.width must be at least 1; found 0"),
        (GlobalGenerationConfig, {"label_drop": 1.0}, "global_generation.label_drop must be at least 0 and below 1"),
    ],
)  # fmt: skip
def test_impossible_configurations(kind: type, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**change)
