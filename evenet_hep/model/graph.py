"""Graph network for event classification, as in arXiv:2412.10665: encoder, message passing, decoder.

Nodes are the objects of an event, every object is joined to every other one, and a global vector stands for the event.
Three perceptrons embed them; each step updates edges, then nodes, then the global vector; a decoder and one output layer
follow. What the paper says and what had to be inferred stands in the documentation, under "The graph network".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError, ConfigError
from evenet_hep.model.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from evenet_hep.model.layers import Linear, read_config, require, single_precision
from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.model.pairs import Pairs, pair_up
from evenet_hep.schema import EventSchema

KIND = "graph"  # in config.json
PAIR_COLUMNS = 4  # of the edge features


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """Size and output of the graph network; the defaults have about 400 000 parameters.

    Parameters
    ----------
    width : int
        Width D of the vectors of nodes, edges and event.
    hidden : int
        Width inside each perceptron.
    depth : int
        Linear layers of each perceptron, at least 2.
    steps : int
        Steps of message passing.
    shared : bool
        True uses the same weights in every step. False gives each step its own; with ``hidden=64`` that makes about
        as many parameters.
    aggregation : {"mean", "sum"}
        How edges are collected at nodes, and nodes and edges at the global vector.
    labels : sequence of str
        Names of the labels for multilabel training, counts first; empty for one of the schema's classes per event.
    counts : int
        How many of ``labels`` are numbers; the others are yes or no.
    """

    width: int = 64
    hidden: int = 128
    depth: int = 4
    steps: int = 4
    shared: bool = True
    aggregation: Literal["mean", "sum"] = "mean"
    labels: tuple[str, ...] = ()
    counts: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        for name in ("width", "hidden", "steps"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.depth >= 2, "depth", "at least 2", self.depth)
        require(self.aggregation in ("mean", "sum"), "aggregation", "'mean' or 'sum'", self.aggregation)
        require(len(set(self.labels)) == len(self.labels), "labels", "different names", self.labels)
        fits = 0 <= self.counts <= len(self.labels)
        require(fits, "counts", f"at least 0 and at most the {len(self.labels)} labels", self.counts)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, as stored in ``config.json``."""
        return {**dataclasses.asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GraphConfig:
        """A configuration from such a dictionary; keys left out take their defaults, unknown ones are errors."""
        return read_config(cls, content)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them and a LayerNorm behind, for the concatenation of several inputs.

    The first layer acts on each input by itself, before it is spread over nodes or edges: W [a, b] = A a + B b.

    Parameters
    ----------
    widths : sequence of int
        Width of each input.
    width : int
        Width D of the result.
    hidden : int
        Width between the layers.
    depth : int
        Number of linear layers.
    """

    def __init__(self, widths: Sequence[int], width: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.first = Linear(sum(widths), hidden)
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(depth - 2):
            layers += [Linear(hidden, hidden), nn.ReLU()]
        self.rest = nn.Sequential(*layers, Linear(hidden, width), nn.LayerNorm(width))

    def forward(self, *inputs: tuple[Tensor, Tensor | None]) -> Tensor:
        """One vector (M, D) per row, from pairs of an input (m, width) and the rows (M,) that read it.

        An input with None instead of rows is read as it is, m = M.
        """
        total = self.first.bias.new_zeros(())
        parts = self.first.weight.split(self.widths, dim=1)
        for k, ((x, rows), weight) in enumerate(zip(inputs, parts, strict=True)):
            part = F.linear(x, weight, self.first.bias if k == 0 else None)
            total = total + (part if rows is None else part.index_select(0, rows))
        result: Tensor = self.rest(total)
        return result


class State(NamedTuple):
    """Vectors of a batch of graphs.

    Attributes
    ----------
    nodes : Tensor, shape (R, D)
        One per object.
    edges : Tensor, shape (P, D)
        One per ordered pair of objects.
    event : Tensor, shape (B, D)
        The global vectors.
    """

    nodes: Tensor
    edges: Tensor
    event: Tensor


class MessagePassing(nn.Module):
    """One step: edges from their ends, nodes from their edges, the global vector from both; each adds to what was there.

    Parameters
    ----------
    config : GraphConfig
        Sizes and aggregation.
    """

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        width = config.width
        self.is_mean = config.aggregation == "mean"
        self.edge, self.node, self.event = (
            Perceptron([width] * inputs, width, hidden=config.hidden, depth=config.depth)
            for inputs in (4, 3, 3)
        )

    def forward(self, state: State, pairs: Pairs) -> State:
        """The state after the step."""
        nodes, edges, event = state
        edges = edges + self._edge_update(state, pairs)
        received = pairs.over_senders(edges, mean=self.is_mean)
        nodes = nodes + self.node((nodes, None), (received, None), (event, pairs.event))
        event = event + self.event(
            (event, None),
            (pairs.over_nodes(nodes, mean=self.is_mean), None),
            (pairs.over_nodes(received, mean=self.is_mean), None),
        )
        return State(nodes, edges, event)

    def _edge_update(self, state: State, pairs: Pairs) -> Tensor:
        # As self.edge((edges, None), (nodes, sender), (nodes, receiver), (event, event of the pair)), but what belongs
        # to the receiver is added up before it is spread over the edges, of which there are many times as many.
        own, sender, receiver, event = self.edge.first.weight.split(self.edge.widths, dim=1)
        of_event = F.linear(state.event, event).index_select(0, pairs.event)
        of_receiver = F.linear(state.nodes, receiver) + of_event
        total = F.linear(state.edges, own, self.edge.first.bias)
        total = total + F.linear(state.nodes, sender).index_select(0, pairs.sender)
        result: Tensor = self.edge.rest(total + of_receiver.index_select(0, pairs.receiver))
        return result


class OutputLayer(nn.Module):
    """Scalar products of the event vector h with one vector per output: y_k = w_k . (h + b).

    The bias is one more vector of the width of h, so that N outputs have D (N + 1) parameters, as in the paper. As long
    as N is not larger than D it can shift every output by any number, like the usual one.

    Parameters
    ----------
    width : int
        Width D of the event vector.
    outputs : int
        Number N of outputs.

    Examples
    --------
    >>> sum(p.numel() for p in OutputLayer(64, 12).parameters())
    832
    >>> sum(p.numel() for p in OutputLayer(64, 41).parameters())
    2688
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, event: Tensor) -> Tensor:
        """Outputs (B, N) of event vectors (B, D)."""
        return F.linear(event + self.bias, self.weight)


class GraphNetwork(nn.Module):
    """Event classification on graphs: raw objects and event features in, classes or labels out.

    Parameters
    ----------
    config : GraphConfig
        Sizes, and the labels if there are any.
    schema : EventSchema
        Features with their transforms, and classes. The objects need ``eta`` and ``phi``.

    Raises
    ------
    ConfigError
        If the schema lacks an angle, or classes where there are no labels.

    Examples
    --------
    >>> schema = EventSchema.standard(classes=("signal", "background"))
    >>> network = GraphNetwork(GraphConfig(), schema)
    >>> mask = torch.tensor([[True, True, False], [False, False, False]])
    >>> network(torch.ones(2, 3, 7), mask, torch.ones(2, 10))["classification"].shape
    torch.Size([2, 2])
    """

    def __init__(self, config: GraphConfig, schema: EventSchema) -> None:
        super().__init__()
        missing = [name for name in ("eta", "phi") if name not in schema.object_names]
        require(not missing, "schema.objects", "features with eta and phi", schema.object_names)
        require(bool(config.labels or schema.classes), "schema.classes", "names, or labels in the config", ())
        self.config = config
        self.schema = schema
        self.object_transform = FeatureTransform(schema.objects)
        self.event_transform = FeatureTransform(schema.event_features)
        self.count_transform = FeatureTransform([schema.n_objects])
        self.eta, self.phi = (schema.object_names.index(name) for name in ("eta", "phi"))
        width, size = config.width, {"hidden": config.hidden, "depth": config.depth}
        self.encode_node = Perceptron([self.object_transform.width], width, **size)
        self.encode_edge = Perceptron([PAIR_COLUMNS], width, **size)
        self.encode_event = Perceptron([self.event_transform.width + 1], width, **size)
        blocks = 1 if config.shared else config.steps
        self.steps = nn.ModuleList(MessagePassing(config) for _ in range(blocks))
        self.decoder = Perceptron([width] * 3, width, **size)
        self.output = OutputLayer(width, len(config.labels or schema.classes))

    def forward(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> dict[str, Tensor]:
        """What the output layer says.

        Parameters
        ----------
        objects : Tensor, shape (B, N, F)
            Raw object features in GeV and radians, in the order of the schema. N is any number from one on.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        event_features : Tensor, shape (B, G)
            Raw event features; G may be zero.

        Returns
        -------
        dict of str to Tensor
            ``"classification"``: logits (B, C) in the order of ``schema.classes``; or, if the configuration has
            labels, ``"multilabel"``: (B, labels), numbers for the counts and logits for the rest.

        Raises
        ------
        ValueError
            If the shapes do not fit the schema or each other.
        """
        name = "multilabel" if self.config.labels else "classification"
        event = self.encode(objects, mask, event_features)
        with single_precision(event.device):
            return {name: self.output(event.to(self.output.weight.dtype))}

    def encode(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> Tensor:
        """Event vectors (B, D) in front of the output layer."""
        return self.stages(objects, mask, event_features)["decoder"]

    def stages(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> dict[str, Tensor]:
        """Event vectors on the way, to compare networks with each other.

        Returns
        -------
        dict of str to Tensor
            ``"encoder"``, ``"step 1"`` and so on, shape (B, 2 D): the global vector and the mean of the nodes; and
            ``"decoder"``, shape (B, D).
        """
        _check_shapes(self.schema, objects, mask, event_features)
        pairs = pair_up(mask)
        state = self._embed(objects, mask, event_features, pairs)
        found = {"encoder": _summary(state, pairs)}
        for step in range(self.config.steps):
            state = self.steps[step % len(self.steps)](state, pairs)
            found[f"step {step + 1}"] = _summary(state, pairs)
        mean = self.config.aggregation == "mean"
        received = pairs.over_senders(state.edges, mean=mean)
        found["decoder"] = self.decoder(
            (state.event, None),
            (pairs.over_nodes(state.nodes, mean=mean), None),
            (pairs.over_nodes(received, mean=mean), None),
        )
        return found

    def _embed(self, objects: Tensor, mask: Tensor, event_features: Tensor, pairs: Pairs) -> State:
        nodes = pairs.rows.take(self.object_transform(objects, mask))
        raw = torch.where(mask[..., None], objects, 0.0).to(nodes.dtype)
        angles = pairs.rows.take(raw[..., [self.eta, self.phi]])
        columns = pair_features(angles[pairs.sender], angles[pairs.receiver])
        number = self.count_transform(mask.sum(dim=1, keepdim=True))
        event = torch.cat([self.event_transform(event_features), number], dim=1)
        return State(
            self.encode_node((nodes, None)),
            self.encode_edge((columns, None)),
            self.encode_event((event, None)),
        )

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write weights, configuration and schema into a folder, all of it or nothing.

        Parameters
        ----------
        folder : path
            Created if needed; a checkpoint that is already there is replaced.
        card : str, optional
            Markdown for a reader: data, training, licence.
        """
        content = Checkpoint(self.state_dict(), self.config.to_dict(), self.schema, KIND)
        write_checkpoint(folder, content, card=card)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> GraphNetwork:
        """The network of a folder, on the CPU and in eval mode.

        Raises
        ------
        CheckpointError
            If the folder is missing or damaged, holds a network of another kind, or if configuration, schema and
            weights do not fit together.
        """
        content = read_checkpoint(source, kind=KIND)
        try:
            with torch.random.fork_rng(devices=[]):  # reading leaves the caller's random numbers alone
                model = cls(GraphConfig.from_dict(content.config), content.schema)
        except ConfigError as error:
            msg = f"{source}: {error}"
            raise CheckpointError(msg) from error
        load_weights(model, content.schema, content.weights, str(source))
        return model.eval()


def pair_features(sender: Tensor, receiver: Tensor) -> Tensor:
    """Edge features: difference in eta, cosine and sine of the difference in phi, and Delta R.

    Parameters
    ----------
    sender, receiver : Tensor, shape (..., 2)
        eta and phi in radians.

    Returns
    -------
    Tensor, shape (..., 4)

    Examples
    --------
    >>> pair_features(torch.tensor([0.5, 3.0]), torch.tensor([0.5, -3.0]))[3]
    tensor(0.2832)
    """
    difference = sender - receiver
    eta, phi = difference[..., 0], difference[..., 1]
    cos, sin = torch.cos(phi), torch.sin(phi)
    # The angle itself jumps at pi; its square, in Delta R, does not.
    delta_r = torch.hypot(eta, torch.atan2(sin, cos))
    return torch.stack([eta, cos, sin, delta_r], dim=-1)


def multilabel_loss(
    values: Tensor, targets: Tensor, *, counts: int, event_weight: Tensor | None = None
) -> Tensor:
    """Mean over all labels of the squared error of the counts and the binary cross-entropy of the others.

    Every label has the same weight, whatever its kind.

    Parameters
    ----------
    values : Tensor, shape (B, L)
        Numbers for the first ``counts`` labels and logits for the rest, as given by :class:`GraphNetwork`.
    targets : Tensor, shape (B, L)
        Counts, and 0 or 1.
    counts : int
        Number of counts.
    event_weight : Tensor, shape (B,), optional
        Weight of each event; 1 if left out.

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> multilabel_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]]), counts=1)
    tensor(2.3466)
    """
    values, targets = values.float(), targets.float()
    squared = (values[:, :counts] - targets[:, :counts]).square()
    entropy = F.binary_cross_entropy_with_logits(values[:, counts:], targets[:, counts:], reduction="none")
    per_event = torch.cat([squared, entropy], dim=1).mean(dim=1)
    if event_weight is None:
        return per_event.mean()
    return (event_weight * per_event).sum() / event_weight.sum()


def _summary(state: State, pairs: Pairs) -> Tensor:
    return torch.cat([state.event, pairs.over_nodes(state.nodes, mean=True)], dim=1)


def _check_shapes(schema: EventSchema, objects: Tensor, mask: Tensor, event_features: Tensor) -> None:
    is_cloud = objects.ndim == 3 and objects.shape[1] >= 1 and objects.shape[2] == len(schema.objects)
    if not is_cloud:
        msg = (
            f"objects must have shape (B, N, {len(schema.objects)}) with N at least 1 and "
            f"{', '.join(schema.object_names)}; found {tuple(objects.shape)}"
        )
        raise ValueError(msg)
    if mask.dtype != torch.bool or mask.shape != objects.shape[:2]:
        msg = f"mask must be bool of shape {tuple(objects.shape[:2])}; found {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(msg)
    expected = (objects.shape[0], len(schema.event_features))
    if tuple(event_features.shape) != expected:
        msg = f"event_features must have shape {expected} with {', '.join(schema.event_names) or 'no features'}; found {tuple(event_features.shape)}"
        raise ValueError(msg)
