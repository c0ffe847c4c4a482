"""Import of the published EveNet checkpoints.

The files are read with ``torch.load(weights_only=True)``, never unpickled. What their parameters are called, and which
options their networks have, stands in :mod:`evenet_hep.model.published_layout`.
Everything the published network does in its own way is a field of the configuration, set here.
"""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenet_hep.errors import CheckpointError
from evenet_hep.model.checkpoint import load_weights, some
from evenet_hep.model.evenet import EveNet, EveNetConfig, EventEmbeddingConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.object_encoder import ObjectEncoderConfig
from evenet_hep.model.pet import PETConfig
from evenet_hep.model.published_layout import (
    BLOCKS,
    BUILT_WITH,
    CHOSEN,
    CLASS_OUTPUT,
    NAMES,
    SIZES,
    STACK,
    UNUSED,
)
from evenet_hep.schema import EventSchema, Feature


class ImportAccount(NamedTuple):
    """What became of the parameters of a published file. ``str`` of it is a summary to print.

    Attributes
    ----------
    loaded : tuple of str
        Names in the file whose values the network has, normalisation included.
    skipped : tuple of str
        Names in the file that the network has no use for: other heads, and one gate that takes part in no result.
    missing : tuple of str
        Names of ours that the file does not hold, and which therefore keep their initial values.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for what, names in zip(self._fields, self, strict=True):
            count: dict[str, int] = {}
            for name in names:
                count[name.split(".")[0]] = count.get(name.split(".")[0], 0) + 1
            parts = ", ".join(f"{part} {number}" for part, number in count.items())
            lines.append(f"{what} {len(names)}" + (f": {parts}" if parts else ""))
        return "\n".join(lines)


class Imported(NamedTuple):
    """A published network in our hands.

    Attributes
    ----------
    model : EveNet
        On the CPU and in eval mode.
    account : ImportAccount
        What was taken from the file; print it.
    """

    model: EveNet
    account: ImportAccount


def import_published(
    path: str | Path,
    *,
    ema: bool = False,
    network: Mapping[str, Any] | None = None,
    schema: EventSchema | None = None,
    classes: Sequence[str] | None = None,
    classification: bool = True,
) -> Imported:
    """The body and the classification head of a published checkpoint, with the published behaviour.

    Parameters
    ----------
    path : path
        A ``.ckpt`` file of the published training code.
    ema : bool
        True takes the running average of the parameters (``ema_state_dict``). Files keep none of the statistics of
        the normalisation layers; those are the ones of the last step.
    network : mapping, optional
        The network options the file was made with, as in the published YAML (``Body``, ``Classification``, ...).
        Sizes are read from the weights and must agree; numbers of heads and neighbours, and dropout, cannot be read
        from them. Left out, the file must have the sizes of the published network of 20 million parameters.
    schema : EventSchema, optional
        Features in the order of the file; :meth:`EventSchema.published` if left out. Means and widths are replaced by
        those in the file.
    classes : sequence of str, optional
        Class names; those of the schema if left out.
    classification : bool
        False leaves the classification head out.

    Returns
    -------
    Imported
        The network, and the account of what was taken from the file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or holds pickled objects, lacks a part that was asked for, or does not fit the
        options, the schema or the classes.
    ConfigError
        If the options contradict each other.
    """
    source = str(path)
    tensors = _read_tensors(Path(path).expanduser(), ema=ema)
    parts = ("GlobalEmbedding.", "PET.", "ObjectEncoder.") + ("Classification.",) * classification
    for part in parts:
        if not any(name.startswith(part) for name in tensors):
            hint = "; pass classification=False to import the body alone" if part == "Classification." else ""
            msg = f"{source} has no {part.removesuffix('.')}{hint}"
            raise CheckpointError(msg)
    schema, statistics = _with_statistics(schema or EventSchema.published(), tensors, source)
    if classification:
        schema = _with_classes(schema, classes, tensors, source)
    config = _config(tensors, network, schema, classification=classification, source=source)
    with torch.random.fork_rng(devices=[]):  # reading leaves the caller's random numbers alone
        model = EveNet(config, schema)
    used = [name for name in tensors if name.startswith(parts) and not UNUSED.match(name)]
    weights = _converted({name: tensors[name] for name in used})
    missing = [
        name for name in model.state_dict() if name.endswith(".num_batches_tracked") and name not in weights
    ]
    load_weights(model, schema, weights | {name: model.state_dict()[name] for name in missing}, source)
    taken = {*used, *statistics}
    loaded = tuple(name for name in tensors if name in taken)
    skipped = tuple(name for name in tensors if name not in taken)
    return Imported(model.eval(), ImportAccount(loaded, skipped, tuple(missing)))


def _read_tensors(path: Path, *, ema: bool) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"there is no checkpoint file {path}"
        raise CheckpointError(msg)
    if not zipfile.is_zipfile(path):
        msg = f"{path} is not a file that torch.save has written, or only a part of one"
        raise CheckpointError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path} holds more than plain tensors, and nothing else is read"
        raise CheckpointError(msg) from error
    except (RuntimeError, OSError) as error:
        msg = f"cannot read {path}: {error}"
        raise CheckpointError(msg) from error
    tensors: dict[str, Tensor] = {}
    for key in ("state_dict", "ema_state_dict") if ema else ("state_dict",):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            found = some(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            msg = f"{path} must hold {key!r}; found {found}"
            raise CheckpointError(msg)
        tensors.update((name.removeprefix("model."), value) for name, value in content[key].items())
    return tensors


def _with_statistics(
    schema: EventSchema, tensors: Mapping[str, Tensor], source: str
) -> tuple[EventSchema, list[str]]:
    # The schema with the means and widths of the file, and the names under which the file has them.
    kinds = (("objects", schema.objects, "sequential"), ("event features", schema.event_features, "global"))
    names, scaled = [], []
    for kind, features, normaliser in kinds:
        keys = [f"{normaliser}_normalizer.{key}" for key in ("norm_mask", "mean", "std")]
        if missing := [key for key in keys if key not in tensors]:
            msg = f"{source} lacks the normalisation {', '.join(missing)}"
            raise CheckpointError(msg)
        if (number := len(tensors[keys[1]])) != len(features):
            listed = ", ".join(feature.name for feature in features)
            msg = f"{source} has {number} {kind}, the schema has {len(features)} ({listed})"
            raise CheckpointError(msg)
        statistics = zip(features, *(tensors[key].tolist() for key in keys), strict=True)
        scaled.append(tuple(_scaled(*each, source=source) for each in statistics))
        names += keys
    return dataclasses.replace(schema, objects=scaled[0], event_features=scaled[1]), names


def _scaled(feature: Feature, is_scaled: bool, mean: float, std: float, *, source: str) -> Feature:
    if is_scaled != (feature.transform in ("standard", "log", "uniform")):
        does = "scales" if is_scaled else "does not scale"
        msg = f"{source} {does} {feature.name}, but the schema has transform {feature.transform!r}"
        raise CheckpointError(msg)
    return dataclasses.replace(feature, mean=mean, std=std) if is_scaled else feature


def _with_classes(
    schema: EventSchema, classes: Sequence[str] | None, tensors: Mapping[str, Tensor], source: str
) -> EventSchema:
    outputs = [name for name in tensors if name.startswith("Classification.") and name.endswith(CLASS_OUTPUT)]
    if len(outputs) != 1:
        msg = f"{source} must have one classification; found {len(outputs)} ({some(outputs)})"
        raise CheckpointError(msg)
    names = tuple(schema.classes if classes is None else classes)
    if len(names) != (separated := tensors[outputs[0]].shape[0]):
        msg = f"{source} separates {separated} classes; found {len(names)} names ({', '.join(names)}): pass classes"
        raise CheckpointError(msg)
    return dataclasses.replace(schema, classes=names)


def _config(
    tensors: Mapping[str, Tensor],
    network: Mapping[str, Any] | None,
    schema: EventSchema,
    *,
    classification: bool,
    source: str,
) -> EveNetConfig:
    sizes = _sizes(tensors, classification=classification, source=source)
    options = _options(network, sizes, source)
    event, pet, encoder = options["GlobalEmbedding"], options["PET"], options["ObjectEncoder"]
    blocks = range(_count(tensors, STACK))
    widths = tuple(_size(tensors, f"{STACK}.{i}.linear_2.0.bias", source) for i in blocks)
    coordinates = tuple(_name(schema.object_names, i) for i in pet["local_point_index"])
    head = None
    if classification:
        head = ClassificationConfig(
            heads=options["Classification"]["num_attention_heads"],
            blocks=sizes["Classification"]["num_classification_layers"],
            dropout=options["Classification"]["dropout"],
        )
    return EveNetConfig(
        width=sizes["PET"]["hidden_dim"],
        event_embedding=EventEmbeddingConfig(widths=widths, dropout=event["dropout"]),
        pet=PETConfig(
            layers=sizes["PET"]["num_layers"],
            heads=pet["num_heads"],
            local_layers=sizes["PET"]["num_local_layer"],
            neighbours=pet["local_Krank"],
            coordinates=coordinates,
            dropout=pet["dropout"],
            drop_path=pet["drop_probability"],
            layer_scale=float(pet["layer_scale_init"]),
            feature_drop=pet["feature_drop"] if "all" in pet["mode"] else 0.0,
            feature_drop_mode="event",
            phantom_neighbours=True,
            neighbours_see_attention_mask=False,
        ),
        object_encoder=ObjectEncoderConfig(
            layers=sizes["ObjectEncoder"]["num_encoder_layers"],
            heads=encoder["num_attention_heads"],
            blocks=sizes["ObjectEncoder"]["num_embedding_layers"],
            type_width=sizes["ObjectEncoder"]["position_embedding_dim"],
            dropout=encoder["dropout"],
        ),
        classification=head,
    )


def _name(names: Sequence[str], index: int) -> str:
    if not 0 <= index < len(names):
        msg = f"network option PET.local_point_index must be below {len(names)}; found {index}"
        raise CheckpointError(msg)
    return names[index]


def _sizes(tensors: Mapping[str, Tensor], *, classification: bool, source: str) -> dict[str, dict[str, int]]:
    types = "ObjectEncoder.combined_embedding.first_position_embedding.position_embedding"
    sizes = {
        "GlobalEmbedding": {
            "initial_embedding_dim": _size(tensors, f"{STACK}.0.linear_2.0.bias", source),
            "hidden_dim": _size(tensors, f"{STACK}.{_count(tensors, STACK) - 1}.linear_2.0.bias", source),
        },
        "PET": {
            "hidden_dim": _size(tensors, "PET.feature_embedding.2.bias", source),
            "num_layers": _count(tensors, "PET.transformer_blocks"),
            "num_local_layer": _count(tensors, "PET.local_embedding.local_embed_layer"),
        },
        "ObjectEncoder": {
            "hidden_dim": _size(tensors, "ObjectEncoder.particle_vector", source),
            "position_embedding_dim": _size(tensors, types, source),
            "num_embedding_layers": _count(tensors, "ObjectEncoder.embedding"),
            "num_encoder_layers": _count(tensors, "ObjectEncoder.encoder.layers"),
        },
    }
    if classification:
        (network,) = {
            name.rsplit(".", 2)[0]
            for name in tensors
            if name.startswith("Classification.") and name.endswith(CLASS_OUTPUT)
        }
        sizes["Classification"] = {
            "hidden_dim": _size(tensors, "Classification.class_transformer.norm1.weight", source),
            "num_classification_layers": _count(tensors, f"{network}.hidden_layers"),
        }
    return sizes


def _size(tensors: Mapping[str, Tensor], name: str, source: str) -> int:
    if name not in tensors:
        msg = f"{source} lacks {name}"
        raise CheckpointError(msg)
    return tensors[name].shape[-1]


def _count(tensors: Mapping[str, Tensor], place: str) -> int:
    # Entries of a list of modules.
    depth = place.count(".") + 1
    return len({name.split(".")[depth] for name in tensors if name.startswith(f"{place}.")})


def _options(
    network: Mapping[str, Any] | None, sizes: Mapping[str, Mapping[str, int]], source: str
) -> dict[str, dict[str, Any]]:
    # Per part, the options that cannot be read from the weights.
    if network is None:
        if other := [part for part in sizes if sizes[part] != SIZES[part]]:
            found = "; ".join(f"{part} {dict(sizes[part])}" for part in other)
            msg = f"{source} is not the published 20M network, it has {found}: pass its options as network"
            raise CheckpointError(msg)
        return {part: dict(CHOSEN[part]) for part in sizes}
    options = {}
    for part, size in sizes.items():
        section = network if part == "Classification" else network.get("Body", {})
        given = section.get(part, {})
        expected = {**BUILT_WITH[part], **size}
        if missing := sorted(set(CHOSEN[part]) - set(given)):
            msg = f"network options of {part} lack {', '.join(missing)}"
            raise CheckpointError(msg)
        if unknown := sorted(set(given) - set(CHOSEN[part]) - set(expected)):
            msg = f"network options of {part} have unknown {', '.join(unknown)}"
            raise CheckpointError(msg)
        for key in sorted(set(given) & set(expected)):
            if given[key] != expected[key]:
                msg = f"network option {part}.{key} must be {expected[key]!r} for {source}; found {given[key]!r}"
                raise CheckpointError(msg)
        options[part] = {key: given[key] for key in CHOSEN[part]}
    return options


def _converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Our names and shapes. What no rule knows keeps its name, and is an error when the weights are loaded.
    weights: dict[str, Tensor] = {}
    blocks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        ours = name
        for pattern, replacement in NAMES:
            ours = pattern.sub(replacement, ours)
        place, _, kind = ours.rpartition(".")
        prefix, _, last = place.rpartition(".")
        if last in BLOCKS:
            merged, position = BLOCKS[last]
            blocks.setdefault(f"{prefix}.{merged}.{kind}", {})[position] = tensor
        elif last == "own" and kind == "weight":
            towards, own = tensor.chunk(2, dim=1)
            weights |= {f"{prefix}.neighbour.weight": towards, ours: own - towards}
        elif ours.endswith(("_token", "_type")):
            weights[ours] = tensor.flatten()
        else:
            weights[ours] = tensor
    for name, parts in blocks.items():
        weights[name] = torch.cat([parts[i] for i in sorted(parts)])
    return weights
