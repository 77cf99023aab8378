"""A primal-dual interior-point method for the convex programs: few, dear iterations, and gaps far below those of ADMM.

Mehrotra's predictor and corrector with Nesterov and Todd's scaling of the cones ``||u_g|| <= t_g``, and one system of n rows in each
iteration (`interior_blocks`). The primal point is strictly feasible from the first iteration on, so its objective is an upper bound of the
optimum; multipliers scaled to feasibility give the lower one.

Cost of an iteration: ``n^2 d P + P (n d^2 + d^3) + n^3 / 3`` multiplications and additions. Memory: several arrays [n, p] and
[p, d, d], one [n, n], and at most [n, P d]: for d in the hundreds, or n in the ten thousands, ADMM is the method.

Source: Mehrotra (1992); Vandenberghe, "The CVXOPT linear and quadratic cone program solvers" (2010); start, elimination and certificate
derived (ours).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu import interior_rows as loss_rows
from pruneft.relu import second_order as cones
from pruneft.relu.interior_blocks import Frame, frame, slacks, solver
from pruneft.relu.interior_start import Point, begin, bounds
from pruneft.relu.program import Program
from pruneft.relu.second_order import Cones
from pruneft.relu.solution import Best, Rounds, Solution, finish


@dataclass(frozen=True, kw_only=True)
class Interior:
    """Constants of the method, measured by us on Gaussian data with a 5-neuron teacher, n from 60 to 400.

    Attributes:
      theta, theta_hinge: first products, in units of the loss at zero over their number. Smooth losses: 1, 10 and 100 need the same
        iterations to within two; the hinge needs 52, 43, 34, 33 iterations to 1e-6 from 1, 10, 100, 1000 at n = 150, and 47, 54 from 100,
        1000 at n = 400.
      fraction: of the longest step.
      ridge: of the elimination, in units of a block's curvature: 1e-7 to 1e-4 give the same iterations.
      refinements: of every solution, at most; with none the gap stalls at 1e-5.
      surplus: share of the tolerance that a run goes on to, an iteration or two: what is above it then pays for setting small blocks
        to zero. At the tolerance itself the hinge kept 64 of 400 blocks, of which 5 belong to the optimum.
      short, patience: a run ends after so many steps in a row that are shorter than this share: rounding is all that is left.
      centring: Newton steps to the middles of the cones; eight reach 1e-3 of them from directions with margins of 5e-4.
    """

    theta: float = 1.0
    theta_hinge: float = 100.0
    fraction: float = 0.99
    ridge: float = 1e-6
    refinements: int = 20
    surplus: float = 0.05
    short: float = 1e-2
    patience: int = 5
    centring: int = 12


class State(NamedTuple):
    """Where a run is: the point, the bounds so far, iterations done, how many short steps came last, and whether a number is not finite."""

    point: Point
    best: Best
    iteration: Int[Array, ""]
    short: Int[Array, ""]
    broken: Bool[Array, ""]


class Move(NamedTuple):
    """A direction, and what belongs to it: steps of the prediction and of the cones' slacks."""

    point: Point
    df: Float[Array, " n"]
    ds: Float[Array, "n p"]


def interior_point(
    program: Program,
    *,
    tol: float | Float[Array, ""] = 1e-6,
    max_iterations: int = 100,
    constants: Interior = Interior(),
) -> Solution:
    """The optimum of a program to within a certified relative gap; safe under jit and vmap over any of the program's arrays.

    Blocks that are zero at the optimum come out as exact zeros, as far as the objective or the tolerance allows it.

    Args:
      program: in float64. A block whose direction is not strictly inside its cone stays zero; the bounds hold with it all the same.
      tol: relative gap to stop at.
      max_iterations: budget; 20 to 50 is what gaps of 1e-6 took.
      constants: of the method.

    Returns:
      A `Solution`, whose status is converged, all zero, budget spent, or not finite.

    Raises:
      ValueError: the program is not in float64, or an argument makes no sense.
    """
    return solve(program, tol=tol, max_iterations=max_iterations, constants=constants)[0]


def solve(
    program: Program,
    *,
    tol: float | Float[Array, ""] = 1e-6,
    max_iterations: int = 100,
    constants: Interior = Interior(),
) -> tuple[Solution, Float[Array, " n"]]:
    """What `interior_point` returns, and the slopes nu [n] of the loss at the end: the dual point that certifies it, before scaling."""
    if program.X.dtype != jnp.float64:
        raise ValueError(
            f"the interior-point method needs float64 (its systems have condition numbers far beyond float32): got {program.X.dtype}. "
            "Call jax.config.update('jax_enable_x64', True) and pass float64 arrays, or use ADMM."
        )
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise ValueError(f"max_iterations must be a whole number of at least 1: got {max_iterations!r}.")
    for name, value in (("tol (relative gap)", tol), ("lam (penalty weight)", program.lam)):
        if not isinstance(value, jax.core.Tracer) and not jnp.all(jnp.isfinite(value) & (jnp.asarray(value) > 0)):
            raise ValueError(f"{name} must be positive and finite: got {value}.")
    return _solve(program, jnp.asarray(tol, program.X.dtype), max_iterations, constants)


@functools.partial(jax.jit, static_argnames=("budget", "constants"))
def _solve(
    program: Program, tol: Float[Array, ""], budget: int, constants: Interior
) -> tuple[Solution, Float[Array, " n"]]:
    solution, state = rounds(program, frame(program), tol, budget, constants).run()
    return solution, state.point.rows.nu


def rounds(
    program: Program, fixed: Frame, tol: Float[Array, ""], budget: int, constants: Interior = Interior()
) -> Rounds:
    """The loop of `solve`: one iteration and its bounds a round, until the gap or the budget is reached, or rounding ends it."""

    def start() -> State:
        point = begin(program, fixed, _first_theta(program, fixed, constants), constants.centring)
        none = jnp.zeros((), jnp.int32)
        return State(point, Best.start(program, budget), none, none, jnp.zeros((), bool))

    def going(state: State) -> Bool[Array, ""]:
        on = (state.iteration < budget) & (state.short < constants.patience) & ~state.broken
        return on & ~(state.best.gap <= constants.surplus * tol)

    def advance(state: State) -> State:
        point, length = step(program, fixed, state.point, constants)
        short = jnp.where(length < constants.short, state.short + 1, 0)
        iteration = state.iteration + 1
        U, objective, dual = bounds(program, point)
        broken = ~(jnp.isfinite(objective) & jnp.isfinite(dual))
        return State(point, state.best.seen(iteration, U, objective, dual), iteration, short, broken)

    def end(state: State) -> Solution:
        best = _without_small_blocks(program, state.best, tol)
        # Where rounding ends a run that has bounds already, its budget is spent: they hold.
        broken = state.broken & ~jnp.isfinite(best.dual)
        return finish(best, state.iteration, tol, broken)

    return Rounds(start, going, advance, end)


def _first_theta(program: Program, fixed: Frame, constants: Interior) -> Float[Array, ""]:
    value = program.losses.value(jnp.zeros_like(program.y), program.y, program.weights)
    hinge = program.loss == "hinge"
    count = jnp.sum(fixed.on) + jnp.sum(fixed.live) + (2 * jnp.sum(program.weights > 0) if hinge else 0)
    share = constants.theta_hinge if hinge else constants.theta
    # y = 0 is solved by zero; any positive number does.
    return jnp.where(value > 0, share * value, program.lam) / jnp.maximum(count, 1).astype(value.dtype)


def _mean_product(
    program: Program, fixed: Frame, point: Point, s: Float[Array, "n p"], f: Float[Array, " n"]
) -> Float[Array, ""]:
    """Mean over all pairs of what complementarity wants to be zero."""
    rows, count = loss_rows.products(program, point.rows, f)
    second = jnp.where(fixed.live, program.lam * point.x.head + jnp.sum(point.x.tail * point.z, axis=0), 0)
    total = jnp.sum(jnp.where(fixed.on, s * point.mu, 0)) + jnp.sum(second) + rows
    return total / (count + jnp.sum(fixed.on).astype(f.dtype) + jnp.sum(fixed.live).astype(f.dtype))


def _plus(point: Point, length: Float[Array, ""], step: Point) -> Point:
    return jax.tree.map(lambda value, change: value + length * change, point, step)


def step(
    program: Program, fixed: Frame, point: Point, constants: Interior = Interior()
) -> tuple[Point, Float[Array, ""]]:
    """One iteration, and the length of its step: an affine step shows how far the products can fall, a corrected one goes there."""
    X, (x, z, mu, rows) = program.X, point
    f, s = program.predict(x.tail), slacks(program, fixed, x.tail)
    zero = jnp.zeros_like(x.head)
    multiplier = Cones(jnp.where(fixed.live, program.lam, 1), z)
    nt = cones.scaling(x, multiplier)
    lack = program.pull(rows.nu) - X.T @ (fixed.E * mu) - z
    solve = solver(
        program, fixed, nt, mu / s, loss_rows.curvature(program, rows, f), constants.ridge, constants.refinements
    )
    size = 1 + 2 * jnp.sum(nt.w.tail**2, axis=0)
    across = -2 * nt.w.head * nt.w.tail
    squares = cones.product(nt.point, nt.point)

    def direction(target: Array, before: Move) -> Move:
        """The solution of Newton's equations for products of ``target``, less the second-order terms of a step ``before``."""
        cross = cones.product(cones.apply_inverse(nt, before.point.x), cones.apply(nt, Cones(zero, before.point.z)))
        aim = Cones(target - squares.head - cross.head, -squares.tail - cross.tail)
        r = cones.apply_inverse(nt, cones.divide(aim, nt.point))
        rest = jnp.where(fixed.on, target - s * mu - before.ds * before.point.mu, 0)
        line = loss_rows.linearise(program, rows, f, target, (before.df, before.point.rows))
        b = r.tail - across * r.head / size - lack + X.T @ (fixed.E * (rest / s))
        dU, dnu = solve(jnp.where(fixed.live, b, 0), line.q)
        df, ds = program.predict(dU), jnp.where(fixed.on, fixed.E * (X @ dU), 0)
        dmu = jnp.where(fixed.on, (rest - mu * ds) / s, 0)
        dz = jnp.where(fixed.live, program.pull(dnu) - X.T @ (fixed.E * dmu) + lack, 0)
        dt = jnp.where(fixed.live, (nt.eta**2 * r.head - jnp.sum(across * dU, axis=0)) / size, 0)
        return Move(Point(Cones(dt, dU), dz, dmu, loss_rows.step(program, rows, line, df, dnu)), df, ds)

    def longest(move: Move) -> Float[Array, ""]:
        """The inverse of the longest step that stays interior."""
        linear = jnp.maximum(-move.ds / s, jnp.where(fixed.on, -move.point.mu / jnp.where(fixed.on, mu, 1), 0))
        second = jnp.maximum(cones.longest(x, move.point.x), cones.longest(multiplier, Cones(zero, move.point.z)))
        row = loss_rows.longest(program, rows, f, move.df, move.point.rows)
        return jnp.maximum(jnp.maximum(jnp.max(linear), jnp.max(jnp.where(fixed.live, second, 0))), row)

    theta = _mean_product(program, fixed, point, s, f)

    def correct(_: object, found: tuple[Move, Array, Array]) -> tuple[Move, Array, Array]:
        """The affine step, and then the corrected one: the same code, so that it is compiled once."""
        before, target, _longest = found
        move = direction(target, before)
        limit = jnp.maximum(longest(move), jnp.finfo(f.dtype).tiny)
        length = jnp.minimum(1, 1 / limit)
        there = _plus(point, length, move.point)
        reached = _mean_product(program, fixed, there, s + length * move.ds, f + length * move.df)
        return move, theta * jnp.clip(reached / theta, 0, 1) ** 3, limit

    none = jax.tree.map(jnp.zeros_like, Move(point, f, s))
    move, _, limit = jax.lax.fori_loop(0, 2, correct, (none, jnp.zeros_like(theta), jnp.zeros_like(theta)))
    length = jnp.minimum(1, constants.fraction / limit)
    return _plus(point, length, move.point), length


def _without_small_blocks(program: Program, best: Best, tol: Float[Array, ""]) -> Best:
    """The best point with as many small blocks set to zero as leave the objective where it is, or the gap within half of ``tol``.

    To first order dropping a block changes a smooth objective by minus its complementarity products, so that it falls.
    """
    norms = jnp.linalg.norm(best.U, axis=0)
    shares = jnp.asarray(
        [0.0, *(10 ** (-k / 2) for k in range(18, 1, -1))], norms.dtype
    )  # of the largest, up to a tenth

    def objective(share: Array) -> Array:
        return program.objective(jnp.where(norms > share * jnp.max(norms), best.U, 0))

    values = jax.lax.map(objective, shares)
    allowed = values <= jnp.maximum(best.objective, best.dual + tol * jnp.abs(best.objective) / 2)
    last = jnp.max(jnp.where(allowed, jnp.arange(shares.size), 0))
    U = jnp.where(norms > shares[last] * jnp.max(norms), best.U, 0)
    return best._replace(U=U, objective=jnp.where(last > 0, values[last], best.objective))
