"""Events in memory and on disk as batches; masses as event features; grids of masses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.evaluation.figures import plot_grid
from evenet_hep.events.labels import TrainingBatch
from evenet_hep.training.balance import class_weights, count_classes, measured_schema
from evenet_hep.training.batches import BatchLoader, batches_per_epoch
from evenet_hep.training.dataset import ArrayEvents, batch_rows
from evenet_hep.training.mass_grid import train_grid
from evenet_hep.training.parametrised import ParametrisedEvents, mass_features

Make = Callable[..., Any]


def rows_of(n: int = 103, batch_size: int = 8, **options: Any) -> list[np.ndarray]:
    counts = np.random.default_rng(0).integers(1, 9, n)
    base = {"seed": 1, "epoch": 0, "shuffle": True, "bucket": True}
    return batch_rows(counts, batch_size, **(base | options))


@pytest.mark.parametrize(("shuffle", "bucket"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_event_once_and_ranks_share_nothing(shuffle: bool, bucket: bool, world_size: int) -> None:
    rows = rows_of(shuffle=shuffle, bucket=bucket, world_size=world_size)
    assert len(rows) % world_size == 0
    joined = np.concatenate(rows)
    assert len(set(joined.tolist())) == len(joined)
    if shuffle:
        assert {len(each) for each in rows} == {8}
        assert len(joined) == 103 // (8 * world_size) * 8 * world_size
    else:
        assert len(joined) == 103
    assert len(rows) // world_size == batches_per_epoch(103, 8, world_size, shuffle=shuffle)


def test_epochs_differ_and_repeat() -> None:
    one, again, other = rows_of(epoch=0), rows_of(epoch=0), rows_of(epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_buckets_hold_events_of_similar_multiplicity() -> None:
    counts = np.random.default_rng(0).integers(1, 9, 103)
    spread = [np.ptp(counts[rows]) for rows in rows_of(bucket=True)]
    loose = [np.ptp(counts[rows]) for rows in rows_of(bucket=False)]
    assert np.mean(spread) < 0.3 * np.mean(loose)
    assert list(spread) != sorted(spread)  # in random order


def test_small_samples_make_one_batch() -> None:
    assert [len(rows) for rows in rows_of(n=5)] == [5]
    assert rows_of(n=0) == []
    with pytest.raises(InputError, match="2 events cannot be shared out to 3"):
        rows_of(n=2, world_size=3)


def test_batches_from_any_one_on(make_events: Make) -> None:
    events: ArrayEvents = make_events(40)
    whole = list(events.batches(8, seed=3, epoch=2))
    rest = list(events.batches(8, seed=3, epoch=2, start=3))
    assert len(rest) == 2
    for one, other in zip(whole[3:], rest, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(batch.objects.shape[1] == batch.mask.sum(axis=1).max() for batch in whole)


def test_a_loader_goes_on_where_the_run_is(make_events: Make) -> None:
    seen = 0
    loader = BatchLoader(make_events(40), 8, seed=3, position=lambda: seen)
    first, second = (list(loader) for _ in range(2))
    assert all((a.label == b.label).all() for a, b in zip(first, second, strict=True))
    seen = 7
    assert len(loader) == 5
    late = list(loader)
    assert len(late) == 3
    expected = list(make_events(40).batches(8, seed=3, epoch=1))[2]
    np.testing.assert_array_equal(late[0].objects.numpy(), expected.objects)


def test_events_are_checked(make_events: Make) -> None:
    events: ArrayEvents = make_events(4)
    from evenet_hep import EventCloud  # noqa: PLC0415

    content = events.content
    cloud = EventCloud.from_arrays(content.objects, content.mask, content.event_features, events.schema)
    with pytest.raises(InputError, match="label must have 4 rows"):
        ArrayEvents(cloud, [0, 1])
    with pytest.raises(InputError, match="label must be -1 or a position in the 2 classes; found 0 to 2"):
        ArrayEvents(cloud, [0, 1, 2, 0])
    with pytest.raises(InputError, match="weight must be finite; event 1 is not"):
        ArrayEvents(cloud, weight=[1, np.nan, 1, 1])


def test_counts_and_weights(make_events: Make) -> None:
    events: ArrayEvents = make_events(50)
    events.content.weight[:] = np.where(events.content.label == 0, 2.0, 0.5)
    counts = count_classes(events)
    assert counts.events.tolist() == counts.processes.tolist() == [25, 25]
    assert count_classes(events, weighted=True).events.tolist() == [50, 12.5]
    assert class_weights([10, 30, 0], "equal").tolist() == pytest.approx([1.5, 0.5, 0])
    assert class_weights([10, 30], "none").tolist() == [1, 1]
    beta = 1 - 1 / 40
    effective = np.array([(1 - beta) / (1 - beta**n) for n in (10, 30)])
    np.testing.assert_allclose(
        class_weights([10, 30], "effective"), 2 * effective / effective.sum(), rtol=1e-6
    )


def test_the_schema_is_measured_without_padding(make_events: Make) -> None:
    events: ArrayEvents = make_events(30)
    schema = measured_schema(events)
    content = events.content
    pt = np.log1p(content.objects[content.mask][:, 1].astype(float))
    assert (schema.objects[1].mean, schema.objects[1].std) == pytest.approx((pt.mean(), pt.std()))
    neutrino = np.log1p(content.invisible[content.invisible_mask][:, 0].astype(float))
    assert schema.invisible[0].mean == pytest.approx(neutrino.mean())
    assert schema.n_objects.mean == pytest.approx(content.mask.sum(axis=1).mean())
    assert schema.event_features[2].std == 1.0  # never changes
    assert schema.objects[3].transform == "periodic"


# --- masses ----------------------------------------------------------------------------------------------------------

POINTS = ((500.0, 90.0), (700.0, 200.0), (900.0, 400.0))


def told(events: ArrayEvents, **options: Any) -> tuple[ParametrisedEvents, np.ndarray]:
    rng = np.random.default_rng(5)
    masses = np.full((len(events), 2), np.nan)
    signal = events.content.label == 0
    masses[signal] = np.array(POINTS)[rng.integers(0, 3, signal.sum())]
    features = mass_features(POINTS, ("mass_x", "mass_y"))
    return ParametrisedEvents(events, features, signal=["ttbar"], masses=masses, **options), masses


def columns(batches: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts: list[TrainingBatch] = list(batches)
    return tuple(  # type: ignore[return-value]
        np.concatenate(each)
        for each in zip(
            *[(b.label, b.event_features[:, 0], b.event_features[:, -2:]) for b in parts], strict=True
        )
    )


def test_signal_keeps_its_masses_and_background_draws_from_the_signal(make_events: Make) -> None:
    events: ArrayEvents = make_events(400)
    source, masses = told(events)
    assert source.schema.event_names[-2:] == ("mass_x", "mass_y")
    by_feature = dict(zip(events.content.event_features[:, 0].tolist(), masses, strict=True))
    seen = []
    for epoch in (0, 1):
        label, feature, given = columns(source.batches(16, seed=1, epoch=epoch))
        for key, pair in zip(feature[label == 0].tolist(), given[label == 0], strict=True):
            np.testing.assert_array_equal(pair, by_feature[key])
        background = given[label == 1]
        assert {tuple(pair) for pair in background.tolist()} == set(POINTS)  # pairs stay together
        seen.append(dict(zip(feature[label == 1].tolist(), background.tolist(), strict=True)))
        # The masses say nothing about the class.
        fractions = [[(given[label == c][:, 0] == x).mean() for x, _ in POINTS] for c in (0, 1)]
        np.testing.assert_allclose(fractions[0], fractions[1], atol=0.12)
    common = set(seen[0]) & set(seen[1])
    assert any(seen[0][key] != seen[1][key] for key in common)  # drawn anew in every epoch


def test_masses_do_not_depend_on_where_an_epoch_begins(make_events: Make) -> None:
    source, _ = told(make_events(100))
    whole = list(source.batches(10, seed=2, epoch=1))
    late = list(source.batches(10, seed=2, epoch=1, start=6))
    np.testing.assert_array_equal(whole[6].event_features, late[0].event_features)


def test_masses_by_process_and_one_hypothesis(make_events: Make) -> None:
    events = make_events(40)
    features = mass_features(POINTS, ("mass_x", "mass_y"))
    source = ParametrisedEvents(events, features, signal=["ttbar"], masses={"TT1L": (700, 200)})
    _, _, given = columns(source.batches(10, seed=1))
    assert (given == [700, 200]).all()
    at = ParametrisedEvents(
        events, features, signal=["ttbar"], masses={"TT1L": (700, 200)}, hypothesis=(500, 90)
    )
    assert (columns(at.batches(10))[2] == [500, 90]).all()
    with pytest.raises(ConfigError, match="masses name the process 'XYH'"):
        ParametrisedEvents(events, features, signal=["ttbar"], masses={"XYH": (1, 1)})
    with pytest.raises(ConfigError, match="found 'signal'"):
        ParametrisedEvents(events, features, signal=["signal"], masses={"TT1L": (1, 1)})
    with pytest.raises(InputError, match="every signal event needs its masses"):
        ParametrisedEvents(events, features, signal=["other"], masses={"TT1L": (1, 1)})
    with pytest.raises(InputError, match=r"masses must have shape \(40, 2\)"):
        ParametrisedEvents(events, features, signal=["ttbar"], masses=np.ones((40, 3)))


def test_each_mass_is_normalised_by_itself() -> None:
    # The published code takes mean and width over the two masses of each event.
    features = mass_features(POINTS, ("mass_x", "mass_y"))
    for i, feature in enumerate(features):
        logs = np.log1p([point[i] for point in POINTS])
        assert (feature.mean, feature.std) == pytest.approx((logs.mean(), logs.std()))
    assert mass_features([(500, 90)], ("a", "b"))[0].std == 1.0
    with pytest.raises(ConfigError, match="every point must have 2 positive masses"):
        mass_features([(500, 0)], ("a", "b"))


def measure(point: tuple[float, ...], folder: Path) -> dict[str, float]:
    calls = folder.parent / "calls"
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    if point[0] == 700 and len(calls.read_text()) == 1:
        msg = "no events"
        raise ValueError(msg)
    return {"auc": 0.5 + point[1] / 1000, "sic": float("nan") if point[0] == 900 else 1.0}


def test_a_grid_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    first = train_grid(POINTS, measure, tmp_path)
    assert first.points == (POINTS[0], POINTS[2])
    assert first.failed == {POINTS[1]: "ValueError: no events"}
    second = train_grid(POINTS, measure, tmp_path)
    assert second.points == POINTS
    assert not second.failed
    assert [(tmp_path / name / "calls").read_text() for name in ("500-90", "700-200", "900-400")] == [
        "x",
        "xx",
        "x",
    ]
    assert (tmp_path / "grid.csv").read_text().splitlines() == [
        "mass_x,mass_y,auc,sic",
        "500.0,90.0,0.59,1.0",
        "700.0,200.0,0.7,1.0",
        "900.0,400.0,0.9,nan",
    ]
    assert len(plot_grid(second, "auc").axes) == 2
    (tmp_path / "500-90" / "result.json").write_text("[")
    with pytest.raises(FileError, match="is no result of a point"):
        train_grid(POINTS, measure, tmp_path)
    with pytest.raises(ConfigError, match="every point may be there once"):
        train_grid([POINTS[0], POINTS[0]], measure, tmp_path)


class ImmediateClient:
    """What the driver asks of a Dask client."""

    def submit(self, function: Any, *arguments: Any, pure: bool) -> Any:
        assert not pure
        try:
            found, error = function(*arguments), None
        except ValueError as failure:
            found, error = None, failure
        return type("Future", (), {"exception": lambda _: error, "result": lambda _: found})()


def test_a_grid_on_a_client_is_the_same(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one = train_grid(POINTS[:2], measure, here)
    other = train_grid(POINTS[:2], measure, there, client=ImmediateClient())
    assert one == other
