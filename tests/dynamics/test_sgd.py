"""Thresholds of stochastic gradient descent at an interpolating minimum: their order, and what second moments and runs do there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics import sgd

CASES, N, P = 100, 12, 4


@pytest.fixture(scope="module")
def cases():
    """Gradients of 100 random problems with scales over three decades, and their thresholds for batches of one."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((CASES, N, P)) * 10 ** rng.uniform(-1.5, 0.5, (CASES, 1, P))
    gradients[::3] *= rng.exponential(size=(CASES, N, 1))[::3]  # samples of unequal weight
    found = jax.jit(jax.vmap(sgd.thresholds))(jnp.asarray(gradients))
    return gradients, jax.tree.map(np.asarray, found)


def _map(gradients, eta, batch=1):
    """The second moment's map as a matrix [p^2, p^2], from Kronecker products of single steps."""
    n, p = gradients.shape
    A = np.einsum("ia,ib->iab", gradients, gradients)
    H, eye = A.mean(axis=0), np.eye(p)
    single = sum(np.kron(a, a) for a in A) / n
    return (
        np.eye(p * p)
        - eta * (np.kron(H, eye) + np.kron(eye, H))
        + eta**2 * (single / batch + (1 - 1 / batch) * np.kron(H, H))
    )


def _radius(gradients, eta, batch=1):
    return np.max(np.abs(np.linalg.eigvalsh(_map(gradients, eta, batch))))


def test_the_thresholds_are_in_order(cases):
    _, found = cases
    rounding = 1 + 1e-9
    assert np.all(found.residual < 1e-8)
    assert np.all(found.exact <= found.quartic * rounding)
    assert np.all(found.quartic <= found.trace * rounding)
    assert np.all(found.trace <= found.sharpness * rounding)
    # The bounds are loose: the order would hold for equal numbers too.
    assert np.median(found.trace / found.exact) > 1.5


def test_at_the_exact_threshold_the_second_moment_begins_to_grow(cases):
    gradients, found = cases
    for one, exact in zip(gradients, found.exact, strict=True):
        assert _radius(one, exact) == pytest.approx(1, abs=1e-9)
        assert _radius(one, 0.99 * exact) < 1 < _radius(one, 1.01 * exact)


def test_iterating_the_second_moment_finds_the_same_threshold_to_one_percent(cases):
    gradients, found = cases

    @jax.jit
    @jax.vmap
    def last_rate(gradients, eta):
        """How much the trace grows per step in the end; the moment is kept at trace one."""
        moments = sgd.moments(gradients)

        def step(_, carry):
            moved = moments.advance(carry[0], eta)
            rate = jnp.trace(moved)
            return moved / rate, rate

        start = jnp.eye(P) / P
        return jax.lax.fori_loop(0, 20_000, step, (start, jnp.ones(())))[1]

    few = slice(0, 20)
    assert np.all(last_rate(gradients[few], 0.99 * found.exact[few]) < 1)
    assert np.all(last_rate(gradients[few], 1.01 * found.exact[few]) > 1)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_threshold_of_larger_batches_is_exact_too(cases, batch):
    gradients, _ = cases
    found = jax.jit(jax.vmap(lambda one: sgd.thresholds(one, batch)))(jnp.asarray(gradients[:10]))
    for one, exact, quartic, sharp in zip(gradients, found.exact, found.quartic, found.sharpness):
        assert _radius(one, exact, batch) == pytest.approx(1, abs=1e-9)
        assert exact <= min(quartic, sharp) * (1 + 1e-9)


def test_the_whole_data_as_one_batch_bear_what_gradient_descent_bears(cases):
    gradients, _ = cases
    found = sgd.thresholds(jnp.asarray(gradients[0]), N, replace=False)
    assert float(found.exact) == pytest.approx(float(found.sharpness), rel=1e-9)
    # Pairs without replacement, counted one by one.
    pairs = sgd.moments(jnp.asarray(gradients[0]), 2, replace=False)
    A = np.einsum("ia,ib->iab", pairs.gradients, pairs.gradients)
    M = np.diag(np.arange(1.0, P + 1)) + 0.3
    steps = [(A[i] + A[j]) / 2 for i in range(N) for j in range(N) if i != j]
    expected = np.mean([step @ M @ step for step in steps], axis=0)
    np.testing.assert_allclose(pairs.noise(jnp.asarray(M)), expected, rtol=1e-9)


def test_more_parameters_than_samples_change_nothing_but_the_coordinates():
    gradients = np.random.default_rng(1).standard_normal((5, 3))
    wide = gradients @ np.linalg.qr(np.random.default_rng(2).standard_normal((40, 3)))[0].T
    few, many = (sgd.thresholds(jnp.asarray(one)) for one in (gradients, wide))
    for one, other in zip(few[:4], many[:4], strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-8)


def test_a_single_sample_has_one_threshold():
    found = sgd.thresholds(jnp.asarray([[3.0, 4.0]]))
    np.testing.assert_allclose(found[:4], 2 / 25, rtol=1e-9)


def test_a_batch_may_be_a_number_of_numpy():
    gradients = jnp.asarray([[3.0, 4.0], [1.0, 0.0]])
    assert sgd.thresholds(gradients, np.int64(2)) == sgd.thresholds(gradients, 2)


def test_without_any_gradient_nothing_limits_the_step():
    found = sgd.thresholds(jnp.zeros((3, 2)))
    assert all(np.isposinf(threshold) for threshold in found[:4])


def _output(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def test_gradients_of_outputs_give_the_hessian_at_an_interpolating_minimum():
    rng = np.random.default_rng(3)
    params = {"first": jnp.asarray(rng.standard_normal((2, 3))), "second": jnp.asarray(rng.standard_normal(3))}
    inputs = jnp.asarray(rng.standard_normal((6, 2)))
    gradients = sgd.output_gradients(_output, params, inputs)
    flat, back = jax.flatten_util.ravel_pytree(params)
    targets = jax.vmap(lambda x: _output(params, x))(inputs)

    def loss(theta):
        return jnp.mean((jax.vmap(lambda x: _output(back(theta), x))(inputs) - targets) ** 2) / 2

    np.testing.assert_allclose(gradients.T @ gradients / 6, jax.hessian(loss)(flat), atol=1e-9)
    with pytest.raises(ValueError, match=r"must be a scalar: got shape \(3,\)"):
        sgd.output_gradients(lambda params, x: x @ params["first"], params, inputs)


def test_runs_return_below_the_threshold_and_leave_where_even_gradient_descent_does():
    gradients = jnp.asarray(np.random.default_rng(4).standard_normal((8, 3)))
    params = jnp.ones(3)
    found = sgd.thresholds(gradients)
    etas = np.array([0.5 * found.exact, 1.3 * found.sharpness])
    diagram = sgd.stability_diagram(
        lambda w, x: x @ w, params, gradients, etas, (1, 4), key=jax.random.key(0), steps=400, runs=6
    )
    assert diagram.growth.shape == (2, 2, 6)
    assert diagram.escaped[0].tolist() == [0.0, 0.0]
    assert np.all(diagram.growth[0] < 0.1)
    assert diagram.escaped[1, 0] > 0.5  # one sample at a time leaves first
    # On outputs that are linear gradient descent decays or grows at the rate of its largest eigenvalue.
    assert diagram.control.shape == (2, 6)
    assert diagram.control_escaped.tolist() == [0.0, 1.0]
    assert np.all(diagram.control[0] < 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: sgd.thresholds(g, 0), "the batch must be a whole number of at least 1: got 0"),
        (lambda g: sgd.moments(g, 4, replace=False), "at most 3, as many as there are samples: got 4"),
        (
            lambda g: sgd.stability_diagram(lambda w, x: x @ w, g[0], g, [0.0], [1], key=jax.random.key(0)),
            "step sizes must be positive",
        ),
        (
            lambda g: sgd.stability_diagram(lambda w, x: x @ w, g[0], g, [0.1], [1.5], key=jax.random.key(0)),
            "batches whole numbers",
        ),
        (
            lambda g: sgd.stability_diagram(lambda w, x: x @ w, g[0], g, [0.1], [1], key=jax.random.key(0), runs=0),
            "runs must be at least 1",
        ),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((3, 2)))
