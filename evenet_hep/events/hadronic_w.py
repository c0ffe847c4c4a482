"""Hadronic W hypotheses and cluster transverse masses of awkward records.

The kernels are those of :mod:`evenet_hep.kinematics.hadronic_w`; eager and virtual arrays alike.
"""

from __future__ import annotations

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.events.observables import MOMENTUM, event_column, event_records, flat_flags, flat_objects
from evenet_hep.kinematics.hadronic_w import HIGGS_MASS, MAX_LIGHT_JETS, JetPairs, closest_pair
from evenet_hep.kinematics.hadronic_w import cluster_transverse_mass as flat_cluster_transverse_mass
from evenet_hep.kinematics.neutrino import W_MASS, leptonic_w

FloatArray = npt.NDArray[np.float64]


def hadronic_w(
    jets: ak.Array,
    *,
    is_candidate: ak.Array | str,
    mask: ak.Array | None = None,
    w_mass: float = W_MASS,
    max_candidates: int = MAX_LIGHT_JETS,
) -> JetPairs:
    """Hypothesis A: the two candidate jets of every event whose mass is closest to that of the W.

    Parameters
    ----------
    jets : ak.Array of lists of records
        With ``pt``, ``eta``, ``phi``, ``mass`` in GeV and radians, in any order. Missing jets (None) are ignored.
    is_candidate : ak.Array of lists of bool, or str
        True for jets to choose from, or the name of a bool field of the jets.
    mask : ak.Array of lists of bool, optional
        False for jets to ignore, whatever they hold.
    w_mass : float
        GeV.
    max_candidates : int
        Only that many of the hardest candidates are looked at.

    Returns
    -------
    JetPairs
        NumPy arrays with one entry per event; ``q1`` and ``q2`` are positions in ``jets``, -1 where not valid.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, and for lists that do not fit together.

    Notes
    -----
    EveNet paper, Table IV.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.zip({
    ...     "pt": [[30.0, 50.0, 40.0], []], "eta": [[0.0, 0.0, 0.0], []], "phi": [[0.0, 2.0, -2.0], []],
    ...     "mass": [[0.0, 0.0, 0.0], []], "light": [[True, True, True], []],
    ... })
    >>> pairs = hadronic_w(jets, is_candidate="light")
    >>> pairs.q1, pairs.q2, pairs.mass.round(2), pairs.valid
    (array([ 1, -1]), array([ 2, -1]), array([81.33,   nan]), array([ True, False]))
    """
    return _pairs(jets, is_candidate, mask, w_mass, None, max_candidates)


def hadronic_w_of_higgs(
    jets: ak.Array,
    lepton: ak.Array,
    met: npt.ArrayLike | ak.Array,
    met_phi: npt.ArrayLike | ak.Array,
    *,
    is_candidate: ak.Array | str,
    mask: ak.Array | None = None,
    higgs_mass: float = HIGGS_MASS,
    max_candidates: int = MAX_LIGHT_JETS,
) -> JetPairs:
    """Hypothesis B: the two candidate jets that, with lepton and neutrino, come closest to the mass of the Higgs boson.

    The neutrino is the solution of m(l, nu) = m_W with the smaller absolute pz, or its real part.

    Parameters
    ----------
    jets, is_candidate, mask, max_candidates
        As for :func:`hadronic_w`.
    lepton : ak.Array of records, one per event
        With ``pt``, ``eta``, ``phi``, ``mass`` in GeV and radians; None where an event has no lepton.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.
    higgs_mass : float
        GeV.

    Returns
    -------
    JetPairs
        As for :func:`hadronic_w`; ``mass`` is that of the four particles.

    Raises
    ------
    InputError
        For a missing field, named together with what is there, and for lists that do not fit together.

    Examples
    --------
    >>> import awkward as ak
    >>> jets = ak.zip({
    ...     "pt": [[30.0, 50.0]], "eta": [[0.0, 0.5]], "phi": [[0.0, 2.0]], "mass": [[0.0, 0.0]], "light": [[True, True]],
    ... })
    >>> lepton = ak.Array([{"pt": 30.0, "eta": 0.1, "phi": 1.0, "mass": 0.1}])
    >>> hadronic_w_of_higgs(jets, lepton, [40.0], [-2.0], is_candidate="light").q1
    array([1])
    """
    n_events = len(jets)
    pt, eta, phi, mass = event_records("lepton", lepton, MOMENTUM, n_events)
    met, met_phi = event_column("met", met, n_events), event_column("met_phi", met_phi, n_events)
    companion = leptonic_w(pt, eta, phi, mass, met, met_phi)
    return _pairs(jets, is_candidate, mask, higgs_mass, companion, max_candidates)


def cluster_transverse_mass(
    system: ak.Array, met: npt.ArrayLike | ak.Array, met_phi: npt.ArrayLike | ak.Array
) -> FloatArray:
    """Transverse mass of a visible system and the missing transverse momentum of every event.

    mT^2 = (sqrt(pT^2 + m^2) + MET)^2 - |pT vector + MET vector|^2 (EveNet paper, Table IV).

    Parameters
    ----------
    system : ak.Array of records, one per event
        With ``pt``, ``phi`` and ``mass`` in GeV and radians, as a sum of vector's own records has; None where an event
        lacks it.
    met, met_phi : array, one number per event
        Missing transverse momentum in GeV and radians.

    Returns
    -------
    float64 array, shape (n_events,)
        GeV; NaN where something is missing.

    Raises
    ------
    InputError
        For a missing field, named together with what is there.

    Examples
    --------
    >>> import awkward as ak
    >>> lepton = ak.Array([{"pt": 40.0, "phi": 0.0, "mass": 0.0}, None])
    >>> cluster_transverse_mass(lepton, [40.0, 10.0], [3.141592653589793, 0.0])
    array([80., nan])
    """
    n_events = len(system)
    pt, phi, mass = event_records("system", system, ("pt", "phi", "mass"), n_events)
    met, met_phi = event_column("met", met, n_events), event_column("met_phi", met_phi, n_events)
    return flat_cluster_transverse_mass(pt, phi, mass, met, met_phi)


def _pairs(
    jets: ak.Array,
    is_candidate: ak.Array | str,
    mask: ak.Array | None,
    target: float,
    companion: FloatArray | None,
    max_candidates: int,
) -> JetPairs:
    flat = flat_objects("jets", jets, MOMENTUM, mask=mask)
    candidates = flat_flags("is_candidate", jets, is_candidate, flat.offsets) & flat.mask
    pt, eta, phi, mass = flat.columns
    return closest_pair(
        flat.offsets,
        pt,
        eta,
        phi,
        mass,
        candidates,
        target=target,
        companion=companion,
        max_candidates=max_candidates,
    )
