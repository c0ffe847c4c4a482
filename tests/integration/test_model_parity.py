"""The published network: numbers that its reference implementation has given, and the reference itself where it is.

Two things may lie beside a checkout: recorded inputs and outputs (``shared/parity``, or ``EVENET_SHARED``) and the
unpacked package ``evenet-core`` (``ref``, or ``EVENET_REFERENCE``). Tests skip what is not there.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from evenet_hep.model.generation import (
    NoisedObjects,
    classify_noised,
    encode_noised,
    global_velocity,
    invisible_velocity,
    object_velocity,
)
from evenet_hep.model.published import Imported, import_published
from evenet_hep.model.topology import Topology
from evenet_hep.schema import EventSchema

BESIDE = Path(__file__).parents[3]
PARITY = Path(os.environ.get("EVENET_SHARED", BESIDE / "shared")) / "parity"
REFERENCE = Path(os.environ.get("EVENET_REFERENCE", BESIDE / "ref"))

TOLERANCE = 1e-5  # of the largest number of a block
PROMISED = 1e-4  # of the largest number: heads behind the whole body; measured 4e-7 to 1.1e-5


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keeps sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal to a part in 1e5 of the largest number, or as told."""
    assert ours.shape == theirs.shape
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    assert worst < tolerance, worst


def is_tie(theirs: Tensor, ours: Tensor, exact: Tensor) -> Tensor:
    """Events (B,) in which the reference takes another neighbour than in double precision; one at most.

    Two neighbours can be equally near within rounding; ours has to decide as in double precision.
    """
    assert_same(ours.double(), exact)
    found = ((theirs - exact).abs() > TOLERANCE * exact.abs().max()).flatten(1).any(dim=1)
    assert int(found.sum()) <= 1
    return found


# --- recorded numbers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["dev", "dev_projector"])
def recorded(request: pytest.FixtureRequest) -> tuple[Imported, dict[str, Tensor]]:
    folder = PARITY / request.param
    if not folder.is_dir():
        pytest.skip("no recorded numbers beside this checkout")
    network = json.loads((folder / "network_small.json").read_text())
    numbers = safetensors.torch.load_file(folder / "evenet_core_small_io.safetensors")
    return import_published(folder / "evenet_core_small.ckpt", network=network), numbers


def test_recorded_classification_from_raw_values(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, account), numbers = recorded
    assert account.missing == ()
    mask = numbers["input/x_mask"]
    with torch.no_grad():
        logits = model(numbers["input/raw_objects"], mask, numbers["input/raw_globals"])["classification"]
        assert_same(logits, numbers["deterministic/classification/classification/signal"])
        for slots in (1, 2, 3, 5, 7, 12):
            few = mask.sum(dim=1) <= slots
            trimmed = model(
                numbers["input/raw_objects"][few, :slots],
                mask[few, :slots],
                numbers["input/raw_globals"][few],
            )
            assert_same(trimmed["classification"], logits[few])


@pytest.mark.parametrize("schedule", ["generation", "neutrino_generation"])
def test_recorded_body_of_noised_events(recorded: tuple[Imported, dict[str, Tensor]], schedule: str) -> None:
    (model, _), numbers = recorded
    given = {
        key.removeprefix(f"{schedule}/PET/in/"): value
        for key, value in numbers.items()
        if key.startswith(f"{schedule}/PET/in/")
    }
    mask = given["mask"][..., 0]
    with torch.no_grad():
        result = model.pet(
            given["input_features"],
            mask,
            time=given["time"],
            time_mask=given["time_masking"][..., 0],
            attention_mask=~given["attn_mask"],
        )
    assert_same(result[mask], numbers[f"{schedule}/PET/out"][mask])
    assert (result[~mask] == 0).all()


def test_recorded_object_encoder(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    place = "generation/ObjectEncoder"
    with torch.no_grad():
        encoding = model.object_encoder(
            numbers[f"{place}/in/encoded_vectors"],
            numbers[f"{place}/in/mask"][..., 0],
            numbers[f"{place}/in/condition_vectors"][:, 0],
            numbers[f"{place}/in/condition_mask"][:, 0, 0],
        )
    assert_same(encoding.objects, numbers[f"{place}/out/0"])
    assert_same(encoding.condition, numbers[f"{place}/out/1"][:, 0])
    assert_same(encoding.event, numbers[f"{place}/out/2"])


def test_recorded_assignment(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    assert model.config.assignment is not None
    mask, topology = numbers["input/x_mask"], model.config.assignment.topology
    with torch.no_grad():
        found = model(numbers["input/raw_objects"], mask, numbers["input/raw_globals"])
        few = mask.sum(dim=1) <= 5
        trimmed = model(
            numbers["input/raw_objects"][few, :5], mask[few, :5], numbers["input/raw_globals"][few]
        )
    for process in topology.processes:
        for slot, kind in enumerate(process.kinds):
            theirs = numbers[f"deterministic/assignments/{process.name}/{slot}"]
            assert_same_where_possible(found[f"assignment/{kind}"], theirs)
            assert_same(
                found[f"multiplicity/{kind}"], numbers[f"deterministic/detections/{process.name}/{slot}"]
            )
            assert_same_where_possible(trimmed[f"assignment/{kind}"], corner(theirs, few, 5))


def corner(table: Tensor, events: Tensor, slots: int) -> Tensor:
    """Some events, and the first slots along every other axis."""
    part = table[events]
    for axis in range(1, table.ndim):
        part = part.narrow(axis, 0, slots)
    return part


def assert_same_where_possible(ours: Tensor, theirs: Tensor) -> None:
    """The same cells are forbidden, and the others are equal."""
    allowed = theirs.isfinite()
    assert torch.equal(ours.isfinite(), allowed)
    assert_same(ours[allowed], theirs[allowed])


def test_recorded_segmentation(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    assert model.segmentation is not None
    mask = numbers["input/x_mask"]
    given = numbers["input/raw_objects"], mask, numbers["input/raw_globals"]
    with torch.no_grad():
        first, last = model.segmentation(model.encode(*given).objects, mask)
        few = (
            mask.sum(dim=1) <= 4
        )  # masks that claim nothing look at padding, which a trimmed batch does not have
        objects, event_features = given[0][few, :4], given[2][few]
        trimmed = model(objects, mask[few, :4], event_features)
    place = "deterministic/segmentation"
    assert_same(first.classes, numbers[f"{place}-aux/0/pred_logits"])
    assert_same(last.classes, numbers[f"{place}-cls"])
    assert_same(trimmed["segmentation/classes"], numbers[f"{place}-cls"][few])
    real = mask[:, None].expand_as(last.masks)
    assert_same(first.masks[real], numbers[f"{place}-aux/0/pred_masks"][real])
    assert_same(last.masks[real], numbers[f"{place}-mask"][real])
    assert (last.masks[~real] < -1e8).all()


@pytest.mark.parametrize(
    ("schedule", "head"),
    [("generation", "Recon"), ("neutrino_generation", "Truth")],
    ids=["objects", "invisible"],
)
def test_recorded_velocities_of_points(
    recorded: tuple[Imported, dict[str, Tensor]], schedule: str, head: str
) -> None:
    (model, _), numbers = recorded
    place = f"{schedule}/{head}Generation"
    given = {key.split("/")[-1]: value for key, value in numbers.items() if key.startswith(f"{place}/in/")}
    ours = model.object_generation if head == "Recon" else model.invisible_generation
    assert ours is not None
    with torch.no_grad():
        velocity = ours(
            given["x"],
            given["x_mask"][..., 0],
            given["global_cond"][:, 0],
            given["time"],
            given["time_masking"][..., 0] > 0,
            label=given["label"][:, 0],
            count=given["num_x"][:, 0] if "num_x" in given else None,
            attention_mask=~given["attn_mask"],
        )
    assert_same(velocity, numbers[f"{place}/out"])


def test_recorded_generation_from_noised_objects(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    noised = NoisedObjects(
        numbers["generation/PET/in/input_features"],
        numbers["generation/PET/in/time"],
        numbers["generation/PET/in/time_masking"][..., 0] > 0,
        ~numbers["generation/PET/in/attn_mask"],
    )
    mask, label = numbers["input/x_mask"], numbers["input/classification"]
    with torch.no_grad():
        encoded = encode_noised(model, noised, mask, numbers["input/raw_globals"])
        assert_same(encoded.condition, numbers["generation/ReconGeneration/in/global_cond"][:, 0])
        velocity = object_velocity(model, noised, encoded, mask, label=label)
        assert_same(velocity, numbers["generation/ReconGeneration/out"])
        encoding = classify_noised(model, encoded, mask)
        assert_same(encoding.event, numbers["generation/ObjectEncoder/out/2"])


def test_recorded_generation_of_invisible_particles(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    place = "neutrino_generation/InvisibleInputProjector"
    if f"{place}/out" not in numbers:
        pytest.skip("their training noises the padded columns, too, which sampling never does")
    given = numbers[f"{place}/in/x"], numbers["input/x_invisible_mask"], numbers["input/time"]
    with torch.no_grad():
        velocity = invisible_velocity(
            model,
            *given,
            numbers["input/raw_objects"],
            numbers["input/x_mask"],
            numbers["input/raw_globals"],
            label=numbers["input/classification"],
        )
    assert_same(velocity, numbers["neutrino_generation/TruthGeneration/out"][:, 18:])


def test_recorded_generation_of_the_event(recorded: tuple[Imported, dict[str, Tensor]]) -> None:
    (model, _), numbers = recorded
    place = "generation/GlobalGeneration"
    given = numbers[f"{place}/in/x"], numbers[f"{place}/in/time"], numbers["input/raw_globals"]
    with torch.no_grad():
        velocity = global_velocity(model, *given, label=numbers[f"{place}/in/label"][:, 0])
    assert_same(velocity, numbers[f"{place}/out"])


@pytest.mark.parametrize("layout", ["", "projector_"])
def test_names_and_shapes_of_the_published_network(layout: str, tmp_path: Path) -> None:
    listing = PARITY / f"evenet_core_20M_{layout}state_dict.json"
    if not listing.is_file():
        pytest.skip("no list of the published parameters beside this checkout")
    shapes = json.loads(listing.read_text())
    tensors = {f"model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    published = EventSchema.published()
    for normaliser, features in (("sequential", published.objects), ("global", published.event_features)):
        is_scaled = torch.tensor([feature.transform != "none" for feature in features])
        tensors[f"model.{normaliser}_normalizer.norm_mask"] = is_scaled
        tensors[f"model.{normaliser}_normalizer.std"] = torch.ones(len(features))
    torch.save({"state_dict": tensors}, tmp_path / "zeros.ckpt")
    classes = tensors["model.Classification.networks.classification/signal.output_layer.weight"].shape[0]
    for head in ("invisible", "num_point_cloud"):
        tensors[f"model.{head}_normalizer.norm_mask"] = torch.tensor([True])
    tensors["model.invisible_normalizer.std"] = torch.ones(3 if layout else 7)
    tensors["model.num_point_cloud_normalizer.std"] = torch.ones(1)
    tensors["model.Assignment.resonance_particle_properties_normalizer.std"] = torch.ones(6)
    torch.save({"state_dict": tensors}, tmp_path / "zeros.ckpt")
    classes = tensors["model.Classification.networks.classification/signal.output_layer.weight"].shape[0]
    model, account = import_published(tmp_path / "zeros.ckpt", classes=[f"class_{i}" for i in range(classes)])

    def count(part: nn.Module | None) -> int:
        return 0 if part is None else sum(parameter.numel() for parameter in part.parameters())

    def dead(part: str) -> int:
        return sum(math.prod(shapes[name]) for name in account.skipped if name.startswith(f"{part}."))

    body = sum(map(count, (model.event_embedding, model.pet, model.object_encoder)))
    assert body == 18_285_264
    assert body + dead("ObjectEncoder") == 18_679_504
    assert count(model.classification) == 1_188_362
    assert (
        count(model.assignment) + dead("Assignment") == 19_330_004 - 12 * 6
    )  # their properties are parameters
    assert count(model.segmentation) == 861_449
    assert count(model.object_generation) == 1_253_639
    assert count(model.global_generation) + dead("GlobalGeneration") == 59_714
    invisible = count(model.invisible_generation) + dead("TruthGeneration")
    assert invisible == (1_261_827 if layout else 1_262_855)
    assert count(model.invisible_projection) == (161 if layout else 0)
    assert len(account.loaded) + len(account.skipped) == len(shapes)


# --- the reference itself -------------------------------------------------------------------------------------------


class Reference(nn.Module):
    """Body and classification of the reference, put together as its own model does for the deterministic task."""

    def __init__(
        self, schema: EventSchema, *, width: int, layers: int, local_layers: int, heads: int
    ) -> None:
        place = "evenet.network"
        body = importlib.import_module(f"{place}.body.embedding")
        normalizer = importlib.import_module(f"{place}.body.normalizer")
        encoder = importlib.import_module(f"{place}.body.object_encoder")
        head = importlib.import_module(f"{place}.heads.classification.classification_head")
        super().__init__()

        def normaliser(features: Any, inverse_cdf: list[int]) -> nn.Module:
            result: nn.Module = normalizer.Normalizer(
                norm_mask=torch.tensor([feature.transform != "none" for feature in features]),
                mean=torch.tensor([feature.mean for feature in features]),
                std=torch.tensor([feature.std for feature in features]),
                inv_cdf_index=inverse_cdf,
            )
            return result

        self.sequential_normalizer = normaliser(schema.objects, [3])
        self.global_normalizer = normaliser(schema.event_features, [])
        self.GlobalEmbedding = body.GlobalVectorEmbedding(
            "GRU", 10, 2.0, 16, width, "LayerNorm", "GELU", 0.1, skip_connection=True, num_embedding_layers=8
        )
        self.PET = body.PETBody(
            7, 0, 0.1, width, local=True, K=3, num_local=local_layers, num_layers=layers, num_heads=2 * heads,
            drop_probability=0.1, talking_head=False, layer_scale=True, layer_scale_init=1e-5, dropout=0.1, mode="all",
        )  # fmt: skip
        self.ObjectEncoder = encoder.ObjectEncoder(
            width, width, width, 32, heads, 2.0, 2, 2, 0.1, skip_connection=True, encoder_skip_connection=True
        )
        self.Classification = head.ClassificationHead(
            ["signal"], {"signal": len(schema.classes)}, heads, 1, width, width, 0.1, skip_connection=True
        )

    def forward(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> Tensor:
        """Logits; energies and momenta are the logarithms of one plus their value."""
        vectors, _, token = self.encode(objects, mask, event_features)
        logits: Tensor = self.Classification(vectors, mask[..., None], token)["classification/signal"]
        return logits

    def encode(self, objects: Tensor, mask: Tensor, event_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of objects and event features, and the event token."""
        valid, one = mask[..., None], torch.ones(len(mask), 1, 1, dtype=torch.bool, device=mask.device)
        x = self.sequential_normalizer(objects.clone(), valid)
        condition = self.GlobalEmbedding(self.global_normalizer(event_features[:, None].clone(), one), one)
        no_time, time = (
            torch.zeros(*shape, device=mask.device) for shape in ((*mask.shape, 1), (len(mask),))
        )
        points = self.PET(x, x[..., [2, 3]], valid, time, None, no_time)
        encoded: tuple[Tensor, Tensor, Tensor] = self.ObjectEncoder(points, valid, condition, one)
        return encoded


class ReferenceHeads(nn.Module):
    """The other heads of the reference in their published size; they read what the body and the encoder give."""

    def __init__(self, topology: Topology, *, width: int, classes: int) -> None:
        place = "evenet.network.heads"
        assignment = importlib.import_module(f"{place}.assignment.assignment_head")
        segmentation = importlib.import_module(f"{place}.segmentation.segmentation_head")
        generation = importlib.import_module(f"{place}.generation.generation_head")
        symmetries = importlib.import_module("evenet.dataset.types").Symmetries
        super().__init__()
        mean, std = torch.full((6,), 0.5), torch.full((6,), 2.0)
        kinds = {
            r.name: {
                "resonance_particle_properties": torch.tensor(r.properties) / 50,
                "pairing_topology_category": r.head,
            }
            for r in topology.resonances
        }
        categories = {}
        for resonance in topology.resonances:
            pairs = [
                [tuple(resonance.daughters.index(n) for n in names)] for names in resonance.interchangeable
            ]
            names = SimpleNamespace(names=list(resonance.daughters))
            symmetry = symmetries(len(resonance.daughters), pairs)
            categories[resonance.head] = {"product_particles": names, "product_symmetry": symmetry}
        self.Assignment = assignment.SharedAssignmentHead(
            mean, std, kinds, [], categories, {}, {}, {}, {}, feature_drop=0.1, num_feature_keep=0, input_dim=width,
            hidden_dim=width, position_embedding_dim=32, num_attention_heads=4, transformer_dim_scale=2.0,
            num_linear_layers=1, num_encoder_layers=1, num_jet_embedding_layers=0, num_jet_encoder_layers=0,
            num_detection_layers=1, num_max_event_particles=2, dropout=0.1, combinatorial_scale=0.0,
            split_attention=True, encode_event_token=False, activation="GELU", skip_connection=True,
            encoder_skip_connection=True, device="cpu",
        )  # fmt: skip
        self.Segmentation = segmentation.SegmentationHead(
            width, width, 8, 0.1, 1, num_class=8, num_queries=4, return_intermediate=True, norm_before=False
        )
        points = {"layer_scale": True, "layer_scale_init": 1e-5, "drop_probability": 0.1, "feature_drop": 0.1}
        self.ReconGeneration = generation.EventGenerationHead(
            width, width, width, classes, 7, 1, 4, 0.1, **points
        )
        self.TruthGeneration = generation.EventGenerationHead(
            width, width, width, classes, 7, 1, 4, 0.1, **points, position_encode=True, max_position_length=36
        )
        self.GlobalGeneration = generation.GlobalCondGenerationHead(
            1, 1, 2, 64, 2, [0, 1, 7], classes, 64, 1e-5, 0.0, "SILU", 0.0
        )
        number, one = torch.tensor([True]), torch.ones(1)
        for name, means, stds in (
            ("num_point_cloud", torch.tensor([6.1]), torch.tensor([2.8])),
            ("invisible", torch.zeros(7), torch.ones(7)),
        ):
            normaliser = nn.Module()
            for key, value in (("norm_mask", number), ("mean", means), ("std", stds)):
                normaliser.register_buffer(key, value * one if key != "norm_mask" else value)
            self.add_module(f"{name}_normalizer", normaliser)


def randomise(model: nn.Module, *, gain: float, seed: int) -> None:
    """Weights with which every part has a say: the initial scales would hide all but the local branch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if "normalizer" in name or "num_batches" in name:
                continue
            if name.endswith(("gamma", "running_var")):
                value.copy_(0.3 + 0.2 * noise.abs())
            elif name.endswith("gate_bias"):
                value.copy_(1.5 + 0.3 * noise)
            elif value.ndim == 2:
                value.copy_(gain * noise / math.sqrt(value.shape[1]))
            else:
                value.copy_(float("norm" in name and name.endswith("weight")) + 0.1 * noise)


def events(counts: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Raw objects in 18 slots, mask and event features."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(7, len(counts), 18, generator=generator)
    pt, eta = 20 - 40 * torch.log(uniform[0]), 5 * uniform[1] - 2.5
    phi = math.pi * (2 * uniform[2] - 1)
    flags = [(column > 0.7).float() for column in uniform[3:5]]
    objects = torch.stack([pt * torch.cosh(eta), pt, eta, phi, *flags, torch.sign(uniform[5] - 0.5)], dim=-1)
    mask = torch.arange(18) < counts[:, None]
    event_features = 5 * torch.rand(len(counts), 10, generator=generator)
    event_features[:, [0, 5, 7, 8, 9]] *= 40
    return torch.where(mask[..., None], objects, 0.0), mask, event_features


def logged(values: Tensor, schema_features: Any) -> Tensor:
    is_log = torch.tensor([feature.transform == "log" for feature in schema_features])
    return torch.where(is_log, torch.log1p(values.clamp(min=0)), values)


@pytest.fixture(scope="module", params=[0.6, 1.0, 1.4], ids=lambda gain: f"gain{gain}")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Reference, ReferenceHeads, Imported]]:
    """The reference in its published size with random weights, and what the importer makes of them."""
    if not (REFERENCE / "evenet").is_dir():
        pytest.skip("no reference implementation beside this checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(REFERENCE), *sys.path])
        reference = Reference(EventSchema.published(), width=256, layers=16, local_layers=10, heads=8).eval()
        with warnings.catch_warnings():  # the reference scripts functions as it is imported
            warnings.simplefilter("ignore", DeprecationWarning)
            heads = ReferenceHeads(Topology.published(), width=256, classes=10).eval()
    randomise(reference, gain=request.param, seed=11)
    randomise(heads, gain=request.param, seed=12)
    path = tmp_path_factory.mktemp("reference") / "random.ckpt"
    weights = {**reference.state_dict(), **heads.state_dict()}
    torch.save({"state_dict": {f"model.{k}": v for k, v in weights.items()}}, path)
    yield reference, heads, import_published(path)
    path.unlink()


Pair = tuple[Reference, ReferenceHeads, Imported]


def test_20m_heads_on_clean_events_for_every_number_of_objects(pair: Pair) -> None:
    reference, heads, (model, account) = pair
    assert account.missing == ()
    assert model.config.assignment is not None
    counts = torch.arange(1, 19)
    objects, mask, event_features = events(counts, seed=5)
    one = torch.ones(len(mask), 1, 1, dtype=torch.bool)
    with torch.no_grad():
        schema = model.schema
        given = logged(objects, schema.objects), mask, logged(event_features, schema.event_features)
        vectors, condition, token = reference.encode(*given)
        places, numbers, _ = heads.Assignment(
            vectors, mask[..., None], condition, one, token, return_type="topology"
        )
        segments = heads.Segmentation(vectors, mask[..., None])
        encoding = model.encode(objects, mask, event_features)
        found = model.apply_heads(encoding, mask)
        few = counts <= 6
        trimmed = model.apply_heads(
            model.encode(objects[few, :6], mask[few, :6], event_features[few]), mask[few, :6]
        )
        exact = copy.deepcopy(model).double().encode(objects.double(), mask, event_features.double())
    clear = ~is_tie(vectors, encoding.objects, exact.objects)
    for kind, scores in found.assignment.items():
        assert_same_where_possible(scores.assignment[clear], places[kind][clear])
        assert_same(scores.multiplicity[clear], numbers[kind][clear], PROMISED)
        assert_same_where_possible(trimmed.assignment[kind].assignment, corner(places[kind], few, 6))
    assert set(found.assignment) == set(places)
    classes, masks = segments["pred_logits"], segments["pred_masks"]
    assert_same(found.segmentation[-1].classes[clear], classes[clear], PROMISED)
    assert_same(trimmed.segmentation[-1].classes, classes[few], PROMISED)
    real = (mask & clear[:, None])[:, None].expand_as(masks)
    assert_same(found.segmentation[-1].masks[real], masks[real], PROMISED)


def test_20m_heads_on_noised_events_for_every_number_of_objects(pair: Pair) -> None:
    _, heads, (model, _) = pair
    assert model.object_generation is not None
    assert model.invisible_generation is not None
    assert model.global_generation is not None
    counts = torch.arange(1, 19)
    mask = torch.arange(18) < counts[:, None]
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(18, 18, 256, generator=generator) * mask[..., None]
    condition = torch.randn(18, 256, generator=generator)
    time = torch.rand(18, generator=generator)
    noised = mask & (torch.rand(18, 18, generator=generator) < 0.5)
    label = torch.randint(0, 10, (18,), generator=generator)
    one, valid = torch.ones(18, 1, 1), mask[..., None]
    count = torch.randn(18, generator=generator)
    aside = noised | ~mask
    pairs = aside[:, :, None] | ~aside[:, None, :]
    with torch.no_grad():
        for head, ours, told in (
            (heads.ReconGeneration, model.object_generation, count),
            (heads.TruthGeneration, model.invisible_generation, None),
        ):
            theirs = head(
                points, condition[:, None], one, None if told is None else told[:, None], valid, time, label[:, None],
                ~pairs, noised[..., None].float(), position_encode=told is None,
            )  # fmt: skip
            velocity = ours(
                points, mask, condition, time, noised, label=label, count=told, attention_mask=pairs
            )
            assert_same(velocity, theirs)
        x, told = torch.randn(18, 2, generator=generator), torch.randn(18, 10, generator=generator)
        theirs = heads.GlobalGeneration(x, time, None, told[:, None], label[:, None])
        assert_same(model.global_generation(x, time, told[:, [0, 1, 7]], label=label), theirs)


def test_20m_network_for_every_number_of_objects(pair: Pair) -> None:
    reference, _, (model, _) = pair
    counts = torch.arange(1, 19).repeat_interleave(2)
    objects, mask, event_features = events(counts, seed=4)
    with torch.no_grad():
        theirs = reference(
            logged(objects, model.schema.objects), mask, logged(event_features, model.schema.event_features)
        )
        ours = model(objects, mask, event_features)["classification"]
        exact = copy.deepcopy(model).double()(objects.double(), mask, event_features.double())
        clear = ~is_tie(theirs, ours, exact["classification"])
        assert_same(ours[clear], theirs[clear])
        for slots in (1, 2, 3, 4, 6, 7, 10):
            few = (counts <= slots) & clear
            trimmed = model(objects[few, :slots], mask[few, :slots], event_features[few])["classification"]
            worst = float((trimmed - theirs[few]).abs().max() / theirs.abs().max())
            assert worst < TOLERANCE, (slots, worst)


def test_padded_neutrinos_count_as_neighbours_as_published(pair: Pair) -> None:
    reference, _, (model, _) = pair
    generator = torch.Generator().manual_seed(9)
    number = 30
    features = torch.randn(number, 20, 7, generator=generator)
    mask = torch.arange(20) < torch.randint(1, 19, (number, 1), generator=generator)
    features[:, :18] *= mask[:, :18, None]
    mask[:, 18:] = torch.rand(number, 2, generator=generator) > 0.3  # noise fills these slots all the same
    time = torch.rand(number, generator=generator)
    is_neutrino = torch.arange(20) >= 18
    time_mask = (mask & is_neutrino).float()
    blocked = ~is_neutrino[:, None] & is_neutrino[None, :]
    with torch.no_grad():
        theirs = reference.PET(
            features, features[..., [2, 3]], mask[..., None], time, blocked, time_mask[..., None]
        )
        ours = model.pet(features, mask, time=time, time_mask=time_mask, attention_mask=~blocked)
    assert_same(ours[mask], theirs[mask])
