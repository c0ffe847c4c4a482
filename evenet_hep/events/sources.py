"""Where training events come from: files, their class, the processes in them and their cross-section."""

from __future__ import annotations

import dataclasses
import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.events.columns import near_misses
from evenet_hep.topology import Topology, TopologyError


@dataclass(frozen=True)
class Source:
    """Files of one sample.

    Parameters
    ----------
    name : str
        Of the sample.
    label : str
        Its class; empty for events without one.
    files : sequence of str
        ROOT or Parquet files.
    processes : sequence of str, optional
        Processes of the event grammar that may be in it; by default all. Without generated particles in the files,
        naming any is an error.
    cross_section : float, optional
        In pb: the weights of all generated events add up to it. Without it they are the generator's.
    weight : float
        Factor on all weights.
    sum_weight : float, optional
        Sum of the generator weights of all generated events; by default that in the tree ``Runs``, or that of the
        events in the files.

    Examples
    --------
    >>> Source("TT", "TT", ["a.root"], cross_section=832).files
    ('a.root',)
    """

    name: str
    label: str
    files: tuple[str, ...]
    processes: tuple[str, ...] | None = None
    cross_section: float | None = None
    weight: float = 1.0
    sum_weight: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(map(str, self.files)))
        if self.processes is not None:
            object.__setattr__(self, "processes", tuple(self.processes))
        if not self.files:
            msg = f"source {self.name!r} has no files"
            raise ConfigError(msg)
        for key in ("cross_section", "weight", "sum_weight"):
            value = getattr(self, key)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not value > 0
            ):
                msg = f"source {self.name!r}: {key} must be a number above 0; found {value!r}"
                raise ConfigError(msg)

    def scale(self, sum_weight: float) -> float:
        """By which the generator weights are multiplied.

        Parameters
        ----------
        sum_weight : float
            Sum of the generator weights of all generated events.

        Raises
        ------
        ConfigError
            If there is a cross-section and the weights do not add up to more than 0.
        """
        if self.cross_section is None:
            return self.weight
        total = self.sum_weight or sum_weight
        if not total > 0:
            msg = f"source {self.name!r}: weights must add up to more than 0 for a cross-section; found {total:g}"
            raise ConfigError(msg)
        return self.weight * self.cross_section / total


def parse_sources(words: Sequence[str], *, processes: Sequence[str] = ()) -> list[Source]:
    """Sources from words such as ``TT=a.root,b.root``, ``samples.yaml`` or a folder of simulated events.

    Parameters
    ----------
    words : sequence of str
        ``CLASS=FILE[,FILE]``, where a file may be a pattern such as ``tt_*.root``; YAML files, see
        :func:`read_sources`; folders that ``evenet-hep simulate`` wrote, see :func:`read_simulated`.
    processes : sequence of str
        Names of the processes of the event grammar, for simulated events.

    Raises
    ------
    ConfigError
        For a word that is neither, and for names that are used twice.
    FileError
        For a pattern without files.

    Examples
    --------
    >>> [source.files for source in parse_sources(["TT=a.root,b.root", "QCD=c.root"])]
    [('a.root', 'b.root'), ('c.root',)]
    """
    sources: list[Source] = []
    for word in words:
        label, equals, files = word.partition("=")
        if equals and label and files:
            sources.append(Source(label, label, _expand(label, [f for f in files.split(",") if f], Path())))
        elif Path(word).suffix in (".yaml", ".yml"):
            sources += read_sources(word)
        elif (Path(word) / "dataset.json").is_file():
            sources += read_simulated(word, processes=processes)
        else:
            msg = f"a source must be CLASS=FILE[,FILE], a YAML file or a folder of simulated events; found {word!r}"
            raise ConfigError(msg)
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        msg = f"sources must have different names; {', '.join(repeated)} is there more than once (give all its files at once)"
        raise ConfigError(msg)
    if not sources:
        msg = "there must be at least one source; found none"
        raise ConfigError(msg)
    return sources


def read_sources(path: str | Path) -> list[Source]:
    """Sources of a YAML file: sample name -> class, files, and what else :class:`Source` has.

    Files are a list, a pattern, or a mapping of files to trees as coffea has it; relative ones count from the YAML
    file's folder. A sample without ``class`` is its own class; ``class: null`` means none.

    .. code-block:: yaml

        ttbar_1l:
          class: TT
          files: [ttbar_1l_0.root, ttbar_1l_1.root]
          processes: [TT1L]
          cross_section: 365.3

    Raises
    ------
    FileError
        If the file cannot be read, and for a pattern without files.
    ConfigError
        For unknown keys and values of the wrong kind; the message names the sample.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"cannot read the sources {path}: {error}"
        raise FileError(msg) from error
    if not isinstance(content, Mapping) or not content:
        msg = f"{path} must map the name of every sample to its class and files; found {content!r}"
        raise ConfigError(msg)
    return [_source(str(name), entry, path) for name, entry in content.items()]


def read_simulated(folder: str | Path, *, processes: Sequence[str] = ()) -> list[Source]:
    """The samples of a folder that ``evenet-hep simulate`` wrote, from its ``dataset.json``.

    The cross-section is the reference one where the sample has one, else that of the generator. Of a sample that was
    simulated as one of the given processes, only that process is looked for.

    Parameters
    ----------
    folder : str or Path
    processes : sequence of str
        Names of the processes of the event grammar.

    Raises
    ------
    FileError
        If there is no list of samples in it.
    """
    path = Path(folder) / "dataset.json"
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
        return [
            Source(
                str(label),
                str(sample["class"]),
                tuple(str(Path(folder) / file) for file in sample["files"]),
                (sample["process"],) if sample["process"] in processes else None,
                sample.get("reference_pb") or sample["cross_section_pb"],
            )
            for label, sample in samples.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        msg = f"{folder} is not a folder of simulated events: {path.name} has no list of samples"
        raise FileError(msg) from error


def _source(name: str, entry: object, path: Path) -> Source:
    keys = {"class", *(field.name for field in dataclasses.fields(Source))} - {"name", "label"}
    if not isinstance(entry, Mapping) or "files" not in entry:
        msg = f"{path}: sample {name!r} must have files; found {entry!r}"
        raise ConfigError(msg)
    if unknown := sorted(set(map(str, entry)) - keys):
        msg = f"{path}: sample {name!r} has unknown key {', '.join(unknown)}; allowed are {', '.join(sorted(keys))}"
        raise ConfigError(msg)
    values: dict[str, Any] = dict(entry)
    label = values.pop("class", name)
    files = values.pop("files")
    listed = [files] if isinstance(files, str) else list(files)
    processes = values.get("processes")
    if processes is not None and (
        isinstance(processes, str) or not all(isinstance(p, str) for p in processes)
    ):
        msg = f"{path}: sample {name!r}: processes must be a list of names; found {processes!r}"
        raise ConfigError(msg)
    return Source(name, "" if label is None else str(label), _expand(name, listed, path.parent), **values)


def _expand(name: str, files: Sequence[Any], folder: Path) -> tuple[str, ...]:
    """Files with patterns replaced by what they match, in order."""
    found: list[str] = []
    for file in map(str, files):
        where = str(folder / file)
        if not glob.has_magic(where):
            found.append(where)
        elif matches := sorted(glob.glob(where)):  # noqa: PTH207  the pattern may be absolute
            found += matches
        else:
            msg = f"source {name!r}: no file matches {where}"
            raise FileError(msg)
    if repeated := sorted({file for file in found if found.count(file) > 1}):
        msg = f"source {name!r} lists {', '.join(repeated)} more than once"
        raise ConfigError(msg)
    return tuple(found)


def check_sources(sources: Sequence[Source], classes: Sequence[str], topology: Topology) -> None:
    """Raise unless all classes and processes of the sources exist.

    Raises
    ------
    ConfigError
        For a class that the schema lacks; the message names the near misses.
    TopologyError
        For a process that the event grammar lacks.
    """
    known = [process.name for process in topology.processes]
    for source in sources:
        if source.label and source.label not in classes:
            msg = f"source {source.name!r} is of the class {source.label!r}, which the schema lacks; {near_misses(source.label, list(classes))}"
            raise ConfigError(msg)
        if unknown := sorted(set(source.processes or ()) - set(known)):
            msg = f"source {source.name!r} names the process {', '.join(unknown)}; {near_misses(unknown[0], known)}"
            raise TopologyError(msg)
