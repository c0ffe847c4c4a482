"""How the published checkpoints are laid out: names of the parameters, and options of the network.

:data:`NAMES` is the table from published names to ours. Three kinds of parameters also change their shape:

* the linear layers of a GRU gate are blocks of one matrix here (:data:`BLOCKS`),
* the first linear layer of an edge, [P | Q] acting on (x_j - x_i, x_i), is stored as P and Q - P, which act on x_j and
  on x_i (:class:`~evenet_hep.model.neighbours.NeighbourLayer`),
* learnt tokens lose their leading axes of length one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Our heads and the parts of the published network that hold them.
HEADS: Mapping[str, tuple[str, ...]] = {
    "classification": ("Classification",),
    "regression": ("Regression",),
    "assignment": ("Assignment",),
    "segmentation": ("Segmentation",),
    "object_generation": ("ReconGeneration",),
    "invisible_generation": ("TruthGeneration", "InvisibleInputProjector"),
    "global_generation": ("GlobalGeneration",),
}
BODY = ("GlobalEmbedding", "PET", "ObjectEncoder")

# An object encoder stands in the body and in each branch of the assignment.
ENCODER = r"(object_encoder|assignment\.branches\.[^.]+\.encoder)"

# Published names to ours: every rule is applied, in order, to the name without its leading "model.".
NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^GlobalEmbedding\.embedding_stack\.embedding_layers\.", "event_embedding."),
        (r"^PET\.feature_embedding\.", "pet.feature_mlp."),
        (r"^PET\.time_embed_linear\.", "pet.film."),
        (r"^PET\.local_embedding\.local_embed_layer\.(\d+)\.mlp\.0\.", r"pet.local.layers.\1.own."),
        (r"^PET\.local_embedding\.local_embed_layer\.(\d+)\.mlp\.2\.", r"pet.local.layers.\1.project."),
        (r"^PET\.transformer_blocks\.(\d+)\.norm1\.", r"pet.blocks.\1.attention_norm."),
        (r"^PET\.transformer_blocks\.(\d+)\.norm2\.", r"pet.blocks.\1.feed_forward_norm."),
        (r"^PET\.transformer_blocks\.(\d+)\.", r"pet.blocks.\1."),
        (r"^PET\.time_embedding\.", "pet.time_embedding."),
        (r"^ObjectEncoder\.", "object_encoder."),
        # assignment
        (r"^Assignment\.resonance_particle_embed\.1\.", "assignment.property_embedding.0."),
        (r"^Assignment\.resonance_particle_embed\.3\.", "assignment.property_embedding.2."),
        (r"^Assignment\.multiprocess_assign_head\.([^.]+)\.", r"assignment.branches.\1."),
        (r"^(assignment\..+)\.encoder\.dense_particle\.", r"\1.token."),
        (r"^(assignment\..+)\.attention\.encoders\.(\d+)\.combined_embedding\.final_embedding\.", r"\1.daughters.\2.combine."),
        (r"^(assignment\..+)\.attention\.encoders\.(\d+)\.combined_embedding\.first_\w+\.\w+$", r"\1.daughters.\2.object_type"),
        (r"^(assignment\..+)\.attention\.linear_layers\.(\d+)\.", r"\1.daughters.\2.project."),
        (r"^(assignment\..+)\.detection_classifier\.hidden_layers\.", r"\1.detection.blocks."),
        (r"^(assignment\..+)\.detection_classifier\.output_layer\.", r"\1.detection.output."),
        (r"^(assignment\..+)\.detection_classifier\.", r"\1.detection."),
        # object encoders
        (rf"^{ENCODER}\.particle_vector$", r"\1.event_token"),
        (rf"^{ENCODER}\.combined_embedding\.first_position_embedding\.\w+$", r"\1.object_type"),
        (rf"^{ENCODER}\.combined_embedding\.second_position_embedding\.\w+$", r"\1.condition_type"),
        (rf"^{ENCODER}\.combined_embedding\.final_embedding\.", r"\1.combine."),
        (rf"^{ENCODER}\.embedding\.", r"\1.blocks."),
        (rf"^{ENCODER}\.encoder\.layers\.(\d+)\.attention_norm\.", r"\1.layers.\2.norm."),
        (rf"^{ENCODER}\.encoder\.layers\.(\d+)\.attention_gate\.", r"\1.layers.\2.gate."),
        (rf"^{ENCODER}\.encoder\.layers\.(\d+)\.feed_forward\.", r"\1.layers.\2.block."),
        (rf"^{ENCODER}\.encoder\.layers\.", r"\1.layers."),
        (rf"^{ENCODER}\.encoder\.norm\.", r"\1.shared_norm."),
        (rf"^{ENCODER}\.encoder\.mlp\.", r"\1.shared."),
        # classification and regression
        (r"^Classification\.class_transformer\.norm1\.", "classification.object_norm."),
        (r"^Classification\.class_transformer\.norm2\.", "classification.update_norm."),
        (r"^Classification\.class_transformer\.norm3\.", "classification.token_norm."),
        (r"^Classification\.class_transformer\.", "classification."),
        (r"^Classification\.networks\.classification/[^.]+\.", "classification."),
        (r"^Regression\.networks\.regression/([^.]+)\.", r"regression.branches.\1."),
        (r"^(classification|regression\.branches\.[^.]+)\.hidden_layers\.", r"\1.blocks."),
        (r"^(classification|regression\.branches\.[^.]+)\.output_layer\.", r"\1.output."),
        # segmentation
        (r"^Segmentation\.transformer_self_attention_layers\.(\d+)\.(self_attn\.)?", r"segmentation.layers.\1.self_attention."),
        (r"^Segmentation\.transformer_cross_attention_layers\.(\d+)\.(multihead_attn\.)?", r"segmentation.layers.\1.cross_attention."),
        (r"^Segmentation\.transformer_ffn_layers\.(\d+)\.linear1\.", r"segmentation.layers.\1.expand."),
        (r"^Segmentation\.transformer_ffn_layers\.(\d+)\.linear2\.", r"segmentation.layers.\1.project."),
        (r"^Segmentation\.transformer_ffn_layers\.(\d+)\.", r"segmentation.layers.\1."),
        (r"^Segmentation\.decoder_norm\.", "segmentation.norm."),
        (r"^Segmentation\.query_feat\.weight$", "segmentation.query"),
        (r"^Segmentation\.query_embed\.weight$", "segmentation.query_position"),
        (r"^Segmentation\.class_embed\.", "segmentation.classify."),
        (r"^Segmentation\.mask_embed\.layers\.", "segmentation.to_mask."),
        # generation
        (r"^ReconGeneration\.", "object_generation."),
        (r"^TruthGeneration\.", "invisible_generation."),
        (r"^GlobalGeneration\.", "global_generation."),
        (r"^(object|invisible)_generation\.num_point_cloud_embedding\.", r"\1_generation.count_embedding."),
        (r"^invisible_generation\.position_encoder\.position_embedding\.", "invisible_generation.position."),
        (r"^(object|invisible)_generation\.cond_token\.", r"\1_generation.token."),
        (r"^(object|invisible)_generation\.label_dense\.", r"\1_generation.label."),
        (r"^(object|invisible)_generation\.generator\.", r"\1_generation.output."),
        (r"^(object|invisible)_generation\.gen_transformer_blocks\.(\d+)\.norm1\.", r"\1_generation.layers.\2.attention_norm."),
        (r"^(object|invisible)_generation\.gen_transformer_blocks\.(\d+)\.norm3\.", r"\1_generation.layers.\2.feed_forward_norm."),
        (r"^(object|invisible)_generation\.gen_transformer_blocks\.", r"\1_generation.layers."),
        (r"^InvisibleInputProjector\.input_projection\.", "invisible_projection.project."),
        (r"^InvisibleInputProjector\.pre_norm\.", "invisible_projection.norm."),
        (r"^InvisibleInputProjector\.mlp\.", "invisible_projection.feed_forward."),
        (r"^InvisibleInputProjector\.", "invisible_projection."),
        (r"^global_generation\.fourier_projection\.", "global_generation.time_embedding."),
        (r"^global_generation\.dense_t\.0\.", "global_generation.unconditioned."),
        (r"^global_generation\.global_cond_embedding\.0\.", "global_generation.condition."),
        (r"^global_generation\.label_embedding\.0\.", "global_generation.label."),
        (r"^global_generation\.cond_token_embedding\.", "global_generation.token."),
        (r"^global_generation\.dense_layer\.0\.", "global_generation.embed."),
        (r"^global_generation\.resnet_layers\.(\d+)\.0\.", r"global_generation.blocks.\1.norm."),
        (r"^global_generation\.resnet_layers\.(\d+)\.1\.residual_layer\.", r"global_generation.blocks.\1.skip."),
        (r"^global_generation\.resnet_layers\.(\d+)\.1\.hidden_layers\.(\d+)\.0\.", r"global_generation.blocks.\1.layers.\2."),
        (r"^global_generation\.resnet_layers\.(\d+)\.1\.", r"global_generation.blocks.\1."),
        (r"^global_generation\.out_layer_norm\.", "global_generation.output_norm."),
        (r"^global_generation\.out\.", "global_generation.output."),
        # inside any of the above
        (r"_embedding\.dense1\.", "_embedding.expand."),
        (r"_embedding\.dense2\.", "_embedding.project."),
        (r"\.layer_scale1\.gamma$", ".attention_scale"),
        (r"\.layer_scale2\.gamma$", ".feed_forward_scale"),
        (r"\.layer_scale\.gamma$", ".scale"),
        (r"\.attn\.", ".attention."),
        (r"attention\.in_proj_(weight|bias)$", r"attention.project_in.\1"),
        (r"attention\.out_proj\.", "attention.project_out."),
        (r"^(pet\.blocks\.\d+|classification|\w+_generation\.layers\.\d+)\.mlp\.", r"\1.feed_forward."),
        (r"\.normalization\.normalization\.", ".norm."),
        (r"\.linear_1\.0\.", ".expand."),
        (r"\.linear_2\.0\.", ".project."),
        (r"\.residual\.", ".skip."),
        (r"\.gru\.", ".gate."),
        (r"\.gate\.gate_bias$", ".gate.bias"),
    )
)  # fmt: skip

# Parameters that are one block of rows of ours: name, our name, position of the block.
BLOCKS: Mapping[str, tuple[str, int]] = {
    "linear_W_r": ("from_update", 0),
    "linear_W_z": ("from_update", 1),
    "linear_W_g": ("from_update", 2),
    "linear_U_r": ("from_state", 0),
    "linear_U_z": ("from_state", 1),
    "linear_U_g": ("from_reset", 0),
}

# What is in the files but takes no part in any result.
UNUSED = tuple(
    re.compile(pattern)
    for pattern in (
        r"combined_embedding\.final_embedding\.gru\.",  # block without a gate
        r"^Assignment\..*\.detection_classifier\.hidden_layers\.\d+\.gru\.",
        r"^Assignment\..*\.attention\.encoders\.\d+\.particle_vector$",  # encoders without layers
        r"^Assignment\..*\.attention\.encoders\.\d+\.combined_embedding\.second_position_embedding\.",
        r"^Assignment\.(position_token$|mlp_for_event_point_cloud\.|class_transformer\.)",
        r"^Segmentation\.class_transformer\.",
        r"^TruthGeneration\.num_point_cloud_embedding\.",  # is never told the number
        r"^GlobalGeneration\.dense_t\.",  # serves a head without conditions
    )
)

# What is in the files and goes to the configuration: properties of resonances, means and widths of targets.
PROPERTIES_AND_TARGETS = re.compile(r"^Assignment\.resonance_particle_properties|^Regression\.normalizers\.")

# Where the number of classes that can be asked for can be read.
LABELS: Mapping[str, str] = {
    "object_generation": "ReconGeneration.label_dense.weight",
    "invisible_generation": "TruthGeneration.label_dense.weight",
    "global_generation": "GlobalGeneration.label_embedding.0.weight",
}

# Options the published network was built with. Other values of these make a network that is not read here.
BUILT_WITH: Mapping[str, Mapping[str, object]] = {
    "GlobalEmbedding": {
        "linear_block_type": "GRU",
        "transformer_dim_scale": 2.0,
        "normalization": "LayerNorm",
        "linear_activation": "GELU",
        "skip_connection": True,
    },
    "PET": {
        "enable_local_embedding": True,
        "talking_head": False,
        "layer_scale": True,
        "num_feature_keep": 0,
    },
    "ObjectEncoder": {"transformer_dim_scale": 2.0, "skip_connection": True, "encoder_skip_connection": True},
    "Classification": {"skip_connection": True},
    "Regression": {"skip_connection": True},
    "Assignment": {
        "split_symmetric_attention": True,
        "num_feature_keep": 0,
        "transformer_dim_scale": 2.0,
        "num_jet_embedding_layers": 0,
        "num_jet_encoder_layers": 0,
        "combinatorial_scale": 0.0,
        "activation": "GELU",
        "skip_connection": True,
        "encoder_skip_connection": True,
    },
    "Segmentation": {"norm_before": False},
    "ReconGeneration": {"layer_scale": True},
    "TruthGeneration": {"layer_scale": True, "neutrino_position_encode": True},
    "GlobalGeneration": {"activation": "SILU"},
}

# Options that change nothing that is read here.
IRRELEVANT: Mapping[str, tuple[str, ...]] = {
    "Assignment": ("encode_event_token",),
    "Segmentation": ("return_intermediate", "encode_event_token", "dim_decay_rate"),
    "ReconGeneration": ("drop_probability", "feature_drop", "extend_batch"),
    "TruthGeneration": ("drop_probability", "feature_drop", "extend_batch"),
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
    "Regression": {"dropout": 0.1},
    "Assignment": {"num_attention_heads": 4, "dropout": 0.1, "feature_drop": 0.1},
    "Segmentation": {"num_heads": 8, "dropout": 0.1},
    "ReconGeneration": {"num_heads": 4, "dropout": 0.1, "layer_scale_init": 1e-5},
    "TruthGeneration": {"num_heads": 4, "dropout": 0.1, "layer_scale_init": 1e-5},
    "GlobalGeneration": {
        "num_resnet_layers": 1,
        "layer_scale_init": 1e-5,
        "feature_drop_for_stochastic_depth": 0.0,
        "dropout": 0.0,
    },
}

# What the published network is told, and what it generates beyond the number of objects.
CONDITIONS = ("met", "met_phi", "m_all")
GLOBAL_TARGETS = ("ht",)

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
