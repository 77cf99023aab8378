"""The linear complementarity problem of positive semidefinite matrices that the central flow solves at every step.

Source: Cohen et al. (2025), arXiv:2410.24206, for the problem; accelerated projected gradients (Beck and Teboulle 2009, restarted as in
O'Donoghue and Candes 2015) for the solver.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Solution(NamedTuple):
    """An answer with what it misses.

    Attributes:
      X: [k, k], positive semidefinite.
      infeasible: how far ``A + B[X]`` is below positive semidefinite, over the norm of A.
      gap: ``|<X, A + B[X]>|`` over the norms of A and X.
    """

    X: Float[Array, "k k"]
    infeasible: Float[Array, ""]
    gap: Float[Array, ""]


def complementarity(
    A: Float[Array, "k k"], B: Float[Array, "k k k k"], *, live: Bool[Array, " k"] | None = None, iterations: int = 400
) -> Solution:
    r"""``0 <= X  _|_  A + B[X] >= 0`` in the order of positive semidefinite matrices.

    .. math:: \min_{X \succeq 0} \tfrac12 \langle X, B[X] \rangle + \langle A, X \rangle

    Args:
      A: symmetric.
      B: ``B[X]_ab = sum_cd B_abcd X_cd``, a positive semidefinite map of symmetric matrices. Where it is singular and A is negative on its
        kernel there is no answer, and ``infeasible`` says so.
      live: rows and columns of X that may be other than zero; all if not given.
      iterations: gradient steps, each with an eigendecomposition of a k x k matrix. One number is solved at once.
    """
    k = A.shape[0]
    inside = jnp.ones((k, k), A.dtype)
    if live is not None:
        inside = (live[:, None] & live).astype(A.dtype)
    # Outside the live block there is nothing to be complementary to.
    A, B = A * inside, B * inside[:, :, None, None] * inside
    if k == 1:
        flat = B[0, 0, 0, 0]
        X = jnp.where(flat > 0, jnp.maximum(0, -A) / jnp.where(flat > 0, flat, 1), 0)
        return _measured(X, A, B)
    largest = jnp.linalg.eigvalsh(B.reshape(k * k, k * k))[-1]
    size = 1 / jnp.where(largest > 0, largest, 1)

    def advance(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        X, ahead, momentum = carry
        following = _cone(ahead - size * (A + _apply(B, ahead)))
        faster = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        # Against the momentum: begin it anew.
        back = jnp.sum((ahead - following) * (following - X)) > 0
        push = jnp.where(back, 0, (momentum - 1) / faster)
        return following, following + push * (following - X), jnp.where(back, 1, faster)

    start = _cone(-size * A)
    X = jax.lax.fori_loop(0, iterations, advance, (start, start, jnp.ones((), A.dtype)))[0]
    return _measured(X, A, B)


def _apply(B: Array, X: Array) -> Array:
    return jnp.einsum("abcd,cd->ab", B, X)


def _cone(X: Array) -> Array:
    """The nearest positive semidefinite matrix."""
    values, vectors = jnp.linalg.eigh((X + X.T) / 2)
    return (vectors * jnp.maximum(values, 0)) @ vectors.T


def _measured(X: Array, A: Array, B: Array) -> Solution:
    slack = A + _apply(B, X)
    unit = jnp.linalg.norm(A)
    unit = jnp.where(unit > 0, unit, 1)
    size = jnp.linalg.norm(X)
    infeasible = jnp.maximum(0, -jnp.linalg.eigvalsh((slack + slack.T) / 2)[0]) / unit
    return Solution(X, infeasible, jnp.abs(jnp.sum(X * slack)) / unit / jnp.where(size > 0, size, 1))
