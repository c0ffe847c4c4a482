"""Longitudinal momentum of the neutrino of a leptonic W, from the W mass.

The neutrino is massless and carries the missing transverse momentum; (p_l + p_nu)^2 = m_W^2 is then a quadratic in
its pz,

    a pz^2 - 2 mu pz_l pz + E_l^2 MET^2 - mu^2 = 0,
    a = pT_l^2 + m_l^2,    mu = (m_W^2 - m_l^2) / 2 + pT_l MET cos(phi_l - phi_met),

with roots [mu pz_l +- E_l sqrt(mu^2 - a MET^2)] / a. They are real if, and only if, m_T(l, nu) <= m_W.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.vectors import four_momenta, transverse

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

W_MASS = 80.4  # GeV, as in the bbWW study of EveNet

COMPLEX_SOLUTIONS = ("real_part", "met_scaled")
FORMULAS = ("massive", "released")


class NeutrinoResult(NamedTuple):
    """Neutrinos from the W-mass constraint, one entry per event.

    Parameters
    ----------
    pz : float64 array
        Chosen solution in GeV: the real root of smaller magnitude (the ``+`` root if they are equally large), and
        where the roots are complex their real part or, on request, the root at the scaled MET. NaN if not valid.
    pz_minus, pz_plus : float64 array
        Both roots in GeV; equal to each other and to ``pz`` where the roots are complex.
    met : float64 array
        Magnitude of the neutrino's transverse momentum in GeV: the MET, or the scaled MET.
    energy : float64 array
        Of the chosen neutrino, in GeV.
    discriminant : float64 array
        mu^2 - a MET^2 in GeV^4 for the MET handed over; its sign decides.
    is_real : bool array
        The roots are real. False if not valid.
    valid : bool array
        All input was finite, pT and MET not negative, the lepton lighter than the W and its pT and mass not both
        zero. Everything else is NaN where this is False.
    """

    pz: FloatArray
    pz_minus: FloatArray
    pz_plus: FloatArray
    met: FloatArray
    energy: FloatArray
    discriminant: FloatArray
    is_real: BoolArray
    valid: BoolArray


def neutrino_pz(
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    met: npt.ArrayLike,
    met_phi: npt.ArrayLike,
    *,
    w_mass: float = W_MASS,
    complex_solution: Literal["real_part", "met_scaled"] = "real_part",
    formula: Literal["massive", "released"] = "massive",
) -> NeutrinoResult:
    """Neutrino pz of every event from the constraint m(l, nu) = m_W.

    Parameters
    ----------
    pt, eta, phi, mass : array-like, shape (n_events,) or a number for all
        The lepton, in GeV and radians; NaN where an event has none.
    met, met_phi : array-like, shape (n_events,)
        Missing transverse momentum, in GeV and radians.
    w_mass : float
        GeV.
    complex_solution : str
        Where m_T(l, nu) > m_W, ``"real_part"`` takes the real part of the complex roots and leaves the MET alone;
        ``"met_scaled"`` scales the MET, direction kept, until the two roots meet: m(l, nu) = m_W then holds there too.
    formula : str
        ``"massive"`` is exact. ``"released"`` drops the lepton mass from a and mu but keeps it in the lepton's
        energy, as the code behind the published EveNet ntuples does; it differs in the order of m_l^2 / pT^2 and
        goes with ``complex_solution="real_part"`` only.

    Returns
    -------
    NeutrinoResult
        Arrays of shape (n_events,); NaN with ``valid`` False where the input makes no neutrino.

    Raises
    ------
    ValueError
        For an unknown option, a W mass that is not positive, or shapes that do not fit together.

    Notes
    -----
    EveNet paper, caption of Table IV; m_W = 80.4 GeV.

    Examples
    --------
    >>> nu = neutrino_pz([45.0, 45.0], [0.7, 0.7], [1.1, 1.1], [0.0, 0.0], [30.0, 90.0], [1.1, -2.041592653589793])
    >>> nu.pz.round(3), nu.is_real
    (array([-44.891, -13.788]), array([ True, False]))
    """
    _check_options(w_mass, complex_solution, formula)
    columns = event_columns(None, pt=pt, eta=eta, phi=phi, mass=mass, met=met, met_phi=met_phi)
    scale_met, released = complex_solution == "met_scaled", formula == "released"
    return _solve(columns, four_momenta(*columns[:4]), w_mass, scale_met=scale_met, released=released)


def leptonic_w(
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    met: npt.ArrayLike,
    met_phi: npt.ArrayLike,
    *,
    w_mass: float = W_MASS,
) -> FloatArray:
    """Four-vector of the lepton and its neutrino of every event.

    Parameters
    ----------
    pt, eta, phi, mass, met, met_phi, w_mass
        As for :func:`neutrino_pz`; complex solutions give their real part.

    Returns
    -------
    float64 array, shape (4, n_events)
        px, py, pz, E in GeV; NaN where there is no neutrino.

    Examples
    --------
    >>> leptonic_w(40.2, 0.0, 0.0, 0.0, 40.2, 0.0).round(3)[:, 0]
    array([ 80.4  ,   0.   , 113.703, 160.8  ])
    """
    _check_options(w_mass, "real_part", "massive")
    columns = event_columns(None, pt=pt, eta=eta, phi=phi, mass=mass, met=met, met_phi=met_phi)
    momentum = four_momenta(*columns[:4])
    neutrino = _solve(columns, momentum, w_mass, scale_met=False, released=False)
    met_x, met_y = transverse(columns[4], columns[5])
    momentum[0] += met_x
    momentum[1] += met_y
    momentum[2] += neutrino.pz
    momentum[3] += neutrino.energy
    return momentum


def _solve(
    columns: tuple[FloatArray, ...], lepton: FloatArray, w_mass: float, scale_met: bool, released: bool
) -> NeutrinoResult:
    roots = np.empty((5, len(columns[0])))
    if released:
        _solve_released(columns, lepton, w_mass, roots)
    else:
        _solve_massive(columns, lepton, w_mass, scale_met, roots)
    discriminant, pz_minus, pz_plus, pz, met_used = roots
    return NeutrinoResult(
        pz=pz,
        pz_minus=pz_minus,
        pz_plus=pz_plus,
        met=met_used,
        energy=np.sqrt(met_used * met_used + pz * pz),
        discriminant=discriminant,
        is_real=discriminant >= 0,
        valid=~np.isnan(pz),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_massive(
    columns: tuple[FloatArray, ...], lepton: FloatArray, w_mass: float, scale_met: bool, roots: FloatArray
) -> None:
    pt, _, phi, mass, met, met_phi = columns
    for i in range(len(pt)):
        roots[:, i] = np.nan
        # A lepton as heavy as the W leaves no room for a neutrino: its roots would come from squaring alone.
        if not (pt[i] >= 0.0 and met[i] >= 0.0 and abs(mass[i]) < w_mass):
            continue
        mass2 = mass[i] * abs(mass[i])
        a = pt[i] * pt[i] + mass2
        if a <= 0.0:
            continue
        half = 0.5 * (w_mass * w_mass - mass2)
        cos_phi = math.cos(phi[i] - met_phi[i])
        mu = half + pt[i] * met[i] * cos_phi
        discriminant = mu * mu - a * met[i] * met[i]  # the expanded quadratic would lose the sign near zero
        met_used = met[i]
        if discriminant < 0.0 and scale_met:
            # mu = sqrt(a) MET. The denominator is positive, because the discriminant is negative.
            met_used = half / (math.sqrt(a) - pt[i] * cos_phi)
            mu = math.sqrt(a) * met_used
        spread = lepton[3, i] * math.sqrt(max(discriminant, 0.0))
        _write_roots(i, discriminant, mu * lepton[2, i], spread, a, met_used, roots)


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_released(
    columns: tuple[FloatArray, ...], lepton: FloatArray, w_mass: float, roots: FloatArray
) -> None:
    """The lepton mass in the lepton's energy only."""
    pt, _, phi, _, met, met_phi = columns
    for i in range(len(pt)):
        roots[:, i] = np.nan
        if not (pt[i] > 0.0 and met[i] >= 0.0):
            continue
        a = pt[i] * pt[i]
        pz, energy2 = lepton[2, i], lepton[3, i] * lepton[3, i]
        mu = 0.5 * w_mass * w_mass + pt[i] * met[i] * math.cos(phi[i] - met_phi[i])
        # a, mu and the energy are not those of one lepton, so this does not factorise into E^2 (mu^2 - a MET^2).
        radicand = mu * mu * pz * pz - a * (energy2 * met[i] * met[i] - mu * mu)
        _write_roots(i, radicand / energy2, mu * pz, math.sqrt(max(radicand, 0.0)), a, met[i], roots)


@njit(cache=True, error_model="numpy")
def _write_roots(
    i: int, discriminant: float, middle: float, spread: float, a: float, met: float, roots: FloatArray
) -> None:
    """Both roots (middle +- spread) / a, the one of smaller magnitude ('+' if equal), and the MET used."""
    pz_minus, pz_plus = (middle - spread) / a, (middle + spread) / a
    if math.isfinite(pz_minus) and math.isfinite(pz_plus):
        roots[0, i], roots[1, i], roots[2, i], roots[4, i] = discriminant, pz_minus, pz_plus, met
        roots[3, i] = pz_minus if abs(pz_minus) < abs(pz_plus) else pz_plus


def _check_options(w_mass: float, complex_solution: str, formula: str) -> None:
    if not (math.isfinite(w_mass) and w_mass > 0):
        msg = f"w_mass must be a positive number of GeV; found {w_mass}"
        raise ValueError(msg)
    if complex_solution not in COMPLEX_SOLUTIONS:
        msg = f"complex_solution must be one of {', '.join(COMPLEX_SOLUTIONS)}; found {complex_solution!r}"
        raise ValueError(msg)
    if formula == "released" and complex_solution != "real_part":
        msg = f"formula 'released' goes with complex_solution 'real_part'; found {complex_solution!r}"
        raise ValueError(msg)
    if formula not in FORMULAS:
        msg = f"formula must be one of {', '.join(FORMULAS)}; found {formula!r}"
        raise ValueError(msg)


def event_columns(n_events: int | None, **columns: npt.ArrayLike) -> tuple[FloatArray, ...]:
    """Columns as contiguous float64 of one shape (n_events,); single numbers are repeated.

    Parameters
    ----------
    n_events : int or None
        Length that is expected; None for the common length of the columns.
    **columns : array-like
        By the names they have in messages.

    Raises
    ------
    ValueError
        For columns of other shapes.

    Examples
    --------
    >>> event_columns(2, pt=[30, 40], mass=0.1)
    (array([30., 40.]), array([0.1, 0.1]))
    """
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {array.shape for array in arrays.values()} - {()}
    shape = (n_events,) if n_events is not None else min(shapes, default=(1,))
    if len(shape) != 1 or not shapes <= {shape}:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        msg = f"expected one number per event, shape {shape}; found {found}"
        raise ValueError(msg)
    # "W" for a type that is always the same: a read-only array would compile every kernel again.
    spread = (array if array.shape == shape else np.full(shape, array) for array in arrays.values())
    return tuple(np.require(array, np.float64, ["C", "W"]) for array in spread)
