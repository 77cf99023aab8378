"""Drawn instances of squared distances: of random pairs of Gaussian points, and of the shortest pairs of points spread over a box.

Points that are Gaussian have outliers, which are nobody's neighbours: with the shortest half of the pairs of 16 points measured, two of
three instances leave a point undetermined, of points in a box none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.random import Block
from pruneft.sensing.draw import make_truth
from pruneft.sensing.family import MEASUREMENTS, TRUTH, Family, Instance
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.distances import assemble


def pair_count(d: int) -> int:
    """How many pairs d points have."""
    return d * (d - 1) // 2


def degrees(d: int, r: int) -> int:
    """Degrees of freedom of d points in r dimensions up to rigid motion."""
    return d * r - r * (r + 1) // 2


def _blocks(rows: int, d: int) -> tuple[Block, ...]:
    # A row for every pair, whether it is measured or not: its noise, and its place in the queue.
    return Block(MEASUREMENTS, max(pair_count(d), 1), 2), Block(TRUTH, d, d)


def _make(
    draws: Sequence[Float[Array, "..."]],
    *,
    rows: int,
    d: int,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    sigma: Any = 0.0,
    dtype: Any = jnp.float32,
    live_n: Any = None,
    live_d: Any = None,
    nearest: bool,
) -> Instance:
    measured, directions = draws
    points = jnp.asarray(d if live_d is None else live_d, jnp.int32)
    count = rows if live_n is None else live_n
    inside = jnp.arange(d, dtype=jnp.int32) < points
    if nearest:
        directions = jax.lax.erf(directions / jnp.float32(2**0.5))  # uniform in [-1, 1]
    # About their mean, for that is all that distances see; the truth of rank r then is what a centred answer is compared with.
    gaussian = jnp.where(inside, directions, 0).astype(dtype)
    centred = gaussian - jnp.where(inside, jnp.sum(gaussian, axis=1, keepdims=True) / points.astype(dtype), 0)
    factor = make_truth(centred, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=points)
    # By columns of the upper triangle: the pairs of the first points come first, whatever d is padded to.
    second, first = (jnp.asarray(node, jnp.int32) for node in np.tril_indices(d, -1))
    order = measured[:, 1]
    if nearest:
        order = jnp.sum(jnp.square(factor[first] - factor[second]), axis=-1).astype(jnp.float32)
    order = jnp.where(second < points, order, jnp.inf)
    chosen = jnp.argsort(order)
    missing = max(rows - chosen.shape[0], 0)
    chosen = jnp.concatenate([chosen[:rows], jnp.zeros(missing, chosen.dtype)])
    place = jnp.arange(rows, dtype=jnp.int32)
    live = (place < count) & (place < points * (points - 1) // 2)
    operator = assemble(first[chosen], second[chosen], live, points, d)
    noise = jnp.where(live, measured[chosen, 0], 0).astype(dtype)
    y = cast(operator, dtype).image(factor) + jnp.asarray(sigma, dtype) * noise
    return Instance(operator, jnp.where(live, y, 0), factor @ factor.T, factor)


def _check(cell: Mapping[str, Any]) -> None:
    d, r, n = cell["d"], cell["r"], cell["n"]
    if r > d - 1:
        raise ValueError(f"r (dimension of the points) must be at most d - 1, d points: got r={r}, d={d}.")
    if n > pair_count(d):
        raise ValueError(
            f"n must be at most d(d-1)/2 = {pair_count(d)}, the pairs of d={d} points: got n={n}. Lower n, or raise d."
        )


def _family(name: str, nearest: bool) -> Family:
    return Family(
        name=name,
        subject=f"sensing/{name}",
        field="real",
        rows=lambda n, d: n,
        blocks=_blocks,
        make=functools.partial(_make, nearest=nearest),
        dof=degrees,
        most=pair_count,
        check=_check,
    )


DISTANCES = _family("distances", nearest=False)
DISTANCES_NEAREST = _family("distances-nearest", nearest=True)
