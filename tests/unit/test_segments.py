"""Targets of the segmentation, from assignments written by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events.segments import segment_targets
from evenet_hep.topology import Topology

PUBLISHED = Topology.published()
NAMES = [process.name for process in PUBLISHED.processes]
SEGMENTS = ("nothing", *PUBLISHED.segments)


def indices(*events: list[list[int]]) -> np.ndarray:
    out = np.full((len(events), 3, 3), -1, np.int16)
    for e, resonances in enumerate(events):
        for s, daughters in enumerate(resonances):
            out[e, s, : len(daughters)] = daughters
    return out


def test_classes_and_masks() -> None:
    process = np.array([NAMES.index(name) for name in ("ttW_tHtLWL", "ZJetsToLL")] + [-1], np.int16)
    found = segment_targets(
        process, indices([[0, 3, 2], [1, 4], [5]], [[1, 0]], [[-1]]), PUBLISHED, n_slots=7
    )
    assert [[SEGMENTS[c] for c in row] for row in found.classes] == [
        ["hadronic top", "leptonic top", "leptonic W", "nothing"],
        ["leptonic Z", "nothing", "nothing", "nothing"],
        ["nothing"] * 4,
    ]
    expected = np.zeros((3, 4, 7), bool)
    for event, segment, slots in ((0, 0, [0, 2, 3]), (0, 1, [1, 4]), (0, 2, [5]), (1, 0, [0, 1])):
        expected[event, segment, slots] = True
    assert (found.masks == expected).all()
    assert found.classes.dtype == np.int64
    assert found.masks.dtype == np.bool_


@pytest.mark.parametrize(("complete_only", "expected"), [(False, [1, 2]), (True, [2, 0])])
def test_resonances_with_missing_daughters(complete_only: bool, expected: list[int]) -> None:
    process = np.array([NAMES.index("TT1L")])
    found = segment_targets(
        process,
        indices([[0, -1, 2], [1, 4]]),
        PUBLISHED,
        n_slots=5,
        n_segments=2,
        complete_only=complete_only,
    )
    assert found.classes.tolist() == [expected]


def test_a_resonance_without_objects_leaves_no_gap() -> None:
    process = np.array([NAMES.index("TT1L")])
    found = segment_targets(process, indices([[-1, -1, -1], [-1, 4]]), PUBLISHED, n_slots=5)
    assert found.classes.tolist() == [[2, 0, 0, 0]]
    assert found.masks[0, 0].tolist() == [False] * 4 + [True]


def test_kinds_without_a_segment_are_left_out() -> None:
    topology = dataclasses.replace(
        PUBLISHED,
        resonances=tuple(
            dataclasses.replace(r, segment="" if r.name == "t/bqq" else r.segment)
            for r in PUBLISHED.resonances
        ),
    )
    found = segment_targets(np.array([0]), indices([[0, 1, 2], [3, 4]]), topology, n_slots=5)
    assert found.classes.tolist() == [[1, 0, 0, 0]]


def test_no_events() -> None:
    found = segment_targets(np.zeros(0, np.int64), np.zeros((0, 3, 3), np.int64), PUBLISHED, n_slots=4)
    assert found.classes.shape == (0, 4)
    assert found.masks.shape == (0, 4, 4)


def test_what_cannot_be() -> None:
    one = np.array([NAMES.index("ttZ_tHtLZL")])
    with pytest.raises(InputError, match="n_segments must be at least 3, the segments of an event; found 2"):
        segment_targets(one, indices([[0], [1], [2]]), PUBLISHED, n_slots=4, n_segments=2)
    with pytest.raises(InputError, match="indices must lie between -1 and 1; found 2"):
        segment_targets(one, indices([[2]]), PUBLISHED, n_slots=2)
    with pytest.raises(InputError, match="process must lie between -1 and 25; found 26"):
        segment_targets(np.array([26]), indices([[0]]), PUBLISHED, n_slots=2)
    with pytest.raises(
        InputError, match=r"process must have shape \(1,\), one per row of indices; found \(2,\)"
    ):
        segment_targets(np.array([0, 0]), indices([[0]]), PUBLISHED, n_slots=2)
