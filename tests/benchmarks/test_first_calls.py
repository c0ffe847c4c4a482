"""Seconds of the first call of every compiled kernel in a fresh process, with an empty and with a filled cache of Numba."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, time

begin = time.perf_counter()
import awkward as ak
import numpy as np

from evenet_hep import EventCloud, EventSchema
from evenet_hep.events.observables import remove_overlap, topness
from evenet_hep.events.spin_observables import calibrate_dimuon, reconstruct_dilepton, spin_angles
from evenet_hep.events.tabular import bbww_features
from evenet_hep.kinematics.neutrino import neutrino_pz

seconds = {"imports": time.perf_counter() - begin}


def timed(name, call):
    start = time.perf_counter()
    call()
    seconds[name] = time.perf_counter() - start


lepton = ak.Array([{"pt": 40.0, "eta": 0.1, "phi": 1.0, "mass": 0.1, "charge": 1}])
jet = {"eta": 0.5, "mass": 5.0, "btagDeepFlavB": 0.9}
jets = ak.Array([[{"pt": pt, "phi": phi, **jet} for pt, phi in ((90.0, 2.0), (50.0, 0.0), (40.0, -2.0), (30.0, 3.0))]])
jets["b"], jets["btagDeepFlavB"] = jets.pt > 45, jets.pt / 90
met = ak.Array([{"pt": 40.0, "phi": -1.0}])
muons = ak.unflatten(lepton, [1])
events = ak.zip({"Jet": jets, "Muon": muons, "Electron": muons[:, :0], "MET": met}, depth_limit=1)
timed("neutrino", lambda: neutrino_pz(40.0, 0.1, 1.0, 0.1, 40.0, -1.0))
timed("topness", lambda: topness(lepton, jets, met.pt, met.phi, is_bjet="b"))
timed("49 features", lambda: bbww_features(lepton, jets, met.pt, met.phi, working_point=0.5))
timed("overlap", lambda: remove_overlap(jets, muons))
timed("spin angles", lambda: spin_angles(lepton, lepton, lepton, lepton))
timed("dilepton", lambda: reconstruct_dilepton(lepton, lepton, jets[:, 0], jets[:, 1], met.pt, met.phi))
timed("dimuon", lambda: calibrate_dimuon(lepton, jets[:, 0], 9.0))
timed("clouds", lambda: EventCloud.from_awkward(events, EventSchema.standard()))
print(json.dumps(seconds))
"""


@pytest.mark.benchmark
def test_first_calls(tmp_path: Path) -> None:
    for cache in ("empty", "filled"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds: dict[str, float] = json.loads(done.stdout)
        kernels = sum(value for name, value in seconds.items() if name != "imports")
        print(f"\n{cache} cache: {kernels:.2f} s for all first calls")
        for name, value in seconds.items():
            print(f"  {name:12s} {value:6.2f} s")
