"""Estimation error against the number of measurements, several methods and the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruneft.plot._style import (
    MARKERS,
    ONE_COLUMN,
    Axes,
    Collection,
    Figure,
    Legend,
    Line2D,
    axes_or_new,
    dress,
    figure_of,
    legend_below,
    legend_of_figure,
    log_axis,
    open_frame,
    series_style,
    vector,
)


class RiskCurve(NamedTuple):
    """What ``risk_curve`` drew.

    Attributes:
      figure: the whole figure.
      axes: the axes.
      medians: label to the line through the medians, in the order of x ascending.
      bands: label to the band between the quartiles.
      oracle: its line, or None.
      not_finite: label to the number of trials that were NaN or infinite, also said in the legend.
      legend: under the axes.
    """

    figure: Figure
    axes: Axes
    medians: dict[str, Line2D]
    bands: dict[str, Collection]
    oracle: Line2D | None
    not_finite: dict[str, int]
    legend: Legend


def risk_curve(
    x: ArrayLike,
    errors: Mapping[str, Sequence[ArrayLike]],
    oracle: ArrayLike | None = None,
    *,
    x_label: str = "measurements n",
    y_label: str = r"relative error $\|\hat{M} - M_{*}\|_F\,/\,\|M_{*}\|_F$",
    ax: Axes | None = None,
) -> RiskCurve:
    """Median error per method with the band between the quartiles, on logarithmic axes, and the oracle's error.

    A trial that is NaN or infinite counts as an infinite error and not as a missing one, so that a method gains nothing
    from failing; where half of the trials failed, the line has a gap.

    Args:
      x: [points], positive and each once, in any order.
      errors: label to one array of errors per x, each [trials]; the numbers of trials may differ, and an empty array
        leaves a gap.
      oracle: [points] error of the oracle at each x.
      x_label: label of the horizontal axis.
      y_label: label of the vertical axis.
      ax: where to draw; None makes a figure one column wide.

    Raises:
      ValueError: no method, no finite median anywhere, x not positive or repeated, lengths that differ from that of x,
        or a negative error.
    """
    where = vector("x", x)
    if not (np.isfinite(where) & (where > 0)).all() or np.unique(where).size != where.size:
        raise ValueError(f"x: expected positive numbers, each once, got {where.tolist()}.")
    if not errors:
        raise ValueError("errors: expected at least one method, got none.")
    order = np.argsort(where)
    quartiles: dict[str, np.ndarray] = {}
    failed: dict[str, int] = {}
    for label, series in errors.items():
        if len(series) != where.size:
            raise ValueError(f"errors[{label!r}]: expected {where.size} arrays, one per x, got {len(series)}.")
        arrays = [np.asarray(series[i], dtype=np.float64).ravel() for i in order]
        if any((a < 0).any() for a in arrays):
            raise ValueError(f"errors[{label!r}]: expected errors, got a negative number.")
        failed[label] = sum(int((~np.isfinite(a)).sum()) for a in arrays)
        quartiles[label] = np.array([[_quantile(a, q) for q in (0.25, 0.5, 0.75)] for a in arrays])
    if not any(np.isfinite(q[:, 1]).any() for q in quartiles.values()):
        raise ValueError("errors: no method has a finite median anywhere: nothing to draw.")
    limit = None
    if oracle is not None:
        limit = vector("oracle", oracle)
        if limit.shape != where.shape:
            raise ValueError(f"oracle: expected {where.size} entries as in x, got {limit.size}.")
        limit = limit[order]

    given = ax is not None
    ax = axes_or_new(None if ax is None else [ax], 1, 1, (ONE_COLUMN, 2.9))[0]
    ax.set(xscale="log", yscale="log")
    at = where[order]
    finite = np.concatenate([q[np.isfinite(q)] for q in quartiles.values()])
    top = 3.0 * float(finite.max())
    medians: dict[str, Line2D] = {}
    bands: dict[str, Collection] = {}
    for i, (label, quartile) in enumerate(quartiles.items()):
        style = series_style(i)
        low, middle, high = np.where(np.isinf(quartile), np.nan, quartile).T
        # A band whose upper quartile is infinite reaches out of the picture; one whose lower is, is not there.
        high = np.where(np.isinf(quartile[:, 2]) & np.isfinite(low), top, high)
        bands[label] = ax.fill_between(at, low, high, color=style["color"], alpha=0.18, linewidth=0.0)
        name = label if failed[label] == 0 else f"{label} ({failed[label]} not finite)"
        marker = MARKERS[i % len(MARKERS)]
        (medians[label],) = ax.plot(at, middle, marker=marker, markersize=3.5, linewidth=1.3, label=name, **style)
    handles = list(medians.values())
    line = None
    if limit is not None:
        (line,) = ax.plot(at, limit, color="black", linewidth=1.0, linestyle=(0, (1, 1.5)), label="oracle", zorder=3)
        handles.append(line)
        finite = np.concatenate([finite, limit[np.isfinite(limit)]])
    positive = finite[finite > 0]
    if positive.size:
        ax.set_ylim(positive.min() / 1.4, positive.max() * 1.4)
        log_axis(ax.yaxis, *ax.get_ylim())
    margin = (at[-1] / at[0]) ** 0.04 if at.size > 1 else 1.5
    ax.set_xlim(at[0] / margin, at[-1] * margin)
    log_axis(ax.xaxis, *ax.get_xlim())
    dress(ax, x=x_label, y=y_label)
    open_frame(ax)
    legend = legend_below(ax, handles) if given else legend_of_figure(figure_of(ax), handles, columns=2)
    return RiskCurve(figure_of(ax), ax, medians, bands, line, failed, legend)


def _quantile(values: np.ndarray, q: float) -> float:
    """Quantile by linear interpolation, with what is not finite as plus infinity; NaN for no values at all."""
    if values.size == 0:
        return float("nan")
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf))
    place = q * (ordered.size - 1)
    low, share = int(place), place - int(place)
    if share == 0.0:
        return float(ordered[low])
    # Written so that an infinite neighbour gives infinity and never inf - inf.
    return float((1.0 - share) * ordered[low] + share * ordered[low + 1])
