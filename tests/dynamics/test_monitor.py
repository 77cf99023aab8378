"""The monitor in loops of optax, Flax (linen and nnx) and Equinox, against the sharpness computed outside of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from pruneft.dynamics import monitor
from pruneft.status import Status

X = jax.random.normal(jax.random.key(0), (20, 3), jnp.float64)
Y = jnp.sin(X[:, 0]) + X[:, 1]
ETA = 0.1
plain = optax.sgd(ETA)


def misfit(predictions):
    return jnp.mean((predictions[:, 0] - Y) ** 2)


def train(loss, params, watch, steps=6, midpoints=False):
    """Gradient descent by optax under one scan, with the points it came through."""

    def step(carry, _):
        params, state, seen = carry
        change, state = plain.update(jax.grad(loss)(params), state)
        following = optax.apply_updates(params, change)
        seen = watch.update(seen, following, before=params if midpoints else None)
        return (following, state, seen), following

    carry = (params, plain.init(params), watch.init(params))
    (_, _, seen), points = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))(carry)
    return watch.history(seen), points


def at(points, step):
    return jax.tree.map(lambda leaf: leaf[step - 1], points)


def expect(loss, history, points, every):
    for row, step in enumerate(history.step):
        hessian, flat = _hessian(loss, at(points, int(step)))
        assert history.eigenvalues[row, 0] == pytest.approx(np.linalg.eigvalsh(hessian(flat))[-1], rel=1e-6)
        assert history.loss[row] == pytest.approx(float(loss(at(points, int(step)))), rel=1e-12)
    assert list(history.step) == list(range(every, 7, every))
    assert np.all(history.status == Status.CONVERGED)
    assert np.all(history.residuals <= 1e-4)


def _hessian(loss, params):
    flat, back = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda v: loss(back(v))), flat


def net(params):
    return misfit(jnp.tanh(X @ params["w"]) @ params["v"])


PARAMS = {
    "w": jax.random.normal(jax.random.key(1), (3, 4), jnp.float64) / 2,
    "v": jax.random.normal(jax.random.key(2), (4, 1), jnp.float64),
}


@pytest.fixture(scope="module")
def run():
    return train(net, PARAMS, monitor(net, every=2, tol=1e-5))


def test_an_optax_loop_records_the_sharpness_of_every_second_step(run):
    expect(net, *run, every=2)


def test_crossings_are_the_steps_at_which_the_edge_is_met(run):
    history = run[0]._replace(eigenvalues=np.array([[1.0], [3.0], [np.nan]]), step=np.array([2, 4, 6]))
    assert list(history.crossings(1.0)) == [4]
    assert list(history.crossings(0.1)) == []


def test_with_the_point_before_it_looks_half_way_and_keeps_the_last_records_only():
    history, points = train(net, PARAMS, monitor(net, every=2, tol=1e-5, capacity=2), midpoints=True)
    assert list(history.step) == [4, 6]
    half = jax.tree.map(lambda a, b: (a + b) / 2, at(points, 3), at(points, 4))
    hessian, flat = _hessian(net, half)
    assert history.eigenvalues[0, 0] == pytest.approx(np.linalg.eigvalsh(hessian(flat))[-1], rel=1e-6)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = jnp.tanh(linen.Dense(4, param_dtype=jnp.float64)(x))
        return linen.Dense(1, param_dtype=jnp.float64)(hidden)


@pytest.mark.claims
def test_a_flax_linen_loop_is_watched():
    module = Linen()
    params = module.init(jax.random.key(0), X)

    def loss(params):
        return misfit(module.apply(params, X))

    expect(loss, *train(loss, params, monitor(loss, every=3, tol=1e-5)), every=3)


def test_a_flax_nnx_loop_is_watched():
    model = nnx.Linear(3, 1, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return misfit(jnp.tanh(nnx.merge(graph, params, rest)(X)))

    expect(loss, *train(loss, params, monitor(loss, every=3, tol=1e-5)), every=3)


def test_an_equinox_loop_is_watched():
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, dtype=jnp.float64, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        return misfit(jax.vmap(eqx.combine(params, static))(X))

    expect(loss, *train(loss, params, monitor(loss, every=3, tol=1e-5)), every=3)
    with pytest.raises(ValueError, match=r"equinox\.partition"):
        monitor(loss).init(model)


def test_a_loop_that_diverges_is_recorded_as_such_and_recovers():
    watch = monitor(lambda w: jnp.sum(w**2) + jnp.sum(w**4), every=1)
    update = jax.jit(watch.update)
    seen = watch.init(jnp.ones(2))
    for w in (jnp.ones(2), jnp.full(2, jnp.inf), jnp.zeros(2)):
        seen = update(seen, w)
    history = watch.history(seen)
    assert list(history.status) == [Status.CONVERGED, Status.NOT_FINITE, Status.CONVERGED]
    np.testing.assert_allclose(history.eigenvalues[:, 0], [14, np.nan, 2], rtol=1e-12)


def test_the_loss_may_take_a_batch():
    watch = monitor(lambda w, scale: scale * jnp.sum(w**2), every=1)
    seen = watch.update(watch.init(jnp.ones(2)), jnp.ones(2), jnp.asarray(3.0))
    assert watch.history(seen).eigenvalues[0, 0] == pytest.approx(6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: monitor(net, every=0), "every must be a whole number of at least 1: got 0"),
        (lambda: monitor(net, every=True), "every must be a whole number of at least 1: got True"),
        (lambda: monitor(lambda w: w).update(monitor(net).init(jnp.ones(3)), jnp.ones(3)), "to one real number"),
        (lambda: monitor(net, tol=float("nan")), "tol must be positive: got nan"),
        (lambda: monitor(net, k=40).init(PARAMS), "at most the number of parameters, 16: got 40"),
        (lambda: monitor(net).init({"w": jnp.ones(2, jnp.bfloat16)}), "bfloat16"),
    ],
)
def test_bad_input_is_a_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()
