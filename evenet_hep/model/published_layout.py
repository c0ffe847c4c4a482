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

# Published names to ours: every rule is applied, in order, to the name without its leading "model.".
NAMES = tuple(
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
        (
            r"^ObjectEncoder\.combined_embedding\.second_position_embedding\.\w+$",
            "object_encoder.condition_type",
        ),
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
BLOCKS: Mapping[str, tuple[str, int]] = {
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
    "PET": {
        "enable_local_embedding": True,
        "talking_head": False,
        "layer_scale": True,
        "num_feature_keep": 0,
    },
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
