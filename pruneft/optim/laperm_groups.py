"""The groups of lookahead permutation: which weights may change places with one another, and the nearest arrangement of given values.

The group of an output unit is everything that comes into it: the weights of a leaf with one index along the output axis. Values stay
within their group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Rule = Callable[[str, Any], Any]  # (path as in jax.tree_util.keystr, leaf) -> what holds for the leaf
_SWAPS = 8  # rounds of swapping neighbours before all is sorted again
FREE = optax.MaskedNode()  # where a leaf is not permuted; optax leaves the same behind for what it masks


def nearest_permutation(
    weights: Float[Array, "*groups n"], values: Float[Array, "*groups n"]
) -> Float[Array, "*groups n"]:
    """The arrangement of the values of every group that is nearest to its weights.

    The least value goes where the least weight is, and so on up (rearrangement inequality); equal weights are served in the order of
    their places. It keeps the order of the weights, does not change under positive scaling and shifts of a group, and maps an
    arrangement of the values to itself.

    Args:
      weights: one group per row.
      values: sorted along the last axis.

    Returns:
      Exactly the given values, rearranged. A group with a weight that is not finite comes back as it is: values that were finite all
      along would hide that training broke down.

    Source: the synchronisation of Qiu and Suda (2020), arXiv:2003.02570; that it is a projection is derived.
    """
    places = stable_order(weights)
    arranged = jnp.put_along_axis(weights, places, values.astype(weights.dtype), axis=-1, inplace=False)
    sound = jnp.all(jnp.isfinite(weights), axis=-1, keepdims=True)
    return jnp.where(sound, arranged, weights)


def stable_order(weights: Float[Array, "*groups n"]) -> Int[Array, "*groups n"]:
    """The places of the weights of every group from the least to the greatest, equal ones in the order of their places.

    What ``argsort`` returns for finite numbers, in a fifth to a third of its time on a CPU, where XLA sorts single integers eight times
    faster than pairs or floats: the bits of a float, made to rise with it, are sorted with the place beside them. Where a word has no
    room for all bits, the high ones are sorted and what they leave equal is put right by swapping neighbours.
    """
    n, bits = weights.shape[-1], jnp.finfo(weights.dtype).bits
    word = jnp.uint64 if jax.config.jax_enable_x64 else jnp.uint32  # type: ignore[attr-defined]
    beside = max(1, (n - 1).bit_length())
    room = jnp.iinfo(word).bits - beside
    if room < 8:  # of so many weights not even a byte would fit beside the place
        return jnp.argsort(weights, axis=-1, stable=True)
    key = _rising(weights)
    order = _sorted_by(key >> max(0, bits - room), word, beside)
    if bits > room:
        order = _with_all_bits(key, order, word, beside)
    return order.astype(jnp.int32)


def _rising(weights: Float[Array, "*groups n"]) -> Array:
    """Unsigned integers in the order of the weights; of two zeros none is less."""
    whole = jnp.dtype(f"uint{jnp.finfo(weights.dtype).bits}")
    raw = jax.lax.bitcast_convert_type(jnp.where(weights == 0, 0, weights), whole)
    top = jnp.asarray(1 << (jnp.iinfo(whole).bits - 1), whole)
    return jnp.where(raw >= top, ~raw, raw | top)


def _sorted_by(part: Array, word: Any, beside: int) -> Array:
    """Places in the order of integers that have room for a place beside them."""
    places = jnp.arange(part.shape[-1], dtype=word)
    return jnp.sort((part.astype(word) << beside) | places, axis=-1) & ((1 << beside) - 1)


def _with_all_bits(key: Array, order: Array, word: Any, beside: int) -> Array:
    """The order by high bits made the order by all: neighbours swap a few times, and where that is not enough all is sorted again."""
    bits, room = jnp.iinfo(key.dtype).bits, jnp.iinfo(word).bits - beside
    even = jnp.arange(key.shape[-1]) % 2 == 0

    def unsorted(keys: Array) -> Array:
        return jnp.any(keys[..., :-1] > keys[..., 1:])

    def swapped(keys: Array, order: Array, left: Array) -> tuple[Array, Array]:
        """Where ``left`` is true a place changes with the next one, if that is less."""
        after, order_after = (jnp.concatenate([a[..., 1:], a[..., -1:]], axis=-1) for a in (keys, order))
        before, order_before = (jnp.concatenate([a[..., :1], a[..., :-1]], axis=-1) for a in (keys, order))
        forth, back = left & (keys > after), ~left & (before > keys)
        return (
            jnp.where(forth, after, jnp.where(back, before, keys)),
            jnp.where(forth, order_after, jnp.where(back, order_before, order)),
        )

    def repair(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        keys, order, turn = carry
        for left in (even, ~even):
            keys, order = swapped(keys, order, left)
        return keys, order, turn + 1

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """By the low bits, then by the next ones, and so on up; from the order so far, or XLA would lift all of it out of the loop."""
        _, order = carry
        for begin in range(0, bits, room):
            part = (jnp.take_along_axis(key, order, axis=-1) >> begin) & ((1 << min(room, bits - begin)) - 1)
            order = jnp.take_along_axis(order, _sorted_by(part, word, beside), axis=-1)
        return jnp.take_along_axis(key, order, axis=-1), order

    # Loops, not branches: under vmap a branch would be taken by all lanes at every call.
    start = (jnp.take_along_axis(key, order, axis=-1), order, jnp.zeros((), jnp.int32))
    keys, order, _ = jax.lax.while_loop(lambda c: unsorted(c[0]) & (c[2] < _SWAPS), repair, start)
    return jax.lax.while_loop(lambda c: unsorted(c[0]), again, (keys, order))[1]


def is_free(node: Any) -> bool:
    """Whether a place in a tree of stored values says that the leaf is not permuted."""
    return isinstance(node, optax.MaskedNode)


def matrices(path: str, leaf: Any) -> bool:
    """The usual rule: what has two axes or more is permuted; biases and scales are trained freely."""
    return jnp.ndim(leaf) >= 2


def axis_of(path: str, leaf: Any, axis: int | Rule) -> int:
    """The output axis of a leaf, counted from the front; 0 for a vector, which is one group.

    Raises:
      ValueError: the leaf has no such axis, or cannot be permuted.
    """
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise ValueError(
            f"only real floating-point leaves can be permuted: got {path} of type {jnp.result_type(leaf)}. Leave it free by the rule "
            "permute=, or keep it out of the parameters that are trained."
        )
    rank = jnp.ndim(leaf)
    if rank == 0 or jnp.size(leaf) == 0:
        raise ValueError(
            f"a permuted leaf needs an axis and an entry: got {path} of shape {jnp.shape(leaf)}. Leave it free by the rule permute=."
        )
    if rank == 1:
        return 0
    wanted = axis(path, leaf) if callable(axis) else axis
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not -rank <= wanted < rank:
        raise ValueError(
            f"the output axis of {path} must be a whole number from {-rank} to {rank - 1}, as its shape is {jnp.shape(leaf)}: got "
            f"{wanted!r}. Give axis= as a rule (path, leaf) -> axis where leaves differ."
        )
    return wanted % rank


def to_groups(leaf: Array, axis: int) -> Float[Array, "units n"]:
    """One row for each output unit; a vector is a single row."""
    if leaf.ndim == 1:
        return leaf[None]
    moved = jnp.moveaxis(leaf, axis, 0)
    return moved.reshape(moved.shape[0], -1)


def from_groups(groups: Float[Array, "units n"], shape: tuple[int, ...], axis: int) -> Array:
    """The leaf of this shape that `to_groups` took apart."""
    if len(shape) == 1:
        return groups[0]
    rest = shape[:axis] + shape[axis + 1 :]
    return jnp.moveaxis(groups.reshape(shape[axis], *rest), 0, axis)


def sorted_values(params: Any, permute: Rule = matrices, axis: int | Rule = -1) -> Any:
    """Like ``params``: the sorted values [1, .., 1, units, n] of every permuted leaf, `FREE` for the others.

    There are as many leading ones as the number of the output axis, so plain arrays say all that is needed to put values back.

    Raises:
      ValueError: a permuted leaf has no such axis or is not real and floating-point; or no leaf is permuted.
    """

    def of(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if not permute(name, leaf):
            return FREE
        place = axis_of(name, leaf, axis)
        groups = jnp.sort(to_groups(jnp.asarray(leaf), place), axis=-1)
        return groups.reshape((1,) * place + groups.shape)

    stored = jax.tree_util.tree_map_with_path(of, params)
    if not jax.tree.leaves(stored):
        raise ValueError(
            f"no leaf would be permuted: the parameters have shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(params)]}, and by "
            "default leaves with at least two axes are. Give permute= for others."
        )
    return stored


def arrange(params: Any, stored: Any) -> Any:
    """The parameters with every permuted leaf replaced by the nearest arrangement of its stored values.

    Raises:
      ValueError: a leaf has not the shape that its values were stored for.
    """

    def of(values: Any, leaf: Any) -> Any:
        if is_free(values):
            return leaf
        axis = values.ndim - 2
        expected = values.shape[-2:]
        groups = to_groups(leaf, axis) if leaf.ndim > axis else leaf
        if groups.shape != expected or any(size != 1 for size in values.shape[:axis]):
            raise ValueError(
                f"stored values of shape {values.shape} do not fit a leaf of shape {jnp.shape(leaf)}: give the state that was made for "
                "these parameters; parameters and states that are stacked need jax.vmap."
            )
        return from_groups(nearest_permutation(groups, values.reshape(expected)), leaf.shape, axis)

    return jax.tree.map(of, stored, params, is_leaf=is_free)
