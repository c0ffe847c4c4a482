"""What GPUs compute, against the processor: predictions, losses, gradients, trainings. Skipped where there is no GPU."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from evenet_hep import EveNet, EveNetConfig, EventSchema, Predictor
from evenet_hep.events.jets import jet_schema
from evenet_hep.events.kinematic_labels import LABELS
from evenet_hep.graph_study.plan import GraphStudyPlan
from evenet_hep.graph_study.study import run_study
from evenet_hep.model.graph import GraphConfig, GraphNetwork
from evenet_hep.model.jet_kinematics import JetKinematics, KinematicsConfig, sample_jets
from evenet_hep.model.jets import JetConfig, JetNetwork
from evenet_hep.model.pairs import pair_up
from evenet_hep.training.graph import GraphSample, GraphTrainingConfig, outputs_of, train_graph
from evenet_hep.training.jets import (
    JetSample,
    JetTrainingConfig,
    probabilities_of,
    train_jets,
    train_kinematics,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def single_precision() -> None:
    torch.set_float32_matmul_precision("highest")


def made_up(n: int, *, slots: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw objects, mask and event features of events with none to ``slots`` objects."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, slots + 1, (n,), generator=generator)
    mask = torch.arange(slots) < counts[:, None]
    scale = torch.tensor([90.0, 80.0, 4.0, 6.2, 1.0, 1.0, 1.0])
    objects = torch.rand(n, slots, 7, generator=generator) * scale
    objects[..., 2:4] -= torch.tensor([2.0, 3.1])
    features = torch.rand(n, 10, generator=generator) * 50
    return torch.where(mask[..., None], objects, 0.0), mask, features


def jets(n: int, *, seed: int = 0) -> tuple[EventSchema, JetSample]:
    """Jets whose class shows in the width of their constituents."""
    generator = torch.Generator().manual_seed(seed)
    schema = jet_schema(classes=("narrow", "wide"), capacity=24)
    label = torch.arange(n) % 2
    mask = torch.arange(24) < torch.randint(2, 25, (n,), generator=generator)[:, None]
    columns = torch.randn(n, 24, len(schema.objects), generator=generator)
    names = schema.object_names
    for name in ("delta_eta", "delta_phi"):
        columns[..., names.index(name)] *= 0.1 + 0.3 * label[:, None]
    features = torch.rand(n, len(schema.event_features), generator=generator) * 100 + 1
    features[:, schema.event_names.index("multiplicity")] = mask.sum(dim=1).float()
    return schema, JetSample(torch.where(mask[..., None], columns, 0.0), mask, features, label)


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest number."""
    return float((ours.cpu().double() - theirs.double()).abs().max() / theirs.double().abs().max())


def test_evenet_of_the_published_size() -> None:
    """Logits in single precision; bfloat16 moves no probability by more than 0.01."""
    schema = EventSchema.published()
    torch.manual_seed(0)
    model = EveNet(EveNetConfig.published(), schema).eval()
    objects, mask, features = made_up(512, slots=18)
    features = features[:, : len(schema.event_features)]
    mask[:, 0] = True
    with torch.no_grad():
        here = model(objects, mask, features)["classification"]
        model.cuda()
        there = model(objects.cuda(), mask.cuda(), features.cuda())["classification"]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            half = model(objects.cuda(), mask.cuda(), features.cuda())["classification"]
    print(f"\nlogits: {far(there, here):.1e}, in bfloat16 {far(half.float(), here):.1e}")
    # Neighbours that are equally near within rounding may be taken in another order: one event in so many.
    apart = ((there.cpu() - here).abs() > 1e-4 * here.abs().max()).any(dim=1)
    assert int(apart.sum()) <= 2
    moved = (half.float().softmax(dim=1).cpu() - here.softmax(dim=1)).abs().amax(dim=1)
    print(
        f"probabilities move by up to {moved.max():.4f}, 99 % of the events by less than {moved.quantile(0.99):.4f}"
    )
    assert 0 < float(moved.max()) < 0.01


def test_predictor_gives_the_same_records(samples: dict[str, Path]) -> None:
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415  it takes a second

    NanoAODSchema.warn_missing_crossrefs = False
    path = next(iter(samples.values()))
    events = NanoEventsFactory.from_root({str(path): "Events"}, mode="eager").events()[:2000]
    heads = ("classification", "embedding")
    here, there = (Predictor("demo", heads=heads, device=device)(events) for device in ("cpu", "cuda"))
    assert Predictor("demo").chosen_device.startswith("cuda")
    for field in here.classification.fields:
        np.testing.assert_allclose(there.classification[field], here.classification[field], atol=2e-5)
    np.testing.assert_allclose(
        ak.flatten(there.embedding, axis=None), ak.flatten(here.embedding, axis=None), atol=1e-3
    )
    assert str(there.type) == str(here.type)


def test_padding_order_and_the_rest_of_the_batch() -> None:
    torch.manual_seed(1)
    model = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=CLASSES)).eval().cuda()
    objects, mask, features = (x.cuda() for x in made_up(300))
    mask[:, 0] = True
    with torch.no_grad():
        whole = model(objects, mask, features)["classification"]
        part = model(objects[40:60], mask[40:60], features[40:60])["classification"]
        order = torch.randperm(12, device="cuda")
        turned = model(objects[:, order], mask[:, order], features)["classification"]
        wide = [torch.nn.functional.pad(x, (0, 0, 0, 6)) for x in (objects, mask[..., None])]
        padded = model(wide[0], wide[1][..., 0], features)["classification"]
    torch.testing.assert_close(part, whole[40:60], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(padded, whole, atol=1e-4, rtol=1e-4)


def test_pairs_are_those_of_the_processor() -> None:
    _, mask, _ = made_up(200)
    here, there = pair_up(mask), pair_up(mask.cuda())
    assert len(here.sender) < 200 * 12 * 11 / 2  # no pair of padded objects
    assert there.is_pair is None
    for name in ("event", "sender", "receiver"):
        assert torch.equal(getattr(there, name).cpu(), getattr(here, name)), name
    wanted = [
        (e, i, j)
        for e, n in enumerate(mask.sum(dim=1).tolist())
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    first = {int(e): int((here.event == e).nonzero()[0]) for e in here.event.unique()}
    event = there.event[there.receiver].cpu()
    start = torch.tensor([first[int(e)] for e in event])
    found = zip(
        event.tolist(),
        (there.receiver.cpu() - start).tolist(),
        (there.sender.cpu() - start).tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(wanted)
    values = torch.randn(len(here.sender), 5)
    for mean in (True, False):
        torch.testing.assert_close(
            there.over_senders(values.cuda(), mean=mean).cpu(), here.over_senders(values, mean=mean)
        )


def test_graph_network_and_its_gradients() -> None:
    torch.manual_seed(2)
    model = GraphNetwork(GraphConfig(width=16, hidden=24), EventSchema.standard(classes=CLASSES))
    batch = made_up(100)
    target = torch.arange(100) % 3
    gradients = []
    for device in ("cpu", "cuda"):
        own = copy.deepcopy(model).to(device)
        logits = own(*(x.to(device) for x in batch))["classification"]
        torch.nn.functional.cross_entropy(logits, target.to(device)).backward()
        gradients.append((logits.detach(), {name: p.grad for name, p in own.named_parameters()}))
    (here, ours), (there, theirs) = gradients
    assert far(there, here) < 1e-5
    for name, gradient in ours.items():
        assert gradient is not None
        other = theirs[name]
        assert other is not None
        assert float((other.cpu() - gradient).abs().max()) < 1e-5 * max(1.0, float(gradient.abs().max())), (
            name
        )


def test_graph_training_goes_the_same_way() -> None:
    objects, mask, features = made_up(600, seed=4)
    target = (mask.sum(dim=1) > 6).long()
    sample = GraphSample(objects, mask, features, target)
    runs = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(3)
        model = GraphNetwork(GraphConfig(width=16, hidden=16), EventSchema.standard(classes=("few", "many")))
        config = GraphTrainingConfig(epochs=3, batch_size=64, rate=3e-3)
        runs.append(train_graph(model.to(device), sample, sample, config))
    here, there = runs
    assert next(there.model.parameters()).is_cuda
    assert outputs_of(there.model, sample).device.type == "cpu"
    for ours, theirs in zip(there.history, here.history, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.01)  # rounding grows from step to step
    assert there.history[0].loss == pytest.approx(here.history[0].loss, rel=1e-3)
    half = dataclasses.replace(config, precision="bf16")
    torch.manual_seed(3)
    model = GraphNetwork(GraphConfig(width=16, hidden=16), EventSchema.standard(classes=("few", "many")))
    rounded = train_graph(model.cuda(), sample, sample, half)
    assert rounded.history[0].loss == pytest.approx(here.history[0].loss, rel=0.02)


def test_jet_network_trains_resumes_and_generates(tmp_path: Path) -> None:
    schema, sample = jets(512)
    torch.manual_seed(5)
    start = JetNetwork(JetConfig(width=16, layers=1, heads=2, local_layers=1), schema)
    here = probabilities_of(start, sample)
    torch.testing.assert_close(probabilities_of(copy.deepcopy(start).cuda(), sample), here, atol=1e-5, rtol=0)
    config = JetTrainingConfig(epochs=4, batch_size=64, rate=3e-3)
    whole = train_jets(copy.deepcopy(start).cuda(), sample, sample, config)
    rows: list[Any] = []

    class Stop(Exception):  # noqa: N818  it is none
        pass

    def stop(row: Any) -> None:
        rows.append(row)
        if len(rows) == 2:
            raise Stop

    with pytest.raises(Stop):
        train_jets(
            copy.deepcopy(start).cuda(), sample, sample, config, folder=tmp_path / "run", progress=stop
        )
    later: list[Any] = []
    again = train_jets(
        copy.deepcopy(start).cuda(), sample, sample, config, folder=tmp_path / "run", progress=later.append
    )
    assert [row["epoch"] for row in later] == [2.0, 3.0]
    losses = [run.history.val_loss for run in (whole, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
    kinematics = JetKinematics(KinematicsConfig(), schema).cuda()
    trained = train_kinematics(kinematics, sample, sample, dataclasses.replace(config, epochs=1)).model
    drawn = sample_jets(trained, again.model, torch.arange(8, device="cuda") % 2, steps=2)
    assert drawn.constituents.is_cuda
    assert torch.isfinite(drawn.constituents).all()


def test_the_graph_study_runs_there(tmp_path: Path) -> None:
    """Two processes share the GPU, and the comparison is made of what they leave."""
    out, data = tmp_path / "out", tmp_path / "data"
    (out / "events").mkdir(parents=True)
    data.mkdir()
    for number, name in enumerate("ab"):
        (data / f"{name}.root").touch()
        objects, mask, features = made_up(300, slots=18, seed=number)
        mask[:, 0] = True
        labels = torch.rand(300, len(LABELS)).round()
        content = {"objects": objects, "mask": mask, "event_features": features, "labels": labels}
        arrays: dict[str, Any] = {key: value.numpy() for key, value in content.items()}
        np.savez(out / "events" / f"{name}.npz", **arrays)
    plan = GraphStudyPlan(
        pretraining=("a", "b"), tasks={"a, b": ("a", "b")}, sizes=(60,), seeds=2, epochs=1, pretraining_epochs=1, pretraining_events=100,
        validation=20, test=40, compared=30, network=GraphConfig(width=16, hidden=16), batch_size=32, precision="bf16",
    )  # fmt: skip
    found = run_study(data, out, plan, device="cuda", cores=2)
    assert len(found["a, b, 60"]["accuracy"]["multilabel"]) == 2


def test_workers_take_the_gpu_and_give_the_same_scores(tmp_path: Path, samples: dict[str, Path]) -> None:
    from distributed import Client, LocalCluster  # noqa: PLC0415

    from evenet_hep.distributed import predict_files  # noqa: PLC0415

    files = [str(path) for path in samples.values()][:1]
    found = []
    for device in ("cpu", "auto"):
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, resources={"GPU": 1}, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            out = tmp_path / device
            predict_files(client, Predictor("demo", device=device), files, out, progress=False)
            chosen = client.run(lambda: Predictor("demo").chosen_device)
            tables = sorted(out.rglob("*.parquet"))
            found.append(np.concatenate([probabilities(ak.from_parquet(table)) for table in tables]))
    assert all(name.startswith("cuda") for name in chosen.values())
    assert len(found[0]) > 0
    np.testing.assert_allclose(found[1], found[0], atol=2e-5)


def probabilities(table: ak.Array) -> Any:
    """Every score of every event, (events, scores)."""
    identifiers = ("run", "luminosityBlock", "event")
    columns = [ak.to_numpy(table[name]) for name in table.fields if name not in identifiers]
    return np.column_stack(columns)
