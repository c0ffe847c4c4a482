"""The 41 kinematic labels against independently computed cases; the set lies beside some checkouts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenet_hep.events.kinematic_labels import LABELS, FlatMomenta, kinematic_labels

SHARED = Path(os.environ.get("EVENET_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    path = SHARED / "vectors" / "labels41.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside this checkout")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def flat(lists: list[list[list[float]]]) -> FlatMomenta:
    offsets = np.cumsum([0, *(len(each) for each in lists)])
    rows = np.array([row for each in lists for row in each], float).reshape(-1, 3)
    return FlatMomenta(offsets, *rows.T)


@pytest.mark.parametrize("n_labels", [38, 41])
def test_labels_of_all_cases_at_once(document: dict[str, Any], n_labels: int) -> None:
    inputs = [case["input"] for case in document["cases"]]
    found = kinematic_labels(
        flat([case["higgs"] for case in inputs]),
        flat([case["tops"] for case in inputs]),
        [case["n_W"] for case in inputs],
        [case["n_Z"] for case in inputs],
        n_labels=n_labels,
    )
    expected = np.array([case["expected"]["labels"] for case in document["cases"]])[:, :n_labels]
    wrong = [
        case["id"]
        for case, same in zip(document["cases"], (found.values == expected).all(axis=1), strict=True)
        if not same
    ]
    assert not wrong
    assert found.names == tuple(document["constants"]["label_names"][:n_labels])


def test_names_by_hand() -> None:
    assert len(LABELS) == 41
    assert LABELS[5:16] == tuple(
        f"higgs_{what}{i}" for what, n in (("pt", 3), ("eta", 4), ("phi", 4)) for i in range(n)
    )
