"""What labels cost next to the cloud they belong to; NanoAOD-like top pairs, in memory."""

from __future__ import annotations

import time

import awkward as ak
import numpy as np
import pytest
import uproot

from evenet_hep import EventCloud, EventSchema
from evenet_hep.events.truth import label_events
from evenet_hep.share import sample_files
from evenet_hep.topology import Topology


@pytest.mark.benchmark
def test_labels_per_event() -> None:
    """Processor time per event on real top pairs, 20 000 of them: the 200 events of the sample again and again."""
    collections = ("GenPart", "Electron", "Muon", "Jet", "PuppiMET")
    sample = uproot.open(sample_files()["ttbar MC"])["Events"].arrays(
        filter_name=[f"{c}_*" for c in collections]
    )
    events = ak.to_packed(sample[np.tile(np.arange(len(sample)), 100)])
    schema, topology = EventSchema.standard(), Topology.published()
    cloud = EventCloud.from_awkward(events, schema)
    label_events(events[:10], cloud[:10], topology)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        truth = label_events(events, cloud, topology)
        seconds.append(time.process_time() - start)
    n_particles = ak.mean(ak.num(events["GenPart_pt"]))
    print(f"{min(seconds) / len(events) * 1e6:.1f} us per event of {n_particles:.0f} generated particles")
    assert (truth.labels.process >= 0).all()
