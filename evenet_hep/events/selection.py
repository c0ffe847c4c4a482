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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.observables import (
    MOMENTUM,
    BoolArray,
    FloatArray,
    delta_r_to_nearest,
    event_column,
    event_flags,
    flat_objects,
    remove_overlap,
    require_objects,
    topness,
)
from evenet_hep.kinematics.topness import TopnessResult
from evenet_hep.kinematics.vectors import invariant_mass

MAX_DELTA_R_LEPTON_JET = 1.6
MIN_TOPNESS = 3.0
DEEPFLAVOUR_WORKING_POINT = 0.2489  # medium, CMS 2016 post-VFP

DIMUON_WINDOW = (5.0, 16.0)  # GeV
DIMUON_REGIONS = {"SBL": (5.0, 9.0), "SR": (9.0, 10.6), "SBH": (10.6, 16.0)}  # GeV, open intervals


@dataclass(frozen=True)
class BbwwIdentification:
    """Names of the NanoAOD branches that the identification of :func:`select_bbww` reads.

    The defaults are those of NanoAOD v9 (Run 2). A cut whose branch name is None is not made; write it out, as it is
    a decision: Run 3 has no pile-up identification of jets, for example.

    Parameters
    ----------
    electron_id : str or None
        MVA identification with isolation at 90 % efficiency; true.
    muon_id, muon_isolation : str or None
        Medium identification, true; relative isolation in a cone of 0.4, below 0.15.
    tau_vs_jet, tau_vs_electron, tau_vs_muon : str or None
        DeepTau bit masks; at least 16, 32 and 1. Later tau identifications count working points instead of setting
        bits: do not name their branches here.
    tau_decay_mode : str or None
        Below 5 or at least 10.
    jet_id, jet_pileup_id : str or None
        At least 4; equal to 7 for jets below 50 GeV.

    Examples
    --------
    >>> BbwwIdentification(electron_id="mvaIso_WP90", jet_pileup_id=None).muon_id
    'mediumId'
    """

    electron_id: str | None = "mvaFall17V2Iso_WP90"
    muon_id: str | None = "mediumId"
    muon_isolation: str | None = "pfRelIso04_all"
    tau_vs_jet: str | None = "idDeepTau2017v2p1VSjet"
    tau_vs_electron: str | None = "idDeepTau2017v2p1VSe"
    tau_vs_muon: str | None = "idDeepTau2017v2p1VSmu"
    tau_decay_mode: str | None = "decayMode"
    jet_id: str | None = "jetId"
    jet_pileup_id: str | None = "puId"


class BbwwCuts(NamedTuple):
    """Which cuts of :func:`select_bbww` each event passes, each judged on its own.

    Parameters
    ----------
    one_lepton : bool array, shape (n_events,)
        Exactly one selected electron or muon.
    tau_veto : bool array
        No selected tau.
    two_bjets, two_light : bool array
        At least two b-tagged jets; at least two light jets.
    dr_l_jnear : bool array
        Delta R of lepton and nearest light jet below 1.6.
    topness : bool array
        Topness above 3.
    """

    one_lepton: BoolArray
    tau_veto: BoolArray
    two_bjets: BoolArray
    two_light: BoolArray
    dr_l_jnear: BoolArray
    topness: BoolArray


class BbwwSelection(NamedTuple):
    """What :func:`select_bbww` finds; all arrays have one entry per event that was handed over.

    Parameters
    ----------
    electrons, muons, taus, jets : ak.Array of lists
        The user's records that pass identification and overlap removal.
    bjets, light_jets : ak.Array of lists
        ``jets`` with a b-tag score above and below the working point; a score equal to it makes neither.
    lepton : ak.Array of records
        Hardest selected electron or muon (``pt``, ``eta``, ``phi``, ``mass``); None where there is none.
    dr_l_jnear : float64 array
        Delta R of ``lepton`` and the nearest light jet; NaN where one is missing.
    topness : TopnessResult
        Of ``lepton`` and ``jets``; its indices are positions in ``jets``.
    cuts : BbwwCuts
        One bool array per cut.
    passed : bool array
        All cuts.
    """

    electrons: ak.Array
    muons: ak.Array
    taus: ak.Array
    jets: ak.Array
    bjets: ak.Array
    light_jets: ak.Array
    lepton: ak.Array
    dr_l_jnear: FloatArray
    topness: TopnessResult
    cuts: BbwwCuts
    passed: BoolArray


def select_bbww(
    electrons: ak.Array,
    muons: ak.Array,
    taus: ak.Array | None,
    jets: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    identification: BbwwIdentification | None = BbwwIdentification(),
    btag: str = "btagDeepFlavB",
    working_point: float = DEEPFLAVOUR_WORKING_POINT,
    strategy: Literal["joint", "sequential"] = "joint",
    parallel: bool = False,
) -> BbwwSelection:
    """Objects and events of the search for X -> bbWW -> bb l nu qq.

    Electrons: pT > 35 GeV, abs(eta) < 2.5. Muons: pT > 30 GeV, abs(eta) < 2.4. Taus: pT > 30 GeV, abs(eta) < 2.3. Jets:
    pT > 20 GeV, abs(eta) < 2.4. Taus within delta R <= 0.4 of a selected electron or muon are removed, then jets within
    delta R <= 0.4 of an electron, a muon or a surviving tau. Electrons and muons are not cleaned of each other.

    Parameters
    ----------
    electrons, muons, taus, jets : ak.Array of lists of records
        With ``pt``, ``eta``, ``phi`` (all) and ``mass`` (all but taus), in GeV and radians. ``taus=None`` says that the
        sample has no taus: none is vetoed.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    identification : BbwwIdentification or None
        Branches of the identification cuts; impact parameters (``dxy`` < 0.045 cm and ``dz`` < 0.2 cm for electrons
        and muons, ``dz`` < 0.2 cm for taus) come with it. None for objects that have been identified already.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float
        Jets above it are b-tagged, jets below it are light.
    strategy, parallel
        Of the topness; the published selection used ``strategy="sequential"``.

    Returns
    -------
    BbwwSelection
        Selected collections, lepton, topness, cuts and ``passed``.

    Raises
    ------
    InputError
        For a missing field, named together with what is there. ``identification=None`` needs no identification fields.

    Notes
    -----
    EveNet paper, Sec. III.

    Examples
    --------
    >>> import awkward as ak
    >>> electrons = ak.Array([[{"pt": 50.0, "eta": 0.0, "phi": 0.0, "mass": 0.0005}]])
    >>> jets = ak.Array([[{"pt": 40.0, "eta": 0.5, "phi": 0.0, "mass": 5.0, "score": 0.1},
    ...                   {"pt": 30.0, "eta": 0.4, "phi": 0.0, "mass": 5.0, "score": 0.9}]])
    >>> found = select_bbww(electrons, electrons[:, :0], None, jets, [20.0], [0.0], identification=None, btag="score")
    >>> ak.num(found.jets).to_list(), found.cuts.dr_l_jnear, found.passed
    ([1], array([ True]), array([False]))
    """
    electrons = _select_electrons(electrons, identification)
    muons = _select_muons(muons, identification)
    jets = _select_jets(jets, btag, identification)
    taus = jets[:, :0] if taus is None else _select_taus(taus, identification)
    taus = remove_overlap(taus, electrons, muons)
    jets = remove_overlap(jets, electrons, muons, taus)
    is_bjet, is_light = jets[btag] > working_point, jets[btag] < working_point
    light_jets = jets[is_light]
    lepton = _hardest_lepton(electrons, muons)
    nearest = delta_r_to_nearest(lepton, light_jets)
    top = topness(
        lepton,
        jets,
        met,
        met_phi,
        is_bjet=is_bjet,
        mask=is_bjet | is_light,
        strategy=strategy,
        parallel=parallel,
    )
    cuts = BbwwCuts(
        one_lepton=_count(electrons) + _count(muons) == 1,
        tau_veto=_count(taus) == 0,
        two_bjets=_count(jets[is_bjet]) >= 2,
        two_light=_count(light_jets) >= 2,
        dr_l_jnear=nearest < MAX_DELTA_R_LEPTON_JET,
        topness=top.topness > MIN_TOPNESS,
    )
    passed = np.logical_and.reduce(cuts)
    return BbwwSelection(
        electrons, muons, taus, jets, jets[is_bjet], light_jets, lepton, nearest, top, cuts, passed
    )


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
    passed = (_count(jets) >= 4) & (_count(bjets) >= 3) & (_count(bjets[bjets["pt"] > 30.0]) >= 2)
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
    two_leptons = _count(leptons) == 2
    # Both signs present: a sum of zero would also accept two neutral objects.
    charges = leptons["charge"]
    both_signs = ak.to_numpy(ak.any(charges > 0, axis=1) & ak.any(charges < 0, axis=1))
    two_bjets = _count(bjets) >= 2
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
        leptons=_hardest(leptons[leptons["pt"] > 10.0], 4),
        bjets=_hardest(jets[hard & is_bjet], 4),
        other_jets=_hardest(jets[hard & ~is_bjet], 6),
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
    has_pair = _count(pair) == 2
    leading = ak.to_numpy(ak.fill_none(ak.max(pair["pt"], axis=1), 0.0))
    good = (pair["pt"] >= 8.0) & (pair[isolation] >= 0.55) & _is_true(pair[tight])
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


Cuts = Mapping[str | None, Callable[[ak.Array], ak.Array]]


def _select_electrons(electrons: ak.Array, names: BbwwIdentification | None) -> ak.Array:
    cuts: Cuts = {}
    if names is not None:
        cuts = {"dxy": _within(0.045), "dz": _within(0.2), names.electron_id: _is_true}
    return _select("electrons", electrons, MOMENTUM, 35.0, 2.5, cuts)


def _select_muons(muons: ak.Array, names: BbwwIdentification | None) -> ak.Array:
    cuts: Cuts = {}
    if names is not None:
        cuts = {"dxy": _within(0.045), "dz": _within(0.2), names.muon_id: _is_true}
        cuts |= {names.muon_isolation: lambda isolation: isolation < 0.15}
    return _select("muons", muons, MOMENTUM, 30.0, 2.4, cuts)


def _select_taus(taus: ak.Array, names: BbwwIdentification | None) -> ak.Array:
    cuts: Cuts = {}
    if names is not None:
        cuts = {
            "dz": _within(0.2),
            names.tau_decay_mode: lambda mode: (mode < 5) | (mode >= 10),  # 5 to 9: two prongs
            names.tau_vs_jet: lambda bits: bits >= 16,
            names.tau_vs_electron: lambda bits: bits >= 32,
            names.tau_vs_muon: lambda bits: bits >= 1,
        }
    return _select("taus", taus, MOMENTUM[:3], 30.0, 2.3, cuts)


def _select_jets(jets: ak.Array, btag: str, names: BbwwIdentification | None) -> ak.Array:
    hard: ak.Array = require_objects("jets", jets, ("pt",))["pt"] >= 50.0
    cuts: Cuts = {}
    if names is not None:
        cuts = {names.jet_id: lambda bits: bits >= 4, names.jet_pileup_id: lambda bits: (bits == 7) | hard}
    return _select("jets", jets, (*MOMENTUM, btag), 20.0, 2.4, cuts)


def _select(
    name: str, objects: ak.Array, fields: tuple[str, ...], min_pt: float, max_eta: float, cuts: Cuts
) -> ak.Array:
    objects = require_objects(name, objects, (*fields, *(branch for branch in cuts if branch is not None)))
    mask = (objects["pt"] > min_pt) & (abs(objects["eta"]) < max_eta)
    for branch, passes in cuts.items():
        if branch is not None:
            mask = mask & passes(objects[branch])
    return objects[mask]


def _within(limit: float) -> Callable[[ak.Array], ak.Array]:
    return lambda values: abs(values) < limit


def _is_true(values: ak.Array) -> ak.Array:
    return values != 0  # for bools, for bits, and for lists that are empty throughout and have no type


def _hardest_lepton(electrons: ak.Array, muons: ak.Array) -> ak.Array:
    """pt, eta, phi, mass of the hardest electron or muon; None where there is none."""
    kinematics = [ak.zip({field: leptons[field] for field in MOMENTUM}) for leptons in (electrons, muons)]
    return ak.firsts(_hardest(ak.concatenate(kinematics, axis=1), 1))


def _hardest(objects: ak.Array, count: int) -> ak.Array:
    return objects[ak.argsort(objects["pt"], axis=1, ascending=False, stable=True)][:, :count]


def _count(objects: ak.Array) -> npt.NDArray[np.int64]:
    return np.asarray(ak.to_numpy(ak.num(objects, axis=1)), np.int64)
