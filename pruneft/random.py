"""Draws that do not depend on the shape they are made in: number (i, j) of a stream is a hash of key, stream, i and j.

With `jax.random` a column prefix of a two-dimensional draw changes with its width; folding a key with every row helps, but
costs a second hash and seconds of compilation. Here the counters of the generator are the indices themselves, so any
leading block of a draw stays what it is, bit for bit, when it is padded on either side, and everything that a trial draws
comes from one call of the generator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Float

_ROW_BITS = 24


class Block(NamedTuple):
    """A matrix of draws, or several.

    Attributes:
      stream: from 0; what tells the matrices of one key apart. Never renumber one: every stored result depends on it.
      rows, columns: its shape. Fewer or more of either change no number that both have.
      streams: so many matrices of consecutive streams, [streams, rows, columns]; None for a single one, [rows, columns].
    """

    stream: int
    rows: int
    columns: int
    streams: int | None = None


def normals(key: Array, *blocks: Block) -> list[Float[Array, "..."]]:
    """Standard normal matrices, float32, one array for each block, from one call of the generator.

    Args:
      key: a JAX key, typed or raw; of another generator than threefry, a threefry key is derived from it.
      blocks: what is drawn.

    Raises:
      ValueError: a stream, or a size, is out of range.

    Source: counter-based generators, Salmon et al. (2011), doi:10.1145/2063384.2063405; threefry as in JAX, normals by
    the inverse error function as in `jax.random.normal`.
    """
    words = jax.random.key_data(key)
    if words.shape[-1] != 2:
        words = jax.random.bits(key, (2,), jnp.uint32)
    for block in blocks:
        _check(block)
    # A hash gives two numbers, so it makes neighbouring columns together.
    shapes = [(block.streams or 1, block.rows, (block.columns + 1) // 2) for block in blocks]
    counters = [_counters(block, shape) for block, shape in zip(blocks, shapes, strict=True)]
    if len(blocks) == 1:  # in its own shape, whose rows a partitioner can split over devices
        hashed = [_hash(words, *counters[0])]
    else:
        together = _hash(words, *(jnp.concatenate([each.reshape(-1) for each in part]) for part in zip(*counters)))
        hashed, begin = [], 0
        for shape in shapes:
            hashed.append(together[begin : begin + math.prod(shape)].reshape(*shape, 2))
            begin += math.prod(shape)
    drawn = []
    for block, shape, pairs in zip(blocks, shapes, hashed, strict=True):
        part = pairs.reshape(*shape[:2], 2 * shape[2])[..., : block.columns]
        drawn.append(part[0] if block.streams is None else part)
    return drawn


def _counters(block: Block, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """What is hashed for every pair of numbers: the row within its stream, and the column."""
    # Stream 0 begins behind the counters that jax.random itself would use with this key.
    stream = (jnp.arange(shape[0], dtype=jnp.uint32) + jnp.uint32(block.stream + 1)) << _ROW_BITS
    row = stream[:, None] + jnp.arange(shape[1], dtype=jnp.uint32)
    column = jnp.arange(shape[2], dtype=jnp.uint32)
    return jnp.broadcast_to(row[..., None], shape), jnp.broadcast_to(column, shape)


def _hash(words: Array, rows: Array, columns: Array) -> Array:
    """Two standard normal numbers for every pair of counters, along a new last axis."""
    first, second = threefry2x32_p.bind(words[0], words[1], rows, columns)
    return _normal(jnp.stack([first, second], axis=-1))


def _check(block: Block) -> None:
    last = block.stream + (block.streams or 1)
    if block.stream < 0 or last >= 1 << (32 - _ROW_BITS):
        raise ValueError(f"streams are from 0 to {(1 << (32 - _ROW_BITS)) - 2}: got {block}.")
    if not 0 <= block.rows <= 1 << _ROW_BITS or block.columns < 0:
        raise ValueError(f"a block has at most 2**{_ROW_BITS} rows and no negative size: got {block}.")


def _normal(bits: Array) -> Array:
    mantissa = (bits >> 9) | jnp.uint32(0x3F800000)
    uniform = 2 * (jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1) - 1
    # -1 itself would become minus infinity.
    uniform = jnp.maximum(uniform, jnp.nextafter(jnp.float32(-1), jnp.float32(0)))
    return jnp.float32(2**0.5) * jax.lax.erf_inv(uniform)
