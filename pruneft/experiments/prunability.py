"""Figure 1 of the published method: without the penalty no column is small, with it all but r are.

Source: Rajaraman, Devvrit, Mokhtari and Ramchandran (2023), "Greedy pruning with group Lasso provably generalizes for
matrix sensing", arXiv:2303.11453, Figure 1 (d = k = 500, r = 4). Number of measurements, noise, weights and steps are not
given there: the ones here are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from pruneft.penalty import group_norms
from pruneft.pipeline import Anneal, Optimizer, Penalty, penalty_gradient
from pruneft.sensing import lane as lanes
from pruneft.sensing import theory
from pruneft.sensing.draw import draw_instance
from pruneft.sensing.recipe import PruneRecipe, schedule
from pruneft.trial import data_key, wrap_key

# Gradient descent from a small start: the step in units of 1/l_1 of the normalised problem, and the start's norm.
_PLAIN_STEP = 0.05
_PLAIN_START = 1e-2


class Prunability(NamedTuple):
    """Column norms after training, relative to the square root of the data's unit.

    Attributes:
      with_penalty, without_penalty: [seeds, k].
      law: [draws, k], the norms that the law of unregularised training predicts.
      errors: [2, seeds] relative Frobenius error of U Uᵀ before any pruning, with and without the penalty.
    """

    with_penalty: np.ndarray
    without_penalty: np.ndarray
    law: np.ndarray
    errors: np.ndarray


def prunability(
    *,
    d: int = 100,
    k: int = 100,
    r: int = 4,
    n_per_dof: float = 3.0,
    seeds: int = 4,
    steps: int = 1500,
    plain_steps: int = 600,
    on_seed: Callable[[int], None] | None = None,
) -> Prunability:
    """Train with and without the penalty on the same noiseless instances.

    With the penalty: the recipe's annealed training, ``steps`` steps. Without: plain gradient descent from a small start,
    ``plain_steps`` steps, the setting of the law.

    Args:
      d, k, r: ambient dimension, columns trained, true rank.
      n_per_dof: measurements per degree of freedom.
      seeds: instances.
      steps, plain_steps: budgets.
      on_seed: called with the number of seeds done.

    Raises:
      ValueError: sizes make no sense.
    """
    check(d=d, k=k, r=r, n_per_dof=n_per_dof, seeds=seeds, steps=steps, plain_steps=plain_steps)
    n = max(1, round(n_per_dof * theory.dof(d, r)))
    recipe = PruneRecipe()
    draw = jax.jit(functools.partial(_draw, n=n, d=d, k=k, r=r, anneal=recipe.anneal))
    annealed = jax.jit(functools.partial(_train, optimizer=recipe.anneal.optimizer(steps), steps=steps))
    # lambda_1 of the normalised problem is that of a unit Frobenius norm, 1/sqrt(r) when all are equal.
    plain = jax.jit(functools.partial(_train, optimizer=optax.sgd(_PLAIN_STEP * r**0.5), steps=plain_steps))
    norms: dict[str, list[np.ndarray]] = {"with": [], "without": []}
    errors: list[tuple[float, float]] = []
    for seed in range(seeds):
        lane = draw(data_key("prunability", {"d": d, "r": r, "n": n}, seed))
        dense = annealed(lane, lane.starts[0])
        free = plain(
            lane._replace(penalty=_ends(recipe.anneal, lam=0.0)),
            lane.starts[0] * (_PLAIN_START / recipe.anneal.start_norm),
        )
        norms["with"].append(np.asarray(group_norms(dense)[0]))
        norms["without"].append(np.asarray(group_norms(free)[0]))
        errors.append((_error(lane, dense), _error(lane, free)))
        if on_seed is not None:
            on_seed(seed + 1)
    law = unregularised_law(np.full(r, 1 / np.sqrt(r)), k, draws=200, rng=np.random.default_rng(0))
    return Prunability(np.stack(norms["with"]), np.stack(norms["without"]), law, np.array(errors).T)


def check(*, d: int, k: int, r: int, n_per_dof: float, seeds: int, steps: int, plain_steps: int) -> None:
    """Refuse sizes of `prunability` that make no sense.

    Raises:
      ValueError: they do not.
    """
    if not 1 <= r <= min(d, k) or seeds < 1 or steps < 1 or plain_steps < 1 or not 0 < n_per_dof < np.inf:
        raise ValueError(
            f"need 1 <= r <= min(d, k), finite positive n_per_dof, and at least one seed and step: got d={d}, k={k}, r={r}, "
            f"n_per_dof={n_per_dof}, seeds={seeds}, steps={steps}, plain_steps={plain_steps}."
        )


def unregularised_law(eigenvalues: np.ndarray, k: int, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Column norms that unregularised training gives, [draws, k].

    Gradient descent without a penalty commutes with rotations of the columns, so from a rotation-invariant start it ends
    at ``M^(1/2) Q`` with Q a uniformly random row-orthonormal [r, k]: squared column norms are ``||Sigma q_j||²``. Many of
    them are comparable to the largest, which is why pruning by norm fails. The statement is published, the law ours.

    Args:
      eigenvalues: [r] of M.
      k: columns.
      draws: how many factors to draw.
      rng: NumPy generator.
    """
    rank = eigenvalues.shape[0]
    found = []
    for _ in range(draws):
        rotation = np.linalg.qr(rng.standard_normal((k, rank)))[0]
        found.append(np.sqrt(np.sum(np.square(rotation) * eigenvalues, axis=1)))
    return np.stack(found)


def share_at_least(norms: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean over factors of the share of columns with at least x times the largest norm; norms [draws, k], x [t]."""
    relative = norms / norms.max(axis=1, keepdims=True)
    return np.mean(relative[:, :, None] >= x, axis=(0, 1))


def columns_kept(norms: np.ndarray) -> np.ndarray:
    """How many columns of each factor pruning by the recipe's share would keep; norms [draws, k]."""
    return np.sum(norms > PruneRecipe().share * norms.max(axis=1, keepdims=True), axis=1)


def draw_figure(result: Prunability) -> Any:
    """Figure 1: share of columns of at least x times the largest norm, and the histogram of the norms."""
    from pruneft.plot import column_norms

    x = np.linspace(0, 1, 201)
    return column_norms(
        {"no penalty": result.without_penalty, "group Lasso": result.with_penalty},
        threshold=PruneRecipe().share,
        law=(x, share_at_least(result.law, x)),
    ).figure


def _ends(anneal: Anneal, lam: float | None = None) -> Penalty:
    return Penalty(*(jnp.full((1, 1, 1), value, jnp.float32) for value in schedule(anneal, lam=lam)))


def _draw(words: Array, *, n: int, d: int, k: int, r: int, anneal: Anneal) -> lanes.Lane:
    key = wrap_key(words)
    instance = draw_instance(key, n=n, d=d, r=r)
    starts = lanes.draw_starts(key, 1, 1, d, k, live_d=d, live_k=k, norm=anneal.start_norm, dtype=jnp.float32)
    truth = lanes.Truth(instance.truth, jnp.asarray(r, jnp.int32))
    return lanes.make_lane(instance.operator, instance.y, starts, _ends(anneal), sigma=0.0, truth=truth)


def _train(
    lane: lanes.Lane, start: Float[Array, "1 d k"], *, optimizer: Optimizer, steps: int
) -> Float[Array, "1 d k"]:
    def step(carry: tuple[Array, Any], count: Array) -> tuple[tuple[Array, Any], None]:
        factor, state = carry
        pull = penalty_gradient(lane.penalty, count.astype(factor.dtype) / steps, factor)
        updates, state = optimizer.update(lanes.gradient(lane, factor) + pull, state, factor)
        return (optax.apply_updates(factor, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))[0][0]


def _error(lane: lanes.Lane, factor: Array) -> float:
    assert lane.truth is not None
    difference = lane.scale * factor[0] @ factor[0].T - lane.truth.matrix
    return float(jnp.linalg.norm(difference) / jnp.linalg.norm(lane.truth.matrix))
