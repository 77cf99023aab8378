"""Points whose mirror image in the plane of their neighbours fits their distances about as well."""

from __future__ import annotations

import numpy as np

_MIRROR = 9.0  # an image within so many squared deviations of the fit cannot be told from it


def mirror_images(
    pairs: np.ndarray, y: np.ndarray, positions: np.ndarray, weights: np.ndarray | None = None
) -> tuple[int, ...]:
    """Points that fit about as well on the other side of the plane of their neighbours.

    Each point in turn is mirrored and then fitted to its own distances with all else fixed (Gauss-Newton). Noise makes such points:
    their neighbours lie nearly in a plane.

    Args:
      pairs: [n, 2]; y: [n] squared distances; positions: [N, r] of a fit; weights: [n], those of the fit.

    Returns:
      The points, falling by how well the image fits.
    """
    N, r = positions.shape
    weight = np.ones(len(y)) if weights is None else weights
    first, second = pairs.T
    errors = np.sum((positions[first] - positions[second]) ** 2, axis=1) - y
    left = max(len(y) - (N * r - r * (r + 1) // 2), 1)
    variance = float(np.sum(weight * errors**2)) / left
    floor = 1e-12 * float(np.mean(weight * y**2))  # an exact fit: what is left is rounding
    found = []
    for node in range(N):
        rows = np.flatnonzero((first == node) | (second == node))
        if len(rows) < r or r + 1 >= N:
            continue
        others = positions[np.where(first[rows] == node, second[rows], first[rows])]
        centre = others.mean(axis=0)
        normal = np.linalg.svd(others - centre)[2][-1]
        height = float((positions[node] - centre) @ normal)
        image = _fitted(positions[node] - 2 * height * normal, others, y[rows], weight[rows])
        if float((image - centre) @ normal) * height >= 0:
            continue  # it fell back to where it came from
        now = float(np.sum(weight[rows] * errors[rows] ** 2))
        gap = float(np.sum(weight[rows] * (np.sum((image - others) ** 2, axis=1) - y[rows]) ** 2)) - now
        apart = float(np.sum((image - positions[node]) ** 2))
        if gap <= _MIRROR * max(variance, floor) and apart > 1e-6 * float(np.mean(np.abs(y))):
            found.append((gap, node))
    return tuple(node for _, node in sorted(found))


def _fitted(start: np.ndarray, others: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One point from its squared distances to fixed ones."""
    point, root = start, np.sqrt(weight)
    for _ in range(10):
        away = point - others
        step = np.linalg.lstsq(2 * root[:, None] * away, root * (y - np.sum(away**2, axis=1)), rcond=None)[0]
        point = point + step
    return point
