"""Commands of the analyses, one for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenet_hep.cli.app import app, console

if TYPE_CHECKING:
    from evenet_hep.analyses.folder import AnalysisReport

analyse = typer.Typer(no_args_is_help=True, help="Run an analysis of the paper, from files to its result.")
app.add_typer(analyse, name="analyse")

Out = Annotated[Path, typer.Option("--out", help="Folder for tables, figures and the configuration.")]
Events = Annotated[
    Path,
    typer.Option("--events", help="Folder of evenet-hep simulate, or a YAML file that lists samples."),
]
File = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG.yaml", help="Settings; the defaults without it.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting: training.epochs=20. Repeat."),
]


def tell(report: AnalysisReport) -> None:
    """Print the result of an analysis and where its files are."""
    console.print(report.summary, highlight=False, markup=False)
    console.print(f"tables and figures: {report.out}", soft_wrap=True)


@analyse.command(name="bbww-resonance")
def bbww_resonance(events: Events, out: Out, config: File = None, settings: Settings = None) -> None:
    """X -> YH -> bb WW on a grid of masses: networks and baselines, significance, limits, closure, systematics."""
    with console.status("loading torch"):
        from evenet_hep.analyses.bbww_resonance import analyse_bbww, read_bbww_config  # noqa: PLC0415

    tell(analyse_bbww(events, out, read_bbww_config(config, settings or ()), progress=True))


@analyse.command("ttbar-spin")
def ttbar_spin(events: Events, out: Out, config: File = None, settings: Settings = None) -> None:
    """Spin correlations and entanglement of top pairs with two leptons."""
    with console.status("loading torch"):
        from evenet_hep.analyses.settings import read_analysis_config  # noqa: PLC0415
        from evenet_hep.analyses.ttbar_spin import TTbarSpinConfig, analyse_ttbar_spin  # noqa: PLC0415

    chosen = read_analysis_config(TTbarSpinConfig, config, settings or ())
    tell(analyse_ttbar_spin(events, out, chosen, progress=True))


@analyse.command(name="higgs-to-4b")
def higgs_to_4b(events: Events, out: Out, config: File = None, settings: Settings = None) -> None:
    """Search for H -> aa -> 4b: networks against baselines, pairing, limits, closure, energy scale.

    Run the same command again to go on where it was stopped.
    """
    with console.status("loading torch"):
        from evenet_hep.analyses.higgs_to_4b import HiggsTo4bConfig, analyse_higgs_to_4b  # noqa: PLC0415
        from evenet_hep.analyses.settings import read_analysis_config  # noqa: PLC0415

    chosen = read_analysis_config(HiggsTo4bConfig, config, [*(settings or ()), f"events={events}"])
    tell(analyse_higgs_to_4b(chosen, out, progress=console.is_terminal))


@analyse.command("dimuon-anomaly")
def dimuon_anomaly(
    out: Out,
    events: Annotated[
        Path | None,
        typer.Option(
            "--events",
            help="Parquet table of muon pairs, or folder or YAML list of NanoAOD files; real data of the package by default.",
        ),
    ] = None,
    config: File = None,
    set_: Settings = None,
) -> None:
    """Search dimuons for a resonance against a generated background."""
    with console.status("loading torch"):
        from evenet_hep.analyses.dimuon_anomaly import DimuonAnomalyConfig, analyse_dimuon  # noqa: PLC0415
        from evenet_hep.analyses.settings import read_analysis_config  # noqa: PLC0415

    settings = read_analysis_config(DimuonAnomalyConfig, config, set_ or ())
    tell(analyse_dimuon(settings, out, events=events, progress=True))
