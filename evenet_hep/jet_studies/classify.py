"""Classify jets: a network against boosted trees on the same test jets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.events.jet_files import (
    JetTable,
)
from evenet_hep.jet_studies.shared import (
    JetRun,
    Say,
    Sources,
    labelled_parts,
    network_of,
    nothing,
    report_rows,
    training_of,
    write_result,
)
from evenet_hep.stats.metrics import area_under_curve
from evenet_hep.training.jets import (
    probabilities_of,
    sample_of,
    train_jets,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RESAMPLES = 200  # of the test jets, for the uncertainty of a difference


class JetClassification(NamedTuple):
    """A network and, on the same test jets, boosted trees on substructure.

    Parameters
    ----------
    auc, trees_auc : dict of str to tuple of two floats
        Area under the curve of each class against the rest, and its uncertainty; empty without trees.
    gain, gain_uncertainty : float
        Mean over the classes of network minus trees, and its uncertainty by resampling the test jets, which both share.
    accuracy : float
        Of the network.
    jets : tuple of three ints
        Training, validation and test jets.
    """

    auc: dict[str, tuple[float, float]]
    trees_auc: dict[str, tuple[float, float]]
    gain: float
    gain_uncertainty: float
    accuracy: float
    jets: tuple[int, int, int]


def classify_jets(
    sources: Sources,
    classes: Sequence[str],
    out: str | Path,
    run: JetRun | None = None,
    *,
    trees: bool = True,
    say: Say = nothing,
) -> JetClassification:
    """Train a network to tell jets apart, and compare it with boosted trees on the same test jets.

    Parameters
    ----------
    sources : sequence of path
        ROOT files or folders.
    classes : sequence of str
        Kinds of jets, as in :data:`~evenet_hep.events.jet_files.JET_KINDS`.
    out : path
        Folder for the run.
    run : JetRun, optional
        Which jets, which network.
    trees : bool
        Train the trees of the extra ``baselines`` on mass, soft-drop mass, tau21, tau32 and multiplicity.
    say : callable
        Called with lines for a person.

    Returns
    -------
    JetClassification
    """
    chosen, home = run or JetRun(), Path(out)
    parts = labelled_parts(sources, classes, chosen, say)
    samples = [sample_of(table.cloud, label) for table, label in parts]
    model = network_of(chosen, classes, parts[0][0], jets=1)
    result = train_jets(
        model, samples[0], samples[1], training_of(chosen), folder=home / "network", progress=report_rows(say)
    )
    probability = probabilities_of(result.model, samples[2]).double().numpy()
    label = parts[2][1]
    compared = _tree_probabilities(parts, chosen.training.seed) if trees else None
    gain = (float("nan"), float("nan")) if compared is None else _gain(label, probability, compared, chosen)
    found = JetClassification(
        auc=_areas(label, probability, classes),
        trees_auc={} if compared is None else _areas(label, compared, classes),
        gain=gain[0],
        gain_uncertainty=gain[1],
        accuracy=float((probability.argmax(axis=1) == label).mean()),
        jets=(len(samples[0].label), len(samples[1].label), len(label)),
    )
    write_result(home, found._asdict())
    from evenet_hep.plot import plot_roc, save_figure  # noqa: PLC0415  matplotlib takes a second

    others = {} if compared is None else {"boosted trees": compared}
    save_figure(plot_roc(label, probability, tuple(classes), compared=others), home / "roc.png")
    return found


def _areas(
    label: IntArray, probability: FloatArray, classes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    found = {}
    for number, name in enumerate(classes):
        area = area_under_curve((label == number).astype(int), probability[:, number])
        found[name] = (area.value, area.uncertainty)
    return found


def _tree_probabilities(parts: list[tuple[JetTable, IntArray]], seed: int) -> FloatArray:
    from evenet_hep.baselines.xgboost import XgboostConfig, fit_xgboost  # noqa: PLC0415  an extra

    (training, label), (validation, other), (test, _) = parts
    trees = fit_xgboost(
        training.substructure,
        label,
        validation=(validation.substructure, other, None),
        config=XgboostConfig(seed=seed),
    )
    return trees.predict(test.substructure)


def _gain(label: IntArray, network: FloatArray, trees: FloatArray, run: JetRun) -> tuple[float, float]:
    rng = np.random.default_rng(run.training.seed)

    def difference(rows: IntArray) -> float:
        gains = [
            area_under_curve((label[rows] == k).astype(int), network[rows, k]).value
            - area_under_curve((label[rows] == k).astype(int), trees[rows, k]).value
            for k in range(network.shape[1])
        ]
        return float(np.mean(gains))

    n = len(label)
    spread = np.std([difference(rng.integers(0, n, n)) for _ in range(RESAMPLES)], ddof=1)
    return difference(np.arange(n)), float(spread)
