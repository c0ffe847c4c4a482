"""Train the small demonstration network that comes with the package.

    python examples/01_train_demo_network.py --data ../shared/data/fastsim --out evenet_hep/share/models/demo

Reads the generated NanoAOD-like files of a folder, selects objects exactly as ``EventScores`` does, trains the ``tiny`` network,
and writes the checkpoint with a card that states data, sizes and the AUC of every class on events the network never saw.
Eight minutes on one core. Seeded: the same machine, with the same versions and one thread (OMP_NUM_THREADS=1), gives the same
weights.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from evenet_hep.processors.event_scores import select_objects
from sklearn.metrics import roc_auc_score

from evenet_hep import EveNet, EveNetConfig, EventCloud, EventSchema
from evenet_hep.model.heads.classification import classification_loss
from evenet_hep.plot import plot_roc, save_figure

# Class -> generated files, and how many events of each file to use at most: top pairs would outnumber all others.
FILES: dict[str, dict[str, int | None]] = {
    "TT": {"ttbar_1l": 8000, "ttbar_2l": 4000},
    "ST": {"st_t": None},
    "WJets": {"wjet_lnu": None},
    "ZJets": {"dy_ll": None, "zjet_ll": None},
    "VV": {"ww": None, "wz": None, "zz": None},
    "QCD": {"qcd_jj": None, "qcd_bb": None},
}
SPLIT = (0.65, 0.10, 0.25)  # train, validation (choice of the epoch), test (the card)


class Sample(NamedTuple):
    """Events with labels as tensors."""

    objects: torch.Tensor
    mask: torch.Tensor
    event_features: torch.Tensor
    labels: torch.Tensor

    def take(self, rows: torch.Tensor) -> Sample:
        return Sample(*(tensor[rows] for tensor in self))


def read_class(folder: Path, files: dict[str, int | None], schema: EventSchema) -> EventCloud:
    """Clouds of all files of a class; events without objects are left out."""
    parts = []
    for name, limit in files.items():
        source = {str(folder / f"{name}.root"): "Events"}
        events = NanoEventsFactory.from_root(source, mode="virtual", schemaclass=NanoAODSchema).events()[
            :limit
        ]
        parts.append(EventCloud.from_awkward(events, schema, collections=select_objects(events)))
    clouds = [part[part.n_objects > 0] for part in parts]
    arrays = (np.concatenate([getattr(c, k) for c in clouds]) for k in ("objects", "mask", "event_features"))
    return EventCloud.from_arrays(*arrays, schema)


def read_samples(folder: Path, schema: EventSchema, seed: int) -> tuple[list[Sample], dict[str, list[int]]]:
    """Training, validation and test samples, and the number of events of every class in each."""
    generator = torch.Generator().manual_seed(seed)
    splits: list[list[Sample]] = [[], [], []]
    sizes = {}
    for label, (name, files) in enumerate(FILES.items()):
        cloud = read_class(folder, files, schema)
        whole = Sample(*cloud.to_torch(), torch.full((len(cloud),), label))
        order = torch.randperm(len(cloud), generator=generator)
        edges = [0, *(round(len(cloud) * f) for f in np.cumsum(SPLIT))]
        for split, (start, stop) in zip(splits, pairwise(edges), strict=True):
            split.append(whole.take(order[start:stop]))
        sizes[name] = [stop - start for start, stop in pairwise(edges)]
    return [Sample(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))) for parts in splits], sizes


def statistics_of(sample: Sample, schema: EventSchema) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every feature that is standardised, over real objects and over events."""
    found = {}
    for features, values in (
        (schema.objects, sample.objects[sample.mask]),
        (schema.event_features, sample.event_features),
    ):
        for i, feature in enumerate(features):
            if feature.transform in ("log", "standard"):
                column = torch.log1p(values[:, i]) if feature.transform == "log" else values[:, i]
                found[feature.name] = (float(column.mean()), max(float(column.std()), 1e-3))
    return found


def augment(batch: Sample, schema: EventSchema, generator: torch.Generator) -> Sample:
    """The same events, turned around the beam axis and mirrored along it: physics does not know the difference."""
    n = len(batch.labels)
    angle = (torch.rand(n, generator=generator) * 2 - 1) * math.pi
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    objects, event_features = batch.objects.clone(), batch.event_features.clone()
    phi, eta = schema.object_names.index("phi"), schema.object_names.index("eta")
    met_phi = schema.event_names.index("met_phi")
    objects[..., phi] += angle[:, None]
    objects[..., eta] *= mirror[:, None]
    event_features[:, met_phi] += angle
    return batch._replace(objects=objects, event_features=event_features)


@torch.inference_mode()
def probabilities_of(model: EveNet, sample: Sample, batch_size: int = 1024) -> np.ndarray:
    model.eval()
    logits = [
        model(*(t[i : i + batch_size] for t in sample[:3]))["classification"]
        for i in range(0, len(sample.labels), batch_size)
    ]
    return torch.cat(logits).softmax(dim=1).numpy()


def mean_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(truth == i, probabilities[:, i]) for i in range(len(FILES))]))


def train(model: EveNet, samples: list[Sample], args: argparse.Namespace) -> tuple[int, float]:
    """Adam with warm-up and cosine; the epoch with the best mean validation AUC is kept in the model."""
    training, validation = samples[:2]
    generator = torch.Generator().manual_seed(args.seed)
    counts = torch.bincount(training.labels).float()
    weights = counts.sum() / (len(counts) * counts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    steps = args.epochs * math.ceil(len(training.labels) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.1)
    best, best_epoch, best_weights = 0.0, 0, {}
    for epoch in range(args.epochs):
        start = time.perf_counter()
        model.train()
        total = 0.0
        order = torch.randperm(len(training.labels), generator=generator)
        for rows in order.split(args.batch_size):
            batch = augment(training.take(rows), model.schema, generator)
            slots = int(batch.mask.sum(dim=1).max())
            logits = model(batch.objects[:, :slots], batch.mask[:, :slots], batch.event_features)[
                "classification"
            ]
            loss = classification_loss(logits, batch.labels, class_weight=weights)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        auc = mean_auc(validation.labels.numpy(), probabilities_of(model, validation))
        if auc > best:
            best, best_epoch = auc, epoch
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch:3d}  loss {total / len(order):.4f}  validation AUC {auc:.4f}  {seconds:.1f} s",
            flush=True,
        )
    model.load_state_dict(best_weights)
    return best_epoch, best


def auc_with_uncertainty(is_class: np.ndarray, score: np.ndarray, seed: int) -> tuple[float, float]:
    """Area under the ROC curve of one class against the rest, and its standard deviation over 200 bootstrap samples."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(score), len(score)) for _ in range(200))
    return roc_auc_score(is_class, score), float(
        np.std([roc_auc_score(is_class[d], score[d]) for d in draws])
    )


def write_card(
    model: EveNet, test: Sample, sizes: dict[str, list[int]], args: argparse.Namespace, best_epoch: int
) -> str:
    truth, probabilities = test.labels.numpy(), probabilities_of(model, test)
    lines = []
    for i, (name, (n_train, n_validation, n_test)) in enumerate(sizes.items()):
        auc, error = auc_with_uncertainty(truth == i, probabilities[:, i], args.seed)
        files = ", ".join(FILES[name])
        lines.append(
            f"| {name} | {files} | {n_train} | {n_validation} | {n_test} | {auc:.3f} ± {error:.3f} |"
        )
    accuracy = float(
        np.mean([(probabilities.argmax(axis=1) == truth)[truth == i].mean() for i in range(len(sizes))])
    )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    table = "\n".join(lines)
    return f"""# demo: a small classification network for demonstrations

**A demonstration, not a measurement.** It shows the way from NanoAOD to scores. It was trained on a few tens of thousands of events of a
leading-order generator with a parametric detector, knows no pile-up and no systematic uncertainty, and must not be used for a physics
result. It is not one of the published EveNet networks.

- Network: EveNet, size `tiny`, {n_parameters} parameters, {len(model.schema.classes)} classes, phi read as cosine and sine.
- Data: Pythia 8 at 13 TeV, leading order and parton shower, jets of anti-kT 0.4, CMS-like smearing, b-tag quantiles of the 2016 working
  points; the project's own generated files, one per process (below). Charge conjugation and all lepton flavours as in the generator.
- Objects it expects: electrons (|eta| < 2.5) and muons (|eta| < 2.4) above 15 GeV with relative isolation below 0.15, jets above 25 GeV
  with |eta| < 2.5 and no such lepton within Delta R = 0.4; `evenet_hep.processors.event_scores.select_objects` makes them. b-tag: a flag
  at the medium working point. Fed with unselected collections, it sees events of a kind it was not trained on.
- Training: {args.epochs} epochs of AdamW (learning rate {args.lr}), classes weighted equally, events turned and mirrored at random,
  seed {args.seed}; the epoch with the best validation AUC ({best_epoch}) was kept. `examples/01_train_demo_network.py` repeats it.
- Licence: BSD-3-Clause.

Area under the ROC curve of each class against the five others together, on test events that took no part in training or in the choice of
the epoch (uncertainty: bootstrap). Mean of the six accuracies: {accuracy:.3f}.

| class | processes | training events | validation | test | AUC |
| --- | --- | --- | --- | --- | --- |
{table}

The AUC belongs to the mixture of test events, in which the classes have the sizes of the table, not their cross sections.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ttbar_1l.root and the others")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="where to draw the ROC curves of the test events")
    args = parser.parse_args()
    NanoAODSchema.warn_missing_crossrefs = False
    torch.manual_seed(args.seed)
    schema = EventSchema.standard(classes=tuple(FILES))
    samples, sizes = read_samples(args.data, schema, args.seed)
    model = EveNet(EveNetConfig.tiny(), schema.with_statistics(statistics_of(samples[0], schema)))
    best_epoch, _ = train(model, samples, args)
    model.save_pretrained(args.out, card=write_card(model, samples[2], sizes, args, best_epoch))
    if args.figure:
        save_figure(
            plot_roc(samples[2].labels.numpy(), probabilities_of(model, samples[2]), tuple(FILES)),
            args.figure,
        )
    print((args.out / "README.md").read_text())


if __name__ == "__main__":
    main()
