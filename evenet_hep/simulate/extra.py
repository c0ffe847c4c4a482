"""The optional packages of the simulation, imported where they are first needed."""

from __future__ import annotations

import contextlib
from types import ModuleType

from evenet_hep.errors import ConfigError

_MISSING = 'evenet-hep simulate needs {name}, which is not installed; install the extra: pip install "evenet-hep[sim]"'


def import_pythia() -> ModuleType:
    """The module ``pythia8mc``; a ConfigError that names the extra if it is missing."""
    try:
        import pythia8mc  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(_MISSING.format(name="pythia8mc")) from error
    return pythia8mc


def import_fastjet() -> ModuleType:
    """The module ``fastjet``; a ConfigError that names the extra if it is missing."""
    try:
        import fastjet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(_MISSING.format(name="fastjet")) from error
    with contextlib.suppress(
        AttributeError
    ):  # its banner would tear the progress bar; the guide says what to cite
        fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)
    return fastjet
