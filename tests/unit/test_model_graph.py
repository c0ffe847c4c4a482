"""Graph network: sizes, laws, losses, files and what the Predictor makes of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema, Feature, Predictor
from evenet_hep.errors import CheckpointError, ConfigError, PredictionError
from evenet_hep.model.graph import GraphConfig, GraphNetwork, multilabel_loss, pair_features
from evenet_hep.model.pairs import pair_up, sum_runs

CLASSES = tuple("abcdefghijkl")
SMALL = GraphConfig(width=16, hidden=24)


def events(
    counts: list[int], *, slots: int = 9, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    objects = torch.rand(len(counts), slots, 7, generator=generator) * torch.tensor([90, 80, 4, 6, 1, 1, 1])
    objects[..., 2:4] -= torch.tensor([2.0, 3.0])
    event_features = torch.rand(len(counts), 10, generator=generator) * 50
    return torch.where(mask[..., None], objects, 0.0), mask, event_features


@pytest.fixture
def network() -> GraphNetwork:
    torch.manual_seed(3)
    return GraphNetwork(SMALL, EventSchema.standard(classes=CLASSES)).eval()


@pytest.mark.parametrize("config", [GraphConfig(), GraphConfig(shared=False, hidden=64)])
def test_sizes_of_the_paper(config: GraphConfig) -> None:
    model = GraphNetwork(config, EventSchema.standard(classes=CLASSES))
    assert sum(p.numel() for p in model.output.parameters()) == 832
    tolerance = 0.02 if config.shared else 0.06  # "about 400 000"; the default is the size that was aimed at
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(400_000, rel=tolerance)
    labels = tuple(f"label{i}" for i in range(41))
    multilabel = GraphNetwork(dataclasses.replace(config, labels=labels, counts=5), EventSchema.standard())
    assert sum(p.numel() for p in multilabel.output.parameters()) == 2688
    assert len(model.steps) == (1 if config.shared else 4)


def test_shared_steps_are_one_module_run_four_times(network: GraphNetwork) -> None:
    calls: list[int] = []
    network.steps[0].register_forward_hook(lambda *_: calls.append(1))
    network(*events([3]))
    assert len(calls) == 4


def test_padding_order_and_company_change_nothing(network: GraphNetwork) -> None:
    objects, mask, event_features = events([5, 0, 1, 7, 2, 5])
    with torch.inference_mode():
        expected = network(objects, mask, event_features)["classification"]
        assert expected.isfinite().all()
        for row in range(6):  # alone, without padding
            slots = max(1, int(mask[row].sum()))
            alone = (
                objects[row : row + 1, :slots],
                mask[row : row + 1, :slots],
                event_features[row : row + 1],
            )
            torch.testing.assert_close(network(*alone)["classification"][0], expected[row])
        turn = torch.randperm(9, generator=torch.Generator().manual_seed(0))  # holes in the mask, too
        garbage = torch.where(mask[..., None], objects, 1e30)[:, turn]
        torch.testing.assert_close(
            network(garbage, mask[:, turn], event_features)["classification"], expected
        )


def test_a_full_turn_and_the_edge_at_pi_change_nothing(network: GraphNetwork) -> None:
    objects, mask, event_features = events([4, 6])
    turned = objects.clone()
    turned[..., 3] = torch.where(mask, objects[..., 3] + 2 * math.pi, 0.0)
    with torch.inference_mode():
        a, b = (network(x, mask, event_features)["classification"] for x in (objects, turned))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    near = pair_features(torch.tensor([0.0, math.pi - 1e-4]), torch.tensor([0.0, 1e-4]))
    beyond = pair_features(torch.tensor([0.0, math.pi + 1e-4]), torch.tensor([0.0, -1e-4]))
    torch.testing.assert_close(near, beyond, atol=1e-3, rtol=0)


def test_the_masked_layout_gives_what_the_rows_give(
    network: GraphNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = events([5, 0, 1, 7])
    with torch.inference_mode():
        expected = network.stages(*batch)
        monkeypatch.setattr(
            torch.compiler, "is_compiling", lambda: True
        )  # as in an exported network: one group with a mask
        assert pair_up(batch[1]).is_pair is not None
        found = network.stages(*batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_a_step_is_what_it_says(aggregation: str) -> None:
    torch.manual_seed(0)
    config = GraphConfig(width=6, hidden=5, depth=2, aggregation=aggregation)  # type: ignore[arg-type]
    model = GraphNetwork(config, EventSchema.standard(classes=CLASSES)).eval().double()
    objects, mask, event_features = (x.double() if x.is_floating_point() else x for x in events([3]))
    step = model.steps[0]

    def run(name: str, *parts: torch.Tensor) -> torch.Tensor:
        perceptron = step.get_submodule(name)
        first, rest = perceptron.get_submodule("first"), perceptron.get_submodule("rest")
        result: torch.Tensor = rest(first(torch.cat(parts)))
        return result

    def collect(vectors: list[torch.Tensor]) -> torch.Tensor:
        total = torch.stack(vectors)
        return total.mean(dim=0) if aggregation == "mean" else total.sum(dim=0)

    with torch.inference_mode():
        pairs = pair_up(mask)
        state = model._embed(objects, mask, event_features, pairs)
        found = step(state, pairs)
        ends = [(s, r) for r in range(3) for s in range(3) if s != r]
        u = state.event[0]
        edges = {
            (s, r): state.edges[k] + run("edge", state.edges[k], state.nodes[s], state.nodes[r], u)
            for k, (s, r) in enumerate(ends)
        }
        received = [collect([edges[s, r] for s in range(3) if s != r]) for r in range(3)]
        nodes = [state.nodes[r] + run("node", state.nodes[r], received[r], u) for r in range(3)]
        event = u + run("event", u, collect(nodes), collect(received))
    torch.testing.assert_close(found.edges, torch.stack([edges[pair] for pair in ends]))
    torch.testing.assert_close(found.nodes, torch.stack(nodes))
    torch.testing.assert_close(found.event[0], event)


def test_edges_see_angles_between_objects(network: GraphNetwork) -> None:
    """Nodes alone know eta and phi, too: only the edge encoder must see both ends."""
    sender, receiver = torch.tensor([1.2, 3.1]), torch.tensor([-0.3, -3.0])
    d_phi = 3.1 + 3.0 - 2 * math.pi
    expected = [1.5, math.cos(d_phi), math.sin(d_phi), math.hypot(1.5, d_phi)]
    assert pair_features(sender, receiver).tolist() == pytest.approx(expected, abs=1e-5)
    pairs = pair_up(torch.tensor([[True, True, True]]))
    assert set(zip(pairs.sender.tolist(), pairs.receiver.tolist(), strict=True)) == set(
        itertools.permutations(range(3), 2)
    )


def test_multilabel_loss_by_hand() -> None:
    values = torch.tensor([[2.0, 0.5, 1.0], [0.0, -1.0, 0.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])

    def entropy(logit: float, target: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p if target else 1 - p)

    per_label = [(1.0 + 4.0) / 2, (entropy(0.5, 1) + entropy(-1, 0)) / 2, (entropy(1, 0) + entropy(0, 1)) / 2]
    assert float(multilabel_loss(values, targets, counts=1)) == pytest.approx(np.mean(per_label), rel=1e-6)
    weight = torch.tensor([3.0, 1.0])
    rows = [(1 + entropy(0.5, 1) + entropy(1, 0)) / 3, (4 + entropy(-1, 0) + entropy(0, 1)) / 3]
    expected = (3 * rows[0] + rows[1]) / 4
    found = multilabel_loss(values, targets, counts=1, event_weight=weight)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_gradients_of_events_without_pairs(network: GraphNetwork) -> None:
    network(*events([0, 1]))["classification"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_files_come_back_and_refuse_the_wrong_class(network: GraphNetwork, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "graph", card="# a graph network\n")
    again = GraphNetwork.from_pretrained(tmp_path / "graph")
    batch = events([4, 2])
    with torch.inference_mode():
        assert torch.equal(again(*batch)["classification"], network(*batch)["classification"])
    assert (again.config, again.schema) == (network.config, network.schema)
    with pytest.raises(CheckpointError, match=r"kind 'graph', not 'evenet'.*; GraphNetwork opens it"):
        EveNet.from_pretrained(tmp_path / "graph")
    EveNet(EveNetConfig.tiny(), network.schema).save_pretrained(tmp_path / "evenet")
    with pytest.raises(CheckpointError, match=r"kind 'evenet', not 'graph'.*; EveNet opens it"):
        GraphNetwork.from_pretrained(tmp_path / "evenet")
    config = json.loads((tmp_path / "graph" / "config.json").read_text())
    (tmp_path / "graph" / "config.json").write_text(json.dumps({**config, "kind": "tree"}))
    with pytest.raises(CheckpointError, match=r"kind 'tree'.*known are evenet, graph"):
        GraphNetwork.from_pretrained(tmp_path / "graph")
    with pytest.raises(
        CheckpointError, match="kind must be one of evenet, graph, jets, jet-kinematics; found 'tree'"
    ):
        Predictor(tmp_path / "graph").network()
    (tmp_path / "graph" / "config.json").write_text(json.dumps({**config, "widht": 3}))
    with pytest.raises(CheckpointError, match="unknown key 'widht'"):
        GraphNetwork.from_pretrained(tmp_path / "graph")


def test_bad_configurations_and_shapes_are_named(network: GraphNetwork) -> None:
    with pytest.raises(ConfigError, match="depth must be at least 2; found 1"):
        GraphConfig(depth=1)
    with pytest.raises(ConfigError, match="counts must be at least 0 and at most the 1 labels; found 2"):
        GraphConfig(labels=("a",), counts=2)
    with pytest.raises(ConfigError, match=r"schema\.classes must be names"):
        GraphNetwork(GraphConfig(), EventSchema.standard())
    schema = EventSchema(objects=(Feature("pt", "GeV", "log"),), classes=("a", "b"))
    with pytest.raises(ConfigError, match=r"features with eta and phi; found \('pt',\)"):
        GraphNetwork(GraphConfig(), schema)
    objects, mask, event_features = events([2])
    with pytest.raises(ValueError, match=r"objects must have shape \(B, N, 7\)"):
        network(objects[..., :6], mask, event_features)
    with pytest.raises(ValueError, match="mask must be bool"):
        network(objects, mask.float(), event_features)
    with pytest.raises(ValueError, match=r"event_features must have shape \(1, 10\)"):
        network(objects, mask, event_features[:, :9])


def test_no_event_features(tmp_path: Path) -> None:
    schema = dataclasses.replace(EventSchema.standard(classes=("a", "b")), event_features=())
    model = GraphNetwork(SMALL, schema).eval()
    objects, mask, _ = events([3, 1])
    assert model(objects, mask, torch.zeros(2, 0))["classification"].shape == (2, 2)


def test_predictor_calls_it_on_awkward_arrays(network: GraphNetwork, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "graph")
    objects, mask, event_features = events([5, 0, 1, 7] * 9, slots=18)
    cloud = EventCloud.from_arrays(objects.numpy(), mask.numpy(), event_features.numpy(), network.schema)
    predict = Predictor(tmp_path / "graph", heads=("classification", "embedding"))
    found = predict(cloud.to_awkward())
    with torch.inference_mode():
        expected = network(*cloud.to_torch())["classification"].softmax(dim=1).numpy()
    empty = ~mask.any(dim=1).numpy()
    for k, name in enumerate(CLASSES):
        values = ak.to_numpy(found.classification[name])
        np.testing.assert_allclose(values[~empty], expected[~empty, k], rtol=1e-4, atol=1e-6)
        assert np.isnan(values[empty]).all()
    assert ak.to_numpy(found.embedding).shape == (36, 16)
    assert len(predict(cloud[:0])) == 0
    with pytest.raises(PredictionError, match="has the outputs classification and embedding; found assign"):
        Predictor(tmp_path / "graph", heads=("assignment",))(cloud)


def test_predictor_names_labels(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, labels=("n_tops", "has_higgs"), counts=1)
    model = GraphNetwork(config, EventSchema.standard()).eval()
    model.save_pretrained(tmp_path / "labels")
    objects, mask, event_features = events([5, 2], slots=18)
    cloud = EventCloud.from_arrays(objects.numpy(), mask.numpy(), event_features.numpy(), model.schema)
    found = Predictor(tmp_path / "labels", heads=("multilabel",))(cloud)
    with torch.inference_mode():
        raw = model(*cloud.to_torch())["multilabel"]
    np.testing.assert_allclose(found.multilabel.n_tops, raw[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.multilabel.has_higgs, raw[:, 1].sigmoid(), rtol=1e-5)


def test_sums_over_senders_in_one_kernel_are_those_of_the_groups() -> None:
    """What GPUs run: the same sums and gradients, also for objects that are alone."""
    for counts in ([3, 1, 0, 5, 1, 3], [1, 1, 0]):
        pairs = pair_up(torch.arange(6) < torch.tensor(counts)[:, None])
        values = torch.randn(len(pairs.sender), 4, dtype=torch.float64)
        others = torch.tensor([n - 1 for n in sorted(counts) for _ in range(n)])
        weights = torch.randn(len(others), 4, dtype=torch.float64)
        first, second = (values.clone().requires_grad_() for _ in range(2))
        totals = (pairs.over_senders(first, mean=False), sum_runs(second, others))
        torch.testing.assert_close(totals[1], totals[0])
        for total in totals:
            (total * weights).sum().backward()
        torch.testing.assert_close(second.grad, first.grad)
