"""Claims about the central flow of RMSProp: small tanh networks from where they reach the edge, against the training itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft import dynamics
from pruneft.status import Status
from tests.claims.trials import refuted

pytestmark = pytest.mark.claims

FRESH, SEEDS = 1000, 12
STEPS, ETA, BETA2 = 120, 0.02, 0.99
WIDTH, INPUTS, SAMPLES = 12, 4, 40


def _network(key):
    """Loss over (weights, output weights) in one row, on targets sin(a . x), and a start."""
    inputs, slope, first, last = jax.random.split(key, 4)
    x = jax.random.normal(inputs, (SAMPLES, INPUTS))
    y = jnp.sin(x @ jax.random.normal(slope, (INPUTS,)))

    def loss(theta):
        kernel, out = theta[: WIDTH * INPUTS].reshape(INPUTS, WIDTH), theta[WIDTH * INPUTS :]
        return jnp.mean((jnp.tanh(x @ kernel) @ out - y) ** 2)

    start = [jax.random.normal(first, (WIDTH * INPUTS,)) / 2, jax.random.normal(last, (WIDTH,)) / 3]
    return loss, jnp.concatenate(start)


def _moments(loss, theta, nu):
    return BETA2 * nu + (1 - BETA2) * jax.grad(loss)(theta) ** 2


def _step(loss, theta, nu):
    nu = _moments(loss, theta, nu)
    return theta - ETA * jax.grad(loss)(theta) / jnp.sqrt(nu), nu


def _edge(loss, theta, nu):
    """The largest eigenvalue where P is one; the edge is 2."""
    root = jnp.sqrt(ETA / jnp.sqrt(_moments(loss, theta, nu)))
    return jnp.linalg.eigvalsh(root[:, None] * jax.hessian(loss)(theta) * root)[-1]


@functools.cache
def _runs(k):
    """Distances of the mean of 20 steps of RMSProp from the flow with k directions and from that with none."""

    def one(key):
        loss, theta = _network(key)
        nu = jax.grad(loss)(theta) ** 2 + 1e-4
        early = jax.lax.fori_loop(0, 20, lambda _, now: _step(loss, *now), (theta, nu))
        theta, nu = jax.lax.while_loop(lambda now: _edge(loss, *now) < 1.99, lambda now: _step(loss, *now), early)
        rule = dynamics.RMSProp(BETA2, 0.0, _moments(loss, theta, nu))
        flow, free = (
            dynamics.central_flow(loss, theta, ETA, steps=STEPS, k=count, keep=True, rmsprop=rule) for count in (k, 0)
        )

        def step(now, _):
            return _step(loss, *now), now[0]

        path = jax.lax.scan(step, (theta, nu), None, length=STEPS)[1]
        late = slice(STEPS - 24, STEPS - 4)
        mean, *others = (jnp.mean(part[late], axis=0) for part in (path, flow.thetas, free.thetas))
        near, far = (jnp.linalg.norm(mean - other) for other in others)
        return near, far, flow.status

    keys = jax.vmap(jax.random.key)(FRESH + jnp.arange(SEEDS))
    return jax.device_get(jax.jit(jax.vmap(one))(keys))


def test_the_flow_of_rmsprop_is_less_than_half_as_far_as_the_one_without_oscillation():
    near, far, status = _runs(4)
    told = status == Status.CONVERGED
    assert np.sum(told) >= 6
    assert not refuted(int(np.sum((near < far / 2) & told)), int(np.sum(told)), 0.8)


def test_without_a_direction_that_is_held_it_is_as_far():
    """The broken twin."""
    near, far, _ = _runs(0)
    assert refuted(int(np.sum(near < far / 2)), SEEDS, 0.8)
