"""Reconstructed hadronic taus: true ones from tau decays, false ones from jets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.simulate.columns import Collection, Columns, concatenate_objects
from evenet_hep.simulate.detector import DetectorCard
from evenet_hep.simulate.particles import (
    IS_DIRECT_TAU_PRODUCT,
    IS_FIRST_COPY,
    IS_LAST_COPY,
    IS_PROMPT,
    Particles,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Bits of the DeepTau identifications of NanoAOD v9: all working points up to medium, up to tight, and the loosest three.
_MEDIUM, _TIGHT, _LOOSEST = 31, 63, 7


class VisibleTaus(NamedTuple):
    """Hadronic decays of prompt taus.

    Parameters
    ----------
    particle : int64 array, shape (n_taus,)
        Positions of the taus among the particles.
    momentum : float64 array, shape (4, n_taus)
        px, py, pz, energy of the visible products, GeV.
    decay_mode : int64 array
        5 (charged hadrons - 1) + neutral pions.
    """

    particle: IntArray
    momentum: FloatArray
    decay_mode: IntArray


def visible_taus(particles: Particles, flags: npt.NDArray[np.int32]) -> VisibleTaus:
    """Visible momentum and decay mode of every prompt tau that decays to hadrons."""
    momentum = np.stack([particles.px, particles.py, particles.pz, particles.energy])
    visible = momentum.copy()
    prongs = np.zeros((2, len(flags)), np.int64)
    leptonic = np.zeros(len(flags), np.bool_)
    _add_products(particles.pdg_id, particles.mother, flags, momentum, visible, prongs, leptonic)
    wanted = IS_LAST_COPY | IS_PROMPT
    is_tau = (np.abs(particles.pdg_id) == 15) & ((flags & wanted) == wanted)
    index = np.flatnonzero(is_tau & ~leptonic & (prongs[0] > 0))
    mode = 5 * (prongs[0, index] - 1) + np.minimum(prongs[1, index], 4)
    return VisibleTaus(index, visible[:, index], mode)


@njit(cache=True)
def _add_products(
    pdg_id: npt.NDArray[np.int32],
    mother: IntArray,
    flags: npt.NDArray[np.int32],
    momentum: FloatArray,
    visible: FloatArray,
    prongs: IntArray,
    leptonic: npt.NDArray[np.bool_],
) -> None:
    wanted = IS_DIRECT_TAU_PRODUCT | IS_FIRST_COPY
    for i in range(len(pdg_id)):
        if (flags[i] & wanted) != wanted:
            continue
        tau, code = mother[i], abs(pdg_id[i])
        if code in (12, 14, 16):
            visible[:, tau] -= momentum[:, i]
        elif code in (11, 13):
            leptonic[tau] = True
        elif code in (211, 321):
            prongs[0, tau] += 1
        elif code == 111:
            prongs[1, tau] += 1


def reconstruct_taus(
    particles: Particles,
    flags: npt.NDArray[np.int32],
    jets: Collection,
    card: DetectorCard,
    random: np.random.Generator,
) -> Collection:
    """Taus of both kinds, the hardest first; ``particle`` is the position of the true tau, or -1."""
    true = _true_taus(particles, visible_taus(particles, flags), card, random)
    taus = concatenate_objects([true, _false_taus(jets, card, random)])
    taus.columns["dxy"] = 0.002 * random.standard_normal(len(taus["pt"]))
    taus.columns["dz"] = 0.004 * random.standard_normal(len(taus["pt"]))
    part = card.taus
    inside = (taus["pt"] > part.min_pt) & (np.abs(taus["eta"]) < part.max_abs_eta)
    return taus.take(inside).sorted_by_pt()


def _true_taus(
    particles: Particles, taus: VisibleTaus, card: DetectorCard, random: np.random.Generator
) -> Collection:
    px, py, pz, energy = taus.momentum
    pt = np.hypot(px, py)
    scale = np.clip(1.0 + card.taus.resolution * random.standard_normal(len(pt)), 0.3, 2.0)
    quality = random.random(len(pt))
    columns: Columns = {
        "particle": taus.particle,
        "pt": pt * scale,
        "eta": np.arcsinh(pz / np.maximum(pt, 1e-9)),
        "phi": np.arctan2(py, px),
        "mass": np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)) * scale,
        "charge": -np.sign(particles.pdg_id[taus.particle]),
        "decayMode": taus.decay_mode,
        "idDeepTau2017v2p1VSjet": np.select(
            [quality < card.taus.tight, quality < card.taus.medium], [_TIGHT, _MEDIUM], _LOOSEST
        ),
        "idDeepTau2017v2p1VSe": np.full(len(pt), _TIGHT),
        "idDeepTau2017v2p1VSmu": np.full(len(pt), 15),
        "genPartFlav": np.full(len(pt), 5),
    }
    collection = Collection(np.diff(particles.offsets_of(taus.particle)), columns)
    known = np.isin(taus.decay_mode, (0, 1, 2, 10, 11)) & (random.random(len(pt)) < card.taus.efficiency)
    return collection.take(known)


def _false_taus(jets: Collection, card: DetectorCard, random: np.random.Generator) -> Collection:
    fakes = jets.take(random.random(len(jets["pt"])) < card.taus.jet_fake)
    n = len(fakes["pt"])
    columns: Columns = {
        "particle": np.full(n, -1),
        **{name: fakes[name] for name in ("pt", "eta", "phi")},
        "mass": np.minimum(fakes["mass"], 1.5),
        "charge": random.choice([-1, 1], n),
        "decayMode": random.choice([0, 1, 10], n),
        "idDeepTau2017v2p1VSjet": np.where(random.random(n) < card.taus.jet_fake_medium, _MEDIUM, _LOOSEST),
        "idDeepTau2017v2p1VSe": np.full(n, _TIGHT),
        "idDeepTau2017v2p1VSmu": np.full(n, 15),
        "genPartFlav": np.zeros(n, np.int64),
    }
    return Collection(fakes.counts, columns)
