"""Matrix completion by a deep linear network with decay: jumps of the rank under stochastic gradient descent, and its control.

``A = W_L .. W_1`` is fitted to some entries of a matrix of low rank by ``1/2 mean (A_ij - y_ij)^2 + lam sum ||W||^2``. The least sum of
squares over the factors of A is L times its singular values to the power 2/L, so more layers and a larger ``lam`` favour a lower rank.
Stochastic gradient descent takes one observed entry a step; gradient descent, the control, takes all of them with the same ``lam``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from pruneft.random import Block, normals
from pruneft.trial import wrap_key

Weights = tuple[Array, ...]  # W_1 [width, d], W_2 .. [width, width], W_L [d, width]
SINGULAR = 0.1  # singular values above count for the rank, of matrices of norm about 10


class Completion(NamedTuple):
    """One problem, and the start.

    Attributes:
      target: [d, d] of low rank.
      rows, columns: [m] the observed entries, each once.
      start: weights.
      words: of the key by which entries are drawn.
    """

    target: Float[Array, "d d"]
    rows: Int[Array, " m"]
    columns: Int[Array, " m"]
    start: Weights
    words: UInt32[Array, "2"]


def draw(
    key: Array,
    *,
    d: int = 10,
    rank: int = 1,
    observed: int = 50,
    layers: int = 3,
    width: int = 20,
    norm: Any = 10.0,
    scale: Any = 2.5,
    dtype: Any = jnp.float32,
) -> Completion:
    """A Gaussian matrix of low rank, entries observed at random, and Gaussian weights.

    Args:
      key: of everything.
      d, rank: of the target; ``norm`` its Frobenius norm.
      observed: entries seen, each once.
      layers, width: of the network.
      scale: standard deviation of the initial weights, over the square root of what comes into a layer.
      dtype: of all arrays.

    Raises:
      ValueError: a size is out of range.
    """
    check(d=d, rank=rank, observed=observed, layers=layers, width=width)
    shapes = [(width if place < layers - 1 else d, width if place else d) for place in range(layers)]
    factors, order, *drawn = normals(
        key, Block(0, 2 * d, rank), Block(1, d, d), *(Block(2 + place, *shape) for place, shape in enumerate(shapes))
    )
    factors = factors.astype(dtype)
    target = factors[:d] @ factors[d:].T
    target = target / jnp.linalg.norm(target) * norm
    places = jnp.argsort(order.ravel())[:observed].astype(jnp.int32)
    start = tuple(scale / math.sqrt(part.shape[1]) * part.astype(dtype) for part in drawn)
    words = jax.random.key_data(jax.random.fold_in(key, 1))
    return Completion(target, places // d, places % d, start, words)


def check(*, d: int, rank: int, observed: int, layers: int, width: int) -> None:
    """Refuse sizes of which no problem can be made.

    Raises:
      ValueError: one of them is out of range; the message says which.
    """
    if not (d >= 1 and 1 <= rank <= d and 1 <= observed <= d * d):
        raise ValueError(
            f"expected d >= 1, a rank from 1 to d and from 1 to d^2 observed entries: got d={d}, rank={rank}, observed={observed}."
        )
    if layers < 2 or width < rank:
        raise ValueError(
            f"the network needs at least 2 layers and at least the width of the rank: got layers={layers}, width={width}, rank={rank}."
        )


def product(weights: Weights) -> Float[Array, "d d"]:
    """``W_L .. W_1``."""
    found = weights[0]
    for factor in weights[1:]:
        found = factor @ found
    return found


def misfit(weights: Weights, problem: Completion) -> Float[Array, ""]:
    """Half the mean squared error of the observed entries, without the decay term."""
    missed = product(weights) - problem.target
    return jnp.mean(missed[problem.rows, problem.columns] ** 2) / 2


def _one(weights: Weights, problem: Completion, place: Array) -> Float[Array, ""]:
    """Half the squared error of one observed entry."""
    i, j = problem.rows[place], problem.columns[place]
    vector = weights[0][:, j]
    for factor in weights[1:-1]:
        vector = factor @ vector
    return (weights[-1][i] @ vector - problem.target[i, j]) ** 2 / 2


def descend(
    weights: Weights, problem: Completion, *, eta: Any, lam: Any, steps: Any, begin: Any = 0, noisy: bool
) -> Weights:
    """The weights after so many steps.

    Args:
      weights: before.
      problem: to be fitted.
      eta: step size; lam: of the decay, by which weights shrink by ``1 - 2 eta lam`` a step.
      steps: how many; also traced.
      begin: number of the first step of all; a noisy run that goes on from there draws on.
      noisy: one observed entry a step, drawn with replacement; else all of them.

    Source: published: Wang and Jacot (2024), arXiv:2305.16038.
    """
    key = wrap_key(problem.words)
    observed = problem.rows.shape[0]

    def step(place: Array, weights: Weights) -> Weights:
        if noisy:
            number = jnp.asarray(begin, jnp.int32) + place.astype(jnp.int32)
            entry = jax.random.randint(jax.random.fold_in(key, number), (), 0, observed)
            gradient = jax.grad(_one)(weights, problem, entry)
        else:
            gradient = jax.grad(misfit)(weights, problem)
        return tuple((1 - 2 * eta * lam) * factor - eta * g for factor, g in zip(weights, gradient, strict=True))

    return jax.lax.fori_loop(0, steps, step, weights)


class Ranks(NamedTuple):
    """What a product looks like.

    Attributes:
      rank: singular values above `SINGULAR`.
      beyond: the largest singular value beyond the true rank.
      error: distance to the target over its norm, all entries.
      misfit: half the mean squared error of the observed entries.
    """

    rank: Int[Array, ""]
    beyond: Float[Array, ""]
    error: Float[Array, ""]
    misfit: Float[Array, ""]


def ranks(weights: Weights, problem: Completion, rank: int) -> Ranks:
    """Rank, error and misfit of the product.

    Args:
      weights: of the network; not finite weights give the rank -1.
      problem: with the target.
      rank: of the target.
    """
    found = product(weights)
    sound = jnp.all(jnp.isfinite(found))
    sizes = jnp.linalg.svd(jnp.where(sound, found, 0), compute_uv=False)
    count = jnp.where(sound, jnp.sum(sizes > SINGULAR), -1).astype(jnp.int32)
    beyond = sizes[rank] if rank < sizes.shape[0] else jnp.zeros((), sizes.dtype)
    error = jnp.linalg.norm(found - problem.target) / jnp.linalg.norm(problem.target)
    return Ranks(count, jnp.where(sound, beyond, jnp.nan), error, misfit(weights, problem))
