"""The whole bbWW analysis on a small simulated sample: every step, every table and figure, and a second call that does nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")
pytest.importorskip("lightning")
pytest.importorskip("pyhf")

from evenet_hep import EveNet, EveNetConfig, EventSchema
from evenet_hep.analyses.bbww_resonance import BbwwConfig, analyse_bbww, read_bbww_config
from evenet_hep.analyses.bbww_resonance.classifiers import load_events
from evenet_hep.analyses.bbww_resonance.events import BbwwEvents
from evenet_hep.analyses.folder import AnalysisReport
from evenet_hep.cli import app
from evenet_hep.errors import ConfigError
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import simulate
from evenet_hep.simulate.shards import SimulationSettings

WORDS = ["TT1L:events=1000", "xyh:m_x=700,m_y=400,events=300", "xyh:m_x=900,m_y=400,events=300"]
POINTS = ("xyh_m_x700_m_y400", "xyh_m_x900_m_y400")
METHODS = ("finetuned", "scratch", "parametrised", "tabpfn")
SETTINGS = [
    "backgrounds=[TT1L]",
    f"methods=[{','.join(METHODS)}]",
    "seeds=[1]",
    "finetuned.epochs=1",
    "scratch.epochs=1",
    "parametrised.epochs=1",
    "minimum_effective=3",
    f"systematics.points=[{POINTS[0]}]",
    "systematics.energy_scale=3",
    "systematics.soft_met=2",
    f"closure.points=[{POINTS[0]}]",
    "closure.toys=3",
    "closure.background_toys=4",
    "closure.strengths=[0,2]",
    "cores=1",
]


class NearestRow:
    """Stands in for TabPFN: answers with the class of the nearest row it was shown."""

    def __init__(self, **_options: Any) -> None:
        self.x, self.y = np.zeros((0, 0)), np.zeros(0, int)

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        nearest = np.nansum((x[:, None] - self.x[None]) ** 2, axis=2).argmin(axis=1)
        return np.asarray(np.eye(2)[self.y[nearest]] * 0.98 + 0.01)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated events, and a network that was never trained as checkpoint."""
    home = tmp_path_factory.mktemp("bbww")
    simulate(requests_from_words(WORDS, None), home / "events", SimulationSettings(seed=5))
    schema = EventSchema.standard(classes=("a", "b", "c"))
    EveNet(EveNetConfig.tiny(), schema).save_pretrained(home / "pretrained")
    return home


@pytest.fixture(scope="module")
def config(home: Path) -> BbwwConfig:
    return read_bbww_config(settings=[*SETTINGS, f"checkpoint={home / 'pretrained'}"])


@pytest.fixture(scope="module")
def report(home: Path, config: BbwwConfig) -> AnalysisReport:
    module = types.ModuleType("tabpfn")
    module.__dict__["TabPFNClassifier"] = NearestRow
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tabpfn", module)
        patch.setitem(sys.modules, "tabpfn.errors", None)  # an older version has none
        return analyse_bbww(home / "events", home / "out", config)


def rows_of(report: AnalysisReport, name: str) -> list[dict[str, str]]:
    with (report.out / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_method_is_measured_at_every_point(report: AnalysisReport) -> None:
    rows = rows_of(report, "significance")
    assert {(row["method"], row["point"]) for row in rows} == {(m, p) for m in METHODS for p in POINTS}
    for row in rows:
        assert 0.3 < float(row["auc"]) <= 1
        assert float(row["sic"]) >= 1  # keeping everything is a cut
        assert float(row["background_effective"]) >= 3 - 1e-9
    assert report.tables["unavailable"] == []
    assert len(report.tables["limits"]) == len(rows)
    assert {row["winner"] for row in report.tables["winners"]} <= set(METHODS)


def test_the_cut_flow_is_that_of_the_files(report: AnalysisReport) -> None:
    rows = {row["sample"]: row for row in rows_of(report, "cutflow")}
    assert {name: int(row["events"]) for name, row in rows.items()} == {"TT1L": 1000} | dict.fromkeys(
        POINTS, 300
    )
    events = BbwwEvents.load(report.out / "steps" / "events" / "selected.npz")
    for i, name in enumerate(events.names):
        assert float(rows[name]["topness"]) == (events.sample == i).sum()
        assert float(rows[name]["yield"]) == pytest.approx(events.weight[events.sample == i].sum())
    # signal at 1 pb and 140/fb
    assert float(rows[POINTS[0]]["weight"]) == pytest.approx(140_000 / 300)


def test_no_event_was_scored_by_a_network_that_had_seen_it(
    report: AnalysisReport, config: BbwwConfig
) -> None:
    events = load_events(str(report.out / "steps" / "events" / "selected.npz"))
    rows = events.rows(events.points[0])
    home = report.out / "steps" / "train" / f"tabpfn-{POINTS[0]}-seed1"
    scores = np.load(home / "scores.npz")[POINTS[0]]
    # The nearest row of an event that was shown is the event itself: its score would always be right.
    right = (scores > 0.5) == events.is_signal[rows]
    assert len(scores) == len(rows)
    assert right.mean() < 1
    assert config.folds == 2


def test_systematics_run_the_selection_again(report: AnalysisReport) -> None:
    rows = report.tables["systematics"]
    assert {(row["shift"], row["method"], row["figure"]) for row in rows} == {
        (shift, method, figure)
        for shift in ("energy_scale", "soft_met")
        for method in ("finetuned", "parametrised")
        for figure in ("nominal_cut", "best_cut")
    }
    assert max(row["largest_movement"] for row in rows) > 0
    figure = {path.name for path in report.figures}
    assert {"stability_nominal_cut.png", "stability_best_cut.png"} <= figure


def test_tables_figures_and_settings_are_there(report: AnalysisReport) -> None:
    names = {path.name for path in report.figures}
    assert {"significance.png", "winners.png", "roc.png", "topness.png", "templates.png"} <= names
    assert {"limits.png", "closure.png", "ratio_finetuned_scratch.png"} <= names
    assert all(path.stat().st_size > 5000 for path in report.figures)
    settings = yaml.safe_load((report.out / "config.yaml").read_text())["settings"]
    assert settings["minimum_effective"] == 3
    summary = json.loads((report.out / "summary.json").read_text())
    assert summary["points"] == 2
    assert sum(summary["wins"].values()) == 2
    assert len(report.tables["halves"]) == len(METHODS) * 2 * 2 * 2
    assert [row["injected"] for row in report.tables["closure"]] == [0.0, 2.0]


def test_a_second_call_computes_nothing(
    report: AnalysisReport, home: Path, config: BbwwConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError

    module = "evenet_hep.analyses.bbww_resonance.analysis"
    for name in ("train_and_score", "run_selection", "toy_job", "run_experiments", "_limit"):
        monkeypatch.setattr(f"{module}.{name}", refuse)
    again = analyse_bbww(home / "events", home / "out", config)
    assert again.numbers == report.numbers
    assert again.tables == report.tables


def test_other_settings_need_another_folder(report: AnalysisReport, home: Path, config: BbwwConfig) -> None:
    with pytest.raises(ConfigError, match="seeds was"):
        analyse_bbww(home / "events", report.out, dataclasses.replace(config, seeds=(2,)))


def test_the_command(home: Path, tmp_path: Path) -> None:
    small = ["methods=[scratch,finetuned]", f"points=[{POINTS[1]}]", "systematics.points=[]"]
    chosen = [word for setting in [*SETTINGS, *small] for word in ("--set", setting)]
    words = ["analyse", "bbww-resonance", "--events", str(home / "events"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, *chosen], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "finetuned was not run: no checkpoint was given" in " ".join(done.output.split())
    assert (tmp_path / "out" / "significance.csv").is_file()
    assert not json.loads((tmp_path / "out" / "systematics.json").read_text())
