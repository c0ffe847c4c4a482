"""The two light jets of a hadronic W, chosen under two hypotheses, and transverse masses of clusters.

Hypothesis A takes the pair whose mass comes closest to the W mass (the W on its mass shell), hypothesis B the pair that
with the lepton and the neutrino comes closest to the Higgs mass (H -> WW* with the hadronic W off its shell). Both look
at the hardest light jets only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.angles import delta_phi
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.vectors import four_momenta

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

HIGGS_MASS = 125.2  # GeV
MAX_LIGHT_JETS = 8


class JetPairs(NamedTuple):
    """One pair of jets per event.

    Parameters
    ----------
    q1, q2 : int64 array, shape (n_events,)
        Positions of the harder and the softer jet in the event's list; -1 if not valid.
    mass : float64 array, shape (n_events,)
        Mass that was compared with the target, in GeV: of the pair and its companion. NaN if not valid.
    valid : bool array, shape (n_events,)
        The event has at least two candidates, and its candidates and companion are finite.
    """

    q1: IntArray
    q2: IntArray
    mass: FloatArray
    valid: BoolArray


def closest_pair(
    offsets: npt.ArrayLike,
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    is_candidate: npt.ArrayLike,
    *,
    target: float = W_MASS,
    companion: npt.ArrayLike | None = None,
    max_candidates: int = MAX_LIGHT_JETS,
) -> JetPairs:
    """The pair of jets whose mass, together with a companion, comes closest to a target mass.

    Parameters
    ----------
    offsets : int array, shape (n_events + 1,)
        Start of each event in the flat jet arrays, beginning with 0.
    pt, eta, phi, mass : array, shape (n_jets,)
        Jets in GeV and radians, in any order.
    is_candidate : bool array, shape (n_jets,)
        Jets to choose from; the others may hold anything.
    target : float
        GeV: 80.4 for hypothesis A, 125.2 for hypothesis B.
    companion : array, shape (4, n_events), optional
        Four-vector (px, py, pz, E) in GeV that is added to every pair: nothing for hypothesis A, lepton plus neutrino for
        hypothesis B (:func:`evenet_hep.kinematics.neutrino.leptonic_w`). NaN makes the event invalid.
    max_candidates : int
        Only that many of the hardest candidates are looked at.

    Returns
    -------
    JetPairs
        Arrays of shape (n_events,). Of equally close pairs the one with the harder first, then second, jet.

    Raises
    ------
    ValueError
        For arrays whose lengths do not fit together, or less than two candidates.

    Notes
    -----
    EveNet paper, Table IV.

    Examples
    --------
    >>> pairs = closest_pair(
    ...     [0, 3], [30.0, 50.0, 40.0], [0.0, 0.0, 0.0], [0.0, 2.0, -2.0], [0.0, 0.0, 0.0], [True, True, True]
    ... )
    >>> pairs.q1, pairs.q2, pairs.mass.round(2)
    (array([1]), array([2]), array([81.33]))
    """
    if max_candidates < 2:
        msg = f"max_candidates must be at least 2; found {max_candidates}"
        raise ValueError(msg)
    starts, jets = flat_jets(offsets, pt=pt, eta=eta, phi=phi, mass=mass)
    n_events = len(starts) - 1
    candidates = flags("is_candidate", is_candidate, len(jets[0]))
    added = np.zeros((4, n_events)) if companion is None else np.require(companion, np.float64, ["C", "W"])
    if added.shape != (4, n_events):
        msg = f"companion must have shape (4, {n_events}); found {added.shape}"
        raise ValueError(msg)
    indices = np.full((2, n_events), -1, np.int64)
    masses = np.full(n_events, np.nan)
    _find_pairs(
        starts, jets[0], four_momenta(*jets), candidates, added, target, max_candidates, indices, masses
    )
    return JetPairs(indices[0], indices[1], masses, indices[0] >= 0)


def cluster_transverse_mass(
    pt: npt.ArrayLike, phi: npt.ArrayLike, mass: npt.ArrayLike, met: npt.ArrayLike, met_phi: npt.ArrayLike
) -> FloatArray:
    """Transverse mass of a visible system and the missing transverse momentum.

    mT^2 = (sqrt(pT^2 + m^2) + MET)^2 - |pT vector + MET vector|^2

    Parameters
    ----------
    pt, phi, mass : array-like, shape (n_events,)
        The visible system, in GeV and radians.
    met, met_phi : array-like, shape (n_events,)
        Missing transverse momentum, in GeV and radians.

    Returns
    -------
    float64 array, shape (n_events,)
        GeV; NaN where an input is NaN.

    Examples
    --------
    >>> cluster_transverse_mass([40.0, 30.0], [0.0, 1.0], [0.0, 80.0], [40.0, 0.0], [3.141592653589793, 0.0])
    array([80., 80.])
    """
    pt, mass, met = (np.asarray(values, np.float64) for values in (pt, mass, met))
    # Expanded into terms that are not negative, so that a system along the MET does not cancel to noise.
    mass2 = mass * np.abs(mass)  # a negative mass stands for a negative square
    transverse_energy = np.sqrt(np.maximum(pt * pt + mass2, 0.0))
    half_sine = np.sin(0.5 * delta_phi(phi, met_phi))
    with np.errstate(invalid="ignore"):  # 0 / 0 for a system without mass and momentum
        excess = mass2 / (transverse_energy + pt)
    excess = np.where(transverse_energy + pt > 0.0, excess, transverse_energy - pt)
    return np.sqrt(np.maximum(mass2 + 2.0 * met * (excess + 2.0 * pt * half_sine * half_sine), 0.0))


def flat_jets(offsets: npt.ArrayLike, **columns: npt.ArrayLike) -> tuple[IntArray, tuple[FloatArray, ...]]:
    """Offsets as int64 and jet columns as contiguous float64, checked against each other.

    Raises
    ------
    ValueError
        For offsets that do not begin at 0 or decrease, and columns that do not end where the offsets do.

    Examples
    --------
    >>> flat_jets([0, 1, 2], pt=[30, 20])
    (array([0, 1, 2]), (array([30., 20.]),))
    """
    # "W" for a type that is always the same: a read-only array would compile every kernel again.
    starts = np.require(offsets, np.int64, ["C", "W"])
    if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0 or np.any(starts[1:] < starts[:-1]):
        msg = f"offsets must be (n_events + 1,) numbers that begin at 0 and never decrease; found {starts}"
        raise ValueError(msg)
    arrays = {name: np.require(column, np.float64, ["C", "W"]) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.shape != (starts[-1],):
            msg = (
                f"{name} must have the {starts[-1]} entries that offsets ends with; found shape {array.shape}"
            )
            raise ValueError(msg)
    return starts, tuple(arrays.values())


def flags(name: str, values: npt.ArrayLike, length: int) -> BoolArray:
    """Contiguous bools of a given length.

    Raises
    ------
    ValueError
        For another length or type: 0.7 or NaN is no flag.

    Examples
    --------
    >>> flags("is_bjet", [True, False], 2)
    array([ True, False])
    """
    array = np.require(values, requirements=["C", "W"])
    if array.shape != (length,) or (array.dtype != np.bool_ and length > 0):
        msg = f"{name} must hold {length} bools; found {array.dtype} of shape {array.shape}"
        raise ValueError(msg)
    return array.astype(np.bool_, copy=False)


# The kernels take single arrays: a tuple of arrays would be counted in and out at every call, which costs more than
# the arithmetic.


@njit(cache=True, error_model="numpy")
def sort_candidates(
    first: int,
    last: int,
    pt: FloatArray,
    momentum: FloatArray,
    is_chosen: BoolArray,
    mask: BoolArray,
    chosen: IntArray,
    others: IntArray,
) -> tuple[int, int]:
    """Flat positions of one event's jets by decreasing pT, in two groups.

    Parameters
    ----------
    first, last : int
        Range of the event in the flat columns.
    pt, momentum : float64 array, shapes (n_jets,) and (4, n_jets)
        Of all jets.
    is_chosen, mask : bool array, shape (n_jets,)
        Jets of the first group; jets to take at all.
    chosen, others : int64 array, written
        Two arrays of at least ``last - first`` entries. Jets of equal pT keep their order.

    Returns
    -------
    n_chosen, n_others : int
        How many there are of each; (-1, -1) if a jet is not finite or has negative pT.
    """
    n_chosen, n_others, usable, ordered = 0, 0, True, True
    softest = math.inf
    for jet in range(first, last):
        # Written to both lists, kept in the one whose count goes up: tags are as good as random, branches on them cost.
        chosen[n_chosen] = others[n_others] = jet
        total = momentum[0, jet] + momentum[1, jet] + momentum[2, jet] + momentum[3, jet]
        real = mask[jet]
        usable &= (not real) or (math.isfinite(total) and pt[jet] >= 0.0)
        ordered &= (not real) or pt[jet] <= softest
        softest = pt[jet] if real else softest
        n_chosen += real and is_chosen[jet]
        n_others += real and not is_chosen[jet]
    if not usable:
        return -1, -1
    if not ordered:
        sort_by_pt(pt, chosen, n_chosen)
        sort_by_pt(pt, others, n_others)
    return n_chosen, n_others


@njit(cache=True, error_model="numpy")
def sort_by_pt(pt: FloatArray, order: IntArray, count: int) -> None:
    """Sort ``order[:count]`` by decreasing pT; jets of equal pT keep their order."""
    for i in range(1, count):
        jet, slot = order[i], i
        while slot > 0 and pt[order[slot - 1]] < pt[jet]:
            order[slot] = order[slot - 1]
            slot -= 1
        order[slot] = jet


@njit(cache=True, error_model="numpy")
def squared(mass: float) -> float:
    """Square of a mass, negative for a negative one: m |m|.

    Examples
    --------
    >>> squared(3.0), squared(-3.0)
    (9.0, -9.0)
    """
    return mass * abs(mass)


@njit(cache=True, error_model="numpy")
def signed_sqrt(square: float) -> float:
    """Mass of a squared mass, with its sign.

    Examples
    --------
    >>> signed_sqrt(4.0), signed_sqrt(-4.0)
    (2.0, -2.0)
    """
    return math.copysign(math.sqrt(abs(square)), square)


@njit(cache=True, error_model="numpy")
def _find_pairs(
    starts: IntArray,
    pt: FloatArray,
    momentum: FloatArray,
    is_candidate: BoolArray,
    companion: FloatArray,
    target: float,
    max_candidates: int,
    indices: IntArray,
    masses: FloatArray,
) -> None:
    n_events = len(starts) - 1
    largest = 0
    for event in range(n_events):
        largest = max(largest, starts[event + 1] - starts[event])
    order, others = np.empty(largest, np.int64), np.empty(largest, np.int64)
    for event in range(n_events):
        start = starts[event]
        count, _ = sort_candidates(
            start, starts[event + 1], pt, momentum, is_candidate, is_candidate, order, others
        )
        count = min(count, max_candidates)
        closest, chosen, first, second = np.inf, np.nan, -1, -1
        for i in range(count - 1):
            for k in range(i + 1, count):
                mass = _mass_of_three(momentum, order[i], order[k], companion, event)
                distance = abs(mass - target)
                closer = (
                    distance < closest
                )  # never for NaN; chosen without a branch, as nobody can foresee it
                closest, chosen = distance if closer else closest, mass if closer else chosen
                first, second = i if closer else first, k if closer else second
        if first >= 0:
            masses[event] = chosen
            indices[0, event], indices[1, event] = order[first] - start, order[second] - start


@njit(cache=True, error_model="numpy")
def _mass_of_three(momentum: FloatArray, i: int, k: int, companion: FloatArray, event: int) -> float:
    px = momentum[0, i] + momentum[0, k] + companion[0, event]
    py = momentum[1, i] + momentum[1, k] + companion[1, event]
    pz = momentum[2, i] + momentum[2, k] + companion[2, event]
    energy = momentum[3, i] + momentum[3, k] + companion[3, event]
    return signed_sqrt(energy * energy - px * px - py * py - pz * pz)
