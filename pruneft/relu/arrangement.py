"""The cells into which hyperplanes through the origin divide space, each with a point inside. On the host, in float64.

The hyperplanes are added one after another. A cell that the new one does not cut keeps its point; the cells that it cuts are
those of the arrangement that the others make on the new hyperplane, of one dimension less: a point p inside one of them gives
``p + e x`` and ``p - e x`` on the two sides. No linear program is solved. Derived (ours); the count is Schläfli's and Cover's
(1965).
"""

from __future__ import annotations

import math

import numpy as np

_PARALLEL = 1e-9  # of unit vectors


def cells_at_most(X: np.ndarray, most: int) -> bool:
    """Whether the rows of X surely make no more than ``most`` cells: ``2 sum_{k < r} C(m - 1, k)``, m rows that differ, r their rank."""
    rows = _different_lines(X)
    if not len(rows):
        return most >= 1
    rank = int(np.linalg.matrix_rank(rows))
    return 2 * sum(math.comb(len(rows) - 1, k) for k in range(rank)) <= most


def cells(X: np.ndarray) -> np.ndarray:
    """[d, cells], a unit vector inside every cell of the hyperplanes ``x_k h = 0``; rows of zeros are none.

    Rows may repeat, be parallel, or span less than the whole space. With no hyperplane there is one cell.
    """
    rows = _different_lines(X)
    if not len(rows):
        return np.full((X.shape[1], 1), X.shape[1] ** -0.5)
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[: int(np.sum(values > values[0] * 1e-10))]
    return basis.T @ _cells(_unit(rows @ basis.T))


def _cells(rows: np.ndarray) -> np.ndarray:
    """[r, cells] for different lines that span R^r."""
    r = rows.shape[1]
    if r == 1:
        return np.array([[1.0, -1.0]])
    points = np.array([[*rows[0]], [*(-rows[0])]]).T
    for k in range(1, len(rows)):
        x, before = rows[k], rows[:k]
        on = _null_basis(x)
        lines = _different_lines(before @ on)
        inside = on @ _span_cells(lines)
        room = np.min(np.abs(before @ inside) / np.maximum(np.abs(before @ x), 1e-300)[:, None], axis=0)
        step = np.minimum(room / 2, 1) * x[:, None]
        old = points[:, np.abs(x @ points) > 1e-12]
        points = _one_each(
            rows[: k + 1], np.concatenate([_unit((inside + step).T).T, _unit((inside - step).T).T, old], axis=1)
        )
    return points


def _span_cells(lines: np.ndarray) -> np.ndarray:
    """[r, cells] for lines that may span less than the whole space."""
    _, values, basis = np.linalg.svd(lines, full_matrices=False)
    basis = basis[: int(np.sum(values > values[0] * 1e-10))]
    return basis.T @ _cells(_unit(lines @ basis.T))


def _one_each(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of the points in one cell the one furthest from the hyperplanes."""
    values = rows @ points
    order = np.argsort(-np.min(np.abs(values), axis=0), kind="stable")
    return points[:, order[first_columns(values[:, order] > 0)]]


def first_columns(D: np.ndarray) -> np.ndarray:
    """Where each different column of a boolean matrix [n, P] stands first, in order."""
    packed = np.ascontiguousarray(np.packbits(D, axis=0).T)
    if not packed.size:
        return np.arange(min(1, D.shape[1]))
    rows = packed.view(f"V{packed.shape[1]}").ravel()
    return np.sort(np.unique(rows, return_index=True)[1])


def _null_basis(x: np.ndarray) -> np.ndarray:
    """[r, r - 1], an orthonormal basis of what is orthogonal to x."""
    return np.linalg.svd(x[None])[2][1:].T


def _different_lines(X: np.ndarray) -> np.ndarray:
    """Unit rows that are neither zero nor parallel to one before; tolerances relative to the largest row."""
    size = np.linalg.norm(X, axis=1)
    rows = _unit(X[size > np.max(size, initial=0) * 1e-10])
    kept: list[np.ndarray] = []
    for row in rows:
        others = np.array(kept).reshape(len(kept), len(row))
        apart = np.minimum(np.linalg.norm(others - row, axis=1), np.linalg.norm(others + row, axis=1))
        if np.all(apart > _PARALLEL):
            kept.append(row)
    return np.array(kept).reshape(len(kept), X.shape[1])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
