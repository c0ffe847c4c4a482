"""Import of the published EveNet checkpoints.

The files are read with ``torch.load(weights_only=True)``, never unpickled. :data:`PUBLISHED_NAMES` is the table from
published names to ours. Three kinds of parameters also change their shape:

* the linear layers of a GRU gate are blocks of one matrix here (:data:`PUBLISHED_BLOCKS`),
* the first linear layer of an edge, [P | Q] acting on (x_j - x_i, x_i), is stored as P and Q - P, which act on x_j and
  on x_i (:class:`~evenet_hep.model.pet.NeighbourLayer`),
* learnt tokens lose their leading axes of length one.

Everything the published network does in its own way is a field of the configuration, set here.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenet_hep.model.checkpoint import CheckpointError, load_weights, some
from evenet_hep.model.evenet import EveNet, EveNetConfig, EventEmbeddingConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.layers import ConfigError
from evenet_hep.model.object_encoder import ObjectEncoderConfig
from evenet_hep.model.pet import PETConfig
from evenet_hep.schema import EventSchema, Feature

# Published names to ours: every rule is applied, in order, to the name without its leading "model.".
PUBLISHED_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^GlobalEmbedding\.embedding_stack\.embedding_layers\.", "event_embedding."),
        (r"^PET\.feature_embedding\.", "pet.feature_mlp."),
        (r"^PET\.time_embedding\.dense1\.", "pet.time_embedding.expand."),
        (r"^PET\.time_embedding\.dense2\.", "pet.time_embedding.project."),
        (r"^PET\.time_embed_linear\.", "pet.film."),
        (r"^PET\.local_embedding\.local_embed_layer\.(\d+)\.mlp\.0\.", r"pet.local.layers.\1.own."),
        (r"^PET\.local_embedding\.local_embed_layer\.(\d+)\.mlp\.2\.", r"pet.local.layers.\1.project."),
        (r"^PET\.transformer_blocks\.(\d+)\.norm1\.", r"pet.blocks.\1.attention_norm."),
        (r"^PET\.transformer_blocks\.(\d+)\.norm2\.", r"pet.blocks.\1.feed_forward_norm."),
        (r"^PET\.transformer_blocks\.(\d+)\.layer_scale1\.gamma$", r"pet.blocks.\1.attention_scale"),
        (r"^PET\.transformer_blocks\.(\d+)\.layer_scale2\.gamma$", r"pet.blocks.\1.feed_forward_scale"),
        (r"^PET\.transformer_blocks\.(\d+)\.", r"pet.blocks.\1."),
        (r"^ObjectEncoder\.particle_vector$", "object_encoder.event_token"),
        (r"^ObjectEncoder\.combined_embedding\.first_position_embedding\.\w+$", "object_encoder.object_type"),
        (r"^ObjectEncoder\.combined_embedding\.second_position_embedding\.\w+$", "object_encoder.condition_type"),
        (r"^ObjectEncoder\.combined_embedding\.final_embedding\.", "object_encoder.combine."),
        (r"^ObjectEncoder\.embedding\.", "object_encoder.blocks."),
        (r"^ObjectEncoder\.encoder\.layers\.(\d+)\.attention_norm\.", r"object_encoder.layers.\1.norm."),
        (r"^ObjectEncoder\.encoder\.layers\.(\d+)\.attention_gate\.", r"object_encoder.layers.\1.gate."),
        (r"^ObjectEncoder\.encoder\.layers\.(\d+)\.feed_forward\.", r"object_encoder.layers.\1.block."),
        (r"^ObjectEncoder\.encoder\.layers\.", "object_encoder.layers."),
        (r"^ObjectEncoder\.encoder\.norm\.", "object_encoder.shared_norm."),
        (r"^ObjectEncoder\.encoder\.mlp\.", "object_encoder.shared."),
        (r"^Classification\.class_transformer\.norm1\.", "classification.object_norm."),
        (r"^Classification\.class_transformer\.norm2\.", "classification.update_norm."),
        (r"^Classification\.class_transformer\.norm3\.", "classification.token_norm."),
        (r"^Classification\.class_transformer\.", "classification."),
        (r"^Classification\.networks\.classification/[^.]+\.hidden_layers\.", "classification.blocks."),
        (r"^Classification\.networks\.classification/[^.]+\.output_layer\.", "classification.output."),
        (r"^Classification\.networks\.classification/[^.]+\.", "classification."),
        # inside any of the above
        (r"\.attn\.", ".attention."),
        (r"\.attention\.in_proj_(weight|bias)$", r".attention.project_in.\1"),
        (r"\.attention\.out_proj\.", ".attention.project_out."),
        (r"^(pet\.blocks\.\d+|classification)\.mlp\.", r"\1.feed_forward."),
        (r"\.normalization\.normalization\.", ".norm."),
        (r"\.linear_1\.0\.", ".expand."),
        (r"\.linear_2\.0\.", ".project."),
        (r"\.residual\.", ".skip."),
        (r"\.gru\.", ".gate."),
        (r"\.gate\.gate_bias$", ".gate.bias"),
    )
)

# Parameters that are one block of rows of ours: name, our name, position of the block.
PUBLISHED_BLOCKS: Mapping[str, tuple[str, int]] = {
    "linear_W_r": ("from_update", 0),
    "linear_W_z": ("from_update", 1),
    "linear_W_g": ("from_update", 2),
    "linear_U_r": ("from_state", 0),
    "linear_U_z": ("from_state", 1),
    "linear_U_g": ("from_reset", 0),
}

# The gate of this block is in the files but takes no part in any result.
UNUSED = re.compile(r"^ObjectEncoder\.combined_embedding\.final_embedding\.gru\.")


# Options the published network was built with. Other values of these make a network that is not read here.
BUILT_WITH: Mapping[str, Mapping[str, object]] = {
    "GlobalEmbedding": {
        "linear_block_type": "GRU",
        "transformer_dim_scale": 2.0,
        "normalization": "LayerNorm",
        "linear_activation": "GELU",
        "skip_connection": True,
    },
    "PET": {"enable_local_embedding": True, "talking_head": False, "layer_scale": True, "num_feature_keep": 0},
    "ObjectEncoder": {"transformer_dim_scale": 2.0, "skip_connection": True, "encoder_skip_connection": True},
    "Classification": {"skip_connection": True},
}

# Options that may differ but cannot be read from the weights, with the values of the published 20M network.
CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "GlobalEmbedding": {"dropout": 0.1, "num_embedding_layers": 8},
    "PET": {
        "num_heads": 16,
        "local_Krank": 3,
        "local_point_index": (2, 3),
        "dropout": 0.1,
        "drop_probability": 0.1,
        "layer_scale_init": 1e-5,
        "feature_drop": 0.1,
        "mode": "all",
    },
    "ObjectEncoder": {"num_attention_heads": 8, "dropout": 0.1},
    "Classification": {"num_attention_heads": 8, "dropout": 0.1},
}

STACK = "GlobalEmbedding.embedding_stack.embedding_layers"
CLASS_OUTPUT = ".output_layer.weight"

# Sizes of the published 20M network. Those of a file are read from its weights.
SIZES: Mapping[str, Mapping[str, int]] = {
    "GlobalEmbedding": {"initial_embedding_dim": 16, "hidden_dim": 256},
    "PET": {"hidden_dim": 256, "num_layers": 16, "num_local_layer": 10},
    "ObjectEncoder": {
        "hidden_dim": 256,
        "position_embedding_dim": 32,
        "num_embedding_layers": 2,
        "num_encoder_layers": 2,
    },
    "Classification": {"hidden_dim": 256, "num_classification_layers": 1},
}


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


class Import(NamedTuple):
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
) -> Import:
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
    Import
        The network, and the account of what was taken from the file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or holds pickled objects, lacks a part that was asked for, or does not fit the
        options, the schema or the classes.
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
    model = EveNet(config, schema)
    used = [name for name in tensors if name.startswith(parts) and not UNUSED.match(name)]
    weights = _converted({name: tensors[name] for name in used})
    missing = [name for name in model.state_dict() if name.endswith(".num_batches_tracked") and name not in weights]
    load_weights(model, schema, weights | {name: model.state_dict()[name] for name in missing}, source)
    taken = {*used, *statistics}
    loaded = tuple(name for name in tensors if name in taken)
    skipped = tuple(name for name in tensors if name not in taken)
    return Import(model.eval(), ImportAccount(loaded, skipped, tuple(missing)))


def _read_tensors(path: Path, *, ema: bool) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"there is no checkpoint file {path}"
        raise CheckpointError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path} is not a file of plain tensors, and nothing else is read: {error}"
        raise CheckpointError(msg) from error
    except (RuntimeError, EOFError, OSError) as error:
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
    names = []
    replaced: dict[str, tuple[Feature, ...]] = {}
    for kind, normaliser in (("objects", "sequential_normalizer"), ("event_features", "global_normalizer")):
        keys = [f"{normaliser}.{key}" for key in ("norm_mask", "mean", "std")]
        if missing := [key for key in keys if key not in tensors]:
            msg = f"{source} lacks the normalisation {', '.join(missing)}"
            raise CheckpointError(msg)
        features: tuple[Feature, ...] = getattr(schema, kind)
        is_scaled, mean, std = (tensors[key].tolist() for key in keys)
        if len(mean) != len(features):
            listed = ", ".join(feature.name for feature in features)
            msg = f"{source} has {len(mean)} {kind}, the schema has {len(features)} ({listed})"
            raise CheckpointError(msg)
        for feature, scaled in zip(features, is_scaled, strict=True):
            if scaled != (feature.transform in ("standard", "log", "uniform")):
                does = "scales" if scaled else "does not scale"
                msg = f"{source} {does} {feature.name}, but the schema has transform {feature.transform!r}"
                raise CheckpointError(msg)
        replaced[kind] = tuple(
            dataclasses.replace(feature, mean=mean[i], std=std[i]) if is_scaled[i] else feature
            for i, feature in enumerate(features)
        )
        names += keys
    return dataclasses.replace(schema, **replaced), names


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
            coordinates=tuple(schema.object_names[i] for i in pet["local_point_index"]),
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
        (network,) = {name.rsplit(".", 2)[0] for name in tensors if name.startswith("Classification.") and name.endswith(CLASS_OUTPUT)}
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
        given = (network if part == "Classification" else network.get("Body", {})).get(part, {})
        expected = {**BUILT_WITH[part], **size}
        known = {*expected, *CHOSEN[part]}
        if (missing := sorted(set(CHOSEN[part]) - set(given))) or (unknown := sorted(set(given) - known)):
            what = f"lack {', '.join(missing)}" if missing else f"have unknown {', '.join(unknown)}"
            msg = f"network options of {part} {what}"
            raise CheckpointError(msg)
        for key in sorted(set(expected) & set(given)):
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
        for pattern, replacement in PUBLISHED_NAMES:
            ours = pattern.sub(replacement, ours)
        place, _, kind = ours.rpartition(".")
        prefix, _, last = place.rpartition(".")
        if last in PUBLISHED_BLOCKS:
            merged, position = PUBLISHED_BLOCKS[last]
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
