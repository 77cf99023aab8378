"""Figures of runs on planted neurons: heat maps over (n, d), transition curves, isometry beside recovery, errors under noise.

Undecided trials are neither successes nor failures: a heat map leaves them out, an interval is the union of those with all of them
counted as either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruneft.plot import Curve, new_figure, phase_diagram, phase_panels
from pruneft.plot._style import MARKERS, dress, legend_of_figure, open_frame, series_style
from pruneft.relu.planted import wendel
from pruneft.sweep import wilson

Rows = Sequence[Mapping[str, Any]]
X_LABEL = "samples per feature, n / d"
_SETTING = ("model", "planted", "weights", "data", "signs", "sigma", "lam")
_USUAL = {"weights": "gaussian", "data": "gaussian", "signs": "same", "sigma": 0, "lam": 0}
_MOST = 9  # panels of one figure
FLOOR = 1e-17  # what a logarithmic axis shows an error of zero as


def draw(rows: Rows) -> Any:
    """The figure that fits a run: errors where it has noise, a heat map where it has several d, else transition curves.

    Raises:
      ValueError: there are no rows.
    """
    _some(rows)
    if any(row["sigma"] > 0 for row in rows):
        return noise(rows)
    return heat_map(rows) if len({row["d"] for row in rows}) > 1 else transition(rows)


def heat_map(rows: Rows) -> Any:
    """Recovery rate over d and n / d, a panel for each setting; over linear neurons the law of the pattern of ones, at 5, 50 and 95 %.

    Raises:
      ValueError: there are no rows, or more than nine settings.
    """
    panels = {}
    for title, mine in _settings(rows).items():
        cells = _cells(mine, "d", "n")
        panel: dict[str, Any] = {
            "row": [d for d, _ in cells],
            "x": [n / d for d, n in cells],
            "successes": [sum(bool(row["success"]) for row in cell) for cell in cells.values()],
            "trials": [sum(not row["undecided"] for row in cell) for cell in cells.values()],
        }
        if mine[0]["planted"] == "linear":
            ds = sorted({d for d, _ in cells})
            panel["curves"] = tuple(
                Curve(f"no pattern of ones: {level:.0%}", {d: law_quantile(d, level) for d in ds})
                for level in (0.05, 0.5, 0.95)
            )
        panels[title] = panel
    if len(panels) > 1:
        return phase_panels(panels, row_label="features d", x_label=X_LABEL).figure
    ((title, panel),) = panels.items()
    return phase_diagram(**panel, title=title, row_label="features d", x_label=X_LABEL).figure


def transition(rows: Rows) -> Any:
    """Recovery rates over n / d with 95 % intervals, a line for each setting and d; dashed, the law of the pattern of ones.

    Raises:
      ValueError: there are no rows, or more than nine settings.
    """
    found = _settings(rows)
    figure = new_figure(4.6, 3.3)
    ax = figure.subplots()
    several = len({row["d"] for row in rows}) > 1
    lines = [
        (f"{title}, d = {d}" if several else title, [row for row in mine if row["d"] == d])
        for title, mine in found.items()
        for d in sorted({row["d"] for row in mine})
    ]
    law: set[int] = set()
    for place, (label, mine) in enumerate(lines):
        style = series_style(place) | {"linestyle": "-"}
        _rates(ax, mine, "success", label=label, marker=MARKERS[place % len(MARKERS)], **style)
        if mine[0]["planted"] == "linear":
            law.add(mine[0]["d"])
    for d in sorted(law):
        ns = sorted({row["n"] for row in rows if row["d"] == d})
        grid = range(ns[0], ns[-1] + 1)
        ax.plot(
            [n / d for n in grid],
            [1 - wendel(n, d) for n in grid],
            color="black",
            linestyle=(0, (4, 1.6)),
            linewidth=1.0,
            label="no pattern of ones (Wendel)" + (f", d = {d}" if len(law) > 1 else ""),
        )
    ax.set_ylim(-0.03, 1.03)
    dress(ax, x=X_LABEL, y="share of trials recovered")
    open_frame(ax)
    legend_of_figure(figure, ax.get_legend_handles_labels()[0], columns=2)
    return figure


def isometry(rows: Rows) -> Any:
    """Recovery beside the isometry condition that implies it, over n / d with 95 % intervals; a panel for each setting and d.

    Raises:
      ValueError: there are no rows, or more than nine settings.
    """
    panels = [
        (title, d, [row for row in mine if row["d"] == d])
        for title, mine in _settings(rows).items()
        for d in sorted({row["d"] for row in mine})
    ]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(2.6 * across + 0.6, 2.3 * down + 0.4)
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for ax, (title, d, mine) in zip(grid, panels, strict=False):
        for place, (name, label) in enumerate((("success", "recovered"), ("nic", "isometry condition"))):
            _rates(ax, mine, name, label=label, marker=MARKERS[place], **series_style(place))
        ax.set_ylim(-0.03, 1.03)
        dress(ax, x=X_LABEL, y="share of trials" if ax in grid[::across] else None, title=f"{title}, d = {d}")
        open_frame(ax)
    for ax in grid[len(panels) :]:
        ax.remove()
    legend_of_figure(figure, grid[0].get_legend_handles_labels()[0], columns=2)
    return figure


def noise(rows: Rows) -> Any:
    """Distance to the planted neurons and error on fresh samples over n / d: medians, and the band between the quartiles.

    A line for each level of noise, a row of two panels for each other setting.

    Raises:
      ValueError: there are no rows, or more than nine settings.
    """
    found = _settings(rows, tuple(name for name in (*_SETTING, "d") if name != "sigma"))
    figure = new_figure(7.0, 2.4 * len(found) + 0.4)
    grid = figure.subplots(len(found), 2, squeeze=False)
    sigmas = sorted({row["sigma"] for row in rows})
    for axes, (title, mine) in zip(grid, found.items(), strict=True):
        measures = (("distance", "distance to the planted weights"), ("error", "relative error on fresh samples"))
        for ax, (name, label) in zip(axes, measures, strict=True):
            ax.set_yscale("log")
            for place, sigma in enumerate(sigmas):
                some = [row for row in mine if row["sigma"] == sigma]
                if some:
                    style = series_style(place) | {"marker": MARKERS[place % len(MARKERS)]}
                    _band(ax, some, name, label=f"sigma = {sigma:g}", **style)
            dress(ax, x=X_LABEL, y=label, title=title)
            open_frame(ax)
    legend_of_figure(figure, grid[0, 0].get_legend_handles_labels()[0], columns=4)
    return figure


def networks(rows: Rows) -> Any:
    """Distance, error and neurons of trained networks over n / d, before and after pruning; beside convex programs, if rows hold any.

    Medians, and the band between the quartiles; a row of panels for each setting and d. Rows of the convex programs are those with a gap.

    Raises:
      ValueError: there are no rows, or more than nine settings.
    """
    names = ("model", "planted", "weights", "data", "signs", "sigma", "d")
    found = _settings(rows, names)
    measures = (
        ("distance", "distance to the planted weights", "log"),
        ("error", "relative error on fresh samples", "log"),
        ("neurons", "neurons that stay", "linear"),
    )
    figure = new_figure(7.4, 2.4 * len(found) + 0.4)
    grid = figure.subplots(len(found), 3, squeeze=False)
    for axes, (title, mine) in zip(grid, found.items(), strict=True):
        trained, convex = ([row for row in mine if ("gap" in row) == kind] for kind in (False, True))
        for ax, (name, label, scale) in zip(axes, measures, strict=True):
            left = "neurons_left" if name == "neurons" else name
            lines = [("AdamW", f"{name}_before", trained), ("pruned, fine-tuned", left, trained)]
            lines += [("convex", name, convex)] if name != "neurons" else []
            ax.set_yscale(scale)
            for place, (said, column, some) in enumerate(lines):
                if some:
                    _band(ax, some, column, label=said, marker=MARKERS[place], **series_style(place))
            dress(ax, x=X_LABEL, y=label, title=title if ax is axes[0] else None)
            open_frame(ax)
    legend_of_figure(figure, grid[0, 0].get_legend_handles_labels()[0], columns=3)
    return figure


def _band(ax: Any, rows: Rows, name: str, **style: Any) -> None:
    """Medians over n / d, and the band between the quartiles; on a logarithmic axis what is less than rounding is drawn as that."""
    floor = FLOOR if ax.get_yscale() == "log" else 0.0
    cells = _cells(rows, "n", "d")
    x = [n / d for n, d in cells]
    low, middle, high = np.array(
        [np.quantile([max(row[name], floor) for row in cell], (0.25, 0.5, 0.75)) for cell in cells.values()]
    ).T
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.plot(x, middle, markersize=3, linewidth=1.2, **style)


def law_quantile(d: int, level: float) -> float:
    """The n / d at which the probability that no direction switches every sample on passes ``level``, linear between whole n."""
    n, before = d, 0.0
    while True:
        n += 1
        now = 1 - wendel(n, d)
        if now >= level:
            return (n - (now - level) / (now - before)) / d
        before = now


def _rates(ax: Any, rows: Rows, name: str, **style: Any) -> None:
    """A line of rates with intervals; undecided trials widen those of recovery."""
    cells = _cells(rows, "n", "d")
    middle, low, high = [], [], []
    for cell in cells.values():
        yes, trials = sum(bool(row[name]) for row in cell), len(cell)
        open_ = sum(bool(row["undecided"]) for row in cell) if name == "success" else 0
        middle.append(yes / (trials - open_) if trials > open_ else math.nan)
        low.append(wilson(yes, trials)[0])
        high.append(wilson(yes + open_, trials)[1])
    x = [n / d for n, d in cells]
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.plot(x, middle, markersize=3, linewidth=1.2, **style)


def _cells(rows: Rows, *names: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return dict(sorted(found.items()))


def _settings(rows: Rows, names: tuple[str, ...] = _SETTING) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every setting, by a title that tells it from the others."""
    _some(rows)
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    if len(found) > _MOST:
        raise ValueError(
            f"this figure is of at most {_MOST} settings: the run has {len(found)}. Draw from runs of their own."
        )
    titled = {}
    for setting in sorted(found, key=str):
        cell = dict(zip(names, setting, strict=True))
        shown = [cell["model"], cell["planted"]]
        for name in names[2:]:
            if cell[name] != _USUAL.get(name):
                shown.append(cell[name] if isinstance(cell[name], str) else f"{name} = {cell[name]:g}")
        titled[", ".join(shown)] = found[setting]
    return titled


def _some(rows: Rows) -> None:
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
