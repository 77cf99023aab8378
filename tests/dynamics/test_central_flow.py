"""The complementarity problem against its conditions, and the central flow on losses whose flow is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.dynamics.central_flow import RMSProp, central_flow
from pruneft.dynamics.complementarity import complementarity
from pruneft.status import Status

solve = jax.jit(complementarity)


def instance(k, rng):
    """Random A, and B of gradients that are generic, as of a network."""
    A = rng.normal(size=(k, k))
    G = rng.normal(size=(k, k, 3 * k * k))
    G = G + np.swapaxes(G, 0, 1)
    return jnp.asarray(A + A.T), jnp.asarray(np.einsum("abn,cdn->abcd", G, G))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_complementarity_holds_to_1e_9(k):
    rng = np.random.default_rng(k)
    batch = [instance(k, rng) for _ in range(10)]
    A, B = (jnp.stack(part) for part in zip(*batch))
    found = jax.jit(jax.vmap(complementarity))(A, B)
    slack = A + jnp.einsum("zabcd,zcd->zab", B, found.X)
    scale = np.linalg.norm(A, axis=(1, 2))
    assert np.min(np.linalg.eigvalsh(found.X)) > -1e-14
    assert np.all(np.linalg.eigvalsh(slack)[:, 0] > -1e-9 * scale)
    assert np.max(np.abs(np.sum(found.X * slack, axis=(1, 2)))) < 1e-9
    assert np.all(np.asarray(found.infeasible) < 1e-9)
    assert np.all(np.asarray(found.gap) < 1e-9)


def test_directions_that_are_not_live_take_no_part():
    A, B = instance(3, np.random.default_rng(0))
    live = jnp.array([True, True, False])
    found = jax.jit(lambda: complementarity(A, B, live=live))()
    small = complementarity(A[:2, :2], B[:2, :2, :2, :2])
    np.testing.assert_allclose(found.X[:2, :2], small.X, atol=1e-9)
    np.testing.assert_array_equal(found.X[2], 0)


def test_a_problem_without_an_answer_says_so():
    # No X lowers what A asks for: B is zero.
    found = solve(-jnp.eye(2), jnp.zeros((2, 2, 2, 2)))
    assert float(found.infeasible) > 0.1
    alone = complementarity(-jnp.eye(1), jnp.zeros((1, 1, 1, 1)))
    assert float(alone.infeasible) == 1


def test_where_nothing_has_to_be_held_the_answer_is_zero():
    A, B = instance(2, np.random.default_rng(3))
    np.testing.assert_allclose(solve(A @ A + jnp.eye(2), B).X, 0, atol=1e-12)


ETA = 0.1


def valleys(theta):
    """Two sharp directions a with curvature 20 + c b, sharpened by the slopes of b; the second meets its edge later."""
    a, b = theta[:2], theta[2:]
    return jnp.sum((20 + 2 * b) * a**2) / 2 - 0.05 * b[0] - 0.03 * b[1]


@pytest.fixture(scope="module")
def flowing():
    run = jax.jit(lambda start, k: central_flow(valleys, start, ETA, steps=160, k=k, keep=True), static_argnums=1)
    start = jnp.array([0.0, 0.0, -0.05, -0.4])
    return {k: run(start, k) for k in (0, 2, 3)}


def test_the_flow_stops_at_the_edge_where_gradient_flow_goes_on(flowing):
    free = flowing[0]
    np.testing.assert_allclose(free.theta[2:], [-0.05 + 160 * ETA * 0.05, -0.4 + 160 * ETA * 0.03], rtol=1e-9)
    seen = flowing[3]
    assert int(seen.status) == Status.CONVERGED
    assert np.max(np.asarray(seen.eigenvalues)) <= 20 * (1 + 1e-6)
    np.testing.assert_allclose(seen.theta[2:], [0, 0], atol=1e-6)
    held = np.asarray(seen.held)
    assert held[0] == 0
    assert held[-1] == 2
    assert np.all(np.diff(held) >= 0)
    assert np.max(np.asarray(seen.residual)) < 1e-9


def test_the_predicted_loss_adds_the_variance_that_holds_it(flowing):
    # At rest (eta / 2) X 2 = eta g in each direction, so X = g and the excess is the sum of the slopes over eta.
    seen = flowing[3]
    assert float(seen.loss_predicted[-1] - seen.loss[-1]) == pytest.approx(0.08 / ETA, rel=1e-3)
    assert float(seen.loss_predicted[0]) == float(seen.loss[0])


def test_too_few_eigenpairs_are_a_status(flowing):
    assert int(flowing[2].statuses[0]) == Status.CONVERGED
    assert int(flowing[2].status) == Status.OUT_OF_DOMAIN


def test_with_moments_that_stand_still_rmsprop_is_gradient_descent(flowing):
    still = RMSProp(beta2=1 - 1e-13, eps=0.0, moments=jnp.ones(4))
    run = jax.jit(lambda start: central_flow(valleys, start, ETA, steps=160, k=3, keep=True, rmsprop=still))
    found, plain = run(jnp.array([0.0, 0.0, -0.05, -0.4])), flowing[3]
    np.testing.assert_allclose(found.thetas, plain.thetas, atol=1e-8)
    np.testing.assert_allclose(ETA * plain.eigenvalues, found.eigenvalues, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.loss_predicted, plain.loss_predicted, rtol=1e-6)
    np.testing.assert_allclose(found.moments, 1, rtol=1e-8)
    assert plain.moments.shape == (0,)


def test_at_rest_rmsprop_holds_a_direction_by_the_square_of_half_a_step():
    """Where nu of the held direction rests, ``nu = 4 P^2 Sigma = 4 nu Sigma / eta^2``: its variance is ``eta^2 / 4`` whatever the loss."""
    eta, curve, slope = 0.3, 0.1, 0.05

    def valley(theta):
        return (20 + 2 * theta[1]) * theta[0] ** 2 / 2 + curve * theta[1] ** 2 / 2 - slope * theta[1]

    rule = RMSProp(0.9, 0.0, jnp.array([(10 * eta) ** 2, 1e-3]))
    found = jax.jit(lambda start: central_flow(valley, start, eta, steps=400, k=2, rmsprop=rule))(jnp.zeros(2))
    assert int(found.status) == Status.CONVERGED
    variance = eta**2 / 4
    rest = (slope - variance) / curve  # where the mean pull of the oscillation along the valley meets the slope
    np.testing.assert_allclose(found.theta, [0, rest], atol=1e-6)
    np.testing.assert_allclose(found.moments, [(eta * (10 + rest)) ** 2, variance**2], rtol=1e-4)
    assert float(found.eigenvalues[-1, 0]) == pytest.approx(2, abs=1e-6)
    assert float(found.loss_predicted[-1] - found.loss[-1]) == pytest.approx((10 + rest) * variance, rel=1e-4)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_parameter_without_a_gradient_changes_nothing_for_rmsprop(kind):
    """As the weights of a pixel that is always blank: its nu is zero."""
    start = jnp.array([0.01, 0.01, -0.05, -0.4], kind)

    def run(begin):
        return central_flow(
            lambda v: valleys(v[:4]), begin, ETA, steps=40, k=3, rmsprop=RMSProp(0.99, moments=nu(begin))
        )

    def nu(begin):
        return jnp.where(jnp.arange(begin.size) < 4, 1, 0).astype(kind)

    alone, beside = (jax.jit(run)(begin) for begin in (start, jnp.append(start, jnp.ones(1, kind))))
    # Rounding of float32 is above what the complementarity asks for, with that parameter and without.
    assert int(beside.status) == int(alone.status) == (Status.CONVERGED if kind == "float64" else Status.BUDGET_SPENT)
    assert int(jnp.max(alone.held)) > 0
    np.testing.assert_allclose(beside.theta[:4], alone.theta, atol=1e-4 if kind == "float32" else 1e-8)
    assert float(beside.theta[4]) == 1
    assert 0 <= float(beside.moments[4]) < 1e-12  # rounding of the eigenvectors


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (RMSProp(1.0), r"beta2 .decay of the mean square. must lie in \(0, 1\): got 1.0"),
        (RMSProp(0.9, -1.0), "eps must not be negative: got -1.0"),
        (RMSProp(0.9, moments=jnp.ones(3)), r"moments must be like the parameters: expected shapes \(4,\), got \(3,\)"),
    ],
)
def test_rmsprop_that_makes_no_sense_is_an_error(rule, message):
    with pytest.raises(ValueError, match=message):
        central_flow(valleys, jnp.zeros(4), ETA, steps=1, rmsprop=rule)


def test_bad_input_is_a_clear_error():
    with pytest.raises(ValueError, match=r"k .eigenpairs. must be from 0 to the number of parameters, 4: got 5"):
        central_flow(valleys, jnp.zeros(4), ETA, steps=1, k=5)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1: got 0"):
        central_flow(valleys, jnp.zeros(4), ETA, steps=0)
