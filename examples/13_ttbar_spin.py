"""Are the tops of simulated pairs entangled? From NanoAOD files to D with its uncertainty.

    python examples/13_ttbar_spin.py --out spin_example

Simulates 6 000 top pairs with two leptons (needs the extra ``sim``; ``--events`` takes a folder of
``evenet-hep simulate`` instead), fills the histograms of :class:`evenet_hep.processors.TTbarSpinProcessor` with the classical
reconstruction, or with a network from ``--checkpoint``, unfolds the angle between the leptons below m(ttbar) = 400 GeV and fits
D. Two minutes on one core, most of them for the simulation; seeded. The whole analysis, with training, the spin matrix, closure and
systematic shifts, is ``evenet-hep analyse ttbar-spin``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hist
from evenet_hep.processors import TTbarSpinProcessor

from evenet_hep import Predictor
from evenet_hep.analyses.samples import read_samples, run_processor
from evenet_hep.inference import Sampling
from evenet_hep.plot import save_figure
from evenet_hep.stats.spin_fits import fit_entanglement
from evenet_hep.stats.unfold_histogram import unfold_histogram


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=Path, help="folder of simulated events")
    parser.add_argument("--n", type=int, default=6000, help="events to simulate without --events")
    parser.add_argument("--checkpoint", help="network with assignment and neutrino generation")
    parser.add_argument("--out", type=Path, default=Path("spin_example"))
    arguments = parser.parse_args()
    samples = read_samples(arguments.events or simulate_pairs(arguments.out / "events", arguments.n))
    predict = None
    if arguments.checkpoint:
        sampling = Sampling(steps=4, noise="none")
        predict = Predictor(arguments.checkpoint, heads=("assignment", "invisible"), sampling=sampling)
    chosen = {"TT2L": samples["TT2L"]}
    for strength, name in ((1.0, "leading-order correlations"), (0.0, "tops that decay independently")):
        # The response is the same for both, with correlations: what it takes for granted shows in the second result.
        data = run_processor(chosen, TTbarSpinProcessor(predict, spin_strength=strength))
        simulation = run_processor(chosen, TTbarSpinProcessor(predict)) if strength != 1.0 else data
        threshold = {"m_tt": slice(None, hist.loc(400))}  # GeV
        true_threshold = {"true_m_tt": slice(None, hist.loc(400))}
        response = simulation["response"][threshold | true_threshold]
        found = unfold_histogram(data["cos_phi"][threshold], response, iterations=4)
        fit = fit_entanglement((found.values[0], found.edges[1]), covariance=found.covariance)
        print(f"{name}: {data['n_reconstructed']} of {data['n_events']} events reconstructed")
        print(f"  D = tr C / 3 = {fit.d_std:.2f} +- {fit.d_std_uncertainty:.2f}, -tr C = {fit.d_poster:.2f}")
        print(f"  {fit.significance:.1f} standard deviations below -1/3")
        figure = draw(found.values[0], found.edges[1], name)
        save_figure(figure, arguments.out / f"cos_phi_{strength:g}.png")


def simulate_pairs(out: Path, n: int) -> Path:
    """Top pairs with two leptons and spin weights; seeded, and made once."""
    from evenet_hep.simulate.plan import requests_from_words  # noqa: PLC0415  an extra
    from evenet_hep.simulate.run import simulate  # noqa: PLC0415
    from evenet_hep.simulate.shards import SimulationSettings  # noqa: PLC0415

    simulate(requests_from_words([f"TT2L:events={n}"], None), out, SimulationSettings(seed=12))
    return out


def draw(values, edges, title):  # type: ignore[no-untyped-def]
    """The unfolded distribution."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    panel = figure.subplots()
    panel.stairs(values, edges)
    panel.set_xlabel(r"$\cos\varphi$")
    panel.set_ylabel("unfolded events")
    panel.set_title(title, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
