"""The documentation builds without a warning, its notebook runs, its guides run, and every public name is in it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import evenet_hep
from evenet_hep.share import sample_files

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {path.stem: path for path in sorted((DOCS / "how-to").glob("*.md")) if path.stem != "index"}
# Guides that need an extra, and the packages it brings.
EXTRAS = {"baselines": ("xgboost", "zuko")}
BUILDERS = ("sphinx", "myst_nb", "furo", "sphinx_copybutton")
MISSING = [name for name in BUILDERS if importlib.util.find_spec(name) is None]

needs_sphinx = pytest.mark.skipif(
    bool(MISSING), reason=f"the extra docs is not installed: {', '.join(MISSING)}"
)


def run(words: list[str], cwd: Path, *, timeout: float = 600) -> str:
    """What a command prints; its whole output in the failure if it fails."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as HTML, built in a folder of its own."""
    folder = tmp_path_factory.mktemp("docs")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    run([*words, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")], folder)
    return folder / "html"


@needs_sphinx
def test_tutorial_was_executed(site: Path) -> None:
    source = (DOCS / "tutorials" / "score_your_first_events.md").read_text(encoding="utf-8")
    page = (site / "tutorials" / "score_your_first_events.html").read_text(encoding="utf-8")
    outputs = page.split('<div class="cell_output')[1:]
    drawn = [name for output in outputs for name in re.findall(r'src="\.\./(_images/[^"]+\.png)"', output)]
    assert len(drawn) == source.count("plt.subplots(") > 0
    for name in drawn:
        assert (site / name).read_bytes().startswith(b"\x89PNG")
    text = re.sub(r"<[^>]+>", "", "".join(outputs))
    assert re.search(r"mean probability of TT: 0\.\d\d", text)
    assert "400 events" in text  # 200 in each of the two files
    assert "Traceback" not in text


@needs_sphinx
def test_public_names_are_in_the_reference(site: Path) -> None:
    header, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert b"Sphinx inventory version 2" in header
    lines = [line.split() for line in zlib.decompress(packed).decode().splitlines()]
    documented = {words[0] for words in lines if words[1].startswith("py:")}
    assert {f"evenet_hep.{name}" for name in evenet_hep.__all__} <= documented


def python_blocks(name: str) -> str:
    """The Python of a guide as one script."""
    text = GUIDES[name].read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


def commands(name: str) -> list[list[str]]:
    """The words of every command of a guide."""
    lines = GUIDES[name].read_text(encoding="utf-8").splitlines()
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("name", sorted(set(GUIDES) - {"processors"}))
def test_guide_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coffea.nanoevents import NanoAODSchema  # noqa: PLC0415  a second; the other tests do without

    from evenet_hep.cli import app  # noqa: PLC0415

    for package in EXTRAS.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)  # guides set it; here it is set back
    for path in sample_files().values():
        shutil.copy(path, tmp_path)
    for program, *words in commands(name):
        assert program == "evenet-hep"
        assert app(words, standalone_mode=False) in (None, 0)
    script = python_blocks(name)
    assert script
    exec(compile(script, GUIDES[name], "exec"), {"__name__": "guide"})


@pytest.mark.slow
def test_guide_to_processors_runs(tmp_path: Path) -> None:
    # A process of its own, and no script: there, as in a notebook, the workers of an executor have nothing to import.
    run([sys.executable, "-W", "error", "-c", python_blocks("processors")], tmp_path)
