"""Checks of what says which entries are observed."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked_mask(mask: Any) -> np.ndarray:
    """[d, d] truth values, checked."""
    array = np.asarray(mask)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"mask must be a square matrix of truth values: got shape {array.shape}.")
    if array.dtype != bool:
        if not np.issubdtype(array.dtype, np.number) or not np.all((array == 0) | (array == 1)):
            raise ValueError(f"mask must hold truth values, or zeros and ones: got dtype {array.dtype}.")
        array = array.astype(bool)
    if not np.any(array):
        raise ValueError("mask must be true somewhere: no entry is observed.")
    return array


def checked_pairs(pairs: Any, d: Any) -> np.ndarray:
    """[n, 2] whole numbers, i <= j, checked."""
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
        raise ValueError(f"d (side of the matrix) must be a whole number of at least 1: got {d!r}.")
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(f"pairs must have shape [n, 2], one (i, j) for every observed entry: got {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"pairs must hold whole numbers: got dtype {array.dtype}.")
    outside = (array < 0) | (array >= d)
    if np.any(outside):
        row = int(np.argmax(np.any(outside, axis=1)))
        raise ValueError(
            f"pairs must hold indices from 0 to {d - 1}: got {tuple(array[row].tolist())} in row {row}. Indices start at 0."
        )
    ordered = np.sort(array, axis=1).astype(np.int64)
    number = ordered[:, 1] * (ordered[:, 1] + 1) // 2 + ordered[:, 0]
    once, counts = np.unique(number, return_counts=True)
    if np.any(counts > 1):
        row = int(np.argmax(number == once[np.argmax(counts)]))
        pair, times = tuple(array[row].tolist()), int(np.max(counts))
        raise ValueError(
            f"every entry may be given once: {pair} comes {times} times ((i, j) and (j, i) are the same entry). Give the mean of its "
            "values, and its count as a weight."
        )
    return ordered
