"""How a result moves under systematic shifts: pseudo-experiments, and the figure of the paper.

The shifts themselves are drawn and applied by :mod:`evenet_hep.events.systematics`. Movement is given twice, in absolute
terms and in units of the statistical error of the nominal result, and both are labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]


class Stability(NamedTuple):
    """Result of pseudo-experiments with a systematic shift.

    Parameters
    ----------
    label : str
        What was shifted.
    nominal, statistical : float
        Result without a shift, and its statistical error.
    shifts : float array, shape (n_experiments,)
        Size of the shift in each experiment; NaN where one number does not describe it.
    results : float array, shape (n_experiments,)
        Result of each experiment.
    """

    label: str
    nominal: float
    statistical: float
    shifts: FloatArray
    results: FloatArray

    @property
    def movement(self) -> FloatArray:
        """Result minus nominal result, in the units of the result."""
        return self.results - self.nominal

    @property
    def pulls(self) -> FloatArray:
        """Movement in units of the statistical error."""
        return self.movement / self.statistical

    def interval(self, level: float) -> tuple[float, float]:
        """Central interval of the movement that holds ``level`` of the experiments, in the units of the result."""
        low, high = np.nanquantile(self.movement, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)

    def to_dict(self) -> dict[str, float]:
        """The numbers of a table: half widths of the central 68 and 95 %, absolute and in statistical errors."""
        numbers = {"nominal": self.nominal, "statistical_error": self.statistical}
        for level in (0.68, 0.95):
            low, high = self.interval(level)
            numbers[f"half_width_{100 * level:.0f}"] = (high - low) / 2
            numbers[f"half_width_{100 * level:.0f}_in_statistical_errors"] = (
                (high - low) / 2 / self.statistical
            )
        numbers["mean_movement"] = float(np.nanmean(self.movement))
        numbers["largest_movement"] = float(np.nanmax(np.abs(self.movement)))
        return numbers


def shift_many(
    respond: Callable[[float], float],
    shifts: Sequence[float] | FloatArray,
    *,
    label: str,
    nominal: float,
    statistical: float,
) -> Stability:
    """The result under each of many shifts.

    Parameters
    ----------
    respond : callable
        Size of the shift -> result of the whole chain with events so shifted.
    shifts : sequence of float
        One for each pseudo-experiment, as :func:`~evenet_hep.events.systematics.draw_energy_scales` draws them.
    label : str
        What is shifted.
    nominal, statistical : float
        Result without a shift and its statistical error.

    Examples
    --------
    >>> found = shift_many(lambda alpha: 1.5 + alpha, [-0.01, 0.0, 0.01], label="JES", nominal=1.5, statistical=0.1)
    >>> [round(float(pull), 2) for pull in found.pulls]
    [-0.1, 0.0, 0.1]
    """
    values = np.asarray(shifts, np.float64)
    results = np.array([respond(float(value)) for value in values], np.float64)
    return Stability(label, float(nominal), float(statistical), values, results)


def plot_stability(results: Sequence[tuple[str, Stability]], *, quantity: str, unit: str = "") -> Figure:
    """Movement of a quantity under shifts: on the left in its own units, on the right in statistical errors.

    Parameters
    ----------
    results : sequence of (str, Stability)
        Name of a method, and what was found for it.
    quantity : str
        Name of the result, for the axes.
    unit : str
        Unit of the result, for the axis on the left.
    """
    with plt.style.context("default"):
        figure, panels = plt.subplots(
            1, 2, figsize=(9, 1.5 + 0.45 * len(results)), sharey=True, layout="constrained"
        )
    rows = np.arange(len(results))
    for panel, in_errors in zip(panels, (False, True), strict=True):
        for row, (_, found) in enumerate(results):
            scale = 1 / found.statistical if in_errors else 1.0
            for level, colour in ((0.95, "#ffe699"), (0.68, "#8fce8f")):
                low, high = found.interval(level)
                label = f"{100 * level:.0f} % of experiments" if row == 0 else None
                panel.barh(row, (high - low) * scale, left=low * scale, height=0.6, color=colour, label=label)
            panel.plot(found.movement * scale, np.full(len(found.results), row), "k|", ms=5, alpha=0.5)
        panel.axvline(0, color="0.4", lw=0.8)
    panels[0].set_yticks(rows, [f"{name}\n{found.label}" for name, found in results], fontsize=8)
    panels[0].set_ylim(len(results) - 0.4, -0.6)
    panels[0].set_xlabel(f"absolute change of {quantity}" + (f" [{unit}]" if unit else ""))
    panels[1].set_xlabel(f"change of {quantity} / statistical error")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, ncols=2, loc="outside upper right")
    return figure
