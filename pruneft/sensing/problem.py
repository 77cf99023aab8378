"""Somebody's data, checked: measurements, y and weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from pruneft.sensing import sharded
from pruneft.sensing.operator import Operator, PackedOperator
from pruneft.sensing.packing import svec, unpacked_size


class AsymmetricMeasurements(UserWarning):
    """Measurement matrices were not symmetric; only their symmetric part acts on a symmetric matrix."""


@dataclass(frozen=True)
class Problem:
    """Data ``y_i = <A_i, M> + noise`` for an unknown symmetric positive semidefinite M.

    The measurements may be split over several devices, also of several processes: see `shard` and `from_arrays`.

    Attributes:
      operator: the measurements.
      y: [n], in any unit; split over devices as the measurements are, if they are.
      live_n: how many rows are measurements, where others are padding: zero rows, anywhere, with zero y. All if not
        given.

    Raises:
      ValueError: the operator and y have different n, y is not a vector, or is not finite or all zero; measurements and y
        are split over devices in different ways; ``live_n`` is not between the rows that are not zero and all of them.
    """

    operator: Operator
    y: Float[Array, "n"] | np.ndarray
    live_n: int | None = None

    def __post_init__(self) -> None:
        rows = self.operator.rows if isinstance(self.operator, PackedOperator) else None
        there, here = sharded.spread("A", rows), sharded.spread("y", self.y)
        y = self.y if here is not None else np.asarray(self.y)
        if y.ndim != 1 or y.shape[0] == 0:
            raise ValueError(f"y must be a vector of n measurements, n at least 1: got shape {y.shape}.")
        if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
            raise ValueError(f"y must hold real numbers: got dtype {y.dtype}.")
        if self.operator.n != y.shape[0]:
            raise ValueError(
                f"A and y must have the same number of measurements: got {self.operator.n} in A and {y.shape[0]} in y."
            )
        if there is not None:
            # Frozen, so that nobody moves the data of a checked problem; put in order here, before anybody saw it.
            object.__setattr__(self, "operator", PackedOperator(sharded.aligned(rows, there)))
            object.__setattr__(self, "y", sharded.companion("y", self.y, there, self.operator.n))
        elif rows is not None:
            _check_same_place(self.y)
        elif here is not None:
            object.__setattr__(self, "y", sharded.aligned(self.y, here))
        with sharded.quiet(self.sharding):
            self._check_values()

    def _check_values(self) -> None:
        if self.sharding is None:
            _check_finite("y", np.asarray(self.y))
            empty = not np.any(self.y)
            if hasattr(self.operator, "check_data"):
                self.operator.check_data(np.asarray(self.y), self.n)
        else:
            empty = _check_finite_there("y", self.y)["largest"] == 0
        if empty:
            raise ValueError(
                "y is all zero: the answer is M = 0, and there is nothing to recover. Check that the right array was passed."
            )
        if self.live_n is None:
            return
        rows = self.operator.rows if isinstance(self.operator, PackedOperator) else None
        used = 1 if rows is None else int(sharded.survey(rows)["used"])
        if not used <= self.live_n <= self.operator.n:
            raise ValueError(
                f"live_n (rows that are measurements) must be at least the rows of A that are not zero, {used}, and at most all of "
                f"them, {self.operator.n}: got {self.live_n}. Padding must be zero rows."
            )

    @property
    def n(self) -> int:
        """Number of measurements, padding not counted."""
        return self.operator.n if self.live_n is None else self.live_n

    @property
    def sharding(self) -> NamedSharding | None:
        """How the measurements are split over devices; None where they are not."""
        return sharded.spread("y", self.y)

    def shard(self, mesh: Mesh, axis: str | tuple[str, ...] | None = None) -> Problem:
        """The same problem with its measurements split over the devices of a mesh, by rows.

        Rows are padded with zeros up to a multiple of the devices, which changes no answer. For measurements that are too
        large for one device use ``Problem.from_arrays(A, y, mesh=mesh)``, which never puts them on one.

        Args:
          mesh: `jax.make_mesh((8,), ("n",))`, for example. Its devices may belong to several processes; each of them makes
            this call with the same problem.
          axis: the axis of the mesh, or several; may be left out where it has only one.

        Raises:
          ValueError: more devices than measurements; an axis that the mesh does not have; the problem is split already;
            its operator is not a `PackedOperator`.
        """
        sharding = sharded.row_sharding(mesh, axis)
        if self.sharding is not None:
            raise ValueError(f"the problem is split over {sharded.devices(self.sharding)} devices already.")
        if not isinstance(self.operator, PackedOperator):
            raise ValueError(
                f"only a PackedOperator can be split by rows: got {type(self.operator).__name__}. An operator of your own can be made "
                "of arrays that are split already."
            )
        rows = sharded.distribute(np.asarray(self.operator.rows), sharding)
        y = sharded.distribute(np.asarray(self.y), sharding)
        return Problem(PackedOperator(rows), y, self.n)

    @classmethod
    def from_arrays(
        cls,
        A: Any,
        y: Any,
        *,
        mesh: Mesh | None = None,
        axis: str | tuple[str, ...] | None = None,
        live_n: int | None = None,
    ) -> Problem:
        """A problem from plain arrays, on one device or split over several.

        An A that is a `jax.Array` already split by rows (`jax.make_array_from_process_local_data`, for example) stays where
        it is: no process needs to hold, or sees, the rows of another.

        Args:
          A: [n, d, d] measurement matrices, or [n, d(d+1)/2] packed symmetric rows (`pruneft.sensing.svec`: upper
            triangle by columns, off-diagonal entries times sqrt 2). Asymmetric matrices are accepted with a warning:
            only their symmetric part matters.
          y: [n]; beside a split A either split in the same way, or on the host.
          mesh: of devices to split the rows over, each given its own from the host; padded with zero rows up to a multiple of
            the devices. With several processes each passes the same arrays.
          axis: of the mesh; may be left out where it has only one.
          live_n: as the attribute.

        Raises:
          ValueError: wrong shapes, non-finite or non-numeric entries, or measurements that are all zero; as `shard`.
        """
        there = sharded.spread("A", A)
        array = A if there is not None else np.asarray(A)
        _check_kind(array, y)
        if there is not None:
            if mesh is not None:
                raise ValueError("A is split over devices already: leave out mesh, or pass A as a NumPy array.")
            with sharded.quiet(there):
                return _from_split(cls, sharded.aligned(array, there), y, there, live_n)
        sharding = None if mesh is None else sharded.row_sharding(mesh, axis)
        _check_same_place(y)
        _check_finite("A", array)
        if not np.any(array):
            raise ValueError(_ALL_ZERO)
        floating = _floating(array)
        if array.ndim == 3:
            asymmetry = float(np.max(np.abs(floating - np.swapaxes(floating, 1, 2))))
            _warn_if_asymmetric(asymmetry, float(np.max(np.abs(floating))))
        if sharding is not None:
            rows = sharded.distribute(floating, sharding, _packed if array.ndim == 3 else None)
            return cls(
                PackedOperator(rows),
                sharded.distribute(np.asarray(y), sharding),
                array.shape[0] if live_n is None else live_n,
            )
        _check_range(floating)
        whole = jnp.asarray(floating)
        operator = PackedOperator(whole) if array.ndim == 2 else PackedOperator.from_matrices(whole)
        return cls(operator, np.asarray(y), live_n)


_ALL_ZERO = "A is all zero: the measurements say nothing about M. Check that the right array was passed."


def _check_range(array: np.ndarray) -> None:
    """Without 64-bit mode JAX makes float32 of float64, and infinities of what is beyond its range."""
    narrow = np.finfo(jax.dtypes.canonicalize_dtype(array.dtype if array.dtype.itemsize <= 8 else np.float64))
    largest = float(np.max(np.abs(array)))
    if not float(narrow.tiny) <= largest <= float(narrow.max):
        raise ValueError(
            f"A holds numbers beyond the range of {narrow.dtype}: its largest is {largest:.3g}, and {narrow.dtype} reaches from "
            f"{narrow.tiny:.2g} to {narrow.max:.2g}. Call jax.config.update('jax_enable_x64', True) first, or pass A in other units."
        )


def _check_same_place(y: Any) -> None:
    if sharded.spread("y", y) is not None:
        raise ValueError("y is split over devices, but A is not: pass both on the host with mesh=, or split A too.")


def _check_kind(array: Any, y: Any) -> None:
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
    if array.ndim == 2:
        unpacked_size(array.shape[1])


def _from_split(cls: type[Problem], array: jax.Array, y: Any, sharding: NamedSharding, live_n: int | None) -> Problem:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    facts = _check_finite_there("A", array)
    if facts["largest"] == 0:
        raise ValueError(_ALL_ZERO)
    if array.ndim == 2:
        return cls(PackedOperator(array), y, live_n)
    _warn_if_asymmetric(facts["asymmetry"], facts["largest"])
    return cls(sharded.pack(array, sharding), y, live_n)


def _warn_if_asymmetric(asymmetry: float, largest: float) -> None:
    if asymmetry > 1e-6 * largest:
        warnings.warn(
            "A is not symmetric: only the symmetric part (A_i + A_iᵀ)/2 acts on a symmetric M, and that part is used.",
            AsymmetricMeasurements,
            stacklevel=3,
        )


def _packed(matrices: np.ndarray) -> np.ndarray:
    return svec((matrices + np.swapaxes(matrices, -1, -2)) / 2)


def _check_finite_there(name: str, array: Any) -> dict[str, float]:
    facts = sharded.look(array)
    if facts["bad"]:
        raise ValueError(
            f"{name} must be finite: {int(facts['bad'])} of its {array.size} entries are NaN or infinite. Drop those measurements."
        )
    return facts


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
