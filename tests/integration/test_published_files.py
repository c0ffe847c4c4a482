"""Files in the layout of the published preprocessing, written here by its description (tensors flattened to columns)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from evenet_hep.cli import app
from evenet_hep.errors import ConfigError, EveNetError, FileError, InputError
from evenet_hep.events.published_files import published_shapes, read_published
from evenet_hep.events.training_events import index_layout, padded_batch
from evenet_hep.events.training_files import Layout
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology
from evenet_hep.training.published_statistics import with_published_statistics

TOPOLOGY, SCHEMA = Topology.published(), EventSchema.published()
LAYOUT = Layout(SCHEMA, TOPOLOGY, {"train": 0.7, "val": 0.3})
LOGS = {"x": [0, 1], "conditions": [0, 5, 6, 7, 8, 9], "x_invisible": [0]}


def raw_events(n: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """What a user hands to the published preprocessing: raw values, padded."""
    rng = np.random.default_rng(seed)
    x_mask = np.arange(18) < rng.integers(1, 19, n)[:, None]
    x = rng.gamma(2, 40, (n, 18, 7)) * x_mask[..., None]
    x[..., 4:] = np.round(x[..., 4:] / 90)
    inv_mask = np.arange(2) < rng.integers(0, 3, n)[:, None]
    present = rng.random((n, 56, 3)) < 0.6
    return {
        "num_vectors": x_mask.sum(axis=1) + 1,
        "num_sequential_vectors": x_mask.sum(axis=1),
        "x": x,
        "x_mask": x_mask,
        "conditions": rng.gamma(2, 40, (n, 10)),
        "conditions_mask": np.ones((n, 1), bool),
        "classification": rng.integers(-1, 10, n),
        "subprocess_id": rng.integers(0, 26, n),
        "event_weight": rng.normal(1, 0.3, n),
        "x_invisible": rng.gamma(2, 20, (n, 2, 3)) * inv_mask[..., None],
        "x_invisible_mask": inv_mask,
        "assignments-indices": np.where(present, rng.integers(0, 18, (n, 56, 3)), -1),
        "assignments-indices-mask": present,
        "assignments-mask": present.all(axis=2),
        "segmentation-class": rng.random((n, 4, 9)) < 0.2,
    }


def preprocess(folder: Path, name: str, events: dict[str, np.ndarray[Any, Any]]) -> None:
    """The published preprocessing: log1p once, one float column per element, shapes beside."""
    columns, shapes = {}, {}
    for key, values in events.items():
        stored = values.astype(np.float64)
        for i in LOGS.get(key, []):
            stored[..., i] = np.log1p(stored[..., i])
        shapes[key] = list(values.shape[1:])
        for place in np.ndindex(*values.shape[1:]):
            columns[":".join([key, *map(str, place)])] = stored[(slice(None), *place)].astype(np.float32)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / "shape_metadata.json").write_text(json.dumps(shapes))


def statistics() -> dict[str, Any]:
    def pair(n: int, shift: float) -> dict[str, Any]:
        return {"mean": torch.arange(n) + shift, "std": torch.arange(n) + 1 + shift}

    source, conditions, invisible = pair(7, 0.5), pair(10, 0.25), pair(3, 0.125)
    return {
        **{f"input_{k}": {"Source": source[k], "Conditions": conditions[k]} for k in ("mean", "std")},
        **{f"invisible_{k}": {"Source": invisible[k]} for k in ("mean", "std")},
        "input_num_mean": {"Source": torch.tensor([6.1])},
        "input_num_std": {"Source": torch.tensor([2.9])},
        "class_counts": torch.ones(10),
    }


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, list[dict[str, np.ndarray[Any, Any]]]]:
    events = [raw_events(150, 1), raw_events(90, 2)]
    for i, each in enumerate(events):
        preprocess(tmp_path / "published", f"data_{i}", each)
    torch.save(statistics(), tmp_path / "published" / "normalization.pt")
    return tmp_path / "published", events


def check_event(batch: Any, row: int, events: dict[str, np.ndarray[Any, Any]], i: int) -> None:
    mask = events["x_mask"][i]
    np.testing.assert_allclose(batch.objects[row][batch.mask[row]], events["x"][i][mask], rtol=2e-6)
    np.testing.assert_allclose(batch.event_features[row], events["conditions"][i], rtol=2e-6)
    assert batch.label[row] == events["classification"][i]
    assert batch.weight[row] == np.float32(events["event_weight"][i])
    process = events["subprocess_id"][i]
    assert batch.process[row] == process
    first = sum(len(p.resonances) for p in TOPOLOGY.processes[:process])
    slot_of = np.cumsum(mask) - 1
    for s, kind in enumerate(TOPOLOGY.processes[process].kinds):
        for k in range(len(TOPOLOGY.resonance(kind).daughters)):
            stored = events["assignments-indices"][i, first + s, k]
            expected = slot_of[stored] if stored >= 0 and mask[stored] else -1
            assert batch.indices[row, s, k] == expected
    seen = events["x_invisible_mask"][i]
    np.testing.assert_allclose(
        batch.invisible[row][batch.invisible_mask[row]], events["x_invisible"][i][seen], rtol=2e-6
    )


def test_raw_values_come_back(published: tuple[Path, list[dict[str, np.ndarray[Any, Any]]]]) -> None:
    folder, events = published
    found = read_published(folder / "data_1.parquet", LAYOUT, 10, 70, file_number=1)
    assert found.n_events == 60
    assert (found.run.max(), set(found.lumi), found.event.tolist()) == (0, {1}, list(range(10, 70)))
    batch = padded_batch(found, np.arange(60), index_layout(TOPOLOGY), 2)
    for row in range(60):
        check_event(batch, row, events[1], 10 + row)


def test_holes_in_the_mask_close_up(tmp_path: Path) -> None:
    events = raw_events(40, 5)
    events["x_mask"] = np.random.default_rng(1).random((40, 18)) < 0.5
    events["x_mask"][:, 7] = True
    events["x"] = np.where(events["x_mask"][..., None], events["x"] + 3, 0)
    preprocess(tmp_path / "p", "data", events)
    found = read_published(tmp_path / "p" / "data.parquet", LAYOUT)
    batch = padded_batch(found, np.arange(40), index_layout(TOPOLOGY), 2)
    for row in range(40):
        check_event(batch, row, events, row)


def test_convert_from_published(
    published: tuple[Path, list[dict[str, np.ndarray[Any, Any]]]], tmp_path: Path
) -> None:
    folder, events = published
    words = ["convert", "--from-published", str(folder), "--out", str(tmp_path / "set"), "--chunk-size", "64"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    opened = TrainingSet.open(tmp_path / "set")
    seen = 0
    for split in opened.splits:
        rows = opened.events(split)
        batch = next(opened.batches(split, 240, shuffle=False, bucket=False))
        for row in range(rows.n_events):
            check_event(batch, row, events[rows.lumi[row]], int(rows.event[row]))
            seen += 1
    assert seen == 240
    # Statistics of the file are kept; those of the events, with zeros as values, are the set's own.
    assert opened.given_schema.objects[0].mean == 0.5
    counts = np.concatenate([e["x"][e["x_mask"]][:, 5] for e in events])
    assert opened.schema.objects[5].name == "is_lepton"
    assert counts.mean() < 0.9
    size = sum(part.size for part in opened.parts)
    assert size < 2 * sum(path.stat().st_size for path in folder.glob("*.parquet"))


def test_statistics_of_the_file(published: tuple[Path, Any], tmp_path: Path) -> None:
    schema = with_published_statistics(SCHEMA, published[0] / "normalization.pt")
    assert [(f.mean, f.std) for f in schema.objects[:4]] == [(i + 0.5, i + 1.5) for i in range(4)]
    assert schema.objects[4:] == SCHEMA.objects[4:]  # no transform: not used
    assert (schema.event_features[9].mean, schema.event_features[9].std) == (9.25, 10.25)
    assert schema.event_features[2] == SCHEMA.event_features[2]
    assert schema.invisible[2].mean == 2.125
    assert (schema.n_objects.mean, schema.n_objects.std) == pytest.approx((6.1, 2.9))
    torch.save({"input_mean": {}}, tmp_path / "wrong.pt")
    with pytest.raises(FileError, match=r"lacks input_mean\['Source'\]; it has input_mean"):
        with_published_statistics(SCHEMA, tmp_path / "wrong.pt")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(FileError, match="cannot be read"):
        with_published_statistics(SCHEMA, tmp_path / "text.pt")
    torch.save(
        {**statistics(), "input_mean": {"Source": torch.ones(3), "Conditions": torch.ones(10)}},
        tmp_path / "n.pt",
    )
    with pytest.raises(FileError, match=r"must have 7 numbers; found 3"):
        with_published_statistics(SCHEMA, tmp_path / "n.pt")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit(9)",))


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    torch.save({"input_mean": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(FileError, match="cannot be read"):
        with_published_statistics(SCHEMA, tmp_path / "evil.pt")


def test_files_without_labels(tmp_path: Path) -> None:
    kept = {key: values for key, values in raw_events(20, 3).items() if key in ("x", "x_mask", "conditions")}
    preprocess(tmp_path / "p", "data", kept)
    found = read_published(tmp_path / "p" / "data.parquet", LAYOUT)
    assert set(found.label) == set(found.process) == {-1}
    assert set(found.weight) == {1}
    assert len(found.invisible) == len(found.indices) == 0


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    events = raw_events(5, 4)
    folder, path = tmp_path / "p", tmp_path / "p" / "data.parquet"
    preprocess(folder, "data", events)
    small = Layout(SCHEMA, Topology.shipped("bbww"), {"all": 1.0})
    with pytest.raises(
        InputError, match=r"assignments-indices must have the shape \(\d, 'any'\) .*found \(56, 3\)"
    ):
        read_published(path, small)
    few = Layout(
        EventSchema.published().__class__(SCHEMA.objects, SCHEMA.event_features, 10), TOPOLOGY, {"all": 1.0}
    )
    with pytest.raises(
        InputError, match=r"x_invisible must have the shape|room for 18 objects, the schema for 10"
    ):
        read_published(path, few)
    shapes = published_shapes(folder)
    assert shapes["x"] == (18, 7)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["x:3:4"]), path)
    with pytest.raises(InputError, match=r"data\.parquet has no column 'x:3:4'"):
        read_published(path, LAYOUT)
    (folder / "shape_metadata.json").write_text("[1]")
    with pytest.raises(FileError, match=r"shape_metadata\.json must map names to shapes"):
        read_published(path, LAYOUT)
    for words, kind in (
        (["--from-published", str(tmp_path)], FileError),
        (["--from-published", str(folder), "TT=a.root"], ConfigError),
        (["--from-published", str(folder), "--select"], ConfigError),
        ([], ConfigError),
    ):
        found = CliRunner().invoke(app, ["convert", "--out", str(tmp_path / "o"), *words])
        assert isinstance(found.exception, EveNetError)
        assert isinstance(found.exception, kind)
