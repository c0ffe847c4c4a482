"""The Predictor on real files: invariances, empty input, executors, pickles."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import numpy as np
import pytest
from coffea import processor
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from evenet_hep.processors.event_scores import EventScores, mean_probabilities

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema, Predictor
from evenet_hep.errors import CheckpointError, InputError, PredictionError
from evenet_hep.events.object_selection import select_objects
from evenet_hep.inference import network_loads
from evenet_hep.scoring import score_files
from evenet_hep.share import find_checkpoint, sample_files

pytestmark = [
    pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
]
CLASSES = ("TT", "ST", "WJets", "ZJets", "VV", "QCD")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)


@pytest.fixture
def events(samples: dict[str, Path]) -> ak.Array:
    virtual = NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="virtual").events()
    needed = {name: ak.materialize(virtual[name]) for name in ("Electron", "Muon", "Jet", "PuppiMET")}
    return ak.zip(needed, depth_limit=1)


def array_of(out: ak.Array) -> np.ndarray:
    return np.stack([ak.to_numpy(out.classification[name]) for name in CLASSES], axis=1)


def test_probabilities_have_names_and_add_up(events: ak.Array) -> None:
    out = Predictor("demo")(events)
    assert ak.fields(out.classification) == list(CLASSES)
    assert len(out) == len(events)
    assert out.classification.TT.type.content.primitive == "float32"
    np.testing.assert_allclose(array_of(out).sum(axis=1), 1, atol=1e-5)


def test_eager_virtual_and_cloud_agree(events: ak.Array, samples: dict[str, Path]) -> None:
    predict = Predictor("demo")
    eager = array_of(predict(events))
    virtual = NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="virtual").events()
    assert np.array_equal(array_of(predict(virtual)), eager)
    assert np.array_equal(array_of(predict(EventCloud.from_awkward(events, predict.schema))), eager)


def test_order_of_objects_does_not_matter(events: ak.Array) -> None:
    predict = Predictor("demo")
    rng = np.random.default_rng(3)
    shuffled = {}
    for name in ("Electron", "Muon", "Jet"):
        counts = ak.num(events[name])
        keys = ak.unflatten(rng.uniform(size=int(ak.sum(counts))), counts)
        shuffled[name] = events[name][ak.argsort(keys)]
    np.testing.assert_allclose(
        array_of(predict(events, collections=shuffled)), array_of(predict(events)), atol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_neighbours_in_the_batch_do_not_matter(events: ak.Array, batch_size: int) -> None:
    expected = array_of(Predictor("demo")(events))
    np.testing.assert_allclose(
        array_of(Predictor("demo", batch_size=batch_size)(events)), expected, atol=1e-5
    )
    part = Predictor("demo", batch_size=batch_size)(events[50:60])
    np.testing.assert_allclose(array_of(part), expected[50:60], atol=1e-5)


def test_more_padding_does_not_matter(events: ak.Array) -> None:
    network = Predictor("demo").network()
    cloud = EventCloud.from_awkward(events, network.schema)
    few = cloud[cloud.n_objects <= 10]
    objects, mask, event_features = few.to_torch()
    wide = network(objects, mask, event_features)["classification"]
    narrow = network(objects[:, :10], mask[:, :10], event_features)["classification"]
    np.testing.assert_allclose(wide.detach().numpy(), narrow.detach().numpy(), atol=1e-5)


def test_events_without_objects_get_nan(events: ak.Array) -> None:
    predict = Predictor("demo", heads=("classification", "embedding"))
    nothing = {name: events[name][:, :0] for name in ("Electron", "Muon", "Jet")}
    mixed = {name: ak.concatenate([events[name][:3], nothing[name][3:5]]) for name in nothing}
    out = predict(events[:5], collections=mixed)
    assert np.isfinite(array_of(out)).all(axis=1).tolist() == [True] * 3 + [False] * 2
    assert np.isnan(array_of(out)[3:]).all()
    assert np.isnan(ak.to_numpy(out.embedding)[3:]).all()
    assert np.isnan(array_of(predict(events, collections=nothing))).all()


def test_empty_chunk_has_the_right_type(events: ak.Array) -> None:
    predict = Predictor("demo", heads=("classification", "embedding"))
    full, empty = predict(events[:4]), predict(events[:0])
    assert len(empty) == 0
    assert empty.type.content == full.type.content


def test_embedding_has_the_width_of_the_network(events: ak.Array) -> None:
    out = Predictor("demo", heads=("embedding",))(events[:5])
    assert ak.fields(out) == ["embedding"]
    assert ak.to_numpy(out.embedding).shape == (5, Predictor("demo").network().config.width)


def test_embeddings_alone_can_be_written(samples: dict[str, Path], tmp_path: Path) -> None:
    (scored,) = score_files(Predictor("demo", heads=("embedding",)), [samples["nano_dy"]], tmp_path)
    table = ak.from_parquet(tmp_path / "nano_dy.parquet")
    assert (scored.n_events, scored.means) == (40, {})
    assert ak.to_numpy(table["embedding"]).shape == (40, Predictor("demo").network().config.width)


def test_pickle_is_small_and_scores_the_same(events: ak.Array) -> None:
    scores = EventScores(Predictor("demo"), out="somewhere")
    assert len(pickle.dumps(scores)) < 2000
    assert len(pickle.dumps(Predictor("demo"))) < 600
    again = pickle.loads(pickle.dumps(Predictor("demo")))
    before = network_loads()
    assert np.array_equal(array_of(again(events[:20])), array_of(Predictor("demo")(events[:20])))
    assert network_loads() - before <= 1


def test_bad_requests_are_named(events: ak.Array, tmp_path: Path) -> None:
    with pytest.raises(
        PredictionError, match=r"heads must be among classification, .*, embedding; found 'neutrinos'"
    ):
        Predictor("demo", heads=("neutrinos",))
    with pytest.raises(PredictionError, match="batch_size"):
        Predictor("demo", batch_size=0)
    with pytest.raises(PredictionError, match="device must be"):
        Predictor("demo", device="abacus")(events)
    with pytest.raises(CheckpointError, match="neither a folder nor a network"):
        Predictor(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        Predictor(tmp_path)
    with pytest.raises(PredictionError, match="the network expects"):
        Predictor("demo")(
            EventCloud.from_awkward(events, EventSchema(objects=EventSchema.published().objects))
        )
    with pytest.raises(InputError, match="no collection"):
        Predictor("demo")(events[["Jet", "PuppiMET"]])


def test_a_network_without_the_head_asked_for_is_refused(events: ak.Array, tmp_path: Path) -> None:
    config = dataclasses.replace(EveNetConfig.tiny(), classification=None)
    EveNet(config, EventSchema.standard(classes=CLASSES)).save_pretrained(tmp_path / "body")
    with pytest.raises(PredictionError, match="has no classification head"):
        Predictor(tmp_path / "body")(events)
    out = Predictor(tmp_path / "body", heads=("embedding",))(events[:3])
    assert np.isfinite(ak.to_numpy(out.embedding)).all()


def test_a_checkpoint_that_changes_under_a_predictor_is_refused(events: ak.Array, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(find_checkpoint("demo"), copy)
    schema = EventSchema.from_file(copy / "schema.json")
    (copy / "schema.json").write_text(schema.with_statistics({"eta": (0.5, 1.0)}).to_json())
    predict = Predictor(copy)
    (copy / "schema.json").write_text(schema.with_statistics({"eta": (0.1, 1.0)}).to_json())
    with pytest.raises(PredictionError, match="has changed"):
        predict(events)


# Other processes need not be able to import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class CountLoads(EventScores):  # type: ignore[misc, unused-ignore]
    """Also says which process scored, and how many networks it has read."""

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        NanoAODSchema.warn_missing_crossrefs = False
        out: dict[str, dict[str, Any]] = super().process(events)
        scores = self.predict(events, collections=select_objects(events)).classification
        columns = np.stack([ak.to_numpy(scores[name]) for name in CLASSES], axis=1)
        content = out[events.metadata["dataset"]]
        content["loads"] = {(os.getpid(), network_loads())}
        content["event"] = processor.column_accumulator(ak.to_numpy(events["event"]))
        content["columns"] = processor.column_accumulator(columns)
        return out


FILESET = {name: {"files": {str(path): "Events"}} for name, path in sample_files().items()}


def run_with(executor: Any) -> dict[str, Any]:
    runner = processor.Runner(executor, schema=NanoAODSchema, chunksize=60)
    result: dict[str, Any] = runner(FILESET, CountLoads(Predictor("demo", device="cpu")))
    return result


def by_event(content: dict[str, Any]) -> np.ndarray:
    return np.asarray(content["columns"].value)[np.argsort(content["event"].value, kind="stable")]


def assert_equal_outputs(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, content in expected.items():
        assert found[name]["n_events"] == content["n_events"]
        assert found[name]["n_scored"] == content["n_scored"]
        np.testing.assert_allclose(by_event(found[name]), by_event(content), atol=1e-5)
        np.testing.assert_allclose(found[name]["scores"].values(), content["scores"].values())
        np.testing.assert_allclose(found[name]["scores"].variances(), content["scores"].variances())


def assert_one_load_per_process(result: dict[str, Any], n_processes: int) -> None:
    loads = {pid: count for content in result.values() for pid, count in content["loads"]}
    counts = [count for content in result.values() for pid, count in content["loads"]]
    assert os.getpid() not in loads
    assert 1 <= len(loads) <= n_processes
    assert set(counts) == {1}


@pytest.fixture(scope="module")
def iterative() -> dict[str, Any]:
    return run_with(processor.IterativeExecutor(status=False))


def test_iterative_executor(iterative: dict[str, Any]) -> None:
    assert sum(content["n_events"] for content in iterative.values()) == 480
    means = mean_probabilities(iterative["ttbar MC"])
    assert max(means, key=lambda name: means[name]) == "TT"
    for content in iterative.values():
        assert content["scores"].sum(flow=True).value == pytest.approx(content["sum_weight"] * len(CLASSES))


def test_futures_executor_with_two_processes(iterative: dict[str, Any]) -> None:
    result = run_with(processor.FuturesExecutor(workers=2, status=False))
    assert_equal_outputs(result, iterative)
    assert_one_load_per_process(result, 2)


def test_dask_executor_with_two_processes(iterative: dict[str, Any]) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
    )
    with cluster, distributed.Client(cluster) as client:
        result = run_with(processor.DaskExecutor(client=client, status=False))
    assert_equal_outputs(result, iterative)
    assert_one_load_per_process(result, 2)
