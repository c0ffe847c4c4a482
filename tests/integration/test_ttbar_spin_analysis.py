"""The spin analysis from simulated files to its tables: the processor, the command, resuming, and closure."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import hist
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from evenet_hep.processors import TTbarSpinProcessor

from evenet_hep.analyses.samples import read_samples, run_processor
from evenet_hep.analyses.ttbar_spin import TTbarSpinConfig, analyse_ttbar_spin
from evenet_hep.analyses.ttbar_spin.measure import true_matrix
from evenet_hep.analyses.ttbar_spin.sample import PSEUDO_DATA, RESPONSE, TRAIN, read_spin_sample
from evenet_hep.cli import app
from evenet_hep.errors import ConfigError
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import simulate
from evenet_hep.simulate.shards import SimulationSettings
from evenet_hep.stats.spin_fits import fit_entanglement

SMALL = [
    "training.epochs=1", "training.warmup=0", "sizes=[]", "splits=2", "replicas=3", "experiments=2",
    "experiment_events=60", "sampler_steps=1", "fractions=[0.1,0.05,0.45]", "cores=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ttbar") / "events"
    simulate(requests_from_words(["TT2L:events=1500"], None), out, SimulationSettings(seed=5))
    return out


def test_the_processor_fills_what_the_reader_of_the_files_finds(events: Path) -> None:
    source = read_samples(events)["TT2L"]
    out = run_processor({"TT2L": source}, TTbarSpinProcessor())
    sample = read_spin_sample(source, (0.2, 0.05, 0.4))
    assert out["n_events"] == len(sample) == 1500
    assert out["n_reconstructed"] <= out["n_selected"]
    response = out["response"]
    # In all bins and overflows: every true event, whether measured or not, is there once.
    assert response.sum(flow=True).value == pytest.approx(
        sample.weights(1.0)[sample.truth.valid].sum(), rel=1e-3
    )
    threshold = {"m_tt": slice(None, hist.loc(400), sum)}
    assert out["cos_phi"][threshold].sum().value > 0
    true = response.project("true_m_tt", "true_cos_phi")[{"true_m_tt": slice(None, hist.loc(400), sum)}]
    found = fit_entanglement(true)
    matrix = true_matrix(sample.truth.angles, sample.truth.valid, sample.weights(1.0))
    trace = matrix.values[0, [6, 10, 14]].sum() / 3
    assert found.d_std == pytest.approx(trace, abs=1.5 * found.d_std_uncertainty)
    assert found.d_std < -1 / 4  # entangled tops are near -0.45, independent ones near 0
    without = run_processor({"TT2L": source}, TTbarSpinProcessor(spin_strength=0.0))
    assert without["sum_of_weights"] == 1500
    assert out["sum_of_weights"] == pytest.approx(sample.weights(1.0).sum())


def test_parts_have_no_event_in_common_and_do_not_depend_on_the_order(events: Path) -> None:
    sample = read_spin_sample(read_samples(events)["TT2L"], (0.2, 0.05, 0.4))
    parts = [set(sample.rows(part).tolist()) for part in (TRAIN, RESPONSE, PSEUDO_DATA)]
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]
    assert len(parts[1]) == pytest.approx(600, abs=80)
    again = read_spin_sample(read_samples(events)["TT2L"], (0.2, 0.05, 0.4))
    assert np.array_equal(sample.part, again.part)
    sent = pickle.loads(pickle.dumps(again))  # as the processes of the analysis get it
    assert sent.objects.jets.to_list() == sample.objects.jets.to_list()


def test_true_neutrinos_and_leptons_make_w_bosons(events: Path) -> None:
    truth = read_spin_sample(read_samples(events)["TT2L"], (0.2, 0.05, 0.4)).truth
    assert truth.valid.mean() > 0.98
    pt = np.hypot(*truth.neutrino[:2, truth.valid])
    assert 30 < np.median(pt) < 70
    assert (np.abs(truth.angles.cos_phi[truth.valid]) <= 1).all()
    assert np.median(truth.angles.m_tt[truth.valid]) == pytest.approx(450, abs=40)


def test_the_whole_analysis_from_one_command(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "spin"
    words = ["analyse", "ttbar-spin", "--events", str(events), "--out", str(out)]
    words += [word for setting in SMALL for word in ("--set", setting)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "classical" in result.output
    for name in ("reconstruction", "coefficients", "markers", "closure", "stability"):
        assert (out / f"{name}.csv").stat().st_size > 0
    for name in ("migration", "resolution", "spin_matrix", "closure", "stability_d", "stability_delta_d"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((out / "reconstruction.json").read_text())
    assert [row["reconstruction"] for row in rows] == [
        "classical", "network", "network pairing, classical neutrinos",
    ]  # fmt: skip
    assert len({row["n_selected"] for row in rows}) == 1  # the same events for all
    assert 0.55 < rows[0]["pairing"] < 0.95
    markers = json.loads((out / "markers.json").read_text())
    published = next(row for row in markers if "published" in row["unfolding"] and row["m_tt"] == "0-400")
    assert published["d_poster_error_projected"] < published["d_poster_error_pseudo_data"]
    assert published["delta_d_published_projected"] != published["delta_d_projected"]
    # Again: nothing is done twice, and the numbers are the same.
    times = {path: path.stat().st_mtime_ns for path in (out / "steps").glob("*.json")}
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in (out / "steps").glob("*.json")} == times
    assert json.loads((out / "markers.json").read_text()) == markers
    with pytest.raises(ConfigError, match="results of other settings"):
        analyse_ttbar_spin(events, out, TTbarSpinConfig())


@pytest.mark.slow
def test_the_correlation_of_the_generator_comes_back(tmp_path: Path) -> None:
    """30 000 events: pulls of the classical reconstruction, and no claim of entanglement where there is none."""
    simulate(
        requests_from_words(["TT2L:events=30000"], None), tmp_path / "e", SimulationSettings(seed=8), cores=2
    )
    config = TTbarSpinConfig(
        sizes=(), experiments=0, splits=40, fractions=(0.05, 0.05, 0.45), replicas=20,
        training=TTbarSpinConfig().training.with_settings(["epochs=1", "warmup=0"]),
    )  # fmt: skip
    analyse_ttbar_spin(tmp_path / "e", tmp_path / "out", config)
    rows = json.loads((tmp_path / "out" / "closure.json").read_text())
    mine = [
        row for row in rows if row["reconstruction"] == "classical" and row["unfolding"].startswith("Bayes")
    ]
    for row in mine:
        assert abs(row["pull_mean_own"]) < 1.2
        assert 0.5 < row["pull_width_own"] < 1.6
    none = next(row for row in mine if row["strength"] == 0.0)
    assert none["claimed_own"] <= 0.1
    slope = np.polyfit([row["true_d_poster"] for row in mine], [row["mean_d_poster"] for row in mine], 1)[0]
    assert 0.5 < slope < 1.5
