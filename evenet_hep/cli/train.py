"""Commands of training: pretrain, finetune, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from evenet_hep.cli.app import app, console

File = Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a value of the file: training.epochs=20. Repeat."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off.")]


@app.command(name="pretrain")
def pretrain_command(file: File, settings: Settings = None, resume: Resume = False) -> None:
    """Train a network from the start, or its second stage."""
    with console.status("loading torch"):
        from evenet_hep.run_files import PretrainRun, read_run, run_pretraining  # noqa: PLC0415

    run = read_run(PretrainRun, file, settings or ())
    _summarise(run_pretraining(run, resume=resume), run.out)


@app.command(name="finetune")
def finetune_command(file: File, settings: Settings = None, resume: Resume = False) -> None:
    """Train a network for a task of your own."""
    with console.status("loading torch"):
        from evenet_hep.run_files import FinetuneRun, read_run, run_finetuning  # noqa: PLC0415

    run = read_run(FinetuneRun, file, settings or ())
    _summarise(run_finetuning(run, resume=resume), run.out)


@app.command(name="evaluate")
def evaluate_command(file: File, settings: Settings = None) -> None:
    """Compare a network with the labels of a training set, and write a report."""
    with console.status("loading torch"):
        from evenet_hep.run_files import EvaluateRun, read_run, run_evaluation  # noqa: PLC0415

    run = read_run(EvaluateRun, file, settings or ())
    with console.status("evaluating"):
        found = run_evaluation(run)
    table = Table("metric", "value", title=f"{found.n_events} events")
    for name, value in found.metrics.items():
        if not name.endswith("_uncertainty"):
            error = found.metrics.get(f"{name}_uncertainty")
            table.add_row(name, f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else ""))
    console.print(table)
    console.print(f"report: {run.out}/index.html", soft_wrap=True)


def _summarise(history: object, out: str) -> None:
    from evenet_hep.training.history import History  # noqa: PLC0415

    if not isinstance(history, History) or not history.epochs:
        return
    last = history.epochs[-1]
    console.print(f"{len(history.epochs)} epochs; training loss {last['train_loss']:.4f}", highlight=False)
    if (best := history.best_epoch) is not None:
        value = history.epochs[best][history.monitor]
        console.print(
            f"best epoch {best + 1} of {len(history.epochs)}: {history.monitor} {value:.4f}", highlight=False
        )
    console.print(f"networks: {out}/best and {out}/last; report: {out}/report/index.html", soft_wrap=True)
