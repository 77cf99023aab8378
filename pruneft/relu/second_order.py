"""Algebra of the cones ``{(t, u): ||u|| <= t}``, one for each block: Nesterov-Todd scaling, products, longest steps.

Points of all cones together are a `Cones`: the heads t [p] and the tails u [d, p].

Source: Nesterov, Todd (1997); in the form of Vandenberghe, "The CVXOPT linear and quadratic cone program solvers" (2010).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Heads = Float[Array, " p"]
Tails = Float[Array, "d p"]


class Cones(NamedTuple):
    """One vector (head, tail) for each block."""

    head: Heads
    tail: Tails


class Scaling(NamedTuple):
    """The symmetric W of each cone with ``W z = W^-1 x``: ``eta [[w0, w'], [w, I + w w'/(1 + w0)]]``, and that common point."""

    eta: Heads
    w: Cones
    point: Cones


def dot(a: Cones, b: Cones) -> Heads:
    """Inner product of each block."""
    return a.head * b.head + jnp.sum(a.tail * b.tail, axis=0)


def _root(x: Cones) -> Heads:
    """``sqrt(t^2 - ||u||^2)``, from the product of two sums so that it keeps its digits near the boundary."""
    length = jnp.linalg.norm(x.tail, axis=0)
    tiny = jnp.finfo(length.dtype).tiny
    return jnp.sqrt(jnp.maximum((x.head - length) * (x.head + length), tiny))


def _unit(x: Cones) -> Cones:
    root = _root(x)
    return Cones(x.head / root, x.tail / root)


def scaling(x: Cones, z: Cones) -> Scaling:
    """The scaling at interior points x and z."""
    a, b = _unit(x), _unit(z)
    gamma = jnp.sqrt((1 + dot(a, b)) / 2)
    w = Cones((a.head + b.head) / (2 * gamma), (a.tail - b.tail) / (2 * gamma))
    nt = Scaling(jnp.sqrt(_root(x) / _root(z)), w, x)
    return nt._replace(point=apply(nt, z))


def apply(nt: Scaling, x: Cones) -> Cones:
    """W x."""
    along = jnp.sum(nt.w.tail * x.tail, axis=0)
    head = nt.w.head * x.head + along
    tail = x.tail + nt.w.tail * (x.head + along / (1 + nt.w.head))
    return Cones(nt.eta * head, nt.eta * tail)


def apply_inverse(nt: Scaling, x: Cones) -> Cones:
    """W^-1 x."""
    along = jnp.sum(nt.w.tail * x.tail, axis=0)
    head = nt.w.head * x.head - along
    tail = x.tail - nt.w.tail * (x.head - along / (1 + nt.w.head))
    return Cones(head / nt.eta, tail / nt.eta)


def product(a: Cones, b: Cones) -> Cones:
    """The Jordan product."""
    return Cones(dot(a, b), a.head * b.tail + b.head * a.tail)


def divide(r: Cones, a: Cones) -> Cones:
    """The b with ``product(a, b) = r``."""
    head = (a.head * r.head - jnp.sum(a.tail * r.tail, axis=0)) / _root(a) ** 2
    return Cones(head, (r.tail - head * a.tail) / a.head)


def longest(x: Cones, dx: Cones) -> Heads:
    """The inverse of the longest step along dx that stays in the cone; 0 where there is no limit."""
    root, unit = _root(x), _unit(x)
    along = (unit.head * dx.head - jnp.sum(unit.tail * dx.tail, axis=0)) / root
    tail = dx.tail / root - (along + dx.head / root) / (unit.head + 1) * unit.tail
    return jnp.maximum(jnp.linalg.norm(tail, axis=0) - along, 0)
