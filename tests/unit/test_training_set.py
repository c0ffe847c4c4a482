"""Training files: what is written comes back, in batches that depend on the seed alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.labels import EventLabels, TrainingBatch
from evenet_hep.events.splits import split_of
from evenet_hep.events.training_events import TrainingEvents, index_layout, index_shape, training_events
from evenet_hep.events.training_files import Layout, finish, write_part
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

SPLITS = {"train": 0.6, "val": 0.25, "test": 0.15}
SCHEMA = EventSchema.standard(classes=("signal", "background"), capacity=10)
TOPOLOGY = Topology.published()


def random_events(n: int, seed: int, *, label: int | None = None) -> TrainingEvents:
    """Events with every kind of label, zeros among the values, and some without any object."""
    rng = np.random.default_rng(seed)
    mask = np.arange(10) < rng.integers(0, 11, n)[:, None]
    objects = np.where(mask[..., None], rng.gamma(2, 30, (n, 10, 7)), 0).astype(np.float32)
    objects[..., 4:] *= rng.random((n, 10, 3)) < 0.5
    features = rng.gamma(2, 30, (n, 10)).astype(np.float32)
    features[:, 0] = np.arange(n)  # tells events apart
    features[:, 1] = seed
    process = rng.integers(-1, len(TOPOLOGY.processes), n).astype(np.int16)
    layout = index_layout(TOPOLOGY)
    indices = np.where(layout[process], rng.integers(-1, 10, (n, *layout.shape[1:])), -1)
    invisible_mask = np.arange(3) < rng.integers(0, 4, n)[:, None]
    invisible = np.where(invisible_mask[..., None], rng.gamma(2, 20, (n, 3, 3)), 0).astype(np.float32)
    return training_events(
        EventCloud.from_arrays(objects, mask, features, SCHEMA),
        EventLabels(process, indices.astype(np.int16), invisible, invisible_mask),
        TOPOLOGY,
        label=rng.integers(-1, 2, n) if label is None else np.full(n, label),
        weight=rng.normal(1, 0.5, n),
        identifiers=(np.full(n, seed), rng.integers(0, 9, n), np.arange(n)),
    )


def write_set(folder: Path, parts: Iterable[tuple[str, TrainingEvents]], **scales: float) -> TrainingSet:
    layout = Layout(SCHEMA, TOPOLOGY, SPLITS)
    written = [write_part(folder, i, events, layout, source=name) for i, (name, events) in enumerate(parts)]
    sources = {part.source: {"class": part.source, "scale": scales.get(part.source, 1.0)} for part in written}
    finish(folder, layout, written, sources)
    return TrainingSet.open(folder, verify=True)


@pytest.fixture(scope="module")
def parts() -> list[tuple[str, TrainingEvents]]:
    return [
        ("one", random_events(900, 1)),
        ("two", random_events(500, 2)),
        ("one", random_events(20_000, 3)),
        ("none", random_events(0, 4)),
    ]


@pytest.fixture(scope="module")
def opened(parts: list[tuple[str, TrainingEvents]], tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return write_set(tmp_path_factory.mktemp("set"), parts, two=3.0)


def names(batches: Iterable[TrainingBatch]) -> list[tuple[int, int]]:
    """Part and number of every event, in order."""
    return [(int(f[1]), int(f[0])) for batch in batches for f in batch.event_features]


def same(one: TrainingBatch, other: TrainingBatch) -> None:
    for field, a, b in zip(TrainingBatch._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=field)


def test_what_is_written_comes_back(parts: list[tuple[str, TrainingEvents]], opened: TrainingSet) -> None:
    back = {}
    for split in SPLITS:
        for batch in opened.batches(split, 512, shuffle=False, bucket=False):
            for i, (part, number) in enumerate(names([batch])):
                back[part, number] = (split, *(field[i] for field in batch))
    total = sum(events.n_events for _, events in parts)
    assert len(back) == total == sum(opened.n_events(split) for split in SPLITS)
    layout, schema_splits = index_layout(TOPOLOGY), list(SPLITS)
    for name, events in parts:
        where = split_of(events.run, events.lumi, events.event, SPLITS)
        for i in range(0, events.n_events, 7):
            split, objects, mask, features, label, weight, process, indices, invisible, seen = back[
                int(events.run[i]), i
            ]
            assert split == schema_splits[where[i]]
            np.testing.assert_array_equal(
                objects[mask], events.objects[events.offsets[i] : events.offsets[i + 1]]
            )
            assert not objects[~mask].any()
            np.testing.assert_array_equal(features, events.event_features[i])
            assert (label, process) == (events.label[i], events.process[i])
            assert weight == np.float32(np.float64(events.weight[i]) * (3.0 if name == "two" else 1.0))
            compact = events.indices[events.index_offsets[i] : events.index_offsets[i + 1]]
            np.testing.assert_array_equal(indices[layout[process]], compact)
            assert (indices[~layout[process]] == -1).all()
            particles = events.invisible[events.invisible_offsets[i] : events.invisible_offsets[i + 1]]
            np.testing.assert_array_equal(invisible[seen], particles)
            assert not invisible[~seen].any()


def test_types_and_shapes(opened: TrainingSet) -> None:
    batch = next(opened.batches("train", 64, seed=1))
    kinds = [array.dtype.name for array in batch]
    assert kinds == ["float32", "bool", "float32", "int64", "float32", "int64", "int64", "float32", "bool"]
    assert batch.objects.shape[::2] == (64, 7)
    assert batch.indices.shape == (64, *index_shape(TOPOLOGY))
    assert batch.invisible.shape == (64, 3, 3)
    assert all(array.flags.c_contiguous for array in batch)


def test_padding_is_no_more_than_needed(opened: TrainingSet) -> None:
    sizes = []
    for batch in opened.batches("train", 128, seed=1):
        assert batch.mask.shape[1] == max(1, batch.mask.sum(axis=1).max())
        sizes.append(np.ptp(batch.mask.sum(axis=1)))
    assert np.mean(sizes) < 1.5  # of 0 to 10
    unsorted = [np.ptp(b.mask.sum(axis=1)) for b in opened.batches("train", 128, seed=1, bucket=False)]
    assert np.mean(unsorted) > 8


def test_seed_and_epoch_alone_decide(opened: TrainingSet) -> None:
    options: dict[str, Any] = {"seed": 5, "epoch": 2, "pool": 3000}
    first, second = (list(opened.batches("train", 100, **options)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        same(one, other)
    orders = {
        tuple(names(opened.batches("train", 100, **{**options, **change})))
        for change in ({}, {"seed": 6}, {"epoch": 3}, {"bucket": False}, {"shuffle": False})
    }
    assert len(orders) == 5
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_events_are_well_shuffled(opened: TrainingSet) -> None:
    """Within a pool, where an event comes out says nothing about where it stands in the files."""
    order = names(opened.batches("train", 100, seed=3, bucket=False))
    position = {
        event: i for i, event in enumerate(names(opened.batches("train", 100, shuffle=False, bucket=False)))
    }
    places = np.array([position[event] for event in order])
    correlation = np.corrcoef(places, np.arange(len(places)))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(places))


@pytest.mark.parametrize("start", [1, 17, 60, 131, 132, 133])
def test_reading_goes_on_where_it_stopped(opened: TrainingSet, start: int) -> None:
    options: dict[str, Any] = {"seed": 1, "pool": 3000}
    whole = list(opened.batches("train", 97, **options))
    assert len(whole) == opened.n_batches("train", 97)
    rest = list(opened.batches("train", 97, start=start, **options))
    assert len(rest) == max(0, len(whole) - start)
    for one, other in zip(whole[start:], rest, strict=True):
        same(one, other)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 100), (2, 64), (3, 512), (4, 100), (7, 33)])
def test_ranks_share_the_events(opened: TrainingSet, world_size: int, batch_size: int, shuffle: bool) -> None:
    shares, lengths = [], set()
    for rank in range(world_size):
        options: dict[str, Any] = {"rank": rank, "world_size": world_size, "shuffle": shuffle, "pool": 2500}
        batches = list(opened.batches("train", batch_size, seed=2, **options))
        assert min(len(batch.label) for batch in batches) > 0
        assert max(len(batch.label) for batch in batches) <= batch_size
        lengths.add(len(batches))
        shares.append(names(batches))
    assert lengths == {opened.n_batches("train", batch_size, world_size=world_size)}
    everything = [event for share in shares for event in share]
    assert len(everything) == len(set(everything)) == opened.n_events("train")


def test_every_rank_gets_the_same_number_of_batches_also_when_it_is_tight(tmp_path: Path) -> None:
    for n in range(1, 40):
        folder = tmp_path / str(n)
        events = random_events(n, 5)
        layout = Layout(SCHEMA, TOPOLOGY, {"train": 1.0})
        finish(folder, layout, [write_part(folder, 0, events, layout, source="a")], {"a": {}})
        one = TrainingSet.open(folder)
        for world_size, batch_size in ((2, 2), (3, 4), (4, 3)):
            if n < world_size:
                with pytest.raises(InputError, match=rf"{n} events cannot be split"):
                    one.batches("train", batch_size, rank=1, world_size=world_size)
                continue
            ranks = [
                list(one.batches("train", batch_size, rank=r, world_size=world_size))
                for r in range(world_size)
            ]
            assert len({len(batches) for batches in ranks}) == 1
            assert sorted(e for batches in ranks for e in names(batches)) == [(5, i) for i in range(n)]
            assert all(0 < len(batch.label) <= batch_size for batches in ranks for batch in batches)


def test_drop_last_leaves_full_batches_only(opened: TrainingSet) -> None:
    n = opened.n_events("train")
    shares = [
        names(opened.batches("train", 300, rank=rank, world_size=3, drop_last=True)) for rank in range(3)
    ]
    assert {len(share) for share in shares} == {n // 3 // 300 * 300}
    assert len(set().union(*shares)) == 3 * (n // 3 // 300 * 300)
    assert opened.n_batches("train", 300, world_size=3, drop_last=True) == n // 3 // 300


def test_smaller_samples_are_nested_and_fair(opened: TrainingSet) -> None:
    sets = [set(names(opened.batches("train", 50, limit=limit))) for limit in (10, 500, 5000)]
    assert [len(events) for events in sets] == [10, 500, 5000]
    assert sets[0] < sets[1] < sets[2]
    share = sum(part == 3 for part, _ in sets[2]) / 5000
    assert share == pytest.approx(20_000 / 21_400, abs=5 * np.sqrt(0.93 * 0.07 / 5000))
    assert opened.n_events("train", limit=10**9) == opened.n_events("train")
    with pytest.raises(InputError, match="limit must be at least 1; found 0"):
        opened.batches("train", 50, limit=0)


def test_chosen_classes(opened: TrainingSet) -> None:
    labels = np.concatenate([b.label for b in opened.batches("val", 200, classes=["background"])])
    assert set(labels) == {1}
    assert len(labels) == opened.counts("val")["background"].n_events
    few = names(opened.batches("val", 200, classes=["background"], limit=40))
    assert len(few) == 40
    with pytest.raises(InputError, match="no class tau; there are signal, background"):
        opened.n_events("val", classes=["tau"])


def test_counts_and_statistics_are_those_of_the_events(opened: TrainingSet) -> None:
    events = opened.events("train")
    for i, name in enumerate(("signal", "background", "")):
        chosen = events.weight[events.label == (i if name else -1)].astype(np.float64)
        found = opened.counts("train")[name]
        assert found.n_events == len(chosen)
        assert found.weight == pytest.approx(chosen.sum(), rel=1e-6)
        assert found.square == pytest.approx((chosen**2).sum(), rel=1e-6)
    schema = opened.schema
    for i, feature in enumerate(schema.objects):
        values = events.objects[:, i].astype(np.float64)
        values = np.log1p(values) if feature.transform == "log" else values
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), rel=1e-6)
    for i, feature in enumerate(schema.event_features):
        values = events.event_features[:, i].astype(np.float64)
        values = np.log1p(values) if feature.transform == "log" else values
        assert (feature.mean, feature.std) == pytest.approx((values.mean(), values.std()), rel=1e-6)
    assert schema.invisible[1].std == pytest.approx(events.invisible[:, 1].std(), rel=1e-6)
    assert schema.n_objects.mean == pytest.approx(events.n_objects.mean())
    assert opened.multiplicity.tolist() == np.bincount(events.n_objects, minlength=11).tolist()
    assert opened.given_schema == SCHEMA


def test_patterns_and_balances(opened: TrainingSet) -> None:
    whole: dict[str, list[int]] = {p.name: [0] * 2 ** len(p.resonances) for p in TOPOLOGY.processes}
    segments = dict.fromkeys(("", *TOPOLOGY.segments), 0)
    for batch in opened.batches("train", 1000):
        for process, indices in zip(batch.process, batch.indices, strict=True):
            if process < 0:
                continue
            kinds = TOPOLOGY.processes[process].kinds
            pattern = 0
            for s, kind in enumerate(kinds):
                resonance = TOPOLOGY.resonance(kind)
                pattern += (indices[s, : len(resonance.daughters)] >= 0).all() * 2**s
                segments[resonance.segment] += 1
            segments[""] += index_shape(TOPOLOGY)[0] - len(kinds)
            whole[TOPOLOGY.processes[process].name][pattern] += 1
    assert {name: counts.tolist() for name, counts in opened.patterns.items()} == whole
    assert opened.process_counts.tolist() == [sum(whole[p.name]) for p in TOPOLOGY.processes]
    assert opened.segment_counts.tolist() == list(segments.values())
    assert opened.class_weights.sum() == pytest.approx(2)
    assert opened.process_weights.sum() == pytest.approx(26)
    assert opened.segment_weights.sum() == pytest.approx(9)
    assert opened.pattern_weights("TT1L").sum() == pytest.approx(np.count_nonzero(whole["TT1L"]))


def test_awkward_reads_the_files(opened: TrainingSet, parts: list[tuple[str, TrainingEvents]]) -> None:
    import awkward as ak  # noqa: PLC0415

    table = ak.from_parquet(opened.folder / opened.parts[1].file)
    events = parts[1][1]
    order = np.argsort(ak.to_numpy(table.event))
    assert ak.to_list(table.object_pt[order]) == [
        events.objects[a:b, 1].tolist() for a, b in zip(events.offsets[:-1], events.offsets[1:], strict=True)
    ]


def test_files_are_a_fraction_of_the_padded_size(opened: TrainingSet) -> None:
    n_events = sum(part.rows for part in opened.parts)
    padded = n_events * (10 * 7 + 10) * 4
    assert (
        sum(part.size for part in opened.parts) < 0.7 * padded
    )  # these values are random, and half the slots filled


def test_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    events, layout = random_events(300, 8), Layout(SCHEMA, TOPOLOGY, SPLITS)
    first = write_part(tmp_path / "a", 0, events, layout, source="x")
    assert write_part(tmp_path / "b", 0, events, layout, source="x") == first
    shuffled = events.take(np.random.default_rng(1).permutation(300))
    assert write_part(tmp_path / "c", 0, shuffled, layout, source="x").sha256 == first.sha256


def test_damaged_and_incomplete_sets_are_refused(tmp_path: Path) -> None:
    events, layout = random_events(300, 8), Layout(SCHEMA, TOPOLOGY, SPLITS)
    part = write_part(tmp_path, 0, events, layout, source="x")
    with pytest.raises(FileError, match=r"stopped after 1 parts; run it again with --resume"):
        TrainingSet.open(tmp_path)
    finish(tmp_path, layout, [part], {"x": {}})
    path = tmp_path / part.file
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1])
    with pytest.raises(FileError, match=rf"must have {part.size} bytes; found {part.size - 1}"):
        TrainingSet.open(tmp_path)
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        TrainingSet.open(tmp_path, verify=True)
    path.unlink()
    with pytest.raises(FileError, match=r"lacks part-00000\.parquet"):
        TrainingSet.open(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(FileError, match="format 1; found 99"):
        TrainingSet.open(tmp_path)
    with pytest.raises(FileError, match="without events"):
        finish(tmp_path, layout, [], {})


def test_contradictory_arguments_are_refused(opened: TrainingSet) -> None:
    with pytest.raises(InputError, match="no split 'validation'; there are train, val, test"):
        opened.batches("validation", 10)
    for wrong in ({"rank": 2, "world_size": 2}, {"start": -1}, {"pool": 0}):
        with pytest.raises(InputError, match="rank below world_size; found"):
            opened.batches("train", 10, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.array([0, 5, 0])}, "label of event 1 must be between 0 and 1, or -1 for none; found 5"),
        ({"weight": np.array([1.0, np.nan, 1.0])}, "weight of event 1 must be finite; found nan"),
        ({"weight": np.ones(2)}, "weight must have 3 entries, one per event; found 2"),
    ],
)
def test_labels_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    cloud = EventCloud.from_arrays(
        np.zeros((3, 10, 7), np.float32), np.zeros((3, 10), bool), np.zeros((3, 10), np.float32), SCHEMA
    )
    labels = EventLabels(
        np.full(3, -1, np.int16),
        np.full((3, *index_shape(TOPOLOGY)), -1, np.int16),
        np.zeros((3, 0, 3), np.float32),
        np.zeros((3, 0), bool),
    )
    good: dict[str, Any] = {
        "label": np.zeros(3, int),
        "weight": np.ones(3),
        "identifiers": (np.ones(3, int),) * 3,
    }
    assert training_events(cloud, labels, TOPOLOGY, **good).n_events == 3
    with pytest.raises(InputError, match=message):
        training_events(cloud, labels, TOPOLOGY, **{**good, **change})
