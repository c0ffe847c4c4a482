"""Laws of training files that hold for any events, any batch size and any number of ranks."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evenet_hep.errors import InputError
from evenet_hep.events.statistics import Moments, effective_number_weights
from evenet_hep.events.training_events import TrainingEvents
from evenet_hep.events.training_files import Layout, finish, write_part
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import EventSchema, Feature
from evenet_hep.topology import Topology

TOPOLOGY = Topology.shipped("bbww")
SCHEMA = EventSchema(
    objects=(Feature("pt", "GeV", "log"), Feature("eta", "", "standard")),
    event_features=(Feature("met", "GeV", "standard"),),
    capacity=6,
    classes=("a", "b", "c"),
    invisible=(Feature("pz", "GeV", "standard"),),
)
# Any float32 but NaN and infinity; the logarithm needs pt above -1.
VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
PT = st.floats(0, 2.0**100, width=32)


def _offsets(counts: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@st.composite
def training_events_of(draw: st.DrawFn) -> TrainingEvents:
    n = draw(st.integers(0, 12))

    def column(values: st.SearchStrategy[float], size: int, kind: str) -> Any:
        return draw(hnp.arrays(kind, size, elements=values))

    counts = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    invisible = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    process = column(st.integers(-1, len(TOPOLOGY.processes) - 1), n, "int16")
    lengths = [
        sum(len(TOPOLOGY.resonance(kind).daughters) for kind in TOPOLOGY.processes[p].kinds) if p >= 0 else 0
        for p in process
    ]
    return TrainingEvents(
        _offsets(counts),
        np.stack([column(PT, sum(counts), "float32"), column(VALUES, sum(counts), "float32")], axis=1),
        column(VALUES, n, "float32")[:, None],
        column(st.integers(-1, 2), n, "int16"),
        column(VALUES, n, "float32"),
        process,
        _offsets(lengths),
        column(st.integers(-1, 5), sum(lengths), "int16"),
        _offsets(invisible),
        column(VALUES, sum(invisible), "float32")[:, None],
        column(st.integers(0, 3), n, "int64"),
        column(st.integers(0, 2**40), n, "int64"),
        column(st.integers(0, 2**64 - 1), n, "uint64"),
    )


def rows(events: TrainingEvents) -> list[tuple[Any, ...]]:
    """Every event by its values, in an order that the values alone decide."""
    found = []
    for i in range(events.n_events):
        a, b = events.offsets[i : i + 2]
        c, d = events.index_offsets[i : i + 2]
        e, f = events.invisible_offsets[i : i + 2]
        plain = (events.run[i], events.lumi[i], events.event[i], events.label[i], events.process[i])
        floats = (
            events.event_features[i],
            [events.weight[i]],
            events.objects[a:b].ravel(),
            events.invisible[e:f].ravel(),
        )
        found.append(
            (*map(int, plain), events.indices[c:d].tolist(), *(np.asarray(v).tobytes() for v in floats))
        )
    return sorted(found)


def opened(folder: str, parts: list[TrainingEvents], splits: dict[str, float]) -> TrainingSet:
    layout = Layout(SCHEMA, TOPOLOGY, splits)
    written = [write_part(folder, i, part, layout, source=str(i % 2)) for i, part in enumerate(parts)]
    finish(folder, layout, written, {"0": {}, "1": {}})
    return TrainingSet.open(Path(folder), verify=True)


@settings(max_examples=40)
@given(st.lists(training_events_of(), min_size=1, max_size=3), st.floats(0, 1))
def test_any_events_come_back_bit_by_bit(parts: list[TrainingEvents], share: float) -> None:
    if not sum(part.n_events for part in parts):
        return
    with tempfile.TemporaryDirectory() as folder:
        found = opened(folder, parts, {"one": share, "two": 1 - share})
        back = [found.events(split) for split in found.splits]
    assert rows(TrainingEvents.concatenate(back)) == rows(TrainingEvents.concatenate(parts))


@settings(max_examples=30)
@given(
    training_events_of(),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_every_event_is_in_one_batch_of_one_rank(
    part: TrainingEvents, batch_size: int, world_size: int, shuffle: bool, bucket: bool, pool: int, seed: int
) -> None:
    n = part.n_events
    if not n:
        return
    part = part._replace(event_features=np.arange(n, dtype=np.float32)[:, None])
    options: dict[str, Any] = {"shuffle": shuffle, "bucket": bucket, "pool": pool, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        found = opened(folder, [part], {"all": 1.0})
        number = math.ceil(math.ceil(n / world_size) / batch_size)
        if n // world_size < number:
            with pytest.raises(InputError, match="cannot be split"):
                found.n_batches("all", batch_size, world_size=world_size)
            return
        shares = [
            list(found.batches("all", batch_size, rank=r, world_size=world_size, **options))
            for r in range(world_size)
        ]
    assert {len(share) for share in shares} == {number}
    seen = [int(f) for share in shares for batch in share for f in batch.event_features[:, 0]]
    assert sorted(seen) == list(range(n))
    for batch in (batch for share in shares for batch in share):
        counts = part.n_objects[batch.event_features[:, 0].astype(int)]
        assert batch.mask.sum(axis=1).tolist() == counts.tolist()
        assert batch.mask.shape[1] == max(1, counts.max())
        assert not batch.objects[~batch.mask].any()


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=8), min_size=1, max_size=5))
def test_moments_in_parts_are_those_of_all(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged = merged.merge(Moments.of(np.array(part)))
    values = np.concatenate([np.array(part, float) for part in parts])
    assert merged.weight == len(values)
    if len(values):
        assert merged.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert merged.std == pytest.approx(values.std(), rel=1e-6, abs=1e-4)


@given(st.lists(st.integers(0, 10**9), max_size=8))
def test_rarer_classes_weigh_more(counts: list[int]) -> None:
    weights = effective_number_weights(counts)
    filled = [i for i, n in enumerate(counts) if n]
    assert weights.sum() == pytest.approx(len(filled))
    for i in filled:
        assert all(weights[i] >= weights[j] * (1 - 1e-9) for j in filled if counts[i] <= counts[j])
