"""What is in a training set: tables for the eye, one page of plots, one page of HTML."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from evenet_hep.errors import FileError
from evenet_hep.events.training_events import TrainingEvents
from evenet_hep.events.training_files import reason
from evenet_hep.events.training_set import TrainingSet
from evenet_hep.schema import Feature

FloatArray = npt.NDArray[np.float64]

_BINS = 40


class Table(NamedTuple):
    """A table as text: a title, headings, and rows of as many cells."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def describe(training_set: TrainingSet) -> list[Table]:
    """Tables of a training set, from what its conversion counted; no event is read.

    Parameters
    ----------
    training_set : TrainingSet

    Returns
    -------
    list of Table
        Files and sources; events and weights per class and split; multiplicities; features; found resonances.
    """
    tables = [
        _overview(training_set),
        _sources(training_set),
        _classes(training_set),
        _multiplicities(training_set),
        _features(training_set),
        _resonances(training_set),
    ]
    return [table for table in tables if table.rows]


def found_fractions(training_set: TrainingSet, process: str) -> FloatArray:
    """Fraction of the events of a process in which each resonance was found whole, and all of them together.

    Parameters
    ----------
    training_set : TrainingSet
    process : str
        Its name.

    Returns
    -------
    float64 array, shape (n_resonances + 1,)
        In the first split; NaN without events.
    """
    n_resonances = len(training_set.topology.process(process).resonances)
    counts = training_set.patterns[process].astype(np.float64)
    if not counts.sum():
        return np.full(n_resonances + 1, np.nan)
    patterns = np.arange(len(counts))
    whole = [counts[(patterns >> s & 1) == 1].sum() for s in range(n_resonances)]
    fractions: FloatArray = np.array([*whole, counts[-1]]) / counts.sum()
    return fractions


def padded_size(training_set: TrainingSet) -> int:
    """Bytes that objects and event features of all events would need as padded float32 arrays."""
    schema = training_set.layout.schema
    per_event = schema.capacity * len(schema.objects) + len(schema.event_features)
    return 4 * per_event * sum(part.rows for part in training_set.parts)


def _overview(training_set: TrainingSet) -> Table:
    size = sum(part.size for part in training_set.parts)
    rows = [
        ("folder", str(training_set.folder)),
        ("events", str(sum(part.rows for part in training_set.parts))),
        ("parts", str(len(training_set.parts))),
        ("size", f"{size / 1e6:.1f} MB, {size / padded_size(training_set):.0%} of the padded float32 size"),
        ("splits", ", ".join(f"{name} {share:g}" for name, share in training_set.layout.splits.items())),
        ("written by", f"evenet_hep {training_set.provenance.get('evenet_hep', 'unknown')}"),
    ]
    return Table("training set", ("", ""), tuple(rows))


def _sources(training_set: TrainingSet) -> Table:
    rows = []
    for name, values in training_set.sources.items():
        number = sum(part.rows for part in training_set.parts if part.source == name)
        section = values.get("cross_section")
        rows.append(
            (
                name,
                values.get("class") or "(none)",
                str(len(values.get("files", ()))),
                str(number),
                f"{section:g} pb" if section else "",
                f"{training_set.scale(name):.4g}",
            )
        )
    headings = ("source", "class", "files", "events", "cross-section", "scale of the weights")
    return Table("sources", headings, tuple(rows))


def _classes(training_set: TrainingSet) -> Table:
    counts = {split: training_set.counts(split) for split in training_set.splits}
    balance = dict(zip(training_set.layout.schema.classes, training_set.class_weights, strict=True))
    rows = []
    for name in dict.fromkeys(name for split in counts.values() for name in split):
        cells = []
        for split in training_set.splits:
            found = counts[split].get(name)
            cells += [str(found.n_events), f"{found.weight:.4g}"] if found else ["0", "0"]
        rows.append((name or "(none)", *cells, f"{balance[name]:.3f}" if name in balance else ""))
    headings = [heading for split in training_set.splits for heading in (split, "weight")]
    return Table("classes", ("class", *headings, "balance"), tuple(rows))


def _multiplicities(training_set: TrainingSet) -> Table:
    counts = training_set.multiplicity
    total = counts.sum()
    rows = [
        (str(number), str(count), f"{count / total:.1%}") for number, count in enumerate(counts) if count > 0
    ]
    title = f"objects per event in {training_set.splits[0]}, at most {training_set.layout.schema.capacity}"
    return Table(title, ("objects", "events", "share"), tuple(rows))


def _features(training_set: TrainingSet) -> Table:
    schema, rows = training_set.layout.schema, []
    lists: dict[str, Sequence[Feature]] = {
        "objects": schema.objects,
        "event_features": schema.event_features,
        "invisible": schema.invisible,
        "n_objects": [schema.n_objects],
    }
    owner = {"objects": "object", "invisible": "invisible"}
    for key, features in lists.items():
        for feature, moments in zip(features, training_set.moments[key], strict=True):
            if moments.weight > 0:
                after = "log(1+x)" if feature.transform == "log" else ""
                numbers = (moments.low, moments.high, moments.mean, moments.std)
                unit = feature.unit
                rows.append(
                    (
                        owner.get(key, "event"),
                        feature.name,
                        unit,
                        *(f"{number:.4g}" for number in numbers),
                        after,
                    )
                )
    title = f"features in {training_set.splits[0]}"
    headings = ("of", "feature", "unit", "smallest", "largest", "mean", "width", "after")
    return Table(title, headings, tuple(rows))


def _resonances(training_set: TrainingSet) -> Table:
    rows = []
    for process in training_set.topology.processes:
        number = training_set.patterns[process.name].sum()
        if not number:
            continue
        fractions = found_fractions(training_set, process.name)
        parts = [
            f"{name} ({kind}) {share:.1%}"
            for (name, kind), share in zip(process.resonances, fractions, strict=False)
        ]
        rows.append((process.name, str(number), ", ".join(parts), f"{fractions[-1]:.1%}"))
    title = f"resonances with all daughters found, in {training_set.splits[0]}"
    return Table(title, ("process", "events", "resonances", "all"), tuple(rows))


def plot_training_set(
    training_set: TrainingSet, *, split: str | None = None, max_events: int = 100_000
) -> Figure:
    """One page: classes, multiplicities, every feature by class, and the fraction of found resonances.

    Parameters
    ----------
    training_set : TrainingSet
    split : str, optional
        Whose events are drawn; the first one by default.
    max_events : int
        A larger split is drawn from its events with the smallest hashes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    schema = training_set.layout.schema
    split = split or training_set.splits[0]
    events = training_set.events(split, limit=max_events)
    features = [(f, "object", i) for i, f in enumerate(schema.objects)]
    features += [(f, "event", i) for i, f in enumerate(schema.event_features)]
    processes = [p.name for p in training_set.topology.processes if training_set.patterns[p.name].sum()]
    n_rows = 1 + -(-len(features) // 4) + bool(processes)
    with mpl.rc_context({"font.size": 8, "axes.titlesize": 9, "legend.fontsize": 7}):
        figure = Figure(figsize=(13, 2.5 * n_rows), layout="constrained")
        grid = figure.add_gridspec(n_rows, 4)
        _draw_classes(figure.add_subplot(grid[0, :2]), training_set)
        _draw_multiplicity(figure.add_subplot(grid[0, 2:]), events, schema.classes)
        for k, (feature, kind, i) in enumerate(features):
            panel = figure.add_subplot(grid[1 + k // 4, k % 4])
            _draw_feature(panel, events, schema.classes, feature, kind, i)
            if k % 4 == 0:
                panel.set_ylabel("density")
        if processes:
            _draw_resonances(figure.add_subplot(grid[-1, :]), training_set, processes)
        figure.suptitle(f"{training_set.folder.name}: {events.n_events} events of the split {split}")
    return figure


def _by_class(events: TrainingEvents, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Classes that are there, with their labels; the events without one last."""
    present = set(np.unique(events.label).tolist())
    names = [(name, i) for i, name in enumerate(classes)] + [("(none)", -1)]
    return [(name, i) for name, i in names if i in present]


def _draw_classes(panel: Any, training_set: TrainingSet) -> None:
    counts = {split: training_set.counts(split) for split in training_set.splits}
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    height = 0.8 / len(counts)
    for s, (split, found) in enumerate(counts.items()):
        numbers = [found[name].n_events if name in found else 0 for name in names]
        panel.barh(np.arange(len(names)) + s * height, numbers, height, color=f"C{s}", label=split)
    panel.set_yticks(np.arange(len(names)) + 0.4 - height / 2, [name or "(none)" for name in names])
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("events")
    panel.set_title("events per class and split")
    panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_multiplicity(panel: Any, events: TrainingEvents, classes: Sequence[str]) -> None:
    counts = events.n_objects
    edges: FloatArray = np.arange(int(counts.max(initial=0)) + 2, dtype=np.float64) - 0.5
    for name, label in _by_class(events, classes):
        _draw_density(
            panel, counts[events.label == label], events.weight[events.label == label], edges, name, label
        )
    panel.set_xlabel("objects per event")
    panel.set_ylabel("density")
    panel.set_title("multiplicity")
    panel.legend(frameon=False, ncols=2)


def _draw_feature(
    panel: Any, events: TrainingEvents, classes: Sequence[str], feature: Feature, kind: str, column: int
) -> None:
    values = events.objects[:, column] if kind == "object" else events.event_features[:, column]
    label = np.repeat(events.label, events.n_objects) if kind == "object" else events.label
    weight = np.repeat(events.weight, events.n_objects) if kind == "object" else events.weight
    edges = _edges(values)
    for name, number in _by_class(events, classes):
        chosen = label == number
        _draw_density(panel, values[chosen], weight[chosen], edges, name, number)
    panel.set_xlabel(f"{feature.name} [{feature.unit}]" if feature.unit else feature.name)
    panel.set_title(f"{kind}: {feature.name}")
    if feature.transform == "log":
        panel.set_yscale("log")


def _draw_density(
    panel: Any,
    values: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    edges: FloatArray,
    name: str,
    number: int,
) -> None:
    contents, _ = np.histogram(values, edges, weights=weight.astype(np.float64))
    total = weight.sum(dtype=np.float64)
    if len(values) and total > 0:
        density = contents / total / np.diff(edges)
        color = f"C{number % 10}" if number >= 0 else "0.6"
        style = ("-", "--", ":", "-.")[max(number, 0) // 10 % 4]
        mplhep.histplot(density, edges, ax=panel, label=name, color=color, linestyle=style, linewidth=1.1)


def _edges(values: npt.NDArray[Any]) -> FloatArray:
    """Bins for most of the values: one per whole number where there are few of them."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = np.quantile(values, [0.002, 0.995])
    if (values == np.rint(values)).all() and high - low < _BINS:
        return np.arange(int(np.floor(low)), int(np.floor(high)) + 2, dtype=np.float64) - 0.5
    return np.linspace(float(low), float(high if high > low else low + 1), _BINS + 1)


def _draw_resonances(panel: Any, training_set: TrainingSet, processes: Sequence[str]) -> None:
    names, heights, colors = [], [], []
    for p, process in enumerate(processes):
        fractions = found_fractions(training_set, process)
        resonances = training_set.topology.process(process).resonances
        together = len(resonances) > 1  # else it says the same
        names += [f"{process} {name} ({kind})" for name, kind in resonances] + [f"{process} all"] * together
        heights += fractions[: len(resonances) + together].tolist()
        colors += [f"C{p % 10}"] * len(resonances) + ["0.5"] * together
    panel.bar(np.arange(len(names)), heights, color=colors)
    panel.set_xticks(
        np.arange(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7
    )
    panel.set_ylim(0, 1)
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.set_ylabel("fraction")
    panel.set_title("resonances with all daughters found")


def html_page(tables: Sequence[Table], figure: Figure | None, *, title: str) -> str:
    """One page with all tables and the figure in it; it needs no other file.

    Examples
    --------
    >>> page = html_page([Table("numbers", ("a",), (("<1>",),))], None, title="set")
    >>> "<td>&lt;1&gt;</td>" in page
    True
    """
    style = "body{font-family:sans-serif;margin:2em}td,th{padding:.1em .8em;text-align:left}table{margin-bottom:1em}"
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}</style>"
    ]
    parts.append(f"<h1>{html.escape(title)}</h1>")
    for table in tables:
        rows = ["".join(f"<th>{html.escape(cell)}</th>" for cell in table.headings)]
        rows += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        parts.append(f"<h2>{html.escape(table.title)}</h2><table>{body}</table>")
    if figure is not None:
        image = BytesIO()
        figure.savefig(image, format="png", dpi=110)
        encoded = base64.b64encode(image.getvalue()).decode()
        parts.append(f"<img style='max-width:100%' alt='plots' src='data:image/png;base64,{encoded}'>")
    return "\n".join(parts)


def write_description(
    training_set: TrainingSet,
    folder: str | Path,
    *,
    split: str | None = None,
    max_events: int = 100_000,
    page: bool = True,
) -> list[Path]:
    """Write ``description.png`` and, on request, ``description.html``.

    Parameters
    ----------
    training_set : TrainingSet
    folder : str or Path
        Where to; it is made.
    split, max_events
        As for :func:`plot_training_set`.
    page : bool
        Whether to write the HTML page.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    FileError
        If a file cannot be written.
    """
    folder = Path(folder)
    figure = plot_training_set(training_set, split=split, max_events=max_events)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image = BytesIO()
        figure.savefig(image, format="png", dpi=110)
        written.append(_write(folder / "description.png", image.getvalue()))
        if page:
            text = html_page(describe(training_set), figure, title=f"training set {training_set.folder.name}")
            written.append(_write(folder / "description.html", text.encode()))
    except OSError as error:
        msg = f"cannot write the description to {folder}: {reason(error)}"
        raise FileError(msg) from error
    return written


def _write(path: Path, content: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
