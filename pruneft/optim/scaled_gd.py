"""Scaled gradient descent, plain and damped: preconditioned by the Gram matrix of the factor's columns."""

from __future__ import annotations

import math
from typing import Any

import optax

from pruneft.optim.factor import check_factors, column_gram, map_factors, solve_right


def scale_by_gram(damping: Any = 0.0) -> optax.GradientTransformation:
    """Gradient times ``(UᵀU + damping I)^{-1}``.

    Args:
      damping: not negative, in squared units of U; a number or one per matrix of a stack. Without it the step does not
        depend on the condition number of ``U Uᵀ``; columns that are zero or parallel are handled as by a pseudo-inverse.
    """

    def init(params: Any) -> optax.EmptyState:
        check_factors(params)
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        scaled = map_factors(lambda g, factor: solve_right(g, column_gram(factor, damping)), updates, params)
        return scaled, state

    return optax.GradientTransformation(init, update)


def scaled_gd(learning_rate: Any, damping: Any = 0.0) -> optax.GradientTransformation:
    r"""ScaledGD, or ScaledGD(lambda) with a positive ``damping``.

    .. math:: U \leftarrow U - \eta \, \nabla f(U) \, (U^T U + \lambda I)^{-1}

    For the mean squared error of ``U Uᵀ``, whose gradient is 4 G U, ``eta = 0.9 / (4 a)`` is safe, a the largest
    eigenvalue of the measurements on the tangent space: directions inside the column space are twice as curved as those
    that turn it. Damping of a tenth of the smallest eigenvalue costs a few steps at the right rank; with surplus columns
    it stalls once they are smaller than it.

    Args:
      learning_rate: eta, in units of the inverse curvature; a number or an optax schedule.
      damping: lambda, in squared units of U.

    Raises:
      ValueError: ``damping`` is a negative number.

    Source: published: Tong, Ma and Chi (2021), JMLR 22(150); with damping Xu, Shen, Chi and Ma (2023), arXiv:2302.01186.
    """
    if isinstance(damping, int | float) and not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and not negative, in squared units of the factor: got {damping}.")
    return optax.chain(scale_by_gram(damping), optax.scale_by_learning_rate(learning_rate))
