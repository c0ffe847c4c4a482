"""Fits from the command line, on files made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from evenet_hep.errors import FileError, InputError
from evenet_hep.fitting import (
    COSINES,
    Binning,
    fit_entanglement_file,
    fit_limit_file,
    fit_sideband_file,
    read_columns,
    read_histogram,
    scan_sideband_file,
)

WINDOW = (9.2, 9.8)
BINNING = Binning(8.0, 12.0, 40)


@pytest.fixture
def masses(tmp_path: Path) -> Path:
    """4000 events of background, 300 of a peak at 9.5 GeV."""
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.uniform(8, 12, 4000), rng.normal(9.5, 0.1, 300)])
    pq.write_table(
        pa.table({"mass": values, "weight": np.full(len(values), 0.5)}), tmp_path / "masses.parquet"
    )
    return tmp_path / "masses.parquet"


@pytest.fixture
def histograms(tmp_path: Path, masses: Path) -> Path:
    """A mass spectrum, and samples of a search."""
    rng = np.random.default_rng(5)

    def filled(values: np.ndarray, weight: float) -> hist.Hist[Any]:
        histogram = hist.Hist(hist.axis.Regular(8, 0, 1, name="x"), storage=hist.storage.Weight())
        return histogram.fill(values, weight=weight)

    spectrum = hist.Hist(hist.axis.Regular(40, 8, 12, name="mass"), storage=hist.storage.Weight())
    with uproot.recreate(tmp_path / "histograms.root") as file:
        file["mass"] = spectrum.fill(read_columns(masses, ["mass"])["mass"])
        file["signal"] = filled(rng.beta(4, 1, 2000), 0.01)
        file["background"] = filled(rng.random(5000), 0.04)
        file["data"] = filled(rng.random(200), 1.0)
    return tmp_path / "histograms.root"


def assert_same_numbers(ours: dict[str, Any], theirs: dict[str, Any], *, rel: float) -> None:
    """Lists of numbers are compared one by one."""
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=rel, abs=1e-6), name


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evenet_hep.cli", "fit", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_side_bands_of_a_table_and_of_a_histogram_agree(
    masses: Path, histograms: Path, tmp_path: Path
) -> None:
    table = fit_sideband_file(
        masses, tmp_path / "a", mass="mass", window=WINDOW, binning=BINNING, background=1
    )
    binned = fit_sideband_file(histograms, tmp_path / "b", mass="mass", window=WINDOW, background=1)
    assert_same_numbers(table.numbers, binned.numbers, rel=1e-6)
    assert table.numbers["signal"] == pytest.approx(300, abs=4 * table.numbers["signal_uncertainty"])
    assert json.loads(table.json.read_text())["observed"] == table.numbers["observed"]
    assert table.figure.read_bytes().startswith(b"\x89PNG")
    weighted = fit_sideband_file(
        masses, tmp_path / "c", mass="mass", window=WINDOW, binning=BINNING, background=1, weight="weight"
    )
    assert weighted.numbers["observed"] == pytest.approx(table.numbers["observed"] / 2)
    assert weighted.numbers["significance"] == pytest.approx(table.numbers["significance"], rel=0.02)


def test_scan_finds_the_peak(masses: Path, tmp_path: Path) -> None:
    report = scan_sideband_file(
        masses, tmp_path, mass="mass", n_bins=4, binning=BINNING, background=1, n_toys=40, seed=1
    )
    low, high = report.numbers["best_window"]
    assert low < 9.5 < high
    assert report.numbers["p_global"] == pytest.approx(1 / 41)
    assert "none of 40 background toys has one like it" in report.summary


@pytest.mark.parametrize("replicas", [0, 50])
def test_entanglement_of_a_singlet(tmp_path: Path, replicas: int) -> None:
    rng = np.random.default_rng(8)
    directions = rng.normal(size=(2, 3, 60_000))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # A spin singlet with analysing powers 1 and -1: 1 + cos phi.
    keep = rng.random(60_000) * 2 < 1 + (directions[0] * directions[1]).sum(axis=0)
    angles = np.concatenate(list(directions))[:, keep]
    angles[0, :7] = np.nan
    pq.write_table(pa.table(dict(zip(COSINES, angles, strict=True))), tmp_path / "angles.parquet")
    report = fit_entanglement_file(tmp_path / "angles.parquet", tmp_path / "out", replicas=replicas)
    d = report.numbers["d_std"]
    assert d["value"] == pytest.approx(-1.0, abs=4 * d["uncertainty"])
    assert report.numbers["n_left_out"] == 7
    assert report.numbers["entangled"]
    assert report.figure.is_file()


def test_limit_from_histograms_and_from_their_workspace(histograms: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyhf")
    given = {"signal": "signal", "backgrounds": ["background"], "uncertainties": {"background": 0.1}}
    report = fit_limit_file(histograms, tmp_path / "a", **given)  # type: ignore[arg-type]
    again = fit_limit_file(tmp_path / "a" / "workspace.json", tmp_path / "b")
    assert_same_numbers(report.numbers, again.numbers, rel=1e-2)
    observed = fit_limit_file(histograms, tmp_path / "c", data="data", **given)  # type: ignore[arg-type]
    assert observed.numbers["expected"] != report.numbers["expected"]
    low, *_, high = report.numbers["expected"]
    assert low < report.numbers["observed"] < high


def test_commands_say_what_they_found(masses: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    words = [
        "--mass",
        "mass",
        "--bins",
        "8,12,40",
        "--window",
        "9.2",
        "9.8",
        "--background",
        "1",
        "--out",
        out,
    ]
    done = command("sideband", str(masses), *words)
    assert done.returncode == 0, done.stderr
    assert "expected from the side bands, Z = " in done.stdout
    assert (tmp_path / "out" / "sideband.png").is_file()
    for wrong, message in (
        (
            ["sideband", str(masses), *words[:3], "8,12", *words[4:]],
            "--bins must be LOW,HIGH,NUMBER; found '8,12'",
        ),
        (["sideband", str(masses), "--mass", "m", *words[2:]], "has no column m; it has mass, weight"),
        (
            [
                "limit",
                str(masses.parent / "nothing.root"),
                "--signal",
                "s",
                "--background",
                "b",
                "--out",
                out,
            ],
            "cannot read",
        ),
    ):
        done = command(*wrong)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_what_is_wrong_with_a_file_is_named(histograms: Path, masses: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match="no one-dimensional histogram 'm'; it has background, data, mass, signal"
    ):
        read_histogram(histograms, "m")
    with pytest.raises(InputError, match="bins must be given for a table of events"):
        fit_sideband_file(masses, tmp_path, mass="mass", window=WINDOW)
    with pytest.raises(InputError, match="bins and weights go with a table of events"):
        fit_sideband_file(histograms, tmp_path, mass="mass", window=WINDOW, binning=BINNING)
    with pytest.raises(InputError, match="cosines must be six columns"):
        fit_entanglement_file(masses, tmp_path, cosines=["mass"])
    with pytest.raises(InputError, match="signal and backgrounds must name histograms"):
        fit_limit_file(histograms, tmp_path, signal="signal")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FileError, match="cannot read the workspace"):
        fit_limit_file(tmp_path / "broken.json", tmp_path)
    (tmp_path / "text.csv").write_text("mass\nheavy\n")
    with pytest.raises(InputError, match="must be numbers"):
        read_columns(tmp_path / "text.csv", ["mass"])
