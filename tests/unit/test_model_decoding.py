"""The best consistent set of resonances."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evenet_hep.model.decoding import Method, decode_assignment, detection_probability
from evenet_hep.model.heads.assignment import ResonanceScores, allowed_cells
from evenet_hep.model.topology import Process, Resonance, Topology, TopologyError

TOPOLOGY = Topology.published()


def random_scores(
    mask: Tensor, topology: Topology, *, seed: int, sharpness: float = 1.0
) -> dict[str, ResonanceScores]:
    """Distributions with the symmetry of each resonance."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for resonance in topology.resonances:
        shape = (len(mask), *([mask.shape[1]] * len(resonance.daughters)))
        logits = sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)
        logits = torch.stack([logits.permute(0, *(i + 1 for i in p)) for p in resonance.permutations]).mean(
            dim=0
        )
        flat = logits.masked_fill(~allowed_cells(mask, len(resonance.daughters)), -torch.inf).flatten(1)
        possible = flat.isfinite().any(dim=1, keepdim=True)
        log_p = torch.where(possible, flat.masked_fill(~possible, 0.0).log_softmax(dim=1), -torch.inf)
        multiplicity = torch.randn(len(mask), topology.max_multiplicity + 1, generator=generator)
        scores[resonance.name] = ResonanceScores(log_p.reshape(shape), multiplicity)
    return scores


def best_by_trying_everything(
    scores: dict[str, ResonanceScores], event: int, process: Process, topology: Topology
) -> float:
    """Logarithm of the largest product over disjoint cells."""
    options = []
    for name, kind in process.resonances:
        own = scores.get(f"{process.name}/{name}", scores[kind])
        resonance, table = topology.resonance(kind), own.assignment[event].numpy()
        cells = [
            (math.log(resonance.order) + table[cell], set(cell))
            for cell in np.ndindex(table.shape)
            if np.isfinite(table[cell])
        ]
        options.append(cells)
    best = -math.inf
    for combination in itertools.product(*options):
        union: set[int] = set().union(*(cell for _, cell in combination))
        if len(union) == sum(len(cell) for _, cell in combination):
            best = max(best, float(sum(value for value, _ in combination)))
    return best


@pytest.mark.parametrize("process", ["TT1L", "TTHadronics", "ZZ_2L", "ZZ_4L", "WZ_3L", "ttW_tHtLWL"])
def test_best_set_is_the_best_of_all(process: str) -> None:
    counts = torch.tensor([3, 4, 5, 6, 6])
    mask = torch.arange(6) < counts[:, None]
    scores = random_scores(mask, TOPOLOGY, seed=3, sharpness=2.0)
    found = decode_assignment(scores, mask, process, TOPOLOGY)
    grammar = TOPOLOGY.process(process)
    for event in range(len(mask)):
        expected = best_by_trying_everything(scores, event, grammar, TOPOLOGY)
        if math.isfinite(expected):
            assert float(found.probability[event].double().log().sum()) == pytest.approx(expected, rel=1e-4)
        else:
            assert (found.probability[event] == 0).any()
        used = found.indices[event][found.indices[event] >= 0].tolist()
        assert len(set(used)) == len(used)
        assert all(index < counts[event] for index in used)


@pytest.mark.parametrize("method", ["best", "greedy"])
def test_resonances_of_one_kind_with_distributions_of_their_own(method: Method) -> None:
    mask = torch.arange(7) < torch.tensor([5, 6, 7, 7, 7])[:, None]
    scores = random_scores(mask, TOPOLOGY, seed=3, sharpness=2.0)
    scores["TTHadronics/t2"] = random_scores(mask, TOPOLOGY, seed=4, sharpness=2.0)["t/bqq"]
    found = decode_assignment(scores, mask, "TTHadronics", TOPOLOGY, method=method)
    grammar = TOPOLOGY.process("TTHadronics")
    for event in range(1, len(mask)):
        total = float(found.probability[event].double().log().sum())
        best = best_by_trying_everything(scores, event, grammar, TOPOLOGY)
        assert total == pytest.approx(best, rel=1e-4) if method == "best" else total < best + 1e-6
        one, other = (tuple(each) for each in found.indices[event].tolist())
        for first, second in (
            (one, other),
            (other, one),
        ):  # the more probable one stands first, whichever it is
            both = [scores[n].assignment[(event, *c)] + math.log(2) for n, c in (("t/bqq", first), ("TTHadronics/t2", second))]  # fmt: skip
            if sorted(float(x.exp()) for x in both) == pytest.approx(sorted(found.probability[event].tolist()), rel=1e-4):  # fmt: skip
                break
        else:
            pytest.fail("no distribution gives these probabilities")
        assert found.probability[event, 0] >= found.probability[event, 1]


def test_many_cells_are_looked_at_where_few_do_not_suffice() -> None:
    # Both tops want the same b: the second finds none of its first 64 cells free.
    topology = Topology(
        (Resonance("x", ("a", "b")), Resonance("y", ("a", "b"))), (Process("P", (("x", "x"), ("y", "y"))),)
    )
    slots = 14
    mask = torch.ones(2, slots, dtype=torch.bool)
    scores = random_scores(mask, topology, seed=1)
    crowded = scores["y"].assignment.clone()
    crowded[:, 0] += 30.0
    crowded[:, :, 0] += 29.0
    crowded[:, 1] += 28.0
    crowded[:, :, 1] += 27.0
    crowded[:, 2] += 26.0
    crowded[:, :, 2] += 25.0
    log_p = crowded.flatten(1).log_softmax(dim=1).reshape(crowded.shape)
    alone = torch.full_like(scores["x"].assignment, -torch.inf)
    alone[:, 0, 1] = 0.0
    scores = {
        "x": ResonanceScores(alone, scores["x"].multiplicity),
        "y": ResonanceScores(log_p, scores["y"].multiplicity),
    }
    methods: tuple[Method, ...] = ("best", "greedy")
    for method in methods:
        found = decode_assignment(scores, mask, "P", topology, method=method)
        for event in range(2):
            free = log_p[event, 2:, 2:]
            expected = np.unravel_index(int(free.argmax()), free.shape)
            assert found.indices[event].tolist() == [[0, 1], [int(i) + 2 for i in expected]]


def test_greedy_takes_the_best_first() -> None:
    topology = Topology.shipped("higgs_to_4b")
    # {0,1} is the most probable pair, but leaves {2,3}, which is nearly impossible.
    pairs = {(0, 1): 0.4, (2, 3): 0.001, (0, 2): 0.3, (1, 3): 0.299}
    table = torch.full((1, 4, 4), -torch.inf)
    for (i, j), p in pairs.items():
        table[0, i, j] = table[0, j, i] = math.log(p / 2)
    scores = {"a/bb": ResonanceScores(table, torch.zeros(1, 3))}
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert decode_assignment(scores, mask, "HAA4B", topology).indices.tolist() == [[[0, 2], [1, 3]]]
    greedy = decode_assignment(scores, mask, "HAA4B", topology, method="greedy")
    assert greedy.indices.tolist() == [[[0, 1], [2, 3]]]
    torch.testing.assert_close(greedy.probability, torch.tensor([[0.4, 0.001]]))


def test_as_many_resonances_as_there_is_room_for() -> None:
    mask = torch.tensor([[False] * 4, [True, False, False, False], [True, True, True, False]])
    scores = random_scores(mask, TOPOLOGY, seed=9)
    found = decode_assignment(scores, mask, "TT1L", TOPOLOGY)
    assert (found.indices[:2] == -1).sum() == 2 * 6
    placed = (found.indices[2] >= 0).all(dim=1) | torch.tensor([False, found.indices[2, 1, 1] >= 0])
    assert placed.sum() == 1
    assert (found.probability[2] > 0).sum() == 1


def test_uniform_distributions_of_impossible_events_place_nothing() -> None:
    mask = torch.tensor([[True, False, False]])
    uniform = torch.full((1, 3, 3), -2 * math.log(18))
    scores = {"a/bb": ResonanceScores(uniform, torch.zeros(1, 3))}
    found = decode_assignment(scores, mask, "HAA4B", Topology.shipped("higgs_to_4b"))
    assert (found.indices == -1).all()
    assert (found.probability == 0).all()


def test_detection_counts_resonances_of_a_kind() -> None:
    probability = torch.tensor([[0.1, 0.3, 0.4, 0.2]])
    torch.testing.assert_close(detection_probability(probability.log()), torch.tensor([[0.9, 0.6, 0.2]]))
    mask = torch.ones(1, 8, dtype=torch.bool)
    scores = random_scores(mask, TOPOLOGY, seed=2)
    found = decode_assignment(scores, mask, "TTHadronics", TOPOLOGY)
    torch.testing.assert_close(found.detection, detection_probability(scores["t/bqq"].multiplicity))
    assert found.probability[0, 0] >= found.probability[0, 1]


def test_order_of_the_objects_and_padding_do_not_matter() -> None:
    mask = torch.arange(7) < torch.tensor([5, 6, 7])[:, None]
    scores = random_scores(mask, TOPOLOGY, seed=5)
    found = decode_assignment(scores, mask, "ttW_tHtLWL", TOPOLOGY)
    padded = {
        kind: ResonanceScores(
            torch.nn.functional.pad(each.assignment, (0, 3) * (each.assignment.ndim - 1), value=-torch.inf),
            each.multiplicity,
        )
        for kind, each in scores.items()
    }
    wide = decode_assignment(padded, torch.nn.functional.pad(mask, (0, 3)), "ttW_tHtLWL", TOPOLOGY)
    for ours, theirs in zip(found, wide, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_events_and_wrong_questions() -> None:
    mask = torch.ones(0, 4, dtype=torch.bool)
    scores = random_scores(mask, TOPOLOGY, seed=5)
    assert decode_assignment(scores, mask, "TT1L", TOPOLOGY).indices.shape == (0, 2, 3)
    with pytest.raises(TopologyError, match="there is no process 'TT'"):
        decode_assignment(scores, mask, "TT", TOPOLOGY)
    with pytest.raises(ValueError, match="method must be 'best' or 'greedy'; found 'lucky'"):
        decode_assignment(scores, mask, "TT1L", TOPOLOGY, method="lucky")  # type: ignore[arg-type]
    wide = torch.ones(1, 65, dtype=torch.bool)
    narrow = Topology((Resonance("x", ("a",)),), (Process("P", (("x", "x"),)),))
    with pytest.raises(ValueError, match="at most 64 objects; found 65"):
        decode_assignment(random_scores(wide, narrow, seed=1), wide, "P", narrow)
