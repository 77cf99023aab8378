"""Robust against clean accuracy: over the radius of training, and one against the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pruneft.plot._style import (
    GREY,
    MARKERS,
    PALETTE,
    TWO_COLUMNS,
    axes_or_new,
    dress,
    figure_of,
    mpl,
    new_figure,
    open_frame,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:
    Axes = Figure = Line2D = Any

_KINDS = {"clean": "-", "attacked": "--", "certified": ":"}


class TradeOffDrawing(NamedTuple):
    """What `trade_off` drew.

    Attributes:
      figure: that holds the panels.
      panels: accuracy over the radius; robust over clean accuracy.
      lines: by name, such as ``"convex, attacked"`` of the first panel and ``"convex"`` of the second.
    """

    figure: Figure
    panels: tuple[Axes, Axes]
    lines: dict[str, Line2D]


def trade_off(rows: Sequence[Any], *, axes: Sequence[Axes] | np.ndarray | None = None) -> TradeOffDrawing:
    """Accuracies of networks trained at several radii.

    Args:
      rows: what `pruneft.relu.adversarial.trade_off` returns: each with ``eps``, ``training``, ``attack``, ``clean``, ``attacked`` and
        ``certified``.
      axes: two, or None for a new figure.

    Raises:
      ValueError: there are no rows, or another number of axes.
    """
    if not len(rows):
        raise ValueError("there are no rows, so there is nothing to draw.")
    if axes is None:
        axes = new_figure(TWO_COLUMNS, 3.0).subplots(1, 2)
    left, right = axes_or_new(axes, 1, 2, (0, 0))
    lines = {}
    for place, training in enumerate(dict.fromkeys(row.training for row in rows)):
        mine = sorted((row for row in rows if row.training == training), key=lambda row: row.eps)
        style: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
        style |= {"markersize": 3.0, "linewidth": 1.2}
        eps = [row.eps for row in mine]
        for kind, dashes in _KINDS.items():
            label = f"{training}, {kind}"
            (lines[label],) = left.plot(
                eps, [getattr(row, kind) for row in mine], linestyle=dashes, label=label, **style
            )
        x, y = [row.clean for row in mine], [row.attacked for row in mine]
        (lines[training],) = right.plot(x, y, label=training, **style)
        right.annotate(f"{eps[-1]:g}", (x[-1], y[-1]), xytext=(3, 3), textcoords="offset points", fontsize=6)
    attacks = sorted({row.attack for row in rows})
    attacked = f"of {attacks[0]:g}" if len(attacks) == 1 else "of the radius of training"
    dress(left, x="radius of training", y="accuracy")
    dress(right, x="clean accuracy", y="accuracy under attack", title=f"attack {attacked}")
    kinds = [mpl("lines").Line2D([], [], color=GREY, linestyle=dashes, label=kind) for kind, dashes in _KINDS.items()]
    left.legend(handles=kinds, frameon=False, fontsize=7)
    right.legend(frameon=False, fontsize=7)
    for ax in (left, right):
        open_frame(ax)
    return TradeOffDrawing(figure_of(left), (left, right), lines)
