"""The usual substructure variables of jets with constituents: what a boosted tree would be given."""

from __future__ import annotations

import awkward as ak
import numpy as np

from evenet_hep.errors import InputError
from evenet_hep.kinematics.substructure import Axes, jet_substructure

SUBSTRUCTURE = ("mass", "softdrop_mass", "tau21", "tau32", "multiplicity")


def measure_substructure(
    constituents: ak.Array, *, radius: float = 0.8, axes: Axes = "one_pass_kt"
) -> ak.Array:
    """Mass, soft-drop mass, tau1 to tau3, their ratios, and multiplicity of jets.

    Parameters
    ----------
    constituents : ak.Array
        A list per jet of records with pt, eta, phi and mass (GeV and radians), or such lists per event, as from
        :func:`~evenet_hep.events.jets.nanoaod_constituents`.
    radius : float
        R of the jets.
    axes
        As in :func:`~evenet_hep.kinematics.substructure.jet_substructure`.

    Returns
    -------
    ak.Array
        A record per jet (in lists per event, if there were such) with mass, softdrop_mass, tau1, tau2, tau3, tau21,
        tau32 and multiplicity. Ratios of jets with tau1, or tau2, of zero are NaN, and everything of jets without
        constituents but their multiplicity.

    Raises
    ------
    InputError
        For missing fields, or values that are not finite.

    Examples
    --------
    >>> prong = {"pt": 100.0, "eta": 0.0, "phi": 0.0, "mass": 0.0}
    >>> jets = ak.Array([[prong, {**prong, "eta": 0.4}, {**prong, "phi": 0.1, "pt": 10.0}]])
    >>> found = measure_substructure(jets)
    >>> f"{found.mass[0]:.1f} GeV, tau21 = {found.tau21[0]:.3f}, {found.multiplicity[0]} constituents"
    '42.5 GeV, tau21 = 0.024, 3 constituents'
    """
    if constituents.ndim not in (2, 3):
        msg = f"constituents must be a list per jet, or lists per event; found {constituents.ndim} axes"
        raise InputError(msg)
    per_event = ak.num(constituents) if constituents.ndim == 3 else None
    jets = ak.flatten(constituents) if constituents.ndim == 3 else constituents
    names = ("pt", "eta", "phi", "mass")
    if missing := [name for name in names if name not in ak.fields(jets)]:
        msg = f"constituents lack {', '.join(missing)}; they have {', '.join(ak.fields(jets))}"
        raise InputError(msg)
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(jets)))])
    flat = ak.flatten(jets)
    found = jet_substructure(offsets, *(ak.to_numpy(flat[name]) for name in names), radius=radius, axes=axes)
    tau1, tau2, tau3 = found.tau
    with np.errstate(divide="ignore", invalid="ignore"):
        tau21, tau32 = (np.where(b > 0, a / b, np.nan) for a, b in ((tau2, tau1), (tau3, tau2)))
    columns = {
        "mass": found.mass, "softdrop_mass": found.softdrop_mass, "tau1": tau1, "tau2": tau2, "tau3": tau3,
        "tau21": tau21, "tau32": tau32, "multiplicity": found.multiplicity,
    }  # fmt: skip
    records = ak.zip(columns)
    return records if per_event is None else ak.unflatten(records, per_event)
