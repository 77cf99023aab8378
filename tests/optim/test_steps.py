"""Each step against its formula, written in NumPy, and what only one of them promises."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruneft import optim
from tests.optim.table import D, N, R, curvature, problem

RNG = np.random.default_rng(5)
FACTOR = RNG.standard_normal((D, R)) * [3.0, 0.3]
G = RNG.standard_normal((D, D))
G = (G + G.T) / 2
GRADIENT = 4 * G @ FACTOR


def _updates(transformation, gradient=GRADIENT, factor=FACTOR, **extra):
    gradient, factor = jnp.asarray(gradient), jnp.asarray(factor)
    transformation = optax.with_extra_args_support(transformation)
    return np.asarray(transformation.update(gradient, transformation.init(factor), factor, **extra)[0])


def _damped(damping):
    return GRADIENT @ np.linalg.inv(FACTOR.T @ FACTOR + damping * np.eye(R))


@pytest.mark.parametrize(
    ("transformation", "damping", "extra"),
    [
        (optim.scaled_gd(0.1), 0.0, {}),
        (optim.scaled_gd(0.1, damping=0.7), 0.7, {}),
        (optim.precgd(0.1, scale=2.0), 2 * np.sqrt(0.3), {"value": 0.3}),
        (
            optim.precgd(0.1, by="gradient"),
            np.sqrt(np.sum(GRADIENT * _damped(0.0))),
            {},
        ),
        (optim.noisy_precgd(0.1, start=0.5), 0.5 * np.linalg.norm(FACTOR, 2) ** 2, {}),
    ],
    ids=["plain", "damped", "by the loss", "by the gradient", "decaying"],
)
def test_scaled_steps_are_the_gradient_times_the_inverse_gram_matrix(transformation, damping, extra):
    np.testing.assert_allclose(_updates(transformation, **extra), -0.1 * _damped(damping), rtol=1e-10)


def test_the_damping_of_noisy_precgd_decays_to_its_floor_and_no_further():
    factor = jnp.asarray(FACTOR)
    transformation = optim.scale_by_noisy_precgd(decay=0.1, start=1.0, floor=5e-3)
    state, seen = transformation.init(factor), []
    for _ in range(5):
        seen.append(float(state.damping))
        _, state = transformation.update(jnp.asarray(GRADIENT), state, factor)
    np.testing.assert_allclose(np.array(seen) / seen[0], [1, 0.1, 0.01, 5e-3, 5e-3], rtol=1e-12)


def test_the_tangent_step_moves_the_product_by_the_tangent_projection_of_the_residual():
    step = _updates(optim.scale_by_tangent()) / 4
    left = np.linalg.qr(FACTOR)[0]
    project = left @ left.T
    expected = project @ G + G @ project - project @ G @ project
    np.testing.assert_allclose(FACTOR @ step.T + step @ FACTOR.T, expected, atol=1e-11)


def test_what_the_product_does_is_the_same_for_every_factor_of_it():
    # Another factor U Q T of the same product only with T orthogonal; the tangent step must commute with it.
    turn = np.linalg.qr(RNG.standard_normal((R, R)))[0]
    turned = _updates(optim.scale_by_tangent(), GRADIENT @ turn, FACTOR @ turn)
    np.testing.assert_allclose(turned, _updates(optim.scale_by_tangent()) @ turn, rtol=1e-9, atol=1e-11)


def test_momentum_is_that_of_nesterov_on_preconditioned_gradients():
    rate, momentum = 0.1, 0.6
    transformation = optim.tangent_nesterov(rate, momentum)
    expected = optax.chain(optim.scale_by_tangent(), optax.trace(momentum, nesterov=True), optax.scale(-rate))
    ours, theirs = transformation.init(jnp.asarray(FACTOR)), expected.init(jnp.asarray(FACTOR))
    for scale in (1.0, 0.5, -0.3):
        gradient, factor = jnp.asarray(scale * GRADIENT), jnp.asarray((1 + scale) * FACTOR)
        found, ours = transformation.update(gradient, ours, factor)
        wanted, theirs = expected.update(gradient, theirs, factor)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_step_and_momentum_may_be_functions_of_the_factor_one_number_for_each():
    stack = jnp.stack([jnp.asarray(FACTOR), 2 * jnp.asarray(FACTOR)])
    transformation = optim.tangent_nesterov(lambda leaf: 0.1 / jnp.linalg.norm(leaf, axis=(-2, -1)), 0.5)
    state = transformation.init(stack)
    found, _ = transformation.update(jnp.stack([jnp.asarray(GRADIENT)] * 2), state, stack)
    for index in range(2):
        alone = optim.tangent_nesterov(0.1 / float(jnp.linalg.norm(stack[index])), 0.5)
        np.testing.assert_allclose(found[index], _updates(alone, factor=stack[index]), rtol=1e-12)


def test_the_gauss_newton_step_is_that_of_a_dense_least_squares_solver():
    matrices, y, _, start = problem()
    errors = np.einsum("nij,ij->n", matrices, start @ start.T) - y
    jacobian = 2 * np.einsum("nij,jr->nir", matrices, start).reshape(N, -1)
    dense = np.linalg.lstsq(jacobian, -errors, rcond=1e-10)[0].reshape(D, R)
    gradient = (2 / N) * (jacobian.T @ errors).reshape(D, R)
    bend = jax.jit(lambda u, v: curvature(u, v, jnp.asarray(matrices)))
    step = _updates(optim.gauss_newton_cg(tolerance=1e-9), gradient, start, curvature=bend)
    # The part along rotations of the factor is free: the products' moves are compared.
    np.testing.assert_allclose(start @ step.T + step @ start.T, start @ dense.T + dense @ start.T, atol=1e-7)


def test_gauss_newton_counts_its_products_and_keeps_to_the_limit():
    matrices, y, _, start = problem()
    errors = np.einsum("nij,ij->n", matrices, start @ start.T) - y
    gradient = jnp.asarray(4 / N * np.einsum("n,nij,jr->ir", errors, matrices, start))
    factor, count = jnp.asarray(start), []
    bend = jax.jit(lambda u, v: curvature(u, v, jnp.asarray(matrices)))
    for limit in (60, 2):
        transformation = optim.gauss_newton_cg(tolerance=1e-6, products=limit)
        state = transformation.init(factor)
        for _ in range(2):
            _, state = transformation.update(gradient, state, factor, curvature=bend)
        count.append(int(state.products))
    assert 2 * 3 < count[0] < 2 * 60
    assert count[1] == 2 * 2


def test_columns_that_are_parallel_give_a_finite_step():
    factor = np.repeat(FACTOR[:, :1], 2, axis=1)
    for transformation in (optim.scaled_gd(0.1), optim.tangent_descent(0.1)):
        step = _updates(transformation, 4 * G @ factor, factor)
        assert np.all(np.isfinite(step))
        # Together they do what one column of their joint length does.
        alone = _updates(transformation, 4 * G @ factor[:, :1] * np.sqrt(2), factor[:, :1] * np.sqrt(2))
        np.testing.assert_allclose(factor @ step.T, np.sqrt(2) * factor[:, :1] @ alone.T, rtol=1e-3, atol=1e-6)


BAD = [
    (lambda: optim.scaled_gd(0.1, damping=-1.0), r"damping must be finite and not negative.*: got -1.0"),
    # As a user without type checks calls it.
    (lambda: inspect.unwrap(optim.scale_by_precgd)(by="noise"), "by 'loss' or by 'gradient': got 'noise'"),
    (lambda: _updates(optim.precgd(0.1)), r"value=loss\), one value per matrix"),
    (lambda: optim.noisy_precgd(0.1, decay=1.5), "decays by a factor between 0 and 1: got decay=1.5"),
    (lambda: optim.noisy_precgd(0.1, floor=2.0), "starts above its floor.*floor=2.0"),
    (lambda: optim.tangent_nesterov(0.1, 1.0), r"momentum must lie in \[0, 1\): got 1.0"),
    (lambda: optim.gauss_newton_cg(products=0), "products must be at least 1.*got products=0"),
    (lambda: optim.gauss_newton_cg(tolerance=1.0), "tolerance between 0 and 1.*tolerance=1.0"),
    (lambda: _updates(optim.gauss_newton_cg()), "curvature=function"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_what_makes_no_sense_is_refused_with_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_gauss_newton_takes_one_array_only():
    two = {"first": jnp.asarray(FACTOR), "second": jnp.asarray(FACTOR)}
    transformation = optim.gauss_newton_cg()
    with pytest.raises(ValueError, match="one factor or one stack of them: got 2 arrays"):
        transformation.update(two, transformation.init(two), two, curvature=lambda u, v: v)


def test_every_array_of_a_tree_is_a_factor_of_its_own():
    tree = {"first": jnp.asarray(FACTOR), "second": 2 * jnp.asarray(FACTOR)}
    gradient = {"first": jnp.asarray(GRADIENT), "second": jnp.asarray(GRADIENT)}
    transformation = optim.noisy_precgd(0.1)
    updates, _ = transformation.update(gradient, transformation.init(tree), tree)
    for name, factor in tree.items():
        np.testing.assert_allclose(updates[name], _updates(transformation, factor=factor), rtol=1e-12)
