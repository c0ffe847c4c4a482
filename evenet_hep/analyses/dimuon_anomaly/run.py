"""The whole dimuon search: from muon pairs to tables, figures and a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evenet_hep.analyses.dimuon_anomaly.config import DimuonAnomalyConfig
from evenet_hep.analyses.dimuon_anomaly.figures import (
    NO_NETWORK,
    label_of,
    plot_false_positives,
    plot_features,
    plot_injections,
    plot_significance,
    plot_spectra,
)
from evenet_hep.analyses.dimuon_anomaly.generator import pretrain_network
from evenet_hep.analyses.dimuon_anomaly.search import (
    in_window,
    make_generator,
    seed_of,
    side_band_quality,
    whole_search,
)
from evenet_hep.analyses.dimuon_anomaly.studies import Bench, Row, runner, tasks_of
from evenet_hep.analyses.folder import AnalysisFolder, AnalysisReport
from evenet_hep.analyses.samples import read_samples, run_processor
from evenet_hep.analyses.stability import Stability, plot_stability
from evenet_hep.errors import InputError
from evenet_hep.events.dimuons import DimuonPairs, pair_features, read_dimuons
from evenet_hep.model.evenet import EveNet
from evenet_hep.processors.dimuon_anomaly import DimuonAnomaly, pairs_in
from evenet_hep.share import dimuon_file
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.stats.weak import train_weak_classifiers

FloatArray = npt.NDArray[np.float64]

# Sets of features whose knowledge of the mass is compared; the second is what the released code keeps.
FEATURE_SETS = {
    "eta and HT (published without impact parameters)": ("eta_leading", "eta_trailing", "ht"),
    "the same with Delta R": ("eta_leading", "eta_trailing", "ht", "delta_r"),
}
FALSE_POSITIVE_Z = 1.6449  # a probability of 5 %


def analyse_dimuon(
    config: DimuonAnomalyConfig | None = None,
    out: str | Path = "dimuon-anomaly",
    *,
    events: str | Path | None = None,
    progress: bool = False,
) -> AnalysisReport:
    """Search dimuons for a resonance, with and without a generated background, and test the search.

    Half of the pairs (every second one) are for development: a network is pretrained on muons mixed from them, and the
    features were chosen on them. Everything that is reported comes from the other half.

    Parameters
    ----------
    config : DimuonAnomalyConfig, optional
    out : path
        Folder for results. A folder with results of the same settings is completed.
    events : path, optional
        Parquet table of pairs, NanoAOD files in a folder or in a YAML list of samples; the real data that come with the
        package by default.
    progress : bool
        Draw bars.

    Returns
    -------
    AnalysisReport
        Tables ``significance``, ``false_positives``, ``closure``, ``bootstraps``, ``momentum_scale``, ``combinations``,
        ``controls``, ``generators`` and ``mass_knowledge``, and one of the single searches per study.

    Raises
    ------
    InputError
        For too few events, or none in a side band.
    ConfigError, FileError
        For a folder with results of other settings, or files that cannot be read.
    """
    config = config or DimuonAnomalyConfig()
    everything, same_sign, source = read_events(events, config)
    folder = AnalysisFolder(out, config)
    development, searched = (everything.take(slice(k, None, 2)) for k in (0, 1))
    if min(development.n, searched.n) < 200:
        msg = f"the search needs at least 400 pairs of opposite sign in its span; found {everything.n}"
        raise InputError(msg)
    checkpoint = folder.home("pretrained") / "network" if "pretrained" in config.methods else None
    if checkpoint is not None and not (checkpoint / "config.json").is_file():
        network = pretrain_network(
            development, config.generator, span=config.region.span, seed=seed_of(config.seed, "pretraining")
        )
        network.save_pretrained(checkpoint)
    bench = Bench(config, searched, everything.n, same_sign, checkpoint)
    folder.table("generators", _generators(folder, bench))
    folder.table("mass_knowledge", _mass_knowledge(folder, development, config))
    rows: dict[str, list[Row]] = {}
    with runner(bench, progress=progress) as run:
        for name, tasks in tasks_of(config).items():
            rows[name] = run.rows(folder, name, tasks)
            folder.table(f"searches_{name}", rows[name])
    return _report(folder, bench, rows, source)


def read_events(
    events: str | Path | None, config: DimuonAnomalyConfig
) -> tuple[DimuonPairs, DimuonPairs | None, str]:
    """Pairs of opposite sign, real pairs of same sign if there are any, and a word about where they come from."""
    if events is None:
        found, source = read_dimuons(dimuon_file()), "CMS dimuons of 2011 (CC0), 8 to 12 GeV"
    elif Path(events).suffix == ".parquet":
        found, source = read_dimuons(events), str(events)
    else:
        out = run_processor(read_samples(events), DimuonAnomaly(triggers=config.triggers), cores=config.cores)
        found, source = pairs_in(out), str(events)
    mass = found.mass
    found = found.take((mass > config.region.span[0]) & (mass < config.region.span[1]))
    is_opposite = found.is_opposite_sign
    same = found.take(~is_opposite)
    return found.take(is_opposite), same if same.n >= 400 else None, source


def _generators(folder: AnalysisFolder, bench: Bench) -> list[Row]:
    """Quality of every generator in side bands it has not seen, and the figures of one subsample."""
    config = bench.config

    def compute() -> dict[str, Any]:
        pairs = bench.subsample(config.fraction, 0)
        seen = set(pairs.mass.tolist())
        unseen = bench.pairs.take(np.array([m not in seen for m in bench.pairs.mass.tolist()]))
        # As many as the generators were trained on would do; more make the distances sharper.
        unseen = unseen.take(slice(4 * pairs.n))
        network = None if bench.checkpoint is None else EveNet.from_pretrained(bench.checkpoint).eval()
        rows: list[Row] = []
        drawn: dict[str, FloatArray] = {}
        for method in config.methods:
            seed = seed_of(config.seed, "quality", method)
            generator = make_generator(pairs, method, config, seed=seed, pretrained=network)
            quality = side_band_quality(unseen, generator, config, seed=seed)
            rows.append({"generator": label_of(method), **quality})
            drawn[method] = generator(unseen.take(~in_window(unseen, config.region)).mass, seed).features
        real = pair_features(unseen.take(~in_window(unseen, config.region)), config.features)
        folder.figure("features", plot_features(real, drawn, config.features))
        method = config.methods[0]
        found = whole_search(pairs, method, config, seed=seed_of(config.seed, "spectra"), pretrained=network)
        folder.figure("spectra", plot_spectra(found))
        return {"rows": rows}

    found = folder.step("generators", compute)["rows"]
    folder.figures = [folder.out / f"{name}.png" for name in ("features", "spectra")]
    return list(found)


def _mass_knowledge(folder: AnalysisFolder, pairs: DimuonPairs, config: DimuonAnomalyConfig) -> list[Row]:
    """How well trees tell the lower from the upper side band: features that know the mass sculpt the spectrum."""

    def compute() -> dict[str, Any]:
        low, high = (
            pairs.take(side)
            for side in (pairs.mass < config.region.window[0], pairs.mass > config.region.window[1])
        )
        rows = []
        for name, features in {"of this analysis": config.features, **FEATURE_SETS}.items():
            found = train_weak_classifiers(
                pair_features(high, features), pair_features(low, features), config=config.trees
            )
            labels = np.repeat([1, 0], [len(found.data), len(found.reference)])
            auc = area_under_curve(labels, np.append(found.data, found.reference))
            rows.append(
                {
                    "features": name,
                    "names": " ".join(features),
                    "auc": float(auc.value),
                    "error": float(auc.uncertainty),
                }
            )
        return {"rows": rows}

    return list(folder.step("mass_knowledge", compute)["rows"])


def _report(
    folder: AnalysisFolder, bench: Bench, rows: Mapping[str, list[Row]], source: str
) -> AnalysisReport:
    config = bench.config
    folder.figure("significance", plot_significance(rows["subsamples"]))
    folder.figure("false_positives", plot_false_positives(rows["false_positives"]))
    if rows["injections"]:
        cut = f"cut_{100 * config.efficiencies[-1]:g}"
        folder.figure("injections", plot_injections(rows["injections"], cut))
    significance = significance_table(rows["subsamples"])
    false_positives = false_positive_table(rows["false_positives"])
    folder.table("significance", significance)
    folder.table("false_positives", false_positives)
    folder.table("closure", closure_table([*rows["false_positives"], *rows["injections"]], config))
    bootstraps = [bootstrap_row(name, rows[f"{name}_bootstrap"]) for name in ("data", "generator")]
    folder.table("bootstraps", bootstraps)
    folder.table("controls", [_short(row) for row in rows["control_windows"]])
    folder.table("combinations", [_short(row) for row in rows["combinations"]])
    stability = _stability(folder, rows["momentum_scale"], bootstraps[0])
    main = next(
        row for row in significance
        if row["generator"] == label_of(config.methods[0]) and row["fraction"] == max(config.fractions)
    )  # fmt: skip
    alone = next(
        row for row in significance if row["generator"] == NO_NETWORK and row["fraction"] == main["fraction"]
    )
    rate = false_positives[1] if len(false_positives) > 1 else false_positives[0]
    summary = (
        f"{source}: in subsamples of {100 * main['fraction']:g} % the mass spectrum alone gives Z = {alone['median']:.2f} "
        f"[{alone['lower']:.2f}, {alone['upper']:.2f}] (median and central 68 % of {alone['n']} subsamples), with the "
        f"{main['generator']} {main['median']:.2f} [{main['lower']:.2f}, {main['upper']:.2f}]. Without a resonance "
        f"{rate['above']} of {rate['toys']} samples exceed Z = {FALSE_POSITIVE_Z:.2f} with it, for 5 % expected."
    )
    numbers = {"source": source, "pairs": bench.total, "significance": significance,
               "false_positives": false_positives, "bootstraps": bootstraps, "momentum_scale": stability,
               "soft_met": "does not enter: the search uses muons alone"}  # fmt: skip
    return folder.report(summary, numbers)


def significance_table(rows: Sequence[Row]) -> list[Row]:
    """Median and central 68 % of the significance over subsamples, by size and method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = []
    for fraction in sorted({row["fraction"] for row in rows}):
        here = [row for row in rows if row["fraction"] == fraction]
        columns = [(NO_NETWORK, methods[0], "z_uncut")]
        columns += [(label_of(method), method, "z_weighted") for method in methods]
        for name, method, column in columns:
            z = np.array([row[column] for row in here if row["method"] == method], np.float64)
            if not len(z):
                continue
            lower, median, upper = np.nanquantile(z, [0.16, 0.5, 0.84])
            base = np.array([row["z_uncut"] for row in here if row["method"] == method], np.float64)
            table.append({
                "fraction": fraction, "pairs": here[0]["n_pairs"], "generator": name, "n": len(z),
                "median": float(median), "lower": float(lower), "upper": float(upper),
                "mean_gain": float(np.mean(z - base)), "gain_error": float(np.std(z - base) / np.sqrt(len(z))),
            })  # fmt: skip
    return table


def false_positive_table(rows: Sequence[Row]) -> list[Row]:
    """How many samples without a resonance exceed a significance of 5 % probability, with a binomial error."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = [(NO_NETWORK, methods[0], "z_uncut")]
    columns += [(label_of(method), method, "z_weighted") for method in methods]
    table = []
    for name, method, column in columns:
        z = np.array([row[column] for row in rows if row["method"] == method], np.float64)
        above, n = int((z > FALSE_POSITIVE_Z).sum()), len(z)
        rate = (above + 1) / (n + 2)  # Laplace: never an error of zero
        table.append({"generator": name, "toys": n, "above": above, "rate": above / n,
                      "error": float(np.sqrt(rate * (1 - rate) / n)), "expected": 0.05, "largest": float(z.max())})  # fmt: skip
    return table


def closure_table(rows: Sequence[Row], config: DimuonAnomalyConfig) -> list[Row]:
    """Mean and width of the pulls of the fitted signal, by injected strength, without and with cuts on the score."""
    cuts = [f"cut_{100 * efficiency:g}" for efficiency in config.efficiencies]
    columns = [("none", "injected", "signal", "signal_error")]
    columns += [(cut, f"injected_{cut}", f"signal_{cut}", f"error_{cut}") for cut in cuts]
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for strength in sorted({row["injected_mean"] for row in rows}):
            here = [row for row in rows if row["method"] == method and row["injected_mean"] == strength]
            for cut, truth, value, error in columns:
                triples = np.array([[row[truth], row[value], row[error]] for row in here], np.float64)
                triples = triples[np.isfinite(triples).all(axis=1)]
                if not len(triples):
                    continue
                pulls = (triples[:, 1] - triples[:, 0]) / triples[:, 2]
                table.append({
                    "generator": label_of(method), "injected": strength, "cut": cut, "samples": len(pulls),
                    "mean_injected": float(triples[:, 0].mean()), "mean_fitted": float(triples[:, 1].mean()),
                    "mean_pull": float(pulls.mean()), "mean_pull_error": float(pulls.std() / np.sqrt(len(pulls))),
                    "pull_width": float(pulls.std()),
                })  # fmt: skip
    return table


def bootstrap_row(resample: str, rows: Sequence[Row]) -> Row:
    """Median and central 68 % of one kind of bootstrap, with its name."""
    meaning = {
        "data": "statistical error",
        "generator": "spread of training and sampling, no statistical error",
    }
    found: Row = {"resample": resample, "meaning": meaning[resample], "n": len(rows)}
    for column in ("z_uncut", "z_weighted"):
        lower, median, upper = np.nanquantile([row[column] for row in rows], [0.16, 0.5, 0.84])
        found |= {
            f"{column}_median": float(median),
            f"{column}_lower": float(lower),
            f"{column}_upper": float(upper),
        }
    return found


def _stability(folder: AnalysisFolder, rows: Sequence[Row], statistical: Row) -> Row:
    nominal, shifted = rows[0], rows[1:]
    found = {}
    results = []
    for name, column in (("mass spectrum alone", "z_uncut"), ("weighted", "z_weighted")):
        error = (statistical[f"{column}_upper"] - statistical[f"{column}_lower"]) / 2
        moved = Stability(
            "muon momentum scale", nominal[column], max(error, 1e-6),
            np.array([row["shift"] for row in shifted]), np.array([row[column] for row in shifted]),
        )  # fmt: skip
        results.append((name, moved))
        found[name] = moved.to_dict()
    folder.figure("momentum_scale", plot_stability(results, quantity="Z"))
    folder.table("momentum_scale", [{"search": name, **numbers} for name, numbers in found.items()])
    return found


def _short(row: Row) -> Row:
    kept = ("combination", "window", "method", "n_pairs", "observed", "expected", "z_uncut", "z_weighted")
    return {name: row[name] for name in kept if name in row}
