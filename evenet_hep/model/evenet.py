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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError, ConfigError
from evenet_hep.model.checkpoint import (
    Checkpoint,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from evenet_hep.model.heads.assignment import AssignmentConfig, AssignmentHead, ResonanceScores
from evenet_hep.model.heads.classification import ClassificationConfig, ClassificationHead
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    GlobalGenerationHead,
    InvisibleGenerationConfig,
    InvisibleProjection,
    ObjectGenerationConfig,
    PointGenerationHead,
)
from evenet_hep.model.heads.regression import RegressionConfig, RegressionHead
from evenet_hep.model.heads.segmentation import SegmentationConfig, SegmentationHead, Segments
from evenet_hep.model.hub import fetch, is_hub_name
from evenet_hep.model.layers import GatedBlock, read_config, require, require_probability
from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.model.object_encoder import Encoding, ObjectEncoder, ObjectEncoderConfig
from evenet_hep.model.pet import PET, PETConfig
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology


@dataclasses.dataclass(frozen=True)
class EventEmbeddingConfig:
    """Size of the stack of gated blocks that embeds the event features.

    Parameters
    ----------
    widths : sequence of int
        Width after each block. The last one is that of the network.
    dropout : float
        After linear layers.
    added : sequence of str
        Event features that pass by the stack, through a linear layer of their own: those that a trained network was
        given later, such as the masses of a signal hypothesis.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    dropout: float = 0.1
    added: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "added"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        is_right = len(self.widths) > 0 and min(self.widths) >= 1
        require(is_right, "event_embedding.widths", "one or more positive widths", self.widths)
        require_probability("event_embedding.dropout", self.dropout)


CLEAN_HEADS = ("classification", "regression", "assignment", "segmentation")
GENERATION_HEADS = ("object_generation", "invisible_generation", "global_generation")
HEADS = (*CLEAN_HEADS, *GENERATION_HEADS)


@dataclasses.dataclass(frozen=True)
class EveNetConfig:
    """Everything about a network that the schema does not say.

    Parameters
    ----------
    width : int
        Width D of the vectors of objects and events.
    event_embedding, pet, object_encoder
        The parts of the body.
    classification, regression, assignment, segmentation
        The heads that read clean events; None leaves one out.
    object_generation, invisible_generation, global_generation
        The heads of the diffusion model (:mod:`evenet_hep.model.generation`); None leaves one out.

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
    regression: RegressionConfig | None = None
    assignment: AssignmentConfig | None = None
    segmentation: SegmentationConfig | None = None
    object_generation: ObjectGenerationConfig | None = None
    invisible_generation: InvisibleGenerationConfig | None = None
    global_generation: GlobalGenerationConfig | None = None

    def __post_init__(self) -> None:
        last = self.event_embedding.widths[-1]
        require(last == self.width, "event_embedding.widths", f"such that the last is {self.width}", last)
        for name in ("pet", "object_encoder", *HEADS):
            part = getattr(self, name)
            if self.width % getattr(part, "heads", 1):
                msg = f"{name}.heads must divide the width {self.width}; found {part.heads}"
                raise ConfigError(msg)

    @classmethod
    def published(cls, *, heads: Sequence[str] = ("classification",)) -> EveNetConfig:
        """The published network of 20 million parameters, with the behaviour of the published code.

        Parameters
        ----------
        heads : sequence of str
            Heads in their published sizes, of all but ``"regression"``, whose targets were never published.

        Raises
        ------
        ConfigError
            For another head.
        """
        parts = _published_heads()
        if unknown := [head for head in heads if head not in parts]:
            msg = f"heads must be some of {', '.join(parts)}; found {unknown[0]!r}"
            raise ConfigError(msg)
        chosen: dict[str, Any] = {head: part if head in heads else None for head, part in parts.items()}
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
            **chosen,
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

    @classmethod
    def of_size(cls, size: str) -> EveNetConfig:
        """A network for classification of one of the sizes that are trained here.

        Parameters
        ----------
        size : {"tiny", "small", "20M", "100M"}
            The last two have the sizes of the published networks, and none of their mistakes: features are dropped one
            by one, and padding is nobody's neighbour.

        Raises
        ------
        ConfigError
            For another size.

        Examples
        --------
        >>> EveNetConfig.of_size("20M").pet.layers
        16
        """
        if size == "tiny":
            return cls.tiny()
        if size == "small":
            return cls.small()
        if size == "20M":
            return cls(
                width=256,
                event_embedding=EventEmbeddingConfig(widths=(16, 32, 64, 128, 256, 256)),
                pet=PETConfig(layers=16, heads=16, local_layers=10),
            )
        if size == "100M":
            return cls(
                width=512,
                event_embedding=EventEmbeddingConfig(widths=(16, 32, 64, 128, 256, 512, 512, 512, 512, 512)),
                pet=PETConfig(layers=20, heads=32, local_layers=10),
            )
        msg = f"size must be 'tiny', 'small', '20M' or '100M'; found {size!r}"
        raise ConfigError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as stored in ``config.json``."""
        content = dataclasses.asdict(self, dict_factory=_with_lists)
        return dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EveNetConfig:
        """A configuration from such a dictionary; keys left out take their defaults, unknown ones are errors."""
        return read_config(cls, content)


def _published_heads() -> dict[str, Any]:
    topology, told = Topology.published(), ("met", "met_phi", "m_all")
    return {
        "classification": ClassificationConfig(),
        "assignment": AssignmentConfig(topology, impossible_is_uniform=True),
        "segmentation": SegmentationConfig(topology.segments, attends_padding=True),
        "object_generation": ObjectGenerationConfig(conditions=(*told, "ht")),
        "invisible_generation": InvisibleGenerationConfig(positions=35, columns="padded", padded_output=True),
        "global_generation": GlobalGenerationConfig(
            targets=("ht",), conditions=told, blocks=0, block_layers=1
        ),
    }


def _with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


class Outputs(NamedTuple):
    """What the heads say about clean events; None or empty for a head that is not there.

    Attributes
    ----------
    classification : Tensor, shape (B, C), or None
        Logits of the classes.
    regression : Tensor, shape (B, targets), or None
        Values in the units of the targets.
    assignment : dict of str to ResonanceScores
        By kind of resonance.
    segmentation : tuple of Segments
        Before the first layer and after each; the last are the result.
    """

    classification: Tensor | None
    regression: Tensor | None
    assignment: dict[str, ResonanceScores]
    segmentation: tuple[Segments, ...]


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
    object_transform, event_transform, invisible_transform, count_transform : FeatureTransform
        From raw values to the columns that the network reads, and back.
    event_embedding, pet, object_encoder : Module
        The body.
    classification, regression, assignment, segmentation : Module or None
        Heads that read clean events.
    object_generation, invisible_generation, global_generation, invisible_projection : Module or None
        Heads of the diffusion model; :mod:`evenet_hep.model.generation` runs them.

    Raises
    ------
    ConfigError
        If the schema lacks a feature that measures distances or is generated or told, or has no classes while there
        is a classification head.
    """

    first_columns: Tensor
    added_columns: Tensor

    def __init__(self, config: EveNetConfig, schema: EventSchema) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.object_transform = FeatureTransform(schema.objects)
        self.event_transform = FeatureTransform(schema.event_features)
        self.invisible_transform = FeatureTransform(schema.invisible)
        self.count_transform = FeatureTransform([schema.n_objects])
        added = _columns(self.event_transform, config.event_embedding.added, "event_embedding.added")
        first = [column for column in range(self.event_transform.width) if column not in added]
        self.register_buffer("first_columns", torch.tensor(first, dtype=torch.long), persistent=False)
        self.register_buffer("added_columns", torch.tensor(added, dtype=torch.long), persistent=False)
        self.event_embedding = _event_embedding(len(first), config.event_embedding)
        self.added_embedding: nn.Linear | None = None
        if added:
            self.added_embedding = nn.Linear(len(added), config.width, bias=False)
            nn.init.zeros_(self.added_embedding.weight)
        self.pet = PET(
            self.object_transform.widths,
            _columns(self.object_transform, config.pet.coordinates, "pet.coordinates"),
            width=config.width,
            config=config.pet,
        )
        self.object_encoder = ObjectEncoder(width=config.width, config=config.object_encoder)
        self._add_clean_heads()
        self._add_generation_heads()

    def _add_clean_heads(self) -> None:
        config, schema, width = self.config, self.schema, self.config.width
        self.classification: ClassificationHead | None = None
        if config.classification is not None:
            require(len(schema.classes) > 0, "schema.classes", "names for the classification head", ())
            self.classification = ClassificationHead(
                len(schema.classes), width=width, config=config.classification
            )
        self.regression = None if config.regression is None else RegressionHead(width, config.regression)
        self.assignment: AssignmentHead | None = None
        if config.assignment is not None:
            self.assignment = AssignmentHead(width, capacity=schema.capacity, config=config.assignment)
        self.segmentation: SegmentationHead | None = None
        if config.segmentation is not None:
            self.segmentation = SegmentationHead(width, capacity=schema.capacity, config=config.segmentation)

    def _add_generation_heads(self) -> None:
        config, schema, width = self.config, self.schema, self.config.width
        classes, object_columns = len(schema.classes), self.object_transform.width
        self.object_generation: PointGenerationHead | None = None
        if (objects := config.object_generation) is not None:
            _columns(self.object_transform, objects.features, "object_generation.features")
            _columns(self.event_transform, objects.conditions, "object_generation.conditions")
            self.object_generation = PointGenerationHead(
                width, object_columns, classes=classes, sees_count=True, positions=0, config=objects
            )
        self.invisible_generation: PointGenerationHead | None = None
        self.invisible_projection: InvisibleProjection | None = None
        if (invisible := config.invisible_generation) is not None:
            columns = self.invisible_transform.width
            require(columns > 0, "schema.invisible", "features of invisible particles to generate", ())
            if invisible.columns == "projected":
                self.invisible_projection = InvisibleProjection(columns, object_columns)
            if invisible.columns == "padded" or invisible.padded_output:
                fits = columns <= object_columns
                require(fits, "invisible_generation.columns", f"'projected' for {columns} columns", "padded")
            self.invisible_generation = PointGenerationHead(
                width,
                object_columns if invisible.padded_output else columns,
                classes=classes,
                sees_count=False,
                positions=invisible.positions,
                config=invisible,
            )
        self.global_generation: GlobalGenerationHead | None = None
        if (event := config.global_generation) is not None:
            targets = _columns(self.event_transform, event.targets, "global_generation.targets")
            told = _columns(self.event_transform, event.conditions, "global_generation.conditions")
            self.global_generation = GlobalGenerationHead(
                1 + len(targets), conditions=len(told), classes=classes, config=event
            )

    def forward(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> dict[str, Tensor]:
        """Tensors of the heads that read clean events.

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
            ``"regression"``: values, shape (B, targets).
            ``"assignment/<kind>"`` and ``"multiplicity/<kind>"`` for each kind of resonance, and
            ``"assignment/<process>/<resonance>"`` for those with weights of their own: see
            :class:`~evenet_hep.model.heads.assignment.ResonanceScores`.
            ``"segmentation/classes"`` and ``"segmentation/masks"``: see
            :class:`~evenet_hep.model.heads.segmentation.Segments`.

        Raises
        ------
        ValueError
            If the shapes do not fit the schema or each other.
        """
        found = self.apply_heads(self.encode(objects, mask, event_features), mask)
        outputs: dict[str, Tensor] = {}
        if found.classification is not None:
            outputs["classification"] = found.classification
        if found.regression is not None:
            outputs["regression"] = found.regression
        for kind, scores in found.assignment.items():
            outputs[f"assignment/{kind}"] = scores.assignment
            if self.config.assignment is not None and kind in self.config.assignment.topology.kinds:
                outputs[f"multiplicity/{kind}"] = scores.multiplicity
        if found.segmentation:
            outputs["segmentation/classes"], outputs["segmentation/masks"] = found.segmentation[-1]
        return outputs

    def apply_heads(self, encoding: Encoding, mask: Tensor) -> Outputs:
        """What the heads say about encoded events.

        Parameters
        ----------
        encoding : Encoding
            As given by :meth:`encode`.
        mask : bool Tensor, shape (B, N)
            True for a real object.
        """
        classification = regression = None
        if self.classification is not None:
            classification = self.classification(encoding.objects, mask, encoding.event)
        if self.regression is not None:
            regression = self.regression(encoding.event)
        assignment: dict[str, ResonanceScores] = {}
        if self.assignment is not None:
            assignment = self.assignment(encoding, mask, self.has_condition(mask))
        segmentation: tuple[Segments, ...] = ()
        if self.segmentation is not None:
            segmentation = self.segmentation(encoding.objects, mask)
        return Outputs(classification, regression, assignment, segmentation)

    def has_condition(self, mask: Tensor) -> Tensor:
        """Whether there are event features, one bool per event."""
        return mask.new_full((mask.shape[0],), bool(self.schema.event_features))

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
        encoding: Encoding = self.object_encoder(points, mask, condition, self.has_condition(mask))
        return encoding

    def embed_event(self, columns: Tensor) -> Tensor:
        """Vector of the normalised event features: (B, columns) to (B, D), zero if there are none."""
        vector = columns.new_zeros(columns.shape[0], self.config.width)
        if self.event_embedding is not None:
            first = columns if self.added_embedding is None else columns.index_select(-1, self.first_columns)
            vector = self.event_embedding(first)
        if self.added_embedding is not None:
            vector = vector + self.added_embedding(columns.index_select(-1, self.added_columns))
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
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **options: Any) -> EveNet:
        """The network of a checkpoint, on the CPU and in eval mode.

        Parameters
        ----------
        source : path or str
            A folder as written by :meth:`save_pretrained`; a ``.ckpt`` file of the published training; or the name of
            either on the Hugging Face hub, ``owner/network`` or ``owner/network/file.ckpt``, which needs the extra
            ``hub``.
        revision : str, optional
            Branch, tag or commit on the hub.
        **options
            For a published file, as in :func:`~evenet_hep.model.published.import_published`, which also says what
            was taken from it.

        Raises
        ------
        CheckpointError
            If the folder or a file is missing or damaged, or if configuration, schema and weights do not fit
            together; the message names the weights.
        """
        path = fetch(str(source), revision=revision) if is_hub_name(source) else Path(source).expanduser()
        if path.is_file():
            from evenet_hep.model.published import import_published  # noqa: PLC0415  it imports this module

            return import_published(path, **options).model
        if options:
            msg = f"{', '.join(options)} can be chosen for a published file alone; {source} is a folder"
            raise CheckpointError(msg)
        content = read_checkpoint(path)
        try:
            with torch.random.fork_rng(devices=[]):  # reading leaves the caller's random numbers alone
                model = cls(EveNetConfig.from_dict(content.config), content.schema)
        except ConfigError as error:
            msg = f"{source}: {error}"
            raise CheckpointError(msg) from error
        load_weights(model, content.schema, content.weights, str(source))
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


def _columns(transform: FeatureTransform, names: Sequence[str], where: str) -> list[int]:
    missing = [name for name in names if name not in transform.names]
    listed = ", ".join(transform.names) or "none"
    require(not missing, where, f"names of features of the schema ({listed})", list(names))
    return [column for name in names for column in transform.columns(name)]
