"""Initial weights for lookahead permutation: with zeros that move like any other value, or with a single value beside zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pruneft.optim.laperm_groups import Rule, matrices

FIRST_KEPT = 0.8  # of the first layer at least


def sparse_init(
    key: Array, params: Any, removed: float | Array | Rule, *, first: str | Sequence[str] = (), permute: Rule = matrices
) -> Any:
    """Initial weights of which a random share is zero; zeros change places with other values, so connections are learnt.

    Every weight of a permuted leaf is removed independently with probability ``removed``. Under `laperm` the number of zeros of
    an output unit is the same at every sync; between syncs the network is dense.

    Args:
      key: of the draw.
      params: initial weights without zeros.
      removed: probability, at least 0 and below 1, also traced; or a rule (path, leaf) -> probability. Paths are as
        `jax.tree_util.keystr` writes them.
      first: parts of the paths of first layers, which keep at least 80 percent.
      permute: (path, leaf) -> bool, which leaves lose weights; as given to `laperm`.

    Raises:
      ValueError: a probability is out of range, or a part of a path is in no path.

    Source: published: Qiu and Suda (2020), arXiv:2003.02570.
    """
    parts = (first,) if isinstance(first, str) else tuple(first)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for part in parts:
        if not any(part in path for path in paths):
            raise ValueError(f"first={part!r} is part of no path of the parameters: those are {', '.join(paths)}.")

    def of(drawn: Array, path: str, leaf: Array) -> Array:
        share = _share("removed", removed, path, leaf)
        if any(part in path for part in parts):
            share = jnp.minimum(share, 1 - FIRST_KEPT)
        return jnp.where(drawn < share, 0, leaf)

    return _drawn(key, params, permute, of)


def shared_value_init(
    key: Array,
    params: Any,
    value: float | Array | Rule = 0.03,
    *,
    kept: float | Array | Rule = 0.5,
    permute: Rule = matrices,
) -> Any:
    """Initial weights that are either zero or one shared value.

    Free leaves stay as they are; give zeros, or a model without biases, as published.

    Args:
      key: of the draw.
      params: of the shapes and types wanted.
      value: of every weight that is not zero; also a rule (path, leaf) -> value.
      kept: probability that a weight is not zero, above 0 and at most 1; also a rule.
      permute: (path, leaf) -> bool, which leaves are drawn.

    Raises:
      ValueError: a probability is out of range, or the value is zero or not finite.

    Source: published: Qiu and Suda (2020), arXiv:2003.02570, with 0.03 and 1/15, 1/7, 1/3 kept in three layers. On
      small digits without biases (one seed, chance 10 percent) one layer reached 86 percent (value 0.1, half kept, rate 3e-3,
      period 100, 300 steps), and three layers 61 as published (rate 1e-3, period 250, 1500 steps), 72 with 0.05 and 3000 steps.
    """

    def of(drawn: Array, path: str, leaf: Array) -> Array:
        share = _share("kept", kept, path, leaf)
        shared = value(path, leaf) if callable(value) else value
        if not isinstance(shared, jax.core.Tracer) and not (bool(jnp.isfinite(shared)) and float(shared) != 0):
            raise ValueError(f"the shared value of {path} must be finite and not zero: got {shared}.")
        return jnp.where(drawn < share, jnp.asarray(shared, leaf.dtype), 0)

    return _drawn(key, params, permute, of)


def _share(name: str, share: float | Array | Rule, path: str, leaf: Array) -> Array:
    """The probability that holds for a leaf, as an array of float32."""
    found = share(path, leaf) if callable(share) else share
    if not isinstance(found, jax.core.Tracer):
        removed = name == "removed"
        if not (0 <= found < 1 if removed else 0 < found <= 1):
            span = "at least 0 and below 1" if removed else "above 0 and at most 1"
            raise ValueError(f"{name} is a probability {span}: got {found} for {path}.")
    return jnp.asarray(found, jnp.float32)


def _drawn(key: Array, params: Any, permute: Rule, of: Callable[[Array, str, Array], Array]) -> Any:
    """Every leaf that is permuted by ``of(uniform numbers of its shape, path, leaf)``."""
    paths, shape = jax.tree_util.tree_flatten_with_path(params)
    found = []
    for place, (path, leaf) in enumerate(paths):
        name = jax.tree_util.keystr(path)
        if permute(name, leaf):
            drawn = jax.random.uniform(jax.random.fold_in(key, place), leaf.shape, jnp.float32)
            leaf = of(drawn, name, leaf)
        found.append(leaf)
    return jax.tree.unflatten(shape, found)
