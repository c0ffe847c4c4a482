"""What `evenet-hep describe` says of a small training set, and the pictures it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evenet_hep.cli import app
from evenet_hep.conversion import convert
from evenet_hep.description import describe, found_fractions, padded_size, plot_training_set
from evenet_hep.errors import FileError, InputError
from evenet_hep.events.sources import Source
from evenet_hep.events.training_chunks import Settings
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.share import sample_files
from evenet_hep.topology import Topology


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    samples = {path.stem: str(path) for path in sample_files().values()}
    sources = [
        Source("tt", "TT", (samples["nano_tt_v12"],), ("TT1L", "TT2L", "TTHadronics")),
        Source("w", "W", (samples["nano_2015_wjets"],)),
        Source("data", "", (samples["nano_dimuon"],)),
    ]
    folder = tmp_path_factory.mktemp("described") / "set"
    topology, settings = Topology.published(), Settings(select=True)
    return convert(sources, folder, topology=topology, settings=settings).training_set


def test_tables_say_what_is_there(opened: TrainingSet) -> None:
    tables = {table.title.split(",")[0]: table for table in describe(opened)}
    overview = {row[0]: row[1] for row in tables["training set"].rows}
    assert overview["events"] == "440"
    events = opened.events("train")
    classes = {row[0]: row for row in tables["classes"].rows}
    assert int(classes["TT"][1]) == (events.label == 0).sum()
    assert classes["(none)"][-1] == ""
    multiplicity = {int(row[0]): int(row[1]) for row in tables["objects per event in train"].rows}
    counts = np.bincount(events.n_objects)
    assert multiplicity == {i: int(n) for i, n in enumerate(counts) if n}
    features = {(row[0], row[1]): row for row in tables["features in train"].rows}
    met = events.event_features[:, 0]
    assert features["event", "met"][3:5] == (f"{met.min():.4g}", f"{met.max():.4g}")
    assert features["object", "pt"][-1] == "log(1+x)"
    assert all(len(row) == len(table.headings) for table in tables.values() for row in table.rows)


def test_found_fractions_are_those_of_the_indices(opened: TrainingSet) -> None:
    batch = next(opened.batches("train", 1000, shuffle=False, bucket=False))
    position = [p.name for p in opened.topology.processes].index("TT1L")
    indices = batch.indices[batch.process == position]
    hadronic, leptonic = (indices[:, 0] >= 0).all(axis=1), (indices[:, 1, :2] >= 0).all(axis=1)
    assert hadronic.any()
    expected = [hadronic.mean(), leptonic.mean(), (hadronic & leptonic).mean()]
    np.testing.assert_allclose(found_fractions(opened, "TT1L"), expected)
    assert np.isnan(found_fractions(opened, "ZZ_4L")).all()


def test_a_picture_has_a_panel_for_everything(opened: TrainingSet) -> None:
    figure = plot_training_set(opened)
    titles = [panel.get_title() for panel in figure.axes]
    schema = opened.schema
    assert titles[:2] == ["events per class and split", "multiplicity"]
    assert titles[2:-1] == [f"object: {n}" for n in schema.object_names] + [
        f"event: {n}" for n in schema.event_names
    ]
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert "TT1L t1 (t/bqq)" in labels
    assert len(plot_training_set(opened, split="val", max_events=5).axes) == len(titles)


def test_a_set_without_grammar_or_objects_can_be_drawn(tmp_path: Path) -> None:
    samples = {path.stem: str(path) for path in sample_files().values()}
    found = convert([Source("data", "", (samples["nano_dimuon"],))], tmp_path / "set", splits={"all": 1.0})
    assert len(plot_training_set(found.training_set).axes) == 19
    assert "resonances" not in " ".join(table.title for table in describe(found.training_set))


def test_command(opened: TrainingSet, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["describe", str(opened.folder), "--out", str(tmp_path), "--html", "--verify"]
    )
    assert done.exit_code == 0, done.output
    assert "TT1L" in done.output
    assert (tmp_path / "description.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "description.html").read_text()
    assert "data:image/png;base64," in page
    assert f"<td>{opened.parts[0].rows + opened.parts[1].rows + opened.parts[2].rows}</td>" in page
    none = CliRunner().invoke(app, ["describe", str(opened.folder), "--no-plots"])
    assert none.exit_code == 0
    assert not (opened.folder / "description.png").exists()
    wrong = CliRunner().invoke(app, ["describe", str(opened.folder), "--split", "valid"])
    assert isinstance(wrong.exception, InputError)
    assert isinstance(CliRunner().invoke(app, ["describe", str(tmp_path)]).exception, FileError)


def test_the_size_is_well_below_the_padded_one(opened: TrainingSet) -> None:
    assert sum(part.size for part in opened.parts) < 0.9 * padded_size(opened)  # 440 events: headers count
