"""Commands of training files: convert, describe."""

from __future__ import annotations

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
from evenet_hep.cli.score import Tree, Where
from evenet_hep.errors import ConfigError

if TYPE_CHECKING:
    from evenet_hep.events.sources import Source
    from evenet_hep.events.training_set import TrainingSet
    from evenet_hep.schema import EventSchema
    from evenet_hep.topology import Topology

Split = Annotated[
    str, typer.Option("--split", help="Names and fractions of the splits; the first gives the statistics.")
]


@app.command()
def convert(
    out: Annotated[Path, typer.Option("--out", help="Folder of the training set.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="CLASS=FILE[,FILE], a YAML file of samples, or a folder of simulated events.",
            metavar="SOURCE...",
        ),
    ] = None,
    from_published: Annotated[
        Path | None,
        typer.Option(
            "--from-published", help="Folder of Parquet files in the layout of the published preprocessing."
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            help="standard, published, or a JSON file; by default published with --from-published, else standard.",
            metavar="NAME|FILE",
        ),
    ] = None,
    topology: Annotated[
        str | None,
        typer.Option(
            "--topology",
            help="Event grammar for the truth labels: pretraining, bbww, higgs_to_4b, ttbar_dilepton, dimuon, or a "
            "YAML file.",
            metavar="NAME|FILE",
        ),
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", help="Use isolated leptons, and jets away from them, only.")
    ] = False,
    where: Where = None,
    tree: Tree = "Events",
    split: Split = "train=0.8,val=0.1,test=0.1",
    delta_r: Annotated[
        float, typer.Option("--delta-r", help="Largest distance of a jet from its quark.")
    ] = 0.4,
    cores: Annotated[int, typer.Option("--cores", min=1, help="Processes on this machine.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler to use instead.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a conversion that was stopped.")
    ] = False,
    chunk_size: Annotated[int, typer.Option("--chunk-size", min=1, help="Events per part.")] = 100_000,
    weighted: Annotated[
        bool, typer.Option("--weighted-statistics", help="Weight means and widths with the event weights.")
    ] = False,
) -> None:
    """Turn NanoAOD or Parquet files, or the published layout, into training files."""
    from evenet_hep.conversion import convert as write_set  # noqa: PLC0415
    from evenet_hep.events.nanoaod import Branches  # noqa: PLC0415
    from evenet_hep.events.sources import parse_sources  # noqa: PLC0415
    from evenet_hep.events.training_chunks import Settings  # noqa: PLC0415

    if bool(sources) == (from_published is not None):
        msg = "give either sources or --from-published, one of them"
        raise ConfigError(msg)
    branches = Branches()
    if where:
        from evenet_hep.scoring import branches_from_options  # noqa: PLC0415  loads torch

        branches = branches_from_options(where)
    published = from_published is not None
    settings = Settings(tree, branches, select, delta_r, chunk_size, weighted, published)
    grammar = _topology(topology or ("pretraining" if published else None))
    names = [process.name for process in grammar.processes] if grammar else []
    if from_published:
        read_from = _published_source(from_published)
    else:
        read_from = parse_sources(sources or [], processes=names)
    columns = (
        TextColumn("converting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("converting", total=None)
        done = write_set(
            read_from,
            out,
            schema=_published_schema(from_published, schema) if from_published else _schema(schema),
            topology=grammar,
            splits=parse_splits(split),
            settings=settings,
            cores=cores,
            scheduler=scheduler,
            resume=resume,
            progress=lambda n, total: bar.update(task, completed=n, total=total),
        )
        seconds = bar.tasks[0].elapsed or 0.0
    rate = f", {done.n_converted / seconds:.0f} per second" if done.n_converted and seconds else ""
    kept = f" ({done.n_kept} were there already)" if done.n_kept else ""
    console.print(f"{done.n_converted} events converted in {seconds:.1f} s{rate}{kept}", highlight=False)
    _print_counts(done.training_set)
    console.print(f"training set: {out}", highlight=False, soft_wrap=True)


def parse_splits(text: str) -> dict[str, float]:
    """Fractions of splits from text such as ``train=0.8,val=0.2``.

    Raises
    ------
    ConfigError
        For anything else, and for a name that is there twice.

    Examples
    --------
    >>> parse_splits("train=0.75,val=0.25")
    {'train': 0.75, 'val': 0.25}
    """
    fractions: dict[str, float] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not name or name in fractions or number < 0:
            msg = f"--split must be NAME=FRACTION,..., each name once; found {text!r}"
            raise ConfigError(msg)
        fractions[name] = number
    return fractions


def _schema(name: str | None) -> EventSchema:
    from evenet_hep.schema import EventSchema  # noqa: PLC0415

    if name in (None, "standard"):
        return EventSchema.standard()
    return EventSchema.published() if name == "published" else EventSchema.from_file(str(name))


def _published_source(folder: Path) -> list[Source]:
    from evenet_hep.events.published_files import published_parquet  # noqa: PLC0415
    from evenet_hep.events.sources import Source  # noqa: PLC0415

    return [Source("published", "", tuple(map(str, published_parquet(folder))))]


def _published_schema(folder: Path, name: str | None) -> EventSchema:
    """The schema with the statistics that stand beside the files, if they do."""
    schema = _schema(name or "published")
    path = folder / "normalization.pt"
    if not path.is_file():
        return schema
    from evenet_hep.training.published_statistics import with_published_statistics  # noqa: PLC0415  torch

    return with_published_statistics(schema, path)


def _topology(name: str | None) -> Topology | None:
    from evenet_hep.topology import Topology  # noqa: PLC0415

    if name is None:
        return None
    is_file = Path(name).suffix in (".yaml", ".yml")
    return Topology.from_file(name) if is_file else Topology.shipped(name)


def _print_counts(training_set: TrainingSet) -> None:
    """Events and weights per class and split."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    for split in training_set.splits:
        table.add_column(split, justify="right")
        table.add_column("weight", justify="right")
    counts = {split: training_set.counts(split) for split in training_set.splits}
    for name in dict.fromkeys(name for split in counts.values() for name in split):
        cells = []
        for split in training_set.splits:
            found = counts[split].get(name)
            cells += [str(found.n_events), f"{found.weight:.4g}"] if found else ["0", "0"]
        table.add_row(name or "(none)", *cells)
    console.print(table)


@app.command()
def describe(
    folder: Annotated[Path, typer.Argument(help="A training set.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for description.png and .html; by default DIR.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Whose events are drawn; by default the first split.")
    ] = None,
    max_events: Annotated[
        int, typer.Option("--events", min=1, help="Draw at most so many events.")
    ] = 100_000,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Whether to draw.")] = True,
    html: Annotated[bool, typer.Option("--html", help="Also write one HTML page with everything.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the checksums of all parts.")] = False,
) -> None:
    """Say what is in a training set: events, weights, multiplicities, features, found resonances, and plots."""
    from evenet_hep.description import describe as tables_of  # noqa: PLC0415
    from evenet_hep.description import write_description  # noqa: PLC0415
    from evenet_hep.events.training_set import TrainingSet  # noqa: PLC0415

    opened = TrainingSet.open(folder, verify=verify)
    if split is not None:
        opened.counts(split)  # refuses an unknown one before anything is printed
    for content in tables_of(opened):
        table = Table(title=content.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, heading in enumerate(content.headings):
            table.add_column(heading, justify="left" if i == 0 or heading == "resonances" else "right")
        for row in content.rows:
            table.add_row(*row)
        console.print(table, highlight=False)
    if plots or html:
        for path in write_description(opened, out or folder, split=split, max_events=max_events, page=html):
            console.print(str(path), highlight=False, soft_wrap=True)
