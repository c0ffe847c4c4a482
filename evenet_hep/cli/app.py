"""The application that every command hangs on, and its console."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(
    name="evenet-hep",
    help="Event-level foundation models for columnar analysis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
