"""The larger study of simulated events: every number of the guide, from samples of thousands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenet_hep.errors import FileError
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import simulate
from evenet_hep.simulate.shards import SimulationSettings
from evenet_hep.simulate.study import main, study_data_set

SAMPLES = [
    "TT2L:events=10000", "TT1L:events=3000", "TTHadronics:events=1500", "WZ_1L:events=1500", "ZZ_2L:events=1500",
    "ZH:events=2000", "haa4b:m_a=30,events=2500", "haa4b:m_a=60,events=2500", "xyh:m_x=500,m_y=90,events=1500",
    "xyh:m_x=700,m_y=200,events=1500", "DY:m_min=50,events=3000", "Upsilon:events=1000",
]  # fmt: skip
# Median and half width of the masses in GeV. Jets lose partons at their edges, so that the median is below the mass;
# near the thresholds of the jets it is above.
EXPECTED = {
    ("TT1L", "W -> qq"): (79.0, 14.5),
    ("TT1L", "t -> bqq"): (164.5, 24.0),
    ("TTHadronics", "t -> bqq"): (164.5, 26.0),
    ("WZ_1L", "Z -> qq"): (86.5, 15.0),
    ("ZZ_2L", "Z -> qq"): (86.5, 15.0),
    ("ZH", "H -> bb, cc"): (110.0, 19.0),
    ("haa4b_m_a30", "a -> bb"): (31.0, 5.5),
    ("haa4b_m_a60", "a -> bb"): (63.5, 11.5),
    ("xyh_m_x500_m_y90", "Y -> bb"): (82.0, 13.5),
    ("xyh_m_x700_m_y200", "Y -> bb"): (174.0, 33.0),
    ("DY_m_min50", "Z -> mumu"): (90.9, 3.1),
    ("Upsilon", "Upsilon(1S) -> mumu"): (9.46, 0.09),
}


def test_a_folder_without_samples(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no simulated samples"):
        study_data_set(tmp_path)


@pytest.mark.slow
def test_the_physics_of_thousands_of_events(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    simulate(requests_from_words(SAMPLES, None), tmp_path / "events", SimulationSettings(seed=11), cores=2)
    main([str(tmp_path / "events"), "--out", str(tmp_path / "study")])
    assert (tmp_path / "study" / "study.png").read_bytes().startswith(b"\x89PNG")
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    found = {(row["sample"], row["what"]): row for row in study["masses"]}
    assert found.keys() == EXPECTED.keys()
    for key, (median, width) in EXPECTED.items():
        row = found[key]
        assert row["n"] > 200, key
        assert abs(row["median"] - median) < 0.03 * median + 4.0 * 1.25 * row["width"] / row["n"] ** 0.5, key
        assert row["width"] == pytest.approx(width, rel=0.25), key
    for label, rates in study["tag_rates"].items():
        if label != "Upsilon":
            assert rates["0"] == pytest.approx(0.010, abs=0.008), label
    assert study["tag_rates"]["TT1L"]["5"] == pytest.approx(0.70, abs=0.03)
    assert 12.0 < study["met"]["DY_m_min50"] < study["met"]["TT2L"] < 25.0
    for case in study["spin"].values():
        for name in ("kk", "rr", "nn"):
            assert abs(case["before"]["measured"][name]) < 4.0 * case["before"]["uncertainty"]
            assert (
                abs(case["after"]["measured"][name] - case["after"]["expected"][name])
                < 4.0 * case["after"]["uncertainty"]
            )
    top_pairs = study["cross_sections"]["TT2L"]
    assert top_pairs["cross_section_pb"] == pytest.approx(24.1, rel=0.05)
