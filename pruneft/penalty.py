"""Group norms.

The penalty that makes columns sparse, its smooth version, its prox, and the gap that certifies a factor prunable.
"""

from __future__ import annotations

from numbers import Real

import jax.numpy as jnp
from jaxtyping import Array, Float

Axis = int | tuple[int, ...]
Scalar = float | Float[Array, "..."]


def group_norms(groups: Float[Array, "..."], *, axis: Axis = -2) -> Float[Array, "..."]:
    """Euclidean norm of every group, with a gradient that is zero (not NaN) at a zero group.

    Args:
      groups: any array; by default its last two axes are a matrix [d, k] whose k columns are the groups.
      axis: the axis or axes that run *inside* a group; -2 for columns, -1 for rows, (0, 1, 2) for the filters of an
        HWIO kernel.

    Returns:
      The norms, ``axis`` removed, in units of ``groups``.
    """
    squares = jnp.sum(jnp.square(groups), axis=axis)
    positive = squares > 0
    # Two `where`s: the inner one keeps the square root away from zero, whose infinite slope would make 0 * inf in the
    # gradient.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def group_norm(groups: Float[Array, "..."], *, axis: Axis = -2) -> Float[Array, ""]:
    """Sum of the norms of all groups: the group Lasso penalty of Yuan and Lin (2006), in units of ``groups``.

    Not differentiable at a zero group; the subgradient 0 is returned there. Arguments as in `group_norms`.
    """
    return jnp.sum(group_norms(groups, axis=axis))


def smoothed_group_norm(groups: Float[Array, "..."], beta: Scalar, *, axis: Axis = -2) -> Float[Array, ""]:
    r"""Smooth version of the group Lasso norm.

    .. math:: R_\beta(U) = \sum_{j=1}^{k} \frac{\|u_j\|^2}{\sqrt{\|u_j\|^2 + \beta}}

    Tends to the sum of group norms as ``beta`` goes to zero, never exceeds it, and falls short of it by at most
    ``sqrt(beta)`` per group. The gradient with respect to a group is ``u (q + 2 beta) / (q + beta)^1.5`` with ``q =
    ||u||^2``: zero at a zero group, so a padded group stays where it is, and close to weight decay of strength ``2 /
    sqrt(beta)`` for groups of norm below ``sqrt(beta)``.

    Args:
      groups: [..., d, k] by default, one group per column, in the units of the factor U.
      beta: smoothing, in squared units of U; must be positive. May be an array that broadcasts against the groups.
      axis: the axis or axes inside a group, as in `group_norms`.

    Returns:
      A scalar, in units of U: the sum over all groups.

    Raises:
      ValueError: ``beta`` is a Python number that is not positive.

    Source: Rajaraman, Devvrit, Mokhtari and Ramchandran (2023), arXiv:2303.11453, who use a smooth group Lasso; this
    form of it and its derivatives are ours.
    """
    check_beta(beta)
    squares = jnp.sum(jnp.square(groups), axis=axis)
    return jnp.sum(squares / jnp.sqrt(squares + beta))


def smoothed_group_norm_gradient(groups: Float[Array, "..."], beta: Scalar, *, axis: Axis = -2) -> Float[Array, "..."]:
    """Gradient of `smoothed_group_norm`, in closed form: what an inner loop wants. Arguments and errors as there; dimensionless.

    ``beta`` broadcasts against the groups with ``axis`` kept as length 1, so it may differ from one leading index (a
    lane) to the next.
    """
    check_beta(beta)
    squares = jnp.sum(jnp.square(groups), axis=axis, keepdims=True)
    shifted = squares + beta
    return groups * ((squares + 2 * beta) / (shifted * jnp.sqrt(shifted)))


def prox_group_norm(groups: Float[Array, "..."], step: Scalar, *, axis: Axis = -2) -> Float[Array, "..."]:
    """Proximal map of ``step * group_norm``: every group shrunk by ``step`` in norm, and to exactly zero where its norm is below it.

    The minimiser over X of ``0.5 ||X - groups||^2 + step * group_norm(X)``.

    Args:
      groups: as in `group_norms`.
      step: how much to shrink, in units of ``groups``; not negative.
      axis: as in `group_norms`.

    Raises:
      ValueError: ``step`` is a negative Python number.
    """
    if isinstance(step, Real) and not step >= 0:
        raise ValueError(f"step of the prox must not be negative: got {step}.")
    norms = jnp.expand_dims(group_norms(groups, axis=axis), axis)
    live = norms > step
    return jnp.where(live, groups * (1 - step / jnp.where(live, norms, 1)), 0)


def prunability_gap(factor: Float[Array, "*batch d k"], *, relative: bool = True) -> Float[Array, "*batch"]:
    r"""How far a factor is from one that pruning cannot hurt: ``sum_j ||u_j|| - tr (U U^T)^(1/2)``.

    Among all factors of the same matrix M = U Uᵀ the sum of column norms is least, and equal to ``tr M^(1/2)`` (the
    Schatten-1/2 quasi-norm of M, to the power one half), exactly where the nonzero columns are rank(M) mutually
    orthogonal eigenvectors ``sqrt(l_i) v_i``. So the gap is never negative, and where it is zero the zero columns can
    be pruned without loss and no further column can go.

    Args:
      factor: [..., d, k], the columns are the groups.
      relative: divide by ``tr M^(1/2)``; the zero factor has gap 0.

    Returns:
      [...], the gap; dimensionless if ``relative``, else in units of the factor.

    Source: a majorisation argument of ours (the squared column norms of V L^(1/2) Q are majorised by the eigenvalues,
    and the square root is concave). It certifies that pruning loses nothing, not that the factor is correct.
    """
    total = jnp.sum(group_norms(factor), axis=-1)
    least = jnp.sum(jnp.linalg.svd(factor, compute_uv=False), axis=-1)
    gap = total - least
    if not relative:
        return gap
    positive = least > 0
    return jnp.where(positive, gap / jnp.where(positive, least, 1), 0)


def check_beta(beta: Scalar) -> None:
    """Raise a ValueError if ``beta`` is a Python number that is not positive; traced values pass."""
    if isinstance(beta, Real) and not beta > 0:
        raise ValueError(
            f"beta (smoothing of the group norm) must be positive: got {beta}. Use group_norm for the unsmoothed norm."
        )
