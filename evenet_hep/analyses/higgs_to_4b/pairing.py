"""Pairs of jets without a network: the classical baseline for H -> aa -> 4b."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.events.cloud import EventCloud
from evenet_hep.kinematics.angles import delta_phi

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

HIGGS_MASS = 125.0  # GeV
MASS_WIDTH, HIGGS_WIDTH = (
    10.0,
    20.0,
)  # GeV: of the difference of the pair masses and of the mass of all four jets
N_JETS = 6  # flagged jets first, then the hardest of the others


class FourJets(NamedTuple):
    """Two pairs of jets in each event.

    Parameters
    ----------
    slots : int64 array, shape (n_events, 2, 2)
        Slots in the cloud of the jets of each pair, the heavier pair first; -1 where there are fewer than four jets.
    masses : float64 array, shape (n_events, 3)
        Of the heavier pair, the lighter pair, and of all four jets, in GeV; NaN without pairs.
    distances : float64 array, shape (n_events, 3)
        Delta R inside either pair, and between the pairs.
    cost : float64 array, shape (n_events,)
        What was minimised.
    """

    slots: IntArray
    masses: FloatArray
    distances: FloatArray
    cost: FloatArray


def pair_by_mass(cloud: EventCloud) -> FourJets:
    """The four jets and pairs with equal masses and the mass of the Higgs boson together.

    Of the six jets that are flagged or else hardest, those are chosen that minimise
    ((m_12 - m_34) / 10)^2 + ((m_1234 - 125) / 20)^2, masses in GeV.

    Parameters
    ----------
    cloud : EventCloud
        With energy, pt, eta, phi, btag and is_lepton.
    """
    return _pair(cloud, N_JETS, by_mass=True)


def pair_by_distance(cloud: EventCloud) -> FourJets:
    """Pairs of the four jets that are flagged or else hardest, with the smallest sum of the distances in the pairs.

    Parameters
    ----------
    cloud : EventCloud
        As for :func:`pair_by_mass`.
    """
    return _pair(cloud, 4, by_mass=False)


def hypotheses(n_jets: int) -> IntArray:
    """All choices of two pairs among ``n_jets`` jets, shape (n, 4): the first pair, then the second.

    Examples
    --------
    >>> hypotheses(4).tolist()
    [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]]
    >>> len(hypotheses(6))
    45
    """
    found = []
    for a, b, c, d in itertools.combinations(range(n_jets), 4):
        found += [(a, b, c, d), (a, c, b, d), (a, d, b, c)]
    return np.array(found)


def _pair(cloud: EventCloud, n_jets: int, *, by_mass: bool) -> FourJets:
    slots, there = _ordered_jets(cloud, n_jets)
    rows = np.arange(len(cloud))[:, None]
    column = {
        name: cloud.objects[rows, slots, i].astype(np.float64)
        for i, name in enumerate(cloud.schema.object_names)
    }
    pt, eta, phi = column["pt"], column["eta"], column["phi"]
    momenta = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), column["energy"]], axis=-1)
    choices = hypotheses(n_jets)
    first, second = (momenta[:, choices[:, k]].sum(axis=2) for k in (slice(0, 2), slice(2, 4)))
    masses = np.stack([_mass(first), _mass(second), _mass(first + second)], axis=-1)  # (n, H, 3)
    apart = [
        np.hypot(
            eta[:, choices[:, i]] - eta[:, choices[:, j]],
            delta_phi(phi[:, choices[:, i]], phi[:, choices[:, j]]),
        )
        for i, j in ((0, 1), (2, 3))
    ]
    if by_mass:
        cost = ((masses[..., 0] - masses[..., 1]) / MASS_WIDTH) ** 2
        cost += ((masses[..., 2] - HIGGS_MASS) / HIGGS_WIDTH) ** 2
    else:
        cost = apart[0] + apart[1]
    cost = np.where(there[:, choices].all(axis=2), cost, np.inf)
    best = cost.argmin(axis=1)
    pick = np.arange(len(cloud)), best
    swap = masses[(*pick, 0)] < masses[(*pick, 1)]
    order = np.where(swap[:, None], [2, 3, 0, 1], [0, 1, 2, 3])
    chosen = np.take_along_axis(choices[best], order, axis=1)
    own_masses, inside = masses[pick], np.stack([each[pick] for each in apart], axis=1)
    own_masses[swap, :2] = own_masses[swap, 1::-1]
    inside[swap] = inside[swap, ::-1]
    between = _distance(first[pick], second[pick])
    valid = np.isfinite(cost[pick])
    return FourJets(
        np.where(valid[:, None], np.take_along_axis(slots, chosen, axis=1), -1).reshape(-1, 2, 2),
        np.where(valid[:, None], own_masses, np.nan),
        np.where(valid[:, None], np.column_stack([inside, between]), np.nan),
        np.where(valid, cost[pick], np.nan),
    )


def _ordered_jets(cloud: EventCloud, n_jets: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Slots of the first jets, flagged ones before others and each by pT, and whether they are there."""
    names = cloud.schema.object_names
    flag, is_lepton = (cloud.objects[..., names.index(name)] for name in ("btag", "is_lepton"))
    is_jet = cloud.mask & (is_lepton == 0)
    rank = np.where(is_jet, np.where(flag > 0, 0, 1), 2)
    slots = np.argsort(rank, axis=1, kind="stable")[:, :n_jets]
    there = np.take_along_axis(is_jet, slots, axis=1)
    return slots, there


def _mass(momenta: FloatArray) -> FloatArray:
    squared = momenta[..., 3] ** 2 - (momenta[..., :3] ** 2).sum(axis=-1)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _distance(one: FloatArray, other: FloatArray) -> FloatArray:
    def direction(p: FloatArray) -> tuple[FloatArray, FloatArray]:
        pt = np.maximum(np.hypot(p[:, 0], p[:, 1]), 1e-6)
        return np.arcsinh(p[:, 2] / pt), np.arctan2(p[:, 1], p[:, 0])

    (eta, phi), (other_eta, other_phi) = direction(one), direction(other)
    return np.asarray(np.hypot(eta - other_eta, delta_phi(phi, other_phi)))
