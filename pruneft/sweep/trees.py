"""Pytrees with a leading axis of lanes: taking, putting, choosing, and typed keys as plain numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def take(tree: PyTree, place: Array) -> PyTree:
    """The lanes at these places; a place beyond the end gives the last one."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, place, axis=0, mode="clip"), tree)


def put(tree: PyTree, place: Array, new: PyTree) -> PyTree:
    """New values for these lanes; a place beyond the end is dropped."""
    return jax.tree.map(lambda old, leaf: old.at[place].set(leaf, mode="drop"), tree, new)


def where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """Lane by lane one or the other."""
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def widen(shapes: PyTree, count: int) -> PyTree:
    """Shapes with a leading axis."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), shapes)


def blank(shapes: PyTree, count: int) -> PyTree:
    """Zeros with a leading axis."""
    return typed(jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), plain_shapes(shapes)), shapes)


def plain(tree: PyTree) -> PyTree:
    """Typed keys as their words; the host cannot hold them otherwise."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def plain_shapes(shapes: PyTree) -> PyTree:
    """Shapes of `plain` of these."""
    return jax.eval_shape(plain, shapes)


def typed(tree: PyTree, shapes: PyTree) -> PyTree:
    """The inverse of `plain`."""
    return jax.tree.map(
        lambda leaf, like: jax.random.wrap_key_data(leaf, impl=_impl(like)) if _is_key(like) else leaf, tree, shapes
    )


def _impl(like: Any) -> Any:
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]
