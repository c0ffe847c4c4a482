from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep import EventCloud, EventSchema, Feature
from evenet_hep.errors import InputError
from evenet_hep.events.fill import cartesian
from evenet_hep.events.nanoaod import Branches

PUBLISHED = EventSchema.published()


def obj(pt: float, eta: float = 0.5, phi: float = 1.0, mass: float = 5.0, **more: float) -> dict[str, float]:
    return {"pt": pt, "eta": eta, "phi": phi, "mass": mass, "charge": 1, "btagDeepFlavB": 0.1, **more}


def events_of(*events: dict[str, list[dict[str, float]]]) -> ak.Array:
    """Events with Electron, Muon, Jet, Tau, Photon and MET; empty collections keep their fields."""
    names = ("Electron", "Muon", "Jet", "Tau", "Photon")
    padded = [{name: event.get(name, []) for name in names} for event in events]
    typed = ak.Array([{name: [obj(1.0)] for name in names}, *padded])[1:]
    met = ak.Array([{"pt": 30.0, "phi": -0.5}] * (len(events) + 1))[1:]
    return ak.zip({**{name: typed[name] for name in names}, "MET": met}, depth_limit=1)


def test_objects_are_merged_and_sorted_by_pt() -> None:
    events = events_of({"Electron": [obj(40, charge=-1)], "Jet": [obj(60, btagDeepFlavB=0.9), obj(20)]})
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    named = dict(zip(PUBLISHED.object_names, cloud.objects[0].T, strict=True))
    assert named["pt"][:4].tolist() == [60, 40, 20, 0]
    assert named["btag"][:3].tolist() == [1, 0, 0]
    assert named["is_lepton"][:3].tolist() == [0, 1, 0]
    assert named["charge"][:3].tolist() == [0, -1, 0]
    np.testing.assert_allclose(named["energy"][0], np.sqrt((60 * np.cosh(0.5)) ** 2 + 25), rtol=1e-6)
    assert cloud.mask[0].tolist() == [True] * 3 + [False] * 15
    assert not cloud.objects[0, 3:].any()
    assert cloud.collections == ("Electron", "Muon", "Jet")
    assert cloud.index["collection"][0, :4].tolist() == [2, 0, 2, -1]
    assert cloud.index["position"][0, :4].tolist() == [0, 0, 1, -1]


def test_event_features_follow_their_definitions() -> None:
    electron, muon = obj(40, eta=-1.0, phi=2.0, mass=0.0005), obj(25, eta=0.3, phi=-2.0, mass=0.106)
    b1, b2, light = (
        obj(80, btagDeepFlavB=0.9),
        obj(50, eta=1.5, phi=3.1, btagDeepFlavB=0.3),
        obj(30, eta=-2, phi=0),
    )
    events = events_of({"Electron": [electron], "Muon": [muon], "Jet": [b1, b2, light]})
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    features = dict(zip(PUBLISHED.event_names, cloud.event_features[0].tolist(), strict=True))

    def mass(*objects: dict[str, float]) -> float:
        p4: Any = vector.array({k: [o[k] for o in objects] for k in ("pt", "eta", "phi", "mass")})
        total: Any = p4.sum()
        return float(total.mass)

    assert features["met"] == 30.0
    assert features["met_phi"] == -0.5
    assert (features["n_lepton"], features["n_bjet"], features["n_jet"]) == (2, 2, 3)
    assert features["ht"] == pytest.approx(160)
    assert features["ht_lep"] == 2  # the published definition
    assert features["m_all"] == pytest.approx(mass(electron, muon, b1, b2, light), rel=1e-6)
    assert features["m_lep"] == pytest.approx(mass(electron, muon), rel=1e-6)
    assert features["m_bjet"] == pytest.approx(mass(b1, b2), rel=1e-6)
    own = EventSchema.standard()
    assert EventCloud.from_awkward(events, own).event_features[
        0, own.event_names.index("ht_lep")
    ] == pytest.approx(65)


def test_taus_and_photons_come_when_asked_for() -> None:
    events = events_of({"Jet": [obj(50)], "Tau": [obj(40, charge=-1)], "Photon": [obj(30)]})
    plain = EventCloud.from_awkward(events, PUBLISHED)
    both = EventCloud.from_awkward(events, PUBLISHED, branches=Branches(taus=("Tau",), photons=("Photon",)))
    assert plain.n_objects.tolist() == [1]
    assert both.n_objects.tolist() == [3]
    features = dict(zip(PUBLISHED.event_names, both.event_features[0], strict=True))
    assert features["n_jet"] == 2  # jets and taus
    assert features["ht"] == 90
    assert features["n_lepton"] == 0
    assert both.objects[0, :3, 6].tolist() == [0, -1, 0]


def test_nothing_is_cut_and_the_softest_are_dropped() -> None:
    jets = [obj(float(pt)) for pt in range(1, 25)]
    cloud = EventCloud.from_awkward(events_of({"Jet": jets, "Muon": [obj(0.5)]}), PUBLISHED)
    assert cloud.objects[0, :, 1].tolist() == list(range(24, 6, -1))
    assert cloud.n_dropped.tolist() == [7]
    features = dict(zip(PUBLISHED.event_names, cloud.event_features[0], strict=True))
    assert features["n_jet"] == 24  # counts see all objects,
    assert features["n_lepton"] == 1
    assert features["ht"] == sum(range(7, 25))  # sums those that fit


def test_equal_pt_keeps_the_order_of_collections() -> None:
    cloud = EventCloud.from_awkward(events_of({"Jet": [obj(30), obj(30)], "Muon": [obj(30)]}), PUBLISHED)
    assert cloud.index["collection"][0, :3].tolist() == [1, 2, 2]
    assert cloud.index["position"][0, :3].tolist() == [0, 0, 1]


def test_btag_as_score_or_flag() -> None:
    events = events_of(
        {"Jet": [obj(50, btagDeepFlavB=0.7), obj(40, btagDeepFlavB=0.2489)], "Muon": [obj(30)]}
    )
    flag = EventCloud.from_awkward(events, PUBLISHED)
    assert flag.objects[0, :3, 4].tolist() == [1, 0, 0]  # strictly above the working point
    score = EventSchema(objects=[Feature("pt"), Feature("btag", definition="score")])  # type: ignore[arg-type]
    np.testing.assert_allclose(EventCloud.from_awkward(events, score).objects[0, :3, 1], [0.7, 0.2489, 0])
    loose = EventCloud.from_awkward(events, PUBLISHED, branches=Branches(working_point=0.1))
    assert loose.objects[0, :3, 4].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("fields", "btag", "point"),
    [(("btagDeepFlavB",), "btagDeepFlavB", 0.2489), (("btagDeepFlavB", "btagPNetB"), "btagPNetB", 0.245),
     (("btagDeepFlavB", "btagPNetB", "btagUParTAK4B"), "btagUParTAK4B", 0.1272)],
)  # fmt: skip
def test_versions_are_told_by_the_tagger(fields: tuple[str, ...], btag: str, point: float) -> None:
    jets = [
        obj(50, **dict.fromkeys(fields, 0.0) | {btag: point + 0.001}),
        obj(40, **dict.fromkeys(fields, 1.0) | {btag: point - 0.001}),
    ]
    events = events_of({})
    typed = ak.Array([{"Jet": jets, "PuppiMET": {"pt": 11.0, "phi": 0.0}}])
    events = ak.with_field(ak.with_field(events, typed.Jet, "Jet"), typed.PuppiMET, "PuppiMET")
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    assert cloud.objects[0, :2, 4].tolist() == [1, 0]
    assert cloud.event_features[0, 0] == (30.0 if btag == "btagDeepFlavB" else 11.0)


def test_user_features_and_defaults() -> None:
    schema = EventSchema(
        objects=[Feature("pt"), Feature("ip3d", "cm", default=-1.0)],  # type: ignore[arg-type]
        event_features=[Feature("rho"), Feature("m_x", "GeV")],  # type: ignore[arg-type]
    )
    events = ak.Array(
        [
            {
                "Electron": [{"pt": 9.0, "ip3d": 0.5}],
                "Muon": [{"pt": 8.0, "ip3d": 0.25}],
                "Jet": [{"pt": 7.0}],
                "rho": 12.0,
            }
        ]
    )
    cloud = EventCloud.from_awkward(events, schema, event_features={"m_x": [300.0]})
    assert cloud.objects[0, :3, 1].tolist() == [0.5, 0.25, -1.0]
    assert cloud.event_features.tolist() == [[12.0, 300.0]]


def test_collections_and_met_replace_the_events_own() -> None:
    events = events_of({"Jet": [obj(50), obj(40), obj(30)]})
    harder = ak.with_field(events["Jet"], events["Jet"]["pt"] * 2, "pt")[:, 1:]
    met = ak.Array([{"pt": 99.0, "phi": 1.0}])
    cloud = EventCloud.from_awkward(events, PUBLISHED, collections={"Jet": harder}, met=met)
    assert cloud.objects[0, :3, 1].tolist() == [80, 60, 0]
    assert cloud.event_features[0, :2].tolist() == [99.0, 1.0]
    assert cloud.index["position"][0, :2].tolist() == [0, 1]  # in the user's own collection


def test_values_find_their_way_back() -> None:
    events = events_of(
        {"Jet": [obj(float(p)) for p in (20, 90, 40)], "Muon": [obj(50)]}, {}, {"Muon": [obj(10), obj(60)]}
    )
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    pt = cloud.objects[..., 1]
    for name in ("Jet", "Muon", "Electron"):
        assert ak.all(cloud.to_collection(name, pt) == events[name]["pt"])
        assert ak.num(cloud.to_collection(name, pt)).to_list() == ak.num(events[name]).to_list()
    assert cloud.unpad(pt).to_list() == [[90, 50, 40, 20], [], [60, 10]]
    small = EventCloud.from_awkward(events, EventSchema(objects=(Feature("pt"),), capacity=2))
    assert np.isnan(small.to_collection("Jet", small.objects[..., 0])[0].to_numpy()).tolist() == [
        True,
        False,
        True,
    ]
    with pytest.raises(InputError, match="no collection 'Tau'; it has Electron, Muon, Jet"):
        cloud.to_collection("Tau", pt)


def test_a_cloud_is_an_array_of_events() -> None:
    events = events_of({"Jet": [obj(50)]}, {"Muon": [obj(20), obj(30)]}, {})
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    assert len(cloud) == 3
    assert cloud[1:].n_objects.tolist() == [2, 0]
    assert cloud[np.array([True, False, True])].n_objects.tolist() == [1, 0]
    objects, mask, event_features = cloud.to_torch()
    assert objects.shape == (3, 18, 7)
    assert mask.sum() == 3
    assert event_features.shape == (3, 10)
    again = EventCloud.from_awkward(cloud.to_awkward(), PUBLISHED)
    for name in ("objects", "mask", "event_features"):
        assert np.array_equal(getattr(again, name), getattr(cloud, name))


def test_empty_chunk_and_empty_events() -> None:
    events = events_of({}, {"Jet": [obj(50)]}, {})
    cloud = EventCloud.from_awkward(events, PUBLISHED)
    assert cloud.n_objects.tolist() == [0, 1, 0]
    assert cloud.event_features[0].tolist() == [30.0, -0.5, 0, 0, 0, 0, 0, 0, 0, 0]
    none = EventCloud.from_awkward(events[:0], PUBLISHED)
    assert none.objects.shape == (0, 18, 7)
    assert none.objects.dtype == np.float32
    assert none.event_features.shape == (0, 10)
    assert len(none.unpad(none.objects[..., 0])) == 0


def broken(jet: dict[str, Any], event: int = 1) -> ak.Array:
    rows: list[dict[str, list[dict[str, float]]]] = [{"Jet": [obj(50)]}] * event
    return events_of(*rows, {"Jet": [obj(70), {**obj(20), **jet}]})


@pytest.mark.parametrize(
    ("jet", "message"),
    [
        (
            {"pt": float("nan")},
            r"Jet\['pt'\] of event 1, object 1 must be a finite number of at least 0; found nan",
        ),
        ({"pt": -3.0}, r"Jet\['pt'\] of event 1, object 1 must be .* at least 0; found -3"),
        ({"pt": float("inf")}, r"Jet\['pt'\] of event 1, object 1"),
        ({"eta": float("nan")}, r"Jet\['eta'\] of event 1, object 1 must be a finite number; found nan"),
    ],
)
def test_bad_values_are_named(jet: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EventCloud.from_awkward(broken(jet), PUBLISHED)


def test_missing_fields_are_named_with_near_misses() -> None:
    events = events_of({"Jet": [obj(50)]})
    jets = events["Jet"][["pt", "eta", "phi", "btagDeepFlavB"]]
    with pytest.raises(InputError, match=r"Jet has no field 'mass'; .*it has btagDeepFlavB, eta, phi, pt"):
        EventCloud.from_awkward(ak.with_field(events, jets, "Jet"), PUBLISHED)
    with pytest.raises(InputError, match="no collection 'Jets'; nearest: 'Jet'"):
        EventCloud.from_awkward(events, PUBLISHED, branches=Branches(jets=("Jets",)))
    with pytest.raises(InputError, match="none of the b-tag fields btagUParTAK4B"):
        EventCloud.from_awkward(
            ak.with_field(events, events["Jet"][["pt", "eta", "phi", "mass"]], "Jet"), PUBLISHED
        )
    with pytest.raises(InputError, match="needs a working_point"):
        EventCloud.from_awkward(events, PUBLISHED, branches=Branches(btag="charge"))
    with pytest.raises(InputError, match="no PuppiMET or MET or PFMET"):
        EventCloud.from_awkward(events[["Electron", "Muon", "Jet"]], PUBLISHED)
    with pytest.raises(InputError, match="collections holds FatJet"):
        EventCloud.from_awkward(events, PUBLISHED, collections={"FatJet": events["Jet"]})
    with pytest.raises(InputError, match="awkward array of records; found list"):
        EventCloud.from_awkward([], PUBLISHED)
    with pytest.raises(InputError, match="at least one collection"):
        Branches(leptons=(), jets=())
    with pytest.raises(InputError, match="used once"):
        Branches(jets=("Jet",), taus=("Jet",))


def test_missing_values_are_refused() -> None:
    events = events_of({"Jet": [obj(50)]}, {"Jet": [obj(20)]})
    gap = ak.mask(events["Jet"], ak.Array([True, False]))
    with pytest.raises(InputError, match="Jet has a missing list"):
        EventCloud.from_awkward(events, PUBLISHED, collections={"Jet": gap})
    none = ak.with_field(events["Jet"], ak.Array([[None], [1.0]]), "eta")
    with pytest.raises(InputError, match=r"Jet\['eta'\] has missing values"):
        EventCloud.from_awkward(events, PUBLISHED, collections={"Jet": none})
    with pytest.raises(InputError, match="must have 2 events; found 1"):
        EventCloud.from_awkward(events, PUBLISHED, collections={"Jet": events["Jet"][:1]})


def test_clouds_of_arrays_are_checked() -> None:
    cloud = EventCloud.from_awkward(events_of({"Jet": [obj(50)]}), PUBLISHED)
    again = EventCloud.from_arrays(cloud.objects, cloud.mask, cloud.event_features, PUBLISHED)
    assert np.array_equal(again.objects, cloud.objects)
    assert again.n_dropped.tolist() == [0]
    with pytest.raises(InputError, match=r"objects must have shape \(1, 18, 7\); found \(1, 18, 6\)"):
        EventCloud.from_arrays(cloud.objects[..., :6], cloud.mask, cloud.event_features, PUBLISHED)
    with pytest.raises(InputError, match="must be finite"):
        EventCloud.from_arrays(cloud.objects * np.nan, cloud.mask, cloud.event_features, PUBLISHED)


def test_holes_in_a_mask_are_closed() -> None:
    schema = EventSchema(objects=(Feature("pt"),), capacity=3)
    values = np.array([[[9.0], [5.0], [3.0]]], np.float32)
    cloud = EventCloud.from_arrays(
        values, np.array([[False, True, True]]), np.zeros((1, 0), np.float32), schema
    )
    assert cloud.mask.tolist() == [[True, True, False]]
    assert cloud.objects[0, :, 0].tolist() == [5.0, 3.0, 0.0]
    assert cloud.index["position"][0].tolist() == [1, 2, -1]
    assert cloud.to_collection("objects", cloud.objects[..., 0], fill=-1.0).to_list() == [[-1.0, 5.0, 3.0]]


def test_flat_tables_are_read_like_records() -> None:
    events = events_of({"Jet": [obj(50), obj(80)], "Muon": [obj(20)]})
    flat = {
        f"{c}_{f}": events[c][f] for c in ("Electron", "Muon", "Jet", "MET") for f in ak.fields(events[c])
    }
    table = ak.zip(flat, depth_limit=1)
    expected = EventCloud.from_awkward(events, PUBLISHED)
    assert np.array_equal(EventCloud.from_awkward(table, PUBLISHED).objects, expected.objects)


def test_cartesian_agrees_with_vector() -> None:
    rng = np.random.default_rng(5)
    pt, eta = rng.exponential(50, 500), rng.normal(0, 2, 500)
    phi, mass = rng.uniform(-np.pi, np.pi, 500), rng.exponential(10, 500)
    columns = [x.astype(np.float32) for x in (pt, eta, phi, mass)]
    columns[2][:4] = [np.pi, -np.pi, 0, np.pi / 2]
    p4: Any = vector.array(
        {k: x.astype(np.float64) for k, x in zip(("pt", "eta", "phi", "mass"), columns, strict=True)}
    )
    expected = np.stack([p4.px, p4.py, p4.pz, p4.E], axis=1)
    np.testing.assert_allclose(cartesian(*columns), expected, rtol=1e-12, atol=1e-10)
