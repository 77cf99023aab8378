r"""Minimum-norm programs without cones by interior points: about ten iterations, whatever the instance.

The program is ``min sum_g t_g`` with ``A W = y`` and ``||w_g|| <= t_g``, its dual ``max y.nu`` with ``||A_g^T nu|| <= 1``: pairs
x_g = (t_g, w_g) and s_g = (1, -A_g^T nu) in second-order cones. A predictor and a corrector step with the scaling of Nesterov and
Todd each solve

.. math:: (\sum_g A_g (c_g I + u_g u_g^T) A_g^T + \lambda I) \, d\nu = r

whose matrix is ``(S diag(c) S^T) * (X X^T)``, and one column ``A_g u_g`` for each block: of order n^2 (g + n) operations, without a
factor d but for the normalised model. Lanes of one batch end within a few iterations of one another, near a phase transition
too, where splitting (`min_norm`) needs thousands of iterations in some lanes. Bounds and states are those of `min_norm`.

Source: the scaling, Nesterov, Todd (1997), and Mehrotra's corrector as in Vandenberghe, "The CVXOPT linear and quadratic cone
program solvers" (2010); the form of the matrix ours.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pruneft.relu.planted import cones, min_norm
from pruneft.relu.planted.blocks import Blocks
from pruneft.relu.planted.bounds import Bounds, Interpolant, run, settings
from pruneft.relu.planted.cones import Cones, Scaling
from pruneft.relu.planted.min_norm import System, system

__all__ = ["Interior", "State", "advance", "init", "solve", "system"]


@dataclass(frozen=True, kw_only=True)
class Interior:
    """Constants of the method.

    Attributes:
      stay: share of the way to the boundary of the cones that a step takes.
      power: of Mehrotra's rule, which aims at ``(1 - a)^power`` of the mean product where the predictor can go a share a of its way.
      ridge: on the diagonal of the matrix of the steps, over its mean; in units of n rounding errors of the dtype. Near the optimum few
        blocks carry nearly all of the matrix, and Cholesky's method fails where the rest is within rounding: with 100 rounding errors
        whatever n, that was so in 1 of 3 instances at (n, d) = (400, 20); with 5 n nowhere, nor at a gap of 1e-11.
      refine: steps of iterative refinement, which take back what the ridge does: a gap of 1e-12 instead of 2e-11 at that size, and of
        5e-4 instead of 1.4e-3 in float32.
    """

    stay: float = 0.99
    power: int = 3
    ridge: float = 5.0
    refine: int = 3


class State(NamedTuple):
    """Where a run is: as `min_norm.State`, with the point of the iteration: x in the cones, and the multiplier ``at`` [n]."""

    y: Float[Array, " n"]
    lam: Float[Array, ""]
    x: Cones
    at: Float[Array, " n"]
    best: Bounds


def _matrix(blocks: Blocks, scaling: Scaling) -> Float[Array, "n n"]:
    """``sum_g A_g (c_g I + u_g u_g^T) A_g^T``."""
    c, u = scaling.size**2, jnp.sqrt(2.0).astype(blocks.X.dtype) * scaling.size * scaling.vector.tail
    columns = blocks.predictions(u)
    if blocks.model == "normalised":
        rows = (blocks.U * scaling.size).reshape(blocks.n, -1)
        gram = rows @ rows.T
    else:
        gram = (blocks.X @ blocks.X.T) * ((blocks.S * c) @ blocks.S.T)
    return gram + columns @ columns.T


def init(
    blocks: Blocks,
    system: System,
    y: Float[Array, " n"],
    constants: Interior = Interior(),
    lam: float | Float[Array, ""] = 0.0,
) -> State:
    """The first state: at the least-squares interpolant, inside the cones."""
    first = min_norm.init(blocks, system, y, lam=lam)
    length = jnp.linalg.norm(first.Z, axis=0)
    most = jnp.max(length)
    inside = Cones(length + jnp.where(most > 0, most, 1), first.Z)
    return State(y=y, lam=first.lam, x=inside, at=jnp.zeros_like(y), best=first.best)


def advance(blocks: Blocks, system: System, state: State, constants: Interior = Interior()) -> State:
    """One iteration, and the bounds after it."""
    y, lam, x, live = state.y, state.lam, state.x, blocks.live
    eps = jnp.finfo(y.dtype).eps
    s = Cones(jnp.ones_like(x.head), -blocks.adjoint(state.at))
    scaling = cones.scaling_of(x, s)
    mean = jnp.sum(jnp.where(live, cones.inner(scaling.lam, scaling.lam), 0)) / jnp.maximum(
        jnp.sum(live.astype(y.dtype)), 1
    )

    # Directions that no block reaches, padded rows among them, get a one: the steps have nothing there.
    unseen = (system.values <= min_norm.cut(system.values)).astype(y.dtype)
    H = _matrix(blocks, scaling)
    size = jnp.trace(H) / jnp.maximum(jnp.sum(1 - unseen), 1)
    H = H + size * ((system.vectors * unseen) @ system.vectors.T)
    H = H + lam * jnp.eye(blocks.n, dtype=y.dtype)
    ridge = constants.ridge * blocks.n * eps * size
    factor = jax.scipy.linalg.cho_factor(H + ridge * jnp.eye(blocks.n, dtype=y.dtype), lower=True)
    rest = y - blocks.apply(x.tail) - lam * state.at

    def direction(q: Cones) -> tuple[Float[Array, " n"], Cones, Cones]:
        """The step of the multiplier, and those of x and s in scaled coordinates."""
        right = rest - blocks.apply(cones.scaled(scaling, q).tail)
        move = jax.scipy.linalg.cho_solve(factor, right)
        for _ in range(constants.refine):  # what the ridge took
            move = move + jax.scipy.linalg.cho_solve(factor, right - H @ move)
        ds = cones.scaled(scaling, Cones(jnp.zeros_like(x.head), -blocks.adjoint(move)))
        return move, cones.plus(q, -1, ds), ds

    def length(dx: Cones, ds: Cones) -> Float[Array, ""]:
        return jnp.minimum(cones.room(scaling.lam, dx, live), cones.room(scaling.lam, ds, live))

    _, dx, ds = direction(jax.tree.map(jnp.negative, scaling.lam))
    aim = (1 - jnp.minimum(length(dx, ds), 1)) ** constants.power * mean
    square, second = cones.product(scaling.lam, scaling.lam), cones.product(dx, ds)
    move, dx, ds = direction(
        cones.quotient(scaling.lam, Cones(aim - square.head - second.head, -square.tail - second.tail))
    )
    far = jnp.minimum(constants.stay * length(dx, ds), 1)
    change = cones.scaled(scaling, dx)
    fine = jnp.isfinite(far) & jnp.all(jnp.isfinite(move)) & jnp.all(jnp.isfinite(change.tail))
    # Past what the precision allows the matrix is no longer positive definite: the run ends where it is.
    x = Cones(
        jnp.where(fine & live, x.head + far * change.head, x.head), jnp.where(fine, x.tail + far * change.tail, x.tail)
    )
    at = jnp.where(fine, state.at + far * move, state.at)

    W = x.tail + blocks.adjoint(system.solve(y - lam * at - blocks.apply(x.tail), jnp.zeros_like(lam)))
    value = min_norm.objective(blocks, y, lam, W)
    nu, dual = min_norm.proven(blocks, y, lam, at)
    return state._replace(x=x, at=at, best=state.best.seen(W, value, nu, dual, broken=~fine))


def solve(
    blocks: Blocks,
    y: Float[Array, " n"],
    *,
    lam: float | Float[Array, ""] = 0.0,
    tol: float | Float[Array, ""] = 1e-8,
    max_iterations: int | Int[Array, ""] = 60,
    constants: Interior = Interior(),
) -> Interpolant:
    """As `min_norm.solve`: the interpolant of minimal norm to within a certified relative gap; safe under jit and vmap.

    Args:
      blocks: data and patterns; computed in their dtype.
      y: [n] what to interpolate; zero in padded rows.
      lam: positive for noisy data: ``sum ||w_g|| + ||A W - y||^2 / (2 lam)``.
      tol: relative gap to stop at. In float32 about 1e-3 can be reached; splitting comes to 1e-4 there.
      max_iterations: budget.
      constants: of the method.

    Raises:
      ValueError: y has another length than the data have rows, lam is negative, or tol or the budget not positive.
    """
    return _solve(blocks, y, *settings(blocks, y, lam, tol, max_iterations), constants)


@functools.partial(jax.jit, static_argnames="constants")
def _solve(
    blocks: Blocks,
    y: Float[Array, " n"],
    lam: Float[Array, ""],
    tol: Float[Array, ""],
    budget: Int[Array, ""],
    constants: Interior,
) -> Interpolant:
    shared = system(blocks)
    begin = init(blocks, shared, y, constants, lam)
    return run(begin, lambda state: advance(blocks, shared, state, constants), tol, budget)
