from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from evenet_hep.errors import EveNetError, FileError
from evenet_hep.model.topology import Process, Resonance, Topology, TopologyError

SHIPPED = ("pretraining", "bbww", "higgs_to_4b", "ttbar_dilepton", "dimuon")
DECAY = Resonance("t/bqq", ("b", "q1", "q2"), (("q1", "q2"),))


def brute_force(names: tuple[str, ...], sets: tuple[tuple[str, ...], ...]) -> set[tuple[int, ...]]:
    """Orders in which every position holds a name that cannot be told from the one that belongs there."""
    label = {name: next((str(i) for i, each in enumerate(sets) if name in each), name) for name in names}
    return {
        order
        for order in itertools.permutations(range(len(names)))
        if all(label[names[source]] == label[names[place]] for place, source in enumerate(order))
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grammars(name: str) -> None:
    topology = Topology.shipped(name)
    for resonance in topology.resonances:
        group = resonance.permutations
        assert group[0] == tuple(range(len(resonance.daughters)))
        assert set(group) == brute_force(resonance.daughters, resonance.interchangeable)
        assert resonance.order == len(group)
        # Objects are counted once, and segments are named.
        assert resonance.jets + resonance.leptons == len(resonance.daughters)
        assert resonance.b_jets <= resonance.jets
        assert resonance.mass > 0
        assert resonance.segment
        # What cannot be told apart is of one kind: no charge, no mixture of b jets and others.
        if len(group) > 1:
            assert resonance.charge == 0
    for process in topology.processes:
        kinds = process.kinds
        sets = tuple(tuple(n for n, k in process.resonances if k == kind) for kind in dict.fromkeys(kinds))
        names = tuple(n for n, _ in process.resonances)
        assert process.permutations[0] == tuple(range(len(kinds)))
        assert set(process.permutations) == brute_force(names, sets)
        assert sorted(itertools.chain.from_iterable(process.groups)) == list(range(len(kinds)))


@pytest.mark.parametrize("name", SHIPPED)
def test_yaml_gives_the_grammar_back(name: str, tmp_path: Path) -> None:
    topology = Topology.shipped(name)
    path = tmp_path / "grammar.yaml"
    path.write_text(topology.to_yaml(), encoding="utf-8")
    assert Topology.from_file(path) == topology
    assert Topology.from_dict(topology.to_dict()) == topology


def test_published_pretraining() -> None:
    topology = Topology.published()
    assert topology.heads == ("HadronicTop", "LeptonicTop", "DiObjectDecay", "SingleVisibleDecay")
    assert [len(topology.resonance(kind).daughters) for kind in topology.kinds] == [3, *[2] * 8, *[1] * 3]
    assert len(topology.segments) == 8
    assert sum(len(process.resonances) for process in topology.processes) == 56
    assert topology.max_multiplicity == 2
    assert topology.process("ttZ_Leptonic").groups == ((0, 1), (2,))
    orders = {kind: topology.resonance(kind).order for kind in topology.kinds}
    assert {kind for kind, order in orders.items() if order == 2} == {
        "t/bqq", "W/qq", "W+/qq", "W-/qq", "Z/qq", "Z/ll",
    }  # fmt: skip


def test_four_interchangeable_daughters() -> None:
    assert Resonance("x", ("a", "b", "c", "d"), (("a", "b"), ("c", "d"))).permutations == (
        (0, 1, 2, 3),
        (0, 1, 3, 2),
        (1, 0, 2, 3),
        (1, 0, 3, 2),
    )
    assert Resonance("x", ("a", "b", "c", "d"), (("d", "b", "a", "c"),)).order == 24


def test_order_of_names_in_a_set_means_nothing() -> None:
    one = Resonance("x", ("a", "b", "c"), (("a", "b", "c"),), head="shared")
    two = Resonance("y", ("a", "b", "c"), (("a", "c", "b"),), head="shared")
    assert one.permutations == two.permutations
    assert Topology((one, two)).heads == ("shared",)


def test_properties_and_defaults() -> None:
    resonance = Resonance("W/l", ("l",), mass=80.4, spin=1, leptons=1, charge=-1)
    assert resonance.properties == (80.4, 1.0, 0.0, 0.0, 1.0, -1.0)
    assert resonance.head == "W/l"
    assert resonance.permutations == ((0,),)
    assert Topology((resonance,)).max_multiplicity == 1


@pytest.mark.parametrize(
    ("daughters", "sets", "message"),
    [
        ((), (), r"resonance 'x': daughters must be one to 4 different names; found \(\)"),
        (tuple("abcde"), (), "daughters must be one to 4 different names"),
        (("a", "a"), (), r"daughters must be one to 4 different names; found \('a', 'a'\)"),
        (("a", "b"), (("a", "c"),), r"interchangeable must hold every one of \('a', 'b'\) at most once"),
        (("a", "b"), (("a", "b"), ("b", "a")), "at most once; found"),
    ],
)
def test_impossible_resonances(daughters: tuple[str, ...], sets: tuple[tuple[str, ...], ...], message: str) -> None:  # fmt: skip
    with pytest.raises(TopologyError, match=message):
        Resonance("x", daughters, sets)


def test_impossible_topologies() -> None:
    other = Resonance("W/qq", ("q1", "q2"), (("q1", "q2"),), head="t/bqq")
    with pytest.raises(TopologyError, match="process 'TT' repeats a name: \\['t', 't'\\]"):
        Process("TT", (("t", "t/bqq"), ("t", "t/bqq")))
    with pytest.raises(TopologyError, match="resonance t/bqq is there more than once"):
        Topology((DECAY, DECAY))
    with pytest.raises(TopologyError, match="process TT is there more than once"):
        Topology((DECAY,), (Process("TT", ()), Process("TT", ())))
    with pytest.raises(TopologyError, match="process 'TT' has unknown resonance t/bl; there are t/bqq"):
        Topology((DECAY,), (Process("TT", (("t", "t/bl"),)),))
    with pytest.raises(TopologyError, match="resonances t/bqq, W/qq share the head 't/bqq' but differ"):
        Topology((DECAY, other))
    lone = Resonance("t/bl", ("b", "l1", "l2"), head="t/bqq")
    with pytest.raises(TopologyError, match="differ in number or symmetry of their daughters"):
        Topology((DECAY, lone))


def test_unknown_names() -> None:
    topology = Topology.shipped("bbww")
    with pytest.raises(TopologyError, match="there is no resonance 't'; there are Y/bb, W/qq"):
        topology.resonance("t")
    with pytest.raises(TopologyError, match="there is no process 'TT'; there are XYH, TT1L"):
        topology.process("TT")
    with pytest.raises(FileError, match=r"no event grammar 'ttbar'.*there are bbww, dimuon, higgs_to_4b"):
        Topology.shipped("ttbar")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "topology is not valid YAML: "),
        ("- a", r"topology must be a mapping; found \['a'\]"),
        ("{resonances: {}, proceses: {}}", "topology has unknown key proceses; allowed are resonances, processes"),
        ("processes: {}", "resonances must be a mapping; found None"),
        ("resonances: {x: [a]}", r"resonance 'x' must be a mapping; found \['a'\]"),
        ("resonances: {x: {mass: 1}}", "resonance 'x' lacks daughters"),
        ("resonances: {x: {daughters: [a], colour: 3}}", "resonance 'x' has unknown key colour; allowed are daughters"),
        ("resonances: {x: {daughters: a}}", "resonance 'x': daughters must be a list of names; found 'a'"),
        ("resonances: {x: {daughters: [1]}}", "daughters must be a list of names"),
        ("resonances: {x: {daughters: [a], mass: heavy}}", "resonance 'x': mass must be a number; found 'heavy'"),
        ("resonances: {x: {daughters: [a], spin: true}}", "spin must be a number; found True"),
        ("resonances: {x: {daughters: [a], head: 3}}", "head must be a name; found 3"),
        ("resonances: {x: {daughters: [a, b], interchangeable: [a, b]}}", "must be a list of lists of names"),
        ("resonances: {x: {daughters: [a, b], interchangeable: [[1, 2]]}}", "must be a list of lists of names"),
        ("{resonances: {x: {daughters: [a]}}, processes: {P: [x]}}", r"process 'P' must be a mapping; found \['x'\]"),
        ("{resonances: {x: {daughters: [a]}}, processes: {P: {r: 3}}}", "process 'P' has unknown resonance 3"),
        ("resonances: {x: {daughters: [a]}, x: {daughters: [b]}}", "topology is not valid YAML: .*'x' twice"),
        ("resonances: {x.y: {daughters: [a]}}", "resonance 'x.y': head must be a name without dots; found 'x.y'"),
    ],
)  # fmt: skip
def test_impossible_yaml(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=f"(?s){message}"):
        Topology.from_yaml(text)
    path = tmp_path / "grammar.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TopologyError, match=r"grammar.yaml: "):
        Topology.from_file(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EveNetError, match=r"cannot read the topology .*nothing.yaml: "):
        Topology.from_file(tmp_path / "nothing.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("# Präambel".encode("latin-1"))
    with pytest.raises(TopologyError, match=r"cannot read the topology .*latin.yaml: "):
        Topology.from_file(path)
