"""Linear measurements of a symmetric matrix: the contract, and the operator for dense measurement matrices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Inexact

from pruneft.sensing import row_blocks
from pruneft.sensing.defaults import OperatorDefaults, root_mean_square
from pruneft.sensing.field import Field
from pruneft.sensing.packing import packed_size, smat, svec, unpacked_size


@runtime_checkable
class Operator(Protocol):
    """What the solvers need of n linear measurements ``<A_i, M>`` of a symmetric (Hermitian) positive semidefinite d x d matrix M.

    An operator is a pytree of real arrays. ``<A, X> = Re tr(Aᴴ X)``. Factors are passed as they are stored, real [h, k] with
    h = d, or h = 2d where M is complex (`pruneft.sensing.field`). Rows that are padding, and dimensions beyond the live
    ones, are zero and stay so. Every function takes leading axes of a batch.

    Training goes by the whitened loss ``(1/n) <e, W e>``, W linear, symmetric and positive semidefinite, chosen so that
    ``E (1/n) <A X, W A X> = ||X||_F^2`` about: constants measured on Gaussian measurements then serve any family. Fine-tuning
    and every criterion go by the residual itself.
    """

    @property
    def n(self) -> int:
        """Number of rows: measurements, padded ones included."""
        ...

    @property
    def d(self) -> int:
        """Side of the matrix."""
        ...

    @property
    def dtype(self) -> Any:
        """Real dtype of the measurements."""
        ...

    @property
    def field(self) -> Field:
        """Whether M is real or complex."""
        ...

    def image(self, factor: Float[Array, "*batch h k"]) -> Float[Array, "*batch n"]:
        """``<A_i, U Uᴴ>`` for every measurement."""
        ...

    def pull(
        self, residual: Float[Array, "*batch n"], factor: Float[Array, "*batch h k"]
    ) -> Float[Array, "*batch h k"]:
        """``sum_i e_i A_i U``, the symmetric (Hermitian) parts of A_i: half the derivative of ``<e, image(U)>``."""
        ...

    def apply(self, matrix: Inexact[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """``<A_i, X>`` of any symmetric (Hermitian) matrix."""
        ...

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Inexact[Array, "*batch d d"]:
        """``sum_i e_i A_i``, symmetric (Hermitian)."""
        ...

    def jacobian(self, factor: Float[Array, "*batch h r"]) -> Float[Array, "*batch n h r"]:
        """Derivative of `image`: ``2 A_i U``, stored as factors are."""
        ...

    def linearised(self) -> Callable[[Array], Array]:
        """`jacobian` with whatever does not depend on the factor made once, for loops that call it many times."""
        ...

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """``W e``, for ``n`` live measurements and ``d`` live dimensions, both of which may be traced."""
        ...

    def size(self, y: Float[Array, "n"], n: Any, d: Any) -> Float[Array, ""]:
        """About ``||M||_F``, from the data: ``sqrt((1/n) <y, W y>)`` where nothing better is known. In units of M."""
        ...

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """About the largest eigenvalue of ``(1/n) sum (W e)_i A_i`` for white noise of deviation ``sigma``, in units of M."""
        ...

    def dof(self, rank: Any, d: Any = None) -> Any:
        """Degrees of freedom of a matrix of this rank as these measurements see it.

        Both may be traced, ``d`` is the live dimension.
        """
        ...

    def canonical(self, factor: Float[Array, "*batch h k"], d: Any) -> Float[Array, "*batch h k"]:
        """The factor without what the measurements cannot see of it (a translation, say); itself where they see it all."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedOperator(OperatorDefaults):
    """Dense measurement matrices, stored as packed symmetric rows: half the memory of n x d x d, and faster.

    Attributes:
      rows: [n, d(d+1)/2], ``svec(sym(A_i))``; zero rows and tails are padding.
      sharding: how the rows are split over devices, for what depends on it: `linearised` unpacks split rows inside of the loops
        that use it, where they stay (carried into a loop, the partitioner gathers them), and `residual_sum` goes by the
        share of each device. None where they are not split.
    """

    rows: Any  # Float[Array, "n D"]; JAX rebuilds the object around batches, shapes and placeholders too
    sharding: NamedSharding | None = field(default=None, metadata={"static": True})

    @classmethod
    def from_matrices(cls, matrices: Float[Array, "n d d"]) -> PackedOperator:
        """From measurement matrices.

        Of asymmetric ones the symmetric part is taken, the only part that acts on a symmetric matrix.
        """
        return cls(svec((matrices + jnp.swapaxes(matrices, -1, -2)) / 2))

    @property
    def n(self) -> int:
        """Number of measurements, padded ones included."""
        return self.rows.shape[0]

    @property
    def d(self) -> int:
        """Side of the matrix."""
        return unpacked_size(self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the measurements."""
        return np.dtype(self.rows.dtype)

    def apply(self, matrix: Float[Array, "*batch d d"]) -> Float[Array, "*batch n"]:
        """``<A_i, X>`` for every measurement; X is taken as symmetric."""
        # Rows first, and the packed vector made before the product: otherwise XLA on CPU copies the transposed rows at every
        # call, or packs inside the product (73 ms against 6 ms at d = 128, n = 1518).
        return jnp.einsum("nd,...d->...n", self.rows, jax.lax.optimization_barrier(svec(matrix)))

    def adjoint(self, residual: Float[Array, "*batch n"]) -> Float[Array, "*batch d d"]:
        """``sum_i e_i sym(A_i)``. Written as vector times matrix: the transposed form is many times slower on CPU."""
        return smat(residual @ self.rows)

    def residual_sum(
        self, matrix: Float[Array, "*batch d d"], y: Float[Array, "n"], gain: Float[Array, ""]
    ) -> Float[Array, "*batch d d"]:
        """``sum_i e_i sym(A_i)`` with ``e = <A_i, X> / gain - y_i``: `adjoint` of the residual of `apply`, what a gradient needs.

        In one pass over the measurements where that pays (`pruneft.sensing.row_blocks`), in two elsewhere.
        """

        def twice(rows: Array, packed: Array, y: Array, gain: Array) -> Array:
            return (jnp.einsum("nd,...d->...n", rows, packed) / gain - y) @ rows

        shards = 1 if self.sharding is None else self.sharding.num_devices
        size = self.rows.size * self.rows.dtype.itemsize / shards
        packed = jax.lax.optimization_barrier(svec(matrix))
        if not row_blocks.pays(size, math.prod(matrix.shape[:-2])):
            return smat(twice(self.rows, packed, y, gain))
        once = row_blocks.residual_sum
        if self.sharding is not None:
            once = functools.partial(row_blocks.split_residual_sum, sharding=self.sharding)
        # Blocks are for the caches of a CPU; other devices want long products.
        return smat(jax.lax.platform_dependent(self.rows, packed, y, gain, cpu=once, default=twice))

    def jacobian(self, factor: Float[Array, "*batch d r"]) -> Float[Array, "*batch n d r"]:
        """Derivative of ``apply(U Uᵀ)``: ``2 sym(A_i) U``. Unpacks the rows (n d² numbers) for the product."""
        return self.linearised()(factor)

    def linearised(self) -> Callable[[Array], Array]:
        """`jacobian` with the rows unpacked once: in a loop that is up to half of its time."""
        unpacked = smat(self.rows) if self.sharding is None else None

        def jacobian(factor: Array) -> Array:
            matrices = smat(self.rows) if unpacked is None else unpacked
            return 2 * jnp.einsum("nij,...jr->...nir", matrices, factor)

        return jacobian

    def dof(self, rank: Any, d: Any = None) -> Any:
        """``r d - r(r-1)/2``: rotations of the factor do not count."""
        return rank * (self.d if d is None else d) - rank * (rank - 1) / 2

    def scaled(self, factor: Any) -> PackedOperator:
        """Every measurement multiplied by ``factor``, a scalar or one number per measurement [n]."""
        return PackedOperator(self.rows * jnp.asarray(factor, self.rows.dtype)[..., None])

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """Divided by the square of `gain`."""
        gain = self.gain(n, d).astype(residual.dtype)
        return residual / gain / gain

    def size(self, y: Float[Array, "n"], n: Any, d: Any) -> Float[Array, ""]:
        """Root mean square of y over `gain`."""
        return root_mean_square(y, n) / self.gain(n, d).astype(y.dtype)

    def noise_edge(self, sigma: Any, n: Any, d: Any) -> Any:
        """``sigma sqrt(2 d / n)`` over `gain`."""
        gain = self.gain(n, d)
        return sigma * jnp.sqrt(jnp.asarray(2 * d / n, gain.dtype)) / gain

    def gain(self, n: Any, d: Any) -> Float[Array, ""]:
        """The g with ``E (1/n) sum <A_i, X>^2 = g^2 ||X||_F^2``: root mean square of the packed entries."""
        live = jnp.asarray(n, self.rows.dtype) * jnp.asarray(d * (d + 1) / 2, self.rows.dtype)
        largest = jnp.max(jnp.abs(self.rows))
        safe = jnp.where(largest > 0, largest, 1)
        return safe * jnp.sqrt(jnp.sum(jnp.square(self.rows / safe)) / live)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gram:
    """The measurements reduced to what a gradient needs: ``Q = AᵀA/n`` and ``h = Aᵀy/n``, packed.

    ``svec(G) = Q x - h`` costs D² multiplications against 2 n D, so it is the cheaper form when n exceeds D/2 by
    enough; measured 2.4 times faster at n = 2D, d = 16. The loss in this form cancels in float32: for gradients only.
    """

    quadratic: Any  # Float[Array, "D D"]; see PackedOperator.rows
    linear: Any  # Float[Array, "D"]

    @classmethod
    def of(cls, operator: PackedOperator, y: Float[Array, "n"], n: Any) -> Gram:
        """The Gram form of an operator and its data; the mean is over the ``n`` live measurements."""
        return cls(operator.rows.T @ operator.rows / n, y @ operator.rows / n)

    def residual_matrix(self, matrix: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
        """``G = (1/n) sum e_i sym(A_i)`` at the matrix."""
        return smat(svec(matrix) @ self.quadratic - self.linear)

    @staticmethod
    def pays(n: int, d: int) -> bool:
        """Whether this form is the cheaper one, by the measured crossing n = d(d+1)/2."""
        return n >= packed_size(d)


def cast(operator: Any, dtype: Any) -> Any:
    """The operator with every floating array in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, operator)
