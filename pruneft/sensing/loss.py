"""The training objective, as pure functions to embed in a program of one's own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.penalty import smoothed_group_norm
from pruneft.sensing.operator import Operator


def mean_squared_error(
    factor: Float[Array, "d k"], operator: Operator, y: Float[Array, "n"], *, n: Any = None
) -> Float[Array, ""]:
    """``(1/n) sum (<A_i, U Uᵀ> - y_i)²``.

    Args:
      factor: U, [d, k].
      operator: the measurements.
      y: [n], data; zero where padded.
      n: number of live measurements; all if not given.

    Returns:
      A scalar in squared units of y. Its gradient is ``4 G U`` with ``G = (1/n) sum e_i sym(A_i)``.
    """
    residual = operator.apply(factor @ factor.T) - y
    return jnp.sum(jnp.square(residual)) / (y.shape[0] if n is None else n)


def objective(
    factor: Float[Array, "d k"], operator: Operator, y: Float[Array, "n"], lam: Any, beta: Any, *, n: Any = None
) -> Float[Array, ""]:
    """Mean squared error plus ``lam`` times the smoothed group norm of the columns, the objective of arXiv:2303.11453.

    Args:
      factor: U, [d, k].
      operator, y, n: as in `mean_squared_error`.
      lam: penalty weight, in squared units of y per unit of U.
      beta: smoothing, in squared units of U; positive.
    """
    return mean_squared_error(factor, operator, y, n=n) + lam * smoothed_group_norm(factor, beta)
