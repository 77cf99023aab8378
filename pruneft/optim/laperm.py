"""Lookahead permutation: training by giving the initial weights other places, around any optimiser."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from pruneft.optim.laperm_groups import Rule, arrange, is_free, matrices, sorted_values


class LaPermState(NamedTuple):
    """What is carried.

    Attributes:
      inner: of the optimiser inside; a sync does not touch it.
      steps: taken so far.
      synced_at: the step of the last sync; 0 before the first, where the weights are the initial ones.
      values: like the parameters: the sorted initial values of every permuted leaf, [1, .., 1, units, n] with as many ones as the
        number of the output axis, `optax.MaskedNode` for free leaves. As much memory as the permuted leaves.
    """

    inner: Any
    steps: Int[Array, ""]
    synced_at: Int[Array, ""]
    values: Any


def laperm(
    inner: optax.GradientTransformation,
    period: int | None = 100,
    *,
    permute: Rule = matrices,
    axis: int | Rule = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Lookahead permutation (LaPerm): every ``period`` steps the weights become a rearrangement of their initial values.

    .. math:: w_j \leftarrow \arg\min_{z \,\in\, \{P w_j(0)\}} \|w_j - z\|_2 \quad \text{for every output unit } j

    Between two syncs the inner optimiser trains freely; at a sync the k-th least initial weight of a unit goes where its k-th least weight
    has come to stand. What is learnt is thus where values stand, never the values: only right after a sync are the weights a
    permutation of the initial ones, so evaluate and save there, or what `apply_sync` returns.

    The returned update is ``P(w + u) - w``, so nothing may change it afterwards: in a chain this stands last, and decay of weights
    belongs inside. Adding it rounds; `apply_sync` gives the values bit for bit.

    Under jit a sync is a branch, taken when it is due. So it is under ``vmap`` of a whole training loop, where all lanes count alike. Where
    counts differ between lanes, every step would pay for a sync: take ``period=None`` and call `sync` at a turn.

    Args:
      inner: makes the steps; it is neither reset nor shown the syncs.
      period: steps from one sync to the next; None for no syncs but those by `sync`. See `suggest_period`.
      permute: (path, leaf) -> bool, which leaves are permuted; by default those with two axes or more. A vector is one group.
      axis: the output axis, along which units are counted: -1 for kernels [.., in, out], 0 for [out, in, ..]; or a rule
        (path, leaf) -> axis.

    Returns:
      A transformation whose ``update`` needs the parameters. Its ``init`` takes the weights of that moment as the initial ones.

    Raises:
      ValueError: the period is no whole number of at least 1; in ``init``, a permuted leaf without the axis, integer or complex, or no
        permuted leaf at all.

    Source: published: Qiu and Suda (2020), arXiv:2003.02570.
    """
    if period is not None and (isinstance(period, bool) or not isinstance(period, int) or period < 1):
        raise ValueError(
            f"the period (steps from sync to sync) must be a whole number of at least 1, or None to leave them to sync(): got {period!r}."
        )
    transformation = optax.with_extra_args_support(inner)

    def init(params: Any) -> LaPermState:
        zero = jnp.zeros((), jnp.int32)
        return LaPermState(transformation.init(params), zero, zero, sorted_values(params, permute, axis))

    def update(updates: Any, state: LaPermState, params: Any = None, **extra: Any) -> tuple[Any, LaPermState]:
        if params is None:
            raise ValueError("a sync moves the weights themselves: call update(gradient, state, params).")
        moves, inside = transformation.update(updates, state.inner, params, **extra)
        steps = optax.safe_increment(state.steps)
        if period is None:
            return moves, state._replace(inner=inside, steps=steps)
        due = steps % period == 0
        moves = jax.lax.cond(due, lambda: _to_arrangement(moves, params, state.values), lambda: moves)
        return moves, LaPermState(inside, steps, jnp.where(due, steps, state.synced_at), state.values)

    return optax.GradientTransformationExtraArgs(init, update)


def _to_arrangement(moves: Any, params: Any, values: Any) -> Any:
    """The updates that lead to the nearest arrangement of where the given ones lead."""
    arranged = arrange(optax.apply_updates(params, moves), values)

    def step(kept: Any, free: Any, target: Any, leaf: Any) -> Any:
        if is_free(kept):
            return free
        # In the type of the update, which may be wider than that of the weights.
        return target.astype(free.dtype) - leaf.astype(free.dtype)

    return jax.tree.map(step, values, moves, arranged, params, is_leaf=is_free)


def apply_sync(params: Any, state: Any) -> Any:
    """The parameters with every permuted leaf at the nearest arrangement of its initial values, bit for bit.

    For looking at a model between syncs, and for exactness after one; nothing is recorded. Free leaves stay as they are.

    Args:
      params: the parameters now.
      state: of `laperm`, or of a chain or partition that holds it.

    Raises:
      ValueError: no state of `laperm` is inside, or it was made for parameters of other shapes.
    """
    for found in _states(state):
        params = arrange(params, found.values)
    return params


def sync(params: Any, state: Any) -> tuple[Any, Any]:
    """The parameters as `apply_sync` gives them, and the state with the sync recorded.

    The last sync of a run whose length is no multiple of the period, every sync with ``period=None``.

    Raises:
      ValueError: as `apply_sync`.
    """
    found = apply_sync(params, state)
    return found, jax.tree.map(
        lambda node: node._replace(synced_at=node.steps) if _is_ours(node) else node, state, is_leaf=_is_ours
    )


def synced(state: Any) -> Bool[Array, ""]:
    """Whether the weights of now are permuted initial ones: no step was taken since the last sync.

    Raises:
      ValueError: no state of `laperm` is inside.
    """
    ours = [found.steps == found.synced_at for found in _states(state)]
    return jnp.all(jnp.stack(ours))


def last_sync(state: Any) -> Int[Array, ""]:
    """The step of the last sync, 0 if there was none; the earliest where a partition holds several.

    Raises:
      ValueError: no state of `laperm` is inside.
    """
    return jnp.min(jnp.stack([found.synced_at for found in _states(state)]))


def _is_ours(node: Any) -> bool:
    return isinstance(node, LaPermState)


def _states(state: Any) -> list[LaPermState]:
    found = [node for node in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(node)]
    if not found:
        raise ValueError(
            f"expected the state of pruneft.optim.laperm, or one that holds it: got {type(state).__name__} without it. "
            "Give what init or update of the transformation returned."
        )
    return found
