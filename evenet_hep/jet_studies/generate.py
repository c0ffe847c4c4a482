"""Generate jets: two models trained, jets drawn, and their quality measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.jet_studies.shared import (
    JetRun,
    Say,
    Sources,
    labelled_parts,
    network_of,
    nothing,
    report_rows,
    training_of,
    write_result,
)
from evenet_hep.model.devices import find_device
from evenet_hep.model.jet_kinematics import JetKinematics, KinematicsConfig, sample_jets
from evenet_hep.schema import EventSchema
from evenet_hep.stats.jet_quality import JetQuality, measure_jet_quality, relative_masses
from evenet_hep.training.jets import (
    sample_of,
    train_jets,
    train_kinematics,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class JetGeneration(NamedTuple):
    """Quality of generated jets, class by class, and that of real ones.

    Parameters
    ----------
    generated, real : dict of str to JetQuality
        Generated jets against one half of the test jets, and one half of the test jets against the other.
    """

    generated: dict[str, JetQuality]
    real: dict[str, JetQuality]


def generate_jets(
    sources: Sources,
    classes: Sequence[str],
    out: str | Path,
    run: JetRun | None = None,
    *,
    n_jets: int = 1000,
    steps: int = 50,
    kinematics_epochs: int = 100,
    coverage_size: int = 100,
    say: Say = nothing,
) -> JetGeneration:
    """Train the two models of jet generation, draw jets, and measure how good they are.

    Parameters
    ----------
    sources, classes, out, run, say
        As in :func:`classify_jets`; ``run.training`` is that of the constituents, whose loss is that of generation alone.
    n_jets : int
        Of each class; at least twice ``coverage_size`` are needed, and as many test jets.
    steps : int
        Of the sampler.
    kinematics_epochs : int
        Of the model of the features of jets.
    coverage_size : int
        Jets per batch of coverage.

    Returns
    -------
    JetGeneration
        ``out/generated.npz`` holds constituents, mask, jet features and labels; ``out/generated.png`` compares them.
    """
    chosen, home = run or JetRun(), Path(out)
    parts = labelled_parts(sources, classes, chosen, say)
    samples = [sample_of(table.cloud, label) for table, label in parts]
    model = network_of(chosen, classes, parts[0][0], jets=1)
    config = dataclasses.replace(training_of(chosen), clean=0.0, generation=1.0, smeared=0.0)
    network = train_jets(
        model, samples[0], samples[1], config, folder=home / "network", progress=report_rows(say)
    ).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        first = JetKinematics(KinematicsConfig(), network.schema).to(find_device(chosen.device))
    config = dataclasses.replace(chosen.training, epochs=kinematics_epochs)
    kinematics = train_kinematics(
        first, samples[0], samples[1], config, folder=home / "kinematics", progress=report_rows(say)
    ).model
    label = torch.arange(len(classes)).repeat_interleave(n_jets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        drawn = sample_jets(
            kinematics,
            network,
            label.to(find_device(chosen.device)),
            steps=steps,
            progress=lambda n: say(f"{n} of {len(label)} jets drawn"),
        )
    constituents, mask, features = (tensor.cpu().numpy() for tensor in drawn)
    np.savez_compressed(
        home / "generated.npz",
        label=label.numpy(),
        constituents=constituents,
        mask=mask,
        jet_features=features,
    )
    generated = _relative(constituents, mask, features, network.schema)
    test = samples[2]
    real = _relative(test.constituents.numpy(), test.mask.numpy(), test.jet_features.numpy(), network.schema)
    found = _qualities(generated, label.numpy(), real, parts[2][1], classes, coverage_size, say)
    write_result(home, found._asdict())
    from evenet_hep.jet_studies.figures import plot_generated  # noqa: PLC0415  matplotlib takes a second
    from evenet_hep.plot import save_figure  # noqa: PLC0415

    pt = network.schema.event_names.index("jet_pt")
    sides = (
        (generated, features[:, pt], label.numpy()),
        (real, test.jet_features[:, pt].numpy(), parts[2][1]),
    )
    shown = [
        {name: _looks(jets[at == k], momentum[at == k]) for k, name in enumerate(classes)}
        for jets, momentum, at in sides
    ]
    save_figure(plot_generated(*shown), home / "generated.png")
    return found


def _looks(jets: FloatArray, momentum: FloatArray) -> list[FloatArray]:
    """Mass in GeV, number of constituents, and logarithm of the relative pT of all of them."""
    pt = jets[..., 0]
    return [momentum * relative_masses(jets), (pt > 0).sum(axis=1).astype(np.float64), np.log10(pt[pt > 0])]


def _relative(constituents: Any, mask: Any, features: Any, schema: EventSchema) -> FloatArray:
    """Relative pT, delta eta, delta phi; padding has pT 0."""
    names = schema.object_names
    pt = np.exp(constituents[..., names.index("log_pt")].astype(np.float64))
    pt = np.where(mask, pt / features[:, [schema.event_names.index("jet_pt")]], 0.0)
    angles = (
        np.where(mask, constituents[..., names.index(n)].astype(np.float64), 0.0)
        for n in ("delta_eta", "delta_phi")
    )
    return np.stack([pt, *angles], axis=-1)


def _qualities(
    generated: FloatArray,
    label: IntArray,
    real: FloatArray,
    real_label: IntArray,
    classes: Sequence[str],
    coverage_size: int,
    say: Say,
) -> JetGeneration:
    found: tuple[dict[str, JetQuality], dict[str, JetQuality]] = ({}, {})
    for number, name in enumerate(classes):
        test = real[real_label == number]
        first, second = test[::2], test[1::2]
        options = {"coverage_size": min(coverage_size, len(first), len(second), int((label == number).sum()))}
        found[0][name] = measure_jet_quality(first, generated[label == number], **options)
        found[1][name] = measure_jet_quality(first, second, **options)
        say(
            f"{name}: W1 of the mass {found[0][name].w1_mass.value:.4f}, of real jets {found[1][name].w1_mass.value:.4f}"
        )
    return JetGeneration(*found)
