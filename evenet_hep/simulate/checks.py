"""What simulated files should show: masses of matched objects, tag rates, resolutions, spin correlations.

Everything is read from the written files alone, so that the same functions serve real NanoAOD with GenPart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from evenet_hep.errors import InputError
from evenet_hep.kinematics.spin import spin_angles
from evenet_hep.kinematics.vectors import invariant_mass, to_cartesian
from evenet_hep.simulate.columns import Collection
from evenet_hep.simulate.matching import nearest_within
from evenet_hep.simulate.particles import IS_LAST_COPY
from evenet_hep.simulate.spin import lo_spin_correlations

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_DELTA_R = 0.4
MIN_JET_PT = 20.0  # GeV


class SimulatedEvents(NamedTuple):
    """Files read back: collections of objects, and one array per branch with one number per event."""

    objects: dict[str, Collection]
    columns: dict[str, npt.NDArray[Any]]


class Spread(NamedTuple):
    """A distribution in three numbers.

    Parameters
    ----------
    n : int
        Entries.
    median, width : float
        Median, and half of the interval that holds the central 68 %; NaN without entries.
    """

    n: int
    median: float
    width: float


class SpinCheck(NamedTuple):
    """Spin correlations of generated top pairs with two leptons.

    Parameters
    ----------
    measured : dict of float
        ``kk``, ``rr``, ``nn`` from the decay angles, weighted.
    uncertainty : float
        Statistical, of each.
    expected : dict of float
        Mean of the leading-order coefficients of the same pairs.
    """

    measured: dict[str, float]
    uncertainty: float
    expected: dict[str, float]


def read_files(paths: Sequence[Path]) -> SimulatedEvents:
    """Everything in some files, as flat arrays."""
    arrays = uproot.concatenate([f"{path}:Events" for path in paths])
    fields = ak.fields(arrays)
    counters = {name.removeprefix("n"): name for name in fields if name.startswith("n")}
    objects: dict[str, Collection] = {}
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in fields:
        collection, _, field = name.partition("_")
        if collection in counters:
            counts = ak.to_numpy(arrays[counters[collection]]).astype(np.int64)
            found = objects.setdefault(collection, Collection(counts, {}))
            found.columns[field] = np.asarray(ak.to_numpy(ak.flatten(arrays[name], axis=1)))
        elif name not in counters.values():
            columns[name] = np.asarray(ak.to_numpy(arrays[name]))
    return SimulatedEvents(objects, columns)


def spread(values: FloatArray) -> Spread:
    """Median and half of the central 68 % interval.

    Examples
    --------
    >>> spread(np.arange(101.0))
    Spread(n=101, median=50.0, width=34.0)
    """
    if len(values) == 0:
        return Spread(0, float("nan"), float("nan"))
    low, median, high = np.quantile(values, [0.16, 0.5, 0.84])
    return Spread(len(values), float(median), float((high - low) / 2.0))


class DecayPairs(NamedTuple):
    """Resonances that decay to two quarks: positions in the flat GenPart, one entry per resonance."""

    resonance: IntArray
    first: IntArray
    second: IntArray


def quark_pairs(particles: Collection, pdg_id: int) -> DecayPairs:
    """Decays of a resonance (of either sign) to two quarks lighter than the top."""
    code = np.abs(particles["pdgId"])
    mother = flat_mothers(particles)
    is_kid = (code >= 1) & (code <= 5) & (mother >= 0) & (code[mother] == pdg_id)
    kids = np.flatnonzero(is_kid)
    kids = kids[np.argsort(mother[kids], kind="stable")]
    parents, starts, counts = np.unique(mother[kids], return_index=True, return_counts=True)
    pairs = counts == 2
    return DecayPairs(parents[pairs], kids[starts[pairs]], kids[starts[pairs] + 1])


def flat_mothers(particles: Collection) -> IntArray:
    """Position of each particle's mother in the flat arrays; -1 without."""
    mother = particles["genPartIdxMother"].astype(np.int64)
    return np.where(mother >= 0, mother + particles.offsets[particles.event], -1)


def matched_jets(events: SimulatedEvents, partons: IntArray) -> IntArray:
    """Nearest jet of each particle within 0.4, as a position in the flat jets above 20 GeV; -1 without."""
    particles, jets = events.objects["GenPart"], good_jets(events)
    order = np.argsort(partons, kind="stable")
    counts = np.bincount(particles.event[partons], minlength=len(particles.counts))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found = np.empty(len(partons), np.int64)
    eta, phi = (particles[name][partons[order]].astype(float) for name in ("eta", "phi"))
    found[order] = nearest_within(
        offsets, eta, phi, jets.offsets, jets["eta"].astype(float), jets["phi"].astype(float), MAX_DELTA_R
    )
    return found


def good_jets(events: SimulatedEvents) -> Collection:
    """Jets above 20 GeV."""
    jets = events.objects["Jet"]
    return jets.take(jets["pt"] > MIN_JET_PT)


def dijet_masses(events: SimulatedEvents, pdg_id: int) -> FloatArray:
    """Masses of pairs of jets that match the two quarks of a W (24), Z (23), Higgs (25) or a (36), GeV."""
    pairs = quark_pairs(events.objects["GenPart"], pdg_id)
    jets = np.stack([matched_jets(events, pairs.first), matched_jets(events, pairs.second)])
    return _jet_masses(good_jets(events), jets[:, _all_different(jets)])


def top_masses(events: SimulatedEvents) -> FloatArray:
    """Masses of three jets that match the b and the two light quarks of a hadronic top, GeV."""
    particles = events.objects["GenPart"]
    mother, code = flat_mothers(particles), np.abs(particles["pdgId"])
    pairs = quark_pairs(particles, 24)
    top = pairs.resonance.copy()
    for _ in range(20):  # up the copies of the W to the top
        top = np.where((top >= 0) & (code[top] == 24), mother[top], top)
    from_top = (top >= 0) & (code[top] == 6)
    bottom_of = np.full(len(code), -1, np.int64)
    bottoms = np.flatnonzero((code == 5) & (mother >= 0) & (code[mother] == 6))
    bottom_of[mother[bottoms]] = bottoms
    complete = from_top & (bottom_of[top] >= 0)
    partons = (pairs.first[complete], pairs.second[complete], bottom_of[top[complete]])
    jets = np.stack([matched_jets(events, parton) for parton in partons])
    return _jet_masses(good_jets(events), jets[:, _all_different(jets)])


def _all_different(jets: IntArray) -> BoolArray:
    ordered = np.sort(jets, axis=0)
    distinct: BoolArray = np.all(ordered >= 0, axis=0) & np.all(np.diff(ordered, axis=0) > 0, axis=0)
    return distinct


def _jet_masses(jets: Collection, index: IntArray) -> FloatArray:
    if index.shape[1] == 0:
        return np.empty(0)
    return invariant_mass(*(jets[name][index].astype(float) for name in ("pt", "eta", "phi", "mass")))


def tag_rates(events: SimulatedEvents, threshold: float, branch: str = "btagDeepFlavB") -> dict[int, float]:
    """Fraction of jets above a b-tag threshold, by flavour (5, 4, 0); jets above 20 GeV within abs(eta) < 2.5."""
    jets = good_jets(events)
    central = np.abs(jets["eta"]) < 2.5
    flavour, tagged = jets["hadronFlavour"][central], jets[branch][central] > threshold
    return {
        value: float(np.mean(tagged[flavour == value])) for value in (5, 4, 0) if (flavour == value).any()
    }


def met_residuals(events: SimulatedEvents) -> FloatArray:
    """Measured minus true missing momentum along x and y, all in one array; GeV."""

    def vector(name: str) -> FloatArray:
        pt, phi = events.columns[f"{name}_pt"].astype(float), events.columns[f"{name}_phi"].astype(float)
        return np.concatenate([pt * np.cos(phi), pt * np.sin(phi)])

    return vector("MET") - vector("GenMET")


def dimuon_masses(events: SimulatedEvents, *, isolation: tuple[float, float] | None = None) -> FloatArray:
    """Masses of the two hardest muons where their charges differ, GeV.

    Parameters
    ----------
    events : SimulatedEvents
        With the collection Muon.
    isolation : tuple of float, optional
        Both muons must have a relative isolation (cone 0.4) between these.

    Returns
    -------
    float64 array
        One entry per such pair.
    """
    muons = events.objects["Muon"]
    if isolation is not None:
        value = muons["pfRelIso04_all"]
        muons = muons.take((value >= isolation[0]) & (value < isolation[1]))
    first = muons.offsets[:-1][muons.counts >= 2]
    index = np.stack([first, first + 1])
    opposite = muons["charge"][index].sum(axis=0) == 0
    return _jet_masses(muons, index[:, opposite])


def spin_check(events: SimulatedEvents, *, max_mass: float = np.inf, weighted: bool = True) -> SpinCheck:
    """Spin correlations of top pairs with two leptons, from generated particles.

    Parameters
    ----------
    events : SimulatedEvents
        Top pairs; events without two leptons from the tops are passed over.
    max_mass : float
        Of the top pair, GeV.
    weighted : bool
        Use the branch spinWeight.

    Returns
    -------
    SpinCheck
        Measured from C_ii = -9 <cos cos>, with its uncertainty, and expected.

    Raises
    ------
    InputError
        If no event has two leptons from two tops.
    """
    particles = events.objects["GenPart"]
    index, chosen = _top_pairs_with_leptons(particles)
    if not chosen.any():
        msg = "no event has a top pair with two leptons"
        raise InputError(msg)
    momenta = [
        np.stack(to_cartesian(*(particles[name][i].astype(float) for name in ("pt", "eta", "phi", "mass"))))
        for i in index
    ]
    angles = spin_angles(*momenta)
    weights = events.columns["spinWeight"][chosen].astype(float) if weighted else np.ones(len(angles.m_tt))
    use = angles.m_tt < max_mass
    products = -9.0 * angles.cos_plus[:, use] * angles.cos_minus[:, use]
    gluons = (events.columns["Generator_id1"] == 21) & (events.columns["Generator_id2"] == 21)
    mass = 0.5 * (particles["mass"][index[0]] + particles["mass"][index[1]]).astype(float)[use]
    beta = np.sqrt(np.clip(1.0 - 4.0 * mass**2 / angles.m_tt[use] ** 2, 0.0, 1.0))
    expected = lo_spin_correlations(beta, angles.cos_theta[use], gluons[chosen][use])
    effective = weights[use].sum() ** 2 / np.sum(weights[use] ** 2)
    return SpinCheck(
        {
            name: float(np.average(p, weights=weights[use]))
            for name, p in zip(("kk", "rr", "nn"), products, strict=True)
        },
        float(3.0 / np.sqrt(effective)),  # standard deviation of 9 x y for uncorrelated x, y is 3
        {name: float(np.mean(getattr(expected, name))) for name in ("kk", "rr", "nn")},
    )


def _top_pairs_with_leptons(particles: Collection) -> tuple[IntArray, BoolArray]:
    """Flat positions of top, antitop, l+ and l-, shape (4, n), and the events that have all four."""
    code, mother = particles["pdgId"].astype(np.int64), flat_mothers(particles)
    last = (particles["statusFlags"].astype(np.int64) & IS_LAST_COPY) > 0
    of_w = np.where(mother >= 0, code[mother], 0)
    is_lepton = np.isin(np.abs(code), (11, 13, 15))
    roles = (
        (code == 6) & last,
        (code == -6) & last,
        is_lepton & (code < 0) & (of_w == 24),
        is_lepton & (code > 0) & (of_w == -24),
    )
    index = np.full((4, len(particles.counts)), -1, np.int64)
    for row, role in zip(index, roles, strict=True):
        found = np.flatnonzero(role)[::-1]  # the first of an event is written last and stays
        row[particles.event[found]] = found
    chosen = np.all(index >= 0, axis=0)
    return index[:, chosen], chosen
