"""What an installed copy must hold, and what the repository may ship."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

import evenet_hep
from evenet_hep.share import dimuon_file, sample_files

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_is_packaged() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "evenet_hep").rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders | {"evenet_hep.processors"}


def test_versions_agree() -> None:
    assert PYPROJECT["project"]["version"] == evenet_hep.__version__
    assert f"version: {evenet_hep.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_constraints_pin_the_working_set() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert pins["torch"] == "2.13.0"
    assert pins["dask"] == pins["distributed"] == "2025.3.1"
    assert pins["dask-awkward"] == "2026.2.1"


def test_readme_fits_a_screen_and_has_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 60
    start = text[text.index("## Start") : text.index("## Read on")]
    commands = [block.split("```")[0].strip() for block in start.split("```bash")[1:]]
    assert len(commands) == 2
    assert commands[0].endswith("evenet-hep demo")
    assert commands[1].endswith("-m pytest")


def test_shipped_data_are_small_and_their_origin_is_stated() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    sizes = {
        name: (ROOT / name).stat().st_size for name in tracked.stdout.splitlines() if (ROOT / name).is_file()
    }
    data = {
        name: size
        for name, size in sizes.items()
        if not name.endswith((".py", ".md", ".toml", ".yml", ".yaml", ".cff"))
    }
    assert sum(data.values()) < 5_000_000
    origins = (ROOT / "evenet_hep/share/nanoaod/README.md").read_text()
    for path in sample_files().values():
        assert f"`{path.name}`" in origins
    assert f"`{dimuon_file().name}`" in (dimuon_file().parent / "README.md").read_text()
