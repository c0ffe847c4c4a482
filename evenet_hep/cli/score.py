"""Commands of the main job: demo, predict, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from evenet_hep.cli.app import app, console
from evenet_hep.errors import FileError, SchemaError

if TYPE_CHECKING:
    from evenet_hep.inference import Predictor

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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the figure and the tables.")] = Path(
        "demo-output"
    ),
) -> None:
    """Score four small NanoAOD files with a small network, and find the Upsilon in real dimuons with a fit.

    Files, network and dimuons come with the package.
    """
    with console.status("loading coffea and torch"):
        from evenet_hep.demo import run_demo  # noqa: PLC0415  heavy imports only where they are needed
        from evenet_hep.processors.event_scores import mean_probabilities  # noqa: PLC0415

    with console.status("scoring"):
        result = run_demo(out)
    classes = list(next(iter(result.data_sets.values()))["sum_probability"])
    title = "Mean class probabilities (a demonstration network: see its card)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns are enough
    for heading in ("data set", "events", *classes, "events/s"):
        is_name = heading == "data set"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
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
    fit = result.fit
    console.print(
        f"\nfit: 1 in 20 of 20000 CMS dimuons has {fit.observed:.0f} pairs between {fit.window[0]:g} and {fit.window[1]:g} GeV; "
        f"its side bands expect {fit.expected:.0f} ± {fit.uncertainty:.0f}: "
        f"the Upsilon, {fit.signal:.0f} ± {fit.signal_uncertainty:.0f} pairs, Z = {fit.significance:.1f}",
        highlight=False,
    )
    console.print(f"figure: {result.fit_figure}")


@app.command()
def predict(
    files: Annotated[
        list[str],  # not Path, which would make one slash of two in root://host//file
        typer.Argument(
            help="ROOT or Parquet files; with workers also root:// and https:// addresses.",
            metavar="FILES...",
        ),
    ],
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
    scheduler: Annotated[
        str,
        typer.Option("--scheduler", metavar="ADDRESS", help="Score on a Dask cluster, one table per chunk."),
    ] = "",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Score in so many processes here, one table per chunk.")
    ] = 0,
) -> None:
    """Write class probabilities for every event of some files.

    With --scheduler or --workers the same command goes on where it stopped, and a manifest says what failed and why.
    """
    with console.status("loading torch"):
        from evenet_hep.events.reading import inspect_file  # noqa: PLC0415
        from evenet_hep.inference import Predictor  # noqa: PLC0415
        from evenet_hep.schema import EventSchema  # noqa: PLC0415
        from evenet_hep.scoring import branches_from_options, score_files  # noqa: PLC0415

    predictor = Predictor(model, device=device, branches=branches_from_options(where or []))
    if schema is not None and EventSchema.from_file(schema) != predictor.schema:
        msg = f"the schema {schema} is not that of the model {model}: {_difference(schema, predictor.schema)}"
        raise SchemaError(msg)
    if scheduler or workers:
        _predict_on_workers(
            predictor,
            files,
            out,
            tree=tree,
            chunk_size=chunk_size,
            where=(scheduler, workers),
            skip_bad=skip_bad,
        )
        return
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


def _predict_on_workers(
    predictor: Predictor,
    files: list[str],
    out: Path,
    *,
    tree: str,
    chunk_size: int,
    where: tuple[str, int],
    skip_bad: bool,
) -> None:
    with console.status("starting workers"):
        from evenet_hep.distributed import predict_files  # noqa: PLC0415
        from evenet_hep.distributed.local import open_cluster  # noqa: PLC0415

    with open_cluster(*where) as client:
        manifest = predict_files(client, predictor, files, out, tree=tree, chunk_size=chunk_size)
    console.print(f"{manifest.n_events} events in {len(manifest.tables)} tables in {out}")
    for failure in manifest.failures:
        events = f"events {failure.start} to {failure.stop}" if failure.stop >= 0 else "all events"
        text = f"not scored: {events} of {failure.file}: {failure.reason}"
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    if manifest.failures and not (skip_bad and manifest.tables):
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
