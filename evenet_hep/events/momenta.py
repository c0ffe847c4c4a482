"""Four-momenta of awkward records in any of the namings of the vector package, and records of four-momenta."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.columns import field_names, require_fields
from evenet_hep.events.flat import MOMENTUM, event_records
from evenet_hep.kinematics.vectors import from_cartesian
from evenet_hep.kinematics.vectors import transverse as transverse_momenta

FloatArray = npt.NDArray[np.float64]

# The names a coordinate may have, the first that is there counts.
TRANSVERSE = (("pt", "phi"), ("rho", "phi"), ("px", "py"), ("x", "y"))
LONGITUDINAL = ("eta", "theta", "pz", "z")
MASSES = ("mass", "M", "m", "tau")
ENERGIES = ("energy", "E", "e", "t")


def four_momenta(name: str, records: ak.Array, n_events: int) -> FloatArray:
    """px, py, pz and energy of one record per event.

    Parameters
    ----------
    name : str
        What the records are called in messages.
    records : ak.Array of records, one per event
        With coordinates in any naming of the vector package; None where an event has none.
    n_events : int
        Number of events that is expected.

    Returns
    -------
    float64 array, shape (4, n_events)
        In GeV; NaN where the record is None.

    Raises
    ------
    InputError
        For a missing field, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> four_momenta("lepton", ak.Array([{"pt": 3.0, "phi": 0.0, "pz": 0.0, "mass": 4.0}, None]), 2)
    array([[ 3., nan],
           [ 0., nan],
           [ 0., nan],
           [ 5., nan]])
    """
    momenta = np.empty((4, n_events))
    momenta[:3] = three_momenta(name, records, n_events)
    fields = field_names(records)
    temporal = next((field for field in (*MASSES, *ENERGIES) if field in fields), "mass")
    (value,) = event_records(name, records, [temporal], n_events)
    if temporal in MASSES:
        px, py, pz, _ = momenta
        value = np.sqrt(np.maximum(px * px + py * py + pz * pz + value * np.abs(value), 0.0))
    momenta[3] = value
    return momenta


def three_momenta(name: str, records: ak.Array, n_events: int) -> FloatArray:
    """px, py and pz of one record per event; see :func:`four_momenta`.

    Returns
    -------
    float64 array, shape (3, n_events)
        In GeV; NaN where the record is None.

    Raises
    ------
    InputError
        For a missing field, or anything but one record per event.

    Examples
    --------
    >>> import awkward as ak
    >>> three_momenta("muon", ak.Array([{"x": 3.0, "y": 0.0, "z": 1.0}]), 1)[:, 0]
    array([3., 0., 1.])
    """
    fields = field_names(records)
    transverse = next((pair for pair in TRANSVERSE if set(pair) <= set(fields)), ("pt", "phi"))
    longitudinal = next((field for field in LONGITUDINAL if field in fields), "eta")
    require_fields(name, records, [*transverse, longitudinal])
    first, second, third = event_records(name, records, [*transverse, longitudinal], n_events)
    if "phi" in transverse:
        pt, (first, second) = first, transverse_momenta(first, second)
    else:
        pt = np.hypot(first, second)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if longitudinal == "eta":
            third = pt * np.sinh(third)
        elif longitudinal == "theta":
            third = pt / np.tan(third)
    return np.stack([first, second, third])


def momentum_records(momenta: npt.ArrayLike, *, mass: Any = None) -> ak.Array:
    """Records named ``Momentum4D`` of four-momenta.

    Parameters
    ----------
    momenta : array-like, shape (4, n)
        px, py, pz, energy in GeV.
    mass : float or array, shape (n,), optional
        Known mass in GeV, where the difference of energy and momentum would only be rounding; NaN momenta keep NaN.

    Returns
    -------
    ak.Array of records
        With the fields ``pt``, ``eta``, ``phi``, ``mass``, and no behaviour attached, so that they pickle.

    Examples
    --------
    >>> records = momentum_records([[3.0], [0.0], [0.0], [5.0]])
    >>> records.fields, records.mass
    (['pt', 'eta', 'phi', 'mass'], <Array [4] type='1 * float64'>)
    """
    pt, eta, phi, measured = from_cartesian(*np.asarray(momenta, np.float64))
    known = measured if mass is None else np.where(np.isnan(measured), np.nan, mass)
    columns = dict(zip(MOMENTUM, (pt, eta, phi, known), strict=True))
    return ak.zip(columns, depth_limit=1, with_name="Momentum4D")
