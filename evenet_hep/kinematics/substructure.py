"""Substructure of jets from their constituents: N-subjettiness, soft drop, mass and multiplicity.

Flat arrays of constituents and the start of each jet in them go in, one number per jet comes out. Distances are those of
rapidity and azimuth, as in fastjet:

* tau_N = sum_i pT_i min_k dR(i, k) / (R sum_i pT_i), the N-subjettiness of Thaler and Van Tilburg (arXiv:1011.2268,
  Eq. 1) with beta = 1. Axes are those of exclusive kT clustering, moved to the nearest minimum of tau_N
  (arXiv:1108.2701, section 2.4), as in the fat jets of CMS; or winner-take-all axes, which stay where they are.
* soft drop (arXiv:1402.2657): the Cambridge/Aachen tree is opened, and the softer branch dropped, until
  min(pT1, pT2) / (pT1 + pT2) > z_cut (dR / R)^beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.errors import InputError
from evenet_hep.kinematics.angles import delta_phi_scalar

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Axes = Literal["one_pass_kt", "wta_kt"]

NEAREST = 1e-4  # distances of constituents to their axis below which the minimisation tells none apart
MOST_MOVES = 100  # of the axes
SMALLEST_GAIN = 1e-7  # relative, of tau_N per move


class Substructure(NamedTuple):
    """What is inside of jets, one entry per jet.

    Parameters
    ----------
    mass : float64 array, shape (n_jets,)
        Of the sum of the constituents, GeV.
    softdrop_mass : float64 array, shape (n_jets,)
        After soft drop, GeV.
    tau : float64 array, shape (n_axes, n_jets)
        N-subjettiness for 1 axis and more; 0 for a jet of at most N constituents.
    multiplicity : int64 array, shape (n_jets,)
        Constituents.
    """

    mass: FloatArray
    softdrop_mass: FloatArray
    tau: FloatArray
    multiplicity: IntArray


def jet_substructure(
    offsets: npt.ArrayLike,
    pt: npt.ArrayLike,
    eta: npt.ArrayLike,
    phi: npt.ArrayLike,
    mass: npt.ArrayLike,
    *,
    radius: float = 0.8,
    n_axes: int = 3,
    axes: Axes = "one_pass_kt",
    z_cut: float = 0.1,
    beta: float = 0.0,
) -> Substructure:
    """Mass, soft-drop mass, N-subjettiness and multiplicity of jets.

    Parameters
    ----------
    offsets : int array, shape (n_jets + 1,)
        Start of each jet in the constituents.
    pt, eta, phi, mass : array-like, shape (n_constituents,)
        Of the constituents, GeV and radians.
    radius : float
        R of the jets, in tau_N and in soft drop.
    n_axes : int
        Largest N.
    axes : {"one_pass_kt", "wta_kt"}
        Exclusive kT axes moved to the nearest minimum, or winner-take-all kT axes.
    z_cut, beta : float
        Of soft drop; with beta = 0 it is the modified mass drop.

    Returns
    -------
    Substructure
        NaN for jets without constituents or without momentum.

    Raises
    ------
    InputError
        For arrays that do not fit together, values that are not finite, or options out of range.

    Examples
    --------
    Two prongs 0.5 apart, and one of them:

    >>> two = jet_substructure([0, 2, 3], [100, 100, 50.0], [0, 0.5, 0], [0, 0, 0], [0, 0, 0])
    >>> two.mass.round(2).tolist(), two.tau[:2].round(4).tolist(), two.multiplicity.tolist()
    ([50.52, 0.0], [[0.3125, 0.0], [0.0, 0.0]], [2, 1])
    """
    starts = _offsets(offsets, len(np.asarray(pt)))
    columns = np.stack([np.asarray(x, np.float64) for x in (pt, eta, phi, mass)])
    if not np.isfinite(columns).all():
        bad = int(np.flatnonzero(~np.isfinite(columns).all(axis=0))[0])
        msg = f"constituents must be finite; constituent {bad} has pt, eta, phi, mass {columns[:, bad].tolist()}"
        raise InputError(msg)
    if radius <= 0 or n_axes < 1 or axes not in ("one_pass_kt", "wta_kt") or z_cut < 0:
        msg = f"radius must be positive, n_axes at least 1, axes one_pass_kt or wta_kt, z_cut not negative; found {radius}, {n_axes}, {axes!r}, {z_cut}"
        raise InputError(msg)
    momenta = _cartesian(columns)
    n_jets = len(starts) - 1
    masses, tau = np.full((2, n_jets), np.nan), np.full((n_axes, n_jets), np.nan)
    _fill_masses(starts, momenta, radius, z_cut, beta, masses)
    _fill_tau(starts, momenta, radius, axes == "wta_kt", tau)
    return Substructure(masses[0], masses[1], tau, np.diff(starts))


def _offsets(offsets: npt.ArrayLike, n: int) -> IntArray:
    starts = np.asarray(offsets, np.int64)
    if (
        starts.ndim != 1
        or len(starts) < 1
        or starts[0] != 0
        or starts[-1] != n
        or (np.diff(starts) < 0).any()
    ):
        found: Sequence[int] = starts.ravel()[[0, -1]].tolist() if starts.size else []
        msg = f"offsets must rise from 0 to the number of constituents {n}; found ends {found}"
        raise InputError(msg)
    return starts


def _cartesian(columns: FloatArray) -> FloatArray:
    """px, py, pz, energy from pt, eta, phi, mass; shape (4, n)."""
    pt, eta, phi, mass = columns
    pz = pt * np.sinh(eta)
    energy = np.sqrt(pt**2 + pz**2 + np.maximum(mass, 0.0) ** 2)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pz, energy])


@njit(cache=True)
def _point(p, point):  # type: ignore[no-untyped-def]
    """pT, rapidity and azimuth of a four-momentum (4,), written into ``point`` (3,)."""
    point[0] = np.hypot(p[0], p[1])
    # From the mass, because E - |pz| of a hard forward particle is lost in rounding.
    mass2 = max(p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2, 0.0)
    mt = max(np.sqrt(point[0] ** 2 + mass2), 1e-30)
    point[1] = np.arcsinh(p[2] / mt)
    point[2] = np.arctan2(p[1], p[0])


@njit(cache=True)
def _distance2(points, i, j):  # type: ignore[no-untyped-def]
    d_phi = delta_phi_scalar(points[i, 2], points[j, 2])
    return (points[i, 1] - points[j, 1]) ** 2 + d_phi * d_phi


@njit(cache=True)
def _nearest(points, active, n_active, at, nearest, distance):  # type: ignore[no-untyped-def]
    """Find the nearest active neighbour of the node in slot ``at``."""
    distance[at], nearest[at] = np.inf, -1
    for other in range(n_active):
        if other != at:
            d2 = _distance2(points, active[at], active[other])
            if d2 < distance[at]:
                distance[at], nearest[at] = d2, other


@njit(cache=True)
def _tree(momenta, start, stop, is_kt, is_wta):  # type: ignore[no-untyped-def]
    """All pairwise mergings of the constituents of a jet, without a beam.

    Returns
    -------
    nodes : float64 array, shape (2n - 1, 4)
        Four-momenta: constituents first, then what was merged, in order.
    points : float64 array, shape (2n - 1, 3)
        Their pT, rapidity, azimuth; of a merged node, with ``is_wta``, the sum of pT in the direction of the harder.
    child : int64 array, shape (2n - 1, 2)
        What each node was merged from; -1 for constituents.
    """
    n = stop - start
    nodes, points = np.zeros((2 * n - 1, 4)), np.zeros((2 * n - 1, 3))
    child = np.full((2 * n - 1, 2), -1, np.int64)
    active, nearest, distance = np.arange(n), np.empty(n, np.int64), np.empty(n)
    for i in range(n):
        nodes[i] = momenta[:, start + i]
        _point(nodes[i], points[i])
    for i in range(n):
        _nearest(points, active, n, i, nearest, distance)
    n_active = n
    for node in range(n, 2 * n - 1):
        best, smallest = 0, np.inf
        for i in range(n_active):
            scale = min(points[active[i], 0], points[active[nearest[i]], 0]) ** 2 if is_kt else 1.0
            if scale * distance[i] < smallest or i == 0:
                best, smallest = i, scale * distance[i]
        a, b = min(best, nearest[best]), max(best, nearest[best])
        first, second = active[a], active[b]
        child[node, 0], child[node, 1] = first, second
        nodes[node] = nodes[first] + nodes[second]
        if is_wta:
            harder = first if points[first, 0] >= points[second, 0] else second
            points[node] = points[harder]
            points[node, 0] = points[first, 0] + points[second, 0]
        else:
            _point(nodes[node], points[node])
        n_active -= 1
        active[a], active[b] = node, active[n_active]
        nearest[b], distance[b] = nearest[n_active], distance[n_active]
        for i in range(n_active):
            if i == a or nearest[i] == a or nearest[i] == b:
                _nearest(points, active, n_active, i, nearest, distance)
                continue
            if nearest[i] == n_active:  # it has moved into the slot of the second
                nearest[i] = b
            d2 = _distance2(points, active[i], node)
            if d2 < distance[i]:
                distance[i], nearest[i] = d2, a
    return nodes, points, child


@njit(cache=True)
def _mass(p):  # type: ignore[no-untyped-def]
    return np.sqrt(max(p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2, 0.0))


@njit(cache=True)
def _fill_masses(offsets, momenta, radius, z_cut, beta, masses):  # type: ignore[no-untyped-def]
    """Mass and soft-drop mass of every jet, shape (2, n_jets)."""
    for jet in range(len(offsets) - 1):
        if offsets[jet + 1] == offsets[jet]:
            continue
        nodes, points, child = _tree(momenta, offsets[jet], offsets[jet + 1], False, False)
        at = len(nodes) - 1
        masses[0, jet] = _mass(nodes[at])
        while child[at, 0] >= 0:
            a, b = child[at, 0], child[at, 1]
            softer = min(points[a, 0], points[b, 0])
            both = points[a, 0] + points[b, 0]
            if softer > z_cut * (np.sqrt(_distance2(points, a, b)) / radius) ** beta * both:
                break
            at = a if points[a, 0] >= points[b, 0] else b
        masses[1, jet] = _mass(nodes[at])


@njit(cache=True)
def _axes_of(child, points, n, wanted, axes):  # type: ignore[no-untyped-def]
    """Directions (rapidity, azimuth) of the nodes there were when ``wanted`` of them were left."""
    last, found = 2 * n - wanted, 0  # nodes made up to then
    is_merged = np.zeros(len(child), np.bool_)
    for node in range(n, last):
        is_merged[child[node, 0]] = is_merged[child[node, 1]] = True
    for node in range(last):
        if not is_merged[node]:
            axes[found] = points[node, 1:]
            found += 1


@njit(cache=True)
def _tau(points, n, axes, n_axes, owner):  # type: ignore[no-untyped-def]
    """Sum of pT times the distance to the nearest axis; ``owner`` is told which that is."""
    total = 0.0
    for i in range(n):
        smallest = np.inf
        for k in range(n_axes):
            d_phi = delta_phi_scalar(points[i, 2], axes[k, 1])
            d2 = (points[i, 1] - axes[k, 0]) ** 2 + d_phi * d_phi
            if d2 < smallest:
                smallest, owner[i] = d2, k
        total += points[i, 0] * np.sqrt(smallest)
    return total


@njit(cache=True)
def _move(points, n, axes, n_axes, owner, moved):  # type: ignore[no-untyped-def]
    """Each axis goes to the mean of its constituents, weighted with pT / distance: a step of Weiszfeld's."""
    weights = np.zeros(n_axes)
    moved[:n_axes] = 0.0
    for i in range(n):
        k = owner[i]
        d_eta, d_phi = points[i, 1] - axes[k, 0], delta_phi_scalar(points[i, 2], axes[k, 1])
        weight = points[i, 0] / max(np.hypot(d_eta, d_phi), NEAREST)
        weights[k] += weight
        moved[k, 0] += weight * d_eta
        moved[k, 1] += weight * d_phi
    for k in range(n_axes):
        shift = moved[k] / weights[k] if weights[k] > 0 else np.zeros(2)
        moved[k] = axes[k] + shift


@njit(cache=True)
def _fill_tau(offsets, momenta, radius, is_wta, tau):  # type: ignore[no-untyped-def]
    """N-subjettiness of every jet, shape (n_axes, n_jets)."""
    most = len(tau)
    axes, moved = np.empty((most, 2)), np.empty((most, 2))
    for jet in range(len(offsets) - 1):
        n = offsets[jet + 1] - offsets[jet]
        if n == 0:
            continue
        _, points, child = _tree(momenta, offsets[jet], offsets[jet + 1], True, is_wta)
        norm = radius * points[:n, 0].sum()
        if not norm > 0:
            continue
        owner = np.zeros(n, np.int64)
        for wanted in range(1, most + 1):
            if wanted >= n:
                tau[wanted - 1, jet] = 0.0
                continue
            _axes_of(child, points, n, wanted, axes)
            found = _tau(points, n, axes, wanted, owner)
            for _ in range(0 if is_wta else MOST_MOVES):
                _move(points, n, axes, wanted, owner, moved)
                better = _tau(points, n, moved, wanted, owner)
                if better >= found:
                    break
                axes[:wanted] = moved[:wanted]
                gain, found = found - better, better
                if gain < SMALLEST_GAIN * found:
                    break
            tau[wanted - 1, jet] = found / norm
