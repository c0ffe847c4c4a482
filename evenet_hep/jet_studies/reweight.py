"""Reweight one simulation into another by the likelihood ratio of networks or trees."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenet_hep.errors import ConfigError
from evenet_hep.events.jet_files import read_jets
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
from evenet_hep.stats.weak import WeakConfig
from evenet_hep.training.jet_scores import (
    Reweighting,
    closure_features,
    reweight_jets,
    reweight_with_trees,
)
from evenet_hep.training.jets import JetSample, sample_of


def reweight_simulations(
    source: Sources,
    target: Sources,
    out: str | Path,
    run: JetRun | None = None,
    *,
    method: str = "network",
    weak: WeakConfig | None = None,
    n_folds: int = 5,
    say: Say = nothing,
) -> Reweighting:
    """Weights that make the jets of one simulation look like those of another.

    Parameters
    ----------
    source, target : sequence of path
        Files of both.
    out : path
        Folder for the run; ``weights.npz`` holds the weights of the source's jets and the numbers of their events,
        ``closure.png`` shows the features before and after.
    run : JetRun, optional
        Which jets, which network.
    method : {"network", "trees"}
        Networks on constituents, or boosted trees on substructure and pT.
    weak : WeakConfig, optional
        Of the trees.
    n_folds : int
        Of the networks.
    say : callable
        Called with lines for a person.

    Returns
    -------
    Reweighting
        Triangular discriminators of mass, soft-drop mass, tau21, tau32, multiplicity and pT.
    """
    if method not in ("trees", "network"):
        msg = f"method must be trees or network; found {method!r}"
        raise ConfigError(msg)
    chosen, home = run or JetRun(), Path(out)
    schema = schema_of(chosen, ("source", "target"))
    tables = [read_jets(find_all(files), schema, chosen.selection) for files in (target, source)]
    say(f"{len(tables[1].truth)} jets to be like {len(tables[0].truth)} others")
    columns = [closure_features(table.substructure, table.momentum) for table in tables]
    if method == "trees":
        found = reweight_with_trees(columns[0], columns[1], config=weak)
    else:

        def make() -> JetNetwork:
            return network_of(chosen, schema.classes, tables[1], jets=1)

        samples: list[JetSample] = [
            sample_of(table.cloud, np.zeros(len(table.truth), np.int64)) for table in tables
        ]
        found = reweight_jets(
            samples[0], samples[1], make, target_features=columns[0], source_features=columns[1],
            config=training_of(chosen, classify=True), n_folds=n_folds, folder=home / "networks",
            progress=report_folds(say, n_folds),
        )  # fmt: skip
    names = ("mass", "softdrop_mass", "tau21", "tau32", "multiplicity", "pt")
    closure = {
        name: {"before": b, "after": a, "floor": f}
        for name, b, a, f in zip(names, *(x.tolist() for x in found.closure), strict=True)
    }
    write_result(home, {"triangular_discriminators": closure, "jets": [len(x) for x in columns]})
    np.savez_compressed(home / "weights.npz", weight=found.weights, event=tables[1].event)
    from evenet_hep.jet_studies.figures import plot_reweighting  # noqa: PLC0415  matplotlib takes a second
    from evenet_hep.plot import save_figure  # noqa: PLC0415

    save_figure(plot_reweighting(columns[0], columns[1], {method: found.weights}), home / "closure.png")
    return found
