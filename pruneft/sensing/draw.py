"""Drawing instances of Gaussian matrix sensing: measurements, a truth of given rank and conditioning, and data.

Draws belong to the trial: entry j of measurement i is a function of the trial's key, i and j alone (`pruneft.random`), so
an instance is the same, bit for bit, whatever it is padded to and whatever else is drawn beside it. They are made in
float32 and cast, so float32 and float64 see the same instance too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from pruneft.random import Block, normals
from pruneft.sensing import theory
from pruneft.sensing.family import MEASUREMENTS, TRUTH, Family, Instance
from pruneft.sensing.field import Field
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.packing import packed_size


def draw_instance(
    key: Array,
    *,
    n: int,
    d: int,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    sigma: Any = 0.0,
    dtype: Any = jnp.float32,
    live_n: Any = None,
    live_d: Any = None,
) -> Instance:
    """Draw measurements, truth and data.

    Args:
      key: a JAX key.
      n, d: sizes of the arrays (static).
      r: true rank; may be traced.
      kappa: condition number l_1 / l_r, eigenvalues geometric between; without effect at r = 1.
      scale: Frobenius norm of M*.
      sigma: noise standard deviation, in units of y (equal to those of M*).
      dtype: of y, truth and factor.
      live_n, live_d: how many measurements and dimensions are alive; the rest is padding, zero everywhere. May be
        traced.

    Returns:
      The `Instance`. The measurements are packed Gaussian: ``svec(A_i) ~ N(0, I)``, the law of the symmetric part of an
      iid Gaussian matrix, so ``E <A_i, X>^2 = ||X||_F^2``.
    """
    return make_instance(
        *normals(key, *instance_blocks(n, d)),
        r=r,
        kappa=kappa,
        scale=scale,
        sigma=sigma,
        dtype=dtype,
        live_n=live_n,
        live_d=live_d,
    )


def instance_blocks(n: int, d: int) -> tuple[Block, Block]:
    """What `make_instance` needs drawn: for callers that draw more with the same call of the generator."""
    # The noise is the first entry of its measurement's row.
    return Block(MEASUREMENTS, n, 1 + packed_size(d)), Block(TRUTH, d, d)


def make_instance(
    measurements: Float[Array, "n columns"],
    directions: Float[Array, "d d"],
    *,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    sigma: Any = 0.0,
    dtype: Any = jnp.float32,
    live_n: Any = None,
    live_d: Any = None,
) -> Instance:
    """`draw_instance` of numbers drawn already.

    Args:
      measurements, directions: standard normal, float32, for the blocks of `instance_blocks`.
      r, kappa, scale, sigma, dtype, live_n, live_d: as in `draw_instance`.
    """
    n, d = measurements.shape[0], directions.shape[0]
    live_n = n if live_n is None else live_n
    d_number = jnp.asarray(d if live_d is None else live_d, jnp.int32)
    live = jnp.arange(n, dtype=jnp.int32) < live_n
    inside = jnp.arange(packed_size(d), dtype=jnp.int32) < (d_number * (d_number + 1)) // 2
    rows = jnp.where(live[:, None] & inside, measurements[:, 1:], 0)
    noise = jnp.where(live, measurements[:, 0], 0).astype(dtype)
    factor = make_truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=d_number)
    truth = factor @ factor.T
    operator = PackedOperator(rows)
    y = cast(operator, dtype).apply(truth) + jnp.asarray(sigma, dtype) * noise
    return Instance(operator, jnp.where(live, y, 0), truth, factor)


def draw_truth(
    key: Array, *, d: int, r: Any, kappa: Any = 1.0, scale: Any = 1.0, dtype: Any = jnp.float32, live_d: Any = None
) -> Float[Array, "d d"]:
    """A factor U* [d, d] of a random rank-r matrix.

    Uniform eigenvectors, eigenvalues geometric from l_1 to l_1/kappa, ``||U* U*ᵀ||_F = scale``.
    """
    (directions,) = normals(key, Block(TRUTH, d, d))
    return make_truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=live_d)


def make_truth(
    directions: Float[Array, "d h"],
    *,
    r: Any,
    kappa: Any = 1.0,
    scale: Any = 1.0,
    dtype: Any = jnp.float32,
    live_d: Any = None,
    field: Field = "real",
) -> Inexact[Array, "d d"]:
    """`draw_truth` of numbers drawn already.

    Args:
      directions: standard normal, float32: [d, d], or [d, 2d] with real and imaginary parts in turn.
      r, kappa, scale, dtype, live_d: as in `draw_instance`.
      field: of M.
    """
    d = directions.shape[0]
    live = d if live_d is None else live_d
    place = jnp.arange(d, dtype=jnp.int32)
    drawn = directions.astype(dtype)
    # A row of draws for each column, so that padding either side leaves the leading block.
    gaussian = drawn.T if field == "real" else jax.lax.complex(drawn[:, 0::2].T, drawn[:, 1::2].T)
    # Its first r columns depend on the first r of the Gaussian alone.
    basis = jnp.linalg.qr(jnp.where(place[:, None] < live, gaussian, 0))[0]
    wide = jnp.maximum(jnp.asarray(r, dtype) - 1, 1)
    eigenvalues = jnp.where(place < r, jnp.asarray(kappa, dtype) ** (-place.astype(dtype) / wide), 0)
    eigenvalues = eigenvalues * (jnp.asarray(scale, dtype) / jnp.linalg.norm(eigenvalues))
    return basis * jnp.sqrt(eigenvalues).astype(basis.dtype)


def _make(draws: Any, *, rows: int, d: int, **law: Any) -> Instance:
    return make_instance(*draws, **law)


GAUSSIAN = Family(
    name="gaussian",
    subject="sensing/packed-gaussian",
    field="real",
    rows=lambda n, d: n,
    blocks=instance_blocks,
    make=_make,
    dof=theory.dof,
    most=lambda d: None,
)
