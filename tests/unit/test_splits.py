"""Splits by a hash of run, luminosity block and event number, checked against plain Python integers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from evenet_hep.errors import ConfigError
from evenet_hep.events.splits import event_hash, split_of

FRACTIONS = {"train": 0.7, "val": 0.2, "test": 0.1}


def hash_by_hand(run: int, lumi: int, event: int, salt: str) -> int:
    """Integers of any length, cut to 64 bits after every step."""
    state = 14695981039346656037
    for byte in salt.encode():
        state = (state ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    for number in (run, lumi, event):
        z = ((state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state = z ^ (z >> 31)
    return state


@pytest.mark.parametrize("salt", ["evenet-hep", "", "another"])
def test_hash_is_that_of_plain_integers(salt: str) -> None:
    rng = np.random.default_rng(1)
    run = rng.integers(-5, 2**32, 200)
    lumi = rng.integers(0, 2**16, 200)
    event = rng.integers(0, 2**64, 200, dtype=np.uint64)
    expected = [hash_by_hand(int(r), int(b), int(e), salt) for r, b, e in zip(run, lumi, event, strict=True)]
    assert event_hash(run, lumi, event, salt=salt).tolist() == expected


def test_splits_are_those_of_the_hash() -> None:
    event = np.arange(5000)
    found = split_of(np.ones(5000, np.uint32), np.full(5000, 7), event, FRACTIONS)
    shares = [hash_by_hand(1, 7, int(e), "evenet-hep") / 2**64 for e in event]
    assert found.tolist() == [0 if u < 0.7 else 1 if u < 0.9 else 2 for u in shares]


def test_fractions_are_met() -> None:
    found = split_of(1, np.repeat(np.arange(100), 1000), np.tile(np.arange(1000), 100), FRACTIONS)
    counts = np.bincount(found) / 100_000
    # Five binomial standard deviations.
    assert np.abs(counts - [0.7, 0.2, 0.1]).max() < 5 * np.sqrt(0.7 * 0.3 / 100_000)


def test_order_and_company_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    run, lumi, event = rng.integers(0, 1000, (3, 500))
    order = rng.permutation(500)
    whole = split_of(run, lumi, event, FRACTIONS)
    np.testing.assert_array_equal(split_of(run[order], lumi[order], event[order], FRACTIONS), whole[order])
    np.testing.assert_array_equal(split_of(run[:9], lumi[:9], event[:9], FRACTIONS), whole[:9])
    narrow = split_of(run.astype(np.int32), lumi.astype(np.uint16), event.astype(np.int32), FRACTIONS)
    np.testing.assert_array_equal(narrow, whole)


def test_python_hash_seed_does_not_matter() -> None:
    program = "from evenet_hep.events.splits import split_of; print(split_of([1] * 40, [2] * 40, range(40)).tolist())"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_a_larger_first_split_contains_the_smaller() -> None:
    small = split_of(1, 1, np.arange(2000), {"train": 0.3, "val": 0.7})
    large = split_of(1, 1, np.arange(2000), {"train": 0.6, "val": 0.4})
    assert set(np.flatnonzero(small == 0)) < set(np.flatnonzero(large == 0))


def test_edge_fractions() -> None:
    assert split_of(1, 1, np.arange(50), {"train": 1.0}).tolist() == [0] * 50
    assert split_of(1, 1, np.arange(50), {"train": 1.0, "val": 0.0}).max() == 0
    assert split_of(1, 1, np.arange(50), {"train": 0.0, "val": 1.0}).min() == 1


@pytest.mark.parametrize("wrong", [{}, {"train": 0.5}, {"train": 1.2, "val": -0.2}, {"train": float("nan")}])
def test_wrong_fractions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"add up to 1; found"):
        split_of(1, 1, [1], wrong)
