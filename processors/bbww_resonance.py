"""Search for X -> YH -> bb WW -> bb l nu qq: selection, observables and what scores are worth.

Search for X to YH to bb WW
---------------------------
Events have exactly one electron (pT > 35 GeV) or muon (pT > 30 GeV) that is identified and isolated, no tau, at least two
b-tagged and two light jets (pT > 20 GeV, away from leptons), and a light jet within Delta R = 1.6 of the lepton, which the
W boson of a Higgs boson leaves there and that of a top quark does not. Single-lepton top pairs are suppressed by topness > 3:
the smallest chi-square of all assignments of jets to a leptonic and a hadronic top quark. Each event that is left is
described twice: by 49 engineered features, the input of boosted trees, and by a cloud of its selected objects with the
missing transverse momentum, the input of the network. Events are weighted with cross-section times luminosity.

A classifier is judged by the area under its ROC curve, by the largest significance improvement of any cut that keeps a
weighted yield of at least 10 background events which are also at least 10 in effect, and by the expected upper limit on
the cross-section from a fit of its binned score.

Of simulated events that could be selected after a change of the energy scale of jets, or of the missing momentum, the
processor keeps the objects on request, so that a variation runs the selection again and not a copy of its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import awkward as ak
import hist
import numpy as np
import numpy.typing as npt
from coffea import processor

from evenet_hep.errors import InputError
from evenet_hep.events.bbww_columns import BbwwObjects, BbwwReader, loose_events
from evenet_hep.events.bbww_selection import BbwwCuts
from evenet_hep.events.tabular import FEATURES
from evenet_hep.schema import EventSchema
from evenet_hep.stats.metrics import Metric, area_under_curve
from evenet_hep.stats.sic import MaximumSic, maximum_sic

FloatArray = npt.NDArray[np.float64]

CUTS = ("all", *BbwwCuts._fields)
IDENTIFIERS = ("run", "luminosityBlock", "event")


class BbwwResonance(processor.ProcessorABC):  # type: ignore[misc]
    """Selected events of the search for X -> bbWW: cut flow, histograms, features and clouds.

    Parameters
    ----------
    reader : BbwwReader, optional
        Branches, working point and kind of topness; those of the UL NanoAOD by default.
    schema : EventSchema, optional
        Of the clouds; the published one by default.
    columns : bool
        Keep features and clouds of the selected events. They are small: the selection keeps a few per cent.
    loose : float
        Largest change of jet energies for which the objects of further events are kept, for systematic variations; 0
        keeps none.

    Notes
    -----
    EveNet paper, Sec. III.

    Examples
    --------
    >>> import pickle
    >>> processor = BbwwResonance()
    >>> pickle.loads(pickle.dumps(processor)).reader.btag
    'btagDeepFlavB'
    """

    def __init__(
        self,
        reader: BbwwReader | None = None,
        *,
        schema: EventSchema | None = None,
        columns: bool = True,
        loose: float = 0.0,
    ) -> None:
        self.reader = reader or BbwwReader()
        self.schema = schema or EventSchema.standard(classes=("signal", "background"))
        self.columns = columns
        self.loose = loose

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        """Select one chunk.

        Returns
        -------
        dict
            Data set name -> ``n_events``; ``cutflow`` (histogram over the cuts, each with all before it), ``topness``
            (before its own cut) and ``bb_mass`` (GeV, after all), filled with the generator weight; ``columns`` (arrays
            of the selected events by name, as coffea's column accumulators) and ``loose`` (awkward records).

        Raises
        ------
        InputError
            For a collection or field that is missing, named together with what is there.
        """
        objects = self.reader.read(events)
        found = self.reader.select(objects)
        has_weight = "genWeight" in ak.fields(events)
        weight = ak.to_numpy(events["genWeight"]).astype(np.float64) if has_weight else np.ones(len(events))
        content: dict[str, Any] = {"n_events": len(events), "cutflow": count_cuts(found.cuts, weight)}
        others = np.logical_and.reduce(found.cuts[:-1])
        content["topness"] = hist.Hist.new.Reg(40, 0, 40, name="topness", label="topness").Weight()
        content["topness"].fill(found.topness.topness[others], weight=weight[others])
        columns = self.reader.describe(found, objects.met, self.schema)
        content["bb_mass"] = hist.Hist.new.Reg(
            50, 0, 500, name="bb_mass", label="mass of the two b jets [GeV]"
        ).Weight()
        content["bb_mass"].fill(columns.features[:, FEATURES.index("bb_inv")], weight=weight[found.passed])
        identifiers = {name: np.asarray(ak.to_numpy(events[name])) for name in IDENTIFIERS}
        kept = columns._asdict() | {"weight": weight[found.passed]}
        kept |= {name: values[found.passed].astype(np.int64) for name, values in identifiers.items()}
        if self.columns:
            content["columns"] = {name: processor.column_accumulator(v) for name, v in kept.items()}
        if self.loose:
            content["loose"] = self._loose(objects, weight, identifiers)
        return {events.metadata["dataset"]: content}

    def _loose(self, objects: BbwwObjects, weight: FloatArray, identifiers: dict[str, Any]) -> list[ak.Array]:
        keep, kept = loose_events(self.reader, objects, self.loose)
        records = {
            name: ak.zip({field: ak.materialize(getattr(kept, name)[field]) for field in fields})
            for name, fields in self.reader.fields.items()
        }
        records["met"] = ak.materialize(kept.met)
        scalars = {"weight": weight} | {name: v.astype(np.int64) for name, v in identifiers.items()}
        records |= {name: ak.from_numpy(values[keep]) for name, values in scalars.items()}
        # By way of buffers: NanoAOD's behaviour stays behind, which cannot be sent to another process.
        return [ak.from_buffers(*ak.to_buffers(ak.to_packed(ak.zip(records, depth_limit=1))))]

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator, unchanged."""
        return accumulator


def count_cuts(cuts: BbwwCuts, weight: npt.ArrayLike) -> Any:
    """Weighted number of events after each cut and all before it.

    Parameters
    ----------
    cuts : BbwwCuts
        Which cuts each event passes.
    weight : float array, shape (n_events,)

    Returns
    -------
    hist.Hist
        With the axis ``cut``, whose bins are :data:`CUTS`, and the variance of every sum.

    Examples
    --------
    >>> passed = BbwwCuts(*np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]], bool))
    >>> [float(value) for value in count_cuts(passed, [1.0, 1.0, 2.0]).values()]
    [4.0, 4.0, 3.0, 3.0, 1.0, 1.0, 0.0]
    """
    weights = np.asarray(weight, np.float64)
    flow = hist.Hist(hist.axis.StrCategory(CUTS, name="cut"), storage=hist.storage.Weight())
    passes = np.ones(len(weights), np.bool_)
    for name in CUTS:
        passes = passes if name == "all" else passes & getattr(cuts, name)
        flow.fill(cut=np.repeat(name, int(passes.sum())), weight=weights[passes])
    return flow


class BbwwResult(NamedTuple):
    """What a score is worth.

    Parameters
    ----------
    auc : Metric
        Area under the ROC curve.
    sic : MaximumSic
        Largest significance improvement; ``background_yield`` is the weighted yield that is left.
    minimum_background : float
        Smallest weighted yield that was allowed.
    effective_background : float
        Simulated background events that are left, (sum w)^2 / sum w^2.
    signal, background : hist.Hist
        Binned score, for a fit.
    """

    auc: Metric
    sic: MaximumSic
    minimum_background: float
    effective_background: float
    signal: Any
    background: Any


def judge_scores(
    is_signal: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    minimum_background: float = 10.0,
    minimum_effective: float = 10.0,
) -> BbwwResult:
    """From the scores of selected events to the numbers and histograms of the analysis.

    Parameters
    ----------
    is_signal : bool array, shape (n_events,)
    scores : float array, shape (n_events,)
        In [0, 1], greater for signal, of a classifier that has not seen these events.
    weights : float array, shape (n_events,)
        Cross-section times luminosity over the sum of weights.
    minimum_background : float
        Smallest weighted yield of background behind a cut, as published.
    minimum_effective : float
        Smallest effective number of simulated background events behind a cut, taken as that many mean weights
        (sum w^2 / sum w). It decides where one simulated event stands for many expected ones; a maximum that rests on
        a single one would be chance.

    Returns
    -------
    BbwwResult

    Raises
    ------
    InputError
        For arrays that do not belong together, NaN, or scores outside [0, 1].

    Examples
    --------
    >>> is_signal = np.repeat([True, False], 100)
    >>> scores = np.r_[np.linspace(0.4, 1, 100), np.linspace(0, 0.6, 100)]
    >>> found = judge_scores(is_signal, scores, np.where(is_signal, 1.0, 50.0))
    >>> f"{found.auc.value:.3f}", f"{found.sic.value:.2f}", found.minimum_background
    ('0.943', '2.40', 500.0)
    """
    label, score = np.asarray(is_signal, np.bool_), np.asarray(scores, np.float64)
    weight = np.asarray(weights, np.float64)
    if score.size and not (np.nanmin(score) >= 0 and np.nanmax(score) <= 1):
        msg = f"scores must lie in [0, 1]; found {np.nanmin(score):g} to {np.nanmax(score):g}"
        raise InputError(msg)
    behind = weight[~label]
    mean_weight = float((behind**2).sum() / behind.sum()) if behind.sum() > 0 else 0.0
    least = max(minimum_background, minimum_effective * mean_weight)
    best = maximum_sic(label, score, weights=weight, minimum_background=least)
    kept = weight[~label & (score >= best.threshold)]
    edges = score_edges(score[~label], behind, minimum_effective=minimum_effective)
    histograms = []
    for chosen in (label, ~label):
        filled = hist.Hist.new.Var(edges, name="score", label="score", flow=False).Weight()
        # 1 belongs to the last bin
        filled.fill(np.minimum(score[chosen], np.nextafter(1.0, 0.0)), weight=weight[chosen])
        histograms.append(filled)
    return BbwwResult(
        area_under_curve(label, score, weights=weight),
        best,
        least,
        _effective(kept) if len(kept) else float("nan"),
        *histograms,
    )


def score_edges(
    scores: FloatArray,
    weights: FloatArray,
    *,
    efficiencies: Sequence[float] = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.002, 0.001),
    minimum_effective: float = 10.0,
) -> FloatArray:
    """Edges of bins of a score from 0 to 1 that leave given parts of the background above them.

    Parameters
    ----------
    scores, weights : float array, shape (n_events,)
        Of the background.
    efficiencies : sequence of float
        Falling; those are left out that would give a bin with too few events, or no width.
    minimum_effective : float
        Smallest effective number of background events in each bin, (sum w)^2 / sum w^2.

    Examples
    --------
    >>> scores = np.linspace(0, 1, 101)[:-1]
    >>> score_edges(scores, np.ones(100), minimum_effective=20)
    array([0.  , 0.5 , 0.75, 1.  ])
    """
    order = np.argsort(-scores, kind="stable")
    ranked, w = scores[order], weights[order]
    above = np.cumsum(w)
    edges: list[float] = [0.0]
    for efficiency in efficiencies:
        if not len(w) or above[-1] <= 0:
            break
        position = int(np.searchsorted(above, efficiency * above[-1] * (1 - 1e-9)))
        edge = float(ranked[min(position, len(w) - 1)])
        inside, beyond = w[(ranked >= edges[-1]) & (ranked < edge)], w[ranked >= edge]
        if edge <= edges[-1] or min(_effective(inside), _effective(beyond)) < minimum_effective:
            continue
        edges.append(edge)
    return np.array([*edges, 1.0])


def _effective(weights: FloatArray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0
