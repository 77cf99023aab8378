"""Gauss-Newton for a matrix factor: the linear system solved by conjugate gradients that never form a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pruneft.optim.factor import Matrices, check_factors, column_gram, each, map_factors, tangent_step


class GaussNewtonState(NamedTuple):
    """What is carried.

    Attributes:
      products: like the parameters, one number for every matrix: products with the curvature so far, each one pass
        forward and one back through the measurements.
    """

    products: Any


class _Carry(NamedTuple):
    solution: Matrices
    residual: Matrices
    direction: Matrices
    size: Float[Array, "*stack"]
    goal: Float[Array, "*stack"]
    taken: Int[Array, "*stack"]
    active: Bool[Array, "*stack"]


def gauss_newton_cg(
    learning_rate: float = 1.0, tolerance: float = 0.1, products: int = 60
) -> optax.GradientTransformationExtraArgs:
    r"""Gauss-Newton step by preconditioned conjugate gradients.

    .. math:: H D = -\nabla f(U), \quad U \leftarrow U + \eta D, \quad H = \tfrac{2}{n} J^T J

    for ``f = ||e||²/n`` with J the derivative of the residual e. ``update`` needs H as ``curvature=``, a function (U, V) ->
    H V; for a stack of factors it takes and gives stacks, every matrix a problem of its own. The preconditioner is the
    tangent step, the exact inverse of H for a design that preserves norms, so the number of products depends on the
    measurements and little on the condition number of ``U Uᵀ``. Rotations of the factor are null directions of H; the
    gradient has no part in them, so neither has the solution. What is zero in the gradient and in ``H V`` stays zero.

    The system is solved until its residual, in the norm of the preconditioner, has fallen to ``min(tolerance, s)``, s the
    length of the first conjugate gradient step relative to ``||U Uᵀ||``: roughly the relative error, so that convergence is
    quadratic in the end.

    Args:
      learning_rate: eta; the full step is meant for starts about 10 percent off.
      tolerance: the share above.
      products: at most so many products with H per update.

    Raises:
      ValueError: a count or tolerance is not positive; at ``update``, the curvature is missing, or the parameters are more
        than one array.

    Source: inexact Newton methods, Dembo, Eisenstat and Steihaug (1982); the preconditioner is derived (ours).
    """
    if products < 1 or not 0 < tolerance < 1:
        raise ValueError(
            f"products must be at least 1 and tolerance between 0 and 1: got products={products}, tolerance={tolerance}."
        )

    def init(params: Any) -> GaussNewtonState:
        check_factors(params)
        return GaussNewtonState(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[:-2], jnp.int32), params))

    def update(
        updates: Any,
        state: GaussNewtonState,
        params: Any = None,
        *,
        curvature: Callable[[Array, Array], Array] | None = None,
        **_: Any,
    ) -> tuple[Any, GaussNewtonState]:
        if curvature is None:
            raise ValueError(
                "the Gauss-Newton step needs products with the curvature: call "
                "update(gradient, state, params, curvature=function), function(U, V) = (2/n) Jᵀ J V."
            )
        if len(jax.tree.leaves(updates)) != 1:
            raise ValueError(
                f"the parameters must be one factor or one stack of them: got {len(jax.tree.leaves(updates))} arrays."
            )

        def solve(gradient: Array, factor: Array) -> _Carry:
            return _conjugate_gradients(gradient, factor, curvature, tolerance, products)

        found = map_factors(solve, updates, params)
        inside = jax.tree.structure(updates)
        (carry,) = jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, _Carry))
        step = jax.tree.unflatten(inside, [learning_rate * carry.solution])
        counts = jax.tree.map(lambda before: before + carry.taken, state.products)
        return step, GaussNewtonState(counts)

    return optax.GradientTransformationExtraArgs(init, update)


def _conjugate_gradients(
    gradient: Matrices, factor: Matrices, curvature: Callable[[Array, Array], Array], tolerance: float, products: int
) -> _Carry:
    gram = column_gram(factor)
    length = jnp.linalg.norm(factor @ jnp.swapaxes(factor, -1, -2), axis=(-2, -1))

    def body(carry: _Carry) -> _Carry:
        product = curvature(factor, carry.direction)
        bend = _inner(carry.direction, product)
        step = jnp.where(carry.active & (bend > 0), carry.size / jnp.where(bend > 0, bend, 1), 0)
        # The first step tells how far off the factor is; what it is measured against cannot be zero while it is active.
        moved = _moved(factor, carry.direction) * step / jnp.where(length > 0, length, 1)
        first = carry.taken == 0
        share = jnp.clip(moved, jnp.finfo(factor.dtype).eps ** 0.5, tolerance)
        goal = jnp.where(first, carry.goal * jnp.square(share), carry.goal)
        residual = carry.residual - each(step, factor) * product
        preconditioned = tangent_step(residual, factor, gram)
        size = _inner(residual, preconditioned)
        ratio = jnp.where(carry.active, size / jnp.where(carry.size > 0, carry.size, 1), 0)
        taken = carry.taken + carry.active.astype(jnp.int32)
        return _Carry(
            solution=carry.solution + each(step, factor) * carry.direction,
            residual=residual,
            direction=preconditioned + each(ratio, factor) * carry.direction,
            size=jnp.where(carry.active, size, carry.size),
            goal=goal,
            taken=taken,
            active=carry.active & (size > goal) & (bend > 0) & (taken < products),
        )

    preconditioned = tangent_step(-gradient, factor, gram)
    size = _inner(-gradient, preconditioned)
    begin = _Carry(
        solution=jnp.zeros_like(factor),
        residual=-gradient,
        direction=preconditioned,
        size=size,
        goal=size,
        taken=jnp.zeros(size.shape, jnp.int32),
        active=size > 0,
    )
    return jax.lax.while_loop(lambda carry: jnp.any(carry.active), body, begin)


def _inner(left: Matrices, right: Matrices) -> Float[Array, "*stack"]:
    return jnp.sum(left * right, axis=(-1, -2))


def _moved(factor: Matrices, direction: Matrices) -> Float[Array, "*stack"]:
    """``||U Dᵀ + D Uᵀ||_F``."""
    product = factor @ jnp.swapaxes(direction, -1, -2)
    return jnp.linalg.norm(product + jnp.swapaxes(product, -1, -2), axis=(-2, -1))
