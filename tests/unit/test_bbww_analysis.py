"""Parts of the bbWW analysis: settings, events and folds, comparison, limits, toys, closure, figures."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.analyses.bbww_resonance import BbwwConfig, figures, read_bbww_config
from evenet_hep.analyses.bbww_resonance.closure import close_halves, half_template, toy_job
from evenet_hep.analyses.bbww_resonance.comparison import compare, find_winners, ratio_grid
from evenet_hep.analyses.bbww_resonance.events import (
    BbwwEvents,
    MassPoint,
    _check,
    _events_of,
    _in_order,
    find_points,
    sample_weight,
)
from evenet_hep.analyses.bbww_resonance.limits import (
    Template,
    Toys,
    count_false_positives,
    expected_limit,
    halves_closure,
    natural_unit,
    summarize_toys,
    throw_toys,
)
from evenet_hep.analyses.bbww_resonance.summary import geometric_mean, summarize
from evenet_hep.analyses.folder import AnalysisFolder
from evenet_hep.analyses.samples import EventSample
from evenet_hep.analyses.steps import run_steps
from evenet_hep.errors import ConfigError, InputError

POINTS = (MassPoint("xyh_a", 300.0, 80.0), MassPoint("xyh_b", 700.0, 400.0))


def make_events(n: int = 2000, seed: int = 1) -> BbwwEvents:
    """Background and two signals, with one feature that tells them apart."""
    rng = np.random.default_rng(seed)
    sample = rng.choice(4, n, p=[0.5, 0.1, 0.2, 0.2])
    features = rng.normal(size=(n, 49))
    features[:, 0] += 1.5 * (sample >= 2)
    weight = np.array([100.0, 120.0, 1.0, 1.0])[sample]
    mask = np.zeros((n, 18), bool)
    mask[:, :6] = True
    objects = rng.normal(size=(n, 18, 7)).astype(np.float32) * mask[..., None]
    columns = {
        "features": features,
        "objects": objects,
        "mask": mask,
        "event_features": np.abs(rng.normal(size=(n, 10))).astype(np.float32),
    }
    who = [np.ones(n, int), np.ones(n, int), np.arange(n)]
    return _events_of(
        ("TT1L", "ST_t", *(p.name for p in POINTS)), POINTS, sample, columns, weight, who, folds=2
    )


@pytest.fixture(scope="module")
def events() -> BbwwEvents:
    return make_events()


def scores_of(events: BbwwEvents, point: MassPoint, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = events.features[events.rows(point), 0] + noise * rng.normal(size=len(events.rows(point)))
    return np.asarray(1 / (1 + np.exp(-x)))


@pytest.fixture(scope="module")
def places(events: BbwwEvents, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Path]]:
    """Scores of a good and a bad classifier, of two trainings each."""
    found: dict[tuple[str, str], list[Path]] = {}
    for method, noise in (("xgboost", 0.1), ("scratch", 1.5)):
        for point in POINTS:
            for seed in (1, 2):
                home = tmp_path_factory.mktemp("scores")
                scores: dict[str, Any] = {point.name: scores_of(events, point, noise, seed)}
                np.savez(home / "scores.npz", **scores)
                found.setdefault((method, point.name), []).append(home)
    return found


# --- settings


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "bbww.yaml"
    path.write_text("finetuned: {epochs: 3}\nsystematics: {soft_met_mode: noise}\nseeds: [7]\n")
    config = read_bbww_config(path, ["xgboost.max_trees=20"])
    usual = BbwwConfig()
    assert config.finetuned == dataclasses.replace(usual.finetuned, epochs=3)
    assert config.systematics.soft_met_mode == "noise"
    assert config.systematics.energy_scale == usual.systematics.energy_scale == 60
    assert (config.seeds, config.xgboost.max_trees) == ((7,), 20)
    assert read_bbww_config() == usual


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=3", "unknown key 'epochs'"),
        ("xgboost.depth=3", "unknown key 'depth'"),
        ("methods=[bdt]", "found 'bdt'"),
        ("seeds=[]", "must not be empty"),
        ("seeds=[1,1]", "must not repeat"),
        ("folds=1", "at least 2"),
        ("luminosity=0", "above 0"),
        ("validation_fraction=1", "between 0 and 1"),
        ("systematics.soft_met_mode=sum", "soft_met_mode"),
        ("closure.toys=1", "at least 2"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_bbww_config(settings=[setting])


# --- events


def sample(name: str, **details: Any) -> EventSample:
    xsec = details.pop("cross_section", 2.0)
    return EventSample(name, (), xsec, details.get("sum_of_weights", math.nan), details)


def test_points_are_found_by_their_masses_and_ordered() -> None:
    samples = {
        "TT1L": sample("TT1L", parameters={}),
        "b": sample("b", parameters={"m_x": 700.0, "m_y": 90.0}),
        "a": sample("a", parameters={"m_x": 300, "m_y": 80}),
    }
    assert find_points(samples, BbwwConfig()) == (MassPoint("a", 300.0, 80.0), MassPoint("b", 700.0, 90.0))
    assert find_points(samples, BbwwConfig(points=("b",))) == (MassPoint("b", 700.0, 90.0),)
    with pytest.raises(ConfigError, match="needs parameters m_x and m_y"):
        find_points(samples, BbwwConfig(points=("TT1L",)))
    with pytest.raises(ConfigError, match="no sample has"):
        find_points({"TT1L": samples["TT1L"]}, BbwwConfig())


def test_weights_by_hand() -> None:
    config = BbwwConfig(luminosity=10.0, signal_pb=0.5)
    tt = sample("TT", cross_section=3.0, sum_of_weights=600.0)
    assert sample_weight(tt, config, is_signal=False) == pytest.approx(1000 * 10 * 3 / 600)
    # The cross-section of a signal is set, whatever the generator found.
    assert sample_weight(tt, config, is_signal=True) == pytest.approx(1000 * 10 * 0.5 / 600)
    with pytest.raises(ConfigError, match="sum_of_weights"):
        sample_weight(sample("x", cross_section=math.nan), config, is_signal=True)
    with pytest.raises(ConfigError, match="cross-section"):
        sample_weight(sample("x", cross_section=math.nan), config, is_signal=False)


def test_rows_masses_and_folds(events: BbwwEvents) -> None:
    rows = events.rows(POINTS[1])
    assert set(events.sample[rows]) == {0, 1, 3}
    assert (events.is_signal == (events.sample >= 2)).all()
    masses = events.masses()
    assert np.isnan(masses[events.sample < 2]).all()
    np.testing.assert_array_equal(np.unique(masses[events.sample == 3], axis=0), [[700.0, 400.0]])
    assert set(events.fold) == {0, 1}
    assert abs(events.fold.mean() - 0.5) < 0.05
    # Halves, folds and validation events are drawn independently of each other.
    assert abs(np.corrcoef(events.fold, events.half)[0, 1]) < 0.07
    held = events.validation(0.2, seed=1)
    assert abs(held.mean() - 0.2) < 0.04
    assert abs(np.corrcoef(held, events.validation(0.2, seed=2))[0, 1]) < 0.07


def test_the_fold_of_an_event_does_not_depend_on_the_others(events: BbwwEvents) -> None:
    columns = {name: getattr(events, name)[::3] for name in ("features", "objects", "mask", "event_features")}
    who = [getattr(events, name)[::3] for name in ("run", "luminosityBlock", "event")]
    part = _events_of(events.names, POINTS, events.sample[::3], columns, events.weight[::3], who, folds=2)
    np.testing.assert_array_equal(part.fold, events.fold[::3])
    np.testing.assert_array_equal(part.half, events.half[::3])


def test_events_are_written_and_read(events: BbwwEvents, tmp_path: Path) -> None:
    events.save(tmp_path / "selected.npz")
    again = BbwwEvents.load(tmp_path / "selected.npz")
    assert (again.names, again.points) == (events.names, events.points)
    for field in dataclasses.fields(events)[2:]:
        np.testing.assert_array_equal(getattr(again, field.name), getattr(events, field.name))


def test_events_that_are_there_twice_are_found() -> None:
    events = make_events(400)
    _check(events, BbwwConfig())
    events.objects[7] = events.objects[3]
    with pytest.raises(InputError, match="there twice"):
        _check(events, BbwwConfig())


def test_too_few_events_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"fold \d of 'xyh_a' has"):
        _check(make_events(30), BbwwConfig())


# --- comparison


def test_the_better_classifier_wins(events: BbwwEvents, places: dict[tuple[str, str], list[Path]]) -> None:
    found = compare(events, places, BbwwConfig())
    assert [(row["method"], row["point"]) for row in found.rows] == list(places)
    first = found.rows[0]
    assert first["sic_spread"] > 0
    assert first["background_effective"] >= 9
    assert first["background_yield"] >= first["background_minimum"] > 900
    winners = find_winners(found.rows)
    assert [row["winner"] for row in winners] == ["xgboost", "xgboost"]
    grid = ratio_grid(found.rows, "scratch", "xgboost")
    assert grid.points == ((300.0, 80.0), (700.0, 400.0))
    for number, row, other in zip(grid.numbers, found.rows[2:], found.rows[:2], strict=True):
        assert number["ratio"] == pytest.approx(row["sic"] / other["sic"])
        assert number["ratio"] < 1
    mean = geometric_mean(found.rows, "scratch", "xgboost")
    ratios = [number["ratio"] for number in grid.numbers]
    assert mean["value"] == pytest.approx(np.sqrt(np.prod(ratios)))


def test_a_single_training_has_no_spread_and_no_clear_winner() -> None:
    at = {"point": "a", "m_x": 1.0, "m_y": 1.0, "sic_spread": math.nan}
    winner = find_winners([at | {"method": "a", "sic": 5.0}, at | {"method": "b", "sic": 1.0}])[0]
    assert winner["winner"] == "a"
    assert not winner["is_clear"]


# --- limits and toys


def template(signal: list[float], background: list[float], *, mc: float = 0.0) -> Template:
    s, b = np.array(signal), np.array(background)
    return Template(np.linspace(0, 1, len(s) + 1), s, b, mc * s, mc * b)


def test_the_limit_of_a_counting_experiment() -> None:
    # One bin with many events and nothing else uncertain: the limit is 1.96 standard deviations.
    found = expected_limit(template([100.0], [1e4]), background_uncertainty=1e-4, signal_pb=0.5)
    assert found["limit_pb"] == pytest.approx(0.5 * 1.96, rel=0.02)
    assert found["limit_pb_infinite_simulation"] == pytest.approx(found["limit_pb"], rel=0.02)
    assert (
        found["limit_pb_minus_2"] < found["limit_pb_minus_1"] < found["limit_pb"] < found["limit_pb_plus_1"]
    )
    assert found["problem"] == ""


def test_limits_do_not_depend_on_the_reference_cross_section() -> None:
    shape = template([50.0, 100], [5000.0, 500], mc=3.0)
    one = expected_limit(shape, background_uncertainty=0.05, signal_pb=1.0)
    tenth = expected_limit(shape.scaled(0.1), background_uncertainty=0.05, signal_pb=0.1)
    assert tenth["limit_pb"] == pytest.approx(one["limit_pb"], rel=0.01)
    assert one["limit_pb"] > one["limit_pb_infinite_simulation"]


def test_a_signal_without_background_to_stand_on() -> None:
    with pytest.raises(InputError, match="cannot be fitted"):
        natural_unit(template([0.0, 1.0], [10.0, 0.0]))


def test_toys_find_what_was_injected() -> None:
    scaled = template([40.0, 60.0, 80.0], [4000.0, 1000.0, 200.0], mc=2.0)
    scaled = scaled.scaled(natural_unit(scaled))
    toys = throw_toys(scaled, 2.0, 60, np.random.default_rng(1), background_uncertainty=0.05)
    found = summarize_toys(toys, 2.0)
    assert abs(found["pull_mean"]) < 4 * found["pull_mean_error"]
    assert abs(found["pull_width"] - 1) < 4 * found["pull_width_error"]
    assert abs(found["found"] - 2) < 4 * found["found_error"]


def test_false_positives_by_hand() -> None:
    toys = Toys(np.r_[-np.ones(8), 1.2, 2.2], np.r_[-np.ones(8), 1.2, 2.2])
    one, two = count_false_positives(toys, [1.0, 2.0])
    assert (one["passed"], one["rate"], two["rate"]) == (2, 0.2, 0.1)
    assert one["rate_error"] == pytest.approx(np.sqrt(0.2 * 0.8 / 10))
    assert two["expected"] == pytest.approx(0.02275, rel=1e-3)
    # With no toy at all above the threshold the error is that of the expectation, not zero.
    none = count_false_positives(Toys(-np.ones(10), -np.ones(10)), [2.0])[0]
    assert none["rate_error"] == pytest.approx(np.sqrt(0.02275 * 0.97725 / 10), rel=1e-3)


def test_toy_jobs_can_be_repeated() -> None:
    config = read_bbww_config(settings=["closure.toys=3", "closure.background_toys=4"])
    shape = template([40.0, 60.0], [400.0, 100.0], mc=2.0)
    assert toy_job(shape, config, 1.0) == toy_job(shape, config, 1.0)
    assert toy_job(shape, config, 1.0) != toy_job(shape, config, 2.0)
    assert [row["toys"] for row in toy_job(shape, config, None)["false_positives"]] == [4, 4]


def test_identical_halves_close_exactly() -> None:
    shape = template([40.0, 60.0, 80.0], [4000.0, 1000.0, 200.0], mc=2.0)
    found = halves_closure(shape, shape, 2.0, background_uncertainty=0.05)
    assert found["found"] == pytest.approx(2.0, abs=0.02)
    assert abs(found["pull"]) < 0.05


def test_halves_are_disjoint_and_add_up(
    events: BbwwEvents, places: dict[tuple[str, str], list[Path]]
) -> None:
    config = BbwwConfig(minimum_effective=5)
    found = compare(events, places, config)
    rows, scores = events.rows(POINTS[0]), found.scores["xgboost", "xyh_a"]
    parts = [half_template(events, rows, scores, events.half[rows] == side, config) for side in (False, True)]
    background = events.weight[rows][~events.is_signal[rows]].sum()
    assert sum(part.background.sum() for part in parts) == pytest.approx(2 * background)
    np.testing.assert_array_equal(parts[0].edges, parts[1].edges)
    pulls = [row["pull"] for row in close_halves(events, found, config)]
    assert len(pulls) == 4 * 2 * 2
    assert np.abs(pulls).max() < 5


# --- steps, figures, summary


def test_the_order_in_which_processes_finish_does_not_count() -> None:
    rng = np.random.default_rng(1)
    table: dict[str, Any] = {name: rng.integers(0, 4, 60) for name in ("run", "luminosityBlock")}
    table |= {"event": rng.permutation(60), "features": rng.normal(size=(60, 3))}
    order = np.random.default_rng(2).permutation(60)
    mixed = {name: column[order] for name, column in table.items()}
    first, second = _in_order(table), _in_order(mixed)
    assert all(np.array_equal(first[name], second[name]) for name in table)
    assert (np.diff(first["run"]) >= 0).all()


def cube(x: float) -> dict[str, float]:
    return {"cube": x**3}


@pytest.mark.parametrize("cores", [1, 2])
def test_steps_are_done_once_in_any_number_of_processes(tmp_path: Path, cores: int) -> None:
    folder = AnalysisFolder(tmp_path, BbwwConfig())
    folder.step("cubes/2", lambda: {"cube": -1})  # an earlier call has done it
    jobs = {f"cubes/{x}": (x,) for x in (1, 2, 3)}
    found = run_steps(folder, jobs, cube, cores=cores, label="cubes")
    assert [each["cube"] for each in found.values()] == [1, -1, 27]
    assert all(folder.is_done(name) for name in jobs)


def test_a_step_that_cannot_be_sent_is_an_error_and_nothing_waits(tmp_path: Path) -> None:
    folder = AnalysisFolder(tmp_path, BbwwConfig())
    with pytest.raises((pickle.PicklingError, AttributeError)):
        run_steps(folder, {"a": (lambda: 1,), "b": (2,)}, cube, cores=2, label="cubes")


def test_figures_and_summary(events: BbwwEvents, places: dict[tuple[str, str], list[Path]]) -> None:
    found = compare(events, places, BbwwConfig())
    winners = find_winners(found.rows)
    limits = [row | {"limit_pb": 1.0, "limit_pb_minus_1": 0.7, "limit_pb_plus_1": None} for row in found.rows]
    toys = [
        {
            "point": "xyh_a",
            "injected": x,
            "failed": 0,
            "found": x,
            "found_error": 0.1,
            "pull_mean": 0.0,
            "pull_width": 1.0,
        }
        for x in (0.0, 2.0)
    ]
    halves = [{"pull": 0.5}, {"pull": -0.5}]
    rates = [{"z": 1.0, "toys": 100, "passed": 20, "expected": 0.16}] * 2
    flow = {name: np.r_[0.0, np.ones(40), 5.0] for name in events.names}
    drawn = [
        figures.plot_sic(found.rows),
        figures.plot_winners(winners),
        figures.plot_roc(found, events, POINTS),
        figures.plot_topness(flow, {"TT1L": 2.0, "ST_t": 1.0}, ["xyh_a"]),
        figures.plot_templates(found, [("xgboost", "xyh_a"), ("scratch", "xyh_b")]),
        figures.plot_limits(limits),
        figures.plot_closure(toys, halves),
    ]
    assert all(figure.axes for figure in drawn)
    text, numbers = summarize(
        found.rows, winners, limits, toys, rates, halves, [], [{"method": "tabpfn", "reason": "no weights"}]
    )
    assert numbers["wins"] == {"xgboost": 2, "scratch": 0}
    assert numbers["false_positives"]["1"]["rate"] == pytest.approx(0.2)
    assert "tabpfn was not run: no weights" in text
