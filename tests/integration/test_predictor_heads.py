"""Every output of the Predictor, on a real file and with a network that has all heads."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema, Predictor
from evenet_hep.errors import PredictionError
from evenet_hep.inference import OUTPUTS, Sampling
from evenet_hep.model.heads.assignment import AssignmentConfig
from evenet_hep.model.heads.generation import InvisibleGenerationConfig
from evenet_hep.model.heads.regression import RegressionConfig, RegressionTarget
from evenet_hep.model.heads.segmentation import SegmentationConfig
from evenet_hep.model.topology import Topology

pytestmark = [
    pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Missing cross-reference:RuntimeWarning"),
]
EVENET_OUTPUTS = tuple(
    output for output in OUTPUTS if output != "multilabel"
)  # that one is of the graph network
FEW = Sampling(particles=2, samples=3, steps=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    topology = Topology.shipped("bbww")
    config = dataclasses.replace(
        EveNetConfig.tiny(),
        assignment=AssignmentConfig(topology, heads=4, type_width=8),
        segmentation=SegmentationConfig(topology.segments, heads=4),
        regression=RegressionConfig((RegressionTarget("mtt", 500.0, 100.0),), width=16),
        invisible_generation=InvisibleGenerationConfig(),
    )
    torch.manual_seed(2)
    model = EveNet(config, EventSchema.standard(classes=("signal", "background")))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("network") / "all"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def events(samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> ak.Array:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    virtual = NanoEventsFactory.from_root({str(samples["nano_tt_v12"]): "Events"}, mode="virtual").events()
    needed = {name: ak.materialize(virtual[name][:60]) for name in ("Electron", "Muon", "Jet", "PuppiMET")}
    return ak.zip(needed, depth_limit=1)


def test_resonances_lead_back_to_the_objects_of_the_user(checkpoint: Path, events: ak.Array) -> None:
    out = Predictor(checkpoint, heads=["assignment"], process="TT1L")(events).assignment
    assert ak.fields(out) == ["t1", "t2"]
    n_found = 0
    for i in range(len(events)):
        top = out.t1[i]
        if top.b.index is None:
            assert np.isnan(top.px)
            assert top.probability == 0 or np.isnan(top.probability)
            continue
        n_found += 1
        daughters = [events[top[name].collection][i][top[name].index] for name in ("b", "q1", "q2")]
        assert len({(top[n].collection, top[n].index) for n in ("b", "q1", "q2")}) == 3
        px = sum(d.pt * np.cos(d.phi) for d in daughters)
        energy = sum(np.sqrt((d.pt * np.cosh(d.eta)) ** 2 + d.mass**2) for d in daughters)
        assert top.px == pytest.approx(px, rel=1e-4, abs=1e-2)
        assert pytest.approx(energy, rel=1e-4) == top.E
        assert top.pt == pytest.approx(np.hypot(top.px, top.py), rel=1e-5)
        assert 0 < top.probability <= 1
        assert 0 <= top.detection <= 1
    assert n_found > 10


def test_no_object_is_used_twice(checkpoint: Path, events: ak.Array) -> None:
    out = Predictor(checkpoint, heads=["assignment"], process="XYH")(events).assignment
    for i in range(len(events)):
        used = [
            (out[name][i][daughter].collection, out[name][i][daughter].index)
            for name, daughters in (("Y", ("b1", "b2")), ("W1", ("q1", "q2")), ("W2", ("l",)))
            for daughter in daughters
            if out[name][i][daughter].index is not None
        ]
        assert len(set(used)) == len(used)


def test_two_resonances_of_a_kind_with_weights_of_their_own(tmp_path: Path, events: ak.Array) -> None:
    topology = Topology.shipped("higgs_to_4b")
    found = {}
    for separate in (False, True):
        assignment = AssignmentConfig(topology, heads=4, type_width=8, separate=separate)
        torch.manual_seed(2)
        model = EveNet(dataclasses.replace(EveNetConfig.tiny(), assignment=assignment), EventSchema.standard(classes=("s", "b")))  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / str(separate))
        found[separate] = Predictor(tmp_path / str(separate), heads=["assignment"], process="HAA4B")(
            events
        ).assignment
    out = found[True]
    assert ak.fields(out) == ["a1", "a2"]
    both = ~ak.is_none(out.a1.b1.index) & ~ak.is_none(out.a2.b1.index)
    assert ak.sum(both) > 10
    assert ak.all(out.a1.probability[both] >= out.a2.probability[both])
    for i in np.flatnonzero(ak.to_numpy(both)):
        used = [(out[a][i][b].collection, out[a][i][b].index) for a in ("a1", "a2") for b in ("b1", "b2")]
        assert len(set(used)) == 4
    assert not np.allclose(
        ak.to_numpy(out.a2.probability[both]), ak.to_numpy(found[False].a2.probability[both])
    )


def test_segments_have_names_and_members(checkpoint: Path, events: ak.Array) -> None:
    out = Predictor(checkpoint, heads=["segmentation"])(events).segmentation
    cloud = EventCloud.from_awkward(events, Predictor(checkpoint).schema)
    assert ak.num(out).to_numpy().max() <= 4
    names = set(ak.flatten(out.name).to_list())
    assert names
    assert names <= set(Topology.shipped("bbww").segments)
    for i in range(len(events)):
        for segment in out[i]:
            assert segment.probability > 1 / 7
            for member in segment.members:
                assert member.probability > 0.5
                assert member.index < len(events[member.collection][i])
    empty = np.asarray(cloud.n_objects == 0)
    assert (ak.num(out).to_numpy()[empty] == 0).all()


def test_invisible_particles_are_massless_momenta(checkpoint: Path, events: ak.Array) -> None:
    out = Predictor(checkpoint, heads=["invisible"], sampling=FEW)(events).invisible
    scored = ak.to_numpy(ak.num(events.Jet) > 0)
    assert out.type.content.size == 3
    np.testing.assert_allclose(ak.to_numpy(out[scored].mass), 0, atol=1e-3)
    assert (ak.to_numpy(out[scored].pt) >= -1).all()
    assert np.ptp(ak.to_numpy(out[scored].pt)[:, :, 0], axis=1).min() > 0  # samples differ


def test_neither_order_nor_company_matters(checkpoint: Path, events: ak.Array) -> None:
    heads = [head for head in EVENET_OUTPUTS if head != "segmentation"]
    predict = Predictor(checkpoint, heads=heads, process="TT1L", sampling=FEW)
    whole, reverse = predict(events), predict(events[::-1])[::-1]
    alone = ak.concatenate([predict(events[i : i + 7]) for i in range(0, len(events), 7)])
    for other in (reverse, alone):
        np.testing.assert_allclose(other.regression.mtt, whole.regression.mtt, rtol=1e-4)
        np.testing.assert_allclose(other.embedding, whole.embedding, atol=1e-4)
        np.testing.assert_allclose(other.invisible.phi, whole.invisible.phi, atol=1e-3)
        assert ak.all(
            ak.fill_none(other.assignment.t1.b.index, -1) == ak.fill_none(whole.assignment.t1.b.index, -1)
        )
    reseeded = Predictor(checkpoint, heads=["invisible"], sampling=dataclasses.replace(FEW, seed=5))(events)
    assert not np.allclose(reseeded.invisible.phi, whole.invisible.phi, equal_nan=True)


def test_no_events_have_the_type_of_events(checkpoint: Path, events: ak.Array) -> None:
    predict = pickle.loads(
        pickle.dumps(Predictor(checkpoint, heads=EVENET_OUTPUTS, process="XYH", sampling=FEW))
    )
    empty, some = predict(events[:0]), predict(events)
    assert len(empty) == 0
    assert str(empty.type).removeprefix("0 * ") == str(some.type).removeprefix("60 * ")


def test_what_cannot_be_asked_is_named(checkpoint: Path, events: ak.Array) -> None:
    with pytest.raises(PredictionError, match="process must be one of XYH, TT1L; none was named"):
        Predictor(checkpoint, heads=["assignment"])(events)
    with pytest.raises(PredictionError, match="process must be one of XYH, TT1L; found 'TT'"):
        Predictor(checkpoint, heads=["assignment"], process="TT")(events)
    with pytest.raises(PredictionError, match="has no segmentation head"):
        Predictor("demo", heads=["segmentation"])(events)
    with pytest.raises(PredictionError, match="sampling: samples must be at least 1; found 0"):
        Sampling(samples=0)
