"""Predictions for dask-awkward arrays: computed when asked for, from the needed columns alone.

A graph holds the Predictor, a few hundred bytes; every worker process reads the network once.

dask-awkward needs ``dask < 2025.4``: with a newer dask its graphs cannot be computed unless only the columns are
optimised. :func:`require_dask_awkward` says so before a graph is built. The road without this package, coffea's
``Runner`` with an executor, has no such limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

import awkward as ak

from evenet_hep.errors import PredictionError

if TYPE_CHECKING:
    from evenet_hep.inference import Predictor

FIRST_BAD_DASK = (2025, 4)
FIRST_GOOD_DASK_AWKWARD = (2025, 9)


def predict_dask(
    predict: Predictor,
    events: Any,
    *,
    collections: Mapping[str, Any] | None = None,
    met: Any = None,
    event_features: Mapping[str, Any] | None = None,
) -> Any:
    """Lazy predictions for a dask-awkward array; calling the Predictor on one does the same.

    Parameters
    ----------
    predict : Predictor
        The network.
    events : dask_awkward.Array
        Events, as NanoEvents in the mode ``"dask"`` or any records with the schema's fields.
    collections, met, event_features : optional
        Dask-awkward arrays in the same partitions that replace the event's own, as when the Predictor is called.

    Returns
    -------
    dask_awkward.Array
        One record per event, in the same partitions.

    Raises
    ------
    PredictionError
        If the versions of dask and dask-awkward that are installed cannot compute a graph together.
    InputError
        If the events do not fit the schema; at once, not when the graph is computed.
    """
    require_dask_awkward()
    import dask_awkward  # noqa: PLC0415  an extra

    return dask_awkward.map_partitions(  # type: ignore[attr-defined]
        _call,
        predict,
        events,
        dict(collections or {}),
        met,
        dict(event_features or {}),
        label="predict",
    )


def _call(
    predict: Predictor,
    events: ak.Array,
    collections: Mapping[str, ak.Array],
    met: ak.Array | None,
    event_features: Mapping[str, Any],
) -> ak.Array:
    return predict(events, collections=collections, met=met, event_features=event_features)


def require_dask_awkward() -> None:
    """Raise unless dask and dask-awkward are there in versions that work together.

    Raises
    ------
    PredictionError
        With the versions found, and what would work.
    """
    try:
        dask, dask_awkward = installed_version("dask"), installed_version("dask-awkward")
    except PackageNotFoundError as error:
        msg = f"lazy arrays need dask-awkward: pip install 'evenet-hep[dask-awkward]'; {error.name} is not installed"
        raise PredictionError(msg) from error
    problem = version_problem(dask, dask_awkward, columns_only=_only_columns_are_optimised())
    if problem:
        raise PredictionError(problem)


def version_problem(dask: str, dask_awkward: str, *, columns_only: bool = False) -> str:
    """Why two versions cannot compute a graph together, and what would; empty if they can.

    Parameters
    ----------
    dask, dask_awkward : str
        Versions.
    columns_only : bool
        Whether dask-awkward is told to optimise the columns and nothing else.

    Examples
    --------
    >>> version_problem("2025.3.1", "2026.2.1")
    ''
    >>> version_problem("2026.8.0", "2026.2.1").split(";")[0]
    'dask-awkward 2026.2.1 cannot compute with dask 2026.8.0, it needs dask < 2025.4'
    """
    if _numbers(dask_awkward) < FIRST_GOOD_DASK_AWKWARD:
        return (
            f"dask-awkward {dask_awkward} is too old for awkward 2.14, 2025.9 or newer is needed; "
            "pip install 'dask-awkward>=2025.9' 'dask<2025.4'"
        )
    if _numbers(dask) >= FIRST_BAD_DASK and not columns_only:
        return (
            f"dask-awkward {dask_awkward} cannot compute with dask {dask}, it needs dask < 2025.4; "
            "pip install 'dask<2025.4' 'distributed<2025.4', or use coffea's Runner with an executor, "
            "or dask.config.set({'awkward.optimization.which': ['columns']}) here and on the scheduler"
        )
    return ""


def _only_columns_are_optimised() -> bool:
    import dask  # noqa: PLC0415

    return bool(dask.config.get("awkward.optimization.which", None) == ["columns"])


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
