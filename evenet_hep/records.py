"""Predictions as awkward records: names of classes, four-vectors, and positions in the user's own collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
import vector

from evenet_hep.events.cloud import EventCloud

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class FoundResonances(NamedTuple):
    """Resonances of one process in many events.

    Attributes
    ----------
    names : tuple of str
        Of the resonances.
    daughters : tuple of tuples of str
        Names of the daughters of each.
    indices : int array, shape (n_events, resonances, most daughters)
        Slot of each daughter in the cloud; -1 where there is none.
    probability, detection : float array, shape (n_events, resonances)
        Of the assignment, and of the resonance being there.
    """

    names: tuple[str, ...]
    daughters: tuple[tuple[str, ...], ...]
    indices: IntArray
    probability: FloatArray
    detection: FloatArray


class FoundSegments(NamedTuple):
    """Segments of many events.

    Attributes
    ----------
    names : tuple of str
        Of the classes; class 0, nothing, comes before them.
    classes : float array, shape (n_events, queries, 1 + names)
        Probability of each class.
    masks : float array, shape (n_events, queries, capacity)
        Probability of an object belonging to a query.
    """

    names: tuple[str, ...]
    classes: FloatArray
    masks: FloatArray


def by_name(values: FloatArray, names: Sequence[str]) -> ak.Array:
    """One record per event from columns (n_events, names).

    Examples
    --------
    >>> by_name(np.array([[0.25, 0.75]], np.float32), ["tt", "W"]).to_list()
    [{'tt': 0.25, 'W': 0.75}]
    """
    return ak.zip({name: values[:, i] for i, name in enumerate(names)})


def resonance_records(found: FoundResonances, cloud: EventCloud) -> ak.Array:
    """One record per event with a field per resonance.

    Each resonance is a Momentum4D, the sum of its daughters in GeV, with the fields ``probability`` and ``detection``
    and a field per daughter: a record of ``collection``, its name, and ``index``, the position in the user's own
    collection. A resonance that was not found has probability 0, NaN for a momentum, and None for the indices.
    """
    momenta = _four_momenta(cloud)
    fields = {}
    for s, (name, daughters) in enumerate(zip(found.names, found.daughters, strict=True)):
        slots = found.indices[:, s, : len(daughters)]
        is_there: npt.NDArray[np.bool_] = np.all(slots >= 0, axis=1)
        rows = np.arange(len(cloud))[:, None]
        total = np.where(is_there[:, None], momenta[rows, slots.clip(0)].sum(axis=1), np.nan)
        content = dict(zip(("px", "py", "pz", "E"), total.T, strict=True))
        content |= {"probability": found.probability[:, s], "detection": found.detection[:, s]}
        content |= {daughter: _object(cloud, slots[:, d], is_there) for d, daughter in enumerate(daughters)}
        fields[name] = _as_momenta(content)
    return ak.zip(fields, depth_limit=1)


def segment_records(found: FoundSegments, cloud: EventCloud) -> ak.Array:
    """A list of segments per event.

    Each is a record of ``name``, ``probability`` of that name, and ``members``: the objects that belong to it with a
    probability above one half, as records of ``collection``, ``index`` in the user's own collection, and
    ``probability``. Queries that claim nothing are left out.
    """
    best = found.classes.argmax(axis=-1)
    probability = np.take_along_axis(found.classes, best[..., None], axis=-1)[..., 0]
    is_segment: npt.NDArray[np.bool_] = np.asarray(best > 0)
    counts = is_segment.sum(axis=1)
    event = np.nonzero(is_segment)[0]
    masks = found.masks[is_segment]
    is_member: npt.NDArray[np.bool_] = np.asarray((masks > 0.5) & cloud.mask[event])
    where = cloud.index[event][is_member]
    members = {
        "collection": _names(cloud, where["collection"]),
        "index": where["position"].astype(np.int64),
        "probability": masks[is_member],
    }
    segments = {
        "name": ak.from_numpy(np.array(["", *found.names])[best[is_segment]]),
        "probability": probability[is_segment],
        "members": ak.unflatten(ak.zip(members), is_member.sum(axis=1)),
    }
    return ak.unflatten(ak.zip(segments, depth_limit=1), counts)


def invisible_records(samples: FloatArray, names: Sequence[str]) -> ak.Array:
    """Samples of massless invisible particles, one list of samples with one list of Momentum4D each per event.

    Parameters
    ----------
    samples : array, shape (n_events, samples, particles, features)
        Raw values in GeV and radians.
    names : sequence of str
        Of the features: pt, eta and phi, and others as fields.
    """
    columns = {name: ak.from_numpy(np.ascontiguousarray(samples[..., i])) for i, name in enumerate(names)}
    columns.setdefault("mass", ak.zeros_like(columns[names[0]]))
    return ak.zip(columns, with_name="Momentum4D", behavior=_behavior())


def _object(cloud: EventCloud, slot: IntArray, is_there: npt.NDArray[np.bool_]) -> ak.Array:
    # Collection and position of one object per event, None where there is none.
    where = cloud.index[np.arange(len(cloud)), slot.clip(0)]
    collection, index = _names(cloud, where["collection"]), ak.from_numpy(where["position"].astype(np.int64))
    content = {"collection": ak.mask(collection, is_there), "index": ak.mask(index, is_there)}
    return ak.zip(content, depth_limit=1)


def _names(cloud: EventCloud, collection: npt.NDArray[Any]) -> ak.Array:
    return ak.from_numpy(np.array([*cloud.collections, ""])[collection])


def _four_momenta(cloud: EventCloud) -> npt.NDArray[np.float64]:
    # (n_events, capacity, 4): px, py, pz, E in GeV; massless without an energy
    column: Mapping[str, npt.NDArray[np.float64]] = {
        name: cloud.objects[..., i].astype(np.float64) for i, name in enumerate(cloud.schema.object_names)
    }
    pt, eta, phi = column["pt"], column["eta"], column["phi"]
    energy = column["energy"] if "energy" in column else pt * np.cosh(eta)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy], axis=-1)


def _as_momenta(content: Mapping[str, Any]) -> ak.Array:
    return ak.zip(dict(content), depth_limit=1, with_name="Momentum4D", behavior=_behavior())


def _behavior() -> dict[Any, Any]:
    behavior: dict[Any, Any] = vector.backends.awkward.behavior
    return behavior
