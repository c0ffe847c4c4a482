"""Search for an exotic Higgs decay, H -> aa -> 4b: selection, cut flow, and masses from the network's assignment.

Search for H to aa to 4b
------------------------
Electrons and muons above 15 GeV that are isolated (:func:`~evenet_hep.events.object_selection.select_objects`) are kept as
objects of the event; jets within abs(eta) < 2.5 that have none of them within Delta R = 0.4 are its jets, above 20 GeV. A
jet is b-tagged for the selection if its score is above the *loose* working point: three b jets at the medium one leave
one in eight of the multijet events that have four b quarks, and no simulated sample survives that. Events need at least
four jets above 30 GeV and at least three b jets above 20 GeV, the second of them above 30 GeV (EveNet paper, Sec. IV).

All these objects and the missing transverse momentum become one cloud, in which a jet carries the flag of the *medium*
working point, as in the pretraining. The network gives each event the probability of being signal and says which jets
come from the two scalars. Histograms are filled with the weight of each event: the score, the mass of either scalar and
the mass of both together. Efficiencies of the steps of the selection are counted with weights and without.

Events that pass, or would pass with all jets ten per cent harder, can be kept in Parquet files with all that a training
and a variation of the energy scale need: that is what :mod:`evenet_hep.analyses.higgs_to_4b` starts from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import hist
import numpy as np
import numpy.typing as npt
from coffea import processor

from evenet_hep.errors import ConfigError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.flat import count_objects
from evenet_hep.events.nanoaod import Branches, nano_version
from evenet_hep.events.object_selection import select_objects
from evenet_hep.events.observables import remove_overlap
from evenet_hep.events.selection import Haa4bSelection, select_haa4b
from evenet_hep.events.splits import SALT, event_hash, split_edges
from evenet_hep.events.systematics import JES_LIMIT, shift_energy_scale
from evenet_hep.events.truth import label_events
from evenet_hep.inference import Predictor
from evenet_hep.schema import EventSchema
from evenet_hep.topology import Topology

PROCESS = "HAA4B"
MIN_JET_PT = 20.0  # GeV
SOFTEST_JET = MIN_JET_PT / (1 + JES_LIMIT)  # may still pass in a variation of the energy scale
CUTS = ("all", "four jets", "three b jets", "two hard b jets")
KEPT = {  # fields of the objects of a kept event; GeV and radians
    "jets": ("pt", "eta", "phi", "mass", "btag", "daughter"),
    "electrons": ("pt", "eta", "phi", "mass", "charge"),
    "muons": ("pt", "eta", "phi", "mass", "charge"),
    "met": ("pt", "phi"),
}


@dataclasses.dataclass(frozen=True)
class BTag:
    """B-tag of the jets.

    Parameters
    ----------
    field : str
        Score of the jets; the one that belongs to the version of the file if empty.
    loose : float
        Above it, a jet is b-tagged for the selection. The default is the loose working point of btagDeepFlavB in 2016
        after the VFP change; other taggers and years have others.
    medium : float
        Above it, a jet is flagged for the network.
    """

    field: str = "btagDeepFlavB"
    loose: float = 0.0480
    medium: float = 0.2489

    def __post_init__(self) -> None:
        if not self.loose <= self.medium:
            msg = f"b-tag: loose must not be above medium; found {self.loose} and {self.medium}"
            raise ConfigError(msg)


class Candidates(NamedTuple):
    """Objects of the search, of all events they were asked for.

    Parameters
    ----------
    jets, electrons, muons : ak.Array of lists
        Jets carry ``btag``, the score, and ``daughter``: 0 and 1 for the b quarks of one scalar, 2 and 3 for those of the
        other, -1 for all other jets and without generated particles.
    met : ak.Array
        ``pt`` and ``phi``.
    """

    jets: ak.Array
    electrons: ak.Array
    muons: ak.Array
    met: ak.Array

    def select(self, where: Any) -> Candidates:
        """Chosen events."""
        return Candidates(*(part[where] for part in self))

    def shifted(self, alpha: float) -> Candidates:
        """The same with the energy of all jets scaled by 1 + alpha, and the missing momentum that goes with them."""
        jets, met = shift_energy_scale(self.jets, self.met, alpha)
        return self._replace(jets=jets, met=met)

    def passing(self, btag: BTag) -> Haa4bSelection:
        """Jets above 20 GeV at the two thresholds of the selection, and which events pass."""
        return select_haa4b(self.jets, self.jets[self.jets["btag"] > btag.loose])

    def cloud(self, schema: EventSchema, btag: BTag) -> EventCloud:
        """What the network is given: leptons, jets above 20 GeV with the flag of the medium working point, and MET."""
        collections = {
            "Jet": self.jets[self.jets["pt"] > MIN_JET_PT],
            "Electron": self.electrons,
            "Muon": self.muons,
        }
        return EventCloud.from_awkward(
            ak.zip({**collections, "MET": self.met}, depth_limit=1),
            schema,
            branches=Branches(met="MET", btag="btag", working_point=btag.medium),
        )


def find_candidates(events: ak.Array, btag: BTag, *, truth: bool = True) -> Candidates:
    """Objects of the search in NanoAOD events.

    Parameters
    ----------
    events : ak.Array
        NanoEvents.
    btag : BTag
        Which score to read.
    truth : bool
        Find the b quarks of the scalars among the jets, where there are generated particles.
    """
    version = nano_version(events, events["Jet"])
    chosen = select_objects(events)
    jets = events["Jet"]
    jets = jets[(jets["pt"] > SOFTEST_JET) & (abs(jets["eta"]) < 2.5)]
    jets = remove_overlap(jets, chosen["Electron"], chosen["Muon"])
    met = events[version.met if version is not None else "MET"]
    score = btag.field or (version.btag if version is not None else "btagDeepFlavB")
    tagged = _records(jets, {name: name for name in KEPT["jets"][:4]} | {"btag": score})
    electrons, muons = (
        _records(chosen[name], {field: field for field in KEPT["muons"]}) for name in ("Electron", "Muon")
    )
    found = Candidates(tagged, electrons, muons, ak.zip({"pt": met["pt"], "phi": met["phi"]}))
    daughter = _daughters(events, found) if truth and "GenPart" in ak.fields(events) else None
    nothing = ak.values_astype(ak.full_like(tagged["pt"], -1), np.int8)
    return found._replace(jets=ak.with_field(tagged, nothing if daughter is None else daughter, "daughter"))


def _records(objects: ak.Array, fields: Mapping[str, str]) -> ak.Array:
    return ak.zip({name: ak.values_astype(objects[field], np.float32) for name, field in fields.items()})


def _daughters(events: ak.Array, found: Candidates) -> ak.Array:
    """Which quark of which scalar every jet is from, as int8."""
    cloud = EventCloud.from_awkward(
        ak.zip({"Jet": found.jets}, depth_limit=1),
        _EVERY_JET,
        branches=Branches(leptons=(), btag="btag", working_point=0.5),  # the flag is not looked at
    )
    labels = label_events(events, cloud, Topology.shipped("higgs_to_4b"), candidates=[PROCESS]).labels
    codes = np.full(cloud.mask.shape, -1, np.int8)
    rows, resonance, quark = np.nonzero(labels.indices >= 0)
    codes[rows, labels.indices[rows, resonance, quark]] = 2 * resonance + quark
    return ak.values_astype(cloud.to_collection("Jet", codes, fill=-1), np.int8)


_EVERY_JET = dataclasses.replace(EventSchema.standard(capacity=40), event_features=())


def in_part(
    events: ak.Array, part: str, fractions: Mapping[str, float], salt: str = SALT
) -> npt.NDArray[np.bool_]:
    """Which events belong to one part of a sample, by the hash of their identifiers; see :mod:`evenet_hep.events.splits`."""
    hashes = event_hash(
        *(ak.to_numpy(events[name]) for name in ("run", "luminosityBlock", "event")), salt=salt
    )
    found = np.searchsorted(split_edges(fractions), hashes, side="right")
    return np.asarray(found == list(fractions).index(part))


class HiggsTo4b(processor.ProcessorABC):  # type: ignore[misc]
    """Cut flow and histograms of the search for H -> aa -> 4b, for one network or none.

    Parameters
    ----------
    predict : Predictor, optional
        Network with the heads ``classification``, one class of which is called ``signal``, and ``assignment``, made with
        both as ``heads``. Without it there is a cut flow and no histogram.
    scales : mapping of str to float, optional
        Data set -> what a generator weight is multiplied with, such as luminosity times cross-section over the sum of all
        generator weights; 1 for data sets that are not there.
    btag : BTag
        Score and working points.
    part : str
        Fill histograms with one part of each sample alone, whose weights are scaled up to the whole; all of it if empty.
    fractions : mapping of str to float, optional
        Names and fractions of the parts, as for a training.
    out : path, optional
        Folder for Parquet files with the events that are kept for a training.
    scale_for : float
        Largest relative shift of the energy scale with which kept events have to be complete.

    Examples
    --------
    >>> HiggsTo4b(scales={"QCD_4b": 12.5}).scales["QCD_4b"]
    12.5
    """

    def __init__(
        self,
        predict: Predictor | None = None,
        *,
        scales: Mapping[str, float] | None = None,
        btag: BTag | None = None,
        part: str = "",
        fractions: Mapping[str, float] | None = None,
        out: str | Path | None = None,
        scale_for: float = JES_LIMIT,
    ) -> None:
        if part and part not in (fractions or {}):
            msg = f"part must be one of the fractions {', '.join(fractions or {}) or '(none given)'}; found {part!r}"
            raise ConfigError(msg)
        if predict is not None and not {"classification", "assignment"} <= set(predict.heads):
            msg = (
                f"predict must have the heads classification and assignment; found {', '.join(predict.heads)}"
            )
            raise ConfigError(msg)
        self.predict = predict
        self.scales = dict(scales or {})
        self.btag = btag or BTag()
        self.part = part
        self.fractions = dict(fractions or {})
        self.out = None if out is None else Path(out).absolute()
        self.scale_for = scale_for

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        """Select one chunk.

        Returns
        -------
        dict
            Data set name -> ``cutflow`` (cut -> number of events), ``cutflow_weighted``, ``kept`` (set of file names) and,
            with a network, the histograms ``score``, ``mass_a`` (two entries per event) and ``mass_aa``, in GeV.
        """
        dataset = events.metadata["dataset"]
        candidates = find_candidates(events, self.btag, truth=self.out is not None)
        weight = np.ones(len(events))
        if "genWeight" in events.fields:
            weight = ak.to_numpy(events["genWeight"]).astype(np.float64) * self.scales.get(dataset, 1.0)
        steps = self._steps(candidates)
        passed = np.logical_and.reduce(list(steps.values()))
        result: dict[str, Any] = {
            "cutflow": {name: int(mask.sum()) for name, mask in _accumulated(steps).items()},
            "cutflow_weighted": {
                name: float(weight[mask].sum()) for name, mask in _accumulated(steps).items()
            },
            "kept": self._keep(events, candidates, weight),
        }
        if self.predict is not None:
            chosen = passed
            if self.part:
                chosen = passed & in_part(events, self.part, self.fractions)
                weight = weight / self.fractions[self.part]
            result |= fill_histograms(self.predict, candidates.select(chosen), weight[chosen], self.btag)
        return {dataset: result}

    def _steps(self, candidates: Candidates) -> dict[str, npt.NDArray[np.bool_]]:
        found = candidates.passing(self.btag)
        return {
            "all": np.ones(len(candidates.met), bool),
            "four jets": count_objects(found.jets) >= 4,
            "three b jets": count_objects(found.bjets) >= 3,
            "two hard b jets": count_objects(found.bjets[found.bjets["pt"] > 30.0]) >= 2,
        }

    def _keep(self, events: ak.Array, candidates: Candidates, weight: npt.NDArray[np.float64]) -> set[str]:
        if self.out is None:
            return set()
        meta = events.metadata
        kept = candidates.shifted(self.scale_for).passing(self.btag).passed
        table = {name: getattr(candidates.select(kept), name) for name in KEPT}
        table |= {name: events[name][kept] for name in ("run", "luminosityBlock", "event")}
        slug = "".join(c if c.isalnum() else "_" for c in meta["dataset"])
        stem = f"{slug}-{Path(meta['filename']).stem}-{meta['entrystart']}-{meta['entrystop']}"
        self.out.mkdir(parents=True, exist_ok=True)
        partial = self.out / f".{stem}.partial"
        ak.to_parquet(ak.zip({**table, "weight": weight[kept]}, depth_limit=1), partial)
        partial.replace(self.out / f"{stem}.parquet")
        return {f"{stem}.parquet"}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator, unchanged."""
        return accumulator


def _accumulated(steps: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, npt.NDArray[np.bool_]]:
    masks = np.logical_and.accumulate(np.stack(list(steps.values())), axis=0)
    return dict(zip(steps, masks, strict=True))


def fill_histograms(
    predict: Predictor, candidates: Candidates, weight: npt.NDArray[np.float64], btag: BTag
) -> dict[str, Any]:
    """Score and masses of selected events, weighted.

    Parameters
    ----------
    predict : Predictor
        With classification and assignment.
    candidates : Candidates
        Selected events.
    weight : float array, shape (n_events,)
    btag : BTag

    Returns
    -------
    dict
        Histograms ``score``, ``mass_a`` and ``mass_aa``; events without an assignment are missing in the masses.
    """
    score = hist.Hist.new.Reg(20, 0, 1, name="score", label="probability of signal").Weight()
    mass_a = hist.Hist.new.Reg(50, 0, 250, name="mass", label="m(bb) of either scalar [GeV]").Weight()
    mass_aa = hist.Hist.new.Reg(50, 0, 500, name="mass", label="m(4b) [GeV]").Weight()
    if len(weight):
        found = predict(candidates.cloud(predict.schema, btag))
        # 1 belongs to the last bin, not to the overflow
        highest = np.nextafter(np.float32(1), np.float32(0))
        probability = ak.to_numpy(found.classification["signal"])
        score.fill(np.minimum(probability, highest), weight=weight)
        first, second = found.assignment["a1"], found.assignment["a2"]
        both = first + second
        masses = [ak.to_numpy(each.mass) for each in (first, second, both)]
        there = np.isfinite(masses[2])
        for mass in masses[:2]:
            mass_a.fill(mass[there], weight=weight[there])
        mass_aa.fill(masses[2][there], weight=weight[there])
    return {"score": score, "mass_a": mass_a, "mass_aa": mass_aa}
