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
        from evenet_hep.analyses.ttbar_spin import TTbarSpinConfig, analyse_ttbar_spin  # noqa: PLC0415
        from evenet_hep.model.layers import read_config  # noqa: PLC0415
        from evenet_hep.training.config import to_dict  # noqa: PLC0415
        from evenet_hep.training.settings import override, read_yaml  # noqa: PLC0415

    content = to_dict(TTbarSpinConfig())
    if config is not None:
        given = read_yaml(config)
        content |= given | {"training": content["training"] | dict(given.get("training") or {})}
    chosen = read_config(TTbarSpinConfig, override(content, settings or ()))
    tell(analyse_ttbar_spin(events, out, chosen, progress=True))


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
    from evenet_hep.analyses.dimuon_anomaly import DimuonAnomalyConfig, analyse_dimuon  # noqa: PLC0415
    from evenet_hep.model.layers import read_config  # noqa: PLC0415
    from evenet_hep.training.config import to_dict  # noqa: PLC0415
    from evenet_hep.training.settings import override, read_yaml  # noqa: PLC0415

    given = to_dict(DimuonAnomalyConfig()) | (read_yaml(config) if config else {})
    settings = read_config(DimuonAnomalyConfig, override(given, set_ or []))
    tell(analyse_dimuon(settings, out, events=events, progress=True))
