r"""Minimum-norm programs with the cones of ReLU neurons, by interior points.

.. math:: \min \sum_j \|v_j\| + \|v'_j\| \;\text{ with }\; \sum_j A_j (v_j - v'_j) = y, \; C_j v_j \ge 0, \; C_j v'_j \ge 0

and for a skip connection ``||w_0||`` and ``X w_0`` more. ``C_j = (2 D_j - I) X``, for the normalised model times ``V_j / Sigma_j``; its
rows are scaled to unit length, which changes no cone. Beside the second-order cones of `interior` a row r = C v and its multiplier
m are both positive with one product, so every block has a matrix of size d of its own,

.. math:: T = (c I + u u^T)^{-1} + C^T diag(m / r) C,

and the steps of the multiplier of y one of size n, ``sum A T^{-1} A^T``: of order (n d^2 + n^2 d) P operations an iteration.

Bounds: the multipliers scaled into ``||A_j^T nu + C_j^T m_j|| <= 1`` prove a lower one. For the upper one what the point leaves of y,
rounding errors, is spread over all blocks, and each pair v_j, v'_j is moved by one and the same multiple of a direction inside
their cone: that changes no prediction, and puts both inside.

Source: the programs, Wang, Hua, Candes, Pilanci, arXiv:2209.15265; elimination and certificate ours.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.interior_direction import interior_directions
from pruneft.relu.planted import cones, min_norm
from pruneft.relu.planted.blocks import Blocks
from pruneft.relu.planted.bounds import Bounds, Interpolant, run, settings
from pruneft.relu.planted.cones import Cones
from pruneft.relu.planted.frame import frame_of, inverses
from pruneft.relu.planted.interior import Interior

_MARGIN = (
    1e-9  # of a direction, over its length and that of a row: a cone narrower than this has no interior to rounding
)


class System(NamedTuple):
    """What the iterations need of the data.

    Attributes:
      C: [n, d] or, for the normalised model, [n, d, P]: rows of the cones, of unit length, without their signs.
      E: [n, P] their signs, ``2 D - 1``.
      spread: of ``A A^T``.
      inside: [d, P] the directions, of unit length; zero where a block has none.
      room: [n, P] ``E * (C inside)``.
      usable: the blocks with a direction; the others have no pattern.
      rows: [n, P] which rows of the cones there are.
    """

    C: Float[Array, "n d *own"]
    E: Float[Array, "n P"]
    spread: min_norm.System
    inside: Float[Array, "d P"]
    room: Float[Array, "n P"]
    usable: Blocks
    rows: Bool[Array, "n P"]

    @property
    def live(self) -> Bool[Array, " p"]:
        """Which blocks count: the linear one, v and v' of every usable pattern."""
        live, first = self.usable.live, self.usable.first
        return jnp.concatenate([live[:first], live[first:], live[first:]])


class State(NamedTuple):
    """Where a run is: as `interior.State`, with the multipliers m of the cones' rows; ``at`` is the multiplier of y."""

    y: Float[Array, " n"]
    x: Cones
    m: Float[Array, "n 2 P"]
    at: Float[Array, " n"]
    best: Bounds


def inner_directions(blocks: Blocks) -> Float[Array, "d P"]:
    """A direction [d, P] far inside the cone of every block, in its coordinates; zero where the cone has no interior.

    A linear program for each block, on the host. For the plain and the skip model the directions that the patterns were drawn with do as
    well.
    """
    X, D = np.asarray(blocks.X), np.asarray(blocks.D)
    found = np.zeros((blocks.d, blocks.P), X.dtype)
    for j in np.flatnonzero(D.any(axis=0)):
        rows = X if blocks.back is None else X @ np.asarray(blocks.back[:, :, j])
        H, margin = interior_directions(rows, D[:, [j]])
        found[:, j] = H[:, 0] * (margin[0] > _MARGIN)
    return jnp.asarray(found)


def system(blocks: Blocks, inner: Float[Array, "d P"]) -> System:
    """What the iterations need.

    Args:
      blocks: data and patterns.
      inner: [d, P] a direction inside the cone of every block, in its coordinates (`inner_directions`). Where one is zero, or is not
        inside, the block stays zero.
    """
    X, D = blocks.X, blocks.D
    rows = X if blocks.back is None else jnp.einsum("nd,dep->nep", X, blocks.back)
    size = jnp.linalg.norm(rows, axis=1, keepdims=True)
    C, E = rows / jnp.where(size > 0, size, 1), 2 * D - 1
    length = jnp.linalg.norm(inner, axis=0)
    inside = inner / jnp.where(length > 0, length, 1)
    room = E * (C @ inside if C.ndim == 2 else jnp.einsum("ndp,dp->np", C, inside))
    there = jnp.broadcast_to(jnp.reshape(size, (blocks.n, -1)) > 0, room.shape)
    wide = jnp.all((room > _MARGIN) | ~there, axis=0) & jnp.any(D != 0, axis=0)
    U = None if blocks.U is None else jnp.where(wide, blocks.U, 0)
    usable = dataclasses.replace(blocks, D=jnp.where(wide, D, 0), U=U)
    inside, room = jnp.where(wide, inside, 0), jnp.where(wide, room, 0)
    return System(C, E, min_norm.system(usable), inside, room, usable, there & wide)


def _sides(blocks: Blocks, W: Float[Array, "d p"]) -> Float[Array, "d 2 P"]:
    return W[:, blocks.first :].reshape(blocks.d, 2, blocks.P)


def _rows(system: System, W: Float[Array, "d p"]) -> Float[Array, "n 2 P"]:
    """C of v and v'."""
    sides = _sides(system.usable, W)
    equation = "nd,dkp->nkp" if system.C.ndim == 2 else "ndp,dkp->nkp"
    return system.E[:, None] * jnp.einsum(equation, system.C, sides)


def _rows_t(system: System, m: Float[Array, "n 2 P"]) -> Float[Array, "d p"]:
    """C^T m; zero for the linear block."""
    equation = "nd,nkp->dkp" if system.C.ndim == 2 else "ndp,nkp->dkp"
    blocks = system.usable
    pulled = jnp.einsum(equation, system.C, system.E[:, None] * m).reshape(blocks.d, -1)
    return jnp.concatenate([jnp.zeros((blocks.d, blocks.first), m.dtype), pulled], axis=1)


def predict(blocks: Blocks, W: Float[Array, "d p"]) -> Float[Array, " n"]:
    """The prediction of the linear block, if there is one, v of every pattern and v' of every pattern."""
    sides = _sides(blocks, W)
    return blocks.apply(jnp.concatenate([W[:, : blocks.first], sides[:, 0] - sides[:, 1]], axis=1))


def _pull(blocks: Blocks, nu: Float[Array, " n"]) -> Float[Array, "d p"]:
    pulled = blocks.adjoint(nu)
    return jnp.concatenate([pulled, -pulled[:, blocks.first :]], axis=1)


def feasible(system: System, y: Float[Array, " n"], W: Float[Array, "d p"]) -> Float[Array, "d p"]:
    """Blocks that interpolate, each inside its cone to rounding, near the given ones."""
    blocks = system.usable
    rest = system.spread.solve(y - predict(blocks, W), jnp.zeros((), y.dtype))
    share = jnp.concatenate([jnp.ones(blocks.first, y.dtype), jnp.full(2 * blocks.P, 0.5, y.dtype)])
    W = W + share * _pull(blocks, rest)
    lack = jnp.max(jnp.maximum(-_rows(system, W), 0), axis=1)
    far = jnp.max(jnp.where(system.rows, lack / jnp.where(system.rows, system.room, 1), 0), axis=0)
    return W.at[:, blocks.first :].add(jnp.tile(far * system.inside, 2))


def _proven(
    system: System, y: Float[Array, " n"], nu: Float[Array, " n"], m: Float[Array, "n 2 P"]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The multiple of ``nu`` that proves most with ``m >= 0``, and the lower bound of the optimum that it proves.

    Blocks without a direction count as zero in the program that is bounded.
    """
    most = jnp.max(jnp.linalg.norm(_pull(system.usable, nu) + _rows_t(system, m), axis=0))
    scale = 1 / jnp.maximum(most * (1 + 4 * jnp.finfo(y.dtype).eps), jnp.finfo(y.dtype).tiny)
    scale = jnp.where((y @ nu > 0) & (most > 0), scale, 0)
    return scale * nu, scale * (y @ nu)


def init(blocks: Blocks, system: System, y: Float[Array, " n"]) -> State:
    """The first state: an interpolant inside the cones, which least squares and the directions give."""
    W = feasible(system, y, jnp.zeros((blocks.d, blocks.first + 2 * blocks.P), y.dtype))
    length = jnp.linalg.norm(W, axis=0)
    most = jnp.where(jnp.any(y), jnp.max(length), 1)
    middle = W.at[:, blocks.first :].add(jnp.tile(most * system.inside, 2))
    misses, nothing = min_norm.beyond(predict(system.usable, W), y), ~jnp.any(y)
    m = jnp.where(system.rows, 1 / (2 * blocks.n), 0)[:, None]
    best = Bounds(
        iteration=jnp.zeros((), jnp.int32),
        W=jnp.where(nothing, 0, W),
        objective=jnp.where(nothing, 0, jnp.sum(length)),
        nu=jnp.zeros_like(y),
        dual=jnp.zeros((), y.dtype),
        infeasible=misses,
        broken=~jnp.isfinite(most),
    )
    return State(
        y=y,
        x=Cones(jnp.linalg.norm(middle, axis=0) + most, middle),
        m=jnp.broadcast_to(m, (blocks.n, 2, blocks.P)).astype(y.dtype),
        at=jnp.zeros_like(y),
        best=best,
    )


def _matrix(system: System, G: Float[Array, "p d d"]) -> Float[Array, "n n"]:
    """``sum A G A^T``."""
    blocks, first, P = system.usable, system.usable.first, system.usable.P
    both = G[first : first + P] + G[first + P :]
    A = blocks.U if blocks.U is not None else blocks.X[:, :, None] * blocks.D[:, None, :]
    H = jnp.einsum("ndp,pde->nep", A, both).reshape(blocks.n, -1) @ A.reshape(blocks.n, -1).T
    return H + blocks.X @ G[0] @ blocks.X.T if first else H


def advance(blocks: Blocks, system: System, state: State, constants: Interior = Interior()) -> State:
    """One iteration, a predictor and a corrector step, and the bounds after it."""
    y, x, m, usable, live = state.y, state.x, state.m, system.usable, system.live
    eps, eye = jnp.finfo(y.dtype).eps, jnp.eye(blocks.n, dtype=y.dtype)
    rows = jnp.broadcast_to(system.rows[:, None], m.shape)
    r = jnp.where(rows, _rows(system, x.tail), 1)
    scaling = cones.scaling_of(x, Cones(jnp.ones_like(x.head), -_pull(usable, state.at) - _rows_t(system, m)))
    a, b = scaling.vector
    products = jnp.where(live, cones.inner(scaling.lam, scaling.lam), 0)
    count = jnp.sum(live.astype(y.dtype)) + jnp.sum(rows.astype(y.dtype))
    mean = (jnp.sum(products) + jnp.sum(r * m)) / jnp.maximum(count, 1)

    frame = frame_of(system.C, system.E, blocks.first, scaling, m / r)
    H = _matrix(system, inverses(frame))
    unseen = (system.spread.values <= min_norm.cut(system.spread.values)).astype(y.dtype)
    size = jnp.trace(H) / jnp.maximum(jnp.sum(1 - unseen), 1)
    H = H + size * ((system.spread.vectors * unseen) @ system.spread.vectors.T)
    factor = jax.scipy.linalg.cho_factor(H + constants.ridge * blocks.n * eps * size * eye, lower=True)
    rest = y - predict(usable, x.tail)

    def solved(right: Float[Array, " n"]) -> Float[Array, " n"]:
        move = jax.scipy.linalg.cho_solve(factor, right)
        for _ in range(constants.refine):  # what the ridge took
            move = move + jax.scipy.linalg.cho_solve(factor, right - H @ move)
        return move

    def direction(q: Cones, aim: Float[Array, "n 2 P"]) -> tuple[Array, Cones, Cones, Array, Array]:
        """Steps of the multiplier of y, of x, of s in scaled coordinates, of the rows and of their multipliers.

        That of x is not taken from the one of s, as in `interior`: x would leave the interpolants by the rounding error of large terms.
        """
        force = cones.unscaled(scaling, q)
        base = frame.turned(force.tail + 2 * a * b / (2 * a**2 - 1) * force.head)
        held = jnp.einsum("ndkp,nkp->dkp", frame.rows, aim / r).reshape(blocks.d, -1)
        base = base.at[:, blocks.first :].add(held)
        move = solved(rest - predict(usable, frame.turned(frame.solve(base))))
        inside = frame.solve(base + frame.turned(_pull(usable, move)))
        change = frame.turned(inside)
        head = (scaling.size**2 * force.head + 2 * a * jnp.sum(b * change, axis=0)) / (2 * a**2 - 1)
        dr = jnp.where(rows, jnp.einsum("ndkp,dkp->nkp", frame.rows, _sides(usable, inside)), 0)
        dm = jnp.where(rows, (aim - m * dr) / r, 0)
        ds = cones.scaled(scaling, Cones(jnp.zeros_like(x.head), -_pull(usable, move) - _rows_t(system, dm)))
        return move, Cones(head, change), ds, dr, dm

    def length(dx: Cones, ds: Cones, dr: Array, dm: Array) -> Float[Array, ""]:
        far = jnp.minimum(cones.room(scaling.lam, cones.unscaled(scaling, dx), live), cones.room(scaling.lam, ds, live))
        for value, step in ((r, dr), (m, dm)):
            far = jnp.minimum(
                far, jnp.min(jnp.where(rows & (step < 0), -value / jnp.where(step < 0, step, 1), jnp.inf))
            )
        return far

    _, dx, ds, dr, dm = direction(jax.tree.map(jnp.negative, scaling.lam), -r * m)
    aim = (1 - jnp.minimum(length(dx, ds, dr, dm), 1)) ** constants.power * mean
    square, second = cones.product(scaling.lam, scaling.lam), cones.product(cones.unscaled(scaling, dx), ds)
    q = cones.quotient(scaling.lam, Cones(aim - square.head - second.head, -square.tail - second.tail))
    move, dx, ds, dr, dm = direction(q, jnp.where(rows, aim - r * m - dr * dm, 0))
    far = jnp.minimum(constants.stay * length(dx, ds, dr, dm), 1)
    fine = jnp.isfinite(far) & jnp.all(jnp.isfinite(move)) & jnp.all(jnp.isfinite(dx.tail))
    # Past what the precision allows the matrix is no longer positive definite: the run ends where it is.
    step = jnp.where(fine, far, 0)
    x = Cones(
        jnp.where(fine & live, x.head + step * dx.head, x.head),
        jnp.where(fine & live, x.tail + step * dx.tail, x.tail),
    )
    at, m = jnp.where(fine, state.at + step * move, state.at), jnp.where(fine, m + step * dm, m)

    W = feasible(system, y, x.tail)
    value = jnp.sum(jnp.linalg.norm(W, axis=0))
    nu, dual = _proven(system, y, at, m)
    return state._replace(x=x, m=m, at=at, best=state.best.seen(W, value, nu, dual, broken=~fine))


def solve(
    blocks: Blocks,
    inner: Float[Array, "d P"],
    y: Float[Array, " n"],
    *,
    tol: float | Float[Array, ""] = 1e-7,
    max_iterations: int | Int[Array, ""] = 100,
    constants: Interior = Interior(),
) -> Interpolant:
    """The interpolant of minimal norm whose blocks are neurons, to within a certified relative gap; safe under jit and vmap.

    Args:
      blocks: data and patterns; computed in their dtype.
      inner: [d, P] directions inside the cones: of `inner_directions`, or those that drew the patterns of a plain or skip model.
      y: [n] what to interpolate.
      tol: relative gap to stop at.
      max_iterations: budget.
      constants: of the method.

    Returns:
      W [d, first + 2 P]: the linear block of a skip model, v of every pattern, then v'. Its norms add up to the objective, it
      interpolates, and it lies in the cones, all to rounding. The status is infeasible where the patterns that have a direction do not
      reach y.

    Raises:
      ValueError: y or ``inner`` has another shape than the data ask for, or tol or the budget is not positive.
    """
    if inner.shape != (blocks.d, blocks.P):
        raise ValueError(
            f"inner must have a direction for each block, of shape {(blocks.d, blocks.P)}: got {tuple(inner.shape)}. "
            "`inner_directions(blocks)` finds them."
        )
    _, tol, budget = settings(blocks, y, 0.0, tol, max_iterations)
    return _solve(blocks, inner, y, tol, budget, constants)


@functools.partial(jax.jit, static_argnames="constants")
def _solve(
    blocks: Blocks,
    inner: Float[Array, "d P"],
    y: Float[Array, " n"],
    tol: Float[Array, ""],
    budget: Int[Array, ""],
    constants: Interior,
) -> Interpolant:
    shared = system(blocks, inner)
    return run(init(blocks, shared, y), lambda state: advance(blocks, shared, state, constants), tol, budget)
