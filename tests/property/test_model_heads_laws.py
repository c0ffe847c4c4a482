"""Laws of all heads: order of objects, padding and company in a batch mean nothing; symmetries are those of the grammar."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.model import neighbours
from evenet_hep.model.diffusion import add_noise, data_of, noise_of, sample
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.generation import (
    encode_noised,
    global_velocity,
    invisible_velocity,
    noise_objects,
    object_velocity,
    sample_globals,
    sample_invisible,
    sample_objects,
)
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.assignment_loss import AssignmentTargets, assignment_loss
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    InvisibleGenerationConfig,
    ObjectGenerationConfig,
    velocity_loss,
)
from evenet_hep.model.heads.regression import RegressionConfig, RegressionTarget
from evenet_hep.model.heads.segmentation import SegmentationConfig
from evenet_hep.model.topology import Process, Resonance, Topology
from evenet_hep.schema import EventSchema
from evenet_hep.share import find_checkpoint

TOPOLOGY = Topology.shipped("bbww")
RULES = st.sampled_from(["own", "published"])
CLOSE = 2e-4  # absolute, for numbers of order one after a few dozen layers in single precision


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Batches this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def network(rules: str) -> EveNet:
    """All heads on a tiny body, with random weights of order one in every part."""
    is_own, tiny = rules == "own", EveNetConfig.tiny()
    classes = ("a", "b", "c")
    schema = EventSchema.standard(classes=classes) if is_own else EventSchema.published(classes=classes)
    config = dataclasses.replace(
        tiny,
        pet=dataclasses.replace(
            tiny.pet, phantom_neighbours=not is_own, neighbours_see_attention_mask=is_own
        ),
        assignment=AssignmentConfig(TOPOLOGY, type_width=4, impossible_is_uniform=not is_own),
        segmentation=SegmentationConfig(TOPOLOGY.segments, heads=4, layers=2, attends_padding=not is_own),
        regression=RegressionConfig((RegressionTarget("XYH/mass"), RegressionTarget("TT/mass")), width=16),
        object_generation=ObjectGenerationConfig(conditions=("met",)),
        invisible_generation=InvisibleGenerationConfig(columns="projected" if is_own else "padded"),
        global_generation=GlobalGenerationConfig(targets=("ht",)),
    )
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


@st.composite
def batches(draw: st.DrawFn, *, most: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Physical events with zero to ``most`` objects that stand anywhere in ``most`` slots."""
    number = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, most), min_size=number, max_size=number))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    uniform = torch.rand(8, number, most, generator=generator)
    pt, eta, phi = 15 + 150 * uniform[0] ** 3, 5 * uniform[1] - 2.5, math.pi * (2 * uniform[2] - 1)
    flags = [(column > 0.5).float() for column in uniform[3:5]]
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, *flags, torch.sign(uniform[5] - 0.5)], dim=-1)
    mask = uniform[6].argsort(dim=1).argsort(dim=1) < torch.tensor(counts)[:, None]
    event_features = 100 * torch.rand(number, 10, generator=generator)
    event_features[:, 1] = math.pi * (2 * uniform[7, :, 0] - 1)
    return torch.where(mask[..., None], objects, 0.0), mask, event_features


def axes(name: str, value: Tensor) -> list[int]:
    """Which axes of an output count objects."""
    if name.startswith("assignment/"):
        return list(range(1, value.ndim))
    return [2] if name == "segmentation/masks" else []


def comparable(name: str, value: Tensor) -> Tensor:
    """Probabilities in place of logarithms and of logits of -1e9."""
    if name.startswith("assignment/"):
        return value.exp()
    return value.sigmoid() if name == "segmentation/masks" else value


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            comparable(name, found[name]), comparable(name, value), rtol=CLOSE, atol=CLOSE, msg=name
        )


@hypothesis.given(batches(), RULES, st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=10)
@torch.no_grad()
def test_order_of_objects(batch: tuple[Tensor, Tensor, Tensor], rules: str, seed: int) -> None:
    objects, mask, event_features = batch
    model = network(rules)
    order = torch.randperm(mask.shape[1], generator=torch.Generator().manual_seed(seed))
    expected = model(objects, mask, event_features)
    for name, value in expected.items():
        for axis in axes(name, value):
            value = value.index_select(axis, order)  # noqa: PLW2901
        expected[name] = value
    compare(model(objects[:, order], mask[:, order], event_features), expected)


@hypothesis.given(batches(), RULES, st.integers(0, 20), st.sampled_from([0.0, math.nan, -1e9]))
@hypothesis.settings(deadline=None, max_examples=12)
@torch.no_grad()
def test_padding_and_what_it_holds(
    batch: tuple[Tensor, Tensor, Tensor], rules: str, more: int, garbage: float
) -> None:
    objects, mask, event_features = batch
    model = network(rules)
    expected = model(objects, mask, event_features)
    dirty = F.pad(torch.where(mask[..., None], objects, garbage), (0, 0, 0, more), value=garbage)
    found = model(dirty, F.pad(mask, (0, more)), event_features)
    for name, value in found.items():
        for axis in axes(name, value):
            value = value.narrow(axis, 0, mask.shape[1])  # noqa: PLW2901
        found[name] = value
    compare(found, expected)


@hypothesis.given(batches(), RULES)
@hypothesis.settings(deadline=None, max_examples=8)
@torch.no_grad()
def test_company_and_buckets(batch: tuple[Tensor, Tensor, Tensor], rules: str) -> None:
    """An event alone, trimmed to its objects, gives what it gives in a batch."""
    objects, mask, event_features = batch
    model = network(rules)
    together = model(objects, mask, event_features)
    for i in range(len(mask)):
        real = mask[i].nonzero()[:, 0] if mask[i].any() else torch.tensor([0])
        expected = {name: value[i : i + 1] for name, value in together.items()}
        for name, value in expected.items():
            for axis in axes(name, value):
                value = value.index_select(axis, real)  # noqa: PLW2901
            expected[name] = value
        compare(model(objects[i : i + 1, real], mask[i : i + 1, real], event_features[i : i + 1]), expected)


@hypothesis.given(batches(), RULES)
@hypothesis.settings(deadline=None, max_examples=15)
@torch.no_grad()
def test_assignments_are_symmetric_probabilities(batch: tuple[Tensor, Tensor, Tensor], rules: str) -> None:
    model, mask = network(rules), batch[1]
    outputs = model(*batch)
    for resonance in TOPOLOGY.resonances:
        log_p = outputs[f"assignment/{resonance.name}"]
        k = len(resonance.daughters)
        for order in resonance.permutations:
            torch.testing.assert_close(log_p.permute(0, *(axis + 1 for axis in order)), log_p)
        for event, real in enumerate(mask):
            count = int(real.sum())
            if count < k:
                assert (log_p[event] == log_p[event].flatten()[0]).all()
                continue
            assert float(log_p[event].exp().sum()) == pytest.approx(1, abs=1e-4)
            assert int(log_p[event].isfinite().sum()) == math.perm(count, k)


@st.composite
def grammars(draw: st.DrawFn) -> Topology:
    """A few resonances with random symmetric sets of daughters, and processes of them."""
    resonances = []
    for i in range(draw(st.integers(1, 4))):
        names = draw(st.permutations("abcd"))[: draw(st.integers(1, 4))]
        cuts = sorted(draw(st.lists(st.integers(0, len(names)), max_size=2)))
        sets = [names[a:b] for a, b in itertools.pairwise([0, *cuts])]
        mass, spin = (draw(st.floats(-500, 500)) for _ in range(2))
        segment = draw(st.sampled_from(["", "top", "W"]))
        resonances.append(Resonance(f"r{i}", tuple(sorted(names)), tuple(map(tuple, sets)), segment=segment, mass=mass, spin=spin))  # fmt: skip
    kinds = st.sampled_from([resonance.name for resonance in resonances])
    processes = [
        Process(f"P{i}", tuple((f"n{j}", kind) for j, kind in enumerate(draw(st.lists(kinds, max_size=4)))))
        for i in range(draw(st.integers(0, 3)))
    ]
    return Topology(tuple(resonances), tuple(processes))


@hypothesis.given(grammars())
@hypothesis.settings(deadline=None, max_examples=60)
def test_groups_of_any_grammar(topology: Topology) -> None:
    for resonance in topology.resonances:
        group, identity = resonance.permutations, tuple(range(len(resonance.daughters)))
        assert group[0] == identity
        assert resonance.order == len(group) == len(set(group))
        for one, two in itertools.product(group, repeat=2):  # closed, hence a group
            assert tuple(one[i] for i in two) in group
        # A pair is exchanged if and only if one set holds both.
        for i, j in itertools.combinations(identity, 2):
            swap = tuple({i: j, j: i}.get(k, k) for k in identity)
            pair = {resonance.daughters[i], resonance.daughters[j]}
            assert (swap in group) == any(pair <= set(names) for names in resonance.interchangeable)
    for process in topology.processes:
        expected = {
            order
            for order in itertools.permutations(range(len(process.kinds)))
            if tuple(process.kinds[i] for i in order) == process.kinds
        }
        assert set(process.permutations) == expected
        assert len(process.permutations) == len(expected)
    assert Topology.from_yaml(topology.to_yaml()) == topology


@hypothesis.given(grammars(), st.integers(0, 2**31), st.sampled_from([0.0, 1.0]))
@hypothesis.settings(deadline=None, max_examples=12)
def test_symmetries_of_the_truth_do_not_change_the_loss(topology: Topology, seed: int, gamma: float) -> None:
    """Equivalent daughters, and resonances of one kind, may be given in any order."""
    hypothesis.assume(any(process.resonances for process in topology.processes))
    torch.manual_seed(seed)
    config = AssignmentConfig(topology, heads=2, type_width=4, dropout=0.0)
    model = EveNet(
        dataclasses.replace(EveNetConfig.tiny(), classification=None, assignment=config),
        EventSchema.standard(),
    ).eval()
    batch, slots = 4, 6
    objects = 1 + 50 * torch.rand(batch, slots, 7)
    scores = model.apply_heads(
        model.encode(objects, torch.ones(batch, slots, dtype=torch.bool), torch.rand(batch, 10)),
        torch.ones(batch, slots, dtype=torch.bool),
    ).assignment
    process = torch.randint(0, len(topology.processes), (batch,))
    most = max(len(each.resonances) for each in topology.processes)
    indices = torch.randint(-1, slots, (batch, most, 4))
    other = indices.clone()
    for event, label in enumerate(process.tolist()):
        each = topology.processes[label]
        order = each.permutations[int(torch.randint(len(each.permutations), ()))]
        for slot, source in enumerate(order):
            group = topology.resonance(each.kinds[slot]).permutations
            daughters = torch.tensor(group[int(torch.randint(len(group), ()))])
            other[event, slot, : len(daughters)] = indices[event, source][daughters]
    one, two = (
        assignment_loss(scores, AssignmentTargets(process, given), topology, focal_gamma=gamma)
        for given in (indices, other)
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@hypothesis.given(st.floats(0, 1), st.floats(-1e3, 1e3), st.floats(-5, 5), st.integers(1, 30))
@hypothesis.settings(deadline=None, max_examples=60)
def test_velocities_at_any_time(time: float, value: float, noise: float, steps: int) -> None:
    x, e, t = (torch.tensor([each], dtype=torch.float64) for each in (value, noise, time))
    noised = add_noise(x, t, e)
    torch.testing.assert_close(data_of(noised.x, noised.velocity, t), x, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(noise_of(noised.x, noised.velocity, t), e, rtol=1e-12, atol=1e-10)
    start = add_noise(x, torch.ones_like(x), e).x
    for method in ("ddim", "midpoint"):
        found = sample(lambda _, at: add_noise(x, at, e).velocity, start, steps=steps, method=method)
        torch.testing.assert_close(found, add_noise(x, 0 * x, e).x, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("rules", ["own", "published"])
@torch.no_grad()
def test_every_head_in_bfloat16(rules: str) -> None:
    """Finite, close to single precision, and padding still means nothing."""
    model, counts = network(rules), [0, 1, 2, 5, 8]
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(8) < torch.tensor(counts)[:, None]
    objects = (1 + 50 * torch.rand(5, 8, 7, generator=generator)) * mask[..., None]
    event_features, time = 50 * torch.rand(5, 10, generator=generator), torch.linspace(0.1, 0.9, 5)
    label, invisible = torch.tensor([0, 1, 2, -1, 0]), torch.tensor([[True, False]] * 5)
    normal = torch.randn(5, 8, model.object_transform.width, generator=generator)
    columns = torch.randn(5, 2, model.invisible_transform.width, generator=generator) * invisible[..., None]

    def everything(more: int) -> dict[str, Tensor]:
        longer, real = F.pad(objects, (0, 0, 0, more), value=7.0), F.pad(mask, (0, more))
        found: dict[str, Tensor] = model(longer, real, event_features)
        for name, value in found.items():
            for axis in axes(name, value):
                value = value.narrow(axis, 0, 8)  # noqa: PLW2901
            found[name] = comparable(name, value)
        noised, _ = noise_objects(model, longer, real, time, F.pad(normal, (0, 0, 0, more)), hide=True)
        encoded = encode_noised(model, noised, real, event_features)
        found["objects"] = object_velocity(model, noised, encoded, real, label=label)[:, :8]
        assert (found["objects"][~mask] == 0).all()
        found["invisible"] = invisible_velocity(model, columns, invisible, time, longer, real, event_features)
        assert (found["invisible"][~invisible] == 0).all()
        found["globals"] = global_velocity(model, normal[:, 0, :2], time, event_features, label=label)
        return found

    exact = everything(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, longer = everything(0), everything(5)
    for name, value in exact.items():
        assert mixed[name].isfinite().all(), name
        if name.startswith("assignment/"):
            assert mixed[name].dtype == torch.float32
        # A mask that is close to 1/2 may be attended in one precision and not in the other.
        if not name.startswith("segmentation"):
            scale = float(value.abs().max()) + 1
            torch.testing.assert_close(mixed[name].float(), value, rtol=0, atol=0.1 * scale, msg=name)
        torch.testing.assert_close(longer[name].float(), mixed[name].float(), rtol=0, atol=0.05, msg=name)
    for k, name in ((2, "assignment/Y/bb"), (3, "assignment/t/bqq"), (1, "assignment/W/l")):
        assert (mixed[name][:, 7, ...][torch.tensor(counts) < 8] == 0).all() or rules == "published"
        total = mixed[name].flatten(1).sum(dim=1)[torch.tensor(counts) >= k]
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rules", ["own", "published"])
def test_nothing_is_made_on_another_device(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory takes part in no operation with tensors of another one; it has no autocast."""
    monkeypatch.setattr(neighbours, "_gram_distances", lambda x: torch.cdist(x, x))
    model = copy.deepcopy(network(rules)).to("meta").train()
    objects, event_features = torch.zeros(3, 6, 7, device="meta"), torch.zeros(3, 10, device="meta")
    mask, label = objects[..., 0] > 0, torch.zeros(3, dtype=torch.long, device="meta")
    time, invisible = event_features[:, 0], mask[:, :2]
    outputs = model(objects, mask, event_features)
    assert all(value.device.type == "meta" for value in outputs.values())
    noise = torch.zeros(3, 6, model.object_transform.width, device="meta")
    noised, truth = noise_objects(model, objects, mask, time, noise, selected=mask, hide=True)
    encoded = encode_noised(model, noised, mask, event_features)
    velocity = object_velocity(model, noised, encoded, mask, label=label)
    assert velocity_loss(velocity, truth, noised.noised, event_weight=time).device.type == "meta"
    assert model.regression is not None
    values = outputs["regression"]
    assert model.regression.loss(values, values, values > 0, event_weight=time).device.type == "meta"
    drawn = sample_objects(model, mask, event_features, label=label, steps=1)
    neutrinos = sample_invisible(model, objects, mask, event_features, invisible, label=label, steps=1)
    event = sample_globals(model, event_features, label=label, steps=1)
    for each in (drawn, neutrinos.features, event.n_objects, event.event_features):
        assert each.device.type == "meta"


def totals(objects: Tensor, mask: Tensor, met: Tensor) -> Tensor:
    """The event features (B, 10) that belong to the objects, in the order of the published schema."""
    energy, pt, eta, phi, btag, is_lepton, _ = objects.unbind(dim=-1)
    momentum = torch.stack([energy, pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], dim=-1)

    def mass(chosen: Tensor) -> Tensor:
        square = ((momentum * chosen[..., None]).sum(dim=1) ** 2) @ torch.tensor([1.0, -1.0, -1.0, -1.0])
        return square.clamp(min=0).sqrt()

    lepton, jet = mask * is_lepton, mask * (1 - is_lepton)
    bjet = jet * btag
    numbers = [each.sum(dim=1) for each in (lepton, bjet, jet, jet * pt, lepton * pt)]
    return torch.stack([*met.unbind(dim=1), *numbers, *map(mass, (mask.float(), lepton, bjet))], dim=1)


@torch.no_grad()
def test_shipped_network_in_bfloat16() -> None:
    """It is narrow and stays in single precision; rounded, no probability would change by more than 0.0005."""
    generator = torch.Generator().manual_seed(0)
    number, most = 400, 8
    uniform = torch.rand(8, number, most, generator=generator)
    pt, eta, phi = 15 + 150 * uniform[0] ** 3, 5 * uniform[1] - 2.5, math.pi * (2 * uniform[2] - 1)
    btag, is_lepton = ((uniform[3] > 0.6) & (uniform[3] < 0.8)).float(), (uniform[3] > 0.8).float()
    charge = torch.sign(uniform[5] - 0.5) * is_lepton
    mask = torch.arange(most) < torch.randint(0, most + 1, (number, 1), generator=generator)
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, btag, is_lepton, charge], dim=-1)
    objects = torch.where(mask[..., None], objects, 0.0)
    met = torch.stack([100 * uniform[7, :, 1], math.pi * (2 * uniform[7, :, 0] - 1)], dim=1)
    given = objects, mask, totals(objects, mask, met)
    exact = demo()(*given)["classification"].softmax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = demo()(*given)["classification"].float().softmax(dim=1)
    change = (mixed - exact).abs().amax(dim=1)
    assert float(change.max()) < 1e-5


@functools.cache
def demo() -> EveNet:
    return EveNet.from_pretrained(find_checkpoint("demo"))
