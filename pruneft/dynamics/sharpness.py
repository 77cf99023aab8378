"""Sharpness: the largest eigenvalues of the Hessian of a loss, with residuals that say whether to believe them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pruneft.dynamics import lanczos
from pruneft.dynamics.curvature import Loss, Params, flatten
from pruneft.status import Status

NOISE = 1e-3  # of a warm start: an eigenvector that it lacks is seen all the same
REST = 0.3  # weight of the further eigenvectors in a warm start


class Sharpness(NamedTuple):
    """The largest eigenvalues of a Hessian.

    Attributes:
      eigenvalues: [k], falling, in units of loss per squared parameter; the first is the sharpness. NaN where ``status`` is not
        CONVERGED, unless `sharpness` was told to keep them.
      eigenvectors: a pytree like the parameters with a new leading axis k, orthonormal.
      residuals: [k], ``||H u - l u||`` over the largest absolute eigenvalue seen. The eigenvalue is off by at most that much, mostly by
        its square; the eigenvector by it over the relative distance to the next eigenvalue.
      products: Hessian-vector products that were made, each about two gradients.
      status: CONVERGED, BUDGET_SPENT (residuals above the tolerance) or NOT_FINITE.
    """

    eigenvalues: Float[Array, " k"]
    eigenvectors: Any
    residuals: Float[Array, " k"]
    products: Int[Array, ""]
    status: Int[Array, ""]


def sharpness(
    loss: Loss,
    params: Params,
    k: int = 1,
    *,
    key: Array | None = None,
    previous: Sharpness | None = None,
    tol: float | None = None,
    width: int | None = None,
    block: int = lanczos.BLOCK,
    most: int = 400,
    check: bool | None = None,
    keep: bool = False,
) -> Sharpness:
    """The k largest eigenvalues of the Hessian of ``loss`` at ``params``, their vectors and residuals.

    Lanczos with full re-orthogonalisation, without the Hessian; safe under jit (jit it: every call without compiles anew) and vmap. Cost:
    some 24 products from a cold start, 8 to 12 from the result at a point nearby. With ReLU activations it is the sharpness of the
    current linear piece.

    Args:
      loss: params -> scalar, closed over its data.
      params: pytree of float32 or of float64.
      k: how many, at most the number of parameters.
      key: for the random start and for directions that the start may lack; a fixed one if not given.
      previous: result at a point nearby, with any k: start, and the signs of the vectors follow it. Without it the entry of largest size
        of each vector is positive.
      tol: residual to reach; the root of the rounding unit if not given, 1.5e-8 in float64 and 3.5e-4 in float32.
      width: directions kept, 2 [width, n] numbers of memory beside what one linearised gradient holds; at least 2 k + block. 20,
        or 4 k if that is more, if not given.
      block: products between two looks at the residuals.
      most: products after which it gives up.
      check: before the residuals are believed, look for what the start may have missed, from a random direction (4 products). If not
        given: yes, but for k = 1 with ``previous``, whose start has a random part anyway.
      keep: return the eigenvalues that missed the tolerance too, instead of NaN.

    Raises:
      ValueError: k or width out of range, a vector-valued loss, leaves of other types, or ``previous`` of another shape.

    Source: the start ``u_1 + 0.3 u_2`` and all constants are measured, ours.
    """
    flat, theta, back = flatten(loss, params)
    n = theta.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k (eigenpairs) must be from 1 to the number of parameters, {n}: got {k}.")
    width = max(20, 4 * k) if width is None else width
    if block < 1:
        raise ValueError(f"block must be at least 1: got {block}.")
    if width < min(2 * k + block, n):
        raise ValueError(f"width must be at least 2 k + {block} = {2 * k + block}: got {width}.")
    if tol is None:
        tol = float(jnp.finfo(theta.dtype).eps) ** 0.5
    if check is None:
        check = previous is None or k > 1
    first, second = jax.random.split(jax.random.key(0) if key is None else key)
    if previous is None:
        start = jax.random.normal(first, (n,), theta.dtype)
    else:
        noise = _noise(first, theta)
        old = _rows(previous, theta)
        rest = jnp.full(old.shape[0], REST, theta.dtype).at[0].set(1)
        start = rest @ old + NOISE / n**0.5 * noise
        # Vectors that are not finite belong to a point where there were none.
        start = jnp.where(jnp.all(jnp.isfinite(start)), start, noise)

    _, product = jax.linearize(jax.grad(flat), theta)
    pairs = lanczos.top(product, start, second, k=k, width=width, block=block, most=most, tol=tol, check=check)
    if previous is None:
        sign = _sign(jnp.take_along_axis(pairs.vectors, jnp.argmax(jnp.abs(pairs.vectors), axis=1)[:, None], axis=1))
    else:
        overlap = pairs.vectors @ old.T
        sign = _sign(jnp.take_along_axis(overlap, jnp.argmax(jnp.abs(overlap), axis=1)[:, None], axis=1))
    finite = jnp.all(jnp.isfinite(pairs.values)) & jnp.all(jnp.isfinite(pairs.residuals))
    failed = jnp.where(finite, Status.BUDGET_SPENT, Status.NOT_FINITE)
    status = jnp.where(pairs.converged & finite, Status.CONVERGED, failed).astype(jnp.int32)
    values = pairs.values if keep else jnp.where(status == Status.CONVERGED, pairs.values, jnp.nan)
    return Sharpness(values, jax.vmap(back)(pairs.vectors * sign), pairs.residuals, pairs.products, status)


def _noise(key: Array, like: Array) -> Array:
    """Numbers from -1 to 1 by a hash of their places (the finaliser of MurmurHash3).

    JAX's own generator takes as long as two gradients of a small network do, in every call.
    """
    mixed = jax.lax.iota(jnp.uint32, like.shape[0]) * jnp.uint32(0x9E3779B9) + jax.random.bits(key, dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jax.lax.bitcast_convert_type(mixed ^ (mixed >> 16), jnp.int32).astype(like.dtype) / 2**31


def _rows(previous: Sharpness, theta: Array) -> Array:
    """The eigenvectors as rows.

    Raises:
      ValueError: they do not fit the parameters.
    """
    leaves = jax.tree.leaves(previous.eigenvectors)
    rows = jnp.concatenate([jnp.reshape(leaf, (leaf.shape[0], -1)) for leaf in leaves], axis=1)
    if rows.shape[1] != theta.shape[0]:
        raise ValueError(
            f"previous: expected eigenvectors of {theta.shape[0]} parameters, got {rows.shape[1]}. Pass the result for the same model."
        )
    return rows.astype(theta.dtype)


def _sign(values: Array) -> Array:
    return jnp.where(values < 0, -1, 1).astype(values.dtype)
