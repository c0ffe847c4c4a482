"""Muon pairs around the Upsilon: mass spectra and the pairs themselves, for a search without a signal model.

Search for a resonance in dimuons
---------------------------------
Events fire HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx (or the triggers named) and have two muons that pass the tight
identification. The two hardest of them are the pair: pT of at least 17 and 8 GeV, relative isolation in a cone of 0.4 of at
least 0.55 on both (pairs inside jets, where searches for isolated muons do not look), and a mass from 5 to 16 GeV. Pairs are
of opposite sign (OS) or of same sign (SS), and lie in the lower side band (SBL, 5 to 9 GeV), the signal region (SR, 9 to 10.6)
or the upper side band (SBH, 10.6 to 16), open intervals. Per data set and sign the processor fills the mass spectrum in the
bins of the published search, counts events after every step, and keeps the momenta and charges of the pairs; the search that
uses them is :mod:`evenet_hep.analyses.dimuon_anomaly`. (EveNet paper, Sec. VI; published yields of the DoubleMuon data of
2016H: OS 10640 in the side bands and 1692 in the signal region, SS 6179 and 989.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import hist
import numpy as np
import numpy.typing as npt
from coffea import processor

from evenet_hep.errors import InputError
from evenet_hep.events.dimuons import DimuonPairs, join_pairs, make_pairs, pairs_of
from evenet_hep.events.selection import DimuonSelection, select_dimuon
from evenet_hep.stats.spectrum import mass_bins

TRIGGERS = ("HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx",)
REGIONS = ("SBL", "SR", "SBH")


class DimuonAnomaly(processor.ProcessorABC):  # type: ignore[misc]
    """Mass spectra and momenta of anti-isolated muon pairs.

    Parameters
    ----------
    triggers : sequence of str
        Names as in NanoAOD, ``HLT_...``; an event that fires any of them is kept. Empty for files that were triggered
        before or have no triggers.
    isolation : float or None
        Both muons have at least this relative isolation; None keeps isolated pairs too.

    Examples
    --------
    >>> DimuonAnomaly().triggers
    ('HLT_TrkMu15_DoubleTrkMu5NoFiltersNoVtx',)
    """

    def __init__(self, *, triggers: Sequence[str] = TRIGGERS, isolation: float | None = 0.55) -> None:
        self.triggers = tuple(triggers)
        self.isolation = isolation

    def process(self, events: ak.Array) -> dict[str, dict[str, Any]]:
        """Select one chunk.

        Returns
        -------
        dict
            Data set name -> ``mass`` (histogram with the axes sign and mass), ``cutflow`` (int per step), ``yields`` (int
            per sign and region) and ``columns`` (accumulators px1, py1, pz1, charge1 and so on, one entry per pair).

        Raises
        ------
        InputError
            For a trigger that the file does not have.
        """
        fired = self._fired(events)
        muons = events.Muon
        if self.isolation is None:
            muons = ak.with_field(muons, ak.full_like(muons.pfRelIso04_all, 1.0), "pfRelIso04_all")
        found = select_dimuon(muons, fired)
        passed = found.passed
        if self.isolation is not None and self.isolation > 0.55:
            passed = passed & ak.to_numpy(ak.all(found.muons.pfRelIso04_all >= self.isolation, axis=1))
        return {
            events.metadata["dataset"]: {
                "mass": _spectrum(found, passed),
                "cutflow": {
                    "all": len(events),
                    "trigger": int(fired.sum()),
                    "two muons": int((fired & (found.channel != "none")).sum()),
                    "selected": int(passed.sum()),
                },
                "yields": {
                    f"{sign} {region}": int(
                        (passed & (found.channel == sign) & (found.region == region)).sum()
                    )
                    for sign in ("OS", "SS")
                    for region in REGIONS
                },
                "columns": _columns(pairs_of(found.muons[passed])),
            }
        }

    def _fired(self, events: ak.Array) -> npt.NDArray[np.bool_]:
        if not self.triggers:
            return np.ones(len(events), bool)
        fired = np.zeros(len(events), bool)
        for name in self.triggers:
            short = name.removeprefix("HLT_")
            if "HLT" not in events.fields or short not in events.HLT.fields:
                msg = f"the file has no trigger {name}; name those to use, or none"
                raise InputError(msg)
            fired |= ak.to_numpy(events.HLT[short])
        return fired

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator, unchanged."""
        return accumulator


def pairs_in(content: Mapping[str, Mapping[str, Any]]) -> DimuonPairs:
    """All pairs that the processor collected, of all data sets, by the azimuth of the leading muon.

    Chunks come in the order in which processes finish; this one is the same for the same files, and knows no mass.

    Parameters
    ----------
    content : mapping
        What :class:`DimuonAnomaly` accumulated.
    """
    parts = []
    for found in content.values():
        column = {name: values.value for name, values in found["columns"].items()}
        muons = [np.stack([column[f"{axis}{k}"] for axis in ("px", "py", "pz")]) for k in (1, 2)]
        parts.append(make_pairs(muons[0], muons[1], np.stack([column["charge1"], column["charge2"]])))
    pairs = join_pairs(parts)
    return pairs.take(np.argsort(np.arctan2(pairs.leading[1], pairs.leading[0]), kind="stable"))


def _spectrum(found: DimuonSelection, passed: npt.NDArray[np.bool_]) -> hist.Hist[Any]:
    spectrum = hist.Hist(
        hist.axis.StrCategory(["OS", "SS"], name="sign", label="sign of the pair"),
        hist.axis.Variable(mass_bins().edges, name="mass", label="dimuon mass [GeV]"),
        storage=hist.storage.Weight(),
    )
    for sign in ("OS", "SS"):
        spectrum.fill(sign, found.mass[passed & (found.channel == sign)])
    return spectrum


def _columns(pairs: DimuonPairs) -> dict[str, Any]:
    columns = {}
    for k, momentum in ((1, pairs.leading), (2, pairs.trailing)):
        for axis, values in zip(("px", "py", "pz"), momentum, strict=True):
            columns[f"{axis}{k}"] = processor.column_accumulator(np.ascontiguousarray(values))
        columns[f"charge{k}"] = processor.column_accumulator(np.ascontiguousarray(pairs.charges[k - 1]))
    return columns
