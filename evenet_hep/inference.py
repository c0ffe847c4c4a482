"""Predictor: a network that is called on awkward arrays.

It holds the place of the weights, not the weights: a processor with a Predictor in it pickles to a few hundred bytes,
and every process reads the network once, however many chunks it works on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import awkward as ak
import numpy as np
import numpy.typing as npt

from evenet_hep.errors import ConfigError, PredictionError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.nanoaod import Branches
from evenet_hep.records import (
    FoundResonances,
    FoundSegments,
    by_name,
    invisible_records,
    resonance_records,
    segment_records,
)
from evenet_hep.schema import EventSchema
from evenet_hep.share import CHECKPOINT_FILES, find_checkpoint

if TYPE_CHECKING:
    import torch

    from evenet_hep.model.evenet import EveNet
    from evenet_hep.model.graph import GraphNetwork
    from evenet_hep.model.jets import JetNetwork
    from evenet_hep.model.object_encoder import Encoding
    from evenet_hep.topology import Process

    Network = EveNet | GraphNetwork | JetNetwork

logger = logging.getLogger(__name__)

OUTPUTS = (
    "classification",
    "regression",
    "assignment",
    "segmentation",
    "invisible",
    "multilabel",
    "embedding",
)
# Outputs that are not called like the head they need.
NEEDS = {"invisible": "invisible_generation", "embedding": None}

_NETWORKS: dict[tuple[str, str], Network] = {}
_LOCK = threading.Lock()
_LOADS = 0
_PINNED = ""  # what "auto" and "cuda" mean in this process; empty: the first GPU, or the CPU


def network_loads() -> int:
    """How many times this process has read a network from disk."""
    return _LOADS


def pin_device(device: str) -> None:
    """Let ``"auto"`` and ``"cuda"`` mean one device in this process; an empty name undoes it.

    Workers that share a machine call it, so that each takes a GPU of its own.

    Examples
    --------
    >>> pin_device("cpu")
    >>> Predictor("demo", device="auto").chosen_device
    'cpu'
    >>> pin_device("")
    """
    global _PINNED  # noqa: PLW0603  a property of the process
    _PINNED = device


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How invisible particles are drawn.

    Parameters
    ----------
    particles : int
        Invisible particles per event.
    samples : int
        Draws per event.
    steps : int
        Steps of the sampler.
    method : {"midpoint", "ddim"}
        See :func:`evenet_hep.model.diffusion.sample`.
    seed : int
        Together with the content of an event it fixes the noise: neither the order nor the number of events matters.
    noise : {"content", "none"}
        With ``"none"`` every draw starts at the centre of the noise, at zero. One such draw stands for an event: for a
        normal distribution it is the mean, and it moves smoothly with the content of the event, as pseudo-experiments
        with shifted events need.
    """

    particles: int = 2
    samples: int = 1
    steps: int = 20
    method: Literal["midpoint", "ddim"] = "midpoint"
    seed: int = 0
    noise: Literal["content", "none"] = "content"

    def __post_init__(self) -> None:
        if self.noise not in ("content", "none"):
            msg = f"sampling: noise must be 'content' or 'none'; found {self.noise!r}"
            raise PredictionError(msg)
        if self.noise == "none" and self.samples > 1:
            msg = f"sampling: without noise all draws are the same; samples must be 1, found {self.samples}"
            raise PredictionError(msg)
        for name in ("particles", "samples", "steps"):
            if getattr(self, name) < 1:
                msg = f"sampling: {name} must be at least 1; found {getattr(self, name)}"
                raise PredictionError(msg)


class Predictor:
    """Awkward arrays in, awkward predictions out: one record per event, in order.

    Parameters
    ----------
    checkpoint : str or Path
        Folder with ``model.safetensors``, ``config.json`` and ``schema.json``, or ``"demo"`` for the small network
        that comes with the package.
    heads : sequence of str
        What to return, of ``"classification"``, ``"regression"``, ``"assignment"``, ``"segmentation"``,
        ``"invisible"`` and ``"embedding"``. A :class:`~evenet_hep.model.graph.GraphNetwork` has
        ``"classification"`` or ``"multilabel"``, and ``"embedding"``; a :class:`~evenet_hep.model.jets.JetNetwork`,
        which is given clouds of jets (:func:`~evenet_hep.events.jets.cloud_of_jets`), the first and the last.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the GPU where the worker has one.
    batch_size : int, optional
        Events per forward pass; chosen from the width of the network and the device by default.
    branches : Branches, optional
        Which collections, MET and b-tag to read; what the version of the file suggests by default.
    process : str, optional
        Process whose resonances the assignment looks for; needed if the topology of the network has several.
    sampling : Sampling
        How invisible particles are drawn.

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
        process: str | None = None,
        sampling: Sampling | None = None,
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
        self.process = process
        self.sampling = sampling or Sampling()
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

    @property
    def digest(self) -> str:
        """SHA-256 of the files of the checkpoint, as they were when this Predictor was made."""
        return self._digest

    @property
    def chosen_device(self) -> str:
        """The device that this process would use, such as ``"cpu"`` or ``"cuda:1"``."""
        return str(_device(self.device))

    def __call__(
        self,
        events: ak.Array | EventCloud,
        *,
        collections: Mapping[str, ak.Array] | None = None,
        met: ak.Array | None = None,
        event_features: Mapping[str, Any] | None = None,
        constituents: ak.Array | None = None,
    ) -> ak.Array:
        """Predictions for NanoEvents, for records with the schema's fields, or for a cloud.

        Parameters
        ----------
        events : ak.Array or EventCloud
            See :meth:`EventCloud.from_awkward`; eager or virtual. A dask-awkward array gives one, computed when asked
            for and from the needed columns alone; see :mod:`evenet_hep.lazy`. Typetracers give a typetracer.
        collections, met, event_features : optional
            Objects, missing momentum and event features that replace the event's own, as in
            :meth:`EventCloud.from_awkward`.
        constituents : ak.Array, optional
            For a :class:`~evenet_hep.model.jets.JetNetwork`, with jets as ``events``: a list per jet, see
            :func:`~evenet_hep.graph_scores.predict_jets`. Events of NanoAOD with PF candidates need none.

        Returns
        -------
        ak.Array
            One record per event (of a network for jets: per jet, as jagged as the jets), with the fields that were asked for: ``classification`` (a probability per class
            name), ``regression`` (a value per target), ``assignment`` (see
            :func:`~evenet_hep.records.resonance_records`), ``segmentation`` (see
            :func:`~evenet_hep.records.segment_records`), ``invisible`` (see
            :func:`~evenet_hep.records.invisible_records`), ``embedding`` (a vector) and ``multilabel`` (a number per
            label). NaN, probability 0, or no segments for events without objects; no events give an array of length 0
            and of the same type.

        Raises
        ------
        InputError
            If the events do not fit the schema.
        """
        if type(events).__module__.startswith("dask_awkward."):
            from evenet_hep.lazy import predict_dask  # noqa: PLC0415  needs an extra

            if constituents is not None:
                msg = "jets of dask-awkward are not read; call the Predictor in map_partitions, on the jets of each"
                raise PredictionError(msg)
            return predict_dask(self, events, collections=collections, met=met, event_features=event_features)
        is_traced = isinstance(events, ak.Array) and ak.backend(events) == "typetracer"
        network = self.network("cpu" if is_traced else None)
        if not isinstance(events, EventCloud) and (constituents is not None or _reads_jets(network)):
            return self._of_jets(network, events, constituents)
        cloud = self.cloud(events, network, collections, met, event_features)
        records = self.to_records(self.predict_rows(network, cloud), cloud, network)
        if is_traced:
            typed = records.layout.to_typetracer(forget_length=True)
            return ak.Array(typed, behavior=records.behavior)
        return records

    def _of_jets(self, network: Network, jets: ak.Array, constituents: ak.Array | None) -> ak.Array:
        from evenet_hep.graph_scores import predict_jets  # noqa: PLC0415
        from evenet_hep.model.jets import JetNetwork  # noqa: PLC0415

        if not isinstance(network, JetNetwork):
            msg = f"constituents are for a JetNetwork; {self.checkpoint} holds a {type(network).__name__}"
            raise PredictionError(msg)
        return predict_jets(network, jets, constituents, self.heads, batch_size=self.batch_size)

    def variations(
        self,
        events: ak.Array,
        shifts: Mapping[str, Mapping[str, Any]],
        *,
        collections: Mapping[str, ak.Array] | None = None,
        met: ak.Array | None = None,
        event_features: Mapping[str, Any] | None = None,
    ) -> dict[str, ak.Array]:
        """Predictions for the nominal events and for systematic variations of them, in one pass.

        See :func:`evenet_hep.variations.predict_variations`, which does it.
        """
        from evenet_hep.variations import predict_variations  # noqa: PLC0415  it needs this module

        return predict_variations(
            self, events, shifts, collections=collections, met=met, event_features=event_features
        )

    def cloud(
        self,
        events: ak.Array | EventCloud,
        network: Network,
        collections: Mapping[str, ak.Array] | None,
        met: ak.Array | None,
        event_features: Mapping[str, Any] | None,
    ) -> EventCloud:
        """What the network is given: a cloud of the events, or the cloud itself if it fits the network."""
        if not isinstance(events, EventCloud):
            return EventCloud.from_awkward(
                events,
                network.schema,
                branches=self.branches,
                collections=dict(collections or {}),
                met=met,
                event_features=dict(event_features or {}),
            )
        if events.schema.object_names != network.schema.object_names or (
            events.schema.event_names != network.schema.event_names
        ):
            msg = (
                f"the cloud has the features {events.schema.object_names + events.schema.event_names}; the network "
                f"expects {network.schema.object_names + network.schema.event_names}"
            )
            raise PredictionError(msg)
        return events

    def network(self, device_name: str | None = None) -> Network:
        """The network in evaluation mode, read once per process and device; by default on the Predictor's own."""
        global _LOADS  # noqa: PLW0603  counted, so that tests and users can see that there is one load per process
        device = _device(device_name or self.device)
        key = (self._digest, str(device))
        with _LOCK:
            if key not in _NETWORKS:
                if checkpoint_digest(self.checkpoint) != self._digest:
                    msg = f"the checkpoint {self.checkpoint} has changed since this Predictor was made; make it again"
                    raise PredictionError(msg)
                logger.info("reading the network %s for %s", self.checkpoint, device)
                _NETWORKS[key] = _read_network(self.checkpoint).to(device).eval()
                _LOADS += 1
            return _NETWORKS[key]

    def predict_rows(
        self,
        network: Network,
        cloud: EventCloud,
        rows: npt.NDArray[np.int64] | None = None,
        object_rows: npt.NDArray[np.int64] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Arrays of every output for chosen events of a cloud.

        Parameters
        ----------
        network : EveNet or GraphNetwork
            As given by :meth:`network`.
        cloud : EventCloud
            What it reads.
        rows : int array, shape (n,), optional
            Events; all by default.
        object_rows : int array, shape (n,), optional
            Events with the same objects as ``rows``, bit for bit. Where several rows name the same one, the part of
            the network that sees nothing but objects runs once for all of them.

        Returns
        -------
        dict of str to array, shape (n, ...)
        """
        import torch  # noqa: PLC0415

        from evenet_hep.graph_scores import predict_graphs  # noqa: PLC0415
        from evenet_hep.model.evenet import EveNet  # noqa: PLC0415

        if not isinstance(network, EveNet):
            chosen = cloud if rows is None else cloud[rows]
            return predict_graphs(network, chosen, self.heads, batch_size=self.batch_size)
        for head in self.heads:
            if (part := NEEDS.get(head, head)) and getattr(network, part, None) is None:
                msg = f"the network {self.checkpoint} has no {head} head"
                raise PredictionError(msg)
        rows = np.arange(len(cloud)) if rows is None else rows
        object_rows = rows if object_rows is None else object_rows
        process = self._process(network)
        results = self._empty_results(network, len(rows), process)
        device = next(network.parameters()).device
        for places, n_slots in self._batches(cloud.n_objects[rows], network, device):
            events = rows[places]
            shared, which = np.unique(object_rows[places], return_inverse=True)
            if len(shared) == len(events):
                shared, which = events, np.arange(len(events))
            objects = torch.from_numpy(cloud.objects[shared, :n_slots]).to(device)
            mask = torch.from_numpy(cloud.mask[shared, :n_slots]).to(device)
            event_features = torch.from_numpy(cloud.event_features[events]).to(device)
            repeat = torch.from_numpy(which).to(device)
            with torch.inference_mode():
                found: dict[str, torch.Tensor] = {}
                if set(self.heads) != {"invisible"}:
                    encoding = _encode(network, objects, mask, event_features, repeat)
                    found = self._read_heads(network, encoding, mask[repeat], process)
                if "invisible" in self.heads:
                    noise = torch.from_numpy(self._noise(network, cloud, events)).to(device)
                    inputs = objects[repeat], mask[repeat], event_features
                    found["invisible"] = self._draw(network, *inputs, noise)
            for name, values in found.items():
                place = results[name][places]
                place[tuple(slice(size) for size in values.shape)] = values.cpu().numpy()
                results[name][places] = place
        return results

    def _process(self, network: EveNet) -> Process | None:
        """The process whose resonances are looked for."""
        if "assignment" not in self.heads or network.config.assignment is None:
            return None
        processes = network.config.assignment.topology.processes
        found = [process for process in processes if self.process in (None, process.name)]
        if len(found) != 1:
            names = ", ".join(process.name for process in processes)
            asked = "none was named" if self.process is None else f"found {self.process!r}"
            msg = f"process must be one of {names}; {asked}"
            raise PredictionError(msg)
        return found[0]

    def _empty_results(
        self, network: EveNet, n_events: int, process: Process | None
    ) -> dict[str, npt.NDArray[Any]]:
        """What stands for an event without objects, with the shape and type of every output."""
        config, sampling, schema = network.config, self.sampling, network.schema
        shapes: dict[str, tuple[int, ...]] = {
            "classification": (len(schema.classes),),
            "regression": (len(config.regression.targets),) if config.regression else (),
            "embedding": (config.width,),
            "invisible": (sampling.samples, sampling.particles, len(schema.invisible)),
        }
        results: dict[str, npt.NDArray[Any]] = {
            head: np.full((n_events, *shapes[head]), np.nan, np.float32)
            for head in self.heads
            if head in shapes
        }
        if process is not None and config.assignment is not None:
            kinds = [config.assignment.topology.resonance(kind) for kind in process.kinds]
            most = max((len(kind.daughters) for kind in kinds), default=0)
            results["indices"] = np.full((n_events, len(kinds), most), -1, np.int64)
            for name in ("probability", "detection"):
                results[name] = np.full((n_events, len(kinds)), np.nan, np.float32)
        if "segmentation" in self.heads and config.segmentation is not None:
            queries, classes = config.segmentation.queries, 1 + len(config.segmentation.segments)
            results["segments"] = np.zeros((n_events, queries, classes), np.float32)
            results["segments"][..., 0] = 1.0
            results["masks"] = np.zeros((n_events, queries, schema.capacity), np.float32)
        return results

    def _read_heads(
        self, network: EveNet, encoding: Encoding, mask: torch.Tensor, process: Process | None
    ) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        if "classification" in self.heads and network.classification is not None:
            logits = network.classification(encoding.objects, mask, encoding.event)
            found["classification"] = logits.float().softmax(dim=1)
        if "regression" in self.heads and network.regression is not None:
            found["regression"] = network.regression(encoding.event).float()
        if "embedding" in self.heads:
            found["embedding"] = encoding.event.float()
        if process is not None and network.assignment is not None:
            from evenet_hep.model.decoding import decode_assignment  # noqa: PLC0415

            scores = network.assignment(encoding, mask, network.has_condition(mask), process.kinds)
            decoded = decode_assignment(scores, mask, process.name, network.assignment.config.topology)
            found |= decoded._asdict()
        if "segmentation" in self.heads and network.segmentation is not None:
            last = network.segmentation(encoding.objects, mask)[-1]
            found["segments"] = last.classes.float().softmax(dim=-1)
            found["masks"] = last.masks.float().sigmoid()
        return found

    def _noise(
        self, network: EveNet, cloud: EventCloud, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Noise that depends on the seed and on the content of each event alone."""
        shape = (self.sampling.samples, self.sampling.particles, network.invisible_transform.width)
        noise = np.zeros((len(rows), *shape), np.float32)
        if self.sampling.noise == "none":
            return noise
        for i, row in enumerate(rows):
            content = cloud.objects[row, cloud.mask[row]].tobytes() + cloud.event_features[row].tobytes()
            digest = hashlib.blake2b(content, digest_size=8, salt=str(self.sampling.seed).encode()[:16])
            noise[i] = np.random.default_rng(int.from_bytes(digest.digest(), "little")).normal(size=shape)
        return noise

    def _draw(
        self,
        network: EveNet,
        objects: torch.Tensor,
        mask: torch.Tensor,
        event_features: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Invisible particles, shape (events, samples, particles, features)."""
        import torch  # noqa: PLC0415

        from evenet_hep.model.generation import sample_invisible  # noqa: PLC0415

        everywhere = torch.ones(noise.shape[0], noise.shape[2], dtype=torch.bool, device=noise.device)
        draws = [
            sample_invisible(
                network,
                objects,
                mask,
                event_features,
                everywhere,
                steps=self.sampling.steps,
                method=self.sampling.method,
                noise=noise[:, i],
            ).features
            for i in range(noise.shape[1])
        ]
        return torch.stack(draws, dim=1)

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

    def to_records(
        self, results: Mapping[str, npt.NDArray[Any]], cloud: EventCloud, network: Network
    ) -> ak.Array:
        """Records of what :meth:`predict_rows` gave for all events of a cloud, in order."""
        from evenet_hep.graph_scores import graph_records  # noqa: PLC0415
        from evenet_hep.model.evenet import EveNet  # noqa: PLC0415

        if not isinstance(network, EveNet):
            return graph_records(network, results)
        config, fields = network.config, {}
        for head in self.heads:
            if head == "classification":
                fields[head] = by_name(results[head], network.schema.classes)
            elif head == "regression" and config.regression is not None:
                fields[head] = by_name(results[head], [target.name for target in config.regression.targets])
            elif head == "embedding":
                fields[head] = ak.from_numpy(results[head])
            elif head == "invisible":
                fields[head] = invisible_records(results[head], network.schema.invisible_names)
            elif head == "segmentation" and config.segmentation is not None:
                names = config.segmentation.segments
                fields[head] = segment_records(
                    FoundSegments(names, results["segments"], results["masks"]), cloud
                )
            elif (process := self._process(network)) is not None and config.assignment is not None:
                names = tuple(name for name, _ in process.resonances)
                topology = config.assignment.topology
                daughters = tuple(topology.resonance(kind).daughters for kind in process.kinds)
                parts = (results[name] for name in ("indices", "probability", "detection"))
                fields[head] = resonance_records(FoundResonances(names, daughters, *parts), cloud)
        return ak.zip(fields, depth_limit=1)


def _encode(
    network: EveNet,
    objects: torch.Tensor,
    mask: torch.Tensor,
    event_features: torch.Tensor,
    repeat: torch.Tensor,
) -> Encoding:
    """Vectors of events, some of which have the same objects: event i has those of row ``repeat[i]``."""
    if len(repeat) == len(objects):
        return network.encode(objects, mask, event_features)
    points = network.pet(network.object_transform(objects, mask), mask)[repeat]
    condition = network.embed_event(network.event_transform(event_features))
    mask = mask[repeat]
    encoding: Encoding = network.object_encoder(points, mask, condition, network.has_condition(mask))
    return encoding


def _reads_jets(network: Network) -> bool:
    from evenet_hep.model.jets import JetNetwork  # noqa: PLC0415

    return isinstance(network, JetNetwork)


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of the three files of a checkpoint, as hexadecimal text."""
    digest = hashlib.sha256()
    for name in CHECKPOINT_FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read_network(folder: Path) -> Network:
    """The network of a checkpoint, of whatever kind it is."""
    from evenet_hep.model.checkpoint import read_kind  # noqa: PLC0415  torch takes a second: load it when needed
    from evenet_hep.model.evenet import EveNet  # noqa: PLC0415
    from evenet_hep.model.graph import GraphNetwork  # noqa: PLC0415
    from evenet_hep.model.jets import JetNetwork  # noqa: PLC0415

    kind = read_kind(folder)
    if kind == "graph":
        return GraphNetwork.from_pretrained(folder)
    return JetNetwork.from_pretrained(folder) if kind == "jets" else EveNet.from_pretrained(folder)


def _device(name: str) -> torch.device:
    import torch  # noqa: PLC0415

    from evenet_hep.model.devices import find_device  # noqa: PLC0415

    if _PINNED and name in ("auto", "cuda"):
        return torch.device(_PINNED)
    try:
        return find_device(name)
    except ConfigError as error:
        raise PredictionError(str(error)) from error


def _events_at_once(n_slots: int, width: int, device_type: str) -> int:
    """Events per forward pass.

    On a CPU as many as the body takes at once: more would only fill the memory, in the heads above all.
    """
    if device_type != "cpu":
        return max(1, 65_536 // n_slots)
    from evenet_hep.model.packing import rows_at_once  # noqa: PLC0415

    return max(16, rows_at_once(width) // n_slots)
