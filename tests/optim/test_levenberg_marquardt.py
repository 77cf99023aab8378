import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from pruneft.optim import LMConfig, levenberg_marquardt

TIMES = np.linspace(0, 2, 12)
DATA = 2.0 * np.exp(-1.3 * TIMES) + 0.4 + 0.01 * np.cos(9 * TIMES)


def _decay(x):
    return x[0] * jnp.exp(-x[1] * jnp.asarray(TIMES, x.dtype)) + x[2] - jnp.asarray(DATA, x.dtype)


def _solver(residual, **config):
    return jax.jit(lambda x: levenberg_marquardt(residual, jax.jacobian(residual), x, LMConfig(**config)))


SOLVE = _solver(_decay)


def test_agrees_with_scipy_on_a_curve_fit(dtype):
    result = SOLVE(jnp.asarray([1.0, 0.3, 0.0], dtype))

    def residual(x):
        return x[0] * np.exp(-x[1] * TIMES) + x[2] - DATA

    expected = least_squares(residual, [1.0, 0.3, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert {leaf.dtype.name for leaf in (result.x, result.rss, result.trace)} == {dtype}
    np.testing.assert_allclose(result.x, expected.x, rtol={"float32": 2e-3, "float64": 1e-6}[dtype])
    np.testing.assert_allclose(result.rss, 2 * expected.cost, rtol={"float32": 1e-4, "float64": 1e-9}[dtype])
    assert 3 <= int(result.steps) < 40


def test_trace_falls_monotonically_from_the_start_and_is_nan_beyond_the_end():
    start = jnp.asarray([1.0, 0.3, 0.0])
    result = SOLVE(start)
    steps, trace = int(result.steps), np.asarray(result.trace)
    assert trace.shape == (41,)
    np.testing.assert_allclose(trace[0], jnp.sum(_decay(start) ** 2), rtol=1e-12)
    assert np.all(np.diff(trace[: steps + 1]) <= 0)
    assert trace[steps] == result.rss
    assert np.isnan(trace[steps + 1 :]).all()


def _linear(seed=0, zero=None):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((9, 4))
    if zero is not None:
        matrix[:, zero] = 0
    return matrix, generator.standard_normal(9)


def _linear_solver(matrix, data, **config):
    matrix, data = jnp.asarray(matrix), jnp.asarray(data)
    return jax.jit(lambda x: levenberg_marquardt(lambda x: matrix @ x - data, lambda x: matrix, x, LMConfig(**config)))


def test_agrees_with_lstsq_on_a_linear_problem():
    matrix, data = _linear()
    result = _linear_solver(matrix, data)(jnp.zeros(4))
    expected, rss, *_ = np.linalg.lstsq(matrix, data, rcond=None)
    np.testing.assert_allclose(result.x, expected, atol=1e-6)
    np.testing.assert_allclose(result.rss, rss[0], rtol=1e-9)


def test_first_step_is_the_damped_normal_equation():
    matrix, data = _linear()
    result = _linear_solver(matrix, data, max_steps=1, damping=0.7)(jnp.ones(4))
    residual = matrix @ np.ones(4) - data
    expected = np.ones(4) - np.linalg.solve(matrix.T @ matrix + 0.7 * np.eye(4), matrix.T @ residual)
    np.testing.assert_allclose(result.x, expected, rtol=1e-12)
    assert int(result.steps) == 1


def test_a_coordinate_that_the_residual_does_not_see_stays_exactly_where_it_is():
    matrix, data = _linear(zero=2)
    start = jnp.asarray([0.0, 0.0, 5.5, 0.0])
    result = _linear_solver(matrix, data)(start)
    assert float(result.x[2]) == 5.5
    expected = np.linalg.lstsq(np.delete(matrix, 2, 1), data, rcond=None)[0]
    np.testing.assert_allclose(np.delete(result.x, 2), expected, atol=1e-6)


def test_rotations_of_a_matrix_factor_do_no_harm():
    # U Uᵀ does not change under rotations of U: J has an exact null direction everywhere.
    target = np.random.default_rng(3).standard_normal((4, 2))

    def residual(x):
        u = x.reshape(4, 2)
        return (u @ u.T - jnp.asarray(target @ target.T)).ravel()

    start = target + 0.3 * np.random.default_rng(4).standard_normal((4, 2))
    result = _solver(residual)(jnp.asarray(start.ravel()))
    u = np.asarray(result.x).reshape(4, 2)
    np.testing.assert_allclose(u @ u.T, target @ target.T, atol=1e-9)
    # Steps have no part along the null direction U S, so the factor keeps close to where it started.
    assert np.linalg.norm(u - start) < 1.5


@pytest.mark.parametrize("start", [[np.nan, 0.3, 0.0], [1.0, -1e4, 0.0], [np.inf, 0.0, 0.0]])
def test_a_start_that_is_not_finite_ends_at_once_and_says_so(start):
    result = SOLVE(jnp.asarray(start))
    assert int(result.steps) == 0
    assert not np.isfinite(result.rss)


def test_a_start_at_the_solution_stops_after_a_few_refusals():
    exact = SOLVE(SOLVE(jnp.asarray([1.0, 0.3, 0.0])).x)
    assert int(exact.steps) <= 6


def test_an_exact_fit_and_a_reached_target_end_the_run():
    matrix, _ = _linear()
    result = _linear_solver(matrix, np.zeros(9))(jnp.zeros(4))
    assert (int(result.steps), float(result.rss)) == (0, 0.0)
    early = _linear_solver(*_linear(), target=1e6)(jnp.ones(4))
    assert int(early.steps) == 0


def test_a_step_that_does_not_help_is_refused_and_damped_more():
    # Far from the solution of atan the undamped step overshoots and raises the residual.
    def residual(x):
        return jnp.arctan(x)

    result = _solver(residual, damping=1e-10, max_steps=40)(jnp.asarray([3.0]))
    trace = np.asarray(result.trace)
    assert trace[1] == trace[0]  # refused
    assert abs(float(result.x[0])) < 1e-6


def test_vmap_gives_every_lane_what_it_gets_alone():
    starts = jnp.asarray([[1.0, 0.3, 0.0], [3.0, 2.0, 1.0], [np.nan, 0.0, 0.0], [0.1, 0.1, 0.1]])
    together = jax.jit(jax.vmap(SOLVE))(starts)
    for lane, start in enumerate(starts):
        alone = SOLVE(start)
        assert int(together.steps[lane]) == int(alone.steps)
        chex.assert_trees_all_close(jax.tree.map(operator.itemgetter(lane), together), alone, rtol=1e-6, atol=1e-12)
