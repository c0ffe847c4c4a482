"""The studies of the jet network: fine-tuning against scratch and boosted trees, reweighting, generation, a search.

    evenet-hep jets simulate jet_top:pt_min=500,pt_max=700 jet_quark:pt_min=500,pt_max=700 jet_gluon:pt_min=500,pt_max=700 \\
        --events 30000 --out jets
    evenet-hep jets simulate jet_quark:pt_min=500,pt_max=700 jet_gluon:pt_min=500,pt_max=700 jet_W:pt_min=500,pt_max=700 \\
        jet_Z:pt_min=500,pt_max=700 jet_H:pt_min=500,pt_max=700 --events 30000 --seed 2 --out others
    evenet-hep jets simulate jet_quark:pt_min=500,pt_max=700 --events 30000 --out shower --set-param 'TimeShower:renormMultFac = 4'
    evenet-hep jets simulate dijets:pt_min=900,m_min=2200,events=60000 abc:events=3000 --out search
    python examples/16_jet_studies.py --jets jets --others others --shower shower --search search --out studies

Everything is kept in ``--out``: run it again after an interruption and it goes on where it was. ``--parts`` chooses some; the table
of each and ``table.md`` with all that are finished are written there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evenet_hep.events.jet_files import JetSelection
from evenet_hep.jet_studies.classify import classify_jets
from evenet_hep.jet_studies.generate import generate_jets
from evenet_hep.jet_studies.reweight import reweight_simulations
from evenet_hep.jet_studies.search import search_jets
from evenet_hep.jet_studies.shared import JetRun
from evenet_hep.stats.cwola import CwolaConfig
from evenet_hep.stats.weak import WeakConfig
from evenet_hep.training.jets import JetTrainingConfig

SELECTION = JetSelection(min_pt=450, max_pt=800, max_abs_eta=2.0)
# A cubic does not follow this spectrum: degree 4 is the first that does, 5 leaves room for a resonance beside it.
SEARCH = CwolaConfig((3300, 3700), (2500, 6000), window_bins=4, background=5)


def say(text: str) -> None:
    print(text, flush=True)


def done(folder: Path) -> Any:
    """The result of a finished part; None if it must be made."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def classification(args: argparse.Namespace) -> list[str]:
    """Top against QCD: networks from scratch and fine-tuned from other jets, and trees, on the same test jets."""
    training = JetTrainingConfig(epochs=args.epochs, batch_size=128, rate=1e-3)
    run = JetRun(selection=SELECTION, size=args.size, training=training)
    # Pretraining sees no tops, and quarks and gluons of other collisions than those of the task.
    folder = args.out / "pretrained"
    if done(folder) is None:
        classify_jets([args.others], ("quark", "gluon", "W", "Z", "H"), folder, run, trees=False, say=say)
    lines = [
        "| training jets per class | AUC from scratch | AUC fine-tuned | AUC of boosted trees |",
        "| --- | --- | --- | --- |",
    ]
    for most in args.sizes:
        found: dict[str, list[float]] = {"scratch": [], "tuned": [], "trees": []}
        for seed in range(args.seeds):
            for name in ("scratch", "tuned"):
                part = args.out / f"top-{most}-{name}-{seed}"
                if done(part) is None:
                    start = str(folder / "network" / "best") if name == "tuned" else None
                    one = dataclasses.replace(training, seed=seed, generation=0.0, smeared=0.0)
                    own = dataclasses.replace(run, training=one, most=most, pretrained=start)
                    classify_jets([args.jets], ("top", "QCD"), part, own, trees=name == "scratch", say=say)
                result = done(part)
                found[name].append(result["auc"]["top"][0])
                if name == "scratch":
                    found["trees"].append(result["trees_auc"]["top"][0])
        values = (f"{np.mean(x):.4f} ± {np.std(x, ddof=1) / len(x) ** 0.5:.4f}" for x in found.values())
        lines.append(f"| {most} | " + " | ".join(values) + " |")
    return lines


def reweighting(args: argparse.Namespace) -> list[str]:
    """Quarks of two settings of the shower."""
    lines = [
        "| feature | before | after, network | after, trees | equal samples |",
        "| --- | --- | --- | --- | --- |",
    ]
    results = {}
    for method in ("network", "trees"):
        part = args.out / f"reweight-{method}"
        if done(part) is None:
            run = JetRun(selection=SELECTION, size=args.size, training=JetTrainingConfig(epochs=args.epochs))
            source = [next(args.jets.glob("jet_quark*"))]
            reweight_simulations(source, [args.shower], part, run, method=method, n_folds=5, say=say)
        results[method] = done(part)["triangular_discriminators"]
    for name, row in results["network"].items():
        cells = (row["before"], row["after"], results["trees"][name]["after"], row["floor"])
        lines.append(f"| {name} | " + " | ".join(f"{1e3 * x:.2f}" for x in cells) + " |")
    return lines


def searches(args: argparse.Namespace) -> list[str]:
    """Injections from none on; toys where there is none."""
    lines = [
        "| injected | significance of the mass alone | after the best cut | p-value | maximum SIC |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number in args.injected:
        part = args.out / f"search-{number}"
        if done(part) is None:
            run = JetRun(selection=JetSelection(min_pt=300), training=JetTrainingConfig(seed=1))
            background = [next(args.search.glob("dijets*"))]
            search_jets(
                background, [args.search / "abc"], part, SEARCH, run, n_signal=number, weak=WeakConfig(n_ensemble=5), n_toys=args.toys, say=say
            )  # fmt: skip
        r = done(part)
        sic = (
            f"{r['maximum_sic']['value']:.2f} ± {r['maximum_sic']['uncertainty']:.2f}"
            if r["maximum_sic"]
            else ""
        )
        lines.append(
            f"| {number} | {r['significance_of_the_mass_alone']:.2f} | {r['significance']:.2f} | {r['p_value']:.2g} | {sic} |"
        )
    return lines


def generation(args: argparse.Namespace) -> list[str]:
    part = args.out / "generated"
    if done(part) is None:
        run = JetRun(selection=SELECTION, size=args.size, training=JetTrainingConfig(epochs=5 * args.epochs))
        # Batches of 25 jets: with JetNet's 100 the distances of all pairs take half an hour.
        generate_jets(
            [args.jets], ("top", "quark"), part, run, n_jets=args.generated, coverage_size=25, say=say
        )
    lines = ["| class | metric | generated | real |", "| --- | --- | --- | --- |"]
    result = done(part)
    for name, generated in result["generated"].items():
        real = result["real"][name]
        pairs = [(m, generated[m], real[m]) for m in ("w1_mass", "w1_particles", "w1_efp")]
        pairs += [(m, generated["coverage"][m], real["coverage"][m]) for m in ("coverage", "mmd")]
        for metric, *both in pairs:
            cells = " | ".join(f"{x['value']:.3g} ± {x['uncertainty']:.2g}" for x in both)
            lines.append(f"| {name} | {metric} | {cells} |")
    return lines


PARTS = {"classify": classification, "reweight": reweighting, "search": searches, "generate": generation}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("jets", "others", "shower", "search", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", default="small")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--injected", type=int, nargs="+", default=[0, 150, 300])
    parser.add_argument("--toys", type=int, default=20)
    parser.add_argument("--generated", type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        (args.out / f"{name}.md").write_text(f"## {name}\n\n" + "\n".join(PARTS[name](args)) + "\n")
        finished = [args.out / f"{each}.md" for each in PARTS]
        (args.out / "table.md").write_text("\n".join(x.read_text() for x in finished if x.is_file()))
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
