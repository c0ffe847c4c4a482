"""Generated and reconstructed jets."""

from __future__ import annotations

from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.angles import delta_phi
from evenet_hep.simulate.columns import Collection, Columns
from evenet_hep.simulate.detector import BTagCard, DetectorCard, JetCard
from evenet_hep.simulate.extra import import_fastjet
from evenet_hep.simulate.leptons import SeenLeptons
from evenet_hep.simulate.matching import nearest_within
from evenet_hep.simulate.particles import (
    IS_DIRECT_TAU_PRODUCT,
    IS_HARD_PROCESS,
    IS_LAST_B_HADRON,
    IS_LAST_C_HADRON,
    Particles,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MIN_GENERATED_PT = (
    8.0  # GeV; well below what a reconstructed jet needs, so that smearing can lift a jet over the cut
)
MIN_HADRON_PT = 5.0  # GeV, of the b and c hadrons that give a jet its flavour


class SmearedJets(NamedTuple):
    """Reconstructed jets and how far their momenta are from the truth.

    Parameters
    ----------
    jets : Collection
        The hardest first.
    shift : float64 array, shape (2, n_events)
        Vector sum of measured minus true transverse momentum of all jets, those too soft to be kept included; GeV.
    """

    jets: Collection
    shift: FloatArray


def cluster_jets(particles: Particles, flags: npt.NDArray[np.int32], card: JetCard) -> Collection:
    """Generated jets: anti-kT clusters of all visible particles, the hardest first.

    Parameters
    ----------
    particles, flags
        Generated particles and their ancestry.
    card : JetCard
        Radius and range in eta.

    Returns
    -------
    Collection
        px, py, pz, energy, pt, eta, phi, mass in GeV and radians; hadronFlavour (5, 4 or 0) and partonFlavour (code of
        the nearest outgoing parton of the hard process or of a resonance decay, 0 without).
    """
    fastjet = import_fastjet()
    visible = particles.is_visible
    counts = np.diff(particles.offsets_of(visible))
    momenta = {
        name: ak.unflatten(values[visible], counts)
        for name, values in zip(
            ("px", "py", "pz", "E"), (particles.px, particles.py, particles.pz, particles.energy), strict=True
        )
    }
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, card.radius)
    clusters = fastjet.ClusterSequence(ak.zip(momenta, with_name="Momentum4D"), definition)
    found = clusters.inclusive_jets(min_pt=MIN_GENERATED_PT)
    px, py, pz, energy = (
        np.asarray(ak.to_numpy(ak.flatten(found[name]))) for name in ("px", "py", "pz", "E")
    )
    columns = {"px": px, "py": py, "pz": pz, "energy": energy} | _directions(px, py, pz, energy)
    jets = Collection(ak.to_numpy(ak.num(found["px"], axis=1)), columns)
    jets = jets.take(np.abs(jets["eta"]) < card.max_abs_eta).sorted_by_pt()
    jets.columns["hadronFlavour"] = hadron_flavour(jets, particles, flags, card.radius)
    jets.columns["partonFlavour"] = parton_flavour(jets, particles, flags, card.radius)
    return jets


def _directions(px: FloatArray, py: FloatArray, pz: FloatArray, energy: FloatArray) -> Columns:
    pt = np.hypot(px, py)
    mass = np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0.0))
    return {"pt": pt, "eta": np.arcsinh(pz / np.maximum(pt, 1e-9)), "phi": np.arctan2(py, px), "mass": mass}


def hadron_flavour(
    jets: Collection, particles: Particles, flags: npt.NDArray[np.int32], radius: float
) -> IntArray:
    """5 for jets that are the nearest of a b hadron, else 4 for those nearest to a c hadron, else 0."""
    flavour = np.zeros(len(jets["pt"]), np.int64)
    for bit, value in ((IS_LAST_C_HADRON, 4), (IS_LAST_B_HADRON, 5)):
        index = np.flatnonzero(((flags & bit) > 0) & (particles.pt > MIN_HADRON_PT))
        nearest = nearest_within(
            particles.offsets_of(index), particles.eta[index], particles.phi[index],
            jets.offsets, jets["eta"], jets["phi"], radius,
        )  # fmt: skip
        flavour[nearest[nearest >= 0]] = value
    return flavour


def parton_flavour(
    jets: Collection, particles: Particles, flags: npt.NDArray[np.int32], radius: float
) -> IntArray:
    """Code of the nearest outgoing parton of the hard process or of a resonance decay; 0 without one."""
    code = np.abs(particles.pdg_id)
    # Not first copies alone: the gluons of gg -> gg are copies of those that come in.
    is_outgoing = ((flags & IS_HARD_PROCESS) > 0) & np.isin(np.abs(particles.status), (23, 24))
    index = np.flatnonzero(
        is_outgoing & ((code <= 5) | (code == 21)) & ((flags & IS_DIRECT_TAU_PRODUCT) == 0)
    )
    nearest = nearest_within(
        jets.offsets, jets["eta"], jets["phi"],
        particles.offsets_of(index), particles.eta[index], particles.phi[index], radius,
    )  # fmt: skip
    flavour = np.zeros(len(nearest), np.int64)
    flavour[nearest >= 0] = particles.pdg_id[index[nearest[nearest >= 0]]]
    return flavour


def smear_jets(
    generated: Collection,
    particles: Particles,
    leptons: list[SeenLeptons],
    card: DetectorCard,
    random: np.random.Generator,
) -> SmearedJets:
    """Reconstructed jets: the hadronic part of each generated jet is smeared as a jet, its leptons as leptons.

    Parameters
    ----------
    generated : Collection
        From :func:`cluster_jets`.
    particles : Particles
        Generated particles.
    leptons : list of SeenLeptons
        Electrons and muons with their measured pT.
    card : DetectorCard
        Resolutions and tag rates.
    random : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    SmearedJets
        Fields of ``Jet`` in NanoAOD; ``genJetIdx`` is the position among the generated jets of the event.
    """
    true = np.stack([generated[name] for name in ("px", "py", "pz", "energy")])
    lepton_true, lepton_measured = _leptons_in_jets(generated, particles, leptons, card.jets.radius)
    hadronic = true - lepton_true
    hadronic_pt = np.hypot(hadronic[0], hadronic[1])
    scale = _response(hadronic_pt, np.abs(generated["eta"]), card.jets, random)
    columns = _directions(*(hadronic * scale + lepton_measured))
    # A jet that is nothing but a lepton keeps the direction of the lepton.
    hadronic_share = np.clip(hadronic_pt / np.maximum(generated["pt"], 1e-9), 0.0, 1.0)
    width = (card.jets.angle + card.jets.angle_soft / np.maximum(columns["pt"], 1.0)) * hadronic_share
    columns["eta"] = columns["eta"] + width * random.standard_normal(len(width))
    columns["phi"] = delta_phi(columns["phi"], width * random.standard_normal(len(width)))
    columns[card.btag.branch] = btag_scores(generated["hadronFlavour"], card.btag, random)
    shift = _momentum_shift(generated, columns)
    jets = Collection(generated.counts, columns | _identification(generated))
    return SmearedJets(jets.take(jets["pt"] > card.jets.min_pt).sorted_by_pt(), shift)


def _identification(generated: Collection) -> Columns:
    n = len(generated["pt"])
    return {
        "hadronFlavour": generated["hadronFlavour"],
        "partonFlavour": generated["partonFlavour"],
        "genJetIdx": generated.position,
        "jetId": np.full(n, 6),
        "puId": np.full(n, 7),
    }


def _momentum_shift(generated: Collection, measured: Columns) -> FloatArray:
    """Measured minus true transverse momentum of all jets of each event, shape (2, n_events), GeV."""
    moved = (
        measured["pt"] * np.cos(measured["phi"]) - generated["px"],
        measured["pt"] * np.sin(measured["phi"]) - generated["py"],
    )
    n_events = len(generated.counts)
    return np.stack([np.bincount(generated.event, axis, n_events) for axis in moved]).astype(np.float64)


def _leptons_in_jets(
    jets: Collection, particles: Particles, leptons: list[SeenLeptons], radius: float
) -> tuple[FloatArray, FloatArray]:
    """True and measured momenta of the electrons and muons of each jet, shape (4, n_jets) each."""
    true, measured = np.zeros((4, len(jets["pt"]))), np.zeros((4, len(jets["pt"])))
    for seen in leptons:
        index = seen.particle
        nearest = nearest_within(
            particles.offsets_of(index), particles.eta[index], particles.phi[index],
            jets.offsets, jets["eta"], jets["phi"], radius,
        )  # fmt: skip
        for row, component in enumerate((particles.px, particles.py, particles.pz, particles.energy)):
            inside = nearest >= 0
            np.add.at(true[row], nearest[inside], component[index[inside]])
            np.add.at(measured[row], nearest[inside], component[index[inside]] * seen.scale[inside])
    return true, measured


def _response(pt: FloatArray, abs_eta: FloatArray, card: JetCard, random: np.random.Generator) -> FloatArray:
    central = abs_eta < 2.5
    stochastic = np.where(central, card.stochastic, card.stochastic_forward)
    constant = np.where(central, card.constant, card.constant_forward)
    pt = np.maximum(pt, 1.0)
    sigma = np.sqrt((card.noise / pt) ** 2 + stochastic**2 / pt + constant**2)
    scale: FloatArray = np.clip(1.0 + sigma * random.standard_normal(len(pt)), 0.2, 3.0)
    return scale


def btag_scores(flavour: npt.NDArray[np.integer], card: BTagCard, random: np.random.Generator) -> FloatArray:
    """Scores that pass the working points of the card with its efficiencies.

    Parameters
    ----------
    flavour : int array
        5, 4 or 0.
    card : BTagCard
        Thresholds and efficiencies; between the thresholds scores are spread evenly.
    random : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    float64 array
        From 0 to 1.

    Examples
    --------
    >>> scores = btag_scores(np.full(10000, 5), BTagCard(), np.random.default_rng(1))
    >>> round(float(np.mean(scores > 0.2489)), 2)
    0.7
    """
    survival = random.random(len(flavour))
    scores = np.empty(len(flavour))
    edges = np.array([0.0, *card.thresholds, 1.0])
    for value, efficiencies in ((5, card.b), (4, card.c), (0, card.light)):
        chosen = flavour == value
        above = np.array([1.0, *efficiencies, 0.0])  # fraction of scores above each edge
        scores[chosen] = np.interp(survival[chosen], above[::-1], edges[::-1])
    return scores
