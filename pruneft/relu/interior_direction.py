"""The direction furthest inside a pattern's cone, by linear programming on the host."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]


def interior_directions(X: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every pattern the h with ``|h|_inf <= 1`` and ``(2 D - 1) * (X h) >= t ||x_k||`` of the largest t.

    Args:
      X: [n, d]; rows of zeros ask for nothing.
      D: [n, P], 0 and 1.

    Returns:
      H [d, P] and the margins t [P], recomputed from H; 0 where the cone has no interior or the program failed, and a direction of
      zeros with it.
    """
    size = np.linalg.norm(X, axis=1)
    unit = X[size > 0].astype(np.float64) / size[size > 0, None]
    signs = 2 * D[size > 0].astype(np.float64) - 1
    d = X.shape[1]
    H, margins = np.zeros((d, D.shape[1])), np.zeros(D.shape[1])
    aim = np.r_[np.zeros(d), -1.0]
    limits = [(-1, 1)] * d + [(0, None)]
    for j in range(D.shape[1]):
        rows = np.c_[-signs[:, j, None] * unit, np.ones(len(unit))]
        if not len(rows):
            H[:, j], margins[j] = 1, 1  # no row asks for anything
            continue
        answer = linprog(aim, A_ub=rows, b_ub=np.zeros(len(rows)), bounds=limits, method="highs")
        if answer.x is None:
            continue
        h = answer.x[:d]
        t = float(np.min(signs[:, j] * (unit @ h)))
        if t > 0:
            H[:, j], margins[j] = h, t / np.linalg.norm(h)
    return H, margins
