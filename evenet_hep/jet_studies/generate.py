"""Generate jets: two models trained, jets drawn, and their quality measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.events.jet_files import JetTable
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
from evenet_hep.model.devices import find_device, seeded
from evenet_hep.model.jet_kinematics import JetKinematics, KinematicsConfig, sample_jets
from evenet_hep.model.jets import JetNetwork
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
    network, kinematics = _train_models(parts, classes, home, chosen, kinematics_epochs, say)
    generated = _draw(kinematics, network, home, chosen, n_jets, steps, say)
    test = sample_of(parts[2][0].cloud, parts[2][1])
    real = _jets_of(test.constituents, test.mask, test.jet_features, test.label, network.schema)
    found = _qualities(generated, real, classes, coverage_size, say)
    write_result(home, found._asdict())
    from evenet_hep.jet_studies.figures import plot_generated  # noqa: PLC0415  matplotlib takes a second
    from evenet_hep.plot import save_figure  # noqa: PLC0415

    shown = [
        {name: _looks(jets, jets.label == k) for k, name in enumerate(classes)} for jets in (generated, real)
    ]
    save_figure(plot_generated(*shown), home / "generated.png")
    return found


class _Jets(NamedTuple):
    relative: FloatArray  # (n, N, 3): relative pT, delta eta, delta phi; padding has pT 0
    pt: FloatArray  # (n,)
    label: IntArray  # (n,)


def _train_models(
    parts: Sequence[tuple[JetTable, IntArray]],
    classes: Sequence[str],
    home: Path,
    run: JetRun,
    kinematics_epochs: int,
    say: Say,
) -> tuple[JetNetwork, JetKinematics]:
    training, validation = (sample_of(table.cloud, label) for table, label in parts[:2])
    config = dataclasses.replace(training_of(run), clean=0.0, generation=1.0, smeared=0.0)
    report = report_rows(say)
    network = network_of(run, classes, parts[0][0], jets=1)
    network = train_jets(
        network, training, validation, config, folder=home / "network", progress=report
    ).model
    with seeded(config.seed):
        first = JetKinematics(KinematicsConfig(), network.schema).to(find_device(run.device))
    config = dataclasses.replace(run.training, epochs=kinematics_epochs)
    folder = home / "kinematics"
    kinematics = train_kinematics(first, training, validation, config, folder=folder, progress=report).model
    return network, kinematics


def _draw(
    kinematics: JetKinematics,
    network: JetNetwork,
    home: Path,
    run: JetRun,
    n_jets: int,
    steps: int,
    say: Say,
) -> _Jets:
    label = torch.arange(len(network.schema.classes)).repeat_interleave(n_jets)
    with seeded(run.training.seed + 1):
        drawn = sample_jets(
            kinematics, network, label.to(find_device(run.device)), steps=steps, progress=lambda n: say(f"{n} of {len(label)} jets drawn")
        )  # fmt: skip
    constituents, mask, features = (tensor.cpu() for tensor in drawn)
    np.savez_compressed(
        home / "generated.npz",
        label=label.numpy(),
        constituents=constituents.numpy(),
        mask=mask.numpy(),
        jet_features=features.numpy(),
    )
    return _jets_of(constituents, mask, features, label, network.schema)


def _looks(jets: _Jets, rows: npt.NDArray[np.bool_]) -> list[FloatArray]:
    """Mass in GeV, number of constituents, and logarithm of the relative pT of all of them."""
    relative = jets.relative[rows]
    pt = relative[..., 0]
    masses = jets.pt[rows] * relative_masses(relative)
    return [masses, (pt > 0).sum(axis=1).astype(np.float64), np.log10(pt[pt > 0])]


def _jets_of(
    constituents: torch.Tensor,
    mask: torch.Tensor,
    features: torch.Tensor,
    label: torch.Tensor,
    schema: EventSchema,
) -> _Jets:
    columns, is_real = constituents.double().numpy(), mask.numpy()
    names = schema.object_names
    jet_pt = features[:, schema.event_names.index("jet_pt")].numpy()
    pt = np.exp(columns[..., names.index("log_pt")]) / jet_pt[:, None]
    angles = (columns[..., names.index(n)] for n in ("delta_eta", "delta_phi"))
    relative = np.stack([np.where(is_real, x, 0.0) for x in (pt, *angles)], axis=-1)
    return _Jets(relative, jet_pt, label.numpy())


def _qualities(
    generated: _Jets, real: _Jets, classes: Sequence[str], coverage_size: int, say: Say
) -> JetGeneration:
    found: tuple[dict[str, JetQuality], dict[str, JetQuality]] = ({}, {})
    for number, name in enumerate(classes):
        drawn = generated.relative[generated.label == number]
        test = real.relative[real.label == number]
        first, second = test[::2], test[1::2]
        options = {"coverage_size": min(coverage_size, len(first), len(second), len(drawn))}
        found[0][name] = measure_jet_quality(first, drawn, **options)
        found[1][name] = measure_jet_quality(first, second, **options)
        say(
            f"{name}: W1 of the mass {found[0][name].w1_mass.value:.4f}, of real jets {found[1][name].w1_mass.value:.4f}"
        )
    return JetGeneration(*found)
