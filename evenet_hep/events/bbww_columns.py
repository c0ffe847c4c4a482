"""Events of the search for X -> bbWW from collections to plain arrays, as they are and with shifted energies.

:class:`BbwwReader` reads, selects and describes events; :func:`loose_events` keeps those that a systematic shift could let
pass, so that a variation runs the selection again and not a copy of its result.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError
from evenet_hep.events.bbww_selection import (
    DEEPFLAVOUR_WORKING_POINT,
    BbwwIdentification,
    BbwwSelection,
    select_bbww,
)
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.columns import near_misses
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.observables import remove_overlap
from evenet_hep.events.systematics import shift_energy_scale
from evenet_hep.events.tabular import bbww_features, feature_matrix
from evenet_hep.schema import EventSchema

FloatArray = npt.NDArray[np.float64]


class BbwwObjects(NamedTuple):
    """What the selection looks at, one entry per event.

    Parameters
    ----------
    electrons, muons, jets : ak.Array of lists of records
        NanoAOD collections, in GeV and radians.
    taus : ak.Array of lists of records or None
        None where there are none to veto.
    met : ak.Array of records
        With ``pt`` (GeV) and ``phi`` (radians).
    """

    electrons: ak.Array
    muons: ak.Array
    taus: ak.Array | None
    jets: ak.Array
    met: ak.Array


class BbwwColumns(NamedTuple):
    """Selected events as plain arrays.

    Parameters
    ----------
    features : float64 array, shape (n, 49)
        In the order of :data:`evenet_hep.events.tabular.FEATURES`; NaN for a missing value.
    objects : float32 array, shape (n, capacity, n_object_features)
    mask : bool array, shape (n, capacity)
    event_features : float32 array, shape (n, n_event_features)
        The cloud, raw values.
    """

    features: FloatArray
    objects: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    event_features: npt.NDArray[np.float32]


class BbwwReader(NamedTuple):
    """How events are read, selected and described; picklable.

    Parameters
    ----------
    identification : BbwwIdentification or None
        Branches of the identification; None for objects that have been identified.
    btag : str
        Field of the jets with the b-tag score.
    working_point : float
        Jets above it are b-tagged, below it light.
    met : str
        Collection of the missing transverse momentum.
    taus : bool
        False for files without taus: none is vetoed.
    strategy : {"joint", "sequential"}
        Of the topness; the published ntuples used the second.
    """

    identification: BbwwIdentification | None = BbwwIdentification()
    btag: str = "btagDeepFlavB"
    working_point: float = DEEPFLAVOUR_WORKING_POINT
    met: str = "MET"
    taus: bool = True
    strategy: Literal["joint", "sequential"] = "joint"

    @property
    def fields(self) -> dict[str, list[str]]:
        """Fields of electrons, muons and jets that selection and cloud look at."""
        ids = self.identification
        leptons, jets = ["pt", "eta", "phi", "mass", "charge"], ["pt", "eta", "phi", "mass", self.btag]
        if ids is None:
            return {"electrons": leptons, "muons": leptons, "jets": jets}
        named = {
            "electrons": [*leptons, "dxy", "dz", ids.electron_id],
            "muons": [*leptons, "dxy", "dz", ids.muon_id, ids.muon_isolation],
            "jets": [*jets, ids.jet_id, ids.jet_pileup_id],
        }
        return {name: [field for field in fields if field] for name, fields in named.items()}

    def read(self, events: ak.Array) -> BbwwObjects:
        """The collections of NanoEvents.

        Raises
        ------
        InputError
            For a missing collection; fields are checked where they are used.
        """
        wanted = ["Electron", "Muon", *(["Tau"] if self.taus else []), "Jet", self.met]
        present = ak.fields(events)
        for name in wanted:
            if name not in present:
                msg = f"the events have no collection {name!r}; {near_misses(name, present)}"
                raise InputError(msg)
        taus = events["Tau"] if self.taus else None
        return BbwwObjects(events["Electron"], events["Muon"], taus, events["Jet"], events[self.met])

    def select(self, objects: BbwwObjects) -> BbwwSelection:
        """The selection of :func:`~evenet_hep.events.bbww_selection.select_bbww`."""
        return select_bbww(
            objects.electrons,
            objects.muons,
            objects.taus,
            objects.jets,
            objects.met["pt"],
            objects.met["phi"],
            identification=self.identification,
            btag=self.btag,
            working_point=self.working_point,
            strategy=self.strategy,
        )

    def describe(self, found: BbwwSelection, met: ak.Array, schema: EventSchema) -> BbwwColumns:
        """Features and clouds of the events that passed.

        Parameters
        ----------
        found : BbwwSelection
            Of all events.
        met : ak.Array of records
            Of all events.
        schema : EventSchema
            Of the cloud.
        """
        keep = found.passed
        jets, lepton, met = found.jets[keep], found.lepton[keep], met[keep]
        # A score equal to the working point makes neither a b jet nor a light one, here as in the selection.
        features = bbww_features(
            lepton,
            jets,
            met["pt"],
            met["phi"],
            btag=self.btag,
            working_point=self.working_point,
            mask=jets[self.btag] != self.working_point,
            strategy=self.strategy,
        )
        chosen = {"Electron": found.electrons[keep], "Muon": found.muons[keep], "Jet": jets}
        plain = ak.zip({"pt": met["pt"], "phi": met["phi"]})
        cloud = EventCloud.from_awkward(
            ak.zip({**chosen, "MET": plain}, depth_limit=1),
            schema,
            branches=Branches(btag=self.btag, working_point=self.working_point),
            collections=chosen,
            met=plain,
        )
        return BbwwColumns(feature_matrix(features), cloud.objects, cloud.mask, cloud.event_features)


def loose_events(
    reader: BbwwReader, objects: BbwwObjects, limit: float
) -> tuple[npt.NDArray[np.bool_], BbwwObjects]:
    """Events that a change of the jet energies by up to ``limit``, or any change of the MET, could let pass.

    Every requirement but the topness is monotonous in the energies of the jets: what passes at the largest energies
    holds all that passes at smaller ones.

    Parameters
    ----------
    reader : BbwwReader
    objects : BbwwObjects
        As in the file.
    limit : float
        Largest relative change.

    Returns
    -------
    keep : bool array, shape (n_events,)
    objects : BbwwObjects
        Of the kept events: selected leptons, no taus, and all jets away from them, of any pT, as in the file.
    """
    found = reader.select(objects)
    jets = remove_overlap(objects.jets, found.electrons, found.muons, found.taus)
    up = ak.with_field(jets, jets["pt"] * (1 + limit), "pt")
    largest = reader.select(BbwwObjects(found.electrons, found.muons, None, up, objects.met))
    cuts = largest.cuts._replace(tau_veto=found.cuts.tau_veto, topness=np.ones(len(jets), np.bool_))
    keep = np.logical_and.reduce(cuts)
    met = ak.zip({"pt": objects.met["pt"], "phi": objects.met["phi"]})
    return keep, BbwwObjects(found.electrons[keep], found.muons[keep], None, jets[keep], met[keep])


def shift_objects(objects: BbwwObjects, alpha: float) -> BbwwObjects:
    """The same events with jet energies times ``1 + alpha``, and the missing momentum that goes with them.

    Parameters
    ----------
    objects : BbwwObjects
        With jets that are no leptons, as :func:`loose_events` returns them.
    alpha : float
        Relative shift.
    """
    shifted = shift_energy_scale(objects.jets, objects.met, alpha)
    return objects._replace(jets=shifted.jets, met=shifted.met)
