"""The dimuon search from pairs to a report, the processor, and what must not happen: a bump made by the search itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from evenet_hep.processors import DimuonAnomaly
from evenet_hep.processors.dimuon_anomaly import pairs_in

from evenet_hep.analyses.dimuon_anomaly import DimuonAnomalyConfig, analyse_dimuon
from evenet_hep.analyses.dimuon_anomaly.config import GeneratorConfig, Region
from evenet_hep.analyses.dimuon_anomaly.generator import (
    GeneratedFeatures,
    draw_pairs,
    pair_cloud,
    pair_schema,
    train_network,
)
from evenet_hep.analyses.dimuon_anomaly.injection import injected_sample
from evenet_hep.analyses.dimuon_anomaly.run import (
    bootstrap_row,
    closure_table,
    false_positive_table,
    significance_table,
)
from evenet_hep.analyses.dimuon_anomaly.search import in_window, search
from evenet_hep.analyses.dimuon_anomaly.studies import tasks_of
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.dimuons import pair_features, read_dimuons
from evenet_hep.share import dimuon_file, sample_files
from evenet_hep.stats.weak import WeakConfig

needs_zuko = pytest.mark.skipif(importlib.util.find_spec("zuko") is None, reason="needs the extra baselines")
needs_lightning = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="needs the extra train"
)
TREES = WeakConfig(n_folds=2, n_ensemble=1, max_trees=15)
CONFIG = DimuonAnomalyConfig(
    cores=1,
    methods=("scratch",),
    fractions=(0.05,),
    subsamples=1,
    toys=1,
    injected=(),
    bootstraps=1,
    scales=1,
    control_windows=(),
    generator=GeneratorConfig(scratch_epochs=1, batch_size=256, steps=2),
    trees=TREES,
)


def quick_background(pairs: object, n: int, seed: int) -> GeneratedFeatures:
    """Mixed pairs in the window, as a stand-in for a generator."""
    made = injected_sample(pairs, 4 * n, 0, span=(8.0, 12.0), window=(9.1, 10.7), seed=[seed])  # type: ignore[arg-type]
    inside = made.pairs.take(in_window(made.pairs, CONFIG.region)).take(slice(n))
    return GeneratedFeatures(pair_features(inside, CONFIG.features), inside.mass, 1.0, 0.0)


@needs_lightning
def test_report_of_a_small_run_and_going_on(tmp_path: Path) -> None:
    report = analyse_dimuon(CONFIG, tmp_path)
    assert {
        "significance",
        "false_positives",
        "bootstraps",
        "generators",
        "mass_knowledge",
        "combinations",
    } <= set(report.tables)
    assert all(path.is_file() and path.stat().st_size < 150_000 for path in report.figures)
    numbers = json.loads((tmp_path / "summary.json").read_text())
    assert numbers["pairs"] == 20000
    row = numbers["significance"][0]
    assert row["generator"] == "mass spectrum alone"
    assert row["pairs"] == 1000
    assert 2 < row["median"] < 7  # 5 % of a 20.9 sigma sample: 4.7 +- 1
    assert {row["combination"] for row in report.tables["combinations"]} == {
        "OS -> OS",
        "OS -> SS",
        "SS -> OS",
        "SS -> SS",
    }
    assert [row["resample"] for row in report.tables["bootstraps"]] == ["data", "generator"]
    # One step is taken away: only that is done again, and the numbers are the same.
    step = tmp_path / "steps" / "false_positives" / "000.json"
    before, others = step.read_text(), (tmp_path / "steps" / "subsamples" / "000.json").stat().st_mtime_ns
    step.unlink()
    again = analyse_dimuon(CONFIG, tmp_path)
    assert json.loads(step.read_text()) == json.loads(before)
    assert (tmp_path / "steps" / "subsamples" / "000.json").stat().st_mtime_ns == others
    assert again.summary == report.summary
    with pytest.raises(ConfigError, match="seed was 1 and is 2"):
        analyse_dimuon(dataclasses.replace(CONFIG, seed=2), tmp_path)


@needs_lightning
def test_generated_pairs_have_the_mass_they_were_asked_for() -> None:
    pairs = read_dimuons(dimuon_file()).take(slice(0, 400))
    model = train_network(pairs.take(slice(50, None)), pairs.take(slice(50)), CONFIG.generator, seed=1)
    masses = np.linspace(9.1, 10.7, 60)
    drawn = draw_pairs(model, masses, steps=2, seed=4)
    np.testing.assert_allclose(drawn.pairs.mass, drawn.masses, rtol=1e-9)
    assert np.abs(drawn.masses / drawn.m_gen - 1).max() > 1e-3  # the calibration had something to do
    again = draw_pairs(model, masses, steps=2, seed=4)
    np.testing.assert_array_equal(again.pairs.leading, drawn.pairs.leading)


def test_cloud_is_turned_to_the_pair_and_keeps_its_values() -> None:
    pairs = read_dimuons(dimuon_file()).take(slice(0, 30))
    cloud = pair_cloud(pairs, pair_schema())
    pt, phi = cloud.objects[..., 0], cloud.objects[..., 2]
    assert np.abs((pt * np.sin(phi)).sum(axis=1)).max() < 1e-4  # the pair flies along phi = 0
    np.testing.assert_allclose(
        (pt * np.cos(phi)).sum(axis=1), cloud.event_features[:, 1], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(cloud.event_features[:, 0], pairs.mass, rtol=1e-6)


def test_weights_of_a_bootstrap_are_not_copies() -> None:
    """An event that counts twice is dealt into one fold: its score does not know itself."""
    pairs = read_dimuons(dimuon_file()).take(slice(1, 1200, 2))
    generated = quick_background(pairs, 300, 1)
    counts = np.random.default_rng(2).poisson(1.0, pairs.n)
    kept = counts > 0
    found = search(pairs.take(kept), generated, CONFIG, seed=3, counts=counts[kept])
    inside = in_window(pairs, CONFIG.region)
    assert found.uncut.observed == counts[inside].sum()
    assert len(found.scores) == kept.sum()


def test_a_cut_or_weight_leaves_pairs_without_resonance_alone() -> None:
    """Trees that were trained on the Upsilon are applied to mixed pairs: no excess may come out of it."""
    everything = read_dimuons(dimuon_file())
    upsilon = everything.take(slice(1, None, 4))
    mixed = injected_sample(
        everything.take(slice(0, None, 2)), 5000, 0, span=(8.0, 12.0), window=(9.1, 10.7), seed=[7]
    )
    trees = dataclasses.replace(
        CONFIG, trees=WeakConfig(n_folds=3, n_ensemble=2, max_trees=60, max_depth=2, learning_rate=0.05)
    )
    generated = quick_background(upsilon, 2000, 8)
    found = search(mixed.pairs, generated, trees, seed=5, trained_on=upsilon)
    assert found.uncut.significance < 3
    for cut in found.cuts:
        assert cut.fit is not None
        assert cut.fit.significance < 3


def test_tables_by_hand() -> None:
    rows = [
        {
            "method": "flow",
            "fraction": 0.1,
            "n_pairs": 50,
            "z_uncut": u,
            "z_weighted": w,
            "injected_mean": 0.0,
        }
        for u, w in ((1.0, 2.0), (2.0, 2.0), (3.0, 5.0))
    ]
    table = significance_table(rows)
    assert [row["median"] for row in table] == [2.0, 2.0]
    assert table[1]["mean_gain"] == pytest.approx(1.0)
    assert table[0]["mean_gain"] == 0.0
    rates = false_positive_table(rows)
    assert [row["above"] for row in rates] == [2, 3]
    assert rates[0]["error"] == pytest.approx(np.sqrt(0.6 * 0.4 / 3))  # Laplace: (2 + 1) / (3 + 2)
    closure = closure_table(
        [{**row, "injected": 10, "signal": s, "signal_error": 2.0} | dict.fromkeys(
            [f"{x}_cut_{c}" for x in ("injected", "signal", "error") for c in (50, 20)], float("nan"))
         for row, s in zip(rows, (8.0, 10.0, 12.0), strict=True)],
        CONFIG,
    )  # fmt: skip
    assert len(closure) == 1  # cuts without a fit are left out
    assert closure[0]["mean_pull"] == pytest.approx(0.0)
    assert closure[0]["pull_width"] == pytest.approx(np.sqrt(2 / 3))
    assert "no statistical error" in bootstrap_row("generator", rows)["meaning"]


def test_tasks_and_settings() -> None:
    tasks = tasks_of(DimuonAnomalyConfig())
    assert {task.method for task in tasks["subsamples"] if task.setting == 0.05} == {
        "pretrained",
        "scratch",
        "flow",
    }
    assert tasks["momentum_scale"][0].setting == 0.0
    assert len(tasks["combinations"]) == 4
    with pytest.raises(ConfigError, match="features must be some of"):
        DimuonAnomalyConfig(features=("mass",))
    with pytest.raises(ConfigError, match=r"not above 0\.5"):
        DimuonAnomalyConfig(fractions=(0.7,))
    with pytest.raises(ConfigError, match="degree"):
        Region(degree=-1)


def nanoaod_events() -> ak.Array:
    """Four events: selected OS, selected SS, isolated, not triggered; and one without muons."""

    def muon(pt: float, phi: float, charge: int, isolation: float = 0.8) -> dict[str, object]:
        return {
            "pt": pt,
            "eta": 0.2,
            "phi": phi,
            "mass": 0.1057,
            "charge": charge,
            "tightId": True,
            "pfRelIso04_all": isolation,
        }

    lists = [
        [muon(20.0, 0.0, 1), muon(12.0, 0.6, -1)],
        [muon(20.0, 0.0, 1), muon(12.0, 0.6, 1)],
        [muon(20.0, 0.0, 1, 0.01), muon(12.0, 0.6, -1)],
        [muon(20.0, 0.0, 1), muon(12.0, 0.6, -1)],
        [],
    ]
    events = ak.zip(
        {
            "Muon": ak.Array(lists),
            "HLT": ak.zip({"TrkMu15_DoubleTrkMu5NoFiltersNoVtx": ak.Array([True, True, True, False, True])}),
        },
        depth_limit=1,
    )
    return ak.with_parameter(events, "metadata", {"dataset": "toy"})


class _Chunk:
    """Events with the metadata that coffea gives them."""

    def __init__(self, events: ak.Array) -> None:
        self._events = events
        self.metadata = {"dataset": "toy"}
        self.fields = events.fields

    def __len__(self) -> int:
        return len(self._events)

    def __getattr__(self, name: str) -> object:
        return self._events[name]


def test_processor_selects_counts_and_keeps_the_pairs() -> None:
    found = DimuonAnomaly().process(_Chunk(nanoaod_events()))["toy"]
    assert found["cutflow"] == {"all": 5, "trigger": 4, "two muons": 3, "selected": 2}
    assert found["yields"]["OS SR"] + found["yields"]["OS SBL"] + found["yields"]["OS SBH"] == 1
    # m^2 = 2 * 20 * 12 (1 - cos 0.6) = 83.8: 9.16 GeV, in the signal region
    assert found["yields"]["OS SR"] == found["yields"]["SS SR"] == 1
    assert found["mass"][{"sign": "SS"}].sum().value == 1
    pairs = pairs_in({"a": found, "b": found})
    assert pairs.n == 4
    assert pairs.mass == pytest.approx([np.sqrt(480 * (1 - np.cos(0.6)))] * 4, rel=1e-3)
    turned = {**found["columns"], "py1": SimpleNamespace(value=np.array([1.0, -2.0]))}
    other = dict(found, columns=turned)
    first, second = pairs_in({"a": found, "b": other}), pairs_in({"b": other, "a": found})
    assert np.array_equal(first.leading, second.leading)  # whichever process finishes first
    assert np.array_equal(first.charges, second.charges)
    everything = DimuonAnomaly(isolation=None).process(_Chunk(nanoaod_events()))["toy"]
    assert everything["cutflow"]["selected"] == 3
    with pytest.raises(InputError, match="no trigger HLT_Other"):
        DimuonAnomaly(triggers=("HLT_Other",)).process(_Chunk(nanoaod_events()))


def test_processor_on_real_nanoaod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    fileset = {"data": {"files": {str(sample_files()["DoubleMuon data"]): "Events"}}}
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=NanoAODSchema, chunksize=15)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
        found = run(fileset, DimuonAnomaly(triggers=(), isolation=None))["data"]
    assert found["cutflow"]["all"] == found["cutflow"]["trigger"] == 40
    assert sum(found["yields"].values()) <= found["cutflow"]["selected"] == pairs_in({"data": found}).n


def test_command_reads_nanoaod_and_says_what_is_missing(tmp_path: Path) -> None:
    from evenet_hep.cli import app  # noqa: PLC0415

    listing = tmp_path / "samples.yaml"
    listing.write_text(f"samples: {{data: {{files: [{sample_files()['DoubleMuon data']}]}}}}")
    words = ["analyse", "dimuon-anomaly", "--events", str(listing), "--out", str(tmp_path / "out")]
    one = ["--set", "cores=1", "--set", "control_windows=[]"]
    with pytest.raises(InputError, match="at least 400 pairs of opposite sign"):
        app([*words, *one, "--set", "triggers=[]"], standalone_mode=False)
    with pytest.raises(ConfigError, match="unknown key 'toyz'"):
        app([*words, *one, "--set", "toyz=3"], standalone_mode=False)


@pytest.mark.slow
@needs_zuko
@needs_lightning
def test_false_positives_and_closure_of_the_flow(tmp_path: Path) -> None:
    """Sixty samples without a resonance, and injected ones: rate, strength and pulls."""
    config = dataclasses.replace(
        DimuonAnomalyConfig(cores=1), methods=("flow",), toys=60, injected=(150,), injections=20,
        fractions=(0.05,), subsamples=1, bootstraps=1, scales=1, control_windows=(),
    )  # fmt: skip
    report = analyse_dimuon(config, tmp_path)
    for row in report.tables["false_positives"]:
        assert row["rate"] < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    for row in report.tables["closure"]:
        assert abs(row["mean_pull"]) < 0.3 + 3 / np.sqrt(row["samples"])
        assert row["pull_width"] < 1.6
