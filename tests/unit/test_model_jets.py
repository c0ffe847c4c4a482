"""Jet network: sizes, laws, every loss term by hand, files, and clouds of constituents."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from evenet_hep import EventSchema, Predictor
from evenet_hep.errors import CheckpointError, ConfigError, InputError, PredictionError
from evenet_hep.events.jets import (
    CONSTITUENT_FEATURES,
    SMALLEST_REST,
    cloud_of_jets,
    jet_schema,
    nanoaod_constituents,
)
from evenet_hep.model.graph import GraphNetwork
from evenet_hep.model.jet_generation import sample_constituents
from evenet_hep.model.jets import JetConfig, JetNetwork, jet_loss, velocity_loss

SMALL = JetConfig(width=16, layers=2, heads=2, neighbours=4)
SCHEMA = jet_schema(classes=("quark", "gluon", "top"))


def jets_of(counts: list[int], *, slots: int = 12, seed: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    constituents = torch.randn(len(counts), slots, 13, generator=generator)
    features = torch.rand(len(counts), 4, generator=generator) * torch.tensor([800.0, 1, 100, 40])
    return torch.where(mask[..., None], constituents, 0.0), mask, features


@pytest.fixture
def network() -> JetNetwork:
    """Residual branches at full size: at 1e-5, as they start, they could hide anything."""
    torch.manual_seed(2)
    return JetNetwork(dataclasses.replace(SMALL, layer_scale=0.5), SCHEMA).eval()


def number(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_sizes_of_the_paper() -> None:
    model = JetNetwork(JetConfig(), jet_schema(classes=tuple("abcdefghij")))
    assert model.classifier is not None
    assert model.generator is not None
    assert number(model.body) == pytest.approx(1.3e6, rel=0.02)
    assert number(model.classifier, model.output) == pytest.approx(268e3, rel=0.02)
    assert number(model.generator, model.condition) == pytest.approx(416e3, rel=0.02)
    assert number(model) == number(
        model.body, model.classifier, model.output, model.generator, model.condition
    )


def test_padding_order_and_company_change_nothing(network: JetNetwork) -> None:
    constituents, mask, features = jets_of([7, 0, 1, 12, 3])
    with torch.inference_mode():
        expected = network(constituents, mask, features)["classification"]
        assert expected.isfinite().all()
        for row in range(5):
            slots = max(1, int(mask[row].sum()))
            alone = (
                constituents[row : row + 1, :slots],
                mask[row : row + 1, :slots],
                features[row : row + 1],
            )
            torch.testing.assert_close(network(*alone)["classification"][0], expected[row])
        turn = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        garbage = torch.where(mask[..., None], constituents, 1e6)[:, turn]
        torch.testing.assert_close(network(garbage, mask[:, turn], features)["classification"], expected)


def test_velocities_follow_their_constituents(network: JetNetwork) -> None:
    constituents, mask, features = jets_of([7, 1, 12])
    time, label = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, -1])
    noise = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(4))
    jet = network.jet_transform(features)

    def run(rows: slice, slots: torch.Tensor) -> torch.Tensor:
        noised = network.noise(
            constituents[rows][:, slots], mask[rows][:, slots], time[rows], noise[rows][:, slots]
        )
        points = network.body(noised.columns, mask[rows][:, slots], time=time[rows])
        return network.velocity(points, mask[rows][:, slots], jet[rows], time[rows], label[rows])

    with torch.inference_mode():
        everything = slice(0, 3)
        expected = run(everything, torch.arange(12))
        assert not expected[~mask].any()
        turn = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(run(everything, turn), expected[:, turn])
        torch.testing.assert_close(run(slice(0, 1), torch.arange(7))[0], expected[0, :7])


def test_time_vanishes_at_zero_and_matters_beyond(network: JetNetwork) -> None:
    constituents, mask, _ = jets_of([5, 3])
    columns = network.object_transform(constituents, mask)
    with torch.inference_mode():
        clean = network.body(columns, mask)
        torch.testing.assert_close(network.body(columns, mask, time=torch.zeros(2)), clean)
        assert not torch.allclose(network.body(columns, mask, time=torch.full((2,), 0.3)), clean)


def test_generation_knows_jet_and_class(network: JetNetwork) -> None:
    constituents, mask, features = jets_of([5])
    time = torch.tensor([0.4])
    points = network.body(network.noise(constituents, mask, time, torch.zeros(1, 12, 3)).columns, mask)
    jet = network.jet_transform(features)

    def run(jet: torch.Tensor, label: int | None) -> torch.Tensor:
        return network.velocity(
            points, mask, jet, time, None if label is None else torch.tensor([label])
        ).detach()

    assert torch.equal(run(jet, None), run(jet, -1))
    assert not torch.allclose(run(jet, 0), run(jet, 1))
    assert not torch.allclose(run(jet, 0), run(jet + 1, 0))


def test_every_term_of_the_loss_by_hand(network: JetNetwork) -> None:
    constituents, mask, features = jets_of([6, 2, 9, 1])
    label, time = torch.tensor([2, 0, 1, 1]), torch.tensor([0.1, 0.45, 0.8, 0.999])
    noise = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(4))
    loss = jet_loss(network, constituents, mask, features, label, time=time, noise=noise)

    def entropy(logits: torch.Tensor, k: int) -> float:
        values = logits.double().detach().numpy()
        return float(np.log(np.exp(values).sum()) - values[k])

    clean, smeared, squares, terms = [], [], 0.0, 0
    jet = network.jet_transform(features)
    places = [CONSTITUENT_FEATURES.index(name) for name in ("delta_eta", "delta_phi", "log_pt")]
    for i in range(4):
        n = int(mask[i].sum())
        rows = constituents[i : i + 1, :n], mask[i : i + 1, :n], features[i : i + 1]
        clean.append(entropy(network(*rows)["classification"][0], int(label[i])))
        # The cosine schedule by its signal-to-noise ratio: from exp(20) to exp(-20).
        b = math.atan(math.exp(-10))
        angle = (math.atan(math.exp(10)) - b) * float(time[i]) + b
        alpha, sigma = math.cos(angle), math.sin(angle)
        columns = torch.zeros(1, n, 13)
        x = network.object_transform(rows[0], rows[1])[0, :, places]
        columns[0, :, places] = alpha * x + sigma * noise[i, :n]
        points = network.body(columns, rows[1], time=time[i : i + 1])
        found = network.velocity(points, rows[1], jet[i : i + 1], time[i : i + 1], label[i : i + 1])
        squares += (found[0] - (alpha * noise[i, :n] - sigma * x)).square().sum().item()
        terms += 3 * n
        logits = network.output(network.classify(points, rows[1], jet[i : i + 1]))
        smeared.append(alpha**2 * entropy(logits[0], int(label[i])))
    assert loss.clean.item() == pytest.approx(np.mean(clean), rel=1e-4)
    assert loss.generation.item() == pytest.approx(squares / terms, rel=1e-4)
    assert loss.smeared.item() == pytest.approx(np.mean(smeared), rel=1e-4)
    expected = np.mean(clean) + squares / terms + np.mean(smeared)
    assert loss.total.item() == pytest.approx(expected, rel=1e-4)


def test_velocity_loss_leaves_padding_out() -> None:
    mask = torch.tensor([[True, False]])
    found = torch.tensor([[[1.0, 2.0], [1e20, torch.nan]]])
    assert float(velocity_loss(found, torch.zeros(1, 2, 2), mask)) == 2.5
    assert float(velocity_loss(found, torch.zeros(1, 2, 2), mask & False)) == 0.0


def test_particle_type_is_hidden_from_a_fifth_of_the_jets(network: JetNetwork) -> None:
    columns = torch.ones(5000, 2, 13)
    assert torch.equal(network._hide(columns), columns)  # not in evaluation
    torch.manual_seed(0)
    hidden = network.train()._hide(columns)
    kinds = torch.tensor([name == "charge" or name.startswith("is_") for name in CONSTITUENT_FEATURES])
    assert kinds.sum() == 6
    assert (hidden[..., ~kinds] == 1).all()
    is_hidden = hidden[:, 0, kinds] == 0
    assert (is_hidden.all(dim=1) | ~is_hidden.any(dim=1)).all()
    assert float(is_hidden[:, 0].float().mean()) == pytest.approx(0.2, abs=4 * (0.16 / 5000) ** 0.5)


def test_labels_are_hidden_from_a_tenth_of_the_jets(network: JetNetwork) -> None:
    n = 4000
    mask, jet, time = torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, 4), torch.full((n,), 0.5)
    points, label = torch.zeros(n, 1, 16), torch.ones(n, dtype=torch.long)
    with torch.inference_mode():
        told = network.velocity(points, mask, jet, time, label)[0]
        torch.manual_seed(0)
        found = network.train().velocity(points, mask, jet, time, label)
    is_hidden = ~torch.isclose(found, told).all(dim=(1, 2))
    assert float(is_hidden.float().mean()) == pytest.approx(0.1, abs=4 * (0.09 / n) ** 0.5)


def test_the_class_token_alone_is_updated(network: JetNetwork) -> None:
    """Constituents reach the second token layer as they left the body, scaled and shifted."""
    constituents, mask, features = jets_of([4])
    seen: list[torch.Tensor] = []
    assert network.classifier is not None
    for layer in network.classifier.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    network(constituents, mask, features)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_two_jets_go_through_the_body_alone() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, layer_scale=0.5, jets=2)
    pair = JetNetwork(config, SCHEMA).eval()
    constituents, mask, features = (x.unflatten(0, (3, 2)) for x in jets_of([7, 2, 1, 0, 12, 12]))
    calls: list[torch.Size] = []
    pair.body.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    with torch.inference_mode():
        found = pair(constituents, mask, features)["classification"]
        assert calls == [(6, 12, 13)]
        single = JetNetwork(dataclasses.replace(config, jets=1), SCHEMA)
        single.load_state_dict(pair.state_dict())
        columns = pair.object_transform(constituents[0], mask[0])
        points = torch.cat([pair.body(columns[j : j + 1], mask[0, j : j + 1]) for j in range(2)])
        jet = pair.jet_transform(features[0])
        expected = pair.output(pair.classify(points, mask[0], jet, 2))
        torch.testing.assert_close(found[:1], expected)
        swapped = pair(constituents.flip(1), mask.flip(1), features.flip(1))["classification"]
        torch.testing.assert_close(swapped, found)  # one head for both: it does not matter which is first
        empty = single(constituents[1, :1], mask[1, :1], features[1, :1])["classification"]
        assert empty.shape == (1, 3)
    with pytest.raises(ValueError, match=r"constituents must have shape \(B, 2, N, 13\)"):
        pair(constituents[:, :1], mask[:, :1], features[:, :1])
    with pytest.raises(ConfigError, match="jets must be 1 for the loss"):
        jet_loss(
            pair, constituents, mask, features, torch.zeros(3, dtype=torch.long),
            time=torch.zeros(3), noise=torch.zeros(3, 12, 3),
        )  # fmt: skip


def test_learns_to_classify_and_to_generate() -> None:
    """Overfits 32 jets: both cross-entropies fall together with the velocity loss."""
    torch.manual_seed(0)
    model = JetNetwork(dataclasses.replace(SMALL, layer_scale=0.1, feature_drop=0.0), SCHEMA)
    constituents, mask, features = jets_of([4, 6, 5, 3] * 8)
    label = torch.arange(32) % 3
    constituents[..., 2] += label[:, None] * 2.0 * mask
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    terms = []
    for _ in range(60):
        loss = jet_loss(
            model, constituents, mask, features, label, time=torch.rand(32), noise=torch.randn(32, 12, 3)
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        terms.append([term.item() for term in loss])
    first, last = np.mean(terms[:5], axis=0), np.mean(terms[-5:], axis=0)
    assert last[0] < 0.1 * first[0]
    assert last[1] < 0.9 * first[1]
    assert last[2] < 0.5 * first[2]


def test_samples_are_functions_of_the_noise(network: JetNetwork) -> None:
    _, mask, features = jets_of([5, 0, 2])
    noise = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 2])
    a, b = (sample_constituents(network, features, mask, label=label, steps=3, noise=noise) for _ in range(2))
    assert torch.equal(a, b)
    assert not a[~mask].any()
    assert a[mask][:, :3].ne(0).all()
    assert not a[..., 3:].any()


def test_files_and_predictor(network: JetNetwork, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "jets")
    again = JetNetwork.from_pretrained(tmp_path / "jets")
    batch = jets_of([4, 2])
    with torch.inference_mode():
        assert torch.equal(again(*batch)["classification"], network(*batch)["classification"])
    with pytest.raises(CheckpointError, match=r"kind 'jets', not 'graph'.*; JetNetwork opens it"):
        GraphNetwork.from_pretrained(tmp_path / "jets")
    jets, constituents = toy_jets()
    cloud = cloud_of_jets(jets, constituents, SCHEMA)
    found = Predictor(tmp_path / "jets", heads=("classification", "embedding"))(cloud)
    assert len(found) == 3
    with torch.inference_mode():
        expected = network(*cloud.to_torch())["classification"].softmax(dim=1).numpy()
    filled = cloud.n_objects > 0
    for k, name in enumerate(SCHEMA.classes):
        np.testing.assert_allclose(
            ak.to_numpy(found.classification[name])[filled], expected[filled, k], rtol=1e-4, atol=1e-6
        )
    per_event = ak.unflatten(found.classification.top, ak.num(jets))
    assert ak.num(per_event).tolist() == [2, 0, 1]
    with pytest.raises(PredictionError, match="a JetNetwork trained for classification has the outputs"):
        Predictor(tmp_path / "jets", heads=("assignment",))(cloud)
    JetNetwork(dataclasses.replace(SMALL, jets=2), SCHEMA).save_pretrained(tmp_path / "pairs")
    with pytest.raises(PredictionError, match="the network reads 2 jets together"):
        Predictor(tmp_path / "pairs")(cloud)


def test_bad_configurations_are_named() -> None:
    with pytest.raises(ConfigError, match="heads must be a divisor of the width 128; found 7"):
        JetConfig(heads=7)
    with pytest.raises(ConfigError, match="names of features of the schema"):
        JetNetwork(JetConfig(), EventSchema.standard(classes=("a", "b")))
    with pytest.raises(ConfigError, match=r"schema\.classes must be names"):
        JetNetwork(JetConfig(), jet_schema())
    body = JetNetwork(dataclasses.replace(SMALL, classifier_layers=0), SCHEMA)
    with pytest.raises(ConfigError, match="classifier_layers must be at least 1 to classify"):
        body(*jets_of([2]))
    blind = JetNetwork(dataclasses.replace(SMALL, generator_layers=0), SCHEMA)
    with pytest.raises(ConfigError, match="generator_layers must be at least 1 to generate"):
        blind.velocity(torch.zeros(1, 1, 16), torch.ones(1, 1).bool(), torch.zeros(1, 4), torch.zeros(1))


# --- clouds of constituents ------------------------------------------------------------------------------------------


def toy_jets() -> tuple[ak.Array, ak.Array]:
    jets = ak.Array(
        [
            [
                {"pt": 100.0, "eta": 0.5, "phi": 3.1, "mass": 10.0},
                {"pt": 50.0, "eta": -1.0, "phi": 0.0, "mass": -0.1},
            ],
            [],
            [{"pt": 30.0, "eta": 0.0, "phi": 1.0, "mass": 5.0}],
        ]
    )
    particle = {"mass": 0.14, "eta": 0.5}
    constituents = ak.Array(
        [
            [
                [
                    {**particle, "pt": 20.0, "phi": 3.0, "pdgId": -211},
                    {**particle, "pt": 60.0, "phi": -3.1, "pdgId": 22},
                ],
                [{"pt": 50.0, "eta": -1.0, "phi": 0.0, "mass": 0.0, "pdgId": 11}],
            ],
            [],
            [[]],
        ]
    )
    return jets, constituents


def test_features_of_constituents_by_hand() -> None:
    cloud = cloud_of_jets(*toy_jets(), SCHEMA)
    assert cloud.n_objects.tolist() == [2, 1, 0]
    jet_energy = math.hypot(100 * math.cosh(0.5), 10)
    energy = math.hypot(60 * math.cosh(0.5), 0.14)
    d_phi = 2 * math.pi - 6.2  # -3.1 - 3.1, taken round
    expected = [
        0.0, d_phi, math.log(60), math.log(1 - 0.6), math.log(energy), math.log(1 - energy / jet_energy),
        d_phi, 0, 0, 0, 1, 0, 0,
    ]  # fmt: skip
    assert cloud.objects[0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert cloud.objects[0, 1, 7:].tolist() == [-1, 1, 0, 0, 0, 0]
    assert cloud.objects[1, 0, 7:].tolist() == [-1, 0, 0, 0, 1, 0]
    assert cloud.objects[1, 0, 3] == pytest.approx(math.log(SMALLEST_REST))
    features = np.array([[100, 0.5, 10, 2], [50, -1, 0, 1], [30, 0, 5, 0]], np.float32)
    np.testing.assert_allclose(cloud.event_features, features, rtol=1e-6)
    assert cloud.index["position"][0, :2].tolist() == [1, 0]


def test_every_code_has_one_type() -> None:
    codes = [211, -211, 321, 2212, 130, 22, 11, -11, 13, -13, 1, 2, 0, 310, 2112]
    jets = ak.Array([{"pt": 1000.0, "eta": 0.0, "phi": 0.0, "mass": 10.0}])
    particles = [
        {"pt": 40.0 - i, "eta": 0.1, "phi": 0.1, "mass": 0.0, "pdgId": code} for i, code in enumerate(codes)
    ]
    kinds = cloud_of_jets(jets, ak.Array([particles]), SCHEMA).objects[0, : len(codes), 7:]
    charge = [1, -1, 1, 1, 0, 0, -1, 1, -1, 1, 0, 0, 0, 0, 0]
    assert kinds[:, 0].tolist() == charge
    names = [
        "hadron",
        "hadron",
        "hadron",
        "hadron",
        "neutral",
        "photon",
        "electron",
        "electron",
        "muon",
        "muon",
    ]
    names += ["neutral", "photon", "none", "neutral", "neutral"]
    order = ["hadron", "neutral", "photon", "electron", "muon"]
    expected = [[float(name == kind) for kind in order] for name in names]
    assert kinds[:, 1:].tolist() == expected
    own = [{**particle, "charge": 0.0} for particle in particles]
    assert not cloud_of_jets(jets, ak.Array([own]), SCHEMA).objects[..., 7].any()


def test_the_softest_go_beyond_the_capacity() -> None:
    jets, constituents = toy_jets()
    cloud = cloud_of_jets(jets, constituents, jet_schema(capacity=1))
    assert cloud.objects[0, 0, 2] == pytest.approx(math.log(60), rel=1e-6)
    assert cloud.event_features[0, 3] == 2


def test_bad_jets_are_named() -> None:
    jets, constituents = toy_jets()
    with pytest.raises(InputError, match="must be a list per jet"):
        cloud_of_jets(jets, constituents[:, :1], SCHEMA)
    with pytest.raises(InputError, match="one list for each of the 3 jets; found 2 lists"):
        cloud_of_jets(ak.flatten(jets), ak.flatten(constituents)[:2], SCHEMA)
    with pytest.raises(InputError, match="constituents lack 'pdgId'; they have mass, eta, pt, phi"):
        cloud_of_jets(jets, constituents[["mass", "eta", "pt", "phi"]], SCHEMA)
    with pytest.raises(InputError, match=r"must be a jet_schema\(\)"):
        cloud_of_jets(jets, constituents, EventSchema.standard())


def test_constituents_are_joined_by_their_tables() -> None:
    candidates = [{"pt": float(i), "eta": 0.0, "phi": 0.0, "mass": 0.0, "pdgId": 22} for i in range(4)]
    events = ak.Array(
        [
            {
                "Jet": [{"pt": 1.0}, {"pt": 2.0}, {"pt": 3.0}],
                "PFCand": candidates,
                "JetPFCand": [
                    {"jetIdx": 2, "pfCandIdx": 3},
                    {"jetIdx": 0, "pfCandIdx": 1},
                    {"jetIdx": 2, "pfCandIdx": 0},
                ],
            },
            {"Jet": [{"pt": 1.0}], "PFCand": candidates[:1], "JetPFCand": [{"jetIdx": 0, "pfCandIdx": 0}]},
        ]
    )
    found = nanoaod_constituents(events, "Jet")
    assert found.pt.to_list() == [[[1.0], [], [3.0, 0.0]], [[0.0]]]
    assert nanoaod_constituents(events[:0], "Jet").to_list() == []
    with pytest.raises(InputError, match="events lack FatJet, FatJetPFCand; found PFCand, JetPFCand"):
        nanoaod_constituents(events)
    wrong = ak.with_field(events, events.JetPFCand, "JetPFCand")
    wrong["JetPFCand"] = ak.with_field(wrong.JetPFCand, wrong.JetPFCand.pfCandIdx + 2, "pfCandIdx")
    with pytest.raises(InputError, match="JetPFCand of event 0 points outside of Jet or PFCand"):
        nanoaod_constituents(wrong, "Jet")


def test_fat_jets_of_a_real_file(shared_data: Path) -> None:
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415

    NanoAODSchema.warn_missing_crossrefs = False
    source = {str(shared_data / "real" / "nano_tt_v15.root"): "Events"}
    events = NanoEventsFactory.from_root(source, mode="eager", schemaclass=NanoAODSchema).events()
    constituents = nanoaod_constituents(events, "FatJet")
    counted, stored = ak.flatten(ak.num(constituents, axis=2)), ak.flatten(events.FatJet.nConstituents)
    has_any = counted > 0
    assert ak.sum(has_any) == 62
    assert ak.all(counted[has_any] == stored[has_any])
    cloud = cloud_of_jets(events.FatJet, constituents, SCHEMA)
    assert len(cloud) == 64
    assert (cloud.objects[cloud.mask][:, 6] < 1.0).all()  # anti-kT with R = 0.8
    assert cloud.objects[cloud.mask][:, 8:].sum(axis=1).min() == 1


def test_long_jets_take_the_ordinary_attention(network: JetNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernel of short events is four times slower than PyTorch's for 128 constituents."""
    from evenet_hep.model import kernels  # noqa: PLC0415

    calls: list[int] = []
    attend = kernels.attend

    def counted(*arrays: Any) -> None:
        calls.append(1)
        attend(*arrays)

    monkeypatch.setattr(kernels, "attend", counted)
    with torch.inference_mode():
        network(*jets_of([40, 12], slots=40))
        assert not calls
        network(*jets_of([7, 12]))
        assert calls


def test_the_predictor_reads_jets_and_constituents(network: JetNetwork, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "jets")
    jets, constituents = toy_jets()
    predict = Predictor(tmp_path / "jets", heads=("classification", "embedding"))
    found = predict(jets, constituents=constituents)
    assert ak.num(found).tolist() == ak.num(jets).tolist()
    flat = predict(cloud_of_jets(jets, constituents, SCHEMA))
    assert ak.array_equal(ak.flatten(found).classification, flat.classification, equal_nan=True)
    one_list = predict(ak.flatten(jets), constituents=ak.flatten(constituents))
    assert ak.array_equal(one_list, flat, equal_nan=True)
    with pytest.raises(InputError, match="events lack FatJetPFCand, PFCand"):
        predict(ak.zip({"FatJet": jets}, depth_limit=1))
    with pytest.raises(PredictionError, match=r"constituents are for a JetNetwork; .* holds a EveNet"):
        Predictor("demo")(jets, constituents=constituents)


def test_the_predictor_reads_pairs_of_jets(tmp_path: Path) -> None:
    torch.manual_seed(3)
    pairs = JetNetwork(dataclasses.replace(SMALL, jets=2), SCHEMA).eval()
    pairs.save_pretrained(tmp_path / "pairs")
    jets, constituents = toy_jets()
    assert ak.num(jets).tolist() == [2, 0, 1]
    more = (jets[[0, 1, 2, 0]], constituents[[0, 1, 2, 0]])
    found = Predictor(tmp_path / "pairs", heads=("classification", "embedding"), batch_size=1)(
        more[0], constituents=more[1]
    )
    assert len(found) == 4
    top = ak.to_numpy(found.classification.top)
    assert np.isnan(top).tolist() == [False, True, True, False]
    cloud = cloud_of_jets(jets[:1], constituents[:1], SCHEMA)
    with torch.inference_mode():
        objects, mask, features = (x[None] for x in cloud.to_torch())
        expected = pairs(objects, mask, features)["classification"].softmax(dim=1)[0]
    assert top[0] == pytest.approx(float(expected[SCHEMA.classes.index("top")]), rel=1e-4)
    swapped = Predictor(tmp_path / "pairs")(jets[:1, ::-1], constituents=constituents[:1, ::-1])
    assert swapped.classification.top[0] == pytest.approx(top[0], rel=1e-4)
    with pytest.raises(PredictionError, match="reads 2 jets together needs a list of jets per event"):
        Predictor(tmp_path / "pairs")(ak.flatten(jets), constituents=ak.flatten(constituents))
