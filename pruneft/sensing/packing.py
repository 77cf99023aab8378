"""Symmetric matrices as vectors: the upper triangle by columns, off-diagonal entries times sqrt 2.

Then ``<A, M> = svec(A) . svec(M)`` and ``||svec(M)|| = ||M||_F``, half the memory of d x d is saved, and the leading b
x b block of M is the first b(b+1)/2 entries of ``svec(M)``: padding d with zeros is padding the tail of the vector with
zeros.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float


def packed_size(d: int) -> int:
    """Length d(d+1)/2 of a packed symmetric d x d matrix."""
    return d * (d + 1) // 2


def unpacked_size(size: int) -> int:
    """The d whose packed length is ``size``.

    Raises:
      ValueError: no d has that packed length.
    """
    d = (math.isqrt(8 * max(size, 0) + 1) - 1) // 2
    if size < 1 or packed_size(d) != size:
        raise ValueError(
            f"a packed symmetric matrix has d(d+1)/2 entries (1, 3, 6, 10, ...): got {size}. "
            f"The nearest are {packed_size(max(d, 1))} (d={max(d, 1)}) and {packed_size(d + 1)} (d={d + 1})."
        )
    return d


def svec(matrix: Float[Any, "*batch d d"]) -> Float[Any, "*batch D"]:
    """Packed vector of symmetric matrices; of an asymmetric one only the upper triangle is read. NumPy arrays stay NumPy's."""
    rows, columns, scale, _ = layout(matrix.shape[-1])
    return matrix[..., rows, columns] * scale.astype(matrix.dtype)


def smat(packed: Float[Any, "*batch D"]) -> Float[Any, "*batch d d"]:
    """Symmetric matrices from packed vectors, the inverse of `svec`. NumPy arrays stay NumPy's."""
    d = unpacked_size(packed.shape[-1])
    _, _, scale, place = layout(d)
    return (packed / scale.astype(packed.dtype))[..., place]


@functools.cache
def layout(d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of every packed entry, its factor, and for every (i, j) where it is packed. NumPy arrays."""
    columns = np.repeat(np.arange(d), np.arange(1, d + 1))
    rows = np.arange(packed_size(d)) - columns * (columns + 1) // 2
    scale = np.where(rows == columns, 1.0, math.sqrt(2.0))
    place = np.zeros((d, d), np.int32)
    place[rows, columns] = np.arange(packed_size(d))
    place[columns, rows] = place[rows, columns]
    return rows.astype(np.int32), columns.astype(np.int32), scale, place
