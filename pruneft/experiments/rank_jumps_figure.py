"""The figure of a run of ``rank-jumps``: rank, what is left beyond the true rank, and error after each phase; the control beside SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.plot import new_figure
from pruneft.plot._style import MARKERS, dress, legend_of_figure, open_frame, series_style

PHASES = ("fitted", "decayed", "final")
_NAMES = {"sgd": "SGD", "gd": "gradient descent"}
_SETTING = ("d", "r", "norm", "layers", "width", "scale", "lam_little", "eta", "first", "steps")
_TINY = 1e-12  # where zeros stand on a logarithmic axis


def draw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib Figure of three panels for each number of observed entries; a line for each method and decay, medians over seeds.

    Every seed is a point beside its line.

    Raises:
      ValueError: there are no rows, or more than one setting besides method, lam and observed.
    """
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    for name in _SETTING:
        values = sorted({str(row[name]) for row in rows})
        if len(values) > 1:
            raise ValueError(
                f"this figure is for one setting: the run has {name} = {', '.join(values)}. Draw from a run of its own."
            )
    seen = sorted({row["observed"] for row in rows})
    figure = new_figure(7.4, 2.4 * len(seen) + 0.5)
    grid = figure.subplots(len(seen), 3, squeeze=False)
    measures = (
        ("rank", "rank", "linear"),
        ("beyond", "singular value beyond the rank", "log"),
        ("error", "relative error of all entries", "log"),
    )
    for axes, observed in zip(grid, seen, strict=True):
        mine = [row for row in rows if row["observed"] == observed]
        for ax, (name, label, scale) in zip(axes, measures, strict=True):
            _lines(ax, mine, name)
            ax.set_yscale(scale)
            ax.set_xticks(range(3), ["fit", "more\ndecay", "little\nagain"])
            dress(ax, y=label, title=f"{observed} of {rows[0]['d'] ** 2} entries" if ax is axes[0] else None)
            open_frame(ax)
        axes[0].set_ylim(bottom=0)
    legend_of_figure(figure, grid[0, 0].get_legend_handles_labels()[0], columns=2)
    return figure


def _lines(ax: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    for place, lam in enumerate(sorted({row["lam"] for row in rows})):
        for method, shift in (("sgd", -0.06), ("gd", 0.06)):
            mine = [row for row in rows if row["lam"] == lam and row["method"] == method]
            if not mine:
                continue
            values = np.array(
                [[max(row[f"{name}_{phase}"], 0 if name == "rank" else _TINY) for phase in PHASES] for row in mine]
            )
            color = series_style(place)["color"]
            line = "-" if method == "sgd" else (0, (4, 1.6))
            marker = MARKERS[place % len(MARKERS)]
            x = np.arange(3) + shift
            ax.plot(
                x,
                np.median(values, axis=0),
                color=color,
                linestyle=line,
                linewidth=1.2,
                marker=marker,
                markersize=3,
                label=f"{_NAMES[method]}, decay {lam:g}",
            )
            for one in values:
                ax.plot(x, one, linestyle="none", marker=marker, markersize=2, color=color, alpha=0.4)
