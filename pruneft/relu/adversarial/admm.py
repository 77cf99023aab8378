r"""ADMM for robust programs, to a certified gap.

Three copies of the blocks U: ``(a, s) = (U, sqrt(kappa) E R X U)`` in the robust cones, whose prox with the penalty is one search
for a number per block (shrinking by the dual norm, then by blocks, is the prox of their sum: tree-structured penalties), and
``C = sqrt(eta) S U^T``, whose prox is that of the robust losses. R scales each row of X to length one; kappa and eta are divided
by the largest eigenvalue of their operator. What couples the blocks is

    (I + kappa X^T R^2 X) U + eta U S^T S = B,

a sum of operators on rows and on columns, so two eigendecompositions solve it, for every penalty parameter rho. With S = [D, -D] the
sum of the two halves of U sees no S at all and their difference sees 2 D^T D: the decomposition is of size P.

Source: the splitting follows Bai, Gautam, Sojoudi, arXiv:2201.01965; this form, its prox operators and constants derived and
measured (ours); over-relaxation: Eckstein and Bertsekas (1992).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.adversarial import gap, losses
from pruneft.relu.adversarial.program import RobustProgram
from pruneft.relu.adversarial.search import root
from pruneft.relu.solution import Best, History, Solution, finish, relative_gap


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Constants of the iteration, measured by us on Gaussian data with a 5-neuron teacher, n = 40, d = 5, 20 patterns, eps = 0.05.

    Attributes:
      kappa, eta: weights of the cones and of the losses, over the largest eigenvalue of their operators. Iterations to a gap of 1e-4 for
        hinge, bce and squared, geometric means of three instances: 1737, 1266, 777 at (100, 1000); 3231, 1000, 835 at (100, 100);
        1790, 1620, 935 at (10, 100); 2612, 2374, 1477 at (1, 10).
      relaxation: over-relaxation, in (0, 2).
      rho: penalty parameter at the start, in units of lam over a block's norm.
      every: iterations between two looks at the gap.
      widest: largest change of rho at once.
      narrowest: smaller changes are not made.
      share: a restart is made where the gap has fallen to this share of what it was at the last one,
      patience: or where the mean is over more than this share of all iterations.
    """

    kappa: float = 100.0
    eta: float = 1000.0
    relaxation: float = 1.7
    rho: float = 2.0
    every: int = 20
    widest: float = 5.0
    narrowest: float = 1.5
    share: float = 0.3
    patience: float = 0.4


class Factors(NamedTuple):
    """What is computed once: scaled operators and eigendecompositions."""

    rows: Float[Array, "n d"]  # sqrt(kappa) R X
    reach: Float[Array, " n"]  # the radius in the scale of each row
    scale: Float[Array, " n"]  # of each row
    eta: Float[Array, ""]
    left: Float[Array, "d d"]
    left_values: Float[Array, " d"]
    right: Float[Array, "P P"]
    right_values: Float[Array, " P"]


class Point(NamedTuple):
    """The three copies."""

    a: Float[Array, "p d"]
    s: Float[Array, "n p"]
    c: Float[Array, "n d"]


class Seen(NamedTuple):
    """One prox: where it was taken, what it is, and the multipliers of the losses there."""

    t: Point
    near: Point
    found: losses.Multipliers


class State(NamedTuple):
    """One run.

    Attributes:
      t: what the next prox is taken of; its distance from the prox is the scaled dual.
      last: the last prox.
      mean: the mean of those since the last restart or change of rho.
      terms: of how many.
      primal, dual: relative residuals at the last prox.
      rho: penalty parameter.
      iteration: iterations made.
      hold: no change of rho before this iteration.
      mark: gap at the last restart.
      best: the best feasible blocks and bounds so far, and their history.
    """

    t: Point
    last: Seen
    mean: Seen
    terms: Float[Array, ""]
    primal: Float[Array, ""]
    dual: Float[Array, ""]
    rho: Float[Array, ""]
    iteration: Int[Array, ""]
    hold: Float[Array, ""]
    mark: Float[Array, ""]
    best: Best


def factorise(program: RobustProgram, constants: Constants) -> Factors:
    """Operators and eigendecompositions of a program."""
    plain = program.plain
    X, D = plain.X, plain.D
    lengths = jnp.linalg.norm(X, axis=1)
    unit = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
    values, left = jnp.linalg.eigh((X * unit[:, None] ** 2).T @ X)
    kappa = constants.kappa / jnp.maximum(values[-1], jnp.finfo(X.dtype).tiny ** 0.5)
    pattern_values, right = jnp.linalg.eigh(D.T @ D)
    eta = constants.eta / jnp.maximum(
        2 * pattern_values[-1], 1
    )  # 1: no pattern is left, or the smallest nonzero there is
    scale = jnp.sqrt(kappa) * unit
    return Factors(
        X * scale[:, None], scale * program.radius, scale, eta, left, kappa * values, right, 2 * eta * pattern_values
    )


def project(program: RobustProgram, factors: Factors, q: Point) -> Point:
    """The nearest point that is made of one U; blocks are rows here."""
    root, S = jnp.sqrt(factors.eta), program.plain.S
    B = q.a + (program.signs * q.s).T @ factors.rows + root * (S.T @ q.c)
    half = B.shape[0] // 2
    sums, differences = (B[:half] + B[half:]) @ factors.left, factors.right.T @ ((B[:half] - B[half:]) @ factors.left)
    sums = sums / (1 + factors.left_values)
    differences = factors.right @ (differences / (1 + factors.left_values + factors.right_values[:, None]))
    v, w = (sums + differences) @ factors.left.T / 2, (sums - differences) @ factors.left.T / 2
    U = jnp.concatenate([v, w])
    return Point(U, program.signs * (factors.rows @ U.T), root * (S @ U))


def cone_prox(
    program: RobustProgram, factors: Factors, a0: Float[Array, "p d"], s0: Float[Array, "n p"], step: Array
) -> tuple[Float[Array, "p d"], Float[Array, "n p"]]:
    """Prox of ``step ||a||`` on the robust cone ``s_k >= reach_k ||a||_*`` of each block; (a, s)."""
    ball, mask, reach = program.ball, program.mask, factors.reach[:, None]

    def blocks(theta: Float[Array, " p"]) -> Float[Array, "p d"]:
        shrunk = ball.shrink(a0, mask, theta)
        length = jnp.linalg.norm(shrunk, axis=1)
        return shrunk * jnp.where(length > step, 1 - step / jnp.where(length > step, length, 1), 0)[:, None]

    def excess(theta: Float[Array, " p"]) -> Float[Array, " p"]:
        return theta - jnp.sum(reach * jax.nn.relu(reach * ball.dual(blocks(theta), mask) - s0), axis=0)

    a = blocks(root(excess, jnp.zeros_like(a0[:, 0]), ball.size(a0 * mask)))
    return a, jnp.maximum(s0, reach * ball.dual(a, mask))


def prox(program: RobustProgram, factors: Factors, t: Point, rho: Array) -> tuple[Point, losses.Multipliers]:
    """The nearest point for penalty and cones on the one hand and losses on the other, and the multipliers of the losses."""
    plain, root_eta = program.plain, jnp.sqrt(factors.eta)
    a, s = cone_prox(program, factors, t.a, t.s, plain.lam / rho)
    c, found = losses.prox(
        plain.losses, program.ball, program.data, t.c / root_eta, plain.weights, 1 / (rho * factors.eta)
    )
    return Point(a, s, root_eta * c), found


def start(program: RobustProgram, constants: Constants = Constants(), *, length: int) -> State:
    """From zero: the zero blocks are feasible, and the slopes of the losses there are a first lower bound.

    ``length``: how many bounds the history can hold.
    """
    plain = program.plain
    n, d, p, dtype = plain.n, plain.d, 2 * plain.P, plain.X.dtype
    zero = Point(jnp.zeros((p, d), dtype), jnp.zeros((n, p), dtype), jnp.zeros((n, d), dtype))
    none, number = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
    empty = jnp.full(length, jnp.nan, dtype)
    U = zero.a.T
    best = Best(U, program.objective(U), number - jnp.inf, none, History(jnp.full(length, -1, jnp.int32), empty, empty))
    slope = plain.losses.slope(jnp.zeros(n, dtype), plain.y, plain.weights)
    first = losses.Multipliers(slope, jnp.abs(slope), zero.c)
    nothing = Seen(zero, zero, jax.tree.map(jnp.zeros_like, first))
    return State(
        t=zero,
        last=nothing,
        mean=nothing,
        terms=number,
        primal=number,
        dual=number,
        rho=constants.rho * plain.lam / _block_length(program),
        iteration=none,
        hold=number,
        mark=number + jnp.inf,
        best=best.seen(none, U, best.objective, gap.lower_bound(program, first, zero.s)),
    )


def _block_length(program: RobustProgram) -> Float[Array, ""]:
    """The norm that blocks have to within an order of magnitude: that of y over that of X along its widest direction."""
    plain = program.plain
    tiny = jnp.finfo(plain.X.dtype).tiny ** 0.5
    total = jnp.maximum(jnp.sum(plain.weights), tiny)
    weighted = plain.X * jnp.sqrt(plain.weights / total)[:, None]
    across = jnp.sqrt(jnp.linalg.eigvalsh(weighted.T @ weighted)[-1])
    size = jnp.sqrt(jnp.sum(plain.weights * plain.y**2) / total)
    return jnp.where((size > tiny) & (across > tiny), size / jnp.maximum(across, tiny), 1)


def iterate(program: RobustProgram, factors: Factors, state: State, constants: Constants = Constants()) -> State:
    """One iteration; bounds are left alone."""
    near, found = prox(program, factors, state.t, state.rho)
    flat = project(program, factors, jax.tree.map(lambda near, t: 2 * near - t, near, state.t))
    t = jax.tree.map(lambda t, flat, near: t + constants.relaxation * (flat - near), state.t, flat, near)
    last, terms = Seen(state.t, near, found), state.terms + 1
    return state._replace(
        t=t,
        last=last,
        mean=jax.tree.map(lambda mean, new: mean + (new - mean) / terms, state.mean, last),
        terms=terms,
        primal=_apart(flat, near) / _size(near),
        dual=_apart(near, state.last.near) / _apart(state.t, near),
        iteration=state.iteration + 1,
    )


def look(program: RobustProgram, factors: Factors, state: State, constants: Constants = Constants()) -> State:
    """Bounds at the last prox and at the mean; then perhaps a restart from the better of the two, or another rho.

    Losses and cones are linear by pieces, and ADMM circles around such optima; the mean of a turn is far closer. Means of feasible
    blocks and of multipliers are feasible again. Restarts at means are what makes first-order methods for linear programs fast:
    Applegate, Hinder, Lu, Lubin, arXiv:2105.12715.
    """

    def bounds(seen: Seen) -> tuple[Array, Array, Array]:
        U = gap.repair(program, seen.near.a.T)
        mu = state.rho * factors.scale[:, None] * (seen.near.s - seen.t.s)
        return U, program.objective(U), gap.lower_bound(program, seen.found, mu)

    both = jax.tree.map(lambda last, mean: jnp.stack([last, mean]), state.last, state.mean)
    U, primal, dual = jax.vmap(bounds)(both)
    lower = jnp.argmin(primal)
    best = state.best.seen(state.iteration, U[lower], primal[lower], jnp.max(dual))
    gaps = jax.vmap(relative_gap)(primal, dual)
    least, now = jnp.min(gaps), state.iteration.astype(primal.dtype)
    restart = (least <= constants.share * state.mark) | (state.terms > constants.patience * now)
    jump = restart & (gaps[1] < gaps[0])

    factor = jnp.clip(jnp.sqrt(state.primal / state.dual), 1 / constants.widest, constants.widest)
    far = (factor > constants.narrowest) | (factor < 1 / constants.narrowest)
    # NaN (a residual of zero over zero, iterates that overflowed) is not far.
    change = far & (now >= state.hold) & ~jump
    factor = jnp.where(change, factor, 1)
    # The last prox stays as it is under another rho when its dual part is divided; the next one is taken there.
    scaled = jax.tree.map(lambda near, t: near + (t - near) / factor, state.last.near, state.last.t)
    t = _where(jump, state.mean.t, _where(change, scaled, state.t))
    return state._replace(
        t=t,
        terms=jnp.where(restart | change, 0, state.terms),
        rho=state.rho * factor,
        hold=jnp.where(change, 1.3 * now + 20, state.hold),
        mark=jnp.where(restart, jnp.minimum(least, state.mark), state.mark),
        best=best,
    )


def _where(which: Bool[Array, ""], yes: Point, no: Point) -> Point:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)


def _apart(a: Point, b: Point) -> Float[Array, ""]:
    return _size(jax.tree.map(jnp.subtract, a, b))


def _size(point: Point) -> Float[Array, ""]:
    return jnp.sqrt(sum(jnp.sum(part**2) for part in point))


@functools.partial(jax.jit, static_argnames=("max_iterations", "constants"))
def solve(
    program: RobustProgram,
    *,
    tol: float | Float[Array, ""] = 1e-4,
    max_iterations: int = 20_000,
    constants: Constants = Constants(),
) -> Solution:
    """The optimum of a robust program to within a certified relative gap; safe under vmap over any of its arrays.

    Args:
      program: what to solve; computed in the dtype of its arrays.
      tol: relative gap to stop at.
      max_iterations: budget, rounded up to a multiple of ``constants.every``.
      constants: of the method.
    """
    tol = jnp.asarray(tol, program.plain.X.dtype)
    looks = -(-max_iterations // constants.every)
    factors = factorise(program, constants)

    def broken(state: State) -> Bool[Array, ""]:
        return ~jnp.isfinite(_size(state.t))

    def go_on(state: State) -> Bool[Array, ""]:
        return (state.iteration < looks * constants.every) & ~(state.best.gap <= tol) & ~broken(state)

    def advance(state: State) -> State:
        state = jax.lax.fori_loop(0, constants.every, lambda _, s: iterate(program, factors, s, constants), state)
        return look(program, factors, state, constants)

    state = jax.lax.while_loop(go_on, advance, start(program, constants, length=looks + 1))
    return finish(state.best, state.iteration, tol, broken(state))
