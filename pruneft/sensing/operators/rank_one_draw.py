"""Drawn rank-one measurements, real and complex, for sweeps: the families ``rank-one`` and ``rank-one-complex``.

Vectors have independent standard entries (complex: real and imaginary parts of variance 1/2 each), so ``E x xᴴ = I``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from pruneft.random import Block
from pruneft.sensing.draw import make_truth
from pruneft.sensing.family import MEASUREMENTS, TRUTH, Family, Instance
from pruneft.sensing.field import Field, height, stored_of
from pruneft.sensing.operator import cast
from pruneft.sensing.operators.rank_one import RankOne, degrees


def _blocks(rows: int, d: int, *, kind: Field) -> tuple[Block, ...]:
    # The noise is the first entry of its measurement's row; real and imaginary parts alternate, so that padding d pads the end.
    wide = height(d, kind)
    return Block(MEASUREMENTS, rows, 1 + wide), Block(TRUTH, d, wide)


def _make(
    draws: Sequence[Array],
    *,
    rows: int,
    d: int,
    r: Any,
    kappa: Any,
    scale: Any,
    sigma: Any,
    dtype: Any,
    live_n: Any,
    live_d: Any,
    kind: Field,
) -> Instance:
    measurements, directions = draws
    live = jnp.arange(rows, dtype=jnp.int32) < live_n
    inside = jnp.arange(d, dtype=jnp.int32) < live_d
    shown = live[:, None] & inside
    level = live.astype(measurements.dtype)
    if kind == "real":
        operator = RankOne(jnp.where(shown, measurements[:, 1:], 0), None, level)
    else:
        half = jnp.float32(0.5**0.5)
        real, imaginary = (jnp.where(shown, measurements[:, first::2] * half, 0) for first in (1, 2))
        operator = RankOne(real, imaginary, level, None, "complex")
    factor = make_truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=live_d, field=kind)
    noise = measurements[:, 0].astype(dtype)
    y = cast(operator, dtype).image(stored_of(factor, kind)) + jnp.asarray(sigma, dtype) * noise
    truth = factor @ jnp.conj(factor.T)
    return Instance(operator, jnp.where(live, y, 0), truth, factor)


def _dof(d: int, r: int, *, kind: Field) -> int:
    return round(degrees(kind, d, r))


def _family(name: str, kind: Field) -> Family:
    return Family(
        name=name,
        subject=f"sensing/{name}-gaussian",
        field=kind,
        rows=lambda n, d: n,
        blocks=functools.partial(_blocks, kind=kind),
        make=functools.partial(_make, kind=kind),
        dof=functools.partial(_dof, kind=kind),
        most=lambda d: None,
    )


RANK_ONE = _family("rank-one", "real")
RANK_ONE_COMPLEX = _family("rank-one-complex", "complex")
