"""Roots of many monotone functions at once, each in its own bracket."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Points = Float[Array, "*batch"]

LIMIT = 60


def root(f: Callable[[Points], Points], low: Points, high: Points) -> Points:
    """Where the non-decreasing ``f`` crosses zero in [low, high], elementwise; an end point where it does not.

    False position with the Illinois rule, every fourth step a bisection: on functions that are linear by pieces, as most here
    are, far fewer evaluations than bisection alone. Ends after `LIMIT` steps on any numbers.

    Args:
      f: continuous and non-decreasing in each element.
      low, high: brackets, low <= high.
    """
    tiny = 4 * jnp.finfo(low.dtype).eps

    def over(at: _Bracket) -> Array:
        narrow = at.high - at.low <= tiny * jnp.maximum(jnp.abs(at.low), jnp.abs(at.high))
        return (at.step > 2) & (narrow | (at.f_low >= 0) | (at.f_high <= 0))

    def go_on(at: _Bracket) -> Array:
        return (at.step < LIMIT) & ~jnp.all(over(at))

    def narrow(at: _Bracket) -> _Bracket:
        at = _taken_in(at, over(at))
        drop = at.f_high - at.f_low
        chord = at.high - at.f_high * ((at.high - at.low) / jnp.where(drop > 0, drop, 1))
        # Never nearer to an end than the tolerance: beside a root that is an end to rounding, this closes the bracket at once.
        least = tiny / 2 * jnp.maximum(jnp.abs(at.low), jnp.abs(at.high))
        chord = jnp.clip(chord, at.low + least, at.high - least)
        middle = at.low + (at.high - at.low) / 2
        # The first two steps look at the ends, so that f stands in the compiled program once.
        inside = jnp.where(at.step % 4 == 1, middle, chord)
        x = jnp.where(at.step == 0, at.low, jnp.where(at.step == 1, at.high, inside))
        return at._replace(step=at.step + 1, x=x, value=f(x))

    one = jnp.ones_like(low)
    begin = _Bracket(jnp.zeros((), jnp.int32), jnp.zeros_like(low), low, high, -one, one, low, one)
    at = jax.lax.while_loop(go_on, narrow, begin)
    return jnp.where(at.f_low >= 0, at.low, jnp.where(at.f_high <= 0, at.high, at.low + (at.high - at.low) / 2))


class _Bracket(NamedTuple):
    """Ends and values there, and the point last looked at, which the ends do not know yet.

    It is taken in one turn of the loop later, because only what a loop carries is computed once: two fusions of a compiled program may
    compute f twice, and a value near zero then has two signs.
    """

    step: Array
    side: Array  # -1 or 1: which end moved last
    low: Array
    high: Array
    f_low: Array
    f_high: Array
    x: Array
    value: Array


def _taken_in(at: _Bracket, done: Array) -> _Bracket:
    """The bracket with its last point as an end. The first two are the ends themselves."""
    first, second, later = at.step == 1, at.step == 2, (at.step > 2) & ~done
    left, right = first | (later & (at.value <= 0)), second | (later & (at.value >= 0))
    # An end that stays twice has its value halved, so that the next chord falls on its side (Illinois).
    f_low = jnp.where(later & right & (at.side > 0), at.f_low / 2, at.f_low)
    f_high = jnp.where(later & left & (at.side < 0), at.f_high / 2, at.f_high)
    return at._replace(
        side=jnp.where(later, jnp.where(left, -1, 1), 0).astype(at.side.dtype),
        low=jnp.where(left, at.x, at.low),
        high=jnp.where(right, at.x, at.high),
        f_low=jnp.where(left, at.value, f_low),
        f_high=jnp.where(right, at.value, f_high),
    )
