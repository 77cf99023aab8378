"""Phase diagrams: how often recovery succeeds, per row (a rank, say) and number of measurements."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruneft.plot._cells import Cells, row_key
from pruneft.plot._labels import label_cells
from pruneft.plot._style import (
    LABEL_SIZE,
    ONE_COLUMN,
    TICK_SIZE,
    TWO_COLUMNS,
    Artist,
    Axes,
    Colorbar,
    Figure,
    Legend,
    Line2D,
    Rectangle,
    Text,
    axes_or_new,
    dress,
    figure_of,
    legend_below,
    legend_of_figure,
    log_axis,
    mpl,
    new_figure,
)

ROW_LABEL = "true rank r"
X_LABEL = "measurements per degree of freedom, n / dof"
COLOUR_LABEL = "success probability"

# Perceptually uniform, made for colour-blind readers, and lighter with every step also in grey.
_COLOUR_MAP = "cividis"
_NOT_RUN = {"facecolor": "#EDEDED", "edgecolor": "#A8A8A8", "hatch": "//////", "linewidth": 0.0}
# Hues that cividis (blue to yellow) does not hold, each with a line style of its own; all are drawn on a white casing.
_CURVE_STYLES: tuple[tuple[str, Any], ...] = (
    ("#D55E00", "-"),
    ("#000000", (0, (4, 1.6))),
    ("#B0308A", (0, (1, 1.1))),
    ("#007A5A", (0, (6, 1.5, 1, 1.5))),
    ("#8A1C00", (0, (2.2, 1.2))),
    ("#4B0092", (0, (7, 2.5))),
)


class Curve(NamedTuple):
    """A theory curve of a phase diagram.

    Attributes:
      label: its name in the legend.
      values: row to x, for any of the rows; rows that the diagram does not have are passed over. An infinite x means
        "beyond every range".
    """

    label: str
    values: Mapping[Any, float]


class PhaseDiagram(NamedTuple):
    """What ``phase_diagram`` drew.

    Attributes:
      figure: the whole figure.
      axes: the axes with the cells; row number i (in the order of ``rows``) is the band from i - 1/2 to i + 1/2.
      rows: the row values, from the lowest band up.
      cells: one rectangle per cell, in the order of the input.
      labels: the fractions, for the cells that are wide enough; empty where most are not.
      transitions: row to the x at which success passes one half, for the rows that do.
      transition_lines: the marks for them, in the order of ``transitions``.
      curves: label to its line. A curve's arrows at the edge of the range are in ``arrows``.
      arrows: (label, row) to the mark that says on which side of the range the curve lies.
      colorbar: None in a panel, where all share one.
      legend: None where nothing needs one, and in a panel.
    """

    figure: Figure
    axes: Axes
    rows: tuple[Any, ...]
    cells: tuple[Rectangle, ...]
    labels: tuple[Text, ...]
    transitions: dict[Any, float]
    transition_lines: tuple[Line2D, ...]
    curves: dict[str, Line2D]
    arrows: dict[tuple[str, Any], Line2D]
    colorbar: Colorbar | None
    legend: Legend | None


class PhasePanels(NamedTuple):
    """What ``phase_panels`` drew: the figure, one diagram per title, and the colour bar and legend that they share."""

    figure: Figure
    diagrams: dict[str, PhaseDiagram]
    colorbar: Colorbar
    legend: Legend | None


def phase_diagram(
    row: Any,
    x: ArrayLike,
    successes: ArrayLike,
    trials: ArrayLike,
    *,
    curves: Sequence[Curve] = (),
    row_label: str = ROW_LABEL,
    x_label: str = X_LABEL,
    title: str | None = None,
    scale: str = "auto",
    ax: Axes | None = None,
) -> PhaseDiagram:
    """Success probability over rows and x, one rectangle per cell, with the 50 % points and theory curves.

    Every row has x values of its own; a cell reaches half-way to its neighbours in the row (half-way in the logarithm
    on a logarithmic axis). A cell shows its fraction of successes where there is room: ``1`` and ``0`` stand for all
    and none, and whatever lies between is shown as ``.01`` to ``.99``. Cells with no trial are hatched.

    The 50 % point of a row is where linear interpolation between neighbouring cells passes one half for the last time,
    and is drawn only if some cell lies below one half and all cells after the crossing lie at or above it.

    Args:
      row: [cells] the row of each cell: numbers (drawn in ascending order) or strings (in order of appearance).
      x: [cells] position in the row.
      successes: [cells] number of trials that succeeded; what stands where nothing was run does not matter.
      trials: [cells] number of trials; 0 or NaN for a cell that was never run.
      curves: theory curves; where one leaves the range of x, an arrow at the edge says on which side it is.
      row_label: label of the vertical axis.
      x_label: label of the horizontal axis.
      title: above the axes.
      scale: "linear", "log", or "auto": logarithmic if all x are positive and they span a factor of 20, or lie at
        least four times denser at the low end.
      ax: where to draw; None makes a figure one column wide.

    Raises:
      ValueError: no cell, lengths that differ, x not finite, more successes than trials, a cell given twice, an unknown
        scale, or a logarithmic scale with an x that is not positive.
    """
    cells = Cells.checked(row, x, successes, trials, scale)
    size = (ONE_COLUMN, _height(len(cells.rows)) + 0.16 * math.ceil((len(curves) + 1) / 2))
    axes = axes_or_new(None if ax is None else [ax], 1, 1, size)[0]
    diagram, handles = _draw(axes, cells, curves, {c.label: i for i, c in enumerate(curves)})
    dress(axes, x=x_label, y=row_label, title=title)
    bar = _colour_bar(diagram.figure, axes)
    legend = None
    if handles:
        # A figure of our own gives the legend its whole width; somebody else's may hold more than this diagram.
        keys = list(handles.values())
        legend = legend_below(axes, keys) if ax is not None else legend_of_figure(diagram.figure, keys, columns=2)
    labels = label_cells(axes, cells, diagram.cells, _lines(diagram))
    return diagram._replace(colorbar=bar, legend=legend, labels=labels)


def phase_panels(
    panels: Mapping[str, Mapping[str, Any]],
    *,
    columns: int | None = None,
    row_label: str = ROW_LABEL,
    x_label: str = X_LABEL,
    title: str | None = None,
) -> PhasePanels:
    """Several phase diagrams in a new figure two columns wide, with one colour bar and one legend.

    A curve's style follows its label, so that it is the same in every panel.

    Args:
      panels: title to the arguments of ``phase_diagram``: ``row``, ``x``, ``successes``, ``trials``, and if wanted
        ``curves`` and ``scale``.
      columns: panels side by side; None chooses at most three.
      row_label: label of all vertical axes.
      x_label: label of all horizontal axes.
      title: above all panels.

    Raises:
      ValueError: no panel, an argument that a panel does not take or lacks, or what ``phase_diagram`` raises.
    """
    if not panels:
        raise ValueError("panels: expected at least one panel, got none.")
    needed, optional = {"row", "x", "successes", "trials"}, {"curves", "scale"}
    for name, given in panels.items():
        if not needed <= set(given) <= needed | optional:
            raise ValueError(
                f"panel {name!r}: expected {sorted(needed)} and possibly {sorted(optional)}, got {sorted(given)}."
            )
    if columns is not None and columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}.")
    across = min(len(panels), columns or (2 if len(panels) in (2, 4) else 3))
    down = math.ceil(len(panels) / across)
    checked = {
        name: Cells.checked(p["row"], p["x"], p["successes"], p["trials"], p.get("scale", "auto"))
        for name, p in panels.items()
    }
    styles: dict[str, int] = {}
    for p in panels.values():
        for curve in p.get("curves", ()):
            styles.setdefault(curve.label, len(styles))

    tallest = max(len(c.rows) for c in checked.values())
    figure = new_figure(TWO_COLUMNS if across > 1 else ONE_COLUMN, down * (_height(tallest) - 0.5) + 0.75)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for spare in grid[len(panels) :]:
        spare.remove()
    used = list(grid[: len(panels)])
    # Three labels side by side would run into one another unless each takes two lines.
    below = textwrap.fill(x_label, 30) if across > 2 else x_label
    diagrams: dict[str, PhaseDiagram] = {}
    handles: dict[str, Artist] = {}
    for number, (ax, (name, p)) in enumerate(zip(used, panels.items(), strict=True)):
        diagrams[name], mine = _draw(ax, checked[name], p.get("curves", ()), styles)
        handles |= {label: handle for label, handle in mine.items() if label not in handles}
        lowest = number + across >= len(panels)
        dress(ax, x=below if lowest else None, y=row_label if number % across == 0 else None, title=name)
    bar = _colour_bar(figure, used)
    if title is not None:
        figure.suptitle(title, fontsize=LABEL_SIZE + 1)
    legend = None
    if handles:
        legend = legend_of_figure(figure, list(handles.values()), columns=4 if across > 1 else 2)
    for name, diagram in diagrams.items():
        labels = label_cells(diagram.axes, checked[name], diagram.cells, _lines(diagram))
        diagrams[name] = diagram._replace(labels=labels)
    return PhasePanels(figure, diagrams, bar, legend)


def _height(rows: int) -> float:
    """Inches: bands that a fraction fits into while there are few, and never a figure taller than a page."""
    return max(2.1, 1.25 + rows * min(0.36, max(0.13, 3.2 / rows)))


def _draw(
    ax: Axes, cells: Cells, curves: Sequence[Curve], styles: Mapping[str, int]
) -> tuple[PhaseDiagram, dict[str, Artist]]:
    """The cells, transitions and curves, and the legend's handles; labels come once the layout is known."""
    colour = mpl().colormaps[_COLOUR_MAP]
    patches, lines = mpl("patches"), mpl("lines")
    seam = 0.5 if cells.x.size <= 150 else 0.0
    drawn: list[Any] = []
    for i, p in enumerate(cells.probability):
        look = dict(_NOT_RUN) if np.isnan(p) else {"facecolor": colour(p), "edgecolor": "white", "linewidth": seam}
        corner = (cells.low[i], cells.row[i] - 0.5)
        # Without snapping to whole pixels, hairlines of the paper show between the cells.
        drawn.append(ax.add_patch(patches.Rectangle(corner, cells.high[i] - cells.low[i], 1.0, snap=True, **look)))
    ax.set_xscale(cells.scale)
    left, right = float(cells.low.min()), float(cells.high.max())
    ax.set_xlim(left, right)
    ax.set_ylim(-0.5, len(cells.rows) - 0.5)
    if np.unique(cells.x).size == 1:
        ax.set_xticks([cells.x[0]], [f"{cells.x[0]:g}"])
        ax.set_xticks([], minor=True)
    elif cells.scale == "log":
        log_axis(ax.xaxis, left, right)
    every = math.ceil(len(cells.rows) / 25)
    shown = range(0, len(cells.rows), every)
    ax.set_yticks(list(shown), [r if isinstance(r, str) else f"{r:g}" for r in (cells.rows[i] for i in shown)])

    handles: dict[str, Artist] = {}
    transitions = cells.transitions()
    marks = []
    for row_value, where in transitions.items():
        i = cells.rows.index(row_value)
        mark = lines.Line2D([where, where], [i - 0.5, i + 0.5], color="white", linewidth=1.8, solid_capstyle="butt")
        mark.set(zorder=3, label="50 % success", path_effects=_casing(3.4, "black"))
        marks.append(ax.add_line(mark))
    if marks:
        handles["50 % success"] = marks[0]

    curve_lines: dict[str, Line2D] = {}
    arrows: dict[tuple[str, Any], Line2D] = {}
    for curve in curves:
        line, mine = _draw_curve(ax, cells, curve, styles[curve.label], (left, right), arrows)
        curve_lines[curve.label] = handles[curve.label] = line
        arrows |= mine
    if any(arrow.get_marker() == "<" for arrow in arrows.values()):
        # Room for the arrows between the frame and the row's name.
        ax.tick_params(axis="y", pad=8.0)
    if np.isnan(cells.probability).any():
        handles["not run"] = patches.Patch(label="not run", **_NOT_RUN)
    diagram = PhaseDiagram(
        figure=figure_of(ax),
        axes=ax,
        rows=cells.rows,
        cells=tuple(drawn),
        labels=(),
        transitions=transitions,
        transition_lines=tuple(marks),
        curves=curve_lines,
        arrows=arrows,
        colorbar=None,
        legend=None,
    )
    return diagram, handles


def _draw_curve(
    ax: Axes,
    cells: Cells,
    curve: Curve,
    style: int,
    limits: tuple[float, float],
    taken: Mapping[tuple[str, Any], Line2D],
) -> tuple[Line2D, dict[tuple[str, Any], Line2D]]:
    """One theory curve: upright in every band, joined at the seams, an arrow at the edge where it is out of range.

    A curve of which nothing is to be seen gets no arrows: its name in the legend says where it is.
    """
    lines, transforms = mpl("lines"), mpl("transforms")
    colour, dashes = _CURVE_STYLES[style % len(_CURVE_STYLES)]
    left, right = limits
    values = {row_key(r): float(v) for r, v in curve.values.items()}
    if any(math.isnan(v) for v in values.values()):
        raise ValueError(f"curve {curve.label!r}: expected numbers, got NaN. Leave such rows out.")
    xs: list[float] = []
    ys: list[float] = []
    arrows: dict[tuple[str, Any], Line2D] = {}
    inside, sides, logarithmic = False, set(), cells.scale == "log"
    for i, row_value in enumerate(cells.rows):
        if row_value not in values:
            xs.append(math.nan)
            ys.append(math.nan)
            continue
        value = values[row_value]
        beyond = value > right
        # Outside, any place will do that is far enough: the drawing has no use for infinities, nor a log axis for zero.
        outside = 2 * right - left if beyond else left / 2 if logarithmic else 2 * left - right
        seen = value if left <= value <= right else outside
        xs += [seen, seen]
        ys += [i - 0.5, i + 0.5]
        if seen == value:
            inside = True
            continue
        sides.add("right" if beyond else "left")
        # Curves that leave on one side in one band stand one above the other.
        others = sum(r == row_value and line.get_marker() == (">" if beyond else "<") for (_, r), line in taken.items())
        shift = transforms.ScaledTranslation((3.2 if beyond else -3.2) / 72, 0.0, figure_of(ax).dpi_scale_trans)
        arrow = lines.Line2D(
            [1.0 if beyond else 0.0],
            [i + (0.0, 0.27, -0.27)[others % 3]],
            transform=ax.get_yaxis_transform() + shift,
            marker=">" if beyond else "<",
            markersize=3.6,
            markerfacecolor=colour,
            markeredgecolor=colour,
            linestyle="none",
            clip_on=False,
        )
        arrows[curve.label, row_value] = arrow
    label = curve.label if inside else f"{curve.label} ({' and '.join(sorted(sides)) or 'out'} of range)"
    for arrow in arrows.values() if inside else ():
        ax.add_line(arrow)
    line = lines.Line2D(xs, ys, color=colour, linestyle=dashes, linewidth=1.5, label=label)
    line.set(zorder=4, path_effects=_casing(3.0, "white"), dash_capstyle="butt", solid_joinstyle="miter")
    ax.add_line(line)
    return line, arrows if inside else {}


def _casing(width: float, colour: str) -> list[Any]:
    """A solid outline under a line, so that it stands off from dark and light cells alike."""
    effects = mpl("patheffects")
    return [
        effects.Stroke(linewidth=width, foreground=colour, dashes={"dash_offset": 0, "dash_list": None}),
        effects.Normal(),
    ]


def _colour_bar(figure: Figure, axes: Any) -> Colorbar:
    mappable = mpl("cm").ScalarMappable(norm=mpl("colors").Normalize(0.0, 1.0), cmap=_COLOUR_MAP)
    bar: Colorbar = figure.colorbar(mappable, ax=axes, pad=0.035, aspect=28, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", ".25", ".5", ".75", "1"])
    bar.ax.tick_params(labelsize=TICK_SIZE, width=0.6, length=3.0)
    bar.set_label(COLOUR_LABEL, fontsize=LABEL_SIZE)
    bar.ax.spines["outline"].set_linewidth(0.6)
    return bar


def _lines(diagram: PhaseDiagram) -> list[Line2D]:
    """The lines that a fraction should not stand on."""
    return [*diagram.transition_lines, *diagram.curves.values()]
