"""Particle-flow candidates: what jets are made of, with or without a detector.

Charged particles within the tracker are measured as tracks; photons and neutral hadrons, and what the tracker misses, as
energy in cells, where those that fall into the same cell are one. Without a detector the visible particles themselves
are the candidates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from numba import njit

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.kinematics.angles import delta_phi
from evenet_hep.simulate.columns import Collection, concatenate_objects
from evenet_hep.simulate.detector import read_part, to_plain
from evenet_hep.simulate.particles import Particles, is_hadron

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MASSES = {11: 0.000511, 13: 0.10566, 211: 0.13957}  # GeV, of tracks
FORWARD = 3.0  # in abs(eta); CMS calls cells beyond it 1 (hadron) and 2 (photon)


@dataclass(frozen=True)
class CandidateCard:
    """Candidates and the jets they are clustered to.

    Parameters
    ----------
    name : str
        Of the card; written beside the events.
    detector : str
        ``parametric``, or ``none``: the visible particles themselves.
    track_min_pt, track_max_abs_eta : float
        Tracks that are found, GeV.
    track_efficiency, electron_efficiency, muon_efficiency : float
        Of finding them. Hadrons and electrons without a track leave energy in the cells, muons nothing.
    track_resolution, track_curvature : float
        sigma/pT = track_resolution + track_curvature pT, in quadrature; 1/GeV.
    track_angle : float
        Resolution in eta and phi, radians.
    photon_stochastic, photon_noise, photon_constant, photon_cell, photon_min_pt : float
        sigma/E = stochastic / sqrt(E) + noise / E + constant, in quadrature; width of the cells in eta and phi; GeV.
    hadron_stochastic, hadron_noise, hadron_constant, hadron_cell, hadron_min_pt : float
        The same of hadrons.
    fat_radius, fat_min_pt : float
        Of the anti-kT jets ``FatJet``; GeV.
    radius, min_pt : float
        Of ``Jet``.
    max_abs_eta : float
        Of the axes of both.

    Examples
    --------
    >>> CandidateCard().hadron_cell, CANDIDATE_CARDS["none"].detector
    (0.087, 'none')
    """

    name: str = "cms"
    detector: str = "parametric"
    track_min_pt: float = 0.5
    track_max_abs_eta: float = 2.5
    track_efficiency: float = 0.94
    electron_efficiency: float = 0.90
    muon_efficiency: float = 0.97
    track_resolution: float = 0.008
    track_curvature: float = 1.5e-4
    track_angle: float = 0.0005
    photon_stochastic: float = 0.03
    photon_noise: float = 0.12
    photon_constant: float = 0.006
    photon_cell: float = 0.0174
    photon_min_pt: float = 0.5
    hadron_stochastic: float = 1.0
    hadron_noise: float = 0.3
    hadron_constant: float = 0.06
    hadron_cell: float = 0.087
    hadron_min_pt: float = 1.0
    fat_radius: float = 0.8
    fat_min_pt: float = 170.0
    radius: float = 0.4
    min_pt: float = 20.0
    max_abs_eta: float = 2.5

    def __post_init__(self) -> None:
        if self.detector not in ("parametric", "none"):
            msg = f"card.detector must be parametric or none; found {self.detector!r}"
            raise ConfigError(msg)
        for key in ("photon_cell", "hadron_cell", "fat_radius", "radius"):
            if not getattr(self, key) > 0:
                msg = f"card.{key} must be positive; found {getattr(self, key)}"
                raise ConfigError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, as in a YAML file."""
        plain: dict[str, Any] = to_plain(asdict(self))
        return plain


CANDIDATE_CARDS = {"cms": CandidateCard(), "none": CandidateCard(name="none", detector="none")}


def load_candidate_card(name: str | Path) -> CandidateCard:
    """A card by name (``cms``, ``none``), or from a YAML file with keys of :class:`CandidateCard`.

    Raises
    ------
    FileError, ConfigError
        For a name that is neither, and for a file with unknown keys or wrong values.

    Examples
    --------
    >>> load_candidate_card("none").fat_radius
    0.8
    """
    if str(name) in CANDIDATE_CARDS:
        return CANDIDATE_CARDS[str(name)]
    path = Path(name)
    if not path.is_file():
        msg = f"the detector of candidates must be {', '.join(CANDIDATE_CARDS)} or a YAML file; found {str(name)!r}"
        raise FileError(msg)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        msg = f"{path} is not a YAML file: {str(error).splitlines()[0]}"
        raise FileError(msg) from error
    card: CandidateCard = read_part(CandidateCard, content if content is not None else {}, "card")
    return card


def make_candidates(particles: Particles, card: CandidateCard, random: np.random.Generator) -> Collection:
    """Candidates of every event.

    Parameters
    ----------
    particles : Particles
        Generated particles; the visible ones count.
    card : CandidateCard
        Resolutions, efficiencies, cells.
    random : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    Collection
        pt, eta, phi, mass (GeV and radians), pdgId and charge, the hardest first. With a detector pdgId is that of
        CMS: +-211, 130, 22, +-11, +-13, and 1 or 2 for forward cells.
    """
    index = np.flatnonzero(particles.is_visible)
    counts = np.diff(particles.offsets_of(index))
    code, charge = particles.pdg_id[index].astype(np.int64), charges(particles.pdg_id[index])
    seen = Collection(
        counts,
        {
            "pt": particles.pt[index],
            "eta": particles.eta[index],
            "phi": particles.phi[index],
            "mass": particles.mass[index],
            "pdgId": code,
            "charge": charge,
        },
    )
    if card.detector == "none":
        return seen.take(seen["pt"] > 0).sorted_by_pt()
    tracked, swallowed = _tracked(seen, card, random)
    is_shower = np.isin(np.abs(code), (11, 22))
    parts = [
        _tracks(seen.take(tracked), card, random),
        _cells(seen.take(swallowed & is_shower), card, "photon", random),
        _cells(seen.take(swallowed & ~is_shower), card, "hadron", random),
    ]
    return concatenate_objects(parts).sorted_by_pt()


def _tracked(
    seen: Collection, card: CandidateCard, random: np.random.Generator
) -> tuple[BoolArray, BoolArray]:
    """Which particles become tracks, and which leave their energy in the cells."""
    code = np.abs(seen["pdgId"])
    efficiency = np.select(
        [code == 11, code == 13], [card.electron_efficiency, card.muon_efficiency], card.track_efficiency
    )
    in_tracker = (seen["charge"] != 0) & (np.abs(seen["eta"]) < card.track_max_abs_eta)
    is_found = random.random(len(code)) < efficiency
    is_soft = seen["pt"] < card.track_min_pt  # curls up before it reaches a cell
    return in_tracker & is_found & ~is_soft, ~(in_tracker & (is_found | is_soft)) & (code != 13)


def _tracks(found: Collection, card: CandidateCard, random: np.random.Generator) -> Collection:
    code, n = np.abs(found["pdgId"]), len(found["pt"])
    is_lepton = np.isin(code, (11, 13))
    sigma = np.hypot(card.track_resolution, card.track_curvature * found["pt"])
    noise = random.standard_normal((3, n))
    kind = np.where(is_lepton, code, 211)
    sign = np.where(is_lepton, -found["charge"], found["charge"])
    mass = np.select([kind == key for key in MASSES], list(MASSES.values()))
    columns = {
        "pt": found["pt"] * np.clip(1.0 + sigma * noise[0], 0.3, 3.0),
        "eta": found["eta"] + card.track_angle * noise[1],
        "phi": delta_phi(found["phi"] + card.track_angle * noise[2], 0.0),
        "mass": mass,
        "pdgId": kind * np.sign(sign),
        "charge": np.sign(found["charge"]),
    }
    return Collection(found.counts, columns)


def _cells(found: Collection, card: CandidateCard, kind: str, random: np.random.Generator) -> Collection:
    """Energy in cells: one candidate per cell, at the mean direction of what fell into it."""
    size = getattr(card, f"{kind}_cell")
    energy = np.hypot(found["pt"] * np.cosh(found["eta"]), found["mass"])
    ring = np.floor(found["eta"] / size).astype(np.int64)
    sector = np.floor((found["phi"] + np.pi) / size).astype(np.int64)
    keys = np.stack([found.event, ring, sector])
    unique, cell = np.unique(keys, axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    n = unique.shape[1]
    total = np.bincount(cell, energy, n)
    eta, phi = (
        np.bincount(cell, energy * found[name], n) / np.maximum(total, 1e-12) for name in ("eta", "phi")
    )
    sigma = np.sqrt(
        getattr(card, f"{kind}_stochastic") ** 2 * total
        + getattr(card, f"{kind}_noise") ** 2
        + (getattr(card, f"{kind}_constant") * total) ** 2
    )
    measured = total + sigma * random.standard_normal(n)
    pt = measured / np.cosh(eta)
    code, forward = (22, 2) if kind == "photon" else (130, 1)
    cells = Collection(
        np.bincount(unique[0], minlength=len(found.counts)),
        {
            "pt": pt,
            "eta": eta,
            "phi": phi,
            "mass": np.zeros(n),
            "pdgId": np.where(np.abs(eta) < FORWARD, code, forward),
            "charge": np.zeros(n, np.int64),
        },
    )
    return cells.take(pt > getattr(card, f"{kind}_min_pt"))


def charges(pdg_id: npt.ArrayLike) -> IntArray:
    """Electric charge of leptons, photons and hadrons by their code.

    Parameters
    ----------
    pdg_id : int array
        PDG codes.

    Returns
    -------
    int64 array
        In units of the charge of the positron; 0 for what is none of these.

    Examples
    --------
    >>> charges([11, -13, 22, 211, -321, 130, 2212, 2112, -3112, 3334, 511, 421]).tolist()
    [-1, 1, 0, 1, -1, 0, 1, 0, 1, -1, 0, 0]
    """
    return _charges(np.ascontiguousarray(pdg_id, np.int64))


@njit(cache=True)
def _charges(codes: IntArray) -> IntArray:
    found = np.zeros(len(codes), np.int64)
    for i in range(len(codes)):
        code = abs(codes[i])
        sign = 1 if codes[i] > 0 else -1
        if code in (11, 13, 15):
            found[i] = -sign
        elif is_hadron(codes[i]):
            # Thirds of charge of the quarks: -1 for odd codes (down, strange, bottom), 2 for even ones.
            q1, q2, q3 = (code // 1000) % 10, (code // 100) % 10, (code // 10) % 10
            c1, c2, c3 = (2 if q1 % 2 == 0 else -1), (2 if q2 % 2 == 0 else -1), (2 if q3 % 2 == 0 else -1)
            if q1 > 0:
                found[i] = sign * ((c1 + c2 + c3) // 3)
            else:  # the heavier one is the quark if it is up-like, else the antiquark
                found[i] = sign * ((c2 - c3) // 3) if q2 % 2 == 0 else sign * ((c3 - c2) // 3)
    return found
