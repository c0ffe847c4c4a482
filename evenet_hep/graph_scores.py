"""What graph and jet networks say about clouds, for :class:`~evenet_hep.inference.Predictor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import awkward as ak
import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.errors import PredictionError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.jets import cloud_of_jets, nanoaod_constituents
from evenet_hep.model.graph import GraphNetwork
from evenet_hep.model.jets import JetNetwork
from evenet_hep.model.packing import rows_at_once
from evenet_hep.records import by_name

PAIRS_AT_ONCE = {"cpu": 4096, "cuda": 2**20}


def predict_graphs(
    network: GraphNetwork | JetNetwork,
    cloud: EventCloud,
    heads: Sequence[str],
    *,
    batch_size: int | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """An array per output, with one row per event (or per jet).

    Parameters
    ----------
    network : GraphNetwork or JetNetwork
        In evaluation mode, on any device.
    cloud : EventCloud
        With the features of the network's schema.
    heads : sequence of str
        Of ``"classification"`` (probabilities, shape (n, C)), ``"multilabel"`` (numbers for the counts and
        probabilities for the other labels, shape (n, L)) and ``"embedding"`` (the vector in front of the output
        layer, shape (n, D)).
    batch_size : int, optional
        Events per forward pass.

    Returns
    -------
    dict of str to array
        In the order of ``heads``; NaN for events without objects.

    Raises
    ------
    PredictionError
        If the network does not have such an output, or reads several jets together.
    """
    own = "multilabel" if _labels(network) else "classification"
    if wrong := [head for head in heads if head not in (own, "embedding")]:
        kind = type(network).__name__
        msg = f"a {kind} trained for {own} has the outputs {own} and embedding; found {wrong[0]}"
        raise PredictionError(msg)
    if isinstance(network, JetNetwork) and network.config.jets != 1:
        msg = f"the network reads {network.config.jets} jets together: call it on jets and constituents, a list per event"
        raise PredictionError(msg)
    widths = {own: len(_names(network)), "embedding": network.config.width}
    results = {head: np.full((len(cloud), widths[head]), np.nan, np.float32) for head in heads}
    device = next(network.parameters()).device
    for rows, slots in _batches(cloud.n_objects, network, device.type, batch_size):
        tensors = (cloud.objects[rows, :slots], cloud.mask[rows, :slots], cloud.event_features[rows])
        with torch.inference_mode():
            event = network.encode(*(torch.from_numpy(each).to(device) for each in tensors))
            found = {"embedding": event.float(), own: _values(network, network.output(event))}
        for head in heads:
            results[head][rows] = found[head].cpu().numpy()
    return results


def predict_jets(
    network: JetNetwork,
    jets: ak.Array,
    constituents: ak.Array | None,
    heads: Sequence[str],
    *,
    batch_size: int | None = None,
) -> ak.Array:
    """Records of awkward jets: one per jet, or one per event for a network that reads several jets together.

    Parameters
    ----------
    network : JetNetwork
        In evaluation mode, on any device.
    jets : ak.Array
        Records with pt, eta, phi, mass (GeV and radians), a list per event or one list of all; or events of NanoAOD with
        PF candidates, whose ``FatJet`` is taken.
    constituents : ak.Array, optional
        A list per jet, as in :func:`~evenet_hep.events.jets.cloud_of_jets`; read from the events by default.
    heads : sequence of str
        Of ``"classification"`` and ``"embedding"``.
    batch_size : int, optional
        Jets per forward pass.

    Returns
    -------
    ak.Array
        As jagged as the jets. A network for J jets takes the first J of each event; events with fewer, and with one
        that has no constituents, get NaN.

    Raises
    ------
    PredictionError
        For other outputs, and for jets without lists per event where several are read together.
    InputError
        For jets and constituents that do not fit together, or fields that are missing.
    """
    if constituents is None:
        jets, constituents = jets["FatJet"], nanoaod_constituents(jets, "FatJet")
    together = network.config.jets
    if together == 1:
        cloud = cloud_of_jets(jets, constituents, network.schema)
        records = graph_records(network, predict_graphs(network, cloud, heads, batch_size=batch_size))
        return ak.unflatten(records, ak.num(jets)) if jets.ndim == 2 else records
    if wrong := [head for head in heads if head not in ("classification", "embedding")]:
        msg = f"a JetNetwork trained for classification has the outputs classification and embedding; found {wrong[0]}"
        raise PredictionError(msg)
    if jets.ndim != 2:
        msg = f"a network that reads {together} jets together needs a list of jets per event; found one list of all"
        raise PredictionError(msg)
    is_complete = ak.to_numpy(ak.num(jets) >= together)
    chosen = cloud_of_jets(
        jets[is_complete][:, :together], constituents[is_complete][:, :together], network.schema
    )
    found = _predict_together(network, chosen, heads, batch_size)
    results = {
        name: np.full((len(jets), values.shape[1]), np.nan, np.float32) for name, values in found.items()
    }
    for name, values in found.items():
        results[name][is_complete] = values
    return graph_records(network, results)


def _predict_together(
    network: JetNetwork, cloud: EventCloud, heads: Sequence[str], batch_size: int | None
) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs of a network that reads J jets together, for J rows of the cloud per event."""
    together = network.config.jets
    counts = cloud.n_objects.reshape(-1, together)
    shapes = (counts.shape[0], together)
    arrays = [x.reshape(*shapes, *x.shape[1:]) for x in (cloud.objects, cloud.mask, cloud.event_features)]
    widths = {"classification": len(network.schema.classes), "embedding": network.config.width}
    results = {head: np.full((len(counts), widths[head]), np.nan, np.float32) for head in heads}
    device = next(network.parameters()).device
    order = np.argsort(counts.max(axis=1, initial=0), kind="stable")
    order = order[counts[order].min(axis=1, initial=1) > 0]
    size = batch_size or max(16, rows_at_once(network.config.width) // max(1, together * cloud.mask.shape[1]))
    for rows in np.array_split(order, range(size, len(order), size)):
        if not len(rows):
            continue
        slots = int(counts[rows].max())
        tensors = (arrays[0][rows, :, :slots], arrays[1][rows, :, :slots], arrays[2][rows])
        with torch.inference_mode():
            event = network.encode(*(torch.from_numpy(each).to(device) for each in tensors))
            found = {"embedding": event.float(), "classification": _values(network, network.output(event))}
        for head in heads:
            results[head][rows] = found[head].cpu().numpy()
    return results


def graph_records(
    network: GraphNetwork | JetNetwork, results: Mapping[str, npt.NDArray[np.float32]]
) -> ak.Array:
    """One record per event of what :func:`predict_graphs` gave, with classes and labels by name."""
    fields = {
        head: ak.from_numpy(values) if head == "embedding" else by_name(values, _names(network))
        for head, values in results.items()
    }
    return ak.zip(fields, depth_limit=1)


def _names(network: GraphNetwork | JetNetwork) -> tuple[str, ...]:
    return _labels(network) or network.schema.classes


def _labels(network: GraphNetwork | JetNetwork) -> tuple[str, ...]:
    return network.config.labels if isinstance(network, GraphNetwork) else ()


def _values(network: GraphNetwork | JetNetwork, output: torch.Tensor) -> torch.Tensor:
    if not isinstance(network, GraphNetwork) or not network.config.labels:
        return output.float().softmax(dim=1)
    counts = network.config.counts
    return torch.cat([output[:, :counts], output[:, counts:].sigmoid()], dim=1).float()


def _batches(
    n_objects: npt.NDArray[np.int64],
    network: GraphNetwork | JetNetwork,
    device_type: str,
    batch_size: int | None,
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Rows and slots per forward pass, like multiplicities together; those without objects in none."""
    order = np.argsort(n_objects, kind="stable")
    order = order[np.searchsorted(n_objects[order], 1) :]
    start = 0
    while start < len(order):
        slots = int(n_objects[order[start]])
        if isinstance(network, GraphNetwork):
            most = PAIRS_AT_ONCE["cpu" if device_type == "cpu" else "cuda"] // (slots * max(slots - 1, 2))
        else:
            most = (rows_at_once(network.config.width) if device_type == "cpu" else 65_536) // slots
        rows = order[start : start + (batch_size or max(16, most))]
        start += len(rows)
        yield rows, int(n_objects[rows[-1]])
