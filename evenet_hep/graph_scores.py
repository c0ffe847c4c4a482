"""What graph and jet networks say about clouds, for :class:`~evenet_hep.inference.Predictor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import awkward as ak
import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.errors import PredictionError
from evenet_hep.events.cloud import EventCloud
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
        msg = (
            f"the network reads {network.config.jets} jets together: call it on tensors of shape (B, J, N, F)"
        )
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
