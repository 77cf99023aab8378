"""Where success passes one half along a row of cells, with what the trials leave open."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Where recovery is possible it may still fail for reasons of its own: a model that tends to 1 gives bands that are too
# narrow as soon as one of a thousand easy trials fails.
_MISS = 0.03
# What the page says of it.
METHOD = "The 50 % point is the posterior median of a logistic curve that tends to 97 %, its interval the central 95 %."

# All lengths in units of the row's range of x. The prior reaches half a range beyond the cells on either side.
_REACH = 0.5
_WIDTHS = (0.003, 0.5)
# Places and widths of three grids, each inside the one before.
_GRIDS = ((101, 14), (101, 14), (301, 20))


class Transition(NamedTuple):
    """The 50 % point of one row.

    Attributes:
      point: posterior median; NaN where success was never or always seen, or the median lies outside the cells.
      low, high: ends of the central 95 percent; NaN where they lie outside the cells.
      note: why an end is missing, as a sentence; empty where the point is bracketed.
    """

    point: float
    low: float
    high: float
    note: str

    @property
    def bracketed(self) -> bool:
        """Whether the cells enclose the whole interval."""
        return not self.note


def transition(x: ArrayLike, successes: ArrayLike, trials: ArrayLike, *, scale: str = "linear") -> Transition:
    r"""The x at which half of the trials succeed, with a 95 percent credible interval.

    Posterior on a grid for

    .. math:: P(x) = (1 - \epsilon) / (1 + e^{-(x - \mu)/s}), \qquad \epsilon = 0.03,

    flat in the point c with P(c) = 1/2 and in log s. Success may fall with x instead; then -x takes the place of x.

    Args:
      x: [cells]; cells without trials are passed over.
      successes: [cells].
      trials: [cells].
      scale: "linear", or "log" for the logistic in log x (all x positive).

    Raises:
      ValueError: lengths differ, a count is impossible, or x is not finite, or not positive on a logarithmic scale.
    """
    where, good, total = (np.asarray(values, dtype=np.float64).ravel() for values in (x, successes, trials))
    if not where.size == good.size == total.size:
        raise ValueError(
            f"x, successes and trials must be equally long, got {where.size}, {good.size} and {total.size}."
        )
    if not ((good >= 0) & (good <= total)).all():
        raise ValueError(f"expected 0 <= successes <= trials, got {good.tolist()} of {total.tolist()}.")
    if not np.isfinite(where).all() or (scale == "log" and not (where > 0).all()):
        raise ValueError(f"x: expected finite{' positive' if scale == 'log' else ''} numbers, got {where.tolist()}.")
    run = total > 0
    where, good, total = where[run], good[run], total[run]
    if good.sum() == 0:
        return _open("success was never seen" if total.sum() else "no trials")
    if (good == total).all():
        return _open("success was always seen")
    place = np.log(where) if scale == "log" else where
    start, span = float(place.min()), float(np.ptp(place))
    if span == 0.0:
        return _open("a single x")
    unit = (place - start) / span
    weight = total / total.sum()
    slope = np.sum(weight * (unit - np.sum(weight * unit)) * (good / total))
    falls = slope < 0
    low, middle, high = _quantiles(1 - unit if falls else unit, good, total)
    if falls:
        low, middle, high = 1 - high, 1 - middle, 1 - low

    def back(value: float) -> float:
        if not 0.0 <= value <= 1.0:
            return math.nan
        there = start + span * value
        return math.exp(there) if scale == "log" else there

    beyond = [side for side, out in (("below", low < 0), ("above", high > 1)) if out]
    note = f"the interval reaches {' and '.join(beyond)} the cells that were run" if beyond else ""
    return Transition(back(middle), back(low), back(high), note)


def _open(note: str) -> Transition:
    return Transition(math.nan, math.nan, math.nan, note)


def _quantiles(unit: np.ndarray, good: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The 2.5, 50 and 97.5 percent points of c; every grid covers what the one before left any weight."""
    ends, widths = (-_REACH, 1 + _REACH), _WIDTHS
    for count, count_widths in _GRIDS:
        points = np.linspace(*ends, count)
        shapes = np.geomspace(*widths, count_widths)
        weight = _posterior(points, shapes, unit, good, total)
        ends, widths = _kept(points, weight.max(axis=1)), _kept(shapes, weight.max(axis=0))
    mass = weight.sum(axis=1) - (weight[:, 0] + weight[:, -1]) / 2
    below = np.concatenate([[0.0], np.cumsum((mass[1:] + mass[:-1]) / 2)])
    return np.interp([0.025, 0.5, 0.975], below / below[-1], points)


def _kept(grid: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The part of a grid outside of which there is next to nothing, and one place more on either side."""
    there = np.flatnonzero(weight > 1e-8 * weight.max())
    return float(grid[max(there[0] - 1, 0)]), float(grid[min(there[-1] + 1, grid.size - 1)])


def _posterior(
    points: np.ndarray, widths: np.ndarray, unit: np.ndarray, good: np.ndarray, total: np.ndarray
) -> np.ndarray:
    """Weights [points, widths], not normalised."""
    # P(c) = 1/2 puts the middle of the logistic a little below c.
    shift = math.log((0.5 - _MISS) / 0.5)
    found = np.zeros((points.size, widths.size))
    for at, k, m in zip(unit, good, total, strict=True):
        t = (at - points[:, None]) / widths - shift
        both = _softplus(-t)
        # 1 - P = (exp(-t) + e) / (1 + exp(-t)), and exp(-t) + e = e (1 + exp(-t - log e)).
        found += k * (math.log(1 - _MISS) - both)
        if m > k:
            found += (m - k) * (math.log(_MISS) + _softplus(-t - math.log(_MISS)) - both)
    return np.exp(found - found.max())


def _softplus(z: np.ndarray) -> np.ndarray:
    """``log(1 + exp(z))`` without overflow; several times faster than ``np.logaddexp``."""
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
