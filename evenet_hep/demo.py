"""The demonstration: scores of four small NanoAOD files, and a fit that finds the Upsilon; all come with the package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import uproot
from coffea import processor
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from evenet_hep.events.dimuons import read_dimuons
from evenet_hep.events.object_selection import select_objects
from evenet_hep.inference import Predictor
from evenet_hep.plot import plot_class_scores, plot_sideband, save_figure
from evenet_hep.processors.event_scores import EventScores, mean_probabilities
from evenet_hep.share import dimuon_file, sample_files
from evenet_hep.stats.sideband import SidebandFit, fit_sideband
from evenet_hep.stats.spectrum import mass_bins


class DemoResult(NamedTuple):
    """What the demonstration made.

    Parameters
    ----------
    data_sets : dict of str to dict
        Data set name -> accumulated output of ``EventScores``.
    figure : Path
        ``demo.png``.
    histograms : Path
        ``histograms.root``: per data set and class the distribution of the probability, with weights.
    tables : list of Path
        Parquet tables with the scores of every event.
    fit : SidebandFit
        Of the masses of every 20th muon pair of the shipped collision data, around the Upsilon.
    fit_figure : Path
        ``upsilon.png``.
    """

    data_sets: dict[str, dict[str, Any]]
    figure: Path
    histograms: Path
    tables: list[Path]
    fit: SidebandFit
    fit_figure: Path


def run_demo(out: str | Path) -> DemoResult:
    """Score the files of the package with the network of the package, in a coffea processor; then fit its dimuons.

    Parameters
    ----------
    out : str or Path
        Folder for tables, histograms and figure; made if it is not there.
    """
    out = Path(out)
    NanoAODSchema.warn_missing_crossrefs = False
    # coffea replaces mass and charge of photons and says so for every chunk.
    warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
    predict = Predictor("demo")
    _warm_up(predict)
    fileset = {name: {"files": {str(path): "Events"}} for name, path in sample_files().items()}
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=NanoAODSchema)
    data_sets = run(fileset, EventScores(predict, out=out, bins=10))
    data_sets = {name: data_sets[name] for name in fileset}
    scores = {name: content["scores"] for name, content in data_sets.items()}
    figure = plot_class_scores(
        scores, {name: mean_probabilities(data_sets[name]) for name in fileset}, focus="TT"
    )
    tables = [out / table for content in data_sets.values() for table in sorted(content["tables"])]
    fit = fit_upsilon()
    return DemoResult(
        data_sets,
        save_figure(figure, out / "demo.png"),
        _write_histograms(scores, out),
        tables,
        fit,
        save_figure(plot_sideband(fit), out / "upsilon.png"),
    )


def fit_upsilon(every: int = 20) -> SidebandFit:
    """Side-band fit of the shipped muon pairs: is there anything between 9.1 and 10.7 GeV?

    Parameters
    ----------
    every : int
        Take every so-manyth of the 20 000 pairs.

    Examples
    --------
    >>> fit = fit_upsilon(1)
    >>> print(f"{fit.signal:.0f} above {fit.expected:.0f}, Z = {fit.significance:.1f}")
    3891 above 6946, Z = 20.9
    """
    masses = read_dimuons(dimuon_file()).mass[::every]
    return fit_sideband(masses, edges=mass_bins((9.1, 10.7), (8.0, 12.0)), background=3)


def _write_histograms(scores: dict[str, Any], out: Path) -> Path:
    path = out / "histograms.root"
    with uproot.recreate(path) as file:
        for name, histogram in scores.items():
            for class_name in histogram.axes["class"]:
                file[f"{name.replace(' ', '_')}/{class_name}"] = histogram[{"class": class_name}]
    return path


def _warm_up(predict: Predictor) -> None:
    """Read the network and compile the kernels on a few events, so that the rates in the table are those of the work."""
    path = next(iter(sample_files().values()))
    events = NanoEventsFactory.from_root(
        {str(path): "Events"}, entry_stop=5, schemaclass=NanoAODSchema
    ).events()
    predict(events, collections=select_objects(events))
