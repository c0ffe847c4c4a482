"""Top pairs, their spin and dimuons of awkward records: the kernels of :mod:`evenet_hep.kinematics`, called with records.

Every particle is one record (or None) per event, as ``ak.firsts(leptons)`` or ``events.Jet[:, 0]`` give it, with
coordinates in any of the namings of the vector package: ``pt, eta, phi, mass``, ``px, py, pz, energy`` and mixtures.
Only the fields needed are read, by item, so that virtual arrays read nothing else from the file. Numbers come back as
NumPy arrays with one entry per event, four-vectors as records named ``Momentum4D`` with the fields ``pt``, ``eta``,
``phi`` and ``mass``, which have all methods of vector once ``vector.register_awkward()`` was called.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.flat import event_column
from evenet_hep.events.momenta import (
    ENERGIES,
    LONGITUDINAL,
    MASSES,
    TRANSVERSE,
    four_momenta,
    momentum_records,
    three_momenta,
)
from evenet_hep.kinematics.dilepton import TOP_MASS
from evenet_hep.kinematics.dilepton import dilepton_solutions as flat_dilepton_solutions
from evenet_hep.kinematics.dilepton import reconstruct_dilepton as flat_reconstruct_dilepton
from evenet_hep.kinematics.dimuon import MUON_MASS, DimuonFeatures
from evenet_hep.kinematics.dimuon import calibrate_dimuon as flat_calibrate_dimuon
from evenet_hep.kinematics.dimuon import dimuon_features as flat_dimuon_features
from evenet_hep.kinematics.neutrino import W_MASS
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.kinematics.spin import spin_angles as flat_spin_angles
from evenet_hep.kinematics.vectors import transverse as transverse_momenta

__all__ = [
    "ENERGIES",
    "LONGITUDINAL",
    "MASSES",
    "TRANSVERSE",
    "DileptonRecords",
    "DimuonRecords",
    "SolutionRecords",
    "calibrate_dimuon",
    "dilepton_solutions",
    "dimuon_features",
    "four_momenta",
    "momentum_records",
    "reconstruct_dilepton",
    "spin_angles",
    "three_momenta",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class DileptonRecords(NamedTuple):
    """Reconstructed top pairs, one per event; NaN, -1 and 0 where ``valid`` is False.

    Parameters
    ----------
    top, antitop, neutrino, antineutrino : ak.Array of records
        Four-vectors in GeV and radians; the top decays to l+.
    m_tt, pairing, n_solutions, met_residual, exact, valid
        As in :class:`evenet_hep.kinematics.dilepton.DileptonTops`.
    """

    top: ak.Array
    antitop: ak.Array
    neutrino: ak.Array
    antineutrino: ak.Array
    m_tt: FloatArray
    pairing: IntArray
    n_solutions: IntArray
    met_residual: FloatArray
    exact: BoolArray
    valid: BoolArray


class SolutionRecords(NamedTuple):
    """All real solutions for one assignment of the b jets, one list of 0 to 4 per event.

    Parameters
    ----------
    neutrino, antineutrino : ak.Array of lists of records
        Four-vectors in GeV and radians, by ascending px of the neutrino.
    m_tt : ak.Array of lists of float
        Mass of the top pair in GeV.
    best : int64 array, shape (n_events,)
        Position of the smallest ``m_tt``; -1 where there is none.
    valid : bool array, shape (n_events,)
        The constraints could be written down; the list may be empty.
    """

    neutrino: ak.Array
    antineutrino: ak.Array
    m_tt: ak.Array
    best: IntArray
    valid: BoolArray


class DimuonRecords(NamedTuple):
    """Calibrated muons, one entry per event; NaN where ``valid`` is False, but for ``m_gen``.

    Parameters
    ----------
    muon1, muon2 : ak.Array of records
        Four-vectors in GeV and radians.
    m_gen, scale, adjustment, adjustment_p3, valid
        As in :class:`evenet_hep.kinematics.dimuon.DimuonCalibration`.
    """

    muon1: ak.Array
    muon2: ak.Array
    m_gen: FloatArray
    scale: FloatArray
    adjustment: FloatArray
    adjustment_p3: FloatArray
    valid: BoolArray


def spin_angles(
    top: ak.Array, antitop: ak.Array, lplus: ak.Array, lminus: ak.Array, *, bose_sign: bool = False
) -> SpinAngles:
    """Helicity-basis decay angles of top pairs; see :func:`evenet_hep.kinematics.spin.spin_angles`.

    Parameters
    ----------
    top, antitop, lplus, lminus : ak.Array of records, one per event
        Four-vectors in the laboratory in GeV and radians; l+ comes from the top, l- from the antitop. None where an
        event lacks one.
    bose_sign : bool
        Multiply the axes r and n by the sign of the top's cos theta.

    Returns
    -------
    SpinAngles
        NumPy arrays with one entry per event; NaN with ``valid`` False where an angle is not defined.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> top = ak.Array([{"px": 100.0, "py": 0.0, "pz": 0.0, "energy": 200.0}, None])
    >>> antitop = ak.Array([{"px": -100.0, "py": 0.0, "pz": 0.0, "energy": 200.0}, None])
    >>> lplus = ak.Array([{"pt": 50.0, "eta": 0.0, "phi": 1.57079633, "mass": 0.0}, None])
    >>> angles = spin_angles(top, antitop, lplus, lplus)
    >>> angles.cos_plus[0].round(3), angles.valid
    (array([-0.5,  nan]), array([ True, False]))
    """
    n_events = len(lplus)
    return flat_spin_angles(
        four_momenta("top", top, n_events),
        four_momenta("antitop", antitop, n_events),
        four_momenta("lplus", lplus, n_events),
        four_momenta("lminus", lminus, n_events),
        bose_sign=bose_sign,
    )


def reconstruct_dilepton(
    lplus: ak.Array,
    lminus: ak.Array,
    bjet1: ak.Array,
    bjet2: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    pairing: Literal["solutions", "m_lb", "given"] = "solutions",
    w_mass: float = W_MASS,
    top_mass: float = TOP_MASS,
) -> DileptonRecords:
    """One top pair per event; see :func:`evenet_hep.kinematics.dilepton.reconstruct_dilepton`.

    Parameters
    ----------
    lplus, lminus : ak.Array of records, one per event
        The leptons, in GeV and radians; None where an event lacks one.
    bjet1, bjet2 : ak.Array of records, one per event
        The b jets, in any order unless ``pairing="given"``.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    pairing, w_mass, top_mass
        As for the flat function.

    Returns
    -------
    DileptonRecords
        Ready for :func:`spin_angles` together with the leptons.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> def particle(pt, phi, mass=0.0):
    ...     return ak.Array([{"pt": pt, "eta": 0.3, "phi": phi, "mass": mass}, None])
    >>> lplus, lminus, b, bbar = particle(50.0, 0.2), particle(40.0, 2.0), particle(60.0, -1.0, 5.0), particle(55.0, 3.0)
    >>> tops = reconstruct_dilepton(lplus, lminus, b, bbar, [45.0, 45.0], [-2.0, -2.0])
    >>> tops.top.mass.to_numpy().round(6), tops.valid
    (array([172.5,   nan]), array([ True, False]))
    """
    tops = flat_reconstruct_dilepton(
        *_dilepton(lplus, lminus, bjet1, bjet2, met, met_phi),
        pairing=pairing,
        w_mass=w_mass,
        top_mass=top_mass,
    )
    return DileptonRecords(
        top=momentum_records(tops.top),
        antitop=momentum_records(tops.antitop),
        neutrino=momentum_records(tops.neutrino, mass=0.0),
        antineutrino=momentum_records(tops.antineutrino, mass=0.0),
        m_tt=tops.m_tt,
        pairing=tops.pairing,
        n_solutions=tops.n_solutions,
        met_residual=tops.met_residual,
        exact=tops.exact,
        valid=tops.valid,
    )


def dilepton_solutions(
    lplus: ak.Array,
    lminus: ak.Array,
    b: ak.Array,
    bbar: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    w_mass: float = W_MASS,
    top_mass: float = TOP_MASS,
) -> SolutionRecords:
    """All real neutrino momenta; see :func:`evenet_hep.kinematics.dilepton.dilepton_solutions`.

    Parameters
    ----------
    lplus, lminus, met, met_phi
        As for :func:`reconstruct_dilepton`.
    b, bbar : ak.Array of records, one per event
        The b jets that go with l+ and with l-.
    w_mass, top_mass : float
        GeV.

    Returns
    -------
    SolutionRecords

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> def particle(pt, phi, mass=0.0):
    ...     return ak.Array([{"pt": pt, "eta": 0.3, "phi": phi, "mass": mass}, None])
    >>> lplus, lminus, b, bbar = particle(50.0, 0.2), particle(40.0, 2.0), particle(60.0, -1.0, 5.0), particle(55.0, 3.0)
    >>> found = dilepton_solutions(lplus, lminus, b, bbar, [45.0, 45.0], [-2.0, -2.0])
    >>> ak.num(found.neutrino).to_list() == ak.num(found.m_tt).to_list(), found.best[1], found.valid[1]
    (True, np.int64(-1), np.False_)
    """
    found = flat_dilepton_solutions(
        *_dilepton(lplus, lminus, b, bbar, met, met_phi), w_mass=w_mass, top_mass=top_mass
    )
    real = np.arange(found.m_tt.shape[1]) < found.n_solutions[:, None]
    return SolutionRecords(
        neutrino=ak.unflatten(momentum_records(found.neutrino[:, real], mass=0.0), found.n_solutions),
        antineutrino=ak.unflatten(momentum_records(found.antineutrino[:, real], mass=0.0), found.n_solutions),
        m_tt=ak.unflatten(ak.Array(found.m_tt[real]), found.n_solutions),
        best=found.best,
        valid=found.valid,
    )


def calibrate_dimuon(
    muon1: ak.Array, muon2: ak.Array, mass: npt.ArrayLike | ak.Array, *, muon_mass: float = MUON_MASS
) -> DimuonRecords:
    """Muon pairs moved to a target mass; see :func:`evenet_hep.kinematics.dimuon.calibrate_dimuon`.

    Parameters
    ----------
    muon1, muon2 : ak.Array of records, one per event
        The generated muons, in GeV and radians; their mass or energy is not read.
    mass : array, one number per event, or one number for all
        Target mass in GeV.
    muon_mass : float
        GeV.

    Returns
    -------
    DimuonRecords

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> muon1, muon2 = (ak.Array([{"pt": 5.0, "eta": 0.0, "phi": phi}]) for phi in (1.0, -2.14159265))
    >>> result = calibrate_dimuon(muon1, muon2, 9.46)
    >>> result.muon1.pt.to_numpy().round(4), result.scale.round(4)
    (array([4.7288]), array([0.9458]))
    """
    n_events = len(muon1)
    momentum1 = three_momenta("muon1", muon1, n_events)
    momentum2 = three_momenta("muon2", muon2, n_events)
    target = mass if np.ndim(mass) == 0 else event_column("mass", mass, n_events)
    result = flat_calibrate_dimuon(momentum1, momentum2, target, muon_mass=muon_mass)
    rest_mass = np.where(result.valid, muon_mass, np.nan)
    return DimuonRecords(
        muon1=momentum_records(result.muon1, mass=rest_mass),
        muon2=momentum_records(result.muon2, mass=rest_mass),
        m_gen=result.m_gen,
        scale=result.scale,
        adjustment=result.adjustment,
        adjustment_p3=result.adjustment_p3,
        valid=result.valid,
    )


def dimuon_features(muon1: ak.Array, muon2: ak.Array) -> DimuonFeatures:
    """HT, distance and balance of muon pairs; see :func:`evenet_hep.kinematics.dimuon.dimuon_features`.

    Parameters
    ----------
    muon1, muon2 : ak.Array of records, one per event
        In GeV and radians; None where an event lacks one.

    Returns
    -------
    DimuonFeatures
        NumPy arrays with one entry per event.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> muon1, muon2 = (ak.Array([{"pt": 5.0, "eta": eta, "phi": 0.5, "mass": 0.1}]) for eta in (0.0, 1.0))
    >>> features = dimuon_features(muon1, muon2)
    >>> features.ht, features.delta_r.round(6), features.pt_balance.round(6)
    (array([10.]), array([1.]), array([1.]))
    """
    n_events = len(muon1)
    return flat_dimuon_features(
        four_momenta("muon1", muon1, n_events), four_momenta("muon2", muon2, n_events)
    )


def _dilepton(
    lplus: ak.Array, lminus: ak.Array, bjet1: ak.Array, bjet2: ak.Array, met: Any, met_phi: Any
) -> tuple[FloatArray, ...]:
    n_events = len(lplus)
    named = (("lplus", lplus), ("lminus", lminus), ("first b jet", bjet1), ("second b jet", bjet2))
    particles = [four_momenta(name, records, n_events) for name, records in named]
    pt, phi = event_column("met", met, n_events), event_column("met_phi", met_phi, n_events)
    return (*particles, *transverse_momenta(pt, phi))
