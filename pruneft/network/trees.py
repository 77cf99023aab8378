"""Pytrees as tables of named arrays: what everything here works on, so that no framework needs to be imported.

The name of a leaf is its path with slashes, ``params/Dense_0/kernel``. What is not an array (an activation, a flag) stays in
the tree and is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_array(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype: arrays, tracers and `jax.ShapeDtypeStruct`."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of floating point numbers."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a leaf; the last step into a variable's value, as Flax NNX has it, is left out."""
    if len(path) > 1 and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name, in the tree's order."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if is_array(leaf)}


def kept_beside(tree: Any) -> frozenset[str]:
    """Names of the arrays in an `equinox.nn.State`: running averages, which only their place tells from weights."""

    def is_state(node: Any) -> bool:
        return type(node).__name__ == "State" and type(node).__module__.startswith("equinox.")

    found = []
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_state):
        if is_state(node):
            found += [name_of((*path, *inside)) for inside, _ in jax.tree_util.tree_leaves_with_path(node)]
    return frozenset(found)


def map_arrays(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """The tree with ``function(name, array)`` in place of every array."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(name_of(path), leaf) if is_array(leaf) else leaf, tree
    )


def with_arrays(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """The tree with some of its arrays replaced, by name; the others stay."""
    return map_arrays(arrays.get, tree)


def abstract(tree: Any) -> Any:
    """Shapes and dtypes in place of the arrays."""
    return map_arrays(lambda _, leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def take(array: Any, indices: np.ndarray, axis: int) -> Any:
    """Some coordinates of an axis; of a `jax.ShapeDtypeStruct` its shape alone."""
    if isinstance(array, jax.ShapeDtypeStruct):
        shape = (*array.shape[:axis], len(indices), *array.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, array.dtype)
    if isinstance(array, jax.core.Tracer):
        return jnp.take(array, jnp.asarray(indices, jnp.int32), axis=axis)
    # On the host: on the device every shape would be a program to compile.
    smaller = np.take(np.asarray(array), indices, axis=axis)
    return smaller if isinstance(array, np.ndarray) else jnp.asarray(smaller)
