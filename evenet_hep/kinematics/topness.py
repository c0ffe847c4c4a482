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
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.hadronic_w import flags, flat_jets
from evenet_hep.kinematics.neutrino import event_columns, leptonic_w
from evenet_hep.kinematics.topness_search import search_events
from evenet_hep.kinematics.vectors import four_momenta

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STRATEGIES = ("joint", "sequential")

BLOCK = 8192  # events at a time, so that what is computed from their jets stays in the cache


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
        Start of each event in the flat jet arrays, beginning with 0; ``N * np.arange(n_events + 1)`` for padded
        arrays of shape (n_events, N), flattened.
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
        Share the events among as many threads as Numba would use (``NUMBA_NUM_THREADS``, else all cores).

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
    A top pair with both W at rest: two quarks, or lepton and neutrino, of 40.2 GeV back to back, and b jets of
    (172.5^2 - 80.4^2) / (2 * 80.4) = 144.851306 GeV.

    >>> result = topness(
    ...     [0, 4], [144.851306, 144.851306, 40.2, 40.2], [0.0] * 4, [1.0, 2.0, 0.0, 3.14159265], [0.0] * 4,
    ...     [True, True, False, False], [40.2], [0.0], [1.0], [0.0], [40.2], [-2.14159265]
    ... )
    >>> result.topness.round(6), result.tlep_mass.round(3), result.q1, result.q2
    (array([0.]), array([172.5]), array([2]), array([3]))
    """
    if strategy not in STRATEGIES:
        msg = f"strategy must be one of {', '.join(STRATEGIES)}; found {strategy!r}"
        raise ValueError(msg)
    constants = constants or TopnessConstants()
    starts, jets = flat_jets(offsets, pt=pt, eta=eta, phi=phi, mass=mass)
    n_events, n_jets = len(starts) - 1, len(jets[0])
    leptons = event_columns(
        n_events,
        lepton_pt=lepton_pt,
        lepton_eta=lepton_eta,
        lepton_phi=lepton_phi,
        lepton_mass=lepton_mass,
        met=met,
        met_phi=met_phi,
    )
    is_b = flags("is_bjet", is_bjet, n_jets)
    is_real = np.ones(n_jets, np.bool_) if mask is None else flags("mask", mask, n_jets)
    values = np.full((8, n_events), np.nan)  # the search leaves invalid events alone
    indices = np.full((4, n_events), -1, np.int64)

    def search(first: int) -> None:
        """Write the results of the block of events that begins at ``first``."""
        last = min(first + BLOCK, n_events)
        block = slice(starts[first], starts[last])
        columns = tuple(column[block] for column in jets)
        pt, eta, phi, mass, met, met_phi = (column[first:last] for column in leptons)
        search_events(
            first,
            starts[first : last + 1] - starts[first],
            (*columns, four_momenta(*columns)),
            is_b[block],
            is_real[block],
            (eta, phi, mass, four_momenta(pt, eta, phi, mass)),
            leptonic_w(pt, eta, phi, mass, met, met_phi, w_mass=constants.w_mass),
            strategy == "sequential",
            dataclasses.astuple(constants),
            values,
            indices,
        )

    blocks = range(0, n_events, BLOCK)
    if parallel and len(blocks) > 1:
        # Blocks touch nothing in common, and neither NumPy nor the search holds the interpreter's lock.
        with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:  # type: ignore[attr-defined]
            list(pool.map(search, blocks))
    else:
        for first in blocks:
            search(first)
    return TopnessResult(values[0], indices[0] >= 0, *values[1:], *indices)
