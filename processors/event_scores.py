"""Scores of a classification network for every event of an analysis.

From events to scores
---------------------
Electrons and muons above 15 GeV within the tracker and isolated (relative isolation below 0.15 in a cone of 0.3 for
electrons, 0.4 for muons), and jets above 25 GeV that have none of those leptons within Delta R = 0.4, become one cloud
per event together with the missing transverse momentum. The network turns it into one probability per class. The
processor fills them into a histogram per data set, weighted with the sign of the generator weight in simulation, and
writes one Parquet table per chunk on request. Events without any object are counted and get no score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea import processor

from evenet_hep.events.object_selection import select_objects
from evenet_hep.events.parquet import TableWriter, flat_records
from evenet_hep.inference import Predictor

IDENTIFIERS = ("run", "luminosityBlock", "event")


def mean_probabilities(content: Mapping[str, Any]) -> dict[str, float]:
    """Weighted mean of every class probability over the scored events of a data set; NaN if there are none.

    Parameters
    ----------
    content : mapping
        What :class:`EventScores` returns for a data set.
    """
    total = content["sum_weight"] or float("nan")
    return {name: value / total for name, value in content["sum_probability"].items()}


class EventScores(processor.ProcessorABC):  # type: ignore[misc]
    """Class probabilities of every event: a histogram per data set and, on request, a table per chunk.

    Parameters
    ----------
    predict : Predictor
        Network with a classification head.
    select : callable
        Events -> collections for the network, by name; :func:`select_objects` by default.
    out : str or Path, optional
        Folder for Parquet tables with run, lumi, event and the probabilities.
    bins : int
        Number of bins of every probability.

    Examples
    --------
    >>> from evenet_hep import Predictor
    >>> scores = EventScores(Predictor("demo"))
    >>> import pickle
    >>> len(pickle.dumps(scores)) < 2000
    True
    """

    def __init__(
        self,
        predict: Predictor,
        *,
        select: Callable[[ak.Array], Mapping[str, ak.Array]] = select_objects,
        out: str | Path | None = None,
        bins: int = 20,
    ) -> None:
        self.predict = predict
        self.select = select
        self.out = None if out is None else Path(out).absolute()
        self.bins = bins

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        """Score one chunk.

        Returns
        -------
        dict
            Data set name -> ``scores`` (histogram with the axes class and probability), ``n_events``, ``n_scored``,
            ``sum_weight`` and ``sum_probability`` (weighted, per class; over the events scored), ``seconds`` and ``tables``
            (set of file names).
        """
        start = time.perf_counter()
        probabilities = self.predict(events, collections=self.select(events)).classification
        classes = ak.fields(probabilities)
        columns = {name: ak.to_numpy(probabilities[name]) for name in classes}
        scored = np.isfinite(columns[classes[0]])
        weight = (
            np.sign(ak.to_numpy(events["genWeight"]))
            if "genWeight" in events.fields
            else np.ones(len(events))
        )
        scores = hist.Hist(
            hist.axis.StrCategory(classes, name="class", label="class"),
            hist.axis.Regular(self.bins, 0, 1, name="probability", label="class probability"),
            storage=hist.storage.Weight(),
        )
        for name, values in columns.items():
            # 1 belongs to the last bin, not to the overflow
            scores.fill(
                name,
                np.minimum(values[scored], np.nextafter(np.float32(1), np.float32(0))),
                weight=weight[scored],
            )
        return {
            events.metadata["dataset"]: {
                "scores": scores,
                "n_events": len(events),
                "n_scored": int(scored.sum()),
                "sum_weight": float(weight[scored].sum()),
                "sum_probability": {
                    name: float(weight[scored] @ values[scored]) for name, values in columns.items()
                },
                "tables": self._write(events, probabilities),
                "seconds": time.perf_counter() - start,
            }
        }

    def _write(self, events: ak.Array, probabilities: ak.Array) -> set[str]:
        if self.out is None:
            return set()
        meta = events.metadata
        slug = "".join(c if c.isalnum() else "_" for c in meta["dataset"])
        name = f"{slug}-{Path(meta['filename']).stem}-{meta['entrystart']}-{meta['entrystop']}.parquet"
        identifiers = {field: events[field] for field in IDENTIFIERS if field in events.fields}
        with TableWriter(self.out / name) as table:
            table.append({**identifiers, **flat_records(probabilities)})
        return {name}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator, unchanged."""
        return accumulator
