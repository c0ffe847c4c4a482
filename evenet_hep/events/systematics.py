"""Energy-scale and soft missing-momentum variations, with the missing momentum propagated.

A variation changes collections and missing momentum; whatever is computed from them (cloud, event features, engineered
features, selections) follows when the same functions are called on the result, so nominal and shifted events can never
be treated differently:

>>> import awkward as ak
>>> from evenet_hep import EventCloud, EventSchema
>>> jets = ak.Array([[{"pt": 50.0, "eta": 0.0, "phi": 0.0, "mass": 5.0, "btagDeepFlavB": 0.9}]])
>>> events = ak.Array([{"MET": {"pt": 20.0, "phi": 3.0}, "Electron": [], "Muon": []}])
>>> up = shift_energy_scale(jets, events.MET, 0.02)
>>> float(up.jets.pt[0, 0]), round(float(up.met.pt[0]), 2)
(51.0, 20.99)
>>> same = shift_energy_scale(jets, events.MET, 0.0)
>>> bool(same.jets.pt[0, 0] == 50.0)
True
"""

from __future__ import annotations

import math
from typing import NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from evenet_hep.errors import InputError
from evenet_hep.events.columns import require_fields
from evenet_hep.events.momenta import ENERGIES

FloatArray = npt.NDArray[np.float64]

JES_WIDTH, JES_LIMIT = 0.01, 0.10
SOFT_MET_LIMIT = 5.0  # GeV


class ShiftedObjects(NamedTuple):
    """Objects and missing momentum of a variation, ready to be passed on as ``collections`` and ``met``.

    Parameters
    ----------
    jets : ak.Array
        The user's records with another ``pt`` (GeV); all other fields are kept.
    met : ak.Array
        Records with ``pt`` (GeV) and ``phi`` (radians, in [-pi, pi]), one per event.
    """

    jets: ak.Array
    met: ak.Array


def shift_energy_scale(jets: ak.Array, met: ak.Array, alpha: npt.ArrayLike) -> ShiftedObjects:
    """Jets with pT scaled by 1 + alpha at fixed direction and mass, and the missing momentum that goes with them.

    MET' = MET - alpha sum pT_j, as vectors in the transverse plane. Records that carry an energy (``energy``, ``E``, ``e``
    or ``t``) get the one that belongs to the new pT, so that their mass stays what it was.

    Parameters
    ----------
    jets : ak.Array
        Jagged records with at least pt (GeV) and phi (radians), and eta where they carry an energy. Pass all objects whose
        scale is varied.
    met : ak.Array
        Records with pt (GeV) and phi (radians), one per event.
    alpha : float or array, shape (n_events,)
        Relative shift, of one pseudo-experiment or per event.

    Returns
    -------
    ShiftedObjects

    Raises
    ------
    InputError
        For missing fields, lengths that differ, or a shift of -1 or below.
    """
    energies = [name for name in ENERGIES if name in ak.fields(jets)]
    require_fields("jets", jets, ("pt", "phi", "eta") if energies else ("pt", "phi"))
    n_events = len(jets)
    shift = (
        np.broadcast_to(np.asarray(alpha, np.float64), (n_events,))
        if np.ndim(alpha) == 0
        else np.asarray(alpha)
    )
    if shift.shape != (n_events,) or len(met) != n_events:
        msg = f"jets, met and alpha must be of one length; found {n_events}, {len(met)} and {shift.shape}"
        raise InputError(msg)
    if not (shift > -1).all():
        msg = f"alpha must be above -1; found {shift[~(shift > -1)][0]}"
        raise InputError(msg)
    pt = ak.values_astype(jets["pt"], np.float64)
    phi = ak.values_astype(jets["phi"], np.float64)
    some = (
        ak.to_numpy(ak.num(pt)) > 0
    )  # 0.0, not -0.0, where there is nothing to propagate: it would turn phi
    lost = [np.where(some, shift * ak.to_numpy(ak.sum(pt * f(phi), axis=1)), 0.0) for f in (np.cos, np.sin)]
    met_x, met_y = _components(met)
    shifted = ak.with_field(jets, pt * (1 + shift), "pt")
    for name in energies:
        momentum = pt * np.cosh(ak.values_astype(jets["eta"], np.float64))
        gained = momentum * momentum * ((1 + shift) ** 2 - 1)
        shifted = ak.with_field(shifted, np.sqrt(np.maximum(jets[name] ** 2 + gained, 0.0)), name)
    return ShiftedObjects(shifted, _record(met_x - lost[0], met_y - lost[1]))


def shift_soft_met_magnitude(met: ak.Array, shift: npt.ArrayLike) -> ak.Array:
    """Missing momentum with another magnitude and the same direction.

    Parameters
    ----------
    met : ak.Array
        Records with pt (GeV) and phi (radians).
    shift : float or array, shape (n_events,)
        Added to the magnitude, in GeV. A sum below zero becomes zero.

    Returns
    -------
    ak.Array
        Records with pt and phi.
    """
    require_fields("met", met, ("pt", "phi"))
    pt = ak.to_numpy(met["pt"]).astype(np.float64) + np.asarray(shift, np.float64)
    return ak.zip({"pt": np.maximum(pt, 0.0), "phi": ak.to_numpy(met["phi"]).astype(np.float64)})


def shift_soft_met_components(met: ak.Array, dx: npt.ArrayLike, dy: npt.ArrayLike) -> ak.Array:
    """Missing momentum with dx and dy added to its components.

    Parameters
    ----------
    met : ak.Array
        Records with pt (GeV) and phi (radians).
    dx, dy : float or array, shape (n_events,)
        In GeV: one number for all events reproduces the public EveNet code, one per event is noise.

    Returns
    -------
    ak.Array
        Records with pt and phi in [-pi, pi].
    """
    require_fields("met", met, ("pt", "phi"))
    met_x, met_y = _components(met)
    return _record(met_x + np.asarray(dx, np.float64), met_y + np.asarray(dy, np.float64))


def draw_energy_scales(
    n: int, rng: Generator, *, width: float = JES_WIDTH, limit: float = JES_LIMIT
) -> FloatArray:
    """Relative energy shifts, one per pseudo-experiment: normal with mean 0, clipped to +-limit.

    Examples
    --------
    >>> import numpy as np
    >>> shifts = draw_energy_scales(1000, np.random.default_rng(1))
    >>> bool(abs(shifts).max() <= 0.1)
    True
    """
    return np.clip(rng.normal(0.0, width, n), -limit, limit)


def draw_soft_met(n: int, rng: Generator, *, limit: float = SOFT_MET_LIMIT) -> FloatArray:
    """Magnitude shifts in GeV, one per event: a log-normal with mu = 0 and sigma = 1, truncated to [0, limit]."""
    return truncated_lognormal(rng.uniform(size=n), limit=limit)


def draw_soft_met_noise(
    n: int, rng: Generator, *, limit: float = SOFT_MET_LIMIT
) -> tuple[FloatArray, FloatArray]:
    """Dx and dy of every event: normal around 0, with one width for all events, drawn from a clipped log-normal.

    This is the soft-MET nuisance of the FAIR Universe challenge (arXiv:2410.02867).
    """
    width = float(clipped_lognormal(rng.normal(), limit=limit))
    return rng.normal(0.0, width, n), rng.normal(0.0, width, n)


def truncated_lognormal(u: npt.ArrayLike, *, limit: float = SOFT_MET_LIMIT) -> FloatArray:
    """Quantile of the log-normal distribution (mu = 0, sigma = 1) truncated to [0, limit].

    Parameters
    ----------
    u : array
        Probabilities in [0, 1].
    limit : float
        Upper end.

    Returns
    -------
    float64 array of the shape of ``u``
        NaN outside [0, 1].
    """
    from statistics import NormalDist  # noqa: PLC0415  only here, and 1 ms to import

    normal = NormalDist()
    total = normal.cdf(math.log(limit))

    def quantile(probability: float) -> float:
        if not 0 <= probability <= 1:
            return math.nan
        if probability in (0, 1):
            return limit * probability
        return math.exp(normal.inv_cdf(probability * total))

    values = np.asarray(u, np.float64)
    return np.array([quantile(float(p)) for p in values.ravel()]).reshape(values.shape)


def clipped_lognormal(z: npt.ArrayLike, *, limit: float = SOFT_MET_LIMIT) -> FloatArray:
    """exp(z) of standard normal z, clipped to [0, limit]: 5 % of the draws pile up at a limit of 5."""
    return np.clip(np.exp(np.asarray(z, np.float64)), 0.0, limit)


def _components(met: ak.Array) -> tuple[FloatArray, FloatArray]:
    require_fields("met", met, ("pt", "phi"))
    pt, phi = (ak.to_numpy(ak.materialize(met[name])).astype(np.float64) for name in ("pt", "phi"))
    return pt * np.cos(phi), pt * np.sin(phi)


def _record(x: FloatArray, y: FloatArray) -> ak.Array:
    return ak.zip({"pt": np.hypot(x, y), "phi": np.arctan2(y, x)})
