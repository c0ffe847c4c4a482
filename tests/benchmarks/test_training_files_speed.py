"""How many events per second are converted and read; run with ``-m benchmark``, nothing here passes or fails on seconds."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from evenet_hep.conversion import make_plan
from evenet_hep.description import padded_size
from evenet_hep.events.sources import Source
from evenet_hep.events.splits import SPLITS
from evenet_hep.events.training_chunks import Settings, convert_task
from evenet_hep.events.training_files import finish
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.topology import Topology

pytestmark = pytest.mark.benchmark


def repeated(source: Path, target: Path, times: int) -> None:
    """A file with the events of another, several times, in baskets as large as it has events."""
    with uproot.open(source) as file:
        tree = file["Events"]
        names = [name for name in tree.keys(recursive=False) if not name.startswith(("n", "GenJet"))]
        flat = tree.arrays(names)
    collections = ("Jet", "Muon", "Electron", "GenPart")
    columns = {
        name: ak.zip({f.removeprefix(f"{name}_"): flat[f] for f in names if f.startswith(f"{name}_")})
        for name in collections
    }
    columns |= {name: flat[name] for name in names if name.split("_")[0] not in collections}
    with uproot.recreate(target, compression=uproot.ZSTD(5)) as out:
        for block in range(times):
            columns["luminosityBlock"] = flat["luminosityBlock"] + np.uint32(block)
            if block == 0:
                out["Events"] = columns
            else:
                out["Events"].extend(columns)


def test_conversion_and_reading(shared_data: Path, tmp_path: Path) -> None:
    repeated(shared_data / "fastsim" / "ttbar_1l.root", tmp_path / "events.root", 10)
    plan = make_plan(
        [Source("tt", "TT", (str(tmp_path / "events.root"),))],
        schema=None,
        topology=Topology.published(),
        splits=SPLITS,
        settings=Settings(select=True),
    )
    n_events = sum(task.stop - task.start for task in plan.tasks)
    for turn in ("with compilation", "warm", "warm"):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        wall, cpu = time.perf_counter(), time.process_time()
        parts = [
            convert_task(tmp_path / "set", i, task, plan.sources[0], plan.layout, plan.settings)
            for i, task in enumerate(plan.tasks)
        ]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"converted {n_events} events, {turn}: {n_events / wall:.0f} per second, {n_events / cpu:.0f} per CPU second"
        )
    finish(tmp_path / "set", plan.layout, parts, {"tt": {}})
    opened = TrainingSet.open(tmp_path / "set")
    size = sum(part.size for part in parts)
    print(f"size: {size / n_events:.0f} bytes per event, {size / padded_size(opened):.1%} of padded float32")
    for epoch in range(3):
        wall, cpu, seen, slots, filled = time.perf_counter(), time.process_time(), 0, 0, 0
        for batch in opened.batches("train", 1024, seed=1, epoch=epoch):
            seen, slots, filled = (
                seen + len(batch.label),
                slots + batch.mask.size,
                filled + int(batch.mask.sum()),
            )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"read {seen} events: {seen / wall:.0f} per second, {seen / cpu:.0f} per CPU second, slots filled {filled / slots:.1%}"
        )
    assert seen == opened.n_events("train")
