"""``evenet-hep jets`` as a user types it: from nothing to results, and going on after a stop."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from rich.console import Console

from evenet_hep import Predictor, cli
from evenet_hep.cli import jets as jets_command
from evenet_hep.cli import simulate as simulate_command
from evenet_hep.errors import FileError, InputError
from evenet_hep.events.jet_files import (
    JetSelection,
    find_files,
    labels_of,
    read_jet_pairs,
    read_jets,
    statistics_of_jets,
)
from evenet_hep.events.jets import jet_schema
from evenet_hep.jet_studies.classify import classify_jets
from evenet_hep.jet_studies.generate import generate_jets
from evenet_hep.jet_studies.shared import JetRun
from evenet_hep.training.jets import JetTrainingConfig

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")


def command(*words: object) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["evenet-hep", "jets", *map(str, words)])
        for module in (jets_command, simulate_command):
            patch.setattr(module, "console", Console(width=160, color_system=None))
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return (code if isinstance(code, int) else 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tops and quarks of the same pT, dijets and a resonance."""
    out = tmp_path_factory.mktemp("jets") / "data"
    words = ["jet_top:pt_min=500,pt_max=600", "jet_quark:pt_min=500,pt_max=600", "dijets:pt_min=600,m_min=1500,events=200", "abc:m_a=2000,m_b=200,m_c=100"]  # fmt: skip
    code, text, err = command("simulate", *words, "--events", 60, "--out", out, "--seed", 3)
    assert code == 0, err
    assert "jet_top_pt_min500_pt_max600" in text
    return out


def tops_and_quarks(data: Path) -> list[Path]:
    return [next(data.glob(f"jet_{kind}*")) for kind in ("top", "quark")]


def test_list_and_what_is_missing(tmp_path: Path) -> None:
    code, out, _ = command("simulate", "--list")
    assert code == 0
    for word in ("jet_quark", "jet_gluon", "jet_top", "jet_W", "jet_Z", "jet_H", "dijets", "m_a=3500"):
        assert word in out
    code, _, err = command("simulate", "jet_top", "--events", 5)
    assert (code, "name at least one process and a folder" in err) == (1, True)
    code, _, err = command(
        "classify", tmp_path, "--class", "top", "--class", "quark", "--out", tmp_path / "x"
    )
    assert (code, "neither a ROOT file nor a folder with ROOT files" in err) == (1, True)


def test_tables_of_jets(data: Path) -> None:
    schema = jet_schema(classes=("top", "quark"), capacity=40)
    files = [path for folder in tops_and_quarks(data) for path in find_files(folder)]
    table = read_jets(files, schema, JetSelection(min_pt=400, max_pt=700))
    assert 180 < len(table.truth) <= 240
    assert table.event.max() < 120
    assert ((table.momentum[:, 0] > 400) & (table.momentum[:, 0] < 700)).all()
    assert table.cloud.event_features[:, 2] == pytest.approx(table.momentum[:, 3], rel=1e-5)
    assert table.substructure[:, 4].tolist() == table.cloud.event_features[:, 3].tolist()
    label = labels_of(table.truth, schema.classes)
    mass = table.substructure[:, 1]
    assert np.median(mass[label == 0]) > 3 * np.median(mass[label == 1])
    found = statistics_of_jets(table.cloud)
    assert found["multiplicity"][0] == pytest.approx(table.substructure[:, 4].mean())
    # The columns that are stored are those that would be computed.
    from evenet_hep.events import jet_files  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jet_files, "_STORED", {**jet_files._STORED, "not there": "x"})
        computed = read_jets(files, schema, JetSelection(min_pt=400, max_pt=700))
    np.testing.assert_allclose(computed.substructure, table.substructure, rtol=2e-3, atol=0.02)
    small = read_jets(files[:1], schema, JetSelection("Jet", min_pt=30, most=4))
    assert len(small.truth) > 150
    with pytest.raises(InputError, match="the classes QCD and quark overlap"):
        labels_of([1], ("QCD", "quark"))


def test_pairs_are_scaled_to_one_mass(data: Path) -> None:
    files, schema = find_files(data / "abc_m_a2000_m_b200_m_c100"), jet_schema(capacity=60)
    pairs, scaled = (read_jet_pairs(files, schema, scaled_to=scale) for scale in (None, 1000.0))
    assert np.array_equal(pairs.mass, scaled.mass)
    assert np.median(pairs.mass) == pytest.approx(2000, rel=0.1)
    first, second = pairs.jets.momentum[0::2], pairs.jets.momentum[1::2]
    assert (first[:, 3] >= second[:, 3]).all()
    assert (pairs.jets.event[0::2] == pairs.jets.event[1::2]).all()
    factor = np.repeat(1000 / pairs.mass, 2)
    assert scaled.jets.momentum[:, 0] == pytest.approx(pairs.jets.momentum[:, 0] * factor)
    shift = (scaled.jets.cloud.objects - pairs.jets.cloud.objects)[:, 0]
    assert shift[:, 2] == pytest.approx(np.log(factor), abs=1e-4)
    assert np.abs(shift[:, [0, 1, 3, 5, 6, 7]]).max() == 0
    assert scaled.jets.substructure[:, 2:] == pytest.approx(pairs.jets.substructure[:, 2:], nan_ok=True)


def test_classify_resumes_and_the_network_is_called_on_files(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    sources, out = tops_and_quarks(data), tmp_path / "run"
    words = ["classify", *sources, "--class", "top", "--class", "quark", "--size", "tiny", "--out", out, "--batch-size", 32, "--rate", 3e-3]  # fmt: skip
    code, _, err = command(*words, "--device", "gpu")
    assert code == 1
    assert "device must be 'auto', 'cpu', 'cuda' or 'cuda:1'; found 'gpu'" in err
    assert not out.exists()
    code, text, err = command(*words, "--epochs", 3, "--device", "cpu")
    assert code == 0, err
    found = json.loads((out / "result.json").read_text())
    assert found["trees_auc"]["top"][0] > 0.9
    assert found["auc"]["top"][0] > 0.7
    assert found["gain"] == pytest.approx(found["auc"]["top"][0] - found["trees_auc"]["top"][0], abs=1e-6)
    assert found["gain_uncertainty"] > 0
    assert sum(found["jets"]) > 180
    assert (out / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert "epoch 3" in text
    code, text, _ = command(*words, "--epochs", 3)
    assert (code, "epoch" in text) == (0, False)  # nothing is left to train
    code, _, err = command(*words, "--epochs", 4)
    assert (code, "is of another run" in err) == (1, True)
    predict = Predictor(out / "network" / "best")
    with uproot.open(find_files(sources[0])[0]) as file:
        tree = file["Events"]
        tables = {"FatJet": "pt eta phi mass", "PFCand": "pt eta phi mass pdgId charge", "FatJetPFCand": "jetIdx pfCandIdx"}  # fmt: skip
        events = ak.zip(
            {
                t: ak.zip({f: tree[f"{t}_{f}"].array() for f in fields.split()})
                for t, fields in tables.items()
            },
            depth_limit=1,
        )
    scores = predict(events)
    assert ak.num(scores).tolist() == ak.num(events.FatJet).tolist()
    assert ak.max(abs(scores.classification.top + scores.classification.quark - 1)) < 1e-5


def test_fine_tuning_starts_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    config = JetTrainingConfig(epochs=1, batch_size=32, rate=1e-3, generation=0, smeared=0)
    first = JetRun(size="tiny", training=config)
    sources = tops_and_quarks(data)
    classify_jets(sources, ("top", "quark"), tmp_path / "first", first, trees=False)
    tuned = JetRun(pretrained=str(tmp_path / "first" / "network" / "best"), most=30, training=config)
    found = classify_jets(sources, ("quark", "top", "W"), tmp_path / "second", tuned, trees=False)
    assert list(found.auc) == ["quark", "top", "W"]
    assert found.jets[0] <= 90
    assert np.isnan(found.gain)
    with pytest.raises(InputError, match="the files have no jets of class H"):
        classify_jets(sources, ("top", "H"), tmp_path / "third", first, trees=False)


def test_generate(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = JetTrainingConfig(epochs=1, batch_size=64, rate=2e-3)
    run = JetRun(size="tiny", capacity=32, training=config)
    found = generate_jets(
        tops_and_quarks(data), ("top", "quark"), tmp_path, run, n_jets=20, steps=3, kinematics_epochs=8, coverage_size=8, say=said.append
    )  # fmt: skip
    for name in ("top", "quark"):
        assert 0 < found.generated[name].coverage.coverage.value <= 1
        assert found.generated[name].w1_particles.value > found.real[name].w1_particles.value
    assert (tmp_path / "generated.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "generated.npz") as arrays:
        assert arrays["label"].tolist() == [0] * 20 + [1] * 20
        assert arrays["mask"].sum(axis=1).tolist() == arrays["jet_features"][:, 3].tolist()
    content: Mapping[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert content["generated"]["top"]["w1_mass"]["value"] == found.generated["top"].w1_mass.value
    assert any("40 of 40 jets drawn" in text for text in said)


def test_anomaly_with_trees_and_with_networks(data: Path, tmp_path: Path) -> None:
    background, signal = data / "dijets_pt_min600_m_min1500", data / "abc_m_a2000_m_b200_m_c100"
    words = ["anomaly", background, "--signal", signal, "--inject", 15, "--window", 1700, 2100, "--side-bands", 1300, 3500, "--degree", 1, "--bins", 2, "--folds", 2]  # fmt: skip
    code, text, err = command(*words, "--out", tmp_path / "trees", "--toys", 2)
    assert code == 0, err
    assert "maximum significance improvement" in text
    found = json.loads((tmp_path / "trees" / "result.json").read_text())
    assert found["n_signal"] == 15
    assert found["p_value"] in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    assert len(found["toys"]) == 2
    assert (tmp_path / "trees" / "mass.png").is_file()
    assert 0 <= found["p_value_of_the_background_fit"] <= 1
    code, text, err = command(*words, "--degree", 0, "--out", tmp_path / "flat")
    assert (code, "does not follow the side bands" in text + err) == (0, True)
    code, text, err = command(
        *words, "--out", tmp_path / "nets", "--method", "network", "--size", "tiny", "--epochs", 1
    )
    assert code == 0, err
    assert all(f"fold {number} of 2, epoch 1: loss" in text + err for number in (1, 2))
    assert sorted(p.name for p in (tmp_path / "nets" / "networks").iterdir()) == ["fold-0", "fold-1"]
    with np.load(tmp_path / "nets" / "scores.npz") as arrays:
        assert np.isfinite(arrays["score"]).all()
        assert arrays["is_signal"].sum() <= 15
    code, _, err = command(*words, "--out", tmp_path / "n", "--method", "network", "--toys", 2)
    assert (code, "toys are made with trees" in err) == (1, True)
    code, _, err = command(*words, "--inject", 500, "--out", tmp_path / "n")
    assert (code, "500 signal events are asked for; the files have" in err) == (1, True)


def test_reweight(data: Path, tmp_path: Path) -> None:
    tops, quarks = tops_and_quarks(data)
    code, text, err = command(
        "reweight", quarks, "--target", tops, "--method", "trees", "--folds", 2, "--out", tmp_path
    )
    assert code == 0, err
    assert "triangular discriminators" in text
    found = json.loads((tmp_path / "result.json").read_text())["triangular_discriminators"]
    assert found["softdrop_mass"]["after"] < found["softdrop_mass"]["before"]
    assert (tmp_path / "closure.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "weights.npz") as arrays:
        assert arrays["weight"].mean() == pytest.approx(1)
        assert len(arrays["weight"]) == len(arrays["event"])
    networks = ("--size", "tiny", "--epochs", 1, "--folds", 2, "--out", tmp_path / "networks")
    code, text, err = command("reweight", quarks, "--target", tops, *networks)
    assert code == 0, err
    assert "fold 2 of 2, epoch 1: loss" in text + err
    assert (tmp_path / "networks" / "networks" / "fold-1").is_dir()
    code, _, err = command("reweight", quarks, "--target", tops, "--method", "x", "--out", tmp_path)
    assert (code, "method must be trees or network; found 'x'" in err) == (1, True)


def test_files_without_constituents_are_named(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "plain.root") as file:
        file.mktree("Events", {"x": "f4"}).extend({"x": np.zeros(2, np.float32)})
    with pytest.raises(InputError, match=r"lacks FatJet_pt, .*: is it NanoAOD with PF candidates\?"):
        read_jets([tmp_path / "plain.root"], jet_schema())
    (tmp_path / "text.root").write_text("no ROOT file")
    with pytest.raises(FileError, match="cannot be read as a NanoAOD file"):
        read_jets([tmp_path / "text.root"], jet_schema())
