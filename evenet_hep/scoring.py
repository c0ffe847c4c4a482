"""Scores for whole files: one Parquet table per file, with the identifiers that lead back to the events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.nanoaod import Branches
from evenet_hep.events.parquet import TableWriter, flat_records
from evenet_hep.events.reading import IDENTIFIERS, Chunk, inspect_file, is_url, read_chunks
from evenet_hep.inference import Predictor


def _silent(n_events: int) -> None:
    """Show no progress."""


class ScoredFile(NamedTuple):
    """One file of a prediction.

    Parameters
    ----------
    source, output : Path
        The file read and the table written; ``output`` is None for a file that was skipped.
    n_events : int
        Number of events scored.
    means : dict of str to float
        Mean of every class probability over the events with objects; NaN if there are none, empty without
        classification.
    seconds : float
        Time for reading, scoring and writing.
    error : str
        Why the file was skipped; empty if it was not.
    """

    source: Path
    output: Path | None
    n_events: int
    means: dict[str, float]
    seconds: float
    error: str = ""


def score_files(
    predictor: Predictor,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    tree: str = "Events",
    skip_bad: bool = False,
    chunk_size: int = 50_000,
    progress: Callable[[int], None] = _silent,
) -> list[ScoredFile]:
    """Score files one after the other; every table appears under its name only when it is complete.

    All files are opened before the first is scored, so that a wrong name or a missing tree is found before anything is
    written.

    Parameters
    ----------
    predictor : Predictor
        The network; its ``branches`` say what to read.
    files : sequence of str or Path
        ROOT or Parquet files.
    out : str or Path
        Folder for the tables, one per file and named after it.
    tree : str
        Name of the tree in ROOT files.
    skip_bad : bool
        Go on after a file that cannot be read or does not fit, and report it.
    chunk_size : int
        Events per chunk.
    progress : callable
        Called with the number of events after every chunk.

    Returns
    -------
    list of ScoredFile
        In the order of ``files``.

    Raises
    ------
    FileError, InputError
        For the first bad file, unless ``skip_bad``. Tables of files finished before it are kept.
    """
    if urls := [str(file) for file in files if is_url(file)]:
        msg = f"files behind an address are read by workers, as with --workers 1; found {urls[0]}"
        raise InputError(msg)
    sources = [Path(file) for file in files]
    outputs = dict(zip(sources, table_paths(sources, Path(out)), strict=True))
    problems: dict[Path, str] = {}
    for source in outputs:
        try:
            inspect_file(source, tree=tree)
        except FileError as error:
            if not skip_bad:
                raise
            problems[source] = str(error)
    results = []
    for source, output in outputs.items():
        if source in problems:
            results.append(ScoredFile(source, None, 0, {}, 0.0, problems[source]))
            continue
        try:
            results.append(
                score_file(predictor, source, output, tree=tree, chunk_size=chunk_size, progress=progress)
            )
        except (FileError, InputError) as error:
            if not skip_bad:
                raise
            results.append(ScoredFile(source, None, 0, {}, 0.0, str(error)))
    return results


def score_file(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    tree: str = "Events",
    chunk_size: int = 50_000,
    progress: Callable[[int], None] = _silent,
) -> ScoredFile:
    """Score one file into one Parquet table; see :func:`score_files`."""
    start, schema = time.perf_counter(), predictor.schema
    classes = schema.classes if "classification" in predictor.heads else ()
    totals, n_events = dict.fromkeys(classes, 0.0), 0
    n_scored = 0
    with TableWriter(output) as table:
        for chunk in read_chunks(
            source, schema, tree=tree, branches=predictor.branches, chunk_size=chunk_size
        ):
            columns = score_chunk(predictor, source, chunk)
            table.append(columns)
            n_events += len(chunk.events)
            if classes:
                n_scored += int(np.isfinite(ak.to_numpy(columns[f"classification_{classes[0]}"])).sum())
            for name in classes:
                totals[name] += float(
                    np.nansum(ak.to_numpy(columns[f"classification_{name}"]), dtype=np.float64)
                )
            progress(len(chunk.events))
    means = {name: total / n_scored if n_scored else float("nan") for name, total in totals.items()}
    return ScoredFile(source, output, n_events, means, time.perf_counter() - start)


def score_chunk(predictor: Predictor, source: str | Path, chunk: Chunk) -> dict[str, Any]:
    """Columns of a table for some events of a file: their identifiers, or their numbers, and their scores.

    Raises
    ------
    InputError
        Naming the file and the first event of the chunk.
    """
    try:
        scores = predictor(chunk.events)
    except InputError as error:
        msg = f"{source}, in the events from {chunk.start} on (counted from 0 there): {error}"
        raise InputError(msg) from error
    return table_columns(chunk.events, chunk.start, scores)


def table_columns(events: ak.Array, start: int, scores: ak.Array) -> dict[str, Any]:
    """Columns of a table: identifiers of events, or their numbers counted from ``start``, and their scores."""
    identifiers = {name: events[name] for name in IDENTIFIERS if name in ak.fields(events)}
    if not identifiers:
        identifiers = {"entry": np.arange(start, start + len(events))}
    return {**identifiers, **flat_records(scores)}


def table_paths(sources: Sequence[Path], out: Path) -> list[Path]:
    """One name per file: its own, with the folders in front where two files share it.

    Examples
    --------
    >>> from pathlib import Path
    >>> [path.name for path in table_paths([Path("a/x.root"), Path("b/x.root"), Path("y.root")], Path("out"))]
    ['a-x.parquet', 'b-x.parquet', 'y.parquet']
    """
    if len(set(sources)) < len(sources):
        repeated = sorted({str(path) for path in sources if sources.count(path) > 1})
        msg = f"files are listed more than once: {', '.join(repeated)}"
        raise InputError(msg)
    stems = [source.stem for source in sources]
    names = [
        source.stem
        if stems.count(source.stem) == 1
        else "-".join([*source.resolve().parts[1:-1], source.stem])
        for source in sources
    ]
    shared = [name for name in names if stems.count(name) != 1]
    common = _common_prefix([name.split("-") for name in shared])
    return [
        out / f"{'-'.join(name.split('-')[common:]) if name in shared else name}.parquet" for name in names
    ]


def _common_prefix(parts: Sequence[Sequence[str]]) -> int:
    length = 0
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1 or len(parts) < 2:
            break
        length += 1
    return length


def branches_from_options(where: Sequence[str]) -> Branches:
    """Branches from words such as ``jets=CorrectedJet``, ``met=PuppiMET``, ``btag=btagDeepFlavB:0.2783``.

    Keys are ``leptons``, ``jets``, ``taus``, ``photons`` (names separated by commas, or empty for none), ``met`` and
    ``btag`` (field, a colon, working point).

    Raises
    ------
    InputError
        For an unknown key, a key given twice, or a working point that is not a number.

    Examples
    --------
    >>> branches_from_options(["leptons=Muon", "btag=btagDeepB:0.4184"])
    Branches(leptons=('Muon',), jets=('Jet',), taus=(), photons=(), met='', btag='btagDeepB', working_point=0.4184)
    """
    branches, seen = Branches(), set()
    keys = ("leptons", "jets", "taus", "photons", "met", "btag")
    for word in where:
        key, equals, value = word.partition("=")
        if not equals or key not in keys or key in seen:
            msg = (
                f"--where must be KEY=NAME, each key once, with a key among {', '.join(keys)}; found {word!r}"
            )
            raise InputError(msg)
        seen.add(key)
        if key == "btag":
            field, _, point = value.partition(":")
            branches = replace(branches, btag=field, working_point=_number(word, point) if point else None)
        elif key == "met":
            branches = replace(branches, met=value)
        else:
            names: Any = {key: tuple(name for name in value.split(",") if name)}
            branches = replace(branches, **names)
    return branches


def _number(word: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        msg = f"expected a number in {word!r}; found {text!r}"
        raise InputError(msg) from error
