"""A report of a run: one HTML page with its figures beside it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from evenet_hep.evaluation.evaluate import Evaluation
from evenet_hep.evaluation.figures import (
    plot_calibration,
    plot_class_curves,
    plot_confusion,
    plot_history,
    plot_neutrinos,
    plot_pairing,
)
from evenet_hep.plot import save_figure
from evenet_hep.training.history import History, write_text

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{background:#f6f6f6;padding:1em}"
)


def write_report(
    folder: str | Path,
    *,
    title: str,
    history: History | None = None,
    evaluation: Evaluation | None = None,
    settings: str = "",
) -> Path:
    """Write ``index.html`` and its figures.

    Parameters
    ----------
    folder : path
        Created if needed; files of an earlier report are replaced.
    title : str
        Heading of the page.
    history : History, optional
        Course of the run.
    evaluation : Evaluation, optional
        Of the trained network. What the network has no head for is left out.
    settings : str
        Text to be shown as it is, such as the configuration.

    Returns
    -------
    Path
        Of the page.
    """
    home = Path(folder)
    sections = []
    for name, heading, figure in _figures(history, evaluation):
        save_figure(figure, home / f"{name}.png")
        sections.append(
            f'<h2>{html.escape(heading)}</h2>\n<img src="{name}.png" alt="{html.escape(heading)}">'
        )
    if evaluation is not None:
        sections.insert(0, _table(evaluation))
        evaluation.to_json(home / "metrics.json")
    if settings:
        sections.append(f"<h2>Settings</h2>\n<pre>{html.escape(settings)}</pre>")
    head = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = home / "index.html"
    write_text(page, f"{head}\n<h1>{html.escape(title)}</h1>\n" + "\n".join(sections) + "\n</html>\n")
    return page


def _figures(history: History | None, evaluation: Evaluation | None) -> Iterator[tuple[str, str, Figure]]:
    if history is not None and history.epochs:
        yield "history", "Course of the run", plot_history(history)
    if evaluation is None:
        return
    if evaluation.scores is not None:
        yield "classes", "Each class against the others", plot_class_curves(evaluation.scores)
        yield "confusion", "Confusion", plot_confusion(evaluation.scores)
        yield "calibration", "Calibration", plot_calibration(evaluation.scores)
    if evaluation.pairing:
        yield "pairing", "Pairing", plot_pairing(evaluation.pairing)
    if evaluation.neutrinos is not None:
        yield "neutrinos", "Neutrinos", plot_neutrinos(evaluation.neutrinos)


def _table(evaluation: Evaluation) -> str:
    metrics, rows = evaluation.metrics, []
    for name, value in metrics.items():
        if not name.endswith("_uncertainty"):
            error = metrics.get(f"{name}_uncertainty")
            text = f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else "")
            rows.append(f"<tr><td>{html.escape(name)}</td><td>{text}</td></tr>")
    return (
        f"<p>{evaluation.n_events} events</p>\n<table><tr><th></th><th>value</th></tr>\n"
        + "\n".join(rows)
        + "\n</table>"
    )
