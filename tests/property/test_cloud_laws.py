"""Laws of the cloud that hold for any events, against a plain twin of the compiled fill."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenet_hep import EventCloud, EventSchema

SCHEMA = EventSchema.published()
COLLECTIONS = ("Electron", "Muon", "Jet")

number = st.floats(-5, 5, width=32)
objects = st.fixed_dictionaries(
    {
        "pt": st.floats(0, 1000, width=32),
        "eta": number,
        "phi": st.floats(-3.125, 3.125, width=32),
        "mass": st.floats(0, 50, width=32),
        "charge": st.sampled_from([-1.0, 1.0]),
        "btagDeepFlavB": st.floats(0, 1, width=32),
    }
)
event = st.fixed_dictionaries({name: st.lists(objects, max_size=9) for name in COLLECTIONS})
some_events = st.lists(event, max_size=6)


def to_awkward(events: list[dict[str, list[dict[str, float]]]]) -> ak.Array:
    template = {"pt": 0.0, "eta": 0.0, "phi": 0.0, "mass": 0.0, "charge": 0.0, "btagDeepFlavB": 0.0}
    rows = [{name: [template] for name in COLLECTIONS}, *events]
    array = ak.Array([{**row, "MET": {"pt": 20.0, "phi": 1.0}} for row in rows])[1:]
    return ak.values_astype(array, np.float32)


def twin(event: dict[str, list[dict[str, float]]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Objects and their origins of one event, in plain Python."""
    rows = []
    for c, name in enumerate(COLLECTIONS):
        for position, o in enumerate(event[name]):
            jet = name == "Jet"
            tagged = float(np.float32(o["btagDeepFlavB"]) > np.float32(0.2489))
            energy = np.sqrt((o["pt"] * np.cosh(o["eta"])) ** 2 + o["mass"] ** 2)
            values = [
                energy,
                o["pt"],
                o["eta"],
                o["phi"],
                tagged * jet,
                float(not jet),
                o["charge"] * (not jet),
            ]
            rows.append((-o["pt"], c, position, values))
    rows.sort(key=lambda row: row[:3])
    kept = rows[: SCHEMA.capacity]
    padded = np.zeros((SCHEMA.capacity, 7))
    padded[: len(kept)] = np.array([row[3] for row in kept]).reshape(-1, 7)
    return padded, [(row[1], row[2]) for row in kept]


@given(some_events)
@settings(deadline=None, max_examples=60)
def test_fill_agrees_with_its_twin(events: list[dict[str, Any]]) -> None:
    cloud = EventCloud.from_awkward(to_awkward(events), SCHEMA)
    for i, one in enumerate(events):
        padded, origins = twin(one)
        np.testing.assert_allclose(cloud.objects[i], padded, rtol=2e-6, atol=1e-6)
        assert cloud.mask[i].tolist() == [slot < len(origins) for slot in range(SCHEMA.capacity)]
        found = zip(cloud.index["collection"][i], cloud.index["position"][i], strict=True)
        assert [tuple(map(int, pair)) for pair in found][: len(origins)] == origins


@given(some_events, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_within_a_collection_does_not_matter(events: list[dict[str, Any]], random: Any) -> None:
    shuffled = [{name: random.sample(one[name], len(one[name])) for name in COLLECTIONS} for one in events]
    first, second = (EventCloud.from_awkward(to_awkward(x), SCHEMA) for x in (events, shuffled))
    assert np.array_equal(first.objects[..., 1], second.objects[..., 1])
    np.testing.assert_allclose(first.event_features[:, :6], second.event_features[:, :6], rtol=1e-5)


@given(some_events)
@settings(deadline=None, max_examples=40)
def test_events_do_not_see_each_other(events: list[dict[str, Any]]) -> None:
    together = EventCloud.from_awkward(to_awkward(events), SCHEMA)
    for i, one in enumerate(events):
        alone = EventCloud.from_awkward(to_awkward([one]), SCHEMA)
        assert np.array_equal(alone.objects[0], together.objects[i])
        assert np.array_equal(alone.event_features[0], together.event_features[i])


@given(some_events)
@settings(deadline=None, max_examples=40)
def test_values_return_to_where_they_came_from(events: list[dict[str, Any]]) -> None:
    array = to_awkward(events)
    cloud = EventCloud.from_awkward(array, SCHEMA)
    for name in COLLECTIONS:
        back = cloud.to_collection(name, cloud.objects[..., 1])
        known = ~np.isnan(back)
        assert ak.all(back[known] == array[name]["pt"][known])
        assert int(ak.sum(~known)) == 0 or cloud.n_dropped.any()
