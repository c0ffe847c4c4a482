"""Reference numbers for CKA, the triangular discriminator and W1, computed outside this package.

The large sets lie beside some checkouts and are skipped without.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evenet_hep.stats.generation import triangular_discriminator, w1_distance
from evenet_hep.stats.similarity import cka

HERE = Path(__file__)
# The variable decides alone if it is set; otherwise the folder lies in or beside the checkout.
CANDIDATES = (
    [Path(os.environ["EVENET_SHARED"])]
    if "EVENET_SHARED" in os.environ
    else [HERE.parents[2] / "shared", HERE.parents[3] / "shared"]
)
FOLDER = next((path / "vectors" for path in CANDIDATES if (path / "vectors").is_dir()), None)


def similarity(given: dict[str, Any]) -> dict[str, float]:
    x, y = given["X"], given["Y"]
    return {
        "linear": cka(x, y),
        "rbf_half_median": cka(x, y, kernel="rbf", threshold=0.5),
        "rbf_median": cka(x, y, kernel="rbf", threshold=1.0),
        "debiased_linear": cka(x, y, debiased=True),
    }


def triangular(given: dict[str, Any]) -> dict[str, float]:
    edges = given["edges"]
    return {"value": triangular_discriminator((given["p"], edges), (given["q"], edges)).value}


def w1(given: dict[str, Any]) -> dict[str, float]:
    weights = {"real_weights": given["wa"], "generated_weights": given["wb"]}
    return {"value": w1_distance(given["a"], given["b"], **weights)}


COMPUTE = {"cka": similarity, "triangular_discriminator": triangular, "w1": w1}


def cases() -> list[Any]:
    if FOLDER is None:
        return []
    document = json.loads((FOLDER / "metrics.json").read_text())
    tolerance = document["tolerance"]
    chosen = [case for case in document["cases"] if case["function"] in COMPUTE]
    return [pytest.param(case, tolerance, id=case["id"]) for case in chosen]


@pytest.mark.skipif(FOLDER is None, reason="no reference numbers beside this checkout")
@pytest.mark.parametrize(("case", "tolerance"), cases())
def test_reference_numbers(case: dict[str, Any], tolerance: dict[str, Any]) -> None:
    got = COMPUTE[case["function"]](case["input"])
    assert got == pytest.approx(case["expected"], rel=tolerance["rtol"], abs=tolerance["atol"])
