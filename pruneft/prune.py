"""Which groups stay: masks by threshold, share, gap, count or fraction, and the arrays without the rest.

The ``keep_*`` functions take the norms of the groups, [..., k], and return a boolean mask of the same shape; they are
safe under jit and vmap. `zero_groups` applies a mask and keeps the shape (so it can be jitted too); `take_groups`
returns the smaller array, whose size depends on the data, and is therefore for concrete arrays only. A norm that is NaN
is never kept.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pruneft.penalty import check_beta

Mask = Bool[Array, "..."]
Norms = Float[Array, "..."]
_FEW = 256  # groups whose places are counted, not sorted for
Number = float | Float[Array, "..."]


def smoothing_threshold(beta: float) -> float:
    """The threshold ``2 sqrt(beta)``, in units of the factor. The published method leaves its threshold open.

    Columns of norm well below ``sqrt(beta)`` lie where the smoothed penalty is plain weight decay, which cannot tell
    columns apart.

    Raises:
      ValueError: ``beta`` is not positive.
    """
    check_beta(beta)
    return 2 * math.sqrt(beta)


def keep_above(norms: Norms, threshold: Number) -> Mask:
    """Keep the groups whose norm exceeds ``threshold`` (in units of the norms).

    Raises:
      ValueError: ``threshold`` is a negative Python number.
    """
    if isinstance(threshold, Real) and not threshold >= 0:
        raise ValueError(f"threshold must not be negative: got {threshold}.")
    return norms > threshold


def keep_share(norms: Norms, share: Number) -> Mask:
    """Keep the groups whose norm exceeds ``share`` times the largest norm; none, if all norms are zero.

    Raises:
      ValueError: ``share`` is a Python number outside [0, 1).
    """
    if isinstance(share, Real) and not 0 <= share < 1:
        raise ValueError(f"share of the largest norm must lie in [0, 1): got {share}.")
    return norms > share * jnp.nanmax(norms, axis=-1, keepdims=True)


def keep_count(norms: Norms, count: int | Int[Array, ""]) -> Mask:
    """Keep the ``count`` largest groups; equal norms by lower index. Zero groups can be among them if there are not enough others.

    Raises:
      ValueError: ``count`` is a Python number that is not whole, is negative, or exceeds the number of groups.
    """
    width = norms.shape[-1]
    if isinstance(count, Real) and not (isinstance(count, Integral) and 0 <= count <= width):
        raise ValueError(f"count must be a whole number from 0 to the number of groups, {width}: got {count}.")
    return (_ranks(norms) < jnp.asarray(count, jnp.int32)) & ~jnp.isnan(norms)


def keep_fraction(norms: Norms, fraction: float) -> Mask:
    """Keep the largest groups, ``ceil(fraction * k)`` of them, k being the original width (padding included).

    Raises:
      ValueError: ``fraction`` does not lie in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction of the width must lie in [0, 1]: got {fraction}.")
    return keep_count(norms, math.ceil(fraction * norms.shape[-1] - 1e-9))


def keep_gap(norms: Norms, *, least_ratio: float = 3.0, floor: float = 1e-6) -> Mask:
    """Cut where the sorted norms fall by the largest ratio, if it is at least ``least_ratio``; dead groups go in any case.

    Args:
      norms: [..., k], in any units; one that is not finite counts as zero.
      least_ratio: a smaller fall is no gap, and all live groups stay.
      floor: groups of norm up to ``floor`` times the largest are dead: never kept, and the fall to them is not a gap to
        be found, so padding with zero groups changes nothing.

    Raises:
      ValueError: ``least_ratio`` is not above 1 or ``floor`` is not in (0, 1).
    """
    if not least_ratio > 1:
        raise ValueError(f"least_ratio must exceed 1: got {least_ratio}.")
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie in (0, 1): got {floor}.")
    clean = jnp.nan_to_num(norms, nan=0.0, posinf=0.0)
    dead = floor * jnp.max(clean, axis=-1, keepdims=True)
    live = clean > dead
    if norms.shape[-1] < 2:
        return live
    ordered = -jnp.sort(-clean, axis=-1)
    upper, lower = ordered[..., :-1], ordered[..., 1:]
    between = lower > dead
    falls = jnp.where(between, upper / jnp.where(between, lower, 1), 0)
    cut = jnp.argmax(falls, axis=-1, keepdims=True).astype(jnp.int32)
    found = jnp.max(falls, axis=-1, keepdims=True) >= least_ratio
    return live & ((_ranks(clean) <= cut) | ~found)


def zero_groups(groups: Float[Array, "..."], keep: Mask, *, axis: int | tuple[int, ...] = -2) -> Float[Array, "..."]:
    """The array with every group that is not kept set to zero, shape unchanged.

    Args:
      groups: as in `pruneft.penalty.group_norms`.
      keep: mask of the shape of the norms.
      axis: the axis or axes inside a group.
    """
    return jnp.where(jnp.expand_dims(keep, axis), groups, 0)


def take_groups(groups: Float[Array, "..."], keep: Mask | np.ndarray, *, axis: int = -1) -> Float[Array, "..."]:
    """The smaller array that holds only the groups that are kept, in their order. Not for use under jit: its shape depends on ``keep``.

    Args:
      groups: any array.
      keep: [k], boolean.
      axis: the axis along which the groups are counted (the one of length k); -1 for columns.

    Raises:
      ValueError: ``keep`` is traced, or its length is not that of the axis.
    """
    if isinstance(keep, jax.core.Tracer) or isinstance(groups, jax.core.Tracer):
        raise ValueError(
            "take_groups makes an array whose size depends on the mask, so it cannot run under jit, vmap or grad: use zero_groups there."
        )
    mask = np.asarray(keep, bool)
    if mask.ndim != 1 or mask.shape[0] != groups.shape[axis]:
        raise ValueError(
            f"keep must be a mask of length {groups.shape[axis]}, the size of axis {axis}: got shape {mask.shape}."
        )
    return jnp.take(groups, jnp.asarray(np.flatnonzero(mask)), axis=axis)


def _ranks(norms: Norms) -> Int[Array, "..."]:
    """Place of every group when sorted from the largest, ties by lower index, NaN last."""
    clean = jnp.where(jnp.isnan(norms), -jnp.inf, norms)
    if norms.shape[-1] <= _FEW:  # counting takes a tenth of the time of two sorts
        place = jnp.arange(norms.shape[-1])
        first = (clean[..., :, None] == clean[..., None, :]) & (place[:, None] < place)
        return jnp.sum((clean[..., :, None] > clean[..., None, :]) | first, axis=-2, dtype=jnp.int32)
    order = jnp.argsort(-clean, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)
