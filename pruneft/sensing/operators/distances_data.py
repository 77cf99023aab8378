"""Checks of pairs and of squared distances, with what to do about what is wrong."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

_TRIANGLES = 20  # fewer say nothing
_LOOKED_AT = 2**24  # triples of points at most


class PlainDistances(UserWarning):
    """The data look like distances that were not squared."""


def check_pairs(pairs: Any, N: int | None = None) -> tuple[np.ndarray, int]:
    """The pairs as [n, 2] whole numbers, and the number of points.

    Raises:
      ValueError: as `pruneft.sensing.operators.distances.Distances.from_pairs`.
    """
    given = np.asarray(pairs)
    if given.ndim != 2 or given.shape[1] != 2 or len(given) == 0:
        raise ValueError(f"pairs must have shape [n, 2], n at least 1: got {given.shape}.")
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"pairs must hold whole numbers, the indices of points from 0: got dtype {given.dtype}.")
    count = int(given.max()) + 1 if N is None else int(N)
    if count < 2:
        raise ValueError(f"N (number of points) must be at least 2: got {count}.")
    outside = np.flatnonzero(np.any((given < 0) | (given >= count), axis=1))
    if len(outside):
        raise ValueError(
            f"indices of points must be from 0 to N - 1 = {count - 1}: got {_show(given[outside[0]])} as pair {outside[0]}. "
            "Raise N, or count from 0."
        )
    own = np.flatnonzero(given[:, 0] == given[:, 1])
    if len(own):
        raise ValueError(
            f"a pair must be of two different points: pair {own[0]} is {_show(given[own[0]])}. Drop it: that distance is 0 "
            "whatever the points are."
        )
    ordered = np.sort(given, axis=1)
    _, first, times = np.unique(ordered, axis=0, return_index=True, return_counts=True)
    if np.any(times > 1):
        again = ordered[first[times > 1][0]]
        places = np.flatnonzero(np.all(ordered == again, axis=1))
        raise ValueError(
            f"every pair may come once: {_show(again)} comes {len(places)} times, as pairs {', '.join(map(str, places))} "
            "(the order within a pair does not matter). Average repeated measurements first."
        )
    return given.astype(np.int64), count


def pairs_of(D: Any, mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Observed pairs i < j [n, 2], by columns, and their squared distances [n], of a matrix.

    Raises:
      ValueError: as `pruneft.sensing.operators.distances.Distances.from_matrix`.
    """
    matrix = np.asarray(D)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"D must be a square matrix of squared distances, at least 2 x 2: got shape {matrix.shape}.")
    if not np.issubdtype(matrix.dtype, np.number) or np.iscomplexobj(matrix):
        raise ValueError(f"D must hold real numbers: got dtype {matrix.dtype}.")
    matrix = matrix.astype(np.float64)
    seen = np.isfinite(matrix) if mask is None else np.asarray(mask).astype(bool)
    if seen.shape != matrix.shape:
        raise ValueError(f"mask must have the shape of D, {matrix.shape}: got {seen.shape}.")
    if np.any(np.isinf(matrix) if mask is None else seen & ~np.isfinite(matrix)):
        raise ValueError(
            "D must be finite where it is observed. Mark what is not observed by NaN, or by False in mask."
        )
    diagonal = np.diag(matrix)[np.diag(seen)]
    if np.any(diagonal != 0):
        raise ValueError(
            f"the diagonal of D must be 0, the distance of a point to itself: got {diagonal[diagonal != 0][0]:.3g}. Is D a Gram matrix?"
        )
    both = seen & seen.T
    scale = float(np.max(np.abs(matrix[both]), initial=0.0))
    apart = np.where(both, np.abs(np.where(both, matrix, 0) - np.where(both, matrix, 0).T), 0)
    if np.any(apart > 1e-6 * scale):
        i, j = np.unravel_index(int(np.argmax(apart)), apart.shape)
        raise ValueError(
            f"D contradicts itself: D[{i}, {j}] = {matrix[i, j]:.6g} and D[{j}, {i}] = {matrix[j, i]:.6g}. "
            "Pass (D + D.T)/2 if both were measured."
        )
    second, first = np.nonzero(np.tril(seen | seen.T, -1))
    if len(first) == 0:
        raise ValueError(
            "no distance between two different points is observed: D is NaN, or mask False, everywhere else."
        )
    values = np.where(seen[first, second], matrix[first, second], matrix[second, first])
    return np.stack([first, second], axis=1), values


def check_distances(pairs: np.ndarray, y: np.ndarray, N: int) -> None:
    """Refuse squared distances that noise cannot explain, and warn of what look like distances.

    Raises:
      ValueError: a value lies further below zero than the root mean square of all.
    """
    values = np.asarray(y, np.float64)
    size = float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
    least = int(np.argmin(values)) if len(values) else 0
    if len(values) and values[least] < -size:
        raise ValueError(
            f"squared distances are not negative: got {values[least]:.3g} for the pair {_show(pairs[least])}, further below zero "
            f"than the root mean square {size:.3g} of all. Noise that large leaves nothing to recover; check for a sign, or for "
            "a marker of missing values."
        )
    if look_plain(pairs, values, N):
        warnings.warn(
            "every triangle of the data keeps to the triangle inequality, which squared distances of points in few dimensions break in "
            "most of their triangles: these look like distances. Pass their squares.",
            PlainDistances,
            stacklevel=2,
        )


def look_plain(pairs: np.ndarray, y: np.ndarray, N: int) -> bool:
    """Whether the values keep to the triangle inequality in every triangle, as distances do and their squares rarely.

    A triangle of squares keeps to it where it has no obtuse angle: about one in four of random triangles in the plane. False
    where there are fewer than 20 triangles, or too many points to look.
    """
    if N * len(pairs) > _LOOKED_AT:
        return False
    matrix = np.full((N, N), np.nan)
    matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = y
    detour = matrix[pairs[:, 0]] + matrix[pairs[:, 1]]  # [n, N], by every third point
    known = np.isfinite(detour)
    if np.sum(known) < 3 * _TRIANGLES:
        return False
    return not np.any(np.where(known, detour, np.inf) < y[:, None])


def _show(pair: np.ndarray) -> str:
    return f"({int(pair[0])}, {int(pair[1])})"
