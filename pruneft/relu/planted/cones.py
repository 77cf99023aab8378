"""Second-order cones, one for each block, and what interior points need of them: scaling, products, steps to the boundary.

Source: the scaling, Nesterov, Todd (1997); the formulas, Vandenberghe, "The CVXOPT linear and quadratic cone program solvers" (2010).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Cones(NamedTuple):
    """One vector of every second-order cone: heads [g] and tails [d, g]."""

    head: Float[Array, " g"]
    tail: Float[Array, "d g"]


class Scaling(NamedTuple):
    """The symmetric matrix of every cone that takes s to ``lam`` and ``lam`` to x: a number each and a vector of unit form."""

    size: Float[Array, " g"]
    vector: Cones
    lam: Cones


def inner(u: Cones, v: Cones) -> Float[Array, " g"]:
    """Inner product of the vectors of every cone."""
    return u.head * v.head + jnp.sum(u.tail * v.tail, axis=0)


def form(u: Cones) -> Float[Array, " g"]:
    """``head^2 - ||tail||^2``, without cancellation of squares."""
    length = jnp.linalg.norm(u.tail, axis=0)
    return (u.head - length) * (u.head + length)


def plus(u: Cones, factor: Float[Array, ""] | float, v: Cones) -> Cones:
    """``u + factor v``."""
    return jax.tree.map(lambda u, v: u + factor * v, u, v)


def product(u: Cones, v: Cones) -> Cones:
    """The Jordan product of every cone."""
    return Cones(inner(u, v), u.head * v.tail + v.head * u.tail)


def quotient(u: Cones, r: Cones) -> Cones:
    """The q with ``u o q = r``."""
    head = (u.head * r.head - jnp.sum(u.tail * r.tail, axis=0)) / form(u)
    return Cones(head, (r.tail - head * u.tail) / u.head)


def scaled(scaling: Scaling, u: Cones) -> Cones:
    """The scaling's matrix times u."""
    a, b = scaling.vector
    along = jnp.sum(b * u.tail, axis=0)
    head = scaling.size * (a * u.head + along)
    return Cones(head, scaling.size * (u.tail + b * (u.head + along / (1 + a))))


def scaling_of(x: Cones, s: Cones) -> Scaling:
    """The scaling with ``W s = W^{-1} x``, both inside the cones."""
    of_x, of_s = jnp.sqrt(form(x)), jnp.sqrt(form(s))
    x, s = jax.tree.map(lambda u: u / of_x, x), jax.tree.map(lambda u: u / of_s, s)
    middle = jnp.sqrt((1 + inner(x, s)) / 2)
    vector = Cones((x.head + s.head) / (2 * middle), (x.tail - s.tail) / (2 * middle))
    scaling = Scaling(jnp.sqrt(of_x / of_s), vector, s)
    return scaling._replace(lam=scaled(scaling, jax.tree.map(lambda u: u * of_s, s)))


def room(u: Cones, du: Cones, live: Bool[Array, " g"]) -> Float[Array, ""]:
    """The largest a with ``u + a du`` in every cone."""
    across = u.head * du.head - jnp.sum(u.tail * du.tail, axis=0)
    under = across**2 - form(u) * form(du)
    below = jnp.sqrt(jnp.maximum(under, 0)) - across
    far = jnp.where((under >= 0) & (below > 0), form(u) / jnp.where(below > 0, below, 1), jnp.inf)
    return jnp.min(jnp.where(live, far, jnp.inf))


def unscaled(scaling: Scaling, u: Cones) -> Cones:
    """The inverse of the scaling's matrix times u."""
    a, b = scaling.vector
    along = jnp.sum(b * u.tail, axis=0)
    return Cones((a * u.head - along) / scaling.size, (u.tail + b * (along / (1 + a) - u.head)) / scaling.size)
