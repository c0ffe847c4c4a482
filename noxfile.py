#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2025.5.1"]
# ///
"""Sessions for development: nox -s lint tests docs."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"

DASK = ("dask", "distributed")  # what the newest-dask session does not pin
DASK_TESTS = ("tests/cluster", "tests/integration/test_lazy.py", "tests/integration/test_predictor.py")
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
def lazy(session: nox.Session) -> None:
    """Workers, executors and lazy arrays with dask-awkward and the dask that it works with."""
    session.install(*PINS, "-e.[train,test]")
    session.run("python", "-c", "import dask_awkward")  # else its tests would be skipped in silence
    session.run("pytest", *(session.posargs or DASK_TESTS))


@nox.session(default=False)
def newest_dask(session: nox.Session) -> None:
    """Workers, executors and lazy arrays with the newest dask, which dask-awkward does not work with."""
    pins = [line for line in Path("constraints.txt").read_text().splitlines() if not line.startswith(DASK)]
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    session.install("-c", str(constraints), "-e.[train,test-newest-dask]")
    session.install("--upgrade", "-c", str(constraints), "dask", "distributed")
    session.run("pytest", *(session.posargs or DASK_TESTS))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Documentation, warnings as errors; the tutorials are executed."""
    session.install(*PINS, "-e.[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Speeds, printed as ratios."""
    session.install(*PINS, "-e.[test]")
    folders = session.posargs or ("tests/benchmarks", "tests/cluster")
    session.run("pytest", "-m", "benchmark", "-s", "-n", "0", *folders)


if __name__ == "__main__":
    nox.main()
