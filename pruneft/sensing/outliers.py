"""Gross errors in single measurements, found although the fit was bent towards them. NumPy, ours.

A least-squares fit hides its outliers: at n = 2 dof a measurement draws the fit half of the way to itself, and the noise
level that is estimated from all residuals grows with them. So the most suspicious measurements are left out, the rest is
fitted again, every measurement is judged by the fit of those that were kept, and those that were left out wrongly come
back, until nothing changes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pruneft.sensing.fit_view import View
from pruneft.sensing.pivots import student_quantile

_LEVEL = 0.01  # probability of calling any of the n measurements of a sound problem an outlier
_ROUNDS = 8
_STEPS = 3  # of Gauss-Newton in each round; the factor moves little
_FIRST_CUT = 2.5
_LARGEST_SHARE = 0.2


class Outliers(NamedTuple):
    """Measurements that do not belong.

    Attributes:
      rows: places among the live rows, the worst first.
      deviations: how many standard deviations of a prediction each lies from the fit of the others.
      sigma: noise standard deviation without them, normalised units.
      judged: whether there was enough to judge by.
    """

    rows: tuple[int, ...]
    deviations: tuple[float, ...]
    sigma: float
    judged: bool


def find_outliers(view: View, *, floor: float) -> Outliers:
    """Outliers of a least-squares fit.

    Args:
      view: of the fit.
      floor: noise standard deviation, normalised, below which residuals are rounding.

    Returns:
      Nothing, ``judged`` false, below n = 1.5 dof, where a fit bends to any single measurement. Each of n measurements is held
      against Student's quantile at .01/n, so a sound problem is called contaminated once in a hundred.
    """
    n, p = view.tangent.shape
    if n < 1.5 * p or n - p < 8:
        return Outliers((), (), math.nan, False)
    kept = np.ones(n, bool)
    deviations, sigma = _deviations(view, kept, floor)
    # The first cut is by the median, which outliers do not move.
    robust = max(1.4826 * float(np.median(np.abs(_internal(view, kept)))), floor)
    first = np.abs(_internal(view, kept)) / robust
    most = int(min(_LARGEST_SHARE * n, n - 1.25 * p))
    suspicious = [i for i in np.argsort(-first)[:most] if first[i] > _FIRST_CUT]
    if not suspicious or max(first[suspicious]) < 3:
        return Outliers((), (), sigma, True)
    kept[suspicious] = False
    seen: set[bytes] = set()
    for _ in range(_ROUNDS):
        seen.add(kept.tobytes())
        for _ in range(_STEPS):
            step = np.linalg.lstsq(view.tangent[kept], -view.errors[kept], rcond=1e-10)[0]
            view = View.of(view.measured, view.moved(step))
        deviations, sigma = _deviations(view, kept, floor)
        limit = student_quantile(max(int(kept.sum()) - p - 1, 1), _LEVEL / (2 * n))
        order = np.argsort(-np.abs(deviations))[:most]
        out = [i for i in order if abs(deviations[i]) > limit]
        kept = np.ones(n, bool)
        kept[out] = False
        if kept.tobytes() in seen:
            break
    return Outliers(tuple(int(i) for i in out), tuple(float(abs(deviations[i])) for i in out), sigma, True)


def _leverage(view: View, kept: np.ndarray) -> np.ndarray:
    """``t_i (T_SᵀT_S)^-1 t_iᵀ`` of every measurement, S those that were kept."""
    triangle: np.ndarray = np.linalg.qr(view.tangent[kept], mode="r")  # type: ignore[assignment]
    solved, *_ = np.linalg.lstsq(triangle.T, view.tangent.T, rcond=1e-12)
    return np.sum(np.square(solved), axis=0)


def _internal(view: View, kept: np.ndarray) -> np.ndarray:
    return view.errors / np.sqrt(np.maximum(1 - _leverage(view, kept), 1e-3))


def _deviations(view: View, kept: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
    """Each measurement's distance from the fit of the others, in its standard deviations, and sigma."""
    left = int(kept.sum()) - view.tangent.shape[1]
    sigma = max(math.sqrt(float(np.sum(np.square(view.errors[kept]))) / max(left, 1)), floor)
    leverage = _leverage(view, kept)
    outside = view.errors / (sigma * np.sqrt(1 + leverage))
    inside = view.errors / (sigma * np.sqrt(np.maximum(1 - leverage, 1e-3)))
    # Judged by a sigma that does not contain it: the variable is then Student's.
    inside = inside * np.sqrt((left - 1) / np.maximum(left - np.square(inside), 1e-3))
    return np.where(kept, inside, outside), sigma
