"""Search for a resonance of two jets with classifiers between a window and its side bands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from evenet_hep.errors import ConfigError, InputError
from evenet_hep.events.jet_files import JetPairs, join_tables, read_jet_pairs
from evenet_hep.jet_studies.shared import (
    JetRun,
    Say,
    Sources,
    find_all,
    network_of,
    nothing,
    report_folds,
    schema_of,
    training_of,
    write_result,
)
from evenet_hep.model.jets import JetNetwork
from evenet_hep.schema import EventSchema
from evenet_hep.stats.cwola import CwolaConfig, CwolaSearch, NullToys, null_toys, search_cwola, tree_scorer
from evenet_hep.stats.weak import WeakConfig
from evenet_hep.training.jet_scores import network_scorer
from evenet_hep.training.jets import sample_of

FloatArray = npt.NDArray[np.float64]

SCALE = 3500.0  # GeV, to which the momenta of pairs are scaled in searches
POOR_FIT = 1e-3  # p-value of the fit to the side bands below which it is called one that does not fit


class JetSearch(NamedTuple):
    """A search for a resonance of two jets.

    Parameters
    ----------
    found : CwolaSearch
        With the greatest significance of its cuts.
    toys : NullToys or None
        The same without a signal.
    n_background, n_signal : int
        Events that take part; signal that was injected.
    """

    found: CwolaSearch
    toys: NullToys | None
    n_background: int
    n_signal: int


def search_jets(
    background: Sources,
    signal: Sources,
    out: str | Path,
    config: CwolaConfig,
    run: JetRun | None = None,
    *,
    n_signal: int = 0,
    method: str = "trees",
    weak: WeakConfig | None = None,
    n_folds: int = 5,
    n_toys: int = 0,
    say: Say = nothing,
) -> JetSearch:
    """Search for a resonance of two jets with classifiers between window and side bands.

    Momenta of every event are scaled to the same mass of the pair, so that classifiers cannot read it off them.

    Parameters
    ----------
    background, signal : sequence of path
        Files of both; of the signal ``n_signal`` events are injected. Data may stand for the background, without signal.
    out : path
        Folder for the run.
    config : CwolaConfig
        Window, side bands and cuts.
    run : JetRun, optional
        Which jets; with ``method="network"`` also which network, which reads both jets.
    n_signal : int
        Events to inject, drawn at random.
    method : {"trees", "network"}
        Boosted trees on the substructure of both jets, or networks on their constituents.
    weak : WeakConfig, optional
        Of the trees.
    n_folds : int
        Of the networks.
    n_toys : int
        Searches without a signal, for the p-value; with trees only.
    say : callable
        Called with lines for a person.

    Returns
    -------
    JetSearch
    """
    if method not in ("trees", "network") or (n_toys and method == "network"):
        msg = f"method must be trees or network, and toys are made with trees; found {method!r} and {n_toys} toys"
        raise ConfigError(msg)
    chosen, home = run or JetRun(), Path(out)
    if method == "trees":  # they need no constituents in memory
        chosen = dataclasses.replace(chosen, capacity=1, pretrained=None)
    schema = schema_of(chosen, ("side band", "signal region"))
    pairs = read_jet_pairs(find_all(background), schema, chosen.selection, scaled_to=SCALE)
    is_signal = np.zeros(len(pairs.mass), bool)
    if n_signal:
        pairs, is_signal = _injected(pairs, signal, schema, chosen, n_signal)
    say(f"{len(pairs.mass)} events with two jets, {int(is_signal.sum())} of them injected")
    if method == "trees":
        scorer = tree_scorer(_pair_features(pairs), weak)
    else:
        sample = sample_of(pairs.jets.cloud, np.zeros(len(pairs.mass), np.int64), jets=2)

        def make() -> JetNetwork:
            return network_of(chosen, schema.classes, pairs.jets, jets=2)

        scorer = network_scorer(
            sample, make, config=training_of(chosen, classify=True), n_folds=n_folds, folder=home / "networks",
            progress=report_folds(say, n_folds),
        )  # fmt: skip
    found = search_cwola(pairs.mass, scorer, config, is_signal=is_signal if n_signal else None)
    say(f"significance {found.significance:.2f} after cuts, {found.uncut.significance:.2f} in the mass alone")
    if (quality := _fit_quality(found)) < POOR_FIT:
        say(
            f"the background ({config.background}) does not follow the side bands (p = {quality:.1g}): "
            "significances of the mass alone mean nothing; choose another one"
        )
    toys = None
    if n_toys:
        toys = null_toys(
            pairs.mass, scorer, config, n_toys=n_toys, observed=found.significance, seed=chosen.training.seed,
            progress=lambda toy, z: say(f"toy {toy + 1} of {n_toys}: {z:.2f}"),
        )  # fmt: skip
    result = JetSearch(found, toys, int((~is_signal).sum()), int(is_signal.sum()))
    write_result(home, _search_summary(result))
    home.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        home / "scores.npz", mass=pairs.mass[found.rows], score=found.scores, is_signal=is_signal[found.rows]
    )
    _draw_search(result, home)
    return result


def _injected(
    pairs: JetPairs, signal: Sources, schema: EventSchema, run: JetRun, n_signal: int
) -> tuple[JetPairs, npt.NDArray[np.bool_]]:
    added = read_jet_pairs(find_all(signal), schema, run.selection, scaled_to=SCALE)
    if len(added.mass) < n_signal:
        msg = f"{n_signal} signal events are asked for; the files have {len(added.mass)} with two jets"
        raise InputError(msg)
    rows = np.sort(np.random.default_rng(run.training.seed).permutation(len(added.mass))[:n_signal])
    jets = added.jets.take(np.stack([2 * rows, 2 * rows + 1], axis=1).ravel())
    both = JetPairs(join_tables([pairs.jets, jets]), np.append(pairs.mass, added.mass[rows]))
    return both, np.arange(len(both.mass)) >= len(pairs.mass)


def _pair_features(pairs: JetPairs) -> FloatArray:
    """Substructure of both jets, side by side: the heavier one first."""
    table = pairs.jets.substructure
    return table.reshape(-1, 2 * table.shape[1])


def _fit_quality(found: CwolaSearch) -> float:
    """P-value of the fit to the side bands before any cut."""
    return float(chi2.sf(found.uncut.deviance, found.uncut.n_dof))


def _search_summary(result: JetSearch) -> dict[str, Any]:
    found, toys = result.found, result.toys
    return {
        "significance": found.significance,
        "significance_of_the_mass_alone": found.uncut.significance,
        "p_value_of_the_background_fit": _fit_quality(found),
        "cuts": [
            {
                "background_efficiency": cut.background_efficiency,
                "threshold": cut.threshold,
                "observed": cut.fit.observed if cut.fit else None,
                "expected": cut.fit.expected if cut.fit else None,
                "significance": cut.fit.significance if cut.fit else None,
                "failure": cut.failure,
            }
            for cut in found.cuts
        ],
        "maximum_sic": found.sic._asdict() if found.sic else None,
        "p_value": toys.p_value if toys else None,
        "toys": toys.significances.tolist() if toys else [],
        "n_background": result.n_background,
        "n_signal": result.n_signal,
    }


def _draw_search(result: JetSearch, home: Path) -> None:
    from evenet_hep.plot import plot_sideband, save_figure  # noqa: PLC0415  matplotlib takes a second

    fitted = [cut for cut in result.found.cuts if cut.fit is not None]
    save_figure(plot_sideband(result.found.uncut), home / "mass.png")
    if fitted:
        best = max(fitted, key=lambda cut: cut.fit.significance if cut.fit else 0.0)
        if best.fit is not None:
            save_figure(plot_sideband(best.fit), home / "mass-after-the-best-cut.png")
