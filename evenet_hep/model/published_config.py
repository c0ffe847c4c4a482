"""The configuration of a published checkpoint: sizes from its weights, the rest from its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from evenet_hep.errors import CheckpointError
from evenet_hep.model.evenet import EveNetConfig, EventEmbeddingConfig
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.classification import ClassificationConfig
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    InvisibleGenerationConfig,
    ObjectGenerationConfig,
)
from evenet_hep.model.heads.regression import RegressionConfig, RegressionTarget
from evenet_hep.model.heads.segmentation import SegmentationConfig
from evenet_hep.model.object_encoder import ObjectEncoderConfig
from evenet_hep.model.pet import PETConfig
from evenet_hep.model.published_layout import (
    BODY,
    BUILT_WITH,
    CHOSEN,
    CLASS_OUTPUT,
    CONDITIONS,
    GLOBAL_TARGETS,
    IRRELEVANT,
    SIZES,
    STACK,
)
from evenet_hep.schema import EventSchema
from evenet_hep.topology import PROPERTIES, Topology

BRANCHES = "Assignment.multiprocess_assign_head"
RESONANCES = "Assignment.resonance_particle_properties."
Options = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class PublishedOptions:
    """What neither the weights nor the network options of a published file say; the defaults are the published ones.

    Parameters
    ----------
    conditions : sequence of str
        Event features that the generation of the event as a whole is told.
    global_targets : sequence of str
        Event features that are generated beside the number of objects. The generation of objects is told these, too.
    features : sequence of str
        Object features that are generated; empty for all of them.
    regression_targets : sequence of str
        Names of the regression targets, as in ``TT1L/t1/pt``, in the order of the file; empty numbers them.
    """

    conditions: tuple[str, ...] = CONDITIONS
    global_targets: tuple[str, ...] = GLOBAL_TARGETS
    features: tuple[str, ...] = ()
    regression_targets: tuple[str, ...] = ()


class PublishedWeights(NamedTuple):
    """The parameters of a file, and where they come from.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        By published name, without the leading ``model.``.
    source : str
        For messages.
    """

    tensors: Mapping[str, Tensor]
    source: str

    def size(self, name: str, axis: int = -1) -> int:
        """Length of an axis of a parameter; a :class:`CheckpointError` if it is not there."""
        if name not in self.tensors:
            msg = f"{self.source} lacks {name}"
            raise CheckpointError(msg)
        return self.tensors[name].shape[axis]

    def entries(self, place: str) -> tuple[str, ...]:
        """Names of the entries of a list or dictionary of modules, in order of first use."""
        depth = place.count(".") + 1
        return tuple(
            dict.fromkeys(name.split(".")[depth] for name in self.tensors if name.startswith(f"{place}."))
        )

    def count(self, place: str) -> int:
        """Number of entries of a list of modules."""
        return len(self.entries(place))


def published_config(
    weights: PublishedWeights,
    heads: Sequence[str],
    network: Mapping[str, Any] | None,
    schema: EventSchema,
    topology: Topology,
    choices: PublishedOptions,
) -> EveNetConfig:
    """The configuration of a file.

    Parameters
    ----------
    weights : PublishedWeights
        Its parameters.
    heads : sequence of str
        Heads to build.
    network : mapping or None
        The network options of the file; None if it is the published network of 20 million parameters.
    schema : EventSchema
        Features and classes.
    topology : Topology
        Of the assignment and the segmentation.
    choices : PublishedOptions
        The rest.

    Raises
    ------
    CheckpointError
        If the options do not fit the weights.
    ConfigError
        If they contradict each other.
    """
    sizes = _sizes(weights, heads)
    options = _options(network, sizes, weights.source)
    pet, encoder = options["PET"], options["ObjectEncoder"]
    widths = [weights.size(f"{STACK}.{i}.linear_2.0.bias") for i in range(weights.count(STACK))]
    config = EveNetConfig(
        width=sizes["PET"]["hidden_dim"],
        event_embedding=EventEmbeddingConfig(tuple(widths), options["GlobalEmbedding"]["dropout"]),
        pet=PETConfig(
            layers=sizes["PET"]["num_layers"],
            heads=pet["num_heads"],
            local_layers=sizes["PET"]["num_local_layer"],
            neighbours=pet["local_Krank"],
            coordinates=tuple(_name(schema.object_names, i) for i in pet["local_point_index"]),
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
        classification=None,
    )
    parts: dict[str, Any] = {}
    if "classification" in heads:
        parts["classification"] = _classification(options, sizes)
    if "regression" in heads:
        parts["regression"] = _regression(weights, options, sizes, choices)
    if "assignment" in heads:
        parts["assignment"] = _assignment(weights, options, sizes, topology)
    if "segmentation" in heads:
        parts["segmentation"] = _segmentation(weights, options, sizes, topology)
    if "object_generation" in heads:
        parts["object_generation"] = _object_generation(options, sizes, choices)
    if "invisible_generation" in heads:
        parts["invisible_generation"] = _invisible_generation(weights, options, sizes, schema)
    if "global_generation" in heads:
        parts["global_generation"] = _global_generation(weights, options, sizes, choices)
    return dataclasses.replace(config, **parts)


def _classification(options: Options, sizes: Options) -> ClassificationConfig:
    chosen = options["Classification"]
    return ClassificationConfig(
        heads=chosen["num_attention_heads"],
        blocks=sizes["Classification"]["num_classification_layers"],
        dropout=chosen["dropout"],
    )


def _regression(
    weights: PublishedWeights, options: Options, sizes: Options, choices: PublishedOptions
) -> RegressionConfig:
    found = []
    for branch in weights.entries("Regression.normalizers"):
        place = f"Regression.normalizers.{branch}"
        statistics = zip(weights.tensors[f"{place}.mean"], weights.tensors[f"{place}.std"], strict=True)
        for i, (mean, std) in enumerate(statistics):
            name = f"{branch.removeprefix('regression/')}/{i}"
            found.append(RegressionTarget(name, float(mean), float(std)))
    if names := choices.regression_targets:
        if len(names) != len(found):
            msg = f"{weights.source} has {len(found)} regression targets; found {len(names)} names"
            raise CheckpointError(msg)
        pairs = zip(found, names, strict=True)
        found = [dataclasses.replace(target, name=name) for target, name in pairs]
    size = sizes["Regression"]
    return RegressionConfig(
        tuple(found), size["hidden_dim"], size["num_regression_layers"], options["Regression"]["dropout"]
    )


def _assignment(
    weights: PublishedWeights, options: Options, sizes: Options, topology: Topology
) -> AssignmentConfig:
    kinds = [name.removeprefix(RESONANCES) for name in weights.tensors if name.startswith(RESONANCES)]
    for what, ours, theirs in (
        ("resonances", topology.kinds, kinds),
        ("assignment heads", topology.heads, weights.entries(BRANCHES)),
    ):
        if set(ours) != set(theirs):
            msg = f"{weights.source} has the {what} {', '.join(sorted(theirs))}; the topology has {', '.join(sorted(ours))}"
            raise CheckpointError(msg)
    outputs = {weights.size(f"{BRANCHES}.{h}.detection_classifier.output_layer.bias") for h in topology.heads}
    if outputs != {topology.max_multiplicity + 1}:
        msg = (
            f"{weights.source} counts up to {max(outputs) - 1} resonances of a kind; the processes of the topology "
            f"have up to {topology.max_multiplicity}"
        )
        raise CheckpointError(msg)
    resonances = []
    for resonance in topology.resonances:
        values = weights.tensors[f"{RESONANCES}{resonance.name}"].tolist()
        resonances.append(dataclasses.replace(resonance, **dict(zip(PROPERTIES, values, strict=True))))
    normaliser = "Assignment.resonance_particle_properties_normalizer"
    chosen, size = options["Assignment"], sizes["Assignment"]
    return AssignmentConfig(
        topology=dataclasses.replace(topology, resonances=tuple(resonances)),
        heads=chosen["num_attention_heads"],
        layers=size["num_encoder_layers"],
        blocks=size["num_linear_layers"],
        type_width=size["position_embedding_dim"],
        detection_blocks=size["num_detection_layers"],
        dropout=chosen["dropout"],
        property_drop=chosen["feature_drop"],
        property_mean=tuple(weights.tensors[f"{normaliser}.mean"].tolist()),
        property_std=tuple(weights.tensors[f"{normaliser}.std"].tolist()),
        impossible_is_uniform=True,
    )


def _segmentation(
    weights: PublishedWeights, options: Options, sizes: Options, topology: Topology
) -> SegmentationConfig:
    classes = weights.size("Segmentation.class_embed.bias") - 1
    if len(topology.segments) != classes:
        listed = ", ".join(topology.segments)
        msg = f"{weights.source} has {classes} segments; the topology has {len(topology.segments)} ({listed})"
        raise CheckpointError(msg)
    chosen, size = options["Segmentation"], sizes["Segmentation"]
    return SegmentationConfig(
        segments=topology.segments,
        queries=size["num_queries"],
        layers=size["num_layers"],
        heads=chosen["num_heads"],
        mask_layers=size["mask_mlp_layers"],
        dropout=chosen["dropout"],
        attends_padding=True,
    )


def _object_generation(options: Options, sizes: Options, choices: PublishedOptions) -> ObjectGenerationConfig:
    chosen = options["ReconGeneration"]
    return ObjectGenerationConfig(
        layers=sizes["ReconGeneration"]["num_layers"],
        heads=chosen["num_heads"],
        dropout=chosen["dropout"],
        layer_scale=float(chosen["layer_scale_init"]),
        features=tuple(choices.features),
        conditions=(*choices.conditions, *choices.global_targets),
    )


def _invisible_generation(
    weights: PublishedWeights, options: Options, sizes: Options, schema: EventSchema
) -> InvisibleGenerationConfig:
    chosen, size = options["TruthGeneration"], sizes["TruthGeneration"]
    outputs = weights.size("TruthGeneration.generator.bias")
    if outputs not in (len(schema.invisible), len(schema.objects)):
        msg = (
            f"{weights.source} generates {outputs} columns of an invisible particle; expected {len(schema.invisible)} "
            f"({', '.join(schema.invisible_names)}) or {len(schema.objects)} with padding"
        )
        raise CheckpointError(msg)
    return InvisibleGenerationConfig(
        layers=size["num_layers"],
        heads=chosen["num_heads"],
        dropout=chosen["dropout"],
        layer_scale=float(chosen["layer_scale_init"]),
        positions=size["max_position_length"] - 1,
        columns="projected" if weights.count("InvisibleInputProjector") else "padded",
        padded_output=outputs != len(schema.invisible),
    )


def _global_generation(
    weights: PublishedWeights, options: Options, sizes: Options, choices: PublishedOptions
) -> GlobalGenerationConfig:
    told = "GlobalGeneration.global_cond_embedding.0.weight"
    numbers = {
        "conditions": weights.size(told) if told in weights.tensors else 0,
        "global_targets": weights.size("GlobalGeneration.out.bias") - 1,
    }
    for name, number in numbers.items():
        if number != len(names := getattr(choices, name)):
            msg = f"{weights.source} has {number} {name}; found {len(names)} names ({', '.join(names)}): pass options"
            raise CheckpointError(msg)
    chosen, size = options["GlobalGeneration"], sizes["GlobalGeneration"]
    return GlobalGenerationConfig(
        targets=tuple(choices.global_targets),
        conditions=tuple(choices.conditions),
        width=size["hidden_dim"],
        blocks=size["num_layers"] - 1,
        block_layers=chosen["num_resnet_layers"],
        dropout=chosen["dropout"],
        layer_scale=float(chosen["layer_scale_init"]),
        label_drop=chosen["feature_drop_for_stochastic_depth"],
    )


def _name(names: Sequence[str], index: int) -> str:
    if not 0 <= index < len(names):
        msg = f"network option PET.local_point_index must be below {len(names)}; found {index}"
        raise CheckpointError(msg)
    return names[index]


def _sizes(weights: PublishedWeights, heads: Sequence[str]) -> dict[str, dict[str, int]]:
    types = "combined_embedding.first_position_embedding.position_embedding"
    size, count = weights.size, weights.count
    sizes = {
        "GlobalEmbedding": {
            "initial_embedding_dim": size(f"{STACK}.0.linear_2.0.bias"),
            "hidden_dim": size(f"{STACK}.{count(STACK) - 1}.linear_2.0.bias"),
        },
        "PET": {
            "hidden_dim": size("PET.feature_embedding.2.bias"),
            "num_layers": count("PET.transformer_blocks"),
            "num_local_layer": count("PET.local_embedding.local_embed_layer"),
        },
        "ObjectEncoder": {
            "hidden_dim": size("ObjectEncoder.particle_vector"),
            "position_embedding_dim": size(f"ObjectEncoder.{types}"),
            "num_embedding_layers": count("ObjectEncoder.embedding"),
            "num_encoder_layers": count("ObjectEncoder.encoder.layers"),
        },
    }
    if "classification" in heads:
        output = next(
            n for n in weights.tensors if n.startswith("Classification.") and n.endswith(CLASS_OUTPUT)
        )
        sizes["Classification"] = {
            "hidden_dim": size("Classification.class_transformer.norm1.weight"),
            "num_classification_layers": count(f"{output.removesuffix(CLASS_OUTPUT)}.hidden_layers"),
        }
    if "regression" in heads:
        branch = f"Regression.networks.{weights.entries('Regression.networks')[0]}"
        sizes["Regression"] = {
            "hidden_dim": size(f"{branch}.output_norm.weight"),
            "num_regression_layers": count(f"{branch}.hidden_layers"),
        }
    if "assignment" in heads:
        branch = f"{BRANCHES}.{weights.entries(BRANCHES)[0]}"
        sizes["Assignment"] = {
            "hidden_dim": size(f"{branch}.encoder.particle_vector"),
            "position_embedding_dim": size(f"{branch}.encoder.{types}"),
            "num_linear_layers": count(f"{branch}.encoder.embedding"),
            "num_encoder_layers": count(f"{branch}.encoder.encoder.layers"),
            "num_detection_layers": count(f"{branch}.detection_classifier.hidden_layers"),
        }
    if "segmentation" in heads:
        sizes["Segmentation"] = {
            "projection_dim": size("Segmentation.query_feat.weight"),
            "num_queries": size("Segmentation.query_feat.weight", 0),
            "num_layers": count("Segmentation.transformer_ffn_layers"),
            "mask_mlp_layers": count("Segmentation.mask_embed.layers"),
        }
    for head, part in (("object_generation", "ReconGeneration"), ("invisible_generation", "TruthGeneration")):
        if head in heads:
            sizes[part] = {
                "hidden_dim": size(f"{part}.generator.weight"),
                "num_layers": count(f"{part}.gen_transformer_blocks"),
            }
    if "invisible_generation" in heads:
        positions = size("TruthGeneration.position_encoder.position_embedding.weight", 0)
        sizes["TruthGeneration"]["max_position_length"] = positions
    if "global_generation" in heads:
        sizes["GlobalGeneration"] = {
            "hidden_dim": size("GlobalGeneration.dense_layer.0.bias"),
            "resnet_dim": size("GlobalGeneration.out_layer_norm.weight"),
            "num_layers": count("GlobalGeneration.resnet_layers") + 1,
        }
    return sizes


def _options(
    network: Mapping[str, Any] | None, sizes: Mapping[str, Mapping[str, int]], source: str
) -> dict[str, dict[str, Any]]:
    # Per part, the options that cannot be read from the weights.
    if network is None:
        if other := [part for part in sizes if part in SIZES and sizes[part] != SIZES[part]]:
            found = "; ".join(f"{part} {dict(sizes[part])}" for part in other)
            msg = f"{source} is not the published 20M network, it has {found}: pass its options as network"
            raise CheckpointError(msg)
        return {part: dict(CHOSEN[part]) for part in sizes}
    options = {}
    for part, size in sizes.items():
        section = network.get("Body", {}) if part in BODY else network
        given = section.get(part, {})
        expected = {**BUILT_WITH[part], **size}
        if missing := sorted(set(CHOSEN[part]) - set(given)):
            msg = f"network options of {part} lack {', '.join(missing)}"
            raise CheckpointError(msg)
        known = {*CHOSEN[part], *expected, *IRRELEVANT.get(part, ())}
        if unknown := sorted(set(given) - known):
            msg = f"network options of {part} have unknown {', '.join(unknown)}"
            raise CheckpointError(msg)
        for key in sorted(set(given) & set(expected)):
            if given[key] != expected[key]:
                msg = f"network option {part}.{key} must be {expected[key]!r} for {source}; found {given[key]!r}"
                raise CheckpointError(msg)
        options[part] = {key: given[key] for key in CHOSEN[part]}
    return options
