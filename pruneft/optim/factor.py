"""What the optimisers of a matrix factor share: checks, the Gram matrix of the columns, and its inverse that is inert on padding.

A leaf of the parameters is a factor U [d, k] or a stack of them [..., d, k]; every matrix of a stack is treated on its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Matrices = Float[Array, "*stack d k"]


def map_factors(function: Callable[..., Any], updates: Any, params: Any, *more: Any) -> Any:
    """``function(gradient, factor, ...)`` of every leaf.

    Raises:
      ValueError: there are no parameters, or a leaf is no matrix.
    """
    if params is None:
        raise ValueError("this transformation preconditions by the factor: call update(gradient, state, params).")
    return jax.tree.map(lambda leaf, *rest: function(leaf, *map(_checked, rest[:1]), *rest[1:]), updates, params, *more)


def check_factors(params: Any) -> None:
    """Refuse parameters that are no factors.

    Raises:
      ValueError: a leaf has fewer than two axes.
    """
    for leaf in jax.tree.leaves(params):
        _checked(leaf)


def _checked(leaf: Any) -> Any:
    if jnp.ndim(leaf) < 2:
        raise ValueError(
            f"parameters must be factors [d, k] or stacks of them [..., d, k]: got a leaf of shape {jnp.shape(leaf)}. "
            "Use optax.masked or optax.partition for the other leaves."
        )
    return leaf


def column_gram(factor: Matrices, damping: Any = 0.0) -> Float[Array, "*stack k k"]:
    """``UᵀU + damping I``, with one on the diagonal where a column is zero and a ridge at the level of rounding.

    The inverse is therefore block diagonal with respect to zero columns: a gradient that is zero there stays exactly
    zero, and without damping the rest is the pseudo-inverse. The ridge, some eps times the trace, is for columns that
    are parallel.

    Args:
      factor: U.
      damping: a number, or one per matrix of the stack.
    """
    k, dtype = factor.shape[-1], factor.dtype
    gram = jnp.swapaxes(factor, -1, -2) @ factor
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    ridge = 4 * jnp.finfo(dtype).eps * jnp.sum(squares, axis=-1)
    level = (jnp.asarray(damping, dtype) + ridge)[..., None]
    # jnp.where and not a sum: a zero column must not make the others depend on how many there are.
    return gram + jnp.where(squares > 0, level, 1)[..., None] * jnp.eye(k, dtype=dtype)


def solve_right(matrix: Matrices, gram: Float[Array, "*stack k k"]) -> Matrices:
    """``X S^{-1}`` for a positive definite S, by Cholesky."""
    factored = jax.scipy.linalg.cho_factor(gram)
    return jnp.swapaxes(jax.scipy.linalg.cho_solve(factored, jnp.swapaxes(matrix, -1, -2)), -1, -2)


def tangent_step(gradient: Matrices, factor: Matrices, gram: Float[Array, "*stack k k"]) -> Matrices:
    """``(I - P/2) X S^{-1}`` with ``S = UᵀU`` (or damped) and P the projection onto the columns of U."""
    solved = solve_right(gradient, gram)
    inner = jnp.swapaxes(factor, -1, -2) @ solved
    return solved - factor @ jnp.swapaxes(solve_right(jnp.swapaxes(inner, -1, -2), gram), -1, -2) / 2


def each(value: Any, like: Matrices) -> Array:
    """A number, or one per matrix of the stack, to be multiplied with the stack."""
    return jnp.asarray(value).astype(like.dtype)[..., None, None]
