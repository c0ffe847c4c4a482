"""PHYSLITE and Delphes records read like NanoAOD: units, names, b-tags, generated particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from evenet_hep import EventCloud, EventSchema
from evenet_hep.errors import InputError
from evenet_hep.events.delphes import DELPHES, delphes_events
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.physlite import physlite_events
from evenet_hep.events.truth import label_events
from evenet_hep.topology import Topology

SCHEMA = EventSchema.standard()

# A semileptonic top pair: PID, M1, Status, PT, Eta, Phi, Mass.
PARTICLES = [
    (2212, -1, 4, 0.0, 999.9, 0.0, 0.938),
    (6, 0, 22, 50.0, 0.5, 0.0, 172.5),
    (-6, 0, 22, 50.0, -0.5, 3.1, 172.5),
    (24, 1, 22, 40.0, 0.5, 1.0, 80.4),
    (5, 1, 23, 60.0, 1.0, -1.0, 4.8),
    (-24, 2, 22, 40.0, -0.5, 2.0, 80.4),
    (-5, 2, 23, 55.0, -1.0, -2.0, 4.8),
    (-13, 3, 23, 45.0, 0.0, 1.5, 0.1),
    (14, 3, 23, 30.0, 1.5, 0.3, 0.0),
    (1, 5, 23, 35.0, -1.5, 2.5, 0.3),
    (-2, 5, 23, 33.0, 0.0, 3.0, 0.3),
]
JETS = [
    (60.0, 1.0, -1.0, 8.0, 1),
    (55.0, -1.0, -2.0, 8.0, 3),
    (35.0, -1.5, 2.5, 6.0, 0),
    (33.0, 0.0, 3.0, 6.0, 2),
]


def delphes_columns() -> dict[str, ak.Array]:
    particle = ak.Array([PARTICLES, []])
    jet = ak.Array([JETS, []])
    columns = {
        f"Particle.{name}": particle[str(i)]
        for i, name in enumerate(("PID", "M1", "Status", "PT", "Eta", "Phi", "Mass"))
    }
    columns |= {f"Jet.{name}": jet[str(i)] for i, name in enumerate(("PT", "Eta", "Phi", "Mass", "BTag"))}
    muon = {"PT": [[45.0], []], "Eta": [[0.01], []], "Phi": [[1.5], []], "Charge": [[1], []]}
    columns |= {f"Muon.{name}": ak.Array(values) for name, values in muon.items()}
    columns |= {f"Electron.{name}": ak.Array(values)[:, :0] for name, values in muon.items()}
    columns |= {"MissingET.MET": ak.Array([[28.0], [5.0]]), "MissingET.Phi": ak.Array([[0.4], [1.0]])}
    kinds = {"PID": np.int32, "M1": np.int32, "Status": np.int32, "Charge": np.int32, "BTag": np.uint32}
    return {
        name: ak.values_astype(values, kinds.get(name.split(".")[1], np.float32))
        for name, values in columns.items()
    }


def check_delphes(events: ak.Array) -> None:
    found = delphes_events(events, collections=["Electron", "Muon", "Jet", "MET", "GenPart"])
    cloud = EventCloud.from_awkward(found, SCHEMA, branches=DELPHES)
    assert cloud.n_objects.tolist() == [5, 0]
    values = dict(zip(SCHEMA.event_names, cloud.event_features[0], strict=True))
    assert values["met"] == pytest.approx(28.0)
    assert (values["n_jet"], values["n_bjet"], values["n_lepton"]) == (4, 2, 1)
    charge = cloud.objects[0, :, SCHEMA.object_names.index("charge")]
    assert charge[:5].tolist() == [0, 0, 1, 0, 0]
    topology = Topology.published()
    truth = label_events(found, cloud, topology)
    assert truth.labels.process.tolist() == [0, -1]  # TT1L
    assert truth.labels.indices[0, :2].tolist() == [[1, 3, 4], [0, 2, -1]]


def test_delphes_columns() -> None:
    check_delphes(ak.zip(delphes_columns(), depth_limit=1))


def test_delphes_records() -> None:
    records: dict[str, dict[str, ak.Array]] = {}
    for name, values in delphes_columns().items():
        collection, field = name.split(".")
        records.setdefault(collection, {})[field] = values
    events = ak.zip({name: ak.zip(columns) for name, columns in records.items()}, depth_limit=1)
    check_delphes(events)
    check_delphes(ak.with_field(events, events["MissingET"][:, 0], "MissingET"))  # as coffea has it


def test_a_delphes_file(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "delphes.root") as file:
        columns = delphes_columns()
        tree = file.mktree("Delphes", {name: values.type.content for name, values in columns.items()})
        tree.extend(columns)
    check_delphes(uproot.open(tmp_path / "delphes.root")["Delphes"].arrays(list(columns)))


def test_the_bit_of_the_b_tag() -> None:
    events = ak.zip(delphes_columns(), depth_limit=1)
    jets = [
        delphes_events(events, collections=["Jet"], btag_bit=bit)["Jet"]["btag"].to_list()
        for bit in (0, 1, 2)
    ]
    assert jets == [[[1, 1, 0, 0], []], [[0, 1, 0, 1], []], [[0, 0, 0, 0], []]]


def test_what_delphes_lacks() -> None:
    events = ak.zip(delphes_columns(), depth_limit=1)
    with pytest.raises(InputError, match=r"collections of Delphes are Electron, .*; found 'Tau'"):
        delphes_events(events, collections=["Tau"])
    with pytest.raises(InputError, match="the events have no collection 'Photon'"):
        delphes_events(events, collections=["Photon"])
    with pytest.raises(InputError, match="Jet has no field 'BTag'"):
        delphes_events(ak.without_field(events, "Jet.BTag"), collections=["Jet"])
    missing = ak.with_field(events, ak.Array([[], [5.0]]), "MissingET.MET")
    with pytest.raises(InputError, match="MissingET of event 0 must have one entry; found 0"):
        delphes_events(missing, collections=["MET"])


# --- PHYSLITE ----------------------------------------------------------------------------------------------------


def physlite_columns() -> dict[str, ak.Array]:
    jets = "AnalysisJetsAuxDyn"
    tags = "BTagging_AntiKt4EMPFlowAuxDyn"
    columns: dict[str, Any] = {
        f"{jets}.pt": [[60e3, 30e3], []],
        f"{jets}.eta": [[1.0, -1.0], []],
        f"{jets}.phi": [[0.5, 0.7], []],
        f"{jets}.m": [[8e3, 5e3], []],
        f"{tags}.DL1dv01_pb": [[0.9, 0.0], []],
        f"{tags}.DL1dv01_pc": [[0.08, 0.2], []],
        f"{tags}.DL1dv01_pu": [[0.02, 0.8], []],
    }
    for name in ("Electrons", "Muons"):
        count = 1 if name == "Muons" else 0
        for field, value in (("pt", 45e3), ("eta", 0.1), ("phi", 0.2), ("m", 0.5), ("charge", -1.0)):
            if (name, field) != ("Muons", "m"):
                columns[f"Analysis{name}AuxDyn.{field}"] = [[value] * count, []]
    return {name: ak.values_astype(ak.Array(values), np.float32) for name, values in columns.items()}


def test_physlite_units_and_tags() -> None:
    events = physlite_events(ak.zip(physlite_columns(), depth_limit=1))
    assert events["Jet"]["pt"].to_list() == [pytest.approx([60.0, 30.0]), []]
    assert events["Jet"]["mass"].to_list() == [pytest.approx([8.0, 5.0]), []]
    assert events["Muon"]["mass"].to_list() == [pytest.approx([0.1056584]), []]
    expected = np.log(0.9 / (0.018 * 0.08 + 0.982 * 0.02))
    assert events["Jet"]["btagDL1dv01"][0, 0] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(events["Jet"]["btagDL1dv01"][0, 1])  # of a probability of zero
    met = ak.Array([{"pt": 20.0, "phi": 0.1}, {"pt": 10.0, "phi": 0.2}])
    cloud = EventCloud.from_awkward(
        events, SCHEMA, branches=Branches(btag="btagDL1dv01", working_point=2.0), met=met
    )
    values = dict(zip(SCHEMA.event_names, cloud.event_features[0], strict=True))
    assert (values["n_jet"], values["n_bjet"], values["n_lepton"]) == (2, 1, 1)
    assert values["ht"] == pytest.approx(90.0)


def test_what_physlite_lacks() -> None:
    columns = physlite_columns()
    events = ak.zip(columns, depth_limit=1)
    with pytest.raises(InputError, match="taggers of PHYSLITE are DL1dv01, GN2v00; found 'MV2'"):
        physlite_events(events, taggers=["MV2"])
    with pytest.raises(InputError, match=r"collections of PHYSLITE are Electron, .*; found 'MET'"):
        physlite_events(events, collections=["MET"])
    with pytest.raises(
        InputError, match="BTagging_AntiKt4EMPFlow has no field 'GN2v00_pb'; it has DL1dv01_pb, DL1dv01_pc"
    ):
        physlite_events(events, taggers=["GN2v00"])
    with pytest.raises(
        InputError, match="the events have neither 'TauJets' nor branches AnalysisTauJetsAuxDyn"
    ):
        physlite_events(events, collections=["Tau"])
    with pytest.raises(InputError, match="Jets has no field 'm'"):
        physlite_events(ak.without_field(events, "AnalysisJetsAuxDyn.m"))
    tags = {name: values[:, :1] if "BTagging" in name else values for name, values in columns.items()}
    with pytest.raises(InputError, match="must hold one entry per jet; found 1 for 2 jets"):
        physlite_events(ak.zip(tags, depth_limit=1))


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_a_real_physlite_file(shared_data: Path) -> None:
    from coffea.nanoevents import NanoEventsFactory, PHYSLITESchema  # noqa: PLC0415  a second

    path = shared_data / "real" / "PHYSLITE_example.root"
    prefixes = ("AnalysisElectrons", "AnalysisMuons", "AnalysisJets", "BTagging_AntiKt4EMPFlow")
    names = [
        f"{prefix}AuxDyn.{name}" for prefix in prefixes[:3] for name in ("pt", "eta", "phi", "m", "charge")
    ]
    names += [
        f"{prefixes[3]}AuxDyn.{tagger}_p{flavour}" for tagger in ("DL1dv01", "GN2v00") for flavour in "bcu"
    ]
    tree = uproot.open(path)["CollectionTree"]
    flat = tree.arrays([name for name in names if name in tree])
    log: list[Any] = []
    virtual = NanoEventsFactory.from_root(
        {str(path): "CollectionTree"}, schemaclass=PHYSLITESchema, mode="virtual", access_log=log
    ).events()
    taggers = ("DL1dv01", "GN2v00")
    records = [physlite_events(events, taggers=taggers) for events in (flat, virtual)]
    assert len({access.branch for access in log}) < 40  # of some two thousand
    for name in ("Electron", "Muon", "Jet"):
        assert records[0][name].to_list() == records[1][name].to_list()
    met = ak.zip({"pt": np.full(100, 20.0), "phi": np.zeros(100)})
    branches = Branches(btag="btagGN2v00", working_point=1.0)
    cloud = EventCloud.from_awkward(records[0], SCHEMA, branches=branches, met=met)
    pt = cloud.objects[..., SCHEMA.object_names.index("pt")][cloud.mask]
    assert 1 < np.median(pt) < 100  # GeV, not MeV
    assert 0 < cloud.event_features[:, SCHEMA.event_names.index("n_bjet")].mean() < 4
