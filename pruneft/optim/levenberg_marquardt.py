"""Dense Levenberg-Marquardt for small least-squares problems, as one while loop that jits and vmaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class LMResult(NamedTuple):
    """Where Levenberg-Marquardt ended.

    Attributes:
      x: [p], the best point.
      rss: the residual sum of squares there.
      steps: iterations taken, accepted or not.
      trace: [max_steps + 1], residual sum of squares after each iteration, the start first; NaN beyond ``steps``.
    """

    x: Float[Array, "p"]
    rss: Float[Array, ""]
    steps: Int[Array, ""]
    trace: Float[Array, "t"]


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Damping and stopping. The defaults were measured on matrix sensing normalised to unit data (mean y² = 1).

    Attributes:
      max_steps: iterations at most.
      damping: first damping mu, in units of the normal matrix.
      lower, raise_: factor on mu after an accepted step (divides) and a refused one (multiplies).
      stall: two accepted steps in a row that lower the RSS by less than this share end the run.
      target: an RSS of at most this ends the run. None: rounding level of unit data, (16 eps)²; below it steps are refused
        at random and the budget would be spent on nothing.
    """

    max_steps: int = 40
    damping: float = 1e-2
    lower: float = 5.0
    raise_: float = 8.0
    stall: float = 1e-9
    target: float | None = None


class _Carry(NamedTuple):
    x: Array
    rss: Array
    damping: Array
    steps: Array
    stalled: Array
    trace: Array


def levenberg_marquardt(
    residual: Callable[[Float[Array, "p"]], Float[Array, "m"]],
    jacobian: Callable[[Float[Array, "p"]], Float[Array, "m p"]],
    start: Float[Array, "p"],
    config: LMConfig = LMConfig(),
) -> LMResult:
    """Minimise ``||residual(x)||^2``.

    Each iteration solves ``(JᵀJ + mu I) dx = -Jᵀ e`` by Cholesky; a step that does not lower the RSS is refused and the
    damping raised. mu is kept above a floor, so exact null directions of J (the rotations of a matrix factor) do no
    harm, and a coordinate whose column of J is zero
    does not move: padding is inert.

    Args:
      residual: x -> e.
      jacobian: x -> de/dx.
      start: the dtype of everything follows it.
      config: damping and stopping.

    Source: the classical method (Levenberg 1944, Marquardt 1963); the damping constants are ours.
    """
    dtype = start.dtype
    floor = jnp.asarray(1e-7 if dtype == jnp.float32 else 1e-12, dtype)
    # Below this a fall is rounding: the squares of a float32 residual carry a relative error of that order.
    stall = max(config.stall, 8 * float(jnp.finfo(dtype).eps))
    target = (16 * float(jnp.finfo(dtype).eps)) ** 2 if config.target is None else config.target
    identity = jnp.eye(start.shape[0], dtype=dtype)

    def go_on(carry: _Carry) -> Array:
        unfinished = (carry.steps < config.max_steps) & (carry.stalled < 2) & (carry.rss > target)
        return unfinished & jnp.isfinite(carry.rss) & (carry.damping < 1e12)

    def iterate(carry: _Carry) -> _Carry:
        e, j = residual(carry.x), jacobian(carry.x)
        factor = jax.scipy.linalg.cho_factor(j.T @ j + carry.damping * identity)
        x = carry.x - jax.scipy.linalg.cho_solve(factor, e @ j)
        rss = jnp.sum(jnp.square(residual(x)))
        better = rss < carry.rss  # False for NaN: a failed factorisation is a refused step
        small = (carry.rss - rss) <= stall * carry.rss
        # A refused step with little damping left to blame is a stall too; otherwise raising mu would run through the
        # whole budget.
        stalled = jnp.where(better, jnp.where(small, carry.stalled + 1, 0), carry.stalled)
        stalled = jnp.where(~better & (jnp.abs(rss - carry.rss) <= stall * carry.rss), carry.stalled + 1, stalled)
        kept = jnp.where(better, rss, carry.rss)
        return _Carry(
            x=jnp.where(better, x, carry.x),
            rss=kept,
            damping=jnp.where(better, jnp.maximum(carry.damping / config.lower, floor), carry.damping * config.raise_),
            steps=carry.steps + 1,
            stalled=stalled.astype(jnp.int32),
            trace=carry.trace.at[carry.steps + 1].set(kept),
        )

    rss = jnp.sum(jnp.square(residual(start)))
    trace = jnp.full((config.max_steps + 1,), jnp.nan, dtype).at[0].set(rss)
    zero = jnp.zeros((), jnp.int32)
    carry = _Carry(start, rss, jnp.asarray(config.damping, dtype), zero, zero, trace)
    final = jax.lax.while_loop(go_on, iterate, carry)
    return LMResult(final.x, final.rss, final.steps, final.trace)
