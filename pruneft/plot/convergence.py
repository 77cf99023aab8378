"""How a solver came to its optimum: bounds, gap and error against iterations and against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pruneft.plot._style import PALETTE, TWO_COLUMNS, axes_or_new, dress, figure_of, new_figure, open_frame, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:
    Axes = Figure = Line2D = Any


class Convergence(NamedTuple):
    """What `convergence` drew.

    Attributes:
      figure: that holds the panels.
      panels: three rows (bounds, gap, error) for each abscissa, in the order of rows.
      lines: by name of the array and abscissa, such as ``"gap over seconds"``.
    """

    figure: Figure
    panels: tuple[Axes, ...]
    lines: dict[str, Line2D]


_ABSCISSAE = {"iteration": "iterations", "seconds": "seconds"}


def convergence(
    history: Mapping[str, Any], *, error: str = "error", axes: Sequence[Axes] | np.ndarray | None = None
) -> Convergence:
    """Certified bounds, the relative gap between them, and errors, of one run; against iterations and, if known, seconds.

    Values that are not finite leave gaps, as a lower bound that was not found yet does.

    Args:
      history: arrays of one length t: ``iteration``, ``objective``, ``dual``; and, if there, ``seconds``, ``error`` on the training data
        and ``fresh_error``. What `pruneft.relu.fit` with ``record=True`` keeps.
      error: what the errors are, for the label.
      axes: one for each panel, by rows; rows are bounds, gap and (with ``error``) errors, columns iterations and (with ``seconds``)
        seconds. None makes a figure.

    Raises:
      ValueError: an array is missing, lengths differ, or another number of axes.
    """
    missing = [name for name in ("iteration", "objective", "dual") if name not in history]
    if missing:
        raise ValueError(
            f"history: expected arrays iteration, objective and dual, got {sorted(history)}: add {missing}."
        )
    data = {name: vector(name, history[name]) for name in history}
    length = data["iteration"].size
    for name, values in data.items():
        if values.size != length:
            raise ValueError(f"history[{name!r}]: expected {length} entries as in iteration, got {values.size}.")
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = (data["objective"] - data["dual"]) / np.abs(data["objective"])
    data["gap"] = np.where(gap > 0, gap, np.nan)
    rows: list[tuple[str, str, dict[str, str]]] = [
        ("objective", "linear", {"objective": "best so far", "dual": "lower bound"}),
        ("relative gap", "log", {"gap": "gap"}),
    ]
    if "error" in data:
        rows.append((error, "linear", {"error": "training", "fresh_error": "fresh samples"}))
    abscissae = [name for name in _ABSCISSAE if name in data]
    columns = len(abscissae)
    if axes is None:
        size = (TWO_COLUMNS * columns / 2, 0.9 + 1.5 * len(rows))
        axes = new_figure(*size).subplots(len(rows), columns, squeeze=False, sharex="col", sharey="row")
    grid = axes_or_new(axes, len(rows), columns, (0, 0))
    lines = {}
    for place, ax in enumerate(grid):
        (label, scale, names), x = rows[place // columns], abscissae[place % columns]
        for colour, (name, said) in zip(PALETTE, names.items(), strict=False):
            if name in data:
                shown = np.where(np.isfinite(data[name]), data[name], np.nan)
                style: dict[str, Any] = {
                    "color": colour,
                    "linestyle": "-" if colour == PALETTE[0] else "--",
                    "linewidth": 1.2,
                }
                (lines[f"{name} over {_ABSCISSAE[x]}"],) = ax.plot(data[x], shown, label=said, **style)
        ax.set_yscale(scale)
        if label == "objective":
            ax.set_ylim(*_range(data["objective"], data["dual"]))
        if place // columns == len(rows) - 1:
            dress(ax, x=_ABSCISSAE[x])
        dress(ax, y=label if place % columns == 0 else None)
        open_frame(ax)
        if place % columns == 0 and len(ax.lines) > 1:
            ax.legend(frameon=False, fontsize=7)
    return Convergence(figure_of(grid[0]), tuple(grid), lines)


def _range(objective: np.ndarray, dual: np.ndarray) -> tuple[float, float]:
    """Around the optimum, so that the bounds are seen to meet: first bounds can be larger than the optimum by orders."""
    end = float(objective[-1])
    least = np.min(dual[np.isfinite(dual)], initial=end)
    most = np.max(objective[np.isfinite(objective)], initial=end)
    span = max(abs(end), float(np.finfo(float).tiny))
    return max(float(least), end - 0.6 * span) - 0.02 * span, min(float(most), end + 1.2 * span) + 0.02 * span
