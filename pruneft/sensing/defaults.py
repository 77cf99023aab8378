"""What an operator need not write itself: parts that follow from `apply` and `adjoint`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.sensing.field import Field, factor_of, gram, height, stored_of


class OperatorDefaults:
    """Parts of a `pruneft.sensing.Operator` that follow from others; an operator replaces those that it can do faster.

    Left to the operator: ``n``, ``d``, ``dtype``, ``dof``, ``noise_edge``, `whiten`, and either ``apply`` and ``adjoint``, from which
    the products with factors follow, or those products too.
    """

    n: Any
    d: Any
    dtype: Any
    apply: Any
    adjoint: Any

    @property
    def field(self) -> Field:
        """Real."""
        return "real"

    def image(self, factor: Float[Array, "*batch h k"]) -> Float[Array, "*batch n"]:
        """``<A_i, U Uᴴ>``, by the matrix."""
        found: Array = self.apply(gram(factor, self.field))
        return found

    def pull(
        self, residual: Float[Array, "*batch n"], factor: Float[Array, "*batch h k"]
    ) -> Float[Array, "*batch h k"]:
        """``sum_i e_i A_i U``, by the matrix."""
        return stored_of(self.adjoint(residual) @ factor_of(factor, self.field), self.field)

    def jacobian(self, factor: Float[Array, "*batch h r"]) -> Float[Array, "*batch n h r"]:
        """Derivative of `image`, one product for each of the h r directions."""
        tall = height(self.d, self.field)
        flat = factor.reshape(-1, *factor.shape[-2:])
        basis = jnp.eye(tall * factor.shape[-1], dtype=factor.dtype).reshape(-1, tall, factor.shape[-1])

        def slopes(one: Array) -> Array:
            along = jax.vmap(lambda direction: jax.jvp(self.image, (one,), (direction,))[1])(basis)
            return jnp.moveaxis(along, 0, -1).reshape(self.n, tall, factor.shape[-1])

        return jax.vmap(slopes)(flat).reshape(*factor.shape[:-2], self.n, tall, factor.shape[-1])

    def linearised(self) -> Callable[[Array], Array]:
        """`jacobian` itself."""
        return self.jacobian

    def whiten(self, residual: Float[Array, "*batch n"], n: Any, d: Any) -> Float[Array, "*batch n"]:
        """The residual itself."""
        return residual

    def size(self, y: Float[Array, "n"], n: Any, d: Any) -> Float[Array, ""]:
        """``sqrt((1/n) <y, W y>)``."""
        # Divided by the largest first: squares of data in extreme units would overflow or vanish.
        largest = jnp.max(jnp.abs(y))
        unit = jnp.where(largest > 0, largest, 1)
        energy = jnp.sum(y / unit * self.whiten(y / unit, n, d))
        return unit * jnp.sqrt(jnp.maximum(energy, 0) / jnp.asarray(n, y.dtype))

    def canonical(self, factor: Float[Array, "*batch h k"], d: Any) -> Float[Array, "*batch h k"]:
        """The factor itself."""
        return factor


def root_mean_square(y: Float[Array, "n"], n: Any) -> Float[Array, ""]:
    """Over ``n`` live entries, without overflow in extreme units; 1 where all are zero."""
    largest = jnp.max(jnp.abs(y))
    largest = jnp.where(largest > 0, largest, 1)
    unit = largest * jnp.sqrt(jnp.sum(jnp.square(y / largest)) / n)
    return jnp.where(unit > 0, unit, 1)
