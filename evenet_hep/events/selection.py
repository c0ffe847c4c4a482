"""Object and event selections of the four analyses, on awkward collections.

============================  ==============================================================================
:func:`select_bbww`           X -> bbWW -> bb l nu qq: identification, overlap removal, one lepton, topness
:func:`select_haa4b`          H -> aa -> 4b: jet and b-jet multiplicities
:func:`select_tt2l`           tt -> 2l: two opposite-sign leptons and two b jets (spin correlations)
:func:`select_tt2l_training`  the wider choice of objects that the network of that study is trained on
:func:`select_dimuon`         anti-isolated muon pairs below 16 GeV (anomaly detection)
============================  ==============================================================================

Every function takes collections, not events, so that corrected or shifted objects go through unchanged. It returns
the selected collections of *all* events and, beside them, one bool per event and cut; nothing is dropped until the
caller writes ``events[selection.passed]``. Cuts are strict: an object exactly on a boundary fails, except for the
dimuon cuts, which are inclusive as in the CMS Open Data analysis they come from.
"""

from __future__ import annotations

from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.bbww_selection import (
    DEEPFLAVOUR_WORKING_POINT,
    MAX_DELTA_R_LEPTON_JET,
    MIN_TOPNESS,
    BbwwCuts,
    BbwwIdentification,
    BbwwSelection,
    select_bbww,
)
from evenet_hep.events.flat import count_objects, hardest, is_true
from evenet_hep.events.observables import (
    MOMENTUM,
    BoolArray,
    FloatArray,
    event_column,
    event_flags,
    flat_objects,
    require_objects,
)
from evenet_hep.kinematics.vectors import invariant_mass

__all__ = [
    "DEEPFLAVOUR_WORKING_POINT",
    "DIMUON_REGIONS",
    "DIMUON_WINDOW",
    "MAX_DELTA_R_LEPTON_JET",
    "MIN_TOPNESS",
    "BbwwCuts",
    "BbwwIdentification",
    "BbwwSelection",
    "DimuonSelection",
    "Haa4bSelection",
    "Tt2lSelection",
    "Tt2lTrainingSelection",
    "select_bbww",
    "select_dimuon",
    "select_haa4b",
    "select_tt2l",
    "select_tt2l_training",
]

DIMUON_WINDOW = (5.0, 16.0)  # GeV
DIMUON_REGIONS = {"SBL": (5.0, 9.0), "SR": (9.0, 10.6), "SBH": (10.6, 16.0)}  # GeV, open intervals


class Haa4bSelection(NamedTuple):
    """What :func:`select_haa4b` finds.

    Parameters
    ----------
    jets : ak.Array of lists
        Jets with pT > 30 GeV.
    bjets : ak.Array of lists
        b jets with pT > 20 GeV.
    passed : bool array, shape (n_events,)
        At least four such jets, three such b jets, and a sub-leading b jet above 30 GeV.
    """

    jets: ak.Array
    bjets: ak.Array
    passed: BoolArray


def select_haa4b(jets: ak.Array, bjets: ak.Array) -> Haa4bSelection:
    """Jets and events of the search for H -> aa -> 4b.

    Parameters
    ----------
    jets, bjets : ak.Array of lists of records
        All jets, and those of them that are b-tagged, with ``pt`` in GeV. They are counted independently.

    Returns
    -------
    Haa4bSelection
        At least four jets above 30 GeV, at least three b jets above 20 GeV, at least two b jets above 30 GeV.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Notes
    -----
    EveNet paper, Sec. IV.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.zip({"pt": [[50.0, 40.0, 31.0, 30.5, 25.0], [50.0, 40.0, 31.0, 30.0]]})
    >>> bjets = ak.zip({"pt": [[50.0, 30.5, 25.0], [50.0, 40.0, 31.0]]})
    >>> select_haa4b(jets, bjets).passed
    array([ True, False])
    """
    jets = require_objects("jets", jets, ["pt"])
    bjets = require_objects("bjets", bjets, ["pt"])
    jets = jets[jets["pt"] > 30.0]
    bjets = bjets[bjets["pt"] > 20.0]
    passed = (
        (count_objects(jets) >= 4)
        & (count_objects(bjets) >= 3)
        & (count_objects(bjets[bjets["pt"] > 30.0]) >= 2)
    )
    return Haa4bSelection(jets, bjets, passed)


class Tt2lSelection(NamedTuple):
    """What :func:`select_tt2l` finds.

    Parameters
    ----------
    leptons, bjets : ak.Array of lists
        Those with pT > 25 GeV and abs(eta) < 2.5.
    two_leptons, opposite_sign, two_bjets : bool array, shape (n_events,)
        Exactly two such leptons; exactly two, of opposite charge; at least two such b jets.
    passed : bool array, shape (n_events,)
        All of these.
    """

    leptons: ak.Array
    bjets: ak.Array
    two_leptons: BoolArray
    opposite_sign: BoolArray
    two_bjets: BoolArray
    passed: BoolArray


def select_tt2l(leptons: ak.Array, bjets: ak.Array) -> Tt2lSelection:
    """Leptons, b jets and events of the measurement of spin correlations in tt -> 2l.

    Parameters
    ----------
    leptons : ak.Array of lists of records
        Electrons and muons together, with ``pt`` in GeV, ``eta`` and ``charge``.
    bjets : ak.Array of lists of records
        b-tagged jets, with ``pt`` in GeV and ``eta``.

    Returns
    -------
    Tt2lSelection
        Selected collections, cuts and ``passed``. The window in m(tt) is not among them: it needs the reconstruction.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Notes
    -----
    EveNet paper, Sec. V.

    Examples
    --------
    >>> import awkward as ak
    >>> leptons = ak.Array([[{"pt": 30.0, "eta": 0.1, "charge": 1}, {"pt": 26.0, "eta": -2.0, "charge": -1}]])
    >>> bjets = ak.Array([[{"pt": 60.0, "eta": 1.0}, {"pt": 25.0, "eta": 0.0}]])
    >>> found = select_tt2l(leptons, bjets)
    >>> found.opposite_sign, found.two_bjets
    (array([ True]), array([False]))
    """
    leptons = require_objects("leptons", leptons, ["pt", "eta", "charge"])
    bjets = require_objects("bjets", bjets, ["pt", "eta"])
    leptons = leptons[(leptons["pt"] > 25.0) & (abs(leptons["eta"]) < 2.5)]
    bjets = bjets[(bjets["pt"] > 25.0) & (abs(bjets["eta"]) < 2.5)]
    two_leptons = count_objects(leptons) == 2
    # Both signs present: a sum of zero would also accept two neutral objects.
    charges = leptons["charge"]
    both_signs = ak.to_numpy(ak.any(charges > 0, axis=1) & ak.any(charges < 0, axis=1))
    two_bjets = count_objects(bjets) >= 2
    opposite_sign = two_leptons & both_signs
    return Tt2lSelection(leptons, bjets, two_leptons, opposite_sign, two_bjets, opposite_sign & two_bjets)


class Tt2lTrainingSelection(NamedTuple):
    """What :func:`select_tt2l_training` finds: up to four leptons, four b jets and six other jets, pT-ordered.

    Parameters
    ----------
    leptons, bjets, other_jets : ak.Array of lists
        The hardest objects of each event.
    """

    leptons: ak.Array
    bjets: ak.Array
    other_jets: ak.Array


def select_tt2l_training(leptons: ak.Array, jets: ak.Array, *, is_bjet: ak.Array) -> Tt2lTrainingSelection:
    """The objects that the network of the tt -> 2l measurement is trained on.

    Parameters
    ----------
    leptons, jets : ak.Array of lists of records
        With ``pt`` in GeV.
    is_bjet : ak.Array of lists of bool
        True for b-tagged jets.

    Returns
    -------
    Tt2lTrainingSelection
        Leptons with pT > 10 GeV and jets with pT > 20 GeV; at most four leptons, four b jets and six other jets, the
        hardest first. No event is cut.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Notes
    -----
    EveNet paper, Sec. V.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.Array([[{"pt": 25.0}, {"pt": 60.0}, {"pt": 20.0}]])
    >>> found = select_tt2l_training(jets[:, :0], jets, is_bjet=ak.Array([[False, True, True]]))
    >>> found.bjets.to_list(), found.other_jets.to_list()
    ([[{'pt': 60.0}]], [[{'pt': 25.0}]])
    """
    leptons = require_objects("leptons", leptons, ["pt"])
    jets = require_objects("jets", jets, ["pt"])
    hard = jets["pt"] > 20.0
    return Tt2lTrainingSelection(
        leptons=hardest(leptons[leptons["pt"] > 10.0], 4),
        bjets=hardest(jets[hard & is_bjet], 4),
        other_jets=hardest(jets[hard & ~is_bjet], 6),
    )


class DimuonSelection(NamedTuple):
    """What :func:`select_dimuon` finds.

    Parameters
    ----------
    muons : ak.Array of lists
        The pair of each event, harder muon first: the two hardest tight muons, filled up with the hardest others (such
        an event does not pass).
    mass : float64 array, shape (n_events,)
        Invariant mass of the pair in GeV; NaN where there are fewer than two muons.
    channel : str array, shape (n_events,)
        ``"OS"`` or ``"SS"`` for opposite or same sign, ``"none"`` without a pair.
    region : str array, shape (n_events,)
        ``"SBL"`` (5, 9), ``"SR"`` (9, 10.6), ``"SBH"`` (10.6, 16) GeV, open intervals; else ``"none"``.
    passed : bool array, shape (n_events,)
        Trigger, both muons tight and not isolated, pT and mass window; whatever the charges and the region.
    """

    muons: ak.Array
    mass: FloatArray
    channel: npt.NDArray[np.str_]
    region: npt.NDArray[np.str_]
    passed: BoolArray


def select_dimuon(
    muons: ak.Array,
    trigger: npt.ArrayLike | ak.Array,
    *,
    mass: npt.ArrayLike | ak.Array | None = None,
    tight: str = "tightId",
    isolation: str = "pfRelIso04_all",
) -> DimuonSelection:
    """Anti-isolated muon pairs around the Upsilon resonances.

    Both muons tight, with relative isolation of at least 0.55; pT of at least 17 and 8 GeV; mass from 5 to 16 GeV
    (inclusive).

    Parameters
    ----------
    muons : ak.Array of lists of records
        With ``pt``, ``charge`` and the fields named below; ``eta``, ``phi`` and ``mass`` too unless the pair's mass is
        given. GeV and radians.
    trigger : bool array, one per event
        The study used HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx on the DoubleMuon data of 2016H.
    mass : array, one number per event, optional
        Mass of the pair in GeV, where it is known already.
    tight, isolation : str
        Fields with the tight identification and the relative isolation in a cone of 0.4.

    Returns
    -------
    DimuonSelection
        Pair, mass, channel, region and ``passed``.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Notes
    -----
    EveNet paper, Sec. VI, after the dimuon search in CMS Open Data.

    Examples
    --------
    >>> import awkward as ak
    >>> muons = ak.Array([[
    ...     {"pt": 20.0, "eta": 0.1, "phi": 0.0, "mass": 0.1057, "charge": 1, "tightId": True, "pfRelIso04_all": 0.8},
    ...     {"pt": 15.0, "eta": 0.5, "phi": 0.4, "mass": 0.1057, "charge": -1, "tightId": True, "pfRelIso04_all": 0.6},
    ... ]])
    >>> found = select_dimuon(muons, [True])
    >>> found.mass.round(1), found.channel, found.region, found.passed
    (array([9.8]), array(['OS'], dtype='<U4'), array(['SR'], dtype='<U4'), array([ True]))
    """
    needed = ["pt", "charge", tight, isolation]
    muons = require_objects("muons", muons, needed if mass is not None else [*needed, "eta", "phi", "mass"])
    pair = _dimuon_pair(muons, tight)
    pair_mass = _pair_mass(pair) if mass is None else event_column("mass", mass, len(muons))
    has_pair = count_objects(pair) == 2
    leading = ak.to_numpy(ak.fill_none(ak.max(pair["pt"], axis=1), 0.0))
    good = (pair["pt"] >= 8.0) & (pair[isolation] >= 0.55) & is_true(pair[tight])
    passed = (
        has_pair
        & event_flags("trigger", trigger, len(muons))
        & ak.to_numpy(ak.all(good, axis=1))
        & (leading >= 17.0)
    )
    same_sign = ak.to_numpy(ak.prod(pair["charge"], axis=1) > 0)
    region = np.full(len(pair_mass), "none", dtype="<U4")
    for name, (low, high) in DIMUON_REGIONS.items():
        region[(pair_mass > low) & (pair_mass < high) & has_pair] = name
    return DimuonSelection(
        muons=pair,
        mass=pair_mass,
        channel=np.where(has_pair, np.where(same_sign, "SS", "OS"), "none"),
        region=region,
        passed=passed & (pair_mass >= DIMUON_WINDOW[0]) & (pair_mass <= DIMUON_WINDOW[1]),
    )


def _dimuon_pair(muons: ak.Array, tight: str) -> ak.Array:
    by_pt = muons[ak.argsort(muons["pt"], axis=1, ascending=False, stable=True)]
    order = ak.argsort(ak.values_astype(by_pt[tight], np.int8), axis=1, ascending=False, stable=True)
    return by_pt[order][:, :2]


def _pair_mass(pair: ak.Array) -> FloatArray:
    flat = flat_objects("muons", pair, MOMENTUM)
    first = flat.offsets[:-1][np.diff(flat.offsets) == 2]
    mass = np.full(len(pair), np.nan)
    pt, eta, phi, rest = (np.stack([column[first], column[first + 1]]) for column in flat.columns)
    mass[np.diff(flat.offsets) == 2] = invariant_mass(pt, eta, phi, rest)
    return mass
