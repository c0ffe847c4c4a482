"""Spin correlations of top pairs with two leptons: angles of the leptons, measured and true, in bins of m(ttbar).

Spins of top pairs
------------------
Events have exactly two isolated electrons or muons with pT > 25 GeV and abs(eta) < 2.5, of opposite charge, and at least
two b-tagged jets with pT > 25 GeV and abs(eta) < 2.5. The charge tells which lepton is the top's. Which b jet goes with
which lepton, and where the two neutrinos went, is found in one of three ways:

* ``predict=None``: the two hardest b jets in both pairings; neutrinos are where the ellipses meet that the masses of W
  and top and the missing momentum leave (Betchart et al., arXiv:1305.1878); of several solutions that of smallest m(ttbar).
* ``predict`` with ``neutrinos="conic"``: the network assigns the b jets, the neutrinos follow as above.
* ``predict`` with ``neutrinos="network"``: the network assigns the b jets and draws the neutrinos; of several draws the
  mean momentum is taken.

Leptons are boosted to the centre of mass of the pair and from there to the rest frames of their tops. Histograms hold
the cosine of the angle between them, the nine products of their cosines with the axes k, r and n, and the six cosines,
in bins of m(ttbar) from 0, 400, 500 and 800 GeV. In simulation every event is weighted with its generator weight and
with its spin weight to the power of leading-order QCD, and the true values are kept beside the measured ones: events
that are not reconstructed are in the overflow of the measured axes, so that a slice of the response is a complete one.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import awkward as ak
import hist
import numpy as np
import numpy.typing as npt
from coffea import processor

from evenet_hep.errors import ConfigError
from evenet_hep.events.flat import event_column
from evenet_hep.events.ttbar_dilepton import (
    DileptonObjects,
    GeneratedTops,
    dilepton_candidates,
    dilepton_objects,
    generated_tops,
)
from evenet_hep.inference import Predictor
from evenet_hep.kinematics.dilepton import reconstruct_dilepton
from evenet_hep.kinematics.spin import SpinAngles, spin_angles
from evenet_hep.schema import EventSchema
from evenet_hep.stats.spin_coefficients import COEFFICIENTS, spin_observables
from evenet_hep.topology import Topology

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

M_TT_EDGES = (0.0, 400.0, 500.0, 800.0, np.inf)  # GeV
N_BINS = 20
PROCESS = "TT2L"
TOPOLOGY = "ttbar_dilepton"

Neutrinos = Literal["network", "conic"]


class ReconstructedTops(NamedTuple):
    """Reconstructed top pairs, one entry per event; NaN and -1 where ``valid`` is False.

    Parameters
    ----------
    top, antitop, neutrino, antineutrino : float64 array, shape (4, n_events)
        px, py, pz, energy in GeV.
    bjet_index : int64 array, shape (2, n_events)
        The b jet of the top and that of the antitop, as positions among ``objects.collections()["Jet"]``.
    angles : SpinAngles
        Decay angles of the leptons.
    passed : bool array, shape (n_events,)
        The event was selected.
    valid : bool array, shape (n_events,)
        It was selected and could be reconstructed.
    """

    top: FloatArray
    antitop: FloatArray
    neutrino: FloatArray
    antineutrino: FloatArray
    bjet_index: IntArray
    angles: SpinAngles
    passed: BoolArray
    valid: BoolArray


def reconstruct_tops(
    objects: DileptonObjects, predict: Predictor | None = None, *, neutrinos: Neutrinos = "network"
) -> ReconstructedTops:
    """Top pairs of the selected events; see the text above for the three ways.

    Parameters
    ----------
    objects : DileptonObjects
        Nominal or shifted; the selection is made here.
    predict : Predictor, optional
        With the heads ``assignment`` and, unless ``neutrinos`` is ``"conic"``, ``invisible``.
    neutrinos : {"network", "conic"}
        Who finds the neutrinos, if there is a network.

    Raises
    ------
    ConfigError
        For a network without the outputs that are needed.
    """
    found = dilepton_candidates(objects)
    rows = np.flatnonzero(found.passed)
    lplus, lminus = found.lplus[:, rows], found.lminus[:, rows]
    met = found.met_x[rows], found.met_y[rows]
    index = found.bjet_index[:, rows]
    if predict is None:
        tops = reconstruct_dilepton(lplus, lminus, found.bjet1[:, rows], found.bjet2[:, rows], *met)
        index = np.where(tops.pairing == 1, index[::-1], np.where(tops.pairing == 0, index, -1))
        momenta = [tops.top, tops.antitop, tops.neutrino, tops.antineutrino]
    else:
        _check_outputs(predict, neutrinos)
        chosen = objects.take(rows)
        cloud = chosen.cloud(predict.schema)
        prediction = predict(cloud)
        index, jets = _assigned_jets(prediction, chosen)
        if neutrinos == "conic":
            tops = reconstruct_dilepton(lplus, lminus, jets[0], jets[1], *met, pairing="given")
            momenta = [tops.top, tops.antitop, tops.neutrino, tops.antineutrino]
        else:
            drawn = _drawn_neutrinos(prediction)
            momenta = [lplus + jets[0] + drawn[0], lminus + jets[1] + drawn[1], *drawn]
    angles = spin_angles(momenta[0], momenta[1], lplus, lminus)
    return _spread(momenta, index, angles, rows, found.passed)


def _check_outputs(predict: Predictor, neutrinos: Neutrinos) -> None:
    needed = ("assignment", "invisible") if neutrinos == "network" else ("assignment",)
    if missing := [name for name in needed if name not in predict.heads]:
        msg = f"the Predictor must have the heads {', '.join(needed)}; it lacks {', '.join(missing)}"
        raise ConfigError(msg)


def _assigned_jets(prediction: ak.Array, objects: DileptonObjects) -> tuple[IntArray, list[FloatArray]]:
    """Positions (2, n) and momenta of the b jets that the network gave to top and antitop; -1 and NaN without."""
    jets = objects.collections()["Jet"]
    columns = [
        ak.to_numpy(ak.flatten(jets[name])).astype(np.float64) for name in ("pt", "eta", "phi", "mass")
    ]
    counts = ak.to_numpy(ak.num(jets["pt"]))
    starts = np.cumsum(counts) - counts
    indices, momenta = [], []
    for resonance in ("t1", "t2"):
        daughter = prediction["assignment"][resonance]["b"]
        is_jet = ak.to_numpy(ak.fill_none(daughter["collection"] == "Jet", False))
        index = np.where(is_jet, ak.to_numpy(ak.fill_none(daughter["index"], -1)), -1)
        momentum = np.full((4, len(index)), np.nan)
        place = (starts + index)[index >= 0]
        pt, eta, phi, mass = (column[place] for column in columns)
        momentum[:, index >= 0] = to_momenta(pt, eta, phi, mass)
        indices.append(index)
        momenta.append(momentum)
    return np.stack(indices), momenta


def _drawn_neutrinos(prediction: ak.Array) -> list[FloatArray]:
    """Mean momentum of the draws of neutrino and antineutrino, massless, each of shape (4, n)."""
    drawn = prediction["invisible"]  # events, draws, particles
    pt, eta, phi = (ak.to_numpy(drawn[name]).astype(np.float64) for name in ("pt", "eta", "phi"))
    momenta = to_momenta(pt, eta, phi, np.zeros_like(pt)).mean(axis=2)  # (4, n, particles)
    momenta[3] = np.sqrt((momenta[:3] ** 2).sum(axis=0))
    return [np.ascontiguousarray(momenta[..., i]) for i in (0, 1)]


def to_momenta(pt: FloatArray, eta: FloatArray, phi: FloatArray, mass: FloatArray) -> FloatArray:
    """px, py, pz, energy in GeV, shape (4, ...)."""
    p2 = (pt * np.cosh(eta)) ** 2
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), np.sqrt(p2 + mass**2)])


def _spread(
    momenta: list[FloatArray], index: IntArray, angles: SpinAngles, rows: IntArray, passed: BoolArray
) -> ReconstructedTops:
    """What was found for some events, as one entry for each of all events."""
    n_events = len(passed)

    def wide(values: npt.NDArray[Any], fill: Any) -> npt.NDArray[Any]:
        filled = np.full((*values.shape[:-1], n_events), fill, values.dtype)
        filled[..., rows] = values
        return filled

    everywhere = SpinAngles(*(wide(x, False if x.dtype == np.bool_ else np.nan) for x in angles))
    top, antitop, neutrino, antineutrino = (wide(momentum, np.nan) for momentum in momenta)
    return ReconstructedTops(
        top,
        antitop,
        neutrino,
        antineutrino,
        wide(np.where(angles.valid, index, -1), -1),
        everywhere,
        passed,
        everywhere.valid,
    )


class TTbarSpinProcessor(processor.ProcessorABC):  # type: ignore[misc]
    """Lepton angles of top pairs: histograms for every data set, and the response in simulation.

    Parameters
    ----------
    predict : Predictor, optional
        Network with the heads ``assignment`` and ``invisible_generation``; None for the classical reconstruction.
    neutrinos : {"network", "conic"}
        Who finds the neutrinos, if there is a network.
    spin_strength : float
        Weight 1 + strength (w - 1) with the spin weight w of simulated events: 1 is leading-order QCD, 0 tops that
        decay independently of each other. It does nothing in events without ``spinWeight``.
    btag, working_point, met
        As for :func:`~evenet_hep.events.ttbar_dilepton.dilepton_objects`.

    Notes
    -----
    All data sets of a run are added up: run data, nominal and shifted simulation one after the other. The result holds
    ``cos_phi`` (axes m_tt, cos_phi), ``products`` (pair, m_tt, xi), ``cosines`` (axis, m_tt, cosine) and
    ``n_events``, ``n_selected``, ``n_reconstructed``; and, of simulation, ``response`` (m_tt, cos_phi, true_m_tt,
    true_cos_phi), ``products_response`` (pair, m_tt, xi, true_m_tt, true_xi) and ``sum_of_weights``.

    Examples
    --------
    >>> classical = TTbarSpinProcessor()
    >>> classical.predict is None, classical.spin_strength
    (True, 1.0)
    """

    def __init__(
        self,
        predict: Predictor | None = None,
        *,
        neutrinos: Neutrinos = "network",
        spin_strength: float = 1.0,
        btag: str = "btagDeepFlavB",
        working_point: float = 0.2489,
        met: str = "MET",
    ) -> None:
        if predict is not None:
            _check_outputs(predict, neutrinos)
        self.predict = predict
        self.neutrinos = neutrinos
        self.spin_strength = spin_strength
        self.btag, self.working_point, self.met = btag, working_point, met

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Histograms of one chunk."""
        objects = dilepton_objects(events, btag=self.btag, working_point=self.working_point, met=self.met)
        found = reconstruct_tops(objects, self.predict, neutrinos=self.neutrinos)
        weight = event_weights(events, self.spin_strength)
        content: dict[str, Any] = fill_angles(found.angles, found.valid, weight)
        if "GenPart" in events.fields:
            cloud = objects.cloud(EventSchema.standard())
            truth = generated_tops(events, cloud, Topology.shipped(TOPOLOGY))
            content |= fill_responses(found, truth, weight)
            content["sum_of_weights"] = float(weight.sum())
        counts = {"n_events": len(events), "n_selected": int(found.passed.sum())}
        return content | counts | {"n_reconstructed": int(found.valid.sum())}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator, unchanged."""
        return accumulator


def event_weights(events: ak.Array, spin_strength: float) -> FloatArray:
    """Generator weight times spin weight, one number per event; 1 for collision data."""
    n_events = len(events)
    weight = np.ones(n_events)
    if "genWeight" in events.fields:
        weight = event_column("genWeight", events["genWeight"], n_events)
    if "spinWeight" in events.fields:
        spin = event_column("spinWeight", events["spinWeight"], n_events)
        weight = weight * (1.0 + spin_strength * (spin - 1.0))
    return weight


def _m_tt_axis(name: str) -> hist.axis.Variable:
    return hist.axis.Variable(M_TT_EDGES, name=name, label=r"$m_{t\bar{t}}$ [GeV]")


def _cosine_axis(name: str, label: str) -> hist.axis.Regular:
    return hist.axis.Regular(N_BINS, -1, 1, name=name, label=label)


def fill_angles(angles: SpinAngles, valid: BoolArray, weight: FloatArray) -> dict[str, hist.Hist[Any]]:
    """Histograms of measured angles; events that were not reconstructed are in none of them."""
    cos_phi = hist.Hist(
        _m_tt_axis("m_tt"), _cosine_axis("cos_phi", r"$\cos\varphi$"), storage=hist.storage.Weight()
    )
    pairs, axes = COEFFICIENTS[6:], COEFFICIENTS[:6]
    products = hist.Hist(
        hist.axis.StrCategory(pairs, name="pair"),
        _m_tt_axis("m_tt"),
        _cosine_axis("xi", r"$\xi$"),
        storage=hist.storage.Weight(),
    )
    cosines = hist.Hist(
        hist.axis.StrCategory(axes, name="axis"),
        _m_tt_axis("m_tt"),
        _cosine_axis("cosine", r"$\cos\theta$"),
        storage=hist.storage.Weight(),
    )
    m_tt, w = angles.m_tt[valid], weight[valid]
    observables = below_one(spin_observables(angles.cos_plus[:, valid], angles.cos_minus[:, valid]))
    cos_phi.fill(m_tt, below_one(angles.cos_phi[valid]), weight=w)
    for name, values in zip(COEFFICIENTS, observables, strict=True):
        (cosines if name in axes else products).fill(name, m_tt, values, weight=w)
    return {"cos_phi": cos_phi, "products": products, "cosines": cosines}


def fill_responses(
    found: ReconstructedTops, truth: GeneratedTops, weight: FloatArray
) -> dict[str, hist.Hist[Any]]:
    """Histograms of measured against true values; what is missed or has no truth is in the overflow."""
    response = hist.Hist(
        _m_tt_axis("m_tt"),
        _cosine_axis("cos_phi", r"$\cos\varphi$"),
        _m_tt_axis("true_m_tt"),
        _cosine_axis("true_cos_phi", r"true $\cos\varphi$"),
        storage=hist.storage.Weight(),
    )
    products = hist.Hist(
        hist.axis.StrCategory(COEFFICIENTS[6:], name="pair"),
        _m_tt_axis("m_tt"),
        _cosine_axis("xi", r"$\xi$"),
        _m_tt_axis("true_m_tt"),
        _cosine_axis("true_xi", r"true $\xi$"),
        storage=hist.storage.Weight(),
    )
    both = found.valid | truth.valid
    columns = []
    for angles, valid in ((found.angles, found.valid), (truth.angles, truth.valid)):
        observables = spin_observables(angles.cos_plus, angles.cos_minus)[6:]
        values = below_one(np.concatenate([angles.m_tt[None], angles.cos_phi[None], observables]), skip=1)
        columns.append(np.where(valid, values, np.nan)[:, both])
    measured, true = columns
    w = weight[both]
    response.fill(measured[0], measured[1], true[0], true[1], weight=w)
    for i, name in enumerate(COEFFICIENTS[6:]):
        products.fill(name, measured[0], measured[2 + i], true[0], true[2 + i], weight=w)
    return {"response": response, "products_response": products}


def below_one(values: FloatArray, *, skip: int = 0) -> FloatArray:
    """Cosines with 1 moved into the last bin, not to the overflow; the first ``skip`` rows are left as they are."""
    clipped = np.minimum(values, np.nextafter(1.0, 0.0))
    clipped[:skip] = values[:skip]
    return clipped
