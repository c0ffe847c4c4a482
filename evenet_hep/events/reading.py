"""Events from ROOT and Parquet files, a chunk at a time, with only the branches a schema needs.

Processors read through coffea; this is the road of the command line, which needs no schema class and no processor.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import uproot

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.columns import near_misses
from evenet_hep.events.nanoaod import MET_NAMES, VERSIONS, Branches, required_branches
from evenet_hep.schema import EventSchema

IDENTIFIERS = ("run", "luminosityBlock", "event")
_TREES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
_KINEMATICS = ("pt", "eta", "phi", "mass", "charge")


def is_url(path: str | Path) -> bool:
    """Whether a path is an address such as ``root://host//store/file.root``, which uproot reads, and not a file.

    Examples
    --------
    >>> is_url("root://eospublic.cern.ch//eos/file.root"), is_url("/data/file.root")
    (True, False)
    """
    return "://" in str(path)


def _located(path: str | Path) -> str | Path:
    # A Path would make one slash of two.
    return str(path) if is_url(path) else Path(path)


class Chunk(NamedTuple):
    """Events ``start`` to ``stop`` of a file."""

    events: ak.Array
    start: int
    stop: int


class FileContent(NamedTuple):
    """What stands in a file: its kind, the number of events and the names of its branches or columns."""

    kind: str
    n_events: int
    branches: tuple[str, ...]


def inspect_file(path: str | Path, *, tree: str = "Events") -> FileContent:
    """Kind, number of events and branches of a ROOT or Parquet file.

    Raises
    ------
    FileError
        For a file that does not exist, is neither ROOT nor Parquet, is damaged, or has no such tree.
    """
    path = _located(path)
    if _kind(path) == "Parquet":
        file = _open_parquet(path)
        return FileContent("Parquet", file.metadata.num_rows, tuple(file.schema_arrow.names))
    table = _open_tree(path, tree)
    return FileContent("ROOT", int(table.num_entries), tuple(table.keys(recursive=False)))


def wanted_branches(present: Iterable[str], schema: EventSchema, branches: Branches) -> list[str]:
    """The branches of a flat table that a cloud of this schema may need, and the event identifiers.

    Examples
    --------
    >>> wanted_branches(["Jet_pt", "Jet_area", "nJet", "HLT_Mu8", "event"], EventSchema.published(), Branches())
    ['Jet_pt', 'event']
    """
    met = (branches.met,) if branches.met else MET_NAMES
    btag = [branches.btag] if branches.btag else [version.btag for version in VERSIONS]
    fields = {*_KINEMATICS, *schema.object_names, *btag}
    collections = {name for names in branches.kinds().values() for name in names}
    wanted = {f"{collection}_{field}" for collection in collections for field in fields}
    wanted |= {f"{name}_{field}" for name in met for field in ("pt", "phi")}
    wanted |= {*IDENTIFIERS, *schema.event_names, *collections, *met, "objects"}
    return [name for name in present if name in wanted]


def read_chunks(
    path: str | Path,
    schema: EventSchema,
    *,
    tree: str = "Events",
    branches: Branches | None = None,
    chunk_size: int = 50_000,
    check: bool = True,
) -> Iterator[Chunk]:
    """The events of a file in chunks, with the branches the schema needs.

    Parameters
    ----------
    path : str or Path
        ROOT file (TTree or RNTuple), also an address that uproot reads, or Parquet file, with flat names such as ``Jet_pt`` or with records.
    schema : EventSchema
        What the network reads.
    tree : str
        Name of the tree in a ROOT file.
    branches : Branches, optional
        Collections, MET and b-tag to use.
    chunk_size : int
        Events per chunk.
    check : bool
        Whether the branches of all collections must be there.

    Raises
    ------
    FileError
        If the file cannot be read, also in the middle; the message names the file.
    InputError
        For a branch that is missing; the message names it and those that look like it.
    """
    path, branches = _located(path), branches or Branches()
    reader = _parquet_chunks if _kind(path) == "Parquet" else _root_chunks
    present = inspect_file(path, tree=tree).branches
    if check:
        _require_branches(path, present, required_branches(schema, branches))
    names = wanted_branches(present, schema, branches)
    if not names:
        msg = f"{path} has none of the branches the schema needs; {near_misses('Jet_pt', present)}"
        raise InputError(msg)
    chunks = reader(path, tree, names, chunk_size)
    while True:
        try:
            chunk = next(chunks, None)
        except FileError:
            raise
        except Exception as error:
            msg = f"{path} cannot be read: {_sentence(error)}"
            raise FileError(msg) from error
        if chunk is None:
            return
        yield chunk


class OpenTable:
    """A file whose events are read by their numbers, in any order.

    Parameters
    ----------
    path, schema, tree, branches
        As in :func:`read_chunks`.

    Attributes
    ----------
    n_events : int
        Events in the file.
    fingerprint : str
        Changes when the file is replaced: its size, and the identifier that ROOT gave it or its number of rows.

    Raises
    ------
    FileError, InputError
        As in :func:`read_chunks`.
    """

    def __init__(
        self, path: str | Path, schema: EventSchema, *, tree: str = "Events", branches: Branches | None = None
    ) -> None:
        self.path, branches = _located(path), branches or Branches()
        self.is_parquet = _kind(self.path) == "Parquet"
        if self.is_parquet:
            self._table = _open_parquet(self.path)
            self.n_events, present = int(self._table.metadata.num_rows), self._table.schema_arrow.names
            self.fingerprint = f"{Path(self.path).stat().st_size}-{self.n_events}"
        else:
            self._table = _open_tree(self.path, tree)
            self.n_events, present = int(self._table.num_entries), self._table.keys(recursive=False)
            file = self._table.file
            size = file.fEND if is_url(self.path) else Path(self.path).stat().st_size
            self.fingerprint = f"{size}-{file.uuid}"
        _require_branches(self.path, present, required_branches(schema, branches))
        self.names = wanted_branches(present, schema, branches)

    def read(self, start: int, stop: int, *, frugal: bool = False) -> ak.Array:
        """Events ``start`` to ``stop``, with the branches that the schema may need.

        Parameters
        ----------
        start, stop : int
            Range of events.
        frugal : bool, optional
            Read a ROOT file branch by branch. Events are stored in baskets, and a basket is read as a whole however few
            of its events are asked for: this way no more than one of them is in memory at a time.

        Raises
        ------
        FileError
            If they cannot be read, naming the file.
        """
        try:
            if self.is_parquet:
                return self._read_parquet(start, stop)
            if frugal:
                branches = {name: self._arrays([name], start, stop)[name] for name in self.names}
                return ak.zip(branches, depth_limit=1)
            return self._arrays(self.names, start, stop)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes the reader raise anything
            msg = f"{self.path} cannot be read: {_sentence(error)}"
            raise FileError(msg) from error

    def _arrays(self, names: Sequence[str], start: int, stop: int) -> ak.Array:
        # Nothing is read twice: uproot need not keep the arrays.
        return self._table.arrays(names, entry_start=start, entry_stop=stop, array_cache=None)

    def _read_parquet(self, start: int, stop: int) -> ak.Array:
        edges, group = self._group_edges(), 0
        while group + 2 < len(edges) and edges[group + 1] <= start:
            group += 1
        last = group + 1
        while last + 1 < len(edges) and edges[last] < stop:
            last += 1
        groups: list[int] = list(range(group, last)) if len(edges) > 1 else []
        table = self._table.read_row_groups(groups, columns=self.names)
        return ak.from_arrow(table.slice(start - edges[group], stop - start))

    def _group_edges(self) -> list[int]:
        metadata = self._table.metadata
        sizes = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return [0, *itertools.accumulate(sizes)]

    def pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges from ``start`` to ``stop`` that are stored together: where one is damaged, its neighbours may not be."""
        if self.is_parquet:
            edges = set(self._group_edges())
        else:
            edges = {int(edge) for name in self.names for edge in _entry_offsets(self._table[name])}
        inside = [start, *sorted(edge for edge in edges if start < edge < stop), stop]
        return list(itertools.pairwise(inside))


def _entry_offsets(branch: Any) -> Iterable[int]:
    """Where the baskets of a TBranch begin, or the clusters of an RNTuple."""
    if hasattr(branch, "ntuple"):
        return [cluster.num_first_entry for cluster in branch.ntuple.cluster_summaries]
    offsets: Iterable[int] = branch.entry_offsets
    return offsets


def read_range(
    path: str | Path,
    choose: Callable[[Sequence[str]], Sequence[str]],
    start: int,
    stop: int,
    *,
    tree: str = "Events",
) -> ak.Array:
    """Chosen branches of the events ``start`` to ``stop`` of a file, which is opened once.

    Parameters
    ----------
    path : str or Path
        ROOT or Parquet file.
    choose : callable
        Names of all branches -> names of those to read.
    start, stop : int
        First event, and the one behind the last.
    tree : str
        Name of the tree in a ROOT file.

    Raises
    ------
    FileError
        If the file cannot be read; the message names it.
    """
    path = _located(path)
    try:
        if _kind(path) == "ROOT":
            table = _open_tree(path, tree)
            names = choose(table.keys(recursive=False))
            return table.arrays(list(names), entry_start=start, entry_stop=stop)
        file = _open_parquet(path)
        return ak.from_arrow(read_rows(file, choose(file.schema_arrow.names), start, stop))
    except FileError:
        raise
    except Exception as error:  # a damaged file makes the reader raise anything
        msg = f"{path} cannot be read: {_sentence(error)}"
        raise FileError(msg) from error


def read_rows(file: Any, columns: Sequence[str], start: int, stop: int) -> Any:
    """The rows ``start`` to ``stop`` of a ``pyarrow.parquet.ParquetFile`` as a table; only their row groups are read."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    groups = np.flatnonzero((edges[:-1] < stop) & (edges[1:] > start))
    begin = int(edges[groups[0]]) if len(groups) else 0
    table = file.read_row_groups(groups.tolist(), columns=list(columns), use_threads=False)
    return table.slice(start - begin, stop - start)


def sum_of_weights(path: str | Path) -> float | None:
    """Sum of the generator weights of all events that were generated for a NanoAOD file, skimmed ones included.

    None without a tree ``Runs`` that says so.
    """
    path = _located(path)
    if _kind(path) != "ROOT":
        return None
    try:
        runs = _open_tree(path, "Runs")
        names = [name for name in ("genEventSumw", "genEventSumw_") if name in runs]
        return float(np.sum(runs[names[0]].array(library="np"))) if names else None
    except FileError:
        return None


def _require_branches(path: str | Path, present: Sequence[str], required: Sequence[str]) -> None:
    known = set(present)
    for branch in required:
        collection = branch.split("_")[0]
        if branch in known or collection in known or "objects" in known:
            continue
        prefixes = sorted({name.split("_")[0] for name in present if "_" in name})
        if collection not in prefixes:
            msg = f"{path} has no collection {collection!r}; {near_misses(collection, prefixes)}"
        else:
            msg = f"{path} has no branch {branch!r}; {near_misses(branch, present)}"
        raise InputError(msg)


def _root_chunks(path: str | Path, tree: str, names: Sequence[str], chunk_size: int) -> Iterator[Chunk]:
    table = _open_tree(path, tree)
    for start in range(0, max(table.num_entries, 1), chunk_size):  # an empty file is one empty chunk
        stop = min(start + chunk_size, table.num_entries)
        yield Chunk(table.arrays(list(names), entry_start=start, entry_stop=stop), start, stop)


def _parquet_chunks(path: str | Path, tree: str, names: Sequence[str], chunk_size: int) -> Iterator[Chunk]:  # noqa: ARG001
    start, file = 0, _open_parquet(path)
    if file.metadata.num_rows == 0:
        yield Chunk(ak.from_arrow(file.read(columns=list(names))), 0, 0)
    for batch in file.iter_batches(batch_size=chunk_size, columns=list(names)):
        yield Chunk(ak.from_arrow(batch), start, start + batch.num_rows)
        start += batch.num_rows


def _kind(path: str | Path) -> str:
    """ROOT or Parquet, by the first bytes of the file; ROOT for an address."""
    if is_url(path):
        return "ROOT"
    try:
        with Path(path).open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        msg = f"no such file: {path}"
        raise FileError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be opened: {error.strerror or errno.errorcode.get(error.errno or 0, error)}"
        raise FileError(msg) from error
    if magic == b"root":
        return "ROOT"
    if magic == b"PAR1":
        return "Parquet"
    msg = f"{path} is neither a ROOT nor a Parquet file; it begins with {magic!r}"
    raise FileError(msg)


def _open_tree(path: str | Path, tree: str) -> Any:
    try:
        file = uproot.open(path)
        expected = int(file.file.fEND)
        found = expected if is_url(path) else Path(path).stat().st_size
        trees = sorted({name.split(";")[0] for name, kind in file.classnames().items() if kind in _TREES})
        table = file[tree] if tree in trees else None
    except Exception as error:  # a damaged file makes the reader raise anything
        msg = f"{path} cannot be read as ROOT: {_sentence(error)}"
        raise FileError(msg) from error
    if found < expected:
        msg = f"{path} cannot be read as ROOT: it is cut short, {found} of {expected} bytes"
        raise FileError(msg)
    if table is None:
        msg = f"{path} has no tree {tree!r}; {near_misses(tree, trees)}"
        raise FileError(msg)
    return table


def _open_parquet(path: str | Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as Parquet: {_sentence(error)}"
        raise FileError(msg) from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] if text else type(error).__name__
