"""Whether some direction switches every sample on: is there h with X h > 0? With a certificate either way.

If there is one, the pattern of ones exists, its block is the same as the linear block of a skip connection, and a planted linear neuron
cannot be told from it. Random directions practically never find such an h.

The answer is the nearest point to zero of the convex hull of the unit rows, ``min ||X^T w||^2 / 2`` over ``w >= 0, sum w = 1``: if it is
not zero it is itself such an h, and if it is zero, w says why there is none (Gordan's theorem). An interior point method with one d x d
factorisation an iteration looks at both after every iteration and stops as soon as one of them is proven, which mostly is long before it
converges: h is checked row by row, w is first moved onto ``X^T w = 0`` in its own scale.

Source: Gordan (1873); method derived (ours).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

FEASIBLE, INFEASIBLE, UNDECIDED = 1, 0, -1
MOST = 60  # iterations; the hardest of 4000 Gaussian instances at n = 2 d took 17
_DROPPED = (
    0.5,
    0.375,
)  # weights below this power of the rounding unit, over the largest, are dropped from a proof: the better of two
_CENTRE, _STAY = 0.1, 0.99  # aim at this share of the present complementarity; go this share of the way to the boundary


class AllOnes(NamedTuple):
    """The answer; a pytree of arrays, with one leading axis more under vmap.

    Attributes:
      verdict: int32, 1 feasible, 0 infeasible, -1 undecided.
      h: [d] unit vector with ``X h > 0`` in every row that is not zero, beyond rounding, where feasible; else the last guess.
      weights: [n] not negative, sum 1, with ``sum_k weights_k x_k / ||x_k|| = 0`` to rounding where infeasible; else the last guess.
      margin: least ``x_k h / ||x_k||``.
      residual: ``||sum_k weights_k x_k / ||x_k||||``: no unit vector has a margin above it.
      iterations: int32.
    """

    verdict: Int[Array, ""]
    h: Float[Array, " d"]
    weights: Float[Array, " n"]
    margin: Float[Array, ""]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


class _Point(NamedTuple):
    w: Float[Array, " n"]
    s: Float[Array, " n"]
    found: AllOnes


def all_ones(X: Float[Array, "n d"], *, most: int = MOST) -> AllOnes:
    """Whether some h has ``X h > 0`` in every row that is not zero; safe under jit and vmap, and padding of zeros changes nothing.

    "To rounding" is ``4 sqrt(n d) eps`` for the weights and ``4 d eps`` for the margin, eps that of the dtype: what lies between is
    undecided, as where the best margin is not zero but of the order of rounding.

    Args:
      X: [n, d] samples, in any units. Zero rows are switched on by any h and do not count.
      most: iterations at most.
    """
    n, d = X.shape
    eps = jnp.finfo(X.dtype).eps
    length = jnp.linalg.norm(X, axis=1)
    live = (length > 0).astype(X.dtype)
    unit = X / jnp.where(length > 0, length, 1)[:, None]
    count = jnp.maximum(jnp.sum(live), 1)
    identity = jnp.eye(d, dtype=X.dtype)
    shares = jnp.asarray([float(eps) ** power for power in _DROPPED], X.dtype)

    def look(w: Array, iteration: Array) -> AllOnes:
        h = unit.T @ w
        size = jnp.linalg.norm(h)
        h = h / jnp.where(size > 0, size, 1)
        margin = jnp.min(jnp.where(live > 0, unit @ h, jnp.inf))
        flats = jax.vmap(lambda least: _flattened(unit, w, least))(shares)
        residuals = jnp.linalg.norm(flats @ unit, axis=1)
        # Weights that all vanished on the way to the flat ones prove nothing.
        best = jnp.argmin(jnp.where(jnp.sum(flats, axis=1) > 0.5, residuals, jnp.inf))
        flat, residual = flats[best], residuals[best]
        feasible = (margin > 4 * d * eps) & jnp.isfinite(margin)
        infeasible = (residual <= 4 * math.sqrt(n * d) * eps) & (jnp.sum(flat) > 0.5)
        verdict = jnp.where(feasible, FEASIBLE, jnp.where(infeasible, INFEASIBLE, UNDECIDED))
        return AllOnes(verdict.astype(jnp.int32), h, flat, margin, residual, iteration)

    def going(point: _Point) -> Array:
        return (point.found.verdict == UNDECIDED) & (point.found.iterations < most) & jnp.all(jnp.isfinite(point.w))

    def advance(point: _Point) -> _Point:
        w, s = point.w, point.s
        target = _CENTRE * jnp.sum(w * s) / count
        ratio = live * w / s
        r = live * (target / s - w)
        factor = cho_factor(identity + unit.T @ (ratio[:, None] * unit))
        a, b = cho_solve(factor, unit.T @ jnp.stack([r, ratio], axis=1)).T
        # dw = r - ratio (X dh - dnu), dh = X^T dw, sum dw = 0.
        along, across = unit @ a, unit @ b
        dnu = (ratio @ along - jnp.sum(r)) / (jnp.sum(ratio) - ratio @ across)
        ds = live * (along + (across - 1) * dnu)
        dw = r - ratio * ds

        def most_of(value: Array, change: Array) -> Array:
            return jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf))

        share = jnp.minimum(1.0, _STAY * jnp.minimum(most_of(w, dw), most_of(s, ds))).astype(X.dtype)
        w = w + share * dw
        w = w / jnp.sum(w)
        return _Point(w, s + share * ds, look(w, point.found.iterations + 1))

    w = live / count
    values = unit @ (unit.T @ w)
    s = jnp.where(live > 0, values - jnp.min(jnp.where(live > 0, values, jnp.inf)) + 1, 1)
    start = _Point(w, s, look(w, jnp.zeros((), jnp.int32)))
    found: AllOnes = jax.lax.while_loop(going, advance, start).found
    # Without a row there is nothing to switch on.
    return found._replace(verdict=jnp.where(jnp.any(live), found.verdict, FEASIBLE).astype(jnp.int32))


def _flattened(unit: Float[Array, "n d"], w: Float[Array, " n"], least: Float[Array, ""]) -> Float[Array, " n"]:
    """Weights with ``X^T w = 0``, the nearest in ``sum ((v - w) / w)^2``, not negative and of sum 1; small ones stay small and positive.

    Those below the share ``least`` of the largest become zero: where only some samples contradict one another, others' weights go there.
    """
    w = jnp.where(w > least * jnp.max(w), w, 0)
    for _ in range(2):  # the second takes away the rounding of the first
        scaled = w[:, None] * unit
        gram = scaled.T @ scaled
        ridge = 8 * jnp.finfo(w.dtype).eps * jnp.trace(gram) + jnp.finfo(w.dtype).tiny
        v = cho_solve(cho_factor(gram + ridge * jnp.eye(gram.shape[0], dtype=w.dtype)), unit.T @ w)
        w = jnp.maximum(w - w * (scaled @ v), 0)
        total = jnp.sum(w)
        w = w / jnp.where(total > 0, total, 1)
    return w


def wendel(n: int, d: int) -> float:
    """The probability that n random points in d dimensions lie in one half-space: that the pattern of ones exists.

    ``2^(1-n) sum_{k<d} C(n-1, k)``: for any law whose points are symmetric about zero, independent and almost surely in general position.

    Raises:
      ValueError: n or d is less than 1.

    Source: Wendel (1962), Math. Scand. 11, 109-111.
    """
    if n < 1 or d < 1:
        raise ValueError(f"expected n and d of at least 1: got n={n}, d={d}.")
    return sum(math.comb(n - 1, k) for k in range(min(d, n))) / 2 ** (n - 1)
