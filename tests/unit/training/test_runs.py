"""Whole runs: what they leave behind, resuming after a kill, averages, early stop, bad losses."""

from __future__ import annotations

import csv
import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from evenet_hep import EveNet, EventSchema
from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.training.averaging import RunningAverage
from evenet_hep.training.callbacks import Logs, read_resume_point
from evenet_hep.training.config import FinetuneConfig, LossWeights, PretrainConfig, Stage
from evenet_hep.training.history import History
from evenet_hep.training.module import TrainingError, TrainingModule, class_metrics
from evenet_hep.training.run import finetune, fit, pretrain

Make = Callable[..., Any]
CLASSES = LossWeights.only("classification")

# Trains, and kills itself before a batch; run again, it resumes.
PROGRAM = """
import os, signal, sys
import numpy as np, torch
from lightning.pytorch.callbacks import Callback
from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema
from evenet_hep.training.config import LossWeights, Stage, TrainingConfig
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.presets import with_heads
from evenet_hep.training.run import fit

folder, at = sys.argv[1], int(sys.argv[2])

class Kill(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if module.batches_seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

rng = np.random.default_rng(1)
schema = EventSchema.standard(classes=("a", "b"))
mask = np.arange(18) < rng.integers(1, 6, 90)[:, None]
objects = (rng.exponential(1, (90, 18, 7)) * mask[..., None]).astype(np.float32)
cloud = EventCloud.from_arrays(objects, mask, rng.exponential(1, (90, 10)).astype(np.float32), schema)
events = ArrayEvents(cloud, (objects[:, 0, 1] > 1).astype(int))
losses = LossWeights.only("classification", "noised_classification", "object_generation")
config = TrainingConfig(
    epochs=3, batch_size=16, seed=5, optimizer="lion", lr=1e-3, ema=0.9, accumulate=2, rotate=True, mirror=True,
    checkpoint_every=2, log_every=1, stages=(Stage(noise_probability=(0.1, 1.0), losses=losses),),
)
torch.manual_seed(2)
network = with_heads(EveNetConfig.tiny(), ("classification", "object_generation"))
model = EveNet(network, schema)
fit(model, events.select(np.arange(70)), events.select(np.arange(70, 90)), config, folder,
    resume=os.path.isdir(folder), trainer_options={"callbacks": [Kill()]})
"""


def run_program(folder: Path, kill_at: int) -> int:
    words = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), str(kill_at)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode > 0:
        pytest.fail(done.stderr[-3000:])
    return done.returncode


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    # Four batches an epoch, and a checkpoint every two: killed in the middle of the second, a batch after a checkpoint.
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_program(whole, -1) == 0
    assert run_program(cut, 7) == -signal.SIGKILL
    assert read_resume_point(cut / "resume.ckpt")["batches_seen"] == 6
    assert run_program(cut, -1) == 0
    for name in ("best", "last"):
        one, other = (folder / name / "model.safetensors" for folder in (whole, cut))
        assert one.read_bytes() == other.read_bytes(), name
    courses = [History.from_json(folder / "history.json") for folder in (whole, cut)]
    assert courses[0].val_loss == courses[1].val_loss
    assert courses[0].train_loss == courses[1].train_loss
    logs = []
    for folder in (whole, cut):
        with (folder / "log.csv").open() as file:
            rows = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
        logs.append(rows)
    assert logs[0] == logs[1]


def test_a_run_leaves_networks_history_and_settings(
    tmp_path: Path, make_events: Make, make_network: Make, make_settings: Make
) -> None:
    folder = tmp_path / "run"
    model, config = make_network(), make_settings(CLASSES, 3, batch_size=16, ema=0.9)
    history = fit(model, make_events(64), make_events(32, 2), config, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "best",
        "config.yaml",
        "history.json",
        "last",
        "log.csv",
        "resume.ckpt",
    ]
    assert History.from_json(folder / "history.json") == history
    assert len(history.val_loss) == len(history.course("val_auc")) == 3
    assert history.best_epoch == int(np.argmin(history.val_loss))
    assert type(config).from_yaml((folder / "config.yaml").read_text()) == config
    best = EveNet.from_pretrained(folder / "best")
    assert not model.training
    for name, value in best.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    again = fit(make_network(), make_events(64), make_events(32, 2), config, folder, resume=True)
    assert again == history  # finished: nothing is trained again


def test_a_folder_is_not_used_twice(
    tmp_path: Path, make_events: Make, make_network: Make, make_settings: Make
) -> None:
    config = make_settings(CLASSES, 1)
    fit(make_network(), make_events(8), None, config, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already; resume it"):
        fit(make_network(), make_events(8), None, config, tmp_path / "run")
    other = make_settings(CLASSES, 2)
    with pytest.raises(TrainingError, match=r"with other settings \(epochs: 1\)"):
        fit(make_network(), make_events(8), None, other, tmp_path / "run", resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(FileError, match="something that is no run"):
        fit(make_network(), make_events(8), None, config, tmp_path / "full")
    with pytest.raises(ConfigError, match="resume needs the folder"):
        fit(make_network(), make_events(8), None, config, resume=True)


def test_the_same_seed_gives_the_same_weights(
    make_events: Make, make_network: Make, make_settings: Make
) -> None:
    found = []
    for seed in (1, 1, 2):
        model = make_network()
        fit(model, make_events(48), None, make_settings(CLASSES, 2, batch_size=16, seed=seed))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(
    tmp_path: Path, make_events: Make, make_network: Make, make_settings: Make
) -> None:
    events = make_events(32)
    events.content.event_features[:] = np.nan  # past the checks of the data room
    config = make_settings(CLASSES, 1, batch_size=16)
    with pytest.raises(TrainingError, match=r"not finite in batch 0 \(classification\)") as caught:
        fit(make_network(), events, None, config, tmp_path / "run")
    path = tmp_path / "run" / "bad-batch-0-rank0.npz"
    assert str(path) in str(caught.value)
    with np.load(path) as saved:
        assert saved["objects"].shape[0] == 16
        assert np.isnan(saved["event_features"]).all()


def test_a_run_that_gets_no_better_stops(make_events: Make, make_network: Make, make_settings: Make) -> None:
    # A head without running statistics: with a rate of zero nothing at all changes.
    losses = LossWeights.only("object_generation")
    config = make_settings(losses, 30, lr=0.0, patience=2)
    history = fit(make_network(), make_events(16), make_events(16, 2), config)
    assert len(history.epochs) == 3
    assert history.best_epoch == 0


def test_the_best_epoch_by_auc_is_kept(make_events: Make, make_network: Make, make_settings: Make) -> None:
    config = make_settings(CLASSES, 4, monitor="val_auc", batch_size=16, lr=0.02)
    model, val = make_network(), make_events(64, 2)
    history = fit(model, make_events(64), val, config)
    assert history.best_epoch == int(np.argmax(history.course("val_auc")))
    module = TrainingModule(model, config, topology=val.topology)
    with torch.no_grad():
        for batch in val.batches(256, shuffle=False):
            from evenet_hep.training.batches import TensorBatch  # noqa: PLC0415

            module.validation_step(TensorBatch.of(batch), 0)
    assert module.validation_metrics()["val_auc"] == pytest.approx(max(history.course("val_auc")))


def test_the_running_average_is_one_and_includes_statistics(
    make_events: Make, make_network: Make, make_settings: Make
) -> None:
    decay, steps, seen = 0.7, [], []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            steps.append({k: v.clone().double() for k, v in pl_module.model.state_dict().items()})

    model = make_network()
    config = make_settings(CLASSES, 3, batch_size=16, ema=decay, keep="last")
    fit(model, make_events(64), None, config, trainer_options={"callbacks": [Watch()]})
    average = dict(steps[0])
    for n, current in enumerate(steps[1:], 1):
        share = 1 - min(decay, (1 + n) / (10 + n))
        average = {k: v + share * (current[k] - v) for k, v in average.items()}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
            seen.append(name)
    assert any("running_mean" in name for name in seen)
    # Positions are copied: an average of whole numbers would be cut to the one below.
    fresh = make_network()
    for name, value in model.named_buffers():
        if not value.is_floating_point() and "num_batches" not in name:
            assert torch.equal(value, dict(fresh.named_buffers())[name]), name


def test_an_average_of_equal_numbers_is_that_number() -> None:
    values = [torch.tensor([0.1, 3.3333333, -7e-5])]
    average = [values[0].clone()]
    callback = RunningAverage(0.999)
    for n in range(1, 2000):
        callback._average(average, values, n)
    assert torch.equal(average[0], values[0])


def test_finetune_and_pretrain(make_events: Make, make_network: Make) -> None:
    model = make_network()
    config = FinetuneConfig(epochs=2, batch_size=32, seed=1)
    history = finetune(model, make_events(64), make_events(32, 2), config=config)
    assert history.best_epoch in (0, 1)
    assert set(history.epochs[0]) >= {
        "train_classification",
        "train_assignment",
        "train_invisible_generation",
    }
    assert "train_object_generation" not in history.epochs[0]
    stages = (Stage(noise_probability=(0.1, 1.0), losses=LossWeights.only("object_generation")),)
    settings = PretrainConfig(epochs=1, batch_size=32, stages=stages, class_condition=0.0)
    first, _ = pretrain(model.config, make_events(64), config=settings)
    second, _ = pretrain(first, make_events(64), config=dataclasses.replace(settings, seed=2))
    assert second is first
    assert isinstance(first, EveNet)


def test_events_that_do_not_fit_are_refused(make_events: Make, make_network: Make) -> None:
    events = make_events(8)
    other = dataclasses.replace(events.schema, classes=("x", "y"))
    events.schema = other
    with pytest.raises(InputError, match="classes are x, y; the network has ttbar, other"):
        finetune(make_network(), events)
    published = EventSchema.published(classes=("ttbar", "other"))
    events.schema = published
    with pytest.raises(InputError, match="ht_lep in pure numbers lepton_count"):
        finetune(make_network(), events)
    with pytest.raises(InputError, match="there are no training events"):
        finetune(make_network(), make_events(8).select(np.zeros(8, bool)))


def test_bf16_and_clipping(make_events: Make, make_network: Make, make_settings: Make) -> None:
    model = make_network()
    fit(model, make_events(32), None, make_settings(CLASSES, 6, precision="bf16", gradient_clip=0.5))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_only_chosen_parts_are_trained(make_events: Make, make_network: Make, make_settings: Make) -> None:
    model = make_network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, make_events(32), None, make_settings(CLASSES, 2, trainable=("heads",)))
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classification"}


def test_tensorboard_has_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenet_hep.training.callbacks.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="TensorBoard is not installed"):
        Logs(tmp_path, 1, tensorboard=True)


def test_metrics_of_classes() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    found = class_metrics(probability, torch.tensor([0, 0, 1, -1]), torch.tensor([1.0, 3.0, 1.0, 9.0]))
    assert found == {"val_accuracy": pytest.approx(0.4), "val_auc": pytest.approx(1.0)}
    nothing = class_metrics(probability, torch.full((4,), -1), torch.ones(4))
    assert np.isnan(nothing["val_auc"])


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text("{}")
    with pytest.raises(FileError, match="is no history of a run"):
        History.from_json(path)
