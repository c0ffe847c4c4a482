from __future__ import annotations

import math
from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from evenet_hep.errors import InputError
from evenet_hep.events.observables import delta_r_to_nearest, remove_overlap
from evenet_hep.events.selection import (
    BbwwIdentification,
    BbwwSelection,
    select_bbww,
    select_dimuon,
    select_haa4b,
    select_tt2l,
    select_tt2l_training,
)

ELECTRON = {"pt": 50.0, "eta": 0.0, "phi": 0.0, "mass": 0.0005}
MUON = {"pt": 50.0, "eta": 0.0, "phi": 0.0, "mass": 0.1057}
TAU = {"pt": 40.0, "eta": 1.0, "phi": 2.0, "mass": 1.0}
JETS = (
    {"pt": 90.0, "eta": 0.1, "phi": 3.0, "mass": 9.0, "score": 0.9},
    {"pt": 70.0, "eta": -0.5, "phi": -2.0, "mass": 8.0, "score": 0.8},
    {"pt": 60.0, "eta": 0.6, "phi": 0.5, "mass": 7.0, "score": 0.1},
    {"pt": 25.0, "eta": -1.0, "phi": 1.5, "mass": 4.0, "score": 0.05},
)


def records(*events: list[dict[str, Any]], like: dict[str, Any]) -> ak.Array:
    """Jagged records with the fields of ``like``, also where all lists are empty."""
    return ak.zip({name: [[entry[name] for entry in event] for event in events] for name in like})


def select(
    electrons: list[dict[str, Any]] | None = None,
    muons: list[dict[str, Any]] | None = None,
    taus: list[dict[str, Any]] | None = None,
    jets: list[dict[str, Any]] | None = None,
    **options: Any,
) -> BbwwSelection:
    """One event; a single electron and four jets unless said otherwise."""
    return select_bbww(
        records([ELECTRON] if electrons is None else electrons, like=ELECTRON),
        records(muons or [], like=MUON),
        records(taus or [], like=TAU),
        records(list(JETS) if jets is None else jets, like=JETS[0]),
        [40.0],
        [0.7],
        **({"identification": None, "btag": "score"} | options),
    )


def select_all(collections: dict[str, ak.Array], met: Any, met_phi: Any, **options: Any) -> BbwwSelection:
    """All events of electrons, muons, taus and jets."""
    electrons, muons, taus, jets = collections.values()
    return select_bbww(electrons, muons, taus, jets, met, met_phi, **options)


def counts(selection: BbwwSelection) -> dict[str, int]:
    names = ("electrons", "muons", "taus", "jets", "bjets", "light_jets")
    return {name: ak.num(getattr(selection, name))[0] for name in names}


def test_a_signal_like_event_passes_all_but_topness_on_its_own_merit() -> None:
    selection = select()
    assert counts(selection) == {
        "electrons": 1,
        "muons": 0,
        "taus": 0,
        "jets": 4,
        "bjets": 2,
        "light_jets": 2,
    }
    cuts = selection.cuts._asdict()
    assert {name for name, flags in cuts.items() if flags[0]} >= set(cuts) - {"topness"}
    assert selection.cuts.topness[0] == (selection.topness.topness[0] > 3)
    assert selection.passed[0] == all(flags[0] for flags in cuts.values())
    assert selection.dr_l_jnear[0] == pytest.approx(math.hypot(0.6, 0.5))


@pytest.mark.parametrize(
    ("name", "like", "field", "inside", "on_boundary"),
    [
        ("electrons", ELECTRON, "pt", 35.001, 35.0),
        ("electrons", ELECTRON, "eta", -2.499, -2.5),
        ("muons", MUON, "pt", 30.001, 30.0),
        ("muons", MUON, "eta", 2.399, 2.4),
        ("taus", TAU, "pt", 30.001, 30.0),
        ("taus", TAU, "eta", 2.299, 2.3),
        ("jets", JETS[2], "pt", 20.001, 20.0),
        ("jets", JETS[2], "eta", 2.399, 2.4),
    ],
)
def test_object_cuts_are_strict(
    name: str, like: dict[str, Any], field: str, inside: float, on_boundary: float
) -> None:
    for value, expected in ((inside, 1), (on_boundary, 0), (math.nan, 0)):
        collections: dict[str, Any] = {"electrons": [], "muons": [], "taus": [], "jets": []}
        collections[name] = [like | {field: value}]
        assert counts(select(**collections))[name] == expected


def test_a_score_equal_to_the_working_point_makes_neither() -> None:
    jets = [JETS[0] | {"score": score} for score in (0.2489, 0.24890001, 0.24889999, math.nan)]
    selection = select(jets=jets)
    assert counts(selection)["jets"] == 4
    assert selection.bjets["score"].to_list() == [[0.24890001]]
    assert selection.light_jets["score"].to_list() == [[0.24889999]]
    wide = select(jets=jets, working_point=0.1)
    assert ak.num(wide.bjets).to_list() == [3]


def test_float32_scores_are_compared_in_float32() -> None:
    jets = records([JETS[0]], like=JETS[0])
    jets["score"] = ak.values_astype(0 * jets["score"] + np.float32(0.2489), np.float32)
    electrons = records([ELECTRON], like=ELECTRON)
    selection = select_bbww(
        electrons, electrons[:, :0], None, jets, [40.0], [0.7], identification=None, btag="score"
    )
    assert ak.num(selection.bjets).to_list() == ak.num(selection.light_jets).to_list() == [0]


@pytest.mark.parametrize(("distance", "kept"), [(0.4, 0), (0.3999, 0), (0.4001, 1)])
def test_jets_and_taus_at_0p4_of_a_lepton_are_removed(distance: float, kept: int) -> None:
    near = {"eta": distance, "phi": 0.0}
    selection = select(taus=[TAU | near], jets=[JETS[0] | {"eta": -distance, "phi": 0.0}])
    assert counts(selection)["taus"] == counts(selection)["jets"] == kept
    with_muon = select(
        electrons=[], muons=[MUON], taus=[TAU | near], jets=[JETS[0] | {"eta": -distance, "phi": 0.0}]
    )
    assert counts(with_muon)["taus"] == counts(with_muon)["jets"] == kept


def test_only_surviving_taus_remove_jets() -> None:
    jet = JETS[0] | {"eta": 0.7, "phi": 0.0}
    removed = select(taus=[TAU | {"eta": 0.35, "phi": 0.0}], jets=[jet])
    assert counts(removed)["taus"] == 0
    assert counts(removed)["jets"] == 1  # at 0.35 of a tau that the electron removed
    surviving = select(taus=[TAU | {"eta": 0.45, "phi": 0.0}], jets=[jet])
    assert counts(surviving)["taus"] == 1
    assert counts(surviving)["jets"] == 0
    unselected = select(taus=[TAU | {"eta": 0.45, "phi": 0.0, "pt": 30.0}], jets=[jet])
    assert counts(unselected)["jets"] == 1


def test_overlap_is_found_across_pi_and_not_between_electrons_and_muons() -> None:
    jet = JETS[0] | {"eta": 0.0, "phi": -3.1}
    assert counts(select(electrons=[ELECTRON | {"phi": 3.1}], jets=[jet]))["jets"] == 0
    both = select(muons=[MUON])
    assert counts(both)["electrons"] == counts(both)["muons"] == 1
    assert not both.cuts.one_lepton[0]


def test_the_lepton_is_the_hardest() -> None:
    selection = select(electrons=[ELECTRON, ELECTRON | {"pt": 60.0}], muons=[MUON | {"pt": 55.0, "eta": 1.0}])
    assert selection.lepton["pt"].to_list() == [60.0]
    assert select(electrons=[]).lepton.to_list() == [None]


def test_events_without_objects() -> None:
    selection = select(electrons=[], jets=[])
    assert selection.cuts._asdict() == {
        "one_lepton": [False], "tau_veto": [True], "two_bjets": [False], "two_light": [False],
        "dr_l_jnear": [False], "topness": [False],
    }  # fmt: skip
    assert math.isnan(selection.dr_l_jnear[0])
    assert math.isnan(selection.topness.topness[0])
    assert not selection.passed[0]


def test_an_event_too_far_from_its_nearest_light_jet_fails() -> None:
    near = [*JETS[:2], JETS[2] | {"eta": 1.59, "phi": 0.0}, JETS[3] | {"eta": 2.0}]
    far = [*JETS[:2], JETS[2] | {"eta": 1.6, "phi": 0.0}, JETS[3] | {"eta": 2.0}]
    assert select(jets=near).cuts.dr_l_jnear[0]
    assert not select(jets=far).cuts.dr_l_jnear[0]


def test_topness_looks_at_selected_jets_only() -> None:
    soft = {"pt": 19.0, "eta": 0.0, "phi": 1.0, "mass": 3.0, "score": 0.1}
    neither = {"pt": 80.0, "eta": 1.5, "phi": 1.0, "mass": 3.0, "score": 0.2489}
    selection = select(jets=[soft, *JETS])
    assert selection.topness.topness[0] == select().topness.topness[0]
    assert selection.topness.q1[0] == 2  # a position among the selected jets
    assert select(jets=[*JETS, neither]).topness.topness[0] == select().topness.topness[0]
    sequential = select(strategy="sequential").topness.topness[0]
    assert sequential >= select().topness.topness[0]


NANO_ELECTRON = ELECTRON | {"dxy": 0.01, "dz": -0.1, "mvaFall17V2Iso_WP90": True}
NANO_MUON = MUON | {"dxy": -0.01, "dz": 0.1, "mediumId": True, "pfRelIso04_all": 0.1}
NANO_TAU = TAU | {
    "dz": 0.1,
    "decayMode": 10,
    "idDeepTau2017v2p1VSjet": 16,
    "idDeepTau2017v2p1VSe": 32,
    "idDeepTau2017v2p1VSmu": 1,
}
NANO_JET = JETS[0] | {"jetId": 6, "puId": 7, "btagDeepFlavB": 0.9, "pt": 45.0}


@pytest.mark.parametrize(
    ("name", "like", "field", "good", "bad"),
    [
        ("electrons", NANO_ELECTRON, "dxy", -0.0449, -0.045),
        ("electrons", NANO_ELECTRON, "dz", 0.199, 0.2),
        ("electrons", NANO_ELECTRON, "mvaFall17V2Iso_WP90", True, False),
        ("muons", NANO_MUON, "dxy", 0.0449, 0.045),
        ("muons", NANO_MUON, "dz", -0.199, -0.2),
        ("muons", NANO_MUON, "mediumId", True, False),
        ("muons", NANO_MUON, "pfRelIso04_all", 0.149, 0.15),
        ("taus", NANO_TAU, "dz", -0.199, -0.2),
        ("taus", NANO_TAU, "decayMode", 4, 5),
        ("taus", NANO_TAU, "decayMode", 10, 9),
        ("taus", NANO_TAU, "idDeepTau2017v2p1VSjet", 31, 15),
        ("taus", NANO_TAU, "idDeepTau2017v2p1VSe", 63, 31),
        ("taus", NANO_TAU, "idDeepTau2017v2p1VSmu", 3, 0),
        ("jets", NANO_JET, "jetId", 4, 2),
        ("jets", NANO_JET, "puId", 7, 6),
    ],
)
def test_identification(name: str, like: dict[str, Any], field: str, good: float, bad: float) -> None:
    likes = {"electrons": NANO_ELECTRON, "muons": NANO_MUON, "taus": NANO_TAU, "jets": NANO_JET}
    for value, expected in ((good, 1), (bad, 0)):
        given = {key: records([], like=each) for key, each in likes.items()}
        given[name] = records([like | {field: value}], like=like)
        selection = select_all(given, [40.0], [0.7])
        assert ak.num(getattr(selection, name)).to_list() == [expected]


def test_pileup_identification_is_for_jets_below_50() -> None:
    jets = records([NANO_JET | {"pt": pt, "puId": 0} for pt in (49.9, 50.0)], like=NANO_JET)
    electrons, muons = records([], like=NANO_ELECTRON), records([], like=NANO_MUON)
    assert select_bbww(electrons, muons, None, jets, [40.0], [0.7]).jets["pt"].to_list() == [[50.0]]
    without = BbwwIdentification(jet_pileup_id=None)
    bare = jets[[name for name in ak.fields(jets) if name != "puId"]]
    selection = select_bbww(electrons, muons, None, bare, [40.0], [0.7], identification=without)
    assert ak.num(selection.jets).to_list() == [2]


def test_a_missing_branch_is_named_with_what_is_there() -> None:
    with pytest.raises(InputError, match=r"electrons has no field 'dxy'.*eta, mass, phi, pt"):
        select(identification=BbwwIdentification())
    with pytest.raises(InputError, match=r"jets has no field 'btagDeepFlavB'.*score"):
        select(btag="btagDeepFlavB")
    with pytest.raises(TypeError, match="unexpected keyword argument 'electron_identification'"):
        BbwwIdentification(electron_identification="x")  # type: ignore[call-arg]


def events_of_many_kinds(n_events: int = 60) -> dict[str, ak.Array]:
    rng = np.random.default_rng(31)

    def collection(mean: float, like: dict[str, Any]) -> ak.Array:
        sizes = rng.poisson(mean, n_events)
        total = int(sizes.sum())
        columns = {
            "pt": 15 + rng.exponential(40.0, total),
            "eta": rng.uniform(-2.6, 2.6, total),
            "phi": rng.uniform(-np.pi, np.pi, total),
            "mass": np.full(total, like["mass"]),
            "score": rng.random(total),
            "unused": rng.random(total),
        }
        return ak.zip({name: ak.unflatten(columns[name], sizes) for name in (*like, "unused")})

    return {
        "electrons": collection(0.7, ELECTRON),
        "muons": collection(0.7, MUON),
        "taus": collection(0.3, TAU),
        "jets": collection(6.0, JETS[0]),
    }


def virtual(name: str, array: ak.Array, read: set[str]) -> ak.Array:
    """The same array with buffers that are read when they are needed; ``read`` records which."""
    form, length, buffers = ak.to_buffers(array)
    contents = form.content.contents
    labels = {
        f"{content.form_key}-data": field
        for field, content in zip(form.content.fields, contents, strict=True)
    }

    def reader(key: str) -> Any:
        def load() -> Any:
            read.add(f"{name}.{labels.get(key, 'offsets')}")
            return buffers[key]

        return load

    return ak.from_buffers(form, length, {key: reader(key) for key in buffers})


def test_virtual_arrays_give_the_same_and_read_only_what_is_needed() -> None:
    collections = events_of_many_kinds()
    met, met_phi = np.full(60, 40.0), np.full(60, 0.7)
    options: dict[str, Any] = {"identification": None, "btag": "score"}
    expected = select_all(collections, met, met_phi, **options)
    read: set[str] = set()
    lazy = {name: virtual(name, array, read) for name, array in collections.items()}
    found = select_all(lazy, met, met_phi, **options)
    np.testing.assert_array_equal(found.passed, expected.passed)
    np.testing.assert_array_equal(found.topness.topness, expected.topness.topness)
    assert not {name for name in read if name.endswith(("unused", "charge"))}
    assert found.jets["unused"].to_list() == expected.jets["unused"].to_list()


def test_vectors_and_options_go_through() -> None:
    vector.register_awkward()
    collections = events_of_many_kinds()
    momenta = {name: ak.with_name(array, "Momentum4D") for name, array in collections.items()}
    options: dict[str, Any] = {"identification": None, "btag": "score"}
    met, met_phi = ak.Array(np.full(60, 40.0)), ak.Array(np.full(60, 0.7))
    plain = select_all(collections, met, met_phi, **options)
    found = select_all(momenta, met, met_phi, **options, parallel=True)
    np.testing.assert_array_equal(found.topness.topness, plain.topness.topness)
    assert found.jets.px.to_list() == (plain.jets["pt"] * np.cos(plain.jets["phi"])).to_list()


def test_an_empty_chunk_gives_an_empty_chunk() -> None:
    none = {name: array[:0] for name, array in events_of_many_kinds().items()}
    selection = select_all(none, [], [], identification=None, btag="score")
    assert len(selection.jets) == len(selection.passed) == len(selection.topness.valid) == 0
    assert selection.passed.dtype == np.bool_
    assert ak.fields(selection.jets) == ak.fields(none["jets"])
    jets = none["jets"]
    assert select_haa4b(jets, jets).passed.shape == (0,)
    charged = ak.with_field(jets, jets["pt"], "charge")
    assert select_tt2l(charged, jets).passed.shape == (0,)
    assert len(select_tt2l_training(jets, jets, is_bjet=jets["pt"] > 0).bjets) == 0
    muons = dimuons([])[:0]
    dimuon = select_dimuon(muons, [])
    assert dimuon.passed.shape == dimuon.channel.shape == dimuon.region.shape == dimuon.mass.shape == (0,)


def test_lists_that_are_all_empty_need_no_fields() -> None:
    """ak.Array([[]]) has no type at all; it is what a user gets who builds events from Python lists."""
    none = ak.Array([[]])
    selection = select_bbww(
        none, none, none, records(list(JETS), like=JETS[0]), [40.0], [0.7], btag="score", identification=None
    )
    assert counts(selection) == {
        "electrons": 0,
        "muons": 0,
        "taus": 0,
        "jets": 4,
        "bjets": 2,
        "light_jets": 2,
    }
    assert select_bbww(none, none, none, none, [40.0], [0.7]).passed.tolist() == [False]
    assert select_haa4b(none, none).passed.tolist() == [False]
    assert select_tt2l(none, none).passed.tolist() == [False]
    assert select_dimuon(none, [True]).passed.tolist() == [False]


def test_remove_overlap_and_nearest() -> None:
    jets = ak.Array([[{"eta": 0.0, "phi": 0.0}, {"eta": 1.0, "phi": 0.0}], []])
    others = ak.Array([[{"eta": 0.5, "phi": 0.0}], [{"eta": 0.0, "phi": 0.0}]])
    assert ak.num(remove_overlap(jets, others)).to_list() == [2, 0]
    assert ak.num(remove_overlap(jets, others, delta_r=0.5)).to_list() == [0, 0]
    assert ak.num(remove_overlap(jets)).to_list() == [2, 0]
    np.testing.assert_array_equal(delta_r_to_nearest(others[:, 0], jets), [0.5, np.nan])
    with pytest.raises(InputError, match="objects has no field 'phi'"):
        remove_overlap(jets[["eta"]], others)


@pytest.mark.parametrize(
    ("jets", "bjets", "passed"),
    [
        ([31, 32, 33, 34], [31, 32, 21], True),
        ([30, 32, 33, 34], [31, 32, 21], False),  # a jet on the boundary
        ([31, 32, 33, 34], [31, 32, 20], False),
        ([31, 32, 33, 34], [31, 30, 21], False),  # sub-leading b jet on the boundary
        ([31, 32, 33, 34], [21, 31, 32], True),  # in any order
        ([31, 32, 33, 34], [31, 32], False),
        ([31, 32, 33, 29, 28], [31, 32, 33], False),
    ],
)
def test_haa4b(jets: list[float], bjets: list[float], passed: bool) -> None:
    selection = select_haa4b(ak.zip({"pt": [jets]}), ak.zip({"pt": [bjets]}))
    assert selection.passed.tolist() == [passed]
    assert ak.all(selection.jets["pt"] > 30)
    assert ak.all(selection.bjets["pt"] > 20)


LEPTONS = [{"pt": 30.0, "eta": 0.0, "charge": 1}, {"pt": 40.0, "eta": -2.0, "charge": -1}]
BJETS = [{"pt": 30.0, "eta": 0.0}, {"pt": 60.0, "eta": 2.0}]


@pytest.mark.parametrize(
    ("leptons", "bjets", "passed"),
    [
        (LEPTONS, BJETS, True),
        (LEPTONS, [*BJETS, *BJETS], True),
        (LEPTONS, BJETS[:1], False),
        (LEPTONS, [BJETS[0], BJETS[1] | {"pt": 25.0}], False),
        (LEPTONS, [BJETS[0], BJETS[1] | {"eta": -2.5}], False),
        (LEPTONS[:1], BJETS, False),
        ([LEPTONS[0], LEPTONS[1] | {"charge": 1}], BJETS, False),
        ([LEPTONS[0], LEPTONS[1] | {"pt": 25.0}], BJETS, False),
        ([LEPTONS[0], LEPTONS[1] | {"eta": 2.5}], BJETS, False),
        ([*LEPTONS, LEPTONS[0]], BJETS, False),  # three selected leptons
        ([*LEPTONS, LEPTONS[0] | {"pt": 20.0}], BJETS, True),  # the third is not selected
    ],
)
def test_tt2l(leptons: list[dict[str, Any]], bjets: list[dict[str, Any]], passed: bool) -> None:
    selection = select_tt2l(records(leptons, like=LEPTONS[0]), records(bjets, like=BJETS[0]))
    assert selection.passed.tolist() == [passed]
    assert selection.passed == selection.two_leptons & selection.opposite_sign & selection.two_bjets


def test_tt2l_training_keeps_the_hardest() -> None:
    leptons = ak.zip({"pt": [[10.0, 11.0, 60.0, 15.0, 20.0, 12.0]]})
    jets = ak.zip({"pt": [[20.0, *np.arange(21.0, 36.0)]]})
    is_bjet = ak.Array([[True, *[True, False, False] * 5]])
    selection = select_tt2l_training(leptons, jets, is_bjet=is_bjet)
    assert selection.leptons["pt"].to_list() == [[60.0, 20.0, 15.0, 12.0]]
    assert selection.bjets["pt"].to_list() == [[33.0, 30.0, 27.0, 24.0]]
    assert selection.other_jets["pt"].to_list() == [[35.0, 34.0, 32.0, 31.0, 29.0, 28.0]]


GOOD_MUON = {
    "pt": 20.0,
    "eta": 0.2,
    "phi": 0.0,
    "mass": 0.1057,
    "charge": 1,
    "tightId": True,
    "pfRelIso04_all": 0.6,
}
SOFT_MUON = GOOD_MUON | {"pt": 10.0, "eta": 0.5, "phi": 0.6, "charge": -1}


def dimuons(*events: list[dict[str, Any]]) -> ak.Array:
    return records(*events, like=GOOD_MUON)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"pt": 8.0}, True),
        ({"pt": 7.99}, False),
        ({"pfRelIso04_all": 0.55}, True),
        ({"pfRelIso04_all": 0.5499}, False),
        ({"tightId": False}, False),
        ({"charge": 1}, True),
    ],
)
def test_dimuon_cuts_on_the_softer_muon(changes: dict[str, Any], passed: bool) -> None:
    muons = dimuons([SOFT_MUON | changes, GOOD_MUON])
    assert select_dimuon(muons, [True]).passed.tolist() == [passed]
    assert select_dimuon(muons, [False]).passed.tolist() == [False]
    assert (
        select_dimuon(muons, [True], mass=[9.5]).muons["pt"][0].to_list()
        == sorted([20.0, changes.get("pt", 10.0)])[::-1]
    )


@pytest.mark.parametrize(("pt", "passed"), [(17.0, True), (16.99, False)])
def test_dimuon_leading_muon(pt: float, passed: bool) -> None:
    assert select_dimuon(dimuons([SOFT_MUON, GOOD_MUON | {"pt": pt}]), [True]).passed.tolist() == [passed]


@pytest.mark.parametrize(
    ("mass", "region", "passed"),
    [
        (4.999, "none", False),
        (5.0, "none", True),
        (5.001, "SBL", True),
        (9.0, "none", True),
        (9.46, "SR", True),
        (10.6, "none", True),
        (10.601, "SBH", True),
        (16.0, "none", True),
        (16.001, "none", False),
        (math.nan, "none", False),
    ],
)
def test_dimuon_regions_are_open_and_the_window_is_closed(mass: float, region: str, passed: bool) -> None:
    selection = select_dimuon(dimuons([SOFT_MUON, GOOD_MUON]), [True], mass=[mass])
    assert selection.region.tolist() == [region]
    assert selection.passed.tolist() == [passed]
    assert selection.channel.tolist() == ["OS"]


def test_dimuon_takes_the_two_hardest_tight_muons() -> None:
    loose = GOOD_MUON | {"pt": 90.0, "tightId": False}
    third = SOFT_MUON | {"pt": 9.0, "charge": 1}
    selection = select_dimuon(dimuons([third, loose, SOFT_MUON, GOOD_MUON]), [True])
    assert selection.muons["pt"].to_list() == [[20.0, 10.0]]
    assert selection.passed.tolist() == [True]
    assert selection.channel.tolist() == ["OS"]


def test_dimuon_mass_against_massless_formula() -> None:
    selection = select_dimuon(dimuons([SOFT_MUON, GOOD_MUON], [GOOD_MUON], []), [True] * 3)
    massless = math.sqrt(2 * 20.0 * 10.0 * (math.cosh(0.3) - math.cos(0.6)))
    assert selection.mass[0] == pytest.approx(massless, rel=2e-3)
    assert np.isnan(selection.mass[1:]).all()
    assert selection.channel.tolist() == ["OS", "none", "none"]
    assert selection.region.tolist() == ["SR", "none", "none"]
    assert selection.passed.tolist() == [True, False, False]


def test_errors_of_the_other_selections() -> None:
    muons = dimuons([GOOD_MUON, SOFT_MUON])
    with pytest.raises(InputError, match="muons has no field 'isolation'"):
        select_dimuon(muons, [True], isolation="isolation")
    with pytest.raises(InputError, match="muons has no field 'eta'"):
        select_dimuon(muons[["pt", "charge", "tightId", "pfRelIso04_all"]], [True])
    with pytest.raises(InputError, match="trigger must hold one bool for each of the 1 events"):
        select_dimuon(muons, [True, True])
    with pytest.raises(InputError, match="leptons has no field 'charge'"):
        select_tt2l(muons[["pt", "eta"]], muons)
    with pytest.raises(InputError, match="bjets has no field 'pt'"):
        select_haa4b(muons, muons[["eta"]])
