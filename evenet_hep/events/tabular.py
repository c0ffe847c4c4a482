"""The 49 engineered features of the bbWW study, the input of its boosted decision trees.

Two hypotheses for the hadronic W (A and B of :mod:`evenet_hep.kinematics.hadronic_w`) appear with the same features.
``bb`` is the system of the two b jets with the highest b-tag scores, ``WW`` lepton plus hadronic W, ``bbWW`` both;
``vis`` means without the neutrino. Energies, momenta and masses are in GeV, angles in radians.

=======================  ==================================================================================
``met_pt n_b_jets``      missing transverse momentum; number of b-tagged jets
``lep_* W_mT``           lepton; transverse mass of lepton and MET
``b1_* b2_* bb_*``       the two b jets in order of score; mass and Delta R of the pair
``?_q1_* ?_q2_*``        quarks of the hadronic W, harder first
``?_Whad_*``             mass and pT of the hadronic W; Delta R of its quarks
``?_WW_vis_*``           mass of lepton and hadronic W; Delta R between them
``?_bbWW_vis_*``         mass of both systems; Delta R between bb and WW
``?_WW_mT ?_bbWW_mT``    cluster transverse masses
``?_dPhi_bb_Whad``       absolute difference in azimuth of bb and the hadronic W, from 0 to pi
``?_min_dR_l_q``         Delta R of the lepton and the nearer of the two quarks
``topness top_*``        topness and its assignment (:mod:`evenet_hep.kinematics.topness`)
=======================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.events.columns import require_fields
from evenet_hep.events.observables import (
    MOMENTUM,
    BoolArray,
    FlatObjects,
    FloatArray,
    IntArray,
    event_column,
    event_records,
    flat_flags,
    flat_objects,
    require_objects,
)
from evenet_hep.events.selection import DEEPFLAVOUR_WORKING_POINT
from evenet_hep.kinematics.angles import delta_phi, delta_r
from evenet_hep.kinematics.hadronic_w import HIGGS_MASS, JetPairs, closest_pair, cluster_transverse_mass
from evenet_hep.kinematics.neutrino import W_MASS, leptonic_w
from evenet_hep.kinematics.topness import topness
from evenet_hep.kinematics.vectors import from_cartesian, to_cartesian

# fmt: off
_HYPOTHESIS = (
    "q1_pt", "q1_eta", "q2_pt", "q2_eta", "Whad_m", "Whad_pt", "Whad_dR", "WW_vis_m", "WW_vis_dR", "WW_mT",
    "bbWW_vis_m", "bbWW_vis_dR", "bbWW_mT", "dPhi_bb_Whad", "min_dR_l_q",
)

FEATURES: tuple[str, ...] = (
    "met_pt", "n_b_jets", "lep_pt", "lep_eta", "W_mT", "b1_pt", "b1_eta", "b2_pt", "b2_eta", "bb_inv", "bb_dR",
    *(f"A_{name}" for name in _HYPOTHESIS),
    *(f"B_{name}" for name in _HYPOTHESIS),
    "topness", "top_dr_lb", "top_m_lb", "top_tlep_reco_mass", "top_whad_reco_mass", "top_whad_dr_qq",
    "top_thad_reco_mass", "top_thad_dr_bqq",
)
# fmt: on

# What the released training configuration reads: it leaves out both azimuths of the paper's table.
RELEASED_FEATURES: tuple[str, ...] = tuple(name for name in FEATURES if not name.endswith("dPhi_bb_Whad"))


def bbww_features(
    lepton: ak.Array,
    jets: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    btag: str = "btagDeepFlavB",
    working_point: float = DEEPFLAVOUR_WORKING_POINT,
    mask: ak.Array | None = None,
    strategy: Literal["joint", "sequential"] = "joint",
    parallel: bool = False,
) -> ak.Array:
    """The 49 features of every event, as records with the fields of :data:`FEATURES`.

    Parameters
    ----------
    lepton : ak.Array of records, one per event
        With ``pt``, ``eta``, ``phi``, ``mass`` in GeV and radians; None where an event has no lepton.
    jets : ak.Array of lists of records
        With the same fields and the b-tag score, in any order. Missing jets (None) are ignored.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float
        Jets with a higher score are b-tagged, all others are light. (:func:`evenet_hep.events.selection.select_bbww`
        leaves out jets whose score equals it.)
    mask : ak.Array of lists of bool, optional
        False for jets to ignore, whatever they hold.
    strategy, parallel
        Of the topness; the published ntuples used ``strategy="sequential"``.

    Returns
    -------
    ak.Array of records
        float64, one record per event; NaN for whatever an event lacks the objects for. (The published ntuples hold
        -999, 99999 and 0 instead.)

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Notes
    -----
    EveNet paper, Table IV. The neutrino is that of :mod:`evenet_hep.kinematics.neutrino`, with the real part of complex
    solutions; the hypotheses look at the eight hardest light jets, the topness at all.

    Examples
    --------
    >>> import awkward as ak
    >>> lepton = ak.Array([{"pt": 40.0, "eta": 0.5, "phi": 0.0, "mass": 0.0}])
    >>> jets = ak.Array([[{"pt": 60.0, "eta": 1.0, "phi": 2.0, "mass": 5.0, "score": 0.9}]])
    >>> features = bbww_features(lepton, jets, [40.0], [3.141592653589793], btag="score")
    >>> features["W_mT"].to_list(), features["n_b_jets"].to_list(), features["bb_inv"].to_list()
    ([80.0], [1.0], [nan])
    """
    jets = require_objects("jets", jets, [*MOMENTUM, btag])
    read = _read_events(lepton, jets, met, met_phi, btag, working_point, mask)
    objects = read.objects
    columns = _common_columns(read)
    lepton_pt, lepton_eta, lepton_phi, lepton_mass = read.lepton
    w_boson = leptonic_w(lepton_pt, lepton_eta, lepton_phi, lepton_mass, read.met, read.met_phi)
    pt, eta, phi, mass = objects.columns
    for hypothesis, target, companion in (("A", W_MASS, None), ("B", HIGGS_MASS, w_boson)):
        pairs = closest_pair(
            objects.offsets, pt, eta, phi, mass, read.is_light, target=target, companion=companion
        )
        columns |= _hypothesis_columns(read, hypothesis, pairs)
    columns |= _topness_columns(read, strategy, parallel)
    return ak.zip({name: columns[name] for name in FEATURES}, depth_limit=1)


def feature_matrix(features: ak.Array, names: Sequence[str] = FEATURES) -> FloatArray:
    """Features as one matrix, as tree libraries take it.

    Parameters
    ----------
    features : ak.Array of records
        As :func:`bbww_features` returns them.
    names : sequence of str
        Columns, in order; :data:`RELEASED_FEATURES` for the 47 of the released configuration.

    Returns
    -------
    float64 array, shape (n_events, n_names)
        NaN stays NaN.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Examples
    --------
    >>> import awkward as ak
    >>> feature_matrix(ak.Array([{"b1_pt": 60.0, "b2_pt": 40.0}]), ["b2_pt", "b1_pt"])
    array([[40., 60.]])
    """
    require_fields("features", features, names)
    columns = [event_column(name, features[name], len(features)) for name in names]
    return np.stack(columns, axis=1)


class _Read(NamedTuple):
    """Columns of one chunk. Entry -1 of the padded jet columns is NaN, so that the position -1 means: no such jet."""

    objects: FlatObjects
    is_bjet: BoolArray
    is_light: BoolArray
    momenta: FloatArray  # (4, n_jets + 1), px, py, pz, E
    pt: FloatArray  # (n_jets + 1,), as eta and phi
    eta: FloatArray
    phi: FloatArray
    bjets: tuple[IntArray, IntArray]  # flat positions of b1 and b2
    lepton: tuple[FloatArray, ...]
    lepton_momentum: FloatArray  # (4, n_events)
    met: FloatArray
    met_phi: FloatArray


def _read_events(
    lepton: ak.Array,
    jets: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    btag: str,
    working_point: float,
    mask: ak.Array | None,
) -> _Read:
    objects = flat_objects("jets", jets, MOMENTUM, mask=mask)
    offsets, n_events = objects.offsets, len(objects.offsets) - 1
    score = flat_objects("jets", jets, [btag]).columns[0]
    # Compared in the score's own type: a float32 score equal to the working point is not above it.
    is_bjet = flat_flags("b tags", jets, jets[btag] > working_point, offsets) & objects.mask
    columns = tuple(np.append(np.where(objects.mask, column, np.nan), np.nan) for column in objects.columns)
    leptons = event_records("lepton", lepton, MOMENTUM, n_events)
    return _Read(
        objects=objects,
        is_bjet=is_bjet,
        is_light=objects.mask & ~is_bjet,
        momenta=np.stack(to_cartesian(*columns)),
        pt=columns[0],
        eta=columns[1],
        phi=columns[2],
        bjets=_leading_bjets(offsets, score, objects.columns[0], is_bjet),
        lepton=leptons,
        lepton_momentum=np.stack(to_cartesian(*leptons)),
        met=event_column("met", met, n_events),
        met_phi=event_column("met_phi", met_phi, n_events),
    )


def _leading_bjets(
    offsets: IntArray, score: FloatArray, pt: FloatArray, is_bjet: BoolArray
) -> tuple[IntArray, IntArray]:
    """Flat positions of the two b-tagged jets with the highest scores (equal scores: the harder); -1 where missing."""
    found = np.full((2, len(offsets) - 1), -1, np.int64)
    _fill_leading(offsets, score, pt, is_bjet, found)
    return found[0], found[1]


@njit(cache=True)
def _fill_leading(
    offsets: IntArray, score: FloatArray, pt: FloatArray, is_bjet: BoolArray, found: IntArray
) -> None:
    for event in range(len(offsets) - 1):
        first = second = -1
        for jet in range(offsets[event], offsets[event + 1]):
            if not is_bjet[jet]:
                continue
            if first < 0 or (score[jet], pt[jet]) > (score[first], pt[first]):
                first, second = jet, first
            elif second < 0 or (score[jet], pt[jet]) > (score[second], pt[second]):
                second = jet
        found[0, event], found[1, event] = first, second


def _common_columns(read: _Read) -> dict[str, FloatArray]:
    b1, b2 = read.bjets
    lepton_pt, lepton_eta, lepton_phi, lepton_mass = read.lepton
    bb_mass = from_cartesian(*(read.momenta[:, b1] + read.momenta[:, b2]))[3]
    events = np.repeat(np.arange(len(lepton_pt)), np.diff(read.objects.offsets))
    return {
        "met_pt": read.met,
        "n_b_jets": np.bincount(events[read.is_bjet], minlength=len(lepton_pt)).astype(np.float64),
        "lep_pt": lepton_pt,
        "lep_eta": lepton_eta,
        "W_mT": cluster_transverse_mass(lepton_pt, lepton_phi, lepton_mass, read.met, read.met_phi),
        "b1_pt": read.pt[b1],
        "b1_eta": read.eta[b1],
        "b2_pt": read.pt[b2],
        "b2_eta": read.eta[b2],
        "bb_inv": bb_mass,
        "bb_dR": delta_r(read.eta[b1], read.phi[b1], read.eta[b2], read.phi[b2]),
    }


def _hypothesis_columns(read: _Read, hypothesis: str, pairs: JetPairs) -> dict[str, FloatArray]:
    starts = read.objects.offsets[:-1]
    q1 = np.where(pairs.valid, starts + pairs.q1, -1)
    q2 = np.where(pairs.valid, starts + pairs.q2, -1)
    b1, b2 = read.bjets
    _, lepton_eta, lepton_phi, _ = read.lepton
    w = read.momenta[:, q1] + read.momenta[:, q2]
    bb = read.momenta[:, b1] + read.momenta[:, b2]
    ww = w + read.lepton_momentum
    w_pt, w_eta, w_phi, w_mass = from_cartesian(*w)
    ww_pt, ww_eta, ww_phi, ww_mass = from_cartesian(*ww)
    _, bb_eta, bb_phi, _ = from_cartesian(*bb)
    bbww_pt, _, bbww_phi, bbww_mass = from_cartesian(*(bb + ww))
    to_quarks = [delta_r(lepton_eta, lepton_phi, read.eta[q], read.phi[q]) for q in (q1, q2)]
    columns = {
        "q1_pt": read.pt[q1],
        "q1_eta": read.eta[q1],
        "q2_pt": read.pt[q2],
        "q2_eta": read.eta[q2],
        "Whad_m": w_mass,
        "Whad_pt": w_pt,
        "Whad_dR": delta_r(read.eta[q1], read.phi[q1], read.eta[q2], read.phi[q2]),
        "WW_vis_m": ww_mass,
        "WW_vis_dR": delta_r(lepton_eta, lepton_phi, w_eta, w_phi),
        "WW_mT": cluster_transverse_mass(ww_pt, ww_phi, ww_mass, read.met, read.met_phi),
        "bbWW_vis_m": bbww_mass,
        "bbWW_vis_dR": delta_r(bb_eta, bb_phi, ww_eta, ww_phi),
        "bbWW_mT": cluster_transverse_mass(bbww_pt, bbww_phi, bbww_mass, read.met, read.met_phi),
        "dPhi_bb_Whad": np.abs(delta_phi(bb_phi, w_phi)),
        "min_dR_l_q": np.minimum(*to_quarks),
    }
    return {f"{hypothesis}_{name}": column for name, column in columns.items()}


def _topness_columns(
    read: _Read, strategy: Literal["joint", "sequential"], parallel: bool
) -> dict[str, FloatArray]:
    pt, eta, phi, mass = read.objects.columns
    lepton_pt, lepton_eta, lepton_phi, lepton_mass = read.lepton
    result = topness(
        read.objects.offsets,
        pt,
        eta,
        phi,
        mass,
        read.is_bjet,
        lepton_pt,
        lepton_eta,
        lepton_phi,
        lepton_mass,
        read.met,
        read.met_phi,
        mask=read.objects.mask,
        strategy=strategy,
        parallel=parallel,
    )
    return {
        "topness": result.topness,
        "top_dr_lb": result.dr_lb,
        "top_m_lb": result.m_lb,
        "top_tlep_reco_mass": result.tlep_mass,
        "top_whad_reco_mass": result.whad_mass,
        "top_whad_dr_qq": result.whad_dr_qq,
        "top_thad_reco_mass": result.thad_mass,
        "top_thad_dr_bqq": result.thad_dr_bqq,
    }
