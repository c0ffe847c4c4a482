"""Evaluation of a network against labels, and the report of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evenet_hep.errors import InputError
from evenet_hep.evaluation.evaluate import ClassScores, Neutrinos, evaluate
from evenet_hep.evaluation.report import write_report
from evenet_hep.model.evenet import EveNet
from evenet_hep.schema import EventSchema
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.training.config import LossWeights
from evenet_hep.training.history import History
from evenet_hep.training.run import fit

Make = Callable[..., Any]


def test_a_trained_network_and_its_report(
    tmp_path: Path, make_events: Make, make_network: Make, make_settings: Make
) -> None:
    model, events = make_network(regression=None, segmentation=None), make_events(64)
    losses = LossWeights.only("classification", "assignment", "detection")
    history = fit(model, events, make_events(32, 2), make_settings(losses, 40, keep="last"))
    found = evaluate(model, events, steps=4)
    assert found.n_events == 64
    assert found.scores is not None
    assert found.metrics["accuracy"] > 0.9
    signal = found.scores.label == 0
    expected = area_under_curve(signal, found.scores.probability[:, 0])
    assert found.metrics["auc/ttbar"] == pytest.approx(expected.value)
    assert found.metrics["auc/ttbar_uncertainty"] == pytest.approx(expected.uncertainty)
    np.testing.assert_allclose(found.scores.confusion.sum(axis=1), 1)
    pairing = found.pairing["TT1L"]
    assert pairing.event_complete.total == 32
    assert pairing.resonance.value > 0.5  # by chance a few per cent
    assert found.neutrinos is not None
    assert found.neutrinos.true.shape == (32, 3)
    page = write_report(
        tmp_path / "report", title="A <test>", history=history, evaluation=found, settings="a: 1"
    )
    text = page.read_text()
    assert "A &lt;test&gt;" in text
    for name in ("history", "classes", "confusion", "calibration", "pairing", "neutrinos"):
        assert f'src="{name}.png"' in text
        assert (tmp_path / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["metrics"]["accuracy"] == pytest.approx(found.metrics["accuracy"])


def test_pairing_permutes_the_same_kinds_only(make_events: Make, make_network: Make) -> None:
    from evenet_hep.evaluation.evaluate import _canonical  # noqa: PLC0415
    from evenet_hep.stats.pairing import pairing_efficiencies  # noqa: PLC0415
    from evenet_hep.topology import Topology  # noqa: PLC0415

    grammar = Topology.shipped("bbww")
    process = grammar.process("XYH")  # Y/bb and W/qq have two daughters each
    truth = np.array([[[1, 0], [2, 3], [4, -1]]])
    swapped = np.array([[[2, 3], [0, 1], [4, -1]]])
    turned = np.array([[[0, 1], [3, 2], [4, -1]]])
    complete = np.ones((1, 3), bool)
    right = []
    for guess in (turned, swapped):
        true, found = (_canonical(each, process, grammar) for each in (truth, guess))
        right.append(pairing_efficiencies(true, found, complete, daughters_symmetric=False).resonance.passed)
    assert right == [3, 1]


def test_weights_and_events_without_a_class(make_events: Make, make_network: Make) -> None:
    events = make_events(20)
    events.content.label[:5] = -1
    events.content.weight[:] = np.arange(20)
    model = make_network()
    plain, weighted = evaluate(model, events, steps=1), evaluate(model, events, steps=1, weighted=True)
    assert plain.scores is not None
    assert weighted.scores is not None
    assert len(plain.scores.label) == 15
    assert plain.scores.weight.tolist() == [1.0] * 15
    assert weighted.scores.weight.tolist() == list(range(5, 20))
    again = evaluate(model, events, steps=1)
    assert again.neutrinos is not None
    assert plain.neutrinos is not None
    np.testing.assert_array_equal(again.neutrinos.drawn, plain.neutrinos.drawn)  # seeded


def test_the_batch_size_changes_nothing(make_events: Make, make_network: Make) -> None:
    heads = dict.fromkeys(("object_generation", "invisible_generation", "global_generation"))
    model, events = make_network(**heads), make_events(30)
    one, other = evaluate(model, events, batch_size=7), evaluate(model, events)
    assert one.metrics == pytest.approx(other.metrics, abs=1e-6)
    assert not torch.is_inference_mode_enabled()


def test_events_that_cannot_be_evaluated(make_events: Make, make_network: Make) -> None:
    events = make_events(4)
    with pytest.raises(InputError, match="there are no events"):
        evaluate(make_network(), events.select(np.zeros(4, bool)))
    events.schema = dataclasses.replace(events.schema, classes=("x", "y"))
    with pytest.raises(InputError, match="the events have the classes"):
        evaluate(make_network(), events)


def test_azimuths_of_neutrinos_are_periodic() -> None:
    found = Neutrinos(("pt", "phi"), np.array([[10.0, 3.1]]), np.array([[12.0, -3.1]]))
    assert found.residual("pt").tolist() == [2.0]
    assert found.residual("phi")[0] == pytest.approx(2 * np.pi - 6.2)


def test_confusion_of_an_absent_class() -> None:
    scores = ClassScores(
        ("a", "b"), np.array([0, 0]), np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([1.0, 3.0])
    )
    assert scores.confusion[0].tolist() == [0.25, 0.75]
    assert np.isnan(scores.confusion[1]).all()


def test_a_report_of_a_history_alone(tmp_path: Path) -> None:
    history = History(({"epoch": 0, "lr": 1e-3, "train_loss": 1.0, "train_assignment": 1.0},))
    page = write_report(tmp_path, title="only a history", history=history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "index.html"]
    assert "<table>" not in page.read_text()


def test_pairing_of_resonances_that_have_weights_of_their_own() -> None:
    from evenet_hep.analyses.higgs_to_4b.spanet_file import PROCESS, TOPOLOGY, TopPairs, _labelled, top_cloud  # noqa: PLC0415
    from evenet_hep.model.decoding import decode_assignment  # noqa: PLC0415
    from evenet_hep.model.evenet import EveNetConfig  # noqa: PLC0415
    from evenet_hep.stats.pairing import pairing_efficiencies  # noqa: PLC0415
    from evenet_hep.training.presets import with_heads  # noqa: PLC0415

    rng = np.random.default_rng(1)
    shape = (1500, 6)
    jets = {"pt": np.sort(rng.uniform(30, 300, shape))[:, ::-1], "eta": rng.normal(0, 1, shape)}
    jets |= {
        "phi": rng.uniform(-3, 3, shape),
        "mass": np.full(shape, 8.0),
        "btag": rng.choice([0.0, 1.0], shape),
    }
    targets = rng.permuted(np.tile(np.arange(6), (1500, 1)), axis=1).reshape(-1, 2, 3)
    events = TopPairs(jets, np.ones(shape, bool), targets)
    torch.manual_seed(1)
    config = with_heads(EveNetConfig.tiny(), ("assignment",), topology=TOPOLOGY, separate=True)
    model = EveNet(config, EventSchema.standard()).eval()
    with torch.no_grad():  # logits of order one: those of a fresh network are equal within rounding
        for name, parameter in model.named_parameters():
            if name.endswith("project.weight") and ".daughters." in name:
                parameter.mul_(60)
    found = evaluate(model, _labelled(events, model.schema)).pairing[PROCESS]
    assert 4 < found.event_complete.passed < 40  # one in 90 by chance
    turned = _labelled(events._replace(targets=targets[:, ::-1]), model.schema)
    assert evaluate(model, turned).pairing[PROCESS] == found
    objects, mask, features = top_cloud(events, model.schema).to_torch()
    with torch.inference_mode():
        scores = model.apply_heads(model.encode(objects, mask, features), mask).assignment
    assert f"{PROCESS}/t2" in scores
    guess = decode_assignment(scores, mask, PROCESS, TOPOLOGY).indices.numpy()
    targets[..., 1:].sort(axis=2)
    expected = pairing_efficiencies(targets, guess, np.ones((1500, 2), bool), daughters_symmetric=False)
    assert found == expected
