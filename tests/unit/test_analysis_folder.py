"""The folder of an analysis: resuming, refusing other settings, tables and figures."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib import pyplot as plt

from evenet_hep.analyses.folder import AnalysisFolder, plain
from evenet_hep.errors import ConfigError, FileError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    n: int = 3
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_a_step_is_done_once_and_a_failed_one_again(tmp_path: Path) -> None:
    calls = []

    def fail() -> dict[str, float]:
        calls.append("fail")
        raise ArithmeticError

    folder = AnalysisFolder(tmp_path, Settings())
    with pytest.raises(ArithmeticError):
        folder.step("train", fail)
    assert folder.step("train", lambda: {"auc": np.float32(0.5)}) == {"auc": 0.5}
    assert AnalysisFolder(tmp_path, Settings()).step("train", fail) == {"auc": 0.5}
    assert calls == ["fail"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    AnalysisFolder(tmp_path, Settings())
    with pytest.raises(ConfigError, match=r"inner\.rate was 0\.1 and is 0\.2 now"):
        AnalysisFolder(tmp_path, Settings(inner=Inner(0.2)))
    held = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert held["analysis"] == "Settings"
    assert held["settings"] == {"n": 3, "inner": {"rate": 0.1}}


def test_a_damaged_step_is_named(tmp_path: Path) -> None:
    folder = AnalysisFolder(tmp_path, Settings())
    (tmp_path / "steps" / "train.json").write_text("{")
    with pytest.raises(FileError, match=r"train\.json"):
        folder.step("train", dict)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match="cannot write the folder"):
        AnalysisFolder(tmp_path / "out", Settings())


def test_tables_hold_all_columns_and_json_no_nan(tmp_path: Path) -> None:
    folder = AnalysisFolder(tmp_path, Settings())
    path = folder.table("sic", [{"point": "a", "sic": np.float64(1.5)}, {"point": "b", "error": math.nan}])
    assert path.read_text().splitlines() == ["point,sic,error", "a,1.5,", "b,,"]
    assert json.loads((tmp_path / "sic.json").read_text())[1] == {"point": "b", "error": None}


def test_the_report_lists_what_was_made(tmp_path: Path) -> None:
    folder = AnalysisFolder(tmp_path, Settings())
    figure, panel = plt.subplots()
    panel.plot([0, 1])
    folder.figure("curve", figure)
    folder.table("yields", [{"events": 3}])
    report = folder.report("Three events.", {"n": np.int64(3), "where": tmp_path})
    assert report.numbers == {"n": 3, "where": str(tmp_path)}
    assert [path.name for path in report.figures] == ["curve.png"]
    assert list(report.tables) == ["yields"]
    assert json.loads((tmp_path / "summary.json").read_text())["summary"] == "Three events."
    assert not list(tmp_path.rglob("*.part"))


def test_plain_reaches_into_everything() -> None:
    value = {"a": np.arange(2), 3: (np.bool_(True), float("inf")), "c": Inner()}
    assert plain(value) == {"a": [0, 1], "3": [True, None], "c": {"rate": 0.1}}
