"""Commands for jets: simulate, classify, generate, anomaly, reweight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenet_hep.cli.app import app, console
from evenet_hep.errors import ConfigError

if TYPE_CHECKING:
    from evenet_hep.jet_studies.shared import JetRun

jets_app = typer.Typer(
    name="jets",
    help="Jets with constituents: simulate, classify, generate, search, reweight.",
    no_args_is_help=True,
)
app.add_typer(jets_app)

Sources = Annotated[list[Path], typer.Argument(help="ROOT files, or folders with them.", metavar="DATA...")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the run; the same command goes on where it was stopped.")
]
Classes = Annotated[list[str], typer.Option("--class", help="quark, gluon, QCD, top, W, Z or H. Repeat.")]
Collection = Annotated[str, typer.Option("--collection", help="FatJet or Jet.")]
MinPt = Annotated[float, typer.Option("--min-pt", help="Of the jets, GeV.")]
MaxPt = Annotated[float, typer.Option("--max-pt", help="Of the jets, GeV.")]
Size = Annotated[str, typer.Option("--size", help="Of the network: tiny, small or paper.")]
Pretrained = Annotated[
    str | None, typer.Option("--from", help="Checkpoint of a jet network to start from, in place of --size.")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1)]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Jets per step.")]
Rate = Annotated[float, typer.Option("--rate", help="Largest learning rate.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Most = Annotated[int, typer.Option("--most", min=0, help="Training jets per class, at most; 0 for all.")]
Method = Annotated[str, typer.Option("--method", help="trees on substructure, or network on constituents.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
Folds = Annotated[
    int, typer.Option("--folds", min=2, help="Each event is scored by classifiers of the others.")
]


@jets_app.command(name="simulate")
def simulate_command(
    processes: Annotated[
        list[str] | None,
        typer.Argument(
            help="As in jet_top:pt_min=500,pt_max=600 or abc:m_a=3500,m_b=500,m_c=100.", metavar="PROCESS..."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files.")] = None,
    events: Annotated[int | None, typer.Option("--events", min=1, help="Of each process.")] = None,
    detector: Annotated[
        str, typer.Option("--detector", help="cms, none (the particles themselves), or a YAML file.")
    ] = "cms",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds make equal events.")] = 1,
    cores: Annotated[int, typer.Option("--cores", min=1, help="The result does not depend on it.")] = 1,
    energy: Annotated[float, typer.Option("--energy", help="Of the collisions in GeV.")] = 13000.0,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Events per file.")] = 2500,
    set_param: Annotated[
        list[str] | None,
        typer.Option(
            "--set-param", metavar="'KEY = VALUE'", help="Setting for Pythia, read last. May be repeated."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the processes of jets and stop.")] = False,
) -> None:
    """Simulate jets with constituents, truth and substructure, as NanoAOD with PF candidates.

    All processes of evenet-hep simulate can be asked for. Run the same command again to go on where it was stopped.
    """
    if show:
        _print_processes()
        return
    if out is None or not processes:
        msg = "name at least one process and a folder: evenet-hep jets simulate jet_top --events 1000 --out FOLDER"
        raise ConfigError(msg)
    from evenet_hep.cli.simulate import run_requests  # noqa: PLC0415  heavy imports only where they are needed
    from evenet_hep.simulate.candidates import load_candidate_card  # noqa: PLC0415
    from evenet_hep.simulate.plan import requests_from_words  # noqa: PLC0415
    from evenet_hep.simulate.shards import SimulationSettings  # noqa: PLC0415

    settings = SimulationSettings(
        seed=seed, shard_size=shard_size, energy=energy, pythia=tuple(set_param or ()),
        constituents=load_candidate_card(detector),
    )  # fmt: skip
    run_requests(requests_from_words(processes, events), out, settings, cores)


@jets_app.command(name="classify")
def classify_command(
    data: Sources,
    out: Out,
    classes: Classes,
    collection: Collection = "FatJet",
    min_pt: MinPt = 0.0,
    max_pt: MaxPt = float("inf"),
    size: Size = "small",
    pretrained: Pretrained = None,
    most: Most = 0,
    epochs: Epochs = 20,
    batch_size: Batch = 128,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    baseline: Annotated[bool, typer.Option(help="Boosted trees on the same jets.")] = True,
) -> None:
    """Train a network to tell kinds of jets apart, and compare it with boosted trees."""
    with console.status("loading torch"):
        from evenet_hep.jet_studies.classify import classify_jets  # noqa: PLC0415

    run = _run(collection, min_pt, max_pt, size, pretrained, epochs, batch_size, rate, seed, most, device)
    found = classify_jets(data, classes, out, run, trees=baseline, say=_say)
    table = Table(
        "class", "network", "boosted trees", title=f"area under the curve, {found.jets[2]} test jets"
    )
    for name, (value, error) in found.auc.items():
        other = f"{found.trees_auc[name][0]:.4f} ± {found.trees_auc[name][1]:.4f}" if found.trees_auc else ""
        table.add_row(name, f"{value:.4f} ± {error:.4f}", other)
    console.print(table)
    if found.trees_auc:
        console.print(
            f"network minus trees: {found.gain:+.4f} ± {found.gain_uncertainty:.4f}", highlight=False
        )
    console.print(f"network: {out}/network/best; results: {out}/result.json", soft_wrap=True)


@jets_app.command(name="generate")
def generate_command(
    data: Sources,
    out: Out,
    classes: Classes,
    collection: Collection = "FatJet",
    min_pt: MinPt = 0.0,
    max_pt: MaxPt = float("inf"),
    size: Size = "small",
    pretrained: Pretrained = None,
    most: Most = 0,
    epochs: Epochs = 50,
    batch_size: Batch = 128,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
    jets: Annotated[int, typer.Option("--jets", min=1, help="To generate, of each class.")] = 1000,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of the sampler.")] = 50,
    kinematics_epochs: Annotated[
        int, typer.Option("--kinematics-epochs", min=1, help="Of the model of jet features.")
    ] = 100,
    coverage_size: Annotated[
        int, typer.Option("--coverage-size", min=2, help="Jets per batch of the coverage.")
    ] = 100,
) -> None:
    """Train a generator of jets, draw jets from it, and measure how good they are."""
    with console.status("loading torch"):
        from evenet_hep.jet_studies.generate import generate_jets  # noqa: PLC0415

    run = _run(collection, min_pt, max_pt, size, pretrained, epochs, batch_size, rate, seed, most, device)
    found = generate_jets(
        data, classes, out, run, n_jets=jets, steps=steps, kinematics_epochs=kinematics_epochs,
        coverage_size=coverage_size, say=_say,
    )  # fmt: skip
    table = Table("class", "metric", "generated", "real", title="distance from real jets")
    for name, quality in found.generated.items():
        real = found.real[name]
        rows = [
            ("W1 mass", quality.w1_mass, real.w1_mass),
            ("W1 constituents", quality.w1_particles, real.w1_particles),
            ("W1 EFP", quality.w1_efp, real.w1_efp),
            ("coverage", quality.coverage.coverage, real.coverage.coverage),
            ("MMD", quality.coverage.mmd, real.coverage.mmd),
        ]
        for metric, *values in rows:
            table.add_row(name, metric, *(f"{v.value:.3g} ± {v.uncertainty:.2g}" for v in values))
    console.print(table)
    console.print(f"jets: {out}/generated.npz; results: {out}/result.json", soft_wrap=True)


@jets_app.command(name="anomaly")
def anomaly_command(
    background: Annotated[
        list[Path], typer.Argument(help="Data, or simulated background.", metavar="DATA...")
    ],
    out: Out,
    window: Annotated[tuple[float, float], typer.Option("--window", help="Signal region in the mass, GeV.")],
    side_bands: Annotated[
        tuple[float, float], typer.Option("--side-bands", help="Outer ends of the side bands, GeV.")
    ],
    signal: Annotated[
        list[Path] | None, typer.Option("--signal", help="Files to inject a signal from. Repeat.")
    ] = None,
    inject: Annotated[int, typer.Option("--inject", min=0, help="Signal events to inject.")] = 0,
    method: Method = "trees",
    degree: Annotated[int, typer.Option("--degree", min=0, help="Of the polynomial of the side bands.")] = 3,
    bins: Annotated[int, typer.Option("--bins", min=1, help="In the window.")] = 4,
    toys: Annotated[
        int, typer.Option("--toys", min=0, help="Searches without a signal, for the p-value.")
    ] = 0,
    collection: Collection = "FatJet",
    min_pt: MinPt = 0.0,
    size: Size = "small",
    pretrained: Pretrained = None,
    folds: Folds = 5,
    epochs: Epochs = 20,
    batch_size: Batch = 128,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Search for a resonance of two jets with classifiers between a mass window and its side bands (CWoLa)."""
    with console.status("loading torch"):
        from evenet_hep.jet_studies.search import search_jets  # noqa: PLC0415
    from evenet_hep.stats.cwola import CwolaConfig  # noqa: PLC0415
    from evenet_hep.stats.weak import WeakConfig  # noqa: PLC0415

    run = _run(collection, min_pt, float("inf"), size, pretrained, epochs, batch_size, rate, seed, 0, device)
    config = CwolaConfig(window, side_bands, window_bins=bins, background=degree)
    result = search_jets(
        background, signal or [], out, config, run, n_signal=inject, method=method,
        weak=WeakConfig(n_folds=folds, seed=seed), n_folds=folds, n_toys=toys, say=_say,
    )  # fmt: skip
    table = Table("kept of side bands", "observed", "expected", "significance")
    uncut = result.found.uncut
    table.add_row(
        "all",
        f"{uncut.observed:.0f}",
        f"{uncut.expected:.1f} ± {uncut.uncertainty:.1f}",
        f"{uncut.significance:.2f}",
    )
    for cut in result.found.cuts:
        if cut.fit is None:
            table.add_row(f"{cut.background_efficiency:.3g}", "", cut.failure, "")
        else:
            expected = f"{cut.fit.expected:.1f} ± {cut.fit.uncertainty:.1f}"
            table.add_row(
                f"{cut.background_efficiency:.3g}",
                f"{cut.fit.observed:.0f}",
                expected,
                f"{cut.fit.significance:.2f}",
            )
    console.print(table)
    if result.found.sic is not None:
        sic = result.found.sic
        console.print(
            f"maximum significance improvement: {sic.value:.2f} ± {sic.uncertainty:.2f}", highlight=False
        )
    if result.toys is not None:
        console.print(
            f"p-value of the greatest: {result.toys.p_value:.3g}, from {toys} searches without a signal",
            highlight=False,
        )
    console.print(f"results: {out}/result.json", soft_wrap=True)


@jets_app.command(name="reweight")
def reweight_command(
    source: Annotated[list[Path], typer.Argument(help="Simulation to be weighted.", metavar="SOURCE...")],
    target: Annotated[list[Path], typer.Option("--target", help="Simulation it should look like. Repeat.")],
    out: Out,
    method: Method = "network",
    collection: Collection = "FatJet",
    min_pt: MinPt = 0.0,
    max_pt: MaxPt = float("inf"),
    size: Size = "small",
    pretrained: Pretrained = None,
    folds: Folds = 5,
    epochs: Epochs = 20,
    batch_size: Batch = 128,
    rate: Rate = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Weight the jets of one simulation such that they look like those of another."""
    with console.status("loading torch"):
        from evenet_hep.jet_studies.reweight import reweight_simulations  # noqa: PLC0415
    from evenet_hep.stats.weak import WeakConfig  # noqa: PLC0415

    run = _run(collection, min_pt, max_pt, size, pretrained, epochs, batch_size, rate, seed, 0, device)
    found = reweight_simulations(
        source,
        target,
        out,
        run,
        method=method,
        weak=WeakConfig(n_folds=folds, seed=seed),
        n_folds=folds,
        say=_say,
    )
    names = ("mass", "soft-drop mass", "tau21", "tau32", "multiplicity", "pT")
    table = Table(
        "feature", "before", "after", "equal samples", title="triangular discriminators, in units of 0.001"
    )
    for name, *values in zip(names, *found.closure, strict=True):
        table.add_row(name, *(f"{1e3 * float(value):.2f}" for value in values))
    console.print(table)
    console.print(f"weights: {out}/weights.npz; results: {out}/result.json", soft_wrap=True)


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _run(
    collection: str,
    min_pt: float,
    max_pt: float,
    size: str,
    pretrained: str | None,
    epochs: int,
    batch_size: int,
    rate: float,
    seed: int,
    most: int,
    device: str,
) -> JetRun:
    from evenet_hep.events.jet_files import JetSelection  # noqa: PLC0415
    from evenet_hep.jet_studies.shared import JetRun  # noqa: PLC0415
    from evenet_hep.training.jets import JetTrainingConfig  # noqa: PLC0415

    return JetRun(
        selection=JetSelection(collection, min_pt, max_pt),
        size=size,
        pretrained=pretrained,
        most=most,
        device=device,
        training=JetTrainingConfig(epochs=epochs, batch_size=batch_size, rate=rate, seed=seed),
    )


def _print_processes() -> None:
    from evenet_hep.simulate.jet_processes import JET_PROCESSES  # noqa: PLC0415

    table = Table("process", "class", "what", "parameters")
    for process in JET_PROCESSES:
        parameters = [f"{key}={entry.default:g}" for key, entry in process.parameters.items()]
        table.add_row(process.name, process.process_class, process.description, " ".join(parameters))
    console.print(table)
