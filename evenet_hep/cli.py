"""The command line: one thin function per command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from evenet_hep import __version__
from evenet_hep.errors import EveNetError, FileError, InputError, SchemaError

if TYPE_CHECKING:
    from evenet_hep.fitting import Binning, FitReport

app = typer.Typer(
    name="evenet-hep",
    help="Event-level foundation models for columnar analysis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Tree = Annotated[str, typer.Option("--tree", help="Name of the tree in ROOT files.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=NAME",
        help="Collections to use: leptons=Electron,Muon  jets=Jet  taus=Tau  photons=Photon  met=PuppiMET  "
        "btag=btagDeepFlavB:0.2783 (field:working point). May be repeated.",
    ),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option(
        "--schema", help="JSON file of the schema you prepared the data for; refused if the model's differs."
    ),
]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Event-level foundation models for columnar analysis."""
    if show:
        console.print(f"evenet-hep {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the figure and the tables.")] = Path(
        "demo-output"
    ),
) -> None:
    """Score four small NanoAOD files with a small network; both come with the package."""
    with console.status("loading coffea and torch"):
        from evenet_hep.demo import run_demo  # noqa: PLC0415  heavy imports only where they are needed
        from evenet_hep.processors.event_scores import mean_probabilities  # noqa: PLC0415

    with console.status("scoring"):
        result = run_demo(out)
    classes = list(next(iter(result.data_sets.values()))["sum_probability"])
    table = Table(title="Mean class probabilities (a demonstration network: see its card)")
    for heading in ("data set", "events", *classes, "events/s"):
        table.add_column(heading, justify="left" if heading == "data set" else "right")
    for name, content in result.data_sets.items():
        means = [f"{mean:.2f}" for mean in mean_probabilities(content).values()]
        table.add_row(
            name, str(content["n_events"]), *means, f"{content['n_events'] / content['seconds']:.0f}"
        )
    console.print(table)
    unscored = sum(content["n_events"] - content["n_scored"] for content in result.data_sets.values())
    console.print(f"{unscored} events have no selected object and no score.")
    console.print(f"figure: {result.figure}\nhistograms: {result.histograms}")
    console.print(f"tables: {len(result.tables)} Parquet files in {out}")


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="ROOT or Parquet files.", metavar="FILES...")],
    model: Annotated[str, typer.Option("--model", help="Checkpoint folder, or demo.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for one Parquet table per file.")],
    tree: Tree = "Events",
    schema: SchemaFile = None,
    where: Where = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")] = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on after a bad file and report it.")
    ] = False,
    chunk_size: Annotated[int, typer.Option("--chunk-size", min=1, help="Events at a time.")] = 50_000,
) -> None:
    """Write class probabilities for every event of some files."""
    with console.status("loading torch"):
        from evenet_hep.events.reading import inspect_file  # noqa: PLC0415
        from evenet_hep.inference import Predictor  # noqa: PLC0415
        from evenet_hep.schema import EventSchema  # noqa: PLC0415
        from evenet_hep.scoring import branches_from_options, score_files  # noqa: PLC0415

    predictor = Predictor(model, device=device, branches=branches_from_options(where or []))
    if schema is not None and EventSchema.from_file(schema) != predictor.schema:
        msg = f"the schema {schema} is not that of the model {model}: {_difference(schema, predictor.schema)}"
        raise SchemaError(msg)
    total = 0
    for file in files:
        try:
            total += inspect_file(file, tree=tree).n_events
        except FileError:
            if not skip_bad:
                raise
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("scoring", total=total)
        results = score_files(
            predictor,
            files,
            out,
            tree=tree,
            skip_bad=skip_bad,
            chunk_size=chunk_size,
            progress=lambda n: bar.advance(task, n),
        )
    done = [result for result in results if not result.error]
    seconds = sum(result.seconds for result in done)
    n_events = sum(result.n_events for result in done)
    console.print(f"{n_events} events of {len(done)} files in {seconds:.1f} s; tables in {out}")
    for result in results:
        if result.error:
            console.print(f"skipped: {result.error}", style="yellow", highlight=False, soft_wrap=True)
    if not done:
        raise typer.Exit(1)


@app.command()
def inspect(
    target: Annotated[
        Path, typer.Argument(help="A ROOT or Parquet file, or a checkpoint folder.", metavar="FILE_OR_MODEL")
    ],
    tree: Tree = "Events",
    schema: SchemaFile = None,
    where: Where = None,
) -> None:
    """Say what is in a file and which schema fields it can fill, or what a model expects."""
    from evenet_hep.inspection import describe_model, inspect_fields  # noqa: PLC0415
    from evenet_hep.schema import EventSchema  # noqa: PLC0415
    from evenet_hep.scoring import branches_from_options  # noqa: PLC0415

    if target.is_dir() or (not target.exists() and target.suffix == ""):
        console.print(describe_model(target), highlight=False, soft_wrap=True)
        return
    expected = EventSchema.from_file(schema) if schema else EventSchema.published()
    report = inspect_fields(target, expected, tree=tree, branches=branches_from_options(where or []))
    console.print(
        f"{target}: {report.kind}, {report.n_events} events, {report.n_branches} branches", highlight=False
    )
    table = Table()
    for heading in ("schema field", "filled from"):
        table.add_column(heading)
    for name, source in report.sources.items():
        table.add_row(
            name, f"[red]{source or 'not in this file'}[/red]" if name in report.missing else source
        )
    console.print(table)
    if report.problem:
        console.print(report.problem, style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


fit = typer.Typer(no_args_is_help=True, help="Fit a file with histograms or a table of events.")
app.add_typer(fit, name="fit")

Out = Annotated[Path, typer.Option("--out", help="Folder for the numbers (JSON) and the figure (PNG).")]
Mass = Annotated[str, typer.Option("--mass", help="Histogram of a ROOT file, or column of a table, in GeV.")]
Bins = Annotated[
    str | None, typer.Option("--bins", metavar="LOW,HIGH,NUMBER", help="Equal bins, for a table of events.")
]
Weight = Annotated[str | None, typer.Option("--weight", help="Column with event weights.")]
Shape = Annotated[str, typer.Option("--background", help="Degree of a polynomial, or the word exponential.")]


@fit.command()
def sideband(
    file: Annotated[Path, typer.Argument(help="ROOT file with a histogram, or Parquet or CSV table.")],
    mass: Mass,
    window: Annotated[tuple[float, float], typer.Option("--window", help="Ends in GeV, at bin edges.")],
    out: Out,
    bins: Bins = None,
    weight: Weight = None,
    background: Shape = "5",
) -> None:
    """Background in a mass window from its side bands, and the significance of the rest."""
    from evenet_hep.fitting import fit_sideband_file  # noqa: PLC0415

    _tell(
        fit_sideband_file(
            file,
            out,
            mass=mass,
            window=window,
            binning=_binning(bins),
            weight=weight,
            background=_shape(background),
        )
    )


@fit.command()
def scan(
    file: Annotated[Path, typer.Argument(help="ROOT file with a histogram, or Parquet or CSV table.")],
    mass: Mass,
    width: Annotated[int, typer.Option("--width", min=1, help="Width of the window in bins.")],
    out: Out,
    bins: Bins = None,
    weight: Weight = None,
    background: Shape = "5",
    toys: Annotated[int, typer.Option("--toys", min=0, help="Background toys for the global p-value.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the toys.")] = 0,
) -> None:
    """Slide a window over a mass spectrum: local and global significance of the greatest excess."""
    from evenet_hep.fitting import scan_sideband_file  # noqa: PLC0415

    with console.status("fitting the spectrum and its toys"):
        report = scan_sideband_file(
            file,
            out,
            mass=mass,
            n_bins=width,
            binning=_binning(bins),
            weight=weight,
            background=_shape(background),
            n_toys=toys,
            seed=seed,
        )
    _tell(report)


@fit.command()
def entanglement(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV table with decay angles.")],
    out: Out,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="Six columns with the cosines of l+ on the axes k, r, n, then of l-; "
            "cos_k_plus,...,cos_n_minus if left out.",
        ),
    ] = None,
    weight: Weight = None,
    method: Annotated[str, typer.Option("--method", help="moment, asymmetry or likelihood.")] = "moment",
    replicas: Annotated[
        int, typer.Option("--bootstrap", min=0, help="Replicas for the uncertainties; 0 propagates them.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
) -> None:
    """Spin correlations of top pairs and the markers of entanglement."""
    from evenet_hep.fitting import COSINES, fit_entanglement_file  # noqa: PLC0415

    cosines = COSINES if columns is None else tuple(columns.split(","))
    _tell(
        fit_entanglement_file(
            file, out, cosines=cosines, weight=weight, method=method, replicas=replicas, seed=seed
        )
    )


@fit.command()
def limit(
    file: Annotated[Path, typer.Argument(help="ROOT file with histograms, or JSON file with a workspace.")],
    out: Out,
    signal: Annotated[str | None, typer.Option("--signal", help="Histogram of the signal.")] = None,
    background: Annotated[
        list[str] | None, typer.Option("--background", help="Histogram of a background. Repeat.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Histogram of the data; else Asimov data.")
    ] = None,
    uncertainty: Annotated[
        list[str] | None,
        typer.Option("--uncertainty", metavar="SAMPLE=SIZE", help="Relative, of a normalisation. Repeat."),
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Confidence level.")] = 0.95,
) -> None:
    """CLs upper limit and discovery significance of a signal."""
    from evenet_hep.fitting import fit_limit_file  # noqa: PLC0415

    sizes = {}
    for word in uncertainty or []:
        sample, _, size = word.partition("=")
        sizes[sample] = _number(size, f"--uncertainty {word}")
    with console.status("fitting"):
        report = fit_limit_file(
            file,
            out,
            signal=signal,
            backgrounds=background or [],
            data=data,
            uncertainties=sizes,
            level=level,
        )
    _tell(report)


def _tell(report: FitReport) -> None:
    console.print(report.summary, highlight=False, soft_wrap=True)
    console.print(f"numbers: {report.json}\nfigure: {report.figure}", highlight=False, soft_wrap=True)


def _binning(text: str | None) -> Binning | None:
    from evenet_hep.fitting import Binning  # noqa: PLC0415

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not parts[2].strip().isdigit():
        msg = f"--bins must be LOW,HIGH,NUMBER; found {text!r}"
        raise InputError(msg)
    low, high = (_number(part, f"--bins {text}") for part in parts[:2])
    return Binning(low, high, int(parts[2]))


def _shape(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        msg = f"{where}: expected a number; found {text!r}"
        raise InputError(msg) from error


@app.command()
def convert_checkpoint(
    file: Annotated[str, typer.Argument(help="Published .ckpt file, or owner/network/file.ckpt on the hub.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write.")],
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="Head to take; all of the file if left out. Repeat.")
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option("--network", help="YAML with the network options, if not the published ones."),
    ] = None,
    topology: Annotated[
        Path | None, typer.Option("--topology", help="YAML with the resonances, if not the published ones.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class names, separated by commas, if not the published.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the running average of the weights.")] = False,
) -> None:
    """Turn a published checkpoint into a checkpoint folder, and say what was taken from it."""
    with console.status("loading torch"):
        from evenet_hep.model.hub import fetch, is_hub_name  # noqa: PLC0415
        from evenet_hep.model.published import convert_published  # noqa: PLC0415

    path = fetch(file) if is_hub_name(file) else Path(file)
    account = convert_published(
        path,
        out,
        heads=heads or None,
        network=network,
        topology=topology,
        classes=None if classes is None else classes.split(","),
        ema=ema,
    )
    console.print(f"{account}\ncheckpoint: {out}", highlight=False, soft_wrap=True)


def _difference(path: Path, expected: object) -> str:
    from evenet_hep.schema import EventSchema  # noqa: PLC0415

    given = json.loads(EventSchema.from_file(path).to_json())
    wanted = json.loads(expected.to_json())  # type: ignore[attr-defined]
    parts = [
        f"{key} is {_short(given[key])}, the model has {_short(wanted[key])}"
        for key in wanted
        if given[key] != wanted[key]
    ]
    return "; ".join(parts)


def _short(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    return str(
        [
            " ".join(str(v) for v in entry.values() if v != "") if isinstance(entry, dict) else entry
            for entry in value
        ]
    )


def main() -> None:
    """Run the command line; errors of the user's input become one sentence and exit code 1."""
    try:
        app()
    except EveNetError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
