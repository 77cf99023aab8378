r"""Minimum-norm programs without cones, by Douglas-Rachford splitting, stopped by a certificate.

.. math:: \min_W \sum_g \|w_g\| \;\text{ with }\; A W = y, \qquad\text{or}\qquad
   \min_W \sum_g \|w_g\| + \frac{1}{2\lambda} \|A W - y\|^2

for noisy data (the first is the limit of the second for lam to zero). With step t and ``K = A A^T`` one iteration at the point Z is::

    W = shrink(Z, t)     R = 2 W - Z     Q = R + A^T (K + lam / t)^{-1} (y - A R)     Z <- Z + a (Q - W)

and ``nu = (K + lam / t)^{-1} (y - A R) / t`` tends to a solution of the dual, ``max y.nu - lam ||nu||^2 / 2`` with
``||A_g^T nu|| <= 1`` for every g. Scaled into these constraints it proves a lower bound of the optimum; the point next to W with
the prediction ``y - lam nu`` gives an upper one. A run ends when the two agree and not when it merely
moves slowly, so a slow lane does not pass for one that converged to something else.

Source: the programs, Wang, Hua, Candes, Pilanci, arXiv:2209.15265; splitting, certificate and constants ours.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.planted.blocks import Blocks
from pruneft.relu.planted.bounds import Bounds, Interpolant, run, settings

_CUT = {8: 1e-11, 4: 1e-6}  # by bytes of a number: eigenvalues of K below this share of the largest count as zero
_OFF = {8: 1e-8, 4: 1e-3}  # and y is out of reach if more than this share of it is outside the range of A


@dataclass(frozen=True, kw_only=True)
class DouglasRachford:
    """Constants of the method.

    Attributes:
      step: the step t over the largest block of the least-squares interpolant. Of .1, .3 and 3 the largest was the quickest in all
        six cells that we measured, by factors up to 6.
      relaxation: a; 1.7 took fewer iterations than 1 where the step is small, and more at this step in five of six cells.
      check_every: iterations between two certificates.
    """

    step: float = 3.0
    relaxation: float = 1.0
    check_every: int = 20


def cut(values: Float[Array, " n"]) -> Float[Array, ""]:
    """The eigenvalue of ``A A^T`` up to which one counts as zero; they come in rising order."""
    return _CUT[values.dtype.itemsize] * values[-1]


class System(NamedTuple):
    """The eigenvalues [n] and eigenvectors [n, n] of ``A A^T``; what the iterations need of the data, whatever y and lam are."""

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]

    def solve(self, r: Float[Array, " n"], shift: Float[Array, ""]) -> Float[Array, " n"]:
        """``(K + shift)^{-1} r``; the pseudo-inverse where the shift is zero."""
        values = self.values + shift
        there = values > cut(self.values)
        inverse = jnp.where(there, 1 / jnp.where(there, values, 1), 0)
        return self.vectors @ (inverse * (r @ self.vectors))


class State(NamedTuple):
    """Where a run is.

    Attributes:
      y: [n] what to interpolate.
      lam: weight of the norms; zero asks for interpolation.
      Z: [d, g] the point of the iteration.
      step: t.
      best: what is proven so far. It is infeasible if y is not in the range of A, and lam is zero.
    """

    y: Float[Array, " n"]
    lam: Float[Array, ""]
    Z: Float[Array, "d g"]
    step: Float[Array, ""]
    best: Bounds


def system(blocks: Blocks) -> System:
    """The eigendecomposition of ``A A^T``."""
    return System(*jnp.linalg.eigh(blocks.gram()))


def objective(blocks: Blocks, y: Float[Array, " n"], lam: Float[Array, ""], W: Float[Array, "d g"]) -> Float[Array, ""]:
    """The sum of the blocks' norms, and ``||A W - y||^2 / (2 lam)`` where lam is positive."""
    misfit = jnp.sum((blocks.apply(W) - y) ** 2) / (2 * jnp.where(lam > 0, lam, 1))
    return jnp.sum(jnp.linalg.norm(W, axis=0)) + jnp.where(lam > 0, misfit, 0)


def proven(
    blocks: Blocks, y: Float[Array, " n"], lam: Float[Array, ""], nu: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The multiple of ``nu`` that proves most, and the lower bound of the optimum that it proves; for any nu."""
    eps = jnp.finfo(nu.dtype).eps
    most = jnp.max(jnp.linalg.norm(blocks.adjoint(nu), axis=0), initial=0.0)
    most = most * (1 + 4 * eps)  # rounding must not turn a point that touches the constraint into one that breaks it
    along, square = y @ nu, lam * (nu @ nu)
    tiny = jnp.finfo(nu.dtype).tiny
    scale = jnp.minimum(1 / jnp.maximum(most, tiny), jnp.where(square > 0, along / jnp.maximum(square, tiny), jnp.inf))
    scale = jnp.where((along > 0) & (most > 0), scale, 0)
    return scale * nu, scale * along - scale**2 * square / 2


def beyond(reached: Float[Array, " n"], y: Float[Array, " n"]) -> Bool[Array, ""]:
    """Whether y is not in the range of A, if ``reached`` is what least squares make of it."""
    return jnp.linalg.norm(reached - y) > _OFF[y.dtype.itemsize] * jnp.linalg.norm(y)


def shrink(Z: Float[Array, "d g"], step: Float[Array, ""]) -> Float[Array, "d g"]:
    """Every block shortened by ``step``; zero if it is not longer."""
    length = jnp.linalg.norm(Z, axis=0)
    return Z * jnp.where(length > step, 1 - step / jnp.where(length > step, length, 1), 0)


def init(
    blocks: Blocks,
    system: System,
    y: Float[Array, " n"],
    constants: DouglasRachford = DouglasRachford(),
    lam: float | Float[Array, ""] = 0.0,
) -> State:
    """The first state: at the least-squares interpolant, whose bounds it has."""
    dtype = blocks.X.dtype
    lam, none = jnp.asarray(lam, dtype), jnp.zeros((), dtype)
    nu = system.solve(y, none)
    Z = blocks.adjoint(nu)
    most = jnp.max(jnp.linalg.norm(Z, axis=0))
    zero = objective(blocks, y, lam, jnp.zeros_like(Z))
    value = objective(blocks, y, lam, Z)
    from_zero = ((lam > 0) & (zero < value)) | ~jnp.any(y)
    nu, dual = proven(blocks, y, lam, nu)
    best = Bounds(
        iteration=jnp.zeros((), jnp.int32),
        W=jnp.where(from_zero, 0, Z),
        objective=jnp.where(from_zero, zero, value),
        nu=nu,
        dual=dual,
        infeasible=beyond(blocks.apply(Z), y) & (lam == 0),
        broken=~jnp.isfinite(most),
    )
    return State(y=y, lam=lam, Z=Z, step=constants.step * jnp.where(most > 0, most, 1), best=best)


def advance(blocks: Blocks, system: System, state: State, constants: DouglasRachford = DouglasRachford()) -> State:
    """``check_every`` iterations, and the bounds at the point where they end."""
    y, step = state.y, state.step
    shift = state.lam / step

    def once(_: Array, Z: Array) -> Array:
        W = shrink(Z, step)
        R = 2 * W - Z
        Q = R + blocks.adjoint(system.solve(y - blocks.apply(R), shift))
        return Z + constants.relaxation * (Q - W)

    Z = jax.lax.fori_loop(0, constants.check_every, once, state.Z)
    W = shrink(Z, step)
    nu = system.solve(y - blocks.apply(2 * W - Z), shift) / step
    # The misfit of the optimum is lam nu.
    W = W + blocks.adjoint(system.solve(y - state.lam * nu - blocks.apply(W), jnp.zeros_like(shift)))
    nu, dual = proven(blocks, y, state.lam, nu)
    value = objective(blocks, y, state.lam, W)
    broken, taken = ~jnp.all(jnp.isfinite(Z)), constants.check_every
    return state._replace(Z=Z, best=state.best.seen(W, value, nu, dual, iterations=taken, broken=broken))


def solve(
    blocks: Blocks,
    y: Float[Array, " n"],
    *,
    lam: float | Float[Array, ""] = 0.0,
    tol: float | Float[Array, ""] = 1e-8,
    max_iterations: int | Int[Array, ""] = 20_000,
    constants: DouglasRachford = DouglasRachford(),
) -> Interpolant:
    """The interpolant of minimal norm to within a certified relative gap; safe under vmap over any of the arrays.

    Args:
      blocks: data and patterns; computed in their dtype.
      y: [n] what to interpolate; zero in padded rows.
      lam: positive for noisy data: ``sum ||w_g|| + ||A W - y||^2 / (2 lam)``.
      tol: relative gap to stop at. In float32 about 1e-5 can be reached.
      max_iterations: budget, rounded up to a multiple of ``constants.check_every``.
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
    constants: DouglasRachford,
) -> Interpolant:
    shared = system(blocks)
    begin = init(blocks, shared, y, constants, lam)
    return run(begin, lambda state: advance(blocks, shared, state, constants), tol, budget)
