"""How well an event with one lepton fits top pair production: a chi-square over all jet assignments.

    chi2 = ((m(q1 q2) - m_W) / s_W)^2 + ((m(q1 q2 b_had) - m_t) / s_had)^2 + ((m(l nu b_lep) - m_t) / s_lep)^2

b candidates are the b-tagged jets, q candidates all others, the neutrino comes from the W mass
(:mod:`evenet_hep.kinematics.neutrino`). The smallest chi2 is the topness: small values look like top pairs, and the
bbWW study of EveNet keeps events *above* 3.

The name is also used for another quantity: Graesser and Shelton (arXiv:1212.4495) minimise over the unmeasured
momenta of a top pair whose second lepton was lost. That is not what is computed here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import njit, prange

from evenet_hep.kinematics.angles import delta_r_scalar
from evenet_hep.kinematics.neutrino import smaller_root, solve_neutrino_pz
from evenet_hep.kinematics.vectors import cartesian_scalar, eta_phi_scalar, mass_scalar

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STRATEGIES = ("joint", "sequential")


@dataclasses.dataclass(frozen=True)
class TopnessConstants:
    """Masses and resolutions of the topness chi-square, in GeV.

    Parameters
    ----------
    w_mass, top_mass : float
        Masses that a W boson and a top quark should have.
    w_sigma, hadronic_sigma, leptonic_sigma : float
        Resolutions of m(q q), m(q q b) and m(l nu b). The paper does not give them; they come from the released code.

    Raises
    ------
    ValueError
        For a constant that is not a positive number.

    Examples
    --------
    >>> TopnessConstants(top_mass=173.3).leptonic_sigma
    28.72
    """

    w_mass: float = 80.4
    top_mass: float = 172.5
    w_sigma: float = 11.83
    hadronic_sigma: float = 20.87
    leptonic_sigma: float = 28.72

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                msg = f"topness constant {field.name} must be a positive number of GeV; found {value}"
                raise ValueError(msg)


class TopnessResult(NamedTuple):
    """Topness and the assignment that makes it, one entry per event.

    Every number is NaN and every index -1 where ``valid`` is False, so that ``result.topness > 3`` is False there.
    (The published ntuples hold 99999 instead, which passes the cut.)

    Parameters
    ----------
    topness : float64 array
        Smallest chi2, a pure number.
    valid : bool array
        The event has a lepton, at least two b candidates and two q candidates, and all its input was finite.
    dr_lb : float64 array
        Delta R of the lepton and ``b_lep``.
    m_lb : float64 array
        Invariant mass of the lepton and ``b_lep`` in GeV.
    tlep_mass, whad_mass, thad_mass : float64 array
        m(l nu b_lep), m(q1 q2) and m(q1 q2 b_had) in GeV.
    whad_dr_qq : float64 array
        Delta R of ``q1`` and ``q2``.
    thad_dr_bqq : float64 array
        Delta R of ``b_had`` and the hadronic W.
    b_lep, b_had, q1, q2 : int64 array
        Positions of the jets in the event's list as it was handed over; ``q1 < q2``.
    """

    topness: FloatArray
    valid: BoolArray
    dr_lb: FloatArray
    m_lb: FloatArray
    tlep_mass: FloatArray
    whad_mass: FloatArray
    whad_dr_qq: FloatArray
    thad_mass: FloatArray
    thad_dr_bqq: FloatArray
    b_lep: IntArray
    b_had: IntArray
    q1: IntArray
    q2: IntArray


def topness(
    offsets: npt.ArrayLike,
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    is_bjet: npt.ArrayLike,
    lepton_pt: npt.ArrayLike,
    lepton_eta: npt.ArrayLike,
    lepton_phi: npt.ArrayLike,
    lepton_mass: npt.ArrayLike,
    met: npt.ArrayLike,
    met_phi: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    strategy: Literal["joint", "sequential"] = "joint",
    constants: TopnessConstants | None = None,
    parallel: bool = False,
) -> TopnessResult:
    """Topness of every event and the jet assignment that makes it.

    Parameters
    ----------
    offsets : int array, shape (n_events + 1,)
        Start of each event in the flat jet arrays, beginning with 0.
    pt, eta, phi, mass : array, shape (n_jets,)
        Jets in GeV and radians, in any order.
    is_bjet : bool array, shape (n_jets,)
        True for b candidates; all other jets are q candidates.
    lepton_pt, lepton_eta, lepton_phi, lepton_mass : array, shape (n_events,)
        The lepton in GeV and radians; NaN where an event has none.
    met, met_phi : array, shape (n_events,)
        Missing transverse momentum in GeV and radians.
    mask : bool array, shape (n_jets,), optional
        False for padding, which is ignored whatever it holds.
    strategy : str
        ``"joint"`` minimises over all assignments at once, as the EveNet paper says. ``"sequential"`` first gives the
        leptonic top the b jet that comes closest to m_t and then minimises over the rest, as the released code does;
        the published ntuples hold that one. ``"joint"`` is never larger.
    constants : TopnessConstants, optional
        Other masses and resolutions than the published ones.
    parallel : bool
        Share the events among Numba's threads.

    Returns
    -------
    TopnessResult
        Arrays of shape (n_events,). Equal chi2 are decided in favour of the harder jets: first of b_lep, then of
        b_had, then of the pair.

    Raises
    ------
    ValueError
        For an unknown strategy or arrays whose lengths do not fit together.

    Notes
    -----
    EveNet paper, Sec. III. The joint minimum separates into f(b_lep) + g(b_had, pair): every mass is computed once
    instead of once per assignment, with the same result as the exhaustive search.

    Examples
    --------
    >>> result = topness(
    ...     [0, 4], [80.0, 60.0, 50.0, 40.0], [0.1, -0.5, 1.0, 0.3], [0.0, 2.0, -2.5, -1.2], [5.0, 5.0, 8.0, 6.0],
    ...     [True, True, False, False], [45.0], [0.2], [1.4], [0.1], [30.0], [-0.4]
    ... )
    >>> result.topness.round(2), result.b_lep, result.q1, result.q2
    (array([0.]), array([1]), array([2]), array([3]))
    """
    if strategy not in STRATEGIES:
        msg = f"strategy must be one of {', '.join(STRATEGIES)}; found {strategy!r}"
        raise ValueError(msg)
    starts, jets = flat_jets(offsets, pt=pt, eta=eta, phi=phi, mass=mass)
    n_events, n_jets = len(starts) - 1, len(jets[0])
    leptons = event_columns(
        n_events, lepton_pt=lepton_pt, lepton_eta=lepton_eta, lepton_phi=lepton_phi, lepton_mass=lepton_mass
    )
    missing = event_columns(n_events, met=met, met_phi=met_phi)
    is_b = flags("is_bjet", is_bjet, n_jets)
    real = np.ones(n_jets, np.bool_) if mask is None else flags("mask", mask, n_jets)
    values = np.full((8, n_events), np.nan)
    indices = np.full((4, n_events), -1, np.int64)
    search = _search_parallel if parallel else _search_all
    numbers = dataclasses.astuple(constants or TopnessConstants())
    search(starts, jets, is_b, real, leptons, missing, strategy == "sequential", numbers, values, indices)
    return TopnessResult(values[0], indices[0] >= 0, *values[1:], *indices)


def _search_all(*arguments: Any) -> None:
    starts = arguments[0]
    _search_events(0, len(starts) - 1, *arguments)


@njit(cache=True)
def _search_events(
    first: int,
    last: int,
    starts: IntArray,
    jets: tuple[FloatArray, ...],
    is_bjet: BoolArray,
    mask: BoolArray,
    leptons: tuple[FloatArray, ...],
    missing: tuple[FloatArray, ...],
    sequential: bool,
    constants: tuple[float, ...],
    values: FloatArray,
    indices: IntArray,
) -> None:
    largest = 0
    for event in range(first, last):
        largest = max(largest, starts[event + 1] - starts[event])
    # Scratch of one thread: candidates are sorted by pT, the b jets before the others.
    order = np.empty(largest, np.int64)
    momenta = np.empty((largest, 4))
    leptonic, hadronic = np.empty(largest), np.empty(largest)
    pairs = np.empty((largest, 2), np.int64)
    boson = np.empty((2, 4))
    for event in range(first, last):
        n_b, n_q = sort_candidates(starts[event], starts[event + 1], jets, is_bjet, mask, order)
        if n_b < 2 or n_q < 2:
            continue
        if not _leptonic_w(event, leptons, missing, constants[0], boson):
            continue
        fill_momenta(jets, order, n_b + n_q, momenta)
        _leptonic_terms(momenta, n_b, boson[1], constants, leptonic)
        _hadronic_terms(momenta, n_b, n_q, constants, hadronic, pairs)
        b_lep, b_had = _choose(leptonic, hadronic, n_b, sequential)
        if b_lep < 0:
            continue
        values[0, event] = leptonic[b_lep] + hadronic[b_had]
        q1, q2 = pairs[b_had, 0], pairs[b_had, 1]
        _describe(event, momenta, boson, b_lep, b_had, q1, q2, values)
        indices[0, event] = order[b_lep] - starts[event]
        indices[1, event] = order[b_had] - starts[event]
        indices[2, event] = min(order[q1], order[q2]) - starts[event]
        indices[3, event] = max(order[q1], order[q2]) - starts[event]


@njit(cache=True, parallel=True)
def _search_parallel(
    starts: IntArray,
    jets: tuple[FloatArray, ...],
    is_bjet: BoolArray,
    mask: BoolArray,
    leptons: tuple[FloatArray, ...],
    missing: tuple[FloatArray, ...],
    sequential: bool,
    constants: tuple[float, ...],
    values: FloatArray,
    indices: IntArray,
) -> None:
    n_events = len(starts) - 1
    n_blocks = 8 * numba.get_num_threads()  # more blocks than threads: events differ in cost
    for block in prange(n_blocks):
        first = block * n_events // n_blocks
        last = (block + 1) * n_events // n_blocks
        _search_events(
            first, last, starts, jets, is_bjet, mask, leptons, missing, sequential, constants, values, indices
        )


@njit(cache=True)
def _leptonic_w(
    event: int,
    leptons: tuple[FloatArray, ...],
    missing: tuple[FloatArray, ...],
    w_mass: float,
    boson: FloatArray,
) -> bool:
    """Lepton (row 0) and lepton plus neutrino (row 1); False if there is no neutrino."""
    pt, eta, phi, mass = leptons[0][event], leptons[1][event], leptons[2][event], leptons[3][event]
    met, met_phi = missing[0][event], missing[1][event]
    _, pz_minus, pz_plus, _ = solve_neutrino_pz(pt, eta, phi, mass, met, met_phi, w_mass, False)
    pz = smaller_root(pz_minus, pz_plus)
    px, py, pz_lepton, energy = cartesian_scalar(pt, eta, phi, mass)
    boson[0, 0], boson[0, 1], boson[0, 2], boson[0, 3] = px, py, pz_lepton, energy
    boson[1, 0] = px + met * math.cos(met_phi)
    boson[1, 1] = py + met * math.sin(met_phi)
    boson[1, 2] = pz_lepton + pz
    boson[1, 3] = energy + math.sqrt(met * met + pz * pz)
    return math.isfinite(pz)


@njit(cache=True)
def _leptonic_terms(
    momenta: FloatArray, n_b: int, boson: FloatArray, constants: tuple[float, ...], terms: FloatArray
) -> None:
    """f(b): the leptonic top's term for every b jet as b_lep."""
    for b in range(n_b):
        top = mass_scalar(
            boson[0] + momenta[b, 0], boson[1] + momenta[b, 1], boson[2] + momenta[b, 2], boson[3] + momenta[b, 3]
        )
        pull = (top - constants[1]) / constants[4]
        terms[b] = pull * pull


@njit(cache=True)
def _hadronic_terms(
    momenta: FloatArray, n_b: int, n_q: int, constants: tuple[float, ...], terms: FloatArray, pairs: IntArray
) -> None:
    """g(b): for every b jet as b_had the smallest sum of the W and the hadronic top term, and its pair."""
    terms[:n_b] = np.inf
    for q1 in range(n_b, n_b + n_q - 1):
        for q2 in range(q1 + 1, n_b + n_q):
            px, py = momenta[q1, 0] + momenta[q2, 0], momenta[q1, 1] + momenta[q2, 1]
            pz, energy = momenta[q1, 2] + momenta[q2, 2], momenta[q1, 3] + momenta[q2, 3]
            w_pull = (mass_scalar(px, py, pz, energy) - constants[0]) / constants[2]
            w_term = w_pull * w_pull
            for b in range(n_b):
                if w_term >= terms[b]:  # the top term can only add
                    continue
                top = mass_scalar(
                    px + momenta[b, 0], py + momenta[b, 1], pz + momenta[b, 2], energy + momenta[b, 3]
                )
                top_pull = (top - constants[1]) / constants[3]
                total = w_term + top_pull * top_pull
                if total < terms[b]:
                    terms[b] = total
                    pairs[b, 0], pairs[b, 1] = q1, q2


@njit(cache=True)
def _choose(leptonic: FloatArray, hadronic: FloatArray, n_b: int, sequential: bool) -> tuple[int, int]:
    """Positions of b_lep and b_had; (-1, -1) if no sum is a number."""
    best, b_lep, b_had = np.inf, -1, -1
    only = np.argmin(leptonic[:n_b]) if sequential else -1
    for i in range(n_b):
        if sequential and i != only:
            continue
        for k in range(n_b):
            total = leptonic[i] + hadronic[k]
            if i != k and total < best:
                best, b_lep, b_had = total, i, k
    return b_lep, b_had


@njit(cache=True)
def _describe(
    event: int,
    momenta: FloatArray,
    boson: FloatArray,
    b_lep: int,
    b_had: int,
    q1: int,
    q2: int,
    values: FloatArray,
) -> None:
    """Masses and distances of the chosen assignment, in the order of TopnessResult."""
    ...
