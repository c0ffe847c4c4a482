"""Nominal events and their systematic variations through a network in one pass.

A variation leaves much as it was, and what it leaves is computed once:

* events that it does not change at all get the nominal prediction itself, so that no difference of rounding ever looks
  like a systematic effect;
* events whose objects it does not change, as for the soft missing momentum, share the object part of the network
  (the point-edge transformer, most of its work) with the nominal ones;
* all others run in the same batches as events of like multiplicity, whatever variation they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import PredictionError
from evenet_hep.events.cloud import EventCloud

if TYPE_CHECKING:
    from evenet_hep.inference import Network, Predictor

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NOMINAL = "nominal"
_PARTS = ("collections", "met", "event_features")


def predict_variations(
    predict: Predictor,
    events: ak.Array,
    shifts: Mapping[str, Mapping[str, Any]],
    *,
    collections: Mapping[str, ak.Array] | None = None,
    met: ak.Array | None = None,
    event_features: Mapping[str, Any] | None = None,
) -> dict[str, ak.Array]:
    """Predictions for the nominal events and for variations of them.

    Parameters
    ----------
    predict : Predictor
        The network.
    events : ak.Array
        As for the Predictor; eager or virtual.
    shifts : mapping of str to mapping
        Name of a variation -> what it replaces: ``collections`` (by name), ``met`` and ``event_features`` (by name),
        as the Predictor takes them. What a variation does not name is the nominal one.
    collections, met, event_features : optional
        The nominal ones, where they are not the event's own.

    Returns
    -------
    dict of str to ak.Array
        ``"nominal"`` and the names of the variations -> what the Predictor returns.

    Raises
    ------
    PredictionError
        For a variation called ``nominal``, one that replaces something unknown, or lazy arrays.
    InputError
        If the events do not fit the schema.

    Examples
    --------
    >>> import awkward as ak
    >>> from evenet_hep import Predictor
    >>> from evenet_hep.events.systematics import shift_energy_scale
    >>> jets = ak.Array([[{"pt": 50.0, "eta": 0.1, "phi": 1.0, "mass": 8.0, "btagDeepFlavB": 0.9}], []])
    >>> leptons = ak.Array([[], [{"pt": 40.0, "eta": -0.3, "phi": -2.0, "mass": 0.1, "charge": -1}]])
    >>> met = ak.Array([{"pt": 30.0, "phi": 0.5}, {"pt": 20.0, "phi": 1.5}])
    >>> events = ak.zip({"Jet": jets, "Muon": leptons, "Electron": leptons[:, :0], "MET": met}, depth_limit=1)
    >>> up = shift_energy_scale(events.Jet, events.MET, 0.02)
    >>> out = Predictor("demo").variations(events, {"jes_up": {"collections": {"Jet": up.jets}, "met": up.met}})
    >>> list(out)
    ['nominal', 'jes_up']
    >>> (out["jes_up"].classification.TT == out["nominal"].classification.TT).to_list()  # no jets, no change
    [False, True]
    """
    if not isinstance(events, ak.Array) or ak.backend(events) == "typetracer":
        msg = f"variations need events that are there, not lazy ones; found {type(events).__name__}"
        raise PredictionError(msg)
    _check_shifts(shifts)
    network = predict.network()
    usual: dict[str, Any] = {
        "collections": dict(collections or {}),
        "met": met,
        "event_features": dict(event_features or {}),
    }
    clouds = {NOMINAL: predict.cloud(events, network, **usual)}
    for name, shift in shifts.items():
        clouds[name] = predict.cloud(events, network, **_replaced(usual, shift))
    results = _Pass(clouds).run(predict, network)
    return {name: predict.to_records(results[name], cloud, network) for name, cloud in clouds.items()}


def _check_shifts(shifts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, shift in shifts.items():
        if name == NOMINAL:
            msg = f"a variation must not be called {NOMINAL!r}; those are the events as they are"
            raise PredictionError(msg)
        if unknown := sorted(set(shift) - set(_PARTS)):
            msg = f"the variation {name!r} may replace {', '.join(_PARTS)}; found {', '.join(unknown)}"
            raise PredictionError(msg)


def _replaced(usual: Mapping[str, Any], shift: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "collections": {**usual["collections"], **shift.get("collections", {})},
        "met": shift.get("met", usual["met"]),
        "event_features": {**usual["event_features"], **shift.get("event_features", {})},
    }


class Difference(NamedTuple):
    """How the events of a variation differ from the nominal ones.

    Parameters
    ----------
    is_same : bool array, shape (n_events,)
        Nothing has changed.
    same_objects : bool array, shape (n_events,)
        No object has changed; event features may have.
    """

    is_same: BoolArray
    same_objects: BoolArray


def compare_clouds(cloud: EventCloud, nominal: EventCloud) -> Difference:
    """Which events of a cloud are those of another one, bit for bit."""
    n_events = len(cloud)
    same_mask = (cloud.mask == nominal.mask).all(axis=1)
    same_values = (cloud.objects == nominal.objects).reshape(n_events, -1).all(axis=1)
    same_objects = same_mask & same_values
    same_features = (cloud.event_features == nominal.event_features).all(axis=1)
    return Difference(same_objects & same_features, same_objects)


class _Pass:
    """Rows of all clouds, one cloud after the other, and which of them need which part of the network."""

    def __init__(self, clouds: Mapping[str, EventCloud]) -> None:
        self.names = list(clouds)
        parts = list(clouds.values())
        n_events = len(parts[0])
        rows = np.arange(n_events * len(parts)).reshape(len(parts), n_events)
        self.answer_of, self.objects_of = rows.copy(), rows.copy()  # the row that stands for a row
        for i, cloud in enumerate(parts[1:], start=1):
            difference = compare_clouds(cloud, parts[0])
            self.answer_of[i, difference.is_same] = rows[0, difference.is_same]
            self.objects_of[i, difference.same_objects] = rows[0, difference.same_objects]
        fields = ("objects", "mask", "event_features", "index", "sizes")
        joined = {name: np.concatenate([getattr(cloud, name) for cloud in parts]) for name in fields}
        self.cloud = EventCloud(schema=parts[0].schema, collections=parts[0].collections, **joined)

    def run(self, predict: Predictor, network: Network) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Arrays of every output, by name of the variation."""
        needed = np.unique(self.answer_of)
        shared = self.objects_of.ravel()[needed]
        # Rows that read the same objects stand together, so that a batch holds all of them.
        order = np.lexsort((needed, shared, self.cloud.n_objects[shared]))
        found = predict.predict_rows(network, self.cloud, needed[order], shared[order])
        where = np.full(self.answer_of.size, -1)
        where[needed[order]] = np.arange(len(needed))
        return {
            name: {output: values[where[self.answer_of[i]]] for output, values in found.items()}
            for i, name in enumerate(self.names)
        }
