"""NanoAOD-like ROOT files: the trees Events and Runs, with the names and types of NanoAOD v9."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from evenet_hep.errors import FileError
from evenet_hep.simulate.columns import Collection
from evenet_hep.simulate.detection import DetectedEvents

# Everything else is float32, int32 or bool by its kind.
_BYTES = frozenset(
    {
        "Electron_genPartFlav", "Muon_genPartFlav", "Tau_genPartFlav", "GenJet_hadronFlavour",
        "Tau_idDeepTau2017v2p1VSjet", "Tau_idDeepTau2017v2p1VSe", "Tau_idDeepTau2017v2p1VSmu",
    }
)  # fmt: skip


class GeneratedSums(NamedTuple):
    """What stood behind the written events before any choice: the content of the tree Runs.

    Parameters
    ----------
    n_events : int
        Generated events.
    weights, squared_weights : float
        Sums over them.
    """

    n_events: int
    weights: float
    squared_weights: float


def write_events(
    path: Path, events: DetectedEvents, *, block: int, first_event: int, sums: GeneratedSums
) -> None:
    """Write a file; it appears under its name only when it is complete.

    Parameters
    ----------
    path : Path
        Of the file, in a folder that exists.
    events : DetectedEvents
        All events of the file.
    block, first_event : int
        Luminosity block and number of the first event; run is 1.
    sums : GeneratedSums
        For the tree Runs.

    Raises
    ------
    FileError
        If the disk is full or the file cannot be written.
    """
    partial = partial_name(path)
    branches = _event_branches(events, block, first_event)
    try:
        with uproot.recreate(partial, compression=uproot.ZSTD(5)) as file:
            tree = file.mktree(
                "Events",
                {name: array.type.content for name, array in branches.items()},
                title="Events",
                counter_name=lambda collection: f"n{collection}",
                field_name=lambda collection, field: f"{collection}_{field}" if collection else field,
            )
            tree.extend(branches)
            file["Runs"] = {
                "run": np.array([1], np.uint32),
                "genEventCount": np.array([sums.n_events], np.int64),
                "genEventSumw": np.array([sums.weights]),
                "genEventSumw2": np.array([sums.squared_weights]),
            }
        partial.replace(path)
    except OSError as error:
        raise FileError(write_failure(path, error)) from error
    finally:
        partial.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """Name of a file while it is being written."""
    return path.with_name(f".{path.name}.partial")


def write_failure(path: Path, error: OSError) -> str:
    """One sentence about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {path} could not be written; whole files are kept, run again to go on"
    return f"{path} could not be written: {error.strerror or error}"


def _event_branches(events: DetectedEvents, block: int, first_event: int) -> dict[str, ak.Array]:
    n = events.n_events
    branches = {
        "run": ak.Array(np.ones(n, np.uint32)),
        "luminosityBlock": ak.Array(np.full(n, block, np.uint32)),
        "event": ak.Array(np.arange(first_event, first_event + n, dtype=np.uint64)),
    }
    branches |= {name: ak.Array(_typed(name, values)) for name, values in events.columns.items()}
    return branches | {name: _jagged(name, found) for name, found in events.objects.items()}


def _jagged(name: str, found: Collection) -> ak.Array:
    fields = {field: _typed(f"{name}_{field}", values) for field, values in found.columns.items()}
    return ak.unflatten(ak.zip(fields), found.counts)


def _typed(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if name in _BYTES:
        return values.astype(np.uint8)
    kinds: dict[str, Any] = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}
    return values.astype(kinds[values.dtype.kind])
