"""A training set on disk, and batches of it: streamed, shuffled the same way every time, split over ranks.

The events of an epoch are put in an order by a seed and the epoch's number alone. Pieces of at most
:data:`~evenet_hep.events.training_files.ROWS_PER_GROUP` events are shuffled so that every stretch holds all sources in
proportion; stretches of ``pool`` events are read, shuffled one by one and cut into batches. While one pool is used, a
thread reads the next; it changes nothing in what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.batch_plan import (
    Piece,
    batch_rows,
    batch_sizes,
    cut_pieces,
    pieces_of,
    share_start,
    shuffled,
)
from evenet_hep.events.labels import TrainingBatch
from evenet_hep.events.part_reading import read_columns, read_group
from evenet_hep.events.splits import event_hash
from evenet_hep.events.statistics import (
    Moments,
    effective_number_weights,
    mean_and_width,
    merge_moments,
)
from evenet_hep.events.training_events import TrainingEvents, index_layout, padded_batch
from evenet_hep.events.training_files import FORMAT, Layout, Part, checksum_of
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

FloatArray = npt.NDArray[np.float64]

POOL = 1 << 18  # events that are shuffled together; about 60 MB


class ClassCount(NamedTuple):
    """What a split holds of one class.

    Parameters
    ----------
    n_events : int
        Number of events.
    weight : float
        Sum of their weights.
    square : float
        Sum of their squared weights.
    """

    n_events: int
    weight: float
    square: float


class TrainingSet:
    """A folder of training files that is complete.

    Parameters
    ----------
    folder : Path
        Where it is.
    layout : Layout
        Schema as given at the conversion, event grammar and splits.
    parts : sequence of Part
        Its files.
    sources : mapping of str to mapping
        What each source is, with the ``scale`` of its weights.
    provenance : mapping
        Versions and options of the conversion.

    Examples
    --------
    >>> from evenet_hep.events.training_set import TrainingSet
    >>> TrainingSet.open("no-such-folder")
    Traceback (most recent call last):
    evenet_hep.errors.FileError: no-such-folder is not a training set: there is no dataset.json in it
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        parts: Sequence[Part],
        sources: Mapping[str, Mapping[str, Any]],
        provenance: Mapping[str, Any],
    ) -> None:
        self.folder, self.layout = folder, layout
        self.parts, self.sources, self.provenance = tuple(parts), dict(sources), dict(provenance)
        self._last_pieces: tuple[Any, list[Piece]] | None = None

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> TrainingSet:
        """Open a folder that ``evenet-hep convert`` wrote.

        Parameters
        ----------
        folder : str or Path
            With ``dataset.json`` and the parts.
        verify : bool
            Also compare the checksums of all parts, which reads every byte.

        Raises
        ------
        FileError
            If it is not a training set, not complete, or a part is missing or damaged.
        """
        folder = Path(folder)
        path = folder / "dataset.json"
        if not path.is_file():
            done = len(list(folder.glob("part-*.json"))) if folder.is_dir() else 0
            why = f"its conversion stopped after {done} parts; run it again with --resume" if done else ""
            msg = f"{folder} is not a training set: {why or 'there is no dataset.json in it'}"
            raise FileError(msg)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                msg = f"{path} must have the format {FORMAT}; found {content['format']!r}"
                raise FileError(msg)
            parts = [Part(**part) for part in content["parts"]]
            opened = cls(folder, Layout.from_dict(content), parts, content["sources"], content["provenance"])
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            msg = f"{path} cannot be read: {type(error).__name__} {error}"
            raise FileError(msg) from error
        opened._check_files(verify=verify)
        return opened

    def _check_files(self, *, verify: bool) -> None:
        for part in self.parts:
            path = self.folder / part.file
            if not path.is_file():
                msg = f"{self.folder} lacks {part.file}"
                raise FileError(msg)
            if (found := path.stat().st_size) != part.size:
                msg = f"{path} must have {part.size} bytes; found {found}"
                raise FileError(msg)
            if verify and checksum_of(path) != part.sha256:
                msg = f"{path} is damaged: its checksum is not that in dataset.json"
                raise FileError(msg)

    @property
    def topology(self) -> Topology:
        """The event grammar that ``process`` and ``indices`` refer to."""
        return self.layout.topology

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the first of which gives the statistics."""
        return tuple(self.layout.splits)

    @property
    def given_schema(self) -> EventSchema:
        """The schema of the conversion, with the means and widths that came with it."""
        return self.layout.schema

    @cached_property
    def schema(self) -> EventSchema:
        """The schema with means and widths of the first split, after the logarithm where there is one."""
        given, moments = self.layout.schema, self.moments
        pairs = {
            key: {
                f.name: mean_and_width(m, f.name)
                for f, m in zip(features, moments[key], strict=True)
                if m.weight
            }
            for key, features in (
                ("objects", given.objects),
                ("event_features", given.event_features),
                ("invisible", given.invisible),
            )
        }
        number = (
            mean_and_width(moments["n_objects"][0], "n_objects") if moments["n_objects"][0].weight else None
        )
        return given.with_statistics(**pairs, n_objects=number)

    @cached_property
    def moments(self) -> dict[str, list[Moments]]:
        """Moments of ``objects``, ``event_features``, ``invisible`` and ``n_objects`` in the first split."""
        merged = {}
        for key in ("objects", "event_features", "invisible", "n_objects"):
            merged[key] = merge_moments(
                [self._read_moments(values, part) for values in part.moments[key]] for part in self.parts
            )
        return merged

    def _read_moments(self, values: Sequence[float], part: Part) -> Moments:
        moments = Moments(*values)
        if not moments.weight and not moments.low and not moments.high:
            return Moments()
        weighted = self.provenance.get("weighted_statistics", False)
        return moments.scaled(self.scale(part.source)) if weighted else moments

    def scale(self, source: str) -> float:
        """By which the weights of a source in the files are multiplied."""
        return float(self.sources[source].get("scale", 1.0))

    def n_events(self, split: str, *, limit: int | None = None, classes: Sequence[str] | None = None) -> int:
        """Number of events of a split, or of a smaller sample of it; see :meth:`batches`."""
        return sum(len(piece.rows) for piece in self._pieces(split, limit, classes))

    def n_batches(
        self,
        split: str,
        batch_size: int,
        *,
        world_size: int = 1,
        limit: int | None = None,
        classes: Sequence[str] | None = None,
        drop_last: bool = False,
    ) -> int:
        """Number of batches that every rank gets in an epoch; see :meth:`batches`."""
        n_events = self.n_events(split, limit=limit, classes=classes)
        return len(batch_sizes(n_events, batch_size, 0, world_size, drop_last))

    def counts(self, split: str) -> dict[str, ClassCount]:
        """Class -> number of events, sum of weights and of squared weights; "" has the events without a class."""
        self._split_position(split)
        totals: dict[str, ClassCount] = {}
        for part in self.parts:
            scale = self.scale(part.source)
            for name, (number, weight, square) in part.sums[split].items():
                old = totals.get(name, ClassCount(0, 0.0, 0.0))
                totals[name] = ClassCount(
                    old.n_events + int(number),
                    old.weight + scale * weight,
                    old.square + scale * scale * square,
                )
        order = [*self.layout.schema.classes, ""]
        return {name: totals[name] for name in order if name in totals}

    @property
    def class_weights(self) -> FloatArray:
        """Weight of every class by the effective number of its events in the first split, shape (n_classes,)."""
        counts = self.counts(self.splits[0])
        return effective_number_weights(
            [counts[name].n_events if name in counts else 0 for name in self.layout.schema.classes]
        )

    @property
    def process_counts(self) -> npt.NDArray[np.int64]:
        """Number of events of every process in the first split, shape (n_processes,)."""
        return np.array([sum(self.patterns[p.name]) for p in self.topology.processes], np.int64)

    @property
    def process_weights(self) -> FloatArray:
        """Weight of every process by the effective number of its events in the first split."""
        return effective_number_weights(self.process_counts)

    @cached_property
    def patterns(self) -> dict[str, npt.NDArray[np.int64]]:
        """Process -> number of events of the first split by which of its resonances were found whole.

        Entry b has the events where the s-th resonance is whole if bit s of b is set.
        """
        found = {p.name: np.zeros(1 << len(p.resonances), np.int64) for p in self.topology.processes}
        for part in self.parts:
            for name, counts in part.patterns.items():
                found[name] += np.array(counts, np.int64)
        return found

    def pattern_weights(self, process: str) -> FloatArray:
        """Weight of every pattern of a process by the effective number of its events, shape (2^n_resonances,)."""
        self.topology.process(process)
        return effective_number_weights(self.patterns[process])

    @property
    def segment_counts(self) -> npt.NDArray[np.int64]:
        """Number of slots by segment in the first split: no resonance, then the segments of the grammar.

        Every event with a process has as many slots as the largest process has resonances; a slot without a
        resonance, or with one that has no segment, counts as none.
        """
        segments = ("", *self.topology.segments)
        counts = np.zeros(len(segments), np.int64)
        n_slots = max((len(p.resonances) for p in self.topology.processes), default=0)
        for process, number in zip(self.topology.processes, self.process_counts, strict=True):
            names = [self.topology.resonance(kind).segment for kind in process.kinds]
            for name in [*names, *[""] * (n_slots - len(names))]:
                counts[segments.index(name)] += number
        return counts

    @property
    def segment_weights(self) -> FloatArray:
        """Weight of "no resonance" and of every segment by effective number, shape (1 + n_segments,)."""
        return effective_number_weights(self.segment_counts)

    @cached_property
    def multiplicity(self) -> npt.NDArray[np.int64]:
        """Number of events of the first split with 0, 1, ... objects, shape (capacity + 1,)."""
        counts = np.array([part.multiplicity for part in self.parts], np.int64)
        total: npt.NDArray[np.int64] = counts.sum(axis=0)
        return total

    @property
    def n_invisible(self) -> int:
        """Slots for invisible particles in a batch."""
        if not self.layout.schema.invisible:
            return 0
        return max(1, *(part.n_invisible for part in self.parts))

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        limit: int | None = None,
        classes: Sequence[str] | None = None,
        drop_last: bool = False,
        pool: int = POOL,
    ) -> Iterator[TrainingBatch]:
        """One epoch of a split, or a rank's share of it.

        Parameters
        ----------
        split : str
            One of ``splits``.
        batch_size : int
            Events per batch and rank.
        seed, epoch : int
            The same numbers give the same batches, on any machine and with any timing.
        shuffle : bool
            Whether the order is random; else it is that of the files.
        bucket : bool
            Batches of events with about the same number of objects, so that little padding is needed. Within a pool,
            the batches themselves are in random order.
        rank, world_size : int
            Which share of how many. Shares have no event in common and the same number of batches.
        start : int
            Number of batches to leave out, as after an interruption.
        limit : int, optional
            A smaller sample: that many events with the smallest hashes. A larger sample contains it.
        classes : sequence of str, optional
            Only events of these classes.
        drop_last : bool
            Leave out the last batch if it would be smaller than the others.
        pool : int
            Events that are shuffled together; more need more memory.

        Yields
        ------
        TrainingBatch
            Labels still count in ``schema.classes``; weights include the scale of the source.

        Raises
        ------
        InputError
            For an unknown split or class, contradictory numbers, or too few events for the ranks.
        """
        if batch_size < 1 or pool < 1 or start < 0 or not 0 <= rank < world_size:
            msg = (
                "batch_size and pool must be at least 1, start at least 0, and rank below world_size; found "
                f"batch_size {batch_size}, pool {pool}, start {start}, rank {rank} of {world_size}"
            )
            raise InputError(msg)
        pieces = self._pieces(split, limit, classes)
        n_events = sum(len(piece.rows) for piece in pieces)
        sizes = batch_sizes(n_events, batch_size, rank, world_size, drop_last)
        if shuffle:
            names = list(self.sources)
            sources = [names.index(self.parts[piece.part].source) for piece in pieces]
            pieces = shuffled(pieces, sources, np.random.default_rng([seed, epoch]))
        first = share_start(n_events, rank, world_size, drop_last, batch_size)
        per_pool = max(1, pool // batch_size)
        jobs = []
        for p in range(start // per_pool, -(-len(sizes) // per_pool)):
            inside = sizes[p * per_pool : (p + 1) * per_pool]
            begin = first + int(sizes[: p * per_pool].sum())
            rng = np.random.default_rng([seed, epoch, rank, p]) if shuffle else None
            skip = max(0, start - p * per_pool)
            jobs.append((cut_pieces(pieces, begin, begin + int(inside.sum())), inside, rng, skip))
        return self._stream(jobs, bucket)

    def _stream(self, jobs: Sequence[tuple[Any, ...]], bucket: bool) -> Iterator[TrainingBatch]:
        layout = index_layout(self.topology)
        with ThreadPoolExecutor(1, "reader") as reader:
            coming: Future[TrainingEvents] | None = reader.submit(self._read, jobs[0][0]) if jobs else None
            for j, (_, sizes, rng, skip) in enumerate(jobs):
                events = coming.result() if coming else None
                coming = reader.submit(self._read, jobs[j + 1][0]) if j + 1 < len(jobs) else None
                assert events is not None  # noqa: S101  there is one read per job
                for rows in batch_rows(events.n_objects, sizes, rng, bucket)[skip:]:
                    yield padded_batch(events, rows, layout, self.n_invisible)

    def events(
        self, split: str, *, limit: int | None = None, classes: Sequence[str] | None = None
    ) -> TrainingEvents:
        """All events of a split at once, in the order of the files, without padding; see :meth:`batches`."""
        return self._read(self._pieces(split, limit, classes))

    def _split_position(self, split: str) -> int:
        if split not in self.splits:
            msg = f"there is no split {split!r}; there are {', '.join(self.splits)}"
            raise InputError(msg)
        return self.splits.index(split)

    def _pieces(
        self, split: str, limit: int | None = None, classes: Sequence[str] | None = None
    ) -> list[Piece]:
        """The rows of a split, a row group at a time; the last answer is kept."""
        key = (split, limit, None if classes is None else tuple(classes))
        if self._last_pieces is None or self._last_pieces[0] != key:
            self._last_pieces = (key, self._find_pieces(*key))
        return self._last_pieces[1]

    def _find_pieces(self, split: str, limit: int | None, classes: Sequence[str] | None) -> list[Piece]:
        s = self._split_position(split)
        chosen = [np.arange(part.edges[s], part.edges[s + 1]) for part in self.parts]
        if classes is not None:
            schema_classes = self.layout.schema.classes
            if unknown := sorted(set(classes) - set(schema_classes)):
                msg = f"there is no class {', '.join(unknown)}; there are {', '.join(schema_classes)}"
                raise InputError(msg)
            wanted = [schema_classes.index(name) for name in classes]
            labels = [self._columns(p, ["label"])[0] for p in range(len(self.parts))]
            chosen = [rows[np.isin(label[rows], wanted)] for rows, label in zip(chosen, labels, strict=True)]
        if limit is not None and limit < sum(map(len, chosen)):
            chosen = self._smallest(chosen, limit)
        return pieces_of(chosen)

    def _smallest(self, chosen: Sequence[npt.NDArray[np.int64]], limit: int) -> list[npt.NDArray[np.int64]]:
        """The rows with the smallest hashes of all parts; among equal ones those of earlier parts."""
        if limit < 1:
            msg = f"limit must be at least 1; found {limit}"
            raise InputError(msg)
        hashes = []
        for p, rows in enumerate(chosen):
            run, lumi, event = self._columns(p, ["run", "luminosityBlock", "event"])
            hashes.append(event_hash(run[rows], lumi[rows], event[rows], salt=self.layout.salt))
        where = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
        first = np.argsort(np.concatenate(hashes), kind="stable")[:limit]
        numbers = np.bincount(where[first], minlength=len(chosen))
        return [rows[:number] for rows, number in zip(chosen, numbers, strict=True)]

    def _columns(self, part: int, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        return read_columns(self.folder / self.parts[part].file, names)

    def _read(self, pieces: Sequence[Piece]) -> TrainingEvents:
        """The events of some pieces, one after the other."""
        read = []
        for piece in pieces or [Piece(0, 0, np.empty(0, np.int64))]:
            part = self.parts[piece.part]
            path = self.folder / part.file
            events = read_group(path, piece.group, self.layout, scale=self.scale(part.source))
            whole = len(piece.rows) == events.n_events
            read.append(events if whole else events.take(piece.rows))
        return TrainingEvents.concatenate(read)
