"""Fits of files: a histogram or a table of events in, a JSON file with the result and a figure out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import FileError, InputError
from evenet_hep.plot import plot_entanglement, plot_limit, plot_scan, plot_sideband, save_figure
from evenet_hep.stats.entanglement import QUANTITIES, Entanglement, entanglement
from evenet_hep.stats.limits import Discovery, Limit, find_discovery, find_limit
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.sideband_scan import SidebandScan, scan_sidebands
from evenet_hep.stats.spin_bootstrap import bootstrap_entanglement, bootstrap_spin
from evenet_hep.stats.spin_coefficients import measure_spin
from evenet_hep.stats.workspace import make_workspace

FloatArray = npt.NDArray[np.float64]

# Columns of the cosines of l+ and l-, on the axes k, r, n.
COSINES = ("cos_k_plus", "cos_r_plus", "cos_n_plus", "cos_k_minus", "cos_r_minus", "cos_n_minus")


class FitReport(NamedTuple):
    """What a fit of a file found and wrote.

    Attributes
    ----------
    summary : str
        The result in a sentence.
    numbers : dict
        What the JSON file holds.
    json, figure : Path
        Files written.
    """

    summary: str
    numbers: dict[str, Any]
    json: Path
    figure: Path


class Binning(NamedTuple):
    """Equal bins for a table of masses.

    Attributes
    ----------
    low, high : float
        Ends in GeV.
    bins : int
        How many.
    """

    low: float
    high: float
    bins: int

    @property
    def edges(self) -> FloatArray:
        """Edges of the bins in GeV."""
        if not (self.bins >= 1 and self.high > self.low):
            msg = f"bins must be LOW,HIGH,NUMBER with LOW below HIGH and at least one; found {self}"
            raise InputError(msg)
        return np.linspace(self.low, self.high, self.bins + 1)


def read_histogram(path: str | Path, name: str) -> Any:
    """A one-dimensional histogram of a ROOT file, as ``hist.Hist`` with variances.

    Raises
    ------
    FileError
        If the file cannot be read, or has no such histogram; the message names those it has.
    """
    import uproot  # noqa: PLC0415  only for histograms

    try:
        with uproot.open(path) as file:
            found = sorted(
                {key for key, kind in file.classnames(cycle=False).items() if kind.startswith("TH1")}
            )
            if name not in found:
                msg = f"{path} has no one-dimensional histogram {name!r}; it has {', '.join(found) or 'none'}"
                raise FileError(msg)
            return file[name].to_hist()
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, FileError):
            raise
        msg = f"cannot read {path}: {error}"
        raise FileError(msg) from error


def read_columns(path: str | Path, names: Sequence[str]) -> dict[str, FloatArray]:
    """Columns of a Parquet or CSV table, as float64 arrays.

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If a column is not there or holds no numbers; the message names the columns.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.csv  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    path = Path(path)
    try:
        table = pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        msg = f"cannot read the table {path}: {error}"
        raise FileError(msg) from error
    if missing := [name for name in names if name not in table.column_names]:
        msg = f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}"
        raise InputError(msg)
    try:
        columns = {name: np.asarray(table[name].to_numpy(), np.float64) for name in names}
    except (ValueError, TypeError) as error:
        msg = f"the columns {', '.join(names)} of {path} must be numbers: {error}"
        raise InputError(msg) from error
    return columns


def fit_sideband_file(
    path: str | Path,
    out: str | Path,
    *,
    mass: str,
    window: tuple[float, float],
    binning: Binning | None = None,
    weight: str | None = None,
    background: int | str = 5,
) -> FitReport:
    """Fit the side bands of a mass spectrum and compare the window with them.

    Parameters
    ----------
    path : path
        ROOT file with a histogram, or Parquet or CSV table of events.
    out : path
        Folder for ``sideband.json`` and ``sideband.png``.
    mass : str
        Name of the histogram, or column with masses in GeV.
    window : tuple of two floats
        In GeV, at bin edges.
    binning : Binning, optional
        Needed for a table.
    weight : str, optional
        Column with event weights.
    background : int or str
        Degree of a polynomial, or ``"exponential"``.
    """
    fit: SidebandFit = fit_sideband(
        **_spectrum(path, mass, binning, weight), window=window, background=background
    )
    numbers = {name: getattr(fit, name) for name in SIDEBAND_NUMBERS} | {"window": list(fit.window)}
    summary = (
        f"{fit.observed:.1f} observed, {fit.expected:.1f} +- {fit.uncertainty:.1f} expected from the side bands, "
        f"Z = {fit.significance:.2f}"
    )
    return _report("sideband", summary, numbers, plot_sideband(fit), Path(out))


SIDEBAND_NUMBERS = (
    "observed",
    "observed_uncertainty",
    "expected",
    "uncertainty",
    "signal",
    "signal_uncertainty",
    "significance",
    "p0",
    "deviance",
    "n_dof",
)


def scan_sideband_file(
    path: str | Path,
    out: str | Path,
    *,
    mass: str,
    n_bins: int,
    binning: Binning | None = None,
    weight: str | None = None,
    background: int | str = 5,
    n_toys: int = 200,
    seed: int = 0,
) -> FitReport:
    """Slide a window over a mass spectrum; local and global significance of its greatest excess.

    Parameters
    ----------
    path, mass, binning, weight, background
        As for :func:`fit_sideband_file`.
    out : path
        Folder for ``scan.json`` and ``scan.png``.
    n_bins : int
        Width of the window in bins.
    n_toys, seed : int
        Background toys for the global p-value, and the seed of their random numbers.
    """
    scan: SidebandScan = scan_sidebands(
        **_spectrum(path, mass, binning, weight),
        n_bins=n_bins,
        background=background,
        n_toys=n_toys,
        seed=seed,
    )
    names = ("windows", "observed", "expected", "significance", "p_local")
    numbers = {name: getattr(scan, name).tolist() for name in names}
    numbers |= {
        "best_window": list(scan.best.window),
        "p_global": scan.p_global,
        "p_global_uncertainty": scan.p_global_uncertainty,
        "significance_global": scan.significance_global,
        "n_toys": n_toys,
    }
    low, high = scan.best.window
    if not n_toys:
        globally = "no toys for the global significance"
    elif scan.toy_maxima.max() < scan.best.significance:
        globally = f"none of {n_toys} background toys has one like it: p < {scan.p_global:.2g} globally"
    else:
        globally = f"{scan.significance_global:.2f} globally (p = {scan.p_global:.3f} +- {scan.p_global_uncertainty:.3f})"
    summary = (
        f"greatest excess in [{low:g}, {high:g}] GeV: Z = {scan.best.significance:.2f} locally, {globally}"
    )
    return _report("scan", summary, numbers, plot_scan(scan), Path(out))


def fit_entanglement_file(
    path: str | Path,
    out: str | Path,
    *,
    cosines: Sequence[str] = COSINES,
    weight: str | None = None,
    method: str = "moment",
    replicas: int = 0,
    seed: int = 0,
) -> FitReport:
    """Spin correlations and entanglement markers of a table of decay angles.

    Parameters
    ----------
    path : path
        Parquet or CSV table. Events with NaN in any of the cosines are left out and counted.
    out : path
        Folder for ``entanglement.json`` and ``entanglement.png``.
    cosines : sequence of six str
        Columns with the cosines of l+ on the axes k, r, n, and those of l-.
    weight : str, optional
        Column with event weights.
    method : {"moment", "asymmetry", "likelihood"}
        See :func:`~evenet_hep.stats.spin_coefficients.measure_spin`.
    replicas, seed : int
        Bootstrap replicas for the uncertainties, 0 for propagation, and the seed of their random numbers.
    """
    if len(cosines) != len(COSINES):
        msg = f"cosines must be six columns, k, r, n of l+ and of l-; found {', '.join(cosines) or 'none'}"
        raise InputError(msg)
    columns = read_columns(path, [*cosines, *([weight] if weight else [])])
    angles = np.stack([columns[name] for name in cosines])  # (6, n)
    is_known = np.isfinite(angles).all(axis=0)
    angles, weights = angles[:, is_known], columns[weight][is_known] if weight else None
    given: dict[str, Any] = {"weights": weights, "method": method}
    found: Entanglement
    if replicas:
        found = bootstrap_entanglement(
            bootstrap_spin(angles[:3], angles[3:], **given, n_replicas=replicas, seed=seed)
        )
    else:
        found = entanglement(measure_spin(angles[:3], angles[3:], **given))
    coefficients = found.coefficients
    numbers: dict[str, Any] = {name: getattr(found, name)._asdict() for name in QUANTITIES}
    numbers |= {
        "polarisation_plus": coefficients.b_plus.tolist(),
        "polarisation_minus": coefficients.b_minus.tolist(),
        "correlation": coefficients.correlation.tolist(),
        "covariance": coefficients.covariance.tolist(),
        "convention": found.convention,
        "method": coefficients.method,
        "uncertainties": f"bootstrap of {replicas} replicas" if replicas else "propagation",
        "n_events": int(is_known.sum()),
        "n_left_out": int((~is_known).sum()),
        "entangled": found.entangled,
    }
    d = found.d_std
    summary = (
        f"D = tr C / 3 = {d.value:.3f} +- {d.uncertainty:.3f} (entangled below -1/3: "
        f"{-d.above(-1 / 3):.1f} standard deviations), {is_known.sum()} events, {(~is_known).sum()} left out"
    )
    return _report("entanglement", summary, numbers, plot_entanglement(found), Path(out))


def fit_limit_file(
    path: str | Path,
    out: str | Path,
    *,
    signal: str | None = None,
    backgrounds: Sequence[str] = (),
    data: str | None = None,
    uncertainties: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> FitReport:
    """Upper limit and discovery significance of a signal, from histograms or from a pyhf workspace.

    Parameters
    ----------
    path : path
        JSON file with a workspace, or ROOT file with histograms.
    out : path
        Folder for ``limit.json`` and ``limit.png``, and, from histograms, ``workspace.json``.
    signal, backgrounds, data : str and sequence of str
        Names of the histograms of a ROOT file; without data, the sum of the backgrounds stands for them.
    uncertainties : mapping of str to float, optional
        Relative uncertainty of the normalisation of each sample.
    level : float
        Confidence level.
    """
    path, out = Path(path), Path(out)
    if path.suffix == ".json":
        workspace = _read_json(path)
    else:
        if not signal or not backgrounds:
            msg = f"signal and backgrounds must name histograms of {path}; found {signal!r} and {list(backgrounds)}"
            raise InputError(msg)
        samples = {name: read_histogram(path, name) for name in (signal, *backgrounds)}
        names = {f"norm_{name}": {name: size} for name, size in (uncertainties or {}).items()}
        observed = {"region": read_histogram(path, data)} if data else None
        workspace = make_workspace(
            {"region": samples}, signal=signal, observed=observed, normalizations=names
        )
    limit: Limit = find_limit(workspace, level=level)
    discovery: Discovery = find_discovery(workspace)
    numbers = {
        "level": limit.level,
        "observed": limit.observed,
        "expected": limit.expected.tolist(),
        "tolerance": limit.tolerance,
        "significance": discovery.significance,
        "p_value": discovery.p_value,
        "expected_significance": discovery.expected,
    }
    summary = (
        f"signal strength below {limit.observed:.3g} at {100 * level:g} % (expected {limit.expected[2]:.3g}, "
        f"68 % of experiments {limit.expected[1]:.3g} to {limit.expected[3]:.3g}); Z = {discovery.significance:.2f}"
    )
    report = _report("limit", summary, numbers, plot_limit(limit), out)
    if path.suffix != ".json":
        _write_json(out / "workspace.json", workspace)
    return report


def _spectrum(path: str | Path, mass: str, binning: Binning | None, weight: str | None) -> dict[str, Any]:
    if Path(path).suffix == ".root":
        if binning is not None or weight is not None:
            msg = "bins and weights go with a table of events; a histogram has its own"
            raise InputError(msg)
        return {"spectrum": read_histogram(path, mass)}
    if binning is None:
        msg = f"bins must be given for a table of events such as {path}: LOW,HIGH,NUMBER in GeV"
        raise InputError(msg)
    columns = read_columns(path, [mass, *([weight] if weight else [])])
    weights = columns[weight] if weight else None
    return {"spectrum": columns[mass], "edges": binning.edges, "weights": weights}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot read the workspace {path}: {error}"
        raise FileError(msg) from error


def _write_json(path: Path, content: object) -> None:
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text(json.dumps(content, indent=1, default=float) + "\n", encoding="utf-8")
    fresh.replace(path)


def _report(name: str, summary: str, numbers: dict[str, Any], figure: Any, out: Path) -> FitReport:
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / f"{name}.json", numbers)
    drawn = out / f"{name}.png"
    save_figure(figure, drawn)
    return FitReport(summary, numbers, out / f"{name}.json", drawn)
