"""What the names of an event grammar mean in the tree of generated particles, as arrays for the compiled search.

``t/bl+`` is a decay of a particle ``t`` to the daughters of that resonance with a lepton of charge +1. The part before
the slash names the particle, and its sign if it has one (``W-/qq``); daughters are named with digits to tell them apart
(``q1``, ``q2``). Neutrinos are never named: they are what is left of the decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.topology import Process, Resonance, Topology, TopologyError

PARTICLES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "t": (6,),
        "W": (24,),
        "Z": (23,),
        "H": (25,),
        "a": (36, 9000006),
        "Y": (35, 36),
        "X": (553, 100553, 200553),
    }
)
FLAVOURS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "b": (5,),
        "c": (4,),
        "s": (3,),
        "d": (1,),
        "u": (2,),
        "q": (1, 2, 3, 4, 5),
        "j": (1, 2, 3, 4, 5, 21),
        "g": (21,),
        "e": (11,),
        "mu": (13,),
        "tau": (15,),
        "l": (11, 13, 15),
        "gamma": (22,),
    }
)
# A pair of W bosons is one thing, the pair that a Higgs boson decays to another.
ORIGINS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("HWW_WpHadWmHad", "HWW_WpHadWmLep", "HWW_WpLepWmHad", "HWW_WpLepWmLep"), "H")
)
_MOST_KINDS = 62  # they are bits of an int64


class DecayPatterns(NamedTuple):
    """A topology as arrays; R kinds of resonances, P processes, S resonances per process, K daughters.

    Attributes
    ----------
    particle : int32 array, shape (R, ...)
        PDG numbers that the resonance may have; 0 beyond.
    sign : int32 array, shape (R,)
        +1 particle only, -1 antiparticle only, 0 both.
    charge : int32 array, shape (R,)
        Charge of the leptons; 0 for any.
    n_daughters : int32 array, shape (R,)
    flavours : int32 array, shape (R, K)
        Bit f is set if the daughter may have PDG number +-f.
    order : int32 array, shape (R, K)
        The daughters, the most particular first.
    any_tau : bool array, shape (R, K)
        True for daughters that are taus by name.
    kinds : int32 array, shape (P, S)
        Position of the kind of each resonance of a process; -1 beyond.
    origin : int32 array, shape (P, ...)
        PDG numbers of the particle that all its resonances must come from; 0 if there is none.
    candidates : int32 array, shape (C,)
        Processes to try, in that order: those with an origin first.
    heavy : tuple of int
        All PDG numbers of resonances.
    """

    particle: npt.NDArray[np.int32]
    sign: npt.NDArray[np.int32]
    charge: npt.NDArray[np.int32]
    n_daughters: npt.NDArray[np.int32]
    flavours: npt.NDArray[np.int32]
    order: npt.NDArray[np.int32]
    any_tau: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int32]
    candidates: npt.NDArray[np.int32]
    heavy: tuple[int, ...]


def decay_patterns(
    topology: Topology,
    *,
    candidates: Sequence[str] | None = None,
    particles: Mapping[str, Sequence[int]] | None = None,
    origins: Mapping[str, str] | None = None,
) -> DecayPatterns:
    """The arrays that stand for a topology.

    Parameters
    ----------
    topology : Topology
        Resonances and processes.
    candidates : sequence of str, optional
        Names of the processes to try; all by default.
    particles : mapping of str to sequence of int, optional
        PDG numbers of the particles that resonances are named after; adds to :data:`PARTICLES`, or replaces entries.
    origins : mapping of str to str, optional
        Process -> particle that all its resonances must come from; :data:`ORIGINS` by default.

    Raises
    ------
    TopologyError
        For names of particles, daughters or processes that are not known.

    Examples
    --------
    >>> patterns = decay_patterns(Topology.shipped("ttbar_dilepton"))
    >>> patterns.particle[:, 0], patterns.charge, patterns.kinds
    (array([6, 6], dtype=int32), array([ 1, -1], dtype=int32), array([[0, 1]], dtype=int32))
    """
    known = {**PARTICLES, **(particles or {})}
    origins = ORIGINS if origins is None else origins
    if len(topology.resonances) > _MOST_KINDS:
        msg = f"truth knows at most {_MOST_KINDS} kinds of resonances; found {len(topology.resonances)}"
        raise TopologyError(msg)
    names = [process.name for process in topology.processes]
    chosen = names if candidates is None else [topology.process(name).name for name in candidates]
    chosen = sorted(dict.fromkeys(chosen), key=lambda name: name not in origins)
    ids = [_particle(resonance, known) for resonance in topology.resonances]
    from_ids = [_origin(process, origins, known) for process in topology.processes]
    n_daughters = [len(resonance.daughters) for resonance in topology.resonances]
    flavours = [
        [_flavours(resonance, name) for name in resonance.daughters] for resonance in topology.resonances
    ]
    order = [np.argsort([len(each) for each in row], kind="stable").tolist() for row in flavours]
    kinds = [[topology.kinds.index(kind) for kind in process.kinds] for process in topology.processes]
    tau = [[_flavours(r, name) == FLAVOURS["tau"] for name in r.daughters] for r in topology.resonances]
    bits = [[sum(1 << flavour for flavour in each) for each in row] for row in flavours]
    return DecayPatterns(
        _table(ids, 0),
        np.array([_sign(resonance) for resonance in topology.resonances], np.int32),
        np.array([resonance.charge for resonance in topology.resonances], np.int32),
        np.array(n_daughters, np.int32),
        _table(bits, 0),
        _table(order, 0),
        _table(tau, 0).astype(np.bool_),
        _table(kinds, -1),
        _table(from_ids, 0),
        np.array([names.index(name) for name in chosen], np.int32),
        tuple(sorted({each for row in (*ids, *from_ids) for each in row})),
    )


def _table(rows: Sequence[Sequence[int]], fill: int) -> npt.NDArray[np.int32]:
    """Rows of different lengths as one array; at least one column."""
    table = np.full((len(rows), max((len(row) for row in rows), default=0) or 1), fill, np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _head(resonance: Resonance) -> str:
    return resonance.name.split("/")[0]


def _sign(resonance: Resonance) -> int:
    return {"+": 1, "-": -1}.get(_head(resonance)[-1:], 0)


def _particle(resonance: Resonance, known: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    name = _head(resonance).rstrip("+-")
    if name not in known:
        msg = (
            f"resonance {resonance.name!r} is a decay of {name!r}, whose PDG numbers are not known; "
            f"give particles={{{name!r}: [...]}} or use one of {', '.join(known)}"
        )
        raise TopologyError(msg)
    return tuple(abs(int(each)) for each in known[name])


def _origin(
    process: Process, origins: Mapping[str, str], known: Mapping[str, Sequence[int]]
) -> tuple[int, ...]:
    name = origins.get(process.name)
    if name is None:
        return ()
    if name not in known:
        msg = f"process {process.name!r} comes from {name!r}, whose PDG numbers are not known; there are {', '.join(known)}"
        raise TopologyError(msg)
    return tuple(abs(int(each)) for each in known[name])


def _flavours(resonance: Resonance, daughter: str) -> tuple[int, ...]:
    name = daughter.rstrip("0123456789_+-")
    if name not in FLAVOURS:
        msg = (
            f"resonance {resonance.name!r}: daughter {daughter!r} is none of {', '.join(FLAVOURS)}, "
            "with digits to tell them apart"
        )
        raise TopologyError(msg)
    return FLAVOURS[name]
