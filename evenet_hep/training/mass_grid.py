"""A grid of signal masses: one fine-tuning per point, here or on a Dask cluster, with a table and a map at the end.

Every finished point is a file; a grid that was cut off goes on with the points that are missing.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.training.history import write_text

Numbers = Mapping[str, float]


class GridResult(NamedTuple):
    """What was measured on a grid.

    Attributes
    ----------
    axes : tuple of str
        Names of the masses.
    points : tuple of tuple of float
        Masses in GeV of every point.
    numbers : tuple of dict
        What was measured there, in the order of the points.
    failed : dict of tuple to str
        What went wrong, by point; empty if all went well.
    """

    axes: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]
    numbers: tuple[dict[str, float], ...]
    failed: dict[tuple[float, ...], str]

    def to_csv(self, path: str | Path) -> None:
        """Write the table, one row per point."""
        names = list(dict.fromkeys(name for row in self.numbers for name in row))
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([*self.axes, *names])
        for point, row in zip(self.points, self.numbers, strict=True):
            writer.writerow([*point, *(row.get(name, "") for name in names)])
        write_text(Path(path), text.getvalue())

    def to_json(self, path: str | Path) -> None:
        """Write the table as a list of objects."""
        rows = [
            dict(zip(self.axes, point, strict=True)) | row
            for point, row in zip(self.points, self.numbers, strict=True)
        ]
        write_text(Path(path), json.dumps(rows, indent=1))


def train_grid(
    points: Iterable[Sequence[float]],
    train_point: Callable[[tuple[float, ...], Path], Numbers],
    folder: str | Path,
    *,
    axes: Sequence[str] = ("mass_x", "mass_y"),
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> GridResult:
    """Train and measure at every point of a grid.

    Parameters
    ----------
    points : iterable of sequences of float
        Masses in GeV.
    train_point : callable
        ``train_point(point, folder)`` trains at one point and gives numbers such as an AUC. It may use the folder, which
        is its own, for a run that can be resumed. On a cluster it has to be a function of an importable module, or one
        that can be pickled, and the folder has to be seen by all workers.
    folder : path
        Of the grid: ``grid.csv``, ``grid.json``, and a folder with ``result.json`` for each point.
    axes : sequence of str
        Names of the masses.
    client : dask.distributed.Client, optional
        Where to train; here, one point after the other, if left out.
    progress : callable, optional
        Called with the number of points done and of all points.

    Returns
    -------
    GridResult
        A point that failed does not stop the others; it is tried again next time.

    Raises
    ------
    ConfigError
        For points of another length than ``axes``, or that are there twice.

    Examples
    --------
    >>> import tempfile
    >>> def train_point(point, folder):
    ...     return {"auc": point[0] / 1000}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = train_grid([(500, 90), (700, 200)], train_point, folder)
    >>> [round(numbers["auc"], 2) for numbers in found.numbers]
    [0.5, 0.7]
    """
    home, names = Path(folder), tuple(axes)
    grid = [tuple(float(value) for value in point) for point in points]
    if wrong := [point for point in grid if len(point) != len(names)]:
        msg = f"every point must have {len(names)} masses ({', '.join(names)}); found {wrong[0]}"
        raise ConfigError(msg)
    if len(set(grid)) < len(grid):
        msg = f"every point may be there once; found {len(grid) - len(set(grid))} twice"
        raise ConfigError(msg)
    places = {point: home / "-".join(f"{value:g}" for value in point) for point in grid}
    done = {point: found for point in grid if (found := _read(places[point])) is not None}
    failed: dict[tuple[float, ...], str] = {}
    missing = [point for point in grid if point not in done]
    for point, outcome in _outcomes(missing, train_point, places, client):
        if isinstance(outcome, Exception):
            failed[point] = f"{type(outcome).__name__}: {outcome}"
        else:
            done[point] = outcome
        if progress is not None:
            progress(len(done) + len(failed), len(grid))
    kept = tuple(point for point in grid if point in done)
    result = GridResult(names, kept, tuple(done[point] for point in kept), failed)
    result.to_csv(home / "grid.csv")
    result.to_json(home / "grid.json")
    return result


def _outcomes(
    points: Sequence[tuple[float, ...]],
    train_point: Callable[[tuple[float, ...], Path], Numbers],
    places: Mapping[tuple[float, ...], Path],
    client: Any,
) -> Iterable[tuple[tuple[float, ...], dict[str, float] | Exception]]:
    if client is None:
        for point in points:
            try:
                yield point, _one(train_point, point, places[point])
            except Exception as failure:  # noqa: BLE001  reported with its point; the others go on
                yield point, failure
        return
    futures = [client.submit(_one, train_point, point, places[point], pure=False) for point in points]
    for point, future in zip(points, futures, strict=True):
        error = future.exception()
        yield point, future.result() if error is None else error


def _one(
    train_point: Callable[[tuple[float, ...], Path], Numbers], point: tuple[float, ...], place: Path
) -> dict[str, float]:
    place.mkdir(parents=True, exist_ok=True)
    found = {str(name): float(value) for name, value in train_point(point, place / "run").items()}
    content = {name: value if math.isfinite(value) else None for name, value in found.items()}
    write_text(place / "result.json", json.dumps(content, indent=1))
    return found


def _read(place: Path) -> dict[str, float] | None:
    path = place / "result.json"
    if not path.is_file():
        return None
    try:
        content: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))
        return {name: math.nan if value is None else float(value) for name, value in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{path} is no result of a point: {error}; remove it to train the point again"
        raise FileError(msg) from error
