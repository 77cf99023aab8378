"""The optimal brain surgeon for groups: what the best update of all other weights leaves of the loss, and that update.

The curvature is the Hessian, made whole, or the Fisher matrix of the samples, :math:`F = G^T G / N` with their gradients as rows of G:
then all algebra is on N by N matrices, and networks of any width have it.

Source: Hassibi and Stork (1993); the Fisher matrix in place of the Hessian: Singh and Alistarh (2020), arXiv:2004.14340; the forms for
groups are derived (ours).
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from pruneft.network.families import Families, Family
from pruneft.network.groupwise import STATISTICS, Groups, Loss, Scores, floating
from pruneft.network.surgery import zeroed
from pruneft.network.trees import kept_beside

_MOST = 6000  # numbers whose Hessian is still made whole


def obs_update(
    params: Any,
    families: Families,
    keep: dict[str, Any],
    *,
    loss: Loss,
    batch: Any,
    curvature: str = "hessian",
    damping: float = 1e-4,
) -> Any:
    r"""The parameters with all removed producers at zero and those that stay moved so that, to second order, the loss rises least.

    With R the entries of removed producers, and S what stays (all but R and the consumers of what is removed),
    :math:`dw_S = H_{SS}^{-1} H_{SR} w_R`, H the curvature plus damping I.

    Args:
      params: the parameters.
      families: of the model.
      keep: {family: boolean [n]}; families that are not named stay. May be traced.
      loss: (params, batch) -> mean loss over the samples of the batch.
      batch: pytree whose leaves have the samples along their first axis.
      curvature: ``"hessian"``, exact, for networks of up to 6000 numbers; ``"fisher"``, of the gradients of the samples, for any.
      damping: in units of the curvature; positive with ``"fisher"``.

    Raises:
      ValueError: the Hessian would be too large, the curvature is unknown or the damping out of range.
    """
    _check(curvature, damping)
    given, whole = floating(params)
    stays, goes = _roles(params, families, keep)
    floats, value = _wide(given, lambda weights, samples: loss(whole(weights), samples))
    flat, back = ravel_pytree(floats)
    removed = jnp.where(goes, flat, 0)
    if curvature == "fisher":
        slopes = jax.vmap(lambda each: ravel_pytree(each)[0])(_slopes(value, floats, batch))
        mine = jnp.where(stays, slopes, 0)
        gram = mine @ mine.T + slopes.shape[0] * damping * jnp.eye(slopes.shape[0], dtype=flat.dtype)
        moved = mine.T @ _solve(gram, slopes @ removed)
    else:
        hessian = _hessian(value, floats, batch, damping)
        # What does not move has a one on the diagonal, and nothing to do with the others.
        both = stays[:, None] & stays[None, :]
        alone = jnp.where(both, hessian, jnp.diag(jnp.where(stays, 0, 1).astype(flat.dtype)))
        moved = jnp.linalg.solve(alone, jnp.where(stays, hessian @ removed, 0))
    found = back(jnp.where(goes, 0, flat + moved))
    return whole({name: leaf.astype(given[name].dtype) for name, leaf in found.items()})


def scores(groups: Groups, value: Loss, floats: dict[str, Array], batch: Any, curvature: str, damping: float) -> Scores:
    """Half the loss that the best update of all other numbers leaves, :math:`w_g^T ([H^{-1}]_{gg})^{-1} w_g / 2`."""
    _check(curvature, damping)
    floats, value = _wide(floats, value)
    if curvature == "fisher":
        return _scores_by_samples(groups, value, floats, batch, damping)
    flat, _ = ravel_pytree(floats)
    inverse = jnp.linalg.inv(_hessian(value, floats, batch, damping))
    found = {}
    for family in groups.families:
        rows = groups.mask(family, floats)
        size = groups.size(family, floats)

        def of(mask: Array, size: int = size) -> Array:
            mine = jnp.flatnonzero(mask, size=size)
            return flat[mine] @ jnp.linalg.solve(inverse[jnp.ix_(mine, mine)], flat[mine]) / 2

        found[family.name] = jax.lax.map(of, rows)
    return found


def _scores_by_samples(groups: Groups, value: Loss, floats: dict[str, Array], batch: Any, damping: float) -> Scores:
    r"""The same of the Fisher matrix: :math:`\mu |w_g|^2 + \mu u^T (N \mu I + G_{-g} G_{-g}^T)^{-1} u` with :math:`u = G_g w_g`.

    By Woodbury's identity, twice; sums of squares alone, so that nothing cancels.
    """
    slopes = _slopes(value, floats, batch)
    samples = jax.tree.leaves(batch)[0].shape[0]
    gram = samples * damping * jnp.eye(samples, dtype=ravel_pytree(floats)[0].dtype)
    for leaf in slopes.values():
        rows = leaf.reshape(samples, -1)
        gram = gram + rows @ rows.T
    alone = {name: leaf[None] for name, leaf in floats.items()}

    def of(group: tuple[Array, Array]) -> Array:
        mine, weights = group
        along = mine @ weights
        return damping * (weights @ weights + along @ _solve(gram - mine @ mine.T, along)) / 2

    found = {}
    for family in groups.families:
        weights = _entries(groups, family, alone)[:, 0]
        found[family.name] = jax.lax.map(of, (_entries(groups, family, slopes), weights))
    return found


def _wide(floats: dict[str, Array], value: Loss) -> tuple[dict[str, Array], Loss]:
    """Weights in float32 at least, because nothing narrower can be factorised, and the loss that takes them."""
    kinds = {name: leaf.dtype for name, leaf in floats.items()}
    wide = {n: w.astype(jnp.float32) if jnp.finfo(w.dtype).bits < 32 else w for n, w in floats.items()}
    return wide, lambda weights, samples: value({n: w.astype(kinds[n]) for n, w in weights.items()}, samples)


def _entries(groups: Groups, family: Family, rows: dict[str, Array]) -> Float[Array, "n rows s"]:
    """What each group has of each row; a row is a set of parameters."""
    count = jax.tree.leaves(rows)[0].shape[0]
    parts = [jnp.zeros((family.width, count, 0), jnp.result_type(*rows.values()))]  # nothing, where no member counts
    for member in groups.members[family.name]:
        first = jnp.moveaxis(rows[member.path], member.axis + 1, 0)[member.indices]  # [n, r, rows, ...]
        parts.append(jnp.moveaxis(first, 2, 1).reshape(family.width, first.shape[2], -1))
    return jnp.concatenate(parts, axis=-1)


def _roles(params: Any, families: Families, keep: dict[str, Any]) -> tuple[Bool[Array, " p"], Bool[Array, " p"]]:
    """Of all numbers in one row: which stay and may move, and which are removed producers. Running averages are neither."""
    beside = kept_beside(params)
    floats = {
        name: jnp.full(leaf.shape, not (name in beside or re.search(STATISTICS, name)), leaf.dtype)
        for name, leaf in floating(params)[0].items()
    }
    moving = ravel_pytree(zeroed(floats, families, keep))[0] > 0
    produced = ravel_pytree(zeroed(floats, families, keep, role="producer"))[0] > 0
    return moving, (ravel_pytree(floats)[0] > 0) & ~produced


def _slopes(value: Loss, floats: dict[str, Array], batch: Any) -> dict[str, Array]:
    """The gradient of every sample, samples along the first axis."""

    def of(sample: Any) -> dict[str, Array]:
        return jax.grad(value)(floats, jax.tree.map(lambda leaf: leaf[None], sample))

    return jax.lax.map(of, batch)


def _solve(positive: Array, right: Array) -> Array:
    """By Cholesky's factors."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(positive), right)


def _hessian(value: Loss, floats: dict[str, Array], batch: Any, damping: float) -> Array:
    flat, back = ravel_pytree(floats)
    if flat.size > _MOST:
        raise ValueError(
            f"the Hessian of {flat.size} numbers is too large to make (at most {_MOST}): take curvature='fisher', or the criterion "
            "'hessian', 'obd' or 'fisher'."
        )
    hessian = jax.hessian(lambda weights: value(back(weights), batch))(flat)
    return hessian + damping * jnp.eye(flat.size, dtype=flat.dtype)


def _check(curvature: str, damping: float) -> None:
    if curvature not in ("hessian", "fisher"):
        raise ValueError(f"curvature must be 'hessian' or 'fisher': got {curvature!r}.")
    # The Fisher matrix has at most as many ranks as there are samples.
    if not (damping >= 0 if curvature == "hessian" else damping > 0):
        least = "must not be negative" if curvature == "hessian" else "must be positive with curvature='fisher'"
        raise ValueError(f"damping {least}: got {damping}.")
