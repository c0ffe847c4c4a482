"""A whole run: samples to shards, shards to cores, and going on where a run was stopped."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.simulate.extra import import_fastjet, import_pythia
from evenet_hep.simulate.processes import Sample
from evenet_hep.simulate.shards import Shard, SimulationSettings, shard_request, simulate_shard, write_json
from evenet_hep.simulate.writer import write_failure

Progress = Callable[[str, int], None]


class SampleRequest(NamedTuple):
    """A sample and the number of events to write."""

    sample: Sample
    n_events: int


class RunSummary(NamedTuple):
    """What a run left on disk.

    Parameters
    ----------
    shards : list of dict
        Content of the JSON files of all shards, of this and of earlier runs.
    n_new : int
        Shards made by this run.
    """

    shards: list[dict[str, Any]]
    n_new: int


def plan_shards(requests: Sequence[SampleRequest], shard_size: int) -> list[Shard]:
    """Shards of all samples, in turn.

    Examples
    --------
    >>> from evenet_hep.simulate.catalogue import PROCESSES
    >>> from evenet_hep.simulate.processes import parse_request
    >>> [(s.name, s.n_events) for s in plan_shards([SampleRequest(parse_request("TT", PROCESSES), 1200)], 1000)]
    [('TT_0000', 1000), ('TT_0001', 200)]
    """
    return [
        Shard(sample, number, min(shard_size, n_events - number * shard_size))
        for sample, n_events in requests
        for number in range(-(-n_events // shard_size))
    ]


def simulate(
    requests: Sequence[SampleRequest],
    out: Path,
    settings: SimulationSettings,
    *,
    cores: int = 1,
    progress: Progress = lambda _label, _n: None,
) -> RunSummary:
    """Simulate samples and write them as shards ``out/LABEL/LABEL_0000.root`` with a JSON file each.

    Shards that are there already are kept, so that the same call goes on where an earlier one was stopped. Every shard
    has a seed of its own: the result does not depend on the number of cores, nor on what else is simulated.

    Parameters
    ----------
    requests : sequence of SampleRequest
        Samples and numbers of events.
    out : Path
        Folder for everything; made if needed.
    settings : SimulationSettings
        Seed, card and options.
    cores : int
        Processes to use.
    progress : callable
        Called with the label of a sample and a number of new events; also for shards that were there already.

    Returns
    -------
    RunSummary
        Shards of this request. ``out/dataset.json`` lists everything in the folder, also of earlier requests.

    Raises
    ------
    ConfigError, FileError
        For contradictory requests, a folder with shards of other settings, missing packages, and a full disk.
    """
    import_pythia()
    import_fastjet()
    _check_requests(requests, settings)
    shards = plan_shards(requests, settings.shard_size)
    done: dict[str, dict[str, Any]] = {}
    for shard in shards:
        content = _existing(shard, settings, out)
        if content is not None:
            done[shard.name] = content
            progress(shard.sample.label, content["events"])
    _refuse_leftovers(shards, out)
    todo = [shard for shard in shards if shard.name not in done]
    for content in _simulate_all(todo, settings, out, cores, progress):
        done[f"{content['label']}_{content['request']['shard']:04d}"] = content
    ordered = [done[shard.name] for shard in shards]
    write_json(out / "dataset.json", {"samples": summarize(read_shards(out))})
    return RunSummary(ordered, len(todo))


def read_shards(folder: Path) -> list[dict[str, Any]]:
    """Content of the JSON files of all shards in a folder, sample by sample.

    Raises
    ------
    FileError
        For a JSON file that is damaged.
    """
    shards = []
    for path in sorted(folder.glob("*/*_[0-9][0-9][0-9][0-9].json")):
        try:
            shards.append(json.loads(path.read_text()))
        except ValueError as error:
            msg = f"{path} is damaged; remove it and simulate again"
            raise FileError(msg) from error
    return shards


def summarize(shards: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One entry per sample: files, numbers of events, cross-section averaged over the shards."""
    samples: dict[str, dict[str, Any]] = {}
    for shard in shards:
        entry = samples.setdefault(
            shard["label"],
            {
                "process": shard["request"]["process"],
                "class": shard["class"],
                "parameters": shard["request"]["parameters"],
                "skim": shard["request"]["skim"],
                "reference_pb": shard["reference_pb"],
                "reference": shard["reference"],
                "events": 0,
                "generated": 0,
                "sum_of_weights": 0.0,
                "cross_section_pb": 0.0,
                "cpu_seconds": 0.0,
                "files": [],
            },
        )
        before = entry["generated"]
        entry["generated"] += shard["generated"]
        share = shard["generated"] / entry["generated"] if before else 1.0
        entry["cross_section_pb"] += share * (shard["cross_section_pb"] - entry["cross_section_pb"])
        for key in ("events", "sum_of_weights", "cpu_seconds"):
            entry[key] += shard[key]
        entry["files"].append(f"{shard['label']}/{shard['file']}")
    for entry in samples.values():
        entry["filter_efficiency"] = entry["events"] / entry["generated"]
    return samples


def count_les_houches_events(path: Path) -> int:
    """Number of events in a Les Houches file, compressed with gzip or not."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt") as lines:
            return sum(line.lstrip().startswith(("<event>", "<event ")) for line in lines)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} is not a file with Les Houches events: {error}"
        raise FileError(msg) from error


def _check_requests(requests: Sequence[SampleRequest], settings: SimulationSettings) -> None:
    labels = [request.sample.label for request in requests]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        msg = f"{repeated[0]} is asked for twice; ask once, with the sum of the events"
        raise ConfigError(msg)
    needy = [request.sample.process.name for request in requests if request.sample.process.needs_lhe]
    if needy and settings.lhe is None:
        msg = f"Pythia has no hard process {needy[0]}: give Les Houches events with --lhe FILE"
        raise ConfigError(msg)
    if settings.lhe is not None:
        if len(requests) != 1 or not needy:
            msg = f"--lhe goes with one process that needs it (ttW, ttZ, lhe); found {', '.join(labels)}"
            raise ConfigError(msg)
        if not settings.lhe.is_file():
            msg = f"there is no file {settings.lhe} with Les Houches events"
            raise FileError(msg)
        available = count_les_houches_events(settings.lhe)
        if available < requests[0].n_events:
            msg = f"{settings.lhe} holds {available} events; {requests[0].n_events} are asked for"
            raise ConfigError(msg)
    if settings.constituents is not None:
        wrong = [r.sample for r in requests if r.sample.skim not in ("none", "4j2b")]
        if wrong:
            msg = f"events with constituents have no leptons for the skim {wrong[0].skim} of {wrong[0].label}; take skim=none"
            raise ConfigError(msg)
    if settings.spin == "unweighted" and not any(r.sample.process.has_top_pair for r in requests):
        msg = f"spin correlations are for top pairs (TT, TT1L, TT2L, TTHadronics); found {', '.join(labels)}"
        raise ConfigError(msg)


def _existing(shard: Shard, settings: SimulationSettings, out: Path) -> dict[str, Any] | None:
    """Content of the JSON file of a finished shard; None if it must be made."""
    folder = out / shard.sample.label
    path = folder / f"{shard.name}.json"
    if not path.is_file() or not (folder / f"{shard.name}.root").is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        found = content["request"]
    except (ValueError, KeyError, TypeError):
        return None
    wanted = json.loads(json.dumps(shard_request(shard, settings)))
    other = [key for key in wanted if key != "events" and found.get(key) != wanted[key]]
    if other:
        msg = (
            f"{path} was made with another {other[0]} ({_brief(found.get(other[0]))}, now {_brief(wanted[other[0]])}); "
            f"choose another --out or the same options"
        )
        raise ConfigError(msg)
    return content if found["events"] == wanted["events"] else None


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_leftovers(shards: Sequence[Shard], out: Path) -> None:
    """Shards of an earlier, longer run of the same samples would be read together with the new ones."""
    names = {shard.name for shard in shards}
    for label in {shard.sample.label for shard in shards}:
        for path in sorted((out / label).glob(f"{label}_[0-9]*.root")):
            if path.stem not in names:
                msg = f"{path} is not part of this request (fewer events than before?); choose another --out"
                raise ConfigError(msg)


def _simulate_all(
    shards: Sequence[Shard], settings: SimulationSettings, out: Path, cores: int, progress: Progress
) -> list[dict[str, Any]]:
    for shard in shards:
        folder = out / shard.sample.label
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(write_failure(folder, error)) from error
    if cores == 1 or len(shards) <= 1:
        return [
            simulate_shard(
                shard, settings, out / shard.sample.label, progress=partial(progress, shard.sample.label)
            )
            for shard in shards
        ]
    return _simulate_parallel(shards, settings, out, min(cores, len(shards)), progress)


_queue: Any = None  # in a worker: where it reports new events


def _start_worker(queue: Any) -> None:
    global _queue  # noqa: PLW0603  the only way into a worker of a pool
    _queue = queue
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupted worker ends without a word


def _work(shard: Shard, settings: SimulationSettings, folder: Path) -> dict[str, Any]:
    return simulate_shard(shard, settings, folder, progress=lambda n: _queue.put((shard.sample.label, n)))


def _simulate_parallel(
    shards: Sequence[Shard], settings: SimulationSettings, out: Path, cores: int, progress: Progress
) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    finished: list[dict[str, Any]] = []
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_start_worker, initargs=(queue,)) as pool:
        waiting: set[Future[dict[str, Any]]] = {
            pool.submit(_work, shard, settings, out / shard.sample.label) for shard in shards
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    progress(*queue.get())
                finished += [future.result() for future in done]
        except BrokenProcessPool as error:
            msg = "a worker died, perhaps for want of memory; whole files are kept, run again with fewer --cores"
            raise FileError(msg) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    queue.close()
    return finished
