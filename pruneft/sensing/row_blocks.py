"""The two products of a gradient in one pass over the measurements: block after block of rows, each used twice while in cache."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

# About so many bytes of a block, in whole sixteens of rows: 64 rows at d = 128, 16 at d = 256, in float32. Measured on one CPU
# core with 4 and 8 factors: with 31 rows instead of 32 one pass was no faster than two.
_BLOCK = 2 << 20
_ROWS = 16
# Bytes of measurements from which one pass is taken; below it copying blocks costs more than it saves.
_LARGE = 128 << 20


def pays(size: float, factors: int) -> bool:
    """Whether one pass is the faster form on a CPU.

    XLA cannot multiply by a slice of an array without copying it, so a pass by blocks moves more memory than it looks. A
    product with a single vector runs at the speed of the memory in two passes and takes 1.3 to 1.5 times as long by blocks.
    With several vectors, 2 to 8, blocks take 1.1 to 1.2 of the time at 50 MB and .9 to 1.1 at 200 MB on a quiet machine, .7 to .9
    where other jobs contend for the memory.

    Args:
      size: bytes of the measurements on one device.
      factors: matrices that are measured at once.
    """
    return factors > 1 and size > _LARGE


def residual_sum(
    rows: Float[Array, "n D"],
    packed: Float[Array, "*batch D"],
    y: Float[Array, "n"],
    gain: Float[Array, ""],
    *,
    block: int | None = None,
) -> Float[Array, "*batch D"]:
    """``sum_i e_i rows_i`` with ``e = rows . packed / gain - y``, the rows read once.

    Zero rows with zero y add nothing.

    Args:
      rows: packed measurements, on one device.
      packed: packed matrices.
      y: data.
      gain: what the measurements are divided by in the residual.
      block: rows at a time; about 2 MB of them if not given.
    """
    n, length = rows.shape
    size = _ROWS * max(1, round(_BLOCK / (_ROWS * length * rows.dtype.itemsize))) if block is None else block
    size = min(size, n)
    offsets = jnp.arange(size, dtype=jnp.int32)

    def add(index: Array, total: Array) -> Array:
        # The last block begins early rather than end late, and the rows that it shares with the one before are left out.
        begin = jnp.minimum(index * size, n - size)
        fresh = begin + offsets >= index * size
        part = jax.lax.dynamic_slice_in_dim(rows, begin, size)
        errors = jnp.einsum("nd,...d->...n", part, packed) / gain - jax.lax.dynamic_slice_in_dim(y, begin, size)
        return total + jnp.where(fresh, errors, 0) @ part

    count = -(-n // size)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(count), add, jnp.zeros_like(packed))


def split_residual_sum(
    rows: Float[Array, "n D"],
    packed: Float[Array, "*batch D"],
    y: Float[Array, "n"],
    gain: Float[Array, ""],
    *,
    sharding: NamedSharding,
) -> Float[Array, "*batch D"]:
    """`residual_sum` of rows that are split over devices: each passes over its own, and the sums are added up."""
    split, whole = sharding.spec, PartitionSpec()

    def share(rows: Array, packed: Array, y: Array, gain: Array) -> Array:
        return jax.lax.psum(residual_sum(rows, packed, y, gain), split[0])

    run = functools.partial(jax.shard_map, mesh=sharding.mesh, check_vma=False)
    total: Array = run(share, in_specs=(split, whole, split, whole), out_specs=whole)(rows, packed, y, gain)
    return total
