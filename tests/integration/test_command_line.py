"""The commands as a user types them."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np
import pytest
import uproot
from rich.console import Console

from evenet_hep import EventSchema, Predictor, __version__, cli
from evenet_hep.events.parquet import TableWriter
from evenet_hep.share import find_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Branch Photon_:RuntimeWarning")


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(*words: object) -> Result:
    """Run the command line in this process: one start of torch for all tests."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["evenet-hep", *map(str, words)])
        patch.setattr(cli, "console", Console(width=200, color_system=None))
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def fails_with(result: Result, *parts: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.stderr


def test_demo(tmp_path: Path) -> None:
    result = command("demo", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/demo.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out/upsilon.png").read_bytes()[:4] == b"\x89PNG"
    # It ends with a fit: 540 of 1000 dimuons in the window.
    assert "540 pairs between 9.1 and 10.7 GeV" in " ".join(result.stdout.split())
    assert "Z = 4.1" in result.stdout
    tables = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(tables) == 4
    assert sum(len(ak.from_parquet(table)) for table in tables) == 480
    with uproot.open(tmp_path / "out/histograms.root") as file:
        top = file["ttbar_MC/TT"]
        assert top.values().sum() == 198  # one of the 200 events has a negative weight
        assert top.variances().sum() == 200
        assert top.values()[-1] > 100
        assert len(file.keys(recursive=True, filter_classname="TH1*")) == 4 * 6
    for word in ("ttbar MC", "DoubleMuon data", "events/s", "TT", "QCD"):
        assert word in result.stdout


def test_predict_and_join_back(samples: dict[str, Path], tmp_path: Path) -> None:
    result = command(
        "predict",
        samples["nano_dy"],
        samples["nano_tt_v12"],
        "--model",
        "demo",
        "--out",
        tmp_path,
        "--chunk-size",
        33,
    )
    assert result.returncode == 0, result.stderr
    assert "240 events of 2 files" in result.stdout
    table = ak.from_parquet(tmp_path / "nano_tt_v12.parquet")
    with uproot.open(samples["nano_tt_v12"]) as file:
        for name in ("run", "luminosityBlock", "event"):
            assert ak.all(table[name] == file["Events"][name].array())
        events = file["Events"].arrays(
            filter_name="/(Electron|Muon|Jet|PuppiMET)_(pt|eta|phi|mass|charge|btagPNetB)/"
        )
    expected = Predictor("demo")(events).classification
    for name in ak.fields(expected):
        np.testing.assert_allclose(table[f"classification_{name}"], expected[name], atol=1e-5, equal_nan=True)


def test_predict_from_parquet(samples: dict[str, Path], tmp_path: Path) -> None:
    with uproot.open(samples["nano_dy"]) as file:
        flat = file["Events"].arrays(
            filter_name="/(Electron|Muon|Jet|MET)_(pt|eta|phi|mass|charge|btagDeepFlavB)|event/"
        )
    ak.to_parquet(flat, tmp_path / "flat.parquet")
    records = ak.zip(
        {
            **{
                c: ak.zip({f[len(c) + 1 :]: flat[f] for f in flat.fields if f.startswith(f"{c}_")})
                for c in ("Electron", "Muon", "Jet", "MET")
            },
            "event": flat["event"],
        },
        depth_limit=1,
    )
    ak.to_parquet(records, tmp_path / "nested.parquet")
    for source in (samples["nano_dy"], tmp_path / "flat.parquet", tmp_path / "nested.parquet"):
        result = command("predict", source, "--model", "demo", "--out", tmp_path / "scores")
        assert result.returncode == 0, result.stderr
    tables = [
        ak.from_parquet(tmp_path / "scores" / f"{name}.parquet") for name in ("nano_dy", "flat", "nested")
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(table["classification_TT"], tables[0]["classification_TT"], atol=1e-6)


def test_where_chooses_collections(samples: dict[str, Path], tmp_path: Path) -> None:
    words = ("--where", "leptons=Muon", "--where", "met=PuppiMET", "--where", "btag=btagDeepB:0.4184")
    result = command("predict", samples["nano_dy"], "--model", "demo", "--out", tmp_path, *words)
    assert result.returncode == 0, result.stderr
    fails_with(
        command("predict", samples["nano_dy"], "--model", "demo", "--out", tmp_path, "--where", "jets"),
        "KEY=NAME",
    )


def test_an_empty_tree_gives_an_empty_table(tmp_path: Path) -> None:
    columns = {
        f"{c}_{f}": ak.Array([[1.0], []])[1:]
        for c in ("Electron", "Muon", "Jet")
        for f in ("pt", "eta", "phi", "mass", "charge", "btagDeepFlavB")
    }
    with uproot.recreate(tmp_path / "none.root") as file:
        file["Events"] = {
            **columns,
            "MET_pt": np.ones(1),
            "MET_phi": np.ones(1),
            "event": np.ones(1, np.int64),
        }
        file.mktree(
            "Nothing",
            {
                "event": np.int64,
                "MET_pt": np.float32,
                "MET_phi": np.float32,
                **dict.fromkeys(columns, "var * float32"),
            },
        )
    result = command(
        "predict", tmp_path / "none.root", "--tree", "Nothing", "--model", "demo", "--out", tmp_path / "out"
    )
    assert result.returncode == 0, result.stderr
    table = ak.from_parquet(tmp_path / "out/none.parquet")
    assert len(table) == 0
    assert "classification_TT" in table.fields
    result = command("predict", tmp_path / "none.root", "--model", "demo", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert np.isnan(ak.from_parquet(tmp_path / "out/none.parquet")["classification_TT"]).to_list() == [True]


def test_bad_files_get_one_sentence(samples: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.root").write_text("not a ROOT file")
    (tmp_path / "empty.root").write_bytes(b"")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    out = tmp_path / "out"

    def predict(*words: object) -> Result:
        return command("predict", *words, "--model", "demo", "--out", out)

    fails_with(predict(tmp_path / "absent.root"), "no such file", "absent.root")
    fails_with(predict(tmp_path / "text.root"), "neither a ROOT nor a Parquet file")
    fails_with(predict(tmp_path / "empty.root"), "neither a ROOT nor a Parquet file")
    fails_with(predict(tmp_path / "broken.parquet"), "cannot be read as Parquet")
    fails_with(predict(tmp_path), "cannot be opened")
    fails_with(predict(samples["nano_dy"], "--tree", "Event"), "has no tree 'Event'; nearest: 'Events'")
    fails_with(predict(samples["nano_dy"], "--where", "jets=Jets"), "no collection 'Jets'; nearest: 'Jet'")
    fails_with(predict(samples["nano_dy"], samples["nano_dy"]), "listed more than once")
    fails_with(
        command("predict", samples["nano_dy"], "--model", tmp_path / "none", "--out", out),
        "neither a folder nor",
    )
    assert not out.exists()


def damaged(source: Path, target: Path) -> Path:
    """A copy whose header is whole and whose baskets are not: it opens and fails while reading."""
    content = bytearray(source.read_bytes())
    with uproot.open(source) as file:
        branch = file["Events"]["Jet_pt"]
        start, length = branch.member("fBasketSeek")[0], branch.member("fBasketBytes")[0]
    content[start + 60 : start + length] = b"\xff" * (length - 60)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("how", ["damaged", "cut short"])
def test_a_corrupt_file_in_the_middle(samples: dict[str, Path], tmp_path: Path, how: str) -> None:
    bad = tmp_path / "bad.root"
    if how == "damaged":
        damaged(samples["nano_tt_v12"], bad)
    else:
        bad.write_bytes(samples["nano_2015_wjets"].read_bytes()[:200_000])
    files = (samples["nano_dy"], bad, samples["nano_dimuon"])
    fails_with(
        command("predict", *files, "--model", "demo", "--out", tmp_path / "strict"),
        "bad.root",
        "cannot be read",
    )
    left = [path.name for path in (tmp_path / "strict").glob("*")] if (tmp_path / "strict").exists() else []
    assert left in ([], ["nano_dy.parquet"])
    if left:
        assert len(ak.from_parquet(tmp_path / "strict/nano_dy.parquet")) == 40
    result = command("predict", *files, "--model", "demo", "--out", tmp_path / "lenient", "--skip-bad")
    assert result.returncode == 0, result.stderr
    assert "80 events of 2 files" in result.stdout
    assert "skipped" in result.stdout
    assert "bad.root" in result.stdout
    assert sorted(path.name for path in (tmp_path / "lenient").iterdir()) == [
        "nano_dimuon.parquet",
        "nano_dy.parquet",
    ]
    only_bad = command("predict", bad, "--model", "demo", "--out", tmp_path / "none", "--skip-bad")
    assert only_bad.returncode == 1


def test_missing_branch_and_bad_values(tmp_path: Path) -> None:
    one = ak.Array([[30.0, 20.0], [50.0]])
    columns = {
        f"{c}_{f}": one
        for c in ("Electron", "Muon", "Jet")
        for f in ("pt", "eta", "phi", "mass", "charge", "btagDeepFlavB")
    }
    columns |= {"MET_pt": np.ones(2), "MET_phi": np.ones(2)}

    def predict(name: str, table: dict[str, object]) -> Result:
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            file["Events"] = table
        return command("predict", tmp_path / f"{name}.root", "--model", "demo", "--out", tmp_path / "out")

    without = {("Jet_Mass" if name == "Jet_mass" else name): values for name, values in columns.items()}
    fails_with(predict("missing", without), "no branch 'Jet_mass'; nearest: 'Jet_Mass'")
    fails_with(
        predict("nan", {**columns, "Jet_pt": ak.Array([[30.0, 20.0], [np.nan]])}),
        "Jet['pt'] of event 1, object 0",
        "found nan",
    )
    fails_with(
        predict("negative", {**columns, "Muon_pt": ak.Array([[30.0, -2.0], [5.0]])}),
        "Muon['pt'] of event 0, object 1",
        "found -2",
    )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_schema(samples: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text(EventSchema.published().to_json())
    words = ("predict", samples["nano_dy"], "--out", tmp_path / "out")
    fails_with(
        command(*words, "--model", "demo", "--schema", tmp_path / "published.json"),
        "is not that of the model demo",
    )
    (tmp_path / "wrong.json").write_text("{}")
    fails_with(command(*words, "--model", "demo", "--schema", tmp_path / "wrong.json"), "wrong.json")
    good = command(*words, "--model", "demo", "--schema", find_checkpoint("demo") / "schema.json")
    assert good.returncode == 0, good.stderr
    other = tmp_path / "other"
    shutil.copytree(find_checkpoint("demo"), other)
    schema = EventSchema.from_file(other / "schema.json")
    (other / "schema.json").write_text(
        EventSchema(schema.objects[:-1], schema.event_features, 18, schema.classes).to_json()
    )
    fails_with(command(*words, "--model", other), "other")


def test_inspect(samples: dict[str, Path]) -> None:
    result = command("inspect", samples["nano_dy"])
    assert result.returncode == 0, result.stderr
    for word in ("ROOT, 40 events", "Jet.btagDeepFlavB > 0.2489", "MET.pt", "computed from the objects"):
        assert word in result.stdout
    lacking = command("inspect", samples["nano_dy"], "--where", "taus=Taus")
    assert lacking.returncode == 1
    assert "no collection Taus" in lacking.stdout
    model = command("inspect", "demo")
    assert model.returncode == 0
    for word in ("TT, ST, WJets, ZJets, VV, QCD", "periodic", "A demonstration, not a measurement"):
        assert word in model.stdout
    fails_with(command("inspect", "absent.root"), "no such file")


def test_version_and_help() -> None:
    assert f"evenet-hep {__version__}" in command("--version").stdout
    for words in ((), ("predict",), ("demo",), ("inspect",)):
        assert "--help" in command(*words, "--help").stdout


def test_the_installed_command_ends_with_a_code(tmp_path: Path) -> None:
    program = shutil.which("evenet-hep", path=str(Path(sys.executable).parent))
    assert program is not None
    words = [program, "predict", str(tmp_path / "absent.root"), "--model", "demo", "--out", str(tmp_path)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    fails_with(Result(result.returncode, result.stdout, result.stderr), "no such file")


def test_tables_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with TableWriter(tmp_path / "t.parquet") as table:
            table.append({"event": np.arange(3)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
