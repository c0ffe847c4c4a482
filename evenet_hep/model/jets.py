"""Jets as clouds of constituents: the point-edge transformer of OmniLearn (arXiv:2404.16091).

One body serves classification and generation: it reads constituents, clean or noised, and the diffusion time, whose
embedding vanishes at t = 0. A classifier head collects them in a class token, a generator head gives the velocity of
every noised constituent; both see the jet as a whole. The layers are those of the event-level network: LayerNorm per
constituent where the published code normalises over padding too, and neighbours among real constituents alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError, ConfigError
from evenet_hep.model.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from evenet_hep.model.diffusion import add_noise, schedule
from evenet_hep.model.heads.generation import PointGenerationConfig, PointGenerationHead
from evenet_hep.model.layers import (
    Attention,
    Linear,
    attendable,
    read_config,
    require,
    require_probability,
)
from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.model.pet import PET, PETConfig
from evenet_hep.schema import EventSchema

KIND = "jets"  # in config.json
PARTICLE_TYPE = (
    "charge",
    "is_charged_hadron",
    "is_neutral_hadron",
    "is_photon",
    "is_electron",
    "is_muon",
)


@dataclasses.dataclass(frozen=True)
class JetConfig:
    """Size and behaviour of the jet network; the defaults are those of the paper.

    Parameters
    ----------
    width : int
        Width D of all vectors.
    layers : int
        Transformer blocks of the body.
    heads : int
        Attention heads; divides the width.
    local_layers, neighbours : int
        Dynamic edge convolutions, and how many constituents each sees in them: neighbours in ``coordinates`` first,
        then in the learnt space.
    coordinates : sequence of str
        Features that measure the distance in the first edge convolution.
    classifier_layers, generator_layers : int
        Attention layers of the heads; 0 leaves a head out.
    dropout : float
        In attention weights and feed-forward layers.
    layer_scale : float
        Initial size of every residual branch.
    dropped : sequence of str
        Features that are set to zero together, in training, so that the network also learns without them.
    feature_drop : float
        Chance of a jet to lose them.
    label_drop : float
        Chance of a jet to be generated without its class, in training.
    generated : sequence of str
        Features that are noised and generated; a noised constituent has no others.
    jets : int
        Jets per event that one class is given to. Each goes through the body alone.
    """

    width: int = 128
    layers: int = 8
    heads: int = 8
    local_layers: int = 2
    neighbours: int = 10
    coordinates: tuple[str, ...] = ("delta_eta", "delta_phi")
    classifier_layers: int = 2
    generator_layers: int = 2
    dropout: float = 0.0
    layer_scale: float = 1e-5
    dropped: tuple[str, ...] = PARTICLE_TYPE
    feature_drop: float = 0.2
    label_drop: float = 0.1
    generated: tuple[str, ...] = ("delta_eta", "delta_phi", "log_pt")
    jets: int = 1

    def __post_init__(self) -> None:
        for name in ("coordinates", "dropped", "generated"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("width", "layers", "heads", "neighbours", "jets"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("local_layers", "classifier_layers", "generator_layers"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.width % self.heads == 0, "heads", f"a divisor of the width {self.width}", self.heads)
        for name in ("dropout", "feature_drop", "label_drop"):
            require_probability(name, getattr(self, name))
        require(len(self.generated) > 0, "generated", "at least one feature name", self.generated)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, as stored in ``config.json``."""
        content = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> JetConfig:
        """A configuration from such a dictionary; keys left out take their defaults, unknown ones are errors."""
        return read_config(cls, content)

    @property
    def body(self) -> PETConfig:
        """The configuration of the body."""
        return PETConfig(
            layers=self.layers,
            heads=self.heads,
            local_layers=self.local_layers,
            neighbours=self.neighbours,
            coordinates=self.coordinates,
            dropout=self.dropout,
            drop_path=0.0,
            layer_scale=self.layer_scale,
            feature_drop=0.0,  # what is dropped here is dropped together, in _hide
        )


class TokenLayer(nn.Module):
    """Attention in which a class token looks at itself and at all constituents, and alone is updated.

    Parameters
    ----------
    config : JetConfig
        Uses ``width``, ``heads``, ``dropout`` and ``layer_scale``.
    """

    def __init__(self, config: JetConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=config.heads, dropout=config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            Linear(width, 2 * width), nn.GELU(), nn.Dropout(config.dropout), Linear(2 * width, width)
        )
        self.feed_forward_scale = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, token: Tensor, points: Tensor, allowed: Tensor) -> Tensor:
        """The token (B, 1, D) after a look at itself and the points (B, N, D)."""
        both = self.norm(torch.cat([token, points], dim=1))
        seen = self.attention_norm(self.attention(both[:, :1], allowed, both))
        token = token + seen * self.attention_scale
        updated: Tensor = token + self.feed_forward(self.feed_forward_norm(token)) * self.feed_forward_scale
        return updated


class JetClassifier(nn.Module):
    """A vector for the jets of an event, from a class token that has looked at their constituents.

    Parameters
    ----------
    features : int
        Columns of the jet features, which scale and shift the vectors of the constituents.
    config : JetConfig
        Size.
    """

    def __init__(self, features: int, config: JetConfig) -> None:
        super().__init__()
        width = config.width
        self.jet = Linear(features, 2 * width)
        self.token = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(TokenLayer(config) for _ in range(config.classifier_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, points: Tensor, mask: Tensor, jet: Tensor) -> Tensor:
        """Vectors of events.

        Parameters
        ----------
        points : Tensor, shape (B, J, N, D)
            Constituents of J jets.
        mask : bool Tensor, shape (B, J, N)
            True for a real constituent.
        jet : Tensor, shape (B, J, columns)
            Jet features.

        Returns
        -------
        Tensor, shape (B, D)
        """
        scale, shift = F.gelu(self.jet(jet))[:, :, None].chunk(2, dim=-1)
        points = (points * (1 + scale) + shift).flatten(1, 2)
        allowed = attendable(F.pad(mask.flatten(1), (1, 0), value=True))
        token = self.token.to(points.dtype).expand(len(points), 1, -1)
        for layer in self.layers:
            token = layer(token, points, allowed)
        vector: Tensor = self.norm(token[:, 0])
        return vector


class NoisedJets(NamedTuple):
    """Jets whose constituents are noised, and what the network should predict.

    Attributes
    ----------
    columns : Tensor, shape (B, N, columns)
        Generated features noised, the others zero.
    velocity : Tensor, shape (B, N, generated)
        True velocities.
    time : Tensor, shape (B,)
        Diffusion time of each jet.
    """

    columns: Tensor
    velocity: Tensor
    time: Tensor


class JetNetwork(nn.Module):
    """Jet-level foundation model: constituents and jet features in, classes or velocities out.

    Parameters
    ----------
    config : JetConfig
        Size, heads and behaviour.
    schema : EventSchema
        ``objects`` are the features of constituents, ``event_features`` those of the jet, and classes; see
        :func:`evenet_hep.events.jets.jet_schema`.

    Raises
    ------
    ConfigError
        If the schema lacks a feature that the configuration names, or classes.

    Examples
    --------
    >>> from evenet_hep.events.jets import jet_schema
    >>> network = JetNetwork(
    ...     JetConfig(width=16, layers=1, heads=2), jet_schema(classes=("quark", "gluon"))
    ... )
    >>> mask = torch.tensor([[True, True, False]])
    >>> network(torch.zeros(1, 3, 13), mask, torch.ones(1, 4))["classification"].shape
    torch.Size([1, 2])
    """

    generated: Tensor
    dropped: Tensor

    def __init__(self, config: JetConfig, schema: EventSchema) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.object_transform = FeatureTransform(schema.objects)
        self.jet_transform = FeatureTransform(schema.event_features)
        require(len(schema.event_features) > 0, "schema.event_features", "features of the jet", ())
        dropped = self._columns("dropped", config.dropped)
        generated = self._columns("generated", config.generated)
        self.register_buffer("generated", torch.tensor(generated), persistent=False)
        self.register_buffer("dropped", torch.tensor(dropped, dtype=torch.long), persistent=False)
        self.body = PET(
            self.object_transform.widths,
            self._columns("coordinates", config.coordinates),
            width=config.width,
            config=config.body,
        )
        self.classifier: JetClassifier | None = None
        if config.classifier_layers:
            require(len(schema.classes) > 0, "schema.classes", "names for the classifier", ())
            self.classifier = JetClassifier(self.jet_transform.width, config)
            self.output = Linear(config.width, len(schema.classes))
        self.generator: PointGenerationHead | None = None
        if config.generator_layers:
            self.condition = Linear(self.jet_transform.width, config.width)
            self.generator = PointGenerationHead(
                config.width,
                len(generated),
                classes=len(schema.classes),
                sees_count=False,
                positions=0,
                config=PointGenerationConfig(
                    config.generator_layers, config.heads, config.dropout, config.layer_scale
                ),
            )

    def _columns(self, where: str, names: Sequence[str]) -> list[int]:
        missing = [name for name in names if name not in self.object_transform.names]
        listed = ", ".join(self.object_transform.names)
        require(not missing, where, f"names of features of the schema ({listed})", list(names))
        return [column for name in names for column in self.object_transform.columns(name)]

    def forward(self, constituents: Tensor, mask: Tensor, jet_features: Tensor) -> dict[str, Tensor]:
        """Logits of the classes.

        Parameters
        ----------
        constituents : Tensor, shape (B, N, F), or (B, J, N, F) with ``config.jets`` above 1
            Raw features of the constituents.
        mask : bool Tensor, shape (B, N) or (B, J, N)
            True for a real constituent.
        jet_features : Tensor, shape (B, G) or (B, J, G)
            Raw features of the jets.

        Returns
        -------
        dict of str to Tensor
            ``"classification"``, shape (B, C), in the order of ``schema.classes``.

        Raises
        ------
        ValueError
            If the shapes do not fit the schema or each other.
        ConfigError
            If the network has no classifier.
        """
        vector = self.encode(constituents, mask, jet_features)
        return {"classification": self.output(vector)}

    def encode(self, constituents: Tensor, mask: Tensor, jet_features: Tensor) -> Tensor:
        """Vectors (B, D) in front of the output layer; arguments as in :meth:`forward`."""
        self._check_shapes(constituents, mask, jet_features)
        jets = self.config.jets
        flat = mask.view(-1, mask.shape[-1])  # (B J, N)
        columns = self.object_transform(constituents.view(*flat.shape, -1), flat)
        points = self.body(self._hide(columns), flat)
        return self.classify(points, flat, self.jet_transform(jet_features.view(len(flat), -1)), jets)

    def classify(self, points: Tensor, mask: Tensor, jet: Tensor, jets: int = 1) -> Tensor:
        """Vectors (B, D) from vectors of constituents (B J, N, D), mask (B J, N) and jet columns (B J, columns)."""
        if self.classifier is None:
            msg = "classifier_layers must be at least 1 to classify; found 0"
            raise ConfigError(msg)
        vector: Tensor = self.classifier(
            points.unflatten(0, (-1, jets)), mask.unflatten(0, (-1, jets)), jet.unflatten(0, (-1, jets))
        )
        return vector

    def noise(self, constituents: Tensor, mask: Tensor, time: Tensor, noise: Tensor) -> NoisedJets:
        """Noise the generated features of all constituents of some jets.

        Parameters
        ----------
        constituents : Tensor, shape (B, N, F)
            Raw features.
        mask : bool Tensor, shape (B, N)
            True for a real constituent.
        time : Tensor, shape (B,)
            Diffusion time.
        noise : Tensor, shape (B, N, generated)
            Standard normal numbers.
        """
        clean = self.object_transform(constituents, mask)[..., self.generated]
        mixed = add_noise(clean, time, noise.to(clean.dtype))
        return NoisedJets(self.place(mixed.x, mask), mixed.velocity, time)

    def place(self, generated: Tensor, mask: Tensor) -> Tensor:
        """All columns (B, N, columns) of constituents that have the generated ones (B, N, generated) alone."""
        columns = generated.new_zeros(*mask.shape, self.object_transform.width)
        columns[..., self.generated] = torch.where(mask[..., None], generated, 0.0)
        return columns

    def velocity(
        self, points: Tensor, mask: Tensor, jet: Tensor, time: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """Velocities of noised constituents.

        Parameters
        ----------
        points : Tensor, shape (B, N, D)
            What the body makes of them.
        mask : bool Tensor, shape (B, N)
            True for a real constituent.
        jet : Tensor, shape (B, columns)
            Jet features after their transform.
        time : Tensor, shape (B,)
            Diffusion time.
        label : int Tensor, shape (B,), optional
            Class to generate; -1, or None, for no class in particular. In training it is hidden with the chance
            ``label_drop``.

        Returns
        -------
        Tensor, shape (B, N, generated)
            Zero for padded slots.
        """
        if self.generator is None:
            msg = "generator_layers must be at least 1 to generate; found 0"
            raise ConfigError(msg)
        if label is not None and self.training and self.config.label_drop > 0:
            is_hidden = torch.rand(label.shape, device=label.device) < self.config.label_drop
            label = torch.where(is_hidden, -1, label)
        condition = F.gelu(self.condition(jet))
        found: Tensor = self.generator(points, mask, condition, time, mask, label=label)
        return found

    def _hide(self, columns: Tensor) -> Tensor:
        """The columns without particle type, for some jets, in training."""
        drop = self.config.feature_drop
        if not self.training or drop == 0 or not len(self.dropped):
            return columns
        keep = columns.new_empty(len(columns), 1, 1).bernoulli_(1 - drop)
        factor = columns.new_ones(len(columns), 1, columns.shape[-1])
        factor[..., self.dropped] = keep
        return columns * factor

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
    def from_pretrained(cls, source: str | Path) -> JetNetwork:
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
                model = cls(JetConfig.from_dict(content.config), content.schema)
        except ConfigError as error:
            msg = f"{source}: {error}"
            raise CheckpointError(msg) from error
        load_weights(model, content.schema, content.weights, str(source))
        return model.eval()

    def _check_shapes(self, constituents: Tensor, mask: Tensor, jet_features: Tensor) -> None:
        jets, schema = self.config.jets, self.schema
        jet_axis = "B" if jets == 1 else f"B, {jets}"
        ndim = 3 if jets == 1 else 4
        fits = constituents.ndim == ndim and constituents.shape[-1] == len(schema.objects)
        fits = fits and constituents.shape[-2] >= 1 and (jets == 1 or constituents.shape[1] == jets)
        if not fits:
            msg = f"constituents must have shape ({jet_axis}, N, {len(schema.objects)}); found {tuple(constituents.shape)}"
            raise ValueError(msg)
        if mask.dtype != torch.bool or mask.shape != constituents.shape[:-1]:
            msg = f"mask must be bool of shape {tuple(constituents.shape[:-1])}; found {mask.dtype} {tuple(mask.shape)}"
            raise ValueError(msg)
        expected = (*constituents.shape[:-2], len(schema.event_features))
        if tuple(jet_features.shape) != expected:
            msg = f"jet_features must have shape {expected}; found {tuple(jet_features.shape)}"
            raise ValueError(msg)


class JetLoss(NamedTuple):
    """Terms of the loss; the network is trained on their sum.

    Attributes
    ----------
    clean : Tensor, scalar
        Cross-entropy of clean jets.
    generation : Tensor, scalar
        Mean squared error of the velocities, over the generated features of all real constituents.
    smeared : Tensor, scalar
        Cross-entropy of noised jets, each times alpha^2 of its time.
    """

    clean: Tensor
    generation: Tensor
    smeared: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return self.clean + self.generation + self.smeared


def jet_loss(
    model: JetNetwork,
    constituents: Tensor,
    mask: Tensor,
    jet_features: Tensor,
    label: Tensor,
    *,
    time: Tensor,
    noise: Tensor,
) -> JetLoss:
    """Loss of the pretraining: classify, generate, and classify what is noised.

    Parameters
    ----------
    model : JetNetwork
        With both heads and one jet per event.
    constituents, mask, jet_features
        As in :meth:`JetNetwork.forward`.
    label : int Tensor, shape (B,)
        Class of each jet.
    time : Tensor, shape (B,)
        Diffusion times, drawn uniformly from 0 to 1.
    noise : Tensor, shape (B, N, generated)
        Standard normal numbers.

    Returns
    -------
    JetLoss
    """
    if model.config.jets != 1:
        msg = f"jets must be 1 for the loss with generation; found {model.config.jets}"
        raise ConfigError(msg)
    jet = model.jet_transform(jet_features)
    clean = F.cross_entropy(model(constituents, mask, jet_features)["classification"], label)
    noised = model.noise(constituents, mask, time, noise)
    points = model.body(noised.columns, mask, time=time)
    found = model.velocity(points, mask, jet, time, label)
    generation = velocity_loss(found, noised.velocity, mask)
    logits = model.output(model.classify(points, mask, jet))
    alpha = schedule(time).alpha
    smeared = (alpha.square() * F.cross_entropy(logits, label, reduction="none")).mean()
    return JetLoss(clean, generation, smeared)


def velocity_loss(found: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the real constituents of a batch and their generated features.

    Examples
    --------
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> velocity_loss(torch.ones(2, 2, 3), torch.zeros(2, 2, 3), mask)
    tensor(1.)
    """
    squares = torch.where(mask[..., None], found - expected, 0.0).square().sum()
    return squares / (mask.sum().clamp(min=1) * found.shape[-1])
