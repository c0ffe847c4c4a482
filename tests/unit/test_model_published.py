"""The network against its formulas, written once more for one event at a time, with loops and in double precision.

The formulas act on a file in the published layout, so that the importer is part of what is tested; its own tests
follow at the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from evenet_hep.errors import CheckpointError, ConfigError
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.published import Imported, convert_published, import_published
from evenet_hep.schema import EventSchema

WIDTH, HEADS, TYPE_WIDTH, NEIGHBOURS, CLASSES = 12, {"pet": 3, "encoder": 2, "head": 4}, 5, 3, 3
EVENT_WIDTHS, LAYERS, LOCAL_LAYERS = (4, 8, 12), 2, 3
SCHEMA = EventSchema.published(classes=("a", "b", "c"))

Weights = dict[str, Tensor]

# The difference of the two halves of an edge weight is taken, and kept, in single precision.
DOUBLE = 1e-6

NETWORK: dict[str, Any] = {
    "Body": {
        "GlobalEmbedding": {"dropout": 0.1, "num_embedding_layers": 8, "hidden_dim": WIDTH},
        "PET": {
            "num_heads": HEADS["pet"],
            "local_Krank": NEIGHBOURS,
            "local_point_index": [2, 3],
            "dropout": 0.1,
            "drop_probability": 0.1,
            "layer_scale_init": 1e-5,
            "feature_drop": 0.2,
            "mode": "all",
            "num_layers": LAYERS,
        },
        "ObjectEncoder": {"num_attention_heads": HEADS["encoder"], "dropout": 0.1},
    },
    "Classification": {"num_attention_heads": HEADS["head"], "dropout": 0.1},
    "Assignment": {"num_attention_heads": 4},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Batches this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- a small file in the published layout ---------------------------------------------------------------------------


def gate_shapes(place: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{place}.gate_bias": (width,)}
    for letter in "rzg":
        shapes[f"{place}.linear_W_{letter}.weight"] = (width, width)
        shapes[f"{place}.linear_W_{letter}.bias"] = (width,)
        shapes[f"{place}.linear_U_{letter}.weight"] = (width, width)
    return shapes


def linear_shapes(place: str, width_in: int, width_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{place}.weight": (width_out, width_in), f"{place}.bias": (width_out,)}


def norm_shapes(place: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{place}.weight": (width,), f"{place}.bias": (width,)}


def block_shapes(
    place: str, before: int, after: int, *, inner: int | None = None
) -> dict[str, tuple[int, ...]]:
    inner = inner or 2 * before
    shapes = {
        **norm_shapes(f"{place}.normalization.normalization", before),
        **linear_shapes(f"{place}.linear_1.0", before, inner),
        **linear_shapes(f"{place}.linear_2.0", inner, after),
        **gate_shapes(f"{place}.gru", after),
    }
    if before != after and inner == 2 * before:
        shapes |= linear_shapes(f"{place}.residual", before, after)
    return shapes


def attention_shapes(place: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{place}.in_proj_weight": (3 * WIDTH, WIDTH),
        f"{place}.in_proj_bias": (3 * WIDTH,),
        **linear_shapes(f"{place}.out_proj", WIDTH, WIDTH),
    }


def published_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    widths = (10, *EVENT_WIDTHS, WIDTH)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        shapes |= block_shapes(f"GlobalEmbedding.embedding_stack.embedding_layers.{i}", before, after)
    shapes |= linear_shapes("PET.feature_embedding.0", 7, 2 * WIDTH)
    shapes |= linear_shapes("PET.feature_embedding.2", 2 * WIDTH, WIDTH)
    shapes["PET.time_embedding.dense1.weight"] = (2 * WIDTH, 64)
    shapes["PET.time_embedding.dense2.weight"] = (WIDTH, 2 * WIDTH)
    shapes["PET.time_embed_linear.weight"] = (2 * WIDTH, WIDTH)
    for i in range(LOCAL_LAYERS):
        place = f"PET.local_embedding.local_embed_layer.{i}.mlp"
        shapes |= linear_shapes(f"{place}.0", 2 * (7 if i == 0 else WIDTH), 2 * WIDTH)
        shapes |= linear_shapes(f"{place}.2", 2 * WIDTH, WIDTH)
    for i in range(LAYERS):
        place = f"PET.transformer_blocks.{i}"
        shapes |= norm_shapes(f"{place}.norm1", WIDTH) | norm_shapes(f"{place}.norm2", WIDTH)
        shapes |= attention_shapes(f"{place}.attn") | linear_shapes(f"{place}.mlp.0", WIDTH, 2 * WIDTH)
        shapes |= linear_shapes(f"{place}.mlp.3", 2 * WIDTH, WIDTH)
        shapes |= {f"{place}.layer_scale{k}.gamma": (WIDTH,) for k in (1, 2)}
    encoder = "ObjectEncoder"
    shapes[f"{encoder}.particle_vector"] = (1, 1, WIDTH)
    for which in ("first", "second"):
        name = f"{encoder}.combined_embedding.{which}_position_embedding.position_embedding"
        shapes[name] = (1, 1, TYPE_WIDTH)
    wide = WIDTH + TYPE_WIDTH
    shapes |= block_shapes(f"{encoder}.combined_embedding.final_embedding", wide, WIDTH, inner=wide)
    for i in range(2):
        shapes |= norm_shapes(f"{encoder}.encoder.layers.{i}.attention_norm", WIDTH)
        shapes |= gate_shapes(f"{encoder}.encoder.layers.{i}.attention_gate", WIDTH)
        shapes |= attention_shapes(f"{encoder}.encoder.layers.{i}.attention")
        shapes |= block_shapes(f"{encoder}.encoder.layers.{i}.feed_forward", WIDTH, WIDTH)
        shapes |= block_shapes(f"{encoder}.embedding.{i}", WIDTH, WIDTH)
    shapes |= norm_shapes(f"{encoder}.encoder.norm", WIDTH)
    shapes |= linear_shapes(f"{encoder}.encoder.mlp.0", WIDTH, 2 * WIDTH)
    shapes |= linear_shapes(f"{encoder}.encoder.mlp.3", 2 * WIDTH, WIDTH)
    head = "Classification.class_transformer"
    for i in (1, 2, 3):
        shapes |= norm_shapes(f"{head}.norm{i}", WIDTH)
    shapes |= attention_shapes(f"{head}.attn") | linear_shapes(f"{head}.mlp.0", WIDTH, 2 * WIDTH)
    shapes |= linear_shapes(f"{head}.mlp.3", 2 * WIDTH, WIDTH)
    branch = "Classification.networks.classification/EVENT"
    shapes |= block_shapes(f"{branch}.hidden_layers.0", WIDTH, WIDTH)
    shapes |= norm_shapes(f"{branch}.output_norm", WIDTH)
    shapes |= {f"{branch}.output_norm.running_{what}": (WIDTH,) for what in ("mean", "var")}
    return shapes | linear_shapes(f"{branch}.output_layer", WIDTH, CLASSES)


def published_weights(seed: int = 0) -> Weights:
    """Random weights of order one, so that no part of the network is close to the identity or to zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in published_shapes().items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("running_var", "gamma", "gate_bias")):
            weights[name] = 0.5 + noise.abs()
        elif len(shape) == 2:
            weights[name] = noise * 1.2 / math.sqrt(shape[1])
        elif "norm" in name and name.endswith(".weight"):
            weights[name] = 1 + 0.3 * noise
        else:
            weights[name] = 0.5 * noise
    weights["Classification.networks.classification/EVENT.output_norm.num_batches_tracked"] = torch.tensor(7)
    for normaliser, features in (("sequential", SCHEMA.objects), ("global", SCHEMA.event_features)):
        is_scaled = torch.tensor([feature.transform != "none" for feature in features])
        noise = torch.rand(len(features), generator=generator)
        weights[f"{normaliser}_normalizer.norm_mask"] = is_scaled
        weights[f"{normaliser}_normalizer.mean"] = torch.where(is_scaled, 3 * noise - 1, 0.0)
        weights[f"{normaliser}_normalizer.std"] = torch.where(is_scaled, 1 + noise, 1.0)
    return weights


def write_published(path: Path, weights: Weights, **more: Any) -> Path:
    torch.save({"state_dict": {f"model.{name}": w for name, w in weights.items()}, "epoch": 3, **more}, path)
    return path


@pytest.fixture(scope="module")
def weights() -> Weights:
    return published_weights()


@pytest.fixture(scope="module")
def imported(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    path = write_published(tmp_path_factory.mktemp("published") / "small.ckpt", weights)
    return import_published(path, network=NETWORK, schema=SCHEMA)


# --- the formulas ---------------------------------------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear(w: Weights, place: str, x: Tensor) -> Tensor:
    y = w[f"{place}.weight"] @ x
    return y + w[f"{place}.bias"] if f"{place}.bias" in w else y


def norm(w: Weights, place: str, x: Tensor) -> Tensor:
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / torch.sqrt(variance + 1e-5) * w[f"{place}.weight"] + w[f"{place}.bias"]


def gate(w: Weights, place: str, y: Tensor, x: Tensor) -> Tensor:
    r = torch.sigmoid(linear(w, f"{place}.linear_W_r", y) + linear(w, f"{place}.linear_U_r", x))
    z = torch.sigmoid(
        linear(w, f"{place}.linear_W_z", y) + linear(w, f"{place}.linear_U_z", x) - w[f"{place}.gate_bias"]
    )
    h = torch.tanh(linear(w, f"{place}.linear_W_g", y) + linear(w, f"{place}.linear_U_g", r * x))
    return (1 - z) * x + z * h


def block(w: Weights, place: str, x: Tensor, *, gated: bool = True) -> Tensor:
    y = gelu(linear(w, f"{place}.linear_1.0", norm(w, f"{place}.normalization.normalization", x)))
    y = gelu(linear(w, f"{place}.linear_2.0", y))
    if not gated:
        return y
    return gate(
        w, f"{place}.gru", y, linear(w, f"{place}.residual", x) if f"{place}.residual.weight" in w else x
    )


def mlp(w: Weights, place: str, x: Tensor) -> Tensor:
    return linear(w, f"{place}.3", gelu(linear(w, f"{place}.0", x)))


def attend(
    w: Weights, place: str, query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int
) -> Tensor:
    q_weight, k_weight, v_weight = w[f"{place}.in_proj_weight"].chunk(3)
    q_bias, k_bias, v_bias = w[f"{place}.in_proj_bias"].chunk(3)
    size, parts = WIDTH // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        q = (q_weight @ query + q_bias)[part]
        scores = torch.stack([q @ (k_weight @ key + k_bias)[part] / math.sqrt(size) for key in keys])
        shares = torch.exp(scores - scores.max())
        shares = shares / shares.sum()
        parts.append(sum(s * (v_weight @ v + v_bias)[part] for s, v in zip(shares, values, strict=True)))
    return linear(w, f"{place}.out_proj", torch.cat(parts))


def transformed(w: Weights, normaliser: str, values: Tensor) -> Tensor:
    features = SCHEMA.objects if normaliser == "sequential" else SCHEMA.event_features
    columns = []
    for i, feature in enumerate(features):
        x = math.log1p(values[i]) if feature.transform == "log" else float(values[i])
        z = (x - float(w[f"{normaliser}_normalizer.mean"][i])) / float(w[f"{normaliser}_normalizer.std"][i])
        if feature.transform == "uniform":
            u = min(max((z + math.sqrt(3)) / (2 * math.sqrt(3)), 1e-6), 1 - 1e-6)
            z = NormalDist().inv_cdf(u)
        columns.append(z)
    return torch.tensor(columns, dtype=torch.float64)


def local(w: Weights, real: list[Tensor], *, phantoms: bool, allowed: Tensor | None) -> list[Tensor]:
    """Edge layers in the published form, on pairs; with ``phantoms`` among 18 slots, else among real objects only."""
    n = len(real)
    slots = real + [torch.zeros(7, dtype=torch.float64)] * (18 - n) if phantoms else real
    places = [x[2:4] for x in slots]
    for layer in range(LOCAL_LAYERS):
        shifted = [x + 999 * (i >= n) for i, x in enumerate(places)]
        new = []
        for i, x in enumerate(slots):
            others = [j for j in range(len(slots)) if j != i and (allowed is None or bool(allowed[i, j]))]
            # Padded slots are all alike; only which of them are padded matters, and that they prefer each other.
            others.sort(key=lambda j: (round(float(((shifted[i] - shifted[j]) ** 2).sum()), 9), j))
            edges = []
            for j in others[:NEIGHBOURS]:
                place = f"PET.local_embedding.local_embed_layer.{layer}.mlp"
                pair = gelu(linear(w, f"{place}.0", torch.cat([slots[j] - x, x])))
                edges.append(gelu(linear(w, f"{place}.2", pair)))
            new.append(torch.stack(edges).mean(0) if edges else torch.zeros(WIDTH, dtype=torch.float64))
        slots = places = new
    return slots[:n]


def film(w: Weights, x: Tensor, time: float) -> Tensor:
    waves = [math.sin(1000 * time * 10000 ** (-i / 31)) for i in range(32)]
    waves += [math.cos(1000 * time * 10000 ** (-i / 31)) for i in range(32)]
    vector = torch.tensor(waves, dtype=torch.float64) * time
    for layer in ("dense1", "dense2"):
        vector = linear(w, f"PET.time_embedding.{layer}", vector)
        vector = vector * torch.sigmoid(vector)
    scale, shift = linear(w, "PET.time_embed_linear", vector).chunk(2)
    return (1 + scale) * x + shift


def pet(
    w: Weights,
    real: list[Tensor],
    *,
    phantoms: bool,
    times: list[float] | None = None,
    allowed: Tensor | None = None,
    local_sees_mask: bool = False,
) -> list[Tensor]:
    x = [
        gelu(linear(w, "PET.feature_embedding.2", gelu(linear(w, "PET.feature_embedding.0", f))))
        for f in real
    ]
    if times is not None:
        x = [film(w, vector, time) for vector, time in zip(x, times, strict=True)]
    nearby = local(w, real, phantoms=phantoms, allowed=allowed if local_sees_mask else None)
    entered = x = [a + b for a, b in zip(x, nearby, strict=True)]
    for layer in range(LAYERS):
        place = f"PET.transformer_blocks.{layer}"
        normed = [norm(w, f"{place}.norm1", v) for v in x]
        middle = []
        for i in range(len(x)):
            seen = [v for j, v in enumerate(normed) if allowed is None or bool(allowed[i, j])]
            update = attend(w, f"{place}.attn", normed[i], seen, seen, HEADS["pet"])
            middle.append(x[i] + w[f"{place}.layer_scale1.gamma"] * update)
        scale = w[f"{place}.layer_scale2.gamma"]
        x = [v + scale * mlp(w, f"{place}.mlp", norm(w, f"{place}.norm2", v)) for v in middle]
    return [a + b for a, b in zip(x, entered, strict=True)]


def encode(w: Weights, objects: list[Tensor], condition: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    place = "ObjectEncoder.combined_embedding"
    marks = [
        w[f"{place}.{which}_position_embedding.position_embedding"].flatten() for which in ("first", "second")
    ]
    tokens = [torch.cat([x, marks[0]]) for x in objects] + [torch.cat([condition, marks[1]])]
    tokens = [block(w, f"{place}.final_embedding", x, gated=False) for x in tokens]
    for i in range(2):
        tokens = [block(w, f"ObjectEncoder.embedding.{i}", x) for x in tokens]
    tokens = [w["ObjectEncoder.particle_vector"].flatten(), *tokens]
    for i in range(2):
        place = f"ObjectEncoder.encoder.layers.{i}"
        normed = [norm(w, f"{place}.attention_norm", x) for x in tokens]
        updates = [attend(w, f"{place}.attention", q, normed, normed, HEADS["encoder"]) for q in normed]
        gated = [gate(w, f"{place}.attention_gate", y, x) for y, x in zip(updates, tokens, strict=True)]
        tokens = [x + block(w, f"{place}.feed_forward", y) for x, y in zip(tokens, gated, strict=True)]
        shared = "ObjectEncoder.encoder"
        tokens = [x + mlp(w, f"{shared}.mlp", norm(w, f"{shared}.norm", x)) for x in tokens]
    return tokens[1:-1], tokens[0], tokens[-1]


def classify(w: Weights, objects: list[Tensor], event: Tensor) -> Tensor:
    place = "Classification.class_transformer"
    normed = [norm(w, f"{place}.norm1", x) for x in objects]
    update = norm(w, f"{place}.norm2", attend(w, f"{place}.attn", event, normed, normed, HEADS["head"]))
    token = event + mlp(w, f"{place}.mlp", norm(w, f"{place}.norm3", update + event))
    place = "Classification.networks.classification/EVENT"
    token = block(w, f"{place}.hidden_layers.0", token)
    spread = torch.sqrt(w[f"{place}.output_norm.running_var"] + 1e-5)
    token = (token - w[f"{place}.output_norm.running_mean"]) / spread
    token = token * w[f"{place}.output_norm.weight"] + w[f"{place}.output_norm.bias"]
    return linear(w, f"{place}.output_layer", token)


def event_vector(w: Weights, event_features: Tensor) -> Tensor:
    x = transformed(w, "global", event_features)
    for i in range(len(EVENT_WIDTHS) + 1):
        x = block(w, f"GlobalEmbedding.embedding_stack.embedding_layers.{i}", x)
    return x


# --- the comparison -------------------------------------------------------------------------------------------------


def events(counts: list[int], *, slots: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    number = len(counts)
    kin = torch.rand(number, slots, 7, generator=generator, dtype=torch.float64)
    objects = torch.stack(
        [
            20 + 200 * kin[..., 0],
            15 + 100 * kin[..., 1],
            5 * kin[..., 2] - 2.5,
            math.pi * (2 * kin[..., 3] - 1),
            (kin[..., 4] > 0.5).double(),
            (kin[..., 5] > 0.5).double(),
            torch.sign(kin[..., 6] - 0.5),
        ],
        dim=-1,
    )
    mask = torch.arange(slots) < torch.tensor(counts)[:, None]
    return objects, mask, 100 * torch.rand(number, 10, generator=generator, dtype=torch.float64)


def own_rules(model: EveNet) -> EveNet:
    """The same weights under our rules about neighbours."""
    pet_config = dataclasses.replace(
        model.config.pet, phantom_neighbours=False, neighbours_see_attention_mask=True
    )
    own = EveNet(dataclasses.replace(model.config, pet=pet_config), model.schema)
    own.load_state_dict(model.state_dict())
    return own.eval()


@pytest.mark.parametrize("phantoms", [True, False], ids=["published", "own"])
@pytest.mark.parametrize("slots", [4, 7, 18])
def test_network_is_its_formulas(imported: Imported, weights: Weights, phantoms: bool, slots: int) -> None:
    model = imported.model if phantoms else own_rules(imported.model)
    w = {name: value.double() for name, value in weights.items()}
    objects, mask, event_features = events([1, 2, 3, 4, min(6, slots)], slots=slots)
    model = EveNet(model.config, model.schema).eval()
    model.load_state_dict(imported.model.state_dict())
    with torch.no_grad():
        single = model(objects.float(), mask, event_features.float())["classification"]
        model.double()
        double = model(objects, mask, event_features)["classification"]
        encoding = model.encode(objects, mask, event_features)
    for i in range(len(objects)):
        real = [transformed(w, "sequential", x) for x in objects[i, mask[i]]]
        vectors, event, condition = encode(
            w, pet(w, real, phantoms=phantoms), event_vector(w, event_features[i])
        )
        torch.testing.assert_close(
            encoding.objects[i, mask[i]], torch.stack(vectors), rtol=DOUBLE, atol=DOUBLE
        )
        torch.testing.assert_close(encoding.event[i], event, rtol=DOUBLE, atol=DOUBLE)
        torch.testing.assert_close(encoding.condition[i], condition, rtol=DOUBLE, atol=DOUBLE)
        logits = classify(w, vectors, event)
        torch.testing.assert_close(double[i], logits, rtol=DOUBLE, atol=DOUBLE)
        torch.testing.assert_close(single[i], logits.float(), rtol=1e-4, atol=1e-5)
    assert (encoding.objects[~mask] == 0).all()


@pytest.mark.parametrize("phantoms", [True, False], ids=["published", "own"])
def test_noised_objects_see_time_and_masks(imported: Imported, weights: Weights, phantoms: bool) -> None:
    model = imported.model if phantoms else own_rules(imported.model)
    body = model.pet.double()
    w = {name: value.double() for name, value in weights.items()}
    objects, mask, _ = events([1, 3, 5, 6], slots=7, seed=8)
    generator = torch.Generator().manual_seed(1)
    is_noised = torch.rand(mask.shape, generator=generator) < 0.4
    time = torch.tensor([0.1, 0.5, 0.9, 0.25], dtype=torch.float64)
    allowed = is_noised[:, :, None] | ~is_noised[:, None, :]  # clean objects do not look at noised ones
    features = [[transformed(w, "sequential", x) for x in event] for event in objects]
    columns = torch.stack([torch.stack(event) for event in features])
    with torch.no_grad():
        filled = torch.where(mask[..., None], columns, 0.0)
        result = body(filled, mask, time=time, time_mask=is_noised, attention_mask=allowed)
    model.float()
    for i in range(len(objects)):
        n = int(mask[i].sum())
        expected = pet(
            w,
            features[i][:n],
            phantoms=phantoms,
            times=[float(time[i]) * bool(noised) for noised in is_noised[i, :n]],
            allowed=allowed[i],
            local_sees_mask=not phantoms,
        )
        # The phase of the fastest wave is 1000 t f, with f in single precision: 6e-5, times a gain of a few.
        torch.testing.assert_close(result[i, :n], torch.stack(expected), rtol=3e-4, atol=3e-4)
        assert (result[i, n:] == 0).all()


# --- the importer ---------------------------------------------------------------------------------------------------


def test_importer_accounts_for_every_name(imported: Imported, weights: Weights) -> None:
    account = imported.account
    assert sorted(account.loaded + account.skipped) == sorted(weights)
    assert account.missing == ()
    assert {name.split(".")[2] for name in account.skipped} == {"final_embedding"}
    assert "loaded" in str(account)
    assert "ObjectEncoder 10" in str(account)  # the gate without effect


def test_imported_network_survives_our_folder(imported: Imported, tmp_path: Path) -> None:
    imported.model.save_pretrained(tmp_path / "network", card="# Imported")
    again = EveNet.from_pretrained(tmp_path / "network")
    objects, mask, event_features = (
        x.float() if x.is_floating_point() else x for x in events([2, 5], slots=6)
    )
    with torch.no_grad():
        expected = imported.model(objects, mask, event_features)["classification"]
        assert torch.equal(again(objects, mask, event_features)["classification"], expected)
    assert (again.schema, again.config) == (imported.model.schema, imported.model.config)


def test_importer_leaves_random_numbers_alone(weights: Weights, tmp_path: Path) -> None:
    path = write_published(tmp_path / "small.ckpt", weights)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    import_published(path, network=NETWORK, schema=SCHEMA)
    assert torch.equal(torch.get_rng_state(), before)


def test_importer_takes_the_running_average(weights: Weights, tmp_path: Path) -> None:
    averaged = {
        f"model.{name}": value + 1
        for name, value in weights.items()
        if "running" not in name and "num_batches" not in name and "normalizer" not in name
    }
    path = write_published(tmp_path / "small.ckpt", weights, ema_state_dict=averaged)
    last = import_published(path, network=NETWORK, schema=SCHEMA).model.state_dict()
    ema = import_published(path, network=NETWORK, schema=SCHEMA, ema=True).model.state_dict()
    torch.testing.assert_close(ema["object_encoder.event_token"], last["object_encoder.event_token"] + 1)
    assert torch.equal(
        ema["classification.output_norm.running_var"], last["classification.output_norm.running_var"]
    )
    without = write_published(tmp_path / "without.ckpt", weights)
    with pytest.raises(CheckpointError, match="must hold 'ema_state_dict'; found state_dict, epoch"):
        import_published(without, network=NETWORK, schema=SCHEMA, ema=True)


def test_importer_without_the_head(weights: Weights, tmp_path: Path) -> None:
    body = {name: value for name, value in weights.items() if not name.startswith("Classification.")}
    path = write_published(tmp_path / "body.ckpt", body)
    with pytest.raises(
        CheckpointError, match="has no Classification, the weights of classification; its heads are: none"
    ):
        import_published(path, network=NETWORK, schema=SCHEMA, heads=["classification"])
    model, account = import_published(path, network=NETWORK, schema=SCHEMA)
    assert model.classification is None
    assert model(*(x.float() if x.is_floating_point() else x for x in events([2], slots=3))) == {}
    assert len(account.skipped) == 10
    whole = write_published(tmp_path / "whole.ckpt", weights)
    account = import_published(whole, network=NETWORK, schema=SCHEMA, heads=[]).account
    assert any(name.startswith("Classification.") for name in account.skipped)
    with pytest.raises(CheckpointError, match=r"heads must be some of classification, .*; found 'taste'"):
        import_published(whole, network=NETWORK, schema=SCHEMA, heads=["taste"])


def test_a_step_counter_may_be_missing(weights: Weights, tmp_path: Path) -> None:
    older = {name: value for name, value in weights.items() if "num_batches" not in name}
    path = write_published(tmp_path / "older.ckpt", older)
    account = import_published(path, network=NETWORK, schema=SCHEMA).account
    assert account.missing == ("classification.output_norm.num_batches_tracked",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "PET.transformer_blocks.1.mlp.3.bias"}, r"1 missing \(pet.blocks.1.feed_forward.3.bias\)"),
        ({"drop": "PET.feature_embedding.2.bias"}, "lacks PET.feature_embedding.2.bias"),
        ({"drop": "sequential_normalizer.std"}, "lacks the normalisation sequential_normalizer.std"),
        ({"add": "PET.adapters.0.down.weight"}, r"1 unexpected \(PET.adapters.0.down.weight\)"),
        ({"add": "Classification.networks.classification/B.output_layer.weight"}, "must have one classification"),
        ({"reshape": "ObjectEncoder.encoder.norm.weight"}, "object_encoder.shared_norm.weight is"),
    ],
)  # fmt: skip
def test_importer_names_what_does_not_fit(
    weights: Weights, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    ((kind, name),) = change.items()
    changed = dict(weights)
    if kind == "drop":
        del changed[name]
    else:
        changed[name] = torch.zeros(2, 2) if kind == "add" else changed[name][:-1]
    path = write_published(tmp_path / "changed.ckpt", changed)
    with pytest.raises(CheckpointError, match=message):
        import_published(path, network=NETWORK, schema=SCHEMA)


def test_importer_wants_the_options_of_other_networks(weights: Weights, tmp_path: Path) -> None:
    path = write_published(tmp_path / "small.ckpt", weights)

    def options(part: str, **more: Any) -> dict[str, Any]:
        body = {**NETWORK["Body"], part: {**NETWORK["Body"][part], **more}}
        body[part] = {key: value for key, value in body[part].items() if value is not None}
        return {**NETWORK, "Body": body}

    for network, message in (
        (None, "is not the published 20M network.*pass its options as network"),
        (options("PET", num_heads=None), "options of PET lack num_heads"),
        (options("PET", width=3), "options of PET have unknown width"),
        (options("PET", num_layers=16), "PET.num_layers must be 2 .*; found 16"),
        (options("PET", talking_head=True), "PET.talking_head must be False"),
        (options("PET", local_point_index=[2, 9]), "local_point_index must be below 7; found 9"),
        (options("ObjectEncoder", encoder_skip_connection=False), "encoder_skip_connection must be True"),
        ({"Classification": NETWORK["Classification"]}, "options of GlobalEmbedding lack"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_published(path, network=network, schema=SCHEMA)
    with pytest.raises(ConfigError, match=r"pet\.heads must divide the width 12; found 5"):
        import_published(path, network=options("PET", num_heads=5), schema=SCHEMA)


def test_importer_checks_schema_and_classes(weights: Weights, tmp_path: Path) -> None:
    path = write_published(tmp_path / "small.ckpt", weights)
    model = import_published(path, network=NETWORK, classes=("x", "y", "z")).model
    assert model.schema.classes == ("x", "y", "z")
    with pytest.raises(CheckpointError, match=r"separates 3 classes; found 10 names .*pass classes"):
        import_published(path, network=NETWORK)
    with pytest.raises(CheckpointError, match="has 7 objects, the schema has 6"):
        import_published(path, network=NETWORK, schema=EventSchema(SCHEMA.objects[:6], SCHEMA.event_features))
    standard = EventSchema.standard(classes=("x", "y", "z"))
    with pytest.raises(CheckpointError, match="scales phi, but the schema has transform 'periodic'"):
        import_published(path, network=NETWORK, schema=standard)


def test_importer_never_unpickles(weights: Weights, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    path = write_published(tmp_path / "hostile.ckpt", weights, hook=Hostile(target))
    with pytest.raises(CheckpointError, match="holds more than plain tensors"):
        import_published(path, network=NETWORK, schema=SCHEMA)
    assert not target.exists()


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_importer_says_what_is_wrong_with_a_file(weights: Weights, tmp_path: Path) -> None:
    whole = write_published(tmp_path / "whole.ckpt", weights).read_bytes()
    cases = {"text.ckpt": b"hello", "empty.ckpt": b"", "half.ckpt": whole[: len(whole) // 2]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is not a file that torch.save has written"):
            import_published(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no checkpoint file"):
        import_published(tmp_path / "nowhere.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="must hold 'state_dict'; found list"):
        import_published(tmp_path / "list.ckpt")


def test_importer_sets_the_published_behaviour(imported: Imported, weights: Weights) -> None:
    config = imported.model.config
    assert config.pet.phantom_neighbours
    assert not config.pet.neighbours_see_attention_mask
    assert (config.pet.feature_drop, config.pet.feature_drop_mode) == (0.2, "event")
    assert (config.pet.heads, config.object_encoder.heads, config.classification.heads) == (3, 2, 4)  # type: ignore[union-attr]
    assert config.event_embedding.widths == (4, 8, 12, 12)
    assert EveNetConfig.from_dict(config.to_dict()) == config
    features = {feature.name: feature for feature in imported.model.schema.objects}
    assert features["pt"].mean == float(weights["sequential_normalizer.mean"][1])
    assert features["btag"] == {feature.name: feature for feature in SCHEMA.objects}["btag"]


def test_converted_folder_gives_the_same_numbers(weights: Weights, tmp_path: Path) -> None:
    path = write_published(tmp_path / "small.ckpt", weights)
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(NETWORK))
    classes = ("a", "b", "c")
    account = convert_published(path, tmp_path / "out", network=tmp_path / "network.yaml", classes=classes)
    assert account.missing == ()
    ours = EveNet.from_pretrained(tmp_path / "out")
    direct = EveNet.from_pretrained(path, network=NETWORK, classes=classes)
    given = [x.float() if x.is_floating_point() else x for x in events([2, 3], slots=4)]
    with torch.no_grad():
        assert torch.equal(ours(*given)["classification"], direct(*given)["classification"])
    with pytest.raises(CheckpointError, match="classes can be chosen for a published file alone"):
        EveNet.from_pretrained(tmp_path / "out", classes=classes)
    with pytest.raises(CheckpointError, match="cannot read the network options"):
        convert_published(path, tmp_path / "other", network=tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="must hold network options"):
        convert_published(path, tmp_path / "other", network=tmp_path / "list.yaml")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("prefix", ["", "module.model.", "_orig_mod."])
def test_importer_takes_names_with_any_prefix(weights: Weights, tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in weights.items()}}, tmp_path / "other.ckpt")
    assert import_published(tmp_path / "other.ckpt", network=NETWORK, schema=SCHEMA).account.missing == ()
