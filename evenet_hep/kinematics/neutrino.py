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


@njit(cache=True)
def solve_neutrino_pz(
    pt: float,
    eta: float,
    phi: float,
    mass: float,
    met: float,
    met_phi: float,
    w_mass: float,
    scale_met: bool,
) -> tuple[float, float, float, float]:
    """Both roots for one lepton; the compiled step behind :func:`neutrino_pz`.

    Parameters
    ----------
    pt, eta, phi, mass : float
        Lepton, in GeV and radians.
    met, met_phi : float
        Missing transverse momentum, in GeV and radians.
    w_mass : float
        GeV.
    scale_met : bool
        Where the roots are complex, scale the MET to discriminant zero instead of taking the real part.

    Returns
    -------
    discriminant, pz_minus, pz_plus, met : float
        In GeV^4 and GeV; all NaN for invalid input. Complex roots come back as two equal numbers.

    Examples
    --------
    >>> [round(x, 3) for x in solve_neutrino_pz(45.0, 0.0, 1.1, 0.0, 30.0, -2.0, 80.4, False)]
    [1724121.324, -29.179, 29.179, 30.0]
    """
    invalid = (math.nan, math.nan, math.nan, math.nan)
    # A lepton as heavy as the W leaves no room for a neutrino: its roots would come from squaring alone.
    if not (pt >= 0.0 and met >= 0.0 and abs(mass) < w_mass):
        return invalid
    pz = pt * math.sinh(eta)
    energy = math.sqrt(pt * pt + pz * pz + mass * mass)
    a = pt * pt + mass * mass
    if a == 0.0:
        return invalid
    half = 0.5 * (w_mass * w_mass - mass * mass)
    cos_phi = math.cos(phi - met_phi)
    mu = half + pt * met * cos_phi
    discriminant = mu * mu - a * met * met  # the expanded quadratic would lose the sign near zero
    root = math.sqrt(max(discriminant, 0.0))
    if discriminant < 0.0 and scale_met:
        met = half / (math.sqrt(a) - pt * cos_phi)  # positive, because the discriminant is negative
        mu = math.sqrt(a) * met
    pz_minus = (mu * pz - energy * root) / a
    pz_plus = (mu * pz + energy * root) / a
    if not (math.isfinite(pz_minus) and math.isfinite(pz_plus)):
        return invalid
    return discriminant, pz_minus, pz_plus, met


@njit(cache=True)
def _solve_released(
    pt: float, eta: float, phi: float, mass: float, met: float, met_phi: float, w_mass: float
) -> tuple[float, float, float, float]:
    """As :func:`solve_neutrino_pz`, but with the lepton mass in the lepton's energy only."""
    invalid = (math.nan, math.nan, math.nan, math.nan)
    if not (pt > 0.0 and met >= 0.0):
        return invalid
    pz = pt * math.sinh(eta)
    energy2 = pt * pt + pz * pz + mass * mass
    a = pt * pt
    mu = 0.5 * w_mass * w_mass + pt * met * math.cos(phi - met_phi)
    # a, mu and the energy are not those of one lepton, so this does not factorise into E^2 (mu^2 - a MET^2).
    radicand = mu * mu * pz * pz - a * (energy2 * met * met - mu * mu)
    root = math.sqrt(max(radicand, 0.0))
    pz_minus = (mu * pz - root) / a
    pz_plus = (mu * pz + root) / a
    if not (math.isfinite(pz_minus) and math.isfinite(pz_plus)):
        return invalid
    return radicand / energy2, pz_minus, pz_plus, met


@njit(cache=True)
def smaller_root(pz_minus: float, pz_plus: float) -> float:
    """The root of smaller magnitude, ``pz_plus`` if they are equally large.

    Examples
    --------
    >>> smaller_root(-3.0, 3.0), smaller_root(-1.0, 3.0)
    (3.0, -1.0)
    """
    return pz_minus if abs(pz_minus) < abs(pz_plus) else pz_plus


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
    columns = _columns(pt=pt, eta=eta, phi=phi, mass=mass, met=met, met_phi=met_phi)
    roots = np.empty((4, len(columns[0])))
    _solve_all(columns, w_mass, complex_solution == "met_scaled", formula == "released", roots)
    discriminant, pz_minus, pz_plus, met_used = roots
    pz = np.where(np.abs(pz_minus) < np.abs(pz_plus), pz_minus, pz_plus)
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


@njit(cache=True)
def _solve_all(
    columns: tuple[FloatArray, ...], w_mass: float, scale_met: bool, released: bool, roots: FloatArray
) -> None:
    pt, eta, phi, mass, met, met_phi = columns
    for i in range(len(pt)):
        if released:
            solution = _solve_released(pt[i], eta[i], phi[i], mass[i], met[i], met_phi[i], w_mass)
        else:
            solution = solve_neutrino_pz(
                pt[i], eta[i], phi[i], mass[i], met[i], met_phi[i], w_mass, scale_met
            )
        for k in range(4):
            roots[k, i] = solution[k]


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


def _columns(**columns: npt.ArrayLike) -> tuple[FloatArray, ...]:
    """All columns as contiguous float64 of one shape (n_events,)."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {array.shape for array in arrays.values()} - {()}
    if len(shapes) > 1 or any(len(shape) > 1 for shape in shapes):
        msg = f"expected one number per event; found shapes { {name: a.shape for name, a in arrays.items()} }"
        raise ValueError(msg)
    shape = shapes.pop() if shapes else (1,)
    return tuple(np.ascontiguousarray(np.broadcast_to(array, shape)) for array in arrays.values())
