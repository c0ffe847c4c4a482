"""TabPFN behind our face, with a stand-in of its interface: the weights of the real network cannot be had here."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.baselines.tabpfn import PUBLISHED_ROWS, TabpfnConfig, fit_tabpfn
from evenet_hep.errors import ConfigError, InputError


class StandIn:
    """Takes the options of ``TabPFNClassifier`` by name, answers with the class of the nearest row it was shown."""

    fails: BaseException | None = None

    def __init__(
        self,
        *,
        n_estimators: int,
        balance_probabilities: bool,
        ignore_pretraining_limits: bool,
        model_path: str,
        device: str,
        random_state: int,
    ) -> None:
        self.options = dict(locals())
        self.batches: list[int] = []

    def fit(self, x: np.ndarray, y: np.ndarray) -> StandIn:
        if self.fails is not None:
            raise self.fails
        self.x, self.y = x, y
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        self.batches.append(len(x))
        nearest = np.nansum((x[:, None] - self.x[None]) ** 2, axis=2).argmin(axis=1)
        return np.asarray(np.eye(self.y.max() + 1, dtype=np.float32)[self.y[nearest]])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """A module ``tabpfn`` with a class of its own, so that no test changes what another sees."""

    class Own(StandIn):
        pass

    module, errors = types.ModuleType("tabpfn"), types.ModuleType("tabpfn.errors")
    module.__dict__["TabPFNClassifier"] = Own
    errors.__dict__["TabPFNError"] = type("TabPFNError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "tabpfn", module)
    monkeypatch.setitem(sys.modules, "tabpfn.errors", errors)
    return Own


def events(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.array([3, 8])[rng.integers(0, 2, n)]
    return rng.normal(labels[:, None], 0.5, (n, 2)), labels


def test_published_settings_reach_the_estimator(stand_in: type[StandIn]) -> None:
    found = fit_tabpfn(*events(30), config=TabpfnConfig(seed=5))
    options = found.estimator.options
    assert PUBLISHED_ROWS == TabpfnConfig().max_rows == 50_000
    assert options["balance_probabilities"] is True
    assert options["ignore_pretraining_limits"] is True
    assert (options["random_state"], options["model_path"], options["device"]) == (5, "auto", "auto")


def test_probabilities_in_the_order_of_the_classes_and_in_batches(stand_in: type[StandIn]) -> None:
    features, labels = events(300)
    found = fit_tabpfn(features, labels, config=TabpfnConfig(batch_size=128))
    p = found.predict(features)
    assert found.classes.tolist() == [3, 8]
    assert found.classes[p.argmax(axis=1)].tolist() == labels.tolist()
    assert found.estimator.batches == [128, 128, 44]
    assert p.dtype == np.float64
    assert found.predict(np.zeros((0, 2))).shape == (0, 2)
    with pytest.raises(InputError, match=r"shape \(n_events, 2\)"):
        found.predict(features[:, :1])


def test_rows_are_drawn_once_each_by_weight_and_seed(stand_in: type[StandIn]) -> None:
    features, labels = events(400)
    weights = np.where(np.arange(400) < 200, 1.0, 0.0)
    first, again, other = (
        fit_tabpfn(features, labels, weights=weights, config=TabpfnConfig(max_rows=100, seed=seed))
        for seed in (1, 1, 2)
    )
    assert len(set(first.rows.tolist())) == 100
    assert first.rows.max() < 200
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)
    np.testing.assert_array_equal(first.estimator.x, features[first.rows])
    assert len(fit_tabpfn(features, labels).rows) == 400


@pytest.mark.parametrize(
    ("weights", "max_rows", "message"),
    [
        (np.arange(1.0, 41.0), 50, "knows no weights: those of 40 rows"),
        (np.eye(40)[0], 20, "20 rows cannot be drawn from 1 events"),
        (-np.ones(40), 20, "none negative"),
    ],
)
def test_weights_that_cannot_be_used(
    stand_in: type[StandIn], weights: np.ndarray, max_rows: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_tabpfn(*events(40), weights=weights, config=TabpfnConfig(max_rows=max_rows))


def test_a_class_that_was_not_drawn(stand_in: type[StandIn]) -> None:
    features, labels = events(40)
    with pytest.raises(InputError, match="the 2 rows that were drawn must hold all 3 classes"):
        fit_tabpfn(features, np.where(np.arange(40) == 0, 9, labels), config=TabpfnConfig(max_rows=2))


@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "TabPFNError"])
def test_without_weights_one_clear_sentence(stand_in: type[StandIn], kind: str) -> None:
    errors: dict[str, Any] = {"RuntimeError": RuntimeError, "OSError": OSError}
    error = errors.get(kind) or sys.modules["tabpfn.errors"].__dict__["TabPFNError"]
    stand_in.fails = error("\nno route to host\nlong story")
    with pytest.raises(
        InputError, match=r"could not be downloaded: .* weights_file. It says: no route to host$"
    ):
        fit_tabpfn(*events(20))


def test_weights_from_a_file(stand_in: type[StandIn], tmp_path: Path) -> None:
    path = tmp_path / "tabpfn.ckpt"
    with pytest.raises(
        InputError, match="weights_file must be a file with TabPFN's weights; found nothing at"
    ):
        fit_tabpfn(*events(20), config=TabpfnConfig(weights_file=str(path)))
    path.write_bytes(b"weights")
    found = fit_tabpfn(*events(20), config=TabpfnConfig(weights_file=str(path)))
    assert found.estimator.options["model_path"] == str(path)
    stand_in.fails = RuntimeError("not a checkpoint")
    with pytest.raises(InputError, match=r"its weights '.*tabpfn.ckpt' cannot be used"):
        fit_tabpfn(*events(20), config=TabpfnConfig(weights_file=str(path)))


def test_mistakes_of_the_program_are_not_called_missing_weights(stand_in: type[StandIn]) -> None:
    stand_in.fails = TypeError("a mistake")
    with pytest.raises(TypeError, match="a mistake"):
        fit_tabpfn(*events(20))


def test_without_tabpfn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tabpfn", None)
    with pytest.raises(InputError, match=r"needs tabpfn; install evenet-hep\[tabpfn\]"):
        fit_tabpfn(*events(20))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="max_rows must be at least 2; found 1"):
        TabpfnConfig(max_rows=1)
