"""Laws of truth labels: what the order of objects, far objects and several events at once may not change."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenet_hep import EventCloud, EventSchema
from evenet_hep.events.segments import segment_targets
from evenet_hep.events.truth import TruthLabels, label_events
from evenet_hep.topology import Topology

SCHEMA = EventSchema.standard(capacity=24)
PUBLISHED = Topology.published()
FAR = 4.7  # beyond every parton, by more than the matching distance

direction = st.tuples(st.floats(-3, 3, width=32), st.floats(-3.125, 3.125, width=32))
w_daughters = st.sampled_from([(2, -1), (4, -3), (12, -11), (14, -13), (16, -15)])


@st.composite
def top_pairs(draw: st.DrawFn) -> dict[str, Any]:
    """A top pair with any decays, jets and leptons near some partons and anywhere else."""
    rows: list[dict[str, float]] = [{"pdgId": 21, "genPartIdxMother": -1, "pt": 0.0, "eta": 0.0, "phi": 0.0}]
    for sign in (1, -1):
        top = len(rows)
        pdgs = [6 * sign, 24 * sign, 5 * sign, *(sign * each for each in draw(w_daughters))]
        for pdg, mother in zip(pdgs, (0, top, top, top + 1, top + 1), strict=True):
            eta, phi = draw(direction)
            rows.append({"pdgId": pdg, "genPartIdxMother": mother, "pt": 50.0, "eta": eta, "phi": phi})
    objects: dict[str, list[dict[str, float]]] = {"Electron": [], "Muon": [], "Jet": []}
    for row in rows[1:]:
        pdg = int(row["pdgId"])
        name = {11: "Electron", 13: "Muon"}.get(abs(pdg), "Jet")
        if abs(pdg) in (1, 2, 3, 4, 5, 11, 13) and draw(st.booleans()):
            shift = draw(st.sampled_from([0.0, 0.05, -0.09, 0.2, -0.35, 0.5]))
            objects[name].append(
                {"eta": row["eta"] + shift, "phi": row["phi"], "charge": -float(np.sign(pdg))}
            )
    for _ in range(draw(st.integers(0, 4))):
        eta, phi = draw(direction)
        objects[draw(st.sampled_from(list(objects)))].append({"eta": eta, "phi": phi, "charge": 1.0})
    return {"GenPart": rows, **objects}


def to_events(rows: list[dict[str, Any]]) -> ak.Array:
    template = {"pt": 0.0, "eta": 0.0, "phi": 0.0, "mass": 0.0}
    thing = {**template, "charge": 0.0, "btagPNetB": 0.0}
    gen = {**template, "pdgId": 0, "genPartIdxMother": -1, "statusFlags": 128}
    full = [
        {
            "GenPart": [{**gen, **row} for row in event["GenPart"]],
            **{
                name: [{**thing, "pt": 10.0 + i, **each} for i, each in enumerate(event[name])]
                for name in ("Electron", "Muon", "Jet")
            },
            "PuppiMET": {"pt": 20.0, "phi": 0.0},
        }
        for event in rows
    ]
    first = {
        "GenPart": [gen],
        "Electron": [thing],
        "Muon": [thing],
        "Jet": [thing],
        "PuppiMET": {"pt": 0.0, "phi": 0.0},
    }
    return ak.Array([first, *full])[1:]


def label(events: ak.Array, **options: Any) -> tuple[EventCloud, TruthLabels]:
    cloud = EventCloud.from_awkward(events, SCHEMA)
    return cloud, label_events(events, cloud, PUBLISHED, **options)


def arrays(truth: TruthLabels) -> list[np.ndarray]:
    return [*truth.labels, *list(truth)[1:]]  # type: ignore[list-item]


def positions(cloud: EventCloud, truth: TruthLabels) -> np.ndarray:
    """Collection and position that every daughter was matched to, shape (n, S, K, 2)."""
    rows = np.arange(len(cloud))[:, None, None]
    where = np.stack([cloud.index["collection"], cloud.index["position"]], axis=-1)
    return np.where((truth.labels.indices >= 0)[..., None], where[rows, truth.labels.indices], -1)


@settings(max_examples=30)
@given(st.lists(top_pairs(), max_size=4))
def test_every_daughter_and_object_once_and_within_reach(rows: list[dict[str, Any]]) -> None:
    events = to_events(rows)
    cloud, truth = label(events)
    eta, phi = (cloud.objects[..., SCHEMA.object_names.index(name)] for name in ("eta", "phi"))
    for e, row in enumerate(rows):
        used = truth.labels.indices[e][truth.labels.indices[e] >= 0]
        assert len(set(used.tolist())) == len(used)
        assert cloud.mask[e, used].all()
        assert truth.labels.process[e] >= 0
        for slot, position in zip(
            truth.labels.indices[e].ravel(), truth.gen_daughter[e].ravel(), strict=True
        ):
            if slot >= 0:
                parton = row["GenPart"][position]
                d_phi = (phi[e, slot] - parton["phi"] + np.pi) % (2 * np.pi) - np.pi
                distance = np.hypot(eta[e, slot] - parton["eta"], d_phi)
                assert distance < (0.1 if abs(parton["pdgId"]) in (11, 13) else 0.4) + 1e-6


@settings(max_examples=30)
@given(top_pairs(), st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(row: dict[str, Any], random: Any) -> None:
    cloud, truth = label(to_events([row]))
    moved, orders = dict(row), []
    for name in ("Electron", "Muon", "Jet"):
        order = list(range(len(row[name])))
        random.shuffle(order)
        moved[name] = [row[name][i] for i in order]
        orders.append(order)
    again_cloud, again = label(to_events([moved]))
    expected, found = positions(cloud, truth), positions(again_cloud, again)
    is_tied = len({(o["eta"], o["phi"]) for name in ("Electron", "Muon", "Jet") for o in row[name]}) < sum(
        len(row[name]) for name in ("Electron", "Muon", "Jet")
    )
    for (c, after), (old_c, before) in zip(found.reshape(-1, 2), expected.reshape(-1, 2), strict=True):
        assert c == old_c
        if c >= 0 and not is_tied:
            assert orders[c][after] == before


@settings(max_examples=30)
@given(top_pairs(), st.lists(st.floats(-3.125, 3.125, width=32), min_size=1, max_size=4))
def test_far_objects_change_nothing(row: dict[str, Any], phis: list[float]) -> None:
    far = [{"eta": FAR, "phi": phi, "charge": 1.0} for phi in phis]
    more = {**row, **{name: [*row[name], *far] for name in ("Electron", "Muon", "Jet")}}
    cloud, truth = label(to_events([row]))
    again_cloud, again = label(to_events([more]))
    assert (positions(cloud, truth) == positions(again_cloud, again)).all()
    assert (truth.labels.process == again.labels.process).all()
    assert (truth.labels.invisible == again.labels.invisible).all()


@settings(max_examples=30)
@given(st.lists(top_pairs(), min_size=1, max_size=4))
def test_events_do_not_know_each_other(rows: list[dict[str, Any]]) -> None:
    events = to_events(rows)
    _, together = label(events)
    for e in range(len(rows)):
        _, alone = label(events[e : e + 1])
        for one, all_of_them in zip(arrays(alone), arrays(together), strict=True):
            assert np.array_equal(one[0], all_of_them[e], equal_nan=one.dtype.kind == "f")


@settings(max_examples=30)
@given(top_pairs())
def test_a_candidate_alone_gives_what_all_give(row: dict[str, Any]) -> None:
    events = to_events([row])
    _, truth = label(events)
    name = PUBLISHED.processes[truth.labels.process[0]].name
    _, alone = label(events, candidates=[name])
    assert alone.labels.process.tolist() == truth.labels.process.tolist()
    assert (alone.labels.indices == truth.labels.indices).all()


@settings(max_examples=30)
@given(st.lists(top_pairs(), max_size=4))
def test_segments_hold_exactly_the_matched_objects(rows: list[dict[str, Any]]) -> None:
    cloud, truth = label(to_events(rows))
    found = segment_targets(
        truth.labels.process, truth.labels.indices, PUBLISHED, n_slots=cloud.mask.shape[1]
    )
    assert (found.masks.sum(axis=(1, 2)) == (truth.labels.indices >= 0).sum(axis=(1, 2))).all()
    assert (found.masks.sum(axis=1) <= 1).all()  # no object in two segments
    assert (found.masks.any(axis=2) == (found.classes > 0)).all()
    complete = segment_targets(
        truth.labels.process, truth.labels.indices, PUBLISHED, n_slots=cloud.mask.shape[1], complete_only=True
    )
    assert ((complete.classes > 0).sum(axis=1) == truth.is_matched.sum(axis=1)).all()
