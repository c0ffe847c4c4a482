"""Commands on checkpoints: convert-checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenet_hep.cli.app import app, console


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
