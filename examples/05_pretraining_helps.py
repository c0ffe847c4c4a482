"""Does pretraining help? A tiny network with and without it, on a signal it has never seen, with few events.

    python examples/05_pretraining_helps.py --data ../shared/data/fastsim --out pretraining-study

1. Generated NanoAOD-like files become a training set, with neutrinos from the generated particles.
2. A ``tiny`` network is pretrained on the processes of the standard model: stage I restores noised objects, without
   labels; stage II adds classes and neutrinos.
3. X -> YH -> bb WW (500, 90) is told from single-lepton top pairs with a few hundred events: from scratch, after stage I,
   and after both, five seeds each. A seed draws the training events and the weights of the new head; scratch draws all.

No event is used twice: each file is split into pretraining, training, validation and test events by the hash of the event
number. Every step is kept in the folder, so that the script may be stopped and started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from evenet_hep import EveNet, EveNetConfig, EventSchema
from evenet_hep.conversion import Settings, convert
from evenet_hep.events.sources import Source
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.plot import save_figure
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.stats.sic import maximum_sic
from evenet_hep.topology import Topology
from evenet_hep.training.batches import TensorBatch
from evenet_hep.training.config import FinetuneConfig, LossWeights, PretrainConfig, Stage
from evenet_hep.training.dataset import ArrayEvents, Split
from evenet_hep.training.finetune import extend
from evenet_hep.training.presets import JOINT, NOISE, SELF_SUPERVISED, with_heads
from evenet_hep.training.run import finetune, pretrain

PROCESSES = {
    "TT": ("ttbar_1l", "ttbar_2l"),
    "ST": ("st_t",),
    "WJets": ("wjet_lnu",),
    "ZJets": ("dy_ll", "zjet_ll"),
    "VV": ("ww", "wz", "zz"),
    "QCD": ("qcd_jj", "qcd_bb", "qcd_bb_4j"),
}
SIGNAL = ("xyh_500_90",)
SPLITS = {"pretraining": 0.5, "train": 0.15, "val": 0.1, "test": 0.25}  # "val" is for --scan
HEADS = ("classification", "object_generation", "invisible_generation", "global_generation")
START = ("scratch", "stage I", "stage I + II")
# The same for all starts; there are no validation events, as there would be none to spare: the last epoch counts.
FINETUNE: dict[str, Any] = {"batch_size": 50, "warmup": 2, "weight_decay": 0.01, "keep": "last"}
# Learning rates for each start, the best of --scan on events and a seed of its own: that of the head and the object
# encoder, which stage I does not reach and stage II shapes for its own classes, and that of the rest of the body.
RATES = {"scratch": (1e-3, 1e-3), "stage I": (5e-3, 5e-4), "stage I + II": (2e-3, 2e-4)}
SCANNED = {
    "scratch": ((2e-4, 2e-4), (5e-4, 5e-4), (1e-3, 1e-3), (2e-3, 2e-3), (5e-3, 5e-3)),
    "stage I": ((2e-3, 2e-4), (5e-3, 5e-4)),
    "stage I + II": ((2e-3, 2e-4), (2e-3, 1e-3), (5e-3, 5e-4)),
}
SCAN_SEED = 100
STEPS = 100  # of the optimiser; a small sample is seen more often


def training_set(data: Path, out: Path, name: str, classes: dict[str, tuple[str, ...]]) -> TrainingSet:
    """The generated files of some classes as a training set."""
    folder = out / name
    if not (folder / "dataset.json").is_file():
        sources = [
            Source(sample, label, (str(data / f"{sample}.root"),))
            for label, samples in classes.items()
            for sample in samples
        ]
        grammar = Topology.published()
        schema = EventSchema.standard(classes=tuple(classes))
        settings = Settings(select=True)
        convert(
            sources,
            folder,
            schema=schema,
            topology=grammar,
            splits=SPLITS,
            settings=settings,
            resume=folder.is_dir(),
        )
    return TrainingSet.open(folder)


def filled(events: ArrayEvents) -> ArrayEvents:
    """Events that have an object."""
    return events.select(events.content.mask.any(axis=1))


def pretrained(events: ArrayEvents, out: Path, epochs: tuple[int, int], seed: int) -> dict[str, EveNet]:
    """Networks after stage I and after both stages."""
    network = with_heads(EveNetConfig.tiny(), HEADS)
    base = {"batch_size": 256, "lr": 5e-4, "weight_decay": 0.02, "seed": seed, "keep": "last", "ema": 0.995}
    stages = {
        "stage I": (epochs[0], SELF_SUPERVISED, 0.0),
        "stage I + II": (epochs[1], JOINT, 1.0),
    }
    found: dict[str, EveNet] = {}
    current: EveNet | EveNetConfig = network
    for name, (number, losses, told) in stages.items():
        config = PretrainConfig(
            epochs=number,
            rotate=True,
            mirror=True,
            class_condition=told,
            stages=(Stage(noise_probability=NOISE, losses=losses),),
            checkpoint_every=20,
            **base,
        )
        folder = out / name.replace(" ", "").replace("+", "-")
        if not (folder / "last").is_dir():
            _, history = pretrain(
                current, events, config=config, folder=folder, resume=folder.is_dir(), progress=True
            )
            print(f"{name}: loss {history.train_loss[0]:.3f} -> {history.train_loss[-1]:.3f}", flush=True)
        found[name] = EveNet.from_pretrained(folder / "last")
        current = EveNet.from_pretrained(folder / "last")
    return found


def balanced(events: ArrayEvents, number: int, seed: int) -> ArrayEvents:
    """As many events of each class, drawn by a seed."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(events.content.label == c))[: number // 2] for c in (0, 1)]
    return events.select(np.sort(np.concatenate(rows)))


@torch.inference_mode()
def scores(model: EveNet, events: ArrayEvents) -> np.ndarray:
    """Probability of signal."""
    model.eval()
    parts = []
    for batch in events.batches(1024, shuffle=False):
        tensors = TensorBatch.of(batch)
        logits = model(tensors.objects, tensors.mask, tensors.event_features)["classification"]
        parts.append(logits.softmax(dim=1)[:, 0].numpy())
    return np.concatenate(parts)


def one_run(
    start: str,
    trained: dict[str, EveNet],
    splits: dict[str, ArrayEvents],
    size: int,
    seed: int,
    *,
    rates: tuple[float, float],
    measured_on: str,
) -> dict[str, Any]:
    """Fine-tune once and measure on other events."""
    torch.manual_seed(1000 + seed)
    classes = ("signal", "background")
    drop = dict.fromkeys(("object_generation", "invisible_generation", "global_generation"))
    source = trained["stage I"]
    if start == "scratch":
        # The same schema and the same head: what differs is where the weights come from.
        schema = dataclasses.replace(source.schema, classes=classes)
        model = EveNet(dataclasses.replace(source.config, **drop), schema)
    else:
        heads = drop | {"classification": source.config.classification}
        model = extend(trained[start], classes=classes, heads=heads).model
        # What stage I does not reach, and stage II bends to its own classes, begins anew.
        fresh = EveNet(model.config, model.schema)
        model.object_encoder.load_state_dict(fresh.object_encoder.state_dict())
    config = FinetuneConfig(
        epochs=round(STEPS / (size // FINETUNE["batch_size"])),
        seed=seed,
        lr=rates[0],
        lr_object_encoder=rates[0],
        lr_backbone=rates[1],
        rotate=True,
        mirror=True,
        stages=(Stage(losses=LossWeights.only("classification")),),
        **FINETUNE,
    )
    history = finetune(model, balanced(splits["train"], size, seed), config=config)
    test = splits[measured_on]
    is_signal, score = test.content.label == 0, scores(model, test)
    auc, sic = area_under_curve(is_signal, score), maximum_sic(is_signal, score)
    return {
        "start": start,
        "size": size,
        "seed": seed,
        "rates": list(rates),
        "measured_on": measured_on,
        "train_loss": history.train_loss[-1],
        "auc": auc.value,
        "auc_uncertainty": auc.uncertainty,
        "sic": sic.value,
        "sic_uncertainty": sic.uncertainty,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds with their standard errors, as Markdown."""
    lines = ["| training events | start | seeds | AUC | max SIC |", "| --- | --- | --- | --- | --- |"]
    for size in sorted({row["size"] for row in rows}):
        for start in START:
            mine = [row for row in rows if (row["size"], row["start"]) == (size, start)]
            if mine:
                cells = [
                    f"{np.mean([r[k] for r in mine]):.3f} ± {np.std([r[k] for r in mine], ddof=1) / len(mine) ** 0.5:.3f}"
                    if len(mine) > 1
                    else f"{mine[0][k]:.3f}"
                    for k in ("auc", "sic")
                ]
                lines.append(f"| {size} | {start} | {len(mine)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> Figure:
    """AUC and largest significance improvement against the number of training events."""
    drawn = Figure(figsize=(9, 3.8), layout="constrained")
    for panel, key, label in zip(drawn.subplots(1, 2), ("auc", "sic"), ("AUC", "maximum SIC"), strict=True):
        for i, start in enumerate(START):
            sizes = sorted({row["size"] for row in rows if row["start"] == start})
            values = [[r[key] for r in rows if (r["start"], r["size"]) == (start, size)] for size in sizes]
            means = [np.mean(each) for each in values]
            errors = [np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0 for each in values]
            shifted = np.array(sizes) * (1 + 0.04 * (i - 1))
            panel.errorbar(shifted, means, errors, fmt="o-", color=f"C{i}", capsize=3, label=start)
            for x, each in zip(shifted, values, strict=True):
                panel.plot([x] * len(each), each, ".", color=f"C{i}", alpha=0.35)
        panel.set_xscale("log")
        panel.set_xlabel("training events, half of them signal")
        panel.set_ylabel(label)
        panel.legend(frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ttbar_1l.root and the others")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--epochs", type=int, nargs=2, default=(6, 10), help="of stage I and stage II")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 100, 1000])
    parser.add_argument("--starts", nargs="+", choices=START, default=START)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="most pretraining events")
    parser.add_argument("--scan", action="store_true", help="look for the best rates, on validation events")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    known = training_set(args.data, args.out, "pretraining-set", PROCESSES)
    unknown = training_set(args.data, args.out, "task-set", {"signal": SIGNAL, "background": ("ttbar_1l",)})
    trained = pretrained(
        filled(Split(known, "pretraining", limit=args.limit).load()), args.out, tuple(args.epochs), seed=1
    )
    splits = {name: filled(Split(unknown, name).load()) for name in ("train", "val", "test")}
    # The network keeps the means and widths of the pretraining; so do the events that are given to it.
    schema = dataclasses.replace(trained["stage I"].schema, classes=("signal", "background"))
    splits = {k: ArrayEvents.from_batch(v.content, schema, topology=v.topology) for k, v in splits.items()}
    print({name: np.bincount(each.content.label).tolist() for name, each in splits.items()}, flush=True)
    path = args.out / "runs.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    for plan in planned(args):
        key = {name: plan[name] for name in ("start", "size", "seed", "measured_on")} | {
            "rates": list(plan["rates"])
        }
        if not any(key.items() <= {k: r[k] for k in key}.items() for r in rows):
            rows.append(one_run(trained=trained, splits=splits, **plan))
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            path.write_text(json.dumps(rows, indent=1))
    chosen = [r for r in rows if r["measured_on"] == "test" and r["rates"] == list(RATES[r["start"]])]
    if chosen:
        (args.out / "table.md").write_text(table(chosen) + "\n")
        save_figure(figure(chosen), args.out / "pretraining.png")
        print(table(chosen))


def planned(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs to do: those of the scan, or those of the study."""
    if args.scan:
        for start in args.starts:
            for rates in SCANNED[start]:
                yield {
                    "start": start,
                    "size": args.sizes[0],
                    "seed": SCAN_SEED,
                    "rates": rates,
                    "measured_on": "val",
                }
        return
    for seed, size, start in itertools.product(range(args.seeds), args.sizes, args.starts):
        yield {"start": start, "size": size, "seed": seed, "rates": RATES[start], "measured_on": "test"}


if __name__ == "__main__":
    main()
