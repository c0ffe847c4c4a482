"""Events per second and core, and what the part after Pythia costs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from evenet_hep.simulate.catalogue import PROCESSES
from evenet_hep.simulate.detection import detect
from evenet_hep.simulate.detector import CARDS
from evenet_hep.simulate.processes import parse_request
from evenet_hep.simulate.pythia import Generator

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["TT", "TT2L", "WJetsToLNu", "QCD", "xyh:m_x=500,m_y=90"])
def test_simulation_speed(name: str) -> None:
    sample = parse_request(name, PROCESSES)
    process = sample.process
    generator = Generator(sample.settings, seed=1, charged_leptons=process.charged_leptons)
    random = np.random.default_rng(1)
    first = generator.next_batch(20)
    assert first is not None
    detect(first, CARDS["cms"], random, has_top_pair=process.has_top_pair)  # compiles
    generated = detected = 0.0
    for _ in range(5):
        start = time.process_time()
        batch = generator.next_batch(200)
        middle = time.process_time()
        assert batch is not None
        detect(batch, CARDS["cms"], random, has_top_pair=process.has_top_pair)
        generated, detected = generated + middle - start, detected + time.process_time() - middle
    total = generated + detected
    print(f"\n{name}: {1000 / total:.0f} events/s of CPU; detector and jets {100 * detected / total:.0f} %")
