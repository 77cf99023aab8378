"""Newton's equations of the blocks, eliminated one by one, and the system of n rows that is left.

Each block g has a matrix M_g [d, d]: what its second-order cone asks for, and ``X' diag(mu_g / s_g) X`` of its cone. With
``d u_g = M_g^-1 (b_g - F_g' d nu)`` and ``d nu = w * (F d u + q)`` there remains

    (1/w + F M^-1 F') d nu = q + F M^-1 b,    F M^-1 F' = sum_i D_i X (M_vi^-1 + M_wi^-1) X' D_i,

one matrix [n, n] for all blocks, to which the two blocks of a pattern come in one product. It is scaled by sqrt(w), so that rows
of weight zero stay inert. Derived (ours); the elimination by blocks is standard.

At the optimum a block that is not zero has no curvature along its own ray but that of the loss, so that M_g alone is nearly singular and
the elimination loses its digits (a gap of 1e-5 is as far as it came). M_g is therefore eliminated with a small ridge, and the solution
refined by conjugate gradients on the equations without it, which that elimination preconditions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu import gap
from pruneft.relu.program import Program
from pruneft.relu.second_order import Scaling

_NUMBERS = 2**25  # of an array made in passing: 256 MB in float64
_EXACT = 1e-12  # of the right-hand side: what is left when a solution is not refined further


class Frame(NamedTuple):
    """What does not change along the iterations.

    Attributes:
      S: [n, p] pattern column of every block.
      E: [n, p] signs of the cones' rows; zero where there is no constraint (no cone, a row of zeros, an inert block).
      on: [n, p] where there is one.
      live: [p] whether a block can differ from zero: its pattern is not zero, and its direction is interior to its cone.
      pairs: [n, d (d + 1) / 2] products of two features; [n, 0] where they are too many to keep.
    """

    S: Float[Array, "n p"]
    E: Float[Array, "n p"]
    on: Bool[Array, "n p"]
    live: Bool[Array, " p"]
    pairs: Float[Array, "n q"]


def frame(program: Program) -> Frame:
    """The frame of a program."""
    S, X = program.S, program.X
    signs = jnp.where(jnp.any(X != 0, axis=1)[:, None], gap.cone_signs(program), 0)
    inside = jnp.all((signs * (X @ gap.directions(program)) > 0) | (signs == 0), axis=0)
    live = jnp.any(S != 0, axis=0) & inside
    E = jnp.where(live, signs, 0)
    first, second = jnp.triu_indices(program.d)
    few = program.n * program.d**2 <= _NUMBERS
    pairs = X[:, first] * X[:, second] if few else jnp.zeros((program.n, 0), X.dtype)
    return Frame(S, E, E != 0, live, pairs)


def slacks(program: Program, fixed: Frame, U: Float[Array, "d p"]) -> Float[Array, "n p"]:
    """``E * (X U)``; ones where there is no constraint."""
    return jnp.where(fixed.on, fixed.E * (program.X @ U), 1)


def grams(X: Float[Array, "n d"], fixed: Frame, ratio: Float[Array, "n k"]) -> Float[Array, "k d d"]:
    """``X' diag(column) X`` for every column of ``ratio``; one product of matrices where the pairs of features are kept."""
    if not fixed.pairs.size:
        return jax.lax.map(lambda column: (X * column[:, None]).T @ X, ratio.T)
    d = X.shape[1]
    upper = jnp.triu_indices(d)
    place = jnp.zeros((d, d), jnp.int32).at[upper].set(jnp.arange(upper[0].size, dtype=jnp.int32))
    place = jnp.maximum(place, place.T)
    return (ratio.T @ fixed.pairs)[:, place.reshape(-1)].reshape(-1, d, d)


def inverses(M: Float[Array, "k d d"]) -> Float[Array, "k d d"]:
    """M^-1 by Cholesky, symmetric."""
    root = jnp.linalg.cholesky(M)
    eye = jnp.broadcast_to(jnp.eye(M.shape[-1], dtype=M.dtype), M.shape)
    inverse = jax.lax.linalg.triangular_solve(root, eye, left_side=True, lower=True)
    return inverse.mT @ inverse


def row_matrix(program: Program, inverse: Float[Array, "p d d"]) -> Float[Array, "n n"]:
    """``F M^-1 F'``: n^2 d P multiplications and additions, which is what an iteration costs; by chunks of patterns where they are many."""
    n, d, P = program.n, program.d, program.P
    X, first = program.X, int(program.skip)
    blocks = inverse[first:]
    if program.form == "exact":
        blocks = blocks[:P] + blocks[P:]
    chunk = max(1, min(P, _NUMBERS // (n * d)))
    surplus = -P % chunk
    parts = jnp.pad(blocks, ((0, surplus), (0, 0), (0, 0))).reshape(-1, chunk, d, d)
    columns = jnp.pad(program.D, ((0, 0), (0, surplus))).reshape(n, -1, chunk).swapaxes(0, 1)

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        matrices, D = part
        left = D[:, :, None] * X[:, None, :]
        right = D[:, :, None] * jnp.einsum("nd,kde->nke", X, matrices)
        return total + left.reshape(n, -1) @ right.reshape(n, -1).T, None

    start = X @ inverse[0] @ X.T if program.skip else jnp.zeros((n, n), X.dtype)
    if len(parts) == 1:
        return add(start, (parts[0], columns[0]))[0]
    return jax.lax.scan(add, start, (parts, columns))[0]


class _Search(NamedTuple):
    """Conjugate gradients: the solution so far, what is left of b, the direction, its inner product, iterations."""

    dU: Float[Array, "d p"]
    dnu: Float[Array, " n"]
    rest: Float[Array, "d p"]
    pU: Float[Array, "d p"]
    pnu: Float[Array, " n"]
    size: Float[Array, ""]
    steps: Int[Array, ""]


Solve = Callable[[Float[Array, "d p"], Float[Array, " n"]], tuple[Float[Array, "d p"], Float[Array, " n"]]]


def solver(
    program: Program,
    fixed: Frame,
    nt: Scaling,
    ratio: Float[Array, "n p"],
    w: Float[Array, " n"],
    ridge: float,
    refinements: int,
) -> Solve:
    """(b, q) -> (d U, d nu) of the equations above; what is factored is factored once.

    Args:
      program, fixed: the problem.
      nt: scaling of the second-order cones, from which the heads are eliminated: ``(I - 2 w w' / (1 + 2 ||w||^2)) / eta^2`` is left.
      ratio: [n, p] mu / s of the cones' rows.
      w: [n] curvature of the rows.
      ridge: in units of a block's own curvature, ``1 / eta^2``.
      refinements: conjugate gradient steps of every solution, at most.
    """
    X, d = program.X, program.d
    share, tails, unit = 2 / (1 + 2 * jnp.sum(nt.w.tail**2, axis=0)), nt.w.tail.T, 1 / nt.eta**2
    eye = jnp.eye(d, dtype=X.dtype)
    rank_one = tails[:, :, None] * tails[:, None, :]
    M = (eye - share[:, None, None] * rank_one) * unit[:, None, None] + grams(X, fixed, ratio)
    largest = jnp.max(jnp.diagonal(M, axis1=1, axis2=2), axis=1)
    lift = ridge * unit + 50 * jnp.finfo(X.dtype).eps * largest  # the second term keeps rounding from a negative pivot
    inverse = inverses(M + lift[:, None, None] * eye)
    root = jnp.sqrt(w)
    K = row_matrix(program, inverse) * root[:, None] * root
    factor = jnp.linalg.cholesky(K + jnp.eye(program.n, dtype=X.dtype))

    def predict(U: Array) -> Array:
        return jnp.sum(fixed.S * (X @ U), axis=1)

    def pull(nu: Array) -> Array:
        return X.T @ (fixed.S * nu[:, None])

    def once(b: Array, q: Array) -> tuple[Array, Array]:
        free = jnp.einsum("pde,ep->dp", inverse, b)
        dnu = root * jax.scipy.linalg.cho_solve((factor, True), root * (predict(free) + q))
        dU = free - jnp.einsum("pde,ep->dp", inverse, pull(dnu))
        return jnp.where(fixed.live, dU, 0), dnu

    def apply(dU: Array, dnu: Array) -> Array:
        """``M dU + F' d nu``, without the ridge."""
        own = (dU - share * nt.w.tail * jnp.sum(nt.w.tail * dU, axis=0)) * unit
        return jnp.where(fixed.live, own + X.T @ (ratio * (X @ dU)) + pull(dnu), 0)

    def solve(b: Array, q: Array) -> tuple[Array, Array]:
        def going(found: _Search) -> Array:
            return (found.steps < refinements) & (jnp.linalg.norm(found.rest) > _EXACT * jnp.linalg.norm(b))

        def refine(found: _Search) -> _Search:
            better, over = once(found.rest, jnp.zeros_like(q))
            size = jnp.sum(found.rest * better)
            turn = jnp.where(found.size > 0, size / jnp.where(found.size > 0, found.size, 1), 0)
            pU, pnu = better + turn * found.pU, over + turn * found.pnu
            across = apply(pU, pnu)
            bend = jnp.sum(pU * across)
            length = jnp.where(bend > 0, size / jnp.where(bend > 0, bend, 1), 0)
            dU, dnu = found.dU + length * pU, found.dnu + length * pnu
            return _Search(dU, dnu, found.rest - length * across, pU, pnu, size, found.steps + 1)

        dU, dnu = once(b, q)
        none = jnp.zeros((), b.dtype)
        begin = _Search(
            dU, dnu, b - apply(dU, dnu), jnp.zeros_like(dU), jnp.zeros_like(dnu), none, jnp.zeros((), jnp.int32)
        )
        end = jax.lax.while_loop(going, refine, begin)
        return end.dU, end.dnu

    return solve
