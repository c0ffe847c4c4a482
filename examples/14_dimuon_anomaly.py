"""The Upsilon in 5 % of the shipped collision data: with the mass spectrum alone, and with a generated background.

python examples/14_dimuon_anomaly.py

The whole study, with toys and systematic uncertainties: evenet-hep analyse dimuon-anomaly --out dimuon-anomaly
"""

from __future__ import annotations

import numpy as np
from rich.console import Console

from evenet_hep.analyses.dimuon_anomaly import DimuonAnomalyConfig
from evenet_hep.analyses.dimuon_anomaly.search import whole_search
from evenet_hep.events.dimuons import read_dimuons
from evenet_hep.share import dimuon_file


def main() -> None:
    config, console = DimuonAnomalyConfig(), Console()
    everything = read_dimuons(dimuon_file())
    pairs = everything.take(np.random.default_rng(1).choice(everything.n, 1000, replace=False))
    found = whole_search(pairs, "scratch", config, seed=1)
    console.print(
        f"{found.uncut.observed:.0f} pairs in the window, {found.uncut.expected:.0f} ± {found.uncut.uncertainty:.0f} expected"
    )
    console.print(f"mass spectrum alone: Z = {found.uncut.significance:.2f}")
    if found.weighted is not None:
        console.print(
            f"weighted with the likelihood ratio of the network: Z = {found.weighted.fit.significance:.2f}"
        )
    for cut in found.cuts:
        if cut.fit is not None:
            console.print(
                f"behind a cut that keeps {cut.background_efficiency:.0%} of background: Z = {cut.fit.significance:.2f}"
            )


if __name__ == "__main__":
    main()
