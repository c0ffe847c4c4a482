"""What must not change a result: padding, the order of objects, who else is in the batch, a turn by 2 pi."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.schema import EventSchema

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
RULES = st.sampled_from(["own", "published"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Batches this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def network(rules: str) -> EveNet:
    """Tiny, with random weights of order one in every part."""
    config, schema = EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b", "c"))
    if rules == "published":
        pet = dataclasses.replace(
            config.pet,
            phantom_neighbours=True,
            neighbours_see_attention_mask=False,
            feature_drop_mode="event",
        )
        config, schema = dataclasses.replace(config, pet=pet), EventSchema.published(classes=("a", "b", "c"))
    model = EveNet(config, schema).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("_scale"):
                parameter.copy_(0.3 + 0.1 * noise.abs())
            elif parameter.ndim == 2:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
            else:
                parameter.add_(0.1 * noise)
    return model


@st.composite
def batches(draw: st.DrawFn, *, most: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Physical events with zero to ``most`` objects, in ``most`` slots; real objects stand anywhere."""
    number = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, most), min_size=number, max_size=number))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    pt, eta = 15 + 150 * uniform(number, most) ** 3, 5 * uniform(number, most) - 2.5
    flags = [(uniform(number, most) > 0.5).float() for _ in range(2)]
    charge = torch.sign(uniform(number, most) - 0.5)
    phi = math.pi * (2 * uniform(number, most) - 1)
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, *flags, charge], dim=-1)
    ranks = uniform(number, most).argsort(dim=1).argsort(dim=1)
    mask = ranks < torch.tensor(counts)[:, None]
    event_features = 100 * uniform(number, 10)
    event_features[:, 1] = math.pi * (2 * uniform(number) - 1)
    return torch.where(mask[..., None], objects, 0.0), mask, event_features


def compare(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one["classification"], two["classification"], **TOLERANCE)  # type: ignore[arg-type]


@hypothesis.given(
    batches(), RULES, st.integers(0, 18), st.sampled_from([0.0, math.nan, math.inf, -1e9, 1e30])
)
@hypothesis.settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_padding_and_what_it_holds(
    batch: tuple[Tensor, Tensor, Tensor], rules: str, more: int, garbage: float
) -> None:
    objects, mask, event_features = batch
    model = network(rules)
    dirty = torch.where(mask[..., None], objects, garbage)
    longer, longer_mask = F.pad(dirty, (0, 0, 0, more), value=garbage), F.pad(mask, (0, more))
    expected = model(objects, mask, event_features)
    assert expected["classification"].isfinite().all()
    assert torch.equal(model(dirty, mask, event_features)["classification"], expected["classification"])
    compare(model(longer, longer_mask, event_features), expected)
    vectors = model.encode(longer, longer_mask, event_features).objects
    torch.testing.assert_close(
        vectors[:, : mask.shape[1]],
        model.encode(objects, mask, event_features).objects,
        **TOLERANCE,  # type: ignore[arg-type]
    )
    assert (vectors[~longer_mask] == 0).all()


@hypothesis.given(batches(), RULES, st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_order_of_objects(batch: tuple[Tensor, Tensor, Tensor], rules: str, seed: int) -> None:
    objects, mask, event_features = batch
    model = network(rules)
    order = torch.randperm(mask.shape[1], generator=torch.Generator().manual_seed(seed))
    encoding = model.encode(objects, mask, event_features)
    permuted = model.encode(objects[:, order], mask[:, order], event_features)
    torch.testing.assert_close(permuted.objects, encoding.objects[:, order], **TOLERANCE)  # type: ignore[arg-type]
    torch.testing.assert_close(permuted.event, encoding.event, **TOLERANCE)  # type: ignore[arg-type]
    compare(model(objects[:, order], mask[:, order], event_features), model(objects, mask, event_features))


@hypothesis.given(batches(), RULES)
@hypothesis.settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_company_in_the_batch(batch: tuple[Tensor, Tensor, Tensor], rules: str) -> None:
    objects, mask, event_features = batch
    model = network(rules)
    together = model(objects, mask, event_features)["classification"]
    for i in range(len(mask)):
        real = (
            mask[i] if mask[i].any() else torch.arange(len(mask[i])) < 1
        )  # alone, and trimmed to its objects
        alone = model(objects[i : i + 1, real], mask[i : i + 1, real], event_features[i : i + 1])
        compare(alone, {"classification": together[i : i + 1]})


@hypothesis.given(batches(), st.integers(-2, 2))
@hypothesis.settings(deadline=None, max_examples=30)
@torch.no_grad()
def test_a_periodic_phi_knows_no_seam(batch: tuple[Tensor, Tensor, Tensor], turns: int) -> None:
    objects, mask, event_features = batch
    model = network("own")
    turned, turned_event = objects.clone(), event_features.clone()
    which = torch.arange(mask.shape[1]) % 2 == 0
    turned[:, which, 3] += 2 * math.pi * turns
    turned_event[:, 1] += 2 * math.pi * turns
    compare(model(turned, mask, turned_event), model(objects, mask, event_features))
    at_seam = [objects.clone(), objects.clone()]
    at_seam[0][..., 3], at_seam[1][..., 3] = math.pi - 1e-7, -math.pi + 1e-7
    compare(model(at_seam[0], mask, event_features), model(at_seam[1], mask, event_features))
