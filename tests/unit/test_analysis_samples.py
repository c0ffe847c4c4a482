"""Samples of an analysis: from the folder of a simulation, and from a user's own list."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from coffea import processor

from evenet_hep.analyses.samples import choose, read_samples, run_processor
from evenet_hep.errors import ConfigError, FileError
from evenet_hep.share import sample_files


class CountEvents(processor.ProcessorABC):  # type: ignore[misc]
    def process(self, events):  # type: ignore[no-untyped-def]
        return {events.metadata["dataset"]: len(events)}

    def postprocess(self, accumulator):  # type: ignore[no-untyped-def]
        return accumulator


def write_list(folder: Path, text: str) -> Path:
    path = folder / "samples.yaml"
    path.write_text(text)
    return path


def test_the_folder_of_a_simulation(tmp_path: Path) -> None:
    (tmp_path / "TT").mkdir()
    (tmp_path / "TT" / "a.root").touch()
    known = {"files": ["TT/a.root"], "cross_section_pb": 2.0, "sum_of_weights": 4000.0, "reference_pb": None}
    (tmp_path / "dataset.json").write_text(json.dumps({"samples": {"TT": known}}))
    sample = read_samples(tmp_path)["TT"]
    assert sample.files == (tmp_path / "TT" / "a.root",)
    assert sample.event_weight(140.0) == pytest.approx(1000 * 140 * 2.0 / 4000)
    assert not sample.is_data


def test_a_reference_cross_section_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.root").touch()
    path = write_list(
        tmp_path,
        "samples: {TT: {files: [a.root], cross_section_pb: 2, reference_pb: 3, sum_of_weights: 10}}",
    )
    assert read_samples(path)["TT"].cross_section == 3


def test_data_have_weight_one(tmp_path: Path) -> None:
    (tmp_path / "a.root").touch()
    sample = read_samples(write_list(tmp_path, "samples: {data: {files: ['*.root']}}"))["data"]
    assert sample.is_data
    assert math.isnan(sample.sum_of_weights)
    assert sample.event_weight(140.0) == 1.0


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("samples: {TT: {files: [none.root]}}", FileError, "no file matches 'none.root'"),
        ("samples: {TT: {files: []}}", ConfigError, "must name its files"),
        ("samples: {TT: {files: ['*.yaml'], cross_section_pb: 1}}", ConfigError, "sum_of_weights"),
        ("samples: []", ConfigError, "must hold samples"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, kind: type[Exception], message: str) -> None:
    path = write_list(tmp_path, text)
    with pytest.raises(kind, match=message):
        read_samples(path)


def test_a_folder_without_events(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"dataset\.json is missing"):
        read_samples(tmp_path)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_processor_runs_over_the_files(tmp_path: Path, cores: int) -> None:
    shipped = sample_files()
    path = write_list(
        tmp_path,
        f"samples: {{TT: {{files: ['{shipped['ttbar MC']}']}}, DY: {{files: ['{shipped['Drell-Yan MC']}']}}}}",
    )
    samples = read_samples(path)
    assert run_processor(choose(samples, ["DY", "TT"]), CountEvents(), cores=cores) == {"TT": 200, "DY": 40}
    with pytest.raises(ConfigError, match="there is no sample 'QCD'"):
        choose(samples, ["QCD"])


def test_stability_numbers() -> None:
    from evenet_hep.analyses.stability import plot_stability, shift_many  # noqa: PLC0415

    shifts = np.linspace(-1, 1, 2001)
    found = shift_many(lambda shift: 2 + 0.1 * shift, shifts, label="JES", nominal=2.0, statistical=0.05)
    numbers = found.to_dict()
    assert numbers["half_width_68"] == pytest.approx(0.068)
    assert numbers["half_width_95_in_statistical_errors"] == pytest.approx(0.095 / 0.05)
    assert numbers["largest_movement"] == pytest.approx(0.1)
    assert numbers["mean_movement"] == pytest.approx(0, abs=1e-12)
    figure = plot_stability([("network", found)], quantity="SIC")
    assert "absolute" in figure.axes[0].get_xlabel()
    assert "statistical error" in figure.axes[1].get_xlabel()
