from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.model.heads.assignment import (
    AssignmentConfig,
    AssignmentHead,
    ResonanceScores,
    allowed_cells,
)
from evenet_hep.model.heads.assignment_loss import (
    AssignmentTargets,
    Equivalents,
    assignment_loss,
)
from evenet_hep.model.object_encoder import Encoding
from evenet_hep.model.topology import Process, Resonance, Topology

WIDTH = 8
TOPOLOGY = Topology(
    (
        Resonance("t/bqq", ("b", "q1", "q2"), (("q1", "q2"),), mass=172.5, b_jets=1, jets=3),
        Resonance("t/bl", ("b", "l"), mass=172.5, b_jets=1, jets=1, leptons=1),
        Resonance("W/qq", ("q1", "q2"), (("q1", "q2"),), head="pair", mass=80.4, jets=2),
        Resonance("Z/ll", ("l1", "l2"), (("l1", "l2"),), head="pair", mass=91.2, leptons=2),
        Resonance("W/l", ("l",), mass=80.4, leptons=1),
        Resonance("X/abcd", ("a", "b", "c", "d"), (("a", "b"), ("c", "d")), mass=500.0, jets=4),
    ),
    (
        Process("TT", (("t1", "t/bqq"), ("t2", "t/bl"))),
        Process("HH", (("t1", "t/bqq"), ("t2", "t/bqq"), ("W", "W/l"))),
        Process("WW", (("W1", "W/qq"), ("W2", "W/qq"))),
        Process("Nothing", ()),
    ),
)
CONFIG = AssignmentConfig(TOPOLOGY, heads=2, type_width=4)


def build(config: AssignmentConfig = CONFIG, seed: int = 0) -> AssignmentHead:
    torch.manual_seed(seed)
    head = AssignmentHead(WIDTH, capacity=18, config=config).eval()
    with torch.no_grad():  # logits of order one
        for name, parameter in head.named_parameters():
            if ".daughters." in name and parameter.ndim == 2:
                parameter.mul_(3)
    return head


def events(counts: list[int], slots: int, seed: int = 1) -> tuple[Encoding, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    objects = torch.randn(len(counts), slots, WIDTH, generator=generator) * mask[..., None]
    event, condition = torch.randn(2, len(counts), WIDTH, generator=generator).unbind()
    return Encoding(objects, event, condition), mask, torch.ones(len(counts), dtype=torch.bool)


def arguments(kind: str) -> int:
    return len(TOPOLOGY.resonance(kind).daughters)


@torch.no_grad()
def test_cells() -> None:
    """Symmetric, -inf for padding and repeated objects and nowhere else, and a probability."""
    counts = [4, 6, 5]
    encoding, mask, has_condition = events(counts, 6)
    for kind, scores in build()(encoding, mask, has_condition).items():
        log_p = scores.assignment
        assert log_p.shape == (3, *[6] * arguments(kind))
        assert scores.multiplicity.shape == (3, 3)
        for order in TOPOLOGY.resonance(kind).permutations:
            swapped = log_p.permute(0, *(axis + 1 for axis in order))
            torch.testing.assert_close(swapped, log_p, rtol=1e-6, atol=1e-6)
        for event, count in enumerate(counts):
            for cell in itertools.product(range(6), repeat=arguments(kind)):
                is_allowed = len(set(cell)) == len(cell) and max(cell) < count
                assert bool(log_p[(event, *cell)].isfinite()) == is_allowed
        total = log_p.exp().flatten(1).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(3), rtol=1e-5, atol=1e-5)
        spread = log_p[1][log_p[1].isfinite()]
        assert len(spread) == 1 or spread.std() > 1e-3  # not one number everywhere


@torch.no_grad()
def test_logits_are_the_product_of_the_daughters() -> None:
    """sum over c of prod_d y_d[i_d]_c / sqrt(D)^k, averaged over the group, one number after the other."""
    head = build()
    encoding, mask, has_condition = events([5], 5)
    for kind, scores in head(encoding, mask, has_condition).items():
        index = TOPOLOGY.kinds.index(kind)
        resonance, branch = TOPOLOGY.resonances[index], head.branches[TOPOLOGY.resonances[index].head]
        properties = head.property_embedding(head.properties[index : index + 1])
        token = branch.token(torch.cat([branch.encoder.event_token[None], properties], dim=1))  # type: ignore[index, operator, union-attr]
        encoded = branch.encoder(encoding.objects, mask, encoding.condition, has_condition, token=token)  # type: ignore[operator]
        y = [project(encoded.objects)[0].double() for project in branch.daughters]  # type: ignore[union-attr]
        logits = {}
        for cell in itertools.permutations(range(5), len(y)):
            terms = []
            for order in resonance.permutations:
                product = torch.ones(WIDTH, dtype=torch.float64)
                for daughter, place in enumerate(order):
                    product = product * y[daughter][cell[place]]
                terms.append(float(product.sum()) / math.sqrt(WIDTH) ** len(y))
            logits[cell] = sum(terms) / len(terms)
        log_sum = math.log(sum(math.exp(value) for value in logits.values()))
        for cell, value in logits.items():
            assert float(scores.assignment[(0, *cell)]) == pytest.approx(value - log_sum, abs=1e-5)


@torch.no_grad()
def test_properties_tell_resonances_of_one_head_apart() -> None:
    scores = build()(*events([5], 5))
    assert not torch.allclose(scores["W/qq"].assignment, scores["Z/ll"].assignment, atol=1e-3)
    standard = build().properties
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-5)
    spread = standard.std(dim=0, correction=0)
    assert spread.tolist() == pytest.approx([1, 0, 1, 1, 1, 0], abs=1e-5)  # no spin, no charge here
    given = dataclasses.replace(CONFIG, property_mean=(100, 0, 0, 0, 0, 0), property_std=(10, 1, 1, 2, 1, 1))
    assert build(given).properties[0].tolist() == pytest.approx([7.25, 0, 1, 1.5, 0, 0])


@torch.no_grad()
def test_a_subset_of_kinds() -> None:
    batch = events([5], 5)
    found = build()(*batch, kinds=["W/l"])
    assert list(found) == ["W/l"]
    assert torch.equal(found["W/l"].assignment, build()(*batch)["W/l"].assignment)


def test_names_that_separate_resonances_would_share_are_refused() -> None:
    pair = Resonance("a/bb", ("b1", "b2"), (("b1", "b2"),))
    processes = (Process("H", (("a1", "a/bb"), ("a2", "a/bb"))),)
    for other in (
        dataclasses.replace(pair, name="H/a2", head=""),
        dataclasses.replace(pair, name="x", head="a/bb 2"),
    ):
        topology = Topology((pair, other), processes)
        AssignmentConfig(topology)
        with pytest.raises(
            ConfigError, match=r"no kind or head named as one of its resonances; found .*(H/a2|a/bb 2)"
        ):
            AssignmentConfig(topology, separate=True)


@torch.no_grad()
def test_separate_resonances_of_a_kind_have_weights_of_their_own() -> None:
    batch = events([6, 5], 6)
    head, shared = build(dataclasses.replace(CONFIG, separate=True)), build()
    found = head(*batch)
    assert set(found) == {*TOPOLOGY.kinds, "HH/t2", "WW/W2"}
    for kind, own in (("t/bqq", "HH/t2"), ("W/qq", "WW/W2")):
        assert not torch.allclose(found[own].assignment, found[kind].assignment, atol=1e-3)
        assert torch.equal(found[own].multiplicity, found[kind].multiplicity)
        total = found[own].assignment.exp().flatten(1).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(2))
    assert set(head(*batch, kinds=["t/bqq", "W/l"])) == {"t/bqq", "W/l", "HH/t2"}
    # The first of a kind has the weights that the published layout knows by the name of the head.
    names, more = (set(each.state_dict()) for each in (shared, head))
    assert names < more
    assert all(name.split(".")[1] in ("t/bqq 2", "pair 2") for name in more - names)


@pytest.mark.parametrize("is_uniform", [False, True])
@torch.no_grad()
def test_fewer_objects_than_daughters(is_uniform: bool) -> None:
    head = build(dataclasses.replace(CONFIG, impossible_is_uniform=is_uniform))
    counts = [0, 1, 2, 3]
    scores = head(*events(counts, 3))
    for kind, found in scores.items():
        assert found.multiplicity.isfinite().all()
        for event, count in enumerate(counts):
            log_p = found.assignment[event]
            if count >= arguments(kind):
                assert log_p.exp().sum() == pytest.approx(1, abs=1e-5)
            elif is_uniform:  # of all cells of a full event, whatever the batch was trimmed to
                assert (log_p == -arguments(kind) * math.log(18)).all() or torch.allclose(
                    log_p, torch.full_like(log_p, -arguments(kind) * math.log(18))
                )
            else:
                assert (log_p == -math.inf).all()
    one_slot = head(*events([1, 0], 1))
    assert one_slot["W/l"].assignment[0].tolist() == [0.0]


@pytest.mark.parametrize("number", [1, 2, 17, 64])
@torch.no_grad()
def test_up_to_64_objects(number: int) -> None:
    kinds = [kind for kind in TOPOLOGY.kinds if arguments(kind) <= 3]
    for kind, scores in build()(*events([number, number // 2], number), kinds=kinds).items():
        total = scores.assignment.exp().flatten(1).sum(dim=1)
        possible = torch.tensor([number, number // 2]) >= arguments(kind)
        torch.testing.assert_close(total, possible.float(), rtol=1e-4, atol=1e-4)


def test_one_event_and_none_can_be_trained_on() -> None:
    head = build().train()
    for counts in ([5], [0], []):
        encoding, mask, has_condition = events(counts, 5)
        scores = head(encoding, mask, has_condition)
        targets = AssignmentTargets(
            torch.zeros(len(counts), dtype=torch.long), torch.arange(3).expand(len(counts), 3, 3) if counts == [5]
            else torch.full((len(counts), 3, 3), -1),
        )  # fmt: skip
        loss = assignment_loss(scores, targets, TOPOLOGY)
        (loss.assignment + loss.detection).backward()
        assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert all(buffer.isfinite().all() for buffer in head.buffers())


def test_properties_are_dropped_for_whole_events() -> None:
    head = build(dataclasses.replace(CONFIG, property_drop=0.5, dropout=0.0)).train()
    rows = head._drop(head.properties[0].expand(400, -1))
    is_dropped = (rows == 0).all(dim=1)
    assert 0.4 < float(is_dropped.float().mean()) < 0.6
    assert (rows[~is_dropped] == head.properties[0]).all()


def test_allowed_cells_against_counting() -> None:
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    for daughters in (1, 2, 3, 4):
        allowed = allowed_cells(mask, daughters)
        for cell in itertools.product(range(4), repeat=daughters):
            assert bool(allowed[(0, *cell)]) == (len(set(cell)) == daughters and 1 not in cell)
        assert not allowed[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topology": Topology(())}, "assignment.topology must be at least one resonance"),
        ({"detection_blocks": -1}, "assignment.detection_blocks must be at least 0; found -1"),
        ({"property_drop": 1.0}, "assignment.property_drop must be at least 0 and below 1"),
        ({"property_std": (1.0,)}, "assignment.property_std must be empty or one for each of mass, spin"),
        ({"property_std": (1.0, 0, 1, 1, 1, 1)}, "assignment.property_std must be positive"),
        ({"layers": 0}, "layers must be at least 1; found 0"),
    ],
)
def test_impossible_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]


# --- the loss --------------------------------------------------------------------------------------------------------


def random_scores(
    batch: int, slots: int, names: tuple[str, ...], seed: int = 0
) -> dict[str, ResonanceScores]:
    """Symmetric log-probabilities and logits that ask for a gradient; "process/resonance" names get their own."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name in (*TOPOLOGY.kinds[:5], *names):
        kind = name
        if name not in TOPOLOGY.kinds:
            process, slot = name.split("/")
            kind = dict(TOPOLOGY.process(process).resonances)[slot]
        resonance = TOPOLOGY.resonance(kind)
        logits = 2 * torch.randn(batch, *[slots] * len(resonance.daughters), generator=generator)
        logits = sum(logits.permute(0, *(a + 1 for a in order)) for order in resonance.permutations)  # type: ignore[assignment]
        allowed = allowed_cells(torch.ones(batch, slots, dtype=torch.bool), len(resonance.daughters))
        flat = logits.masked_fill(~allowed, -math.inf).flatten(1).log_softmax(dim=1)
        multiplicity = torch.randn(batch, 3, generator=generator)
        scores[name] = ResonanceScores(
            flat.unflatten(1, logits.shape[1:]).requires_grad_(), multiplicity.requires_grad_()
        )
    return scores


def random_targets(batch: int, slots: int, seed: int = 0) -> AssignmentTargets:
    generator = torch.Generator().manual_seed(seed)
    process = torch.randint(-1, 4, (batch,), generator=generator)
    indices = torch.full((batch, 3, 4), -1)
    for event in range(batch):
        if process[event] < 0:
            continue
        free = torch.randperm(slots, generator=generator).tolist()
        for slot, kind in enumerate(TOPOLOGY.processes[int(process[event])].kinds):
            for daughter in range(arguments(kind)):
                is_lost = torch.rand(1, generator=generator) < 0.15
                indices[event, slot, daughter] = -1 if is_lost else free.pop()
    indices[torch.rand(batch, 3, 4, generator=generator) < 0.2] = (
        1  # now and then one object for two daughters
    )
    return AssignmentTargets(process, indices)


def slow_loss(
    scores: Mapping[str, ResonanceScores],
    targets: AssignmentTargets,
    *,
    focal_gamma: float = 0.0,
    equivalents: Equivalents = "order",
    process_weight: Tensor | None = None,
    pattern_weight: Mapping[str, Tensor] | None = None,
    event_weight: Tensor | None = None,
) -> tuple[float, float]:
    """The same in plain loops over processes, events, event permutations and resonances."""
    assignment_means, detection_means = [], []
    for label, process in enumerate(TOPOLOGY.processes):
        events_of = [b for b in range(len(targets.process)) if int(targets.process[b]) == label]
        if not events_of or not process.resonances:
            continue
        loss = weights = detection = detection_weights = 0.0
        for b in events_of:
            weight = 1.0 if event_weight is None else float(event_weight[b])
            weight *= 1.0 if process_weight is None else float(process_weight[label])
            cells = [targets.indices[b, s, : arguments(k)].tolist() for s, k in enumerate(process.kinds)]
            complete = [min(cell) >= 0 and len(set(cell)) == len(cell) for cell in cells]
            for kind in dict.fromkeys(process.kinds):
                slots = [s for s, each in enumerate(process.kinds) if each == kind]
                name = f"{process.name}/{process.resonances[slots[0]][0]}"
                logits = scores[name if name in scores else kind].multiplicity[b].detach().double()
                detection -= weight * float(logits.log_softmax(0)[sum(complete[s] for s in slots)])
                detection_weights += weight
            best = math.inf
            for order in itertools.permutations(range(len(cells))):
                if any(process.kinds[s] != process.kinds[u] for s, u in enumerate(order)):
                    continue
                cost = 0.0
                for s, u in enumerate(order):
                    if not complete[u]:
                        continue
                    kind = process.kinds[s]
                    name = f"{process.name}/{process.resonances[s][0]}"
                    resonance = TOPOLOGY.resonance(kind)
                    number = resonance.order if equivalents == "order" else len(resonance.daughters)
                    log_q = float(
                        scores[name if name in scores else kind].assignment.detach()[(b, *cells[u])]
                    )
                    p = number * math.exp(log_q)
                    cost += -math.log(p) * (max(1 - p, 1e-6) ** focal_gamma if focal_gamma else 1.0)
                best = min(best, cost)
            if pattern_weight is not None and process.name in pattern_weight:
                bits = sum(2**s for s, is_complete in enumerate(complete) if is_complete)
                weight *= float(pattern_weight[process.name][bits])
            loss += weight * best
            weights += weight * sum(complete)
        assignment_means.append(loss / weights if weights else 0.0)
        detection_means.append(detection / detection_weights)
    mean = [sum(each) / len(each) if each else 0.0 for each in (assignment_means, detection_means)]
    return mean[0], mean[1]


OWN = ("TT/t2", "HH/t1", "HH/t2", "WW/W2")


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("equivalents", ["order", "daughters"])
@pytest.mark.parametrize("names", [(), OWN])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_loss_is_that_of_plain_loops(
    gamma: float, equivalents: Equivalents, names: tuple[str, ...], is_weighted: bool
) -> None:
    scores, targets = random_scores(40, 10, names), random_targets(40, 10)
    weights: dict[str, object] = {}
    if is_weighted:
        generator = torch.Generator().manual_seed(5)
        weights = {
            "process_weight": torch.tensor([0.5, 2.0, 1.0, 3.0]),
            "pattern_weight": {
                "TT": torch.rand(4, generator=generator),
                "HH": torch.rand(8, generator=generator),
            },
            "event_weight": 2 * torch.rand(40, generator=generator),
        }
    loss = assignment_loss(scores, targets, TOPOLOGY, focal_gamma=gamma, equivalents=equivalents, **weights)  # type: ignore[arg-type]
    expected = slow_loss(scores, targets, focal_gamma=gamma, equivalents=equivalents, **weights)  # type: ignore[arg-type]
    assert [float(part.detach()) for part in loss] == pytest.approx(expected, rel=1e-5)
    (loss.assignment + loss.detection).backward()
    for each in scores.values():
        for part in each:
            assert part.grad is None or part.grad.isfinite().all()


def test_minimum_over_event_permutations_matters() -> None:
    """Resonances of one kind with scores of their own: the targets may be given in either order."""
    scores, targets = random_scores(60, 10, OWN), random_targets(60, 10)
    swapped = targets.indices.clone()
    is_pair = (targets.process == 1) | (targets.process == 2)
    swapped[is_pair, 0], swapped[is_pair, 1] = (
        targets.indices[is_pair, 1],
        targets.indices[is_pair, 0],
    )
    one = assignment_loss(scores, targets, TOPOLOGY)
    two = assignment_loss(scores, AssignmentTargets(targets.process, swapped), TOPOLOGY)
    assert float(one.assignment.detach()) == pytest.approx(float(two.assignment.detach()), rel=1e-6)
    fixed = dataclasses.replace(
        TOPOLOGY,
        resonances=(
            *TOPOLOGY.resonances,
            dataclasses.replace(TOPOLOGY.resonances[0], name="t2/bqq", head="t/bqq"),
        ),
        processes=(
            TOPOLOGY.processes[0],
            Process("HH", (("t1", "t/bqq"), ("t2", "t2/bqq"), ("W", "W/l"))),
            *TOPOLOGY.processes[2:],
        ),
    )
    in_order = assignment_loss({**scores, "t2/bqq": scores["HH/t2"]}, targets, fixed)
    assert float(in_order.assignment.detach()) > float(one.assignment.detach()) + 0.05


def test_separate_resonances_are_matched_in_the_order_that_costs_least() -> None:
    head = build(dataclasses.replace(CONFIG, separate=True))
    with torch.no_grad():
        scores = head(*events([6], 6))
    one, other = [3, 0, 5], [1, 2, 4]
    first, second = (
        {
            order: -float(scores[name].assignment[(0, *order)]) - math.log(2)
            for order in (tuple(one), tuple(other))
        }
        for name in ("t/bqq", "HH/t2")
    )
    straight = first[tuple(one)] + second[tuple(other)]
    crossed = first[tuple(other)] + second[tuple(one)]
    assert abs(straight - crossed) > 0.01
    for tops in ([one, other], [other, one]):
        indices = torch.full((1, 3, 4), -1)
        indices[0, :2, :3] = torch.tensor(tops)
        loss = assignment_loss(scores, AssignmentTargets(torch.tensor([1]), indices), TOPOLOGY)
        assert float(loss.assignment) == pytest.approx(min(straight, crossed) / 2, rel=1e-5)


def test_focal_factor_knows_the_order_of_the_group() -> None:
    """t -> b l at p = 1/2: two cells of equal probability, of which one is right."""
    log_p = torch.full((1, 2, 2), -math.inf)
    log_p[0, 0, 1] = log_p[0, 1, 0] = math.log(0.5)
    pair = Topology(TOPOLOGY.resonances[1:2], (Process("T", (("t", "t/bl"),)),))
    targets = AssignmentTargets(torch.tensor([0]), torch.tensor([[[0, 1]]]))
    losses, gradients = {}, {}
    for equivalents in ("order", "daughters"):
        scores = {"t/bl": ResonanceScores(log_p.clone().requires_grad_(), torch.zeros(1, 2))}
        loss = assignment_loss(scores, targets, pair, focal_gamma=1.0, equivalents=equivalents).assignment
        loss.backward()
        losses[equivalents] = float(loss.detach())
        gradient = scores["t/bl"].assignment.grad
        assert gradient is not None
        gradients[equivalents] = float(gradient[0, 0, 1])
    assert losses["order"] == pytest.approx(math.log(2) * 0.5)
    # d/dl of -l (1 - e^l) at e^l = 1/2
    assert gradients["order"] == pytest.approx(-0.5 - 0.5 * math.log(2))
    assert losses["daughters"] == pytest.approx(0.0, abs=1e-9)
    assert gradients["daughters"] == pytest.approx(0.0, abs=1e-5)


def test_order_of_interchangeable_daughters_in_the_truth_means_nothing() -> None:
    scores, targets = random_scores(40, 10, ()), random_targets(40, 10)
    swapped = targets.indices.clone()
    for event, process in enumerate(targets.process.tolist()):
        for slot, kind in enumerate(TOPOLOGY.processes[process].kinds if process >= 0 else ()):
            if kind in ("t/bqq", "W/qq"):
                last = arguments(kind)
                swapped[event, slot, last - 2 : last] = targets.indices[event, slot, last - 2 : last].flip(0)
    one, two = (
        assignment_loss(scores, AssignmentTargets(targets.process, each), TOPOLOGY)
        for each in (targets.indices, swapped)
    )
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", [[], [-1, -1], [3, 3], [0, 0]])
def test_batches_in_which_nothing_counts(process: list[int]) -> None:
    scores = random_scores(len(process), 5, ())
    targets = AssignmentTargets(torch.tensor(process, dtype=torch.long), torch.full((len(process), 3, 4), -1))
    loss = assignment_loss(scores, targets, TOPOLOGY, focal_gamma=1.0)
    assert float(loss.assignment.detach()) == 0
    if process != [0, 0]:
        assert float(loss.detection.detach()) == 0
    (loss.assignment + loss.detection).backward()
    for each in scores.values():
        for part in each:
            assert part.grad is None or (part.grad == 0).all() or process == [0, 0]
            assert part.grad is None or part.grad.isfinite().all()


def test_padding_of_the_truth_means_nothing() -> None:
    scores, targets = random_scores(30, 10, ()), random_targets(30, 10)
    wider = torch.full((30, 5, 6), -1)
    wider[:, :3, :4] = targets.indices
    one, two = (
        assignment_loss(scores, AssignmentTargets(targets.process, each), TOPOLOGY)
        for each in (targets.indices, wider)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_gradient_of_the_loss_by_differences() -> None:
    scores, targets = random_scores(12, 8, ()), random_targets(12, 8, seed=3)
    logits = {
        name: each.assignment.detach().double().masked_fill(each.assignment.isinf(), 0)
        for name, each in scores.items()
    }
    multiplicity = {name: each.multiplicity.detach().double() for name, each in scores.items()}

    def loss(*flat: Tensor) -> Tensor:
        parts = dict(zip(logits, flat, strict=True))
        found = {name: ResonanceScores(part, multiplicity[name]) for name, part in parts.items()}
        return assignment_loss(found, targets, TOPOLOGY, focal_gamma=2.0).assignment

    given = tuple((part - 4).requires_grad_() for part in logits.values())
    assert torch.autograd.gradcheck(loss, given, fast_mode=True)
