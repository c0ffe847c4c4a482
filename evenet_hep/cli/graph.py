"""The command of the study of the graph network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenet_hep.cli.app import app, console


@app.command(name="graph-study")
def graph_study_command(
    data: Annotated[Path, typer.Argument(help="Folder of evenet-hep simulate.", metavar="DATA")],
    out: Annotated[Path, typer.Option("--out", help="Folder for networks, tables and the figure.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="YAML file: pretraining, tasks, sizes, epochs and more.")
    ] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option("--size", min=1, help="Training events per class of the tasks. Repeat."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Networks of each kind.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Of the tasks.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")] = "auto",
    cores: Annotated[
        int, typer.Option("--cores", min=1, help="Networks that are trained at the same time.")
    ] = 1,
) -> None:
    """Compare graph networks pretrained on classes and on labels with networks from scratch, on five tasks.

    Run the same command again to go on where it was stopped.
    """
    with console.status("loading torch"):
        from evenet_hep.graph_study.plan import GraphStudyPlan, read_plan  # noqa: PLC0415
        from evenet_hep.graph_study.study import run_study  # noqa: PLC0415

    changes = {"sizes": tuple(sizes) if sizes else None, "seeds": seeds, "epochs": epochs}
    given = {name: value for name, value in changes.items() if value is not None}
    chosen = GraphStudyPlan(**given) if plan is None else read_plan(plan, **given)  # type: ignore[arg-type]
    run_study(
        data, out, chosen, device=device, cores=cores,
        say=lambda text: console.print(text, highlight=False, soft_wrap=True),
    )  # fmt: skip
    console.print((out / "tables.md").read_text(), highlight=False, soft_wrap=True)
