"""One training run over its steps: residual, column norms, and how many columns are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pruneft.plot._style import (
    ONE_COLUMN,
    PALETTE,
    Artist,
    Axes,
    Collection,
    Figure,
    Legend,
    Line2D,
    axes_or_new,
    dress,
    figure_of,
    legend_below,
    mpl,
    open_frame,
    vector,
)

# Light enough to print a line over, dark enough to be told apart; the first phase stays white.
_SHADES = ("#FFFFFF", "#DCDCDC", "#EFEFEF", "#C8C8C8")


class TrainingCurves(NamedTuple):
    """What ``training_curves`` drew.

    Attributes:
      figure: the whole figure.
      axes: from the top: residual, then column norms and number of columns if the history has them.
      residual: the line in the first panel.
      column_norms: one segment per column, or None.
      columns: the line of the number of columns, or None.
      phase_changes: the steps at which the phase changed.
      restarts: the steps at which a new attempt began.
      not_finite: crosses along the upper edge, at the steps whose residual was NaN or infinite, or None.
      legend: under the last panel; None where there is nothing to explain.
    """

    figure: Figure
    axes: tuple[Axes, ...]
    residual: Line2D
    column_norms: Collection | None
    columns: Line2D | None
    phase_changes: tuple[float, ...]
    restarts: tuple[float, ...]
    not_finite: Line2D | None
    legend: Legend | None


def training_curves(history: Mapping[str, Any], *, axes: Sequence[Axes] | np.ndarray | None = None) -> TrainingCurves:
    """Residual of one run against the step, with its phases shaded and its restarts marked, and its columns below.

    A residual that is NaN or infinite leaves a gap in the line and a cross at the upper edge. Norms and residuals that
    are exactly zero fall off the lower edge of their logarithmic axes.

    Args:
      history: arrays of one length t. ``step`` [t], counted over all attempts; ``residual`` [t], relative root mean
        square. If present also ``column_norms`` [t, k], ``columns`` [t] (columns above the pruning threshold),
        ``phase`` [t] (strings, or numbers) and ``attempt`` [t].
      axes: as many axes as there are panels: one, and one more for each of ``column_norms`` and ``columns``. None makes
        a figure one column wide.

    Raises:
      ValueError: ``step`` or ``residual`` is missing, lengths differ, steps decrease, or another number of axes.
    """
    missing = [name for name in ("step", "residual") if name not in history]
    if missing:
        raise ValueError(f"history: expected arrays step and residual, got {sorted(history)}: add {missing}.")
    step, residual = vector("step", history["step"]), vector("residual", history["residual"])
    for name in ("residual", "columns", "column_norms", "phase", "attempt"):
        if name in history and len(np.asarray(history[name])) != step.size:
            raise ValueError(
                f"history[{name!r}]: expected {step.size} entries as in step, got {len(np.asarray(history[name]))}."
            )
    if not np.isfinite(step).all() or (np.diff(step) < 0).any():
        raise ValueError("history['step'] must not decrease: add the steps of the earlier attempts to the later ones.")
    norms = np.asarray(history["column_norms"], dtype=np.float64) if "column_norms" in history else None
    if norms is not None and norms.ndim != 2:
        raise ValueError(f"history['column_norms']: expected shape [t, k], got {norms.shape}.")

    panels = 1 + ("column_norms" in history) + ("columns" in history)
    panes = axes_or_new(axes, panels, 1, (ONE_COLUMN, 0.8 + 1.35 * panels))
    first, rest = panes[0], list(panes[1:])
    finite = np.isfinite(residual)
    begins = _change_places(history.get("attempt"))
    (line,) = first.plot(
        *_broken(step, np.where(finite, residual, np.nan), begins), color=PALETTE[0], linewidth=1.2, label="residual"
    )
    first.set_yscale("log")
    handles: list[Artist] = []
    crosses = None
    if not finite.all():
        (crosses,) = first.plot(
            step[~finite],
            np.full(int((~finite).sum()), 0.95),
            transform=first.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=4.0,
            color=PALETTE[1],
            label="not finite",
        )
        handles.append(crosses)
    dress(first, y="relative residual")

    segments = None
    if norms is not None:
        pane = rest.pop(0)
        # A list of lines in one collection: hundreds of columns cost one artist.
        segments = mpl("collections").LineCollection(
            [np.column_stack(_broken(step, column, begins)) for column in norms.T],
            colors=PALETTE[0],
            linewidths=0.8,
            alpha=max(0.25, min(0.8, 12.0 / norms.shape[1])),
        )
        pane.add_collection(segments)
        pane.set_yscale("log")
        positive = norms[np.isfinite(norms) & (norms > 0)]
        if positive.size:
            # Below a millionth of the largest norm a column is gone; drawing its fall further would flatten the others.
            pane.set_ylim(max(positive.min(), positive.max() * 1e-6) / 1.5, positive.max() * 1.5)
        dress(pane, y="column norms")
    count = None
    if "columns" in history:
        pane = rest.pop(0)
        left = vector("columns", history["columns"])
        (count,) = pane.plot(
            *_broken(step, left, begins), drawstyle="steps-post", color=PALETTE[2], linewidth=1.2, label="columns"
        )
        pane.set_ylim(0, 1.08 * max(1.0, float(np.nanmax(left, initial=0.0))))
        pane.yaxis.set_major_locator(mpl("ticker").MaxNLocator(integer=True, nbins=5))
        dress(pane, y="columns left")

    for pane in panes:
        if step[0] < step[-1]:
            pane.set_xlim(step[0], step[-1] + 0.015 * (step[-1] - step[0]))
        open_frame(pane)
    phases, explained = _shade_phases(panes, step, history.get("phase"))
    handles += explained
    restarts = tuple(float(step[b]) for b in begins)
    for pane in panes:
        for where in restarts:
            mark = pane.axvline(where, color="black", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1, label="restart")
    if restarts:
        handles.append(mark)
    dress(panes[-1], x="step")
    legend = legend_below(panes[-1], handles, columns=3) if handles else None
    return TrainingCurves(figure_of(first), tuple(panes), line, segments, count, phases, restarts, crosses, legend)


def _change_places(values: Any) -> list[int]:
    """Indices at which a value differs from the one before."""
    if values is None:
        return []
    array = np.asarray(values)
    return [int(i) + 1 for i in np.flatnonzero(array[1:] != array[:-1])]


def _broken(step: np.ndarray, values: np.ndarray, begins: list[int]) -> list[np.ndarray]:
    """A line's data with a gap before each new attempt, which does not go on from where the last one ended."""
    return [np.insert(step, begins, step[begins]), np.insert(values, begins, np.nan)]


def _shade_phases(panes: Sequence[Axes], step: np.ndarray, phase: Any) -> tuple[tuple[float, ...], list[Artist]]:
    """Shades behind the phases after the first, a thin line where each begins, and the legend's patches."""
    places = _change_places(phase)
    if not places:
        return (), []
    names = np.asarray(phase)
    kinds = list(dict.fromkeys(names.tolist()))
    begins = [0, *places]
    ends = [float(step[b]) for b in begins[1:]] + [float(step[-1])]
    handles: list[Artist] = []
    for i, kind in enumerate(kinds):
        label = kind if isinstance(kind, str) else f"phase {kind}"
        shade = _SHADES[min(i, len(_SHADES) - 1)] if i < len(_SHADES) else _SHADES[1 + (i - 1) % (len(_SHADES) - 1)]
        patch = mpl("patches").Patch(facecolor=shade, edgecolor="#555555", linewidth=0.5, label=label)
        handles.append(patch)
        for b, end in zip(begins, ends, strict=True):
            if names[b] == kind and i > 0:
                for pane in panes:
                    pane.axvspan(float(step[b]), end, facecolor=shade, linewidth=0.0, zorder=0)
                    # A phase of a few steps has no width in a run of thousands; the line is still seen.
                    pane.axvline(float(step[b]), color="#555555", linewidth=0.5, zorder=0.5)
    return tuple(float(step[b]) for b in places), handles
