"""The figure of a run of ``laperm``: errors on test pictures over the period and over the share of zeros, Adam alone beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.plot import new_figure
from pruneft.plot._style import LABEL_SIZE, MARKERS, dress, legend_of_figure, log_axis, open_frame, series_style

_TITLES = {"mlp": "dense", "cnn": "convolutional"}
Rows = Sequence[Mapping[str, Any]]


def draw(rows: Rows) -> Any:
    """A matplotlib Figure, a row of two panels for each network; means over seeds, and the band from the best to the worst.

    Left, over the period of the syncs without zeros at the start; right, over the share of zeros, at the period that was run for most
    shares. A line for each learning rate; Adam alone is dashed.

    Raises:
      ValueError: there are no rows, or several numbers of steps for one network.
    """
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    models = sorted({row["model"] for row in rows}, reverse=True)
    for model in models:
        steps = sorted({row["steps"] for row in rows if row["model"] == model})
        if len(steps) > 1:
            raise ValueError(
                f"this figure is for one number of steps: the run has steps = {', '.join(map(str, steps))} of model {model}. "
                "Draw from a run of its own."
            )
    figure = new_figure(7.0, 2.5 * len(models) + 0.4)
    grid = figure.subplots(len(models), 2, squeeze=False)
    for (left, right), model in zip(grid, models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        _over_period(left, mine)
        _over_zeros(right, mine)
        for ax in (left, right):
            ax.set_yscale("log")
            log_axis(ax.yaxis, *ax.get_ylim())
            dress(ax, y="errors on test pictures, %" if ax is left else None)
            open_frame(ax)
        left.set_title(f"{_TITLES.get(model, model)}, {mine[0]['steps']} steps", fontsize=LABEL_SIZE, loc="left")
    handles = {handle.get_label(): handle for ax in grid.ravel() for handle in ax.get_legend_handles_labels()[0]}
    legend_of_figure(figure, list(handles.values()), columns=4)
    return figure


def _errors(rows: Rows) -> list[float]:
    """Shares of wrong answers in percent; none counts as half a picture of 497, so that it has a place on a logarithmic axis."""
    return [max(100 * (1 - row["accuracy"]), 0.1) for row in rows]


def _over_period(ax: Any, rows: Rows) -> None:
    least = min(row["removed"] for row in rows)
    for place, rate in enumerate(sorted({row["lr"] for row in rows})):
        mine = [row for row in rows if row["lr"] == rate and row["removed"] == least]
        synced = [row for row in mine if row["method"] == "laperm"]
        if synced:
            _line(ax, synced, "period", place, f"LaPerm, rate {rate:g}")
        alone = _errors([row for row in mine if row["method"] == "adam"])
        if alone:
            ax.axhline(float(np.mean(alone)), **_dashed(place, f"Adam, rate {rate:g}"))
            ax.axhspan(min(alone), max(alone), color=series_style(place)["color"], alpha=0.1, linewidth=0)
    ax.set_xscale("log")
    periods = sorted({row["period"] for row in rows if row["method"] == "laperm"})
    if periods:
        ax.set_xticks(periods, [str(period) for period in periods])
        ax.minorticks_off()
    dress(ax, x="steps from sync to sync" + (f", {least:.0%} zeros" if least else ""))


def _over_zeros(ax: Any, rows: Rows) -> None:
    synced = [row for row in rows if row["method"] == "laperm"]
    shares: dict[int, set[float]] = {}
    for row in synced:
        shares.setdefault(row["period"], set()).add(row["removed"])
    period = max(shares, key=lambda k: (len(shares[k]), k)) if shares else 0
    for place, rate in enumerate(sorted({row["lr"] for row in rows})):
        mine = [row for row in synced if row["lr"] == rate and row["period"] == period]
        if mine:
            _line(ax, mine, "removed", place, f"LaPerm, rate {rate:g}")
        alone = [row for row in rows if row["method"] == "adam" and row["lr"] == rate]
        if alone:
            _line(ax, alone, "removed", place, f"Adam, rate {rate:g}", dashed=True)
    dress(ax, x="share of zeros at the start" + (f"; a sync every {period} steps" if period else ""))


def _dashed(place: int, label: str) -> dict[str, Any]:
    return {"color": series_style(place)["color"], "linestyle": (0, (4, 1.6)), "linewidth": 1.0, "label": label}


def _line(ax: Any, rows: Rows, name: str, place: int, label: str, *, dashed: bool = False) -> None:
    x = sorted({row[name] for row in rows})
    cells = [_errors([row for row in rows if row[name] == value]) for value in x]
    color = series_style(place)["color"]
    ax.fill_between(
        x, [min(cell) for cell in cells], [max(cell) for cell in cells], color=color, alpha=0.15, linewidth=0
    )
    style = _dashed(place, label) if dashed else {"color": color, "linewidth": 1.2, "label": label}
    ax.plot(x, [float(np.mean(cell)) for cell in cells], marker=MARKERS[place % len(MARKERS)], markersize=3, **style)
