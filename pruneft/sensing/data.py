"""Somebody's data as the solvers want them: weights multiplied in, repeated measurements merged, units within reach of the dtype."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.sensing import sharded
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.problem import Problem

_COMFORT = 1e15  # numbers within this factor of 1 have squares and products that float32 holds


@dataclass(frozen=True, kw_only=True)
class Data:
    """A problem ready to be solved: least squares on it is weighted least squares on what was given.

    Attributes:
      operator, y: measurements and data; a measurement that was taken c times stands there once, times root c, beside
        root c times the mean of its data. A weight is multiplied in by its root.
      n: measurements that count, each distinct one once; padding does not.
      weight: [rows], what each row stands for; None where all are 1.
      root: [rows], what residuals are multiplied by where the operator itself cannot hold weights: their roots, over that of
        their mean over the squared data, ``typical``; None elsewhere.
      groups: for every row the places, in y as given, of the measurements that it stands for; None where each row is the
        measurement of the same place.
      y_unit, a_unit: powers of two that y and the measurements were divided by, to be within reach of the dtype.
    """

    operator: Any
    y: jax.Array
    n: int
    weight: np.ndarray | None = None
    root: np.ndarray | None = None
    typical: float = 1.0
    groups: tuple[tuple[int, ...], ...] | None = None
    y_unit: float = 1.0
    a_unit: float = 1.0

    @property
    def repeated(self) -> int:
        """How many measurements say nothing new because the same one stands before them."""
        return 0 if self.groups is None else sum(len(group) - 1 for group in self.groups)

    def place(self, row: int) -> tuple[int, ...]:
        """Where the measurements of a row stand in y as given."""
        return (row,) if self.groups is None else self.groups[row]


def prepare(problem: Problem, weights: Any = None, dtype: Any = None) -> Data:
    """The data of a problem, in the dtype asked for.

    Args:
      problem: measurements and data. Repeated measurements are merged where they are a `PackedOperator` on one device;
        split ones stay as they are.
      weights: [n] non-negative, as in `recover`.
      dtype: float32 or float64; that of y if not given.

    Raises:
      ValueError: weights or dtype make no sense.
    """
    operator, placed, n = problem.operator, problem.sharding, problem.n
    wanted = _wanted(problem.y, dtype)
    if placed is not None:
        y = jnp.asarray(problem.y, wanted)
        if weights is not None and isinstance(operator, PackedOperator):
            operator, y, n = sharded.weigh(operator, y, weights, placed, n)
        return Data(operator=operator, y=y, n=n)
    host = np.asarray(problem.y, np.float64)
    y_unit = _unit(np.max(np.abs(host)))
    if not isinstance(operator, PackedOperator):
        return _structured(operator, host / y_unit, weights, wanted, n, y_unit)
    used = np.arange(len(host))
    counts = np.ones(len(host))
    if weights is not None:
        counts = _checked(weights, host.shape)
        used = np.flatnonzero(counts)  # a measurement of weight 0 says nothing, so it must not count
    rows = np.asarray(operator.rows)
    groups = _groups(rows, used)
    merged = len(groups) < len(used)
    if weights is None and not merged:
        rows, a_unit = _within_reach(operator.rows, rows)
        return Data(
            operator=PackedOperator(rows),
            y=jnp.asarray(host / y_unit, wanted),
            n=n,
            y_unit=y_unit,
            a_unit=a_unit,
        )
    weight = np.array([counts[list(group)].sum() for group in groups])
    mean = np.array([np.average(host[list(g)] / y_unit, weights=counts[list(g)]) for g in groups])
    first = np.array([group[0] for group in groups])
    kept, a_unit = _within_reach(operator.rows[first], rows[first])
    left = len(first) if n == operator.n else int(np.sum(np.any(rows[first], axis=1)))
    root = jnp.asarray(np.sqrt(weight), wanted)
    return Data(
        operator=cast(PackedOperator(kept), wanted).scaled(root),
        y=jnp.asarray(mean, wanted) * root,
        n=left,
        weight=weight,
        groups=groups,
        y_unit=y_unit,
        a_unit=a_unit,
    )


def _structured(operator: Any, y: np.ndarray, weights: Any, wanted: np.dtype, n: int, y_unit: float) -> Data:
    """Weights stay beside the measurements: training goes by the whitened loss, whose law they would change."""
    plain = Data(operator=operator, y=jnp.asarray(y, wanted), n=n, y_unit=y_unit)
    if weights is None:
        return plain
    weight = _checked(weights, y.shape)
    typical = float(np.sum(weight * np.square(y)) / np.sum(np.square(y)))
    if not typical > 0:
        raise ValueError("weights must be positive at some measurement that is not zero: nothing else would be fitted.")
    # A measurement of weight 0 says nothing, so it must not count; from here on it is padding.
    live = n - int(np.sum((weight == 0) & (y != 0)))
    return dataclasses.replace(
        plain,
        y=jnp.asarray(np.where(weight > 0, y, 0), wanted),
        n=live,
        weight=weight,
        root=np.sqrt(weight / typical),
        typical=typical,
    )


def _wanted(y: Any, dtype: Any) -> np.dtype:
    if dtype is None:
        given = np.dtype(y.dtype)
        floating = np.issubdtype(given, np.floating) or jnp.issubdtype(given, jnp.floating)
        narrow = np.dtype("float64") if given.itemsize > 8 else given  # JAX has nothing wider
        return np.dtype(jax.dtypes.canonicalize_dtype(narrow)) if floating else np.dtype("float32")
    wanted = np.dtype(dtype)
    if wanted not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"dtype must be float32 or float64: got {wanted}.")
    if wanted == np.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            "dtype float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first, or ask for float32."
        )
    return wanted


def _checked(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(weights, np.float64)
    if array.shape != shape:
        raise ValueError(f"weights must have one entry per measurement, shape {shape}: got {array.shape}.")
    if not np.all(np.isfinite(array)) or np.any(array < 0) or not np.any(array):
        raise ValueError("weights must be finite and not negative, and not all zero.")
    return array


def _unit(largest: float) -> float:
    """1, or a power of two that brings ``largest`` near 1 where its square is beyond float32."""
    if 1 / _COMFORT <= largest <= _COMFORT:
        return 1.0
    return 2.0 ** math.floor(math.log2(largest))


def _within_reach(rows: Any, host: np.ndarray) -> tuple[Any, float]:
    unit = _unit(float(np.max(np.abs(host))))
    return (rows, 1.0) if unit == 1 else (jnp.asarray(host / np.asarray(unit, host.dtype)), unit)


def _groups(rows: np.ndarray, used: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Places of equal rows, by the first of each. Zero rows (padding, or measurements of nothing) stay single."""
    found: dict[bytes, list[int]] = {}
    for place in used.tolist():
        row = np.ascontiguousarray(rows[place] + 0)  # -0 is 0
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest() if np.any(row) else place.to_bytes(8, "little")
        found.setdefault(key, []).append(place)
    return tuple(tuple(group) for group in found.values())
