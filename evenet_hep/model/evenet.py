"""EveNet: transforms, body and heads in one module.

>>> from evenet_hep.schema import EventSchema
>>> schema = EventSchema.standard(classes=("signal", "background"))
>>> model = EveNet(EveNetConfig.tiny(), schema).eval()
>>> objects, mask = torch.rand(2, 5, 7), torch.ones(2, 5, dtype=torch.bool)
>>> model(objects, mask, torch.rand(2, 10))["classification"].shape
torch.Size([2, 2])
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError
from evenet_hep.model.checkpoint import (
    Checkpoint,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from evenet_hep.model.heads.classification import ClassificationConfig, ClassificationHead
from evenet_hep.model.layers import ConfigError, GatedBlock, read_config, require, require_probability
from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.model.object_encoder import Encoding, ObjectEncoder, ObjectEncoderConfig
from evenet_hep.model.pet import PET, PETConfig
from evenet_hep.schema import EventSchema


@dataclasses.dataclass(frozen=True)
class EventEmbeddingConfig:
    """Size of the stack of gated blocks that embeds the event features.

    Parameters
    ----------
    widths : sequence of int
        Width after each block. The last one is that of the network.
    dropout : float
        After linear layers.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        is_right = len(self.widths) > 0 and min(self.widths) >= 1
        require(is_right, "event_embedding.widths", "one or more positive widths", self.widths)
        require_probability("event_embedding.dropout", self.dropout)


@dataclasses.dataclass(frozen=True)
class EveNetConfig:
    """Everything about a network that the schema does not say.

    Parameters
    ----------
    width : int
        Width D of the vectors of objects and events.
    event_embedding, pet, object_encoder
        The parts of the body.
    classification : ClassificationConfig or None
        None leaves the classification head out.

    Raises
    ------
    ConfigError
        For values out of range or in contradiction to each other.

    Examples
    --------
    >>> config = EveNetConfig.published()
    >>> config.width, config.pet.layers, config.pet.phantom_neighbours
    (256, 16, True)
    >>> EveNetConfig.from_dict(config.to_dict()) == config
    True
    """

    width: int = 128
    event_embedding: EventEmbeddingConfig = dataclasses.field(default_factory=EventEmbeddingConfig)
    pet: PETConfig = dataclasses.field(default_factory=PETConfig)
    object_encoder: ObjectEncoderConfig = dataclasses.field(default_factory=ObjectEncoderConfig)
    classification: ClassificationConfig | None = dataclasses.field(default_factory=ClassificationConfig)

    def __post_init__(self) -> None:
        last = self.event_embedding.widths[-1]
        require(last == self.width, "event_embedding.widths", f"such that the last is {self.width}", last)
        for name in ("pet", "object_encoder", "classification"):
            part = getattr(self, name)
            if part is not None and self.width % part.heads:
                msg = f"{name}.heads must divide the width {self.width}; found {part.heads}"
                raise ConfigError(msg)

    @classmethod
    def published(cls) -> EveNetConfig:
        """The published network of 20 million parameters, with the behaviour of the published code."""
        return cls(
            width=256,
            event_embedding=EventEmbeddingConfig(widths=(16, 32, 64, 128, 256, 256)),
            pet=PETConfig(
                layers=16,
                heads=16,
                local_layers=10,
                feature_drop_mode="event",
                phantom_neighbours=True,
                neighbours_see_attention_mask=False,
            ),
        )

    @classmethod
    def small(cls) -> EveNetConfig:
        """About two million parameters: trains on a laptop."""
        return cls()

    @classmethod
    def tiny(cls) -> EveNetConfig:
        """Under a quarter of a million parameters, less than 1 MB of weights: for tests and tutorials."""
        return cls(
            width=48,
            event_embedding=EventEmbeddingConfig(widths=(16, 48)),
            pet=PETConfig(layers=2, heads=4, local_layers=2),
            object_encoder=ObjectEncoderConfig(layers=1, heads=4, blocks=1, type_width=8),
            classification=ClassificationConfig(heads=4),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as stored in ``config.json``."""
        content = dataclasses.asdict(self, dict_factory=_with_lists)
        return dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EveNetConfig:
        """A configuration from such a dictionary; keys left out take their defaults, unknown ones are errors."""
        return read_config(cls, content)


def _with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


class EveNet(nn.Module):
    """Event-level foundation model: raw objects and event features in, one tensor per head out.

    Parameters
    ----------
    config : EveNetConfig
        Sizes, heads and behaviour.
    schema : EventSchema
        Features with their transforms, and classes.

    Attributes
    ----------
    config, schema
        As given.
    object_transform, event_transform : FeatureTransform
        From raw values to the columns that the body reads.
    event_embedding, pet, object_encoder : Module
        The body.
    classification : ClassificationHead or None

    Raises
    ------
    ConfigError
        If the schema lacks a feature that measures distances, or has no classes while there is a
        classification head.
    """

    def __init__(self, config: EveNetConfig, schema: EventSchema) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.object_transform = FeatureTransform(schema.objects)
        self.event_transform = FeatureTransform(schema.event_features)
        self.event_embedding = _event_embedding(self.event_transform.width, config.event_embedding)
        self.pet = PET(
            self.object_transform.widths,
            _coordinate_columns(self.object_transform, config.pet),
            width=config.width,
            config=config.pet,
        )
        self.object_encoder = ObjectEncoder(width=config.width, config=config.object_encoder)
        self.classification: ClassificationHead | None = None
        if config.classification is not None:
            require(len(schema.classes) > 0, "schema.classes", "names for the classification head", ())
            self.classification = ClassificationHead(
                len(schema.classes), width=config.width, config=config.classification
            )

    def forward(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> dict[str, Tensor]:
        """One tensor per head.

        Parameters
        ----------
        objects : Tensor, shape (B, N, F)
            Raw object features in GeV and radians, in the order of the schema. N is any number from one on and
            may differ from call to call; padding never changes a result.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        event_features : Tensor, shape (B, G)
            Raw event features in GeV and radians; G may be zero.

        Returns
        -------
        dict of str to Tensor
            ``"classification"``: logits, shape (B, C), in the order of ``schema.classes``.

        Raises
        ------
        ValueError
            If the shapes do not fit the schema or each other.
        """
        encoding = self.encode(objects, mask, event_features)
        outputs: dict[str, Tensor] = {}
        if self.classification is not None:
            outputs["classification"] = self.classification(encoding.objects, mask, encoding.event)
        return outputs

    def encode(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> Encoding:
        """Vectors of objects, event and event features, before any head.

        Parameters
        ----------
        objects, mask, event_features
            As in :meth:`forward`.

        Returns
        -------
        Encoding
            ``objects`` (B, N, D), zero for padded slots; ``event`` (B, D); ``condition`` (B, D).
        """
        self._check_shapes(objects, mask, event_features)
        points = self.pet(self.object_transform(objects, mask), mask)  # (B, N, D)
        condition = self.embed_event(self.event_transform(event_features))  # (B, D)
        has_condition = mask.new_full((mask.shape[0],), bool(self.schema.event_features))
        encoding: Encoding = self.object_encoder(points, mask, condition, has_condition)
        return encoding

    def embed_event(self, columns: Tensor) -> Tensor:
        """Vector of the normalised event features: (B, columns) to (B, D), zero if there are none."""
        if self.event_embedding is None:
            return columns.new_zeros(columns.shape[0], self.config.width)
        vector: Tensor = self.event_embedding(columns)
        return vector

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write weights, configuration and schema into a folder, all of it or nothing.

        Parameters
        ----------
        folder : path
            Created if needed; a checkpoint that is already there is replaced.
        card : str, optional
            Markdown for a reader: data, training, licence.

        Raises
        ------
        CheckpointError
            If the folder holds anything that is no part of a checkpoint.
        """
        write_checkpoint(folder, Checkpoint(self.state_dict(), self.config.to_dict(), self.schema), card=card)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> EveNet:
        """The network of a folder, on the CPU and in eval mode.

        Parameters
        ----------
        folder : path
            As written by :meth:`save_pretrained`.

        Raises
        ------
        CheckpointError
            If the folder or a file is missing or damaged, or if configuration, schema and weights do not fit
            together; the message names the weights.
        """
        content = read_checkpoint(folder)
        try:
            with torch.random.fork_rng(devices=[]):  # reading leaves the caller's random numbers alone
                model = cls(EveNetConfig.from_dict(content.config), content.schema)
        except ConfigError as error:
            msg = f"{folder}: {error}"
            raise CheckpointError(msg) from error
        load_weights(model, content.schema, content.weights, str(folder))
        return model.eval()

    def _check_shapes(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> None:
        names = {"objects": self.schema.object_names, "event_features": self.schema.event_names}
        for name, tensor, ndim in (("objects", objects, 3), ("event_features", event_features, 2)):
            if tensor.ndim != ndim or tensor.shape[-1] != len(names[name]):
                shape = f"({'B, N' if ndim == 3 else 'B'}, {len(names[name])})"
                listed = ", ".join(names[name]) or "no features"
                msg = f"{name} must have shape {shape} with {listed}; found {tuple(tensor.shape)}"
                raise ValueError(msg)
        if mask.dtype != torch.bool or mask.shape != objects.shape[:2]:
            msg = f"mask must be bool of shape {tuple(objects.shape[:2])}; found {mask.dtype} {tuple(mask.shape)}"
            raise ValueError(msg)
        if objects.shape[1] < 1:
            msg = (
                f"objects must have at least one slot per event, filled or not; found {tuple(objects.shape)}"
            )
            raise ValueError(msg)
        if event_features.shape[0] != objects.shape[0]:
            msg = f"event_features must have {objects.shape[0]} rows like objects; found {event_features.shape[0]}"
            raise ValueError(msg)


def _event_embedding(columns: int, config: EventEmbeddingConfig) -> nn.Sequential | None:
    if columns == 0:
        return None
    widths = (columns, *config.widths)
    return nn.Sequential(
        *(GatedBlock(before, after, dropout=config.dropout) for before, after in itertools.pairwise(widths))
    )


def _coordinate_columns(transform: FeatureTransform, config: PETConfig) -> list[int]:
    missing = [name for name in config.coordinates if name not in transform.names]
    expected = f"names of object features ({', '.join(transform.names)})"
    require(not missing, "pet.coordinates", expected, list(config.coordinates))
    return [column for name in config.coordinates for column in transform.columns(name)]
