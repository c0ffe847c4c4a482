"""The 41 kinematic labels of generated particles and of flat columns."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events.kinematic_labels import (
    COUNTS,
    ETA_EDGES,
    LABELS,
    FlatMomenta,
    KinematicLabels,
    kinematic_labels,
    label_kinematics,
)

NOTHING = FlatMomenta([0, 0], [], [], [])


def on(labels: KinematicLabels, event: int = 0) -> dict[str, float]:
    return {
        name: float(value) for name, value in zip(labels.names, labels.values[event], strict=True) if value
    }


def test_names_and_losses() -> None:
    labels = kinematic_labels(NOTHING, NOTHING, [0], [0])
    assert labels.names == LABELS
    assert [name for name, is_count in zip(labels.names, labels.is_count, strict=True) if is_count] == list(
        COUNTS
    )
    assert labels.values.dtype == np.float32
    assert not labels.values.any()
    assert len(kinematic_labels(NOTHING, NOTHING, [0], [0], n_labels=38).names) == 38


@pytest.mark.parametrize(("eta", "expected"), [(-1.5, 0), (-1.4999, 1), (0.0, 1), (1.5, 2), (1.5001, 3)])
def test_a_value_on_an_edge_is_in_the_lower_bin(eta: float, expected: int) -> None:
    assert ETA_EDGES == (-1.5, 0.0, 1.5)
    labels = kinematic_labels(FlatMomenta([0, 1], [30.0], [eta], [0.0]), NOTHING, [0], [0])
    assert on(labels)[f"higgs_eta{expected}"] == 1
    assert on(labels)["higgs_pt0"] == 1


def test_the_hardest_top_quarks_in_any_order() -> None:
    tops = FlatMomenta([0, 3], [20.0, 400.0, 50.0], [0.1, -2.0, 2.0], [0.1, -3.0, 3.0])
    labels = on(kinematic_labels(NOTHING, tops, [0], [0]))
    assert labels["n_tops"] == 3
    assert {"top1_pt2", "top1_eta0", "top1_phi0", "top2_pt1", "top2_eta3", "top2_phi3"} <= set(labels)


def events(*trees: list[tuple[int, int]]) -> ak.Array:
    """PDG number and mother of every particle."""
    rows = [
        [
            {
                "pdgId": pdg,
                "genPartIdxMother": mother,
                "pt": 100.0 + i,
                "eta": 1.0,
                "phi": 1.0,
                "mass": 0.0,
                "statusFlags": 128,
            }
            for i, (pdg, mother) in enumerate(tree)
        ]
        for tree in trees
    ]
    return ak.Array([{"GenPart": row} for row in rows])


def test_bosons_of_other_particles_are_not_counted() -> None:
    tt_w = [
        (21, -1),
        (6, 0),
        (-6, 0),
        (6, 1),
        (24, 3),
        (5, 3),
        (24, 4),
        (-24, 2),
        (-5, 2),
        (24, 0),
        (2, 9),
        (-1, 9),
    ]
    wh = [(21, -1), (24, 0), (25, 0), (24, 2), (-24, 2), (23, 0)]
    x_to_zh = [(32, -1), (23, 0), (25, 0), (5, 2), (-5, 2)]
    labels = label_kinematics(events(tt_w, wh, x_to_zh, [(21, -1)]))
    counts = [{name: value for name, value in on(labels, i).items() if name in COUNTS} for i in range(4)]
    assert counts == [
        {"n_tops": 2, "n_V": 1, "n_W": 1},
        {"n_higgs": 1, "n_V": 2, "n_W": 1, "n_Z": 1},
        {"n_higgs": 1, "n_V": 1, "n_Z": 1},
        {},
    ]
    assert on(labels)["top1_pt1"] == 1


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="n_labels must be 38 or 41; found 40"):
        kinematic_labels(NOTHING, NOTHING, [0], [0], n_labels=40)
    with pytest.raises(InputError, match="one number per event"):
        kinematic_labels(NOTHING, NOTHING, [0, 1], [0])
    with pytest.raises(InputError, match=r"tops\.offsets must have 2 entries from 0 to 1"):
        kinematic_labels(NOTHING, FlatMomenta([0, 2], [1.0], [0.0], [0.0]), [0], [0])
    with pytest.raises(InputError, match="higgs must hold finite numbers; found nan"):
        kinematic_labels(FlatMomenta([0, 1], [np.nan], [0.0], [0.0]), NOTHING, [0], [0])
    with pytest.raises(InputError, match="no generated particles"):
        label_kinematics(ak.Array([{"met": 1.0}]))
