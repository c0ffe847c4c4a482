"""Who may import whom: every module is imported in a fresh process, which then says what it loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evenet_hep

ROOT = Path(evenet_hep.__file__).parent

HEAVY = (
    "torch",
    "awkward",
    "coffea",
    "dask",
    "distributed",
    "dask_awkward",
    "iminuit",
    "hist",
    "matplotlib",
    "lightning",
    "uproot",
    "pyarrow",
    "xgboost",
    "tabpfn",
    "zuko",
    "sklearn",
    "pythia8mc",
    "fastjet",
)

# Room -> heavy packages it may load, and rooms of ours it may load.
NUMPY_ONLY: tuple[set[str], set[str]] = (set(), {"schema", "topology", "errors", "kinematics", "share"})
RULES: dict[str, tuple[set[str], set[str]]] = {
    "schema": NUMPY_ONLY,
    "topology": NUMPY_ONLY,
    "errors": NUMPY_ONLY,
    "share": NUMPY_ONLY,
    "kinematics": NUMPY_ONLY,
    "events": (
        {"awkward", "uproot", "pyarrow"},
        {"events", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "model": ({"torch"}, {"model", "schema", "topology", "errors", "kinematics", "share"}),
    "stats": ({"hist", "iminuit", "matplotlib"}, {"stats", "schema", "errors", "kinematics"}),
    # xgboost, tabpfn and zuko are loaded when they are used.
    "baselines": (
        {"torch"},
        {"baselines", "model", "stats", "events", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "simulate": (
        {"awkward", "uproot", "pyarrow"},
        {"simulate", "schema", "errors", "kinematics", "share"},
    ),
    "records": (
        {"awkward", "uproot", "pyarrow"},
        {"records", "events", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "conversion": (
        {"awkward", "uproot", "pyarrow"},
        {"conversion", "events", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "training": (
        {"awkward", "torch", "lightning", "pyarrow", "matplotlib"},  # Lightning's metrics bring matplotlib
        {"training", "events", "model", "stats", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "evaluation": (
        {"awkward", "torch", "lightning", "pyarrow", "uproot", "iminuit", "matplotlib"},
        {
            "evaluation",
            "training",
            "plot",
            "events",
            "model",
            "stats",
            "schema",
            "topology",
            "errors",
            "kinematics",
            "share",
        },
    ),
    "graph_scores": (
        {"awkward", "torch", "uproot", "pyarrow"},
        {"graph_scores", "records", "events", "model", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "inference": (
        {"awkward", "torch", "uproot", "pyarrow"},
        {"inference", "records", "events", "model", "schema", "topology", "errors", "kinematics", "share"},
    ),
    "jet_studies": (
        {"awkward", "torch", "uproot", "pyarrow", "hist", "iminuit", "matplotlib"},
        {
            "jet_studies",
            "training",
            "events",
            "model",
            "stats",
            "schema",
            "topology",
            "errors",
            "kinematics",
            "share",
        },
    ),
    # The package of lazy arrays is an extra, loaded when it is asked for.
    "lazy": ({"awkward", "pyarrow"}, {"lazy", "errors"}),
    "variations": (
        {"awkward", "uproot", "pyarrow"},
        {"variations", "events", "schema", "topology", "errors", "kinematics", "share"},
    ),
}

PROBE = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def modules() -> list[str]:
    names = ["evenet_hep"]
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in RULES:
            names.append(".".join(("evenet_hep", *parts)).removesuffix(".__init__"))
    return names


def loaded_by(module: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(result.stdout))


@pytest.mark.parametrize("room", ["evenet_hep", *RULES])
def test_rooms_load_only_what_they_may(room: str) -> None:
    inside = [m for m in modules() if m == room or m.split(".")[1:2] == [room]]
    if not inside:
        pytest.skip(f"{room} is not built yet")
    packages, rooms = RULES.get(room, (set(), set()))
    program = "import importlib, json, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program, *inside], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(json.loads(result.stdout))
    forbidden = sorted(package for package in HEAVY if package in loaded and package not in packages)
    assert not forbidden, f"{room} loads {forbidden}"
    ours = {name.split(".")[1] for name in loaded if name.startswith("evenet_hep.")}
    assert ours <= {*rooms, room}, f"{room} imports {sorted(ours - rooms - {room})}"


def test_the_rules_cover_real_modules() -> None:
    rooms = {m.split(".")[1] for m in modules() if "." in m}
    assert {"schema", "kinematics", "events", "model", "inference"} <= rooms
    assert "awkward" in loaded_by("evenet_hep.events.cloud")


def test_import_is_fast_and_light() -> None:
    assert not loaded_by("evenet_hep") & {*HEAVY, "numpy", "numba"}
    program = "import time; t = time.perf_counter(); import evenet_hep; print(time.perf_counter() - t)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        seconds.append(
            float(
                subprocess.run(
                    [sys.executable, "-c", program], capture_output=True, text=True, check=True
                ).stdout
            )
        )
        assert time.perf_counter() - start < 60
    assert min(seconds) < 0.3


def test_public_names() -> None:
    assert dir(evenet_hep) == evenet_hep.__all__
    for name in evenet_hep.__all__:
        assert getattr(evenet_hep, name) is not None
    with pytest.raises(AttributeError, match="has no 'EvenNet'; it has EveNet"):
        _ = evenet_hep.EvenNet
