"""Drawn problems for claims about fine-tuning, factors near their truth, and what an optimiser does from there."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruneft.pipeline import Penalty
from pruneft.sensing import draw_instance
from pruneft.sensing import lane as lanes


@functools.partial(jax.jit, static_argnames=("n", "d", "r"))
def _draw(seed, sigma, kappa, *, n, d, r):
    drawn = draw_instance(jax.random.key(seed), n=n, d=d, r=r, sigma=sigma, kappa=kappa, dtype="float64")
    none = jnp.zeros((1, 1, 1))
    begin = jnp.zeros((1, 1, d, r))
    return drawn, lanes.make_lane(drawn.operator, drawn.y, begin, Penalty(none, none, none, none), sigma=sigma)


def draw_lane(seed: int, *, n: int, d: int, r: int, sigma: float = 0.0, kappa: float = 1.0):
    """Instance, normalised float64 lane, and the true factor [d, r] in the lane's units."""
    drawn, lane = _draw(seed, sigma, kappa, n=n, d=d, r=r)
    return drawn, lane, np.asarray(drawn.factor[:, :r]) / np.sqrt(float(lane.scale))


def nearby(factor: np.ndarray, seed: int, surplus: int = 0) -> np.ndarray:
    """A factor whose matrix is 10 percent off, with so many columns more than the truth."""
    wide = np.pad(factor, ((0, 0), (0, surplus)))
    noise = np.random.default_rng(seed).standard_normal(wide.shape)
    truth = factor @ factor.T
    size = 0.1
    for _ in range(30):
        moved = wide + size * noise
        # The error grows with the square of what stands in surplus columns.
        size *= np.sqrt(0.1 / (np.linalg.norm(moved @ moved.T - truth) / np.linalg.norm(truth)))
    return wide + size * noise


@functools.partial(jax.jit, static_argnames=("make", "steps"))
def errors(lane, start, truth, values, *, make, steps):
    """Relative error after every step of the optimiser ``make(values)``."""
    optimizer = optax.with_extra_args_support(make(values))

    def step(carry, _):
        stack, state = carry
        extra = lanes.tuning(lane, stack)
        updates, state = optimizer.update(lanes.gradient(lane, stack), state, stack, **extra)
        stack = optax.apply_updates(stack, updates)
        return (stack, state), jnp.linalg.norm(stack[0] @ stack[0].T - truth) / jnp.linalg.norm(truth)

    stack = start[None]
    return jax.lax.scan(step, (stack, optimizer.init(stack)), None, length=steps)[1]


def steps_to(found: np.ndarray, goal: float = 1e-6) -> float:
    """Steps until the error is below ``goal``; infinite if it never is."""
    below = np.asarray(found) < goal
    return float(np.argmax(below) + 1) if below.any() else np.inf
