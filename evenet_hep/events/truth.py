"""Labels of simulated events: from the generated particles of NanoAOD to what the heads of a network are trained on.

========================  ============================================================================================
question                  answer
========================  ============================================================================================
Which process is it?      The first that fits: its resonances are there with its decays, none inside another, and no
                          other t, W, Z, Higgs or new boson is, but below them or, scalars alone, above. Else -1.
Which W of which Higgs?   Processes with an origin (``HWW_*``) want all resonances from it and are tried first.
What is a lepton?         An electron, a muon or, unless ``taus`` says otherwise, a tau of a resonance.
Which object is it?       Pairs of daughter and object by increasing Delta R, each once; leptons by flavour and charge,
                          quarks and gluons as jets. -1 if no object is left within reach.
What is invisible?        The neutrinos of each leptonic decay together, those of its tau included; neutrinos before
                          antineutrinos, then by resonance.
In which order?           Interchangeable resonances and daughters: particle before antiparticle, then as generated.
========================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.decay_patterns import decay_patterns
from evenet_hep.events.decays import TAU, Decays, find_decays
from evenet_hep.events.gen_particles import read_gen_particles
from evenet_hep.events.labels import EventLabels
from evenet_hep.events.process_search import TAUS, FoundProcesses, find_processes
from evenet_hep.events.truth_matching import (
    ELECTRON,
    IGNORED,
    JET,
    LEPTON,
    MUON,
    PHOTON,
    Invisible,
    find_invisible,
    find_targets,
    match_targets,
)
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

OBJECT_KINDS: Mapping[str, int] = {
    "electron": ELECTRON,
    "muon": MUON,
    "tau": TAU,
    "lepton": LEPTON,
    "jet": JET,
    "photon": PHOTON,
    "ignored": IGNORED,
}


class TruthLabels(NamedTuple):
    """Labels of many events and how they came about.

    Attributes
    ----------
    labels : EventLabels
        For files and training; slots are those of the cloud.
    pdg_id : int32 array, shape (n, S)
        What each resonance is; 0 where there is none.
    momentum : float32 array, shape (n, S, 4)
        Generated pt, eta, phi and mass of each resonance, after recoil and before decay; GeV and radians, NaN where
        there is none.
    gen_resonance : int32 array, shape (n, S)
        Position of the last copy of each resonance in GenPart; -1 where there is none or the generator left it out.
    gen_daughter : int32 array, shape (n, S, K)
        Position of each daughter in GenPart, before it radiates; -1 where there is none.
    from_tau : bool array, shape (n, S, K)
        True for daughters that are taus.
    n_invisible : int16 array, shape (n,)
        Invisible particles there are; more than ``labels.invisible`` has room for if ``max_invisible`` is too small.
    """

    labels: EventLabels
    pdg_id: npt.NDArray[np.int32]
    momentum: npt.NDArray[np.float32]
    gen_resonance: npt.NDArray[np.int32]
    gen_daughter: npt.NDArray[np.int32]
    from_tau: npt.NDArray[np.bool_]
    n_invisible: npt.NDArray[np.int16]

    @property
    def is_matched(self) -> npt.NDArray[np.bool_]:
        """True for resonances all of whose daughters were reconstructed, shape (n, S)."""
        there = self.gen_daughter >= 0
        is_lost = there & (self.labels.indices < 0)
        complete: npt.NDArray[np.bool_] = np.logical_and(there.any(axis=2), ~is_lost.any(axis=2))
        return complete


def label_events(
    events: ak.Array,
    cloud: EventCloud,
    topology: Topology,
    *,
    delta_r: float = 0.4,
    lepton_delta_r: float = 0.1,
    candidates: Sequence[str] | None = None,
    taus: Literal["all", "leptonic", "none"] = "all",
    particles: Mapping[str, Sequence[int]] | None = None,
    origins: Mapping[str, str] | None = None,
    object_kinds: Mapping[str, str] | None = None,
    max_invisible: int = 2,
) -> TruthLabels:
    """Process, assignment and invisible particles of simulated events.

    Parameters
    ----------
    events : ak.Array
        NanoEvents (eager or virtual), records of the same structure or a flat table, with ``GenPart``; the events the
        cloud was built from, in the same order.
    cloud : EventCloud
        With the object features ``eta`` and ``phi``; with ``charge``, leptons are matched by charge.
    topology : Topology
        Processes to look for. See :mod:`evenet_hep.events.decay_patterns` for what the names in it mean.
    delta_r : float
        Largest Delta R between a quark, gluon or hadronic tau and its object.
    lepton_delta_r : float
        The same for electrons, muons and photons.
    candidates : sequence of str, optional
        Names of the processes to try, for samples of which one knows what they are; all by default. With an empty list
        every event is -1 and no generated particles are read.
    taus : {"all", "leptonic", "none"}
        Which taus count as leptons: all (those that decay to hadrons are found only in a collection of taus), those
        that decay to an electron or muon, or none.
    particles : mapping of str to sequence of int, optional
        PDG numbers of particles named in the topology, as in ``{"a": [9000006]}``.
    origins : mapping of str to str, optional
        Process -> particle that all its resonances must come from; by default a Higgs boson for ``HWW_*``.
    object_kinds : mapping of str to str, optional
        Collection of the cloud -> ``"electron"``, ``"muon"``, ``"tau"``, ``"lepton"`` (of either flavour), ``"jet"``,
        ``"photon"`` or ``"ignored"``. By default what its name contains; a cloud of plain records needs the feature
        ``is_lepton``.
    max_invisible : int
        Invisible particles per event.

    Returns
    -------
    TruthLabels

    Raises
    ------
    InputError
        For a missing field, named with the near misses, events that do not belong to the cloud, and collections of
        unknown kind.
    TopologyError
        For candidates that are not in the topology and names that mean nothing in the tree of particles.

    Examples
    --------
    >>> import uproot
    >>> from evenet_hep import EventSchema
    >>> from evenet_hep.share import sample_files
    >>> events = uproot.open(sample_files()["ttbar MC"])["Events"].arrays(
    ...     filter_name=["GenPart_*", "Electron_*", "Muon_*", "Jet_*", "PuppiMET_*"])
    >>> truth = label_events(events, EventCloud.from_awkward(events, EventSchema.published()), Topology.published())
    >>> is_semileptonic = truth.labels.process == 0  # TT1L, the first of the published processes
    >>> int(is_semileptonic.sum()), truth.is_matched[is_semileptonic, :2].mean(axis=0).round(2)
    (194, array([0.72, 0.62]))
    """
    if len(events) != len(cloud):
        msg = f"events and cloud must be of the same events; found {len(events)} and {len(cloud)}"
        raise InputError(msg)
    if not (delta_r > 0 and lepton_delta_r > 0):
        msg = f"delta_r and lepton_delta_r must be positive; found {delta_r} and {lepton_delta_r}"
        raise InputError(msg)
    if taus not in TAUS:
        msg = f"taus must be one of {', '.join(TAUS)}; found {taus!r}"
        raise InputError(msg)
    patterns = decay_patterns(topology, candidates=candidates, particles=particles, origins=origins)
    kind, charge, eta, phi = _objects(cloud, object_kinds or {})
    tree = read_gen_particles(events if len(patterns.candidates) else _nothing(len(events)))
    decays = find_decays(tree, heavy=patterns.heavy)
    found = find_processes(tree, decays, patterns, taus=TAUS.index(taus))
    targets = find_targets(tree, found)
    indices = match_targets(targets, kind, charge, eta, phi, delta_r=delta_r, lepton_delta_r=lepton_delta_r)
    invisible = find_invisible(tree, decays, found, max_invisible)
    features = _invisible_features(invisible, cloud.schema)
    mask = np.arange(max_invisible) < invisible.n_found[:, None]
    pdg_id, momentum, gen_resonance = _resonances(decays, found)
    return TruthLabels(
        EventLabels(found.process, indices, features, mask),
        pdg_id,
        momentum,
        gen_resonance,
        found.daughter,
        targets.from_tau,
        invisible.n_found,
    )


def _nothing(n_events: int) -> ak.Array:
    """Events without generated particles."""
    names = ("pt", "eta", "phi", "mass", "pdgId", "genPartIdxMother", "statusFlags")
    empty = ak.zip({name: ak.unflatten(np.empty(0, np.int32), np.zeros(n_events, int)) for name in names})
    return ak.zip({"GenPart": empty}, depth_limit=1)


def _objects(
    cloud: EventCloud, object_kinds: Mapping[str, str]
) -> tuple[
    npt.NDArray[np.int16],
    npt.NDArray[np.int8] | None,
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
]:
    """Kind, charge and direction of the object in every slot."""
    names = cloud.schema.object_names
    for needed in ("eta", "phi"):
        if needed not in names:
            msg = f"matching needs the object feature {needed!r}; the schema has {', '.join(names)}"
            raise InputError(msg)
    columns = {name: cloud.objects[..., i] for i, name in enumerate(names)}
    if unknown := sorted(set(object_kinds) - set(cloud.collections)):
        msg = f"object_kinds holds {', '.join(unknown)}; the cloud has {', '.join(cloud.collections)}"
        raise InputError(msg)
    if cloud.collections == ("objects",) and "objects" not in object_kinds:
        if "is_lepton" not in names:
            msg = f"objects of one collection need the feature 'is_lepton'; the schema has {', '.join(names)}"
            raise InputError(msg)
        kind = np.where(columns["is_lepton"] > 0.5, LEPTON, JET)
    else:
        kinds = [_kind(name, object_kinds.get(name)) for name in cloud.collections]
        kind = np.array([*kinds, IGNORED])[cloud.index["collection"]]  # -1 takes the last
    charge = np.rint(columns["charge"]).astype(np.int8) if "charge" in names else None
    return np.where(cloud.mask, kind, IGNORED).astype(np.int16), charge, columns["eta"], columns["phi"]


def _kind(collection: str, given: str | None) -> int:
    if given is not None:
        if given not in OBJECT_KINDS:
            msg = f"object_kinds[{collection!r}] must be one of {', '.join(OBJECT_KINDS)}; found {given!r}"
            raise InputError(msg)
        return OBJECT_KINDS[given]
    for name, kind in OBJECT_KINDS.items():
        if name in collection.lower():
            return kind
    msg = f"the kind of collection {collection!r} is not clear; give object_kinds={{{collection!r}: ...}} as one of {', '.join(OBJECT_KINDS)}"
    raise InputError(msg)


def _invisible_features(invisible: Invisible, schema: EventSchema) -> npt.NDArray[np.float32]:
    """The features of ``schema.invisible`` of momenta; zero where there is none."""
    x, y, z, energy = np.moveaxis(invisible.momentum, -1, 0)
    pt = np.hypot(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.where(pt > 0, np.arcsinh(z / pt), 0.0)
    mass = np.sqrt(np.maximum(energy**2 - x**2 - y**2 - z**2, 0.0))
    known = {
        "pt": pt,
        "eta": eta,
        "phi": np.arctan2(y, x),
        "energy": energy,
        "mass": mass,
        "px": x,
        "py": y,
        "pz": z,
    }
    if unknown := [name for name in schema.invisible_names if name not in known]:
        msg = f"invisible features can be {', '.join(known)}; the schema wants {', '.join(unknown)}"
        raise InputError(msg)
    features = np.empty((*pt.shape, len(schema.invisible)), np.float32)
    for i, name in enumerate(schema.invisible_names):
        features[..., i] = known[name]
    return features


def _resonances(
    decays: Decays, found: FoundProcesses
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """PDG number, momentum and position in GenPart of every resonance."""
    there = found.resonance >= 0
    flat = (decays.offsets[:-1, None] + found.resonance)[there]
    pdg_id = np.zeros(there.shape, np.int32)
    momentum = np.full((*there.shape, 4), np.nan, np.float32)
    position = np.full(there.shape, -1, np.int32)
    pdg_id[there], momentum[there], position[there] = (
        decays.pdg_id[flat],
        decays.momentum[flat],
        decays.particle[flat],
    )
    return pdg_id, momentum, position
