"""Somebody's data, checked: measurements, y and weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.sensing.operator import Operator, PackedOperator
from pruneft.sensing.packing import unpacked_size


class AsymmetricMeasurements(UserWarning):
    """Measurement matrices were not symmetric; only their symmetric part acts on a symmetric matrix."""


@dataclass(frozen=True)
class Problem:
    """Data ``y_i = <A_i, M> + noise`` for an unknown symmetric positive semidefinite M.

    Attributes:
      operator: the measurements.
      y: [n], in any unit.

    Raises:
      ValueError: the operator and y have different n, y is not a vector, or is not finite or all zero.
    """

    operator: Operator
    y: Float[Array, "n"] | np.ndarray

    def __post_init__(self) -> None:
        y = np.asarray(self.y)
        if y.ndim != 1 or y.shape[0] == 0:
            raise ValueError(f"y must be a vector of n measurements, n at least 1: got shape {y.shape}.")
        if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
            raise ValueError(f"y must hold real numbers: got dtype {y.dtype}.")
        if self.operator.n != y.shape[0]:
            raise ValueError(
                f"A and y must have the same number of measurements: got {self.operator.n} in A and {y.shape[0]} in y."
            )
        _check_finite("y", y)
        if not np.any(y):
            raise ValueError(
                "y is all zero: the answer is M = 0, and there is nothing to recover. Check that the right array was passed."
            )

    @classmethod
    def from_arrays(cls, A: Any, y: Any) -> Problem:
        """A problem from plain arrays.

        Args:
          A: [n, d, d] measurement matrices, or [n, d(d+1)/2] packed symmetric rows (`pruneft.sensing.svec`: upper
            triangle by columns, off-diagonal entries times sqrt 2). Asymmetric matrices are accepted with a warning:
            only their symmetric part matters.
          y: [n].

        Raises:
          ValueError: wrong shapes, non-finite or non-numeric entries, or measurements that are all zero.
        """
        array = np.asarray(A)
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise ValueError(f"A must hold real numbers: got dtype {array.dtype}.")
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(
                f"A must have shape [n, d, d] or, packed, [n, d(d+1)/2], all sizes at least 1: got {array.shape}."
            )
        if array.ndim == 3 and array.shape[1] != array.shape[2]:
            raise ValueError(
                f"A must hold square matrices: got {array.shape[1]} x {array.shape[2]}. Rectangular problems (M not symmetric) are not "
                "supported: pruneft recovers symmetric positive semidefinite M = U Uᵀ."
            )
        if np.shape(y)[:1] != array.shape[:1]:
            raise ValueError(
                f"A and y must have the same number of measurements: got {array.shape[0]} in A and {np.shape(y)} as the shape of y."
            )
        _check_finite("A", array)
        if not np.any(array):
            raise ValueError(
                "A is all zero: the measurements say nothing about M. Check that the right array was passed."
            )
        if array.ndim == 2:
            unpacked_size(array.shape[1])
            return cls(PackedOperator(jnp.asarray(_floating(array))), np.asarray(y))
        floating = _floating(array)
        asymmetry = np.max(np.abs(floating - np.swapaxes(floating, 1, 2)))
        if asymmetry > 1e-6 * np.max(np.abs(floating)):
            warnings.warn(
                "A is not symmetric: only the symmetric part (A_i + A_iᵀ)/2 acts on a symmetric M, and that part is used.",
                AsymmetricMeasurements,
                stacklevel=2,
            )
        return cls(PackedOperator.from_matrices(jnp.asarray(floating)), np.asarray(y))


def _floating(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} of its {array.size} entries are NaN or infinite, the first at index {first}. "
            "Drop those measurements."
        )
