"""The study of the graph network at a trivial size: all its parts, and that it goes on where it was cut off."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evenet_hep import EventSchema, cli
from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.events.kinematic_labels import LABELS
from evenet_hep.graph_study.events import (
    ProcessEvents,
    is_enough,
    pretraining_samples,
    read_processes,
    task_samples,
)
from evenet_hep.graph_study.networks import NetworkJob, train_all, train_groups
from evenet_hep.graph_study.plan import METHODS, PRETRAINING, TASKS, GraphStudyPlan, read_plan
from evenet_hep.graph_study.report import format_tables
from evenet_hep.graph_study.study import run_study
from evenet_hep.model.graph import GraphConfig
from evenet_hep.share import sample_files
from evenet_hep.simulate.catalogue import PROCESSES
from evenet_hep.simulate.processes import parse_request

SCHEMA = EventSchema.standard()
PLAN = GraphStudyPlan(
    pretraining=("a", "b"), tasks={"c, a": ("c", "a"), "c, b": ("c", "b")}, sizes=(40, 5000), seeds=2, pretraining_epochs=1, epochs=2,
    validation=20, test=40, compared=30, network=GraphConfig(width=16, hidden=16), batch_size=32, rate=3e-3,
)  # fmt: skip


def toy(number: int, n: int = 240) -> dict[str, np.ndarray]:
    """Events whose jets are the harder, the greater the number of their process."""
    rng = np.random.default_rng(number)
    mask = np.arange(SCHEMA.capacity) < rng.integers(2, 5, n)[:, None]
    objects = np.zeros((n, SCHEMA.capacity, len(SCHEMA.objects)), np.float32)
    names = SCHEMA.object_names
    objects[..., names.index("pt")] = rng.exponential(30 * (1 + number), mask.shape) + 20
    objects[..., names.index("energy")] = objects[..., names.index("pt")] * 1.2
    objects[..., names.index("eta")] = rng.normal(0, 1, mask.shape)
    objects[..., names.index("phi")] = rng.uniform(-3.1, 3.1, mask.shape)
    features = np.abs(rng.normal(50, 20, (n, len(SCHEMA.event_features)))).astype(np.float32)
    labels = (rng.random((n, len(LABELS))) < 0.3).astype(np.float32)
    return {"objects": objects * mask[..., None], "mask": mask, "event_features": features, "labels": labels}


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with files that are not read, because what they hold is in the cache of the run."""
    folder, out = tmp_path / "data", tmp_path / "out"
    (out / "events").mkdir(parents=True)
    folder.mkdir()
    for number, name in enumerate("abc"):
        (folder / f"{name}.root").touch()
        np.savez(out / "events" / f"{name}.npz", **toy(number))  # type: ignore[arg-type]
    return folder, out


def test_all_parts_and_resuming(data: tuple[Path, Path]) -> None:
    folder, out = data
    said: list[str] = []
    results = run_study(folder, out, PLAN, say=said.append)
    assert list(results) == ["c, a, 40", "c, b, 40"]
    assert "c, a with 5000 events per class is left out: there are not as many" in said
    first = results["c, a, 40"]
    assert first["events"] == 80
    for method in METHODS:
        assert len(first["accuracy"][method]) == 2
        assert 0.3 < first["ensemble"][method] <= 1
        assert len(first["curves"][method][0]) == 2
        for epochs, seconds in zip(first["epochs"][method], first["seconds"][method], strict=True):
            assert np.isnan(epochs) == np.isnan(seconds)
    best = [max(e["accuracy"] for e in curve) for curve in first["curves"]["from scratch"]]
    assert np.isfinite(first["epochs"]["from scratch"][int(np.argmax(best))])
    for stage, row in first["cka"].items():
        assert set(row) == set(METHODS), stage
        assert all(0 < value <= 1.000001 for value, _ in row.values())
    for name in ("curves", "sizes"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "tables.md").read_text()
    assert text == format_tables(json.loads((out / "results.json").read_text()))
    assert text.count("| multilabel |") == 2
    assert "baseline, multilabel" in text
    trained = [line for line in said if "accuracy" in line]
    assert len(trained) == 2 + 2 * 3 * 2
    (out / "networks" / "task-1-40-multiclass-1.json").unlink()  # as if it had been stopped there
    said.clear()
    again = run_study(folder, out, PLAN, say=said.append)
    assert [line.split(":")[0] for line in said if "accuracy" in line] == ["task-1-40-multiclass-1"]
    for task, result in again.items():
        for method in METHODS:
            assert result["accuracy"][method] == pytest.approx(results[task]["accuracy"][method], abs=1e-6)
    with pytest.raises(FileError, match="holds a study with another plan"):
        run_study(folder, out, GraphStudyPlan())


def test_processes_share_the_work(data: tuple[Path, Path], tmp_path: Path) -> None:
    """The result does not depend on their number; sizes have epochs of their own."""
    folder, out = data
    plan = dataclasses.replace(PLAN, sizes=(30, 40), epochs=(2, 1), tasks={"c, a": ("c", "a")})
    alone = run_study(folder, out, plan)
    assert [len(alone[f"c, a, {n}"]["curves"]["multiclass"][0]) for n in (30, 40)] == [2, 1]
    other = tmp_path / "other"
    shutil.copytree(out / "events", other / "events")
    said: list[str] = []
    shared = run_study(folder, other, plan, cores=2, say=said.append)
    assert len(said) == 2 + 2 * 3 * 2
    for name, result in alone.items():
        assert shared[name]["accuracy"] == result["accuracy"]
        assert shared[name]["cka"] == result["cka"]
    assert list(shared) == list(alone)


def test_tasks_see_nothing_of_pretraining() -> None:
    processes = {
        name: ProcessEvents(*(torch.from_numpy(x) for x in toy(number).values()))
        for number, name in enumerate("abc")
    }
    seen = {
        tuple(row) for row in pretraining_samples(processes, PLAN, labels=False)[0].event_features.tolist()
    }
    assert len(seen) == 2 * 108
    parts = task_samples(processes, PLAN, "c, a", 40)
    rows = [{tuple(row) for row in part.event_features.tolist()} for part in parts]
    assert [len(part) for part in rows] == [80, 40, 80]
    assert not seen & (rows[0] | rows[1] | rows[2])
    assert not rows[0] & rows[1]
    assert not rows[2] & (rows[0] | rows[1])
    larger = task_samples(processes, PLAN, "c, a", 60)
    assert torch.equal(larger[2].event_features, parts[2].event_features)
    with pytest.raises(InputError, match="c, a with 5000 events per class needs more events than 240 of c"):
        task_samples(processes, PLAN, "c, a", 5000)
    # What pretraining leaves is for the tasks, also where it takes less than it may.
    few = dataclasses.replace(PLAN, pretraining_events=10)
    assert is_enough(processes, few, "c, a", 240 - 10 - 60)
    assert not is_enough(processes, few, "c, a", 240 - 10 - 60 + 1)
    labels = pretraining_samples(processes, PLAN, labels=True)[0].target
    assert labels.shape == (216, len(LABELS))


def test_the_full_plan_names_processes_that_can_be_simulated() -> None:
    plan = GraphStudyPlan()
    assert len(PRETRAINING) == 12
    assert len(TASKS) == 5
    words = {"xyh_m_x500_m_y90": "xyh:m_x=500,m_y=90", "haa4b_m_a30": "haa4b:m_a=30"}
    for name in plan.processes:
        assert parse_request(words.get(name, name), PROCESSES).label == name


def test_plans_from_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("pretraining: [a, b]\ntasks:\n  t: [a, b]\nsizes: [10]\nnetwork:\n  width: 8\n")
    plan = read_plan(path, seeds=1)
    assert (plan.sizes, plan.seeds, plan.network.width, plan.tasks) == ((10,), 1, 8, {"t": ("a", "b")})
    path.write_text("sizes: [10, 20]\nepochs: [3, 1]\nprecision: bf16\n")
    assert [read_plan(path).epochs_of(size) for size in (10, 20)] == [3, 1]
    path.write_text("size: 3\n")
    with pytest.raises(ConfigError, match="has unknown key 'size'; allowed are pretraining"):
        read_plan(path)
    with pytest.raises(ConfigError, match="one or one per size; found \\(3, 4\\) for the sizes"):
        GraphStudyPlan(epochs=(3, 4))
    for wrong in (2.5, "20", True, 0):
        with pytest.raises(ConfigError, match="epochs must be whole numbers from 1 on"):
            GraphStudyPlan(epochs=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision must be 'single' or 'bf16'; found 'fp16'"):
        GraphStudyPlan(precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seeds must be at least 1; found 0"):
        GraphStudyPlan(seeds=0)
    with pytest.raises(FileError, match="is no plan of a study"):
        read_plan(tmp_path / "none.yaml")


def test_missing_processes_and_events_are_named(data: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = data
    with pytest.raises(FileError, match="has no files of TT; it has a, b, c"):
        run_study(folder, tmp_path / "other", GraphStudyPlan())
    with pytest.raises(InputError, match="no task has as many events as 5000 to train"):
        run_study(
            folder,
            data[1],
            GraphStudyPlan(**{**{k: getattr(PLAN, k) for k in PLAN.__dataclass_fields__}, "sizes": (5000,)}),
        )


def test_events_of_files(tmp_path: Path) -> None:
    source = next(iter(sample_files().values()))
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "a_0000.root").write_bytes(Path(source).read_bytes())
    plan = GraphStudyPlan(pretraining=("a", "a"), tasks={"t": ("a", "a")})
    said: list[str] = []
    first, again = (
        read_processes(tmp_path / "data", tmp_path / "cache", plan, SCHEMA, say=said.append)["a"]
        for _ in "12"
    )
    assert len(said) == 1
    assert 150 < len(first.objects) <= 200
    assert first.labels.shape[1] == len(LABELS)
    assert torch.equal(first.objects, again.objects)


def test_a_training_that_fails_ends_the_study(data: tuple[Path, Path]) -> None:
    """Its reason is said at once, and the processes end; what is there is kept."""
    _, out = data
    plan = dataclasses.replace(PLAN, sizes=(40,), seeds=1, tasks={"c, a": ("c", "a")})
    said: list[str] = []
    first = NetworkJob(out, plan, SCHEMA, "cpu", "multiclass")
    broken = dataclasses.replace(first, method="from scratch", task="c, a", size=40_000)
    train_all([first], cores=1, say=said.append)
    with pytest.raises(InputError, match="40000 events per class needs more events"):
        list(train_groups({"one": [broken], "two": [first]}, len, cores=2, say=said.append))
    assert "what is being trained goes on to its end" in said[-1]
    assert first.is_done


def test_events_that_were_replaced_are_read_again(data: tuple[Path, Path]) -> None:
    _, out = data
    job = NetworkJob(out, PLAN, SCHEMA, "cpu", "from scratch", task="c, a", size=40)
    before = job.test_sample()
    path = out / "events" / "c.npz"
    np.savez(path, **toy(9))  # type: ignore[arg-type]
    os.utime(path, ns=(1, 1))
    assert not torch.equal(job.test_sample().event_features, before.event_features)


def test_the_command(data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = data
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "pretraining: [a, b]\ntasks: {'c, a': [c, a]}\nsizes: [40]\nepochs: [1]\npretraining_epochs: 1\nvalidation: 20\n"
        "test: 40\ncompared: 30\nnetwork: {width: 8, hidden: 8}\n"
    )
    words = ["graph-study", str(folder), "--out", str(out), "--plan", str(plan), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["evenet-hep", *words, "--device", "cuda:9"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert not (out / "plan.txt").exists()
    monkeypatch.setattr(sys, "argv", ["evenet-hep", *words, "--device", "cpu", "--cores", "1"])
    with contextlib.suppress(SystemExit):
        cli.main()
    assert "| c, a, 40 | multilabel |" in (out / "tables.md").read_text()
