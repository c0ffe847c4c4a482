"""NanoAOD to training files: the same events as on the road of prediction, and the same files after any accident."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import awkward as ak
import dask
import numpy as np
import psutil  # comes with distributed
import pytest
import uproot
from typer.testing import CliRunner

from evenet_hep.cli import app
from evenet_hep.conversion import convert
from evenet_hep.errors import ConfigError, FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.object_selection import select_objects
from evenet_hep.events.sources import Source, parse_sources
from evenet_hep.events.training_chunks import Settings
from evenet_hep.events.training_files import Layout
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.events.truth import label_events
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

SMALL = Settings(select=True, chunk_size=100)


def sources(samples: dict[str, Path]) -> list[Source]:
    return [
        Source("tt", "TT", (str(samples["nano_tt_v12"]),), ("TT1L", "TT2L", "TTHadronics")),
        Source("w", "WJets", (str(samples["nano_2015_wjets"]),), cross_section=61526.7),
        Source("dy", "ZJets", (str(samples["nano_dy"]),), weight=2.0, sum_weight=5.0, cross_section=6025.2),
    ]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    from evenet_hep.share import sample_files  # noqa: PLC0415

    samples = {path.stem: path for path in sample_files().values()}
    folder = tmp_path_factory.mktemp("converted") / "set"
    done = convert(sources(samples), folder, topology=Topology.published(), settings=SMALL)
    assert (done.n_converted, done.n_kept) == (440, 0)
    return done.training_set


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_events_are_those_of_the_predictor(converted: TrainingSet, samples: dict[str, Path]) -> None:
    """Selection, cloud and labels of coffea's NanoEvents, event by event."""
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory  # noqa: PLC0415

    NanoAODSchema.warn_missing_crossrefs = False
    events = NanoEventsFactory.from_root(
        {samples["nano_tt_v12"]: "Events"}, schemaclass=NanoAODSchema, mode="eager"
    ).events()
    cloud = EventCloud.from_awkward(events, EventSchema.standard(), collections=select_objects(events))
    candidates = ("TT1L", "TT2L", "TTHadronics")
    labels = label_events(events, cloud, Topology.published(), candidates=candidates).labels
    numbers = {int(e): i for i, e in enumerate(ak.to_numpy(events.event))}
    seen = 0
    for split in converted.splits:
        found = converted.events(split)
        batch = next(converted.batches(split, found.n_events, shuffle=False, bucket=False))
        for row in np.flatnonzero(batch.label == 0):
            i = numbers[int(found.event[row])]
            np.testing.assert_array_equal(
                batch.objects[row][batch.mask[row]], cloud.objects[i][cloud.mask[i]]
            )
            np.testing.assert_array_equal(batch.event_features[row], cloud.event_features[i])
            assert batch.process[row] == labels.process[i]
            np.testing.assert_array_equal(batch.indices[row], labels.indices[i])
            np.testing.assert_array_equal(batch.invisible[row], labels.invisible[i])
            seen += 1
    assert seen == 200
    assert (labels.indices >= 0).any()


def test_weights_add_up_to_the_cross_section(converted: TrainingSet, samples: dict[str, Path]) -> None:
    weights: dict[str, float] = {}
    for split in converted.splits:
        for name, count in converted.counts(split).items():
            weights[name] = weights.get(name, 0.0) + count.weight
    assert weights["WJets"] == pytest.approx(61526.7, rel=1e-5)
    generator = uproot.open(samples["nano_dy"])["Events"]["genWeight"].array(library="np").sum()
    assert weights["ZJets"] == pytest.approx(2 * 6025.2 / 5 * generator, rel=1e-5)
    assert converted.schema.classes == ("TT", "WJets", "ZJets")


def test_events_before_a_skim_count(tmp_path: Path, shared_data: Path) -> None:
    """1608 of 14800 generated events are in the file; the weights add up to their share of the cross-section."""
    source = Source("haa", "haa", (str(shared_data / "fastsim" / "haa4b_m30_4j.root"),), cross_section=10.0)
    found = convert([source], tmp_path / "set", splits={"all": 1.0}).training_set
    assert found.counts("all")["haa"].weight == pytest.approx(10 * 1608 / 14800, rel=1e-5)


def test_cores_and_dask_give_the_same_files(
    converted: TrainingSet, samples: dict[str, Path], tmp_path: Path
) -> None:
    from distributed import LocalCluster  # noqa: PLC0415

    expected = contents(converted.folder)
    options: dict[str, Any] = {"topology": Topology.published(), "settings": SMALL}
    convert(sources(samples), tmp_path / "cores", cores=2, **options)
    assert contents(tmp_path / "cores") == expected
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        convert(sources(samples), tmp_path / "dask", scheduler=cluster.scheduler_address, **options)
    assert contents(tmp_path / "dask") == expected


KILLED = """
import sys, os, signal
from pathlib import Path
import evenet_hep.events.training_files as files
from evenet_hep.cli import main
written = 0
write = files.pq.write_table
def die(*args, **options):  # in the middle of the third part
    global written
    written += 1
    write(*args, **options)
    if written == 3:
        path = Path(args[1])
        path.write_bytes(path.read_bytes()[:500])
        os.kill(os.getpid(), signal.SIGKILL)
files.pq.write_table = die
main()
"""


def words(samples: dict[str, Path], out: Path) -> list[str]:
    named = [f"TT={samples['nano_tt_v12']}", f"WJets={samples['nano_2015_wjets']}"]
    return ["convert", *named, "--topology", "pretraining", "--chunk-size", "100", "--out", str(out)]


def test_a_killed_conversion_goes_on(samples: dict[str, Path], tmp_path: Path) -> None:
    whole = CliRunner().invoke(app, words(samples, tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words(samples, folder)], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.glob("part-*.parquet"))) == 2
    assert len(list(folder.glob(".*.partial"))) == 1
    with pytest.raises(FileError, match="stopped after 2 parts; run it again with --resume"):
        TrainingSet.open(folder)
    again = CliRunner().invoke(app, words(samples, folder))
    assert isinstance(again.exception, ConfigError)
    assert "use --resume to go on with it" in str(again.exception)
    other = CliRunner().invoke(app, [*words(samples, folder), "--resume", "--select"])
    assert isinstance(other.exception, ConfigError)
    assert "has another settings" in str(other.exception)
    before = (folder / "part-00000.parquet").stat().st_mtime_ns
    resumed = CliRunner().invoke(app, [*words(samples, folder), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "200 events converted" in resumed.output
    assert "200 were there already" in resumed.output
    assert (folder / "part-00000.parquet").stat().st_mtime_ns == before
    assert contents(folder) == contents(tmp_path / "whole")


def test_killed_at_any_moment(samples: dict[str, Path], tmp_path: Path) -> None:
    """Killed from outside: what stands under its name is whole, and no process is left that waits for work."""
    folder = tmp_path / "set"
    command = [sys.executable, "-m", "evenet_hep.cli", *words(samples, folder), "--cores", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.glob("part-*.json")):
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    for path in folder.glob("part-*.parquet"):
        assert len(ak.from_parquet(path)) > 0
    done = CliRunner().invoke(app, [*words(samples, folder), "--resume"])
    assert done.exit_code == 0, done.output
    TrainingSet.open(folder, verify=True)


def test_a_full_disk_is_one_sentence(
    samples: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415

    write, written = pq.write_table, []

    def full(table: Any, where: Any, **options: Any) -> None:
        write(table, where, **options)
        written.append(where)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    folder = tmp_path / "set"
    found = CliRunner().invoke(app, words(samples, folder))
    assert isinstance(found.exception, FileError)
    expected = "part-00001.parquet: No space left on device; 1 of 4 parts are complete: mend it and run again with --resume"
    assert str(found.exception).endswith(expected)
    assert not list(folder.glob(".*"))
    assert len(list(folder.glob("part-*.parquet"))) == 1
    done = CliRunner().invoke(app, [*words(samples, folder), "--resume"])
    assert done.exit_code == 0, done.output


LIMITED = """
import resource, signal, sys
from evenet_hep.cli import main
import evenet_hep.conversion as conversion
begin = conversion._begin
def limited(*args, **options):  # a real refusal of the system, once the plan is written
    begin(*args, **options)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
conversion._begin = limited
main()
"""


def test_the_limit_of_the_system_is_one_sentence(samples: dict[str, Path], tmp_path: Path) -> None:
    program = [sys.executable, "-c", LIMITED, *words(samples, tmp_path / "set")]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "File too large; 0 of 4 parts are complete: mend it and run again with --resume" in line
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["conversion.json"]


def test_mistakes_are_one_sentence_before_anything_is_written(
    samples: dict[str, Path], tmp_path: Path
) -> None:
    nano, out = str(samples["nano_tt_v12"]), tmp_path / "set"
    schema = EventSchema.standard(classes=("TT", "QCD"))
    with pytest.raises(ConfigError, match="class 'WJet', which the schema lacks; it has QCD, TT"):
        convert([Source("w", "WJet", (nano,))], out, schema=schema)
    with pytest.raises(ConfigError, match="names the process TT3L; nearest: 'TT"):
        convert([Source("t", "TT", (nano,), ("TT3L",))], out, topology=Topology.published())
    with pytest.raises(ConfigError, match="names the process TT1L; it has no fields"):
        convert([Source("t", "TT", (nano,), ("TT1L",))], out)
    with pytest.raises(
        ConfigError, match="either cores or a scheduler is given; found cores 2 and the scheduler"
    ):
        convert([Source("t", "TT", (nano,))], out, cores=2, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"add up to 1; found train 0\.5"):
        convert([Source("t", "TT", (nano,))], out, splits={"train": 0.5})
    with pytest.raises(FileError, match="no such file"):
        convert([Source("t", "TT", (nano, "absent.root"))], out)
    data = str(samples["nano_dimuon"])
    with pytest.raises(InputError, match=r"nano_dimuon.root has no branch 'GenPart_pt'"):
        convert([Source("t", "TT", (data,), ("TT1L",))], out, topology=Topology.published())
    assert not out.exists()
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(FileError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        convert([Source("t", "TT", (nano,))], out, scheduler="tcp://127.0.0.1:1")


def test_events_without_truth_have_no_process(samples: dict[str, Path], tmp_path: Path) -> None:
    source = Source("data", "", (str(samples["nano_dimuon"]),))
    found = convert(
        [source], tmp_path / "set", topology=Topology.published(), splits={"all": 1.0}
    ).training_set
    batch = next(found.batches("all", 40))
    assert set(batch.label) == set(batch.process) == {-1}
    assert set(batch.weight) == {1}
    assert batch.indices.shape[1:] == (3, 3)
    assert (batch.indices == -1).all()


def test_bad_events_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.root"
    jets = ak.zip(
        {name: ak.Array([[1.0], [np.nan]]) for name in ("pt", "eta", "phi", "mass", "btagDeepFlavB")}
    )
    empty = ak.zip({name: ak.Array([[1.0], []]) for name in ("pt", "eta", "phi", "mass", "charge")})
    with uproot.recreate(path) as file:
        file["Events"] = {
            "Jet": jets,
            "Electron": empty,
            "Muon": empty,
            "MET_pt": [1.0, 2.0],
            "MET_phi": [0.0, 0.0],
        }
    with pytest.raises(InputError, match=r"bad.root, in the events from 0 on .*Jet\['pt'\] of event 1"):
        convert([Source("a", "a", (str(path),))], tmp_path / "set")


def test_records_with_the_features_of_the_schema(tmp_path: Path) -> None:
    """A Parquet file that a processor wrote, without identifiers: the entry takes their place."""
    schema = EventSchema.standard()
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, 30)
    objects = {
        name: ak.unflatten(rng.random(counts.sum()).astype(np.float32), counts)
        for name in schema.object_names
    }
    records = ak.zip(
        {"objects": ak.zip(objects), **{n: rng.random(30).astype(np.float32) for n in schema.event_names}},
        depth_limit=1,
    )
    ak.to_parquet(records, tmp_path / "records.parquet", row_group_size=8)
    source = Source("a", "a", (str(tmp_path / "records.parquet"),))
    settings = Settings(chunk_size=11)
    found = convert([source], tmp_path / "set", splits={"all": 1.0}, settings=settings).training_set
    events = found.events("all")
    order = np.argsort(events.event)
    assert events.event[order].tolist() == list(range(30))
    np.testing.assert_array_equal(events.event_features[order, 0], records.met)


def test_samples_in_a_yaml_file(samples: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(samples["nano_tt_v12"], tmp_path / "tt_0.root")
    shutil.copy(samples["nano_tt_v12"], tmp_path / "tt_1.root")
    text = "tt: {class: TT, files: 'tt_*.root', processes: [TT1L], cross_section: 365.3}\ndata: {class: null, files: [tt_0.root]}\n"
    (tmp_path / "samples.yaml").write_text(text)
    first, second = parse_sources([str(tmp_path / "samples.yaml")])
    assert first == Source(
        "tt", "TT", (str(tmp_path / "tt_0.root"), str(tmp_path / "tt_1.root")), ("TT1L",), 365.3
    )
    assert (second.label, second.processes) == ("", None)
    for wrong, message in {
        "tt: {files: [a.root], xsec: 3}": "sample 'tt' has unknown key xsec; allowed are class, cross_section",
        "tt: {class: TT}": "sample 'tt' must have files",
        "- a": "must map the name of every sample",
        "tt: {files: [a.root], cross_section: -3}": "cross_section must be a number above 0; found -3",
        "tt: {files: [a.root], processes: TT1L}": "processes must be a list of names",
        "tt: {files: ['b_*.root']}": "no file matches",
    }.items():
        (tmp_path / "wrong.yaml").write_text(wrong)
        with pytest.raises((ConfigError, FileError), match=message):
            parse_sources([str(tmp_path / "wrong.yaml")])
    with pytest.raises(
        ConfigError, match=r"CLASS=FILE\[,FILE\], a YAML file or a folder .*; found 'tt.root'"
    ):
        parse_sources(["tt.root"])
    with pytest.raises(ConfigError, match="a is there more than once"):
        parse_sources(["a=b.root", "a=c.root"])


def test_a_folder_of_simulated_events(samples: dict[str, Path], tmp_path: Path) -> None:
    """The list of samples that ``evenet-hep simulate`` leaves: class, process, files and cross-sections."""
    (tmp_path / "TT1L").mkdir()
    shutil.copy(samples["nano_tt_v12"], tmp_path / "TT1L" / "TT1L_0000.root")
    one = {"process": "TT1L", "class": "TT", "files": ["TT1L/TT1L_0000.root"], "cross_section_pb": 150.0}
    listed = {
        "TT1L": {**one, "reference_pb": 365.3},
        "qcd": {**one, "process": "qcd_bb", "reference_pb": None},
    }
    (tmp_path / "dataset.json").write_text(json.dumps({"samples": listed}))
    first, second = parse_sources([str(tmp_path)], processes=["TT1L", "TT2L"])
    file = str(tmp_path / "TT1L" / "TT1L_0000.root")
    assert first == Source("TT1L", "TT", (file,), ("TT1L",), 365.3)
    assert second == Source("qcd", "TT", (file,), None, 150.0)
    (tmp_path / "dataset.json").write_text('{"format": 1}')
    with pytest.raises(
        FileError, match=r"is not a folder of simulated events: dataset\.json has no list of samples"
    ):
        parse_sources([str(tmp_path)])


def test_what_is_known_stands_in_the_files(converted: TrainingSet, samples: dict[str, Path]) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415

    metadata = json.loads(pq.read_schema(converted.folder / "part-00001.parquet").metadata[b"evenet_hep"])
    assert metadata["source"] == "tt"
    assert metadata["provenance"] == {"file": str(samples["nano_tt_v12"]), "start": 100, "stop": 200}
    layout = Layout.from_dict(metadata)
    assert (layout.schema, layout.topology) == (converted.given_schema, converted.topology)
    assert set(converted.provenance) >= {"evenet_hep", "settings"}
    assert converted.sources["w"]["cross_section"] == 61526.7
