"""From NanoAOD files to a trained network and its report, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenet_hep import EveNet
from evenet_hep.cli import app
from evenet_hep.errors import ConfigError
from evenet_hep.run_files import EvaluateRun, FinetuneRun, PretrainRun, read_run
from evenet_hep.training.history import History
from evenet_hep.training.module import TrainingError


def run(*words: object) -> None:
    assert app([str(word) for word in words], standalone_mode=False) in (None, 0)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from evenet_hep.share import sample_files  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("data") / "events"
    files = sample_files()
    sources = (f"TT={files['ttbar MC']}", f"WJets={files['W+jets MC']}")
    run("convert", *sources, "--topology", "pretraining", "--out", folder)
    return folder


def test_two_stages_and_a_fine_tuning(
    training_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"data: {training_set}\nsize: tiny\ntraining: {{epochs: 1, batch_size: 64}}\n"
    heads = "heads: [object_generation, global_generation]\n"
    first = write(tmp_path / "stage1.yaml", f"{base}{heads}preset: stage1\nout: {tmp_path}/stage1\n")
    run("pretrain", first, "--set", "training.lr=1e-4")
    assert "lr: 0.0001" in (tmp_path / "stage1" / "config.yaml").read_text()
    assert (tmp_path / "stage1" / "report" / "index.html").is_file()
    second = write(
        tmp_path / "stage2.yaml",
        f"{base}preset: stage2\nstart: {tmp_path}/stage1/last\nout: {tmp_path}/stage2\n",
    )
    run("pretrain", second)
    assert "best epoch 1 of 1" in capsys.readouterr().out
    tune = write(
        tmp_path / "finetune.yaml",
        f"data: {training_set}\nmodel: {tmp_path}/stage2/best\nadapter: 4\nout: {tmp_path}/tuned\n"
        "heads: [classification, assignment]\ntraining: {epochs: 2, batch_size: 64}\n",
    )
    run("finetune", tune)
    history = History.from_json(tmp_path / "tuned" / "history.json")
    assert len(history.val_loss) == 2
    model = EveNet.from_pretrained(tmp_path / "tuned" / "best")
    assert model.config.pet.adapter == 4
    assert model.object_generation is None
    assert model.assignment is not None
    with pytest.raises(TrainingError, match="holds a run already"):
        run("finetune", tune)
    run("finetune", tune, "--resume")
    check = write(
        tmp_path / "evaluate.yaml",
        f"data: {training_set}\nmodel: {tmp_path}/tuned/best\nout: {tmp_path}/report\nsplit: val\n",
    )
    run("evaluate", check)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["auc/TT"] <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\nout: b\nmodel: c\nsize: tiny", "model and size must be one of them given"),
        ("data: a\nout: b\nmodle: c", "unknown key 'modle'"),
        ("data: a\nmodel: c", "lacks 'out'"),
        ("data: a\nout: b\nmodel: c\npreset: task9", "there is no preset 'task9'"),
        ("data: a\nout: b\nmodel: c\ntraining: {epoch: 1}", "unknown key 'epoch'"),
        ("data: a\nout: b\nmodel: c\npreset: task1\ntraining: 5", "training must be a mapping; found 5"),
    ],
)
def test_wrong_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_run(FinetuneRun, write(tmp_path / "run.yaml", text))


def test_a_preset_is_where_settings_begin(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "data: a\nout: b\npreset: stage1\ntraining: {epochs: 3}")
    found = read_run(PretrainRun, path, ["training.seed=9", "size=20M"])
    assert (found.training.epochs, found.training.seed, found.training.lr) == (3, 9, 1.8e-5)
    assert found.size == "20M"
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_run(EvaluateRun, tmp_path / "nothing.yaml")
