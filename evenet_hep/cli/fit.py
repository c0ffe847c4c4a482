"""Commands that turn files into numbers: fit sideband, scan, entanglement, limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenet_hep.cli.app import app, console
from evenet_hep.errors import InputError

if TYPE_CHECKING:
    from evenet_hep.fitting import Binning, FitReport

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
