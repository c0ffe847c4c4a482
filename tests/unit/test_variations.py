"""Nominal events and variations in one pass: the numbers of separate calls, and nothing computed twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import awkward as ak
import numpy as np
import pytest

from evenet_hep import EveNet, EveNetConfig, EventSchema, Predictor
from evenet_hep.errors import InputError, PredictionError
from evenet_hep.events.systematics import shift_energy_scale, shift_soft_met_components
from evenet_hep.model.heads.generation import InvisibleGenerationConfig


def events(n: int = 60, seed: int = 2) -> ak.Array:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"MET": ak.zip({"pt": rng.exponential(40, n), "phi": rng.uniform(-3, 3, n)})}
    for name, mean in (("Electron", 0.5), ("Muon", 0.5), ("Jet", 2.0)):
        counts = rng.poisson(mean, n)
        total = int(counts.sum())
        fields = {"pt": rng.exponential(40, total) + 5, "eta": rng.uniform(-2, 2, total)}
        fields |= {"phi": rng.uniform(-3, 3, total), "mass": np.full(total, 5.0)}
        fields |= {"charge": rng.choice([-1, 1], total), "btagDeepFlavB": rng.uniform(0, 1, total)}
        columns[name] = ak.unflatten(ak.zip(fields), counts)
    return ak.zip(columns, depth_limit=1)


def shifts(events: ak.Array) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, size in (("up", 0.02), ("down", -0.02)):
        jes = shift_energy_scale(events.Jet, events.MET, size)
        found[f"jes_{name}"] = {"collections": {"Jet": jes.jets}, "met": jes.met}
        muons = ak.with_field(events.Muon, events.Muon.pt * (1 + size), "pt")
        found[f"muon_{name}"] = {"collections": {"Muon": muons}}
        found[f"soft_{name}"] = {"met": shift_soft_met_components(events.MET, 100 * size, 1.0)}
    return found


def numbers(records: ak.Array) -> np.ndarray:
    return np.stack(
        [ak.to_numpy(records.classification[name]) for name in records.classification.fields], axis=1
    )


def test_the_numbers_of_separate_calls() -> None:
    some = events()
    predict = Predictor("demo", device="cpu", heads=("classification", "embedding"))
    out = predict.variations(some, shifts(some))
    assert list(out) == ["nominal", *shifts(some)]
    np.testing.assert_allclose(numbers(out["nominal"]), numbers(predict(some)), atol=1e-6)
    for name, shift in shifts(some).items():
        alone = predict(some, **shift)
        np.testing.assert_allclose(numbers(out[name]), numbers(alone), atol=1e-6)
        np.testing.assert_allclose(
            ak.to_numpy(out[name].embedding), ak.to_numpy(alone.embedding), atol=1e-5, equal_nan=True
        )
        assert out[name].type == alone.type


def test_what_does_not_change_keeps_its_number_bit_for_bit() -> None:
    some = events()
    out = Predictor("demo", device="cpu").variations(some, shifts(some))
    has_muon = ak.to_numpy(ak.num(some.Muon) > 0)
    has_object = ak.to_numpy(ak.num(some.Muon) + ak.num(some.Electron) + ak.num(some.Jet) > 0)
    same = (numbers(out["muon_up"]) == numbers(out["nominal"])).all(axis=1)
    assert np.array_equal(same[has_object], ~has_muon[has_object])


def test_objects_go_through_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    some = events()
    predict = Predictor("demo", device="cpu")
    network = predict.network()
    assert isinstance(network, EveNet)
    seen = {"objects": 0, "events": 0}
    pet, encoder = network.pet.forward, network.object_encoder.forward

    def count_pet(features: Any, mask: Any, **options: Any) -> Any:
        seen["objects"] += len(mask)
        return pet(features, mask, **options)

    def count_encoder(points: Any, mask: Any, *rest: Any) -> Any:
        seen["events"] += len(mask)
        return encoder(points, mask, *rest)

    monkeypatch.setattr(network.pet, "forward", count_pet)
    monkeypatch.setattr(network.object_encoder, "forward", count_encoder)
    predict.variations(some, {name: shift for name, shift in shifts(some).items() if "soft" in name})
    n_scored = int(ak.sum(ak.num(some.Muon) + ak.num(some.Electron) + ak.num(some.Jet) > 0))
    assert seen == {"objects": n_scored, "events": 3 * n_scored}


def test_a_shift_keeps_what_the_nominal_was_given() -> None:
    some = events()
    jets = some.Jet[some.Jet.pt > 30]
    predict = Predictor("demo", device="cpu")
    muons = {"Muon": some.Muon[:, :0]}
    out = predict.variations(some, {"no_muons": {"collections": muons}}, collections={"Jet": jets})
    alone = predict(some, collections={"Jet": jets, **muons})
    np.testing.assert_allclose(numbers(out["no_muons"]), numbers(alone), atol=1e-6)


def test_neutrinos_of_variations(tmp_path: Any) -> None:
    config = dataclasses.replace(EveNetConfig.tiny(), invisible_generation=InvisibleGenerationConfig())
    EveNet(config, EventSchema.standard(classes=("a", "b"))).save_pretrained(tmp_path / "net")
    predict = Predictor(tmp_path / "net", heads=("classification", "invisible"), device="cpu")
    some = events(12)
    out = predict.variations(some, shifts(some))
    for name, shift in shifts(some).items():
        found, alone = out[name].invisible, predict(some, **shift).invisible
        np.testing.assert_allclose(ak.flatten(found.pt, None), ak.flatten(alone.pt, None), rtol=1e-3)


def test_wrong_requests_are_named() -> None:
    some = events(5)
    predict = Predictor("demo", device="cpu")
    with pytest.raises(PredictionError, match="must not be called 'nominal'"):
        predict.variations(some, {"nominal": {}})
    with pytest.raises(
        PredictionError, match="'up' may replace collections, met, event_features; found jets"
    ):
        predict.variations(some, {"up": {"jets": some.Jet}})
    with pytest.raises(PredictionError, match="need events that are there"):
        predict.variations(ak.to_backend(some, "typetracer"), {})
    with pytest.raises(InputError, match="must have"):
        predict.variations(some, {"up": {"collections": {"Jet": some.Jet[:3]}}})
