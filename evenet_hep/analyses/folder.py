"""The folder an analysis writes: its configuration, its steps, its tables and its figures.

::

    out/
      config.yaml          the settings that made everything else
      steps/NAME.json      numbers of a finished step; a second call of the analysis takes them from here
      NAME.csv, NAME.json  tables
      NAME.png             figures
      summary.json         the result in a few numbers
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from evenet_hep import __version__
from evenet_hep.errors import ConfigError, FileError
from evenet_hep.plot import save_figure
from evenet_hep.training.config import to_dict

Row = Mapping[str, Any]


class AnalysisReport(NamedTuple):
    """What an analysis has found and written.

    Parameters
    ----------
    summary : str
        A few sentences with the result and its uncertainty.
    numbers : dict
        The same numbers, by name; what ``summary.json`` holds.
    tables : dict of str to list of dict
        Rows by name of the table.
    figures : tuple of Path
        PNG files.
    out : Path
        The folder.
    """

    summary: str
    numbers: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]]
    figures: tuple[Path, ...]
    out: Path


class AnalysisFolder:
    """Where one analysis keeps what it has made, so that it can be cut off and go on.

    Parameters
    ----------
    out : path
        The folder; made if it is not there.
    config : dataclass
        Settings of the analysis. They are written to ``config.yaml``.

    Raises
    ------
    ConfigError
        If the folder holds results of other settings; the message names the first one that differs.
    FileError
        If the folder cannot be written.

    Examples
    --------
    >>> import dataclasses, tempfile
    >>> @dataclasses.dataclass(frozen=True)
    ... class Settings:
    ...     n_events: int = 100
    >>> with tempfile.TemporaryDirectory() as out:
    ...     folder = AnalysisFolder(out, Settings())
    ...     folder.step("count", lambda: {"passed": 42})
    ...     folder.step("count", lambda: {"passed": 43})  # done before: not computed again
    ...     path = folder.table("yields", [{"sample": "TT", "events": 42.0}])
    ...     print(path.read_text(), end="")
    {'passed': 42}
    {'passed': 42}
    sample,events
    TT,42.0
    """

    def __init__(self, out: str | Path, config: Any) -> None:
        self.out = Path(out)
        self.config = config
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.figures: list[Path] = []
        try:
            (self.out / "steps").mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            msg = f"cannot write the folder of the analysis {self.out}: {error}"
            raise FileError(msg) from error

    def _claim(self) -> None:
        content: dict[str, Any] = {
            "analysis": type(self.config).__name__,
            "evenet_hep": __version__,
            "settings": to_dict(self.config),
        }
        path = self.out / "config.yaml"
        if path.exists():
            there = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if difference := _difference(there.get("settings", {}), content["settings"]):
                msg = f"{self.out} holds results of other settings: {difference}; choose another folder or delete it"
                raise ConfigError(msg)
            return
        _write(path, yaml.safe_dump(content, sort_keys=False))

    def step(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Numbers of a step: computed and stored, or read if an earlier call has finished it.

        Parameters
        ----------
        name : str
            Of the step, a file name without ending.
        compute : callable
            Gives a dictionary that JSON can hold; NumPy numbers and arrays are turned into Python's.

        Returns
        -------
        dict
            As read back from JSON, whether computed now or before.
        """
        path = self.out / "steps" / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(plain(compute()), indent=1))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"cannot read the finished step {path}: {error}; delete it to have it done again"
            raise FileError(msg) from error
        return dict(found)

    def is_done(self, name: str) -> bool:
        """Whether a step is finished."""
        return (self.out / "steps" / f"{name}.json").exists()

    def home(self, name: str) -> Path:
        """A folder for what a step keeps beside its numbers, such as the checkpoints of a training."""
        place = self.out / "steps" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def table(self, name: str, rows: Iterable[Row]) -> Path:
        """Write a table as CSV and JSON, and return the path of the CSV file."""
        kept = [plain(dict(row)) for row in rows]
        self.tables[name] = kept
        columns = list(dict.fromkeys(column for row in kept for column in row))
        path = self.out / f"{name}.csv"
        fresh = path.with_name(f".{path.name}.part")
        with fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        fresh.replace(path)
        _write(path.with_suffix(".json"), json.dumps(kept, indent=1))
        return path

    def figure(self, name: str, figure: Figure) -> Path:
        """Write a figure as PNG, close it, and return its path."""
        path = save_figure(figure, self.out / f"{name}.png")
        plt.close(figure)
        self.figures.append(path)
        return path

    def report(self, summary: str, numbers: Mapping[str, Any]) -> AnalysisReport:
        """Write ``summary.json`` and return everything that was made through this object."""
        kept = plain(dict(numbers))
        _write(self.out / "summary.json", json.dumps({"summary": summary, **kept}, indent=1))
        return AnalysisReport(summary, kept, self.tables, tuple(self.figures), self.out)


def plain(value: Any) -> Any:
    """A value in types that JSON knows: NumPy numbers and arrays become Python's, numbers that are not finite None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(content) for key, content in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(content) for content in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _difference(there: Mapping[str, Any], ours: Mapping[str, Any], where: str = "") -> str:
    for key in dict.fromkeys([*there, *ours]):
        old, new = there.get(key), ours.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if found := _difference(old, new, f"{where}{key}."):
                return found
        elif old != new:
            return f"{where}{key} was {old!r} and is {new!r} now"
    return ""


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
    fresh.replace(path)
