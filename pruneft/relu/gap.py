"""Rigorous bounds of a convex program's optimum from any iterate: a feasible point, a dual value, and the zero threshold.

The dual of a program is: maximise ``-l*(nu)`` over nu in R^n and mu >= 0 with ``||F_g^T nu - X^T (E_g * mu_g)|| <= lam`` for
every block g (mu = 0 without cones), with ``E = 2 |S| - 1``. Its constraints are positively homogeneous, so any nu and mu
become feasible by scaling both, and a value that is rigorous follows from whatever a solver has at hand.

Derived (ours); the programs are those of Bai, Gautam, Sojoudi, arXiv:2201.01965.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pruneft.relu.program import Program


def cone_signs(program: Program) -> Float[Array, "n p"]:
    """``2 |S| - 1`` for blocks with cones, 0 for those without."""
    return (2 * jnp.abs(program.S) - 1) * jnp.asarray(program.coned, program.X.dtype)


def directions(program: Program) -> Float[Array, "d p"]:
    """The interior direction of every block's cone; zero for blocks without cones."""
    free = jnp.zeros((program.d, 1), program.H.dtype)
    parts = [free] if program.skip else []
    parts += [program.H, program.H] if program.form == "exact" else [jnp.zeros_like(program.H)]
    return jnp.concatenate(parts, axis=1)


def holds(program: Program, U: Float[Array, "d p"]) -> Bool[Array, " p"]:
    """Which blocks satisfy every row of their cone, as computed."""
    return jnp.all(cone_signs(program) * (program.X @ U) >= 0, axis=0)


def repair(program: Program, U: Float[Array, "d p"]) -> Float[Array, "d p"]:
    """Blocks that satisfy every cone, in floating point too, near ``U``.

    A block moves along its interior direction h as far as its most violated row asks, ``u + t h`` with
    ``t = max_k (-E_k x_k u)_+ / (E_k x_k h)``, and a little further: the rows then hold by more than what any order of
    summation can round, so they hold for ``X @ U`` as NumPy or another compiled program computes it, and for the neurons made of it.
    A block that cannot be given this margin (no direction, or one too close to the boundary for the precision) becomes zero.
    Zero blocks stay zero, and blocks without cones stay as they are.
    """
    E, H, X = cone_signs(program), directions(program), program.X
    size = jnp.linalg.norm(X, axis=1)[:, None]
    share = (
        2 * (program.d + 2) * jnp.finfo(X.dtype).eps
    )  # a dot product errs by less than half of this share of the norms
    length = jnp.linalg.norm(U, axis=0)
    lack = jnp.where(E != 0, jnp.maximum(share * size * length - E * (X @ U), 0), 0)
    room = E * (X @ H) - share * size * jnp.linalg.norm(H, axis=0)
    need = jnp.where(lack > 0, jnp.where(room > 0, lack / jnp.where(room > 0, room, 1), jnp.inf), 0)
    far = jnp.max(need, axis=0)
    reached = jnp.isfinite(far) & (length > 0)
    moved = U + jnp.where(reached, far, 0) * H
    moved = jnp.where(reached, moved, 0)
    return jnp.where(holds(program, moved), moved, 0)


def dual_value(program: Program, nu: Float[Array, " n"], mu: Float[Array, "n p"]) -> Float[Array, ""]:
    """The largest value that a scaling of (nu, mu) proves for the optimum; not above it whatever nu and mu are.

    Args:
      program: the program.
      nu: [n], near the slope of the loss at the optimal prediction.
      mu: [n, p] multipliers of the cone rows ``E * (X U) >= 0``; negative ones and those of blocks without cones count as zero.
    """
    loss = program.losses
    nu = loss.dual_point(nu, program.y, program.weights)
    pulled = program.pull(nu) - program.X.T @ (cone_signs(program) * jnp.maximum(mu, 0))
    most = jnp.max(jnp.linalg.norm(pulled, axis=0), initial=0.0)
    eps = jnp.finfo(nu.dtype).eps
    # Rounding must not turn a point that touches the constraint into one that breaks it.
    limit = program.lam / jnp.maximum(most * (1 + 4 * eps), jnp.finfo(nu.dtype).tiny)
    return loss.dual_value(nu, program.y, program.weights, limit)[0]


def lam_max(program: Program) -> Float[Array, ""]:
    """The penalty weight from which on the zero point is optimal: ``max_g ||F_g^T l'(0)||``.

    Exact without cones; with cones an upper bound of the threshold. ``program.lam`` plays no part.
    """
    slope = program.losses.slope(jnp.zeros_like(program.y), program.y, program.weights)
    return jnp.max(jnp.linalg.norm(program.pull(slope), axis=0), initial=0.0)
