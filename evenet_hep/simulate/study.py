"""The physics of a simulated data set in one table and one figure.

``python -m evenet_hep.simulate.study DIR --out FOLDER`` reads what ``evenet-hep simulate --set all --out DIR`` wrote, takes
the samples that are there, and writes ``study.json`` and ``study.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import FileError
from evenet_hep.simulate.checks import (
    SimulatedEvents,
    dijet_masses,
    dimuon_masses,
    met_residuals,
    read_files,
    spin_check,
    spread,
    tag_rates,
    top_masses,
)
from evenet_hep.simulate.run import read_shards, summarize

FloatArray = npt.NDArray[np.float64]

UPSILON_WINDOW = (9.2, 9.7)  # GeV, around Upsilon(1S)
ISOLATED = (0.0, 0.15)


class MassCheck(NamedTuple):
    """A mass to look at: the sample, what is matched, and the true mass in GeV."""

    label: str
    what: str
    masses: Callable[[SimulatedEvents], FloatArray]
    true: float


def _dijets(pdg_id: int) -> Callable[[SimulatedEvents], FloatArray]:
    return lambda events: dijet_masses(events, pdg_id)


def _isolated_pairs(events: SimulatedEvents) -> FloatArray:
    return dimuon_masses(events, isolation=ISOLATED)


def _upsilon(events: SimulatedEvents) -> FloatArray:
    masses = dimuon_masses(events)
    return masses[(masses > UPSILON_WINDOW[0]) & (masses < UPSILON_WINDOW[1])]


MASS_CHECKS = (
    MassCheck("TT1L", "W -> qq", _dijets(24), 80.4),
    MassCheck("TT1L", "t -> bqq", top_masses, 172.5),
    MassCheck("TTHadronics", "t -> bqq", top_masses, 172.5),
    MassCheck("WZ_1L", "Z -> qq", _dijets(23), 91.2),
    MassCheck("ZZ_2L", "Z -> qq", _dijets(23), 91.2),
    MassCheck("ZH", "H -> bb, cc", _dijets(25), 125.0),
    MassCheck("haa4b_m_a30", "a -> bb", _dijets(36), 30.0),
    MassCheck("haa4b_m_a60", "a -> bb", _dijets(36), 60.0),
    MassCheck("xyh_m_x300_m_y80", "Y -> bb", _dijets(36), 80.0),
    MassCheck("xyh_m_x500_m_y90", "Y -> bb", _dijets(36), 90.0),
    MassCheck("xyh_m_x700_m_y200", "Y -> bb", _dijets(36), 200.0),
    MassCheck("xyh_m_x900_m_y400", "Y -> bb", _dijets(36), 400.0),
    MassCheck("DY_m_min50", "Z -> mumu", _isolated_pairs, 91.2),
    MassCheck("Upsilon", "Upsilon(1S) -> mumu", _upsilon, 9.46),
)


class Study(NamedTuple):
    """What :func:`study_data_set` finds.

    Parameters
    ----------
    masses : list of dict
        One entry per mass: sample, what, true, n, median, width (GeV).
    tag_rates : dict
        Per sample and flavour, at the medium working point.
    met : dict
        Per sample: width of measured minus true missing momentum along an axis, GeV.
    spin : dict
        Correlations before and after weighting, with the leading-order expectation; all pairs and below 400 GeV.
    cross_sections : dict
        Per sample: Pythia's and the reference, pb.
    """

    masses: list[dict[str, Any]]
    tag_rates: dict[str, dict[int, float]]
    met: dict[str, float]
    spin: dict[str, Any]
    cross_sections: dict[str, dict[str, Any]]


def study_data_set(folder: Path) -> Study:
    """Masses, tag rates, resolutions, spin correlations and cross-sections of the samples in a folder.

    Parameters
    ----------
    folder : Path
        Written by :func:`evenet_hep.simulate.run.simulate`; samples that are missing are left out.

    Returns
    -------
    Study
        Of the samples that are there.

    Raises
    ------
    FileError
        If there are none.
    """
    labels = (
        sorted(path.name for path in folder.iterdir() if any(path.glob("*_0000.json")))
        if folder.is_dir()
        else []
    )
    if not labels:
        msg = f"{folder} holds no simulated samples"
        raise FileError(msg)
    masses, rates, met, spin = [], {}, {}, {}
    for label in labels:
        events = read_files(sorted((folder / label).glob("*.root")))
        for check in (check for check in MASS_CHECKS if check.label == label):
            found = spread(check.masses(events))
            masses.append({"sample": label, "what": check.what, "true": check.true} | found._asdict())
        rates[label] = tag_rates(events, 0.2489)
        met[label] = spread(met_residuals(events)).width
        if label == "TT2L":
            spin = _spin(events)
    return Study(masses, rates, met, spin, _cross_sections(folder))


def _spin(events: SimulatedEvents) -> dict[str, Any]:
    cases = (("all", np.inf), ("below 400 GeV", 400.0))
    return {
        name: {
            when: spin_check(events, max_mass=limit, weighted=weighted)._asdict()
            for when, weighted in (("before", False), ("after", True))
        }
        for name, limit in cases
    }


def _cross_sections(folder: Path) -> dict[str, dict[str, Any]]:
    keys = ("cross_section_pb", "reference_pb", "events", "filter_efficiency", "cpu_seconds")
    return {
        label: {key: entry[key] for key in keys} for label, entry in summarize(read_shards(folder)).items()
    }


def draw_study(folder: Path, path: Path) -> None:
    """Masses of matched jets, spin correlations, missing momentum and the muon pairs, as one PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415  only who draws needs it

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    panels = {
        "jet pairs and triplets of tops": ["TT1L"],
        "a and Y to two b jets": ["haa4b_m_a30", "haa4b_m_a60", "xyh_m_x500_m_y90", "xyh_m_x700_m_y200"],
    }
    for axis, (title, labels) in zip(axes[0], panels.items(), strict=False):
        for check in (check for check in MASS_CHECKS if check.label in labels):
            files = sorted((folder / check.label).glob("*.root"))
            if files:
                _outline(
                    axis,
                    check.masses(read_files(files)),
                    np.linspace(0.0, 300.0, 76),
                    f"{check.label}: {check.what}",
                )
        axis.set(title=title, xlabel="mass [GeV]", ylabel="share per bin")
        axis.legend(fontsize=7)
    _draw_muons(axes[0, 2], axes[1, 2], folder)
    _draw_spin(axes[1, 0], folder)
    _draw_met(axes[1, 1], folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _outline(axis: Any, values: FloatArray, edges: FloatArray, label: str) -> None:
    counts, _ = np.histogram(values, edges)
    axis.stairs(counts / max(len(values), 1), edges, label=label)


def _draw_muons(upsilon: Any, z: Any, folder: Path) -> None:
    for axis, label, edges in (
        (upsilon, "Upsilon", np.linspace(8.5, 11.0, 76)),
        (z, "DY_m_min50", np.linspace(60.0, 120.0, 61)),
    ):
        files = sorted((folder / label).glob("*.root"))
        if files:
            _outline(axis, dimuon_masses(read_files(files)), edges, label)
            axis.legend(fontsize=7)
        axis.set(title="muon pairs", xlabel="mass [GeV]", ylabel="share per bin")


def _draw_spin(axis: Any, folder: Path) -> None:
    files = sorted((folder / "TT2L").glob("*.root"))
    axis.set(title="spin correlations below 400 GeV", ylabel="C")
    if not files:
        return
    found = _spin(read_files(files))["below 400 GeV"]
    names = ("kk", "rr", "nn")
    for offset, when in ((-0.1, "before"), (0.1, "after")):
        values = [found[when]["measured"][name] for name in names]
        axis.errorbar(
            np.arange(3) + offset, values, found[when]["uncertainty"], fmt="o", label=f"{when} weighting"
        )
    expected = [found["after"]["expected"][name] for name in names]
    axis.hlines(expected, np.arange(3) - 0.3, np.arange(3) + 0.3, color="black", label="leading order")
    axis.set_xticks(range(3), names)
    axis.legend(fontsize=7)


def _draw_met(axis: Any, folder: Path) -> None:
    for label in ("DY_m_min50", "TT2L", "TTHadronics", "QCD"):
        files = sorted((folder / label).glob("*.root"))
        if files:
            _outline(axis, met_residuals(read_files(files)), np.linspace(-80.0, 80.0, 81), label)
            axis.legend(fontsize=7)
    axis.set(title="missing momentum along an axis", xlabel="measured - true [GeV]", ylabel="share per bin")


def format_masses(study: Study) -> str:
    """The masses as a table for people.

    Examples
    --------
    >>> row = {"sample": "TT1L", "what": "W -> qq", "true": 80.4, "n": 900, "median": 79.6, "width": 13.2}
    >>> print(format_masses(Study([row], {}, {}, {}, {})))
    sample               what                   true   median    width        n
    TT1L                 W -> qq                80.4     79.6     13.2      900
    """
    lines = [f"{'sample':20} {'what':20} {'true':>6} {'median':>8} {'width':>8} {'n':>8}"]
    lines += [
        f"{row['sample']:20} {row['what']:20} {row['true']:6.1f} {_digits(row['median'])} {_digits(row['width'])} {row['n']:8d}"
        for row in study.masses
    ]
    return "\n".join(lines)


def _digits(value: float) -> str:
    return f"{value:8.1f}" if abs(value) >= 10.0 else f"{value:8.3f}"


def main(words: list[str] | None = None) -> None:
    """Study a folder from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evenet_hep.simulate.study", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(words)
    study = study_data_set(arguments.folder)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "study.json").write_text(json.dumps(study._asdict(), indent=1) + "\n")
    draw_study(arguments.folder, arguments.out / "study.png")
    print(format_masses(study))  # noqa: T201


if __name__ == "__main__":
    main()
