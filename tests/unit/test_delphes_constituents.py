"""Constituents of Delphes jets by their references."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events.delphes_constituents import delphes_constituents
from evenet_hep.events.jets import cloud_of_jets, jet_schema


def columns() -> dict[str, ak.Array]:
    """Two events: two jets and one; identifiers of an event come again in the other."""
    return {
        "EFlowTrack.fUniqueID": ak.Array([[5, 6], [5]]),
        "EFlowTrack.PT": ak.Array([[10.0, 20.0], [30.0]]),
        "EFlowTrack.Eta": ak.Array([[0.1, 0.2], [0.3]]),
        "EFlowTrack.Phi": ak.Array([[0.0, 0.0], [1.0]]),
        "EFlowTrack.Charge": ak.Array([[1, -1], [-1]]),
        "EFlowTrack.PID": ak.Array([[211, 11], [13]]),
        "EFlowTrack.Mass": ak.Array([[0.1396, 0.0005], [0.1057]]),
        "EFlowPhoton.fUniqueID": ak.Array([[9], []]),
        "EFlowPhoton.ET": ak.Array([[7.0], []]),
        "EFlowPhoton.Eta": ak.Array([[0.4], []]),
        "EFlowPhoton.Phi": ak.Array([[0.5], []]),
        "EFlowNeutralHadron.fUniqueID": ak.Array([[12], [6]]),
        "EFlowNeutralHadron.ET": ak.Array([[3.0], [4.0]]),
        "EFlowNeutralHadron.Eta": ak.Array([[0.6], [0.7]]),
        "EFlowNeutralHadron.Phi": ak.Array([[0.8], [0.9]]),
        "Jet.Constituents": ak.Array([[[12, 6, 5], [9]], [[6, 5]]]),
    }


def test_constituents_follow_their_references() -> None:
    found = delphes_constituents(ak.zip(columns(), depth_limit=1))
    assert found.pt.to_list() == [[[3.0, 20.0, 10.0], [7.0]], [[4.0, 30.0]]]
    assert found.pdgId.to_list() == [[[130, 11, 211], [22]], [[130, 13]]]
    assert found.charge.to_list() == [[[0, -1, 1], [0]], [[0, -1]]]
    jets = ak.Array(
        [
            [
                {"pt": 33.0, "eta": 0.2, "phi": 0.0, "mass": 3.0},
                {"pt": 7.0, "eta": 0.4, "phi": 0.5, "mass": 0.0},
            ],
            [{"pt": 34.0, "eta": 0.3, "phi": 1.0, "mass": 2.0}],
        ]
    )
    cloud = cloud_of_jets(jets, found, jet_schema())
    assert cloud.n_objects.tolist() == [3, 1, 2]
    assert cloud.objects[0, 0, 11] == 1  # the electron is the hardest


def test_references_as_uproot_reads_them_and_as_records() -> None:
    flat = columns()
    flat["Jet.Constituents"] = ak.zip({"refs": flat["Jet.Constituents"]}, depth_limit=2)
    records = {
        name: ak.zip({k.split(".")[1]: v for k, v in flat.items() if k.startswith(f"{name}.")}, depth_limit=2)
        for name in ("EFlowTrack", "EFlowPhoton", "EFlowNeutralHadron", "Jet")
    }
    one, other = (delphes_constituents(ak.zip(x, depth_limit=1)) for x in (flat, records))
    assert (
        one.to_list() == other.to_list() == delphes_constituents(ak.zip(columns(), depth_limit=1)).to_list()
    )


def test_old_files_have_pions() -> None:
    old = {k: v for k, v in columns().items() if k not in ("EFlowTrack.PID", "EFlowTrack.Mass")}
    found = delphes_constituents(ak.zip(old, depth_limit=1))
    assert found.pdgId.to_list()[1] == [[130, -211]]
    assert np.isclose(found.mass[1, 0, 1], 0.13957)


def test_what_is_missing_is_named() -> None:
    lost = columns() | {"Jet.Constituents": ak.Array([[[12, 77]], [[78]]])}
    with pytest.raises(
        InputError, match=r"2 of 3 references of Jet\.Constituents lead to none of EFlowTrack"
    ):
        delphes_constituents(ak.zip(lost, depth_limit=1))
    without = {k: v for k, v in columns().items() if k != "EFlowPhoton.ET"}
    with pytest.raises(InputError, match=r"the events have no EFlowPhoton\.ET; nearest"):
        delphes_constituents(ak.zip(without, depth_limit=1))
    empty = ak.zip(columns(), depth_limit=1)[:0]
    assert delphes_constituents(empty).to_list() == []
