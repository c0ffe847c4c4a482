"""The command line: one thin function per command, one file per room it calls."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from evenet_hep import __version__
from evenet_hep.cli import analyse as analyse
from evenet_hep.cli import checkpoint as checkpoint
from evenet_hep.cli import convert as convert
from evenet_hep.cli import fit as fit
from evenet_hep.cli import graph as graph
from evenet_hep.cli import jets as jets
from evenet_hep.cli import score as score
from evenet_hep.cli import simulate as simulate
from evenet_hep.cli import train as train
from evenet_hep.cli.app import app as app
from evenet_hep.cli.app import console as console
from evenet_hep.errors import EveNetError


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


def main() -> None:
    """Run the command line; errors of the user's input become one sentence and exit code 1."""
    try:
        app()
    except EveNetError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False
        )
        sys.exit(1)
