"""The figure of a run of ``relu``: sparsity, accuracy and iterations over the penalty weight, or gap and accuracy over iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.plot import PALETTE, new_figure


class Panel(NamedTuple):
    """One panel: medians of column ``y`` against those of ``x``, over groups of equal ``group``."""

    title: str
    y: str
    scale: str
    x: str
    group: str
    x_label: str


_LAM = tuple(
    Panel(title, name, scale, "lam_share", "lam_share", r"$\lambda / \lambda_{\max}$")
    for title, name, scale in (
        ("neurons", "neurons", "linear"),
        ("error on fresh samples", "error", "linear"),
        ("iterations", "iterations", "log"),
    )
)
_ITERATIONS = tuple(
    Panel(title, name, scale, "iterations", "tol", "iterations")
    for title, name, scale in (
        ("certified relative gap", "gap", "log"),
        ("objective", "objective", "log"),
        ("error on fresh samples", "error", "linear"),
    )
)
_SETTING = ("n", "d", "teacher", "sigma", "P", "form")


def draw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib Figure with one line for each loss, medians with the band between the quartiles.

    Neurons, error on fresh samples (share of wrong signs; relative for the squared loss) and iterations against the weight, where the
    run has several (at its least ``tol``); certified gap, objective and error against iterations, where it has several ``tol`` (at the
    middle one of its weights).

    Raises:
      ValueError: there are no rows, or more than one setting besides loss, lam_share and tol.
    """
    if not rows:
        raise ValueError("the run holds no finished trial yet, so there is nothing to draw.")
    for name in _SETTING:
        values = sorted({str(row[name]) for row in rows})
        if len(values) > 1:
            raise ValueError(
                f"this figure is for one setting: the run has {name} = {', '.join(values)}. Draw from a run of its own."
            )
    shares, tols = (sorted({row[name] for row in rows}) for name in ("lam_share", "tol"))
    views = []
    if len(shares) > 1 or len(tols) == 1:
        also = f", gap {tols[0]:g}" if len(tols) > 1 else ""
        views.append((_LAM, [row for row in rows if row["tol"] == tols[0]], also))
    if len(tols) > 1:
        share = shares[len(shares) // 2]
        also = f", share {share:g}" if len(shares) > 1 else ""
        views.append((_ITERATIONS, [row for row in rows if row["lam_share"] == share], also))
    figure = new_figure(7.8, 2.7 * len(views))
    grid = figure.subplots(len(views), 3, squeeze=False)
    for axes, (panels, shown, also) in zip(grid, views, strict=True):
        for ax, panel in zip(axes, panels, strict=False):
            _draw(ax, panel, shown, also)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
    grid[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _draw(ax: Any, panel: Panel, rows: Sequence[Mapping[str, Any]], also: str) -> None:
    for place, loss in enumerate(sorted({row["loss"] for row in rows})):
        mine = [row for row in rows if row["loss"] == loss]
        cells = [
            [row for row in mine if row[panel.group] == value] for value in sorted({row[panel.group] for row in mine})
        ]
        x = [float(np.median([row[panel.x] for row in cell])) for cell in cells]
        low, middle, high = np.array(
            [np.quantile([row[panel.y] for row in cell], (0.25, 0.5, 0.75)) for cell in cells]
        ).T
        ax.fill_between(x, low, high, color=PALETTE[place], alpha=0.18, linewidth=0)
        ax.plot(x, middle, "o-", color=PALETTE[place], markersize=3, linewidth=1.2, label=loss)
    ax.set(xscale="log", yscale=panel.scale, xlabel=panel.x_label + also)
    ax.set_title(panel.title, fontsize=8)
    if panel.scale == "linear":
        ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)
