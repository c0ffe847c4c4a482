"""One shard: some events of one sample, one ROOT file and one JSON file, made from one seed."""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep import __version__
from evenet_hep.errors import ConfigError, FileError
from evenet_hep.simulate.candidates import CandidateCard
from evenet_hep.simulate.constituents import detect_constituents
from evenet_hep.simulate.detection import DetectedEvents, concatenate_events, detect
from evenet_hep.simulate.detector import DetectorCard
from evenet_hep.simulate.processes import Sample
from evenet_hep.simulate.pythia import MAX_SEED, CrossSection, Generator, pythia_version
from evenet_hep.simulate.skims import SKIMS
from evenet_hep.simulate.spin import MAX_WEIGHT
from evenet_hep.simulate.writer import GeneratedSums, partial_name, write_events, write_failure

BATCH_SIZE = (
    200  # events between two looks at the clock; a constant, because random numbers are drawn per batch
)
VERSIONED = ("pythia8mc", "fastjet", "numpy", "awkward", "uproot")  # packages that decide what is in a file
MAX_FRUITLESS = 100_000  # generated events without a single one that passes the skim
FORMAT = 1  # of the files; shards of another format are not continued

Spin = Literal["weights", "unweighted"]


@dataclass(frozen=True)
class SimulationSettings:
    """What all shards of a run have in common.

    Parameters
    ----------
    seed : int
        From which the seed of every shard follows.
    card : DetectorCard
        Of the detector.
    spin : str
        ``weights`` writes the spin correlations of top pairs as the branch spinWeight; ``unweighted`` keeps each event
        with probability spinWeight / 2 and writes 1.
    shard_size : int
        Events per shard.
    energy : float
        Of the collisions in GeV.
    lhe : Path, optional
        Les Houches events for the processes that need them.
    pythia : tuple of str
        Further Pythia settings, read last.
    constituents : CandidateCard, optional
        Write jets with their constituents, made by this detector, in place of what ``card`` makes.
    """

    seed: int = 1
    card: DetectorCard = field(default_factory=DetectorCard)
    spin: Spin = "weights"
    shard_size: int = 2500
    energy: float = 13000.0
    lhe: Path | None = None
    pythia: tuple[str, ...] = ()
    constituents: CandidateCard | None = None


class Shard(NamedTuple):
    """A piece of work: one file.

    Parameters
    ----------
    sample : Sample
        Process and parameters.
    number : int
        Position of the shard in its sample.
    n_events : int
        To write; of Les Houches files: to read.
    """

    sample: Sample
    number: int
    n_events: int

    @property
    def name(self) -> str:
        """Stem of the file names."""
        return f"{self.sample.label}_{self.number:04d}"


def shard_request(shard: Shard, settings: SimulationSettings) -> dict[str, Any]:
    """Everything that decides what is in a shard, ready for JSON; equal requests make equal events."""
    sample = shard.sample
    constituents = settings.constituents
    return {
        "format": FORMAT,
        "process": sample.process.name,
        "parameters": dict(sample.values),
        "skim": sample.skim,
        "spin": settings.spin if sample.process.has_top_pair else "none",
        "seed": settings.seed,
        "shard": shard.number,
        "shard_size": settings.shard_size,
        "events": shard.n_events,
        "energy": settings.energy,
        "lhe": str(settings.lhe) if sample.process.needs_lhe else None,
        "pythia": pythia_version(),
        "pythia_settings": [*sample.settings, *settings.pythia],
        "card": (constituents or settings.card).to_dict(),
    }


def simulate_shard(
    shard: Shard,
    settings: SimulationSettings,
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Simulate a shard and write its two files, the JSON file last.

    Parameters
    ----------
    shard : Shard
        What to make.
    settings : SimulationSettings
        Common to all shards.
    folder : Path
        Where the files go; it must exist.
    progress : callable
        Called with the number of new events after each batch.

    Returns
    -------
    dict
        The content of the JSON file.

    Raises
    ------
    ConfigError, FileError
        For settings that Pythia refuses, a skim that nothing passes, and files that cannot be written.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    events, sums, cross_section = _generate(shard, settings, progress)
    path = folder / f"{shard.name}.root"
    first = shard.number * settings.shard_size + 1
    write_events(path, events, block=shard.number + 1, first_event=first, sums=sums)
    process = shard.sample.process
    content = {
        "file": path.name,
        "label": shard.sample.label,
        "class": process.process_class,
        "events": events.n_events,
        "generated": sums.n_events,
        "filter_efficiency": events.n_events / sums.n_events,
        "sum_of_weights": sums.weights,
        "cross_section_pb": cross_section.value,
        "cross_section_error_pb": cross_section.error,
        "reference_pb": process.reference_pb,
        "reference": process.reference,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
        "pythia_seed": _pythia_seed(shard, settings),
        "versions": {"evenet_hep": __version__} | {name: version(name) for name in VERSIONED},
        "request": shard_request(shard, settings),
    }
    write_json(folder / f"{shard.name}.json", content)
    return content


def _generate(
    shard: Shard, settings: SimulationSettings, progress: Callable[[int], None]
) -> tuple[DetectedEvents, GeneratedSums, CrossSection]:
    """Events until there are enough, and an account of all that were generated up to the last of them."""
    sample = shard.sample
    is_top_pair = sample.process.has_top_pair
    generator, random = _start(shard, settings)
    harvest = _Harvest(None if sample.process.needs_lhe else shard.n_events)
    for size in _batch_sizes(shard, settings):
        batch = generator.next_batch(size)
        if batch is None:
            break
        if settings.constituents is None:
            found = detect(batch, settings.card, random, has_top_pair=is_top_pair)
        else:
            found = detect_constituents(batch, settings.constituents, random, has_top_pair=is_top_pair)
        if settings.spin == "unweighted" and is_top_pair:
            found = _unweight(found, random)
        progress(harvest.add(found, SKIMS[sample.skim](found.objects)))
        if harvest.n_kept == shard.n_events:
            break
        if harvest.n_kept == 0 and harvest.n_generated > MAX_FRUITLESS:
            msg = f"none of {MAX_FRUITLESS} events of {sample.label} passes the skim {sample.skim}"
            raise ConfigError(msg)
    if harvest.n_kept == 0:
        msg = f"no event of shard {shard.number} of {sample.label} is left; look at {settings.lhe}"
        raise FileError(msg)
    weights = np.concatenate(harvest.weights)
    sums = GeneratedSums(len(weights), float(weights.sum()), float((weights**2).sum()))
    return concatenate_events(harvest.events), sums, generator.cross_section()


def _batch_sizes(shard: Shard, settings: SimulationSettings) -> Iterator[int]:
    """Sizes that depend on the request alone, as random numbers are drawn per batch.

    Where every event is kept, or a Les Houches file is read to its end, just what is needed; else without end.
    """
    sample = shard.sample
    unweighted = settings.spin == "unweighted" and sample.process.has_top_pair
    if sample.process.needs_lhe or (sample.skim == "none" and not unweighted):
        for start in range(0, shard.n_events, BATCH_SIZE):
            yield min(BATCH_SIZE, shard.n_events - start)
    if not sample.process.needs_lhe:
        yield from itertools.repeat(BATCH_SIZE)


@dataclass
class _Harvest:
    """Events kept so far, and the weights of all that were generated for them."""

    wanted: int | None
    n_kept: int = 0
    n_generated: int = 0
    events: list[DetectedEvents] = field(default_factory=list)
    weights: list[npt.NDArray[Any]] = field(default_factory=list)

    def add(self, found: DetectedEvents, passed: npt.NDArray[np.bool_]) -> int:
        """Keep events that passed, as long as any are wanted; returns how many were kept."""
        end = len(passed)
        missing = end if self.wanted is None else self.wanted - self.n_kept
        if passed.sum() >= missing > 0:
            end = int(np.flatnonzero(passed)[missing - 1]) + 1
        passed = passed & (np.arange(len(passed)) < end)
        self.events.append(found.select(passed))
        self.weights.append(found.columns["genWeight"][:end])
        self.n_generated += end
        self.n_kept += int(passed.sum())
        return int(passed.sum())


def _start(shard: Shard, settings: SimulationSettings) -> tuple[Generator, np.random.Generator]:
    sample = shard.sample
    generator = Generator(
        [*sample.settings, *settings.pythia],
        seed=_pythia_seed(shard, settings),
        energy=settings.energy,
        charged_leptons=sample.process.charged_leptons,
        lhe=settings.lhe if sample.process.needs_lhe else None,
        skip=shard.number * settings.shard_size,
    )
    _, for_detector = _seeds(shard, settings)
    return generator, np.random.default_rng(for_detector)


def _pythia_seed(shard: Shard, settings: SimulationSettings) -> int:
    for_pythia, _ = _seeds(shard, settings)
    return 1 + int(for_pythia.generate_state(1)[0]) % MAX_SEED


def _seeds(shard: Shard, settings: SimulationSettings) -> list[np.random.SeedSequence]:
    """Seeds for Pythia and for the detector, which depend on the sample and the shard but on nothing else."""
    entropy = [settings.seed, zlib.crc32(shard.sample.label.encode()), shard.number]
    return np.random.SeedSequence(entropy).spawn(2)


def _unweight(found: DetectedEvents, random: np.random.Generator) -> DetectedEvents:
    weights = found.columns["spinWeight"]
    chosen = found.select(random.random(len(weights)) * MAX_WEIGHT < weights)
    chosen.columns["spinWeight"] = np.ones(chosen.n_events)
    return chosen


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file; it appears under its name only when it is complete."""
    partial = partial_name(path)
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise FileError(write_failure(path, error)) from error
    finally:
        partial.unlink(missing_ok=True)
