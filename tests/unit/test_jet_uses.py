"""What jets are used for: CWoLa searches, reweighting between simulations, quality of generated jets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from evenet_hep.errors import InputError
from evenet_hep.events.jets import jet_schema
from evenet_hep.model.jets import JetConfig, JetNetwork
from evenet_hep.stats.cwola import CwolaConfig, null_toys, search_cwola, tree_scorer
from evenet_hep.stats.jet_quality import energy_flow_polynomials, measure_jet_quality, relative_masses
from evenet_hep.stats.weak import WeakConfig
from evenet_hep.training.jet_scores import (
    closure_features,
    network_scorer,
    reweight_jets,
    reweight_with_trees,
    scores_out_of_fold,
)
from evenet_hep.training.jets import JetSample, JetTrainingConfig

FloatArray = npt.NDArray[np.float64]

TREES = WeakConfig(n_folds=3, n_ensemble=1, max_trees=40)
SEARCH = CwolaConfig((3.3, 3.7), (2.1, 5.7), efficiencies=(0.05, 0.02))


def collisions(
    n_background: int, n_signal: int, *, seed: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Masses that fall, features that do not know them, and a narrow resonance."""
    rng = np.random.default_rng(seed)
    masses = np.append(2 + rng.exponential(1.0, n_background), rng.normal(3.5, 0.08, n_signal))
    features = np.append(rng.normal(0, 1, (n_background, 3)), rng.normal(2.0, 0.5, (n_signal, 3)), axis=0)
    return masses, features, np.arange(len(masses)) >= n_background


def test_a_signal_that_the_mass_alone_does_not_show_is_found() -> None:
    masses, features, is_signal = collisions(8000, 70, seed=1)
    found = search_cwola(masses, tree_scorer(features, TREES), SEARCH, is_signal=is_signal)
    assert found.uncut.significance < 3
    assert found.significance > 5
    assert found.sic is not None
    assert found.sic.value > 5
    assert (
        len(found.scores)
        == len(found.rows)
        == ((masses >= SEARCH.edges[0]) & (masses < SEARCH.edges[-1])).sum()
    )
    assert [cut.background_efficiency for cut in found.cuts] == [0.05, 0.02]


def test_without_a_signal_none_is_found() -> None:
    """Fresh samples: the greatest of two cuts is rarely beyond 3, and its p-value by shuffled masses is no small one."""
    greatest = []
    for seed in range(6):
        masses, features, _ = collisions(4000, 0, seed=100 + seed)
        found = search_cwola(masses, tree_scorer(features, TREES), SEARCH)
        greatest.append(found.significance)
    assert max(greatest) < 3.5
    assert np.median(greatest) < 2
    toys = null_toys(
        masses, tree_scorer(features, TREES), SEARCH, n_toys=5, observed=found.significance, seed=1
    )
    assert toys.p_value >= 1 / 6
    assert (toys.significances < 3.5).all()


def test_toys_know_a_signal_when_they_do_not_have_it() -> None:
    masses, features, _ = collisions(5000, 80, seed=3)
    scorer = tree_scorer(features, TREES)
    observed = search_cwola(masses, scorer, SEARCH).significance
    seen: list[float] = []
    toys = null_toys(
        masses, scorer, SEARCH, n_toys=4, observed=observed, seed=2, progress=lambda _, z: seen.append(z)
    )
    assert observed > 5 > max(toys.significances)
    assert toys.p_value == pytest.approx(1 / 5)
    assert seen == toys.significances.tolist()
    again = null_toys(masses, scorer, SEARCH, n_toys=1, seed=2)
    assert again.significances[0] == toys.significances[0]
    assert np.isnan(again.p_value)


def test_bad_searches_are_named() -> None:
    masses, features, _ = collisions(300, 0, seed=1)
    with pytest.raises(InputError, match="side_bands must enclose the window"):
        CwolaConfig((3.3, 3.7), (3.4, 5.0))
    with pytest.raises(InputError, match=r"efficiencies must lie in \(0, 1\]"):
        CwolaConfig((3.3, 3.7), (2.1, 5.7), efficiencies=(0.0,))
    with pytest.raises(InputError, match="window and side bands must have events; found 0 and"):
        search_cwola(np.full(9, 2.5), tree_scorer(features[:9]), SEARCH)
    with pytest.raises(InputError, match="the scorer must give a score per event"):
        search_cwola(masses, lambda a, b: (np.zeros(len(a) + 1), np.zeros(len(b))), SEARCH)


def test_trees_reweight_and_the_features_that_they_do_not_need_stay() -> None:
    rng = np.random.default_rng(4)
    target = rng.normal([0.4, 0.0], 1, (6000, 2))
    source = rng.normal([0.0, 0.0], 1, (6000, 2))
    found = reweight_with_trees(target, source, config=WeakConfig(n_folds=3, n_ensemble=2, max_trees=60))
    assert found.closure.after[0] < found.closure.before[0] / 5
    assert found.closure.after[1] < 4 * found.closure.floor[1]
    assert found.weights.mean() == pytest.approx(1)
    assert np.average(source[:, 0], weights=found.weights) == pytest.approx(0.4, abs=0.08)


SCHEMA = jet_schema(classes=("source", "target"), capacity=6).with_statistics(
    {"jet_mass": (3.0, 0.5), "jet_pt": (5.0, 0.3), "multiplicity": (6.0, 1.0)}
)


def make() -> JetNetwork:
    size = JetConfig(
        width=8, layers=1, heads=1, local_layers=0, generator_layers=0, classifier_layers=1, layer_scale=1.0
    )
    return JetNetwork(size, SCHEMA)


def masses_of(n: int, mean: float, *, seed: int) -> JetSample:
    """Jets that differ in their mass alone."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 6, 13), np.float32)
    x[..., :3] = 0.1 * rng.standard_normal((n, 6, 3))
    mass = np.exp(rng.normal(mean, 0.4, n))
    features = np.stack([np.full(n, 150.0), np.zeros(n), mass, np.full(n, 6.0)], axis=1).astype(np.float32)
    mask = np.ones((n, 6), bool)
    return JetSample(*map(torch.from_numpy, (x, mask, features, np.zeros(n, np.int64))))


def test_a_network_reweights_out_of_fold_and_resumes(tmp_path: Path) -> None:
    target, source = masses_of(700, 3.2, seed=1), masses_of(700, 2.9, seed=2)
    columns = [np.log(s.jet_features[:, 2:3].numpy()) for s in (target, source)]
    config = JetTrainingConfig(epochs=6, batch_size=64, rate=1e-2, generation=0, smeared=0, seed=1)
    options: dict[str, Any] = {"target_features": columns[0], "source_features": columns[1], "n_bins": 10}
    seen: list[tuple[int, float]] = []
    options["progress"] = lambda fold, row: seen.append((fold, row["epoch"]))
    found = reweight_jets(target, source, make, config=config, n_folds=2, folder=tmp_path, **options)
    assert seen == [(fold, epoch) for fold in range(2) for epoch in range(6)]
    assert found.closure.after[0] < found.closure.before[0] / 3
    assert found.closure.before[0] > 5 * found.closure.floor[0]
    again = reweight_jets(target, source, make, config=config, n_folds=2, folder=tmp_path, **options)
    assert np.array_equal(found.weights, again.weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold-0", "fold-1"]


def test_scores_come_from_networks_that_have_not_seen_the_event() -> None:
    """Events of nothing but noise: a network that had seen them would know them."""
    one, other = masses_of(60, 3.0, seed=5), masses_of(60, 3.0, seed=6)
    config = JetTrainingConfig(epochs=12, batch_size=16, rate=2e-2, generation=0, smeared=0)
    first, second = scores_out_of_fold(one, other, make, config=config, n_folds=3)
    assert abs(first.mean() - second.mean()) < 0.08
    scorer = network_scorer(one, make, config=JetTrainingConfig(epochs=1, generation=0, smeared=0), n_folds=2)
    window, side = scorer(np.arange(20), np.arange(20, 60))
    assert window.shape == (20,)
    assert side.shape == (40,)
    with pytest.raises(InputError, match="n_folds must be at least 2"):
        scores_out_of_fold(one, other, make, n_folds=1)


def test_closure_features_have_no_gaps() -> None:
    columns = closure_features([[80.0, 79.0, np.nan, 0.5, 30.0]], [[500.0, 0.1, 0.2, 80.0]])
    assert columns.tolist() == [[80.0, 79.0, -1.0, 0.5, 30.0, 500.0]]


GRAPHS = (  # edges among the vertices 0 to 3
    ((0, 1), (0, 1), (1, 2), (2, 3)),
    ((0, 1), (1, 2), (1, 2), (2, 3)),
    ((0, 1), (0, 1), (0, 2), (0, 3)),
    ((0, 1), (1, 2), (2, 0), (0, 3)),
    ((0, 1), (1, 2), (2, 3), (3, 0)),
)


def cones(n: int, *, width: float, seed: int, slots: int = 8) -> FloatArray:
    rng = np.random.default_rng(seed)
    pt = rng.dirichlet(np.ones(slots), n) * (np.arange(slots) < rng.integers(4, slots + 1, n)[:, None])
    return np.stack([pt, *(width * rng.standard_normal((2, n, slots)))], axis=-1)


def test_energy_flow_polynomials_are_sums_over_quadruples() -> None:
    jets = cones(3, width=0.4, seed=1, slots=5)
    jets[0, :, 2] += np.pi  # across the seam
    found = energy_flow_polynomials(np.where(jets[..., 2:] > np.pi, jets - [0, 0, 2 * np.pi], jets))
    for row, jet in zip(found, jets, strict=True):
        d = np.hypot(jet[:, None, 1] - jet[:, 1], jet[:, None, 2] - jet[:, 2])
        for value, edges in zip(row, GRAPHS, strict=True):
            total = sum(
                np.prod([jet[i, 0] for i in four]) * np.prod([d[four[a], four[b]] for a, b in edges])
                for four in itertools.product(range(len(jet)), repeat=4)
            )
            assert value == pytest.approx(total, rel=1e-9)


def test_masses_are_those_of_four_vectors() -> None:
    jets = cones(4, width=0.3, seed=2)
    pt, eta, phi = np.moveaxis(jets, -1, 0)
    p = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)]).sum(axis=2)
    assert relative_masses(jets) == pytest.approx(np.sqrt(p[0] ** 2 - p[1] ** 2 - p[2] ** 2 - p[3] ** 2))


def test_quality_tells_other_jets_from_the_same() -> None:
    real, same, wider = (
        cones(120, width=0.2, seed=1),
        cones(120, width=0.2, seed=2),
        cones(120, width=0.3, seed=3),
    )
    options: dict[str, Any] = {"batch_size": 2000, "n_batches": 3, "coverage_batches": 1, "coverage_size": 25}
    near, far = (measure_jet_quality(real, x, **options) for x in (same, wider))
    for name in ("w1_mass", "w1_particles", "w1_efp"):
        assert getattr(near, name).value < 0.5 * getattr(far, name).value, name
    assert near.coverage.mmd.value < far.coverage.mmd.value
    with pytest.raises(InputError, match=r"generated must be finite pT"):
        measure_jet_quality(real, -real, **options)
