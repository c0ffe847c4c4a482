"""Predictor: a network that is called on awkward arrays.

It holds the place of the weights, not the weights: a processor with a Predictor in it pickles to a few hundred bytes,
and every process reads the network once, however many chunks it works on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import PredictionError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.nanoaod import Branches
from evenet_hep.schema import EventSchema
from evenet_hep.share import CHECKPOINT_FILES, find_checkpoint

if TYPE_CHECKING:
    import torch

    from evenet_hep.model.evenet import EveNet

logger = logging.getLogger(__name__)

OUTPUTS = ("classification", "embedding")

_NETWORKS: dict[tuple[str, str], EveNet] = {}
_LOCK = threading.Lock()
_LOADS = 0


def network_loads() -> int:
    """How many times this process has read a network from disk."""
    return _LOADS


class Predictor:
    """Awkward arrays in, awkward predictions out: one record per event, in order.

    Parameters
    ----------
    checkpoint : str or Path
        Folder with ``model.safetensors``, ``config.json`` and ``schema.json``, or ``"demo"`` for the small network
        that comes with the package.
    heads : sequence of str
        What to return: ``"classification"`` (one probability per class, by name) and ``"embedding"`` (one vector per
        event).
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the GPU where the worker has one.
    batch_size : int, optional
        Events per forward pass; chosen from the width of the network and the device by default.
    branches : Branches, optional
        Which collections, MET and b-tag to read; what the version of the file suggests by default.

    Raises
    ------
    CheckpointError
        If the folder is not a checkpoint.
    PredictionError
        For a head the network does not have, or a device that is not there.

    Notes
    -----
    An event without objects gets NaN and never reaches the network. Objects may stand in any order, and who else is in
    the chunk does not matter.

    Examples
    --------
    >>> import awkward as ak
    >>> from evenet_hep import Predictor
    >>> predict = Predictor("demo")
    >>> predict.schema.capacity
    18
    >>> jet = {"pt": 50.0, "eta": 0.1, "phi": 1.0, "mass": 8.0, "btagDeepFlavB": 0.9}
    >>> muon = {"pt": 40.0, "eta": -0.3, "phi": -2.0, "mass": 0.106, "charge": -1}
    >>> events = ak.Array([{"Jet": [jet], "Muon": [muon], "MET": {"pt": 30.0, "phi": 0.5}}])
    >>> out = predict(events, collections={"Electron": events.Muon[:, :0]})
    >>> round(float(sum(out.classification[0].to_list().values())), 5)
    1.0
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        heads: Sequence[str] = ("classification",),
        device: str = "auto",
        batch_size: int | None = None,
        branches: Branches | None = None,
    ) -> None:
        if not heads or (unknown := [head for head in heads if head not in OUTPUTS]):
            found = ", ".join(map(repr, unknown)) if heads else "none"
            msg = f"heads must be among {', '.join(OUTPUTS)}; found {found}"
            raise PredictionError(msg)
        if batch_size is not None and batch_size < 1:
            msg = f"batch_size must be at least 1; found {batch_size}"
            raise PredictionError(msg)
        self.checkpoint = find_checkpoint(checkpoint)
        self.heads = tuple(heads)
        self.device = device
        self.batch_size = batch_size
        self.branches = branches
        self._digest = checkpoint_digest(self.checkpoint)
        if "classification" in self.heads and not self.schema.classes:
            msg = f"{self.checkpoint} names no classes in its schema; classification needs at least two"
            raise PredictionError(msg)

    def __repr__(self) -> str:
        return f"Predictor({str(self.checkpoint)!r}, heads={self.heads}, device={self.device!r})"

    @property
    def schema(self) -> EventSchema:
        """Fields, order, units and transforms the network expects, and its classes."""
        return EventSchema.from_file(self.checkpoint / "schema.json")

    def __call__(
        self,
        events: ak.Array | EventCloud,
        *,
        collections: Mapping[str, ak.Array] | None = None,
        met: ak.Array | None = None,
        event_features: Mapping[str, Any] | None = None,
    ) -> ak.Array:
        """Predictions for NanoEvents, for records with the schema's fields, or for a cloud.

        Parameters
        ----------
        events : ak.Array or EventCloud
            See :meth:`EventCloud.from_awkward`; eager or virtual.
        collections, met, event_features : optional
            Objects, missing momentum and event features that replace the event's own, as in
            :meth:`EventCloud.from_awkward`.

        Returns
        -------
        ak.Array
            One record per event, with the fields ``classification`` (a float32 per class name) and ``embedding`` (a
            float32 vector) as asked for. NaN for events without objects; no events give an array of length 0 and of the
            same type.

        Raises
        ------
        InputError
            If the events do not fit the schema.
        """
        network = self.network()
        if not isinstance(events, EventCloud):
            events = EventCloud.from_awkward(
                events,
                network.schema,
                branches=self.branches,
                collections=dict(collections or {}),
                met=met,
                event_features=dict(event_features or {}),
            )
        elif events.schema.object_names != network.schema.object_names or (
            events.schema.event_names != network.schema.event_names
        ):
            msg = (
                f"the cloud has the features {events.schema.object_names + events.schema.event_names}; the network "
                f"expects {network.schema.object_names + network.schema.event_names}"
            )
            raise PredictionError(msg)
        return self._to_records(self._predict(network, events), network.schema)

    def network(self) -> EveNet:
        """The network in evaluation mode, read once per process and device."""
        global _LOADS  # noqa: PLW0603  counted, so that tests and users can see that there is one load per process
        device = _device(self.device)
        key = (self._digest, str(device))
        with _LOCK:
            if key not in _NETWORKS:
                if checkpoint_digest(self.checkpoint) != self._digest:
                    msg = f"the checkpoint {self.checkpoint} has changed since this Predictor was made; make it again"
                    raise PredictionError(msg)
                from evenet_hep.model.evenet import EveNet  # noqa: PLC0415  torch takes a second: load it when needed

                logger.info("reading the network %s for %s", self.checkpoint, device)
                _NETWORKS[key] = EveNet.from_pretrained(self.checkpoint).to(device).eval()
                _LOADS += 1
            return _NETWORKS[key]

    def _predict(self, network: EveNet, cloud: EventCloud) -> dict[str, npt.NDArray[np.float32]]:
        import torch  # noqa: PLC0415

        if "classification" in self.heads and network.classification is None:
            msg = f"the network {self.checkpoint} has no classification head"
            raise PredictionError(msg)
        device = next(network.parameters()).device
        widths = {"classification": len(network.schema.classes), "embedding": network.config.width}
        results = {head: np.full((len(cloud), widths[head]), np.nan, np.float32) for head in self.heads}
        for rows, n_slots in self._batches(cloud.n_objects, network, device):
            objects = torch.from_numpy(cloud.objects[rows, :n_slots]).to(device)
            mask = torch.from_numpy(cloud.mask[rows, :n_slots]).to(device)
            event_features = torch.from_numpy(cloud.event_features[rows]).to(device)
            with torch.inference_mode():
                encoded = network.encode(objects, mask, event_features)
                if network.classification is not None and "classification" in results:
                    logits = network.classification(encoded.objects, mask, encoded.event)
                    results["classification"][rows] = logits.float().softmax(dim=1).cpu().numpy()
                if "embedding" in results:
                    results["embedding"][rows] = encoded.event.float().cpu().numpy()
        return results

    def _batches(
        self, n_objects: npt.NDArray[np.int64], network: EveNet, device: torch.device
    ) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """Event numbers and slots per forward pass: events of like multiplicity together, so that little is padding."""
        order = np.argsort(n_objects, kind="stable")
        order = order[np.searchsorted(n_objects[order], 1) :]
        start = 0
        while start < len(order):
            n_slots = int(n_objects[order[start]])
            size = self.batch_size or _events_at_once(n_slots, network.config.width, device.type)
            rows = order[start : start + size]
            start += len(rows)
            yield rows, int(n_objects[rows[-1]])

    def _to_records(self, results: Mapping[str, npt.NDArray[np.float32]], schema: EventSchema) -> ak.Array:
        fields: dict[str, ak.Array] = {}
        if "classification" in results:
            probabilities = results["classification"]
            fields["classification"] = ak.zip(
                {name: probabilities[:, i] for i, name in enumerate(schema.classes)}
            )
        if "embedding" in results:
            fields["embedding"] = ak.from_numpy(results["embedding"])
        return ak.zip(fields, depth_limit=1)


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of the three files of a checkpoint, as hexadecimal text."""
    digest = hashlib.sha256()
    for name in CHECKPOINT_FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _device(name: str) -> torch.device:
    import torch  # noqa: PLC0415

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1'; found {name!r}"
        raise PredictionError(msg) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        msg = f"device {name!r} was asked for, but this process sees no GPU"
        raise PredictionError(msg)
    return device


def _events_at_once(n_slots: int, width: int, device_type: str) -> int:
    """Events per forward pass.

    On a CPU wide networks like small batches, whose activations stay in the cache, and narrow ones large batches, which
    share the cost of every call; measured best: about 500 objects at a width of 256, 10 000 at 48.
    """
    if device_type != "cpu":
        return max(1, 65_536 // n_slots)
    return max(16, 2**25 // (width * width * n_slots))
