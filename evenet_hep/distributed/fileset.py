"""Which events of which files: filesets as coffea writes them, cut into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evenet_hep.errors import InputError
from evenet_hep.events.reading import is_url

Range = tuple[int, int]


class SourceFile(NamedTuple):
    """One file of a data set.

    Parameters
    ----------
    dataset : str
        Name of the data set; empty for a plain list of files.
    path : str
        Absolute path, as the workers see it, or an address such as ``root://host//store/file.root``.
    tree : str
        Name of the tree in a ROOT file.
    steps : tuple of (int, int), optional
        The events to score; None means all.
    """

    dataset: str
    path: str
    tree: str = "Events"
    steps: tuple[Range, ...] | None = None

    @property
    def stem(self) -> str:
        """What the tables of this file begin with; the same in every run, whatever other files there are."""
        text = f"{self.dataset}\n{self.path}\n{self.tree}"
        where = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = f"{slug(Path(self.path).stem)}-{where}"
        return f"{slug(self.dataset)}/{name}" if self.dataset else name


class Chunk(NamedTuple):
    """Events ``start`` to ``stop`` of a file, which become one table."""

    source: SourceFile
    start: int
    stop: int

    @property
    def table(self) -> str:
        """Name of the table, below the folder of the prediction."""
        return f"{self.source.stem}-{self.start}-{self.stop}.parquet"


def slug(name: str) -> str:
    """A name with nothing in it that a file system or a shell may take amiss.

    Examples
    --------
    >>> slug("ttbar MC/2018")
    'ttbar_MC_2018'
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:100].lstrip(".")


def read_fileset(fileset: Any, *, tree: str = "Events") -> list[SourceFile]:
    """The files of a coffea fileset, or of a plain list of paths.

    Parameters
    ----------
    fileset : sequence of paths, or mapping
        Data set name -> list of paths, or ``{"files": ...}`` with a list of paths, a mapping of path to tree name, or
        of path to ``{"object_path": tree, "steps": [[start, stop], ...]}`` as coffea's ``preprocess`` gives it.
    tree : str
        Name of the tree where the fileset names none.

    Raises
    ------
    InputError
        For anything else, and for a file that is listed twice in a data set.

    Examples
    --------
    >>> fileset = {"tt": {"files": {"/data/tt.root": "Events"}}, "dy": ["/data/dy.root"]}
    >>> [(source.dataset, source.path) for source in read_fileset(fileset)]
    [('tt', '/data/tt.root'), ('dy', '/data/dy.root')]
    """
    if isinstance(fileset, (str, Path)):
        fileset = [fileset]
    data_sets = fileset if isinstance(fileset, Mapping) else {"": fileset}
    sources: dict[tuple[str, str, str], SourceFile] = {}
    for name, content in data_sets.items():
        files = content["files"] if isinstance(content, Mapping) and "files" in content else content
        usual = content.get("treename") or tree if isinstance(content, Mapping) else tree
        for source in _sources(str(name), files, usual):
            key = source.dataset, source.path, source.tree
            if key in sources:
                msg = f"{source.path} is listed more than once in the data set {source.dataset!r}"
                raise InputError(msg)
            sources[key] = source
    if not sources:
        msg = "the fileset must name at least one file; found none"
        raise InputError(msg)
    return list(sources.values())


def _sources(dataset: str, files: Any, usual: str) -> Iterable[SourceFile]:
    if isinstance(files, (str, Path)):
        files = [files]
    if not isinstance(files, (Mapping, Sequence)) or not all(isinstance(f, (str, Path)) for f in files):
        msg = (
            "a data set must be a list of paths, a mapping of path to tree, or {'files': one of these}; "
            f"found {type(files).__name__} in {dataset!r}"
        )
        raise InputError(msg)
    for file in files:
        entry = files[file] if isinstance(files, Mapping) else usual
        tree, steps = entry, None
        if isinstance(entry, Mapping):
            tree = entry.get("object_path", usual)
            if (found := entry.get("steps")) is not None:
                steps = tuple((int(start), int(stop)) for start, stop in found)
        path = str(file) if is_url(file) else str(Path(file).absolute())
        yield SourceFile(dataset, path, str(tree or usual), steps)


def cut_chunks(source: SourceFile, n_events: int, covered: Iterable[Range], chunk_size: int) -> list[Chunk]:
    """Chunks for all events that are not covered yet.

    Ranges are cut into equal parts of at most ``chunk_size`` events. A file without events is one chunk without
    events, so that it has a table too.

    Examples
    --------
    >>> source = SourceFile("", "/data/tt.root")
    >>> [(chunk.start, chunk.stop) for chunk in cut_chunks(source, 100, [(20, 50)], 40)]
    [(0, 20), (50, 75), (75, 100)]
    """
    if n_events == 0:
        return [] if (0, 0) in covered else [Chunk(source, 0, 0)]
    chunks = []
    for first, last in source.steps or ((0, n_events),):
        for start, stop in without((first, min(last, n_events)), covered):
            parts = max(1, -(-(stop - start) // chunk_size))
            edges = [start + (stop - start) * i // parts for i in range(parts + 1)]
            chunks += [Chunk(source, edges[i], edges[i + 1]) for i in range(parts)]
    return chunks


def without(events: Range, covered: Iterable[Range]) -> list[Range]:
    """What is left of a range of events once others are taken out of it.

    Examples
    --------
    >>> without((0, 10), [(8, 12), (2, 4)])
    [(0, 2), (4, 8)]
    """
    left, position = [], events[0]
    for start, stop in sorted(covered):
        if stop <= start:
            continue
        if start > position:
            left.append((position, min(start, events[1])))
        position = max(position, stop)
        if position >= events[1]:
            break
    if position < events[1]:
        left.append((position, events[1]))
    return [part for part in left if part[0] < part[1]]
