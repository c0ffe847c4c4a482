"""The search for H -> aa -> 4b from simulated files to limits, and its processor beside a cut flow of your own.

    python examples/12_higgs_to_4b.py --out higgs-to-4b [--events FOLDER]

1. Without --events, a small sample is simulated (extra `sim`, about two minutes): signal, and all-hadronic top pairs in
   place of multijets, which pass far more rarely.
2. The analysis is run with few training events and short trainings.
3. The trained network is put into the coffea processor, and the masses of its pairs are printed.

The numbers of such a sample mean nothing; `evenet-hep analyse higgs-to-4b` with the defaults, on the events of
`evenet-hep simulate --set higgs_to_4b`, is the study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evenet_hep.processors import HiggsTo4b

from evenet_hep import Predictor
from evenet_hep.analyses.higgs_to_4b import HiggsTo4bConfig, analyse_higgs_to_4b
from evenet_hep.analyses.samples import read_samples, run_processor


def simulate_events(out: Path) -> None:
    """A small sample of signal and background; goes on where it was stopped."""
    from evenet_hep.simulate.detector import load_card  # noqa: PLC0415  needs an extra
    from evenet_hep.simulate.plan import requests_from_words  # noqa: PLC0415
    from evenet_hep.simulate.run import simulate  # noqa: PLC0415
    from evenet_hep.simulate.shards import SimulationSettings  # noqa: PLC0415

    requests = requests_from_words(["haa4b:m_a=60,skim=4j2b,events=600", "TTHadronics:events=1500"], None)
    simulate(requests, out, SimulationSettings(seed=1, card=load_card("cms")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--events", type=Path, help="folder of evenet-hep simulate")
    parser.add_argument("--steps", type=int, default=40, help="steps of every training")
    args = parser.parse_args()
    events = args.events or args.out / "events"
    if args.events is None:
        simulate_events(events)

    config = HiggsTo4bConfig(
        events=str(events), sizes=(40, 80, 0), seeds=(1,), steps=args.steps, bins=4, energy_shifts=10, toys=5
    )
    report = analyse_higgs_to_4b(config, args.out / "analysis", progress=True)
    print(report.summary)

    network = args.out / "analysis" / "steps" / "networks" / "learn-scratch-assignment-all-1"
    predict = Predictor(network, heads=("classification", "assignment"))
    samples = read_samples(events)
    for name, found in run_processor(
        samples, HiggsTo4b(predict, part="test", fractions=config.fractions)
    ).items():
        mass = (
            found["mass_a"].values()
            @ found["mass_a"].axes[0].centers
            / max(found["mass_a"].values().sum(), 1)
        )
        print(f"{name}: cut flow {found['cutflow']}, mean mass of a pair {mass:.0f} GeV")


if __name__ == "__main__":
    main()
