"""The matrix that the second-order cone and the rows of a neuron's cone make of its block, inverted without loss of digits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pruneft.relu.planted.cones import Scaling


class Frame(NamedTuple):
    """T of every block in a basis that begins with the block's ray, as factors.

    T nearly vanishes along the ray of a block that is not zero, and is large across the rows that hold it: only in this basis, and scaled
    to a unit diagonal, do its inverse and the rows of the cones keep all their digits.

    Attributes:
      v: [d, p] the reflection ``I - 2 v v^T`` into the basis.
      rows: [n, d, 2, P] the rows of the cones, in the basis, with their signs.
      root: [d, p] square roots of the diagonal.
      inverse: [p, d, d] of the scaled matrix.
    """

    v: Float[Array, "d p"]
    rows: Float[Array, "n d 2 P"]
    root: Float[Array, "d p"]
    inverse: Float[Array, "p d d"]

    def turned(self, W: Float[Array, "d p"]) -> Float[Array, "d p"]:
        """Into the basis, or back."""
        return W - 2 * self.v * jnp.sum(self.v * W, axis=0)

    def solve(self, right: Float[Array, "d p"]) -> Float[Array, "d p"]:
        """``T^{-1}`` times vectors in the basis."""
        return jnp.einsum("pde,ep->dp", self.inverse, right / self.root) / self.root


def frame_of(
    C: Float[Array, "n d *own"], E: Float[Array, "n P"], first: int, scaling: Scaling, ratio: Float[Array, "n 2 P"]
) -> Frame:
    """The frame at a point.

    Args:
      C: [n, d] or [n, d, P], rows of the cones.
      E: [n, P] their signs.
      first: how many blocks without rows come before the pairs.
      scaling: of the second-order cones, [first + 2 P].
      ratio: [n, 2, P] multipliers of the rows over their values.
    """
    (a, b), c, d = scaling.vector, scaling.size**2, C.shape[1]
    length = jnp.linalg.norm(b, axis=0)
    start = jnp.zeros_like(b).at[0].set(1)
    ray = jnp.where(length > 0, b / jnp.where(length > 0, length, 1), start)
    v = ray + jnp.where(ray[0] >= 0, 1, -1).astype(b.dtype) * start
    v = v / jnp.linalg.norm(v, axis=0)
    sides = v[:, first:].reshape(d, 2, -1)
    equation = "nd,dkp->nkp" if C.ndim == 2 else "ndp,dkp->nkp"
    across = jnp.einsum(equation, C, sides)
    own = C[:, :, None, None] if C.ndim == 2 else C[:, :, None, :]
    rows = E[:, None, None] * (own - 2 * across[:, None] * sides)
    T = jax.vmap(jnp.diag, 1)(jnp.ones_like(b).at[0].set(1 / (2 * a**2 - 1)) / c)
    T = T.at[first:].add(jnp.einsum("ndkp,nkp,nekp->kpde", rows, ratio, rows).reshape(-1, d, d))
    root = jnp.sqrt(jnp.diagonal(T, axis1=1, axis2=2))
    inverse = jnp.linalg.inv(T / root[:, :, None] / root[:, None, :])
    return Frame(v, rows, root.T, inverse)


def inverses(frame: Frame) -> Float[Array, "p d d"]:
    """T^{-1} of every block in its own coordinates."""
    v, root = frame.v, frame.root.T
    inverse = frame.inverse / root[:, :, None] / root[:, None, :]
    inverse = inverse - 2 * jnp.einsum("dp,ep,pef->pdf", v, v, inverse)
    inverse = inverse - 2 * jnp.einsum("pde,ep,fp->pdf", inverse, v, v)
    return (inverse + jnp.swapaxes(inverse, 1, 2)) / 2
