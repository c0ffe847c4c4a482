"""Figures of fits hold what they should show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenet_hep.plot import plot_linear_fit, plot_unfolded
from evenet_hep.stats.response import fill_response
from evenet_hep.stats.spin_fits import fit_entanglement
from evenet_hep.stats.unfold import unfold_bayes


def test_line_through_a_distribution_of_angles() -> None:
    found = fit_entanglement(([300, 400, 500], [-1.0, -1 / 3, 1 / 3, 1.0]))
    figure = plot_linear_fit(found.fit, xlabel="cos phi")
    (panel,) = figure.axes
    assert panel.get_xlabel() == "cos phi"
    legend = panel.get_legend()
    assert legend is not None
    assert any(f"{found.d_std:.3f}" in text.get_text() for text in legend.get_texts())


def test_unfolded_spectrum_with_truth_and_folded_result(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 1, 20_000)
    measured = truth + rng.normal(0, 0.3, truth.size)
    edges = np.linspace(-2, 2, 9)
    response = fill_response(measured, truth, truth_edges=edges, reco_edges=edges)
    found = unfold_bayes((np.histogram(measured, edges)[0], edges), response)
    figure = plot_unfolded(found, truth=np.histogram(truth, edges)[0])
    labels = [
        text.get_text()
        for axes in figure.axes
        if (legend := axes.get_legend())
        for text in legend.get_texts()
    ]
    assert set(labels) == {"truth", "unfolded (bayes)", "result, folded", "measured"}
    figure.savefig(tmp_path / "unfolded.png")
