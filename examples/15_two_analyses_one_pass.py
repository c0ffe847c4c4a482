"""Two analyses in one pass over the files: the dimuon spectrum, and the scores of a network, from one coffea processor.

python examples/15_two_analyses_one_pass.py [OUT]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import awkward as ak
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from evenet_hep.processors import DimuonAnomaly, EventScores
from evenet_hep.processors.event_scores import mean_probabilities
from rich.console import Console

from evenet_hep import Predictor
from evenet_hep.share import sample_files


class DimuonsAndScores(processor.ProcessorABC):  # type: ignore[misc]
    """Processors of this package side by side: every chunk is read once, and each result has its name."""

    def __init__(self, **parts: processor.ProcessorABC) -> None:
        self.parts = parts

    def process(self, events: ak.Array) -> dict[str, Any]:
        return {name: part.process(events) for name, part in self.parts.items()}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return {name: part.postprocess(accumulator[name]) for name, part in self.parts.items()}


def run_both(out: Path) -> dict[str, Any]:
    """Both analyses of the NanoAOD files that come with the package."""
    NanoAODSchema.warn_missing_crossrefs = False
    both = DimuonsAndScores(
        # These files are no DoubleMuon data of 2016: no trigger of that year, and isolated muons too.
        dimuons=DimuonAnomaly(triggers=(), isolation=None),
        scores=EventScores(Predictor("demo"), out=out),
    )
    fileset = {name: {"files": {str(path): "Events"}} for name, path in sample_files().items()}
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=NanoAODSchema)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
        return dict(run(fileset, both))


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "two-analyses")
    found, console = run_both(out), Console()
    for name, dimuons in found["dimuons"].items():
        top = mean_probabilities(found["scores"][name])["TT"]
        pairs = dimuons["cutflow"]["selected"]
        console.print(
            f"{name}: {dimuons['cutflow']['all']} events, {pairs} muon pairs of 5 to 16 GeV, mean P(TT) {top:.2f}"
        )


if __name__ == "__main__":
    main()
