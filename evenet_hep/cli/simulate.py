"""The command that makes events: simulate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from evenet_hep.cli.app import app, console
from evenet_hep.errors import ConfigError

if TYPE_CHECKING:
    from evenet_hep.simulate.run import SampleRequest


@app.command()
def simulate(
    processes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Processes with parameters, as in TT1L, haa4b:m_a=30 or xyh:m_x=500,m_y=90,events=2000.",
            metavar="PROCESS...",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files.")] = None,
    events: Annotated[
        int | None,
        typer.Option("--events", min=1, help="Of each process; of all together with --set or --plan."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds make equal events.")] = 1,
    cores: Annotated[int, typer.Option("--cores", min=1, help="The result does not depend on it.")] = 1,
    card: Annotated[str, typer.Option("--card", help="Detector: cms, atlas, or a YAML file.")] = "cms",
    spin: Annotated[
        str, typer.Option("--spin", help="Spin correlations of top pairs: weights or unweighted.")
    ] = "weights",
    lhe: Annotated[
        Path | None, typer.Option("--lhe", help="Les Houches events, for processes that Pythia lacks.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--set", help="A plan of the package: all, pretraining, bbww_resonance, higgs_to_4b, ttbar_spin."
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan of yours: YAML with samples and events.")
    ] = None,
    set_param: Annotated[
        list[str] | None,
        typer.Option(
            "--set-param", metavar="'KEY = VALUE'", help="Setting for Pythia, read last. May be repeated."
        ),
    ] = None,
    energy: Annotated[float, typer.Option("--energy", help="Of the collisions in GeV.")] = 13000.0,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Events per file.")] = 2500,
    show: Annotated[bool, typer.Option("--list", help="List the processes and stop.")] = False,
    show_card: Annotated[
        bool, typer.Option("--show-card", help="Print the detector card as YAML and stop.")
    ] = False,
) -> None:
    """Simulate collisions: Pythia, jets, a parametric detector; NanoAOD-like files with truth.

    Run the same command again to go on where it was stopped.
    """
    from evenet_hep.simulate.detector import load_card  # noqa: PLC0415  heavy imports only where they are needed

    if show:
        _print_processes()
        return
    detector = load_card(card)
    if show_card:
        console.print(detector.to_yaml(), highlight=False, soft_wrap=True, end="")
        return
    if out is None:
        msg = "where should the events go? give --out FOLDER"
        raise ConfigError(msg)
    if spin not in ("weights", "unweighted"):
        msg = f"--spin must be weights or unweighted; found {spin!r}"
        raise ConfigError(msg)
    from evenet_hep.simulate.shards import SimulationSettings  # noqa: PLC0415

    settings = SimulationSettings(
        seed=seed,
        card=detector,
        spin=spin,  # type: ignore[arg-type]
        shard_size=shard_size,
        energy=energy,
        lhe=lhe,
        pythia=tuple(set_param or ()),
    )
    run_requests(_requests(processes or [], name, plan, events), out, settings, cores)


def _requests(
    words: list[str], name: str | None, plan: Path | None, events: int | None
) -> list[SampleRequest]:
    from evenet_hep.simulate.plan import requests_from_plan, requests_from_words  # noqa: PLC0415

    given = [what for what, there in (("processes", words), ("--set", name), ("--plan", plan)) if there]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        msg = f"give processes, --set or --plan, one of the three; found {found}"
        raise ConfigError(msg)
    if words:
        return requests_from_words(words, events)
    return requests_from_plan(name or plan or "", events)


def run_requests(requests: list[SampleRequest], out: Path, settings: Any, cores: int) -> None:
    """Simulate with a progress bar, and print what there is."""
    from evenet_hep.simulate.run import simulate as simulate_samples  # noqa: PLC0415
    from evenet_hep.simulate.run import summarize  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=120.0) as bar:
        task = bar.add_task("simulating", total=sum(request.n_events for request in requests))

        def advance(label: str, n_events: int) -> None:
            bar.update(task, description=label, advance=n_events)

        result = simulate_samples(requests, out, settings, cores=cores, progress=advance)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("sample", "class", "events", "efficiency", "Pythia [pb]", "reference [pb]"):
        table.add_column(heading, justify="left" if heading in ("sample", "class") else "right")
    for label, entry in summarize(result.shards).items():
        reference = entry["reference_pb"]
        table.add_row(
            label,
            entry["class"],
            str(entry["events"]),
            f"{entry['filter_efficiency']:.3f}",
            f"{entry['cross_section_pb']:.4g}",
            f"{reference:.4g}" if reference is not None else "",
        )
    console.print(table)
    kept = len(result.shards) - result.n_new
    already = f", {kept} were there" if kept else ""
    console.print(f"{len(result.shards)} files in {out}{already}", highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    """Events per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} events/s")


def _print_processes() -> None:
    from evenet_hep.simulate.catalogue import PROCESSES  # noqa: PLC0415
    from evenet_hep.simulate.skims import DESCRIPTIONS  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("process", "class", "what", "parameters"):
        table.add_column(heading)
    for process in PROCESSES.values():
        parameters = [
            key if entry.default is None else f"{key}={entry.default:g}"
            for key, entry in process.parameters.items()
        ]
        table.add_row(process.name, process.process_class, process.description, " ".join(parameters))
    console.print(table)
    console.print("All take skim=... and events=...; the skims are")
    for skim, description in DESCRIPTIONS.items():
        console.print(f"  {skim:8}{description}", highlight=False)
