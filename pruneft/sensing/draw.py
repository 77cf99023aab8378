"""Drawing instances of Gaussian matrix sensing: measurements, a truth of given rank and conditioning, and data.

Draws belong to the trial: entry j of measurement i is a function of the trial's key, i and j alone (`pruneft.random`), so
an instance is the same, bit for bit, whatever it is padded to and whatever else is drawn beside it. They are made in
float32 and cast, so float32 and float64 see the same instance too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.random import Block, normals
from pruneft.sensing.operator import PackedOperator, cast
from pruneft.sensing.packing import packed_size

_MEASUREMENTS, _TRUTH = 0, 1  # streams; 2 is that of the starting factors (`pruneft.sensing.lane`)


class Instance(NamedTuple):
    """One drawn problem.

    Attributes:
      operator: packed Gaussian measurements, float32 (exact in float64 too).
      y: [n] data, ``<A_i, M*> + sigma e_i``.
      truth: [d, d], M*.
      factor: [d, d], U* with M* = U* U*ᵀ; columns beyond r are zero.
    """

    operator: PackedOperator
    y: Float[Array, "n"]
    truth: Float[Array, "d d"]
    factor: Float[Array, "d d"]


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
    return Block(_MEASUREMENTS, n, 1 + packed_size(d)), Block(_TRUTH, d, d)


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
    factor = _truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=d_number)
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
    (directions,) = normals(key, Block(_TRUTH, d, d))
    return _truth(directions, r=r, kappa=kappa, scale=scale, dtype=dtype, live_d=d if live_d is None else live_d)


def _truth(
    directions: Float[Array, "d d"], *, r: Any, kappa: Any, scale: Any, dtype: Any, live_d: Any
) -> Float[Array, "d d"]:
    d = directions.shape[0]
    # A row of draws for each column, so that padding either side leaves the leading block.
    gaussian = jnp.where(jnp.arange(d, dtype=jnp.int32)[:, None] < live_d, directions.T, 0).astype(dtype)
    basis = jnp.linalg.qr(gaussian)[0]  # its first r columns depend on the first r of the Gaussian alone
    place = jnp.arange(d, dtype=jnp.int32)
    wide = jnp.maximum(jnp.asarray(r, dtype) - 1, 1)
    eigenvalues = jnp.where(place < r, jnp.asarray(kappa, dtype) ** (-place.astype(dtype) / wide), 0)
    eigenvalues = eigenvalues * (jnp.asarray(scale, dtype) / jnp.linalg.norm(eigenvalues))
    return basis * jnp.sqrt(eigenvalues)
