"""The optional packages of the simulation, imported where they are first needed."""

from __future__ import annotations

import contextlib
import importlib
from types import ModuleType

from evenet_hep.errors import ConfigError


def import_pythia() -> ModuleType:
    """The module ``pythia8mc``; a ConfigError that names the extra if it is missing."""
    return _import("pythia8mc")


def import_fastjet() -> ModuleType:
    """The module ``fastjet``; a ConfigError that names the extra if it is missing."""
    fastjet = _import("fastjet")
    with contextlib.suppress(
        AttributeError
    ):  # its banner would tear the progress bar; the guide says what to cite
        fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)
    return fastjet


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f'simulation needs {name}, which is not installed; install the extra: pip install "evenet-hep[sim]"'
        raise ConfigError(msg) from error
