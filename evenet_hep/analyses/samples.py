"""Samples of events an analysis reads: the folder of ``evenet-hep simulate``, or a user's own NanoAOD files.

A user's own samples stand in a YAML file:

.. code-block:: yaml

    samples:
      TT1L:
        files: [tt/*.root]          # relative to the YAML file
        cross_section_pb: 365.3
        sum_of_weights: 1.0e6       # over all generated events, before any skim
      data_2016H:
        files: [data/*.root]        # no cross-section: collision data
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coffea import processor
from coffea.nanoevents import NanoAODSchema

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.training.settings import read_yaml


class EventSample(NamedTuple):
    """Files of one process.

    Parameters
    ----------
    name : str
        Of the sample.
    files : tuple of Path
        NanoAOD files.
    cross_section : float
        In pb, with branching fractions, before any skim of the files; NaN for collision data.
    sum_of_weights : float
        Of the generator, over all events before the skim; NaN for collision data.
    details : dict
        Everything else that is known, such as the parameters of a signal.
    """

    name: str
    files: tuple[Path, ...]
    cross_section: float
    sum_of_weights: float
    details: dict[str, Any]

    @property
    def is_data(self) -> bool:
        """Whether these are collision data."""
        return math.isnan(self.cross_section)

    def event_weight(self, luminosity: float) -> float:
        """What a generator weight is multiplied with; 1 for collision data.

        Parameters
        ----------
        luminosity : float
            In 1/fb.
        """
        return 1.0 if self.is_data else 1000.0 * luminosity * self.cross_section / self.sum_of_weights


def read_samples(source: str | Path) -> dict[str, EventSample]:
    """Samples by name.

    Parameters
    ----------
    source : path
        A folder with ``dataset.json`` as ``evenet-hep simulate`` writes it, or a YAML file as in the text above.

    Raises
    ------
    FileError
        If there is nothing of the kind, or a file is missing.
    ConfigError
        For a sample without files, or with a cross-section and no sum of weights.
    """
    source = Path(source)
    if source.is_dir():
        listing = source / "dataset.json"
        if not listing.exists():
            msg = (
                f"{source} holds no simulated events: dataset.json is missing; evenet-hep simulate writes it"
            )
            raise FileError(msg)
        try:
            content = json.loads(listing.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"cannot read {listing}: {error}"
            raise FileError(msg) from error
        folder = source
    else:
        content, folder = read_yaml(source), source.parent
    samples = content.get("samples")
    if not isinstance(samples, Mapping) or not samples:
        msg = f"{source} must hold samples; found {samples!r}"
        raise ConfigError(msg)
    return {str(name): _sample(str(name), known, folder) for name, known in samples.items()}


def _sample(name: str, known: Any, folder: Path) -> EventSample:
    if not isinstance(known, Mapping) or not known.get("files"):
        msg = f"sample {name!r} must name its files; found {known!r}"
        raise ConfigError(msg)
    files = [path for pattern in known["files"] for path in _match(folder, str(pattern))]
    cross_section = known.get("reference_pb") or known.get("cross_section_pb")
    total = known.get("sum_of_weights")
    if cross_section is not None and not total:
        msg = f"sample {name!r} has a cross-section, so it needs sum_of_weights; found {total!r}"
        raise ConfigError(msg)
    details = {key: value for key, value in known.items() if key != "files"}
    if cross_section is None or total is None:
        return EventSample(name, tuple(files), math.nan, math.nan, details)
    return EventSample(name, tuple(files), float(cross_section), float(total), details)


def _match(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
    if not found or not all(path.is_file() for path in found):
        msg = f"no file matches {pattern!r} in {folder}"
        raise FileError(msg)
    return found


def choose(samples: Mapping[str, EventSample], names: Iterable[str]) -> dict[str, EventSample]:
    """Some of the samples, in the order asked for.

    Raises
    ------
    ConfigError
        For a name that is not there; the message lists those that are.
    """
    wanted = list(names)
    if missing := [name for name in wanted if name not in samples]:
        msg = f"there is no sample {missing[0]!r}; samples are {', '.join(sorted(samples))}"
        raise ConfigError(msg)
    return {name: samples[name] for name in wanted}


class AnalysisSchema(NanoAODSchema):  # type: ignore[misc]
    """NanoAOD without warnings about cross-references; in a class, so that they stay away in every process."""

    warn_missing_crossrefs = False


def run_processor(
    samples: Mapping[str, EventSample],
    instance: processor.ProcessorABC,
    *,
    cores: int = 1,
    progress: bool = False,
    chunk_size: int = 100_000,
) -> dict[str, Any]:
    """Run a coffea processor over samples on this machine.

    Parameters
    ----------
    samples : mapping of str to EventSample
        What to read; names become coffea's data set names.
    instance : coffea.processor.ProcessorABC
        The processor.
    cores : int
        Processes; with 1 everything happens in this one.
    progress : bool
        Draw coffea's progress bar.
    chunk_size : int
        Events at once.

    Returns
    -------
    dict
        What the processor accumulated.
    """
    executor = (
        processor.IterativeExecutor(status=progress)
        if cores == 1
        else processor.FuturesExecutor(workers=cores, status=progress)
    )
    fileset = {
        name: {"files": {str(path.absolute()): "Events" for path in sample.files}}
        for name, sample in samples.items()
    }
    runner = processor.Runner(executor, schema=AnalysisSchema, chunksize=chunk_size)
    with warnings.catch_warnings():
        # coffea replaces mass and charge of photons and says so for every chunk
        warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
        return dict(runner(fileset, instance))
