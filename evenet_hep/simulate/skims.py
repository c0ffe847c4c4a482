"""Choices of events after reconstruction, for processes of which few events are of use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from evenet_hep.simulate.columns import Collection

BoolArray = npt.NDArray[np.bool_]


def _all_events(objects: Mapping[str, Collection]) -> BoolArray:
    return np.ones(len(objects["Jet"].counts), bool)


def _four_jets_two_b(objects: Mapping[str, Collection]) -> BoolArray:
    jets = objects["Jet"]
    good = (jets["pt"] > 25.0) & (np.abs(jets["eta"]) < 2.5)
    n_b = jets.count(good & (jets["hadronFlavour"] == 5))
    enough: BoolArray = (jets.count(good) >= 4) & (n_b >= 2)
    return enough


def _two_muons(objects: Mapping[str, Collection]) -> BoolArray:
    enough: BoolArray = objects["Muon"].counts >= 2
    return enough


def _dimuon(objects: Mapping[str, Collection]) -> BoolArray:
    muons = objects["Muon"]
    enough: BoolArray = (muons.count(muons["pt"] > 8.0) >= 2) & (muons.count(muons["pt"] > 17.0) >= 1)
    return enough


def _one_lepton(objects: Mapping[str, Collection]) -> BoolArray:
    return _hard_leptons(objects) >= 1


def _two_leptons(objects: Mapping[str, Collection]) -> BoolArray:
    return _hard_leptons(objects) >= 2


def _hard_leptons(objects: Mapping[str, Collection]) -> npt.NDArray[np.int64]:
    muons, electrons = objects["Muon"], objects["Electron"]
    return muons.count(muons["pt"] > 20.0) + electrons.count(electrons["pt"] > 20.0)


SKIMS: dict[str, Callable[[Mapping[str, Collection]], BoolArray]] = {
    "none": _all_events,
    "4j2b": _four_jets_two_b,
    "2mu": _two_muons,
    "dimuon": _dimuon,
    "1l": _one_lepton,
    "2l": _two_leptons,
}
DESCRIPTIONS = {
    "none": "all events",
    "4j2b": "four jets above 25 GeV within abs(eta) < 2.5, two of them with a b hadron",
    "2mu": "two muons above 3 GeV",
    "dimuon": "two muons above 8 GeV, one of them above 17 GeV",
    "1l": "an electron or muon above 20 GeV",
    "2l": "two electrons or muons above 20 GeV",
}
