r"""Balls that an attack may move a sample in, each with its dual norm and what the solvers need of it.

An attack moves ``x`` by ``delta`` with ``||delta||_p <= radius``, on the attacked features only (a bias column is none). The
worst it does to a linear form is ``max delta.c = radius ||c||_*``, the dual norm over the attacked features. Euclidean
projection on the ball and the prox of the dual norm are two sides of one map (Moreau): ``shrink(c, t) = c - project(c, t)``.

=======  ============  ==========================================
attack   dual norm     shrink(c, t)
=======  ============  ==========================================
inf      1             soft threshold
2        2             block soft threshold
1        inf           clip at the level that takes t off in all
=======  ============  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Vectors = Float[Array, "*batch d"]
Mask = Float[Array, " d"]


class Ball(NamedTuple):
    """One norm of attacks; all functions take vectors [..., d] and leave features with ``mask`` 0 alone.

    Attributes:
      name: ``"inf"``, ``"2"`` or ``"1"``.
      size: (delta,) -> its norm [...].
      dual: (c, mask) -> the dual norm of the attacked part [...].
      shrink: (c, mask, t) -> prox of ``t`` times the dual norm [..., d].
      worst: (c, mask) -> a unit attack that reaches the dual norm [..., d]; zero where c is.
      random: (key, shape, mask) -> attacks in the unit ball, many of them on its boundary.
    """

    name: str
    size: Callable[[Vectors], Array]
    dual: Callable[[Vectors, Mask], Array]
    shrink: Callable[[Vectors, Mask, Array], Vectors]
    worst: Callable[[Vectors, Mask], Vectors]
    random: Callable[[Array, tuple[int, ...], Mask], Array]

    def project(self, delta: Vectors, radius: Array | float) -> Vectors:
        """The nearest point of the ball of this radius."""
        return delta - self.shrink(delta, jnp.ones(delta.shape[-1], delta.dtype), jnp.asarray(radius, delta.dtype))


def ball_named(norm: str | float) -> Ball:
    """The ball of this norm: ``"inf"``, ``"2"``, ``"1"``, or the number.

    Raises:
      ValueError: another norm: its projections have no closed form or scalar search here.
    """
    name = norm if isinstance(norm, str) else ("inf" if norm == math.inf else f"{norm:g}")
    if name not in BALLS:
        raise ValueError(
            f"norm (of the attack) must be one of {', '.join(BALLS)}: got {norm!r}. Only these have projections in closed form; "
            "the l_inf ball of the same radius holds every l_p ball, so norm='inf' is safe against any."
        )
    return BALLS[name]


def _length(c: Array) -> Array:
    square = jnp.sum(c * c, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _unit(c: Array) -> Array:
    length = _length(c)[..., None]
    return jnp.where(length > 0, c / jnp.where(length > 0, length, 1), 0)


def _shrink_two(c: Array, mask: Array, t: Array) -> Array:
    length = _length(c * mask)
    kept = jnp.where(length > t, 1 - t / jnp.where(length > t, length, 1), 0)
    return c * jnp.where(mask > 0, kept[..., None], 1)


def _clip_level(c: Array, mask: Array, t: Array) -> Array:
    """The level at which clipping takes ``t`` off the absolute values in all."""
    falling = -jnp.sort(-jnp.abs(c * mask), axis=-1)
    counts = jnp.arange(1, c.shape[-1] + 1, dtype=c.dtype)
    return jnp.maximum(jnp.max((jnp.cumsum(falling, axis=-1) - t[..., None]) / counts, axis=-1), 0)


def _shrink_one(c: Array, mask: Array, t: Array) -> Array:
    level = _clip_level(c, mask, t)[..., None]
    return jnp.where(mask > 0, jnp.clip(c, -level, level), c)


def _largest(c: Array, mask: Array) -> Array:
    """The unit attack on the largest feature alone."""
    place = jnp.argmax(jnp.abs(c * mask), axis=-1)
    return jnp.sign(c) * mask * jax.nn.one_hot(place, c.shape[-1], dtype=c.dtype)


def _random_inf(key: Array, shape: tuple[int, ...], mask: Array) -> Array:
    return jax.random.rademacher(key, shape, mask.dtype) * mask


def _random_two(key: Array, shape: tuple[int, ...], mask: Array) -> Array:
    return _unit(jax.random.normal(key, shape, mask.dtype) * mask)


def _random_one(key: Array, shape: tuple[int, ...], mask: Array) -> Array:
    drawn = jax.random.normal(key, shape, mask.dtype) * mask
    return _largest(drawn, mask)


BALLS = {
    "inf": Ball(
        name="inf",
        size=lambda delta: jnp.max(jnp.abs(delta), axis=-1),
        dual=lambda c, mask: jnp.sum(jnp.abs(c) * mask, axis=-1),
        shrink=lambda c, mask, t: jnp.sign(c) * jax.nn.relu(jnp.abs(c) - t[..., None] * mask),
        worst=lambda c, mask: jnp.sign(c) * mask,
        random=_random_inf,
    ),
    "2": Ball(
        name="2",
        size=_length,
        dual=lambda c, mask: _length(c * mask),
        shrink=_shrink_two,
        worst=lambda c, mask: _unit(c * mask),
        random=_random_two,
    ),
    "1": Ball(
        name="1",
        size=lambda delta: jnp.sum(jnp.abs(delta), axis=-1),
        dual=lambda c, mask: jnp.max(jnp.abs(c) * mask, axis=-1),
        shrink=_shrink_one,
        worst=_largest,
        random=_random_one,
    ),
}
