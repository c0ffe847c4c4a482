"""Labels of events whose generated particles are written by hand."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest

from evenet_hep import EventCloud, EventSchema, Feature
from evenet_hep.errors import InputError
from evenet_hep.events.decays import find_decays
from evenet_hep.events.gen_particles import FIELDS, read_gen_particles
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.truth import TruthLabels, class_of_processes, label_events, matched_mass
from evenet_hep.topology import Process, Resonance, Topology, TopologyError

PUBLISHED = Topology.published()
SCHEMA = EventSchema.standard()
HARD, SOFT = 1 << 7, 0


class Tree:
    """Generated particles of one event; every new particle flies in a direction of its own."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, pdg: int, mother: int = -1, *, flags: int = HARD, **momentum: float) -> int:
        n = len(self.rows)
        row = {"pt": 50.0, "eta": -2.0 + 0.9 * (n % 5), "phi": -3.0 + 0.7 * (n % 9), "mass": 0.0, **momentum}
        self.rows.append({**row, "pdgId": pdg, "genPartIdxMother": mother, "statusFlags": flags})
        return n

    def decay(self, mother: int, *pdgs: int) -> list[int]:
        return [self.add(pdg, mother) for pdg in pdgs]

    def top(self, sign: int, first: int, second: int) -> dict[str, int]:
        """t -> b W -> b f f', copies of t and W included."""
        if not self.rows:
            self.add(21)
        t = self.add(6 * sign, 0, mass=172.5)
        t = self.add(6 * sign, t, mass=172.5, flags=SOFT)
        w, b = self.decay(t, 24 * sign, 5 * sign)
        w = self.add(24 * sign, w, mass=80.4, flags=SOFT)
        f, g = self.decay(w, first, second)
        return {"t": t, "b": b, "W": w, "f": f, "g": g}

    def reconstructed(self, *positions: int) -> dict[str, list[dict[str, float]]]:
        """Objects in the direction of some particles, of decreasing pT in the order given."""
        objects: dict[str, list[dict[str, float]]] = {"Electron": [], "Muon": [], "Jet": []}
        for n, position in enumerate(positions):
            row = self.rows[position]
            pdg = row["pdgId"]
            name = {11: "Electron", 13: "Muon"}.get(abs(int(pdg)), "Jet")
            charge = -float(np.sign(pdg)) if name != "Jet" else 0.0
            objects[name].append(
                {
                    "pt": 100.0 - n,
                    "eta": row["eta"] + 0.02,
                    "phi": row["phi"],
                    "mass": 1.0,
                    "charge": charge,
                    "btagPNetB": 0.5,
                }
            )
        return objects


def build(*events: tuple[Tree, tuple[int, ...]]) -> ak.Array:
    """Events of trees and what was reconstructed of them."""
    row = {"pt": 0.0, "eta": 0.0, "phi": 0.0, "mass": 0.0, "charge": 0.0, "btagPNetB": 0.0}
    gen = dict.fromkeys(FIELDS, 0.0) | {"pdgId": 0, "genPartIdxMother": 0, "statusFlags": 0}
    template = {name: [row] for name in ("Electron", "Muon", "Jet")} | {"GenPart": [gen]}
    rows = [{"GenPart": tree.rows, **tree.reconstructed(*found)} for tree, found in events]
    array = ak.Array([template, *rows])[1:]
    return ak.with_field(
        array, ak.zip({"pt": np.full(len(rows), 30.0), "phi": np.zeros(len(rows))}), "PuppiMET"
    )


def label(
    events: ak.Array, topology: Topology = PUBLISHED, schema: EventSchema = SCHEMA, **options: Any
) -> TruthLabels:
    return label_events(events, EventCloud.from_awkward(events, schema), topology, **options)


def names(truth: TruthLabels, topology: Topology = PUBLISHED) -> list[str | None]:
    return [topology.processes[p].name if p >= 0 else None for p in truth.labels.process]


def semileptonic() -> tuple[Tree, dict[str, int], dict[str, int]]:
    tree = Tree()
    tree.add(21)
    return tree, tree.top(-1, 3, -4), tree.top(1, -11, 12)


# --- what is found -----------------------------------------------------------------------------------------------


def test_a_semileptonic_top_pair() -> None:
    tree, had, lep = semileptonic()
    found = (had["g"], lep["f"], had["b"], lep["b"], had["f"])
    truth = label(build((tree, found)))
    assert names(truth) == ["TT1L"]
    # Daughters: b, q1, q2 and b, l. The quark comes before the antiquark.
    assert truth.labels.indices[0, :2].tolist() == [[2, 4, 0], [3, 1, -1]]
    assert truth.labels.indices[0, 2:].tolist() == [[-1, -1, -1]]
    assert truth.is_matched[0].tolist() == [True, True, False]
    assert truth.gen_daughter[0, 0].tolist() == [had["b"], had["f"], had["g"]]
    assert truth.pdg_id[0].tolist() == [-6, 6, 0]
    assert truth.gen_resonance[0].tolist() == [had["t"], lep["t"], -1]
    neutrino = tree.rows[lep["g"]]
    expected = [neutrino[name] for name in SCHEMA.invisible_names]
    assert truth.labels.invisible[0, 0] == pytest.approx(expected, abs=1e-5)
    assert truth.labels.invisible_mask[0].tolist() == [True, False]
    assert (truth.labels.invisible[0, 1] == 0).all()
    top = tree.rows[had["t"]]
    assert truth.momentum[0, 0].tolist() == pytest.approx(
        [top[name] for name in ("pt", "eta", "phi", "mass")], abs=1e-5
    )
    assert np.isnan(truth.momentum[0, 2]).all()
    assert [array.dtype.name for array in truth.labels] == ["int16", "int16", "float32", "bool"]


def test_daughters_that_were_not_reconstructed() -> None:
    tree, had, _ = semileptonic()
    truth = label(build((tree, (had["b"], had["f"]))))
    assert truth.labels.indices[0, :2].tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert not truth.is_matched.any()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((-11, 12), (13, -14), "TT2L"), ((2, -1), (3, -4), "TTHadronics"), ((2, -1), (11, -12), "TT1L")],
)
def test_top_pairs(first: tuple[int, int], second: tuple[int, int], expected: str) -> None:
    tree = Tree()
    tree.add(21)
    anti, top = tree.top(-1, *second), tree.top(1, *first)  # the antitop comes first in the file
    truth = label(build((tree, ())))
    assert names(truth) == [expected]
    # Particle before antiparticle where they are of one kind.
    assert truth.gen_resonance[0, :2].tolist() == [top["t"], anti["t"]]


def test_neutrino_before_antineutrino() -> None:
    tree = Tree()
    anti, top = tree.top(-1, 13, -14), tree.top(1, -11, 12)
    truth = label(build((tree, ())))
    phi = SCHEMA.invisible_names.index("phi")
    assert truth.labels.invisible[0, :, phi] == pytest.approx(
        [tree.rows[top["g"]]["phi"], tree.rows[anti["g"]]["phi"]]
    )
    assert truth.labels.invisible_mask.all()
    assert truth.n_invisible.tolist() == [2]
    alone = label(build((tree, ())), max_invisible=1)
    assert alone.labels.invisible.shape == (1, 1, 3)
    assert alone.n_invisible.tolist() == [2]


def test_a_top_without_its_w() -> None:
    tree = Tree()
    top = tree.add(6, mass=172.5)
    u, b, d = tree.decay(top, 2, 5, -1)
    anti = tree.add(-6, mass=172.5)
    nu, anti_b, e = tree.decay(anti, -12, -5, 11)
    truth = label(build((tree, (b, u, d, anti_b, e))))
    assert names(truth) == ["TT1L"]
    assert truth.labels.indices[0, :2].tolist() == [[0, 1, 2], [3, 4, -1]]
    decays = find_decays(read_gen_particles(build((tree, ()))))
    assert decays.pdg_id.tolist() == [6, 24, -6, -24]  # the W are put back
    assert decays.parent.tolist() == [-1, 0, -1, 2]
    assert decays.particle.tolist() == [0, -1, 4, -1]
    assert nu in decays.leaf


@pytest.mark.parametrize(("up", "anti_down"), [(4, -5), (2, -5)])
def test_the_b_of_the_top_is_not_that_of_its_w(up: int, anti_down: int) -> None:
    tree = Tree()
    top, anti = tree.top(1, anti_down, up), tree.top(-1, 11, -12)
    truth = label(build((tree, (top["f"], top["b"], top["g"], anti["b"], anti["f"]))))
    assert names(truth) == ["TT1L"]
    assert truth.gen_daughter[0, 0].tolist() == [top["b"], top["g"], top["f"]]
    assert truth.labels.indices[0, 0].tolist() == [1, 2, 0]


def test_what_a_top_radiates_is_not_what_it_decays_to() -> None:
    tree, had, lep = semileptonic()
    for pdg in (11, -11, 3, 22, 21):  # the photon and the gluon between are not in the file
        tree.add(pdg, had["t"], flags=SOFT)
    tree.add(22, lep["W"], flags=SOFT)
    truth = label(build((tree, ())))
    assert names(truth) == ["TT1L"]
    assert truth.gen_daughter[0, 0].tolist() == [had["b"], had["f"], had["g"]]


def test_no_process_fits() -> None:
    single = Tree()
    single.top(1, -11, 12)
    strange = Tree()  # t -> s W
    for sign in (1, -1):
        t = strange.add(6 * sign)
        w, _ = strange.decay(t, 24 * sign, 3 * sign)
        strange.decay(w, *((2, -1) if sign > 0 else (11, -12)))
    higgs, *_ = semileptonic()  # a Higgs boson beside the top pair
    higgs.decay(higgs.add(25), 5, -5)
    invisible = Tree()
    invisible.decay(invisible.add(23), 12, -12)
    multijet = Tree()
    multijet.decay(multijet.add(21), 5, -5)
    empty = Tree()
    truth = label(build(*((tree, ()) for tree in (single, strange, higgs, invisible, multijet, empty))))
    assert names(truth) == [None] * 6
    assert (truth.labels.indices == -1).all()
    assert not truth.labels.invisible_mask.any()
    assert (truth.pdg_id == 0).all()


def test_bosons() -> None:
    cases = {
        "WJetsToLNu": ((24, -13, 14),),
        "WJetsToQQ": ((-24, 1, -2),),
        "ZJetsToLL": ((23, 13, -13),),
        "ZJetsToQQ": ((23, 5, -5),),
        "WW_1L": ((24, -13, 14), (-24, 1, -2)),
        "WW_2L": ((-24, 13, -14), (24, -11, 12)),
        "ZZ_2L": ((23, 1, -1), (23, 11, -11)),
        "ZZ_4L": ((23, 13, -13), (23, 11, -11)),
        "WZ_1L": ((24, -13, 14), (23, 1, -1)),
        "WZ_2L": ((24, 2, -1), (23, 11, -11)),
        "WZ_3L": ((-24, 13, -14), (23, 11, -11)),
    }
    trees = []
    for bosons in cases.values():
        tree = Tree()
        for boson, *daughters in bosons:
            tree.decay(tree.add(boson), *daughters)
        trees.append((tree, ()))
    assert names(label(build(*trees))) == list(cases)


def test_associated_bosons() -> None:
    for decay, boson, expected in (
        ((24, 2, -1), "W", "ttW_tHtLWH"),
        ((24, -11, 12), "W", "ttW_tHtLWL"),
        ((23, 1, -1), "Z", "ttZ_tHtLZH"),
        ((23, 13, -13), "Z", "ttZ_tHtLZL"),
    ):
        tree, *_ = semileptonic()
        tree.decay(tree.add(decay[0]), *decay[1:])
        truth = label(build((tree, ())))
        assert names(truth) == [expected]
        assert truth.pdg_id[0, 2] == decay[0], boson


# --- Higgs bosons ------------------------------------------------------------------------------------------------


def higgs_to_ww(missing: int) -> Tree:
    """H -> W+ W- -> e+ nu s cbar with as many W left out; the second is off its mass shell."""
    tree = Tree()
    higgs = tree.add(25, tree.add(25, mass=125.0), mass=125.0)
    plus, minus = higgs, higgs
    if missing < 2:
        plus = tree.add(24, higgs, mass=80.4)
    if missing < 1:
        minus = tree.add(-24, higgs, mass=31.0)
    tree.decay(plus, 12, -11)
    tree.decay(minus, 3, -4)
    return tree


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_w_pairs_of_a_higgs_boson(missing: int) -> None:
    tree = higgs_to_ww(missing)
    lepton = next(i for i, row in enumerate(tree.rows) if row["pdgId"] == -11)
    quarks = [next(i for i, row in enumerate(tree.rows) if row["pdgId"] == pdg) for pdg in (3, -4)]
    truth = label(build((tree, (lepton, *quarks))))
    assert names(truth) == ["HWW_WpLepWmHad"]
    assert truth.labels.indices[0, :2].tolist() == [[0, -1, -1], [1, 2, -1]]
    assert truth.pdg_id[0, :2].tolist() == [24, -24]
    assert (truth.gen_resonance[0, :2] < 0).sum() == missing
    assert np.isfinite(truth.momentum[0, :2]).all()


def test_the_momentum_of_a_boson_put_back_is_the_sum_of_its_fermions() -> None:
    tree = Tree()
    tree.add(21)
    tree.add(11, 0, pt=40.0, eta=0.0, phi=0.0)
    tree.add(-11, 0, pt=40.0, eta=0.0, phi=np.pi)
    truth = label(build((tree, ())))
    assert names(truth) == ["ZJetsToLL"]
    assert truth.momentum[0, 0, 3] == pytest.approx(80.0)
    assert truth.gen_resonance[0, 0] == -1


def test_leptons_of_the_hard_process_without_a_boson() -> None:
    tree = Tree()
    tree.add(21)
    tree.add(13, 0)
    tree.add(13, 1, flags=SOFT)
    tree.add(22, 1, flags=SOFT)
    tree.add(-14, 0)
    soft = Tree()
    soft.add(21)
    soft.add(11, 0, flags=SOFT)
    soft.add(-11, 0, flags=SOFT)
    truth = label(build((tree, (1,)), (soft, ())))
    assert names(truth) == ["WJetsToLNu", None]
    assert truth.labels.indices[0, 0, 0] == 0
    assert truth.pdg_id[0, 0] == -24


def test_candidates_and_origins() -> None:
    events = build((higgs_to_ww(0), ()))
    assert names(label(events)) == ["HWW_WpLepWmHad"]
    assert names(label(events, candidates=["WW_1L", "WW_2L"])) == ["WW_1L"]
    assert names(label(events, candidates=["TT1L"])) == [None]
    assert names(label(events, origins={"WW_1L": "H"}, candidates=["WW_1L"])) == ["WW_1L"]
    pair = Tree()
    pair.decay(pair.add(24), -11, 12)
    pair.decay(pair.add(-24), 1, -2)
    assert names(label(build((pair, ())))) == ["WW_1L"]
    assert names(label(build((pair, ())), candidates=["HWW_WpLepWmHad"])) == [None]


def test_two_scalars() -> None:
    tree = Tree()
    higgs = tree.add(25)
    quarks = [quark for scalar in tree.decay(higgs, 36, 36) for quark in tree.decay(scalar, -5, 5)]
    topology = Topology.shipped("higgs_to_4b")
    truth = label(build((tree, tuple(quarks))), topology)
    assert names(truth, topology) == ["HAA4B"]
    assert truth.labels.indices[0].tolist() == [[1, 0], [3, 2]]


def test_a_higgs_boson_and_a_scalar_of_a_heavy_one() -> None:
    tree = Tree()
    heavy = tree.add(45)
    higgs, scalar = tree.decay(heavy, 25, 35)
    tree.decay(scalar, 5, -5)
    plus, minus = tree.decay(higgs, 24, -24)
    tree.decay(plus, 2, -1)
    tree.decay(minus, 13, -14)
    topology = Topology.shipped("bbww")
    assert names(label(build((tree, ())), topology), topology) == ["XYH"]


def test_muon_pairs() -> None:
    upsilon, other, continuum = Tree(), Tree(), Tree()
    pair = upsilon.decay(upsilon.add(553, flags=SOFT), -13, 13)
    other.decay(other.add(443, flags=SOFT), 13, -13)
    continuum.add(21)
    continuum.decay(0, 13, -13)
    topology = Topology.shipped("dimuon")
    events = build((upsilon, tuple(pair)), (other, ()), (continuum, ()))
    truth = label(events, topology)
    assert names(truth, topology) == ["Dimuon", None, None]
    assert truth.labels.indices[0].tolist() == [[1, 0]]
    assert names(label(events, topology, particles={"X": [443]}), topology) == [None, "Dimuon", None]


# --- taus --------------------------------------------------------------------------------------------------------


def tau_pair() -> tuple[Tree, dict[str, int]]:
    """t -> b tau+ nu with tau+ -> mu+ nu nu, and tbar -> b tau- nu with tau- -> pi- nu."""
    tree = Tree()
    top, anti = tree.top(1, -15, 16), tree.top(-1, 15, -16)
    tau = tree.add(-15, top["f"], flags=SOFT)  # after radiation
    tree.add(22, top["f"], flags=SOFT)
    muon, nu_mu, nu_tau = (tree.add(pdg, tau, flags=SOFT, pt=20.0) for pdg in (-13, 14, -16))
    pion, anti_nu = tree.add(-211, anti["f"], flags=SOFT), tree.add(16, anti["f"], flags=SOFT, pt=5.0)
    return tree, {"muon": muon, "nu": nu_mu, "nu_tau": nu_tau, "pion": pion, "anti": anti_nu, **top}


def test_taus_are_leptons_unless_told_otherwise() -> None:
    tree, at = tau_pair()
    events = build((tree, (at["b"], at["muon"])))
    truth = label(events)
    assert names(truth) == ["TT2L"]
    assert truth.labels.indices[0, :2].tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert truth.from_tau[0, :2].tolist() == [[False, True, False], [False, True, False]]
    assert truth.gen_daughter[0, 0, 1] == at["f"]
    assert names(label(events, taus="leptonic")) == [None]
    assert names(label(events, taus="none")) == [None]


def test_leptonic_taus_alone() -> None:
    tree = Tree()
    tree.decay(tree.add(24), -15, 16)
    tree.add(-11, 1, flags=SOFT)
    assert [names(label(build((tree, ())), taus=taus)) for taus in ("all", "leptonic", "none")] == [
        ["WJetsToLNu"],
        ["WJetsToLNu"],
        [None],
    ]


def test_the_neutrinos_of_a_tau_belong_to_its_leg() -> None:
    tree, at = tau_pair()
    truth = label(build((tree, ())))
    assert truth.n_invisible.tolist() == [2]

    def transverse(*positions: int) -> complex:
        return sum(complex(tree.rows[i]["pt"] * np.exp(1j * tree.rows[i]["phi"])) for i in positions)

    expected = transverse(at["g"], at["nu"], at["nu_tau"])
    found = {name: truth.labels.invisible[0, 0, i] for i, name in enumerate(SCHEMA.invisible_names)}
    assert found["pt"] == pytest.approx(abs(expected), rel=1e-5)
    assert found["phi"] == pytest.approx(np.angle(expected), rel=1e-5)


def test_tau_neutrinos_of_a_z_boson() -> None:
    tree = Tree()
    minus, plus = tree.decay(tree.add(23), 15, -15)
    tree.add(-16, plus, flags=SOFT, pt=7.0)
    tree.add(16, minus, flags=SOFT, pt=9.0)
    truth = label(build((tree, ())))
    assert names(truth) == ["ZJetsToLL"]
    pt = SCHEMA.invisible_names.index("pt")
    assert truth.labels.invisible[0, :, pt].tolist() == pytest.approx([9.0, 7.0])


def test_hadronic_taus_are_found_among_taus() -> None:
    tree = Tree()
    tau, _ = tree.decay(tree.add(24), -15, 16)
    tree.add(-16, tau, flags=SOFT, pt=25.0, eta=1.5)
    row = tree.rows[tau]
    neutrino = tree.rows[3]
    visible = {
        "px": 50 * np.cos(row["phi"]) - 25 * np.cos(neutrino["phi"]),
        "py": 50 * np.sin(row["phi"]) - 25 * np.sin(neutrino["phi"]),
        "pz": 50 * np.sinh(row["eta"]) - 25 * np.sinh(1.5),
    }
    pt = float(np.hypot(visible["px"], visible["py"]))
    events = build((tree, ()))
    found = {
        "pt": pt,
        "eta": float(np.arcsinh(visible["pz"] / pt)),
        "phi": float(np.arctan2(visible["py"], visible["px"])),
    }
    record = {**found, "mass": 1.0, "charge": 1.0}
    events = ak.with_field(events, ak.Array([[record]]), "Tau")
    cloud = EventCloud.from_awkward(events, SCHEMA, branches=Branches(taus=("Tau",)))
    assert label_events(events, cloud, PUBLISHED, delta_r=1e-3).labels.indices[0, 0, 0] == 0
    wrong = ak.with_field(events, ak.Array([[{**record, "charge": -1.0}]]), "Tau")
    cloud = EventCloud.from_awkward(wrong, SCHEMA, branches=Branches(taus=("Tau",)))
    assert label_events(wrong, cloud, PUBLISHED).labels.indices[0, 0, 0] == -1


# --- matching ----------------------------------------------------------------------------------------------------


def w_to_jets(*directions: tuple[float, float]) -> Tree:
    tree = Tree()
    w = tree.add(24)
    for pdg, (eta, phi) in zip((2, -1), directions, strict=True):
        tree.add(pdg, w, eta=eta, phi=phi)
    return tree


def with_jets(tree: Tree, *directions: tuple[float, float]) -> ak.Array:
    events = build((tree, ()))
    jets = [
        {"pt": 90.0 - n, "eta": eta, "phi": phi, "mass": 1.0, "charge": 0.0, "btagPNetB": 0.0}
        for n, (eta, phi) in enumerate(directions)
    ]
    return ak.with_field(events, ak.Array([jets]), "Jet")


def test_pairs_are_taken_by_increasing_distance() -> None:
    # Both quarks are closest to jet 1. The first is closer; the second is left with jet 0, or nothing.
    tree = w_to_jets((0.0, 0.1), (0.0, 0.3))
    assert label(with_jets(tree, (0.0, 0.65), (0.0, 0.18))).labels.indices[0, 0].tolist() == [1, 0, -1]
    assert label(with_jets(tree, (0.0, 0.75), (0.0, 0.18))).labels.indices[0, 0].tolist() == [1, -1, -1]


def test_not_the_most_matches() -> None:
    """One match of 0.05 and none is preferred to two matches of 0.15 and 0.3."""
    tree = w_to_jets((0.0, 0.0), (0.0, 0.2))
    assert label(with_jets(tree, (0.0, 0.05), (0.0, -0.3))).labels.indices[0, 0].tolist() == [0, -1, -1]


def test_matching_across_the_end_of_phi() -> None:
    tree = w_to_jets((0.0, 3.1), (1.0, 0.0))
    assert label(with_jets(tree, (0.0, -3.1))).labels.indices[0, 0].tolist() == [0, -1, -1]


def test_the_largest_distance() -> None:
    tree = w_to_jets((0.0, 0.0), (1.0, 2.0))
    events = with_jets(tree, (0.0, 0.3))
    assert label(events).labels.indices[0, 0, 0] == 0
    assert label(events, delta_r=0.25).labels.indices[0, 0, 0] == -1


def test_leptons_are_matched_by_flavour_and_charge() -> None:
    tree = Tree()
    electron, _ = tree.decay(tree.add(24), -11, 12)
    events = build((tree, (electron,)))
    assert label(events).labels.indices[0, 0, 0] == 0
    wrong_charge = ak.with_field(events, ak.with_field(events["Electron"], [[-1.0]], "charge"), "Electron")
    assert label(wrong_charge).labels.indices[0, 0, 0] == -1
    no_charge = EventSchema(
        tuple(f for f in SCHEMA.objects if f.name != "charge"), invisible=SCHEMA.invisible
    )
    assert label(wrong_charge, schema=no_charge).labels.indices[0, 0, 0] == 0
    as_muon = ak.with_field(
        ak.with_field(events, events["Electron"], "Muon"), events["Electron"][:, :0], "Electron"
    )
    assert label(as_muon).labels.indices[0, 0, 0] == -1
    assert label(as_muon, object_kinds={"Muon": "lepton"}).labels.indices[0, 0, 0] == 0


def test_a_cloud_of_plain_records() -> None:
    tree, had, lep = semileptonic()
    events = build((tree, (had["b"], lep["f"], had["f"], had["g"], lep["b"])))
    cloud = EventCloud.from_awkward(events, SCHEMA)
    again = EventCloud.from_awkward(cloud.to_awkward(), SCHEMA)
    expected = label_events(events, cloud, PUBLISHED).labels
    assert label_events(events, again, PUBLISHED).labels.indices.tolist() == expected.indices.tolist()


def test_objects_beyond_the_capacity_are_missing() -> None:
    tree, had, lep = semileptonic()
    events = build((tree, (had["b"], lep["f"], had["f"], had["g"], lep["b"])))
    small = EventSchema(SCHEMA.objects, SCHEMA.event_features, 3, (), SCHEMA.invisible)
    assert label(events, schema=small).labels.indices[0, :2].tolist() == [[0, 2, -1], [-1, 1, -1]]


def test_features_of_invisible_particles() -> None:
    tree = Tree()
    tree.decay(tree.add(24), -11, 12)
    row = tree.rows[2]
    features = [
        Feature(name, "GeV" if name != "eta" else "") for name in ("px", "py", "pz", "energy", "mass", "eta")
    ]
    schema = EventSchema(SCHEMA.objects, (), 5, (), tuple(features))
    found = label(build((tree, ())), schema=schema).labels.invisible[0, 0]
    expected = [
        row["pt"] * np.cos(row["phi"]),
        row["pt"] * np.sin(row["phi"]),
        row["pt"] * np.sinh(row["eta"]),
        row["pt"] * np.cosh(row["eta"]),
        0.0,
        row["eta"],
    ]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    nothing = EventSchema(SCHEMA.objects, (), 5)
    assert label(build((tree, ())), schema=nothing).labels.invisible.shape == (1, 2, 0)


# --- other topologies --------------------------------------------------------------------------------------------


def test_a_grammar_of_ones_own() -> None:
    topology = Topology(
        (
            Resonance("S/gammagamma", ("gamma1", "gamma2")),
            Resonance("H/etau", ("e", "tau")),
            Resonance("V/gj", ("g", "j")),
        ),
        (
            Process("diphoton", (("S", "S/gammagamma"),)),
            Process("flavour", (("H", "H/etau"),)),
            Process("gluons", (("V", "V/gj"),)),
        ),
    )
    trees = [Tree() for _ in range(3)]
    trees[0].decay(trees[0].add(9900001, flags=SOFT), 22, 22)
    trees[1].decay(trees[1].add(25), 15, -11)
    trees[2].decay(trees[2].add(5000039), 21, 21)
    events = build(*((tree, ()) for tree in trees))
    truth = label(events, topology, particles={"S": [9900001], "V": [5000039]}, taus="none")
    assert names(truth, topology) == ["diphoton", "flavour", "gluons"]
    assert truth.gen_daughter[1, 0].tolist() == [2, 1]


def test_names_that_mean_nothing() -> None:
    events = build((Tree(), ()))
    with pytest.raises(
        TopologyError, match=r"resonance 'S/bb' is a decay of 'S'.*give particles=\{'S': \[\.\.\.\]\}"
    ):
        label(events, Topology((Resonance("S/bb", ("b1", "b2")),), (Process("S", (("S", "S/bb"),)),)))
    with pytest.raises(TopologyError, match="daughter 'foo' is none of b, c"):
        label(events, Topology((Resonance("W/foo", ("foo",)),)))
    with pytest.raises(TopologyError, match="there is no process 'TT3L'; there are TT1L"):
        label(events, candidates=["TT3L"])
    with pytest.raises(
        TopologyError, match="process 'WW_1L' comes from 'S', whose PDG numbers are not known"
    ):
        label(events, origins={"WW_1L": "S"})


def test_classes() -> None:
    classes = EventSchema.published().classes
    found = class_of_processes(PUBLISHED, classes)
    assert found.shape == (27,)
    assert found[-1] == -1
    assert (found[:-1] > 0).all()  # all but the multijet events have processes
    by_name = {process.name: classes[c] for process, c in zip(PUBLISHED.processes, found, strict=False)}
    assert {by_name[name] for name in ("WW_1L", "WW_2L")} == {"WW"}
    assert {name for name, each in by_name.items() if each == "TT"} == {"TT1L", "TT2L", "TTHadronics"}
    assert class_of_processes(PUBLISHED, ["T", "TT2", "TT"])[:3].tolist() == [2, 1, 2]
    assert class_of_processes(PUBLISHED, ["signal"]).tolist() == [-1] * 27


def test_a_mass_of_objects_with_masses() -> None:
    schema = EventSchema(tuple(Feature(name) for name in ("pt", "eta", "phi", "mass")))
    cloud = EventCloud.from_awkward(
        ak.Array([{"objects": [{"pt": 30.0, "eta": 0.0, "phi": 0.0, "mass": 40.0}] * 2}]), schema
    )
    assert matched_mass(cloud, np.array([[0, 1]])) == pytest.approx([80.0])
    assert matched_mass(cloud, np.array([[0]])) == pytest.approx([40.0])
    with pytest.raises(
        InputError, match="a mass needs the object feature 'eta'; the schema has pt, phi, mass"
    ):
        matched_mass(
            EventCloud.from_awkward(
                cloud.to_awkward(), EventSchema(tuple(schema.objects[i] for i in (0, 2, 3)))
            ),
            np.array([[0]]),
        )
    with pytest.raises(
        InputError, match="a mass needs the object feature 'energy' or 'mass'; the schema has pt, eta, phi"
    ):
        matched_mass(
            EventCloud.from_awkward(cloud.to_awkward(), EventSchema(schema.objects[:3])), np.array([[0]])
        )


# --- edges and errors --------------------------------------------------------------------------------------------


def test_no_events() -> None:
    events = build((Tree(), ()))[:0]
    truth = label(events)
    assert truth.labels.process.shape == (0,)
    assert truth.labels.indices.shape == (0, 3, 3)
    assert truth.labels.invisible.shape == (0, 2, 3)
    assert truth.is_matched.shape == (0, 3)


def test_without_candidates_no_generated_particles_are_needed() -> None:
    events = build((Tree(), ()))
    data = events[["Electron", "Muon", "Jet", "PuppiMET"]]
    assert label(data, candidates=[]).labels.process.tolist() == [-1]
    with pytest.raises(
        InputError, match="the events have no generated particles 'GenPart'; it has Electron, Jet"
    ):
        label(data)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field: str) -> None:
    events = build((semileptonic()[0], ()))
    kept = [name for name in FIELDS if name != field]
    with pytest.raises(InputError, match=f"GenPart has no field '{field}'"):
        label(ak.with_field(events, events["GenPart"][kept], "GenPart"))


def test_mothers_that_cannot_be() -> None:
    events = build((semileptonic()[0], ()), (semileptonic()[0], ()))
    particles = events["GenPart"]

    def with_mothers(*changed: tuple[int, int]) -> ak.Array:
        mothers = particles["genPartIdxMother"].to_list()
        for position, mother in changed:
            mothers[1][position] = mother
        return ak.with_field(events, ak.with_field(particles, mothers, "genPartIdxMother"), "GenPart")

    with pytest.raises(
        InputError, match=r"\['genPartIdxMother'\] of event 1 must lie between -1 and 14; found 15"
    ):
        label(with_mothers((3, 15)))
    with pytest.raises(InputError, match="of event 1 leads from a particle to itself"):
        label(with_mothers((3, 4), (4, 3)))
    # A daughter may stand before its mother.
    order = list(range(len(particles[0])))[::-1]
    reverse = {old: new for new, old in enumerate(order)}
    rows = [
        {**row, "genPartIdxMother": reverse.get(row["genPartIdxMother"], -1)}
        for row in particles[0].to_list()
    ]
    upside_down = ak.with_field(events[:1], ak.Array([[rows[i] for i in order]]), "GenPart")
    assert names(label(upside_down)) == ["TT1L"]


def test_particles_without_mothers_are_no_daughters() -> None:
    tree = Tree()
    top = tree.add(6)
    tree.decay(tree.add(24), -11, 12)  # not from the top
    tree.add(5)
    assert names(label(build((tree, ())))) == [None]
    assert top == 0


def test_what_the_user_gets_wrong() -> None:
    events = build((Tree(), ()), (Tree(), ()))
    cloud = EventCloud.from_awkward(events, SCHEMA)
    with pytest.raises(InputError, match="must be of the same events; found 1 and 2"):
        label_events(events[:1], cloud, PUBLISHED)
    with pytest.raises(InputError, match=r"must be positive; found 0\.0 and 0\.1"):
        label_events(events, cloud, PUBLISHED, delta_r=0.0)
    with pytest.raises(InputError, match="taus must be one of all, leptonic, none; found 'no'"):
        label_events(events, cloud, PUBLISHED, taus="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="object_kinds holds Tau; the cloud has Electron, Muon, Jet"):
        label_events(events, cloud, PUBLISHED, object_kinds={"Tau": "tau"})
    with pytest.raises(InputError, match=r"object_kinds\['Jet'\] must be one of electron, .*; found 'jets'"):
        label_events(events, cloud, PUBLISHED, object_kinds={"Jet": "jets"})
    flat = EventSchema((Feature("pt", "GeV"),))
    with pytest.raises(InputError, match="matching needs the object feature 'eta'; the schema has pt"):
        label(events, schema=flat)
    schema = EventSchema(SCHEMA.objects, (), 5, (), (Feature("beta"),))
    with pytest.raises(InputError, match="the schema wants beta"):
        label(events, schema=schema)


def test_missing_numbers() -> None:
    events = build((semileptonic()[0], ()))
    particles = events["GenPart"]
    broken = ak.with_field(events, ak.with_field(particles, particles["pt"] * np.nan, "pt"), "GenPart")
    with pytest.raises(InputError, match=r"GenPart\['pt'\] of event 0 must be a finite number; found nan"):
        label(broken)
    single = ak.with_field(events, ak.firsts(particles), "GenPart")
    with pytest.raises(InputError, match="GenPart must hold one list of particles per event"):
        label(single)
