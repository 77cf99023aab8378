"""The tangent step: descent of the product U Uᵀ along its tangent space, plain and accelerated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pruneft.optim.factor import check_factors, column_gram, each, map_factors, tangent_step


class TangentNesterovState(NamedTuple):
    """What is carried.

    Attributes:
      velocity: like the parameters.
      learning_rate, momentum: like the parameters, one number for every matrix, or for all of a leaf's.
    """

    velocity: Any
    learning_rate: Any
    momentum: Any


def scale_by_tangent() -> optax.GradientTransformation:
    r"""The gradient, preconditioned so that the step moves ``U Uᵀ`` by the tangent projection.

    .. math:: X \mapsto (I - P/2) \, X \, (U^T U)^{-1}, \quad P = U (U^T U)^{-1} U^T

    For a gradient 4 G U the product then moves along ``4 (P G + G P - P G P)``, four times the projection of the symmetric
    G onto the tangent space of matrices of that rank, so that neither the condition number of ``U Uᵀ`` nor the choice of U
    matters. ScaledGD lacks the factor ``I - P/2``, and has twice the curvature inside the column space for it.
    """

    def init(params: Any) -> optax.EmptyState:
        check_factors(params)
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        return map_factors(_tangent, updates, params), state

    return optax.GradientTransformation(init, update)


def tangent_descent(learning_rate: Any) -> optax.GradientTransformation:
    """Descent by the tangent step, `scale_by_tangent`.

    Args:
      learning_rate: a number or an optax schedule. For the mean squared error of ``U Uᵀ``, whose gradient is 4 G U,
        ``1.8 / (4 (a + b))`` is safe: a and b the extreme eigenvalues of the measurements on the tangent space.

    Source: derived (ours): Riemannian gradient descent on matrices of fixed rank, written for the factor.
    """
    return optax.chain(scale_by_tangent(), optax.scale_by_learning_rate(learning_rate))


def tangent_nesterov(
    learning_rate: float | Callable[[Any], Any], momentum: float | Callable[[Any], Any]
) -> optax.GradientTransformation:
    r"""Tangent steps with Nesterov's momentum.

    .. math:: D = -\eta (I - P/2) \nabla f(U) (U^T U)^{-1}, \quad V \leftarrow \mu V + D, \quad U \leftarrow U + \mu V + D

    For the mean squared error of ``U Uᵀ``, whose gradient is 4 G U: ``eta = 1/(4 a)`` and ``mu = (c - 1)/(c + 1)``,
    ``c = sqrt(a/b)``, with a and b the extreme eigenvalues of the measurements on the tangent space. The error then falls
    by ``1 - 1/c`` a step, whatever the condition number of M.

    Args:
      learning_rate, momentum: numbers, or functions of a leaf of the parameters, called at ``init``: for what depends on
        how many columns are alive. They give a number, or one per matrix of a stack.

    Raises:
      ValueError: ``momentum`` is a number outside [0, 1).

    Source: derived (ours) from Nesterov (1983) and Riemannian descent on matrices of fixed rank.
    """
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1): got {momentum}.")

    def constant(what: Any, leaf: Any) -> Any:
        return jnp.asarray(what(leaf) if callable(what) else what, leaf.dtype)

    def init(params: Any) -> TangentNesterovState:
        check_factors(params)
        return TangentNesterovState(
            velocity=jax.tree.map(jnp.zeros_like, params),
            learning_rate=jax.tree.map(lambda leaf: constant(learning_rate, leaf), params),
            momentum=jax.tree.map(lambda leaf: constant(momentum, leaf), params),
        )

    def update(updates: Any, state: TangentNesterovState, params: Any = None) -> tuple[Any, TangentNesterovState]:
        step = map_factors(lambda g, u, rate: -each(rate, g) * _tangent(g, u), updates, params, state.learning_rate)
        velocity = jax.tree.map(lambda v, d, mu: each(mu, d) * v + d, state.velocity, step, state.momentum)
        ahead = jax.tree.map(lambda v, d, mu: each(mu, d) * v + d, velocity, step, state.momentum)
        return ahead, state._replace(velocity=velocity)

    return optax.GradientTransformation(init, update)


def _tangent(gradient: Any, factor: Any) -> Any:
    return tangent_step(gradient, factor, column_gram(factor))
