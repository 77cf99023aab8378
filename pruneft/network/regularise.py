r"""Group Lasso on the units of a network: a smooth penalty for the loss, and the proximal step.

Only the arrays that make a unit (producers) are penalised, so every number belongs to one group and the prox is separable.

On the digits (dense 64-128-128-10, Adam, a quarter of the width, 1386 steps, four seeds) thresholding alone gave 97.1 percent, and with
this prox at lam = 0.3 before it 94.8; after one-shot removal and fine-tuning it made no difference either. It buys accuracy before
fine-tuning only, so it is off unless asked for. The smoothed norm makes no exact zeros: threshold, or use the proximal step.

Source: Yuan, Lin (2006); Wen et al. (2016), arXiv:1608.03665.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pruneft.network.families import Families
from pruneft.network.groupwise import STATISTICS, Groups
from pruneft.network.trees import kept_beside, map_arrays, named_arrays
from pruneft.penalty import check_beta


def smoothed_group_penalty(
    params: Any, families: Families, beta: float | Float[Array, ""] | None = None
) -> Float[Array, ""]:
    r"""Sum over all groups of :math:`\sqrt{|g|} \, \|w_g\|^2 / \sqrt{\|w_g\|^2 + \beta}`: times lam, a term of the loss.

    The smooth norm of `pruneft.penalty.smoothed_group_norm`, for groups that lie in several arrays.

    Args:
      params: the parameters.
      families: of the model; |g| is the number of a group's producer entries.
      beta: smoothing, in squared units of the weights; the square of a thousandth of the median norm of all groups if not given.

    Raises:
      ValueError: ``beta`` is a Python number that is not positive.
    """
    groups = Groups(families, "producers", STATISTICS, kept_beside(params))
    squares = groups.sums(map_arrays(lambda _, leaf: jnp.square(leaf), params))
    if beta is None:
        every = jax.lax.stop_gradient(jnp.concatenate([squares[f.name] for f in families]))
        beta = jnp.maximum(1e-6 * jnp.median(every), jnp.finfo(every.dtype).tiny)
    else:
        check_beta(beta)
    total: Any = 0
    for family in families:
        q = squares[family.name]
        total = total + groups.size(family, params) ** 0.5 * jnp.sum(q / jnp.sqrt(q + beta))
    return total


def prox_groups(params: Any, families: Families, step: float | Float[Array, ""]) -> Any:
    r"""Proximal map of ``step`` times :math:`\sum_g \sqrt{|g|} \|w_g\|` over producers: every group shrunk, the smallest to zero.

    Args:
      params: the parameters.
      families: of the model.
      step: rate times lam, in units of the weights; not negative.

    Raises:
      ValueError: an array makes units of two families, so that groups overlap and there is no closed form.
    """
    owners: dict[str, str] = {}
    groups = Groups(families, "producers", STATISTICS, kept_beside(params))
    for family in families:
        for member in groups.members[family.name]:
            other = owners.setdefault(member.path, f"{family.name} along axis {member.axis}")
            if other != f"{family.name} along axis {member.axis}" and _overlap(families, groups, member.path):
                raise ValueError(
                    f"{member.path} makes units of {other} and of {family.name} along axis {member.axis}: their groups overlap, and the "
                    "prox has no closed form. Leave one of the families out, or use smoothed_group_penalty."
                )
    arrays = named_arrays(params)
    squares = groups.sums(map_arrays(lambda _, leaf: jnp.square(leaf), params))
    factors: dict[str, list[tuple[int, Array]]] = {}
    for family in families:
        q = squares[family.name]
        live = q > 0
        norm = jnp.sqrt(jnp.where(live, q, 1))
        limit = jnp.asarray(step, q.dtype) * groups.size(family, params) ** 0.5
        share = jnp.where(live, jnp.maximum(1 - limit / norm, 0), 0)
        for member in groups.members[family.name]:
            place = member.spread(arrays[member.path].shape[member.axis])
            along = share if place is None else jnp.append(share, jnp.ones((), q.dtype))[place]
            factors.setdefault(member.path, []).append((member.axis, along))

    def shrink(name: str, leaf: Array) -> Array:
        for axis, along in factors.get(name, []):
            leaf = leaf * along.reshape([-1 if place == axis else 1 for place in range(leaf.ndim)])
        return leaf

    return map_arrays(shrink, params)


def _overlap(families: Families, groups: Groups, path: str) -> bool:
    """Whether producers claim an array along two axes; parts of one axis are disjoint."""
    return (
        len({member.axis for family in families for member in groups.members[family.name] if member.path == path}) > 1
    )


class ProximalState(NamedTuple):
    """What is carried: the step, int32."""

    step: Int[Array, ""]


def proximal_groups(
    families: Families, lam: float | Float[Array, ""], learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """After a step of another optimiser, the proximal step of the group Lasso: exact zeros.

    After plain gradient steps this is proximal gradient descent. After Adam it is a heuristic (the prox is not that of Adam's metric), and
    as Adam moves every number by about the rate, lam has no units: 0.3 to 1 is the useful range, below 0.1 nothing became zero in 1040
    steps on the digits, and from 1 on all went.

    Args:
      families: of the model.
      lam: weight. learning_rate: of the optimiser before it, number or schedule: the prox shrinks by rate times lam.

    Returns:
      A transformation for the last place of a chain, which needs ``params``.

    Raises:
      ValueError: lam is a negative Python number; at update, that there are no parameters, or that groups overlap.
    """
    if isinstance(lam, int | float) and not lam >= 0:
        raise ValueError(f"lam must not be negative: got {lam}.")

    def init(params: Any) -> ProximalState:
        families.check(params)
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None) -> tuple[Any, ProximalState]:
        if params is None:
            raise ValueError("proximal_groups needs the parameters: call update(updates, state, params).")
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        new = jax.tree.map(lambda w, u: w + u, params, updates)
        shrunk = prox_groups(new, families, rate * lam)
        moved = jax.tree.map(lambda small, w: small - w, shrunk, params)
        return moved, ProximalState(state.step + 1)

    return optax.GradientTransformation(init, update)
