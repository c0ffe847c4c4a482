"""Jets as clouds of their constituents: one row per jet, for :class:`~evenet_hep.model.jets.JetNetwork`.

The features are those of Table VIII of OmniLearn (arXiv:2404.16091): angles relative to the jet axis, logarithms of
momentum and energy and of what they leave of the jet's, charge, and five flags for the type of particle.
"""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import EventInput, ObjectBlock
from evenet_hep.schema import EventSchema, Feature

CONSTITUENT_FEATURES = (
    "delta_eta",
    "delta_phi",
    "log_pt",
    "log_rest_pt",
    "log_energy",
    "log_rest_energy",
    "delta_r",
    "charge",
    "is_charged_hadron",
    "is_neutral_hadron",
    "is_photon",
    "is_electron",
    "is_muon",
)
SMALLEST_REST = 1e-4  # of the jet; a constituent that is the whole jet leaves this much
SMALLEST_MOMENTUM = 1e-3  # GeV; softer constituents count as this hard in the logarithms


def jet_schema(*, classes: Sequence[str] = (), capacity: int = 150) -> EventSchema:
    """The schema of constituents and jet features.

    Means and widths are round values in the middle of jets of some hundred GeV; set those of your sample with
    :meth:`~evenet_hep.schema.EventSchema.with_statistics`.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes of jets.
    capacity : int
        Largest number of constituents per jet: 150, or 279 for both jets of an event together.

    Examples
    --------
    >>> schema = jet_schema(classes=("quark", "gluon"))
    >>> len(schema.objects), schema.event_names, schema.capacity
    (13, ('jet_pt', 'jet_eta', 'jet_mass', 'multiplicity'), 150)
    """
    statistics = {
        "delta_eta": (0.0, 0.25),
        "delta_phi": (0.0, 0.25),
        "log_pt": (1.0, 1.25),
        "log_rest_pt": (-0.03, 0.06),
        "log_energy": (1.5, 1.25),
        "log_rest_energy": (-0.03, 0.06),
        "delta_r": (0.3, 0.2),
    }
    return EventSchema(
        objects=tuple(
            Feature(name, "", "standard", *statistics[name]) if name in statistics else Feature(name)
            for name in CONSTITUENT_FEATURES
        ),
        event_features=(
            Feature("jet_pt", "GeV", "log", 6.0, 0.5),
            Feature("jet_eta", "", "standard", 0.0, 1.0),
            Feature("jet_mass", "GeV", "log", 4.0, 0.8),
            Feature("multiplicity", "", "standard", 40.0, 20.0),
        ),
        capacity=capacity,
        classes=tuple(classes),
        n_objects=Feature("n_objects", "", "standard", 40.0, 20.0),
    )


def cloud_of_jets(jets: ak.Array, constituents: ak.Array, schema: EventSchema) -> EventCloud:
    """One row per jet, in the order of ``ak.flatten(jets)``.

    Parameters
    ----------
    jets : ak.Array
        Records with pt, eta, phi and mass (GeV and radians), a list of them per event or one list of all.
    constituents : ak.Array
        A list per jet of records with pt, eta, phi, mass and pdgId; ``charge`` is taken from pdgId where there is no
        such field. Codes: hadrons are charged or neutral by their charge, 22 is a photon, 11 an electron, 13 a muon;
        1 and 2 (HF hadron and HF photon of CMS) count as neutral hadron and photon; 0 is of no type.
    schema : EventSchema
        Of :func:`jet_schema`, with any statistics, capacity and classes.

    Returns
    -------
    EventCloud
        Constituents by decreasing pT, the softest beyond the capacity dropped; ``multiplicity`` counts all. Its
        ``index`` leads to the position in the jet's own list.

    Raises
    ------
    InputError
        For another schema, missing fields, values that are not finite, or lists that do not fit together.
    """
    if schema.object_names != CONSTITUENT_FEATURES:
        msg = f"the schema must be a jet_schema(); its object features are {', '.join(schema.object_names)}"
        raise InputError(msg)
    if jets.ndim == 2:
        if constituents.ndim != 3 or not ak.array_equal(ak.num(constituents), ak.num(jets)):
            found = f"{constituents.ndim} axes and {len(constituents)} events"
            msg = (
                f"constituents must be a list per jet, with as many jets per event as in jets; found {found}"
            )
            raise InputError(msg)
        jets, constituents = ak.flatten(jets), ak.flatten(constituents)
    if len(jets) != len(constituents) or constituents.ndim != 2:
        msg = (
            f"constituents must be one list for each of the {len(jets)} jets; found {len(constituents)} lists"
        )
        raise InputError(msg)
    axis = np.stack([_column("jets", jets, name) for name in ("pt", "eta", "phi", "mass")])
    counts = ak.to_numpy(ak.num(constituents)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    flat = ak.flatten(constituents)
    momenta = np.stack([_column("constituents", flat, name) for name in ("pt", "eta", "phi", "mass")])
    codes = ak.to_numpy(
        flat["pdgId"] if "pdgId" in ak.fields(flat) else _missing("constituents", flat, "pdgId")
    )
    has_charge = "charge" in ak.fields(flat)
    charges = _column("constituents", flat, "charge") if has_charge else np.empty(0)
    columns = np.empty((len(CONSTITUENT_FEATURES), len(flat)), np.float32)
    _fill_columns(offsets, axis, momenta, codes.astype(np.int64), charges, columns)
    block = ObjectBlock(
        "constituents",
        "other",
        offsets,
        {"pt": momenta[0].astype(np.float32), **dict(zip(CONSTITUENT_FEATURES, columns, strict=True))},
    )
    features = {
        "jet_pt": axis[0],
        "jet_eta": axis[1],
        "jet_mass": np.maximum(axis[3], 0.0),
        "multiplicity": counts,
    }
    return EventCloud.from_input(
        EventInput(len(jets), (block,), {k: np.asarray(v, np.float32) for k, v in features.items()}), schema
    )


def nanoaod_constituents(events: ak.Array, collection: str = "FatJet") -> ak.Array:
    """Constituents of the jets of NanoAOD with PF candidates, a list per jet.

    Parameters
    ----------
    events : ak.Array
        With ``PFCand`` and, for the collection named, a table such as ``FatJetPFCand`` that has ``jetIdx`` and
        ``pfCandIdx`` (or, as in some files, ``pFCandsIdx``).
    collection : str
        ``"FatJet"`` or ``"Jet"``.

    Returns
    -------
    ak.Array
        n events * var jets * var constituents, in the order of the table. Jets without an entry, as those below the
        threshold of the file are, have an empty list.

    Raises
    ------
    InputError
        If the file has no such tables, or an index points outside of its list.
    """
    table_name = f"{collection}PFCand"
    names = ak.fields(events)
    if missing := [name for name in (collection, table_name, "PFCand") if name not in names]:
        near = ", ".join(name for name in names if "PF" in name) or "none with PF in its name"
        msg = f"events lack {', '.join(missing)}; found {near}"
        raise InputError(msg)
    table = events[table_name]
    column = next((name for name in ("pfCandIdx", "pFCandsIdx") if name in ak.fields(table)), None)
    if column is None or "jetIdx" not in ak.fields(table):
        msg = f"{table_name} must have jetIdx and pfCandIdx; it has {', '.join(ak.fields(table))}"
        raise InputError(msg)
    jet, candidate, n_jets = table["jetIdx"], table[column], ak.num(events[collection])
    is_outside = (jet < 0) | (jet >= n_jets) | (candidate < 0) | (candidate >= ak.num(events["PFCand"]))
    if ak.any(is_outside):
        event = int(ak.to_numpy(ak.any(is_outside, axis=1)).argmax())
        msg = f"{table_name} of event {event} points outside of {collection} or PFCand"
        raise InputError(msg)
    order = ak.argsort(jet, axis=1, stable=True)
    chosen = events["PFCand"][candidate[order]]
    first = ak.to_numpy(ak.num(events[collection])).cumsum() - ak.to_numpy(n_jets)  # jets before each event
    number = ak.to_numpy(ak.flatten(jet + first))
    sizes = np.bincount(number, minlength=int(ak.sum(n_jets)))
    return ak.unflatten(ak.unflatten(ak.flatten(chosen), sizes), ak.to_numpy(n_jets))


def _column(where: str, table: ak.Array, name: str) -> npt.NDArray[np.float64]:
    if name not in ak.fields(table):
        _missing(where, table, name)
    return np.asarray(ak.to_numpy(table[name]), np.float64)


def _missing(where: str, table: ak.Array, name: str) -> ak.Array:
    msg = f"{where} lack {name!r}; they have {', '.join(ak.fields(table))}"
    raise InputError(msg)


@njit(cache=True)
def _charge_of(code):  # type: ignore[no-untyped-def]
    """Charge of a reconstructed particle by its PDG code."""
    kind = abs(code)
    if kind in (11, 13):
        return -1.0 if code > 0 else 1.0
    if kind in (211, 321, 2212):
        return 1.0 if code > 0 else -1.0
    return 0.0


@njit(cache=True)
def _fill_columns(offsets, axis, momenta, codes, charges, columns):  # type: ignore[no-untyped-def]
    """Features of every constituent, in the order of ``CONSTITUENT_FEATURES``, in one pass over the jets.

    Parameters
    ----------
    offsets : int64 array, shape (n_jets + 1,)
        Start of each jet in the constituents.
    axis : float64 array, shape (4, n_jets)
        pT, eta, phi and mass of the jets in GeV and radians.
    momenta : float64 array, shape (4, n_constituents)
        The same of the constituents.
    codes : int64 array, shape (n_constituents,)
        PDG codes.
    charges : float64 array, shape (n_constituents,), or empty
        Charges; from the codes if empty.
    columns : float32 array, shape (13, n_constituents), written
    """
    for jet in range(axis.shape[1]):
        jet_pt, jet_eta, jet_phi, jet_mass = axis[0, jet], axis[1, jet], axis[2, jet], axis[3, jet]
        jet_energy = np.sqrt((jet_pt * np.cosh(jet_eta)) ** 2 + max(jet_mass, 0.0) ** 2)
        for i in range(offsets[jet], offsets[jet + 1]):
            pt, eta, mass = momenta[0, i], momenta[1, i], momenta[3, i]
            energy = np.sqrt((pt * np.cosh(eta)) ** 2 + max(mass, 0.0) ** 2)
            d_eta = eta - jet_eta
            d_phi = (momenta[2, i] - jet_phi + np.pi) % (2 * np.pi) - np.pi
            charge = charges[i] if len(charges) else _charge_of(codes[i])
            kind = abs(codes[i])
            is_lepton = kind in (11, 13)
            is_photon = kind in (22, 2)
            is_hadron = kind != 0 and not is_lepton and not is_photon
            columns[0, i], columns[1, i] = d_eta, d_phi
            columns[2, i] = np.log(max(pt, SMALLEST_MOMENTUM))
            columns[3, i] = np.log(max(1.0 - pt / jet_pt, SMALLEST_REST)) if jet_pt > 0 else 0.0
            columns[4, i] = np.log(max(energy, SMALLEST_MOMENTUM))
            columns[5, i] = np.log(max(1.0 - energy / jet_energy, SMALLEST_REST)) if jet_energy > 0 else 0.0
            columns[6, i] = np.sqrt(d_eta * d_eta + d_phi * d_phi)
            columns[7, i] = charge
            columns[8, i] = is_hadron and charge != 0
            columns[9, i] = is_hadron and charge == 0
            columns[10, i], columns[11, i], columns[12, i] = is_photon, kind == 11, kind == 13
