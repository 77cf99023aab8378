"""Column norms of a factor: what a penalty leaves, and what pruning takes away.

``column_norms`` is Figure 1 of Rajaraman, Devvrit, Mokhtari and Ramchandran, "Greedy pruning with group Lasso provably
generalizes for matrix sensing" (NeurIPS 2023, arXiv:2303.11453).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruneft.plot._style import (
    GREY,
    ONE_COLUMN,
    PALETTE,
    TWO_COLUMNS,
    Axes,
    Figure,
    Legend,
    Line2D,
    StepPatch,
    axes_or_new,
    dress,
    figure_of,
    legend_below,
    legend_of_figure,
    mpl,
    open_frame,
    series_style,
    vector,
)

_BINS = 40


class ColumnNorms(NamedTuple):
    """What ``column_norms`` drew.

    Attributes:
      figure: the whole figure.
      axes: left, the shares; right, the histogram.
      shares: label to its step curve; the data are (x, share), and a share holds on the interval to the left of its x.
      histograms: label to its steps; the values are columns per bin, averaged over the seeds.
      thresholds: the line in the left and in the right axes, or nothing.
      law: the overlay, or None.
      legend: under both axes, or under the left one if the axes were given.
    """

    figure: Figure
    axes: tuple[Axes, Axes]
    shares: dict[str, Line2D]
    histograms: dict[str, StepPatch]
    thresholds: tuple[Line2D, ...]
    law: Line2D | None
    legend: Legend


class BeforeAfter(NamedTuple):
    """What ``before_after`` drew: markers of the kept and of the pruned columns, and of those that are exactly zero.

    ``kept``, ``pruned``, ``zero`` and ``threshold`` are None where there is nothing to draw.
    """

    figure: Figure
    axes: Axes
    kept: Line2D | None
    pruned: Line2D | None
    zero: Line2D | None
    threshold: Line2D | None
    legend: Legend


def column_norms(
    norms: Mapping[str, ArrayLike],
    *,
    threshold: float | None = None,
    law: tuple[ArrayLike, ArrayLike] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> ColumnNorms:
    """How the column norms of trained factors spread: share above x times the largest, and a histogram of them.

    Both are taken relative to the largest norm of each seed, then averaged over the seeds. Both vertical axes are
    logarithmic, so that 4 large columns and 496 small ones can be read from the same picture.

    Args:
      norms: label to column norms, [k] or [seeds, k], all finite and none negative. k may differ between labels.
      threshold: pruning threshold relative to the largest norm, in [0, 1].
      law: (x, share), a curve to lay over the left panel, such as the law of an unregularised factor.
      axes: two axes; None makes a figure two columns wide.

    Raises:
      ValueError: no label, norms of another shape, NaN, infinite or negative norms, a seed whose norms are all zero, a
        threshold outside [0, 1], a law whose two arrays differ in length, or another number of axes than two.
    """
    if not norms:
        raise ValueError("norms: expected at least one label, got none.")
    ratios = {label: _relative(label, values) for label, values in norms.items()}
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold: expected a share of the largest norm in [0, 1], got {threshold}.")
    overlay = None
    if law is not None:
        overlay = vector("law x", law[0]), vector("law share", law[1])
        if overlay[0].shape != overlay[1].shape:
            raise ValueError(f"law: expected x and share equally long, got {overlay[0].size} and {overlay[1].size}.")

    left, right = axes_or_new(axes, 1, 2, (TWO_COLUMNS, 2.7))
    shares: dict[str, Line2D] = {}
    histograms: dict[str, StepPatch] = {}
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    # Without a floor the outline of an empty bin would fall to minus infinity, and its sides with it.
    floor = 0.5 / max(r.shape[0] for r in ratios.values())
    tallest = 1.0
    for i, (label, ratio) in enumerate(ratios.items()):
        style = series_style(i)
        x, share = _share(ratio)
        (shares[label],) = left.plot(x, share, drawstyle="steps-pre", linewidth=1.5, label=label, **style)
        count = np.histogram(ratio, edges)[0] / ratio.shape[0]
        tallest = max(tallest, float(count.max()))
        bars = right.stairs(count, edges, baseline=floor, fill=False, linewidth=1.3, **style)
        right.stairs(count, edges, baseline=floor, fill=True, color=style["color"], alpha=0.1, linewidth=0.0)
        histograms[label] = bars
    handles = list(shares.values())
    law_line = None
    if overlay is not None:
        (law_line,) = left.plot(
            *overlay, color="black", linewidth=0.9, linestyle=(0, (1, 2)), label="unregularised law", zorder=3
        )
        handles.append(law_line)
    thresholds = []
    if threshold is not None:
        look: dict[str, Any] = {
            "color": GREY,
            "linewidth": 1.0,
            "linestyle": (0, (3, 2)),
            "zorder": 1,
            "label": "pruning threshold",
        }
        thresholds = [ax.axvline(threshold, **look) for ax in (left, right)]
        handles.append(thresholds[0])

    smallest = min(1.0 / r.shape[1] for r in ratios.values())
    left.set(yscale="log", xlim=(0, 1), ylim=(smallest / 1.6, 1.3))
    right.set(yscale="log", xlim=(0, 1), ylim=(floor, 2.0 * tallest))
    dress(left, x="x", y="share of columns with norm\nat least x · largest")
    several = any(r.shape[0] > 1 for r in ratios.values())
    dress(right, x="column norm / largest", y="columns per bin" + (",\nmean over seeds" if several else ""))
    for ax in (left, right):
        open_frame(ax)
    # In a figure of our own the legend goes under both panels; in somebody else's, its place is the axes we were given.
    legend = legend_below(left, handles) if axes is not None else legend_of_figure(figure_of(left), handles, columns=5)
    return ColumnNorms(figure_of(left), (left, right), shares, histograms, tuple(thresholds), law_line, legend)


def before_after(
    norms: ArrayLike, kept: ArrayLike, *, threshold: float | None = None, ax: Axes | None = None
) -> BeforeAfter:
    """Column norms of one factor in descending order, on a logarithmic axis, with the kept ones told from the pruned.

    Columns that are exactly zero have no place on such an axis: they are drawn along its lower edge, as open triangles.

    Args:
      norms: [k] column norms before pruning, finite and not negative, not all zero.
      kept: [k] booleans, True for a column that pruning kept.
      threshold: the pruning threshold, in the units of the norms. None draws the (geometric) middle of the gap between
        the kept and the pruned columns, if there is a gap.
      ax: where to draw; None makes a figure one column wide.

    Raises:
      ValueError: shapes that differ, ``kept`` not boolean, a kept column of norm zero, NaN, infinite or negative norms,
        all norms zero, or a threshold that is not positive.
    """
    size = vector("norms", norms)
    mask = np.asarray(kept)
    if mask.shape != size.shape or mask.dtype != np.bool_:
        raise ValueError(f"kept: expected {size.size} booleans, got {mask.dtype} of shape {mask.shape}.")
    _relative("norms", size)
    if threshold is not None and not threshold > 0.0:
        raise ValueError(f"threshold: expected a positive norm, got {threshold}.")
    order = np.argsort(-size, kind="stable")
    size, mask = size[order], mask[order]
    place = np.arange(1, size.size + 1)
    positive = size > 0

    ax = axes_or_new(None if ax is None else [ax], 1, 1, (ONE_COLUMN, 2.5))[0]
    ax.set_yscale("log")
    marker_size = 4.0 if size.size <= 60 else 2.6
    look: dict[str, dict[str, Any]] = {
        "kept": {"marker": "o", "color": PALETTE[0]},
        "pruned": {"marker": "x", "color": PALETTE[1], "markeredgewidth": 0.9},
        "pruned, exactly zero": {"marker": "v", "color": PALETTE[1], "fillstyle": "none", "markeredgewidth": 0.7},
    }
    lowest = float(size[positive].min()) / 3.0
    groups = {"kept": mask & positive, "pruned": ~mask & positive, "pruned, exactly zero": ~positive}
    if (mask & ~positive).any():
        raise ValueError("kept: a column whose norm is zero is marked as kept.")
    drawn: dict[str, Line2D | None] = {}
    for name, members in groups.items():
        drawn[name] = None
        if members.any():
            height = size[members] if name != "pruned, exactly zero" else np.full(int(members.sum()), lowest)
            label = f"{name} ({int(members.sum())})"
            (drawn[name],) = ax.plot(
                place[members], height, linestyle="none", markersize=marker_size, label=label, **look[name]
            )
    name = "threshold"
    small, large = size[groups["pruned"]], size[groups["kept"]]
    if threshold is None and small.size and large.size and small.max() < large.min():
        threshold, name = float(np.sqrt(small.max() * large.min())), "middle of the gap"
    line = None
    if threshold is not None:
        line = ax.axhline(threshold, color=GREY, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1, label=name)
    low = min(lowest if not positive.all() else lowest * 2.0, threshold or np.inf)
    ax.set_ylim(low / 1.5, max(float(size[0]), threshold or 0.0) * 1.6)
    ax.set_xlim(0.5 - 0.02 * size.size, size.size + 0.5 + 0.02 * size.size)
    ax.xaxis.set_major_locator(mpl("ticker").MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))
    dress(ax, x="column, from the largest", y="column norm")
    open_frame(ax)
    legend = legend_below(ax, [artist for artist in (*drawn.values(), line) if artist is not None])
    return BeforeAfter(
        figure_of(ax), ax, drawn["kept"], drawn["pruned"], drawn["pruned, exactly zero"], threshold=line, legend=legend
    )


def _relative(label: str, norms: ArrayLike) -> np.ndarray:
    """[seeds, k] norms relative to the largest of each seed, checked."""
    array = np.asarray(norms, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{label}: expected norms of shape [k] or [seeds, k], not empty, got shape {array.shape}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{label}: expected finite norms, got {bad} that are NaN or infinite. Leave out failed seeds.")
    if (array < 0).any():
        raise ValueError(f"{label}: expected norms, got a negative number {array.min():g}.")
    array = np.atleast_2d(array)
    largest = array.max(axis=1, keepdims=True)
    if (largest == 0).any():
        raise ValueError(f"{label}: all norms of a seed are zero, so none is relative to the largest. Leave it out.")
    return array / largest


def _share(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the share of columns with ratio >= x steps, exactly, and its value up to there.

    All seeds have equally many columns, so the mean of their shares is the share of all columns together.
    """
    values, count = np.unique(ratio, return_counts=True)
    at_least = np.cumsum(count[::-1])[::-1] / ratio.size
    if values[0] == 0.0:
        return values, at_least
    return np.concatenate([[0.0], values]), np.concatenate([[1.0], at_least])
