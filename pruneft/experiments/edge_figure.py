"""Figures of the edge of stability: one run beside its prediction; correlations over the step size; what becomes of columns; SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.plot import new_figure
from pruneft.plot._style import GREY, MARKERS, PALETTE, dress, legend_of_figure, log_axis, open_frame, series_style

Rows = Sequence[Mapping[str, Any]]
_MEASURED, _PREDICTED, _CONSTRAINED = series_style(0), series_style(1), series_style(2)
_THRESHOLDS = {
    "exact": "second moment grows (exact)",
    "quartic": "quartic condition",
    "trace": r"$2B/\mathrm{tr}\,H$",
    "sharpness": r"$2/\lambda_1$",
}
_CORRELATIONS = {"x": "x", "y": "y", "sharpness": "sharpness", "loss": "excess loss"}


def history(seen: Mapping[str, Any]) -> Any:
    """One run: loss, sharpness against 2 / eta, x measured and predicted, distance of both trajectories to it.

    x turns its sign at nearly every step, so it is drawn with every other sign turned.

    Args:
      seen: arrays by name, as the fields of `pruneft.dynamics.Track`.
    """
    steps = np.arange(len(seen["x"]))
    figure = new_figure(7.2, 4.6)
    (loss, sharp), (out, away) = figure.subplots(2, 2, sharex=True)
    # Points for the prediction: the run oscillates at every step, and a second line would hide the first.
    dots: dict[str, Any] = {"color": _PREDICTED["color"], "linestyle": "none", "marker": ".", "markersize": 2.2}
    lines = []
    for ax, name in ((loss, "loss"), (sharp, "sharpness")):
        for field, label, style in (
            (name, "gradient descent", _MEASURED),
            (f"{name}_constrained", "constrained trajectory", _CONSTRAINED),
            (f"{name}_predicted", "prediction", dots),
        ):
            (line,) = ax.plot(steps, seen[field], linewidth=0.8, label=label, **style)
            lines += [line] if ax is loss else []
    lines.append(sharp.axhline(2 / float(seen["eta"]), color=GREY, linewidth=0.8, label=r"$2/\eta$ or 0"))
    turned = (-1.0) ** steps
    out.plot(steps, turned * seen["x"], linewidth=0.8, **_MEASURED)
    out.plot(steps, turned * seen["x_predicted"], **dots)
    out.axhline(0, color=GREY, linewidth=0.8)
    away.plot(steps, seen["distance"], linewidth=0.8, **_CONSTRAINED)
    away.plot(steps, seen["distance_predicted"], **dots)
    away.set_ylim(bottom=0)
    dress(loss, y="loss")
    dress(sharp, y="sharpness S")
    dress(out, x="step t", y=r"$(-1)^t\,x_t$")
    dress(away, x="step t", y="distance to gradient descent")
    inside = int(seen["inside"])
    for ax in (loss, sharp, out, away):
        open_frame(ax)
        if inside < len(steps):
            shade = ax.axvspan(inside, len(steps) - 1, color=GREY, alpha=0.12, linewidth=0)
            shade.set_label("outside the domain of the theory")
            lines += [shade] if ax is away else []
    legend_of_figure(figure, lines, columns=3)
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
        dress(below, x=r"$f = 2\,/\,(\eta \max S)$", y=r"mean of $\eta S$" if problem == problems[0] else None)
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
    dress(ax, x=r"weight of the penalty $\lambda$", y="columns that share the weight")
    open_frame(ax)
    legend_of_figure(figure, handles, columns=2)
    return figure


def stability(seen: Mapping[str, Any]) -> Any:
    """Share of runs of SGD that leave a minimum, over step size and batch, beside gradient descent and the four thresholds.

    Args:
      seen: arrays by name, as `pruneft.experiments.edge_recipes.diagram` returns them.
    """
    etas, batches = np.asarray(seen["etas"]), [int(size) for size in seen["batches"]]
    rows = np.arange(len(batches) + 1)
    share = np.concatenate([np.asarray(seen["escaped"]).T, np.asarray(seen["control_escaped"])[None]])
    ratio = (etas[1] / etas[0]) ** 0.5  # step sizes are spaced evenly in their logarithm
    figure = new_figure(4.6, 3.2)
    ax = figure.subplots()
    mesh = ax.pcolormesh(
        np.append(etas / ratio, etas[-1] * ratio), np.append(rows, len(rows)) - 0.5, share, cmap="Greys", vmin=0, vmax=1
    )
    handles = []
    for place, (name, label) in enumerate(_THRESHOLDS.items()):
        # All samples at once bear what the sharpness allows, and the other three speak of draws.
        last = float(seen["sharpness"][0]) if name in ("exact", "sharpness") else np.nan
        values = np.append(np.asarray(seen[name]), last)
        inside = np.where((values >= etas[0] / ratio) & (values <= etas[-1] * ratio), values, np.nan)
        style: dict[str, Any] = {
            "color": PALETTE[place],
            "marker": MARKERS[place],
            "markersize": 4,
            "linestyle": "none",
        }
        # The exact one is at most each of the others: where they meet it is seen through them.
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.2} if name != "exact" else {}
        handles += ax.plot(inside, rows, label=label, zorder=3 + (name == "exact"), **style, **hollow)
    ax.set_xscale("log")
    log_axis(ax.xaxis, etas[0] / ratio, etas[-1] * ratio)
    ax.set_yticks(rows, [*(str(size) for size in batches), "all, once\n(descent)"])
    dress(ax, x=r"step size $\eta$", y="batch B")
    bar = figure.colorbar(mesh, ax=ax)
    dress(bar.ax, y="share of runs that leave the minimum")
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
