r"""Neural isometry conditions: when the planted neurons are the interpolant of minimal norm, from the data alone.

Let S be the planted blocks, with directions :math:`\hat w_i = w_i / \|w_i\|` and signs :math:`s_i` of the second layer. The least
certificate on the support is :math:`\lambda = (A_S^T)^+ [s_1 \hat w_1; \ldots; s_k \hat w_k]`, and the condition is

.. math:: \|A_j^T \lambda\| < 1 \quad\text{for every block j outside S.}

==========  ==========================================  =================================================
name        planted                                     blocks
==========  ==========================================  =================================================
NIC-L       the linear block of a skip connection       :math:`A_j = D_j X`
NIC-1       one ReLU neuron                             the same
NIC-k       k ReLU neurons                              the same
NNIC-1, k   one or k normalised ReLU neurons            :math:`A_j = U_j`, :math:`w_i` in the basis of U_i
==========  ==========================================  =================================================

The conditions are sufficient for recovery and not necessary. They are about the patterns in `Blocks.D` alone: a condition over
sampled patterns says nothing about those that were not drawn.

Ties: NIC-1 holds with equality for every pattern that contains the planted one, because then ``D_j D_i = D_i``; among all patterns such
neighbours exist as a rule, so the strict condition "for every other pattern" is a statement about sampled ones. The normalised
conditions have no such tie.

Source: Wang, Hua, Candes, Pilanci, arXiv:2209.15265; the remark on ties ours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pruneft.relu.planted.blocks import Blocks

STRICT = {
    8: 1e-9,
    4: 1e-4,
}  # by bytes of a number: how far below 1 counts as below, and how well a certificate must fit
_RANK = {8: 1e-11, 4: 1e-5}


class Isometry(NamedTuple):
    """What a condition comes to; a pytree.

    Attributes:
      worst: the largest ``||A_j^T nu||`` over the blocks that are neither planted nor padding; 0 if there are none.
      misfit: largest ``||A_i^T nu - s_i w_i||`` over the planted blocks; not zero where their equations contradict each other, as they
        may once k d is above n, and then the condition does not hold.
      holds: whether it does: ``worst`` below 1 and ``misfit`` zero, to a tolerance of 1e-9 (1e-4 in float32).
      nu: [n] the certificate, in the notation above lambda.
    """

    worst: Float[Array, ""]
    misfit: Float[Array, ""]
    holds: Bool[Array, ""]
    nu: Float[Array, " n"]


def coordinates(blocks: Blocks, column: int | Int[Array, ""], w: Float[Array, " d"]) -> Float[Array, " d"]:
    """Weights ``w`` of a neuron in the coordinates of its block; those of unit output for the normalised model."""
    if blocks.model != "normalised":
        return w
    inside = blocks.U[:, :, column].T @ (blocks.D[:, column] * (blocks.X @ w))
    size = jnp.linalg.norm(inside)
    return inside / jnp.where(size > 0, size, 1)


def nic_linear(blocks: Blocks, w: Float[Array, " d"]) -> Isometry:
    """NIC-L of a linear neuron with weights ``w`` [d]; over the patterns of a skip-connection model.

    Raises:
      ValueError: the model has no linear block, or ``w`` is zero.
    """
    if blocks.model != "skip":
        raise ValueError(
            f"a linear neuron is planted in a network with a skip connection: got model {blocks.model!r}, expected 'skip'."
        )
    return isometry(blocks, jnp.zeros(1, jnp.int32), w[:, None])


def nic(
    blocks: Blocks,
    patterns: Int[Array, " k"],
    w: Float[Array, "d k"],
    signs: Float[Array, " k"] | None = None,
) -> Isometry:
    """NIC-k, or NNIC-k for the normalised model, of k neurons; NIC-1 and NNIC-1 for k = 1.

    Args:
      blocks: data and patterns, the planted ones among them.
      patterns: [k] the column of ``blocks.D`` of every planted neuron.
      w: [d, k] their weights, in the coordinates of the data.
      signs: [k] of the second layer, 1 or -1; all 1 if None.

    Raises:
      ValueError: there are more planted neurons than features or patterns, shapes do not fit, or a neuron is zero.
    """
    k = w.shape[1]
    if patterns.shape != (k,) or w.shape[0] != blocks.d:
        raise ValueError(
            f"expected one column of D for each of the k planted neurons and weights [d, k] with d={blocks.d}: "
            f"got {patterns.shape} and {w.shape}."
        )
    if not 1 <= k <= min(blocks.d, blocks.P):
        raise ValueError(
            f"k (planted neurons) must be at least 1 and at most d={blocks.d} features and P={blocks.P} patterns: got k={k}."
        )
    columns = jnp.asarray(patterns, jnp.int32) + blocks.first
    inside = jax.vmap(lambda j, w: coordinates(blocks, j, w), in_axes=(0, 1), out_axes=1)(patterns, w)
    return isometry(blocks, columns, inside if signs is None else inside * signs, given=w)


def isometry(
    blocks: Blocks, planted: Int[Array, " k"], w: Float[Array, "d k"], *, given: Float[Array, "d k"] | None = None
) -> Isometry:
    """The condition for any planted blocks, the linear one included: what the named ones are made of.

    Args:
      blocks: data and patterns.
      planted: [k] columns of W (`Blocks.first` is that of the first pattern).
      w: [d, k] in the coordinates of the blocks, with the signs of the second layer.
      given: [d, k] what the caller gave, to be named in the error; ``w`` itself if None.

    Raises:
      ValueError: a planted neuron is zero (under jit ``worst`` is infinite instead).
    """
    _none_zero(w if given is None else given)
    dtype = blocks.X.dtype
    size = jnp.linalg.norm(w, axis=0)
    targets = w / jnp.where(size > 0, size, 1)
    if blocks.model == "normalised":
        support = jnp.moveaxis(blocks.U[:, :, planted], 2, 0)
    else:
        support = blocks.S[:, planted].T[:, :, None] * blocks.X
    stacked = jnp.concatenate(list(support), axis=1)  # [n, k d]
    left, values, right = jnp.linalg.svd(stacked, full_matrices=False)
    inside = values > _RANK[dtype.itemsize] * values[0]
    nu = left @ (jnp.where(inside, 1 / jnp.where(inside, values, 1), 0) * (right @ targets.T.reshape(-1)))
    pulled = blocks.adjoint(nu)
    misfit = jnp.max(jnp.linalg.norm(pulled[:, planted] - targets, axis=0))
    others = blocks.live.at[planted].set(False)
    worst = jnp.max(jnp.where(others, jnp.linalg.norm(pulled, axis=0), 0))
    worst = jnp.where(jnp.all(size > 0), worst, jnp.inf)
    strict = STRICT[dtype.itemsize]
    return Isometry(worst, misfit, (worst < 1 - strict) & (misfit <= strict), nu)


def _none_zero(w: Float[Array, "d k"]) -> None:
    if isinstance(w, jax.core.Tracer):
        return
    zero = np.flatnonzero(~np.any(np.asarray(w), axis=0))
    if zero.size:
        raise ValueError(
            f"planted neuron {zero[0]} (from 0) is zero, and has no direction: give weights that are not all zero."
        )
