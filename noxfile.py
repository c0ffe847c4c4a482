#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2025.5.1"]
# ///
"""Sessions for development: nox -s lint tests docs."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"

PINS = ("-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy and sp-repo-review."""
    session.install(*PINS, "-e.[test,docs]", "--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("repo-review", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Fast tests, doctests and the documentation."""
    session.install(*PINS, "-e.[test,docs]")
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Documentation, warnings as errors; the tutorials are executed."""
    session.install(*PINS, "-e.[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Speeds, printed as ratios."""
    session.install(*PINS, "-e.[test]")
    session.run("pytest", "-m", "benchmark", "-s", "-n", "0", "tests/benchmarks", *session.posargs)


if __name__ == "__main__":
    nox.main()
