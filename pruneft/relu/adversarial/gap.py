r"""Certified bounds of a robust program: a feasible point from any blocks, a lower bound from any multipliers.

The dual. Write each worst loss as the supremum of ``(nu x + delta).c - conjugate`` over its multipliers, and each robust half-space
of a block with a multiplier mu >= 0 and an attack of its own: ``mu (E x.u - r ||u||_*) <= mu E x.u - xi.u`` for all ``||xi||_p <= r mu``.
Then with Z the matrix of rows ``nu_k x_k + delta_k``,

    maximise   - sum_k conjugate_k(nu_k, t_k)
    subject to || Z^T S_g - X^T (E_g mu_g) + xi_g || <= lam,   ||xi_g||_p <= r.mu_g,   mu_g >= 0,   for every block g,

and the best xi is known: it shrinks the rest of the sum, so the constraint reads ``||shrink(Z^T S_g - X^T (E_g mu_g), r.mu_g)|| <= lam``.
Everything but the conjugate is positively homogeneous, so any multipliers are feasible after scaling by lam over the largest norm.
At r = 0 this is the dual of the plain program. Derived (ours).

The repair. The slack of a robust cone is concave and homogeneous, so ``slack(v + s h) >= slack(v) + s slack(h)``: with h in its interior
the step ``s = max_k (-slack_k(v))_+ / slack_k(h)`` makes v feasible.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.relu.adversarial import losses
from pruneft.relu.adversarial.program import RobustProgram


def directions(program: RobustProgram) -> Float[Array, "d p"]:
    """An interior direction for every block."""
    return jnp.concatenate([program.plain.H, program.plain.H], axis=1)


def repair(program: RobustProgram, U: Float[Array, "d p"]) -> Float[Array, "d p"]:
    """Blocks that satisfy every robust cone, in floating point too, near ``U``.

    They move a little further than they must, so that the rows hold by more than any order of summation can round. A block that
    cannot be given this margin, and every inert one, becomes zero; zero blocks stay zero.
    """
    X, H = program.plain.X, directions(program)
    size = (
        jnp.linalg.norm(X, axis=1)[:, None] + program.radius[:, None] * X.shape[1] ** 0.5
    )  # bounds |slack| over the block's norm
    share = 2 * (X.shape[1] + 2) * jnp.finfo(X.dtype).eps
    length = jnp.linalg.norm(U, axis=0)
    held = size > 0  # rows of zeros hold nothing
    lack = jnp.where(held, jax.nn.relu(share * size * length - program.slack(U)), 0)
    room = program.slack(H) - share * size * jnp.linalg.norm(H, axis=0)
    need = jnp.where(lack > 0, jnp.where(room > 0, lack / jnp.where(room > 0, room, 1), jnp.inf), 0)
    far = jnp.max(need, axis=0)
    reached = jnp.isfinite(far) & (length > 0) & program.live
    moved = jnp.where(reached, U + jnp.where(reached, far, 0) * H, 0)
    return jnp.where(jnp.all(program.slack(moved) >= 0, axis=0), moved, 0)


def block_norms(program: RobustProgram, found: losses.Multipliers, mu: Float[Array, "n p"]) -> Float[Array, " p"]:
    """What the dual bounds by lam, for every block; zero for inert ones, which can always be made so."""
    plain = program.plain
    Z = found.nu[:, None] * plain.X + found.delta
    pull = plain.S.T @ Z - (program.signs * mu).T @ plain.X
    left = program.ball.shrink(pull, program.mask, program.radius @ mu)
    return jnp.where(program.live, jnp.linalg.norm(left, axis=1), 0)


def lower_bound(program: RobustProgram, found: losses.Multipliers, mu: Float[Array, "n p"]) -> Float[Array, ""]:
    """The dual value of these multipliers, made feasible and scaled to their best: never above the optimum.

    Args:
      program: the robust program.
      found: multipliers of the losses, from `pruneft.relu.adversarial.losses.prox`, say.
      mu: [n, p] of the half-spaces; negative ones count as zero.
    """
    plain = program.plain
    point = losses.dual_point(plain.losses, program.ball, program.data, found, plain.weights)
    largest = jnp.max(block_norms(program, point, jax.nn.relu(mu)), initial=0)
    most = 1e6  # beyond that nothing is gained, and infinity is not a scale
    limit = jnp.minimum(plain.lam / jnp.maximum(largest, plain.lam / most), most)
    return losses.dual_value(plain.losses, program.ball, program.data, point, plain.weights, limit)
