"""Figures of the edge of stability: one run beside its prediction; correlations over the step size; what becomes of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.plot import new_figure
from pruneft.plot._style import GREY, MARKERS, PALETTE, dress, legend_of_figure, open_frame, series_style

Rows = Sequence[Mapping[str, Any]]
_MEASURED, _PREDICTED, _CONSTRAINED = series_style(0), series_style(1), series_style(2)
_CORRELATIONS = {"x": "x", "y": "y", "sharpness": "sharpness", "loss": "excess loss"}


def history(seen: Mapping[str, Any]) -> Any:
    """One run: loss, sharpness against 2 / eta, x measured and predicted, distance of both trajectories to it.

    Args:
      seen: arrays by name, as the fields of `pruneft.dynamics.Track`.
    """
    steps = np.arange(len(seen["x"]))
    figure = new_figure(7.2, 4.6)
    (loss, sharp), (out, away) = figure.subplots(2, 2, sharex=True)
    lines = []
    for ax, name in ((loss, "loss"), (sharp, "sharpness")):
        for field, label, style in (
            (name, "gradient descent", _MEASURED),
            (f"{name}_constrained", "constrained trajectory", _CONSTRAINED),
            (f"{name}_predicted", "prediction", _PREDICTED),
        ):
            (line,) = ax.plot(steps, seen[field], linewidth=1.0, label=label, **style)
            lines += [line] if ax is loss else []
    lines.append(sharp.axhline(2 / float(seen["eta"]), color=GREY, linewidth=0.8, label=r"$2/\eta$ or 0"))
    out.plot(steps, seen["x"], linewidth=1.0, **_MEASURED)
    out.plot(steps, seen["x_predicted"], linewidth=1.0, **_PREDICTED)
    out.axhline(0, color=GREY, linewidth=0.8)
    away.plot(steps, seen["distance"], linewidth=1.0, **_CONSTRAINED)
    away.plot(steps, seen["distance_predicted"], linewidth=1.0, **_PREDICTED)
    away.set_ylim(bottom=0)
    dress(loss, y="loss")
    dress(sharp, y="sharpness S")
    dress(out, x="step", y="x, along the unstable direction")
    dress(away, x="step", y="distance to gradient descent")
    inside = int(seen["inside"])
    for ax in (loss, sharp, out, away):
        open_frame(ax)
        if inside < len(steps):
            ax.axvspan(inside, len(steps) - 1, color=GREY, alpha=0.12, linewidth=0)
    legend_of_figure(figure, lines, columns=4)
    return figure


def draw(rows: Rows) -> Any:
    """The figure that fits a run: columns over the weight of the penalty where it has several, else correlations over the step size.

    Raises:
      ValueError: there are no rows.
    """
    return columns(rows) if len({row["lam"] for row in _some(rows)}) > 1 else step_size(rows)


def step_size(rows: Rows) -> Any:
    """Correlations of measured and predicted values over f, medians with quartiles, a panel for each problem, and the mean of eta S.

    Raises:
      ValueError: there are no rows, or several weights of the penalty.
    """
    if len({row["lam"] for row in _some(rows)}) > 1:
        raise ValueError(
            "this figure is for one weight of the penalty: the run has several lam. Draw from a run of its own."
        )
    problems = sorted({row["problem"] for row in rows})
    figure = new_figure(2.4 * max(len(problems), 2) + 0.4, 4.4)
    grid = figure.subplots(2, len(problems), squeeze=False, sharex=True)
    handles: list[Any] = []
    for (above, below), problem in zip(grid.T, problems, strict=True):
        mine = [row for row in rows if row["problem"] == problem]
        handles = [_band(above, mine, "f", name, i, label) for i, (name, label) in enumerate(_CORRELATIONS.items())]
        _band(below, mine, "f", "edge", 5, r"mean of $\eta S$")
        below.axhline(2, color=GREY, linewidth=0.8)
        above.set_ylim(top=1.02)
        dress(above, title=problem, y="correlation with the prediction" if problem == problems[0] else None)
        dress(below, x="f = 2 / (eta peak)", y=r"mean of $\eta S$" if problem == problems[0] else None)
        open_frame(above)
        open_frame(below)
    legend_of_figure(figure, handles, columns=4)
    return figure


def columns(rows: Rows) -> Any:
    """How many columns share the weight after descent at the edge and after the same time of gradient flow, over lam.

    Raises:
      ValueError: there are no rows, or none of a problem with columns.
    """
    mine = [row for row in _some(rows) if row.get("columns") is not None]
    if not mine:
        raise ValueError("no trial of this run has columns: take the problem sensing or quadratic.")
    figure = new_figure(3.6, 2.9)
    ax = figure.subplots()
    handles = [
        _band(ax, mine, "lam", name, i, label)
        for i, (name, label) in enumerate(
            {"columns": "gradient descent at the edge", "columns_flow": "gradient flow"}.items()
        )
    ]
    ax.set_xscale("symlog", linthresh=min([row["lam"] for row in mine if row["lam"] > 0], default=1.0))
    dress(ax, x="lam", y="columns that share the weight")
    open_frame(ax)
    legend_of_figure(figure, handles, columns=2)
    return figure


def _band(ax: Any, rows: Rows, x: str, y: str, place: int, label: str) -> Any:
    """Medians with the band between the quartiles."""
    at = sorted({row[x] for row in rows})
    # A run that diverged has no correlation.
    cells = [[row[y] for row in rows if row[x] == value and np.isfinite(row[y])] for value in at]
    cells = [cell or [np.nan] for cell in cells]
    low, middle, high = np.array([np.quantile(cell, (0.25, 0.5, 0.75)) for cell in cells]).T
    ax.fill_between(at, low, high, color=PALETTE[place], alpha=0.18, linewidth=0)
    style = series_style(place)
    (line,) = ax.plot(at, middle, marker=MARKERS[place], markersize=3, linewidth=1.0, label=label, **style)
    return line


def _some(rows: Rows) -> Rows:
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    return rows
