"""Configuration of the documentation; build it with ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

# ruff: noqa: ARG001  Sphinx says which arguments its events have

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numba

numba.config.DISABLE_JIT = True  # only here: the reference shows the signatures of compiled functions

import evenet_hep

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "evenet_hep"
author = "The evenet_hep developers"
copyright = f"2026, {author}"
version = release = evenet_hep.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/jupyter_execute", "**/.ipynb_checkpoints"]

# A {py:obj} reference in these pages that leads nowhere is a warning, and warnings are errors. Docstrings are read in
# the terminal first: their types and short names need not be links.
nitpicky = True
nitpick_ignore_regex = [(r"py:(class|data|exc|func|meth|mod)", r".*")]
toc_object_entries = False  # thousands of entries would be copied into the side bar of every page
suppress_warnings = ["ref.python"]  # one name in two modules: the first is linked

html_theme = "furo"
html_title = f"evenet_hep {version}"

# The notebooks are executed in every build. What they write goes to a temporary folder; what they warn about fails.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "warn"
os.environ.setdefault("OMP_NUM_THREADS", "2")

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_typehints = "none"  # types, shapes and units stand in the docstrings
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Names that users import from the package; they are documented under the name they are imported by.
PUBLIC = {name: getattr(evenet_hep, name) for name in evenet_hep.__all__ if not name.startswith("__")}


def setup(app: Sphinx) -> None:
    """Fill in what is taken from the code, and leave out what says nothing."""
    app.connect("source-read", _insert_modules)
    app.connect("source-read", _insert_commands)
    app.connect("autodoc-skip-member", _skip_field_aliases)
    app.connect("autodoc-process-docstring", _escape_bars)


def _insert_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the documentation of all modules of a room in place of ``<!-- modules: evenet_hep.events -->``."""
    source[0] = re.sub(r"<!-- modules: (\S+) -->", lambda found: _modules(found[1]), source[0])


def _modules(room: str) -> str:
    package = importlib.import_module(room)
    names = [
        found.name
        for found in pkgutil.walk_packages(package.__path__, f"{room}.")
        if not found.ispkg and not found.name.rpartition(".")[2].startswith("_")
    ]
    return "\n\n".join(_module(name) for name in names)


def _module(name: str) -> str:
    public = [key for key, value in PUBLIC.items() if value.__module__ == name]
    elsewhere = f"   :exclude-members: {', '.join(public)}\n" if public else ""
    return f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n{elsewhere}```"


def _insert_commands(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the help of every command in place of ``<!-- commands -->``."""
    if "<!-- commands -->" in source[0]:
        words = [sys.executable, "-m", "typer", "evenet_hep.cli", "utils", "docs", "--name", "evenet-hep"]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout  # noqa: S603  our own words
        source[0] = source[0].replace("<!-- commands -->", text[text.index("\n## ") :])


def _skip_field_aliases(
    app: Sphinx,
    what: str,
    name: str,
    member: Any,
    skip: bool,
    options: Any,
) -> bool | None:
    """Leave out "Alias for field number 0": the fields of a NamedTuple are described in its docstring."""
    text = inspect.getdoc(member) or ""
    return True if text.startswith("Alias for field number") else None


def _escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the bars of |m| in running text: reStructuredText would look for a substitution of that name."""
    in_example = False
    for i, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            parts = re.split(r"(``.*?``)", line)
            lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)
