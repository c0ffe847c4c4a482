"""Selection of X -> bbWW -> bb l nu qq: identification, overlap removal, one lepton, topness.

Cuts are strict: an object exactly on a boundary fails. See :mod:`evenet_hep.events.selection` for what all selections have
in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.flat import count_objects, hardest, is_true
from evenet_hep.events.observables import (
    MOMENTUM,
    BoolArray,
    FloatArray,
    delta_r_to_nearest,
    remove_overlap,
    require_objects,
    topness,
)
from evenet_hep.kinematics.topness import TopnessResult

MAX_DELTA_R_LEPTON_JET = 1.6
MIN_TOPNESS = 3.0
DEEPFLAVOUR_WORKING_POINT = 0.2489  # medium, CMS 2016 post-VFP


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
        one_lepton=count_objects(electrons) + count_objects(muons) == 1,
        tau_veto=count_objects(taus) == 0,
        two_bjets=count_objects(jets[is_bjet]) >= 2,
        two_light=count_objects(light_jets) >= 2,
        dr_l_jnear=nearest < MAX_DELTA_R_LEPTON_JET,
        topness=top.topness > MIN_TOPNESS,
    )
    passed = np.logical_and.reduce(cuts)
    return BbwwSelection(
        electrons, muons, taus, jets, jets[is_bjet], light_jets, lepton, nearest, top, cuts, passed
    )


Cuts = Mapping[str | None, Callable[[ak.Array], ak.Array]]


def _select_electrons(electrons: ak.Array, names: BbwwIdentification | None) -> ak.Array:
    cuts: Cuts = {}
    if names is not None:
        cuts = {"dxy": _within(0.045), "dz": _within(0.2), names.electron_id: is_true}
    return _select("electrons", electrons, MOMENTUM, 35.0, 2.5, cuts)


def _select_muons(muons: ak.Array, names: BbwwIdentification | None) -> ak.Array:
    cuts: Cuts = {}
    if names is not None:
        cuts = {"dxy": _within(0.045), "dz": _within(0.2), names.muon_id: is_true}
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


def _hardest_lepton(electrons: ak.Array, muons: ak.Array) -> ak.Array:
    """pt, eta, phi, mass of the hardest electron or muon; None where there is none."""
    kinematics = [ak.zip({field: leptons[field] for field in MOMENTUM}) for leptons in (electrons, muons)]
    return ak.firsts(hardest(ak.concatenate(kinematics, axis=1), 1))
