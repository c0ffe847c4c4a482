"""Training of the jet networks: they learn, a run that was cut off goes on as if it had not been, classes change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.events.jets import jet_schema
from evenet_hep.model.jet_kinematics import JetKinematics, KinematicsConfig, sample_jet_features, sample_jets
from evenet_hep.model.jets import JetConfig, JetNetwork, jet_loss
from evenet_hep.training.jets import (
    JetSample,
    JetTrainingConfig,
    jet_losses,
    probabilities_of,
    replace_classes,
    train_jets,
    train_kinematics,
)

SMALL = JetConfig(width=16, layers=1, heads=2, local_layers=1, neighbours=3, layer_scale=1.0)
SCHEMA = jet_schema(classes=("one prong", "two prongs"), capacity=8).with_statistics(
    {"jet_pt": (5.0, 0.5), "jet_mass": (3.0, 1.0), "multiplicity": (6.0, 1.5)}
)


def toy(n: int, *, seed: int, slots: int = 8, jets: int = 1) -> JetSample:
    """Jets of one prong or of two, with 3 to 8 constituents."""
    rng = np.random.default_rng(seed)
    shape = (n, jets)
    label = rng.integers(0, 2, n)
    counts = rng.integers(3, slots + 1, shape)
    mask = np.arange(slots) < counts[..., None]
    x = np.zeros((*shape, slots, 13), np.float32)
    side = rng.choice([-0.4, 0.4], (*shape, slots)) * label[:, None, None]
    x[..., 0] = side + 0.05 * rng.standard_normal((*shape, slots))
    x[..., 1] = 0.05 * rng.standard_normal((*shape, slots))
    x[..., 2] = 1.0 + 0.5 * rng.standard_normal((*shape, slots))
    x[~mask] = 0
    features = np.stack(
        [rng.normal(180, 20, shape), rng.normal(0, 1, shape), 10 + 40.0 * label[:, None] + 0 * counts, counts], axis=-1
    ).astype(np.float32)  # fmt: skip
    arrays = [x, mask, features] if jets > 1 else [a[:, 0] for a in (x, mask, features)]
    return JetSample(*map(torch.from_numpy, (*arrays, label)))


def network(config: JetConfig = SMALL, *, seed: int = 0) -> JetNetwork:
    torch.manual_seed(seed)
    return JetNetwork(config, SCHEMA)


RUN = JetTrainingConfig(epochs=4, batch_size=32, rate=3e-3, seed=2)


def test_learns_all_terms_and_keeps_the_best_epoch() -> None:
    run = train_jets(network(), toy(256, seed=1), toy(128, seed=2), dataclasses.replace(RUN, epochs=5))
    first, last = run.history.epochs[0], run.history.epochs[-1]
    assert last["val_clean"] < 0.5 * first["val_clean"]
    assert last["val_generation"] < first["val_generation"]
    assert last["val_accuracy"] > 0.95
    best = run.history.epochs[run.history.best_epoch or 0]
    again = probabilities_of(run.model, toy(128, seed=2)).argmax(dim=1) == toy(128, seed=2).label
    assert float(again.float().mean()) == pytest.approx(best["val_accuracy"])


def test_the_terms_are_those_of_the_published_loss() -> None:
    model, batch = network().eval(), toy(24, seed=3)
    torch.manual_seed(5)
    found = jet_losses(model, batch, {"clean": 1, "generation": 1, "smeared": 1})
    torch.manual_seed(5)
    time, noise = torch.rand(24), torch.randn(24, 8, 3)
    expected = jet_loss(model, *batch, time=time, noise=noise)
    for name in ("clean", "generation", "smeared"):
        assert torch.allclose(found[name], getattr(expected, name), atol=1e-6)
    only = jet_losses(model, batch, {"clean": 0, "generation": 0.5, "smeared": 0})
    assert list(only) == ["generation"]


class CutOffError(Exception):
    """As if somebody had pressed Control-C."""


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    training, validation = toy(96, seed=1), toy(64, seed=2)
    whole = train_jets(network(), training, validation, RUN)

    def stop(row: Mapping[str, float]) -> None:
        if row["epoch"] == 1:
            raise CutOffError

    with pytest.raises(CutOffError):
        train_jets(network(), training, validation, RUN, folder=tmp_path / "run", progress=stop)
    rows: list[Mapping[str, float]] = []
    rest = train_jets(
        network(seed=9), training, validation, RUN, folder=tmp_path / "run", progress=rows.append
    )
    assert [row["epoch"] for row in rows] == [2, 3]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    assert [r["val_loss"] for r in whole.history.epochs] == [r["val_loss"] for r in rest.history.epochs]
    done = train_jets(network(), training, validation, RUN, folder=tmp_path / "run", progress=stop)
    assert len(done.history.epochs) == 4
    stored = JetNetwork.from_pretrained(tmp_path / "run" / "best")
    assert torch.allclose(probabilities_of(stored, validation), probabilities_of(whole.model, validation))
    with pytest.raises(FileError, match="is of another run"):
        train_jets(network(), training, validation, dataclasses.replace(RUN, seed=3), folder=tmp_path / "run")


def test_the_seed_decides_and_the_callers_random_numbers_are_left_alone() -> None:
    training, validation = toy(64, seed=1), toy(32, seed=2)
    one = dataclasses.replace(RUN, epochs=1)
    torch.manual_seed(1)
    expected = torch.rand(3)
    models = []
    for config, caller in ((one, 1), (one, 2), (dataclasses.replace(one, seed=7), 1)):
        model = network()
        torch.manual_seed(caller)
        models.append(train_jets(model, training, validation, config).model.state_dict()["output.weight"])
        if caller == 1:
            assert torch.equal(torch.rand(3), expected)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_new_classes_keep_the_body_and_learn_faster() -> None:
    old = network()
    new = replace_classes(old, ("a", "b", "c"))
    changed = [n for n, v in new.state_dict().items() if n not in old.state_dict() or v.shape != old.state_dict()[n].shape]  # fmt: skip
    assert set(changed) == {"output.weight", "output.bias", "generator.label.weight"}
    kept = [n for n in new.state_dict() if not n.startswith(("output.", "generator.label."))]
    assert all(torch.equal(new.state_dict()[n], old.state_dict()[n]) for n in kept)
    assert replace_classes(old, ("a", "b"), generate=False).generator is None
    config = dataclasses.replace(RUN, epochs=1, body_ratio=1e6, generation=0, smeared=0)
    before = {n: v.clone() for n, v in new.state_dict().items()}
    labels = toy(64, seed=1)
    train_jets(new, labels, labels, config)
    moved = {n: float((v - before[n]).abs().max()) for n, v in new.state_dict().items() if v.is_floating_point()}  # fmt: skip
    assert moved["output.weight"] > 1e-4
    assert max(v for n, v in moved.items() if n in kept) < 1e-6


def test_two_jets_together() -> None:
    config = dataclasses.replace(SMALL, jets=2)
    run = train_jets(network(config), toy(192, seed=1, jets=2), toy(96, seed=2, jets=2), RUN)
    assert run.history.epochs[-1]["val_accuracy"] > 0.9
    assert "val_generation" not in run.history.epochs[-1]  # classes alone for several jets
    assert replace_classes(network(), ("a", "b"), jets=2, generate=False).config.jets == 2


def test_kinematics_learn_the_distribution_of_each_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = JetKinematics(KinematicsConfig(width=32, blocks=2), SCHEMA)
    config = JetTrainingConfig(epochs=16, batch_size=64, rate=6e-3, seed=1)
    run = train_kinematics(model, toy(768, seed=1), toy(128, seed=2), config, folder=tmp_path / "k")
    torch.manual_seed(1)
    drawn = sample_jet_features(run.model, torch.tensor([0, 1]).repeat_interleave(300), steps=20).numpy()
    for label, mass in ((0, 10.0), (1, 50.0)):
        part = drawn[300 * label : 300 * (label + 1)]
        assert np.median(part[:, 2]) == pytest.approx(mass, rel=0.25)
        assert part[:, 0].mean() == pytest.approx(180, rel=0.06)
        assert part[:, 0].std() == pytest.approx(20, rel=0.5)
        assert set(part[:, 3]) <= set(range(1, 9))
        assert part[:, 3].mean() == pytest.approx(5.5, abs=0.7)
    stored = JetKinematics.from_pretrained(tmp_path / "k" / "best")
    torch.manual_seed(2)
    jets = sample_jets(stored, network().eval(), torch.tensor([0, 1, 1]), steps=2, batch_size=2)
    assert jets.mask.sum(dim=1).tolist() == jets.jet_features[:, 3].long().tolist()
    assert (jets.constituents[~jets.mask] == 0).all()
    assert torch.isfinite(jets.constituents).all()
    other = JetNetwork(SMALL, dataclasses.replace(SCHEMA, classes=("x", "y")))
    with pytest.raises(ConfigError, match="both networks must have the same jet features and classes"):
        sample_jets(stored, other, torch.tensor([0]))


def test_bad_samples_and_settings_are_named() -> None:
    sample = toy(8, seed=1)
    with pytest.raises(InputError, match="the validation sample has no jets"):
        train_jets(network(), sample, sample.take(torch.arange(0)), RUN)
    with pytest.raises(
        InputError, match=r"training labels must be int64 classes from 0 to 1; found torch\.int64"
    ):
        train_jets(network(), sample._replace(label=sample.label + 1), sample, RUN)
    with pytest.raises(ConfigError, match="clean, generation, smeared"):
        JetTrainingConfig(clean=0, generation=0, smeared=0)
    with pytest.raises(InputError, match="no term of the loss is left"):
        train_jets(
            network(dataclasses.replace(SMALL, generator_layers=0)),
            sample,
            sample,
            JetTrainingConfig(clean=0, smeared=0),
        )
    broken = sample._replace(jet_features=sample.jet_features.clone().fill_(float("nan")))
    with pytest.raises(InputError, match="the loss is not finite in batch 0 of epoch 0: clean nan"):
        train_jets(network(), broken, sample, RUN)
