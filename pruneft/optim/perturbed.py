"""Noise that leaves saddles: added to the steps of another optimiser when the gradient has been small for long."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, UInt32

from pruneft.optim.factor import Matrices, check_factors, each, map_factors
from pruneft.random import Block, normals


class PerturbedState(NamedTuple):
    """What is carried.

    Attributes:
      inner: of the transformation inside.
      key: raw words of the noise's key; the same all along.
      since: like the parameters, one number for every matrix: steps since its last noise.
      given: likewise: how often noise was added.
    """

    inner: Any
    key: UInt32[Array, "words"]
    since: Any
    given: Any


def perturbed(
    inner: optax.GradientTransformation,
    *,
    radius: float,
    threshold: float,
    patience: int,
    seed: Any = 0,
    live: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Another optimiser with noise: perturbed gradient descent around any step.

    When the gradient's norm is at most ``threshold`` and the last noise is at least ``patience`` steps ago, noise uniform on
    the sphere of the given radius is added to the step. From the neighbourhood of a strict saddle, where no gradient step
    leads away, descent then finds a way down with probability near one; at a minimum the noise costs ``patience`` steps of
    return, so give a threshold below which only answers lie, or stop there. Every matrix of a stack is judged and moved on
    its own.

    Args:
      inner: makes the steps; it sees the gradient as it comes. ``optax.identity()`` for the last place of a chain, where the
        norm of the step is judged instead.
      radius: Frobenius norm of the noise, in units of U.
      threshold: in units of the gradient.
      patience: steps between two noises; also before the first.
      seed: of the noise: a whole number, or a JAX key. Give every lane its own.
      live: which entries may move: an array that broadcasts against the factor, or True for all. By default the rows and
        columns of U that are not zero, so that padding and pruned columns stay zero; at U = 0, a saddle too, nothing moves
        then and the mask has to be given.

    Raises:
      ValueError: radius or threshold is not positive, or patience below 1.

    Source: published: Jin, Ge, Netrapalli, Kakade and Jordan (2017), arXiv:1703.00887, who take the noise from the ball;
      on the sphere, which in many dimensions is nearly the same, and around any optimiser it is ours.
    """
    if not (radius > 0 and threshold > 0 and patience >= 1):
        raise ValueError(
            f"radius and threshold must be positive and patience at least 1: got radius={radius}, threshold={threshold}, "
            f"patience={patience}."
        )
    transformation = optax.with_extra_args_support(inner)

    def init(params: Any) -> PerturbedState:
        check_factors(params)
        key = jax.random.key(seed) if isinstance(seed, int) else seed
        words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[:-2], jnp.int32), params)
        return PerturbedState(transformation.init(params), words, zeros, zeros)

    def update(updates: Any, state: PerturbedState, params: Any = None, **extra: Any) -> tuple[Any, PerturbedState]:
        def due(gradient: Matrices, factor: Matrices, since: Array) -> Bool[Array, "*stack"]:
            return (jnp.sqrt(jnp.sum(jnp.square(gradient), axis=(-1, -2))) <= threshold) & (since + 1 >= patience)

        now = map_factors(due, updates, params, state.since)
        steps, inside = transformation.update(updates, state.inner, params, **extra)
        # One key per leaf, or equal leaves would get equal noise.
        leaves, shape = jax.tree.flatten(params)
        noise = jax.tree.unflatten(
            shape,
            [
                _sphere(state.key, place, leaf, given, live)
                for place, (leaf, given) in enumerate(zip(leaves, jax.tree.leaves(state.given), strict=True))
            ],
        )
        moved = jax.tree.map(
            lambda step, go, move: step + each(jnp.where(go, radius, 0.0), step) * move, steps, now, noise
        )
        since = jax.tree.map(lambda count, go: jnp.where(go, 0, count + 1), state.since, now)
        given = jax.tree.map(lambda count, go: count + go.astype(jnp.int32), state.given, now)
        return moved, PerturbedState(inside, state.key, since, given)

    return optax.GradientTransformationExtraArgs(init, update)


def _sphere(words: Array, place: int, factor: Matrices, given: Array, live: Any) -> Float[Array, "*stack d k"]:
    """A point of the unit sphere for every matrix; it depends on the place in the stack and on how many came before."""
    d, k = factor.shape[-2:]
    key = jax.random.fold_in(jax.random.wrap_key_data(words), place)

    def draw(index: Array, count: Array) -> Array:
        (columns,) = normals(jax.random.fold_in(jax.random.fold_in(key, index), count), Block(0, k, d))
        return columns.T  # columns as rows of the draw: padding d or k changes no entry

    stack = factor.shape[:-2]
    count = given.reshape(-1)
    drawn = jax.vmap(draw)(jnp.arange(count.shape[0], dtype=jnp.int32), count)
    drawn = drawn.reshape(*stack, d, k).astype(factor.dtype)
    if live is None:
        alive = factor != 0
        mask = jnp.any(alive, axis=-1, keepdims=True) & jnp.any(alive, axis=-2, keepdims=True)
    else:
        mask = jnp.asarray(live, jnp.bool_)
    drawn = jnp.where(mask, drawn, 0)
    size = jnp.sqrt(jnp.sum(jnp.square(drawn), axis=(-1, -2)))
    return drawn / each(jnp.where(size > 0, size, 1), factor)
