"""Files and events shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

# Small batches on shared machines: threads that wait for each other cost more than they give. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from evenet_hep.share import sample_files

# The same examples in every run; `--hypothesis-profile=default` looks for new ones. Machines are shared, so slow is no failure.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")

SHARED = Path(os.environ.get("EVENET_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def samples() -> dict[str, Path]:
    """The NanoAOD files of the package, by file stem."""
    return {path.stem: path for path in sample_files().values()}


@pytest.fixture
def shared_data() -> Path:
    """Real and generated events that lie beside some checkouts; tests of them skip without."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder
