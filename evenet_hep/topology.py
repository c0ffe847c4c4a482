"""Event grammar: which resonances a process has, what they decay to, and what may be exchanged.

A :class:`Resonance` is a kind of decay such as t -> b q q; a :class:`Process` is a list of them, by name. Everything
that follows from them, which objects may be swapped without changing an event, is derived and never written twice:

* daughters of one resonance are exchanged within the sets in ``interchangeable``,
* resonances of one process are exchanged if they are of the same kind.

As YAML, with one line per resonance and per process:

.. code-block:: yaml

    resonances:
      t/bqq: {daughters: [b, q1, q2], interchangeable: [[q1, q2]], head: HadronicTop,
              mass: 172.5, spin: 0.5, b_jets: 1, jets: 3, leptons: 0, charge: 0, segment: hadronic top}
      t/bl: {daughters: [b, l], head: LeptonicTop, mass: 172.5, spin: 0.5, b_jets: 1, jets: 1, leptons: 1}
    processes:
      TT1L: {t1: t/bqq, t2: t/bl}
      TTHadronics: {t1: t/bqq, t2: t/bqq}
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evenet_hep.errors import ConfigError
from evenet_hep.share import topology_file

PROPERTIES = ("mass", "spin", "b_jets", "jets", "leptons", "charge")
MAX_DAUGHTERS = 4  # the assignment tensor has one axis per daughter


class TopologyError(ConfigError):
    """A grammar with an unknown key, a name that is not there, or a symmetry that cannot be."""


@dataclasses.dataclass(frozen=True)
class Resonance:
    """A kind of decay that is found by one distribution over objects per daughter.

    Parameters
    ----------
    name : str
        As in ``t/bqq``.
    daughters : sequence of str
        Names of the visible daughters, in the order of the axes of the assignment; one to four.
    interchangeable : sequence of sequences of str
        Sets of daughters that cannot be told apart.
    head : str
        Resonances with the same head share its weights; they must have the same number of daughters and the same
        interchangeable ones. Empty gives the resonance a head of its own.
    mass : float
        In GeV. With the following ones it tells resonances of one head apart.
    spin : float
        In units of hbar.
    b_jets, jets, leptons : float
        Numbers of b jets, of all jets and of charged leptons among the daughters.
    charge : float
        Charge of the lepton if it is told apart by it, else 0.
    segment : str
        What its objects are called in the segmentation; empty leaves it out.

    Examples
    --------
    >>> top = Resonance("t/bqq", ("b", "q1", "q2"), (("q1", "q2"),))
    >>> top.permutations
    ((0, 1, 2), (0, 2, 1))
    >>> top.order
    2
    """

    name: str
    daughters: tuple[str, ...]
    interchangeable: tuple[tuple[str, ...], ...] = ()
    head: str = ""
    mass: float = 0.0
    spin: float = 0.0
    b_jets: float = 0.0
    jets: float = 0.0
    leptons: float = 0.0
    charge: float = 0.0
    segment: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "daughters", tuple(self.daughters))
        object.__setattr__(self, "interchangeable", tuple(tuple(names) for names in self.interchangeable))
        object.__setattr__(self, "head", self.head or self.name)
        where = f"resonance {self.name!r}"
        if not 1 <= len(self.daughters) <= MAX_DAUGHTERS or len(set(self.daughters)) < len(self.daughters):
            msg = f"{where}: daughters must be one to {MAX_DAUGHTERS} different names; found {self.daughters}"
            raise TopologyError(msg)
        if "." in self.head or not self.head:  # it names a part of the network
            msg = f"{where}: head must be a name without dots; found {self.head!r}"
            raise TopologyError(msg)
        exchanged = [name for names in self.interchangeable for name in names]
        if len(set(exchanged)) < len(exchanged) or not set(exchanged) <= set(self.daughters):
            msg = (
                f"{where}: interchangeable must hold every one of {self.daughters} at most once; "
                f"found {self.interchangeable}"
            )
            raise TopologyError(msg)

    @property
    def permutations(self) -> tuple[tuple[int, ...], ...]:
        """The symmetry group: all orders of the daughters' positions that mean the same decay, identity first."""
        sets = [tuple(self.daughters.index(name) for name in names) for names in self.interchangeable]
        group = []
        for orders in itertools.product(*(itertools.permutations(places) for places in sets)):
            moved = list(range(len(self.daughters)))
            for places, order in zip(sets, orders, strict=True):
                for place, source in zip(places, order, strict=True):
                    moved[place] = source
            group.append(tuple(moved))
        return tuple(sorted(group))  # in an order that does not depend on that of the names

    @property
    def order(self) -> int:
        """Number of cells of the assignment that mean the same decay: the order of the symmetry group."""
        return math.prod(math.factorial(len(names)) for names in self.interchangeable)

    @property
    def properties(self) -> tuple[float, ...]:
        """Mass in GeV, spin, b jets, jets, leptons, lepton charge: what tells resonances of one head apart."""
        return tuple(float(getattr(self, name)) for name in PROPERTIES)


@dataclasses.dataclass(frozen=True)
class Process:
    """The resonances of one process.

    Parameters
    ----------
    name : str
        As in ``TT1L``.
    resonances : sequence of pairs of str
        Name of each resonance within the process, and its kind.

    Examples
    --------
    >>> Process("TTHadronics", (("t1", "t/bqq"), ("t2", "t/bqq"))).permutations
    ((0, 1), (1, 0))
    >>> Process("TT1L", (("t1", "t/bqq"), ("t2", "t/bl"))).permutations
    ((0, 1),)
    """

    name: str
    resonances: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "resonances", tuple((str(a), str(b)) for a, b in self.resonances))
        if len({name for name, _ in self.resonances}) < len(self.resonances):
            msg = f"process {self.name!r} repeats a name: {[name for name, _ in self.resonances]}"
            raise TopologyError(msg)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each resonance, in order."""
        return tuple(kind for _, kind in self.resonances)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Positions of resonances of the same kind, which cannot be told apart; every position is in one group."""
        kinds = dict.fromkeys(self.kinds)
        return tuple(tuple(i for i, kind in enumerate(self.kinds) if kind == each) for each in kinds)

    @property
    def permutations(self) -> tuple[tuple[int, ...], ...]:
        """All orders of the resonances that mean the same event, identity first."""
        orders = []
        for parts in itertools.product(*(itertools.permutations(group) for group in self.groups)):
            moved = list(range(len(self.resonances)))
            for group, part in zip(self.groups, parts, strict=True):
                for place, source in zip(group, part, strict=True):
                    moved[place] = source
            orders.append(tuple(moved))
        return tuple(orders)


@dataclasses.dataclass(frozen=True)
class Topology:
    """The grammar of a training set: kinds of resonances and the processes made of them.

    Parameters
    ----------
    resonances : sequence of Resonance
        In the order in which a network holds them.
    processes : sequence of Process
        In the order of process labels. May be empty.

    Raises
    ------
    TopologyError
        For repeated names, a process with an unknown kind, or resonances that share a head but differ in the number
        or the symmetry of their daughters.

    Examples
    --------
    >>> topology = Topology.published()
    >>> len(topology.resonances), len(topology.processes), topology.max_multiplicity
    (12, 26, 2)
    >>> topology.process("TT1L").kinds
    ('t/bqq', 't/bl')
    >>> Topology.from_yaml(topology.to_yaml()) == topology
    True
    """

    resonances: tuple[Resonance, ...]
    processes: tuple[Process, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "resonances", tuple(self.resonances))
        object.__setattr__(self, "processes", tuple(self.processes))
        for what, names in (("resonance", self.kinds), ("process", tuple(p.name for p in self.processes))):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                msg = f"{what} {', '.join(repeated)} is there more than once"
                raise TopologyError(msg)
        for process in self.processes:
            if unknown := sorted(set(process.kinds) - set(self.kinds)):
                listed = ", ".join(self.kinds)
                msg = (
                    f"process {process.name!r} has unknown resonance {', '.join(unknown)}; there are {listed}"
                )
                raise TopologyError(msg)
        for head in self.heads:
            shapes = {(len(r.daughters), r.permutations) for r in self.resonances if r.head == head}
            if len(shapes) > 1:
                sharing = ", ".join(r.name for r in self.resonances if r.head == head)
                msg = f"resonances {sharing} share the head {head!r} but differ in number or symmetry of their daughters"
                raise TopologyError(msg)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the resonances, in order."""
        return tuple(resonance.name for resonance in self.resonances)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that resonances share, in order of first use."""
        return tuple(dict.fromkeys(resonance.head for resonance in self.resonances))

    @property
    def max_multiplicity(self) -> int:
        """Largest number of resonances of one kind in a process; 1 if there are no processes."""
        return max((len(group) for process in self.processes for group in process.groups), default=1)

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of the segments, in order of first use."""
        return tuple(dict.fromkeys(r.segment for r in self.resonances if r.segment))

    def resonance(self, name: str) -> Resonance:
        """The resonance of that name; a :class:`TopologyError` if there is none."""
        return self.resonances[_position(name, self.kinds, "resonance")]

    def process(self, name: str) -> Process:
        """The process of that name; a :class:`TopologyError` if there is none."""
        return self.processes[_position(name, [each.name for each in self.processes], "process")]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; defaults are left out."""
        resonances = {}
        for resonance in self.resonances:
            content = {f.name: getattr(resonance, f.name) for f in dataclasses.fields(resonance)}
            defaults = {f.name: f.default for f in dataclasses.fields(resonance)} | {"head": resonance.name}
            kept = {k: v for k, v in content.items() if k != "name" and v != defaults[k]}
            if "interchangeable" in kept:
                kept["interchangeable"] = [list(names) for names in resonance.interchangeable]
            resonances[resonance.name] = kept | {"daughters": list(resonance.daughters)}
        return {"resonances": resonances, "processes": {p.name: dict(p.resonances) for p in self.processes}}

    @classmethod
    def from_dict(cls, content: object) -> Topology:
        """A grammar from such a dictionary; unknown keys are errors."""
        parts = _mapping(content, "topology")
        if unknown := sorted(set(parts) - {"resonances", "processes"}):
            msg = f"topology has unknown key {', '.join(unknown)}; allowed are resonances, processes"
            raise TopologyError(msg)
        resonances = [
            _resonance(name, entry) for name, entry in _mapping(parts.get("resonances"), "resonances").items()
        ]
        processes = [
            Process(name, tuple(_mapping(entry, f"process {name!r}").items()))
            for name, entry in _mapping(parts.get("processes", {}), "processes").items()
        ]
        return cls(tuple(resonances), tuple(processes))

    def to_yaml(self) -> str:
        """The grammar as YAML text; :meth:`from_yaml` gives it back unchanged."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=110)

    @classmethod
    def from_yaml(cls, text: str) -> Topology:
        """Read a grammar from YAML text.

        Raises
        ------
        TopologyError
            For text that is not YAML, unknown keys and names, and symmetries that cannot be.
        """
        try:
            content = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe one
        except yaml.YAMLError as error:
            msg = f"topology is not valid YAML: {error}"
            raise TopologyError(msg) from error
        return cls.from_dict(content)

    @classmethod
    def from_file(cls, path: str | Path) -> Topology:
        """Read a grammar from a YAML file; errors name the file."""
        try:
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot read the topology {path}: {error}"
            raise TopologyError(msg) from error
        except TopologyError as error:
            msg = f"{path}: {error}"
            raise TopologyError(msg) from error

    @classmethod
    def shipped(cls, name: str) -> Topology:
        """A grammar that comes with the package.

        Parameters
        ----------
        name : str
            ``"pretraining"`` (26 processes of the published pretraining), ``"bbww"`` (X -> YH -> bbWW and its
            background), ``"higgs_to_4b"`` (H -> aa -> 4b), ``"ttbar_dilepton"`` or ``"dimuon"``.

        Examples
        --------
        >>> Topology.shipped("higgs_to_4b").process("HAA4B").permutations
        ((0, 1), (1, 0))
        """
        return cls.from_file(topology_file(name))

    @classmethod
    def published(cls) -> Topology:
        """The 26 processes of the published pretraining, ``shipped("pretraining")``."""
        return cls.shipped("pretraining")


class _Loader(yaml.SafeLoader):
    """Reads plain values only; a key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (place, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"found {key!r} twice", place.start_mark)
        return super().construct_mapping(node, deep=deep)


def _position(name: str, names: Sequence[str], what: str) -> int:
    if name not in names:
        msg = f"there is no {what} {name!r}; there are {', '.join(names)}"
        raise TopologyError(msg)
    return list(names).index(name)


def _mapping(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        msg = f"{where} must be a mapping; found {content!r}"
        raise TopologyError(msg)
    return {str(key): value for key, value in content.items()}


def _resonance(name: str, content: object) -> Resonance:
    where = f"resonance {name!r}"
    entry = _mapping(content, where)
    fields = {field.name: field for field in dataclasses.fields(Resonance) if field.name != "name"}
    if unknown := sorted(set(entry) - set(fields)):
        msg = f"{where} has unknown key {', '.join(unknown)}; allowed are {', '.join(fields)}"
        raise TopologyError(msg)
    if "daughters" not in entry:
        msg = f"{where} lacks daughters"
        raise TopologyError(msg)
    for key, value in entry.items():
        _check_kind(f"{where}: {key}", key, value)
    return Resonance(name, **entry)


def _check_kind(where: str, key: str, value: object) -> None:
    if key in ("head", "segment"):
        is_right, expected = isinstance(value, str), "a name"
    elif key in PROPERTIES:
        is_right, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif key == "daughters":
        is_right, expected = (
            isinstance(value, list) and all(isinstance(v, str) for v in value),
            "a list of names",
        )
    else:
        is_right = isinstance(value, list) and all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value
        )
        expected = "a list of lists of names"
    if not is_right:
        msg = f"{where} must be {expected}; found {value!r}"
        raise TopologyError(msg)
