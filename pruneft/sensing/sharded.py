"""One problem spread over several devices: each holds a share of the measurements, everything of size d is on all of them.

Nothing else of the library knows of it. The rows lie where a `jax.sharding.NamedSharding` puts them, and the
partitioner of ``jit`` does the rest: a product with the measurements is local, and what contracts over them (a
gradient, the Gram form, JᵀJ and Jᵀe) ends in one all-reduce of something of size d², D² or (d r)². Rows are never
gathered; the tests read the compiled programs for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pruneft.kept import kept
from pruneft.random import normals
from pruneft.sensing import lane as lanes
from pruneft.sensing.draw import Instance, instance_blocks, make_instance
from pruneft.sensing.operator import Gram, PackedOperator

Axis = str | tuple[str, ...] | None


def row_sharding(mesh: Mesh, axis: Axis = None) -> NamedSharding:
    """Where the measurements lie: split along their first axis over one axis of the mesh, or over several.

    Args:
      mesh: of devices, those of other processes included.
      axis: name of the mesh axis, or a tuple of names; may be left out where the mesh has only one.

    Raises:
      ValueError: not a mesh; an axis it does not have; several axes and none named.
    """
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh must be a jax.sharding.Mesh, jax.make_mesh((8,), ('n',)) for example: got {type(mesh).__name__}."
        )
    names = tuple(mesh.axis_names)
    if axis is None:
        if len(names) != 1:
            raise ValueError(
                f"the mesh has {len(names)} axes, {names}: say over which of them the measurements are spread, "
                f"axis={names[0]!r} for example, or a tuple of names."
            )
        axis = names
    chosen = (axis,) if isinstance(axis, str) else tuple(axis)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(names):
        raise ValueError(f"axis must name axes of the mesh, which are {names}, each once: got {axis!r}.")
    return _split(mesh, chosen)


def spread(name: str, array: Any) -> NamedSharding | None:
    """How an array is split over devices by its rows; None where it lies whole on the host or a device.

    Raises:
      ValueError: it is split in another way.
    """
    if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        return None
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        if sharding.is_fully_replicated:
            return None
        raise ValueError(
            f"{name} must be split over devices by a jax.sharding.NamedSharding: got a {type(sharding).__name__}."
        )
    first, *others = (*sharding.spec, None)
    if any(part for part in others):
        raise ValueError(
            f"{name} must be split over devices along its first axis only, the measurements: got {sharding.spec}."
        )
    if not first:
        return None
    return _split(sharding.mesh, (first,) if isinstance(first, str) else tuple(first))


def devices(sharding: NamedSharding | None) -> int:
    """Over how many devices the measurements are split."""
    if sharding is None:
        return 1
    first = sharding.spec[0]
    return math.prod(sharding.mesh.shape[name] for name in ((first,) if isinstance(first, str) else first))


def aligned(array: Any, sharding: NamedSharding) -> jax.Array:
    """A split array under an equivalent sharding of ours, whose mesh leaves partitioning to the compiler; nothing is copied."""
    placed: jax.Array = jax.device_put(array, sharding)
    return placed


def distribute(
    array: np.ndarray, sharding: NamedSharding, pack: Callable[[np.ndarray], np.ndarray] | None = None
) -> jax.Array:
    """Split a host array by rows over devices, with zero rows at the end up to a multiple of their number.

    Each device is given its own rows and no device ever holds all. With several processes every one calls this with the
    same array, and hands out what its devices need.

    Args:
      array: [n, ...].
      sharding: from `row_sharding`.
      pack: applied to each block of rows on the way.

    Raises:
      ValueError: fewer rows than devices.
    """
    n, count = array.shape[0], devices(sharding)
    if n < count:
        raise ValueError(
            f"a device needs at least one measurement: got {count} devices for n={n} measurements. Use a mesh of at most "
            f"{n} devices."
        )
    padded = -(-n // count) * count
    sample = array[:1] if pack is None else pack(array[:1])
    dtype = jax.dtypes.canonicalize_dtype(sample.dtype)

    def block(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(padded)
        part = array[start : min(stop, n)]
        part = part if pack is None else pack(part)
        missing = [(0, stop - start - part.shape[0])] + [(0, 0)] * (part.ndim - 1)
        return np.pad(part, missing).astype(dtype)

    return jax.make_array_from_callback((padded, *sample.shape[1:]), sharding, block)


def everywhere(array: Any, sharding: NamedSharding) -> jax.Array:
    """The same host array, whole, on every device of the mesh."""
    host = np.asarray(array)
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.make_array_from_callback(host.shape, whole, lambda index: host[index])


def companion(name: str, values: Any, sharding: NamedSharding, n: int) -> jax.Array:
    """A vector beside split measurements, split as they are.

    Args:
      name: for messages.
      values: [n], on the host (the same in every process) or split as the measurements are.
      sharding: of the measurements.
      n: measurements, padding included.

    Raises:
      ValueError: another length, or split in another way.
    """
    there = spread(name, values)
    if np.shape(values) != (n,):
        raise ValueError(
            f"{name} must have one entry per row of A, {n} of them, zero where the row is padding: got shape {np.shape(values)}."
        )
    if there is None:
        return distribute(np.asarray(values), sharding)
    if not there.is_equivalent_to(sharding, 1):
        raise ValueError(
            f"A and {name} must be split over the same devices in the same way: got {sharding.spec} on a mesh of "
            f"{sharding.mesh.size} devices for A and {there.spec} on one of {there.mesh.size} for {name}. "
            f"Put {name} where A is, or pass it as a NumPy array."
        )
    return aligned(values, sharding)


@jax.jit
def survey(array: Array) -> dict[str, Array]:
    """What a check of a split array wants to know of it: counts and sizes only, so that nothing moves."""
    bad = ~jnp.isfinite(array)
    sound = jnp.where(bad, 0, array)
    found = {
        "bad": jnp.sum(bad),
        "largest": jnp.max(jnp.abs(sound)),
        "used": jnp.sum(jnp.any((array != 0).reshape(array.shape[0], -1), axis=1)),
        "asymmetry": jnp.zeros((), array.dtype),
    }
    if array.ndim == 3:
        found["asymmetry"] = jnp.max(jnp.abs(sound - jnp.swapaxes(sound, 1, 2)))
    return found


def look(array: jax.Array) -> dict[str, float]:
    """`survey` on the host, in every process."""
    return {name: value.item() for name, value in jax.block_until_ready(survey(array)).items()}


def pack(matrices: jax.Array, sharding: NamedSharding) -> PackedOperator:
    """Packed measurements of split matrices [n, d, d], each device packing its own."""
    rows = jax.jit(lambda a: PackedOperator.from_matrices(a).rows, out_shardings=sharding)(matrices)
    return PackedOperator(jax.block_until_ready(rows))


def weigh(
    operator: PackedOperator, y: jax.Array, weights: Any, sharding: NamedSharding, live_n: int
) -> tuple[PackedOperator, jax.Array, int]:
    """Split measurements and data times the root of their weights, in the dtype of y, and how many still count.

    A measurement of weight 0 becomes a zero row, which is padding like any other.

    Args:
      weights: [n] with or without the padding; without, if the padding is at the end.
    """
    n = operator.n
    if np.shape(weights) == (live_n,) and live_n < n:
        if look(operator.rows)["used"] != _used_first(operator.rows, live_n).item():
            raise ValueError(
                f"the zero rows that pad A are not all at its end, so weights must have an entry for every row, {n}: got {live_n}."
            )
        weights = np.pad(np.asarray(weights), (0, n - live_n))
    placed = companion("weights", weights, sharding, n)
    facts = jax.block_until_ready(_weight_facts(operator.rows, placed))
    if facts["wrong"].item() or not facts["any"].item():
        raise ValueError("weights must be finite and not negative, and not all zero.")
    rows, data = jax.block_until_ready(_weighted(operator.rows, y, placed))
    return PackedOperator(rows), data, live_n - int(facts["dropped"].item())


def split_lane(
    operator: Any,
    y: jax.Array,
    starts: Any,
    penalty: Any,
    sharding: NamedSharding,
    *,
    n: int,
    sigma: float | None,
    rank: int,
    root: Any = None,
) -> lanes.Lane:
    """`pruneft.sensing.lane.make_lane` on split data: rows and y stay where they are, the rest is on every device.

    ``root`` is None: weights of split measurements are multiplied into their rows.
    """
    host = functools.partial(jax.tree.map, np.asarray)
    noise = np.asarray(np.nan if sigma is None else sigma, y.dtype)
    arguments = (operator, y, host(starts), host(penalty), np.asarray(n, np.int32), noise, np.asarray(rank, np.int32))
    lane: lanes.Lane = _lane_program(sharding)(*arguments)
    jax.block_until_ready(lane)
    told = functools.partial(dataclasses.replace, sharding=sharding)
    fast = told(lane.fast) if isinstance(lane.fast, PackedOperator) else lane.fast
    return lane._replace(operator=told(operator), fast=fast)


def root_mean_square(y: jax.Array, n: int) -> float:
    """``sqrt(sum y² / n)`` of a split vector."""

    def measure(y: Array) -> Array:
        largest = jnp.max(jnp.abs(y))
        return largest * jnp.sqrt(jnp.sum(jnp.square(y / largest)) / n)

    return float(jax.jit(measure)(y))


def draw_split(
    key: Array, mesh: Mesh, *, n: int, d: int, r: Any, axis: Axis = None, **law: Any
) -> tuple[Instance, int]:
    """An instance of `draw_instance` whose measurements are drawn where they stay: no device, and no host, holds them all.

    The draws are those of `draw_instance` with the same key, bit for bit.

    Args:
      key: a JAX key, the same in every process.
      mesh, axis: as in `row_sharding`.
      n, d, r: as in `draw_instance`.
      law: its other keywords but ``live_n``.

    Returns:
      The instance, n rounded up to a multiple of the devices by zero rows, and n: what ``Problem(drawn.operator, drawn.y,
      live_n=n)`` wants.

    Raises:
      ValueError: fewer measurements than devices, or as `row_sharding`.
    """
    sharding = row_sharding(mesh, axis)
    count = devices(sharding)
    if n < count:
        raise ValueError(f"a device needs at least one measurement: got {count} devices for n={n} measurements.")
    padded = -(-n // count) * count
    implementation = str(jax.random.key_impl(key))

    def draw(data: Array) -> Instance:
        known = jax.random.wrap_key_data(data, impl=implementation)
        # A call of the generator for each block: in one call they would be one long vector, which does not split by rows.
        blocks = (normals(known, block)[0] for block in instance_blocks(padded, d))
        return make_instance(*blocks, r=r, live_n=n, **law)

    whole = NamedSharding(sharding.mesh, PartitionSpec())
    places = Instance(operator=PackedOperator(sharding), y=sharding, truth=whole, factor=whole)  # type: ignore[arg-type]
    # Words, not a key: NumPy arrays are what programs over several processes take from each of them.
    words = np.asarray(jax.random.key_data(key))
    with quiet(sharding):
        return jax.block_until_ready(jax.jit(draw, out_shardings=places)(words)), n


@contextlib.contextmanager
def quiet(sharding: NamedSharding | None) -> Iterator[None]:
    """With the mesh of the data in force instead of one that the caller may have set, which would clash with it."""
    if sharding is None or not hasattr(jax, "set_mesh"):  # JAX before 0.7 has nothing to clash with
        yield
        return
    with jax.set_mesh(sharding.mesh):  # type: ignore[arg-type]  # ours are never abstract
        yield


def _split(mesh: Any, names: tuple[str, ...]) -> NamedSharding:
    # A mesh with explicit axes (what jax.make_mesh makes from JAX 0.9 on) refuses contractions over a split axis that do
    # not say where their result lies; with automatic ones, the default of Mesh, the compiler adds the all-reduce.
    automatic = Mesh(mesh.devices, mesh.axis_names)
    return NamedSharding(automatic, PartitionSpec(names if len(names) > 1 else names[0]))


@kept(maxsize=32)
def _lane_program(sharding: NamedSharding) -> Callable[..., Any]:
    shards = devices(sharding)
    whole = NamedSharding(sharding.mesh, PartitionSpec())

    def make(operator: Any, y: Array, starts: Array, penalty: Any, n: Array, sigma: Array, rank: Array) -> lanes.Lane:
        lane = lanes.make_lane(operator, y, starts, penalty, n=n, sigma=sigma, rank=rank, shards=shards)
        here = functools.partial(jax.lax.with_sharding_constraint, shardings=sharding)
        there = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
        fast = jax.tree.map(there if isinstance(lane.fast, Gram) else here, lane.fast)
        data = {
            "fast": fast,
            "y": here(lane.y),
            "operator": None,
        }  # the rows are not an output, or they would be copied
        rest = jax.tree.map(there, lane._replace(**dict.fromkeys(data)))  # type: ignore[arg-type]
        return rest._replace(**data)

    return jax.jit(make)


@functools.partial(jax.jit, static_argnums=1)
def _used_first(rows: Array, count: int) -> Array:
    first = jnp.arange(rows.shape[0], dtype=jnp.int32) < count
    return jnp.sum(jnp.any(rows != 0, axis=1) & first)


@jax.jit
def _weight_facts(rows: Float[Array, "n D"], weights: Array) -> dict[str, Array]:
    return {
        "wrong": jnp.any(~jnp.isfinite(weights) | (weights < 0)),
        "any": jnp.any(weights > 0),
        "dropped": jnp.sum((weights == 0) & jnp.any(rows != 0, axis=1)),
    }


@jax.jit
def _weighted(rows: Float[Array, "n D"], y: Float[Array, "n"], weights: Array) -> tuple[Array, Array]:
    root = jnp.sqrt(weights.astype(y.dtype))
    return rows.astype(y.dtype) * root[:, None], y * root
